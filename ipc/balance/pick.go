package balance

import (
	"math/rand/v2"
	"slices"
)

// dice makes the few random numbers of one pick out of one: splitmix64, by Steele, Lea and Flood.
type dice uint64

func throw() dice { return dice(rand.Uint64()) }

func (d *dice) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// part returns a number from 0 to below 1.
func (d *dice) part() float64 { return float64(d.next()>>11) / (1 << 53) }

// below makes a number from 0 to below n out of 32 random bits.
func (*dice) below(r uint32, n int) int { return int(uint64(r) * uint64(n) >> 32) }

// current returns the picks, renewed if they are out of date. At most one caller renews; the others go on with what
// there is.
func (b *Balancer) current(now int64) *picks {
	p := b.picks.Load()
	if now >= p.expires {
		p = b.renewed(now)
	}
	return p
}

func (b *Balancer) renewed(now int64) *picks {
	if b.mu.TryLock() {
		if now >= b.picks.Load().expires {
			b.rebuild(now)
		}
		b.mu.Unlock()
	}
	return b.picks.Load()
}

// Pick chooses an endpoint for a first attempt, nil if there is none: two at random, of which the cheaper is likely to
// win, first in the own zone. Source: Mitzenmacher, "The power of two choices in randomized load balancing".
// hot path: 0 allocs, BenchmarkPick
func (b *Balancer) Pick(now int64) *Endpoint {
	p := b.current(now)
	if now >= b.trace.due.Load() {
		return b.traced(p, now)
	}
	return b.choose(p, now, nil)
}

// choose picks, and writes what it compared to t unless that is nil.
func (b *Balancer) choose(p *picks, now int64, t *Choice) *Endpoint {
	switch {
	case p.rules != nil:
		ep := p.rules.choose(now)
		if t != nil && ep != nil {
			t.compared(&candidate{ep, 1}, nil, now, p.median, "by "+string(p.rules.rule))
		}
		return ep
	case len(p.fit) == 0:
		return nil
	case len(p.local) == 0 || len(p.remote) == 0:
		d := throw()
		c, _, _ := cheaper(p.fit, &d, now, p.median, t)
		return c.Endpoint
	}
	d := throw()
	if p.share < 1 && d.part() >= p.share {
		list := p.remote
		if len(p.away) > 0 {
			list = p.away[0].list
			for at, i := d.part(), 0; i < len(p.away) && at >= p.away[i].upTo; i++ {
				list = p.away[i+1].list
			}
		}
		c, _, _ := cheaper(list, &d, now, p.median, t)
		return c.Endpoint
	}
	near, cost, bad := cheaper(p.local, &d, now, p.median, t)
	far := &p.remote[d.below(uint32(d.next()), len(p.remote))]
	farCost, _, farBad := far.cost(now, p.median)
	if !farBad && (bad || cost > spill*farCost) {
		if t != nil {
			t.compared(far, near, now, p.median, "the own zone is bad or costs more than twice as much")
		}
		return far.Endpoint
	}
	return near.Endpoint
}

// cheaper draws two and returns one of them, with odds of the inverse cubes of their costs; it draws again, twice at
// most, while what it got is bad. A strict choice of the cheaper would, where calls are few, starve whoever is a little
// slower than the best; the cube leaves 1 in 1,000 to a cost of ten times as much.
func cheaper(list []candidate, d *dice, now int64, median float64, t *Choice) (best *candidate, cost float64, bad bool) {
	if len(list) == 1 {
		c, _, bad := list[0].cost(now, median)
		if t != nil {
			t.compared(&list[0], nil, now, median, "it is the only one eligible")
		}
		return &list[0], c, bad
	}
	for range 3 {
		r := d.next()
		i, j := d.below(uint32(r), len(list)), d.below(uint32(r>>32), len(list)-1)
		if j >= i {
			j++
		}
		a, b := &list[i], &list[j]
		ca, oddsA, badA := a.cost(now, median)
		cb, oddsB, badB := b.cost(now, median)
		if d.part()*(oddsA+oddsB) < oddsA {
			a, b, ca, cb, badA = b, a, cb, ca, badB
		}
		if best == nil || ca < cost {
			best, cost, bad = a, ca, badA
			if t != nil {
				t.compared(a, b, now, median, whyDrawn(ca, cb))
			}
		}
		if !bad {
			break
		}
	}
	return best, cost, bad
}

func whyDrawn(won, lost float64) string {
	if won <= lost {
		return "it costs less"
	}
	return "it costs more, but the dearer of two gets some as well, by the inverse cubes of the costs"
}

// Another chooses an endpoint for a further attempt: the cheapest that was not tried, live ones first. If all were
// tried it returns nil, unless again is set; then one that was tried and is not known to be dead may do.
func (b *Balancer) Another(now int64, tried []*Endpoint, again bool) *Endpoint {
	p := b.current(now)
	if p.rules != nil {
		for range 3 { // the rule decides as long as it comes up with others
			if ep := p.rules.choose(now); ep == nil {
				break
			} else if !slices.Contains(tried, ep) {
				return ep
			}
		}
	}
	var best *Endpoint
	var least float64
	consider := func(ep *Endpoint) {
		if slices.Contains(tried, ep) || now < ep.refused.Load() {
			return
		}
		if c, _ := ep.cost(now, p.median); best == nil || c < least {
			best, least = ep, c
		}
	}
	for i := range p.fit {
		consider(p.fit[i].Endpoint)
	}
	if best != nil {
		return best
	}
	for _, ep := range p.all {
		if ep.up() {
			consider(ep)
		}
	}
	if best == nil && again && len(p.fit) > 0 {
		d := throw()
		if c, _, _ := cheaper(p.fit, &d, now, p.median, nil); now >= c.refused.Load() {
			return c.Endpoint
		}
	}
	return best
}

// Apart chooses an endpoint for a second attempt beside one that runs at from: the cheapest of the eligible ones in other
// zones, and without any the cheapest of the others. It returns nil if there is none, or if too few are healthy.
func (b *Balancer) Apart(now int64, from *Endpoint) *Endpoint {
	p := b.current(now)
	if p.panic {
		return nil
	}
	var best, near *Endpoint
	var least, leastNear float64
	for i := range p.fit {
		ep := p.fit[i].Endpoint
		if ep == from || now < ep.refused.Load() {
			continue
		}
		c, _, _ := p.fit[i].cost(now, p.median)
		if ep.Zone != from.Zone {
			if best == nil || c < least {
				best, least = ep, c
			}
		} else if near == nil || c < leastNear {
			near, leastNear = ep, c
		}
	}
	if best == nil {
		return near
	}
	return best
}
