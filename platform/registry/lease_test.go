package registry

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// running starts a registry in a synctest bubble and stops it at the end of the test.
func running(t *testing.T) *Registry {
	return runningWith(t, Config{}, nil)
}

// runningWith is running with a configuration and with prepare called before it runs. Nobody answers probes unless
// prepare sees to it.
func runningWith(t *testing.T, c Config, prepare func(*Registry)) *Registry {
	c.Log = slog.New(slog.DiscardHandler)
	r := New(c)
	r.keep.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if prepare != nil {
		prepare(r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func (r *Registry) count() int {
	r.s.mu.RLock()
	defer r.s.mu.RUnlock()
	return r.s.count
}

func TestLeaseEndsWhenNobodyRenewsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t)
		r.s.register(reg("WEB", "1", up, 0), origin{})
		time.Sleep(60 * time.Second)
		if res, _ := r.s.renew(key{"WEB", "1"}, origin{}, 0, unknown); res != done {
			t.Fatalf("renewal after 60 s: got %v, want done", res)
		}
		time.Sleep(89 * time.Second)
		synctest.Wait()
		if got := r.count(); got != 1 {
			t.Errorf("89 s after the renewal: got %d instances, want 1", got)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := r.count(); got != 0 {
			t.Errorf("92 s after the renewal: got %d instances, want 0", got)
		}
		if res, _ := r.s.renew(key{"WEB", "1"}, origin{}, 0, unknown); res != notFound {
			t.Errorf("renewal after the end: got %v, want notFound", res)
		}
	})
}

func TestLeaseLastsAsLongAsTheInstanceAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t)
		quick := reg("WEB", "1", up, 0)
		quick.duration = 5
		r.s.register(quick, origin{})
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if got := r.count(); got != 0 {
			t.Errorf("7 s after registering for 5 s: got %d instances, want 0", got)
		}
	})
}

func TestManySilentInstancesAreEvictedInSlices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t)
		const all = 100
		for i := range all {
			r.s.register(reg(fmt.Sprintf("APP%d", i%10), fmt.Sprint(i), up, 0), origin{})
		}
		time.Sleep(92 * time.Second)
		synctest.Wait()
		if got := r.count(); got != 85 {
			t.Errorf("after all 100 fell silent: got %d instances, want 85", got)
		}
		least := 85
		for range 40 { // 20 minutes
			before := r.count()
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if gone := before - r.count(); gone > 15 {
				t.Errorf("in 30 s: evicted %d, want at most 15 %% of the 100 there were", gone)
			}
			least = r.count()
		}
		if least != 0 {
			t.Errorf("20 minutes after all fell silent: got %d instances, want 0", least)
		}
	})
}

func TestTwoMayAlwaysGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t)
		for i := range 3 {
			r.s.register(reg("WEB", fmt.Sprint(i), up, 0), origin{})
		}
		time.Sleep(92 * time.Second)
		synctest.Wait()
		if got := r.count(); got != 1 {
			t.Errorf("of three silent instances: got %d left, want 1", got)
		}
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if got := r.count(); got != 0 {
			t.Errorf("30 s later: got %d left, want 0", got)
		}
	})
}

func TestStandingStillProlongsLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Settings: Settings{NoProbe: true}, Log: slog.New(slog.DiscardHandler)})
		r.s.register(reg("WEB", "1", up, 0), origin{})
		k := r.keep
		k.begin()
		look := func() {
			k.tick(t.Context())
			if r.count() != 1 {
				t.Errorf("%v after registering: the instance was evicted, want its lease prolonged by the time stood still", time.Duration(r.s.now()))
			}
		}
		time.Sleep(time.Second)
		look()
		time.Sleep(200 * time.Second) // this process stands still
		look()
		for range 85 {
			time.Sleep(time.Second)
			look()
		}
		for range 5 {
			time.Sleep(time.Second)
			k.tick(t.Context())
		}
		if r.count() != 0 {
			t.Error("90 s after standing still, without a renewal: the instance is there, want it evicted")
		}
	})
}

