package region

import (
	"maps"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAChangeIsRefusedIfUsersWouldHaveNowhereToGo(t *testing.T) {
	east := `{"state":"SERVING","edges":["http://127.0.0.1:3"]}`
	evacuate := RegionChange{State: Evacuated}
	zero := 0
	for _, tt := range []struct {
		what   string
		all    map[string]string
		region string
		change RegionChange
		want   string // empty: it is taken
	}{
		{"the only one", docs("east", east), "east", evacuate, "only region that serves"},
		{"nowhere is said", docs("east", east, "west", westServes, "north", northServes), "east", evacuate, ""},
		{"an unknown one", docs("east", east), "east", RegionChange{State: Draining, To: map[string]int{"mars": 100}}, "there is no region mars to send users to; there are east"},
		{"one without edges", docs("east", east, "west", `{"state":"SERVING"}`), "east", RegionChange{State: Draining, To: map[string]int{"west": 100}}, "the edges of west are not known"},
		{"one that is evacuated", docs("east", east, "west", `{"state":"EVACUATED","to":{"north":100}}`, "north", northServes), "east", RegionChange{State: Draining, To: map[string]int{"west": 100}}, "west is EVACUATED and takes nobody's users"},
		{"where others' users are", docs("east", `{"state":"EVACUATED","to":{"west":100}}`, "west", westServes, "north", northServes), "west", evacuate, "west serves the users of east, which would have nowhere to go"},
		{"where some of others' users are", docs("east", `{"state":"EVACUATED","to":{"west":50,"north":50}}`, "west", westServes, "north", northServes), "west", evacuate, ""},
		{"no weight where others' users are", docs("east", `{"state":"EVACUATED","to":{"west":100}}`, "west", westServes, "north", northServes), "west", RegionChange{Weight: &zero}, "would have nowhere to go"},
		{"no edges where others' users are", docs("east", `{"state":"EVACUATED","to":{"west":100}}`, "west", westServes), "west", RegionChange{Edges: &[]string{}}, "would have nowhere to go"},
		{"a state that is none", docs("east", east, "west", westServes), "east", RegionChange{State: "GONE"}, `state "GONE"`},
		{"the last one, back", docs("east", `{"state":"EVACUATED","to":{"west":100}}`), "east", RegionChange{State: Serving}, ""},
	} {
		r := newRegions(t, "east")
		r.Set(tt.all)
		before := r.View()
		out, err := r.Check(tt.region, tt.change)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: got %v, want it taken", tt.what, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %+v, %v; want it refused with %q", tt.what, out, err, tt.want)
		case err == nil:
			if _, err := Parse(tt.region, out.Text); err != nil || out.Property != Prefix+tt.region {
				t.Errorf("%s: it would make %s = %s, which is not taken: %v", tt.what, out.Property, out.Text, err)
			}
		}
		if after := r.View(); len(after.Regions) != len(before.Regions) || after.Regions[0].Document.State != before.Regions[0].Document.State {
			t.Errorf("%s: a check changed %+v to %+v", tt.what, before, after)
		}
	}
	r := New(Config{Region: "east", Log: tests})
	defer r.Close()
	r.Set(docs("east", east, "west", westServes))
	if _, err := r.Check("east", evacuate); err == nil || !strings.Contains(err.Error(), "edge.regions.key") || r.View().Problem == "" {
		t.Errorf("without a key: got %v, problem %q; want a word on edge.regions.key in both", err, r.View().Problem)
	}
}

func TestWhereUsersGoIsKeptForWhenItComesToThat(t *testing.T) {
	r := newRegions(t, "east")
	all := docs("west", westServes, "north", northServes)
	for i, c := range []RegionChange{
		{Edges: &[]string{"http://127.0.0.1:3"}, To: map[string]int{"west": 100}},
		{State: Evacuated},
		{State: Serving, RampSeconds: new(int)},
	} {
		r.Set(all)
		out, err := r.Check("east", c)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if want := []map[string]int{{"west": 100}, {"west": 100}, nil}[i]; !maps.Equal(out.Document.To, want) {
			t.Errorf("%+v: users go to %v, want %v", c, out.Document.To, want)
		}
		all[out.Property] = out.Text
	}
}

func TestAChangeBeginsWhereUsersAreNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegions(t, "east")
		defer r.Close()
		go r.Run(t.Context()) //nolint:errcheck // it ends with the test
		all := docs("east", `{"state":"SERVING","edges":["http://127.0.0.1:3"]}`, "west", westServes)
		r.Set(all)
		seconds := 100
		change := func(c RegionChange) *RegionChanged {
			t.Helper()
			out, err := r.Check("east", c)
			if err != nil {
				t.Fatalf("%+v: %v", c, err)
			}
			all[out.Property] = out.Text
			r.Set(all)
			return out
		}
		is := func(when string, want float64) {
			t.Helper()
			synctest.Wait()
			if v := r.View().Regions[0]; math.Abs(v.Moved-want) > 0.2 || v.Region != "east" || !v.Own {
				t.Errorf("%s: got %+v, want %v %% moved", when, v, want)
			}
		}
		out := change(RegionChange{State: Draining, RampSeconds: &seconds})
		if out.Document.To["west"] != 100 || out.Goal != 100 || out.Document.Edges == nil {
			t.Errorf("evacuated: got %+v, want all to west, and the edges as before", out)
		}
		time.Sleep(40 * time.Second)
		is("after 40 s of 100", 40)
		reason := "as it was, with a reason"
		change(RegionChange{Reason: &reason})
		is("after what changes no share", 40)
		time.Sleep(10 * time.Second)
		is("10 s later", 50)
		out = change(RegionChange{State: Serving})
		if out.Moved < 49 || out.Document.From != out.Moved {
			t.Errorf("restored: got %+v, want it to begin at 50 %%", out)
		}
		time.Sleep(50 * time.Second)
		is("back after half of the time", 25)
		change(RegionChange{State: Evacuated})
		is("evacuated", 100)
		none := 0
		change(RegionChange{State: Serving, RampSeconds: &none})
		is("restored at once", 0)
		weight := 75
		change(RegionChange{Weight: &weight, To: map[string]int{"west": 100}, RampSeconds: &none})
		is("a weight of 75", 25)
	})
}
