package registry

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// give tells b everything that a knows, over the wire.
func give(t failer, a, b *state) {
	t.Helper()
	for k, e := range a.tombs {
		b.mergeEnd(k, e.dirty)
	}
	for _, ks := range [][]key{keysOf(a.overrides), keysOf(a.lifted)} {
		for _, k := range ks {
			b.mergeVerdict(k, a.verdict(k))
		}
	}
	for _, app := range a.apps {
		for _, e := range app.order {
			w := wireReader{b: e.rec.appendWire(nil)}
			r, err := w.record()
			if err != nil || len(w.b) != 0 {
				t.Errorf("record %+v over the wire: %v, %d bytes left", e.rec, err, len(w.b))
				return
			}
			b.merge(r, time.Duration(a.now()-e.lease.renewed.Load()))
		}
	}
}

func keysOf[V any](m map[key]V) (ks []key) {
	for k := range m {
		ks = append(ks, k)
	}
	return ks
}

// knows is what registries that agree must agree on.
func (s *state) knows() string {
	var lines []string
	for _, a := range s.apps {
		for _, e := range a.order {
			r := e.rec
			v := s.verdict(r.key())
			lines = append(lines, fmt.Sprintf("%s/%s version %d says %v, counts %v, override %v %v; %v; %x", r.app, r.id, r.dirty, r.own, r.standing(), v.set, v.status, r.meta, r.digest()))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestRegistriesThatHeardTheSameAgree lets three registries do what their clients ask and hear of each other in random
// order. When all have heard from all, they agree.
func TestRegistriesThatHeardTheSameAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all [3]*state
		for i := range all {
			all[i] = newState("")
		}
		nodes := rapid.IntRange(0, len(all)-1)
		ids := rapid.SampledFrom([]string{"1", "2"})
		sts := rapid.SampledFrom([]status{down, outOfService, starting, up})
		dirty := map[string]int64{}
		ended := map[string]int64{}
		t.Repeat(map[string]func(*rapid.T){
			"register": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				if rapid.Bool().Draw(t, "changed") {
					dirty[id]++
				}
				s := all[nodes.Draw(t, "node")]
				r := reg("A", id, sts.Draw(t, "status"), max(dirty[id], 1))
				s.register(r, origin{native: rapid.Bool().Draw(t, "native")})
				dirty[id] = max(dirty[id], s.find(key{"A", id}).rec.dirty)
			},
			"tell of a registration": func(t *rapid.T) { // as a server of Netflix's does
				id := ids.Draw(t, "id")
				r := reg("A", id, sts.Draw(t, "status"), rapid.Int64Range(1, max(dirty[id], 1)).Draw(t, "version"))
				r.override = rapid.SampledFrom([]status{unknown, unknown, outOfService}).Draw(t, "override")
				all[nodes.Draw(t, "node")].register(r, origin{replicated: true})
			},
			"renew": func(t *rapid.T) {
				s, k := all[nodes.Draw(t, "node")], key{"A", ids.Draw(t, "id")}
				s.renew(k, origin{replicated: rapid.Bool().Draw(t, "peer")}, rapid.Int64Range(0, 9).Draw(t, "dirty"), sts.Draw(t, "claimed"))
				s.renew(k, origin{}, 0, unknown) // from when on an override counts that a peer claimed
			},
			"override": func(t *rapid.T) {
				all[nodes.Draw(t, "node")].setOverride(key{"A", ids.Draw(t, "id")}, sts.Draw(t, "status"), 0, origin{})
			},
			"clear": func(t *rapid.T) {
				all[nodes.Draw(t, "node")].clearOverride(key{"A", ids.Draw(t, "id")}, sts.Draw(t, "then"), rapid.Bool().Draw(t, "own"), 0, origin{})
			},
			"metadata": func(t *rapid.T) {
				all[nodes.Draw(t, "node")].setMeta(key{"A", ids.Draw(t, "id")}, []pair{{"k", rapid.StringN(0, 3, -1).Draw(t, "value")}}, origin{})
			},
			"cancel": func(t *rapid.T) {
				s, id := all[nodes.Draw(t, "node")], ids.Draw(t, "id")
				if e := s.find(key{"A", id}); e != nil {
					ended[id] = max(ended[id], e.rec.dirty)
				}
				s.cancel(key{"A", id})
			},
			"hear": func(t *rapid.T) { give(t, all[nodes.Draw(t, "from")], all[nodes.Draw(t, "to")]) },
			"evict": func(t *rapid.T) {
				s := all[nodes.Draw(t, "node")]
				if e := s.find(key{"A", ids.Draw(t, "id")}); e != nil {
					e.lease.renewed.Store(math.MinInt64 / 2)
					s.evict([]*entry{e}, s.now())
				}
			},
			"all hear from all": func(t *rapid.T) {
				for range 2 { // what one refuses, the second round brings back to who told it
					for _, a := range all {
						for _, b := range all {
							if a != b {
								give(t, a, b)
							}
						}
					}
				}
				for _, s := range all[1:] {
					if got, want := s.knows(), all[0].knows(); got != want {
						t.Fatalf("one knows\n%s\nanother\n%s", want, got)
					}
				}
				for id, v := range ended {
					if e := all[0].find(key{"A", id}); e != nil && e.rec.dirty <= v {
						t.Fatalf("version %d of %s was cancelled and is back", e.rec.dirty, id)
					}
				}
			},
			"": func(t *rapid.T) {
				for _, s := range all {
					checkState(t, s)
					for _, a := range s.apps {
						for _, e := range a.order {
							if st := s.effective(e.rec.base, e.rec.asg, e.rec.key(), nil, true); st != e.rec.standing() {
								t.Errorf("%s is %v, but %v follows from its record and what is decided", e.rec.id, e.rec.standing(), st)
							}
						}
					}
				}
			},
		})
	})
}

