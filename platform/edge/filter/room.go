package filter

import (
	"context"
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrStalled is why an answer is ended whose client took nothing of it while others wanted its place.
var ErrStalled = errors.New("the client took nothing of its answer, and others wanted its place")

// Stalled makes the category of x that of an answer that ended by [ErrStalled].
func (x *Exchange) Stalled() {
	x.SetCategory(FailureClientStalled, ErrStalled.Error()+" (edge.origin.client.stall)")
}

// Taker is the client's end of an answer, as an engine has it. Its methods may be called from any goroutine as long as the
// answer is written.
type Taker interface {
	// Taken returns how many bytes the client has taken, since whenever; -1 if nobody can tell.
	Taken() int64

	// Drop has writing fail with [ErrStalled], if it waits just now or whenever it begins.
	Drop()
}

// Outlet is where answers go: by it an engine tells that a client keeps one waiting. There is one for each connection of HTTP/1.1
// and each stream of HTTP/2. But for since it belongs to the exchange's goroutine.
type Outlet struct {
	to     Taker
	x      *Exchange
	since  atomic.Int64 // when the client began to keep the answer waiting, by Now; 0: it does not
	held   [2]*Room     // that the exchange has places of
	listed bool         // these know of it
}

// Init makes ready for the answers that to takes.
func (o *Outlet) Init(to Taker) { o.to = to }

// Waits tells that the client keeps the answer waiting from now on. The engine may hold no lock that to wants, the first time.
func (o *Outlet) Waits(now int64) {
	o.since.Store(now)
	if o.listed {
		return
	}
	for _, r := range o.held {
		if r != nil {
			o.listed = true
			r.add(o)
		}
	}
}

// Goes tells that it does no longer.
func (o *Outlet) Goes() { o.since.Store(0) }

// Hold tells that x has a place of r, until [Exchange.Yield].
//
// hot path: 0 allocs, BenchmarkRoom
func (x *Exchange) Hold(r *Room) {
	if o := x.Outlet; o != nil {
		o.x = x
		if i := slices.Index(o.held[:], nil); i >= 0 {
			o.held[i] = r
		}
	}
}

// Yield tells that x has given its place of r back. It reports whether x was ended for want of that place.
//
// hot path: 0 allocs, BenchmarkRoom
func (x *Exchange) Yield(r *Room) (ended bool) {
	if o := x.Outlet; o != nil {
		if i := slices.Index(o.held[:], r); i >= 0 {
			o.held[i] = nil
			if o.listed {
				o.listed = o.held != [2]*Room{}
				return r.remove(o)
			}
		}
	}
	if r.wanted.Load() > 0 {
		r.mu.Lock()
		r.wake()
		r.mu.Unlock()
	}
	return false
}

// Room is something of which only so many exchanges can have a place at once, such as an app. When there is none left, and only
// then, it ends an exchange whose client takes nothing of its answer: the one that has been so for the longest time. Never one
// whose answer is yet to come, or has nothing to write just now. How many places there are, and who has one, is for others to count.
//
// What is told of a client that keeps an answer waiting is at least half a second old when it counts, and often more.
type Room struct {
	seed   maphash.Seed
	wanted atomic.Int32 // how many wait

	mu      sync.Mutex // guards what follows; a Taker's locks may be taken while it is held, not the other way round
	stalls  []stall
	waiting []*waiter // for a place, who came first in front
}

// waiter is a request that waits for a place.
type waiter struct {
	client uint64
	told   bool          // of a place that was given back; guarded by the room's mu
	tell   chan struct{} // has room for one
	out    chan struct{} // closed when it is to wait no more
}

// stall is an exchange whose client has kept its answer waiting at least once.
type stall struct {
	o      *Outlet
	client uint64
	taken  int64 // by the client, at the time at; -1: nobody can tell
	at     int64 // when it was last seen to take something
	looked int64
	ended  int64 // when it was ended; 0: it was not
}

const (
	mostWaiting = 200                           // for one room
	leastTaken  = 240                           // bytes a second; less is nothing
	lookEvery   = int64(50 * time.Millisecond)  // at one client, at most; and who waits looks about twice as seldom
	endsWithin  = int64(250 * time.Millisecond) // of being ended an exchange gives its place back
	fraction    = 5                             // of the time that clients have, those have who keep more than twice as many others waiting
	fewStalls   = 2                             // that everybody may have
	worthIt     = 4                             // one of so many places must keep its client waiting for somebody to wait for it
)

// NewRoom returns a room.
func NewRoom() *Room { return &Room{seed: maphash.MakeSeed()} }

func (r *Room) add(o *Outlet) {
	client := o.x.ClientKey(r.seed)
	r.mu.Lock()
	defer r.mu.Unlock()
	at := o.since.Load()
	r.stalls = append(r.stalls, stall{o: o, client: client, taken: o.to.Taken(), at: at, looked: at})
}

func (r *Room) remove(o *Outlet) (ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.wake()
	i := slices.IndexFunc(r.stalls, func(s stall) bool { return s.o == o })
	if i < 0 {
		return false
	}
	ended = r.stalls[i].ended != 0
	last := len(r.stalls) - 1
	r.stalls[i] = r.stalls[last]
	r.stalls[last] = stall{}
	r.stalls = r.stalls[:last]
	return ended
}

// weights returns how many answers each client keeps waiting, and how many of its requests wait for a place. The caller holds mu.
func (r *Room) weights() (stalled, all map[uint64]int) {
	stalled = map[uint64]int{}
	for i := range r.stalls {
		if _, ok := r.stalls[i].from(); ok {
			stalled[r.stalls[i].client]++
		}
	}
	all = maps.Clone(stalled)
	for _, w := range r.waiting {
		all[w.client]++
	}
	return stalled, all
}

// wake has one of those that wait try again: of the client that asks least, which has waited for the longest time. The caller holds mu.
func (r *Room) wake() {
	if len(r.waiting) == 0 {
		return
	}
	_, weight := r.weights()
	best := -1
	for i, w := range r.waiting {
		if !w.told && (best < 0 || weight[w.client] < weight[r.waiting[best].client]) {
			best = i
		}
	}
	if best >= 0 {
		r.waiting[best].told = true
		r.waiting[best].tell <- struct{}{}
	}
}

// join has w wait. If too many do already, one that asks more goes in its place, or w does not wait.
func (r *Room) join(w *waiter) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.stalls) == 0 {
		return false
	}
	if len(r.waiting) >= mostWaiting {
		_, weight := r.weights()
		worst := len(r.waiting) - 1
		for i, o := range r.waiting {
			if weight[o.client] > weight[r.waiting[worst].client] {
				worst = i
			}
		}
		if weight[r.waiting[worst].client] <= weight[w.client]+1 {
			return false
		}
		close(r.waiting[worst].out)
		r.waiting = slices.Delete(r.waiting, worst, worst+1)
	}
	r.waiting = append(r.waiting, w)
	r.wanted.Store(int32(len(r.waiting)))
	return true
}

