package registry

import (
	"math"
	"sync"
	"sync/atomic"
)

// What clients tell this registry its peers hear from it; what a peer told it goes no further. Each peer has an outbox
// with at most one slot for an instance, which holds what the peer does not know yet about it. What is sent is then
// read from the state, so that a peer that was away for a while hears how things are and not how they came about: an
// outbox is never larger than the registry, and nothing in it is ever crowded out.

// outboxes are those of the peers there are at the moment. A nil *outboxes belongs to a registry without peers.
type outboxes struct{ list atomic.Pointer[[]*outbox] }

// tell puts n in the outbox of every peer.
//
// hot path: 0 allocs, BenchmarkRenewWithPeers
func (o *outboxes) tell(k key, n slot) {
	if o == nil {
		return
	}
	list := o.list.Load()
	if list == nil {
		return
	}
	for _, b := range *list {
		b.lane(k).put(k, n)
	}
}

// heardSince is the time, in ns since the state's epoch, since which nothing happened that a peer may not have heard.
func (o *outboxes) heardSince() int64 {
	least := int64(math.MaxInt64)
	if o == nil {
		return least
	}
	if list := o.list.Load(); list != nil {
		for _, b := range *list {
			least = min(least, b.heard.Load())
		}
	}
	return least
}

// lanes is into how many parts an outbox is divided. An instance is always in the same, and each lane has one request
// on its way at a time, so what happens to one instance is told in order.
const lanes = 4

// outbox is what one peer is to be told.
type outbox struct {
	lanes [lanes]lane
	heard atomic.Int64 // ns since the state's epoch: its peer knows all that happened before
}

func newOutbox() *outbox {
	b := &outbox{}
	b.heard.Store(math.MaxInt64)
	for i := range b.lanes {
		b.lanes[i].slots, b.lanes[i].ready = make(map[key]slot), make(chan struct{}, 1)
	}
	return b
}

func (b *outbox) lane(k key) *lane { return &b.lanes[k.hash()%lanes] }

// hash64 is FNV-1a of the instance's names: the same in every registry.
func (k key) hash64() uint64 {
	h := uint64(14695981039346656037)
	for i := range len(k.app) {
		h = (h ^ uint64(k.app[i])) * 1099511628211
	}
	h = (h ^ '/') * 1099511628211
	for i := range len(k.id) {
		h = (h ^ uint64(k.id[i])) * 1099511628211
	}
	return h
}

func (k key) hash() uint32 {
	h := k.hash64()
	return uint32(h ^ h>>32)
}

// lane is one part of an outbox, in the order in which its instances came in.
type lane struct {
	mu    sync.Mutex
	slots map[key]slot
	order []key         // of slots, from taken on
	taken int           // how many of order are no longer in slots
	sent  []noted       // on their way to the peer, which has not answered yet
	ready chan struct{} // holds a token while slots is not empty
}

// put merges n into the slot of k.
func (l *lane) put(k key, n slot) {
	l.mu.Lock()
	was, ok := l.slots[k]
	if ok {
		n = was.then(n)
	} else {
		l.order = append(l.order, k)
	}
	l.slots[k] = n
	l.mu.Unlock()
	if !ok {
		l.signal()
	}
}

func (l *lane) signal() {
	select {
	case l.ready <- struct{}{}:
	default:
	}
}

// noted is one instance and what a peer does not know about it.
type noted struct {
	key
	slot
}

// take empties the slots of at most n instances, oldest first.
func (l *lane) take(n int) []noted {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = min(n, len(l.order)-l.taken)
	out := make([]noted, n)
	for i, k := range l.order[l.taken : l.taken+n] {
		out[i] = noted{k, l.slots[k]}
		delete(l.slots, k)
	}
	l.taken += n
	switch {
	case l.taken == len(l.order):
		l.order, l.taken = l.order[:0], 0
	case l.taken > len(l.order)/2:
		l.order = l.order[:copy(l.order, l.order[l.taken:])]
		l.taken = 0
	}
	if len(l.order) > 0 {
		l.signal()
	}
	return out
}

// clear empties all lanes.
func (b *outbox) clear() {
	for i := range b.lanes {
		b.lanes[i].take(math.MaxInt)
	}
}

// back returns what could not be sent. What came in meanwhile counts as later.
func (l *lane) back(list []noted) {
	l.mu.Lock()
	for _, n := range list {
		if newer, ok := l.slots[n.key]; ok {
			n.slot = n.then(newer)
		} else {
			l.order = append(l.order, n.key)
		}
		l.slots[n.key] = n.slot
	}
	l.mu.Unlock()
	if len(list) > 0 {
		l.signal()
	}
}

// size is of how many instances something waits.
func (o *outbox) size() (n int) {
	for i := range o.lanes {
		l := &o.lanes[i]
		l.mu.Lock()
		n += len(l.slots)
		for _, s := range l.sent {
			if _, ok := l.slots[s.key]; !ok {
				n++
			}
		}
		l.mu.Unlock()
	}
	return n
}

// sending notes what is on its way now; nil when an answer has come, or none will.
func (l *lane) sending(list []noted) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = list
}

// untold is when the oldest thing that the peer has not acknowledged came in, in ns since the state's epoch; ok is false
// if there is none.
func (l *lane) untold() (since int64, ok bool) {
	since, ok = l.oldest()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sent {
		if !ok || s.since < since {
			since, ok = s.since, true
		}
	}
	return since, ok
}

// oldest is when the oldest thing that waits came in, in ns since the state's epoch; ok is false if nothing waits.
func (l *lane) oldest() (since int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.order) == l.taken {
		return 0, false
	}
	return l.slots[l.order[l.taken]].since, true
}

// slot is what a peer does not know yet about an instance. At most one request each is needed for its record, for an
// operator's decision about it and for its end, whatever happened in between.
type slot struct {
	since int64 // ns since the state's epoch at which the first of it happened
	last  int64 // at which the last of it happened
	dirty int64 // of an instance that ended: the version that ended

	renewed    bool
	registered bool
	decided    act
	ended      bool

	status status // that was decided, or that the instance takes when a decision ends
}

// act is what an operator did.
type act uint8

const (
	undecided act = iota
	overrode
	cleared
)

// then is the slot after n happened to what s is about.
func (s slot) then(n slot) slot {
	if n.ended {
		n.since = s.since
		return n
	}
	if s.ended && n.registered {
		// The peer may hold a decision that ended with the instance.
		s = slot{since: s.since, decided: cleared, status: unknown}
	}
	s.last = n.last
	s.ended = s.ended && !n.registered
	s.renewed = s.renewed || n.renewed
	s.registered = s.registered || n.registered
	if n.decided != undecided {
		// Peers do nothing that seems to change nothing, as when an override ends that they never heard of. After more
		// than one decision they need the whole record.
		s.registered = s.registered || s.decided != undecided
		s.decided, s.status = n.decided, n.status
	}
	return s
}
