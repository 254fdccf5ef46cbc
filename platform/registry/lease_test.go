package registry

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// running starts a registry in a synctest bubble and stops it at the end of the test.
func running(t *testing.T) *Registry {
	r := New(Config{Log: slog.New(slog.DiscardHandler)})
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
			if gone := before - r.count(); gone > max(2, before*15/100) {
				t.Errorf("in 30 s: evicted %d of %d, want at most 15 %% or 2", gone, before)
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
	r := New(Config{Log: slog.New(slog.DiscardHandler)})
	r.s.register(reg("WEB", "1", up, 0), origin{})
	e := r.s.find(key{"WEB", "1"})
	now := r.s.now()
	k := keeper{s: r.s, log: r.log, last: now - int64(200*time.Second), slice: now - int64(sliceTime)}
	e.lease.renewed.Store(now - int64(210*time.Second)) // 10 s before this process stood still
	k.look()
	if r.count() != 1 {
		t.Error("after standing still for 200 s: the instance was evicted, want its lease prolonged by as much")
	}
	k.look()
	if r.count() != 1 {
		t.Error("the next look evicted the instance, want time for a renewal")
	}
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

func TestDeltaForgetsAfterThreeMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t)
		long := reg("WEB", "1", up, 0)
		long.duration = 3600
		r.s.register(long, origin{})
		version := r.s.current("").version
		time.Sleep(170 * time.Second)
		if got := len(r.s.current("").delta().views); got != 1 {
			t.Errorf("delta after 170 s: got %d apps, want 1", got)
		}
		time.Sleep(60 * time.Second)
		d := r.s.current("").delta()
		if len(d.views) != 0 || d.version != version || d.hash != "UP_1_" {
			t.Errorf("delta after 230 s: got %d apps, version %d, hash %q; want none, %d, UP_1_", len(d.views), d.version, d.hash, version)
		}
		if got := r.s.current("").full.views[0].recs[0].rec.action; got != added {
			t.Errorf("action in the full list: got %v, want added", got)
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
