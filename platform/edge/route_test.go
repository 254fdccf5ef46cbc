package edge

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMostSpecificRouteWinsWhateverTheOrder(t *testing.T) {
	list := `[
	 {"id":"root","match":{"path":{"prefix":"/"}},"backends":[{"vip":"root"}]},
	 {"id":"cart","match":{"path":{"prefix":"/cart"}},"backends":[{"vip":"cart"}]},
	 {"id":"cart-post","match":{"path":{"prefix":"/cart"},"methods":["POST"]},"backends":[{"vip":"cart"}]},
	 {"id":"cart-tv","match":{"path":{"prefix":"/cart"},"headers":[{"name":"x-device","exact":"tv"}]},"backends":[{"vip":"cart"}]},
	 {"id":"cart-deep","match":{"path":{"prefix":"/cart/items"}},"backends":[{"vip":"cart"}]},
	 {"id":"exact","match":{"path":{"exact":"/cart/items"}},"backends":[{"vip":"cart"}]},
	 {"id":"wild","match":{"hosts":["*.example.com"]},"backends":[{"vip":"wild"}]},
	 {"id":"host","match":{"hosts":["shop.example.com"],"path":{"prefix":"/x"}},"backends":[{"vip":"host"}]}
	]`
	routes, err := ParseRoutes(list)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ method, url, device, want string }{
		{"GET", "http://h/", "", "root"},
		{"GET", "http://h/other", "", "root"},
		{"GET", "http://h/cart", "", "cart"},
		{"GET", "http://h/cartel", "", "root"}, // prefixes are whole segments
		{"POST", "http://h/cart/1", "", "cart-post"},
		{"GET", "http://h/cart/1", "tv", "cart-tv"},
		{"POST", "http://h/cart/1", "tv", "cart-post"}, // method before headers
		{"GET", "http://h/cart/items/7", "", "cart-deep"},
		{"GET", "http://h/cart/items", "", "exact"},
		{"GET", "http://a.example.com:7000/cart/items", "", "wild"}, // host before path
		{"GET", "http://SHOP.example.com/x/y", "", "host"},
		{"GET", "http://shop.example.com/y", "", "wild"},
		{"GET", "http://example.com/y", "", "root"}, // the wildcard wants a label
		{"GET", "http://h/hello/x", "", "hello"},    // by name before a shorter prefix
		{"GET", "http://h/Hello/x", "", "hello"},
		{"GET", "http://h/cart/zzz", "", "cart"},
		{"GET", "http://h/hello%2Fx", "", "root"}, // an escaped slash parts no segments
	}
	rapid.Check(t, func(rt *rapid.T) {
		table := newTable(rapid.Permutation(routes).Draw(rt, "order"), []string{"hello"})
		for _, tt := range tests {
			r := httptest.NewRequest(tt.method, tt.url, nil)
			if tt.device != "" {
				r.Header.Set("X-Device", tt.device)
			}
			m, ok := table.match(r)
			if !ok || m.route.id != tt.want {
				rt.Fatalf("%s %s device %q: got %v %v, want %s", tt.method, tt.url, tt.device, m.route, ok, tt.want)
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
		{"/a/b", 0, "/a/b", ""},
		{"/", 0, "/", ""},
	}
	for _, tt := range tests {
		m := match{route: &route{strip: tt.strip}}
		u := httptest.NewRequest("GET", tt.path, nil).URL
		if got := m.path(u); got != tt.want {
			t.Errorf("%s without %d segments: got %s, want %s", tt.path, tt.strip, got, tt.want)
		}
		if got := m.prefix(u); got != tt.left {
			t.Errorf("prefix that %s without %d segments lost: got %q, want %q", tt.path, tt.strip, got, tt.left)
		}
	}
}

func TestMistakenRoutesAreRefusedWithTheReason(t *testing.T) {
	for text, says := range map[string]string{
		`{}`:   "no list of routes",
		`[] x`: "something after its list",
		`[{"id":"a","backends":[{"vip":"x"}],"colour":1}]`:                                  "colour",
		`[{"backends":[{"vip":"x"}]}]`:                                                      "needs an id",
		`[{"id":"a"}]`:                                                                      "at least one backend",
		`[{"id":"a","backends":[{"vip":"x/y"}]}]`:                                           `backend "x/y"`,
		`[{"id":"a","backends":[{"vip":"x","weight":-1}]}]`:                                 "weight -1",
		`[{"id":"a","match":{"path":{"prefix":"x"}},"backends":[{"vip":"x"}]}]`:             "starts with /",
		`[{"id":"a","match":{"path":{"prefix":"/","exact":"/"}},"backends":[{"vip":"x"}]}]`: "not both",
		`[{"id":"a","match":{"hosts":["a*b"]},"backends":[{"vip":"x"}]}]`:                   `host "a*b"`,
		`[{"id":"a","match":{"methods":["get"]},"backends":[{"vip":"x"}]}]`:                 "capitals",
		`[{"id":"a","timeouts":{"request":"soon"},"backends":[{"vip":"x"}]}]`:               `"soon"`,
		`[{"id":"a","backends":[{"vip":"x"}]},{"id":"a","backends":[{"vip":"x"}]}]`:         `two routes have the id "a"`,
	} {
		if _, err := ParseRoutes(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want an error saying %q", text, err, says)
		}
	}
}

func TestWeightsShareRequests(t *testing.T) {
	r := compile(Route{ID: "r", Backends: []Backend{{"a", 9}, {"b", 1}, {"never", 0}}})
	got := map[string]int{}
	for range 10_000 {
		got[r.pick()]++
	}
	if got["a"] < 8500 || got["b"] < 700 || got["never"] != 0 {
		t.Errorf("10000 requests at 9:1:0 went %v", got)
	}
	even := compile(Route{ID: "r", Backends: []Backend{{VIP: "a"}, {VIP: "b"}}})
	got = map[string]int{}
	for range 1000 {
		got[even.pick()]++
	}
	if got["a"] < 350 || got["b"] < 350 {
		t.Errorf("1000 requests without weights went %v", got)
	}
}

func FuzzParseRoutes(f *testing.F) {
	f.Add(`[{"id":"a","match":{"hosts":["*.x.y"],"path":{"prefix":"/"}},"backends":[{"vip":"a","weight":1}]}]`)
	f.Add(`[{"id":"a","filters":[{"stripPrefix":2}],"timeouts":{"request":"1s"},"backends":[{"vip":"a"}]}]`)
	f.Fuzz(func(t *testing.T, text string) {
		routes, err := ParseRoutes(text)
		if err != nil {
			return
		}
		table := newTable(routes, []string{"app"})
		if m, ok := table.match(httptest.NewRequest("GET", "http://h/app/x", nil)); ok {
			m.route.pick()
		}
		again, err := json.Marshal(routes)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRoutes(string(again)); err != nil {
			t.Fatalf("%s was accepted, but not as written again %s: %v", text, again, err)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	var specs []Route
	for i := range 100 {
		specs = append(specs, Route{ID: fmt.Sprint("r", i), Match: Match{Path: PathMatch{Prefix: fmt.Sprintf("/p%d", i)}}, Backends: []Backend{{VIP: "x"}}})
	}
	t := newTable(specs, []string{"hello"})
	r := httptest.NewRequest("GET", "http://h/hello/world", nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := t.match(r); !ok {
			b.Fatal("no match")
		}
	}
}
