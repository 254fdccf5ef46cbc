package ipc

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/ipc/balance"
)

// Hedging: where an attempt takes longer than most do, a second one goes to another instance, and the first answer
// counts. Source: Dean and Barroso, "The Tail at Scale".

// errOutrun is why the slower of two attempts is cancelled.
var errOutrun = errors.New("another attempt of the same call answered first")

// hedging is what an app's hedges need to know; a cluster has it once its command hedges.
type hedging struct {
	budget budget // of hedges alone
	counts [latencyBins]atomic.Uint32
	delay  atomic.Int64 // 0: not known yet

	// Only tick uses what follows.
	ticks  int
	seen   [latencyBins]uint32
	weight [latencyBins]float64 // of the counts, those of a second ago less than those of now
}

const (
	minHedgeDelay  = time.Millisecond
	hedgeQuantile  = 0.95
	hedgeLeast     = 20  // attempts that must be known
	hedgeDecay     = 0.9 // a second, so that the last ten count
	ticksPerSecond = int(time.Second / tickTime)
)

// hedging returns the cluster's, which it makes at first.
func (cl *cluster) hedging() *hedging { return hedgingIn(&cl.hedges) }

func hedgingIn(p *atomic.Pointer[hedging]) *hedging {
	if h := p.Load(); h != nil {
		return h
	}
	p.CompareAndSwap(nil, new(hedging))
	return p.Load()
}

// Hedging is one call of a command that hedges, for adapters of other protocols than HTTP; see [Settings.Hedge].
type Hedging struct {
	c   *Command
	h   *hedging
	set *settings
}

// Hedging counts a call that may get a second attempt. It returns false if the command does not hedge.
func (c *Command) Hedging() (Hedging, bool) {
	set := c.set.Load()
	if !set.Hedge {
		return Hedging{}, false
	}
	h := Hedging{c, hedgingIn(&c.hedges), set}
	h.h.budget.requests.Add(1)
	return h, true
}

// After returns how long to wait for the first attempt before there is a second; 0 if that is not known yet, and there
// shall be none.
func (h Hedging) After() time.Duration { return h.h.after(h.set) }

// Take asks the budgets for the second attempt.
func (h Hedging) Take() bool {
	return h.h.take(h.set, func() bool { return h.c.budget.takeFor(h.set, h.c.callsLately()) })
}

// Took records the first attempt: it was answered after d, or outrun by the second after so long.
func (h Hedging) Took(d time.Duration) { h.h.took(int64(d)) }

// Won records that there was a second attempt, and whether it was the one that counted.
func (h Hedging) Won(second bool) { h.c.engine.hedged(h.c.name, second) }

// took records an attempt that took d, or one that was cancelled when it had taken so long.
func (h *hedging) took(d int64) { h.counts[latencyBin(d)].Add(1) }

// take asks for a second attempt: of the budget of hedges, and of all, that of all further attempts.
func (h *hedging) take(set *settings, all func() bool) bool {
	if !h.budget.takeOf(set.HedgePercent, 0, h.budget.lately()) {
		return false
	}
	if !all() {
		h.budget.extras.Add(-1)
		return false
	}
	return true
}

// hedged counts a call that had a second attempt, by whether that was the one that counted.
func (e *Engine) hedged(name string, second bool) {
	result := "lost"
	if second {
		result = "won"
	}
	e.meter.Counter("ipc.client.hedge", "ipc.vip", name, "ipc.result", result).Inc()
}

// tick works out the delay anew each second. Only the engine's ticker calls it.
func (h *hedging) tick() {
	h.budget.tick()
	if h.ticks++; h.ticks%ticksPerSecond != 0 {
		return
	}
	all := 0.0
	for i := range h.weight {
		now := h.counts[i].Load()
		h.weight[i] = h.weight[i]*hedgeDecay + float64(now-h.seen[i])
		h.seen[i] = now
		all += h.weight[i]
	}
	if all < hedgeLeast {
		h.delay.Store(0)
		return
	}
	sum := 0.0
	for i, w := range h.weight {
		if sum += w; sum >= hedgeQuantile*all {
			h.delay.Store(int64(max(minHedgeDelay, binTime(i))))
			return
		}
	}
}

// leg is one attempt under way: where it counts as active, and what ends it.
type leg struct {
	holds  atomic.Pointer[balance.Endpoint]
	cancel context.CancelFunc // ends the attempt's own context; nil without one
}

// hold counts the leg as active at ep.
func (l *leg) hold(ep *balance.Endpoint) {
	ep.Begin()
	l.holds.Store(ep)
}

// rest counts it as active no more.
func (l *leg) rest() {
	if ep := l.holds.Swap(nil); ep != nil {
		ep.End()
	}
}

// letGo ends the leg; it may be called also more than once.
func (l *leg) letGo() {
	l.rest()
	if l.cancel != nil {
		l.cancel()
	}
}

