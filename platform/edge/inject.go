package edge

import (
	"cmp"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/fault"
)

// faults are the scenarios in force and the key that signs them. It never changes; a new one takes its place.
type faults struct {
	key       fault.Key
	scenarios []scenario
	userHead  string // the header that names a user
	log       *slog.Logger
	tooMany   sync.Once
}

// scenario is a fault as the property fault.scenario.<id> holds it, with its header signed.
type scenario struct {
	ID    string `json:"id"`
	Rules string `json:"rules"`
	Who   struct {
		Percent float64           `json:"percent"`
		Users   []string          `json:"users"`
		Header  map[string]string `json:"header"`
	} `json:"who"`
	Expires time.Time `json:"expires"`
}

// newFaults reads the properties under "fault.". A scenario that cannot be read is left out and logged.
func newFaults(props map[string]string, log *slog.Logger) *faults {
	f := &faults{key: fault.Key(props["fault.key"]), userHead: "X-Member", log: log}
	if h := props["fault.userHeader"]; h != "" {
		f.userHead = http.CanonicalHeaderKey(h)
	}
	if on, err := config.ParseBool(cmp.Or(props["fault.enabled"], "true")); err != nil || !on || len(f.key) == 0 {
		return f // a kill switch that cannot be read is thrown
	}
	for name, text := range props {
		id, ok := strings.CutPrefix(name, "fault.scenario.")
		if !ok {
			continue
		}
		var s scenario
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			log.Warn("fault ignored", "id", id, "err", err)
			continue
		}
		if _, err := fault.ParseRules(s.Rules); err != nil {
			log.Warn("fault ignored", "id", id, "err", err)
			continue
		}
		s.ID = id
		f.scenarios = append(f.scenarios, s)
	}
	slices.SortFunc(f.scenarios, func(a, b scenario) int { return strings.Compare(a.ID, b.ID) })
	return f
}

// attach gives r the rules of every scenario it is in scope of; ipc takes them along. Without scenarios it costs one
// length check.
func (f *faults) attach(r *http.Request, id string) *http.Request {
	if len(f.scenarios) == 0 {
		return r
	}
	now := time.Now()
	var ids, rules []string
	var until time.Time
	for i := range f.scenarios {
		s := &f.scenarios[i]
		if !now.Before(s.Expires) || !s.includes(r, f.userHead, id) {
			continue
		}
		ids = append(ids, s.ID)
		rules = append(rules, s.Rules)
		if until.IsZero() || s.Expires.Before(until) {
			until = s.Expires
		}
	}
	if len(ids) == 0 {
		return r
	}
	// Headers count in whole seconds. Rounded down, the last part of a second would be refused, and with it every fault
	// that is in force beside this one.
	until = until.Add(time.Second - 1)
	header := fault.Sign(f.key, strings.Join(ids, "."), until, strings.Join(rules, ";"))
	c, err := fault.Parse(f.key, header, id, now)
	if err != nil {
		// Together they are too long for a header. Less harm than asked for is better than none by surprise.
		f.tooMany.Do(func() {
			f.log.Warn("faults in force do not fit into one request's header; only the first is injected", "faults", ids, "err", err)
		})
		if c, err = fault.Parse(f.key, fault.Sign(f.key, ids[0], until, rules[0]), id, now); err != nil {
			return r
		}
	}
	return r.WithContext(fault.With(r.Context(), c))
}

// includes reports whether r is in scope: listed users first, then headers, then a share that is stable by user, or
// by request when it names none.
func (s *scenario) includes(r *http.Request, userHead, id string) bool {
	user := r.Header.Get(userHead)
	if len(s.Who.Users) > 0 && !slices.Contains(s.Who.Users, user) {
		return false
	}
	for k, v := range s.Who.Header {
		if r.Header.Get(k) != v {
			return false
		}
	}
	if s.Who.Percent >= 100 {
		return true
	}
	if user == "" {
		user = id
	}
	return float64(xxhash.Sum64String(s.ID+":"+user)%1_000_000) < s.Who.Percent*10_000
}
