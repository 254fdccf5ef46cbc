package edge

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// house is a gateway in front of backends, without a registry: what the registry would push is set by hand.
type house struct {
	*Gateway
	front *httptest.Server
	lists ipc.Static
}

// route makes document the only one of routes.
func (h *house) route(document string) { h.write(map[string]string{"edge.routes": document}) }

// write makes these all documents of routes, and waits until they are in force.
func (h *house) write(all map[string]string) {
	h.askRoutes(all)
	h.setRoutes()
}

func newHouse(t testing.TB, backends map[string]http.Handler) *house {
	t.Helper()
	return newHouseWith(t, nil, backends)
}

func newHouseWith(t testing.TB, props *config.Properties, backends map[string]http.Handler) *house {
	t.Helper()
	return newHouseIn(t, "", props, backends)
}

// newHouseIn returns a gateway of a region.
func newHouseIn(t testing.TB, region string, props *config.Properties, backends map[string]http.Handler) *house {
	t.Helper()
	lists := ipc.Static{}
	var all []roadbed.Instance
	for app, h := range backends {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		addr := srv.Listener.Addr().(*net.TCPAddr)
		i := roadbed.Instance{ID: app + "-0", App: app, Host: "127.0.0.1", Port: addr.Port, Status: roadbed.Up, Since: time.Now().Add(-time.Hour)}
		lists[app] = []roadbed.Instance{i}
		all = append(all, i)
	}
	log := slog.New(slog.DiscardHandler)
	if props == nil {
		props = config.New(config.Options{Override: unhurried(nil), Log: log})
	}
	key := fault.Key("a key for tests, thirty-two long")
	calls := ipc.New(ipc.Options{App: "edge", Lists: lists, Config: props, Log: log, FaultKey: func() fault.Key { return key }})
	g := New(Config{Calls: calls, Properties: props, Meter: meter.New(nil), Location: roadbed.Location{Region: region}, Log: log})
	t.Cleanup(func() { g.regions.Close(); g.origins.Close(); calls.Close() })
	g.setApps(all)
	h := &house{Gateway: g, lists: lists, front: httptest.NewServer(g)}
	t.Cleanup(h.front.Close)
	t.Cleanup(h.front.Client().CloseIdleConnections)
	return h
}

// unhurried adds to properties that a busy machine has time to connect and to answer.
func unhurried(override map[string]string) map[string]string {
	all := map[string]string{"ribbon.ConnectTimeout": "30000", "edge.timeouts.request": "1m"}
	maps.Copy(all, override)
	return all
}

// exchangeOf is a request that took the route of hello.
func exchangeOf(id string, fields ...string) *filter.Exchange {
	x := &filter.Exchange{ID: id, Plan: &filter.Plan{Route: "hello"}}
	for i := 0; i < len(fields); i += 2 {
		x.Request.Header.Add(fields[i], fields[i+1])
	}
	return x
}

func (h *house) get(t testing.TB, path string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest("GET", h.front.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := *h.front.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestAppsAreReachableUnderTheirName(t *testing.T) {
	h := newHouse(t, map[string]http.Handler{"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s prefix %s", r.Method, r.RequestURI, r.Header.Get("X-Forwarded-Prefix"))
	})})
	tests := []struct {
		path   string
		status int
		says   string
	}{
		{"/hello/", 200, "GET / prefix /hello"},
		{"/hello/a/b?c=d", 200, "GET /a/b?c=d prefix /hello"},
		{"/hello/a%2Fb", 200, "GET /a%2Fb prefix /hello"},
		{"/HELLO?x=1", 308, ""},
		{"/hello?x=1", 308, ""},
		{"/nobody/", 404, "no route leads to /nobody/; there are /hello/"},
		{"/", 200, `<a href="/hello/">`},
		{"/hello/../secret", 400, "dot segment"},
		{"/hello/%2e%2e/secret", 400, "dot segment"},
	}
	for _, tt := range tests {
		resp, body := h.get(t, tt.path)
		if resp.StatusCode != tt.status || !strings.Contains(body, tt.says) {
			t.Errorf("GET %s: got %d %q, want %d with %q", tt.path, resp.StatusCode, body, tt.status, tt.says)
		}
		if want := map[string]string{"/hello?x=1": "/hello/?x=1", "/HELLO?x=1": "/hello?x=1"}[tt.path]; resp.Header.Get("Location") != want {
			t.Errorf("GET %s: leads to %q, want %q", tt.path, resp.Header.Get("Location"), want)
		}
	}
}

