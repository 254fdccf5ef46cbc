package http1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// What a connection does, for those that look after all: with each request it serves it goes from an even number, at which it
// waits for one, to an odd number, and on to the next even one. ending is that one of them has closed it.
const ending = -1

// Why a connection leaves the callback in which it waits.
const (
	nothing = iota
	serving // a request whose body is yet to come, or that asks for another protocol: neither can be read in there
	taking  // the connection is to be taken over
	leaving // it is at its end
)

// conn is one connection of a client. While it waits for a request it has nothing but this.
type conn struct {
	sock
	s       *Server
	client  *filter.Client
	w       *work // of the request under way; nil: none
	state   atomic.Int64
	seen    int64 // the state when the watch came by last; the watch's own
	looked  int64 // the state in which it was looked at; the watch's own
	waiter  filter.Waiter
	outlet  filter.Outlet
	todo    int
	served  int
	expires int64  // by filter.Now; 0: never
	headBy  int64  // when the head under way must be there; 0: none is
	small   []byte // what is waited with where readiness cannot be told
	part    []byte // of the head under way, while more of it is waited for; nil: nothing
	err     error  // why reading ended
	took    func(net.Conn, []byte)
	asked   bool // the connection was read from since it is waited for in the callback: whatever comes now will wake it up
	linger  bool // the client may be sending still
	given   bool // somebody else closes the connection
	abort   bool // the client must not take the end for an ordinary one
	hints   func(int, *filter.Header)
}

// work is the memory of one request.
type work struct {
	stream
	x    filter.Exchange
	head head
	body requestBody

	used  bool // x is not as new
	apart bool // no string of x lies in buf
}

var works = sync.Pool{New: func() any { return new(work) }}

func (c *conn) take() {
	w := works.Get().(*work)
	if w.buf == nil {
		w.buf = make([]byte, bufferSize)
	}
	w.s, w.start, w.end, w.base, w.mode = &c.sock, 0, 0, 0, noBody
	w.head.reset(&c.s.settings.Load().Rules)
	c.w = w
}

// giveBack gives the memory back.
func (c *conn) giveBack() {
	w := c.w
	if w == nil {
		return
	}
	c.w = nil
	if w.used {
		w.x.Reset()
		w.used = false
	}
	if len(w.buf) != bufferSize {
		w.buf = nil
	}
	w.stream.s, w.ready, w.trailer, w.body.c, w.apart = nil, nil, nil, nil, false
	works.Put(w)
}

