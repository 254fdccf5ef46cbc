package ipc

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/meter"
)

// inbound is what a request brought along and its calls take on.
type inbound struct {
	id          string
	caller      string
	traceparent string
	tracestate  string
	attempt     int
	criticality roadbed.Criticality
	noRetry     atomic.Bool // a callee, or our own budget, asks that nobody upstream tries again
	up          *inbound    // the inbound request in whose course this one is made for another process; see Adopt
	request     request
}

// detached returns what goes on after the request was answered.
func (in *inbound) detached() *inbound {
	return &inbound{id: in.id, caller: in.caller, traceparent: in.traceparent, tracestate: in.tracestate, attempt: in.attempt, criticality: in.criticality}
}

type inboundKey struct{}

func inboundOf(ctx context.Context) *inbound {
	in, _ := ctx.Value(inboundKey{}).(*inbound)
	return in
}

// RequestID returns the id of the request that ctx serves, "" outside a [Engine.Handler].
func RequestID(ctx context.Context) string {
	if in := inboundOf(ctx); in != nil {
		return in.id
	}
	return ""
}

// CriticalityOf returns how important the request is that ctx serves; Critical outside a handler.
func CriticalityOf(ctx context.Context) roadbed.Criticality {
	if in := inboundOf(ctx); in != nil {
		return in.criticality
	}
	return roadbed.Critical
}

// CallerOf returns the app that made the request which ctx serves, "" if it did not say.
func CallerOf(ctx context.Context) string {
	if in := inboundOf(ctx); in != nil {
		return in.caller
	}
	return ""
}

// server is the engine's serving side.
type server struct {
	expired *meter.Counter
	ignored *meter.Counter
	callers atomic.Pointer[map[string]*[4]*meter.PercentileTimer] // by caller: 2xx to 5xx; copied on write
	mu      sync.Mutex
}

const (
	maxCallers  = 256 // distinct values of the tag ipc.caller; the rest are "other"
	maxIDLength = 128
)

func (s *server) init(e *Engine) {
	s.expired = e.meter.Counter("ipc.server.expired")
	s.ignored = e.meter.Counter("ipc.fit.ignored")
	s.callers.Store(&map[string]*[4]*meter.PercentileTimer{})
}

// Handler wraps next so that each request's context has its deadline, criticality, id and faults, which calls made
// with that context hand on. A request whose time is up on arrival is answered 504 and does not reach next.
func (e *Engine) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.serve(next, w, r) })
}

func (e *Engine) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	in := readInbound(r.Header)
	w.Header().Set(HeaderRequestID, in.id)
	rec := &recorder{ResponseWriter: w, in: in}
	normal := false
	defer func() {
		status := rec.status
		if status == 0 {
			status = http.StatusOK
			if !normal {
				status = http.StatusInternalServerError // next panicked
			}
		}
		e.server.record(e, in.caller, status, time.Since(start))
	}()

	ctx := context.WithValue(r.Context(), inboundKey{}, in)
	if left, ok := readTimeout(r.Header); ok {
		if left <= 0 {
			e.server.expired.Inc()
			http.Error(rec, "the caller's time was up when the request arrived; it was not worked on", http.StatusGatewayTimeout)
			normal = true
			return
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, start.Add(left))
		defer cancel()
	}
	if f := e.faultsIn(r.Header, in, start); f != nil {
		e.Faulty(rec, r.WithContext(fault.With(ctx, f)), "server", e.app, next)
		normal = true
		return
	}
	next.ServeHTTP(rec, r.WithContext(ctx))
	normal = true
}

// readInbound reads what is handed on. What is malformed counts as absent.
func readInbound(h http.Header) *inbound {
	in := &inbound{attempt: 1, traceparent: h.Get("Traceparent"), tracestate: h.Get("Tracestate")}
	if id := h.Get(HeaderRequestID); plain(id) {
		in.id = id
	} else {
		in.id = rand.Text()
	}
	if c := h.Get(HeaderCaller); plain(c) {
		in.caller = c
	}
	if n, err := strconv.Atoi(h.Get(HeaderAttempt)); err == nil && n > 0 && n <= 1000 {
		in.attempt = n
	}
	if c, err := roadbed.ParseCriticality(h.Get(HeaderCriticality)); err == nil {
		in.criticality = c
	}
	return in
}

// plain reports whether s is short, not empty, and of visible ASCII.
func plain(s string) bool {
	if s == "" || len(s) > maxIDLength {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// readTimeout returns how long the caller still waits, by the smallest of the headers that say so.
func readTimeout(h http.Header) (left time.Duration, ok bool) {
	for _, name := range [...]string{HeaderTimeout, "X-Envoy-Expected-Rq-Timeout-Ms"} {
		if ms, valid := parseMillis(h.Get(name)); valid && (!ok || ms < left) {
			left, ok = ms, true
		}
	}
	if d, valid := parseGRPCTimeout(h.Get("Grpc-Timeout")); valid && (!ok || d < left) {
		left, ok = d, true
	}
	return left, ok
}

// parseMillis reads whole milliseconds, at most 24 h. Negative ones are a deadline that has passed.
func parseMillis(s string) (time.Duration, bool) {
	if s == "" || len(s) > 12 {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, false
	}
	return time.Duration(min(max(n, 0), int64(maxTimeout/time.Millisecond))) * time.Millisecond, true
}

// parseGRPCTimeout reads one to eight digits and a unit. Source: gRPC over HTTP/2, "Timeout".
func parseGRPCTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	unit, ok := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': 1}[s[len(s)-1]]
	if !ok {
		return 0, false
	}
	var n int64
	for _, c := range []byte(s[:len(s)-1]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if n > int64(maxTimeout/unit) {
		return maxTimeout, true
	}
	return time.Duration(n) * unit, true
}

// record counts one served request.
func (s *server) record(e *Engine, caller string, status int, d time.Duration) {
	if e.meter == nil {
		return
	}
	if caller == "" {
		caller = "unknown"
	}
	t := (*s.callers.Load())[caller]
	if t == nil {
		t = s.addCaller(e, caller)
	}
	t[min(max(status/100, 2), 5)-2].Record(d)
}

func (s *server) addCaller(e *Engine, caller string) *[4]*meter.PercentileTimer {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.callers.Load()
	if len(old) >= maxCallers {
		caller = "other"
	}
	if t := old[caller]; t != nil {
		return t
	}
	t := new([4]*meter.PercentileTimer)
	for i, class := range [...]string{"2xx", "3xx", "4xx", "5xx"} {
		t[i] = e.meter.PercentileTimer("ipc.server.call", "ipc.status", class, "ipc.caller", caller)
	}
	next := maps.Clone(old)
	next[caller] = t
	s.callers.Store(&next)
	return t
}

// recorder notes the status, and adds X-Ipc-No-Retry to failures that should not be tried again.
type recorder struct {
	http.ResponseWriter
	in     *inbound
	status int
}

// WriteHeader notes the final status.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
		if status >= 500 && w.in.noRetry.Load() {
			w.Header().Set(HeaderNoRetry, "1")
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write writes the body.
func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// ReadFrom lets the server send files its own way.
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return io.Copy(w.ResponseWriter, r)
}

// Flush sends what is written so far, if the server can.
func (w *recorder) Flush() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if err := http.NewResponseController(w.ResponseWriter).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return // the connection is broken; the next Write says so
	}
}

// Hijack takes over the connection.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	return c, rw, err
}

// Unwrap lets http.ResponseController find what lies beneath.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
