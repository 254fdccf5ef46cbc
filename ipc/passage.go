package ipc

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc/balance"
)

// Passage is one balanced call to an app, made step by step by who speaks its own wire, as a proxy does. It decides what
// the HTTP client decides, by the same code: whether the call is let through, which instance gets it, whether it is tried
// again, when and where, and what is counted and told of it.
//
//	var p ipc.Passage // may be used again and again
//	err := p.Begin(ctx, engine, ipc.Trip{App: "catalog", Method: "GET", Path: "/titles", Timeout: time.Second})
//	for again := err == nil; again; {
//		if _, err = p.Start(); err != nil {
//			break
//		}
//		status, err = exchange(p.Endpoint()) // whatever that is
//		var wait time.Duration
//		wait, again = p.Outcome(ipc.Outcome{Status: status, Err: err, ...})
//		sleep(wait)
//	}
//	if err != nil {
//		err = p.Failed(err)
//	}
//	defer p.End() // when the answer's body is over
//
// It costs no allocation as long as the first attempt is the only one. Its methods are for one goroutine at a time.
//
// hot path: 0 allocs, BenchmarkPassage
type Passage struct {
	course
	engine *Engine
	cmd    *Command
	set    *settings
	ctx    context.Context
	call   Trip
	permit permit
	now    int64             // as last read
	since  int64             // when the callee got the present attempt
	ms     int64             // that the present attempt's callee is told; 0: no deadline
	at     int               // the present attempt: 0 is first, n is more[n-1]
	held   *balance.Endpoint // where it counts as active
	beside *balance.Endpoint // where the second of two does
	all    bool              // every request of the app's may be sent twice
	faulty bool              // the present attempt ends as a fault has it
	two    bool              // there were two attempts at once
	open   bool              // the permit is held
	said   bool              // the call is counted

	hedging *hedging // nil: there is nothing to record
}

// Trip is what a passage is for. App is needed.
type Trip struct {
	App     string        // in lower case
	Timeout time.Duration // that the request has for the whole call, at most 24 h; 0: as the app's command has it; negative: none
	Retries int           // at most 9; 0: as the app has it; negative: none
	Most    int           // attempts in all, those that reach nobody included; 0: 10

	// Room is how many calls may be in flight even if the app's settings allow fewer; negative is any number.
	Room int

	Group    string // the server group to ask; empty: any
	Instance string // the id of the only instance to ask; empty: any
	Force    bool   // ask that Instance even if it is not UP
	Addr     string // "host:port" to ask in place of any instance; empty: none
	Key      uint64 // of who asks: the first attempt goes to the same instance for the same key, while that is fit; 0: to any

	ID, Method, Path string // of the request, for who asks why; copied

	Now time.Time // the present time, by whoever has just read the clock; zero: it is read
}

// Outcome is how an attempt ended.
type Outcome struct {
	Status     int             // of the answer; 0: there was none
	Err        error           // why there was none
	Ended      balance.Verdict // Unreached, Broken or Abandoned, if there was no answer
	RetryAfter string          // the answer's header of that name
	NoRetry    bool            // the answer has [HeaderNoRetry]: 1
	Why        string          // the answer's header X-Ipc-Error: "shed", "injected"

	// What the callee says of its load, in the headers of those names.
	Utilization string // [balance.HeaderUtilization]
	Load        string // [balance.HeaderLoad]

	Repeatable bool      // sending the request twice does no harm
	Whole      bool      // the request can be sent once more: its body is at hand
	Wish       RetryWish // whether an answer of this status is worth a retry

	Now time.Time // when it ended, as for [Trip]
}

// RetryWish says whether a status calls for another attempt.
type RetryWish uint8

// The wishes.
const (
	RetryAsUsual RetryWish = iota // 502, 503 and 504, and 408, 425 and 429 that say when
	RetryThis
	RetryNotThis
)

