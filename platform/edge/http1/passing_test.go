package http1

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// steadily listens as an origin that answers everything the same.
func steadily(t testing.TB, answer string) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			steady(t, c, answer)
		}
	}()
	return l.Addr().String()
}

// passing is a server that passes requests on to an origin, as the edge does.
func passing(t testing.TB, config Config, origin string) (addr string) {
	t.Helper()
	var mu sync.Mutex
	var pool []*Upstream
	done := func(u *Upstream, ok bool) {
		if ok {
			mu.Lock()
			pool = append(pool, u)
			mu.Unlock()
		}
	}
	outs := sync.Pool{New: func() any { return &Outgoing{Done: done} }}
	config.Serve = func(x *filter.Exchange) {
		q, o := &x.Request, outs.Get().(*Outgoing)
		defer outs.Put(o)
		for fresh := false; ; fresh = true {
			var u *Upstream
			mu.Lock()
			if n := len(pool); n > 0 && !fresh {
				u, pool = pool[n-1], pool[:n-1]
			}
			mu.Unlock()
			if u == nil {
				c, err := net.Dial("tcp", origin)
				if err != nil {
					x.Answer(502, err.Error())
					return
				}
				u = NewUpstream(c)
			}
			o.Method, o.Host, o.Target, o.Header, o.Deadline = q.Method, q.Host, q.Target, &q.Header, x.Start+int64(time.Minute)
			o.ContentLength, o.Body, o.Trailer, o.Upgrade = q.ContentLength, q.Body, &q.Trailer, q.Upgrade != ""
			err := u.Do(x, o)
			if err == nil {
				return
			}
			if e := err.(*Error); e.Kind != Stale || e.Sent {
				x.Answer(502, err.Error())
				return
			}
		}
	}
	s := NewServer(config)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Drain(ctx)
		for _, u := range pool {
			u.Close()
		}
	})
	return l.Addr().String()
}

// through passes requests on to a net/http server, and returns a client of it.
func through(t *testing.T, handler http.HandlerFunc) (url string, client *http.Client) {
	back := httptest.NewServer(handler)
	t.Cleanup(back.Close)
	addr := passing(t, Config{}, back.Listener.Addr().String())
	tr := &http.Transport{ExpectContinueTimeout: 10 * time.Second}
	t.Cleanup(tr.CloseIdleConnections)
	return "http://" + addr, &http.Client{Transport: tr, Timeout: time.Minute}
}

func TestBodiesPassBothWays(t *testing.T) {
	url, client := through(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("the origin read %v", err)
		}
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Got", fmt.Sprint(len(b), r.ContentLength, r.TransferEncoding, r.Trailer.Get("X-In")))
		if r.URL.Query().Has("length") {
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		}
		w.Write(b)
		w.Header().Set("X-Sum", fmt.Sprint(len(b)))
	})
	for _, n := range []int{0, 1, 1000, 16 << 10, 17 << 10, 100_000, 3_000_000} {
		body := strings.Repeat("0123456789abcdef", n/16+1)[:n]
		for _, chunked := range []bool{false, true} {
			for _, path := range []string{"/", "/?length"} {
				var in io.Reader = strings.NewReader(body)
				if chunked {
					in = io.MultiReader(in)
				}
				q, _ := http.NewRequest("POST", url+path, in)
				want := fmt.Sprint(n, int64(n), []string(nil), "")
				if chunked {
					q.Trailer = http.Header{"X-In": {"in"}}
					want = fmt.Sprint(n, -1, []string{"chunked"}, "in")
				}
				if n > 1000 {
					q.Header.Set("Expect", "100-continue")
				}
				p, err := client.Do(q)
				if err != nil {
					t.Fatalf("%d bytes, chunked %v: %v", n, chunked, err)
				}
				b, err := io.ReadAll(p.Body)
				if string(b) != body || err != nil || p.Header.Get("X-Got") != want {
					t.Errorf("%d bytes, chunked %v: got %d bytes, %v; the origin got %s, want %s", n, chunked, len(b), err, p.Header.Get("X-Got"), want)
				}
				if sum := p.Trailer.Get("X-Sum"); p.ContentLength < 0 && sum != fmt.Sprint(n) {
					t.Errorf("%d bytes: trailer %q, want %d", n, sum, n)
				}
			}
		}
	}
}

func TestAnEarlyAnswerReachesAClientThatIsStillSending(t *testing.T) {
	addr := passing(t, Config{}, func() string {
		back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		}))
		t.Cleanup(back.Close)
		return back.Listener.Addr().String()
	}())
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n")
	for range 300 { // it sends all this before it looks for an answer
		if _, err := c.Write(make([]byte, 10_000)); err != nil {
			t.Fatalf("the connection was reset while the client was sending: %v", err)
		}
	}
	br := bufio.NewReader(c)
	if got := hear(t, br, "POST"); got != "413 10 too large\n close" {
		t.Errorf("got %q", got)
	}
	if _, err := br.ReadByte(); err == nil {
		t.Error("the connection was not closed")
	}
}

