package registry

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

// wire is one direction of a connection in memory. What is written in one piece is read in one piece or more.
type wire struct {
	mu       sync.Mutex
	cond     *sync.Cond
	pieces   [][]byte
	ended    bool
	closed   bool
	deadline time.Time
	timer    *time.Timer
}

func newWire() *wire {
	w := &wire{}
	w.cond = sync.NewCond(&w.mu)
	return w
}

func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		switch {
		case w.closed:
			return 0, net.ErrClosed
		case !w.deadline.IsZero() && !w.deadline.After(time.Now()):
			return 0, os.ErrDeadlineExceeded
		case len(w.pieces) > 0:
			n := copy(p, w.pieces[0])
			if w.pieces[0] = w.pieces[0][n:]; len(w.pieces[0]) == 0 {
				w.pieces = w.pieces[1:]
			}
			return n, nil
		case w.ended:
			return 0, io.EOF
		}
		w.cond.Wait()
	}
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(p) > 0 {
		w.pieces = append(w.pieces, bytes.Clone(p))
	}
	w.cond.Broadcast()
	return len(p), nil
}

func (w *wire) end(read bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.closed = w.closed || read
	w.cond.Broadcast()
}

func (w *wire) setDeadline(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline = t
	if w.timer != nil {
		w.timer.Stop()
	}
	if !t.IsZero() {
		w.timer = time.AfterFunc(time.Until(t), func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.cond.Broadcast()
		})
	}
	w.cond.Broadcast()
}

// memoryConn is one end of a connection in memory.
type memoryConn struct{ in, out *wire }

func (c memoryConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c memoryConn) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c memoryConn) CloseWrite() error           { c.out.end(false); return nil }
func (c memoryConn) Close() error {
	c.setDeadline(time.Time{})
	c.in.end(true)
	c.out.end(false)
	return nil
}
func (c memoryConn) LocalAddr() net.Addr                { return &net.TCPAddr{} }
func (c memoryConn) RemoteAddr() net.Addr               { return &net.TCPAddr{} }
func (c memoryConn) setDeadline(t time.Time)            { c.in.setDeadline(t) }
func (c memoryConn) SetDeadline(t time.Time) error      { c.setDeadline(t); return nil }
func (c memoryConn) SetReadDeadline(t time.Time) error  { c.setDeadline(t); return nil }
func (c memoryConn) SetWriteDeadline(t time.Time) error { return nil }

// memoryListener accepts connections in memory.
type memoryListener struct {
	ready chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *memoryListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *memoryListener) Addr() net.Addr { return &net.TCPAddr{} }

// served is a registry behind net/http, with the front or without.
type served struct {
	r    *Registry
	srv  *http.Server
	l    *memoryListener
	done chan error
}

func serveInMemory(r *Registry, fronted bool) *served {
	s := &served{
		r: r, l: &memoryListener{ready: make(chan net.Conn), done: make(chan struct{})}, done: make(chan error, 1),
		srv: &http.Server{
			ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 90 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
			Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.Header.Get("Authorization") == "no" {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				switch r.prefixes.parse(req.URL.EscapedPath()).what {
				case nodePages, lastPages, serverStatus: // they tell the time and the memory, which two servers do not share
					io.WriteString(w, "a page") //nolint:errcheck // the client is the test
					return
				}
				if b, err := io.ReadAll(req.Body); err != nil {
					w.WriteHeader(http.StatusBadRequest)
				} else if req.Method == "POST" && !bytes.HasPrefix(b, []byte("{")) {
					fmt.Fprintf(w, "%d bytes", len(b)) //nolint:errcheck // the client is the test
				} else {
					req.Body = io.NopCloser(bytes.NewReader(b))
					r.Handler().ServeHTTP(w, req)
				}
			}),
		},
	}
	var l net.Listener = s.l
	if fronted {
		l = r.Front(s.srv, l, func(_, authorization string) bool { return authorization != "no" })
	}
	go func() { s.done <- s.srv.Serve(l) }()
	return s
}

func (s *served) dial() memoryConn {
	a, b := newWire(), newWire()
	s.l.ready <- memoryConn{a, b}
	return memoryConn{b, a}
}

func (s *served) close(t failer) {
	s.srv.Close()
	if err := <-s.done; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("serve: %v", err)
	}
}

var times13 = regexp.MustCompile(`[0-9]{13}`)

