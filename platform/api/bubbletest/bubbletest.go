// Package bubbletest carries HTTP within a bubble of [testing/synctest], where time goes on only while everybody waits for it,
// and nobody may wait for a network.
package bubbletest

import (
	"context"
	"io"
	"net/http"
	"sync"
)

// Transport is a transport to a handler. Answers stream: each write is read as it is flushed, and who takes no more of an answer, or
// whose request ends, ends the handler's writes.
type Transport struct{ Handler http.Handler }

// RoundTrip returns as soon as the handler has begun to answer. The handler has ended when the answer's body has.
func (t Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	asked := r.Clone(r.Context())
	if asked.Body == nil {
		asked.Body = http.NoBody
	}
	body, out := io.Pipe()
	w := &writer{PipeWriter: out, header: http.Header{}, begun: make(chan int, 1)}
	go func() {
		t.Handler.ServeHTTP(w, asked)
		w.WriteHeader(http.StatusOK)
		out.Close()
	}()
	context.AfterFunc(r.Context(), func() { body.CloseWithError(r.Context().Err()) })
	select {
	case status := <-w.begun:
		return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: w.header.Clone(), Body: body, Request: r}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

type writer struct {
	*io.PipeWriter
	header http.Header
	once   sync.Once
	begun  chan int // the status
}

func (w *writer) Header() http.Header    { return w.header }
func (w *writer) WriteHeader(status int) { w.once.Do(func() { w.begun <- status }) }
func (w *writer) Flush()                 { w.WriteHeader(http.StatusOK) }
func (w *writer) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.PipeWriter.Write(b)
}
