package region

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// tunnel is the way from this edge to the edges of another region, and how it does. It lives as long as the region has a
// document, whichever.
type tunnel struct {
	region string
	app    string // under which its edges are called
	stamp  stamp

	inFlight atomic.Int64
	total    atomic.Int64
	tally    tally

	misses atomic.Int32 // requests in a row that had no answer
	shut   atomic.Int64 // by filter.Now: nobody is sent until then, and then one to try; 0: open

	failure             atomic.Pointer[failure] // the last one; nil: there was none
	leave               func(*filter.Exchange)
	answered, lost, not *meter.Counter
}

const (
	missesAllowed = 5
	shutFor       = int64(2 * time.Second)
	unsafeAfter   = int64(8 * time.Second) // from when one that is safe could have tried
	tryFor        = time.Second            // that a trial waits for its answer
)

func newTunnel(region string, m *meter.Registry) *tunnel {
	t := &tunnel{region: region, app: appOf(region)}
	t.leave = func(*filter.Exchange) { t.inFlight.Add(-1) }
	count := func(result string) *meter.Counter {
		return m.Counter("edge.region.requests", "edge.region.to", region, "edge.region.result", result)
	}
	t.answered, t.lost, t.not = count("answered"), count("failed"), count("returned")
	return t
}

// open reports whether a request may be sent: the region answers, or it is this one's turn to try whether it does. That is
// for requests that are served here if it does not; others try only if there were none of these for long.
func (t *tunnel) open(safe bool) (may, trial bool) {
	until := t.shut.Load()
	if until == 0 {
		return true, false
	}
	now := filter.Now()
	if now < until || !safe && now < until+unsafeAfter {
		return false, false
	}
	may = t.shut.CompareAndSwap(until, now+shutFor)
	return may, may
}

// answers notes an answer; bad is that it says that something failed.
func (t *tunnel) answers(bad bool) {
	t.tally.add(bad)
	t.answered.Inc()
	if t.misses.Load() != 0 {
		t.misses.Store(0)
	}
	if t.shut.Load() != 0 {
		t.shut.Store(0)
	}
}

// failure is why a request had no answer.
type failure struct {
	at  time.Time
	why string
}

const maxWhy = 500 // bytes of a failure that are kept

// missed notes that there was no answer.
func (t *tunnel) missed(err error) {
	if err != nil {
		why := err.Error()
		t.failure.Store(&failure{time.Now(), strings.ToValidUTF8(why[:min(len(why), maxWhy)], "")})
	}
	t.tally.add(true)
	if t.misses.Add(1) >= missesAllowed {
		t.shut.Store(filter.Now() + shutFor)
	}
}

// tally counts requests and failures of the last ten seconds.
type tally struct {
	parts [tallyParts]struct {
		second   atomic.Int64
		all, bad atomic.Int32
	}
}

const tallyParts = 12 // seconds; ten are told, and the others are written

// add counts a request. A count that comes in the very moment in which a part begins anew may be lost.
//
// hot path: 0 allocs, BenchmarkStays
func (t *tally) add(bad bool) {
	now := filter.Now() / int64(time.Second)
	p := &t.parts[uint64(now)%tallyParts]
	if was := p.second.Load(); was != now && p.second.CompareAndSwap(was, now) {
		p.all.Store(0)
		p.bad.Store(0)
	}
	p.all.Add(1)
	if bad {
		p.bad.Add(1)
	}
}

// last returns the counts of the last ten seconds.
func (t *tally) last() (all, bad int) {
	now := filter.Now() / int64(time.Second)
	for i := range t.parts {
		p := &t.parts[i]
		if s := p.second.Load(); s > now-10 && s <= now {
			all += int(p.all.Load())
			bad += int(p.bad.Load())
		}
	}
	return all, bad
}
