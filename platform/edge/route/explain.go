package route

import (
	"fmt"
	"slices"
	"strings"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Explanation says what becomes of a request, and why.
type Explanation struct {
	Route    string   `json:"route" doc:"id of the route that takes it; empty if none does"`
	Backends []string `json:"backends,omitempty" doc:"apps that may answer"`
	Path     string   `json:"path,omitempty" doc:"path that the backend is asked for"`
	Why      string   `json:"why"`

	Document string  `json:"document,omitempty" doc:"where the route is written"`
	Line     int     `json:"line,omitempty"`
	Surgical string  `json:"surgical,omitempty" doc:"id of the surgical rule that sends it elsewhere; its rate is taken not to be used up"`
	Host     string  `json:"host,omitempty" doc:"host that the backend is asked for, if it is not the client's"`
	Shares   []Share `json:"shares,omitempty" doc:"how the requests of the route are divided"`
	Endpoint string  `json:"endpoint,omitempty" doc:"what answers in place of a backend"`

	Inbound  []string `json:"inbound,omitempty" doc:"filters of the route on the way in, in order"`
	Outbound []string `json:"outbound,omitempty" doc:"filters of the route on the way out, in order"`
	Timeout  string   `json:"timeout,omitempty" doc:"of all attempts together, if the route has one of its own"`
	Mirror   string   `json:"mirror,omitempty" doc:"app that gets copies"`

	Others []Other `json:"others,omitempty" doc:"routes that were near, the nearest first; at most 20"`
}

// Share is one backend's part.
type Share struct {
	Backend string  `json:"backend"`
	Percent float64 `json:"percent"`
	Sticky  string  `json:"sticky,omitempty"`
	Chosen  bool    `json:"chosen,omitempty" doc:"it would answer this request: the only one, or by its key"`
}

// Other is a route that does not take the request.
type Other struct {
	Route   string `json:"route"`
	Matches bool   `json:"matches" doc:"it matches, but a more specific one does too"`
	Why     string `json:"why"`
}

// maxOthers is how many other routes are told of.
const maxOthers = 20

// Explain says what Match, and then s, do with x, which it changes as they do. s may be nil.
func (t *Table) Explain(x *filter.Exchange, s *Surgery) Explanation {
	r, a := t.find(x)
	decided := x.App != "" || x.Addr != ""
	e := Explanation{Others: t.others(x, r)}
	matched := t.Match(x)
	switch {
	case !matched:
		e.Why = t.NothingAt(x.Request.Path)
	case r != nil:
		e.Route = x.Plan.Route
		r.explain(&e, x)
	default:
		e.Route, e.Backends = x.Plan.Route, []string{a.name}
		e.Why = fmt.Sprintf("%s is in the registry and reachable under its name", a.name)
		switch x.Plan {
		case a.slash:
			e.Endpoint = "Redirect to " + x.Request.Path + "/"
		case a.small:
			e.Endpoint = "Redirect to " + smallName(x.Request.Path)
		}
	}
	if s != nil {
		s.explain(&e, x)
	}
	if decided || e.Surgical != "" {
		e.Backends, e.Shares = nil, nil
		for _, to := range []string{x.App, x.Group, x.Instance, x.Addr} {
			if to != "" && !slices.Contains(e.Backends, to) {
				e.Backends = append(e.Backends, to)
			}
		}
	}
	if x.Plan != nil {
		e.Route, e.Path = x.Plan.Route, x.Path
		if e.Path == "" {
			e.Path = x.Request.Path
		}
	}
	return e
}

// explain tells what r says.
func (r *route) explain(e *Explanation, x *filter.Exchange) {
	e.Document, e.Line, e.Host = r.spec.document, r.spec.line, x.Host
	e.Why = fmt.Sprintf("%q matches: %s", r.spec.ID, strings.Join(r.reasons(x), ", "))
	if slices.ContainsFunc(e.Others, func(o Other) bool { return o.Matches }) {
		e.Why += "; it is the most specific one that does"
	}
	for _, f := range r.plan.Inbound {
		e.Inbound = append(e.Inbound, f.Name)
	}
	for _, f := range r.plan.Outbound {
		e.Outbound = append(e.Outbound, f.Name)
	}
	if r.plan.Timeout > 0 {
		e.Timeout = r.plan.Timeout.String()
	}
	var copies []string
	for _, m := range r.plan.Mirrors {
		copies = append(copies, fmt.Sprintf("%s (%g %%)", m.App, m.Percent))
	}
	e.Mirror = strings.Join(copies, ", ")
	if f := x.Plan.Endpoint; f != nil {
		e.Endpoint = f.Name
	}
	sure := len(r.backends) == 1
	if r.sticky != nil {
		var buf [64]byte
		_, sure = r.sticky.of(x, &buf)
	}
	before, chosen := 0, -1
	if sure {
		chosen = r.pick(x)
	}
	for i, b := range r.backends {
		s := &r.spec.Backends[i]
		if b.status == 0 {
			e.Backends = append(e.Backends, s.name())
		}
		e.Shares = append(e.Shares, Share{
			Backend: s.name(), Percent: float64(b.upTo-before) * 100 / float64(r.total), Sticky: s.Sticky, Chosen: i == chosen,
		})
		before = b.upTo
	}
}

// reasons lists what of r holds for x.
func (r *route) reasons(x *filter.Exchange) []string {
	var why []string
	m := &r.spec.Match
	if h := r.hostFor(x); h != "" {
		why = append(why, "host "+h)
	}
	switch {
	case m.Path.Exact != "":
		why = append(why, "exact path "+m.Path.Exact)
	case m.Path.Regex != "":
		why = append(why, "path matches "+m.Path.Regex)
	case m.Path.Prefix != "":
		why = append(why, "path below "+m.Path.Prefix)
	}
	if len(r.methods) > 0 {
		why = append(why, "method "+x.Request.Method)
	}
	for _, l := range []struct {
		what string
		list []test
	}{{"header ", r.headers}, {"query ", r.query}, {"cookie ", r.cookies}} {
		for i := range l.list {
			why = append(why, l.what+l.list[i].String())
		}
	}
	if m.Scheme != "" {
		why = append(why, m.Scheme)
	}
	if r.when != nil {
		why = append(why, "when "+m.When)
	}
	if len(why) == 0 {
		return []string{"it takes every request"}
	}
	return why
}

// hostFor returns the most specific of r's hosts that x's is; empty if it wants none or has none.
func (r *route) hostFor(x *filter.Exchange) (best string) {
	host := hostname(x.Request.Host)
	for _, h := range r.spec.Match.Hosts {
		p := strings.TrimSuffix(h, ".")
		switch {
		case strings.EqualFold(p, host):
			return h
		case p[0] == '*' && len(host) > len(p)-1 && strings.EqualFold(host[len(host)-len(p)+1:], p[1:]) && len(h) > len(best):
			best = h
		}
	}
	return best
}

// near reports whether host and path of x are those of r.
func (r *route) near(x *filter.Exchange) bool {
	p, path := &r.spec.Match.Path, x.Request.Path
	if len(r.spec.Match.Hosts) > 0 && r.hostFor(x) == "" || !strings.HasPrefix(path, "/") {
		return false
	}
	switch {
	case p.Exact != "":
		return path == p.Exact
	case p.Regex != "":
		return r.regex.MatchString(path)
	}
	prefix := strings.TrimSuffix(p.Prefix, "/")
	return strings.HasPrefix(path, prefix) && (len(path) == len(prefix) || path[len(prefix)] == '/')
}

// others lists the routes whose host and path fit x, but for the one that takes it.
func (t *Table) others(x *filter.Exchange, taken *route) []Other {
	var near []*route
	for _, r := range t.routes {
		if r != taken && r.near(x) {
			near = append(near, r)
		}
	}
	slices.SortFunc(near, func(a, b *route) int { n, _ := compare(a, b, x); return n })
	var list []Other
	for _, r := range near {
		if len(list) == maxOthers {
			break
		}
		o := Other{Route: r.spec.ID, Why: r.unlike(x)}
		if o.Why == "" {
			o.Matches = true
			o.Why = "an app's own name comes before it"
			if taken != nil {
				_, o.Why = compare(taken, r, x)
			}
		}
		list = append(list, o)
	}
	return list
}

// compare is negative if a is asked before b for x, both of which it is near, and says what decides.
func compare(a, b *route, x *filter.Exchange) (int, string) {
	ha, hb := a.hostFor(x), b.hostFor(x)
	if n := hostRank(Route{Match: Match{Hosts: one(hb)}}) - hostRank(Route{Match: Match{Hosts: one(ha)}}); n != 0 {
		return n, "its host is less specific"
	}
	pa, pb := &a.spec.Match.Path, &b.spec.Match.Path
	if n := pathRank(pb) - pathRank(pa); n != 0 {
		return n, "an exact path comes before a regular expression, and that before a prefix"
	}
	if n := byPath(pa, pb); n != 0 {
		return n, "its path is shorter"
	}
	n := moreSpecific(a, b)
	switch {
	case len(b.methods) == 0 && len(a.methods) > 0:
		return n, "it names no method"
	case len(a.headers) != len(b.headers):
		return n, "it wants fewer headers"
	case len(a.query) != len(b.query):
		return n, "it wants less of the query"
	case len(a.cookies) != len(b.cookies):
		return n, "it wants fewer cookies"
	case (a.spec.Match.Scheme == "") != (b.spec.Match.Scheme == ""):
		return n, "it takes both http and https"
	case (a.when == nil) != (b.when == nil):
		return n, "it has no when"
	case older(a, b) != 0:
		return n, "it was created later"
	}
	return n, "its id comes later in the alphabet"
}

func one(host string) []string {
	if host == "" {
		return nil
	}
	return []string{host}
}

// NothingAt explains why no route leads to path. It costs no more than the sentence: anybody can ask for what is not there.
func (t *Table) NothingAt(path string) string { return "no route leads to " + path + "; " + t.there() }

// list tells the first apps and routes that there are.
func (t *Table) list() string {
	names := t.Apps()
	if len(names) == 0 && len(t.routes) == 0 {
		return "nothing is registered yet"
	}
	if len(names) > 20 {
		names = append(names[:20], "...")
	}
	var b strings.Builder
	b.WriteString("there are")
	for _, n := range names {
		fmt.Fprintf(&b, " /%s/", n)
	}
	seen := make(map[string]bool)
	for _, r := range t.Routes() {
		p := r.Match.Path
		where := p.Exact + p.Prefix + p.Regex
		if where == "" {
			where = "/"
		}
		if r.Disabled || seen[where] {
			continue
		}
		if len(seen) == 20 {
			b.WriteString(" ...")
			break
		}
		seen[where] = true
		b.WriteString(" " + where)
	}
	return b.String()
}
