package fleet

import "time"

// The pace of self-healing. A slot's first restart is immediate; each further one waits twice as long, until an
// instance was well for a while.
const (
	backoffFirst = time.Second
	backoffMax   = 30 * time.Second
	backoffReset = 60 * time.Second // well for this long: the next loss is a first one again

	// crashLoopAt losses in a row make a crash loop.
	crashLoopAt = 3
)

// backoff counts the losses of one slot. The zero value has seen none.
type backoff struct {
	losses int // in a row, none of them after backoffReset of health
}

// lost notes a loss after the instance had been healthy for d, and returns how long to wait before the next start.
func (b *backoff) lost(d time.Duration) time.Duration {
	if d >= backoffReset {
		b.losses = 0
	}
	b.losses++
	if b.losses == 1 {
		return 0
	}
	wait := backoffFirst
	for range b.losses - 2 {
		if wait *= 2; wait >= backoffMax {
			return backoffMax
		}
	}
	return wait
}

// looping reports whether the slot is in a crash loop.
func (b *backoff) looping() bool { return b.losses >= crashLoopAt }

// worthTelling reports whether the newest loss deserves an entry in the change log: the first, the one that makes a
// crash loop, then each tenfold. A crash loop of a day makes six entries, not thousands.
func (b *backoff) worthTelling() bool {
	if b.losses == 1 || b.losses == crashLoopAt {
		return true
	}
	n := b.losses
	for n >= 10 && n%10 == 0 {
		n /= 10
	}
	return n == 1 && b.losses > 1
}
