package ipc

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc/balance"
	"github.com/roadbed/roadbed/ipc/limit"
	"github.com/roadbed/roadbed/meter"
)

// The priorities of requests that bring none, by criticality. 1 is the most important, 100 the least.
var usualPriority = [...]uint8{10, 40, 70, 95}

const (
	leastPriority  = 100
	sacred         = 5 // requests of this priority or a better one are let in up to the hard limit
	senseEvery     = 100 * time.Millisecond
	senseIdle      = 10              // readings without a request end the measuring
	slack          = 1.1             // times what is needed, in flight
	criticalTimes  = 2               // times the limit, that what is CRITICAL is held to
	grace          = 1.25            // times what is in flight when the limit begins to hold, that it is held to at first
	idleTimes      = 10              // times what was proven, that may be in flight while the processor is idle
	ownShare       = 0.5             // of the processor's target, below which others are to blame for waits
	heldFor        = time.Second     // without a refusal, until a limit no longer holds
	busyFor        = 2 * time.Second // since a processor was last found busy, that it counts as busy
	reportEvery    = time.Second
	quietAfter     = 10 * time.Second // without a refusal an overload is over
	serverUtilized = balance.HeaderUtilization
	serverLoad     = balance.HeaderLoad
)

// refusal says which limit refused a request.
type refusal uint8

const (
	admitted    refusal = iota
	byLimit             // too many in flight for its importance
	byLoad              // processors are too busy for its importance
	byShare             // its partition is used up
	byHardLimit         // as many in flight as can be
	refusals
)

var refusalNames = [refusals]string{"", "limit", "load", "partition", "hard-limit"}

// shedder decides which requests a server works on.
type shedder struct {
	set     atomic.Pointer[ServerSettings]
	limiter *limit.Limiter
	queue   atomic.Pointer[limit.Queue] // nil: nobody waits
	answers atomic.Pointer[answers]
	report  atomic.Pointer[report]

	easy atomic.Int64 // so many in flight are no reason to refuse anybody
	held atomic.Bool  // the limit holds
	mild atomic.Int64 // so many in flight are no reason to refuse what is CRITICAL; it falls while the limit holds
	gate atomic.Int32 // the last priority that the measured load lets in
	hard atomic.Int64

	used    atomic.Bool // a request came since the last reading
	sensing atomic.Bool
	sense   func() reading
	now     reading // only the measuring goroutine uses it, and what follows
	told    int64   // when it was last logged that requests are refused; 0: that is over
	busy    int     // readings in a row that found the processor busy
	calm    int64   // when it counts as busy no longer
	lifted  int64   // when the limit will hold no longer
	limited int64   // refusals by the limit, as counted at the last reading
	refused int64   // refusals, as counted then
	served  int64   // as reported last
	failed  int64
	next    int64 // when to report

	sheds  [4][refusals]atomic.Pointer[meter.Counter]
	moving sync.Mutex   // guards the limiter's floor
	all    atomic.Int64 // refusals ever
	over   atomic.Int64 // those by the limit
	done   atomic.Int64 // requests ever that were worked on
	errors atomic.Int64 // of those, how many failed
	load   atomic.Pointer[Load]
}

// Load is how busy a server is.
type Load struct {
	Utilization float64       `json:"utilization"` // of what it can bear: 1 is all
	CPU         float64       `json:"cpu"`         // of the processor time it may use, 0 to 1
	Delay       time.Duration `json:"-"`           // that goroutines wait for a processor
	DelayMillis float64       `json:"delayMillis"`
	InFlight    int           `json:"inFlight"`
	Limit       int           `json:"limit"`    // on requests in flight, as it holds now
	Priority    int           `json:"priority"` // the last that the processor's load lets in; 100: all
	Refused     int64         `json:"refused"`  // ever
	RPS         float64       `json:"rps"`      // requests worked on per second
	EPS         float64       `json:"eps"`      // of those, failed ones
}

// answers are what refused requests are told, made once so that a refusal allocates nothing.
type answers struct {
	status     int
	retryAfter []string
	body       [4][refusals][]byte
}

