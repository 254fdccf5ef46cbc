package registry

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// lease is the promise an instance keeps by renewing. Times are nanoseconds since the state's epoch.
type lease struct {
	renewed  atomic.Int64
	duration atomic.Int64
}

func (l *lease) start(now int64, seconds int32) {
	l.renewed.Store(now)
	l.duration.Store(int64(seconds) * int64(time.Second))
}

func (l *lease) renew(now int64) { l.renewed.Store(now) }

func (l *lease) expired(now int64) bool { return now > l.renewed.Load()+l.duration.Load() }

const (
	tick = time.Second // how often leases are looked at

	// Self-preservation: when many fall silent at once the network is the likelier culprit. In any slice of time at
	// most this share of the instances is evicted, or two if that is more.
	sliceTime  = 30 * time.Second
	sliceShare = 0.15
	sliceLeast = 2

	// warmUp is how long after the first registration a fresh registry says that it may not know everybody yet.
	warmUp = 35 * time.Second
)

// keeper ends leases. It belongs to the goroutine of Run.
type keeper struct {
	s         *state
	log       *slog.Logger
	last      int64 // ns since epoch of the last look
	slice     int64 // ns since epoch at which the current slice of time began
	budget    int   // how many more may be evicted in it
	preserved bool  // whether expired leases were kept at the last look
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
	late := now - k.last - int64(tick)
	k.last = now
	if late >= int64(2*tick) {
		// This process stood still. Renewals could not reach it, so nobody is to blame for silence.
		k.s.prolong(late)
		k.log.Warn("registry stood still; leases are prolonged by as much", "for", time.Duration(late).Round(time.Millisecond))
	}
	k.s.endWarmUp(now)
	silent, total := k.s.silent(now)
	if now-k.slice >= int64(sliceTime) {
		k.slice = now
		k.budget = max(sliceLeast, int(sliceShare*float64(total)))
	}
	rand.Shuffle(len(silent), func(i, j int) { silent[i], silent[j] = silent[j], silent[i] })
	evict := silent[:min(len(silent), k.budget)]
	gone := k.s.evict(evict, now)
	k.budget -= gone
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

// silent lists the instances whose leases ran out, and counts all.
func (s *state) silent(now int64) (ks []key, total int) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, a := range s.apps {
		for _, e := range a.order {
			if e.lease.expired(now) {
				ks = append(ks, e.rec.key())
			}
		}
	}
	return ks, s.count
}

// evict removes those of ks that are still silent. Decisions about them stay, for the case that they come back.
func (s *state) evict(ks []key, now int64) (gone int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range ks {
		if e := s.find(k); e == nil || !e.lease.expired(now) {
			continue
		}
		s.remove(k)
		gone++
		if ov, ok := s.overrides[k]; ok {
			ov.orphan = now
			s.overrides[k] = ov
		}
	}
	for k, ov := range s.overrides {
		if ov.orphan != 0 && now-ov.orphan > int64(overrideOutlives) {
			delete(s.overrides, k)
		}
	}
	return gone
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
