package origin

import (
	"hash/maphash"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// origin is an app as this edge calls it.
type origin struct {
	proxy    *Proxy
	app      string      // as routes name it
	name     string      // in lower case
	dotted   bool        // it may be a host's name
	two      atomic.Bool // it has answered over HTTP/2
	set      atomic.Pointer[settings]
	unfollow func()
	inFlight atomic.Int64
	rejected *meter.Counter
	greedy   *meter.Counter // of clients that have too many in flight
	stalled  *meter.Counter // of answers that were ended for want of their places
	room     *filter.Room
	clients  clients
	asking   clients // what they wait for answers to, where a limit moves
	streams  atomic.Int64
	lasting  clients // whose these are
	count    counters
	adaptive bool // the limit is; only follow's callback uses it

	servers atomic.Pointer[map[string]*server] // by address; copied on write
	mu      sync.Mutex                         // guards changes of servers
}

func newOrigin(p *Proxy, app string) *origin {
	o := &origin{proxy: p, app: app, name: strings.ToLower(app), room: filter.NewRoom(), dotted: strings.Contains(app, "."), clients: clients{seed: maphash.MakeSeed()}, asking: clients{seed: maphash.MakeSeed()}, lasting: clients{seed: maphash.MakeSeed()}}
	o.servers.Store(&map[string]*server{})
	o.count = newCounters(p.meter, o.name)
	o.rejected = p.meter.Counter("zuul.origin.rejected.requests", "id", o.name)
	o.greedy = p.meter.Counter("edge.origin.client.rejected", "id", o.name)
	o.stalled = p.meter.Counter("edge.origin.client.stalled", "id", o.name)
	p.meter.GaugeFunc("zuul.origin.concurrent.requests", func() float64 { return float64(o.inFlight.Load()) }, "id", o.name)
	p.meter.GaugeFunc("edge.origin.streams", func() float64 { return float64(o.streams.Load()) }, "id", o.name)
	p.meter.GaugeFunc("connectionpool_inPool", func() float64 { idle, _ := o.connections(); return float64(idle) }, "id", o.name)
	p.meter.GaugeFunc("connectionpool_inUse", func() float64 { _, busy := o.connections(); return float64(busy) }, "id", o.name)
	o.unfollow = follow(p.props, o.name, p.log, func(s *settings) {
		if was := o.set.Swap(s); was != nil && was.trust != s.trust {
			was.trust.close()
		}
		if s.gradient != o.adaptive {
			limit := ipc.LimitOff
			if o.adaptive = s.gradient; o.adaptive {
				limit = ipc.LimitGradient2
			}
			p.calls.Command(o.name, ipc.Settings{Limit: limit})
		}
	})
	return o
}

// connections returns how many connections of the origin are idle and in use.
func (o *origin) connections() (idle, busy int) {
	for _, s := range *o.servers.Load() {
		s.mu.Lock()
		n := len(s.idle)
		s.mu.Unlock()
		idle += n
		busy += max(0, int(s.open.Load())-n)
	}
	return idle, busy
}

// places returns how many requests may be in flight; -1 is any number.
func (o *origin) places(set *settings) int {
	switch {
	case set.concurrent != 0:
		return set.concurrent
	case o.proxy.edges:
		return -1
	}
	return o.proxy.calls.MaxConcurrent(o.name)
}

// enter takes a place for one more request, if the app's limit and the one for each client let it; else it says why not. What ipc
// would refuse for its number is refused here: it is no failure of the app's that its breaker should know of.
func (o *origin) enter(c *call) kind {
	places := o.places(c.set)
	if n := o.inFlight.Add(1); places > 0 && n > int64(places) {
		o.inFlight.Add(-1)
		return concurrency
	}
	share := c.general.Share
	if share >= 1 || places < 0 || o.proxy.edges || c.x.Hop != "" || !c.x.From.IsValid() {
		return fine
	}
	var ok bool
	if c.held, ok = o.clients.enter(c.x, max(1, int(share*float64(places)))); !ok {
		o.inFlight.Add(-1)
		return greedy
	}
	if !c.set.gradient {
		return fine
	}
	// That limit is of what waits for an answer, and so is a client's part in it.
	if most := o.proxy.calls.MaxAdaptive(o.name); most > 0 {
		if c.asks, ok = o.asking.enter(c.x, max(1, int(share*float64(most)))); !ok {
			c.held.leave()
			c.held = held{}
			o.inFlight.Add(-1)
			return greedy
		}
	}
	return fine
}

// leave gives the place back. It reports whether the request was ended for want of it.
func (o *origin) leave(c *call) (ended bool) {
	o.inFlight.Add(-1)
	c.held.leave()
	c.held = held{}
	c.hears()
	return c.x.Yield(o.room)
}

// outlast has an answer that may last as long as both ends want count as a stream, and no longer as a request in flight, nor its
// connection as one of its instance's. It changes nothing if there are as many streams as may be, of all clients or of this one.
func (o *origin) outlast(c *call) {
	most := c.set.streams
	if n := o.streams.Add(1); most >= 0 && n > int64(most) {
		o.streams.Add(-1)
		return
	}
	var own held
	if share := c.general.Share; share < 1 && most >= 0 && c.x.Hop == "" && c.x.From.IsValid() {
		var ok bool
		if own, ok = o.lasting.enter(c.x, max(1, int(share*float64(most)))); !ok {
			o.streams.Add(-1)
			return
		}
	}
	o.leave(c)
	c.passage.Last()
	c.entered, c.lasts, c.held = false, true, own
	if c.conn != nil {
		c.conn.apart = true
		c.conn.server.open.Add(-1)
	}
}

// ended is the end of a stream.
func (o *origin) ended(c *call) {
	o.streams.Add(-1)
	c.held.leave()
	c.held = held{}
}

// sweep closes the connections that were idle for too long, and those of instances that are listed no more.
func (o *origin) sweep(now int64) {
	o.room.Look(now)
	if len(*o.servers.Load()) == 0 {
		return
	}
	listed := map[string]bool{}
	idle := defaultIdle
	for _, ep := range o.proxy.calls.Endpoints(o.name) {
		listed[ep.Addr] = true
	}
	if c := o.proxy.calls.Connections(o.name); c.IdleTimeout > 0 {
		idle = c.IdleTimeout
	}
	var gone []string
	for addr, s := range *o.servers.Load() {
		wanted := s.wanted.Load()
		here := listed[addr] || wanted != 0 && now-wanted < int64(idle)
		if s.sweep(now, idle, here) && !here {
			gone = append(gone, addr)
		}
	}
	if gone == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	all := maps.Clone(*o.servers.Load())
	for _, addr := range gone {
		delete(all, addr)
	}
	o.servers.Store(&all)
}

// close closes what is idle.
func (o *origin) close() {
	o.unfollow()
	o.set.Load().trust.close()
	for _, s := range *o.servers.Load() {
		s.mu.Lock()
		s.gone = true
		s.mu.Unlock()
		s.drain()
	}
}