// report is what responses say of the server's load.
type report struct{ utilization, load []string }

var (
	yes       = []string{"1"}
	shedWord  = []string{"shed"}
	plainText = []string{"text/plain; charset=utf-8"}
)

func (s *shedder) init(e *Engine, code ServerSettings) {
	if err := code.or(builtInServer).validate(); err != nil {
		panic("ipc: Options.Server: " + err.Error())
	}
	s.limiter, _ = limit.New(limit.Config{}) // configure follows
	s.gate.Store(leastPriority)
	s.load.Store(&Load{Priority: leastPriority})
	reader := newLoadReader()
	s.sense = func() reading { return reader.read(time.Now()) }
}

// configure puts settings in force. They make sense.
func (s *shedder) configure(e *Engine, set ServerSettings) {
	before := s.set.Load()
	if before != nil && *before == set {
		return
	}
	if before == nil || limitOf(*before) != limitOf(set) {
		c, err := set.limiter()
		if err == nil {
			err = s.limiter.Configure(c)
		}
		if err != nil {
			e.log.Error("settings of the server's limit make no sense; the others stay", "err", err)
			return
		}
	}
	if set.QueueSize == 0 {
		s.queue.Store(nil)
	} else if before == nil || before.QueueSize != set.QueueSize || before.QueueWait != set.QueueWait {
		q, err := limit.NewQueue(s.limiter, limit.QueueConfig{Size: set.QueueSize, Wait: set.QueueWait}, e.clock.now)
		if err != nil {
			e.log.Error("settings of the server's queue make no sense; nobody waits", "err", err)
		}
		s.queue.Store(q)
	}
	s.set.Store(&set)
	s.hard.Store(hardLimit(&set))
	s.move(&set, s.held.Load(), false)
	name := e.app
	if name == "" {
		name = "this server"
	}
	a := &answers{status: set.ShedStatus, retryAfter: []string{strconv.Itoa(int(set.RetryAfter / time.Second))}}
	for c := range a.body {
		class := roadbed.Criticality(c)
		for r, why := range [refusals]string{
			byLimit:     "its limit on requests in flight is reached (ipc.server.limit), and more important ones than this, which is " + class.String() + ", go first",
			byLoad:      "its processors are busy (ipc.server.shed), and more important requests than this, which is " + class.String() + ", go first",
			byShare:     "its limit on requests in flight is reached, and so is the share of this caller's partition (ipc.server.partition)",
			byHardLimit: "as many requests as it can hold at all are in flight (ipc.server.limit.max)",
		} {
			a.body[c][r] = fmt.Appendf(nil, "%s has too much to do: %s; try again after %s\n", name, why, set.RetryAfter)
		}
	}
	s.answers.Store(a)
	if set.ReportOff {
		s.report.Store(nil)
	}
}

// limitOf returns the settings that the limiter is made of.
func limitOf(s ServerSettings) ServerSettings {
	return ServerSettings{Limit: s.Limit, InitialLimit: s.InitialLimit, MinLimit: s.MinLimit, MaxLimit: s.MaxLimit,
		PartitionBy: s.PartitionBy, Partitions: s.Partitions, RejectDelay: s.RejectDelay}
}

// hardLimit returns how many requests may be in flight whatever their importance.
func hardLimit(set *ServerSettings) int64 {
	switch set.Limit {
	case LimitOff:
		return math.MaxInt64
	case LimitFixed:
		return int64(math.Ceil(float64(set.InitialLimit) * set.ShedMax))
	}
	return int64(math.Ceil(float64(set.MaxLimit) * set.ShedMax))
}

