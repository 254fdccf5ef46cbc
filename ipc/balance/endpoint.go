package balance

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
)

// Endpoint is one instance as this process experiences it. Its statistics outlive updates of the list. Readers load
// atomics; writers, who come once per attempt, take mu, so that a reading is never torn across one update by more
// than one sample.
type Endpoint struct {
	// What a pick reads fills one cache line.
	active  atomic.Int64  // requests in flight
	rtt     atomic.Uint64 // float64 bits: peak EWMA of nanoseconds to the headers; 0 = unknown
	err     atomic.Uint64 // float64 bits: EWMA of failures, 0 to 1
	last    atomic.Int64  // when rtt and err were last updated
	refused atomic.Int64  // until when it counts as dead, after a refused connection
	proven  atomic.Bool   // it has answered once
	_       [64 - 41]byte

	ID     string // of the instance
	Addr   string // "host:port"
	Zone   string
	Secure bool // speaks TLS

	mu          sync.Mutex // guards what follows, and writes of the above
	status      roadbed.Status
	since       int64 // when it went UP; noSince = unknown
	ejected     int64 // until when it is ejected, after failures in a row
	back        int64 // until when it warms up after an ejection
	dials       int   // failed in a row
	broken      int   // attempts in a row that broke or timed out
	bad         int   // 5xx in a row
	ejections   int
	lastEjected int64
	total       uint64
	failed      uint64
}

