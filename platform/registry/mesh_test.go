package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// mesh is a network of registries in memory, whose links can be cut. Everything in it ends with its test.
type mesh struct {
	t     *testing.T
	mu    sync.Mutex
	nodes map[string]*node
	cuts  map[[2]string]bool // from, to: no connection is made, and what is sent on those there are is lost
}

// node is one registry of a mesh, at http://host:8761/eureka/.
type node struct {
	*Registry
	m      *mesh
	host   string
	accept chan net.Conn
	stop   func()
	addrs  func(ctx context.Context, host string) ([]string, error) // looks names up

	alike bool // whether it hides that it is one of ours, and so is a server of Netflix's to the others
}

func newMesh(t *testing.T) *mesh {
	m := &mesh{t: t, nodes: make(map[string]*node), cuts: make(map[[2]string]bool)}
	t.Cleanup(func() {
		for _, n := range m.all() {
			n.stop()
		}
	})
	return m
}

func urlOf(host string) string { return "http://" + host + ":8761/eureka/" }

func (m *mesh) all() []*node {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*node
	for _, n := range m.nodes {
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b *node) int { return strings.Compare(a.host, b.host) })
	return list
}

// start runs a registry at host with the peers named, itself among them or not.
func (m *mesh) start(host string, alter func(*node, *Config), peers ...string) *node {
	n := &node{m: m, host: host, accept: make(chan net.Conn)}
	n.addrs = func(context.Context, string) ([]string, error) { return []string{"10.0.0.1"}, nil }
	c := Config{Log: slog.New(slog.DiscardHandler)}
	c.Settings.NoProbe = true // nothing is at the addresses of the instances
	var urls []string
	for _, p := range peers {
		urls = append(urls, urlOf(p))
	}
	if len(peers) > 0 {
		c.Settings.MyURL, c.Settings.Peers = urlOf(host), map[string][]string{"defaultzone": urls}
	}
	c.dial = m.dialFrom(host)
	if alter != nil {
		alter(n, &c)
	}
	n.Registry = New(c)
	n.peers.names.addrs = n.addrs
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error)
	go func() { ran <- n.Run(ctx) }()
	end := m.listen(n, n)
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			m.t.Errorf("%s: Run: %v", host, err)
		}
		end()
	})
	return n
}

// serve puts h at host, which is no registry of ours.
func (m *mesh) serve(host string, h http.Handler) {
	n := &node{m: m, host: host, accept: make(chan net.Conn)}
	n.stop = m.listen(n, h)
}

// listen serves h at n's host until the function that comes back is called.
func (m *mesh) listen(n *node, h http.Handler) (end func()) {
	l := &memListener{n.accept, make(chan struct{}), sync.Once{}}
	srv := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	served := make(chan struct{})
	go func() { defer close(served); srv.Serve(l) }() //nolint:errcheck // it ends with Close
	m.mu.Lock()
	m.nodes[n.host] = n
	m.mu.Unlock()
	return func() {
		m.mu.Lock()
		if m.nodes[n.host] == n {
			delete(m.nodes, n.host)
		}
		m.mu.Unlock()
		srv.Close()
		<-served
	}
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if n.alike && strings.Contains(r.URL.Path, "/native/") {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	n.Handler().ServeHTTP(w, r)
}

// do sends the node a request, as a client of its own that no cut keeps away.
func (n *node) do(method, path, body string) int {
	req := httptest.NewRequest(method, "/eureka/"+path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	n.ServeHTTP(w, req)
	return w.Code
}

// is describes instance id of app A at n.
func (n *node) is(id string) string {
	n.s.mu.RLock()
	defer n.s.mu.RUnlock()
	return describe(n.s, key{"A", id})
}

// holds is what n knows, for comparing with others: one line per instance, its own registrations left out.
func (n *node) holds() string {
	n.s.mu.RLock()
	defer n.s.mu.RUnlock()
	var lines []string
	for name, a := range n.s.apps {
		for id, e := range a.byID {
			if name == defaultApp {
				continue
			}
			lines = append(lines, fmt.Sprintf("%s/%s %v %v %d %v %v", name, id, e.rec.status, e.rec.override, e.rec.dirty, e.rec.meta, n.s.overrides[key{name, id}].status))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// cut keeps everything that a sends from reaching b, or lets it pass again.
func (m *mesh) cut(a, b string, yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cuts[[2]string{a, b}] = yes
}

// part cuts every link between the groups, or mends them.
func (m *mesh) part(yes bool, groups ...[]string) {
	for i, g := range groups {
		for j, h := range groups {
			for _, a := range g {
				for _, b := range h {
					if i != j {
						m.cut(a, b, yes)
					}
				}
			}
		}
	}
}

func (m *mesh) isCut(a, b string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cuts[[2]string{a, b}]
}

func (m *mesh) dialFrom(from string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		to, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		if m.isCut(from, to) || m.isCut(to, from) {
			wait := time.NewTimer(defaultConnectTimeout)
			defer wait.Stop()
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-wait.C:
				return nil, fmt.Errorf("dial %s: i/o timeout", addr)
			}
		}
		m.mu.Lock()
		n := m.nodes[to]
		m.mu.Unlock()
		if n == nil {
			return nil, fmt.Errorf("dial %s: connection refused", addr)
		}
		mine, relayA := net.Pipe()
		relayB, theirs := net.Pipe()
		l := &link{m: m, from: from, to: to}
		go l.pass(relayA, relayB, from, to)
		go l.pass(relayB, relayA, to, from)
		select {
		case n.accept <- theirs:
			return mine, nil
		case <-time.After(defaultConnectTimeout):
		case <-ctx.Done():
		}
		relayA.Close()
		relayB.Close()
		return nil, errors.New("dial: nobody accepts")
	}
}

// link is one connection.
type link struct {
	m        *mesh
	from, to string
}

// pass carries bytes from a to b; while the link is cut they are lost, and the connection with them.
func (l *link) pass(in, out net.Conn, a, b string) {
	defer in.Close()
	defer out.Close()
	buf := make([]byte, 64<<10)
	lost := false
	for {
		n, err := in.Read(buf)
		if err != nil {
			return
		}
		if lost = lost || l.m.isCut(a, b); lost {
			continue // later bytes make no sense without these
		}
		if _, err := out.Write(buf[:n]); err != nil {
			return
		}
	}
}

type memListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *memListener) Addr() net.Addr { return &net.TCPAddr{} }
