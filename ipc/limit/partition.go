package limit

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// Partition is a part of the limit that some requests have for themselves when others press. While fewer than the limit
// are in flight in all, every request is let in; beyond, only those whose partition is not used up.
type Partition struct {
	Name  string
	Share float64       // of the limit, from 0 to 1; all shares together are at most 1
	Delay time.Duration // how long refused requests are held back, to slow down who sends them; at most 100 at once
}

const maxDelayed = 100

// part is a partition at work. It stays while its name does, so that what is in flight stays counted.
type part struct {
	busy  atomic.Int64
	limit atomic.Int64
	share atomic.Uint64 // float64 bits
	delay atomic.Int64
}

// partitions are all of a limiter. The map is never altered.
type partitions struct {
	named   map[string]*part
	unknown *part // for requests of no partition: its share is 0
}

func newPartitions(list []Partition, old *partitions) (*partitions, error) {
	p := &partitions{named: map[string]*part{}, unknown: new(part)}
	if old != nil {
		p.unknown = old.unknown
	}
	sum := 0.0
	for _, c := range list {
		switch {
		case !(c.Share >= 0 && c.Share <= 1):
			return nil, fmt.Errorf("partition %q with share %v makes no sense; use 0 to 1", c.Name, c.Share)
		case c.Delay < 0 || c.Delay > time.Minute:
			return nil, fmt.Errorf("partition %q with delay %s makes no sense; use 0 to 1m", c.Name, c.Delay)
		case c.Name == "" || p.named[c.Name] != nil:
			return nil, fmt.Errorf("partition %q makes no sense; each needs a name of its own", c.Name)
		}
		sum += c.Share
		p.named[c.Name] = new(part)
	}
	if sum > 1+1e-9 {
		return nil, fmt.Errorf("the partitions' shares add up to %v; together they are at most 1", sum)
	}
	for _, c := range list {
		if old != nil && old.named[c.Name] != nil {
			p.named[c.Name] = old.named[c.Name]
		}
		p.named[c.Name].share.Store(math.Float64bits(c.Share))
		p.named[c.Name].delay.Store(int64(c.Delay))
	}
	return p, nil
}

func (p *partitions) setLimit(n int) {
	for _, c := range p.named {
		c.limit.Store(int64(max(1, math.Ceil(float64(n)*math.Float64frombits(c.share.Load())))))
	}
}

// take counts one more of the partition unless it is used up.
func (c *part) take() bool {
	for {
		n := c.busy.Load()
		if n >= c.limit.Load() {
			return false
		}
		if c.busy.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (l *Limiter) part(name string) *part {
	p := l.parts.Load()
	if c := p.named[name]; c != nil {
		return c
	}
	return p.unknown
}

// AcquireIn is Acquire for a request of a partition. One of a name that is not configured has no share: it is let in
// while fewer than the limit are in flight.
// hot path: 0 allocs, BenchmarkAcquire
func (l *Limiter) AcquireIn(partition string, now int64) (Permit, bool) {
	c := l.part(partition)
	n := l.inflight.Add(1)
	if n <= l.limit.Load() {
		c.busy.Add(1)
	} else if !c.take() {
		l.inflight.Add(-1)
		return Permit{}, false
	}
	return Permit{start: now, inflight: n, part: c}, true
}

// EnterIn is Enter for a request of a partition.
func (l *Limiter) EnterIn(partition string, now int64) Permit {
	p := l.Enter(now)
	p.part = l.part(partition)
	p.part.busy.Add(1)
	return p
}

// HasShare reports whether the partition is not used up: whether a request of it is let in even beyond the limit.
func (l *Limiter) HasShare(partition string) bool {
	c := l.part(partition)
	return c.busy.Load() < c.limit.Load()
}

// HoldBack waits as long as the partition asks for before a refusal is told. It returns at once when a hundred are held
// back already, and when ctx ends.
func (l *Limiter) HoldBack(ctx context.Context, partition string) {
	d := time.Duration(l.part(partition).delay.Load())
	if d <= 0 {
		return
	}
	defer l.delayed.Add(-1)
	if l.delayed.Add(1) > maxDelayed {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
