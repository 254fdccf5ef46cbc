package region

import (
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"pgregory.net/rapid"
)

var tests = slog.New(slog.DiscardHandler)

const testKey = "a key for tests, thirty-two long"

// newRegions returns the regions of an edge in own, closed when the test ends.
func newRegions(t testing.TB, own string, override ...string) *Regions {
	t.Helper()
	o := map[string]string{"edge.regions.key": testKey}
	for i := 0; i < len(override); i += 2 {
		o[override[i]] = override[i+1]
	}
	r := New(Config{Region: own, Properties: config.New(config.Options{Override: o, Log: tests}), Meter: meter.New(nil), Log: tests})
	t.Cleanup(r.Close)
	return r
}

func docs(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[Prefix+pairs[i]] = pairs[i+1]
	}
	return m
}

const (
	westServes  = `{"state":"SERVING","edges":["http://127.0.0.1:1"]}`
	northServes = `{"state":"SERVING","edges":["http://127.0.0.1:2"]}`
)

// asked is a request of a user.
func asked(user string) *filter.Exchange {
	return &filter.Exchange{User: user, From: netip.MustParseAddr("192.0.2.1"), Client: &filter.Client{}}
}

// goes returns where a user is served.
func (r *Regions) goes(x *filter.Exchange) string {
	x.Away = ""
	if x.Hop == "" {
		r.decide(x)
	}
	if x.Away == "" {
		return r.own
	}
	return x.Away
}

func TestADocumentWithAMistakeSaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		`{"state":"SERVING"}`:                     "",
		`{"state":"EVACUATED","to":{"west":100}}`: "",
		`{"state":"DRAINING","to":{"west":60,"north":40},"since":"2026-01-31T10:00:00Z"}`:       "",
		`{"state":"DRAINING","to":{"west":100},"rampSeconds":0}`:                                "",
		`{"state":"SERVING","weight":40,"to":{"west":100},"since":"2026-01-31T10:00:00+02:00"}`: "",
		``:                                 "it is no region",
		`[]`:                               "it is no region",
		`{"state":"SERVING"} {}`:           "something follows",
		`{"state":"SERVING","sate":1}`:     `unknown field "sate"`,
		`{"state":"GONE"}`:                 `state "GONE": use SERVING, DRAINING or EVACUATED`,
		`{}`:                               `state "": use`,
		`{"state":"SERVING","weight":101}`: "weight 101: use 0 to 100 percent",
		`{"state":"EVACUATED","weight":50,"to":{"west":100}}`:                     "weight 50 goes with SERVING",
		`{"state":"SERVING","weight":50}`:                                         "to is missing",
		`{"state":"EVACUATED"}`:                                                   "to is missing",
		`{"state":"EVACUATED","to":{"west":60,"north":30}}`:                       "add up to 90; they must to 100",
		`{"state":"EVACUATED","to":{"east":100}}`:                                 "to has east itself",
		`{"state":"EVACUATED","to":{"we st":100}}`:                                "no region's name",
		`{"state":"EVACUATED","to":{"west":0,"north":100}}`:                       "to has 0 for west",
		`{"state":"DRAINING","to":{"west":100}}`:                                  "since is missing",
		`{"state":"SERVING","from":30,"to":{"west":100}}`:                         "since is missing",
		`{"state":"DRAINING","to":{"west":100},"rampSeconds":86401}`:              "use 0 to 86400",
		`{"state":"SERVING","edges":["10.0.0.1:80"]}`:                             `edge "10.0.0.1:80": write a URL`,
		`{"state":"SERVING","edges":["http://a/b"]}`:                              "write a URL",
		`{"state":"SERVING","edges":["http://a","http://a"]}`:                     "is there twice",
		`{"state":"SERVING","headroom":-1}`:                                       "headroom -1",
		`{"state":"SERVING","region":"west"}`:                                     `region is "west"`,
		`{"state":"SERVING","from":101}`:                                          "from 101",
		`{"state":"SERVING","reason":"` + strings.Repeat("a", maxReason+1) + `"}`: "reason has 1025 bytes",
	} {
		_, err := Parse("east", text)
		if got := fmt.Sprint(err); (want == "") != (err == nil) || want != "" && !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
	if _, err := Parse("a.b", `{"state":"SERVING"}`); err == nil {
		t.Error("a region a.b: got no error, want one: it would stand for a host")
	}
}

