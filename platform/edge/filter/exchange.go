package filter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"hash/maphash"
	"io"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
)

// Client is the connection a request came by. It lives as long as the connection, and does not change once the first
// request is served.
type Client struct {
	Remote   netip.AddrPort // as the PROXY protocol has it where that is spoken
	Local    netip.AddrPort
	Peer     netip.AddrPort // the other end of the connection
	Listener string         // the listener's name
	TLS      *tls.ConnectionState
	Identity string            // of a verified client certificate, by [Identity]
	Proxied  map[string]string // what the PROXY protocol told beside addresses: ALPN, AUTHORITY, SSL, VPCE
}

// Identity returns who a verified client certificate is for: its SPIFFE id, else its common name; "" without one.
func Identity(s *tls.ConnectionState) string {
	if s == nil || len(s.VerifiedChains) == 0 {
		return ""
	}
	return IdentityOf(s.PeerCertificates[0])
}

// IdentityOf returns whom a certificate is for: its SPIFFE id, else its common name.
func IdentityOf(leaf *x509.Certificate) string {
	for _, u := range leaf.URIs {
		if u.Scheme == "spiffe" {
			return u.String()
		}
	}
	return leaf.Subject.CommonName
}

// Request is what the client wants. Filters may change it before the endpoint runs.
type Request struct {
	Method   string
	Target   string // the request target as it came
	Scheme   string // http or https
	Host     string // the authority, with its port if there was one
	Path     string // escaped, dot segments removed, beginning with / or *
	RawQuery string
	Proto    int // 10, 11, 20 or 30
	Header   Header

	ContentLength int64         // of Body; -1 is unknown, 0 is none
	Body          io.ReadCloser // nil: none
	Trailer       Header        // there once Body has ended

	Upgrade string // the protocol that is asked for by Upgrade, or by :protocol with an extended CONNECT
}

// Awaited reports whether some of the body is yet to come.
func (q *Request) Awaited() bool {
	if q.Body == nil {
		return false
	}
	b, ok := q.Body.(interface{ Buffered() []byte })
	return !ok || q.ContentLength < 0 || int64(len(b.Buffered())) < q.ContentLength
}

// Response is what the client gets.
type Response struct {
	Status int
	Header Header

	ContentLength int64         // of Body; -1 is unknown: chunked, or until the connection closes
	Body          io.ReadCloser // nil: none. The engine closes it. If it has the method Buffered() []byte, what that returns can be had without waiting
	Trailer       *Header       // read once Body has ended; nil: none

	Flush bool // write on what Body yields as it comes, as for event streams; always so if ContentLength is -1

	// Refused tells that nothing was done of the request, so that it may be asked again: over HTTP/2 REFUSED_STREAM says so in
	// place of the answer.
	Refused bool

	Cut bool // cut the connection, with an RST where that can be, in place of an answer

	// Takeover is called with the client's connection once the head, a 101 or an extended CONNECT's 200, was written,
	// and with what the client had sent beyond its request. When it returns, the connection is closed. nil: none.
	Takeover func(c net.Conn, early []byte)

	// Detached, set by Takeover, tells the engine to forget the connection when Takeover returns: somebody else closes it.
	// Only engines that say so in [Exchange.MayDetach] can.
	Detached bool
}

// Plan is what a route has decided once and for all requests that take it. It never changes.
type Plan struct {
	Route    string // the route's id
	Endpoint *Filter
	Inbound  []*Filter // the route's own, run after routing, in order
	Outbound []*Filter

	Timeout        time.Duration // of the request; 0: as for every route; negative: none
	AttemptTimeout time.Duration // of each attempt; 0: none of its own
	Retries        int           // at most so many; 0: as the app has it; negative: none
	RetryMethods   []string      // that may be retried; nil: GET, HEAD, OPTIONS
	RetryStatuses  []int         // that are retried; nil: 503
	RetryUnsafe    bool          // retry any method on a connection that broke before it was answered
	Hedge          bool
	Priority       uint8  // 1 to 100; 0: none of its own
	Upgrades       bool   // whether Upgrade passes; routes allow it unless they say otherwise
	Protocol       string // to the origin: "" is HTTP/1.1 (HTTP/2 for gRPC), "h2c", "h2"
	MaxBody        int64  // of a request, in bytes; 0: as for every route
	Buffering      int8   // a request's body is at hand, or much of it, before the app is asked: 1, -1: it is not, 0: unless it looks like a stream

	Mirrors []Mirror // apps that get copies of requests
}

// Mirror is an app that gets a copy of a share of a route's requests.
type Mirror struct {
	App     string
	Percent float64 // 0 to 100
}

// Attempt is one try at an origin, as X-Zuul-Proxy-Attempts and the access log tell it.
type Attempt struct {
	Number         int
	Status         int
	Duration       time.Duration
	Error          string // in Zuul's words, such as ORIGIN_SERVICE_UNAVAILABLE; empty if there was none
	Cause          error
	App            string
	ServerGroup    string
	Instance       string
	Host           string
	Port           int
	Region, Zone   string
	ReadTimeout    time.Duration
	ConnectTimeout time.Duration
	MaxRetries     int
}

