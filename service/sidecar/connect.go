package sidecar

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// tunnels are the connections that clients have opened by CONNECT. Those to an app carry requests, which are answered
// as if they had come without a tunnel; others are passed as they are.
type tunnels struct {
	s    *Sidecar
	in   chan net.Conn
	done chan struct{}
	wg   sync.WaitGroup

	mu   sync.Mutex
	raw  map[net.Conn]struct{} // both ends of those passed as they are; guarded by mu
	over bool                  // guarded by mu
}

func newTunnels(s *Sidecar) *tunnels {
	t := &tunnels{s: s, in: make(chan net.Conn), done: make(chan struct{}), raw: map[net.Conn]struct{}{}}
	s.serving.Go(func() { s.server.Serve(t) }) //nolint:errcheck // it ends when the server does
	return t
}

// Accept makes tunnels to apps a listener of the sidecar's server.
func (t *tunnels) Accept() (net.Conn, error) {
	select {
	case c := <-t.in:
		return c, nil
	case <-t.done:
		return nil, net.ErrClosed
	}
}

// Addr is that of the sidecar.
func (t *tunnels) Addr() net.Addr { return t.s.listener.Addr() }

// Close ends Accept.
func (t *tunnels) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.over = true
		close(t.done)
	}
	return nil
}

// close ends all tunnels and waits for them.
func (t *tunnels) close() {
	t.Close()
	t.mu.Lock()
	for c := range t.raw {
		c.Close() // they have no end of their own
	}
	t.mu.Unlock()
	t.wg.Wait()
}

const (
	dialWithin = 5 * time.Second
	agreed     = "HTTP/1.1 200 Connection established\r\n\r\n"
)

// open answers a CONNECT.
func (t *tunnels) open(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 {
		refuse(w, http.StatusNotImplemented, "badrequest", "tunnels inside HTTP/2 are not made; CONNECT by HTTP/1.1, or ask for http://NAME/ without a tunnel")
		return
	}
	_, port, err := net.SplitHostPort(r.Host)
	if err != nil || port == "" {
		refuse(w, http.StatusBadRequest, "badrequest", fmt.Sprintf("CONNECT needs a host and a port, not %q", r.Host))
		return
	}
	if t.s.own[r.Host] {
		refuse(w, http.StatusLoopDetected, "loop", "a tunnel through the sidecar to itself makes no sense; connect to it")
		return
	}
	var c call
	if why := t.s.names.resolve(r.Host, &c); why != "" {
		refuse(w, http.StatusBadRequest, "badrequest", why)
		return
	}
	if c.app == "" && c.host == "" {
		refuse(w, http.StatusServiceUnavailable, "noendpoint", fmt.Sprintf("no instance of %q is known; `roadbed instance list` shows what is registered", r.Host))
		return
	}
	var far net.Conn
	if c.app == "" {
		d := net.Dialer{Timeout: dialWithin}
		if far, err = d.DialContext(r.Context(), "tcp", c.host); err != nil {
			refuse(w, http.StatusBadGateway, "error", err.Error())
			return
		}
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		if far != nil {
			far.Close()
		}
		refuse(w, http.StatusInternalServerError, "error", "the connection cannot be handed over: "+err.Error())
		return
	}
	conn.SetDeadline(time.Time{}) //nolint:errcheck // the next use tells
	near := net.Conn(conn)
	if n := buffered.Reader.Buffered(); n > 0 { // it spoke before it was answered
		near = &begun{Conn: conn, r: io.MultiReader(io.LimitReader(buffered.Reader, int64(n)), conn)}
	}
	if _, err := io.WriteString(conn, agreed); err != nil {
		conn.Close()
		if far != nil {
			far.Close()
		}
		return
	}
	if far == nil {
		select {
		case t.in <- near:
		case <-t.done:
			conn.Close()
		}
		return
	}
	t.join(near, far)
}

// begun is a connection of which some was read already.
type begun struct {
	net.Conn
	r io.Reader
}

// Read reads what was there first.
func (b *begun) Read(p []byte) (int, error) { return b.r.Read(p) }

// join passes bytes both ways until both ends have had enough.
func (t *tunnels) join(near, far net.Conn) {
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		near.Close()
		far.Close()
		return
	}
	t.raw[near], t.raw[far] = struct{}{}, struct{}{}
	t.wg.Add(1)
	t.mu.Unlock()
	defer t.wg.Done()
	var both sync.WaitGroup
	one := func(to, from net.Conn) {
		io.Copy(to, from) //nolint:errcheck // either end may go at any time
		if half, ok := to.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
			to.Close()
			from.Close()
		}
	}
	both.Go(func() { one(near, far) })
	both.Go(func() { one(far, near) })
	both.Wait()
	near.Close()
	far.Close()
	t.mu.Lock()
	delete(t.raw, near)
	delete(t.raw, far)
	t.mu.Unlock()
}
