package ipc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc/balance"
)

// Headers that travel between services, beside [fault.Header], X-Request-Id, traceparent and tracestate.
const (
	HeaderTimeout     = "X-Ipc-Timeout-Ms" // milliseconds the caller still waits
	HeaderAttempt     = "X-Ipc-Attempt"    // 1, or more for a retry; kept by those who serve it
	HeaderCaller      = "X-Ipc-Caller"     // the calling app
	HeaderCriticality = "X-Ipc-Criticality"
	HeaderPriority    = "X-Ipc-Priority" // 1, the most important, to 100; only if it is not the usual one of the criticality
	HeaderTrial       = "X-Ipc-Trial"    // "1": the caller's breaker waits for how this ends, so let it through
	HeaderNoRetry     = "X-Ipc-No-Retry" // in a response: "1" = do not try again, here or upstream
	HeaderRequestID   = "X-Request-Id"

	// HeaderBackoff, in a response such as the edge's when it sheds load, asks all callers to retry less for a while:
	// "max-retries=0;window=10" is no retries of a call to that app within 10 s.
	HeaderBackoff = "X-Edge-Backoff"

	headerError = "X-Ipc-Error" // in a response: why it is no answer of the handler's: "injected", "shed"
)

const (
	maxAttempts   = 10 // of one call, those that never reached anybody included
	minMargin     = 2 * time.Millisecond
	backoffBase   = 25 * time.Millisecond
	backoffCap    = 250 * time.Millisecond
	dialTimeout   = 500 * time.Millisecond
	drainAtMost   = 4 << 10
	maxRetryAfter = 24 * time.Hour
)

// dialError is a failure before anything was sent.
type dialError struct{ err error }

func (d *dialError) Error() string { return d.err.Error() }
func (d *dialError) Unwrap() error { return d.err }

// handshakeTimeout bounds what of a connection over TLS comes after it is open.
const handshakeTimeout = 2 * time.Second

// newTransport returns an http.Transport that gives up dialling after so long; 0 is as usual. Over TLS it speaks HTTP/2 if http2
// is set.
func (e *Engine) newTransport(dial time.Duration, http2 bool) *http.Transport {
	if dial == 0 {
		dial = dialTimeout
	}
	d := net.Dialer{Timeout: dial, KeepAlive: 15 * time.Second}
	open := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, &dialError{err}
		}
		return c, nil
	}
	var secure func(ctx context.Context, network, addr string) (net.Conn, error)
	if e.handshake != nil {
		secure = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := open(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
			defer cancel()
			t, err := e.handshake(ctx, c, addr, http2)
			if err != nil {
				c.Close() //nolint:errcheck // nothing was sent
				return nil, &dialError{err}
			}
			return t, nil
		}
	}
	return &http.Transport{
		DialContext:           open,
		DialTLSContext:        secure,
		MaxIdleConns:          0, // the limit is per host
		MaxIdleConnsPerHost:   128,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   handshakeTimeout,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // what the callee sends goes through as it is
	}
}

// newHTTP2 returns the transport of an engine for what needs HTTP/2, in clear or over TLS.
func (e *Engine) newHTTP2() *http.Transport {
	t := e.newTransport(0, true)
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP2(true)
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}

// over returns what carries req: gRPC exists over HTTP/2 only.
func (e *Engine) over(req *http.Request) http.RoundTripper {
	if e.http2 != nil && IsGRPC(req.Header) {
		return e.http2
	}
	return e.base
}

// IsGRPC reports whether h is the header of a gRPC request. Source: gRPC over HTTP/2, "Content-Type".
func IsGRPC(h http.Header) bool {
	v := h["Content-Type"]
	return len(v) == 1 && strings.HasPrefix(v[0], "application/grpc") && !strings.HasPrefix(v[0], "application/grpc-web")
}

// Override changes settings for the HTTP calls made with one context. A zero field is as the command has it; a
// negative one means no timeout, no retries.
type Override struct {
	Timeout time.Duration // at most 24 h
	Retries int           // at most 9 are made

	// Command has the calls run under its breaker, bulkhead, time and retries in place of those of the app they go to.
	// Balancing, the retry budget and the meters stay the app's.
	Command *Command

	// Idempotent says that the requests may be sent twice, whatever their methods.
	Idempotent bool
}

type overrideKey struct{}

