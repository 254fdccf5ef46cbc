package ipc

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc/limit"
	"github.com/roadbed/roadbed/meter"
)

// inbound is what a request brought along and its calls take on.
type inbound struct {
	importance
	id          string
	traceparent string
	tracestate  string
	attempt     int
	trial       bool        // a breaker upstream waits for how it ends
	noRetry     atomic.Bool // a callee, or our own budget, asks that nobody upstream tries again
	up          *inbound    // the inbound request in whose course this one is made for another process; see Adopt
	request     request
}

// servesTrial reports whether ctx belongs to a request for which a breaker upstream waits.
func servesTrial(ctx context.Context) bool {
	in := inboundOf(ctx)
	return in != nil && in.trial
}

// detached returns what goes on after the request was answered.
func (in *inbound) detached() *inbound {
	return &inbound{id: in.id, importance: in.importance, traceparent: in.traceparent, tracestate: in.tracestate, attempt: in.attempt}
}

// lowered returns how important a call is that is made for the request by a command: no more than the command says.
func (in *inbound) lowered(c roadbed.Criticality) (roadbed.Criticality, uint8) {
	switch {
	case in == nil:
		return c, usualPriority[c]
	case c <= in.criticality:
		return in.criticality, in.priority
	}
	return c, max(usualPriority[c], in.priority)
}

// importanceIn returns how important work is that is done in the course of ctx.
func importanceIn(ctx context.Context) importance {
	if in := inboundOf(ctx); in != nil {
		return in.importance
	}
	return importance{priority: usualPriority[roadbed.Critical]}
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
	return importanceIn(ctx).criticality
}

// CallerOf returns the app that made the request which ctx serves, "" if it did not say.
func CallerOf(ctx context.Context) string {
	if in := inboundOf(ctx); in != nil {
		return in.caller
	}
	return ""
}

// PriorityOf returns how important the request is that ctx serves, from 1, the most, to 100; 10 outside a handler.
func PriorityOf(ctx context.Context) int {
	return int(importanceIn(ctx).priority)
}

// server is the engine's serving side.
type server struct {
	trials    atomic.Int32 // requests being served for which a breaker upstream waits
	expired   *meter.Counter
	ignored   *meter.Counter
	malformed *meter.Counter
	shed      shedder
	knobs     []knob[ServerSettings]
	code      ServerSettings
	none      *Command                                              // of the contexts of requests, which belong to no command
	callers   atomic.Pointer[map[string]*[4]*meter.PercentileTimer] // by caller: 2xx to 5xx; copied on write
	mu        sync.Mutex
}

const (
	maxCallers  = 256 // distinct values of the tag ipc.caller; the rest are "other"
	maxIDLength = 128
)

func (s *server) init(e *Engine, code ServerSettings) {
	s.expired = e.meter.Counter("ipc.server.expired")
	s.ignored = e.meter.Counter("ipc.fit.ignored")
	s.malformed = e.meter.Counter("ipc.server.malformed")
	s.code, s.knobs, s.none = code, serverKnobs(), &Command{engine: e, clock: e.clock}
	s.shed.init(e, code)
	s.callers.Store(&map[string]*[4]*meter.PercentileTimer{})
}

// Handler wraps next so that each request's context has its deadline, criticality, id and faults, which calls made
// with that context hand on. A request whose time is up on arrival is answered 504 and does not reach next; under
// overload the least important ones are answered 503, see [ServerSettings].
func (e *Engine) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.serve(next, w, r) })
}

// servedRequest is one request that is worked on: its context, what it brought along and the response's writer, in one
// allocation. It is never used again, because a handler may keep its context.
type servedRequest struct {
	scope
	in     inbound
	rec    recorder
	permit limit.Permit
	held   atomic.Bool // the permit
	id     [1]string
}

// Value finds what the request brought along, and what the server's context has.
func (s *servedRequest) Value(key any) any {
	if _, ok := key.(inboundKey); ok {
		return &s.in
	}
	return s.scope.Context.Value(key)
}

