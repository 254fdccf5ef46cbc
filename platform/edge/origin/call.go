package origin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/balance"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
)

// call is one request that is answered by an app. It is used again.
type call struct {
	proxy     *Proxy
	x         *filter.Exchange
	origin    *origin
	set       *settings
	general   *general
	passage   ipc.Passage
	upload    upload
	cursor    cursor
	answer    answer
	said      saying
	web       web    // gRPC-Web, that is translated
	announced string // the trailers that are to follow the request's body
	conn      *conn
	body      *httpBody // of an answer that came by net/http; nil: there was none
	out       http1.Outgoing
	watch     func() bool // stops what closes the connection once the client has gone; nil: nothing
	done      func(*http1.Upstream, bool)
	early     func(int, *filter.Header)
	near      func()

	here          context.Context // of two attempts at once
	leave         func()          // ends it; nil: there were not two
	way           ipc.Way
	connectWithin time.Duration
	waterline     int
	release       func(*filter.Exchange)

	listed  bool // the method is one of those that the route retries
	twice   bool // sending the request twice does no harm
	grpc    bool
	told    bool // the header has what an attempt tells
	entered bool // it counts as in flight
	lasts   bool // it counts as a stream
	held    held // its client's part in either
	asks    held // and in what waits for an answer
	open    bool // the passage was begun
	back    bool // the request was not answered, and can be answered otherwise without harm
	asking  bool // an answer's head is waited for
	reused  bool // the present attempt has a connection that served another before
	unsent  bool // not a byte of it was written
	retries int
	addr    string   // that is asked in place of any instance; empty: none
	key     string   // the Sec-WebSocket-Key of our own; "" if the client has one
	copies  []copied // for the mirrors
}

// begin finds out what the request may cost.
func (c *call) begin() (trip ipc.Trip, err error) {
	x, q := c.x, &c.x.Request
	c.set, c.general = c.origin.set.Load(), c.proxy.general.Get()
	trip = ipc.Trip{App: c.origin.name, Timeout: -1, Group: x.Group, Instance: x.Instance, Force: x.Force, Addr: x.Addr, Key: x.Affinity, Room: c.set.concurrent, ID: x.ID, Method: q.Method, Path: q.Path}
	if c.proxy.edges && trip.Room == 0 {
		trip.Room = -1
	}
	now := x.Passport.NowAfter(filter.FiltersInboundEnd)
	trip.Now = filter.At(now)
	if x.Deadline != 0 {
		if trip.Timeout = time.Duration(x.Deadline - now); trip.Timeout <= 0 {
			return trip, c.proxy.failed(late, x.App, ipc.ErrDeadlineSpent)
		}
	}
	methods := retriedMethods
	if plan := x.Plan; plan != nil {
		trip.Retries = plan.Retries
		if plan.RetryMethods != nil {
			methods = plan.RetryMethods
		}
	}
	if c.general.zuul() {
		if trip.Retries == 0 {
			trip.Retries = -1
			if c.set.nextServer > 0 {
				trip.Retries = c.set.nextServer
			}
		}
		trip.Most = 1 + max(trip.Retries, 0)
	}
	if q.Header.Has(attemptBudget) {
		if n, err := strconv.Atoi(q.Header.Get(attemptBudget)); err == nil && n > 0 && (trip.Most == 0 || n < trip.Most) {
			trip.Most = n
		}
	}
	c.listed = slices.Contains(methods, q.Method)
	switch q.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		c.twice = true
	default:
		c.twice = q.Header.Has("Idempotency-Key")
	}
	if q.Body != nil {
		c.upload.begin(q.Body, c.general.RetryBuffer)
	}
	c.begun()
	return trip, nil
}

var retriedMethods = []string{http.MethodGet, http.MethodHead, http.MethodOptions}