// WithOverride returns a context whose HTTP calls use o, for instance those of one route of a gateway.
func WithOverride(ctx context.Context, o Override) context.Context {
	return context.WithValue(ctx, overrideKey{}, &o)
}

// transport is the engine as an http.RoundTripper.
type transport Engine

// exchange is one HTTP call: its context, the request of its first attempt and the body of its response in one
// allocation.
type exchange struct {
	scope
	course
	engine *Engine
	orig   *http.Request
	joined bool // runs inside a command of the same name, whose breaker, permit and report cover it
	permit permit

	answeredAt int64 // when the outcome was there that counts
	source     requestBody
	leg        leg // the present attempt

	ended  atomic.Bool
	body   responseBody
	url    url.URL    // of the first attempt
	values [10]string // of its headers
}

// RoundTrip makes a balanced call if the request's host is the name of an app, and a plain one otherwise.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	e := (*Engine)(t)
	if req.URL == nil || !isName(req.URL.Host) {
		return e.over(req).RoundTrip(req)
	}
	cl := e.cluster(strings.ToLower(req.URL.Host))
	if strings.Contains(cl.name, ".") && !cl.listed() {
		return e.base.RoundTrip(req)
	}
	// One allocation carries the whole call.
	x := &exchange{engine: e, course: course{cluster: cl, inbound: inboundOf(req.Context())}, orig: req}
	x.source.body, x.source.get = req.Body, req.GetBody
	resp, err := x.run()
	if err != nil {
		x.source.close()
	}
	return resp, err
}

// isName reports whether host may be an app's name: no port, no address.
func isName(host string) bool {
	if host == "" || strings.Contains(host, ":") {
		return false
	}
	if c := host[0]; c >= '0' && c <= '9' {
		_, err := netip.ParseAddr(host)
		return err != nil
	}
	return true
}

// run makes the call.
func (x *exchange) run() (*http.Response, error) {
	cmd, ctx := x.cluster.cmd, x.orig.Context()
	override, _ := ctx.Value(overrideKey{}).(*Override)
	if override != nil && override.Command != nil {
		cmd = override.Command
	}
	set := cmd.set.Load()
	s := scopeOf(ctx)
	x.joined = s != nil && s.cmd == cmd && s.http == nil
	if s != nil && !x.joined {
		s.other.Store(true)
	}
	x.scope.Context, x.scope.cmd = ctx, cmd

	now := x.engine.clock.now()
	var refused *Error
	if x.joined {
		x.permit = permit{start: now, deadline: noDeadline, own: s.deadline != 0}
		if t, ok := ctx.Deadline(); ok {
			x.permit.deadline = x.engine.clock.at(t)
		}
	} else {
		timeout := set.Timeout
		if override != nil && override.Timeout != 0 {
			timeout = min(override.Timeout, maxTimeout)
		}
		if refused = cmd.admit(ctx, &x.permit, set, timeout, now, int64(set.MaxConcurrent)); refused != nil {
			cmd.count(fallbackMissing)
			var how ending
			cmd.refused(&how, refused, true)
			how.fallback = fallbackMissing
			x.cluster.cmd.report(&how, resultFailure)
			cmd.logCall(ctx, &how)
			x.remember(now, now, refused.Kind, 0, refused)
			return nil, refused
		}
	}
	x.deadline = x.permit.deadline
	x.trial = x.permit.trial != 0 || x.inbound != nil && x.inbound.trial || x.joined && s.trial
	x.scope.http = x
	own := 0
	if override != nil {
		own = override.Retries
	}
	idempotent := x.course.begin(set, own)
	panicked := true
	defer func() {
		if panicked {
			x.fail(errors.New("the transport panicked"))
		}
	}()
	resp, err := x.try(set, idempotent || override != nil && override.Idempotent)
	panicked = false
	if err != nil {
		return nil, x.fail(err)
	}
	return x.deliver(resp), nil
}

