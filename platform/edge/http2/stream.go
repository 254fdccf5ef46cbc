package http2

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
)

// stream is one request and its answer. Its goroutine serves it; what others touch is guarded by the connection's mu.
type stream struct {
	x        filter.Exchange
	c        *conn
	id       uint32
	waiter   filter.Waiter
	outlet   filter.Outlet
	body     requestBody
	hints    func(int, *filter.Header)
	refused  *http1.Refusal // why it is not served, which is answered; nil: it is
	extended bool           // it is an extended CONNECT
	patient  bool           // its body may pause for as long as both ends want

	waited time.Duration // for bytes of the body; of who reads it
	pace   pace          // of those bytes

	// Guarded by c.mu.
	cond    sync.Cond // something of this stream has changed; its L is c.mu
	lostBy  error     // why nobody waits for the answer any more; nil: somebody does
	wrong   error     // why the body broke off
	in      []byte    // of the body, that came
	at      int       // what of it was read
	got     int64     // bytes of the body that were read
	left    int64     // of content-length that have not come; -1: not told
	credit  int64     // that the client has
	owed    int64     // that can be given back
	wide    int64     // the window
	window  int64     // to send
	ended   bool      // the client has ended its side
	expects bool      // the client waits for 100 before it sends the body
	shut    bool      // nobody reads the body any more
	begun   bool      // the final head was written
	done    bool      // the answer is at its end
	over    bool      // its request is over
	pins    int       // who is about to touch it still
	since   int64     // when somebody began to wait for the body; 0: nobody does
	stuck   int64     // when the answer began to wait for the client's window; 0: it does not
	drip    pace      // of what the client takes
	slow    bool      // it takes too little
	dropped bool      // others want its place, and the client takes nothing
}

// pace tells what comes too slowly: after a grace, so many bytes must come of so much time that was spent waiting.
type pace struct {
	took  time.Duration
	bytes int64
}

var streams = sync.Pool{New: func() any {
	st := &stream{}
	st.body.st = st
	st.hints = st.interim
	st.outlet.Init(st)
	return st
}}

func newStream(c *conn, id uint32) *stream {
	st := streams.Get().(*stream)
	st.c, st.id = c, id
	st.cond.L = &c.mu
	x := &st.x
	x.Waiter, x.Outlet, x.Interim = &st.waiter, &st.outlet, st.hints
	return st
}

// keptBody is how large a buffer of a body is kept for the next one.
const keptBody = 64 << 10

// recycle gives the memory back.
func (st *stream) recycle() {
	st.x.Reset()
	in := st.in[:0]
	if cap(in) > keptBody {
		in = nil
	}
	st.c, st.id, st.waiter, st.refused, st.extended, st.patient = nil, 0, filter.Waiter{}, nil, false, false
	st.waited, st.pace, st.drip = 0, pace{}, pace{}
	st.lostBy, st.wrong, st.in, st.at, st.got, st.left, st.credit, st.owed, st.wide, st.window = nil, nil, in, 0, 0, 0, 0, 0, 0, 0
	st.ended, st.expects, st.shut, st.begun, st.done, st.over, st.pins, st.since, st.stuck, st.slow, st.dropped = false, false, false, false, false, false, 0, 0, 0, false, false
	streams.Put(st)
}

// lost notes why nobody waits for the answer any more. The caller holds mu.
func (st *stream) lost(why error) {
	if st.lostBy == nil {
		st.lostBy = why
	}
	st.wake()
}

// wake has who waits for something of the stream look again, be that room in out. The caller holds mu.
func (st *stream) wake() {
	st.cond.Broadcast()
	st.c.room.Broadcast()
}

// refuse notes what is wrong with the body. The caller holds mu.
func (st *stream) refuse(why error) {
	if st.wrong == nil {
		st.wrong = why
	}
	st.cond.Broadcast()
}

// reject tells of a request that is malformed, and never was one of the connection's.
func (st *stream) reject(why error) {
	x, s := &st.x, st.c.s
	s.c.Meter.Counter("edge.http2.refused", "listener", s.c.Listener, "rule", "malformed").Inc()
	x.Passport.Add(filter.InReqRejected)
	x.Err = why
	x.SetCategory(filter.FailureBadRequest, why.Error())
	x.Answer(400, "")
	if x.Request.Path == "" { // its target was not looked at
		x.Request.Path, _, _ = strings.Cut(x.Request.Target, "?")
	}
	if s.c.Finished != nil {
		st.tell(func() { s.c.Finished(x) })
	}
	st.tell(x.End)
	st.recycle()
}

// run serves the request.
//
// hot path: 0 allocs, BenchmarkServer
func (st *stream) run() {
	c := st.c
	st.exchange()
	st.finish()
	c.streams.Done()
}

