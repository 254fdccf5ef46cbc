package api

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Line is the connection of a stream of events on which a handler goes on after it has returned, if it is free: one that
// net/http has let go of costs a fifth of the memory. HTTP/2's are never free. Its methods are for one goroutine.
type Line struct {
	conn  net.Conn // nil unless it is free
	until time.Time
	gone  <-chan struct{}
	out   http.ResponseWriter
	rc    *http.ResponseController
}

// OpenLine answers r with the head of a stream of events. The caller closes the line.
func OpenLine(w http.ResponseWriter, r *http.Request) (*Line, error) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	if r.ProtoMajor == 1 && r.Method == http.MethodGet {
		if conn, _, err := rc.Hijack(); err == nil {
			return freeLine(conn, h), nil
		}
	}
	w.WriteHeader(http.StatusOK)
	if err := rc.Flush(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoFlush, err)
	}
	return &Line{out: w, rc: rc, gone: r.Context().Done()}, nil
}

func freeLine(conn net.Conn, h http.Header) *Line {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var b [1]byte
		for {
			if _, err := conn.Read(b[:]); err != nil {
				return
			}
		}
	}()
	l := &Line{conn: conn, gone: gone}
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\n") // its end is that of the connection
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	h.Write(&head) //nolint:errcheck // a buffer takes everything
	head.WriteString("\r\n")
	l.Write(head.Bytes()) // who writes next learns of an error
	return l
}

// Free reports whether the handler may return while the line is used.
func (l *Line) Free() bool { return l.conn != nil }

// Gone is closed when the client has left.
func (l *Line) Gone() <-chan struct{} { return l.gone }

// lineWait is for how long at least a client may take nothing of what is written to it.
const lineWait = 3 * beat

// Write writes b at once. It reports false if the client has left, or has read nothing for half a minute to a minute.
func (l *Line) Write(b []byte) bool {
	now := time.Now()
	if l.conn != nil {
		if l.until.Sub(now) < lineWait { // not for each write
			l.until = now.Add(2 * lineWait)
			l.conn.SetWriteDeadline(l.until) //nolint:errcheck // the write tells
		}
		_, err := l.conn.Write(b)
		return err == nil
	}
	l.rc.SetWriteDeadline(now.Add(lineWait)) //nolint:errcheck // not everything has deadlines
	if _, err := l.out.Write(b); err != nil {
		return false
	}
	return l.rc.Flush() == nil
}

// Close ends the line.
func (l *Line) Close() {
	if l.conn != nil {
		l.conn.Close() //nolint:errcheck // it is of no more use
		<-l.gone
	}
}