// try makes attempts until one is good enough or no more are allowed.
func (x *exchange) try(set *settings, idempotent bool) (*http.Response, error) {
	clk := x.engine.clock
	idempotent = idempotent || isIdempotent(x.orig)
	now := x.permit.start // a moment ago
	ep := x.cluster.lb.Pick(now)
	if ep == nil {
		var err error
		if ep, err = x.cluster.pick(&x.scope, now); err != nil {
			return nil, &Error{Command: x.cluster.name, Kind: NoEndpoint, Cause: err}
		}
		now = clk.now() // that may have taken time
	}
	t := &x.first
	t.at, t.endpoint = now, ep
	for {
		var resp *http.Response
		var err error
		two := false
		if set.Hedge && x.attempts == 0 && idempotent && !x.nested && x.source.repeats() {
			if resp, t, two, err = x.hedge(set); two {
				x.retries = 0
			}
		} else {
			resp, err = x.once(set, t)
		}
		x.endpoint = t.endpoint
		o := x.upshot(resp, err)
		next, wait := x.decide(set, t, &o, idempotent, two, x.deadline)
		if next == nil {
			x.answeredAt = t.end
			if t.next == bodySent && err != nil {
				err = fmt.Errorf("%w; %w", err, ErrBodySent)
			}
			return resp, err
		}
		if resp != nil {
			drain(resp)
			x.leg.letGo()
		}
		if wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-x.Done():
				timer.Stop()
				return nil, x.scope.Err()
			}
		}
		t = x.again(clk.now(), wait, next)
	}
}

// upshot tells how an attempt ended.
func (x *exchange) upshot(resp *http.Response, err error) (o upshot) {
	if err == nil {
		if o.status = resp.StatusCode; o.status >= 400 {
			o.noRetry, o.retryAfter, o.whole = resp.Header.Get(HeaderNoRetry) == "1", resp.Header.Get("Retry-After"), x.source.canSend()
			x.cluster.asked(resp.Header.Get(HeaderBackoff))
		}
		return o
	}
	if o.gone = x.scope.Err() != nil; !o.gone {
		o.unsent, o.whole = isUnsent(err), x.source.canSend()
	}
	return o
}

// backoff returns a random wait before retry k, counted from 0.
func backoff(k int) time.Duration {
	return time.Duration(rand.Int64N(int64(min(backoffCap, backoffBase<<k)) + 1))
}

var errNoAnswer = errors.New("the transport returned neither a response with a body nor an error, as http.RoundTripper wants it; see Options.Transport")

// isUnsent reports whether err came before anything was sent, or from a callee that did not look at it.
func isUnsent(err error) bool {
	var d *dialError
	if errors.As(err, &d) {
		return true
	}
	var h2 streamError
	if errors.As(err, &h2) {
		return h2.Code == refusedStream
	}
	return strings.Contains(err.Error(), "; REFUSED_STREAM; received from peer") // where a body was sent net/http keeps no more of it
}

// streamError has the form of what net/http returns when an HTTP/2 stream is reset, which errors.As fills.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

const refusedStream = 7 // RFC 9113 §7 and §8.7: not worked on at all

func (s streamError) Error() string {
	return "HTTP/2 stream reset with code " + strconv.Itoa(int(s.Code))
}

// isIdempotent reports whether sending req twice does no harm, as RFC 9110 §9.2.2 has it or as the caller says with
// an Idempotency-Key.
func isIdempotent(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return req.Header.Get("Idempotency-Key") != ""
}

// parseRetryAfter reads a Retry-After header: seconds or an HTTP date. asked tells that there is one, valid that it
// could be read.
func parseRetryAfter(s string, now time.Time) (wait time.Duration, asked, valid bool) {
	if s == "" {
		return 0, false, false
	}
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter), true, true
	}
	t, err := http.ParseTime(s)
	if err != nil {
		return 0, true, false
	}
	return min(max(0, t.Sub(now)), maxRetryAfter), true, true
}

// drain reads the rest of a small body, so that its connection can be used again, and closes it.
func drain(resp *http.Response) {
	if resp.ContentLength >= 0 && resp.ContentLength <= drainAtMost {
		io.CopyN(io.Discard, resp.Body, drainAtMost) // an error only costs the connection
	}
	resp.Body.Close()
}

// once makes an attempt that gets no company.
func (x *exchange) once(set *settings, t *try) (*http.Response, error) {
	x.count(t)
	req, err := x.prepare(&x.leg, &x.scope, set, t)
	if err != nil {
		return nil, err
	}
	return x.attempt(&x.leg, req, t)
}

// prepare makes the request of an attempt.
func (x *exchange) prepare(l *leg, ctx context.Context, set *settings, t *try) (*http.Request, error) {
	if set.AttemptTimeout > 0 {
		ctx, l.cancel = context.WithTimeout(ctx, set.AttemptTimeout)
	}
	req, err := x.request(ctx, t)
	if err != nil {
		l.letGo()
		t.end, t.err = x.engine.clock.now(), err
	}
	return req, err
}