func TestADocumentWithAMistakeChangesNothing(t *testing.T) {
	r := newRegions(t, "east")
	r.Set(docs("east", `{"state":"EVACUATED","to":{"west":100}}`, "west", westServes))
	if got := r.goes(asked("u1")); got != "west" {
		t.Fatalf("evacuated: u1 is served in %s, want west", got)
	}
	r.Set(docs("east", `{"state":"EVACUATED","to":{"west":90}}`, "west", `nonsense`))
	if got := r.goes(asked("u1")); got != "west" {
		t.Errorf("after documents with mistakes: u1 is served in %s, want west as before", got)
	}
	if got := r.refused["east"]; !strings.Contains(got, "add up to 90") {
		t.Errorf("why east is refused: got %q, want that its shares add up to 90", got)
	}
	r.Set(docs("east", `{"state":"SERVING"}`, "west", westServes))
	if got := r.goes(asked("u1")); got != "east" || len(r.refused) != 0 {
		t.Errorf("after it was mended: u1 is served in %s, refused %v; want east, none", got, r.refused)
	}
	r.Set(nil)
	if got := r.goes(asked("u1")); got != "east" || r.now.Load() != nil {
		t.Errorf("without regions: u1 is served in %s, want east and no picture", got)
	}
}

func TestARegionThatIsRemovedLeavesNothingBehind(t *testing.T) {
	r := newRegions(t, "east")
	all := docs("east", `{"state":"SERVING"}`, "west", westServes)
	r.Set(all)
	before := r.tunnels["west"]
	before.inFlight.Add(3)
	if got := r.inFlight("west"); got != 3 {
		t.Errorf("the gauge of west with three requests in flight: got %v, want 3", got)
	}
	for _, left := range []map[string]string{docs("east", `{"state":"SERVING"}`), nil} {
		r.Set(left)
		if got := r.inFlight("west"); len(r.tunnels) != 0 || len(r.lists.by) != 0 || !math.IsNaN(got) {
			t.Errorf("with %v: tunnels %v, edges %v, the gauge says %v; want none, none, nothing", left, r.tunnels, r.lists.by, got)
		}
		r.Set(all)
		if now := r.tunnels["west"]; now == nil || now == before || r.inFlight("west") != 0 || len(r.lists.by[now.app]) != 1 {
			t.Errorf("put again: tunnel %p, it was %p, edges %v; want a new one to one edge, and nothing in flight", now, before, r.lists.by)
		}
	}
}

func TestARegionWhoseNameDiffersFromAnothersInCapitalsAloneIsRefused(t *testing.T) {
	r := newRegions(t, "east")
	r.Set(docs("west", westServes))
	r.Set(docs("west", westServes, "West", northServes))
	for _, g := range r.View().Regions {
		if want := "there is a region west, whose name differs in capitals alone"; g.Region == "West" && !strings.Contains(g.Refused, want) || g.Region == "west" && g.Refused != "" {
			t.Errorf("%s: refused for %q; want West alone to be, for %q", g.Region, g.Refused, want)
		}
	}
	if _, err := r.Check("WEST", RegionChange{}); err == nil || !strings.Contains(err.Error(), "there is a region west") {
		t.Errorf("a check of WEST beside west: got %v, want it refused", err)
	}
	r.Set(docs("West", northServes))
	if g := r.now.Load().find("West"); g == nil || len(r.lists.by[g.app]) != 1 || r.lists.by[g.app][0].Port != 2 {
		t.Errorf("West in place of west: got %+v with edges %v, want it in force with its own", g, r.lists.by)
	}
}

