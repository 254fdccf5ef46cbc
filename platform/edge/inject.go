package edge

import (
	"cmp"
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

// attach returns the rules of every scenario that r on its route is in scope of, nil if it is in none, and the groups in
// which it counts. Without scenarios it costs one length check.
//
// Of several scenarios the oldest one's rules come first, and one whose rules no longer fit into the header is left out.
func (f *faults) attach(r *http.Request, id, route string) (*fault.Context, []*arm) {
	if len(f.scenarios) == 0 {
		return nil, nil
	}
	now := time.Now()
	var groups []*arm
	var ids, rules []string
	var until time.Time
	var c *fault.Context
	for i := range f.scenarios {
		s := &f.scenarios[i]
		if !now.Before(s.Expires) {
			continue
		}
		hit, control := s.includes(r, f.userHead, f.deviceHead, id, route)
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
func envoyRules(h http.Header) string {
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
func (f *faults) asked(r *http.Request, id string) *fault.Context {
	rules := envoyRules(r.Header)
	if rules == "" || f.off {
		return nil
	}
	now := time.Now()
	c, err := fault.Parse(f.key, fault.Sign(f.key, "envoy", now.Add(time.Hour), rules), id, now)
	if err != nil {
		return nil // there is no key yet
	}
	return c
}

// includes reports whether r is hit: it takes one of the routes, is of a listed user and device, carries the headers, and
// falls among a share that is stable by user, or by request when it names none. As large a share beside that one, of
// requests that are spared, is the control group.
func (s *scenario) includes(r *http.Request, userHead, deviceHead, id, route string) (hit, control bool) {
	user := r.Header.Get(userHead)
	switch {
	case len(s.Where.Routes) > 0 && !slices.Contains(s.Where.Routes, route),
		len(s.Who.Users) > 0 && !slices.Contains(s.Who.Users, user),
		len(s.Who.Devices) > 0 && !slices.Contains(s.Who.Devices, r.Header.Get(deviceHead)):
		return false, false
	}
	for k, v := range s.Who.Header {
		if r.Header.Get(k) != v {
			return false, false
		}
	}
	if s.Who.Percent >= 100 {
		return true, false
	}
	if user == "" {
		user = id
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

// inject passes the request on with its faults, and first does what they ask of the edge itself.
func (g *Gateway) inject(w *response, r *http.Request, route string, f *fault.Context) {
	f.Arrived(g.calls.Here(1))
	r = r.WithContext(fault.With(r.Context(), f))
	g.calls.Faulty(w, r, "edge", route, g.proxy)
	if w.status == 0 {
		w.status = http.StatusBadGateway // the connection was cut before anything was answered
	}
}
