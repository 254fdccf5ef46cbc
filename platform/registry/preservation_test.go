package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// populate registers n instances in apps applications and has those renew every 30 s, at times spread over it, that
// alive says are. It ends with the test.
func populate(t *testing.T, r *Registry, n, apps int, alive func(i int) bool) {
	ids := make([]key, n)
	for i := range n {
		ids[i] = key{fmt.Sprintf("APP%d", i%apps), fmt.Sprint(i)}
		r.s.register(reg(ids[i].app, ids[i].id, up, 0), origin{})
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for at := 0; ctx.Err() == nil; at++ {
			for i, k := range ids {
				if i%30 == at%30 && alive(i) {
					if res, _ := r.s.renew(k, origin{}, 0, unknown); res == notFound {
						r.s.register(reg(k.app, k.id, up, 0), origin{})
					}
				}
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}()
}

// switchable is a condition that a test turns.
type switchable struct {
	mu sync.Mutex
	on bool
}

func (s *switchable) set(on bool) { s.mu.Lock(); defer s.mu.Unlock(); s.on = on }
func (s *switchable) get() bool   { s.mu.Lock(); defer s.mu.Unlock(); return s.on }

// modes gathers the lasting modes that a registry takes.
type modes struct {
	mu   sync.Mutex
	list []string
}

func (m *modes) add(_, is Silence) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, string(is.Mode))
}

func (m *modes) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.list, " ")
}

func TestScaleDownBy40PercentIsGoneWithinAMinuteOfItsLeases(t *testing.T) {
	for _, peers := range []int{0, 2} {
		synctest.Test(t, func(t *testing.T) {
			var seen modes
			r := runningWith(t, Config{}, func(r *Registry) {
				r.keep.told = seen.add
				if peers > 0 {
					r.keep.ask = func(context.Context, []key) []testimony {
						return []testimony{{peer: "b", reachable: true}, {peer: "c", reachable: true}}
					}
				}
			})
			var shrunk switchable
			populate(t, r, 100, 5, func(i int) bool { return !shrunk.get() || i >= 40 })
			time.Sleep(10 * time.Minute)
			shrunk.set(true)
			time.Sleep(90*time.Second + 60*time.Second)
			synctest.Wait()
			if got := r.count(); got != 60 {
				t.Errorf("%d peers: a lease and 60 s after 40 of 100 were terminated: got %d instances, want 60", peers, got)
			}
			time.Sleep(time.Minute)
			if got, want := seen.String(), "thinning normal"; got != want {
				t.Errorf("%d peers: modes taken: got %q, want %q", peers, got, want)
			}
			if p := r.Silence(); p.Mode != Normal || p.Expected != 120 || p.Observed < 110 || p.Observed > 125 || p.Late != 0 || p.Registered != 60 {
				t.Errorf("%d peers: afterwards: got %+v, want it normal, with 60 instances and 120 renewals a minute", peers, p)
			}
		})
	}
}

func TestInstancesThatAPeerHearsArePreserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cut switchable
		asked := 0
		r := runningWith(t, Config{}, func(r *Registry) {
			r.keep.ask = func(_ context.Context, ks []key) []testimony {
				asked++
				heard := testimony{peer: "http://b/", reachable: true, ages: map[key]time.Duration{}}
				for _, k := range ks[:len(ks)/10] {
					heard.ages[k] = 20 * time.Second
				}
				return []testimony{{peer: "http://a/"}, heard}
			}
		})
		populate(t, r, 100, 5, func(i int) bool { return !cut.get() })
		time.Sleep(time.Minute)
		cut.set(true)
		time.Sleep(time.Hour)
		if got := r.count(); got != 100 {
			t.Errorf("an hour after nobody reaches this registry, while a peer hears them: got %d instances, want 100", got)
		}
		if p := r.Silence(); p.Mode != Preserving || !p.Degraded || !strings.Contains(p.Reason, "http://b/ hears 10 of 100") {
			t.Errorf("meanwhile: got %+v, want it preserving, degraded, for http://b/ hears them", p)
		}
		if asked < 100 || asked > 125 {
			t.Errorf("peers were asked %d times in an hour, want it every 30 s", asked)
		}
		cut.set(false)
		time.Sleep(40 * time.Second)
		if p := r.Silence(); p.Mode != Normal || p.Degraded || r.count() != 100 {
			t.Errorf("when they reach it again: got %+v, want it normal with 100", p)
		}
	})
}

