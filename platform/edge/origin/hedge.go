package origin

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/balance"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Hedging: where a GET takes longer than most do, a second one goes to another instance, and the first answer counts.

// errOutrun is why the slower of two attempts is cancelled.
var errOutrun = errors.New("another attempt of the same request answered first")

// racer is one of two attempts at once. It has an exchange of its own, for only one of the two may touch the request's.
type racer struct {
	call   *call
	x      filter.Exchange
	cancel context.CancelCauseFunc
	ep     *balance.Endpoint
	start  int64
	ended  bool // what follows may be looked at
	took   int64
	kind   kind
	err    error
}

// hedges reports whether the request may have a second attempt, and how long the first is waited for before.
func (c *call) hedges() (after time.Duration, ok bool) {
	x := c.x
	wanted := x.Plan != nil && x.Plan.Hedge
	if x.Request.Method != http.MethodGet || x.Request.Body != nil || x.Request.Upgrade != "" || x.Fault != nil || c.grpc {
		return 0, false
	}
	return c.passage.Hedge(wanted)
}

// enter has an attempt run that asks ep.
func (c *call) enter(ep *balance.Endpoint, limit time.Duration, number string, back chan<- *racer) *racer {
	x := c.x
	r := &racer{call: &call{proxy: c.proxy, origin: c.origin, set: c.set, general: c.general, addr: c.addr, connectWithin: c.connectWithin, way: c.way}, ep: ep, start: filter.Now()}
	q := &r.x.Request
	*q = filter.Request{Method: x.Request.Method, Target: x.Request.Target, Scheme: x.Request.Scheme, Host: x.Request.Host, Path: x.Request.Path, RawQuery: x.Request.RawQuery, Proto: x.Request.Proto}
	for _, f := range x.Request.Header.Fields() {
		q.Header.Add(f.Name, f.Value)
	}
	q.Header.Set(ipc.HeaderAttempt, number)
	r.x.Deadline, r.x.Plan, r.x.Path, r.x.Host, r.x.App, r.x.ID = x.Deadline, x.Plan, x.Path, x.Host, x.App, x.ID
	ctx, cancel := context.WithCancelCause(c.here)
	r.cancel = cancel
	r.x.SetContext(ctx)
	r.call.x = &r.x
	r.call.done, r.call.early = r.call.finished, r.call.earlyAnswer
	go func() {
		defer func() {
			r.took = filter.Now() - r.start
			back <- r
		}()
		defer c.proxy.panics.Catch("hedge", func(err error) { r.kind, r.err = other, err })
		r.kind, r.err = r.call.carry(ep, limit, filter.Now())
	}()
	return r
}

// discard gives up what nobody wants.
func (r *racer) discard() {
	r.x.End()
	r.cancel(errOutrun)
}

// usable reports whether an answer is good enough not to wait for another.
func (r *racer) usable() bool {
	if r.err != nil {
		return false
	}
	switch s := r.x.Response.Status; s {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	default:
		return s < http.StatusInternalServerError
	}
}

// race makes the request's first attempt, and one more at another instance if it takes longer than after.
func (c *call) race(after, limit time.Duration) (kind, error) {
	c.tell()
	c.here, c.leave = c.present()
	back := make(chan *racer, 2)
	all := [2]*racer{c.enter(c.passage.Endpoint(), limit, "1", back)}
	running := 1
	timer := time.NewTimer(after)
	defer timer.Stop()
	var won *racer
	for won == nil {
		select {
		case one := <-back:
			one.ended = true
			if running--; one.usable() || running == 0 {
				won = one
			}
		case <-timer.C:
			if ep := c.passage.Second(); ep != nil {
				all[1] = c.enter(ep, limit, "2", back)
				running++
			}
		}
	}
	if all[1] != nil {
		lost := all[0]
		if won == lost {
			lost = all[1]
		}
		c.settle(won == all[1], lost, back)
	}
	return c.adopt(won)
}

// settle ends the attempt that does not count.
func (c *call) settle(second bool, lost *racer, back <-chan *racer) {
	lost.cancel(errOutrun)
	if !lost.ended {
		select {
		case <-back: // just now
			lost.ended = true
		default:
		}
	}
	if !lost.ended {
		c.passage.Settle(second, nil)
		c.noteAt(lost.ep, cancelled, errOutrun, filter.Now()-lost.start)
		panics := c.proxy.panics
		go func() { // it ends at once, for it was cancelled
			defer panics.Catch("hedge", nil)
			<-back
			lost.discard()
		}()
		return
	}
	x := c.x
	said := hear(&lost.x.Response.Header, c.general.Utilization, nil)
	x.Response.Status = lost.x.Response.Status
	c.said = said
	k := lost.kind
	if lost.err == nil {
		k = answered(lost.x.Response.Status)
	}
	o := c.outcome(k, lost.err)
	c.passage.Settle(second, &o)
	c.noteAt(lost.ep, k, lost.err, lost.took)
	x.Response.Status, c.said = 0, saying{}
	lost.discard()
}

// adopt makes the attempt that counts the request's.
func (c *call) adopt(won *racer) (kind, error) {
	x := c.x
	x.OnEnd(func(*filter.Exchange) { won.discard() })
	if won.err != nil {
		return won.kind, won.err
	}
	from, to := &won.x.Response, &x.Response
	to.Status, to.ContentLength, to.Body, to.Trailer, to.Flush = from.Status, from.ContentLength, from.Body, from.Trailer, from.Flush
	for _, f := range from.Header.Fields() {
		to.Header.Add(f.Name, f.Value)
	}
	from.Body = nil
	for i := range won.x.Passport.Len() {
		s := won.x.Passport.Stamp(i)
		x.Passport.AddAt(s.State, s.At)
	}
	c.reused, c.unsent = won.call.reused, won.call.unsent
	return fine, nil
}
