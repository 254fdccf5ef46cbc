// Package limit finds out how many requests a process can work on at once, and refuses those beyond. At Netflix this was
// concurrency-limits.
//
//	l, err := limit.New(limit.Config{Algorithm: vegas})
//	...
//	permit, ok := l.Acquire(now)
//	if !ok {
//		return errBusy
//	}
//	err := work()
//	l.Success(permit, now) // or Ignore, or Drop
//
// An [Algorithm] moves the limit by how long requests take: [Vegas] and [Gradient2] lower it when they wait in a queue,
// [AIMD] when they fail, [Fixed] never. The limiter hands it one sample a second, the mean of that second's requests.
//
// Times are nanoseconds on any clock that never goes back; the package reads none itself, except that a [Queue] waits.
//
// # What it promises
//   - AIMD, Vegas and, with Original set, Gradient2 move the limit exactly as concurrency-limits 0.5 does.
//   - Acquire never lets more than the limit in, except where [Partition] shares allow it, which are guarantees.
//   - Every permit is counted until it is given back, also while the limit or the configuration change.
//
// # What it does not
//   - It does not know which request matters more; see the ipc package for that.
//   - A permit that is never given back is lost for good, and one given back twice counts twice.
//
// # What it costs
//
// Acquire and Success take some 40 ns together, a refusal 15 ns; neither allocates.
package limit

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Algorithm moves a limit. A [Limiter] asks it from one goroutine at a time.
type Algorithm interface {
	// Limit returns how many requests may be in flight.
	Limit() int

	// Update takes what was observed: the mean time that requests took, the most that were in flight at once, and
	// whether any timed out or was refused by the other side. It returns the new limit.
	Update(rtt time.Duration, inFlight int, dropped bool) int
}

// Config describes a limiter.
type Config struct {
	Algorithm  Algorithm   // nil: Vegas with its defaults
	Window     Window      // how samples become what the algorithm sees
	Partitions []Partition // of the limit; none: all requests are alike
}

// Window says how samples are summed up before the algorithm sees them. A zero field means the default.
type Window struct {
	Least   time.Duration // 1 s; a window lasts twice the shortest request in it, but at least this
	Longest time.Duration // 1 s; and at most this
	Samples int           // 10; a window with fewer is passed over
	MinRTT  time.Duration // 100 µs; requests that took less say nothing, except that they were dropped
}

func (w Window) or() Window {
	if w.Least == 0 {
		w.Least = time.Second
	}
	if w.Longest == 0 {
		w.Longest = max(time.Second, w.Least)
	}
	if w.Samples == 0 {
		w.Samples = 10
	}
	if w.MinRTT == 0 {
		w.MinRTT = 100 * time.Microsecond
	}
	return w
}

func (w Window) validate() error {
	if w.Least < 0 || w.Longest < w.Least || w.Samples < 1 || w.MinRTT < 0 {
		return fmt.Errorf("a window of %s to %s with at least %d samples of at least %s makes no sense; times must be positive, and the longest not below the least",
			w.Least, w.Longest, w.Samples, w.MinRTT)
	}
	return nil
}

// Limiter counts requests in flight and refuses those beyond its limit. Its methods may be called from many goroutines.
type Limiter struct {
	_        [64]byte
	inflight atomic.Int64
	_        [56]byte
	limit    atomic.Int64
	slow     atomic.Bool
	proven   atomic.Int64
	needed   atomic.Int64
	parts    atomic.Pointer[partitions]
	delayed  atomic.Int64
	_        [16]byte

	mu     sync.Mutex // guards what follows
	config Config
	begun  int64 // when the present window was begun
	end    int64 // when it closes
	now    window
	usual  float64 // mean nanoseconds of an unloaded request: the fastest window, which ages
	borne  float64 // the most requests in flight, on the mean of a window, while none waited; it ages
	least  int
	most   int // 0: none

	quickBegun           int64 // of a shorter window, by which slow is told
	quickSum, quickCount int64

	rateBegun int64 // of a window long enough to tell the rate at which requests end
	rateCount int64
	rateSlow  bool    // they were slow in it
	rate      float64 // requests in flight that the present rate needs, as Needed tells
}

// window is the sum of the samples of one window.
type window struct {
	sum, fastest int64
	samples      int
	inflight     int
	dropped      bool
}

const (
	slower     = 1.5       // times the usual
	unslowed   = 1.1       // times the usual, while nothing waits
	ageing     = 1.0 / 600 // of the usual, per window
	forgotten  = 0.99      // of what was borne is left, per window
	remembered = 0.999     // per window in which requests are slow
	quick      = int64(25 * time.Millisecond)
	quickMost  = 10 // samples at least, or quickLong
	quickLong  = int64(time.Second)
	rateLeast  = int64(100 * time.Millisecond)
	rateTimes  = 4 // the usual time of a request, at least: those that began together end together
	rateShare  = 0.3
)

