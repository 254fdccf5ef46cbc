package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge"
	"github.com/roadbed/roadbed/platform/properties"
)

// road is a small platform: an edge, and services behind it, each with properties and an engine of its own as if it
// were a process, and this room's control plane.
type road struct {
	*Chaos
	ctx     context.Context
	wg      sync.WaitGroup
	config  string
	lists   ipc.Static
	front   *httptest.Server
	edge    *edge.Gateway
	edgeAPI *httptest.Server
	client  *http.Client
	meters  []*meter.Registry // of all processes
	engines []*ipc.Engine     // of all processes
}

// newRoad starts an edge that leads everything to the service api. Services are added with serve, before the first
// request.
func newRoad(t *testing.T) *road {
	t.Helper()
	r := &road{Chaos: open(t), lists: ipc.Static{}}
	ctx, cancel := context.WithCancel(context.Background())
	r.ctx = ctx
	tr := &http.Transport{}
	r.client = &http.Client{Transport: tr}
	cfg := httptest.NewServer(r.props.Handler())
	r.config = cfg.URL
	t.Cleanup(func() { cancel(); r.wg.Wait(); tr.CloseIdleConnections(); cfg.CloseClientConnections(); cfg.Close() })
	for _, p := range []properties.Property{
		{Key: "edge.routes", Type: "json", Value: `[{"id":"all","match":{"path":{"prefix":"/"}},"backends":[{"vip":"api"}]}]`},
		{Key: "hystrix.command.default.execution.isolation.thread.timeoutInMilliseconds", Value: "60000"}, // no call ends by its time limit
	} {
		if _, err := r.props.Set(t.Context(), p, properties.Any); err != nil {
			t.Fatal(err)
		}
	}
	props, calls, _ := r.process(t, "edge")
	r.edge = edge.New(edge.Config{Calls: calls, Discovery: discovery.New(discovery.Config{Log: quiet}), Properties: props, Log: quiet})
	r.wg.Go(func() {
		if err := r.edge.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	r.front = httptest.NewServer(r.edge)
	t.Cleanup(r.front.Close)
	s := api.New("edge", "1")
	r.edge.Mount(s)
	r.edgeAPI = httptest.NewServer(s)
	t.Cleanup(r.edgeAPI.Close)
	return r
}

// process is what one process has.
func (r *road) process(t *testing.T, app string) (*config.Properties, *ipc.Engine, *meter.Registry) {
	t.Helper()
	tr := &http.Transport{}
	props := config.New(config.Options{URL: r.config, Scope: config.Scope{App: app, Instance: app + "-1"}, HTTP: &http.Client{Transport: tr}, Log: quiet})
	r.wg.Go(func() {
		if err := props.Run(r.ctx); err != nil {
			t.Error(err)
		}
		tr.CloseIdleConnections()
	})
	key, m := props.String("fault.key", ""), meter.New(nil)
	r.meters = append(r.meters, m)
	calls := ipc.New(ipc.Options{App: app, Lists: r.lists, Config: props, Meter: m, Log: quiet, FaultKey: func() fault.Key { return fault.Key(key.Get()) }})
	t.Cleanup(calls.Close)
	r.engines = append(r.engines, calls)
	until(t, app+" has its properties", func() bool { return key.Get() != "" })
	return props, calls, m
}

// serve adds a service.
func (r *road) serve(t *testing.T, app string, h func(calls *ipc.Engine, w http.ResponseWriter, req *http.Request)) (*httptest.Server, *meter.Registry) {
	t.Helper()
	_, calls, m := r.process(t, app)
	srv := httptest.NewServer(calls.Handler(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { h(calls, w, req) })))
	t.Cleanup(srv.Close)
	addr := srv.Listener.Addr().(*net.TCPAddr)
	r.lists[app] = []roadbed.Instance{{ID: app + "-1", App: app, Host: "127.0.0.1", Port: addr.Port, Status: roadbed.Up, Since: time.Now().Add(-time.Hour)}}
	return srv, m
}

// begin adds a fault and waits until the edge has it.
func (r *road) begin(t *testing.T, f Fault) Fault {
	t.Helper()
	f, err := r.Add(api.As(t.Context(), "ana", "test"), f)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the edge has "+f.ID, func() bool { return r.counts(t, f.ID) != nil })
	return f
}

func (r *road) counts(t *testing.T, id string) *edge.FaultCounts {
	t.Helper()
	c := &api.Client{Base: r.edgeAPI.URL, HTTP: r.edgeAPI.Client()}
	var all []edge.FaultCounts
	if err := c.Do(t.Context(), http.MethodGet, "/api/v1/edge/faults", nil, &all); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if all[i].ID == id {
			return &all[i]
		}
	}
	return nil
}

