package edge

import (
	"net/http"
	"testing"

	"github.com/roadbed/roadbed/config"
)

func TestRoutesHoldKeysToTheirRate(t *testing.T) {
	h := newHouse(t, map[string]http.Handler{"hello": http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	h.route(`[{"id": "slow", "match": {"path": {"prefix": "/slow"}}, "backends": [{"vip": "hello"}], "filters": [{"rateLimit": {"rate": "1/h", "burst": 1}}]}]`)
	for i, want := range []int{200, 429} {
		if resp, body := h.get(t, "/slow"); resp.StatusCode != want {
			t.Errorf("request %d: got %d %q, want %d", i+1, resp.StatusCode, body, want)
		}
	}
	if resp, _ := h.get(t, "/hello/"); resp.StatusCode != 200 {
		t.Errorf("another route: got %d, want 200", resp.StatusCode)
	}
}

func TestServicesLearnHowImportantARequestIs(t *testing.T) {
	var got http.Header
	props := config.New(config.Options{Override: map[string]string{"edge.priority.logs": "* /hello/logs BULK"}})
	h := newHouseWith(t, props, map[string]http.Handler{"hello": http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header })})
	for path, want := range map[string][2]string{"/hello/logs": {"BULK", "95"}, "/hello/": {"", ""}, "/vital": {"CRITICAL", "3"}} {
		h.route(`[{"id": "vital", "match": {"path": {"prefix": "/vital"}}, "backends": [{"vip": "hello"}], "priority": 3}]`)
		h.get(t, path)
		if c, p := got.Get("X-Ipc-Criticality"), got.Get("X-Ipc-Priority"); c != want[0] || p != want[1] {
			t.Errorf("%s: the service is told criticality %q, priority %q; want %q", path, c, p, want)
		}
	}
}

func TestRoutesAskWhoComes(t *testing.T) {
	got := make(chan string, 1)
	h := newHouse(t, map[string]http.Handler{
		"hello": http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header.Get("X-Forwarded-User") }),
		"gate": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Forwarded-Uri") != "/asked/x" || r.Header.Get("Cookie") != "session=ana" {
				w.WriteHeader(403)
				return
			}
			w.Header().Set("X-Forwarded-User", "ana")
		}),
	})
	// The SHA-256 is of "k".
	h.route(`[{"id": "keys", "match": {"path": {"prefix": "/keys"}}, "backends": [{"vip": "hello"}],
	  "filters": [{"auth": {"apiKey": {"keys": {"batch": "8254c329a92850f6d539dd376f4816ee2764517da5e0235514af433164480d7a"}}}}]},
	 {"id": "asked", "match": {"path": {"prefix": "/asked"}}, "backends": [{"vip": "hello"}], "filters": [{"auth": {"forwardAuth": {"url": "vip://gate/check"}}}]}]`)
	for _, c := range []struct {
		path, name, value string
		want              int
		user              string
	}{
		{"/keys", "X-API-Key", "k", 200, "batch"}, {"/keys", "X-Forwarded-User", "root", 401, ""},
		{"/asked/x", "Cookie", "session=ana", 200, "ana"}, {"/asked/x", "Cookie", "session=eve", 403, ""},
	} {
		resp, body := h.get(t, c.path, c.name, c.value)
		if resp.StatusCode != c.want {
			t.Errorf("%s with %s: %s: got %d %q, want %d", c.path, c.name, c.value, resp.StatusCode, body, c.want)
			continue
		}
		if c.want != 200 {
			continue
		}
		if user := <-got; user != c.user {
			t.Errorf("%s: the service is told user %q, want %q", c.path, user, c.user)
		}
	}
}
