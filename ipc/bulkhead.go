package ipc

import (
	"math"
	"sync/atomic"
)

// bulkhead counts the calls in flight of a command, together with its shards, and lets through no more than allowed.
// So that cores do not fight for one number, half of the limit is given to the shards in equal parts. Who finds the
// part of its shard used up takes from the rest, and then from what others have left.
type bulkhead struct {
	rest     atomic.Int64 // calls that no shard let through
	restPeak atomic.Int64 // the most of them in the present bucket of the dashboards' window
	_        [64]byte
	peak     atomic.Int64 // the most calls in flight in that bucket, as seen at each new peak of a shard and each tick
}

const unlimited = math.MaxInt64 // a pool bounds the calls; they are all in the rest, so that a scope can give them back

// enterBulkhead takes a place for a call; limit is how many there are.
// hot path: 0 allocs, BenchmarkAllowed
func (c *Command) enterBulkhead(p *permit, set *settings, limit int64) bool {
	if limit != unlimited && set.part > 0 {
		s := c.shard()
		if n := s.inflight.Add(1); n <= set.part {
			if n > s.peak.Load() { // it shares a line with inflight, which is ours just now
				s.peak.Store(n)
				c.raisePeak()
			}
			p.shard = s
			return true
		}
		s.inflight.Add(-1)
	}
	b := &c.inflight
	if n := b.rest.Add(1); limit == unlimited || n <= limit-int64(set.part)*int64(len(c.shards)) {
		if n > b.restPeak.Load() {
			b.restPeak.Store(n)
			c.raisePeak()
		}
		return true
	}
	b.rest.Add(-1)
	for i := range c.shards {
		s := &c.shards[i]
		if s.inflight.Load() >= set.part {
			continue
		}
		if s.inflight.Add(1) <= set.part {
			p.shard = s
			return true
		}
		s.inflight.Add(-1)
	}
	return false
}

// release gives the place back.
func (c *Command) release(p *permit) {
	if p.shard != nil {
		p.shard.inflight.Add(-1)
		return
	}
	c.inflight.rest.Add(-1)
}

// inFlight returns how many calls are in flight.
func (c *Command) inFlight() int64 {
	n := c.inflight.rest.Load()
	for i := range c.shards {
		n += int64(c.shards[i].inflight.Load())
	}
	return n
}

func (c *Command) raisePeak() {
	n := c.inFlight()
	for old := c.inflight.peak.Load(); n > old && !c.inflight.peak.CompareAndSwap(old, n); old = c.inflight.peak.Load() {
	}
}

// newPeak returns the peak of the bucket that ends now and begins the next.
func (c *Command) newPeak() int64 {
	for i := range c.shards {
		s := &c.shards[i]
		s.peak.Store(s.inflight.Load())
	}
	c.inflight.restPeak.Store(c.inflight.rest.Load())
	return c.inflight.peak.Swap(c.inFlight())
}
