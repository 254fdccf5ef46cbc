// Package nethttp lets Go's own HTTP server be an engine of the edge. It serves what the edge's engines do not: HTTP/3 and
// tests. Its behaviour is also the reference that they are compared with.
//
//	http.Server{Handler: &nethttp.Handler{Serve: chain.Run, Finished: done}}
//
// # What it promises
//   - Bodies stream both ways in constant memory; one without a length is flushed as it comes.
//   - Trailers pass both ways; informational answers and upgraded connections do, too.
//   - An answer that breaks off reaches the client broken off, never as if it were whole.
//   - Every exchange is finished and ended exactly once, whatever becomes of the client.
//
// # What it does not
//   - The order of a head's fields and the letter case of their names are lost in net/http: names arrive in canonical form
//     and sorted.
//   - It allocates for every request.
package nethttp

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Handler is an http.Handler that has exchanges served. Serve is needed. A Handler must not be copied once it is used.
type Handler struct {
	// Serve fills the exchange's response.
	Serve func(*filter.Exchange)

	// Finished is called when the response was written or broke off, which [filter.Exchange.Err] then tells, also for
	// requests of HTTP/2 and 3 that were refused before Serve; nil: nobody wants to know.
	Finished func(*filter.Exchange)

	// Client returns the connection of a request; if it is nil or returns nil, addresses are read from the request.
	Client func(*http.Request) *filter.Client

	// Hold holds requests of HTTP/2 and 3 to rules that the listener has for all; it may change path and fields, and says why
	// a request is refused. nil: there are none.
	Hold func(*filter.Exchange) error

	Listener string       // the listener's name
	Log      *slog.Logger // nil: slog.Default()

	free sync.Pool // of *exchange
}

// exchange is a filter.Exchange in this engine.
type exchange struct {
	filter.Exchange
	w     http.ResponseWriter
	r     *http.Request
	body  *requestBody // nil if there is none
	own   filter.Client
	mu    sync.Mutex // guards w's header and head while informational answers may come
	begun bool       // the final head is written
}

// ServeHTTP serves one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x, _ := h.free.Get().(*exchange)
	if x == nil {
		x = &exchange{}
	}
	x.w, x.r, x.begun = w, r, false
	h.read(x)
	whole := false
	// Deferred, for an answer that breaks off leaves here by http.ErrAbortHandler, and a filter may panic.
	defer func() {
		p := recover()
		if p != nil && p != http.ErrAbortHandler {
			x.Err = fmt.Errorf("panic: %v", p)
			x.SetCategory(filter.FailureLocal, x.Err.Error())
			h.log().Error("edge: a request panicked", "err", p, "path", x.Request.Path, "stack", string(debug.Stack()))
			if !x.begun {
				x.Answer(http.StatusInternalServerError, "")
				w.WriteHeader(http.StatusInternalServerError)
				p, whole = nil, true
			}
		}
		x.mu.Lock()
		x.begun = true // nobody may touch w any more
		x.mu.Unlock()
		if x.body != nil {
			x.body.leave()
		}
		if h.Finished != nil {
			h.Finished(&x.Exchange)
		}
		x.End()
		x.Reset()
		x.w, x.r, x.body, x.own = nil, nil, nil, filter.Client{}
		h.free.Put(x)
		if p != nil || !whole {
			panic(http.ErrAbortHandler)
		}
	}()
	if why := h.unfit(x); why != "" {
		x.refuse(why)
	} else {
		h.Serve(&x.Exchange)
	}
	whole = h.answer(x)
}

// unfit tells why Serve may not get to see the request; "" if it may.
func (h *Handler) unfit(x *exchange) string {
	if x.r.ProtoMajor < 2 {
		return ""
	}
	if why := unsound(x.r); why != "" {
		return why
	}
	if h.Hold != nil {
		if err := h.Hold(&x.Exchange); err != nil {
			return err.Error()
		}
	}
	return ""
}

// refuse answers a request that Serve may not get to see.
func (x *exchange) refuse(why string) {
	x.Passport.Add(filter.InReqRejected)
	x.Err = errors.New(why)
	x.SetCategory(filter.FailureBadRequest, why)
	x.Answer(http.StatusBadRequest, "400 Bad Request: "+why+"\n")
	x.Response.Header.Add("X-Content-Type-Options", "nosniff")
}

