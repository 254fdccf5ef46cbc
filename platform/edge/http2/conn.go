package http2

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"golang.org/x/net/http2/hpack"
)

const (
	bufferSize = 32 << 10 // that a connection reads into while something is under way
	smallSize  = 1 << 10  // while it waits
	outHigh    = 64 << 10 // bytes that wait to be written, beyond which answers wait
	outMost    = 1 << 20  // beyond which the client cannot be taking anything
	outKept    = 64 << 10 // the largest buffer that is used again

	streamsMost   = 100 // at once, as we tell
	requestsMost  = 200 // at once, with those whose clients have turned away but that are served still
	streamWindow  = 512 << 10
	streamWidest  = 4 << 20
	connWindow    = 4 << 20
	initialWindow = 65535 // spec: RFC 9113 §6.9.2
)

var (
	errGone    = errors.New("http2: the client went away")
	errReset   = errors.New("http2: the client took the request back")
	errDrained = errors.New("http2: the edge ends")
	errSlow    = errors.New("http2: the client takes its answers too slowly")
	errIdle    = errors.New("http2: the connection was idle for too long")
	errSilent  = errors.New("http2: the client does not answer a ping")
	errHead    = errors.New("http2: the head of a request did not come in time")
)

// How far the end of a connection has come.
const (
	staying = iota
	parting // the client was told that it will end
	leaving // and what the last request is
)

// conn is one connection of a client. Its reader understands frames; what others touch is guarded by mu.
type conn struct {
	s       *Server
	nc      net.Conn
	client  *filter.Client
	started int64
	expires int64 // by filter.Now; 0: never

	// The reader's own.
	dec   *hpack.Decoder
	small []byte
	buf   *[bufferSize]byte // nil: nothing was read that was not understood
	start int
	end   int
	head  head
	data  incoming
	calm  calm
	ready []*stream // to be served once what was read is understood

	streams sync.WaitGroup // that are served
	writeBy atomic.Int64   // the deadline of writes that is set, by filter.Now

	mu      sync.Mutex // guards what follows
	room    sync.Cond  // there is room in out; its L is mu
	out     []byte     // that is to be written
	spare   []byte
	urgent  bool  // the reader has put something into out, which nobody else will write
	writing bool  // somebody writes, and will write what is put into out meanwhile
	failed  error // why nothing can be written any more
	ended   bool  // the reader has ended
	enc     encoder
	opened  []*stream // whose answers somebody waits for
	serving int       // requests that are served
	served  int
	last    uint32    // the highest id of a stream that was seen
	closed  [128]past // streams that are over, each at the place of its id

	window    int64 // of the connection, to send
	initial   int64 // of each stream, to send
	credit    int64 // that the client has, of the connection
	owed      int64 // that can be given back to it
	sentData  int   // DATA frames, in all
	heard     bool  // the client has our SETTINGS; the reader's own
	pingMark  int   // of sentData, when the client was last heard to ping; the reader's own
	moved     int64 // when something was last read, or a request ended; by filter.Now
	pinged    int64 // when the client was asked whether it is there; 0: not
	freshly   bool  // a frame has come whole since it was looked at what is partial; the reader's own
	headSince int64 // when a head, or another frame, began that is not whole; 0: none has
	parts     int   // staying, parting or leaving
	partedAt  int64
	quitting  bool
	saidAll   int64 // when all was written to a client that is left; 0: it was not yet
	settled   bool  // the client's preface and SETTINGS came
}

// incoming is a DATA frame whose payload is still to come.
type incoming struct {
	left int // bytes of data
	pad  int
	end  bool
	st   *stream // nil: nobody wants it; guarded by mu
}

func newConn(s *Server, nc net.Conn, client *filter.Client) *conn {
	c := &conn{s: s, nc: nc, client: client, started: filter.Now(), window: initialWindow, initial: initialWindow, credit: connWindow}
	c.moved, c.calm.window, c.calm.second = c.started, c.started, c.started
	c.room.L = &c.mu
	c.enc.most = tableSize
	c.head.c = c
	c.dec = hpack.NewDecoder(tableSize, c.head.field)
	return c
}

