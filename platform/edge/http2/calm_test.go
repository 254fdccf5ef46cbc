package http2

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
	xhttp2 "golang.org/x/net/http2"
)

func TestWhoFloodsAConnectionIsToldToCalmDownAndCutOff(t *testing.T) {
	post := usual(field{Name: ":method", Value: "POST"})
	for _, tt := range []struct {
		name  string
		flood func(p *player)
		calm  bool
	}{
		{"rapid reset", func(p *player) {
			for i := range uint32(300) {
				p.ask(2*i+1, true, usual())
				p.fr.WriteRSTStream(2*i+1, xhttp2.ErrCodeCancel)
			}
		}, false},
		{"streams that the edge has to reset", func(p *player) {
			for i := range uint32(300) {
				p.ask(2*i+1, false, post)
				p.fr.WriteWindowUpdate(2*i+1, 0)
			}
		}, false},
		{"heads that are malformed", func(p *player) {
			for i := range uint32(300) {
				p.ask(2*i+1, true, usual(field{Name: "te", Value: "x"}))
			}
		}, false},
		{"CONTINUATION", func(p *player) {
			p.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: p.encode(usual())})
			for range 20 {
				p.fr.WriteContinuation(1, false, nil)
			}
		}, false},
		{"a head without end", func(p *player) {
			p.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: p.encode(usual())})
			for range 15 {
				p.fr.WriteContinuation(1, false, bytes.Repeat([]byte{0x82}, 16<<10))
			}
		}, false},
		{"PING", func(p *player) {
			for range 101 {
				p.fr.WritePing(false, [8]byte{})
			}
		}, false},
		{"SETTINGS", func(p *player) {
			for range 101 {
				p.fr.WriteSettings()
			}
		}, false},
		{"PRIORITY", func(p *player) {
			for i := range uint32(101) {
				p.fr.WritePriority(2*i+1, xhttp2.PriorityParam{StreamDep: 7777})
			}
		}, false},
		{"WINDOW_UPDATE", func(p *player) {
			for range 2001 {
				p.fr.WriteWindowUpdate(0, 1)
			}
		}, false},
		{"empty DATA", func(p *player) {
			p.ask(1, false, post)
			for range 101 {
				p.fr.WriteData(1, false, nil)
			}
		}, false},
		{"some of each", func(p *player) {
			p.ask(1, false, post)
			for i := range uint32(90) {
				p.fr.WriteData(1, false, nil)
				p.fr.WritePing(false, [8]byte{})
				p.fr.WriteSettings()
				p.fr.WritePriority(2*i+1, xhttp2.PriorityParam{StreamDep: 7777})
				p.fr.WriteWindowUpdate(0, 1)
			}
			for i := range uint32(90) {
				p.ask(2*i+3, false, post)
				p.fr.WriteRSTStream(2*i+3, xhttp2.ErrCodeCancel)
			}
			p.fr.WriteData(1, true, nil)
		}, true},
	} {
		// In a bubble a flood takes no time, however slow the machine: what counts by the second counts all of it.
		bubble(t, Config{Serve: func(x *filter.Exchange) {
			if x.Request.Body != nil {
				io.Copy(io.Discard, x.Request.Body)
			}
			x.Answer(200, "")
		}}, func(_ *Server, p *player) {
			go tt.flood(p)
			r := &player{t: t, nc: p.nc, fr: xhttp2.NewFramer(io.Discard, p.nc), dec: p.dec} // for the flood writes
			got := result{}
			for id := uint32(1); ; id = 0 {
				if got = r.await(id); got.closed || got.went || id == 1 && tt.calm {
					break
				}
			}
			if tt.calm && got.status != "200" || !tt.calm && got.goAway != xhttp2.ErrCodeEnhanceYourCalm {
				t.Errorf("%s: got %v, want calm: %v", tt.name, got, tt.calm)
			}
		})
	}
}

func TestWhatIsBeyondTheStreamsOfAConnectionIsRefusedAndMayBeAskedAgain(t *testing.T) {
	release := make(chan struct{})
	addr, _ := front(t, Config{Serve: func(x *filter.Exchange) {
		<-release
		x.Answer(200, "")
	}})
	p := play(t, addr)
	for i := range uint32(101) {
		p.ask(2*i+1, true, usual())
	}
	if got := p.await(201); got.String() != "RST REFUSED_STREAM" {
		t.Errorf("the 101st of 100 streams got %v, want it refused", got)
	}
	close(release)
	if got := p.await(1); got.String() != "200" {
		t.Errorf("the first one got %v", got)
	}
}