func (h *Handler) log() *slog.Logger {
	if h.Log == nil {
		return slog.Default()
	}
	return h.Log
}

// read makes the exchange that of x.r.
func (h *Handler) read(x *exchange) {
	r, q := x.r, &x.Request
	x.Start = filter.Now()
	x.Passport.AddAt(filter.InReqHeadersReceived, x.Start)
	if h.Client != nil {
		x.Client = h.Client(r)
	}
	if x.Client == nil {
		x.own = filter.Client{Listener: h.Listener, TLS: r.TLS, Identity: filter.Identity(r.TLS)}
		if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			x.own.Remote = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
			x.own.Peer = x.own.Remote
		}
		if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
			x.own.Local = a.AddrPort()
		}
		x.Client = &x.own
	}
	x.SetContext(r.Context())
	q.Method, q.Target, q.Host, q.RawQuery = r.Method, r.RequestURI, r.Host, r.URL.RawQuery
	q.Path = r.URL.EscapedPath()
	q.Scheme = "http"
	if x.Client.TLS != nil {
		q.Scheme = "https"
	}
	q.Proto = 10*r.ProtoMajor + r.ProtoMinor
	names := make([]string, 0, len(r.Header))
	for k := range r.Header {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		if k[0] == ':' {
			continue // net/http's way to hand over :protocol
		}
		for _, v := range r.Header[k] {
			q.Header.Add(k, v)
		}
	}
	if len(r.Trailer) > 0 { // net/http has taken the field that announces them
		q.Header.Add("Trailer", strings.Join(slices.Sorted(maps.Keys(r.Trailer)), ", "))
	}
	if p := r.Header[":protocol"]; len(p) > 0 {
		q.Upgrade = p[0]
		q.Method = http.MethodGet // as the HTTP/1.1 request that means the same; spec: RFC 8441 §5
	} else if r.ProtoMajor == 1 && q.Header.Contains("Connection", "upgrade") {
		q.Upgrade = q.Header.Get("Upgrade")
	}
	if q.ContentLength = r.ContentLength; q.ContentLength != 0 && q.Upgrade == "" {
		x.body = &requestBody{x: x, inner: r.Body}
		q.Body = x.body
	} else {
		q.ContentLength = 0
	}
	x.Interim = x.interim
}

// requestBody is the client's body. It notes how much was read, and the trailers, as long as the request lasts: whoever sends
// it to an app that answered early may still read when the exchange is another's.
type requestBody struct {
	inner io.ReadCloser
	mu    sync.Mutex
	x     *exchange // nil once the request is over, or the body and its trailers are read; guarded by mu
}

// Read reads on.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.inner.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.x == nil {
		return n, err
	}
	b.x.Exchange.Read += int64(n)
	if err == io.EOF {
		for k, vs := range b.x.r.Trailer {
			for _, v := range vs {
				b.x.Request.Trailer.Add(k, v)
			}
		}
		b.x = nil
	}
	return n, err
}

// leave has reads note nothing any more.
func (b *requestBody) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.x = nil
}

// Close has the server stop reading.
func (b *requestBody) Close() error { return b.inner.Close() }

// interim passes an informational answer on.
func (x *exchange) interim(status int, h *filter.Header) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.begun || status == http.StatusContinue { // the server says continue of itself
		return
	}
	out := x.w.Header()
	for _, f := range h.Fields() {
		add(out, f.Name, f.Value)
	}
	x.w.WriteHeader(status)
	clear(out)
}

// add adds a field to what the server writes. It is copied, for it may lie in a buffer that is used again, while HTTP/2's
// compression remembers the fields of a connection.
func add(h http.Header, name, value string) {
	k := http.CanonicalHeaderKey(strings.Clone(name))
	h[k] = append(h[k], strings.Clone(value))
}

