package edge

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// faults are the scenarios in force and the key that signs them. It never changes; a new one takes its place.
type faults struct {
	key        fault.Key
	scenarios  []scenario // the oldest first
	userHead   string     // the header that names a user
	deviceHead string     // the header that names a device
	off        bool
	log        *slog.Logger
	tooMany    sync.Once
}

// scenario is a fault as the property fault.scenario.<id> holds it.
type scenario struct {
	ID    string `json:"id"`
	Rules string `json:"rules"`
	Who   struct {
		Percent float64           `json:"percent"` // 100 when absent
		Users   []string          `json:"users"`
		Devices []string          `json:"devices"`
		Header  map[string]string `json:"header"`
	} `json:"who"`
	Where struct {
		Zones    []string `json:"zones"`
		Clusters []string `json:"clusters"`
		Routes   []string `json:"routes"`
	} `json:"where"`
	Expires time.Time `json:"expires"`
	Created time.Time `json:"created"`

	counts *counts
}

// counts are the requests that one scenario concerned at this edge.
type counts struct{ injected, control arm }

// arm is one group of requests: those that a scenario hits, or as many that it spares, to compare with.
type arm struct {
	requests, failed atomic.Int64
	all              *meter.Counter
}

func (a *arm) count(status int) {
	a.requests.Add(1)
	if status >= 500 {
		a.failed.Add(1)
	}
	a.all.Inc()
}

// newFaults reads the properties under "fault.". A scenario that cannot be read is left out and logged. Those that were
// in old go on counting.
func newFaults(props map[string]string, old *faults, m *meter.Registry, log *slog.Logger) *faults {
	f := &faults{key: fault.Key(props["fault.key"]), userHead: "X-Member", deviceHead: "X-Device", log: log}
	if h := props["fault.userHeader"]; h != "" {
		f.userHead = http.CanonicalHeaderKey(h)
	}
	if h := props["fault.deviceHeader"]; h != "" {
		f.deviceHead = http.CanonicalHeaderKey(h)
	}
	if on, err := config.ParseBool(cmp.Or(props["fault.enabled"], "true")); err != nil || !on || len(f.key) == 0 {
		f.off = true
		return f // a kill switch that cannot be read is thrown
	}
	for name, text := range props {
		id, ok := strings.CutPrefix(name, "fault.scenario.")
		if !ok {
			continue
		}
		var s scenario
		s.Who.Percent = 100
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			log.Warn("fault ignored", "id", id, "err", err)
			continue
		}
		s.Rules = fault.Within(fault.Within(s.Rules, s.Where.Zones), s.Where.Clusters)
		if _, err := fault.ParseRules(s.Rules); err != nil {
			log.Warn("fault ignored", "id", id, "err", err)
			continue
		}
		s.ID = id
		if i := slices.IndexFunc(old.scenarios, func(o scenario) bool { return o.ID == id && o.Created.Equal(s.Created) }); i >= 0 {
			s.counts = old.scenarios[i].counts
		} else {
			s.counts = &counts{}
			s.counts.injected.all = m.Counter("edge.fit.requests", "fit.scenario", id, "fit.arm", "injected")
			s.counts.control.all = m.Counter("edge.fit.requests", "fit.scenario", id, "fit.arm", "control")
		}
		f.scenarios = append(f.scenarios, s)
	}
	slices.SortFunc(f.scenarios, func(a, b scenario) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return f
}

