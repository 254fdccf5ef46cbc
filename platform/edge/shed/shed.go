// Package shed ranks requests by importance, and refuses the least important ones while the edge, or the origin they are
// for, has more to do than it can. At Netflix this was Zuul's prioritized load shedding.
//
//	s := shed.New(shed.Config{Properties: props, Meter: m})
//	filter.NewChain(filter.ChainConfig{Filters: append(s.Filters(), ...)})
//	go s.Run(ctx)
//
// A score is from 1, the most important, to 100. What says it, the first that speaks:
//
//  1. the field X-Edge-Priority, of trusted peers
//  2. the route's priority
//  3. the property edge.priority.NAME, the rule with the longest path: "GET,HEAD /browse 70", "* /logs BULK"
//  4. edge.priority.default, 50
//
// Scores make groups: CRITICAL to 30, DEGRADED to 60, BEST_EFFORT to 80, BULK to 100. Services are told score and group of
// a request that 1 to 3 rank, so that they shed in the same order; the others' they decide as ever.
//
// Every 100 ms signals are measured: processor time, the wait for a processor, memory, connections. Each tells 0 up to its
// soft limit, 1 from its hard one. The largest, x, counts at once; after it x falls to half every 2 s. Requests with a score
// above 100·(1-x³) are answered 503 before anything is looked up for them. Once it is known who answers, the same goes for
// each app by its own signals: requests in flight, and answers that it is overloaded. Refusals ask callers to retry nothing for
// a while (X-Edge-Backoff), which package ipc heeds. A route may have a queue of its own ([Shed.RouteQueue]).
//
// # What it promises
//   - Scores 1 to 5 are never refused here.
//   - What lags behind, which is all but memory and connections, refuses CRITICAL ones only once nothing else is left to refuse and
//     that was not enough for 5 s.
//   - A refusal, and a request that is let in, take no memory.
//   - An app in trouble has only its own requests refused.
//   - Of requests of one importance whole users are refused, not each user's now and then.
//
// # What it does not
//   - Long answers, event streams and upgraded connections do not count as in flight.
//   - HTTP/2 clients get the same 503, not RST_STREAM, after which most would ask again at once, unless edge.shed.h2refuse says so.
//   - A route's queue is no part of this: it holds whatever the edge, or the app, could bear, and for all scores alike.
package shed

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/limit"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

const (
	least      = 100 // important
	sacred     = 5   // requests of this score or a better one are never refused
	vital      = 30  // the last score of CRITICAL
	every      = 100 * time.Millisecond
	halfLife   = 2 * time.Second
	patience   = 5 * time.Second // at the floor and still overloaded, until that falls
	longestTry = 30              // seconds of Retry-After
)

// Config says what the shedder looks at.
type Config struct {
	Properties  *config.Properties
	Meter       *meter.Registry
	Connections func() (open, most int) // of the edge's listeners; nil: not looked at
}

// settings are live.
type settings struct {
	On       bool    `config:"enabled"`
	Force    int     `config:"force"`
	Share    float64 `config:"force.percent"`
	User     string  `config:"user.header"`
	Admit    bool    `config:"admission.enabled"`
	MostShut float64 `config:"admission.maxReject"`
	Streams  bool    `config:"h2refuse"`
}

