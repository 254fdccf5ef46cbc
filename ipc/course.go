package ipc

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc/balance"
)

// course is how far a call has come with its attempts, whoever carries them: the HTTP client, or the maker of a
// [Passage].
type course struct {
	cluster  *cluster
	inbound  *inbound
	endpoint *balance.Endpoint // of the last attempt
	tried    [maxAttempts]*balance.Endpoint
	attempts int
	sent     int16 // of those, such as may have reached somebody
	retries  int16 // that are left
	most     int16 // attempts in all; 0: maxAttempts
	nested   bool  // the request served is itself a retry
	charged  bool  // the next attempt is
	first    try   // what is remembered of the attempts
	more     []try
}

// begin counts a call that was admitted and finds out how often it may be tried again; own is what the caller says of
// that, 0 is nothing. all tells that the app's requests may be sent twice whatever their methods.
func (c *course) begin(set *settings, own int) (all bool) {
	c.cluster.budget.requests.Add(1)
	retries := set.Retries
	if w := c.cluster.wire.Load(); w != nil {
		all = w.RetryAll
		if retries == builtIn.Retries { // our own property says nothing
			retries = w.Retries(retries)
		}
	}
	if own != 0 {
		retries = own
	}
	c.retries = int16(min(max(retries, 0), maxAttempts-1))
	if c.nested = c.inbound != nil && c.inbound.attempt > 1 && !set.RetryNested; c.nested {
		c.retries = 0 // whoever retries upstream pays; else retries multiply per hop
	}
	return all
}

// count counts an attempt.
func (c *course) count(t *try) {
	c.tried[c.attempts] = t.endpoint
	c.attempts++
	c.sent++
	t.number = c.sent
}

// upshot is how an attempt ended, as far as it matters for another.
type upshot struct {
	status     int    // of its answer; 0: there was none
	retryAfter string // in the answer
	noRetry    bool   // the answer forbids another
	gone       bool   // the caller has left, or its time is up
	unsent     bool   // nobody looked at the request
	whole      bool   // the request can be sent once more
	wish       RetryWish
}

// decide finds out whether another attempt follows the one of t, after how long, and where: nil is nowhere, and t.next
// says why. extra tells that there were two, the second of which is charged to the budget. If no attempt follows it tells
// those upstream not to try again where that would not help: whoever is nearest to the trouble retries; were each hop to
// retry what the next has retried in vain, attempts would multiply.
func (c *course) decide(set *settings, t *try, o *upshot, idempotent, extra bool, deadline int64) (next *balance.Endpoint, wait time.Duration) {
	v, wait, charged := c.judge(o, idempotent)
	if (extra || t.cause == retried) && v != settled {
		c.cluster.budget.wasted()
	}
	if v == noneLeft && c.nested {
		v = nested
	}
	if v == goOn {
		v, next = c.onward(set, wait, charged, deadline)
	}
	switch t.next = v; v {
	case goOn:
		if c.charged = charged; charged {
			c.retries--
		} else {
			c.sent--
		}
		return next, wait
	case settled, notSafe, callerGone:
	case overBudget, toldNot, askedNot:
		c.noRetry()
	default:
		if c.sent > 1 {
			c.noRetry()
		}
	}
	return nil, 0
}

// again returns the next attempt, which decide has wanted.
func (c *course) again(now int64, wait time.Duration, ep *balance.Endpoint) *try {
	cause := resent
	if c.charged {
		cause = retried
	}
	c.more = append(c.more, try{at: now, wait: int64(wait), endpoint: ep, cause: cause})
	return &c.more[len(c.more)-1]
}

// noRetry tells those upstream not to try again.
func (c *course) noRetry() {
	for in := c.inbound; in != nil; in = in.up {
		in.noRetry.Store(true)
	}
}

// onward finds out whether another attempt, which is wanted, may and can be made, and where.
func (c *course) onward(set *settings, wait time.Duration, charged bool, deadline int64) (verdict, *balance.Endpoint) {
	switch {
	case c.attempts == maxAttempts:
		return tooMany, nil
	case c.most > 0 && c.attempts >= int(c.most):
		return noneLeft, nil
	}
	e := c.cluster.engine
	now := e.clock.now()
	if charged && c.cluster.lulls(now, c.attempts-1) {
		return askedNot, nil
	}
	next := c.cluster.lb.Another(now, c.tried[:c.attempts], charged)
	if next == nil {
		return nobodyElse, nil
	}
	if deadline != noDeadline && now+int64(wait)+c.cluster.lb.Typical() >= deadline {
		return tooLate, nil
	}
	if charged && !c.cluster.budget.take(set) {
		e.meter.Counter("ipc.budget.exhausted", "ipc.vip", c.cluster.name).Inc()
		return overBudget, nil
	}
	return goOn, next
}