// part has w wait no more, with a place or without. What it was told of is another's, if it has not found that.
func (r *Room) part(w *waiter, found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = slices.DeleteFunc(r.waiting, func(o *waiter) bool { return o == w })
	r.wanted.Store(int32(len(r.waiting)))
	if w.told && !found {
		r.wake()
	}
}

// Make is for who found none of a room's places, of which there are so many, for x: it has another exchange ended if that may be, and
// calls try whenever a place is given back, for a moment at most. It reports whether try has found a place. An exchange may be
// ended if its client has taken nothing for the time after; for a fifth of that, if this client keeps more than twice as many
// answers waiting as the one that asks, and more than two.
func (r *Room) Make(ctx context.Context, x *Exchange, places int, after time.Duration, try func() bool) (found bool) {
	w := &waiter{client: x.ClientKey(r.seed), tell: make(chan struct{}, 1), out: make(chan struct{})}
	if !r.join(w) {
		return false
	}
	defer func() { r.part(w, found) }()
	until := Now() + 3*int64(after)/fraction
	if x.Deadline != 0 {
		until = min(until, x.Deadline)
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for maybe := true; ; {
		if maybe && try() { // a place was given back before it began to wait, or now
			return true
		}
		if !r.end(w, maybe, Now(), until, int64(after), places) {
			return false
		}
		timer.Reset(time.Duration(2 * lookEvery))
		select {
		case <-w.tell:
			maybe = true
		case <-timer.C:
			maybe = false
		case <-w.out:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// Stalled returns how many exchanges there are whose clients keep their answers waiting just now.
func (r *Room) Stalled() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.stalls {
		if _, ok := r.stalls[i].from(); ok {
			n++
		}
	}
	return n
}

// Look notes what clients have taken who keep answers waiting. Called every second or so it lets [Room.Make] know sooner.
func (r *Room) Look(now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.stalls {
		if s := &r.stalls[i]; s.o.since.Load() != 0 && s.ended == 0 {
			s.look(now)
		}
	}
}

// look notes what the client has taken.
func (s *stall) look(now int64) {
	if now-s.looked < lookEvery {
		return
	}
	s.looked = now
	n := s.o.to.Taken()
	if n < 0 {
		return
	}
	if s.taken < 0 || n < s.taken || n > s.taken && float64(n-s.taken) >= leastTaken*time.Duration(now-s.at).Seconds() {
		s.taken, s.at = n, now
	}
}

// from returns since when the client has taken nothing; ok is false if it does not keep its answer waiting.
func (s *stall) from() (at int64, ok bool) {
	since := s.o.since.Load()
	return max(since, s.at), since != 0 && s.ended == 0
}

// end ends an exchange for w, if one may be; tried tells that w was told of a place, if it was, in vain. It reports whether there is
// something to wait for.
func (r *Room) end(w *waiter, tried bool, now, until, after int64, places int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now >= until {
		return false
	}
	if tried && len(w.tell) == 0 {
		w.told = false
	}
	ending := 0 // or ended, and who is to have the place is on its way
	for _, o := range r.waiting {
		if o.told {
			ending++
		}
	}
	for i := range r.stalls {
		s := &r.stalls[i]
		if s.ended != 0 && now-s.ended < endsWithin {
			ending++
		}
		if _, ok := s.from(); ok {
			s.look(now)
		}
	}
	if ending >= len(r.waiting) {
		return true
	}
	count, _ := r.weights()
	var worst *stall
	least, first, all := now, until, 0
	for i := range r.stalls {
		s := &r.stalls[i]
		at, ok := s.from()
		if !ok {
			continue
		}
		all++
		need := after
		if count[s.client] > 2*count[w.client]+fewStalls {
			need = after / fraction
		}
		if at+need > now {
			first = min(first, at+need)
		} else if worst == nil || at < least {
			worst, least = s, at
		}
	}
	if worst == nil {
		return first < until || all >= max(1, places/worthIt)
	}
	worst.ended = now
	worst.o.to.Drop()
	return true
}
