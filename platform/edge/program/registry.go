package program

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/route"
)

// Config wires a registry of programs. All of it may be empty.
type Config struct {
	Properties   *config.Properties
	Meter        *meter.Registry
	Log          *slog.Logger
	Region, Zone string
	Apps         http.RoundTripper // reaches apps by their names, http://APP/..., for modules; nil: they make no HTTP calls

	// Changed is told what the registry did by itself: RETURNED to the former version, or DISABLED. It must not wait.
	Changed func(name, what, why string)
}

// Registry is the programs of an edge. It has none until [Registry.Set]. Its methods may be called from many goroutines.
type Registry struct {
	*Expressions
	props   *config.Properties
	meter   *meter.Registry
	log     *slog.Logger
	apps    http.RoundTripper
	changed func(name, what, why string)
	perRun  time.Duration // that a script may take, by the clock
	perCall time.Duration // and a callback of a module

	current atomic.Pointer[set]

	loose sync.WaitGroup // HTTP calls of modules that no request waits for

	setting sync.Mutex // held by Set, which may take its time; taken before mu

	mu      sync.Mutex        // guards what follows, which only Set changes, and that List sees it with the current that it belongs to
	texts   map[string]string // of the documents that are in force or were refused, by name
	refused map[string]string // why the newest document of a program is not in force
}

// set is the programs in force. It never changes; a new one takes its place.
type set struct {
	byName map[string]*entry
	global [3][]*entry // by kind, in order
}

// entry is one program: the version that its document tells of, and the one before.
type entry struct {
	name   string
	doc    *Document
	now    *version
	former *version // nil: none
	timer  *meter.Timer
	failed *meter.Counter
}

// New returns a registry without programs.
func New(c Config) (*Registry, error) {
	e, err := NewExpressions(c.Properties, c.Region, c.Zone)
	if err != nil {
		return nil, err
	}
	r := &Registry{Expressions: e, props: c.Properties, meter: c.Meter, apps: c.Apps, log: cmp.Or(c.Log, slog.Default()), changed: c.Changed,
		texts: make(map[string]string), refused: make(map[string]string), perRun: maxRun, perCall: maxCall}
	if r.changed == nil {
		r.changed = func(string, string, string) {}
	}
	r.current.Store(&set{byName: map[string]*entry{}})
	return r, nil
}

// Set takes the programs of all, the properties that begin with [Prefix], into force. One with a mistake stays as it was. Of
// programs that are gone it lets go what they hold once no request needs it, so that Set(nil) ends them all.
func (r *Registry) Set(all map[string]string) {
	r.setting.Lock()
	defer r.setting.Unlock()
	old := r.current.Load()
	next := &set{byName: make(map[string]*entry, len(all))}
	texts := make(map[string]string, len(all))
	refused := make(map[string]string)
	for key, text := range all {
		name := strings.TrimPrefix(key, Prefix)
		texts[name] = text
		was := old.byName[name]
		why := r.refused[name]
		if r.texts[name] == text && (was != nil || why != "") {
			if was != nil {
				next.byName[name] = was
			}
			if why != "" {
				refused[name] = why
			}
			continue
		}
		e, err := r.entry(name, text, was)
		if err != nil {
			refused[name] = err.Error()
			if r.texts[name] != text {
				r.log.Warn("program refused, the old one stays", "program", name, "why", err)
				r.props.Refuse(key, text, err)
			}
			if was != nil {
				next.byName[name] = was
			}
			continue
		}
		next.byName[name] = e
	}
	for _, e := range next.byName {
		if e.doc.Global {
			for _, k := range e.kinds() {
				next.global[k] = append(next.global[k], e)
			}
		}
	}
	for k := range next.global {
		slices.SortFunc(next.global[k], func(a, b *entry) int {
			return cmp.Or(cmp.Compare(a.doc.Order, b.doc.Order), cmp.Compare(a.name, b.name))
		})
	}
	r.mu.Lock()
	r.current.Store(next)
	r.texts, r.refused = texts, refused
	r.mu.Unlock()
	kept := make(map[*version]bool)
	for _, e := range next.byName {
		kept[e.now], kept[e.former] = true, true
	}
	for _, e := range old.byName {
		for _, v := range []*version{e.now, e.former} {
			if v != nil && !kept[v] && v.close != nil {
				v.close()
			}
		}
	}
}

