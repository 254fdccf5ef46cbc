package http2

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/hammer"
	xhttp2 "golang.org/x/net/http2"
)

// script is a connection whose client says what it has been told to, in pieces, and takes everything.
type script struct {
	net.Conn
	in    io.Reader
	piece int
	mu    sync.Mutex
	out   bytes.Buffer // guarded by mu
}

func (s *script) Read(p []byte) (int, error) { return s.in.Read(p[:min(len(p), s.piece)]) }
func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}
func (s *script) Close() error                     { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// frameSeeds are connections that are right, and some that are not.
func frameSeeds() (all [][]byte) {
	seed := func(write func(fr *xhttp2.Framer, p *player)) {
		var b bytes.Buffer
		fr := xhttp2.NewFramer(&b, nil)
		fr.AllowIllegalWrites = true
		p := &player{fr: fr}
		p.start()
		fr.WriteSettings()
		write(fr, p)
		all = append(all, b.Bytes())
	}
	seed(func(fr *xhttp2.Framer, p *player) { p.ask(1, true, usual()) })
	seed(func(fr *xhttp2.Framer, p *player) {
		p.ask(1, false, usual(field{Name: ":method", Value: "POST"}))
		fr.WriteDataPadded(1, false, []byte("hello"), make([]byte, 7))
		p.ask(1, true, []field{{Name: "x-t", Value: "1"}})
		fr.WritePing(false, [8]byte{1})
		fr.WriteRSTStream(1, xhttp2.ErrCodeCancel)
		fr.WriteWindowUpdate(0, 77)
		fr.WriteGoAway(0, 0, nil)
	})
	seed(func(fr *xhttp2.Framer, p *player) {
		fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: p.encode(usual())[:4], Priority: xhttp2.PriorityParam{StreamDep: 3}})
		fr.WriteContinuation(1, true, p.encode(usual())[4:])
		fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1}, xhttp2.Setting{ID: xhttp2.SettingHeaderTableSize, Val: 0})
	})
	return all
}

// FuzzFrames has anything follow the preface. Whatever that is, the connection ends, its requests are over, and what is written
// are frames that fit.
func FuzzFrames(f *testing.F) {
	for _, in := range frameSeeds() {
		f.Add(in, uint8(255))
		f.Add(in, uint8(1))
	}
	s := frameServer(f)
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) { tryFrames(t, s, in, piece) })
}

// Connections that are nearly right, fields packed by HPACK among them, are served or ended, and what is written is frames;
// see package hammer.
func TestHammer(t *testing.T) {
	s := frameServer(t)
	n := 0
	hammer.Run(t, frameSeeds(), []string{"\x00\x00\x00\x04\x00\x00\x00\x00\x00", "\x82", "\x86", "\x84", "\x41", "\x3f\xe1\x1f", "\x20", "\x40\x01a\x01b", "\x10\x01:\x01b", "\x00\x85\xff\xff\xff\xff\xff", "\xff\xff\xff\xff\x0f"}, func(t *testing.T, in []byte) bool {
		n++
		return tryFrames(t, s, in, uint8(n))
	})
}

func frameServer(t testing.TB) (s *Server) {
	s = NewServer(Config{Log: slog.New(slog.DiscardHandler), Serve: func(x *filter.Exchange) {
		if x.Request.Body != nil {
			io.Copy(io.Discard, x.Request.Body)
		}
		x.Answer(200, x.Request.Path)
	}})
	t.Cleanup(func() { s.Drain(context.Background()) })
	return s
}

// tryFrames serves a connection on which in comes behind the preface, in pieces, and reads what is written.
func tryFrames(t *testing.T, s *Server, in []byte, piece uint8) (accepted bool) {
	accepted = true
	c := &script{in: io.MultiReader(bytes.NewReader([]byte(preface)), bytes.NewReader(in)), piece: int(piece) + 1}
	s.ServeConn(c, &filter.Client{}, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	for b := c.out.Bytes(); len(b) > 0; {
		if len(b) < frameHead {
			t.Fatalf("what was written ends in % x", b)
		}
		fr := readFrame(b)
		accepted = accepted && fr.kind != 3 && fr.kind != 7 // RST_STREAM and GOAWAY
		if fr.length > frameMost || frameHead+fr.length > len(b) {
			t.Fatalf("a frame of %d bytes was written", fr.length)
		}
		b = b[frameHead+fr.length:]
	}
	return accepted
}
