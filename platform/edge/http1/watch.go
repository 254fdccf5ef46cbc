package http1

import (
	"errors"
	"time"
)

// watchEvery is how often the watch goes round. What it has to find out is found out after one to two rounds.
const watchEvery = 500 * time.Millisecond

// watch looks at connections that have not moved since it came by last, for the end of the client's side, which nothing else
// shows: one whose request is being served is not read, and one that waits was perhaps told of it together with the last
// request. A client that is gone, or has closed its side, as most of those do, ends what is asked of origins for it. It ends
// when there are no connections, and with the server.
func (s *Server) watch() {
	t := time.NewTicker(s.every)
	defer t.Stop()
	var still []*conn
	for {
		select {
		case <-t.C:
		case <-s.quit:
			return
		}
		s.mu.Lock()
		if len(s.conns) == 0 {
			s.watching = false
			s.mu.Unlock()
			return
		}
		for c := range s.conns {
			switch v := c.state.Load(); {
			case v != c.seen:
				c.seen = v
			case v&1 != 0 && v != ending || v != c.looked:
				c.looked = v
				still = append(still, c)
			}
		}
		s.mu.Unlock()
		for i, c := range still {
			still[i] = nil
			if !c.ended() {
				continue
			}
			v := c.state.Load()
			switch {
			case v != c.seen: // it has moved on
			case v&1 != 0:
				s.gone(c)
			case c.state.CompareAndSwap(v, ending):
				c.sock.c.Close() //nolint:errcheck // it waits for a request that will not come
			}
		}
		still = still[:0]
	}
}

// unwatch leaves a connection alone that was taken over: half of it may well be closed.
func (s *Server) unwatch(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[c] {
		delete(s.conns, c)
		s.taken[c] = true
	}
}

// ended reports whether the other side has closed the connection, or its half of it, and nothing came that was not read.
func (k *sock) ended() bool {
	raw := k.raw
	if raw == nil {
		if raw = rawConnUnder(k.c); raw == nil {
			return false
		}
	}
	var p [1]byte
	n, err := 0, error(nil)
	if raw.Control(func(fd uintptr) { n, err = sysRecv(int(fd), p[:], true) }) != nil {
		return false // closed on this side
	}
	return n == 0 && !errors.Is(err, errAgain)
}
