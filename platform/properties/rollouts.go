package properties

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/engine"
)

// Why something was not done with a roll-out.
var (
	ErrNoRollout = errors.New("no such roll-out")
	ErrBusy      = errors.New("another roll-out changes it already")
	ErrState     = errors.New("not now")
	ErrFrozen    = errors.New("changes are frozen")
)

// freezePrefix begins the keys of the brakes: cfg.freeze.prod=true stops everything that changes env prod,
// cfg.freeze.all=true everything.
const freezePrefix = "cfg.freeze."

// BreakGlass returns a context in which changes are made although they are frozen. Its actor must give a reason, see
// [api.As]; the ledger marks it.
func BreakGlass(ctx context.Context) context.Context {
	return context.WithValue(ctx, breakGlassKey{}, true)
}

type breakGlassKey struct{}

// frozen returns the brake that stops changes of these envs, a comma list or none for every env; "" if there is none.
func (s *Store) frozen(envs string) string {
	ix := s.index.Load()
	var found string
	ix.winners(asCaller(config.Scope{}, s.order), freezePrefix, func(r *record) {
		env := strings.TrimPrefix(r.Key, freezePrefix)
		on, err := config.ParseBool(r.Value)
		if (err != nil || on) && (env == "all" || envs == "" || slices.ContainsFunc(values(envs), func(e string) bool { return strings.EqualFold(e, env) })) {
			found = r.Key
		}
	})
	return found
}

// thaw refuses a change of these envs while they are frozen, unless ctx breaks the glass. It returns what to put before
// the reason in the ledger.
func (s *Store) thaw(ctx context.Context, envs ...string) (mark string, err error) {
	for _, env := range envs {
		brake := s.frozen(env)
		switch {
		case brake == "":
			continue
		case ctx.Value(breakGlassKey{}) == nil:
			return "", fmt.Errorf("%w by %s; wait until that is over, or break the glass, with a reason", ErrFrozen, brake)
		case api.Change(ctx, "", "").Why == "":
			return "", fmt.Errorf("%w by %s; to break the glass give a reason", ErrFrozen, brake)
		}
		mark = "break-glass: "
	}
	return mark, nil
}

// newID returns an id that is greater than those of a millisecond ago.
func newID(now time.Time) string {
	const digits = "0123456789abcdefghjkmnpqrstvwxyz" // as in a ULID
	b := make([]byte, 10)
	ms := now.UnixMilli()
	for i := range b {
		b[len(b)-1-i] = digits[ms&31]
		ms >>= 5
	}
	return string(b) + strings.ToLower(rand.Text()[:8])
}

// Propose checks r against what is stored, fills in its defaults and stores it, VALIDATED; [Store.Command] starts it.
// confirm holds the tokens of earlier [*Unconfirmed].
//
// It fails as [Store.Set] does, and with [ErrBusy] while another roll-out is active for the same env, app and key.
func (s *Store) Propose(ctx context.Context, r Rollout, confirm ...string) (Rollout, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.propose(ctx, r, confirm)
}

func (s *Store) propose(ctx context.Context, r Rollout, confirm []string) (Rollout, error) {
	if !s.loaded.Load() {
		return Rollout{}, ErrLoading
	}
	now := time.Now().UTC()
	change := api.Change(ctx, "rollout.propose", "")
	r = Rollout{
		ID: newID(now), Title: r.Title, Changes: slices.Clone(r.Changes), Steps: slices.Clone(r.Steps), Guards: r.Guards,
		State: Draft, Step: -1, Created: now, Actor: change.Actor, Why: change.Why,
	}
	r.complete()
	if slices.Contains(confirm, "global") {
		ctx = AllowGlobal(ctx)
	}
	if err := s.validate(ctx, &r, confirm); err != nil {
		return Rollout{}, err
	}
	if err := r.pass(evValidate, now, change.Actor, change.Why); err != nil {
		return Rollout{}, err
	}
	change.Resource = "rollout:" + r.ID
	return s.keep(ctx, change.Action, r, 0)
}

