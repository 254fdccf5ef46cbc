package http2

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	xhttp2 "golang.org/x/net/http2"
)

// held is a body of some bytes whose end is held back.
type held struct {
	some    io.Reader
	release chan struct{}
	end     error
}

func (h *held) Read(p []byte) (int, error) {
	if n, err := h.some.Read(p); err == nil {
		return n, nil
	}
	<-h.release
	return 0, h.end
}

func (h *held) Close() error { return nil }

func TestABodyEndsThoughTheWindowIsLessThanNone(t *testing.T) {
	release := make(chan struct{})
	addr, _ := front(t, Config{Serve: func(x *filter.Exchange) {
		if x.Request.Path != "/held" {
			x.Answer(200, "")
			return
		}
		x.Response.Status, x.Response.ContentLength, x.Response.Trailer = 200, -1, nil
		x.Response.Body = &held{bytes.NewReader(make([]byte, 1000)), release, io.EOF}
	}})
	p := play(t, addr)
	p.ask(1, true, usual(field{Name: ":path", Value: "/held"}))
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := f.(*xhttp2.DataFrame); ok && len(d.Data()) > 0 {
			p.fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0})
			p.fr.WritePing(false, [8]byte{7})
		}
		if f, ok := f.(*xhttp2.PingFrame); ok && f.IsAck() {
			break
		}
	}
	close(release)
	f, err := p.fr.ReadFrame()
	if d, ok := f.(*xhttp2.DataFrame); !ok || !d.StreamEnded() {
		t.Fatalf("the body ends in %v, %v, want DATA that ends the stream", f, err)
	}
}

func TestTheSizeOfTheTableIsToldThoughTrailersAreNone(t *testing.T) {
	release := make(chan struct{})
	addr, _ := front(t, Config{Serve: func(x *filter.Exchange) {
		if x.Request.Path != "/held" {
			x.Answer(200, "")
			return
		}
		x.Response.Status, x.Response.ContentLength, x.Response.Trailer = 200, -1, new(filter.Header)
		x.Response.Body = &held{bytes.NewReader(make([]byte, 1000)), release, io.EOF}
	}})
	p := play(t, addr)
	p.ask(1, true, usual(field{Name: ":path", Value: "/held"}))
	for asked := false; ; {
		f, err := p.fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *xhttp2.DataFrame:
			if f.StreamEnded() {
				p.ask(3, true, usual())
				asked = true
				continue
			}
			p.fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingHeaderTableSize, Val: 0})
			p.fr.WritePing(false, [8]byte{7})
		case *xhttp2.PingFrame:
			close(release)
		case *xhttp2.HeadersFrame:
			if !asked {
				continue
			}
			if b := f.HeaderBlockFragment(); b[0] != 0x20 {
				t.Errorf("the next head begins with %#x, want 0x20, the size of the table", b[0])
			}
			return
		}
	}
}

// waited is a body that breaks off, and whose Close waits for somebody.
type waited struct{ whom chan struct{} }

func (w *waited) Read([]byte) (int, error) { return 0, errTest }

func (w *waited) Close() error { <-w.whom; return nil }

func TestWhoReadsABodyStillIsWokenUpWhenTheAnswerBreaksOff(t *testing.T) {
	finished := make(chan struct{})
	addr, _ := front(t, Config{Finished: func(*filter.Exchange) { close(finished) }, Serve: func(x *filter.Exchange) {
		over, body, begun := make(chan struct{}), x.Request.Body, make(chan struct{})
		go func() {
			defer close(over)
			io.ReadFull(body, make([]byte, 1))
			close(begun)
			io.Copy(io.Discard, body)
		}()
		<-begun
		x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, -1, &waited{over}
	}})
	p := play(t, addr)
	p.ask(1, false, usual(field{Name: ":method", Value: "POST"}))
	p.fr.WriteData(1, false, []byte("x"))
	if got := p.await(1); got.String() != "RST INTERNAL_ERROR" {
		t.Errorf("got %v, want RST INTERNAL_ERROR", got)
	}
	select {
	case <-finished:
	case <-time.After(time.Minute):
		t.Fatal("the request is not over: who reads its body waits for ever")
	}
}

