package edge

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Route is one entry of the property edge.routes.
type Route struct {
	ID       string    `json:"id"`
	Match    Match     `json:"match"`
	Filters  []Filter  `json:"filters,omitempty"`
	Backends []Backend `json:"backends"`
	Timeouts Timeouts  `json:"timeouts,omitzero"`
}

// Match says which requests a route takes. All that is given must hold.
type Match struct {
	Hosts   []string      `json:"hosts,omitempty"` // names, or "*.example.com"; any when empty
	Path    PathMatch     `json:"path,omitzero"`   // any when empty
	Methods []string      `json:"methods,omitempty"`
	Headers []HeaderMatch `json:"headers,omitempty"`
}

// PathMatch is an exact path or a prefix of whole segments.
type PathMatch struct {
	Exact  string `json:"exact,omitempty"`
	Prefix string `json:"prefix,omitempty"`
}

// HeaderMatch wants a header to have exactly a value.
type HeaderMatch struct {
	Name  string `json:"name"`
	Exact string `json:"exact"`
}

// Filter alters a request on its way.
type Filter struct {
	StripPrefix int `json:"stripPrefix"` // how many leading segments the backend does not get to see
}

// Backend is an app that answers, with its share of the requests.
type Backend struct {
	VIP    string `json:"vip"`
	Weight int    `json:"weight,omitempty"` // 0 to 1,000,000; all zero means equal shares
}

// Timeouts of a route.
type Timeouts struct {
	Request string `json:"request,omitempty"` // e.g. "2s"; the property edge.timeouts.request when empty
}

const maxRoutes = 1000

// ParseRoutes reads a list of routes. It fails at the first mistake, with the route's id.
func ParseRoutes(text string) ([]Route, error) {
	var routes []Route
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&routes); err != nil {
		return nil, fmt.Errorf("edge.routes is no list of routes: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("edge.routes has something after its list")
	}
	if len(routes) > maxRoutes {
		return nil, fmt.Errorf("edge.routes has %d routes; at most %d are allowed", len(routes), maxRoutes)
	}
	ids := make(map[string]bool)
	for i := range routes {
		if err := routes[i].validate(); err != nil {
			return nil, fmt.Errorf("route %d (id %q): %w", i+1, routes[i].ID, err)
		}
		if ids[routes[i].ID] {
			return nil, fmt.Errorf("two routes have the id %q", routes[i].ID)
		}
		ids[routes[i].ID] = true
	}
	return routes, nil
}

func (r *Route) validate() error {
	p := r.Match.Path
	switch {
	case r.ID == "" || !token(r.ID):
		return errors.New("it needs an id of letters, digits and -._")
	case p.Exact != "" && p.Prefix != "":
		return errors.New("give the path exact or prefix, not both")
	case p.Exact != "" && p.Exact[0] != '/', p.Prefix != "" && p.Prefix[0] != '/':
		return errors.New("a path starts with /")
	case len(r.Backends) == 0:
		return errors.New("it needs at least one backend")
	}
	for _, h := range r.Match.Hosts {
		if h == "" || strings.Contains(strings.TrimPrefix(h, "*."), "*") || strings.ContainsAny(h, "/: ") {
			return fmt.Errorf("host %q: write a name without a port, or *.name", h)
		}
	}
	for _, h := range r.Match.Headers {
		if !token(h.Name) {
			return fmt.Errorf("header %q is no header's name", h.Name)
		}
	}
	for _, m := range r.Match.Methods {
		if m == "" || m != strings.ToUpper(m) || !token(m) {
			return fmt.Errorf("method %q: write it in capitals", m)
		}
	}
	for _, b := range r.Backends {
		if !token(b.VIP) {
			return fmt.Errorf("backend %q is no app's name", b.VIP)
		}
		if b.Weight < 0 || b.Weight > 1_000_000 {
			return fmt.Errorf("backend %s has weight %d; use 0 to 1000000", b.VIP, b.Weight)
		}
	}
	for _, f := range r.Filters {
		if f.StripPrefix < 0 || f.StripPrefix > 32 {
			return fmt.Errorf("stripPrefix %d: use 0 to 32", f.StripPrefix)
		}
	}
	if t := r.Timeouts.Request; t != "" {
		if d, err := time.ParseDuration(t); err != nil || d <= 0 || d > time.Hour {
			return fmt.Errorf("timeouts.request %q: write a duration up to 1h, such as 2s", t)
		}
	}
	return nil
}

