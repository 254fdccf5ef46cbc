package discovery_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/platform/api/bubbletest"
	"github.com/roadbed/roadbed/platform/api/porttest"
	"github.com/roadbed/roadbed/platform/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a registry on a port of its own, which can be stopped and started again.
type server struct {
	t    *testing.T
	addr string
	stop func()
	reg  *registry.Registry
	deny func(*http.Request) bool
}

func newServer(t *testing.T) *server {
	s := &server{t: t, addr: porttest.Hold(t)}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *server) start() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.reg = registry.New(registry.Config{Location: roadbed.Location{Region: "local"}})
	face := s.reg.Handler()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.deny != nil && s.deny(r) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		face.ServeHTTP(w, r)
	})}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.reg.Run(ctx); err != nil {
			s.t.Errorf("Run: %v", err)
		}
	})
	wg.Go(func() { srv.Serve(l) }) //nolint:errcheck // it always ends with ErrServerClosed
	s.stop = sync.OnceFunc(func() { cancel(); srv.Close(); wg.Wait() })
}

func (s *server) url() string { return "http://" + s.addr }

// run starts c and stops it when the test ends, or when the returned function is called.
func run(t *testing.T, c *discovery.Client) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func newClient(t *testing.T, urls ...string) *discovery.Client {
	t.Helper()
	return discovery.New(discovery.Config{Registry: urls, Location: roadbed.Location{Region: "local", Zone: "zone-a"}})
}

func instance(app string, n int) roadbed.Instance {
	return roadbed.Instance{
		ID: fmt.Sprintf("%s-v000-%d", app, n), App: app, Group: app + "-v000", Host: "127.0.0.1", Port: 9000 + n,
		Status: roadbed.Up, Location: roadbed.Location{Region: "local", Zone: "zone-b"}, Metadata: map[string]string{"criticality": "BULK"},
	}
}

// expect waits until the client knows exactly these ids of app.
func expect(t *testing.T, c *discovery.Client, app string, want ...string) {
	t.Helper()
	lists := make(chan []string, 64)
	stop := c.Watch(app, func(is []roadbed.Instance) {
		var ids []string
		for _, i := range is {
			ids = append(ids, i.ID+" "+string(i.Status))
		}
		select {
		case lists <- ids:
		default:
		}
	})
	defer stop()
	var got []string
	timeout := time.After(time.Minute)
	for {
		select {
		case got = <-lists:
			if slices.Equal(got, want) {
				return
			}
		case <-timeout:
			t.Fatalf("instances of %q: got %q, want %q", app, got, want)
		}
	}
}

func TestRegistrationReachesOthersWithAllItsFields(t *testing.T) {
	s := newServer(t)
	a, b := newClient(t, s.url()), newClient(t, s.url())
	run(t, a)
	run(t, b)
	want := instance("catalog", 1)
	reg := a.Register(want)
	expect(t, b, "catalog", "catalog-v000-1 UP")
	got := b.Instances("CATALOG")[0]
	if got.Since.IsZero() {
		t.Error("an UP instance: got a zero Since, want the time it came UP")
	}
	want.VIP, want.Since = "catalog", got.Since
	want.Metadata = map[string]string{"criticality": "BULK", "zone": "zone-b", "region": "local"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("instance as another sees it:\n got %+v\nwant %+v", got, want)
	}
	if apps := b.Apps(); !slices.Equal(apps, []string{"catalog"}) {
		t.Errorf("Apps: got %q, want [catalog]", apps)
	}
	for _, st := range []roadbed.Status{roadbed.OutOfService, roadbed.Up, roadbed.Down} {
		reg.SetStatus(st)
		expect(t, b, "catalog", "catalog-v000-1 "+string(st))
	}
	if err := reg.Cancel(context.Background()); err != nil {
		t.Fatal(err)
	}
	expect(t, b, "catalog")
}

