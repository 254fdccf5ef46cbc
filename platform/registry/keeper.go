package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/meter"
)

// terms are those of Settings by which leases end, with their defaults.
type terms struct {
	preserve Preservation
	share    float64       // of the instances that renew in the ordinary course of things
	stretch  float64       // leases last so many times longer than instances ask
	every    time.Duration // leases are looked at
	maxHold  time.Duration // that instances are preserved because peers cannot be asked; 0 is for ever
	probes   bool          // whether silent instances are

	interval, update time.Duration // for Eureka's rule
}

func termsOf(s Settings) terms {
	t := terms{
		preserve: s.Preservation, share: cmp.Or(s.RenewalShare, 0.85), stretch: s.LeaseExpiryMultiplier, every: s.EvictionInterval,
		maxHold: max(cmp.Or(s.PreservationHold, 15*time.Minute), 0), probes: !s.NoProbe,
		interval: cmp.Or(s.ExpectedRenewal, 30*time.Second), update: cmp.Or(s.RenewalShareUpdates, 15*time.Minute),
	}
	if t.preserve == ComparedPreservation { // as Eureka has it
		t.stretch, t.every = cmp.Or(t.stretch, 2), cmp.Or(t.every, time.Minute)
	}
	t.stretch, t.every = cmp.Or(t.stretch, 1), max(t.every, tick)
	return t
}

const (
	tick = time.Second // how often this registry looks after itself

	// warmUp is how long after the first registration a fresh registry says that it may not know everybody yet.
	warmUp = 35 * time.Second

	evictAtOnce = 256 // instances that are removed before others get at the registry again
	forgetEvery = time.Minute
)

// keeper ends leases. It belongs to the goroutine of Run.
type keeper struct {
	s    *state
	log  *slog.Logger
	c    terms
	ask  witnesses // nil without peers
	dial dialer
	told func(was, is Silence) // after a change of mode that lasts

	last      int64    // ns since epoch of the last tick
	looked    int64    // and of the last look at leases
	forgotten int64    // and of when old overrides were dropped
	late      []*entry // with renewals missing
	silent    []*entry // those of them whose leases ran out
	guard     guard
	eureka    eurekaGuard
	recorded  Silence // what told was called with last

	renewals [time.Minute / tick]uint64 // ever, by second of the last minute

	answers chan heard
	checks  map[*entry]*check
	probes  int      // how many may still start in this second
	queue   []*entry // to be probed
	probed  chan probed
	wg      sync.WaitGroup

	refusals, expiries, accepts *meter.Counter

	alone map[string]int64 // applications that eviction in slices reduced to one instance, and when
}

// heard is what the peers said about instances.
type heard struct {
	about []*entry
	said  []testimony
}

// check is what is known of a silent instance from trying to connect to it.
type check struct {
	finding finding
	at      int64 // when it was found, or queued
	urgent  bool  // its connection to us broke
}

type probed struct {
	e       *entry
	finding finding
}

func newKeeper(s *state, c terms, log *slog.Logger) *keeper {
	k := &keeper{
		s: s, c: c, log: log, checks: make(map[*entry]*check), alone: make(map[string]int64),
		answers: make(chan heard), probed: make(chan probed),
		guard:  guard{share: 1 - c.share, maxHold: c.maxHold},
		eureka: eurekaGuard{share: c.share, interval: c.interval, update: c.update},
	}
	k.guard.turn(s.now(), Normal, "few instances are late")
	if c.preserve == NoPreservation {
		k.guard.turn(s.now(), Off, "self-preservation is switched off")
	}
	k.recorded = k.report()
	s.kept.Store(&k.recorded)
	return k
}

// begin is when leases begin to be looked at.
func (k *keeper) begin() {
	k.last = k.s.now()
	k.looked, k.forgotten, k.probes = k.last, k.last, probesAtOnce
	for i := range k.renewals {
		k.renewals[i] = k.s.renewals.Load()
	}
	k.s.mu.RLock()
	defer k.s.mu.RUnlock()
	k.eureka.begin(k.last, k.s.count, k.s.joined, k.s.left, k.s.renewals.Load())
}

func (k *keeper) run(ctx context.Context) {
	k.begin()
	t := time.NewTicker(tick)
	defer t.Stop()
	defer k.wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			k.tick(ctx)
		case a := <-k.answers:
			k.hear(a)
		case p := <-k.probed:
			k.found(p)
		case x := <-k.s.broken:
			k.suspect(ctx, x)
		}
	}
}