func TestStrangersAreNotToldWhatThereIs(t *testing.T) {
	props := config.New(config.Options{Override: map[string]string{"edge.trusted.cidrs": "127.0.0.1"}})
	h := newHouseWith(t, props, map[string]http.Handler{"billing": http.NotFoundHandler()})
	for _, path := range []string{"/", "/nobody/"} {
		if resp, body := h.get(t, path, "X-Forwarded-For", "192.0.2.1"); resp.StatusCode != 404 || !strings.Contains(body, "no route leads to "+path) || strings.Contains(body, "billing") {
			t.Errorf("%s of a stranger: got %d %q, want 404 and nothing of billing", path, resp.StatusCode, body)
		}
		for _, who := range [][2]string{{"X-Forwarded-For", "127.0.0.1"}, {"X-Edge-Debug", "1"}} {
			if _, body := h.get(t, path, who[0], who[1]); !strings.Contains(body, "/billing/") {
				t.Errorf("%s with %s: got %q, want it to tell of /billing/", path, who[0], body)
			}
		}
	}
}

// Who has said by routes what is to be where is not answered at / with a list of apps.
func TestThereIsNoListOfAppsOnceThereAreRoutes(t *testing.T) {
	h := newHouse(t, map[string]http.Handler{"billing": http.NotFoundHandler()})
	h.route(`[{"id":"a","match":{"path":{"prefix":"/a"}},"backends":[{"vip":"billing"}]}]`)
	if resp, body := h.get(t, "/"); resp.StatusCode != 404 || strings.Contains(body, "<a href") {
		t.Errorf("/: got %d %q, want 404 and no page", resp.StatusCode, body)
	}
}

func TestIgnoredServicesAreNotReachableUnderTheirNames(t *testing.T) {
	for ignored, want := range map[string]string{"": "billing hello internal-a", "BILLING,internal-*": "hello", "*": "", "hello,[": ""} {
		props := config.New(config.Options{Override: map[string]string{"zuul.ignoredServices": ignored}})
		nobody := http.NotFoundHandler()
		h := newHouseWith(t, props, map[string]http.Handler{"hello": nobody, "billing": nobody, "internal-a": nobody})
		if got := strings.Join(h.table.Load().Apps(), " "); got != want {
			t.Errorf("without %q: got %q, want %q", ignored, got, want)
		}
	}
}

func TestHastyClientsOpenNoBreaker(t *testing.T) {
	h := newHouse(t, map[string]http.Handler{"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Grpc-Timeout") != "" || r.Header.Get("X-Envoy-Expected-Rq-Timeout-Ms") != "" {
			http.Error(w, "late", http.StatusGatewayTimeout)
		}
	})})
	for range 60 {
		for _, hasty := range [][2]string{{"Grpc-Timeout", "1n"}, {"X-Envoy-Expected-Rq-Timeout-Ms", "0"}} {
			if resp, body := h.get(t, "/hello/", hasty[0], hasty[1]); resp.StatusCode != 200 {
				t.Fatalf("with %s: %s the answer was %d %s, want 200", hasty[0], hasty[1], resp.StatusCode, body)
			}
		}
	}
}

