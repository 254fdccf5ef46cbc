package registry

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// lease is the promise an instance keeps by renewing. Times are nanoseconds since the state's epoch.
type lease struct {
	renewed  atomic.Int64  // by anybody
	direct   atomic.Int64  // by the instance itself, not by a peer that tells of it; never if that did not happen
	duration atomic.Int64  // without a renewal after which it ends; ended when its instance is no longer registered
	patience atomic.Uint32 // ms without a renewal after which the instance is late
	due      int32         // second in which the wheel turns to it, 0 when none is planned; guarded by the wheel's mu
}

const (
	never = int64(-1)
	ended = int64(-1)
)

// start begins a lease of duration, for an instance that means to renew it every renewal.
func (l *lease) start(now int64, duration, renewal time.Duration, direct bool) {
	if l.duration.Load() == 0 {
		l.direct.Store(never)
	}
	l.renew(now, direct)
	l.duration.Store(int64(duration))
	// Who renews three times in a lease is late with the second that is missing, who renews once with the first.
	l.patience.Store(uint32(min(max(duration*2/3, min(renewal*3/2, duration)).Milliseconds(), math.MaxUint32)))
}

// renew prolongs the lease; direct says that the instance itself asked for it.
//
// hot path: 0 allocs, BenchmarkRenew
func (l *lease) renew(now int64, direct bool) {
	l.renewed.Store(now)
	if direct {
		l.direct.Store(now)
	}
}

// heardOf prolongs the lease by what a peer tells: that the instance was heard at a time, be it in the past.
func (l *lease) heardOf(at int64) {
	for {
		was := l.renewed.Load()
		if at <= was || l.renewed.CompareAndSwap(was, at) {
			return
		}
	}
}

func (l *lease) end() { l.duration.Store(ended) }

func (l *lease) hasEnded() bool { return l.duration.Load() == ended }

func (l *lease) expired(now int64) bool { return now > l.renewed.Load()+l.duration.Load() }

// lateAt is when the instance is late unless it renews.
func (l *lease) lateAt() int64 {
	return l.renewed.Load() + int64(l.patience.Load())*int64(time.Millisecond)
}

func (l *lease) late(now int64) bool { return now > l.lateAt() }

// directAge is how long ago the instance itself renewed, if it ever did here.
func (l *lease) directAge(now int64) (age time.Duration, ok bool) {
	d := l.direct.Load()
	return time.Duration(now - d), d != never
}

// wheel finds the leases that run out without looking at the others. An entry is in the slot of the second in which it
// would be late; when that second comes, one that has renewed is put into a later slot. So an entry is touched about
// once per lease, however often it renews, and renewals do not touch the wheel at all.
type wheel struct {
	mu    sync.Mutex
	slots [wheelSlots][]*entry
	at    int64 // second that was taken last
}

const wheelSlots = 512 // seconds; who is late only after more is looked at on the way

// put enters e to be looked at in the second of time t, in nanoseconds since the state's epoch, or soon if that has
// passed. An earlier look that was planned for it does not take place.
func (w *wheel) put(e *entry, t int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.place(e, t)
}

// hasten is put, unless e will be looked at before t anyway.
func (w *wheel) hasten(e *entry, t int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.lease.due == 0 || second(t) < int64(e.lease.due) {
		w.place(e, t)
	}
}

func (w *wheel) place(e *entry, t int64) {
	due := max(w.at+1, min(second(t), w.at+wheelSlots-1))
	e.lease.due = int32(due) // for 68 years
	i := due % wheelSlots
	w.slots[i] = append(w.slots[i], e)
}

// second is the first whole second after t.
func second(t int64) int64 { return t/int64(time.Second) + 1 }

// take removes and returns what must be looked at up to now.
func (w *wheel) take(now int64) (due []*entry) {
	to := now / int64(time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	for range min(to-w.at, wheelSlots) {
		w.at++
		i := w.at % wheelSlots
		for _, e := range w.slots[i] {
			if int64(e.lease.due) == w.at { // else it was planned anew since
				e.lease.due = 0
				due = append(due, e)
			}
		}
		w.slots[i] = nil
	}
	w.at = max(w.at, to)
	return due
}
