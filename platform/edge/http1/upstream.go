package http1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Outgoing is a request to an origin.
type Outgoing struct {
	Method, Host, Target string
	Header               *filter.Header // end to end; what frames the message and what is the connection's is left out
	ContentLength        int64          // of Body; -1 is unknown, 0 is none
	Trailer              *filter.Header // of a Body of unknown length, read once that has ended; nil: none
	Body                 io.Reader      // if it has the method Buffered() []byte and that is all of it, it is not read but sent with the head
	Deadline             int64          // for the answer's head, by [filter.Now]; 0: none
	Upgrade              bool           // ask for the protocol of x.Request.Upgrade

	Interim func(status int, h *filter.Header) // told of each 1xx answer but 100 and 101; nil: nobody

	// Near is called, where that can be told, when the answer has come and is about to be read, to have memory brought near by [Prefetch] that whoever
	// reads the answer will need; nil: there is none.
	Near func()

	// Done is called once for each Do that succeeded, perhaps before it returns: the answer's body is at its end, or was given
	// up. u may take the next request if reusable; else it is closed. What was read of the answer stays until the exchange ends.
	Done func(u *Upstream, reusable bool)
}

// Kind is what went wrong at an origin.
type Kind uint8

// The kinds of errors.
const (
	Stale        Kind = iota + 1 // the connection was used before and is no good any more: it was closed, or bytes came unasked
	Reset                        // the origin closed the connection before its answer ended
	Timeout                      // it did not answer, or did not go on answering, in time
	Malformed                    // the answer breaks a rule; Err is a [Refusal]
	HeadTooLarge                 // the answer's head is larger than allowed; Err is a [Refusal]
	Write                        // the request could not be written
	Cancelled                    // the client went away, or its request's body broke off, which then is Err
)

// String names the kind.
func (k Kind) String() string {
	return [...]string{"", "stale", "reset", "timeout", "malformed", "head too large", "write", "cancelled"}[k]
}

// Phase is where in an exchange with an origin an error came.
type Phase uint8

// The phases.
const (
	Sending Phase = iota // the request
	Waiting              // for the answer's head
	Body                 // of the answer
)

// String names the phase.
func (p Phase) String() string {
	return [...]string{"sending the request", "waiting for the answer's head", "reading the answer's body"}[p]
}

// Error is why an exchange with an origin came to nothing.
type Error struct {
	Phase    Phase
	Kind     Kind
	Sent     bool // any byte of the request was written
	Answered bool // any byte of an answer came
	Err      error
}

