package ipc

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// PoolSettings are one pool's, which bounds together all commands that are isolated by threads and name it. A zero
// field means the default; properties override the code. Those marked static count when the pool is first used.
type PoolSettings struct {
	// Core is how many calls may run at once: 10. Property hystrix.threadpool.NAME.coreSize.
	Core int

	// Max is how many may if Diverges; never fewer than Core. Properties ….maximumSize (10),
	// ….allowMaximumSizeToDivergeFromCoreSize (false).
	Max      int
	Diverges bool

	// MaxQueue is how many calls may wait for others to end; not above 0 is none, and the default. Static. From
	// QueueLimit (5) on they are refused before the queue is full. A call that waits does so within its timeout.
	// Properties ….maxQueueSize, ….queueSizeRejectionThreshold.
	MaxQueue   int
	QueueLimit int

	// KeepAlive is shown to dashboards, 1 min, and else without effect: no worker stays when it has nothing to do.
	// Property ….keepAliveTimeMinutes.
	KeepAlive time.Duration

	// The most calls at once that dashboards show are of RollingWindow (10 s) in RollingBuckets (10). Static.
	// Properties ….metrics.rollingStats.timeInMilliseconds, .numBuckets.
	RollingWindow  time.Duration
	RollingBuckets int
}

var builtInPool = PoolSettings{
	Core: 10, Max: 10, MaxQueue: -1, QueueLimit: 5, KeepAlive: time.Minute, RollingWindow: 10 * time.Second, RollingBuckets: 10,
}

func (s PoolSettings) or(d PoolSettings) PoolSettings {
	return PoolSettings{
		Core: orElse(s.Core, d.Core), Max: orElse(s.Max, d.Max), Diverges: s.Diverges,
		MaxQueue: orElse(s.MaxQueue, d.MaxQueue), QueueLimit: orElse(s.QueueLimit, d.QueueLimit), KeepAlive: orElse(s.KeepAlive, d.KeepAlive),
		RollingWindow: orElse(s.RollingWindow, d.RollingWindow), RollingBuckets: orElse(s.RollingBuckets, d.RollingBuckets),
	}
}

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// ActualMax is how many calls may run at once after all.
func (s PoolSettings) ActualMax() int {
	if s.Diverges {
		return max(s.Core, s.Max)
	}
	return s.Core
}

// validate reports the first field that makes no sense.
func (s PoolSettings) validate() error {
	full := s.or(builtInPool)
	switch {
	case s.Core < 0 || s.Max < 0 || s.QueueLimit < 0 || s.KeepAlive < 0:
		return errors.New("none of Core, Max, QueueLimit and KeepAlive may be negative")
	case s.RollingWindow < 0 || s.RollingWindow > maxTimeout || s.RollingBuckets < 0:
		return fmt.Errorf("the rolling window must be from 0 to %s", maxTimeout)
	}
	return full.windows()
}

func (s PoolSettings) windows() error {
	if s.RollingBuckets > maxBuckets || s.RollingWindow%time.Duration(s.RollingBuckets) != 0 {
		return fmt.Errorf("the rolling window of %s must divide evenly into its %d buckets, at most %d", s.RollingWindow, s.RollingBuckets, maxBuckets)
	}
	return nil
}

// poolKnobs returns all dynamic settings of pools.
func poolKnobs() []knob[PoolSettings] {
	type S = PoolSettings
	return []knob[S]{
		intKnob(poolPrefix, "coreSize", 1, 1<<20, func(s *S) *int { return &s.Core }),
		intKnob(poolPrefix, "maximumSize", 1, 1<<20, func(s *S) *int { return &s.Max }),
		boolKnob(poolPrefix, "allowMaximumSizeToDivergeFromCoreSize", false, func(s *S) *bool { return &s.Diverges }),
		intKnob(poolPrefix, "maxQueueSize", -1, 1<<20, func(s *S) *int { return &s.MaxQueue }).asStatic(),
		intKnob(poolPrefix, "queueSizeRejectionThreshold", 1, 1<<20, func(s *S) *int { return &s.QueueLimit }),
		{prefix: poolPrefix, suffix: "keepAliveTimeMinutes",
			set: func(s *S, text string) error {
				n, err := parseRange(text, 1, int(maxTimeout/time.Minute))
				if err == nil {
					s.KeepAlive = time.Duration(n) * time.Minute
				}
				return err
			},
			zero: func(s *S) bool { return s.KeepAlive == 0 },
			keep: func(s, from *S) { s.KeepAlive = from.KeepAlive },
		},
		msKnob(poolPrefix, "metrics.rollingStats.timeInMilliseconds", 10, func(s *S) *time.Duration { return &s.RollingWindow }).asStatic(),
		intKnob(poolPrefix, "metrics.rollingStats.numBuckets", 1, maxBuckets, func(s *S) *int { return &s.RollingBuckets }).asStatic(),
	}
}