func (st *stream) exchange() {
	c := st.c
	c.mu.Lock()
	gone := st.lostBy
	if q := &st.x.Request; st.ended && q.ContentLength < 0 && len(st.in) == 0 && q.Trailer.Len() == 0 {
		q.Body, q.ContentLength = nil, 0 // it has come to nothing
	}
	c.mu.Unlock()
	r := reply{st: st}
	switch {
	case gone != nil:
		st.x.Err = gone
		st.x.SetCategory(filter.FailureClientCancelled, "the client took the request back, or went away")
		return
	case st.refused != nil:
		st.x.Passport.Add(filter.InReqRejected)
		c.s.c.Meter.Counter("edge.http2.refused", "listener", c.s.c.Listener, "rule", st.refused.Rule).Inc()
		r.refuse(st.refused)
	default:
		st.serve(&r)
	}
	r.send()
}

// serve calls Serve. If that does not come back, the answer is 500.
func (st *stream) serve(r *reply) {
	defer func() {
		if v := recover(); v != nil {
			st.panicked(v)
			r.fail(500, filter.FailureLocal, "the edge failed at this request; its log tells why")
		}
	}()
	st.c.s.c.Serve(&st.x)
}

func (st *stream) panicked(v any) {
	x, s := &st.x, st.c.s
	s.c.Log.Error("edge: serving a request panicked", "listener", s.c.Listener, "method", x.Request.Method, "path", x.Request.Path,
		"client", x.Client.Remote, "panic", v, "stack", string(debug.Stack()))
	x.Err = fmt.Errorf("serving the request panicked: %v", v)
}

// finish tells that the request is over, and forgets it.
func (st *stream) finish() {
	c, x := st.c, &st.x
	c.mu.Lock()
	if !st.done {
		st.end()
	}
	c.forget(st) // should the connection have failed
	st.shut = true
	if n := len(st.in) - st.at; n > 0 {
		c.giveCredit(n)
		st.at = len(st.in)
	}
	st.cond.Broadcast() // who sends the body to an origin still is waited for, and must not wait itself
	x.Read = st.got
	if len(c.out) > 0 && !c.writing {
		c.flush(len(c.opened) > 0)
	} else {
		c.mu.Unlock()
	}
	x.Passport.Add(filter.OutRespLastContentSent)
	st.tell(func() {
		if x.Response.Body != nil {
			x.Response.Body.Close() //nolint:errcheck // it was read to its end, or nobody wants it
			x.Response.Body = nil
		}
	})
	if c.s.c.Finished != nil {
		st.tell(func() { c.s.c.Finished(x) })
	}
	st.tell(x.End)
	c.mu.Lock()
	c.serving--
	st.over = true
	free := st.pins == 0
	c.mu.Unlock()
	if free {
		st.recycle()
	}
}

// tell calls fn, and bears its panic.
func (st *stream) tell(fn func()) {
	defer func() {
		if v := recover(); v != nil {
			st.panicked(v)
		}
	}()
	fn()
}

// end ends the stream, if it is open still: nothing is written of it any more. The caller holds mu.
func (st *stream) end() {
	c := st.c
	st.done = true
	if st.lostBy != nil {
		return
	}
	if !st.ended { // the client need not send the rest. spec: RFC 9113 §8.1
		c.out = appendReset(c.out, st.id, noError)
	}
	c.remember(st.id, !st.ended)
	c.forget(st)
	st.lostBy = errOver
}

var errOver = errors.New("http2: the stream is over")

// abort resets the stream, if it is open still. The caller holds mu.
func (st *stream) abort(why code) {
	c := st.c
	st.done = true
	if st.lostBy != nil {
		return
	}
	c.out = appendReset(c.out, st.id, why)
	c.remember(st.id, !st.ended)
	c.forget(st)
	st.lostBy = errOver
}

// interim passes on an informational answer, unless much waits to be written already. It does not wait: who calls it may be
// reading what an origin sends for others, too.
func (st *stream) interim(status int, h *filter.Header) {
	c := st.c
	c.mu.Lock()
	if st.begun || st.lostBy != nil || len(c.out) > outHigh || status == 100 || status == 101 { // 100 is said when the body is wanted
		c.mu.Unlock()
		return
	}
	from := c.beginHead(st.id)
	c.out = c.enc.status(c.out, status)
	c.fields(h)
	c.endHead(from, 0)
	if !c.writing && c.failed == nil {
		c.writeAside()
	}
	c.mu.Unlock()
}

// Taken returns how much of the answer the client has let through its window while it waits for that, and else how much the
// client's system has acknowledged of all that the connection carries.
func (st *stream) Taken() int64 {
	c := st.c
	c.mu.Lock()
	n, stuck := st.x.Written, st.stuck != 0
	c.mu.Unlock()
	if stuck {
		return n
	}
	return http1.Acked(c.nc)
}

