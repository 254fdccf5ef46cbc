package http2

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
)

// reply is the writing of one answer.
type reply struct {
	st     *stream
	failed error // why it could not be written to its end
}

// fail makes the answer one of the engine's own.
func (r *reply) fail(status int, category filter.Category, why string) {
	x := &r.st.x
	x.SetCategory(category, why)
	x.Answer(status, why+"\n")
}

// refuse makes the answer that to what breaks a rule.
func (r *reply) refuse(why *http1.Refusal) {
	r.st.x.Err = why
	r.fail(why.Status, why.Category, why.Error())
}

var (
	errCut      = errors.New("http2: the stream was reset, as was asked for")
	errPanicked = errors.New("http2: the answer's body panicked")
)

// bodyError is what the answer's body said.
type bodyError struct{ err error }

// Error says so.
func (e *bodyError) Error() string { return "http2: the answer's body broke off: " + e.err.Error() }

// Unwrap returns what the body said.
func (e *bodyError) Unwrap() error { return e.err }

// send writes the answer. A body that panics, or breaks off, resets the stream, for the client must not take the answer for
// a whole one.
//
// hot path: 0 allocs, BenchmarkServer
func (r *reply) send() {
	defer func() {
		if v := recover(); v != nil {
			r.st.panicked(v)
			r.st.x.SetCategory(filter.FailureLocal, "the edge failed at this request; its log tells why")
			r.failed = errPanicked
		}
		if r.failed != nil {
			r.broken()
		}
	}()
	st, x := r.st, &r.st.x
	if x.Response.Cut {
		r.failed = errCut
		return
	}
	if x.Response.Refused {
		st.c.mu.Lock()
		st.abort(refusedStream)
		st.c.mu.Unlock()
		return
	}
	st.c.mu.Lock()
	wrong := st.wrong
	st.c.mu.Unlock()
	if slow, ok := wrong.(*http1.Refusal); ok {
		r.refuse(slow)
	} else if wrong != nil {
		r.failed = wrong
		return
	}
	switch p := &x.Response; {
	case p.Status == 0:
		r.fail(500, filter.FailureLocal, "the edge has no answer to this request")
	case p.Status < 200 && p.Takeover == nil: // which ends nothing, and 101 is no status of HTTP/2
		r.fail(502, filter.FailureOrigin, "the answer's status is "+strconv.Itoa(p.Status)+", which is not a final one")
	case st.extended && p.Takeover == nil && p.Status < 300:
		r.fail(501, filter.FailureBadRequest, "nobody here speaks the protocol that the request asks for; websocket may be asked for where its service speaks it")
	}
	if p := &x.Response; p.Takeover != nil && (p.Status == 101 || !st.extended) {
		r.handOver()
		return
	}
	r.write()
}

// beginHead begins a HEADERS frame, whose length endHead fills in. The caller holds mu.
func (c *conn) beginHead(id uint32) (from int) {
	from = len(c.out)
	c.out = c.enc.begin(appendFrame(c.out, 0, frameHeaders, flagEndHeaders, id))
	return from
}

// endHead ends the frame that began at from, or several, if it is too long for one. The caller holds mu.
func (c *conn) endHead(from int, flags byte) {
	b := c.out[from:]
	n := len(b) - frameHead
	b[4] |= flags
	if n <= frameMost {
		b[0], b[1], b[2] = byte(n>>16), byte(n>>8), byte(n)
		return
	}
	id := readFrame(b).id
	block := append([]byte(nil), b[frameHead:]...)
	c.out = appendFrame(c.out[:from], frameMost, frameHeaders, flags, id)
	c.out = append(c.out, block[:frameMost]...)
	for block = block[frameMost:]; len(block) > 0; {
		n, last := min(len(block), frameMost), byte(0)
		if n == len(block) {
			last = flagEndHeaders
		}
		c.out = append(appendFrame(c.out, n, frameContinuation, last, id), block[:n]...)
		block = block[n:]
	}
}

// fields puts fields into out that are not the engine's own, and reports whether a date was among them. The caller holds mu.
func (c *conn) fields(h *filter.Header) (dated bool) {
	fields := h.Fields()
	for i := range fields {
		f := &fields[i]
		if http1.Framing(f.Name) {
			continue
		}
		dated = dated || len(f.Name) == 4 && filter.Same(f.Name, "date")
		c.out = c.enc.field(c.out, f.Name, f.Value)
	}
	return dated
}

// final puts the final head into out; end says whether nothing follows. The caller holds mu.
func (c *conn) final(st *stream, status int, length int64, now int64, end bool) {
	from := c.beginHead(st.id)
	c.out = c.enc.status(c.out, status)
	if !c.fields(&st.x.Response.Header) {
		c.out = c.s.appendDate(c.out, now)
	}
	if length >= 0 {
		c.out = c.enc.length(c.out, length)
	}
	flags := byte(0)
	if end {
		flags = flagEndStream
	}
	c.endHead(from, flags)
	st.begun = true
}