func (k *keeper) tick(ctx context.Context) {
	now := k.s.now()
	stood := now - k.last - int64(tick)
	k.last = now
	if stood >= int64(2*tick) {
		// This process stood still. Renewals could not reach it, so nobody is to blame for silence.
		k.s.prolong(stood)
		k.log.Warn("registry stood still; leases are prolonged by as much", "for", time.Duration(stood).Round(time.Millisecond))
	}
	k.s.endWarmUp(now)
	if now-k.forgotten >= int64(forgetEvery) {
		k.forgotten = now
		k.s.forgetOverrides(now)
		k.s.forgetTombs(now)
	}
	k.renewals[now/int64(tick)%int64(len(k.renewals))] = k.s.renewals.Load()
	k.probes = probesAtOnce
	k.gather(now)
	if k.c.preserve == ComparedPreservation {
		k.asEureka(now)
	} else {
		k.adapt(ctx, now)
	}
	k.startProbes(ctx)
	k.publish()
}

// gather brings late and silent up to date.
func (k *keeper) gather(now int64) {
	k.late = append(k.late, k.s.wheel.take(now)...)
	kept := k.late[:0]
	clear(k.silent)
	k.silent = k.silent[:0]
	for _, e := range k.late {
		if e.lease.hasEnded() {
			delete(k.checks, e)
			continue
		}
		if !e.lease.late(now) {
			delete(k.checks, e)
			k.s.wheel.put(e, e.lease.lateAt())
			continue
		}
		kept = append(kept, e)
		if e.lease.expired(now) {
			k.silent = append(k.silent, e)
		}
	}
	clear(k.late[len(kept):])
	k.late = kept
}

// asEureka evicts by Eureka's rule.
func (k *keeper) asEureka(now int64) {
	k.s.mu.RLock()
	joined, left, total := k.s.joined, k.s.left, k.s.count
	k.s.mu.RUnlock()
	k.eureka.see(now, joined, left, k.s.renewals.Load(), total)
	if k.eureka.evicting {
		k.guard.turn(now, Normal, "%d renewals came in the last minute, more than the threshold of %d", k.eureka.lastMin, k.eureka.threshold)
	} else {
		k.guard.turn(now, Preserving, "%d renewals came in the last minute, not more than the threshold of %d", k.eureka.lastMin, k.eureka.threshold)
	}
	if now-k.looked < int64(k.c.every) {
		return
	}
	k.looked = now
	k.evict(k.silent, k.eureka.allowed(total), now)
}

// adapt evicts what the guard allows, and has the peers asked when it does not know.
func (k *keeper) adapt(ctx context.Context, now int64) {
	total := k.s.size()
	if k.guard.mode != Off && k.guard.see(now, len(k.late), total) {
		k.askPeers(ctx)
	}
	if k.guard.mode == Normal {
		clear(k.alone)
	}
	if now-k.looked < int64(k.c.every) {
		return
	}
	k.looked = now
	switch k.guard.mode {
	case Off:
		k.evict(k.silent, total, now)
	case Normal, Thinning:
		k.guard.spend(now, k.evict(k.verified(now), k.guard.allowed(now, total), now))
	}
}

// evict ends the leases of at most n of es, drawn at random so that no application is hit before others.
func (k *keeper) evict(es []*entry, n int, now int64) (gone int) {
	rand.Shuffle(len(es), func(i, j int) { es[i], es[j] = es[j], es[i] })
	if k.guard.mode == Thinning {
		es = k.sparing(es, n, now)
	}
	gone = k.s.evict(es[:min(len(es), n)], now)
	k.expiries.Add(int64(gone))
	if gone > 0 {
		k.log.Info("leases ran out", "evicted", gone, "silent", len(k.silent), "registered", k.s.size())
	}
	return gone
}