// move sets how far the limit holds. While requests come as fast as usual nobody needs to be refused; while the processor
// is idle it is something else that is slow, and refusing helps less.
func (s *shedder) move(set *ServerSettings, hold, busy bool) {
	s.moving.Lock()
	defer s.moving.Unlock()
	lim := s.limiter
	if s.held.Swap(hold) != hold && hold {
		s.mild.Store(int64(grace * float64(lim.InFlight())))
	}
	switch {
	case set.Limit == LimitFixed || set.Limit == LimitOff:
		lim.Bound(0, 0)
	case !hold:
		lim.Bound(set.MaxLimit, 0)
	case busy || set.HoldWhileIdle:
		lim.Bound(s.bounds(set))
	default:
		least, most := s.bounds(set)
		idle := min(max(set.IdleLimit, idleTimes*lim.Proven()), set.MaxLimit)
		lim.Bound(max(least, idle), max(most, idle))
	}
	if set.Limit == LimitOff {
		s.easy.Store(math.MaxInt64)
	} else if n := float64(lim.Limit()); set.ShedOff {
		s.easy.Store(int64(n))
	} else {
		s.easy.Store(int64(set.ShedStart * n))
	}
}

// bounds returns between what the algorithm's limit is held, by what is known of the server: what was proven to do no
// harm, and somewhat more than the rate at which requests end would need.
func (s *shedder) bounds(set *ServerSettings) (least, most int) {
	proven, needed := s.limiter.Proven(), s.limiter.Needed()
	least = min(max(proven, needed, set.MinLimit), set.MaxLimit)
	if needed == 0 {
		return least, set.MaxLimit
	}
	return least, min(max(least, int(math.Ceil(slack*float64(needed)))+1), set.MaxLimit)
}

// admit decides about a request. If it is let in, the permit must be given back with leave.
// hot path: 0 allocs, BenchmarkHandler
func (s *shedder) admit(e *Engine, now int64, i importance) (limit.Permit, refusal) {
	if !s.used.Load() {
		s.used.Store(true)
	}
	if !s.sensing.Load() {
		s.startSensing(e)
	}
	set := s.set.Load()
	if s.limiter.Slow() && !s.held.Load() {
		s.move(set, true, false)
	}
	var p limit.Permit
	if set.PartitionBy == PartitionOff {
		p = s.limiter.Enter(now)
	} else {
		p = s.limiter.EnterIn(partitionOf(set, &i), now)
	}
	if int32(i.priority) <= s.gate.Load() && int64(p.InFlight()) <= s.easy.Load() {
		return p, admitted
	}
	why := s.judge(set, p, i.priority)
	if why != admitted {
		s.limiter.Ignore(p)
	}
	return p, why
}

// partitionOf returns the partition of a request.
func partitionOf(set *ServerSettings, i *importance) string {
	if set.PartitionBy == PartitionByCriticality {
		return i.criticality.String()
	}
	return i.caller
}

// judge decides about a request while there is reason to refuse some.
func (s *shedder) judge(set *ServerSettings, p limit.Permit, priority uint8) refusal {
	n := int64(p.InFlight())
	if n > s.hard.Load() {
		return byHardLimit
	}
	lim := int64(s.limiter.Limit())
	if set.ShedOff {
		if n > lim && !p.Guaranteed() {
			return byLimit
		}
		return admitted
	}
	if priority <= sacred {
		return admitted
	}
	if int32(priority) > s.gate.Load() {
		return byLoad
	}
	if set.Limit == LimitOff || p.Guaranteed() || priority <= usualPriority[roadbed.Critical] && n <= max(criticalTimes*lim, s.mild.Load()) {
		return admitted
	}
	if n > lim && set.PartitionBy != PartitionOff {
		return byShare
	}
	if float64(priority) > lastPriority(set, float64(n)/float64(lim)) {
		return byLimit
	}
	return admitted
}

// lastPriority returns the least important priority that is let in at a load.
func lastPriority(set *ServerSettings, load float64) float64 {
	x := min(1, max(0, (load-set.ShedStart)/(set.ShedMax-set.ShedStart)))
	return leastPriority * (1 - x*x*x)
}

// patient reports whether refused requests may have to wait.
func (s *shedder) patient() bool {
	return s.queue.Load() != nil || s.set.Load().RejectDelay > 0
}

// wait lets a request wait for a place in the queue, if there is one.
func (s *shedder) wait(ctx context.Context, why refusal) (limit.Permit, bool, error) {
	q := s.queue.Load()
	if q == nil || why != byLimit {
		return limit.Permit{}, false, nil
	}
	p, err := q.Acquire(ctx)
	return p, err == nil, err
}

