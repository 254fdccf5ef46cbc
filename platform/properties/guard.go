package properties

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
)

// report is what one node tells the others of a roll-out's readers that are its own.
type report struct {
	Step    int          `json:"step"`
	Readers int          `json:"readers"`
	Acked   int          `json:"acked"`
	Flaws   []ReaderFlaw `json:"flaws,omitempty"` // at most ten
}

// maxReported bounds the flaws of a report; one is enough to roll back.
const maxReported = 10

// observer is what a node has seen of one roll-out since it came to the step it is in.
type observer struct {
	step    int
	stage   stage
	since   time.Time         // of the document, which tells one coming to a stage from another
	entered time.Time         // when the roll-out got there, by this node's clock
	told    uint64            // revision of the document that made it reach whom it reaches
	need    map[string]uint64 // which revision a reader that it reaches must have taken, by id in lower case

	base   map[string]*baseline // instances that were UP, by id in lower case
	status Status
	struck string // why a guard struck; "" = none did

	measured  time.Time // when the metric rules were last asked
	measuring bool
	unknown   error // why a rule has no answer
}

// baseline is how an instance was.
type baseline struct {
	roadbed.Instance
	caller *caller
	left   string    // how it was first seen not to be UP any more; "" = it always was
	anew   time.Time // when it was first seen registered anew, without having been seen to leave
}

// look observes the active roll-outs and tells the other nodes of their readers here.
func (s *Store) look(ctx context.Context, now time.Time) {
	docs := slices.DeleteFunc(s.documents(), func(r *Rollout) bool { return !r.State.active() })
	s.watchMu.Lock()
	maps.DeleteFunc(s.observers, func(id string, _ *observer) bool {
		return !slices.ContainsFunc(docs, func(r *Rollout) bool { return r.ID == id })
	})
	s.watchMu.Unlock()
	if len(docs) == 0 {
		s.forgetReaders(now)
		clear(s.reported)
		clear(s.heard)
		return
	}
	callers := s.instances(s.order)
	reports := map[string]report{}
	s.watchMu.Lock()
	for _, r := range docs {
		o := s.observers[r.ID]
		switch {
		case o == nil:
			o = &observer{step: r.Step, base: map[string]*baseline{}, entered: now, told: r.Rev, need: map[string]uint64{}}
			late := now.Sub(r.Since) > 2*lookEvery // this node was not there when it began
			if late {
				o.entered = r.Since
				o.told = 0 // whoever reads here has been told since
			}
			o.note(r, callers, s.fleetNow(), late)
			s.observers[r.ID] = o
		case o.step != r.Step:
			o = &observer{step: r.Step, base: map[string]*baseline{}, entered: now, told: r.Rev, need: o.need}
			s.observers[r.ID] = o
		case o.stage != r.stage() || !o.since.Equal(r.Since):
			o.entered = now
		}
		o.stage, o.since = r.stage(), r.Since
		o.note(r, callers, s.fleetNow(), false)
		o.health(r, s.fleetNow(), now)
		reports[r.ID] = s.ask(r, o, callers)
	}
	s.watchMu.Unlock()
	for id, mine := range reports {
		key := id + "." + s.node
		was, ok := s.reports.Get(key)
		if !ok && mine.Readers == 0 && len(mine.Flaws) == 0 || ok && was.Value.equal(mine) && now.Sub(s.reported[key]) < reportEvery {
			continue
		}
		s.reported[key] = now
		if _, err := s.reports.Put(ctx, key, mine); err != nil && ctx.Err() == nil {
			s.log.Warn("the controller of roll-outs cannot be told of readers here", "rollout", id, "err", err)
		}
	}
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	for _, r := range docs {
		o := s.observers[r.ID]
		o.status.Readers, o.status.Acked, o.status.Flaws = 0, 0, nil
		for _, e := range s.reports.List(r.ID + ".") {
			if h := s.heard[e.Key]; h.rev != e.Rev {
				s.heard[e.Key] = heard{e.Rev, now}
			} else if now.Sub(h.at) >= 3*reportEvery {
				continue // of a node that is gone
			}
			if e.Value.Step == r.Step {
				o.status.Readers += e.Value.Readers
				o.status.Acked += e.Value.Acked
				o.status.Flaws = append(o.status.Flaws, e.Value.Flaws...)
			}
		}
		o.status.Waiting, o.status.Until = s.waits(r, o)
	}
}

func (a report) equal(b report) bool {
	return a.Step == b.Step && a.Readers == b.Readers && a.Acked == b.Acked && slices.Equal(a.Flaws, b.Flaws)
}

