package filter

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
)

// whole is a body that was read to its end.
type whole struct {
	mem  []byte // what it was read into; used again
	left []byte
}

// keptBody is how large a buffer an exchange keeps for its next request, in bytes.
const keptBody = 64 << 10

// Read reads on.
func (w *whole) Read(p []byte) (int, error) {
	if len(w.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, w.left)
	w.left = w.left[n:]
	return n, nil
}

// Close does nothing.
func (w *whole) Close() error { return nil }

// Buffered returns what is left.
func (w *whole) Buffered() []byte { return w.left }

func (w *whole) emptied() whole {
	if cap(w.mem) > keptBody {
		return whole{}
	}
	return whole{mem: w.mem[:0]}
}

// message is the request of an exchange or its response.
type message struct {
	x       *Exchange
	request bool
}

func (m message) body() *io.ReadCloser {
	if m.request {
		return &m.x.Request.Body
	}
	return &m.x.Response.Body
}

func (m message) held() *whole {
	if m.request {
		return &m.x.in
	}
	return &m.x.out
}

func (m message) length() int64 {
	if m.request {
		return m.x.Request.ContentLength
	}
	return m.x.Response.ContentLength
}

// setLength makes n the body's length, and -1 that of one with trailers, which need chunks.
func (m message) setLength(n int64) {
	if m.request {
		if n > 0 && m.x.Request.Trailer.Len() > 0 {
			n = -1
		}
		m.x.Request.ContentLength = n
		m.x.Request.Header.Del("Content-Length")
		return
	}
	if m.x.Response.Trailer != nil {
		n = -1
	}
	m.x.Response.ContentLength = n
	m.x.Response.Header.Del("Content-Length")
}

// hold reads the body to its end and puts it into x.Whole. If it cannot, the request is to fail, for part of the body is
// gone.
func (r *run) hold(m message) error {
	x, body, held := r.x, m.body(), m.held()
	if *body == nil {
		x.Whole = nil
		return nil
	}
	if *body == io.ReadCloser(held) {
		x.Whole = held.left
		return nil
	}
	start, end, limit := FiltersInboundBufStart, FiltersInboundBufEnd, r.c.maxRequest.Get()
	if !m.request {
		start, end, limit = FiltersOutboundBufStart, FiltersOutboundBufEnd, r.c.maxResponse.Get()
	}
	x.Passport.Add(start)
	all, err := readAll(held.mem[:0], *body, m.length(), limit)
	if err != nil {
		err = m.verdict(err, limit)
		x.Fail(err)
		return err
	}
	(*body).Close() //nolint:errcheck // it is at its end
	held.mem, held.left = all, all
	*body = held
	m.setLength(int64(len(all)))
	x.Whole = all
	x.Passport.Add(end)
	return nil
}

var errTooLarge = errors.New("the body is larger than what may be held")

// readAll appends what body has to b: length bytes if that is not -1, and not more than limit.
func readAll(b []byte, body io.Reader, length int64, limit int) ([]byte, error) {
	if length > int64(limit) {
		return nil, errTooLarge
	}
	if n := int(min(length, keptBody)); n > cap(b) { // what is only announced gets no more memory than that
		b = make([]byte, 0, n)
	}
	for {
		if len(b) == cap(b) {
			if int64(len(b)) == length { // most bodies end here; there is no need to grow to see that
				var one [1]byte
				if n, err := body.Read(one[:]); n == 0 && err == io.EOF {
					return b, nil
				} else if n == 0 && err != nil {
					return nil, err
				} else {
					b = append(b, one[:n]...)
					continue
				}
			}
			b = append(b, 0)[:len(b)]
		}
		n, err := body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case len(b) > limit:
			return nil, errTooLarge
		case err == io.EOF:
			return b, nil
		case err != nil:
			return nil, err
		}
	}
}

// verdict returns what is answered when the body could not be read whole.
func (m message) verdict(err error, limit int) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	switch {
	case errors.Is(err, errTooLarge) && m.request:
		return &Error{Status: http.StatusRequestEntityTooLarge, Category: FailureBadRequest, Reason: fmt.Sprintf("the request's body is larger than the %d bytes that may be held here", limit)}
	case errors.Is(err, errTooLarge):
		return &Error{Status: http.StatusBadGateway, Category: FailureOrigin, Reason: fmt.Sprintf("the answer's body is larger than the %d bytes that may be held here", limit)}
	case m.request:
		return &Error{Status: http.StatusBadRequest, Category: FailureClientCancelled, Reason: "the request's body broke off", Err: err}
	}
	return &Error{Status: http.StatusBadGateway, Category: FailureOrigin, Reason: "the answer's body broke off", Err: err}
}

// replace makes what a filter has left in x.Whole the body, unless it has set another one.
func (m message) replace() {
	body, held, b := m.body(), m.held(), m.x.Whole
	switch {
	case *body == nil && len(b) > 0:
		*body = held
	case *body != io.ReadCloser(held) || *body == nil:
		return
	}
	if len(b) != len(held.left) {
		m.setLength(int64(len(b)))
	}
	held.left = b
}

// wrap has the body pass through f's Chunk.
func (m message) wrap(c *Chain, f *Filter) {
	body := m.body()
	if *body == nil {
		return
	}
	size := 32 << 10
	if n := m.length(); n >= 0 {
		size = int(min(n+1, int64(size))) // one more, so that its end shows in the same read
	}
	*body = &chunks{x: m.x, chain: c, filter: f, body: *body, buf: make([]byte, size)}
	m.setLength(-1)
}

// chunks is a body that passes through a filter as it streams.
type chunks struct {
	x      *Exchange
	chain  *Chain
	filter *Filter
	body   io.ReadCloser
	buf    []byte
	out    []byte
	err    error // of the next Read once out is empty
}

// Read reads on.
func (c *chunks) Read(p []byte) (int, error) {
	for len(c.out) == 0 && c.err == nil {
		n, err := c.body.Read(c.buf)
		c.err = err
		if n == 0 && err != io.EOF {
			continue
		}
		out, err := c.chunk(c.buf[:n], err == io.EOF)
		if err != nil {
			c.err = err
			break
		}
		c.out = out
	}
	if len(c.out) == 0 {
		return 0, c.err
	}
	n := copy(p, c.out)
	c.out = c.out[n:]
	return n, nil
}

// chunk calls the filter. It may be on another goroutine than the exchange's.
func (c *chunks) chunk(p []byte, last bool) (out []byte, err error) {
	b := c.chain.of(c.filter)
	defer func() {
		if v := recover(); v != nil {
			c.chain.complain(c.filter, b, "filter panicked on a body", "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("filter %s panicked: %v", c.filter.Name, v)
		}
		if err != nil {
			b.counts[failed].Inc()
			err = fmt.Errorf("filter %s broke the body off: %w", c.filter.Name, err)
		}
	}()
	return c.filter.Chunk(c.x, p, last)
}

// Close closes what is below.
func (c *chunks) Close() error { return c.body.Close() }