func TestStampsRiseWhateverTheClocksShow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c stamps
		a, b := c.next(), c.next()
		if b <= a {
			t.Errorf("two stamps of one moment: got %d after %d", b, a)
		}
		ahead := stampOf(time.Now().Add(10 * time.Minute))
		if got := c.see(ahead); got != ahead {
			t.Errorf("a stamp of ten minutes ahead: got %d, want it believed as %d", got, ahead)
		}
		if got := c.next(); got <= ahead {
			t.Errorf("after a stamp of ten minutes ahead: got %d, want later than %d", got, ahead)
		}
		if got, want := c.see(math.MaxUint64), stampOf(time.Now().Add(farAhead)); got != want {
			t.Errorf("a stamp of the end of time: got %d, want that of a day ahead, %d", got, want)
		}
		time.Sleep(48 * time.Hour)
		if got, want := c.next(), stampOf(time.Now()); got != want {
			t.Errorf("two days later: got %d, want the clock's %d", got, want)
		}
	})
}

func TestVersionsOfClocksFarAheadGiveWay(t *testing.T) {
	now := time.Now().UnixMilli()
	day := farAhead.Milliseconds()
	for _, tt := range []struct {
		a, b int64
		want bool
	}{
		{2, 1, true}, {1, 2, false}, {1, 1, false},
		{now, now - 1, true}, {now - 1, now, false},
		{now + day/2, now, true},         // ten hours: a clock that is off
		{now + 2*day, now, false},        // two days: nonsense
		{now, now + 2*day, true},         // which anything replaces,
		{1, math.MaxInt64, true},         // however old
		{math.MaxInt64, 1, false},        // or not
		{now + 3*day, now + 2*day, true}, // one clock that is off by days still counts up
	} {
		if got := later(tt.a, tt.b); got != tt.want {
			t.Errorf("is %d later than %d, now being %d: got %v, want %v", tt.a, tt.b, now, got, tt.want)
		}
	}
	s := newState("")
	lie := reg("A", "i", down, math.MaxInt64)
	s.register(lie, origin{replicated: true})
	k := key{"A", "i"}
	if res, _ := s.renew(k, origin{}, now, unknown); res != notFound {
		t.Errorf("the instance renews what a peer lied about: got %v, want it asked to register", res)
	}
	s.register(reg("A", "i", up, now), origin{})
	if got := describe(s, k); got != fmt.Sprintf("UP/-/%d/MODIFIED", now) {
		t.Errorf("after it registered: got %s, want its own record", got)
	}
	if res, _ := s.renew(k, origin{replicated: true}, math.MaxInt64, unknown); res != conflicted {
		t.Errorf("the peer renews what it lied about: got %v, want it told what is", res)
	}
}

func TestCancelledInstanceIsRememberedForTwoLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t)
		k, peer := key{"A", "i"}, origin{replicated: true}
		quick := reg("A", "i", up, 10)
		quick.duration = 60
		r.s.register(quick, origin{})
		r.s.cancel(k)
		for _, after := range []time.Duration{0, 110 * time.Second} {
			pass(after)
			r.s.register(reg("A", "i", up, 10), peer)
			if got := describe(r.s, k); got != "gone/DELETED" {
				t.Errorf("%v later a peer tells of it: got %s, want it stay gone", after, got)
			}
		}
		pass(2 * time.Minute)
		r.s.register(reg("A", "i", up, 10), peer)
		if got := describe(r.s, k); got != "UP/-/10/MODIFIED" {
			t.Errorf("after two leases a peer tells of it: got %s, want it believed", got)
		}

		// An eviction is another matter: the peer may be the one that hears it.
		r.s.find(k).lease.renewed.Store(-int64(1e15))
		r.s.evict([]*entry{r.s.find(k)}, r.s.now())
		r.s.register(reg("A", "i", up, 10), peer)
		if got := describe(r.s, k); got != "UP/-/10/MODIFIED" {
			t.Errorf("a peer tells of an evicted instance: got %s, want it back", got)
		}
	})
}
