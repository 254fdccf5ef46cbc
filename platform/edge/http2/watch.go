package http2

import (
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
)

const (
	watchEvery  = 500 * time.Millisecond // what the watch has to find out is found out within so much more
	pingAfter   = time.Minute            // of silence while somebody waits for an answer
	pongWithin  = 15 * time.Second
	restAfter   = 5 * time.Second // without a request a connection needs no buffers
	partWithin  = time.Second     // a round trip takes no longer
	leaveWithin = 2 * time.Second // a client takes to close a connection that it was told the end of
)

// watch looks at all connections for what takes too long. It ends when there are none, and with the server.
func (s *Server) watch() {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	for rounds := 0; ; rounds++ {
		select {
		case <-t.C:
		case <-s.quit:
			return
		}
		s.mu.Lock()
		if len(s.conns) == 0 {
			s.watching = false
			s.mu.Unlock()
			s.crew.rest()
			return
		}
		s.mu.Unlock()
		now, set := filter.Now(), s.settings.Load()
		for _, c := range s.all() {
			c.look(now, set)
		}
		if rounds%20 == 0 {
			s.crew.trim()
		}
	}
}

// after reports whether more than d has passed since; 0 is no time, and no limit.
func after(now, since int64, d time.Duration) bool {
	return since != 0 && d > 0 && now-since > int64(d)
}

// look ends what takes too long on one connection.
func (c *conn) look(now int64, set *http1.Settings) {
	c.mu.Lock()
	var end error
	switch {
	case !c.settled && after(now, c.started, set.FirstByte):
		end = errIdle
	case after(now, c.headSince, set.Head):
		end = errHead
	case c.quitting:
		if after(now, c.saidAll, leaveWithin) {
			end = errDrained
		}
	case c.parts == parting && after(now, c.partedAt, partWithin):
		c.leave()
	case c.pinged != 0:
		if after(now, c.pinged, pongWithin) {
			end = errSilent
		}
	case len(c.opened) > 0 && after(now, c.moved, pingAfter):
		c.pinged = now
		c.out = appendPing(c.out, 0, present[:])
	case len(c.opened) == 0 && c.settled && c.parts == staying && after(now, c.moved, set.Idle):
		c.s.idled.Inc()
		c.leave()
	case c.parts == staying && c.expires != 0 && now > c.expires:
		c.goAway()
	}
	if end != nil {
		c.fail(end)
		c.mu.Unlock()
		go c.nc.Close() //nolint:errcheck // its reader ends by it
		return
	}
	for _, st := range c.opened {
		switch {
		case st.since != 0 && c.credit <= 0: // it is not the client that keeps it waiting
			st.since = now
		case after(now, st.since, set.BodyIdle) && !st.extended && !st.patient && !st.begun:
			st.refuse(http1.SlowBody)
		case after(now, st.stuck, slowWindow):
			st.slow = true
			st.cond.Broadcast()
		}
	}
	if len(c.opened) == 0 && len(c.out) == 0 && !c.writing && after(now, c.moved, restAfter) {
		c.out, c.spare = nil, nil
	}
	if len(c.out) > 0 && !c.writing {
		c.writeAside()
	}
	c.mu.Unlock()
}