func TestChangeReachesWatchInLessThan100ms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quiet := slog.New(slog.DiscardHandler)
		reg := registry.New(registry.Config{Location: roadbed.Location{Region: "local"}, Log: quiet})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := reg.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		defer func() { cancel(); wg.Wait() }()
		client := func() *discovery.Client {
			c := discovery.New(discovery.Config{Registry: []string{"http://registry:8761"}, HTTP: &http.Client{Transport: bubbletest.Transport{Handler: reg.Handler()}}, Log: quiet})
			wg.Go(func() {
				if err := c.Run(ctx); err != nil {
					t.Errorf("Run: %v", err)
				}
			})
			return c
		}
		own := client().Register(instance("api", 1))
		seen := make(chan roadbed.Status, 100)
		var last roadbed.Status
		stop := client().Watch("api", func(is []roadbed.Instance) {
			if len(is) > 0 && is[0].Status != last { // the same list may come twice
				last = is[0].Status
				seen <- last
			}
		})
		defer stop()
		if got := <-seen; got != roadbed.Up {
			t.Fatalf("at first: got %s, want UP", got)
		}
		for n := range 20 {
			time.Sleep(time.Duration(n) * 37 * time.Millisecond) // at any moment of what is done now and then
			st := []roadbed.Status{roadbed.Down, roadbed.Up}[n%2]
			start := time.Now()
			own.SetStatus(st)
			if got := <-seen; got != st {
				t.Fatalf("change %d: got %s, want %s", n, got, st)
			}
			if took := time.Since(start); took >= 100*time.Millisecond {
				t.Errorf("change %d took %v from SetStatus to the call of another client, want < 100 ms", n, took)
			}
		}
	})
}

func TestOverrideWinsUntilClearedAndRemoveTakesOut(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s.url())
	run(t, c)
	ctx := context.Background()
	i := instance("api", 1)
	reg := c.Register(i)
	expect(t, c, "api", "api-v000-1 UP")
	if err := c.SetOverride(ctx, "api", i.ID, roadbed.OutOfService); err != nil {
		t.Fatal(err)
	}
	expect(t, c, "api", "api-v000-1 OUT_OF_SERVICE")
	reg.SetStatus(roadbed.Starting) // what is not fit for traffic says so, override or not
	expect(t, c, "api", "api-v000-1 STARTING")
	reg.SetStatus(roadbed.Up)
	expect(t, c, "api", "api-v000-1 OUT_OF_SERVICE")
	if err := c.ClearOverride(ctx, "api", i.ID); err != nil {
		t.Fatal(err)
	}
	expect(t, c, "api", "api-v000-1 UP")
	for range 2 { // removing what is not there is no error
		if err := c.Remove(ctx, "api", "nobody"); err != nil {
			t.Errorf("Remove of an unknown instance: %v", err)
		}
	}
	if err := c.SetOverride(ctx, "api", "nobody", roadbed.Down); err == nil || !strings.Contains(err.Error(), "does not know it") {
		t.Errorf("override of an unknown instance: got error %v, want one that says the registry does not know it", err)
	}
	if err := reg.Cancel(ctx); err != nil {
		t.Fatal(err)
	}
	expect(t, c, "api")
}

func TestRestartedRegistryNeverEmptiesAClient(t *testing.T) {
	s := newServer(t)
	a, watcher := newClient(t, s.url()), newClient(t, s.url())
	stopA := run(t, a)
	run(t, watcher)
	open, err := net.Listen("tcp", "127.0.0.1:0") // or the registry would see that it is dead
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	first := instance("api", 1)
	first.Port = open.Addr().(*net.TCPAddr).Port
	a.Register(first)
	b := newClient(t, s.url())
	stopB := run(t, b)
	b.Register(instance("api", 2))
	expect(t, watcher, "api", "api-v000-1 UP", "api-v000-2 UP")

	var least atomic.Int64
	least.Store(99)
	stop := watcher.Watch("api", func(is []roadbed.Instance) { least.Store(min(least.Load(), int64(len(is)))) })
	defer stop()
	stopA() // its instance will not come back
	s.stop()
	s.start()
	b.Register(instance("new", 1))
	expect(t, watcher, "new", "new-v000-1 UP") // so it follows the new registry
	expect(t, watcher, "api", "api-v000-1 UP", "api-v000-2 UP")
	if got := least.Load(); got != 2 {
		t.Errorf("a watcher across a restart: got a list of %d instances at some time, want never less than 2", got)
	}
	fresh := newClient(t, s.url())
	run(t, fresh)
	expect(t, fresh, "api", "api-v000-2 UP") // b registered again by itself
	stopB()                                  // or it would do so once more when it is removed
	if err := fresh.Remove(context.Background(), "api", "api-v000-2"); err != nil {
		t.Fatal(err)
	}
	expect(t, watcher, "api", "api-v000-1 UP") // an explicit removal counts while warming too
}

