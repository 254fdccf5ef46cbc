package http1

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// pair returns the two ends of a TCP connection over loopback.
func pair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// hidden is a net.Conn of which nobody can tell that it is TCP: as under TLS, or on another system than Linux.
type hidden struct{ net.Conn }

func (h hidden) NetConn() net.Conn { return h.Conn }
func (h hidden) CloseWrite() error { return h.Conn.(*net.TCPConn).CloseWrite() }

// ends are the kinds of connection that everything must work over.
var ends = map[string]func(t testing.TB) (near, far net.Conn){
	"tcp": pair,
	"any": func(t testing.TB) (net.Conn, net.Conn) {
		near, far := pair(t)
		return hidden{near}, far
	},
}

func overEach(t *testing.T, test func(t *testing.T, near, far net.Conn)) {
	for name, make := range ends {
		t.Run(name, func(t *testing.T) {
			near, far := make(t)
			test(t, near, far)
		})
	}
}

// origin answers each request that comes by c with the next of answers, which it writes as they are; then it closes.
func origin(t testing.TB, c net.Conn, answers ...string) {
	var wg sync.WaitGroup
	t.Cleanup(func() { c.Close(); wg.Wait() })
	wg.Go(func() {
		defer c.Close()
		br := bufio.NewReader(c)
		for _, a := range answers {
			q, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.Copy(io.Discard, q.Body)
			if _, err := io.WriteString(c, a); err != nil {
				return
			}
		}
	})
}

// ask does one exchange and reads the whole answer.
func ask(u *Upstream, method string, change ...func(*Outgoing, *filter.Exchange)) (got string, reusable bool, err error) {
	var x filter.Exchange
	defer x.End()
	x.Request.Method = method
	done := 0
	o := &Outgoing{Method: method, Host: "a", Target: "/", Header: &x.Request.Header, Done: func(_ *Upstream, ok bool) { done++; reusable = ok }}
	for _, c := range change {
		c(o, &x)
	}
	if err := u.Do(&x, o); err != nil {
		if done != 0 {
			return "", false, fmt.Errorf("done after %w", err)
		}
		return "", false, err
	}
	var body []byte
	if x.Response.Body != nil {
		if body, err = io.ReadAll(x.Response.Body); err != nil {
			return "", false, err
		}
	}
	trailer := ""
	if x.Response.Trailer != nil {
		trailer = fmt.Sprint(" ", x.Response.Trailer.Fields())
	}
	got = fmt.Sprintf("%d %d %v %q%s", x.Response.Status, x.Response.ContentLength, x.Response.Header.Fields(), body, trailer)
	x.End()
	if done != 1 {
		return got, reusable, fmt.Errorf("done was called %d times", done)
	}
	return got, reusable, nil
}

func TestAnAnswerIsRead(t *testing.T) {
	for _, c := range []struct {
		name, method, answer string
		want                 string
		reusable             bool
	}{
		{"by its length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello", `200 5 [{X y}] "hello"`, true},
		{"of no length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", `200 0 [] ""`, true},
		{"in chunks that come at once", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", `200 5 [] "hello"`, true},
		{"in chunks with trailers", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n", `200 -1 [] "hello" [{X-Sum 1}]`, true},
		{"to its close", "GET", "HTTP/1.1 200 OK\r\n\r\nhello", `200 -1 [] "hello"`, false},
		{"of HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", `200 5 [] "hello"`, false},
		{"that closes", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", `200 5 [] "hello"`, false},
		{"to HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", `200 5 [] ""`, true},
		{"to HEAD, with a body all the same", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", `200 5 [] ""`, false},
		{"204 with a body all the same", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", `204 0 [] ""`, false},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", `304 5 [] ""`, true},
		{"after 100 and 103", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", `200 2 [] "hi"`, true},
		{"with another answer behind it", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", `200 2 [] "hi"`, false},
		{"with a long head", "GET", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 25000) + "\r\nContent-Length: 2\r\n\r\nhi", `200 2 [{X ` + strings.Repeat("a", 25000) + `}] "hi"`, true},
		{"longer than the buffer", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + strings.Repeat("b", 50000), `200 50000 [] "` + strings.Repeat("b", 50000) + `"`, true},
		{"in chunks longer than the buffer", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nc350\r\n" + strings.Repeat("b", 50000) + "\r\n0\r\n\r\n", `200 -1 [] "` + strings.Repeat("b", 50000) + `" []`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			overEach(t, func(t *testing.T, near, far net.Conn) {
				origin(t, far, c.answer)
				u := NewUpstream(near)
				got, reusable, err := ask(u, c.method)
				if got != c.want || reusable != c.reusable || err != nil {
					t.Errorf("got %s, reusable %v, %v, want %s, %v", cut(got), reusable, err, cut(c.want), c.reusable)
				}
			})
		})
	}
}

func TestAnAnswerThatIsNoneIsAnError(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		phase        Phase
		kind         Kind
		answered     bool
	}{
		{"nonsense", "hello\r\n", Waiting, Malformed, true},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", Waiting, Malformed, true},
		{"a bare LF", "HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\nx", Waiting, Malformed, true},
		{"a chunk that is none", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n", Body, Malformed, true},
		{"a head too large", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 40000), Waiting, HeadTooLarge, true},
		{"nothing", "", Waiting, Reset, false},
		{"half a head", "HTTP/1.1 200 OK\r\nConte", Waiting, Reset, true},
		{"half a body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", Body, Reset, true},
		{"half a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello", Body, Reset, true},
		{"interim answers without end", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100), Waiting, Malformed, true},
		{"another protocol, unasked", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", Waiting, Malformed, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			overEach(t, func(t *testing.T, near, far net.Conn) {
				origin(t, far, c.answer)
				got, _, err := ask(NewUpstream(near), "GET")
				var e *Error
				if !errors.As(err, &e) || e.Phase != c.phase || e.Kind != c.kind || e.Answered != c.answered || !e.Sent {
					t.Errorf("got %q and %v (%+v), want %v while %v, answered %v", got, err, e, c.kind, c.phase, c.answered)
				}
				if _, err := near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
					t.Errorf("the connection was not closed: %v", err)
				}
			})
		})
	}
}