// attach returns the rules of every scenario that x on its route is in scope of, nil if it is in none, and the groups in
// which it counts. Without scenarios it costs one length check.
//
// Of several scenarios the oldest one's rules come first, and one whose rules no longer fit into the header is left out.
func (f *faults) attach(x *filter.Exchange) (*fault.Context, []*arm) {
	if len(f.scenarios) == 0 {
		return nil, nil
	}
	now := time.Now()
	id := strings.Clone(x.ID) // rules may be kept by what outlives the request
	var groups []*arm
	var ids, rules []string
	var until time.Time
	var c *fault.Context
	for i := range f.scenarios {
		s := &f.scenarios[i]
		if !now.Before(s.Expires) {
			continue
		}
		hit, control := s.includes(x, f.userHead, f.deviceHead)
		if control {
			groups = append(groups, &s.counts.control)
		}
		if !hit {
			continue
		}
		end := until
		if end.IsZero() || s.Expires.Before(end) {
			end = s.Expires
		}
		// Headers count in whole seconds. Rounded down, the last part of a second would be refused, and with it every fault
		// that is in force beside this one.
		header := fault.Sign(f.key, strings.Join(append(ids, s.ID), "."), end.Add(time.Second-1), strings.Join(append(rules, s.Rules), ";"))
		both, err := fault.Parse(f.key, header, id, now)
		if err != nil {
			// Less harm than asked for is better than none by surprise.
			f.tooMany.Do(func() {
				f.log.Warn("faults in force do not fit into one request's header; the newest is left out", "fault", s.ID, "beside", ids, "err", err)
			})
			continue
		}
		c, until, ids, rules = both, end, append(ids, s.ID), append(rules, s.Rules)
		groups = append(groups, &s.counts.injected)
	}
	return c, groups
}

// envoyRules returns what the headers of Envoy's fault filter ask for, as rules at the edge; "" if they ask for nothing.
// Values that make no sense are ignored, as Envoy does. Source: Envoy's HTTP fault injection filter, "Controlling fault
// injection via HTTP headers".
func envoyRules(h *filter.Header) string {
	var rules []string
	add := func(action, percent string) {
		if p := h.Get(percent); p != "" {
			n, err := strconv.ParseUint(p, 10, 8)
			if err != nil || n > 100 {
				return
			}
			action += "@" + strconv.FormatUint(n, 10)
		}
		if _, err := fault.ParseRules("edge:*=" + action); err == nil {
			rules = append(rules, "edge:*="+action)
		}
	}
	if ms, err := strconv.ParseUint(h.Get("X-Envoy-Fault-Delay-Request"), 10, 32); err == nil && ms > 0 {
		add("delay("+strconv.FormatUint(ms, 10)+"ms)", "X-Envoy-Fault-Delay-Request-Percentage")
	}
	for _, of := range []struct {
		header string
		least  uint64
	}{{"X-Envoy-Fault-Abort-Request", 400}, {"X-Envoy-Fault-Abort-Grpc-Request", 1}} {
		if n, err := strconv.ParseUint(h.Get(of.header), 10, 16); err == nil && n >= of.least {
			add("error("+strconv.FormatUint(n, 10)+")", "X-Envoy-Fault-Abort-Request-Percentage")
			break
		}
	}
	return strings.Join(rules, ";")
}

// asked returns the faults that a request asks for itself by Envoy's headers, nil if it asks for none. They reach no
// further than the edge.
func (f *faults) asked(x *filter.Exchange) *fault.Context {
	rules := envoyRules(&x.Request.Header)
	if rules == "" || f.off {
		return nil
	}
	now := time.Now()
	c, err := fault.Parse(f.key, fault.Sign(f.key, "envoy", now.Add(time.Hour), rules), strings.Clone(x.ID), now)
	if err != nil {
		return nil // there is no key yet
	}
	return c
}

// includes reports whether x is hit: it takes one of the routes, is of a listed user and device, carries the headers, and
// falls among a share that is stable by user, or by request when it names none. As large a share beside that one, of
// requests that are spared, is the control group.
func (s *scenario) includes(x *filter.Exchange, userHead, deviceHead string) (hit, control bool) {
	h := &x.Request.Header
	user, route := h.Get(userHead), "-"
	if x.Plan != nil {
		route = x.Plan.Route
	}
	switch {
	case len(s.Where.Routes) > 0 && !slices.Contains(s.Where.Routes, route),
		len(s.Who.Users) > 0 && !slices.Contains(s.Who.Users, user),
		len(s.Who.Devices) > 0 && !slices.Contains(s.Who.Devices, h.Get(deviceHead)):
		return false, false
	}
	for k, v := range s.Who.Header {
		if h.Get(k) != v {
			return false, false
		}
	}
	if s.Who.Percent >= 100 {
		return true, false
	}
	if user == "" {
		user = x.ID
	}
	at, share := float64(xxhash.Sum64String(s.ID+":"+user)%1_000_000), s.Who.Percent*10_000
	return at < share, at >= share && at < 2*share
}