// leave gives the permit back, once.
func (s *servedRequest) leave(now int64, ok, late bool) {
	if s.held.CompareAndSwap(true, false) {
		s.cmd.engine.server.shed.leave(s.permit, now, ok, late)
	}
}

// serve works on a request.
// hot path: 2 allocs without faults and with an id, none for a refusal, BenchmarkHandler
func (e *Engine) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	start, h, shed := e.clock.now(), r.Header, &e.server.shed
	importance := e.server.importanceOf(h)
	left, timed := readTimeout(h)
	if timed && left <= 0 {
		e.server.expired.Inc()
		e.late(w, r, importance.caller, "the caller's time was up when the request arrived; it was not worked on", start)
		return
	}
	permit, why := shed.admit(e, start, importance)
	if why != admitted && !shed.patient() {
		shed.count(e, importance.criticality, why)
		shed.answer(w, r, importance.criticality, why)
		a := shed.answers.Load()
		e.noteServed(r.Method, r.URL.Path, first(r.Header[HeaderRequestID]), importance.caller, "shed", a.status, a.body[importance.criticality][why])
		e.server.record(e, importance.caller, shed.answers.Load().status, time.Duration(e.clock.now()-start))
		return
	}
	s := &servedRequest{permit: permit}
	s.in.importance = importance
	s.in.read(&e.server, h)
	s.scope.Context, s.cmd = r.Context(), e.server.none
	s.rec = recorder{ResponseWriter: w, request: s}
	if timed {
		if d, ok := r.Context().Deadline(); !ok || time.Until(d) > left {
			s.deadline = start + int64(left)
		}
	}
	if why != admitted && !e.wait(s, w, r, why, start) {
		return
	}
	s.held.Store(true)
	out := w.Header()
	s.id[0] = s.in.id
	out[HeaderRequestID] = s.id[:1:1]
	if rep := shed.report.Load(); rep != nil {
		out[serverUtilized], out[serverLoad] = rep.utilization, rep.load
	}
	if s.in.trial {
		e.server.trials.Add(1)
		defer e.server.trials.Add(-1)
	}
	normal := false
	defer func() {
		status, now := s.rec.status, e.clock.now()
		if status == 0 {
			status = http.StatusOK
			if !normal {
				status = http.StatusInternalServerError // next panicked
			}
		}
		late := s.deadline != 0 && now >= s.deadline
		s.leave(now, status < 400 && !late && normal && s.scope.Context.Err() == nil, late)
		s.end(context.Canceled)
		shed.done.Add(1)
		if status >= 500 {
			shed.errors.Add(1)
		}
		e.server.record(e, s.in.caller, status, time.Duration(now-start))
	}()

	if f := e.faultsIn(h, &s.in, e.clock.time(start)); f != nil {
		e.Faulty(&s.rec, r.WithContext(fault.With(s, f)), "server", e.app, next)
		normal = true
		return
	}
	next.ServeHTTP(&s.rec, r.WithContext(s))
	normal = true
}

// wait answers a request that is not let in, if need be after a while. It returns true if the request got a place.
func (e *Engine) wait(s *servedRequest, w http.ResponseWriter, r *http.Request, why refusal, start int64) bool {
	shed := &e.server.shed
	p, got, err := shed.wait(s, why)
	if got {
		s.permit = p
		return true
	}
	defer s.end(context.Canceled)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, limit.ErrTooLate) {
		e.server.expired.Inc()
		w.Header()[HeaderNoRetry] = yes
		e.late(w, r, s.in.caller, "the caller's time was up before the request's turn came; it was not worked on", start)
		return false
	}
	if set := shed.set.Load(); set.PartitionBy != PartitionOff {
		shed.limiter.HoldBack(s, partitionOf(set, &s.in.importance))
	}
	shed.count(e, s.in.criticality, why)
	shed.answer(w, r, s.in.criticality, why)
	a := shed.answers.Load()
	e.noteServed(r.Method, r.URL.Path, s.in.id, s.in.caller, "shed", a.status, a.body[s.in.criticality][why])
	e.server.record(e, s.in.caller, shed.answers.Load().status, time.Duration(e.clock.now()-start))
	return false
}

