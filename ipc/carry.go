package ipc

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc/limit"
)

// What follows lets protocols other than HTTP/1 take part: they carry the same headers, under the same names, in
// whatever they have for headers.

// Carried are the names of the headers that a request brings along, in the form of [http.CanonicalHeaderKey].
var Carried = []string{
	HeaderRequestID, HeaderTimeout, HeaderAttempt, HeaderCaller, HeaderCriticality, HeaderPriority, "Grpc-Previous-Rpc-Attempts", "Traceparent", "Tracestate", fault.Header,
}

// Received is a request that this process serves.
type Received struct {
	engine *Engine
	in     *inbound
	start  int64
	permit limit.Permit
	held   bool // the permit
}

// Receive opens the context of a request that came in another way than through [Engine.Handler], from its headers.
// Calls made with the returned context hand on deadline, criticality, request id and faults. It fails with
// [ErrDeadlineSpent] if the caller's time was up on arrival. End must follow.
func (e *Engine) Receive(ctx context.Context, h http.Header) (context.Context, *Received, error) {
	r := &Received{engine: e, in: readInbound(&e.server, h), start: e.clock.now()}
	ctx = context.WithValue(ctx, inboundKey{}, r.in)
	if d, ok := ctx.Deadline(); ok && e.clock.at(d) <= r.start {
		e.server.expired.Inc()
		return ctx, r, ErrDeadlineSpent
	}
	shed := &e.server.shed
	var why refusal
	if r.permit, why = shed.admit(e, r.start, r.in.importance); why != admitted {
		shed.count(e, r.in.criticality, why)
		r.in.noRetry.Store(true)
		return ctx, r, &shedError{strings.TrimSpace(string(shed.answers.Load().body[r.in.criticality][why]))}
	}
	r.held = true
	if f := e.faultsIn(h, r.in, e.clock.time(r.start)); f != nil {
		ctx = fault.With(ctx, f)
	}
	return ctx, r, nil
}

// NoRetry reports whether a callee, or the budget of this process, asks that nobody upstream tries again.
func (r *Received) NoRetry() bool { return r.in.noRetry.Load() }

// Streams tells that the request lasts as long as its caller likes: it no longer counts as in flight, and says nothing
// about load.
func (r *Received) Streams() {
	if r.held {
		r.held = false
		r.engine.server.shed.leave(r.permit, 0, false, false)
	}
}

// End records the request under the class of an HTTP status that says how it ended.
func (r *Received) End(status int) {
	now, shed := r.engine.clock.now(), &r.engine.server.shed
	if r.held {
		shed.leave(r.permit, now, status < 400, status == http.StatusGatewayTimeout)
		shed.done.Add(1)
		if status >= 500 {
			shed.errors.Add(1)
		}
	}
	r.engine.server.record(r.engine, r.in.caller, status, time.Duration(now-r.start))
}

// shedError is an ErrShed that says which limit refused.
type shedError struct{ text string }

func (s *shedError) Error() string        { return s.text }
func (s *shedError) Is(target error) bool { return target == ErrShed }

// Carry calls set with each header that a call made for the request of ctx hands on, the deadline excepted: name in
// the form of [http.CanonicalHeaderKey]. attempt counts from 1.
func (e *Engine) Carry(ctx context.Context, c *Command, attempt int, set func(name, value string)) {
	in := inboundOf(ctx)
	crit, prio := in.lowered(c.set.Load().Criticality)
	if in != nil {
		attempt += in.attempt - 1
		if in.id != "" {
			set(HeaderRequestID, in.id)
		}
		if in.traceparent != "" {
			set("Traceparent", in.traceparent)
			if in.tracestate != "" {
				set("Tracestate", in.tracestate)
			}
		}
	}
	set(HeaderAttempt, strconv.Itoa(attempt))
	set(HeaderCriticality, crit.String())
	if prio != usualPriority[crit] {
		set(HeaderPriority, strconv.Itoa(int(prio)))
	}
	if e.app != "" {
		set(HeaderCaller, e.app)
	}
	if f := fault.From(ctx); f != nil {
		set(fault.Header, f.Header())
	}
}

// Inject does what the faults of the request of ctx ask of an injection point that has neither a connection nor a body:
// it waits, and returns the error to fail with, nil if the call goes on. The kill switch and the limit on faults at once
// hold.
func (e *Engine) Inject(ctx context.Context, point, name string) error {
	f := fault.From(ctx)
	if f == nil { // hot path: 0 allocs
		return nil
	}
	a := f.At(point, name)
	if a.Delay <= 0 && a.Err == nil && !a.Hang {
		return nil // nothing, or what concerns a body or a cache
	}
	leave, ok := e.injecting()
	if !ok {
		return nil
	}
	defer leave()
	e.injected(point, &a)
	if err := a.Wait(ctx); err != nil {
		return err
	}
	if a.Reject {
		return fmt.Errorf("%w: %w", ErrRejected, a.Err)
	}
	return a.Err
}

// Watch calls fn with the instances of app, as [Lists] does.
func (e *Engine) Watch(app string, fn func([]roadbed.Instance)) (stop func()) {
	return e.lists.Watch(app, fn)
}

// Ticket is the right to one call whose end is not the return of a function: a stream.
type Ticket struct {
	c *Command
	p permit
}

// Begin asks breaker and bulkhead for a call that has no timeout of its own. Done must follow unless it fails.
func (c *Command) Begin(ctx context.Context) (*Ticket, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("ipc: call %s: %w", c.name, err)
	}
	set := c.set.Load()
	t := &Ticket{c: c, p: permit{start: c.clock.now(), deadline: noDeadline}}
	if refused := c.permit(ctx, &t.p, set, int64(set.MaxConcurrent)); refused != nil {
		c.count(fallbackMissing)
		c.report(&ending{kind: refused.Kind}, resultFailure)
		return nil, refused
	}
	return t, nil
}

// Done ends the call: with nil, or with why it failed. An error marked by [BadRequest] says nothing about health.
func (t *Ticket) Done(ctx context.Context, err error) {
	c := t.c
	if err == nil {
		c.finish(&t.p, success, c.clock.now())
		c.report(&ending{start: t.p.start}, resultSuccess)
	} else {
		kind, _, _ := c.failed(ctx, &t.p, nil, err, c.clock.now(), false)
		if kind == invalid {
			c.report(&ending{kind: None, start: t.p.start}, resultSuccess)
		} else {
			c.report(&ending{kind: kind, start: t.p.start}, resultFailure)
		}
	}
	c.release(&t.p)
}

// RefuseRetries tells whoever is upstream of the request of ctx not to try it again.
func RefuseRetries(ctx context.Context) {
	if in := inboundOf(ctx); in != nil {
		in.noRetry.Store(true)
	}
}

// App returns the app that the engine makes calls for, "" if it did not say.
func (e *Engine) App() string { return e.app }

// Zone returns the zone that the engine makes calls from, "" if it did not say.
func (e *Engine) Zone() string { return e.zone }
