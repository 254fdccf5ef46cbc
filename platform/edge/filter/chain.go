package filter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
)

// ChainConfig says what a chain consists of. Proxy is required.
type ChainConfig struct {
	Filters []*Filter // inbound and outbound ones, in any order
	Proxy   *Filter   // the endpoint of plans that name none
	Error   *Filter   // the endpoint that answers for [Exchange.Err]; nil: the bare status
	NoRoute *Filter   // the endpoint of requests without a plan; nil: 404
	Limit   int       // of requests in one filter at once, unless properties say otherwise; 0: 4000

	Properties *config.Properties
	Meter      *meter.Registry
	Log        *slog.Logger
}

// Chain is the way requests take: inbound filters, one endpoint, outbound filters. It never changes.
//
// Inbound filters run in the order of their Order, those of the route after all that are below 0, among which is routing.
// Outbound filters run in the order of their Order, those of the route first. A failed filter is noted in
// [Exchange.Failed], and the request goes on without its effect, unless the filter is an endpoint or a Guard: then the
// error endpoint answers. Nothing but Always filters runs once a request was answered on its way in, or stopped; no
// inbound filter at all runs once it is to fail.
//
// Live properties, NAME being the filter's and KIND in, end or out:
//
//	zuul.NAME.KIND.disable                      false     leaves the filter out
//	zuul.NAME.KIND.concurrency.limit            -1        of requests in it at once; 0 is any number, -1 as the filter or the default has it
//	zuul.filter.concurrency.limit.default       4000
//	zuul.filter.concurrency.protect.enabled     true      whether these limits hold
//	zuul.filters.excessive.execTime             500ms     an inbound or outbound filter's run of that length is in zuul.request.timing.filterExcessive, and noted on the exchange
//	zuul.HttpRequestMessage.body.max.size       15360000  bytes of a request's body that is held for a filter; else 413
//	zuul.HttpResponseMessage.body.max.size      25600000  the same for a response's; else 502
//
// Each filter has a counter zuul.filter-NAME with the tags filtertype (in, end, out) and status (SUCCESS, SKIPPED, DISABLED,
// FAILED), as with Zuul, and a share in the timer edge.filter.duration. Failures are all counted. The rest is counted at one
// request in 64, as 64.
type Chain struct {
	early, late []*Filter // inbound ones with an Order below 0, and the others
	after       []*Filter // outbound ones
	proxy       *Filter
	error       *Filter
	noRoute     *Filter

	props       *config.Properties
	meter       *meter.Registry
	log         *slog.Logger
	limit       *config.Value[int]
	protect     *config.Value[bool]
	excessive   *config.Value[time.Duration]
	maxRequest  *config.Value[int]
	maxResponse *config.Value[int]
	sample      uint32 // one request in so many is counted in full

	line atomic.Pointer[line] // what the filters come to by the properties as they are
}

// line is the filters of a chain in order, with what is needed of each side by side: a request passes dozens of them, and their
// own memory lies far apart.
type line struct {
	changes            uint64 // of the properties when it was made
	early, late, after []slot
}

// slot is one filter of a line.
type slot struct {
	when  func(*Exchange) bool
	apply func(*Exchange) error
	plain bool // it is Quick, takes no body, and no property says anything of it
	f     *Filter
	b     *bound
}

// now returns the filters as the properties have them.
func (c *Chain) now() *line {
	if l := c.line.Load(); l != nil && l.changes == c.props.Changes() {
		return l
	}
	l := &line{changes: c.props.Changes()} // before they are looked at: what changes meanwhile is looked at again
	slots := func(fs []*Filter) []slot {
		all := make([]slot, len(fs))
		for i, f := range fs {
			b := c.of(f)
			plain := f.Quick && !f.Body && f.Chunk == nil && f.Limit == 0 && !b.disabled.Get() && b.limit.Get() < 0
			all[i] = slot{f.If, f.Apply, plain && f.Apply != nil, f, b}
		}
		return all
	}
	l.early, l.late, l.after = slots(c.early), slots(c.late), slots(c.after)
	c.line.Store(l)
	return l
}

// sampled is one request in how many is counted and timed in full.
const sampled = 64

