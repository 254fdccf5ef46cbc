package http1

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// reply is the writing of one answer.
type reply struct {
	c      *conn
	x      *filter.Exchange
	close  bool  // the connection ends with it
	begun  bool  // bytes of it may have been written
	failed error // why it could not be written to its end
}

// fail makes the answer one of the engine's own.
func (a *reply) fail(status int, category filter.Category, why string) {
	a.x.SetCategory(category, why)
	a.x.Answer(status, why+"\n")
	a.close = true
}

// refuse makes the answer that to what breaks a rule.
func (a *reply) refuse(r *Refusal) {
	a.x.Err = r
	a.fail(r.Status, r.Category, r.Error())
}

// send writes the answer. A body that panics, or breaks off, cuts the connection, for the client must not take the answer for
// a whole one.
//
// hot path: 0 allocs, BenchmarkServer
func (a *reply) send() {
	defer func() {
		if v := recover(); v != nil {
			a.c.panicked(a, v)
			a.x.SetCategory(filter.FailureLocal, "the edge failed at this request; its log tells why")
			a.failed = errPanicked
		}
		if a.failed != nil {
			a.broken()
		}
	}()
	c, x := a.c, a.x
	if x.Response.Cut {
		a.failed = errCut
		return
	}
	if q := &x.Request; q.Body != nil {
		b := &c.w.body
		expects, failed := b.begun()
		if failed != nil {
			var r *Refusal
			if !errors.As(failed, &r) {
				a.failed = failed
				return
			}
			a.refuse(r)
		}
		// Whether a body that was not read will be sent is not known while the client waits for 100. One that is long, or of
		// unknown length, is not worth waiting for.
		if !b.ended.Load() && (expects || q.ContentLength < 0 || q.ContentLength > skipBytes) {
			a.close = true
		}
	}
	switch p := &x.Response; {
	case p.Status == 0:
		a.fail(500, filter.FailureLocal, "the edge has no answer to this request")
	case p.Status < 200 && p.Takeover == nil: // the client would wait for another, or speak another protocol with nobody
		a.fail(502, filter.FailureOrigin, "the answer's status is "+strconv.Itoa(p.Status)+", which is not a final one")
	}
	a.write()
}

var (
	errCut      = errors.New("http1: the connection was cut, as was asked for")
	errPanicked = errors.New("http1: the answer's body panicked")
)

// ends reports whether the connection ends with this answer, for other reasons than the answer's own.
func (a *reply) ends(now int64) bool {
	c, h := a.c, &a.c.w.head
	return a.close || !h.persists() || c.s.draining.Load() || c.expires != 0 && now > c.expires || c.served >= c.s.settings.Load().Requests || c.cut.Load() ||
		a.x.Request.Upgrade != "" && a.x.Response.Takeover == nil && c.w.start < c.w.end // bytes of the other protocol, perhaps
}

