package properties

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
)

// rolloutPrefix begins the ids of roll-outs in the table. They share it with the properties, so that every node sees
// the writes of both in one order.
const rolloutPrefix = "r."

func isRollout(id string) bool { return strings.HasPrefix(id, rolloutPrefix) }

// stored is what the engine's table holds under an id: a property, or a roll-out.
type stored struct {
	Property
	Rollout *Rollout `json:"rollout,omitempty"`
}

// overlay is what a roll-out shows to those it has reached.
type overlay struct {
	doc   *Rollout // never altered
	shown []*record
}

// refreshed is what became of a roll-out in the index.
type refreshed struct {
	shown   []*record
	touches []string // ids of the records it changes
	rev     uint64
}

// refreshRollout takes the roll-out of that id from the table, and returns which records of it come and which go. The
// caller holds mu.
func (s *Store) refreshRollout(id string) (now, was refreshed) {
	old := s.rollouts[id]
	e, ok := s.table.Get(id)
	var doc *Rollout
	if ok && e.Value.Rollout != nil {
		copied := *e.Value.Rollout
		copied.Rev = e.Rev
		doc = &copied
	}
	if old == nil && doc == nil || old != nil && doc != nil && old.doc.Rev == doc.Rev {
		return now, was
	}
	next := &overlay{doc: doc}
	switch {
	case doc != nil && old != nil && sameReach(old.doc, doc):
		next.shown = old.shown
	default:
		next.shown = doc.shows()
		now.shown = next.shown
		if old != nil {
			was.shown = old.shown
		}
	}
	for _, r := range slices.Concat(next.shown, was.shown) {
		now.touches = append(now.touches, r.ID)
	}
	if doc == nil {
		delete(s.rollouts, id)
	} else {
		s.rollouts[id], now.rev = next, doc.Rev
	}
	close(s.rolloutNews)
	s.rolloutNews = make(chan struct{})
	return now, was
}

// sameReach reports whether two states of a roll-out show the same to the same.
func sameReach(a, b *Rollout) bool {
	return a.State.active() == b.State.active() && a.everyone() == b.everyone() && (a.State == Unfolding) == (b.State == Unfolding) &&
		a.Step == b.Step && slices.Equal(a.Chosen, b.Chosen)
}

// shows returns the records that r shows to those it has reached.
func (r *Rollout) shows() []*record {
	if r == nil || !r.State.active() {
		return nil
	}
	var out []*record
	for _, e := range r.Changes {
		p, there := e.Record, e.Op == SetOp
		if r.State == Unfolding {
			if there = e.Before != nil; there {
				p = *e.Before
			}
		}
		rec := newRecord(p)
		rec.age, rec.via, rec.gone = math.MaxUint64, r, !there
		out = append(out, rec)
	}
	return out
}

// asRegistered returns what an instance would say of itself if it asked, as far as the registry knows.
func asRegistered(i roadbed.Instance) config.Scope {
	return derive(config.Scope{App: i.App, Group: i.Group, Zone: i.Location.Zone, Region: i.Location.Region, Instance: i.ID,
		Env: i.Metadata["env"], AMI: i.Metadata["ami"], Countries: i.Metadata["countries"]})
}

// concerns reports whether r changes something for a registered instance. What the registry does not tell of it is
// taken to fit.
func (r *Rollout) concerns(c *caller) bool {
	return slices.ContainsFunc(r.Changes, func(e Edit) bool {
		return !slices.ContainsFunc(newRecord(e.Record).wants, func(w want) bool {
			return !slices.Contains(w.any, c.field[w.field]) && (c.field[w.field] != "" || w.field == instanceField || w.field == appField)
		})
	})
}

// Expanded returns what List does, values in clear and with what roll-outs show as ordinary records: for instances that
// one has reached, a record of the value they see, scoped to exactly those; for everybody, in place of the stored one.
// It is for readers that resolve records themselves.
func (s *Store) Expanded(filter Filter) []Property {
	ix := s.index.Load()
	out := []Property{}
	take := func(p Property) {
		if filter.Match(p) {
			out = append(out, p)
		}
	}
	prefix := filter.prefix()
	for c := ix.keys.from(prefix); ; c.step() {
		slot := c.peek()
		if slot == nil || !strings.HasPrefix(slot.name, prefix) {
			break
		}
		staged := false
		replaced := map[string]bool{} // ids
		for _, r := range slot.records {
			if r.via != nil && r.via.everyone() {
				replaced[r.ID] = true
			}
			staged = staged || r.via != nil && !r.via.everyone()
		}
		for _, r := range slot.records {
			switch {
			case r.via == nil && !replaced[r.ID]:
				take(r.Property)
			case r.via != nil && r.via.everyone() && !r.gone:
				p := r.Property
				p.Rev = r.via.Rev
				take(p)
			}
		}
		if staged {
			for _, p := range s.reached(slot.records) {
				take(p)
			}
		}
	}
	return out
}

// reached returns the records of one key that roll-outs make for single instances: one for each value, for those that
// would not see it otherwise.
func (s *Store) reached(records []*record) []Property {
	type group struct {
		won *record
		ids []string
	}
	var groups []*group
	for _, c := range s.instances(s.order) {
		if !slices.ContainsFunc(records, func(r *record) bool { return r.via != nil && !r.via.everyone() && r.matches(c) }) {
			continue
		}
		plain := slices.DeleteFunc(slices.Clone(records), func(r *record) bool { return r.via != nil && !r.via.everyone() })
		now, base := c.pick(records, nil), c.pick(plain, nil)
		if now == nil || base != nil && base.Value == now.Value {
			continue // a value that is gone cannot be told to a reader that resolves by itself
		}
		i := slices.IndexFunc(groups, func(g *group) bool { return g.won == now })
		if i < 0 {
			i, groups = len(groups), append(groups, &group{won: now})
		}
		groups[i].ids = append(groups[i].ids, c.field[instanceField])
	}
	var out []Property
	for _, g := range groups {
		p := g.won.Property
		slices.Sort(g.ids)
		p.Scope.Instance = strings.Join(g.ids, ",")
		p.ID = ID(p.Key, p.Scope)
		if g.won.via != nil {
			p.Rev = g.won.via.Rev
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Property) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
