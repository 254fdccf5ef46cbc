package edge

import (
	"crypto/rand"
	"encoding/hex"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed/ipc/pass"
	"github.com/roadbed/roadbed/meter"
)

// passage is one request on its way through.
type passage struct {
	id      string
	match   match
	backend string
}

type passageKey struct{}

// newProxy returns the handler that passes a request with a passage on by way of transport.
func newProxy(transport http.RoundTripper, fail func(http.ResponseWriter, *http.Request, error)) *pass.Proxy {
	return &pass.Proxy{Transport: transport, Request: onward, Response: outward, Fail: fail}
}

// outward takes out of an answer what services tell callers of ours, which is not for the world, and the id, which is
// already set.
func outward(h http.Header) {
	for k := range h {
		if internal(k) || k == "X-Request-Id" {
			delete(h, k)
		}
	}
}

// onward makes the request that the backend gets.
func onward(out, in *http.Request) {
	way := in.Context().Value(passageKey{}).(*passage)
	path := way.match.path(in.URL)
	u := &url.URL{Scheme: "http", Host: way.backend, RawQuery: in.URL.RawQuery}
	var err error
	if u.Path, err = url.PathUnescape(path); err != nil {
		u.Path = path // cannot be: it was unescaped once when the request was read
	}
	u.RawPath = path
	out.URL = u

	h := out.Header
	for k := range h {
		if internal(k) || strings.HasPrefix(k, "X-Forwarded-") || k == "Forwarded" || k == "X-Real-Ip" {
			delete(h, k)
		}
	}
	if host, _, err := net.SplitHostPort(in.RemoteAddr); err == nil {
		h["X-Forwarded-For"] = []string{host}
	}
	h["X-Forwarded-Host"] = []string{in.Host}
	h["X-Forwarded-Proto"] = []string{"http"}
	if in.TLS != nil {
		h["X-Forwarded-Proto"] = []string{"https"}
	}
	if _, port, err := net.SplitHostPort(in.Host); err == nil {
		h["X-Forwarded-Port"] = []string{port}
	}
	if prefix := way.match.prefix(in.URL); prefix != "" {
		h["X-Forwarded-Prefix"] = []string{prefix}
	}
	h["X-Request-Id"] = []string{way.id}
	via := h["Via"]
	h["Via"] = append(via[:len(via):len(via)], "1.1 "+pseudonym)
}

// A request leaves its mark each time it comes through, so that one which is led back here does not go round for ever.
// spec: RFC 9110 §7.6.3
const (
	pseudonym   = "roadbed-edge"
	maxPassages = 3
)

// passages returns how often a request came through the edge before.
func passages(h http.Header) (n int) {
	for _, v := range h["Via"] {
		for by := range strings.SplitSeq(v, ",") {
			if strings.HasSuffix(strings.TrimSpace(by), " "+pseudonym) {
				n++
			}
		}
	}
	return n
}

// internal reports whether a header is spoken only between services. k is in canonical form.
//
// That goes for deadlines, too. Services give up in time for them and count those they called as late, so that a
// stranger who sends a millisecond could open breakers for everybody. Who really waits no longer hangs up, which
// counts for nobody.
func internal(k string) bool {
	switch k {
	case "X-Fit", "X-Netflix.server.utilization", "Endpoint-Load-Metrics", "Grpc-Timeout", "X-Envoy-Expected-Rq-Timeout-Ms":
		return true
	}
	return strings.HasPrefix(k, "X-Ipc-")
}

// requestID returns the client's id for the request if it is fit to be passed on, else a new one.
func requestID(h http.Header) string {
	id := h.Get("X-Request-Id")
	if n := len(id); n >= 8 && n <= 64 && token(id) {
		return id
	}
	var b [12]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// improper tells what is wrong with a request that no route may get to see; empty when nothing is.
func improper(r *http.Request) string {
	if r.Method == http.MethodConnect {
		return "the edge is no forward proxy; CONNECT is refused"
	}
	if !strings.HasPrefix(r.URL.Path, "/") {
		return "the request's target must be a path"
	}
	for s := range strings.SplitSeq(r.URL.Path, "/") {
		if s == "." || s == ".." {
			return "the path has a dot segment; send it resolved"
		}
	}
	if strings.ContainsAny(r.URL.Path, "\\\x00\r\n") {
		return "the path has a character that no route may hold"
	}
	return ""
}

// response notes what a request was answered.
type response struct {
	http.ResponseWriter
	status         int
	bytes          int64
	route, backend string // that the request took; "-" for none
	arms           []*arm // in which it counts
}

func (r *response) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *response) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController flush and hijack.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// timers meters requests by route and class of status. Routes come and go; their meters expire in the registry.
type timers struct {
	meter *meter.Registry
	byKey sync.Map // routeStatus -> *meter.PercentileTimer
}

type routeStatus struct {
	route string
	class int
}

var classes = [...]string{"0xx", "1xx", "2xx", "3xx", "4xx", "5xx"}

func (t *timers) record(route string, status int, took time.Duration) {
	k := routeStatus{route, min(max(status/100, 0), len(classes)-1)}
	m, ok := t.byKey.Load(k)
	if !ok {
		if route == "-" {
			route = "none"
		}
		m, _ = t.byKey.LoadOrStore(k, t.meter.PercentileTimer("edge.request.duration", "edge.route", route, "edge.status", classes[k.class]))
	}
	m.(*meter.PercentileTimer).Record(took)
}
