// Package push lets services send messages to clients that hold a connection open, over WebSocket or server-sent events.
// At Netflix this was Zuul Push, which told devices what had changed so that they need not ask.
//
// Clients connect to /ws or /sse of the edge and are known from then on by who they are. Services send by the API of any
// edge:
//
//	curl -X POST -H 'X-CUSTOMER_ID: alice' -d '{"hello": "world"}' http://127.0.0.1:7070/push
//
// # How a connection lives
//
// It is registered under the client's identity. If the same client connects again, the newer connection gets the messages.
// Every three minutes it is sent a ping. After half an hour, less a random part so that not all come back at once, the client
// is asked to connect anew (_CLOSE_, or the event goaway), which moves clients over to new edges; if it has not gone some
// seconds later, it is cut off.
//
// # Properties
//
//	edge.push.enabled                     false       whether /ws and /sse are the edge's own
//	edge.push.identity                    user        who a client is: user (as authenticated), header:NAME or cookie:NAME; the latter two believe the client
//	edge.push.peers                       (none)      the other edges' APIs, such as http://10.0.0.7:7070, which are asked for clients that are not here; with the token of an API that wants one as http://push:TOKEN@10.0.0.7:7070
//	edge.push.identity.header             X-CUSTOMER_ID   where the sender of a message names the client
//	zuul.push.registry.ttl.seconds        1800        how long a connection may last
//	zuul.push.reconnect.dither.seconds    180         up to so much less, at random
//	zuul.push.client.close.grace.period   4           seconds between being asked to go and being cut off
//	zuul.push.keepalive.interval.seconds  180         between pings; 0: none
//	zuul.push.tokenBucket.rate            3           messages to one connection
//	zuul.push.tokenBucket.window.millis   2000        in so much time
//
// # What it promises
//   - A message that is answered 200 was written to the client's connection; whether the client got it, only the client knows.
//   - An idle connection costs no goroutine's waiting buffers: less than 6 KiB of memory in all.
//   - A client that does not read delays nobody but the sender of its own messages, and those for 5 s.
//   - An order that is answered 202 is carried out before this edge ends: messages for clients that are here are written, other
//     edges are told of the rest. One that comes too late for that is answered 503.
//
// # What it does not
//   - Nothing is stored, but for messages handed to /push/broker, which wait in memory, of this process alone, until their
//     client connects or their time is up.
//   - With several edges each keeps what was handed to /push/broker for a client that is not there, so that one who connects to
//     another edge in time may get a message twice.
//   - What clients send is read and dropped.
package push

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Config wires push. All of it may be empty.
type Config struct {
	Properties *config.Properties
	Meter      *meter.Registry
	Log        *slog.Logger

	// Peers returns the addresses of the other edges' APIs, such as http://10.0.0.7:7070, which are asked for clients that
	// are not connected here; nil: there are none.
	Peers  func() []string
	Client *http.Client // for that; nil: one that waits 2 s
}

// Push is the connections of one edge, and the way to send to them.
type Push struct {
	log    *slog.Logger
	peers  func() []string
	client *http.Client
	set    *config.Value[*settings]
	life   *config.Value[*lifetimes]
	on     *config.Value[bool]

	seed   maphash.Seed
	shards [64]shard
	wheel  wheel
	queue  queue
	open   atomic.Int64
	panics *filter.Panics

	mu     sync.Mutex
	over   bool           // nothing new is begun; guarded by mu
	busy   sync.WaitGroup // what goes on beside requests; guarded by mu as to additions
	orders sync.WaitGroup // orders that were taken and are not done; the first addition of each is guarded by mu

	opened, ended, sent, refused, lost *meter.Counter
}

type shard struct {
	mu sync.Mutex
	by map[string]*conn // guarded by mu
}

// settings are the properties under edge.push.
type settings struct {
	Identity string `config:"identity"`
	Header   string `config:"identity.header"`
}

