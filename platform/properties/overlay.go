package properties

import (
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

// newest is an age that no stored record has.
const newest = 1 << 63

// shows returns the records that r shows to those it has reached.
func (r *Rollout) shows() []*record {
	if r == nil || !r.State.active() {
		return nil
	}
	var out []*record
	for i, e := range r.Changes {
		p, there := e.Record, e.Op == SetOp
		age := newest + uint64(i) // as they will be written
		if r.State == Unfolding {
			age = newest
			if there = e.Before != nil; there {
				p = *e.Before
				age += e.Before.Rev
			}
		}
		rec := newRecord(p)
		rec.age, rec.via, rec.gone = age, r, !there
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
		rec := newRecord(e.Record)
		return !c.misses(rec) && !slices.ContainsFunc(rec.wants, func(w want) bool {
			return !slices.Contains(w.any, c.field[w.field]) && (c.field[w.field] != "" || w.field == instanceField || w.field == appField)
		})
	})
}

// expanded returns what readers that resolve by themselves are told: the stored records of these apps and of none, or of
// all if ok is false, whose keys start with prefix, with what roll-outs show as ordinary records. Those for everybody
// stand in place of the stored ones; for instances that one has reached there is a record of the value they see, scoped
// to exactly those. What is for edges alone is told to readers of other apps if prefix names it.
func (s *Store) expanded(ix *index, order Order, apps []string, ok bool, prefix string) []*record {
	var records, everyone []*record
	replaced := map[string]bool{} // ids
	staged := map[string]bool{}   // keys
	edges := !ok || !slices.ContainsFunc(apps, func(app string) bool { return app != "" })
	for _, app := range apps {
		edges = edges || app != "" && asCaller(config.Scope{App: app}, order).asking(prefix).edges
	}
	take := func(r *record) {
		switch {
		case r.edges && !edges:
		case r.via == nil:
			records = append(records, r)
		case !r.via.everyone():
			staged[r.Key] = true
		default:
			replaced[r.ID] = true
			if !r.gone {
				everyone = append(everyone, told(r.Property, r))
			}
		}
	}
	if ok { // as every reader asks; the other apps' records are not even looked at
		ix.visible(apps, func(r *record) {
			if strings.HasPrefix(r.Key, prefix) {
				take(r)
			}
		})
	} else {
		ix.walk(prefix, func(r *record) bool { take(r); return true })
	}
	if len(replaced) > 0 {
		records = slices.DeleteFunc(records, func(r *record) bool { return replaced[r.ID] })
	}
	records = append(records, everyone...)
	if len(staged) == 0 {
		return records
	}
	readers := s.instances(order)
	var out []*record
	for _, r := range records {
		if !staged[r.Key] || r.Scope.Instance == "" {
			out = append(out, r)
			continue
		}
		// One for single instances would win over what those reached are told instead of it.
		lost := map[string]bool{}
		for _, o := range ix.keys.get(r.Key) {
			if o.via == nil || o.ID != r.ID {
				continue
			}
			for _, c := range readers {
				lost[c.field[instanceField]] = lost[c.field[instanceField]] || o.matches(c)
			}
		}
		left := slices.DeleteFunc(values(r.Scope.Instance), func(id string) bool { return lost[strings.ToLower(id)] })
		if len(left) > 0 {
			p := r.Property
			p.Scope.Instance = strings.Join(left, ",")
			out = append(out, newRecord(p))
		}
	}
	for key := range staged {
		out = append(out, reached(ix.keys.get(key), readers)...)
	}
	return out
}

// reached returns the records of one key that roll-outs make for single instances: one for each value, for those that
// would not see it otherwise.
func reached(records []*record, readers []*caller) []*record {
	type group struct {
		won *record
		ids []string
	}
	var groups []*group
	for _, c := range readers {
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
	var out []*record
	for _, g := range groups {
		p := g.won.Property
		slices.Sort(g.ids)
		p.Scope.Instance = strings.Join(g.ids, ",")
		p.ID = ID(p.Key, p.Scope)
		out = append(out, told(p, g.won))
	}
	return out
}

// told returns p as an ordinary record, newer than all others, that stands for won.
func told(p Property, won *record) *record {
	r := newRecord(p)
	r.age = newest
	if won.via != nil {
		r.Rev, r.age = won.via.Rev, won.age
	}
	return r
}
