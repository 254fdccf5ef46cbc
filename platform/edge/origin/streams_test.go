package origin

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// lasting is an app whose answers last: /events is a stream of events until end is called, and a WebSocket answers in capitals.
func lasting(t *testing.T) (addr string, end func()) {
	over := make(chan struct{})
	return serving(t, func(w http.ResponseWriter, q *http.Request) {
		switch {
		case q.Header.Get("Upgrade") != "":
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", webSocketAccept(q.Header.Get("Sec-WebSocket-Key")))
			rw.Flush()
			said, _ := io.ReadAll(rw)
			io.WriteString(c, strings.ToUpper(string(said)))
		case q.URL.Path == "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			http.NewResponseController(w).Flush() //nolint:errcheck // the client tells
			select {
			case <-over:
			case <-q.Context().Done():
			}
		}
	}), func() { close(over) }
}

func TestStreamsCountApartFromRequestsInFlightAndTheirConnections(t *testing.T) {
	engines(t, func(t *testing.T, fast bool) {
		for _, c := range []struct {
			what     string
			props    map[string]string
			category filter.Category
		}{
			{"a place and a connection", nil, filter.Success},
			{"no stream", map[string]string{"edge.origin.app.streams.max": "0"}, filter.FailureConcurrency},
			{"no stream of any app", map[string]string{"edge.origin.default.streams.max": "0"}, filter.FailureConcurrency},
			{"any number", map[string]string{"edge.origin.app.streams.max": "-1"}, filter.Success},
		} {
			props := map[string]string{"zuul.origin.app.concurrency.max.requests": "1", "app.ribbon.MaxConnectionsPerHost": "1"}
			for k, v := range c.props {
				props[k] = v
			}
			addr, end := lasting(t)
			r := newRig(t, props, addr)
			r.fast = fast
			client, url := r.client()
			resp, err := client.Get(url + "/events")
			if err != nil {
				t.Fatal(err)
			}
			r.ask("GET", "/", "")
			if last := r.last(); last.category != c.category {
				t.Errorf("%s: beside a stream of events a request got %v, want %v", c.what, last.category, c.category)
			}
			end()
			io.Copy(io.Discard, resp.Body) //nolint:errcheck // it is over
			resp.Body.Close()
			o := r.origin("app")
			for o.streams.Load() != 0 || o.inFlight.Load() != 0 { // the test's own time is the limit
				time.Sleep(time.Millisecond)
			}
			if n := (*o.servers.Load())[addr]; n != nil && n.open.Load() < 0 {
				t.Errorf("%s: %d connections are counted once the stream is over", c.what, n.open.Load())
			}
		}
	})
}

func TestAWebSocketIsAStreamWhoseBytesAreCounted(t *testing.T) {
	addr, _ := lasting(t)
	r := newRig(t, map[string]string{"zuul.origin.app.concurrency.max.requests": "1", "app.ribbon.MaxConnectionsPerHost": "1"}, addr)
	r.fast = true
	nc, err := net.Dial("tcp", strings.TrimPrefix(r.oneURL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	io.WriteString(nc, "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	rd := bufio.NewReader(nc)
	if resp, err := http.ReadResponse(rd, nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("got %v, %v; want 101", resp, err)
	}
	if code, _, _ := r.ask("GET", "/", ""); code != 200 {
		t.Errorf("a request beside a WebSocket: got %d, want 200", code)
	}
	r.last() // it may be over later than it is answered
	r.mu.Lock()
	r.ended = nil
	r.mu.Unlock()
	io.WriteString(nc, "hello")
	nc.(*net.TCPConn).CloseWrite()
	if said, err := io.ReadAll(rd); string(said) != "HELLO" || err != nil {
		t.Errorf("got %q, %v", said, err)
	}
	if last := r.last(); last.read != 5 || last.written != 5 || last.category != filter.Success {
		t.Errorf("got %d bytes in, %d out and %v; want 5, 5 and SUCCESS", last.read, last.written, last.category)
	}
}

func TestOneClientHasNoMoreThanItsShareOfAnAppsStreams(t *testing.T) {
	addr, end := lasting(t)
	r := newRig(t, map[string]string{"edge.origin.app.streams.max": "4", "edge.origin.client.share": "0.5"}, addr)
	r.change(func(x *filter.Exchange) { x.From = x.Client.Remote.Addr() })
	r.fast = true
	client, url := r.client()
	o := r.origin("app")
	var all []*http.Response
	for range 3 {
		resp, err := client.Get(url + "/events")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, resp)
	}
	if streams, rest := o.streams.Load(), o.inFlight.Load(); streams != 2 || rest != 1 {
		t.Errorf("of three streams of one client %d count as streams and %d as requests in flight; want 2 and 1", streams, rest)
	}
	end()
	for _, resp := range all {
		io.Copy(io.Discard, resp.Body) //nolint:errcheck // it is over
		resp.Body.Close()
	}
	for o.streams.Load() != 0 || o.inFlight.Load() != 0 { // the test's own time is the limit
		time.Sleep(time.Millisecond)
	}
}
