package ipc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc/limit"
	"github.com/roadbed/roadbed/meter"
)

// Command is one kind of call to one callee, with a breaker, a bulkhead and statistics of its own. Get one from
// [Engine.Command]; its methods may be used from many goroutines.
type Command struct {
	name     string
	engine   *Engine
	clock    *clock
	code     Settings // guarded by Engine.mu
	set      atomic.Pointer[settings]
	adaptive atomic.Pointer[limit.Limiter] // nil: there is no adaptive limit
	vip      atomic.Bool                   // an app of the same name is called, so its HTTP calls must find the scope they run in

	// Allocated once, so that a refusal costs nothing.
	refusedOpen, refusedFull, refusedLimit, refusedPool, refusedLate *Error

	shards    []shard
	slowAfter atomic.Int64          // Settings.SlowCall; 0 is never
	apart     atomic.Pointer[apart] // nil until a call went wrong, or its time inside differed from its whole time
	usualTime atomic.Int64          // see usual; until usualDue, which is 0 until somebody asks
	usualDue  atomic.Int64
	window    window
	timers    [3][kinds]atomic.Pointer[meter.PercentileTimer] // by result and cause

	_         [64]byte
	breaker   breaker
	_         [64]byte
	inflight  bulkhead
	_         [64]byte
	fallbacks atomic.Int64
	abandoned atomic.Int64            // calls in flight whose caller has gone
	budget    budget                  // of retries, also of those of the HTTP client
	_         [64]byte                // the end of others' allocations
	hedges    atomic.Pointer[hedging] // of calls that are not the HTTP client's; nil until one may be hedged
}

func newCommand(e *Engine, name string) *Command {
	c := &Command{
		name: name, engine: e, clock: e.clock, shards: make([]shard, e.shards),
		refusedOpen: &Error{Command: name, Kind: Open, Cause: ErrOpen},
		refusedFull: &Error{Command: name, Kind: Rejected, Cause: ErrRejected}, refusedLimit: &Error{Command: name, Kind: Limited, Cause: ErrLimited},
		refusedPool: &Error{Command: name, Kind: Rejected, Cause: errPoolBusy},
		refusedLate: &Error{Command: name, Kind: TimedOut, Cause: ErrDeadlineSpent},
	}
	c.breaker.openedAt.Store(-1)
	return c
}

// Name returns the command's name.
func (c *Command) Name() string { return c.name }

// Timeout returns how long a call may take now; negative is no limit.
func (c *Command) Timeout() time.Duration { return c.set.Load().Timeout }

// permit is the right to run one call.
type permit struct {
	start    int64
	deadline int64   // the earlier of the caller's and the command's; noDeadline = none
	own      bool    // the command's is the earlier
	apart    bool    // finish does not see the whole time: there was a queue, or a fallback follows
	trial    uint64  // not 0: the breaker waits for this call's end
	lease    *leased // under the command's adaptive limit; nil without one
	shard    *shard  // that let the call through; nil: see bulkhead
}

// admit asks breaker and bulkhead for a permit; timeout is the call's, not above 0 is none, and limit is how many may be
// in flight. If it is not refused, finish and then release must follow.
// hot path: 0 allocs, BenchmarkAllowed, BenchmarkRefused
func (c *Command) admit(ctx context.Context, p *permit, set *settings, timeout time.Duration, start, limit int64) (refused *Error) {
	p.start, p.deadline = start, noDeadline
	if timeout > 0 {
		p.deadline, p.own = start+int64(timeout), true
	}
	if t, ok := ctx.Deadline(); ok {
		if d := c.clock.at(t); d <= p.deadline {
			p.deadline, p.own = d, false
		}
		if p.deadline <= start {
			c.count(unanswered)
			return c.refusedLate
		}
	}
	return c.permit(ctx, p, set, limit)
}

// permit is admit without the deadline.
func (c *Command) permit(ctx context.Context, p *permit, set *settings, limit int64) (refused *Error) {
	var ok bool
	if p.trial, ok = c.breaker.attempt(set, c.clock); !ok && servesTrial(ctx) {
		p.trial, ok = c.breaker.early(set)
	}
	if !ok {
		c.count(shortCircuited)
		return c.refusedOpen
	}
	if !c.enterBulkhead(p, set, limit) {
		c.count(rejected)
		c.failedUnrun(p, set)
		return c.refusedFull
	}
	if set.limited {
		if p.lease = c.lease(p.start); p.lease == nil {
			c.release(p)
			c.count(rejected)
			c.failedUnrun(p, set)
			return c.refusedLimit
		}
	}
	return nil
}

