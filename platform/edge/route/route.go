// Package route decides which app answers a request: documents that say so, the table they are compiled to, and the
// rules that send single requests elsewhere. At Netflix these were Zuul's routing filters and surgical routing.
//
//	doc, err := route.Parse("edge.routes", text)       // JSON or YAML
//	table, err := route.NewTable(config, doc.Routes)   // never changes; swap a pointer to it
//	ok := table.Match(exchange)                        // fills Plan, App, Path and Prefix
//	surgery.Apply(exchange)                            // sends single requests elsewhere
//	why := table.Explain(exchange, surgery)            // the same, for a person
//
// A document is a list of routes, or {routes: [...]}:
//
//   - id: playback
//     match: {hosts: [api.example.com, "*.tv.example.com"], path: {prefix: /playback}, methods: [GET, POST],
//     headers: [{name: x-device, exact: tv}], query: [{name: v, regex: "[23]"}], cookies: [{name: beta, present: true}],
//     when: 'region == "us-east-1"'}
//     priority: 10
//     filters: [{stripPrefix: 1}, {requestHeaders: {set: {x-tier: gold}}}, {program: auth-hook}]
//     backends: [{vip: playback, weight: 90}, {vip: playback-canary, weight: 10, sticky: user}]
//     timeouts: {request: 10s, attempt: 2s}
//     retry: {max: 1, statuses: [503], methods: [GET, HEAD]}
//     mirror: {vip: playback-shadow, percent: 5}
//
// # Which route wins
//
// Of all that match, as in the Kubernetes Gateway API: the most specific host, exact before wildcard and longer before
// shorter; an exact path, then a regular expression (the longer text first), then the longest prefix; methods; more
// headers; more of the query; more cookies; a scheme; a when; the older one by created; the id in byte order. Beside the routes of
// documents, every app is there under /app/, as a prefix of one segment without a host would be.
//
// # What it promises
//   - The order of a document never decides anything.
//   - A document with a mistake changes nothing, and its error names the document, the line, the route and the reason.
//   - A request costs no allocation and no more time with ten thousand routes than with one, as long as few of these
//     share host and path. A regular expression is tried for each path on its host that begins with its literal prefix.
//   - A sticky share that grows keeps those it had.
//
// # What it does not
//   - It checks no backend against the registry: an app may come later than its route.
//   - It decodes no path: a%2Fb is one segment, and %61 is not a. Engines bring paths into one form first.
package route

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Route is one entry of a document. All but ID and Backends may be left out; Backends too if a filter answers.
type Route struct {
	ID        string    `json:"id" doc:"letters, digits and -._"`
	Match     Match     `json:"match,omitzero"`
	Priority  uint8     `json:"priority,omitempty" doc:"1, the most important, to 100; 0 is none of its own"`
	Filters   []Filter  `json:"filters,omitempty" doc:"run in their order"`
	Backends  []Backend `json:"backends,omitempty"`
	Timeouts  Timeouts  `json:"timeouts,omitzero"`
	Retry     *Retry    `json:"retry,omitempty"`
	Affinity  string    `json:"affinity,omitempty" doc:"what keeps a client with its instance of the backend while that is fit: user, client, header:NAME, cookie:NAME or query:NAME"`
	Hedge     bool      `json:"hedge,omitempty" doc:"a second attempt if the first is slow, for GET"`
	MaxBody   int64     `json:"maxBody,omitempty" doc:"bytes of a request's body; 0 is as for every route"`
	Buffering string    `json:"requestBuffering,omitempty" doc:"whether a body, or its first 64 KiB, is waited for before the backend is asked: on, off; if left out, on unless it is of unknown length and pauses, or of gRPC"`
	Protocol  string    `json:"protocol,omitempty" doc:"to the backend: http/1.1, h2c or h2; empty is http/1.1, and h2c for gRPC"`
	Upgrades  *bool     `json:"upgrades,omitempty" doc:"whether WebSockets and other upgrades pass; true if left out"`
	Mirror    *Mirror   `json:"mirror,omitempty"`
	Disabled  bool      `json:"disabled,omitempty" doc:"checked, but out of the table"`
	Created   time.Time `json:"created,omitzero" doc:"of two routes that are equal otherwise the older one wins"`

	document string // it came from
	line     int
}

