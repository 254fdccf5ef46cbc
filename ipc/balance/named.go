package balance

import (
	"strings"

	"github.com/roadbed/roadbed"
)

// Named returns the endpoint of the instance of that id, for who wants no other: it must be UP unless force is set. If it
// cannot be had, why says so.
func (b *Balancer) Named(id string, force bool) (ep *Endpoint, why string) {
	for _, ep := range b.picks.Load().all {
		if ep.ID != id {
			continue
		}
		if !force && !ep.up() {
			ep.mu.Lock()
			status := ep.status
			ep.mu.Unlock()
			return nil, "instance " + id + " is " + string(status) + ", not " + string(roadbed.Up) + "; ask for it by force if that is meant"
		}
		return ep, ""
	}
	return nil, "instance " + id + " is not listed"
}

// At returns the endpoint at addr, "host:port". If none of that address is listed it is a new one, whose statistics nobody
// else sees.
func (b *Balancer) At(addr string) *Endpoint {
	for _, ep := range b.picks.Load().all {
		if ep.Addr == addr {
			return ep
		}
	}
	addr = strings.Clone(addr)
	ep := &Endpoint{lb: b, ID: addr, Addr: addr, weight: 1, status: roadbed.Up, since: noSince}
	return ep
}