// failedUnrun tells the breaker of a call that failed after the breaker had let it through, but did not run.
func (c *Command) failedUnrun(p *permit, set *settings) {
	if p.lease != nil {
		p.lease.end(cancelled, 0)
		p.lease = nil
	}
	if p.trial != 0 {
		c.endTrial(p.trial, false)
		p.trial = 0
	} else if set.InstantOpen {
		c.judge(set)
	}
}

// shard returns the counters that the calling goroutine should use. Goroutines have stacks at different addresses, so
// the address of a local variable spreads them over the shards for less than a random number costs.
func (c *Command) shard() *shard {
	var here byte
	h := uint64(uintptr(unsafe.Pointer(&here))) >> 11 * 0x9e3779b97f4a7c15 // stacks are at least 2 KiB
	return &c.shards[h>>61&uint64(len(c.shards)-1)]
}

// count adds one to an event's counter.
func (c *Command) count(e event) { c.shard().n[e].Add(1) }

// finish counts a call that ran, and moves the breaker if it was a trial. The permit stays until release.
// hot path: 0 allocs, BenchmarkAllowed
func (c *Command) finish(p *permit, e event, end int64) {
	took := end - p.start
	if p.lease != nil {
		p.lease.end(e, end)
		p.lease = nil
	}
	s := p.shard
	if s == nil {
		s = c.shard()
	}
	s.n[e].Add(1)
	if e == success && !p.apart {
		s.latency[latencyBin(took)].Add(1)
	} else {
		c.timesApart().add(e, took, p.apart)
	}
	slow := false
	if limit := c.slowAfter.Load(); limit != 0 && took >= limit {
		s.n[slowCalls].Add(1)
		slow = true
	}
	if e == success && !slow && p.trial == 0 {
		return
	}
	switch {
	case p.trial != 0 && e == hasty:
		c.breaker.unclear(p.trial)
		p.trial = 0
	case p.trial != 0:
		c.endTrial(p.trial, e == success && !slow)
		p.trial = 0
	default:
		if set := c.set.Load(); set.InstantOpen && (e == failure || e == timeout || slow) {
			c.judge(set)
		}
	}
}

// add counts the time of a call that did not go well, or whose whole time is counted elsewhere.
func (a *apart) add(e event, took int64, elsewhere bool) {
	bin := latencyBin(took)
	a.inside[bin].Add(1)
	if !elsewhere {
		a.total[bin].Add(1)
	}
	if e == success || e == badRequests {
		a.well[bin].Add(1)
	}
}

// usual returns how long half of the calls that went well took lately, in nanoseconds; 0 if too few are known.
func (c *Command) usual() int64 {
	now := c.clock.now()
	if now < c.usualDue.Load() {
		return c.usualTime.Load()
	}
	c.window.mu.Lock()
	defer c.window.mu.Unlock()
	if now >= c.usualDue.Load() { // nobody else was faster
		half := int64(0)
		if l := c.window.latency.well.lately(c.wentWell()).latency(); l.Calls >= usualLeast {
			half = int64(l.Percentiles[slices.Index(Percentiles[:], 50)])
		}
		c.usualTime.Store(half)
		c.usualDue.Store(now + int64(tickTime))
	}
	return c.usualTime.Load()
}

const usualLeast = 20 // calls without which nobody knows what is usual

// wentWell returns how often each bin was hit since ever by calls that went well.
func (c *Command) wentWell() *bins {
	out := new(bins)
	a := c.apart.Load()
	for b := range out {
		for i := range c.shards {
			out[b] += c.shards[i].latency[b].Load()
		}
		if a != nil {
			out[b] += a.well[b].Load()
		}
	}
	return out
}

// hasty reports whether the caller left a call less time than the command has, and than it usually takes. That such a call
// runs out of time says nothing about the callee, and must not have others refused.
func (c *Command) hasty(p *permit) bool { return !p.own && p.deadline-p.start < c.usual() }