// sparing picks at most n of es so that no application goes from several instances to none within a slice.
func (k *keeper) sparing(es []*entry, n int, now int64) []*entry {
	k.s.mu.RLock()
	defer k.s.mu.RUnlock()
	there := make(map[string]int)
	out := es[:0]
	for _, e := range es {
		name := e.rec.app
		a := k.s.apps[name]
		if len(out) == n {
			break
		}
		if e.lease.hasEnded() || a == nil {
			continue
		}
		left, seen := there[name]
		if !seen {
			left = len(a.order)
		}
		since, lonely := k.alone[name]
		switch {
		case left == 1 && lonely && now-since < int64(sliceTime):
			continue
		case left == 2:
			k.alone[name] = now
		}
		there[name] = left - 1
		out = append(out, e)
	}
	return out
}

// askPeers asks about some of those that are late, without waiting.
func (k *keeper) askPeers(ctx context.Context) {
	about := append([]*entry(nil), k.late...)
	rand.Shuffle(len(about), func(i, j int) { about[i], about[j] = about[j], about[i] })
	about = about[:min(len(about), askAbout)]
	ks := make([]key, len(about))
	k.s.mu.RLock()
	for i, e := range about {
		ks[i] = e.rec.key()
	}
	k.s.mu.RUnlock()
	k.wg.Go(func() {
		a := heard{about: about}
		if k.ask != nil {
			ctx, cancel := context.WithTimeout(ctx, askWithin)
			a.said = k.ask(ctx, ks)
			cancel()
		}
		select {
		case k.answers <- a:
		case <-ctx.Done():
		}
	})
}

func (k *keeper) hear(a heard) {
	lasts := make(map[key]int64, len(a.about))
	k.s.mu.RLock()
	for _, e := range a.about {
		lasts[e.rec.key()] = e.lease.duration.Load()
	}
	k.s.mu.RUnlock()
	k.guard.hear(k.s.now(), len(a.about), a.said, func(id key, age time.Duration) bool {
		d, asked := lasts[id]
		return asked && age >= 0 && int64(age) < d
	})
	k.publish()
}

// verified lists the silent that may be evicted, and has those probed of which that is not known.
func (k *keeper) verified(now int64) []*entry {
	out := make([]*entry, 0, len(k.silent))
	for _, e := range k.silent {
		c := k.checks[e]
		switch ranOut := e.lease.renewed.Load() + e.lease.duration.Load(); {
		case !k.c.probes:
			out = append(out, e)
		case c == nil && k.address(e) == "":
			k.checks[e] = &check{finding: unfit}
			out = append(out, e)
		case c == nil || c.finding == noAnswer && now-c.at >= int64(sliceTime):
			k.checks[e] = &check{at: now}
			k.queue = append(k.queue, e)
		case c.finding == noAnswer, c.finding == unfit, c.finding == unprobed && now-ranOut >= int64(probeWait):
			out = append(out, e)
		case c.finding == accepted && now-ranOut >= e.lease.duration.Load():
			out = append(out, e)
		}
	}
	return out
}

func (k *keeper) address(e *entry) string {
	k.s.mu.RLock()
	defer k.s.mu.RUnlock()
	return e.rec.probeAddress()
}

// suspect is told that the connection by which e was known to be alive is broken.
func (k *keeper) suspect(ctx context.Context, e *entry) {
	if !k.c.probes || e.lease.hasEnded() || k.address(e) == "" {
		return
	}
	k.checks[e] = &check{at: k.s.now(), urgent: true}
	k.queue = append([]*entry{e}, k.queue...)
	k.startProbes(ctx)
}

// startProbes starts as many of the queued probes as may start in this second.
func (k *keeper) startProbes(ctx context.Context) {
	for k.probes > 0 && len(k.queue) > 0 {
		e := k.queue[0]
		k.queue = k.queue[1:]
		c := k.checks[e]
		if c == nil || c.finding != unprobed {
			continue // it was heard meanwhile
		}
		c.finding = probing
		k.probes--
		address := k.address(e)
		k.wg.Go(func() {
			p := probed{e, k.dial.probe(ctx, address)}
			select {
			case k.probed <- p:
			case <-ctx.Done():
			}
		})
	}
}

