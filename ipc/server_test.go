package ipc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/api/porttest"
)

// instanceOf is the instance that serves at addr.
func instanceOf(t testing.TB, addr, zone string) roadbed.Instance {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return roadbed.Instance{ID: addr, App: "app", Host: host, Port: n, Status: roadbed.Up, Location: roadbed.Location{Zone: zone}}
}

func TestHandlerReadsWhatCameAndHandsItOn(t *testing.T) {
	var seen http.Header
	leaf := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen = r.Header.Clone() }))
	defer leaf.Close()
	e := newTestEngine(t, Options{App: "api", Lists: Static{"leaf": {instanceOf(t, leaf.Listener.Addr().String(), "")}}})
	e.Command("leaf", Settings{Timeout: time.Hour}) // so that the caller's deadline is what is left
	srv := httptest.NewServer(e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := RequestID(r.Context()); got != "req-1" {
			t.Errorf("request id %q, want req-1", got)
		}
		if got := CallerOf(r.Context()); got != "edge" {
			t.Errorf("caller %q, want edge", got)
		}
		if d, ok := r.Context().Deadline(); !ok || time.Until(d) > 70*time.Second || time.Until(d) < 30*time.Second {
			t.Errorf("deadline in %s, want within 70s", time.Until(d))
		}
		if status, err := get(e, r.Context(), "GET", "http://leaf/"); status != 200 {
			t.Errorf("leaf: got %d, %v", status, err)
		}
	})))
	defer srv.Close()
	req, _ := http.NewRequest("GET", srv.URL, nil)
	for k, v := range map[string]string{
		HeaderRequestID: "req-1", HeaderCaller: "edge", HeaderTimeout: "70000", "Grpc-Timeout": "500S", HeaderCriticality: "bulk", HeaderAttempt: "3",
		"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Tracestate": "a=1",
	} {
		req.Header.Set(k, v)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get(HeaderRequestID); got != "req-1" {
		t.Errorf("the response says request id %q, want req-1", got)
	}
	for k, want := range map[string]string{
		HeaderRequestID: "req-1", HeaderCaller: "api", HeaderCriticality: "BULK", HeaderAttempt: "3",
		"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Tracestate": "a=1",
	} {
		if got := seen.Get(k); got != want {
			t.Errorf("handed on %s %q, want %q", k, got, want)
		}
	}
	if ms, err := strconv.Atoi(seen.Get(HeaderTimeout)); err != nil || ms >= 70_000 || ms < 30_000 {
		t.Errorf("handed on a timeout of %q ms, want somewhat less than 70000", seen.Get(HeaderTimeout))
	}
}

func TestExpiredOnArrivalIsNotWorkedOn(t *testing.T) {
	m := meter.New(nil)
	e := newTestEngine(t, Options{Meter: m})
	h := e.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler ran") }))
	for _, header := range [][2]string{{HeaderTimeout, "0"}, {HeaderTimeout, "-7"}, {"Grpc-Timeout", "0m"}, {"X-Envoy-Expected-Rq-Timeout-Ms", "0"}} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set(header[0], header[1])
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != http.StatusGatewayTimeout {
			t.Errorf("%v: got %d, want 504", header, w.Code)
		}
	}
	if s := m.PercentileTimer("ipc.server.call", "ipc.status", "5xx", "ipc.caller", "unknown").Snapshot(); s.Count != 4 {
		t.Errorf("%d calls metered as 5xx, want 4", s.Count)
	}
}

func TestMalformedHeadersCountAsAbsent(t *testing.T) {
	e := newTestEngine(t, Options{FaultKey: func() fault.Key { return fault.Key("k") }})
	h := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := r.Context().Deadline(); ok {
			t.Error("there is a deadline")
		}
		if id := RequestID(r.Context()); len(id) < 20 || strings.Contains(id, " ") {
			t.Errorf("request id %q is not a fresh one", id)
		}
	}))
	r := httptest.NewRequest("GET", "/", nil)
	for k, v := range map[string]string{HeaderTimeout: "soon", "Grpc-Timeout": "5X", HeaderRequestID: "a b", HeaderAttempt: "-1", HeaderCriticality: "very", fault.Header: "id=x"} {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != 200 {
		t.Errorf("got %d, want 200", w.Code)
	}
}