func TestALongUploadIsNoHeadThatDoesNotEnd(t *testing.T) {
	frame := append(appendFrame(nil, 1000, frameData, 0, 1), make([]byte, 1000)...)
	for _, tt := range []struct {
		name  string
		first int // bytes of a frame that come first
		then  int // and next; others are as long as a frame
	}{
		{"reads end in the middle of payloads, but for one", 5, 500},
		{"reads end in the middle of heads", 5, len(frame)},
	} {
		bubble(t, Config{Serve: func(x *filter.Exchange) {
			io.Copy(io.Discard, x.Request.Body)
			x.Answer(200, "")
		}}, func(_ *Server, p *player) {
			p.ask(1, false, usual(field{Name: ":method", Value: "POST"}))
			synctest.Wait()
			go func() {
				all := bytes.Repeat(frame, 20)
				for _, n := range []int{tt.first, tt.then} {
					p.nc.Write(all[:n])
					all = all[n:]
					time.Sleep(time.Second)
				}
				for len(all) > len(frame) {
					p.nc.Write(all[:len(frame)])
					all = all[len(frame):]
					time.Sleep(time.Second)
				}
				p.nc.Write(all)
				p.fr.WriteData(1, true, nil)
			}()
			r := &player{t: t, nc: p.nc, fr: xhttp2.NewFramer(io.Discard, p.nc), dec: p.dec}
			if got := r.await(1); got.String() != "200" {
				t.Errorf("%s: got %v, want 200", tt.name, got)
			}
		})
	}
}

func TestWhatComesBehindTheLastRequestIsPassedOver(t *testing.T) {
	var release, begun chan struct{}
	bubble(t, Config{Serve: func(x *filter.Exchange) { begun <- struct{}{}; <-release; x.Answer(200, "") }}, func(s *Server, p *player) {
		release, begun = make(chan struct{}), make(chan struct{}, 8)
		p.ask(1, true, usual())
		<-begun
		drained := make(chan struct{})
		go func() { s.Drain(context.Background()); close(drained) }()
		for n := 0; n < 2; {
			f, err := p.fr.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			switch f := f.(type) {
			case *xhttp2.GoAwayFrame:
				n++
			case *xhttp2.PingFrame:
				p.fr.WritePing(true, f.Data)
			}
		}
		p.ask(3, false, usual(field{Name: ":method", Value: "POST"}))
		p.fr.WriteData(3, false, []byte("hello"))
		p.fr.WriteWindowUpdate(3, 1)
		p.fr.WriteRSTStream(3, xhttp2.ErrCodeCancel)
		synctest.Wait()
		close(release)
		if got := p.await(1); got.String() != "200" {
			t.Errorf("the last request got %v, want 200", got)
		}
		p.nc.Close()
		<-drained
	})
}

// slow is a connection whose writes take their time.
type slow struct {
	net.Conn
	takes atomic.Int64
}

func (s *slow) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(s.takes.Load()))
	return s.Conn.Write(p)
}

func TestDrainNeitherCutsTheLastAnswerOffNorWaitsForWhoDoesNotRead(t *testing.T) {
	for _, tt := range []struct {
		name         string
		takes, grace time.Duration
		want         string
	}{
		{"a client that reads slowly", 4 * time.Second, time.Hour, "200"},
		{"a client that does not read", 24 * time.Hour, 3 * time.Second, "closed"},
	} {
		synctest.Test(t, func(t *testing.T) {
			release, begun := make(chan struct{}), make(chan struct{})
			s := NewServer(Config{Log: slog.New(slog.DiscardHandler), Serve: func(x *filter.Exchange) { close(begun); <-release; x.Answer(200, "") }})
			near, far := pipe()
			c := &slow{Conn: far}
			var all sync.WaitGroup
			all.Go(func() { s.ServeConn(c, &filter.Client{}, nil) })
			p := playOn(t, near)
			p.ask(1, true, usual())
			<-begun
			synctest.Wait()
			if tt.want == "closed" {
				c.takes.Store(int64(tt.takes))
			}
			began, drained := time.Now(), make(chan time.Duration, 1)
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), tt.grace)
				defer cancel()
				s.Drain(ctx)
				drained <- time.Since(began)
			}()
			time.Sleep(10 * time.Second)
			c.takes.Store(int64(tt.takes))
			close(release)
			if got := p.await(1); got.String() != tt.want && !got.closed {
				t.Errorf("%s: got %v, want %s", tt.name, got, tt.want)
			} else if tt.want == "200" && got.status != "200" {
				t.Errorf("%s: got %v, want 200", tt.name, got)
			}
			if took := <-drained; took > 30*time.Second {
				t.Errorf("%s: draining took %v", tt.name, took)
			}
			near.Close()
			all.Wait()
			time.Sleep(tt.takes) // who writes still finds it closed
		})
	}
}