// Drop ends the answer. If it is not for its window that the client takes nothing, but from the connection, that is ended.
func (st *stream) Drop() {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	st.dropped = true
	if st.stuck == 0 && c.writing && c.failed == nil {
		c.fail(filter.ErrStalled)
		go c.nc.Close() //nolint:errcheck // its reader, and who writes, end by it
	}
	st.wake()
}

// requestBody is the body of a request, which may be read by another goroutine than the request's.
type requestBody struct{ st *stream }

// Read reads on, and has the client send it if it waits for that.
//
// hot path: 0 allocs, BenchmarkServer
func (b *requestBody) Read(p []byte) (int, error) {
	st := b.st
	c := st.c
	c.mu.Lock()
	if st.expects {
		st.expects = false
		if len(st.in) == 0 && !st.ended && !st.begun && st.lostBy == nil {
			from := c.beginHead(st.id)
			c.out = c.enc.status(c.out, 100)
			c.endHead(from, 0)
		}
	}
	for st.at == len(st.in) {
		var err error
		switch {
		case st.wrong != nil:
			err = st.wrong
		case st.shut:
			err = net.ErrClosed // which was wanted, and is not the client's doing
		case st.ended:
			err = io.EOF
		case st.lostBy != nil:
			err = errGone
		case len(p) == 0:
			c.mu.Unlock()
			return 0, nil
		}
		if err != nil {
			c.mu.Unlock()
			return 0, err
		}
		if len(c.out) > 0 && !c.writing && c.failed == nil {
			c.flush(false)
			c.mu.Lock()
			continue
		}
		st.await()
	}
	n := copy(p, st.in[st.at:])
	st.at += n
	st.got += int64(n)
	switch {
	case st.at == len(st.in):
		st.in, st.at = st.in[:0], 0
	case st.at > keptBody && st.at > len(st.in)/2:
		st.in = st.in[:copy(st.in, st.in[st.at:])]
		st.at = 0
	}
	c.giveCredit(n)
	st.giveCredit(n)
	if len(c.out) > 0 && !c.writing {
		c.flush(len(c.opened) > 1)
	} else {
		c.mu.Unlock()
	}
	return n, nil
}

// Of a body that must keep up a rate, the first seconds are not looked at, then each window is.
const (
	rateGrace  = 5 * time.Second
	rateWindow = 10 * time.Second
)

// await waits for bytes of the body. Those of gRPC come when there is something to say, and so do those that follow when the
// answer has begun: such a body is one side of a conversation. Of others, only waiting counts against a slow sender: while nobody asks for more it cannot be late.
// The caller holds mu.
func (st *stream) await() {
	now := filter.Now()
	st.since = now
	starved := st.c.credit <= 0 // the client may not send, for bodies of other streams lie unread
	st.cond.Wait()
	st.since = 0
	if starved {
		return
	}
	took := time.Duration(filter.Now() - now)
	if st.waited += took; st.waited <= rateGrace || st.patient || st.begun {
		return
	}
	st.pace.took += took
	st.pace.bytes += int64(len(st.in) - st.at)
	if st.pace.took >= rateWindow {
		if least := int64(st.c.s.settings.Load().BodyRate); st.pace.bytes < int64(st.pace.took/time.Second)*least && !st.ended {
			st.refuse(http1.SlowBody)
		}
		st.pace = pace{}
	}
}

// giveCredit has the client be told that it may send so much more of the body, once that is worth it. Where it is read as fast
// as it comes, the window widens, for then it is the way that is long. The caller holds mu.
func (st *stream) giveCredit(n int) {
	c := st.c
	if st.owed += int64(n); st.owed < st.wide/4 || st.ended || st.lostBy != nil {
		return
	}
	if st.wide < streamWidest && len(st.in) == 0 && st.credit <= st.wide/2 {
		st.owed += st.wide
		st.wide *= 2
	}
	c.out = appendWindowUpdate(c.out, st.id, int(st.owed))
	st.credit += st.owed
	st.owed = 0
}

// Buffered returns what can be had without waiting, if that is all there is.
func (b *requestBody) Buffered() []byte {
	st := b.st
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	if !st.ended && st.left != 0 {
		return nil
	}
	return st.in[st.at:]
}

// Close gives up what is left of the body, and wakes up who waits for it.
func (b *requestBody) Close() error {
	st := b.st
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.shut {
		return nil
	}
	st.shut = true
	if n := len(st.in) - st.at; n > 0 {
		c.giveCredit(n)
		st.at = len(st.in)
	}
	st.cond.Broadcast()
	return nil
}
