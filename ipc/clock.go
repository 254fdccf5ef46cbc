package ipc

import (
	"sync"
	"sync/atomic"
	"time"
)

// clock counts nanoseconds since shortly before the engine was made; 0 never occurs.
//
// A precise reading costs some 35 ns, too much for a call that does nothing but compute. Once calls come thick, a
// goroutine keeps the time to the millisecond and readings cost one load; it ends when they come thin again, so that
// a quiet process does not wake a thousand times a second.
type clock struct {
	base   time.Time
	rough  atomic.Int64  // the time at the last tick; 0 = nobody ticks
	used   atomic.Bool   // somebody read rough since the last tick
	thick  atomic.Uint32 // precise readings by roughly, ever
	marked atomic.Int64  // when thick was last a multiple of burst
	on     atomic.Bool   // a ticking goroutine exists
	stop   chan struct{}
	wg     sync.WaitGroup
}

const (
	burst     = 256
	burstTime = int64(25 * time.Millisecond) // burst readings within it start the ticking: 10,000 a second
	idleTicks = 256                          // of so many ticks in a row, fewer than half used end it
)

func newClock() *clock {
	return &clock{base: time.Now().Add(-time.Second), stop: make(chan struct{})}
}

// now returns the time precisely.
func (c *clock) now() int64 { return int64(time.Since(c.base)) }

// read returns t, if somebody has read the clock already, and else the time.
func (c *clock) read(t time.Time) int64 {
	if t.IsZero() {
		return c.now()
	}
	return c.at(t)
}

// at converts t.
func (c *clock) at(t time.Time) int64 { return int64(t.Sub(c.base)) }

// time converts back.
func (c *clock) time(ns int64) time.Time { return c.base.Add(time.Duration(ns)) }

// roughly returns the time, at most some milliseconds late under load, never early.
// hot path: 0 allocs, BenchmarkAllowed
func (c *clock) roughly() int64 {
	if t := c.rough.Load(); t != 0 {
		if !c.used.Load() {
			c.used.Store(true)
		}
		return t
	}
	return c.precise()
}

func (c *clock) precise() int64 {
	t := c.now()
	if c.thick.Add(1)%burst == 0 {
		if before := c.marked.Swap(t); before != 0 && t-before < burstTime && c.on.CompareAndSwap(false, true) {
			c.begin()
		}
	}
	return t
}

// begin starts the ticking unless the clock is closed.
func (c *clock) begin() {
	select {
	case <-c.stop:
		return
	default:
	}
	c.rough.Store(c.now())
	c.wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		defer c.on.Store(false)
		defer c.rough.Store(0)
		used := 0
		for n := 1; ; n++ {
			select {
			case <-tick.C:
			case <-c.stop:
				return
			}
			c.rough.Store(c.now())
			if c.used.Swap(false) {
				used++
			}
			if n%idleTicks == 0 {
				if used < idleTicks/2 {
					return
				}
				used = 0
			}
		}
	})
}
