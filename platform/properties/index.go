package properties

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/roadbed/roadbed/config"
)

// index is every property, ready to resolve. It never changes; one step to the next costs what differs.
type index struct {
	rev   uint64 // grows with each index
	count int    // of records
	keys  shelf  // by key
	apps  shelf  // by [appName]: what callers of an app may see besides what is for every app
	step  *step  // to the next index
}

// appName is the name under which records of key for an app, in lower case, are found; "" = for every app.
func appName(app, key string) string { return app + "\x00" + key }

// step is what differs between one index and the next. Watchers walk from step to step; a slow one holds only steps,
// not indexes.
type step struct {
	done  chan struct{} // closed when the rest is set
	next  *step
	rev   uint64   // of the index it leads to
	moves []motion // by key
}

// motion is what became of one key.
type motion struct {
	key           string
	before, after []*record // all of the key's
	touched       []*record // that are in one of them only
	texts         *texts    // never nil
}

func newStep() *step { return &step{done: make(chan struct{})} }

// record is a property with its scope taken apart: a stored one, or one that a roll-out shows to those it has reached.
type record struct {
	Property
	rank  [2]uint16 // by [Order]: one bit per field that has a value, the most specific highest; larger wins
	wants []want
	age   uint64 // Rev, but for a roll-out's, which are newer than all stored ones

	via  *Rollout // nil = it is stored
	gone bool     // of a roll-out: the stored record of the same ID is not there

	edges bool // it is for edges alone
}

// want is what a record wants of one field of a caller.
type want struct {
	field int      // in fieldNames
	any   []string // lower case; one of these
}

func newRecord(p Property) *record {
	r := &record{Property: p, age: p.Rev}
	for i, f := range fields(p.Scope) {
		if f == "" {
			continue
		}
		r.wants = append(r.wants, want{i, values(strings.ToLower(f))})
		for order, rank := range ranks {
			r.rank[order] |= 1 << rank[i]
		}
	}
	r.edges = strings.HasPrefix(p.Key, edgePrefix) && p.App == "" && p.Cluster == "" && p.AMI == "" && p.Group == "" && p.Instance == ""
	return r
}

// The edge's own properties begin with edgePrefix: its routes, which may have a megabyte, its secrets, its limits. They are
// written for every zone or region, or for everybody, and only edges read them. A record of such a key that does not say
// whose it is, by app, cluster, image, server group or instance, is as if it were for the app edge.
const (
	edgeApp    = "edge"
	edgePrefix = "edge."
)

// caller is who asks, ready to be matched.
type caller struct {
	order Order
	field [len(fieldNames)]string // lower case
	edges bool                    // it is told what is for edges alone
}

// asCaller returns who asks from s. Who does not say which app it is may be an edge, or a person.
func asCaller(s config.Scope, order Order) *caller {
	c := &caller{order: order}
	for i, f := range fields(s) {
		c.field[i] = strings.ToLower(f)
	}
	c.edges = c.field[appField] == "" || c.field[appField] == edgeApp
	return c
}

// asking returns c as it asks for the keys that start with prefix alone: what is for edges it is told if it names that.
func (c *caller) asking(prefix string) *caller {
	c.edges = c.edges || strings.HasPrefix(prefix, edgePrefix)
	return c
}

// misses reports whether c is not told of r because r is for edges alone.
func (c *caller) misses(r *record) bool { return r.edges && !c.edges }

func (r *record) matches(c *caller) bool {
	if c.misses(r) {
		return false
	}
	for _, w := range r.wants {
		if !slices.Contains(w.any, c.field[w.field]) {
			return false
		}
	}
	return r.via == nil || r.via.reaches(c)
}

// own reports whether r is for single instances.
func (r *record) own() bool { return r.Scope.Instance != "" || r.via != nil && !r.via.everyone() }

// apps returns the apps, in lower case, whose callers may see r; "" alone for every app.
func (r *record) apps() []string {
	for _, w := range r.wants {
		if w.field == appField {
			return w.any
		}
	}
	return []string{""}
}

