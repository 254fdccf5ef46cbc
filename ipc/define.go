package ipc

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Definition declares a command: what it does with an argument, and what to do instead when that fails.
type Definition[A, R any] struct {
	// Group is the name under which dashboards show the command together with others; its own name if empty.
	Group string

	// Run does the work. If the command is isolated by threads it runs on a goroutine of its own, which its caller
	// leaves behind at the timeout; a panic is then the error [*Panic]. Else it is as the run function of [Call].
	Run func(ctx context.Context, arg A) (R, error)

	// Fallback answers instead, as in [CallOr]; nil is none.
	Fallback func(ctx context.Context, arg A, cause error) (R, error)

	// CacheKey makes calls with equal keys share one execution within a request: see [Defined.Call]. Nil is never.
	CacheKey func(arg A) string

	// IsBadRequest tells of errors of Run that are the caller's own fault, as if marked by [BadRequest]. Nil is none.
	IsBadRequest func(err error) bool

	Settings Settings
}

// Defined is a command that was declared. Get one from [Define]; its methods may be used from many goroutines.
type Defined[A, R any] struct {
	cmd *Command
	def Definition[A, R]
}

// Define declares the command of that name, once for each engine. It panics if the definition makes no sense: that is
// a mistake of the program.
func Define[A, R any](e *Engine, name string, d Definition[A, R]) *Defined[A, R] {
	if d.Run == nil {
		panic(fmt.Sprintf("ipc: define command %q: it has no Run function", name))
	}
	cmd := e.define("command", name, d.Group, d.Settings)
	return &Defined[A, R]{cmd, d}
}

// define makes a command that must not have been defined before.
func (e *Engine) define(what, name, group string, s Settings) *Command {
	err := s.validate()
	switch {
	case name == "" || name == "default":
		err = fmt.Errorf("%q cannot be its name: properties could not tell it from all the others", name)
	case group != "" && s.Group != "" && group != s.Group:
		err = fmt.Errorf("its Group is %q, that of its Settings %q; give one", group, s.Group)
	}
	if group != "" {
		s.Group = group
	}
	e.mu.Lock()
	if err == nil && e.defined[name] {
		err = errors.New("it is defined already; keep what Define returned and use it everywhere")
	}
	if err == nil {
		e.defined[name] = true
	}
	e.mu.Unlock()
	if err != nil {
		panic(fmt.Sprintf("ipc: define %s %q: %v", what, name, err))
	}
	return e.Command(name, s)
}

// Call runs the command. Its errors are those of [Call].
//
// With a CacheKey, and within a request (see [NewRequest]), calls with equal keys get the answer of the first, be it a
// result, that of the fallback or an error. They share what is returned, so nobody may alter it. While it is worked on
// they wait for it together; it is given up when the last of them has gone, and then forgotten.
func (d *Defined[A, R]) Call(ctx context.Context, arg A) (v R, err error) {
	if d.def.CacheKey != nil {
		if in := inboundOf(ctx); in != nil && !d.cmd.set.Load().CacheOff && ctx.Err() == nil {
			return d.share(ctx, &in.request, arg)
		}
	}
	var how ending
	v, err = d.call(ctx, arg, &how)
	d.cmd.logCall(ctx, &how)
	return v, err
}

func (d *Defined[A, R]) call(ctx context.Context, arg A, how *ending) (R, error) {
	v, err := call(ctx, d.cmd, func(ctx context.Context) (R, error) {
		if s, ok := ctx.(*scope); ok && s.pool != nil {
			return detached(s, func(ctx context.Context) (R, error) { return d.run(ctx, arg) })
		}
		return d.run(ctx, arg)
	}, d.def.Fallback != nil, how)
	switch {
	case how.kind == invalid:
		err = unmark(err)
	case how.kind != None && how.kind != Cancelled && d.def.Fallback != nil:
		v, err = instead(ctx, d.cmd, how, err, func(ctx context.Context, cause error) (R, error) { return d.def.Fallback(ctx, arg, cause) })
	}
	return v, err
}

func (d *Defined[A, R]) run(ctx context.Context, arg A) (R, error) {
	v, err := d.def.Run(ctx, arg)
	if err != nil && d.def.IsBadRequest != nil && d.def.IsBadRequest(err) {
		err = BadRequest(err)
	}
	return v, err
}

// share waits for the one execution that all callers with this key have in common, which the first begins.
func (d *Defined[A, R]) share(ctx context.Context, r *request, arg A) (v R, err error) {
	c, key := d.cmd, d.def.CacheKey(arg)
	k := cacheKey{c, key}
	f, first := r.join(k)
	if first {
		shared, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		r.mu.Lock()
		f.cancel = cancel
		r.mu.Unlock()
		go func() {
			defer close(f.done)
			defer cancel(nil)
			defer func() { f.panick = recover() }()
			f.err = errNoReturn
			f.v, f.err = d.call(shared, arg, &f.how)
			if c.engine.logging.Load() > 0 {
				c.log(shared, &f.how, logged{key: key})
			}
		}()
	} else {
		c.count(fromCache)
	}
	if why := f.wait(ctx, r, k); why != nil {
		kind := Cancelled
		if errors.Is(why, context.DeadlineExceeded) {
			kind = TimedOut
		}
		how := ending{kind: kind, other: true} // the execution reports itself
		err = &Error{Command: c.name, Kind: kind, Cause: why}
		if kind == TimedOut && d.def.Fallback != nil {
			return instead(ctx, c, &how, err, func(ctx context.Context, cause error) (R, error) { return d.def.Fallback(ctx, arg, cause) })
		}
		return v, err
	}
	if !first && c.engine.logging.Load() > 0 {
		c.log(ctx, &f.how, logged{key: key, cached: true})
	}
	if f.panick != nil {
		panic(f.panick)
	}
	v, _ = f.v.(R) // nil if R is an interface
	return v, f.err
}