// attempt sends req once, to where t says, and writes to t how that went.
func (x *exchange) attempt(l *leg, req *http.Request, t *try) (*http.Response, error) {
	resp, err := x.send(l, req, t)
	if t.end == 0 {
		t.end = x.engine.clock.now()
	}
	if t.err = err; err == nil {
		t.status = int16(resp.StatusCode)
	} else {
		l.letGo()
	}
	return resp, err
}

func (x *exchange) send(l *leg, req *http.Request, t *try) (*http.Response, error) {
	ep, ctx := t.endpoint, req.Context()
	start := t.at
	var bent fault.Shape
	if f := x.faults(); f != nil {
		resp, shape, done, err := x.inject(ctx, f, t)
		bent = shape
		if done {
			if req.Body != nil {
				req.Body.Close() // as the transport would have done
			}
			return resp, err
		}
		start = x.engine.clock.now()
	}
	l.hold(ep)
	resp, err := x.cluster.carrier(req, ep).RoundTrip(req)
	if err == nil && (resp == nil || resp.Body == nil) {
		resp, err = nil, errNoAnswer
	}
	end := x.engine.clock.now()
	t.end = end
	v := balance.Answered
	switch {
	case err == nil:
		switch v = balance.OfStatus(resp.StatusCode); {
		case wasShed(resp):
			v = balance.Declined
		case x.cmd.hastily(&x.permit, resp.StatusCode):
			v = balance.Abandoned
		}
		reported(ep, first(resp.Header[balance.HeaderUtilization]), first(resp.Header[balance.HeaderLoad]), end)
	case errors.Is(x.scope.Context.Err(), context.Canceled), context.Cause(ctx) == errOutrun:
		v = balance.Abandoned
	case isUnsent(err):
		if v = balance.Unreached; ctx.Err() != nil {
			v = balance.Abandoned // the caller ran out of time while dialling
		}
	case x.scope.Err() != nil && x.cmd.hasty(&x.permit):
		v = balance.Abandoned
	default:
		v = balance.Broken
	}
	ep.Done(v, end, end-start)
	if v != balance.Abandoned {
		x.cluster.attempt(ep.Zone, v == balance.Answered)
	}
	if err != nil {
		return nil, err
	}
	if !bent.IsZero() && resp.Body != http.NoBody {
		resp.Body = bent.Reader(ctx, resp.Body, resp.ContentLength)
	}
	return resp, nil
}

// request builds what goes to ep. The caller's request stays as it is; attempts share nothing that is written to.
func (x *exchange) request(ctx context.Context, t *try) (*http.Request, error) {
	ep := t.endpoint
	u, values := &x.url, x.values[:0]
	if x.attempts > 1 {
		u, values = new(url.URL), make([]string, 0, len(x.values))
	}
	*u = *x.orig.URL
	u.Host = ep.Addr
	u.Scheme = "http"
	if ep.Secure {
		u.Scheme = "https"
	}
	own := 3 // usually: up to eight in all cost two allocations, more cost four
	if x.inbound != nil {
		own = 6
	}
	h := make(http.Header, len(x.orig.Header)+own)
	for k, v := range x.orig.Header {
		h[k] = v
	}
	set := func(key, value string) {
		values = append(values, value)
		h[key] = values[len(values)-1 : len(values) : len(values)]
	}
	if x.deadline != noDeadline {
		ms, ok := outgoing(time.Duration(x.deadline - t.at))
		if !ok {
			return nil, &Error{Command: x.cluster.name, Kind: TimedOut, Cause: ErrDeadlineSpent}
		}
		set(HeaderTimeout, strconv.FormatInt(ms, 10))
	}
	attempt := int(t.number)
	in := x.inbound
	if in != nil {
		attempt += in.attempt - 1
		if in.id != "" && h[HeaderRequestID] == nil {
			set(HeaderRequestID, in.id)
		}
		if in.traceparent != "" && h["Traceparent"] == nil {
			set("Traceparent", in.traceparent)
			if in.tracestate != "" {
				set("Tracestate", in.tracestate)
			}
		}
	}
	set(HeaderAttempt, strconv.Itoa(attempt))
	if x.trial {
		set(HeaderTrial, "1")
	}
	if attempt > 1 {
		set("X-Envoy-Attempt-Count", strconv.Itoa(attempt))
	}
	if x.engine.app != "" {
		set(HeaderCaller, x.engine.app)
	}
	if c, p := in.lowered(x.cmd.set.Load().Criticality); c != roadbed.Critical || in != nil {
		set(HeaderCriticality, c.String())
		if p != usualPriority[c] {
			set(HeaderPriority, strconv.Itoa(int(p)))
		}
	}
	if f := x.faults(); f != nil {
		set(fault.Header, f.Header())
	}
	body, err := x.source.next()
	if err != nil {
		return nil, err
	}
	r := x.orig.WithContext(ctx)
	r.URL, r.Header, r.Body = u, h, body
	if x.orig.Host == x.orig.URL.Host {
		r.Host = "" // the endpoint's address, unless the caller wants it otherwise
	}
	return r, nil
}