// bubble serves one connection within a bubble of synctest.
func bubble(t *testing.T, c Config, client func(s *Server, p *player)) {
	synctest.Test(t, func(t *testing.T) {
		c.Log = slog.New(slog.DiscardHandler)
		s := NewServer(c)
		near, far := pipe()
		var all sync.WaitGroup
		all.Go(func() { s.ServeConn(far, &filter.Client{}, nil) })
		p := playOn(t, near)
		client(s, p)
		near.Close()
		time.Sleep(time.Minute) // who writes still finds it closed
		all.Wait()
		s.Drain(context.Background())
	})
}

// body answers with the request's.
func body(x *filter.Exchange) {
	b, err := io.ReadAll(x.Request.Body)
	if err != nil {
		x.Answer(400, err.Error())
		return
	}
	x.Answer(200, string(b))
}

func TestWhatTakesTooLongIsCutOff(t *testing.T) {
	post := usual(field{Name: ":method", Value: "POST"})
	endless := func(x *filter.Exchange) {
		x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, -1, io.NopCloser(zeros{})
	}
	for _, tt := range []struct {
		name   string
		serve  func(x *filter.Exchange)
		client func(p *player) string
		want   string
		from   time.Duration
		to     time.Duration
	}{
		{"a connection that says nothing more", body, func(p *player) string { r := p.await(1); return r.goAway.String() }, "NO_ERROR", 65 * time.Second, 70 * time.Second},
		{"a head that does not end", body, func(p *player) string {
			p.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: p.encode(usual())})
			return p.end()
		}, "closed", 10 * time.Second, 12 * time.Second},
		{"a body that pauses", body, func(p *player) string {
			p.ask(1, false, post)
			p.fr.WriteData(1, false, []byte("he"))
			return p.await(1).String()
		}, "408", 5 * time.Second, 7 * time.Second},
		{"a body that trickles", body, func(p *player) string {
			p.ask(1, false, post)
			go func() {
				for range 30 {
					p.fr.WriteData(1, false, []byte("0123456789"))
					time.Sleep(time.Second)
				}
			}()
			r := &player{t: p.t, nc: p.nc, fr: xhttp2.NewFramer(io.Discard, p.nc), dec: p.dec}
			return r.await(1).String()
		}, "408", 14 * time.Second, 18 * time.Second},
		{"a window that is not opened", endless, func(p *player) string {
			p.ask(1, true, usual())
			return p.await(1).String()
		}, "RST CANCEL", 60 * time.Second, 63 * time.Second},
		{"a client that does not answer pings", func(x *filter.Exchange) {
			done := make(chan struct{})
			stop := func() { close(done) }
			x.Waiter.Wait(&stop)
			<-done
		}, func(p *player) string {
			p.ask(1, true, usual())
			return p.end()
		}, "closed", 75 * time.Second, 78 * time.Second},
	} {
		bubble(t, Config{Serve: tt.serve}, func(_ *Server, p *player) {
			began := time.Now()
			got := tt.client(p)
			if took := time.Since(began); got != tt.want || took < tt.from || took > tt.to {
				t.Errorf("%s: got %s after %v, want %s after %v to %v", tt.name, got, took, tt.want, tt.from, tt.to)
			}
		})
	}
}

// end says nothing and reads until the connection is closed.
func (p *player) end() string {
	for {
		if _, err := p.fr.ReadFrame(); err != nil {
			return "closed"
		}
	}
}

func TestAConversationMayPause(t *testing.T) {
	for _, tt := range []struct {
		name  string
		kind  string
		begun bool
	}{{"gRPC", "application/grpc", false}, {"a body behind the beginning of the answer", "text/plain", true}} {
		bubble(t, Config{Serve: func(x *filter.Exchange) {
			if tt.begun {
				x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, -1, io.NopCloser(x.Request.Body)
				return
			}
			body(x)
		}}, func(_ *Server, p *player) {
			p.ask(1, false, usual(field{Name: ":method", Value: "POST"}, field{Name: "content-type", Value: tt.kind}))
			r := &player{t: p.t, nc: p.nc, fr: xhttp2.NewFramer(io.Discard, p.nc), dec: p.dec}
			time.AfterFunc(40*time.Second, func() { p.fr.WriteData(1, true, []byte("hello")) })
			if got := r.await(1); got.String() != "200" || string(got.body) != "hello" {
				t.Errorf("%s: after 40 s got %v %q, want 200 and hello", tt.name, got, got.body)
			}
		})
	}
}

type zeros struct{}

// Read never ends.
func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestPingsSpreadOverTimeAreNoFlood(t *testing.T) {
	bubble(t, Config{Serve: mirror}, func(_ *Server, p *player) {
		go func() {
			for range 1000 {
				p.fr.WritePing(false, [8]byte{})
				time.Sleep(20 * time.Millisecond)
			}
			p.ask(1, true, usual())
		}()
		r := &player{t: t, nc: p.nc, fr: xhttp2.NewFramer(io.Discard, p.nc), dec: p.dec}
		if got := r.await(1); got.String() != "200" {
			t.Errorf("got %v", got)
		}
	})
}