// NewChain returns the chain of c. It fails if two filters of a kind have the same name, or one is not of the kind that
// its place wants.
func NewChain(c ChainConfig) (*Chain, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	ch := &Chain{
		proxy: c.Proxy, error: c.Error, noRoute: c.NoRoute,
		props: c.Properties, meter: c.Meter, log: c.Log, sample: sampled,
		limit:       c.Properties.Int("zuul.filter.concurrency.limit.default", cmp.Or(c.Limit, 4000)),
		protect:     c.Properties.Bool("zuul.filter.concurrency.protect.enabled", true),
		excessive:   c.Properties.Duration("zuul.filters.excessive.execTime", 500*time.Millisecond),
		maxRequest:  c.Properties.Int("zuul.HttpRequestMessage.body.max.size", 15_360_000),
		maxResponse: c.Properties.Int("zuul.HttpResponseMessage.body.max.size", 25_600_000),
	}
	if c.Proxy == nil {
		return nil, errors.New("edge: a chain needs an endpoint for routes that name none")
	}
	for _, f := range []*Filter{c.Proxy, c.Error, c.NoRoute} {
		if f == nil {
			continue
		}
		if f.Kind != Endpoint {
			return nil, fmt.Errorf("edge: %s filter %s stands where an endpoint must be", f.Kind, f.Name)
		}
		ch.bind(f)
	}
	all := slices.Clone(c.Filters)
	slices.SortFunc(all, func(a, b *Filter) int { return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Name, b.Name)) })
	type key struct {
		kind Kind
		name string
	}
	seen := make(map[key]bool)
	for _, f := range all {
		if seen[key{f.Kind, f.Name}] {
			return nil, fmt.Errorf("edge: two %s filters are called %s; rename one, for properties and counters go by the name", f.Kind, f.Name)
		}
		seen[key{f.Kind, f.Name}] = true
		switch {
		case f.Kind == Inbound && f.Order < 0:
			ch.early = append(ch.early, f)
		case f.Kind == Inbound:
			ch.late = append(ch.late, f)
		case f.Kind == Outbound:
			ch.after = append(ch.after, f)
		default:
			return nil, fmt.Errorf("edge: endpoint %s stands among the filters; a route's plan names it", f.Name)
		}
		ch.bind(f)
	}
	return ch, nil
}

// bound is what goes with a filter while it runs. It is made once for each Filter, by the first chain that meets it.
type bound struct {
	disabled *config.Value[bool]
	limit    *config.Value[int] // -1: as the filter or the chain's default has it
	running  atomic.Int64
	counts   [statuses]*meter.Counter
	took     *meter.Timer
	told     atomic.Int64 // when a failure was last logged, by Now; 0: never
	untold   atomic.Int64 // failures since
}

// status is how one filter's part in a request ended.
type status uint8

const (
	success status = iota
	skipped
	disabled
	failed
	statuses
)

var statusNames = [statuses]string{"SUCCESS", "SKIPPED", "DISABLED", "FAILED"}

func (c *Chain) of(f *Filter) *bound {
	if b := f.bound.Load(); b != nil {
		return b
	}
	return c.bind(f)
}

func (c *Chain) bind(f *Filter) *bound {
	name := "zuul." + f.Name + "." + f.Kind.Key()
	b := &bound{
		disabled: c.props.Bool(name+".disable", false),
		limit:    c.props.Int(name+".concurrency.limit", -1),
		took:     c.meter.Timer("edge.filter.duration", "id", f.Name, "filtertype", f.Kind.Key()),
	}
	for s, name := range statusNames {
		b.counts[s] = c.meter.Counter("zuul.filter-"+f.Name, "status", name, "filtertype", f.Kind.Key())
	}
	if f.bound.CompareAndSwap(nil, b) {
		return b
	}
	return f.bound.Load()
}

// run is one request in the chain.
type run struct {
	c      *Chain
	x      *Exchange
	full   bool // every filter is counted and timed
	paused bool // the limits of concurrency do not hold
	since  int64
}

// Run takes x through the chain. Afterwards x.Response is what the client gets. It never fails and never panics.
//
// hot path: 0 allocs, BenchmarkChain
func (c *Chain) Run(x *Exchange) {
	r := run{c: c, x: x, full: rand.Uint32()%c.sample == 0, paused: !c.protect.Get()}
	x.Passport.AddAt(FiltersInboundStart, x.Passport.NowAfter(InReqHeadersReceived)) // engines hand a head over at once
	l := c.now()
	r.through(l.early)
	if p := x.Plan; p != nil && len(p.Inbound) > 0 {
		r.all(p.Inbound)
	}
	r.through(l.late)
	now := Now()
	x.Passport.AddAt(FiltersInboundEnd, now)
	if r.endpoint() {
		now = x.Passport.NowAfter(InRespHeadersReceived)
	}
	x.Passport.AddAt(FiltersOutboundStart, now)
	if p := x.Plan; p != nil && len(p.Outbound) > 0 {
		r.all(p.Outbound)
	}
	r.through(l.after)
	x.Passport.Add(FiltersOutboundEnd)
	if x.category == Unset {
		x.category = SuccessLocalUnset
	}
}