func TestAConnectionIsUsedAgain(t *testing.T) {
	overEach(t, func(t *testing.T, near, far net.Conn) {
		origin(t, far, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb")
		u := NewUpstream(near)
		for _, want := range []string{`200 1 [] "a"`, `200 1 [] "b"`} {
			if got, reusable, err := ask(u, "GET"); got != want || !reusable || err != nil {
				t.Errorf("got %s, reusable %v, %v, want %s", got, reusable, err, want)
			}
		}
		for !u.Stale() && near.(interface{ SetDeadline(time.Time) error }) != nil {
			if _, ok := near.(hidden); ok {
				break // nobody can look under it
			}
		}
		_, _, err := ask(u, "POST")
		var e *Error
		if !errors.As(err, &e) || e.Kind != Stale {
			t.Errorf("after the origin closed: got %v, want stale", err)
		}
		if _, ok := near.(hidden); !ok && e.Sent {
			t.Error("the request was written to a connection that was known to be closed")
		}
	})
}

func TestBytesThatCameUnaskedAreNoAnswer(t *testing.T) {
	near, far := pair(t)
	u := NewUpstream(near)
	origin(t, far, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", "never")
	if _, reusable, err := ask(u, "GET"); !reusable || err != nil {
		t.Fatal(reusable, err)
	}
	io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
	for !u.Stale() {
	}
	_, _, err := ask(u, "GET")
	var e *Error
	if !errors.As(err, &e) || e.Kind != Stale || e.Sent {
		t.Errorf("got %v (%+v), want a stale connection on which nothing was sent", err, e)
	}
}

func TestAnOriginThatDoesNotAnswerTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		go io.Copy(io.Discard, far)
		start := time.Now()
		_, _, err := ask(NewUpstream(near), "GET", func(o *Outgoing, _ *filter.Exchange) { o.Deadline = filter.Now() + int64(2*time.Second) })
		var e *Error
		if took := time.Since(start); !errors.As(err, &e) || e.Kind != Timeout || e.Phase != Waiting || took != 2*time.Second {
			t.Errorf("got %v after %v, want a timeout while waiting after 2 s", err, took)
		}
	})
}

func TestABodyThatPausesTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		go func() {
			http.ReadRequest(bufio.NewReader(far))
			io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
		}()
		u := NewUpstream(near)
		u.Idle = 3 * time.Second
		start := time.Now()
		_, _, err := ask(u, "GET")
		var e *Error
		if took := time.Since(start); !errors.As(err, &e) || e.Kind != Timeout || e.Phase != Body || took != 3*time.Second {
			t.Errorf("got %v after %v, want a timeout of the body after 3 s", err, took)
		}
	})
}

