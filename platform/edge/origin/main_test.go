package origin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
	"github.com/roadbed/roadbed/platform/edge/nethttp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var silent = slog.New(slog.DiscardHandler)

// rig is a proxy behind net/http as engine and before the app "app".
type rig struct {
	*Proxy
	t     testing.TB
	calls *ipc.Engine
	front *httptest.Server
	one   *http.Client // that speaks HTTP/1.1
	fast  bool         // ask by HTTP/1.1

	oneURL string
	meter  *meter.Registry

	mu    sync.Mutex
	plan  *filter.Plan             // of every request
	alter func(x *filter.Exchange) // before the proxy gets it; nil: as it is
	ended []ended
}

// ended is what is left of an exchange.
type ended struct {
	category, origin filter.Category
	attempts         []filter.Attempt
	err              error
	status           int
	passport         string
	read, written    int64
}

// newRig starts a proxy before instances at those addresses.
func newRig(t testing.TB, props map[string]string, addrs ...string) *rig {
	t.Helper()
	var list []roadbed.Instance
	for i, a := range addrs {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			t.Fatal(err)
		}
		n, _ := strconv.Atoi(port)
		list = append(list, roadbed.Instance{ID: fmt.Sprintf("i-%d", i+1), App: "app", Host: host, Port: n, Status: roadbed.Up, Location: roadbed.Location{Zone: "us-east-1a"}})
	}
	return newRigOf(t, props, ipc.Static{"app": list})
}

func newRigOf(t testing.TB, props map[string]string, lists ipc.Lists) *rig {
	t.Helper()
	return newRigOver(t, props, lists, nil)
}

