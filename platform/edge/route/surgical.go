package route

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Rule sends some of the requests that a route takes elsewhere: to a canary, to one instance that is squeezed or
// debugged, to an address. It is the text of a property edge.surgical.<id>:
//
//	{match: {path: {prefix: /playback}}, select: {percent: 0.1, hash: user}, to: {vip: playback-canary}, until: 2026-01-31T10:00:00Z}
//	{routes: [playback], select: {ids: [u-17]}, to: {instance: playback-v012-3}, force: true}
//	{apps: [playback], to: {instance: playback-v012-3}, rate: 50rps}
type Rule struct {
	ID     string    `json:"id,omitempty" doc:"the last part of the property's name"`
	Match  Match     `json:"match,omitzero" doc:"as that of a route"`
	Routes []string  `json:"routes,omitempty" doc:"only requests that take one of these"`
	Apps   []string  `json:"apps,omitempty" doc:"only requests that would go to one of these"`
	Select Select    `json:"select,omitzero" doc:"which of those that match; all if left out"`
	To     Target    `json:"to"`
	Rate   string    `json:"rate,omitempty" doc:"at most so many, such as 50rps; those beyond go their usual way"`
	Force  bool      `json:"force,omitempty" doc:"ask the instance even if it is not UP"`
	Until  time.Time `json:"until,omitzero" doc:"when it ends by itself; never if left out"`
}

// Select chooses among requests. With hash or ids the choice is the same for the same key, and requests without one are
// not chosen. With percent alone each request is chosen by chance.
type Select struct {
	Percent *float64 `json:"percent,omitempty" doc:"0 to 100, in steps of 0.01"`
	Hash    string   `json:"hash,omitempty" doc:"user, client, header:NAME, cookie:NAME or query:NAME"`
	IDs     []string `json:"ids,omitempty" doc:"values of hash, of user if that is left out"`
}

// Target is who is asked: an app, one of its server groups or instances, or an address. An instance without an app is one
// of the app that would be asked anyway.
type Target struct {
	VIP      string `json:"vip,omitempty"`
	ASG      string `json:"asg,omitempty" doc:"a server group, such as playback-v012"`
	Instance string `json:"instance,omitempty"`
	Addr     string `json:"addr,omitempty" doc:"host:port"`
}

// maxRules is how many surgical rules there may be: each may be asked about each request.
const maxRules = 1000

// ParseRule reads the text of a property edge.surgical.<id>, JSON or YAML. An error is one [Mistake] or several joined.
func ParseRule(id, text string) (Rule, error) {
	name := "edge.surgical." + id
	trees, err := readTrees(text)
	if err != nil {
		return Rule{}, unreadable(name, err)
	}
	d := &decoder{name: name}
	r := Rule{ID: id}
	if len(trees) != 1 {
		d.mistake(1, "it is no rule; write {match: ..., select: ..., to: {vip: ...}}")
	} else {
		d.readRule(trees[0], &r)
	}
	if len(d.mistakes) == 0 {
		if r.ID != id {
			d.mistake(trees[0].line, "the rule says that its id is %q; leave it out", r.ID)
		} else if err := r.check(); err != nil {
			d.mistake(trees[0].line, "%v", err)
		}
	}
	return r, errors.Join(d.mistakes...)
}

func (d *decoder) readRule(n *node, r *Rule) {
	d.fields(n, "a surgical rule",
		d.text("id", &r.ID),
		field{"match", func(v *node) { d.readMatch(v, &r.Match) }},
		d.texts("routes", &r.Routes),
		d.texts("apps", &r.Apps),
		field{"select", func(v *node) {
			d.fields(v, "select", field{"percent", func(v *node) { p := d.float(v, "percent"); r.Select.Percent = &p }},
				d.text("hash", &r.Select.Hash), d.texts("ids", &r.Select.IDs))
		}},
		field{"to", func(v *node) {
			d.fields(v, "to", d.text("vip", &r.To.VIP), d.text("asg", &r.To.ASG), d.text("instance", &r.To.Instance), d.text("addr", &r.To.Addr))
		}},
		d.text("rate", &r.Rate),
		d.flag("force", &r.Force),
		field{"until", func(v *node) { r.Until = d.time(v, "until") }},
	)
}

