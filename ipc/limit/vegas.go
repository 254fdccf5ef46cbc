package limit

import (
	"math"
	"math/rand/v2"
	"time"
)

// VegasConfig describes a [Vegas]. A zero field means the default.
type VegasConfig struct {
	Initial, Min, Max int     // 20, 1, 1000
	Smoothing         float64 // 1, from above 0: how much of each step is taken

	// Probe says how often the time of an unloaded request is measured anew: every Probe times the limit updates, or
	// somewhat earlier by chance; 30, negative is never.
	Probe int
}

// Vegas estimates from the time that requests take beyond the time of an unloaded one how many of them wait, and keeps
// that number between three and six for each power of ten of the limit. It suits servers.
// Source: TCP Vegas, Brakmo and Peterson 1994.
type Vegas struct {
	c        VegasConfig
	limit    float64
	unloaded time.Duration // the fastest sample since the last probe
	updates  int           // since the last probe
	jitter   float64
}

// NewVegas makes a Vegas. It fails if the configuration makes no sense.
func NewVegas(c VegasConfig) (*Vegas, error) {
	if c.Initial == 0 { // bounds that are given alone move the others with them
		c.Initial = max(c.Min, min(20, or(c.Max, 1000)))
	}
	if err := bounds("Vegas", &c.Initial, &c.Min, &c.Max, 20, 1, max(1000, c.Initial)); err != nil {
		return nil, err
	}
	if err := ratio("Vegas", "smoothing", &c.Smoothing, 1, 0.01, 1); err != nil {
		return nil, err
	}
	c.Probe = or(c.Probe, 30)
	v := &Vegas{c: c, limit: float64(c.Initial)}
	v.draw()
	return v, nil
}

func (v *Vegas) draw() { v.jitter = 0.5 + rand.Float64()/2 }

// Limit returns the limit.
func (v *Vegas) Limit() int { return int(v.limit) }

// Update moves the limit.
func (v *Vegas) Update(rtt time.Duration, inFlight int, dropped bool) int {
	if rtt <= 0 {
		return int(v.limit)
	}
	v.updates++
	if v.c.Probe > 0 && v.jitter*float64(v.c.Probe)*v.limit <= float64(v.updates) {
		v.draw()
		v.updates = 0
		v.unloaded = rtt
		return int(v.limit)
	}
	if v.unloaded == 0 || rtt < v.unloaded {
		v.unloaded = rtt
		return int(v.limit)
	}
	lg := decades(int(v.limit))
	step := v.limit
	if waiting := int(math.Ceil(v.limit * (1 - float64(v.unloaded)/float64(rtt)))); dropped {
		step -= float64(lg)
	} else if float64(2*inFlight) < v.limit {
		return int(v.limit) // who does not use the limit learns nothing about it
	} else if waiting <= lg {
		step += float64(6 * lg)
	} else if waiting < 3*lg {
		step += float64(lg)
	} else if waiting > 6*lg {
		step -= float64(lg)
	} else {
		return int(v.limit)
	}
	step = max(float64(v.c.Min), min(float64(v.c.Max), step))
	v.limit = float64((1-v.c.Smoothing)*v.limit) + float64(v.c.Smoothing*step) // the conversions forbid to fuse, which rounds otherwise
	return int(v.limit)
}

// decades returns the logarithm of n to the base 10, rounded down, at least 1.
func decades(n int) (d int) {
	for d = 1; n >= 100; n /= 10 {
		d++
	}
	return d
}