// Validate keeps what cannot be meant out of force.
func (s *settings) Validate() error {
	for _, err := range []error{
		config.Between("edge.shed.force", s.Force, 0, least),
		config.Between("edge.shed.force.percent", s.Share, 0, 100),
		config.Between("edge.shed.admission.maxReject", s.MostShut, 0, 1),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// Shed decides which requests the edge works on.
type Shed struct {
	settings *config.Value[*settings]
	ranks    ranks
	open     func() (open, most int)
	sense    sense
	late     atomic.Bool // routes rank requests, so that those without a rank wait for theirs
	inEffect atomic.Bool // there may be a reason to refuse

	gate     atomic.Int32 // the last score that is let in
	standing atomic.Pointer[Overload]
	level    levels // only Tick uses it
	all      *limit.Limiter
	apps     atomic.Pointer[map[string]*app]
	mu       sync.Mutex // held to change apps
	flights  sync.Pool

	retry  [longestTry]string
	lull   [longestTry]string
	groups [4]string
	counts [4][reasons]*meter.Counter
	meter  *meter.Registry
}

// reason is why a request was refused.
type reason uint8

const (
	byEdge      reason = iota // the edge's signals
	byOrigin                  // the app's
	byAdmission               // too many of the app's answers failed
	byForce                   // a drill
	byRoom                    // there is little room left for requests of other regions
	reasons
)

var reasonNames = [reasons]string{"edge", "origin", "admission", "forced", "headroom"}

var sentences = [reasons]string{
	"the edge has more to do than it can, and more important requests go first",
	"the service that answers this has more to do than it can, and more important requests go first",
	"most answers of the service fail; some requests are kept from it",
	"a drill refuses requests of this importance",
	"this region takes no more requests of others, and more important ones go first",
}

// New returns a shedder that lets everything in until [Shed.Run] measures. It follows these live properties:
//
//	edge.shed.enabled                true
//	edge.shed.force                  100       a drill: scores above are refused; 100 is none
//	edge.shed.force.percent          100       of users that the drill concerns
//	edge.shed.user.header            X-Member  names a user; without it the address does
//	edge.shed.h2refuse               false     refuse streams of HTTP/2 by REFUSED_STREAM in place of 503
//	edge.shed.admission.enabled      false     keep requests from apps whose answers mostly fail
//	edge.shed.admission.maxReject    0.9       the largest share of requests that is kept from them
//	edge.priority.default            50        score of what nothing else ranks: 1 to 100, or a group's name
//	edge.priority.spread             true      users differ by up to 9 within their group
//	edge.priority.NAME               (none)    a rule, such as GET,HEAD /browse 70
func New(c Config) *Shed {
	s := &Shed{
		settings: config.Must(config.Bind(c.Properties, "edge.shed.", settings{On: true, Force: least, Share: 100, User: "X-Member", MostShut: 0.9})),
		open:     c.Connections, meter: c.Meter, all: newLimiter(),
		flights: sync.Pool{New: func() any { return new(flight) }},
	}
	s.ranks.follow(c.Properties)
	s.sense.init()
	s.gate.Store(least)
	s.apps.Store(&map[string]*app{})
	s.level.floor = vital
	for i := range s.retry {
		s.retry[i] = strconv.Itoa(i + 1)
		s.lull[i] = "max-retries=0;window=" + s.retry[i]
	}
	for g := range s.counts {
		s.groups[g] = roadbed.Criticality(g).String()
		for r := range s.counts[g] {
			s.counts[g][r] = c.Meter.Counter("edge.shed", "edge.group", s.groups[g], "edge.reason", reasonNames[r])
		}
	}
	c.Meter.GaugeFunc("edge.shed.threshold", func() float64 { return float64(s.gate.Load()) })
	s.standing.Store(&Overload{Threshold: least, Floor: vital})
	return s
}

// RoutesRank says whether routes have priorities. While they do, a request that X-Edge-Priority does not rank is judged
// once its route is known: it may be more important than it looks.
func (s *Shed) RoutesRank(yes bool) { s.late.Store(yes) }

// Filters returns the filters that rank, refuse, and take note of how origins do.
func (s *Shed) Filters() []*filter.Filter {
	return []*filter.Filter{
		{Name: "Priority", Kind: filter.Inbound, Order: -700, Quick: true, Apply: func(x *filter.Exchange) error { s.ranks.rank(x); return nil }},
		{Name: "LoadShed", Kind: filter.Inbound, Order: -650, Quick: true, If: func(*filter.Exchange) bool { return s.inEffect.Load() }, Apply: s.early},
		{Name: "OriginShed", Kind: filter.Inbound, Order: -85, Quick: true, If: func(x *filter.Exchange) bool { return x.Plan != nil }, Apply: s.routed},
		{Name: "OriginFlight", Kind: filter.Inbound, Order: 970, Quick: true, If: func(x *filter.Exchange) bool { return x.Request.Body != nil && x.Value(key) == nil }, Apply: s.taken},
		{Name: "RouteQueue", Kind: filter.Inbound, Order: 965, Quick: true, Guard: true, If: func(x *filter.Exchange) bool { return x.Plan != nil && x.Value(queueKey) != nil }, Apply: queued},
		{Name: "OriginNoted", Kind: filter.Outbound, Order: -950, Quick: true, Always: true, Apply: func(x *filter.Exchange) error { s.noted(x); return nil }},
	}
}

// early refuses requests before anything is looked up for them.
//
// hot path: 0 allocs, BenchmarkRefused
func (s *Shed) early(x *filter.Exchange) error {
	if !s.late.Load() || told(x) {
		s.judge(x)
	}
	return nil
}

// judge refuses x if the edge's signals or a drill want it, and reports whether it did.
func (s *Shed) judge(x *filter.Exchange) bool {
	set := s.settings.Get()
	score := s.ranks.score(x, set.User)
	if score <= sacred || !set.On {
		return false
	}
	if score > int(s.gate.Load()) {
		s.refuse(x, score, byEdge)
		return true
	}
	if score > set.Force && (set.Share >= 100 || float64(userOf(x, set.User)%10_000) < 100*set.Share) {
		s.refuse(x, score, byForce)
		return true
	}
	return false
}

// Visits judges a request that another region has sent, of the room for which so much is used, from 0 to 1: the more, the
// more important it must be. It reports whether it refused x.
func (s *Shed) Visits(x *filter.Exchange, used float64) bool {
	set := s.settings.Get()
	score := s.ranks.score(x, set.User)
	if score <= sacred || !set.On || float64(score) <= threshold(used) {
		return false
	}
	s.refuse(x, score, byRoom)
	return true
}

// refuse answers x.
func (s *Shed) refuse(x *filter.Exchange, score int, why reason) {
	group := groupOf(score)
	x.Answer(http.StatusServiceUnavailable, "")
	h := &x.Response.Header
	after := rand.IntN(longestTry)
	h.Add("Retry-After", s.retry[after])
	h.Add(ipc.HeaderBackoff, s.lull[after])
	h.Add("X-Edge-Shed", s.groups[group])
	if why == byForce {
		h.Add("X-Edge-Shed-Forced", "true")
	}
	x.Response.Refused = s.settings.Get().Streams
	x.SetCategory(filter.FailureShed, sentences[why])
	s.counts[group][why].Inc()
}

// groupOf returns the group that a score is in.
func groupOf(score int) roadbed.Criticality {
	switch {
	case score <= vital:
		return roadbed.Critical
	case score <= 60:
		return roadbed.Degraded
	case score <= 80:
		return roadbed.BestEffort
	}
	return roadbed.Bulk
}

// threshold returns the last score that is let in at an overload from 0 to 1.
func threshold(x float64) float64 { return least * (1 - x*x*x) }

// overload returns how far value is from soft to hard, 0 to 1.
func overload(value, soft, hard float64) float64 { return min(1, max(0, (value-soft)/(hard-soft))) }

// levels is the overload as it counts.
type levels struct {
	at      int64
	lagging float64 // of what tells of a moment ago
	firm    float64 // of memory and connections
	floor   float64 // the lowest threshold that lagging may set
	since   int64   // when it began to be set to the floor; 0: it is not
}

// take moves the levels by new measurements, and returns the last score that is let in.
func (l *levels) take(now int64, lagging, firm float64) int32 {
	dt := max(0, now-l.at)
	falls := math.Exp2(-float64(dt) / float64(halfLife))
	l.at = now
	l.lagging, l.firm = max(lagging, l.lagging*falls), max(firm, l.firm*falls)
	t := threshold(l.lagging)
	switch {
	case lagging < 1:
		l.since = 0
		l.floor = min(vital, l.floor+float64(dt)/float64(halfLife)*vital)
	case l.since == 0:
		l.since = now
	case now-l.since >= int64(patience):
		l.floor = max(sacred, l.floor*(1-float64(dt)/float64(patience)/2))
	}
	return int32(min(max(t, l.floor), max(threshold(l.firm), sacred)))
}

// Run measures every 100 ms until ctx ends.
func (s *Shed) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.measure(filter.Now(), s.sense.read(time.Now()))
		}
	}
}