// Exchange is one request and its response. It belongs to the goroutine of the request; engines use it again.
type Exchange struct {
	Client   *Client
	Request  Request
	Response Response

	ID       string // of the request; travels as X-Request-Id
	Trace    string // id of the trace it is part of, 32 hexadecimal digits; empty: none
	Start    int64  // when its head was there, by [Now]
	Deadline int64  // by [Now]; 0: none

	From    netip.Addr // who asks: the client's address, or what a trusted proxy in front says of it; invalid: unknown
	Trusted bool       // the other end of the connection may speak for others: X-Forwarded-* and X-Edge-* of its are kept

	Priority    uint8 // 1, the most important, to 100; 0: not decided yet
	Criticality roadbed.Criticality
	Fault       *fault.Context // nil: none
	User        string         // who asks, as authentication or the member's header has it; empty: unknown

	MayDetach bool // the engine can give the connection away for good; see Response.Detached

	// Waiter wakes up who waits for an origin when the client goes away; nil if the engine tells that by Context alone.
	Waiter *Waiter

	// Outlet tells how the client takes the answer; nil if the engine cannot.
	Outlet *Outlet

	// Interim passes an informational answer, such as 103, on to the client; nil if that cannot be done.
	Interim func(status int, h *Header)

	Plan     *Plan  // of the route it takes; nil: none yet
	App      string // that answers, the vip of the chosen backend
	Path     string // escaped, that the origin is asked for; empty: Request.Path
	Prefix   string // that Path leaves out, for X-Forwarded-Prefix
	Host     string // that the origin is asked for; empty: Request.Host
	Group    string // the server group of App to ask, for surgical routing; empty: any
	Instance string // the only one of App to ask, for surgical routing; empty: any
	Addr     string // host:port to ask in place of any instance; empty: none
	Force    bool   // ask Instance even if it is not UP
	Affinity uint64 // the same for who is to have the same instance of App; 0: any will do
	Surgical string // id of the surgical rule that decided who is asked; empty: none
	Hop      string // the region that sent it here through a tunnel; empty: none
	Away     string // the region that it is sent to through a tunnel; empty: it is served here

	Attempts []Attempt
	Passport Passport

	category Category
	reason   string
	Origin   Category // how the last attempt at the origin ended
	Err      error    // why the response is no answer of the origin's, or why writing it broke off

	answered bool // Response is set and no endpoint is wanted
	failing  bool // the error endpoint is wanted
	stopped  bool
	Debug    bool // answers tell X-Zuul-* of this request

	Whole   []byte // the whole body, of the request or of the response, for a filter that asked for it
	Written int64  // bytes of the response's body that the client got
	Read    int64  // bytes of the request's body that were read
	Failed  []Failure
	Ran     []Execution // of filters, if Debug

	said   text
	in     whole // the request's body if it was buffered
	out    whole // the response's
	ctx    context.Context
	values []value
	arena  []byte
	onEnd  []func(*Exchange)
	served []func(*Exchange)
}

// Failure is a filter that failed.
type Failure struct {
	Filter string
	Err    error
}

// Execution is one filter's run.
type Execution struct {
	Filter *Filter
	Status string // SUCCESS, SKIPPED, DISABLED, FAILED
	Took   time.Duration
}

type value struct {
	key string
	val any
}

// Context returns the context of the request; it ends when the client is gone, as far as the engine can tell, or when
// the exchange ends.
func (x *Exchange) Context() context.Context {
	if x.ctx == nil {
		return context.Background()
	}
	return x.ctx
}

// SetContext makes ctx the context of the request.
func (x *Exchange) SetContext(ctx context.Context) { x.ctx = ctx }

// Certified reports whether who asks has shown a client certificate that holds. Another region's edge has shown one of its own,
// which says nothing of whom it speaks for.
func (x *Exchange) Certified() bool {
	return x.Client != nil && x.Hop == "" && x.Client.TLS != nil && len(x.Client.TLS.VerifiedChains) > 0
}

// Identity returns whom the certificate of who asks is for, by [Identity]; "" if it is not [Exchange.Certified].
func (x *Exchange) Identity() string {
	if x.Client == nil || x.Hop != "" {
		return ""
	}
	return x.Client.Identity
}

// ClientKey returns a number for who asks by x.From: an address, of IPv6 a household's first 64 bits.
func (x *Exchange) ClientKey(seed maphash.Seed) uint64 {
	from := x.From.Unmap()
	a := from.As16()
	if from.Is4() {
		return maphash.Bytes(seed, a[:])
	}
	return maphash.Bytes(seed, a[:8])
}

// Set keeps a value for later filters.
func (x *Exchange) Set(key string, val any) {
	for i := range x.values {
		if x.values[i].key == key {
			x.values[i].val = val
			return
		}
	}
	x.values = append(x.values, value{key, val})
}

// Value returns what Set has kept; nil if nothing.
func (x *Exchange) Value(key string) any {
	for i := range x.values {
		if x.values[i].key == key {
			return x.values[i].val
		}
	}
	return nil
}