// Begin asks for a call, and chooses the instance that it goes to. Before the first list of instances has come it waits
// for that. If it fails, with an [*Error], the call is over; else End must follow.
func (p *Passage) Begin(ctx context.Context, e *Engine, c Trip) error {
	cl := e.cluster(c.App)
	*p = Passage{engine: e, cmd: cl.cmd, set: cl.cmd.set.Load(), ctx: ctx, call: c}
	p.cluster, p.inbound = cl, inboundOf(ctx)
	p.now = e.clock.read(c.Now)
	timeout := p.set.Timeout
	if c.Timeout != 0 {
		timeout = min(c.Timeout, maxTimeout)
	}
	cmd := p.cmd
	room := int64(max(p.set.MaxConcurrent, c.Room))
	if c.Room < 0 {
		room = unlimited
	}
	if refused := cmd.admit(ctx, &p.permit, p.set, timeout, p.now, room); refused != nil {
		cmd.count(fallbackMissing)
		var how ending
		cmd.refused(&how, refused, true)
		how.fallback = fallbackMissing
		cmd.report(&how, resultFailure)
		cmd.logCall(ctx, &how)
		p.remember(p.now, refused.Kind, 0, refused)
		return refused
	}
	if c.Timeout > 0 {
		p.permit.own = false // it is what the request has, not what the command gives
	}
	p.open = true
	p.all = p.course.begin(p.set, c.Retries)
	p.most = int16(min(max(c.Most, 0), maxAttempts))
	ep, err := p.choose()
	if err != nil {
		return p.Failed(&Error{Command: cl.name, Kind: NoEndpoint, Cause: err})
	}
	p.first.at, p.first.endpoint = p.now, ep
	return nil
}

// choose returns whom to ask first.
func (p *Passage) choose() (*balance.Endpoint, error) {
	lb := p.cluster.lb
	if p.call.Addr == "" && p.call.Instance == "" && p.call.Group == "" {
		if p.call.Key != 0 {
			if ep := lb.Hashed(p.now, p.call.Key, nil); ep != nil {
				return ep, nil
			}
		}
		if ep := lb.Pick(p.now); ep != nil {
			return ep, nil
		}
		ep, err := p.cluster.pick(p.ctx, p.now)
		p.now = p.engine.clock.now() // that may have taken time
		return ep, err
	}
	<-p.cluster.ready
	p.now = p.engine.clock.now()
	if p.call.Addr == "" && p.call.Instance == "" {
		if ep := lb.InGroup(p.now, p.call.Group, nil); ep != nil {
			return ep, nil
		}
		return nil, &noEndpoint{"no instance of its server group " + p.call.Group + " is UP"}
	}
	p.most = 1
	if p.call.Addr != "" {
		return lb.At(p.call.Addr), nil
	}
	ep, why := lb.Named(p.call.Instance, p.call.Force)
	if ep == nil {
		return nil, &noEndpoint{why}
	}
	return ep, nil
}

// Endpoint returns whom the present attempt asks.
func (p *Passage) Endpoint() *balance.Endpoint { return p.try().endpoint }

// try returns what is remembered of the present attempt.
func (p *Passage) try() *try {
	if p.at == 0 {
		return &p.first
	}
	return &p.more[p.at-1]
}

// Client returns what the app's properties say of connections to it.
func (p *Passage) Client() balance.Client { return p.cluster.connections() }

// Way is how net/http reaches an app.
type Way struct{ cluster *cluster }

// Way returns how net/http reaches the app.
func (p *Passage) Way() Way { return Way{p.cluster} }

// Carrier returns what carries an HTTP request to ep by way of net/http, as the HTTP client has it, if the maker of the
// passage does not: over HTTP/2, in clear or over TLS, if http2 is set or ep speaks nothing else.
func (w Way) Carrier(ep *balance.Endpoint, http2 bool) http.RoundTripper {
	e := w.cluster.engine
	if e.http2 != nil && (http2 || ep.HTTP2) {
		return e.http2
	}
	if w := w.cluster.wire.Load(); w != nil && w.base != nil {
		return w.base
	}
	return e.base
}

// IsUnsent reports whether an error of such a carrier came before anything was sent, or from a callee that did not look at
// the request.
func IsUnsent(err error) bool { return isUnsent(err) }

