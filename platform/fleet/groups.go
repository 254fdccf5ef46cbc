package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/engine"
)

// GroupView is a server group and how it runs here.
type GroupView struct {
	Name      string `json:"name"`
	Cluster   string `json:"cluster"`
	App       string `json:"app"`
	Healthy   int    `json:"healthy" doc:"instances that are UP"`
	Instances int    `json:"instances" doc:"instances there are, in whatever state"`
	Replaces  string `json:"replaces,omitempty" doc:"the server group that is destroyed when this one is healthy"`
	roadbed.ServerGroup
	Spec Spec `json:"spec"`
}

// ClusterView is the versions of one app, stack and detail.
type ClusterView struct {
	Name         string   `json:"name"`
	App          string   `json:"app"`
	ServerGroups []string `json:"serverGroups" nullable:"false" doc:"oldest first"`
	Desired      int      `json:"desired"`
	Healthy      int      `json:"healthy"`
	Instances    int      `json:"instances"`
}

// Resize says what to alter of a capacity; what is nil stays.
type Resize struct {
	Min     *int   `json:"min,omitempty"`
	Desired *int   `json:"desired,omitempty" doc:"how many instances to keep running"`
	Max     *int   `json:"max,omitempty"`
	Reason  string `json:"reason,omitempty" doc:"why, for the change log"`
}

// A key of the engine's table may hold letters, digits and "_=/-" only; a moniker also ".", "~" and "^".
var (
	toKey   = strings.NewReplacer(".", "=2E", "~", "=7E", "^", "=5E")
	fromKey = strings.NewReplacer("=2E", ".", "=7E", "~", "=5E", "^")
)

func keyOf(group string) string { return toKey.Replace(group) }
func nameOf(key string) string  { return fromKey.Replace(key) }

// Create starts a new server group of spec's cluster: the next version. It fails with a 409 problem if one of the
// cluster runs and spec does not say that it is to be replaced.
func (f *Fleet) Create(ctx context.Context, spec Spec) (GroupView, error) {
	m, err := spec.normalize(f.c.Zones)
	if err != nil {
		return GroupView{}, api.Problem(http.StatusUnprocessableEntity, "%v", err)
	}
	// A program that is not there would only be found out by looking at a crash loop.
	env := merge(f.baseEnv, f.c.Env)
	for k, v := range spec.Env {
		env = append(env, k+"="+v)
	}
	slices.Reverse(env)
	if _, err := findProgram(expand(spec.Command[0], 0, 0, "", f.c.Self), spec.Dir, lookup(env, "PATH")); err != nil {
		return GroupView{}, api.Problem(http.StatusUnprocessableEntity, "%s cannot be started: %v", spec.Name, err)
	}

	f.writing.Lock()
	defer f.writing.Unlock()
	newest, running := f.newest(m.Cluster())
	if running && !spec.Replace {
		return GroupView{}, api.Problem(http.StatusConflict, "%s runs already, as %s; destroy that first, or add --replace (\"replace\": true) to start the next version in its place",
			m.Cluster(), newest.Group.Name())
	}
	rec := record{Spec: spec, Group: roadbed.ServerGroup{
		Region: f.c.Region, Image: commandLine(spec.Command), Criticality: spec.Criticality, Created: time.Now().UTC(),
		Capacity: roadbed.Capacity{Desired: spec.Instances, Max: maxInstances},
		Zones:    f.leastUsedFirst(spec.Zones),
	}}
	from := m
	if newest.Group.Moniker.App != "" {
		from = newest.Group.Moniker
	}
	if rec.Group.Moniker, err = from.Next(f.taken); err != nil {
		return GroupView{}, api.Problem(http.StatusConflict, "%v", err)
	}
	if running {
		rec.Replaces = newest.Group.Name()
	}
	if spec.Port > 0 {
		if err := f.portsFree(spec, rec.Replaces); err != nil {
			return GroupView{}, api.Problem(http.StatusConflict, "%s cannot be started: %v", spec.Name, err)
		}
	}
	name := rec.Group.Name()
	c := api.Change(ctx, "serverGroup.create", "serverGroup:"+name)
	c.Why = cmp.Or(spec.Reason, c.Why)
	c.After = asJSON(rec.Group)
	err = f.c.Ledger.Apply(ctx, c, func(ctx context.Context) error {
		_, err := f.table.Create(ctx, keyOf(name), rec)
		return err
	})
	if err != nil {
		return GroupView{}, f.refused("create "+name, err)
	}
	// Two versions cannot have one fixed port: the old one makes room at once.
	if running && spec.Port > 0 && overlap(spec, newest) {
		why := "replaced by " + name + ", which needs its ports"
		if err := f.destroyLocked(ctx, rec.Replaces, roadbed.Change{Actor: c.Actor, Why: why}); err != nil {
			return GroupView{}, err
		}
	}
	f.reconcile(name)
	return f.Group(name)
}

