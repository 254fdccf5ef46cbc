package registry

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	tick = time.Second // how often leases are looked at

	// Self-preservation: when many fall silent at once the network is the likelier culprit. In any slice of time at
	// most this share of the instances is evicted, or two if that is more.
	sliceTime  = 30 * time.Second
	sliceShare = 0.15
	sliceLeast = 2

	// warmUp is how long after the first registration a fresh registry says that it may not know everybody yet.
	warmUp = 35 * time.Second

	evictAtOnce = 256 // instances that are removed before others get at the registry again
	forgetEvery = time.Minute
)

// keeper ends leases. It belongs to the goroutine of Run.
type keeper struct {
	s         *state
	log       *slog.Logger
	last      int64    // ns since epoch of the last look
	late      []*entry // with renewals missing
	slice     int64    // ns since epoch at which the current slice of time began
	budget    int      // how many more may be evicted in it
	forgotten int64    // ns since epoch at which old overrides were dropped last
	preserved bool     // whether expired leases were kept at the last look
}

func (k *keeper) run(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	k.last = k.s.now()
	k.slice = k.last - int64(sliceTime)
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			k.look()
		}
	}
}

// look ends the leases that ran out, within what self-preservation allows.
func (k *keeper) look() {
	now := k.s.now()
	stood := now - k.last - int64(tick)
	k.last = now
	if stood >= int64(2*tick) {
		// This process stood still. Renewals could not reach it, so nobody is to blame for silence.
		k.s.prolong(stood)
		k.log.Warn("registry stood still; leases are prolonged by as much", "for", time.Duration(stood).Round(time.Millisecond))
	}
	k.s.endWarmUp(now)
	silent, total := k.silent(now), k.s.size()
	if now-k.slice >= int64(sliceTime) {
		k.slice = now
		k.budget = max(sliceLeast, int(sliceShare*float64(total)))
	}
	rand.Shuffle(len(silent), func(i, j int) { silent[i], silent[j] = silent[j], silent[i] })
	evict := silent[:min(len(silent), k.budget)]
	gone := k.s.evict(evict, now)
	k.budget -= gone
	if now-k.forgotten >= int64(forgetEvery) {
		k.forgotten = now
		k.s.forgetOverrides(now)
	}
	if gone > 0 {
		k.log.Info("leases ran out", "evicted", gone, "silent", len(silent), "registered", total)
	}
	if kept := len(silent) > len(evict); kept != k.preserved {
		k.preserved = kept
		if kept {
			k.log.Warn("many instances fell silent at once; evicting them slowly", "silent", len(silent), "registered", total, "per", sliceTime)
		} else {
			k.log.Info("no longer preserving silent instances")
		}
	}
}

// silent lists the instances whose leases ran out. It keeps k.late.
func (k *keeper) silent(now int64) (out []*entry) {
	k.late = append(k.late, k.s.wheel.take(now)...)
	kept := k.late[:0]
	for _, e := range k.late {
		switch {
		case e.lease.hasEnded():
		case !e.lease.late(now):
			k.s.wheel.put(e, e.lease.lateAt())
		default:
			kept = append(kept, e)
			if e.lease.expired(now) {
				out = append(out, e)
			}
		}
	}
	clear(k.late[len(kept):])
	k.late = kept
	return out
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
		s.broadcast()
	}
}
