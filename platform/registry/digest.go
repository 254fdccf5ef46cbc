package registry

import (
	"sync/atomic"
	"time"
)

// Registries find out where they differ by comparing digests of what they hold: instances fall into buckets by their
// names, and the digest of a bucket is the exclusive or of one number for each instance in it (a Merkle tree of two
// levels). An instance whose lease has run out counts for nothing, so that silence spreads to nobody.

const buckets = 1024

// bucketOf is the bucket of an instance with such a hash64.
func bucketOf(hash uint64) int { return int(hash >> 48 % buckets) }

// digests are those of a registry's buckets at one moment; 0 of one with nothing in it.
type digests [buckets]uint64

// each calls fn for every instance with a lease that runs, a few hundred at a time under mu.
func (s *state) each(fn func(*entry)) {
	now := s.now()
	s.mu.RLock()
	apps := make([]*app, 0, len(s.apps))
	for _, a := range s.apps {
		apps = append(apps, a)
	}
	s.mu.RUnlock()
	for _, a := range apps {
		s.mu.RLock()
		for _, e := range a.order {
			if !e.lease.expired(now) {
				fn(e)
			}
		}
		s.mu.RUnlock()
	}
}

func (s *state) digests() *digests {
	d := new(digests)
	s.each(func(e *entry) {
		d[bucketOf(e.hash)] ^= e.share()
	})
	return d
}

// share is what an instance contributes to the digest of its bucket. The caller holds the state's mu.
func (e *entry) share() uint64 {
	if n := atomic.LoadUint64(&e.sum); n != 0 {
		return n
	}
	r := e.rec
	n := max(mix(e.hash^mix(uint64(r.dirty)^r.digest())+uint64(r.override)), 1)
	atomic.StoreUint64(&e.sum, n)
	return n
}

// held is what is in one bucket of a registry.
type held struct {
	there []*entry
	ended []ending
}

// ending is an instance that was cancelled.
type ending struct {
	key
	dirty int64
}

// inBuckets returns what is in the buckets for which want is true.
func (s *state) inBuckets(want func(int) bool) map[int]*held {
	m := make(map[int]*held)
	in := func(hash uint64) *held {
		b := bucketOf(hash)
		if !want(b) {
			return nil
		}
		if m[b] == nil {
			m[b] = &held{}
		}
		return m[b]
	}
	s.each(func(e *entry) {
		if h := in(e.hash); h != nil {
			h.there = append(h.there, e)
		}
	})
	for _, t := range s.endings() {
		if h := in(t.hash64()); h != nil {
			h.ended = append(h.ended, t)
		}
	}
	return m
}

// endings lists the cancelled instances that are remembered.
func (s *state) endings() []ending {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]ending, 0, len(s.tombs))
	for k, t := range s.tombs {
		list = append(list, ending{k, t.dirty})
	}
	return list
}

// summary is what a registry says of an instance for another to compare.
type summary struct {
	key
	dirty   int64
	stamp   uint64
	digest  uint64
	verdict verdict
	age     time.Duration // since it was last heard of
}

// summary returns that of e. The caller holds mu.
func (s *state) summary(e *entry, now int64) summary {
	r := e.rec
	return summary{
		key: r.key(), dirty: r.dirty, stamp: r.stamp, digest: r.digest(), verdict: s.verdict(r.key()),
		age: max(time.Duration(now-e.lease.renewed.Load()), 0),
	}
}

// recordNewer reports whether the record of a is to replace that of b.
func (a *summary) recordNewer(b *summary) bool {
	switch {
	case a.dirty != b.dirty:
		return later(a.dirty, b.dirty)
	case a.digest == b.digest:
		return false
	case a.stamp != b.stamp:
		return a.stamp > b.stamp
	}
	return a.digest > b.digest
}

// fresher is by how much later an instance must have been heard of elsewhere for that to be worth telling.
const fresher = 2 * time.Second

// difference is what two registries have to tell each other about an instance.
type difference struct {
	tell  bool // what we know
	heard bool // that we heard of it
	ask   bool // what they know
	end   bool // that it was cancelled
}

// compare finds out how what we know of an instance differs from what they say. Without a lease that runs it is not
// there for either; ended is the version of it that we know to be cancelled, or 0.
func compare(ours, theirs *summary, ended int64) (d difference) {
	switch {
	case theirs != nil && ended != 0 && !later(theirs.dirty, ended):
		d.end = true
	case ours == nil:
		d.ask = theirs != nil
	case theirs == nil:
		d.tell = true
	default:
		d.tell = ours.recordNewer(theirs) || ours.verdict.newer(theirs.verdict)
		d.ask = theirs.recordNewer(ours) || theirs.verdict.newer(ours.verdict) || theirs.age+fresher < ours.age
		d.heard = !d.tell && ours.age+fresher < theirs.age
	}
	return d
}