// answer writes the response. It reports false if the client did not get the whole of it.
func (h *Handler) answer(x *exchange) (whole bool) {
	p := &x.Response
	if p.Cut {
		return false
	}
	if p.Takeover != nil {
		return h.handOver(x)
	}
	if p.Status != 0 && p.Status < 200 {
		x.SetCategory(filter.FailureOrigin, "the answer's status is "+strconv.Itoa(p.Status)+", which is not a final one")
		x.Answer(http.StatusBadGateway, "the answer is not a final one\n")
	}
	x.mu.Lock()
	x.begun = true
	x.mu.Unlock()
	out := x.w.Header()
	for _, f := range p.Header.Fields() {
		add(out, f.Name, f.Value)
	}
	if p.ContentLength >= 0 && p.Status >= 200 && p.Status != http.StatusNoContent && p.Status != http.StatusNotModified && out.Get("Content-Length") == "" {
		if p.Body != nil || p.ContentLength > 0 || x.Request.Method != http.MethodHead {
			out.Set("Content-Length", strconv.FormatInt(p.ContentLength, 10))
		}
	}
	if out["Content-Type"] == nil {
		out["Content-Type"] = nil // else net/http would guess
	}
	x.Passport.Add(filter.OutRespHeadersSending)
	x.w.WriteHeader(p.Status)
	if p.Body == nil || x.Request.Method == http.MethodHead {
		x.Passport.Add(filter.OutRespLastContentSent)
		h.trailers(x, out)
		return true
	}
	if err := x.copyBody(); err != nil {
		if x.Err == nil {
			x.Err = err
		}
		return false
	}
	x.Passport.Add(filter.OutRespLastContentSent)
	h.trailers(x, out)
	return true
}

// trailers has the server send the response's trailers after its body.
func (h *Handler) trailers(x *exchange, out http.Header) {
	t := x.Response.Trailer
	if t == nil {
		return
	}
	for _, f := range t.Fields() {
		add(out, http.TrailerPrefix+f.Name, f.Value)
	}
}

// headWithin is how long the head of an answer waits for the first of a body without a length, so that both go out
// together.
const headWithin = time.Millisecond

// copyBody writes the response's body.
func (x *exchange) copyBody() error {
	p := &x.Response
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	control := http.NewResponseController(x.w)
	flush := p.Flush || p.ContentLength < 0
	begun := func() {}
	if flush {
		var mu sync.Mutex
		first := false // guarded by mu: the body has begun
		head := time.AfterFunc(headWithin, func() {
			mu.Lock()
			defer mu.Unlock()
			if !first {
				control.Flush() //nolint:errcheck // a broken connection shows at the next write
			}
		})
		begun = func() {
			head.Stop()
			mu.Lock()
			first = true
			mu.Unlock()
		}
		defer begun() // if the body panics, too: net/http does not bear a flush once the handler has returned
	}
	for {
		n, err := p.Body.Read(buf[:])
		begun()
		if n > 0 {
			x.Written += int64(n)
			if _, werr := x.w.Write(buf[:n]); werr != nil {
				x.SetCategory(filter.FailureClientCancelled, "the client went away before it had the whole answer")
				return fmt.Errorf("write to the client: %w", werr)
			}
			if flush && err == nil {
				if ferr := control.Flush(); ferr != nil && !errors.Is(ferr, http.ErrNotSupported) {
					x.SetCategory(filter.FailureClientCancelled, "the client went away before it had the whole answer")
					return fmt.Errorf("write to the client: %w", ferr)
				}
			}
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the answer's body: %w", err)
		}
	}
}

const bufferSize = 32 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// handOver writes the head of a response that hands the connection over, and does that.
func (h *Handler) handOver(x *exchange) (whole bool) {
	p := &x.Response
	take := p.Takeover
	if x.r.ProtoMajor > 1 {
		// An extended CONNECT: the stream is the connection. spec: RFC 8441 §5
		x.mu.Lock()
		x.begun = true
		x.mu.Unlock()
		out := x.w.Header()
		for _, f := range p.Header.Fields() {
			if !filter.Same(f.Name, "Sec-WebSocket-Accept") {
				add(out, f.Name, f.Value)
			}
		}
		x.w.WriteHeader(http.StatusOK)
		control := http.NewResponseController(x.w)
		if err := control.Flush(); err != nil {
			x.Err = err
			return false
		}
		s := &stream{r: x.r, w: x.w, control: control}
		take(s, nil)
		s.Close()
		return true
	}
	conn, rw, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		x.Err = fmt.Errorf("the client's connection cannot be handed over: %w", err)
		x.SetCategory(filter.FailureLocal, x.Err.Error())
		x.w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	defer conn.Close()
	x.mu.Lock()
	x.begun = true
	x.mu.Unlock()
	var b []byte
	b = fmt.Appendf(b, "HTTP/1.1 %d %s\r\n", p.Status, http.StatusText(p.Status))
	for _, f := range p.Header.Fields() {
		b = fmt.Appendf(b, "%s: %s\r\n", f.Name, f.Value)
	}
	b = append(b, "\r\n"...)
	if _, err := conn.Write(b); err != nil {
		x.Err = err
		return true // hijacked: there is nobody to tell
	}
	early := make([]byte, rw.Reader.Buffered())
	io.ReadFull(rw.Reader, early) //nolint:errcheck // it is there
	conn.SetDeadline(time.Time{}) //nolint:errcheck // a connection that is closed says so when it is used
	take(conn, early)
	return true
}

