package origin

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/balance"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/vouch"
)

// What follows carries requests by net/http: to origins that speak HTTP/2 or TLS.

var (
	errNoAnswerYet = errors.New("it did not begin to answer in time")
	errTooLong     = errors.New("the request has taken longer than it may")
	errDone        = errors.New("the answer is over")
)

// overHTTP asks ep by net/http.
func (c *call) overHTTP(ep *balance.Endpoint, limit time.Duration, http2 bool) (kind, error) {
	x := c.x
	here, leave := c.present()
	ctx, cancel := context.WithCancelCause(here)
	timer := time.AfterFunc(limit, func() { cancel(errNoAnswerYet) })
	way := &way{}
	trace := httptrace.ClientTrace{
		ConnectStart: func(string, string) { way.connecting.CompareAndSwap(0, filter.Now()) },
		GotConn: func(i httptrace.GotConnInfo) { // again if that one turns out to be no good
			way.got.Store(filter.Now())
			way.reused.Store(i.Reused)
			way.head.Store(0)
			way.all.Store(0)
		},
		WroteHeaders: func() { way.head.Store(filter.Now()) },
		WroteRequest: func(i httptrace.WroteRequestInfo) {
			if i.Err == nil {
				way.all.Store(filter.Now())
			}
		},
	}
	if x.Interim != nil && (x.Request.Proto >= 20 || c.general.EarlyHints) {
		trace.Got1xxResponse = func(status int, h textproto.MIMEHeader) error { return way.interim(c, status, h) }
	}
	req := c.request(httptrace.WithClientTrace(ctx, &trace), ep)
	x.Passport.Add(filter.OriginConnAcquireStart)
	resp, err := c.carrier(c.way.Carrier(ep, http2), ep.Secure).RoundTrip(req)
	way.end()
	c.along(way)
	if err != nil {
		timer.Stop()
		k, why := c.kindOf(ctx, err)
		if (k == reset || k == nonsense) && c.guessed(ep) {
			k = noGRPC
		}
		leave()
		cancel(errDone)
		return k, why
	}
	x.Passport.Add(filter.InRespHeadersReceived)
	timer.Stop()
	if x.Deadline != 0 && !c.endless(resp.StatusCode, resp.Header.Get("Content-Type")) {
		timer = time.AfterFunc(time.Duration(x.Deadline-filter.Now()), func() { cancel(errTooLong) })
	}
	c.body = &httpBody{resp: resp, inner: resp.Body, stop: func() { timer.Stop(); leave(); cancel(errDone) }}
	return c.answered(resp, c.body)
}

// way is when a request of net/http's came by its stations, by filter.Now; 0: it did not. Goroutines of the transport's note it.
type way struct {
	connecting, got, head, all atomic.Int64
	reused                     atomic.Bool

	mu   sync.Mutex // held while an informational answer is passed on
	over bool       // none is any more; guarded by mu
}

// end has no informational answer be passed on any more: a transport that is reading one may outlast the attempt, and the
// exchange is another's then.
func (w *way) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}

// interim passes an informational answer on, unless the attempt is over.
func (w *way) interim(c *call, status int, h textproto.MIMEHeader) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return nil
	}
	return c.interim(status, h)
}

// along stamps the passport with the way of a request, and counts its connection.
func (c *call) along(w *way) {
	x, n := c.x, &c.origin.count
	n.request.Inc()
	got, connecting := w.got.Load(), w.connecting.Load()
	if got == 0 {
		x.Passport.Add(filter.OriginConnAcquireFailed)
		if connecting != 0 {
			n.create.Inc()
			n.failed.Inc()
		}
		return
	}
	if w.reused.Load() {
		n.reuse.Inc()
	} else {
		if connecting != 0 {
			x.Passport.AddAt(filter.OriginChConnecting, connecting)
			x.Passport.AddAt(filter.OriginChConnected, got)
			n.creating.Record(time.Duration(got - connecting))
		}
		n.create.Inc()
		n.created.Inc()
	}
	x.Passport.AddAt(filter.OriginConnAcquireEnd, got)
	x.Passport.AddAt(filter.OutReqHeadersSending, got)
	c.stamp(w.head.Load(), w.all.Load())
}

// guessed reports whether ep is asked over HTTP/2 by nothing but the word of the client, who says that it speaks gRPC. Failures
// are not held against the app then, for anybody can say so, and have it fail for everybody.
func (c *call) guessed(ep *balance.Endpoint) bool {
	return c.grpc && !c.origin.two.Load() && c.protocol() == "" && !ep.HTTP2
}

