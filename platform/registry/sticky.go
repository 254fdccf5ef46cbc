package registry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/engine"
)

// What an instance registers overwrites what operators added to it, and its cancellation ends what they decided about
// it, as in Eureka. Sticky metadata is added again to each registration of the instance, and a sticky override outlives
// a cancellation by a day. Both are in a table of the engine, which has what holds now, however long ago it was decided
// and whatever else is in the ledger, and which registries that share an engine all follow. Registrations never wait
// for it: they use what is known of it in memory.

// sticky is the table's entry for one instance.
type sticky struct {
	App      string            `json:"app"` // upper case
	ID       string            `json:"id"`
	Status   string            `json:"status,omitempty"`   // of its override, if that is sticky
	Decided  time.Time         `json:"decided,omitzero"`   // when that was decided
	Metadata map[string]string `json:"metadata,omitempty"` // added to what it registers
}

func (s sticky) key() key { return key{s.App, s.ID} }

func (s sticky) empty() bool { return s.Status == "" && len(s.Metadata) == 0 }

// stuck is the same as registrations need it.
type stuck struct {
	held    bool // its override is sticky,
	status  status
	decided time.Time
	meta    []pair
}

func (s sticky) stuck() stuck {
	st, ok := parseStatus(s.Status)
	out := stuck{held: ok && s.Status != "" && st != unknown, status: st, decided: s.Decided}
	for _, k := range slices.Sorted(maps.Keys(s.Metadata)) {
		out.meta = append(out.meta, pair{k, s.Metadata[k]})
	}
	return out
}

const (
	stickyTable  = "registry-sticky"
	stickyOpen   = 2 * time.Second     // that a registry waits for the table when it starts
	stickyPairs  = 64                  // of one instance
	stickyBytes  = 16 << 10            // of the metadata of one instance
	stickyUnused = 30 * 24 * time.Hour // after which what is sticky about an instance that is not registered is forgotten
	stickySweep  = time.Hour

	metadataAction = "instance.metadata"
	stickyAction   = "instance.sticky"
)

// tableKey is where the table has k. Names of instances are not fit for it.
func (k key) tableKey() string {
	sum := sha256.Sum256([]byte(k.app + "\x00" + k.id))
	return strings.TrimRight(base32.StdEncoding.EncodeToString(sum[:16]), "=")
}

// openSticky takes over what is sticky. A registry without an engine keeps nothing.
func (r *Registry) openSticky() {
	if r.c.Engine == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stickyOpen)
	defer cancel()
	var err error
	if r.sticky, err = engine.OpenTable[sticky](ctx, r.c.Engine, stickyTable, 1); err != nil {
		r.log.Warn("what operators made sticky is not known, for the engine cannot be read; instances register without it", "err", err)
		return
	}
	for _, e := range r.sticky.List("") {
		r.s.stick(e.Value.key(), e.Value.stuck())
	}
}

// followSticky keeps up with the table until ctx ends.
func (r *Registry) followSticky(ctx context.Context) {
	events := r.sticky.Watch(ctx, "")
	sweep := time.NewTicker(stickySweep)
	defer sweep.Stop()
	for {
		select {
		case ev, ok := <-events:
			if !ok {
				<-ctx.Done()
				return
			}
			switch ev.Kind {
			case engine.Snapshot, engine.Put:
				r.s.stick(ev.Entry.Value.key(), ev.Entry.Value.stuck())
			case engine.Deleted:
				r.s.stick(ev.Entry.Value.key(), stuck{})
			}
		case k := <-r.s.unstuck:
			if r.s.isStuck(k) {
				continue // it is sticky again
			}
			if err := r.alterSticky(ctx, k, func(s *sticky) error { s.Status, s.Decided = "", time.Time{}; return nil }); err != nil && ctx.Err() == nil {
				r.log.Warn("an override that has ended is still sticky; clear it again", "app", k.app, "instance", k.id, "err", err)
			}
		case <-sweep.C:
			for _, e := range r.sticky.List("") {
				if time.Since(e.Time) > stickyUnused && r.s.overriding(e.Value.key()) == nil {
					if err := r.sticky.Delete(ctx, e.Key, e.Rev); err != nil && ctx.Err() == nil {
						r.log.Warn("what is sticky about an instance of long ago is not forgotten", "app", e.Value.App, "instance", e.Value.ID, "err", err)
					}
				}
			}
		}
	}
}

