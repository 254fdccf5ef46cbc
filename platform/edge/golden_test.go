package edge

import (
	"net/http"
	"strings"
	"testing"
)

func TestRoutesWhoseTestsFailLeaveTheOnesBeforeInForce(t *testing.T) {
	h := newHouse(t, map[string]http.Handler{"hello": http.NotFoundHandler()})
	document := func(status, want string) string {
		return `{"routes": [{"id": "one", "match": {"path": {"exact": "/one"}}, "filters": [{"answer": {"status": ` + status + `}}]}],
			"tests": [{"request": "/one", "route": "one", "status": ` + want + `}]}`
	}
	answers := func(what string, want int, refused string) {
		t.Helper()
		if resp, _ := h.get(t, "/one"); resp.StatusCode != want {
			t.Errorf("%s: /one is answered %d, want %d", what, resp.StatusCode, want)
		}
		if !strings.Contains(h.refused, refused) || refused == "" && h.refused != "" {
			t.Errorf("%s: refused %q, want %q", what, h.refused, refused)
		}
	}
	h.route(document("201", "200"))
	answers("an edge that has no others", 201, "")
	h.route(document("202", "202"))
	answers("tests that hold", 202, "")
	h.route(document("203", "202"))
	answers("a test that fails", 202, "/one must come to status 202; it comes to route one, answered 203")
	h.route(document("203", "203"))
	answers("tests that hold again", 203, "")
}
