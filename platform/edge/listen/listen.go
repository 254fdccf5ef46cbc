// Package listen is where clients come in: sockets, TLS and its certificates, the PROXY protocol, and which of the edge's
// engines a connection is for. At Netflix this was what Zuul's server channels and the load balancers before them did.
//
// A [Server] serves the connections of one listener. In clear it speaks HTTP/1.1, and HTTP/2 with those who begin with its
// preface; over TLS what is agreed by ALPN; over QUIC HTTP/3:
//
//	certs, err := listen.NewCertificates(listen.CertificatesConfig{Dir: "/etc/roadbed/tls"})
//	tls, err := certs.TLS(listen.ClientAuth{})
//	s := listen.New(listen.Config{Name: "https", TLS: tls, Serve: chain.Run, Finished: done})
//	go s.Serve(l)
//
// # What it promises
//   - Certificates are read again when their files change, all of them or none, and no connection notices.
//   - TLS 1.2 with forward secrecy and authenticated encryption, or 1.3; nothing older, no early data.
//   - Who speaks HTTP/1.1 in clear to a listener of TLS is told so, with 400.
//   - A connection that does not tell its client by the PROXY protocol, where that is required, is closed.
//   - The limits of connections, in all and of one address, hold for all protocols together, and for those who shake hands still.
//   - With lists of revoked certificates no client is let in whom one names, nor one of whose issuer there is none in force, though it
//     resumes a session.
//   - Where an issuer offers OCSP, and the file has its certificate too, clients are shown what it says of ours, which is asked for
//     anew half-way through its time.
package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/http3"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
	"github.com/roadbed/roadbed/platform/edge/http2"
	"github.com/roadbed/roadbed/platform/edge/nethttp"
)

// Config says what a listener speaks and who serves. Serve is required.
type Config struct {
	Name  string      // told in filter.Client
	TLS   *tls.Config // nil: in clear
	Proxy ProxyProtocol

	Serve    func(*filter.Exchange)
	Finished func(*filter.Exchange)
	HTTP1    http1.Config // settings of the engines of HTTP/1.1 and HTTP/2; Serve, Finished, Listener and Log are set here

	Idle time.Duration // how long a connection of HTTP/3 may be silent between requests: 65 s
	Log  *slog.Logger

	shake time.Duration // how long a handshake may take: handshakeWithin
}

// Server serves the connections of one listener.
type Server struct {
	c     Config
	http1 *http1.Server
	http2 *http2.Server
	h3    *http3.Server
	alt   atomic.Pointer[string] // Alt-Svc, while HTTP/3 is served

	panics *filter.Panics

	mu      sync.Mutex
	closing bool                  // guarded by mu
	ls      map[net.Listener]bool // guarded by mu
	shaking map[net.Conn]bool     // connections that no engine has yet; guarded by mu
	from    map[netip.Addr]int    // how many of these an address has, if that is the client's; guarded by mu
	greeted sync.WaitGroup        // counts those
	conns   sync.WaitGroup
}

const (
	handshakeWithin = 10 * time.Second
	lastHandshake   = 2 * time.Second // for those who came just before draining began
)

// New returns a server; [Server.Serve] starts it.
func New(c Config) *Server {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Idle == 0 {
		c.Idle = 65 * time.Second
	}
	if c.shake == 0 {
		c.shake = handshakeWithin
	}
	s := &Server{c: c, panics: filter.NewPanics(c.HTTP1.Meter, c.Log), ls: map[net.Listener]bool{}, shaking: map[net.Conn]bool{}, from: map[netip.Addr]int{}}
	serve := c.Serve
	if c.TLS != nil {
		serve = s.telling(c.Serve)
	}
	one := c.HTTP1
	one.Serve, one.Finished, one.Listener, one.Log = serve, c.Finished, c.Name, c.Log
	s.http2 = http2.NewServer(http2.Config{Serve: serve, Finished: c.Finished, Listener: c.Name, Meter: one.Meter, Log: c.Log, Settings: one.Settings})
	if c.TLS == nil {
		one.HTTP2 = s.http2.ServeConn
	} else {
		s.h3 = newHTTP3(&nethttp.Handler{Serve: c.Serve, Finished: c.Finished, Hold: s.hold, Listener: c.Name, Log: c.Log}, c.TLS, c.Idle, s.admitQUIC)
	}
	s.http1 = http1.NewServer(one)
	return s
}

