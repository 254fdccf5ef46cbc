package ipc

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"
)

// TestBulkheadLetsThroughExactlyTheLimit races many callers for few places, whose limit changes meanwhile.
func TestBulkheadLetsThroughExactlyTheLimit(t *testing.T) {
	for _, limit := range []int{1, 7, 16, 40, 200} {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{MaxConcurrent: limit, BreakerOff: true})
		var inside, most, refused atomic.Int64
		var wg sync.WaitGroup
		for range limit + 50 {
			wg.Go(func() {
				for range 200 {
					if _, err := Call(context.Background(), c, func(context.Context) (int, error) {
						n := inside.Add(1)
						for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
						}
						inside.Add(-1)
						return 0, nil
					}); err != nil {
						refused.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if n := most.Load(); n > int64(limit) || c.inFlight() != 0 {
			t.Errorf("limit %d: %d at once, and %d are left in flight, want no more than the limit and none", limit, n, c.inFlight())
		}
		hold := make(chan bool)
		var held sync.WaitGroup
		for range limit {
			held.Add(1)
			wg.Go(func() {
				_, err := Call(context.Background(), c, func(context.Context) (int, error) { held.Done(); <-hold; return 0, nil })
				if err != nil {
					t.Errorf("limit %d: one of so many calls at once was refused: %v", limit, err)
					held.Done()
				}
			})
		}
		held.Wait()
		if _, err := Call(t.Context(), c, succeed); err == nil {
			t.Errorf("limit %d: one more was let through", limit)
		}
		if got := stats(t, e, "x").Concurrent; got != int64(limit) {
			t.Errorf("limit %d: %d in flight, want all of them", limit, got)
		}
		close(hold)
		wg.Wait()
	}
}

// TestOneCallCostsOneSmallAllocation watches the size class of what each call with a timeout allocates.
func TestOneCallCostsOneSmallAllocation(t *testing.T) {
	if n := unsafe.Sizeof(scope{}); n > 64 {
		t.Errorf("a scope has %d bytes, want at most 64: see the order of its fields", n)
	}
	if n := unsafe.Offsetof(shard{}.latency); n%64 != 0 {
		t.Errorf("a shard's latencies begin at %d, want a multiple of a cache line", n)
	}
}