// alterSticky alters what is sticky about k, whoever else does so at the same time.
func (r *Registry) alterSticky(ctx context.Context, k key, alter func(*sticky) error) error {
	ctx, cancel := context.WithTimeout(ctx, ledgerWait)
	defer cancel()
	for {
		e, ok := r.sticky.Get(k.tableKey())
		s := sticky{App: k.app, ID: k.id, Status: e.Value.Status, Decided: e.Value.Decided, Metadata: maps.Clone(e.Value.Metadata)}
		err := alter(&s)
		switch {
		case err != nil:
			return err
		case s.empty() && !ok:
			return nil
		case s.empty():
			err = r.sticky.Delete(ctx, e.Key, e.Rev)
		default:
			_, err = r.sticky.Update(ctx, k.tableKey(), s, e.Rev)
		}
		if errors.Is(err, engine.ErrConflict) || errors.Is(err, engine.ErrExists) || errors.Is(err, engine.ErrNotFound) {
			if ctx.Err() == nil {
				continue // somebody was faster
			}
		}
		if err == nil {
			r.s.stick(k, s.stuck())
		}
		return err
	}
}

// stick makes x what is sticky about an instance. An override that was cleared since it was decided stays so.
func (s *state) stick(k key, x stuck) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.stuck[k]
	if x.held {
		stamp := s.stamps.see(stampOf(x.decided))
		if s.verdict(k).stamp < stamp {
			if ov, ok := s.overrides[k]; !ok || ov.status != x.status {
				s.overrides[k] = override{status: x.status, stamp: stamp}
				delete(s.lifted, k)
			}
		} else if s.lifted[k].stamp >= stamp {
			x.held = false
		}
	}
	if x.held || len(x.meta) > 0 {
		s.stuck[k] = x
	} else {
		delete(s.stuck, k)
	}
	e := s.find(k)
	if e == nil {
		if ov, ok := s.overrides[k]; ok && ov.orphan == 0 {
			ov.orphan = max(1, s.now())
			s.overrides[k] = ov
		}
		return
	}
	r := *e.rec
	for _, p := range was.meta {
		if get(x.meta, p.key) == "" && get(r.meta, p.key) == p.value {
			r.meta = removePair(r.meta, p.key)
		}
	}
	s.adorn(&r)
	if !samePairs(r.meta, e.rec.meta) {
		r.stamp = s.stamps.next()
		s.replace(e, &r)
	}
	s.reconsider(e)
}

// isStuck reports whether the override of k is sticky.
func (s *state) isStuck(k key) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.stuck[k].held
}

// unstick ends that the override of k is sticky. The caller holds mu.
func (s *state) unstick(k key) {
	x := s.stuck[k]
	if !x.held {
		return
	}
	x.held = false
	if s.stuck[k] = x; len(x.meta) == 0 {
		delete(s.stuck, k)
	}
	select {
	case s.unstuck <- k:
	default: // the ledger knows, and is asked after a restart
	}
}

// adorn adds to r the metadata that is sticky, and reports whether there was any that it lacked. The caller holds mu.
func (s *state) adorn(r *record) (added bool) {
	for _, p := range s.stuck[r.key()].meta {
		if get(r.meta, p.key) != p.value {
			r.meta = setPair(r.meta, p.key, p.value)
			added = true
		}
	}
	return added
}

func removePair(ps []pair, key string) []pair {
	return slices.DeleteFunc(slices.Clone(ps), func(p pair) bool { return p.key == key })
}