const (
	tau           = 10 * time.Second
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

// Verdict is how an attempt ended, for the endpoint.
type Verdict uint8

// The verdicts.
const (
	Answered  Verdict = iota // headers came, below 500
	Erred                    // 5xx
	Broken                   // reset, unexpected EOF, timeout: the endpoint's fault for all we know
	Unreached                // no connection
	Abandoned                // the caller went away; says nothing
)

// decays holds exp(-t/tau) for every 64th part of tau, up to 16 tau.
var decays = func() (d [16*64 + 1]float64) {
	for i := range d[:16*64] {
		d[i] = math.Exp(-float64(i) / 64)
	}
	return d
}()

// decay is what is left of a statistic after dt nanoseconds, at most 1.6 % too much.
func decay(dt int64) float64 {
	return decays[uint64(min(max(dt, 0)/(int64(tau)/64), int64(len(decays)-1)))]
}

// Begin counts a request in flight, until [Endpoint.End].
func (e *Endpoint) Begin() { e.active.Add(1) }

// End ends what Begin began.
func (e *Endpoint) End() { e.active.Add(-1) }

// Active returns how many requests are in flight.
func (e *Endpoint) Active() int64 { return e.active.Load() }

// listed takes what the list says of the instance.
func (e *Endpoint) listed(status roadbed.Status, since int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	// Since travels as wall time, so a change of a second or more is a real one.
	restarted := e.since != noSince && since != noSince && since-e.since > int64(time.Second)
	if status == roadbed.Up && e.status != roadbed.Up || restarted {
		e.refused.Store(0)
		e.ejected = 0
		e.err.Store(0)
		e.proven.Store(false)
		e.dials, e.broken, e.bad = 0, 0, 0
	}
	e.status, e.since = status, since
}

// Done records an attempt that ended now and took rtt nanoseconds. It returns true if the endpoint became unfit or
// fit, so that the balancer should be refreshed.
func (e *Endpoint) Done(v Verdict, now, rtt int64) (changed bool) {
	if v == Abandoned {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.total++
	w := math.Exp(-float64(max(0, now-e.last.Load())) / float64(tau))
	x := 0.0
	if v != Answered {
		e.failed++
		x = 1
	}
	alpha := max(1-w, minAlpha)
	err := math.Float64frombits(e.err.Load())
	e.err.Store(math.Float64bits(err*(1-alpha) + x*alpha))
	// A failure may come fast; it must not make the endpoint look fast.
	if old := math.Float64frombits(e.rtt.Load()); v != Unreached {
		sample := float64(max(rtt, 1))
		changed = old == 0 // the median, which stands for unknown ones, is out of date
		switch {
		case sample > old:
			e.rtt.Store(math.Float64bits(sample))
		case v == Answered:
			e.rtt.Store(math.Float64bits(old*w + sample*(1-w)))
		}
	}
	e.last.Store(now)
	if v == Answered || v == Erred {
		if !e.proven.Load() {
			e.proven.Store(true)
		}
		e.dials, e.broken = 0, 0
		if e.refused.Load() != 0 {
			e.refused.Store(0)
			changed = true
		}
	}
	switch v {
	case Answered:
		e.bad = 0
	case Erred:
		e.bad++
	case Broken:
		e.broken++
	case Unreached:
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
func (e *Endpoint) wants() bool { return e.bad >= inARow || e.broken >= inARow }

// counts reports whether the instance is UP, and whether it is ejected.
func (e *Endpoint) counts(now int64) (up, out bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.status == roadbed.Up, now < e.ejected
}

// ejectIfDue ejects an endpoint that is to be.
func (e *Endpoint) ejectIfDue(now int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.status != roadbed.Up || !e.wants() || now < e.ejected {
		return false
	}
	e.eject(now)
	return true
}

// eject takes the endpoint out of service for a while, longer each time. The caller holds mu.
func (e *Endpoint) eject(now int64) {
	if quiet := now - e.lastEjected; e.ejections > 0 && quiet > 0 {
		e.ejections = max(0, e.ejections-int(quiet/int64(baseEjection))/2)
	}
	e.ejections++
	e.bad, e.broken = 0, 0
	e.lastEjected = now
	e.ejected = now + int64(min(baseEjection*time.Duration(e.ejections), maxEjection))
	e.back = e.ejected + backTime
}

// standing is what of an endpoint lasts for a while.
type standing struct {
	status  roadbed.Status
	live    bool    // connections to it are not known to be refused
	fit     bool    // it is live and not ejected
	warm    float64 // from 0.1, cold, to 1
	changes int64   // when live or fit change by themselves
}

func (e *Endpoint) standing(now int64) (s standing) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.status = e.status
	s.live = now >= e.refused.Load()
	s.fit = s.live && now >= e.ejected
	s.warm = e.warmth(now)
	s.changes = Never
	for _, t := range [...]int64{e.refused.Load(), e.ejected} {
		if t > now {
			s.changes = min(s.changes, t)
		}
	}
	return s
}

// warmth is how much of its share a young endpoint, or one that returns, can take. The caller holds mu.
func (e *Endpoint) warmth(now int64) float64 {
	switch {
	case now < e.back:
		return minWarm
	case e.since == noSince:
		return 1
	}
	return min(1, max(minWarm, float64(now-e.since)/warmTime))
}

func (e *Endpoint) up() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.status == roadbed.Up
}

// cost says how much it costs to send one more request there: the expected wait in nanoseconds, made worse by
// failures and coldness. Source of the latency part: peak EWMA, as in Twitter's Finagle.
// hot path: 0 allocs, BenchmarkPick
func (c *candidate) cost(now int64, median float64) (cost, err float64) {
	cost, err = c.Endpoint.cost(now, median)
	return cost * c.factor, err
}

func (e *Endpoint) cost(now int64, median float64) (cost, err float64) {
	left := decay(now - e.last.Load())
	err = e.errorNow(left)
	active := e.active.Load()
	cost = float64(active+1) * e.rttNow(left, median) / (1 - min(err, 0.95))
	if active > 0 && !e.proven.Load() {
		cost *= probationCost // one at a time until it has answered once
	}
	return cost, err
}

func (e *Endpoint) errorNow(left float64) float64 {
	err := math.Float64frombits(e.err.Load()) * left
	if err < noError {
		return 0 // else, where calls are rare, whoever failed last would never be tried again
	}
	return err
}

func (e *Endpoint) rttNow(left, median float64) float64 {
	bits := e.rtt.Load()
	if bits == 0 {
		return max(median, minRTT)
	}
	return max(math.Float64frombits(bits)*left, minRTT)
}
