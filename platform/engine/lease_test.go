package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
)

// bubble runs f with an embedded engine of its own in a bubble, where waiting takes no time.
func bubble(t *testing.T, f func(t *testing.T, e *Engine)) {
	t.Helper()
	// The server's access clock is shared by all servers of a process and must not tick in the bubble.
	ats.Register()
	defer ats.Unregister()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		e, err := Open(t.Context(), Config{Dir: dir, Log: testLog()})
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		f(t, e)
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

func acquire(t *testing.T, e *Engine, holder string) *Lease {
	t.Helper()
	l, err := e.Acquire(t.Context(), "leader.fleet", holder, 5*time.Second)
	if err != nil {
		t.Fatalf("Acquire for %s: %v", holder, err)
	}
	return l
}

func isLost(l *Lease) bool {
	select {
	case <-l.Lost():
		return true
	default:
		return false
	}
}

func TestLeaseIsHeldByOneAtATimeWithGrowingEpochs(t *testing.T) {
	bubble(t, func(t *testing.T, e *Engine) {
		var holders atomic.Int32
		epochs := make(chan uint64)
		for range 8 {
			go func() {
				l, err := e.Acquire(t.Context(), "leader.fleet", "me", 5*time.Second)
				if err != nil {
					t.Errorf("Acquire: %v", err)
					epochs <- 0
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d hold the lease", n)
				}
				time.Sleep(30 * time.Second) // much longer than the ttl
				if isLost(l) {
					t.Errorf("the lease of epoch %d was lost though it was renewed", l.Epoch())
				}
				holders.Add(-1)
				epoch := l.Epoch()
				if err := l.Release(t.Context()); err != nil {
					t.Errorf("Release: %v", err)
				}
				if !isLost(l) {
					t.Error("a released lease is not lost")
				}
				epochs <- epoch
			}()
		}
		last := uint64(0)
		for range 8 {
			epoch := <-epochs
			if epoch <= last {
				t.Errorf("epoch %d follows %d", epoch, last)
			}
			last = epoch
		}
	})
}

func TestReleaseHandsOverAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, e *Engine) {
		a := acquire(t, e, "a")
		got := make(chan *Lease)
		go func() { got <- acquire(t, e, "b") }()
		time.Sleep(12 * time.Second)
		start := time.Now()
		if err := a.Release(t.Context()); err != nil {
			t.Fatalf("Release: %v", err)
		}
		b := <-got
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("the hand-over took %v", took)
		}
		if err := a.Release(t.Context()); err != nil {
			t.Errorf("second Release: %v", err)
		}
		if isLost(b) {
			t.Error("releasing twice took the lease from the next holder")
		}
	})
}

func TestHolderThatCannotRenewLosesTheLeaseBeforeAnotherGetsIt(t *testing.T) {
	bubble(t, func(t *testing.T, e *Engine) {
		a := acquire(t, e, "a")
		got := make(chan *Lease)
		go func() { got <- acquire(t, e, "b") }()
		time.Sleep(10 * time.Second)
		a.stop() // as if its process died: nobody renews
		died := time.Now()
		b := <-got
		if !isLost(a) {
			t.Error("b has the lease and a does not know that it lost it")
		}
		if took := time.Since(died); took < 3*time.Second || took > 6*time.Second {
			t.Errorf("b got the lease %v after a died, want about the ttl of 5 s", took)
		}
		if b.Epoch() <= a.Epoch() {
			t.Errorf("epochs: got %d after %d, want it larger", b.Epoch(), a.Epoch())
		}
		if err := a.Release(t.Context()); err != nil {
			t.Errorf("Release of a lost lease: %v", err)
		}
		if e, ok := e.leases.Get("leader.fleet"); !ok || e.Value.Holder != "b" {
			t.Errorf("after a's release: got %+v, %v, want b to hold it", e, ok)
		}
	})
}

func TestHolderStopsInTimeWhenTheEngineRefusesWrites(t *testing.T) {
	bubble(t, func(t *testing.T, e *Engine) {
		a := acquire(t, e, "a")
		time.Sleep(7 * time.Second)
		setDisk(e, 0, nil)
		start := time.Now()
		<-a.Lost()
		if took := time.Since(start); took < 2*time.Second || took > 4*time.Second {
			t.Errorf("lost after %v, want 4 s after the last renewal", took)
		}
	})
}

func TestStolenLeaseIsLostAtTheNextRenewal(t *testing.T) {
	bubble(t, func(t *testing.T, e *Engine) {
		a := acquire(t, e, "a")
		if _, err := e.leases.Put(t.Context(), "leader.fleet", leaseRecord{Holder: "thief", TTL: time.Hour}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		<-a.Lost()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("lost after %v, want it at the next renewal", took)
		}
	})
}

func TestAcquireRefusesNonsenseAndGivesUpWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, e *Engine) {
		for _, c := range []struct {
			name, holder string
			ttl          time.Duration
		}{{"l", "", time.Second}, {"l", "me", time.Millisecond}, {"", "me", time.Second}, {"a..b", "me", time.Second}} {
			if _, err := e.Acquire(t.Context(), c.name, c.holder, c.ttl); err == nil {
				t.Errorf("Acquire(%q, %q, %v) succeeded", c.name, c.holder, c.ttl)
			}
		}
		acquire(t, e, "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := e.Acquire(ctx, "leader.fleet", "b", 5*time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Acquire of a held lease: got %v, want the context's error", err)
		}
	})
}
