package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

func TestConnectionsEndAtMomentsThatDiffer(t *testing.T) {
	l := newLeaving(config.New(config.Options{Override: map[string]string{"server.outofservice.connections.delay": "2000", "server.outofservice.close.timeout": "10000"}}))
	share := func(at time.Duration) (n int) {
		for range 10_000 {
			if l.ends(l.since.Load() + int64(at)) {
				n++
			}
		}
		return n
	}
	if n := share(time.Hour); n != 0 {
		t.Errorf("in service: %d of 10000 answers are their connection's last, want none", n)
	}
	l.since.Store(filter.Now() + 1)
	for _, tt := range []struct {
		at          time.Duration
		least, most int
	}{{0, 0, 0}, {1999 * time.Millisecond, 0, 0}, {4500 * time.Millisecond, 2000, 3000}, {7 * time.Second, 4500, 5500}, {12 * time.Second, 10_000, 10_000}, {time.Hour, 10_000, 10_000}} {
		if n := share(tt.at); n < tt.least || n > tt.most {
			t.Errorf("%v after it was taken out: %d of 10000 answers are their connection's last, want %d to %d", tt.at, n, tt.least, tt.most)
		}
	}
}

func TestAnEdgeThatIsTakenOutOfServiceSaysSoAndRefusesNobody(t *testing.T) {
	props, set := pushed(t)
	h := newHouseWith(t, props, map[string]http.Handler{"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hi") })})
	set("server.outofservice.connections.delay", "0")
	set("server.outofservice.close.timeout", "0")
	at := open(t, h.Gateway)
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	get := func(path string) *http.Response {
		t.Helper()
		c.SetDeadline(time.Now().Add(20 * time.Second)) //nolint:errcheck // it can be set
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		resp, err := http.ReadResponse(r, httptest.NewRequest("GET", path, nil))
		if err != nil {
			t.Fatalf("GET %s: %v", path, err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("GET %s: %v", path, err)
		}
		resp.Body = io.NopCloser(strings.NewReader(string(b)))
		return resp
	}
	says := func(resp *http.Response) string { b, _ := io.ReadAll(resp.Body); return string(b) }
	if resp := get("/healthcheck"); resp.StatusCode != 200 || resp.Close {
		t.Fatalf("in service: got %d, close %v; want 200 on a connection that goes on", resp.StatusCode, resp.Close)
	}
	if resp := get("/hello/"); resp.StatusCode != 200 || resp.Close {
		t.Fatalf("in service: got %d, close %v; want 200 on a connection that goes on", resp.StatusCode, resp.Close)
	}
	set("edge.outOfService", "true")
	h.leave() // as Run does when it changes
	if resp := get("/hello/"); resp.StatusCode != 200 || !resp.Close || says(resp) != "hi" {
		t.Errorf("out of service: got %d, close %v; want 200, and that the connection ends", resp.StatusCode, resp.Close)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after that: got %v, want the connection's end", err)
	}
	c.Close()
	for what, status := range map[string]int{"/healthcheck": 503, "/hello/": 200} {
		if c, err = net.Dial("tcp", at); err != nil {
			t.Fatalf("out of service, a new connection: %v", err)
		}
		defer c.Close()
		r = bufio.NewReader(c)
		if resp := get(what); resp.StatusCode != status {
			t.Errorf("out of service, %s on a new connection: got %d %s, want %d", what, resp.StatusCode, says(resp), status)
		}
	}
	set("edge.outOfService", "false")
	h.leave()
	if c, err = net.Dial("tcp", at); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r = bufio.NewReader(c)
	for range 2 {
		if resp := get("/healthcheck"); resp.StatusCode != 200 || resp.Close {
			t.Errorf("back in service: got %d, close %v; want 200 on a connection that goes on", resp.StatusCode, resp.Close)
		}
	}
}
