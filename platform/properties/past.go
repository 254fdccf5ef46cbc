package properties

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/engine"
)

// Moment is a point in the store's past: after a revision, or at a time. The zero Moment is now.
type Moment struct {
	Rev uint64
	At  time.Time
}

// ParseMoment reads a revision ("4711"), a time (RFC 3339), how long ago ("10m"), or "now".
func ParseMoment(text string) (Moment, error) {
	if text == "" || text == "now" {
		return Moment{}, nil
	}
	if rev, err := strconv.ParseUint(text, 10, 64); err == nil && rev > 0 {
		return Moment{Rev: rev}, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return Moment{At: at}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago > 0 {
		return Moment{At: time.Now().Add(-ago)}, nil
	}
	return Moment{}, invalid("%q is not a moment; use a revision such as 4711, a time such as 2026-01-31T12:00:00Z, how long ago such as 10m, or now", text)
}

// now reports whether m is now.
func (m Moment) now() bool { return m == Moment{} }

// String returns "revision 4711", the time, or "now".
func (m Moment) String() string {
	switch {
	case m.Rev != 0:
		return fmt.Sprint("revision ", m.Rev)
	case !m.At.IsZero():
		return m.At.UTC().Format(time.RFC3339)
	}
	return "now"
}

func (m Moment) holds(r engine.Revision[stored]) bool {
	return m.now() || m.Rev != 0 && r.Rev <= m.Rev || m.Rev == 0 && !r.Time.After(m.At)
}

// state is what was stored at a moment.
type state struct {
	by   map[string]Property // by id
	lost map[string]string   // names by id: what they were then is not kept any more
}

// asOf returns what was stored at these moments, of what filter selects.
func (s *Store) asOf(ctx context.Context, filter Filter, moments ...Moment) ([]state, error) {
	out := make([]state, len(moments))
	for i := range out {
		out[i] = state{map[string]Property{}, map[string]string{}}
	}
	kept := map[string]int{}
	early := make([]map[string]bool, len(moments)) // ids that have a kept revision as early as that
	for i := range early {
		early[i] = map[string]bool{}
	}
	names := map[string]string{}
	err := s.table.Past(ctx, func(r engine.Revision[stored]) error {
		if isRollout(r.Key) {
			return nil
		}
		kept[r.Key]++
		p := r.Value.Property
		p.ID, p.Rev = r.Key, r.Rev
		wanted := r.Deleted || filter.Match(p)
		if !r.Deleted {
			names[r.Key] = p.name()
		}
		for i, m := range moments {
			switch {
			case !m.holds(r):
			case r.Deleted || p.Deleted:
				early[i][r.Key] = true
				delete(out[i].by, r.Key)
			case wanted:
				early[i][r.Key] = true
				out[i].by[r.Key] = p
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for id, n := range kept {
		for i, m := range moments {
			if n >= history && !early[i][id] && !m.now() {
				if now, ok := s.current(id); ok && !filter.Match(now) {
					continue
				}
				out[i].lost[id] = names[id]
			}
		}
	}
	return out, nil
}

// Difference is what one record was at one moment and is at another. Sensitive values are masked.
type Difference struct {
	Before *Property `json:"before,omitempty"` // absent if it was not there
	After  *Property `json:"after,omitempty"`
}

// Differences is the answer to diff.
type Differences struct {
	Differences []Difference `json:"differences"`    // by key, then by scope
	Lost        []string     `json:"lost,omitempty"` // records that were written too often since to know
}

// Diff returns how what filter selects differs between two moments. It asks the engine for everything that is kept, and
// fails with [ErrUnavailable] while that is away.
func (s *Store) Diff(ctx context.Context, filter Filter, from, to Moment) (Differences, error) {
	states, err := s.asOf(ctx, filter, from, to)
	if err != nil {
		return Differences{}, err
	}
	out := Differences{Differences: []Difference{}}
	before, after := states[0], states[1]
	for _, id := range union(before.by, after.by) {
		a, had := before.by[id]
		b, has := after.by[id]
		if had && has && a.same(b) || before.lost[id] != "" || after.lost[id] != "" {
			continue
		}
		var d Difference
		if had {
			m := a.mask()
			d.Before = &m
		}
		if has {
			m := b.mask()
			d.After = &m
		}
		out.Differences = append(out.Differences, d)
	}
	slices.SortFunc(out.Differences, func(x, y Difference) int {
		a, b := cmp.Or(x.Before, x.After), cmp.Or(y.Before, y.After)
		return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.ScopeText(), b.ScopeText()))
	})
	lost := map[string]bool{}
	for _, st := range states {
		for _, name := range st.lost {
			lost[name] = true
		}
	}
	out.Lost = slices.Sorted(maps.Keys(lost))
	return out, nil
}

func union(a, b map[string]Property) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

// same reports whether readers and writers see no difference between p and q, which are of the same key and scope.
func (p Property) same(q Property) bool {
	return p.Value == q.Value && p.Type == q.Type && p.Sensitive == q.Sensitive && p.Description == q.Description && p.Constraint.same(q.Constraint)
}

func (c *Constraint) same(d *Constraint) bool {
	if c == nil || d == nil {
		return c == d
	}
	bound := func(a, b *float64) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }
	return bound(c.Min, d.Min) && bound(c.Max, d.Max) && c.Pattern == d.Pattern
}

// Back returns the changes that make what filter selects what it was at a moment, with what they replace. What other rooms keep as properties,
// and the brakes, are left alone unless filter names them. It fails with [ErrInvalid] if that is not known any more.
func (s *Store) Back(ctx context.Context, filter Filter, to Moment) ([]Edit, error) {
	if to.now() {
		return nil, invalid("say to which revision, with toRev, or to which time, with at")
	}
	states, err := s.asOf(ctx, filter, to)
	if err != nil {
		return nil, err
	}
	then := states[0]
	if n := len(then.lost); n > 0 {
		return nil, invalid("%d properties were written more than %d times since %s, so that what they were is not known any more, %s among them; leave those out, by app, prefix or key",
			n, history, to, slices.Min(slices.Collect(maps.Values(then.lost))))
	}
	now := map[string]Property{}
	s.index.Load().all(filter.prefix(), func(r *record) bool {
		if filter.Match(r.Property) {
			now[r.ID] = r.Property
		}
		return true
	})
	edits := []Edit{}
	for _, id := range union(now, then.by) {
		is, here := now[id]
		was, there := then.by[id]
		key := is.Key
		if !here {
			key = was.Key
		}
		switch {
		case filter.prefix() == "" && (strings.HasPrefix(key, "fault.") || strings.HasPrefix(key, freezePrefix)):
		case here && !there:
			edits = append(edits, Edit{Op: DeleteOp, Record: is, Before: &is})
		case there && !here:
			edits = append(edits, Edit{Op: SetOp, Record: was, Exact: true})
		case there && !is.same(was):
			edits = append(edits, Edit{Op: SetOp, Record: was, Exact: true, Before: &is})
		}
	}
	slices.SortFunc(edits, func(a, b Edit) int {
		return cmp.Or(strings.Compare(a.Record.Key, b.Record.Key), strings.Compare(a.Record.ScopeText(), b.Record.ScopeText()))
	})
	return edits, nil
}

func (s *Store) getDiff(w http.ResponseWriter, r *http.Request) error {
	f, err := filterOf(r)
	if err != nil {
		return err
	}
	from, err := ParseMoment(r.URL.Query().Get("from"))
	if err != nil {
		return err
	}
	to, err := ParseMoment(r.URL.Query().Get("to"))
	if err != nil {
		return err
	}
	if from.now() {
		return api.Problem(http.StatusBadRequest, "say from when, with from: a revision, a time, or how long ago; and until when, with to, if not now")
	}
	d, err := s.Diff(r.Context(), f, from, to)
	if err != nil {
		return err
	}
	api.WriteJSON(w, d)
	return nil
}

// Restore is the body of POST /config/v1/rollback: to which revision, or time, what is to go back. Without steps it goes
// for everybody at once; with some it is rolled out by them. Either way it is a roll-out, all of it or nothing.
type Restore struct {
	ToRev  uint64    `json:"toRev,omitempty"`
	At     time.Time `json:"at,omitzero"`
	App    string    `json:"app,omitempty"` // only records that name it
	Key    string    `json:"key,omitempty"` // only records of it
	Prefix string    `json:"prefix,omitempty"`
	Filter string    `json:"filter,omitempty"`
	Steps  []Step    `json:"steps,omitempty"`
	DryRun bool      `json:"dryRun,omitempty"` // only tell the changes
}

// filter returns what x selects.
func (x Restore) filter() (Filter, error) {
	f, err := ParseFilter(x.Filter)
	if err != nil {
		return f, api.Problem(http.StatusBadRequest, "%v", err)
	}
	for name, v := range map[string]string{"appId": x.App, "key": x.Key, "prefix": x.Prefix} {
		if v != "" {
			f.all = append(f.all, []atom{{name, v}})
		}
	}
	return f, nil
}

func (s *Store) postRollback(w http.ResponseWriter, r *http.Request) error {
	var in Restore
	if err := body(w, r, maxDocument, true, &in); err != nil {
		return err
	}
	if (in.ToRev == 0) == in.At.IsZero() {
		return api.Problem(http.StatusBadRequest, "say to which revision, with toRev, or to which time, with at, and not both")
	}
	f, err := in.filter()
	if err != nil {
		return err
	}
	to := Moment{Rev: in.ToRev, At: in.At}
	if to.Rev != 0 {
		to.At = time.Time{}
	}
	edits, err := s.Back(r.Context(), f, to)
	if err != nil {
		return err
	}
	if in.DryRun || len(edits) == 0 {
		api.WriteJSON(w, Rollout{Title: "back to " + to.String(), Changes: edits, Step: -1}.mask())
		return nil
	}
	steps := in.Steps
	if len(steps) == 0 {
		none := 0.0
		steps = []Step{{Selector: Selector{All: true}, Bake: lasting(0), NeedAck: &none}}
	}
	ctx := AllowGlobal(allowed(r)) // it was so before
	out, err := s.Propose(ctx, Rollout{Title: "back to " + to.String(), Changes: edits, Steps: steps}, r.URL.Query()["confirm"]...)
	if err == nil {
		out, err = s.Command(ctx, out.ID, string(evStart))
	}
	if err != nil {
		return err
	}
	return s.created(w, out)
}

// Validation is the answer to validate.
type Validation struct {
	Valid    bool     `json:"valid"`              // a set, or a roll-out, of it would be taken
	Problems []string `json:"problems,omitempty"` // why not
	Warnings []string `json:"warnings,omitempty"`
	Changes  []Edit   `json:"changes"` // complete, with what they replace
	Affected Affected `json:"affected"`
}

// Affected is for whom something would change, of those the registry knows or that read here.
type Affected struct {
	Instances int      `json:"instances"`
	Of        int      `json:"of"`            // that there are
	IDs       []string `json:"ids,omitempty"` // of the first hundred
}

// Validate tells what would become of changes, and for whom, without making them.
func (s *Store) Validate(ctx context.Context, changes []Edit, confirm ...string) (Validation, error) {
	if !s.loaded.Load() {
		return Validation{}, ErrLoading
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	v := Validation{Valid: true, Changes: []Edit{}}
	if slices.Contains(confirm, "global") {
		ctx = AllowGlobal(ctx)
	}
	r := Rollout{ID: "dry-run", State: Folding, Changes: slices.Clone(changes)}
	r.complete()
	var checked []Edit
	for _, e := range r.Changes {
		one := Rollout{ID: r.ID, Changes: []Edit{e}, Steps: r.Steps, Guards: r.Guards}
		if err := s.validate(ctx, &one, confirm); err != nil {
			v.Valid, v.Problems = false, append(v.Problems, err.Error())
			continue
		}
		checked = append(checked, one.Changes[0])
		for _, rival := range s.index.Load().rivals(one.Changes[0].Record) {
			v.Warnings = append(v.Warnings, one.Changes[0].Record.name()+" is exactly as specific as "+rival+"; where both fit, the later one written wins")
		}
	}
	r.Changes = checked
	if v.Valid {
		if err := s.validate(ctx, &r, confirm); err != nil { // together
			v.Valid, v.Problems = false, append(v.Problems, err.Error())
		}
	}
	if _, err := s.thaw(context.Background(), r.envs()...); err != nil {
		v.Warnings = append(v.Warnings, err.Error())
	}
	v.Changes = r.mask().Changes
	v.Affected = s.affects(&r)
	return v, nil
}

// affects returns for whom r, once it is done, changes a value.
func (s *Store) affects(r *Rollout) Affected {
	ix := s.index.Load()
	after := map[string][]*record{} // by key
	for _, rec := range r.shows() {
		if after[rec.Key] == nil {
			after[rec.Key] = slices.Clone(ix.keys.get(rec.Key))
		}
		after[rec.Key] = append(after[rec.Key], rec)
	}
	for _, records := range after {
		slices.SortFunc(records, byPrecedence)
	}
	var out Affected
	for _, c := range s.instances(s.order) {
		out.Of++
		for key, records := range after {
			was, now := c.pick(ix.keys.get(key), nil), c.pick(records, nil)
			if (was == nil) == (now == nil) && (was == nil || was.Value == now.Value) {
				continue
			}
			if out.Instances++; len(out.IDs) < 100 {
				out.IDs = append(out.IDs, c.field[instanceField])
			}
			break
		}
	}
	return out
}

func (s *Store) postValidate(w http.ResponseWriter, r *http.Request) error {
	var in Proposal
	if err := body(w, r, 4*maxDocument, true, &in); err != nil {
		return err
	}
	v, err := s.Validate(allowed(r), in.Changes, r.URL.Query()["confirm"]...)
	if err != nil {
		return err
	}
	api.WriteJSON(w, v)
	return nil
}

// Versions returns what was written of what filter selects since a time and until another, oldest first: the newest
// limit of it; sensitive values are masked. Zero times are no bounds.
func (s *Store) Versions(ctx context.Context, filter Filter, since, until time.Time, limit int) ([]Property, error) {
	out := []Property{}
	err := s.table.Past(ctx, func(r engine.Revision[stored]) error {
		p := r.Value.Property
		p.ID, p.Rev = r.Key, r.Rev
		if isRollout(r.Key) || r.Deleted || !filter.Match(p) || r.Time.Before(since) || !until.IsZero() && r.Time.After(until) {
			return nil // of a deletion the mark before it tells
		}
		if out = append(out, p.mask()); len(out) >= 2*limit {
			out = append(out[:0], out[len(out)-limit:]...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return out[max(0, len(out)-limit):], nil
}

// Bounds of a list of versions.
const (
	defaultVersions = 1000
	mostVersions    = 10_000
)

// getVersions answers history that asks for more than one key's: by app, prefix, filter, or by time.
func (s *Store) getVersions(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f, err := filterOf(r)
	if err != nil {
		return err
	}
	if app := cmp.Or(q.Get("app"), q.Get("appId")); app != "" {
		f.all = append(f.all, []atom{{"appId", app}})
	}
	var since, until time.Time
	for _, b := range []struct {
		name string
		at   *time.Time
	}{{"since", &since}, {"until", &until}} {
		m, err := ParseMoment(q.Get(b.name))
		if err != nil {
			return err
		}
		if m.Rev != 0 {
			return api.Problem(http.StatusBadRequest, "%s is a revision; use a time, or how long ago", b.name)
		}
		*b.at = m.At
	}
	limit := defaultVersions
	if text := q.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > mostVersions {
			return api.Problem(http.StatusBadRequest, "limit is %q; want 1 to %d", text, mostVersions)
		}
	}
	versions, err := s.Versions(r.Context(), f, since, until, limit)
	if err != nil {
		return err
	}
	api.WriteJSON(w, Past{History: versions})
	return nil
}