func TestLastListSurvivesOnDisk(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	cached := func() *discovery.Client {
		return discovery.New(discovery.Config{Registry: []string{s.url()}, Cache: dir})
	}
	c := cached()
	stop := run(t, c)
	c.Register(instance("api", 1))
	expect(t, c, "api", "api-v000-1 UP")
	want := c.Instances("api")
	stop()
	s.stop()

	c = cached() // neither running nor with a registry
	if got := c.Instances("api"); len(got) != 1 || got[0].Addr() != want[0].Addr() || !got[0].Since.Equal(want[0].Since) {
		t.Errorf("from the cache: got %+v, want %+v", got, want)
	}
	called := 0
	c.Watch("api", func(is []roadbed.Instance) { called += len(is) })()
	if called != 1 {
		t.Errorf("Watch before Run: got %d instances at once, want 1", called)
	}

	path := filepath.Join(dir, "registry.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, len(raw) / 2, len(raw) - 1} {
		bad := slices.Clone(raw)
		bad[at] ^= 1
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := cached().Instances("api"); len(got) != 0 {
			t.Errorf("cache with byte %d damaged: got %d instances, want none", at, len(got))
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 {
		t.Errorf("cache directory: got %d files, want only registry.json", len(left))
	}
}

func TestNextRegistryIsUsedWhenOneIsAway(t *testing.T) {
	one, two := newServer(t), newServer(t)
	c := newClient(t, one.url(), two.url())
	run(t, c)
	c.Register(instance("api", 1))
	expect(t, c, "api", "api-v000-1 UP")
	first, second := one, two
	if len(two.reg.Instances("api")) == 1 {
		first, second = two, one
	}
	first.stop()
	w := newClient(t, second.url())
	run(t, w)
	expect(t, w, "api", "api-v000-1 UP")
}

func TestCallsOfOneWatchAreInOrderAndNeverOverlap(t *testing.T) {
	s := newServer(t)
	a, b := newClient(t, s.url()), newClient(t, s.url())
	run(t, a)
	run(t, b)
	reg := a.Register(instance("api", 1))
	var inside atomic.Int32
	var last atomic.Int64
	var once sync.Once
	done := make(chan struct{})
	stop := b.Watch("api", func(is []roadbed.Instance) {
		if inside.Add(1) != 1 {
			t.Error("two calls of one Watch at a time")
		}
		time.Sleep(time.Millisecond) // so that the next change arrives meanwhile
		for _, i := range is {
			if i.Status == roadbed.Down {
				once.Do(func() { close(done) }) // the same list may come twice
			}
		}
		last.Add(1)
		inside.Add(-1)
	})
	defer stop()
	for n := range 50 {
		reg.SetStatus([]roadbed.Status{roadbed.OutOfService, roadbed.Up}[n%2])
	}
	reg.SetStatus(roadbed.Down)
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("the newest status never arrived at a slow Watch")
	}
}

func TestNoCallBeginsAfterStop(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s.url())
	run(t, c)
	var calls atomic.Int32
	stop := c.Watch("", func([]roadbed.Instance) { calls.Add(1) })
	stop()
	c.Register(instance("api", 1))
	expect(t, c, "api", "api-v000-1 UP")
	if got := calls.Load(); got != 1 {
		t.Errorf("calls of a Watch stopped at once: got %d, want 1", got)
	}
}

func TestEurekaServerWithoutStreamIsPolled(t *testing.T) {
	s := newServer(t)
	s.deny = func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/registry/") }
	a := newClient(t, s.url())
	run(t, a)
	a.Register(instance("api", 1))
	deadline := time.Now().Add(time.Minute)
	for len(s.reg.Instances("api")) == 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	b := newClient(t, s.url()+"/eureka/v2/")
	run(t, b)
	expect(t, b, "api", "api-v000-1 UP") // by the first full fetch
	got := b.Instances("api")[0]
	if got.Location != (roadbed.Location{Region: "local", Zone: "zone-b"}) || got.Group != "api-v000" || got.Since.IsZero() {
		t.Errorf("polled instance: got %+v, want region local, zone zone-b, group api-v000 and a Since", got)
	}
}
