package ipc

import "sync/atomic"

// budget limits how much load retries may add to an app: over the last 10 s a fifth of its requests, plus ten a second.
type budget struct {
	requests atomic.Int64 // ever
	extras   atomic.Int64 // ever
	denied   atomic.Int64 // ever

	fromRequests atomic.Int64 // requests 10 s ago
	fromExtras   atomic.Int64
	ring         [buckets][2]int64 // requests and extras at the last ticks; only tick uses it
	head         int
}

const (
	buckets    = 20 // of tickTime: 10 s
	extraRatio = 0.2
	extraFloor = 10 * 10 // ten a second for 10 s
)

// tick moves the window. Only the engine's ticker calls it.
func (b *budget) tick() {
	old := b.ring[b.head]
	b.ring[b.head] = [2]int64{b.requests.Load(), b.extras.Load()}
	b.head = (b.head + 1) % buckets
	b.fromRequests.Store(old[0])
	b.fromExtras.Store(old[1])
}

// limit returns how many extras the window allows, and how many it has seen.
func (b *budget) limit() (allowed float64, used int64) {
	return extraRatio*float64(b.requests.Load()-b.fromRequests.Load()) + extraFloor, b.extras.Load() - b.fromExtras.Load()
}

// take reserves one extra attempt. The order of its steps lets racing callers be refused wrongly, never allowed.
func (b *budget) take() bool {
	n := b.extras.Add(1)
	allowed, _ := b.limit()
	if float64(n-b.fromExtras.Load()) <= allowed {
		return true
	}
	b.extras.Add(-1)
	b.denied.Add(1)
	return false
}