// TestUsersStayWhereTheyHaveGone is the assignment's promise as a property: shares that rise and fall, targets that come and
// go, and users by the thousand.
func TestUsersStayWhereTheyHaveGone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		home := rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "home")
		name := rapid.StringMatching(`.{0,20}`).Draw(t, "user")
		u := user{name: name}
		if name == "" {
			u.addr = [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address"))
		}
		a, b := rapid.Uint64Range(0, buckets).Draw(t, "share"), rapid.Uint64Range(0, buckets).Draw(t, "other share")
		if a > b {
			a, b = b, a
		}
		if u.moved(home, a) && !u.moved(home, b) {
			t.Fatalf("%q of %s has moved at %d, and not at %d", name, home, a, b)
		}
		if u.moved(home, 0) || !u.moved(home, buckets) {
			t.Fatalf("%q of %s: moved at none %v, at all %v; want false, true", name, home, u.moved(home, 0), u.moved(home, buckets))
		}
		var to []target
		for i, w := range rapid.SliceOfN(rapid.IntRange(1, 100), 1, 6).Draw(t, "weights") {
			to = append(to, target{name: fmt.Sprint("r", i), weight: w})
		}
		best := u.pick(home, to, 0)
		if best < 0 || best != u.pick(home, to, 0) {
			t.Fatalf("%q goes to %d and then to %d; want one target, always the same", name, best, u.pick(home, to, 0))
		}
		for i := range to {
			if i != best && u.pick(home, to, 1<<i) != best {
				t.Fatalf("%q goes to %d, and to %d once %d is away", name, best, u.pick(home, to, 1<<i), i)
			}
		}
		if next := u.pick(home, to, 1<<best); next == best || next < 0 && len(to) > 1 {
			t.Fatalf("%q goes to %d though that is away", name, next)
		}
	})
}

func TestSharesAreAsWeightsSay(t *testing.T) {
	to := []target{{name: "west", weight: 60}, {name: "north", weight: 30}, {name: "south", weight: 10}}
	const users = 20_000
	moved, got := 0, make([]int, len(to))
	for i := range users {
		u := user{name: fmt.Sprint("user-", i)}
		if u.moved("east", buckets/4) {
			moved++
		}
		got[u.pick("east", to, 0)]++
	}
	near := func(what string, n int, p float64) {
		if d := float64(n)/users - p; math.Abs(d) > 5*math.Sqrt(p*(1-p)/users) { // five standard deviations
			t.Errorf("%s: got %d of %d users, want %.0f %%", what, n, users, 100*p)
		}
	}
	near("moved at a quarter", moved, 0.25)
	for i := range to {
		near(to[i].name, got[i], float64(to[i].weight)/100)
	}
}

// TestNobodyIsSentOnTwice looks at all that properties can say in two regions: a request that was sent from one to the other
// stays there.
func TestNobodyIsSentOnTwice(t *testing.T) {
	states := []string{`{"state":"SERVING","edges":["http://127.0.0.1:1"]}`, `{"state":"EVACUATED","to":{"OTHER":100},"edges":["http://127.0.0.1:1"]}`,
		`{"state":"SERVING","weight":50,"rampSeconds":0,"to":{"OTHER":100},"edges":["http://127.0.0.1:1"]}`, `{"state":"EVACUATED","to":{"OTHER":100},"strict":true}`}
	for _, east := range states {
		for _, west := range states {
			all := docs("east", strings.ReplaceAll(east, "OTHER", "west"), "west", strings.ReplaceAll(west, "OTHER", "east"))
			from, to := newRegions(t, "east", "edge.regions.home", "header:X-Home"), newRegions(t, "west", "edge.regions.home", "header:X-Home")
			from.Set(all)
			to.Set(all)
			for i := range 50 {
				for _, home := range []string{"", "east", "west", "nowhere"} {
					x := asked(fmt.Sprint("u", i))
					x.Request.Header.Add("X-Home", home)
					if from.goes(x) != "west" {
						continue
					}
					x.Request.Header.Add(HopHeader, sign(testKey, "east", "west", time.Now()))
					x.Away = ""
					to.arrived(x)
					if got := to.goes(x); x.Hop != "east" || got != "west" {
						t.Errorf("east %s, west %s, home %q: a request of east came to west as of %q and is served in %s; want west", east, west, home, x.Hop, got)
					}
				}
			}
		}
	}
}

