package origin

import (
	"context"
	"errors"
	"strings"
	"time"
	"unsafe"

	"github.com/roadbed/roadbed/ipc/balance"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
)

// What follows carries requests over HTTP/1.1 in clear, on connections that are kept.

const (
	bodyIdle   = 90 * time.Second
	endlessFor = 24 * time.Hour // between the bytes of an answer that may last as long as both ends want
)

// plainly asks ep over a connection that is kept, or a new one.
//
// hot path: 0 allocs, BenchmarkApply
func (c *call) plainly(ep *balance.Endpoint, limit time.Duration, now int64) (kind, error) {
	x := c.x
	s, deadline := c.origin.server(ep.Addr), now+int64(limit)
	if c.addr != "" {
		s.wanted.Store(now)
	}
	var perHost int
	perHost, c.waterline = c.proxy.limits(c.set)
	c.outgoing(deadline)
	x.Passport.AddAt(filter.OriginConnAcquireStart, now)
	for fresh := false; ; {
		k, err := c.connect(s, perHost, fresh)
		if err != nil {
			x.Passport.Add(filter.OriginConnAcquireFailed)
			return k, err
		}
		if !c.reused {
			now = filter.Now()
		}
		x.Passport.AddAt(filter.OriginConnAcquireEnd, now)
		x.Passport.AddAt(filter.OutReqHeadersSending, now)
		err = c.exchange(now)
		if err == nil {
			return fine, nil
		}
		c.conn = nil
		s.lost()
		c.discard() // what was read of an answer
		var e *http1.Error
		if !errors.As(err, &e) {
			return other, err
		}
		if c.left() && !isPanic(e.Err) {
			return cancelled, err
		}
		if e.Kind != http1.Stale {
			s.origin.count.broken.Inc()
		} else {
			if s.origin.count.staleTaken.Inc(); s.drain() > 0 || !fresh {
				x.Passport.Add(filter.OriginChClose)
			}
			if !fresh && (!e.Sent || c.twice || c.mayRepeatUnsafely()) && c.whole() && filter.Now() < deadline {
				fresh = true // those that are kept are no better than the one that was used last
				continue
			}
		}
		return c.kindOfPlain(e), err
	}
}

// connect makes c.conn a connection to s.
func (c *call) connect(s *server, perHost int, fresh bool) (kind, error) {
	o := c.origin
	o.count.request.Inc()
	if !fresh {
		if c.conn = s.take(); c.conn != nil {
			o.count.reuse.Inc()
			c.reused = true
			return fine, nil
		}
	}
	c.reused = false
	x := c.x
	x.Passport.Add(filter.OriginChConnecting)
	var err error
	ctx, leave := c.present()
	c.conn, err = s.dial(ctx, c.set, perHost, c.connectWithin)
	if errors.Is(err, errTooManyConns) { // who takes nothing of an answer holds a connection, too
		o.room.Make(ctx, x, o.places(c.set), c.general.Stall, func() bool {
			c.conn, err = s.dial(ctx, c.set, perHost, c.connectWithin)
			return !errors.Is(err, errTooManyConns)
		})
	}
	leave()
	if err != nil {
		switch {
		case errors.Is(err, errTooManyConns):
			return maxConns, err
		case c.left():
			return cancelled, err
		}
		return connectError, err
	}
	x.Passport.Add(filter.OriginChConnected)
	return fine, nil
}

// outgoing fills c.out with the request.
func (c *call) outgoing(deadline int64) {
	x, q := c.x, &c.x.Request
	c.out = http1.Outgoing{
		Method: q.Method, Host: c.host(), Target: c.target(), Header: &q.Header, Deadline: deadline, Near: c.near, Done: c.done,
		Upgrade: c.wish() != "",
	}
	if q.Body != nil {
		c.out.ContentLength, c.out.Body, c.out.Trailer = q.ContentLength, &c.cursor, &q.Trailer
	}
	if c.out.Upgrade && q.Proto >= 20 && strings.EqualFold(q.Upgrade, "websocket") && !q.Header.Has("Sec-WebSocket-Key") {
		c.key = webSocketKey()
		q.Header.Set("Sec-WebSocket-Key", c.key)
	}
	if x.Interim != nil && (q.Proto >= 20 || c.general.EarlyHints) {
		c.out.Interim = c.early
	}
}

// host returns the host that the origin is asked for.
func (c *call) host() string {
	if c.x.Host != "" {
		return c.x.Host
	}
	return c.x.Request.Host
}

// target returns the request's target.
func (c *call) target() string {
	q, path := &c.x.Request, c.path()
	if len(q.Target) >= len(path) && q.Target[:len(path)] == path {
		if rest := q.Target[len(path):]; rest == "" && q.RawQuery == "" || rest != "" && rest[0] == '?' && rest[1:] == q.RawQuery {
			return q.Target
		}
	}
	if q.RawQuery == "" {
		return path
	}
	var mem [512]byte
	return c.x.Keep(append(append(append(mem[:0], path...), '?'), q.RawQuery...))
}

