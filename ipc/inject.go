package ipc

import (
	"context"
	"io"
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

// serveFaulty serves a request that brought faults along, and does what they ask of this server.
func (e *Engine) serveFaulty(ctx context.Context, next http.Handler, w *recorder, r *http.Request, f *fault.Context) {
	a := f.At("server", e.app)
	if !a.Acts() {
		next.ServeHTTP(w, r.WithContext(ctx))
		return
	}
	leave, ok := e.injecting()
	if !ok {
		next.ServeHTTP(w, r.WithContext(ctx))
		return
	}
	e.injected("server", &a)
	err := a.Wait(ctx)
	leave()
	if err != nil && a.Drop {
		w.status = http.StatusGatewayTimeout
		reset(w.ResponseWriter)
		return
	}
	if err != nil {
		w.Header().Set("X-Ipc-Error", "injected")
		http.Error(w, err.Error(), http.StatusGatewayTimeout)
		return
	}
	switch {
	case a.Reset:
		w.status = http.StatusInternalServerError
		reset(w.ResponseWriter)
	case a.Reject:
		w.Header().Set("X-Ipc-Error", "injected")
		w.Header().Set("Retry-After", "1")
		w.Header().Set(HeaderNoRetry, "1")
		http.Error(w, a.Err.Error(), http.StatusServiceUnavailable)
	case a.Status != 0:
		w.Header().Set("X-Ipc-Error", "injected")
		http.Error(w, a.Err.Error(), a.Status)
	case !a.Body.IsZero():
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		bent := &bentResponse{recorder: w, shape: a.Body, ctx: ctx, cancel: cancel}
		next.ServeHTTP(bent, r.WithContext(ctx))
		if bent.body != nil && bent.body.Cut() {
			panic(http.ErrAbortHandler) // net/http cuts the connection without an end of the body
		}
	default:
		next.ServeHTTP(w, r.WithContext(ctx))
	}
}

// bentResponse writes a body as the faults of its request shape it. Once it is cut off the request's context ends, as
// when a client has gone.
type bentResponse struct {
	*recorder
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
		w.body = w.shape.Writer(w.ctx, w.recorder, length, w.recorder.Flush)
	}
	n, err := w.body.Write(p)
	if err != nil {
		w.cancel()
	}
	return n, err
}

// ReadFrom takes files the slow way, past nobody.
func (w *bentResponse) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{w}, r)
}

// reset cuts the connection under w, with an RST if it is a TCP connection.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // as net/http wants it done
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0) // without it the cut is a FIN, which the caller takes for the same
	}
	conn.Close()
}
