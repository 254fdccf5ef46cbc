package properties

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/roadbed/roadbed/config"
)

// index is every property, ready to resolve. It never changes.
type index struct {
	rev     uint64    // grows with each index
	records []*record // by key, then from general to specific, then from old to new
	byID    map[string]*record
	step    *step // to the next index
}

// step is what differs between one index and the next. Watchers walk from step to step; a slow one holds only steps,
// not indexes.
type step struct {
	done chan struct{} // closed when next and keys are set
	next *step
	keys []string // whose records changed
}

func newStep() *step { return &step{done: make(chan struct{})} }

// record is a property with its scope taken apart.
type record struct {
	Property
	rank uint                      // one bit per field that has a value, the most specific highest: larger wins
	want [len(fieldNames)][]string // lower case; nil = any
}

func newRecord(p Property) *record {
	r := &record{Property: p}
	for i, f := range fields(p.Scope) {
		r.rank <<= 1
		if f != "" {
			r.rank |= 1
			r.want[i] = values(strings.ToLower(f))
		}
	}
	return r
}

// caller is a scope ready to be matched: lower case, in the order of fieldNames.
type caller []string

func asCaller(s config.Scope) caller {
	c := fields(s)
	for i := range c {
		c[i] = strings.ToLower(c[i])
	}
	return c
}

func (r *record) matches(c caller) bool {
	for i, want := range r.want {
		if want != nil && !slices.Contains(want, c[i]) {
			return false
		}
	}
	return true
}

// refresh makes the index say what the table says about the records of these ids. The table only ever goes forward, so
// it does not matter who asks for which refresh when.
func (s *Store) refresh(ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.index.Load()
	touched := make(map[string]*record, len(ids)) // nil = it is gone
	rev := old.rev
	for _, id := range ids {
		e, ok := s.table.Get(id)
		was := old.byID[id]
		switch {
		case !ok || e.Value.Deleted:
			if was != nil {
				touched[id] = nil
			}
		case was == nil || was.Rev != e.Rev:
			p := e.Value
			p.ID, p.Rev = id, e.Rev
			touched[id] = newRecord(p)
			rev = max(rev, e.Rev)
		}
	}
	if len(touched) == 0 {
		return
	}
	if rev == old.rev {
		rev++ // a deletion raises no record's revision
	}
	ix := &index{rev: rev, byID: maps.Clone(old.byID), step: newStep(), records: make([]*record, 0, len(old.records)+len(touched))}
	changed := map[string]bool{}
	var fresh []*record
	for id, r := range touched {
		if was := old.byID[id]; was != nil {
			changed[was.Key] = true
		}
		if r == nil {
			delete(ix.byID, id)
			continue
		}
		changed[r.Key] = true
		ix.byID[id] = r
		fresh = append(fresh, r)
	}
	slices.SortFunc(fresh, byPrecedence)
	for _, r := range old.records {
		if _, gone := touched[r.ID]; gone {
			continue
		}
		for len(fresh) > 0 && byPrecedence(fresh[0], r) < 0 {
			ix.records, fresh = append(ix.records, fresh[0]), fresh[1:]
		}
		ix.records = append(ix.records, r)
	}
	ix.records = append(ix.records, fresh...)
	s.index.Store(ix)
	old.step.keys = slices.Sorted(maps.Keys(changed))
	old.step.next = ix.step
	close(old.step.done)
}

// byPrecedence orders records by key, then so that the last one that matches a caller wins.
func byPrecedence(a, b *record) int {
	return cmp.Or(strings.Compare(a.Key, b.Key), cmp.Compare(a.rank, b.rank), cmp.Compare(a.Rev, b.Rev))
}

// key returns the records of a key, from general to specific.
func (ix *index) key(key string) []*record {
	byKey := func(r *record, key string) int { return strings.Compare(r.Key, key) }
	from, _ := slices.BinarySearchFunc(ix.records, key, byKey)
	to := from
	for to < len(ix.records) && ix.records[to].Key == key {
		to++
	}
	return ix.records[from:to]
}

// winner returns the record of key that c sees, nil if there is none.
func (ix *index) winner(key string, c caller) *record {
	for _, r := range slices.Backward(ix.key(key)) {
		if r.matches(c) {
			return r
		}
	}
	return nil
}

// resolve returns what a caller sees of the keys that start with prefix.
func (ix *index) resolve(scope config.Scope, prefix string) config.Snapshot {
	c := asCaller(scope)
	s := config.Snapshot{Rev: ix.rev, Properties: map[string]string{}}
	from, _ := slices.BinarySearchFunc(ix.records, prefix, func(r *record, p string) int { return strings.Compare(r.Key, p) })
	var last *record
	take := func() {
		if last != nil {
			s.Properties[last.Key] = last.Value
			if last.Scope.Instance != "" {
				s.Own = append(s.Own, last.Key)
			}
		}
		last = nil
	}
	for _, r := range ix.records[from:] {
		if !strings.HasPrefix(r.Key, prefix) {
			break
		}
		if last != nil && last.Key != r.Key {
			take()
		}
		if r.matches(c) {
			last = r // records of a key come from general to specific
		}
	}
	take()
	return s
}

// Candidate is one record of a key in an explanation.
type Candidate struct {
	Property
	Matches bool   `json:"matches"`
	Wins    bool   `json:"wins"`
	Reason  string `json:"reason"`
}

// explain returns every record of a key, the most specific first, and why it wins or does not.
func (ix *index) explain(key string, scope config.Scope) []Candidate {
	c := asCaller(scope)
	var out []Candidate
	var won *record
	for _, r := range slices.Backward(ix.key(key)) {
		d := Candidate{Property: r.mask(), Matches: r.matches(c)}
		switch {
		case !d.Matches:
			for i, want := range r.want {
				if want != nil && !slices.Contains(want, c[i]) {
					d.Reason = "is for " + fieldNames[i] + " " + fields(r.Scope)[i] + "; the caller says " + orNothing(fields(scope)[i])
					break
				}
			}
		case won == nil:
			won, d.Wins = r, true
			d.Reason = "the most specific that matches"
			if r.rank == 0 {
				d.Reason = "for everybody, and nothing more specific matches"
			}
		case won.rank == r.rank:
			d.Reason = "as specific as the winner, but written earlier"
		default:
			for i := range fieldNames {
				bit := uint(1) << (len(fieldNames) - 1 - i)
				if won.rank&bit != 0 && r.rank&bit == 0 {
					d.Reason = "names no " + fieldNames[i] + ", which the winner does"
					break
				}
			}
		}
		out = append(out, d)
	}
	return out
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// rivals returns the names of the records that are exactly as specific as p and may fit the same caller, so that the
// later one written wins: seldom what anybody wants.
func (ix *index) rivals(p Property) []string {
	mine := newRecord(p)
	var out []string
	for _, r := range ix.key(p.Key) {
		if r.ID == p.ID || r.rank != mine.rank {
			continue
		}
		overlap := true
		for i := range r.want {
			if r.want[i] != nil && !slices.ContainsFunc(r.want[i], func(v string) bool { return slices.Contains(mine.want[i], v) }) {
				overlap = false
			}
		}
		if overlap {
			out = append(out, r.name())
		}
	}
	return out
}
