package chaos

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed/fault/search"
	"github.com/roadbed/roadbed/ipc"
)

func TestLineageTellsOnWhoseBehalfAndInWhoseStead(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1790000000, int64(ms)*1e6) }
	call := func(ms int, caller, instance, app, reached string, ok bool) Heard {
		h := Heard{Caller: caller, Instance: instance, Explanation: ipc.Explanation{App: app, At: at(ms), Kind: "none", Status: 200, Attempts: []ipc.Attempted{{Instance: reached}}}}
		if !ok {
			h.Kind, h.Status = "injected", 503
		}
		return h
	}
	heard := []Heard{ // in no order
		call(3, "catalog", "catalog-1", "artwork", "artwork-1", true),
		call(0, "edge", "", "api", "api-2", true),
		call(2, "api", "api-2", "catalog", "catalog-1", true),
		call(1, "api", "api-2", "recs", "recs-1", true),
	}
	usual := Lineage(heard, nil)
	want := []search.Call{
		{Point: "client:api", Parent: -1, Instead: -1}, {Point: "client:recs", Parent: 0, Instead: -1},
		{Point: "client:catalog", Parent: 0, Instead: -1}, {Point: "client:artwork", Parent: 2, Instead: -1},
	}
	if !reflect.DeepEqual(usual.Calls, want) {
		t.Errorf("nothing fails: got %+v, want %+v", usual.Calls, want)
	}
	heard[3] = call(1, "api", "api-2", "recs", "recs-1", false)
	heard = append(heard, call(2, "api", "api-2", "popular", "popular-1", true))
	got := Lineage(heard, &usual)
	want = []search.Call{
		{Point: "client:api", Parent: -1, Instead: -1}, {Point: "client:recs", Parent: 0, Instead: -1, Failed: true},
		{Point: "client:catalog", Parent: 0, Instead: -1}, {Point: "client:artwork", Parent: 2, Instead: -1},
		{Point: "client:popular", Parent: 0, Instead: 1},
	}
	if !reflect.DeepEqual(got.Calls, want) {
		t.Errorf("recs fails: got %+v, want popular in its stead: %+v", got.Calls, want)
	}
	if empty := Lineage(nil, nil); len(empty.Calls) != 0 {
		t.Errorf("nothing heard: got %+v", empty)
	}
}

// The search over real services: api asks recs, and popular in its stead; a page needs one of them, and catalog.
func TestTheSearchFindsACombinationInRealServices(t *testing.T) {
	r := newRoad(t)
	engines := map[string]*ipc.Engine{}
	var mu sync.Mutex
	for _, s := range []string{"recs", "popular", "catalog"} {
		r.serve(t, s, func(_ *ipc.Engine, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") })
	}
	r.serve(t, "api", func(calls *ipc.Engine, w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		engines["api"] = calls
		mu.Unlock()
		ask := func(app string) bool {
			out, _ := http.NewRequestWithContext(req.Context(), http.MethodGet, "http://"+app+"/", nil)
			resp, err := calls.HTTPClient().Do(out)
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == 200
		}
		if !(ask("recs") || ask("popular")) || !ask("catalog") {
			http.Error(w, "there is no page", http.StatusInternalServerError)
		}
	})
	var usual *search.Trace
	n := 0
	s := search.Search{Run: func(_ context.Context, failing []string) (search.Trace, error) {
		n++
		id := fmt.Sprintf("experiment-%d", n)
		if len(failing) > 0 {
			r.begin(t, Fault{ID: id, Experiment: "search", Rules: strings.Join(failing, "=error(503);") + "=error(503)", Who: Who{Header: map[string]string{"X-Fit-Probe": id}}})
			defer r.Remove(t.Context(), id)
		}
		status, _, err := r.get(t, r.front.URL, "X-Request-Id", id, "X-Fit-Probe", id)
		if err != nil {
			return search.Trace{}, err
		}
		var heard []Heard
		for _, x := range engines["api"].WhyRequest(id) {
			heard = append(heard, Heard{Caller: "api", Instance: "api-1", Explanation: x})
		}
		trace := Lineage(heard, usual)
		if trace.Good = status == 200; usual == nil {
			usual = &trace
		}
		return trace, nil
	}}
	res, err := s.Do(t.Context())
	if err != nil || !res.Whole || !reflect.DeepEqual(res.Hurting, [][]string{{"client:catalog"}, {"client:popular", "client:recs"}}) {
		t.Errorf("got %+v, %v; want catalog, and recs with popular", res, err)
	}
	if len(res.Steps) > 6 {
		t.Errorf("it took %d experiments: %+v", len(res.Steps), res.Steps)
	}
}
