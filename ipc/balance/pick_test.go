package balance

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// shares picks n times at one moment and returns the part each endpoint got, by its id.
func shares(b *Balancer, now int64, n int) map[string]float64 {
	got := map[string]float64{}
	for range n {
		got[b.Pick(now).ID] += 1 / float64(n)
	}
	return got
}

func TestBadPairsAreDrawnAgain(t *testing.T) {
	b := proven(10)
	now := second
	for _, ep := range b.all[:5] {
		ep.Report(2, now) // far above what it wants
	}
	bad := 0.0
	for id, part := range shares(b, now, 20000) {
		if id < "i-0005" {
			bad += part
		}
	}
	// Of pairs 2/9 are both bad; drawn at most three times that is 1 %. The rest is by the costs, 2.25 to 1.25.
	if bad > 0.17 {
		t.Errorf("half of the endpoints are overloaded and get %.1f %% of the picks, want at most 17 %%", bad*100)
	}
}

func TestWeightIsAShare(t *testing.T) {
	list := instances(10)
	list[0].Metadata = map[string]string{"weight": "3"}
	list[1].Metadata = map[string]string{"weight": "none"}
	b := New(Config{})
	b.Update(list, second)
	for _, ep := range b.all {
		ep.Done(Answered, second, ms(10))
	}
	b.Refresh(second)
	// The requests stay in flight, so that costs level out.
	for range 1200 {
		b.Pick(second).Begin()
	}
	if got := b.all[0].Active(); got < 220 || got > 350 {
		t.Errorf("of 1200 requests the endpoint of weight 3 among nine of 1 has %d, want about 300, and 220 at least", got)
	}
	if got := b.all[1].Active(); got < 70 || got > 130 {
		t.Errorf("of 1200 requests the endpoint with a weight that makes no sense has %d, want about 100", got)
	}
}

func TestProbationIsOneRequestAtATime(t *testing.T) {
	b := proven(3)
	b.Update(instances(4), second)
	for range 300 {
		b.Pick(second).Begin()
	}
	if got := b.all[3].Active(); got > 3 {
		t.Errorf("of 300 requests an endpoint that never answered has %d in flight, want 1 or hardly more", got)
	}
}

func TestTrafficThatLeavesGoesWhereCapacityIsSpare(t *testing.T) {
	// Zone a has 2, b 3, c 7 of twelve: fair would be 4 each. b has none to spare, so what leaves a goes to c.
	list := instances(12)
	for i := range list {
		switch {
		case i < 2:
			list[i].Location.Zone = "a"
		case i < 5:
			list[i].Location.Zone = "b"
		default:
			list[i].Location.Zone = "c"
		}
	}
	b := New(Config{Zone: "a"})
	b.Update(list, second)
	for _, ep := range b.all {
		ep.Done(Answered, second, ms(10))
	}
	b.Refresh(second)
	zones := map[string]float64{}
	for range 20000 {
		zones[b.Pick(second).Zone] += 1. / 20000
	}
	if zones["a"] < 0.47 || zones["a"] > 0.53 || zones["b"] > 0.01 || zones["c"] < 0.46 {
		t.Errorf("got %v, want half in a and half in c", zones)
	}
}

func TestFewEndpointsHaveNoZonePreference(t *testing.T) {
	for _, tc := range []struct {
		set  func(*Settings)
		n    int
		want float64 // in zone a of three
	}{
		{nil, 5, 0.4}, {nil, 6, 1}, {func(s *Settings) { s.ZoneMinimumEndpoints = 0 }, 3, 1}, {func(s *Settings) { s.ZoneRouting = false }, 6, 1. / 3},
	} {
		b := balancer(tc.n, tc.set, nil, "a", "b", "c")
		for _, ep := range b.all {
			ep.Done(Answered, second, ms(10))
		}
		b.Refresh(second)
		got := 0.0
		for range 10000 {
			if b.Pick(second).Zone == "a" {
				got += 1e-4
			}
		}
		if got < tc.want-0.03 || got > tc.want+0.03 {
			t.Errorf("%d endpoints: %.2f of the picks stay in the zone, want %.2f", tc.n, got, tc.want)
		}
	}
}