func TestServerFaults(t *testing.T) {
	key := fault.Key("k")
	on := atomic.Bool{}
	on.Store(true)
	e := newTestEngine(t, Options{App: "app", FaultKey: func() fault.Key {
		if on.Load() {
			return key
		}
		return nil
	}})
	srv := httptest.NewServer(e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "fine") })))
	defer srv.Close()
	do := func(rules string, k fault.Key) (int, error) {
		req, _ := http.NewRequest("GET", srv.URL, nil)
		req.Header.Set(fault.Header, fault.Sign(k, "x", time.Now().Add(time.Minute), rules))
		if req.Header.Set(HeaderTimeout, "60000"); strings.HasSuffix(rules, "hang") {
			req.Header.Set(HeaderTimeout, "200")
		}
		resp, err := srv.Client().Do(req)
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		return resp.StatusCode, nil
	}
	for _, tc := range []struct {
		rules string
		key   fault.Key
		want  int // 0: the connection breaks
	}{
		{"server:app=error(418)", key, 418},
		{"server:app=error(418)", fault.Key("other"), 200},
		{"server:other=error(503)", key, 200},
		{"server:*=error(503)@0", key, 200},
		{"server:app=reset", key, 0},
		{"server:app=hang", key, 504},
		{"server:app=delay(1ms)", key, 200},
	} {
		if got, err := do(tc.rules, tc.key); got != tc.want || (err != nil) != (tc.want == 0) {
			t.Errorf("%s: got %d, %v; want %d", tc.rules, got, err, tc.want)
		}
	}
	on.Store(false)
	if got, err := do("server:app=error(503)", key); got != 200 {
		t.Errorf("with the key taken away: got %d, %v; want 200", got, err)
	}
}

func TestNoRetryIsCopiedUpward(t *testing.T) {
	leaf := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(HeaderNoRetry, "1")
		w.WriteHeader(503)
	}))
	defer leaf.Close()
	e := newTestEngine(t, Options{Lists: Static{"leaf": {instanceOf(t, leaf.Listener.Addr().String(), "")}}})
	h := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		get(e, r.Context(), "GET", "http://leaf/")
		w.WriteHeader(502)
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if got := w.Header().Get(HeaderNoRetry); got != "1" {
		t.Errorf("%s is %q, want 1", HeaderNoRetry, got)
	}
}

func TestHandlerLetsStreamsAndHijacksThrough(t *testing.T) {
	e := newTestEngine(t, Options{})
	srv := httptest.NewServer(e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hijack" {
			c, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhi")
			io.Copy(c, io.LimitReader(c, 4))
			c.Close()
			return
		}
		io.WriteString(w, "one\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})))
	defer srv.Close()
	calls := newTestEngine(t, Options{Lists: Static{"app": {instanceOf(t, srv.Listener.Addr().String(), "")}}})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(WithOverride(ctx, Override{Timeout: -1}), "GET", "http://app/", nil)
	resp, err := calls.HTTPClient().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); line != "one\n" {
		t.Errorf("read %q, %v; want the first line before the end", line, err)
	}
	cancel()
	resp.Body.Close()

	req, _ = http.NewRequest("GET", "http://app/hijack", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "x")
	resp, err = calls.Transport().RoundTrip(req)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("got %v, %v; want 101", resp, err)
	}
	rw, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		t.Fatalf("the body of a 101 is a %T, to which nobody can write", resp.Body)
	}
	io.WriteString(rw, "echo")
	if b, err := io.ReadAll(rw); string(b) != "hiecho" {
		t.Errorf("read %q, %v; want hiecho", b, err)
	}
	rw.Close()
}

// mortal is a server whose connections can be cut and whose port then refuses, as after kill -9.
type mortal struct {
	l     net.Listener
	mu    sync.Mutex
	conns map[net.Conn]bool
	dead  bool
	wg    sync.WaitGroup
}

