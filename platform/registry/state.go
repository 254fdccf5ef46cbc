package registry

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// state is the registry's memory: who is registered, what operators decided, and what changed lately. Everything but
// renewals happens under mu for a few microseconds; renewals share it and touch one lease.
type state struct {
	epoch   time.Time // of the monotonic clock by which leases are measured
	self    string
	stretch float64 // leaseExpiryMultiplier
	believe bool    // clientStatusWins
	anyAge  bool    // renewals are not compared with the record

	mu        sync.RWMutex
	apps      map[string]*app // by name in upper case
	overrides map[key]override
	stuck     map[key]stuck   // what is sticky
	lifted    map[key]lift    // decisions that ended
	tombs     map[key]tomb    // instances that were cancelled
	groups    map[string]bool // whether a server group is disabled; nil where groups do not count
	count     int
	byStatus  [statuses]int
	promised  int64  // renewals an hour that the registered instances mean to make
	joined    uint64 // how many ever came,
	left      uint64 // and went
	first     int64  // ns since epoch of the first registration, -1 before it
	warming   bool   // this process has not yet heard of everybody

	begins recent // leases that began
	ends   recent // leases that ended

	wheel wheel // finds the leases that run out

	log     changeLog
	edition uint64              // rises with everything documents show, heartbeats excepted
	listed  []*view             // of the last snapshot, by name
	touched map[string]struct{} // names of applications of which listed is out of date
	looked  int64               // ns since epoch when listed was looked over for stale lease times
	names   interner

	snap     atomic.Pointer[snapshot]
	past     past       // of the last snapshots
	building sync.Mutex // held by the one who makes the next snapshot

	renewals atomic.Uint64
	counts   *counts
	peers    *outboxes // nil without peers
	stamps   stamps

	unstuck chan key    // instances whose overrides are no longer sticky
	hub     *hub        // of those who watch
	broken  chan *entry // instances of which the connection broke by which they were known to be alive
	kept    atomic.Pointer[Silence]
}

// app is the instances of one application.
type app struct {
	name  string
	byID  map[string]*entry
	order []*entry // by time of registration
}

// entry is one registered instance.
type entry struct {
	rec   *record // replaced under mu, never altered
	lease lease
	hash  uint64  // of its names, as in key.hash64
	sum   uint64  // its share of a digest, 0 before it was made; atomic
	last  *change // in the log, nil when nothing changed lately; guarded by the state's mu
}

// become makes r its record. The caller holds mu.
func (e *entry) become(r *record) {
	e.rec = r
	atomic.StoreUint64(&e.sum, 0)
}

// override is an operator's decision about the status of an instance.
type override struct {
	status status
	stamp  uint64 // the newer of two decisions counts
	orphan int64  // ns since epoch when its instance was evicted; 0 while it is registered
}

// overrideOutlives is how long a decision about an instance outlives the instance's eviction. One that comes back
// after a partition must not take traffic that an operator had taken from it.
const overrideOutlives = 24 * time.Hour

func newState(self string) *state {
	return &state{
		epoch: time.Now(), self: self, counts: newCounts(nil), stretch: 1,
		apps: make(map[string]*app), overrides: make(map[key]override),
		lifted: make(map[key]lift), tombs: make(map[key]tomb), stuck: make(map[key]stuck), unstuck: make(chan key, 256),
		first: -1, warming: true,
		log: newChangeLog(), touched: make(map[string]struct{}),
		broken: make(chan *entry, 1024),
	}
}

// now is the time by which leases are measured: it neither jumps nor runs backwards.
func (s *state) now() int64 { return int64(time.Since(s.epoch)) }

func (s *state) find(k key) *entry {
	if a := s.apps[k.app]; a != nil {
		return a.byID[k.id]
	}
	return nil
}

// result is how an operation on one instance ended.
type result uint8

const (
	done       result = iota
	notFound          // register, then come again
	conflicted        // a peer tells older news than we have
	tooLarge          // nothing was changed
)

// origin says who asked for an operation.
type origin struct {
	replicated bool // a peer, telling what a client told it
	native     bool // a client of ours, whose own word on its status is believed at once
}

