package limit

import (
	"fmt"
	"time"
)

// AIMDConfig describes an [AIMD]. A zero field means the default.
type AIMDConfig struct {
	Initial, Min, Max int           // 20, 20, 200
	Backoff           float64       // 0.9, from 0.5 to below 1: what is left of the limit after a drop
	Timeout           time.Duration // 5 s: requests that take longer count as dropped
}

// AIMD raises the limit by one while half of it or more is in use, and lowers it by a tenth when a request was dropped.
// It suits clients, who see that a callee has too much by its refusals. Source: Chiu and Jain, 1989.
type AIMD struct {
	c     AIMDConfig
	limit int
}

// NewAIMD makes an AIMD. It fails if the configuration makes no sense.
func NewAIMD(c AIMDConfig) (*AIMD, error) {
	if c.Initial == 0 { // bounds that are given alone move the others with them
		c.Initial = max(c.Min, min(20, or(c.Max, 200)))
	}
	if err := bounds("AIMD", &c.Initial, &c.Min, &c.Max, 20, min(20, c.Initial), max(200, c.Initial)); err != nil {
		return nil, err
	}
	if err := ratio("AIMD", "backoff", &c.Backoff, 0.9, 0.5, 0.999); err != nil {
		return nil, err
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	if c.Timeout < 0 {
		return nil, fmt.Errorf("limit: AIMD with timeout %s makes no sense; use more than 0", c.Timeout)
	}
	return &AIMD{c, c.Initial}, nil
}

// Limit returns the limit.
func (a *AIMD) Limit() int { return a.limit }

// Update moves the limit.
func (a *AIMD) Update(rtt time.Duration, inFlight int, dropped bool) int {
	switch {
	case dropped || rtt > a.c.Timeout:
		a.limit = int(float64(a.limit) * a.c.Backoff)
	case 2*inFlight >= a.limit:
		a.limit++
	}
	a.limit = min(a.c.Max, max(a.c.Min, a.limit))
	return a.limit
}

func or(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}
