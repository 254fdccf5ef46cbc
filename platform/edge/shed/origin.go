package shed

import (
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/roadbed/roadbed/ipc/balance"
	"github.com/roadbed/roadbed/ipc/limit"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

const (
	softFlight  = 0.8 // of what an app may have in flight while it is slow
	vitalTimes  = 6   // times that, that CRITICAL requests are held to
	softShare   = 0.1 // of answers that say it is overloaded
	hardShare   = 0.5
	grace       = 1.25 // times what is in flight when the limit begins to hold, that CRITICAL ones are held to at first
	second      = int64(1e9)
	windowParts = 5       // seconds
	fewest      = 10 * 5  // answers in the window; fewer say nothing
	wanted      = 0.95    // share of success below which requests are kept from an app
	key         = "shed." // under which an exchange has its flight
)

// app is how one origin does.
type app struct {
	limiter *limit.Limiter
	now     tally         // of the second that goes on
	gate    atomic.Int32  // by the share of overloaded answers
	shut    atomic.Uint64 // bits of the share of requests that admission control keeps away
	refused atomic.Int64
	until   atomic.Int64 // that the limit on requests in flight holds: a second from when it was slow, or that refused one
	mild    atomic.Int64 // so many in flight are no reason to refuse CRITICAL ones; it falls while the limit holds

	window [windowParts]counted // only measure uses what follows
	next   int64
	at     int
	level  levels
	share  float64
}

// tally counts answers.
type tally struct{ all, good, overloaded atomic.Int64 }

// counted is a tally that is over.
type counted struct{ all, good, overloaded int64 }

// flight is a request on its way to an origin.
type flight struct {
	shed     *Shed
	app      *app
	own, all limit.Permit
	over     bool
}

// appOf returns what is known of an app.
func (s *Shed) appOf(name string) *app {
	if a := (*s.apps.Load())[name]; a != nil {
		return a
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := (*s.apps.Load())[name]; a != nil {
		return a
	}
	next := maps.Clone(*s.apps.Load())
	a := &app{limiter: newLimiter()}
	a.gate.Store(least)
	a.level.floor = vital
	next[strings.Clone(name)] = a
	s.apps.Store(&next)
	return a
}

// routed judges a request once it is known who answers it.
//
// hot path: 0 allocs, BenchmarkLetIn
func (s *Shed) routed(x *filter.Exchange) error {
	if s.late.Load() && !told(x) {
		if p := x.Plan.Priority; p != 0 {
			give(x, p)
		}
		if s.inEffect.Load() && s.judge(x) {
			return nil
		}
	}
	if x.App == "" {
		return nil
	}
	set := s.settings.Get()
	if !set.On || x.Deadline == 0 { // as long as both ends want: it would hold its place for ever
		return nil
	}
	a := s.appOf(x.App)
	now := filter.Now()
	n := a.limiter.InFlight() + 1
	var f *flight // nil while it is up to the client when the app gets the request
	if !x.Request.Awaited() {
		f = s.takeOff(x, a, now)
		n = f.own.InFlight()
	}
	score := 0
	if a.holds(now, n) || a.gate.Load() < least {
		score = s.ranks.score(x, set.User)
		if last, byLimit := a.last(now, n); score > sacred && score > last {
			if byLimit {
				a.until.Store(now + second)
			}
			f.drop()
			a.refused.Add(1)
			s.refuse(x, score, byOrigin)
			return nil
		}
	}
	if p := math.Float64frombits(a.shut.Load()); p > 0 && set.Admit && rand.Float64() < min(p, set.MostShut) {
		if score = s.ranks.score(x, set.User); score > sacred {
			f.drop()
			a.refused.Add(1)
			s.refuse(x, score, byAdmission)
		}
	}
	return nil
}

// taken has a request whose body was waited for be in flight from now on.
func (s *Shed) taken(x *filter.Exchange) error {
	if x.App != "" && x.Deadline != 0 && s.settings.Get().On {
		s.takeOff(x, s.appOf(x.App), filter.Now())
	}
	return nil
}

// takeOff counts a request as in flight.
func (s *Shed) takeOff(x *filter.Exchange, a *app, now int64) *flight {
	f := s.flights.Get().(*flight)
	*f = flight{shed: s, app: a, own: a.limiter.Enter(now), all: s.all.Enter(now)}
	x.Set(key, f)
	x.OnEnd(ended)
	return f
}

// holds reports whether the limit on requests in flight holds, of which there are n.
func (a *app) holds(now int64, n int) bool {
	until := a.until.Load()
	if a.limiter.Slow() {
		if now >= until {
			a.mild.Store(int64(grace * float64(n)))
		}
		a.until.Store(now + second)
		return true
	}
	return now < until
}

// last returns the last score that is let in with n in flight, and whether it is their number that says so.
func (a *app) last(now int64, n int) (score int, byLimit bool) {
	gate := int(a.gate.Load())
	if now >= a.until.Load() {
		return gate, false
	}
	most := held(a.limiter)
	t := max(vital, threshold(overload(float64(n)/most, softFlight, 1)))
	if x := overload(float64(n)/max(vitalTimes*most, float64(a.mild.Load())), softFlight, 1); x > 0 {
		t = max(sacred, vital*(1-x*x*x))
	}
	return min(int(t), gate), int(t) < gate
}

// noted takes note of an answer. What follows it, its body, is up to the client too.
func (s *Shed) noted(x *filter.Exchange) {
	f, _ := x.Value(key).(*flight)
	if f == nil || f.over {
		return
	}
	if category, _ := x.Category(); len(x.Attempts) == 0 && x.Err != nil || category == filter.FailureClientCancelled {
		f.drop() // the edge's own answer, or nobody's
		return
	}
	f.over = true
	now, status := x.Passport.NowAfter(filter.FiltersOutboundStart), x.Response.Status
	f.app.now.all.Add(1)
	if !balance.Failing(status) {
		f.app.now.good.Add(1)
	}
	if status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout {
		f.app.now.overloaded.Add(1)
	}
	if status >= 500 && status != http.StatusGatewayTimeout {
		f.app.limiter.Ignore(f.own) // whoever fails at once is not fast
		s.all.Ignore(f.all)
		return
	}
	f.app.limiter.Success(f.own, now)
	s.all.Success(f.all, now)
}

// drop forgets a request that never reached its origin, or whose end says nothing of it.
func (f *flight) drop() {
	if f != nil && !f.over {
		f.over = true
		f.app.limiter.Ignore(f.own)
		f.shed.all.Ignore(f.all)
	}
}

// ended is called when a request is over, however that came.
func ended(x *filter.Exchange) {
	f := x.Value(key).(*flight)
	f.drop()
	s := f.shed
	*f = flight{}
	s.flights.Put(f)
}

// measure draws conclusions from the answers of the last five seconds.
func (a *app) measure(now int64) {
	a.mild.Store(a.mild.Load() * 9 / 10)
	if now-a.next > windowParts*second {
		a.window, a.next = [windowParts]counted{}, now+second
	}
	for ; now >= a.next; a.next += second {
		a.window[a.at] = counted{a.now.all.Swap(0), a.now.good.Swap(0), a.now.overloaded.Swap(0)}
		a.at = (a.at + 1) % windowParts
	}
	sum := counted{a.now.all.Load(), a.now.good.Load(), a.now.overloaded.Load()}
	for _, w := range a.window {
		sum.all, sum.good, sum.overloaded = sum.all+w.all, sum.good+w.good, sum.overloaded+w.overloaded
	}
	a.share = 0
	shut := 0.0
	if sum.all >= fewest {
		a.share = float64(sum.overloaded) / float64(sum.all)
		shut = admission(sum.all, sum.good)
	}
	a.shut.Store(math.Float64bits(shut))
	// A breaker decides about an origin that answers nobody; what is CRITICAL gets that far.
	a.level.floor, a.level.since = vital, 0
	a.gate.Store(a.level.take(now, overload(a.share, softShare, hardShare), 0))
}

// admission returns the share of requests to keep from an app that answered good of all with success.
// Source: Envoy's admission control filter, after Google's client-side throttling (SRE book, Handling Overload).
func admission(all, good int64) float64 {
	return math.Sqrt(max(0, (float64(all)-float64(good)/wanted)/float64(all+1)))
}

// AppOverload is how one app does.
type AppOverload struct {
	App        string  `json:"app"`
	InFlight   int     `json:"inFlight" doc:"requests that wait for its answer"`
	Limit      int     `json:"limit" doc:"how many may, while it is slow; 0: it never was"`
	Slow       bool    `json:"slow" doc:"within the last second it was slow, or requests were refused by the limit, which holds"`
	Overloaded float64 `json:"overloaded" doc:"share of its answers in 5 s that are 503 or 504"`
	Threshold  int     `json:"threshold" doc:"the last score that it gets; 100: all"`
	Admission  float64 `json:"admission" doc:"share of requests that admission control would keep from it"`
	Refused    int64   `json:"refused" doc:"requests kept from it since the edge began"`
}

func (a *app) standing(name string, now int64) AppOverload {
	n := a.limiter.InFlight()
	last, _ := a.last(now, n)
	most := 0
	if h := held(a.limiter); !math.IsInf(h, 0) {
		most = int(h)
	}
	return AppOverload{App: name, InFlight: n, Limit: most, Slow: now < a.until.Load(), Overloaded: a.share,
		Threshold: last, Admission: math.Float64frombits(a.shut.Load()), Refused: a.refused.Load()}
}
