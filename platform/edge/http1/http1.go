// Package http1 speaks HTTP/1.1 on both sides of the edge, by a parser of its own that has no lenient mode. At Netflix this
// was the Netty codec under Zuul.
//
// # Why so strict
//
// A gateway and the server behind it each decide where a message ends. If they differ, what one takes for a body the other
// takes for the next request, and whoever sent it has smuggled a request past the gateway, or into somebody else's
// connection. Every such attack lives on something that two recipients read in two ways: two lengths, a length and a
// chunked body, a line that ends in LF alone, a space before a colon, a folded line, a sign before a number. All of these are
// refused here, with a sentence that tells the rule, and the connection is closed, because nobody knows where the next message
// would begin. What is not refused is never passed on as it came: the head that the origin gets is written anew from
// what was understood, with exactly one field that frames the body. Answers of origins are held to the same rules; one that
// breaks them is answered 502 for, since it may as well be the answer to another request.
//
// # How it reads
//
// A head is parsed where it lies, in the connection's read buffer: names, values, host and path of the exchange are views of
// that buffer, and nothing is allocated. One pass looks at each byte once, values eight at a time. If the head is not whole,
// the parser is called again with more bytes behind those it had; wherever they were split, it comes to the same result, and
// it refuses as soon as it can rather than wait for the end of a line that breaks a rule.
//
// The fields of an exchange are those that go from end to end. Host, Content-Length, Transfer-Encoding, Connection with
// what it names, Keep-Alive, Proxy-Connection, Upgrade, Expect and TE (but for trailers) are taken in by the engine, are told
// in fields of the exchange, and are written by the engine alone.
//
// # How a connection lives
//
// Each client's connection has a goroutine, and that does everything: it reads, runs the filters, asks the origin and writes the
// answer, so that nothing is handed over between threads. Only a body that is still coming when the origin is asked is sent
// by a second one, because the answer may come before it has ended; should the answer end first, the body is given up,
// the client hears the answer, and both connections close. On Linux plain TCP is read and written inside the callback of
// [syscall.RawConn], which costs four system calls for a request that is passed on, and one more that makes sure of the origin's
// connection. An idle connection waits without a buffer.
//
//	s := http1.NewServer(http1.Config{Serve: chain.Run, Finished: done})
//	go s.Serve(l)                                  // clients
//
//	u := http1.NewUpstream(c)                      // an origin
//	err := u.Do(x, &http1.Outgoing{Method: ...})   // x.Response is the answer
//
// An origin's connection may be used again only if its answer ended where it said, nothing came behind it, and nothing came while
// it was idle: bytes that nobody has asked for would become the answer to somebody else's request. That is looked at just
// before each request, and a connection that was closed meanwhile is found out before anything was sent on it.
//
// # What it promises
//   - What is read here, net/http reads as the same method, target, host, fields and body; where more is refused, it is by
//     a rule with a name.
//   - A head or a body that comes in pieces is read as if it came at once.
//   - A request without a body, or with one that came together with its head, is passed on without an allocation; bodies of any
//     length pass in constant memory, each side as fast as the other takes them.
//   - An idle connection costs less than 6 KiB, and one that waits for the rest of a head hardly more.
//   - An answer that broke off never looks whole: the connection is cut.
//   - Slow clients are cut off: a head has 10 s, a body may pause for 5 s until its answer begins, 240 bytes a second is the
//     least either way.
//   - A panic in Serve costs its request, not the process.
//   - A client that goes away ends what the origin was asked for it, within a second.
//   - Drain lets requests under way end, and tells their clients that the connection does.
//
// # What it does not
//   - It speaks HTTP/1.1 and 1.0 only. HTTP/2 is handed on by its preface.
//   - It has no lenient mode. It does not mend what it refuses.
//   - Over TLS, and on other systems than Linux, waiting takes a buffer of 1 KiB, and a client that goes away without a word is
//     seen only where the socket below can be looked at.
//   - It copies bodies; it does not splice them.
package http1

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Config is what a server is made of. Serve is required.
type Config struct {
	// Serve fills x.Response. It runs on the connection's goroutine; while it does, nobody else writes to the client. A panic
	// in it is logged and answered with 500.
	Serve func(x *filter.Exchange)

	// Finished is called once the response was written, or could not be, also for requests that were refused before Serve;
	// nil: nobody is told. If the connection was taken over, that is when whoever did so has returned.
	Finished func(x *filter.Exchange)

	// HTTP2 is given connections that begin with the preface of HTTP/2, and what was read of them; nil: they are refused.
	HTTP2 func(c net.Conn, client *filter.Client, early []byte)

	// Grace is how long Drain leaves idle connections open, so that a client who is about to ask gets an answer, and is told
	// that the connection ends with it; default none.
	Grace time.Duration

	Listener string // the listener's name
	Meter    *meter.Registry
	Log      *slog.Logger // nil: slog.Default()

	Settings
}

