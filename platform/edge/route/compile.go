package route

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// route is a Route made ready for matching. It never changes, and is taken over into later tables as long as its
// document says the same.
type route struct {
	spec    Route
	plan    *filter.Plan
	methods []string
	shared  bool // pages of other origins may ask: a preflight is for the method that it tells of
	headers []test
	query   []test
	cookies []test
	when    func(*filter.Exchange) bool
	regex   *regexp.Regexp
	literal string // that what matches regex begins with

	backends []backend
	total    int
	sticky   *key
	affinity *key // of who asks, for the choice of an instance; nil: any will do

	path pathChange
	host string // that the backend is asked for; empty: the client's
}

// backend is one of a route's, with the sum of its weight and those before it.
type backend struct {
	app, addr string
	upTo      int
	status    int
	plan      *filter.Plan // of the requests that it gets; nil: the route's
}

// test is one predicate over a header, a parameter or a cookie.
type test struct {
	name    string
	exact   string
	regex   *regexp.Regexp
	present int8 // 1: must be there, -1: must not, 0: exact or regex says
}

func (t *test) holds(v string) bool {
	switch {
	case t.present != 0:
		return true
	case t.regex != nil:
		return t.regex.MatchString(v)
	}
	return v == t.exact
}

// compile makes r ready. It fails with a sentence about what cannot be.
func compile(c *Config, spec Route) (*route, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	m := &spec.Match
	r := &route{spec: spec, methods: m.Methods}
	var err error
	if m.Path.Regex != "" {
		if r.regex, err = wholeRegex("path.regex", m.Path.Regex); err != nil {
			return nil, err
		}
		r.literal = literalPrefix(m.Path.Regex)
	}
	for _, l := range []struct {
		list []Value
		to   *[]test
		what string
	}{{m.Headers, &r.headers, "header"}, {m.Query, &r.query, "query"}, {m.Cookies, &r.cookies, "cookie"}} {
		for _, v := range l.list {
			t := test{name: v.Name}
			switch {
			case v.Exact != nil:
				t.exact = *v.Exact
			case v.Regex != "":
				if t.regex, err = wholeRegex(l.what+" "+v.Name, v.Regex); err != nil {
					return nil, err
				}
			case *v.Present:
				t.present = 1
			default:
				t.present = -1
			}
			*l.to = append(*l.to, t)
		}
	}
	if m.When != "" {
		if c.Predicate == nil {
			return nil, fmt.Errorf("when: this edge evaluates no expressions")
		}
		if r.when, err = c.Predicate(m.When); err != nil {
			return nil, fmt.Errorf("when: %w", err)
		}
	}
	if err := r.plans(c); err != nil {
		return nil, err
	}
	if m := spec.Affinity; m != "" {
		k, err := parseKey(m)
		if err != nil {
			return nil, err
		}
		r.affinity = &k
	}
	r.weigh()
	return r, nil
}

// plans makes the plan of r.
func (r *route) plans(c *Config) error {
	s := &r.spec
	p := &filter.Plan{
		Route: s.ID, Hedge: s.Hedge, Priority: s.Priority, Protocol: strings.TrimPrefix(s.Protocol, "http/1.1"), MaxBody: s.MaxBody,
		Upgrades: s.Upgrades == nil || *s.Upgrades,
	}
	var err error
	if p.Timeout, err = duration("timeouts.request", s.Timeouts.Request); err != nil {
		return err
	}
	if p.AttemptTimeout, err = duration("timeouts.attempt", s.Timeouts.Attempt); err != nil {
		return err
	}
	p.AttemptTimeout = max(0, p.AttemptTimeout)
	if t := s.Retry; t != nil {
		if t.Max != nil {
			p.Retries = cmp.Or(*t.Max, -1)
		}
		p.RetryMethods, p.RetryStatuses, p.RetryUnsafe = t.Methods, t.Statuses, t.Unsafe
	}
	if s.Mirror != nil {
		p.Mirrors = []filter.Mirror{{App: s.Mirror.VIP, Percent: s.Mirror.share()}}
	}
	switch s.Buffering {
	case "on":
		p.Buffering = 1
	case "off":
		p.Buffering = -1
	}
	r.plan = p
	return r.filters(c)
}

