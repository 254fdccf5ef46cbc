package balance

import (
	"fmt"
	"math/bits"
	"strings"
	"testing"
	"time"
)

// order picks n times and returns the last digits of who was chosen.
func order(b *Balancer, now int64, n int) string {
	var s strings.Builder
	for range n {
		ep := b.Pick(now)
		if ep == nil {
			s.WriteByte('-')
			continue
		}
		s.WriteByte(ep.ID[len(ep.ID)-1])
	}
	return s.String()
}

// trip fails three connections to it.
func trip(b *Balancer, i int, now int64) {
	for range 3 {
		b.all[i].Done(Broken, now, 1)
	}
	b.Refresh(now)
}

func withRule(rule Rule, set ...func(*Settings)) func(*Settings) {
	return func(s *Settings) {
		s.Rule = rule
		for _, f := range set {
			f(s)
		}
	}
}

func kill(b *Balancer, ids ...int) {
	b.SetAlive(func(ep *Endpoint) bool {
		for _, i := range ids {
			if ep == b.all[i] {
				return false
			}
		}
		return true
	}, second)
}

func TestRoundRobinTakesTurnsAndSkipsTheDead(t *testing.T) {
	b := balancer(3, withRule(RoundRobinRule), nil)
	if got := order(b, second, 7); got != "0120120" {
		t.Errorf("got %s, want 0120120", got)
	}
	kill(b, 1)
	if got := order(b, second, 4); got != "2020" {
		t.Errorf("with 1 dead: got %s, want 2020", got)
	}
	many := balancer(30, withRule(RoundRobinRule), nil)
	many.SetAlive(func(ep *Endpoint) bool { return ep == many.all[15] }, second)
	if got := order(many, second, 3); got != "-5-" {
		t.Errorf("one of thirty lives: got %s, want -5-: ten tries each", got)
	}
}

func TestRandomIsUniformOverTheLiving(t *testing.T) {
	b := balancer(4, withRule(RandomRule), nil)
	kill(b, 2)
	got := shares(b, second, 30000)
	for i := range 4 {
		want := 1. / 3
		if i == 2 {
			want = 0
		}
		if p := got[b.all[i].ID]; p < want-0.02 || p > want+0.02 {
			t.Errorf("endpoint %d got %.3f, want %.3f", i, p, want)
		}
	}
}

func TestAvailabilityFilteringSkipsTrippedAndBusy(t *testing.T) {
	b := balancer(4, withRule(AvailabilityFilteringRule, func(s *Settings) { s.ActiveLimit = 2 }), nil)
	trip(b, 0, second)
	b.all[1].Begin()
	b.all[1].Begin()
	if got := order(b, second, 6); strings.ContainsAny(got, "01-") || !strings.Contains(got, "2") || !strings.Contains(got, "3") {
		t.Errorf("0 tripped, 1 busy: got %s, want only 2 and 3", got)
	}
	if got := order(b, second+11*second, 40); !strings.Contains(got, "0") {
		t.Errorf("after the blackout: got %s, want 0 among them", got)
	}
	for i := range 4 {
		trip(b, i, second)
	}
	if got := order(b, second, 40); strings.Contains(got, "-") || len(strings.Trim(got, "0123")) > 0 || !strings.Contains(got, "0") {
		t.Errorf("all tripped: got %s, want all by turns", got)
	}
	off := balancer(2, withRule(AvailabilityFilteringRule, func(s *Settings) { s.FilterTripped = false }), nil)
	trip(off, 0, second)
	if got := order(off, second, 4); got != "0101" {
		t.Errorf("filterCircuitTripped off: got %s, want 0101", got)
	}
}

