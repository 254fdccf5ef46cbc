package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	tokenHeader = "X-Zuul.push.secure.token" // what a client brought, a sender who names it must know
	hopHeader   = "X-Edge-Push-Hop"          // the request comes from another edge, and goes no further

	maxPayload = 1 << 20 // bytes

	peersWithin = 2 * time.Second // another edge is to answer
)

// Handler is the API for senders: /push and /push/broker. It belongs where only services reach it.
//
//	GET /push       is the client connected?                     200, 404
//	POST /push      sends the body to the client                 200, 204 for an empty body
//	POST /push/broker   {"ids": [...], "payload": "...", "ttl": 60}  202; who is not connected gets it when it is, within ttl seconds
//
// The client is named by the header of the property edge.push.identity.header. Other answers: 400, 401 without a client's
// name, 403 with another token than the client's, 405, 413, 500 if the message could not be written, 503 if the client gets
// too many.
func (p *Push) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/push", p.handlePush)
	mux.HandleFunc("/push/broker", p.handleBroker)
	return mux
}

func say(w http.ResponseWriter, status int, format string, args ...any) {
	http.Error(w, fmt.Sprintf(format, args...), status)
}

func (p *Push) handlePush(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		say(w, http.StatusMethodNotAllowed, "ask by GET, send by POST")
		return
	}
	header := p.set.Get().Header
	id := r.Header.Get(header)
	if id == "" || len(id) > maxIdentity {
		say(w, http.StatusUnauthorized, "name the client in the header %s", header)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		say(w, http.StatusRequestEntityTooLarge, "a message is at most %d bytes", maxPayload)
		return
	case err != nil:
		say(w, http.StatusBadRequest, "the message broke off: %v", err)
		return
	}
	c := p.find(id)
	if c == nil {
		if r.Header.Get(hopHeader) == "" && p.askPeers(w, r, id, body) {
			return
		}
		say(w, http.StatusNotFound, "%s is not connected", id)
		return
	}
	if token := r.Header.Get(tokenHeader); token != "" && token != c.token {
		say(w, http.StatusForbidden, "the token is not the client's")
		return
	}
	switch {
	case r.Method == http.MethodGet:
		w.WriteHeader(http.StatusOK)
	case len(body) == 0:
		w.WriteHeader(http.StatusNoContent)
	case !c.allow(time.Now()):
		p.refused.Inc()
		w.Header().Set("Retry-After", "1")
		say(w, http.StatusServiceUnavailable, "%v; zuul.push.tokenBucket.rate says how many", errThrottled)
	default:
		if err := p.write(c, body); err != nil {
			say(w, http.StatusInternalServerError, "the message could not be written: %v", err)
			return
		}
		w.WriteHeader(http.StatusOK)
	}
}

// askPeers hands the request to the other edges and passes on the answer of the one that knows the client. It reports
// false if none does.
func (p *Push) askPeers(w http.ResponseWriter, r *http.Request, id string, body []byte) bool {
	peers := p.peers()
	if len(peers) == 0 {
		return false
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	answers := make(chan *http.Response, len(peers))
	for _, base := range peers {
		go func() {
			var answer *http.Response
			defer func() { answers <- answer }()
			defer p.panics.Catch("push", nil)
			answer = p.ask(ctx, r.Method, base+"/push", r.Header, id, body)
		}()
	}
	for range peers {
		resp := <-answers
		if resp == nil {
			continue
		}
		if !known(resp.StatusCode) {
			if resp.StatusCode != http.StatusNotFound {
				p.refuses(resp)
			}
			resp.Body.Close()
			continue
		}
		if after := resp.Header.Get("Retry-After"); after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, io.LimitReader(resp.Body, 4096)) //nolint:errcheck // the status says what matters
		resp.Body.Close()
		return true
	}
	return false
}

// known reports whether that is how /push answers of a client that it has.
func known(status int) bool {
	switch status {
	case http.StatusOK, http.StatusNoContent, http.StatusForbidden, http.StatusInternalServerError, http.StatusServiceUnavailable:
		return true
	}
	return false
}

// refuses notes that another edge does not take what it is asked.
func (p *Push) refuses(resp *http.Response) {
	p.log.Warn("push: another edge refuses what it is asked; is its address in edge.push.peers that of its API, and has it the API's token, as in http://push:TOKEN@HOST:PORT?",
		"url", resp.Request.URL.Redacted(), "status", resp.StatusCode)
}

// ask sends one request to another edge; nil if it does not answer.
func (p *Push) ask(ctx context.Context, method, url string, h http.Header, id string, body []byte) *http.Response {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		p.log.Warn("push: an address in edge.push.peers cannot be asked", "err", err)
		return nil
	}
	req.Header.Set(p.set.Get().Header, id)
	req.Header.Set(hopHeader, "1")
	if t := h.Get(tokenHeader); t != "" {
		req.Header.Set(tokenHeader, t)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		p.log.Debug("push: an edge does not answer", "err", err) // which says whom
		return nil
	}
	return resp
}

// order is the body of POST /push/broker.
type order struct {
	IDs     []string `json:"ids"`
	Payload string   `json:"payload"`
	TTL     int      `json:"ttl"` // seconds
}

const maxTTL = 24 * 3600

