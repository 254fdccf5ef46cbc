package pass

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// between starts a proxy before far.
func between(t *testing.T, far http.HandlerFunc) (front *httptest.Server) {
	back := httptest.NewServer(far)
	t.Cleanup(back.Close)
	to, err := url.Parse(back.URL)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	front = httptest.NewServer(&Proxy{
		Transport: tr,
		Request: func(out, in *http.Request) {
			u := *in.URL
			u.Scheme, u.Host = "http", to.Host
			out.URL = &u
		},
		Response: func(h http.Header) { h.Del("X-Secret") },
		Fail: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	})
	t.Cleanup(front.Close)
	return front
}

func TestFieldsOfOneConnectionAreNotPassedOn(t *testing.T) {
	front := between(t, func(w http.ResponseWriter, r *http.Request) {
		for _, k := range []string{"Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "X-Hop", "Upgrade", "Te"} {
			if v, ok := r.Header[k]; ok && !(k == "Te" && v[0] == "trailers") {
				t.Errorf("%s: %q was passed on", k, v)
			}
		}
		if r.Header.Get("X-End") != "a" || len(r.Header.Values("X-Two")) != 2 || r.Header.Get("Accept-Encoding") != "br" || r.UserAgent() != "" {
			t.Errorf("what belongs to both ends was not passed as it is: %v", r.Header)
		}
		h := w.Header()
		h.Set("Connection", "X-Back")
		h.Set("X-Back", "1")
		h.Set("Keep-Alive", "timeout=5")
		h.Set("X-Secret", "1")
		h.Add("Set-Cookie", "a=1")
		h.Add("Set-Cookie", "b=2")
		w.WriteHeader(http.StatusTeapot)
	})
	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Authorization: x\r\n"+
		"Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nTe: gzip, trailers\r\nX-End: a\r\nX-Two: 1\r\nX-Two: 2\r\nAccept-Encoding: br\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if h := resp.Header; resp.StatusCode != http.StatusTeapot || h.Get("X-Back")+h.Get("Keep-Alive")+h.Get("X-Secret") != "" || len(h.Values("Set-Cookie")) != 2 {
		t.Errorf("the answer: got %d %v", resp.StatusCode, h)
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	front := between(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s and %s", body, r.Trailer.Get("X-Check"))
		w.Header().Set("X-Sum", "7")
		w.Header().Set(http.TrailerPrefix+"X-Late", "8")
	})
	req, err := http.NewRequest(http.MethodPost, front.URL, io.NopCloser(strings.NewReader("film")))
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Check": {"9"}}
	resp, err := front.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "film and 9" || resp.Trailer.Get("X-Sum") != "7" || resp.Trailer.Get("X-Late") != "8" {
		t.Errorf("got %q with trailers %v, want film and 9 with X-Sum 7 and X-Late 8", body, resp.Trailer)
	}
}

func TestWhatHasNoLengthIsFlushedAsItComes(t *testing.T) {
	more, begin := make(chan struct{}), make(chan struct{})
	front := between(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-begin
		io.WriteString(w, "one")
		w.(http.Flusher).Flush()
		<-more
		io.WriteString(w, "two")
	})
	resp, err := front.Client().Get(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	close(begin)
	first := make([]byte, 3)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "one" {
		t.Fatalf("got %q %v before the rest was sent", first, err)
	}
	close(more)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "two" {
		t.Errorf("got %q %v", rest, err)
	}
}

func TestAnAnswerThatBreaksOffArrivesBrokenOff(t *testing.T) {
	for _, head := range []string{"Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"} {
		front := between(t, func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+head)
			conn.Close()
		})
		resp, err := front.Client().Get(front.URL)
		if errors.Is(err, io.EOF) {
			continue // the break was seen before anything was sent on
		} else if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: got %q and %v, want an unexpected end", head, body, err)
		}
	}
}

func TestInformationalAnswersPass(t *testing.T) {
	front := between(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.Header().Set("X-End", "1")
	})
	var hint string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hint = fmt.Sprint(code, h.Get("Link"))
		return nil
	}})
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, front.URL, nil)
	resp, err := front.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if hint != "103</a.css>" || resp.Header.Get("Link") != "" || resp.Header.Get("X-End") != "1" {
		t.Errorf("got the hint %q and then %v", hint, resp.Header)
	}
}

func TestAnUpgradedConnectionCarriesBothWays(t *testing.T) {
	front := between(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" {
			http.Error(w, "no wish", http.StatusBadRequest)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Secret: 1\r\n\r\n")
		line, _ := rw.ReadString('\n')
		io.WriteString(conn, "you said "+line)
	})
	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello\n")
	got, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 101 ") || !strings.HasSuffix(string(got), "you said hello\n") || strings.Contains(string(got), "X-Secret") {
		t.Errorf("got %q %v", got, err)
	}
}

func TestASwitchNobodyAskedForIsAFailure(t *testing.T) {
	front := between(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
		conn.Close()
	})
	resp, err := front.Client().Get(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusBadGateway || !strings.Contains(string(body), `"other"`) {
		t.Errorf("got %d %s, want 502 that names the protocol", resp.StatusCode, body)
	}
}

// writer is a client that takes everything.
type writer struct{ h http.Header }

func (w *writer) Header() http.Header         { return w.h }
func (w *writer) Write(p []byte) (int, error) { return len(p), nil }
func (w *writer) WriteHeader(int)             {}

// canned answers at once.
type canned struct{ header http.Header }

func (c canned) RoundTrip(*http.Request) (*http.Response, error) {
	h := make(http.Header, len(c.header))
	for k, v := range c.header {
		h[k] = v
	}
	return &http.Response{StatusCode: 200, Header: h, ContentLength: 5, Body: io.NopCloser(strings.NewReader("hello"))}, nil
}

// BenchmarkPass is what passing costs apart from the network.
func BenchmarkPass(b *testing.B) {
	p := &Proxy{Transport: canned{http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"5"}, "Date": {"now"}}},
		Request: func(out, in *http.Request) { out.URL = in.URL }, Fail: func(http.ResponseWriter, *http.Request, error) { b.Error("failed") }}
	in, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://a/b", nil)
	in.Header = http.Header{"Accept": {"*/*"}, "User-Agent": {"x"}, "X-Request-Id": {"1"}, "Accept-Encoding": {"gzip"}}
	w := &writer{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		p.ServeHTTP(w, in)
	}
}
