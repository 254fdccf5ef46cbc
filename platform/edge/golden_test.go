package edge

import (
	"fmt"
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

func TestAGatewayAPIObjectIsServedOnceTheProgramItNamesIsThere(t *testing.T) {
	h := newHouse(t, map[string]http.Handler{"hello": http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	const object = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: %s}\nspec: {rules: [{matches: [{path: {value: /%s}}], backendRefs: [{name: hello}], filters: [%s]}]}\n"
	h.route(strings.Join([]string{fmt.Sprintf(object, "plain", "plain", ""), fmt.Sprintf(object, "guarded", "guarded", "{type: ExtensionRef, extensionRef: {group: roadbed, kind: Program, name: stamp}}")}, "---\n"))
	answers := func(what string, plain, guarded int) {
		t.Helper()
		for path, want := range map[string]int{"/plain": plain, "/guarded": guarded} {
			if resp, _ := h.get(t, path); resp.StatusCode != want {
				t.Errorf("%s: %s is answered %d, want %d", what, path, resp.StatusCode, want)
			}
		}
	}
	answers("without the program", 200, 404)
	if h.refused != "" || len(h.objects) != 2 || !strings.Contains(fmt.Sprint(h.objects[1].Conditions), "Accepted False UnsupportedValue") {
		t.Errorf("got %q and %+v, want the second object not accepted, and nothing refused", h.refused, h.objects)
	}
	h.setPrograms(map[string]string{"edge.program.stamp": `{"kind": "cel", "text": "true"}`})
	select {
	case <-h.news: // on which Run has them compiled
		h.setRoutes()
	default:
		t.Fatal("a new program has nobody look at the routes again")
	}
	answers("with it", 200, 200)
	h.setPrograms(map[string]string{"edge.program.other": `{"kind": "cel", "text": "true"}`})
	if len(h.news) != 0 {
		t.Error("a program that no route lacked has all of them compiled")
	}
}