// Settings may change while a server runs. Zero values are the defaults; of times, a negative one is none.
type Settings struct {
	Rules Rules

	FirstByte time.Duration // of a new connection; default 65 s
	Idle      time.Duration // between requests; default 65 s
	Head      time.Duration // from the first byte of a head to its last; default 10 s
	BodyIdle  time.Duration // between bytes of a request's body; default 5 s

	BodyRate   int // bytes a second of a request's body that must come, over 10 s after the first 5; default 240
	AnswerRate int // bytes a second of an answer that must be taken, over a minute; default 240

	Connections int           // at once; default 20000
	PerAddress  int           // connections of one client's address at once; default 1000
	Requests    int           // of one connection, which then closes; default 4000
	Expiry      time.Duration // of a connection, which closes after the request then under way; default 20 min
	Jitter      time.Duration // by which Expiry is shortened at random; default 20 s

	RejectPipelining bool // close the connection of a client that does not wait for answers; else they are served in order
	EarlyHints       bool // pass 103 on to clients
}

// Complete returns s with its defaults in place of zero values.
func (s Settings) Complete() *Settings {
	s.Rules.Limits = s.Rules.Limits.withDefaults()
	for _, d := range []struct {
		of *time.Duration
		to time.Duration
	}{
		{&s.FirstByte, 65 * time.Second}, {&s.Idle, 65 * time.Second}, {&s.Head, 10 * time.Second}, {&s.BodyIdle, 5 * time.Second},
		{&s.Expiry, 20 * time.Minute}, {&s.Jitter, 20 * time.Second},
	} {
		if *d.of == 0 {
			*d.of = d.to
		}
		*d.of = max(*d.of, 0)
	}
	for _, d := range []struct {
		of *int
		to int
	}{{&s.Connections, 20000}, {&s.PerAddress, 1000}, {&s.Requests, 4000}, {&s.BodyRate, minRate}, {&s.AnswerRate, minRate}} {
		if *d.of <= 0 {
			*d.of = d.to
		}
	}
	return &s
}

// Server serves the connections of clients. Its methods may be called from many goroutines.
type Server struct {
	c        Config
	settings atomic.Pointer[Settings]
	draining atomic.Bool   // no more is accepted, and connections end with the answer under way
	ending   atomic.Bool   // those without a request end at once, too
	every    time.Duration // between rounds of the watch
	quit     chan struct{} // closed when the watch is to end
	quitOnce sync.Once
	watcher  sync.WaitGroup
	date     atomic.Pointer[date]
	panics   *filter.Panics

	mu        sync.Mutex
	listeners map[net.Listener]bool // guarded by mu
	conns     map[*conn]bool        // that speak HTTP; guarded by mu
	taken     map[*conn]bool        // that were taken over; guarded by mu
	watching  bool                  // the watch goes round; guarded by mu
	others    int                   // connections that others serve; guarded by mu
	from      map[netip.Addr]int    // connections of each address; guarded by mu
	running   filter.Crowd          // what Drain waits for

	connected, closed, failed, idled, throttled *meter.Counter
}

