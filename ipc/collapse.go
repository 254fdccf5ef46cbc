package ipc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Scope says whose calls are batched together.
type Scope uint8

// The scopes of a batch.
const (
	PerRequest  Scope = iota // those of one request; see [NewRequest]
	AllRequests              // all of the process: values of the context are the first caller's
)

// BatchDefinition declares a command that answers many arguments at once, and is called with one at a time.
type BatchDefinition[A comparable, R any] struct {
	// Group is the name under which dashboards show the command together with others; its own name if empty.
	Group string

	// Run answers a batch of arguments, all different, in the order in which they came. Who asked for one that is
	// missing in the answer gets [ErrNoAnswer]. It runs on a goroutine of its own.
	Run func(ctx context.Context, args []A) (map[A]R, error)

	// Fallback answers instead of Run, as in [CallOr]; nil is none.
	Fallback func(ctx context.Context, args []A, cause error) (map[A]R, error)

	Scope Scope

	// A batch runs when Window (10 ms) has passed since its first argument, or when it has MaxBatch (no limit).
	// Properties hystrix.collapser.NAME.timerDelayInMilliseconds, .maxRequestsInBatch.
	Window   time.Duration
	MaxBatch int

	// CacheOff has a second call with an argument that the batch has already fail. Else both get the one answer, as
	// do later calls within one request. Property hystrix.collapser.NAME.requestCache.enabled=false.
	CacheOff bool

	Settings Settings // of the command that runs batches
}

// ErrNoAnswer is the error of a call whose argument the batch's answer does not mention.
var ErrNoAnswer = errors.New("the batch brought no answer for its argument")

// ErrTwice is the error of a call whose argument is in the batch already, if the collapser may not cache.
var ErrTwice = errors.New("its argument is in the batch already, and the collapser's request cache is off")

// Batched is a command whose calls are collected. Get one from [Batch]; its methods may be used from many goroutines.
type Batched[A comparable, R any] struct {
	cmd     *Command
	scope   Scope
	batches *Defined[[]A, map[A]R]
	stats   *collapser

	mu  sync.Mutex    // guards all gathers and batches, and:
	all *gather[A, R] // of AllRequests
}

// gather is where the calls of one request come together, or those of all.
type gather[A comparable, R any] struct {
	flights map[A]*flight
	open    *batch[A, R] // nil if the next argument opens one
}

// batch is some arguments that are answered together.
type batch[A comparable, R any] struct {
	from    *gather[A, R]
	ctx     context.Context // the first caller's
	args    []A
	live    int  // arguments that somebody waits for
	started bool // no argument is added or taken off any more
	timer   *time.Timer
	until   time.Time // the latest of the callers' deadlines
	forever bool      // a caller has none
	cancel  context.CancelCauseFunc
}

// Batch declares the command of that name, once for each engine. It panics if the definition makes no sense.
func Batch[A comparable, R any](e *Engine, name string, d BatchDefinition[A, R]) *Batched[A, R] {
	code := collapserSettings{d.MaxBatch, d.Window, d.CacheOff}
	switch {
	case d.Run == nil:
		panic(fmt.Sprintf("ipc: define batch %q: it has no Run function", name))
	case d.Scope > AllRequests:
		panic(fmt.Sprintf("ipc: define batch %q: Scope must be PerRequest or AllRequests", name))
	case d.MaxBatch < 0 || d.Window < 0 || d.Window > maxTimeout:
		panic(fmt.Sprintf("ipc: define batch %q: MaxBatch must not be negative, and Window be from 0 to %s", name, maxTimeout))
	}
	cmd := e.define("batch", name, d.Group, d.Settings)
	return &Batched[A, R]{
		cmd: cmd, scope: d.Scope, stats: e.addCollapser(cmd, code), all: &gather[A, R]{flights: map[A]*flight{}},
		batches: &Defined[[]A, map[A]R]{cmd, Definition[[]A, map[A]R]{Run: d.Run, Fallback: d.Fallback}},
	}
}

// Call puts arg into a batch and waits for its answer. It leaves the batch when ctx ends: if nobody else waits for
// the argument, and the batch has not begun, without it; a batch that nobody waits for is given up. Outside any
// request, a batch PerRequest has one argument and runs at once.
func (b *Batched[A, R]) Call(ctx context.Context, arg A) (v R, err error) {
	if err := ctx.Err(); err != nil {
		return v, b.left(err)
	}
	f, bt, err := b.join(ctx, arg)
	if err != nil {
		return v, err
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		b.leave(arg, f, bt, ctx.Err())
		return v, b.left(ctx.Err())
	}
	if f.panick != nil {
		panic(f.panick)
	}
	v, _ = f.v.(R) // nil if R is an interface
	return v, f.err
}

// Go is Call on a goroutine of its own.
func (b *Batched[A, R]) Go(ctx context.Context, arg A) *Future[R] {
	return goCall(ctx, b.cmd, func(ctx context.Context) (R, error) { return b.Call(ctx, arg) })
}

