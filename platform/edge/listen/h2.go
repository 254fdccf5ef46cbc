package listen

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/nethttp"
)

// http2Server serves connections that speak HTTP/2. TLS is behind them: to Go's server all are in clear.
type http2Server struct {
	hs   *http.Server
	calm Calm
	in   *handed
	done chan struct{} // closed when hs serves no more
}

// newHTTP2 returns a server of h's exchanges. Windows are credit, not memory that is taken in advance.
func newHTTP2(h *nethttp.Handler, calm Calm, idle time.Duration, log *slog.Logger) *http2Server {
	s := &http2Server{calm: calm, in: &handed{conns: make(chan net.Conn), closed: make(chan struct{})}, done: make(chan struct{})}
	h.Client = func(r *http.Request) *filter.Client {
		c, _ := r.Context().Value(clientKey{}).(*filter.Client)
		return c
	}
	s.hs = &http.Server{
		Handler: h, IdleTimeout: idle, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 32 << 10,
		ErrorLog:  slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          100,
			MaxDecoderHeaderTableSize:     4096,
			MaxReadFrameSize:              16 << 10,
			MaxReceiveBufferPerConnection: 16 << 20,
			MaxReceiveBufferPerStream:     5 << 20,
			WriteByteTimeout:              60 * time.Second, // a client that takes nothing for so long is gone
			SendPingTimeout:               5 * time.Minute,
			PingTimeout:                   15 * time.Second,
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if calm, ok := c.(*calmConn); ok {
				return context.WithValue(ctx, clientKey{}, calm.client)
			}
			return ctx
		},
	}
	s.hs.Protocols.SetUnencryptedHTTP2(true)
	go func() {
		defer close(s.done)
		if err := s.hs.Serve(s.in); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			log.Error("edge: HTTP/2 is not served any more", "err", err)
		}
	}()
	return s
}

type clientKey struct{}

// serve serves one connection until it ends.
func (s *http2Server) serve(c net.Conn, client *filter.Client) {
	calm := newCalmConn(c, s.calm)
	calm.client = client
	if !s.in.hand(calm) {
		c.Close()
		return
	}
	<-calm.closed
}

// drain has clients told to go (GOAWAY), and waits for their requests until ctx ends, then cuts them off.
func (s *http2Server) drain(ctx context.Context) {
	if err := s.hs.Shutdown(ctx); err != nil {
		s.hs.Close() //nolint:errcheck // nothing is left to be done
	}
	<-s.done
}

// handed is a listener of connections that were accepted elsewhere.
type handed struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// hand has c accepted; it reports false if nobody accepts any more.
func (l *handed) hand(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
		return false
	}
}

// Accept returns the next connection.
func (l *handed) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *handed) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns no address: connections have their own.
func (l *handed) Addr() net.Addr { return &net.TCPAddr{} }
