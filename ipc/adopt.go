package ipc

import (
	"context"
	"net/http"
	"time"

	"github.com/roadbed/roadbed/fault"
)

// Adopt gives ctx what travels with the request that h is the header of, as [Engine.Handler] does for the requests it
// serves: id, deadline, criticality, attempt, trace and faults. It is for who makes calls on behalf of others, as a
// sidecar does for its neighbour. Call cancel when the request is done.
//
// Within is the context of the inbound request in whose course this one is made, nil when that is not known. What h
// does not say is taken from there; the deadline is the earlier of both and the criticality the lower. A callee's
// word that nobody should try again is handed to the inbound request.
//
// ok is false if the caller's time is up already.
func (e *Engine) Adopt(ctx context.Context, h http.Header, within context.Context) (out context.Context, cancel context.CancelFunc, ok bool) {
	now := time.Now()
	in := readInbound(&e.server, h)
	var deadline time.Time
	if left, said := readTimeout(h); said {
		deadline = now.Add(left)
	}
	var f *fault.Context
	if within != nil {
		f = fault.From(within) // it counts what it has done to the whole request
		if t, has := within.Deadline(); has && (deadline.IsZero() || t.Before(deadline)) {
			deadline = t
		}
		if up := inboundOf(within); up != nil {
			in.up = up
			in.criticality, in.priority = max(in.criticality, up.criticality), max(in.priority, up.priority)
			in.attempt = max(in.attempt, up.attempt)
			if in.traceparent == "" {
				in.traceparent, in.tracestate = up.traceparent, up.tracestate
			}
		}
	}
	if f == nil {
		f = e.faultsIn(h, in, now)
	}
	out = context.WithValue(ctx, inboundKey{}, in)
	if f != nil {
		out = fault.With(out, f)
	}
	if deadline.IsZero() {
		return out, func() {}, true
	}
	out, cancel = context.WithDeadline(out, deadline)
	return out, cancel, deadline.After(now)
}

// faultsIn returns the rules that h brings, nil if there are none or they are not to be believed.
func (e *Engine) faultsIn(h http.Header, in *inbound, now time.Time) *fault.Context {
	text := first(h[fault.Header])
	if text == "" {
		return nil
	}
	key := e.faultKey()
	if len(key) == 0 {
		return nil
	}
	f, err := fault.Parse(key, text, in.id, now)
	if err != nil {
		e.server.ignored.Inc()
		e.log.Debug("fault header ignored", "err", err)
		return nil
	}
	f.Arrived(e.Here(in.attempt))
	return f
}

// FaultsOn reports whether faults are injected at all: neither fault.enabled nor ipc.fit.enabled is false.
func (e *Engine) FaultsOn() bool { return e.faultsOn[0].Get() && e.faultsOn[1].Get() }

// Injecting tells that a's faults are about to be injected at a point of the request of that id, which is served by other
// means than [Engine.Handler]. ok is false if they must not be: a kill switch is thrown, or too many are under way. Else
// leave is called once their wait is over.
func (e *Engine) Injecting(point string, a *fault.Action, id, method, path string) (leave func(), ok bool) {
	if leave, ok = e.injecting(); !ok {
		return nil, false
	}
	e.injected(point, a)
	e.noteServed(method, path, id, "", "injected", a.Status, []byte("by rule "+a.Rule))
	return leave, true
}