// beats reports whether r wins over other, which may be nil, when both match.
func (r *record) beats(other *record, order Order) bool {
	return other == nil || cmp.Or(cmp.Compare(r.rank[order], other.rank[order]), cmp.Compare(r.age, other.age)) > 0
}

// pick returns which record of a key wins for c: best, or one of records.
func (c *caller) pick(records []*record, best *record) *record {
	var hidden []string // ids; what hides a record comes after it
	for _, r := range slices.Backward(records) {
		if !r.beats(best, c.order) || !r.matches(c) || hidden != nil && slices.Contains(hidden, r.ID) {
			continue
		}
		if r.gone {
			hidden = append(hidden, r.ID)
			continue
		}
		best = r
		if c.order == Platform {
			break // those before are more general, or older
		}
	}
	return best
}

// refresh makes the index say what the table says about the records and roll-outs of these ids. The table only ever
// goes forward, so it does not matter who asks for which refresh when.
func (s *Store) refresh(ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.index.Load()
	rev := old.rev
	gone := map[*record]bool{}
	fresh := map[string][]*record{} // by key; a key that only loses records has none
	add := func(r *record) { fresh[r.Key] = append(fresh[r.Key], r) }
	remove := func(r *record) {
		gone[r] = true
		if _, ok := fresh[r.Key]; !ok {
			fresh[r.Key] = nil
		}
	}
	// Roll-outs first: one that is over has written its records before it said so, so that they are read with it.
	for _, id := range ids {
		if isRollout(id) {
			records, was := s.refreshRollout(id)
			for _, r := range records.shown {
				add(r)
			}
			for _, r := range was.shown {
				remove(r)
			}
			ids = append(ids, records.touches...)
			rev = max(rev, records.rev)
		}
	}
	for _, id := range ids {
		if isRollout(id) {
			continue
		}
		e, ok := s.table.Get(id)
		was := s.live[id]
		switch {
		case ok && !e.Value.Deleted && (was == nil || was.Rev != e.Rev):
			p := e.Value.Property
			p.ID, p.Rev = id, e.Rev
			r := newRecord(p)
			s.live[id] = r
			add(r)
			s.census(r, 1)
			rev = max(rev, e.Rev)
		case (!ok || e.Value.Deleted) && was != nil:
			delete(s.live, id)
			rev = max(rev, s.table.Rev()) // of its deletion, or later
		default:
			continue
		}
		if was != nil {
			remove(was)
			s.census(was, -1)
		}
	}
	if len(fresh) == 0 {
		return
	}
	if rev == old.rev {
		rev++ // what others wrote before the last write of this node came after it
	}
	ix := &index{rev: rev, count: len(s.live), step: newStep()}
	moves := make([]motion, 0, len(fresh))
	byKey := make([]slot, 0, len(fresh))
	byApp := map[string][]*record{}
	for _, key := range slices.Sorted(maps.Keys(fresh)) {
		before := old.keys.get(key)
		m := motion{key: key, before: before, touched: fresh[key], texts: &texts{}}
		for _, r := range before {
			if gone[r] {
				m.touched = append(m.touched, r)
			}
		}
		m.after = replaced(before, gone, fresh[key])
		moves = append(moves, m)
		byKey = append(byKey, slot{key, m.after})
		for _, r := range m.touched {
			for _, app := range r.apps() {
				name := appName(app, key)
				if _, ok := byApp[name]; ok {
					continue
				}
				mine := slices.DeleteFunc(slices.Clone(fresh[key]), func(r *record) bool { return !slices.Contains(r.apps(), app) })
				byApp[name] = replaced(old.apps.get(name), gone, mine)
			}
		}
	}
	names := make([]slot, 0, len(byApp))
	for _, name := range slices.Sorted(maps.Keys(byApp)) {
		names = append(names, slot{name, byApp[name]})
	}
	ix.keys, ix.apps = old.keys.with(byKey), old.apps.with(names)
	s.index.Store(ix)
	old.step.rev, old.step.moves, old.step.next = rev, moves, ix.step
	close(old.step.done)
	if s.steps = append(s.steps, passed{old.rev, old.step}); len(s.steps) >= 2*keptSteps {
		s.steps = append([]passed(nil), s.steps[keptSteps:]...)
	}
}

