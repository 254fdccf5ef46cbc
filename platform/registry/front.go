package registry

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// front answers plain heartbeats, and looks at the list and the delta, before net/http sees them, at a fraction of what
// they cost there. It sits where net/http reads from a connection. While that waits for the next request, front reads
// one itself. A plain one it answers, and net/http goes on waiting. A framed one it passes on, to the byte where it
// ends, and listens again when net/http is done with it. From a strange one on, the connection is net/http's for good.
type front struct {
	net.Listener
	h      *eureka
	srv    *http.Server
	admits func(host, authorization string) bool

	mu    sync.Mutex
	conns map[*frontConn]struct{}
	ends  atomic.Bool // the server shuts down
	clock clock
}

// Front returns the listener on which srv, which serves this registry's handler, must serve to be fast; connections
// come from l. admits tells of a Host and an Authorization header whether srv's handler lets a request with them pass.
// Only connections in clear are made faster.
func (r *Registry) Front(srv *http.Server, l net.Listener, admits func(host, authorization string) bool) net.Listener {
	f := &front{
		Listener: l, h: r.face, srv: srv, admits: admits, conns: make(map[*frontConn]struct{}),
	}
	told := srv.ConnState
	srv.ConnState = func(c net.Conn, st http.ConnState) {
		if fc, ok := c.(*frontConn); ok {
			fc.becomes(st)
		}
		if told != nil {
			told(c, st)
		}
	}
	srv.RegisterOnShutdown(f.end)
	return f
}

func (f *front) Accept() (net.Conn, error) {
	nc, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if _, ok := nc.(*tls.Conn); ok {
		return nc, nil // net/http must see that it is one
	}
	c := &frontConn{Conn: nc, f: f, hush: make(chan struct{}, 1)}
	if sc, ok := nc.(syscall.Conn); ok {
		if c.raw, err = sc.SyscallConn(); err != nil {
			nc.Close()
			return nil, err
		}
		c.try, c.put = c.tryRead, c.tryWrite
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns[c] = struct{}{}
	return c, nil
}

// end ends the connections that are listened to; net/http ends the others.
func (f *front) end() {
	f.ends.Store(true)
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		if c.listening.Load() {
			c.Conn.SetReadDeadline(longAgo) //nolint:errcheck // one that is closed has ended
		}
	}
}

// leastHead is how many bytes net/http waits for before it looks at them, except those of a first request.
const leastHead = 4

// longAgo is the deadline by which net/http, too, interrupts a read.
var longAgo = time.Unix(1, 0)

// frontConn is a connection as net/http has it. net/http never reads from two goroutines at once, nor does it tell of a
// new state while it reads, so only what other goroutines touch is guarded.
type frontConn struct {
	net.Conn
	f   *front
	raw syscall.RawConn    // nil if there is none
	try func(uintptr) bool // tryRead
	put func(uintptr) bool // tryWrite

	mode mode
	s    *arrival // nil while nothing has arrived
	owed int64    // bytes of a body that net/http is still to read, after what is due in s
	err  error    // of tryRead
	sent int      // bytes that tryWrite wrote

	hush      chan struct{} // holds a token when overhear must return
	listening atomic.Bool

	idleUntil time.Time // the read deadline if none of a head has arrived, as far as it is known
	late      bool      // whether the deadline is that of a head instead

	answered    bool // whether anything was, here
	admitted    bool // whether host and authz were
	host, authz string
}

// mode is who reads from a connection.
type mode uint8

const (
	ours   mode = iota // the next byte is the first of a request
	lent               // net/http has a request, or the part of it that is due and owed
	theirs             // net/http reads whatever comes
)

// arrival holds what has arrived on a connection, in three runs, and what is to be written.
type arrival struct {
	in  [4096]byte
	at  int // in[at:mid] is due to net/http
	mid int // in[mid:n] is not looked at yet
	n   int
	out []byte
}

var arrivals = sync.Pool{New: func() any { return &arrival{out: make([]byte, 0, 2048)} }}

// hold makes sure that there is an arrival.
func (c *frontConn) hold() *arrival {
	if c.s == nil {
		c.s = arrivals.Get().(*arrival)
		c.s.at, c.s.mid, c.s.n = 0, 0, 0
	}
	return c.s
}

// drop gives the arrival away if there is nothing in it.
func (c *frontConn) drop() {
	if c.s != nil && c.s.at == c.s.n {
		arrivals.Put(c.s)
		c.s = nil
	}
}

func (c *frontConn) Read(p []byte) (int, error) {
	if c.mode == ours {
		if err := c.listen(); err != nil {
			return 0, err
		}
	}
	if s := c.s; s != nil && s.at < s.mid {
		n := copy(p, s.in[s.at:s.mid])
		s.at += n
		c.drop()
		return n, nil
	}
	switch {
	case c.mode == theirs:
		return c.Conn.Read(p)
	case c.owed > 0:
		n, err := c.Conn.Read(p[:min(int64(len(p)), c.owed)])
		c.owed -= int64(n)
		return n, err
	}
	return c.overhear(p)
}