// Forget drops the answer that the request of ctx has cached for arg, so that the next call asks anew.
func (b *Batched[A, R]) Forget(ctx context.Context, arg A) {
	in := inboundOf(ctx)
	if in == nil || b.scope == AllRequests {
		return
	}
	g := b.gatherOf(&in.request)
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := g.flights[arg]; f != nil {
		select {
		case <-f.done:
			delete(g.flights, arg)
		default: // it is being asked for anyway
		}
	}
}

// left is the error of a caller who goes before the answer has come.
func (b *Batched[A, R]) left(why error) error {
	kind := Cancelled
	if errors.Is(why, context.DeadlineExceeded) {
		kind = TimedOut
	}
	return &Error{Command: b.cmd.name, Kind: kind, Cause: why}
}

// gatherOf returns where the calls of that request come together.
func (b *Batched[A, R]) gatherOf(r *request) *gather[A, R] {
	r.mu.Lock()
	defer r.mu.Unlock()
	g, _ := r.gathers[b.stats].(*gather[A, R])
	if g == nil {
		g = &gather[A, R]{flights: map[A]*flight{}}
		if r.gathers == nil {
			r.gathers = map[*collapser]any{}
		}
		r.gathers[b.stats] = g
	}
	return g
}

// join adds a caller who wants arg to be answered. bt is nil if it has been answered.
func (b *Batched[A, R]) join(ctx context.Context, arg A) (f *flight, bt *batch[A, R], err error) {
	g := b.all
	set := b.stats.set.Load()
	alone := false
	if b.scope == PerRequest {
		if in := inboundOf(ctx); in != nil {
			g = b.gatherOf(&in.request)
		} else {
			g, alone = &gather[A, R]{flights: map[A]*flight{}}, true
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if f = g.flights[arg]; f != nil {
		bt, _ = f.batch.(*batch[A, R])
		if set.CacheOff && bt != nil && !bt.started {
			return nil, nil, fmt.Errorf("ipc: collapser %s, argument %v: %w; call once and share the answer", b.cmd.name, arg, ErrTwice)
		}
		if !set.CacheOff {
			if f.waiting++; f.waiting == 1 && bt != nil {
				bt.live++
			}
			if bt != nil {
				bt.lasts(ctx)
			}
			b.stats.fromCache.Add(1)
			return f, bt, nil
		}
	}
	bt = g.open
	if bt == nil {
		bt = &batch[A, R]{from: g, ctx: ctx}
		g.open = bt
		if !alone {
			bt.timer = time.AfterFunc(set.Window, func() {
				b.mu.Lock()
				begins := bt.begin()
				b.mu.Unlock()
				if begins {
					b.run(bt)
				}
			})
		}
	}
	f = &flight{done: make(chan struct{}), waiting: 1, batch: bt}
	g.flights[arg] = f
	bt.args = append(bt.args, arg)
	bt.live++
	bt.lasts(ctx)
	if alone || len(bt.args) >= set.MaxBatch {
		bt.begin()
		go b.run(bt)
	}
	return f, bt, nil
}

// lasts extends the batch's deadline to that of ctx.
func (bt *batch[A, R]) lasts(ctx context.Context) {
	t, ok := ctx.Deadline()
	if bt.forever = bt.forever || !ok; t.After(bt.until) {
		bt.until = t
	}
}

// begin closes the batch, once. The caller holds mu.
func (bt *batch[A, R]) begin() bool {
	if bt.started {
		return false
	}
	bt.started = true
	bt.from.open = nil
	if bt.timer != nil {
		bt.timer.Stop()
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(bt.ctx))
	bt.cancel = cancel
	if bt.ctx = ctx; !bt.forever {
		var stop context.CancelFunc
		bt.ctx, stop = context.WithDeadline(ctx, bt.until)
		bt.cancel = func(why error) { cancel(why); stop() }
	}
	return true
}

// leave takes a caller off. What nobody waits for is not asked for, or given up.
func (b *Batched[A, R]) leave(arg A, f *flight, bt *batch[A, R], why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.waiting--; f.waiting > 0 || bt == nil {
		return
	}
	bt.live--
	g := bt.from
	switch {
	case !bt.started:
		bt.args = slices.Delete(bt.args, slices.Index(bt.args, arg), slices.Index(bt.args, arg)+1)
		delete(g.flights, arg)
		if bt.live == 0 {
			bt.timer.Stop()
			bt.started = true // lest the timer, which may have fired, runs it
			g.open = nil
		}
	case bt.live == 0:
		cause := errCallersGone
		if errors.Is(why, context.DeadlineExceeded) {
			cause = errCallersLate
		}
		bt.cancel(cause)
		for _, a := range bt.args {
			if f := g.flights[a]; f != nil && f.batch == any(bt) {
				delete(g.flights, a) // nobody shall find what becomes of it
			}
		}
	}
}

// run answers a batch that has begun.
func (b *Batched[A, R]) run(bt *batch[A, R]) {
	b.mu.Lock()
	flights := make([]*flight, len(bt.args))
	for i, a := range bt.args {
		if f := bt.from.flights[a]; f != nil && f.batch == any(bt) {
			flights[i] = f // else all who asked for it have gone
		}
	}
	b.mu.Unlock()
	c := b.cmd
	c.shard().n[collapsed].Add(uint32(len(bt.args)))
	b.stats.ran(len(bt.args))
	var answers map[A]R
	err := errNoReturn
	var how ending
	defer func() {
		panick := recover()
		bt.cancel(nil)
		b.mu.Lock()
		keep := b.scope == PerRequest && !b.stats.set.Load().CacheOff
		for i, a := range bt.args {
			f := flights[i]
			if f == nil {
				continue
			}
			f.panick, f.err = panick, err
			if v, ok := answers[a]; err == nil && ok {
				f.v = v
			} else if err == nil {
				f.err = &Error{Command: c.name, Kind: Failed, Cause: fmt.Errorf("argument %v: %w", a, ErrNoAnswer)}
			}
			f.batch = nil
			if !keep && bt.from.flights[a] == f {
				delete(bt.from.flights, a)
			}
			close(f.done)
		}
		b.mu.Unlock()
	}()
	answers, err = b.batches.call(bt.ctx, slices.Clone(bt.args), &how)
	if c.engine.logging.Load() > 0 {
		c.log(bt.ctx, &how, logged{collapser: c.name, batch: len(bt.args)})
	}
}

// collapserSettings are what properties may change of a batch.
type collapserSettings struct {
	MaxBatch int
	Window   time.Duration
	CacheOff bool
}

// collapserKnobs returns all dynamic settings of collapsers.
func collapserKnobs() []knob[collapserSettings] {
	type S = collapserSettings
	return []knob[S]{
		intKnob(collapserPrefix, "maxRequestsInBatch", 1, math.MaxInt32, func(s *S) *int { return &s.MaxBatch }),
		msKnob(collapserPrefix, "timerDelayInMilliseconds", 1, func(s *S) *time.Duration { return &s.Window }),
		boolKnob(collapserPrefix, "requestCache.enabled", true, func(s *S) *bool { return &s.CacheOff }),
	}
}

// collapser is what is the same for batches of all types: settings and statistics.
type collapser struct {
	cmd       *Command
	code      collapserSettings
	set       atomic.Pointer[collapserSettings]
	fromCache atomic.Uint32

	mu      sync.Mutex
	seen    uint32 // fromCache at the last rollover
	due     int64
	head    int
	buckets [collapserBuckets]collapserBucket // of a second each; that at head is the present one
}

const collapserBuckets = 10

// collapserBucket counts batches by their size.
type collapserBucket struct {
	sizes     map[int]uint32
	fromCache uint32
}

func (e *Engine) addCollapser(cmd *Command, code collapserSettings) *collapser {
	c := &collapser{cmd: cmd, code: code, due: e.clock.now() + int64(time.Second)}
	e.mu.Lock()
	defer e.mu.Unlock()
	c.resolve()
	all := maps.Clone(*e.collapsers.Load())
	all[cmd.name] = c
	e.collapsers.Store(&all)
	return c
}

// resolve works out the settings. The caller holds the engine's mu.
func (c *collapser) resolve() {
	e := c.cmd.engine
	set := turn(c.cmd.name, c.code, e.props, collapserKnobs(), c.set.Load(), e.refuse)
	set.MaxBatch, set.Window = orElse(set.MaxBatch, math.MaxInt32), orElse(set.Window, 10*time.Millisecond)
	c.set.Store(&set)
}

// ran counts a batch.
func (c *collapser) ran(size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := &c.buckets[c.head]
	if b.sizes == nil {
		b.sizes = map[int]uint32{}
	}
	b.sizes[size]++
}

// tick completes the bucket that ends now. Only the engine's ticker calls it.
func (c *collapser) tick(now int64, tick time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !isDue(&c.due, now, time.Second, tick) {
		return
	}
	n := c.fromCache.Load()
	c.buckets[c.head].fromCache = n - c.seen
	c.seen = n
	c.head = (c.head + 1) % collapserBuckets
	c.buckets[c.head] = collapserBucket{}
}

func (c *collapser) stats() CollapserStats {
	set := c.set.Load()
	s := CollapserStats{
		Name: c.cmd.name, Cache: !set.CacheOff, MaxBatch: set.MaxBatch, Window: set.Window, RollingWindow: collapserBuckets * time.Second,
	}
	sizes := map[int]uint32{}
	c.mu.Lock()
	s.ResponsesFromCache = c.fromCache.Load() - c.seen
	for _, b := range c.buckets {
		s.ResponsesFromCache += b.fromCache
		for size, n := range b.sizes {
			sizes[size] += n
			s.Batches += n
			s.Batched += uint32(size) * n
		}
	}
	c.mu.Unlock()
	if s.Batches == 0 {
		return s
	}
	s.BatchSize.Mean = float64(s.Batched) / float64(s.Batches)
	seen, p := uint32(0), 0
	for _, size := range slices.Sorted(maps.Keys(sizes)) {
		seen += sizes[size]
		for p < len(Percentiles) && float64(seen) >= Percentiles[p]/100*float64(s.Batches) {
			s.BatchSize.Percentiles[p] = size
			p++
		}
	}
	return s
}