// serve reads until the connection is at its end, and waits for its requests.
func (c *conn) serve(early []byte) {
	err := c.read(early)
	c.account(err)
	c.farewell(err)
	c.cut(err)
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.streams.Wait()
	c.giveBack()
}

// account counts why the connection ended.
func (c *conn) account(err error) {
	var e *connError
	c.mu.Lock()
	if c.failed != nil {
		err = c.failed
	}
	c.mu.Unlock()
	switch {
	case errors.Is(err, errIdle) || errors.Is(err, errSilent) || errors.Is(err, errHead) || errors.Is(err, os.ErrDeadlineExceeded):
		c.s.idled.Inc()
	case errors.As(err, &e):
		c.s.failed.Inc()
		c.s.c.Meter.Counter("edge.http2.broken", "listener", c.s.c.Listener, "code", e.code.String()).Inc()
		c.s.c.Log.Debug("edge: an HTTP/2 connection breaks a rule and is closed", "listener", c.s.c.Listener, "client", c.client.Remote, "err", err)
	}
}

// lastWrite is how long a client may take to be told why it is cut off.
const lastWrite = time.Second

// farewell tells the client why the connection ends, and lets it hear that before it is cut: closing at once would reset it.
func (c *conn) farewell(err error) {
	var e *connError
	if !errors.As(err, &e) {
		return
	}
	c.mu.Lock()
	c.out = appendGoAway(c.out, c.last, e.code, e.why)
	c.writeBy.Store(math.MaxInt64)                   // who writes shall leave it
	c.nc.SetWriteDeadline(time.Now().Add(lastWrite)) //nolint:errcheck // it ends in any case
	c.flush(false)
	c.mu.Lock()
	for c.writing && c.failed == nil {
		c.room.Wait()
	}
	c.mu.Unlock()
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.nc.SetReadDeadline(time.Now().Add(lastWrite)) //nolint:errcheck // as above
	b := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(b)
	for n := 0; n < 1<<20; {
		k, err := c.nc.Read(b[:])
		if n += k; err != nil {
			return
		}
	}
}

// cut ends the connection at once, and tells all requests.
func (c *conn) cut(why error) {
	c.mu.Lock()
	c.fail(why)
	c.mu.Unlock()
	c.nc.Close() //nolint:errcheck // it is over
	c.abandon()
}

// fail has nothing be written any more. The caller holds mu.
func (c *conn) fail(why error) {
	if c.failed == nil {
		c.failed = why
	}
	c.room.Broadcast()
	for _, st := range c.opened {
		st.lost(errGone)
	}
}

// abandon tells who waits for origins that nobody waits for them.
func (c *conn) abandon() {
	for {
		c.mu.Lock()
		n := len(c.opened)
		if n == 0 {
			c.mu.Unlock()
			return
		}
		st := c.opened[n-1]
		c.forget(st)
		c.turnAway(st)
	}
}

// turnAway tells st's request that nobody waits for it. The caller holds mu, which is released.
func (c *conn) turnAway(st *stream) {
	st.pins++
	c.mu.Unlock()
	st.waiter.Gone()
	c.mu.Lock()
	st.pins--
	last := st.over && st.pins == 0
	c.mu.Unlock()
	if last {
		st.recycle()
	}
}

// forget has st be open no longer. The caller holds mu.
func (c *conn) forget(st *stream) {
	if c.data.st == st {
		c.data.st = nil
	}
	for i, o := range c.opened {
		if o == st {
			n := len(c.opened) - 1
			c.opened[i] = c.opened[n]
			c.opened[n] = nil
			c.opened = c.opened[:n]
			break
		}
	}
	if len(c.opened) == 0 {
		c.moved = filter.Now()
		if c.parts == leaving {
			c.quit()
		}
	}
}

// find returns the open stream of that id, nil if there is none. The caller holds mu.
func (c *conn) find(id uint32) *stream {
	for _, st := range c.opened {
		if st.id == id {
			return st
		}
	}
	return nil
}

// past is a stream that is over.
type past struct {
	id    uint32
	early bool // we have ended it before the client had: what that has sent meanwhile is no mistake
}

// remember notes that a stream is over. The caller holds mu.
func (c *conn) remember(id uint32, early bool) {
	c.closed[id/2%uint32(len(c.closed))] = past{id, early}
}