// Values calls fn with everything that Set has kept.
func (x *Exchange) Values(fn func(key string, val any)) {
	for _, v := range x.values {
		fn(v.key, v.val)
	}
}

// Keep returns b as a string that lives as long as the request. It takes memory of the exchange's own, which is used
// again.
//
// hot path: 0 allocs, BenchmarkKeep
func (x *Exchange) Keep(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if cap(x.arena)-len(x.arena) < len(b) {
		x.arena = make([]byte, 0, max(4096, 2*cap(x.arena), len(b))) // what lies in the old one stays where it is
	}
	at := len(x.arena)
	x.arena = append(x.arena, b...)
	return unsafe.String(&x.arena[at], len(b))
}

// Answer sets the response and has no endpoint run: what comes before is over, the outbound filters run. The header of
// the response is emptied first; text may be empty.
func (x *Exchange) Answer(status int, text string) {
	r := &x.Response
	if r.Body != nil {
		r.Body.Close() //nolint:errcheck // what is replaced is of no use to anybody
	}
	r.Header.Reset()
	*r = Response{Status: status, Header: r.Header}
	if text != "" {
		r.Header.Add("Content-Type", "text/plain; charset=utf-8")
		x.said.left = text
		r.Body, r.ContentLength = &x.said, int64(len(text))
	}
	x.answered = true
}

// Respond is Answer for an endpoint or filter that has filled x.Response itself.
func (x *Exchange) Respond() { x.answered = true }

// Answered reports whether there is a response, and no endpoint is wanted.
func (x *Exchange) Answered() bool { return x.answered }

// Stop ends the filters that may be left out: those without Always.
func (x *Exchange) Stop() { x.stopped = true }

// SetCategory says how the request ended. A success does not overwrite a failure.
func (x *Exchange) SetCategory(c Category, reason string) {
	if x.category.Failure() && !c.Failure() {
		return
	}
	x.category, x.reason = c, reason
}

// Category returns how the request ended, and why in a sentence; "" if there is nothing to say.
func (x *Exchange) Category() (Category, string) { return x.category, x.reason }

// OnEnd has fn called once when the request is over: the response was written, or will never be. The last comes first.
func (x *Exchange) OnEnd(fn func(*Exchange)) { x.onEnd = append(x.onEnd, fn) }

// OnServed has fn called once when the app's part in the request is over: its answer was read to its end or given up, though the
// client may not have it yet. That is when the request is over, at the latest.
func (x *Exchange) OnServed(fn func(*Exchange)) { x.served = append(x.served, fn) }

// Served tells that the app's part in the request is over.
func (x *Exchange) Served() {
	for _, fn := range x.served {
		fn(x)
	}
	clear(x.served)
	x.served = x.served[:0]
}

// End calls what OnEnd was given and closes the response's body. Engines call it once for each exchange, before Reset.
func (x *Exchange) End() {
	if x.Response.Body != nil {
		x.Response.Body.Close() //nolint:errcheck // it was read to its end, or nobody is there to be told
		x.Response.Body = nil
	}
	x.Served()
	for i := len(x.onEnd) - 1; i >= 0; i-- {
		x.onEnd[i](x)
	}
	clear(x.onEnd)
	x.onEnd = x.onEnd[:0]
}

// Left returns how long the request may still take; ok is false if there is no deadline.
func (x *Exchange) Left() (left time.Duration, ok bool) {
	if x.Deadline == 0 {
		return 0, false
	}
	return time.Duration(x.Deadline - Now()), true
}

// Reset makes the exchange as new and keeps its memory.
func (x *Exchange) Reset() {
	clear(x.values)
	clear(x.Attempts)
	clear(x.Failed)
	clear(x.Ran)
	// What is kept is taken out and put back: one literal of all would be built beside x and copied, as large as it is.
	request, trailer, response := x.Request.Header, x.Request.Trailer, x.Response.Header
	request.Reset()
	trailer.Reset()
	response.Reset()
	x.Passport.Reset()
	values, arena, onEnd, served, passport := x.values[:0], x.arena[:0], x.onEnd[:0], x.served[:0], x.Passport
	attempts, failed, ran := x.Attempts[:0], x.Failed[:0], x.Ran[:0]
	in, out := x.in.emptied(), x.out.emptied()
	*x = Exchange{}
	x.Request.Header, x.Request.Trailer, x.Response.Header = request, trailer, response
	x.values, x.arena, x.onEnd, x.served, x.Passport = values, arena, onEnd, served, passport
	x.Attempts, x.Failed, x.Ran = attempts, failed, ran
	x.in, x.out = in, out
}

// Text returns a body that is a string, in memory of its own; see [Exchange.Answer] for one that takes none.
func Text(s string) io.ReadCloser { return &text{s} }

type text struct{ left string }

// Read reads on.
func (t *text) Read(p []byte) (int, error) {
	if t.left == "" {
		return 0, io.EOF
	}
	n := copy(p, t.left)
	t.left = t.left[n:]
	return n, nil
}

// Close does nothing.
func (t *text) Close() error { return nil }

// Buffered returns what is left.
func (t *text) Buffered() []byte { return unsafe.Slice(unsafe.StringData(t.left), len(t.left)) }
