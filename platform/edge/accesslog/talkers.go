package accesslog

import (
	"math"
	"slices"
	"time"
)

// talkers finds who asks most, in constant memory and time. It is the Space-Saving sketch of Metwally, Agrawal and
// El Abbadi (2005), set-associative: who does not fit into his set takes the place of its smallest, with its count. Counts
// fade: they are kept at the weight of a time ahead, so that none has to be touched when time passes ("forward decay",
// Cormode et al., 2009).
type talkers struct {
	sets   [64][8]talker
	base   int64 // by filter.Now, at which the weight is 1
	at     int64 // when weight was computed
	weight float64
}

type talker struct {
	hash           uint64
	count          float64 // weighted, as the two below
	bytes, failed  float64
	name           []byte
	counted, extra float64 // of count: what is known, and what was taken over
}

// fade is how long it takes for what happened to count half as much.
const fade = 30 * time.Second

// count counts a request of the one with that hash. It returns his entry if that is new and has no name yet.
func (t *talkers) count(hash uint64, now, bytes int64, failed bool) *talker {
	if now-t.at > int64(100*time.Millisecond) || t.weight == 0 {
		t.tick(now)
	}
	set := &t.sets[hash%uint64(len(t.sets))]
	least := &set[0]
	for i := range set {
		e := &set[i]
		if e.hash == hash && e.count > 0 {
			e.add(t.weight, bytes, failed)
			return nil
		}
		if e.count < least.count {
			least = e
		}
	}
	*least = talker{hash: hash, count: least.count, extra: least.count, name: least.name}
	least.add(t.weight, bytes, failed)
	return least
}

func (e *talker) add(weight float64, bytes int64, failed bool) {
	e.count += weight
	e.counted += weight
	e.bytes += weight * float64(bytes)
	if failed {
		e.failed += weight
	}
}

// tick computes the weight of now. Once that is large, everything is brought back to small numbers.
func (t *talkers) tick(now int64) {
	if t.weight == 0 {
		t.base = now
	}
	t.at = now
	t.weight = math.Exp2(float64(now-t.base) / float64(fade))
	if t.weight < 1<<40 {
		return
	}
	for i := range t.sets {
		for j := range t.sets[i] {
			e := &t.sets[i][j]
			e.count /= t.weight
			e.counted /= t.weight
			e.extra /= t.weight
			e.bytes /= t.weight
			e.failed /= t.weight
		}
	}
	t.base, t.weight = now, 1
}

// top returns the n that ask most, those left out of whom nothing is left.
func (t *talkers) top(n int, now int64) []Talker {
	t.tick(now)
	perSecond := math.Ln2 / fade.Seconds() / t.weight // the integral of what fades is the half-life over ln 2
	var list []Talker
	for i := range t.sets {
		for j := range t.sets[i] {
			e := &t.sets[i][j]
			if r := e.count * perSecond; r > 0.001 {
				list = append(list, Talker{Name: string(e.name), Requests: r, Bytes: e.bytes * perSecond, Failed: e.failed / e.counted})
			}
		}
	}
	slices.SortFunc(list, byRequests)
	return list[:min(n, len(list))]
}