// begun makes the request's header that of a request to an origin.
func (c *call) begun() {
	h := &c.x.Request.Header
	kind := h.Get("Content-Type")
	c.web = noWeb
	if c.grpc = isGRPC(kind); !c.grpc {
		if c.web = webOf(kind); c.proxy.edges {
			c.web = noWeb
		}
		c.grpc = c.web != noWeb
	}
	c.announced = h.Get("Trailer")
	onward(h, c.proxy.protected.Get())
	if c.web != noWeb {
		c.web.translate(h)
	}
}

// run has the request answered. Its frame, and those of what it waits in, are to be small: with them each request that waits
// keeps memory that is far from the processor when its answer comes.
func (c *call) run() error {
	if err := c.admit(); err != nil {
		return err
	}
	for {
		left, err := c.passage.Start()
		if err != nil {
			return c.fail(late, c.passage.Failed(err))
		}
		start := filter.Now()
		k, err := c.attempt(left, start)
		wait, again, err := c.judge(k, err, start)
		if !again {
			return err
		}
		c.discard()
		c.part()
		c.x.Passport.Add(filter.OriginRetryStart)
		if !c.pause(wait) {
			return c.fail(cancelled, c.passage.Failed(context.Canceled))
		}
	}
}

// admit begins the call, unless the request may not be answered by the app now.
func (c *call) admit() error {
	x, p := c.x, c.proxy
	trip, err := c.begin()
	if err != nil {
		return err
	}
	if k := c.place(); k != fine {
		x.Origin = failures[k].category
		return p.failed(k, x.App, p.calls.Refuse(trip))
	}
	err = c.passage.Begin(x.Context(), p.calls, trip)
	if err != nil && c.origin.dotted && trip.Addr == "" && errors.Is(err, ipc.ErrNoEndpoint) && len(p.calls.Endpoints(c.origin.name)) == 0 {
		trip.Addr = c.origin.name + ":80" // no app, then, but a host
		err = c.passage.Begin(x.Context(), p.calls, trip)
	}
	c.addr = trip.Addr
	if err != nil {
		k := kindOfCall(err)
		if k == concurrency {
			c.origin.rejected.Inc()
		}
		c.back = c.mayComeBack(k)
		return c.fail(k, err)
	}
	c.open = true
	c.retries = c.passage.RetriesLeft()
	c.way = c.passage.Way()
	if c.connectWithin = c.passage.Client().ConnectTimeout; c.connectWithin <= 0 {
		c.connectWithin = defaultConnect
	}
	p.mirrors.begin(c)
	return nil
}

// place takes a place among the app's requests in flight. If there is none, a client that takes nothing of its answer may have to
// give up one.
func (c *call) place() kind {
	k := c.origin.enter(c)
	if k == concurrency && !c.proxy.edges {
		ctx, leave := c.present()
		c.origin.room.Make(ctx, c.x, c.origin.places(c.set), c.general.Stall, func() bool {
			k = c.origin.enter(c)
			return k != concurrency
		})
		leave()
	}
	switch k {
	case fine:
		c.entered = true
		c.x.Hold(c.origin.room)
	case concurrency:
		c.origin.rejected.Inc()
	case greedy:
		c.origin.greedy.Inc()
	}
	return k
}

// judge says what follows from an attempt that began at start: another one, for which to wait, or the request's end.
func (c *call) judge(k kind, err error, start int64) (wait time.Duration, again bool, end error) {
	x, p := c.x, c.proxy
	o := c.outcome(k, err)
	o.NoRetry = o.NoRetry || p.edges && k == unavailable && c.mayComeBack(k) // who refused would have it waited for
	now := x.Passport.NowAfter(filter.InRespHeadersReceived)
	o.Now = filter.At(now)
	c.note(k, err, now-start)
	switch k {
	case readTimeout:
		x.Passport.AddAt(filter.OriginChReadTimeout, now)
	case reset, nonsense:
		x.Passport.AddAt(filter.OriginChIOEx, now)
	}
	if wait, again = c.passage.Outcome(o); !again {
		c.hears()
	}
	switch {
	case again:
		return wait, true, nil
	case c.mayComeBack(k):
		return 0, false, c.comeBack(k, &o)
	}
	return 0, false, c.last(k, err, &o)
}

