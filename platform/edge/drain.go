package edge

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// leaving takes this edge out of service while it goes on running, by live properties that its instance alone may have:
//
//	edge.outOfService                        false  GET /healthcheck is answered 503, so that balancers send it nobody new
//	server.outofservice.connections.delay    2000   ms from then on until connections begin to end
//	server.outofservice.close.timeout        30000  ms within which they do, each with an answer of its own, at moments that differ
//
// So does the status OUT_OF_SERVICE that the registry tells of an edge that is in it, see [registered].
//
// Nobody is refused meanwhile: who still comes is served, and told that the connection ends. Clients of push are asked to
// connect anew in the same time. Put back, everything is as before.
type leaving struct {
	out    *config.Value[bool]
	delay  *config.Value[int]
	within *config.Value[int]
	since  atomic.Int64 // by filter.Now; 0: in service

	registered *config.Value[bool] // what the registry tells counts
	told       atomic.Bool         // by the registry, last

	changing sync.Mutex // held while that follows the property
}

func newLeaving(p *config.Properties) *leaving {
	return &leaving{
		out:    p.Bool("edge.outOfService", false),
		delay:  p.Int("server.outofservice.connections.delay", 2000),
		within: p.Int("server.outofservice.close.timeout", 30_000),

		registered: p.Bool("edge.registration.enabled", false),
	}
}

var errOutOfService = errors.New("this edge is taken out of service")

// healthy is what the health check says.
func (l *leaving) healthy() error {
	if l.leaves() {
		return errOutOfService
	}
	return nil
}

// leaves reports whether the edge is to be out of service.
func (l *leaving) leaves() bool { return l.out.Get() || l.registered.Get() && l.told.Load() }

func (l *leaving) times() (delay, within time.Duration) {
	ms := func(v *config.Value[int]) time.Duration {
		return time.Duration(min(max(v.Get(), 0), 3_600_000)) * time.Millisecond
	}
	return ms(l.delay), ms(l.within)
}

// ends reports whether the answer that is about to be written at now is its connection's last one.
func (l *leaving) ends(now int64) bool {
	since := l.since.Load()
	if since == 0 {
		return false
	}
	delay, within := l.times()
	over := now - since - int64(delay)
	return over >= 0 && (over >= int64(within) || rand.Int64N(int64(within)) <= over)
}

// filter is in the chain while the edge is out of service.
func (l *leaving) filter() *filter.Filter {
	return &filter.Filter{Name: "OutOfService", Kind: filter.Outbound, Order: 990, Quick: true, Always: true,
		If: func(x *filter.Exchange) bool { return x.Response.Takeover == nil && l.ends(filter.Now()) },
		Apply: func(x *filter.Exchange) error {
			x.Response.Header.Set("Connection", "close")
			return nil
		}}
}

// leave takes the edge out of service, or puts it back, as property and registry say.
func (g *Gateway) leave() {
	g.leaving.changing.Lock()
	defer g.leaving.changing.Unlock()
	defer g.panics.Catch("out of service", nil)
	if !g.leaving.leaves() {
		g.leaving.since.Store(0)
		g.rechain()
		return
	}
	if g.leaving.since.Load() != 0 {
		return
	}
	g.leaving.since.Store(max(filter.Now(), 1))
	g.rechain()
	delay, within := g.leaving.times()
	g.push.Move(func(string) bool { return true }, delay+within)
	g.log.Warn("this edge is taken out of service; it serves who still comes, and has connections end")
}
