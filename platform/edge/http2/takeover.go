package http2

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// handOver writes the head of an answer that takes the stream over, and has that done: the stream is the connection.
// spec: RFC 8441 §5
func (r *reply) handOver() {
	st, x := r.st, &r.st.x
	c, p := st.c, &x.Response
	now := filter.Now()
	x.Passport.AddAt(filter.OutRespHeadersSending, now)
	status := p.Status
	if status < 200 {
		status = 200
	}
	p.Header.Del("Sec-WebSocket-Accept")
	c.mu.Lock()
	if !r.room() {
		return
	}
	c.final(st, status, -1, now, false)
	c.flush(false)
	t := &tunnel{st: st, c: c}
	returned := false
	defer func() {
		if !returned { // it panicked; who has t still finds it closed, for the stream will be another's
			c.mu.Lock()
			st.abort(internalError)
			c.mu.Unlock()
		}
		t.Close()
	}()
	p.Takeover(t, nil)
	returned = true
}

// tunnel is a stream as a connection.
type tunnel struct {
	st *stream
	c  *conn

	wmu sync.Mutex // one at a time writes

	// Guarded by c.mu.
	closed    bool
	sentEnd   bool // nothing more is written
	readBy    time.Time
	writeBy   time.Time
	readBell  *time.Timer
	writeBell *time.Timer
}

// Read reads what the client sends.
func (t *tunnel) Read(p []byte) (int, error) {
	st, c := t.st, t.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case t.closed:
			return 0, net.ErrClosed
		case late(t.readBy):
			return 0, os.ErrDeadlineExceeded
		case st.at < len(st.in):
			n := copy(p, st.in[st.at:])
			if st.at += n; st.at == len(st.in) {
				st.in, st.at = st.in[:0], 0
			}
			st.got += int64(n)
			c.giveCredit(n)
			st.giveCredit(n)
			if len(c.out) > 0 && !c.writing {
				c.flush(false)
				c.mu.Lock()
			}
			return n, nil
		case st.ended:
			return 0, io.EOF
		case st.lostBy != nil:
			return 0, st.lostBy
		case len(p) == 0:
			return 0, nil
		}
		st.cond.Wait()
	}
}

func late(by time.Time) bool { return !by.IsZero() && !time.Now().Before(by) }

// Write sends to the client at once.
func (t *tunnel) Write(p []byte) (int, error) {
	st, c := t.st, t.c
	t.wmu.Lock()
	defer t.wmu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	sent := 0
	for {
		switch {
		case t.closed || t.sentEnd:
			return sent, net.ErrClosed
		case st.lostBy != nil:
			return sent, st.lostBy
		case c.failed != nil:
			return sent, c.failed
		case sent == len(p):
			return sent, nil
		case late(t.writeBy):
			return sent, os.ErrDeadlineExceeded
		case len(c.out) > outHigh && c.writing:
			c.room.Wait()
			continue
		}
		if n := int(min(int64(len(p)-sent), st.window, c.window, outHigh)); n > 0 {
			c.put(st, p[sent:sent+n], false)
			sent += n
			st.x.Written += int64(n)
			c.flush(false)
			c.mu.Lock()
			continue
		}
		st.cond.Wait()
	}
}

// CloseWrite tells the client that nothing follows.
func (t *tunnel) CloseWrite() error {
	st, c := t.st, t.c
	c.mu.Lock()
	if t.closed || t.sentEnd || st.lostBy != nil || c.failed != nil {
		c.mu.Unlock()
		return net.ErrClosed
	}
	t.sentEnd = true
	c.put(st, nil, true)
	c.flush(false)
	return nil
}

// Close ends the stream.
func (t *tunnel) Close() error {
	st, c := t.st, t.c
	c.mu.Lock()
	if t.closed {
		c.mu.Unlock()
		return nil
	}
	t.closed = true
	for _, b := range [...]*time.Timer{t.readBell, t.writeBell} {
		if b != nil {
			b.Stop()
		}
	}
	if st.lostBy == nil && !t.sentEnd {
		c.put(st, nil, true)
	}
	st.end()
	st.wake()
	c.flush(false)
	return nil
}

// LocalAddr returns the address of the listener.
func (t *tunnel) LocalAddr() net.Addr { return t.c.nc.LocalAddr() }

// RemoteAddr returns the client's address.
func (t *tunnel) RemoteAddr() net.Addr { return t.c.nc.RemoteAddr() }

// SetDeadline sets both deadlines.
func (t *tunnel) SetDeadline(by time.Time) error {
	t.SetReadDeadline(by) //nolint:errcheck // it never fails
	return t.SetWriteDeadline(by)
}

// SetReadDeadline sets how long Read waits.
func (t *tunnel) SetReadDeadline(by time.Time) error {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	t.readBy = by
	t.readBell = t.ring(t.readBell, by)
	return nil
}

// SetWriteDeadline sets how long Write waits.
func (t *tunnel) SetWriteDeadline(by time.Time) error {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	t.writeBy = by
	t.writeBell = t.ring(t.writeBell, by)
	return nil
}

// ring has who waits look again at that time. The caller holds mu.
func (t *tunnel) ring(bell *time.Timer, by time.Time) *time.Timer {
	if bell != nil {
		bell.Stop()
	}
	if t.closed { // the stream may be another's
		return nil
	}
	st, c := t.st, t.c
	st.wake()
	if by.IsZero() {
		return nil
	}
	return time.AfterFunc(max(time.Until(by), 0), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !t.closed {
			st.wake()
		}
	})
}
