package edge

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http2"
	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func TestTwoHundredStreamsOfOneClientThatReadsNothingLeaveOthersServed(t *testing.T) {
	h := newHouseWith(t, config.New(config.Options{Override: map[string]string{"edge.trusted.cidrs": "127.0.0.0/8"}}), map[string]http.Handler{
		"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			part := make([]byte, 64<<10)
			for r.URL.Path == "/large" {
				if _, err := w.Write(part); err != nil {
					return
				}
			}
		})})
	var asked atomic.Int64
	engine := http2.NewServer(http2.Config{Serve: func(x *filter.Exchange) { h.Serve(x); asked.Add(1) }, Finished: h.Finished, Log: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				engine.ServeConn(nc, &filter.Client{Remote: nc.RemoteAddr().(*net.TCPAddr).AddrPort()}, nil)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		engine.Drain(ctx) //nolint:errcheck // it tells that ctx has ended
		all.Wait()
	})
	const conns, streams = 2, 100
	for range conns {
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		io.WriteString(nc, xhttp2.ClientPreface)
		fr := xhttp2.NewFramer(nc, nc)
		fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0})
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for i := range streams {
			block.Reset()
			for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "edge"}, {Name: ":path", Value: "/hello/large"}} {
				if err := enc.WriteField(f); err != nil {
					t.Fatal(err)
				}
			}
			fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		}
		all.Go(func() { io.Copy(io.Discard, nc) }) // heads, and no more than that
	}
	for end := time.Now().Add(time.Minute); asked.Load() < conns*streams; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("only %d of %d streams have their answers' heads", asked.Load(), conns*streams)
		}
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	from := func(addr string) int {
		req, err := http.NewRequest("GET", "http://"+l.Addr().String()+"/hello/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if addr != "" {
			req.Header.Set("X-Forwarded-For", addr)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for i := range 50 {
		if got := from("192.0.2.1"); got != 200 {
			t.Fatalf("request %d of somebody else: got %d, want 200", i+1, got)
		}
	}
	if got := from(""); got != 503 {
		t.Errorf("one more request of who holds so many: got %d, want 503", got)
	}
	inFlight := func() (n int64) {
		for _, s := range h.origins.Origins() {
			if s.App == "hello" {
				n = s.InFlight
			}
		}
		return n
	}
	for end := time.Now().Add(time.Minute); inFlight() > 150 && time.Now().Before(end); time.Sleep(time.Millisecond) { // a place is given back behind the answer
	}
	if n := inFlight(); n != 150 {
		t.Errorf("%d requests are in flight, want 150 of the 200 places", n)
	}
}