// leave gives a permit back. ok tells that the request says how loaded the server is: it was neither invalid nor
// abandoned. late tells that its deadline passed, which says so too unless the caller was impatient.
func (s *shedder) leave(p limit.Permit, now int64, ok, late bool) {
	q := s.queue.Load()
	switch {
	case ok && q == nil:
		s.limiter.Success(p, now)
	case ok:
		q.Success(p)
	case late && s.limiter.Slow() && q == nil:
		s.limiter.Drop(p, now)
	case late && s.limiter.Slow():
		q.Drop(p)
	case q == nil:
		s.limiter.Ignore(p)
	default:
		q.Ignore(p)
	}
}

// count counts a refusal.
func (s *shedder) count(e *Engine, crit roadbed.Criticality, why refusal) {
	s.all.Add(1)
	if why != byLoad {
		s.over.Add(1)
	}
	if e.meter == nil {
		return
	}
	slot := &s.sheds[crit][why]
	c := slot.Load()
	if c == nil {
		c = e.meter.Counter("ipc.shed", "ipc.criticality", crit.String(), "ipc.reason", refusalNames[why])
		slot.Store(c)
	}
	c.Inc()
}

// answer tells a refused request so. Nothing is allocated but what the response is made of.
// hot path: 0 allocs, BenchmarkHandler
func (s *shedder) answer(w http.ResponseWriter, r *http.Request, crit roadbed.Criticality, why refusal) {
	a, h := s.answers.Load(), w.Header()
	h["Retry-After"] = a.retryAfter
	h[HeaderNoRetry] = yes
	h[headerError] = shedWord
	h["Content-Type"] = plainText
	if id := r.Header[HeaderRequestID]; len(id) == 1 && plain(id[0]) {
		h[HeaderRequestID] = id
	}
	if rep := s.report.Load(); rep != nil {
		h[serverUtilized], h[serverLoad] = rep.utilization, rep.load
	}
	w.WriteHeader(a.status)
	w.Write(a.body[crit][why]) // the caller may have gone, which is as good
}

// wasShed reports whether a response is the refusal of an overloaded server, which did not work on the request.
func wasShed(resp *http.Response) bool {
	return isShed(resp.StatusCode, first(resp.Header[headerError]))
}

// isShed is wasShed for a status and an X-Ipc-Error.
func isShed(status int, why string) bool {
	return (status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests) && why == "shed"
}

// startSensing starts the goroutine that measures the load. It ends when no requests come any more.
func (s *shedder) startSensing(e *Engine) {
	if !s.sensing.CompareAndSwap(false, true) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	e.meter.GaugeFunc("ipc.server.inflight", func() float64 { return float64(s.limiter.InFlight()) }) // only of processes that serve
	e.meter.GaugeFunc("ipc.limit", func() float64 { return float64(s.limiter.Limit()) }, "ipc.side", "server")
	e.wg.Go(func() {
		defer s.sensing.Store(false)
		tick := time.NewTicker(senseEvery)
		defer tick.Stop()
		for idle := 0; idle < senseIdle; {
			select {
			case <-tick.C:
			case <-e.stop:
				return
			}
			idle++
			if s.used.Swap(false) || s.limiter.InFlight() > 0 {
				idle = 0
			}
			s.tick(e)
		}
		s.gate.Store(leastPriority)
		s.now = reading{}
	})
}