func TestInstancesArePreservedFor15MinutesWhenPeersCannotBeAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen modes
		r := runningWith(t, Config{}, func(r *Registry) {
			r.keep.told = seen.add
			r.keep.ask = func(ctx context.Context, _ []key) []testimony {
				<-ctx.Done() // one answers, the other two take longer than they may
				return []testimony{{peer: "b", reachable: true}, {peer: "c"}, {peer: "d"}}
			}
		})
		populate(t, r, 100, 5, func(i int) bool { return i < 30 })
		time.Sleep(15*time.Minute + time.Minute)
		if got, p := r.count(), r.Silence(); got != 100 || p.Mode != Preserving || p.Degraded || p.Silent != 70 {
			t.Errorf("15 minutes after 70 fell silent: got %d instances, %+v; want 100, preserving", got, p)
		}
		time.Sleep(4 * time.Minute)
		if got, want := seen.String(), "preserving thinning normal"; got != want || r.count() != 30 {
			t.Errorf("after more than 15 minutes: got modes %q and %d instances, want %q and 30", got, r.count(), want)
		}
	})
}

func TestInstancesArePreservedForEverWhereConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runningWith(t, Config{Settings: Settings{PreservationHold: -1}}, func(r *Registry) {
			r.keep.ask = func(context.Context, []key) []testimony { return []testimony{{peer: "b"}} }
		})
		populate(t, r, 10, 2, func(i int) bool { return false })
		time.Sleep(24 * time.Hour)
		if got := r.count(); got != 10 {
			t.Errorf("a day after all fell silent: got %d instances, want 10", got)
		}
	})
}

func TestEverySilentInstanceGoesAtOnceWherePreservationIsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runningWith(t, Config{Settings: Settings{Preservation: NoPreservation}}, nil)
		populate(t, r, 100, 2, func(i int) bool { return false })
		time.Sleep(92 * time.Second)
		if got, p := r.count(), r.Silence(); got != 0 || p.Mode != Off {
			t.Errorf("92 s after 100 registered for 90 s: got %d instances in mode %s, want none, off", got, p.Mode)
		}
	})
}

func TestSlicesLeaveEveryApplicationOneInstanceForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runningWith(t, Config{Settings: Settings{NoProbe: true, RenewalShare: 0.01}}, nil) // a slice may hold nearly all
		for i := range 30 {
			r.s.register(reg(fmt.Sprintf("APP%d", i%10), fmt.Sprint(i), up, 0), origin{})
		}
		apps := func() int { return len(r.s.current("").views) }
		time.Sleep(92 * time.Second)
		if got := apps(); got != 10 || r.count() != 10 {
			t.Errorf("in the first slice: got %d applications with %d instances, want 10 with one each", got, r.count())
		}
		time.Sleep(32 * time.Second)
		if got := apps(); got != 0 {
			t.Errorf("in the next: got %d applications, want none", got)
		}
	})
}

// doors is a network in which each address refuses, accepts or does not answer.
type doors struct {
	mu      sync.Mutex
	open    map[string]bool // accepts, else refuses; one that is not in it does not answer
	knocked []string
	at      []time.Time
}