// Wait waits for the HTTP calls of modules that no request waits for. Each takes 5 s at most. Call it when no request runs any
// more.
func (r *Registry) Wait() { r.loose.Wait() }

// entry compiles a document. Versions that run already go on.
func (r *Registry) entry(name, text string, was *entry) (*entry, error) {
	if !fitName(name) {
		return nil, fmt.Errorf("%q is no program's name; use letters, digits, - and _", name)
	}
	doc, err := Parse(text)
	if err != nil {
		return nil, err
	}
	e := &entry{name: name, doc: doc, timer: r.meter.Timer("edge.program.run", "id", name), failed: r.meter.Counter("edge.program.failed", "id", name)}
	if was != nil && was.doc.Phase != doc.Phase && !was.doc.Global {
		return nil, fmt.Errorf("its phase was %s; routes hold on to that, so put the other one under another name", cmp.Or(was.doc.Phase, "inbound"))
	}
	compiled := func(d *Document) (*version, error) {
		if was != nil {
			for _, v := range []*version{was.now, was.former} {
				if v != nil && v.id == d.Version() && !v.out.Load() {
					return v, nil
				}
			}
		}
		return r.compile(name, d)
	}
	if e.now, err = compiled(doc); err != nil {
		return nil, err
	}
	if doc.Previous != nil {
		if e.former, err = compiled(doc.Previous); err != nil {
			if e.now.close != nil && (was == nil || e.now != was.now && e.now != was.former) {
				e.now.close() // it was made for this entry, and nobody else has it
			}
			return nil, fmt.Errorf("previous: %w", err)
		}
	}
	return e, nil
}

func fitName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// compile makes a version of a document.
func (r *Registry) compile(name string, d *Document) (*version, error) {
	v := &version{doc: d, id: d.Version()}
	switch d.Kind {
	case KindStarlark:
		s, err := newScript(name, d.Text, r.perRun)
		if err != nil {
			return nil, err
		}
		v.run = func(x *filter.Exchange, _ filter.Kind, _ bool) error { return s.run(x) }
	case KindCEL:
		run, err := r.expression(d)
		if err != nil {
			return nil, err
		}
		v.run = run
	case KindWASM:
		code, err := d.module()
		if err != nil {
			return nil, err
		}
		m, err := newModule(name, code, d.Config, r.log, r.meter, r.apps, &r.loose, r.perCall)
		if err != nil {
			return nil, err
		}
		v.run, v.close = m.run, m.retire
		v.body = [3]bool{filter.Inbound: d.Body, filter.Outbound: d.Body}
		v.idle = [3]bool{filter.Inbound: !m.serves(filter.Inbound, d.Body), filter.Outbound: !m.serves(filter.Outbound, d.Body)}
	}
	return v, nil
}

// expression returns the filter that an expression is: of true and false, one that refuses with 403; of a map, one that
// sets header fields, and removes those of empty text.
func (r *Registry) expression(d *Document) (func(*filter.Exchange, filter.Kind, bool) error, error) {
	p, out, err := r.compileText(d.Text)
	if err != nil {
		return nil, err
	}
	if out.Kind() != types.BoolKind && out.Kind() != types.MapKind && out.Kind() != types.DynKind {
		return nil, fmt.Errorf("line 1, column 1: the expression is of type %s; it must be true or false, or a map of header fields", cel.FormatCELType(out))
	}
	return func(x *filter.Exchange, k filter.Kind, _ bool) error {
		v, err := r.eval(p, x)
		switch {
		case err != nil && strings.Contains(err.Error(), "no such key"):
			if out.Kind() == types.MapKind {
				return nil // nothing to set
			}
			v = types.False
		case err != nil:
			return err
		}
		if b, ok := v.(types.Bool); ok {
			if !b {
				x.Fail(&filter.Error{Status: http.StatusForbidden, Category: filter.FailureBadRequest, Reason: "this request is not allowed here"})
			}
			return nil
		}
		m, ok := v.(traits.Mapper)
		if !ok {
			return fmt.Errorf("the expression was %s; it must be true or false, or a map of header fields", v.Type().TypeName())
		}
		return setFields(x, k, m)
	}, nil
}