// passed is a step that was taken, and the revision of the index it led on from.
type passed struct {
	from uint64
	step *step
}

// keptSteps is how many steps are remembered, for readers that come back.
const keptSteps = 1000

// census counts r in or out. The caller holds mu.
func (s *Store) census(r *record, n int) {
	for _, app := range r.apps() {
		if s.perApp[app] += n; s.perApp[app] == 0 {
			delete(s.perApp, app)
		}
	}
}

// replaced returns records without those that are gone and with fresh ones, in order.
func replaced(records []*record, gone map[*record]bool, fresh []*record) []*record {
	out := make([]*record, 0, len(records)+len(fresh))
	for _, r := range records {
		if !gone[r] {
			out = append(out, r)
		}
	}
	out = append(out, fresh...)
	slices.SortFunc(out, byPrecedence)
	return slices.Clip(out)
}

// byPrecedence orders records of a key so that the last one that matches a caller wins in the order [Platform].
func byPrecedence(a, b *record) int {
	return cmp.Or(cmp.Compare(a.rank[Platform], b.rank[Platform]), cmp.Compare(a.age, b.age), strings.Compare(a.ID, b.ID))
}

// all calls fn with every stored record whose key starts with prefix, by key and then from general to specific, until
// fn returns false.
func (ix *index) all(prefix string, fn func(*record) bool) {
	ix.walk(prefix, func(r *record) bool { return r.via != nil || fn(r) })
}

// walk does the same with the records that roll-outs show too.
func (ix *index) walk(prefix string, fn func(*record) bool) {
	for c := ix.keys.from(prefix); ; c.step() {
		s := c.peek()
		if s == nil || !strings.HasPrefix(s.name, prefix) {
			return
		}
		for _, r := range s.records {
			if !fn(r) {
				return
			}
		}
	}
}

// visible calls fn once with every record, stored or of a roll-out, that callers of these apps, or of none, may see.
func (ix *index) visible(apps []string, fn func(*record)) {
	shared := map[*record]bool{} // of those for several apps: whether fn had it
	done := map[string]bool{}
	for _, app := range append([]string{""}, apps...) {
		if app = strings.ToLower(app); done[app] {
			continue
		}
		done[app] = true
		for c := ix.apps.from(appName(app, "")); ; c.step() {
			s := c.peek()
			if s == nil || !strings.HasPrefix(s.name, appName(app, "")) {
				break
			}
			for _, r := range s.records {
				if len(r.apps()) > 1 {
					if shared[r] {
						continue
					}
					shared[r] = true
				}
				fn(r)
			}
		}
	}
}

// winners calls fn with what c sees of the keys that start with prefix, by key.
func (ix *index) winners(c *caller, prefix string, fn func(*record)) {
	app := c.field[appField]
	common, own := ix.apps.from(appName("", prefix)), ix.apps.from(appName(app, prefix))
	if app == "" {
		own = cursor{}
	}
	next := func(c *cursor, app string) *slot {
		if s := c.peek(); s != nil && strings.HasPrefix(s.name, appName(app, prefix)) {
			return s
		}
		return nil
	}
	for {
		a, b := next(&common, ""), next(&own, app)
		order := 0
		switch {
		case a == nil && b == nil:
			return
		case a == nil:
			order = 1
		case b == nil:
			order = -1
		default:
			order = strings.Compare(a.name[1:], b.name[len(app)+1:])
		}
		var won *record
		if order <= 0 {
			won = c.pick(a.records, won)
			common.step()
		}
		if order >= 0 {
			won = c.pick(b.records, won)
			own.step()
		}
		if won != nil {
			fn(won)
		}
	}
}

