package sidecar

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc"
)

func TestANeighbourThatCopiesOnlyTheRequestIDHandsEverythingOn(t *testing.T) {
	key := fault.Key("0123456789abcdef")
	var seen atomic.Pointer[http.Header]
	recs := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen.Store(&r.Header)
		fmt.Fprint(w, "films")
	})
	// No command has so short a time limit, so that what the callee is told is the caller's.
	startPlatform(t, map[string]string{"fault.key": string(key), "hystrix.command.default.execution.isolation.thread.timeoutInMilliseconds": "120000"},
		instanceOf("recommendations", recs.URL), instanceOf("ratings", recs.URL))
	var s *Sidecar
	neighbour := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthcheck" {
			return
		}
		id := r.Header.Get("X-Request-Id")
		films := do(t, via(t, s), "GET", "http://recommendations/films", nil, "X-Request-Id", id)
		ratings := do(t, via(t, s), "GET", "http://ratings/all", nil, "X-Request-Id", id)
		point := do(t, once, "GET", "http://"+s.Addr()+"/v1/fit/cache?name=ev_films&req="+id, nil)
		fmt.Fprintf(w, "%s, %d %s, %s", films.body, ratings.status, ratings.header.Get(headerError), point.body)
	})
	s = start(t, Config{To: addrOf(neighbour), Inbound: "127.0.0.1:0"})
	await(t, "UP", func() bool { return s.Status() == roadbed.Up })
	await(t, "the fault key", func() bool { text, _ := s.props.Lookup("fault.key"); return text != "" })

	fit := fault.Sign(key, "exp-1", time.Now().Add(time.Minute), "client:ratings=error(503)@100;cache:ev_*=error(unavailable)@100")
	got := do(t, once, "GET", "http://"+s.Registered()+"/page", nil, "X-Request-Id", "r-1", "X-Ipc-Timeout-Ms", "60000", "X-Ipc-Criticality", "DEGRADED",
		"X-Ipc-Attempt", "2", "X-Fit", fit, "Traceparent", "00-1-2-01")
	if !strings.HasPrefix(got.body, "films, 503 injected, ") || !strings.Contains(got.body, `"inject":true`) || !strings.Contains(got.body, `"status":503`) {
		t.Errorf("got %q, want films, ratings failed on purpose, and the cache too", got.body)
	}
	h := *seen.Load()
	for k, want := range map[string]string{"X-Request-Id": "r-1", "X-Ipc-Criticality": "DEGRADED", "X-Ipc-Attempt": "2", "X-Fit": fit, "Traceparent": "00-1-2-01", "X-Ipc-Caller": "shop"} {
		if h.Get(k) != want {
			t.Errorf("the callee got %s: %q, want %q", k, h.Get(k), want)
		}
	}
	var left int
	if fmt.Sscan(h.Get("X-Ipc-Timeout-Ms"), &left); left < 1 || left >= 60_000 {
		t.Errorf("the callee was told that %d ms are left, want less than the 60000 of the caller", left)
	}
	await(t, "the end of all requests that are noted as in flight", func() bool {
		s.inflight.mu.Lock()
		defer s.inflight.mu.Unlock()
		return len(s.inflight.byID) == 0
	})
}