// late answers a request that nobody waits for any more.
func (e *Engine) late(w http.ResponseWriter, r *http.Request, caller, text string, start int64) {
	if id := r.Header[HeaderRequestID]; plain(first(id)) {
		w.Header()[HeaderRequestID] = id[:1:1]
	}
	http.Error(w, text, http.StatusGatewayTimeout)
	e.noteServed(r.Method, r.URL.Path, first(r.Header[HeaderRequestID]), caller, "late", http.StatusGatewayTimeout, []byte(text))
	e.server.record(e, caller, http.StatusGatewayTimeout, time.Duration(e.clock.now()-start))
}

// importance says which requests go first.
type importance struct {
	caller      string
	criticality roadbed.Criticality
	priority    uint8 // 1 is the most important, 100 the least
}

// importanceOf reads how important a request is. What is malformed counts as absent.
func (s *server) importanceOf(h http.Header) (i importance) {
	if c := first(h[HeaderCaller]); plain(c) {
		i.caller = c
	}
	if v := first(h[HeaderCriticality]); v != "" {
		c, err := roadbed.ParseCriticality(v)
		if err != nil {
			s.malformed.Inc()
		}
		i.criticality = c
	}
	var ok bool
	if i.priority, ok = priorityOf(first(h[HeaderPriority]), i.criticality); !ok {
		s.malformed.Inc()
	}
	return i
}

// readInbound reads what is handed on. What is malformed counts as absent.
func readInbound(s *server, h http.Header) *inbound {
	in := &inbound{importance: s.importanceOf(h)}
	in.read(s, h)
	return in
}

// read reads what else is handed on. What is malformed counts as absent.
func (in *inbound) read(s *server, h http.Header) {
	in.trial = first(h[HeaderTrial]) == "1"
	in.traceparent, in.tracestate = first(h["Traceparent"]), first(h["Tracestate"])
	if id := first(h[HeaderRequestID]); plain(id) {
		in.id = id
	} else {
		in.id = newID()
	}
	in.attempt = max(s.attemptOf(h[HeaderAttempt], 0), s.attemptOf(h["X-Envoy-Attempt-Count"], 0), s.attemptOf(h["Grpc-Previous-Rpc-Attempts"], 1), 1)
}

// attemptOf reads which attempt a header says a request is; 0 if it does not say, or nothing that makes sense.
func (s *server) attemptOf(values []string, before int) int {
	v := first(values)
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if n += before; err != nil || n <= 0 || n > 1000 {
		s.malformed.Inc()
		return 0
	}
	return n
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// newID returns an id for a request that brought none.
func newID() string {
	const letters = "0123456789abcdefghjkmnpqrstvwxyz"
	var b [24]byte
	for i := range b {
		if i%12 == 0 {
			for x, j := rand.Uint64(), i; j < i+12; j++ {
				b[j] = letters[x&31]
				x >>= 5
			}
		}
	}
	return string(b[:])
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
		if ms, valid := parseMillis(first(h[name])); valid && (!ok || ms < left) {
			left, ok = ms, true
		}
	}
	if d, valid := parseGRPCTimeout(first(h["Grpc-Timeout"])); valid && (!ok || d < left) {
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
	request *servedRequest
	status  int
}

// WriteHeader notes the final status.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
		if status >= 500 && w.request.in.noRetry.Load() {
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
	if first(w.Header()["Content-Type"]) == "text/event-stream" {
		w.request.leave(0, false, false) // it may last for hours and says nothing about load
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
	if err == nil {
		w.request.leave(0, false, false) // who works on the connection from now on is not ours to count
	}
	return c, rw, err
}

// Unwrap lets http.ResponseController find what lies beneath.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