func newMortal(t *testing.T, h http.Handler) *mortal {
	t.Helper()
	l, err := net.Listen("tcp", porttest.Hold(t)) // when it has died nobody else is there
	if err != nil {
		t.Fatal(err)
	}
	m := &mortal{l: l, conns: map[net.Conn]bool{}}
	srv := &http.Server{Handler: h, ConnState: func(c net.Conn, s http.ConnState) {
		m.mu.Lock()
		defer m.mu.Unlock()
		switch s {
		case http.StateNew:
			if m.conns[c] = true; m.dead {
				cutConn(c)
			}
		case http.StateClosed, http.StateHijacked:
			delete(m.conns, c)
		}
	}}
	m.wg.Go(func() { srv.Serve(l) })
	t.Cleanup(func() { m.kill(); srv.Close(); m.wg.Wait() })
	return m
}

func cutConn(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

func (m *mortal) kill() {
	m.l.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = true
	for c := range m.conns {
		cutConn(c)
	}
}

// TestInstancesThatDieMidRequestFailNoIdempotentCaller kills servers one by one under load over real sockets.
func TestInstancesThatDieMidRequestFailNoIdempotentCaller(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond) // so that requests are in flight when it dies
		io.WriteString(w, r.Method+" "+r.URL.Path)
	})
	var servers []*mortal
	var list []roadbed.Instance
	start := func() {
		m := newMortal(t, h)
		servers = append(servers, m)
		list = append(list, instanceOf(t, m.l.Addr().String(), "z"))
	}
	for range 4 {
		start()
	}
	l := &lists{now: list}
	e := newTestEngine(t, Options{Lists: l, Location: roadbed.Location{Zone: "z"}})
	e.Command("app", Settings{Timeout: time.Minute}) // a busy machine is no failure
	client := e.HTTPClient()
	var calls, failed atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !stop.Load() {
				resp, err := client.Get("http://app/x")
				calls.Add(1)
				if err == nil {
					var b []byte
					b, err = io.ReadAll(resp.Body)
					resp.Body.Close()
					if err == nil && string(b) != "GET /x" {
						err = fmt.Errorf("status %d, body %q", resp.StatusCode, b)
					}
				}
				if err != nil && failed.Add(1) < 5 {
					t.Errorf("call %d: %v", calls.Load(), err)
				}
			}
		})
	}
	settle := func(n int64) {
		for until := calls.Load() + n; calls.Load() < until; {
			time.Sleep(time.Millisecond) // real sockets: the load itself is the clock
		}
	}
	for i := range 6 {
		settle(100)
		servers[i].kill() // the list still names it
		settle(100)
		start()
		l.set(append([]roadbed.Instance(nil), list[i+1:]...))
	}
	settle(100)
	stop.Store(true)
	wg.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d calls failed, want none", failed.Load(), calls.Load())
	}
}

func TestPlainHostsAreCalledPlainly(t *testing.T) {
	var seen http.Header
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen = r.Header.Clone() }))
	defer srv.Close()
	e := newTestEngine(t, Options{App: "api"})
	resp, err := e.HTTPClient().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if seen.Get(HeaderTimeout) != "" || seen.Get(HeaderCaller) != "" {
		t.Errorf("a host with a port was told %v", seen)
	}
	for host, want := range map[string]bool{"catalog": true, "a.b": true, "127.0.0.1": false, "x:80": false, "": false, "[::1]": false, "7eleven": true} {
		if got := isName(host); got != want {
			t.Errorf("isName(%q): got %v, want %v", host, got, want)
		}
	}
}

