package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What lives in a large platform lives long: instances, properties, series. There the heap may grow by half of what
// lives before the garbage in it is collected, rather than by all of it: a registry of 100,000 instances is a third
// smaller for it. In a small one that would be many collections for little.
const (
	smallHeap  = 32 << 20 // bytes that live
	largeHeap  = 48 << 20
	usualGrow  = 100 // percent
	largeGrow  = 50
	memoryLook = 2 * time.Second
)

// keepMemory sets how far the heap may grow, until ctx ends. GOGC and GOMEMLIMIT count where they are set.
func keepMemory(ctx context.Context) error {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	defer debug.SetGCPercent(usualGrow)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	look := time.NewTicker(memoryLook)
	defer look.Stop()
	for now := usualGrow; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			metrics.Read(live)
			if next := growth(live[0].Value.Uint64(), now); next != now {
				debug.SetGCPercent(next)
				now = next
			}
		}
	}
}

// growth is how far a heap in which so much lives may grow, if it might grow by now.
func growth(live uint64, now int) int {
	switch {
	case live > largeHeap:
		return largeGrow
	case live < smallHeap:
		return usualGrow
	}
	return now
}