// hold holds requests of other versions to the rules of HTTP/1.1 that concern them, too.
func (s *Server) hold(x *filter.Exchange) error {
	if r := s.http1.Rules().Hold(x); r != nil {
		return r
	}
	return nil
}

// telling is serve, and tells clients of HTTP/3 while that is served.
func (s *Server) telling(serve func(*filter.Exchange)) func(*filter.Exchange) {
	return func(x *filter.Exchange) {
		serve(x)
		if alt := s.alt.Load(); alt != nil && x.Response.Takeover == nil {
			x.Response.Header.Add("Alt-Svc", *alt)
		}
	}
}

// Open returns how many connections there are.
func (s *Server) Open() int { return s.http1.Open() }

// Most returns how many of these there may be.
func (s *Server) Most() int { return s.http1.Most() }

// Change has HTTP/1.1 and HTTP/2 served with these settings from now on.
func (s *Server) Change(to http1.Settings) {
	s.http1.Change(to)
	s.http2.Change(to)
}

// Serve serves the connections of l until [Server.Drain] is called, or l fails.
func (s *Server) Serve(l net.Listener) error {
	if _, plain := l.(*net.TCPListener); plain && s.c.TLS == nil && s.c.Proxy == ProxyOff {
		return s.http1.Serve(l)
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return l.Close()
	}
	s.ls[l] = true
	s.mu.Unlock()
	for wait := time.Duration(0); ; {
		c, err := l.Accept()
		if err != nil {
			s.mu.Lock()
			closing := s.closing
			s.mu.Unlock()
			var passing interface{ Temporary() bool }
			switch {
			case closing || errors.Is(err, net.ErrClosed):
				return nil
			case errors.As(err, &passing) && passing.Temporary(): // such as no file descriptors
				wait = min(max(2*wait, 5*time.Millisecond), time.Second)
				s.c.Log.Warn("edge: a connection cannot be accepted; it is tried again", "listener", s.c.Name, "err", err)
				time.Sleep(wait)
				continue
			}
			return fmt.Errorf("accept connections at %s: %w", l.Addr(), err)
		}
		wait = 0
		var who netip.Addr // not known yet if a balancer tells it
		if s.c.Proxy == ProxyOff {
			who = addrPort(c.RemoteAddr()).Addr()
		}
		s.mu.Lock()
		if s.closing || s.http1.Full(who, len(s.shaking), s.from[who]) { // or those who never shake hands could be any number
			s.mu.Unlock()
			c.Close()
			continue
		}
		s.shaking[c] = true
		s.from[who]++
		s.conns.Add(1)
		s.greeted.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.conns.Done()
			s.conn(c, who)
		}()
	}
}

// conn finds out what a connection speaks and has it served. who is counted in from.
func (s *Server) conn(c net.Conn, who netip.Addr) {
	client := &filter.Client{Listener: s.c.Name, Remote: addrPort(c.RemoteAddr()), Local: addrPort(c.LocalAddr())}
	client.Peer = client.Remote
	var early []byte
	var secure *tls.Conn
	err := s.panics.Try("handshake", func() (err error) {
		early, secure, err = s.greet(c, client)
		return err
	})
	s.mu.Lock()
	delete(s.shaking, c)
	if s.from[who]--; s.from[who] == 0 {
		delete(s.from, who)
	}
	s.mu.Unlock()
	two := secure != nil && secure.ConnectionState().NegotiatedProtocol == "h2"
	if err == nil { // or an engine that drains could have ended before it has it
		expect := s.http1.Expect
		if two {
			expect = s.http2.Expect
		}
		defer expect()()
	}
	s.greeted.Done()
	if err != nil {
		s.c.Log.Debug("edge: a connection came to nothing", "listener", s.c.Name, "client", client.Remote, "err", err)
		c.Close()
		return
	}
	switch {
	case secure == nil:
		s.http1.ServeConn(c, client, early)
	case two:
		leave, ok := s.http1.Admit(client.Remote.Addr())
		if !ok {
			c.Close()
			return
		}
		defer leave()
		s.http2.ServeConn(secure, client, nil)
	default:
		s.http1.ServeConn(secure, client, nil)
	}
}