func (a *reply) write() {
	c, x := a.c, a.x
	q, p := &x.Request, &x.Response
	now := x.Passport.NowAfter(filter.FiltersOutboundEnd)
	x.Passport.AddAt(filter.OutRespHeadersSending, now)
	old := q.Proto == 10
	silent := q.Method == "HEAD" || p.Status < 200 || p.Status == 204 || p.Status == 304 // has no body, whatever there is
	length := p.ContentLength
	if p.Body == nil && !silent {
		length = 0
	}
	if p.Takeover != nil && p.Status >= 200 { // what follows is not ours to frame
		silent, length, a.close = true, -1, true
	}
	a.close = a.ends(now) || old && length < 0 && !silent

	o := scratches.Get().(*scratch)
	defer o.free()
	b := appendStatus(o.b[:0], p.Status)
	dated := false
	fields := p.Header.Fields()
	for i := range fields {
		f := &fields[i]
		if framingField(f.Name) {
			if len(f.Name) == len("connection") && len(f.Value) == 5 && filter.Same(f.Value, "close") {
				a.close = true
			}
			continue
		}
		dated = dated || len(f.Name) == 4 && filter.Same(f.Name, "date")
		b = appendField(b, f.Name, f.Value)
	}
	if !dated && p.Status >= 200 {
		b = c.s.appendDate(b, now)
	}
	switch {
	case p.Status < 200 || p.Status == 204 || length < 0 && (old || silent) || p.Status == 304 && length == 0:
	default:
		b = appendLength(b, length)
	}
	switch protocol := p.Header.Get("Upgrade"); {
	case protocol != "" && p.Status == 101:
		b = appendField(append(b, "Connection: Upgrade\r\n"...), "Upgrade", protocol)
	case protocol != "" && p.Status == 426:
		b = appendField(append(b, "Connection: Upgrade"...), "Upgrade", protocol)
	case a.close:
		b = append(b, "Connection: close\r\n"...)
	case old:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	b = append(b, '\r', '\n')
	o.b = b[:0]

	a.begun = true
	if silent || length == 0 || p.Body == nil {
		a.failed = c.write(b)
		return
	}
	if body, ok := p.Body.(interface{ Buffered() []byte }); ok && length > 0 {
		if ready := body.Buffered(); int64(len(ready)) >= length {
			ready = ready[:length]
			first := min(len(ready), bufferSize) // in one write with the head; a longer rest is not worth copying
			b = append(b, ready[:first]...)
			o.b = b[:0]
			if first == len(ready) { // which is all of it: its origin need not wait for the client
				p.Body.Close() //nolint:errcheck // it is at hand
				p.Body = nil
			}
			if a.failed = c.write(b); a.failed == nil && first < len(ready) {
				a.failed = c.write(ready[first:])
			}
			if a.failed == nil {
				x.Written = length
			}
			return
		}
	}
	a.failed = a.stream(b, length, length < 0 && !old)
}

// stream writes the head and a body that is yet to come.
func (a *reply) stream(head []byte, length int64, chunked bool) error {
	c, p := a.c, &a.x.Response
	buffer := copies.Get().(*[32 << 10]byte)
	defer copies.Put(buffer)
	b := buffer[:]
	// A body of known length comes soon, and its beginning goes out with the head. Of others nobody knows when they come.
	ready := 0
	if body, ok := p.Body.(interface{ Buffered() []byte }); ok {
		ready = len(body.Buffered())
	}
	if len(head) > len(b)/2 || ready == 0 && (length < 0 || p.Flush) {
		if err := c.write(head); err != nil {
			return err
		}
		head = nil
	}
	for at := copy(b, head); ; at = 0 {
		from, room := at, len(b)-len("\r\n0\r\n\r\n")
		if chunked {
			from += chunkHead
		}
		if length >= 0 {
			room = int(min(int64(room), int64(from)+length-a.x.Written))
		}
		n, err := p.Body.Read(b[from:room])
		if err != nil && err != io.EOF {
			return &bodyError{err}
		}
		last := err == io.EOF
		if e, ok := p.Body.(*answer); ok && !last {
			last = e.err == io.EOF && len(e.ready) == 0
		}
		out := b[:from+n]
		if chunked {
			if out = frame(b, at, from, n); last {
				out = appendLastChunk(out, p.Trailer)
			}
		}
		if len(out) > 0 {
			if err := c.write(out); err != nil {
				return err
			}
		}
		a.x.Written += int64(n)
		if length >= 0 && a.x.Written == length {
			return nil
		}
		if last {
			if length >= 0 {
				return &bodyError{fmt.Errorf("it ended after %d of %d bytes", a.x.Written, length)}
			}
			return nil
		}
	}
}

// frame makes b[from:from+n] a chunk. What is in b[:at] comes before it; between them is room for its size.
func frame(b []byte, at, from, n int) []byte {
	if n == 0 {
		return b[:at]
	}
	var size [chunkHead]byte
	s := appendChunkSize(size[:0], n)
	gap := from - at - len(s)
	copy(b[gap:], b[:at])
	copy(b[gap+at:], s)
	return append(b[gap:from+n], '\r', '\n')
}

// bodyError is what the answer's body said.
type bodyError struct{ err error }

// Error says so.
func (e *bodyError) Error() string { return "http1: the answer's body broke off: " + e.err.Error() }

// Unwrap returns what the body said.
func (e *bodyError) Unwrap() error { return e.err }

// broken tells why the answer was not written to its end, and has the connection cut.
func (a *reply) broken() {
	x := a.x
	if x.Err == nil {
		x.Err = a.failed
	}
	var e *bodyError
	var up *Error
	switch {
	case a.failed == errCut, a.failed == errPanicked: // it was said why
	case errors.Is(a.failed, filter.ErrStalled):
		x.Stalled()
	case errors.Is(a.failed, errSlow) && !errors.As(a.failed, &e):
		x.SetCategory(filter.FailureClientTimeout, "the client takes its answer too slowly (edge.http.response.minrate)")
	case errors.As(a.failed, &up) && up.Kind == Cancelled, !errors.As(a.failed, &e):
		x.SetCategory(filter.FailureClientCancelled, "the client went away")
	case up != nil && up.Kind == Timeout:
		x.SetCategory(filter.FailureOriginReadTimeout, "the origin paused for too long in its answer")
	default:
		x.SetCategory(filter.FailureOriginReset, "the origin's answer broke off")
	}
	if a.begun || a.failed == errCut {
		a.c.abort = true
	}
}

// refused counts a refusal.
func (s *Server) refused(r *Refusal) {
	s.c.Meter.Counter("edge.http1.refused", "listener", s.c.Listener, "rule", r.Rule).Inc()
}