func (p *Push) handleBroker(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		say(w, http.StatusMethodNotAllowed, "send by POST")
		return
	}
	var o order
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 2*maxPayload))
	d.DisallowUnknownFields()
	err := d.Decode(&o)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		say(w, http.StatusRequestEntityTooLarge, "an order is at most %d bytes; name the clients in several", 2*maxPayload)
		return
	case err != nil:
		say(w, http.StatusBadRequest, `the body is not {"ids": [...], "payload": "...", "ttl": 60}: %v`, err)
		return
	}
	switch {
	case len(o.IDs) == 0 || len(o.IDs) > 10_000:
		say(w, http.StatusBadRequest, "name 1 to 10000 clients in ids; there are %d", len(o.IDs))
		return
	case o.Payload == "" || len(o.Payload) > maxPayload:
		say(w, http.StatusBadRequest, "the payload has 1 to %d bytes; this has %d", maxPayload, len(o.Payload))
		return
	case o.TTL < 0 || o.TTL > maxTTL:
		say(w, http.StatusBadRequest, "ttl is 0 to %d seconds; it is %d", maxTTL, o.TTL)
		return
	}
	for _, id := range o.IDs {
		if id == "" || len(id) > maxIdentity {
			say(w, http.StatusBadRequest, "the id %.40q is no client's", id)
			return
		}
	}
	if !p.enter() {
		w.Header().Set("Retry-After", "1")
		say(w, http.StatusServiceUnavailable, "this edge is ending and took nothing of the order; give it to another one")
		return
	}
	defer p.orders.Done()
	now := time.Now()
	m := queued{[]byte(o.Payload), now.Add(time.Duration(o.TTL) * time.Second)}
	var elsewhere []string
	flooded, full := 0, 0
	for _, id := range o.IDs {
		switch c := p.find(id); {
		case c == nil:
			elsewhere = append(elsewhere, id)
		case c.allow(now):
			p.aside(func() { p.deliver(c, m) })
		default:
			p.refused.Inc()
			flooded++
		}
	}
	if len(elsewhere) > 0 {
		if r.Header.Get(hopHeader) == "" {
			p.tellPeers(elsewhere, o)
		}
		full = len(elsewhere) - p.queue.put(elsewhere, m)
	}
	if flooded > 0 || full > 0 {
		w.Header().Set("Retry-After", "10")
		say(w, http.StatusServiceUnavailable, "%d of %d clients do not get this one: of %d there wait too many messages already, and %d are sent too many at once (zuul.push.tokenBucket.rate)", flooded+full, len(o.IDs), full, flooded)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// enter begins an order, which Run waits for before it closes connections; whoever did so calls p.orders.Done. It reports false
// if Run is at its end.
func (p *Push) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.orders.Add(1)
	}
	return !p.over
}

// aside has fn run as part of an order that was begun.
func (p *Push) aside(fn func()) {
	p.orders.Go(func() {
		defer p.panics.Catch("push", nil)
		fn()
	})
}

// deliver writes m to c. If that breaks, m waits for the client to come again.
func (p *Push) deliver(c *conn, m queued) {
	if p.write(c, m.payload) == nil || !time.Now().Before(m.until) {
		return
	}
	p.queue.put([]string{c.id}, m)
	if c := p.find(c.id); c != nil { // it has come meanwhile, and saw nothing waiting
		p.writeAll(c, p.queue.take(c.id, time.Now()))
	}
}

// writeAll writes what has waited for c.
func (p *Push) writeAll(c *conn, all []queued) {
	for _, m := range all {
		p.write(c, m.payload) //nolint:errcheck // it is counted, and those that follow are, too
	}
}

// write sends a message to c and counts it. A connection that does not take it is closed.
func (p *Push) write(c *conn, payload []byte) error {
	if err := c.send(payload); err != nil {
		p.lost.Inc()
		c.drop()
		return err
	}
	p.sent.Inc()
	return nil
}

// tellPeers hands an order to the other edges, where the clients may be.
func (p *Push) tellPeers(ids []string, o order) {
	o.IDs = ids
	body, err := json.Marshal(o)
	if err != nil {
		return // it was read from JSON
	}
	for _, base := range p.peers() {
		p.aside(func() {
			ctx, cancel := context.WithTimeout(context.Background(), peersWithin)
			defer cancel()
			if resp := p.ask(ctx, http.MethodPost, base+"/push/broker", nil, "", body); resp != nil {
				if resp.StatusCode >= 400 && resp.StatusCode != http.StatusServiceUnavailable { // too many wait there
					p.refuses(resp)
				}
				resp.Body.Close()
			}
		})
	}
}

// queue is the messages that wait for their clients.
type queue struct {
	mu   sync.Mutex
	by   map[string][]queued // guarded by mu
	size int                 // bytes; guarded by mu
}

type queued struct {
	payload []byte
	until   time.Time
}

const (
	maxQueued    = 64 << 20 // bytes of all messages that wait
	maxPerClient = 64
)

// put keeps m for each client, and returns for how many there was room.
func (q *queue) put(ids []string, m queued) (kept int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, id := range ids {
		if q.size+len(m.payload) > maxQueued || len(q.by[id]) >= maxPerClient {
			continue
		}
		id = strings.Clone(id)
		q.by[id] = append(q.by[id], m)
		q.size += len(m.payload)
		kept++
	}
	return kept
}

// take returns what waits for a client, and forgets it.
func (q *queue) take(id string, now time.Time) (out []queued) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.by[id] {
		q.size -= len(m.payload)
		if now.Before(m.until) {
			out = append(out, m)
		}
	}
	delete(q.by, id)
	return out
}

// expire forgets what nobody came for in time.
func (q *queue) expire(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, all := range q.by {
		kept := all[:0]
		for _, m := range all {
			if now.Before(m.until) {
				kept = append(kept, m)
			} else {
				q.size -= len(m.payload)
			}
		}
		if len(kept) == 0 {
			delete(q.by, id)
		} else {
			q.by[id] = kept
		}
	}
}