// check returns what is wrong with r; nil if nothing.
func (r *Rule) check() error {
	t, s := &r.To, &r.Select
	as := Route{ID: r.ID, Match: r.Match, Backends: []Backend{{Status: 500}}}
	if err := as.check(); err != nil {
		return err
	}
	if _, err := parseRate(r.Rate); err != nil {
		return err
	}
	if _, err := parseKey(cmp.Or(s.Hash, "user")); err != nil {
		return fmt.Errorf("select.hash %w", err)
	}
	switch {
	case *t == Target{}:
		return errors.New("it says nowhere to send requests; write to: {vip: ...}, or asg, instance or addr")
	case t.VIP != "" && !vip(t.VIP):
		return fmt.Errorf("to.vip %q is no app's name", t.VIP)
	case t.Addr != "" && !address(t.Addr):
		return fmt.Errorf("to.addr %q: write an address as host:port", t.Addr)
	case t.Addr != "" && (t.Instance != "" || t.ASG != ""):
		return errors.New("to: an address stands for itself; leave out instance and asg")
	case t.Instance != "" && (len(t.Instance) > 255 || !printable(t.Instance)):
		return errors.New("to.instance is no instance's id")
	case t.ASG != "" && !filter.Plain(t.ASG):
		return fmt.Errorf("to.asg %q is no server group's name", t.ASG)
	case r.Force && t.Instance == "":
		return errors.New("force: say which instance with to.instance")
	case s.Percent != nil && !(*s.Percent >= 0 && *s.Percent <= 100):
		return fmt.Errorf("select.percent %v: use 0 to 100", *s.Percent)
	case len(s.IDs) > 0 && s.Percent != nil:
		return errors.New("select: give percent or ids, not both")
	case len(s.IDs) == 0 && s.Percent == nil && s.Hash != "":
		return errors.New("select: hash alone chooses nobody; give percent or ids")
	}
	return nil
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f })
}

// parseRate reads requests a second, as 50rps or 50; 0 for none.
func parseRate(s string) (float64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseFloat(strings.TrimSuffix(s, "rps"), 64)
	if err != nil || !(n > 0 && n <= 1e6) {
		return 0, fmt.Errorf("rate %q: write requests a second, such as 50rps, up to 1000000rps", s)
	}
	return n, nil
}

// Surgery is the surgical rules in force. It never changes but for what rates have used up; a new one takes its place.
// It may be used by many goroutines.
type Surgery struct {
	rules []*rule
}

// rule is a Rule made ready.
type rule struct {
	spec  Rule
	match *route
	key   *key // nil: by chance
	share int  // of buckets; -1: ids say, or all are chosen
	ends  int64
	plan  *filter.Plan // for requests that no route takes
	app   string       // that is asked; empty: the route's
	gap   int64        // ns between two requests of the rate; 0: no limit
	next  *atomic.Int64
}

// NewSurgery makes rules of the texts of the properties edge.surgical.<id>, by id. One that cannot be used is left out, and
// in the errors returned; one that is over is left out. Rules that say the same as in former, which may be nil, go on
// counting their rate. They are tried in the order of their ids, and the first one decides.
func NewSurgery(c Config, texts map[string]string, former *Surgery) (*Surgery, map[string]error) {
	s := &Surgery{}
	wrong := make(map[string]error)
	for _, id := range slices.Sorted(maps.Keys(texts)) {
		spec, err := ParseRule(id, texts[id])
		if err == nil && !spec.Until.IsZero() && !spec.Until.After(time.Now()) {
			continue
		}
		if err == nil && len(s.rules) == maxRules {
			err = fmt.Errorf("there are more than %d surgical rules; remove some", maxRules)
		}
		var r *rule
		if err == nil {
			r, err = newRule(&c, spec)
		}
		if err != nil {
			wrong[id] = err
			continue
		}
		if former != nil {
			for _, o := range former.rules {
				if o.spec.ID == id && reflect.DeepEqual(o.spec, spec) {
					r.next = o.next
				}
			}
		}
		s.rules = append(s.rules, r)
	}
	return s, wrong
}