func setFields(x *filter.Exchange, k filter.Kind, m traits.Mapper) error {
	h := &x.Request.Header
	if k == filter.Outbound {
		h = &x.Response.Header
	}
	text := func(v ref.Val) (string, error) {
		s, ok := v.ConvertToType(types.StringType).(types.String)
		if !ok {
			return "", fmt.Errorf("a header field is %s; it must be text", v.Type().TypeName())
		}
		return strings.Clone(string(s)), nil
	}
	for it := m.Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		name, err := text(key)
		if err != nil {
			return err
		}
		value, err := text(m.Get(key))
		if err != nil {
			return err
		}
		if err := fit(name, value); err != nil {
			return err
		}
		if value == "" {
			h.Del(name)
		} else {
			h.Set(name, value)
		}
	}
	return nil
}

// kinds are those of filter that the program is.
func (e *entry) kinds() []filter.Kind {
	switch {
	case e.doc.Phase == "outbound":
		return []filter.Kind{filter.Outbound}
	case e.doc.Phase == "endpoint":
		return []filter.Kind{filter.Endpoint}
	case e.doc.Phase == "" && e.doc.Kind == KindWASM:
		return []filter.Kind{filter.Inbound, filter.Outbound}
	}
	return []filter.Kind{filter.Inbound}
}

// choose returns the version that runs for x; nil: none.
func (e *entry) choose(x *filter.Exchange) *version {
	v := e.now
	if e.doc.Draft || v.out.Load() || e.doc.Canary != nil && !e.canary(x) {
		v = e.former
	}
	if v == nil || v.out.Load() {
		return nil
	}
	return v
}

// canary reports whether x is of the share that gets the new version. It is the same for a user, or else for an address.
func (e *entry) canary(x *filter.Exchange) bool {
	n, has, _ := route.Bucket(x, "program:"+e.name, "user") //nolint:errcheck // user is a key
	if !has {
		n, _, _ = route.Bucket(x, "program:"+e.name, "client") //nolint:errcheck // client is a key
	}
	return float64(n) < e.doc.Canary.Percent*100
}

// run has the program run for x.
func (r *Registry) run(e *entry, x *filter.Exchange, k filter.Kind, body bool) error {
	v := e.choose(x)
	if v == nil {
		if e.doc.Guard && !e.doc.Draft && e.doc.Canary == nil {
			return refuse(x, e.name, errors.New("it is disabled"))
		}
		return nil
	}
	if v.wants(x, k) != body || v.idle[k] {
		return nil
	}
	since := filter.Now()
	err := v.run(x, k, body)
	if errors.Is(err, errReplaced) { // after it was chosen
		if e := r.current.Load().byName[e.name]; e != nil {
			return r.run(e, x, k, body)
		}
		return nil
	}
	now := filter.Now()
	took := time.Duration(now - since)
	e.timer.Record(took)
	if why := v.record(now, took, err); why != "" && v.out.CompareAndSwap(false, true) {
		what := "DISABLED"
		if v == e.now && e.former != nil && !e.former.out.Load() {
			what = "RETURNED"
		}
		r.meter.Counter("edge.program.changed", "id", e.name, "what", what).Inc()
		r.log.Warn("program failed too often", "program", e.name, "version", v.id, "what", what, "why", why)
		r.changed(e.name, what, why)
	}
	if err == nil {
		return nil
	}
	e.failed.Inc()
	if p, ok := errors.AsType[*panicked](err); ok && v.panicked.CompareAndSwap(false, true) {
		r.log.Error("program panicked", "program", e.name, "version", v.id, "panic", p.value, "stack", string(p.stack))
	}
	err = fmt.Errorf("program %s: %w", e.name, err)
	if e.doc.Guard || k == filter.Endpoint {
		return refuse(x, e.name, err)
	}
	return err
}

// refuse fails the request, for the program that should have decided about it did not.
func refuse(x *filter.Exchange, name string, err error) error {
	e := &filter.Error{Status: http.StatusServiceUnavailable, Category: filter.FailureLocal, Reason: "the edge cannot decide about this request now; try again later", Err: fmt.Errorf("program %s: %w", name, err)}
	x.Fail(e)
	return e
}