func TestBestAvailableHasTheFewestInFlight(t *testing.T) {
	b := balancer(3, withRule(BestAvailableRule), nil)
	if got := order(b, second, 2); got != "00" {
		t.Errorf("ties: got %s, want the first", got)
	}
	b.all[0].Begin()
	b.all[2].Begin()
	if got := order(b, second, 2); got != "11" {
		t.Errorf("got %s, want 11", got)
	}
	trip(b, 1, second)
	if got := order(b, second, 1); got != "0" {
		t.Errorf("1 tripped: got %s, want 0", got)
	}
	trip(b, 0, second)
	trip(b, 2, second)
	if got := order(b, second, 3); got != "012" {
		t.Errorf("all tripped: got %s, want turns", got)
	}
}

func TestWeightedResponseTime(t *testing.T) {
	b := balancer(3, withRule(WeightedResponseTimeRule), nil)
	for i, d := range []int{10, 30, 60} { // weights 90, 70, 40
		b.all[i].Done(Answered, second, ms(d))
	}
	if got := order(b, second, 3); got != "012" {
		t.Errorf("before the first weighing: got %s, want turns", got)
	}
	now := second + 31*second
	b.Refresh(now)
	got := shares(b, now, 40000)
	for i, want := range []float64{0.45, 0.35, 0.20} {
		if p := got[b.all[i].ID]; p < want-0.02 || p > want+0.02 {
			t.Errorf("endpoint %d got %.3f, want %.2f", i, p, want)
		}
	}
	b.Update(instances(4), now)
	b.next.all.Store(0)
	if got := order(b, now, 4); got != "0123" {
		t.Errorf("the list has grown: got %s, want turns until the next weighing", got)
	}
}

func TestZoneAvoidanceDropsTheWorstZone(t *testing.T) {
	b := balancer(9, withRule(ZoneAvoidanceRule, func(s *Settings) { s.ZoneAware = false }), nil, "a", "b", "c")
	inZone := func(now int64) map[string]int {
		got := map[string]int{}
		for range 900 {
			got[b.Pick(now).Zone]++
		}
		return got
	}
	if got := inZone(second); got["a"] != 300 || got["b"] != 300 || got["c"] != 300 {
		t.Errorf("idle: got %v, want 300 each", got)
	}
	b.all[1].Begin() // zone b has a load of 1/3
	if got := inZone(second); got["b"] != 0 || got["a"] < 350 || got["c"] < 350 {
		t.Errorf("zone b is loaded: got %v, want none in b", got)
	}
	b.all[1].End()
	for _, i := range []int{2, 5, 8} {
		trip(b, i, second)
	}
	if got := inZone(second); got["c"] != 0 {
		t.Errorf("zone c has tripped: got %v, want none in c", got)
	}
	for i := range 9 {
		trip(b, i, second)
	}
	if got := inZone(second); got["a"] == 0 || got["b"] == 0 || got["c"] == 0 {
		t.Errorf("all tripped: got %v, want all used", got)
	}
}

func TestZoneAwareBalancerStaysInGoodZones(t *testing.T) {
	b := balancer(9, withRule(RoundRobinRule, func(s *Settings) { s.ZoneAware = true }), nil, "a", "B", "c")
	for _, i := range []int{1, 4, 7} {
		trip(b, i, second)
	}
	for range 300 {
		if ep := b.Pick(second); ep.Zone == "B" {
			t.Fatalf("%s of the zone that tripped was chosen", ep.ID)
		}
	}
	plain := balancer(9, withRule(RoundRobinRule, func(s *Settings) { s.ZoneAware = false }), nil, "a", "B", "c")
	for _, i := range []int{1, 4, 7} {
		trip(plain, i, second)
	}
	if got := order(plain, second, 9); got != "012345678" {
		t.Errorf("not zone aware: got %s, want all by turns", got)
	}
}

