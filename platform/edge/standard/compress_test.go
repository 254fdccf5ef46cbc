package standard

import (
	"bytes"
	"errors"
	"io"
	"math/rand"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"pgregory.net/rapid"
)

// unpack reads what one of the encodings holds.
func unpack(t require, encoding string, r io.Reader) string {
	var err error
	switch encoding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "br":
		r = brotli.NewReader(r)
	case "zstd":
		var d *zstd.Decoder
		d, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20)) // what browsers take at most; RFC 9659
		if err == nil {
			defer d.Close()
			r = d
		}
	default:
		t.Fatalf("encoding %q is none of ours", encoding)
	}
	if err != nil {
		t.Fatalf("%s: %v", encoding, err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", encoding, err)
	}
	return string(b)
}

type require interface{ Fatalf(string, ...any) }

func page(size int) string {
	return strings.Repeat("<p>Nothing will come of nothing.</p>\n", size/36+1)[:size]
}

// answers has the origin answer with a body of a type; length -1 has it come without one.
func (e *edge) answers(body, kind string, length int64, fields ...string) {
	e.origin = func(x *filter.Exchange) error {
		x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, length, io.NopCloser(strings.NewReader(body))
		x.Response.Header.Add("Content-Type", kind)
		for i := 0; i < len(fields); i += 2 {
			x.Response.Header.Add(fields[i], fields[i+1])
		}
		return nil
	}
}

func TestAnswersThatGainByItAreCompressed(t *testing.T) {
	for _, tt := range []struct {
		name, accept, kind string
		size               int
		fields             []string
		want               string // the encoding; empty: none
		varies             bool
	}{
		{"gzip", "gzip", "text/html; charset=utf-8", 5000, nil, "gzip", true},
		{"as browsers ask", "gzip, deflate, br, zstd", "text/html", 5000, nil, "zstd", true},
		{"brotli alone", "br", "application/json", 5000, nil, "br", true},
		{"rather gzip", "zstd;q=0.5, br;q=0.1, gzip", "TEXT/CSS", 5000, nil, "gzip", true},
		{"anything", "*", "text/css", 5000, nil, "zstd", true},
		{"anything but zstd", "*, zstd;q=0", "text/css", 5000, nil, "br", true},
		{"x-gzip", "x-gzip", "text/css", 5000, nil, "gzip", true},
		{"nothing", "", "text/html", 5000, nil, "", true},
		{"refused", "gzip;q=0, identity", "text/html", 5000, nil, "", true},
		{"deflate", "deflate", "text/html", 5000, nil, "", true},
		{"too small", "gzip", "text/html", 859, nil, "", false},
		{"just large enough", "gzip", "text/html", 860, nil, "gzip", true},
		{"a picture", "gzip", "image/png", 5000, nil, "", false},
		{"an event stream", "gzip", "text/event-stream", 5000, nil, "", false},
		{"gRPC", "gzip", "application/grpc", 5000, nil, "", false},
		{"no type", "gzip", "", 5000, nil, "", false},
		{"already", "gzip", "text/html", 5000, []string{"Content-Encoding", "br"}, "", false},
		{"not to be", "gzip", "text/html", 5000, []string{"Cache-Control", "public, no-transform"}, "", false},
		{"varies already", "gzip", "text/html", 5000, []string{"Vary", "accept-encoding"}, "gzip", true},
	} {
		e := newEdge(t)
		e.answers(page(tt.size), tt.kind, int64(tt.size), append(tt.fields, "Etag", `"v1"`, "Accept-Ranges", "bytes")...)
		x := get()
		if tt.accept != "" {
			x.Request.Header.Add("Accept-Encoding", tt.accept)
		}
		e.Run(x)
		h := &x.Response.Header
		if h.Contains("Vary", "Accept-Encoding") != tt.varies || h.Count("Vary") > 1 {
			t.Errorf("%s: Vary is %q", tt.name, h.Get("Vary"))
		}
		if tt.want == "" {
			if x.Response.ContentLength != int64(tt.size) || h.Get("Etag") != `"v1"` || text(t, x) != page(tt.size) {
				t.Errorf("%s: got %+v, want it as it was", tt.name, h.Fields())
			}
			continue
		}
		if h.Get("Content-Encoding") != tt.want || h.Get("Etag") != `W/"v1"` || h.Has("Accept-Ranges") || x.Response.ContentLength != -1 {
			t.Errorf("%s: got length %d and %+v, want %s", tt.name, x.Response.ContentLength, h.Fields(), tt.want)
			continue
		}
		if got := unpack(t, tt.want, x.Response.Body); got != page(tt.size) {
			t.Errorf("%s: came back as %d other bytes", tt.name, len(got))
		}
	}
}

func TestSomeAnswersAreNeverCompressed(t *testing.T) {
	for name, change := range map[string]func(*filter.Exchange){
		"HEAD":         func(x *filter.Exchange) { x.Request.Method = "HEAD" },
		"206":          func(x *filter.Exchange) { x.Response.Status = 206 },
		"304":          func(x *filter.Exchange) { x.Response.Status = 304 },
		"no body":      func(x *filter.Exchange) { x.Response.Body = nil },
		"trailers":     func(x *filter.Exchange) { x.Response.Trailer = &filter.Header{} },
		"switched off": nil,
	} {
		e := newEdge(t)
		if change == nil {
			e, change = newEdge(t, "zuul.response.gzip.filter.enabled", "false"), func(*filter.Exchange) {}
		}
		e.answers(page(5000), "text/html", 5000)
		inner := e.origin
		e.origin = func(x *filter.Exchange) error { err := inner(x); change(x); return err }
		if x := e.run(get("Accept-Encoding", "gzip")); x.Response.Header.Has("Content-Encoding") {
			t.Errorf("%s: compressed", name)
		}
	}
}