func TestHeadersAlterOneCall(t *testing.T) {
	gate := make(chan struct{})
	var asked atomic.Int64
	recs := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		switch r.URL.Path {
		case "/slow":
			select {
			case <-gate:
			case <-r.Context().Done():
			}
		case "/sick":
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, "%s %s %s", r.Header.Get(headerCommand), r.Header.Get(headerIdempotent), r.Header.Get("X-Ipc-Criticality"))
	})
	defer close(gate)
	other := instanceOf("recommendations", recs.URL)
	other.ID = "second"
	startPlatform(t, nil, instanceOf("recommendations", recs.URL), other)
	s := start(t, Config{To: addrOf(serve(t, greet))})
	c := via(t, s)

	if got := do(t, c, "GET", "http://recommendations/slow", nil, "X-Ipc-Timeout-Ms", "60"); got.status != 504 || got.header.Get(headerError) != "timeout" ||
		!strings.Contains(got.body, "X-Ipc-Timeout-Ms") {
		t.Errorf("60 ms for what is slow: got %d %s %q", got.status, got.header.Get(headerError), got.body)
	}
	if got := do(t, c, "GET", "http://recommendations/slow", nil, "X-Ipc-Timeout-Ms", "0"); got.status != 504 {
		t.Errorf("no time at all: got %d, want 504", got.status)
	}
	if got := do(t, c, "GET", "http://recommendations/x", nil, headerCommand, "GetRecs", "X-Ipc-Criticality", "bulk", headerIdempotent, "true"); got.body != "  BULK" {
		t.Errorf("the callee saw %q, want the criticality alone", got.body)
	}
	if states := fmt.Sprint(s.calls.Snapshot()); !strings.Contains(states, "{GetRecs ") {
		t.Errorf("there is no command GetRecs: %s", states)
	}
	asked.Store(0)
	do(t, c, "POST", "http://recommendations/sick", strings.NewReader("x"))
	if n := asked.Load(); n != 1 {
		t.Errorf("a POST was sent %d times, want once", n)
	}
	asked.Store(0)
	do(t, c, "POST", "http://recommendations/sick", nil, headerIdempotent, "true")
	if n := asked.Load(); n < 2 {
		t.Errorf("an idempotent POST was sent %d times, want retries", n)
	}
	for _, h := range [][2]string{{"X-Ipc-Timeout-Ms", "soon"}, {"X-Ipc-Criticality", "HIGH"}, {headerIdempotent, "maybe"}, {headerCommand, strings.Repeat("x", 200)}} {
		if got := do(t, c, "GET", "http://recommendations/x", nil, h[0], h[1]); got.status != 400 || got.header.Get(headerError) != "badrequest" || !strings.Contains(got.body, h[0]) {
			t.Errorf("%s: %s: got %d %q, want 400 that names it", h[0], h[1], got.status, got.body)
		}
	}
}

func TestABodyOfAnyLengthPassesInConstantMemory(t *testing.T) {
	const size = 256 << 20
	recs := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%d", n)
	})
	startPlatform(t, nil, instanceOf("recommendations", recs.URL))
	s := start(t, Config{To: addrOf(serve(t, greet))})
	var peak atomic.Uint64
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	body := &zeros{left: size, every: func() {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak.Store(max(peak.Load(), m.HeapInuse))
	}}
	got := do(t, via(t, s), "POST", "http://recommendations/upload", io.NopCloser(body), "X-Ipc-Timeout-Ms", "60000")
	if got.body != fmt.Sprint(size) {
		t.Errorf("got %d %q, want %d bytes to arrive", got.status, got.body, size)
	}
	if grown := int64(peak.Load()) - int64(before.HeapInuse); grown > 32<<20 {
		t.Errorf("memory grew by %d MiB while %d MiB passed", grown>>20, size>>20)
	}
}

// zeros is a body of zeros that looks around every 16 MiB.
type zeros struct {
	left  int
	every func()
}

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), z.left)
	clear(p[:n])
	if z.left>>24 != (z.left-n)>>24 {
		z.every()
	}
	z.left -= n
	return n, nil
}

func TestCodedBodiesPassUntouched(t *testing.T) {
	packed := []byte("\x1f\x8b not really gzip, and nobody may look")
	recs := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("X-Asked", r.Header.Get("Accept-Encoding"))
		w.Write(got)
	})
	startPlatform(t, nil, instanceOf("recommendations", recs.URL))
	s := start(t, Config{To: addrOf(serve(t, greet))})
	for _, accept := range []string{"gzip, br", ""} {
		got := do(t, via(t, s), "POST", "http://recommendations/", bytes.NewReader(packed), "Content-Encoding", "gzip", "Accept-Encoding", accept)
		if got.body != string(packed) || got.header.Get("X-Asked") != accept || got.header.Get("Content-Encoding") != "gzip" {
			t.Errorf("Accept-Encoding %q: got %q, asked for %q", accept, got.body, got.header.Get("X-Asked"))
		}
	}
}

