package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/registry"
)

// server is a real registry on a port of its own, which can be restarted.
type server struct {
	t        *testing.T
	addr     string
	settings registry.Settings
	token    string // that everybody must bring, if it is not empty
	reg      *registry.Registry
	stop     func()
}

func newServer(t *testing.T) *server { return newNode(t, "127.0.0.1:0", "", registry.Settings{}) }

// newGuarded starts a registry that answers only those who bring a token.
func newGuarded(t *testing.T, token string) *server {
	return newNode(t, "127.0.0.1:0", token, registry.Settings{})
}

// newNode starts a registry at an address.
func newNode(t *testing.T, addr, token string, settings registry.Settings) *server {
	s := &server{t: t, addr: addr, token: token, settings: settings}
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
	s.addr = l.Addr().String()
	s.reg = registry.New(registry.Config{
		Location: roadbed.Location{Region: "local"}, Settings: s.settings, Log: slog.New(slog.NewTextHandler(s.t.Output(), nil)),
	})
	entry := api.Door{Token: s.token, Local: s.token != ""}
	srv := &http.Server{Handler: entry.Authenticate(s.reg.Handler())}
	l = s.reg.Front(srv, l, entry.Admits)
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

// base is that of Eureka's API, as Spring's clients spell it.
func (s *server) base() string {
	if s.token != "" {
		return baseAt("ana:" + s.token + "@" + s.addr)
	}
	return baseAt(s.addr)
}

func (s *server) port() string { return s.addr[strings.LastIndex(s.addr, ":")+1:] }

// need ends the test unless a command is installed.
func need(t *testing.T, command, install string) {
	t.Helper()
	if _, err := exec.LookPath(command); err != nil {
		t.Fatalf("%s is missing; run ./interop/install.sh, or: %s", command, install)
	}
}

// puppet is a client in another language that takes orders line by line and answers the same way.
type puppet struct {
	t      *testing.T
	in     io.Writer
	says   chan saying
	stderr *bytes.Buffer
	ended  chan struct{} // closed when it has ended
	err    error         // why; read after ended
}

type saying struct {
	What   string
	Detail []string
}

func start(t *testing.T, name string, args ...string) *puppet {
	t.Helper()
	cmd := exec.Command(name, args...)
	p := &puppet{t: t, says: make(chan saying, 1000), stderr: &bytes.Buffer{}, ended: make(chan struct{})}
	cmd.Stderr = p.stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in = in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var s saying
			if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
				s.What = "unreadable: " + lines.Text()
			}
			p.says <- s
		}
		p.err = cmd.Wait()
	}()
	t.Cleanup(func() { cmd.Process.Kill(); <-p.ended }) //nolint:errcheck // it may have ended
	return p
}

// order gives an order and waits until the client says want.
func (p *puppet) order(what, want string) []string {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.in, what); err != nil {
		p.t.Fatalf("order %s: %v\n%s", what, err, p.stderr)
	}
	return p.await(want)
}

func (p *puppet) await(want string) []string {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case s := <-p.says:
			if s.What == want {
				return s.Detail
			}
		case <-p.ended:
			p.t.Fatalf("the client ended before it said %q: %v\n%s", want, p.err, p.stderr)
		case <-timeout:
			p.t.Fatalf("the client did not say %q within %v\n%s", want, patience, p.stderr)
		}
	}
}

func (p *puppet) fetch(order string, want ...string) {
	p.t.Helper()
	if got := p.order(order, "fetched"); !slices.Equal(got, want) {
		p.t.Errorf("%s: the client knows %q, want %q", order, got, want)
	}
}

func TestEurekaJSClientGoesThroughItsFullCycle(t *testing.T) {
	needNPM(t)
	for _, path := range []string{"/eureka/v2/apps/", "/eureka/apps/", "/v2/apps/"} {
		t.Run(strings.Trim(strings.ReplaceAll(path, "/", " "), " "), func(t *testing.T) {
			s := newServer(t)
			js := start(t, "node", "eurekajs.js", s.port(), path, "jq")
			js.order("start", "started")
			known := s.reg.Instances("jq")
			if len(known) != 1 || known[0].Addr() != "127.0.0.1:8080" || known[0].Status != roadbed.Up || known[0].VIP != "jq.test" || known[0].Metadata["user_id"] != "7" {
				t.Fatalf("registered: got %+v, want one UP instance at 127.0.0.1:8080 with VIP jq.test and user_id 7", known)
			}
			js.await("heartbeat")
			js.fetch("full", "JQ/localhost")

			other := start(t, "node", "eurekajs.js", s.port(), path, "other")
			other.order("start", "started")
			js.fetch("fetch", "JQ/localhost", "OTHER/localhost") // by delta
			other.order("stop", "stopped")
			if left := s.reg.Instances("other"); len(left) != 0 {
				t.Errorf("after the other's cancel: got %+v, want none", left)
			}
			js.fetch("fetch", "JQ/localhost") // by delta again

			s.stop()
			s.start() // it has lost its memory
			js.await("registered")
			js.await("heartbeat")
			if back := s.reg.Instances("jq"); len(back) != 1 || back[0].Status != roadbed.Up {
				t.Errorf("after the registry's restart: got %+v, want the instance back and UP", back)
			}
			js.fetch("full", "JQ/localhost")
			js.order("stop", "stopped")
			<-js.ended
			if js.err != nil {
				t.Errorf("the client ended with %v\n%s", js.err, js.stderr)
			}
			if left := s.reg.Instances(""); len(left) != 0 {
				t.Errorf("after cancel: got %+v, want none", left)
			}
		})
	}
}

func TestEurekaJSClientFollowsFiftyInstancesByDelta(t *testing.T) {
	needNPM(t)
	for _, path := range []string{"/eureka/v2/apps/", "/eureka/apps/"} {
		t.Run(strings.Trim(strings.ReplaceAll(path, "/", " "), " "), func(t *testing.T) {
			s, ctx := newServer(t), t.Context()
			js := start(t, "node", "eurekajs.js", s.port(), path, "jq")
			js.order("start", "started")
			js.fetch("full", "JQ/localhost")
			fifty := newChurners(50, 5)
			same := func(what string, each func(c *churner) error) {
				t.Helper()
				for _, c := range fifty {
					if err := each(c); err != nil {
						t.Fatal(err)
					}
				}
				var want []string
				for _, i := range held(t, s.base(), "") {
					want = append(want, strings.Replace(i, "//", "/localhost/", 1)) // it knows itself by its host
				}
				eventually(t, what+": it knows what the registry has", func() []string { return js.order("cache", "cache") }, want...)
			}
			same("50 come", func(c *churner) error { return c.register(ctx, s.base()) })
			same("50 change what they say of themselves", func(c *churner) error {
				c.status = "DOWN"
				return c.register(ctx, s.base())
			})
			same("50 are UP", func(c *churner) error {
				c.status = "UP"
				return c.register(ctx, s.base())
			})
			same("50 are taken out of service", func(c *churner) error {
				return send(ctx, http.MethodPut, c.path(s.base())+"/status?value=OUT_OF_SERVICE", "", http.StatusOK)
			})
			same("50 leave", func(c *churner) error { return send(ctx, http.MethodDelete, c.path(s.base()), "", http.StatusOK) })
			same("50 come back", func(c *churner) error { return c.register(ctx, s.base()) })
		})
	}
}