// Match says which requests a route takes. All that is given must hold; of a list of hosts or methods, one.
type Match struct {
	Hosts   []string `json:"hosts,omitempty" doc:"names, or *.example.com; any if left out"`
	Path    Path     `json:"path,omitzero" doc:"any if left out"`
	Methods []string `json:"methods,omitempty"`
	Headers []Value  `json:"headers,omitempty"`
	Query   []Value  `json:"query,omitempty"`
	Cookies []Value  `json:"cookies,omitempty"`
	Scheme  string   `json:"scheme,omitempty" doc:"http or https, as the client speaks; any if left out"`
	When    string   `json:"when,omitempty" doc:"an expression over the request"`
}

// Path is one of an exact path, a prefix of whole segments, and a regular expression (RE2) that the whole path matches.
// Paths are compared as they are sent, escapes included.
type Path struct {
	Exact  string `json:"exact,omitempty"`
	Prefix string `json:"prefix,omitempty"`
	Regex  string `json:"regex,omitempty"`
}

// Value wants a header, a parameter of the query or a cookie to be exactly something, to match a regular expression
// (RE2) as a whole, or to be there, or not, at all. One of several of that name is enough.
type Value struct {
	Name    string  `json:"name"`
	Exact   *string `json:"exact,omitempty"`
	Regex   string  `json:"regex,omitempty"`
	Present *bool   `json:"present,omitempty"`
}

// Backend answers, with its share of the requests. It is an app in the registry (VIP), an address outside of it (Addr), or
// nobody (Status), for a share that must fail.
type Backend struct {
	VIP    string `json:"vip,omitempty"`
	Addr   string `json:"addr,omitempty" doc:"host:port that is asked in place of the app's instances"`
	Status int    `json:"status,omitempty" doc:"answered with in place of asking anybody"`
	Weight int    `json:"weight,omitempty" doc:"0 to 1,000,000; all zero means equal shares"`
	Sticky string `json:"sticky,omitempty" doc:"what keeps a client with its backend: user, client, header:NAME, cookie:NAME or query:NAME; one is enough for all of a route"`

	Filters []Filter `json:"filters,omitempty" doc:"for the requests that it gets, after the route's own: requestHeaders and responseHeaders"`
}

// Timeouts of a route, up to an hour. "none" is no end.
type Timeouts struct {
	Request string `json:"request,omitempty" doc:"of all attempts together, such as 2s; the property edge.timeouts.request if left out"`
	Attempt string `json:"attempt,omitempty" doc:"of each attempt"`
}

// Retry says what is tried again. How many retries all requests to an app may have together is the app's affair.
type Retry struct {
	Max      *int     `json:"max,omitempty" doc:"0 to 10; as the app has it if left out"`
	Statuses []int    `json:"statuses,omitempty" doc:"503 if left out"`
	Methods  []string `json:"methods,omitempty" doc:"GET, HEAD and OPTIONS if left out"`
	Unsafe   bool     `json:"unsafe,omitempty" doc:"any method, when a connection broke before it was answered"`
}

// Mirror sends copies of a share of the requests to an app whose answers nobody sees.
type Mirror struct {
	VIP     string   `json:"vip"`
	Percent *float64 `json:"percent,omitempty" doc:"0 to 100; all if left out"`
}

// Filter is one step for the requests of a route: exactly one of these.
type Filter struct {
	StripPrefix     int       `json:"stripPrefix,omitempty" doc:"how many leading segments the backend does not get to see"`
	Rewrite         *Rewrite  `json:"rewrite,omitempty"`
	RequestHeaders  *Headers  `json:"requestHeaders,omitempty"`
	ResponseHeaders *Headers  `json:"responseHeaders,omitempty"`
	Redirect        *Redirect `json:"redirect,omitempty"`
	Answer          *Answer   `json:"answer,omitempty"`
	Mirror          *Mirror   `json:"mirror,omitempty"`
	Program         string    `json:"program,omitempty" doc:"a program of the platform's, by name"`

	Plug string          `json:"-"` // the key of a filter that another package makes: cors, rateLimit, auth, queue
	With json.RawMessage `json:"-"` // what stands under that key

	line int
}

// Rewrite changes what the backend is asked for. Of Path, Prefix and Regex one may be given.
type Rewrite struct {
	Host   string  `json:"host,omitempty" doc:"in place of the client's"`
	Path   string  `json:"path,omitempty" doc:"in place of the whole path"`
	Prefix *string `json:"prefix,omitempty" doc:"in place of the prefix that matched"`
	Regex  string  `json:"regex,omitempty" doc:"what of the path is replaced by to"`
	To     string  `json:"to,omitempty" doc:"with $1 for the first group of regex"`
}

