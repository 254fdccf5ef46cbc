package nethttp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// front is a server whose requests are served by serve, over HTTP/1.1 or HTTP/2.
func front(t *testing.T, two bool, serve func(*filter.Exchange)) (srv *httptest.Server, finished *atomic.Int64) {
	t.Helper()
	finished = new(atomic.Int64)
	srv = httptest.NewUnstartedServer(&Handler{
		Serve: serve, Finished: func(*filter.Exchange) { finished.Add(1) }, Listener: "test", Log: slog.New(slog.DiscardHandler),
	})
	srv.Config.ErrorLog = nil
	if two {
		srv.EnableHTTP2 = true
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	t.Cleanup(srv.Client().CloseIdleConnections)
	return srv, finished
}

func both(t *testing.T, test func(t *testing.T, two bool)) {
	t.Run("HTTP/1.1", func(t *testing.T) { test(t, false) })
	t.Run("HTTP/2", func(t *testing.T) { test(t, true) })
}

func TestARequestArrivesWhole(t *testing.T) {
	both(t, func(t *testing.T, two bool) {
		var got string
		srv, finished := front(t, two, func(x *filter.Exchange) {
			q := &x.Request
			b, err := io.ReadAll(q.Body)
			got = fmt.Sprintf("%s %s %s?%s %s %q %v %s from %v at %s", q.Method, q.Host, q.Path, q.RawQuery, q.Header.Get("x-a"), b, err, q.Trailer.Get("x-t"),
				x.Client.Remote.IsValid(), x.Client.Listener)
			x.Answer(http.StatusCreated, "made\n")
			x.Response.Header.Add("X-B", "1")
			x.Response.Header.Add("X-B", "2")
		})
		req, err := http.NewRequest("PUT", srv.URL+"/a%2Fb/c?d=e", struct{ io.Reader }{strings.NewReader("hello")})
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "shop.example"
		req.Header.Set("X-A", "1")
		req.Trailer = http.Header{"X-T": {"end"}}
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := `PUT shop.example /a%2Fb/c?d=e 1 "hello" <nil> end from true at test`; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if resp.StatusCode != 201 || string(body) != "made\n" || err != nil || len(resp.Header["X-B"]) != 2 || resp.ContentLength != 5 {
			t.Errorf("the client got %d %q %v %v", resp.StatusCode, body, err, resp.Header)
		}
		if finished.Load() != 1 {
			t.Errorf("finished %d times, want once", finished.Load())
		}
	})
}

func TestABodyWithoutLengthFlowsAsItComesAndTrailersFollow(t *testing.T) {
	both(t, func(t *testing.T, two bool) {
		from, to := io.Pipe()
		srv, _ := front(t, two, func(x *filter.Exchange) {
			x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, -1, from
			x.Response.Trailer = new(filter.Header)
			x.Response.Trailer.Add("X-Sum", "7")
		})
		resp, err := srv.Client().Get(srv.URL) // the head comes before any of the body
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		buf := make([]byte, 8)
		for _, part := range []string{"one", "two"} {
			io.WriteString(to, part)
			if n, err := io.ReadAtLeast(resp.Body, buf, 3); string(buf[:n]) != part || err != nil {
				t.Fatalf("got %q, %v; want %q at once", buf[:n], err, part)
			}
		}
		to.Close()
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Errorf("the rest: got %q, %v", rest, err)
		}
		if resp.Trailer.Get("X-Sum") != "7" {
			t.Errorf("trailers: got %v", resp.Trailer)
		}
	})
}

func TestAnAnswerThatBreaksOffIsNotTakenForWhole(t *testing.T) {
	both(t, func(t *testing.T, two bool) {
		for _, length := range []int64{-1, 100} {
			srv, finished := front(t, two, func(x *filter.Exchange) {
				x.Response.Status, x.Response.ContentLength = 200, length
				x.Response.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), broken{}))
			})
			resp, err := srv.Client().Get(srv.URL)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if err == nil {
				t.Errorf("length %d: the client took half an answer for a whole one", length)
			}
			srv.Close()
			if finished.Load() == 0 {
				t.Errorf("length %d: not finished", length)
			}
		}
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the origin is gone") }