// Endpoints returns the instances of the app that are listed, as its balancer knows them; none before anybody has called it.
func (e *Engine) Endpoints(app string) []*balance.Endpoint {
	if cl := (*e.clusters.Load())[app]; cl != nil {
		return cl.lb.Endpoints()
	}
	return nil
}

// Connections returns what the app's properties say of connections to it; what is usual before anybody has called it.
func (e *Engine) Connections(app string) balance.Client {
	if cl := (*e.clusters.Load())[app]; cl != nil {
		return cl.connections()
	}
	return usualClient
}

// MaxConcurrent returns how many calls to the app may be in flight by its command's settings.
func (e *Engine) MaxConcurrent(app string) int { return e.cluster(app).cmd.set.Load().MaxConcurrent }

// MaxAdaptive returns how many calls to the app may wait for an answer by its command's adaptive limit, just now; 0: it has none.
func (e *Engine) MaxAdaptive(app string) int {
	if l := e.cluster(app).cmd.adaptive.Load(); l != nil {
		return l.Limit()
	}
	return 0
}

var usualClient = balance.Defaults().Client

func (cl *cluster) connections() balance.Client {
	if w := cl.wire.Load(); w != nil {
		return w.Client
	}
	return usualClient
}

// AttemptTimeout returns how long each attempt may take by the command's settings; 0 is as long as the call.
func (p *Passage) AttemptTimeout() time.Duration { return p.set.AttemptTimeout }

// RetriesLeft returns how many more retries the settings allow, whatever the budget says.
func (p *Passage) RetriesLeft() int { return int(max(p.retries, 0)) }

// Tripped reports whether the app's circuit breaker is not closed.
func (p *Passage) Tripped() bool { return p.cmd.breaker.word.Load()&stateMask != closed }

// Tells is what an attempt tells its callee, beside the request's id and its faults.
type Tells struct {
	Timeout     int64 // for [HeaderTimeout], ms; 0: there is no deadline
	Attempt     int   // for [HeaderAttempt]
	Trial       bool  // for [HeaderTrial]
	Criticality roadbed.Criticality
	Priority    uint8
	Usual       bool // neither Criticality nor Priority need be told
}

// Start begins the attempt at Endpoint, and returns how long it may take; negative is as long as it likes. It fails if no
// time is left.
func (p *Passage) Start() (left time.Duration, err error) {
	t := p.try()
	if p.at > 0 {
		t.at = p.engine.clock.now()
	}
	p.since, p.faulty = t.at, false
	p.course.count(t)
	p.endpoint = t.endpoint
	left = -1
	if p.permit.deadline != noDeadline {
		var ok bool
		left = time.Duration(p.permit.deadline - t.at)
		if p.ms, ok = outgoing(left); !ok {
			t.end, t.err = t.at, &Error{Command: p.cluster.name, Kind: TimedOut, Cause: ErrDeadlineSpent}
			return 0, t.err
		}
	}
	p.held = t.endpoint
	t.endpoint.Begin()
	return left, nil
}

// Tells returns what the present attempt tells its callee. c and priority are the request's own importance; 0 is the
// usual priority of c.
func (p *Passage) Tells(c roadbed.Criticality, priority uint8) (out Tells) {
	out.Timeout, out.Attempt = p.ms, int(p.try().number)
	if p.inbound != nil {
		out.Attempt += p.inbound.attempt - 1
	}
	out.Trial = p.permit.trial != 0 || p.inbound != nil && p.inbound.trial
	if priority == 0 {
		priority = usualPriority[c]
	}
	own := inbound{importance: importance{criticality: c, priority: priority}}
	out.Criticality, out.Priority = own.lowered(p.set.Criticality)
	out.Usual = out.Criticality == roadbed.Critical && out.Priority == usualPriority[roadbed.Critical]
	return out
}

// Inject does what the faults f ask of calls to the app: it waits, fails, or returns what shall come in place of an answer
// (a status) or be done to one (the shape of its body).
func (p *Passage) Inject(ctx context.Context, f *fault.Context) (fault.Action, error) {
	a, err := p.course.inject(ctx, f, p.try())
	p.since = p.engine.clock.now()
	p.faulty = err != nil || a.Status != 0
	return a, err
}

