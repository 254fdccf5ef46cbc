package ipc

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// What a call did. Each has a counter.
type event uint8

const (
	success event = iota
	failure
	timeout
	hasty // a timeout that says nothing about health: its caller left less time than the call usually takes
	poolRejected
	rejected
	shortCircuited
	shortCircuitedBare // there was no fallback either: two events for the price of one, taken apart by totals
	badRequests
	cancelled
	unanswered // no endpoint, no time left, or refused by an overloaded server: says nothing about health
	fallbackSuccess
	fallbackFailure
	fallbackRejected
	fallbackDisabled
	fallbackMissing
	fromCache
	collapsed
	slowCalls // took longer than SlowCall, however it ended
	events
)

// shard is one of several counters of the same calls, so that cores do not fight for a cache line.
type shard struct {
	inflight atomic.Int32 // calls that this shard let through
	peak     atomic.Int32 // the most of them in the present bucket of the dashboards' window
	n        [events]atomic.Uint32
	_        [128 - 8 - 4*events]byte
	latency  [latencyBins]atomic.Uint32
	_        [64]byte
}

type tally [events]uint32

func (t tally) minus(o tally) tally {
	for i := range t {
		t[i] -= o[i]
	}
	return t
}

func (t tally) plus(o tally) tally {
	for i := range t {
		t[i] += o[i]
	}
	return t
}

// health is what a window says about the callee.
type health struct {
	total  uint32 // calls that say something about it
	errors uint32 // of these
	ran    uint32 // calls that took time, and
	slow   uint32 // of these, longer than SlowCall
}

func (t *tally) health() health {
	e := t[failure] + t[timeout] + t[poolRejected] + t[rejected]
	ran := t[success] + t[failure] + t[timeout] + t[badRequests] + t[cancelled]
	return health{e + t[success], e, ran, t[slowCalls]}
}

func (h health) percent() int { return percent(h.errors, h.total) }

func (h health) plus(o health) health {
	return health{h.total + o.total, h.errors + o.errors, h.ran + o.ran, h.slow + o.slow}
}

func (h health) minus(o health) health {
	return health{h.total - o.total, h.errors - o.errors, h.ran - o.ran, h.slow - o.slow}
}

func percent(part, of uint32) int {
	if of == 0 {
		return 0
	}
	return int(uint64(part) * 100 / uint64(of))
}

const tickTime = 500 * time.Millisecond // how often the engine looks at its commands, unless one wants it sooner

// window remembers what a command did lately, three times over, as Hystrix does: in small buckets for the breaker,
// emptied when it closes; in buckets of a second for dashboards; and the times that calls took, in buckets of ten.
// The lengths are those of the default settings.
type window struct {
	mu sync.Mutex

	health struct {
		due  int64    // on the engine's clock: when the present bucket is complete
		ring []health // completed buckets, the oldest at head
		head int
		sum  health // of ring; completed buckets alone decide
		seen health // since ever, at the last rollover
	}
	rolling struct {
		due  int64
		ring []rolled // all but the present bucket
		head int
		seen tally // since ever, at the last rollover
	}
	latency struct {
		due           int64
		buckets       int
		inside, total times
		well          times // kept only once somebody asked for the usual time
	}
}

// rolled is one bucket for dashboards.
type rolled struct {
	n    tally
	peak int64 // the most calls in flight at once
}

func (w *window) init(now int64, s *settings) {
	w.health.due, w.rolling.due, w.latency.due = now, now+int64(s.RollingWindow)/int64(s.RollingBuckets), now+int64(s.PercentileWindow)/int64(s.PercentileBuckets)
	w.health.ring = make([]health, s.RollingWindow/s.HealthInterval)
	w.rolling.ring = make([]rolled, s.RollingBuckets-1)
	w.latency.buckets = s.PercentileBuckets - 1
}

// isDue reports whether a bucket of that length ends about now, and if so sets when the next will. Ticks are late
// now and then; half a tick of tolerance keeps one that is late from swallowing the next.
func isDue(due *int64, now int64, length, tick time.Duration) bool {
	if now+int64(tick)/2 < *due {
		return false
	}
	if *due += int64(length); *due < now-int64(length) {
		*due = now // the process slept
	}
	return true
}

// roll completes the present bucket of health, given the counters since ever.
func (w *window) roll(now health) health {
	h := &w.health
	h.sum = h.sum.minus(h.ring[h.head])
	h.ring[h.head] = now.minus(h.seen)
	h.sum = h.sum.plus(h.ring[h.head])
	h.seen = now
	h.head = (h.head + 1) % len(h.ring)
	return h.sum
}