// planOf returns the plan of the requests that b gets; nil if it is the route's.
func (r *route) planOf(b *Backend) *filter.Plan {
	if b.Status == 0 && len(b.Filters) == 0 {
		return nil
	}
	p := *r.plan
	if b.Status != 0 {
		p.Endpoint = answerWith(&Answer{Status: b.Status, Body: fmt.Sprintf("route %s has no usable backend for this share of its requests\n", r.spec.ID)})
		return &p
	}
	p.Inbound, p.Outbound = slices.Clone(p.Inbound), slices.Clone(p.Outbound)
	for i := range b.Filters {
		if f := b.Filters[i].headers(); f.Kind == filter.Inbound {
			p.Inbound = append(p.Inbound, f)
		} else {
			p.Outbound = append(p.Outbound, f)
		}
	}
	return &p
}

// weigh adds up the weights.
func (r *route) weigh() {
	even := !slices.ContainsFunc(r.spec.Backends, func(b Backend) bool { return b.Weight > 0 })
	for _, b := range r.spec.Backends {
		weight := b.Weight
		if even {
			weight = 1
		}
		r.total += weight
		r.backends = append(r.backends, backend{app: cmp.Or(b.VIP, b.Addr), addr: b.Addr, upTo: r.total, status: b.Status, plan: r.planOf(&b)})
		if b.Sticky != "" {
			if k, err := parseKey(b.Sticky); err == nil { // checked before
				r.sticky = &k
			}
		}
	}
}

// pick chooses the backend of x by weight, the same one for the same key if the route is sticky; -1 if it has none.
func (r *route) pick(x *filter.Exchange) int {
	switch {
	case len(r.backends) <= 1:
		return len(r.backends) - 1
	case r.sticky == nil:
		n := rand.IntN(r.total)
		return slices.IndexFunc(r.backends, func(b backend) bool { return n < b.upTo })
	}
	n, _ := r.sticky.bucket(x, r.spec.ID)
	return slices.IndexFunc(r.backends, func(b backend) bool { return n*r.total < b.upTo*buckets })
}

// takes reports whether x has what r wants beside host and path.
//
// hot path: 0 allocs, BenchmarkMatchHeaders
func (r *route) takes(x *filter.Exchange) bool {
	if !r.takesMethod(x) {
		return false
	}
	for i := range r.headers {
		if !r.headers[i].inHeader(&x.Request.Header) {
			return false
		}
	}
	for i := range r.query {
		if !r.query[i].inQuery(x.Request.RawQuery) {
			return false
		}
	}
	for i := range r.cookies {
		if !r.cookies[i].inCookies(&x.Request.Header) {
			return false
		}
	}
	if s := r.spec.Match.Scheme; s != "" && s != x.Request.Scheme {
		return false
	}
	return r.when == nil || r.when(x)
}

// takesMethod reports whether the method of x is one of r's, or x asks beforehand for one, where r answers that.
// spec: Fetch standard, CORS-preflight fetch
func (r *route) takesMethod(x *filter.Exchange) bool {
	if len(r.methods) == 0 || slices.Contains(r.methods, x.Request.Method) {
		return true
	}
	h := &x.Request.Header
	return r.shared && x.Request.Method == http.MethodOptions && h.Has("Origin") && slices.Contains(r.methods, h.Get("Access-Control-Request-Method"))
}

func (t *test) inHeader(h *filter.Header) bool {
	if t.present < 0 {
		return !h.Has(t.name)
	}
	for v := range h.Values(t.name) {
		if t.holds(v) {
			return true
		}
	}
	return false
}

func (t *test) inQuery(raw string) bool {
	for v := range queryValues(raw, t.name) {
		if t.present < 0 {
			return false
		}
		if t.holds(v) {
			return true
		}
	}
	return t.present < 0
}