func TestGetJSON(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			io.WriteString(w, `{"n":7}`)
		case "/bad":
			io.WriteString(w, `{"n":`)
		default:
			w.WriteHeader(404)
		}
	}))
	defer srv.Close()
	e := newTestEngine(t, Options{Lists: Static{"app": {instanceOf(t, srv.Listener.Addr().String(), "")}}})
	type answer struct{ N int }
	if got, err := Get[answer](t.Context(), e, e.Command("app", Settings{}), "http://app/ok"); got.N != 7 || err != nil {
		t.Errorf("got %+v, %v; want 7", got, err)
	}
	for _, path := range []string{"/bad", "/missing"} {
		if _, err := Get[answer](t.Context(), e, e.Command("app", Settings{}), "http://app"+path); err == nil {
			t.Errorf("%s: got no error", path)
		}
	}
	var se *StatusError
	_, err := Get[answer](t.Context(), e, e.Command("app", Settings{}), "http://app/missing")
	if !errors.As(err, &se) || se.Status != 404 {
		t.Errorf("got %v, want a StatusError 404", err)
	}
}

func TestStateTellsCommandsEndpointsAndBudgets(t *testing.T) {
	n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(200)}}
	e := newTestEngine(t, Options{App: "api", Lists: Static{"app": instances("z", 1, 2)}, Transport: n})
	for range 50 {
		get(e, t.Context(), "GET", "http://app/")
	}
	w := httptest.NewRecorder()
	e.StateHandler().ServeHTTP(w, httptest.NewRequest("GET", "/ipc/state", nil))
	for _, want := range []string{`"name": "app"`, `"breaker": "CLOSED"`, `"success": 50`, `"addr": "10.0.0.1:1"`, `"refusedUntil"`, `"retryBudget"`, `"warm": 1`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the state lacks %s:\n%s", want, w.Body.String())
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "120", "-1", "1.5", "Fri, 31 Dec 1999 23:59:59 GMT", "99999999999999999999", "Friday, 31-Dec-99 23:59:59 GMT"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, asked, valid := parseRetryAfter(s, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		if d < 0 || d > maxRetryAfter || asked != (s != "") || valid && !asked || !valid && d != 0 {
			t.Errorf("%q: got %s, asked %v, valid %v", s, d, asked, valid)
		}
	})
}

func FuzzTimeouts(f *testing.F) {
	for _, s := range []string{"", "0", "100", "-5", "5S", "99999999H", "100m", "1u", "7n", "9223372036854775807", "1e3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, parse := range []func(string) (time.Duration, bool){parseMillis, parseGRPCTimeout} {
			if d, ok := parse(s); d < 0 || d > maxTimeout || !ok && d != 0 {
				t.Errorf("%q: got %s, %v", s, d, ok)
			}
		}
		h := http.Header{HeaderTimeout: {s}, "Grpc-Timeout": {s}}
		if d, _ := readTimeout(h); d < 0 || d > maxTimeout {
			t.Errorf("headers with %q: got %s", s, d)
		}
	})
}

func TestFaultsShapeTheBodyThatAServerSends(t *testing.T) {
	key := fault.Key("k")
	e := newTestEngine(t, Options{App: "app", FaultKey: func() fault.Key { return key }})
	body := strings.Repeat("0123456789", 100)
	ended := make(chan error, 1)
	srv := httptest.NewServer(e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sized":
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			io.WriteString(w, body)
		case "/file":
			io.Copy(w, strings.NewReader(body))
		case "/stream":
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, body); err != nil {
					<-r.Context().Done() // as in a handler that waits for more to send
				}
			}
			ended <- r.Context().Err()
		}
	})))
	defer srv.Close()
	do := func(path, rules string) (string, time.Duration, error) {
		req, _ := http.NewRequest("GET", srv.URL+path, nil)
		req.Header.Set(fault.Header, fault.Sign(key, "x", time.Now().Add(time.Minute), rules))
		start := time.Now()
		resp, err := srv.Client().Do(req)
		if err != nil {
			return "", 0, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), time.Since(start), err
	}
	for _, path := range []string{"/sized", "/file"} {
		for arg, want := range map[string]int{"partial(123)": 123, "partial(50%)": 500, "partial(0)": 0} {
			if got, _, err := do(path, "server:app="+arg); !errors.Is(err, io.ErrUnexpectedEOF) || got != body[:want] {
				t.Errorf("%s of %s: got %d bytes, %v; want %d and an unexpected EOF", arg, path, len(got), err, want)
			}
		}
		if got, _, err := do(path, "server:app=corrupt(7)"); err != nil || len(got) != len(body) || got == body {
			t.Errorf("corrupt of %s: got %d bytes, %v; want all of them, not all as they were", path, len(got), err)
		}
		if got, took, err := do(path, "server:app=slow(10000)"); err != nil || got != body || took < 95*time.Millisecond {
			t.Errorf("slow of %s: got %d bytes, %v in %s; want all of them in 100ms", path, len(got), err, took)
		}
	}
	if _, _, err := do("/stream", "server:app=partial(5000)"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a stream cut off: got %v, want an unexpected EOF", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("its handler: got %v, want that the client has gone", err)
	}
}