func TestBothSidesMayTalkAtOnce(t *testing.T) {
	url, client := through(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		br := bufio.NewReader(r.Body)
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(w, "echo "+line)
			rc.Flush()
		}
	})
	in, out := io.Pipe()
	q, _ := http.NewRequest("POST", url, in)
	got := make(chan *http.Response, 1)
	go func() {
		p, err := client.Do(q)
		if err != nil {
			t.Error(err)
		}
		got <- p
	}()
	io.WriteString(out, "one\n")
	p := <-got
	if p == nil {
		return
	}
	defer p.Body.Close()
	br := bufio.NewReader(p.Body)
	for _, want := range []string{"one", "two", "three"} {
		if want != "one" {
			io.WriteString(out, want+"\n")
		}
		if line, err := br.ReadString('\n'); line != "echo "+want+"\n" {
			t.Errorf("got %q, %v, want %s", line, err, want)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(br); len(rest) > 0 || err != nil {
		t.Errorf("at the end: got %q, %v", rest, err)
	}
}

func TestWhatAnOriginFlushesComesAtOnce(t *testing.T) {
	next := make(chan string)
	url, client := through(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for s := range next {
			io.WriteString(w, s)
			w.(http.Flusher).Flush()
		}
	})
	p, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Body.Close()
	br := bufio.NewReader(p.Body)
	for i := range 5 {
		want := fmt.Sprintf("data: %d\n", i)
		next <- want
		if line, err := br.ReadString('\n'); line != want {
			t.Errorf("got %q, %v, want %q", line, err, want)
		}
	}
	close(next)
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("got %v, want the end", err)
	}
}

func TestAnotherProtocolPasses(t *testing.T) {
	url, _ := through(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" {
			http.Error(w, "no", 400)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, rw)
	})
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(c)
	p, err := http.ReadResponse(br, nil)
	if err != nil || p.StatusCode != 101 || p.Header.Get("Upgrade") != "echo" {
		t.Fatalf("got %+v, %v", p, err)
	}
	big := bytes.Repeat([]byte("0123456789"), 100_000)
	go func() {
		c.Write(big)
		c.(*net.TCPConn).CloseWrite()
	}()
	if back, err := io.ReadAll(br); !bytes.Equal(back, big) || err != nil {
		t.Errorf("got %d bytes, %v, want %d and the end", len(back), err, len(big))
	}
}

func TestALongBodyPassesInConstantMemory(t *testing.T) {
	const size = 64 << 20
	url, client := through(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if n != size || err != nil {
			t.Errorf("the origin got %d bytes, %v", n, err)
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		io.Copy(w, io.LimitReader(zeros{}, size))
	})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	q, _ := http.NewRequest("POST", url, io.LimitReader(zeros{}, size))
	q.ContentLength = size
	p, err := client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, p.Body)
	runtime.ReadMemStats(&after)
	if n != size || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
	t.Logf("%d MiB each way allocated %d KiB", size>>20, (after.TotalAlloc-before.TotalAlloc)>>10)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 && !raceEnabled { // client and origin take their part of it
		t.Errorf("%d MiB each way allocated %d KiB in all, want less than 4 MiB", size>>20, grown>>10)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// An idle connection has no buffers, and its goroutine's stack shrinks.
func TestAnIdleConnectionCostsLessThan6KiB(t *testing.T) {
	const n = 1000
	use := func() uint64 {
		for range 6 { // stacks shrink by half at each collection
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	var kept []net.Conn
	defer func() {
		for _, c := range kept {
			c.Close()
		}
	}()
	dial := func(addr string) net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, c)
		return c
	}
	// The client's ends are in this process too. What one takes is half of a pair.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	before := use()
	for range n {
		dial(l.Addr().String())
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, c)
	}
	client := (use() - before) / n / 2

	addr := passing(t, Config{Settings: Settings{PerAddress: n + 1}}, steadily(t, answerHead+strings.Repeat("x", 1024)))
	before = use()
	in := make([]byte, 4096)
	for range n {
		c := dial(addr)
		io.WriteString(c, browser)
		for got := 0; got < 1024+len(answerHead); {
			k, err := c.Read(in)
			if err != nil {
				t.Fatal(err)
			}
			got += k
		}
	}
	each := (use()-before)/n - client
	for end := time.Now().Add(time.Minute); each > 6<<10 && !raceEnabled && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		each = (use()-before)/n - client // those that were used last give their buffers back a moment later
	}
	t.Logf("%d bytes each, and %d for the client's end", each, client)
	if each > 6<<10 && !raceEnabled {
		t.Errorf("an idle connection takes %d bytes, want less than 6 KiB", each)
	}
}