// h2c starts a server that speaks HTTP/2 in clear alone.
func h2c(t *testing.T, h http.HandlerFunc) *httptest.Server {
	srv := httptest.NewUnstartedServer(h)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

func TestGRPCPassesOverHTTP2BothWaysAtOnce(t *testing.T) {
	recs := h2c(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" {
			t.Errorf("got %s with Te %q", r.Proto, r.Header.Get("Te"))
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		for line := bufio.NewReader(r.Body); ; {
			text, err := line.ReadString('\n')
			if err != nil {
				break
			}
			io.WriteString(w, "re: "+text)
			w.(http.Flusher).Flush()
		}
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	})
	shop := h2c(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		fmt.Fprintf(w, "shop by %s", r.Proto)
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "5")
	})
	startPlatform(t, nil, instanceOf("recommendations", recs.URL))
	s := start(t, Config{To: addrOf(shop), Inbound: "127.0.0.1:0"})
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()

	in, out := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+s.Addr()+"/pkg.Recs/Watch", in)
	req.Host = "recommendations"
	req.Header = http.Header{"Content-Type": {"application/grpc+proto"}, "Te": {"trailers"}}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	back := bufio.NewReader(resp.Body)
	for _, word := range []string{"one\n", "two\n"} { // each is answered before the next is sent
		io.WriteString(out, word)
		if got, err := back.ReadString('\n'); got != "re: "+word {
			t.Fatalf("sent %q, got %q %v", word, got, err)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(back); err != nil || len(rest) > 0 || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("the end: got %q %v with trailers %v", rest, err, resp.Trailer)
	}

	req, _ = http.NewRequestWithContext(t.Context(), "POST", "http://"+s.Registered()+"/pkg.Shop/Buy", nil)
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	resp, err = tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "shop by HTTP/2.0" || resp.Trailer.Get("Grpc-Status") != "5" {
		t.Errorf("inbound: got %q with %v", body, resp.Trailer)
	}
}

func TestHostileInputIsRefusedAndNothingIsSmuggled(t *testing.T) {
	var paths atomic.Pointer[[]string]
	paths.Store(&[]string{})
	recs := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		now := append(*paths.Load(), r.Method+" "+r.URL.Path+" "+r.Header.Get("X-Fold"))
		paths.Store(&now)
	})
	startPlatform(t, nil, instanceOf("recommendations", recs.URL))
	s := start(t, Config{To: addrOf(serve(t, greet))})
	for _, c := range []struct {
		name, send string
		want       string // of the first answer
		reach      string // what the callee saw
	}{
		{"both lengths", "POST /a HTTP/1.1\r\nHost: recommendations\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: recommendations\r\n\r\n", "200", "POST /a "},
		{"two lengths", "POST /a HTTP/1.1\r\nHost: recommendations\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", "400", ""},
		{"an odd coding", "POST /a HTTP/1.1\r\nHost: recommendations\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "501", ""},
		{"two codings", "POST /a HTTP/1.1\r\nHost: recommendations\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "501", ""},
		{"a folded field", "GET /a HTTP/1.1\r\nHost: recommendations\r\nX-Fold: a\r\n b\r\nConnection: close\r\n\r\n", "200", "GET /a a b"},
		{"a blank before the colon", "GET /a HTTP/1.1\r\nHost: recommendations\r\nTransfer-Encoding : chunked\r\n\r\n", "400", ""},
		{"a bare return in a field", "GET /a HTTP/1.1\r\nHost: recommendations\r\nX-A: b\rGET /b\r\n\r\n", "400", ""},
		{"two hosts", "GET /a HTTP/1.1\r\nHost: recommendations\r\nHost: other\r\n\r\n", "400", ""},
		{"no host in the target", "GET http:///a HTTP/1.1\r\nHost: recommendations\r\n\r\n", "400", ""},
		{"another scheme", "GET ftp://recommendations/a HTTP/1.1\r\nHost: recommendations\r\n\r\n", "400", ""},
		{"a user in the target", "GET http://a:b@recommendations/a HTTP/1.1\r\nHost: recommendations\r\n\r\n", "200", "GET /a "},
		{"a bad port", "GET http://recommendations:99999/a HTTP/1.1\r\nHost: x\r\n\r\n", "400", ""},
		{"CONNECT to nowhere", "CONNECT recommendations HTTP/1.1\r\nHost: x\r\n\r\n", "400", ""},
		{"CONNECT to a stranger", "CONNECT nobody:80 HTTP/1.1\r\nHost: nobody:80\r\n\r\n", "503", ""},
		{"CONNECT to itself", "CONNECT " + s.Addr() + " HTTP/1.1\r\nHost: x\r\n\r\n", "508", ""},
		{"a huge header", "GET /a HTTP/1.1\r\nHost: recommendations\r\nX-A: " + strings.Repeat("a", 100<<10) + "\r\n\r\n", "431", ""},
		{"a dot segment", "GET /../a HTTP/1.1\r\nHost: recommendations\r\nConnection: close\r\n\r\n", "200", "GET /../a "},
		{"a page of another site", "POST /proxy?vip=recommendations&path=/a HTTP/1.1\r\nHost: " + s.Addr() + "\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n\r\n", "403", ""},
		{"led in circles", "GET /a HTTP/1.1\r\nHost: recommendations\r\nX-Ipc-Passed: " + strings.Repeat(s.token+",", 3) + "\r\n\r\n", "508", ""},
	} {
		paths.Store(&[]string{})
		conn, err := net.Dial("tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		go io.WriteString(conn, c.send)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: no answer: %v", c.name, err)
		} else if got := fmt.Sprint(resp.StatusCode); got != c.want {
			body, _ := io.ReadAll(resp.Body)
			t.Errorf("%s: got %s %q, want %s", c.name, got, body, c.want)
		}
		conn.Close()
		if got := strings.Join(*paths.Load(), ", "); got != c.reach {
			t.Errorf("%s: the callee saw %q, want %q", c.name, got, c.reach)
		}
	}
}