// Resize alters the capacity of a server group. Surplus instances leave from the highest slot down.
func (f *Fleet) Resize(ctx context.Context, name string, to Resize) (GroupView, error) {
	return f.alter(ctx, name, "serverGroup.resize", to.Reason, func(r *record) error {
		c := &r.Group.Capacity
		for _, x := range []struct{ field, given *int }{{&c.Min, to.Min}, {&c.Desired, to.Desired}, {&c.Max, to.Max}} {
			if x.given != nil {
				*x.field = *x.given
			}
		}
		if err := c.Validate(); err != nil {
			return err
		}
		if c.Desired > maxInstances {
			return fmt.Errorf("%d instances: one machine bears at most %d", c.Desired, maxInstances)
		}
		if r.Spec.Port > 0 && r.Spec.Port+c.Desired-1 > 65535 {
			return fmt.Errorf("port %d with %d instances: ports end at 65535", r.Spec.Port, c.Desired)
		}
		return nil
	})
}

// SetDisabled takes a server group out of traffic, or back, by a status override of each of its instances. They keep
// running. It returns when the registry knows, or after a moment if it cannot be reached: it is told as soon as it can.
func (f *Fleet) SetDisabled(ctx context.Context, name string, disabled bool, reason string) (GroupView, error) {
	action := "serverGroup.enable"
	if disabled {
		action = "serverGroup.disable"
	}
	g, err := f.alter(ctx, name, action, reason, func(r *record) error {
		r.Group.Disabled = disabled
		return nil
	})
	if err != nil {
		return g, err
	}
	wait, cancel := context.WithTimeout(ctx, 2*f.pace.registryWait)
	defer cancel()
	f.await(wait, func() bool {
		g := f.groups[name]
		if g == nil {
			return true
		}
		for _, s := range g.slots {
			if s.proc != nil && s.view.State != StateStopping && s.view.OutOfService != disabled {
				return false
			}
		}
		return true
	})
	return f.Group(name)
}

// Destroy ends a server group: it is forgotten and its instances are stopped gracefully.
func (f *Fleet) Destroy(ctx context.Context, name, reason string) error {
	c := api.Change(ctx, "", "")
	c.Why = cmp.Or(reason, c.Why)
	return f.destroy(ctx, name, c)
}

func (f *Fleet) destroy(ctx context.Context, name string, by roadbed.Change) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	return f.destroyLocked(ctx, name, by)
}

func (f *Fleet) destroyLocked(ctx context.Context, name string, by roadbed.Change) error {
	e, ok := f.table.Get(keyOf(name))
	if !ok {
		return f.unknownGroup(name)
	}
	by.Action, by.Resource, by.Result = "serverGroup.destroy", "serverGroup:"+name, roadbed.Succeeded
	by.Before = asJSON(e.Value.Group)
	err := f.c.Ledger.Apply(ctx, by, func(ctx context.Context) error { return f.table.Delete(ctx, e.Key, 0) })
	if err != nil {
		return f.refused("destroy "+name, err)
	}
	f.reconcile(name)
	return nil
}

// Kill sends a signal, by its name without SIG, to all processes of an instance. An empty signal ends the instance
// gracefully. Either way the fleet starts another.
func (f *Fleet) Kill(ctx context.Context, id, signal, reason string) (InstanceView, error) {
	signal = strings.TrimPrefix(strings.ToUpper(signal), "SIG")
	var sig syscall.Signal
	names := make([]string, len(signals))
	for i, x := range signals {
		names[i] = x.name
		if x.name == signal {
			sig = x.sig
		}
	}
	if signal != "" && sig == 0 {
		return InstanceView{}, api.Problem(http.StatusUnprocessableEntity, "%q is not a signal; use one of %s, or none to end the instance gracefully", signal, strings.Join(names, ", "))
	}
	s, v, err := f.find(id)
	if err != nil {
		return InstanceView{}, err
	}
	if v.PID == 0 {
		return InstanceView{}, api.Problem(http.StatusConflict, "%s does not run: %s", v.ID, v.Health)
	}
	c := api.Change(ctx, "instance.kill", "instance:"+v.ID)
	c.Why = cmp.Or(reason, c.Why)
	c.Before = asJSON(struct {
		State State `json:"state"`
		PID   int   `json:"pid"`
	}{v.State, v.PID})
	c.After = asJSON(struct {
		Signal string `json:"signal"`
	}{cmp.Or(signal, "TERM, then KILL")})
	err = f.c.Ledger.Apply(ctx, c, func(context.Context) error {
		f.mu.Lock()
		p := s.proc
		if p == nil || s.view.ID != v.ID {
			f.mu.Unlock()
			return api.Problem(http.StatusConflict, "%s has just ended by itself", v.ID)
		}
		if sig != syscall.SIGSTOP && sig != syscall.SIGCONT {
			s.killed = true
		}
		if signal == "" {
			s.restart = "was stopped because " + c.Actor + " asked for it"
			s.wake()
			f.mu.Unlock()
			return nil
		}
		f.mu.Unlock()
		return p.signal(sig)
	})
	if err != nil {
		return InstanceView{}, f.refused("kill "+v.ID, err)
	}
	return v, nil
}