// talk sends the pieces, each at once, and returns what is answered, in the form in which two servers can be compared.
func (s *served) talk(pieces [][]byte) (answers []string) {
	c := s.dial()
	defer c.Close()
	for _, p := range pieces {
		c.Write(p) //nolint:errcheck // into memory
	}
	c.CloseWrite() //nolint:errcheck // in memory
	in := bufio.NewReader(c)
	for {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			rest, _ := io.ReadAll(in)
			if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) || len(rest) > 0 {
				answers = append(answers, "no answer: "+err.Error())
			}
			return answers
		}
		body, err := io.ReadAll(resp.Body)
		if resp.Header.Get("Content-Encoding") == "gzip" && err == nil {
			var z *gzip.Reader
			if z, err = gzip.NewReader(bytes.NewReader(body)); err == nil {
				body, err = io.ReadAll(z)
			}
			resp.Header.Del("Content-Length") // times compress differently
		}
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil && time.Since(date).Abs() < time.Minute {
			resp.Header.Del("Date")
		}
		answers = append(answers, fmt.Sprintf("%s %s close=%v %v %v %s", resp.Proto, resp.Status, resp.Close, resp.Header, err, times13.ReplaceAll(body, []byte("#"))))
	}
}

func small() *Registry {
	r := New(Config{Log: slog.New(slog.DiscardHandler)})
	for _, id := range []string{"a", "b", "h:web:80"} {
		rec := shop()
		rec.app, rec.id, rec.duration = "WEB", id, 3600
		r.s.register(rec, origin{})
	}
	return r
}

const (
	beat = "PUT /eureka/v2/apps/WEB/h:web:80?status=UP&lastDirtyTimestamp=1759999999000 HTTP/1.1\r\nHost: localhost:8761\r\n" +
		"DiscoveryIdentity-Name: DefaultClient\r\nDiscoveryIdentity-Version: 1.4\r\nDiscoveryIdentity-Id: 10.1.2.3\r\n" +
		"Accept-Encoding: gzip\r\nContent-Length: 0\r\nUser-Agent: Java-EurekaClient/v1.10\r\nConnection: Keep-Alive\r\n\r\n"
	unknownBeat = "PUT /eureka/apps/WEB/nobody HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
	look        = "GET /eureka/apps/ HTTP/1.1\r\nHost: [::1]:8761\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate\r\n\r\n"
	lookAtDelta = "GET //v2/apps/delta HTTP/1.1\r\nHost: localhost\r\nX-Eureka-Accept: compact\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n\r\n"
	lookAtOne   = "GET /eureka/apps/web/a HTTP/1.1\r\nHost: localhost\r\n\r\n"
	posted      = "POST /eureka/apps/WEB HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n12345"
	chunked     = "POST /eureka/apps/WEB HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n"
	denied      = "PUT /eureka/apps/WEB/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: no\r\n\r\n"
)