// greet does what comes before HTTP.
func (s *Server) greet(c net.Conn, client *filter.Client) (early []byte, secure *tls.Conn, err error) {
	if s.c.Proxy != ProxyOff {
		if early, err = readProxy(c, s.c.Proxy, client); err != nil {
			return nil, nil, err
		}
	}
	secure, _ = c.(*tls.Conn) // of a listener that speaks both
	if s.c.TLS == nil && secure == nil {
		return early, nil, nil
	}
	if len(early) > 0 {
		c = &prefixed{c, early}
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.c.shake)
	defer cancel()
	if secure == nil {
		secure = tls.Server(c, s.c.TLS)
	}
	if err := secure.HandshakeContext(ctx); err != nil {
		s.shook(false, "unknown", "unknown", "unknown")
		tellPlain(err)
		return nil, nil, err
	}
	state := secure.ConnectionState()
	if state.NegotiatedProtocol == acmeProtocol { // spec: RFC 8737 §3, nothing follows
		return nil, nil, errChallenged
	}
	shown := "none"
	if len(state.PeerCertificates) > 0 {
		shown = "certificate"
	}
	s.shook(true, tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), shown)
	client.TLS, client.Identity = &state, filter.Identity(&state)
	return nil, secure, nil
}

// tellPlain answers who speaks HTTP in clear to a port of TLS, as other servers do: curl http://… to it is a common mistake.
func tellPlain(handshake error) {
	var plain tls.RecordHeaderError // Conn is nil unless the client's very first bytes were no TLS
	if !errors.As(handshake, &plain) || plain.Conn == nil {
		return
	}
	switch string(plain.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "PATCH", "DELET", "OPTIO":
		const answer = "this port speaks HTTPS, and was asked in clear; ask https://\n"
		plain.Conn.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:errcheck // then it is closed already
		fmt.Fprintf(plain.Conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(answer), answer)
	}
}

var errChallenged = errors.New("it was an authority's challenge, which is answered")

// shook counts a TLS handshake, by tags as Zuul's, but that clientauth tells what the client has shown.
func (s *Server) shook(well bool, protocol, suite, clientauth string) {
	s.c.HTTP1.Meter.Counter("server.ssl.handshake", "listener", s.c.Name, "success", strconv.FormatBool(well), "protocol", protocol, "ciphersuite", suite, "clientauth", clientauth).Inc()
}

// prefixed is a connection of which something was read already.
type prefixed struct {
	net.Conn
	early []byte
}

// Read reads what was read already, then on.
func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.early) > 0 {
		n := copy(b, p.early)
		p.early = p.early[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		return unmapped(t.AddrPort())
	}
	return netip.AddrPort{}
}

// Drain stops accepting, lets those in who are shaking hands, has clients told that their connections end, and waits for what
// is under way. When ctx ends it cuts off what is left, and waits for a second or two for those who serve it.
func (s *Server) Drain(ctx context.Context) {
	s.mu.Lock()
	s.closing = true
	for l := range s.ls {
		l.Close()
	}
	s.mu.Unlock()
	within(ctx, lastHandshake, &s.greeted)
	var both sync.WaitGroup
	both.Go(func() { s.http1.Drain(ctx) }) //nolint:errcheck // it tells that ctx ended
	both.Go(func() { s.http2.Drain(ctx) }) //nolint:errcheck // as above
	both.Go(func() { s.drainQUIC(ctx) })
	both.Wait()
	s.mu.Lock()
	for c := range s.shaking {
		c.Close()
	}
	s.mu.Unlock()
	within(context.Background(), time.Second, &s.conns) // a Serve may not come back at all
}

// within waits for all, but not beyond ctx, nor longer than for that time.
func within(ctx context.Context, most time.Duration, all *sync.WaitGroup) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	over := make(chan struct{})
	go func() {
		all.Wait()
		close(over)
	}()
	select {
	case <-over:
	case <-ctx.Done():
	}
}