// validate checks r against what is stored, and fills in what it replaces.
func (s *Store) validate(ctx context.Context, r *Rollout, confirm []string) error {
	var gone []Property
	r.Changes = slices.Clone(r.Changes)
	for i := range r.Changes {
		e := &r.Changes[i]
		p := e.Record
		p.Scope = canonical(p.Scope)
		p.ID = ID(p.Key, p.Scope)
		p.TS, p.Rev, p.UpdatedBy, p.Deleted, p.RolloutID = 0, 0, "", false, ""
		before, exists := s.current(p.ID)
		e.Before = nil
		if exists {
			e.Before = &before
		}
		if e.Op == DeleteOp {
			if !exists {
				return fmt.Errorf("%w: %s cannot be deleted", ErrNotFound, p.name())
			}
			p.Value, p.Sensitive = "", before.Sensitive
			gone = append(gone, before)
			e.Record = p
			continue
		}
		if e.Exact {
			p.Sensitive = p.Sensitive || before.Sensitive
		} else {
			s.inherit(&p, before, exists)
		}
		p.Source = "rollout"
		e.Record = p
		if err := p.check(); err != nil {
			return fmt.Errorf("%s: %w", p.name(), err)
		}
		if err := s.admit(ctx, p, exists); err != nil {
			return err
		}
	}
	if err := r.check(); err != nil {
		return err
	}
	if n := s.guarded(gone); n > 0 && !slices.Contains(confirm, confirmation(gone)) {
		return &Unconfirmed{Count: n, Token: confirmation(gone), What: fmt.Sprintf("%d properties would go", n)}
	}
	return s.alone(r)
}

// alone fails if another roll-out is active for something that r changes.
func (s *Store) alone(r *Rollout) error {
	mine := r.parties()
	for _, other := range s.documents() {
		if other.ID == r.ID || !other.State.active() {
			continue
		}
		for _, party := range other.parties() {
			if _, both := slices.BinarySearch(mine, party); both {
				part := strings.Split(party, "\x00")
				return fmt.Errorf("%w: roll-out %s of %s by %s is %s for key %q of app %s, env %s; wait for its end, or abort it", ErrBusy, other.ID,
					cmp.Or(other.Title, "no title"), other.Actor, other.stage(), part[2], orAll(part[1]), orAll(part[0]))
			}
		}
	}
	return nil
}

func orAll(s string) string {
	if s == "" {
		return "any"
	}
	return s
}