func TestBodiesThatNobodyWantsAnyMoreAreNoFault(t *testing.T) {
	addr, _ := front(t, Config{Serve: func(x *filter.Exchange) { x.Answer(413, "") }})
	p := play(t, addr)
	for i := range uint32(90) {
		p.ask(2*i+1, false, usual(field{Name: ":method", Value: "POST"}))
	}
	for i := range uint32(90) {
		if got := p.await(2*i + 1); got.String() != "413" {
			t.Fatalf("stream %d got %v, want 413", 2*i+1, got)
		}
	}
	for i := range uint32(90) { // what was on its way; of every other one that is trailers alone
		for range i % 2 * 4 {
			p.fr.WriteData(2*i+1, false, []byte("hello"))
		}
		p.ask(2*i+1, true, []field{{Name: "x-t", Value: "1"}})
	}
	p.ask(181, true, usual())
	if got := p.await(181); got.String() != "413" {
		t.Errorf("the next request got %v, want its answer", got)
	}
}

func TestBodiesThatLieUnreadLeaveRoomForOthers(t *testing.T) {
	const window = 512 << 10
	for _, stalled := range []int{7, 8} {
		var release chan struct{}
		bubble(t, Config{Serve: func(x *filter.Exchange) {
			if x.Request.Path == "/stall" {
				<-release
			}
			n, err := io.Copy(io.Discard, x.Request.Body)
			if err != nil {
				x.Answer(408, err.Error())
				return
			}
			x.Answer(200, "")
			x.Read = n
		}}, func(_ *Server, p *player) {
			release = make(chan struct{})
			post := field{Name: ":method", Value: "POST"}
			for i := range uint32(stalled) {
				p.ask(2*i+1, false, usual(post, field{Name: ":path", Value: "/stall"}))
				for range window >> 14 {
					p.fr.WriteData(2*i+1, false, make([]byte, 16<<10))
				}
			}
			id, conn, own, left := uint32(99), connWindow-stalled*window, window, 1536<<10
			p.ask(id, false, usual(post, field{Name: ":path", Value: "/read"}))
			if stalled == 8 { // nothing can be sent until others are read
				time.AfterFunc(20*time.Second, func() { close(release) })
			}
			for {
				if n := min(conn, own, left, 16<<10); n > 0 {
					conn, own, left = conn-n, own-n, left-n
					p.fr.WriteData(id, left == 0, make([]byte, n))
					continue
				}
				f, err := p.fr.ReadFrame()
				if err != nil {
					t.Fatalf("%d stalled: %v, and %d bytes are left", stalled, err, left)
				}
				switch f := f.(type) {
				case *xhttp2.WindowUpdateFrame:
					switch {
					case f.StreamID == 0 && f.Increment != connWindow-initialWindow:
						conn += int(f.Increment)
					case f.StreamID == id:
						own += int(f.Increment)
					}
				case *xhttp2.HeadersFrame:
					all, _ := p.dec.DecodeFull(f.HeaderBlockFragment())
					if f.StreamID != id {
						continue
					}
					if all[0].Value != "200" || left != 0 {
						t.Errorf("%d stalled: got %v with %d bytes left, want 200", stalled, all[0].Value, left)
					}
					if stalled == 7 {
						close(release)
					}
					return
				}
			}
		})
	}
}