// NewServer returns a server; [Server.Serve] and [Server.ServeConn] start it.
func NewServer(c Config) *Server {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	count := func(name string) *meter.Counter {
		return c.Meter.Counter("server.connections."+name, "listener", c.Listener)
	}
	s := &Server{
		c: c, every: watchEvery, quit: make(chan struct{}), listeners: map[net.Listener]bool{}, conns: map[*conn]bool{}, taken: map[*conn]bool{}, from: map[netip.Addr]int{},
		panics:    filter.NewPanics(c.Meter, c.Log),
		connected: count("connect"), closed: count("close"), failed: count("errors"), idled: count("idle.timeout"), throttled: count("throttled"),
	}
	s.Change(c.Settings)
	return s
}

// Change has the settings be these for requests and connections to come.
func (s *Server) Change(to Settings) { s.settings.Store(to.Complete()) }

// Rules are those that requests are held to from now on, until the next change.
func (s *Server) Rules() *Rules { return &s.settings.Load().Rules }

// Open returns how many connections there are.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open()
}

func (s *Server) open() int { return len(s.conns) + len(s.taken) + s.others }

// Most returns how many connections there may be.
func (s *Server) Most() int { return s.settings.Load().Connections }

// Serve serves the connections of l, each on a goroutine of its own, until Drain is called or l fails.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.draining.Load() {
		s.mu.Unlock()
		return l.Close()
	}
	s.listeners[l] = true
	s.running.Enter() // so that what was accepted is waited for
	s.mu.Unlock()
	defer s.running.Leave()
	for pause := time.Duration(0); ; {
		c, err := l.Accept()
		if err == nil {
			pause = 0
			over := s.Expect()
			go func() {
				defer over()
				s.ServeConn(c, nil, nil)
			}()
			continue
		}
		var passing interface{ Temporary() bool }
		switch {
		case s.draining.Load():
			return nil
		case errors.As(err, &passing) && passing.Temporary(): // such as no file descriptors
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.c.Log.Warn("edge: a connection cannot be accepted; it is tried again", "listener", s.c.Listener, "err", err)
			time.Sleep(pause)
		default:
			return fmt.Errorf("accept connections at %s: %w", l.Addr(), err)
		}
	}
}

// ServeConn serves one connection and closes it. client is who that is, nil for the other end of c; early is what was read of
// it already. It returns when the connection is at its end.
func (s *Server) ServeConn(nc net.Conn, client *filter.Client, early []byte) {
	if client == nil {
		client = &filter.Client{Listener: s.c.Listener, Remote: addrPort(nc.RemoteAddr()), Local: addrPort(nc.LocalAddr())}
		client.Peer = client.Remote
	}
	c := &conn{s: s, client: client}
	c.init(nc)
	c.outlet.Init(c)
	if !s.admit(c) {
		nc.Close() //nolint:errcheck // it was never served
		return
	}
	defer s.leave(c)
	c.run(early)
}

// Expect has Drain wait for a connection that is about to be served, until over is called.
func (s *Server) Expect() (over func()) {
	s.running.Enter()
	return s.running.Leave
}

// admit takes a connection in, unless there are too many.
func (s *Server) admit(c *conn) bool {
	set, who := s.settings.Load(), c.client.Remote.Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending.Load() || s.full(who, 0, 0) {
		return false
	}
	s.conns[c] = true
	if !s.watching {
		s.watching = true
		s.watcher.Go(s.watch)
	}
	s.arrived(who)
	s.running.Enter()
	if set.Expiry > 0 {
		c.expires = filter.Now() + int64(set.Expiry) - rand.Int64N(max(int64(min(set.Jitter, set.Expiry)), 1))
	}
	return true
}

