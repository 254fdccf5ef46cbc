package http2

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/nethttp"
	"pgregory.net/rapid"
)

// reflect answers with all that an engine has told of a request, as its fields ask for it.
func reflect(x *filter.Exchange) {
	q := &x.Request
	var body []byte
	var err error
	if q.Body != nil {
		body, err = io.ReadAll(q.Body)
	}
	var fields []string
	for _, f := range q.Header.Fields() {
		if name := strings.ToLower(f.Name); !slices.Contains([]string{"content-length", "accept-encoding", "user-agent", "trailer"}, name) {
			fields = append(fields, name+": "+f.Value)
		}
	}
	slices.Sort(fields)
	for _, f := range q.Trailer.Fields() {
		fields = append(fields, "trailer "+strings.ToLower(f.Name)+": "+f.Value)
	}
	text := fmt.Sprintf("%s %s%s?%s %q %v\n%s", q.Method, q.Host, q.Path, q.RawQuery, body, err, strings.Join(fields, "\n"))
	status, _ := strconv.Atoi(q.Header.Get("x-status"))
	x.Answer(status, text)
	p := &x.Response
	switch q.Header.Get("x-kind") {
	case "stream":
		p.Body, p.ContentLength = io.NopCloser(strings.NewReader(text)), -1
	case "trailers":
		p.Body, p.ContentLength = io.NopCloser(strings.NewReader(text)), -1
		p.Trailer = new(filter.Header)
		p.Trailer.Add("X-Sum", strconv.Itoa(len(text)))
	case "empty":
		p.Body, p.ContentLength = nil, 0
	}
	for range len(body) % 3 {
		p.Header.Add("X-More", q.Header.Get("x-a"))
	}
}

// TestBothEnginesServeTheSame sends the same random requests, by net/http's client, to this engine and to net/http's server as
// the edge's engine.
func TestBothEnginesServeTheSame(t *testing.T) {
	ours, _ := front(t, Config{Serve: reflect})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	std := &http.Server{Handler: &nethttp.Handler{Serve: reflect}, Protocols: new(http.Protocols)}
	std.Protocols.SetUnencryptedHTTP2(true)
	var serving sync.WaitGroup
	serving.Go(func() { std.Serve(l) })
	t.Cleanup(func() { std.Close(); serving.Wait() })
	client := goClient(t)
	words := rapid.StringMatching(`[a-zA-Z0-9 ,;=_/.-]{0,30}`)
	rapid.Check(t, func(t *rapid.T) {
		method := rapid.SampledFrom([]string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"}).Draw(t, "method")
		path := "/" + rapid.StringMatching(`[a-z0-9/%~.-]{0,12}`).Filter(func(s string) bool { return !strings.ContainsAny(s, "%.") }).Draw(t, "path")
		query := rapid.StringMatching(`[a-z0-9=&%+]{0,10}`).Filter(func(s string) bool { return !strings.Contains(s, "%") }).Draw(t, "query")
		kind := rapid.SampledFrom([]string{"whole", "stream", "trailers", "empty"}).Draw(t, "kind")
		status := rapid.SampledFrom([]int{200, 201, 204, 304, 404, 500, 503}).Draw(t, "status")
		if status == 204 || status == 304 {
			kind = "empty" // net/http resets one that has a body; here the body is left out
		}
		var body []byte
		if method != "GET" && method != "HEAD" {
			body = bytes.Repeat([]byte("b"), rapid.SampledFrom([]int{0, 1, 10, 5000, 70_000, 600_000}).Draw(t, "body"))
		}
		known := rapid.Bool().Draw(t, "known")
		trailer := rapid.Bool().Draw(t, "trailer") && len(body) > 0 && !known
		a := strings.TrimSpace(words.Draw(t, "a"))
		cookie := rapid.SampledFrom([]string{"", "a=b", "a=b; c=d"}).Draw(t, "cookie")
		ask := func(addr string) string {
			var in io.Reader
			if len(body) > 0 {
				if in = bytes.NewReader(body); !known {
					in = struct{ io.Reader }{in}
				}
			}
			req, err := http.NewRequest(method, "http://"+addr+path+"?"+query, in)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "shop.example"
			req.Header.Set("X-A", a)
			req.Header.Set("X-Kind", kind)
			req.Header.Set("X-Status", strconv.Itoa(status))
			if cookie != "" {
				req.Header.Set("Cookie", cookie)
			}
			if trailer {
				req.Trailer = http.Header{"X-T": {a}}
			}
			resp, err := client.Do(req)
			if err != nil {
				return err.Error()
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if _, err := time.Parse(http.TimeFormat, resp.Header.Get("Date")); err != nil {
				t.Errorf("the date of %s is %v", addr, err)
			}
			return fmt.Sprintf("%d %d %q %q %v %v\n%s", resp.StatusCode, resp.ContentLength, resp.Header.Get("Content-Type"), resp.Header["X-More"], resp.Trailer, err, got)
		}
		if got, want := ask(ours), ask(l.Addr().String()); got != want {
			t.Fatalf("ours:\n%s\nnet/http's:\n%s", got, want)
		}
	})
}
