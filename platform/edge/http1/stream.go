package http1

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// bufferSize is what a connection reads into while a message is under way. Idle ones hold none.
const bufferSize = 16 << 10

// minSpace is the least room worth reading into.
const minSpace = 2 << 10

// How a body's end is told.
const (
	noBody = iota
	byLength
	byChunks
	byClose
)

// stream is the bytes that come from a connection: a buffer, in which heads are parsed where they lie, and the body that
// follows one, which it reads as an io.Reader. What lies before base is in use, by the strings of the head.
type stream struct {
	s          *sock
	buf        []byte
	start, end int // what came and was not looked at yet: buf[start:end]
	base       int

	mode    uint8
	left    int64
	chunks  chunks
	trailer *filter.Header
	ready   []byte // of the body, in buf: what can be had without waiting
	err     error  // io.EOF: the body's end was seen
	count   int64  // bytes of the body that came

	idle   time.Duration // between bytes of the body, at most
	rate   int           // bytes a second that the sender must keep up; 0: any
	open   *atomic.Bool  // the answer has begun, and the body may take as long as that; nil: it never does
	waited time.Duration // for bytes of the body
	came   int64         // bytes that were waited for, since the window began
	window time.Duration
}

// room makes space in buf, without moving what lies before base.
func (t *stream) room() {
	if t.start == t.end {
		t.start, t.end = t.base, t.base
	}
	if len(t.buf)-t.end >= minSpace {
		return
	}
	if t.start > t.base && len(t.buf)-(t.base+t.end-t.start) >= minSpace {
		copy(t.buf[t.base:], t.buf[t.start:t.end])
	} else {
		// The old one stays where it is, for what is in use in it.
		bigger := make([]byte, 2*len(t.buf))
		copy(bigger, t.buf[t.start:t.end])
		t.buf, t.base = bigger, 0
		t.end, t.start = t.end-t.start, 0
		t.moved()
		return
	}
	t.end, t.start = t.base+t.end-t.start, t.base
	t.moved()
}

// moved is called when bytes that were not taken yet have moved: those of trailers are read again.
func (t *stream) moved() {
	if t.mode == byChunks && t.chunks.part == trailers {
		t.chunks.tail.reset(t.chunks.rules)
		t.chunks.tail.part = atFields
		t.trailer.Reset()
	}
}

// begin has the body that follows a head read as mode says; what came of it is ready at once. Chunks that came whole are put
// together where they lie. An error is kept for Read.
func (t *stream) begin(mode uint8, length int64, rules *Rules, trailer *filter.Header) {
	t.mode, t.left, t.err, t.ready, t.count = mode, length, nil, nil, 0
	t.waited, t.came, t.window, t.open = 0, 0, 0, nil
	t.base, t.trailer = t.start, trailer
	switch mode {
	case noBody:
		t.err = io.EOF
	case byLength:
		n := int(min(t.left, int64(t.end-t.start)))
		t.ready = t.buf[t.start : t.start+n]
		t.start += n
		t.left -= int64(n)
	case byChunks:
		t.chunks.reset(rules)
		to := t.start
		for t.err == nil && t.start < t.end {
			n, data, r := t.chunks.next(t.buf[t.start:t.end], trailer)
			to += copy(t.buf[to:], data)
			t.start += n
			if t.chunks.part == ended {
				t.err = io.EOF
			} else if r != nil {
				t.err = r
			} else if n == 0 {
				break
			}
		}
		t.ready = t.buf[t.base:to]
		t.base = to
	case byClose:
		t.ready = t.buf[t.start:t.end]
		t.start = t.end
	}
	if mode == byLength && t.left == 0 {
		t.err = io.EOF
	}
	if mode != byChunks {
		t.base = t.start
	}
	t.count = int64(len(t.ready))
}

// whole reports whether all of the body is ready.
func (t *stream) whole() bool { return t.err == io.EOF }

// Buffered returns what can be had without waiting.
func (t *stream) Buffered() []byte { return t.ready }

// Read reads on in the body. The error is a Refusal if it breaks a rule, io.ErrUnexpectedEOF if it broke off.
func (t *stream) Read(p []byte) (int, error) {
	for {
		if len(t.ready) > 0 {
			n := copy(p, t.ready)
			t.ready = t.ready[n:]
			return n, nil
		}
		if t.err != nil {
			return 0, t.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, err := t.more(p)
		if err != nil {
			t.err = err
		}
		t.count += int64(n + len(t.ready))
		if n > 0 {
			return n, nil
		}
	}
}

// more reads from the connection: into p if it can, else it makes some of it ready.
func (t *stream) more(p []byte) (int, error) {
	switch t.mode {
	case byLength:
		if int64(len(p)) > t.left {
			p = p[:t.left]
		}
		n, err := t.wait(p)
		if t.left -= int64(n); t.left == 0 {
			err = io.EOF
		} else if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	case byClose:
		return t.wait(p)
	}
	if t.chunks.part == data && t.start == t.end && t.chunks.left >= int64(len(p)) {
		n, err := t.wait(p)
		if t.chunks.left -= int64(n); t.chunks.left == 0 {
			t.chunks.part = dataCR
		}
		return n, noEOF(err)
	}
	for {
		for t.start < t.end {
			n, data, r := t.chunks.next(t.buf[t.start:t.end], t.trailer)
			t.start += n
			t.ready = data
			if t.chunks.part == ended {
				return 0, io.EOF
			}
			if r != nil {
				return 0, r
			}
			if len(data) > 0 {
				return 0, nil
			}
			if n == 0 {
				break
			}
		}
		t.room()
		n, err := t.wait(t.buf[t.end:])
		t.end += n
		if err != nil {
			return 0, noEOF(err)
		}
	}
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Of a body that must keep up a rate, the first seconds are not looked at, then each window is.
const (
	rateGrace  = 5 * time.Second
	rateWindow = 10 * time.Second
)

// wait reads from the connection, within the time allowed between bytes. Only waiting counts against a slow sender: while
// nobody asks for more it cannot be late, nor can it once it is answered: the two may be talking.
func (t *stream) wait(p []byte) (int, error) {
	if t.open == nil {
		return t.waitFor(p)
	}
	if !t.open.Load() {
		n, err := t.waitFor(p)
		if late := err == error(slowBody) || errors.Is(err, os.ErrDeadlineExceeded); !late || !t.open.Load() {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
	t.idle, t.rate = 0, 0
	return t.waitFor(p)
}

func (t *stream) waitFor(p []byte) (int, error) {
	if t.rate == 0 {
		return t.s.read(p, t.idle)
	}
	before := filter.Now()
	n, err := t.s.read(p, t.idle)
	took := time.Duration(filter.Now() - before)
	t.waited += took
	if t.waited > rateGrace {
		t.window += took
		t.came += int64(n)
		if t.window >= rateWindow {
			if t.came < int64(t.window/time.Second)*int64(t.rate) {
				return n, slowBody
			}
			t.window, t.came = 0, 0
		}
	}
	return n, err
}