// outgoing returns the milliseconds to tell the callee, given what is left: some is kept for the way back.
func outgoing(left time.Duration) (ms int64, ok bool) {
	ms = int64((left - max(minMargin, left/100)) / time.Millisecond)
	return ms, ms > 0
}

// faults returns the rules of this request.
func (x *exchange) faults() *fault.Context { return fault.From(x.scope.Context) }

// inject does what the request's faults ask of calls to this app. done tells that the attempt is over; if it is not,
// the response's body shall be bent.
func (x *exchange) inject(ctx context.Context, f *fault.Context, t *try) (resp *http.Response, bent fault.Shape, done bool, err error) {
	a, err := x.course.inject(ctx, f, t)
	if err != nil {
		return nil, bent, true, err
	}
	if a.Status != 0 {
		text := a.Err.Error() + "\n"
		resp = &http.Response{
			Status: strconv.Itoa(a.Status) + " " + http.StatusText(a.Status), StatusCode: a.Status,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(text)), Request: x.orig,
			Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}, headerError: {"injected"}},
			Body:   io.NopCloser(strings.NewReader(text)),
		}
		return resp, bent, true, nil
	}
	return nil, a.Body, false, nil
}

// injectedReset looks like a reset by the peer to those who ask.
type injectedReset struct{ err error }

func (r *injectedReset) Error() string   { return r.err.Error() }
func (r *injectedReset) Unwrap() []error { return []error{r.err, syscall.ECONNRESET} }

// deliver hands the response to the caller; the call goes on until its body ends.
func (x *exchange) deliver(resp *http.Response) *http.Response {
	end := x.answeredAt
	kind, e, r := x.cmd.meaning(&x.permit, resp.StatusCode, first(resp.Header[headerError]))
	if !x.joined {
		x.cmd.settle(x.orig.Context(), &x.permit, kind, e, r, end)
	}
	x.remember(x.permit.start, end, kind, resp.StatusCode, nil)
	x.source.settle()
	resp.Request = x.orig
	if resp.Body == http.NoBody {
		x.leg.letGo()
		x.finish()
		return resp
	}
	x.body = responseBody{inner: resp.Body, x: x, status: int16(resp.StatusCode)}
	resp.Body = &x.body
	if rw, ok := x.body.inner.(io.ReadWriteCloser); ok {
		resp.Body = &upgradedBody{&x.body, rw}
	}
	return resp
}

// fail ends a call that has no response, and returns what the caller is told.
func (x *exchange) fail(err error) error {
	end := x.engine.clock.now()
	ctx := x.orig.Context()
	late := errors.Is(x.scope.Err(), context.DeadlineExceeded) || end >= x.deadline
	kind := classify(err, late, errors.Is(ctx.Err(), context.Canceled))
	if !x.joined {
		x.cmd.settleFailed(ctx, &x.permit, kind, err, end)
	}
	x.finish()
	out := x.told(kind, err)
	x.remember(x.permit.start, end, kind, 0, out)
	return out
}

// remember keeps what can be told of the call, for a while.
func (x *exchange) remember(start, end int64, kind Kind, status int, err error) {
	r := x.record(start, end, kind, status, err)
	x.cluster.calls.add(&r, false)
}

func (x *exchange) record(start, end int64, kind Kind, status int, err error) record {
	r := record{
		at: start, end: end, deadline: x.permit.deadline, method: x.orig.Method, path: x.orig.URL.Path,
		err: err, status: int16(status), kind: kind, first: x.first, more: x.more,
	}
	if in := x.inbound; in != nil {
		r.id, r.hop = in.id, int16(in.attempt)
	} else if id := x.orig.Header[HeaderRequestID]; len(id) > 0 {
		r.id = id[0]
	}
	if r.method == "" {
		r.method = http.MethodGet
	}
	return r
}