func TestNothingAClientSaysOfItselfIsBelieved(t *testing.T) {
	var seen http.Header
	h := newHouse(t, map[string]http.Handler{"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		w.Header().Set("X-Ipc-No-Retry", "1")
		w.Header().Set("X-Request-Id", "the service's own")
	})})
	resp, _ := h.get(t, "/hello/", "X-Fit", "id=x", "X-Ipc-Attempt", "7", "X-Ipc-Criticality", "CRITICAL", "X-Ipc-Timeout-Ms", "999999",
		"Grpc-Timeout", "1m", "X-Envoy-Expected-Rq-Timeout-Ms", "1",
		"X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "https", "X-Real-Ip", "6.6.6.6", "Forwarded", "for=6.6.6.6",
		"Connection", "X-Secret-Hop", "X-Secret-Hop", "1", "X-Request-Id", "abcdefgh-1", "X-Kept", "yes")
	for k, want := range map[string]string{
		"X-Fit": "", "X-Ipc-Attempt": "1", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Real-Ip": "", "Forwarded": "",
		"Grpc-Timeout": "", "X-Envoy-Expected-Rq-Timeout-Ms": "", "X-Secret-Hop": "", "X-Request-Id": "abcdefgh-1", "X-Kept": "yes", "X-Ipc-Caller": "edge",
	} {
		if got := seen.Get(k); got != want {
			t.Errorf("the service saw %s: %q, want %q", k, got, want)
		}
	}
	if ms := seen.Get("X-Ipc-Timeout-Ms"); ms == "999999" || ms == "" {
		t.Errorf("the service was given %q ms, want what is left of the route's 10 s", ms)
	}
	if got := resp.Header.Values("X-Request-Id"); len(got) != 1 || got[0] != "abcdefgh-1" {
		t.Errorf("the client was told the request ids %q, want its own", got)
	}
	if got := resp.Header.Get("X-Ipc-No-Retry"); got != "" {
		t.Errorf("the client was told X-Ipc-No-Retry: %s", got)
	}
	h.get(t, "/hello/", "X-Request-Id", "a b<script>")
	if got := seen.Get("X-Request-Id"); len(got) != 24 {
		t.Errorf("an unfit request id became %q, want a new one", got)
	}
}

func TestRoutesChangeWithoutALostRequest(t *testing.T) {
	name := func(n string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, n) })
	}
	h := newHouse(t, map[string]http.Handler{"a": name("a"), "b": name("b")})
	to := func(vip string) string {
		return `[{"id":"r","match":{"path":{"prefix":"/x"}},"backends":[{"vip":"` + vip + `"}]}]`
	}
	h.route(to("a"))
	var wg sync.WaitGroup
	var count atomic.Int64
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := h.front.Client().Get(h.front.URL + "/x/y")
				if err != nil {
					t.Error(err)
					return
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 || string(body) != "a" && string(body) != "b" {
					t.Errorf("during a change: got %d %q", resp.StatusCode, body)
				}
				count.Add(1)
			}
		})
	}
	for i := 0; count.Load() < 400; i++ {
		h.route(to([]string{"a", "b"}[i%2]))
	}
	close(stop)
	wg.Wait()

	h.route(to("b"))
	h.route(`[{"id":"bad"}]`)
	if _, body := h.get(t, "/x/"); body != "b" {
		t.Errorf("after a refused table: got %q, want the old route's b", body)
	}
	if h.refused == "" {
		t.Error("nothing tells why the table was refused")
	}
}