// reset empties the window that the breaker looks at.
func (w *window) reset(now health) {
	clear(w.health.ring)
	w.health.sum, w.health.seen = health{}, now
}

// rollDashboard completes the present bucket for dashboards.
func (w *window) rollDashboard(now tally, peak int64) {
	r := &w.rolling
	if len(r.ring) > 0 {
		r.ring[r.head] = rolled{now.minus(r.seen), peak}
		r.head = (r.head + 1) % len(r.ring)
	}
	r.seen = now
}

// rolled returns what dashboards show, given the present counters.
func (w *window) rolled(now tally, peak int64) rolled {
	sum := rolled{now.minus(w.rolling.seen), peak}
	for i := range w.rolling.ring {
		sum.n = sum.n.plus(w.rolling.ring[i].n)
		sum.peak = max(sum.peak, w.rolling.ring[i].peak)
	}
	return sum
}

// Times fall into bins: below half a millisecond eight for each power of two of microseconds, above it 64, so that the
// middle of a bin is at most 0.8 % wrong.
const (
	latencyBins = 1144 // up to 2^26 us, 67 s; what takes longer is in the last
	fineFrom    = 512  // us
	firstFine   = 56   // the bin of fineFrom
)

// latencyBin maps nanoseconds.
// hot path: 0 allocs, BenchmarkAllowed
func latencyBin(ns int64) int {
	us := uint64(max(ns, 0)) / 1000
	if us < fineFrom {
		e := max(bits.Len64(us)-4, 0)
		return e<<3 + int(us>>e)
	}
	e := bits.Len64(us) - 7
	return min((e-3)<<6+int(us>>e)-64+firstFine, latencyBins-1)
}

// binTime returns the middle of a bin.
func binTime(bin int) time.Duration {
	lo, e := uint64(bin), 0
	switch {
	case bin >= firstFine:
		e = (bin-firstFine)>>6 + 3
		lo = uint64((bin-firstFine)&63+64) << e
	case bin >= 16:
		e = bin>>3 - 1
		lo = uint64(bin&7+8) << e
	}
	return time.Duration(lo)*time.Microsecond + time.Microsecond<<e/2
}

// times remembers how long calls took: the counters of all bins at the last rollover, and before that what completed
// buckets added to them. Few bins are ever hit, so a bucket is a list.
type times struct {
	seen []uint32 // nil before the first rollover
	ring [][]binCount
}

type binCount struct {
	bin uint16
	n   uint32
}

// roll completes the present bucket and keeps the last so many.
func (t *times) roll(now *bins, keep int) {
	if t.seen == nil {
		t.seen = make([]uint32, latencyBins)
	}
	var added []binCount
	for i, n := range now {
		if d := n - t.seen[i]; d != 0 {
			added = append(added, binCount{uint16(i), d})
		}
	}
	copy(t.seen, now[:])
	t.ring = append(t.ring, added)
	if len(t.ring) > keep {
		t.ring = t.ring[:copy(t.ring, t.ring[1:])]
	}
}

// lately returns how often each bin was hit within the window, given the present counters.
func (t *times) lately(now *bins) *bins {
	for i := range t.seen {
		now[i] -= t.seen[i]
	}
	for _, bucket := range t.ring {
		for _, b := range bucket {
			now[b.bin] += b.n
		}
	}
	return now
}

type bins [latencyBins]uint32

// Latency tells how long calls took, within 1 % from 1 ms to 60 s, longer ones as 67 s. All is 0 without calls.
type Latency struct {
	Calls       uint64
	Mean        time.Duration
	Percentiles [len(Percentiles)]time.Duration // one for each of Percentiles
}

// Percentiles are those that a [Latency] tells.
var Percentiles = [...]float64{0, 25, 50, 75, 90, 95, 99, 99.5, 100}

func (b *bins) latency() (l Latency) {
	var sum float64
	for i, n := range b {
		l.Calls += uint64(n)
		sum += float64(n) * float64(binTime(i))
	}
	if l.Calls == 0 {
		return l
	}
	l.Mean = time.Duration(sum / float64(l.Calls))
	var seen uint64
	p := 0
	for i, n := range b {
		if n == 0 {
			continue
		}
		seen += uint64(n)
		for p < len(Percentiles) && float64(seen) >= Percentiles[p]/100*float64(l.Calls) {
			l.Percentiles[p] = binTime(i)
			p++
		}
	}
	return l
}

// apart holds the times of calls that did not go well, and of those whose time inside run differs from the whole, as it
// does with a fallback or a queue. Calls of other kinds need fewer counters.
type apart struct {
	inside, total [latencyBins]atomic.Uint32
	well          [latencyBins]atomic.Uint32 // of those that went well, inside run
}