func TestAPanicIsAnswered500AndEndsTheExchange(t *testing.T) {
	both(t, func(t *testing.T, two bool) {
		ended := 0
		srv, finished := front(t, two, func(x *filter.Exchange) {
			x.OnEnd(func(*filter.Exchange) { ended++ })
			panic("a filter's mistake")
		})
		resp, err := srv.Client().Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 500 || finished.Load() != 1 || ended != 1 {
			t.Errorf("got %d, finished %d and ended %d times; want 500, once each", resp.StatusCode, finished.Load(), ended)
		}
	})
}

func TestACutConnectionHasNoAnswer(t *testing.T) {
	both(t, func(t *testing.T, two bool) {
		srv, _ := front(t, two, func(x *filter.Exchange) { x.Response.Cut = true })
		if resp, err := srv.Client().Post(srv.URL, "text/plain", strings.NewReader("x")); err == nil {
			resp.Body.Close()
			t.Errorf("got %d, want no answer", resp.StatusCode)
		}
	})
}

func TestAHeadAnswerHasLengthAndNoBody(t *testing.T) {
	both(t, func(t *testing.T, two bool) {
		srv, _ := front(t, two, func(x *filter.Exchange) { x.Answer(200, "hello\n") })
		resp, err := srv.Client().Head(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.ContentLength != 6 {
			t.Errorf("got length %d, want 6", resp.ContentLength)
		}
	})
}

func TestEarlyHintsPass(t *testing.T) {
	both(t, func(t *testing.T, two bool) {
		srv, _ := front(t, two, func(x *filter.Exchange) {
			var h filter.Header
			h.Add("Link", "</style.css>")
			x.Interim(103, &h)
			x.Answer(200, "done\n")
		})
		var hints []string
		req, err := http.NewRequest("GET", srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, h.Get("Link")))
			return nil
		}}))
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if len(hints) != 1 || hints[0] != "103</style.css>" || resp.Header.Get("Link") != "" {
			t.Errorf("hints %q, and the answer's Link %q", hints, resp.Header.Get("Link"))
		}
	})
}

func TestAnUpgradeHandsTheConnectionOver(t *testing.T) {
	over := make(chan struct{})
	srv, _ := front(t, false, func(x *filter.Exchange) {
		x.OnEnd(func(*filter.Exchange) { close(over) })
		if x.Request.Upgrade != "echo" || x.Request.Body != nil {
			t.Errorf("upgrade %q, body %v", x.Request.Upgrade, x.Request.Body)
		}
		x.Response.Status = http.StatusSwitchingProtocols
		x.Response.Header.Add("Connection", "Upgrade")
		x.Response.Header.Add("Upgrade", "echo")
		x.Response.Takeover = func(c net.Conn, early []byte) {
			c.Write(early)
			io.Copy(c, c)
		}
	})
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\nearly")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "echo" {
		t.Fatalf("got %v, %v", resp, err)
	}
	io.WriteString(c, " and late")
	c.(*net.TCPConn).CloseWrite()
	if all, err := io.ReadAll(r); string(all) != "early and late" || err != nil {
		t.Errorf("got %q, %v", all, err)
	}
	<-over // the exchange ends with the connection, once: a channel is closed only once
}

