package origin

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// clients counts what clients have in flight to one app, in memory of one size: a client has a counter in each row, which others
// may share, and the smaller one says how much it has at most. Two clients share both once in 262,144 pairs; which ones, nobody
// can tell from outside.
type clients struct {
	seed maphash.Seed
	rows [2][512]atomic.Int32
}

// held is a client's counters while one of its requests is in flight; nil: it is not counted.
type held [2]*atomic.Int32

// enter counts one more request of who asks x, unless most are in flight already.
func (c *clients) enter(x *filter.Exchange, most int) (h held, ok bool) {
	key := x.ClientKey(c.seed)
	h = held{&c.rows[0][key%512], &c.rows[1][key>>32%512]}
	if n := min(h[0].Add(1), h[1].Add(1)); int(n) > most {
		h.leave()
		return held{}, false
	}
	return h, true
}

func (h held) leave() {
	for _, n := range h {
		if n != nil {
			n.Add(-1)
		}
	}
}
