package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/ledger"
)

// What operators decide about instances is in the ledger before it holds, and is read back from there when a registry
// starts: an instance that an operator took out of traffic must not return to it because the platform was restarted.

const (
	overrideAction = "instance.override"
	clearAction    = "instance.clearOverride"
	resourceKind   = "instance:"
	disableAction  = "asg.disable"
	enableAction   = "asg.enable"
	groupKind      = "asg:"

	preservationAction = "registry.preservation"

	ledgerWait = time.Second         // that a decision waits for the ledger
	remembered = 30 * 24 * time.Hour // how old a decision may be to hold after a restart
)

type decision struct {
	Status     string `json:"status"`
	Overridden string `json:"overriddenStatus"`
}

func decisionJSON(st, ov status) json.RawMessage {
	return json.RawMessage(`{"status":"` + st.String() + `","overriddenStatus":"` + ov.String() + `"}`)
}

func (k key) resource() string { return resourceKind + strings.ToLower(k.app) + "/" + k.id }

// errUndecided is why a decision did not happen: it could not be recorded.
var errUndecided = errors.New("the change log cannot be written now")

// decide does what an operator decided about an instance once it is in the ledger, and fails as inOrder does.
func (r *Registry) decide(ctx context.Context, by roadbed.Change, k key, was *record, st status, do func() result) (res result, err error) {
	by.Resource = k.resource()
	by.Before, by.After = decisionJSON(was.status, was.override), decisionJSON(st, unknown)
	if by.Action == overrideAction {
		by.After = decisionJSON(st, st)
	}
	err = r.inOrder(ctx, by, func() error {
		if res = do(); res == notFound {
			return fmt.Errorf("instance %q of %s is no longer registered", k.id, k.app)
		}
		return nil
	})
	return res, err
}

// inOrder does what an operator decided once it is in the ledger, one decision at a time so that the ledger has them in
// the order in which they took effect. If the ledger cannot be written soon, it fails with errUndecided and nothing has
// happened.
func (r *Registry) inOrder(ctx context.Context, by roadbed.Change, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, ledgerWait)
	defer cancel()
	select {
	case r.deciding <- struct{}{}:
		defer func() { <-r.deciding }()
	case <-ctx.Done():
		return errUndecided
	}
	applied := false
	by.Result = roadbed.Succeeded
	err := r.record(ctx, by, func(context.Context) error {
		applied = true
		return do()
	})
	if !applied {
		r.log.Warn("a decision is refused, for the ledger cannot be written", "action", by.Action, "about", by.Resource, "err", err)
		return errUndecided
	}
	return nil
}

// decideGroup disables or enables a server group once that is in the ledger.
func (h *eureka) decideGroup(r *http.Request, name string, disabled bool) error {
	by := asked(r, enableAction)
	if disabled {
		by.Action = disableAction
	}
	by.Resource = groupKind + name
	return h.inOrder(r.Context(), by, func() error {
		h.s.setGroup(name, disabled)
		return nil
	})
}

// Override makes st the status of an instance until it is cleared, whatever the instance says. Actor and reason are
// taken from ctx, as [api.As] put them there. It fails with an [api.Problem] if the instance is not registered or the
// decision cannot be recorded.
func (r *Registry) Override(ctx context.Context, app, id string, st roadbed.Status) error {
	k := key{upper(app), id}
	want, ok := parseStatus(string(st))
	if !ok || want == unknown {
		return api.Problem(http.StatusUnprocessableEntity, "%q is no status to decide on; use UP, DOWN, STARTING or OUT_OF_SERVICE", st)
	}
	rec := r.s.overriding(k)
	if rec == nil {
		return notRegistered(k)
	}
	set := func() result { return r.s.setOverride(k, want, 0, origin{native: true}) }
	if rec.standing() == want {
		return k.problem(set(), nil) // nothing new
	}
	return k.problem(r.decide(ctx, api.Change(ctx, overrideAction, ""), k, rec, want, set))
}

// ClearOverride ends an override: the instance's own word counts again. It fails as Override does; an instance without
// an override is no failure.
func (r *Registry) ClearOverride(ctx context.Context, app, id string) error {
	k := key{upper(app), id}
	rec := r.s.overriding(k)
	if rec == nil {
		return notRegistered(k)
	}
	end := func() result { return r.s.clearOverride(k, unknown, true, 0, origin{native: true}) }
	if !r.s.overridden(k) {
		return k.problem(end(), nil)
	}
	return k.problem(r.decide(ctx, api.Change(ctx, clearAction, ""), k, rec, rec.own, end))
}

func notRegistered(k key) error {
	return api.Problem(http.StatusNotFound, "instance %q of %s is not registered; it may have been replaced: look who is", k.id, strings.ToLower(k.app))
}

// problem is the answer to a decision about k.
func (k key) problem(res result, err error) error {
	switch {
	case err != nil:
		return api.Problem(http.StatusServiceUnavailable, "instance %q of %s stays as it is: %v; try again in a moment", k.id, strings.ToLower(k.app), err)
	case res == notFound:
		return notRegistered(k)
	}
	return nil
}