func TestBlackoutDoublesUpToItsLimit(t *testing.T) {
	r := Defaults().Ribbon
	for fails, want := range map[int]time.Duration{0: 0, 2: 0, 3: 10, 4: 20, 5: 30, 6: 30, 100: 30} {
		if got := Blackout(fails, &r); got != want*time.Second {
			t.Errorf("after %d failures: %s, want %s", fails, got, want*time.Second)
		}
	}
	b := balancer(2, withRule(AvailabilityFilteringRule), nil)
	ep := b.all[0]
	for i, v := range []Verdict{Broken, Unreached, Erred, Broken, Unreached} { // an answer of any kind clears
		ep.Done(v, second+int64(i), 1)
	}
	if got := ep.tripped.Load(); got != 0 {
		t.Errorf("tripped until %d although a 500 came between", got)
	}
	ep.Done(Broken, second, 1)
	if got := ep.tripped.Load(); got != 11*second {
		t.Errorf("three in a row: tripped until %d s, want 11", got/second)
	}
}

func TestZoneAffinity(t *testing.T) {
	zonesOf := func(b *Balancer, now int64) string {
		b.Refresh(now)
		seen := map[string]bool{}
		for range 100 {
			if ep := b.Pick(now); ep != nil {
				seen[ep.Zone] = true
			}
		}
		return fmt.Sprint(seen["a"], seen["b"])
	}
	b := balancer(6, withRule(RoundRobinRule, func(s *Settings) { s.ZoneAffinity = true }), nil, "A", "b")
	b.zone = "a"
	seen := map[string]bool{}
	for range 10 {
		seen[b.Pick(second).Zone] = true
	}
	if len(seen) != 1 || !seen["A"] {
		t.Errorf("got zones %v, want the own one, whatever its case", seen)
	}
	b = balancer(6, withRule(RoundRobinRule, func(s *Settings) { s.ZoneAffinity, s.ZoneAware = true, false }), nil, "a", "b")
	if got := zonesOf(b, second); got != "true false" {
		t.Errorf("a and b used: %s, want only a", got)
	}
	b.all[0].Begin()
	b.all[2].Begin() // a load of 2/3
	if got := zonesOf(b, second); got != "true true" {
		t.Errorf("zone a loaded, a and b used: %s, want both", got)
	}
	b.all[0].End()
	b.all[2].End()
	trip(b, 0, second)
	trip(b, 2, second) // one left
	if got := zonesOf(b, second); got != "true true" {
		t.Errorf("one left in zone a, a and b used: %s, want both", got)
	}
	b = balancer(6, withRule(RoundRobinRule, func(s *Settings) { s.ZoneExclusive = true }), nil, "a", "b")
	for _, i := range []int{0, 2, 4} {
		trip(b, i, second)
	}
	if got := zonesOf(b, second); got != "true false" {
		t.Errorf("exclusive, all of zone a tripped, a and b used: %s, want only a", got)
	}
}

func TestSubsetFilterReplacesTheWorst(t *testing.T) {
	b := balancer(100, withRule(RoundRobinRule, func(s *Settings) { s.Filter = SubsetFilter }), nil)
	kept := func() map[*Endpoint]bool {
		m := map[*Endpoint]bool{}
		for range 200 {
			m[b.Pick(b.ribbon.keptAt)] = true
		}
		return m
	}
	before := kept()
	if len(before) != 20 {
		t.Fatalf("%d endpoints are used, want 20", len(before))
	}
	var busy *Endpoint
	for ep := range before {
		busy = ep
	}
	busy.Begin()
	b.Refresh(second + 29*second)
	if !kept()[busy] {
		t.Error("the subset changed before its interval was over")
	}
	b.Refresh(second + 31*second)
	after := kept()
	gone := 0
	for ep := range before {
		if !after[ep] {
			gone++
		}
	}
	if len(after) != 20 || after[busy] || gone != 2 {
		t.Errorf("after 30 s %d endpoints are used, %d were replaced, the busy one is used: %v; want 20, 2, false", len(after), gone, after[busy])
	}
}

