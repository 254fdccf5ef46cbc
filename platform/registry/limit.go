package registry

import (
	"cmp"
	"hash/maphash"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/meter"
)

// limiter bounds how often lists are fetched, as the rate limiter of Eureka servers does.
type limiter struct {
	on         bool
	privileged []string // who is never limited, by DiscoveryIdentity-Name
	fetches    bucket   // of lists, deltas and apps
	full       bucket   // of whole lists, besides
}

func newLimiter(s Settings) *limiter {
	l := &limiter{on: s.RateLimit, privileged: s.Privileged}
	if !s.LimitStandard {
		l.privileged = append(slices.Clone(s.Privileged), "DefaultClient", "DefaultServer")
	}
	burst := cmp.Or(s.Burst, 10)
	l.fetches, l.full = newBucket(cmp.Or(s.FetchRate, 500), burst), newBucket(cmp.Or(s.FullFetchRate, 100), burst)
	return l
}

// admits reports whether who may fetch what at now, in nanoseconds of any clock that does not run backwards.
func (l *limiter) admits(what resource, who string, now int64) bool {
	switch what {
	case allApps, deltaApps, oneApp:
	default:
		return true
	}
	if !l.on || who != "" && slices.Contains(l.privileged, who) {
		return true
	}
	return l.fetches.take(now) && (what != allApps || l.full.take(now))
}

// bucket is a token bucket, kept as the time at which it will be full again (the generic cell rate algorithm, ITU-T
// I.371).
type bucket struct {
	every int64 // ns in which one token comes
	depth int64 // ns in which all come
	full  atomic.Int64
}

func newBucket(perSecond, burst int) bucket {
	every := int64(time.Second) / int64(perSecond)
	return bucket{every: every, depth: every * int64(burst)}
}

// take takes a token if there is one.
func (b *bucket) take(now int64) bool {
	for {
		was := b.full.Load()
		next := max(was, now) + b.every
		if next-now > b.depth {
			return false
		}
		if b.full.CompareAndSwap(was, next) {
			return true
		}
	}
}

// Large answers are written a few at a time: a stampede of full fetches, as after a network was cut, would otherwise
// take the machine from the heartbeats that it also brings.
const (
	largeAnswer = 1 << 20 // bytes
	largeWait   = 2 * time.Second
	largePerCPU = 64

	// A client that reads slower than this is given up.
	leastRate = 64 << 10 // bytes per second
	leastTime = 30 * time.Second
)

func newLargeGate(s Settings) throttle {
	return make(throttle, cmp.Or(s.LargeAnswers, largePerCPU)*runtime.GOMAXPROCS(0))
}

// timeToWrite is how long an answer of size may take.
func timeToWrite(size int) time.Duration {
	return leastTime + time.Duration(size)*time.Second/leastRate
}

// inTurn calls write when it is the turn of a large answer, or else refuse.
func (h *eureka) inTurn(write, refuse func()) {
	if !h.large.enter(largeWait) {
		h.s.counts.waited.Inc()
		refuse()
		return
	}
	defer h.large.leave()
	write()
}

// counts are the meters of what clients and peers do. Index 1 is of what peers tell.
type counts struct {
	registrations, renewals, cancels [2]*meter.Counter
	unknown                          [2]*meter.Counter // renewals of leases that nobody holds
	fetches                          [oneApp + 1]*meter.Counter
	refetches                        *meter.Counter // whole lists fetched right after a delta: its hash did not match
	limited, waited                  *meter.Counter // answers refused for the rate, and for too many large ones
	seed                             maphash.Seed
	deltas                           [1024]atomic.Uint64 // who fetched one last, and when, by hash
}

func newCounts(m *meter.Registry) *counts {
	c := &counts{
		refetches: m.Counter("registry.fetches.again"), limited: m.Counter("registry.refused", "reason", "rate"),
		waited: m.Counter("registry.refused", "reason", "large"), seed: maphash.MakeSeed(),
	}
	for i, from := range []string{"client", "peer"} {
		c.registrations[i] = m.Counter("registry.registrations", "from", from)
		c.renewals[i] = m.Counter("registry.renewed", "from", from)
		c.cancels[i] = m.Counter("registry.cancels", "from", from)
		c.unknown[i] = m.Counter("registry.unknown", "from", from)
	}
	for what, name := range map[resource]string{allApps: "all", deltaApps: "delta", oneApp: "app"} {
		c.fetches[what] = m.Counter("registry.fetches", "of", name)
	}
	return c
}

// from is the index of who asked.
func (o origin) from() int {
	if o.replicated {
		return 1
	}
	return 0
}

// refetch is how soon a whole list that follows a delta is due to it.
const refetch = 2 * time.Second

// fetched counts a fetch of who, at now in nanoseconds.
func (c *counts) fetched(what resource, who string, now int64) {
	if what > oneApp || c.fetches[what] == nil {
		return
	}
	c.fetches[what].Inc()
	if who == "" || what == oneApp {
		return
	}
	// One word for many clients: those that share it are told apart by half of the hash, and counted too seldom.
	sum := maphash.String(c.seed, who)
	last := &c.deltas[sum%uint64(len(c.deltas))]
	ms := uint64(now/int64(time.Millisecond)) & (1<<32 - 1)
	mark := sum>>32<<32 | ms
	if what == deltaApps {
		last.Store(mark)
	} else if was := last.Load(); was>>32 == mark>>32 && ms-was&(1<<32-1) < uint64(refetch/time.Millisecond) {
		c.refetches.Inc()
		last.Store(0)
	}
}
