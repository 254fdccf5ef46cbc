package ipc

import (
	"sync"
	"sync/atomic"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc/balance"
	"github.com/roadbed/roadbed/meter"
)

// cluster is an app as this process calls it: its balancer, which follows the app's list, and what may be retried.
type cluster struct {
	name   string
	engine *Engine
	cmd    *Command
	budget *budget                 // the command's
	hedges atomic.Pointer[hedging] // nil until its command hedges
	calls  calls
	lb     *balance.Balancer
	ready  chan struct{}                                 // closed once the first list has come
	zones  atomic.Pointer[map[string]*[2]*meter.Counter] // attempts by the callee's zone: success, failure

	mu     sync.Mutex
	stop   func()
	first  sync.Once
	closed bool
}

func newCluster(e *Engine, name string, cmd *Command) *cluster {
	cl := &cluster{name: name, engine: e, cmd: cmd, budget: &cmd.budget, ready: make(chan struct{})}
	cl.lb = balance.New(balance.Config{Zone: e.zone, At: e.clock.at, Event: cl.changed})
	cl.zones.Store(&map[string]*[2]*meter.Counter{})
	return cl
}

// changed tells of an event in the balancer.
func (cl *cluster) changed(ev balance.Event) {
	cl.engine.meter.Counter("ipc.lb."+string(ev.Kind), "ipc.vip", cl.name).Inc()
	if ev.Endpoint == nil {
		cl.engine.event(EventKind(ev.Kind), cl.name, ev.Text)
		cl.engine.log.Warn("balancer: "+ev.Text, "app", cl.name)
		return
	}
	cl.engine.event(EventKind(ev.Kind), cl.name, "instance "+ev.Endpoint.ID+" at "+ev.Endpoint.Addr+": "+ev.Text)
	cl.engine.log.Warn("balancer: instance ejected: "+ev.Text, "app", cl.name, "instance", ev.Endpoint.ID, "addr", ev.Endpoint.Addr)
}

// watch follows the app's list.
func (cl *cluster) watch(l Lists) {
	stop := l.Watch(cl.name, func(list []roadbed.Instance) { cl.lb.Update(list, cl.engine.clock.now()) })
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

// pick chooses an endpoint for a first attempt, nil if there is none. Before the first list has come it waits for it.
func (cl *cluster) pick(now int64) *balance.Endpoint {
	ep := cl.lb.Pick(now)
	if ep == nil {
		<-cl.ready
		ep = cl.lb.Pick(now)
	}
	return ep
}

// listed reports whether any instance of the app is known, once the first list has come.
func (cl *cluster) listed() bool {
	if cl.lb.Len() > 0 {
		return true
	}
	<-cl.ready
	return cl.lb.Len() > 0
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
