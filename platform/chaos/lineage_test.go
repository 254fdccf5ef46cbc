package chaos

import (
	"reflect"
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
