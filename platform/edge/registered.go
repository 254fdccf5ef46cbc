package edge

import (
	"context"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/discovery"
)

// registered has this edge in the registry while a live property says so, as Zuul is in Eureka, so that operators can decide on its
// status there:
//
//	edge.registration.enabled  false  it is registered as the app edge, with the URL of its health check
//
// The status OUT_OF_SERVICE has the edge leave, see [leaving]. Nothing waits for the registry: while it is away, and after it has lost
// the edge, what it said last counts.
type registered struct {
	self     roadbed.Instance // without a port: it is never registered
	on       *config.Value[bool]
	found    *discovery.Client
	leaving  *leaving
	replaced func() bool

	mu  sync.Mutex              // held while it follows the property
	now *discovery.Registration // nil: it is not registered
}

// edgeApp is the app that edges are registered as. They are not reachable through themselves under that name.
const edgeApp = "edge"

const (
	kindKey = "kind" // in the metadata of an instance
	isEdge  = "roadbed-edge"

	cancelWithin = time.Second
)

func newRegistered(c Config, l *leaving) *registered {
	self := c.Self
	self.App, self.Status, self.Location = edgeApp, roadbed.Up, c.Location
	self.Metadata = map[string]string{kindKey: isEdge, "instance": c.Instance, discovery.HealthPath: "/healthcheck"}
	return &registered{self: self, on: l.registered, found: c.Discovery, leaving: l, replaced: c.Replaced}
}

// follow registers the edge, or ends that, as the property says.
func (r *registered) follow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch on := r.on.Get() && r.self.Port != 0; {
	case on && r.now == nil:
		r.now = r.found.Register(r.self)
	case !on && r.now != nil:
		r.cancel()
	}
}

// end takes the edge out of the registry, unless a newer process has its place there.
func (r *registered) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now != nil && (r.replaced == nil || !r.replaced()) {
		r.cancel()
	}
}

// cancel ends the registration. The caller holds mu.
func (r *registered) cancel() {
	ctx, cancel := context.WithTimeout(context.Background(), cancelWithin)
	defer cancel()
	r.now.Cancel(ctx) //nolint:errcheck // its lease runs out
	r.now = nil
}

// hear takes in what the registry says of the edge, and reports whether that is news.
func (r *registered) hear(all []roadbed.Instance) bool {
	for _, i := range all {
		if i.App == edgeApp && i.ID == r.self.ID {
			out := i.Status == roadbed.OutOfService
			return r.leaving.told.Swap(out) != out
		}
	}
	return false
}