func (d *doors) dial(ctx context.Context, _, address string) (net.Conn, error) {
	d.mu.Lock()
	d.knocked, d.at = append(d.knocked, address), append(d.at, time.Now())
	open, known := d.open[address]
	d.mu.Unlock()
	switch {
	case open:
		a, b := net.Pipe()
		b.Close()
		return a, nil
	case known:
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func at1(id, ip string, port int32) *record {
	r := reg("WEB", id, up, 1)
	r.ip, r.port.number = ip, port
	return r
}

func TestSilentInstancesAreProbedBeforeTheyAreEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := &doors{open: map[string]bool{"10.0.0.1:80": false, "127.0.0.1:443": true, "[fd00::1]:80": true}}
		r := runningWith(t, Config{}, func(r *Registry) { r.keep.dial = net.dial })
		for i := range 40 { // so that four are few
			long := at1(fmt.Sprint("x", i), "h", 80)
			long.duration = 1 << 20
			r.s.register(long, origin{})
		}
		r.s.register(at1("refuses", "10.0.0.1", 80), origin{})
		secure := at1("accepts", "127.0.0.1", 7001)
		secure.port.on, secure.secure = false, port{443, true}
		r.s.register(secure, origin{})
		r.s.register(at1("returns", "fd00::1", 80), origin{})
		r.s.register(at1("silent", "192.168.0.9", 80), origin{})
		r.s.register(at1("public", "8.8.8.8", 80), origin{})
		has := func() (s string) {
			synctest.Wait()
			for _, id := range []string{"refuses", "accepts", "returns", "silent", "public"} {
				if rec := r.s.overriding(key{"WEB", id}); rec != nil {
					s += id + " " + rec.status.String() + " "
				}
			}
			return strings.TrimSpace(s)
		}
		steps := []struct {
			after time.Duration
			do    func()
			want  string
		}{
			{90 * time.Second, nil, "refuses UP accepts UP returns UP silent UP public UP"},
			{time.Second, nil, "accepts DOWN returns DOWN silent UP"},
			{time.Second, nil, "accepts DOWN returns DOWN"},
			{30 * time.Second, func() { r.s.renew(key{"WEB", "returns"}, origin{}, 0, unknown) }, "accepts DOWN returns UP"},
			{56 * time.Second, nil, "accepts DOWN returns UP"},
			{3 * time.Second, nil, "returns UP"},
		}
		for i, st := range steps {
			time.Sleep(st.after)
			if st.do != nil {
				st.do()
			}
			if got := has(); got != st.want {
				t.Errorf("step %d: got %s, want %s", i, got, st.want)
			}
		}
		checkState(t, r.s)
		if got := strings.Join(net.knocked, " "); len(net.knocked) != 4 || strings.Contains(got, "8.8.8.8") {
			t.Errorf("probed: got %s, want the four private addresses once each", got)
		}
	})
}

func TestSuspicionEndsWhenTheInstanceIsHeardInAnyWay(t *testing.T) {
	k := key{"A", "i"}
	hear := map[string]struct {
		do   func(*state)
		want string
	}{
		"renewal":                  {func(s *state) { s.renew(k, origin{}, 0, unknown) }, "UP/-"},
		"renewal told by a peer":   {func(s *state) { s.renew(k, origin{replicated: true}, 10, unknown) }, "UP/-"},
		"registration":             {func(s *state) { s.register(reg("A", "i", up, 20), origin{}) }, "UP/-"},
		"registration, older":      {func(s *state) { s.register(reg("A", "i", up, 5), origin{}) }, "UP/-"},
		"registration, DOWN":       {func(s *state) { s.register(reg("A", "i", down, 20), origin{}) }, "DOWN/-"},
		"override OUT":             {func(s *state) { s.setOverride(k, outOfService, 0, origin{}) }, "OUT_OF_SERVICE/OUT_OF_SERVICE"},
		"override DOWN, renewal":   {func(s *state) { s.setOverride(k, down, 0, origin{}); s.renew(k, origin{}, 0, unknown) }, "DOWN/DOWN"},
		"metadata alone":           {func(s *state) { s.setMeta(k, []pair{{"a", "b"}}, origin{}) }, "DOWN/-"},
		"metadata, then a renewal": {func(s *state) { s.setMeta(k, []pair{{"a", "b"}}, origin{}); s.renew(k, origin{}, 0, unknown) }, "UP/-"},
	}
	for name, h := range hear {
		s := at(t, "up")
		s.suspect(s.find(k))
		if got := s.find(k).rec.status; got != down {
			t.Fatalf("suspected: got %v, want DOWN", got)
		}
		h.do(s)
		got := s.find(k).rec.status.String() + "/-"
		if ov, ok := s.overrides[k]; ok {
			got = s.find(k).rec.status.String() + "/" + ov.status.String()
		}
		if got != h.want {
			t.Errorf("suspected, then %s: got %s, want %s", name, got, h.want)
		}
		checkState(t, s)
	}
	s := at(t, "down")
	s.suspect(s.find(k))
	if s.find(k).rec.suspected {
		t.Error("an instance that says DOWN itself is suspected, want it left alone")
	}
}