func TestAConnectionEndsAfterItsRequestsAndNoneIsLost(t *testing.T) {
	bubble(t, Config{Serve: mirror, Settings: http1.Settings{Requests: 3}}, func(_ *Server, p *player) {
		for id := uint32(1); id <= 7; id += 2 { // the fourth was sent before the client could know
			p.ask(id, true, usual())
		}
		for id := uint32(1); id <= 7; id += 2 {
			got := p.await(id)
			if got.String() != "200" {
				t.Errorf("stream %d got %v", id, got)
			}
		}
		if got := p.await(99); !got.closed {
			t.Errorf("the connection: got %v, want it closed", got)
		}
	})
}

func TestDrainTellsTheLastRequestAndServesIt(t *testing.T) {
	release, begun := make(chan struct{}), make(chan struct{}, 8)
	bubble(t, Config{Serve: func(x *filter.Exchange) { begun <- struct{}{}; <-release; x.Answer(200, "") }}, func(s *Server, p *player) {
		p.ask(1, true, usual())
		<-begun
		drained := make(chan struct{})
		go func() { s.Drain(context.Background()); close(drained) }()
		var lasts []uint32
		for len(lasts) < 2 {
			f, err := p.fr.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			switch f := f.(type) {
			case *xhttp2.GoAwayFrame:
				if lasts = append(lasts, f.LastStreamID); len(lasts) == 1 {
					p.ask(3, true, usual()) // it does not know the last one yet
				}
			case *xhttp2.PingFrame:
				p.fr.WritePing(true, f.Data)
			}
		}
		if lasts[0] != 1<<31-1 || lasts[1] != 3 {
			t.Errorf("the last streams told are %v, want 2147483647 and 3", lasts)
		}
		close(release)
		for _, id := range []uint32{1, 3} {
			if got := p.await(id); got.String() != "200" {
				t.Errorf("stream %d got %v", id, got)
			}
		}
		if got := p.await(99); !got.closed {
			t.Errorf("got %v, want the connection closed", got)
		}
		p.nc.Close()
		<-drained
	})
}

func TestDrainCutsOffWhatDoesNotEnd(t *testing.T) {
	var done told
	begun := make(chan struct{})
	bubble(t, Config{Finished: done.finished, Serve: func(x *filter.Exchange) {
		close(begun)
		gone := make(chan struct{})
		stop := func() { close(gone) }
		x.Waiter.Wait(&stop)
		<-gone
		x.Answer(200, "")
	}}, func(s *Server, p *player) {
		go func() {
			for {
				if _, err := p.fr.ReadFrame(); err != nil {
					return
				}
			}
		}()
		p.ask(1, true, usual())
		<-begun
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := s.Drain(ctx); err == nil {
			t.Error("Drain has nothing to say")
		}
		if got := done.wait(1); !strings.Contains(got[0], "FAILURE_CLIENT_CANCELLED") {
			t.Errorf("finished: %q", got)
		}
	})
}

// pipe returns both ends of a connection that holds what is written, as one of TCP does; net.Pipe's holds nothing.
func pipe() (a, b net.Conn) {
	x, y := newHalf(), newHalf()
	return &end{in: x, out: y}, &end{in: y, out: x}
}

type half struct {
	mu     sync.Mutex
	cond   *sync.Cond
	b      bytes.Buffer
	closed bool
}

func newHalf() *half {
	h := &half{}
	h.cond = sync.NewCond(&h.mu)
	return h
}

type end struct {
	net.Conn
	in, out *half
}

func (e *end) Read(p []byte) (int, error) {
	h := e.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.b.Len() == 0 && !h.closed {
		h.cond.Wait()
	}
	if h.b.Len() == 0 {
		return 0, io.EOF
	}
	return h.b.Read(p)
}

func (e *end) Write(p []byte) (int, error) {
	h := e.out
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return 0, net.ErrClosed
	}
	h.cond.Broadcast()
	return h.b.Write(p)
}

func (e *end) Close() error {
	for _, h := range []*half{e.in, e.out} {
		h.mu.Lock()
		h.closed = true
		h.cond.Broadcast()
		h.mu.Unlock()
	}
	return nil
}

func (e *end) SetReadDeadline(time.Time) error  { return nil }
func (e *end) SetWriteDeadline(time.Time) error { return nil }
func (e *end) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (e *end) LocalAddr() net.Addr              { return &net.TCPAddr{} }
