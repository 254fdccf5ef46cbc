package ipc

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/meter"
)

// cluster is an app as this process calls it: its instances, how they do, and what may be retried.
type cluster struct {
	name   string
	engine *Engine
	cmd    *Command
	budget budget
	ready  chan struct{} // closed once the first list has come
	picks  atomic.Pointer[picks]
	zones  atomic.Pointer[map[string]*[2]*meter.Counter] // attempts by the callee's zone: success, failure

	mu     sync.Mutex
	known  map[string]*endpoint // by id and address
	stop   func()
	first  sync.Once
	closed bool
}

// picks is what the balancer chooses from: immutable, replaced as a whole when the list or somebody's fitness changes.
type picks struct {
	all     []*endpoint // every instance of the list
	fit     []*endpoint // the eligible ones, or in a panic all that could be
	local   []*endpoint // those of fit in the own zone; empty without any
	remote  []*endpoint // the others of fit
	share   float64     // of the traffic that the local ones should take
	median  float64     // round trip of those that know theirs, nanoseconds
	expires int64       // when to look again
	panic   bool        // too few are healthy, so health does not count
}

const (
	lookAgain     = int64(time.Second)
	panicPercent  = 50
	maxEjectedPct = 10
	spill         = 2.0 // a remote endpoint wins if the local one costs more than so many times as much
	defaultRTT    = float64(20 * time.Millisecond)
)

// noPicks is what a cluster has before its first list.
var noPicks = picks{expires: noDeadline}

func newCluster(e *Engine, name string, cmd *Command) *cluster {
	cl := &cluster{name: name, engine: e, cmd: cmd, ready: make(chan struct{}), known: map[string]*endpoint{}}
	cl.picks.Store(&noPicks)
	cl.zones.Store(&map[string]*[2]*meter.Counter{})
	return cl
}

// watch follows the app's list.
func (cl *cluster) watch(l Lists) {
	stop := l.Watch(cl.name, cl.update)
	cl.first.Do(func() { close(cl.ready) })
	cl.mu.Lock()
	cl.stop = stop
	closed := cl.closed
	cl.mu.Unlock()
	if closed {
		stop()
	}
}