// hastily reports whether an answer says that the callee had no time left for such a call.
func (c *Command) hastily(p *permit, status int) bool {
	return status == http.StatusGatewayTimeout && c.hasty(p)
}

// timesApart returns where times are counted of calls whose whole time differs from that inside run.
func (c *Command) timesApart() *apart {
	if a := c.apart.Load(); a != nil {
		return a
	}
	c.apart.CompareAndSwap(nil, new(apart))
	return c.apart.Load()
}

// endTrial tells the breaker how a trial went.
func (c *Command) endTrial(trial uint64, well bool) {
	set := c.set.Load()
	if !well {
		if c.breaker.nonSuccess(trial, set, c.clock) {
			c.engine.event(BreakerEvent, c.name, fmt.Sprintf("breaker stays open: its trial failed; the next is in %s", c.breaker.sleep(set)))
			c.engine.log.Info("breaker stays open, its trial failed", "command", c.name, "sleep", c.breaker.sleep(set))
		}
		return
	}
	c.window.mu.Lock()
	did := c.breaker.succeeded(trial)
	if did {
		c.window.reset(c.health())
	}
	c.window.mu.Unlock()
	if did {
		c.engine.event(BreakerEvent, c.name, "breaker closed: its trial succeeded")
		c.engine.log.Info("breaker closed", "command", c.name)
	}
}

// judge opens the breaker if its window, with the present bucket, calls for it.
func (c *Command) judge(set *settings) {
	w := &c.window
	w.mu.Lock()
	h := w.health.sum.plus(c.health().minus(w.health.seen))
	opened := !set.forced && h.tripped(set) && c.breaker.open(c.clock.now(), set)
	w.mu.Unlock()
	if opened {
		c.tellOpened(h, set)
	}
}

func (c *Command) tellOpened(h health, set *settings) {
	c.engine.event(BreakerEvent, c.name, fmt.Sprintf("breaker open: %d %% of %d calls failed, %d were slow; the next trial is in %s", h.percent(), h.total, h.slow, c.breaker.sleep(set)))
	c.engine.log.Warn("breaker open", "command", c.name, "errorPercent", h.percent(), "calls", h.total, "slow", h.slow, "sleep", set.SleepWindow)
}

func (c *Command) tally() (t tally) {
	for i := range c.shards {
		for e := range t {
			t[e] += c.shards[i].n[e].Load()
		}
	}
	bare := t[shortCircuitedBare]
	t[shortCircuitedBare] = 0
	t[shortCircuited] += bare
	t[fallbackMissing] += bare
	return t
}

func (c *Command) health() health {
	t := c.tally()
	return t.health()
}

// tick completes the buckets that end now, and opens the breaker if its window says so. Only the engine's ticker calls
// it, each tick.
func (c *Command) tick(now int64, tick time.Duration) {
	set := c.set.Load()
	w := &c.window
	w.mu.Lock()
	t := c.tally()
	c.raisePeak()
	if isDue(&w.rolling.due, now, set.RollingWindow/time.Duration(set.RollingBuckets), tick) {
		w.rollDashboard(t, c.newPeak())
	}
	if !set.PercentilesOff && isDue(&w.latency.due, now, set.PercentileWindow/time.Duration(set.PercentileBuckets), tick) {
		inside, total := c.latencies()
		w.latency.inside.roll(inside, w.latency.buckets)
		w.latency.total.roll(total, w.latency.buckets)
		if c.usualDue.Load() != 0 {
			w.latency.well.roll(c.wentWell(), w.latency.buckets)
		}
	}
	if !isDue(&w.health.due, now, set.HealthInterval, tick) {
		w.mu.Unlock()
		return
	}
	seen := w.health.seen
	h := w.roll(t.health())
	news := w.health.seen != seen // else good calls that grow old would open a breaker that nobody asked since
	opened := !set.forced && news && h.tripped(set) && c.breaker.open(now, set)
	c.breaker.tick(now, set)
	w.mu.Unlock()
	if opened {
		c.tellOpened(h, set)
	}
}

// latencies returns how often each bin was hit since ever: by times inside run, and by whole times.
func (c *Command) latencies() (inside, total *bins) {
	both := new([2]bins)
	inside, total = &both[0], &both[1]
	for i := range c.shards {
		for b := range inside {
			inside[b] += c.shards[i].latency[b].Load()
		}
	}
	*total = *inside
	if a := c.apart.Load(); a != nil {
		for b := range inside {
			inside[b] += a.inside[b].Load()
			total[b] += a.total[b].Load()
		}
	}
	return inside, total
}