// newRigOver starts a proxy that reaches origins over TLS by that transport; nil: by an ordinary one.
func newRigOver(t testing.TB, props map[string]string, lists ipc.Lists, tls http.RoundTripper) *rig {
	t.Helper()
	r := &rig{t: t, meter: meter.New(nil), plan: &filter.Plan{Route: "r", Upgrades: true}}
	over := map[string]string{"ribbon.ConnectTimeout": "30000"} // a busy machine takes its time over everything
	maps.Copy(over, props)
	p := config.New(config.Options{Override: over, Log: silent})
	r.calls = ipc.New(ipc.Options{App: "edge", Lists: lists, Config: p, Transport: tls, Log: silent})
	t.Cleanup(r.calls.Close)
	r.Proxy = New(Config{Calls: r.calls, Properties: p, Meter: r.meter, Log: silent})
	t.Cleanup(r.Proxy.Close)
	chain, err := filter.NewChain(filter.ChainConfig{
		Proxy: r.Proxy.Filter(), Properties: p, Log: silent,
		Filters: []*filter.Filter{{Name: "Test", Kind: filter.Inbound, Apply: func(x *filter.Exchange) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			x.App, x.Plan, x.ID, x.Deadline = "app", r.plan, "request-1", filter.Now()+int64(time.Minute)
			if x.Request.Upgrade != "" {
				x.Deadline = 0
			}
			if r.alter != nil {
				r.alter(x)
			}
			return nil
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.front = httptest.NewUnstartedServer(&nethttp.Handler{Serve: chain.Run, Finished: r.note, Log: silent})
	r.front.EnableHTTP2 = true
	r.front.StartTLS()
	t.Cleanup(r.front.Close)
	t.Cleanup(r.front.Client().CloseIdleConnections)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	engine := http1.NewServer(http1.Config{Serve: chain.Run, Finished: r.note, Log: silent, Settings: http1.Settings{EarlyHints: true}})
	served := make(chan error, 1)
	go func() { served <- engine.Serve(l) }()
	r.one, r.oneURL = &http.Client{Transport: &http.Transport{}}, "http://"+l.Addr().String()
	t.Cleanup(func() {
		r.one.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := engine.Drain(ctx); err != nil {
			t.Errorf("the engine did not end: %v", err)
		}
		<-served
	})
	return r
}

// route has all requests to come take the route p.
func (r *rig) route(p *filter.Plan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plan = p
}

// change has fn alter all requests to come.
func (r *rig) change(fn func(x *filter.Exchange)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alter = fn
}

func (r *rig) note(x *filter.Exchange) {
	e := ended{origin: x.Origin, attempts: append([]filter.Attempt(nil), x.Attempts...), err: x.Err, status: x.Response.Status, passport: string(x.Passport.Append(nil)), read: x.Read, written: x.Written}
	e.category, _ = x.Category()
	r.mu.Lock()
	r.ended = append(r.ended, e)
	r.mu.Unlock()
}

// last returns what is left of the last exchange.
func (r *rig) last() ended {
	r.t.Helper()
	for range 60_000 {
		r.mu.Lock()
		n := len(r.ended)
		if n > 0 {
			defer r.mu.Unlock()
			return r.ended[n-1]
		}
		r.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	r.t.Fatal("no exchange has ended")
	return ended{}
}

// ask sends a request through the proxy.
func (r *rig) ask(method, path, body string, header ...string) (status int, text string, h http.Header) {
	r.t.Helper()
	r.mu.Lock()
	r.ended = nil
	r.mu.Unlock()
	var b io.Reader
	if body != "" {
		b = strings.NewReader(body)
	}
	client, url := r.client()
	req, err := http.NewRequestWithContext(context.Background(), method, url+path, b)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		} else {
			req.Header.Add(header[i], header[i+1])
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, string(got) + "; " + err.Error(), resp.Header
	}
	return resp.StatusCode, string(got), resp.Header
}

// server is an origin that does with each request what its script says.
type scripted struct {
	net.Listener
	mu    sync.Mutex
	seen  []string // heads and bodies
	conns int
	wg    sync.WaitGroup
	open  map[net.Conn]bool
}

// act is what is done with one request: raw is written, or nothing; then the connection may be closed.
type act struct {
	raw   string
	close bool
	rst   bool
	hang  bool // until the connection ends
}

// origins starts an origin that does with its n-th request what the n-th act says, and with others the last one.
func scripts(t testing.TB, acts ...act) *scripted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{Listener: l, open: map[net.Conn]bool{}}
	n := 0
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns++
			s.open[c] = true
			s.mu.Unlock()
			s.wg.Go(func() {
				defer c.Close()
				rd := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(rd)
					if err != nil {
						return
					}
					body, err := io.ReadAll(req.Body)
					s.mu.Lock()
					a := acts[min(n, len(acts)-1)]
					n++
					s.seen = append(s.seen, fmt.Sprintf("%s %s %s %s %v", req.Method, req.RequestURI, req.Host, body, err))
					s.mu.Unlock()
					if a.raw != "" {
						if _, err := io.WriteString(c, a.raw); err != nil {
							return
						}
					}
					switch {
					case a.rst:
						c.(*net.TCPConn).SetLinger(0)
						return
					case a.close:
						return
					case a.hang:
						io.Copy(io.Discard, rd)
						return
					}
				}
			})
		}
	})
	t.Cleanup(s.kill)
	return s
}

func (s *scripted) addr() string { return s.Listener.Addr().String() }

func (s *scripted) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.seen...)
}

// kill closes the listener and every connection.
func (s *scripted) kill() {
	s.Close()
	s.mu.Lock()
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func said200(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// client returns what asks, and where.
func (r *rig) client() (*http.Client, string) {
	if r.fast {
		return r.one, r.oneURL
	}
	return r.front.Client(), r.front.URL
}

// engines runs a test with each of the edge's engines before the proxy: net/http with HTTP/2, and the edge's own.
func engines(t *testing.T, test func(t *testing.T, fast bool)) {
	t.Run("net/http", func(t *testing.T) { test(t, false) })
	t.Run("http1", func(t *testing.T) { test(t, true) })
}
