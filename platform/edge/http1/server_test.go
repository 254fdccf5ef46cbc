package http1

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
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// answering is a server whose Serve is fn, over each kind of connection; dial opens one.
func answering(t *testing.T, config Config, fn func(*filter.Exchange), test func(t *testing.T, s *Server, dial func() net.Conn)) {
	for _, kind := range []string{"tcp", "any"} {
		t.Run(kind, func(t *testing.T) {
			config.Serve = fn
			if config.Log == nil {
				config.Log = slog.New(slog.DiscardHandler)
			}
			s := NewServer(config)
			s.every = time.Millisecond
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			if kind == "any" {
				go func() { served <- s.Serve(hiding{l}) }()
			} else {
				go func() { served <- s.Serve(l) }()
			}
			var opened []net.Conn
			test(t, s, func() net.Conn {
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				c.SetDeadline(time.Now().Add(time.Minute)) // so that a test that would hang fails
				opened = append(opened, c)
				return c
			})
			for _, c := range opened {
				c.Close()
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := s.Drain(ctx); err != nil {
				t.Errorf("drain: %v", err)
			}
			if err := <-served; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
}

type hiding struct{ net.Listener }

func (l hiding) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return hidden{c}, nil
}

// echo answers with what it was asked.
func echo(x *filter.Exchange) {
	q := &x.Request
	var body []byte
	if q.Body != nil {
		var err error
		if body, err = io.ReadAll(q.Body); err != nil {
			x.Fail(err)
			x.Answer(502, err.Error())
			return
		}
	}
	x.Answer(200, fmt.Sprintf("%s %s %q", q.Method, q.Path, body))
}

// say writes text, reads an answer, and returns it in one line.
func say(t *testing.T, c net.Conn, br *bufio.Reader, method, text string) string {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return hear(t, br, method)
}

func hear(t *testing.T, br *bufio.Reader, method string) string {
	t.Helper()
	p, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		return err.Error()
	}
	b, err := io.ReadAll(p.Body)
	s := fmt.Sprintf("%d %d %s", p.StatusCode, p.ContentLength, b)
	if err != nil {
		s += " " + err.Error()
	}
	if p.Close {
		s += " close"
	}
	return s
}

const (
	getA  = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
	postB = "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
)

func TestRequestsOfOneConnectionAreServedInOrder(t *testing.T) {
	answering(t, Config{}, echo, func(t *testing.T, s *Server, dial func() net.Conn) {
		c := dial()
		br := bufio.NewReader(c)
		for range 3 {
			if got := say(t, c, br, "GET", getA); got != `200 9 GET /a ""` {
				t.Errorf("got %s", got)
			}
			if got := say(t, c, br, "POST", postB); got != `200 15 POST /b "hello"` {
				t.Errorf("got %s", got)
			}
		}
		io.WriteString(c, strings.Repeat(getA+postB, 300)) // more than one buffer holds
		for i := range 300 {
			if got := hear(t, br, "GET"); got != `200 9 GET /a ""` {
				t.Fatalf("pipelined %d: got %s", i, got)
			}
			if got := hear(t, br, "POST"); got != `200 15 POST /b "hello"` {
				t.Fatalf("pipelined %d: got %s", i, got)
			}
		}
	})
}

func TestARequestMayComeByteByByte(t *testing.T) {
	answering(t, Config{}, echo, func(t *testing.T, s *Server, dial func() net.Conn) {
		c := dial()
		br := bufio.NewReader(c)
		for _, text := range []string{postB, "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\n"} {
			for i := range len(text) {
				c.Write([]byte{text[i]})
				runtime.Gosched()
			}
			if got := hear(t, br, "POST"); !strings.HasSuffix(got, `"hello"`) {
				t.Errorf("got %s", got)
			}
		}
	})
}

func TestAnswersAreFramed(t *testing.T) {
	answers := map[string]func(*filter.Exchange){
		"/none":  func(x *filter.Exchange) { x.Answer(204, "") },
		"/empty": func(x *filter.Exchange) { x.Answer(200, "") },
		"/text":  func(x *filter.Exchange) { x.Answer(200, "hello") },
		"/old":   func(x *filter.Exchange) { x.Answer(304, "") },
		"/stream": func(x *filter.Exchange) {
			x.Response.Status, x.Response.ContentLength = 200, -1
			x.Response.Body = io.NopCloser(io.MultiReader(strings.NewReader("hel"), strings.NewReader("lo")))
		},
		"/length": func(x *filter.Exchange) {
			x.Response.Status, x.Response.ContentLength = 200, 100_000
			x.Response.Body = io.NopCloser(strings.NewReader(strings.Repeat("x", 100_000)))
		},
		"/large":   func(x *filter.Exchange) { x.Answer(200, strings.Repeat("y", 100_000)) },
		"/close":   func(x *filter.Exchange) { x.Answer(200, "bye"); x.Response.Header.Add("Connection", "close") },
		"/nothing": func(x *filter.Exchange) {},
	}
	serve := func(x *filter.Exchange) { answers[x.Request.Path](x) }
	answering(t, Config{}, serve, func(t *testing.T, s *Server, dial func() net.Conn) {
		for _, c := range []struct{ method, path, version, want string }{
			{"GET", "/none", "1.1", "204 0 "},
			{"GET", "/empty", "1.1", "200 0 "},
			{"GET", "/text", "1.1", "200 5 hello"},
			{"HEAD", "/text", "1.1", "200 5 "},
			{"GET", "/old", "1.1", "304 0 "},
			{"GET", "/stream", "1.1", "200 -1 hello"},
			{"HEAD", "/stream", "1.1", "200 -1 "},
			{"GET", "/stream", "1.0", "200 -1 hello close"},
			{"GET", "/text", "1.0", "200 5 hello close"},
			{"GET", "/text", "1.0\r\nConnection: keep-alive", "200 5 hello"},
			{"GET", "/text", "1.1\r\nConnection: close", "200 5 hello close"},
			{"GET", "/length", "1.1", "200 100000 " + strings.Repeat("x", 100_000)},
			{"GET", "/large", "1.1", "200 100000 " + strings.Repeat("y", 100_000)},
			{"GET", "/close", "1.1", "200 3 bye close"},
			{"GET", "/nothing", "1.1", "500 40 the edge has no answer to this request\n close"},
		} {
			conn := dial()
			br := bufio.NewReader(conn)
			got := say(t, conn, br, c.method, c.method+" "+c.path+" HTTP/"+c.version+"\r\nHost: h\r\n\r\n")
			if i := strings.Index(c.want, "the edge has no"); i > 0 {
				c.want = strings.Replace(c.want, "40", fmt.Sprint(len("the edge has no answer to this request\n")), 1)
			}
			if got != c.want {
				t.Errorf("%s %s HTTP/%s: got %s, want %s", c.method, c.path, c.version, cut(got), cut(c.want))
			}
			if strings.HasSuffix(c.want, " close") {
				if _, err := br.ReadByte(); err != io.EOF {
					t.Errorf("%s %s HTTP/%s: the connection was not closed: %v", c.method, c.path, c.version, err)
				}
			} else if got := say(t, conn, br, "GET", "GET /text HTTP/1.1\r\nHost: h\r\n\r\n"); got != "200 5 hello" {
				t.Errorf("%s %s HTTP/%s: the next answer: got %s", c.method, c.path, c.version, got)
			}
		}
	})
}

func TestAnAnswerHasADateAndKeepsAnOrigins(t *testing.T) {
	answering(t, Config{}, func(x *filter.Exchange) {
		x.Answer(200, "")
		if x.Request.Path == "/own" {
			x.Response.Header.Add("Date", "Thu, 01 Jan 1970 00:00:00 GMT")
		}
	}, func(t *testing.T, s *Server, dial func() net.Conn) {
		c := dial()
		br := bufio.NewReader(c)
		for _, path := range []string{"/", "/own"} {
			asked := time.Now()
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", path)
			p, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			d, err := http.ParseTime(p.Header.Get("Date"))
			now := !d.Before(asked.Add(-2*time.Second)) && !d.After(time.Now()) // it counts whole seconds, and is kept for one
			if err != nil || len(p.Header["Date"]) != 1 || (path == "/own") != (d.Unix() == 0) || now != (path == "/") {
				t.Errorf("%s: got %q, %v", path, p.Header["Date"], err)
			}
		}
	})
}

func TestWhatBreaksARuleIsAnsweredAndClosed(t *testing.T) {
	var mu sync.Mutex
	var told []string
	m := meter.New(nil)
	answering(t, Config{Meter: m, Listener: "l", Finished: func(x *filter.Exchange) {
		c, why := x.Category()
		mu.Lock()
		told = append(told, fmt.Sprintf("%v %v %v", x.Response.Status, c, why))
		mu.Unlock()
	}}, echo, func(t *testing.T, s *Server, dial func() net.Conn) {
		for _, c := range refusedHeads {
			mu.Lock()
			told = nil
			mu.Unlock()
			conn := dial()
			br := bufio.NewReader(conn)
			fmt.Fprint(conn, c.in+getA) // what follows must not be served
			method := "GET"
			got := hear(t, br, method)
			if want := fmt.Sprint(c.status, " "); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "close") {
				t.Errorf("%s: got %s, want %d and a closed connection", c.name, got, c.status)
			}
			if _, err := br.ReadByte(); err != io.EOF {
				t.Errorf("%s: after the answer: got %v, want the end", c.name, err)
			}
			mu.Lock()
			if len(told) != 1 || !strings.HasPrefix(told[0], fmt.Sprint(c.status, " FAILURE_")) {
				t.Errorf("%s: Finished was told %q", c.name, told)
			}
			mu.Unlock()
		}
	})
	if n := m.Counter("edge.http1.refused", "listener", "l", "rule", "bare-lf").Count(); n == 0 {
		t.Error("refusals by bare-lf were not counted")
	}
}

func TestABodyThatBreaksARuleIsAnswered(t *testing.T) {
	answering(t, Config{}, echo, func(t *testing.T, s *Server, dial func() net.Conn) {
		for _, c := range []struct{ body, want string }{
			{"x\r\n", "400"}, {"5\r\nhelloworld", "400"}, {"5\nhello\n0\n\n", "400"}, {"0\r\nGET / HTTP/1.1\r\n\r\n", "400"}, {"0\r\nX: " + strings.Repeat("a", 9000) + "\r\n\r\n", "431"},
		} {
			for _, wait := range []bool{false, true} {
				conn := dial()
				br := bufio.NewReader(conn)
				io.WriteString(conn, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
				if wait {
					if line, _ := br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
						t.Errorf("got %q, want 100", line)
					}
					br.ReadString('\n')
				}
				io.WriteString(conn, c.body)
				if !wait { // 100 may come or not
					if line, _ := br.Peek(12); string(line) == "HTTP/1.1 100" {
						br.ReadString('\n')
						br.ReadString('\n')
					}
				}
				if got := hear(t, br, "POST"); !strings.HasPrefix(got, c.want) || !strings.HasSuffix(got, "close") {
					t.Errorf("%q: got %s, want %s and close", cut(c.body), got, c.want)
				}
			}
		}
	})
}

func TestContinueIsSaidWhenTheBodyIsWanted(t *testing.T) {
	answering(t, Config{}, func(x *filter.Exchange) {
		if x.Request.Path == "/no" {
			x.Answer(403, "no")
			return
		}
		echo(x)
	}, func(t *testing.T, s *Server, dial func() net.Conn) {
		c := dial()
		br := bufio.NewReader(c)
		io.WriteString(c, "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
		if line, _ := br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("got %q, want 100", line)
		}
		br.ReadString('\n')
		if got := say(t, c, br, "POST", "hello"); got != `200 15 POST /b "hello"` {
			t.Errorf("got %s", got)
		}
		// A client that does not wait is not told.
		if got := say(t, c, br, "POST", "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"); got != `200 15 POST /b "hello"` {
			t.Errorf("got %s", got)
		}
		// One whose body is not wanted is not told either, and what it sends is no request.
		if got := say(t, c, br, "POST", "POST /no HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"); got != "403 2 no close" {
			t.Errorf("got %s", got)
		}
	})
}

func TestAnUnreadBodyIsSkippedOrTheConnectionEnds(t *testing.T) {
	answering(t, Config{}, func(x *filter.Exchange) { x.Answer(403, "no") }, func(t *testing.T, s *Server, dial func() net.Conn) {
		c := dial()
		br := bufio.NewReader(c)
		for _, n := range []int{5, 100_000, 262_144} {
			got := say(t, c, br, "POST", fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", n, strings.Repeat("x", n)))
			if got != "403 2 no" {
				t.Errorf("a body of %d: got %s", n, got)
			}
		}
		// A longer one is not waited for; the answer is heard all the same.
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n%s", strings.Repeat("x", 100_000))
		if got := hear(t, br, "POST"); got != "403 2 no close" {
			t.Errorf("got %s", got)
		}
		c2 := dial()
		if got := say(t, c2, bufio.NewReader(c2), "POST", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"); got != "403 2 no close" {
			t.Errorf("chunked: got %s", got)
		}
	})
}

func TestAPanicIsAnsweredAndLogged(t *testing.T) {
	var log lines
	answering(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(x *filter.Exchange) {
		if x.Request.Path == "/body" {
			x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, 5, panicking{}
			return
		}
		panic("oops")
	}, func(t *testing.T, s *Server, dial func() net.Conn) {
		c := dial()
		if got := say(t, c, bufio.NewReader(c), "GET", getA); !strings.HasPrefix(got, "500 ") || !strings.HasSuffix(got, "close") {
			t.Errorf("got %s, want 500", got)
		}
		c = dial()
		if got := say(t, c, bufio.NewReader(c), "GET", "GET /body HTTP/1.1\r\nHost: h\r\n\r\n"); strings.HasPrefix(got, "200 5 hello") {
			t.Errorf("got %s, want a cut connection", got)
		}
		if n := strings.Count(log.String(), "serving a request panicked"); n == 0 || !strings.Contains(log.String(), "oops") {
			t.Errorf("logged %s", log.String())
		}
	})
}

// lines is a log that may be written and read at once.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *lines) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("in the body") }
func (panicking) Close() error             { return nil }

func TestABrokenAnswerCutsTheConnection(t *testing.T) {
	answering(t, Config{}, func(x *filter.Exchange) {
		x.Response.Status, x.Response.ContentLength = 200, -1
		x.Response.Body = io.NopCloser(io.MultiReader(strings.NewReader("hel"), failing{errors.New("origin is gone")}))
		if x.Request.Path == "/short" {
			x.Response.ContentLength, x.Response.Body = 10, io.NopCloser(strings.NewReader("hello"))
		}
	}, func(t *testing.T, s *Server, dial func() net.Conn) {
		for _, q := range []string{getA, "GET /short HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"} {
			c := dial()
			io.WriteString(c, q)
			p, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				continue // the cut came first
			}
			if b, err := io.ReadAll(p.Body); err == nil {
				t.Errorf("%q: got %q as a whole body", q, b)
			}
		}
	})
}

func TestAConnectionIsTakenOver(t *testing.T) {
	answering(t, Config{}, func(x *filter.Exchange) {
		if x.Request.Upgrade != "echo" {
			x.Answer(400, "no")
			return
		}
		if x.Request.Path == "/refused" {
			x.Answer(403, "no")
			return
		}
		x.Response.Status = 101
		x.Response.Header.Add("Upgrade", "echo")
		x.Response.Takeover = func(c net.Conn, early []byte) {
			c.Write([]byte("early:" + string(early) + "\n"))
			io.Copy(c, c)
		}
	}, func(t *testing.T, s *Server, dial func() net.Conn) {
		ask := func(path string) string {
			return "GET " + path + " HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
		}
		c := dial()
		br := bufio.NewReader(c)
		io.WriteString(c, ask("/")+"first")
		p, err := http.ReadResponse(br, nil)
		if err != nil || p.StatusCode != 101 || p.Header.Get("Upgrade") != "echo" || p.Header.Get("Connection") != "Upgrade" {
			t.Fatalf("got %+v, %v", p, err)
		}
		line, _ := br.ReadString('\n')
		io.WriteString(c, "more\n")
		more, _ := br.ReadString('\n')
		if line != "early:first\n" && line != "early:\n" || !strings.HasSuffix(more, "more\n") {
			t.Errorf("got %q and %q", line, more)
		}
		// If the protocol stays HTTP, what follows may be of the other one, and is not read.
		c = dial()
		br = bufio.NewReader(c)
		if got := say(t, c, br, "GET", ask("/refused")+getA); got != "403 2 no close" {
			t.Errorf("got %s", got)
		}
		if _, err := br.ReadByte(); err != io.EOF {
			t.Errorf("after the answer: got %v, want the end", err)
		}
		// If nothing follows, it may be used on.
		c = dial()
		br = bufio.NewReader(c)
		if got := say(t, c, br, "GET", ask("/refused")); got != "403 2 no" {
			t.Errorf("got %s", got)
		}
	})
}

func TestAConnectionMayBeGivenAwayForGood(t *testing.T) {
	given := make(chan net.Conn, 1)
	answering(t, Config{}, func(x *filter.Exchange) {
		x.Response.Status = 200
		x.Response.Takeover = func(c net.Conn, _ []byte) {
			x.Response.Detached = x.MayDetach
			given <- c
		}
	}, func(t *testing.T, s *Server, dial func() net.Conn) {
		c := dial()
		io.WriteString(c, getA)
		theirs := <-given
		for s.Open() > 0 { // the server has forgotten it
			runtime.Gosched()
		}
		io.WriteString(theirs, "still here\n")
		theirs.Close()
		if got := hear(t, bufio.NewReader(c), "GET"); got != "200 -1 still here\n close" {
			t.Errorf("got %q", got)
		}
	})
}

func TestAnAnswerMayBeACutConnection(t *testing.T) {
	answering(t, Config{}, func(x *filter.Exchange) { x.Response.Status, x.Response.Cut = 200, true }, func(t *testing.T, s *Server, dial func() net.Conn) {
		c := dial()
		io.WriteString(c, getA)
		if b, err := io.ReadAll(c); len(b) > 0 || err == nil {
			t.Errorf("got %q, %v, want a reset", b, err)
		}
	})
}

func TestAStreamMayBeTakenOverWithoutUpgrade(t *testing.T) {
	answering(t, Config{}, func(x *filter.Exchange) {
		x.Response.Status = 200
		x.Response.Header.Add("Content-Type", "text/event-stream")
		x.Response.Takeover = func(c net.Conn, _ []byte) { io.WriteString(c, "data: 1\n\n") }
	}, func(t *testing.T, s *Server, dial func() net.Conn) {
		c := dial()
		if got := say(t, c, bufio.NewReader(c), "GET", getA); got != "200 -1 data: 1\n\n close" {
			t.Errorf("got %q", got)
		}
	})
}

func TestTheHTTP2PrefaceIsHandedOn(t *testing.T) {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	answering(t, Config{HTTP2: func(c net.Conn, client *filter.Client, early []byte) {
		b := make([]byte, len(preface)-len(early))
		io.ReadFull(c, b)
		fmt.Fprintf(c, "%s by %s", append(early, b...), client.Remote.Addr())
	}}, echo, func(t *testing.T, s *Server, dial func() net.Conn) {
		c := dial()
		io.WriteString(c, preface)
		if b, _ := io.ReadAll(c); string(b) != preface+" by 127.0.0.1" {
			t.Errorf("got %q", b)
		}
	})
}

func TestWhoSpeaksNeitherIsClosedWithoutWordsThatFramesCouldBeTakenFor(t *testing.T) {
	answering(t, Config{HTTP2: func(c net.Conn, client *filter.Client, early []byte) {}}, echo, func(t *testing.T, s *Server, dial func() net.Conn) {
		for _, tt := range []struct{ first, want string }{
			{"INVALID CONNECTION PREFACE", ""}, {"GET / ICY/1.1", "HTTP/1.1 400"}, {"GET / http/1.1", "HTTP/1.1 400"}, {"GET x http/1.1", "HTTP/1.1 400"},
		} {
			c := dial()
			io.WriteString(c, tt.first+"\r\n\r\n")
			b, err := io.ReadAll(c)
			if err != nil || !strings.HasPrefix(string(b), tt.want) || tt.want == "" && len(b) > 0 {
				t.Errorf("%q: got %q, %v; want %q", tt.first, b, err, tt.want)
			}
		}
	})
}

func TestPipeliningCanBeRejected(t *testing.T) {
	answering(t, Config{Settings: Settings{RejectPipelining: true}}, echo, func(t *testing.T, s *Server, dial func() net.Conn) {
		c := dial()
		br := bufio.NewReader(c)
		if got := say(t, c, br, "GET", getA); got != `200 9 GET /a ""` {
			t.Errorf("got %s", got)
		}
		if got := say(t, c, br, "GET", getA+getA); !strings.HasPrefix(got, "400") || !strings.HasSuffix(got, "close") {
			t.Errorf("pipelined: got %s, want 400 and close", got)
		}
	})
}

func TestConnectionsAreLimited(t *testing.T) {
	m := meter.New(nil)
	answering(t, Config{Meter: m, Settings: Settings{PerAddress: 2, Requests: 3}}, echo, func(t *testing.T, s *Server, dial func() net.Conn) {
		a, b := dial(), dial()
		ra, rb := bufio.NewReader(a), bufio.NewReader(b)
		say(t, a, ra, "GET", getA)
		say(t, b, rb, "GET", getA)
		before := s.throttled.Count()
		if _, err := io.ReadAll(dial()); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("a third connection: got %v, want its end", err)
		}
		if s.throttled.Count() != before+1 {
			t.Error("it was not counted")
		}
		say(t, a, ra, "GET", getA)
		if got := say(t, a, ra, "GET", getA); got != `200 9 GET /a "" close` {
			t.Errorf("the third request: got %s, want close", got)
		}
	})
}

