package filter

import "sync/atomic"

// Waiter is how an engine wakes up who waits for an origin when the client has gone away. There is one for each connection of
// a client that has one request at a time, and one for each stream of HTTP/2; other engines tell by [Exchange.Context].
type Waiter struct{ stop atomic.Pointer[func()] }

var gone = func() {}

// Wait has stop called, from another goroutine, once should the client go away. It reports whether the client is there still.
//
// hot path: 0 allocs, BenchmarkWaiter
func (w *Waiter) Wait(stop *func()) bool { return w.stop.CompareAndSwap(nil, stop) }

// Done ends what Wait began. It reports whether stop was not called, and will not be.
func (w *Waiter) Done(stop *func()) bool { return w.stop.CompareAndSwap(stop, nil) }

// Gone tells that the client has gone away, now and for all requests to come.
func (w *Waiter) Gone() {
	if stop := w.stop.Swap(&gone); stop != nil {
		(*stop)()
	}
}

// IsGone reports whether Gone was called.
func (w *Waiter) IsGone() bool { return w.stop.Load() == &gone }
