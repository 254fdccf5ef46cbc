package origin

import (
	"encoding/base64"
	"encoding/binary"
	"io"
	"strings"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// web is how a browser speaks gRPC: in frames as gRPC's own, with the trailers as one more frame, and in base64 as text.
// It is translated to and from gRPC. Source: gRPC-Web, "Protocol differences vs gRPC over HTTP2".
type web uint8

const (
	noWeb web = iota
	webBinary
	webText
)

const (
	grpcType    = "application/grpc"
	webType     = "application/grpc-web"
	webTextType = "application/grpc-web-text"
	trailerBit  = 0x80 // of a frame's first byte: it holds trailers
)

// isGRPC reports whether a content type is gRPC's own.
func isGRPC(kind string) bool {
	return strings.HasPrefix(kind, grpcType) && !strings.HasPrefix(kind, webType)
}

func webOf(kind string) web {
	switch {
	case strings.HasPrefix(kind, webTextType):
		return webText
	case strings.HasPrefix(kind, webType):
		return webBinary
	}
	return noWeb
}

// format returns the part of a content type that names the messages' format, such as +proto.
func format(kind string) string {
	if i := strings.IndexByte(kind, '+'); i >= 0 {
		return kind[i:]
	}
	return ""
}

// translate makes the header of a request gRPC's.
func (w web) translate(h *filter.Header) {
	h.Set("Content-Type", grpcType+format(h.Get("Content-Type")))
	h.Set("TE", "trailers")
	h.Del("Accept")
	h.Del("X-Grpc-Web")
}

// decode returns a request's body as gRPC has it.
func (w web) decode(body io.Reader) io.Reader {
	if w != webText {
		return body
	}
	return &unpadded{r: body}
}

// unpadded decodes pieces of base64, each of which may be padded. It fails at what is no base64.
type unpadded struct {
	r    io.Reader
	in   []byte // not decoded yet: less than four characters, unless err is not nil
	out  []byte // decoded
	err  error
	inB  [4 << 10]byte
	outB [3 << 10]byte
}

// Read reads on.
func (u *unpadded) Read(p []byte) (int, error) {
	for len(u.out) == 0 {
		if u.err != nil {
			return 0, u.err
		}
		n := copy(u.inB[:], u.in)
		m, err := u.r.Read(u.inB[n:])
		u.in = u.inB[:n+m]
		whole := len(u.in) / 4 * 4
		size := 0
		for i := 0; i < whole; i += 4 {
			k, derr := base64.StdEncoding.Decode(u.outB[size:], u.in[i:i+4])
			if derr != nil {
				err, whole = derr, len(u.in)
				break
			}
			size += k
		}
		u.in, u.out = u.in[whole:], u.outB[:size]
		if err == io.EOF && len(u.in) > 0 {
			err = io.ErrUnexpectedEOF
		}
		u.err = err
	}
	n := copy(p, u.out)
	u.out = u.out[n:]
	return n, nil
}

// answer makes an answer of gRPC's one for a browser: trailers become the last frame of the body.
func (w web) answer(c *call) {
	r := &c.x.Response
	kind := webType
	if w == webText {
		kind = webTextType
	}
	if !isGRPC(r.Header.Get("Content-Type")) {
		return // no answer of gRPC's: a proxy's before the app, say
	}
	r.Header.Set("Content-Type", kind+format(r.Header.Get("Content-Type")))
	trailer := r.Trailer
	r.Trailer, r.ContentLength, r.Flush = nil, -1, true
	b := &webBody{text: w == webText, trailer: trailer}
	if r.Body == nil {
		b.inner = filter.Text("")
		if r.Header.Has("Grpc-Status") { // Trailers-Only: they are in the header, where browsers read them as well
			b.trailer = nil
		}
	} else {
		b.inner = r.Body
	}
	r.Body = b
}

// webBody is the body of an answer with its trailers as the last frame.
type webBody struct {
	inner   io.ReadCloser
	text    bool
	trailer *filter.Header
	ended   bool
	out     []byte // to be read
	err     error
}

// Read reads on.
func (b *webBody) Read(p []byte) (int, error) {
	for len(b.out) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		buf := buffers.Get().(*[32 << 10]byte)
		n, err := b.inner.Read(buf[:])
		raw := append([]byte(nil), buf[:n]...)
		buffers.Put(buf)
		if err == io.EOF && !b.ended {
			b.ended = true
			raw = append(raw, b.last()...)
		}
		if b.err = err; b.text {
			b.out = base64.StdEncoding.AppendEncode(nil, raw)
		} else {
			b.out = raw
		}
	}
	n := copy(p, b.out)
	b.out = b.out[n:]
	return n, nil
}

// last returns the frame of the trailers; nothing if there are none.
func (b *webBody) last() []byte {
	if b.trailer == nil {
		return nil
	}
	frame := make([]byte, 5)
	frame[0] = trailerBit
	for _, f := range b.trailer.Fields() {
		frame = append(append(append(append(frame, strings.ToLower(f.Name)...), ": "...), f.Value...), "\r\n"...)
	}
	binary.BigEndian.PutUint32(frame[1:], uint32(len(frame)-5))
	return frame
}

// Close gives the rest up.
func (b *webBody) Close() error { return b.inner.Close() }