// exchanges are what clients send, and what somebody might who wants the front and net/http to disagree.
var exchanges = []string{
	beat, unknownBeat, look, lookAtDelta, lookAtOne, posted, chunked, denied,
	beat + beat + unknownBeat + beat, look + beat + lookAtDelta, beat + posted + beat + look, posted + posted, lookAtOne + beat,
	chunked + beat, beat + chunked, denied + beat, beat + denied,
	strings.Repeat(beat, 60), posted[:len(posted)-3], beat[:len(beat)-1], beat + beat[:30], "", "\r\n\r\n" + beat,
	strings.Replace(beat, "HTTP/1.1", "HTTP/1.0", 1) + beat,
	strings.Replace(beat, "Keep-Alive", "close", 1) + beat,
	strings.Replace(posted, "Host", "Expect: 100-continue\r\nHost", 1) + beat,
	strings.Replace(posted, "Host", "Expect: nonsense\r\nHost", 1) + beat,
	strings.Replace(posted, "Content-Length: 5", "Content-Length: 5\r\nContent-Length: 5", 1) + beat,
	strings.Replace(posted, "Content-Length: 5", "Content-Length: 5\r\nContent-Length: 6", 1) + beat,
	strings.Replace(posted, "Content-Length: 5", "Content-Length: 5\r\nTransfer-Encoding: chunked", 1) + beat,
	strings.Replace(posted, "Content-Length: 5", "Content-Length: +5", 1) + beat,
	strings.Replace(posted, "Content-Length: 5", "Content-Length: 0005", 1) + beat,
	strings.Replace(posted, "Content-Length: 5", "Content-Length:\t5 ", 1) + beat,
	strings.Replace(posted, "Content-Length: 5", "Content-Length : 5", 1) + beat,
	strings.Replace(posted, "Content-Length: 5", "Content-Length: 5\r", 1) + beat,
	strings.Replace(posted, "Content-Length: 5", "Content-Length: 1\r\n 5", 1) + beat,
	strings.Replace(posted, "Content-Length: 5", "Content-Length: 99999999999999999999", 1) + beat,
	strings.Replace(posted, "Content-Length: 5", "X: 1\nContent-Length: 5", 1) + beat,
	strings.Replace(posted, "Content-Length: 5", "Content_Length: 5", 1) + beat,
	strings.Replace(chunked, "Transfer-Encoding: chunked", "Transfer-Encoding: identity", 1) + beat,
	strings.Replace(chunked, "Transfer-Encoding: chunked", "Transfer-Encoding : chunked", 1) + beat,
	strings.Replace(chunked, "Transfer-Encoding: chunked", "Transfer-Encoding:\x0bchunked", 1) + beat,
	strings.ReplaceAll(beat, "\r\n", "\n") + beat,
	strings.Replace(beat, "\r\nHost", "\r\n\tHost", 1) + beat,
	strings.Replace(beat, "Host: localhost:8761\r\n", "", 1) + beat,
	strings.Replace(beat, "Host", "Host: a\r\nHost", 1) + beat,
	strings.Replace(beat, "localhost:8761", "a b", 1) + beat,
	strings.Replace(beat, "localhost:8761", "", 1) + beat,
	strings.Replace(beat, "Accept-Encoding", "X-Roadbed-Actor: ana\r\nAccept-Encoding", 1) + beat,
	strings.Replace(look, "Accept: application/json", "Accept: application/xml\r\nAccept: application/json", 1) + beat,
	strings.Replace(look, "Accept-Encoding", "Accept-Encoding: identity\r\nAccept-Encoding", 1) + beat,
	strings.Replace(look, "application/json", "application/json\x00", 1) + beat,
	strings.Replace(look, "application/json", "application/json\xe9", 1) + beat,
	strings.Replace(beat, "/eureka/v2", "http://other/eureka/v2", 1) + beat,
	strings.Replace(beat, "h:web:80", "h%3Aweb%3A80", 1) + beat,
	strings.Replace(beat, "h:web:80", "h%zzweb", 1) + beat,
	strings.Replace(beat, "WEB", "../WEB", 1) + beat,
	strings.Replace(beat, "WEB", "web", 1) + strings.Replace(beat, "?", "??", 1) + strings.Replace(beat, "?status", "?st=a%20b&x=%zz&status", 1),
	strings.Replace(beat, "?", "#a?", 1) + beat,
	strings.Replace(beat, "PUT", "put", 1) + beat,
	strings.Replace(beat, "PUT", "PUT ", 1) + beat,
	strings.Replace(beat, "PUT", "PATCH", 1) + beat,
	strings.Replace(beat, "HTTP/1.1", "HTTP/1.1 ", 1) + beat,
	strings.Replace(beat, "Connection: Keep-Alive", "Connection: Keep-Alive, TE\r\nTE: trailers", 1) + beat,
	strings.Replace(beat, "Connection: Keep-Alive", "Connection: Upgrade\r\nUpgrade: websocket", 1) + beat,
	strings.Replace(beat, "Content-Length: 0", "Content-Length: 0\r\nx-netflix-discovery-replication: true", 1) + strings.Replace(beat, "9000 HTTP", "0000 HTTP", 1),
	strings.Replace(strings.Replace(beat, "9000 HTTP", "0000 HTTP", 1), "Content-Length: 0", "Content-Length: 0\r\nx-netflix-discovery-replication: true", 1) + beat,
	strings.Replace(beat, "9000 HTTP", "9999 HTTP", 1) + beat,
	strings.Replace(beat, "Content-Length: 0", "Content-Length: 3", 1) + "abc" + beat,
	strings.Replace(beat, "\r\n\r\n", "\r\nLong: "+strings.Repeat("x", 5000)+"\r\n\r\n", 1) + beat,
	strings.Replace(posted, "5\r\n\r\n12345", "9000\r\n\r\n"+strings.Repeat("y", 9000), 1) + beat + posted,
	strings.Replace(posted, "5\r\n\r\n12345", "400000\r\n\r\n"+strings.Repeat("y", 400000), 1) + beat,
	beat + "HEAD" + lookAtOne[3:], "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n" + beat,
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + beat,
}

