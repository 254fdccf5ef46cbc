package ipc

import (
	"sync/atomic"
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
	if openedAt+int64(s.SleepWindow) <= now+2*int64(s.HealthInterval) {
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
