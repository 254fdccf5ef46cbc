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
	active   atomic.Int64  // requests in flight
	rtt      atomic.Uint64 // float64 bits: peak EWMA of nanoseconds to the headers; 0 = unknown
	err      atomic.Uint64 // float64 bits: EWMA of failures, 0 to 1
	last     atomic.Int64  // when rtt and err were last updated
	refused  atomic.Int64  // until when it counts as dead, after a refused connection
	util     atomic.Uint64 // float64 bits: what it said of its load, 1 = as much as it wants; 0 = nothing
	reported atomic.Int64  // when it said so
	proven   atomic.Bool   // it has answered once
	dead     atomic.Bool   // pings say so
	_        [64 - 58]byte

	ID     string // of the instance
	Addr   string // "host:port"
	Zone   string
	Group  string // its server group; empty if it has none
	Secure bool   // speaks TLS
	HTTP2  bool   // speaks HTTP/2 in clear, by what its registration says: protocol=h2c

	lb      *Balancer
	hash    uint64       // of ID
	weight  float64      // of 1; guarded by lb.mu
	tripped atomic.Int64 // until when it is in Ribbon's blackout

	mu         sync.Mutex // guards what follows, and writes of the above
	status     roadbed.Status
	since      int64 // when it went UP; noSince = unknown
	ejected    int64 // until when it is ejected, for what it did
	back       int64 // until when it warms up after an ejection
	dials      int   // failed in a row
	local      int   // attempts in a row that broke, timed out or reached nobody
	gateway    int   // 502, 503 and 504 in a row
	bad        int   // 5xx in a row
	wants      cause // why it should be ejected
	ejections  int   // how much longer than the first the next one lasts
	total      uint64
	failed     uint64
	spanTotal  int // attempts since outliers were last looked for
	spanFailed int

	// What Ribbon's rules and filters ask for.
	connFails  int     // connections failed or broken in a row
	times      float64 // sum of all response times, ns
	timed      int
	failsAt    int64 // second in which failsNow were counted
	failsNow   int
	failsLast  int   // and those of the second before
	activeSeen int64 // at the last look
	totalSeen  uint64
	stillSince int64 // neither changed since
}

const (
	tau           = 10 * time.Second
	minAlpha      = 0.05 // of the EWMAs: at a slow rate 14 failures in a row make bad, at any rate 50 answers forget a slow one
	backTime      = int64(10 * time.Second)
	minWarm       = 0.1
	minRTT        = float64(50 * time.Microsecond)
	badError      = 0.5
	badLoad       = 1.3
	noError       = 0.01
	staleReport   = int64(30 * time.Second) // from then on a report fades, over as long again
	unknownLoad   = 1.0
	loadFloor     = 0.25
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
	Erred                    // 500 and more
	Gateway                  // 502, 503 or 504: it, or who it asks, cannot serve now
	Broken                   // reset, unexpected EOF, timeout: the endpoint's fault for all we know
	Unreached                // no connection
	Declined                 // refused because the endpoint has too much to do: a reason to send it less, not to eject it
	Abandoned                // the caller went away; says nothing
)

// Failing reports whether a status says that the callee is not well. That it does not know a method (501) or a version of
// HTTP (505) is said of the request: who asks for what nobody knows could otherwise open breakers for everybody.
func Failing(status int) bool { return status >= 500 && status != 501 && status != 505 }

// OfStatus returns the verdict on an HTTP answer.
func OfStatus(status int) Verdict {
	switch {
	case !Failing(status):
		return Answered
	case status >= 502 && status <= 504:
		return Gateway
	}
	return Erred
}

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

// Report takes what the endpoint says of its load: 1 is as much as it wants, 0.5 half of that.
func (e *Endpoint) Report(load float64, now int64) {
	if !(load >= 0) || load > maxLoad {
		return
	}
	e.util.Store(math.Float64bits(max(load, math.SmallestNonzeroFloat64))) // 0 stands for unknown
	e.reported.Store(now)
}

// listed takes what the list says of the instance.
func (e *Endpoint) listed(status roadbed.Status, since int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	// Since travels as wall time, so a change of a second or more is a real one.
	restarted := e.since != noSince && since != noSince && since-e.since > int64(time.Second)
	if status == roadbed.Up && e.status != roadbed.Up || restarted {
		e.refused.Store(0)
		e.tripped.Store(0)
		e.ejected = 0
		e.err.Store(0)
		e.proven.Store(false)
		e.dials, e.local, e.gateway, e.bad, e.connFails, e.wants = 0, 0, 0, 0, 0, none
	}
	e.status, e.since = status, since
}

// Done records an attempt that ended now and took rtt nanoseconds. If that makes the endpoint unfit or fit, picks from
// now on heed it.
func (e *Endpoint) Done(v Verdict, now, rtt int64) {
	if v == Abandoned {
		return
	}
	if e.record(v, now, rtt, e.lb.settings.Load()) {
		e.lb.Refresh(now)
	}
}

