package program

import (
	"crypto/tls"
	"net/netip"
	"strings"
	"testing"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

func expressions(t testing.TB) *Expressions {
	t.Helper()
	e, err := NewExpressions(config.New(config.Options{Override: map[string]string{"api.mode": "dark"}}), "us-east-1", "us-east-1c")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func request() *filter.Exchange {
	x := &filter.Exchange{From: netip.MustParseAddr("10.1.2.3"), User: "ada", Priority: 7, Plan: &filter.Plan{Route: "shop"}}
	x.Client = &filter.Client{TLS: &tls.ConnectionState{Version: tls.VersionTLS13, ServerName: "api.example.com", NegotiatedProtocol: "h2"}, Identity: "spiffe://x/y"}
	x.Request = filter.Request{Method: "GET", Scheme: "https", Host: "API.example.com:443", Path: "/a/b", RawQuery: "v=2&q=a+b"}
	x.Request.Header.Add("X-Device", "tv")
	x.Request.Header.Add("Cookie", "sid=1; lang=de")
	x.Set(ClaimsKey, map[string]any{"plan": "gold", "age": 30.0, "admin": true, "groups": []any{"a", "b"}})
	x.Set("tier", "one")
	x.Response.Status = 503
	x.Response.Header.Add("Server", "s")
	return x
}

func TestExpressionsSeeTheRequest(t *testing.T) {
	e := expressions(t)
	for text, want := range map[string]bool{
		`req.method == "GET" && req.scheme == "https" && req.path.startsWith("/a")`: true,
		`req.host == "api.example.com"`:                                             true,
		`req.headers["x-device"] == "tv"`:                                           true,
		`req.headers["X-DEVICE"] == "tv" && "x-Device" in req.headers`:              true,
		`req.query["v"] == "2" && req.query.q == "a b" && size(req.query) == 2`:     true,
		`req.cookies["lang"] == "de" && has(req.cookies.sid)`:                       true,
		`has(req.cookies.other)`:                                                    false,
		`req.cookies.exists(c, c == "sid")`:                                         true,
		`req.headers.all(h, h != "x-debug")`:                                        true,
		`req.user == "ada" && client.ip == "10.1.2.3"`:                              true,
		`cidr(client.ip, "10.0.0.0/8")`:                                             true,
		`cidr(client.ip, ["192.168.0.0/16", "10.1.2.3/32"])`:                        true,
		`cidr(client.ip, ["192.168.0.0/16"])`:                                       false,
		`cidr("nonsense", "10.0.0.0/8")`:                                            false,
		`tls.version == "1.3" && tls.sni == "api.example.com" && tls.alpn == "h2"`:  true,
		`tls.identity == "spiffe://x/y"`:                                            true,
		`jwt.claims.plan == "gold" && jwt.claims["age"] > 18`:                       true,
		`jwt.claims.admin`:                                                          true,
		`"b" in jwt.claims.groups`:                                                  true,
		`region == "us-east-1" && zone == "us-east-1c"`:                             true,
		`route == "shop" && priority < 10`:                                          true,
		`ctx["tier"] == "one"`:                                                      true,
		`resp.status >= 500 && resp.headers["server"] == "s"`:                       true,
		`glob(req.path, "/a/*")`:                                                    true,
		`glob(req.path, "/*")`:                                                      false,
		`glob(req.path, "/**")`:                                                     true,
		`glob(req.host, "*.example.com")`:                                           true,
		`re(req.path, "^/[ab]/")`:                                                   true,
		`prop("api.mode") == "dark" && prop("none") == ""`:                          true,
		`now() > timestamp("2020-01-01T00:00:00Z")`:                                 true,
		`bucket("user") == req.bucket("acct") && bucket("user") < 10000`:            true,
		`bucket("user") == bucket("user", "salt")`:                                  false,
		`bucket("nonsense") >= 0`:                                                   false,
	} {
		p, err := e.Predicate(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := p(request()); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

func TestAMissingKeyMakesAnExpressionFalse(t *testing.T) {
	e := expressions(t)
	for text, want := range map[string]bool{
		`req.headers["none"] == "x"`:                            false,
		`!(req.headers["none"] == "x")`:                         false,
		`req.headers["none"] == "x" || region == "us-east-1"`:   true,
		`jwt.claims.sub == "x"`:                                 false,
		`ctx.none`:                                              false,
		`jwt.claims.plan`:                                       false, // text, not true
		`req.headers["none"] == "x" || req.query["none"] == ""`: false,
	} {
		p, err := e.Predicate(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for what, x := range map[string]*filter.Exchange{"request": request(), "empty": {}} {
			if got := p(x); got != (want && what == "request") && !(what == "empty" && want) {
				t.Errorf("%s of %s: got %v, want %v", text, what, got, want)
			}
		}
	}
}

func TestAnExpressionWithAMistakeNamesLineColumnAndReason(t *testing.T) {
	e := expressions(t)
	for text, want := range map[string]string{
		"":                                "line 1, column 1: there is no expression",
		"req.methd == 'GET'":              "line 1, column 4: req has no such field",
		"true &&\n  nothing == 1":         "line 2, column 3: undeclared reference to 'nothing'",
		"req.method == 1":                 "line 1, column 12: found no matching overload for '_==_'",
		"req.method":                      "line 1, column 1: the expression is of type string; it must be true or false",
		"req.method == 'GET":              "line 1, column 15",
		"req.path.matches('(')":           "line 1, column 18: invalid matches argument",
		"re(req.path, '(')":               "line 1, column 14: error parsing regexp",
		"re(req.path, req.host)":          "line 1, column 17: the pattern must be written out",
		"glob(req.path, 1)":               "line 1, column 16: the pattern must be text",
		"cidr(1, '10.0.0.0/8')":           "line 1, column 5: found no matching overload for 'cidr'",
		strings.Repeat("(", 200) + "true": "line 1, column",
		"'" + strings.Repeat("a", 9000):   "has 9001 bytes; at most 8192",
		"[1,2].all(a, [1].all(b, [1].all(c, [1].all(d, true))))": "line 1, column",
	} {
		_, err := e.Predicate(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want %q", text, err, want)
		}
	}
}

func TestAnExpressionThatCostsTooMuchIsFalse(t *testing.T) {
	e := expressions(t)
	list := "[" + strings.Repeat("1,", 199) + "1]"
	p, err := e.Predicate(list + ".all(a, " + list + ".all(b, a == b))")
	if err != nil {
		t.Fatal(err)
	}
	if p(request()) {
		t.Error("40,000 comparisons were true")
	}
	v, _, err := e.compileText("'" + strings.Repeat("a", 1000) + "'")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.eval(v, request()); err != nil {
		t.Errorf("a cheap one failed: %v", err)
	}
	dear, _, err := e.compileText(list + ".map(a, " + list + ".map(b, req.path + req.path + req.path))")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.eval(dear, request()); err == nil || !strings.Contains(err.Error(), "cost limit") {
		t.Errorf("a dear one: got %v, want the cost limit", err)
	}
}

func BenchmarkPredicate(b *testing.B) {
	e := expressions(b)
	for name, text := range map[string]string{
		"Method": `req.method == "GET"`,
		"Spec":   `bucket("user") < 5000 && region == "us-east-1"`,
		"Header": `req.headers["x-device"] == "tv"`,
		"Miss":   `req.headers["none"] == "tv"`,
		"Regex":  `re(req.path, "^/[ab]/")`,
		"Claims": `jwt.claims.plan == "gold" && cidr(client.ip, "10.0.0.0/8")`,
	} {
		p, err := e.Predicate(text)
		if err != nil {
			b.Fatal(err)
		}
		x := request()
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p(x)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	e := expressions(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Predicate(`bucket("user") < 5000 && region == "us-east-1"`); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNewExpressions(b *testing.B) {
	for b.Loop() {
		expressions(b)
	}
}

func FuzzPredicate(f *testing.F) {
	for _, s := range []string{`req.method == "GET"`, `bucket("user") < 5 || cidr(client.ip, ["10.0.0.0/8"])`, `glob(req.path, "/a/**")`,
		`jwt.claims.a.b[0] == ctx["x"]`, `[1,2].map(x, x * 2).exists(y, y > 3)`, `has(req.headers.a) ? true : false`, "\xff", `"\u0000".matches("(a*)*b")`} {
		f.Add(s)
	}
	e := expressions(f)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := e.Predicate(text)
		if err != nil {
			if !strings.Contains(err.Error(), "line ") && !strings.Contains(err.Error(), "at most") {
				t.Errorf("%q: %v names no line", text, err)
			}
			return
		}
		p(request())
		p(&filter.Exchange{})
	})
}

func TestAnExpressionAllocatesLittle(t *testing.T) {
	e := expressions(t)
	p, err := e.Predicate(`bucket("user") < 5000 && req.headers["x-device"] == "tv"`)
	if err != nil {
		t.Fatal(err)
	}
	x := request()
	if n := testing.AllocsPerRun(200, func() { p(x) }); n > 12 && !raceEnabled {
		t.Errorf("got %v allocations, want at most 12", n)
	}
}