func TestFailingBackendsAreNamedWithWhatToDo(t *testing.T) {
	block := make(chan struct{})
	h := newHouse(t, map[string]http.Handler{
		"slow":   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-block }),
		"broken": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
	})
	defer close(block)
	h.route(`[{"id":"slow","match":{"path":{"prefix":"/slow"}},"backends":[{"vip":"slow"}],"timeouts":{"request":"100ms"}},
		{"id":"gone","match":{"path":{"prefix":"/gone"}},"backends":[{"vip":"gone"}]}]`)
	began := time.Now()
	resp, body := h.get(t, "/slow/x")
	if resp.StatusCode != 504 || !strings.Contains(body, "slow did not answer in time") {
		t.Errorf("a backend slower than the route allows: got %d %q", resp.StatusCode, body)
	}
	if took := time.Since(began); took > 30*time.Second { // a route that says nothing has a minute here
		t.Errorf("a request with 100 ms waited %v", took)
	}
	if resp, body := h.get(t, "/gone/"); resp.StatusCode != 502 || !strings.Contains(body, "no instance of gone is up") {
		t.Errorf("an app without instances: got %d %q", resp.StatusCode, body)
	}
	if resp, body := h.get(t, "/broken/", "Accept", "application/json"); resp.StatusCode != 504 || !json.Valid([]byte(body)) {
		t.Errorf("an app that breaks off: got %d %q, want a 504 in JSON", resp.StatusCode, body)
	}
}

func TestTheRefusalOfABusyServicePassesAsItIsAndTheServiceIsNotGivenUp(t *testing.T) {
	busy := ipc.New(ipc.Options{App: "busy", Log: slog.New(slog.DiscardHandler), Server: ipc.ServerSettings{Limit: ipc.LimitFixed, InitialLimit: 1}})
	defer busy.Close()
	block, began := make(chan struct{}), make(chan struct{}, 2)
	h := newHouse(t, map[string]http.Handler{"busy": busy.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/wait") {
			began <- struct{}{}
			<-block
		}
	}))})
	h.route(`[{"id":"busy","match":{"path":{"prefix":"/busy"}},"backends":[{"vip":"busy"}]}]`)
	var wg sync.WaitGroup
	for range 2 { // a fifth above its limit is the most it holds
		wg.Go(func() {
			if resp, _ := h.get(t, "/busy/wait"); resp.StatusCode != 200 {
				t.Errorf("a request in flight: got %d, want 200", resp.StatusCode)
			}
		})
		select {
		case <-began:
		case <-time.After(10 * time.Second):
			t.Fatal("a request does not reach the service")
		}
	}
	for i := range 50 {
		resp, body := h.get(t, "/busy/x")
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !strings.HasPrefix(body, "busy has too much to do") {
			t.Fatalf("request %d: got %d, Retry-After %q, %q; want what the service said", i, resp.StatusCode, resp.Header.Get("Retry-After"), body)
		}
		for k := range resp.Header {
			if strings.HasPrefix(k, "X-Ipc-") || strings.HasPrefix(k, "X-Netflix") || strings.HasPrefix(k, "Endpoint-Load") {
				t.Fatalf("the world is told %s: %s", k, resp.Header.Get(k))
			}
		}
	}
	close(block)
	wg.Wait()
	if resp, body := h.get(t, "/busy/x"); resp.StatusCode != 200 {
		t.Errorf("once it has time: got %d %q, want 200", resp.StatusCode, body)
	}
}

func TestEventStreamsFlowAndUpgradesPassThrough(t *testing.T) {
	next := make(chan struct{})
	h := newHouse(t, map[string]http.Handler{
		"events": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for range 2 {
				io.WriteString(w, "data: x\n\n")
				http.NewResponseController(w).Flush()
				<-next
			}
		}),
		"echo": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			line, _ := rw.ReadString('\n')
			io.WriteString(conn, "echo "+line)
		}),
	})
	req, _ := http.NewRequest("GET", h.front.URL+"/events/", nil)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := h.front.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(resp.Body)
	for range 2 {
		if line, err := r.ReadString('\n'); err != nil || line != "data: x\n" { // arrives while the backend still waits
			t.Errorf("got %q, %v", line, err)
		}
		r.ReadString('\n')
		next <- struct{}{}
	}
	resp.Body.Close()

	conn, err := net.Dial("tcp", h.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /echo/ HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	cr := bufio.NewReader(conn)
	up, err := http.ReadResponse(cr, nil)
	if err != nil || up.StatusCode != 101 {
		t.Fatalf("upgrade: got %v, %v, want 101", up, err)
	}
	io.WriteString(conn, "hi\n")
	if line, err := cr.ReadString('\n'); line != "echo hi\n" {
		t.Errorf("through the upgraded connection: got %q, %v", line, err)
	}
	// A backend that changes the protocol unasked may be answering somebody else.
	if resp, body := h.get(t, "/echo/"); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("101 without having asked for it: got %d %q, want 502", resp.StatusCode, body)
	}
}