func (s *Server) leave(c *conn) {
	if c.abort {
		reset(c.sock.c)
	}
	if !c.given {
		c.sock.c.Close() //nolint:errcheck // it is at its end
	}
	s.mu.Lock()
	delete(s.conns, c)
	delete(s.taken, c)
	s.left(c.client.Remote.Addr())
	s.mu.Unlock()
	s.running.Leave()
}

// Full reports whether one connection more would be one too many, beside others that are about to be served: so many in all, and so
// many of that address.
func (s *Server) Full(who netip.Addr, coming, ofIt int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full(who, coming, ofIt)
}

// full is Full for who holds mu.
func (s *Server) full(who netip.Addr, coming, ofIt int) bool {
	set := s.settings.Load()
	full := s.open()+coming >= set.Connections || who.IsValid() && s.from[who]+ofIt >= set.PerAddress
	if full {
		s.throttled.Inc()
	}
	return full
}

// arrived counts a connection of that address. The caller holds mu.
func (s *Server) arrived(who netip.Addr) {
	if who.IsValid() {
		s.from[who]++
	}
	s.connected.Inc()
}

// left counts it no longer. The caller holds mu.
func (s *Server) left(who netip.Addr) {
	if who.IsValid() {
		if s.from[who]--; s.from[who] == 0 {
			delete(s.from, who)
		}
	}
	s.closed.Inc()
}

// Admit counts a connection that somebody else serves among those that are limited, until leave is called; ok is false if
// there are too many.
func (s *Server) Admit(who netip.Addr) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full(who, 0, 0) {
		return nil, false
	}
	s.others++
	s.arrived(who)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.others--
		s.left(who)
	}, true
}

// closeIdle closes connections that have no request under way.
func (s *Server) closeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending.Store(true)
	for c := range s.conns {
		if v := c.state.Load(); v&1 == 0 && c.state.CompareAndSwap(v, ending) {
			go c.sock.c.Close()
		}
	}
}

// Drain ends the server: it accepts no more, closes idle connections, has the others end with the answer under way, and waits
// for them. When ctx ends it closes what is left, connections that were taken over too, and returns ctx's error; what is still
// in Serve then is told that its client has gone, and has a second to return.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining.Store(true)
	for l := range s.listeners {
		l.Close() //nolint:errcheck // nobody is accepted any more either way
	}
	s.mu.Unlock()
	if s.c.Grace > 0 {
		idle := time.AfterFunc(s.c.Grace, s.closeIdle)
		defer idle.Stop()
	} else {
		s.closeIdle()
	}
	defer s.watcher.Wait()
	defer s.quitOnce.Do(func() { close(s.quit) })
	all := s.running.Gone()
	select {
	case <-all:
		s.closeIdle() // nobody comes any more, not within Grace either
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.ending.Store(true)
	for c := range s.conns {
		go c.sock.c.Close() // which waits for who is in a callback of the connection
		go s.gone(c)
	}
	for c := range s.taken {
		go c.sock.c.Close()
	}
	s.mu.Unlock()
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-all:
	case <-t.C:
	}
	return ctx.Err()
}

// gone tells who waits for an origin that the client of c has gone away.
func (s *Server) gone(c *conn) {
	defer s.panics.Catch("client watch", nil)
	c.waiter.Gone()
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// date is the Date field of a second.
type date struct {
	until int64 // by filter.Now
	field []byte
}

// appendDate appends the Date field.
func (s *Server) appendDate(b []byte, now int64) []byte {
	d := s.date.Load()
	if d == nil || now >= d.until {
		t := filter.At(now)
		whole := t.Truncate(time.Second)
		d = &date{now + int64(time.Second-t.Sub(whole)), []byte("Date: " + whole.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") + "\r\n")}
		s.date.Store(d)
	}
	return append(b, d.field...)
}