// Headers changes fields: first it removes, then it sets, then it adds.
type Headers struct {
	Set    map[string]string `json:"set,omitempty"`
	Add    map[string]string `json:"add,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

// Redirect answers with the same URL but for what is given. The query stays.
type Redirect struct {
	Scheme string  `json:"scheme,omitempty"`
	Host   string  `json:"host,omitempty"`
	Port   int     `json:"port,omitempty"`
	Path   string  `json:"path,omitempty" doc:"in place of the whole path"`
	Prefix *string `json:"prefix,omitempty" doc:"in place of the prefix that matched"`
	Status int     `json:"status,omitempty" doc:"301, 302, 303, 307 or 308; 302 if left out"`
}

// Answer is an answer that asks nobody.
type Answer struct {
	Status  int               `json:"status"`
	Body    string            `json:"body,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
}

// MarshalJSON writes the one key that there is.
func (f Filter) MarshalJSON() ([]byte, error) {
	if f.Plug != "" {
		return json.Marshal(map[string]json.RawMessage{f.Plug: f.With})
	}
	type plain Filter
	return json.Marshal(plain(f))
}

// MaxRoutes is how many routes there may be in all documents together.
const MaxRoutes = 20_000

// maxMistakes is how many mistakes of a document are told at once.
const maxMistakes = 10

// Mistake is one thing wrong with a document.
type Mistake struct {
	Document string // the property or file
	Line     int    // 0: none, as for a route that was not read from text
	Route    string // its id; empty if it has none, or the mistake is outside of any
	Reason   string // what is wrong, and what to do
}

// Error says where and what.
func (m *Mistake) Error() string {
	where := m.Document
	if m.Line > 0 {
		where += fmt.Sprintf(":%d", m.Line)
	}
	if m.Route != "" {
		where += fmt.Sprintf(": route %q", m.Route)
	}
	return strings.TrimPrefix(where+": "+m.Reason, ": ")
}