func TestFaultsReachRequestsInScopeOnly(t *testing.T) {
	h := newHouse(t, map[string]http.Handler{"hello": http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	key := "a key for tests, thirty-two long"
	expires := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	all := func(who string) map[string]string {
		return map[string]string{"fault.key": key, "fault.scenario.f1": `{"rules":"client:hello=error(503)","expires":"` + expires + `","who":` + who + `}`}
	}
	log := slog.New(slog.DiscardHandler)
	status := func(headers ...string) int {
		t.Helper()
		resp, _ := h.get(t, "/hello/", headers...)
		return resp.StatusCode
	}
	h.faults.Store(newFaults(all(`{"percent":100}`), &faults{}, nil, log))
	if got := status(); got != 503 {
		t.Errorf("a fault for everybody: got %d, want 503", got)
	}
	for who, want := range map[string]int{`{}`: 503, `{"percent":0}`: 200} {
		h.faults.Store(newFaults(all(who), &faults{}, nil, log))
		if got := status(); got != want {
			t.Errorf("a fault for %s: got %d, want %d", who, got, want)
		}
	}
	two := all(`{"percent":100}`)
	two["fault.scenario.f2"] = strings.Replace(two["fault.scenario.f1"], "client:hello=error(503)", "client:other=delay(1s)", 1)
	h.faults.Store(newFaults(two, &faults{}, nil, log))
	if got := status(); got != 503 {
		t.Errorf("two faults for everybody: got %d, want the first one's 503", got)
	}
	h.faults.Store(newFaults(all(`{"percent":100,"users":["u-1"]}`), &faults{}, nil, log))
	if a, b := status("X-Member", "u-1"), status("X-Member", "u-2"); a != 503 || b != 200 {
		t.Errorf("a fault for u-1: u-1 got %d, u-2 got %d; want 503, 200", a, b)
	}
	h.faults.Store(newFaults(all(`{"percent":100,"devices":["tv"]}`), &faults{}, nil, log))
	if a, b := status("X-Device", "tv"), status("X-Device", "phone"); a != 503 || b != 200 {
		t.Errorf("a fault for the device tv: tv got %d, phone got %d; want 503, 200", a, b)
	}
	for route, want := range map[string]int{"hello": 503, "other": 200} {
		on := all(`{"percent":100},"where":{"routes":["` + route + `"]}`)
		h.faults.Store(newFaults(on, &faults{}, nil, log))
		if got := status(); got != want {
			t.Errorf("a fault on the route %s, asked by hello: got %d, want %d", route, got, want)
		}
	}
	h.faults.Store(newFaults(all(`{"percent":100},"where":{"zones":["zone-x"]}`), &faults{}, nil, log))
	if got := status(); got != 200 {
		t.Errorf("a fault in another zone: got %d, want 200", got)
	}
	h.faults.Store(newFaults(all(`{"percent":100,"header":{"x-team":"qa"}}`), &faults{}, nil, log))
	if a, b := status("X-Team", "qa"), status(); a != 503 || b != 200 {
		t.Errorf("a fault for a header: with it %d, without %d; want 503, 200", a, b)
	}
	off := all(`{"percent":100}`)
	for _, thrown := range []string{"false", "FALSE", "off", "gibberish"} {
		off["fault.enabled"] = thrown
		h.faults.Store(newFaults(off, &faults{}, nil, log))
		if got := status(); got != 200 {
			t.Errorf("with fault.enabled %s: got %d, want 200", thrown, got)
		}
	}
	gone := all(`{"percent":100}`)
	gone["fault.scenario.f1"] = strings.Replace(gone["fault.scenario.f1"], expires, "2001-01-01T00:00:00Z", 1)
	h.faults.Store(newFaults(gone, &faults{}, nil, log))
	if got := status(); got != 200 {
		t.Errorf("with an expired fault: got %d, want 200", got)
	}

	// A share of users is the same users each time.
	f := newFaults(all(`{"percent":30}`), &faults{}, nil, log)
	in, spared := 0, 0
	for i := range 2000 {
		member := fmt.Sprint("u-", i)
		first, control := f.scenarios[0].includes(exchangeOf("request-1", "X-Member", member), "X-Member", "X-Device")
		if control {
			spared++
		}
		if second, _ := f.scenarios[0].includes(exchangeOf("request-2", "X-Member", member), "X-Member", "X-Device"); first != second {
			t.Fatalf("u-%d is in scope of one request and not of the next", i)
		}
		if first {
			in++
		}
	}
	if in < 500 || in > 700 || spared < 500 || spared > 700 {
		t.Errorf("30 %% of 2000 users: got %d, and %d as the control group", in, spared)
	}
}

func TestTheEdgeInjectsAtItsOwnPoint(t *testing.T) {
	var asked atomic.Int32
	h := newHouse(t, map[string]http.Handler{"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		io.WriteString(w, "0123456789")
	})})
	inject := func(action string) {
		h.faults.Store(newFaults(map[string]string{"fault.key": "a key for tests, thirty-two long",
			"fault.scenario.f1": `{"rules":"edge:hello=` + action + `","expires":"` + time.Now().Add(time.Hour).Format(time.RFC3339) + `","who":{"percent":100}}`}, &faults{}, nil, slog.New(slog.DiscardHandler)))
	}
	inject("error(418)")
	if resp, _ := h.get(t, "/hello/"); resp.StatusCode != 418 || asked.Load() != 0 {
		t.Errorf("error: got %d after %d asked the service; want 418 and nobody", resp.StatusCode, asked.Load())
	}
	inject("partial(4)")
	resp, err := h.front.Client().Get(h.front.URL + "/hello/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) || string(b) != "0123" {
		t.Errorf("partial: got %q, %v; want 0123 and an unexpected EOF", b, err)
	}
	inject("reset")
	if resp, err := h.front.Client().Get(h.front.URL + "/hello/"); err == nil {
		resp.Body.Close()
		t.Errorf("reset: got %d, want a broken connection", resp.StatusCode)
	}
	if got := h.Gateway.faults.Load().counted(); len(got) != 1 || got[0].Injected.Requests == 0 || got[0].Injected.Failed != got[0].Injected.Requests {
		t.Errorf("counted: got %+v, want the reset ones as failed", got)
	}
}

