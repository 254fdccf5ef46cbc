package ipc

import (
	"fmt"
	"sync/atomic"
)

// budget limits how much load further attempts, retries and hedges together, may add to an app: over the last 10 s a
// part of its calls, plus some a second.
type budget struct {
	requests atomic.Int64 // ever
	extras   atomic.Int64 // ever
	denied   atomic.Int64 // ever

	fromRequests atomic.Int64 // requests 10 s ago
	fromExtras   atomic.Int64

	// Only tick uses what follows.
	ring  [buckets][2]int64 // requests and extras at the last ticks
	head  int
	told  int64 // denied at the last tick
	spent bool  // as it was told
	quiet int   // ticks since the last denial
}

const (
	buckets      = 20 // of tickTime: 10 s
	windowSecs   = 10
	quietTicks   = 10 // without a denial make a budget that was spent have room again
	percentScale = 100
)

// tick moves the window. It returns what is new, "" if nothing is. Only the engine's ticker calls it.
func (b *budget) tick() (news string) {
	old := b.ring[b.head]
	b.ring[b.head] = [2]int64{b.requests.Load(), b.extras.Load()}
	b.head = (b.head + 1) % buckets
	b.fromRequests.Store(old[0])
	b.fromExtras.Store(old[1])

	denied := b.denied.Load()
	since := denied - b.told
	b.told = denied
	switch {
	case since > 0 && !b.spent:
		b.spent, news = true, fmt.Sprintf("the budget for further attempts is spent: %d were denied within %s", since, tickTime)
	case since == 0 && b.spent && b.quiet+1 >= quietTicks:
		b.spent, news = false, fmt.Sprintf("the budget for further attempts has room again; %d were denied so far", denied)
	}
	if b.quiet++; since > 0 {
		b.quiet = 0
	}
	return news
}

// limit returns how many extras the window allows, and how many it has seen.
func (b *budget) limit(s *settings) (allowed float64, used int64) {
	return allowance(s.RetryPercent, s.RetryPerSecond, b.lately()), b.extras.Load() - b.fromExtras.Load()
}

// lately returns how many requests the window has seen.
func (b *budget) lately() int64 { return b.requests.Load() - b.fromRequests.Load() }

// allowance is how many extras so many calls in the window allow: a part of them, and some a second; negative is none.
func allowance(percent, perSecond int, calls int64) float64 {
	return float64(max(percent, 0))/percentScale*float64(calls) + float64(max(perSecond, 0)*windowSecs)
}

// balance returns how many more extras the window allows.
func (b *budget) balance(s *settings) float64 {
	allowed, used := b.limit(s)
	return max(0, allowed-float64(used))
}

// take reserves one extra attempt.
func (b *budget) take(s *settings) bool { return b.takeFor(s, 0) }

// takeFor is take for run functions, whose calls are counted elsewhere: so many ended in the window.
func (b *budget) takeFor(s *settings, calls int64) bool {
	return b.takeOf(s.RetryPercent, s.RetryPerSecond, max(calls, b.lately()))
}

// takeOf reserves one of what so many calls allow. The order of its steps lets racing callers be refused wrongly, never
// allowed.
func (b *budget) takeOf(percent, perSecond int, calls int64) bool {
	n := b.extras.Add(1)
	if float64(n-b.fromExtras.Load()) <= allowance(percent, perSecond, calls) {
		return true
	}
	b.extras.Add(-1)
	b.denied.Add(1)
	return false
}