func TestALongBodyIsSentWhileTheAnswerMayCome(t *testing.T) {
	body := strings.Repeat("0123456789", 100_000)
	for name, length := range map[string]int64{"by its length": int64(len(body)), "in chunks": -1} {
		t.Run(name, func(t *testing.T) {
			overEach(t, func(t *testing.T, near, far net.Conn) {
				got := make(chan string, 1)
				go func() {
					q, err := http.ReadRequest(bufio.NewReader(far))
					if err != nil {
						got <- err.Error()
						return
					}
					b, err := io.ReadAll(q.Body)
					got <- fmt.Sprint(len(b), string(b) == body, err, q.Trailer)
					io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}()
				var trailer filter.Header
				trailer.Add("X-Sum", "7")
				answer, reusable, err := ask(NewUpstream(near), "POST", func(o *Outgoing, x *filter.Exchange) {
					o.Body, o.ContentLength = strings.NewReader(body), length
					if length < 0 {
						o.Trailer = &trailer
					}
				})
				want := fmt.Sprint(len(body), true, nil, map[bool]http.Header{true: {"X-Sum": {"7"}}, false: nil}[length < 0])
				if g := <-got; g != want || answer != `200 2 [] "ok"` || !reusable || err != nil {
					t.Errorf("the origin got %s, want %s; the answer: %s, reusable %v, %v", g, want, answer, reusable, err)
				}
			})
		})
	}
}

// waiting is a body that does not come until it is closed.
type waiting struct{ closed chan struct{} }

func (w waiting) Read([]byte) (int, error) { <-w.closed; return 0, net.ErrClosed }
func (w waiting) Close() error             { close(w.closed); return nil }

