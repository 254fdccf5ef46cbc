package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/roadbed/roadbed/platform/edge/nethttp"
)

// newHTTP3 returns a server of h's exchanges over QUIC. Nothing is taken in the first flight (0-RTT), which anybody could
// send again.
func newHTTP3(h *nethttp.Handler, c *tls.Config, idle time.Duration, admit func(*quic.Conn)) *http3.Server {
	return &http3.Server{
		Handler: h,
		TLSConfig: &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) { // as it is now: its ticket keys turn
			if c.GetConfigForClient != nil {
				if now, err := c.GetConfigForClient(hello); now != nil || err != nil {
					return now, err
				}
			}
			return c, nil
		}},
		MaxHeaderBytes: 32 << 10,
		ConnContext: func(ctx context.Context, c *quic.Conn) context.Context {
			admit(c)
			return ctx
		},
		QUICConfig: &quic.Config{MaxIdleTimeout: idle, MaxIncomingStreams: 100, HandshakeIdleTimeout: 10 * time.Second},
	}
}

// admitQUIC counts a connection among those that are limited, or closes it if there are too many.
func (s *Server) admitQUIC(c *quic.Conn) {
	var who netip.Addr
	if at, ok := c.RemoteAddr().(*net.UDPAddr); ok {
		who = at.AddrPort().Addr().Unmap()
	}
	leave, ok := s.http1.Admit(who)
	if !ok {
		c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), "too many connections") //nolint:errcheck // it is closed in any case
		return
	}
	context.AfterFunc(c.Context(), leave)
}

// ServeQUIC serves HTTP/3 on p until [Server.Drain] is called. While it does, answers over TLS tell of it. spec: RFC 7838
func (s *Server) ServeQUIC(p net.PacketConn) error {
	if s.h3 == nil {
		return errors.New("HTTP/3 needs TLS: give the listener certificates")
	}
	if at, ok := p.LocalAddr().(*net.UDPAddr); ok {
		alt := fmt.Sprintf(`h3=":%d"; ma=86400`, at.Port)
		s.alt.Store(&alt)
		defer s.alt.Store(nil)
	}
	if err := s.h3.Serve(p); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP/3: %w", err)
	}
	return nil
}

func (s *Server) drainQUIC(ctx context.Context) {
	if s.h3 == nil {
		return
	}
	if err := s.h3.Shutdown(ctx); err != nil {
		s.h3.Close() //nolint:errcheck // nothing is left to be done
	}
}
