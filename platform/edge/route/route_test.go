package route

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/hammer"
	"pgregory.net/rapid"
)

// parsed returns the routes of text, which must be right.
func parsed(t testing.TB, text string) []Route {
	t.Helper()
	d, err := Parse("test", text)
	if err != nil {
		t.Fatal(err)
	}
	return d.Routes
}

// tabled returns the table of text, which must be right.
func tabled(t testing.TB, c Config, text string) *Table {
	t.Helper()
	table, err := NewTable(c, parsed(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// asked returns an exchange with a request: "GET http://host/path?query" and fields as "Name: value".
func asked(method, url string, fields ...string) *filter.Exchange {
	x := &filter.Exchange{}
	q := &x.Request
	q.Method = method
	q.Scheme, url, _ = strings.Cut(url, "://")
	q.Host, q.Path = url, "/"
	if i := strings.IndexByte(url, '/'); i >= 0 {
		q.Host, q.Path = url[:i], url[i:]
	}
	q.Path, q.RawQuery, _ = strings.Cut(q.Path, "?")
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		q.Header.Add(name, value)
	}
	return x
}

// routeOf returns the id of the route that takes x; "" if none does.
func routeOf(t *Table, x *filter.Exchange) string {
	if !t.Match(x) {
		return ""
	}
	return x.Plan.Route
}

func TestMostSpecificRouteWinsWhateverTheOrder(t *testing.T) {
	routes := parsed(t, `[
	 {"id":"root","match":{"path":{"prefix":"/"}},"backends":[{"vip":"root"}]},
	 {"id":"cart","match":{"path":{"prefix":"/cart"}},"backends":[{"vip":"cart"}]},
	 {"id":"cart-post","match":{"path":{"prefix":"/cart"},"methods":["POST"]},"backends":[{"vip":"cart"}]},
	 {"id":"cart-tv","match":{"path":{"prefix":"/cart"},"headers":[{"name":"x-device","exact":"tv"}]},"backends":[{"vip":"cart"}]},
	 {"id":"cart-v2","match":{"path":{"prefix":"/cart"},"query":[{"name":"v","exact":"2"}]},"backends":[{"vip":"cart"}]},
	 {"id":"cart-beta","match":{"path":{"prefix":"/cart"},"cookies":[{"name":"beta","present":true}]},"backends":[{"vip":"cart"}]},
	 {"id":"cart-deep","match":{"path":{"prefix":"/cart/items"}},"backends":[{"vip":"cart"}]},
	 {"id":"regex","match":{"path":{"regex":"/cart/items/[0-9]{3}"}},"backends":[{"vip":"cart"}]},
	 {"id":"regex-long","match":{"path":{"regex":"/cart/items/[0-9][0-9]7"}},"backends":[{"vip":"cart"}]},
	 {"id":"exact","match":{"path":{"exact":"/cart/items"}},"backends":[{"vip":"cart"}]},
	 {"id":"b-old","match":{"path":{"exact":"/tie"}},"created":"2020-01-01T00:00:00Z","backends":[{"vip":"cart"}]},
	 {"id":"a-new","match":{"path":{"exact":"/tie"}},"created":"2021-01-01T00:00:00Z","backends":[{"vip":"cart"}]},
	 {"id":"a-none","match":{"path":{"exact":"/tie"}},"backends":[{"vip":"cart"}]},
	 {"id":"same-b","match":{"path":{"exact":"/id"}},"backends":[{"vip":"cart"}]},
	 {"id":"same-a","match":{"path":{"exact":"/id"}},"backends":[{"vip":"cart"}]},
	 {"id":"off","disabled":true,"match":{"path":{"exact":"/cart"},"methods":["GET"]},"backends":[{"vip":"cart"}]},
	 {"id":"both","match":{"hosts":["both.example.com","*.example.org"],"path":{"prefix":"/x"}},"backends":[{"vip":"host"}]},
	 {"id":"wild","match":{"hosts":["*.example.com"]},"backends":[{"vip":"wild"}]},
	 {"id":"wild-deep","match":{"hosts":["*.tv.example.com"]},"backends":[{"vip":"wild"}]},
	 {"id":"host","match":{"hosts":["shop.example.com"],"path":{"prefix":"/x"}},"backends":[{"vip":"host"}]}
	]`)
	tests := []struct{ method, url, fields, want string }{
		{"GET", "http://h/", "", "root"},
		{"GET", "http://h/other", "", "root"},
		{"GET", "http://h/cart", "", "cart"},
		{"GET", "http://h/cart/", "", "cart"},
		{"GET", "http://h/cartel", "", "root"}, // prefixes are whole segments
		{"POST", "http://h/cart/1", "", "cart-post"},
		{"GET", "http://h/cart/1", "X-Device: tv", "cart-tv"},
		{"GET", "http://h/cart/1", "X-Device: TV", "cart"},
		{"POST", "http://h/cart/1", "X-Device: tv", "cart-post"}, // method before headers
		{"GET", "http://h/cart/1?a=1&v=%32", "", "cart-v2"},
		{"GET", "http://h/cart/1?v=2", "X-Device: tv", "cart-tv"}, // headers before query
		{"GET", "http://h/cart/1?v=2", "Cookie: beta=1", "cart-v2"},
		{"GET", "http://h/cart/1", "Cookie: a=b; beta=1", "cart-beta"},
		{"GET", "http://h/cart/1", "Cookie: a=b; xbeta=1", "cart"},
		{"GET", "http://h/cart/items/7", "", "cart-deep"},
		{"GET", "http://h/cart/items/123", "", "regex"}, // before prefixes
		{"GET", "http://h/cart/items/127", "", "regex-long"},
		{"GET", "http://h/cart/items/1234", "", "cart-deep"}, // the whole path must match
		{"GET", "http://h/cart/items", "", "exact"},
		{"GET", "http://h/tie", "", "b-old"},
		{"GET", "http://h/id", "", "same-a"},
		{"GET", "http://a.example.com:7000/cart/items", "", "wild"}, // host before path
		{"GET", "http://a.tv.example.com/cart/items", "", "wild-deep"},
		{"GET", "http://tv.example.com./", "", "wild"},
		{"GET", "http://SHOP.example.com/x/y", "", "host"},
		{"GET", "http://shop.example.com/y", "", "wild"},
		{"GET", "http://both.example.com/x", "", "both"}, // the host that matches counts
		{"GET", "http://z.example.org/x", "", "both"},
		{"GET", "http://example.com/y", "", "root"}, // the wildcard wants a label
		{"GET", "http://[::1]:80/cart", "", "cart"},
		{"GET", "http://h/hello/x", "", "hello"}, // by name before a shorter prefix
		{"GET", "http://h/Hello/x", "", "hello"},
		{"GET", "http://h/cart/zzz", "", "cart"},
		{"GET", "http://h/hello%2Fx", "", "root"}, // an escaped slash parts no segments
	}
	rapid.Check(t, func(rt *rapid.T) {
		table, err := NewTable(Config{Apps: []string{"hello"}}, rapid.Permutation(routes).Draw(rt, "order"))
		if err != nil {
			rt.Fatal(err)
		}
		for _, tt := range tests {
			var fields []string
			if tt.fields != "" {
				fields = []string{tt.fields}
			}
			if got := routeOf(table, asked(tt.method, tt.url, fields...)); got != tt.want {
				rt.Fatalf("%s %s %s: got %q, want %s", tt.method, tt.url, tt.fields, got, tt.want)
			}
		}
	})
}

// naive finds the route of x as the rules say, one route and host at a time.
func naive(routes []Route, apps []string, x *filter.Exchange) string {
	type candidate struct {
		rank []int // higher is better, from left to right
		id   string
	}
	var all []candidate
	host := strings.ToLower(hostname(x.Request.Host))
	holds := func(v Value, values []string) bool {
		if v.Present != nil {
			return *v.Present == (len(values) > 0)
		}
		return slices.ContainsFunc(values, func(s string) bool {
			if v.Exact != nil {
				return s == *v.Exact
			}
			m := regexp.MustCompile(v.Regex)
			m.Longest()
			return m.FindString(s) == s && m.MatchString(s)
		})
	}
	named := func(pairs, sep, name string) (values []string) {
		for p := range strings.SplitSeq(pairs, sep) {
			if k, v, ok := strings.Cut(strings.TrimSpace(p), "="); k == name && (ok || sep == "&") {
				values = append(values, v)
			}
		}
		return values
	}
	for _, r := range routes {
		hosts := r.Match.Hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		p := r.Match.Path
		path := x.Request.Path
		var rank []int
		switch {
		case p.Exact != "" && p.Exact == path:
			rank = []int{0, 3, 0}
		case p.Regex != "" && regexp.MustCompile("^(?:"+p.Regex+")$").MatchString(path):
			rank = []int{0, 2, len(p.Regex)}
		case p.Exact == "" && p.Regex == "" && strings.HasPrefix(path+"/", strings.TrimSuffix(p.Prefix, "/")+"/"):
			rank = []int{0, 1, len(strings.TrimSuffix(p.Prefix, "/"))}
		default:
			continue
		}
		if len(r.Match.Methods) > 0 && !slices.Contains(r.Match.Methods, x.Request.Method) {
			continue
		}
		ok := true
		for _, v := range r.Match.Headers {
			ok = ok && holds(v, slices.Collect(x.Request.Header.Values(v.Name)))
		}
		for _, v := range r.Match.Query {
			ok = ok && holds(v, named(x.Request.RawQuery, "&", v.Name))
		}
		for _, v := range r.Match.Cookies {
			ok = ok && holds(v, named(x.Request.Header.Get("Cookie"), ";", v.Name))
		}
		if !ok || r.Match.When == "false" || r.Match.Scheme != "" && r.Match.Scheme != x.Request.Scheme {
			continue
		}
		created := 0
		if !r.Created.IsZero() {
			created = 1<<40 - int(r.Created.Unix())
		}
		for _, h := range hosts {
			switch suffix, wild := strings.CutPrefix(strings.ToLower(h), "*"); {
			case h == "":
				rank[0] = 0
			case wild && strings.HasSuffix(host, suffix) && len(host) > len(suffix):
				rank[0] = len(suffix)
			case !wild && strings.ToLower(h) == host:
				rank[0] = 1 << 20
			default:
				continue
			}
			all = append(all, candidate{append(slices.Clone(rank), min(1, len(r.Match.Methods)), len(r.Match.Headers), len(r.Match.Query),
				len(r.Match.Cookies), min(1, len(r.Match.Scheme)), min(1, len(r.Match.When)), created), r.ID})
		}
	}
	segment, _, _ := strings.Cut(x.Request.Path[1:], "/")
	for _, a := range apps {
		if strings.EqualFold(a, segment) {
			all = append(all, candidate{[]int{0, 1, len(a) + 1, -1}, a}) // after every explicit one of the same prefix
		}
	}
	if len(all) == 0 {
		return ""
	}
	return slices.MinFunc(all, func(a, b candidate) int {
		if n := slices.Compare(b.rank, a.rank); n != 0 {
			return n
		}
		return strings.Compare(a.id, b.id)
	}).id
}

func TestTheTableChoosesAsALinearSearchWould(t *testing.T) {
	paths := []string{"/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/ab", "/b", "/b//c", "//", "/a%2Fb", "/A/b", "/app", "/app/x", "/App/x/y"}
	prefixes := append(paths, "/a/b/c/d", "/b/")
	hosts := []string{"x.com", "a.x.com", "b.a.x.com", "*.x.com", "*.a.x.com", "*.com", "A.X.com"}
	words := []string{"", "1", "2", "12"}
	draw := func(t *rapid.T, names ...string) []Value {
		return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Value {
			v := Value{Name: rapid.SampledFrom(names).Draw(t, "name")}
			switch rapid.IntRange(0, 2).Draw(t, "how") {
			case 0:
				s := rapid.SampledFrom(words).Draw(t, "exact")
				v.Exact = &s
			case 1:
				v.Regex = rapid.SampledFrom([]string{"1", "1|2", ".*", "[12]+"}).Draw(t, "regex")
			default:
				b := rapid.Bool().Draw(t, "present")
				v.Present = &b
			}
			return v
		}), 0, 2).Draw(t, "values")
	}
	config := Config{Apps: []string{"app", "a"}, Predicate: func(text string) (func(*filter.Exchange) bool, error) {
		return func(*filter.Exchange) bool { return text == "true" }, nil
	}}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 12).Draw(t, "routes")
		var routes []Route
		for i := range n {
			r := Route{ID: fmt.Sprint("r", i), Backends: []Backend{{VIP: "x"}}}
			m := &r.Match
			m.Hosts = rapid.SliceOfN(rapid.SampledFrom(hosts), 0, 2).Draw(t, "hosts")
			switch rapid.IntRange(0, 4).Draw(t, "path") {
			case 0:
				m.Path.Exact = rapid.SampledFrom(paths).Draw(t, "exact")
			case 1:
				m.Path.Regex = rapid.SampledFrom([]string{"/a/.*", "/a|/b.*", "/[ab]+", ".*", "/(app|a)/[a-z]"}).Draw(t, "regex")
			case 2, 3:
				m.Path.Prefix = rapid.SampledFrom(prefixes).Draw(t, "prefix")
			}
			m.Methods = rapid.SliceOfN(rapid.SampledFrom([]string{"GET", "POST"}), 0, 1).Draw(t, "methods")
			m.Headers, m.Query, m.Cookies = draw(t, "h", "i"), draw(t, "q", "p"), draw(t, "c", "d")
			m.Scheme = rapid.SampledFrom([]string{"", "", "http", "https"}).Draw(t, "scheme")
			m.When = rapid.SampledFrom([]string{"", "", "true", "false"}).Draw(t, "when")
			if rapid.Bool().Draw(t, "dated") {
				r.Created = time.Unix(int64(rapid.IntRange(1, 3).Draw(t, "created")), 0)
			}
			routes = append(routes, r)
		}
		table, err := NewTable(config, routes)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			x := asked(rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "method"), "http://"+
				rapid.SampledFrom([]string{"x.com", "a.x.com:80", "B.a.x.com", "c.b.a.x.com.", "y.com", "z", ""}).Draw(t, "host")+
				rapid.SampledFrom(append(paths, "/a/b/c/d/e")).Draw(t, "path"))
			var query []string
			for _, n := range []string{"q", "p"} {
				if rapid.Bool().Draw(t, n) {
					query = append(query, n+"="+rapid.SampledFrom(words).Draw(t, n))
				}
			}
			x.Request.RawQuery = strings.Join(query, "&")
			for _, f := range []string{"H", "i"} {
				for range rapid.IntRange(0, 2).Draw(t, f) {
					x.Request.Header.Add(f, rapid.SampledFrom(words).Draw(t, f))
				}
			}
			if rapid.Bool().Draw(t, "cookies") {
				x.Request.Header.Add("Cookie", "c="+rapid.SampledFrom(words).Draw(t, "c")+"; d="+rapid.SampledFrom(words).Draw(t, "d"))
			}
			want := naive(routes, config.Apps, x)
			got := routeOf(table, x)
			if got != want {
				t.Fatalf("%s %s%s?%s: got %q, want %q", x.Request.Method, x.Request.Host, x.Request.Path, x.Request.RawQuery, got, want)
			}
			y := *x
			y.App, y.Plan = "", nil
			e := table.Explain(&y, nil)
			if e.Route != want {
				t.Fatalf("explained as %q, want %q", e.Route, want)
			}
			for _, o := range e.Others {
				if o.Why == "" || o.Route == want {
					t.Fatalf("explained %+v beside %q", o, want)
				}
			}
		}
	})
}