// get asks url and returns the status and the body, as far as it came.
func (r *road) get(t *testing.T, url string, headers ...string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a minute not yet: %s", what)
		}
	}
}

func TestARequestIsDecidedAlikeOnAllHopsAndRetries(t *testing.T) {
	r := newRoad(t)
	var mu sync.Mutex
	decided := map[string][]bool{} // by request
	decide := func(req *http.Request) {
		a := fault.From(req.Context()).At("command", "probe")
		mu.Lock()
		defer mu.Unlock()
		decided[ipc.RequestID(req.Context())] = append(decided[ipc.RequestID(req.Context())], a.Reject)
	}
	r.serve(t, "leaf", func(_ *ipc.Engine, w http.ResponseWriter, req *http.Request) {
		decide(req)
		w.WriteHeader(http.StatusServiceUnavailable) // so that it is tried again
	})
	r.lists["leaf"] = append(r.lists["leaf"], r.lists["leaf"][0])
	r.lists["leaf"][1].ID = "leaf-2"
	r.serve(t, "api", func(calls *ipc.Engine, w http.ResponseWriter, req *http.Request) {
		decide(req)
		out, _ := http.NewRequestWithContext(req.Context(), http.MethodGet, "http://leaf/", nil)
		if resp, err := calls.HTTPClient().Do(out); err == nil {
			resp.Body.Close()
		}
		decide(req)
	})
	r.begin(t, Fault{ID: "half", Rules: "command:probe=reject@50"})
	const requests = 40
	for i := range requests {
		if _, _, err := r.get(t, r.front.URL, "X-Request-Id", fmt.Sprintf("request-%03d", i)); err != nil {
			t.Fatal(err)
		}
	}
	yes, retried := 0, 0
	for id, all := range decided {
		for _, d := range all {
			if d != all[0] {
				t.Fatalf("%s: decisions %v differ", id, all)
			}
		}
		if all[0] {
			yes++
		}
		if len(all) > 3 {
			retried++
		}
	}
	if len(decided) != requests || yes < 8 || yes > 32 || retried == 0 {
		t.Errorf("%d requests, %d were hit, %d retried; want %d, about half of them hit, some retried", len(decided), yes, retried, requests)
	}
}

func TestNobodyButTheEdgeInjects(t *testing.T) {
	r := newRoad(t)
	r.serve(t, "leaf", func(_ *ipc.Engine, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "leaf") })
	apiServer, m := r.serve(t, "api", func(_ *ipc.Engine, w http.ResponseWriter, req *http.Request) {
		if f := fault.From(req.Context()); f != nil {
			t.Errorf("api was given the rules %s", f.Header())
		}
		io.WriteString(w, "fine")
	})
	key, _ := r.props.Value(config.Scope{}, "fault.key")
	for name, header := range map[string]string{
		"unsigned": `id=x; exp=4000000000; r="server:api=error(500)"`,
		"forged":   fault.Sign(fault.Key("another"), "x", time.Now().Add(time.Hour), "server:api=error(500)"),
		"expired":  fault.Sign(fault.Key(key), "x", time.Now().Add(-time.Second), "server:api=error(500)"),
		"endless":  "id=" + strings.Repeat("x", 3000),
	} {
		if status, _, err := r.get(t, apiServer.URL, "X-Fit", header); status != 200 || err != nil {
			t.Errorf("%s, to the service: got %d, %v; want 200", name, status, err)
		}
	}
	if n := m.Counter("ipc.fit.ignored").Count(); n != 4 {
		t.Errorf("%v headers were counted as ignored, want 4", n)
	}
	// Even one that is rightly signed does not come in from outside.
	stolen := fault.Sign(fault.Key(key), "x", time.Now().Add(time.Hour), "server:api=error(500)")
	if status, _, err := r.get(t, r.front.URL, "X-Fit", stolen); status != 200 || err != nil {
		t.Errorf("signed, through the edge: got %d, %v; want 200", status, err)
	}
}

