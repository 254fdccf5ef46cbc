package ipc

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
)

// endpoint is one instance as this process experiences it. Its statistics outlive updates of the list. Readers load
// atomics; writers, who come once per attempt, take mu, so that a reading is never torn across one update by more
// than one sample.
type endpoint struct {
	id     string
	addr   string
	zone   string
	secure bool

	_      [64]byte // what follows changes with every request
	active atomic.Int64
	rtt    atomic.Uint64 // float64 bits: peak EWMA of nanoseconds to the headers; 0 = unknown
	err    atomic.Uint64 // float64 bits: EWMA of failures, 0 to 1
	last   atomic.Int64  // when rtt and err were last updated
	proven atomic.Bool   // it has answered once

	since   atomic.Int64 // when it went UP, on the engine's clock; noSince = unknown
	back    atomic.Int64 // until when it warms up after an ejection
	refused atomic.Int64 // until when it counts as dead, after a refused connection
	ejected atomic.Int64 // until when it is ejected, after failures in a row

	mu          sync.Mutex // guards what follows, and writes of the above
	up          bool
	status      roadbed.Status
	dials       int // failed in a row
	broken      int // attempts in a row that broke or timed out
	bad         int // 5xx in a row
	ejections   int
	lastEjected int64
	total       uint64
	failed      uint64
	_           [64]byte
}

const (
	tau           = float64(10 * time.Second)
	minAlpha      = 0.05 // of the failure EWMA: also at a slow rate, 14 failures in a row make an endpoint bad
	warmTime      = float64(90 * time.Second)
	backTime      = int64(10 * time.Second)
	minWarm       = 0.1
	minRTT        = float64(50 * time.Microsecond)
	badError      = 0.5
	noError       = 0.01
	inARow        = 5
	baseEjection  = 30 * time.Second
	maxEjection   = 300 * time.Second
	baseRefusal   = time.Second
	maxRefusal    = 30 * time.Second
	noSince       = math.MinInt64
	probationCost = 1e6
)

// verdict is how an attempt ended, for the endpoint.
type verdict uint8

const (
	answered  verdict = iota // headers came, below 500
	erred                    // 5xx
	brokenOff                // reset, unexpected EOF, timeout: the endpoint's fault for all we know
	unreached                // no connection
	abandoned                // the caller went away; says nothing
)

// done records an attempt that took rtt nanoseconds. It returns true if the endpoint became unfit or fit, so that
// the list of eligible ones is out of date.
func (e *endpoint) done(v verdict, now, rtt int64) (changed bool) {
	if v == abandoned {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.total++
	dt := float64(max(0, now-e.last.Load()))
	w := math.Exp(-dt / tau)
	x := 0.0
	if v != answered {
		e.failed++
		x = 1
	}
	alpha := max(1-w, minAlpha)
	err := math.Float64frombits(e.err.Load())
	e.err.Store(math.Float64bits(err*(1-alpha) + x*alpha))
	// A failure may come fast; it must not make the endpoint look fast.
	if old := math.Float64frombits(e.rtt.Load()); v != unreached {
		sample := float64(max(rtt, 1))
		changed = old == 0 // the median, which stands for unknown ones, is out of date
		switch {
		case sample > old:
			e.rtt.Store(math.Float64bits(sample))
		case v == answered:
			e.rtt.Store(math.Float64bits(old*w + sample*(1-w)))
		}
	}
	e.last.Store(now)
	if v == answered || v == erred {
		e.proven.Store(true)
		e.dials, e.broken = 0, 0
		if e.refused.Load() != 0 {
			e.refused.Store(0)
			changed = true
		}
	}
	switch v {
	case answered:
		e.bad = 0
	case erred:
		e.bad++
	case brokenOff:
		e.broken++
	case unreached:
		if now >= e.refused.Load() { // else an attempt of the same outage
			e.refused.Store(now + int64(min(baseRefusal<<min(e.dials, 10), maxRefusal)))
			e.dials++
		}
		e.proven.Store(false) // what answers there next may be somebody else
		changed = true
	}
	return changed || e.wants()
}

// wants reports whether enough failed in a row. The caller holds mu.
func (e *endpoint) wants() bool { return e.bad >= inARow || e.broken >= inARow }

// eject takes the endpoint out of service for a while, longer each time. The caller holds mu.
func (e *endpoint) eject(now int64) {
	if quiet := now - e.lastEjected; e.ejections > 0 && quiet > 0 {
		e.ejections = max(0, e.ejections-int(quiet/int64(baseEjection))/2)
	}
	e.ejections++
	e.bad, e.broken = 0, 0
	e.lastEjected = now
	until := now + int64(min(baseEjection*time.Duration(e.ejections), maxEjection))
	e.ejected.Store(until)
	e.back.Store(until + backTime)
}

// live reports whether connections to it are not known to be refused.
func (e *endpoint) live(now int64) bool { return now >= e.refused.Load() }

// fit reports whether it is live and not ejected.
func (e *endpoint) fit(now int64) bool { return e.live(now) && now >= e.ejected.Load() }

// returns is the next moment at which live or fit changes by itself; noDeadline if never.
func (e *endpoint) returns(now int64) int64 {
	next := int64(noDeadline)
	for _, t := range [...]int64{e.refused.Load(), e.ejected.Load()} {
		if t > now {
			next = min(next, t)
		}
	}
	return next
}

// factors are the inputs of an endpoint's cost.
type factors struct {
	Active int64   `json:"active"`
	RTT    float64 `json:"rttSeconds"` // decayed; the cluster's median if unknown
	Error  float64 `json:"errorRate"`  // decayed
	Warm   float64 `json:"warm"`       // 0.1 cold to 1 warm
	Proven bool    `json:"proven"`
	Cost   float64 `json:"cost"`
}

// cost says how much it costs to send one more request there: the expected wait in nanoseconds, made worse by
// failures and coldness. Source of the latency part: peak EWMA, as in Twitter's Finagle.
// hot path: 0 allocs, BenchmarkPick
func (e *endpoint) cost(now int64, median float64) (cost, err float64) {
	f := e.factors(now, median)
	return f.Cost, f.Error
}

func (e *endpoint) factors(now int64, median float64) (f factors) {
	f.Active = e.active.Load()
	f.Proven = e.proven.Load()
	decay := math.Exp(-float64(max(0, now-e.last.Load())) / tau)
	f.Error = math.Float64frombits(e.err.Load()) * decay
	if f.Error < noError {
		f.Error = 0 // else, where calls are rare, whoever failed last would never be tried again
	}
	f.RTT = math.Float64frombits(e.rtt.Load()) * decay
	if e.rtt.Load() == 0 {
		f.RTT = median
	}
	f.RTT = max(f.RTT, minRTT)
	f.Warm = 1
	if since := e.since.Load(); since != noSince {
		f.Warm = min(1, max(minWarm, float64(now-since)/warmTime))
	}
	if now < e.back.Load() {
		f.Warm = minWarm
	}
	f.Cost = float64(f.Active+1) * f.RTT / (1 - min(f.Error, 0.95)) / f.Warm
	if !f.Proven && f.Active > 0 {
		f.Cost *= probationCost // one at a time until it has answered once
	}
	return f
}
