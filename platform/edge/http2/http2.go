// Package http2 serves HTTP/2 to clients of the edge: it reads frames, has exchanges served, and writes their answers. At
// Netflix this was the Netty codec under Zuul.
//
//	s := http2.NewServer(http2.Config{Serve: chain.Run, Finished: done})
//	s.ServeConn(c, client, early) // a connection whose client speaks HTTP/2, by ALPN or by its preface
//
// # How a connection lives
//
// One goroutine reads each connection, and frames are understood where they lie in its buffer. A request is served by a
// goroutine of its own, of those that are kept for it. Answers are put into one buffer of the connection; who finds
// nobody writing writes what has gathered there, after others that could run have, so that the answers of concurrent
// requests go out in few writes, which under TLS are records. There are no timers but for the deadlines of streams that were
// taken over: one goroutine for all connections looks twice a second at what takes too long.
//
// # What is refused
//
// A request behind the edge is one of HTTP/1.1, and nothing may be read there as something else. What RFC 9113 section 8
// calls malformed resets the stream with PROTOCOL_ERROR: pseudo fields that are unknown, late, missing or there twice, names in
// upper case or that are no tokens, control characters, white space around a value, the connection's own fields of
// HTTP/1.1, te other than trailers, a content-length that is none or not that of the body, a host other than the authority,
// a method that is no token, a path that does not begin with a slash. What only the edge's rules refuse, as for HTTP/1.1, is answered
// in words: a path with a fragment, too many fields, fields that are too long. Either is finished as a request is.
//
// # What it promises
//   - Bodies stream both ways in constant memory: what a client may send ahead of who reads it is 512 KiB for a stream, up to
//     4 MiB where it is read as fast as it comes, and 4 MiB for a connection.
//   - Trailers pass both ways, WebSockets (RFC 8441) do, too, and informational answers unless the client takes so little that
//     more than 64 KiB wait to be written.
//   - An answer that broke off never looks whole: its stream is reset.
//   - A client that resets a stream, or goes away, ends what the origin was asked for it.
//   - A connection that floods the edge with what costs it nothing (resets, what makes the edge reset, CONTINUATION, PING,
//     SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA) is told to calm down and cut off.
//   - Slow clients are cut off: a head has 10 s, a body may pause for 5 s, 240 bytes a second is the least either way. Bodies of
//     gRPC, and others once the answer has begun, may pause for as long as both ends want; a client that is silent for a
//     minute is asked by PING whether it is there.
//   - Who is beyond what a connection may ask at once is refused by REFUSED_STREAM, which may be asked again.
//   - Drain tells clients by GOAWAY, twice, and no request that was sent before they could know is lost.
//   - No string of a request is changed under who holds it, nor does the connection hold those of an answer.
//
// # What it does not
//   - It does not heed priorities, and pushes nothing.
//   - It does not upgrade from HTTP/1.1 (h2c): RFC 9113 has no such way any more. Clients begin with the preface.
//   - Streams that are beyond what may be asked at once are counted (edge.http2.refused), but not told of: their heads are not
//     looked at.
package http2

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
)

// Config is what a server is made of. Serve is required.
type Config struct {
	// Serve fills x.Response. It runs on a goroutine of the request's own. A panic in it is logged and answered with 500.
	Serve func(x *filter.Exchange)

	// Finished is called once for each request, when its answer was handed to the connection or could not be, also for
	// those that were refused before Serve; nil: nobody is told. If the stream was taken over, that is when whoever did so
	// has returned.
	Finished func(x *filter.Exchange)

	Listener string // the listener's name
	Meter    *meter.Registry
	Log      *slog.Logger // nil: slog.Default()

	// Of these, Connections, PerAddress and RejectPipelining are not this package's business.
	http1.Settings
}

// Server serves connections. Its methods may be called from many goroutines.
type Server struct {
	c        Config
	settings atomic.Pointer[http1.Settings]
	draining atomic.Bool
	date     atomic.Pointer[date]
	quit     chan struct{} // closed when the watch is to end
	quitOnce sync.Once
	watcher  sync.WaitGroup
	crew     crew

	mu       sync.Mutex
	conns    map[*conn]bool // guarded by mu
	watching bool           // the watch goes round; guarded by mu
	ended    bool           // nobody is served any more; guarded by mu
	running  filter.Crowd   // what Drain waits for

	failed, idled *meter.Counter
}