// asked is the beginning of a ledger entry for what r asks.
func asked(r *http.Request, action string) roadbed.Change {
	why, err := url.PathUnescape(r.Header.Get(api.WhyHeader))
	if err != nil {
		why = r.Header.Get(api.WhyHeader) // it was not encoded
	}
	return roadbed.Change{Actor: actorOf(r), Why: why, Action: action}
}

// actorOf names who decided: what the request says, else what kind of client it is.
func actorOf(r *http.Request) string {
	for _, h := range []string{api.ActorHeader, "DiscoveryIdentity-Name"} {
		if a := r.Header.Get(h); a != "" && len(a) <= 128 {
			return a
		}
	}
	return "anonymous"
}

// note records, without anybody waiting, that a decision ended because its instance was cancelled.
func (r *Registry) note(was decided, actor string) {
	r.write(roadbed.Change{
		Actor: actor, Why: "the instance was cancelled", Action: clearAction, Resource: was.key.resource(),
		Result: roadbed.Succeeded, Before: decisionJSON(was.status, was.status),
	})
}

// write records what has happened already, without anybody waiting.
func (r *Registry) write(ch roadbed.Change) {
	if r.c.Ledger == nil {
		return
	}
	select {
	case r.notes <- ch:
	default:
		r.log.Warn("a change is not in the ledger, which is too slow", "action", ch.Action, "resource", ch.Resource)
	}
}

// takeNotes writes notes to the ledger until ctx ends, and then, for a moment, those that are left.
func (r *Registry) takeNotes(ctx context.Context) {
	take := func(ctx context.Context, ch roadbed.Change) {
		if _, err := r.c.Ledger.Record(ctx, ch); err != nil {
			r.log.Warn("a change is not in the ledger", "action", ch.Action, "resource", ch.Resource, "err", err)
		}
	}
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(ledgerWait, cancel) })()
	for {
		select {
		case ch := <-r.notes:
			take(last, ch)
		case <-ctx.Done():
			for {
				select {
				case ch := <-r.notes:
					take(last, ch)
				default:
					return
				}
			}
		}
	}
}

// remember reads back the decisions that held when the platform stopped.
func (r *Registry) remember() {
	if r.c.Settings.ASG {
		r.s.groups = make(map[string]bool)
	}
	if r.c.Ledger == nil {
		return
	}
	for k, v := range decisions(r.recall("instance.*", resourceKind)) {
		if v.set {
			r.s.overrides[k] = override{status: v.status, stamp: r.s.stamps.see(v.stamp), orphan: max(1, r.s.now())}
		} else {
			r.s.lifted[k] = lift{r.s.stamps.see(v.stamp), r.s.now()}
		}
	}
	if r.c.Settings.ASG {
		for name := range disabledGroups(r.recall("asg.*", groupKind)) {
			r.s.groups[name] = true
		}
	}
}

// recall lists what was decided lately, newest first.
func (r *Registry) recall(actions, resources string) []roadbed.Change {
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	list, err := r.c.Ledger.List(ctx, ledger.Query{
		Action: actions, Resource: resources, Since: time.Now().Add(-remembered), Limit: ledger.MaxLimit,
	})
	if err != nil {
		r.log.Warn("decisions of before are not known, for the ledger cannot be read; make them again", "actions", actions, "err", err)
	}
	return list
}

// disabledGroups replays entries, newest first.
func disabledGroups(list []roadbed.Change) map[string]bool {
	held := make(map[string]bool)
	seen := make(map[string]bool)
	for _, c := range list {
		name := strings.TrimPrefix(c.Resource, groupKind)
		if c.Result != roadbed.Succeeded || seen[name] {
			continue
		}
		seen[name] = true
		if c.Action == disableAction {
			held[name] = true
		}
	}
	return held
}

// decisions replays entries, newest first, and returns what holds after them.
func decisions(list []roadbed.Change) map[key]verdict {
	held := make(map[key]verdict)
	failed := make(map[uint64]bool)
	seen := make(map[key]bool)
	for _, c := range list {
		if c.Result != roadbed.Succeeded {
			failed[c.Parent] = c.Result == roadbed.Failed
			continue
		}
		app, id, ok := strings.Cut(strings.TrimPrefix(c.Resource, resourceKind), "/")
		k := key{upper(app), id}
		if !ok || failed[c.ID] || seen[k] || c.Action != overrideAction && c.Action != clearAction {
			continue
		}
		seen[k] = true
		if c.Action == clearAction {
			held[k] = verdict{stamp: stampOf(c.Time)}
			continue
		}
		var after decision
		if json.Unmarshal(c.After, &after) != nil {
			continue
		}
		if st, ok := parseStatus(after.Overridden); ok && st != unknown {
			held[k] = verdict{stampOf(c.Time), true, st}
		}
	}
	return held
}
