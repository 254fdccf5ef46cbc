package fleet

import (
	"context"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/discovery"
)

// presence is one instance in the registry. Without a registry its methods do nothing.
type presence struct {
	f    *Fleet
	inst roadbed.Instance
	self bool                    // the process registers itself
	reg  *discovery.Registration // nil if self, or without a registry

	mu   sync.Mutex
	left bool // guarded by mu; nothing is said about it any more
}

func (f *Fleet) newPresence(i roadbed.Instance, self bool) *presence {
	p := &presence{f: f, inst: i, self: self}
	if f.c.Discovery != nil && !self {
		p.reg = f.c.Discovery.Register(i)
	}
	return p
}

// status tells what the probes found. One that registers itself tells that itself.
func (p *presence) status(s roadbed.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reg != nil && !p.left {
		p.reg.SetStatus(s)
	}
}

// override takes the instance out of service, or back, whatever its status.
func (p *presence) override(out bool) error {
	c := p.f.c.Discovery
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.f.pace.registryWait)
	defer cancel()
	if !out {
		return c.ClearOverride(ctx, p.inst.App, p.inst.ID)
	}
	return c.SetOverride(ctx, p.inst.App, p.inst.ID, roadbed.OutOfService)
}

// retire takes a running instance out of traffic before it is stopped. It reports whether the registry heard.
//
// One that registers itself may come back by its next heartbeat; SIGTERM comes sooner, upon which it takes itself out.
func (p *presence) retire() bool {
	return p.f.c.Discovery != nil && p.remove() == nil
}

// leave removes an instance whose process is gone. It returns at once; the removal is tried for a while, after which
// the registry notices by itself that nobody renews.
func (p *presence) leave() {
	if p.f.c.Discovery == nil {
		return
	}
	p.f.side.Go(func() {
		for wait := 50 * time.Millisecond; wait < 2*time.Second; wait *= 2 {
			if p.remove() == nil {
				return
			}
			select {
			case <-p.f.closing:
				return
			case <-time.After(wait):
			}
		}
	})
}

func (p *presence) remove() error {
	p.mu.Lock()
	p.left = true
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), p.f.pace.registryWait)
	defer cancel()
	if p.reg != nil {
		return p.reg.Cancel(ctx)
	}
	return p.f.c.Discovery.Remove(ctx, p.inst.App, p.inst.ID)
}