func (cl *cluster) close() {
	cl.first.Do(func() { close(cl.ready) })
	cl.mu.Lock()
	cl.closed = true
	stop := cl.stop
	cl.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// update takes a new list. Endpoints that stay keep their statistics; one that went UP again, or whose instance is a
// new one at an old address, is no longer held dead.
func (cl *cluster) update(list []roadbed.Instance) {
	now := cl.engine.clock.now()
	cl.mu.Lock()
	defer cl.mu.Unlock()
	next := make(map[string]*endpoint, len(list))
	for _, i := range list {
		key := i.ID + "\x00" + i.Addr()
		ep := cl.known[key]
		if ep == nil {
			ep = &endpoint{id: i.ID, addr: i.Addr(), zone: i.Location.Zone, secure: i.Secure}
			ep.last.Store(now)
			ep.since.Store(noSince)
		}
		since := int64(noSince)
		if !i.Since.IsZero() {
			since = cl.engine.clock.at(i.Since)
		}
		ep.mu.Lock()
		up := i.Status == roadbed.Up
		// Since travels as wall time, so a change of a second or more is a real one.
		restarted := ep.since.Load() != noSince && since != noSince && since-ep.since.Load() > int64(time.Second)
		if up && !ep.up || restarted {
			ep.refused.Store(0)
			ep.ejected.Store(0)
			ep.err.Store(0)
			ep.proven.Store(false)
			ep.dials, ep.broken, ep.bad = 0, 0, 0
		}
		ep.up, ep.status = up, i.Status
		ep.since.Store(since)
		ep.mu.Unlock()
		next[key] = ep
	}
	cl.known = next
	cl.rebuild(now)
}

// rebuild replaces the picks. The caller holds mu.
func (cl *cluster) rebuild(now int64) {
	p := &picks{all: make([]*endpoint, 0, len(cl.known)), expires: now + lookAgain}
	var up, live, fit, others []*endpoint
	var rtts []float64
	for _, ep := range cl.known {
		p.all = append(p.all, ep)
	}
	slices.SortFunc(p.all, func(a, b *endpoint) int { return strings.Compare(a.id+a.addr, b.id+b.addr) })
	cl.ejectWorst(p.all, now)
	zones := map[string]int{}
	for _, ep := range p.all {
		p.expires = min(p.expires, ep.returns(now))
		if r := math.Float64frombits(ep.rtt.Load()); r > 0 {
			rtts = append(rtts, r)
		}
		switch {
		case !ep.up:
			if ep.status != roadbed.OutOfService {
				others = append(others, ep)
			}
			continue
		}
		up = append(up, ep)
		if ep.live(now) {
			live = append(live, ep)
		}
		if ep.fit(now) {
			fit = append(fit, ep)
			zones[ep.zone]++
		}
	}
	// Who refuses connections serves nobody, so panic does not bring it back while anybody else lives.
	switch {
	case len(fit)*100 >= len(live)*panicPercent && len(fit) > 0:
		p.fit = fit
	case len(live) > 0:
		p.fit, p.panic = live, true
	case len(up) > 0:
		p.fit, p.panic = up, true
	default:
		p.fit, p.panic = others, len(others) > 0
	}
	for _, ep := range p.fit {
		if ep.zone == cl.engine.zone && ep.zone != "" {
			p.local = append(p.local, ep)
		} else {
			p.remote = append(p.remote, ep)
		}
	}
	// Callers are taken to be spread evenly over the zones, so each zone's endpoints should take 1/zones of all.
	if n := len(zones); n > 0 && len(p.local) > 0 {
		p.share = min(1, float64(len(p.local))*float64(n)/float64(len(p.fit)))
	}
	p.median = defaultRTT
	if len(rtts) > 0 {
		slices.Sort(rtts)
		p.median = rtts[len(rtts)/2]
	}
	if was := cl.picks.Load(); p.panic != was.panic && p.panic {
		cl.engine.meter.Counter("ipc.lb.panic", "ipc.vip", cl.name).Inc()
		cl.engine.log.Warn("balancer panics: too few instances are healthy, so all are tried", "app", cl.name, "fit", len(fit), "up", len(up), "all", len(p.all))
	}
	cl.picks.Store(p)
}

// ejectWorst ejects endpoints that failed too often in a row, as many as the limit allows.
func (cl *cluster) ejectWorst(all []*endpoint, now int64) {
	up, out := 0, 0
	for _, ep := range all {
		if ep.up {
			up++
			if now < ep.ejected.Load() {
				out++
			}
		}
	}
	allowed := up * maxEjectedPct / 100
	if allowed == 0 && up >= 3 {
		allowed = 1
	}
	for _, ep := range all {
		ep.mu.Lock()
		if ep.up && ep.wants() && now >= ep.ejected.Load() && out < allowed {
			ep.eject(now)
			out++
			cl.engine.meter.Counter("ipc.lb.eject", "ipc.vip", cl.name).Inc()
			cl.engine.log.Warn("instance ejected: too many failures in a row", "app", cl.name, "instance", ep.id, "addr", ep.addr)
		}
		ep.mu.Unlock()
	}
}

// current returns the picks, renewed if they are out of date. At most one caller renews; the others go on with what
// there is.
func (cl *cluster) current(now int64) *picks {
	p := cl.picks.Load()
	if p == &noPicks {
		<-cl.ready
		p = cl.picks.Load()
	}
	if now >= p.expires && cl.mu.TryLock() {
		if now >= cl.picks.Load().expires {
			cl.rebuild(now)
		}
		cl.mu.Unlock()
		p = cl.picks.Load()
	}
	return p
}

// changed renews the picks at once.
func (cl *cluster) changed(now int64) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.rebuild(now)
}

