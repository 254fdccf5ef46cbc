package origin

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/platform/api/porttest"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// serving starts an origin of net/http.
func serving(t testing.TB, h http.HandlerFunc) (addr string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestAnInstanceThatDiesFailsNoGET(t *testing.T) {
	engines(t, func(t *testing.T, fast bool) {
		var all []*scripted
		var addrs []string
		for range 3 {
			o := scripts(t, act{raw: said200("ok")})
			all, addrs = append(all, o), append(addrs, o.addr())
		}
		r := newRig(t, map[string]string{"app.ribbon.MaxAutoRetriesNextServer": "1"}, addrs...)
		r.fast = fast
		client, url := r.client()
		var asked, failed atomic.Int64
		var wg sync.WaitGroup
		half := make(chan struct{})
		var once sync.Once
		for range 8 {
			wg.Go(func() {
				for range 200 {
					resp, err := client.Get(url)
					if err != nil || resp.StatusCode != 200 {
						failed.Add(1)
						t.Errorf("a GET failed: %v %v", resp, err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if asked.Add(1) == 800 {
						once.Do(func() { close(half) })
					}
				}
			})
		}
		<-half
		all[0].kill()
		wg.Wait()
		if failed.Load() != 0 || asked.Load() != 1600 {
			t.Errorf("%d of %d GETs failed", failed.Load(), asked.Load())
		}
	})
}

func TestAPOSTIsSentOnceUnlessItCannotHaveArrived(t *testing.T) {
	engines(t, func(t *testing.T, fast bool) {
		for _, c := range []struct {
			name    string
			acts    []act // of the only origin
			unsafe  bool
			status  int
			arrived int
		}{
			{"its connection broke", []act{{raw: said200("ok")}, {rst: true}, {raw: said200("late")}}, false, 504, 2},
			{"its connection broke, and the route says retry.unsafe", []act{{raw: said200("ok")}, {rst: true}, {raw: said200("late")}}, true, 200, 3},
			{"a new connection broke, and the route says retry.unsafe", []act{{raw: said200("ok"), close: true}, {rst: true}, {raw: said200("late")}}, true, 504, 2},
			{"the connection that was kept had been closed", []act{{raw: said200("ok"), close: true}, {raw: said200("late")}}, false, 200, 2},
		} {
			t.Run(c.name, func(t *testing.T) {
				o := scripts(t, c.acts...)
				r := newRig(t, nil, o.addr())
				r.fast = fast
				r.route(&filter.Plan{RetryUnsafe: c.unsafe})
				r.ask("GET", "/", "")
				waitClosed(t, r, c.acts[0].close)
				code, body, _ := r.ask("POST", "/", "abc")
				if got := len(o.requests()); code != c.status || got != c.arrived {
					t.Errorf("got %d %q, %d requests arrived; want %d, %d: %v", code, body, got, c.status, c.arrived, r.last().err)
				}
			})
		}
	})
}

// waitClosed waits until the one idle connection is known to be closed by its origin.
func waitClosed(t *testing.T, r *rig, wanted bool) {
	t.Helper()
	for range 60_000 {
		for _, s := range *r.origin("app").servers.Load() {
			s.mu.Lock()
			ok := len(s.idle) == 1 && (!wanted || s.idle[0].Stale())
			s.mu.Unlock()
			if ok {
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("there is no idle connection")
}

func TestABodyIsSentAgainAsLongAsItWasKept(t *testing.T) {
	engines(t, func(t *testing.T, fast bool) {
		for _, c := range []struct {
			size, attempts int
		}{{1000, 2}, {64 << 10, 2}, {64<<10 + 1, 1}} {
			refuse, accept := scripts(t, act{raw: status(503)}), scripts(t, act{raw: status(503)})
			r := newRig(t, map[string]string{"app.ribbon.MaxAutoRetriesNextServer": "1"}, refuse.addr(), accept.addr())
			r.fast = fast
			body := strings.Repeat("x", c.size)
			code, _, _ := r.ask("POST", "/", body)
			if last := r.last(); code != 503 || len(last.attempts) != c.attempts {
				t.Errorf("%d bytes: got %d after %d attempts, want %d: %v", c.size, code, len(last.attempts), c.attempts, last.err)
			}
			for _, got := range append(refuse.requests(), accept.requests()...) {
				if !strings.Contains(got, body+" <nil>") {
					t.Errorf("%d bytes: an origin got %d", c.size, len(got))
				}
			}
		}
	})
}

func TestAnEarlyAnswerReachesTheClient(t *testing.T) {
	engines(t, func(t *testing.T, fast bool) {
		addr := serving(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			http.Error(w, "too much", http.StatusRequestEntityTooLarge)
		})
		r := newRig(t, nil, addr)
		r.fast = fast
		client, url := r.client()
		pr, pw := io.Pipe()
		defer pw.Close()
		go pw.Write(make([]byte, 100<<10)) // and never the end
		req, err := http.NewRequest("POST", url, pr)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(b) != "too much\n" || err != nil {
			t.Errorf("got %d %q %v, want the origin's 413", resp.StatusCode, b, err)
		}
	})
}

func TestAClientThatLeavesFreesItsOrigin(t *testing.T) {
	engines(t, func(t *testing.T, fast bool) {
		left := make(chan struct{})
		arrived := make(chan struct{})
		addr := serving(t, func(w http.ResponseWriter, r *http.Request) {
			close(arrived)
			<-r.Context().Done()
			close(left)
		})
		r := newRig(t, nil, addr)
		r.fast = fast
		client, url := r.client()
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			<-arrived
			cancel()
		}()
		if _, err := client.Do(req); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		<-left
		last := r.last()
		if last.category != filter.FailureClientCancelled || len(last.attempts) != 1 {
			t.Errorf("got %v after %d attempts, want FAILURE_CLIENT_CANCELLED after 1", last.category, len(last.attempts))
		}
		if w, _ := r.calls.Why("app", 1); len(w.Calls) != 1 || w.Calls[0].Kind != "cancelled" || w.State.App.Endpoints[0].Error != 0 {
			t.Errorf("what is told of it: %+v", w.Calls)
		}
	})
}

func TestEventsArriveAsTheyCome(t *testing.T) {
	next := make(chan string)
	addr := serving(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		for e := range next {
			io.WriteString(w, e)
			http.NewResponseController(w).Flush()
		}
	})
	r := newRig(t, nil, addr)
	for _, fast := range []bool{false, true} {
		r.fast = fast
		client, url := r.client()
		go func() { next <- "data: 1\n\n" }()
		resp, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		rd := bufio.NewReader(resp.Body)
		for i := range 3 {
			if i > 0 {
				next <- fmt.Sprintf("data: %d\n\n", i+1)
			}
			line, err := rd.ReadString('\n')
			rd.ReadString('\n')
			if want := fmt.Sprintf("data: %d\n", i+1); line != want || err != nil {
				t.Errorf("got %q %v, want %q before the next is sent", line, err, want)
			}
		}
		resp.Body.Close()
		close(next)
		next = make(chan string)
	}
	close(next)
}

func TestAProtocolIsChangedAndBytesPassBothWays(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			rd := bufio.NewReader(c)
			req, err := http.ReadRequest(rd)
			if err != nil {
				c.Close()
				continue
			}
			fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Accept: %s\r\n\r\nhello ", req.Header.Get("Upgrade"), webSocketAccept(req.Header.Get("Sec-WebSocket-Key")))
			got, _ := io.ReadAll(rd) // until the client has said all
			fmt.Fprintf(c, "%s", strings.ToUpper(string(got)))
			c.Close()
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	r := newRig(t, nil, l.Addr().String())
	upgrade := func(token string) (status int, rest string) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.oneURL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		tc := conn.(*net.TCPConn)
		fmt.Fprintf(tc, "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", token)
		rd := bufio.NewReader(tc)
		resp, err := http.ReadResponse(rd, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 101 {
			return resp.StatusCode, ""
		}
		if resp.Header.Get("Upgrade") != token || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
			t.Errorf("the client got %v", resp.Header)
		}
		io.WriteString(tc, "abc")
		tc.CloseWrite()
		b, _ := io.ReadAll(rd)
		return resp.StatusCode, string(b)
	}
	if code, got := upgrade("websocket"); code != 101 || got != "hello ABC" {
		t.Errorf("got %d %q, want hello ABC", code, got)
	}
	if code, _ := upgrade("h2c"); code == 101 {
		t.Error("h2c passes")
	}
}

func TestAChosenInstanceOrAddressIsTheOnlyOneAsked(t *testing.T) {
	a, b := scripts(t, act{raw: said200("a")}), scripts(t, act{raw: status(503)})
	r := newRig(t, nil, a.addr(), b.addr())
	for _, c := range []struct {
		alter  func(*filter.Exchange)
		status int
		body   string
	}{
		{func(x *filter.Exchange) { x.Instance = "i-1" }, 200, "a"},
		{func(x *filter.Exchange) { x.Instance = "i-2" }, 503, ""},
		{func(x *filter.Exchange) { x.Instance = "i-9" }, 502, ""},
		{func(x *filter.Exchange) { x.Addr = a.addr() }, 200, "a"},
		{func(x *filter.Exchange) { x.Addr = porttest.Hold(t) }, 502, ""},
	} {
		r.change(c.alter)
		for range 4 {
			if code, body, _ := r.ask("GET", "/", ""); code != c.status || c.body != "" && body != c.body {
				t.Errorf("got %d %q, want %d %q", code, body, c.status, c.body)
			}
		}
	}
}

func TestAttemptsAreLimitedByATrustedPeersBudget(t *testing.T) {
	a := scripts(t, act{raw: status(503)})
	b := scripts(t, act{raw: status(503)})
	r := newRig(t, nil, a.addr(), b.addr())
	for budget, want := range map[string]int{"1": 1, "2": 2, "nonsense": 3} {
		r.ask("GET", "/", "", attemptBudget, budget)
		if got := len(r.last().attempts); got != want {
			t.Errorf("%s: %s: %d attempts, want %d", attemptBudget, budget, got, want)
		}
	}
}

func TestOfTheRequestsInFlightOnlySoManyAreLetIn(t *testing.T) {
	engines(t, func(t *testing.T, fast bool) {
		for _, c := range []struct {
			props    map[string]string
			category filter.Category
		}{
			{map[string]string{"zuul.origin.app.concurrency.max.requests": "1"}, filter.FailureConcurrency},
			{map[string]string{"app.ribbon.MaxConnectionsPerHost": "1"}, filter.FailureMaxConnections},
			{map[string]string{"hystrix.command.app.execution.isolation.semaphore.maxConcurrentRequests": "1"}, filter.FailureConcurrency},
			{map[string]string{"zuul.origin.app.concurrency.max.requests": "1", "zuul.origin.app.concurrency.protect.enabled": "false"}, filter.Success},
		} {
			arrived, hold := make(chan struct{}, 2), make(chan struct{})
			addr := serving(t, func(w http.ResponseWriter, q *http.Request) {
				if q.URL.Path == "/hold" {
					arrived <- struct{}{}
					<-hold
				}
			})
			r := newRig(t, c.props, addr)
			r.fast = fast
			client, url := r.client()
			var wg sync.WaitGroup
			wg.Go(func() {
				if resp, err := client.Get(url + "/hold"); err != nil || resp.StatusCode != 200 {
					t.Errorf("the one that was let in: %v %v", resp, err)
				} else {
					resp.Body.Close()
				}
			})
			<-arrived
			code, _, _ := r.ask("GET", "/", "")
			if last := r.last(); last.category != c.category || c.category != filter.Success && code != 503 {
				t.Errorf("%v: got %d %v, want %v", c.props, code, last.category, c.category)
			}
			close(hold)
			wg.Wait()
		}
	})
}

func TestConnectionsAreKeptWithinTheirLimits(t *testing.T) {
	o := scripts(t, act{raw: said200("ok")})
	r := newRig(t, map[string]string{"app.ribbon.MaxRequestsPerConnection": "3", "ribbon.ConnIdleEvictTimeMilliSeconds": "5000"}, o.addr())
	for range 6 {
		r.ask("GET", "/", "")
	}
	o.mu.Lock()
	conns := o.conns
	o.mu.Unlock()
	if conns != 2 {
		t.Errorf("6 requests of which 3 may share a connection took %d connections, want 2", conns)
	}
	r.ask("GET", "/", "")
	app := r.origin("app")
	if idle, _ := app.connections(); idle != 1 {
		t.Fatalf("%d idle connections, want 1", idle)
	}
	app.sweep(filter.Now() + int64(4*time.Second))
	if idle, _ := app.connections(); idle != 1 {
		t.Errorf("after 4 s %d are idle, want 1", idle)
	}
	app.sweep(filter.Now() + int64(6*time.Second))
	if idle, busy := app.connections(); idle != 0 || busy != 0 {
		t.Errorf("after 6 s %d are idle and %d in use, want none", idle, busy)
	}
}

func TestConnectionsOfInstancesThatHaveGoneAreClosed(t *testing.T) {
	a, b := scripts(t, act{raw: said200("a")}), scripts(t, act{raw: said200("b")})
	l := &changing{}
	of := func(o *scripted) roadbed.Instance {
		return roadbed.Instance{ID: o.addr(), App: "app", Host: "127.0.0.1", Port: o.Listener.Addr().(*net.TCPAddr).Port, Status: roadbed.Up}
	}
	l.set(of(a))
	r := newRigOf(t, nil, l)
	r.ask("GET", "/", "")
	l.set(of(b))
	if _, body, _ := r.ask("GET", "/", ""); body != "b" {
		t.Errorf("got %q, want b", body)
	}
	app := r.origin("app")
	app.sweep(filter.Now())
	if all := *app.servers.Load(); len(all) != 1 || all[b.addr()] == nil {
		t.Errorf("there are connections to %v, want those to %s alone", all, b.addr())
	}
}

// changing is a list that a test changes.
type changing struct {
	mu   sync.Mutex
	list []roadbed.Instance
	fns  []func([]roadbed.Instance)
}

func (c *changing) Watch(_ string, fn func([]roadbed.Instance)) (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fns = append(c.fns, fn)
	fn(c.list)
	return func() {}
}

func (c *changing) set(list ...roadbed.Instance) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = list
	for _, fn := range c.fns {
		fn(list)
	}
}

func TestFaultsAreInjectedWhereTheClientWouldBe(t *testing.T) {
	key := fault.Key("k")
	for rules, want := range map[string]struct {
		status   int
		category filter.Category
		reached  int
	}{
		"client:app=error(500)":               {500, filter.FailureOrigin, 0},
		"client:app=reset":                    {504, filter.FailureOriginReset, 0},
		"server:app=error(503)":               {200, filter.Success, 1},
		"client:other=error(500)":             {200, filter.Success, 1},
		"client:app=delay(1ms);client:x=hang": {200, filter.Success, 1},
	} {
		o := scripts(t, act{raw: said200("ok")})
		r := newRig(t, nil, o.addr())
		f, err := fault.Parse(key, fault.Sign(key, "f", time.Now().Add(time.Hour), rules), "r", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		r.change(func(x *filter.Exchange) { x.Fault = f })
		code, _, _ := r.ask("POST", "/", "abc")
		if last := r.last(); code != want.status || last.category != want.category || len(o.requests()) != want.reached {
			t.Errorf("%s: got %d %v, %d requests arrived, want %+v: %v", rules, code, last.category, len(o.requests()), want, last.err)
		}
	}
}

func TestASlowGETGetsASecondAttempt(t *testing.T) {
	slow, fast := make(chan struct{}), scripts(t, act{raw: said200("fast")})
	cancelled := make(chan struct{}, 10)
	addr := serving(t, func(w http.ResponseWriter, q *http.Request) {
		var enough <-chan time.Time
		if q.Method == "POST" {
			enough = time.After(300 * time.Millisecond)
		}
		select {
		case <-slow:
		case <-enough:
		case <-q.Context().Done():
			cancelled <- struct{}{}
		}
	})
	t.Cleanup(func() { close(slow) })
	r := newRig(t, map[string]string{"ipc.command.app.hedge.delayInMilliseconds": "5", "ipc.command.app.hedge.percent": "100"}, addr, fast.addr())
	r.route(&filter.Plan{Hedge: true})
	hedged := 0
	for n := 0; n < 20 || hedged == 0 && n < 1000; n++ { // chance decides who is asked first
		if code, body, _ := r.ask("GET", "/", ""); code != 200 || body != "fast" {
			t.Fatalf("got %d %q: %+v", code, body, r.last())
		}
		if a := r.last().attempts; len(a) == 2 {
			hedged++
			<-cancelled
		}
	}
	if hedged == 0 {
		t.Error("none of 1000 requests was hedged")
	}
	for range 4 {
		if r.ask("POST", "/", "abc"); len(r.last().attempts) != 1 {
			t.Errorf("a POST was hedged: %+v", r.last())
		}
	}
}

func TestARequestThatMightHaveBeenHedgedIsTriedAgainWhileItsClientIsThere(t *testing.T) {
	o := scripts(t, act{raw: status(503)}, act{raw: said200("ok")})
	r := newRig(t, map[string]string{"ipc.command.app.hedge.delayInMilliseconds": "5000"}, o.addr())
	x := exchange("GET", "/")
	x.Waiter, x.Plan = new(filter.Waiter), &filter.Plan{Hedge: true}
	if err := r.Apply(x); err != nil || x.Response.Status != 200 || len(x.Attempts) != 2 {
		t.Errorf("got %d, %v, attempts %+v; want 200 by the second", x.Response.Status, err, x.Attempts)
	}
	x.End()
	if stop := func() {}; !x.Waiter.Wait(&stop) {
		t.Error("somebody waits for the client when the request is over")
	}
}

func TestAConnectionWhoseProtocolWasChangedForNobodyIsClosedOnce(t *testing.T) {
	o := scripts(t, act{raw: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", hang: true},
		act{raw: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n", hang: true})
	r := newRig(t, nil, o.addr())
	for _, want := range []int{101, 0} {
		x := exchange("GET", "/chat")
		x.Request.Upgrade, x.Plan = "websocket", &filter.Plan{Upgrades: true}
		x.Request.Header.Add("Sec-WebSocket-Key", webSocketKey())
		if err := r.Apply(x); x.Response.Status != want {
			t.Errorf("got %d, %v; want %d", x.Response.Status, err, want)
		}
		x.End() // without anybody having taken the connection over
		if open := r.origin("app").server(o.addr()).open.Load(); open != 0 {
			t.Errorf("after a %d, %d connections are counted as open, want none", want, open)
		}
	}
	o.Close()
	o.wg.Wait() // all were closed
}

func TestAMirrorGetsACopyAndHarmsNobody(t *testing.T) {
	o := scripts(t, act{raw: said200("ok")})
	got := make(chan string, 10)
	shadow := serving(t, func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		got <- fmt.Sprintf("%s %s %s %s", q.Method, q.RequestURI, q.Host, b)
		w.WriteHeader(500)
	})
	r := newRigOf(t, nil, byApp{"app": {instance("app", o.addr())}, "shadow": {instance("shadow", shadow)}})
	r.route(&filter.Plan{Mirrors: []filter.Mirror{{App: "shadow", Percent: 100}}})
	for _, body := range []string{"", "abc"} {
		if code, _, _ := r.ask("PUT", "/a?b=c", body, "Host", "shop.example"); code != 200 {
			t.Errorf("got %d", code)
		}
		if g, want := <-got, "PUT /a?b=c shop.example "+body; g != want {
			t.Errorf("the mirror got %q, want %q", g, want)
		}
	}
	r.ask("PUT", "/", strings.Repeat("x", 100<<10)) // more than is kept
	r.route(&filter.Plan{Mirrors: []filter.Mirror{{App: "nobody", Percent: 100}}})
	if code, _, _ := r.ask("GET", "/", ""); code != 200 {
		t.Errorf("with a mirror that is nowhere: got %d", code)
	}
	select {
	case g := <-got:
		t.Errorf("the mirror got %.40q too", g)
	default:
	}
}

func instance(app, addr string) roadbed.Instance {
	a, _ := net.ResolveTCPAddr("tcp", addr)
	return roadbed.Instance{ID: app + addr, App: app, Host: a.IP.String(), Port: a.Port, Status: roadbed.Up}
}

// byApp is a list that never changes.
type byApp map[string][]roadbed.Instance

func (b byApp) Watch(app string, fn func([]roadbed.Instance)) (stop func()) {
	fn(b[app])
	return func() {}
}

func TestGRPCPassesWithItsTrailers(t *testing.T) {
	addr := serving(t, func(w http.ResponseWriter, q *http.Request) {
		b, err := io.ReadAll(q.Body)
		if q.ProtoMajor != 2 || err != nil || q.Header.Get("Te") != "trailers" {
			t.Errorf("the origin got HTTP/%d, TE %q, %v", q.ProtoMajor, q.Header.Get("Te"), err)
		}
		w.Header().Set("Content-Type", "application/grpc+proto")
		w.Header().Set("Trailer", "Grpc-Status")
		w.Write(b)
		w.Header().Set("Grpc-Status", "5")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "nothing here")
	})
	r := newRig(t, nil, addr)
	frame := "\x00\x00\x00\x00\x03abc"
	req, err := http.NewRequest("POST", r.front.URL+"/s/m", strings.NewReader(frame))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc+proto")
	req.Header.Set("TE", "trailers")
	resp, err := r.front.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(b) != frame || err != nil || resp.Trailer.Get("Grpc-Status") != "5" || resp.Trailer.Get("Grpc-Message") != "nothing here" {
		t.Errorf("got %q %v %v", b, err, resp.Trailer)
	}
	last := "\x80\x00\x00\x00\x2cgrpc-message: nothing here\r\ngrpc-status: 5\r\n"
	for kind, c := range map[string]struct{ in, out string }{
		"application/grpc-web+proto":      {frame, frame + last},
		"application/grpc-web-text+proto": {base64.StdEncoding.EncodeToString([]byte(frame[:4])) + base64.StdEncoding.EncodeToString([]byte(frame[4:])), ""},
	} {
		code, body, h := r.ask("POST", "/s/m", c.in, "Content-Type", kind)
		if c.out == "" {
			whole := ""
			for rest := body; rest != ""; {
				n := min(len(rest), max(4, strings.IndexByte(rest+"=", '=')+1+strings.Count(rest[:min(len(rest), strings.IndexByte(rest+"=", '=')+2)], "==")))
				n = (n + 3) / 4 * 4
				part, err := base64.StdEncoding.DecodeString(rest[:n])
				if err != nil {
					t.Fatalf("%q is no base64: %v", rest[:n], err)
				}
				whole, rest = whole+string(part), rest[n:]
			}
			body, c.out = whole, frame+last
		}
		if code != 200 || h.Get("Content-Type") != kind || body != c.out {
			t.Errorf("%s: got %d %s %q, want %q", kind, code, h.Get("Content-Type"), body, c.out)
		}
	}
}

func TestAnInformationalAnswerThatComesWhenItsAttemptIsOverIsNotPassedOn(t *testing.T) {
	var got []int
	x := &filter.Exchange{Interim: func(status int, _ *filter.Header) { got = append(got, status) }}
	c, w := &call{proxy: &Proxy{}, x: x}, &way{}
	w.interim(c, 102, textproto.MIMEHeader{})
	w.end()
	c.x = nil // it is another's
	if err := w.interim(c, 103, textproto.MIMEHeader{}); err != nil || len(got) != 1 || got[0] != 102 {
		t.Errorf("102 before the end and 103 behind it: %v were passed on, %v; want 102 alone", got, err)
	}
}

func TestAnEventStreamThatItsRequestDidNotTellLastsAsLongAsItLasts(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		plan       *filter.Plan
		whole      bool
	}{
		{"events", "text/event-stream; charset=utf-8", &filter.Plan{}, true},
		{"over HTTP/2", "text/event-stream", &filter.Plan{Protocol: "h2c"}, true},
		{"of a slow GET that is asked for twice", "text/event-stream", &filter.Plan{Hedge: true}, true},
		{"a route with a time of its own", "text/event-stream", &filter.Plan{Timeout: time.Hour}, false},
		{"anything else", "text/plain", &filter.Plan{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // for each waits
			let := make(chan struct{})
			addr := serving(t, func(w http.ResponseWriter, q *http.Request) {
				w.Header().Set("Content-Type", c.kind)
				io.WriteString(w, "data: 1\n\n")
				w.(http.Flusher).Flush()
				<-let
				io.WriteString(w, "data: 2\n\n")
			})
			r := newRig(t, nil, addr)
			r.fast = true
			r.route(c.plan)
			var by atomic.Int64
			client, url := r.client()
			var resp *http.Response
			for left := time.Second; resp == nil || resp.StatusCode != 200 && left < time.Minute; left *= 2 { // the head must be there by then
				r.change(func(x *filter.Exchange) {
					x.Deadline = filter.Now() + int64(left)
					by.Store(x.Deadline)
				})
				var err error
				if resp, err = client.Get(url + "/"); err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
			}
			for filter.Now() < by.Load()+int64(100*time.Millisecond) {
				time.Sleep(10 * time.Millisecond)
			}
			close(let)
			text, err := io.ReadAll(resp.Body)
			if whole := err == nil && string(text) == "data: 1\n\ndata: 2\n\n"; whole != c.whole {
				t.Errorf("after the request's time: got %q, %v; want the whole answer: %v", text, err, c.whole)
			}
		})
	}
}

func TestAnEventStreamThatIsOverAtOnceLeavesItsConnectionToOthers(t *testing.T) {
	addr := serving(t, func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n") // which has a length, and comes with the head
	})
	r := newRig(t, nil, addr)
	r.fast = true
	r.change(func(x *filter.Exchange) { x.Deadline = filter.Now() + int64(time.Minute) })
	client, url := r.client()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				resp, err := client.Get(url + "/")
				if err != nil {
					t.Error(err)
					return
				}
				text, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(text) != "data: 1\n\n" {
					t.Errorf("got %q, %v; want the whole answer", text, err)
				}
			}
		})
	}
	wg.Wait()
}
