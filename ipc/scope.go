package ipc

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// scope is the context of one call. It has a deadline of its own and costs one allocation: no timer runs and nothing
// is registered with the parent until somebody asks for Done. Scopes are never reused, because a run function may
// keep its context.
type scope struct {
	context.Context // the caller's
	cmd             *Command
	deadline        int64                // on the engine's clock; 0 = only the parent's counts; noDeadline = cancelled by end only
	life            atomic.Pointer[life] // nil until the scope ends or somebody waits for that
	http            *exchange            // the HTTP call this is the context of; nil in a Call
	pool            *pool                // where the call holds a slot; nil if it is not isolated by threads
	other           atomic.Bool          // an HTTP call to an app of another name ran inside and reported itself
	trial           bool                 // its breaker waits for how it ends
	kept            bool                 // the run function goes on without its caller, and releases the permit
}

// release gives back what a call on a pool holds.
func (s *scope) release() {
	s.cmd.release(&permit{})
	s.pool.leave()
}

const noDeadline = math.MaxInt64

// life is a scope's end, or what is needed to learn of it.
type life struct {
	mu     sync.Mutex
	err    error         // why the scope ended; nil before
	done   chan struct{} // closed once err is set
	timer  *time.Timer
	detach func() bool // stops following the parent
	funcs  []*func()
}

// The lives of scopes that ended before anybody asked. They never change.
var (
	livedTillReturn   = ended(context.Canceled)
	livedTillDeadline = ended(context.DeadlineExceeded)
)

func ended(reason error) *life {
	l := &life{err: reason, done: make(chan struct{})}
	close(l.done)
	return l
}

type scopeKey struct{}

// Hasty reports whether the call that ctx was made for by [Call] ran out of a time, after took, that its caller had set and
// that is less than such a call usually takes. It says nothing about the callee, then. It is for adapters of other
// protocols than HTTP.
func Hasty(ctx context.Context, took time.Duration) bool {
	s := scopeOf(ctx)
	return s != nil && s.deadline == 0 && errors.Is(s.Context.Err(), context.DeadlineExceeded) && int64(took) < s.cmd.usual()
}

// scopeOf returns the innermost command call that ctx belongs to, nil if none.
func scopeOf(ctx context.Context) *scope {
	s, _ := ctx.Value(scopeKey{}).(*scope)
	return s
}

// Deadline is the earlier of the parent's and the command's.
func (s *scope) Deadline() (time.Time, bool) {
	switch s.deadline {
	case 0:
		return s.Context.Deadline()
	case noDeadline:
		return time.Time{}, false
	}
	return s.cmd.clock.time(s.deadline), true
}

// Value finds the scope itself, and what the parent has.
func (s *scope) Value(key any) any {
	if _, ok := key.(scopeKey); ok {
		return s
	}
	return s.Context.Value(key)
}

// Err tells from the clock whether the deadline has passed, so that a loop which polls it needs no timer.
func (s *scope) Err() error {
	if s.deadline == 0 {
		return s.Context.Err()
	}
	if l := s.life.Load(); l != nil {
		l.mu.Lock()
		err := l.err
		l.mu.Unlock()
		if err != nil {
			return err
		}
	}
	err := s.Context.Err()
	if err == nil && s.deadline != noDeadline && s.cmd.clock.now() >= s.deadline {
		err = context.DeadlineExceeded
	}
	if err != nil {
		s.end(err)
	}
	return err
}

// Done arms the timer.
func (s *scope) Done() <-chan struct{} {
	if s.deadline == 0 {
		return s.Context.Done()
	}
	l := s.arm()
	l.mu.Unlock()
	return l.done
}

// AfterFunc runs f once the scope ends, on the goroutine that ends it. The standard library looks for this method, so
// that a child context needs no goroutine to follow its parent; what it passes is quick and takes no lock of ours.
func (s *scope) AfterFunc(f func()) (stop func() bool) {
	if s.deadline == 0 {
		return context.AfterFunc(s.Context, f)
	}
	l := s.arm()
	defer l.mu.Unlock()
	if l.err != nil {
		go f() // mu is held
		return func() bool { return false }
	}
	l.funcs = append(l.funcs, &f)
	return func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		i := slices.Index(l.funcs, &f)
		if i < 0 {
			return false
		}
		l.funcs = slices.Delete(l.funcs, i, i+1)
		return true
	}
}

// arm starts the timer and follows the parent, once. It returns with the life's mu held.
func (s *scope) arm() *life {
	l := s.life.Load()
	if l == nil {
		l = &life{done: make(chan struct{})}
		l.mu.Lock() // before anybody can see it
		if s.life.CompareAndSwap(nil, l) {
			if s.deadline != noDeadline {
				l.timer = time.AfterFunc(time.Duration(s.deadline-s.cmd.clock.now()), func() { s.end(context.DeadlineExceeded) })
			}
			if s.Context.Done() != nil {
				l.detach = context.AfterFunc(s.Context, func() { s.end(s.Context.Err()) })
			}
			return l
		}
		l = s.life.Load() // never becomes nil again
	}
	l.mu.Lock()
	return l
}

// end ends the scope: its first reason counts.
func (s *scope) end(reason error) {
	if s.deadline == 0 {
		return
	}
	l := s.life.Load()
	if l == nil {
		early := livedTillReturn
		if reason != context.Canceled {
			early = livedTillDeadline
		}
		if s.life.CompareAndSwap(nil, early) {
			if s.http != nil {
				s.http.finish()
			}
			return
		}
		l = s.life.Load()
	}
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = reason
	close(l.done)
	if l.timer != nil {
		l.timer.Stop()
	}
	funcs := l.funcs
	l.funcs = nil
	l.mu.Unlock()
	if l.detach != nil {
		l.detach()
	}
	for _, f := range funcs {
		(*f)()
	}
	if s.http != nil {
		s.http.finish() // a caller who forgot to close the body must not keep the permit for ever
	}
}
