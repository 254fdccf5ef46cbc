package limit

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Why a [Queue] gave no permit.
var (
	ErrQueueFull = errors.New("limit: as many requests as may wait do wait already")
	ErrWaited    = errors.New("limit: no place became free in the time that requests may wait")
	ErrTooLate   = errors.New("limit: what is left until the deadline is less than requests take")
)

// QueueConfig describes a [Queue]. A zero field means the default.
type QueueConfig struct {
	Size int           // 100: how many may wait
	Wait time.Duration // 1 s: how long one may wait; its deadline bounds it too
}

// Queue lets requests wait for a permit of a limiter, the latest first: under overload those who came last are served in
// time while those who waited long have given up, where the other order would serve all of them too late.
// Permits from a queue must be given back through it.
type Queue struct {
	c     QueueConfig
	l     *Limiter
	clock func() int64

	mu      sync.Mutex // guards what follows
	waiting *list.List // of *waiter, the latest in front
	typical int64      // nanoseconds a request takes: a moving mean
}

// waiter is one who waits. Its channel has room for the one thing that is ever sent.
type waiter struct {
	deadline int64 // 0: none
	got      chan result
}

type result struct {
	permit Permit
	err    error
}

// NewQueue makes a queue before l. clock returns nanoseconds, as l's callers give them. It fails if the configuration
// makes no sense.
func NewQueue(l *Limiter, c QueueConfig, clock func() int64) (*Queue, error) {
	c.Size = or(c.Size, 100)
	if c.Wait == 0 {
		c.Wait = time.Second
	}
	if c.Size < 0 || c.Size > 1<<20 || c.Wait < 0 {
		return nil, fmt.Errorf("limit: a queue of %d that wait at most %s makes no sense; use positive numbers", c.Size, c.Wait)
	}
	return &Queue{c: c, l: l, clock: clock, waiting: list.New()}, nil
}

// Waiting returns how many wait.
func (q *Queue) Waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting.Len()
}

// Acquire returns a permit, if need be after a wait. It fails with [ErrQueueFull], [ErrWaited] or [ErrTooLate], or with
// what ended ctx.
func (q *Queue) Acquire(ctx context.Context) (Permit, error) {
	now := q.clock()
	if p, ok := q.l.Acquire(now); ok {
		return p, nil
	}
	w := &waiter{got: make(chan result, 1)}
	wait, waited := q.c.Wait, ErrWaited
	if t, ok := ctx.Deadline(); ok {
		left := time.Until(t)
		w.deadline = now + int64(left)
		if left <= wait {
			wait, waited = left, context.DeadlineExceeded
		}
	}
	q.mu.Lock()
	switch {
	case w.deadline != 0 && now+q.typical > w.deadline:
		q.mu.Unlock()
		return Permit{}, ErrTooLate
	case q.waiting.Len() >= q.c.Size:
		q.mu.Unlock()
		return Permit{}, ErrQueueFull
	}
	at := q.waiting.PushFront(w)
	q.wake(now) // a place may have become free since Acquire
	q.mu.Unlock()

	t := time.NewTimer(wait)
	defer t.Stop()
	var err error
	select {
	case r := <-w.got:
		return r.permit, r.err
	case <-t.C:
		err = waited
	case <-ctx.Done():
		err = ctx.Err()
	}
	q.mu.Lock()
	q.waiting.Remove(at) // does nothing if wake has removed it
	q.mu.Unlock()
	select {
	case r := <-w.got: // at the same moment: a permit must not be lost
		return r.permit, r.err
	default:
		return Permit{}, err
	}
}

// wake gives permits to those who wait, the latest first, and turns those away who can no longer be served in time. The
// caller holds mu.
func (q *Queue) wake(now int64) {
	for at := q.waiting.Front(); at != nil; at = q.waiting.Front() {
		w := at.Value.(*waiter)
		if w.deadline != 0 && now+q.typical > w.deadline {
			q.waiting.Remove(at)
			w.got <- result{err: ErrTooLate}
			continue
		}
		p, ok := q.l.Acquire(now)
		if !ok {
			return
		}
		q.waiting.Remove(at)
		w.got <- result{permit: p}
	}
}

// Success is [Limiter.Success], and lets the next in.
func (q *Queue) Success(p Permit) {
	now := q.clock()
	q.l.Success(p, now)
	q.mu.Lock()
	defer q.mu.Unlock()
	if took := now - p.start; q.typical == 0 {
		q.typical = took
	} else {
		q.typical += (took - q.typical) / 16
	}
	q.wake(now)
}

// Ignore is [Limiter.Ignore], and lets the next in.
func (q *Queue) Ignore(p Permit) {
	q.l.Ignore(p)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wake(q.clock())
}

// Drop is [Limiter.Drop], and lets the next in.
func (q *Queue) Drop(p Permit) {
	now := q.clock()
	q.l.Drop(p, now)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wake(now)
}