func TestBrokenConnectionOfADeadInstanceTakesItOutOfTrafficWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := &doors{open: map[string]bool{"10.0.0.1:80": false, "10.0.0.2:80": true}}
		r := runningWith(t, Config{}, func(r *Registry) { r.keep.dial = net.dial })
		for i, want := range []status{down, up, up} {
			ip := fmt.Sprintf("10.0.0.%d", i+1)
			r.s.register(at1(ip, ip, 80), origin{})
			r.s.broken <- r.s.find(key{"WEB", ip})
			time.Sleep(time.Second)
			if got := r.s.overriding(key{"WEB", ip}).status; got != want || r.count() != i+1 {
				t.Errorf("a second after the connection of %s broke: got %v and %d instances, want %v and all", ip, got, r.count(), want)
			}
		}
		r.s.renew(key{"WEB", "10.0.0.1"}, origin{}, 0, unknown)
		if got := r.s.overriding(key{"WEB", "10.0.0.1"}).status; got != up {
			t.Errorf("when it renews: got %v, want UP", got)
		}
	})
}

func TestInstanceThatIsHeardAfterItsConnectionBrokeIsNotSuspected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runningWith(t, Config{}, func(r *Registry) {
			r.keep.dial = func(context.Context, string, string) (net.Conn, error) {
				time.Sleep(100 * time.Millisecond)
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}
		})
		r.s.register(at1("x", "10.0.0.1", 80), origin{})
		r.s.broken <- r.s.find(key{"WEB", "x"})
		time.Sleep(50 * time.Millisecond)
		r.s.renew(key{"WEB", "x"}, origin{}, 0, unknown)
		time.Sleep(time.Second)
		if got := r.s.overriding(key{"WEB", "x"}).status; got != up {
			t.Errorf("renewed before the refusal was known: got %v, want UP", got)
		}
	})
}

func TestProbesAreAtMost200ASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := &doors{open: map[string]bool{}}
		const n = 3000
		ip := func(i int) string { return fmt.Sprintf("10.0.%d.%d", i/250, i%250) }
		for i := range n {
			net.open[ip(i)+":80"] = false
		}
		r := runningWith(t, Config{}, func(r *Registry) { r.keep.dial = net.dial })
		for i := range n {
			r.s.register(at1(ip(i), ip(i), 80), origin{})
		}
		time.Sleep(92*time.Second + n/200*time.Second)
		synctest.Wait()
		if got := r.count(); got != 0 {
			t.Errorf("when %d probes could be refused: got %d instances, want none", n, got)
		}
		for i := range net.at {
			if j := i + 200; j < len(net.at) && net.at[j].Sub(net.at[i]) < 999*time.Millisecond {
				t.Fatalf("probe %d and the 200th after it: %v apart, want a second", i, net.at[j].Sub(net.at[i]))
			}
		}
	})
}

