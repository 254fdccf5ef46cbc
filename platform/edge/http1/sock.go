package http1

import (
	"cmp"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// errAgain is what recv and send return if nothing can be had or taken now.
var errAgain = errors.New("http1: not now")

// sock is one connection. On Linux it reads and writes plain TCP by system calls of its own, while inside the callback of a
// [syscall.RawConn]: waiting is leaving the callback, which the runtime's poller ends when bytes come. So a request costs two
// system calls here and none that says there is nothing. Elsewhere, and for TLS, it is a net.Conn like any other.
//
// A goroutine reads, and perhaps a second one writes.
type sock struct {
	c    net.Conn
	raw  syscall.RawConn // nil: not plain TCP, or not Linux
	fd   int             // inside the callback; -1 outside
	step func() bool
	cb   func(uintptr) bool // ready, made once: making it allocates

	// The deadline of reads is set late: an earlier one that is still running may ring, is found to be early, and is set
	// anew. A connection that is never late costs no timer.
	want, armed int64       // by filter.Now; 0: none
	cut         atomic.Bool // reading is over, whatever was waited for
	dropped     atomic.Bool // writing is over, whatever was waited for
	rate        int         // bytes a second that the other side must take; 0: minRate
	writeBy     int64       // the deadline of writes that is set, which is only moved when it comes near
}

func (k *sock) init(c net.Conn) {
	k.c, k.fd = c, -1
	k.raw = rawConn(c)
	k.cb = k.ready
}

func (k *sock) ready(fd uintptr) bool {
	k.fd = int(fd)
	done := k.step()
	k.fd = -1
	return done
}

// each calls step, and again whenever bytes may have come, until it returns true. In step, recv does not wait where it can be
// avoided. The error is the deadline's or the connection's end, and step was not told.
func (k *sock) each(step func() bool) error {
	if k.raw != nil {
		k.step = step
		return k.raw.Read(k.cb)
	}
	for !step() {
	}
	return nil
}

// recv reads what is there. Inside each it returns errAgain if that is nothing, where it can.
func (k *sock) recv(p []byte) (int, error) {
	if k.fd < 0 {
		return k.c.Read(p)
	}
	return sysRecv(k.fd, p, false)
}

// send writes what there is room for; outside each it waits.
func (k *sock) send(p []byte) (int, error) {
	if k.fd < 0 {
		return k.c.Write(p)
	}
	return sysSend(k.fd, p)
}

// pending reports whether bytes, or the connection's end, are there to be read: on an idle connection to an origin neither
// should be. It takes none of them.
func (k *sock) pending() bool {
	raw := k.raw
	if raw == nil {
		raw = rawConnUnder(k.c)
		if raw == nil {
			return false
		}
	}
	var p [1]byte
	var err error
	if e := raw.Control(func(fd uintptr) { _, err = sysRecv(int(fd), p[:], true) }); e != nil {
		return true
	}
	return !errors.Is(err, errAgain)
}

// held reports whether a TLS connection has taken in bytes that were not read, which may have come together with those that
// were, or has ended. It does not read from the socket: for that its time is over.
func (k *sock) held() bool {
	if _, ok := k.c.(*tls.Conn); !ok {
		return false
	}
	k.c.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // a connection that is closed says so when it is read
	var p [1]byte
	n, err := k.c.Read(p[:])
	k.set(k.want)
	return n > 0 || !errors.Is(err, os.ErrDeadlineExceeded)
}

// arm sets the deadline of reads; 0 is none. One that has passed already rings when it is next waited for.
func (k *sock) arm(want int64) {
	k.want = want
	if want != 0 && (k.armed == 0 || k.armed > want) {
		k.set(want)
	}
}

func (k *sock) set(want int64) {
	var t time.Time
	if want != 0 {
		t = filter.At(want)
	}
	k.armed = want
	k.c.SetReadDeadline(t) //nolint:errcheck // a connection that is closed says so when it is read
}

// early reports whether a deadline has rung that is not the one wanted, which is then set.
func (k *sock) early(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) || k.want != 0 && filter.Now() >= k.want || k.cut.Load() {
		return false
	}
	k.set(k.want)
	return true
}