// New makes a limiter. It fails if the configuration makes no sense.
func New(c Config) (*Limiter, error) {
	l := &Limiter{}
	if err := l.Configure(c); err != nil {
		return nil, err
	}
	return l, nil
}

// Configure replaces the algorithm, window and partitions. What is in flight stays counted. If the configuration makes
// no sense it fails, and nothing changes.
func (l *Limiter) Configure(c Config) error {
	if c.Algorithm == nil {
		c.Algorithm, _ = NewVegas(VegasConfig{}) // its defaults make sense
	}
	c.Window = c.Window.or()
	if err := c.Window.validate(); err != nil {
		return fmt.Errorf("limit: %w", err)
	}
	parts, err := newPartitions(c.Partitions, l.parts.Load())
	if err != nil {
		return fmt.Errorf("limit: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.config, l.now, l.end, l.usual, l.borne = c, window{}, 0, 0, 0
	l.quickBegun, l.quickSum, l.quickCount = 0, 0, 0
	l.rateBegun, l.rateCount, l.rateSlow, l.rate = 0, 0, false, 0
	l.slow.Store(false)
	l.proven.Store(0)
	l.needed.Store(0)
	l.parts.Store(parts)
	l.setLimit(c.Algorithm.Limit())
	parts.setLimit(int(l.limit.Load()))
	return nil
}

// Bound holds the limit between least and most, whatever the algorithm says; most 0 is no bound.
func (l *Limiter) Bound(least, most int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.least != least || l.most != most {
		l.least, l.most = least, most
		l.setLimit(l.config.Algorithm.Limit())
	}
}

// setLimit publishes the limit. The caller holds mu.
func (l *Limiter) setLimit(n int) {
	if n = max(n, l.least); l.most > 0 {
		n = min(n, l.most)
	}
	if int64(n) != l.limit.Swap(int64(n)) {
		l.parts.Load().setLimit(n)
	}
}

// Permit is the right to work on one request. Give it back once, with Success, Ignore or Drop.
type Permit struct {
	start    int64
	inflight int64
	part     *part // nil without partitions
}

// InFlight returns how many were in flight when this one came, itself included.
func (p Permit) InFlight() int { return int(p.inflight) }

// Guaranteed reports whether the request is within the share of its partition. Without a partition it is not.
func (p Permit) Guaranteed() bool { return p.part != nil && p.part.busy.Load() <= p.part.limit.Load() }

// Limit returns how many requests may be in flight now.
func (l *Limiter) Limit() int { return int(l.limit.Load()) }

// InFlight returns how many are.
func (l *Limiter) InFlight() int { return int(l.inflight.Load()) }

// Slow reports whether requests lately took half as long again as they usually do, or some were dropped: whether there
// is a reason for the limit beside itself. It looks at the last 25 ms, or as long as ten requests take. What is usual is
// the fastest window; it ages, so that requests which have become slower for good are usual after some ten minutes.
func (l *Limiter) Slow() bool { return l.slow.Load() }

// Proven returns how many requests in flight, on the mean of a window, did not slow each other down. It ages by a
// hundredth per second, by a thousandth while requests are slow.
func (l *Limiter) Proven() int { return int(l.proven.Load()) }

// Needed returns how many requests have to be in flight to end as many as ended while they were slow, if each took as
// long as usual: what is in flight beyond waits. It is 0 before any were slow. Source: Little's law; TCP BBR, Cardwell
// et al. 2016, sets its window so.
func (l *Limiter) Needed() int { return int(l.needed.Load()) }

// Acquire lets one more request in unless as many as the limit are in flight.
// hot path: 0 allocs, BenchmarkAcquire
func (l *Limiter) Acquire(now int64) (Permit, bool) {
	n := l.inflight.Add(1)
	if n > l.limit.Load() {
		l.inflight.Add(-1)
		return Permit{}, false
	}
	return Permit{start: now, inflight: n}, true
}

// Enter lets one more request in whatever the limit says, for callers who have decided that themselves.
// hot path: 0 allocs, BenchmarkAcquire
func (l *Limiter) Enter(now int64) Permit {
	return Permit{start: now, inflight: l.inflight.Add(1)}
}

// Success gives a permit back after a request that says how loaded whoever worked on it is.
// hot path: 0 allocs, BenchmarkAcquire
func (l *Limiter) Success(p Permit, now int64) { l.sample(p, now, false) }

// Ignore gives a permit back after a request that says nothing: the caller went away, or its request was invalid.
func (l *Limiter) Ignore(p Permit) { l.leave(p) }

// Drop gives a permit back after a request that timed out or that the other side refused.
func (l *Limiter) Drop(p Permit, now int64) { l.sample(p, now, true) }

func (l *Limiter) leave(p Permit) {
	if p.part != nil {
		p.part.busy.Add(-1)
	}
	l.inflight.Add(-1)
}

func (l *Limiter) sample(p Permit, now int64, dropped bool) {
	l.leave(p)
	rtt := now - p.start
	l.mu.Lock()
	w := &l.now
	if rtt < int64(l.config.Window.MinRTT) {
		w.dropped = w.dropped || dropped
		if !dropped || w.samples == 0 {
			l.mu.Unlock()
			return
		}
	} else {
		if w.samples == 0 || rtt < w.fastest {
			w.fastest = rtt
		}
		w.sum += rtt
		w.samples++
		w.inflight = max(w.inflight, int(p.inflight))
		w.dropped = w.dropped || dropped
		l.quickSum += rtt
		l.quickCount++
	}
	if took := now - l.quickBegun; took >= quick && (l.quickCount >= quickMost || took >= quickLong) {
		l.judge(now)
	}
	if now > l.end {
		l.close(now)
	}
	l.mu.Unlock()
}

// judge decides whether requests are slow. The caller holds mu.
func (l *Limiter) judge(now int64) {
	slow := l.now.dropped
	if l.quickCount >= quickMost && l.usual > 0 {
		slow = slow || float64(l.quickSum) > slower*l.usual*float64(l.quickCount)
	}
	l.rateCount += l.quickCount
	l.rateSlow = l.rateSlow || slow
	if took := now - l.rateBegun; took >= max(rateLeast, rateTimes*int64(l.usual)) {
		l.measure(now, took)
	}
	l.slow.Store(slow)
	l.quickBegun, l.quickSum, l.quickCount = now, 0, 0
}

// measure takes the rate at which requests ended for what they could reach, if they were slow. The caller holds mu.
func (l *Limiter) measure(now, took int64) {
	rate := float64(l.rateCount) / float64(took) * l.usual
	switch {
	case l.rateCount < quickMost || l.usual == 0:
	case l.rate == 0 && l.rateSlow:
		l.rate = rate
	case l.rateSlow || rate > l.rate && l.rate > 0: // requests that are not slow do not show what there could be
		l.rate += (rate - l.rate) * rateShare
	}
	l.needed.Store(int64(math.Ceil(l.rate)))
	l.rateBegun, l.rateCount, l.rateSlow = now, 0, false
}

// close ends the window and starts the next. The caller holds mu; there is a sample.
func (l *Limiter) close(now int64) {
	w, c, took := l.now, &l.config.Window, now-l.begun
	l.now, l.begun = window{}, now
	l.end = now + min(max(2*w.fastest, int64(c.Least)), int64(c.Longest))
	if w.samples < c.Samples {
		return
	}
	mean := w.sum / int64(w.samples)
	if m := float64(mean); l.usual == 0 || m < l.usual {
		l.usual = m
	} else {
		l.usual += (m - l.usual) * ageing
	}
	if float64(mean) <= unslowed*l.usual && !w.dropped {
		l.borne = max(l.borne*forgotten, float64(w.sum)/float64(max(took, 1))) // by Little's law
	} else {
		l.borne *= remembered // it cannot be shown anew
	}
	l.proven.Store(int64(l.borne))
	l.setLimit(l.config.Algorithm.Update(time.Duration(mean), w.inflight, w.dropped))
}

// Fixed is a limit that never moves.
type Fixed int

// Limit returns it.
func (f Fixed) Limit() int { return int(f) }

// Update returns it.
func (f Fixed) Update(time.Duration, int, bool) int { return int(f) }

// bounds checks and fills in what every moving limit has.
func bounds(name string, initial, least, most *int, defInitial, defLeast, defMost int) error {
	for _, v := range [...]struct {
		at  *int
		def int
	}{{initial, defInitial}, {least, defLeast}, {most, defMost}} {
		if *v.at == 0 {
			*v.at = v.def
		}
	}
	if *least < 1 || *most > math.MaxInt32 || *least > *initial || *initial > *most {
		return fmt.Errorf("limit: %s from %d, at least %d and at most %d, makes no sense; use 1 <= least <= initial <= most", name, *initial, *least, *most)
	}
	return nil
}

func ratio(name, what string, at *float64, def, lo, hi float64) error {
	if *at == 0 {
		*at = def
	}
	if !(*at >= lo && *at <= hi) { // so that NaN is refused
		return fmt.Errorf("limit: %s with %s %v makes no sense; use %v to %v", name, what, *at, lo, hi)
	}
	return nil
}
