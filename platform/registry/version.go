package registry

import (
	"sync/atomic"
	"time"
)

// Registries that share what they know must come to the same, in whatever order they hear of things. Of an instance
// there are two things to know, and each has a version by which the newer of two is told:
//
//   - Its record. The instance versions it itself, by the time of its last change. Where registries made something else
//     of the same version, as when metadata is added or an override ends, a stamp decides.
//   - The decision of an operator about it, or that the last one ended. A stamp is its version.
//
// The status that counts follows from both, so that registries which agree on them agree on it. An instance that was
// cancelled is remembered for a while with the version that ended, so that old news of it does not bring it back.

// stamps is a hybrid logical clock (Kulkarni et al., 2014): its stamps are milliseconds since 1970 and a count below
// them, later than any stamp that was given or seen before, whatever the wall clocks of the registries show.
type stamps struct{ last atomic.Uint64 }

const stampBits = 16 // of a stamp that count

func stampOf(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) << stampBits }

// next returns a stamp that is later than all others that are known here.
func (c *stamps) next() uint64 {
	wall := stampOf(time.Now())
	for {
		last := c.last.Load()
		if n := max(last+1, wall); c.last.CompareAndSwap(last, n) {
			return n
		}
	}
}

// see takes note of another registry's stamp, and returns it. One of more than a day ahead is a lie or of a broken
// clock: it is taken for a day, so that it cannot win for ever.
func (c *stamps) see(stamp uint64) uint64 {
	stamp = min(stamp, stampOf(time.Now().Add(farAhead)))
	for {
		last := c.last.Load()
		if stamp <= last || c.last.CompareAndSwap(last, stamp) {
			return stamp
		}
	}
}

// farAhead is how far ahead of this registry's clock a version may be and be believed.
const farAhead = 24 * time.Hour

// later reports whether version a of a record is newer than b. Versions are ms since 1970 by the clock of the
// instance, which may be off; one that claims to be of a time far ahead is older than all that do not, or it could
// never be replaced.
func later(a, b int64) bool {
	if a <= b && b < nearEnough {
		return false // as nearly always, whatever the time is
	}
	limit := time.Now().Add(farAhead).UnixMilli()
	if (a > limit) != (b > limit) {
		return b > limit
	}
	return a > b
}

// nearEnough is a time, in ms since 1970, that no clock is a day before.
const nearEnough = int64(1_600_000_000_000)

// newer reports whether r is to replace o.
func (r *record) newer(o *record) bool {
	switch {
	case r.dirty != o.dirty:
		return later(r.dirty, o.dirty)
	case r.digest() == o.digest():
		return false
	case r.stamp != o.stamp:
		return r.stamp > o.stamp
	}
	return r.digest() > o.digest()
}

// tomb is what is remembered of an instance that was cancelled.
type tomb struct {
	dirty int64 // version that ended
	at    int64 // ns since the state's epoch
	keep  int64 // ns
}

// tombLeases is how many lease durations a cancelled instance is remembered, and tombOutlives how long at most when
// there are peers that were not reached since.
const (
	tombLeases   = 2
	tombOutlives = time.Hour
)

// bury remembers that version dirty of an instance, whose lease was so long, was cancelled. The caller holds mu.
func (s *state) bury(k key, dirty int64, lease time.Duration) {
	if t, ok := s.tombs[k]; ok && later(t.dirty, dirty) {
		return
	}
	s.tombs[k] = tomb{dirty: dirty, at: s.now(), keep: tombLeases * int64(lease)}
}

// forgetTombs forgets cancelled instances of which no registry can have old news any more.
func (s *state) forgetTombs(now int64) {
	all := s.peers.heardSince()
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, t := range s.tombs {
		if age := now - t.at; age > t.keep && t.at <= all || age > int64(tombOutlives) {
			delete(s.tombs, k)
		}
	}
}

// verdict is what is decided about an instance, or that the last decision about it ended.
type verdict struct {
	stamp  uint64 // 0 if nothing was ever decided
	set    bool
	status status // of set ones
}

func (v verdict) newer(o verdict) bool {
	switch {
	case v.stamp != o.stamp:
		return v.stamp > o.stamp
	case v.set != o.set:
		return v.set
	}
	return v.status > o.status
}

