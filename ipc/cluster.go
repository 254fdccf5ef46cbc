package ipc

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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
	wire   atomic.Pointer[wire] // nil: as usual
	lull   atomic.Pointer[lull] // the last; nil: there was none
	lb     *balance.Balancer
	ready  chan struct{}                                 // closed once the first list has come
	zones  atomic.Pointer[map[string]*[2]*meter.Counter] // attempts by the callee's zone: success, failure

	applying  sync.Mutex // guards what follows from the settings:
	over      bool
	source    source
	stop      func() // of the list
	pinging   string
	stopPings func()
	stopPeers func()

	mu       sync.Mutex // guards additions to zones, and:
	unfollow func()
	first    sync.Once
	closed   bool
}

// lull is a time in which callers were asked to retry less.
type lull struct {
	until   int64
	retries int // of one call, at most
}

const longestLull = time.Hour

// asked takes what an answer says in [HeaderBackoff]. What makes no sense is nothing.
func (cl *cluster) asked(s string) {
	if s == "" {
		return
	}
	l, window := lull{retries: -1}, -1
	for part := range strings.SplitSeq(s, ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
		n, err := strconv.ParseUint(v, 10, 31)
		switch {
		case err != nil:
			return
		case k == "max-retries":
			l.retries = int(n)
		case k == "window":
			window = int(n)
		}
	}
	if l.retries < 0 || window < 0 {
		return
	}
	l.until = cl.engine.clock.now() + int64(min(time.Duration(window)*time.Second, longestLull))
	cl.lull.Store(&l)
}

// lulls reports whether callers were asked to make no more than so many retries of a call.
func (cl *cluster) lulls(now int64, retries int) bool {
	l := cl.lull.Load()
	return l != nil && now < l.until && retries >= l.retries
}

func newCluster(e *Engine, name string, cmd *Command) *cluster {
	cl := &cluster{name: name, engine: e, cmd: cmd, budget: &cmd.budget, ready: make(chan struct{}), stopPings: func() {}, stopPeers: func() {}}
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

// watch follows the app's settings and its list.
func (cl *cluster) watch(l Lists) {
	unfollow := cl.engine.Balancing(cl.name, func(s balance.Settings) {
		cl.applying.Lock()
		defer cl.applying.Unlock()
		if !cl.over {
			cl.configure(l, s)
		}
	})
	cl.first.Do(func() { close(cl.ready) })
	cl.mu.Lock()
	cl.unfollow = unfollow
	closed := cl.closed
	cl.mu.Unlock()
	if closed {
		cl.end(unfollow)
	}
}

func (cl *cluster) close() {
	cl.first.Do(func() { close(cl.ready) })
	cl.mu.Lock()
	cl.closed = true
	unfollow := cl.unfollow
	cl.mu.Unlock()
	if unfollow != nil {
		cl.end(unfollow)
	}
}

// end stops following.
func (cl *cluster) end(unfollow func()) {
	unfollow()
	cl.applying.Lock()
	defer cl.applying.Unlock()
	if cl.over {
		return
	}
	cl.over = true
	cl.stop()
	cl.stopPings()
	cl.stopPeers()
	if w := cl.wire.Load(); w != nil && w.base != nil {
		w.base.CloseIdleConnections()
	}
}

// pick chooses an endpoint for a first attempt. Before the first list has come it waits for it, and with RetryRule for
// an instance that lives; ctx ends the latter.
func (cl *cluster) pick(ctx context.Context, now int64) (*balance.Endpoint, error) {
	if ep := cl.lb.Pick(now); ep != nil {
		return ep, nil
	}
	<-cl.ready
	for until := now + int64(cl.lb.Patience()); ; now = cl.engine.clock.now() {
		if ep := cl.lb.Pick(now); ep != nil {
			return ep, nil
		}
		if now >= until || ctx.Err() != nil {
			return nil, &noEndpoint{cl.lb.Missing(now)}
		}
		timer := time.NewTimer(askAgain)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

const askAgain = 5 * time.Millisecond

// noEndpoint is an ErrNoEndpoint that says why.
type noEndpoint struct{ why string }

func (n *noEndpoint) Error() string {
	if n.why == "" {
		return ErrNoEndpoint.Error()
	}
	return ErrNoEndpoint.Error() + ": " + n.why
}

func (n *noEndpoint) Unwrap() error { return ErrNoEndpoint }

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
