package edge

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
)

func TestAThousandSlowPOSTsHinderNoRequestToTheSameApp(t *testing.T) {
	var busy, most, entered atomic.Int64
	h := newHouseWith(t, config.New(config.Options{Override: map[string]string{"edge.timeouts.request": "1m"}}), map[string]http.Handler{
		"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n := busy.Add(1)
			defer busy.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %d", r.Method, len(body))
		})})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	engine := http1.NewServer(http1.Config{Serve: func(x *filter.Exchange) { entered.Add(1); h.Serve(x) }, Finished: h.Finished, Settings: http1.Settings{BodyIdle: time.Minute, PerAddress: 2000}})
	over := make(chan error, 1)
	go func() { over <- engine.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		engine.Drain(ctx) //nolint:errcheck // it tells that ctx has ended
		<-over
	})
	const slow = 1000
	conns := make([]net.Conn, slow)
	var begun sync.WaitGroup
	for i := range conns {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
		begun.Go(func() { io.WriteString(c, "POST /hello/ HTTP/1.1\r\nHost: edge\r\nContent-Length: 1000\r\n\r\nbegun") })
	}
	begun.Wait()
	for entered.Load() < slow {
		time.Sleep(time.Millisecond)
	}
	client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	url := "http://" + l.Addr().String() + "/hello/"
	for i := range 100 {
		var resp *http.Response
		want := "GET 0"
		if i%2 == 0 {
			resp, err = client.Get(url)
		} else {
			resp, err = client.Post(url, "text/plain", strings.NewReader("0123456789"))
			want = "POST 10"
		}
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || string(got) != want {
			t.Fatalf("request %d: got %d %q, want 200 %q", i, resp.StatusCode, got, want)
		}
	}
	if got := most.Load(); got > 1 {
		t.Errorf("the app had %d requests at once, want 1: no slow one reaches it", got)
	}
	inFlight := func() (n int64) {
		for _, s := range h.origins.Origins() {
			n += s.InFlight
		}
		return n
	}
	for end := time.Now().Add(time.Minute); inFlight() > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) { // a place is given back behind the answer
	}
	if n := inFlight(); n != 0 {
		t.Errorf("%d requests count as in flight, want none", n)
	}
	c := conns[0] // and one that comes to its end is answered as any other
	io.WriteString(c, strings.Repeat("x", 995))
	c.SetReadDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 12)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "HTTP/1.1 200" {
		t.Errorf("a slow request whose body came at last: got %q, %v; want HTTP/1.1 200", b, err)
	}
}