// Outcome ends the attempt and decides whether there is another, for which the caller first waits so long; the next Start
// begins it, at a new Endpoint. If there is none and the callee has answered, the call is counted as that answer says.
func (p *Passage) Outcome(o Outcome) (wait time.Duration, again bool) {
	t := p.try()
	p.took(t, &o)
	u := upshot{
		status: o.Status, retryAfter: o.RetryAfter, noRetry: o.NoRetry, whole: o.Whole, wish: o.Wish,
		gone: o.Status == 0 && (o.Ended == balance.Abandoned || t.end >= p.permit.deadline), unsent: o.Status == 0 && o.Ended == balance.Unreached,
	}
	var mate *balance.Endpoint
	if p.call.Group != "" && p.most != 1 {
		if mate = p.cluster.lb.InGroup(p.now, p.call.Group, p.tried[:p.attempts]); mate == nil {
			p.most = int16(p.attempts)
		}
	}
	next, wait := p.decide(p.set, t, &u, o.Repeatable || p.all, p.two, p.permit.deadline)
	p.two = false
	if next != nil {
		if p.call.Key != 0 && p.call.Group == "" {
			mate = p.cluster.lb.Hashed(p.now, p.call.Key, p.tried[:p.attempts])
		}
		if mate != nil {
			next = mate
		}
		p.rest()
		p.course.again(0, wait, next)
		p.at = len(p.more)
		return wait, true
	}
	if o.Status != 0 {
		p.answered(t, &o)
	}
	return 0, false
}

// took records how an attempt ended.
func (p *Passage) took(t *try, o *Outcome) {
	p.now = p.engine.clock.read(o.Now)
	t.end, t.err, t.status = p.now, o.Err, int16(o.Status)
	first := t == &p.first
	if first && p.hedging != nil && o.Err == nil {
		p.hedging.took(t.end - t.at)
	}
	if p.faulty {
		return // nobody was asked
	}
	v, since := o.Ended, t.at
	if first || p.attempts == len(p.more) {
		since = p.since
	}
	switch {
	case o.Status != 0:
		switch v = balance.OfStatus(o.Status); {
		case isShed(o.Status, o.Why):
			v = balance.Declined
		case p.cmd.hastily(&p.permit, o.Status):
			v = balance.Abandoned
		}
		reported(t.endpoint, o.Utilization, o.Load, p.now)
	case v == balance.Broken && p.now >= p.permit.deadline && p.cmd.hasty(&p.permit):
		v = balance.Abandoned
	}
	t.endpoint.Done(v, p.now, p.now-since)
	if v != balance.Abandoned {
		p.cluster.attempt(t.endpoint.Zone, v == balance.Answered)
	}
}

// answered counts the call under its answer.
func (p *Passage) answered(t *try, o *Outcome) {
	kind, e, r := p.cmd.meaning(&p.permit, o.Status, o.Why)
	p.said = true
	p.cmd.settle(p.ctx, &p.permit, kind, e, r, t.end)
	p.remember(t.end, kind, o.Status, nil)
}

// Failed ends a call that has no answer, for the reason err, and returns what a caller of the HTTP client would be told.
// An err of [context.Canceled] means that the caller has gone.
func (p *Passage) Failed(err error) error {
	p.now = p.engine.clock.now()
	gone := errors.Is(err, context.Canceled)
	kind := classify(err, p.now >= p.permit.deadline, gone)
	if !p.said {
		p.said = true
		p.cmd.settleFailed(p.ctx, &p.permit, kind, err, p.now)
	}
	out := p.told(kind, err)
	p.remember(p.now, kind, 0, out)
	p.End()
	return out
}

// Broke tells that the answer's body ended early, which is the instance's fault.
func (p *Passage) Broke(err error) {
	p.endpoint.Done(balance.Broken, p.engine.clock.now(), 0)
	p.Dropped(err)
}