func newRule(c *Config, spec Rule) (*rule, error) {
	m, err := compile(c, Route{ID: spec.ID, Match: spec.Match, Backends: []Backend{{Status: 500}}})
	if err != nil {
		return nil, &Mistake{Document: "edge.surgical." + spec.ID, Reason: err.Error()}
	}
	r := &rule{spec: spec, match: m, share: -1, app: spec.To.VIP, next: new(atomic.Int64), plan: &filter.Plan{Route: "surgical." + spec.ID, Upgrades: true}}
	r.next.Store(filter.Now())
	if rate, err := parseRate(spec.Rate); err == nil && rate > 0 { // checked before
		r.gap = int64(float64(time.Second) / rate)
	}
	if !spec.Until.IsZero() {
		r.ends = filter.Now() + int64(time.Until(spec.Until))
	}
	if sel := spec.Select; sel.Hash != "" || len(sel.IDs) > 0 {
		k, err := parseKey(cmp.Or(sel.Hash, "user"))
		if err != nil {
			return nil, err
		}
		r.key = &k
	}
	if p := spec.Select.Percent; p != nil {
		r.share = int(*p*buckets/100 + 0.5)
	}
	if r.app == "" && spec.To.ASG != "" {
		if m, err := roadbed.ParseMoniker(spec.To.ASG); err == nil {
			r.app = m.App
		}
	}
	if r.app == "" {
		r.app = spec.To.Addr
	}
	return r, nil
}

// Rules returns the rules in force in the order they are tried in.
func (s *Surgery) Rules() []Rule {
	rules := make([]Rule, 0, len(s.rules))
	for _, r := range s.rules {
		if !r.over() {
			rules = append(rules, r.spec)
		}
	}
	return rules
}

// Apply sends x elsewhere if a rule says so: it sets App, Group, Instance, Addr, Force and Surgical, and a Plan if no
// route had taken x. It goes after [Table.Match]. A request that its route answers itself stays.
//
// hot path: 0 allocs, BenchmarkSurgery
func (s *Surgery) Apply(x *filter.Exchange) {
	for _, r := range s.rules {
		if r.why(x) == "" && r.within() {
			r.send(x)
			return
		}
	}
}

// over reports whether the time of r is.
func (r *rule) over() bool { return r.ends != 0 && filter.Now() >= r.ends }

// send makes r decide who is asked.
func (r *rule) send(x *filter.Exchange) {
	to := &r.spec.To
	if x.Plan == nil {
		x.Plan = r.plan
	}
	if r.app != "" {
		x.App, x.Addr = r.app, to.Addr
	}
	x.Group, x.Instance, x.Force, x.Surgical = to.ASG, to.Instance, r.spec.Force, r.spec.ID
}

// why says why r leaves x alone; empty if it does not.
func (r *rule) why(x *filter.Exchange) string {
	switch {
	case r.over():
		return "its time is over"
	case x.Plan != nil && x.Plan.Endpoint != nil:
		return "the route answers the request itself"
	case x.Plan == nil && r.app == "":
		return "no route takes the request, and the rule names no app"
	case len(r.spec.Routes) > 0 && (x.Plan == nil || !slices.Contains(r.spec.Routes, x.Plan.Route)):
		return "the request takes another route"
	case len(r.spec.Apps) > 0 && !slices.Contains(r.spec.Apps, x.App):
		return "the request goes to another app"
	case !r.match.near(x):
		return "host or path are others"
	case !r.match.takes(x):
		return "the request lacks what it wants"
	case !r.chooses(x):
		return "the request is not chosen"
	}
	return ""
}

// chooses reports whether x is one of those that are selected.
func (r *rule) chooses(x *filter.Exchange) bool {
	sel := &r.spec.Select
	if r.key == nil {
		if r.share < 0 {
			return true
		}
		return rand.IntN(buckets) < r.share
	}
	if r.share >= 0 {
		n, has := r.key.bucket(x, r.spec.ID)
		return has && n < r.share
	}
	var buf [64]byte
	v, has := r.key.of(x, &buf)
	return has && slices.ContainsFunc(sel.IDs, func(id string) bool { return id == string(v) })
}

// within reports whether the rate allows one more, and counts it. Tenths of a second are evened out.
// Source: the generic cell rate algorithm, ITU-T I.371.
func (r *rule) within() bool {
	if r.gap == 0 {
		return true
	}
	burst := max(r.gap, int64(time.Second)/10)
	now := filter.Now()
	for {
		next := r.next.Load()
		if next-now > burst-r.gap {
			return false
		}
		if r.next.CompareAndSwap(next, max(next, now)+r.gap) {
			return true
		}
	}
}

// explain says which rule sends x elsewhere, without counting it.
func (s *Surgery) explain(e *Explanation, x *filter.Exchange) {
	for _, r := range s.rules {
		if r.why(x) != "" {
			continue
		}
		r.send(x)
		e.Surgical = r.spec.ID
		e.Why += fmt.Sprintf("; the surgical rule %q says who is asked", r.spec.ID)
		if r.spec.Rate != "" {
			e.Why += ", up to " + r.spec.Rate
		}
		return
	}
}