// token reports whether s may be an id, an app or a header's name.
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return s != ""
}

// table is every route in force. It never changes; a new one takes its place.
type table struct {
	routes []*route          // explicit ones, most specific first
	apps   map[string]*route // default ones by app
}

// route is a Route made ready for matching.
type route struct {
	id       string
	spec     Route
	why      string // for a person who asks
	strip    int
	timeout  time.Duration // 0 = as for every route
	backends []backend
	total    int // sum of weights
}

type backend struct {
	vip    string
	weight int
}

// newTable compiles valid routes and the default ones of apps.
func newTable(specs []Route, apps []string) *table {
	t := &table{apps: make(map[string]*route, len(apps))}
	for _, s := range specs {
		t.routes = append(t.routes, compile(s))
	}
	slices.SortStableFunc(t.routes, func(a, b *route) int { return moreSpecific(a.spec, b.spec) })
	for _, app := range apps {
		t.apps[app] = &route{
			id: app, strip: 1, backends: []backend{{app, 1}}, total: 1,
			why: fmt.Sprintf("%s is in the registry and reachable under its name", app),
		}
	}
	return t
}

func compile(s Route) *route {
	r := &route{id: s.ID, spec: s, why: fmt.Sprintf("the most specific route of edge.routes that matches is %q", s.ID)}
	for _, f := range s.Filters {
		r.strip += f.StripPrefix
	}
	if d, err := time.ParseDuration(s.Timeouts.Request); err == nil {
		r.timeout = d
	}
	for _, b := range s.Backends {
		r.backends = append(r.backends, backend{b.VIP, b.Weight})
		r.total += b.Weight
	}
	if r.total == 0 {
		for i := range r.backends {
			r.backends[i].weight = 1
		}
		r.total = len(r.backends)
	}
	return r
}

// moreSpecific orders routes as the Kubernetes Gateway API does; it is negative when a goes first.
func moreSpecific(a, b Route) int {
	return cmp.Or(
		-cmp.Compare(hostRank(a), hostRank(b)),
		-cmp.Compare(len(a.Match.Path.Exact), len(b.Match.Path.Exact)),
		-cmp.Compare(len(a.Match.Path.Prefix), len(b.Match.Path.Prefix)),
		-cmp.Compare(min(1, len(a.Match.Methods)), min(1, len(b.Match.Methods))),
		-cmp.Compare(len(a.Match.Headers), len(b.Match.Headers)),
		strings.Compare(a.ID, b.ID),
	)
}

// hostRank is higher the more specific a route's least specific host is: exact names, then wildcards by length.
func hostRank(r Route) int {
	rank := 0
	for i, h := range r.Match.Hosts {
		k := len(h)
		if !strings.HasPrefix(h, "*.") {
			k += 1 << 16
		}
		if i == 0 || k < rank {
			rank = k
		}
	}
	return rank
}

// match is a route that takes a request.
type match struct {
	route    *route
	addSlash bool // "/app" must become "/app/", or its relative links break
}

// match finds the most specific route for r. A default route counts as a prefix of one segment without a host.
func (t *table) match(r *http.Request) (match, bool) {
	app, rest, slash := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	byApp, ok := t.apps[strings.ToLower(app)]
	for _, x := range t.routes {
		// Explicit routes are sorted; the first match is the best. The default one is better than a shorter prefix.
		if ok && hostRank(x.spec) == 0 && x.spec.Match.Path.Exact == "" && len(x.spec.Match.Path.Prefix) < len(app)+1 {
			break
		}
		if x.takes(r) {
			return match{route: x}, true
		}
	}
	if !ok {
		return match{}, false
	}
	return match{route: byApp, addSlash: !slash && rest == "" && (r.Method == http.MethodGet || r.Method == http.MethodHead)}, true
}

