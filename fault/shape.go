package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Shape is what an [Action] does to a body: cut it off, alter bytes of it, slow it down. The zero Shape does nothing.
type Shape struct {
	cuts    bool    // at limit, or at share if limit < 0
	limit   int64   // bytes
	share   float64 // percent
	corrupt int64   // bytes to alter
	rate    int64   // bytes per second; 0 = as fast as it goes
	lease   lease   // once it is over the rest passes as it is
}

// IsZero reports whether bodies pass as they are.
func (s Shape) IsZero() bool { return s == Shape{} }

// add takes on what r asks. Of several rules the harder one counts.
func (s *Shape) add(r *Rule) {
	switch r.action {
	case partial:
		if !s.cuts {
			s.cuts, s.limit, s.share = true, -1, 100
		}
		switch {
		case r.share >= 0:
			s.share = min(s.share, r.share)
		case s.limit < 0 || r.size < s.limit:
			s.limit = r.size
		}
	case corrupt:
		s.corrupt += r.size
	case slow:
		if s.rate == 0 || r.size < s.rate {
			s.rate = r.size
		}
	}
}

// ErrCut is what a [Shape]'s writer returns once the body is cut off, and what is told to cut the connection. A reader
// gives io.ErrUnexpectedEOF, as from a connection that broke.
var ErrCut = fmt.Errorf("%w: the body was cut off", ErrInjected)

const (
	maxHeld = 1 << 20 // bytes of a body of unknown length held back, so that a share of it can be let through
	spread  = 16      // of a body of unknown length, one byte in so many is altered
)

// bender passes a body on, piece by piece.
type bender struct {
	shape   Shape
	length  int64 // of the body; -1 = not known
	pass    int64 // bytes that may pass; -1 = decided by share
	seen    int64 // that came in
	passed  int64 // that came out
	altered int64
	held    []byte // came in, may not pass yet; only while pass is -1
	due     time.Time
}

func (s Shape) bender(length int64) bender {
	b := bender{shape: s, length: length, pass: 1<<63 - 1}
	if s.cuts {
		if s.limit >= 0 {
			b.pass = s.limit
		}
		if s.share < 100 {
			switch {
			case length >= 0:
				b.pass = min(b.pass, int64(float64(length)*s.share/100))
			case s.limit < 0:
				b.pass = -1
			}
		}
	}
	return b
}

// bend takes the next bytes in and returns those that may go out; it alters p. cut tells that nothing more may.
func (b *bender) bend(p []byte) (out []byte, cut bool) {
	if b.shape.lease.over() {
		out = append(b.held, p...)
		b.shape, b.held, b.pass = Shape{}, nil, 1<<63-1
		return out, false
	}
	for i := range p {
		if b.altersAt(b.seen + int64(i)) {
			p[i] ^= 0xff
			b.altered++
		}
	}
	b.seen += int64(len(p))
	if b.pass < 0 {
		b.held = append(b.held, p...)
		n := int64(float64(b.seen)*b.shape.share/100) - b.passed
		out, b.held = b.held[:n:n], b.held[n:]
		b.passed += n
		return out, len(b.held) > maxHeld
	}
	n := min(int64(len(p)), b.pass-b.passed)
	b.passed += n
	return p[:n], b.passed == b.pass && (b.seen > b.pass || b.pass < b.length)
}

// altersAt reports whether the byte at that place is altered: spread evenly over a body of known length.
func (b *bender) altersAt(at int64) bool {
	if b.altered >= b.shape.corrupt {
		return false
	}
	step := int64(spread)
	if b.length > 0 {
		step = max(1, b.length/b.shape.corrupt)
	}
	return at%step == 0
}

// short reports whether a body that has come to its end was held back in part.
func (b *bender) short() bool { return b.pass < 0 && b.seen > 0 }

// piece returns how many bytes may pass at once so that the body flows: a twentieth of a second's.
func (b *bender) piece(n int) int {
	if b.shape.rate == 0 {
		return n
	}
	return min(n, int(max(1, b.shape.rate/20)))
}

// pace waits until n more bytes may have passed.
func (b *bender) pace(ctx context.Context, n int) error {
	if b.shape.rate == 0 || n == 0 {
		return nil
	}
	now := time.Now()
	if b.due.IsZero() {
		b.due = now
	}
	b.due = b.due.Add(time.Duration(float64(n) / float64(b.shape.rate) * float64(time.Second)))
	t := time.NewTimer(b.due.Sub(now))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-b.shape.lease.stop:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: a slowed body: %w", ErrInjected, ctx.Err())
	}
}

// Reader returns a body that reads as the shape says. length is the body's, -1 if it is not known: then the share of a
// partial body is exact up to 1 MiB held back, and bytes to alter are the first of each sixteen. Where the body is cut
// off Read returns io.ErrUnexpectedEOF. Slowing ends with ctx.
func (s Shape) Reader(ctx context.Context, body io.ReadCloser, length int64) io.ReadCloser {
	return &bentReader{ctx: ctx, inner: body, bender: s.bender(length)}
}

type bentReader struct {
	ctx   context.Context
	inner io.ReadCloser
	bender
	ready []byte // to be read before anything else; not paced yet
	err   error  // after it
}

// Read reads on.
func (r *bentReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.ready) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		buf := make([]byte, min(len(p), 32<<10))
		n, err := r.inner.Read(buf)
		out, cut := r.bend(buf[:n])
		if cut || err == io.EOF && r.short() {
			err = io.ErrUnexpectedEOF
		}
		r.ready, r.err = out, err
	}
	n := copy(p[:r.piece(len(p))], r.ready)
	r.ready = r.ready[n:]
	if err := r.pace(r.ctx, n); err != nil {
		r.ready, r.err = nil, err
		return 0, err
	}
	return n, nil
}

// Close closes the body.
func (r *bentReader) Close() error {
	if r.err == nil {
		r.err = errors.New("fault: read of a closed body")
	}
	return r.inner.Close()
}

// Writer passes what is written on to w as the shape says. length is as for [Shape.Reader]; flush sends on what w holds,
// and may be nil.
func (s Shape) Writer(ctx context.Context, w io.Writer, length int64, flush func()) *Writer {
	if flush == nil {
		flush = func() {}
	}
	return &Writer{ctx: ctx, w: w, flush: flush, bender: s.bender(length)}
}

// Writer is what [Shape.Writer] returns. It is for one goroutine, as an http.ResponseWriter is.
type Writer struct {
	ctx   context.Context
	w     io.Writer
	flush func()
	bender
	cut bool
}

// Write writes on. Once the body is cut off it fails with [ErrCut].
func (w *Writer) Write(p []byte) (int, error) {
	if w.cut {
		return 0, ErrCut
	}
	out, cut := w.bend(append([]byte(nil), p...))
	for len(out) > 0 {
		n := w.piece(len(out))
		if err := w.pace(w.ctx, n); err != nil {
			return 0, err
		}
		if _, err := w.w.Write(out[:n]); err != nil {
			return 0, err
		}
		if out = out[n:]; w.shape.rate > 0 {
			w.flush()
		}
	}
	if cut {
		w.cut = true
		w.flush()
		return 0, ErrCut
	}
	return len(p), nil
}

// Cut tells whether the body was cut off, once all is written: the connection must end without a proper end of the body.
func (w *Writer) Cut() bool {
	if !w.cut && w.short() {
		w.cut = true
		w.flush()
	}
	return w.cut
}
