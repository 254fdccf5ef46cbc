// Package pass hands HTTP requests on: what any proxy does between the server it is and the client it is. The edge, which
// stands before services, and the sidecar, which stands beside one, pass requests the same way.
//
// A [Proxy] is an http.Handler. It makes the onward request, without what concerns one connection only, has its owner
// address it, sends it by a RoundTripper and brings the answer back while it comes in.
//
// # What it promises
//   - Bodies are streamed both ways, in constant memory, at any length; what has no length is flushed as it comes, and
//     the head before it within a millisecond.
//   - Bytes are passed as they are: no content coding is undone, added or asked for.
//   - Trailers pass both ways, informational answers and upgraded connections too.
//   - Fields of one connection are not passed on: those of RFC 9110 §7.6.1, and those that Connection names.
//   - A request whose context has a deadline does not wait longer for its own body, whatever the client does.
//   - An answer that breaks off reaches the client broken off, never as if it were whole.
//
// # What it does not
//   - It believes forwarding fields no more or less than its owner does: it neither adds nor removes any.
//   - An HTTP/2 client cannot be upgraded; its request is passed without the wish.
package pass

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy passes requests on. Transport, Request and Fail are needed.
type Proxy struct {
	// Transport sends the onward request.
	Transport http.RoundTripper

	// Request addresses out, the onward request of in: its URL, and what of its header shall differ. The map out.Header
	// is out's own; the values in it are shared with in and may be replaced but not altered.
	Request func(out, in *http.Request)

	// Response alters the header of an answer before it is passed; nil alters nothing.
	Response func(http.Header)

	// Fail answers when there is no answer to pass.
	Fail func(http.ResponseWriter, *http.Request, error)
}

// ServeHTTP passes one request on.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, in *http.Request) {
	h := in.Header
	ctx, relay := early(in.Context(), w)
	out := in.WithContext(ctx)
	out.Header, out.Close, out.RequestURI = onward(h), false, ""
	if in.ContentLength == 0 {
		out.Body = nil // a body of unknown length would make it chunked, and never be sent twice
	}
	var body *requestBody
	if out.Body != nil {
		body = &requestBody{ReadCloser: in.Body}
		out.Body = body
		if t, ok := ctx.Deadline(); ok {
			// A transport that waits for the client's body does not see its context end.
			http.NewResponseController(w).SetReadDeadline(t.Add(restWithin)) //nolint:errcheck // a test's recorder has none
		}
		defer in.Body.Close() // whoever still reads it must not do so when the handler has returned
	}
	wish := upgrade(h)
	if wish != "" && in.ProtoMajor == 1 {
		out.Header["Connection"], out.Header["Upgrade"] = []string{"Upgrade"}, []string{wish}
	}
	if te := h["Te"]; len(te) > 0 && listed(te, "trailers") {
		out.Header["Te"] = []string{"trailers"}
	}
	p.Request(out, in)
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // else the transport would name itself
	}

	resp, err := p.Transport.RoundTrip(out)
	relay.stop()
	if err != nil {
		if body != nil && !body.over.Load() {
			// The server would first wait for the rest, from a client who may never send it.
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(restWithin)) //nolint:errcheck // a test's recorder has none
		}
		p.Fail(w, in, err)
		return
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if err := p.switched(w, in, resp, wish); err != nil {
			p.Fail(w, in, err)
		}
		return
	}
	p.answer(w, resp)
}

// restWithin is how long the rest of a body is waited for that nobody wants any more, so that its connection can be used
// again.
const restWithin = 50 * time.Millisecond

// requestBody notes when the client's body has ended.
type requestBody struct {
	io.ReadCloser
	over atomic.Bool
}

// Read reads on.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.over.Store(true)
	}
	return n, err
}

// answer passes an answer.
func (p *Proxy) answer(w http.ResponseWriter, resp *http.Response) {
	defer resp.Body.Close()
	strip(resp.Header)
	if p.Response != nil {
		p.Response(resp.Header)
	}
	h := w.Header()
	for k, v := range resp.Header {
		if old, ok := h[k]; ok {
			v = append(old, v...)
		}
		h[k] = v
	}
	announced := len(resp.Trailer)
	if announced > 0 {
		names := make([]string, 0, announced)
		for k := range resp.Trailer {
			names = append(names, k)
		}
		h.Add("Trailer", strings.Join(names, ", "))
	}
	w.WriteHeader(resp.StatusCode)
	if err := stream(w, resp); err != nil {
		panic(http.ErrAbortHandler) // the header is out; only the connection can tell that the rest is missing
	}
	if len(resp.Trailer) == 0 {
		return
	}
	http.NewResponseController(w).Flush() //nolint:errcheck // makes the answer one that may have trailers; who cannot flush sends none
	prefix := ""
	if len(resp.Trailer) != announced {
		prefix = http.TrailerPrefix
	}
	for k, v := range resp.Trailer {
		h[prefix+k] = v
	}
}

// headWithin is how long the head of an answer waits for the first of a body without a length, so that both go out
// together.
const headWithin = time.Millisecond

