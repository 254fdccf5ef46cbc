package balance

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
)

const second = int64(time.Second)

// instances makes n instances that are UP, in the zones by turns.
func instances(n int, zones ...string) (out []roadbed.Instance) {
	for i := range n {
		in := roadbed.Instance{ID: fmt.Sprintf("i-%04d", i), App: "app", Host: "10.0.0.1", Port: i + 1, Status: roadbed.Up}
		if len(zones) > 0 {
			in.Location.Zone = zones[i%len(zones)]
		}
		out = append(out, in)
	}
	return out
}

// proven makes a balancer of n endpoints that have all answered in 10 ms.
func proven(n int, zones ...string) *Balancer {
	b := New(Config{Zone: "a"})
	b.Update(instances(n, zones...), second)
	for _, ep := range b.all {
		ep.Done(Answered, second, int64(10*time.Millisecond))
	}
	b.Refresh(second)
	return b
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{2, 10, 100, 1000} {
		for _, zones := range [][]string{nil, {"a", "b", "c"}} {
			b.Run(fmt.Sprintf("endpoints=%d/zones=%d", n, len(zones)), func(b *testing.B) {
				lb := proven(n, zones...)
				now := second + 1
				lb.trace.due.Store(Never)
				b.ReportAllocs()
				for b.Loop() {
					if lb.Pick(now) == nil {
						b.Fatal("no endpoint")
					}
				}
			})
		}
	}
}

func TestPanicUsesAllThatLive(t *testing.T) {
	var events []Event
	b := New(Config{Event: func(e Event) { events = append(events, e) }})
	now := second
	b.Update(instances(4), now)
	for _, ep := range b.all[:3] {
		ep.mu.Lock()
		ep.eject(now, b.settings.Load())
		ep.mu.Unlock()
	}
	b.Refresh(now)
	if p := b.current(now); !p.panic || len(p.fit) != 4 {
		t.Errorf("3 of 4 ejected: panic %v with %d, want panic with all 4", p.panic, len(p.fit))
	}
	b.all[3].Done(Unreached, now, 0)
	b.Refresh(now)
	if p := b.current(now); !p.panic || len(p.fit) != 3 {
		t.Errorf("and the last refuses: panic %v with %d, want panic with the 3 that may live", p.panic, len(p.fit))
	}
	if len(events) != 1 || events[0].Kind != Panicked {
		t.Errorf("got events %v, want one panic", events)
	}
	now += int64(2 * time.Minute)
	if p := b.current(now); p.panic || len(p.fit) != 4 {
		t.Errorf("after the ejections: panic %v with %d, want 4 without panic", p.panic, len(p.fit))
	}
}

func TestStatisticsOutliveTheList(t *testing.T) {
	b := proven(2)
	first := b.all[0]
	b.Update(instances(3), 2*second)
	if b.all[0] != first || !first.proven.Load() {
		t.Error("an endpoint that stayed in the list is another one now")
	}
	if b.all[2].proven.Load() {
		t.Error("a new endpoint has statistics")
	}
}

func TestChoicesTellBothCandidatesAndWhatTheyCost(t *testing.T) {
	b := proven(2)
	now := 2 * second
	for range 1000 { // all in the same 10 ms
		b.Pick(now)
	}
	if got := len(b.Choices(now)); got != 1 {
		t.Errorf("nobody asked: %d picks of 1000 in the same moment are recorded, want 1", got)
	}
	b.all[0].Begin()
	for range 250 {
		b.Pick(now + 1)
	}
	got := b.Choices(now + 1)
	if len(got) != 100 {
		t.Fatalf("after somebody asked: %d picks are told, want the last 100", len(got))
	}
	for _, c := range got {
		for _, x := range []Candidate{c.Winner, c.Loser} {
			busy, want := x.ID == b.all[0].ID, 0.0125
			if busy {
				want = 0.025
			}
			if x.Cost < want*0.85 || x.Cost > want*1.1 || x.RTT < 0.0085 || x.Warm != 1 || !x.Proven || (x.Active == 1) != busy {
				t.Fatalf("got %+v, want a cost of about %g", x, want)
			}
		}
		if c.Winner.ID == c.Loser.ID || c.Why == "" || c.At != now+1 {
			t.Fatalf("got %+v, want two candidates and a reason", c)
		}
	}
	later := now + 2*traceFull
	for range 1000 {
		b.Pick(later)
	}
	if got := b.Choices(later); got[0].At != later || got[2].At == later {
		t.Error("a minute after somebody asked, picks are still all recorded")
	}
}

func TestStateTellsWhyAnEndpointIsNotEligible(t *testing.T) {
	list := instances(12)
	list[0].Status = roadbed.Down
	b := New(Config{})
	b.Update(list, second)
	for range 5 {
		b.all[1].Done(Erred, second, 1)
	}
	b.all[2].Done(Unreached, second, 1)
	b.Refresh(second)
	st := b.State(second)
	for i, want := range []string{"its status is DOWN", "it is ejected for what it did", "it refused connections lately", ""} {
		if got := st.Endpoints[i]; got.Why != want || got.Eligible != (want == "") {
			t.Errorf("endpoint %d: eligible %v because %q, want %q", i, got.Eligible, got.Why, want)
		}
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	b := proven(1000, "a", "b", "c")
	now := second + 1
	if got := testing.AllocsPerRun(1000, func() { b.Pick(now) }); got != 0 {
		t.Errorf("a pick allocates %v times, want 0", got)
	}
}

func TestManyUseOneBalancerAtOnce(t *testing.T) {
	for _, rule := range []Rule{P2C, ZoneAvoidanceRule, WeightedResponseTimeRule} {
		s := Defaults()
		s.Rule, s.Filter, s.KeepSize, s.Interval, s.WeightInterval = rule, SubsetFilter, 5, 100*time.Millisecond, 100*time.Millisecond
		b := New(Config{Zone: "a", Settings: &s, Event: func(Event) {}})
		b.Update(instances(12, "a", "b"), second)
		var clock atomic.Int64
		clock.Store(second)
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := range 2000 {
					now := clock.Add(ms(1))
					ep := b.Pick(now)
					if ep == nil {
						t.Error("nobody was chosen")
						return
					}
					ep.Begin()
					ep.Report(float64(i%10)/8, now)
					ep.End()
					ep.Done(Verdict((i+w)%23%int(Abandoned+1)), now, ms(i%20))
					switch i % 500 {
					case 1:
						b.Update(instances(8+i%5, "a", "b"), now)
					case 2:
						b.Another(now, []*Endpoint{ep}, true)
						b.Apart(now, ep)
					case 3:
						b.Choices(now)
						b.State(now)
					case 4:
						b.SetAlive(func(ep *Endpoint) bool { return ep.ID != "i-0003" }, now)
						b.Configure(s, now)
					}
				}
			})
		}
		wg.Wait()
		for _, e := range b.State(clock.Load()).Endpoints {
			if e.Active != 0 {
				t.Errorf("%s: %s has %d requests in flight, want 0", rule, e.ID, e.Active)
			}
		}
	}
}