// Filters returns the filters that run global programs. They stay the same whatever becomes of the programs.
func (r *Registry) Filters() []*filter.Filter {
	var list []*filter.Filter
	for _, k := range []filter.Kind{filter.Inbound, filter.Outbound} {
		for _, body := range []bool{false, true} {
			f := &filter.Filter{Name: "Programs", Kind: k, Body: body}
			if body {
				f.Name, f.Order = "ProgramsWithBody", 1
			}
			f.If = func(x *filter.Exchange) bool {
				for _, e := range r.current.Load().global[k] {
					if v := e.choose(x); v == nil && !body || v != nil && v.wants(x, k) == body {
						return true
					}
				}
				return false
			}
			f.Apply = func(x *filter.Exchange) (err error) {
				for _, e := range r.current.Load().global[k] {
					if k == filter.Inbound && x.Answered() {
						break
					}
					err = errors.Join(err, r.run(e, x, k, body))
				}
				return err
			}
			list = append(list, f)
		}
	}
	return list
}

// Program returns the filters by which a route runs the program of that name. They run the version in force at each
// request. It fails if there is no such program.
func (r *Registry) Program(name string) ([]*filter.Filter, error) {
	e := r.current.Load().byName[name]
	if e == nil {
		there := slices.Sorted(maps.Keys(r.current.Load().byName))
		if len(there) == 0 {
			return nil, fmt.Errorf("there is no program %s, nor any other; `roadbed edge program put` makes one", name)
		}
		return nil, fmt.Errorf("there is no program %s; there are %s", name, strings.Join(there, ", "))
	}
	var list []*filter.Filter
	for _, k := range e.kinds() {
		for _, body := range []bool{false, true} {
			f := &filter.Filter{Name: name, Kind: k, Body: body}
			if body {
				f.Name += ".body"
			}
			f.If = func(x *filter.Exchange) bool {
				e := r.current.Load().byName[name]
				if e == nil {
					return !body
				}
				v := e.choose(x)
				return v == nil && !body || v != nil && v.wants(x, k) == body
			}
			f.Apply = func(x *filter.Exchange) error {
				e := r.current.Load().byName[name]
				if e == nil {
					return refuse(x, name, errors.New("it was deleted, and a route needs it"))
				}
				err := r.run(e, x, k, body)
				if err == nil && k == filter.Endpoint && x.Response.Status == 0 {
					return &filter.Error{Status: http.StatusInternalServerError, Category: filter.FailureLocal, Reason: "the program of this route left no answer"}
				}
				return err
			}
			list = append(list, f)
			if k == filter.Endpoint {
				break
			}
		}
	}
	return list, nil
}

// ProgramView is how one program does at this edge.
type ProgramView struct {
	Name     string           `json:"name"`
	Phase    string           `json:"phase" doc:"inbound, outbound, both or endpoint"`
	Order    int              `json:"order"`
	Global   bool             `json:"global" doc:"it runs for every request"`
	Guard    bool             `json:"guard" doc:"its failure fails the request"`
	Versions []ProgramVersion `json:"versions" doc:"the newest first"`
	Refused  string           `json:"refused,omitempty" doc:"why the newest document is not in force"`
}

// List returns the programs by name.
func (r *Registry) List() []ProgramView {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.current.Load()
	list := []ProgramView{}
	for name := range r.texts {
		v := ProgramView{Name: name, Refused: r.refused[name], Versions: []ProgramVersion{}}
		if e := s.byName[name]; e != nil {
			v.Phase, v.Order, v.Global, v.Guard = cmp.Or(e.doc.Phase, "inbound"), e.doc.Order, e.doc.Global, e.doc.Guard
			if len(e.kinds()) == 2 {
				v.Phase = "both"
			}
			v.Versions = e.versions()
		}
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b ProgramView) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (e *entry) versions() []ProgramVersion {
	state, percent := "ACTIVE", 100.0
	switch {
	case e.now.out.Load():
		state, percent = "DISABLED", 0
	case e.doc.Draft:
		state, percent = "DRAFT", 0
	case e.doc.Canary != nil:
		state, percent = "CANARY", e.doc.Canary.Percent
	}
	list := []ProgramVersion{e.now.view(state, percent)}
	if e.former != nil {
		state := "ACTIVE"
		switch {
		case e.former.out.Load():
			state, percent = "DISABLED", 100
		case percent == 100:
			state = "RETIRED"
		}
		list = append(list, e.former.view(state, 100-percent))
	}
	return list
}

// Check compiles a document and runs nothing of it but the top level of scripts. It fails as setting it would.
func (r *Registry) Check(_ context.Context, name, text string) (*Document, error) {
	e, err := r.entry(name, text, nil)
	if err != nil {
		return nil, err
	}
	for _, v := range []*version{e.now, e.former} {
		if v != nil && v.close != nil {
			v.close()
		}
	}
	return e.doc, nil
}