// Call runs run under the command's breaker, bulkhead and timeout.
//
// run gets a context that ends at the deadline, and when run returns. It runs on the caller's goroutine: Call returns
// when run does, so run must heed its context. A result that comes after the deadline is dropped, and closed if it
// is an io.Closer or an http.Response; the call counts as timed out. If run panics the call has failed and the panic
// goes on. If the command's settings say that it is Idempotent, run may be called again after it failed.
//
// The error is nil or an *[Error] that wraps run's, except that [BadRequest](err) comes back as err.
func Call[T any](ctx context.Context, c *Command, run func(context.Context) (T, error)) (T, error) {
	var how ending
	v, err := call(ctx, c, run, false, &how)
	if how.kind == invalid {
		err = unmark(err)
	}
	c.logCall(ctx, &how)
	return v, err
}

// CallOr is [Call] with a fallback, which runs when run failed, timed out, or was refused by breaker or bulkhead; not
// after [BadRequest], nor when the caller has gone. cause says why. At most [Settings].MaxFallbacks run at once.
//
// The fallback's context is the caller's; if less than 50 ms are left of it, it is one that lasts 50 ms.
func CallOr[T any](ctx context.Context, c *Command, run func(context.Context) (T, error), fallback func(ctx context.Context, cause error) (T, error)) (T, error) {
	var how ending
	v, err := call(ctx, c, run, true, &how)
	switch how.kind {
	case None, Cancelled:
	case invalid:
		err = unmark(err)
	default:
		v, err = instead(ctx, c, &how, err, fallback)
	}
	c.logCall(ctx, &how)
	return v, err
}

// instead runs the fallback of a call that failed with cause.
func instead[T any](ctx context.Context, c *Command, how *ending, cause error, fallback func(ctx context.Context, cause error) (T, error)) (v T, err error) {
	set := c.set.Load()
	r := resultFailure
	defer func() {
		c.count(how.fallback)
		c.report(how, r)
		if how.ran {
			c.timesApart().total[latencyBin(c.clock.roughly()-how.start)].Add(1)
		}
	}()
	how.fallback = fallbackDisabled
	if set.FallbackOff {
		return v, cause
	}
	how.fallback = fallbackRejected
	if c.fallbacks.Add(1) > int64(set.MaxFallbacks) {
		c.fallbacks.Add(-1)
		return v, withFallback(c, cause, fmt.Errorf("more than %d fallbacks at once: %w", set.MaxFallbacks, ErrRejected))
	}
	defer c.fallbacks.Add(-1)
	how.fallback = fallbackFailure // also if it panics
	if a := fault.From(ctx).At("command", c.name); a.NoFallback {
		c.engine.injected("command", &a)
		return v, withFallback(c, cause, fmt.Errorf("%w: rule %s", ErrInjected, a.Rule))
	}
	if d, ok := ctx.Deadline(); ok && time.Until(d) < fallbackTime || ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), fallbackTime)
		defer cancel()
	}
	v, ferr := fallback(ctx, cause)
	if ferr != nil {
		return v, withFallback(c, cause, ferr)
	}
	how.fallback, r = fallbackSuccess, resultFallback
	return v, nil
}

const fallbackTime = 50 * time.Millisecond

func withFallback(c *Command, err, ferr error) error {
	out := Error{Command: c.name, Kind: Failed, Cause: err}
	if e, ok := err.(*Error); ok {
		out = *e
	}
	out.FallbackErr = ferr
	return &out
}

// unmark takes the mark of BadRequest off.
func unmark(err error) error {
	if b, ok := err.(*badRequest); ok {
		return b.err
	}
	return err
}

// ending is how a call ended, for metrics and logs.
type ending struct {
	kind     Kind
	event    event
	fallback event // success if none was needed
	ran      bool  // it was not refused
	other    bool  // the call was an HTTP call to an app of another name, which reported itself
	start    int64 // 0 if it was refused without a look at the clock
}