// unopened reports whether the client has not opened a stream that we would know of: of those that come when it was told
// what the last one is, nothing is looked at. The caller holds mu.
func (c *conn) unopened(id uint32) bool { return id > c.last && c.parts != leaving }

// recall returns whether a stream was open not long ago, and whether it was ended early. The caller holds mu.
func (c *conn) recall(id uint32) (was, early bool) {
	if id > c.last && c.parts == leaving {
		return true, true
	}
	k := c.closed[id/2%uint32(len(c.closed))]
	return k.id == id, k.id == id && k.early
}

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

func (c *conn) giveBack() {
	if c.buf != nil {
		buffers.Put(c.buf)
		c.buf, c.start, c.end = nil, 0, 0
	}
}

// read reads frames until the connection is at its end.
func (c *conn) read(early []byte) (err error) {
	defer func() {
		if v := recover(); v != nil {
			c.s.failed.Inc()
			c.s.c.Log.Error("edge: an HTTP/2 connection is cut because reading it panicked", "listener", c.s.c.Listener, "client", c.client.Remote, "panic", v, "stack", string(debug.Stack()))
			err = broken(internalError, "the edge failed; its log tells why")
		}
	}()
	c.greet()
	if err := c.await(&early); err != nil {
		return err
	}
	for {
		if err := c.frames(); err != nil {
			c.dispatch()
			return err
		}
		c.dispatch()
		if err := c.more(&early); err != nil {
			return err
		}
	}
}

// greet sends what begins a connection.
func (c *conn) greet() {
	set := c.s.settings.Load()
	c.mu.Lock()
	c.out = appendSettings(c.out,
		[2]uint32{settingMaxStreams, streamsMost}, [2]uint32{settingInitialWindow, streamWindow}, [2]uint32{settingMaxHeaderList, uint32(set.Rules.Limits.Fields)},
		[2]uint32{settingExtendedMethod, 1}, [2]uint32{settingNoPriorities, 1})
	c.out = appendWindowUpdate(c.out, 0, connWindow-initialWindow)
	if c.s.draining.Load() {
		c.goAway()
	}
	c.flush(false)
}

// await reads the client's preface.
func (c *conn) await(early *[]byte) error {
	for c.end-c.start < len(preface) {
		if err := c.more(early); err != nil {
			return err
		}
		if n := min(c.end-c.start, len(preface)); string(c.buf[c.start:c.start+n]) != preface[:n] {
			return broken(protocolError, "the connection does not begin with the preface of HTTP/2")
		}
	}
	c.start += len(preface)
	return nil
}

// more reads what there is. While nothing is under way it waits with a small buffer.
func (c *conn) more(early *[]byte) error {
	if len(*early) > 0 {
		if c.buf == nil {
			c.buf = buffers.Get().(*[bufferSize]byte)
		}
		c.compact()
		n := copy(c.buf[c.end:], *early)
		c.end += n
		if *early = (*early)[n:]; len(*early) == 0 {
			*early = nil
		}
		return nil
	}
	var n int
	var err error
	if c.start == c.end && c.data.left+c.data.pad == 0 {
		c.mu.Lock()
		idle := len(c.opened) == 0
		c.mu.Unlock()
		c.start, c.end = 0, 0
		if idle {
			c.giveBack()
			if c.small == nil {
				c.small = make([]byte, smallSize)
			}
			if n, err = c.nc.Read(c.small); n > 0 {
				c.buf = buffers.Get().(*[bufferSize]byte)
				c.end = copy(c.buf[:], c.small[:n])
			}
			return c.came(n, err)
		}
	}
	if c.buf == nil {
		c.buf = buffers.Get().(*[bufferSize]byte)
	}
	c.compact()
	n, err = c.nc.Read(c.buf[c.end:])
	c.end += n
	return c.came(n, err)
}

// compact moves what is left to the beginning of the buffer.
func (c *conn) compact() {
	if c.start > 0 {
		copy(c.buf[:], c.buf[c.start:c.end])
		c.end -= c.start
		c.start = 0
	}
}

