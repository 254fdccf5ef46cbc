package ipc

import (
	"maps"
	"slices"
	"time"
)

// Stats is what an engine's commands, pools and collapsers did lately, in the terms of Hystrix, for those who draw
// dashboards. [Engine.Snapshot] tells more about fewer things, for those who look into one process.
type Stats struct {
	Commands   []CommandStats   // by name
	Pools      []PoolStats      // by name; of commands isolated by threads
	Collapsers []CollapserStats // by name
}

// CommandStats is what one command did lately.
type CommandStats struct {
	Name  string
	Group string
	Pool  string // the key of the pool that it uses, or would use if isolated by threads

	// Of the breaker's window: the completed buckets of Settings.HealthInterval.
	BreakerOpen  bool   // also while it is half open
	Requests     uint32 // that say something about the callee's health
	Errors       uint32
	ErrorPercent int // 0 to 100, rounded down

	// Of Settings.RollingWindow: the present bucket and those before it.
	Counts        Counts
	MaxConcurrent int64 // the most calls in flight at once

	// Of Settings.PercentileWindow. Calls that were refused took no time.
	Execute Latency // inside the run function
	Total   Latency // from call to return, with the time in a queue and that of the fallback

	Concurrent int64    // calls in flight now
	Abandoned  int64    // of these, those whose caller has gone after the timeout
	Settings   Settings // those in force, without zeroes that mean a default

	rolled tally
	now    health // with the present bucket
}

// Counts are how often each event happened. Two of Hystrix's are missing: EMIT and FALLBACK_EMIT, since a command here
// answers once.
type Counts struct {
	Success            uint32 // SUCCESS
	Failure            uint32 // FAILURE
	Timeout            uint32 // TIMEOUT
	Hasty              uint32 // not Hystrix's: of Timeout, those whose caller left less time than the call usually takes; says nothing about health
	PoolRejected       uint32 // THREAD_POOL_REJECTED
	SemaphoreRejected  uint32 // SEMAPHORE_REJECTED
	ShortCircuited     uint32 // SHORT_CIRCUITED
	BadRequest         uint32 // BAD_REQUEST
	Cancelled          uint32 // CANCELLED
	FallbackSuccess    uint32 // FALLBACK_SUCCESS
	FallbackFailure    uint32 // FALLBACK_FAILURE
	FallbackRejection  uint32 // FALLBACK_REJECTION
	FallbackDisabled   uint32 // FALLBACK_DISABLED
	FallbackMissing    uint32 // FALLBACK_MISSING
	ResponsesFromCache uint32 // RESPONSE_FROM_CACHE
	Collapsed          uint32 // COLLAPSED
	ExceptionsThrown   uint32 // EXCEPTION_THROWN: the sum of bad requests and of fallbacks that did not help
	Unanswered         uint32 // not Hystrix's: no instance was known, no time was left, or the callee was overloaded; says nothing about health
	Slow               uint32 // not Hystrix's: took longer than Settings allow before the breaker minds
}

func (t *tally) counts() Counts {
	return Counts{
		Success: t[success], Failure: t[failure], Timeout: t[timeout] + t[hasty], Hasty: t[hasty], PoolRejected: t[poolRejected], SemaphoreRejected: t[rejected],
		ShortCircuited: t[shortCircuited], BadRequest: t[badRequests], Cancelled: t[cancelled],
		FallbackSuccess: t[fallbackSuccess], FallbackFailure: t[fallbackFailure], FallbackRejection: t[fallbackRejected],
		FallbackDisabled: t[fallbackDisabled], FallbackMissing: t[fallbackMissing],
		ResponsesFromCache: t[fromCache], Collapsed: t[collapsed], Unanswered: t[unanswered], Slow: t[slowCalls],
		ExceptionsThrown: t[badRequests] + t[fallbackFailure] + t[fallbackRejected] + t[fallbackDisabled] + t[fallbackMissing],
	}
}

// PoolStats is what one pool did lately. A pool bounds how many run at once; it keeps no idle workers, since
// goroutines are cheap to start.
type PoolStats struct {
	Name     string
	Active   int // calls that run now, those included whose caller has gone
	Queued   int // calls that wait for one of these to end
	Largest  int // the most that ran at once, ever
	Settings PoolSettings

	Started   uint64 // calls that ever came to run
	Completed uint64 // of these, those that ended

	// Of the pool's rolling window, and of its commands' for the counts.
	Executed  uint32 // calls that succeeded, failed, timed out, or were bad requests
	Rejected  uint32
	MaxActive int
}

// CollapserStats is what one collapser did lately, within RollingWindow.
type CollapserStats struct {
	Name               string
	Batched            uint32 // arguments that were sent in batches
	Batches            uint32
	ResponsesFromCache uint32 // calls whose argument was in the batch, or had been answered, already
	BatchSize          Sizes

	// The settings in force.
	Cache         bool
	MaxBatch      int
	Window        time.Duration
	RollingWindow time.Duration
}

// Sizes are those of batches. All is 0 without batches.
type Sizes struct {
	Mean        float64
	Percentiles [len(Percentiles)]int // one for each of Percentiles
}

// Stats returns what dashboards show. It costs some microseconds for each command.
func (e *Engine) Stats() Stats {
	all := *e.commands.Load()
	s := Stats{Commands: make([]CommandStats, 0, len(all))}
	for _, n := range e.commandNames() {
		c := all[n]
		if c == nil {
			continue // it is newer than all
		}
		s.Commands = append(s.Commands, c.stats(c.set.Load()))
	}
	pools := *e.pools.Load()
	for _, n := range slices.Sorted(maps.Keys(pools)) {
		p := pools[n].stats()
		for _, c := range s.Commands {
			if c.Pool == n && c.Settings.Isolation == Thread {
				p.Executed += c.Counts.Success + c.Counts.Failure + c.Counts.Timeout + c.Counts.BadRequest
				p.Rejected += c.Counts.PoolRejected
			}
		}
		s.Pools = append(s.Pools, p)
	}
	collapsers := *e.collapsers.Load()
	for _, n := range slices.Sorted(maps.Keys(collapsers)) {
		s.Collapsers = append(s.Collapsers, collapsers[n].stats())
	}
	return s
}

func (c *Command) stats(set *settings) CommandStats {
	w := &c.window
	w.mu.Lock()
	t := c.tally()
	s := CommandStats{
		Name: c.name, Group: set.Group, Pool: set.pool, Settings: set.Settings,
		BreakerOpen: c.breaker.name(set) != "CLOSED", Concurrent: c.inFlight(), Abandoned: c.abandoned.Load(),
	}
	h, r := w.health.sum, w.rolled(t, c.inflight.peak.Load())
	s.now = h.plus(t.health().minus(w.health.seen))
	if !set.PercentilesOff {
		inside, total := c.latencies()
		inside, total = w.latency.inside.lately(inside), w.latency.total.lately(total)
		s.Execute, s.Total = inside.latency(), total.latency()
	}
	w.mu.Unlock()
	s.Requests, s.Errors, s.ErrorPercent = h.total, h.errors, h.percent()
	s.rolled, s.Counts, s.MaxConcurrent = r.n, r.n.counts(), r.peak
	return s
}