func TestUsersWithAHomeAreServedThere(t *testing.T) {
	r := newRegions(t, "west", "edge.regions.home", "cookie:home")
	r.Set(docs("east", `{"state":"SERVING","edges":["http://127.0.0.1:1"]}`, "west", westServes, "north", northServes, "south", `{"state":"EVACUATED","to":{"west":100}}`))
	for cookie, want := range map[string]string{"": "west", "home=west": "west", "home=east": "east", "home=north": "north", "home=south": "west", "home=atlantis": "west"} {
		x := asked("u1")
		if cookie != "" {
			x.Request.Header.Add("Cookie", "a=b; "+cookie)
		}
		if got := r.goes(x); got != want {
			t.Errorf("cookie %q: served in %s, want %s", cookie, got, want)
		}
	}
}

func TestWhoCannotBeSpokenForStays(t *testing.T) {
	r := newRegions(t, "east")
	r.Set(docs("east", `{"state":"EVACUATED","to":{"west":100}}`, "west", westServes))
	x := asked("u1")
	x.Client.Identity = "spiffe://example.com/tv"
	if got := r.goes(x); got != "east" {
		t.Errorf("with a client certificate: served in %s, want east", got)
	}
	x = asked("u1")
	x.Hop = "north"
	if got := r.goes(x); got != "east" {
		t.Errorf("a visitor: served in %s, want east", got)
	}
}

func TestTargetsThatCannotBeAskedAreLeftOut(t *testing.T) {
	r := newRegions(t, "east")
	for west, want := range map[string]string{
		westServes:            "west",
		`{"state":"SERVING"}`: "north", // no edges
		`{"state":"SERVING","weight":0,"rampSeconds":0,"to":{"north":100},"edges":["http://127.0.0.1:1"]}`: "north",
		`{"state":"EVACUATED","to":{"north":100},"edges":["http://127.0.0.1:1"]}`:                          "north",
		`{"state":"DRAINING","to":{"north":100},"rampSeconds":0,"edges":["http://127.0.0.1:1"]}`:           "north",
	} {
		r.Set(docs("east", `{"state":"EVACUATED","to":{"west":99,"north":1}}`, "west", west, "north", northServes))
		x := asked("u1")
		if got := r.goes(x); got != want {
			t.Errorf("west %s: u1 is served in %s, want %s", west, got, want)
		}
	}
	r.Set(docs("east", `{"state":"EVACUATED","to":{"west":100}}`))
	if got := r.goes(asked("u1")); got != "east" {
		t.Errorf("nobody to go to: served in %s, want east", got)
	}
}

