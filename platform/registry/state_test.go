package registry

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/engine/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, enginetest.Forgotten) }

func reg(app, id string, own status, dirty int64) *record {
	return &record{
		id: id, sentID: true, app: app, host: "h", ip: "127.0.0.1", own: own, status: own, override: unknown,
		port: port{80, true}, renewal: 30, duration: 90, dirty: dirty, dcSent: true, dcName: true,
	}
}

// TestEffectiveStatusIsTheFirstRuleThatFits walks every combination of what an instance says, what an operator
// decided, what the registry held and who tells it.
func TestEffectiveStatusIsTheFirstRuleThatFits(t *testing.T) {
	k := key{"A", "i"}
	none := status(statuses) // stands for absent
	for own := status(0); own < statuses; own++ {
		for ov := status(0); ov <= none; ov++ {
			for old := status(0); old <= none; old++ {
				for _, ownWins := range []bool{false, true} {
					s := newState("")
					if ov != none {
						s.overrides[k] = override{status: ov}
					}
					var held *record
					if old != none {
						held = reg("A", "i", old, 1)
					}
					var want status
					switch {
					case own == down || own == starting || own == unknown:
						want = own
					case ov != none:
						want = ov
					case !ownWins && held != nil && (old == up || old == outOfService):
						want = old
					default:
						want = own
					}
					if got := s.effective(own, "", k, held, ownWins); got != want {
						t.Errorf("own %v, override %d, held %d, own word wins %v: got %v, want %v", own, ov, old, ownWins, got, want)
					}
				}
			}
		}
	}
}

// at brings a state to a named condition of instance i of A, whose record has version 10.
func at(t *testing.T, condition string) *state {
	t.Helper()
	s := newState("")
	k := key{"A", "i"}
	switch condition {
	case "absent":
	case "cancelled":
		s.register(reg("A", "i", up, 10), origin{})
		s.cancel(k)
	case "up":
		s.register(reg("A", "i", up, 10), origin{})
	case "down":
		s.register(reg("A", "i", down, 10), origin{})
	case "overridden":
		s.register(reg("A", "i", up, 10), origin{})
		s.setOverride(k, outOfService, 0, origin{})
	case "cleared":
		s.register(reg("A", "i", up, 10), origin{})
		s.setOverride(k, outOfService, 0, origin{})
		s.clearOverride(k, unknown, false, 0, origin{})
	default:
		t.Fatalf("no condition %q", condition)
	}
	return s
}