func (r *route) takes(req *http.Request) bool {
	m := &r.spec.Match
	switch {
	case m.Path.Exact != "" && req.URL.EscapedPath() != m.Path.Exact:
		return false
	case m.Path.Prefix != "" && !under(req.URL.EscapedPath(), m.Path.Prefix):
		return false
	case len(m.Methods) > 0 && !slices.Contains(m.Methods, req.Method):
		return false
	case len(m.Hosts) > 0 && !slices.ContainsFunc(m.Hosts, func(h string) bool { return hostIs(req.Host, h) }):
		return false
	}
	for _, h := range m.Headers {
		if !slices.Contains(req.Header.Values(h.Name), h.Exact) {
			return false
		}
	}
	return true
}

// under reports whether path lies under prefix, by whole segments.
func under(path, prefix string) bool {
	prefix = strings.TrimSuffix(prefix, "/")
	return strings.HasPrefix(path, prefix) && (len(path) == len(prefix) || path[len(prefix)] == '/')
}

// hostIs compares a Host header with a pattern, without the port and letter case.
func hostIs(host, pattern string) bool {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	pattern = strings.ToLower(pattern)
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
	}
	return host == pattern
}

// pick draws a backend by weight.
func (r *route) pick() string {
	if len(r.backends) == 1 {
		return r.backends[0].vip
	}
	n := rand.IntN(r.total)
	for _, b := range r.backends {
		if n -= b.weight; n < 0 {
			return b.vip
		}
	}
	return r.backends[len(r.backends)-1].vip
}

// path returns the escaped path that the backend is asked for. Segments are those between slashes that are not
// escaped, as they are for matching: a path with an escaped slash matches no default route.
func (m match) path(u *url.URL) string {
	p := u.EscapedPath()
	for range m.route.strip {
		i := strings.IndexByte(strings.TrimPrefix(p, "/"), '/')
		if i < 0 {
			return "/"
		}
		p = p[i+1:]
	}
	if p == "" {
		return "/"
	}
	return p
}

// prefix returns what path leaves out, for X-Forwarded-Prefix.
func (m match) prefix(u *url.URL) string {
	return strings.TrimSuffix(strings.TrimSuffix(u.EscapedPath(), m.path(u)), "/")
}

func (t *table) appNames() []string { return slices.Sorted(maps.Keys(t.apps)) }

// nothingAt explains a 404.
func (t *table) nothingAt(path string) string {
	names := t.appNames()
	if len(names) == 0 && len(t.routes) == 0 {
		return "no route leads to " + path + "; nothing is registered yet"
	}
	if len(names) > 20 {
		names = append(names[:20], "...")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "no route leads to %s; there are", path)
	for _, n := range names {
		fmt.Fprintf(&b, " /%s/", n)
	}
	for i, r := range t.routes {
		if i == 20 {
			b.WriteString(" ...")
			break
		}
		fmt.Fprintf(&b, " %s", cmp.Or(r.spec.Match.Path.Exact, r.spec.Match.Path.Prefix, "/"))
	}
	return b.String()
}

// writeIndex answers / when no route owns it: a page that lists what is here.
func (t *table) writeIndex(w http.ResponseWriter, _ *http.Request) {
	var b bytes.Buffer
	b.WriteString(`<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>roadbed edge</title><style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem;color-scheme:light dark}</style>
<h1>The edge</h1>`)
	if len(t.apps) == 0 {
		b.WriteString("<p>Nothing is registered yet. Try <code>roadbed run --name hello --port 8081 -- python3 -m http.server --bind 127.0.0.1 {port}</code></p>")
	} else {
		b.WriteString("<p>Services that can be reached from here:</p><ul>")
		for _, n := range t.appNames() {
			fmt.Fprintf(&b, `<li><a href="/%[1]s/">/%[1]s/</a></li>`, html.EscapeString(n))
		}
		b.WriteString("</ul>")
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(b.Bytes()) //nolint:errcheck // the client is gone if this fails
}