// verdict returns what is decided about k. The caller holds mu.
func (s *state) verdict(k key) verdict {
	if ov, ok := s.overrides[k]; ok {
		return verdict{ov.stamp, true, ov.status}
	}
	return verdict{stamp: s.lifted[k].stamp}
}

// lift is the end of a decision.
type lift struct {
	stamp uint64
	at    int64 // ns since the state's epoch
}

// decide makes st the decision about k from now on. The caller holds mu.
func (s *state) decide(k key, st status) {
	s.overrides[k] = override{status: st, stamp: s.stamps.next()}
	delete(s.lifted, k)
}

// lift ends the decision about k. The caller holds mu.
func (s *state) lift(k key) {
	delete(s.overrides, k)
	s.lifted[k] = lift{s.stamps.next(), s.now()}
}

// merged is what became of what another registry knows.
type merged uint8

const (
	taken    merged = iota
	known           // it is the same here
	outdated        // what is here is newer
	buried          // the instance has been cancelled since
)

// merge takes what a registry like this one knows of an instance, which was last heard age ago.
func (s *state) merge(r *record, age time.Duration) merged {
	s.names.intern(r)
	r.stamp = s.stamps.see(r.stamp)
	k := r.key()
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.tombs[k]; ok && !later(r.dirty, t.dirty) {
		return buried
	}
	e, heard := s.find(k), s.now()-int64(age)
	if e != nil {
		if !r.newer(e.rec) {
			e.lease.heardOf(heard)
			if e.rec.suspected && !e.lease.late(s.now()) {
				s.settleEntry(e)
			}
			if r.dirty == e.rec.dirty && r.digest() == e.rec.digest() {
				return known
			}
			return outdated
		}
		heard = max(heard, e.lease.renewed.Load())
		if e.rec.serviceUp != 0 {
			r.serviceUp = e.rec.serviceUp
		}
	}
	if ov, ok := s.overrides[k]; ok {
		r.override = ov.status
		ov.orphan = 0
		s.overrides[k] = ov
	} else {
		r.override = unknown
	}
	r.status = s.effective(r.base, r.asg, k, nil, true)
	if s.adorn(r) {
		r.stamp = s.stamps.next()
	}
	s.install(e, r, heard, false)
	return taken
}

// mergeVerdict takes what a registry like this one knows of what is decided about an instance. It reports whether
// that was news.
func (s *state) mergeVerdict(k key, v verdict) bool {
	v.stamp = s.stamps.see(v.stamp)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !v.newer(s.verdict(k)) {
		return false
	}
	e := s.find(k)
	if v.set {
		ov := override{status: v.status, stamp: v.stamp}
		if e == nil {
			ov.orphan = max(s.now(), 1)
		}
		s.overrides[k] = ov
		delete(s.lifted, k)
	} else {
		delete(s.overrides, k)
		s.lifted[k] = lift{v.stamp, s.now()}
	}
	if e != nil {
		s.reconsider(e)
	}
	return true
}

// reconsider gives an instance the status that follows from its record and what is decided. The caller holds mu.
func (s *state) reconsider(e *entry) {
	r := *e.rec
	r.override = unknown
	if ov, ok := s.overrides[r.key()]; ok {
		r.override = ov.status
	}
	st := s.effective(r.base, r.asg, r.key(), nil, true)
	if st == e.rec.standing() && r.override == e.rec.override {
		return
	}
	r.status, r.suspected = st, false
	if st == up && r.serviceUp == 0 {
		r.serviceUp = time.Now().UnixMilli()
	}
	s.replace(e, &r)
}

// mergeEnd takes from a registry like this one that version dirty of an instance was cancelled. It reports whether
// that was news.
func (s *state) mergeEnd(k key, dirty int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e == nil {
		if t, ok := s.tombs[k]; ok && !later(dirty, t.dirty) {
			return false
		}
		s.bury(k, dirty, defaultDuration*time.Second)
		return true
	}
	if later(e.rec.dirty, dirty) {
		return false
	}
	s.end(k, e, dirty)
	return true
}