// endpoint has exactly one endpoint run, and one more for the error if that fails. It reports whether one was: there may be an
// answer already.
func (r *run) endpoint() bool {
	x := r.x
	if err := x.gone(); err != nil && !x.failing {
		x.Fail(err)
	}
	switch {
	case x.failing:
	case x.answered:
		return false
	case x.Plan != nil && x.Plan.Endpoint != nil:
		r.one(x.Plan.Endpoint)
	case x.Plan != nil:
		r.one(r.c.proxy)
	case r.c.noRoute != nil:
		r.one(r.c.noRoute)
	default:
		x.SetCategory(SuccessLocalNoRoute, "no route matches")
		x.Answer(http.StatusNotFound, "")
		return false
	}
	if !x.failing && x.Response.Status == 0 {
		x.Fail(&Error{Status: http.StatusInternalServerError, Category: FailureLocal, Reason: "the endpoint of this route left no answer"})
	}
	if x.failing {
		r.fail()
	}
	x.answered = true
	return true
}

// fail has the error endpoint answer for x.Err.
func (r *run) fail() {
	x := r.x
	x.failing = false
	code, category, reason := Verdict(x.Err)
	x.SetCategory(category, reason)
	why := x.Err
	x.Answer(code, "")
	if r.c.error == nil {
		return
	}
	r.one(r.c.error)
	if x.failing { // the error endpoint itself; there is nothing left to ask
		x.failing, x.Err = false, why
		x.Answer(code, "")
	}
}

// gone returns why nobody waits for the answer any more; nil if somebody does, as far as is known.
func (x *Exchange) gone() error {
	if x.ctx == nil {
		return nil
	}
	return x.ctx.Err()
}

// all runs filters one after the other, whatever becomes of each.
func (r *run) all(fs []*Filter) {
	for i := 0; i < len(fs); {
		i = r.from(fs, i)
	}
}

// through is all, for filters of the chain.
func (r *run) through(fs []slot) {
	for i := 0; i < len(fs); {
		i = r.on(fs, i)
	}
}

// on is from, for filters of the chain. Those that are plain run without ado, as long as the request is, too: what is left to do
// for them in step would come to nothing.
func (r *run) on(fs []slot, i int) (next int) {
	defer func() {
		if v := recover(); v != nil {
			r.panicked(fs[i].f, v)
			next = i + 1
		}
	}()
	x := r.x
	r.since = 0
	for ; i < len(fs); i++ {
		s := &fs[i]
		switch {
		case !s.plain || r.full || x.Debug || x.failing || x.stopped || x.ctx != nil || x.answered && s.f.Kind == Inbound:
			r.step(s.f)
			r.since = 0
		case s.when != nil && !s.when(x):
		default:
			if err := s.apply(x); err != nil {
				r.failed(s.f, s.b, err, 0)
				continue
			}
			if x.Debug { // as it has found out
				r.note(s.f, s.b, success, 0)
			}
			if x.failing && s.f.Kind == Outbound {
				r.fail()
			}
		}
	}
	return i
}

// one runs a single filter.
func (r *run) one(f *Filter) { r.from([]*Filter{f}, 0) }

// from runs the filters from i on, and returns where to go on: behind the last one, or behind one that panicked, for which
// it takes a single deferred call for all.
func (r *run) from(fs []*Filter, i int) (next int) {
	defer func() {
		if v := recover(); v != nil {
			r.panicked(fs[i], v)
			next = i + 1
		}
	}()
	for ; i < len(fs); i++ {
		r.step(fs[i])
	}
	return i
}

// step runs one filter, if it is to.
func (r *run) step(f *Filter) {
	x := r.x
	r.since = 0
	if f.Kind == Inbound && x.failing ||
		f.Kind != Endpoint && ((x.stopped || f.Kind == Inbound && x.answered) && !f.Always || x.gone() != nil) {
		if r.full || x.Debug { // else there is nothing to note
			r.note(f, r.c.of(f), skipped, 0)
		}
		return
	}
	b := r.c.of(f)
	if b.disabled.Get() { // before If, so that it stops one that panics there, too
		r.note(f, b, disabled, 0)
		if f.Kind == Endpoint {
			x.Fail(&Error{Status: http.StatusInternalServerError, Category: FailureLocal, Reason: "the endpoint of this route is disabled"})
		}
		return
	}
	if f.Kind != Endpoint && f.If != nil && !f.If(x) {
		r.note(f, b, skipped, 0)
		return
	}
	timed := r.full || x.Debug || !f.Quick && f.Kind != Endpoint // an endpoint waits for its origin, and may
	if timed {
		r.since = Now()
	}
	err := r.apply(f, b)
	var took time.Duration
	if timed {
		took = time.Duration(Now() - r.since)
		if f.Kind != Endpoint && took >= r.c.excessive.Get() {
			r.excessive(f, took)
		}
	}
	if err != nil {
		r.failed(f, b, err, took)
		return
	}
	r.note(f, b, success, took)
	if x.failing && f.Kind == Outbound {
		r.fail()
	}
}