// overhear reads while net/http answers: it wants to know if the client goes away. A client that sends its next request
// meanwhile is still there; what it sends is kept until it is the turn of it.
func (c *frontConn) overhear(p []byte) (int, error) {
	if c.s == nil {
		n, err := c.Conn.Read(p[:1])
		if n == 0 {
			return 0, err
		}
		s := c.hold()
		s.in[0], s.n = p[0], 1
	}
	<-c.hush
	return 0, os.ErrDeadlineExceeded
}

func (c *frontConn) SetReadDeadline(t time.Time) error {
	if t.Equal(longAgo) {
		c.interrupt()
	} else {
		c.idleUntil, c.late = t, false
	}
	return c.Conn.SetReadDeadline(t)
}

// CloseWrite lets net/http end an answer that the client may still be sending for.
func (c *frontConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

func (c *frontConn) interrupt() {
	select {
	case c.hush <- struct{}{}:
	default:
	}
}

func (c *frontConn) Close() error {
	c.interrupt()
	c.f.mu.Lock()
	delete(c.f.conns, c)
	c.f.mu.Unlock()
	return c.Conn.Close()
}

// becomes is told what net/http does with the connection.
func (c *frontConn) becomes(st http.ConnState) {
	switch {
	case st == http.StateHijacked:
		c.mode = theirs
		if c.s != nil {
			c.s.mid = c.s.n
		}
	case st == http.StateIdle && c.mode == lent:
		if c.owed > 0 || c.s != nil && c.s.at < c.s.mid {
			c.Close() // cannot be: it has answered what it has not read
			return
		}
		c.mode = ours
	}
}

// listen answers requests until there is something due to net/http.
func (c *frontConn) listen() error {
	c.listening.Store(true)
	defer c.listening.Store(false)
	for {
		if c.s != nil {
			now := time.Now()
			if err := c.work(now); err != nil || c.mode != ours {
				return err
			}
			c.expect(now)
		}
		if c.f.ends.Load() {
			return os.ErrDeadlineExceeded
		}
		if err := c.fill(); err != nil {
			if c.s == nil || c.answered && c.s.n < leastHead {
				return err
			}
			c.s.mid, c.mode = c.s.n, theirs // it will hear of the error after half a head
			return nil
		}
	}
}

// expect sets the deadline for what comes next.
func (c *frontConn) expect(now time.Time) {
	switch idle := c.f.srv.IdleTimeout; {
	case c.s != nil && !c.late && c.f.srv.ReadHeaderTimeout > 0:
		c.late = true
		c.Conn.SetReadDeadline(now.Add(c.f.srv.ReadHeaderTimeout)) //nolint:errcheck // the read fails then
	case c.s == nil && idle > 0 && (c.late || c.idleUntil.Sub(now) < idle-idle/8): // not for each request
		c.late, c.idleUntil = false, now.Add(idle)
		c.Conn.SetReadDeadline(c.idleUntil) //nolint:errcheck // as above
	}
}

// fill waits for something to arrive. No memory is held while nothing does.
func (c *frontConn) fill() error {
	if c.raw != nil {
		c.err = nil
		if err := c.raw.Read(c.try); err != nil {
			return err
		}
		return c.err
	}
	s := c.hold()
	n, err := c.Conn.Read(s.in[s.n:])
	s.n += n
	c.drop()
	if n > 0 {
		return nil // an error comes again
	}
	return err
}

// tryRead reads what has arrived, and reports false if nothing has.
func (c *frontConn) tryRead(fd uintptr) bool {
	s := c.hold()
	for {
		n, err := readNow(fd, s.in[s.n:])
		switch {
		case n > 0:
			s.n += n
			return true
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			c.drop()
			return false
		case err == nil:
			err = io.EOF
		default:
			err = os.NewSyscallError("read", err)
		}
		c.err = err
		c.drop()
		return true
	}
}

// work answers the plain requests that have arrived, up to the first that is not, which it leaves to net/http.
func (c *frontConn) work(now time.Time) error {
	s := c.s
	for s.mid < s.n {
		h, what := readHead(s.in[s.mid:s.n])
		if what == unfinished && s.n-s.mid < len(s.in) || c.answered && s.n-s.mid < leastHead {
			break
		}
		if what == plain {
			ok, err := c.answer(&h, now)
			if err != nil {
				return err
			}
			if ok {
				c.answered = true
				s.mid += h.size
				continue
			}
		}
		s.at = s.mid
		if what == plain || what == framed {
			all := int64(h.size) + h.length
			here := min(all, int64(s.n-s.mid))
			s.mid += int(here)
			c.owed, c.mode = all-here, lent
			select {
			case <-c.hush: // of the last request
			default:
			}
		} else {
			s.mid, c.mode = s.n, theirs
		}
		return c.flush()
	}
	if c.mode == ours {
		s.n = copy(s.in[:], s.in[s.mid:s.n])
		s.at, s.mid = 0, 0
	}
	err := c.flush()
	c.drop()
	return err
}

func (c *frontConn) flush() error {
	if len(c.s.out) == 0 {
		return nil
	}
	c.sent = 0
	if c.raw != nil {
		if err := c.raw.Write(c.put); err != nil {
			return err
		}
	}
	var err error
	if c.sent < len(c.s.out) { // the client does not keep up, or is gone
		_, err = c.Conn.Write(c.s.out[c.sent:])
	}
	c.s.out = c.s.out[:0]
	return err
}

// tryWrite writes what the kernel takes at once.
func (c *frontConn) tryWrite(fd uintptr) bool {
	c.sent = writeNow(fd, c.s.out)
	return true
}

// answer answers h, unless that is for net/http to do.
//
// hot path: 0 allocs, BenchmarkFrontHeartbeat
func (c *frontConn) answer(h *head, now time.Time) (ok bool, err error) {
	if h.length > 0 || !c.admits(h) {
		return false, nil
	}
	t := c.f.h.prefixes.parse(textOf(h.path))
	switch {
	case h.put && t.what == oneInstance && string(h.replication) != "true":
		c.f.heartbeat(c.s, t, h, now)
	case h.get && (t.what == allApps || t.what == deltaApps) && h.query == nil:
		rep := c.f.h.look(t, wish{accept: textOf(h.accept), eurekaAccept: textOf(h.eurekaAccept), encoding: textOf(h.encoding), name: textOf(h.name), id: textOf(h.id)})
		if rep.size() < largeAnswer {
			return true, c.reply(&rep, now)
		}
		c.f.h.inTurn(func() {
			c.Conn.SetWriteDeadline(now.Add(timeToWrite(rep.size()))) //nolint:errcheck // the write fails then
			err = c.reply(&rep, now)
			c.Conn.SetWriteDeadline(time.Time{}) //nolint:errcheck // as above
		}, func() { err = c.reply(&reply{status: http.StatusServiceUnavailable}, now) })
		return true, err
	default:
		return false, nil
	}
	if len(c.s.out) > cap(c.s.out)-256 {
		return true, c.flush()
	}
	return true, nil
}

// textOf is b as a string that must not be kept: b will be overwritten.
func textOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// admits asks anew only when a client says something else than before.
func (c *frontConn) admits(h *head) bool {
	if c.admitted && string(h.host) == c.host && string(h.authorization) == c.authz {
		return true
	}
	c.host, c.authz = string(h.host), string(h.authorization)
	c.admitted = c.f.admits(c.host, c.authz)
	return c.admitted
}

func (f *front) heartbeat(s *arrival, t target, h *head, now time.Time) {
	res, _ := f.h.heartbeat(t, textOf(h.query), origin{native: string(h.name) == nativeAgent})
	status := "HTTP/1.1 200 OK\r\nDate: "
	if res == notFound {
		status = "HTTP/1.1 404 Not Found\r\nDate: "
	}
	s.out = append(s.out, status...)
	s.out = append(s.out, f.clock.date(now)...)
	s.out = append(s.out, "\r\nContent-Length: 0\r\n\r\n"...)
}

// reply writes rep after what is to be written before it.
func (c *frontConn) reply(rep *reply, now time.Time) error {
	s := c.s
	size := rep.size()
	b := append(s.out, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(rep.status), 10)
	b = append(append(b, ' '), http.StatusText(rep.status)...)
	if rep.contentType != "" {
		b = append(append(b, "\r\nContent-Type: "...), rep.contentType...)
		b = append(b, "\r\nVary: "+vary...)
	}
	if rep.zipped {
		b = append(b, "\r\nContent-Encoding: gzip"...)
	}
	b = append(append(b, "\r\nDate: "...), c.f.clock.date(now)...)
	b = strconv.AppendInt(append(b, "\r\nContent-Length: "...), int64(size), 10)
	b = append(b, "\r\n\r\n"...)
	s.out = b
	if size <= cap(b)-len(b) {
		for _, p := range rep.parts {
			s.out = append(s.out, p...)
		}
		return nil
	}
	all := append(net.Buffers{b}, rep.parts...)
	s.out = b[:0]
	_, err := all.WriteTo(c.Conn)
	return err
}

// clock makes the text of each second once.
type clock struct{ last atomic.Pointer[dateText] }

type dateText struct {
	second int64
	text   []byte
}

func (k *clock) date(now time.Time) []byte {
	second := now.Unix()
	if d := k.last.Load(); d != nil && d.second == second {
		return d.text
	}
	d := &dateText{second, now.UTC().AppendFormat(nil, http.TimeFormat)}
	k.last.Store(d)
	return d.text
}