// finish gives back the permit and ends the context, once. The scope calls it too, when the deadline passes before
// the caller has closed the body.
func (x *exchange) finish() {
	if !x.ended.CompareAndSwap(false, true) {
		return
	}
	x.leg.rest()
	if !x.joined {
		x.cmd.release(&x.permit)
	}
	x.scope.end(context.Canceled)
}

// responseBody is the body of the response that the caller gets. Its end is the end of the call.
type responseBody struct {
	inner io.ReadCloser
	x     *exchange
	over  bool // the end was seen

	status int16
}

// Read reads on.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.inner.Read(p)
	if err != nil && !b.over {
		b.over = true
		if err != io.EOF {
			b.broke(err)
		}
		b.x.leg.letGo()
		b.x.finish()
	}
	return n, err
}

// broke tells the balancer of a body that ended early, unless that was the caller's doing.
func (b *responseBody) broke(err error) {
	x, now := b.x, b.x.engine.clock.now()
	if x.scope.Err() == nil {
		x.endpoint.Done(balance.Broken, now, 0)
	}
	r := x.record(x.permit.start, x.answeredAt, None, int(b.status), nil)
	r.broke, r.brokeAt = err, now
	x.cluster.calls.add(&r, false)
}

// Close ends the call.
func (b *responseBody) Close() error {
	err := b.inner.Close()
	b.x.leg.letGo()
	b.x.finish()
	return err
}

// upgradedBody is the body of a 101 response, to which the caller may write.
type upgradedBody struct {
	*responseBody
	rw io.ReadWriteCloser
}

// Write writes to the connection.
func (b *upgradedBody) Write(p []byte) (int, error) { return b.rw.Write(p) }

// requestBody hands out the caller's body for each attempt and sees to it that it is closed in the end. A body that
// cannot be had again may still be sent by a later attempt, as long as nobody has read from it.
type requestBody struct {
	body io.ReadCloser
	get  func() (io.ReadCloser, error)

	mu      sync.Mutex
	handed  bool // an attempt got it as it is
	used    bool // somebody has read from it
	dropped bool // the transport has closed it unread
	settled bool // no attempt follows
	shut    bool // it is closed
}

// next returns the body for one more attempt.
func (s *requestBody) next() (io.ReadCloser, error) {
	if s.body == nil || s.body == http.NoBody {
		return s.body, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.handed, !s.used && s.get == nil:
		s.handed, s.dropped = true, false
		return s, nil
	case s.get != nil:
		body, err := s.get()
		if err == nil && body == nil {
			err = errors.New("it returned neither a body nor an error")
		}
		if err != nil {
			err = fmt.Errorf("have the request's body again by its GetBody: %w", err)
		}
		return body, err
	}
	return nil, ErrBodySent
}

// canSend reports whether next would work.
func (s *requestBody) canSend() bool {
	if s.body == nil || s.body == http.NoBody || s.get != nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.used
}

// repeats reports whether two attempts may be under way at once.
func (s *requestBody) repeats() bool {
	return s.body == nil || s.body == http.NoBody || s.get != nil
}

// Read reads the caller's body.
func (s *requestBody) Read(p []byte) (int, error) {
	s.mu.Lock()
	s.used = true
	s.mu.Unlock()
	return s.body.Read(p)
}

// Close is called by the transport. It closes the caller's body unless another attempt may still need it.
func (s *requestBody) Close() error {
	s.mu.Lock()
	s.dropped = true
	now := (s.used || s.settled) && !s.shut
	s.shut = s.shut || now
	s.mu.Unlock()
	if now {
		return s.body.Close()
	}
	return nil
}

// settle tells that no attempt follows. What the transport still uses it closes itself.
func (s *requestBody) settle() {
	if s.body == nil {
		return
	}
	s.mu.Lock()
	s.settled = true
	now := s.dropped && !s.shut
	s.shut = s.shut || now
	s.mu.Unlock()
	if now {
		s.body.Close() // the response is there already; an error of the unread rest is of no use
	}
}

// close closes the caller's body if no attempt did: the call failed.
func (s *requestBody) close() {
	if s.body == nil {
		return
	}
	s.mu.Lock()
	now := !s.shut && (!s.used || s.dropped)
	s.settled, s.shut = true, s.shut || now
	s.mu.Unlock()
	if now {
		s.body.Close() // the caller is told of the failure that matters
	}
}