// TestGuardDecidesAsItsRulesSay drives a guard with numbers and answers, and a model of the rules beside it.
func TestGuardDecidesAsItsRulesSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hold := rapid.SampledFrom([]time.Duration{0, time.Minute, 15 * time.Minute}).Draw(t, "hold")
		g := guard{share: 0.15, maxHold: hold}
		g.turn(0, Normal, "new")
		var now int64
		evicted := map[int64]int{} // by second
		var preservedSince int64 = -1
		asking, registered, late, base := false, 0, 0, 0
		verdict := "none" // vouched, silent, cannot tell, or none since it became normal
		t.Repeat(map[string]func(*rapid.T){
			"pass": func(t *rapid.T) {
				now += int64(time.Second) * int64(rapid.SampledFrom([]int{1, 1, 5, 31, 301}).Draw(t, "seconds"))
				registered = rapid.SampledFrom([]int{0, 1, 3, 7, 100, 1000}).Draw(t, "registered")
				late = registered * rapid.SampledFrom([]int{0, 10, 15, 16, 60, 100}).Draw(t, "percent") / 100
				many := late > max(2, registered*15/100)
				was := g.mode
				ask := g.see(now, late, registered)
				switch {
				case !many:
					asking, verdict = false, "none"
				case was == Normal:
					base = registered
					if !ask {
						t.Fatalf("%d of %d are late for the first time: the peers are not asked", late, registered)
					}
				}
				if ask && asking {
					t.Fatal("the peers are asked again before they answered")
				}
				asking = asking || ask
			},
			"answer": func(t *rapid.T) {
				if !asking {
					t.Skip("nobody asked")
				}
				asking = false
				n := rapid.IntRange(0, 5).Draw(t, "peers")
				reachable := rapid.IntRange(0, n).Draw(t, "reachable")
				vouched := rapid.SampledFrom([]int{0, 4, 5, 100}).Draw(t, "vouched")
				said := make([]testimony, n)
				for i := range reachable {
					said[i] = testimony{peer: "p", reachable: true, ages: map[key]time.Duration{{"A", "stale"}: time.Hour}}
					for j := range vouched {
						said[i].ages[key{"A", fmt.Sprint(j)}] = time.Second
					}
				}
				g.hear(now, 100, said, func(_ key, age time.Duration) bool { return age < time.Minute })
				switch {
				case reachable > 0 && vouched >= 5:
					verdict = "vouched"
				case reachable*2 > n || n == 0:
					verdict = "silent"
				default:
					verdict = "cannot tell"
				}
			},
			"": func(t *rapid.T) {
				many := late > max(2, registered*15/100)
				if !many {
					verdict = "none"
				}
				if g.mode == Preserving && !g.degraded {
					if preservedSince < 0 {
						preservedSince = now
					}
				} else {
					preservedSince = -1
				}
				var want []Mode
				switch verdict {
				case "none":
					want = []Mode{Normal}
					if many {
						want = []Mode{Asking}
					}
				case "vouched":
					want = []Mode{Preserving}
				case "silent":
					want = []Mode{Thinning}
				case "cannot tell":
					want = []Mode{Preserving}
					if hold > 0 {
						want = append(want, Thinning)
					}
				}
				ok := false
				for _, m := range want {
					ok = ok || g.mode == m
				}
				if !ok || g.degraded != (verdict == "vouched") {
					t.Fatalf("%d of %d late, verdict %q: got mode %s, degraded %v; want one of %v", late, registered, verdict, g.mode, g.degraded, want)
				}
				if hold > 0 && preservedSince >= 0 && now-preservedSince > int64(hold)+int64(301*time.Second) {
					t.Fatalf("preserved without an answer for %v, want at most %v", time.Duration(now-preservedSince), hold)
				}
				can := g.allowed(now, registered)
				if (g.mode == Preserving || g.mode == Asking) && can != 0 {
					t.Fatalf("in mode %s %d may be evicted, want none", g.mode, can)
				}
				second := now / int64(time.Second)
				lately := 0
				for at, n := range evicted {
					if second-at < int64(sliceTime/time.Second) {
						lately += n
					}
				}
				of := registered + lately
				if g.mode == Thinning {
					of = base
				}
				if most := max(2, of*15/100); can > 0 && lately+can > most {
					t.Fatalf("%d would be evicted in a slice of %d, want at most %d", lately+can, of, most)
				}
				n := rapid.IntRange(0, can).Draw(t, "evicted")
				g.spend(now, n)
				evicted[second] += n
			},
		})
	})
}

