package balance

import (
	"math"
	"slices"
)

// routeZones divides the fit endpoints by zone, if the own one has any. Callers are taken to be spread evenly over the
// zones, so each zone's endpoints should serve one zone's callers. Where there are fewer endpoints than that, part of
// the traffic leaves, to the zones that have more, in proportion to what they have more. Source: Envoy's zone aware
// routing.
func (b *Balancer) routeZones(p *picks) {
	if b.zone == "" {
		return
	}
	var zones []away
	for _, c := range p.fit {
		if c.Zone == b.zone {
			p.local = append(p.local, c)
			continue
		}
		p.remote = append(p.remote, c)
		i := slices.IndexFunc(zones, func(z away) bool { return z.list[0].Zone == c.Zone })
		if i < 0 {
			zones = append(zones, away{})
			i = len(zones) - 1
		}
		zones[i].list = append(zones[i].list, c)
	}
	if len(p.local) == 0 || len(p.remote) == 0 {
		p.local, p.remote = nil, nil
		return
	}
	fair := float64(len(p.fit)) / float64(len(zones)+1) // endpoints per zone if they were spread evenly
	p.share = min(1, float64(len(p.local))/fair)
	spare := 0.0
	for _, z := range zones {
		spare += max(0, float64(len(z.list))-fair)
	}
	if p.share == 1 || spare == 0 {
		return
	}
	sum := 0.0
	for _, z := range zones {
		if more := float64(len(z.list)) - fair; more > 0 {
			sum += more / spare
			p.away = append(p.away, away{z.list, sum})
		}
	}
	p.away[len(p.away)-1].upTo = 1
}

// subset returns the endpoints this caller uses, and how much of each; all and nil if it uses all. Endpoints lie on a
// ring in an order that every caller knows; a caller uses an arc of it that begins at its ordinal and is long enough
// for SubsetSize endpoints. Arcs are whole multiples of the distance between callers, so that every point of the ring
// is covered by the same number of them, and an endpoint on the rim of an arc counts for the part inside. Source:
// deterministic aperture, as in Twitter's Finagle. The caller holds mu.
func (b *Balancer) subset(s *Settings) (list []*Endpoint, shares []float64) {
	n := len(b.all)
	if s.SubsetSize == 0 || s.SubsetSize >= n || b.callers < 2 {
		return b.all, nil
	}
	ring := slices.Clone(b.all)
	slices.SortFunc(ring, func(a, b *Endpoint) int {
		if x, y := hash(a.ID), hash(b.ID); x != y {
			if x < y {
				return -1
			}
			return 1
		}
		return slices.Compare([]byte(a.Addr), []byte(b.Addr))
	})
	step := float64(n) / float64(b.callers) // endpoints per caller
	arc := min(math.Ceil(float64(s.SubsetSize)/step-1e-9)*step, float64(n))
	if arc >= float64(n) {
		return b.all, nil
	}
	from := float64(b.ordinal) * step
	for i := int(math.Floor(from)); float64(i) < from+arc-1e-9; i++ {
		inside := min(float64(i)+1, from+arc) - max(float64(i), from)
		if inside > 1e-9 {
			list = append(list, ring[i%n])
			shares = append(shares, inside)
		}
	}
	return list, shares
}

// hash is FNV-1a, mixed so that ids which differ at their ends lie far apart.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	return h ^ h>>33
}