func TestPanicThreshold(t *testing.T) {
	for _, tc := range []struct {
		percent, ejected int
		want             bool
	}{{50, 5, false}, {50, 6, true}, {80, 3, true}, {0, 9, false}, {0, 10, true}} {
		b := balancer(10, func(s *Settings) { s.PanicPercent = tc.percent }, nil)
		for _, ep := range b.all[:tc.ejected] {
			ep.mu.Lock()
			ep.eject(second, b.settings.Load())
			ep.mu.Unlock()
		}
		b.Refresh(second)
		if got := b.State(second).Panic; got != tc.want {
			t.Errorf("%d of 10 ejected, threshold %d %%: panic %v, want %v", tc.ejected, tc.percent, got, tc.want)
		}
		if b.Pick(second) == nil {
			t.Errorf("%d of 10 ejected, threshold %d %%: nobody is chosen", tc.ejected, tc.percent)
		}
	}
}

func TestSubsetsCoverAllAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		servers := rapid.IntRange(1, 60).Draw(t, "servers")
		callers := rapid.IntRange(2, 40).Draw(t, "callers")
		size := rapid.IntRange(1, 30).Draw(t, "size")
		s := Defaults()
		s.SubsetSize = size
		b := New(Config{Settings: &s})
		b.Update(instances(servers), second)
		users, load := map[*Endpoint]int{}, map[*Endpoint]float64{}
		for c := range callers {
			b.SetCallers(c, callers, second)
			list, parts := b.subset(&s)
			if len(list) < min(size, servers) {
				t.Fatalf("%d servers, %d callers: caller %d uses %d, want %d at least", servers, callers, c, len(list), size)
			}
			for i, ep := range list {
				users[ep]++
				if parts == nil {
					load[ep]++
				} else {
					load[ep] += parts[i]
				}
			}
		}
		least, most := callers, 0
		for _, ep := range b.all {
			least, most = min(least, users[ep]), max(most, users[ep])
			if d := load[ep] - load[b.all[0]]; d > 1e-6 || d < -1e-6 {
				t.Fatalf("%d servers, %d callers, size %d: one has %g of the load, another %g", servers, callers, size, load[ep], load[b.all[0]])
			}
		}
		if most-least > 1 {
			t.Fatalf("%d servers, %d callers, size %d: one has %d callers, another %d", servers, callers, size, least, most)
		}
	})
}

func TestSubsetIsTheSameForTheSameCaller(t *testing.T) {
	use := func() string {
		b := balancer(100, func(s *Settings) { s.SubsetSize = 20 }, nil)
		b.SetCallers(3, 10, second)
		ids := ""
		for _, ep := range b.State(second).Endpoints {
			if ep.Eligible {
				ids += ep.ID + " "
			} else if ep.Why != "it is not in the subset that this caller uses" {
				t.Errorf("%s is not eligible because %q", ep.ID, ep.Why)
			}
		}
		return ids
	}
	if a, b := use(), use(); a != b || len(a) != 20*len("i-0000 ") {
		t.Errorf("got %q and %q, want the same 20", a, b)
	}
}

func TestMissingSaysWhatToDo(t *testing.T) {
	check := func(b *Balancer, want string) {
		t.Helper()
		if got := b.Missing(second); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	b := New(Config{})
	check(b, "the list of instances is empty; see whether it has registered under this name")
	list := instances(2)
	for i := range list {
		list[i].Status = "OUT_OF_SERVICE"
	}
	b.Update(list, second)
	check(b, "2 instances are listed, all of them OUT_OF_SERVICE; put one back in service")
	b.Update(instances(2), second)
	check(b, "")
	far := balancer(2, func(s *Settings) { s.Rule, s.ZoneExclusive = RoundRobinRule, true }, nil, "z")
	if far.Pick(second) != nil {
		t.Error("an endpoint of another zone was chosen in spite of exclusivity")
	}
	check(far, "its instances are all in other zones, and EnableZoneExclusivity forbids to use them; set it to false or start one in zone a")
}

func TestCostFormula(t *testing.T) {
	b := proven(1)
	ep := b.all[0]
	base, _ := ep.cost(second, 1)
	if want := float64(ms(10)) * 1.25; base != want {
		t.Errorf("idle: %g, want %g: the round trip of 10 ms times 0.25 + 1", base, want)
	}
	ep.Begin()
	ep.Begin()
	if got, _ := ep.cost(second, 1); got != 3*base {
		t.Errorf("two in flight: %g, want three times %g", got, base)
	}
	ep.End()
	ep.End()
	for range 100 {
		ep.Done(Erred, second, ms(10))
	}
	got, bad := ep.cost(second, 1)
	if want := base / (1 - 0.95); fmt.Sprintf("%.0f", got) != fmt.Sprintf("%.0f", want) || !bad {
		t.Errorf("all failed: %g, bad %v, want twenty times %g and bad", got, bad, base)
	}
}
