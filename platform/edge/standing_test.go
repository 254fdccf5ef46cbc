package edge

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

func ask[T any](t *testing.T, s http.Handler, path string) (out T) {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1"+path, nil))
	if w.Code != 200 {
		t.Fatalf("GET %s: got %d %s", path, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatalf("GET %s: got %s: %v", path, w.Body, err)
	}
	return out
}

func TestOriginsAreToldWithScoresAndConnections(t *testing.T) {
	h := newHouse(t, map[string]http.Handler{
		"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("hello")) }), //nolint:errcheck // a test's
		"never": http.NotFoundHandler(),
	})
	s := api.New("test", "1")
	h.Mount(s)
	if got := ask[[]Origin](t, s, "/api/v1/edge/origins"); len(got) != 0 {
		t.Errorf("before anybody was asked: got %+v, want none", got)
	}
	for range 3 {
		if resp, _ := h.get(t, "/hello/"); resp.StatusCode != 200 {
			t.Fatalf("GET /hello/: got %d, want 200", resp.StatusCode)
		}
	}
	got := ask[[]Origin](t, s, "/api/v1/edge/origins")
	if len(got) != 1 || got[0].App != "hello" || got[0].Breaker != "CLOSED" || got[0].Limit != 200 || got[0].Protocol != "http1" || len(got[0].Instances) != 1 {
		t.Fatalf("got %+v, want hello with one instance, a closed breaker and 200 requests in flight allowed", got)
	}
	i := got[0].Instances[0]
	if i.ID != "hello-0" || i.Status != "UP" || !i.Eligible || i.Score <= 0 || i.RTT <= 0 || i.Requests != 3 || i.Failures != 0 || i.ErrorRate != 0 || i.Idle+i.InUse != 1 {
		t.Errorf("got %+v, want hello-0, up and eligible, with a score, 3 requests and 1 connection", i)
	}
}

func TestAnInstanceThatBreaksIsToldWithItsErrorRate(t *testing.T) {
	h := newHouse(t, map[string]http.Handler{"hello": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })})
	for range 20 {
		h.get(t, "/hello/")
	}
	all := h.Origins()
	if len(all) != 1 || len(all[0].Instances) != 1 {
		t.Fatalf("got %+v, want hello with its one instance", all)
	}
	if i := all[0].Instances[0]; i.Failures < 20 || i.Failures != i.Requests || i.ErrorRate < 0.5 {
		t.Errorf("after 20 requests whose connections broke: got %+v, want no fewer failures, and an error rate above 0.5", i)
	}
}

func TestFiltersAreToldInTheirOrder(t *testing.T) {
	h := newHouse(t, nil)
	s := api.New("test", "1")
	h.Mount(s)
	got := ask[[]filter.Standing](t, s, "/api/v1/edge/filters")
	order := map[string]int{"INBOUND": 0, "ENDPOINT": 1, "OUTBOUND": 2}
	seen := map[string]bool{}
	for i, f := range got {
		seen[f.Name] = true
		if i > 0 && (order[f.Kind] < order[got[i-1].Kind] || f.Kind == got[i-1].Kind && f.Kind != "ENDPOINT" && f.Order < got[i-1].Order) {
			t.Errorf("%s %s (%d) stands behind %s %s (%d)", f.Kind, f.Name, f.Order, got[i-1].Kind, got[i-1].Name, got[i-1].Order)
		}
	}
	for _, name := range []string{"ConnectionInfo", "Routes", "FaultScope", "ProxyEndpoint", "Outward"} {
		if !seen[name] {
			t.Errorf("got %+v, want %s among them", got, name)
		}
	}
}
