package standard

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

func ask(origin, method, headers string) *filter.Exchange {
	x := get("Origin", origin, "Access-Control-Request-Method", method)
	x.Request.Method = http.MethodOptions
	if headers != "" {
		x.Request.Header.Add("Access-Control-Request-Headers", headers)
	}
	return x
}

func TestPreflightsAreAnsweredByTheFetchStandard(t *testing.T) {
	both := func(t *testing.T, check func(t *testing.T, e *edge)) {
		t.Run("of all routes", func(t *testing.T) {
			check(t, newEdge(t, "edge.cors.origins", "https://app.example.com,https://*.tv.example.com", "edge.cors.methods", "GET,PUT", "edge.cors.headers", "X-A,X-B",
				"edge.cors.expose", "X-C", "edge.cors.credentials", "true", "edge.cors.maxAge", "10m"))
		})
		t.Run("of one route", func(t *testing.T) {
			fs, err := RouteCors(json.RawMessage(`{"origins":["https://app.example.com","https://*.tv.example.com"],"methods":["GET","PUT"],"headers":["X-A","X-B"],"expose":["X-C"],"credentials":true,"maxAge":"10m"}`))
			if err != nil {
				t.Fatal(err)
			}
			e := newEdge(t)
			e.plan = &filter.Plan{Inbound: fs[:1], Outbound: fs[1:]}
			check(t, e)
		})
	}
	both(t, func(t *testing.T, e *edge) {
		for origin, allowed := range map[string]bool{
			"https://app.example.com": true, "https://APP.example.com": true, "https://a.tv.example.com": true, "https://a.b.tv.example.com": true,
			"http://app.example.com": false, "https://app.example.com:8443": false, "https://tv.example.com": false, "https://.tv.example.com": false,
			"https://eviltv.example.com": false, "https://app.example.com.evil": false, "null": false,
		} {
			x := e.run(ask(origin, "PUT", "x-a"))
			h := &x.Response.Header
			if x.Response.Status != 204 || e.asked > 0 || (h.Get("Access-Control-Allow-Origin") == origin) != allowed || !h.Contains("Vary", "Origin") {
				t.Fatalf("%q: got %d %+v, want 204, allowed %v", origin, x.Response.Status, h.Fields(), allowed)
			}
			if allowed && (h.Get("Access-Control-Allow-Methods") != "GET, PUT" || h.Get("Access-Control-Allow-Headers") != "X-A, X-B" || h.Get("Access-Control-Allow-Credentials") != "true" || h.Get("Access-Control-Max-Age") != "600") {
				t.Errorf("%q: got %+v", origin, h.Fields())
			}
		}
		x := get("Origin", "https://app.example.com")
		e.origin = func(x *filter.Exchange) error {
			x.Answer(500, "")
			x.Response.Header.Add("Access-Control-Allow-Origin", "*")
			return nil
		}
		h := &e.run(x).Response.Header
		if h.Count("Access-Control-Allow-Origin") != 1 || h.Get("Access-Control-Allow-Origin") != "https://app.example.com" || h.Get("Access-Control-Expose-Headers") != "X-C" || !h.Contains("Vary", "Origin") {
			t.Errorf("an answer with an error: got %+v", h.Fields())
		}
		x = get()
		if h := &e.run(x).Response.Header; !h.Contains("Vary", "Origin") {
			t.Errorf("an answer to nobody: got %+v, want it to vary, for a cache may keep it", h.Fields())
		}
	})
}

func TestAnyMethodAndHeaderMeansTheOnesAskedFor(t *testing.T) {
	e := newEdge(t, "edge.cors.origins", "*", "edge.cors.methods", "*", "edge.cors.headers", "*")
	h := &e.run(ask("https://any.example", "DELETE", "x-a,x-b")).Response.Header
	if h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Access-Control-Allow-Methods") != "DELETE" || h.Get("Access-Control-Allow-Headers") != "x-a,x-b" || h.Has("Access-Control-Allow-Credentials") {
		t.Errorf("got %+v", h.Fields())
	}
}

func TestPlainOptionsAreNoPreflight(t *testing.T) {
	e := newEdge(t, "edge.cors.origins", "*")
	x := get("Origin", "https://any.example")
	x.Request.Method = http.MethodOptions
	if e.run(x); e.asked != 1 || x.Response.Status != 200 {
		t.Errorf("got %d, origin asked %d times", x.Response.Status, e.asked)
	}
}

func TestCorsOfARouteThatCannotBeMeantIsRefused(t *testing.T) {
	for _, doc := range []string{
		`{}`, `[]`, `{"origins":["shop"]}`, `{"origins":["https://a/b"]}`, `{"origins":["https://*"]}`, `{"origins":["https://a.*.com"]}`, `{"origins":["*"],"credentials":true}`,
		`{"origins":["*"],"methods":["GET POST"]}`, `{"origins":["*"],"headers":["x:y"]}`, `{"origins":["*"],"maxAge":"25h"}`, `{"origins":["*"],"maxAge":"soon"}`, `{"origins":["*"],"max":"1s"}`,
	} {
		if _, err := RouteCors(json.RawMessage(doc)); err == nil {
			t.Errorf("%s: got no error", doc)
		}
	}
}