// An answer that is at hand as a whole is compressed at once, and has a length.
func TestAnAnswerAtHandHasALength(t *testing.T) {
	e := newEdge(t)
	e.origin = func(x *filter.Exchange) error { x.Answer(200, page(20000)); return nil }
	x := e.run(get("Accept-Encoding", "gzip"))
	b := x.Response.Body.(interface{ Buffered() []byte }).Buffered()
	if x.Response.ContentLength != int64(len(b)) || len(b) > 2000 || unpack(t, "gzip", x.Response.Body) != page(20000) {
		t.Errorf("got length %d, %d bytes at hand", x.Response.ContentLength, len(b))
	}
}

// pieces is a body that comes in the pieces given, each when it is read.
type pieces struct {
	left   []string
	err    error
	closed int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, p.err
	}
	n := copy(b, p.left[0])
	if p.left[0] = p.left[0][n:]; p.left[0] == "" {
		p.left = p.left[1:]
	}
	return n, nil
}

func (p *pieces) Close() error { p.closed++; return nil }

func TestABodyWithoutALengthFlowsAsItComes(t *testing.T) {
	for _, encoding := range []string{"gzip", "br", "zstd"} {
		body := &pieces{left: []string{"first ", "second ", "third"}, err: io.EOF}
		e := newEdge(t)
		e.origin = func(x *filter.Exchange) error {
			x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, -1, body
			x.Response.Header.Add("Content-Type", "text/plain")
			return nil
		}
		x := e.run(get("Accept-Encoding", encoding))
		var got bytes.Buffer
		buf := make([]byte, 1024)
		for i := range 3 {
			n, err := x.Response.Body.Read(buf)
			if err != nil || n == 0 || len(body.left) != 2-i {
				t.Fatalf("%s: read %d: %d bytes, %v, %d pieces left; want some of each piece before the next is asked for", encoding, i, n, err, len(body.left))
			}
			got.Write(buf[:n])
		}
		rest, err := io.ReadAll(x.Response.Body)
		if err != nil {
			t.Fatal(err)
		}
		got.Write(rest)
		if s := unpack(t, encoding, &got); s != "first second third" {
			t.Errorf("%s: came back as %q", encoding, s)
		}
		first := x.Response.Body
		first.Close()
		first.Close() // an engine and the exchange's end may both close it
		if body.closed != 1 {
			t.Errorf("%s: closed %d times, want once", encoding, body.closed)
		}
		if _, err := first.Read(buf); err == nil {
			t.Errorf("%s: a closed body is read", encoding)
		}
	}
}

func TestABodyThatBreaksOffLooksBrokenOff(t *testing.T) {
	body := &pieces{left: []string{page(100)}, err: errors.New("reset")}
	e := newEdge(t)
	e.origin = func(x *filter.Exchange) error {
		x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, -1, body
		x.Response.Header.Add("Content-Type", "text/plain")
		return nil
	}
	x := e.run(get("Accept-Encoding", "gzip"))
	if _, err := io.ReadAll(x.Response.Body); err == nil || err.Error() != "reset" {
		t.Errorf("got %v, want the origin's reset", err)
	}
}

func TestWhatIsCompressedComesBackAsItWas(t *testing.T) {
	e := newEdge(t)
	rapid.Check(t, func(t *rapid.T) {
		encoding := rapid.SampledFrom([]string{"gzip", "br", "zstd"}).Draw(t, "encoding")
		r := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
		var whole strings.Builder
		body := &pieces{err: io.EOF}
		for range rapid.IntRange(1, 6).Draw(t, "pieces") {
			b := make([]byte, rapid.IntRange(1, 70000).Draw(t, "size"))
			for i := range b {
				b[i] = "abcdefgh"[r.Intn(8)]
			}
			whole.Write(b)
			body.left = append(body.left, string(b))
		}
		length := int64(-1)
		if rapid.Bool().Draw(t, "length known") && whole.Len() >= 860 {
			length = int64(whole.Len())
		}
		e.origin = func(x *filter.Exchange) error {
			x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, length, body
			x.Response.Header.Add("Content-Type", "text/plain")
			return nil
		}
		x := e.run(get("Accept-Encoding", encoding))
		if got := unpack(t, encoding, x.Response.Body); got != whole.String() {
			t.Fatalf("%d bytes came back as %d others", whole.Len(), len(got))
		}
		x.End()
		if x.Response.Body != nil || body.closed != 1 {
			t.Fatalf("closed %d times", body.closed)
		}
	})
}

func BenchmarkCompress(b *testing.B) {
	for _, encoding := range []string{"gzip", "br", "zstd"} {
		b.Run(encoding, func(b *testing.B) {
			e := newEdge(b)
			text := page(20000)
			e.origin = func(x *filter.Exchange) error { x.Answer(200, text); return nil }
			var x filter.Exchange
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				x.Reset()
				usual(&x)
				x.Request.Header.Add("Accept-Encoding", encoding)
				e.Run(&x)
				x.End()
			}
		})
	}
}
