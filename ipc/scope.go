package ipc

import (
	"context"
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
	deadline        int64 // on the engine's clock; 0 = only the parent's counts; noDeadline = cancelled by end only

	mu    sync.Mutex
	err   error         // why the scope ended; nil before
	done  chan struct{} // nil until asked for
	armed *armed        // nil until asked for

	http  *exchange   // the HTTP call this is the context of; nil in a Call
	other atomic.Bool // an HTTP call to an app of another name ran inside and reported itself
}

const noDeadline = math.MaxInt64

// armed is what a scope needs once somebody waits for its end.
type armed struct {
	timer  *time.Timer
	detach func() bool // stops following the parent
	funcs  []*func()
}

type scopeKey struct{}

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
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err = s.Context.Err(); err == nil && s.deadline != noDeadline && s.cmd.clock.now() >= s.deadline {
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		s.done = make(chan struct{})
		if s.err != nil {
			close(s.done)
		} else {
			s.arm()
		}
	}
	return s.done
}

// AfterFunc runs f once the scope ends, on the goroutine that ends it. The standard library looks for this method, so
// that a child context needs no goroutine to follow its parent; what it passes is quick and takes no lock of ours.
func (s *scope) AfterFunc(f func()) (stop func() bool) {
	if s.deadline == 0 {
		return context.AfterFunc(s.Context, f)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		go f() // mu is held
		return func() bool { return false }
	}
	s.arm()
	s.armed.funcs = append(s.armed.funcs, &f)
	return func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		i := slices.Index(s.armed.funcs, &f)
		if i < 0 {
			return false
		}
		s.armed.funcs = slices.Delete(s.armed.funcs, i, i+1)
		return true
	}
}

// arm starts the timer and follows the parent, once. The caller holds mu, and the scope has not ended.
func (s *scope) arm() {
	if s.armed != nil {
		return
	}
	s.armed = new(armed)
	if s.deadline != noDeadline {
		s.armed.timer = time.AfterFunc(time.Duration(s.deadline-s.cmd.clock.now()), func() { s.end(context.DeadlineExceeded) })
	}
	if s.Context.Done() != nil {
		s.armed.detach = context.AfterFunc(s.Context, func() { s.end(s.Context.Err()) })
	}
}

// end ends the scope: its first reason counts.
func (s *scope) end(reason error) {
	if s.deadline == 0 {
		return
	}
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = reason
	if s.done != nil {
		close(s.done)
	}
	a := s.armed
	var funcs []*func()
	if a != nil {
		if a.timer != nil {
			a.timer.Stop()
		}
		funcs, a.funcs = a.funcs, nil
	}
	s.mu.Unlock()
	if a != nil && a.detach != nil {
		a.detach()
	}
	for _, f := range funcs {
		(*f)()
	}
	if s.http != nil {
		s.http.finish() // a caller who forgot to close the body must not keep the permit for ever
	}
}