// TestEveryLeaseEndsInItsTime registers, renews and cancels at random, and compares who is there with who must be.
func TestEveryLeaseEndsInItsTime(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(*testing.T) {
			s := newState("")
			k := newKeeper(s, termsOf(Settings{}), slog.New(slog.DiscardHandler))
			ends := map[key]time.Time{} // model
			long := map[key]time.Duration{}
			for range rapid.IntRange(1, 60).Draw(rt, "steps") {
				id := key{"A", rapid.SampledFrom([]string{"1", "2", "3"}).Draw(rt, "id")}
				switch rapid.SampledFrom([]string{"register", "renew", "renew", "cancel", "pass", "pass"}).Draw(rt, "do") {
				case "register":
					x := reg(id.app, id.id, up, 0)
					x.duration = rapid.SampledFrom([]int32{1, 3, 90, 700, 2000}).Draw(rt, "duration")
					x.renewal = rapid.SampledFrom([]int32{1, 30, 5000}).Draw(rt, "renewal")
					s.register(x, origin{})
					long[id] = time.Duration(x.duration) * time.Second
					ends[id] = time.Now().Add(long[id])
				case "renew":
					res, _ := s.renew(id, origin{}, 0, unknown)
					if _, there := ends[id]; there != (res == done) {
						rt.Fatalf("renewal of %v: got %v, registered %v", id, res, there)
					} else if there {
						ends[id] = time.Now().Add(long[id])
					}
				case "cancel":
					s.cancel(id)
					delete(ends, id)
				case "pass":
					for range rapid.SampledFrom([]int{1, 2, 30, 89, 800}).Draw(rt, "seconds") {
						time.Sleep(time.Second)
						k.gather(s.now())
						s.evict(k.silent, s.now())
						for id, end := range ends {
							if there := s.find(id) != nil; time.Now().After(end.Add(tick)) && there {
								rt.Fatalf("%v is there %v after its lease ended", id, time.Since(end))
							} else if !there {
								if time.Now().Before(end) {
									rt.Fatalf("%v was evicted %v before its lease ended", id, time.Until(end))
								}
								delete(ends, id)
							}
						}
					}
				}
			}
		})
	})
}

func TestLeasesLastLongerWhereTheConfigurationStretchesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runningWith(t, Config{Settings: Settings{LeaseExpiryMultiplier: 2, NoProbe: true}}, nil)
		r.s.register(reg("WEB", "1", up, 0), origin{})
		time.Sleep(179 * time.Second)
		if got := r.count(); got != 1 {
			t.Errorf("179 s after registering for 90 s, stretched twice: got %d instances, want 1", got)
		}
		time.Sleep(3 * time.Second)
		if got := r.count(); got != 0 {
			t.Errorf("182 s after registering for 90 s, stretched twice: got %d instances, want none", got)
		}
	})
}

func TestRenewalsByPeersAreToldApartFromTheInstancesOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newState("")
		k := key{"WEB", "1"}
		age := func() string {
			d, ok := s.find(k).lease.directAge(s.now())
			if !ok {
				return "never"
			}
			return d.String()
		}
		steps := []struct {
			do   func()
			want string
		}{
			{func() { s.register(reg("WEB", "1", up, 1), origin{replicated: true}) }, "never"},
			{func() { s.renew(k, origin{replicated: true}, 0, unknown) }, "never"},
			{func() { s.renew(k, origin{}, 0, unknown) }, "0s"},
			{func() { time.Sleep(7 * time.Second); s.renew(k, origin{replicated: true}, 0, unknown) }, "7s"},
			{func() { s.register(reg("WEB", "1", up, 2), origin{replicated: true}) }, "7s"},
			{func() { s.setOverride(k, outOfService, 0, origin{}) }, "7s"},
			{func() { s.register(reg("WEB", "1", up, 3), origin{}) }, "0s"},
		}
		for i, st := range steps {
			if st.do(); age() != st.want {
				t.Errorf("step %d: the instance's own last renewal was %s ago, want %s", i, age(), st.want)
			}
		}
	})
}

func TestWarmUpEnds35sAfterTheFirstRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t)
		warming := func() bool { return r.s.current("").warming }
		time.Sleep(10 * time.Minute)
		if !warming() {
			t.Error("10 minutes with no registration: not warming up, want warming until somebody came")
		}
		r.s.register(reg("WEB", "1", up, 0), origin{})
		time.Sleep(34 * time.Second)
		if !warming() {
			t.Error("34 s after the first registration: not warming up any more")
		}
		time.Sleep(2500 * time.Millisecond)
		if warming() {
			t.Error("36.5 s after the first registration: still warming up")
		}
	})
}

