package route

import (
	"encoding/json"
	"errors"
	"maps"
	"math/bits"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/cespare/xxhash/v2"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Config is what other packages contribute to routes.
type Config struct {
	// Predicate compiles the when of a route; nil: none may have one.
	Predicate func(text string) (func(*filter.Exchange) bool, error)
	// Program returns the filters of a program by its name; nil: there are none.
	Program func(name string) ([]*filter.Filter, error)
	// Filters makes those filters of a route that are named by a key here, such as rateLimit, from what stands under it.
	Filters map[string]func(json.RawMessage) ([]*filter.Filter, error)
	// Apps are reachable under their own names.
	Apps []string
	// Former is the table that this one follows. Routes that say the same as there keep their filters and what those
	// have counted. It must have been made with the same functions. nil: there is none.
	Former *Table
}

// Table is every route in force. It never changes; a new one takes its place. It may be used by many goroutines.
type Table struct {
	routes []*route // those in force, in the order of their precedence
	idle   []Route  // disabled ones
	byID   map[string]*route

	exact map[string]*paths // by host
	wild  map[string]*paths // by what follows the *, such as .example.com
	any   *paths
	apps  map[string]*app

	there func() string // what there is in place of what is not, for NothingAt; made when first asked for
}

// app is what leads to an app under its own name.
type app struct {
	name  string
	plan  *filter.Plan
	slash *filter.Plan // sends /app to /app/, or relative links of its pages would lead astray
	small *filter.Plan // sends /APP/ to /app/: routes tell large letters from small ones, and who guards /app guards no /APP
}

// paths are the routes of one host.
type paths struct {
	exact  map[string][]*route
	regex  []*route
	prefix map[string][]*route // without a slash at the end
	depths uint64              // bit n: there is a prefix of n segments
}

const (
	maxHost     = 255
	maxSegments = 32 // of a prefix
)

// NewTable compiles routes. An error is one [Mistake] or several joined, and there is no table then.
func NewTable(c Config, routes []Route) (*Table, error) {
	t, mistakes := newTable(c, routes)
	return t, told(mistakes)
}

// told is all that is told of mistakes; nil if there are none.
func told(mistakes []*Mistake) error {
	var all []error
	for _, m := range mistakes[:min(len(mistakes), maxMistakes)] {
		all = append(all, m)
	}
	return errors.Join(all...)
}

func newTable(c Config, routes []Route) (*Table, []*Mistake) {
	if len(routes) > MaxRoutes {
		return nil, []*Mistake{{Reason: "there are too many routes; leave some out"}}
	}
	t := &Table{byID: make(map[string]*route, len(routes)), exact: map[string]*paths{}, wild: map[string]*paths{}, any: &paths{}}
	var mistakes []*Mistake
	seen := make(map[string]*Route, len(routes))
	for i := range routes {
		s := &routes[i]
		if first := seen[s.ID]; first != nil {
			mistakes = append(mistakes, &Mistake{s.document, s.line, s.ID, "there is another route of that id: " + first.where()})
			continue
		}
		seen[s.ID] = s
		r := c.former(s)
		if r == nil {
			var err error
			if r, err = compile(&c, *s); err != nil {
				mistakes = append(mistakes, &Mistake{s.document, s.line, s.ID, err.Error()})
				continue
			}
		}
		if s.Disabled {
			t.idle = append(t.idle, r.spec)
			continue
		}
		t.routes = append(t.routes, r)
		t.byID[s.ID] = r
	}
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	// Sorted once, every list of the index is.
	slices.SortFunc(t.routes, moreSpecific)
	for _, r := range t.routes {
		t.add(r)
	}
	return t.WithApps(c.Apps), nil
}

// where is how a person finds the route.
func (r *Route) where() string {
	m := Mistake{Document: r.document, Line: r.line, Reason: r.ID}
	return m.Error()
}

// former returns the compiled route of the table before if s says the same.
func (c *Config) former(s *Route) *route {
	if c.Former == nil {
		return nil
	}
	r := c.Former.byID[s.ID]
	if r == nil || !same(r.spec, *s) {
		return nil
	}
	if r.spec.line != s.line || r.spec.document != s.document {
		moved := *r
		moved.spec.line, moved.spec.document = s.line, s.document
		return &moved
	}
	return r
}

// same reports whether two routes say the same, wherever they stand.
func same(a, b Route) bool {
	a.document, a.line, b.document, b.line = "", 0, "", 0
	if len(a.Filters) != len(b.Filters) {
		return false
	}
	for i := range a.Filters {
		x, y := a.Filters[i], b.Filters[i]
		x.line, y.line = 0, 0
		if !reflect.DeepEqual(x, y) {
			return false
		}
	}
	a.Filters, b.Filters = nil, nil
	return reflect.DeepEqual(a, b)
}

// add puts r into the index of each of its hosts.
func (t *Table) add(r *route) {
	if len(r.spec.Match.Hosts) == 0 {
		t.any.add(r)
		return
	}
	for i, h := range r.spec.Match.Hosts {
		if slices.ContainsFunc(r.spec.Match.Hosts[:i], func(o string) bool { return strings.EqualFold(o, h) }) {
			continue
		}
		to, h := t.exact, strings.ToLower(strings.TrimSuffix(h, "."))
		if suffix, ok := strings.CutPrefix(h, "*"); ok {
			to, h = t.wild, suffix
		}
		if to[h] == nil {
			to[h] = &paths{}
		}
		to[h].add(r)
	}
}

func (p *paths) add(r *route) {
	m := &r.spec.Match.Path
	switch {
	case m.Exact != "":
		if p.exact == nil {
			p.exact = make(map[string][]*route)
		}
		p.exact[m.Exact] = append(p.exact[m.Exact], r)
	case m.Regex != "":
		// Few, and in order but for the length of their text, which counts first.
		at, _ := slices.BinarySearchFunc(p.regex, len(m.Regex), func(o *route, n int) int {
			if len(o.spec.Match.Path.Regex) >= n {
				return -1
			}
			return 1
		})
		p.regex = slices.Insert(p.regex, at, r)
	default:
		if p.prefix == nil {
			p.prefix = make(map[string][]*route)
		}
		prefix := strings.TrimSuffix(m.Prefix, "/")
		p.prefix[prefix] = append(p.prefix[prefix], r)
		p.depths |= 1 << strings.Count(prefix, "/")
	}
}

// WithApps returns a table with the same routes and these apps under their own names. It costs little.
func (t *Table) WithApps(names []string) *Table {
	n := *t
	n.apps = make(map[string]*app, len(names))
	for _, name := range names {
		k := strings.ToLower(name)
		if old := t.apps[k]; old != nil && old.name == name {
			n.apps[k] = old
			continue
		}
		n.apps[k] = &app{name: name, plan: &filter.Plan{Route: name, Upgrades: true}, slash: &filter.Plan{Route: name, Endpoint: addSlash}, small: &filter.Plan{Route: name, Endpoint: inSmall}}
	}
	n.there = sync.OnceValue(n.list)
	return &n
}

// Documented reports whether there are routes beside those of apps, disabled ones included.
func (t *Table) Documented() bool { return len(t.routes)+len(t.idle) > 0 }

// Routes returns the routes in the order of their precedence where that does not depend on the host, disabled ones last.
func (t *Table) Routes() []Route {
	all := make([]Route, 0, len(t.routes)+len(t.idle))
	for _, r := range t.routes {
		all = append(all, r.spec)
	}
	slices.SortStableFunc(all, inOrder)
	return append(all, t.idle...)
}

// Apps returns the names of the apps that are reachable under them, sorted.
func (t *Table) Apps() []string {
	names := make([]string, 0, len(t.apps))
	for a := range maps.Values(t.apps) {
		names = append(names, a.name)
	}
	slices.Sort(names)
	return names
}

// Match finds the route of x by its Request and fills Plan, App, Addr, Path, Prefix and Host; it reports false and
// leaves x alone if there is none. An App or Addr that x has already stays.
//
// hot path: 0 allocs, BenchmarkMatchPrefix
func (t *Table) Match(x *filter.Exchange) bool {
	r, a := t.find(x)
	switch {
	case r != nil:
		r.take(x)
		return true
	case a == nil:
		return false
	}
	x.Plan = a.plan
	if x.App == "" {
		x.App = a.name
	}
	path := x.Request.Path
	end := strings.IndexByte(path[1:], '/')
	switch {
	case hasCapital(path[1 : 1+max(end, 0)]), end < 0 && hasCapital(path):
		x.Plan = a.small
		return true
	case end < 0 && (x.Request.Method == "GET" || x.Request.Method == "HEAD"):
		x.Plan = a.slash
		return true
	}
	x.Path = stripped(path, 1)
	x.Prefix = lost(path, x.Path)
	return true
}

// take makes r the route of x.
func (r *route) take(x *filter.Exchange) {
	x.Plan = r.plan
	if r.host != "" {
		x.Host = r.host
	}
	r.path.apply(x)
	if x.App != "" || x.Addr != "" {
		return // somebody has decided
	}
	if r.affinity != nil {
		var buf [64]byte
		if v, has := r.affinity.of(x, &buf); has {
			x.Affinity = xxhash.Sum64(v) | 1
		}
	}
	if i := r.pick(x); i >= 0 {
		b := &r.backends[i]
		if b.plan != nil {
			x.Plan = b.plan
		}
		if b.status != 0 {
			return
		}
		x.App, x.Addr = b.app, b.addr
	}
}

// find returns the most specific route that takes x, or the app whose name its path begins with.
//
// hot path: 0 allocs, BenchmarkMatchPrefix
func (t *Table) find(x *filter.Exchange) (*route, *app) {
	path := x.Request.Path
	if path == "" || path[0] != '/' {
		return nil, nil
	}
	// Where each of the leading segments ends. The length of the first is that of the app's name.
	var ends [maxSegments + 1]int32
	depth := 0
	for i := 0; depth < maxSegments; {
		depth++
		j := strings.IndexByte(path[i+1:], '/')
		if j < 0 {
			ends[depth] = int32(len(path))
			break
		}
		i += j + 1
		ends[depth] = int32(i)
	}
	if len(t.exact)+len(t.wild) > 0 {
		var buf [maxHost]byte
		host := lower(hostname(x.Request.Host), &buf)
		if p := t.exact[host]; p != nil && host != "" {
			if r := p.find(x, ends[:depth+1], depth, 0); r != nil {
				return r, nil
			}
		}
		if len(t.wild) > 0 {
			for i := strings.IndexByte(host, '.'); i >= 0; {
				if i > 0 {
					if p := t.wild[host[i:]]; p != nil {
						if r := p.find(x, ends[:depth+1], depth, 0); r != nil {
							return r, nil
						}
					}
				}
				j := strings.IndexByte(host[i+1:], '.')
				if j < 0 {
					break
				}
				i += j + 1
			}
		}
	}
	if len(t.apps) == 0 {
		return t.any.find(x, ends[:depth+1], depth, 0), nil
	}
	if r := t.any.find(x, ends[:depth+1], depth, 1); r != nil {
		return r, nil
	}
	var buf [maxHost]byte
	if a := t.apps[lower(path[1:ends[1]], &buf)]; a != nil {
		return nil, a
	}
	return t.any.findAt(x, ""), nil
}

// find returns the first route that takes x, of those whose prefix has at least so many segments.
func (p *paths) find(x *filter.Exchange, ends []int32, depth, least int) *route {
	path := x.Request.Path
	if len(p.exact) > 0 {
		if r := first(p.exact[path], x); r != nil {
			return r
		}
	}
	for _, r := range p.regex {
		if strings.HasPrefix(path, r.literal) && r.regex.MatchString(path) && r.takes(x) {
			return r
		}
	}
	for left := p.depths & (1<<(depth+1) - 1) &^ (1<<least - 1); left != 0; {
		n := 63 - bits.LeadingZeros64(left)
		left &^= 1 << n
		if r := p.findAt(x, path[:ends[n]]); r != nil {
			return r
		}
	}
	return nil
}

// findAt returns the first route of that very prefix that takes x.
func (p *paths) findAt(x *filter.Exchange, prefix string) *route { return first(p.prefix[prefix], x) }

func first(list []*route, x *filter.Exchange) *route {
	for _, r := range list {
		if r.takes(x) {
			return r
		}
	}
	return nil
}

// hostname is host without a port and a dot at its end.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	return strings.TrimSuffix(host, ".")
}

func hasCapital(s string) bool {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			return true
		}
	}
	return false
}

// lower returns s in small letters, in buf if it had capitals; empty if s is longer than any name.
func lower(s string, buf *[maxHost]byte) string {
	if len(s) > maxHost {
		return ""
	}
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			for j := range len(s) {
				c := s[j]
				if 'A' <= c && c <= 'Z' {
					c |= 0x20
				}
				buf[j] = c
			}
			return unsafe.String(&buf[0], len(s))
		}
	}
	return s
}