func TestRequestsMayAskForFaultsByEnvoysHeaders(t *testing.T) {
	for _, tc := range []struct {
		headers string
		want    string
	}{
		{"", ""}, {"abort-request=503", "edge:*=error(503)"}, {"abort-request=200", ""}, {"abort-request=soon", ""}, {"abort-request=600", ""},
		{"abort-grpc-request=14", "edge:*=error(14)"}, {"abort-grpc-request=0", ""}, {"abort-grpc-request=17", ""},
		{"delay-request=20", "edge:*=delay(20ms)"}, {"delay-request=0", ""}, {"delay-request=-1", ""}, {"delay-request=400000", ""},
		{"delay-request=20 abort-request=418 delay-request-percentage=50 abort-request-percentage=0", "edge:*=delay(20ms)@50;edge:*=error(418)@0"},
		{"abort-request=503 abort-request-percentage=101", ""}, {"abort-request=503 abort-request-percentage=x", ""},
	} {
		var h filter.Header
		for _, f := range strings.Fields(tc.headers) {
			k, v, _ := strings.Cut(f, "=")
			h.Set("X-Envoy-Fault-"+k, v)
		}
		if got := envoyRules(&h); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.headers, got, tc.want)
		}
	}
	props, set := pushed(t)
	h := newHouseWith(t, props, map[string]http.Handler{"hello": http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	h.faults.Store(newFaults(map[string]string{"fault.key": "a key for tests, thirty-two long"}, &faults{}, nil, slog.New(slog.DiscardHandler)))
	status := func() int {
		resp, _ := h.get(t, "/hello/", "X-Envoy-Fault-Abort-Request", "418")
		return resp.StatusCode
	}
	if got := status(); got != 200 {
		t.Errorf("without leave: got %d, want 200", got)
	}
	set("ipc.fit.envoyHeaders", "true")
	if got := status(); got != 418 {
		t.Errorf("with leave: got %d, want 418", got)
	}
	set("ipc.fit.enabled", "false")
	if got := status(); got != 200 {
		t.Errorf("with the kill switch thrown: got %d, want 200", got)
	}
}

func TestAFaultsGroupsAreCounted(t *testing.T) {
	h := newHouse(t, map[string]http.Handler{"hello": http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	props := map[string]string{"fault.key": "a key for tests, thirty-two long",
		"fault.scenario.f1": `{"rules":"client:hello=error(503)","expires":"` + time.Now().Add(time.Hour).Format(time.RFC3339) + `","who":{"percent":25}}`}
	h.faults.Store(newFaults(props, &faults{}, nil, slog.New(slog.DiscardHandler)))
	const all = 400
	for i := range all {
		h.get(t, "/hello/", "X-Member", fmt.Sprint("u-", i))
	}
	h.faults.Store(newFaults(props, h.faults.Load(), nil, slog.New(slog.DiscardHandler))) // a change elsewhere
	got := h.faults.Load().counted()
	if len(got) != 1 || got[0].ID != "f1" {
		t.Fatalf("got %+v, want those of f1", got)
	}
	hit, spared := got[0].Injected, got[0].Control
	if hit.Requests < all/8 || hit.Requests > all*3/8 || spared.Requests < all/8 || spared.Requests > all*3/8 || hit.Failed != hit.Requests || spared.Failed != 0 {
		t.Errorf("25 %% of %d requests: hit %+v, control %+v; want about 100 each, all of the first failed and none of the others", all, hit, spared)
	}
}

func TestScenariosThatDoNotFitTogetherLeaveTheNewestOut(t *testing.T) {
	props := map[string]string{"fault.key": "a key for tests, thirty-two long"}
	for i := range 4 {
		props[fmt.Sprintf("fault.scenario.s%d", 4-i)] = fmt.Sprintf(`{"rules":"client:a=error(503);client:%s=delay(1s)","expires":%q,"created":%q,"who":{"percent":100}}`,
			strings.Repeat("x", 800), time.Now().Add(time.Hour).Format(time.RFC3339), time.Now().Add(time.Duration(i)*time.Second).Format(time.RFC3339))
	}
	var logged bytes.Buffer
	f := newFaults(props, &faults{}, nil, slog.New(slog.NewTextHandler(&logged, nil)))
	c, arms := f.attach(exchangeOf("request-1"))
	if c.ID() != "s4.s3" || len(arms) != 2 || !strings.Contains(logged.String(), "newest is left out") {
		t.Errorf("got %q in %d groups, logged %s; want the two oldest, s4.s3, and a warning", c.ID(), len(arms), logged.String())
	}
}

func TestAFaultInItsLastSecondTakesNoOtherAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where no time passes meanwhile
		scenario := func(rules string, left time.Duration) string {
			return fmt.Sprintf(`{"rules":%q,"who":{"percent":100},"expires":%q}`, rules, time.Now().Add(left).Format(time.RFC3339Nano))
		}
		var logged bytes.Buffer
		for _, left := range []time.Duration{time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 600 * time.Millisecond, 800 * time.Millisecond} {
			f := newFaults(map[string]string{
				"fault.key":        "a key for tests, thirty-two long",
				"fault.scenario.a": scenario("server:a=error(503)", left),
				"fault.scenario.b": scenario("server:b=error(503)", time.Hour),
			}, &faults{}, nil, slog.New(slog.NewTextHandler(&logged, nil)))
			if c, _ := f.attach(exchangeOf("request-1")); c == nil || c.ID() != "a.b" {
				t.Errorf("one fault with %s left, another with an hour: got %v, want both: %s", left, c, logged.String())
			}
		}
	})
}