// run serves the connection until it is at its end.
func (c *conn) run(early []byte) {
	defer func() {
		if v := recover(); v != nil { // not Serve's, which was seen to: this one cuts the connection
			c.s.failed.Inc()
			c.s.c.Log.Error("edge: a connection is cut because serving it panicked", "listener", c.s.c.Listener, "client", c.client.Remote, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	defer c.giveBack()
	step := c.step
	set := c.s.settings.Load()
	c.until(filter.Now(), set.FirstByte)
	if len(early) > 0 {
		c.take()
		for len(c.w.buf) < len(early) {
			c.w.buf = make([]byte, 2*len(c.w.buf))
		}
		c.w.end = copy(c.w.buf, early)
	}
	for c.todo != leaving {
		c.todo, c.asked = nothing, false
		if err := c.each(step); err != nil {
			if c.early(err) {
				continue
			}
			c.err = err
			break
		}
		switch c.todo {
		case serving:
			c.exchange()
			if c.todo == taking {
				c.takeOver()
			}
		case taking:
			c.takeOver()
		}
	}
	c.account()
	c.giveBack()
	if c.linger && !c.abort {
		c.drain()
	}
}

// account counts why the connection ended.
func (c *conn) account() {
	switch {
	case errors.Is(c.err, os.ErrDeadlineExceeded):
		c.s.idled.Inc()
	case c.err != nil && !errors.Is(c.err, io.EOF) && !errors.Is(c.err, net.ErrClosed):
		c.s.failed.Inc()
	}
}

func (c *conn) until(now int64, wait time.Duration) {
	if wait <= 0 {
		c.arm(0)
		return
	}
	c.arm(now + int64(wait))
}

var pipelining = &Refusal{"pipelining", 400, filter.FailurePipelineReject, "a request came before the one in front of it was answered", "wait for each answer: this listener does not serve pipelined requests (edge.http1.pipelining)"}

var errGone = errors.New("http1: the client went away")

// step reads requests and serves those whose bodies are at hand; it returns false to be called again when bytes come.
//
// hot path: 0 allocs, BenchmarkServer
func (c *conn) step() bool {
	for {
		if w := c.w; w != nil {
			for w.start < w.end {
				w.used = true
				n, r := w.head.request(w.buf[w.start:w.end], &w.x)
				if r != nil {
					return c.refuse(r)
				}
				if n == 0 {
					break
				}
				if c.state.Swap(int64(2*c.served+1)) == ending {
					return c.leave()
				}
				w.start += n
				if w.x.Request.Upgrade != "" {
					w.putApart(n)
				}
				if r := c.begin(); r != nil {
					return c.refuse(r)
				}
				if !w.whole() || w.x.Request.Upgrade != "" {
					c.todo = serving
					return true
				}
				if c.exchange(); c.todo != nothing {
					return true
				}
			}
			if w.start < w.end {
				c.incomplete()
				if c.fd < 0 {
					c.putAside() // reading is waiting there
				}
			} else {
				// What was read last was less than there was room for: nothing is left, and asking costs a system call. After
				// the first request it is asked nevertheless, because a client that had closed its side would not be noticed.
				drained := c.asked && c.fd >= 0 && c.served > 1 && w.end < len(w.buf)
				c.giveBack()
				if drained {
					return c.rest()
				}
			}
		}
		if done, ok := c.receive(); ok {
			return done
		}
	}
}

// smallSize holds most heads.
const smallSize = 1 << 10

// receive reads what there is. ok: step is to return done.
func (c *conn) receive() (done, ok bool) {
	if c.w == nil {
		if c.part == nil && c.rest() {
			return true, true
		}
		var came []byte
		if c.fd < 0 {
			// Nobody can tell when bytes come here but by reading them.
			if c.small == nil {
				c.small = make([]byte, smallSize)
			}
			n, err := c.sock.c.Read(c.small)
			if n == 0 {
				if c.early(err) {
					return false, false
				}
				c.err = err
				return c.leave(), true
			}
			came = c.small[:n]
		}
		c.take()
		for len(c.w.buf) < len(c.part)+len(came) {
			c.w.buf = make([]byte, 2*len(c.w.buf))
		}
		c.w.end = copy(c.w.buf, c.part)
		c.w.end += copy(c.w.buf[c.w.end:], came)
		c.part = nil
		if len(came) > 0 {
			return false, false
		}
	}
	w := c.w
	if w.start < w.end && len(w.buf)-w.end < minSpace {
		c.again()
	}
	c.asked = true
	n, err := c.recv(w.buf[w.end:])
	w.end += n
	switch {
	case n > 0:
		return false, false
	case errors.Is(err, errAgain):
		c.putAside()
		return c.part == nil && c.rest(), true
	case c.early(err):
		return false, false
	}
	c.err = err
	return c.leave(), true
}

// putAside gives the memory back. The beginning of a head that is there is kept in no more than it needs: many slow clients
// shall not cost more than many idle ones.
func (c *conn) putAside() {
	if w := c.w; w.start < w.end {
		c.part = append([]byte(nil), w.buf[w.start:w.end]...)
		w.x.Request.Header.Reset()
	}
	c.giveBack()
}

// again has the head that is not whole read from its beginning, at the beginning of the buffer or in a larger one.
func (c *conn) again() {
	w := c.w
	w.x.Request.Header.Reset()
	w.head.reset(w.head.rules)
	w.base = 0
	w.room()
}

// rest is waiting for the next request. It returns true if there will be none.
func (c *conn) rest() bool {
	now := int64(2 * c.served)
	c.state.Store(now)
	if c.s.ending.Load() && c.state.CompareAndSwap(now, ending) {
		return c.leave()
	}
	return false
}

func (c *conn) leave() bool {
	c.todo = leaving
	return true
}

// incomplete has the head that began to come be there in time.
func (c *conn) incomplete() {
	if c.headBy != 0 {
		return
	}
	if wait := c.s.settings.Load().Head; wait > 0 {
		c.headBy = filter.Now() + int64(wait)
		c.arm(c.headBy)
	}
}

// begin makes ready for the request whose head was read.
func (c *conn) begin() *Refusal {
	w, now := c.w, filter.Now()
	x, q := &w.x, &w.x.Request
	c.served++
	c.headBy = 0
	x.Client, x.Start = c.client, now
	x.Waiter, x.Outlet, x.MayDetach = &c.waiter, &c.outlet, true
	x.Passport.AddAt(filter.InReqHeadersReceived, now)
	q.Scheme = "http"
	if c.client.TLS != nil {
		q.Scheme = "https"
	}
	set := c.s.settings.Load()
	c.sock.rate = set.AnswerRate
	if set.EarlyHints && q.Proto == 11 {
		if c.hints == nil {
			c.hints = c.interim
		}
		x.Interim = c.hints
	}
	if q.ContentLength == 0 {
		w.err, w.mode, w.count, w.ready = io.EOF, noBody, 0, nil
		w.base = w.start
		return c.pipelined(set)
	}
	mode := uint8(byLength)
	if q.ContentLength < 0 {
		mode = byChunks
	}
	w.idle, w.rate = set.BodyIdle, set.BodyRate
	w.stream.begin(mode, q.ContentLength, w.head.rules, &q.Trailer)
	w.body.begin(c, w.head.continues && q.Proto == 11 && len(w.ready) == 0 && !w.whole())
	w.open = &w.body.open
	q.Body = &w.body
	return c.pipelined(set)
}

// pipelined refuses a request behind which there is another one already, if that is not wanted.
func (c *conn) pipelined(set *Settings) *Refusal {
	if set.RejectPipelining && c.w.start < c.w.end && c.w.whole() && c.w.x.Request.Upgrade == "" {
		return pipelining
	}
	return nil
}

// refuse answers what breaks a rule and ends the connection. It is always true.
func (c *conn) refuse(r *Refusal) bool {
	w, x := c.w, &c.w.x
	if c.state.Swap(int64(2*c.served+1)) == ending {
		return c.leave()
	}
	if r == otherVersion && c.served == 0 && c.s.c.HTTP2 != nil && string(w.head.method) == "PRI" {
		c.took = func(nc net.Conn, early []byte) { c.s.c.HTTP2(nc, c.client, early) }
		c.todo = taking
		return true
	}
	if x.Client == nil {
		c.served++
		x.Client, x.Start = c.client, filter.Now()
		x.Passport.AddAt(filter.InReqHeadersReceived, x.Start)
		x.Request.Method, x.Request.Target = view(w.head.method), view(w.head.target)
	}
	x.Passport.Add(filter.InReqRejected)
	c.s.refused(r)
	a := reply{c: c, x: x, close: true}
	a.refuse(r)
	if r == noVersion && c.served == 1 && c.s.c.HTTP2 != nil {
		a.failed = r // it may be an HTTP/2 client whose preface is wrong, and would take words for frames. spec: RFC 9113 §3.4
	} else {
		a.send()
	}
	c.linger = true
	c.finish(&a)
	return true
}

// exchange serves the request that was begun, and writes the answer.
func (c *conn) exchange() {
	a := reply{c: c, x: &c.w.x}
	c.serve(&a)
	a.send()
	c.finish(&a)
}

// serve calls Serve. If that does not come back, the answer is 500.
func (c *conn) serve(a *reply) {
	defer func() {
		if v := recover(); v != nil {
			c.panicked(a, v)
			a.fail(500, filter.FailureLocal, "the edge failed at this request; its log tells why")
		}
	}()
	c.s.c.Serve(a.x)
}

func (c *conn) panicked(a *reply, v any) {
	c.s.c.Log.Error("edge: serving a request panicked", "listener", c.s.c.Listener, "method", a.x.Request.Method, "path", a.x.Request.Path,
		"client", c.client.Remote, "panic", v, "stack", string(debug.Stack()))
	a.x.Err = fmt.Errorf("serving the request panicked: %v", v)
	a.close = true
}

// finish tells that the request is over, and makes ready for the next one.
func (c *conn) finish(a *reply) {
	w, x := c.w, a.x
	now := filter.Now()
	if x.Response.Body != nil {
		x.Response.Body.Close() //nolint:errcheck // it was read to its end, or nobody wants it
		x.Response.Body = nil
	}
	body := x.Request.Body != nil
	if body {
		x.Read = w.count
	}
	x.Passport.AddAt(filter.OutRespLastContentSent, now)
	if took := x.Response.Takeover; took != nil && a.failed == nil && (x.Response.Status == 101 || x.Request.Upgrade == "") {
		c.took, c.todo = took, taking
		return
	}
	c.over()
	unread := body && !w.whole()
	set := c.s.settings.Load()
	switch {
	case a.failed != nil:
		c.leave()
	case a.close || c.cut.Load() || c.dropped.Load(): // nothing more can be written once it was dropped
		c.linger = c.linger || unread || w.start < w.end
		c.leave()
	case unread && !c.skip():
		c.linger = true
		c.leave()
	default:
		c.todo = nothing
		c.until(now, set.Idle)
	}
	x.Reset()
	w.used = false
	w.head.reset(&set.Rules)
}

// over tells that the request is over.
func (c *conn) over() {
	x := &c.w.x
	if c.s.c.Finished != nil {
		c.s.c.Finished(x)
	}
	x.End()
}

// lingerTime is how long a client that is still sending is read from after its answer, whatever it sends. A bound in bytes
// would be reached at once by those that are close, and resetting them then would have them lose the answer.
const lingerTime = 2 * time.Second

// An unread body is read up to here so that the connection can be used on.
const (
	skipBytes = 256 << 10
	skipTime  = time.Second
)

// skip reads the rest of a request's body. It reports whether that is at its end.
func (c *conn) skip() bool {
	w, b := c.w, copies.Get().(*[32 << 10]byte)
	defer copies.Put(b)
	w.idle, w.rate, w.open = skipTime, 0, nil
	for by, n := filter.Now()+int64(skipTime), 0; n < skipBytes && filter.Now() < by; {
		k, err := w.Read(b[:])
		if n += k; err != nil {
			break
		}
	}
	return w.whole()
}

// drain has the client, which may be sending, see the answer before the connection is cut: closing it right away would reset
// it (RFC 9112 section 9.6).
func (c *conn) drain() {
	if c.closeWrite() != nil {
		return
	}
	b := copies.Get().(*[32 << 10]byte)
	defer copies.Put(b)
	c.sock.c.SetReadDeadline(time.Now().Add(lingerTime)) //nolint:errcheck // a connection that is closed says so when it is read
	for {
		if _, err := c.sock.c.Read(b[:]); err != nil {
			return
		}
	}
}

// takeOver leaves the connection to who speaks the protocol that was changed to.
func (c *conn) takeOver() {
	c.linger = false
	c.leave()
	var early []byte
	w := c.w
	if w.start < w.end {
		early = append(early, w.buf[w.start:w.end]...)
	}
	c.sock.c.SetDeadline(time.Time{}) //nolint:errcheck // a connection that is closed says so when it is read
	c.s.unwatch(c)
	if w.x.Client == nil { // no request of ours
		c.giveBack()
		c.took(c.sock.c, early)
		return
	}
	defer c.over()
	if w.apart { // what may last long needs no buffers
		w.buf = nil
	}
	c.took(c.sock.c, early)
	c.given = w.x.Response.Detached
}

// putApart has the strings of a request that asks for another protocol lie in memory of their own: the buffer need not be
// held as long as that is spoken.
func (w *work) putApart(n int) {
	own := make([]byte, n)
	copy(own, w.buf[w.start-n:w.start])
	w.x.Request.Header.Reset()
	w.x.Request.Upgrade = ""
	w.head.reset(w.head.rules)
	w.head.request(own, &w.x)
	w.apart = true
}

// write writes all of p, which is some of an answer, and gives up if the client hardly takes any.
func (c *conn) write(p []byte) error {
	p, err := c.writeNow(p)
	if len(p) == 0 || err != nil {
		return err
	}
	c.outlet.Waits(filter.Now())
	err = c.writeSlow(p, 0)
	c.outlet.Goes()
	return err
}

// Taken returns how many bytes the client has acknowledged.
func (c *conn) Taken() int64 { return Acked(c.sock.c) }

// Drop ends the answer.
func (c *conn) Drop() { c.drop() }

// interim passes on an informational answer.
func (c *conn) interim(status int, h *filter.Header) {
	b := copies.Get().(*[32 << 10]byte)
	defer copies.Put(b)
	c.write(append(appendFields(appendStatus(b[:0], status), h), '\r', '\n')) //nolint:errcheck // the answer will tell
}

// requestBody is the body of a request, which may be read by another goroutine than the connection's.
type requestBody struct {
	c     *conn
	ended atomic.Bool
	open  atomic.Bool // the answer has begun

	mu      sync.Mutex
	expects bool  // the client waits for 100 before it sends the body; guarded by mu
	final   bool  // the answer has begun; guarded by mu
	failed  error // why the body broke off; guarded by mu
}

func (b *requestBody) begin(c *conn, expects bool) {
	b.c = c
	b.ended.Store(c.w.whole())
	b.expects, b.final, b.failed = expects, false, nil
	b.open.Store(false)
}

// Read reads on, and has the client send it if it waits for that.
func (b *requestBody) Read(p []byte) (int, error) {
	t := &b.c.w.stream
	if b.welcome() != nil {
		return 0, errGone
	}
	n, err := t.Read(p)
	if b.c.cut.Load() {
		return n, net.ErrClosed // which was wanted, and is not the client's doing
	}
	if t.err == io.EOF {
		if len(t.ready) == 0 {
			b.ended.Store(true)
		}
		return n, err
	}
	if err == nil {
		return n, nil
	}
	if _, ok := err.(*Refusal); !ok {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = slowBody
		} else {
			err = errGone
		}
	}
	b.mu.Lock()
	b.failed = err
	b.mu.Unlock()
	return n, err
}

var continues = []byte("HTTP/1.1 100 Continue\r\n\r\n")

// welcome has a client that waits for it send the body.
func (b *requestBody) welcome() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.expects {
		return nil
	}
	b.expects = false
	if b.final {
		return errGone
	}
	return b.c.writeSlow(continues, 0)
}

// begun tells that the answer begins, after which nobody is told to continue. It returns whether the client waits for that
// still, and why the body broke off.
func (b *requestBody) begun() (expects bool, failed error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.final = true
	b.open.Store(true)
	return b.expects, b.failed
}

// Buffered returns what can be had without waiting.
func (b *requestBody) Buffered() []byte { return b.c.w.ready }

// Close gives up what is left of the body, and wakes up who waits for it.
func (b *requestBody) Close() error {
	if !b.ended.Load() {
		b.c.stop()
	}
	return nil
}