func TestACalleeThatDiesIsToldAsItIs(t *testing.T) {
	recs := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			w.Header().Set("Content-Length", "100000")
			w.Write(make([]byte, 50000))
			w.(http.Flusher).Flush()
		}
		panic(http.ErrAbortHandler)
	})
	dead := instanceOf("dead", "http://127.0.0.1:1")
	startPlatform(t, nil, instanceOf("recommendations", recs.URL), dead)
	s := start(t, Config{To: addrOf(serve(t, greet))})
	if got := do(t, via(t, s), "POST", "http://recommendations/cut", strings.NewReader("x")); got.status != 502 || got.header.Get(headerError) != "error" {
		t.Errorf("cut before an answer: got %d %q", got.status, got.body)
	}
	if got := do(t, via(t, s), "GET", "http://dead/", nil); got.status != 502 || !strings.Contains(got.body, "refused") {
		t.Errorf("nobody listens: got %d %q", got.status, got.body)
	}
	resp, err := via(t, s).Get("http://recommendations/half")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut in the middle: got %d bytes and %v, want an unexpected end", n, err)
	}
}

func TestASlowClientIsNotWaitedForForEver(t *testing.T) {
	var got atomic.Bool
	recs := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		got.Store(err == nil)
	})
	startPlatform(t, nil, instanceOf("recommendations", recs.URL))
	s := start(t, Config{To: addrOf(serve(t, greet))})
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "POST /a HTTP/1.1\r\nHost: recommendations\r\nContent-Length: 5\r\nX-Ipc-Timeout-Ms: 100\r\n\r\nab")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("a body that stops: got %v %v, want 504", resp, err)
	}
	if got.Load() {
		t.Error("the callee got a whole body out of a half one")
	}
}

func TestServesWithThePlatformAway(t *testing.T) {
	t.Setenv("ROADBED_REGISTRY", "http://127.0.0.1:1")
	t.Setenv("ROADBED_CONFIG", "http://127.0.0.1:1")
	s := begin(t, Config{App: "shop", To: addrOf(serve(t, greet)), Listen: "127.0.0.1:0", Inbound: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if got := do(t, once, "GET", "http://"+s.Addr()+"/ping", nil); got.body != "pong" {
		t.Errorf("/ping: got %q", got.body)
	}
	if got := do(t, once, "GET", "http://"+s.Registered()+"/", nil); got.body != "hello" {
		t.Errorf("inbound: got %d %q", got.status, got.body)
	}
	if got := do(t, via(t, s), "GET", "http://recommendations/", nil); got.status != 503 {
		t.Errorf("a call to somebody unknown: got %d", got.status)
	}
}

func TestListensOnASocketForOneUserAlone(t *testing.T) {
	startPlatform(t, nil, instanceOf("recommendations", serve(t, greet).URL))
	path := t.TempDir() + "/s.sock"
	s := start(t, Config{To: addrOf(serve(t, greet)), Listen: "unix:" + path})
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.Addr())
	}}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr}
	if got := do(t, c, "GET", "http://localhost/ping", nil); got.body != "pong" {
		t.Errorf("/ping: got %q", got.body)
	}
	if got := do(t, c, "GET", "http://recommendations/", nil); got.body != "hello" {
		t.Errorf("by its name: got %q", got.body)
	}
	if _, err := Start(t.Context(), Config{App: "b", To: "127.0.0.1:1", Listen: "unix:" + path}); err == nil || !strings.Contains(err.Error(), "served by another process") {
		t.Errorf("a second sidecar there: got %v", err)
	}
}

