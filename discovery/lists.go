package discovery

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/roadbed/roadbed"
)

// lists is who is known, by application. It is guarded by the client's mu; the lists it hands out are never altered.
type lists struct {
	apps map[string]*group
	all  group  // every application's, made when asked for
	gen  uint64 // rises with each change
}

// group is the instances of one application.
type group struct {
	byID map[string]roadbed.Instance
	list []roadbed.Instance // sorted by id; nil when byID changed since it was made
	gen  uint64             // of the last change
}

func newLists() lists { return lists{apps: make(map[string]*group), gen: 1} }

// list returns the instances of app and the generation of that list. An app that is unknown has the generation of the
// change that emptied it, or 0.
func (l *lists) list(app string) ([]roadbed.Instance, uint64) {
	if app == "" {
		if l.all.gen != l.gen {
			var out []roadbed.Instance
			for _, name := range slices.Sorted(maps.Keys(l.apps)) {
				part, _ := l.list(name)
				out = append(out, part...)
			}
			l.all.list, l.all.gen = out, l.gen
		}
		return l.all.list, l.all.gen
	}
	g := l.apps[app]
	if g == nil {
		return nil, 0
	}
	if g.list == nil {
		g.list = slices.SortedFunc(maps.Values(g.byID), func(a, b roadbed.Instance) int { return strings.Compare(a.ID, b.ID) })
	}
	return g.list, g.gen
}

// put adds or replaces an instance and reports whether that changed anything.
func (l *lists) put(i roadbed.Instance) bool {
	i.App = strings.ToLower(i.App)
	if i.App == "" || i.ID == "" {
		return false
	}
	g := l.apps[i.App]
	if g == nil {
		g = &group{byID: make(map[string]roadbed.Instance)}
		l.apps[i.App] = g
	}
	if was, ok := g.byID[i.ID]; ok && same(was, i) {
		return false
	}
	l.gen++
	g.byID[i.ID], g.list, g.gen = i, nil, l.gen
	return true
}

// remove takes an instance out and reports whether it was there.
func (l *lists) remove(app, id string) bool {
	app = strings.ToLower(app)
	g := l.apps[app]
	if g == nil {
		return false
	}
	if _, ok := g.byID[id]; !ok {
		return false
	}
	l.gen++
	delete(g.byID, id)
	g.list, g.gen = nil, l.gen
	if len(g.byID) == 0 {
		delete(l.apps, app)
	}
	return true
}

// merge puts every instance of is and reports whether that changed anything.
func (l *lists) merge(is []roadbed.Instance) (changed bool) {
	for _, i := range is {
		changed = l.put(i) || changed
	}
	return changed
}

// replace makes is all that is known, and reports whether that changed anything.
func (l *lists) replace(is []roadbed.Instance) bool {
	changed := l.merge(is)
	for _, k := range l.missing(is) {
		changed = l.remove(k.app, k.id) || changed
	}
	return changed
}

type name struct{ app, id string }

// missing lists what is known but not in is.
func (l *lists) missing(is []roadbed.Instance) (out []name) {
	have := make(map[name]bool, len(is))
	for _, i := range is {
		have[name{strings.ToLower(i.App), i.ID}] = true
	}
	for app, g := range l.apps {
		for id := range g.byID {
			if k := (name{app, id}); !have[k] {
				out = append(out, k)
			}
		}
	}
	return out
}

// hash counts instances by status as Eureka's hash code does.
func (l *lists) hash() string {
	n := make(map[roadbed.Status]int)
	for _, g := range l.apps {
		for _, i := range g.byID {
			n[i.Status]++
		}
	}
	var b strings.Builder
	for _, s := range slices.Sorted(maps.Keys(n)) {
		b.WriteString(string(s) + "_" + strconv.Itoa(n[s]) + "_")
	}
	return b.String()
}

func same(a, b roadbed.Instance) bool {
	if !a.Since.Equal(b.Since) || !maps.Equal(a.Metadata, b.Metadata) {
		return false
	}
	return a.ID == b.ID && a.App == b.App && a.Group == b.Group && a.VIP == b.VIP && a.Host == b.Host && a.Port == b.Port &&
		a.Secure == b.Secure && a.Location == b.Location && a.Status == b.Status
}