// Dropped tells that the answer's body was given up before its end for a reason that is not the instance's.
func (p *Passage) Dropped(why error) {
	r := p.record(p.try().end, None, int(p.try().status), nil)
	r.broke, r.brokeAt = why, p.engine.clock.now()
	p.cluster.calls.add(&r, true)
}

// Refuse tells who asks why of a call that its maker has refused for want of a place. The circuit breaker does not count it. It
// returns what a caller of the HTTP client would be told.
func (e *Engine) Refuse(c Trip) error {
	cl := e.cluster(c.App)
	p := Passage{engine: e, cmd: cl.cmd, call: c}
	p.cluster, p.now = cl, e.clock.now()
	p.permit.start, p.permit.deadline = p.now, noDeadline
	refused := cl.cmd.refusedFull
	p.remember(p.now, refused.Kind, 0, refused)
	return refused
}

// End gives back what the call holds: its place among those in flight, and its instance's. It may be called more than
// once.
func (p *Passage) End() {
	p.rest()
	p.Last()
}

// Last tells that the answer may last as long as both ends want, such as a stream of events: the call gives its place among those
// in flight back. What is asked of its instance it counts as until End.
func (p *Passage) Last() {
	if p.open {
		p.open = false
		p.cmd.release(&p.permit)
	}
}

// rest has the present attempt count as active no more.
func (p *Passage) rest() {
	if p.held != nil {
		p.held.End()
		p.held = nil
	}
	if p.beside != nil {
		p.beside.End()
		p.beside = nil
	}
}

func (p *Passage) remember(end int64, kind Kind, status int, err error) {
	r := p.record(end, kind, status, err)
	p.cluster.calls.add(&r, true)
}

func (p *Passage) record(end int64, kind Kind, status int, err error) record {
	r := record{
		at: p.permit.start, end: end, deadline: p.permit.deadline, id: p.call.ID, method: p.call.Method, path: p.call.Path,
		err: err, status: int16(status), kind: kind, first: p.first, more: p.more,
	}
	if in := p.inbound; in != nil {
		r.hop = int16(in.attempt)
	}
	return r
}

// Hedge reports whether the call may have a second attempt beside its first, and how long to wait for the first before;
// wanted says that the request's maker wants one even if the app's command does not hedge. It is for requests that may be
// sent twice.
func (p *Passage) Hedge(wanted bool) (after time.Duration, ok bool) {
	if !wanted && !p.set.Hedge || p.nested || p.most == 1 || p.call.Group != "" || p.attempts > 1 {
		return 0, false
	}
	p.hedging = p.cluster.hedging()
	p.hedging.budget.requests.Add(1)
	after = p.hedging.after(p.set)
	return after, after > 0
}

// Second begins a second attempt beside the first, which goes on, and returns whom it asks; nil if there may be none.
func (p *Passage) Second() *balance.Endpoint {
	now := p.engine.clock.now()
	if p.permit.deadline != noDeadline && now+p.cluster.lb.Typical() >= p.permit.deadline {
		return nil
	}
	ep := p.cluster.lb.Apart(now, p.first.endpoint)
	if ep == nil || !p.hedging.take(p.set, func() bool { return p.cluster.budget.take(p.set) }) {
		return nil
	}
	p.more = append(p.more, try{at: now, endpoint: ep, cause: hedged})
	p.course.count(&p.more[0])
	p.beside = ep
	ep.Begin()
	return ep
}

// Settle says which of two attempts at once counts, the first or the second, and how the other ended; nil is that it was
// given up. Outcome follows, for the one that counts.
func (p *Passage) Settle(second bool, other *Outcome) {
	lost := &p.more[0]
	if second {
		lost = &p.first
	}
	if other != nil {
		p.took(lost, other)
	} else {
		lost.end, lost.err = p.engine.clock.now(), errOutrun
		if second {
			p.hedging.took(lost.end - lost.at) // at least so long
		}
	}
	if lost.next = outrun; second {
		p.held, p.beside = p.beside, p.held
		p.at, p.endpoint = 1, p.more[0].endpoint
	}
	p.beside.End()
	p.beside, p.two, p.retries = nil, true, 0
	p.engine.hedged(p.cluster.name, second)
}