func TestAnEarlyAnswerIsReadWhileTheBodyStillComes(t *testing.T) {
	overEach(t, func(t *testing.T, near, far net.Conn) {
		go func() {
			http.ReadRequest(bufio.NewReader(far))
			io.WriteString(far, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
		}()
		var client filter.Waiter // of its connection, for all its requests
		got, reusable, err := ask(NewUpstream(near), "POST", func(o *Outgoing, x *filter.Exchange) {
			w := waiting{make(chan struct{})}
			x.Request.Body, x.Waiter = w, &client
			o.Body, o.ContentLength = io.MultiReader(strings.NewReader("begin"), w), 1<<30
		})
		if got != `413 2 [] "no"` || reusable || err != nil {
			t.Errorf("got %s, reusable %v, %v, want the 413 and a closed connection", got, reusable, err)
		}
		if next := func() {}; !client.Wait(&next) {
			t.Error("the client's next request is taken for one whose client has gone away")
		}
	})
}

func TestABodyThatBreaksOffCancelsTheRequest(t *testing.T) {
	overEach(t, func(t *testing.T, near, far net.Conn) {
		broken := errors.New("the client is gone")
		_, _, err := ask(NewUpstream(near), "POST", func(o *Outgoing, x *filter.Exchange) {
			o.Body, o.ContentLength = io.MultiReader(strings.NewReader("begin"), failing{broken}), 1000
		})
		var e *Error
		if !errors.As(err, &e) || e.Kind != Cancelled || !errors.Is(err, broken) {
			t.Errorf("got %v, want it cancelled because %v", err, broken)
		}
	})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestAChangedProtocolIsCopiedBothWays(t *testing.T) {
	overEach(t, func(t *testing.T, near, far net.Conn) {
		go func() {
			br := bufio.NewReader(far)
			q, _ := http.ReadRequest(br)
			fmt.Fprintf(far, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nfirst,", q.Header.Get("Upgrade"))
			b, _ := io.ReadAll(br) // until the client has closed its side
			far.Write(b)
			far.Close()
		}()
		var x filter.Exchange
		x.Request.Method, x.Request.Upgrade = "GET", "echo"
		done := make(chan bool, 1)
		u := NewUpstream(near)
		if err := u.Do(&x, &Outgoing{Method: "GET", Host: "a", Target: "/", Header: &x.Request.Header, Upgrade: true, Done: func(_ *Upstream, ok bool) { done <- ok }}); err != nil {
			t.Fatal(err)
		}
		if x.Response.Status != 101 || x.Response.Header.Get("Upgrade") != "echo" || x.Response.Takeover == nil {
			t.Fatalf("got %+v", x.Response)
		}
		client, edge := pair(t)
		over := make(chan struct{})
		go func() {
			x.Response.Takeover(edge, []byte("early,"))
			edge.Close()
			close(over)
		}()
		io.WriteString(client, "late")
		client.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(client); string(b) != "first,early,late" || err != nil {
			t.Errorf("got %q, %v, want first,early,late", b, err)
		}
		<-over
		if <-done {
			t.Error("the connection is said to be reusable")
		}
		x.End()
	})
}

func TestAnIdleTunnelEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go func() {
			http.ReadRequest(bufio.NewReader(far))
			io.WriteString(far, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			time.Sleep(4 * time.Minute)
			far.Write([]byte("ping"))
		}()
		var x filter.Exchange
		x.Request.Method, x.Request.Upgrade = "GET", "x"
		u := NewUpstream(near)
		if err := u.Do(&x, &Outgoing{Method: "GET", Host: "a", Target: "/", Header: &x.Request.Header, Upgrade: true}); err != nil {
			t.Fatal(err)
		}
		client, edge := net.Pipe()
		go io.Copy(io.Discard, client)
		start := time.Now()
		x.Response.Takeover(edge, nil)
		if took := time.Since(start); took != 9*time.Minute {
			t.Errorf("ended after %v, want 5 min after the last bytes, which came after 4", took)
		}
		x.End()
	})
}

// steady is an origin that answers every request the same, and allocates nothing.
func steady(t testing.TB, c net.Conn, answer string) {
	var wg sync.WaitGroup
	t.Cleanup(func() { c.Close(); wg.Wait() })
	wg.Go(func() {
		b, a := make([]byte, 64<<10), []byte(answer)
		for {
			if _, err := c.Read(b); err != nil {
				return
			}
			if _, err := c.Write(a); err != nil {
				return
			}
		}
	})
}

func exchanger(t testing.TB, far net.Conn, near net.Conn) func() {
	steady(t, far, answerHead+strings.Repeat("x", 1024))
	u := NewUpstream(near)
	x := new(filter.Exchange)
	o := &Outgoing{Method: "GET", Host: "10.0.0.1:80", Target: "/catalog/titles/8a1f?lang=fr&page=2", Done: func(_ *Upstream, ok bool) {
		if !ok {
			t.Error("not reusable")
		}
	}}
	in := []byte(browser)
	rules := testRules()
	var h head
	return func() {
		h.reset(rules)
		if _, r := h.request(in, x); r != nil {
			t.Fatal(r)
		}
		o.Header = &x.Request.Header
		o.Deadline = filter.Now() + int64(time.Minute)
		if err := u.Do(x, o); err != nil {
			t.Fatal(err)
		}
		if b := x.Response.Body.(*answer).Buffered(); len(b) != 1024 {
			t.Fatal(len(b))
		}
		x.End()
		x.Reset()
	}
}

func TestAnExchangeAllocatesNothing(t *testing.T) {
	overEach(t, func(t *testing.T, near, far net.Conn) {
		if n := testing.AllocsPerRun(200, exchanger(t, far, near)); n != 0 && !raceEnabled {
			t.Errorf("got %v allocations an exchange, want none", n)
		}
	})
}

func BenchmarkUpstream(b *testing.B) {
	near, far := pair(b)
	do := exchanger(b, far, near)
	b.ReportAllocs()
	for b.Loop() {
		do()
	}
}

func TestAnAnswerIsStampedByItsOwnRequestsTimes(t *testing.T) {
	near, far := pair(t)
	fine := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	origin(t, far, fine, fine)
	u := NewUpstream(near)
	var x, next filter.Exchange
	defer x.End()
	defer next.End()
	var err error
	began := filter.Now()
	x.Request.Method, next.Request.Method = "GET", "GET"
	failed := u.Do(&x, &Outgoing{Method: "GET", Host: "a", Target: "/", Header: &x.Request.Header, Done: func(u *Upstream, reusable bool) {
		if reusable { // somebody else takes the connection before Do has returned
			err = u.Do(&next, &Outgoing{Method: "GET", Host: "a", Target: "/", Header: &next.Request.Header})
		}
	}})
	if failed != nil || err != nil {
		t.Fatalf("got %v and %v, want two answers", failed, err)
	}
	sent, _ := x.Passport.Find(filter.OutReqHeadersSent)
	got, _ := x.Passport.Find(filter.InRespHeadersReceived)
	later, _ := next.Passport.Find(filter.OutReqHeadersSent)
	if !(began < sent && sent < got && got < later) {
		t.Errorf("begun at %d, sent at %d, answered at %d, and the next one sent at %d; want them in this order", began, sent, got, later)
	}
}

func TestMemoryIsBroughtNearOnceForEachAnswer(t *testing.T) {
	near, far := pair(t)
	fine := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	origin(t, far, fine, fine)
	u := NewUpstream(near)
	some := make([]byte, 100)
	for i := range 2 {
		called := 0
		got, _, err := ask(u, "GET", func(o *Outgoing, _ *filter.Exchange) {
			o.Near = func() {
				called++
				Prefetch(unsafe.Pointer(&some[0]), uintptr(len(some)))
				Prefetch(nil, 0) // neither is harmful
			}
		})
		want := 1
		if u.s.raw == nil {
			want = 0 // where waiting is reading, nobody knows when the answer has come
		}
		if err != nil || called != want || !strings.Contains(got, "ok") {
			t.Errorf("answer %d: got %q, %v, and was called %d times; want ok, and %d", i, got, err, called, want)
		}
	}
}