// exchange sends the request over c.conn and fills the response.
func (c *call) exchange(now int64) error {
	x, u := c.x, c.conn.Upstream
	u.UpgradeIdle, u.Panics = c.general.UpgradeIdle, c.proxy.panics
	if u.Idle = endlessFor; x.Deadline != 0 {
		u.Idle = max(min(bodyIdle, time.Duration(x.Deadline-now)), time.Millisecond)
	}
	c.conn.served++
	body := x.Request.Body
	if body != nil {
		c.upload.next(&c.cursor)
		x.Request.Body = &c.cursor // which is closed if it must not be read on
	}
	var err error
	c.asking = true
	if ctx := x.Context(); ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { u.Close() })
		err = u.Do(x, &c.out)
		if stop(); err == nil && c.conn != nil { // its body is not over
			c.watch = context.AfterFunc(ctx, func() { u.Close() })
		}
	} else {
		err = u.Do(x, &c.out)
	}
	c.asking = false
	x.Request.Body = body
	if err == nil && x.Deadline != 0 && c.endless(x.Response.Status, x.Response.Header.Get("Content-Type")) {
		x.Deadline = 0
		if c.conn != nil { // else its body is over, and the connection another's
			u.Patient(endlessFor)
		}
	}
	if err != nil {
		c.stamp(u.Written())
	}
	if err == nil && x.Response.Status == 101 {
		if why := c.badSwitch(); why != nil {
			u.Close() //nolint:errcheck // nobody wants it any more
			return &http1.Error{Phase: http1.Waiting, Kind: http1.Malformed, Sent: true, Answered: true, Err: why}
		}
	}
	return err
}

// warm has the processor bring the call's memory near.
func (c *call) warm() { http1.Prefetch(unsafe.Pointer(c), unsafe.Sizeof(*c)) }

// stamp notes when the request's head was sent, and when all of it was, as far as that was so when it failed.
func (c *call) stamp(head, all int64) {
	x := c.x
	if head != 0 {
		x.Passport.AddAt(filter.OutReqHeadersSent, head)
	}
	if all != 0 && x.Request.Body != nil {
		x.Passport.AddAt(filter.OutReqLastContentSent, all)
	}
}

// finished takes back a connection whose answer is over.
func (c *call) finished(_ *http1.Upstream, reusable bool) {
	conn := c.conn
	if c.conn = nil; conn == nil {
		return
	}
	if conn.apart {
		conn.apart = false
		conn.server.open.Add(1)
	}
	if c.watch != nil {
		if !c.watch() {
			reusable = false // it was closed just now
		}
		c.watch = nil
	}
	if !reusable {
		switch conn.Ending() {
		case http1.Said:
			c.origin.count.said.Inc()
		case http1.NotSent:
			c.origin.count.unsent.Inc()
		default:
			c.origin.count.already.Inc()
		}
		conn.server.lost()
		return
	}
	c.origin.count.release.Inc()
	if c.open && c.set.closeOnBreaker && c.passage.Tripped() {
		c.origin.count.tripped.Inc()
		conn.server.end(conn)
		return
	}
	now := conn.Answered()
	if !c.asking { // its body came after its head
		now = filter.Now()
	}
	conn.server.give(conn, c.set, c.waterline, now)
}

// kindOfPlain says what an error of an exchange means.
func (c *call) kindOfPlain(e *http1.Error) kind {
	c.unsent = !e.Sent
	switch e.Kind {
	case http1.Timeout:
		return readTimeout
	case http1.Malformed:
		return nonsense
	case http1.HeadTooLarge:
		return headTooLarge
	case http1.Cancelled:
		if isPanic(e.Err) {
			return other
		}
		return cancelled
	}
	return reset
}

// mayRepeatUnsafely reports whether the route lets a request that may not be sent twice be sent again after its connection,
// which was kept from another request, closed before any answer.
func (c *call) mayRepeatUnsafely() bool {
	return c.reused && (c.x.Plan != nil && c.x.Plan.RetryUnsafe || c.general.zuul())
}

// badSwitch says what is wrong with an answer that changes the protocol; nil if nothing is.
func (c *call) badSwitch() error {
	h := &c.x.Response.Header
	wish, got := c.wish(), h.Get("Upgrade")
	switch {
	case wish == "" || !strings.EqualFold(wish, got):
		return errors.New("it switched to the protocol \"" + got + "\" when \"" + wish + "\" was asked for")
	case c.key != "" && h.Get("Sec-WebSocket-Accept") != webSocketAccept(c.key):
		return errors.New("its Sec-WebSocket-Accept does not answer the key that was sent")
	}
	return nil
}

// earlyAnswer passes an informational answer on.
func (c *call) earlyAnswer(status int, h *filter.Header) {
	h.DelFunc(func(f *filter.Field) bool { return connectionOnly(f.Name) || betweenServices(f.Name) })
	c.x.Interim(status, h)
}