// found acts on what came of a probe.
func (k *keeper) found(p probed) {
	c, now := k.checks[p.e], k.s.now()
	if c == nil || p.e.lease.hasEnded() {
		return
	}
	if c.urgent && p.e.lease.renewed.Load() > c.at {
		delete(k.checks, p.e) // it was heard since its connection broke
		return
	}
	c.finding, c.at = p.finding, now
	expired := p.e.lease.expired(now)
	mayGo := expired && (k.guard.mode == Normal || k.guard.mode == Thinning)
	switch {
	case p.finding == refused && mayGo:
		k.refusals.Inc()
		k.s.evict([]*entry{p.e}, now)
	case p.finding == refused && c.urgent:
		k.refusals.Inc()
		k.s.suspect(p.e)
	case p.finding == refused:
		c.finding = noAnswer // probe again when it may be evicted
	case p.finding == accepted && expired:
		k.accepts.Inc()
		k.s.suspect(p.e)
	}
	if c.urgent {
		delete(k.checks, p.e) // whatever comes of its lease
	}
}

// report is the state of things.
func (k *keeper) report() Silence {
	k.s.mu.RLock()
	p := Silence{
		Mode: k.guard.mode, Reason: k.guard.reason, Since: k.s.epoch.Add(time.Duration(k.guard.since)).UTC(), Degraded: k.guard.degraded,
		Registered: k.s.count, Late: len(k.late), Silent: len(k.silent), Expected: float64(k.s.promised) / 60,
	}
	k.s.mu.RUnlock()
	oldest := (k.last/int64(tick) + 1) % int64(len(k.renewals))
	p.Observed = float64(k.s.renewals.Load() - k.renewals[oldest])
	if k.c.preserve == ComparedPreservation {
		p.Threshold = k.eureka.threshold
	}
	return p
}

// publish makes the state of things known. Asking is no mode that lasts.
func (k *keeper) publish() {
	p := k.report()
	k.s.kept.Store(&p)
	if p.Mode == Asking || p.Mode == k.recorded.Mode {
		return
	}
	k.log.Warn("what becomes of silent instances has changed", "mode", p.Mode, "was", k.recorded.Mode, "why", p.Reason)
	if k.told != nil {
		k.told(k.recorded, p)
	}
	k.recorded = p
}

// Silence returns what becomes of silent instances now, and why.
func (r *Registry) Silence() Silence { return *r.s.kept.Load() }

// noteMode records, without anybody waiting, that silent instances are treated otherwise from now on.
func (r *Registry) noteMode(was, is Silence) {
	self := r.name()
	before, err := json.Marshal(was)
	after, err2 := json.Marshal(is)
	if err != nil || err2 != nil {
		return // cannot be: they hold numbers and words
	}
	r.write(roadbed.Change{
		Actor: self, Why: is.Reason, Action: preservationAction, Resource: "registry:" + self,
		Result: roadbed.Succeeded, Before: before, After: after,
	})
}

// size counts the registered instances.
func (s *state) size() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.count
}

// evict removes those of es that are still silent. Decisions about them stay, for the case that they come back.
func (s *state) evict(es []*entry, now int64) (gone int) {
	for len(es) > 0 {
		n := min(len(es), evictAtOnce)
		gone += s.evictSome(es[:n], now)
		es = es[n:]
	}
	return gone
}

func (s *state) evictSome(es []*entry, now int64) (gone int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range es {
		k := e.rec.key()
		if e.lease.hasEnded() || !e.lease.expired(now) || !s.remove(k) {
			continue
		}
		gone++
		if ov, ok := s.overrides[k]; ok {
			ov.orphan = now
			s.overrides[k] = ov
		}
	}
	return gone
}

// forgetOverrides drops decisions about instances that have been gone for long.
func (s *state) forgetOverrides(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, ov := range s.overrides {
		if ov.orphan != 0 && now-ov.orphan > int64(overrideOutlives) {
			delete(s.overrides, k)
			s.unstick(k)
		}
	}
	for k, l := range s.lifted {
		if now-l.at > int64(overrideOutlives) {
			delete(s.lifted, k)
		}
	}
}

// prolong moves every lease by d. One that is renewed meanwhile needs no help.
func (s *state) prolong(d int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, a := range s.apps {
		for _, e := range a.order {
			was := e.lease.renewed.Load()
			e.lease.renewed.CompareAndSwap(was, was+d)
		}
	}
}

// endWarmUp tells the watchers, once, that from now on silence about an instance means it is gone.
func (s *state) endWarmUp(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.warming && s.first >= 0 && now-s.first >= int64(warmUp) {
		s.warming = false
		if s.hub != nil {
			s.hub.everyone.Store(true)
			s.hub.changed()
		}
	}
}