// write writes the head, and the body.
func (r *reply) write() {
	st, x := r.st, &r.st.x
	c, q, p := st.c, &x.Request, &x.Response
	now := x.Passport.NowAfter(filter.FiltersOutboundEnd)
	x.Passport.AddAt(filter.OutRespHeadersSending, now)
	silent := q.Method == "HEAD" || p.Status == 204 || p.Status == 304 // has no body, whatever there is
	length := p.ContentLength
	if p.Body == nil && !silent {
		length = 0
	}
	told := length
	if p.Status == 204 || silent && length == 0 && p.Body == nil || p.Status == 304 && length == 0 || p.Body == nil && p.Trailer != nil && !silent {
		told = -1
	}
	trailers := p.Trailer != nil && !silent
	bare := silent || p.Body == nil || length == 0
	if bare && trailers && p.Body != nil { // they are there when the body was read to its end
		if _, err := io.Copy(io.Discard, p.Body); err != nil {
			r.failed = &bodyError{err}
			return
		}
	}
	trailers = trailers && !(bare && p.Trailer.Len() == 0) // gRPC wants the stream to end with the head if there are none
	var ready []byte
	some := false
	if body, ok := p.Body.(interface{ Buffered() []byte }); ok && !bare {
		ready = body.Buffered()
		some = len(ready) > 0
		if length <= 0 || int64(len(ready)) < length {
			ready = nil
		} else {
			ready = ready[:length]
		}
	}
	c.mu.Lock()
	if !r.room() {
		return
	}
	c.final(st, p.Status, told, now, bare && !trailers)
	switch {
	case bare && trailers:
		r.tail()
		st.end()
	case bare:
		st.end()
	case ready != nil && !trailers && c.fits(st, len(ready)):
		c.put(st, ready, true)
		x.Written = length
		st.end()
	default:
		r.failed = r.stream(length, trailers, some) // which unlocks
		return
	}
	c.mu.Unlock()      // finish writes
	if p.Body != nil { // its origin need not wait for the client
		p.Body.Close() //nolint:errcheck // it is at hand, or nobody wants it
		p.Body = nil
	}
}

// room waits until there is room for an answer. If nobody waits for it any more, it releases mu and returns false. The caller
// holds mu.
func (r *reply) room() bool {
	st := r.st
	c := st.c
	for len(c.out) > outHigh && st.lostBy == nil && c.failed == nil && !st.dropped {
		if !c.writing {
			c.flush(false)
			c.mu.Lock()
			continue
		}
		c.room.Wait()
	}
	if st.lostBy == nil && c.failed == nil && !st.dropped {
		return true
	}
	switch r.failed = st.lostBy; {
	case st.dropped:
		r.failed = filter.ErrStalled
	case r.failed == nil:
		r.failed = errGone
	}
	c.mu.Unlock()
	return false
}

// fits reports whether n bytes may be sent at once. The caller holds mu.
func (c *conn) fits(st *stream, n int) bool {
	return int64(n) <= st.window && int64(n) <= c.window && n <= outHigh
}

// put puts p into out, which fits. The caller holds mu.
func (c *conn) put(st *stream, p []byte, end bool) {
	st.window -= int64(len(p))
	c.window -= int64(len(p))
	for first := true; first || len(p) > 0; first = false {
		n, flags := min(len(p), frameMost), byte(0)
		if end && n == len(p) {
			flags = flagEndStream
		}
		c.out = append(appendFrame(c.out, n, frameData, flags, st.id), p[:n]...)
		c.sentData++
		p = p[n:]
	}
}

// tail ends the answer with its trailers. The caller holds mu.
func (r *reply) tail() {
	st := r.st
	c, t := st.c, st.x.Response.Trailer
	from := -1
	for _, f := range t.Fields() {
		if http1.NoTrailer(f.Name) || !http1.Writable(f.Name, f.Value) {
			continue
		}
		if from < 0 { // a head that was begun cannot be taken back: it may tell the size of the table
			from = c.beginHead(st.id)
		}
		c.out = c.enc.field(c.out, f.Name, f.Value)
	}
	if from < 0 {
		c.put(st, nil, true)
		return
	}
	c.endHead(from, flagEndStream)
}

