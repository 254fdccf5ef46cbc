package ipc

import (
	"sync"
	"sync/atomic"
	"time"
)

// The states of a breaker. Open is split in two so that a refusal needs no clock: while openFast, the sleep window
// ends later than the next tick; openDue must look.
const (
	closed uint64 = iota
	openFast
	openDue
	halfOpen
	stateBits = 2
	stateMask = 1<<stateBits - 1
)

// breaker is Hystrix's circuit breaker. Its word holds the state and, above it, the number of the trial that runs
// while half open; only the trial of that number may leave that state.
//
//	closed   --tick finds too many errors-->    open
//	open     --first attempt after the sleep--> half open   (one trial)
//	half open --trial succeeds-->               closed      (window emptied)
//	half open --trial ends any other way-->     open        (sleeps anew)
type breaker struct {
	word     atomic.Uint64
	openedAt atomic.Int64 // on the engine's clock; -1 while closed. Written before the word says open.
}

// attempt asks whether a call may run. trial is not 0 if the call is the trial; then exactly one of succeeded and
// nonSuccess must follow.
// hot path: 0 allocs, BenchmarkAllowed, BenchmarkRefused
func (b *breaker) attempt(s *settings, clk *clock) (trial uint64, ok bool) {
	w := b.word.Load()
	if w&stateMask == closed && !s.forced {
		return 0, true
	}
	return b.attemptSlowly(s, clk, w)
}

func (b *breaker) attemptSlowly(s *settings, clk *clock, w uint64) (trial uint64, ok bool) {
	switch {
	case s.ForceOpen:
		return 0, false
	case s.ForceClosed, s.BreakerOff, w&stateMask == closed:
		return 0, true
	case w&stateMask != openDue:
		return 0, false
	}
	if clk.now() <= b.openedAt.Load()+int64(s.SleepWindow) {
		return 0, false
	}
	trial = w>>stateBits + 1
	return trial, b.word.CompareAndSwap(w, trial<<stateBits|halfOpen)
}

// succeeded closes the breaker if the trial is still the one that runs.
func (b *breaker) succeeded(trial uint64) bool {
	if !b.word.CompareAndSwap(trial<<stateBits|halfOpen, trial<<stateBits) { // closed is 0
		return false
	}
	b.openedAt.Store(-1)
	return true
}

// nonSuccess opens the breaker again. It does nothing unless the trial runs.
func (b *breaker) nonSuccess(trial uint64, s *settings, clk *clock) bool {
	if b.word.Load() != trial<<stateBits|halfOpen {
		return false
	}
	now := clk.now()
	b.openedAt.Store(now) // nobody but the trial's owner can leave half open, so nobody else writes this now
	return b.word.CompareAndSwap(trial<<stateBits|halfOpen, trial<<stateBits|openState(now, now, s))
}

// open opens a closed breaker.
func (b *breaker) open(now int64, s *settings) bool {
	w := b.word.Load()
	if w&stateMask != closed {
		return false
	}
	b.openedAt.Store(now)
	return b.word.CompareAndSwap(w, w&^stateMask|openState(now, now, s))
}

// tick lets callers look at the clock once the sleep window ends before the next tick.
func (b *breaker) tick(now int64, s *settings) {
	if w := b.word.Load(); w&stateMask == openFast && openState(now, b.openedAt.Load(), s) == openDue {
		b.word.CompareAndSwap(w, w&^stateMask|openDue)
	}
}

// openState returns openDue if the sleep window ends within two ticks of now: one until the next tick, and one in
// case that tick is late.
func openState(now, openedAt int64, s *settings) uint64 {
	if openedAt+int64(s.SleepWindow) <= now+2*int64(tickTime) {
		return openDue
	}
	return openFast
}

// name returns CLOSED, OPEN or HALF_OPEN as operators know them.
func (b *breaker) name(s *settings) string {
	switch {
	case s.ForceOpen:
		return "OPEN"
	case s.ForceClosed, s.BreakerOff:
		return "CLOSED"
	}
	return [...]string{"CLOSED", "OPEN", "OPEN", "HALF_OPEN"}[b.word.Load()&stateMask]
}

// What a call did. Each has a counter.
type event uint8

const (
	success event = iota
	failure
	timeout
	rejected
	shortCircuited
	badRequests
	cancelled
	unanswered // no endpoint, or no time left: says nothing about health
	fallbackSuccess
	fallbackFailure
	fallbackRejected
	events
)

// shard is one of several counters of the same calls, so that cores do not fight for a cache line.
type shard struct {
	n       [events]atomic.Uint32
	_       [128 - 4*events]byte
	latency [latencyBins]atomic.Uint32
	_       [64]byte
}

type tally [events]uint32

// health is the number of calls that say something about the callee, and how many of them failed.
func (t *tally) health() (total, errors uint32) {
	errors = t[failure] + t[timeout] + t[rejected]
	return errors + t[success], errors
}

func (t tally) minus(o tally) tally {
	for i := range t {
		t[i] -= o[i]
	}
	return t
}

func (t tally) plus(o tally) tally {
	for i := range t {
		t[i] += o[i]
	}
	return t
}

const (
	tickTime    = 500 * time.Millisecond // Hystrix's metrics.healthSnapshot.interval
	buckets     = 20                     // of tickTime: Hystrix's metrics.rollingStats.time, 10 s
	latencyBins = 112
)

// window remembers the last 10 s of a command in buckets of 500 ms. Only completed buckets count for health.
type window struct {
	mu      sync.Mutex
	ring    [buckets]tally
	head    int
	sum     tally                  // of ring
	seen    tally                  // counters at the last rollover
	slowOld [2][latencyBins]uint32 // latency counters at the two last turns of the ring
}

// roll completes the present bucket, given the counters of now, and returns the sum over the window.
func (w *window) roll(now tally) tally {
	w.sum = w.sum.minus(w.ring[w.head])
	w.ring[w.head] = now.minus(w.seen)
	w.sum = w.sum.plus(w.ring[w.head])
	w.seen = now
	w.head = (w.head + 1) % buckets
	return w.sum
}

// reset empties the window.
func (w *window) reset(now tally) {
	w.ring, w.sum, w.seen = [buckets]tally{}, tally{}, now
}