// TestEurekasRule follows a server's life as Netflix's own does: who is expected, the threshold, and who may go.
func TestEurekasRule(t *testing.T) {
	g := eurekaGuard{share: 0.85, interval: 30 * time.Second, update: 15 * time.Minute}
	var joined, left, renewals uint64
	g.begin(0, 0, 0, 0, 0)
	now := int64(0)
	steps := []struct {
		minutes             int
		join, leave         uint64 // at the start
		renew               uint64 // in each minute
		registered          int
		expected, threshold int // at the end
		evicting            bool
		allowed             int
	}{
		{1, 0, 0, 0, 0, 1, 1, false, 0},            // Spring counts on one client before the first
		{1, 10, 0, 22, 10, 11, 18, true, 2},        // 10 - int(8.5)
		{1, 0, 0, 18, 10, 11, 18, false, 0},        // not more than the threshold
		{1, 0, 4, 19, 6, 7, 11, true, 1},           // cancelled and evicted alike are no longer expected
		{1, 0, 0, 0, 6, 7, 11, false, 0},           // all silent: preserved
		{9, 0, 0, 0, 6, 7, 11, false, 0},           // and for as long as the count is taken into account no sooner
		{1, 0, 0, 0, 6, 6, 10, false, 0},           // 15 min: 6 > 0.85 * 7
		{15, 0, 0, 12, 5, 5, 8, true, 1},           // 5 > 0.85 * 6 is not, but 12 > 8: see the next line
		{15, 100, 0, 210, 105, 105, 178, true, 16}, // 105 - int(89.25)
	}
	for i, st := range steps {
		if i == 7 {
			st.expected, st.threshold = 6, 10 // 5 instances are not more than 0.85 * 6, so 6 stay expected
		}
		joined, left = joined+st.join, left+st.leave
		for range st.minutes {
			for s := range 60 {
				now += int64(time.Second)
				if s == 30 {
					renewals += st.renew
				}
				g.see(now, joined, left, renewals, st.registered)
			}
		}
		if g.expected != st.expected || g.threshold != st.threshold || g.evicting != st.evicting || g.allowed(st.registered) != st.allowed {
			t.Errorf("step %d: got %d expected, threshold %d, evicting %v, %d of %d may go; want %d, %d, %v, %d",
				i, g.expected, g.threshold, g.evicting, g.allowed(st.registered), st.registered, st.expected, st.threshold, st.evicting, st.allowed)
		}
	}
}

func TestEurekasRuleKeepsEverybodyWhileTooFewRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runningWith(t, Config{Settings: Settings{Preservation: ComparedPreservation}}, nil)
		var n switchable
		populate(t, r, 20, 2, func(i int) bool { return i < 16 || i < 19 && n.get() }) // 32 renewals a minute of 42 expected
		time.Sleep(30 * time.Minute)
		if got, p := r.count(), r.Silence(); got != 20 || p.Mode != Preserving || p.Threshold != 34 || p.Observed < 30 || p.Observed > 34 {
			t.Errorf("with 4 of 20 silent: got %d instances, %+v; want all preserved under the threshold of 34", got, p)
		}
		n.set(true) // 38 renewals: one may go
		time.Sleep(3 * time.Minute)
		if got, p := r.count(), r.Silence(); got != 19 || p.Mode != Normal {
			t.Errorf("with 1 of 20 silent: got %d instances, %+v; want it evicted", got, p)
		}
	})
}

func TestPeersThatFailToAnswerAreToldFromThoseThatKnowNothing(t *testing.T) {
	g := guard{share: 0.15}
	g.turn(0, Normal, "new")
	g.see(1, 10, 10)
	g.hear(2, 10, []testimony{{peer: "b", ages: map[key]time.Duration{{"A", "1"}: 0}}}, func(key, time.Duration) bool { return true })
	if g.mode != Preserving || g.degraded {
		t.Errorf("the only peer did not answer: got %s, degraded %v; want it preserving", g.mode, g.degraded)
	}
}

var errUnreachable = errors.New("no route to host")

func TestOnlyARefusalProvesDeath(t *testing.T) {
	for err, want := range map[error]finding{
		nil: accepted, syscall.ECONNREFUSED: refused, syscall.ECONNRESET: refused, errUnreachable: noAnswer,
		syscall.EHOSTUNREACH: noAnswer, context.DeadlineExceeded: noAnswer,
	} {
		d := dialer(func(context.Context, string, string) (net.Conn, error) {
			if err != nil {
				return nil, &net.OpError{Op: "dial", Err: err}
			}
			a, b := net.Pipe()
			b.Close()
			return a, nil
		})
		if got := d.probe(t.Context(), "x"); got != want {
			t.Errorf("connecting ends with %v: got finding %d, want %d", err, got, want)
		}
	}
}