func TestWhyAHopOfARegionIsNotBelievedIsToldForAMinute(t *testing.T) {
	now := time.Now()
	for hop, want := range map[string]string{
		sign("another key of the same length..", "east", "west", now): "who says to be east is not believed: another key; give all regions the same edge.regions.key",
		sign(testKey, "east", "west", now.Add(-2*hopLife)):            "its clock is more than a minute off; set both clocks",
		sign(testKey, "east", "north", now):                           "it asks for another region; its edges are not these",
		sign("another key of the same length..", "mars", "west", now): "",
		"east":                             "",
		sign(testKey, "east", "west", now): "",
	} {
		r := newRegions(t, "west")
		r.Set(docs("west", westServes, "east", `{"state":"SERVING","edges":["http://127.0.0.1:1"]}`))
		x := asked("u1")
		x.Request.Header.Add(HopHeader, hop)
		r.arrived(x)
		if got := r.View().Problem; want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("hop %q: the problem is %q, want %q", hop, got, want)
		}
		if got := r.mistrusted.Load().problem(time.Now().Add(mistrustFor + time.Second)); got != "" {
			t.Errorf("hop %q, a minute later: the problem is %q still", hop, got)
		}
	}
	r := newRegions(t, "west")
	r.Set(docs("west", westServes, "east", `{"state":"SERVING","edges":["https://127.0.0.1:1"],"identity":"east"}`))
	x := asked("u1")
	x.Request.Header.Add(HopHeader, sign(testKey, "east", "west", now))
	if r.arrived(x); !strings.Contains(r.View().Problem, "no certificate for its identity; see edge.regions.tls.certs there") {
		t.Errorf("no certificate: the problem is %q, want so", r.View().Problem)
	}
}

func TestHopsAreBelievedOnlyIfSignedAndInTime(t *testing.T) {
	now := time.Now()
	good := sign(testKey, "east", "west", now)
	for what, hop := range map[string]string{
		"":                  good,
		"forged":            sign("another key of the same length..", "east", "west", now),
		"no key":            sign("", "east", "west", now),
		"altered":           strings.Replace(good, "east", "eest", 1),
		"stale":             sign(testKey, "east", "west", now.Add(-2*hopLife)),
		"of tomorrow":       sign(testKey, "east", "west", now.Add(2*hopLife)),
		"for somebody else": sign(testKey, "east", "north", now),
		"a name":            "east",
		"empty":             "",
		"long":              good + strings.Repeat(" ", maxHop),
	} {
		r := newRegions(t, "west")
		r.Set(docs("west", westServes))
		x := asked("u1")
		x.Request.Header.Add(HopHeader, hop)
		r.arrived(x)
		want := ""
		if what == "" {
			want = "east"
		}
		if x.Hop != want || x.Request.Header.Has(HopHeader) {
			t.Errorf("%s hop %q: got from %q, and the field %v; want %q and no field", what, hop, x.Hop, x.Request.Header.Has(HopHeader), want)
		}
	}
	r := newRegions(t, "west")
	r.Set(docs("west", westServes))
	x := asked("u1")
	x.Request.Header.Add(HopHeader, good)
	x.Request.Header.Add(HopHeader, good)
	if r.arrived(x); x.Hop != "" || x.Request.Header.Has(HopHeader) {
		t.Errorf("two hops: got from %q, want none", x.Hop)
	}
}

func TestASeenHopIsOverInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegions(t, "west")
		r.Set(docs("west", westServes))
		defer r.Close()
		hop := sign(testKey, "east", "west", time.Now())
		from := func() string {
			x := asked("u1")
			x.Request.Header.Add(HopHeader, hop)
			r.arrived(x)
			return x.Hop
		}
		if a, b := from(), from(); a != "east" || b != "east" {
			t.Errorf("at once: got %q and %q, want east twice", a, b)
		}
		time.Sleep(hopLife + 2*time.Second)
		if got := from(); got != "" {
			t.Errorf("after its time: got %q, want none", got)
		}
	})
}

// draining is a document of east that began at a time.
func draining(since time.Time, seconds int) string {
	return fmt.Sprintf(`{"state":"DRAINING","to":{"west":100},"rampSeconds":%d,"since":%q}`, seconds, since.Format(time.RFC3339Nano))
}

func (r *Regions) percent() float64 { return 100 * float64(r.now.Load().own.share.Load()) / buckets }

