package edge

import (
	"net/http"
	"testing"
)

func TestAPreflightIsAnsweredByTheRouteItIsForWhoeverAsks(t *testing.T) {
	asked := 0
	h := newHouse(t, map[string]http.Handler{"hello": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ })})
	h.route(`
- id: shared
  match: {path: {prefix: /shared}, methods: [GET]}
  filters:
  - auth: {apiKey: {keys: {batch: 8254c329a92850f6d539dd376f4816ee2764517da5e0235514af433164480d7a}}}
  - cors: {origins: ["https://app.example.com"], methods: [GET]}
  backends: [{vip: hello}]
`)
	if h.refused != "" {
		t.Fatal(h.refused)
	}
	req, err := http.NewRequest("OPTIONS", h.front.URL+"/shared/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "https://app.example.com")
	req.Header.Set("Access-Control-Request-Method", "GET")
	resp, err := h.front.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != 204 || got != "https://app.example.com" || asked != 0 {
		t.Errorf("the preflight: got %d, Access-Control-Allow-Origin %q, and the app was asked %d times; want 204, the page's origin and none", resp.StatusCode, got, asked)
	}
	resp, _ = h.get(t, "/shared/x", "Origin", "https://app.example.com")
	if got := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != 401 || got != "https://app.example.com" {
		t.Errorf("the request itself, without a key: got %d, Access-Control-Allow-Origin %q; want 401 that the page may read", resp.StatusCode, got)
	}
}