// register puts r in, or renews it (Eureka's rules, by number). It owns r.
func (s *state) register(r *record, o origin) {
	s.names.intern(r)
	if r.dirty <= 0 {
		r.dirty = time.Now().UnixMilli()
	}
	k := r.key()
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if t, ok := s.tombs[k]; ok {
		switch {
		case later(r.dirty, t.dirty):
		case o.replicated:
			return // a peer's old news of an instance that has been cancelled since
		default:
			r.dirty = t.dirty + 1 // it is there, whatever its clock says, and peers must believe it
		}
	}
	s.counts.registrations[o.from()].Inc()
	incoming, own := r.dirty, r.own
	r.stamp = s.stamps.next()
	stale := e != nil && later(e.rec.dirty, r.dirty)
	if stale { // 1: ours is newer
		was := r
		own = e.rec.own
		kept := *e.rec
		kept.suspected = false
		r = &kept
		r.renewal, r.duration = was.renewal, was.duration
		if o.replicated { // old news alters nothing; a client that comes back ends what a cleared override left
			own = e.rec.standing()
		} else {
			r.stamp = was.stamp
		}
	}
	// Of an overridden instance a peer tells what counts, not what the instance said.
	counts := o.replicated && r.override != unknown && r.override == r.own
	ov, held := s.overrides[k]
	if held { // 4
		r.override = ov.status
		ov.orphan = 0
		s.overrides[k] = ov
	} else if held = r.override != unknown; held {
		s.decide(k, r.override)
	}
	var old *record
	nowMS := time.Now().UnixMilli()
	if e != nil {
		old = e.rec
		r.serviceUp, r.registered = old.serviceUp, nowMS // 3
	} else {
		r.serviceUp, r.registered = 0, nowMS
	}
	trusted := o.native && (old == nil || !later(old.dirty, incoming)) || s.believe && old != nil && later(incoming, old.dirty)
	r.status = s.effective(own, r.asg, k, old, o.replicated || trusted) // 5
	switch {
	case stale && o.replicated: // old news alters nothing
	case r.status.swayed() && (held || s.groups != nil && r.asg != ""):
		r.base = own
	default:
		r.base = r.status
	}
	if counts && old != nil && old.dirty == r.dirty {
		r.own = old.own
	}
	if s.adorn(r) {
		r.stamp = s.stamps.next()
	}
	now := s.now()
	if !o.replicated {
		s.peers.tell(k, slot{since: now, last: now, registered: true})
	}
	s.install(e, r, now, !o.replicated)
}

// install makes r the record of e, or of an instance that is not there yet when e is nil, which was heard at, directly
// or by way of a peer. The caller holds mu.
func (s *state) install(e *entry, r *record, at int64, direct bool) {
	k, nowMS := r.key(), time.Now().UnixMilli()
	var old *record
	if e != nil {
		old = e.rec
	}
	if r.status == up && r.serviceUp == 0 { // 6
		r.serviceUp = nowMS
	}
	r.evicted, r.updated, r.sum = 0, nowMS, 0
	r.action = added // 7
	if old != nil || s.log.gone[k] != nil {
		r.action = modified
	}
	if s.first < 0 {
		s.first = s.now()
	}
	if e == nil {
		e = &entry{}
		s.insert(k, e)
		s.begins.add(k, nowMS)
		s.count++
		s.joined++
		s.byStatus[r.status]++
	} else {
		s.promised -= old.perHour()
		s.byStatus[old.status]--
		s.byStatus[r.status]++
	}
	s.promised += r.perHour()
	e.lease.start(at, s.lasts(r), time.Duration(r.renewal)*time.Second, direct)
	s.wheel.hasten(e, e.lease.lateAt())
	if old != nil && r.same(old) {
		r.updated, r.action, r.registered = old.updated, old.action, old.registered
		e.become(r)
		s.touch(k.app)
		return
	}
	e.become(r)
	s.publish(e, r, old)
}

// lasts is how long the lease of r is, which is what its instance asked for unless the configuration stretches it.
func (s *state) lasts(r *record) time.Duration {
	return time.Duration(float64(r.duration) * s.stretch * float64(time.Second))
}

// effective is the status that counts for an instance of group that says own (Eureka's rules, by number). ownWins
// leaves out the third, as between peers.
func (s *state) effective(own status, group string, k key, old *record, ownWins bool) status {
	if !own.swayed() { // 1
		return own
	}
	if ov, ok := s.overrides[k]; ok { // 2
		return ov.status
	}
	if s.groups != nil && group != "" { // where groups count, they stand here
		if s.groups[group] {
			return outOfService
		}
		return up
	}
	if old != nil && !ownWins { // 3
		if st := old.standing(); st == up || st == outOfService {
			return st
		}
	}
	return own // 4
}