// measure draws the conclusions from a reading.
func (s *Shed) measure(now int64, r reading) {
	set := s.settings.Get()
	open, most := 0, 0
	if s.open != nil {
		open, most = s.open()
	}
	signals := r.signals(s.all, open, most)
	lagging, firm := 0.0, 0.0
	for _, g := range signals {
		if g.firm {
			firm = max(firm, g.X)
		} else {
			lagging = max(lagging, g.X)
		}
	}
	gate := s.level.take(now, lagging, firm)
	if !set.On {
		gate = least
	}
	s.gate.Store(gate)
	st := &Overload{X: max(s.level.lagging, s.level.firm), Threshold: int(gate), Floor: int(s.level.floor), Signals: signals}
	apps := *s.apps.Load()
	for _, name := range slices.Sorted(maps.Keys(apps)) {
		apps[name].measure(now)
		st.Apps = append(st.Apps, apps[name].standing(name, now))
	}
	s.standing.Store(st)
	s.inEffect.Store(gate < least || set.Force < least)
}

// Overload is the answer of GET /api/v1/edge/shed.
type Overload struct {
	X         float64          `json:"x" doc:"overload of this edge, 0 to 1"`
	Threshold int              `json:"threshold" doc:"the last score that is let in; 100: all"`
	Floor     int              `json:"floor" doc:"the lowest threshold that signals which lag behind may set now"`
	Forced    int              `json:"forced" doc:"the threshold of a drill; 100: none"`
	Signals   []Signal         `json:"signals"`
	Shed      map[string]int64 `json:"shed" doc:"requests refused since the edge began, by group"`
	Apps      []AppOverload    `json:"apps"`
}

// Mount puts the shedder's API on a.
func (s *Shed) Mount(a *api.Surface) {
	huma.Register(a.API, huma.Operation{
		OperationID: "get-edge-shed", Method: http.MethodGet, Path: "/api/v1/edge/shed",
		Summary: "How overloaded this edge is, and what it refuses", Description: "As of the last 100 ms.",
	}, func(context.Context, *struct{}) (*struct{ Body Overload }, error) {
		return &struct{ Body Overload }{s.Standing()}, nil
	})
}

// Standing returns how overloaded the edge is, as of the last 100 ms.
func (s *Shed) Standing() Overload {
	st := *s.standing.Load()
	st.Forced = s.settings.Get().Force
	st.Shed = make(map[string]int64, len(s.groups))
	for g, name := range s.groups {
		for _, c := range s.counts[g] {
			st.Shed[name] += c.Count()
		}
	}
	if st.Signals == nil {
		st.Signals = []Signal{}
	}
	if st.Apps == nil {
		st.Apps = []AppOverload{}
	}
	return st
}

// newLimiter returns a limiter that finds out how much may be in flight.
func newLimiter() *limit.Limiter {
	l, err := limit.New(limit.Config{})
	if err != nil {
		panic(fmt.Sprintf("shed: the defaults of package limit are wrong: %v", err))
	}
	return l
}