// wait waits for the flight, or until ctx ends; then it says why. The last who waits in time for a flight that must
// end now sees it to its end.
func (f *flight) wait(ctx context.Context, r *request, k cacheKey) error {
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
	}
	why := ctx.Err()
	cause := errCallersGone
	if errors.Is(why, context.DeadlineExceeded) {
		cause = errCallersLate
	}
	if r.leave(k, f, cause) && cause == errCallersLate {
		<-f.done
		return nil
	}
	return why
}

// Forget drops the answer that the request of ctx has cached for arg, so that the next call asks anew.
func (d *Defined[A, R]) Forget(ctx context.Context, arg A) {
	if in := inboundOf(ctx); in != nil && d.def.CacheKey != nil {
		in.request.forget(cacheKey{d.cmd, d.def.CacheKey(arg)})
	}
}

// Go is Call on a goroutine of its own.
func (d *Defined[A, R]) Go(ctx context.Context, arg A) *Future[R] {
	return goCall(ctx, d.cmd, func(ctx context.Context) (R, error) { return d.Call(ctx, arg) })
}

// Future is a call under way.
type Future[R any] struct {
	cmd    *Command
	cancel context.CancelFunc
	gone   chan struct{} // closed by Cancel
	once   sync.Once
	done   chan struct{} // closed once what follows is set
	v      R
	err    error
	panick any
}

func goCall[R any](ctx context.Context, c *Command, call func(context.Context) (R, error)) *Future[R] {
	ctx, cancel := context.WithCancel(ctx)
	f := &Future[R]{cmd: c, cancel: cancel, gone: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		defer cancel()
		defer func() { f.panick = recover() }()
		f.err = errNoReturn
		f.v, f.err = call(ctx)
	}()
	return f
}

// Done is closed once the call has ended.
func (f *Future[R]) Done() <-chan struct{} { return f.done }

// Get waits for the call, or until ctx ends, which leaves the call alone. If the run function panicked, so does Get.
func (f *Future[R]) Get(ctx context.Context) (v R, err error) {
	select {
	case <-f.done:
		if f.panick != nil {
			panic(f.panick)
		}
		return f.v, f.err
	case <-f.gone:
		return v, &Error{Command: f.cmd.name, Kind: Cancelled, Cause: context.Canceled}
	case <-ctx.Done():
		return v, ctx.Err()
	}
}

// Cancel ends the wait of all who Get. The run function goes on, unless Settings.InterruptOnCancel says otherwise.
func (f *Future[R]) Cancel() {
	f.once.Do(func() {
		if f.cmd.set.Load().InterruptOnCancel {
			f.cancel()
		}
		close(f.gone)
	})
}

// errNoReturn is what callers get of a run function that called runtime.Goexit on a goroutine of ours.
var errNoReturn = errors.New("its run function ended its goroutine instead of returning")

// Panic is the error of a call whose run function panicked on a goroutine where it would have ended the process.
type Panic struct {
	Value any
	Stack []byte
}

// Error tells the value and where it happened.
func (p *Panic) Error() string {
	return fmt.Sprintf("its run function panicked: %v\n\n%s", p.Value, p.Stack)
}

// detached runs run on a goroutine of its own and returns when it does, or when s ends. What the call holds it keeps
// until run returns.
func detached[R any](s *scope, run func(context.Context) (R, error)) (v R, err error) {
	const (
		waiting int32 = iota
		ended
		left
	)
	var state atomic.Int32
	done := make(chan struct{})
	ctx := context.Context(s)
	if s.cmd.set.Load().Uninterrupted {
		ctx = &scope{Context: s.Context, cmd: s.cmd}
	}
	var got R
	failed := errNoReturn
	go func() {
		defer func() {
			if p := recover(); p != nil {
				failed = &Panic{p, debug.Stack()}
			}
			if state.CompareAndSwap(waiting, ended) {
				close(done)
				return
			}
			if failed == nil {
				discard(got)
			}
			s.cmd.abandoned.Add(-1)
			s.release()
		}()
		got, failed = run(ctx)
	}()
	select {
	case <-done:
	case <-s.Done():
		s.cmd.abandoned.Add(1)
		if state.CompareAndSwap(waiting, left) {
			s.kept = true
			return v, s.Err()
		}
		s.cmd.abandoned.Add(-1)
		<-done
	}
	return got, failed
}