// TestFrontAnswersAsNetHTTPDoes says each exchange to both, whole, byte by byte, and cut in two at every place.
func TestFrontAnswersAsNetHTTPDoes(t *testing.T) {
	defer goleak.VerifyNone(t)
	fronted, bare := serveInMemory(small(), true), serveInMemory(small(), false)
	defer fronted.close(t)
	defer bare.close(t)
	for _, x := range exchanges {
		want := bare.talk([][]byte{[]byte(x)})
		check := func(how string, pieces [][]byte) {
			if got := fronted.talk(pieces); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%.300q, %s:\n got %.1000q\nwant %.1000q", x, how, got, want)
			}
		}
		check("whole", [][]byte{[]byte(x)})
		if len(x) > 6000 {
			continue
		}
		var bytewise [][]byte
		for i := range len(x) {
			bytewise = append(bytewise, []byte{x[i]})
		}
		check("byte by byte", bytewise)
		for i := 1; i < len(x); i += 1 + len(x)/400 {
			check(fmt.Sprintf("cut at %d", i), [][]byte{[]byte(x[:i]), []byte(x[i:])})
		}
	}
}

func TestFrontAnswersAnyMixAsNetHTTPDoes(t *testing.T) {
	fronted, bare := serveInMemory(small(), true), serveInMemory(small(), false)
	defer fronted.close(t)
	defer bare.close(t)
	rapid.Check(t, func(t *rapid.T) {
		x := strings.Join(rapid.SliceOfN(rapid.SampledFrom(exchanges[:20]), 1, 5).Draw(t, "exchanges"), "")
		var pieces [][]byte
		for rest := x; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "cut")
			pieces = append(pieces, []byte(rest[:n]))
			rest = rest[n:]
		}
		if got, want := fronted.talk(pieces), bare.talk([][]byte{[]byte(x)}); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("got %.1000q\nwant %.1000q", got, want)
		}
	})
}

func FuzzFront(f *testing.F) {
	for _, x := range exchanges {
		if len(x) < 2000 {
			f.Add([]byte(x), uint16(len(x)/2))
		}
	}
	fronted, bare := serveInMemory(small(), true), serveInMemory(small(), false)
	f.Cleanup(func() { fronted.close(f); bare.close(f) })
	f.Fuzz(func(t *testing.T, x []byte, cut uint16) {
		i := min(int(cut), len(x))
		want := bare.talk([][]byte{x})
		if got := fronted.talk([][]byte{x[:i], x[i:]}); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%q cut at %d:\n got %.2000q\nwant %.2000q", x, i, got, want)
		}
	})
}

// answered counts the answers that have arrived at c.
func answered(c memoryConn) int {
	synctest.Wait()
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return bytes.Count(bytes.Join(c.in.pieces, nil), []byte("HTTP/1.1 "))
}

func hungUp(c memoryConn) bool {
	synctest.Wait()
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return c.in.ended
}

func TestFrontKeepsConnectionsThatAreUsedAndEndsOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveInMemory(small(), true)
		defer s.close(t)
		used, idle, slow, unused := s.dial(), s.dial(), s.dial(), s.dial()
		for _, c := range []memoryConn{used, idle, slow} {
			c.Write([]byte(beat)) //nolint:errcheck // into memory
			if got := answered(c); got != 1 {
				t.Fatalf("a heartbeat: got %d answers, want 1", got)
			}
		}
		slow.Write([]byte(beat[:20])) //nolint:errcheck // as above
		for i, step := range []struct {
			after              time.Duration
			idle, slow, unused bool // whether they have ended
		}{
			{9 * time.Second, false, false, false},
			{2 * time.Second, false, true, true}, // 11 s
			{70 * time.Second, false, true, true},
			{12 * time.Second, true, true, true}, // 93 s
			{100 * time.Second, true, true, true},
		} {
			if step.after > 90*time.Second {
				time.Sleep(step.after / 2)
				used.Write([]byte(beat)) //nolint:errcheck // as above
				step.after /= 2
			}
			time.Sleep(step.after)
			if a, b, c := hungUp(idle), hungUp(slow), hungUp(unused); a != step.idle || b != step.slow || c != step.unused {
				t.Errorf("step %d: idle ended %v, slow %v, unused %v; want %v, %v, %v", i, a, b, c, step.idle, step.slow, step.unused)
			}
			used.Write([]byte(beat)) //nolint:errcheck // as above
			if got := answered(used); got != i+2+i/4 || hungUp(used) {
				t.Errorf("step %d: a connection in use: got %d answers, ended %v; want %d and open", i, got, hungUp(used), i+2)
			}
		}
	})
}

