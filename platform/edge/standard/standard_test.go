package standard

import (
	"encoding/json"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// edge is a chain of the standard filters in front of an origin.
type edge struct {
	*filter.Chain
	asked  int
	origin func(x *filter.Exchange) error
	plan   *filter.Plan // nil: no route
}

func newEdge(t testing.TB, props ...string) *edge {
	t.Helper()
	over := map[string]string{}
	for i := 0; i < len(props); i += 2 {
		over[props[i]] = props[i+1]
	}
	e := &edge{plan: &filter.Plan{Route: "shop"}, origin: func(x *filter.Exchange) error {
		x.Answer(200, "hello")
		x.SetCategory(filter.Success, "")
		return nil
	}}
	p := config.New(config.Options{Override: over, Log: slog.New(slog.DiscardHandler)})
	s := New(Config{Properties: p, Meter: meter.New(nil), Instance: "edge-1"})
	var err error
	e.Chain, err = filter.NewChain(filter.ChainConfig{
		Filters: append(s.Filters(), &filter.Filter{Name: "Routes", Order: -100, Quick: true, Apply: func(x *filter.Exchange) error { x.Plan = e.plan; return nil }}),
		Proxy:   &filter.Filter{Name: "ProxyEndpoint", Kind: filter.Endpoint, Quick: true, Apply: func(x *filter.Exchange) error { e.asked++; return e.origin(x) }},
		Error:   s.ErrorResponse, NoRoute: s.NoRoute, Properties: p, Meter: meter.New(nil), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

var stranger = &filter.Client{Remote: netip.MustParseAddrPort("203.0.113.9:1234"), Listener: "http"}

// get returns a request for http://shop.example.com:7000/cart.
func get(fields ...string) *filter.Exchange {
	x := &filter.Exchange{Client: stranger}
	x.Request = filter.Request{Method: "GET", Scheme: "http", Host: "shop.example.com:7000", Path: "/cart", Target: "/cart", Proto: 11}
	for i := 0; i < len(fields); i += 2 {
		x.Request.Header.Add(fields[i], fields[i+1])
	}
	return x
}

func (e *edge) run(x *filter.Exchange) *filter.Exchange { e.Run(x); return x }

func text(t testing.TB, x *filter.Exchange) string {
	t.Helper()
	if x.Response.Body == nil {
		return ""
	}
	b, err := io.ReadAll(x.Response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestNothingAClientSaysOfItselfIsBelieved(t *testing.T) {
	e := newEdge(t)
	x := e.run(get("X-Fit", "x", "X-Ipc-Deadline", "1", "x-forwarded-for", "10.0.0.1", "X-Forwarded-Host", "evil", "X-Forwarded-Proto", "https",
		"X-Forwarded-Prefix", "/evil", "X-Forwarded-Proto-Version", "3", "X-Real-IP", "10.0.0.1", "Forwarded", "for=10.0.0.1", "X-Original-URL", "/admin", "X-Rewrite-URL", "/admin", "X-Originating-URL", "/admin", "X-Envoy-Attempt-Count", "9", "X-Edge-Priority", "1",
		"X-Forwarded-Client-Cert", "Hash=1", "Endpoint-Load-Metrics", "x", "X-Netflix.server.utilization", "1", "Grpc-Timeout", "1m", "X-Envoy-Expected-Rq-Timeout-Ms", "1",
		"X_Forwarded_User", "root", "x-forwarded_email", "root", "X_Ipc_Caller", "root", "X_Mine", "stays", "X-Mine", "stays"))
	h := &x.Request.Header
	for name, want := range map[string]string{
		"X-Fit": "", "X-Ipc-Deadline": "", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "shop.example.com:7000", "X-Forwarded-Proto": "http",
		"X-Forwarded-Port": "7000", "X-Forwarded-Prefix": "", "X-Forwarded-Proto-Version": "", "X-Real-IP": "", "Forwarded": "", "X-Original-URL": "", "X-Rewrite-URL": "", "X-Originating-URL": "", "X-Envoy-Attempt-Count": "", "X-Edge-Priority": "",
		"X-Forwarded-Client-Cert": "", "Endpoint-Load-Metrics": "", "X-Netflix.server.utilization": "", "Grpc-Timeout": "", "X-Envoy-Expected-Rq-Timeout-Ms": "",
		"X_Forwarded_User": "", "x-forwarded_email": "", "X_Ipc_Caller": "", "X_Mine": "stays", "X-Mine": "stays", "Via": "1.1 roadbed-edge",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("the origin gets %s: %q, want %q", name, got, want)
		}
	}
	if x.Trusted || x.From.String() != "203.0.113.9" {
		t.Errorf("got %v, trusted %v; want 203.0.113.9, untrusted", x.From, x.Trusted)
	}
}

func TestTrustedPeersSpeakForOthers(t *testing.T) {
	const proxies = "203.0.113.0/24, 198.51.100.7"
	for _, tt := range []struct {
		name     string
		props    []string
		identity string
		xff      []string
		from     string // who asks
		sent     string // X-Forwarded-For to the origin
		proto    string
	}{
		{"by address, of a client", []string{"edge.trusted.cidrs", proxies}, "", []string{"192.0.2.1"}, "192.0.2.1", "192.0.2.1, 203.0.113.9", "https"},
		{"by address, through two proxies", []string{"edge.trusted.cidrs", proxies}, "", []string{"10.9.9.9, 192.0.2.1, 198.51.100.7"}, "192.0.2.1", "10.9.9.9, 192.0.2.1, 198.51.100.7, 203.0.113.9", "https"},
		{"in two fields", []string{"edge.trusted.cidrs", proxies}, "", []string{"10.9.9.9", "192.0.2.1"}, "192.0.2.1", "10.9.9.9, 192.0.2.1, 203.0.113.9", "https"},
		{"with a port", []string{"edge.trusted.cidrs", proxies}, "", []string{"192.0.2.1:5000"}, "192.0.2.1", "192.0.2.1:5000, 203.0.113.9", "https"},
		{"IPv6 with a port", []string{"edge.trusted.cidrs", proxies}, "", []string{"[2001:db8::1]:5000"}, "2001:db8::1", "[2001:db8::1]:5000, 203.0.113.9", "https"},
		{"nonsense is nobody", []string{"edge.trusted.cidrs", proxies}, "", []string{"192.0.2.1, unknown, 198.51.100.7"}, "198.51.100.7", "192.0.2.1, unknown, 198.51.100.7, 203.0.113.9", "https"},
		{"all are proxies", []string{"edge.trusted.cidrs", proxies}, "", []string{"198.51.100.7, 203.0.113.1"}, "198.51.100.7", "198.51.100.7, 203.0.113.1, 203.0.113.9", "https"},
		{"other networks", []string{"edge.trusted.cidrs", "10.0.0.0/8"}, "", []string{"192.0.2.1"}, "203.0.113.9", "203.0.113.9", "http"},
		{"always", []string{"edge.allowProxyHeadersWhen", "ALWAYS"}, "", []string{"192.0.2.1, 192.0.2.2"}, "192.0.2.1", "192.0.2.1, 192.0.2.2, 203.0.113.9", "https"},
		{"never", []string{"edge.allowProxyHeadersWhen", "NEVER", "edge.trusted.cidrs", proxies}, "", []string{"192.0.2.1"}, "203.0.113.9", "203.0.113.9", "http"},
		{"by certificate", []string{"edge.allowProxyHeadersWhen", "MUTUAL_SSL_AUTH"}, "spiffe://x/proxy", []string{"192.0.2.1, 192.0.2.2"}, "192.0.2.2", "192.0.2.1, 192.0.2.2, 203.0.113.9", "https"},
		{"without one", []string{"edge.allowProxyHeadersWhen", "MUTUAL_SSL_AUTH"}, "", []string{"192.0.2.1"}, "203.0.113.9", "203.0.113.9", "http"},
		{"as Zuul", []string{"edge.profile", "zuul"}, "", []string{"192.0.2.1"}, "192.0.2.1", "192.0.2.1", "https"},
		{"as Zuul, none sent", []string{"edge.profile", "zuul"}, "", nil, "203.0.113.9", "203.0.113.9", "https"},
		{"overwritten", []string{"edge.profile", "zuul", "zuul.headers.xforwarded.overwrite", "true"}, "", []string{"192.0.2.1"}, "192.0.2.1", "203.0.113.9", "http"},
		{"a host for which nobody may", []string{"edge.profile", "zuul", "zuul.proxy.headers.host.blacklist", "a.example,Shop.example.com"}, "", []string{"192.0.2.1"}, "203.0.113.9", "203.0.113.9", "http"},
	} {
		x := get("X-Forwarded-Proto", "https")
		x.Client = &filter.Client{Remote: stranger.Remote, Identity: tt.identity}
		for _, v := range tt.xff {
			x.Request.Header.Add("X-Forwarded-For", v)
		}
		newEdge(t, tt.props...).Run(x)
		if h := &x.Request.Header; x.From.String() != tt.from || h.Get("X-Forwarded-For") != tt.sent || h.Get("X-Forwarded-Proto") != tt.proto || h.Count("X-Forwarded-For") != 1 {
			t.Errorf("%s: from %v, X-Forwarded-For %q, -Proto %q; want %s, %q, %q", tt.name, x.From, h.Get("X-Forwarded-For"), h.Get("X-Forwarded-Proto"), tt.from, tt.sent, tt.proto)
		}
	}
}

func TestTheForwardedPortIsTheOneThatWasAskedFor(t *testing.T) {
	for host, want := range map[string]string{"a.example": "443", "a.example:8443": "8443", "[::1]": "443", "[::1]:7000": "7000"} {
		x := get()
		x.Request.Host, x.Request.Scheme = host, "https"
		newEdge(t).Run(x)
		if got := x.Request.Header.Get("X-Forwarded-Port"); got != want {
			t.Errorf("https://%s: got %q, want %q", host, got, want)
		}
	}
}

func TestSettingsThatCannotBeMeantAreNotInForce(t *testing.T) {
	for _, tt := range [][2]string{
		{"edge.allowProxyHeadersWhen", "SOMETIMES"}, {"edge.trusted.cidrs", "10.0.0.0/40"}, {"edge.profile", "nginx"}, {"edge.headers.xforwarded.mode", "maybe"},
		{"edge.debug.token", "short"}, {"edge.timeouts.request", "2h"}, {"edge.body.maxBytes", "-1"}, {"edge.cors.origins", "shop"}, {"edge.compression.encodings", "lzma"},
	} {
		x := get("X-Forwarded-For", "192.0.2.1", "Origin", "https://shop", "Accept-Encoding", "lzma", "X-Edge-Debug", "short")
		newEdge(t, tt[0], tt[1]).Run(x)
		if x.Response.Status != 200 || x.Trusted || x.Debug || x.Response.Header.Has("Access-Control-Allow-Origin") || x.Deadline-x.Start != int64(10*time.Second) {
			t.Errorf("%s=%s: got %d %+v, want an answer as with none", tt[0], tt[1], x.Response.Status, x.Response.Header.Fields())
		}
	}
}

func TestImproperRequestsAreRefused(t *testing.T) {
	for path, why := range map[string]string{
		"/cart": "", "/": "", "/a..b/.c/..d": "", "/%2e%2e%2e": "", "/a/": "", "/a//b": "", "/caf%C3%A9": "", "/a%5cb": "", "/a%2Fb": "",
		"": "must be a path", "cart": "must be a path", "http://x/": "must be a path", "*": "must be a path",
		"/a/../b": "dot segment", "/..": "dot segment", "/a/.": "dot segment", "/a/%2e%2E/b": "dot segment", "/.%2e": "dot segment", "/a/..%2fb": "dot segment", "/a%5C..%5Cb": "dot segment", "/a/%2e%2e%5c": "dot segment",
		"/a\\b": "no route may hold", "/a%00": "no route may hold", "/a%0db": "no route may hold", "/a%0Ab": "no route may hold",
	} {
		e := newEdge(t)
		x := get()
		x.Request.Path = path
		e.Run(x)
		cat, reason := x.Category()
		if why == "" && x.Response.Status != 200 || why != "" && (x.Response.Status != 400 || cat != filter.FailureBadRequest || !strings.Contains(reason, why) || e.asked > 0) {
			t.Errorf("%q: got %d %v %q, want %q", path, x.Response.Status, cat, reason, why)
		}
	}
	x := get()
	x.Request.Method, x.Request.Path = "OPTIONS", "*"
	if newEdge(t).run(x); x.Response.Status != 200 {
		t.Errorf("OPTIONS *: got %d, want 200", x.Response.Status)
	}
	x = get()
	x.Request.Method = "CONNECT"
	if newEdge(t).run(x); x.Response.Status != 405 {
		t.Errorf("CONNECT: got %d, want 405", x.Response.Status)
	}
}

func TestARequestKeepsAFitIdAndGetsOneOtherwise(t *testing.T) {
	seen := map[string]bool{}
	for _, tt := range []struct {
		ids  []string
		kept bool
	}{
		{[]string{"12345678"}, true}, {[]string{"a-B_c.9-" + strings.Repeat("x", 56)}, true}, {nil, false}, {[]string{""}, false}, {[]string{"1234567"}, false},
		{[]string{"1234 5678"}, false}, {[]string{strings.Repeat("x", 65)}, false}, {[]string{"12345678", "abcdefgh"}, false}, {nil, false},
	} {
		x := get()
		for _, id := range tt.ids {
			x.Request.Header.Add("X-Request-Id", id)
		}
		e := newEdge(t)
		e.origin = func(x *filter.Exchange) error {
			x.Answer(200, "")
			x.Response.Header.Add("x-request-id", "the origin's")
			x.Response.Header.Add("X-Ipc-Load", "1")
			return nil
		}
		e.Run(x)
		if h := &x.Request.Header; tt.kept != (x.ID == strings.Join(tt.ids, "")) || h.Count("X-Request-Id") != 1 || h.Get("X-Request-Id") != x.ID || !tt.kept && len(x.ID) != 24 || seen[x.ID] {
			t.Errorf("%q: got %q and %q to the origin", tt.ids, x.ID, h.Get("X-Request-Id"))
		}
		seen[x.ID] = true
		if h := &x.Response.Header; h.Count("X-Request-Id") != 1 || h.Get("X-Request-Id") != x.ID || h.Has("X-Ipc-Load") {
			t.Errorf("the answer has %q, want the request's id and nothing of the house", h.Fields())
		}
	}
}

func TestARequestMayTakeAsLongAsItsRouteSays(t *testing.T) {
	grpc := []string{"Content-Type", "application/grpc+proto"}
	for _, tt := range []struct {
		name   string
		method string
		fields []string
		route  time.Duration
		want   time.Duration // 0: as long as it likes
	}{
		{"nothing said", "GET", nil, 0, 4 * time.Second},
		{"the route", "GET", nil, time.Minute, time.Minute},
		{"a route without end", "GET", nil, -1, 0},
		{"an event stream", "GET", []string{"Accept", "text/event-stream"}, time.Minute, 0},
		{"what may be an event stream", "GET", []string{"Accept", "text/event-stream, */*"}, 0, 4 * time.Second},
		{"a posted event stream", "POST", []string{"Accept", "text/event-stream"}, 0, 4 * time.Second},
		{"gRPC", "POST", grpc, 0, 0},
		{"gRPC with a timeout", "POST", append(grpc, "Grpc-Timeout", "2500m"), 0, 2500 * time.Millisecond},
		{"gRPC, the route is earlier", "POST", append(grpc, "Grpc-Timeout", "2H"), time.Second, time.Second},
		{"gRPC, the caller is earlier", "POST", append(grpc, "Grpc-Timeout", "100u"), time.Second, 100 * time.Microsecond},
		{"gRPC, a route without end", "POST", append(grpc, "Grpc-Timeout", "3S"), -1, 3 * time.Second},
		{"gRPC, nonsense", "POST", append(grpc, "Grpc-Timeout", "soon"), 0, 0},
		{"gRPC, longer than a life", "POST", append(grpc, "Grpc-Timeout", "99999999H"), 0, 0},
	} {
		e := newEdge(t, "edge.timeouts.request", "4s")
		e.plan.Timeout = tt.route
		x := get(tt.fields...)
		x.Request.Method = tt.method
		e.Run(x)
		if got := time.Duration(x.Deadline - x.Start); x.Deadline == 0 && tt.want != 0 || x.Deadline != 0 && got != tt.want {
			t.Errorf("%s: got %v (deadline %d), want %v", tt.name, got, x.Deadline, tt.want)
		}
	}
	x := get()
	x.Request.Upgrade = "websocket"
	if newEdge(t).run(x); x.Deadline != 0 {
		t.Errorf("an upgrade: got a deadline")
	}
}

func TestARequestThatIsLedBackEndsAfterThreeRounds(t *testing.T) {
	x := get()
	for round := range 4 {
		e := newEdge(t)
		e.Run(x)
		if want := map[bool]int{true: 200, false: 508}[round < 3]; x.Response.Status != want {
			t.Fatalf("round %d: got %d, want %d", round+1, x.Response.Status, want)
		}
		via := x.Request.Header
		x = get()
		x.Request.Header = via
	}
	if x := newEdge(t).run(get("Via", "1.1 roadbed-edge-7, 1.1 a, 1.1 b, 1.1 c, roadbed-edge")); x.Response.Status != 200 {
		t.Errorf("what others note in Via: got %d, want 200", x.Response.Status)
	}
}

func TestBodiesThatAreTooLargeAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		length int64
		body   string
		route  int64
		status int
	}{
		{"as large as may be", 5, "12345", 0, 200}, {"one more", 6, "123456", 0, 413}, {"unknown, fits", -1, "12345", 0, 200}, {"unknown, too large", -1, "123456", 0, 413},
		{"the route allows more", 6, "123456", 6, 200}, {"the route allows less", -1, "123", 2, 413},
	} {
		e := newEdge(t, "edge.body.maxBytes", "5")
		e.plan.MaxBody = tt.route
		e.origin = func(x *filter.Exchange) error {
			b, err := io.ReadAll(x.Request.Body)
			if err == nil {
				x.Answer(200, string(b))
			}
			return err
		}
		x := get()
		x.Request.Method, x.Request.ContentLength, x.Request.Body = "POST", tt.length, io.NopCloser(strings.NewReader(tt.body))
		e.Run(x)
		if x.Response.Status != tt.status || tt.status == 200 && text(t, x) != tt.body {
			t.Errorf("%s: got %d, want %d", tt.name, x.Response.Status, tt.status)
		}
	}
}

func TestErrorsAreToldInTheWayTheClientUnderstands(t *testing.T) {
	fail := func(x *filter.Exchange) error {
		return &filter.Error{Status: 503, Category: filter.FailureNoServers, Reason: `no instance of "cart" is up`, RetryAfter: 1500 * time.Millisecond}
	}
	e := newEdge(t)
	e.origin = fail
	x := e.run(get("Accept", "text/html"))
	if h := &x.Response.Header; text(t, x) != "503 Service Unavailable: no instance of \"cart\" is up\n" || h.Get("Retry-After") != "2" || h.Get("Cache-Control") != "no-store" || h.Get("Content-Type") != "text/plain; charset=utf-8" || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("text: got %+v", h.Fields())
	}
	x = e.run(get("Accept", "application/json"))
	var problem struct {
		Status        int
		Title, Detail string
	}
	if err := json.Unmarshal([]byte(text(t, x)), &problem); err != nil || problem.Status != 503 || problem.Detail != `no instance of "cart" is up` || x.Response.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("JSON: got %+v, %v", problem, err)
	}
	call := func(f func(*filter.Exchange) error) *filter.Exchange {
		e.origin = f
		x := get("Content-Type", "application/grpc", "TE", "trailers")
		x.Request.Method, x.Request.Proto = "POST", 20
		return e.run(x)
	}
	x = call(func(*filter.Exchange) error {
		return &filter.Error{Status: 504, Category: filter.FailureOriginReadTimeout, Reason: "100 % too late, schön"}
	})
	if h := &x.Response.Header; x.Response.Status != 200 || x.Response.Body != nil || h.Get("Grpc-Status") != "4" || h.Get("Grpc-Message") != "100 %25 too late, sch%C3%B6n" || h.Get("Content-Type") != "application/grpc" {
		t.Errorf("gRPC: got %d %+v", x.Response.Status, h.Fields())
	}
	for status, code := range map[int]string{400: "13", 401: "16", 403: "7", 404: "12", 413: "8", 429: "8", 500: "14", 502: "14", 503: "14", 504: "4", 418: "2"} {
		x := call(func(x *filter.Exchange) error {
			x.Answer(status, "of a filter that knows no gRPC")
			x.Response.Header.Add("Retry-After", "7")
			return nil
		})
		if h := &x.Response.Header; x.Response.Status != 200 || h.Get("Grpc-Status") != code || h.Get("Retry-After") != "7" || h.Count("Content-Type") != 1 || x.Response.Body != nil {
			t.Errorf("gRPC %d: got %d %+v, want code %s", status, x.Response.Status, h.Fields(), code)
		}
	}
	if x := call(func(x *filter.Exchange) error {
		x.Attempts = append(x.Attempts, filter.Attempt{Status: 503})
		x.Answer(503, "the origin's own")
		return nil
	}); x.Response.Status != 503 {
		t.Errorf("an origin's own 503 to a gRPC call: got %d, want it as it is", x.Response.Status)
	}
	e.plan = nil
	if x := e.run(get()); x.Response.Status != 404 || !strings.Contains(text(t, x), "no route matches") {
		t.Errorf("no route: got %d", x.Response.Status)
	}
}

func TestTheEdgeTellsThatItIsHealthy(t *testing.T) {
	x := get()
	x.Request.Path = "/healthcheck"
	e := newEdge(t)
	if e.run(x); x.Response.Status != 200 || text(t, x) != "healthy" || e.asked > 0 {
		t.Errorf("got %d", x.Response.Status)
	}
	x = get()
	x.Request.Path = "/healthcheck"
	e = newEdge(t, "edge.healthcheck.path", "/up")
	if e.run(x); e.asked != 1 {
		t.Errorf("moved to /up: /healthcheck did not reach the origin")
	}
}

func TestDebuggedAnswersTellHowTheyCameAbout(t *testing.T) {
	const secret = "sixteen characters, or more"
	for _, tt := range []struct {
		name  string
		props []string
		value string
		want  bool
	}{
		{"nobody asked", []string{"edge.debug.token", secret}, "", false},
		{"a stranger without a token", nil, "1", false},
		{"a stranger with a wrong token", []string{"edge.debug.token", secret}, "1", false},
		{"a stranger with the token", []string{"edge.debug.token", secret}, secret, true},
		{"a trusted peer", []string{"edge.trusted.cidrs", "203.0.113.9"}, "1", true},
		{"a trusted peer that does not want to", []string{"edge.trusted.cidrs", "203.0.113.9"}, "0", false},
	} {
		e := newEdge(t, tt.props...)
		e.origin = func(x *filter.Exchange) error {
			x.Attempts = append(x.Attempts, filter.Attempt{Number: 1, Status: 503, App: "cart"})
			return &filter.Error{Status: 503, Category: filter.FailureOriginThrottled, Reason: "cart is\nbusy"}
		}
		x := get()
		if tt.value != "" {
			x.Request.Header.Add("X-Edge-Debug", tt.value)
		}
		x.Request.RawQuery = "a=1"
		e.Run(x)
		h := &x.Response.Header
		if x.Request.Header.Has("X-Edge-Debug") {
			t.Errorf("%s: the origin gets X-Edge-Debug", tt.name)
		}
		if !tt.want {
			if h.Has("X-Zuul") || x.Request.Header.Has("X-Originating-URL") {
				t.Errorf("%s: got %+v, want nothing of X-Zuul", tt.name, h.Fields())
			}
			continue
		}
		if h.Get("X-Zuul") != "edge" || h.Get("X-Zuul-Instance") != "edge-1" || h.Get("X-Zuul-Status") != "2_6" || h.Get("X-Zuul-Error-Cause") != "cart is?busy" ||
			!strings.HasPrefix(h.Get("X-Zuul-Proxy-Attempts"), `[{"status":503,`) || !strings.HasPrefix(h.Get("X-Zuul-Filter-Executions"), "ConnectionInfo[SUCCESS][") ||
			x.Request.Header.Get("X-Originating-URL") != "http://shop.example.com:7000/cart?a=1" {
			t.Errorf("%s: got %+v, and to the origin %+v", tt.name, h.Fields(), x.Request.Header.Fields())
		}
	}
}

func TestAPrefixIsToldBehindThatOfATrustedProxy(t *testing.T) {
	for before, want := range map[string]string{"": "/shop", "/eu": "/eu/shop", "/eu/": "/eu/shop"} {
		e := newEdge(t, "edge.trusted.cidrs", "203.0.113.9")
		x := get()
		x.Prefix = "/shop"
		if before != "" {
			x.Request.Header.Add("X-Forwarded-Prefix", before)
		}
		if e.Run(x); x.Request.Header.Get("X-Forwarded-Prefix") != want {
			t.Errorf("%q: got %q, want %q", before, x.Request.Header.Get("X-Forwarded-Prefix"), want)
		}
	}
}

func usual(x *filter.Exchange) {
	x.Client = stranger
	q := &x.Request
	q.Method, q.Scheme, q.Host, q.Path, q.Proto = "GET", "http", "shop.example.com:7000", "/cart", 11
	q.Header.Add("User-Agent", "curl/8.14.1")
	q.Header.Add("Accept", "*/*")
	q.Header.Add("Cookie", "session=0123456789abcdef")
	q.Header.Add("Accept-Language", "de")
}

func TestTheStandardFiltersAllocateNothing(t *testing.T) {
	e := newEdge(t)
	var x filter.Exchange
	if n := testing.AllocsPerRun(1000, func() { x.Reset(); usual(&x); e.Run(&x); x.End() }); n != 0 {
		t.Errorf("got %v allocations a request, want none", n)
	}
}

func BenchmarkStandard(b *testing.B) {
	e := newEdge(b)
	var x filter.Exchange
	b.ReportAllocs()
	for b.Loop() {
		x.Reset()
		usual(&x)
		e.Run(&x)
		x.End()
	}
}

func TestTheLargestLimitOfABodyIsALimitLikeAnyOther(t *testing.T) {
	b, err := io.ReadAll(&limited{ReadCloser: io.NopCloser(strings.NewReader("hello")), left: math.MaxInt64, limit: math.MaxInt64})
	if string(b) != "hello" || err != nil {
		t.Errorf("got %q, %v, want hello", b, err)
	}
}

func TestExecutionsTellOfFiltersThatTakeLessThanAMicrosecond(t *testing.T) {
	ran := []filter.Execution{
		{Filter: &filter.Filter{Name: "Trace"}, Status: "SUCCESS", Took: 666 * time.Nanosecond},
		{Filter: &filter.Filter{Name: "Auth"}, Status: "FAILED", Took: 12 * time.Millisecond},
	}
	if got, want := string(executions(ran)), "Trace[SUCCESS][0.000666ms], Auth[FAILED][12ms]"; got != want {
		t.Errorf("executions of %+v: got %q, want %q", ran, got, want)
	}
}
