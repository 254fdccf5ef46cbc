package fault

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// shapeOf is what the rules do to a body.
func shapeOf(t testing.TB, actions ...string) Shape {
	t.Helper()
	a := mustParse(t, "e", "r", "server:x="+strings.Join(actions, ";server:x=")).At("server", "x")
	return a.Body
}

// through sends body through the shape both ways and returns what came out, which must be the same, and the reader's
// error.
func through(t testing.TB, s Shape, body string, length int64) (string, error) {
	t.Helper()
	got, err := io.ReadAll(iotest.OneByteReader(s.Reader(t.Context(), io.NopCloser(iotest.HalfReader(strings.NewReader(body))), length)))
	var out bytes.Buffer
	w := s.Writer(t.Context(), &out, length, nil)
	for i := 0; i < len(body); i += 3 {
		if _, werr := io.WriteString(w, body[i:min(i+3, len(body))]); werr != nil && !errors.Is(werr, ErrCut) {
			t.Fatalf("write: %v", werr)
		}
	}
	if cut := w.Cut(); cut != errors.Is(err, io.ErrUnexpectedEOF) || out.String() != string(got) {
		t.Errorf("shape %+v, body of %d bytes, length %d: the reader gives %q, %v; the writer %q, cut %v", s, len(body), length, got, err, out.String(), cut)
	}
	return string(got), err
}

func TestPartialCutsTheBodyOff(t *testing.T) {
	const body = "0123456789"
	for _, tc := range []struct {
		arg, want string
		cut       bool
	}{
		{"4", "0123", true}, {"0", "", true}, {"9", "012345678", true}, {"10", body, false}, {"11", body, false},
		{"50%", "01234", true}, {"0%", "", true}, {"99%", "012345678", true}, {"4.9%", "", true},
	} {
		for _, length := range []int64{10, -1} {
			got, err := through(t, shapeOf(t, "partial("+tc.arg+")"), body, length)
			if got != tc.want || errors.Is(err, io.ErrUnexpectedEOF) != tc.cut || !tc.cut && err != nil {
				t.Errorf("partial(%s), length %d: got %q, %v; want %q, cut %v", tc.arg, length, got, err, tc.want, tc.cut)
			}
		}
		if got, err := through(t, shapeOf(t, "partial("+tc.arg+")"), "", -1); got != "" || err != nil {
			t.Errorf("partial(%s) of an empty body: got %q, %v; want it as it is", tc.arg, got, err)
		}
	}
	if got, err := through(t, shapeOf(t, "partial(8)", "partial(50%)", "partial(30%)"), body, 10); got != "012" || err == nil {
		t.Errorf("the hardest of several: got %q, %v; want 012 and a cut", got, err)
	}
	long := strings.Repeat("x", 3<<20)
	if got, err := io.ReadAll(shapeOf(t, "partial(10%)").Reader(t.Context(), io.NopCloser(strings.NewReader(long)), -1)); !errors.Is(err, io.ErrUnexpectedEOF) || len(got) < 1<<16 || len(got) > len(long)/10 {
		t.Errorf("10%% of 3 MiB of unknown length: got %d bytes, %v; want at most a tenth, held back no more than 1 MiB", len(got), err)
	}
}

func TestCorruptAltersSoManyBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		body := rapid.StringN(0, 200, 400).Draw(rt, "body")
		n := rapid.IntRange(1, 500).Draw(rt, "n")
		length := int64(len(body))
		want := min(n, len(body))
		if rapid.Bool().Draw(rt, "unknown") {
			length, want = -1, min(n, (len(body)+15)/16)
		}
		s := Shape{corrupt: int64(n)}
		got, err := through(t, s, body, length)
		differ := 0
		for i := range min(len(body), len(got)) {
			if body[i] != got[i] {
				differ++
			}
		}
		if err != nil || len(got) != len(body) || differ != want {
			rt.Errorf("corrupt(%d) of %d bytes, length %d: %d differ, %v; want %d", n, len(body), length, differ, err, want)
		}
	})
}

func TestSlowLetsSoManyBytesThroughInASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := shapeOf(t, "slow(1000)")
		start := time.Now()
		if got, err := io.ReadAll(s.Reader(t.Context(), io.NopCloser(strings.NewReader(strings.Repeat("x", 2500))), -1)); err != nil || len(got) != 2500 {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		if d := time.Since(start); d != 2500*time.Millisecond {
			t.Errorf("2500 bytes read at 1000 a second took %s, want 2.5s", d)
		}
		start = time.Now()
		var flushed int
		w := s.Writer(t.Context(), io.Discard, -1, func() { flushed++ })
		if n, err := w.Write(make([]byte, 2500)); n != 2500 || err != nil || w.Cut() {
			t.Errorf("wrote %d, %v", n, err)
		}
		if d := time.Since(start); d != 2500*time.Millisecond || flushed != 50 {
			t.Errorf("2500 bytes written at 1000 a second took %s in %d pieces, want 2.5s in 50", d, flushed)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := io.ReadAll(s.Reader(ctx, io.NopCloser(strings.NewReader(strings.Repeat("x", 2500))), -1)); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrInjected) {
			t.Errorf("past the deadline: got %v, want that it was passed, by an injected fault", err)
		}
	})
}

func TestAShapedBodyIsClosedAndReadsNoMore(t *testing.T) {
	inner := &closable{Reader: strings.NewReader("0123456789")}
	b := shapeOf(t, "partial(5)").Reader(t.Context(), inner, 10)
	if err := b.Close(); err != nil || !inner.closed {
		t.Errorf("close: %v, the body is closed %v", err, inner.closed)
	}
	if n, err := b.Read(make([]byte, 4)); n != 0 || err == nil {
		t.Errorf("read after close: got %d, %v; want an error", n, err)
	}
	if n, err := b.Read(nil); n != 0 || err != nil {
		t.Errorf("read of nothing: got %d, %v", n, err)
	}
}

type closable struct {
	io.Reader
	closed bool
}

func (c *closable) Close() error { c.closed = true; return nil }