// envs are the envs that r changes, as comma lists.
func (r *Rollout) envs() []string {
	var out []string
	for _, e := range r.Changes {
		out = append(out, e.Record.Env)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// keep stores r, provided that its document is at revision rev, with an entry in the ledger.
func (s *Store) keep(ctx context.Context, action string, r Rollout, rev uint64) (Rollout, error) {
	r.Rev = 0
	size, err := json.Marshal(r)
	if err != nil {
		return Rollout{}, invalid("the roll-out cannot be kept: %v", err)
	}
	if len(size) > maxDocument {
		return Rollout{}, invalid("the roll-out has %d bytes; %d are allowed: split it into several", len(size), maxDocument)
	}
	change := api.Change(ctx, action, "rollout:"+r.ID)
	if n := len(r.History); n > 0 {
		change.Actor, change.Why = r.History[n-1].Actor, r.History[n-1].Why
	}
	shown := r.mask()
	if rev != 0 { // the changes are in the entry that proposed it
		shown = Rollout{ID: r.ID, Title: r.Title, State: r.State, Phase: r.Phase, Step: r.Step, Since: r.Since, Reason: r.Reason, Actor: r.Actor, Created: r.Created}
	}
	if change.After, err = json.Marshal(shown); err != nil {
		return Rollout{}, err
	}
	id := rolloutPrefix + r.ID
	err = s.ledger.Apply(ctx, change, func(ctx context.Context) error {
		next, err := s.table.Update(ctx, id, stored{Rollout: &r}, rev)
		r.Rev = next
		return err
	})
	s.refresh(id)
	switch {
	case err == nil:
		return r, nil
	case errors.Is(err, engine.ErrConflict), errors.Is(err, engine.ErrExists), errors.Is(err, engine.ErrNotFound):
		return Rollout{}, fmt.Errorf("%w: roll-out %s went on meanwhile: %w", ErrConflict, r.ID, err)
	}
	return Rollout{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// documents returns the roll-outs, newest first. They are not to be altered.
func (s *Store) documents() []*Rollout {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Rollout, 0, len(s.rollouts))
	for _, o := range s.rollouts {
		out = append(out, o.doc)
	}
	slices.SortFunc(out, func(a, b *Rollout) int { return strings.Compare(b.ID, a.ID) })
	return out
}

// staging reports whether a roll-out is active.
func (s *Store) staging() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.rollouts {
		if o.doc.State.active() {
			return true
		}
	}
	return false
}

// document returns the newest state of one roll-out.
func (s *Store) document(id string) (Rollout, error) {
	e, ok := s.table.Get(rolloutPrefix + id)
	if !ok || e.Value.Rollout == nil {
		return Rollout{}, fmt.Errorf("%w: %s", ErrNoRollout, id)
	}
	r := *e.Value.Rollout
	r.Rev = e.Rev
	return r, nil
}

// Commands are what a person may do with a roll-out.
func Commands() []string {
	return []string{string(evStart), string(evPause), string(evResume), string(evAdvance), string(evApprove), string(evAbort)}
}

// Command does one of [Commands] with a roll-out: start it; pause it where it is; resume it from the beginning of its
// step; advance it to the next one without waiting; approve the next one; abort it, so that everybody sees again what
// was before. Any node can; aborting needs no controller.
//
// It fails with [ErrNoRollout], with [ErrState] if the roll-out is not where that makes sense, with [ErrBusy], with
// [ErrFrozen], or with [ErrUnavailable].
func (s *Store) Command(ctx context.Context, id, command string) (Rollout, error) {
	if !slices.Contains(Commands(), command) {
		return Rollout{}, invalid("%q is no command; use %s", command, strings.Join(Commands(), ", "))
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	var err error
	for range 5 { // the controller may take a step at the same time
		var r Rollout
		if r, err = s.document(id); err != nil {
			return Rollout{}, err
		}
		ev := event(command)
		change := api.Change(ctx, "", "")
		if ev != evPause && ev != evAbort {
			mark, err := s.thaw(ctx, r.envs()...)
			if err != nil {
				return Rollout{}, err
			}
			change.Why = mark + change.Why
		}
		if ev == evStart && r.State == Validated {
			if err := s.validate(AllowGlobal(ctx), &r, s.confirmed(&r)); err != nil { // it may have been long ago
				return Rollout{}, err
			}
		}
		if ev == evStart {
			r.Starter = change.Actor
		}
		if r, err = s.move(ctx, r, ev, change.Actor, change.Why); !errors.Is(err, ErrConflict) {
			return r, err
		}
	}
	return Rollout{}, err
}

// confirmed are the tokens for what was confirmed when r was proposed.
func (s *Store) confirmed(r *Rollout) []string {
	var gone []Property
	for _, e := range r.Changes {
		if now, ok := s.current(e.Record.ID); ok && e.Op == DeleteOp {
			gone = append(gone, now)
		}
	}
	return []string{"global", confirmation(gone)}
}

// move takes r, as it is stored, through one transition. It fails with [ErrState] or as keep does.
func (s *Store) move(ctx context.Context, r Rollout, ev event, actor, why string) (Rollout, error) {
	rev, step, was := r.Rev, r.Step, r.stage()
	r.Steps = slices.Clone(r.Steps)
	if err := r.pass(ev, time.Now().UTC(), actor, why); err != nil {
		return Rollout{}, err
	}
	if r.Step != step {
		s.choose(&r)
	}
	if was == (stage{Paused, Conflict}) && r.State == Folding {
		s.rebase(&r)
	}
	return s.keep(ctx, "rollout."+string(ev), r, rev)
}

// rebase makes what is stored now what r's changes replace, but for those that are written already.
func (s *Store) rebase(r *Rollout) {
	r.Changes = slices.Clone(r.Changes)
	for i := range r.Changes {
		e := &r.Changes[i]
		now, exists := s.current(e.Record.ID)
		switch {
		case exists && now.RolloutID == r.ID: // written already
		case exists:
			e.Before = &now
		case e.Op == SetOp:
			e.Before = nil
		}
	}
}

// choose settles whom the step that r has come to reaches: it picks the instances that are chosen one by one, and puts
// names to the first one's zone and region.
func (s *Store) choose(r *Rollout) {
	up := s.population(r)
	pick := func(n int) {
		r.Chosen = slices.Clone(r.Chosen)
		for _, c := range up {
			if n == 0 {
				break
			}
			if id := c.field[instanceField]; !slices.Contains(r.Chosen, id) {
				r.Chosen = append(r.Chosen, id)
			}
			n--
		}
		slices.Sort(r.Chosen)
	}
	if r.Step == 0 {
		if len(up) == 0 && slices.EqualFunc(r.Steps, defaultSteps(), func(a, b Step) bool { return a.Selector == b.Selector }) {
			r.Steps = blindSteps()
			r.complete()
		}
		if len(up) > 0 {
			r.place(up[0])
		}
	}
	if n := r.Steps[r.Step].Selector.Instances; n > 0 {
		pick(n)
	}
}

// place puts names to the zone and region of the first instance. Steps that have nothing else to go by and no name fall
// away.
func (r *Rollout) place(c *caller) {
	var steps []Step
	for _, step := range r.Steps {
		sel := &step.Selector
		if sel.Zone == first {
			sel.Zone = c.field[zoneField]
		}
		if sel.Region == first {
			sel.Region = c.field[regionField]
		}
		if *sel != (Selector{}) {
			steps = append(steps, step)
		}
	}
	r.Steps = steps
}
