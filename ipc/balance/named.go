package balance

import (
	"maps"
	"slices"
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

// InGroup chooses an endpoint of that server group that was not tried: of two fit ones at random the cheaper, and if none is
// fit, one that is UP. It returns nil if there is none.
func (b *Balancer) InGroup(now int64, group string, tried []*Endpoint) *Endpoint {
	p := b.current(now)
	d := throw()
	var fit [2]*candidate // chosen evenly of all
	n := 0
	for i := range p.fit {
		c := &p.fit[i]
		if c.Group != group || slices.Contains(tried, c.Endpoint) {
			continue
		}
		switch n++; {
		case n <= len(fit):
			fit[n-1] = c
		default:
			if at := d.below(uint32(d.next()), n); at < len(fit) {
				fit[at] = c
			}
		}
	}
	switch {
	case n == 1:
		return fit[0].Endpoint
	case n > 1:
		one, _, _ := fit[0].cost(now, p.median)
		two, _, _ := fit[1].cost(now, p.median)
		if two < one {
			return fit[1].Endpoint
		}
		return fit[0].Endpoint
	}
	for _, ep := range p.all {
		if ep.Group == group && !slices.Contains(tried, ep) && ep.up() {
			return ep
		}
	}
	return nil
}

// maxStrangers is how many endpoints that are in no list keep their statistics.
const maxStrangers = 1000

// At returns the endpoint at addr, "host:port". If none of that address is listed it is one of its own, which gets nothing
// but what is asked for by its address.
func (b *Balancer) At(addr string) *Endpoint {
	for _, ep := range b.picks.Load().all {
		if ep.Addr == addr {
			return ep
		}
	}
	if all := b.strangers.Load(); all != nil {
		if ep := (*all)[addr]; ep != nil {
			return ep
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	next := map[string]*Endpoint{}
	if all := b.strangers.Load(); all != nil && len(*all) < maxStrangers {
		maps.Copy(next, *all)
	}
	ep := next[addr]
	if ep == nil {
		addr = strings.Clone(addr)
		ep = &Endpoint{lb: b, ID: addr, Addr: addr, weight: 1, status: roadbed.Up, since: noSince}
		next[addr] = ep
		b.strangers.Store(&next)
	}
	return ep
}

// Hashed chooses the endpoint for a key, which is the same one, whoever asks, as long as it is fit; when endpoints come or go
// only the keys change that they get or had. The second best is that of those that were not tried, and so on. It returns nil if
// none is fit. Weights and rules do not count.
// Source: Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous".
//
// hot path: 0 allocs, BenchmarkHashed
func (b *Balancer) Hashed(now int64, key uint64, tried []*Endpoint) *Endpoint {
	p := b.current(now)
	var best *Endpoint
	var most uint64
	for i := range p.fit {
		ep := p.fit[i].Endpoint
		if now < ep.refused.Load() || slices.Contains(tried, ep) {
			continue
		}
		d := dice(key ^ ep.hash)
		if score := d.next(); best == nil || score > most {
			best, most = ep, score
		}
	}
	return best
}

// hashOf is 64-bit FNV-1a.
func hashOf(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