// note takes instances that are UP, and new to o, into the baseline; late, those that are down too, which may have
// been UP when the step began.
func (o *observer) note(r *Rollout, callers []*caller, f fleet, late bool) {
	for _, c := range callers {
		id := c.field[instanceField]
		i, ok := f[id]
		if _, known := o.base[id]; known || !ok || !r.concerns(c) {
			continue
		}
		if i.Status == roadbed.Up || late && (i.Status == roadbed.Down || i.Status == roadbed.OutOfService) {
			o.base[id] = &baseline{Instance: i, caller: c}
		}
	}
}

// anewFor is how long an instance that is registered anew, though nobody saw it leave, is not taken for one that has
// restarted: when the registry itself was, the others follow.
const anewFor = 15 * time.Second

// health compares those reached with the others.
func (o *observer) health(r *Rollout, f fleet, at time.Time) {
	groups := map[string]bool{} // that have an instance left
	for _, i := range f {
		groups[i.Group] = true
	}
	type side struct {
		all, lost, anew int
		gone            map[string]int // by group that has none left
	}
	reached, others := side{gone: map[string]int{}}, side{gone: map[string]int{}}
	sideOf := func(b *baseline) *side {
		if r.reaches(b.caller) {
			return &reached
		}
		return &others
	}
	for id, b := range o.base {
		in := sideOf(b)
		in.all++
		now, here := f[id]
		switch {
		case !here:
			b.left = "gone"
		case now.Status != roadbed.Up:
			b.left = string(now.Status)
		case !now.Since.Equal(b.Since) && b.left == "":
			if in.anew++; b.anew.IsZero() {
				b.anew = at
			}
		}
	}
	registryAnew := others.anew > 0 || 2*(reached.anew+others.anew) > len(o.base) && len(o.base) > 1
	var names []string
	for _, id := range slices.Sorted(maps.Keys(o.base)) {
		b := o.base[id]
		in, how := sideOf(b), b.left
		if _, here := f[id]; !here && b.Group != "" && !groups[b.Group] {
			in.gone[b.Group]++
		}
		if how == "" && !b.anew.IsZero() && !registryAnew && at.Sub(b.anew) >= anewFor {
			how = "restarted"
		}
		if how == "" {
			continue
		}
		in.lost++
		if in == &reached && len(names) < 5 {
			names = append(names, b.ID+" "+how)
		}
	}
	// A server group that is gone as a whole, on both sides, was taken out on purpose.
	for group, n := range reached.gone {
		if m := others.gone[group]; m > 0 {
			reached.all, reached.lost = reached.all-n, reached.lost-n
			others.all, others.lost = others.all-m, others.lost-m
		}
	}
	o.status.Reached, o.status.Lost, o.status.Others, o.status.Missed = reached.all, reached.lost, others.all, others.lost
	excess := float64(reached.lost)
	if others.all > 0 {
		excess -= float64(reached.all) * float64(others.lost) / float64(others.all)
	}
	g := r.Guards.Health
	const rounding = 1e-9
	if g.Off || excess+rounding < float64(g.Instances) || excess+rounding < float64(reached.all)*g.Points/100 || reached.lost == 0 {
		return
	}
	o.struck = fmt.Sprintf("%d of %d instances that it reached left UP (%s), and %d of %d others", reached.lost, reached.all, strings.Join(names, ", "), others.lost, others.all)
}

// heard is the newest report of a node, and when it was first seen, by this node's clock.
type heard struct {
	rev uint64
	at  time.Time
}

// ask counts the readers here that see r and acknowledge, and those that have taken it since it reached them.
func (s *Store) ask(r *Rollout, o *observer, callers []*caller) report {
	out := report{Step: r.Step}
	ix := s.index.Load()
	s.readersMu.Lock()
	defer s.readersMu.Unlock()
	for _, c := range callers {
		id := c.field[instanceField]
		reader := s.readers[id]
		if reader == nil || !reader.speaks || !r.reaches(c) {
			continue
		}
		told, reached := o.need[id]
		if !reached {
			told = o.told
			o.need[id] = told
		}
		if reader.acked >= told {
			for _, e := range r.Changes {
				if text, bad := reader.flaws[e.Record.Key]; bad && len(out.Flaws) < maxReported {
					out.Flaws = append(out.Flaws, ReaderFlaw{reader.scope.Instance, config.Flaw{Key: e.Record.Key, Error: text}})
				}
			}
		}
		if reader.watching == 0 || !slices.ContainsFunc(r.Changes, func(e Edit) bool { return r.alters(e.Record.Key, ix, c) }) {
			continue // it hears nothing of it
		}
		out.Readers++
		if reader.acked >= told {
			out.Acked++
		}
	}
	return out
}