// Groups lists the server groups that should run, by name.
func (f *Fleet) Groups() []GroupView {
	entries := f.table.List("")
	out := make([]GroupView, 0, len(entries))
	for _, e := range entries {
		out = append(out, f.show(e.Value))
	}
	slices.SortFunc(out, func(a, b GroupView) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Group returns one server group, or a 404 problem that names similar ones.
func (f *Fleet) Group(name string) (GroupView, error) {
	e, ok := f.table.Get(keyOf(name))
	if !ok {
		return GroupView{}, f.unknownGroup(name)
	}
	return f.show(e.Value), nil
}

// Clusters lists the clusters that have server groups, by name.
func (f *Fleet) Clusters() []ClusterView {
	groups := f.Groups()
	slices.SortStableFunc(groups, func(a, b GroupView) int {
		return cmp.Or(strings.Compare(a.Cluster, b.Cluster), a.Created.Compare(b.Created))
	})
	out := []ClusterView{}
	for _, g := range groups {
		if len(out) == 0 || out[len(out)-1].Name != g.Cluster {
			out = append(out, ClusterView{Name: g.Cluster, App: g.App})
		}
		c := &out[len(out)-1]
		c.ServerGroups = append(c.ServerGroups, g.Name)
		c.Desired += g.Capacity.Desired
		c.Healthy += g.Healthy
		c.Instances += g.Instances
	}
	return out
}

// Instances lists the instances of a server group, or of all if group is empty, by group and slot.
func (f *Fleet) Instances(group string) []InstanceView {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := []InstanceView{}
	for _, g := range f.groups {
		if group != "" && g.name != group {
			continue
		}
		for _, s := range g.slots {
			out = append(out, s.view)
		}
	}
	slices.SortFunc(out, func(a, b InstanceView) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), cmp.Compare(a.Slot, b.Slot))
	})
	return out
}

// alter changes one record by compare and set.
func (f *Fleet) alter(ctx context.Context, name, action, reason string, change func(*record) error) (GroupView, error) {
	f.writing.Lock()
	defer f.writing.Unlock()
	for {
		e, ok := f.table.Get(keyOf(name))
		if !ok {
			return GroupView{}, f.unknownGroup(name)
		}
		next := e.Value
		if err := change(&next); err != nil {
			return GroupView{}, api.Problem(http.StatusUnprocessableEntity, "%s: %v", name, err)
		}
		if next.Group.Capacity == e.Value.Group.Capacity && next.Group.Disabled == e.Value.Group.Disabled {
			return f.show(next), nil
		}
		c := api.Change(ctx, action, "serverGroup:"+name)
		c.Why = cmp.Or(reason, c.Why)
		c.Before, c.After = asJSON(e.Value.Group), asJSON(next.Group)
		err := f.c.Ledger.Apply(ctx, c, func(ctx context.Context) error {
			_, err := f.table.Update(ctx, e.Key, next, e.Rev)
			return err
		})
		if errors.Is(err, engine.ErrConflict) && ctx.Err() == nil {
			continue // another process altered it meanwhile; the table shows how
		}
		if err != nil {
			return GroupView{}, f.refused(action+" "+name, err)
		}
		f.reconcile(name)
		return f.show(next), nil
	}
}