// Validate returns an error if s cannot be meant.
func (s *settings) Validate() error {
	kind, name, has := strings.Cut(s.Identity, ":")
	switch {
	case s.Identity == "user", (kind == "header" || kind == "cookie") && has && name != "":
	default:
		return errors.New("edge.push.identity is user, header:NAME or cookie:NAME")
	}
	if s.Header == "" {
		return errors.New("edge.push.identity.header names the header by which senders name clients")
	}
	return nil
}

// lifetimes are the properties under zuul.push.
type lifetimes struct {
	TTL       int `config:"registry.ttl.seconds"`
	Dither    int `config:"reconnect.dither.seconds"`
	Grace     int `config:"client.close.grace.period"`
	KeepAlive int `config:"keepalive.interval.seconds"`
	Rate      int `config:"tokenBucket.rate"`
	Window    int `config:"tokenBucket.window.millis"`
}

// Validate returns an error if l cannot be meant.
func (l *lifetimes) Validate() error {
	const day = 24 * 3600
	return errors.Join(
		config.Between("zuul.push.registry.ttl.seconds", l.TTL, 1, day),
		config.Between("zuul.push.reconnect.dither.seconds", l.Dither, 0, day),
		config.Between("zuul.push.client.close.grace.period", l.Grace, 0, 3600),
		config.Between("zuul.push.keepalive.interval.seconds", l.KeepAlive, 0, day),
		config.Between("zuul.push.tokenBucket.rate", l.Rate, 1, 1_000_000),
		config.Between("zuul.push.tokenBucket.window.millis", l.Window, 1, 3_600_000),
	)
}

// New returns the push of an edge.
func New(c Config) *Push {
	p := &Push{
		log: c.Log, peers: c.Peers, client: c.Client, seed: maphash.MakeSeed(),
		set:    config.Must(config.Bind(c.Properties, "edge.push.", settings{Identity: "user", Header: "X-CUSTOMER_ID"})),
		life:   config.Must(config.Bind(c.Properties, "zuul.push.", lifetimes{TTL: 1800, Dither: 180, Grace: 4, KeepAlive: 180, Rate: 3, Window: 2000})),
		on:     c.Properties.Bool("edge.push.enabled", false),
		opened: c.Meter.Counter("edge.push.connect"), ended: c.Meter.Counter("edge.push.close"),
		sent: c.Meter.Counter("edge.push.sent"), refused: c.Meter.Counter("edge.push.throttled"), lost: c.Meter.Counter("edge.push.failed"),
	}
	p.panics = filter.NewPanics(c.Meter, c.Log)
	if p.log == nil {
		p.log = slog.Default()
	}
	if p.client == nil {
		p.client = &http.Client{Timeout: peersWithin}
	}
	if p.peers == nil {
		p.peers = func() []string { return nil }
	}
	for i := range p.shards {
		p.shards[i].by = map[string]*conn{}
	}
	p.wheel.start(time.Now())
	p.queue.by = map[string][]queued{}
	return p
}

// Run pings connections and ends old ones until ctx ends; then it asks all to connect elsewhere, closes them, and waits for
// everything that was begun.
func (p *Push) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var busy sync.WaitGroup
	for {
		select {
		case now := <-tick.C:
			for _, c := range p.wheel.due(now) {
				busy.Go(func() { // its own goroutine: a client that does not read takes its time
					defer p.panics.Catch("push", func(error) { c.drop() })
					p.event(c, now)
				})
			}
			p.queue.expire(now)
		case <-ctx.Done():
			busy.Wait() // for whom something is being done is back on the wheel then
			p.mu.Lock()
			p.over = true
			p.mu.Unlock()
			p.orders.Wait() // what was answered 202 is written before connections close
			for _, c := range p.wheel.all() {
				busy.Go(func() {
					defer p.panics.Catch("push", func(error) { c.drop() })
					c.goAway()
					c.end(1001, "Server going away")
				})
			}
			busy.Wait()
			p.busy.Wait()
			return nil
		}
	}
}

// begin has fn run on a goroutine of its own, which Run waits for. It reports false if Run is at its end.
func (p *Push) begin(fn func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return false
	}
	p.busy.Go(func() {
		defer p.panics.Catch("push", nil)
		fn()
	})
	return true
}