// race is the first attempt of a call and, if that takes long, a second.
type race struct {
	mu   sync.Mutex
	over bool         // what ends now is nobody's
	back chan *runner // those that have ended
}

// runner is one of the attempts of a race.
type runner struct {
	leg    leg
	cancel context.CancelCauseFunc
	begun  try  // as it began
	ended  bool // what follows may be looked at

	try      try
	resp     *http.Response
	err      error
	panicked any
}

// usable reports whether an answer is good enough not to wait for another.
func (r *runner) usable() bool {
	if r.err != nil || r.panicked != nil {
		return false
	}
	switch s := r.resp.StatusCode; s {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	default:
		return s < http.StatusInternalServerError
	}
}

// discard gives up what nobody wants.
func (r *runner) discard() {
	if r.resp != nil {
		drain(r.resp)
	}
	r.leg.letGo()
	r.cancel(errOutrun)
}

// hedge makes the call's first attempt, as x.first says, and one more at another instance if it takes long. t is what is
// remembered of the one whose outcome it returns.
func (x *exchange) hedge(set *settings) (resp *http.Response, t *try, hedged bool, err error) {
	h := x.cluster.hedging()
	h.budget.requests.Add(1)
	r := &race{back: make(chan *runner, 2)}
	all := [2]*runner{x.enter(r, set, x.first)}
	running := 1
	var late <-chan time.Time
	if delay := h.after(set); delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		late = timer.C
	}
	var won *runner
	for won == nil {
		select {
		case one := <-r.back:
			one.ended = true
			if running--; one.usable() || running == 0 {
				won = one
			}
		case <-late:
			if second, ok := x.company(set, h); ok {
				all[1] = x.enter(r, set, second)
				running++
			}
		}
	}
	now := x.engine.clock.now()
	x.leave(r, won, all[:])
	x.first = all[0].told(won, now)
	if e := x.first.err; e == nil || e == errOutrun {
		h.took(x.first.end - x.first.at) // where it was outrun, at least so long
	}
	t = &x.first
	if all[1] != nil {
		x.more = append(x.more, all[1].told(won, now))
		if won == all[1] {
			t = &x.more[0]
		}
		x.engine.hedged(x.cluster.name, won == all[1])
	}
	if won.panicked != nil {
		panic(won.panicked)
	}
	return won.resp, t, all[1] != nil, won.err
}

// after returns when to hedge, 0 if that is not known.
func (h *hedging) after(set *settings) time.Duration {
	if set.HedgeDelay > 0 {
		return set.HedgeDelay
	}
	return time.Duration(h.delay.Load())
}

// company returns the second attempt, if there may be one.
func (x *exchange) company(set *settings, h *hedging) (try, bool) {
	now := x.engine.clock.now()
	if x.scope.Err() != nil || x.deadline != noDeadline && now+x.cluster.lb.Typical() >= x.deadline {
		return try{}, false
	}
	ep := x.cluster.lb.Apart(now, x.first.endpoint)
	if ep == nil || !h.take(set, func() bool { return x.cluster.budget.take(set) }) {
		return try{}, false
	}
	return try{at: now, endpoint: ep, cause: hedged}, true
}

// enter lets an attempt run that is to be as t says.
func (x *exchange) enter(r *race, set *settings, t try) *runner {
	ctx, cancel := context.WithCancelCause(&x.scope)
	one := &runner{cancel: cancel}
	x.count(&t)
	one.begun, one.try = t, t
	req, err := x.prepare(&one.leg, ctx, set, &one.try) // here, as the caller's request is not ours once the race is over
	go func() {
		defer r.end(one)
		defer func() { one.panicked = recover() }()
		if one.err = err; err == nil {
			one.resp, one.err = x.attempt(&one.leg, req, &one.try)
		}
	}()
	return one
}

// end takes in an attempt that has ended.
func (r *race) end(one *runner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		one.discard()
		return
	}
	r.back <- one
}

// leave ends the race: what lost is cancelled, what won is the call's.
func (x *exchange) leave(r *race, won *runner, all []*runner) {
	r.mu.Lock()
	r.over = true
	for len(r.back) > 0 {
		one := <-r.back
		one.ended = true
	}
	r.mu.Unlock()
	for _, one := range all {
		if one == nil || one == won {
			continue
		}
		if one.cancel(errOutrun); one.ended {
			one.discard()
		}
	}
	x.leg.cancel = func() { won.cancel(nil) }
	if ep := won.leg.holds.Swap(nil); ep != nil {
		x.leg.holds.Store(ep)
	}
	if won.err != nil || won.panicked != nil || x.ended.Load() { // ended: the deadline passed just now
		x.leg.letGo()
	}
}

// told returns what is remembered of an attempt.
func (r *runner) told(won *runner, now int64) try {
	t := r.begun
	if r.ended {
		t = r.try
	} else {
		t.end, t.err = now, errOutrun
	}
	if r != won {
		t.next = outrun
	}
	return t
}
