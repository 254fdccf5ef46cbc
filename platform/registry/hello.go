package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// How registries of our kind find out that they are, and connect: GET native/hello, which Eureka's servers answer with
// 404, and then a request to upgrade native/stream. A peer that is no registry of ours is told in Eureka's way.

const (
	upgradeName = "roadbed-p2"
	nodeHeader  = "X-Registry-Node"

	helloAgain   = 30 * time.Second // a Eureka server is asked whether it has become one of ours
	soonestAgain = 100 * time.Millisecond
	latestAgain  = time.Second
)

// hello is who a registry is.
type hello struct {
	Node      string   `json:"node"` // another for each process
	Protocols []string `json:"protocols"`
	Epoch     int64    `json:"epoch"` // ms since 1970; when it began to know anybody
}

func (h *eureka) hello(w http.ResponseWriter, r *http.Request) {
	body, err := json.Marshal(hello{Node: h.incarnation, Protocols: []string{"P2"}, Epoch: h.s.epoch.UnixMilli()})
	if err != nil {
		panic("registry: strings and a number cannot be written as JSON: " + err.Error())
	}
	answer(w, r, http.StatusOK, "application/json", body)
}

// stream serves a connection that another registry of our kind opened.
func (h *eureka) stream(w http.ResponseWriter, r *http.Request) {
	node := r.Header.Get(nodeHeader)
	if !strings.EqualFold(r.Header.Get("Upgrade"), upgradeName) || node == "" || len(node) > 64 {
		w.Header().Set("Upgrade", upgradeName)
		w.WriteHeader(http.StatusUpgradeRequired)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		h.log.Error("a registry cannot connect: something between wraps the connection", "from", r.RemoteAddr, "err", err)
		w.WriteHeader(http.StatusNotImplemented)
		return
	}
	if _, err = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + upgradeName + "\r\n\r\n"); err == nil {
		err = rw.Flush()
	}
	if err != nil {
		conn.Close()
		return
	}
	conn.SetDeadline(time.Time{}) //nolint:errcheck // a dead connection fails the read that follows
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-h.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	d := newDuplex(h.s, newOutbox(), buffered{rw.Reader, conn}, false, h.peers.isOpen)
	leave := h.peers.entered(d.box, node)
	defer leave()
	if err := d.run(ctx); errors.Is(err, errFrame) {
		h.log.Warn("a registry was hung up on", "node", node, "from", r.RemoteAddr, "err", err)
	}
}

// buffered is a connection of which a part has been read already.
type buffered struct {
	io.Reader
	io.WriteCloser
}

func (b buffered) Read(p []byte) (int, error) { return b.Reader.Read(p) }

// greet asks the peer who it is. Without an error and a name it is a server of Eureka's.
func (p *peer) greet(ctx context.Context) (node string, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.answerWithin)
	defer cancel()
	req, err := p.request(ctx, http.MethodGet, "native/hello", nil)
	if err != nil {
		return "", err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var h hello
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode >= 500:
		return "", refusal{resp.StatusCode}
	case resp.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&h) != nil:
		return "", nil
	}
	if slices.Contains(h.Protocols, "P2") {
		return h.Node, nil
	}
	return "", nil
}

var errNoUpgrade = errors.New("something between us and it does not let connections be upgraded; it is told in Eureka's way")

// connect opens a connection to the peer, which is a registry of our kind.
func (p *peer) connect(ctx context.Context, ours string) (io.ReadWriteCloser, error) {
	req, err := p.request(ctx, http.MethodGet, "native/stream", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgradeName)
	req.Header.Set(nodeHeader, ours)
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		resp.Body.Close()
		if resp.StatusCode >= 500 {
			return nil, refusal{resp.StatusCode}
		}
		return nil, errNoUpgrade
	}
	return conn, nil
}

// asOurs serves a connection to a registry of our kind until it breaks.
func (p *peer) asOurs(ctx context.Context, node string, ps *peers) error {
	conn, err := p.connect(ctx, ps.node)
	if err != nil {
		return err
	}
	d := newDuplex(p.s, p.box, conn, true, ps.isOpen)
	d.matched = func(open bool) {
		if open {
			p.became(copied, ps)
		} else {
			p.became(young, ps)
		}
	}
	p.worked()
	if p.box.heard.Load() == math.MaxInt64 {
		p.box.heard.Store(0)
	}
	p.node.Store(&node)
	ps.rebuild()
	defer func() {
		p.node.Store(nil)
		ps.rebuild()
	}()
	if err = d.run(ctx); err == nil || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("the connection broke: %w", err)
}
