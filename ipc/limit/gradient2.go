package limit

import (
	"fmt"
	"time"
)

// Gradient2Config describes a [Gradient2]. A zero field means the default.
type Gradient2Config struct {
	Initial, Min, Max int     // 20, 20, 200
	Smoothing         float64 // 0.2, from above 0 to 1: how much of each step is taken
	Queue             int     // 4: how much the limit may grow at each update
	Tolerance         float64 // 1.5, at least 1: how many times as long as usual requests may take
	Long              int     // 600: how many updates the usual is the mean of

	// Original lets the limit grow by Queue also while requests take longer than tolerated, as concurrency-limits does.
	// Under a mild overload that lasts, the limit then creeps up without end.
	Original bool
}

// Gradient2 compares the time of requests with its long mean and lowers the limit as they part. It suits clients and
// batch work, whose requests take very different times.
// Source: Netflix's concurrency-limits.
type Gradient2 struct {
	c        Gradient2Config
	limit    float64
	long     float64 // nanoseconds
	sum      float64 // of the first warmUp samples
	counted  int
	longStep float64
}

const warmUp = 10

// NewGradient2 makes a Gradient2. It fails if the configuration makes no sense.
func NewGradient2(c Gradient2Config) (*Gradient2, error) {
	if c.Initial == 0 { // bounds that are given alone move the others with them
		c.Initial = max(c.Min, min(20, or(c.Max, 200)))
	}
	if err := bounds("Gradient2", &c.Initial, &c.Min, &c.Max, 20, min(20, c.Initial), max(200, c.Initial)); err != nil {
		return nil, err
	}
	if err := ratio("Gradient2", "smoothing", &c.Smoothing, 0.2, 0.01, 1); err != nil {
		return nil, err
	}
	if err := ratio("Gradient2", "tolerance", &c.Tolerance, 1.5, 1, 100); err != nil {
		return nil, err
	}
	c.Queue, c.Long = or(c.Queue, 4), or(c.Long, 600)
	if c.Queue < 0 || c.Long < 1 {
		return nil, fmt.Errorf("limit: Gradient2 with queue %d and a long mean of %d makes no sense; use at least 0 and 1", c.Queue, c.Long)
	}
	return &Gradient2{c: c, limit: float64(c.Initial), longStep: 2 / float64(c.Long+1)}, nil
}

// Limit returns the limit.
func (g *Gradient2) Limit() int { return int(g.limit) }

// Update moves the limit. That something was dropped does not matter to it.
func (g *Gradient2) Update(rtt time.Duration, inFlight int, _ bool) int {
	if rtt <= 0 {
		return int(g.limit)
	}
	short := float64(rtt)
	if g.counted < warmUp {
		g.counted++
		g.sum += short
		g.long = g.sum / float64(g.counted)
	} else {
		g.long = float64(g.long*(1-g.longStep)) + float64(short*g.longStep) // the conversions forbid to fuse, which rounds otherwise
	}
	long := g.long
	if long/short > 2 { // an overload has passed
		g.long *= 0.95
	}
	if float64(inFlight) < g.limit/2 {
		return int(g.limit) // who does not use the limit learns nothing about it
	}
	gradient := max(0.5, min(1, g.c.Tolerance*long/short))
	next := g.limit * gradient
	if g.c.Original || gradient == 1 {
		next = float64(next) + float64(g.c.Queue)
	}
	next = float64(g.limit*(1-g.c.Smoothing)) + float64(next*g.c.Smoothing)
	g.limit = max(float64(g.c.Min), min(float64(g.c.Max), next))
	return int(g.limit)
}