// tick takes a reading and draws the conclusions. Only the measuring goroutine calls it.
func (s *shedder) tick(e *Engine) {
	set := s.set.Load()
	s.now = s.sense()
	cpu, delay := s.now.cpu/set.CPUTarget, float64(s.now.delay)/float64(set.DelayTarget)
	if max(s.now.cpu, s.now.lately) < ownShare*set.CPUTarget {
		delay = 0 // it is others who keep the processors busy, and to do less here would not stop them
	}
	gate := int32(leastPriority)
	if !set.ShedOff {
		// What is measured is of a moment ago, so that it alone refuses nothing CRITICAL.
		gate = max(int32(usualPriority[roadbed.Critical]), int32(lastPriority(set, max(cpu, delay))))
	}
	s.gate.Store(gate)
	now := e.clock.now()
	if s.busy++; max(s.now.lately/set.CPUTarget, delay) < 1 {
		s.busy = 0
	} else if s.busy > 1 { // one alone may be a garbage collection
		s.calm = now + int64(busyFor)
	}
	s.mild.Store(s.mild.Load() * 9 / 10)
	over := s.over.Load()
	if s.limiter.Slow() || over != s.limited {
		s.lifted, s.limited = now+int64(heldFor), over
	}
	s.move(set, now < s.lifted, now < s.calm)
	if now >= s.next {
		s.publish(set, now)
	}
	switch all := s.all.Load(); {
	case all != s.refused && s.told == 0:
		e.log.Warn("too much to do: the least important requests are refused", "inFlight", s.limiter.InFlight(), "limit", s.limiter.Limit(),
			"cpu", fmt.Sprintf("%.0f%%", 100*s.now.cpu), "delay", s.now.delay, "priority", gate)
		e.event(LimitEvent, "", fmt.Sprintf("too much to do: the least important requests are refused; %d in flight of at most %d, processors busy to %.0f%%",
			s.limiter.InFlight(), s.limiter.Limit(), 100*s.now.cpu))
		s.told, s.refused = now, all
	case all != s.refused:
		s.told, s.refused = now, all
	case s.told != 0 && now-s.told > int64(quietAfter):
		e.log.Info("overload is over: all requests are served again", "refused", all)
		e.event(LimitEvent, "", "overload is over: all requests are served again")
		s.told = 0
	}
}

// publish works out what is told of the load.
func (s *shedder) publish(set *ServerSettings, now int64) {
	done, failed := s.done.Load(), s.errors.Load()
	l := &Load{CPU: s.now.cpu, Delay: s.now.delay, DelayMillis: float64(s.now.delay) / 1e6, InFlight: s.limiter.InFlight(), Limit: s.limiter.Limit(),
		Priority: int(s.gate.Load()), Refused: s.all.Load()}
	if took := time.Duration(now - s.next + int64(reportEvery)).Seconds(); s.next != 0 && took > 0 {
		l.RPS, l.EPS = float64(done-s.served)/took, float64(failed-s.failed)/took
	}
	s.served, s.failed, s.next = done, failed, now+int64(reportEvery)
	// The limit that holds is far off while requests are fast; what callers should know is how near the server is to
	// the one that will hold when they are not.
	near := max(s.limiter.Proven(), min(set.IdleLimit, l.Limit), 1)
	if set.Limit == LimitFixed {
		near = l.Limit
	}
	l.Utilization = max(l.CPU/set.CPUTarget, float64(l.InFlight)/float64(near))
	if set.Limit == LimitOff {
		l.Utilization = l.CPU / set.CPUTarget
	}
	s.load.Store(l)
	if set.ReportOff {
		return
	}
	number := func(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }
	s.report.Store(&report{
		utilization: []string{number(100*l.Utilization, 1) + ", target=100"},
		load: []string{"TEXT application_utilization=" + number(l.Utilization, 3) + ",cpu_utilization=" + number(l.CPU, 3) +
			",rps_fractional=" + number(l.RPS, 1) + ",eps=" + number(l.EPS, 1)},
	})
}

// Load returns how busy this process is with serving requests, as of the last second. Adapters of other protocols tell
// callers of it, as [Engine.Handler] does in its responses.
func (e *Engine) Load() Load { return *e.server.shed.load.Load() }

// priorityOf returns how important a request is: 1 the most, 100 the least. What it says of itself counts if it makes
// sense, else its criticality decides.
func priorityOf(text string, crit roadbed.Criticality) (p uint8, ok bool) {
	if text == "" {
		return usualPriority[crit], true
	}
	if n, err := strconv.ParseUint(text, 10, 8); err == nil && n >= 1 && n <= leastPriority {
		return uint8(n), true
	}
	return usualPriority[crit], false
}
