package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What lives in a platform lives long: instances, properties, series. There the heap may grow by half of what lives
// before the garbage in it is collected, rather than by all of it, from the collection on that finds so much alive: a
// registry is a third smaller for it. In a small one that would be many collections for little.
//
// A burst, such as everybody's registration, leaves garbage and room behind that nobody asks for any more. When the
// process has been quiet for some seconds it is given back to the system, once.
const (
	smallHeap = 7 << 20 // bytes that live
	largeHeap = 10 << 20
	usualGrow = 100 // percent
	largeGrow = 50

	memoryLook  = 2 * time.Second
	quietLooks  = 3       // in a row
	quietShare  = 8       // of what lives, allocated between two looks, is the most that is quiet
	worthBack   = 4 << 20 // bytes beyond a quarter of what lives that are worth a collection
	leastAllocs = 1 << 20 // bytes between two looks that are quiet whatever lives
)

// keepMemory sets how far the heap may grow, and gives memory back, until ctx ends. GOGC and GOMEMLIMIT count where they
// are set.
func keepMemory(ctx context.Context) error {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	defer debug.SetGCPercent(usualGrow)
	collected := make(chan struct{}, 1)
	onCollection(ctx, collected)
	look := time.NewTicker(memoryLook)
	defer look.Stop()
	q := quiet{}
	for now := usualGrow; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-collected:
			if next := growth(readHeap().live, now); next != now {
				debug.SetGCPercent(next)
				now = next
			}
		case <-look.C:
			if q.worth(readHeap()) {
				debug.FreeOSMemory()
				q.gaveBack(readHeap())
			}
		}
	}
}

// onCollection puts a token into told after each collection, until ctx ends.
func onCollection(ctx context.Context, told chan<- struct{}) {
	gone := new([32]byte) // alone in its memory, unlike what is smaller
	runtime.AddCleanup(gone, func(told chan<- struct{}) {
		if ctx.Err() != nil {
			return
		}
		select {
		case told <- struct{}{}:
		default:
		}
		onCollection(ctx, told)
	}, told)
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

// heap is what the runtime says of the heap, in bytes.
type heap struct {
	live   uint64 // what the last collection found alive
	held   uint64 // of the system's memory, garbage and free room included
	allocs uint64 // since the process began
}

func readHeap() heap {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	h := heap{live: s[0].Value.Uint64(), allocs: s[1].Value.Uint64()}
	for _, part := range s[2:] {
		h.held += part.Value.Uint64()
	}
	return h
}

// quiet finds the moment to give memory back.
type quiet struct {
	allocs uint64 // at the last look
	looks  int    // that were quiet, in a row
	left   uint64 // what was held after memory was given back
}

// worth takes a look, and says whether there is now enough to give back.
func (q *quiet) worth(h heap) bool {
	some := h.allocs - q.allocs
	q.allocs = h.allocs
	if some > max(h.live/quietShare, leastAllocs) {
		q.looks = 0
		return false
	}
	q.looks++
	return q.looks >= quietLooks && h.held > max(h.live, q.left)*5/4+worthBack
}

func (q *quiet) gaveBack(h heap) { q.allocs, q.looks, q.left = h.allocs, 0, h.held }