// NewServer returns a server; [Server.ServeConn] has it serve.
func NewServer(c Config) *Server {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	s := &Server{
		c: c, quit: make(chan struct{}), conns: map[*conn]bool{},
		failed: c.Meter.Counter("server.connections.errors", "listener", c.Listener),
		idled:  c.Meter.Counter("server.connections.idle.timeout", "listener", c.Listener),
	}
	s.Change(c.Settings)
	return s
}

// Change has the settings be these for requests and connections to come.
func (s *Server) Change(to http1.Settings) { s.settings.Store(to.Complete()) }

// Open returns how many connections there are.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// ServeConn serves one connection and closes it. early is what was read of it already. It returns when the connection is at
// its end and its requests are over.
func (s *Server) ServeConn(nc net.Conn, client *filter.Client, early []byte) {
	c := newConn(s, nc, client)
	defer nc.Close() //nolint:errcheck // it is at its end
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.conns[c] = true
	s.running.Enter()
	if !s.watching {
		s.watching = true
		s.watcher.Go(s.watch)
	}
	s.mu.Unlock()
	if set := s.settings.Load(); set.Expiry > 0 {
		c.expires = c.started + int64(set.Expiry) - rand.Int64N(max(int64(min(set.Jitter, set.Expiry)), 1))
	}
	c.serve(early)
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.running.Leave()
}

// Expect has Drain wait for a connection that is about to be served, until over is called.
func (s *Server) Expect() (over func()) {
	s.running.Enter()
	return s.running.Leave
}

// all returns the connections there are.
func (s *Server) all() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		list = append(list, c)
	}
	return list
}

// Drain has clients told that their connections end, and waits for what is under way. When ctx ends it cuts off what is left,
// and returns ctx's error; what is still in Serve then is told that its client has gone, and has a second to return.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	for _, c := range s.all() {
		go func() { // it may have to wait, and the others not for it
			c.mu.Lock()
			c.goAway()
			c.flush(false)
		}()
	}
	defer s.crew.end()
	defer s.watcher.Wait()
	defer s.quitOnce.Do(func() { close(s.quit) })
	over := s.running.Gone()
	defer func() {
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
	}()
	select {
	case <-over:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	for _, c := range s.all() {
		go c.cut(errDrained)
	}
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-over:
	case <-t.C:
	}
	return ctx.Err()
}

// date is the Date field of a second, encoded.
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
		d = &date{now + int64(time.Second-t.Sub(whole)), appendLiteral(nil, notIndexed, indexDate, "", whole.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"))}
		s.date.Store(d)
	}
	return append(b, d.field...)
}

// crew is the goroutines that serve requests. One that has served waits for the next: its stack has grown to what that takes.
type crew struct {
	mu    sync.Mutex
	idle  []chan *stream // the last one waits for the shortest time; guarded by mu
	least int            // of idle since the crew was last trimmed; guarded by mu
	ended bool           // guarded by mu
}

// mostIdle is how many goroutines wait for requests.
const mostIdle = 1024

// serve has st served.
//
// hot path: 0 allocs, BenchmarkServer
func (w *crew) serve(st *stream) {
	w.mu.Lock()
	if n := len(w.idle); n > 0 {
		c := w.idle[n-1]
		w.idle = w.idle[:n-1]
		w.least = min(w.least, n-1)
		w.mu.Unlock()
		c <- st
		return
	}
	w.mu.Unlock()
	go w.work(st)
}

func (w *crew) work(st *stream) {
	c := make(chan *stream, 1)
	for st != nil {
		st.run()
		w.mu.Lock()
		if w.ended || len(w.idle) >= mostIdle {
			w.mu.Unlock()
			return
		}
		w.idle = append(w.idle, c)
		w.mu.Unlock()
		st = <-c
	}
}

// trim lets those go that were not needed since it was last called.
func (w *crew) trim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dismiss(w.least)
	w.least = len(w.idle)
}

// dismiss lets the first n of who waits go. The caller holds mu.
func (w *crew) dismiss(n int) {
	for _, c := range w.idle[:n] {
		c <- nil
	}
	w.idle = append(w.idle[:0], w.idle[n:]...)
}

// rest lets everybody go who waits.
func (w *crew) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dismiss(len(w.idle))
	w.least = 0
}

// end lets everybody go, for good.
func (w *crew) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.dismiss(len(w.idle))
}
