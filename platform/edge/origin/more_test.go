package origin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/platform/api/porttest"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// exchange returns an exchange as an engine hands it over.
func exchange(method, path string) *filter.Exchange {
	x := &filter.Exchange{Client: &filter.Client{}, App: "app", Plan: &filter.Plan{Upgrades: true}, ID: "request-1"}
	x.Request.Method, x.Request.Path, x.Request.Target, x.Request.Host, x.Request.Proto = method, path, path, "shop.example", 11
	return x
}

func TestAnExtendedCONNECTBecomesAnUpgrade(t *testing.T) {
	for _, c := range []struct {
		accept func(key string) string
		status int
	}{
		{webSocketAccept, 101},
		{func(string) string { return "bm9uc2Vuc2U=" }, 0},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				req, err := http.ReadRequest(bufio.NewReader(conn))
				if err == nil {
					if len(req.Header.Get("Sec-WebSocket-Key")) != 24 || req.Header.Get("Connection") != "Upgrade" {
						t.Errorf("the origin got %v", req.Header)
					}
					fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", c.accept(req.Header.Get("Sec-WebSocket-Key")))
				}
				conn.Close()
			}
		})
		r := newRig(t, map[string]string{"ipc.command.app.retries": "-1"}, l.Addr().String())
		x := exchange("GET", "/chat")
		x.Request.Proto, x.Request.Upgrade = 20, "websocket"
		x.Request.Header.Add("Sec-WebSocket-Version", "13")
		err = r.Apply(x)
		if x.Response.Status != c.status || (err == nil) != (c.status == 101) || (x.Response.Takeover != nil) != (c.status == 101) {
			t.Errorf("got %d %v, want %d", x.Response.Status, err, c.status)
		}
		x.End()
		l.Close()
		wg.Wait()
	}
}

func TestAnOriginIsToldWhatItsCallersTell(t *testing.T) {
	heads := make(chan http.Header, 10)
	addr := serving(t, func(w http.ResponseWriter, q *http.Request) {
		heads <- q.Header.Clone()
		if len(heads) == 1 {
			w.WriteHeader(503)
		}
		w.Header().Set("X-Host", q.Host)
	})
	other := serving(t, func(w http.ResponseWriter, q *http.Request) { heads <- q.Header.Clone() })
	r := newRig(t, nil, addr, other)
	x := exchange("GET", "/")
	const left = 100 * time.Minute // of which a hundredth is kept for the way back, so that no pause of this machine matters
	x.Criticality, x.Priority, x.Deadline = roadbed.Degraded, 42, filter.Now()+int64(left)
	for _, f := range []string{"X-Fit: stranger", "X-Ipc-Criticality: BULK", "x-ipc-caller: me", "Keep-Alive: 5", "TE: gzip, trailers", "Proxy-Authorization: a", "Cookie: a=b", "Connection: cookie, x-mine", "X-Mine: 1", "Expect: 100-continue"} {
		k, v, _ := strings.Cut(f, ": ")
		x.Request.Header.Add(k, v)
	}
	x.Request.Host, x.Host = "shop.example", "inner.example"
	if err := r.Apply(x); err != nil {
		t.Fatal(err)
	}
	h := <-heads
	for k, want := range map[string]string{
		"X-Ipc-Attempt": "1", "X-Ipc-Caller": "edge", "X-Ipc-Criticality": "DEGRADED", "X-Ipc-Priority": "42", "X-Request-Id": "request-1", "Cookie": "a=b", "Te": "trailers",
		"X-Fit": "", "Keep-Alive": "", "Proxy-Authorization": "", "X-Mine": "", "Expect": "",
	} {
		if got := strings.Join(h[k], ","); got != want {
			t.Errorf("%s: got %q, want %q", k, got, want)
		}
	}
	if ms, err := strconv.ParseInt(h.Get(ipc.HeaderTimeout), 10, 64); err != nil || ms > (left-left/100).Milliseconds() || ms < (left-left/50).Milliseconds() {
		t.Errorf("%s: got %q, want a little less than %d", ipc.HeaderTimeout, h.Get(ipc.HeaderTimeout), left.Milliseconds())
	}
	if len(x.Attempts) == 2 {
		if h := <-heads; h.Get("X-Ipc-Attempt") != "2" || h.Get("X-Envoy-Attempt-Count") != "2" {
			t.Errorf("the second attempt is told %v", h)
		}
	}
	x.End()
	if _, ok := r.calls.Why("app", 1); !ok || len(r.calls.WhyRequest("request-1")) != 1 {
		t.Error("/ipc/why does not know the request")
	}
}