// judge decides whether an attempt's outcome calls for another, after how long, and whether that is charged to the
// budget.
func (c *course) judge(o *upshot, idempotent bool) (v verdict, wait time.Duration, charged bool) {
	switch {
	case o.gone:
		return callerGone, 0, false
	case o.unsent && !o.whole:
		return bodySent, 0, false
	case o.unsent:
		return goOn, 0, false
	case o.status == 0:
		return c.mayRepeat(o, idempotent), backoff(c.attempts - 1), true
	case o.status < 400 && o.wish != RetryThis:
		return settled, 0, false
	case o.noRetry:
		return toldNot, 0, false
	}
	after, asked, valid := parseRetryAfter(o.retryAfter, time.Now())
	switch o.status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if o.wish == RetryNotThis {
			return settled, 0, false
		}
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		if o.wish == RetryNotThis || !asked && o.wish != RetryThis {
			return settled, 0, false
		}
	default:
		if o.wish != RetryThis {
			return settled, 0, false
		}
	}
	if asked && !valid {
		return badPushback, 0, false
	}
	wait = backoff(c.attempts - 1)
	if asked {
		wait = after
	}
	return c.mayRepeat(o, idempotent), wait, true
}

// mayRepeat reports whether what may have reached the callee may be sent once more.
func (c *course) mayRepeat(o *upshot, idempotent bool) verdict {
	switch {
	case !idempotent:
		return notSafe
	case c.retries <= 0:
		return noneLeft
	case !o.whole:
		return bodySent
	}
	return goOn
}

// inject does what the faults f ask of an attempt at this app, up to what shall come in place of an answer, or be done
// to one.
func (c *course) inject(ctx context.Context, f *fault.Context, t *try) (a fault.Action, err error) {
	e := c.cluster.engine
	if a = f.At("client", c.cluster.name); !a.Acts() {
		return fault.Action{}, nil
	}
	leave, ok := e.injecting()
	if !ok {
		return fault.Action{}, nil
	}
	defer leave()
	e.injected("client", &a)
	t.fault = a.Rule
	if err := a.Wait(ctx); err != nil {
		return a, err
	}
	switch {
	case a.Reset:
		return a, &injectedReset{a.Err}
	case a.Reject:
		return a, fmt.Errorf("%w: %w", ErrRejected, a.Err)
	case a.Status != 0:
		c.cluster.attempt(t.endpoint.Zone, false)
	}
	return a, nil
}

// reported takes what the callee says of its load in its answer's headers, if it does. What makes no sense is no report.
func reported(ep *balance.Endpoint, utilization, load string, now int64) {
	if utilization != "" {
		if u, err := balance.ParseUtilization(utilization); err == nil {
			ep.Report(u, now)
		}
	} else if load != "" {
		if l, err := balance.ParseLoad(load); err == nil && l.Utilization() > 0 {
			ep.Report(l.Utilization(), now)
		}
	}
}

// told returns what a caller is told of a call that has no answer.
func (c *course) told(kind Kind, err error) *Error {
	out := &Error{Command: c.cluster.name, Kind: kind, Attempts: c.attempts, Cause: err}
	if c.endpoint != nil {
		out.Endpoint = c.endpoint.Addr
	}
	if inner, ok := err.(*Error); ok {
		out.Cause = inner.Cause
	}
	return out
}

// meaning says how a call ended by the status of its answer, and by its X-Ipc-Error.
func (c *Command) meaning(p *permit, status int, why string) (kind Kind, e event, r result) {
	switch {
	case isShed(status, why): // it costs the callee next to nothing, and says nothing against what is more important
		if p.lease != nil {
			p.lease.dropped = true
		}
		return Shed, unanswered, resultFailure
	case !balance.Failing(status):
		return None, success, resultSuccess
	case c.hastily(p, status):
		return TimedOut, hasty, resultFailure
	case why == "injected":
		return Injected, failure, resultFailure
	}
	return Failed, failure, resultFailure
}

// settle counts an HTTP call that has an answer of that meaning.
func (c *Command) settle(ctx context.Context, p *permit, kind Kind, e event, r result, end int64) {
	c.finish(p, e, end)
	how := ending{event: e, ran: true, start: p.start}
	if r == resultFailure {
		how.fallback = fallbackMissing
	}
	c.tell(ctx, &how, kind, r, end)
}

// settleFailed counts an HTTP call that has no answer.
func (c *Command) settleFailed(ctx context.Context, p *permit, kind Kind, err error, end int64) {
	how := ending{event: c.counted(p, eventOf(kind, err)), ran: true, start: p.start}
	c.finish(p, how.event, end)
	if kind != Cancelled {
		c.count(fallbackMissing)
		how.fallback = fallbackMissing
	}
	c.tell(ctx, &how, kind, resultFailure, end)
}

// tell has log and meters tell of an HTTP call.
func (c *Command) tell(ctx context.Context, how *ending, kind Kind, r result, end int64) {
	c.logCall(ctx, how)
	if c.engine.meter != nil {
		c.record(r, kind, time.Duration(end-how.start))
	}
}