func (t *test) inCookies(h *filter.Header) bool {
	for v := range cookies(h, t.name) {
		if t.present < 0 {
			return false
		}
		if t.holds(v) {
			return true
		}
	}
	return t.present < 0
}

// unlike says which predicate of r x does not meet, for a person; empty if it meets all.
func (r *route) unlike(x *filter.Exchange) string {
	if !r.takesMethod(x) {
		return "it wants the method " + strings.Join(r.methods, " or ")
	}
	for i := range r.headers {
		if !r.headers[i].inHeader(&x.Request.Header) {
			return "it wants the header " + r.headers[i].String()
		}
	}
	for i := range r.query {
		if !r.query[i].inQuery(x.Request.RawQuery) {
			return "it wants in the query " + r.query[i].String()
		}
	}
	for i := range r.cookies {
		if !r.cookies[i].inCookies(&x.Request.Header) {
			return "it wants the cookie " + r.cookies[i].String()
		}
	}
	if s := r.spec.Match.Scheme; s != "" && s != x.Request.Scheme {
		return "it wants " + s
	}
	if r.when != nil && !r.when(x) {
		return "its when is false: " + r.spec.Match.When
	}
	return ""
}

// String says what is wanted.
func (t *test) String() string {
	switch {
	case t.present > 0:
		return t.name
	case t.present < 0:
		return "not " + t.name
	case t.regex != nil:
		return t.name + " to match " + t.regex.String()
	}
	return t.name + "=" + t.exact
}

// maxRegex is how long a regular expression may be, in bytes.
const maxRegex = 2048

// wholeRegex compiles an expression that must match the whole of a text.
func wholeRegex(what, expr string) (*regexp.Regexp, error) {
	if len(expr) > maxRegex {
		return nil, fmt.Errorf("%s: the regular expression has %d bytes; at most %d are allowed", what, len(expr), maxRegex)
	}
	if _, err := syntax.Parse(expr, syntax.Perl); err != nil { // or a ) could end our group
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	re, err := regexp.Compile("^(?:" + expr + ")$")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return re, nil
}

// literalPrefix is what every text begins with that matches expr as a whole.
func literalPrefix(expr string) string {
	re, err := regexp.Compile(strings.TrimPrefix(expr, "^"))
	if err != nil {
		return ""
	}
	p, _ := re.LiteralPrefix()
	return p
}

// moreSpecific orders routes that have the same host and path; it is negative when a is asked first.
func moreSpecific(a, b *route) int {
	return cmp.Or(
		-cmp.Compare(min(1, len(a.methods)), min(1, len(b.methods))),
		-cmp.Compare(len(a.headers), len(b.headers)),
		-cmp.Compare(len(a.query), len(b.query)),
		-cmp.Compare(len(a.cookies), len(b.cookies)),
		-cmp.Compare(min(1, len(a.spec.Match.Scheme)), min(1, len(b.spec.Match.Scheme))),
		-cmp.Compare(min(1, len(a.spec.Match.When)), min(1, len(b.spec.Match.When))),
		older(a, b),
		strings.Compare(a.spec.ID, b.spec.ID),
	)
}

// older is negative if a was created before b. Who says nothing counts as newer than all who do.
func older(a, b *route) int {
	x, y := a.spec.Created, b.spec.Created
	switch {
	case x.IsZero() && y.IsZero():
		return 0
	case x.IsZero():
		return 1
	case y.IsZero():
		return -1
	}
	return x.Compare(y)
}

// spelled returns a path of a document as requests have it once the edge has read them: letters, digits and -._~ as they are,
// other bytes that no path may hold percent-encoded, with capitals for digits.
func spelled(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		if v, err := strconv.ParseUint(path[i+1:min(i+3, len(path))], 16, 8); c == '%' && err == nil && i+2 < len(path) {
			if unreserved(byte(v)) {
				b.WriteByte(byte(v))
			} else {
				b.WriteString(strings.ToUpper(path[i : i+3]))
			}
			i += 2
			continue
		}
		if c <= ' ' || c >= 0x7f || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// unreserved reports whether a byte means the same percent-encoded or not. spec: RFC 3986 §2.3
func unreserved(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}