// alters reports whether c sees another value of key because of r.
func (r *Rollout) alters(key string, ix *index, c *caller) bool {
	records := ix.keys.get(key)
	plain := slices.DeleteFunc(slices.Clone(records), func(x *record) bool { return x.via != nil && x.via.ID == r.ID })
	now, base := c.pick(records, nil), c.pick(plain, nil)
	return (now == nil) != (base == nil) || now != nil && now.Value != base.Value
}

// waits says what a roll-out waits for, and until when if that is known.
func (s *Store) waits(r *Rollout, o *observer) (what string, until time.Time) {
	switch r.stage() {
	case stage{Running, Applying}:
		return fmt.Sprintf("for the word of its readers: %d of %d have taken it", o.status.Acked, o.status.Readers), time.Time{}
	case stage{Running, Baking}:
		return "", o.entered.Add(time.Duration(*r.Steps[r.Step].Bake))
	case stage{Running, Analysing}:
		for _, env := range r.envs() {
			if brake := s.frozen(env); brake != "" {
				return "until " + brake + " is over", time.Time{}
			}
		}
	case stage{Paused, Awaiting}:
		return fmt.Sprintf("for the approval of step %d, %s", r.Step+2, r.Steps[r.Step+1].Selector), time.Time{}
	}
	return "", time.Time{}
}

// measure asks the metric rules of r, in the background, when it is time to.
func (s *Store) measureRules(ctx context.Context, r *Rollout, o *observer, now time.Time) {
	if len(r.Guards.Metrics) == 0 || o.measuring || now.Sub(o.measured) < measureEvery {
		return
	}
	reached, others := o.sides(r)
	if len(reached) == 0 {
		return
	}
	o.measuring, o.measured = true, now
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, measureEvery)
		defer cancel()
		struck, err := s.askRules(ctx, r, reached, others)
		s.watchMu.Lock()
		defer s.watchMu.Unlock()
		o.measuring, o.unknown = false, err
		if struck != "" {
			o.struck = struck
		}
		wake(s.acks)
	})
}

// sides returns the ids of the instances that r has reached, and of as many others of the same apps and zones where
// there are such.
func (o *observer) sides(r *Rollout) (reached, others []string) {
	place := func(b *baseline) string { return b.App + "\x00" + b.Location.Zone }
	want := map[string]int{}
	for _, id := range slices.Sorted(maps.Keys(o.base)) {
		if b := o.base[id]; r.reaches(b.caller) {
			reached = append(reached, b.ID)
			want[place(b)]++
		}
	}
	for _, id := range slices.Sorted(maps.Keys(o.base)) {
		if b := o.base[id]; want[place(b)] > 0 && !r.reaches(b.caller) {
			others = append(others, b.ID)
			want[place(b)]--
		}
	}
	return reached, others
}

// askRules returns which metric rule strikes, "" for none, and why one could not be asked.
func (s *Store) askRules(ctx context.Context, r *Rollout, reached, others []string) (string, error) {
	if s.measure == nil {
		return "", fmt.Errorf("no telemetry is named")
	}
	var failed error
	for _, rule := range r.Guards.Metrics {
		v, err := s.measure(ctx, rule.Query, reached)
		if err == nil && rule.Relative && len(others) == 0 {
			continue // nothing to compare with
		}
		if err == nil && rule.Relative {
			var control float64
			if control, err = s.measure(ctx, rule.Query, others); err == nil {
				v /= control
			}
		}
		if err != nil {
			failed = fmt.Errorf("metric rule %q has no answer: %w", rule.Query, err)
			continue
		}
		if math.IsNaN(v) {
			continue // no data yet, or nothing to compare with
		}
		if rule.Compare == ">" && v > rule.Threshold || rule.Compare == "<" && v < rule.Threshold {
			of := "of the instances it reached"
			if rule.Relative {
				of += ", divided by that of others,"
			}
			return fmt.Sprintf("metric %q %s is %.4g, %s %.4g", rule.Query, of, v, rule.Compare, rule.Threshold), nil
		}
	}
	return "", failed
}

// compare judges a step that has baked, 0 to 100: by what share of its instances, beyond the others', it has lost.
// Rules by metric have struck before, if they do.
func compare(s Status) float64 {
	if s.Reached == 0 {
		return 100
	}
	excess := float64(s.Lost) / float64(s.Reached)
	if s.Others > 0 {
		excess -= float64(s.Missed) / float64(s.Others)
	}
	return 100 * (1 - max(excess, 0))
}