// The fields of an answer lie in a buffer of the connection to the origin, which the next one overwrites.
func TestFieldsThatChangeAfterTheAnswerChangeNothing(t *testing.T) {
	both(t, func(t *testing.T, two bool) {
		var buf [64]byte
		over := func(s string) string { return unsafe.String(&buf[0], copy(buf[:], s)) }
		srv, _ := front(t, two, func(x *filter.Exchange) {
			x.Answer(http.StatusOK, "")
			name, value, _ := strings.Cut(over(x.Request.Path[1:]+"=v"), "=")
			x.Response.Header.Add(name, value)
			x.Response.Header.Add(name+"-2", value)
		})
		for i := range 300 {
			name := fmt.Sprintf("X-Field-%d", i%150)
			resp, err := srv.Client().Get(srv.URL + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.Header.Get(name) != "v" || resp.Header.Get(name+"-2") != "v" {
				t.Fatalf("answer %d: got %v, want %s: v", i, resp.Header, name)
			}
		}
	})
}

func TestWhatHTTP1WouldReadDifferentlyIsRefused(t *testing.T) {
	sound := func() *http.Request {
		return &http.Request{Method: "GET", RequestURI: "/a?b=c", Host: "shop.example:443", Header: http.Header{}, ProtoMajor: 2}
	}
	if why := unsound(sound()); why != "" {
		t.Errorf("a sound request: %s", why)
	}
	for name, spoil := range map[string]func(r *http.Request){
		"a method with a space":           func(r *http.Request) { r.Method = "GET /x HTTP/1.1" },
		"no method":                       func(r *http.Request) { r.Method = "" },
		"a path with a space":             func(r *http.Request) { r.RequestURI = "/a /b" },
		"a path with a fragment":          func(r *http.Request) { r.RequestURI = "/a#b" },
		"a path beyond ASCII":             func(r *http.Request) { r.RequestURI = "/\xff" },
		"a URL as the path":               func(r *http.Request) { r.RequestURI = "http://other.example/a" },
		"another host":                    func(r *http.Request) { r.Header["Host"] = []string{"other.example"} },
		"host twice":                      func(r *http.Request) { r.Header["Host"] = []string{r.Host, r.Host} },
		"a port of letters":               func(r *http.Request) { r.Host = "shop.example:port" },
		"content-length twice":            func(r *http.Request) { r.Header["Content-Length"] = []string{"5", "5"}; r.ContentLength = 5 },
		"content-length with a sign":      func(r *http.Request) { r.Header["Content-Length"] = []string{"+5"}; r.ContentLength = 5 },
		"a body that does not come":       func(r *http.Request) { r.Header["Content-Length"] = []string{"5"} },
		":protocol of what is no CONNECT": func(r *http.Request) { r.Header[":protocol"] = []string{"websocket"} },
	} {
		r := sound()
		spoil(r)
		if unsound(r) == "" {
			t.Errorf("%s: it passes, want a refusal", name)
		}
	}
}

// A request that is refused before Serve is told all the same: whoever looks for it finds it in the access log.
func TestWhatIsRefusedIsFinishedWithItsAnswer(t *testing.T) {
	got := ""
	h := &Handler{Serve: func(*filter.Exchange) { t.Error("it was served") }, Log: slog.New(slog.DiscardHandler), Finished: func(x *filter.Exchange) {
		category, why := x.Category()
		got += fmt.Sprintf("%s %s %d %d %s: %s", x.Request.Method, x.Request.Path, x.Request.Proto, x.Response.Status, category, why)
	}}
	r := httptest.NewRequest("GET", "/a", nil)
	r.ProtoMajor, r.ProtoMinor = 2, 0
	r.Header["Host"] = []string{"other.example"}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if want := "GET /a 20 400 FAILURE_CLIENT_BAD_REQUEST: :authority and host differ"; got != want {
		t.Errorf("it was finished as %q, want %q", got, want)
	}
	if w.Code != 400 || w.Body.String() != "400 Bad Request: :authority and host differ\n" {
		t.Errorf("the client got %d %q", w.Code, w.Body)
	}
}

// An app may answer before it has all of a body; what sends it on then may read when the request is over, and another began.
func TestABodyThatOutlivesItsRequestTouchesNoOther(t *testing.T) {
	var kept io.Reader
	serve := func(x *filter.Exchange) {
		if kept == nil {
			kept = x.Request.Body
			x.Answer(http.StatusOK, "")
			return
		}
		late, err := io.ReadAll(kept)
		own, _ := io.ReadAll(x.Request.Body)
		x.Answer(http.StatusOK, fmt.Sprintf("%q %v, %q, %d bytes", late, err, own, x.Read))
	}
	h := &Handler{Serve: serve, Listener: "test", Log: slog.New(slog.DiscardHandler)}
	for _, c := range []struct{ body, want string }{{"of the first", ""}, {"the second's", `"of the first" <nil>, "the second's", 12 bytes`}} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "http://shop.example/", strings.NewReader(c.body)))
		if got := w.Body.String(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}