// stream copies the body. One of known length is left to the server's own buffer; others are events to somebody.
func stream(w http.ResponseWriter, resp *http.Response) error {
	if resp.Body == http.NoBody {
		return nil
	}
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	if resp.ContentLength >= 0 && !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return copyBody(w, resp.Body, buf[:], nil)
	}
	flusher, ok := w.(http.Flusher)
	if !ok {
		flusher = controlled{http.NewResponseController(w)}
	}
	var mu sync.Mutex
	begun := false // guarded by mu
	head := time.AfterFunc(headWithin, func() {
		mu.Lock()
		defer mu.Unlock()
		if !begun {
			flusher.Flush()
		}
	})
	n, err := resp.Body.Read(buf[:])
	mu.Lock()
	begun = true
	mu.Unlock()
	head.Stop()
	if n > 0 {
		if _, werr := w.Write(buf[:n]); werr != nil {
			return werr
		}
		if err == nil {
			flusher.Flush()
		}
	}
	if err == io.EOF {
		return nil
	} else if err != nil {
		return err
	}
	return copyBody(w, resp.Body, buf[:], flusher)
}

// copyBody copies, and flushes after each piece if flusher is not nil.
func copyBody(w io.Writer, body io.Reader, buf []byte, flusher http.Flusher) error {
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
			if flusher != nil && err == nil {
				flusher.Flush()
			}
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// controlled flushes a writer that hides its Flush.
type controlled struct{ c *http.ResponseController }

// Flush flushes if anything beneath can.
func (c controlled) Flush() { c.c.Flush() } //nolint:errcheck // a broken connection shows at the next write

const bufferSize = 32 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// relay passes informational answers on while the request is under way.
type relay struct {
	mu   sync.Mutex
	w    http.ResponseWriter
	over bool // nobody may touch w any more; guarded by mu
	http httptrace.ClientTrace
}

// early returns a context with which a transport passes informational answers to w.
func early(ctx context.Context, w http.ResponseWriter) (context.Context, *relay) {
	r := &relay{w: w}
	r.http.Got1xxResponse = r.got
	return httptrace.WithClientTrace(ctx, &r.http), r
}

func (r *relay) got(status int, header textproto.MIMEHeader) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over || status == http.StatusContinue { // the server says continue of itself
		return nil
	}
	h := r.w.Header()
	before := maps.Clone(h)
	maps.Copy(h, http.Header(header))
	r.w.WriteHeader(status)
	clear(h)
	maps.Copy(h, before)
	return nil
}

func (r *relay) stop() {
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
}

// onward copies a header without what concerns this connection only. The values are shared.
func onward(h http.Header) http.Header {
	out := make(http.Header, len(h)+4)
	for k, v := range h {
		if !hop(k) {
			out[k] = v
		}
	}
	named(h, out)
	return out
}

// strip takes out what concerns one connection only.
func strip(h http.Header) {
	named(h, h)
	for k := range h {
		if hop(k) {
			delete(h, k)
		}
	}
}

// named deletes from out the fields that h's Connection names.
func named(h, out http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = strings.TrimSpace(name); name != "" {
				delete(out, http.CanonicalHeaderKey(name))
			}
		}
	}
}

// hop reports whether a field in canonical form concerns one connection only. spec: RFC 9110 §7.6.1
func hop(k string) bool {
	switch k {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// listed reports whether a token stands in a list field.
func listed(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// upgrade returns the protocol to which h asks or agrees to switch, empty if it does not.
func upgrade(h http.Header) string {
	v := h["Upgrade"]
	if len(v) == 0 || !listed(h["Connection"], "upgrade") {
		return ""
	}
	for i := range len(v[0]) {
		if c := v[0][i]; c < ' ' || c > '~' {
			return ""
		}
	}
	return v[0]
}

// switched connects both ends for good once the other side has agreed to another protocol.
func (p *Proxy) switched(w http.ResponseWriter, in *http.Request, resp *http.Response, wish string) error {
	defer resp.Body.Close()
	if got := upgrade(resp.Header); wish == "" || !strings.EqualFold(got, wish) {
		return fmt.Errorf("it switched to the protocol %q when %q was asked for", got, wish)
	}
	back, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		return errors.New("it switched protocols on a connection that cannot be written to")
	}
	conn, front, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("the client's connection cannot be handed over: %w", err)
	}
	defer conn.Close()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-in.Context().Done(): // the server closes down
			conn.Close()
			back.Close()
		case <-over:
		}
	}()
	strip(resp.Header)
	if p.Response != nil {
		p.Response(resp.Header)
	}
	h := w.Header()
	maps.Copy(h, resp.Header)
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{wish}
	resp.Header, resp.Body = h, nil // only the head is written
	if err := resp.Write(front); err != nil {
		return nil // hijacked: there is nobody to tell
	}
	if err := front.Flush(); err != nil {
		return nil
	}
	var both sync.WaitGroup
	both.Go(func() { run(back, front); hangUp(back, conn) })
	both.Go(func() { run(conn, back); hangUp(conn, back) })
	both.Wait()
	return nil
}

// run copies until from ends or to does not take more.
func run(to io.Writer, from io.Reader) { io.Copy(to, from) } //nolint:errcheck // either end may go at any time

// hangUp tells to that nothing more comes. If it cannot be told so and still speak, both ends are done with.
func hangUp(to, other io.Closer) {
	if half, ok := to.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		return
	}
	to.Close()
	other.Close()
}