func TestRequestsThatNeverEndStopCounting(t *testing.T) {
	b := balancer(2, withRule(BestAvailableRule), nil)
	b.all[0].Begin()
	now := second
	for ; now < 600*second; now += second {
		b.Refresh(now)
	}
	if got := b.all[0].inFlight(now, b.settings.Load()); got != 1 {
		t.Errorf("after 599 s: %d in flight, want 1", got)
	}
	now += 3 * second
	if got := b.all[0].inFlight(now, b.settings.Load()); got != 0 {
		t.Errorf("after 602 s without a change: %d in flight, want 0", got)
	}
	b.all[0].Done(Answered, now, 1)
	if got := b.all[0].inFlight(now, b.settings.Load()); got != 1 {
		t.Errorf("something happened: %d in flight, want 1", got)
	}
}

func TestAvailableZonesTable(t *testing.T) {
	for _, tc := range []struct {
		zones       []ZoneLoad
		gone, worst uint64
	}{
		{[]ZoneLoad{{3, 3, -1}}, 0, 0},
		{[]ZoneLoad{{3, 0, 0}, {3, 0, 0}}, 0, 0},
		{[]ZoneLoad{{3, 0, 0.1}, {3, 0, 0.19}}, 0, 0},
		{[]ZoneLoad{{3, 0, 0.1}, {3, 0, 0.2}}, 0, 0b10},
		{[]ZoneLoad{{3, 0, 0.5}, {3, 0, 0.5}, {3, 0, 0.4}}, 0, 0b011},
		{[]ZoneLoad{{0, 0, 0}, {3, 0, 0}, {3, 0, 0}}, 0b001, 0b110},
		{[]ZoneLoad{{3, 3, -1}, {3, 0, 0.1}, {3, 0, 0}}, 0b001, 0b010},
		{[]ZoneLoad{{3, 3, -1}, {3, 3, -1}}, 0b11, 0},
	} {
		gone, worst := AvoidZones(tc.zones, 0.2, 0.99999)
		if gone != tc.gone || worst != tc.worst {
			t.Errorf("%v: gone %03b, worst %03b; want %03b and %03b", tc.zones, gone, worst, tc.gone, tc.worst)
		}
	}
	if bits.OnesCount64(^uint64(0)) != maxZones {
		t.Error("a set holds another number of zones than maxZones")
	}
}

func TestRetryRuleIsPatient(t *testing.T) {
	if got := balancer(1, withRule(RetryRule), nil).Patience(); got != 500*time.Millisecond {
		t.Errorf("RetryRule waits %s, want 500 ms", got)
	}
	if got := balancer(1, nil, nil).Patience(); got != 0 {
		t.Errorf("p2c waits %s, want none", got)
	}
}

func TestFurtherAttemptGoesElsewhereWithEveryRule(t *testing.T) {
	for _, rule := range []Rule{P2C, RoundRobinRule, RandomRule, AvailabilityFilteringRule, BestAvailableRule, WeightedResponseTimeRule, ZoneAvoidanceRule, RetryRule} {
		b := balancer(4, withRule(rule), nil)
		tried := []*Endpoint{b.Pick(second)}
		for range 3 {
			ep := b.Another(second, tried, false)
			for _, was := range tried {
				if ep == was {
					t.Errorf("%s: %s was tried already", rule, ep.ID)
				}
			}
			tried = append(tried, ep)
		}
		if ep := b.Another(second, tried, false); ep != nil {
			t.Errorf("%s: all were tried, yet %s is to be tried again", rule, ep.ID)
		}
	}
}

func TestRulesAllocateNothing(t *testing.T) {
	for _, rule := range []Rule{RoundRobinRule, RandomRule, AvailabilityFilteringRule, BestAvailableRule, WeightedResponseTimeRule, ZoneAvoidanceRule} {
		b := balancer(100, withRule(rule, func(s *Settings) { s.ZoneAware = true }), nil, "a", "b", "c")
		b.all[0].Begin()
		if got := testing.AllocsPerRun(100, func() { b.Pick(second) }); got != 0 {
			t.Errorf("%s: a pick allocates %v times, want 0", rule, got)
		}
	}
}