// call is Call, and how tells how it ended. With a fallback to come, failures are left to the caller to report.
func call[T any](ctx context.Context, c *Command, run func(context.Context) (T, error), hasFallback bool, how *ending) (v T, err error) {
	set := c.set.Load()
	var p permit
	var refused *Error
	if w := c.breaker.word.Load(); w&stateMask == openFast && !set.forced && c.engine.server.trials.Load() == 0 { // spare the clock
		e := shortCircuited
		if !hasFallback {
			e = shortCircuitedBare
		}
		c.count(e)
		refused = c.refusedOpen
	} else if refused = c.admit(ctx, &p, set, set.Timeout, c.clock.roughly(), set.limit); refused != nil && !hasFallback {
		c.count(fallbackMissing)
	}
	how.start = p.start
	if refused != nil {
		c.refused(how, refused, hasFallback)
		return v, refused
	}
	rctx := ctx
	var s *scope
	if p.own || c.vip.Load() || c.engine.meter != nil || set.Isolation == Thread {
		s = &scope{Context: ctx, cmd: c, trial: p.trial != 0}
		switch {
		case p.own && set.Uninterrupted && set.Isolation != Thread: // whose caller leaves, and whose function does not learn of it
			s.deadline = noDeadline
		case p.own:
			s.deadline = p.deadline
		}
		rctx = s
	}
	if set.Isolation == Thread {
		if err = c.enter(ctx, s, &p, set, how, hasFallback); err != nil {
			return v, err
		}
	}
	how.ran = true
	ended := false
	defer func() {
		if !ended { // run panicked
			c.finish(&p, failure, c.clock.roughly())
			c.count(fallbackMissing) // panics pass fallbacks by
		}
		if s == nil {
			c.release(&p)
			return
		}
		if !s.kept {
			c.release(&p)
			if s.pool != nil {
				s.pool.leave()
			}
		}
		s.end(context.Canceled)
	}()
	if fault.From(ctx) != nil {
		err = c.engine.Inject(rctx, "command", c.name)
	}
	if err == nil {
		v, err = run(rctx)
	}
	if err != nil && set.Idempotent {
		v, err = again(rctx, c, set, &p, run, v, err)
	}
	end := c.clock.roughly()
	ended = true
	if err == nil && end < p.deadline {
		c.finish(&p, success, end)
		if s != nil {
			how.other = s.other.Load()
			if p.apart {
				c.tookInAll(end - how.start)
			}
		}
		c.report(how, resultSuccess)
		return v, nil
	}
	if err == nil {
		discard(v)
		var zero T
		v, err = zero, ErrTimeout
	}
	how.kind, how.event, err = c.failed(ctx, &p, s, err, end, hasFallback)
	if s != nil {
		how.other = s.other.Load()
	}
	switch {
	case how.kind == invalid:
		c.report(how, resultSuccess) // the callee did its part
	case how.kind == Cancelled:
		c.report(how, resultFailure)
	case !hasFallback:
		how.fallback = fallbackMissing
		c.report(how, resultFailure)
	default:
		return v, err // instead tells the rest
	}
	if p.apart {
		c.tookInAll(end - how.start)
	}
	return v, err
}

// again calls run once more as long as it fails and there is time and budget. ctx is the one that run had.
func again[T any](ctx context.Context, c *Command, set *settings, p *permit, run func(context.Context) (T, error), v T, err error) (T, error) {
	in := inboundOf(ctx)
	if in != nil && in.attempt > 1 {
		return v, err // whoever retries upstream pays; else retries multiply per hop
	}
	for k := 0; k < set.Retries && err != nil && !isFinal(err); k++ {
		wait := backoff(k)
		if ctx.Err() != nil || p.deadline != noDeadline && c.clock.now()+int64(wait) >= p.deadline {
			break
		}
		if !c.budget.takeFor(set, c.callsLately()) {
			if in != nil {
				in.noRetry.Store(true)
			}
			break
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return v, err
		}
		if err = c.engine.Inject(ctx, "command", c.name); err == nil {
			v, err = run(ctx)
		}
		if err != nil {
			c.budget.wasted()
		}
	}
	return v, err
}

// isFinal reports whether trying again cannot help: the caller is at fault, or another command has done what it could.
func isFinal(err error) bool {
	var bad *badRequest
	var inner *Error
	var final *final
	return errors.As(err, &bad) || errors.As(err, &inner) || errors.As(err, &final)
}

