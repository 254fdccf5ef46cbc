package main

import (
	"context"
	"runtime"
	"testing"
	"time"
)

func TestALargeHeapGrowsByLessAndNothingChangesToAndFro(t *testing.T) {
	now := usualGrow
	for _, step := range []struct {
		live uint64
		want int
	}{{1 << 20, 100}, {8 << 20, 100}, {100 << 20, 50}, {8 << 20, 50}, {5 << 20, 100}} {
		if now = growth(step.live, now); now != step.want {
			t.Errorf("%d MiB live: grows by %d %%, want %d", step.live>>20, now, step.want)
		}
	}
}

func TestEachCollectionIsToldUntilItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan struct{}, 1)
	onCollection(ctx, told)
	for i := range 3 {
		runtime.GC()
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Fatalf("collection %d was not told of", i)
		}
	}
	cancel()
}

func TestAfterABurstMemoryIsGivenBackOnceWhenTheProcessIsQuiet(t *testing.T) {
	var q quiet
	h := heap{live: 100 << 20, held: 160 << 20}
	look := func(allocs uint64) bool { h.allocs += allocs; return q.worth(h) }
	for range 5 {
		if look(50 << 20) {
			t.Fatal("memory is given back in the middle of a burst")
		}
	}
	gave := 0
	for i := range 10 {
		if look(1 << 20) {
			if gave++; i != quietLooks-1 {
				t.Errorf("given back at quiet look %d, want %d", i, quietLooks-1)
			}
			h.held = 120 << 20 // some room cannot be given back
			q.gaveBack(h)
		}
		h.held += 1 << 20
	}
	if gave != 1 {
		t.Errorf("given back %d times, want once", gave)
	}
	h.held = 170 << 20
	for i, allocs := range []uint64{60 << 20, 0, 0, 0} {
		if got := look(allocs); got != (i == quietLooks) {
			t.Errorf("look %d of a second burst: given back %v, want at quiet look %d", i, got, quietLooks)
		}
	}
	q = quiet{}
	for range 2 * quietLooks {
		if q.worth(heap{live: 3 << 20, held: 7 << 20}) {
			t.Error("a small heap is collected for next to nothing")
		}
	}
}
