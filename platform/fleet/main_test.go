package fleet

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/engine/enginetest"
	"github.com/roadbed/roadbed/platform/ledger"
	"github.com/roadbed/roadbed/platform/registry"
)

// TestMain is also every program that the tests start: the guard, a small service, and a platform to be killed.
func TestMain(m *testing.M) {
	// With -race this binary waits a second before it exits, unless told not to; the services of the tests are it.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case GuardVerb:
			exitWith(Guard(os.Stdin))
		case "service":
			exitWith(testService(os.Args[2:]))
		case "owner":
			exitWith(testOwner(os.Args[2]))
		}
	}
	// Each check of the state machine starts real processes; -rapid.checks still decides when given.
	if err := flag.Set("rapid.checks", "40"); err != nil {
		exitWith(err)
	}
	goleak.VerifyTestMain(m, enginetest.Forgotten)
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// testService answers on $PORT until SIGTERM. Its health is good unless the file named by $SICK exists. The argument
// "plain" leaves /healthcheck away, "elsewhere" listens on another port, "deaf" ignores SIGTERM.
func testService(args []string) error {
	has := func(s string) bool { return strings.Contains(strings.Join(args, " "), s) }
	port := os.Getenv("PORT")
	if has("elsewhere") {
		port = "0"
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Addr())
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	if has("deaf") {
		signal.Ignore(syscall.SIGTERM)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, os.Getenv("ROADBED_INSTANCE")) })
	if !has("plain") {
		mux.HandleFunc("/healthcheck", func(w http.ResponseWriter, r *http.Request) {
			if _, err := os.Stat(os.Getenv("SICK")); err == nil {
				http.Error(w, "sick", http.StatusServiceUnavailable)
			}
		})
	}
	go http.Serve(l, mux)
	<-term
	fmt.Println("bye")
	return nil
}

// quick is the usual pace, a good deal faster, but for how long it waits for others: the machine may be busy.
func quick() pace {
	p := usualPace()
	p.probeFirst, p.probeEarly, p.probeLate = 10*time.Millisecond, 50*time.Millisecond, 100*time.Millisecond
	p.probeTimeout, p.drain, p.killWait, p.registryWait = 10*time.Second, 20*time.Millisecond, time.Minute, 10*time.Second
	return p
}

type lab struct {
	t      testing.TB
	dir    string
	f      *Fleet
	ledger *ledger.Ledger
	engine *engine.Engine
	disc   *discovery.Client
	log    *safeBuffer
	stop   func() // stops the fleet and waits
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *safeBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

// ports gives a test a hundred ports of its own, also when other processes run these tests: whoever listens on the
// last one has them all.
func ports() (r Range, release func(), err error) {
	const first, pieces = 21000, 110 // below where the kernel takes ports for outgoing connections
	start := rand.IntN(pieces)
	for i := range pieces {
		from := first + 100*((start+i)%pieces)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", from+99))
		if err != nil {
			continue
		}
		free := true
		for p := from; p < from+99 && free; p++ { // other tests know nothing of this agreement
			free = portFree(p) == nil
		}
		if free {
			return Range{from, from + 98}, func() { l.Close() }, nil
		}
		l.Close()
	}
	return Range{}, nil, errors.New("no piece of the port space is free")
}

type labOptions struct {
	dir      string
	registry bool
	pace     pace
	mutate   func(*Config)
	maxLog   int64
}

func self(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// newLab runs a fleet on a real engine and ledger, and a real registry if asked for.
func newLab(t testing.TB, o labOptions) *lab {
	t.Helper()
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	ctx := context.Background()
	l := &lab{t: t, dir: o.dir, log: &safeBuffer{}}
	log := slog.New(slog.NewTextHandler(l.log, nil))
	var err error
	if l.engine, err = engine.Open(ctx, engine.Config{Dir: filepath.Join(o.dir, "engine"), Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.engine.Close() })
	if l.ledger, err = ledger.Open(ctx, l.engine); err != nil {
		t.Fatal(err)
	}
	mine, release, err := ports()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	c := Config{Engine: l.engine, Ledger: l.ledger, Dir: filepath.Join(o.dir, "fleet"), Ports: mine, Log: log}
	if o.registry {
		reg := registry.New(registry.Config{Ledger: l.ledger, Location: roadbed.Location{Region: "local", Zone: "zone-a"}, Self: "test", Log: slog.New(slog.DiscardHandler)})
		srv := httptest.NewServer(reg.Handler())
		l.disc = discovery.New(discovery.Config{Registry: []string{srv.URL}, Log: slog.New(slog.DiscardHandler)})
		c.Discovery = l.disc
		rctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { reg.Run(rctx) })
		wg.Go(func() { l.disc.Run(rctx) })
		t.Cleanup(func() { cancel(); wg.Wait(); srv.CloseClientConnections(); srv.Close() })
	}
	if o.mutate != nil {
		o.mutate(&c)
	}
	if l.f, err = New(ctx, c); err != nil {
		t.Fatal(err)
	}
	l.f.pace = o.pace
	if o.pace == (pace{}) {
		l.f.pace = quick()
	}
	if o.maxLog > 0 {
		l.f.maxLog = o.maxLog
	}
	rctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- l.f.Run(rctx) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
	t.Cleanup(func() {
		l.stop()
		if t.Failed() {
			t.Logf("fleet's log:\n%s", l.log)
		}
	})
	l.until("the fleet runs", func() bool { return l.f.running })
	return l
}

// until waits for ok, called with the fleet's lock held.
func (l *lab) until(what string, ok func() bool) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond) // for what is not announced: files, processes
	defer poll.Stop()
	for {
		short, c := context.WithTimeout(ctx, 20*time.Millisecond)
		done := l.f.await(short, ok)
		c()
		if done {
			return
		}
		if ctx.Err() != nil {
			l.t.Fatalf("waited a minute for: %s\ninstances: %+v", what, l.f.Instances(""))
		}
	}
}

