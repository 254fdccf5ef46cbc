package ipc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestInstanceThatSpeaksHTTP2InClearIsAskedSo(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	defer srv.Close()
	for protocol, want := range map[string]string{"h2c": "HTTP/2.0", "": "HTTP/1.1", "http/1.1": "HTTP/1.1"} {
		i := instanceAt(t, srv.URL)
		i.Metadata = map[string]string{"protocol": protocol}
		e := newTestEngine(t, Options{Lists: Static{"app": {i}}})
		resp, err := e.HTTPClient().Get("http://app/")
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(got) != want {
			t.Errorf("protocol=%q: spoke %s, want %s", protocol, got, want)
		}
		e.Close()
	}
}

func TestConnectionsToOneHostAreLimited(t *testing.T) {
	for _, key := range []string{"app.ribbon.MaxConnectionsPerHost", "ribbon.MaxConnectionsPerHost", "ipc.lb.app.maxConnectionsPerHost"} {
		var now, most atomic.Int64
		arrived, leave := make(chan struct{}, 100), make(chan struct{})
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			arrived <- struct{}{}
			<-leave
			now.Add(-1)
		}))
		e := configured(t, Options{Lists: Static{"app": {instanceAt(t, srv.URL)}}}, key+"=3")
		e.Command("app", Settings{Timeout: 30 * time.Second})
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if status, err := get(e, context.Background(), "GET", "http://app/"); status != 200 {
					t.Errorf("%s: got %d, %v", key, status, err)
				}
			})
		}
		for range 3 {
			<-arrived
		}
		close(leave)
		all.Wait()
		if got := most.Load(); got != 3 {
			t.Errorf("%s=3: %d requests at once, want 3", key, got)
		}
		e.Close()
		srv.Close()
	}
}

func TestReadTimeoutIsThatOfOneAttempt(t *testing.T) {
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer slow.Close()
	defer close(release)
	e := configured(t, Options{Lists: Static{"app": {instanceAt(t, slow.URL)}}}, "app.ribbon.ReadTimeout=20", "app.ribbon.ConnectTimeout=300")
	e.Command("app", Settings{Timeout: 30 * time.Second, Retries: -1})
	_, err := get(e, t.Context(), "GET", "http://app/")
	var timeout interface{ Timeout() bool }
	if err == nil || errors.Is(err, ErrDeadlineSpent) || !errors.As(err, &timeout) {
		t.Errorf("got %v, want that the headers did not come in time", err)
	}
	if ep := e.Snapshot()[0].App.Endpoints[0]; ep.Failures != 1 {
		t.Errorf("the instance has %d failures, want 1", ep.Failures)
	}
	e.Close()
}

func TestRibbonsRetries(t *testing.T) {
	for _, tc := range []struct {
		props    []string
		code     int // Settings.Retries
		method   string
		attempts int
	}{
		{nil, 0, "GET", 3},
		{[]string{"app.ribbon.MaxAutoRetries=0", "app.ribbon.MaxAutoRetriesNextServer=1"}, 0, "GET", 2},
		{[]string{"app.ribbon.MaxAutoRetries=1", "app.ribbon.MaxAutoRetriesNextServer=2"}, 0, "GET", 6},
		{[]string{"ribbon.MaxAutoRetries=1"}, 0, "GET", 4},
		{[]string{"ribbon.MaxAutoRetries=9", "ribbon.MaxAutoRetriesNextServer=9"}, 0, "GET", maxAttempts},
		{[]string{"app.ribbon.MaxAutoRetriesNextServer=0"}, 0, "GET", 1},
		{[]string{"app.ribbon.MaxAutoRetriesNextServer=0"}, 4, "GET", 5}, // ours says so
		{[]string{"app.ribbon.MaxAutoRetriesNextServer=ten"}, 0, "GET", 3},
		{nil, 0, "POST", 1},
		{[]string{"app.ribbon.OkToRetryOnAllOperations=true"}, 0, "POST", 3},
		{[]string{"app.ribbon.OkToRetryOnAllOperations=perhaps"}, 0, "POST", 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, lists := everywhere(12, cut)
			e := configured(t, Options{Lists: lists, Transport: n}, tc.props...)
			e.Command("app", Settings{Retries: tc.code, Timeout: time.Minute})
			if get(e, t.Context(), tc.method, "http://app/"); n.attempts() != tc.attempts {
				t.Errorf("%s with %v and Retries %d: %d attempts, want %d", tc.method, tc.props, tc.code, n.attempts(), tc.attempts)
			}
		})
	}
}

// refuseStreams answers every HTTP/2 request on c with RST_STREAM REFUSED_STREAM, RFC 9113 §8.7.
func refuseStreams(c net.Conn) {
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
		return
	}
	c.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}) // SETTINGS
	for {
		var head [9]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(head[0])<<16|int64(head[1])<<8|int64(head[2])); err != nil {
			return
		}
		switch {
		case head[3] == 4 && head[4] == 0:
			c.Write([]byte{0, 0, 0, 4, 1, 0, 0, 0, 0})
		case head[3] == 1: // HEADERS
			c.Write([]byte{0, 0, 4, 3, 0, head[5], head[6], head[7], head[8], 0, 0, 0, refusedStream})
		}
	}
}

func TestRefusedStreamOfNetHTTPIsKnownToBeUnsent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { refuseStreams(c) })
		}
	})
	defer all.Wait()
	defer l.Close()
	i := instanceAt(t, "http://"+l.Addr().String())
	i.Metadata = map[string]string{"protocol": "h2c"}
	e := newTestEngine(t, Options{Lists: Static{"app": {i}}})
	e.Command("app", Settings{Timeout: 10 * time.Second})
	defer e.Close()
	body, w := io.Pipe()
	all.Go(func() { w.Write([]byte("x")) }) // it has been read from, so net/http does not try again by itself, nor do we
	req, err := http.NewRequest("POST", "http://app/", body)
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Transport().RoundTrip(req)
	body.Close()
	if !isUnsent(err) || !errors.Is(err, ErrBodySent) {
		t.Errorf("got %v, want a stream refused unread, and ErrBodySent", err)
	}
}