// apply runs what f consists of, within its limit.
func (r *run) apply(f *Filter, b *bound) error {
	limit := r.limit(f, b)
	if limit == 0 {
		return r.pass(f)
	}
	defer b.running.Add(-1)
	if b.running.Add(1) > int64(limit) {
		return ErrLimited
	}
	return r.pass(f)
}

// limit returns how many requests may be in f at once; 0: any number, and they need not be counted.
func (r *run) limit(f *Filter, b *bound) int {
	if r.paused {
		return 0
	}
	if n := b.limit.Get(); n >= 0 {
		return n
	}
	if f.Limit > 0 {
		return f.Limit
	}
	if f.Quick || f.Kind == Endpoint {
		return 0
	}
	return max(0, r.c.limit.Get())
}

// pass runs f's Apply with the body it wants, and lays its Chunk around the body.
func (r *run) pass(f *Filter) error {
	if !f.Body && f.Chunk == nil {
		if f.Apply == nil {
			return nil
		}
		return f.Apply(r.x)
	}
	m := message{x: r.x, request: f.Kind != Outbound}
	if f.Body {
		if err := r.hold(m); err != nil {
			return err
		}
		if f.Chunk != nil && *m.body() != nil {
			whole, err := f.Chunk(r.x, r.x.Whole, true)
			if err != nil {
				return err
			}
			r.x.Whole = whole
		}
	}
	if f.Apply != nil {
		if err := f.Apply(r.x); err != nil {
			return err
		}
	}
	if f.Body {
		m.replace()
	} else {
		m.wrap(r.c, f)
	}
	return nil
}

// note counts how a filter's part ended.
func (r *run) note(f *Filter, b *bound, s status, took time.Duration) {
	switch {
	case s == failed:
		b.counts[failed].Inc()
	case r.full:
		b.counts[s].Add(int64(r.c.sample))
		if s == success {
			b.took.Record(took)
		}
	}
	if r.x.Debug {
		r.x.Ran = append(r.x.Ran, Execution{Filter: f, Status: statusNames[s], Took: took})
	}
}

// failed notes a failure on the exchange, and has the request fail if the filter is one that matters that much.
func (r *run) failed(f *Filter, b *bound, err error, took time.Duration) {
	x := r.x
	r.note(f, b, failed, took)
	x.Failed = append(x.Failed, Failure{f.Name, err})
	if f.Kind == Endpoint || f.Guard {
		x.Fail(err)
	}
	if _, ok := errors.AsType[*Error](err); !ok && !errors.Is(err, context.Canceled) {
		r.c.complain(f, b, "filter failed", "err", err)
	}
	if x.failing && f.Kind == Outbound {
		r.fail()
	}
}

// panicked turns a panic of f into a failure.
func (r *run) panicked(f *Filter, v any) {
	b := r.c.of(f)
	r.c.complain(f, b, "filter panicked", "panic", v, "stack", string(debug.Stack()))
	var took time.Duration
	if r.since != 0 {
		took = time.Duration(Now() - r.since)
	}
	r.failed(f, b, &Error{Status: http.StatusInternalServerError, Category: FailureLocal,
		Reason: "the edge failed at this request; its log tells why", Err: fmt.Errorf("filter %s panicked: %v", f.Name, v)}, took)
}

// complainEvery is how often one filter's failures are logged.
const complainEvery = int64(10 * time.Second)

// complain logs what went wrong in a filter, not more often than every 10 s for each filter.
func (c *Chain) complain(f *Filter, b *bound, what string, kv ...any) {
	now, told := Now(), b.told.Load()
	if told != 0 && now-told < complainEvery || !b.told.CompareAndSwap(told, now) {
		b.untold.Add(1)
		return
	}
	c.log.Warn(what, append([]any{"filter", f.Name, "kind", f.Kind, "unlogged", b.untold.Swap(0)}, kv...)...)
}

// excessive notes that a filter took too long. Zuul has the same property of the event.
func (r *run) excessive(f *Filter, took time.Duration) {
	r.x.Set("filter_execution_time_exceeded", f.Name)
	r.c.meter.Timer("zuul.request.timing.filterExcessive", "id", f.Name).Record(took)
}