// hears tells that the request waits for no answer any more.
func (c *call) hears() {
	c.asks.leave()
	c.asks = held{}
}

// pause waits before another attempt. It reports false if the client has gone away.
func (c *call) pause(wait time.Duration) bool {
	if wait <= 0 {
		return true
	}
	ctx, leave := c.present()
	defer leave()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

var errGone = errors.New("the client went away")

// present returns a context that ends when the client goes away, until leave is called.
func (c *call) present() (ctx context.Context, leave func()) {
	x := c.x
	if x.Waiter == nil {
		return x.Context(), func() {}
	}
	ctx, cancel := context.WithCancelCause(x.Context())
	stop := func() { cancel(errGone) }
	if !x.Waiter.Wait(&stop) {
		cancel(errGone)
	}
	return ctx, func() {
		x.Waiter.Done(&stop)
		cancel(nil)
	}
}

// part ends the context of two attempts at once, so that something else may wait for the client.
func (c *call) part() {
	if c.leave != nil {
		c.leave()
		c.here, c.leave = nil, nil
	}
}

// left reports whether the client has gone away.
func (c *call) left() bool {
	return c.x.Waiter != nil && c.x.Waiter.IsGone() || c.x.Context().Err() != nil
}

// attempt asks the passage's endpoint. The time is now.
func (c *call) attempt(left time.Duration, now int64) (kind, error) {
	c.reused, c.unsent = false, false
	c.said = saying{}
	if c.x.Fault != nil {
		return c.bent(left)
	}
	return c.ask(left, now)
}

// bent asks the passage's endpoint, or does not, as the faults of the request have it.
func (c *call) bent(left time.Duration) (kind, error) {
	x := c.x
	a, err := c.passage.Inject(x.Context(), x.Fault)
	switch {
	case err != nil && c.left():
		return cancelled, err
	case err != nil:
		return kindOfFault(a), err
	case a.Status != 0:
		text := a.Err.Error() + "\n"
		x.Response.Status = a.Status
		x.Response.Header.Add("Content-Type", "text/plain; charset=utf-8")
		x.Response.Body, x.Response.ContentLength = filter.Text(text), int64(len(text))
		c.said.why = "injected"
		return answered(a.Status), nil
	}
	k, err := c.ask(left, filter.Now())
	if err == nil && !a.Body.IsZero() && x.Response.Body != nil {
		x.Response.Body = a.Body.Reader(x.Context(), x.Response.Body, x.Response.ContentLength)
	}
	return k, err
}

// ask asks the passage's endpoint, and hears what its answer says to the edge.
func (c *call) ask(left time.Duration, now int64) (k kind, err error) {
	if after, ok := c.hedges(); ok {
		k, err = c.race(after, c.limit(left))
	} else {
		c.tell()
		k, err = c.carry(c.passage.Endpoint(), c.limit(left), now)
	}
	switch p := &c.x.Response; {
	case err != nil, p.Status == 0:
	case p.Status == http.StatusSwitchingProtocols:
		p.Header.Set("Connection", "Upgrade")
		k = fine
	default:
		c.said = hear(&p.Header, c.general.Utilization, c.proxy.protected.Get())
		k = answered(p.Status)
	}
	return k, err
}

// kindOfFault says what an injected failure looks like.
func kindOfFault(a fault.Action) kind {
	switch {
	case a.Reset:
		return reset
	case a.Reject:
		return concurrency
	}
	return readTimeout
}

// carry sends the request to ep and fills x.Response with the answer's head, for which it waits no longer than limit from now.
func (c *call) carry(ep *balance.Endpoint, limit time.Duration, now int64) (kind, error) {
	two := c.grpc || c.protocol() != "" || ep.HTTP2
	if c.proxy.edges && ep.Secure && c.x.Request.Upgrade == "" {
		two = true // all that goes to an edge over TLS shares a connection, but for what takes it over
	}
	if two || ep.Secure {
		return c.overHTTP(ep, limit, two)
	}
	return c.plainly(ep, limit, now)
}

// protocol returns what the route, or else the app, is said to speak; "" is HTTP/1.1.
func (c *call) protocol() string {
	if plan := c.x.Plan; plan != nil && plan.Protocol != "" {
		return plan.Protocol
	}
	return c.set.protocol
}

// limit returns how long an attempt may take until its answer begins: the least of what was set and what is left, which
// is negative if that is no bound.
func (c *call) limit(left time.Duration) time.Duration {
	limit := time.Duration(c.proxy.maxRead.Get()) * time.Millisecond
	if limit <= 0 {
		limit = 24 * time.Hour
	}
	own := c.passage.Client().ReadTimeout
	for _, d := range [...]time.Duration{own, c.passage.AttemptTimeout(), c.planned()} {
		if d > 0 {
			limit = min(limit, d)
		}
	}
	if left >= 0 {
		limit = min(limit, left)
	}
	return limit
}

// planned returns the route's timeout of an attempt; 0: none.
func (c *call) planned() time.Duration {
	if plan := c.x.Plan; plan != nil {
		return plan.AttemptTimeout
	}
	return 0
}

// outcome tells ipc how an attempt ended, and whether the route's rules want another.
func (c *call) outcome(k kind, err error) ipc.Outcome {
	x := c.x
	if err != nil {
		x.Response.Status = 0 // whatever of an answer was read
	}
	o := ipc.Outcome{
		Status: x.Response.Status, Err: err, Ended: balance.Abandoned, RetryAfter: c.said.retryAfter, NoRetry: c.said.noRetry, Why: c.said.why,
		Utilization: c.said.utilization, Load: c.said.load,
	}
	if k == fine && o.Status < 400 {
		return o
	}
	zuul := c.general.zuul()
	o.Whole = c.whole()
	switch k {
	case fine, errorStatus:
		switch wanted, said := c.wanted(o.Status); {
		case wanted:
			o.Wish, o.Repeatable = ipc.RetryThis, c.listed
		case said || zuul:
			o.Wish = ipc.RetryNotThis
		default:
			o.Repeatable = c.twice
		}
	case unavailable:
		if wanted, said := c.wanted(o.Status); said && !wanted {
			o.Wish = ipc.RetryNotThis
		}
		o.Repeatable = true
	case connectError:
		o.Ended = balance.Unreached
	case readTimeout:
		o.Ended, o.Repeatable = balance.Broken, c.listed
		o.Err = &timedOut{err}
	case nonsense:
		o.Ended, o.Repeatable = balance.Broken, c.listed
	case reset, closeNotify:
		o.Ended, o.Repeatable = balance.Broken, c.twice || zuul && k == reset || c.unsent || c.mayRepeatUnsafely()
	}
	if !o.Whole && k != fine {
		c.proxy.noRetry.Inc()
	}
	return o
}

// wanted reports whether a status is one that the route, or the property, retries; said tells that the route has a word in
// it at all.
func (c *call) wanted(status int) (wanted, said bool) {
	if plan := c.x.Plan; plan != nil && plan.RetryStatuses != nil {
		return slices.Contains(plan.RetryStatuses, status), true
	}
	list := c.proxy.retried.Get()
	if len(list) == 1 && list[0] == asProfile {
		return status == http.StatusInternalServerError && c.general.zuul(), false
	}
	for _, s := range list {
		if n, err := strconv.Atoi(s); err == nil && n == status && status != http.StatusServiceUnavailable {
			return true, false
		}
	}
	return false, false
}

// asProfile stands for a list of statuses that nobody has set.
const asProfile = "default"

// timedOut is an attempt that had no answer in time.
type timedOut struct{ err error }

func (t *timedOut) Error() string { return t.err.Error() }
func (t *timedOut) Unwrap() error { return t.err }

// Is makes it a timeout for who asks.
func (t *timedOut) Is(target error) bool { return target == context.DeadlineExceeded }

// note adds an attempt to the exchange's.
func (c *call) note(k kind, err error, took int64) {
	c.noteAt(c.passage.Endpoint(), k, err, took)
	c.x.Origin = failures[k].category
	if k == fine {
		c.x.Origin = categoryOf(c.x.Response.Status)
	}
}

// noteAt adds an attempt at ep.
func (c *call) noteAt(ep *balance.Endpoint, k kind, err error, took int64) {
	x := c.x
	a := filter.Attempt{
		Number: len(x.Attempts) + 1, Status: x.Response.Status, Duration: time.Duration(took), Error: failures[k].name, Cause: err,
		App: c.origin.name, ServerGroup: ep.Group, Instance: ep.ID, Zone: ep.Zone, MaxRetries: c.retries,
	}
	if a.Status == 0 {
		a.ReadTimeout, a.ConnectTimeout = c.limit(-1), c.connectWithin
	}
	if i := strings.LastIndexByte(ep.Addr, ':'); i >= 0 {
		a.Host = ep.Addr[:i]
		for _, d := range ep.Addr[i+1:] {
			a.Port = a.Port*10 + int(d-'0')
		}
	}
	if n := len(ep.Zone); n > 1 && ep.Zone[n-2] >= '0' && ep.Zone[n-2] <= '9' && ep.Zone[n-1] >= 'a' { // us-east-1a; of others nobody knows
		a.Region = ep.Zone[:n-1]
	}
	x.Attempts = append(x.Attempts, a)
}

// whole reports whether the request can be sent once more.
func (c *call) whole() bool { return c.upload.body == nil || c.upload.whole() }

// broke returns why the client's body broke off; nil if it did not.
func (c *call) broke() error {
	if c.upload.body == nil {
		return nil
	}
	return c.upload.broke()
}

// last makes an attempt's outcome the request's.
func (c *call) last(k kind, err error, o *ipc.Outcome) error {
	x := c.x
	if o.Status == 0 {
		if k == cancelled {
			c.passage.Failed(context.Canceled)
			if broke := c.broke(); broke != nil {
				if e, ok := errors.AsType[*filter.Error](broke); ok {
					return e
				}
			}
			return c.fail(cancelled, err)
		}
		if k == noGRPC {
			c.passage.Failed(context.Canceled) // which says nothing about the app
			return c.fail(k, err)
		}
		return c.fail(k, c.passage.Failed(o.Err))
	}
	if c.upload.body != nil {
		c.upload.settle()
	}
	if x.Response.Body != nil {
		c.answer.inner = x.Response.Body
		x.Response.Body = &c.answer
		c.answer.c = c
	} else if x.Response.Takeover == nil {
		c.over()
	}
	if isEvents(x.Response.Header.Get("Content-Type")) {
		x.Response.Flush = true
		if c.endless(x.Response.Status, eventStream) {
			x.Deadline = 0
		}
	}
	if r := &x.Response; c.entered && x.Deadline == 0 && !c.proxy.edges && (r.Takeover != nil || r.Body != nil && (c.grpc || isEvents(r.Header.Get("Content-Type")))) {
		c.origin.outlast(c)
	}
	if c.web != noWeb {
		c.web.answer(c)
	}
	x.SetCategory(categoryOf(o.Status), "")
	return nil
}

const eventStream = "text/event-stream"

func isEvents(kind string) bool {
	return len(kind) >= len(eventStream) && strings.EqualFold(kind[:len(eventStream)], eventStream)
}

// endless reports whether an answer may last as long as both ends want: it is an event stream, which its request need not have
// told, and the route has set no time of its own.
func (c *call) endless(status int, kind string) bool {
	return status == http.StatusOK && isEvents(kind) && (c.x.Plan == nil || c.x.Plan.Timeout == 0)
}

// fail returns what is answered for a request that failed.
func (c *call) fail(k kind, err error) error {
	c.x.Origin = failures[k].category
	c.discard()
	return c.proxy.failed(k, c.x.App, err)
}

// discard gives up the answer there is.
func (c *call) discard() {
	r := &c.x.Response
	if r.Body != nil {
		r.Body.Close() //nolint:errcheck // nobody wants it any more
	}
	r.Header.Reset()
	*r = filter.Response{Header: r.Header}
}

// over tells that the app has done its part: its answer is at its end.
func (c *call) over() {
	if c.upload.body != nil {
		c.upload.halt()
	}
	if c.open {
		c.passage.End()
	}
	if c.entered {
		c.entered = false
		if c.origin.leave(c) {
			c.passage.Dropped(filter.ErrStalled)
			c.origin.stalled.Inc()
		}
		c.x.Served()
	}
	if c.lasts {
		c.lasts = false
		c.origin.ended(c)
		c.x.Served()
	}
}

// end ends the request. The exchange calls it.
func (c *call) end() {
	c.over()
	if c.body != nil {
		c.body.Close() //nolint:errcheck // a filter may have put another body in its place
		c.body = nil
	}
	c.part()
	c.proxy.mirrors.end(c)
	if c.upload.body != nil {
		c.upload.end()
	}
	c.x, c.origin, c.answer, c.said = nil, nil, answer{}, saying{}
	c.told, c.open, c.back, c.grpc, c.web, c.key = false, false, false, false, noWeb, ""
	c.out = http1.Outgoing{}
	c.proxy.free.Put(c)
}

// answer is the body of an answer on its way to the client.
type answer struct {
	c     *call
	inner io.ReadCloser
	done  bool
}

// Read reads on.
func (a *answer) Read(p []byte) (int, error) {
	if x := a.c.x; x != nil && x.Deadline != 0 && !a.done && filter.Now() > x.Deadline && x.Response.ContentLength != 0 {
		a.done = true
		a.inner.Close() //nolint:errcheck // it is given up
		a.c.ended(errTooLong)
		return 0, errTooLong
	}
	n, err := a.inner.Read(p)
	if err != nil && !a.done {
		a.done = true
		a.c.ended(err)
	} else if over, ok := a.inner.(interface{ Over() bool }); ok && !a.done && over.Over() {
		a.done = true // the app need not wait for the client to take the last of it
		a.c.ended(io.EOF)
	}
	return n, err
}

// Buffered returns what can be had without waiting.
func (a *answer) Buffered() []byte {
	if b, ok := a.inner.(interface{ Buffered() []byte }); ok {
		return b.Buffered()
	}
	return nil
}

// Close gives the rest up.
func (a *answer) Close() error {
	err := a.inner.Close()
	if !a.done {
		a.done = true
		a.c.over()
	}
	return err
}

// ended notes the end of an answer's body, or that it broke off.
func (c *call) ended(err error) {
	x := c.x
	switch {
	case err == io.EOF:
		x.Passport.Add(filter.InRespLastContentReceived)
	case c.left(), isCancelled(err):
		x.SetCategory(filter.FailureClientCancelled, "the client went away before it had the whole answer")
	case err == errTooLong, x.Deadline != 0 && filter.Now() >= x.Deadline:
		x.Origin = filter.FailureOriginReadTimeout
		x.SetCategory(x.Origin, "the answer of "+x.App+" took longer than the request may")
	default:
		c.passage.Broke(err)
		c.proxy.tooLate.Inc()
		x.Origin = filter.FailureOriginReset
		x.SetCategory(x.Origin, "the answer of "+x.App+" broke off")
	}
	c.over()
}

// isCancelled reports whether an answer's body ended because of the client.
func isCancelled(err error) bool {
	e, ok := errors.AsType[*http1.Error](err)
	return ok && e.Kind == http1.Cancelled
}
