package ipc

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/roadbed/roadbed/fault"
)

// watchSwitches follows the two kill switches. Whoever waits because of a fault goes on as soon as one is thrown.
func (e *Engine) watchSwitches() {
	var mu sync.Mutex
	on := make(chan struct{})
	e.faultStop.Store(&on)
	follow := func(bool, bool) {
		mu.Lock()
		defer mu.Unlock()
		select {
		case <-on:
			if e.faultsOn[0].Get() && e.faultsOn[1].Get() {
				on = make(chan struct{})
				e.faultStop.Store(new(on))
			}
		default:
			if !e.faultsOn[0].Get() || !e.faultsOn[1].Get() {
				close(on)
			}
		}
	}
	for _, s := range e.faultsOn {
		e.unwatch = append(e.unwatch, s.OnChange(follow))
	}
	follow(true, true)
}

// Here tells the faults of a request, read by other means than [Engine.Handler], where they are: its caller's attempt of
// that number came to this engine's process. What they inject ends when a kill switch is thrown.
func (e *Engine) Here(attempt int) fault.Here {
	return fault.Here{Attempt: attempt, Zone: e.zone, Cluster: e.home, Stop: *e.faultStop.Load()}
}

// Faulty serves a request as next does, after what its faults ask at the injection point of that name. Services need it
// only for points of their own: [Engine.Handler] does it for the point "server".
func (e *Engine) Faulty(w http.ResponseWriter, r *http.Request, point, name string, next http.Handler) {
	ctx := r.Context()
	a := fault.From(ctx).At(point, name)
	if !a.Acts() {
		next.ServeHTTP(w, r)
		return
	}
	leave, ok := e.injecting()
	if !ok {
		next.ServeHTTP(w, r)
		return
	}
	e.injected(point, &a)
	in := inboundOf(ctx)
	if in == nil {
		in = new(inbound)
	}
	e.noteServed(r.Method, r.URL.Path, in.id, in.caller, "injected", a.Status, []byte("by rule "+a.Rule))
	err := a.Wait(ctx)
	leave()
	switch {
	case err != nil && a.Drop, a.Reset:
		reset(w)
	case err != nil:
		w.Header().Set(headerError, "injected")
		http.Error(w, err.Error(), http.StatusGatewayTimeout)
	case a.Reject:
		w.Header().Set(headerError, "injected")
		w.Header().Set("Retry-After", "1")
		w.Header().Set(HeaderNoRetry, "1")
		http.Error(w, a.Err.Error(), http.StatusServiceUnavailable)
	case a.Status != 0:
		w.Header().Set(headerError, "injected")
		http.Error(w, a.Err.Error(), a.Status)
	case !a.Body.IsZero():
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		bent := &bentResponse{ResponseWriter: w, shape: a.Body, ctx: ctx, cancel: cancel}
		next.ServeHTTP(bent, r.WithContext(ctx))
		if bent.body != nil && bent.body.Cut() {
			panic(http.ErrAbortHandler) // net/http cuts the connection without an end of the body
		}
	default:
		next.ServeHTTP(w, r)
	}
}

// bentResponse writes a body as the faults of its request shape it. Once it is cut off the request's context ends, as
// when a client has gone.
type bentResponse struct {
	http.ResponseWriter
	shape  fault.Shape
	ctx    context.Context
	cancel context.CancelFunc
	body   *fault.Writer
}

// Write writes the body.
func (w *bentResponse) Write(p []byte) (int, error) {
	if w.body == nil {
		length, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64)
		if err != nil || length < 0 {
			length = -1
		}
		w.body = w.shape.Writer(w.ctx, w.ResponseWriter, length, w.Flush)
	}
	n, err := w.body.Write(p)
	if err != nil {
		w.cancel()
	}
	return n, err
}

// Flush sends what is written so far, if the server can.
func (w *bentResponse) Flush() {
	if err := http.NewResponseController(w.ResponseWriter).Flush(); err != nil {
		return // the connection is broken, and the next Write says so; or nothing can be flushed
	}
}

// Unwrap lets http.ResponseController find what lies beneath.
func (w *bentResponse) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// reset cuts the connection under w, with an RST if it is a TCP connection.
func reset(w http.ResponseWriter) {
	if rec, ok := w.(*recorder); ok && rec.status == 0 {
		rec.status = http.StatusInternalServerError
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // as net/http wants it done
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0) // without it the cut is a FIN, which the caller takes for the same
	}
	conn.Close()
}