func TestUtilizationThatAnOriginReportsCounts(t *testing.T) {
	o := scripts(t, act{raw: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Load: 75, target=50\r\n\r\n"})
	r := newRig(t, map[string]string{"edge.origin.utilization.header": "X-Load"}, o.addr())
	_, _, h := r.ask("GET", "/", "")
	w, _ := r.calls.Why("app", 1)
	if got := w.State.App.Endpoints[0].Load; got != 1.5 || h.Get("X-Load") != "" {
		t.Errorf("its load is taken to be %v, want 1.5; the client got %v", got, h)
	}
}

func TestAServerGroupIsTheOnlyOneAsked(t *testing.T) {
	one, two := scripts(t, act{raw: status(503)}), scripts(t, act{raw: status(503)})
	i1, i2, i3 := instance("app", one.addr()), instance("app", two.addr()), instance("app", porttest.Hold(t))
	i1.Group, i3.Group, i2.Group = "app-v001", "app-v001", "app-v000"
	r := newRigOf(t, nil, byApp{"app": {i1, i2, i3}})
	r.change(func(x *filter.Exchange) { x.Group = "app-v001" })
	for range 5 {
		r.ask("GET", "/", "")
		for _, a := range r.last().attempts {
			if a.ServerGroup != "app-v001" {
				t.Errorf("asked %+v", a)
			}
		}
	}
	if n := len(two.requests()); n != 0 {
		t.Errorf("the other group got %d requests", n)
	}
	r.change(func(x *filter.Exchange) { x.Group = "app-v009" })
	if code, _, _ := r.ask("GET", "/", ""); code != 502 || r.last().category != filter.FailureNoServers {
		t.Errorf("a group that is not there: got %d %v", code, r.last().category)
	}
}

func TestEarlyHintsReachClientsThatExpectThem(t *testing.T) {
	o := scripts(t, act{raw: "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + said200("ok")})
	for props, want := range map[string]string{"false": "HTTP/2.0 103", "true": "HTTP/2.0 103 HTTP/1.1 103"} {
		r := newRig(t, map[string]string{"edge.http.earlyhints": props}, o.addr())
		got := ""
		for _, fast := range []bool{false, true} {
			r.fast = fast
			client, url := r.client()
			early := ""
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				early = fmt.Sprintf("%s %d", early, code)
				if h.Get("Link") != "</a.css>" {
					t.Errorf("%d came with %v", code, h)
				}
				return nil
			}})
			req, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if b, _ := io.ReadAll(resp.Body); string(b) != "ok" {
				t.Errorf("got %q", b)
			}
			resp.Body.Close()
			if early != "" {
				got += " " + resp.Proto + early
			}
		}
		if got = strings.TrimSpace(got); got != want {
			t.Errorf("earlyhints=%s: clients got %q, want %q", props, got, want)
		}
	}
}

func TestAnAnswerEndsWithTheRequestsTime(t *testing.T) {
	for _, two := range []bool{false, true} {
		addr := serving(t, func(w http.ResponseWriter, q *http.Request) {
			for q.Context().Err() == nil {
				if _, err := io.WriteString(w, "drop "); err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
				select {
				case <-time.After(5 * time.Millisecond):
				case <-q.Context().Done():
				}
			}
		})
		r := newRig(t, nil, addr)
		plan := &filter.Plan{}
		if two {
			plan.Protocol = "h2c"
		}
		r.route(plan)
		var code int
		var text string
		var took, left time.Duration
		for code != 200 && left < time.Minute { // its head must be there by then
			left = max(2*left, 500*time.Millisecond)
			r.change(func(x *filter.Exchange) { x.Deadline = filter.Now() + int64(left) })
			start := time.Now()
			code, text, _ = r.ask("GET", "/", "")
			took = time.Since(start)
		}
		if last := r.last(); code != 200 || !strings.HasPrefix(text, "drop ") || !strings.Contains(text, "; ") || took > left+30*time.Second || last.category != filter.FailureOriginReadTimeout {
			t.Errorf("h2c %v: got %d %q %v after %s, want an answer that breaks off after %s", two, code, text, last.category, took, left)
		}
		if w, _ := r.calls.Why("app", 1); w.Calls[0].Broke != "" {
			t.Errorf("the instance is blamed: %s", w.Calls[0].Broke)
		}
	}
}

func TestAnAnswerThatBreaksOffIsNoWholeOne(t *testing.T) {
	o := scripts(t, act{raw: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", close: true})
	r := newRig(t, nil, o.addr())
	code, text, _ := r.ask("GET", "/", "")
	if last := r.last(); code == 200 && !strings.HasPrefix(text, "hello; ") || last.category != filter.FailureOriginReset {
		t.Errorf("got %d %q %v, want an answer that breaks off", code, text, last.category)
	}
	if w, _ := r.calls.Why("app", 1); w.Calls[0].Broke == "" {
		t.Errorf("what is told of it: %+v", w.Calls[0])
	}
}

func TestAClientThatIsGoneAsksNobody(t *testing.T) {
	o := scripts(t, act{raw: status(503)})
	r := newRig(t, nil, o.addr())
	x := exchange("GET", "/")
	x.Waiter = new(filter.Waiter)
	x.Waiter.Gone()
	err := r.Apply(x)
	if _, category, _ := filter.Verdict(err); category != filter.FailureClientCancelled || len(o.requests()) != 0 {
		t.Errorf("got %v, %d requests arrived", err, len(o.requests()))
	}
	x.End()

	x = exchange("GET", "/")
	x.Waiter = new(filter.Waiter)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	x.SetContext(ctx)
	done := make(chan error)
	hanging := scripts(t, act{hang: true})
	x.Addr = hanging.addr()
	go func() { done <- r.Apply(x) }()
	for len(hanging.requests()) == 0 {
		time.Sleep(time.Millisecond)
	}
	x.Waiter.Gone()
	if _, category, _ := filter.Verdict(<-done); category != filter.FailureClientCancelled {
		t.Errorf("whose client goes away meanwhile: got %v", category)
	}
	x.End()
}

func TestASettingThatMakesNoSenseLeavesTheLastOne(t *testing.T) {
	var refused []string
	refuse := func(key, _ string, _ error) { refused = append(refused, key) }
	good := read("app", map[string]string{
		"app.ribbon.MaxConnectionsPerHost": "-1", "ribbon.PerServerWaterline": "7", "ribbon.MaxRequestsPerConnection": "5", "app.ribbon.TcpNoDelay": "false", "ribbon.TcpKeepAlive": "true",
		"zuul.origin.app.concurrency.max.requests": "9", "edge.origin.app.protocol": "h2c", "edge.origin.app.concurrency.mode": "gradient", "ribbon.MaxAutoRetriesNextServer": "3", "ribbon.CloseOnCircuitBreaker": "false",
		"edge.origin.default.streams.max": "50",
	}, &settings{}, silent, refuse)
	want := &settings{perHost: -1, waterline: 7, maxRequests: 5, keepAlive: true, delay: true, concurrent: 9, protocol: "h2c", gradient: true, nextServer: 3, streams: 50}
	if !reflect.DeepEqual(good, want) || refused != nil {
		t.Errorf("got  %+v\nwant %+v, refused %v", good, want, refused)
	}
	bad := map[string]string{}
	for _, k := range []string{
		"app.ribbon.MaxConnectionsPerHost", "ribbon.PerServerWaterline", "ribbon.MaxRequestsPerConnection", "app.ribbon.TcpNoDelay", "ribbon.TcpKeepAlive", "zuul.origin.app.concurrency.max.requests",
		"edge.origin.app.protocol", "edge.origin.app.concurrency.mode", "ribbon.MaxAutoRetriesNextServer", "ribbon.CloseOnCircuitBreaker", "edge.origin.app.tls", "edge.origin.app.streams.max",
	} {
		bad[k] = "nonsense"
	}
	if got := read("app", bad, good, silent, refuse); !reflect.DeepEqual(got, good) || len(refused) != len(bad) {
		t.Errorf("got  %+v\nwant %+v, refused %v", got, good, refused)
	}
}

func TestNoConnectionIsKeptWhereTheWaterlineIsZero(t *testing.T) {
	o := scripts(t, act{raw: said200("ok")})
	r := newRig(t, map[string]string{"app.ribbon.PerServerWaterline": "0"}, o.addr())
	for range 2 {
		x := exchange("GET", "/")
		if err := r.Apply(x); err != nil {
			t.Fatal(err)
		}
		x.End()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if got := r.Origins()[0]; got.Keeps != 0 || got.Servers[0] != (ServerState{o.addr(), 0, 0}) || o.conns != 2 {
		t.Errorf("got %+v and %d connections, want one for each of 2 requests", got, o.conns)
	}
}

func TestOriginsAreTold(t *testing.T) {
	o := scripts(t, act{raw: said200("ok")})
	r := newRig(t, map[string]string{"edge.profile": "zuul"}, o.addr())
	r.ask("GET", "/", "")
	got := r.Origins()
	if len(got) != 1 || got[0].App != "app" || got[0].PerServer != 50 || len(got[0].Servers) != 1 || got[0].Servers[0] != (ServerState{o.addr(), 1, 0}) {
		t.Errorf("got %+v", got)
	}
}

func TestWithoutPropertiesNothingIsNeeded(t *testing.T) {
	e := ipc.New(ipc.Options{Log: silent})
	defer e.Close()
	p := New(Config{Calls: e})
	defer p.Close()
	x := exchange("GET", "/")
	if _, category, _ := filter.Verdict(p.Apply(x)); category != filter.FailureNoServers {
		t.Errorf("got %v", category)
	}
	x.End()
	x.App = ""
	if err := p.Apply(x); err == nil {
		t.Error("a request without an app is answered")
	}
}

func TestAnswersKeepTheirFraming(t *testing.T) {
	addr := serving(t, func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("ETag", `"a"`)
			w.WriteHeader(304)
		case "/trailers":
			w.Header().Set("Trailer", "X-Sum")
			b, _ := io.ReadAll(q.Body)
			w.Write(b)
			w.Header().Set("X-Sum", q.Trailer.Get("X-Sum"))
		default:
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "hello")
		}
	})
	engines(t, func(t *testing.T, fast bool) {
		for _, protocol := range []string{"", "h2c"} {
			r := newRig(t, nil, addr)
			r.fast = fast
			r.route(&filter.Plan{Protocol: protocol})
			client, url := r.client()
			for _, c := range []struct {
				method, path string
				status       int
				length       int64
				body         string
			}{{"GET", "/", 200, 5, "hello"}, {"HEAD", "/", 200, 5, ""}, {"GET", "/204", 204, 0, ""}, {"GET", "/304", 304, 0, ""}, {"OPTIONS", "/", 200, 5, "hello"}, {"DELETE", "/", 200, 5, "hello"}} {
				req, err := http.NewRequest(c.method, url+c.path, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != c.status || string(b) != c.body || err != nil || resp.ContentLength > 0 && resp.ContentLength != c.length || c.length > 0 && resp.ContentLength != c.length {
					t.Errorf("%q %s %s: got %d, length %d, %q %v; want %d, %d, %q", protocol, c.method, c.path, resp.StatusCode, resp.ContentLength, b, err, c.status, c.length, c.body)
				}
			}
			req, err := http.NewRequest("POST", url+"/trailers", struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 100<<10))})
			if err != nil {
				t.Fatal(err)
			}
			req.Trailer = http.Header{"X-Sum": {"7"}}
			req.Header.Set("Expect", "100-continue")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if len(b) != 100<<10 || err != nil || resp.Trailer.Get("X-Sum") != "7" {
				t.Errorf("%q: a body with trailers: got %d bytes, %v, trailers %v", protocol, len(b), err, resp.Trailer)
			}
		}
	})
}