// record reports whether the balancer has to look again at once.
func (e *Endpoint) record(v Verdict, now, rtt int64, s *Settings) (changed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.total++
	e.spanTotal++
	w := math.Exp(-float64(max(0, now-e.last.Load())) / float64(tau))
	x := 0.0
	if v != Answered {
		x = 1
		if v != Declined {
			e.failed++
			e.spanFailed++
		}
	}
	alpha := max(1-w, minAlpha)
	err := math.Float64frombits(e.err.Load())
	e.err.Store(math.Float64bits(err*(1-alpha) + x*alpha))
	// A failure may come fast; it must not make the endpoint look fast.
	if old := math.Float64frombits(e.rtt.Load()); v != Unreached {
		sample := float64(max(rtt, 1))
		if old == 0 && !e.lb.knowsTime.Load() {
			e.lb.knowsTime.Store(true)
			changed = true // the median, which stands for unknown ones, is the first
		}
		switch {
		case sample > old:
			e.rtt.Store(math.Float64bits(sample))
		case v == Answered:
			e.rtt.Store(math.Float64bits(old*(1-alpha) + sample*alpha))
		}
	}
	e.last.Store(now)
	if v <= Gateway || v == Declined {
		if !e.proven.Load() {
			e.proven.Store(true)
		}
		e.times += float64(rtt)
		e.timed++
		e.dials, e.local, e.connFails = 0, 0, 0
		if e.wants == locals || v == Answered && (e.wants == fives || e.wants == gateways) {
			e.wants = none // it came round before its turn to leave
		}
		if e.refused.Load() != 0 {
			e.refused.Store(0)
			changed = true
		}
	} else {
		e.connectionFailed(now, s)
	}
	switch v {
	case Answered:
		e.bad, e.gateway = 0, 0
	case Erred:
		e.bad++
		e.gateway = 0
	case Gateway:
		e.bad++
		e.gateway++
	case Broken:
		e.local++
	case Unreached:
		if now >= e.refused.Load() { // else an attempt of the same outage
			e.refused.Store(now + int64(min(baseRefusal<<min(e.dials, 10), maxRefusal)))
			e.dials++
			e.local++
			changed = true
		}
		e.proven.Store(false) // what answers there next may be somebody else
	}
	return e.judge(s) || changed
}

// connectionFailed counts towards Ribbon's blackout. The caller holds mu.
func (e *Endpoint) connectionFailed(now int64, s *Settings) {
	e.connFails++
	if e.connFails >= s.FailureThreshold {
		e.tripped.Store(now + int64(Blackout(e.connFails, &s.Ribbon)))
	}
	e.rollFails(now)
	e.failsNow++
}

// rollFails moves the window of failures. The caller holds mu.
func (e *Endpoint) rollFails(now int64) {
	switch sec := now / int64(time.Second); sec - e.failsAt {
	case 0:
	case 1:
		e.failsAt, e.failsLast, e.failsNow = sec, e.failsNow, 0
	default:
		e.failsAt, e.failsLast, e.failsNow = sec, 0, 0
	}
}

// standing is what of an endpoint lasts for a while.
type standing struct {
	status  roadbed.Status
	live    bool    // connections to it are not known to be refused, nor pings
	fit     bool    // it is live and not ejected
	warm    float64 // from 0.1, cold, to 1
	changes int64   // when live or fit change by themselves
}

func (e *Endpoint) standing(now int64, warmUp time.Duration) (s standing) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.status = e.status
	s.live = now >= e.refused.Load() && !e.dead.Load()
	s.fit = s.live && now >= e.ejected
	s.warm = e.warmth(now, warmUp)
	s.changes = Never
	for _, t := range [...]int64{e.refused.Load(), e.ejected} {
		if t > now {
			s.changes = min(s.changes, t)
		}
	}
	return s
}

// warmth is how much of its share a young endpoint, or one that returns, can take. The caller holds mu.
func (e *Endpoint) warmth(now int64, warmUp time.Duration) float64 {
	switch {
	case now < e.back:
		return minWarm
	case e.since == noSince || warmUp == 0:
		return 1
	}
	return min(1, max(minWarm, float64(now-e.since)/float64(warmUp)))
}

func (e *Endpoint) up() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.status == roadbed.Up
}

// cost says how much it costs to send one more request there: the expected wait in nanoseconds, made worse by load,
// failures and coldness. Source of the latency part: peak EWMA, as in Twitter's Finagle.
// Odds are those against it: the cube of the cost, in which coldness counts as its square, for the slow and the failing
// should get next to nothing, the young a little.
// hot path: 0 allocs, BenchmarkPick
func (c *candidate) cost(now int64, median float64) (cost, odds float64, bad bool) {
	raw, bad := c.Endpoint.cost(now, median)
	cost = raw * c.factor
	return cost, cost * cost * raw, bad
}

func (e *Endpoint) cost(now int64, median float64) (cost float64, bad bool) {
	left := decay(now - e.last.Load())
	err, load := e.errorNow(left), e.loadNow(now)
	active := e.active.Load()
	cost = float64(active+1) * e.rttNow(left, median) * (loadFloor + load) / (1 - min(err, 0.95))
	if active > 0 && !e.proven.Load() {
		cost *= probationCost // one at a time until it has answered once
	}
	return cost, err > badError || load > badLoad
}

// loadNow is what the endpoint said of its load, as far as that still counts.
func (e *Endpoint) loadNow(now int64) float64 {
	bits := e.util.Load()
	if bits == 0 {
		return unknownLoad
	}
	load := math.Float64frombits(bits)
	if age := now - e.reported.Load(); age > staleReport {
		old := min(1, float64(age-staleReport)/float64(staleReport))
		load += (unknownLoad - load) * old
	}
	return load
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