var copies = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// stream writes a body that is yet to come, or too long for the window; some of it may be at hand. The caller holds mu, which
// is released.
func (r *reply) stream(length int64, trailers, some bool) error {
	st, x := r.st, &r.st.x
	c, p := st.c, &x.Response
	buffer := copies.Get().(*[32 << 10]byte)
	defer copies.Put(buffer)
	// A body of known length comes soon, and its beginning goes out with the head. Of others nobody knows when they come.
	if !some && (length < 0 || p.Flush) {
		c.flush(len(c.opened) > 1)
	} else {
		c.mu.Unlock()
	}
	for {
		room := len(buffer)
		if length >= 0 {
			room = int(min(int64(room), length-x.Written))
		}
		n, err := p.Body.Read(buffer[:room])
		if err != nil && err != io.EOF {
			return &bodyError{err}
		}
		whole := length >= 0 && x.Written+int64(n) == length
		last := err == io.EOF || whole
		if last && length >= 0 && !whole {
			c.mu.Lock()
			x.Written += int64(n)
			c.mu.Unlock()
			return &bodyError{fmt.Errorf("it ended after %d of %d bytes", x.Written, length)}
		}
		if last && trailers && err == nil { // they are there when the body was read to its end
			var one [1]byte
			if k, err := p.Body.Read(one[:]); k > 0 || err != io.EOF {
				return &bodyError{fmt.Errorf("it does not end after %d bytes: %w", length, err)}
			}
		}
		if n > 0 || last && !trailers {
			if err := r.data(buffer[:n], last && !trailers); err != nil {
				return err
			}
		}
		if last {
			c.mu.Lock()
			if st.lostBy != nil {
				c.mu.Unlock()
				return st.lostBy
			}
			if trailers {
				r.tail()
			}
			st.end()
			c.mu.Unlock()
			return nil
		}
	}
}

// data writes some of the body, as the windows of the client allow, and waits for them. What ends it is left to finish.
func (r *reply) data(p []byte, end bool) error {
	st := r.st
	c := st.c
	st.outlet.Waits(filter.Now())
	defer st.outlet.Goes()
	c.mu.Lock()
	for {
		if !r.room() {
			return r.failed
		}
		n := int(max(min(int64(len(p)), st.window, c.window), 0)) // a window may be less than none. spec: RFC 9113 §6.9.2
		if n > 0 || len(p) == 0 {
			last := n == len(p)
			c.put(st, p[:n], end && last)
			st.x.Written += int64(n)
			if p = p[n:]; last {
				break
			}
		}
		if len(c.out) > 0 && !c.writing {
			c.flush(false)
			c.mu.Lock()
			continue
		}
		if !r.hold() {
			why := errSlow
			if st.dropped {
				why = filter.ErrStalled
			}
			c.mu.Unlock()
			return why
		}
	}
	if end {
		c.mu.Unlock()
		return nil
	}
	c.flush(len(c.opened) > 1)
	return nil
}

// hold waits for the client's window. It returns false if the client takes too little. The caller holds mu.
func (r *reply) hold() bool {
	st := r.st
	now := filter.Now()
	if st.stuck == 0 {
		st.stuck = now
	}
	st.cond.Wait()
	if st.window > 0 && st.c.window > 0 {
		st.stuck = 0
	}
	st.drip.took += time.Duration(filter.Now() - now)
	if st.drip.took < slowWindow {
		return !st.slow && !st.dropped
	}
	least := int64(st.c.s.settings.Load().AnswerRate)
	slow := st.x.Written-st.drip.bytes < int64(st.drip.took/time.Second)*least
	st.drip = pace{bytes: st.x.Written}
	return !slow && !st.slow && !st.dropped
}

// broken tells why the answer was not written to its end, and resets the stream.
func (r *reply) broken() {
	st, x := r.st, &r.st.x
	if x.Err == nil {
		x.Err = r.failed
	}
	var e *bodyError
	var up *http1.Error
	var bad *malformed
	why := internalError
	switch {
	case r.failed == errCut, r.failed == errPanicked: // it was said why
	case errors.As(r.failed, &bad):
		x.SetCategory(filter.FailureBadRequest, bad.Error())
		why = protocolError
	case errors.Is(r.failed, filter.ErrStalled):
		x.Stalled()
		why = cancelled
	case errors.Is(r.failed, errSlow):
		x.SetCategory(filter.FailureClientTimeout, "the client takes its answer too slowly (edge.http.response.minrate)")
		why = cancelled
	case errors.As(r.failed, &up) && up.Kind == http1.Cancelled, !errors.As(r.failed, &e):
		x.SetCategory(filter.FailureClientCancelled, "the client went away")
	case up != nil && up.Kind == http1.Timeout:
		x.SetCategory(filter.FailureOriginReadTimeout, "the origin paused for too long in its answer")
	default:
		x.SetCategory(filter.FailureOriginReset, "the origin's answer broke off")
	}
	st.c.mu.Lock()
	st.abort(why)
	st.c.mu.Unlock()
}