// event does what is due for c.
func (p *Push) event(c *conn, now time.Time) {
	l := p.life.Get()
	c.mu.Lock()
	closed, asked, left := c.closed, c.asked, c.until.Sub(now)
	c.mu.Unlock()
	switch {
	case closed:
		return
	case left > 0: // nothing but a ping
		if err := c.ping(); err != nil {
			c.drop()
			return
		}
	case !asked:
		if err := c.goAway(); err != nil {
			c.drop()
			return
		}
		c.mu.Lock()
		c.until = now.Add(time.Duration(l.Grace) * time.Second)
		c.mu.Unlock()
	default:
		c.end(1000, "Server closed connection")
		return
	}
	p.schedule(c, now)
}

// schedule has event called when next something is due for c.
func (p *Push) schedule(c *conn, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return // and taken off the wheel, or about to be
	}
	at := c.until
	if every := time.Duration(p.life.Get().KeepAlive) * time.Second; every > 0 && !c.asked && now.Add(every).Before(at) {
		at = now.Add(every)
	}
	p.wheel.add(c, at)
}

// Move asks the clients whose identities which reports to connect anew, each at a moment of its own before so much time is
// over, and cuts those off who have not gone some seconds later. Those who are asked by then anyway are left alone. It returns
// how many are asked.
func (p *Push) Move(which func(id string) bool, within time.Duration) (n int) {
	now := time.Now()
	var chosen []*conn
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		for id, c := range s.by {
			if which(id) {
				chosen = append(chosen, c)
			}
		}
		s.mu.Unlock()
	}
	for _, c := range chosen {
		if c.hurry(now, within) {
			n++
		}
	}
	return n
}

// hurry has c be asked to go within so much time, and reports whether that is sooner than it was.
func (c *conn) hurry(now time.Time, within time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.asked || !c.until.After(now.Add(within)) {
		return false
	}
	c.until = now.Add(rand.N(within + 1))
	if c.p.wheel.take(c) { // else something is being done for it, and it is put on the wheel anew
		c.p.wheel.add(c, c.until)
	}
	return true
}

// Wants reports whether a request is for push: it asks for /ws or /sse, and push is switched on.
func (p *Push) Wants(x *filter.Exchange) bool {
	return (x.Request.Path == "/ws" || x.Request.Path == "/sse") && p.on.Get()
}

// identify returns who the client is; "" if that is not known.
func (p *Push) identify(x *filter.Exchange) string {
	kind, name, _ := strings.Cut(p.set.Get().Identity, ":")
	id := ""
	switch kind {
	case "user":
		id = x.User
	case "header":
		id = x.Request.Header.Get(name)
	case "cookie":
		id = cookie(&x.Request.Header, name)
	}
	if len(id) > maxIdentity {
		return ""
	}
	return strings.Clone(id) // it outlives the request
}

const maxIdentity = 512

func cookie(h *filter.Header, name string) string {
	for v := range h.Values("Cookie") {
		for part := range strings.SplitSeq(v, ";") {
			if k, val, ok := strings.Cut(strings.TrimSpace(part), "="); ok && k == name {
				return strings.Trim(val, `"`)
			}
		}
	}
	return ""
}

// Endpoint returns the endpoint of /ws and /sse.
func (p *Push) Endpoint() *filter.Filter {
	return &filter.Filter{Name: "PushEndpoint", Kind: filter.Endpoint, Apply: func(x *filter.Exchange) error {
		if x.Request.Path == "/sse" {
			p.serveEvents(x)
		} else {
			p.serveWebSocket(x)
		}
		return nil
	}}
}

// attach makes c, whose handshake is over, one of the connections, and reads it until it ends. It returns at once if the
// connection was detached from its engine.
func (p *Push) attach(x *filter.Exchange, c *conn) {
	c.p = p
	now := time.Now()
	l := p.life.Get()
	c.until = now.Add(time.Duration(l.TTL-l.Grace)*time.Second - rand.N(time.Duration(l.Dither)*time.Second+1))
	c.tokens, c.refilled = float64(l.Rate), now
	s := p.shard(c.id)
	s.mu.Lock()
	s.by[c.id] = c
	s.mu.Unlock()
	p.open.Add(1)
	p.opened.Inc()
	p.schedule(c, now)
	if waiting := p.queue.take(c.id, now); len(waiting) > 0 {
		p.begin(func() { p.writeAll(c, waiting) })
	}
	if x.MayDetach {
		x.Response.Detached = true
		if !p.begin(c.read) {
			c.drop()
		}
		return
	}
	c.read()
}