func TestEarlyHintsPassIfWanted(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		answering(t, Config{Settings: Settings{EarlyHints: wanted}}, func(x *filter.Exchange) {
			if x.Interim != nil {
				var h filter.Header
				h.Add("Link", "</a>")
				x.Interim(103, &h)
			}
			x.Answer(200, "ok")
		}, func(t *testing.T, s *Server, dial func() net.Conn) {
			c := dial()
			br := bufio.NewReader(c)
			io.WriteString(c, getA)
			line, _ := br.ReadString('\n')
			if want := map[bool]string{false: "HTTP/1.1 200 OK\r\n", true: "HTTP/1.1 103 Early Hints\r\n"}[wanted]; line != want {
				t.Errorf("wanted %v: got %q", wanted, line)
			}
		})
	}
}

// inBubble serves one connection in a bubble, where time is the test's own.
func inBubble(t *testing.T, config Config, fn func(*filter.Exchange), test func(t *testing.T, s *Server, c net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		config.Serve = fn
		config.Log = slog.New(slog.DiscardHandler)
		s := NewServer(config)
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() {
			s.ServeConn(far, &filter.Client{Remote: netip.MustParseAddrPort("192.0.2.1:1")}, nil)
			close(done)
		}()
		test(t, s, near)
		near.Close()
		<-done
		time.Sleep(2 * watchEvery) // which ends by itself
	})
}