func TestUsersMoveAtAnEvenPaceAndBackTheSameWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegions(t, "east")
		go r.Run(t.Context()) //nolint:errcheck // it ends with the test
		began := time.Now()
		r.Set(docs("east", draining(began, 60), "west", westServes))
		at := func(when time.Duration, want float64) {
			t.Helper()
			time.Sleep(time.Until(began.Add(when)))
			synctest.Wait()
			if got := r.percent(); math.Abs(got-want) > 0.3 {
				t.Errorf("after %v: %.1f %% are elsewhere, want %.1f", when, got, want)
			}
		}
		at(0, 0)
		at(15*time.Second, 25)
		at(30*time.Second, 50)
		r.Close() // an edge that is started now
		r = newRegions(t, "east")
		go r.Run(t.Context()) //nolint:errcheck // as above
		r.Set(docs("east", draining(began, 60), "west", westServes))
		at(30*time.Second+time.Millisecond, 50)
		at(45*time.Second, 75)
		began = time.Now()
		r.Set(docs("east", fmt.Sprintf(`{"state":"SERVING","to":{"west":100},"from":75,"rampSeconds":60,"since":%q}`, began.Format(time.RFC3339Nano)), "west", westServes))
		at(0, 75)
		at(20*time.Second, 50)
		at(time.Minute, 0)
		r.Close()
	})
}

func TestARampStandsStillWhileItsTargetFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegions(t, "east")
		go r.Run(t.Context()) //nolint:errcheck // it ends with the test
		r.Set(docs("east", draining(time.Now(), 60), "west", westServes))
		defer r.Close()
		answers := func(seconds int, bad bool) {
			for range seconds {
				for range 10 {
					r.tunnels["west"].answers(bad)
					r.here.add(false)
				}
				time.Sleep(time.Second)
				synctest.Wait()
			}
		}
		answers(20, false)
		if got := r.percent(); math.Abs(got-100.0/3) > 0.5 {
			t.Fatalf("while all is well: %.1f %% after 20 s, want a third", got)
		}
		answers(5, true)
		stood := r.percent()
		if why := r.View().Regions[0].Paused; !strings.Contains(why, "west fails") || stood > 38 {
			t.Fatalf("while west fails: %.1f %%, why %q; want about as many as before, and a reason", stood, why)
		}
		answers(30, true)
		if got := r.percent(); got != stood {
			t.Errorf("after 30 s more of it: %.1f %%, want %.1f as before", got, stood)
		}
		answers(15, false)
		if got := r.percent(); got != stood {
			t.Errorf("15 s after the last failure, 5 of which count as failing: %.1f %%, want %.1f still", got, stood)
		}
		answers(10, false)
		if got, why := r.percent(), r.View().Regions[0].Paused; got <= stood || why != "" {
			t.Errorf("25 s after the last failure: %.1f %%, why %q; want more than %.1f, and no reason", got, why, stood)
		}
		before := r.percent()
		answers(6, false)
		if got := r.percent() - before; math.Abs(got-10) > 0.5 {
			t.Errorf("6 s of a ramp of 60: %.1f points, want 10: it goes on at its pace", got)
		}
		r.Set(docs("east", `{"state":"EVACUATED","to":{"west":100}}`, "west", westServes))
		answers(1, true)
		if got := r.percent(); got != 100 {
			t.Errorf("evacuated while west fails: %.1f %%, want all", got)
		}
	})
}