// FaultCounts are the requests that one scenario concerned at this edge since it was added.
type FaultCounts struct {
	ID       string `json:"id"`
	Injected Arm    `json:"injected" doc:"Requests that got the scenario's rules."`
	Control  Arm    `json:"control" doc:"As many that were spared, of users beside those it hits. None if it hits more than half of all."`
}

// Arm counts requests of one group.
type Arm struct {
	Requests int64 `json:"requests"`
	Failed   int64 `json:"failed" doc:"Answered with a status of 500 or more, or cut off."`
}

func (f *faults) counted() []FaultCounts {
	out := []FaultCounts{}
	for _, s := range f.scenarios {
		of := func(a *arm) Arm { return Arm{a.requests.Load(), a.failed.Load()} }
		out = append(out, FaultCounts{s.ID, of(&s.counts.injected), of(&s.counts.control)})
	}
	return out
}

// scope is the filter that finds out which faults concern a request, once its route is known, and does what they ask of
// the edge itself.
func (g *Gateway) scope() *filter.Filter {
	return &filter.Filter{
		Name: "FaultScope", Kind: filter.Inbound, Order: -90,
		If: func(x *filter.Exchange) bool {
			return (len(g.faults.Load().scenarios) > 0 || g.envoy.Get()) && g.fit.Get() && x.Plan != nil && x.Away == ""
		},
		Apply: func(x *filter.Exchange) error {
			now := g.faults.Load()
			if g.envoy.Get() {
				x.Fault = now.asked(x)
			}
			if x.Fault == nil {
				var arms []*arm
				if x.Fault, arms = now.attach(x); len(arms) > 0 {
					x.Set(armsKey, arms)
				}
			}
			if x.Fault != nil {
				x.Fault.Arrived(g.calls.Here(1))
				g.inject(x)
			}
			return nil
		},
	}
}

const (
	armsKey = "edge.fault.arms"
	bentKey = "edge.fault.body"
)

// inject does what the faults of the request ask of the edge.
func (g *Gateway) inject(x *filter.Exchange) {
	a := x.Fault.At("edge", x.Plan.Route)
	if !a.Acts() {
		return
	}
	leave, ok := g.calls.Injecting("edge", &a, strings.Clone(x.ID), strings.Clone(x.Request.Method), strings.Clone(x.Request.Path))
	if !ok {
		return
	}
	ctx := x.Context()
	if left, ok := x.Left(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, left)
		defer cancel()
	}
	err := a.Wait(ctx)
	leave()
	fail := func(status int, why error) {
		x.Answer(status, why.Error()+"\n")
		x.SetCategory(filter.FailureLocal, why.Error())
	}
	switch {
	case err != nil && a.Drop, a.Reset:
		x.Response.Cut = true
		x.Respond()
		x.SetCategory(filter.FailureLocal, "the connection was cut on purpose")
	case err != nil:
		fail(http.StatusGatewayTimeout, err)
	case a.Reject:
		fail(http.StatusServiceUnavailable, a.Err)
		x.Response.Header.Add("Retry-After", "1")
	case a.Status != 0:
		fail(a.Status, a.Err)
	case !a.Body.IsZero():
		x.Set(bentKey, a.Body)
	}
}

// bend is the filter that shapes an answer's body as the faults of its request ask.
func (g *Gateway) bend() *filter.Filter {
	return &filter.Filter{
		Name: "FaultBody", Kind: filter.Outbound, Order: -1000, Always: true,
		If: func(x *filter.Exchange) bool { return x.Fault != nil && x.Response.Body != nil },
		Apply: func(x *filter.Exchange) error {
			if shape, ok := x.Value(bentKey).(fault.Shape); ok {
				x.Response.Body = shape.Reader(x.Context(), x.Response.Body, x.Response.ContentLength)
				x.Response.Flush = true
			}
			return nil
		},
	}
}

// countArms counts a finished request in the groups of the scenarios that concern it.
func countArms(x *filter.Exchange) {
	arms, ok := x.Value(armsKey).([]*arm)
	if !ok {
		return
	}
	status := x.Response.Status
	if x.Err != nil || x.Response.Cut {
		status = http.StatusBadGateway // broken off half-way
	}
	for _, a := range arms {
		a.count(status)
	}
}