func TestPathsAreStrippedByWholeSegments(t *testing.T) {
	tests := []struct {
		path       string
		strip      int
		want, left string
	}{
		{"/hello/", 1, "/", "/hello"},
		{"/hello", 1, "/", "/hello"},
		{"/hello/a/b", 1, "/a/b", "/hello"},
		{"/hello/a%2Fb", 1, "/a%2Fb", "/hello"},
		{"/a/b/c", 2, "/c", "/a/b"},
		{"/a", 5, "/", "/a"},
		{"/a//b", 1, "//b", "/a"},
		{"/a/b", 0, "", ""},
		{"/", 0, "", ""},
	}
	for _, tt := range tests {
		table := tabled(t, Config{}, fmt.Sprintf(`[{"id":"a","filters":[{"stripPrefix":%d}],"backends":[{"vip":"a"}]}]`, tt.strip))
		x := asked("GET", "http://h"+tt.path)
		if !table.Match(x) || x.Path != tt.want || x.Prefix != tt.left {
			t.Errorf("%s without %d segments: got path %q without %q, want %q without %q", tt.path, tt.strip, x.Path, x.Prefix, tt.want, tt.left)
		}
	}
}

func TestAppsAreReachableUnderTheirNames(t *testing.T) {
	table, err := NewTable(Config{Apps: []string{"hello"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	x := asked("POST", "http://h/hello/greet?x=1")
	if !table.Match(x) || x.App != "hello" || x.Path != "/greet" || x.Prefix != "/hello" || x.Plan.Endpoint != nil {
		t.Errorf("/hello/greet: got app %q path %q prefix %q plan %+v", x.App, x.Path, x.Prefix, x.Plan)
	}
	x = asked("GET", "http://h/hello?x=1")
	if !table.Match(x) || x.Plan.Endpoint == nil {
		t.Fatalf("/hello: got plan %+v, want an endpoint that adds the slash", x.Plan)
	}
	if err := x.Plan.Endpoint.Apply(x); err != nil || x.Response.Status != 308 || x.Response.Header.Get("Location") != "/hello/?x=1" {
		t.Errorf("/hello?x=1: got %d to %q, %v, want 308 to /hello/?x=1", x.Response.Status, x.Response.Header.Get("Location"), err)
	}
	for _, c := range [][2]string{{"/HELLO/Greet", "/hello/Greet"}, {"/Hello", "/hello"}} { // whoever guards /hello guards it all
		if x = asked("POST", "http://h"+c[0]); !table.Match(x) || x.Plan.Endpoint == nil {
			t.Fatalf("%s: got plan %+v, want an endpoint that leads to small letters", c[0], x.Plan)
		}
		if err := x.Plan.Endpoint.Apply(x); err != nil || x.Response.Status != 308 || x.Response.Header.Get("Location") != c[1] {
			t.Errorf("%s: got %d to %q, %v, want 308 to %s", c[0], x.Response.Status, x.Response.Header.Get("Location"), err, c[1])
		}
		if e := table.Explain(asked("POST", "http://h"+c[0]), nil); e.Endpoint != "Redirect to "+c[1] {
			t.Errorf("%s: explained as %q, want Redirect to %s", c[0], e.Endpoint, c[1])
		}
	}
	if x = asked("POST", "http://h/hello"); !table.Match(x) || x.Plan.Endpoint != nil || x.Path != "/" {
		t.Errorf("POST /hello: got path %q plan %+v, want it passed on", x.Path, x.Plan)
	}
	if x = asked("GET", "http://h/bye/"); table.Match(x) {
		t.Errorf("/bye/ has a route: %+v", x.Plan)
	}
	next := table.WithApps([]string{"bye"})
	if x = asked("GET", "http://h/bye/"); !next.Match(x) || table.Match(asked("GET", "http://h/bye/")) {
		t.Error("an app that came is not in the next table, or in the one before")
	}
}

func TestPathsOfRoutesAreSpelledAsThoseOfRequests(t *testing.T) {
	for in, want := range map[string]string{"/%61dmin": "/admin", "/caf%c3%a9": "/caf%C3%A9", "/café": "/caf%C3%A9", "/a b": "/a%20b", "/a%2fb": "/a%2Fb", "/100%": "/100%25"} {
		for _, kind := range []string{"prefix", "exact"} {
			table := tabled(t, Config{}, fmt.Sprintf(`[{"id":"a","match":{"path":{%q:%q}},"backends":[{"vip":"a"}]}]`, kind, in))
			x := asked("GET", "http://h/")
			x.Request.Path = want
			if !table.Match(x) {
				t.Errorf("%s %s: does not take %s", kind, in, want)
			}
		}
	}
}

func TestMistakenRoutesAreRefusedWithTheReason(t *testing.T) {
	for text, says := range map[string]string{
		`{}`:          "no list of routes",
		`[] x`:        "something after its list",
		`[{"id":"a",`: "it ends in the middle",
		"- id: a\n  backends: [{vip: x}]\n colour: 1":                                                         "cannot be read as YAML",
		`[{"id":"a","backends":[{"vip":"x"}],"colour":1}]`:                                                    "colour",
		`[{"backends":[{"vip":"x"}]}]`:                                                                        "needs an id",
		`[{"id":"a"}]`:                                                                                        "at least one backend",
		`[{"id":"a","backends":[{"vip":"x/y"}]}]`:                                                             `backend "x/y"`,
		`[{"id":"a","backends":[{"vip":"x","weight":-1}]}]`:                                                   "weight -1",
		`[{"id":"a","match":{"path":{"prefix":"x"}},"backends":[{"vip":"x"}]}]`:                               "starts with /",
		`[{"id":"a","match":{"path":{"prefix":"/","exact":"/"}},"backends":[{"vip":"x"}]}]`:                   "not both",
		`[{"id":"a","match":{"hosts":["a*b"]},"backends":[{"vip":"x"}]}]`:                                     `host "a*b"`,
		`[{"id":"a","match":{"methods":["get"]},"backends":[{"vip":"x"}]}]`:                                   "capitals",
		`[{"id":"a","timeouts":{"request":"soon"},"backends":[{"vip":"x"}]}]`:                                 `"soon"`,
		`[{"id":"a","backends":[{"vip":"x"}]},{"id":"a","backends":[{"vip":"x"}]}]`:                           `two routes have the id "a"`,
		`[{"id":"a","bakends":[{"vip":"x"}]}]`:                                                                "did you mean backends?",
		`[{"id":"a","backends":[{"vip":"x"}],"filters":[{"stripprefix":1}]}]`:                                 "did you mean stripPrefix?",
		`[{"id":"a","backends":[{"vip":"x"}],"filters":[{"stripPrefix":1,"program":"p"}]}]`:                   "entries of their own",
		`[{"id":"a","backends":[{"vip":"x"}],"match":{"headers":[{"name":"x"}]}}]`:                            "say exact, regex or present",
		`[{"id":"a","backends":[{"vip":"x"}],"match":{"path":{"regex":"("}}}]`:                                "missing closing )",
		`[{"id":"a","backends":[{"vip":"x"}],"match":{"path":{"regex":"a)(b"}}}]`:                             "unexpected )",
		`[{"id":"a","backends":[{"vip":"x"}],"match":{"when":"1"}}]`:                                          "evaluates no expressions",
		`[{"id":"a","backends":[{"vip":"x","sticky":"mood"}]}]`:                                               "user, client, header:NAME",
		`[{"id":"a","backends":[{"vip":"x","sticky":"user"},{"vip":"y","sticky":"client"}]}]`:                 "one key decides",
		`[{"id":"a","backends":[{"vip":"x"}],"retry":{"budget":0.2}}]`:                                        "ipc.command.APP.retryBudget.percent",
		`[{"id":"a","backends":[{"vip":"x"}],"retry":{"max":11}}]`:                                            "from 0 to 10",
		`[{"id":"a","backends":[{"vip":"x"}],"filters":[{"answer":{"status":200}}]}]`:                         "never be asked",
		`[{"id":"a","backends":[{"vip":"x"}],"filters":[{"requestHeaders":{"set":{"Content-Length":"1"}}}]}]`: "the edge's own",
		`[{"id":"a","backends":[{"vip":"x"}],"filters":[{"responseHeaders":{"add":{"X":"a\nb"}}}]}]`:          "control characters",
		`[{"id":"a","backends":[{"vip":"x"}],"filters":[{"program":"p"}]}]`:                                   "no programs",
		`[{"id":"a","backends":[{"vip":"x"}],"filters":[{"cors":{}}]}]`:                                       "no such filter",
		`[{"id":"a","backends":[{"vip":"x"}],"filters":[{"redirect":{}}]}]`:                                   "leads to itself",
		`[{"id":"a","backends":[{"vip":"x"}],"protocol":"h3"}]`:                                               `protocol "h3"`,
		`[{"id":"a","backends":[{"vip":"x"}],"mirror":{"vip":"y","percent":101}}]`:                            "0 to 100",
		`[{"id":"a","backends":[{"vip":"x"}],"maxBody":"much"}]`:                                              "number of bytes",
		`[{"id":"a","backends":[{"vip":"x"}],"affinity":"moon"}]`:                                             "use user, client",
		`[{"id":"a","backends":[{"vip":"x"}],"requestBuffering":"some"}]`:                                     "use on or off",
		`[{"id":"a","backends":[{"vip":"x","filters":[{"stripPrefix":1}]}]}]`:                                 "of one backend alone",
		`[{"id":"a","backends":[{"vip":"x","filters":[{"requestHeaders":{"set":{"TE":"1"}}}]}]}]`:             "backend x: requestHeaders.set: TE is the edge's own",
		`[{"id":"a","backends":[{"status":500,"filters":[{"requestHeaders":{"set":{"X":"1"}}}]}]}]`:           "asks nobody",
		`[{"id":"a","backends":[{"addr":"10.0.0.1"}]}]`:                                                       "host:port",
	} {
		d, err := Parse("edge.routes", text)
		if err == nil {
			_, err = NewTable(Config{}, d.Routes)
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want an error saying %q", text, err, says)
		}
	}
}

func TestAMistakeNamesDocumentLineRouteAndReason(t *testing.T) {
	for text, want := range map[string]string{
		"- id: a\n  backends: [{vip: x}]\n- id: shop\n  match:\n    pth: {prefix: /}\n  backends: [{vip: x}]\n":                   `edge.routes:5: route "shop": match has no "pth"; did you mean path?`,
		"[{\"id\":\"a\",\"backends\":[{\"vip\":\"x\"}]},\n{\"id\":\"shop\",\n\"priority\":\n101,\"backends\":[{\"vip\":\"x\"}]}]": `edge.routes:4: route "shop": priority: got 101, want a whole number from 0 to 100`,
		"routes:\n- id: shop\n  backends: []\n": `edge.routes:2: route "shop": it needs at least one backend, or a filter that answers`,
	} {
		if _, err := Parse("edge.routes", text); err == nil || err.Error() != want {
			t.Errorf("%s\ngot  %v\nwant %s", text, err, want)
		}
	}
	_, err := NewTable(Config{}, parsed(t, "\n\n- {id: shop, match: {path: {regex: '['}}, backends: [{vip: x}]}"))
	if want := `test:3: route "shop": path.regex: error parsing regexp: missing closing ]: ` + "`[`"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	_, err = Parse("r", strings.Repeat("- {id: a, x: 1, backends: [{vip: x}]}\n", 50))
	if n := strings.Count(fmt.Sprint(err), "\n") + 1; n != maxMistakes {
		t.Errorf("a document with 50 mistakes tells of %d, want %d", n, maxMistakes)
	}
}

func TestJSONAndYAMLSayTheSame(t *testing.T) {
	y := parsed(t, `
- id: shop
  match: {hosts: [shop.example.com], path: {prefix: /cart}, methods: [GET], headers: [{name: x-v, exact: 2}]}
  filters:
  - stripPrefix: 1
  - requestHeaders:
      set: {X-Tier: gold}
  - rateLimit: {rate: 10, burst: [1, "two", true, null, 0x10]}
  backends: &b
  - {vip: cart, weight: 9}
  - {vip: cart-next, weight: 1, sticky: user}
  timeouts: {request: 2s}
  retry: {max: 0, statuses: [503]}
  maxBody: 10MiB
  upgrades: false
  requestBuffering: off
  affinity: cookie:session
- <<: {hedge: true, priority: 7}
  id: other
  priority: 8
  backends: *b
`)
	j, err := Format(y)
	if err != nil {
		t.Fatal(err)
	}
	back := parsed(t, string(j))
	if len(back) != len(y) {
		t.Fatalf("got %d routes from\n%s", len(back), j)
	}
	for i := range y {
		if !same(y[i], back[i]) {
			t.Errorf("written as JSON and read again, route %s is another:\n%+v\n%+v", y[i].ID, y[i], back[i])
		}
	}
	if y[1].Priority != 8 || !y[1].Hedge || len(y[1].Backends) != 2 || *y[0].Match.Headers[0].Exact != "2" || y[0].MaxBody != 10<<20 || y[0].Buffering != "off" || y[0].Affinity != "cookie:session" {
		t.Errorf("read %+v", y)
	}
	if got, want := string(y[0].Filters[2].With), `{"rate":10,"burst":[1,"two",true,null,"0x10"]}`; got != want {
		t.Errorf("a filter of another package gets %s, want %s", got, want)
	}
}

func TestWeightsShareRequests(t *testing.T) {
	draw := func(backends string) map[string]int {
		table := tabled(t, Config{}, `[{"id":"r","backends":`+backends+`}]`)
		got := map[string]int{}
		for range 10_000 {
			x := asked("GET", "http://h/")
			table.Match(x)
			got[x.App]++
		}
		return got
	}
	if got := draw(`[{"vip":"a","weight":9},{"vip":"b","weight":1},{"vip":"never","weight":0}]`); got["a"] < 8500 || got["b"] < 700 || got["never"] != 0 {
		t.Errorf("10000 requests at 9:1:0 went %v", got)
	}
	if got := draw(`[{"vip":"a"},{"vip":"b"}]`); got["a"] < 4500 || got["b"] < 4500 {
		t.Errorf("10000 requests without weights went %v", got)
	}
}

func TestAStickyShareThatGrowsKeepsThoseItHad(t *testing.T) {
	in := func(percent int) map[string]bool {
		table := tabled(t, Config{}, fmt.Sprintf(`[{"id":"r","backends":[{"vip":"main","weight":%d},{"vip":"canary","weight":%d,"sticky":"header:X-Account"}]}]`, 100-percent, percent))
		users := map[string]bool{}
		for i := range 5000 {
			u := fmt.Sprint("user-", i)
			x, y := asked("GET", "http://h/", "X-Account: "+u), asked("POST", "http://h/other", "x-account: "+u)
			if table.Match(x); !table.Match(y) || x.App != y.App {
				t.Fatalf("%s got %s and then %s", u, x.App, y.App)
			}
			if x.App == "canary" {
				users[u] = true
			}
		}
		return users
	}
	ten, twenty := in(10), in(20)
	if len(ten) < 400 || len(ten) > 600 || len(twenty) < 850 || len(twenty) > 1150 {
		t.Errorf("of 5000 users %d are in 10 %% and %d in 20 %%", len(ten), len(twenty))
	}
	for u := range ten {
		if !twenty[u] {
			t.Errorf("%s was in 10 %% and is not in 20 %%", u)
		}
	}
}

func TestABackendThatIsAStatusFailsItsShare(t *testing.T) {
	table := tabled(t, Config{}, `[{"id":"r","backends":[{"status":500,"weight":1},{"vip":"a","weight":1}]}]`)
	failed := 0
	for range 1000 {
		x := asked("GET", "http://h/")
		table.Match(x)
		if x.Plan.Endpoint == nil {
			continue
		}
		failed++
		if err := x.Plan.Endpoint.Apply(x); err != nil || x.Response.Status != 500 || x.App != "" {
			t.Fatalf("got %d by %q, %v", x.Response.Status, x.App, err)
		}
	}
	if failed < 400 || failed > 600 {
		t.Errorf("%d of 1000 failed, want about half", failed)
	}
}

func TestFiltersOfABackendAreForItsRequestsAloneAndAfterTheRoutes(t *testing.T) {
	table := tabled(t, Config{}, `[{"id":"r","filters":[{"requestHeaders":{"set":{"X-To":"anybody","X-All":"1"}}}],"backends":[
		{"vip":"a","filters":[{"requestHeaders":{"set":{"X-To":"a"}}},{"responseHeaders":{"set":{"X-By":"a"}}}]},{"vip":"b"}]}]`)
	for seen := map[string]bool{}; len(seen) < 2; { // both come, sooner or later
		x := asked("GET", "http://h/")
		table.Match(x)
		for _, f := range slices.Concat(x.Plan.Inbound, x.Plan.Outbound) {
			if err := f.Apply(x); err != nil {
				t.Fatal(err)
			}
		}
		seen[x.App] = true
		h := &x.Request.Header
		want := map[string]string{"a": "a 1 a", "b": "anybody 1 "}[x.App]
		if got := h.Get("X-To") + " " + h.Get("X-All") + " " + x.Response.Header.Get("X-By"); got != want || x.Plan.Route != "r" {
			t.Fatalf("%s of route %s: got %q, want %q", x.App, x.Plan.Route, got, want)
		}
	}
}

func TestARouteMayHaveSeveralMirrors(t *testing.T) {
	table := tabled(t, Config{}, `[{"id":"r","backends":[{"vip":"a"}],"mirror":{"vip":"b"},"filters":[{"mirror":{"vip":"c","percent":5}}]}]`)
	x := asked("GET", "http://h/")
	if table.Match(x); fmt.Sprint(x.Plan.Mirrors) != "[{b 100} {c 5}]" {
		t.Errorf("got mirrors %v", x.Plan.Mirrors)
	}
	if e := table.Explain(x, nil); e.Mirror != "b (100 %), c (5 %)" {
		t.Errorf("explained as %q", e.Mirror)
	}
}

func TestFiltersOfARouteChangeWhatIsAskedAndAnswered(t *testing.T) {
	for _, tt := range []struct{ match, filters, url, path, host string }{
		{`{"path":{"prefix":"/old"}}`, `{"rewrite":{"prefix":"/new/"}}`, "http://h/old/a", "/new/a", ""},
		{`{"path":{"prefix":"/old"}}`, `{"rewrite":{"prefix":"/new"}}`, "http://h/old", "/new", ""},
		{`{"path":{"prefix":"/old"}}`, `{"rewrite":{"prefix":""}}`, "http://h/old", "/", ""},
		{`{"path":{"prefix":"/old/"}}`, `{"rewrite":{"prefix":"/"}}`, "http://h/old/x/", "/x/", ""},
		{`{}`, `{"rewrite":{"prefix":"/api"}}`, "http://h/x", "/api/x", ""},
		{`{}`, `{"rewrite":{"path":"/one"}}`, "http://h/x/y", "/one", ""},
		{`{}`, `{"rewrite":{"regex":"^/v([0-9]+)/(.*)$","to":"/api/$2"}}`, "http://h/v2/x", "/api/x", ""},
		{`{}`, `{"rewrite":{"regex":"/","to":""}}`, "http://h/x", "", ""}, // what is no path is not asked for
		{`{}`, `{"rewrite":{"host":"inner.example:8080"}}`, "http://h/x", "", "inner.example:8080"},
		{`{}`, `{"stripPrefix":1},{"rewrite":{"regex":"^","to":"/pre"}}`, "http://h/x/y", "/pre/y", ""},
	} {
		table := tabled(t, Config{}, `[{"id":"r","match":`+tt.match+`,"filters":[`+tt.filters+`],"backends":[{"vip":"a"}]}]`)
		x := asked("GET", tt.url)
		if !table.Match(x) || x.Path != tt.path || x.Host != tt.host {
			t.Errorf("%s with %s: got path %q host %q, want %q %q", tt.url, tt.filters, x.Path, x.Host, tt.path, tt.host)
		}
	}
	for _, tt := range []struct{ match, redirect, url, want string }{
		{`{}`, `{"scheme":"https"}`, "http://h:8080/a?b=c", "302 https://h/a?b=c"},
		{`{}`, `{"scheme":"https","port":8443,"status":301}`, "http://h/a", "301 https://h:8443/a"},
		{`{}`, `{"host":"www.h"}`, "http://h:8080/a", "302 http://www.h:8080/a"},
		{`{}`, `{"path":"/b","status":308}`, "https://h/a", "308 https://h/b"},
		{`{"path":{"prefix":"/a"}}`, `{"prefix":"/b"}`, "http://h/a/c", "302 http://h/b/c"},
		{`{"path":{"prefix":"/a"}}`, `{"prefix":""}`, "http://h/a", "302 http://h/"},
	} {
		table := tabled(t, Config{}, `[{"id":"r","match":`+tt.match+`,"filters":[{"redirect":`+tt.redirect+`}]}]`)
		x := asked("GET", tt.url)
		if !table.Match(x) || x.Plan.Endpoint == nil {
			t.Fatalf("%s: no endpoint", tt.redirect)
		}
		if err := x.Plan.Endpoint.Apply(x); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%d %s", x.Response.Status, x.Response.Header.Get("Location")); got != tt.want {
			t.Errorf("%s redirected with %s: got %s, want %s", tt.url, tt.redirect, got, tt.want)
		}
	}
	table := tabled(t, Config{}, `[{"id":"r","filters":[{"answer":{"status":503,"body":"later","headers":{"Retry-After":"7"}}}]},
	 {"id":"h","match":{"path":{"exact":"/h"}},"filters":[{"requestHeaders":{"set":{"A":"1"},"add":{"B":"2"},"remove":["C"]}},{"responseHeaders":{"set":{"D":"4"}}}],"backends":[{"vip":"a"}]}]`)
	x := asked("GET", "http://h/")
	if table.Match(x); x.Plan.Endpoint.Apply(x) != nil || x.Response.Status != 503 || x.Response.Header.Get("Retry-After") != "7" {
		t.Errorf("answered %+v", x.Response)
	}
	x = asked("GET", "http://h/h", "A: 0", "b: 1", "c: 3")
	table.Match(x)
	for _, f := range append(slices.Clone(x.Plan.Inbound), x.Plan.Outbound...) {
		if err := f.Apply(x); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(x.Request.Header.Fields(), x.Response.Header.Fields()); got != "[{A 1} {b 1} {B 2}] [{D 4}]" {
		t.Errorf("headers are %s", got)
	}
}

func TestFiltersOfOtherPackagesAreMadeOncePerRouteAndKept(t *testing.T) {
	made := 0
	c := Config{
		Program: func(name string) ([]*filter.Filter, error) {
			return []*filter.Filter{{Name: "program." + name, Kind: filter.Inbound}, {Name: "program." + name, Kind: filter.Outbound}}, nil
		},
		Filters: map[string]func(json.RawMessage) ([]*filter.Filter, error){"rateLimit": func(raw json.RawMessage) ([]*filter.Filter, error) {
			made++
			return []*filter.Filter{{Name: "rateLimit" + string(raw), Kind: filter.Inbound}}, nil
		}},
	}
	text := func(id string) string {
		return `[{"id":"r","filters":[{"rateLimit":{"rate":1}},{"program":"hook"}],"backends":[{"vip":"a"}]},
		{"id":"` + id + `","match":{"path":{"exact":"/x"}},"backends":[{"vip":"b"}]}]`
	}
	first := tabled(t, c, text("x"))
	c.Former = first
	second := tabled(t, c, "\n\n"+text("y"))
	x, y := asked("GET", "http://h/"), asked("GET", "http://h/")
	first.Match(x)
	second.Match(y)
	if made != 1 || x.Plan.Inbound[0] != y.Plan.Inbound[0] {
		t.Errorf("a route that says the same has its filters made anew: %d times", made)
	}
	e := second.Explain(asked("GET", "http://h/"), nil)
	if got := fmt.Sprint(e.Inbound, e.Outbound, e.Line); got != `[rateLimit{"rate":1} program.hook] [program.hook] 3` {
		t.Errorf("explained as %s", got)
	}
	if e := second.Explain(asked("GET", "http://h/x"), nil); e.Route != "y" {
		t.Errorf("the new route does not take its path: %+v", e)
	}
}

func TestExplainSaysWhyAndWhoLost(t *testing.T) {
	table := tabled(t, Config{Apps: []string{"hello"}}, `[
	 {"id":"cart","match":{"path":{"prefix":"/cart"}},"filters":[{"stripPrefix":1}],"backends":[{"vip":"cart","weight":3},{"vip":"next","weight":1,"sticky":"user"}]},
	 {"id":"root","match":{"path":{"prefix":"/"}},"backends":[{"vip":"root"}]},
	 {"id":"tv","match":{"path":{"prefix":"/cart"},"headers":[{"name":"x-device","exact":"tv"}]},"backends":[{"vip":"cart"}]}]`)
	x := asked("GET", "http://h/cart/1")
	x.User = "ana"
	e := table.Explain(x, nil)
	if e.Route != "cart" || e.Path != "/1" || !strings.Contains(e.Why, "path below /cart") || len(e.Shares) != 2 || e.Shares[0].Percent != 75 {
		t.Errorf("got %+v", e)
	}
	if e.Shares[0].Chosen == e.Shares[1].Chosen {
		t.Errorf("a known user has no backend of its own: %+v", e.Shares)
	}
	want := []Other{{"tv", false, "it wants the header x-device=tv"}, {"root", true, "its path is shorter"}}
	if !slices.Equal(e.Others, want) {
		t.Errorf("others: got %+v, want %+v", e.Others, want)
	}
	if e := table.Explain(asked("GET", "http://h/hello/x"), nil); e.Route != "hello" || e.Path != "/x" || !strings.Contains(e.Why, "in the registry") {
		t.Errorf("got %+v", e)
	}
	none := tabled(t, Config{Apps: []string{"hello"}}, `[{"id":"cart","match":{"path":{"prefix":"/cart"}},"backends":[{"vip":"cart"}]}]`)
	if e := none.Explain(asked("GET", "http://h/nope"), nil); e.Route != "" || e.Why != "no route leads to /nope; there are /hello/ /cart" {
		t.Errorf("got %+v", e)
	}
}

// Anybody can ask for what is not there, as often as they like.
func TestAPathThatLeadsNowhereCostsTheSameHoweverManyRoutesThereAre(t *testing.T) {
	table, err := NewTable(Config{Apps: []string{"hello"}}, many(10_000))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := table.NothingAt("/nope"), "no route leads to /nope; there are /hello/ "; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, " ...") {
		t.Errorf("got %q, want %q, some routes and ...", got, want)
	}
	if n := testing.AllocsPerRun(100, func() { table.NothingAt("/nope") }); n > 1 {
		t.Errorf("got %v allocations, want one for the sentence", n)
	}
	if got, want := table.WithApps([]string{"bye"}).NothingAt("/nope"), "no route leads to /nope; there are /bye/ "; !strings.HasPrefix(got, want) {
		t.Errorf("with another app: got %q, want %q and some routes", got, want)
	}
}

func TestAnAppThatIsThereAlreadyStays(t *testing.T) {
	table := tabled(t, Config{}, `[{"id":"r","filters":[{"stripPrefix":1}],"backends":[{"vip":"a"}]}]`)
	x := asked("GET", "http://h/x/y")
	x.App, x.Instance = "debug", "debug-1"
	if !table.Match(x) || x.App != "debug" || x.Instance != "debug-1" || x.Path != "/y" || x.Plan.Route != "r" {
		t.Errorf("got %q %q %q", x.App, x.Instance, x.Path)
	}
}

// many returns n routes over paths, hosts and headers, as benchmarks want them.
func many(n int) []Route {
	routes := make([]Route, 0, n)
	for i := range n {
		r := Route{ID: fmt.Sprint("r", i), Backends: []Backend{{VIP: "app"}}}
		switch i % 4 {
		case 0:
			r.Match.Path.Exact = fmt.Sprintf("/api/v1/things/%d", i)
		case 1:
			r.Match.Path.Prefix = fmt.Sprintf("/api/v1/app%d/sub", i)
			r.Filters = []Filter{{StripPrefix: 2}}
		case 2:
			r.Match.Hosts = []string{fmt.Sprintf("*.h%d.example.com", i)}
			r.Match.Path.Prefix = "/api"
		case 3:
			r.Match.Path.Prefix = fmt.Sprintf("/headers/%d", i/16)
			v := fmt.Sprint(i % 16)
			r.Match.Headers = []Value{{Name: "x-device", Exact: &v}}
		}
		routes = append(routes, r)
	}
	return routes
}

func TestMatchingTenThousandRoutesAllocatesNothing(t *testing.T) {
	table, err := NewTable(Config{Apps: []string{"hello"}}, many(10_000))
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range hot() {
		want := routeOf(table, x)
		if want == "" {
			t.Fatalf("%s: no route", name)
		}
		if n := testing.AllocsPerRun(100, func() {
			x.App, x.Plan = "", nil
			table.Match(x)
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

// hot are requests for the routes of many.
func hot() map[string]*filter.Exchange {
	return map[string]*filter.Exchange{
		"Exact":    asked("GET", "http://shop.example.com/api/v1/things/4000?x=1", "accept: */*"),
		"Prefix":   asked("GET", "http://shop.example.com/api/v1/app4001/sub/a/b/c", "accept: */*"),
		"Wildcard": asked("GET", "http://a.H4002.example.com:8080/api/v1/users", "accept: */*"),
		"Headers":  asked("GET", "http://shop.example.com/headers/250/x", "accept: */*", "user-agent: test", "x-device: 15"),
		"App":      asked("GET", "http://shop.example.com/Hello/world", "accept: */*"),
	}
}

func benchmarkMatch(b *testing.B, name string) {
	table, err := NewTable(Config{Apps: []string{"hello"}}, many(10_000))
	if err != nil {
		b.Fatal(err)
	}
	x := hot()[name]
	b.ReportAllocs()
	for b.Loop() {
		x.App, x.Plan = "", nil
		if !table.Match(x) {
			b.Fatal("no match")
		}
	}
}

func BenchmarkMatchExact(b *testing.B)    { benchmarkMatch(b, "Exact") }
func BenchmarkMatchPrefix(b *testing.B)   { benchmarkMatch(b, "Prefix") }
func BenchmarkMatchWildcard(b *testing.B) { benchmarkMatch(b, "Wildcard") }
func BenchmarkMatchHeaders(b *testing.B)  { benchmarkMatch(b, "Headers") }
func BenchmarkMatchApp(b *testing.B)      { benchmarkMatch(b, "App") }

func BenchmarkMatchSticky(b *testing.B) {
	table := tabled(b, Config{}, `[{"id":"r","backends":[{"vip":"a","weight":9},{"vip":"b","weight":1,"sticky":"header:x-account"}]}]`)
	x := asked("GET", "http://h/", "x-account: ana")
	b.ReportAllocs()
	for b.Loop() {
		x.App = ""
		table.Match(x)
	}
}

// Building is what a reload costs, without reading the text.
func BenchmarkBuild10000(b *testing.B) {
	routes := many(10_000)
	for b.Loop() {
		if _, err := NewTable(Config{}, routes); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse10000(b *testing.B) {
	text, err := Format(many(10_000))
	if err != nil {
		b.Fatal(err)
	}
	benchmarkParse(b, string(text))
}

func BenchmarkParseYAML10000(b *testing.B) { benchmarkParse(b, yamlOf(many(10_000))) }

func benchmarkParse(b *testing.B, text string) {
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("routes", text); err != nil {
			b.Fatal(err)
		}
	}
}

// yamlOf writes routes that [many] makes as a person does.
func yamlOf(routes []Route) string {
	var b strings.Builder
	for _, r := range routes {
		fmt.Fprintf(&b, "- id: %s\n  match:\n", r.ID)
		if r.Match.Hosts != nil {
			fmt.Fprintf(&b, "    hosts: ['%s']\n", r.Match.Hosts[0])
		}
		switch p := r.Match.Path; {
		case p.Exact != "":
			fmt.Fprintf(&b, "    path: {exact: %s}\n", p.Exact)
		default:
			fmt.Fprintf(&b, "    path: {prefix: %s}\n", p.Prefix)
		}
		for _, h := range r.Match.Headers {
			fmt.Fprintf(&b, "    headers: [{name: %s, exact: \"%s\"}]\n", h.Name, *h.Exact)
		}
		for _, f := range r.Filters {
			fmt.Fprintf(&b, "  filters: [{stripPrefix: %d}] # what the app does not know\n", f.StripPrefix)
		}
		fmt.Fprintf(&b, "  backends:\n  - vip: %s\n", r.Backends[0].VIP)
	}
	return b.String()
}

func TestAReaderReadsATextOnce(t *testing.T) {
	var r Reader
	one := Text{"edge.routes", "- {id: one, match: {path: {prefix: /one}}, backends: [{vip: a}]}"}
	two := Text{"edge.routes.two", "- {id: two, match: {path: {prefix: /two}}, backends: [{vip: a}]}"}
	other := Text{"edge.routes.two", "- {id: three, backends: [{vip: a}]}\n- {id: four, backends: [{vip: a}]}"}
	wrong := Text{"edge.routes.two", "- {id: two"}
	ids := func(texts ...Text) (ids []string) {
		t.Helper()
		doc, err := r.ParseAll(texts)
		want, wantErr := ParseAll(texts)
		if fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Fatalf("%v: got %v, want %v", texts, err, wantErr)
		}
		if err != nil {
			return nil
		}
		if !reflect.DeepEqual(doc, want) {
			t.Fatalf("%v: got %+v, want %+v", texts, doc, want)
		}
		for i := range doc.Routes {
			ids = append(ids, doc.Routes[i].ID)
		}
		doc.Routes[0].ID = "somebody else's" // a document belongs to who asked for it
		return ids
	}
	ids(one, two)
	said := maps.Clone(r.last)
	ids(one, wrong)
	ids(one, two)
	if r.last[one] != said[one] || r.last[two] != said[two] {
		t.Error("what was read before was read again")
	}
	ids(one, other)
	if r.last[one] != said[one] {
		t.Error("a change of one text has another read again")
	}
	ids(one, other)
	ids(one, other)
	if len(r.last) != 2 || len(r.before) != 2 || r.before[two] != nil {
		t.Error("a text that is used no more is kept")
	}
	if got := ids(Text{"edge.routes.b", one.Text}, one); got != nil {
		t.Errorf("two routes of one id in two documents: got %v, want a mistake", got)
	}
}

// A Gateway API object is told from others in all texts, whichever of them were read before.
func TestAReaderKeepsNoMistakesOfObjects(t *testing.T) {
	var r Reader
	object := Text{"edge.routes", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {rules: [{backendRefs: [{name: b, namespace: other}]}]}\n"}
	grant := Text{"edge.routes.grant", "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}], to: [{group: '', kind: Service}]}\n"}
	for _, texts := range [][]Text{{object}, {object, grant}, {object, object}, {object}, {grant, object}} {
		got, err := r.ParseAll(texts)
		want, wantErr := ParseAll(texts)
		if fmt.Sprint(err) != fmt.Sprint(wantErr) || err == nil && (len(got.Objects) != len(want.Objects) || fmt.Sprint(got.Objects[0].Conditions) != fmt.Sprint(want.Objects[0].Conditions) || !reflect.DeepEqual(got.Routes, want.Routes)) {
			t.Errorf("%v: got %+v, %v; want %+v, %v", texts, got, err, want, wantErr)
		}
	}
}

// routeSeeds are documents that are read, or nearly.
var routeSeeds = []string{
	`[{"id":"a","match":{"hosts":["*.x.y"],"path":{"prefix":"/"}},"backends":[{"vip":"a","weight":1}]}]`,
	`[{"id":"a","filters":[{"stripPrefix":2}],"timeouts":{"request":"1s"},"backends":[{"vip":"a"}]}]`,
	"- id: a\n  match: {path: {regex: '/a.*'}, query: [{name: q, present: false}]}\n  filters: [{redirect: {scheme: https}}]\n",
	"routes: [{id: a, affinity: user, requestBuffering: 'off', match: {path: {prefix: /app}}, backends: [{vip: a}]}]\ntests:\n- {request: POST http://a.x.y/app/x?q=1, headers: ['X-A: b'], user: u, route: a, backend: a, path: /app/x}\n- {request: /, route: none, status: 404}\n",
	"routes:\n- &x {id: a, backends: [{addr: '[::1]:80', sticky: 'cookie:c'}]}\n",
	"- id: a\n  filters: [{requestHeaders: {set: {}, add: {a: b}}}]\n  backends: [{vip: a}]\n",
	"- id: a\n  filters: [{rewrite: {prefix: /y}}, {rateLimit: {a: [1]}}]\n  backends: [{status: 500}, {vip: b}]\n",
}

func FuzzRoutes(f *testing.F) {
	for _, seed := range routeSeeds {
		f.Add(seed, "/app/x", "a.x.y:80", "q=%31&r")
	}
	f.Add(gatewayYAML, "/cart/1", "shop.example.com", "q=a")
	f.Add(strings.ReplaceAll(gatewayYAML, "set: [{name: X-A, value: a}]", "set: []"), "/cart/1", "shop.example.com", "q=a")
	f.Fuzz(func(t *testing.T, text, path, host, query string) { tryRoutes(t, text, path, host, query) })
}

// Millions of documents that are nearly right are refused, or mean the same once they are written again; see package hammer.
func TestHammer(t *testing.T) {
	seeds := [][]byte{[]byte(gatewayYAML)}
	for _, s := range routeSeeds {
		seeds = append(seeds, []byte(s))
	}
	words := []string{`"id":`, `"match":`, `"path":`, `{"prefix":"/"}`, `{"exact":"/a"}`, `{"regex":"/a(b)*"}`, `"hosts":["*.x"]`, `"when":"true"`, `"backends":[{"vip":"a"}]`, `"weight":1000000`, `"status":503`, `"sticky":"user"`, `"filters":[{"stripPrefix":1}]`,
		`"timeouts":{"request":"1s"}`, `"retry":{"max":1}`, `"mirror":{"vip":"m","percent":5}`, "- ", "\n  ", "&x ", "*x", "{", "}", "[", "]", ",", "null", "1e9", "/../", "%2e", "//"}
	paths, hosts, queries := []string{"/app/x", "/", "/a", "/ab", "/a/./b", "/%2e"}, []string{"a.x.y:80", "x", "a.x", "[::1]:80", ""}, []string{"q=%31&r", "", "q=1"}
	n := 0
	hammer.Run(t, seeds, words, func(t *testing.T, in []byte) bool {
		n++
		return tryRoutes(t, string(in), paths[n%len(paths)], hosts[n%len(hosts)], queries[n%len(queries)])
	})
}

// tryRoutes takes a document into a table, asks it, writes the document again and reads that.
func tryRoutes(t *testing.T, text, path, host, query string) (accepted bool) {
	plug := func(json.RawMessage) ([]*filter.Filter, error) { return nil, nil }
	config := Config{
		Apps: []string{"app"}, Filters: map[string]func(json.RawMessage) ([]*filter.Filter, error){"cors": plug, "rateLimit": plug, "auth": plug, "queue": plug},
		Predicate: func(string) (func(*filter.Exchange) bool, error) {
			return func(*filter.Exchange) bool { return true }, nil
		},
		Program: func(string) ([]*filter.Filter, error) { return nil, nil },
	}
	d, err := Parse("fuzz", text)
	if err != nil {
		return false
	}
	table, err := NewTable(config, d.Routes)
	if err != nil {
		return false
	}
	for _, method := range []string{"GET", "POST"} {
		x := asked(method, "http://h/", "Cookie: a=b; c", "X-A: b")
		x.Request.Path, x.Request.Host, x.Request.RawQuery = path, host, query
		if table.Match(x) && x.Plan.Endpoint != nil {
			x.Plan.Endpoint.Apply(x) //nolint:errcheck // only a panic is of interest
		} else if x.Path != "" && x.Path[0] != '/' {
			t.Fatalf("%q is asked for as %q", path, x.Path)
		}
		table.Explain(x, nil)
	}
	for _, g := range d.Tests {
		if o := table.Try(g); o.OK != (o.Why == "") {
			t.Fatalf("%+v comes to %+v", g, o)
		}
	}
	again, err := Format(d.Routes)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse("again", string(again))
	if err != nil {
		t.Fatalf("%s was accepted, but not as written again %s: %v", text, again, err)
	}
	for i := range back.Routes {
		if !same(back.Routes[i], d.Routes[i]) {
			t.Fatalf("%s was written again as %s", text, again)
		}
	}
	return true
}