// read waits for bytes, for so long at most; 0 is without end.
func (k *sock) read(p []byte, wait time.Duration) (int, error) {
	want := int64(0)
	if wait > 0 {
		want = filter.Now() + int64(wait)
	}
	k.arm(want)
	for {
		if k.cut.Load() { // looked at after the deadline was set: stop sets it the other way round
			return 0, net.ErrClosed
		}
		n, err := k.c.Read(p)
		if n > 0 {
			return n, nil
		}
		if err == nil {
			continue
		}
		if !k.early(err) {
			return 0, err
		}
	}
}

const (
	minRate    = 240              // bytes a second that a reader must take, and a sender must send, unless settings say otherwise
	slowWindow = 60 * time.Second // over which a reader must
)

var errSlow = errors.New("http1: the other side takes what is sent to it too slowly")

// writeNow writes what there is room for, and returns the rest. Outside each, where waiting cannot be told from writing, it
// writes nothing.
func (k *sock) writeNow(p []byte) (rest []byte, err error) {
	for k.fd >= 0 && len(p) > 0 {
		n, err := sysSend(k.fd, p)
		p = p[n:]
		if errors.Is(err, errAgain) {
			break
		}
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

// writeSlow writes p by the net.Conn, which waits, until the time by at most unless that is 0.
func (k *sock) writeSlow(p []byte, by int64) error {
	for len(p) > 0 {
		now, least, rate := filter.Now(), int64(slowWindow), int64(cmp.Or(k.rate, minRate))
		if k.raw == nil {
			least += int64(len(p)) * int64(time.Second) / rate // a TLS connection that timed out is no more
		}
		if by != 0 || k.writeBy == 0 || k.writeBy < now+least {
			if k.writeBy = by; by == 0 {
				k.writeBy = now + least + least/2
			}
			k.c.SetWriteDeadline(filter.At(k.writeBy)) //nolint:errcheck // as above
		}
		if k.dropped.Load() { // looked at after the deadline was set: drop sets it the other way round
			return filter.ErrStalled
		}
		n, err := k.c.Write(p)
		p = p[n:]
		switch {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case k.dropped.Load():
			return filter.ErrStalled
		case by != 0 && filter.Now() >= by:
			return err
		case k.raw == nil || int64(n) < (filter.Now()-now)/int64(time.Second)*rate:
			return errSlow
		}
	}
	return nil
}

// stop ends a read that waits in another goroutine, and all that follow.
func (k *sock) stop() {
	k.cut.Store(true)
	k.c.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // as above
}

// drop ends a write that waits in another goroutine, and all that follow.
func (k *sock) drop() {
	k.dropped.Store(true)
	k.c.SetWriteDeadline(time.Unix(1, 0)) //nolint:errcheck // as above
}

// Acked returns how many bytes the other side of a TCP connection, or of TLS over one, has acknowledged; -1 if the system does
// not tell.
func Acked(c net.Conn) int64 {
	raw := rawConn(c)
	if raw == nil {
		if raw = rawConnUnder(c); raw == nil {
			return -1
		}
	}
	n := int64(-1)
	raw.Control(func(fd uintptr) { n = sysAcked(int(fd)) }) //nolint:errcheck // a connection that is closed tells nothing
	return n
}

// closeWrite tells the other side that nothing follows.
func (k *sock) closeWrite() error {
	if c, ok := k.c.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return io.ErrClosedPipe
}

// reset cuts a connection so that the other side cannot take it for an ordinary end: by an RST, and for TLS without the alert
// that says that all was said.
func reset(c net.Conn) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0) //nolint:errcheck // then it is an ordinary end, which most clients find too early
	}
	c.Close() //nolint:errcheck // nothing can be done about it
}