// callsLately returns how many calls ended within the breaker's window.
func (c *Command) callsLately() int64 {
	c.window.mu.Lock()
	defer c.window.mu.Unlock()
	return int64(c.window.health.sum.plus(c.health().minus(c.window.health.seen)).total)
}

// enter waits for a slot of the command's pool. If there is none the call has ended as how says.
func (c *Command) enter(ctx context.Context, s *scope, p *permit, set *settings, how *ending, hasFallback bool) error {
	pl := c.engine.pool(set.pool)
	err := pl.enter(s)
	if err == nil {
		s.pool, p.apart = pl, true
		p.start = c.clock.roughly()
		return nil
	}
	c.release(p)
	how.kind, how.event = Rejected, poolRejected
	out := c.refusedPool
	if err != errPoolFull {
		how.kind, how.event = Cancelled, cancelled
		if errors.Is(err, context.DeadlineExceeded) || context.Cause(ctx) == errCallersLate {
			how.kind, how.event = TimedOut, c.counted(p, timeout)
			err = fmt.Errorf("%w; it waited for a worker of pool %s", ErrTimeout, pl.name)
		}
		out = &Error{Command: c.name, Kind: how.kind, Cause: err}
	}
	s.end(context.Canceled)
	c.count(how.event)
	c.failedUnrun(p, set)
	if how.kind == Cancelled {
		c.report(how, resultFailure)
	} else if !hasFallback {
		c.count(fallbackMissing)
		how.fallback = fallbackMissing
		c.report(how, resultFailure)
	}
	return out
}

// tookInAll counts the whole time of a call whose time inside run is counted apart.
func (c *Command) tookInAll(ns int64) { c.timesApart().total[latencyBin(ns)].Add(1) }

// refused notes how a call ended that did not run.
func (c *Command) refused(how *ending, refused *Error, hasFallback bool) {
	how.kind = refused.Kind
	switch refused.Kind {
	case Open:
		how.event = shortCircuited
	case Rejected, Limited:
		how.event = rejected
	default:
		how.event = unanswered
	}
	if !hasFallback {
		how.fallback = fallbackMissing
		c.report(how, resultFailure)
	}
}

// failed counts a call that ended with err, and returns what the caller is told.
func (c *Command) failed(ctx context.Context, p *permit, s *scope, err error, end int64, hasFallback bool) (Kind, event, error) {
	gone := errors.Is(ctx.Err(), context.Canceled)
	late := end >= p.deadline || s != nil && s.deadline != 0 && errors.Is(s.Err(), context.DeadlineExceeded) ||
		gone && context.Cause(ctx) == errCallersLate
	kind := classify(err, late, gone)
	e := c.counted(p, eventOf(kind, err))
	p.apart = p.apart || hasFallback && kind != invalid && kind != Cancelled
	if p.lease != nil {
		p.lease.dropped = kind == Shed
	}
	c.finish(p, e, end)
	if kind == invalid {
		return kind, e, err
	}
	if !hasFallback && kind != Cancelled {
		c.count(fallbackMissing)
	}
	if inner, ok := err.(*Error); ok && inner.Command == c.name {
		return kind, e, err
	}
	return kind, e, &Error{Command: c.name, Kind: kind, Cause: err}
}

// eventOf says how a failure counts. What never reached the callee says nothing about its health.
func eventOf(k Kind, err error) event {
	switch k {
	case TimedOut:
		if errors.Is(err, ErrDeadlineSpent) {
			return unanswered
		}
		return timeout
	case NoEndpoint, Shed:
		return unanswered
	case Injected:
		if errors.Is(err, ErrRejected) {
			return rejected
		}
	case Cancelled:
		return cancelled
	case invalid:
		return badRequests
	}
	return failure
}

// counted returns the event under which a call counts that ended with e.
func (c *Command) counted(p *permit, e event) event {
	if e == timeout && c.hasty(p) {
		return hasty
	}
	return e
}

// discard closes a result that came too late.
func discard(v any) {
	switch c := v.(type) {
	case *http.Response:
		if c != nil {
			c.Body.Close() // its error is of no use: nobody asked for the result any more
		}
	case io.Closer:
		if r := reflect.ValueOf(c); r.Kind() != reflect.Pointer || !r.IsNil() {
			c.Close()
		}
	}
}