// Error says what happened and why.
func (e *Error) Error() string { return fmt.Sprintf("http1: %v: %v: %v", e.Phase, e.Kind, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

var (
	errUnasked  = errors.New("bytes came that nobody had asked for; they could be taken for the next answer")
	errClosed   = errors.New("the origin closed the connection")
	errInterims = &Refusal{"interim", 502, filter.FailureOrigin, "there are more than 16 interim answers", "the origin must answer at last"}
)

// maxInterims bounds how many 1xx answers may precede the one that counts.
const maxInterims = 16

// upstreamRules are those of answers: there is nothing to choose.
var upstreamRules = &Rules{Limits: Limits{}.withDefaults(), Underscores: Keep}

// Upstream is one connection to an origin. It takes one exchange at a time. An idle one holds no buffers.
type Upstream struct {
	Idle        time.Duration  // between bytes of an answer's body; 0: 90 s
	UpgradeIdle time.Duration  // without bytes either way once the protocol was changed; 0: 5 min
	Panics      *filter.Panics // takes note of those of a request's body, and of whoever is at the ends of a changed protocol

	s      sock
	served int // exchanges that went well
	ending Ending
	headAt atomic.Int64 // when the request's head was written, by filter.Now; 0: it was not
	bodyAt atomic.Int64 // when all of it was; 0: it was not
	readAt int64        // when the answer's head was read
	closed bool

	// Of the exchange under way.
	a       *answer
	x       *filter.Exchange
	asked   *filter.Field // the first of the request
	near    func()        // as Outgoing has it
	phase   step
	head    *scratch // holds the request's head, and what goes with it, until that is written; nil: it is
	out     []byte   // of it, not written yet
	sent    bool
	err     error
	stepFn  func() bool
	stop    func()         // closes the connection; called from another goroutine if the client goes away
	waiter  *filter.Waiter // which knows that; nil: nobody does
	long    bool           // the body goes by a goroutine of its own
	sender  bool           // which was started, and was not waited for yet
	sending chan struct{}  // has room for one: it has ended
	sendErr error          // what the request's body said, if it broke off; set before sending
	last    atomic.Bool    // it has read the whole body
	givenUp atomic.Bool    // nobody wants its work any more
	body    io.Closer      // what it reads from
}

type step uint8

const (
	probing step = iota
	writing
	reading
	reread // what is in the buffer already
)

// Ending is why a connection does not serve another exchange.
type Ending uint8

// The endings.
const (
	Other   Ending = iota
	Said           // the origin's answer says so
	NotSent        // the answer came before the whole request was sent
)

// Ending returns why the connection is closed, for who was told by Done that it is not reusable.
func (u *Upstream) Ending() Ending { return u.ending }

// Written returns when the head of a request was written for which Do has failed, and when all of it was, by [filter.Now]; 0 is
// that it was not. Of others the passport tells.
func (u *Upstream) Written() (head, all int64) { return u.headAt.Load(), u.bodyAt.Load() }

// Answered returns when the answer's head was read, by [filter.Now], for who is told by Done.
func (u *Upstream) Answered() int64 { return u.readAt }

// NewUpstream makes a connection to an origin, which it owns, ready for requests.
func NewUpstream(c net.Conn) *Upstream {
	u := &Upstream{sending: make(chan struct{}, 1)}
	u.s.init(c)
	u.stepFn = u.step
	u.stop = func() { u.Close() } //nolint:errcheck // as in Close
	return u
}

// Conn returns the connection, to look at.
func (u *Upstream) Conn() net.Conn { return u.s.c }

// Stale reports whether an idle connection is no good: it was closed by the origin, or bytes came while it was idle. Do looks
// itself, just before it writes.
func (u *Upstream) Stale() bool { return u.closed || u.s.pending() || u.s.held() }

// Close closes the connection; an exchange under way fails. It may be called from any goroutine.
func (u *Upstream) Close() error { return u.s.c.Close() }

func (u *Upstream) close() {
	if !u.closed {
		u.closed = true
		u.s.c.Close() //nolint:errcheck // it is given up
	}
}

// answer is the memory of one answer: it lives until the exchange ends, when the connection may long serve another one.
type answer struct {
	stream
	u       *Upstream // nil once the body is over
	head    head
	trailer filter.Header
	done    func(*Upstream, bool)
	release func(*filter.Exchange)
}

var answers sync.Pool

func newAnswer() *answer {
	a, ok := answers.Get().(*answer)
	if !ok {
		a = new(answer)
		a.release = func(*filter.Exchange) { a.free() }
	}
	return a
}

// written is called when the request's head has been, or will never be.
func (u *Upstream) written() {
	if o := u.head; o != nil {
		u.head, u.out = nil, nil
		o.free()
	}
}

// buffers are what answers are read into. One is taken when the answer comes, and not before: while the origin is at work
// there is nothing to be read.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

func (a *answer) free() {
	if a.u != nil {
		a.finish(false)
	}
	a.trailer.Reset()
	if len(a.buf) == bufferSize {
		buffers.Put((*[bufferSize]byte)(a.buf))
	}
	a.buf = nil
	a.ready, a.done, a.stream.trailer, a.s = nil, nil, nil, nil
	answers.Put(a)
}

// Do sends a request and fills x.Response with the answer: its Body reads from the connection. It stamps x.Passport. x.Request.Upgrade is the
// protocol that o.Upgrade asks for. If the body of the request is not at hand as a whole, a second goroutine sends it, and the
// answer may come before it has ended. The error is always an [*Error], and the connection is closed then.
//
// The strings of the answer's header, and its body, are good until x ends.
//
// hot path: 0 allocs, BenchmarkUpstream
func (u *Upstream) Do(x *filter.Exchange, o *Outgoing) error {
	a := newAnswer()
	a.u, a.done, a.s = u, o.Done, &u.s
	a.start, a.end, a.base, a.mode = 0, 0, 0, noBody
	if a.idle = u.Idle; a.idle == 0 {
		a.idle = 90 * time.Second
	}
	upgrade := ""
	if o.Upgrade {
		upgrade = x.Request.Upgrade
	}
	u.a, u.sent, u.err, u.phase = a, false, nil, probing
	u.x, u.asked, u.near = x, unsafe.SliceData(x.Request.Header.Fields()), o.Near
	u.head = scratches.Get().(*scratch)
	u.head.b = appendRequest(u.head.b[:0], o, upgrade)
	u.sendErr = nil
	u.headAt.Store(0)
	u.bodyAt.Store(0)
	if u.long = o.ContentLength != 0 && o.Body != nil; u.long {
		if b, ok := o.Body.(interface{ Buffered() []byte }); ok {
			if ready := b.Buffered(); int64(len(ready)) == o.ContentLength {
				u.head.b = append(u.head.b, ready...)
				u.long = false
			}
		}
	}
	u.out = u.head.b
	u.s.arm(o.Deadline)
	x.Response.Header.Reset()
	a.head.reset(upstreamRules)
	if u.waiter = x.Waiter; u.waiter != nil && !u.waiter.Wait(&u.stop) {
		u.waiter = nil
		return u.fail(x, &Error{Sending, Cancelled, false, false, errGone})
	}
	err := u.exchange(x, o, upgrade != "")
	if err == nil {
		u.stamp(x)
		err = u.receive(x, o)
	}
	if err != nil {
		return u.fail(x, err)
	}
	x.OnEnd(a.release)
	return nil
}

// stamp notes when the request was sent, as far as that was so when the answer's head came, and that it has come: once the
// answer is at its end, others may ask over the connection.
func (u *Upstream) stamp(x *filter.Exchange) {
	u.readAt = filter.Now()
	head, all := u.Written()
	if head != 0 {
		x.Passport.AddAt(filter.OutReqHeadersSent, head)
	}
	if all != 0 && x.Request.Body != nil {
		x.Passport.AddAt(filter.OutReqLastContentSent, all)
	}
	x.Passport.AddAt(filter.InRespHeadersReceived, u.readAt)
}

// fail gives up the exchange under way.
func (u *Upstream) fail(x *filter.Exchange, e *Error) error {
	u.close()
	u.join()
	u.written()
	if !u.unwatch() {
		e.Kind, e.Err = Cancelled, errGone
	}
	if u.sendErr != nil {
		e.Kind, e.Err = Cancelled, u.sendErr
	}
	a := u.a
	x.Response.Header.Reset()
	u.a, a.u = nil, nil
	u.x, u.asked, u.near = nil, nil, nil
	a.free()
	return e
}

// Patient has each part of the body of the answer that Do has begun be waited for so long.
func (u *Upstream) Patient(d time.Duration) {
	if u.a != nil {
		u.a.idle = d
	}
}

// unwatch ends that the client is watched. It reports whether the connection was not closed on its account.
func (u *Upstream) unwatch() bool {
	w := u.waiter
	u.waiter = nil
	return w == nil || w.Done(&u.stop)
}

// receive begins the body of the answer whose head was read.
func (u *Upstream) receive(x *filter.Exchange, o *Outgoing) *Error {
	a, p := u.a, &x.Response
	p.Body, p.Trailer, p.Flush = nil, nil, false
	p.Takeover = nil
	switch {
	case p.Status == 101:
		a.begin(noBody, 0, upstreamRules, nil)
		if !u.unwatch() {
			return &Error{Body, Cancelled, true, true, errGone}
		}
		// The head lies in memory of its own from here on: the buffer need not be held as long as the tunnel.
		own := append([]byte(nil), a.buf[:a.start]...)
		for at := 0; at < len(own); {
			p.Header.Reset()
			a.head.reset(upstreamRules)
			n, _ := a.head.response(own[at:], p, true)
			at += n
		}
		p.Takeover = a.tunnel
		return nil
	case a.head.bodiless(o.Method):
		a.begin(noBody, 0, upstreamRules, nil)
	case a.head.chunked:
		a.begin(byChunks, 0, upstreamRules, &a.trailer)
	case a.head.length >= 0:
		a.begin(byLength, a.head.length, upstreamRules, nil)
	default:
		a.begin(byClose, 0, upstreamRules, nil)
	}
	if r, ok := a.err.(*Refusal); ok {
		return &Error{Body, Malformed, true, true, r}
	}
	switch {
	case !a.whole():
		p.Body = a
		if a.mode == byChunks {
			p.Trailer = &a.trailer
		}
		return nil
	case a.mode == byChunks && a.trailer.Len() > 0:
		p.Body, p.Trailer = a, &a.trailer
	case a.mode == byChunks:
		p.ContentLength = int64(len(a.ready))
	}
	if len(a.ready) > 0 {
		p.Body = a
	}
	a.finish(true)
	return nil
}

// exchange sends the request and reads the answer's head.
func (u *Upstream) exchange(x *filter.Exchange, o *Outgoing, upgrade bool) *Error {
	a := u.a
	for interims := 0; ; {
		err := u.s.each(u.stepFn)
		if err == nil {
			err, u.err = u.err, nil
		}
		if err != nil && u.s.early(err) {
			continue
		}
		if err != nil {
			return u.failure(err)
		}
		switch u.phase {
		case probing: // and nothing was there
			u.phase = reading
			u.sender = true
			u.body = x.Request.Body
			u.last.Store(false)
			u.givenUp.Store(false)
			go u.send(o)
			continue
		case writing: // and there was no room for all of it
			if err := u.s.writeSlow(u.out, o.Deadline); err != nil {
				return u.failure(err)
			}
			u.written()
			u.phase = reading
			u.wrote()
			continue
		}
		n, r := a.head.response(a.buf[a.start:a.end], &x.Response, upgrade)
		switch {
		case r != nil:
			kind := Malformed
			if r.Status == 431 {
				kind = HeadTooLarge
			}
			return &Error{Waiting, kind, true, true, r}
		case n == 0:
			if len(a.buf)-a.end < minSpace {
				x.Response.Header.Reset()
				a.head.reset(upstreamRules)
				a.room()
			}
			continue
		}
		a.start += n
		if status := x.Response.Status; status >= 200 || status == 101 {
			return nil
		}
		if interims++; interims > maxInterims {
			return &Error{Waiting, Malformed, true, true, errInterims}
		}
		if o.Interim != nil && x.Response.Status != 100 {
			o.Interim(x.Response.Status, &x.Response.Header)
		}
		x.Response.Header.Reset()
		a.head.reset(upstreamRules)
		if a.start < a.end {
			u.phase = reread
		}
	}
}

// step is what is done whenever the connection may have bytes.
func (u *Upstream) step() bool {
	a := u.a
	for {
		switch u.phase {
		case probing:
			if u.served > 0 || u.s.fd >= 0 {
				// What lies here now is no answer to what is about to be asked.
				var unasked [1]byte
				if u.s.fd < 0 {
					if u.s.pending() || u.s.held() {
						u.err = errUnasked
						return true
					}
				} else if n, err := sysRecv(u.s.fd, unasked[:], false); n > 0 {
					u.err = errUnasked
					return true
				} else if !errors.Is(err, errAgain) {
					u.err = err
					return true
				}
			}
			if u.long {
				return true
			}
			u.phase = writing
		case writing:
			n, err := u.s.send(u.out)
			u.sent = u.sent || n > 0
			u.out = u.out[n:]
			switch {
			case errors.Is(err, errAgain):
				return true
			case err != nil:
				u.err = err
				return true
			case len(u.out) > 0:
				continue
			}
			u.written()
			u.phase = reading
			u.wrote()
			if u.s.fd >= 0 {
				return false
			}
		case reread:
			u.phase = reading
			return true
		case reading:
			if a.buf == nil {
				a.buf = buffers.Get().(*[bufferSize]byte)[:]
			}
			if u.s.fd >= 0 && a.end == 0 {
				u.warm()
			}
			n, err := u.s.recv(a.buf[a.end:])
			if errors.Is(err, errAgain) {
				return false
			}
			a.end += n
			if n == 0 {
				u.err = err
			}
			return true
		}
	}
}

// What a request has of memory while it waits for its answer: of a thousand that wait, none is near the processor any more.
const (
	stackLines = 48
	fieldLines = 8
)

// warm has the memory of the request brought near while the answer is read, all at once: each piece of it would be waited for
// by itself else, as it is come to, for as long as a hundred instructions take.
func (u *Upstream) warm() {
	prefetchStack(stackLines)
	Prefetch(unsafe.Pointer(u.x), unsafe.Sizeof(*u.x))
	Prefetch(unsafe.Pointer(u.asked), fieldLines*64)
	if u.near != nil {
		u.near()
	}
}

// wrote notes that the request was written at once.
func (u *Upstream) wrote() {
	now := filter.Now()
	u.headAt.Store(now)
	u.bodyAt.Store(now)
}

// failure says what an error of the connection means.
func (u *Upstream) failure(err error) *Error {
	a := u.a
	e := &Error{Phase: Waiting, Kind: Reset, Sent: u.sent || u.sender, Answered: a.end > 0, Err: err}
	switch {
	case u.phase == probing:
		e.Phase, e.Kind, e.Answered = Sending, Stale, false
		if err == io.EOF {
			e.Err = errClosed
		}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, errSlow):
		e.Kind = Timeout
	case u.phase == writing:
		e.Phase, e.Kind = Sending, Write
		if u.served > 0 {
			e.Kind = Stale
		}
	case u.served > 0 && !e.Answered:
		e.Kind = Stale
	}
	if e.Err == io.EOF {
		e.Err = errClosed
	}
	return e
}

// lastWait is how long a body that was read to its end may take to be sent once the answer has ended.
const lastWait = 200 * time.Millisecond

// join waits for the goroutine that sends the request's body. It reports whether that had sent all of it; if not, the
// connection and the body are closed so that it ends.
func (u *Upstream) join() bool {
	if !u.sender {
		return true
	}
	u.sender = false
	select {
	case <-u.sending:
		return u.last.Load() && u.sendErr == nil
	default:
	}
	if u.last.Load() && !u.closed {
		t := time.NewTimer(lastWait)
		defer t.Stop()
		select {
		case <-u.sending:
			return u.sendErr == nil
		case <-t.C:
		}
	}
	u.givenUp.Store(true)
	u.close()
	if u.body != nil {
		u.body.Close() //nolint:errcheck // so that nobody waits in it
	}
	<-u.sending
	return false
}

// send sends the head and the body of a request.
func (u *Upstream) send(o *Outgoing) {
	defer func() { u.sending <- struct{}{} }()
	err := u.Panics.Try("request body", func() error { return u.sendBody(o) })
	if err != nil && !u.givenUp.Load() {
		u.sendErr = err
		u.s.c.Close() //nolint:errcheck // whoever waits for the answer learns of it by this
	}
}

var copies = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// sendBody returns what the body said, not what became of writing: an origin may answer early and read no more.
func (u *Upstream) sendBody(o *Outgoing) error {
	b := copies.Get().(*[32 << 10]byte)
	defer copies.Put(b)
	defer u.written()
	head := u.out
	if len(head) > len(b)/2 {
		if u.s.writeSlow(head, 0) != nil {
			return nil
		}
		u.headAt.Store(filter.Now())
		head = nil
	}
	for sent := int64(0); ; {
		at := copy(b[:], head)
		from := at
		if o.ContentLength < 0 {
			from += chunkHead
		}
		n, err := o.Body.Read(b[from : len(b)-len("\r\n0\r\n\r\n")])
		if o.ContentLength >= 0 && sent+int64(n) > o.ContentLength {
			return errBodyLong
		}
		sent += int64(n)
		p := b[:from+n]
		if o.ContentLength < 0 {
			if p = frame(b[:], at, from, n); err == io.EOF {
				p = appendLastChunk(p, o.Trailer)
			}
		}
		switch {
		case err == io.EOF && o.ContentLength >= 0 && sent < o.ContentLength:
			return io.ErrUnexpectedEOF
		case err != nil && err != io.EOF:
			return err
		case err == io.EOF, sent == o.ContentLength:
			u.last.Store(true)
		}
		if len(p) > 0 && u.s.writeSlow(p, 0) != nil {
			return nil
		}
		if head != nil {
			u.headAt.Store(filter.Now())
		}
		if u.last.Load() {
			u.bodyAt.Store(filter.Now())
			return nil
		}
		head = nil
	}
}

var errBodyLong = errors.New("http1: the request's body is longer than was announced")

// Read reads on in the body of an answer. Once it has ended, the connection may serve others.
func (a *answer) Read(p []byte) (int, error) {
	n, err := a.stream.Read(p)
	if a.err == nil || a.u == nil {
		return n, err
	}
	if a.err == io.EOF {
		a.finish(true)
		return n, err
	}
	u, e := a.u, &Error{Phase: Body, Kind: Reset, Sent: true, Answered: true, Err: a.err}
	switch _, broken := a.err.(*Refusal); {
	case broken:
		e.Kind = Malformed
	case errors.Is(a.err, os.ErrDeadlineExceeded):
		e.Kind = Timeout
	}
	if u.waiter != nil && u.waiter.IsGone() {
		e.Kind, e.Err = Cancelled, errGone
	}
	a.finish(false)
	if u.sendErr != nil {
		e.Kind, e.Err = Cancelled, u.sendErr
	}
	a.err = e
	if err != nil {
		err = e
	}
	return n, err
}

// Over reports whether all of the body was read, though no Read has told yet.
func (a *answer) Over() bool { return a.err == io.EOF && len(a.ready) == 0 }

// Close gives up what is left of the body, and the connection with it.
func (a *answer) Close() error {
	if a.u != nil {
		a.finish(false)
		a.err = net.ErrClosed
	}
	return nil
}

// finish gives the connection back.
func (a *answer) finish(ok bool) {
	u := a.u
	a.u, u.a = nil, nil
	u.x, u.asked, u.near = nil, nil, nil
	u.ending = Other
	if ok && (!a.head.persists() || a.mode == byClose) {
		u.ending = Said
	}
	ok = ok && u.ending != Said && a.start == a.end
	if !ok {
		u.close()
	}
	sent := u.join()
	if !sent && u.ending == Other {
		u.ending = NotSent
	}
	if here := u.unwatch(); !sent || !here { // whatever became of the body: the client's next request wants to be watched
		ok = false
		u.close()
	}
	u.served++
	if done := a.done; done != nil {
		a.done = nil
		done(u, ok)
	}
}