// orphaned says that the instance of k was cancelled: the decision about it ends, unless it is sticky. It reports
// whether it ended. The caller holds mu.
func (s *state) orphaned(k key) (ended bool) {
	ov, ok := s.overrides[k]
	if !ok {
		return false
	}
	if s.stuck[k].held {
		ov.orphan = max(1, s.now())
		s.overrides[k] = ov
		return false
	}
	s.lift(k)
	return true
}

// keepsNothing is why something cannot be made sticky here.
func keepsNothing() error {
	return api.Problem(http.StatusConflict, "this registry has no engine to keep that in; leave out sticky, or start it as part of a platform that has one")
}

// StickyOverride is Override, and the decision outlives a cancellation of the instance by a day. It needs Config.Engine.
func (r *Registry) StickyOverride(ctx context.Context, app, id string, st roadbed.Status) error {
	k := key{upper(app), id}
	if r.sticky == nil {
		return keepsNothing()
	}
	if err := r.Override(ctx, app, id, st); err != nil {
		return err
	}
	by := api.Change(ctx, stickyAction, k.resource())
	by.After = mustJSON(map[string]any{"status": st, "sticky": true})
	var kept error
	err := r.inOrder(ctx, by, func() error {
		kept = r.alterSticky(ctx, k, func(s *sticky) error {
			s.Status, s.Decided = strings.ToUpper(string(st)), time.Now()
			return nil
		})
		return kept
	})
	if err = cmp.Or(err, kept); err != nil {
		return api.Problem(http.StatusServiceUnavailable, "instance %q of %s is overridden, but that is not sticky: %v; try again in a moment", id, app, err)
	}
	return nil
}

// SetMetadata adds to an instance's metadata. What is not sticky lasts until the instance registers again; what is
// needs Config.Engine. Actor and reason are taken from ctx, as [api.As] put them there. It fails with an [api.Problem]
// if the instance is not registered, the metadata is too much, or it cannot be recorded.
func (r *Registry) SetMetadata(ctx context.Context, app, id string, meta map[string]string, keep bool) error {
	k := key{upper(app), id}
	if keep && r.sticky == nil {
		return keepsNothing()
	}
	if r.s.overriding(k) == nil {
		return notRegistered(k)
	}
	if err := checkMetadata(meta); err != nil {
		return err
	}
	by := api.Change(ctx, metadataAction, k.resource())
	by.After = mustJSON(map[string]any{"metadata": meta, "sticky": keep})
	res, kept := done, error(nil)
	err := r.inOrder(ctx, by, func() error {
		if keep {
			kept = r.alterSticky(ctx, k, func(s *sticky) error {
				if s.Metadata == nil {
					s.Metadata = make(map[string]string)
				}
				maps.Copy(s.Metadata, meta)
				return checkMetadata(s.Metadata)
			})
			if kept != nil {
				return kept
			}
		}
		var add []pair
		for _, name := range slices.Sorted(maps.Keys(meta)) {
			add = append(add, pair{name, meta[name]})
		}
		if res = r.s.setMeta(k, add, origin{native: true}); res == notFound {
			return fmt.Errorf("instance %q of %s is no longer registered", k.id, k.app)
		}
		return nil
	})
	var refused huma.StatusError
	if errors.As(kept, &refused) {
		return refused
	}
	return k.problem(res, cmp.Or(err, kept))
}

// checkMetadata says why meta cannot be added to an instance, if so.
func checkMetadata(meta map[string]string) error {
	size := 0
	for name, v := range meta {
		if name == "" || clean(name) != name || clean(v) != v {
			return api.Problem(http.StatusUnprocessableEntity, "metadata %q: names are not empty, and names and values are UTF-8", name)
		}
		size += len(name) + len(v)
	}
	if len(meta) == 0 || len(meta) > stickyPairs || size > stickyBytes {
		return api.Problem(http.StatusUnprocessableEntity, "metadata of %d names in %d bytes; an instance may be given 1 to %d, in at most %d bytes", len(meta), size, stickyPairs, stickyBytes)
	}
	return nil
}