func (l *lab) create(s Spec) GroupView {
	l.t.Helper()
	g, err := l.f.Create(api.As(context.Background(), "ana", "test"), s)
	if err != nil {
		l.t.Fatalf("create %s: %v", s.Name, err)
	}
	return g
}

// service is a spec of the small service.
func (l *lab) service(name string, n int, args ...string) Spec {
	return Spec{Name: name, Command: append([]string{self(l.t), "service"}, args...), Instances: n}
}

// settled waits until n instances of a group are in the state, and returns them.
func (l *lab) settled(group string, n int, state State) []InstanceView {
	l.t.Helper()
	l.until(fmt.Sprintf("%d instances of %s in %s", n, group, state), func() bool {
		g := l.f.groups[group]
		if g == nil {
			return n == 0
		}
		if len(g.slots) != n {
			return false
		}
		for _, s := range g.slots {
			if s.view.State != state || s.stopping {
				return false
			}
		}
		return true
	})
	return l.f.Instances(group)
}

func (l *lab) changes(action string) []roadbed.Change {
	l.t.Helper()
	cs, err := l.ledger.List(context.Background(), ledger.Query{Limit: 100, Action: action})
	if err != nil {
		l.t.Fatal(err)
	}
	return cs
}

// alive reports whether pid runs and is no zombie.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// eventually polls what no event announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited a minute for: %s", what)
}

// family is a command whose leader has a child in its group and one that left group and session.
var family = []string{"sh", "-c", "sleep 1000 & setsid sleep 1000 & exec sleep 1000"}

// testOwner is a platform to be killed: it runs what the table in dir asks for, "app" with two instances of family if
// that is nothing, and says when all run. With "guarded" in its arguments it has a guard.
func testOwner(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	e, err := engine.Open(ctx, engine.Config{Dir: filepath.Join(dir, "engine"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer e.Close()
	l, err := ledger.Open(ctx, e)
	if err != nil {
		return err
	}
	mine, release, err := ports()
	if err != nil {
		return err
	}
	defer release()
	c := Config{Engine: e, Ledger: l, Dir: filepath.Join(dir, "fleet"), Ports: mine}
	if len(os.Args) > 3 && os.Args[3] == "guarded" {
		c.Self = os.Args[0]
	}
	f, err := New(ctx, c)
	if err != nil {
		return err
	}
	f.pace = quick()
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	f.await(ctx, func() bool { return f.running })
	if len(f.Groups()) == 0 {
		if _, err := f.Create(ctx, Spec{Name: "app", Command: family, Instances: 2}); err != nil {
			return err
		}
	}
	f.await(ctx, func() bool {
		g := f.groups["app-v000"]
		return g != nil && len(g.slots) == 2 && g.slots[0].proc != nil && g.slots[1].proc != nil
	})
	fmt.Println("ready")
	return <-ended
}
