package origin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/http1"
)

// conn is one HTTP/1.1 connection to a server.
type conn struct {
	*http1.Upstream
	server *server
	served int   // requests
	since  int64 // when it became idle, by filter.Now
	apart  bool  // it carries a stream, and is not among those that its server may have
}

// server is where an instance listens, and the connections to it. Idle ones lie in the order in which they became so; the
// last is used first.
type server struct {
	origin *origin
	addr   string
	open   atomic.Int64 // open, or being opened
	wanted atomic.Int64 // when it was last asked for by its address, by filter.Now; 0: never

	mu   sync.Mutex // guards what follows
	idle []*conn
	gone bool // the instance is listed no more: nothing is kept
}

// counters are the meters of an origin's connections, named as Zuul's.
type counters struct {
	request, reuse, release, closed, staleTaken, tooMany     *meter.Counter
	create, created, failed, worn, surplus, expired, tripped *meter.Counter
	broken, said, unsent, already                            *meter.Counter
	creating                                                 *meter.Timer
}

func newCounters(m *meter.Registry, app string) (c counters) {
	of := func(name string) *meter.Counter { return m.Counter("connectionpool_"+name, "id", app) }
	return counters{
		request: of("request"), reuse: of("reuse"), release: of("release"), closed: of("close"),
		staleTaken: of("fromPoolIsClosed"), tooMany: of("maxConnsPerHostExceeded"),
		broken: of("error"), said: of("headerClose"), unsent: of("outboundIncomplete"), already: of("alreadyClosed"),
		create: of("create"), created: of("create_success"), failed: of("create_fail"),
		worn: of("closeExpiredConnLifetime"), surplus: of("closeAbovePoolHighWaterMark"), expired: of("idle"), tripped: of("closeCircuitBreaker"),
		creating: m.Timer("connectionpool_createTiming", "id", app),
	}
}

// server returns the connections to addr.
func (o *origin) server(addr string) *server {
	if s := (*o.servers.Load())[addr]; s != nil {
		return s
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	old := *o.servers.Load()
	if s := old[addr]; s != nil {
		return s
	}
	s := &server{origin: o, addr: addr}
	all := maps.Clone(old)
	all[addr] = s
	o.servers.Store(&all)
	return s
}

// take returns the connection that became idle last; nil if there is none.
//
// hot path: 0 allocs, BenchmarkApply
func (s *server) take() *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.idle)
	if n == 0 {
		return nil
	}
	c := s.idle[n-1]
	s.idle[n-1] = nil
	s.idle = s.idle[:n-1]
	return c
}

// give keeps a connection, whose last answer was over at now, for the next request, unless it has served its time or there are
// enough.
//
// hot path: 0 allocs, BenchmarkApply
func (s *server) give(c *conn, set *settings, waterline int, now int64) {
	o := s.origin
	if c.served >= set.maxRequests {
		o.count.worn.Inc()
		s.end(c)
		return
	}
	c.since = now
	s.mu.Lock()
	keep := !s.gone && len(s.idle) < waterline
	if keep {
		s.idle = append(s.idle, c)
	}
	s.mu.Unlock()
	if !keep {
		o.count.surplus.Inc()
		s.end(c)
	}
}

// end closes a connection.
func (s *server) end(c *conn) {
	c.Close() //nolint:errcheck // nobody wants it any more
	s.lost()
}

// lost counts a connection that is closed.
func (s *server) lost() {
	s.open.Add(-1)
	s.origin.count.closed.Inc()
}

// drain closes all idle connections.
func (s *server) drain() (n int) {
	s.mu.Lock()
	all := s.idle
	s.idle = nil
	s.mu.Unlock()
	for _, c := range all {
		s.end(c)
	}
	return len(all)
}

// sweep closes the connections that have been idle for longer than so many nanoseconds. It reports whether none is left at
// all.
func (s *server) sweep(now int64, idle time.Duration, listed bool) (empty bool) {
	s.mu.Lock()
	s.gone = !listed
	n := 0
	for n < len(s.idle) && (s.gone || now-s.idle[n].since >= int64(idle)) {
		n++
	}
	old := append([]*conn(nil), s.idle[:n]...)
	left := copy(s.idle, s.idle[n:])
	clear(s.idle[left:])
	s.idle = s.idle[:left]
	s.mu.Unlock()
	for _, c := range old {
		s.origin.count.expired.Inc()
		s.end(c)
	}
	return s.open.Load() == 0
}

var errTooManyConns = errors.New("it has as many connections as MaxConnectionsPerHost allows")

// dial opens a connection, within timeout.
func (s *server) dial(ctx context.Context, set *settings, perHost int, timeout time.Duration) (*conn, error) {
	o := s.origin
	if n := s.open.Add(1); perHost > 0 && n > int64(perHost) {
		s.open.Add(-1)
		o.count.tooMany.Inc()
		return nil, fmt.Errorf("%w: %d", errTooManyConns, perHost)
	}
	o.count.create.Inc()
	start := time.Now()
	d := net.Dialer{Timeout: timeout, KeepAlive: -1}
	if set.keepAlive {
		d.KeepAlive = 0
	}
	nc, err := d.DialContext(ctx, "tcp", s.addr)
	if err != nil {
		s.open.Add(-1)
		o.count.failed.Inc()
		return nil, err
	}
	o.count.creating.Record(time.Since(start))
	o.count.created.Inc()
	if tcp, ok := nc.(*net.TCPConn); ok {
		if set.delay {
			tcp.SetNoDelay(false) //nolint:errcheck // a wish
		}
		if set.receive > 0 {
			tcp.SetReadBuffer(set.receive) //nolint:errcheck // a wish
		}
		if set.send > 0 {
			tcp.SetWriteBuffer(set.send) //nolint:errcheck // a wish
		}
	}
	return &conn{Upstream: http1.NewUpstream(nc), server: s}, nil
}
