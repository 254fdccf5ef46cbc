package standard_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/nethttp"
	"github.com/roadbed/roadbed/platform/edge/standard"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves the standard filters in front of origin by Go's own server, with HTTP/1.1 or HTTP/2.
func serve(t *testing.T, h2 bool, origin func(*filter.Exchange) error) *httptest.Server {
	t.Helper()
	s := standard.New(standard.Config{})
	plan := &filter.Plan{Route: "all", MaxBody: 100_000}
	chain, err := filter.NewChain(filter.ChainConfig{
		Filters: append(s.Filters(), &filter.Filter{Name: "Routes", Order: -100, Apply: func(x *filter.Exchange) error { x.Plan = plan; return nil }}),
		Proxy:   &filter.Filter{Name: "ProxyEndpoint", Kind: filter.Endpoint, Apply: origin}, Error: s.ErrorResponse, NoRoute: s.NoRoute, Meter: meter.New(nil),
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(&nethttp.Handler{Serve: chain.Run})
	if h2 {
		srv.EnableHTTP2 = true
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv
}

func both(t *testing.T, origin func(*filter.Exchange) error, check func(t *testing.T, srv *httptest.Server)) {
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) { check(t, serve(t, h2, origin)) })
	}
}

// An answer of unknown length comes piece by piece through compression: each piece is sent only when the client has read
// the one before.
func TestCompressedStreamsFlow(t *testing.T) {
	var next chan string
	both(t, func(x *filter.Exchange) error {
		r, w := io.Pipe()
		go func() {
			for s := range next {
				if _, err := io.WriteString(w, s); err != nil {
					break
				}
			}
			w.Close()
		}()
		x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, -1, r
		x.Response.Header.Add("Content-Type", "text/plain")
		return nil
	}, func(t *testing.T, srv *httptest.Server) {
		next = make(chan string)
		req, _ := http.NewRequest("GET", srv.URL, nil)
		req.Header.Set("Accept-Encoding", "gzip")
		go func() { next <- "one\n" }()
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.Header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("got %v", resp.Header)
		}
		z, err := gzip.NewReader(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(z)
		for _, want := range []string{"one\n", "two\n", "three\n"} {
			if want != "one\n" {
				next <- want
			}
			if got, err := lines.ReadString('\n'); err != nil || got != want {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
		}
		close(next)
		if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
			t.Errorf("at the end: got %q, %v", rest, err)
		}
	})
}

func TestGoClientsUnpackWhatIsCompressed(t *testing.T) {
	text := strings.Repeat("Nothing will come of nothing. ", 1000)
	both(t, func(x *filter.Exchange) error { x.Answer(200, text); return nil }, func(t *testing.T, srv *httptest.Server) {
		resp, err := srv.Client().Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != text || !resp.Uncompressed {
			t.Errorf("got %d bytes, %v, compressed on the way: %v", len(b), err, resp.Uncompressed)
		}
	})
}

func TestABodyThatIsTooLargeIsRefusedWhereverThatShows(t *testing.T) {
	both(t, func(x *filter.Exchange) error {
		if _, err := io.Copy(io.Discard, x.Request.Body); err != nil {
			return err
		}
		x.Answer(200, "")
		return nil
	}, func(t *testing.T, srv *httptest.Server) {
		for _, tt := range []struct {
			size    int
			chunked bool
			want    int
		}{{100_000, false, 200}, {100_001, false, 413}, {100_000, true, 200}, {100_001, true, 413}} {
			var body io.Reader = strings.NewReader(strings.Repeat("x", tt.size))
			if tt.chunked {
				body = io.MultiReader(body)
			}
			resp, err := srv.Client().Post(srv.URL, "text/plain", body)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != tt.want || tt.want == 413 && !strings.Contains(string(text), "100000 bytes") {
				t.Errorf("%d bytes, chunked %v: got %d %q, want %d", tt.size, tt.chunked, resp.StatusCode, text, tt.want)
			}
		}
	})
}

func TestEveryAnswerHasTheRequestsId(t *testing.T) {
	both(t, func(x *filter.Exchange) error {
		switch x.Request.Path {
		case "/fail":
			return errors.New("of the house")
		case "/panic":
			panic("mad")
		case "/late":
			return context.DeadlineExceeded
		}
		x.Answer(200, "")
		return nil
	}, func(t *testing.T, srv *httptest.Server) {
		for path, want := range map[string]int{"/": 200, "/fail": 500, "/panic": 500, "/late": 504, "/a/%2e%2e/b": 400, "/healthcheck": 200} {
			req, _ := http.NewRequest("GET", srv.URL+path, nil)
			req.Header.Set("X-Request-Id", "0123456789")
			resp, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != want || resp.Header.Get("X-Request-Id") != "0123456789" || strings.Contains(string(text), "of the house") || strings.Contains(string(text), "mad") {
				t.Errorf("%s: got %d %v %q, want %d", path, resp.StatusCode, resp.Header, text, want)
			}
		}
	})
}
