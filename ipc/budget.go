package ipc

import (
	"fmt"
	"sync/atomic"
)

// budget limits how much load further attempts, retries and hedges together, may add to an app: over the last 10 s a
// part of its calls or, where that is more, some a second. It is the greater of the two and not their sum, and attempts
// that were in vain use up the second fivefold: else many processes that each call little would together give a dead
// app much more than the part. Source: Envoy's retry budgets have a part and a minimum, gRPC's retry throttling counts
// what failed.
type budget struct {
	requests atomic.Int64 // ever
	extras   atomic.Int64 // ever
	vain     atomic.Int64 // ever: extras that brought no answer
	denied   atomic.Int64 // ever

	fromRequests atomic.Int64 // requests 10 s ago
	fromExtras   atomic.Int64
	fromVain     atomic.Int64

	// Only tick uses what follows.
	ring  [buckets][3]int64 // requests, extras and those in vain at the last ticks
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
	vainCost     = 5 // what an extra that was in vain takes of the minimum
)

// tick moves the window. It returns what is new, "" if nothing is. Only the engine's ticker calls it.
func (b *budget) tick() (news string) {
	old := b.ring[b.head]
	b.ring[b.head] = [3]int64{b.requests.Load(), b.extras.Load(), b.vain.Load()}
	b.head = (b.head + 1) % buckets
	b.fromRequests.Store(old[0])
	b.fromExtras.Store(old[1])
	b.fromVain.Store(old[2])

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
	return b.allowance(s.RetryPercent, s.RetryPerSecond, b.lately()), b.extras.Load() - b.fromExtras.Load()
}

// lately returns how many requests the window has seen.
func (b *budget) lately() int64 { return b.requests.Load() - b.fromRequests.Load() }

// allowance is how many extras so many calls in the window allow. A negative part, and a negative minimum, are none.
func (b *budget) allowance(percent, perSecond int, calls int64) float64 {
	inVain := b.vain.Load() - b.fromVain.Load()
	return max(float64(percent)/percentScale*float64(calls), float64(perSecond*windowSecs)-float64(inVain)*(vainCost-1), 0)
}

// balance returns how many more extras the window allows.
func (b *budget) balance(s *settings) float64 {
	allowed, used := b.limit(s)
	return max(0, allowed-float64(used))
}

// take reserves one extra attempt. If it turns out to have been in vain, wasted must follow.
func (b *budget) take(s *settings) bool { return b.takeFor(s, 0) }

// takeFor is take for run functions, whose calls are counted elsewhere: so many ended in the window.
func (b *budget) takeFor(s *settings, calls int64) bool {
	return b.takeOf(s.RetryPercent, s.RetryPerSecond, max(calls, b.lately()))
}

// takeOf reserves one of what so many calls allow. The order of its steps lets racing callers be refused wrongly, never
// allowed.
func (b *budget) takeOf(percent, perSecond int, calls int64) bool {
	n := b.extras.Add(1)
	if float64(n-b.fromExtras.Load()) <= b.allowance(percent, perSecond, calls) {
		return true
	}
	b.extras.Add(-1)
	b.denied.Add(1)
	return false
}

// wasted tells that an extra attempt brought no answer.
func (b *budget) wasted() { b.vain.Add(1) }