// refused gives an error of engine or ledger the status that tells a client whether to try again.
func (f *Fleet) refused(doing string, err error) error {
	var se interface{ GetStatus() int }
	switch {
	case errors.As(err, &se):
		return err
	case errors.Is(err, engine.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return api.Problem(http.StatusServiceUnavailable, "%s: the platform cannot record changes now; what runs keeps running, try again: %v", doing, err)
	case errors.Is(err, engine.ErrExists), errors.Is(err, engine.ErrConflict):
		return api.Problem(http.StatusConflict, "%s: somebody else was faster; look again: %v", doing, err)
	}
	return fmt.Errorf("fleet: %s: %w", doing, err)
}

func (f *Fleet) show(r record) GroupView {
	g := GroupView{
		Name: r.Group.Name(), Cluster: r.Group.Moniker.Cluster(), App: strings.ToLower(r.Group.Moniker.App),
		ServerGroup: r.Group, Spec: r.Spec,
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.table.Get(keyOf(r.Replaces)); ok && r.Replaces != "" {
		g.Replaces = r.Replaces
	}
	if local := f.groups[g.Name]; local != nil {
		g.Instances = len(local.slots)
		for _, s := range local.slots {
			if s.view.State == StateUp {
				g.Healthy++
			}
		}
	}
	return g
}

// newest returns the youngest server group of a cluster, and whether it should run.
func (f *Fleet) newest(cluster string) (r record, running bool) {
	for _, e := range f.table.List("") {
		if e.Value.Group.Moniker.Cluster() == cluster && !e.Value.Group.Created.Before(r.Group.Created) {
			r = e.Value
		}
	}
	return r, r.Group.Capacity.Desired > 0
}

// taken reports whether a server group of that name exists, or has instances that are still being stopped.
func (f *Fleet) taken(m roadbed.Moniker) bool {
	if _, ok := f.table.Get(keyOf(m.String())); ok {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.groups[m.String()] != nil
}

// leastUsedFirst orders zones by how many instances should run there, so that small groups do not all crowd into the
// first one.
func (f *Fleet) leastUsedFirst(zones []string) []string {
	used := make(map[string]int)
	for _, e := range f.table.List("") {
		for n := range e.Value.Group.Capacity.Desired {
			used[zoneOf(e.Value.Group.Zones, n)]++
		}
	}
	out := slices.Clone(zones)
	slices.SortStableFunc(out, func(a, b string) int { return cmp.Compare(used[a], used[b]) })
	return out
}

// portsFree reports the first port of spec that cannot be had. Those of the server group it replaces can.
func (f *Fleet) portsFree(spec Spec, replaces string) error {
	for n := range spec.Instances {
		port := spec.Port + n
		f.mu.Lock()
		by := f.ports[port]
		f.mu.Unlock()
		switch {
		case by != "" && strings.TrimRight(by, "0123456789") == replaces+"-":
		case by != "":
			return fmt.Errorf("port %d belongs to %s; destroy that, or choose another port", port, by)
		default:
			if err := portFree(port); err != nil {
				return explainPort(port, err)
			}
		}
	}
	return nil
}

// overlap reports whether spec wants a port that old was given.
func overlap(spec Spec, old record) bool {
	if old.Spec.Port == 0 {
		return false
	}
	oldLast, last := old.Spec.Port+old.Group.Capacity.Desired-1, spec.Port+spec.Instances-1
	return spec.Port <= oldLast && old.Spec.Port <= last
}

// find returns the slot of an instance, given its id or its slot's name.
func (f *Fleet) find(id string) (*slot, InstanceView, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.groups {
		for _, s := range g.slots {
			if s.view.ID == id || s.name == id {
				return s, s.view, nil
			}
		}
	}
	var have []string
	for _, g := range f.groups {
		for _, s := range g.slots {
			have = append(have, s.view.ID)
		}
	}
	return nil, InstanceView{}, api.Problem(http.StatusNotFound, "there is no instance %q%s", id, suggest(id, have, "the fleet runs none"))
}

func (f *Fleet) unknownGroup(name string) error {
	var have []string
	for _, e := range f.table.List("") {
		have = append(have, nameOf(e.Key))
	}
	return api.Problem(http.StatusNotFound, "there is no server group %q%s", name, suggest(name, have, "there is none at all"))
}

// suggest ends a sentence with the names nearest to what was asked for.
func suggest(asked string, have []string, none string) string {
	if len(have) == 0 {
		return "; " + none
	}
	slices.Sort(have)
	slices.SortStableFunc(have, func(a, b string) int {
		return cmp.Compare(api.Distance(asked, a), api.Distance(asked, b))
	})
	more := ""
	if len(have) > 3 {
		more = fmt.Sprintf(", and %d others", len(have)-3)
		have = have[:3]
	}
	return "; near: " + strings.Join(have, ", ") + more
}
