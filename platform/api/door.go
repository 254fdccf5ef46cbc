package api

import (
	"bufio"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Door says how listeners may be reached. The zero value is loopback, in clear, without a token.
type Door struct {
	Host  string // the address to listen on; loopback when empty
	TLS   *tls.Config
	Token string
	Local bool // clients in clear on this machine, too, must bring the token

	Sockets *Sockets // where listening sockets come from; nil: they are opened
}

// Validate refuses a door that would let strangers in: any address but loopback needs both TLS and a token.
func (d Door) Validate() error {
	if d.Local && d.Token == "" {
		return errors.New("a token that everybody must bring is missing: add --token-file FILE")
	}
	if d.local() || d.TLS != nil && d.Token != "" {
		return nil
	}
	missing := "a certificate and a token: add --tls-cert FILE --tls-key FILE --token-file FILE"
	switch {
	case d.TLS != nil:
		missing = "a token: add --token-file FILE"
	case d.Token != "":
		missing = "a certificate: add --tls-cert FILE --tls-key FILE"
	}
	return fmt.Errorf("listening on %s would let anybody on the network in; it needs %s, or leave --listen away to stay on loopback", d.Host, missing)
}

func (d Door) local() bool { return d.Host == "" || loopbackName(d.Host) }

// Listen opens port at the door for what, which an error names together with flag, the flag that moves it.
//
// At a door with TLS, peers on this machine may still speak in clear, so that services beside the platform need no
// certificates; everybody else must speak TLS.
func (d Door) Listen(port int, what, flag string) (net.Listener, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	host := d.Host
	if host == "" {
		host = "127.0.0.1"
	}
	addr := net.JoinHostPort(host, fmt.Sprint(port))
	l, err := d.Sockets.Listen(addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s cannot listen on %s: something else does; stop it, or move this with %s or all ports with --port-offset", what, addr, flag)
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot listen on %s: %w", what, addr, err)
	}
	if d.TLS == nil {
		return l, nil
	}
	return newTLSOrLocal(l, d.TLS), nil
}

// Authenticate lets requests through that come from this machine in clear, unless the door is strict with these too, or
// carry its token: as a bearer token, as the password of basic authentication, or in X-Config-Token, as Spring Cloud
// Config's clients send it.
func (d Door) Authenticate(next http.Handler) http.Handler {
	if d.Token == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil && !d.Local || d.knows(r.Header.Get("Authorization")) || d.isToken(r.Header.Get("X-Config-Token")) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Add("WWW-Authenticate", `Bearer realm="roadbed"`)
		w.Header().Add("WWW-Authenticate", `Basic realm="roadbed"`)
		w.WriteHeader(http.StatusUnauthorized) // no body: Eureka clients would try to parse it
	})
}

// Admits reports whether Authenticate and [SameSite] let a request pass that comes in clear, with these two headers and
// none by which browsers tell where it comes from.
func (d Door) Admits(host, authorization string) bool {
	return (loopbackName(host) || address(host)) && (!d.Local || d.knows(authorization))
}

// knows reports whether an Authorization header holds the door's token.
func (d Door) knows(authorization string) bool {
	scheme, given, _ := strings.Cut(authorization, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
	case strings.EqualFold(scheme, "Basic"):
		b, err := base64.StdEncoding.DecodeString(given)
		if err != nil {
			return false
		}
		_, given, _ = strings.Cut(string(b), ":")
	default:
		return false
	}
	return d.isToken(given)
}

func (d Door) isToken(given string) bool {
	return subtle.ConstantTimeCompare([]byte(given), []byte(d.Token)) == 1
}

// tlsOrLocal accepts TLS from anybody and clear text from loopback.
type tlsOrLocal struct {
	net.Listener
	tls   *tls.Config
	ready chan net.Conn
	done  chan struct{}
	wg    sync.WaitGroup
	err   error // why accepting ended; read after done
}

func newTLSOrLocal(l net.Listener, cfg *tls.Config) net.Listener {
	t := &tlsOrLocal{Listener: l, tls: cfg, ready: make(chan net.Conn), done: make(chan struct{})}
	t.wg.Add(1)
	go t.accept()
	return t
}

func (t *tlsOrLocal) accept() {
	defer t.wg.Done()
	for pause := time.Duration(0); ; {
		c, err := t.Listener.Accept()
		var passing interface{ Temporary() bool }
		switch {
		case err == nil:
			pause = 0
			t.wg.Add(1)
			go t.sort(c)
		case errors.As(err, &passing) && passing.Temporary(): // such as no file descriptors
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
		default:
			t.err = err
			close(t.done)
			return
		}
	}
}

// sort looks at the first byte: a TLS record starts with 22.
func (t *tlsOrLocal) sort(c net.Conn) {
	defer t.wg.Done()
	stop := context.AfterFunc(doneContext{t.done}, func() { c.Close() })
	defer stop()
	c.SetReadDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // a dead connection fails the read below
	br := bufio.NewReaderSize(c, 512)
	first, err := br.Peek(1)
	if err != nil {
		c.Close()
		return
	}
	c.SetReadDeadline(time.Time{}) //nolint:errcheck // as above
	var out net.Conn = &peeked{Conn: c, r: br}
	switch {
	case first[0] == 22:
		out = tls.Server(out, t.tls)
	case !fromThisMachine(c):
		c.Close()
		return
	}
	if !stop() {
		return
	}
	select {
	case t.ready <- out:
	case <-t.done:
		c.Close()
	}
}

// fromThisMachine reports whether both ends of c are this machine: loopback, or an address talking to itself.
func fromThisMachine(c net.Conn) bool {
	remote, ok1 := c.RemoteAddr().(*net.TCPAddr)
	local, ok2 := c.LocalAddr().(*net.TCPAddr)
	return ok1 && ok2 && (remote.IP.IsLoopback() || remote.IP.Equal(local.IP))
}

func (t *tlsOrLocal) Accept() (net.Conn, error) {
	select {
	case c := <-t.ready:
		return c, nil
	case <-t.done:
		return nil, t.err
	}
}

func (t *tlsOrLocal) Close() error {
	err := t.Listener.Close()
	t.wg.Wait()
	return err
}

type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// doneContext makes a context of a channel.
type doneContext struct{ done chan struct{} }

func (doneContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (d doneContext) Done() <-chan struct{}     { return d.done }
func (doneContext) Value(any) any               { return nil }
func (d doneContext) Err() error {
	select {
	case <-d.done:
		return context.Canceled
	default:
		return nil
	}
}
