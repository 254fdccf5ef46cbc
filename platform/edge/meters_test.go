package edge

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api/porttest"
)

// What dashboards of Zuul look at is there under its names, and moves when it should.
func TestMetersHaveZuulsNamesAndMove(t *testing.T) {
	props := config.New(config.Options{Log: slog.New(slog.DiscardHandler), Override: map[string]string{
		"zuul.origin.hello.concurrency.max.requests": "1", "hello.ribbon.MaxRequestsPerConnection": "2", "edge.connections.perip": "3", "idleTimeout": "200",
		"edge.priority.logs": "* /hello/logs BULK", "edge.retry.buffer": "16", "edge.http.request.buffer": "0", "gone.ribbon.ConnectTimeout": "1000",
	}})
	arrived, hold := make(chan struct{}), make(chan struct{})
	h := newHouseWith(t, props, map[string]http.Handler{"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hold":
			close(arrived)
			<-hold
		case "/breaks":
			w.Header().Set("Content-Length", "100000")
			w.Write(make([]byte, 50000)) //nolint:errcheck // it is broken off
			panic(http.ErrAbortHandler)
		case "/drops":
			io.Copy(io.Discard, r.Body) //nolint:errcheck // as above
			panic(http.ErrAbortHandler)
		case "/leaves":
			w.Header().Set("Connection", "close")
		}
	})})
	h.lists["gone"] = []roadbed.Instance{{ID: "gone-0", App: "gone", Host: "127.0.0.1", Port: int(netip.MustParseAddrPort(porttest.Hold(t)).Port()), Status: roadbed.Up}}
	h.setApps([]roadbed.Instance{{App: "hello"}, {App: "gone"}})
	h.begun.Do(func() { close(h.ready) })
	ctx, cancel := context.WithCancel(context.Background())
	var doors sync.WaitGroup
	t.Cleanup(func() { cancel(); doors.Wait() })
	open := func(c DoorConfig) string {
		d, err := h.Door(c)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		doors.Go(func() { d.Run(ctx, l, nil) }) //nolint:errcheck // it tells of what is cut
		return l.Addr().String()
	}
	plain, secure := open(DoorConfig{Name: "http"}), open(DoorConfig{Name: "https", TLS: &TLSConfig{SelfSigned: t.TempDir()}})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	ask := func(method, url, body string) int {
		t.Helper()
		req, err := http.NewRequest(method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0
		}
		io.Copy(io.Discard, resp.Body) //nolint:errcheck // some break off
		resp.Body.Close()
		return resp.StatusCode
	}
	var held sync.WaitGroup
	held.Go(func() { ask("GET", "http://"+plain+"/hello/hold", "") })
	<-arrived
	if got := scraped(h, "zuul_origin_concurrent_requests", `id="hello"`); got != "1" {
		t.Errorf("zuul.origin.concurrent.requests while one is: got %q, want 1", got)
	}
	if got := ask("GET", "http://"+plain+"/hello/", ""); got != 503 {
		t.Errorf("a second request where one may be in flight: got %d, want 503", got)
	}
	close(hold)
	held.Wait()
	for range 3 {
		ask("GET", "http://"+plain+"/hello/", "")
	}
	ask("GET", "http://"+plain+"/hello/leaves", "")
	ask("GET", "http://"+plain+"/hello/breaks", "")
	ask("POST", "http://"+plain+"/hello/drops", strings.Repeat("x", 100_000))
	ask("GET", "http://"+plain+"/gone/", "")
	ask("GET", "http://"+plain+"/nowhere", "")
	ask("GET", "https://"+secure+"/hello/", "")
	if c, err := net.Dial("tcp", secure); err == nil {
		io.WriteString(c, "no TLS at all\r\n\r\n") //nolint:errcheck // it is refused
		io.Copy(io.Discard, c)                     //nolint:errcheck // as above
		c.Close()
	}
	client.CloseIdleConnections()
	end := time.Now().Add(time.Minute)
	for open := -1; open != 0; time.Sleep(time.Millisecond) { // else one that is closed already counts among those that come now
		if open, _ = h.connections(); time.Now().After(end) {
			t.Fatalf("a minute after its client has closed them %d connections are open", open)
		}
	}
	var many []net.Conn
	for range 4 { // the last of which is one too many
		c, err := net.Dial("tcp", plain)
		if err != nil {
			t.Fatal(err)
		}
		many = append(many, c)
	}
	io.WriteString(many[0], "GET /hello/ HTTP/1.1\r\nHost: edge\r\n\r\n") //nolint:errcheck // it shows when it is read
	for _, c := range many {
		defer c.Close()
	}
	io.Copy(io.Discard, many[0]) //nolint:errcheck // until it was idle for too long
	end = time.Now().Add(time.Minute)
	for _, tt := range []struct {
		name string
		tags string // in pairs
	}{
		{"server.connections.connect", "listener http"},
		{"server.connections.close", "listener http"},
		{"server.connections.idle.timeout", "listener http"},
		{"server.connections.throttled", "listener http"},
		{"server.connections.connect", "listener https"},
		{"server.ssl.handshake", "listener https success true protocol TLS_1.3 ciphersuite TLS_AES_128_GCM_SHA256 clientauth none"},
		{"server.ssl.handshake", "listener https success false protocol unknown ciphersuite unknown clientauth unknown"},
		{"zuul.filter-ProxyEndpoint", "status SUCCESS filtertype end"},
		{"zuul.filter-ProxyEndpoint", "status FAILED filtertype end"},
		{"zuul.filter-ConnectionInfo", "status SUCCESS filtertype in"},
		{"zuul.origin.rejected.requests", "id hello"},
		{"zuul.no.retry", "id incomplete_body"},
		{"zuul.no.retry", "id resp_started"},
		{"connectionpool_create", "id hello"},
		{"connectionpool_create_success", "id hello"},
		{"connectionpool_create_fail", "id gone"},
		{"connectionpool_request", "id hello"},
		{"connectionpool_reuse", "id hello"},
		{"connectionpool_release", "id hello"},
		{"connectionpool_close", "id hello"},
		{"connectionpool_closeExpiredConnLifetime", "id hello"},
		{"connectionpool_headerClose", "id hello"},
		{"connectionpool_error", "id hello"},
	} {
		kv := strings.Fields(tt.tags)
		for i := range kv {
			kv[i] = strings.ReplaceAll(kv[i], "TLS_1", "TLS 1")
		}
		n := int64(0)
		for ; ; time.Sleep(time.Millisecond) { // ends are noticed a little later
			if n = h.meter.Counter(tt.name, kv...).Count(); n > 0 || time.Now().After(end) {
				break
			}
			if strings.HasPrefix(tt.name, "zuul.filter-") { // successes are counted at one request in 64
				ask("GET", "http://"+plain+"/hello/", "")
			}
		}
		if n == 0 {
			t.Errorf("%s %v: got 0, want that it has moved", tt.name, kv)
		}
	}
	for _, tt := range []struct{ name, labels string }{
		{"edge_request_duration_seconds_count", `edge_origin="hello",edge_route="hello",edge_status="2xx",status_category="SUCCESS"`},
		{"connectionpool_createTiming_seconds_count", `id="hello"`},
		{"connectionpool_inPool", `id="hello"`},
		{"connectionpool_inUse", `id="hello"`},
	} {
		if got := scraped(h, tt.name, tt.labels); got == "" {
			t.Errorf("%s{%s} is not there", tt.name, tt.labels)
		}
	}
}

// scraped returns a value as Prometheus gets it; "" if it is not there.
func scraped(h *house, name, labels string) string {
	w := httptest.NewRecorder()
	h.meter.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), name+"{"); ok {
			if rest, ok = strings.CutPrefix(rest, labels+"} "); ok {
				return rest
			}
		}
	}
	return ""
}
