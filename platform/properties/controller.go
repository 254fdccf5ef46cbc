package properties

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
)

// One node steers the roll-outs: the one that holds this lease. When it dies another has it within leaseLife.
const (
	leaseName = "properties.rollouts"
	leaseLife = 10 * time.Second
)

const (
	lookEvery    = time.Second
	ackLimit     = time.Minute
	settle       = 2 * time.Second // until every node has told of its readers
	reportEvery  = 5 * time.Second // a node tells of its readers; silent for three times that it is gone
	measureEvery = 5 * time.Second
	blindLimit   = time.Minute // without an answer to a metric rule
	keptOver     = 500         // roll-outs that are over
	tidyEvery    = time.Minute
)

// controllerName is who acts when nobody did.
const controllerName = "properties"

// lead holds the lease, or waits for it, until ctx ends.
func (s *Store) lead(ctx context.Context) {
	for ctx.Err() == nil {
		lease, err := s.engine.Acquire(ctx, leaseName, s.node, leaseLife)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Debug("the lease to steer roll-outs cannot be had", "err", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		leading, stop := context.WithCancel(ctx)
		s.leading.Store(&leading)
		wake(s.acks)
		select {
		case <-ctx.Done():
		case <-lease.Lost():
		}
		stop()
		s.steering.Lock() // what is under way ends first
		s.leading.Store(nil)
		s.steering.Unlock()
		if s.engine.Health() != nil {
			continue // it ends by itself
		}
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		if err := lease.Release(release); err != nil {
			s.log.Debug("the lease to steer roll-outs is left to expire", "err", err)
		}
		cancel()
	}
}

// tend observes roll-outs until ctx ends, and steers them while this node leads.
func (s *Store) tend(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var unfollow func()
	defer func() {
		if unfollow != nil {
			unfollow()
		}
	}()
	for {
		s.mu.Lock()
		news := s.rolloutNews
		s.mu.Unlock()
		unfollow = s.follow(unfollow)
		s.look(ctx, time.Now())
		if leading := s.leading.Load(); leading != nil {
			s.steering.Lock()
			again := s.steer(*leading, time.Now())
			s.steering.Unlock()
			if again {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-news:
		case <-s.fleetNews:
		case <-s.acks:
		}
	}
}

// steer takes every roll-out as far as it can go now, and reports whether it moved one.
func (s *Store) steer(ctx context.Context, now time.Time) (moved bool) {
	docs := s.documents()
	for _, r := range docs {
		if ctx.Err() != nil {
			return false
		}
		if !r.State.active() {
			continue
		}
		ev, why := s.decide(ctx, r, docs, now)
		if ev == "" {
			continue
		}
		fresh, err := s.document(r.ID)
		if err == nil && fresh.Rev != r.Rev {
			continue // it went on meanwhile
		}
		if err == nil {
			_, err = s.move(ctx, fresh, ev, controllerName, why)
		}
		switch {
		case err == nil:
			moved = true
			level := s.log.Info
			if ev == evFail || ev == evStall || ev == evConflict {
				level = s.log.Warn
			}
			level("roll-out goes on", "rollout", r.ID, "event", ev, "why", why)
		case errors.Is(err, ErrConflict) || ctx.Err() != nil: // a person, or whoever leads now, was faster
		default:
			s.log.Warn("a roll-out cannot go on; trying again", "rollout", r.ID, "event", ev, "err", err)
		}
	}
	s.tidy(ctx, docs, now)
	return moved
}

// decide returns what happens to r now, "" for nothing.
func (s *Store) decide(ctx context.Context, r *Rollout, docs []*Rollout, now time.Time) (event, string) {
	switch r.State {
	case Folding:
		return s.fold(ctx, r)
	case Unfolding:
		return s.unfold(ctx, r)
	}
	if other := rival(r, docs); other != nil {
		return evFail, "roll-out " + other.ID + ", which began first, changes the same"
	}
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	o := s.observers[r.ID]
	if o == nil || o.step != r.Step || o.stage != r.stage() || !o.since.Equal(r.Since) {
		return "", "" // it was not looked at yet
	}
	if r.stage() == (stage{Paused, Conflict}) {
		return "", ""
	}
	if n := len(o.status.Flaws); n > 0 {
		f := o.status.Flaws[0]
		return evFail, fmt.Sprintf("%s cannot use %s: %s", f.Instance, f.Key, f.Error)
	}
	if o.struck != "" {
		return evFail, o.struck
	}
	if r.State != Running {
		return "", ""
	}
	s.measureRules(ctx, r, o, now)
	step, here := r.Steps[r.Step], now.Sub(o.entered)
	switch r.Phase {
	case Applying:
		share := 1.0
		if o.status.Readers > 0 {
			share = float64(o.status.Acked) / float64(o.status.Readers)
		}
		switch {
		case *step.NeedAck > 0 && here < settle:
		case share >= *step.NeedAck:
			return evApplied, fmt.Sprintf("%d of %d readers took it", o.status.Acked, o.status.Readers)
		case here >= ackLimit:
			return evStall, fmt.Sprintf("after %v only %d of %d readers took it", ackLimit, o.status.Acked, o.status.Readers)
		}
	case Baking:
		if here >= time.Duration(*step.Bake) {
			return evBaked, fmt.Sprintf("%v are over", time.Duration(*step.Bake))
		}
	case Analysing:
		if s.judging(r, o) && o.unknown != nil {
			if here >= blindLimit {
				return evDoubt, o.unknown.Error()
			}
			return "", ""
		}
		score := s.judge(r, o.status)
		why := fmt.Sprintf("score %.0f", score)
		switch {
		case score < r.Guards.Pass:
			return evFail, fmt.Sprintf("%s, less than %.0f", why, r.Guards.Pass)
		case score < r.Guards.Marginal:
			return evDoubt, fmt.Sprintf("%s, less than %.0f: look at it", why, r.Guards.Marginal)
		}
		for _, env := range r.envs() {
			if s.frozen(env) != "" {
				return "", ""
			}
		}
		return evPassed, why
	}
	return "", ""
}

// judging reports whether r has rules by metric that could be asked.
func (s *Store) judging(r *Rollout, o *observer) bool {
	return len(r.Guards.Metrics) > 0 && o.status.Reached > 0
}

// rival returns an active roll-out that changes the same as r and began before it: two nodes may have started two at
// the same moment.
func rival(r *Rollout, docs []*Rollout) *Rollout {
	mine := r.parties()
	for _, other := range docs {
		if other.ID == r.ID || !other.State.active() || !before(other, r) {
			continue
		}
		if slices.ContainsFunc(other.parties(), func(p string) bool { _, both := slices.BinarySearch(mine, p); return both }) {
			return other
		}
	}
	return nil
}

// before reports whether a was started before b.
func before(a, b *Rollout) bool {
	if x, y := a.started(), b.started(); !x.Equal(y) {
		return x.Before(y)
	}
	return strings.Compare(a.ID, b.ID) < 0
}

// started returns when a person started r.
func (r *Rollout) started() time.Time {
	for _, p := range r.History {
		if p.Event == string(evStart) {
			return p.At
		}
	}
	return r.Created // so long ago that it is not in the history
}

// inName returns the ledger entry of a change that r makes.
func (r *Rollout) inName(action, key string) roadbed.Change {
	c := api.Change(context.Background(), action, "property:"+key)
	c.Actor, c.Why = r.Starter, strings.TrimSuffix("roll-out "+r.ID+": "+r.Title, ": ")
	return c
}

// fold writes what r changes into the records. It may be done again and again: everybody sees r's values meanwhile.
func (s *Store) fold(ctx context.Context, r *Rollout) (event, string) {
	s.writing.Lock()
	defer s.writing.Unlock()
	for _, e := range r.Changes {
		if ctx.Err() != nil {
			return "", ""
		}
		var was Property // absent
		if e.Before != nil {
			was = *e.Before
		}
		now, exists := s.current(e.Record.ID)
		switch {
		case exists && now.RolloutID == r.ID && e.Op == SetOp, !exists && e.Op == DeleteOp:
			continue // done
		case exists != (e.Before != nil) || now.Rev != was.Rev:
			return evConflict, s.conflict(e, now, exists)
		}
		var err error
		if e.Op == SetOp {
			p := e.Record
			p.RolloutID = r.ID
			_, err = s.write(ctx, r.inName("property.set", p.Key), p, was)
		} else {
			err = s.remove(ctx, r.inName("property.delete", was.Key), was, r.ID)
		}
		if errors.Is(err, ErrConflict) {
			now, exists = s.current(e.Record.ID)
			return evConflict, s.conflict(e, now, exists)
		}
		if err != nil {
			if ctx.Err() == nil {
				s.log.Warn("a roll-out's records cannot be written; trying again", "rollout", r.ID, "err", err)
			}
			return "", ""
		}
	}
	if len(r.Changes) == 1 {
		return evFolded, "the record is written"
	}
	return evFolded, fmt.Sprintf("%d records are written", len(r.Changes))
}

func (s *Store) conflict(e Edit, now Property, exists bool) string {
	if !exists {
		return e.Record.name() + " was deleted meanwhile; resume to write it anew, abort to undo the roll-out"
	}
	return fmt.Sprintf("%s was changed by %s meanwhile, to revision %d; resume to overwrite that, abort to undo the roll-out", e.Record.name(), now.UpdatedBy, now.Rev)
}

// unfold puts back what fold wrote. It may be done again and again: everybody sees what was before meanwhile.
func (s *Store) unfold(ctx context.Context, r *Rollout) (event, string) {
	s.writing.Lock()
	defer s.writing.Unlock()
	for _, e := range r.Changes {
		if ctx.Err() != nil {
			return "", ""
		}
		now, exists := s.current(e.Record.ID)
		var err error
		switch {
		case exists && now.RolloutID == r.ID && e.Op == SetOp && e.Before == nil:
			err = s.remove(ctx, r.inName("property.delete", now.Key), now, "")
		case exists && now.RolloutID == r.ID && e.Op == SetOp:
			_, err = s.write(ctx, r.inName("property.set", now.Key), *e.Before, now)
		case !exists && e.Op == DeleteOp && e.Before != nil:
			var mine bool
			if mine, err = s.deletedBy(ctx, e.Before.ID, r.ID); mine {
				_, err = s.write(ctx, r.inName("property.set", e.Before.Key), *e.Before, Property{})
			}
		}
		if err != nil {
			if ctx.Err() == nil {
				s.log.Warn("what a roll-out wrote cannot be put back; trying again", "rollout", r.ID, "err", err)
			}
			return "", ""
		}
	}
	return evUnfolded, "everything is as it was"
}

// deletedBy reports whether that roll-out deleted the property of that id.
func (s *Store) deletedBy(ctx context.Context, id, rollout string) (bool, error) {
	past, err := s.History(ctx, id)
	if errors.Is(err, ErrNotFound) || err == nil && len(past) == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	last := past[len(past)-1]
	return last.Deleted && last.RolloutID == rollout, nil
}

// tidy forgets, once in a while, the oldest roll-outs that are over, beyond keptOver, and what nodes told of those that
// are.
func (s *Store) tidy(ctx context.Context, docs []*Rollout, now time.Time) {
	if now.Sub(s.tidied) < tidyEvery {
		return
	}
	s.tidied = now
	for _, e := range s.reports.List("") {
		id, _, _ := strings.Cut(e.Key, ".")
		if slices.ContainsFunc(docs, func(r *Rollout) bool { return r.ID == id && r.State.active() }) {
			continue
		}
		if err := s.reports.Delete(ctx, e.Key, 0); err != nil {
			return // another time
		}
	}
	over := 0
	for _, r := range docs { // newest first
		if !r.State.Over() {
			continue
		}
		if over++; over <= keptOver {
			continue
		}
		if err := s.table.Delete(ctx, rolloutPrefix+r.ID, r.Rev); err != nil {
			return
		}
		s.refresh(rolloutPrefix + r.ID)
	}
}