// kindOf says what an error of net/http means.
func (c *call) kindOf(ctx context.Context, err error) (kind, error) {
	switch {
	case isPanic(err):
		return other, err
	case c.broke() != nil:
		return cancelled, c.broke()
	case c.left():
		return cancelled, err
	case strings.Contains(err.Error(), "graceful shutdown GOAWAY"): // spec: RFC 9113 §6.8, streams it has not looked at
		c.unsent = true
		return reset, err
	case ipc.IsUnsent(err):
		return connectError, err
	case context.Cause(ctx) == errNoAnswerYet:
		return readTimeout, errNoAnswerYet
	case strings.Contains(err.Error(), "server response headers exceeded"):
		return headTooLarge, err
	case strings.Contains(err.Error(), "malformed HTTP"):
		return nonsense, err
	}
	if isTLS(err) {
		return connectError, err
	}
	return reset, err
}

// isPanic reports whether err is of the edge's own making.
func isPanic(err error) bool {
	_, ok := errors.AsType[*filter.Panicked](err)
	return ok
}

// isTLS reports whether err is of a TLS handshake, which came before the request.
func isTLS(err error) bool {
	if _, ok := errors.AsType[*vouch.Refusal](err); ok {
		return true
	}
	text := err.Error()
	return strings.HasPrefix(text, "tls: ") || strings.HasPrefix(text, "remote error: tls: ") || strings.Contains(text, "TLS handshake timeout") || strings.HasPrefix(text, "x509: ")
}

// request makes the request that ep gets.
func (c *call) request(ctx context.Context, ep *balance.Endpoint) *http.Request {
	q := &c.x.Request
	req := c.copied(ep.Addr)
	h := req.Header
	if ep.Secure {
		req.URL.Scheme = "https"
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // else net/http would name itself
	}
	if wish := c.wish(); wish != "" {
		h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{wish}
		if q.Proto >= 20 && strings.EqualFold(wish, "websocket") && h["Sec-Websocket-Key"] == nil {
			c.key = webSocketKey()
			h["Sec-Websocket-Key"] = []string{c.key}
		}
	}
	if q.Body != nil {
		req.ContentLength = q.ContentLength
		if c.web != noWeb {
			req.ContentLength = -1
		}
		if c.announced != "" {
			req.Trailer = http.Header{}
			for name := range strings.SplitSeq(c.announced, ",") {
				if name = strings.TrimSpace(name); name != "" && !connectionOnly(name) {
					req.Trailer[http.CanonicalHeaderKey(name)] = nil
				}
			}
		}
		req.Body = c.sent(req.Trailer)
		req.GetBody = func() (io.ReadCloser, error) { // where a connection turns out to be no good, and nobody has seen the request
			if !c.whole() {
				return nil, errNotAtHand
			}
			return c.sent(req.Trailer), nil
		}
	}
	return req.WithContext(ctx)
}

// copied returns the request, without its body, as one of net/http's to addr, which shares no memory with the exchange.
func (c *call) copied(addr string) *http.Request {
	q := &c.x.Request
	u := &url.URL{Scheme: "http", Host: addr, RawPath: strings.Clone(c.path()), RawQuery: strings.Clone(q.RawQuery), ForceQuery: strings.HasSuffix(q.Target, "?")}
	var err error
	if u.Path, err = url.PathUnescape(u.RawPath); err != nil {
		u.Path = u.RawPath // cannot be: it was looked at when the request was read
	}
	h := make(http.Header, q.Header.Len()+2)
	for _, f := range q.Header.Fields() {
		k := http.CanonicalHeaderKey(strings.Clone(f.Name)) // which returns it if it is canonical
		h[k] = append(h[k], strings.Clone(f.Value))
	}
	return &http.Request{Method: strings.Clone(q.Method), URL: u, Header: h, Host: strings.Clone(c.host()), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
}

var errNotAtHand = errors.New("the request's body is not at hand any more")

// sent returns the request's body from its beginning, after which trailers, if it is not nil, has those that it names.
func (c *call) sent(trailers http.Header) io.ReadCloser {
	c.upload.next(&c.cursor)
	own := c.cursor // for net/http may read from it, and close it, when another attempt has begun
	body := c.web.decode(&own)
	if trailers != nil {
		body = &trailed{body, trailers, &c.x.Request.Trailer}
	}
	return &sent{body, shutter{&own}, c.proxy.panics}
}

// sent is a request's body on its way to an origin. Goroutines of net/http read it, which contain no panics.
type sent struct {
	body io.Reader
	io.Closer
	panics *filter.Panics
}

// Read reads on.
func (s *sent) Read(p []byte) (n int, err error) {
	defer s.panics.Catch("request body", func(e error) { n, err = 0, e })
	return s.body.Read(p)
}

// trailed is a request's body, at whose end its trailers are there.
type trailed struct {
	io.Reader
	to   http.Header // has the names that were announced
	from *filter.Header
}

// Read reads on.
func (t *trailed) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if err == io.EOF {
		for k := range t.to {
			for v := range t.from.Values(k) {
				t.to[k] = append(t.to[k], strings.Clone(v))
			}
		}
	}
	return n, err
}