func TestFrontEndsItsConnectionsWhenTheServerDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveInMemory(small(), true)
		fresh, beating, lending := s.dial(), s.dial(), s.dial()
		beating.Write([]byte(beat))        //nolint:errcheck // into memory
		lending.Write([]byte(beat + look)) //nolint:errcheck // as above
		lending.Write([]byte(lookAtOne))   //nolint:errcheck // as above
		if a, b := answered(beating), answered(lending); a != 1 || b != 3 {
			t.Fatalf("answers: got %d and %d, want 1 and 3", a, b)
		}
		start := time.Now()
		if err := s.srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("shutting down took %v, want at most 1 s", took)
		}
		for name, c := range map[string]memoryConn{"fresh": fresh, "beating": beating, "lending": lending} {
			if !hungUp(c) {
				t.Errorf("after the server shut down the %s connection is open", name)
			}
		}
		<-s.done
	})
}

func TestFrontAsksWhetherAClientMayPassWhenItSaysSomethingNew(t *testing.T) {
	r := small()
	asked := 0
	srv := &http.Server{Handler: http.NotFoundHandler()}
	l := &memoryListener{ready: make(chan net.Conn, 1), done: make(chan struct{})}
	fl := r.Front(srv, l, func(host, authorization string) bool {
		asked++
		return host == "localhost" && authorization == "Bearer x"
	})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(fl) }()
	s := &served{r: r, srv: srv, l: l, done: done}
	good := "PUT /eureka/apps/WEB/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n"
	bad := strings.Replace(good, "Bearer x", "Bearer y", 1)
	got := s.talk([][]byte{[]byte(good + good + bad + good + good)})
	var statuses []string
	for _, a := range got {
		statuses = append(statuses, strings.Fields(a)[1])
	}
	if fmt.Sprint(statuses) != "[200 200 404 200 200]" || asked != 3 {
		t.Errorf("got %v and asked %d times; want net/http's 404 for the one that may not pass, and 3", statuses, asked)
	}
	s.close(t)
}

// TestFrontOverTCP is for what only real sockets do: reading without a buffer.
func TestFrontOverTCP(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := small()
	srv := &http.Server{Handler: r.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 90 * time.Second}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	fl := r.Front(srv, l, func(string, string) bool { return true })
	go func() { done <- srv.Serve(fl) }()
	tr := &http.Transport{}
	client := &http.Client{Transport: tr}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 200 {
				method, path, want := "PUT", "/eureka/apps/WEB/a?status=UP", 200
				switch i % 5 {
				case 1:
					method, path = "GET", "/eureka/apps/"
				case 2:
					method, path, want = "PUT", "/eureka/apps/WEB/nobody", 404
				case 3:
					method, path = "GET", "/eureka/apps/WEB/b"
				case 4:
					method, path, want = "POST", "/eureka/apps/WEB", 400
				}
				req, err := http.NewRequest(method, "http://"+l.Addr().String()+path, strings.NewReader(strings.Repeat("x", i%5/4*9000)))
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body) //nolint:errcheck // its status is what counts
				resp.Body.Close()
				if resp.StatusCode != want {
					t.Errorf("%s %s: got %d, want %d", method, path, resp.StatusCode, want)
				}
			}
		})
	}
	wg.Wait()
	tr.CloseIdleConnections()
	if err := srv.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	<-done
}

func TestFrontLosesNothingToAClientThatReadsSlowly(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := small()
	srv := &http.Server{Handler: r.Handler()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	fl := r.Front(srv, l, func(string, string) bool { return true })
	go func() { done <- srv.Serve(fl) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	const requests = 50_000
	const lost = "PUT /eureka/apps/WEB/nobody HTTP/1.1\r\nHost: h\r\n\r\n"
	const kept = "PUT /eureka/apps/WEB/a HTTP/1.1\r\nHost: h\r\n\r\n"
	go func() {
		for range requests / 2 {
			if _, err := io.WriteString(conn, kept+lost); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	in := bufio.NewReaderSize(conn, 1024)
	for i := range requests {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if want := []int{200, 404}[i%2]; resp.StatusCode != want {
			t.Fatalf("answer %d: got %d, want %d", i, resp.StatusCode, want)
		}
	}
	conn.Close()
	if err := srv.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	<-done
}