func (c *conn) came(n int, err error) error {
	if n > 0 {
		now := filter.Now()
		c.mu.Lock()
		c.moved, c.pinged = now, 0
		c.mu.Unlock()
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// frames understands the frames that are there whole, and the data of one that is not.
//
// hot path: 0 allocs, BenchmarkServer
func (c *conn) frames() error {
	for {
		if c.data.left+c.data.pad > 0 {
			if c.start == c.end {
				return c.partial(false)
			}
			if err := c.take(); err != nil {
				return err
			}
			continue
		}
		b := c.buf[c.start:c.end]
		if len(b) < frameHead {
			return c.partial(len(b) > 0)
		}
		f := readFrame(b)
		if f.length > frameMost {
			return broken(frameSizeError, "a frame is longer than 16384 bytes")
		}
		if c.head.id != 0 && (f.kind != frameContinuation || f.id != c.head.id) {
			return broken(protocolError, "a head is interrupted by another frame")
		}
		if f.kind == frameData && c.settled {
			pad := 0
			at := frameHead
			if f.has(flagPadded) {
				if len(b) == frameHead && f.length > 0 {
					return c.partial(true)
				}
				if f.length == 0 || int(b[frameHead]) >= f.length {
					return broken(protocolError, "a frame's padding is longer than the frame")
				}
				pad = int(b[frameHead])
				at++
			}
			c.start += at
			c.freshly = true
			if err := c.begin(f, pad); err != nil {
				return err
			}
			continue
		}
		if len(b) < frameHead+f.length {
			return c.partial(true)
		}
		c.start += frameHead + f.length
		if err := c.frame(f, b[frameHead:frameHead+f.length]); err != nil {
			return err
		}
		c.freshly = c.freshly || c.head.id == 0
	}
}

// partial notes whether something came that is not whole: it must be in time.
func (c *conn) partial(is bool) error {
	is = is || c.head.id != 0
	fresh := c.freshly
	c.freshly = false
	if is == (c.headSince != 0) && !(is && fresh) { // what is partial now is not what was
		return nil
	}
	c.mu.Lock()
	if c.headSince = 0; is {
		c.headSince = filter.Now()
	}
	c.mu.Unlock()
	return nil
}

// frame understands one frame.
func (c *conn) frame(f frame, p []byte) error {
	if !c.settled {
		if f.kind != frameSettings || f.has(flagAck) {
			return broken(protocolError, "the preface is not followed by SETTINGS")
		}
		c.mu.Lock()
		c.settled = true
		c.mu.Unlock()
	}
	switch f.kind {
	case frameHeaders:
		return c.headers(f, p)
	case frameContinuation:
		return c.continuation(f, p)
	case framePriority:
		return c.priority(f, p)
	case frameReset:
		return c.reset(f, p)
	case frameSettings:
		return c.setting(f, p)
	case framePushPromise:
		return broken(protocolError, "a client pushes nothing")
	case framePing:
		return c.ping(f, p)
	case frameGoAway:
		if f.id != 0 {
			return broken(protocolError, "GOAWAY is of the connection")
		}
		if f.length < 8 {
			return broken(frameSizeError, "GOAWAY is too short")
		}
		return nil
	case frameWindowUpdate:
		return c.update(f, p)
	}
	return nil // of a kind that is not known. spec: RFC 9113 §4.1
}

// begin begins a DATA frame.
func (c *conn) begin(f frame, pad int) error {
	if f.id == 0 {
		return broken(protocolError, "DATA is of a stream")
	}
	n := f.length - pad
	if f.has(flagPadded) {
		n--
	}
	if n == 0 && !f.has(flagEndStream) {
		if err := c.calm.control(filter.Now(), frameData, controlsMost); err != nil {
			return err
		}
	}
	c.mu.Lock()
	if c.unopened(f.id) {
		c.mu.Unlock()
		return broken(protocolError, "DATA is of a stream that was not opened")
	}
	if c.credit -= int64(f.length); c.credit < 0 {
		c.mu.Unlock()
		return broken(flowControlError, "there is more DATA than the connection's window allows")
	}
	c.giveCredit(f.length - n) // padding is of no use to anybody
	st := c.find(f.id)
	why := noError
	switch _, early := c.recall(f.id); {
	case st == nil && !early:
		why = streamClosed
	case st == nil:
	case st.ended:
		why = streamClosed
	case int64(f.length) > st.credit:
		why = flowControlError
	case st.left >= 0 && int64(n) > st.left, st.left > 0 && f.has(flagEndStream) && int64(n) < st.left:
		why = protocolError
	default:
		st.credit -= int64(f.length)
		st.owed += int64(f.length - n)
		if st.left > 0 {
			st.left -= int64(n)
		}
	}
	c.data = incoming{left: n, pad: pad, end: f.has(flagEndStream), st: st}
	if why != noError {
		c.data.st = nil
		if st != nil && why == protocolError {
			st.refuse(wrongLength)
		}
		return c.atFault(f.id, st, why) // which unlocks
	}
	if st == nil {
		c.giveCredit(n)
		c.data.left, c.data.pad = 0, n+pad
		c.mu.Unlock()
		return nil
	}
	if c.data.end && n == 0 {
		st.ended = true
		st.cond.Broadcast()
	}
	c.mu.Unlock()
	return nil
}

// take takes what came of a DATA frame.
func (c *conn) take() error {
	d := &c.data
	if d.left > 0 {
		n := min(d.left, c.end-c.start)
		p := c.buf[c.start : c.start+n]
		c.start += n
		d.left -= n
		c.mu.Lock()
		st := d.st
		switch {
		case st == nil:
			c.giveCredit(n)
		case st.shut:
			c.giveCredit(n)
			if d.end && d.left == 0 {
				st.ended = true
			}
		default:
			st.in = append(st.in, p...)
			if d.end && d.left == 0 {
				st.ended = true
			}
			st.cond.Broadcast()
		}
		c.mu.Unlock()
		return nil
	}
	n := min(d.pad, c.end-c.start)
	c.start += n
	d.pad -= n
	return nil
}

// giveCredit has the client be told that it may send so much more, once that is worth it. The caller holds mu.
func (c *conn) giveCredit(n int) {
	c.owed += int64(n)
	// While some streams' bodies lie unread, what is left of the window must go round fast enough for the others.
	if c.owed >= connWindow/4 || c.owed >= c.credit && c.owed >= frameMost || c.owed > 0 && c.credit <= 0 {
		c.urgent = true
		c.out = appendWindowUpdate(c.out, 0, int(c.owed))
		c.credit += c.owed
		c.owed = 0
	}
}

// atFault resets a stream by the client's fault. The caller holds mu, which is released.
func (c *conn) atFault(id uint32, st *stream, why code) error {
	c.urgent = true
	c.out = appendReset(c.out, id, why)
	c.remember(id, true)
	if st != nil {
		st.lost(errReset)
		c.forget(st)
		c.turnAway(st)
	} else {
		c.mu.Unlock()
	}
	return c.calm.fault(filter.Now())
}

func (c *conn) priority(f frame, p []byte) error {
	if f.id == 0 {
		return broken(protocolError, "PRIORITY is of a stream")
	}
	if err := c.calm.control(filter.Now(), framePriority, controlsMost); err != nil {
		return err
	}
	why := noError
	switch {
	case f.length != 5:
		why = frameSizeError
	case binary.BigEndian.Uint32(p)&idMost == f.id:
		why = protocolError
	default:
		return nil
	}
	c.mu.Lock()
	return c.atFault(f.id, c.find(f.id), why)
}

func (c *conn) reset(f frame, _ []byte) error {
	if f.id == 0 {
		return broken(protocolError, "RST_STREAM is of a stream")
	}
	if f.length != 4 {
		return broken(frameSizeError, "RST_STREAM is not of 4 bytes")
	}
	now := filter.Now()
	c.mu.Lock()
	if c.unopened(f.id) {
		c.mu.Unlock()
		return broken(protocolError, "RST_STREAM is of a stream that was not opened")
	}
	st := c.find(f.id)
	if st == nil {
		c.mu.Unlock()
		return c.calm.reset(now)
	}
	c.remember(f.id, false)
	st.lost(errReset)
	c.forget(st)
	c.turnAway(st)
	return c.calm.reset(now)
}

func (c *conn) setting(f frame, p []byte) error {
	if f.id != 0 {
		return broken(protocolError, "SETTINGS is of the connection")
	}
	if f.has(flagAck) {
		if f.length != 0 {
			return broken(frameSizeError, "SETTINGS with ACK is not empty")
		}
		c.heard = true
		return nil
	}
	if f.length%6 != 0 {
		return broken(frameSizeError, "SETTINGS is not of whole settings")
	}
	if err := c.calm.control(filter.Now(), frameSettings, controlsMost); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; len(p) > 0; p = p[6:] {
		v := binary.BigEndian.Uint32(p[2:])
		switch binary.BigEndian.Uint16(p) {
		case settingTableSize:
			c.enc.limit(int(min(v, tableSize)))
		case settingEnablePush:
			if v > 1 {
				return broken(protocolError, "ENABLE_PUSH is neither 0 nor 1")
			}
		case settingInitialWindow:
			if v > windowMost {
				return broken(flowControlError, "INITIAL_WINDOW_SIZE is beyond 2^31-1")
			}
			by := int64(v) - c.initial
			c.initial = int64(v)
			for _, st := range c.opened {
				if st.window += by; st.window > windowMost {
					return broken(flowControlError, "INITIAL_WINDOW_SIZE makes a stream's window too large")
				}
				st.cond.Broadcast()
			}
		case settingMaxFrame:
			if v < frameMost || v > 1<<24-1 {
				return broken(protocolError, "MAX_FRAME_SIZE is out of bounds")
			}
		}
	}
	c.urgent = true
	c.out = appendFrame(c.out, 0, frameSettings, flagAck, 0)
	return nil
}

// roundTrip is what a ping holds that measures how far away the client is before it is told what its last request is.
var roundTrip = [8]byte{'r', 'o', 'u', 'n', 'd', 't', 'r', 'p'}

// present is what a ping holds that asks whether the client is there.
var present = [8]byte{'p', 'r', 'e', 's', 'e', 'n', 't', '?'}

func (c *conn) ping(f frame, p []byte) error {
	if f.id != 0 {
		return broken(protocolError, "PING is of the connection")
	}
	if f.length != 8 {
		return broken(frameSizeError, "PING is not of 8 bytes")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.has(flagAck) {
		if c.parts == parting && [8]byte(p) == roundTrip {
			c.leave()
		}
		return nil
	}
	if c.sentData != c.pingMark { // who is being sent a lot measures the way by pings, as gRPC does
		c.pingMark = c.sentData
		c.calm.counts[framePing] = 0
	}
	c.urgent = true
	c.out = appendPing(c.out, flagAck, p)
	return c.calm.control(filter.Now(), framePing, controlsMost)
}

func (c *conn) update(f frame, p []byte) error {
	if f.length != 4 {
		return broken(frameSizeError, "WINDOW_UPDATE is not of 4 bytes")
	}
	by := int64(binary.BigEndian.Uint32(p) & idMost)
	now := filter.Now()
	c.mu.Lock()
	if now-c.calm.second > int64(time.Second) {
		c.calm.former, c.calm.sent = c.calm.sent, c.sentData
	}
	most := updatesMost + updatesForData*(c.sentData-c.calm.former)
	if f.id == 0 {
		defer c.mu.Unlock()
		if by == 0 {
			return broken(protocolError, "WINDOW_UPDATE is of 0")
		}
		if c.window += by; c.window > windowMost {
			return broken(flowControlError, "WINDOW_UPDATE makes the connection's window too large")
		}
		for _, st := range c.opened {
			st.cond.Broadcast()
		}
		return c.calm.control(now, frameWindowUpdate, most)
	}
	if c.unopened(f.id) {
		c.mu.Unlock()
		return broken(protocolError, "WINDOW_UPDATE is of a stream that was not opened")
	}
	st := c.find(f.id)
	switch {
	case by == 0:
		return c.atFault(f.id, st, protocolError)
	case st != nil && st.window+by > windowMost:
		return c.atFault(f.id, st, flowControlError)
	case st != nil:
		st.window += by
		st.cond.Broadcast()
	}
	c.mu.Unlock()
	return c.calm.control(now, frameWindowUpdate, most)
}

// dispatch has the requests served that came, and sends what is to be sent for them all. The reader itself does not write: if
// the client does not read before it has written, neither would ever go on.
func (c *conn) dispatch() {
	for i, st := range c.ready {
		c.ready[i] = nil
		c.s.crew.serve(st)
	}
	c.ready = c.ready[:0]
	c.mu.Lock()
	switch {
	case len(c.out) > outMost:
		c.fail(errSlow)
		go c.nc.Close() //nolint:errcheck // it is over
	case c.urgent && !c.writing:
		c.writeAside()
	}
	c.mu.Unlock()
}

// flush writes what is in out, unless somebody does so already. With yield, others that can run do first: they may have
// more to be written. The caller holds mu, which is released.
//
// hot path: 0 allocs, BenchmarkServer
func (c *conn) flush(yield bool) {
	if c.writing || c.failed != nil {
		c.mu.Unlock()
		return
	}
	c.writing = true
	if yield {
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	c.writeOut(roundsMost)
}

// roundsMost is how often a request's goroutine writes before another goroutine does so in its place: it has its own request to
// end, and others may have more to be written for as long as their answers last.
const roundsMost = 3

// writeOut writes until nothing is in out, at most so often; negative is as often as it takes. Who calls it has set writing, and
// holds mu, which is released.
func (c *conn) writeOut(rounds int) {
	for ; len(c.out) > 0 && c.failed == nil; rounds-- {
		if rounds == 0 {
			c.writeAside()
			c.mu.Unlock()
			return
		}
		b := c.out
		c.out, c.spare, c.urgent = c.spare[:0], nil, false
		c.mu.Unlock()
		err := c.write(b)
		c.mu.Lock()
		if cap(b) <= outKept && c.spare == nil {
			c.spare = b[:0]
		}
		if err != nil {
			c.fail(err)
			go c.nc.Close() //nolint:errcheck // so that the reader ends
		}
		c.room.Broadcast()
	}
	if cap(c.out) > outKept {
		c.out = nil
	}
	c.writing = false
	c.room.Broadcast()
	c.mu.Unlock()
}

// writeAside has another goroutine write what is in out, for who must not wait. Nobody else writes. The caller holds mu.
func (c *conn) writeAside() {
	c.writing = true
	go func() {
		c.mu.Lock()
		c.writeOut(-1)
	}()
}

// slowWindow is over what time the rate is looked at by which a client takes its answers.
const slowWindow = 60 * time.Second

// write writes b, and gives up if the client hardly takes any of it. Who writes is alone.
func (c *conn) write(b []byte) error {
	now := filter.Now()
	least := int64(slowWindow) + int64(len(b))*int64(time.Second)/int64(max(c.s.settings.Load().AnswerRate, 1))
	if by := now + least + least/2; c.writeBy.Load() < now+least {
		c.writeBy.Store(by)
		c.nc.SetWriteDeadline(filter.At(by)) //nolint:errcheck // a connection that is closed says so when it is written to
	}
	_, err := c.nc.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errSlow
	}
	return err
}

// goAway begins the end of the connection: requests that come are served for one more round trip, or a second. The caller
// holds mu.
func (c *conn) goAway() {
	if c.parts != staying || c.failed != nil {
		return
	}
	c.parts, c.partedAt = parting, filter.Now()
	c.out = appendGoAway(c.out, idMost, noError, "")
	c.out = appendPing(c.out, 0, roundTrip[:])
}

// leave tells the client what its last request is. Later ones are not looked at. The caller holds mu.
func (c *conn) leave() {
	c.parts, c.partedAt, c.urgent = leaving, filter.Now(), true
	c.out = appendGoAway(c.out, c.last, noError, "")
	if len(c.opened) == 0 {
		c.quit()
	}
}

// quit ends the connection once what is to be written is: the client is told that nothing follows, and closes it, or the
// watch does. The caller holds mu.
func (c *conn) quit() {
	if c.quitting || c.failed != nil {
		return
	}
	c.quitting = true
	go func() {
		c.mu.Lock()
		c.flush(false)
		c.mu.Lock()
		for c.writing && c.failed == nil {
			c.room.Wait()
		}
		c.fail(errDrained)
		c.saidAll = filter.Now()
		c.mu.Unlock()
		if half, ok := c.nc.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
			c.nc.Close() //nolint:errcheck // it is over
		}
	}()
}
