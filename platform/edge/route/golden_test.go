package route

import (
	"strings"
	"testing"
)

const withTests = `
routes:
- {id: shop, match: {path: {prefix: /cart}}, filters: [{stripPrefix: 1}], backends: [{vip: cart, weight: 9}, {vip: cart-next, weight: 1}]}
- {id: old, match: {path: {exact: /old}}, filters: [{answer: {status: 410}}]}
- {id: moved, match: {path: {exact: /moved}, headers: [{name: x-device, exact: tv}]}, filters: [{redirect: {path: /new, status: 301}}]}
tests:
`

func TestRoutesByWhichATestComesOutOtherwiseAreRefused(t *testing.T) {
	for _, tt := range []struct{ test, wrong string }{
		{"{request: /cart/1, route: shop, backend: cart, path: /1}", ""},
		{"{request: GET http://shop.example.com/cart/1?x=1, route: shop, backend: cart-next}", ""},
		{"{request: POST /old, route: old, status: 410}", ""},
		{"{request: /moved, headers: ['X-Device: tv'], status: 301}", ""},
		{"{request: /moved, route: none}", ""},
		{"{request: /moved, status: 404}", ""},
		{"{request: /hello/x, route: hello, backend: hello, path: /x}", ""},
		{"{request: /hello, status: 308}", ""},
		{"{request: /cart/1, route: old}", "/cart/1 must come to route old; it comes to route shop, cart or cart-next asked for /1"},
		{"{request: /cart/1, backend: basket}", "must come to backend basket"},
		{"{request: /cart/1, path: /cart/1}", "must come to path /cart/1"},
		{"{request: /cart/1, status: 200}", "must come to status 200"},
		{"{request: /old, status: 404}", "must come to status 404; it comes to route old, answered 410"},
		{"{request: /moved, route: moved, status: 301}", "must come to route moved, status 301; it comes to route none, answered 404"},
	} {
		doc, err := Parse("edge.routes", withTests+"- "+tt.test+"\n")
		if err != nil {
			t.Fatalf("%s: %v", tt.test, err)
		}
		table, err := NewTable(Config{Apps: []string{"hello"}}, doc.Routes)
		if err != nil {
			t.Fatal(err)
		}
		err = table.Hold(doc.Tests)
		switch {
		case tt.wrong == "" && err != nil:
			t.Errorf("%s: got %v, want it to hold", tt.test, err)
		case tt.wrong != "" && (err == nil || !strings.Contains(err.Error(), tt.wrong) || !strings.HasPrefix(err.Error(), "edge.routes:7: test: ")):
			t.Errorf("%s: got %v, want edge.routes:7: test: ... %s", tt.test, err, tt.wrong)
		}
	}
}

func TestATestThatCannotBeMeantIsRefused(t *testing.T) {
	for test, says := range map[string]string{
		"{route: shop}":                                         "it has no request",
		"{request: /cart}":                                      "say what must become of it",
		"{request: cart, route: shop}":                          "is no path",
		"{request: 'GE T /cart', route: shop}":                  "is no path",
		"{request: 'G@T /cart', route: shop}":                   "write a method and a URL",
		"{request: /cart, route: none, backend: cart}":          "where no route takes it there is no backend",
		"{request: /cart, status: 200, backend: cart}":          "either the edge answers",
		"{request: /cart, status: 99}":                          "from 100 to 599",
		"{request: /cart, route: shop, headers: [X-Device]}":    "write Name: value",
		"{request: /cart, rout: shop}":                          "did you mean route",
		"{request: /cart, route: shop, headers: {X-Device: a}}": "want a list",
	} {
		if _, err := Parse("edge.routes", withTests+"- "+test+"\n"); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want an error saying %q", test, err, says)
		}
	}
}

func TestTestsAloneAreTriedOnTheRoutesInForce(t *testing.T) {
	srv := controlled(t, Settings{"edge.routes": withTests + "- {request: /cart/1, route: shop}\n"})
	var out []Outcome
	for _, body := range []string{
		`- {request: /cart/1, route: shop}` + "\n" + `- {request: /cart/1, route: old}`,
		`{"tests": [{"request": "/cart/1", "route": "shop"}, {"request": "/cart/1", "route": "old"}]}`,
		`{"text": "tests:\n- {request: /cart/1, route: shop}\n- {request: /cart/1, route: old}\n"}`,
	} {
		if status, text := tell(t, "POST", srv.URL+"/api/v1/edge/routes/test", body, &out); status != 200 || len(out) != 2 || !out[0].OK || out[1].OK || out[1].Why == "" {
			t.Errorf("%s: got %d %s, want the first to be as it must, and the second not", body, status, text)
		}
	}
	if status, text := tell(t, "POST", srv.URL+"/api/v1/edge/routes/test", `{"text": ""}`, &out); status != 200 || len(out) != 1 || !out[0].OK {
		t.Errorf("with no text: got %d %s, want those of the documents", status, text)
	}
	if status, text := tell(t, "POST", srv.URL+"/api/v1/edge/routes/test", "[]", nil); status != 422 {
		t.Errorf("with none in what is sent: got %d %s, want 422", status, text)
	}
	if status, text := tell(t, "PUT", srv.URL+"/api/v1/edge/routes?dryRun=1", withTests+"- {request: /cart/1, route: old}\n", nil); status != 422 || !strings.Contains(text, "must come to route old") {
		t.Errorf("a document whose own test fails: got %d %s, want 422 that says why", status, text)
	}
}
