package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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

// decide does what an operator decided once it is in the ledger, one decision at a time so that the ledger has them in
// the order in which they took effect. If the ledger cannot be written soon, it refuses.
func (h *eureka) decide(w http.ResponseWriter, r *http.Request, k key, what string, was *record, st status, do func() result) {
	ctx, cancel := context.WithTimeout(r.Context(), ledgerWait)
	defer cancel()
	select {
	case h.deciding <- struct{}{}:
		defer func() { <-h.deciding }()
	case <-ctx.Done():
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	res, applied := done, false
	apply := func(context.Context) error {
		applied = true
		if res = do(); res == notFound {
			return fmt.Errorf("instance %q of %s is no longer registered", k.id, k.app)
		}
		return nil
	}
	after := decisionJSON(st, unknown)
	if what == overrideAction {
		after = decisionJSON(st, st)
	}
	err := h.record(ctx, roadbed.Change{
		Actor: actorOf(r), Why: r.Header.Get(api.WhyHeader), Action: what, Resource: k.resource(),
		Result: roadbed.Succeeded, Before: decisionJSON(was.status, was.override), After: after,
	}, apply)
	if !applied {
		h.log.Warn("an override is refused, for the ledger cannot be written", "app", k.app, "instance", k.id, "err", err)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	empty(w, res)
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
	if r.c.Ledger == nil {
		return
	}
	select {
	case r.notes <- roadbed.Change{
		Actor: actor, Why: "the instance was cancelled", Action: clearAction, Resource: was.key.resource(),
		Result: roadbed.Succeeded, Before: decisionJSON(was.status, was.status),
	}:
	default:
		r.log.Warn("a cancelled instance's override is not in the ledger, which is too slow", "app", was.app, "instance", was.id)
	}
}

// takeNotes writes notes to the ledger until ctx ends.
func (r *Registry) takeNotes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case ch := <-r.notes:
			if _, err := r.c.Ledger.Record(ctx, ch); err != nil && ctx.Err() == nil {
				r.log.Warn("the end of an override is not in the ledger", "resource", ch.Resource, "err", err)
			}
		}
	}
}

// remember reads back the decisions that held when the platform stopped.
func (r *Registry) remember() {
	if r.c.Ledger == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
	defer cancel()
	list, err := r.c.Ledger.List(ctx, ledger.Query{
		Action: "instance.*", Resource: resourceKind, Since: time.Now().Add(-remembered), Limit: ledger.MaxLimit,
	})
	if err != nil {
		r.log.Warn("overrides of before are not known, for the ledger cannot be read; set them again", "err", err)
		return
	}
	for k, st := range decisions(list) {
		r.s.overrides[k] = override{status: st, orphan: max(1, r.s.now())}
	}
}

// decisions replays entries, newest first, and returns what holds after them.
func decisions(list []roadbed.Change) map[key]status {
	held := make(map[key]status)
	failed := make(map[uint64]bool)
	seen := make(map[key]bool)
	for _, c := range list {
		if c.Result != roadbed.Succeeded {
			failed[c.Parent] = c.Result == roadbed.Failed
			continue
		}
		app, id, ok := strings.Cut(strings.TrimPrefix(c.Resource, resourceKind), "/")
		k := key{strings.ToUpper(app), id}
		if !ok || failed[c.ID] || seen[k] || c.Action != overrideAction && c.Action != clearAction {
			continue
		}
		seen[k] = true
		var after decision
		if c.Action == clearAction || json.Unmarshal(c.After, &after) != nil {
			continue
		}
		if st, ok := parseStatus(after.Overridden); ok && st != unknown {
			held[k] = st
		}
	}
	return held
}