func TestAnAddressThatIsInNoListKeepsItsConnections(t *testing.T) {
	o := scripts(t, act{raw: said200("ok")})
	r := newRig(t, nil)
	r.change(func(x *filter.Exchange) { x.App, x.Addr = o.addr(), o.addr() })
	for range 3 {
		if code, body, _ := r.ask("GET", "/", ""); code != 200 || body != "ok" {
			t.Errorf("got %d %q", code, body)
		}
		r.origin(o.addr()).sweep(filter.Now())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns != 1 {
		t.Errorf("3 requests took %d connections, want 1", o.conns)
	}
	app := r.origin(o.addr())
	app.sweep(filter.Now() + int64(2*time.Minute))
	if n := len(*app.servers.Load()); n != 0 {
		t.Errorf("after two minutes %d servers are remembered, want none", n)
	}
}

func TestAnOriginWhoseCertificateNobodyKnowsIsNotReached(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	i := instance("app", s.Listener.Addr().String())
	i.Secure = true
	r := newRigOf(t, nil, byApp{"app": {i}})
	code, _, _ := r.ask("POST", "/", "abc")
	if last := r.last(); code != 502 || last.category != filter.FailureOriginConnectivity || len(last.attempts) != 1 {
		t.Errorf("got %d %v after %d attempts, want 502 FAILURE_ORIGIN_CONNECTIVITY after 1: %v", code, last.category, len(last.attempts), last.err)
	}
}

func TestABodyThatNobodyWantsAnyMoreHarmsNoLaterRequest(t *testing.T) {
	addr := serving(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/early" {
			w.Header().Set("Connection", "close") // else net/http would wait for the body
			w.WriteHeader(403)
			return
		}
		io.Copy(w, q.Body)
	})
	engines(t, func(t *testing.T, fast bool) {
		for _, protocol := range []string{"", "h2c"} {
			r := newRig(t, nil, addr)
			r.fast = fast
			r.route(&filter.Plan{Protocol: protocol})
			client, url := r.client()
			for i := range 20 {
				pr, pw := io.Pipe()
				go pw.Write([]byte("stale"))
				resp, err := client.Post(url+"/early", "text/plain", pr)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				pw.Close()
				want := strings.Repeat("x", 100+i)
				if code, body, _ := r.ask("POST", "/", want); resp.StatusCode != 403 || code != 200 || body != want {
					t.Fatalf("%q: got %d, then %d %q, want 403 and %q: %v", protocol, resp.StatusCode, code, body, want, r.last().err)
				}
			}
		}
	})
}
