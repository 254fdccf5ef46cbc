package http2

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	xhttp2 "golang.org/x/net/http2"
)

func TestAWebSocketIsAStreamThatWasTakenOver(t *testing.T) {
	var done told
	addr, _ := front(t, Config{Finished: done.finished, Serve: func(x *filter.Exchange) {
		if x.Request.Upgrade != "websocket" || x.Request.Method != "GET" || x.Request.Path != "/chat" {
			x.Answer(400, "")
			return
		}
		x.Response.Status = 101
		x.Response.Header.Add("Upgrade", "websocket")
		x.Response.Header.Add("Connection", "Upgrade")
		x.Response.Header.Add("Sec-WebSocket-Accept", "x")
		x.Response.Header.Add("Sec-WebSocket-Protocol", "chat")
		x.Response.Takeover = func(c net.Conn, early []byte) {
			c.SetReadDeadline(time.Now().Add(-time.Second))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("with a deadline that is over: got %v", err)
			}
			c.SetReadDeadline(time.Time{})
			io.Copy(c, c)
		}
	}})
	for range 2 {
		p := play(t, addr)
		fields := append([]field{{Name: ":method", Value: "CONNECT"}, {Name: ":protocol", Value: "websocket"}}, usual(field{Name: ":path", Value: "/chat"})[1:]...)
		p.ask(1, false, fields)
		wrote := make(chan struct{})
		go func() {
			p.fr.WriteData(1, false, make([]byte, 10_000))
			p.fr.WriteData(1, false, make([]byte, 10_000))
			p.fr.WriteData(1, true, []byte("bye"))
			close(wrote)
		}()
		r := &player{t: t, nc: p.nc, fr: xhttp2.NewFramer(io.Discard, p.nc), dec: p.dec} // for the goroutine writes
		got := r.await(1)
		if got.status != "200" || len(got.body) != 20_003 || len(got.fields) != 2 || got.fields[0] != (field{Name: "sec-websocket-protocol", Value: "chat"}) {
			t.Errorf("got %v with %v and %d bytes", got, got.fields, len(got.body))
		}
		<-wrote
		p.ask(3, false, fields)
		p.fr.WriteData(3, false, []byte("hello"))
		p.fr.WriteRSTStream(3, 8) // CANCEL
		p.nc.Close()
	}
	whole := 0
	got := done.wait(4)
	for _, line := range got {
		if line == "GET /chat 101 " {
			whole++
		}
	}
	if whole < 2 {
		t.Errorf("finished: %q, want two that ended well, and two that were taken back", got)
	}
}

func TestATakeoverThatPanicsResetsItsStreamAndClosesIt(t *testing.T) {
	var done told
	leaked := make(chan net.Conn, 1)
	addr, _ := front(t, Config{Finished: done.finished, Serve: func(x *filter.Exchange) {
		x.Response.Status = 101
		x.Response.Takeover = func(c net.Conn, _ []byte) {
			leaked <- c
			panic("as the test wants it")
		}
	}})
	p := play(t, addr)
	p.ask(1, false, append([]field{{Name: ":method", Value: "CONNECT"}, {Name: ":protocol", Value: "websocket"}}, usual()[1:]...))
	if got := p.await(1); got.String() != "RST INTERNAL_ERROR" {
		t.Errorf("got %v, want RST INTERNAL_ERROR", got)
	}
	done.wait(1)
	c := <-leaked
	c.SetDeadline(time.Now().Add(-time.Second))
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("who has the connection still writes to it: got %v, want %v", err, net.ErrClosed)
	}
}