func TestFailuresThatAreAsFrequentHereHoldNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegions(t, "east")
		go r.Run(t.Context()) //nolint:errcheck // it ends with the test
		r.Set(docs("east", draining(time.Now(), 60), "west", westServes))
		defer r.Close()
		for range 30 {
			for i := range 10 {
				r.tunnels["west"].answers(i < 5)
				r.here.add(i < 5)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if got := r.percent(); math.Abs(got-50) > 0.5 {
			t.Errorf("half of the requests fail there and here: %.1f %% after 30 s of 60, want half", got)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("east", `{"state":"SERVING"}`)
	f.Add("east", `{"region":"east","state":"DRAINING","to":{"west":60,"north":40},"rampSeconds":60,"since":"2026-01-31T10:00:00Z","from":12.5,"edges":["http://10.1.0.7:7000","https://[::1]"],"headroom":100,"strict":true,"reason":"r"}`)
	f.Add("east", `{"state":"SERVING","weight":0,"to":{"west":100},"rampSeconds":0}`)
	f.Add("a b", `{"state":1}`)
	f.Fuzz(func(t *testing.T, name, text string) {
		d, err := Parse(name, text)
		if err != nil {
			return
		}
		again, err := Parse(name, d.Text())
		if err != nil || !again.same(d) || again.Text() != d.Text() {
			t.Fatalf("%q was taken, and written as %q is not the same: %v", text, d.Text(), err)
		}
		for _, at := range []time.Duration{-time.Hour, 0, time.Second, time.Hour, 1000 * time.Hour} {
			if s := d.share(d.Since.Add(at), 0); !(s >= 0 && s <= 100) {
				t.Fatalf("%q: %v of users after %v", text, s, at)
			}
		}
	})
}

func FuzzParseProposal(f *testing.F) {
	f.Add(`{"state":"OPEN","at":"2026-01-31T10:00:00Z","good":3.25,"expected":40,"sigma":2,"baseline":"the last hour","to":{"west":100}}`)
	f.Add(`{"state":"REFUSED","at":"2026-01-31T10:00:00+23:59"}`)
	f.Add(`{"state":"","good":1}`)
	f.Add(`{"state":"OPEN","good":1e999}`)
	f.Add(`{"state":"OPEN"} {}`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, text string) {
		p := ParseProposal(text)
		if p == nil {
			return
		}
		again := ParseProposal(p.Text())
		if again == nil || again.Text() != p.Text() || again.Why() != p.Why() || p.State == "" || !again.At.Equal(p.At) {
			t.Fatalf("%q was taken, and written as %q is not the same: %+v", text, p.Text(), again)
		}
	})
}

func FuzzHop(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	f.Add(sign(testKey, "east", "west", now))
	f.Add("east; to=west; at=1800000000; sig=")
	f.Add("; to=; at=; sig=")
	f.Fuzz(func(t *testing.T, hop string) {
		from, until, err := verify(testKey, "west", hop, now)
		if err == nil && (sign(testKey, from, "west", until.Add(-hopLife)) != hop || until.Before(now)) {
			t.Fatalf("%q was taken as of %q until %v", hop, from, until)
		}
		var s seen
		if got, err2 := s.from(testKey, "west", hop, now.Unix()); got != from || (err == nil) != (err2 == nil) {
			t.Fatalf("%q: got %q %v, and %q %v when looked at alone", hop, got, err2, from, err)
		}
	})
}

func BenchmarkStays(b *testing.B) {
	for name, all := range map[string]map[string]string{
		"serving":   docs("east", `{"state":"SERVING"}`, "west", westServes),
		"half away": docs("east", `{"state":"SERVING","weight":50,"rampSeconds":0,"to":{"west":60,"north":40}}`, "west", westServes, "north", northServes),
	} {
		b.Run(name, func(b *testing.B) {
			r := newRegions(b, "east")
			r.Set(all)
			fs := r.Filters()
			x := asked("user-17")
			b.ReportAllocs()
			for b.Loop() {
				x.Away = ""
				for _, f := range fs {
					if f.Name != "Tunnel" && f.If(x) {
						f.Apply(x) //nolint:errcheck // it does not fail
					}
				}
			}
		})
	}
}

func BenchmarkArrived(b *testing.B) {
	r := newRegions(b, "west")
	r.Set(docs("west", westServes))
	hop := sign(testKey, "east", "west", time.Now().Add(hopLife-time.Second))
	x := asked("user-17")
	b.ReportAllocs()
	for b.Loop() {
		x.Request.Header.Add(HopHeader, hop)
		r.arrived(x)
	}
}

func TestRequestsThatStayAndThatArriveTakeNoMemory(t *testing.T) {
	if raceEnabled {
		t.Log("under the race detector memory is taken that is not otherwise")
		return
	}
	for name, all := range map[string]map[string]string{
		"serving": docs("east", `{"state":"SERVING"}`), "half away": docs("east", `{"state":"SERVING","weight":50,"rampSeconds":0,"to":{"west":100}}`, "west", westServes),
	} {
		r := newRegions(t, "east")
		r.Set(all)
		fs := r.Filters()
		x := asked("")
		if n := testing.AllocsPerRun(100, func() {
			x.Away = ""
			for _, f := range fs {
				if f.Name != "Tunnel" && f.If(x) {
					f.Apply(x) //nolint:errcheck // it does not fail
				}
			}
		}); n != 0 {
			t.Errorf("%s: got %v allocations for a request, want 0", name, n)
		}
	}
	r := newRegions(t, "west")
	r.Set(docs("west", westServes))
	hop := sign(testKey, "east", "west", time.Now())
	x := asked("u")
	if n := testing.AllocsPerRun(100, func() {
		x.Request.Header.Add(HopHeader, hop)
		r.arrived(x)
	}); n != 0 || x.Hop != "east" {
		t.Errorf("a visitor: got %v allocations, from %q; want 0, from east", n, x.Hop)
	}
}

func TestWhoHoldsConnectionsIsToldWhoHasMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegions(t, "east")
		var mu sync.Mutex // guards asked
		asked := map[string]time.Duration{}
		many := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(asked)
		}
		began := time.Now()
		last := -time.Second
		r.moves = func(elsewhere func(string) bool, within time.Duration) {
			now := time.Since(began)
			if now-last < time.Second || within != spread {
				t.Errorf("told after %v and %v, to go within %v; want a second between at least, and %v", last, now, within, spread)
			}
			last = now
			mu.Lock()
			defer mu.Unlock()
			for i := range 100 {
				if name := fmt.Sprint("user-", i); elsewhere(name) && asked[name] == 0 {
					asked[name] = now
				}
			}
		}
		go r.Run(t.Context()) //nolint:errcheck // it ends with the test
		defer r.Close()
		r.Set(docs("east", draining(began, 20), "west", westServes))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := many(); n < 30 || n > 65 {
			t.Errorf("%d of 100 were asked by half of the ramp, want about half", n)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if n := many(); n != 100 {
			t.Errorf("%d of 100 were asked in the end, want all", n)
		}
		for i := range 100 {
			name := fmt.Sprint("user-", i)
			if got := r.goes(&filter.Exchange{User: name}); got != "west" {
				t.Errorf("%s was asked to go, and is served in %s", name, got)
			}
		}
	})
}