// stream is an HTTP/2 or HTTP/3 stream as a connection.
type stream struct {
	r       *http.Request
	w       http.ResponseWriter
	control *http.ResponseController
	once    sync.Once
	wmu     sync.Mutex
	closed  bool // guarded by wmu
}

// Read reads what the client sends.
func (s *stream) Read(p []byte) (int, error) { return s.r.Body.Read(p) }

// Write sends to the client at once.
func (s *stream) Write(p []byte) (int, error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	n, err := s.w.Write(p)
	if err == nil {
		err = s.control.Flush()
	}
	return n, err
}

// Close ends reading; the stream ends with the handler.
func (s *stream) Close() error {
	s.wmu.Lock()
	s.closed = true
	s.wmu.Unlock()
	var err error
	s.once.Do(func() { err = s.r.Body.Close() })
	return err
}

// LocalAddr returns the address of the listener.
func (s *stream) LocalAddr() net.Addr {
	if a, ok := s.r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		return a
	}
	return &net.TCPAddr{}
}

// RemoteAddr returns the client's address.
func (s *stream) RemoteAddr() net.Addr {
	if a, err := netip.ParseAddrPort(s.r.RemoteAddr); err == nil {
		return net.TCPAddrFromAddrPort(a)
	}
	return &net.TCPAddr{}
}

// SetDeadline sets both deadlines.
func (s *stream) SetDeadline(t time.Time) error {
	return errors.Join(s.control.SetReadDeadline(t), s.control.SetWriteDeadline(t))
}

// SetReadDeadline sets how long Read waits.
func (s *stream) SetReadDeadline(t time.Time) error { return s.control.SetReadDeadline(t) }

// SetWriteDeadline sets how long Write waits.
func (s *stream) SetWriteDeadline(t time.Time) error { return s.control.SetWriteDeadline(t) }

// unsound tells what is wrong with a request of HTTP/2 or 3 that net/http lets pass, though it would mean something else, or
// two things, in HTTP/1.1; "" if nothing is. spec: RFC 9113 §8.2 and §8.3, RFC 9110 §9.1
func unsound(r *http.Request) string {
	if !filter.Token(r.Method) {
		return "the method is no token"
	}
	_, extended := r.Header[":protocol"]
	if extended && r.Method != http.MethodConnect {
		return ":protocol belongs to CONNECT"
	}
	if r.Method != http.MethodConnect || extended {
		t := r.RequestURI
		if !strings.HasPrefix(t, "/") && !(t == "*" && r.Method == http.MethodOptions) {
			return "the path does not start with /"
		}
		for i := range len(t) {
			if t[i] <= ' ' || t[i] >= 0x7f || t[i] == '#' {
				return "the path has a character that no path may have; percent-encode it"
			}
		}
	}
	for _, host := range r.Header["Host"] {
		if len(r.Header["Host"]) > 1 || !strings.EqualFold(host, r.Host) {
			return ":authority and host differ"
		}
	}
	if at := strings.LastIndexByte(r.Host, ':'); at >= 0 && !strings.HasSuffix(r.Host, "]") && strings.Trim(r.Host[at+1:], "0123456789") != "" {
		return "the port of :authority is no number"
	}
	switch all := r.Header["Content-Length"]; {
	case len(all) > 1:
		return "content-length is there twice"
	case len(all) == 1 && (all[0] == "" || len(all[0]) > 18 || strings.Trim(all[0], "0123456789") != ""):
		return "content-length is no number"
	case len(all) == 1 && r.ContentLength == 0 && strings.Trim(all[0], "0") != "":
		return "content-length tells of a body that does not come"
	}
	return ""
}
