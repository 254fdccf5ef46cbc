package ipc

import (
	"sync/atomic"
	"time"
)

// The states of a breaker. Open is split so that a refusal needs no clock: while openFast, the sleep window ends later
// than the next tick; openDue must look. Whoever opens it owns it for the moment that it is opening.
const (
	closed uint64 = iota
	openFast
	openDue
	opening
	halfOpen
)

// breaker is Hystrix's circuit breaker. Its word holds the state, and while half open the trials: how many must
// succeed, how many run or ran, how many have succeeded, and above all that a number; only the trials of that number
// may leave the state.
//
//	closed    --the window has too many errors-->    open
//	open      --first attempt after the sleep-->     half open   (one trial, or TrialPermits)
//	half open --each trial succeeds-->               closed      (window emptied)
//	half open --a trial ends any other way-->        open        (sleeps anew)
//	half open --a trial's caller was in a hurry-->   open        (without sleep)
type breaker struct {
	word     atomic.Uint64
	openedAt atomic.Int64  // on the engine's clock; -1 while closed. Written before the word says open.
	failed   atomic.Uint32 // trials in a row
}

const (
	stateMask    = 1<<3 - 1
	permitMask   = 1<<8 - 1
	neededShift  = 3
	grantedShift = neededShift + 8
	passedShift  = grantedShift + 8
	numberShift  = passedShift + 8

	maxSleep = time.Minute // of escalating sleep
)

// attempt asks whether a call may run. trial is not 0 if the call is a trial; then exactly one of succeeded,
// nonSuccess and unclear must follow.
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
	case s.forced, w&stateMask == closed:
		return 0, true
	case w&stateMask == openDue:
		if clk.now() <= b.openedAt.Load()+int64(b.sleep(s)) {
			return 0, false
		}
		trial = w>>numberShift + 1
		return trial, b.word.CompareAndSwap(w, trial<<numberShift|1<<grantedShift|uint64(s.TrialPermits)<<neededShift|halfOpen)
	}
	for w&stateMask == halfOpen && w>>grantedShift&permitMask < w>>neededShift&permitMask {
		if b.word.CompareAndSwap(w, w+1<<grantedShift) {
			return w >> numberShift, true
		}
		w = b.word.Load()
	}
	return 0, false
}

// early asks for a trial before the sleep window has ended: a breaker upstream has waited as long and tries just now.
func (b *breaker) early(s *settings) (trial uint64, ok bool) {
	w := b.word.Load()
	if st := w & stateMask; s.ForceOpen || st != openFast && st != openDue {
		return 0, false
	}
	trial = w>>numberShift + 1
	return trial, b.word.CompareAndSwap(w, trial<<numberShift|1<<grantedShift|uint64(s.TrialPermits)<<neededShift|halfOpen)
}

// isTrial reports whether w is half open for that trial.
func isTrial(w, trial uint64) bool { return w>>numberShift == trial && w&stateMask == halfOpen }

// succeeded closes the breaker if the trial is one of those that run, and the last that had to succeed.
func (b *breaker) succeeded(trial uint64) (closes bool) {
	for {
		w := b.word.Load()
		if !isTrial(w, trial) {
			return false
		}
		last := w>>passedShift&permitMask+1 == w>>neededShift&permitMask
		next := w + 1<<passedShift
		if last {
			next = trial << numberShift // closed is 0
		}
		if b.word.CompareAndSwap(w, next) {
			if last {
				b.openedAt.Store(-1)
				b.failed.Store(0)
			}
			return last
		}
	}
}

// nonSuccess opens the breaker again. It does nothing unless the trial is one of those that run.
func (b *breaker) nonSuccess(trial uint64, s *settings, clk *clock) bool {
	for {
		w := b.word.Load()
		if !isTrial(w, trial) {
			return false
		}
		if b.word.CompareAndSwap(w, trial<<numberShift|opening) {
			b.failed.Add(1)
			b.opened(trial, clk.now(), s)
			return true
		}
	}
}

// unclear ends a trial that says nothing: the next call is a trial at once. It does nothing unless the trial is one of
// those that run.
func (b *breaker) unclear(trial uint64) {
	for {
		w := b.word.Load()
		if !isTrial(w, trial) || b.word.CompareAndSwap(w, trial<<numberShift|openDue) {
			return
		}
	}
}

// open opens a closed breaker.
func (b *breaker) open(now int64, s *settings) bool {
	w := b.word.Load()
	number := w >> numberShift
	if w&stateMask != closed || !b.word.CompareAndSwap(w, number<<numberShift|opening) {
		return false
	}
	b.opened(number, now, s)
	return true
}

// opened ends the opening.
func (b *breaker) opened(number uint64, now int64, s *settings) {
	b.openedAt.Store(now)
	b.word.Store(number<<numberShift | b.openState(now, s))
}

// tick lets callers look at the clock once the sleep window ends before the next tick.
func (b *breaker) tick(now int64, s *settings) {
	if w := b.word.Load(); w&stateMask == openFast && b.openState(now, s) == openDue {
		b.word.CompareAndSwap(w, w&^stateMask|openDue)
	}
}

// openState returns openDue if the sleep window ends within two ticks of now: one until the next tick, and one in
// case that tick is late.
func (b *breaker) openState(now int64, s *settings) uint64 {
	if b.openedAt.Load()+int64(b.sleep(s)) <= now+2*int64(s.HealthInterval) {
		return openDue
	}
	return openFast
}

// sleep is how long the breaker stays open.
func (b *breaker) sleep(s *settings) time.Duration {
	d := s.SleepWindow
	if s.EscalatingSleep {
		for range min(b.failed.Load(), 32) {
			if d *= 2; d >= maxSleep {
				return max(maxSleep, s.SleepWindow)
			}
		}
	}
	return d
}

// tripped reports whether a window calls for opening.
func (h health) tripped(s *settings) bool {
	return h.total >= uint32(s.RequestVolume) && h.percent() >= s.ErrorPercent ||
		s.SlowCall > 0 && h.ran >= uint32(s.SlowMinimum) && percent(h.slow, h.ran) >= s.SlowPercent
}

// name returns CLOSED, OPEN or HALF_OPEN as operators know them.
func (b *breaker) name(s *settings) string {
	if s.ForceOpen {
		return "OPEN"
	}
	if s.forced {
		return "CLOSED"
	}
	switch b.word.Load() & stateMask {
	case closed:
		return "CLOSED"
	case halfOpen:
		return "HALF_OPEN"
	}
	return "OPEN"
}