// ClearMetadata ends that a name of an instance's metadata is sticky, and takes it out until the instance itself
// registers it. It fails with an [api.Problem] if it is not sticky or that cannot be recorded.
func (r *Registry) ClearMetadata(ctx context.Context, app, id, name string) error {
	k := key{upper(app), id}
	none := api.Problem(http.StatusNotFound, "%q is not sticky in the metadata of instance %q of %s", name, id, app)
	if r.sticky == nil {
		return none
	}
	if e, ok := r.sticky.Get(k.tableKey()); !ok || e.Value.Metadata[name] == "" {
		return none
	}
	by := api.Change(ctx, metadataAction, k.resource())
	by.After = mustJSON(map[string]any{"cleared": name})
	var kept error
	err := r.inOrder(ctx, by, func() error {
		kept = r.alterSticky(ctx, k, func(s *sticky) error { delete(s.Metadata, name); return nil })
		return kept
	})
	return k.problem(done, cmp.Or(err, kept))
}

// Sticky is what operators decided about one instance and is kept beyond its registration.
type Sticky struct {
	App      string            `json:"app" doc:"lower case"`
	ID       string            `json:"id"`
	Status   roadbed.Status    `json:"status,omitempty" doc:"its override, which outlives a cancellation"`
	Metadata map[string]string `json:"metadata,omitempty" doc:"added to whatever it registers"`
	Since    time.Time         `json:"since" doc:"of the last change"`
}

// Sticky lists what is sticky, by app and id.
func (r *Registry) Sticky() []Sticky {
	list := []Sticky{}
	if r.sticky == nil {
		return list
	}
	for _, e := range r.sticky.List("") {
		list = append(list, Sticky{strings.ToLower(e.Value.App), e.Value.ID, roadbed.Status(e.Value.Status), e.Value.Metadata, e.Time.UTC()})
	}
	slices.SortFunc(list, func(a, b Sticky) int { return cmp.Or(strings.Compare(a.App, b.App), strings.Compare(a.ID, b.ID)) })
	return list
}

func mustJSON(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("registry: names and words cannot be written as JSON: " + err.Error())
	}
	return raw
}

type metadataIn struct {
	App  string `path:"app"`
	ID   string `path:"id"`
	Body struct {
		Metadata map[string]string `json:"metadata" doc:"added to what the instance registers"`
		Sticky   bool              `json:"sticky,omitempty" doc:"add it again whenever the instance registers"`
	}
}

type metadataNameIn struct {
	App  string `path:"app"`
	ID   string `path:"id"`
	Name string `path:"name"`
}

type stickyOut struct{ Body []Sticky }

// mountSticky adds to s what operators add to instances.
func (r *Registry) mountSticky(s *api.Surface) {
	huma.Register(s.API, huma.Operation{
		OperationID: "set-instance-metadata", Method: "PUT", Path: "/api/v1/registry/instances/{app}/{id}/metadata", DefaultStatus: http.StatusNoContent,
		Summary: "Add to an instance's metadata", Description: "Lasts until the instance registers again, or is added to each registration if it is sticky.",
	}, func(ctx context.Context, in *metadataIn) (*struct{}, error) {
		return nil, r.SetMetadata(ctx, in.App, in.ID, in.Body.Metadata, in.Body.Sticky)
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "clear-instance-metadata", Method: "DELETE", Path: "/api/v1/registry/instances/{app}/{id}/metadata/{name}", DefaultStatus: http.StatusNoContent,
		Summary: "Take sticky metadata from an instance", Description: "What the instance itself registers counts again.",
	}, func(ctx context.Context, in *metadataNameIn) (*struct{}, error) {
		return nil, r.ClearMetadata(ctx, in.App, in.ID, in.Name)
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "list-sticky", Method: "GET", Path: "/api/v1/registry/sticky", Summary: "List what is sticky",
		Description: "Overrides and metadata that are kept beyond the registration of their instance.",
	}, func(context.Context, *struct{}) (*stickyOut, error) {
		return &stickyOut{r.Sticky()}, nil
	})
}