// The button is pressed several times, for the machine may be busy: each time it must end what waits, and once within a second.
// Nothing ends by itself within a minute.
func TestTheRedButtonWorksWithinASecondInEveryProcess(t *testing.T) {
	r := newRoad(t)
	r.serve(t, "leaf", func(_ *ipc.Engine, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "leaf") })
	r.serve(t, "api", func(calls *ipc.Engine, w http.ResponseWriter, req *http.Request) {
		out, _ := http.NewRequestWithContext(req.Context(), http.MethodGet, "http://leaf/", nil)
		resp, err := calls.HTTPClient().Do(out)
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		defer resp.Body.Close()
		io.Copy(w, resp.Body)
	})
	waits := map[string]string{"edge": "edge:all=delay(60s)", "caller": "client:leaf=hang", "server": "server:leaf=hang"}
	quickest := time.Hour
	for n := int64(1); n <= 5; n++ {
		for user, rules := range waits {
			r.begin(t, Fault{ID: fmt.Sprintf("at-%s-%d", user, n), Rules: rules, Who: Who{Users: []string{user}}})
		}
		quickest = min(quickest, r.press(t, waits, n))
		for user := range waits {
			if status, body, err := r.get(t, r.front.URL, "X-Member", user); status != 200 || body != "leaf" {
				t.Errorf("afterwards, %s: got %d %q, %v", user, status, body, err)
			}
		}
		if err := r.Enable(api.As(t.Context(), "ana", "again")); err != nil {
			t.Fatal(err)
		}
	}
	if quickest > time.Second {
		t.Errorf("each of five times what waited was answered %s or longer after the button was pressed; want leaf's answer within a second", quickest)
	}
}

// press sends a request of each user, presses the button for the nth time once all wait, and tells how long the last of them took to
// be answered.
func (r *road) press(t *testing.T, waits map[string]string, n int64) (last time.Duration) {
	t.Helper()
	type answer struct {
		user, body string
		status     int
		err        error
		at         time.Time
	}
	answers := make(chan answer, len(waits))
	for user := range waits {
		go func() {
			status, body, err := r.get(t, r.front.URL, "X-Member", user)
			answers <- answer{user, body, status, err, time.Now()}
		}()
	}
	until(t, "all three wait", func() bool {
		select {
		case a := <-answers:
			t.Fatalf("%s was answered %d %s, %v before the button was pressed", a.user, a.status, a.body, a.err)
		default:
		}
		waiting := int64(0)
		for _, m := range r.meters {
			for point, action := range map[string]string{"edge": "delay", "client": "hang", "server": "hang"} {
				waiting += int64(m.Counter("ipc.fit.injected", "ipc.point", point, "ipc.action", action).Count())
			}
		}
		return waiting == 3*n
	})
	pressed := time.Now()
	if err := r.StopAll(api.As(t.Context(), "ana", "enough")); err != nil {
		t.Fatal(err)
	}
	for range waits {
		a := <-answers
		took := a.at.Sub(pressed)
		if last = max(last, took); a.status != 200 || a.body != "leaf" || took > 30*time.Second {
			t.Errorf("waiting at the %s: got %d %q, %v after %s; want leaf's answer", a.user, a.status, a.body, a.err, took)
		}
	}
	return last
}

func TestAFaultEndsWithoutItsControlPlane(t *testing.T) {
	r := newRoad(t)
	r.serve(t, "api", func(_ *ipc.Engine, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "fine") })
	hit := 0
	for lease := 1200 * time.Millisecond; hit == 0 && lease < time.Minute; lease *= 2 { // until it is long enough for a busy machine to see it
		f, err := r.Add(t.Context(), Fault{ID: fmt.Sprintf("short-%d", lease.Milliseconds()), Rules: "server:api=error(418)", Expires: time.Now().Add(lease)})
		if err != nil {
			t.Fatal(err)
		}
		// Nobody reaps: the room is not running. Requests tell when it is in force by when they began and ended.
		until(t, "it has ended by itself", func() bool {
			began := time.Now()
			status, _, _ := r.get(t, r.front.URL)
			switch over := time.Now().After(f.Expires); {
			case status == 418 && began.After(f.Expires.Add(time.Second)):
				t.Fatalf("a request that began %s after its time was hit", began.Sub(f.Expires))
			case status == 418:
				hit++
			case status != 200:
				t.Fatalf("got %d, want 418 or 200", status)
			case hit > 0 && time.Now().Before(f.Expires.Add(-50*time.Millisecond)):
				t.Fatalf("it ended %s before its time", time.Until(f.Expires))
			default:
				return over
			}
			return false
		})
	}
	if hit == 0 {
		t.Error("no request was hit before its end")
	}
}

func TestPartialYieldsAnUnexpectedEOFAtTheClient(t *testing.T) {
	r := newRoad(t)
	body := strings.Repeat("0123456789", 1000)
	r.serve(t, "api", func(_ *ipc.Engine, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) })
	r.begin(t, Fault{Rules: "server:api=partial(4000)"})
	_, got, err := r.get(t, r.front.URL)
	if !errors.Is(err, io.ErrUnexpectedEOF) || len(got) > 4000 {
		t.Errorf("got %d bytes, %v; want at most 4000 and an unexpected EOF", len(got), err)
	}
}
