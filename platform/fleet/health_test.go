package fleet

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestProbeVerdicts(t *testing.T) {
	answer := func(byPath map[string]int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			status, ok := byPath[r.URL.Path]
			if !ok {
				status = 404
			}
			if status == 302 {
				w.Header().Set("Location", "http://example.invalid/")
			}
			w.WriteHeader(status)
		}
	}
	for _, x := range []struct {
		name     string
		handler  http.Handler
		health   *HealthCheck
		ok, said bool
		text     string
	}{
		{"a service", answer(map[string]int{"/healthcheck": 200}), nil, true, true, "GET /healthcheck answers 200"},
		{"a sick service", answer(map[string]int{"/healthcheck": 503, "/": 200}), nil, false, true, "GET /healthcheck answers 503"},
		{"a plain server", answer(map[string]int{"/": 200}), nil, true, true, "GET / answers 200"},
		{"a plain server without a page", answer(nil), nil, true, true, "GET / answers 404"},
		{"a plain server that knows only POST", answer(map[string]int{"/healthcheck": 501, "/": 405}), nil, true, true, "GET / answers 405"},
		{"a broken plain server", answer(map[string]int{"/": 500}), nil, false, true, "GET / answers 500"},
		{"one that redirects", answer(map[string]int{"/healthcheck": 302, "/": 302}), nil, true, true, "GET / answers 302"},
		{"a path of its own", answer(map[string]int{"/ok": 204, "/": 500}), &HealthCheck{"/ok"}, true, true, "GET /ok answers 204"},
		{"a wrong path", answer(map[string]int{"/": 200}), &HealthCheck{"/ok"}, false, true, "GET /ok answers 404"},
		{"TCP only", answer(map[string]int{"/": 500}), &HealthCheck{""}, true, true, "accepts connections"},
	} {
		srv := httptest.NewServer(x.handler)
		p := prober{client: newProbeClient(), addr: srv.Listener.Addr().String(), health: x.health}
		for range 2 { // the second answer may take a short cut
			v := p.probe(context.Background())
			if v.ok != x.ok || v.answered != x.said || v.text != x.text {
				t.Errorf("%s: got %+v, want ok %v, answered %v, %q", x.name, v, x.ok, x.said, x.text)
			}
		}
		srv.Close()
	}
}

func TestProbeTellsSilenceFromBadAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := prober{client: newProbeClient(), addr: l.Addr().String()}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if v := p.probe(ctx); v.ok || v.answered || v.refused || v.text != "GET /healthcheck: no answer in time" {
		t.Errorf("one that does not accept: got %+v, want no answer", v)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			bufio.NewReader(c).ReadString('\n')
			c.Write([]byte("+OK this is no HTTP\r\n"))
			c.Close()
		}
	}()
	if v := p.probe(context.Background()); v.ok || !v.answered || !strings.Contains(v.text, "malformed HTTP") {
		t.Errorf("one that speaks something else: got %+v, want a bad answer", v)
	}
	l.Close()
	if v := p.probe(context.Background()); v.ok || v.answered || !v.refused {
		t.Errorf("a closed port: got %+v, want refused", v)
	}
}