// winner returns the record of key that c sees, nil if there is none.
func (ix *index) winner(key string, c *caller) *record {
	won := c.pick(ix.apps.get(appName("", key)), nil)
	if app := c.field[appField]; app != "" {
		won = c.pick(ix.apps.get(appName(app, key)), won)
	}
	return won
}

// resolve returns what a caller sees of the keys that start with prefix.
func (ix *index) resolve(c *caller, prefix string) config.Snapshot {
	s := config.Snapshot{Rev: ix.rev, Properties: map[string]string{}}
	ix.winners(c, prefix, func(r *record) {
		s.Properties[r.Key] = r.Value
		if r.own() {
			s.Own = append(s.Own, r.Key)
		}
	})
	return s
}

// Candidate is one record of a key in an explanation.
type Candidate struct {
	Property
	Staged  bool   `json:"staged,omitempty"` // it is not stored: the roll-out RolloutID shows it to those it has reached
	Matches bool   `json:"matches"`
	Wins    bool   `json:"wins"`
	Reason  string `json:"reason"`
}

// explain returns every record of a key, the most specific first, and why it wins or does not.
func (ix *index) explain(key string, scope config.Scope, order Order) []Candidate {
	c := asCaller(scope, order)
	records := slices.Clone(ix.keys.get(key))
	slices.SortStableFunc(records, func(a, b *record) int {
		return cmp.Or(cmp.Compare(b.rank[order], a.rank[order]), cmp.Compare(b.age, a.age))
	})
	var out []Candidate
	var won *record
	hidden := map[string]*Rollout{} // by record's id: who does without it
	for _, r := range records {
		d := Candidate{Property: r.mask(), Matches: r.matches(c)}
		if r.via != nil {
			d.Staged, d.RolloutID, d.Rev = true, r.via.ID, r.via.Rev
		}
		if r.gone {
			if d.Matches {
				hidden[r.ID] = r.via
			}
			continue
		}
		scoped := *r // without its roll-out
		scoped.via = nil
		switch {
		case d.Matches && hidden[r.ID] != nil:
			d.Matches, d.RolloutID = false, hidden[r.ID].ID
			d.Reason = "is deleted by a roll-out that has reached the caller"
		case c.misses(r):
			d.Reason = "is for the edge, as every " + edgePrefix + "* that names no app is; the caller says appId " + scope.App
		case !d.Matches && scoped.matches(c):
			d.Reason = "is of a roll-out that has not reached the caller"
		case !d.Matches:
			for _, w := range r.wants {
				if !slices.Contains(w.any, c.field[w.field]) {
					d.Reason = "is for " + fieldNames[w.field] + " " + fields(r.Scope)[w.field] + "; the caller says " + orNothing(fields(scope)[w.field])
					break
				}
			}
		case won == nil:
			won, d.Wins = r, true
			d.Reason = "the most specific that matches"
			if r.via != nil {
				d.Reason = "of a roll-out that has reached the caller, and the most specific that matches"
			}
			if len(r.wants) == 0 {
				d.Reason = "for everybody, and nothing more specific matches"
			}
		case won.rank == r.rank:
			d.Reason = "as specific as the winner, but written earlier"
		default:
			for _, i := range orders[order] {
				if bit := uint16(1) << ranks[order][i]; won.rank[order]&bit != 0 && r.rank[order]&bit == 0 {
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
	for _, r := range ix.keys.get(p.Key) {
		if r.ID == p.ID || r.rank != mine.rank || r.via != nil {
			continue
		}
		overlap := true
		for i, w := range r.wants { // both name the same fields
			if !slices.ContainsFunc(w.any, func(v string) bool { return slices.Contains(mine.wants[i].any, v) }) {
				overlap = false
			}
		}
		if overlap {
			out = append(out, r.name())
		}
	}
	return out
}