func TestDeltaTellsFor15MinutesWhileItIsSmall(t *testing.T) {
	for _, tt := range []struct {
		name     string
		settings Settings
		changes  int
		tells    time.Duration
	}{
		{"few changes", Settings{}, 10, 15 * time.Minute},
		{"more changes than fit", Settings{}, 3000, 180 * time.Second},
		{"configured", Settings{DeltaRetention: time.Minute}, 10, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := runningWith(t, Config{Settings: tt.settings}, nil)
			for i := range tt.changes {
				long := reg("WEB", fmt.Sprint(i), up, 0)
				long.duration = 1 << 20
				r.s.register(long, origin{})
			}
			version, hash := r.s.current("").version, r.s.current("").hash
			time.Sleep(tt.tells - 10*time.Second)
			if d := r.s.current("").delta(); len(d.views) != 1 || len(d.views[0].recs) != tt.changes {
				t.Errorf("%s: delta 10 s before %v: got %d apps, want 1 with %d instances", tt.name, tt.tells, len(d.views), tt.changes)
			}
			time.Sleep(50 * time.Second)
			d := r.s.current("").delta()
			told := 0
			for _, v := range d.views {
				told += len(v.recs)
			}
			if told*changeCost > deltaBudget || tt.changes < 100 && told > 0 || d.version != version || d.hash != hash {
				t.Errorf("%s: delta 40 s after %v: got %d instances, version %d, hash %q; want few or none, %d, %s",
					tt.name, tt.tells, told, d.version, d.hash, version, hash)
			}
			if got := r.s.current("").full.views[0].recs[0].rec.action; got != added {
				t.Errorf("%s: action in the full list: got %v, want added", tt.name, got)
			}
		})
	}
}

func TestDeltaStaysWithinItsBudgetAsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t)
		delta := func() (n, size int) {
			d := r.s.current("").delta()
			for _, v := range d.views {
				n += len(v.recs)
			}
			return n, len(d.gzipped(jsonFull))
		}
		for i := range 4000 {
			long := reg(fmt.Sprintf("APP%d", i/20), fmt.Sprintf("%d-%x", i, i*7919), up, 0)
			long.duration = 1 << 20
			r.s.register(long, origin{})
			if i%40 == 0 {
				time.Sleep(5 * time.Second) // 500 s in all
			}
			if i%500 == 0 {
				delta()
			}
		}
		time.Sleep(2 * time.Minute)
		n, size := delta()
		if size > deltaBudget*11/10 || n < 1000 {
			t.Errorf("after 4000 changes in 500 s: got a delta of %d changes in %d bytes, want about as many as fit into %d", n, size, deltaBudget)
		}
	})
}

func TestReadersSeeACopyWhereConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runningWith(t, Config{Settings: Settings{ReadOnlyCache: true}}, nil)
		time.Sleep(time.Until(time.Now().Truncate(30 * time.Second).Add(31 * time.Second)))
		get := func(path string) string {
			w := httptest.NewRecorder()
			req := httptest.NewRequest("GET", path, nil)
			req.Header.Set("Accept", "application/json")
			r.Handler().ServeHTTP(w, req)
			return fmt.Sprint(w.Code, " ", strings.Count(w.Body.String(), `"instanceId"`))
		}
		r.s.register(reg("WEB", "1", up, 0), origin{})
		for _, st := range []struct {
			after time.Duration
			want  string // of apps, delta, app and instance
		}{{0, "200 0, 200 0, 404 0, 200 1"}, {28 * time.Second, "200 0, 200 0, 404 0, 200 1"}, {2 * time.Second, "200 1, 200 1, 200 1, 200 1"}} {
			time.Sleep(st.after)
			got := strings.Join([]string{get("/eureka/apps"), get("/eureka/apps/delta"), get("/eureka/apps/WEB"), get("/eureka/apps/WEB/1")}, ", ")
			if got != st.want {
				t.Errorf("%v later: got status and instances %s, want %s", st.after, got, st.want)
			}
		}
	})
}

func TestHeartbeatAloneRendersNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t)
		r.s.register(reg("WEB", "1", up, 0), origin{})
		first := r.s.current("")
		time.Sleep(20 * time.Second)
		r.s.renew(key{"WEB", "1"}, origin{}, 0, unknown)
		if r.s.current("") != first {
			t.Error("after a heartbeat: got a new snapshot, want the former")
		}
		time.Sleep(11 * time.Second)
		sn := r.s.current("")
		if sn == first || time.Now().UnixMilli()-sn.views[0].recs[0].renewed != 11000 {
			t.Errorf("after 31 s: got a renewal %d ms ago in the list, want it refreshed to 11000", time.Now().UnixMilli()-sn.views[0].recs[0].renewed)
		}
	})
}