// renew prolongs a lease. dirty is the version of the record the client has, 0 if it did not say; claimed is the
// override a peer knows, unknown if none. The record that comes back is to be shown to a peer that lags. It does not
// keep k.
//
// hot path: 0 allocs, BenchmarkRenew
func (s *state) renew(k key, o origin, dirty int64, claimed status) (result, *record) {
	s.mu.RLock()
	e := s.find(k)
	if e == nil {
		s.mu.RUnlock()
		s.counts.unknown[o.from()].Inc()
		return notFound, nil
	}
	r := e.rec
	eff := s.effective(r.base, r.asg, k, r, false)
	if eff == unknown {
		s.mu.RUnlock()
		return notFound, nil
	}
	s.renewals.Add(1)
	s.counts.renewals[o.from()].Inc()
	now := s.now()
	e.lease.renew(now, !o.replicated)
	s.mu.RUnlock()
	if !o.replicated {
		s.peers.tell(r.key(), slot{since: now, last: now, renewed: true})
	}

	if eff != r.status {
		r = s.settle(k)
	}
	switch {
	case dirty <= 0 || r == nil || dirty == r.dirty || s.anyAge:
		return done, r
	case later(dirty, r.dirty):
		if o.replicated && claimed != unknown {
			s.adopt(r.key(), claimed) // k may be a part of something large
		}
		return notFound, r
	case o.replicated:
		return conflicted, r
	}
	return done, r
}

func (s *state) groupDisabled(name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.groups[name]
}

// setGroup disables or enables a server group, and reports whether that changed anything.
func (s *state) setGroup(name string, disabled bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groups[name] == disabled {
		return false
	}
	if disabled {
		s.groups[name] = true
	} else {
		delete(s.groups, name)
	}
	for _, a := range s.apps {
		for _, e := range a.order {
			if e.rec.asg == name {
				s.settleEntry(e)
			}
		}
	}
	return true
}

// adopt takes over an override that a peer knows of an instance. Its status follows when the instance is next heard of.
func (s *state) adopt(k key, claimed status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ov, ok := s.overrides[k]; ok && ov.status == claimed {
		return
	}
	s.decide(k, claimed)
	if e := s.find(k); e != nil && e.rec.override != claimed {
		r := *e.rec
		r.override = claimed
		s.replace(e, &r)
	}
}

// settle gives an instance the status that its override or its group calls for.
func (s *state) settle(k key) *record {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e == nil {
		return nil
	}
	s.settleEntry(e)
	return e.rec
}

// settleEntry is settle for who holds mu.
func (s *state) settleEntry(e *entry) {
	if eff := s.effective(e.rec.base, e.rec.asg, e.rec.key(), e.rec, false); eff != e.rec.status {
		r := *e.rec
		r.status, r.suspected = eff, false
		if !eff.swayed() {
			r.base, r.stamp = eff, s.stamps.next()
		}
		s.replace(e, &r)
	}
}

// decided is a decision about an instance.
type decided struct {
	key
	status
}

// cancel removes an instance and the decision about it, which comes back if there was one.
func (s *state) cancel(k key) (result, *decided) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var was *decided
	if ov, ok := s.overrides[k]; ok {
		was = &decided{k, ov.status}
	}
	e := s.find(k)
	if e == nil {
		if was != nil && !s.orphaned(k) {
			was = nil
		}
		return notFound, was
	}
	now := s.now()
	s.peers.tell(k, slot{since: now, last: now, ended: true, dirty: e.rec.dirty})
	s.counts.cancels[origin{}.from()].Inc()
	if !s.end(k, e, e.rec.dirty) {
		was = nil
	}
	return done, was
}

// endedElsewhere takes from a peer that an instance was cancelled there, in version dirty if that is not 0. Eureka's
// servers say none, and may say it late: the instance may have come back since, and then peers go on to tell of the very
// version that is known here. That must not count as old news for ever.
func (s *state) endedElsewhere(k key, dirty int64) result {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	switch {
	case e == nil:
		s.orphaned(k)
		return notFound
	case dirty == 0:
		dirty = e.rec.dirty - 1
	case later(e.rec.dirty, dirty):
		return done
	}
	s.counts.cancels[origin{replicated: true}.from()].Inc()
	s.end(k, e, dirty)
	return done
}

// end takes out an instance of which version dirty was cancelled. It reports whether a decision about it ended by that.
// The caller holds mu.
func (s *state) end(k key, e *entry, dirty int64) (ended bool) {
	ended = s.orphaned(k)
	s.bury(k, dirty, s.lasts(e.rec))
	s.remove(k)
	return ended
}

// remove takes an instance out. The caller holds mu.
func (s *state) remove(k key) bool {
	e := s.find(k)
	if e == nil {
		return false
	}
	e.lease.end()
	a := s.apps[k.app]
	delete(a.byID, k.id)
	for i, x := range a.order {
		if x == e {
			a.order = append(a.order[:i], a.order[i+1:]...)
			break
		}
	}
	if len(a.byID) == 0 {
		delete(s.apps, k.app)
	}
	s.count--
	s.left++
	s.promised -= e.rec.perHour()
	s.byStatus[e.rec.status]--
	r := *e.rec
	r.action = deleted
	r.updated = time.Now().UnixMilli()
	r.evicted = r.updated
	s.ends.add(r.key(), r.updated)
	s.publish(e, &r, e.rec)
	return true
}

