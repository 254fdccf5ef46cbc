package origin

import (
	"errors"
	"io"
	"sync"
)

// upload is the request's body for one attempt after another. What is read of it is kept, up to a limit, so that another
// attempt gets the same bytes; beyond that it can be sent once only. An attempt that was given up may still be reading while
// the next begins: each has a number, and only the last one's reads count.
type upload struct {
	reading sync.Mutex // one at a time reads from the client; taken before mu

	mu    sync.Mutex // guards what follows
	body  io.ReadCloser
	limit int
	kept  []byte // from the beginning
	over  error  // the body's end: io.EOF, or why it broke off
	lost  bool   // more was read than is kept
	busy  bool   // somebody waits for the client
	final bool   // there will be no other attempt
	turn  int    // the attempt whose reads count
	gen   int    // of the request: what is read for an earlier one is nothing to this
}

var errGivenUp = errors.New("this attempt was given up")

func (u *upload) begin(body io.ReadCloser, limit int) {
	u.mu.Lock() // against who has read for an earlier request
	u.body, u.limit, u.kept, u.over, u.lost, u.final = body, limit, u.kept[:0], nil, false, false
	u.turn++
	u.gen++
	u.mu.Unlock()
}

// whole reports whether a further attempt can have the body from its beginning.
func (u *upload) whole() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.lost && (u.over == nil || u.over == io.EOF)
}

// broke returns why the client's body broke off; nil if it did not.
func (u *upload) broke() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over == io.EOF {
		return nil
	}
	return u.over
}

// complete returns the whole body if it was read to its end and kept, or lies ready.
func (u *upload) complete(length int64) ([]byte, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.body == nil {
		return nil, true
	}
	if u.over == nil && len(u.kept) == 0 {
		if b, ok := u.body.(interface{ Buffered() []byte }); ok && int64(len(b.Buffered())) == length {
			return b.Buffered(), true
		}
	}
	return u.kept, !u.lost && (u.over == io.EOF || int64(len(u.kept)) == length)
}

// halt keeps everybody from reading, and waits for who does so just now: once the answer is over, the body is the engine's
// again.
func (u *upload) halt() {
	u.mu.Lock()
	body, busy := u.body, u.busy
	u.turn++
	u.lost = u.lost || busy
	u.mu.Unlock()
	if busy {
		body.Close()     //nolint:errcheck // so that nobody waits in it
		u.reading.Lock() // who held it has read for the last time
		//lint:ignore SA2001 it is waited for, and no more
		u.reading.Unlock()
	}
}

// end forgets the body.
func (u *upload) end() {
	u.halt()
	u.mu.Lock()
	u.gen++
	u.body = nil
	if cap(u.kept) > keptBody {
		u.kept = nil
	}
	u.mu.Unlock()
}

// keptBody is how large a buffer is kept for the next request.
const keptBody = 64 << 10

// cursor reads the body for one attempt.
type cursor struct {
	u    *upload
	turn int
	gen  int
	at   int // in kept
	shut bool
}

// next returns the body for one more attempt.
func (u *upload) next(c *cursor) {
	u.mu.Lock()
	u.turn++
	c.u, c.turn, c.gen, c.at, c.shut = u, u.turn, u.gen, 0, false
	u.mu.Unlock()
}

// Read reads on, from what is kept first.
func (c *cursor) Read(p []byte) (int, error) {
	u := c.u
	u.reading.Lock()
	defer u.reading.Unlock()
	u.mu.Lock()
	body := u.body
	n, err, known := c.known(p)
	u.busy = !known
	u.mu.Unlock()
	if known {
		return n, err
	}
	n, err = body.Read(p)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.busy = false
	if c.gen != u.gen {
		return 0, errGivenUp // the request is over
	}
	switch {
	case u.lost:
	case len(u.kept)+n > u.limit:
		u.lost = true
	default:
		u.kept = append(u.kept, p[:n]...)
		c.at = len(u.kept)
	}
	if err != nil {
		u.over = err
	}
	if c.turn != u.turn {
		return 0, errGivenUp
	}
	return n, err
}

// known reads what need not be asked of the client. The caller holds mu.
func (c *cursor) known(p []byte) (n int, err error, ok bool) {
	u := c.u
	switch {
	case u.body == nil || c.shut || c.turn != u.turn || c.gen != u.gen:
		return 0, errGivenUp, true
	case c.at < len(u.kept):
		n = copy(p, u.kept[c.at:])
		c.at += n
		return n, nil, true
	case u.over != nil:
		return 0, u.over, true
	case len(p) == 0:
		return 0, nil, true
	}
	return 0, nil, false
}

// Close ends the attempt's reading. The client's body is closed with it only if somebody waits for it just now, or no other
// attempt can want it.
func (c *cursor) Close() error {
	u := c.u
	u.mu.Lock()
	body := u.body
	c.shut = true
	mine := c.turn == u.turn && c.gen == u.gen && body != nil && (u.busy || u.final)
	if mine {
		u.lost = true
	}
	u.mu.Unlock()
	if mine {
		return body.Close()
	}
	return nil
}

// settle tells that no attempt follows.
func (u *upload) settle() {
	u.mu.Lock()
	u.final = true
	u.mu.Unlock()
}

// Buffered returns what can be had without waiting.
func (c *cursor) Buffered() []byte {
	u := c.u
	u.mu.Lock()
	defer u.mu.Unlock()
	if c.at < len(u.kept) {
		return u.kept[c.at:]
	}
	if b, ok := u.body.(interface{ Buffered() []byte }); ok && u.over == nil && len(u.kept) == 0 {
		return b.Buffered()
	}
	return nil
}

// shutter closes a cursor from another goroutine than the request's: it reads no more, and the client's body is left alone.
type shutter struct{ c *cursor }

// Close ends the attempt's reading.
func (s shutter) Close() error {
	s.c.u.mu.Lock()
	defer s.c.u.mu.Unlock()
	s.c.shut = true
	return nil
}