// pool bounds how many calls of some commands run at once, and lets some more wait.
type pool struct {
	name   string
	engine *Engine
	code   PoolSettings // guarded by Engine.mu

	mu        sync.Mutex
	set       PoolSettings // with every default filled in
	active    int
	queue     []*waiter
	largest   int
	started   uint64
	completed uint64

	peak  int // the most active in the present bucket
	peaks []int
	head  int
	due   int64
}

// waiter is a call that waits for a slot.
type waiter struct {
	granted bool          // guarded by the pool's mu
	ready   chan struct{} // closed once granted
}

var (
	errPoolFull = errors.New("all workers are busy")
	errPoolBusy = fmt.Errorf("all workers of its pool are busy, and no more calls may wait: %w", ErrRejected)
)

// Pool sets up the pool of that name. Settings that make no sense are logged and ignored.
func (e *Engine) Pool(name string, s PoolSettings) {
	err := s.validate()
	if err != nil {
		e.log.Error("settings of a pool make no sense; the others stay", "pool", name, "err", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p := (*e.pools.Load())[name]
	switch {
	case p == nil && err == nil:
		e.addPool(name, s)
	case p == nil:
		e.addPool(name, PoolSettings{})
	case err == nil:
		p.code = s
		p.resolve()
	}
}

// pool returns the pool of that name.
func (e *Engine) pool(name string) *pool {
	if p := (*e.pools.Load())[name]; p != nil {
		return p
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := (*e.pools.Load())[name]; p != nil {
		return p
	}
	return e.addPool(name, PoolSettings{})
}

// addPool makes the pool of that name. The caller holds mu.
func (e *Engine) addPool(name string, s PoolSettings) *pool {
	p := &pool{name: name, engine: e, code: s, due: e.clock.now()}
	p.resolve()
	all := maps.Clone(*e.pools.Load())
	all[name] = p
	e.pools.Store(&all)
	return p
}

// resolve works out the settings. The caller holds the engine's mu.
func (p *pool) resolve() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var before *PoolSettings
	if p.peaks != nil {
		before = &p.set
	}
	all := poolKnobs()
	set := turn(p.name, p.code, p.engine.props, all, before, p.engine.refuse).or(builtInPool)
	if err := set.windows(); err != nil {
		for i := range all {
			if k := &all[i]; k.static {
				if key, text, ok := k.find(p.name, p.engine.props, &p.code); ok {
					p.engine.refuse(key, text, err)
				}
				k.keep(&set, &p.code)
			}
		}
		set = set.or(builtInPool)
	}
	p.set = set
	if p.peaks == nil {
		p.peaks = make([]int, set.RollingBuckets)
	}
	p.grant()
}

// enter takes a slot, or waits for one until s ends. It fails with errPoolFull if no more may wait.
func (p *pool) enter(s *scope) error {
	p.mu.Lock()
	w := (*waiter)(nil)
	switch queues := p.set.MaxQueue > 0; {
	case p.active < p.set.Core:
	case queues && len(p.queue) >= p.set.QueueLimit:
		p.mu.Unlock()
		return errPoolFull
	case queues && len(p.queue) < p.set.MaxQueue:
		w = &waiter{ready: make(chan struct{})}
		p.queue = append(p.queue, w)
	case p.active < p.set.ActualMax():
	default:
		p.mu.Unlock()
		return errPoolFull
	}
	if w == nil {
		p.take()
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-s.Done():
	}
	p.mu.Lock()
	if i := slices.Index(p.queue, w); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
	}
	granted := w.granted
	p.mu.Unlock()
	if granted { // at the last moment
		p.leave()
	}
	return s.Err()
}

// take counts one more that runs. The caller holds mu.
func (p *pool) take() {
	p.active++
	p.started++
	p.largest, p.peak = max(p.largest, p.active), max(p.peak, p.active)
}

// grant gives free slots to those who wait. The caller holds mu.
func (p *pool) grant() {
	for len(p.queue) > 0 && p.active < p.set.ActualMax() {
		w := p.queue[0]
		p.queue = slices.Delete(p.queue, 0, 1)
		w.granted = true
		close(w.ready)
		p.take()
	}
}

// leave gives a slot back.
func (p *pool) leave() {
	p.mu.Lock()
	p.active--
	p.completed++
	p.grant()
	p.mu.Unlock()
}

// tick completes the bucket that ends now. Only the engine's ticker calls it.
func (p *pool) tick(now int64, tick time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if isDue(&p.due, now, p.set.RollingWindow/time.Duration(p.set.RollingBuckets), tick) {
		p.peaks[p.head] = p.peak
		p.head = (p.head + 1) % len(p.peaks)
		p.peak = p.active
		p.peaks[p.head] = 0 // its turn to be the present bucket
	}
}

func (p *pool) stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return PoolStats{
		Name: p.name, Active: p.active, Queued: len(p.queue), Largest: p.largest, Settings: p.set,
		Started: p.started, Completed: p.completed, MaxActive: max(p.peak, slices.Max(p.peaks)),
	}
}