// TestEveryTransition is the registry's state machine: each event in each condition.
func TestEveryTransition(t *testing.T) {
	k := key{"A", "i"}
	peer, ours := origin{replicated: true}, origin{native: true}
	renew := func(o origin, dirty int64, claimed status) func(*state) result {
		return func(s *state) result { res, _ := s.renew(k, o, dirty, claimed); return res }
	}
	register := func(o origin, own status, dirty int64) func(*state) result {
		return func(s *state) result { s.register(reg("A", "i", own, dirty), o); return done }
	}
	events := map[string]func(*state) result{
		"register UP newer":        register(origin{}, up, 20),
		"register UP equal":        register(origin{}, up, 10),
		"register DOWN older":      register(origin{}, down, 5),
		"register OUT newer":       register(origin{}, outOfService, 20),
		"register OUT ours":        register(ours, outOfService, 20),
		"register OUT ours older":  register(ours, outOfService, 5),
		"register UP peer":         register(peer, up, 10),
		"register UP peer newer":   register(peer, up, 20),
		"register DOWN peer older": register(peer, down, 5),
		"renew":                    renew(origin{}, 0, unknown),
		"renew equal":              renew(origin{}, 10, unknown),
		"renew newer":              renew(origin{}, 20, unknown),
		"renew older":              renew(origin{}, 5, unknown),
		"renew older peer":         renew(peer, 5, unknown),
		"renew newer peer OUT":     renew(peer, 20, outOfService),
		"cancel":                   func(s *state) result { res, _ := s.cancel(k); return res },
		"override OUT":             func(s *state) result { return s.setOverride(k, outOfService, 0, origin{}) },
		"override UP newer":        func(s *state) result { return s.setOverride(k, up, 30, origin{}) },
		"clear":                    func(s *state) result { return s.clearOverride(k, unknown, false, 0, origin{}) },
		"clear to UP":              func(s *state) result { return s.clearOverride(k, up, false, 0, origin{}) },
		"clear to own word, newer": func(s *state) result { return s.clearOverride(k, unknown, true, 30, origin{}) },
		"metadata":                 func(s *state) result { return s.setMeta(k, []pair{{"a", "b"}}, origin{}) },
	}
	// what follows: result, then status/override/version/action of the newest change, or "gone"
	want := map[string]map[string]string{
		"register UP newer": {"absent": "ok UP/-/20/ADDED", "cancelled": "ok UP/-/20/MODIFIED", "up": "ok UP/-/20/ADDED",
			"down": "ok UP/-/20/MODIFIED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/20/MODIFIED", "cleared": "ok UP/-/20/MODIFIED"},
		"register UP equal": {"absent": "ok UP/-/10/ADDED", "cancelled": "ok UP/-/11/MODIFIED", "up": "ok UP/-/10/ADDED",
			"down": "ok UP/-/10/MODIFIED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "cleared": "ok UP/-/10/MODIFIED"},
		"register DOWN older": {"absent": "ok DOWN/-/5/ADDED", "cancelled": "ok DOWN/-/11/MODIFIED", "up": "ok UP/-/10/ADDED",
			"down": "ok DOWN/-/10/ADDED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "cleared": "ok UP/-/10/MODIFIED"},
		"register OUT newer": {"absent": "ok OUT_OF_SERVICE/-/20/ADDED", "cancelled": "ok OUT_OF_SERVICE/-/20/MODIFIED", "up": "ok UP/-/20/ADDED",
			"down": "ok OUT_OF_SERVICE/-/20/MODIFIED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/20/MODIFIED", "cleared": "ok OUT_OF_SERVICE/-/20/MODIFIED"},
		"register OUT ours": {"absent": "ok OUT_OF_SERVICE/-/20/ADDED", "cancelled": "ok OUT_OF_SERVICE/-/20/MODIFIED", "up": "ok OUT_OF_SERVICE/-/20/MODIFIED",
			"down": "ok OUT_OF_SERVICE/-/20/MODIFIED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/20/MODIFIED", "cleared": "ok OUT_OF_SERVICE/-/20/MODIFIED"},
		"register OUT ours older": {"absent": "ok OUT_OF_SERVICE/-/5/ADDED", "cancelled": "ok OUT_OF_SERVICE/-/11/MODIFIED", "up": "ok UP/-/10/ADDED",
			"down": "ok DOWN/-/10/ADDED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "cleared": "ok UP/-/10/MODIFIED"},
		"register UP peer": {"absent": "ok UP/-/10/ADDED", "cancelled": "ok gone/DELETED", "up": "ok UP/-/10/ADDED",
			"down": "ok UP/-/10/MODIFIED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "cleared": "ok UP/-/10/MODIFIED"},
		"register UP peer newer": {"absent": "ok UP/-/20/ADDED", "cancelled": "ok UP/-/20/MODIFIED", "up": "ok UP/-/20/ADDED",
			"down": "ok UP/-/20/MODIFIED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/20/MODIFIED", "cleared": "ok UP/-/20/MODIFIED"},
		"register DOWN peer older": {"absent": "ok DOWN/-/5/ADDED", "cancelled": "ok gone/DELETED", "up": "ok UP/-/10/ADDED",
			"down": "ok DOWN/-/10/ADDED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "cleared": "ok UNKNOWN/-/10/MODIFIED"},
		"renew": {"absent": "404 gone", "cancelled": "404 gone/DELETED", "up": "ok UP/-/10/ADDED",
			"down": "ok DOWN/-/10/ADDED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "cleared": "404 UNKNOWN/-/10/MODIFIED"},
		"renew equal": {"absent": "404 gone", "cancelled": "404 gone/DELETED", "up": "ok UP/-/10/ADDED",
			"down": "ok DOWN/-/10/ADDED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "cleared": "404 UNKNOWN/-/10/MODIFIED"},
		"renew newer": {"absent": "404 gone", "cancelled": "404 gone/DELETED", "up": "404 UP/-/10/ADDED",
			"down": "404 DOWN/-/10/ADDED", "overridden": "404 OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "cleared": "404 UNKNOWN/-/10/MODIFIED"},
		"renew older": {"absent": "404 gone", "cancelled": "404 gone/DELETED", "up": "ok UP/-/10/ADDED",
			"down": "ok DOWN/-/10/ADDED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "cleared": "404 UNKNOWN/-/10/MODIFIED"},
		"renew older peer": {"absent": "404 gone", "cancelled": "404 gone/DELETED", "up": "409 UP/-/10/ADDED",
			"down": "409 DOWN/-/10/ADDED", "overridden": "409 OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "cleared": "404 UNKNOWN/-/10/MODIFIED"},
		"renew newer peer OUT": {"absent": "404 gone", "cancelled": "404 gone/DELETED", "up": "404 UP/OUT_OF_SERVICE/10/MODIFIED",
			"down": "404 DOWN/OUT_OF_SERVICE/10/MODIFIED", "overridden": "404 OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "cleared": "404 UNKNOWN/-/10/MODIFIED"},
		"cancel": {"absent": "404 gone", "cancelled": "404 gone/DELETED", "up": "ok gone/DELETED",
			"down": "ok gone/DELETED", "overridden": "ok gone/DELETED", "cleared": "ok gone/DELETED"},
		"override OUT": {"absent": "404 gone", "cancelled": "404 gone/DELETED", "up": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED",
			"down": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "cleared": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED"},
		"override UP newer": {"absent": "404 gone", "cancelled": "404 gone/DELETED", "up": "ok UP/-/10/ADDED",
			"down": "ok UP/UP/30/MODIFIED", "overridden": "ok UP/UP/30/MODIFIED", "cleared": "ok UP/UP/30/MODIFIED"},
		"clear": {"absent": "404 gone", "cancelled": "404 gone/DELETED", "up": "ok UP/-/10/ADDED",
			"down": "ok DOWN/-/10/ADDED", "overridden": "ok UNKNOWN/-/10/MODIFIED", "cleared": "ok UNKNOWN/-/10/MODIFIED"},
		"clear to UP": {"absent": "404 gone", "cancelled": "404 gone/DELETED", "up": "ok UP/-/10/ADDED",
			"down": "ok DOWN/-/10/ADDED", "overridden": "ok UP/-/10/MODIFIED", "cleared": "ok UNKNOWN/-/10/MODIFIED"},
		"clear to own word, newer": {"absent": "404 gone", "cancelled": "404 gone/DELETED", "up": "ok UP/-/10/ADDED",
			"down": "ok DOWN/-/10/ADDED", "overridden": "ok UP/-/30/MODIFIED", "cleared": "ok UNKNOWN/-/10/MODIFIED"},
		"metadata": {"absent": "404 gone", "cancelled": "404 gone/DELETED", "up": "ok UP/-/10/MODIFIED",
			"down": "ok DOWN/-/10/MODIFIED", "overridden": "ok OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED", "cleared": "ok UNKNOWN/-/10/MODIFIED"},
	}
	for _, event := range slices.Sorted(maps.Keys(events)) {
		for _, condition := range []string{"absent", "cancelled", "up", "down", "overridden", "cleared"} {
			s := at(t, condition)
			got := map[result]string{done: "ok ", notFound: "404 ", conflicted: "409 "}[events[event](s)] + describe(s, k)
			if w := want[event][condition]; got != w {
				t.Errorf("%s when %s: got %q, want %q", event, condition, got, w)
			}
			checkState(t, s)
		}
	}
}

func TestAnOverrideThatAPeerClaimsHoldsFromTheNextWordOfTheInstance(t *testing.T) {
	k := key{"A", "i"}
	for what, next := range map[string]func(*state){
		"renewal":      func(s *state) { s.renew(k, origin{}, 0, unknown) },
		"registration": func(s *state) { s.register(reg("A", "i", up, 20), origin{}) },
		"metadata":     func(s *state) { s.setMeta(k, []pair{{"a", "b"}}, origin{}) },
	} {
		s := at(t, "up")
		s.renew(k, origin{replicated: true}, 20, outOfService)
		if r := s.find(k).rec; r.status != up || r.override != outOfService {
			t.Errorf("once it is claimed: got %v with override %v, want still UP with OUT_OF_SERVICE", r.status, r.override)
		}
		next(s)
		if r := s.find(k).rec; r.status != outOfService || r.override != outOfService {
			t.Errorf("after its next %s: got %v with override %v, want OUT_OF_SERVICE", what, r.status, r.override)
		}
		checkState(t, s)
	}
}

func TestAnEndThatAPeerTellsLateDoesNotOutliveTheInstancesReturn(t *testing.T) {
	k, peer := key{"A", "i"}, origin{replicated: true}
	s := at(t, "up")
	s.register(reg("A", "i", up, 20), peer)
	if res := s.endedElsewhere(k, 10); res != done || s.find(k) == nil {
		t.Errorf("the end of version 10, told after version 20: got %v, %s; want it to count for nothing", res, describe(s, k))
	}
	if res := s.endedElsewhere(k, 0); res != done || s.find(k) != nil {
		t.Errorf("an end without a version: got %v, %s; want the instance gone", res, describe(s, k))
	}
	s.register(reg("A", "i", up, 10), peer)
	if s.find(k) != nil {
		t.Errorf("old news after the end: got %s, want the instance still gone", describe(s, k))
	}
	s.register(reg("A", "i", up, 20), peer)
	if s.find(k) == nil {
		t.Error("what peers go on to tell after the end: got nothing, want the instance back")
	}
	if res := s.endedElsewhere(k, 20); res != done || s.find(k) != nil {
		t.Errorf("the end of version 20: got %v, %s; want the instance gone", res, describe(s, k))
	}
	s.register(reg("A", "i", up, 20), peer)
	if s.find(k) != nil {
		t.Errorf("the version that ended, told again: got %s, want the instance still gone", describe(s, k))
	}
	checkState(t, s)
}

func describe(s *state, k key) string {
	c, e := s.log.gone[k], s.find(k)
	if e != nil {
		c = e.last
	}
	switch {
	case e == nil && c == nil:
		return "gone"
	case e == nil:
		return "gone/" + actionNames[c.rec.action]
	}
	ov := "-"
	if o, ok := s.overrides[k]; ok {
		ov = o.status.String()
	}
	return fmt.Sprintf("%v/%s/%d/%s", e.rec.status, ov, e.rec.dirty, actionNames[c.rec.action])
}

type failer interface {
	Helper()
	Errorf(string, ...any)
}

// checkState reports what does not add up in s.
func checkState(t failer, s *state) {
	t.Helper()
	var n [statuses]int
	count := 0
	for name, a := range s.apps {
		if len(a.byID) != len(a.order) || len(a.order) == 0 {
			t.Errorf("app %s: %d instances by id and %d in order", name, len(a.byID), len(a.order))
		}
		for _, e := range a.order {
			n[e.rec.status]++
			count++
			if a.byID[e.rec.id] != e {
				t.Errorf("app %s: %s is in order but not by id", name, e.rec.id)
			}
		}
	}
	if n != s.byStatus || count != s.count {
		t.Errorf("counts: kept %v, %d; counted %v, %d", s.byStatus, s.count, n, count)
	}
	inLog, last := 0, uint64(0)
	for c := range s.log.changes.all() {
		k := c.rec.key()
		if e := s.find(k); c.version <= last || c.e != e || e != nil && e.last != c || e == nil && s.log.gone[k] != c {
			t.Errorf("log: version %d of %v after %d", c.version, k, last)
		}
		last = c.version
		inLog++
	}
	if newest := s.log.changes.after(last - 1); inLog != s.log.kept || inLog > 0 && (newest.count() != 1 || last != s.log.version) {
		t.Errorf("log: %d changes in order, %d counted; newest version %d", inLog, s.log.kept, s.log.version)
	}
}

func TestReRegistrationThatChangesNothingIsNoNews(t *testing.T) {
	s := newState("")
	s.register(reg("A", "i", up, 10), origin{})
	before := s.log.version
	s.register(reg("A", "i", up, 20), origin{})
	if s.log.version != before {
		t.Errorf("version after the same registration again: got %d, want %d", s.log.version, before)
	}
	if got := s.find(key{"A", "i"}).rec.dirty; got != 20 {
		t.Errorf("its version of the record: got %d, want 20", got)
	}
}

func TestOverrideOfAnEvictedInstanceHoldsWhenItReturns(t *testing.T) {
	s := at(t, "overridden")
	k := key{"A", "i"}
	s.find(k).lease.renewed.Store(-int64(1e12))
	if n := s.evict([]*entry{s.find(k)}, s.now()); n != 1 {
		t.Fatalf("evicted: got %d, want 1", n)
	}
	s.register(reg("A", "i", up, 20), origin{native: true})
	if got := describe(s, k); got != "OUT_OF_SERVICE/OUT_OF_SERVICE/20/MODIFIED" {
		t.Errorf("back after eviction: got %s, want it still out of service", got)
	}
	later := s.now() + int64(overrideOutlives) + 2
	s.find(k).lease.renewed.Store(-int64(1e12))
	s.evict([]*entry{s.find(k)}, 1)
	s.forgetOverrides(later - int64(time.Minute))
	if len(s.overrides) != 1 {
		t.Errorf("within a day of the second eviction: got %d overrides kept, want 1", len(s.overrides))
	}
	s.forgetOverrides(later)
	if len(s.overrides) != 0 {
		t.Errorf("a day after the second eviction: got %d overrides kept, want none", len(s.overrides))
	}
}

// TestClientThatAppliesEveryDeltaCountsTheHash drives the registry and a client that reads a delta or a list now and
// then, and compares them after each read.
func TestClientThatAppliesEveryDeltaCountsTheHash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newState("")
		client := map[key]*record{}
		take := func(d *document, full bool) {
			if full {
				client = map[key]*record{}
			}
			for _, v := range d.views {
				ended := false
				for _, x := range v.recs {
					if !full && x.rec.action == deleted {
						ended = true
						delete(client, x.rec.key())
						continue
					}
					if ended {
						t.Fatalf("delta of %s: an instance comes after deleted ones", v.name)
					}
					client[x.rec.key()] = x.rec
				}
			}
			var n [statuses]int
			for _, r := range client {
				n[r.status]++
			}
			if got := hashCode(n); got != d.hash {
				t.Fatalf("client counts %q, registry says %q", got, d.hash)
			}
			for k, r := range client {
				if e := s.find(k); e == nil || !e.rec.same(r) {
					t.Fatalf("client has %+v, registry %+v", r, e)
				}
			}
		}
		// A snapshot that was dear to make, as any is on a busy machine, may be served a little longer; not here.
		latest := func() *snapshot {
			if sn := s.snap.Load(); sn != nil {
				sn.cost = 0
			}
			return s.current("")
		}
		take(&latest().full, true)
		keys := rapid.Custom(func(t *rapid.T) key {
			return key{rapid.SampledFrom([]string{"A", "B"}).Draw(t, "app"), rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "id")}
		})
		sts := rapid.Map(rapid.IntRange(0, int(statuses)-1), func(n int) status { return status(n) })
		var lastVersion uint64
		t.Repeat(map[string]func(*rapid.T){
			"register": func(t *rapid.T) {
				k := keys.Draw(t, "key")
				s.register(reg(k.app, k.id, sts.Draw(t, "status"), rapid.Int64Range(1, 50).Draw(t, "dirty")),
					origin{rapid.Bool().Draw(t, "peer"), rapid.Bool().Draw(t, "native")})
			},
			"renew": func(t *rapid.T) {
				k := keys.Draw(t, "key")
				s.renew(k, origin{replicated: rapid.Bool().Draw(t, "peer")}, rapid.Int64Range(0, 50).Draw(t, "dirty"), sts.Draw(t, "claimed"))
				s.settle(k) // what a peer claims counts from the next word of the instance
			},
			"cancel":   func(t *rapid.T) { s.cancel(keys.Draw(t, "key")) },
			"override": func(t *rapid.T) { s.setOverride(keys.Draw(t, "key"), sts.Draw(t, "status"), 0, origin{}) },
			"clear": func(t *rapid.T) {
				s.clearOverride(keys.Draw(t, "key"), sts.Draw(t, "then"), rapid.Bool().Draw(t, "own"), 0, origin{})
			},
			"delta": func(*rapid.T) { take(latest().delta(), false) },
			"full":  func(*rapid.T) { take(&latest().full, true) },
			"": func(t *rapid.T) {
				checkState(t, s)
				if s.log.version < lastVersion {
					t.Errorf("version went back from %d to %d", lastVersion, s.log.version)
				}
				lastVersion = s.log.version
			},
		})
	})
}

func TestInstanceMapsToThePlatformsWords(t *testing.T) {
	r := shop()
	r.asg, r.meta = "shop-v001", []pair{{"criticality", "BULK"}, {"zone", "zone-b"}}
	got := r.instance("eu")
	if got.ID != r.id || got.App != "shop" || got.Group != "shop-v001" || got.Addr() != "10.1.2.3:8080" || got.Secure ||
		got.Location != (roadbed.Location{Region: "eu", Zone: "zone-b"}) || got.Status != roadbed.Up ||
		got.Since.UnixMilli() != r.serviceUp || got.Criticality() != roadbed.Bulk {
		t.Errorf("instance of %+v: got %+v", r, got)
	}
	r.port.on, r.secure.on = false, true
	if got = r.instance(""); got.Port != 443 || !got.Secure {
		t.Errorf("an instance that only speaks TLS: got %s, secure %v; want port 443, true", got.Addr(), got.Secure)
	}
	r.dcAmazon, r.dcMeta = true, []pair{{"availability-zone", "us-east-1c"}}
	if got := r.zone(); got != "us-east-1c" {
		t.Errorf("zone of an Amazon instance: got %q, want us-east-1c", got)
	}
}

func TestGroupsCountWhereTheyAreAskedTo(t *testing.T) {
	k := key{"A", "i"}
	grouped := func(st status, dirty int64) *record {
		r := reg("A", "i", st, dirty)
		r.asg = "a-v001"
		return r
	}
	s := newState("")
	s.groups = map[string]bool{}
	s.register(grouped(up, 10), origin{})
	s.setGroup("a-v001", true)
	s.setGroup("other", true)
	if got := describe(s, k); got != "OUT_OF_SERVICE/-/10/MODIFIED" {
		t.Errorf("group disabled: got %s, want its instance out of service", got)
	}
	s.register(grouped(up, 20), origin{})
	if got := describe(s, k); got != "OUT_OF_SERVICE/-/20/MODIFIED" {
		t.Errorf("registered in a disabled group: got %s, want out of service", got)
	}
	s.setOverride(k, up, 0, origin{})
	if got := describe(s, k); got != "UP/UP/20/MODIFIED" {
		t.Errorf("override in a disabled group: got %s, want UP", got)
	}
	s.clearOverride(k, outOfService, false, 0, origin{})
	if !s.setGroup("a-v001", false) || s.setGroup("a-v001", false) {
		t.Error("enabling the group: want a change the first time only")
	}
	if got := describe(s, k); got != "UP/-/20/MODIFIED" {
		t.Errorf("group enabled: got %s, want UP", got)
	}
	checkState(t, s)

	s = newState("")
	s.register(grouped(up, 10), origin{})
	if res, _ := s.renew(k, origin{}, 0, unknown); res != done || describe(s, k) != "UP/-/10/ADDED" {
		t.Errorf("where groups do not count: got %s, want UP", describe(s, k))
	}
}

func TestSwitchesOfTheRules(t *testing.T) {
	s := newState("")
	s.believe = true
	s.register(reg("A", "i", up, 10), origin{})
	s.register(reg("A", "i", outOfService, 20), origin{})
	if got := describe(s, key{"A", "i"}); got != "OUT_OF_SERVICE/-/20/MODIFIED" {
		t.Errorf("a newer registration with clientStatusWins: got %s, want its own word", got)
	}
	s.register(reg("A", "i", up, 20), origin{})
	if got := describe(s, key{"A", "i"}); got != "OUT_OF_SERVICE/-/20/MODIFIED" {
		t.Errorf("an equally old registration with clientStatusWins: got %s, want the former status", got)
	}
	if res, _ := s.renew(key{"A", "i"}, origin{}, 30, unknown); res != notFound {
		t.Errorf("a renewal with a newer version: got %v, want notFound", res)
	}
	s.anyAge = true
	if res, _ := s.renew(key{"A", "i"}, origin{}, 30, unknown); res != done {
		t.Errorf("the same without syncWhenTimestampDiffers: got %v, want done", res)
	}
}