// Mistaken returns the names of the documents whose mistakes are in err, as [ParseAll] and [NewTable] return it.
func Mistaken(err error) (names []string) {
	if m := (*Mistake)(nil); errors.As(err, &m) {
		names = append(names, m.Document)
	}
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range all.Unwrap() {
			names = append(names, Mistaken(e)...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Document is what a text says.
type Document struct {
	Routes  []Route
	Tests   []Golden // what must hold for the routes; see [Table.Hold]
	Objects []Object // of the Kubernetes Gateway API, and what has become of them
	Notes   []Note   // what of these could not be carried into routes
}

// Note is something that a document of another system's says, and a route cannot.
type Note struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
	What string `json:"what" doc:"the directive, as written"`
	Why  string `json:"why" doc:"why it is not in the routes"`
	Do   string `json:"do,omitempty" doc:"what to do in its place"`
}

// Text is one document as written, and where: a property or a file.
type Text struct{ Name, Text string }

// Parse reads a document, which is JSON or YAML. name is told in errors, and says where routes came from. An error is
// one [Mistake] or several joined; the document then says nothing.
func Parse(name, text string) (*Document, error) { return ParseAll([]Text{{name, text}}) }

// ParseAll is Parse for several documents that hold together: ids are unique in all of them, and objects of the Gateway
// API find each other.
func ParseAll(texts []Text) (*Document, error) { return (&Reader{}).ParseAll(texts) }

// Reader is [ParseAll] that remembers what the texts say that it was last given, and was given before: a document that is first
// checked and then taken into force is read once, and a change of one is not the reading of all. Its methods may be called
// from many goroutines; none waits for another's reading.
type Reader struct {
	mu           sync.Mutex
	last, before map[Text]*reading
}

// reading is what one text says by itself. It does not change.
type reading struct {
	doc  Document // its routes and tests
	from decoder  // with the mistakes, and the objects that are yet to be told from each other
	err  error    // of which not even the form is right
}

func read(t Text) *reading {
	r := &reading{from: decoder{name: t.Name}}
	trees, err := readTrees(t.Text)
	if err != nil {
		r.err = unreadable(t.Name, err)
	}
	for _, t := range trees {
		r.from.document(t, &r.doc)
	}
	return r
}

// readings returns what each text says.
func (r *Reader) readings(texts []Text) []*reading {
	all, said := make([]*reading, len(texts)), make(map[Text]*reading, len(texts))
	r.mu.Lock()
	last, before := r.last, r.before
	r.mu.Unlock()
	for i, t := range texts {
		if all[i] = last[t]; all[i] == nil {
			all[i] = before[t]
		}
		if all[i] == nil {
			all[i] = read(t)
		}
		said[t] = all[i]
	}
	r.mu.Lock()
	r.last, r.before = said, r.last
	r.mu.Unlock()
	return all
}

// ParseAll is the function of that name.
func (r *Reader) ParseAll(texts []Text) (*Document, error) {
	doc := &Document{}
	g := &gateways{doc: doc, named: map[string]*Object{}, classes: map[string][]listener{}, labels: map[string]*node{}}
	var mistakes []error
	var readers []*decoder
	for _, t := range r.readings(texts) {
		if t.err != nil {
			mistakes = append(mistakes, t.err)
			continue
		}
		doc.Routes, doc.Tests = append(doc.Routes, t.doc.Routes...), append(doc.Tests, t.doc.Tests...)
		d := t.from
		d.mistakes = slices.Clone(d.mistakes)
		for _, n := range d.objects {
			g.add(&d, n)
		}
		readers = append(readers, &d)
	}
	g.finish()
	for _, d := range readers {
		mistakes = append(mistakes, d.mistakes...)
	}
	if len(doc.Routes) > MaxRoutes {
		mistakes = append(mistakes, &Mistake{Document: texts[0].Name, Reason: fmt.Sprintf("there are %d routes; at most %d are allowed", len(doc.Routes), MaxRoutes)})
	}
	if len(doc.Tests) > maxGolden {
		mistakes = append(mistakes, &Mistake{Document: texts[0].Name, Reason: fmt.Sprintf("there are %d tests; at most %d are allowed", len(doc.Tests), maxGolden)})
	}
	first := make(map[string]*Route, len(doc.Routes))
	for i := range doc.Routes {
		r := &doc.Routes[i]
		if o := first[r.ID]; o != nil && r.ID != "" {
			mistakes = append(mistakes, &Mistake{r.document, r.line, "", fmt.Sprintf("two routes have the id %q, the other one in %s on line %d", r.ID, o.document, o.line)})
			continue
		}
		first[r.ID] = r
	}
	if len(mistakes) > 0 {
		return nil, errors.Join(mistakes[:min(len(mistakes), maxMistakes)]...)
	}
	return doc, nil
}

// unreadable is the mistake of a text of which not even the form is right.
func unreadable(name string, err error) *Mistake {
	m := &Mistake{Document: name, Line: 1, Reason: err.Error()}
	var syn *syntaxError
	if errors.As(err, &syn) {
		m.Line = syn.line
	}
	return m
}

// Format writes routes as a document that [Parse] takes; as JSON it is one of today's property edge.routes.
func Format(routes []Route) ([]byte, error) {
	if routes == nil {
		routes = []Route{}
	}
	return json.MarshalIndent(routes, "", "  ")
}

// check returns what is wrong with r that can be told without the rest of the platform; nil if nothing.
func (r *Route) check() error {
	p := r.Match.Path
	given := 0
	for _, s := range []string{p.Exact, p.Prefix, p.Regex} {
		given += min(1, len(s))
	}
	switch {
	case r.ID == "":
		return errors.New("it needs an id of letters, digits and -._")
	case !filter.Plain(r.ID) || len(r.ID) > 253:
		return errors.New("its id has more than letters, digits and -._, or more than 253 of them")
	case given > 1:
		return errors.New("give the path exact, prefix or regex, not both")
	case p.Exact != "" && p.Exact[0] != '/', p.Prefix != "" && p.Prefix[0] != '/':
		return errors.New("a path starts with /")
	case r.Match.Scheme != "" && r.Match.Scheme != "http" && r.Match.Scheme != "https":
		return fmt.Errorf("scheme %q: use http or https", r.Match.Scheme)
	case strings.ContainsAny(p.Exact+p.Prefix, "?#"):
		return errors.New("a path ends where ? or # begins; match a query with query")
	case strings.Count(p.Prefix, "/") > maxSegments:
		return fmt.Errorf("the prefix has more than %d segments", maxSegments)
	case r.Priority > 100:
		return fmt.Errorf("priority %d: use 1, the most important, to 100", r.Priority)
	case r.MaxBody < 0:
		return errors.New("maxBody: use a number of bytes, such as 1048576 or 1MiB")
	case !slices.Contains([]string{"", "on", "off"}, r.Buffering):
		return fmt.Errorf("requestBuffering %q: use on or off", r.Buffering)
	case !slices.Contains([]string{"", "http/1.1", "h2c", "h2"}, r.Protocol):
		return fmt.Errorf("protocol %q: use http/1.1, h2c or h2", r.Protocol)
	}
	for _, h := range r.Match.Hosts {
		if err := checkHost(h); err != nil {
			return err
		}
	}
	for _, m := range r.Match.Methods {
		if err := checkMethod(m); err != nil {
			return err
		}
	}
	for _, l := range []struct {
		where string
		list  []Value
	}{{"header", r.Match.Headers}, {"query", r.Match.Query}, {"cookie", r.Match.Cookies}} {
		for _, v := range l.list {
			if err := v.check(l.where); err != nil {
				return err
			}
		}
	}
	answers := 0
	for i := range r.Filters {
		if err := r.Filters[i].check(r); err != nil {
			return err
		}
		if r.Filters[i].Answer != nil || r.Filters[i].Redirect != nil {
			answers++
		}
	}
	switch {
	case answers > 1:
		return errors.New("it answers twice; keep one answer or redirect")
	case answers == 1 && len(r.Backends) > 0:
		return errors.New("its filters answer, so its backends would never be asked; leave out one of both")
	case answers == 0 && len(r.Backends) == 0:
		return errors.New("it needs at least one backend, or a filter that answers")
	case len(r.Backends) > 1000:
		return fmt.Errorf("it has %d backends; at most 1000 are allowed", len(r.Backends))
	}
	sticky := ""
	for _, b := range r.Backends {
		if err := b.check(r); err != nil {
			return err
		}
		if b.Sticky != "" && sticky != "" && b.Sticky != sticky {
			return fmt.Errorf("its backends are sticky by %s and by %s; one key decides for all of a route", sticky, b.Sticky)
		}
		sticky = cmp.Or(sticky, b.Sticky)
	}
	for _, t := range []struct{ name, text string }{{"request", r.Timeouts.Request}, {"attempt", r.Timeouts.Attempt}} {
		if _, err := duration("timeouts."+t.name, t.text); err != nil {
			return err
		}
	}
	if err := r.Retry.check(); err != nil {
		return err
	}
	if r.Affinity != "" {
		if _, err := parseKey(r.Affinity); err != nil {
			return fmt.Errorf("affinity %w", err)
		}
	}
	return r.Mirror.check()
}

// checkHost wants a name, or "*." and one.
func checkHost(h string) error {
	name := strings.TrimPrefix(h, "*.")
	if name == "" || len(h) > maxHost || strings.ContainsFunc(name, func(c rune) bool {
		return c != '-' && c != '.' && c != '_' && !('a' <= c && c <= 'z') && !('A' <= c && c <= 'Z') && !('0' <= c && c <= '9')
	}) || strings.HasPrefix(name, ".") || strings.Contains(name, "..") {
		return fmt.Errorf("host %q: write a name without a port, or *.name", h)
	}
	return nil
}

func checkMethod(m string) error {
	if m == "" || len(m) > 32 || m != strings.ToUpper(m) || !filter.Plain(m) {
		return fmt.Errorf("method %q: write it in capitals", m)
	}
	return nil
}

func (v *Value) check(where string) error {
	given := 0
	if v.Exact != nil {
		given++
	}
	if v.Regex != "" {
		given++
	}
	if v.Present != nil {
		given++
	}
	switch {
	case v.Name == "", where != "query" && !fieldName(v.Name):
		return fmt.Errorf("%s %q is no %s's name", where, v.Name, where)
	case given != 1:
		return fmt.Errorf("%s %s: say exact, regex or present, one of them", where, v.Name)
	}
	return nil
}

func (b *Backend) check(r *Route) error {
	given := 0
	if b.VIP != "" || b.Addr != "" {
		given++
	}
	if b.Status != 0 {
		given++
	}
	switch {
	case b.Status != 0 && (given != 1 || len(b.Filters) > 0):
		return errors.New("a backend with a status asks nobody; leave out its vip, addr and filters")
	case given != 1:
		return errors.New("a backend needs a vip, an addr or a status")
	case b.VIP != "" && !vip(b.VIP):
		return fmt.Errorf("backend %q is no app's name", b.VIP)
	case b.Addr != "" && !address(b.Addr):
		return fmt.Errorf("backend %q: write an address as host:port", b.Addr)
	case b.Status != 0 && (b.Status < 400 || b.Status > 599):
		return fmt.Errorf("backend with status %d: use 400 to 599", b.Status)
	case b.Weight < 0 || b.Weight > 1_000_000:
		return fmt.Errorf("backend %s has weight %d; use 0 to 1000000", b.name(), b.Weight)
	}
	if b.Sticky != "" {
		if _, err := parseKey(b.Sticky); err != nil {
			return fmt.Errorf("backend %s: sticky %w", b.name(), err)
		}
	}
	for i := range b.Filters {
		f := &b.Filters[i]
		if f.RequestHeaders == nil && f.ResponseHeaders == nil {
			return fmt.Errorf("backend %s: a filter of one backend alone is requestHeaders or responseHeaders; write others in the route's filters", b.name())
		}
		if err := f.check(r); err != nil {
			return fmt.Errorf("backend %s: %w", b.name(), err)
		}
	}
	return nil
}

// name is how a person is told of the backend.
func (b *Backend) name() string {
	if b.Status != 0 {
		return fmt.Sprintf("status %d", b.Status)
	}
	return cmp.Or(b.VIP, b.Addr)
}

func (r *Retry) check() error {
	if r == nil {
		return nil
	}
	if r.Max != nil && (*r.Max < 0 || *r.Max > 10) {
		return fmt.Errorf("retry.max %d: use 0 to 10", *r.Max)
	}
	for _, s := range r.Statuses {
		if s < 400 || s > 599 {
			return fmt.Errorf("retry.statuses %d: use 400 to 599", s)
		}
	}
	for _, m := range r.Methods {
		if err := checkMethod(m); err != nil {
			return fmt.Errorf("retry.methods: %w", err)
		}
	}
	return nil
}

func (m *Mirror) check() error {
	switch {
	case m == nil:
		return nil
	case !vip(m.VIP):
		return fmt.Errorf("mirror %q is no app's name", m.VIP)
	case m.Percent != nil && !(*m.Percent >= 0 && *m.Percent <= 100):
		return fmt.Errorf("mirror.percent %v: use 0 to 100", *m.Percent)
	}
	return nil
}

// share is how many of 100 requests are mirrored.
func (m *Mirror) share() float64 {
	if m.Percent == nil {
		return 100
	}
	return *m.Percent
}

// duration reads a time limit: 0 for none given, -1 for "none".
func duration(what, text string) (time.Duration, error) {
	switch text {
	case "":
		return 0, nil
	case "none":
		return -1, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > time.Hour {
		return 0, fmt.Errorf("%s %q: write a duration up to 1h, such as 2s, or none", what, text)
	}
	return d, nil
}

// vip reports whether s may be a virtual address: an app, or an app and a port.
func vip(s string) bool {
	name, port, has := strings.Cut(s, ":")
	if has && (port == "" || len(port) > 5 || strings.Trim(port, "0123456789") != "") {
		return false
	}
	return filter.Plain(name)
}

// address reports whether s is host:port.
func address(s string) bool {
	i := strings.LastIndexByte(s, ':')
	if i <= 0 || i == len(s)-1 || len(s) > 300 {
		return false
	}
	host, port := s[:i], s[i+1:]
	if n := 0; len(port) <= 5 && strings.Trim(port, "0123456789") == "" {
		fmt.Sscan(port, &n) //nolint:errcheck // digits
		if n < 1 || n > 65535 {
			return false
		}
	} else {
		return false
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		return len(host) > 4 && strings.Trim(host[1:len(host)-1], "0123456789abcdefABCDEF:.%") == ""
	}
	return filter.Plain(host)
}

// fieldName reports whether s may be a field's name, or a cookie's.
func fieldName(s string) bool { return filter.Token(s) && len(s) <= 256 }

// fieldValue reports whether s can be written as a field's value. spec: RFC 9110 §5.5
func fieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return len(s) <= 16<<10 && strings.Trim(s, " \t") == s
}
