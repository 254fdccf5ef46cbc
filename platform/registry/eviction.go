package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/roadbed/roadbed/platform/api"
)

// Eviction says which instances an operator takes out of the registry: those that fit all that is given.
type Eviction struct {
	App   string   `json:"app,omitempty" doc:"only instances of this application"`
	Group string   `json:"group,omitempty" doc:"only instances of this server group"`
	Zone  string   `json:"zone,omitempty" doc:"only instances in this zone"`
	IDs   []string `json:"ids,omitempty" maxItems:"10000" doc:"only these instances"`
}

const (
	evictAction = "registry.evict"

	// An eviction of more than so many instances, or of all of an application that has several, must be confirmed.
	evictFreely = 5
	evictNamed  = 20 // instances that an entry of the ledger names at most
)

// Evict takes instances out of the registry, as if each had cancelled itself, and says how many they were. One that is
// alive comes back with its next renewal. If they are many it fails with an [api.Problem] of status 428, whose error
// at query.confirm holds the token by which the same eviction is confirmed; it names exactly those instances. Actor and
// reason are taken from ctx, as [api.As] put them there.
func (r *Registry) Evict(ctx context.Context, which Eviction, confirm string) (n int, err error) {
	if which.App == "" && which.Group == "" && which.Zone == "" && len(which.IDs) == 0 {
		return 0, api.Problem(http.StatusUnprocessableEntity, "name an app, a group, a zone or ids; to evict everybody is not possible")
	}
	ks, whole := r.s.fitting(which)
	if len(ks) == 0 {
		return 0, api.Problem(http.StatusNotFound, "no registered instance fits; look who is there")
	}
	if token := evictionToken(ks); (len(ks) > evictFreely || whole) && confirm != token {
		return 0, huma.NewError(http.StatusPreconditionRequired, fmt.Sprintf("this takes out %d instances, of %s; repeat it with confirm=%s", len(ks), appsOf(ks), token),
			&huma.ErrorDetail{Message: "the token", Location: "query.confirm", Value: token})
	}
	by := api.Change(ctx, evictAction, "registry:"+r.name())
	named := make([]string, 0, evictNamed)
	for _, k := range ks[:min(len(ks), evictNamed)] {
		named = append(named, strings.ToLower(k.app)+"/"+k.id)
	}
	by.Before = mustJSON(map[string]any{"instances": named, "count": len(ks)})
	err = r.inOrder(ctx, by, func() error {
		for _, k := range ks {
			res, was := r.s.cancel(k)
			if res == done {
				n++
			}
			if was != nil {
				r.note(*was, by.Actor)
			}
		}
		return nil
	})
	if err != nil {
		return 0, api.Problem(http.StatusServiceUnavailable, "nobody is evicted: %v; try again in a moment", err)
	}
	return n, nil
}

// appsOf names the applications of ks, which are sorted, or counts them if they are many.
func appsOf(ks []key) string {
	var names []string
	for _, k := range ks {
		if name := strings.ToLower(k.app); len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
	}
	if len(names) > 3 {
		return fmt.Sprintf("%d applications", len(names))
	}
	return strings.Join(names, ", ")
}

// name is what the ledger calls this registry.
func (r *Registry) name() string {
	if r.c.Self == "" {
		return "registry"
	}
	return r.c.Self
}

// fitting lists the instances that fit, by app and id. whole says that they are all of an application that has several.
func (s *state) fitting(which Eviction) (ks []key, whole bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for name, a := range s.apps {
		if which.App != "" && name != upper(which.App) {
			continue
		}
		n := 0
		for _, e := range a.order {
			if which.Group != "" && e.rec.asg != which.Group || which.Zone != "" && e.rec.zone() != which.Zone ||
				len(which.IDs) > 0 && !slices.Contains(which.IDs, e.rec.id) {
				continue
			}
			n++
			ks = append(ks, key{strings.Clone(name), e.rec.id})
		}
		whole = whole || n > 1 && n == len(a.order)
	}
	slices.SortFunc(ks, func(a, b key) int {
		if c := strings.Compare(a.app, b.app); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	return ks, whole
}

// evictionToken names exactly these instances.
func evictionToken(ks []key) string {
	h := sha256.New()
	for _, k := range ks {
		h.Write([]byte(k.app + "\x00" + k.id + "\x00")) //nolint:errcheck // a hash takes everything
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

type evictIn struct {
	Confirm string `query:"confirm" doc:"the token that a refusal named"`
	Body    Eviction
}

type evictOut struct {
	Body struct {
		Evicted int `json:"evicted"`
	}
}

// mountEviction adds the eviction of instances to s.
func (r *Registry) mountEviction(s *api.Surface) {
	huma.Register(s.API, huma.Operation{
		OperationID: "evict-instances", Method: "POST", Path: "/api/v1/registry/evictions", Summary: "Evict instances",
		Description: "Takes instances out of the registry as if each had cancelled itself; one that is alive comes back with its next renewal. " +
			"More than 5, or all of an application that has several, must be confirmed: the refusal names the token.",
	}, func(ctx context.Context, in *evictIn) (*evictOut, error) {
		n, err := r.Evict(ctx, in.Body, in.Confirm)
		if err != nil {
			return nil, err
		}
		out := &evictOut{}
		out.Body.Evicted = n
		return out, nil
	})
}