// untilEnd returns how long it takes until c is closed, and what came before.
func untilEnd(c net.Conn) (string, time.Duration) {
	start := time.Now()
	b, _ := io.ReadAll(c)
	return string(b), time.Since(start)
}

func TestSlowClientsAreCutOff(t *testing.T) {
	for _, q := range []struct {
		name  string
		write func(c net.Conn)
		after time.Duration
		want  string
	}{
		{"that send nothing", func(net.Conn) {}, 65 * time.Second, ""},
		{"that send nothing more", func(c net.Conn) { io.WriteString(c, getA) }, 65 * time.Second, "HTTP/1.1 200"},
		{"that send half a head", func(c net.Conn) { io.WriteString(c, getA[:20]) }, 10 * time.Second, ""},
		{"that send a head byte by byte", func(c net.Conn) {
			for _, b := range []byte(strings.Repeat(getA, 10)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, 10 * time.Second, ""},
		{"that pause in a body", func(c net.Conn) { io.WriteString(c, postB[:len(postB)-1]) }, 5 * time.Second, "HTTP/1.1 408"},
		{"that send a body byte by byte", func(c net.Conn) {
			io.WriteString(c, "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n")
			for range 5000 {
				if _, err := c.Write([]byte{'x'}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, 15 * time.Second, "HTTP/1.1 408"},
	} {
		t.Run(q.name, func(t *testing.T) {
			inBubble(t, Config{}, echo, func(t *testing.T, s *Server, c net.Conn) {
				var writing sync.WaitGroup
				writing.Go(func() { q.write(c) })
				got, took := untilEnd(c)
				c.Close()
				writing.Wait()
				if took < q.after || took > q.after+2*time.Second || !strings.HasPrefix(got, q.want) || q.want == "" && got != "" {
					t.Errorf("got %q after %v, want %q after %v", got, took, q.want, q.after)
				}
			})
		})
	}
}

// Many slow clients shall not cost more than many idle ones.
func TestAHeadThatIsWaitedForHoldsNoBuffer(t *testing.T) {
	inBubble(t, Config{}, echo, func(t *testing.T, s *Server, c net.Conn) {
		for i, b := range []byte(getA[:len(getA)-1]) {
			c.Write([]byte{b})
			synctest.Wait()
			for c := range s.conns {
				if c.w != nil || string(c.part) != getA[:i+1] || cap(c.part) > 2*len(c.part)+64 {
					t.Fatalf("after %d bytes: holds a buffer %v, and %q in %d bytes", i+1, c.w != nil, c.part, cap(c.part))
				}
			}
		}
		if got := say(t, c, bufio.NewReader(c), "GET", "\n"); got != `200 9 GET /a ""` {
			t.Errorf("got %s", got)
		}
	})
}

func TestAClientThatTakesNoAnswerIsCutOff(t *testing.T) {
	inBubble(t, Config{}, func(x *filter.Exchange) { x.Answer(200, strings.Repeat("x", 1000)) }, func(t *testing.T, s *Server, c net.Conn) {
		start := time.Now()
		io.WriteString(c, getA) // and nobody reads
		for s.Open() > 0 {
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took < 60*time.Second || took > 100*time.Second {
			t.Errorf("it was cut off after %v, want 60 to 100 s", took)
		}
	})
}

func TestAConnectionExpires(t *testing.T) {
	inBubble(t, Config{}, echo, func(t *testing.T, s *Server, c net.Conn) {
		br := bufio.NewReader(c)
		start := time.Now()
		for time.Since(start) < 21*time.Minute {
			got := say(t, c, br, "GET", getA)
			if strings.HasSuffix(got, "close") {
				if took := time.Since(start); took < 19*time.Minute {
					t.Errorf("it closed after %v, want 20 min less 20 s at most", took)
				}
				return
			}
			time.Sleep(10 * time.Second)
		}
		t.Error("it did not close in 21 min")
	})
}

func TestDrainEndsIdleConnectionsAndLetsRequestsEnd(t *testing.T) {
	hold, in := make(chan struct{}), make(chan struct{}, 1)
	answering(t, Config{}, func(x *filter.Exchange) {
		if x.Request.Path == "/slow" {
			in <- struct{}{}
			<-hold
		}
		x.Answer(200, "ok")
	}, func(t *testing.T, s *Server, dial func() net.Conn) {
		resting, busy := dial(), dial()
		rr, rb := bufio.NewReader(resting), bufio.NewReader(busy)
		say(t, resting, rr, "GET", getA)
		io.WriteString(busy, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
		<-in
		drained := make(chan error, 1)
		go func() { drained <- s.Drain(t.Context()) }()
		if _, err := rr.ReadByte(); err != io.EOF {
			t.Errorf("the idle connection: got %v, want its end", err)
		}
		hold <- struct{}{}
		if got := hear(t, rb, "GET"); got != "200 2 ok close" {
			t.Errorf("the request under way: got %s", got)
		}
		if err := <-drained; err != nil {
			t.Errorf("drain: %v", err)
		}
	})
}

func TestDrainCutsOffWhatIsLeftWhenItsTimeIsOver(t *testing.T) {
	inBubble(t, Config{}, func(x *filter.Exchange) {
		io.Copy(io.Discard, x.Request.Body)
		x.Answer(200, "ok")
	}, func(t *testing.T, s *Server, c net.Conn) {
		var writing sync.WaitGroup
		defer writing.Wait()
		writing.Go(func() {
			io.WriteString(c, "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n")
			for {
				if _, err := c.Write(make([]byte, 1000)); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		go io.Copy(io.Discard, c)
		time.Sleep(3 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		start := time.Now()
		if err := s.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 30*time.Second || s.Open() != 0 {
			t.Errorf("got %v after %v, %d open", err, time.Since(start), s.Open())
		}
	})
}

func TestAClientThatGoesAwayEndsWhatIsAskedForIt(t *testing.T) {
	ended := make(chan string, 10)
	answering(t, Config{Finished: func(x *filter.Exchange) {
		c, _ := x.Category()
		ended <- c.String()
	}}, func(x *filter.Exchange) {
		near, far := pair(t)
		asked, body := make(chan struct{}), x.Request.Path == "/body"
		go func() {
			http.ReadRequest(bufio.NewReader(far))
			close(asked)
			if body {
				io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegin")
			}
			io.Copy(io.Discard, far) // and it never answers, or never ends
		}()
		var e *Error
		err := NewUpstream(near).Do(x, &Outgoing{Method: "GET", Host: "a", Target: "/", Header: &x.Request.Header})
		<-asked
		if errors.As(err, &e) && e.Kind == Cancelled {
			x.SetCategory(filter.FailureClientCancelled, "")
			x.Answer(400, "")
		}
	}, func(t *testing.T, s *Server, dial func() net.Conn) {
		for _, path := range []string{"/head", "/body"} {
			c := dial()
			if _, ok := c.(*net.TCPConn); ok && strings.HasSuffix(t.Name(), "any") {
				return // nobody can look under it
			}
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", path)
			if path == "/body" {
				io.ReadFull(c, make([]byte, 12))
			}
			c.Close()
			if got := <-ended; got != "FAILURE_CLIENT_CANCELLED" {
				t.Errorf("%s: got %s", path, got)
			}
		}
	})
}

func TestAnIdleClientThatClosesItsSideIsNoticed(t *testing.T) {
	answering(t, Config{}, echo, func(t *testing.T, s *Server, dial func() net.Conn) {
		c := dial()
		br := bufio.NewReader(c)
		say(t, c, br, "GET", getA)
		say(t, c, br, "GET", getA)
		io.WriteString(c, getA)
		c.(*net.TCPConn).CloseWrite() // the end may come with the request
		hear(t, br, "GET")
		if _, err := br.ReadByte(); err != io.EOF {
			t.Errorf("got %v, want the end", err)
		}
	})
}

// asker returns what sends one request by c and reads the answer, of a length that never changes, without allocating.
func asker(t testing.TB, c net.Conn, request string) func() {
	in, out := make([]byte, 64<<10), []byte(request)
	total := 0
	once := func(want int) int {
		if _, err := c.Write(out); err != nil {
			t.Fatal(err)
		}
		got := 0
		for {
			n, err := c.Read(in)
			if err != nil {
				t.Fatal(err)
			}
			if got += n; want > 0 && got >= want || want == 0 && bytes.HasSuffix(in[:n], []byte("xxxx")) {
				return got
			}
		}
	}
	total = once(0)
	return func() { once(total) }
}

func TestARequestAllocatesNothing(t *testing.T) {
	addr := passing(t, Config{}, steadily(t, answerHead+strings.Repeat("x", 1024)))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n := testing.AllocsPerRun(500, asker(t, c, browser)); n != 0 && !raceEnabled {
		t.Errorf("got %v allocations a request, want none", n)
	}
}

func BenchmarkServer(b *testing.B) {
	addr := passing(b, Config{Settings: Settings{Requests: 1 << 30}}, steadily(b, answerHead+strings.Repeat("x", 1024)))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	ask := asker(b, c, browser)
	b.ReportAllocs()
	for b.Loop() {
		ask()
	}
}

func TestWhileDrainingAnIdleConnectionMayAskOnceMore(t *testing.T) {
	answering(t, Config{Grace: time.Hour}, echo, func(t *testing.T, s *Server, dial func() net.Conn) {
		c := dial()
		br := bufio.NewReader(c)
		if got := say(t, c, br, "GET", getA); !strings.HasPrefix(got, "200") {
			t.Fatalf("got %s", got)
		}
		drained := make(chan error, 1)
		go func() { drained <- s.Drain(t.Context()) }()
		for !s.draining.Load() {
			time.Sleep(time.Millisecond)
		}
		if got := say(t, c, br, "GET", getA); !strings.HasPrefix(got, "200") || !strings.HasSuffix(got, "close") {
			t.Errorf("while draining: got %s, want an answer that ends the connection", got)
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
	})
}

func TestOnceDrainedNobodyIsTakenInHoweverLongIdleOnesWouldHaveHad(t *testing.T) {
	s := NewServer(Config{Serve: echo, Grace: time.Hour})
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	near, far := pair(t)
	defer near.Close()
	go s.ServeConn(far, nil, nil) // of a listener whose clients shake hands first
	near.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := near.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v, want that the connection was closed at once", err)
	}
}

func TestAnAnswerThatIsNoneIsABadGateway(t *testing.T) {
	answering(t, Config{}, func(x *filter.Exchange) { x.Response.Status = 101 }, func(t *testing.T, _ *Server, dial func() net.Conn) {
		c := dial()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		p, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || p.StatusCode != 502 {
			t.Errorf("a 101 that nobody takes the connection over for: got %v, %v; want 502", p, err)
		}
	})
}