func TestARegionThatDoesNotAnswerIsTriedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegions(t, "east")
		defer r.Close()
		r.Set(docs("east", `{"state":"EVACUATED","to":{"west":100}}`, "west", westServes))
		w := r.tunnels["west"]
		is := func(when string, safe, may, trial bool) {
			t.Helper()
			if gotMay, gotTrial := w.open(safe); gotMay != may || gotTrial != trial {
				t.Errorf("%s, safe %v: may be sent %v, as a trial %v; want %v, %v", when, safe, gotMay, gotTrial, may, trial)
			}
		}
		for range missesAllowed - 1 {
			w.missed(nil)
		}
		is("after four without an answer", false, true, false)
		w.answers(false)
		for range missesAllowed - 1 {
			w.missed(nil)
		}
		is("after four more, with one between", false, true, false)
		w.missed(nil)
		is("after five in a row", true, false, false)
		time.Sleep(2 * time.Second)
		is("two seconds later", false, false, false)
		is("two seconds later", true, true, true)
		is("and once more", true, false, false)
		time.Sleep(9 * time.Second)
		is("if nobody has tried for long", false, false, false)
		time.Sleep(time.Second)
		is("if nobody has tried for long", false, true, true)
		w.answers(true)
		is("once it has answered, be it with an error", true, true, false)
	})
}