func TestFaultsRefuseAndLoseRequestsAtAServer(t *testing.T) {
	key := fault.Key("k")
	e := newTestEngine(t, Options{App: "app", FaultKey: func() fault.Key { return key }})
	srv := httptest.NewServer(e.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	defer srv.Close()
	do := func(rules, timeout, attempt string) (*http.Response, error) {
		req, _ := http.NewRequest("GET", srv.URL, nil)
		req.Header.Set(fault.Header, fault.Sign(key, "x", time.Now().Add(time.Minute), rules))
		req.Header.Set(HeaderTimeout, timeout)
		req.Header.Set(HeaderAttempt, attempt)
		resp, err := srv.Client().Do(req)
		if err == nil {
			resp.Body.Close()
		}
		return resp, err
	}
	if resp, err := do("server:app=reject", "5000", "1"); err != nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || resp.Header.Get(HeaderNoRetry) != "1" || resp.Header.Get("X-Ipc-Error") != "injected" {
		t.Errorf("reject: got %v, %v; want 503 as from a full server, marked as injected", resp, err)
	}
	start := time.Now()
	if resp, err := do("server:app=drop", "50", "1"); err == nil || time.Since(start) < 50*time.Millisecond {
		t.Errorf("drop: got %v after %s; want no answer until the deadline", resp, time.Since(start))
	}
	for attempt, want := range map[string]int{"1": 503, "2": 503, "3": 200} {
		if resp, err := do("server:app=error(503)#2", "5000", attempt); err != nil || resp.StatusCode != want {
			t.Errorf("#2, attempt %s: got %v, %v; want %d", attempt, resp, err, want)
		}
	}
}

func TestNoMoreFaultsAreInjectedAtOnceThanAllowed(t *testing.T) {
	key := fault.Key("k")
	e := newTestEngine(t, Options{App: "app", FaultKey: func() fault.Key { return key }})
	h := e.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	do := func() int {
		req := httptest.NewRequest("GET", "/", nil)
		req.Header.Set(fault.Header, fault.Sign(key, "x", time.Now().Add(time.Minute), "server:app=error(418)"))
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, req)
		return rec.Code
	}
	e.faults.Store(99)
	if got := do(); got != 418 {
		t.Errorf("99 in force: got %d, want the hundredth injected", got)
	}
	e.faults.Store(100)
	if got := do(); got != 200 {
		t.Errorf("100 in force: got %d, want nothing injected", got)
	}
}

func TestADelayAddsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := fault.Key("k")
		e := newTestEngine(t, Options{App: "app", FaultKey: func() fault.Key { return key }})
		const work = 30 * time.Millisecond
		h := e.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(work) }))
		for _, delay := range []time.Duration{0, time.Millisecond, 150 * time.Millisecond, 2 * time.Second} {
			req := httptest.NewRequest("GET", "/", nil)
			req.Header.Set(fault.Header, fault.Sign(key, "x", time.Now().Add(time.Minute), "server:app=delay("+delay.String()+")"))
			start := time.Now()
			h.ServeHTTP(httptest.NewRecorder(), req)
			if added := time.Since(start) - work; added != delay {
				t.Errorf("delay(%s) added %s", delay, added)
			}
		}
	})
}