// path returns the path that the origin is asked for, escaped.
func (c *call) path() string {
	if c.x.Path != "" {
		return c.x.Path
	}
	return c.x.Request.Path
}

// wish returns the protocol that the request asks to change to, if that may be; "" if none.
func (c *call) wish() string {
	q := &c.x.Request
	if q.Upgrade == "" || c.x.Plan != nil && !c.x.Plan.Upgrades {
		return ""
	}
	if !slices.ContainsFunc(c.general.Upgrades, func(s string) bool { return strings.EqualFold(s, q.Upgrade) }) || strings.EqualFold(q.Upgrade, "h2c") {
		return ""
	}
	return q.Upgrade
}

// webSocketKey returns a new Sec-WebSocket-Key. spec: RFC 6455 §4.1
func webSocketKey() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return base64.StdEncoding.EncodeToString(b[:])
}

// webSocketAccept returns what answers a key. spec: RFC 6455 §4.2.2
func webSocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// interim passes an informational answer on.
func (c *call) interim(status int, header textproto.MIMEHeader) (err error) {
	defer c.proxy.panics.Catch("informational answer", func(e error) { err = e }) // on a goroutine of net/http
	if status == http.StatusContinue || status == http.StatusSwitchingProtocols {
		return nil
	}
	var h filter.Header
	for k, vs := range header {
		for _, v := range vs {
			h.Add(k, v)
		}
	}
	h.DelFunc(func(f *filter.Field) bool { return connectionOnly(f.Name) || betweenServices(f.Name) })
	c.x.Interim(status, &h)
	return nil
}

// answered makes an answer of net/http the exchange's.
func (c *call) answered(resp *http.Response, body *httpBody) (kind, error) {
	r := &c.x.Response
	r.Status, r.ContentLength = resp.StatusCode, resp.ContentLength
	if resp.ProtoMajor == 2 && !c.origin.two.Load() {
		c.origin.two.Store(true)
	}
	for _, k := range slices.Sorted(maps.Keys(resp.Header)) {
		for _, v := range resp.Header[k] {
			r.Header.Add(k, v)
		}
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return c.switched(resp, body)
	}
	if len(resp.Trailer) > 0 || resp.ProtoMajor == 2 && resp.Body != http.NoBody {
		r.Trailer = &body.trailer
	}
	if resp.Body == http.NoBody {
		body.Close()
		if c.x.Request.Method == http.MethodHead && r.ContentLength >= 0 {
			r.Body = filter.Text("") // whose length is that of the body a GET would have
		}
		return fine, nil
	}
	r.Body, r.Flush = body, c.grpc
	return fine, nil
}

// httpBody is the body of an answer of net/http, and its trailers.
type httpBody struct {
	resp    *http.Response
	inner   io.ReadCloser
	stop    func() // ends the request's context
	trailer filter.Header
	over    bool
}

// Read reads on.
func (b *httpBody) Read(p []byte) (int, error) {
	n, err := b.inner.Read(p)
	if err != nil && !b.over {
		b.over = true
		if err == io.EOF {
			for _, k := range slices.Sorted(maps.Keys(b.resp.Trailer)) {
				for _, v := range b.resp.Trailer[k] {
					if !connectionOnly(k) && !betweenServices(k) {
						b.trailer.Add(k, v)
					}
				}
			}
		}
		b.stop()
	}
	return n, err
}

// Close gives the rest up.
func (b *httpBody) Close() error {
	err := b.inner.Close()
	b.stop()
	return err
}

// switched hands the connection over once the origin has agreed to change the protocol.
func (c *call) switched(resp *http.Response, body *httpBody) (kind, error) {
	x := c.x
	back, ok := resp.Body.(io.ReadWriteCloser)
	err := c.badSwitch()
	if err == nil && !ok {
		err = errors.New("it switched protocols on a connection that cannot be written to")
	}
	if err != nil {
		body.Close()
		x.Response.Status = 0
		x.Response.Header.Reset()
		return nonsense, err
	}
	p, ctx, idle := c.proxy, x.Context(), c.general.UpgradeIdle
	x.Response.Takeover = func(front net.Conn, early []byte) {
		defer body.Close()
		in, out := p.tunnel(ctx, front, back, early, idle)
		x.Read, x.Written = max(x.Read, in), max(x.Written, out) // engines that know better have said so
	}
	return fine, nil
}