func TestStartRefusesWhatCannotBeMeant(t *testing.T) {
	taken := serve(t, greet)
	for want, c := range map[string]Config{
		"where the neighbour listens": {App: "a"},
		"write it as 127.0.0.1:3000":  {App: "a", To: "3000"},
		"own address":                 {App: "a", To: "127.0.0.1:7080"},
		"a port of its own":           {App: "a", To: "127.0.0.1:3000", Inbound: "127.0.0.1:7080"},
		"not on loopback":             {App: "a", To: "127.0.0.1:3000", Listen: "0.0.0.0:7080"},
		"with --listen or -p":         {App: "a", To: "127.0.0.1:3000", Listen: addrOf(taken)},
		"health URL":                  {App: "a", To: "127.0.0.1:3000", Health: "localhost/x"},
		"only letters":                {App: "a b", To: "127.0.0.1:3000", Listen: "127.0.0.1:0"},
		"taken by another process":    {App: "a", To: "127.0.0.1:3000", Listen: "127.0.0.1:0", Inbound: addrOf(taken)},
		"has no path":                 {App: "a", To: "127.0.0.1:3000", Listen: "unix:"},
	} {
		if s, err := Start(t.Context(), c); err == nil || !strings.HasPrefix(err.Error(), "sidecar: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want an error that says %q", c, err, want)
			if err == nil {
				s.Wait()
			}
		}
	}
}

func TestUpgradedConnectionsPassOutAndIn(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" {
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		line, _ := rw.ReadString('\n')
		io.WriteString(conn, "you said "+line)
	}
	startPlatform(t, nil, instanceOf("recommendations", serve(t, echo).URL))
	s := start(t, Config{To: addrOf(serve(t, echo)), Inbound: "127.0.0.1:0"})
	for at, host := range map[string]string{s.Addr(): "recommendations", s.Registered(): "shop"} {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: "+host+"\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello\n")
		got, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 101 ") || !strings.HasSuffix(string(got), "you said hello\n") {
			t.Errorf("by %s: got %q %v", host, got, err)
		}
		conn.Close()
	}
}

func TestEachKindOfFailureHasItsStatus(t *testing.T) {
	s := &Sidecar{log: slog.New(slog.DiscardHandler)}
	for _, c := range []struct {
		err    error
		status int
		kind   string
		says   string
	}{
		{&ipc.Error{Kind: ipc.TimedOut, Cause: ipc.ErrTimeout}, 504, "timeout", "hystrix.command.films."},
		{context.DeadlineExceeded, 504, "timeout", "X-Ipc-Timeout-Ms"},
		{&ipc.Error{Kind: ipc.NoEndpoint, Cause: ipc.ErrNoEndpoint}, 503, "noendpoint", "roadbed instance list"},
		{&ipc.Error{Kind: ipc.Open, Cause: ipc.ErrOpen}, 503, "open", "left alone"},
		{&ipc.Error{Kind: ipc.Rejected, Cause: ipc.ErrRejected}, 503, "rejected", "in flight"},
		{&ipc.Error{Kind: ipc.Limited, Cause: ipc.ErrLimited}, 503, "limited", "adaptive limit"},
		{&ipc.Error{Kind: ipc.Shed, Cause: ipc.ErrShed}, 503, "shed", "too much to do"},
		{&ipc.Error{Kind: ipc.Failed, Cause: ipc.ErrBodySent}, 502, "error", "not kept for another try"},
		{&ipc.Error{Kind: ipc.Injected, Cause: ipc.ErrInjected}, 502, "injected", "on purpose"},
		{io.ErrUnexpectedEOF, 502, "error", "unexpected EOF"},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "http://films/", nil)
		s.failed(w, r.WithContext(context.WithValue(r.Context(), callKey{}, &call{app: "films"})), c.err)
		if w.Code != c.status || w.Header().Get(headerError) != c.kind || !strings.Contains(w.Body.String(), c.says) || (w.Code == 503) != (w.Header().Get("Retry-After") != "") {
			t.Errorf("%v: got %d %q %q, want %d %q with %q", c.err, w.Code, w.Header().Get(headerError), w.Body, c.status, c.kind, c.says)
		}
	}
}
