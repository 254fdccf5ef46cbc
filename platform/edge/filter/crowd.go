package filter

import "sync"

// Crowd counts those for whom somebody waits to leave. Others may come while the last one leaves, which a sync.WaitGroup forbids. The
// zero value is nobody. It may be used by many goroutines.
type Crowd struct {
	mu   sync.Mutex
	n    int           // guarded by mu
	over chan struct{} // closed once n is 0; nil: nobody waits; guarded by mu
}

// Enter counts one more.
func (c *Crowd) Enter() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
}

// Leave counts one of those who have entered no more.
func (c *Crowd) Leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.n == 0 && c.over != nil {
		close(c.over)
		c.over = nil
	}
}

// Gone returns what is closed once there is nobody, or was for a moment.
func (c *Crowd) Gone() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	over := c.over
	if over == nil {
		over = make(chan struct{})
	}
	if c.n > 0 {
		c.over = over
	} else {
		close(over)
	}
	return over
}