func TestARequestThatIsLedBackEndsAfterThreeRounds(t *testing.T) {
	var asked atomic.Int32
	h := newHouse(t, nil)
	self := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(self.Close)
	addr := self.Listener.Addr().(*net.TCPAddr)
	loop := roadbed.Instance{ID: "loop-0", App: "loop", Host: "127.0.0.1", Port: addr.Port, Status: roadbed.Up, Since: time.Now().Add(-time.Hour)}
	h.lists["loop"] = []roadbed.Instance{loop}
	h.route(`[{"id":"spin","match":{"path":{"prefix":"/spin"}},"backends":[{"vip":"loop"}]}]`)
	resp, body := h.get(t, "/spin/x")
	if resp.StatusCode != http.StatusLoopDetected || asked.Load() != 3 {
		t.Errorf("a route that leads to the edge: got %d %s after %d rounds, want 508 after 3", resp.StatusCode, body, asked.Load())
	}
}

func TestWhatOthersNoteInViaIsNoLoop(t *testing.T) {
	var via []string
	h := newHouse(t, map[string]http.Handler{"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { via = r.Header["Via"] })})
	resp, _ := h.get(t, "/hello/", "Via", "1.1 a, 1.0 b, 2 c, 1.1 not-roadbed-edge, 1.1 roadbed-edge")
	if resp.StatusCode != 200 || len(via) != 2 || via[1] != "1.1 roadbed-edge" {
		t.Errorf("got %d and Via %q, want 200 and our mark after the others", resp.StatusCode, via)
	}
}

func TestNamesThatNoPathCanHoldGetNoRoute(t *testing.T) {
	h := newHouse(t, nil)
	var all []roadbed.Instance
	for _, app := range []string{"good", "also.good_1", "a+b", "../../etc", "a/b", ".", "..", "<script>", "a?b", "a#b", "\x1b[31m", "a\nb", "", "a b", strings.Repeat("a", 256)} {
		all = append(all, roadbed.Instance{App: app})
	}
	h.setApps(all)
	if got, want := fmt.Sprint(h.table.Load().Apps()), "[a+b also.good_1 good]"; got != want {
		t.Errorf("got routes for %q, want %s", got, want)
	}
}

// BenchmarkPass is what the edge adds to a round trip; compare with BenchmarkDirect.
func BenchmarkPass(b *testing.B) {
	h := newHouse(b, map[string]http.Handler{"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })})
	b.ReportAllocs()
	for b.Loop() {
		resp, err := h.front.Client().Get(h.front.URL + "/hello/")
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// BenchmarkDirect is the same round trip without an edge.
func BenchmarkDirect(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	defer srv.Close()
	b.ReportAllocs()
	for b.Loop() {
		resp, err := srv.Client().Get(srv.URL + "/hello/")
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

func TestAnswersThatBreakOffAreLoggedWithTheirRoute(t *testing.T) {
	h := newHouse(t, map[string]http.Handler{"half": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "half of it")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})})
	resp, err := h.front.Client().Get(h.front.URL + "/half/x")
	if err == nil { // the head may have been sent, or not yet
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("the client was given a whole answer, want one that breaks off")
	}
	h.front.Close() // and so the exchange is over
	var e struct{ Route, Origin, Path string }
	for _, line := range h.access.Latest(1) {
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
	}
	if e.Route != "half" || e.Origin != "half" || e.Path != "/half/x" {
		t.Errorf("logged as route %q to %q at %q, want half to half at /half/x", e.Route, e.Origin, e.Path)
	}
}
