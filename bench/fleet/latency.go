//go:build linux

package fleet

import (
	"math/bits"
	"time"
)

// Latencies counts durations in buckets that are at most 1.6 % wide, up to about an hour.
type Latencies struct {
	n    int
	most time.Duration
	in   [64 * 42]uint32
}

// Add counts d.
func (l *Latencies) Add(d time.Duration) {
	l.n++
	l.most = max(l.most, d)
	l.in[bucket(d)]++
}

// Merge adds what o counted.
func (l *Latencies) Merge(o *Latencies) {
	l.n += o.n
	l.most = max(l.most, o.most)
	for i, c := range o.in {
		l.in[i] += c
	}
}

// bucket is d itself up to 64 ns, then 64 buckets for each doubling.
func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < 64 {
		return int(v)
	}
	shift := bits.Len64(v) - 7
	return min(shift*64+int(v>>shift), len(Latencies{}.in)-1)
}

// Count is how many durations were added.
func (l *Latencies) Count() int { return l.n }

// Max is the longest.
func (l *Latencies) Max() time.Duration { return l.most }

// At returns the duration below which a share p of all lie, at most 1.6 % too much; 0 if there are none.
func (l *Latencies) At(p float64) time.Duration {
	if l.n == 0 {
		return 0
	}
	rank := int(p * float64(l.n))
	for i, c := range l.in {
		if rank -= int(c); rank < 0 {
			return min(upper(i), l.most)
		}
	}
	return l.most
}

// upper is the end of a bucket.
func upper(i int) time.Duration {
	if i < 64 {
		return time.Duration(i)
	}
	shift := i/64 - 1
	return time.Duration((uint64(i-shift*64)+1)<<shift) - 1
}