// overriding tells what setting an override would alter: the record as it is, nil if there is none.
func (s *state) overriding(k key) *record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.find(k); e != nil {
		return e.rec
	}
	return nil
}

// setOverride makes st the status of an instance until it is cleared. dirty, if not 0, is adopted when newer.
func (s *state) setOverride(k key, st status, dirty int64, o origin) result {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e == nil {
		return notFound
	}
	now := s.now()
	e.lease.renew(now, false)
	if !o.replicated {
		n := slot{since: now, last: now, renewed: true}
		if ov, ok := s.overrides[k]; e.rec.standing() != st || ok && ov.status == st {
			n = slot{since: now, last: now, decided: overrode, status: st}
		}
		s.peers.tell(k, n)
	}
	if e.rec.standing() == st {
		return done
	}
	s.decide(k, st)
	s.unstick(k)
	r := *e.rec
	r.override, r.status, r.suspected = st, st, false
	if !r.base.swayed() || !st.swayed() {
		r.base, r.stamp = st, s.stamps.next()
	}
	if st == up && r.serviceUp == 0 {
		r.serviceUp = time.Now().UnixMilli()
	}
	if later(dirty, r.dirty) {
		r.dirty = dirty
	}
	s.replace(e, &r)
	return done
}

// clearOverride ends an override. The instance takes the status then until it speaks for itself; with ownWord it
// takes what it last said of itself.
func (s *state) clearOverride(k key, then status, ownWord bool, dirty int64, o origin) result {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e == nil {
		return notFound
	}
	if _, ok := s.overrides[k]; !ok {
		return done
	}
	s.lift(k)
	s.unstick(k)
	r := *e.rec
	r.override, r.status, r.suspected = unknown, then, false
	if ownWord {
		r.status = r.own
	}
	r.base, r.stamp = r.status, s.stamps.next()
	if !o.replicated {
		now := s.now()
		s.peers.tell(k, slot{since: now, last: now, decided: cleared, status: r.status})
	}
	if r.status == up && r.serviceUp == 0 {
		r.serviceUp = time.Now().UnixMilli()
	}
	if later(dirty, r.dirty) {
		r.dirty = dirty
	}
	s.replace(e, &r)
	return done
}

// overridden reports whether an operator's decision holds for an instance.
func (s *state) overridden(k key) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.overrides[k]
	return ok
}

// setMeta merges add into an instance's metadata.
func (s *state) setMeta(k key, add []pair, o origin) result {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(k)
	if e == nil {
		return notFound
	}
	r := *e.rec
	for _, p := range add {
		r.meta = setPair(r.meta, p.key, p.value)
	}
	size := 0
	for _, p := range r.meta {
		size += len(p.key) + len(p.value)
	}
	if size > bodyLimit {
		return tooLarge
	}
	now := s.now()
	e.lease.renew(now, false)
	if !o.replicated {
		s.peers.tell(k, slot{since: now, last: now, registered: true})
	}
	if ov, ok := s.overrides[k]; ok && !r.suspected { // it counts as a registration
		r.override = ov.status
		r.status = s.effective(r.status, r.asg, k, e.rec, false)
	}
	if !r.same(e.rec) {
		r.stamp = s.stamps.next()
		s.replace(e, &r)
	}
	return done
}

// replace swaps an entry's record for r. The caller holds mu.
func (s *state) replace(e *entry, r *record) {
	s.byStatus[e.rec.status]--
	s.byStatus[r.status]++
	r.action = modified
	r.updated, r.sum = time.Now().UnixMilli(), 0
	was := e.rec
	e.become(r)
	s.publish(e, r, was)
}

func (s *state) insert(k key, e *entry) {
	a := s.apps[k.app]
	if a == nil {
		a = &app{name: k.app, byID: make(map[string]*entry)}
		s.apps[k.app] = a
	}
	e.hash = k.hash64()
	a.byID[k.id] = e
	a.order = append(a.order, e)
}

// touch says that documents about an app are out of date. The caller holds mu.
func (s *state) touch(name string) {
	s.edition++
	if s.apps[name] == nil {
		if _, listed := slices.BinarySearchFunc(s.listed, name, viewNamed); !listed {
			delete(s.touched, name) // it came and went while nobody read
			return
		}
	}
	s.touched[name] = struct{}{}
}

// publish enters r, of e, which was something else before unless was is nil, in the change log and has the watchers
// told. The caller holds mu.
func (s *state) publish(e *entry, r, was *record) {
	s.touch(r.app)
	s.log.add(e, r, was, s.now())
	s.hub.changed()
}