// pick chooses an endpoint for a first attempt, nil if there is none: two at random, of which the cheaper is likely to
// win, first in the own zone. Source: Mitzenmacher, "The power of two choices in randomized load balancing".
// hot path: 0 allocs, BenchmarkPick
func (cl *cluster) pick(now int64) *endpoint {
	p := cl.current(now)
	switch {
	case len(p.fit) == 0:
		return nil
	case len(p.local) == 0 || len(p.remote) == 0:
		ep, _, _ := cheaper(p.fit, now, p.median)
		return ep
	case p.share < 1 && rand.Float64() >= p.share:
		ep, _, _ := cheaper(p.remote, now, p.median)
		return ep
	}
	near, cost, bad := cheaper(p.local, now, p.median)
	far := p.remote[rand.IntN(len(p.remote))]
	farCost, farErr := far.cost(now, p.median)
	if farErr <= badError && (bad || cost > spill*farCost) {
		return far
	}
	return near
}

// cheaper draws two and returns one of them, with odds of the inverse squares of their costs; it draws again, twice at
// most, while what it got is bad. A strict choice of the cheaper would, where calls are few, starve whoever is a little
// slower or younger than the best; the square leaves 1 % to a cost of ten times as much.
func cheaper(list []*endpoint, now int64, median float64) (best *endpoint, cost float64, bad bool) {
	if len(list) == 1 {
		c, e := list[0].cost(now, median)
		return list[0], c, e > badError
	}
	for range 3 {
		r := rand.Uint64()
		i := int(uint64(uint32(r)) * uint64(len(list)) >> 32)
		j := int(uint64(uint32(r>>32)) * uint64(len(list)-1) >> 32)
		if j >= i {
			j++
		}
		a, b := list[i], list[j]
		ca, ea := a.cost(now, median)
		cb, eb := b.cost(now, median)
		if rand.Float64()*(ca*ca+cb*cb) < ca*ca {
			a, ca, ea = b, cb, eb
		}
		if best == nil || ca < cost {
			best, cost, bad = a, ca, ea > badError
		}
		if !bad {
			break
		}
	}
	return best, cost, bad
}

// another chooses an endpoint for a further attempt: the cheapest that was not tried, live ones first. If all were
// tried it returns nil, unless again is set; then one that was tried and is not known to be dead may do.
func (cl *cluster) another(now int64, tried []*endpoint, again bool) *endpoint {
	p := cl.current(now)
	for i, list := range [...][]*endpoint{p.fit, p.all} {
		var best *endpoint
		var least float64
		for _, ep := range list {
			if slices.Contains(tried, ep) || !ep.live(now) || i == 1 && !ep.mayServe() {
				continue
			}
			if c, _ := ep.cost(now, p.median); best == nil || c < least {
				best, least = ep, c
			}
		}
		if best != nil {
			return best
		}
	}
	if again && len(p.fit) > 0 {
		if ep, _, _ := cheaper(p.fit, now, p.median); ep.live(now) {
			return ep
		}
	}
	return nil
}

// mayServe reports whether the registry lets the endpoint take traffic.
func (e *endpoint) mayServe() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.up
}

// attempt counts one attempt by the callee's zone.
func (cl *cluster) attempt(zone string, ok bool) {
	if cl.engine.meter == nil {
		return
	}
	c := (*cl.zones.Load())[zone]
	if c == nil {
		c = cl.addZone(zone)
	}
	if ok {
		c[0].Inc()
	} else {
		c[1].Inc()
	}
}

func (cl *cluster) addZone(zone string) *[2]*meter.Counter {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	old := *cl.zones.Load()
	if c := old[zone]; c != nil {
		return c
	}
	next := make(map[string]*[2]*meter.Counter, len(old)+1)
	for k, v := range old {
		next[k] = v
	}
	m := cl.engine.meter
	next[zone] = &[2]*meter.Counter{
		m.Counter("ipc.client.attempt", "ipc.vip", cl.name, "ipc.zone", zone, "ipc.result", "success"),
		m.Counter("ipc.client.attempt", "ipc.vip", cl.name, "ipc.zone", zone, "ipc.result", "failure"),
	}
	cl.zones.Store(&next)
	return next[zone]
}