func (p *Push) shard(id string) *shard {
	return &p.shards[maphash.String(p.seed, id)%uint64(len(p.shards))]
}

// find returns the connection of a client, nil if it has none here.
func (p *Push) find(id string) *conn {
	s := p.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[id]
}

// detach forgets c. A newer connection of the same client stays.
func (p *Push) detach(c *conn) {
	s := p.shard(c.id)
	s.mu.Lock()
	if s.by[c.id] == c {
		delete(s.by, c.id)
	}
	s.mu.Unlock()
	p.wheel.take(c)
	p.open.Add(-1)
	p.ended.Inc()
}

// Open returns how many connections there are.
func (p *Push) Open() int { return int(p.open.Load()) }

// conn is one client's connection.
type conn struct {
	p      *Push
	id     string
	token  string // that a sender must know, if the client brought one
	net    net.Conn
	events bool // server-sent events, else a WebSocket

	mu       sync.Mutex
	closed   bool      // guarded by mu, as is what follows
	asked    bool      // to go
	until    time.Time // when it is asked to go, or, if it was, cut off
	tokens   float64
	refilled time.Time

	writing sync.Mutex // one message at a time

	slot       int // in the wheel; guarded by the wheel
	next, prev *conn
}

var (
	errThrottled = errors.New("too many messages for this client at once")
	errClosed    = errors.New("the client's connection is closed")
)

// writeWithin is how long a client may take to take a message.
const writeWithin = 5 * time.Second

// allow takes a token for one message.
func (c *conn) allow(now time.Time) bool {
	l := c.p.life.Get()
	c.mu.Lock()
	defer c.mu.Unlock()
	rate := float64(l.Rate)
	c.tokens = min(rate, c.tokens+rate*float64(now.Sub(c.refilled))/float64(time.Duration(l.Window)*time.Millisecond))
	c.refilled = now
	if c.tokens < 1 {
		return false
	}
	c.tokens--
	return true
}

// write sends b, whole.
func (c *conn) write(b []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return errClosed
	}
	if err := c.net.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return err
	}
	_, err := c.net.Write(b)
	return err
}

// send sends a message.
func (c *conn) send(payload []byte) error {
	if c.events {
		return c.write(event("push", string(payload)))
	}
	return c.write(textFrame(payload))
}

func (c *conn) ping() error {
	if c.events {
		return c.write(event("ping", "ping"))
	}
	return c.write([]byte{opPing | final, 0})
}

// goAway asks the client to connect anew.
func (c *conn) goAway() error {
	c.mu.Lock()
	c.asked = true
	c.mu.Unlock()
	if c.events {
		return c.write(event("goaway", "_CLOSE_"))
	}
	return c.write(textFrame([]byte("_CLOSE_")))
}

// end tells the client why and closes the connection.
func (c *conn) end(code int, reason string) {
	var b []byte
	if c.events {
		b = closeEvent(code, reason)
	} else {
		b = closeFrame(code, reason)
	}
	c.write(b) //nolint:errcheck // it is closed in any case
	c.drop()
}

// drop closes the connection, once.
func (c *conn) drop() {
	c.mu.Lock()
	was := c.closed
	c.closed = true
	c.mu.Unlock()
	if was {
		return
	}
	c.net.Close()
	c.p.detach(c)
}

// read reads what the client sends until it ends. It holds no more than a few bytes.
func (c *conn) read() {
	defer c.drop()
	if c.events {
		var b [16]byte
		for {
			if _, err := c.net.Read(b[:]); err != nil {
				return
			}
		}
	}
	code, why := readFrames(c.net, func(pong []byte) error { return c.write(controlFrame(opPong, pong)) })
	if code != 0 {
		c.end(code, cmp.Or(why, "Bye"))
	}
}
