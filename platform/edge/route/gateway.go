package route

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Object is one object of the Kubernetes Gateway API in a document, and what has become of it.
//
// Gateways say which hosts and schemes routes may have, HTTPRoutes and GRPCRoutes become routes, ReferenceGrants allow
// backends of other namespaces. A backendRef to a Service stands for the app of that name, whatever its port: the registry
// knows ports. An extensionRef to kind Program stands for the program of that name.
//
// One with a mistake is not accepted, and says so in its conditions; all others are served.
type Object struct {
	Kind       string      `json:"kind"`
	Namespace  string      `json:"namespace"`
	Name       string      `json:"name"`
	Line       int         `json:"line"`
	Routes     []string    `json:"routes,omitempty" doc:"ids of the routes it has become"`
	Conditions []Condition `json:"conditions,omitempty"`

	created  time.Time
	spec     *node
	from     *decoder
	mistakes []error // for which it is not accepted
}

// reject has o not accepted for its mistakes.
func (o *Object) reject(mistakes ...error) {
	o.mistakes, o.Routes = append(o.mistakes, mistakes...), nil
	o.Conditions = slices.DeleteFunc(o.Conditions, func(c Condition) bool { return c.Type == "Programmed" })
	o.set("Accepted", false, map[bool]string{true: "Invalid", false: "UnsupportedValue"}[o.Kind == "Gateway"], "%s", strings.ReplaceAll(errors.Join(o.mistakes...).Error(), "\n", "; "))
}

// Mistaken returns the mistakes of those objects of the Gateway API that are not accepted for them. See [Mistaken].
func (d *Document) Mistaken() (mistakes []error) {
	for i := range d.Objects {
		mistakes = append(mistakes, d.Objects[i].mistakes...)
	}
	return mistakes
}

// Table compiles the routes. An object of the Gateway API with one that cannot be compiled is not accepted, and has none;
// otherwise it fails as [NewTable] does.
func (d *Document) Table(c Config) (*Table, error) {
	t, mistakes := newTable(c, d.Routes)
	if len(mistakes) == 0 {
		return t, nil
	}
	of := make(map[string]*Object) // by the ids of their routes
	for i := range d.Objects {
		for _, id := range d.Objects[i].Routes {
			of[id] = &d.Objects[i]
		}
	}
	wrong := make(map[*Object]bool)
	for _, m := range mistakes {
		if of[m.Route] == nil {
			return nil, told(mistakes)
		}
		wrong[of[m.Route]] = true
	}
	d.Routes = slices.DeleteFunc(d.Routes, func(r Route) bool { return wrong[of[r.ID]] })
	for _, m := range mistakes {
		of[m.Route].reject(m)
	}
	return NewTable(c, d.Routes)
}

// Condition is one of an object's, in the Gateway API's words.
type Condition struct {
	Type    string `json:"type" doc:"Accepted, ResolvedRefs or Programmed"`
	Status  string `json:"status" doc:"True or False"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

// set says how a condition is. What is False stays so, with the first reason.
func (o *Object) set(kind string, status bool, reason, message string, args ...any) {
	c := Condition{kind, "False", reason, fmt.Sprintf(message, args...)}
	if status {
		c.Status = "True"
	}
	for i := range o.Conditions {
		if o.Conditions[i].Type == kind {
			if o.Conditions[i].Status == "True" {
				o.Conditions[i] = c
			}
			return
		}
	}
	o.Conditions = append(o.Conditions, c)
}

// is reports whether a condition is True.
func (o *Object) is(kind string) bool {
	return slices.ContainsFunc(o.Conditions, func(c Condition) bool { return c.Type == kind && c.Status == "True" })
}

func isObject(n *node) bool {
	return n.kind == mapping && n.get("apiVersion") != nil && n.get("kind") != nil
}

const gatewayGroup = "gateway.networking.k8s.io"

// gateways are the Gateway API's objects of all documents.
type gateways struct {
	*decoder // of the document that is being read
	doc      *Document
	objects  []*Object
	named    map[string]*Object    // of them, by kind/namespace/name
	classes  map[string][]listener // of Gateways, by namespace/name
	grants   []grant
	labels   map[string]*node // of namespaces that are in the documents
}

// listener is one of a Gateway's.
type listener struct {
	name, hostname, protocol, namespace string
	port                                int
	from                                string // Same, All or Selector: whose routes it takes
	selector                            *node
	kinds                               []string
}

// grant is what a ReferenceGrant allows: routes of a kind and namespace to refer to a Service of another.
type grant struct{ kind, from, to, name string }

// add takes an object, or a List of them, which d has read.
func (g *gateways) add(d *decoder, n *node) {
	g.decoder = d
	if items := n.get("items"); n.get("kind").text == "List" && items != nil {
		for _, item := range items.items {
			g.object(item)
		}
		return
	}
	g.object(n)
}

// finish makes routes once all objects are there, for they need gateways and grants wherever these stand.
func (g *gateways) finish() {
	for _, o := range g.objects {
		g.decoder = o.from
		if (o.Kind == "HTTPRoute" || o.Kind == "GRPCRoute") && len(o.mistakes) == 0 {
			g.own(o, func() { g.routeObject(o) })
		}
		g.doc.Objects = append(g.doc.Objects, *o)
	}
}

// own has the mistakes that read makes be the object's, not the document's.
func (g *gateways) own(o *Object, read func()) {
	before := len(g.mistakes)
	read()
	if mistakes := slices.Clone(g.mistakes[before:]); len(mistakes) > 0 {
		g.mistakes = g.mistakes[:before]
		o.reject(mistakes...)
	}
}

// note says that something could not be carried.
func (g *gateways) note(line int, what, why, do string) {
	g.doc.Notes = append(g.doc.Notes, Note{g.name, line, what, why, do})
}

// object reads what every object has, and the spec of those that are no routes.
func (g *gateways) object(n *node) {
	if !isObject(n) {
		g.mistake(n.line, "it is no object; write apiVersion, kind, metadata and spec")
		return
	}
	o := &Object{Line: n.line, spec: n.get("spec"), from: g.decoder}
	g.text("kind", &o.Kind).read(n.get("kind"))
	g.own(o, func() {
		m := n.get("metadata")
		if m == nil || m.kind != mapping {
			return
		}
		for _, f := range []field{g.text("name", &o.Name), g.text("namespace", &o.Namespace)} {
			if v := m.get(f.key); v != nil {
				f.read(v)
			}
		}
		if v := m.get("creationTimestamp"); v != nil && v.kind != null {
			o.created = g.time(v, "metadata.creationTimestamp")
		}
	})
	o.Namespace = cmp.Or(o.Namespace, "default")
	group, _, _ := strings.Cut(n.get("apiVersion").text, "/")
	if o.Kind == "Namespace" && group == "v1" { // it is named by selectors of listeners
		if m := n.get("metadata"); m.get("labels") != nil {
			g.labels[o.Name] = m.get("labels")
		}
		return
	}
	if group != gatewayGroup {
		g.note(n.line, o.Kind+" "+o.Name, "it is no object of "+gatewayGroup, "services register themselves, or are started with `roadbed run`")
		return
	}
	if o.spec == nil {
		o.spec = &node{kind: mapping, line: n.line}
	}
	key := strings.Join([]string{o.Kind, o.Namespace, o.Name}, "/")
	other := g.named[key]
	g.own(o, func() {
		switch {
		case !filter.Plain(o.Name) || !filter.Plain(o.Namespace):
			g.mistake(n.line, "%s: metadata.name %q or namespace %q is no name", o.Kind, o.Name, o.Namespace)
		case other != nil:
			g.mistake(n.line, "there is another %s %s/%s in %s on line %d", o.Kind, o.Namespace, o.Name, other.from.name, other.Line)
		}
	})
	g.named[key] = o
	g.objects = append(g.objects, o)
	if len(o.mistakes) > 0 {
		return
	}
	switch o.Kind {
	case "Gateway":
		g.own(o, func() { g.gateway(o) })
	case "ReferenceGrant":
		g.own(o, func() { g.grant(o) })
	case "GatewayClass":
		o.set("Accepted", true, "Accepted", "every class is this edge's")
	case "HTTPRoute", "GRPCRoute":
	default:
		o.set("Accepted", false, "UnsupportedKind", "the edge routes HTTP and gRPC; %s it does not know", o.Kind)
		g.note(n.line, o.Kind+" "+o.Name, "the edge routes HTTP and gRPC alone", "")
	}
}

func (g *gateways) gateway(o *Object) {
	key := o.Namespace + "/" + o.Name
	g.classes[key] = []listener{}
	o.set("Accepted", true, "Accepted", "")
	o.set("Programmed", true, "Programmed", "the edge listens where its own configuration says")
	ls := o.spec.get("listeners")
	if ls == nil {
		g.mistake(o.Line, "Gateway %s: it needs spec.listeners", o.Name)
		return
	}
	g.each(ls, "spec.listeners", func(n *node) {
		l, before := listener{namespace: o.Namespace, from: "Same"}, len(g.mistakes)
		skip := func(*node) {}
		g.fields(n, "a listener", g.text("name", &l.name), g.text("hostname", &l.hostname), g.text("protocol", &l.protocol),
			field{"port", func(v *node) { l.port = g.integer(v, "port", 1, 65535) }},
			field{"tls", skip}, // the edge's listeners have their certificates
			field{"allowedRoutes", func(v *node) {
				g.fields(v, "allowedRoutes",
					field{"namespaces", func(v *node) {
						g.fields(v, "namespaces", g.text("from", &l.from), field{"selector", func(v *node) { l.selector = v }})
					}},
					field{"kinds", func(v *node) {
						g.each(v, "kinds", func(v *node) {
							var kind string
							g.fields(v, "one of kinds", g.text("kind", &kind), field{"group", skip})
							l.kinds = append(l.kinds, kind)
						})
					}})
			}})
		switch {
		case l.protocol != "HTTP" && l.protocol != "HTTPS":
			o.set("Accepted", false, "ListenersNotValid", "listener %s: the edge has no %s listeners", l.name, l.protocol)
			return
		case !slices.Contains([]string{"Same", "All", "Selector"}, l.from):
			g.mistake(n.line, "listener %s: allowedRoutes.namespaces.from %q: use Same, All or Selector", l.name, l.from)
			return
		}
		if l.hostname != "" {
			if err := checkHost(l.hostname); err != nil {
				g.mistake(n.line, "listener %s: %v", l.name, err)
			}
		}
		if len(g.mistakes) > before {
			return
		}
		g.classes[key] = append(g.classes[key], l)
	})
}

func (g *gateways) grant(o *Object) {
	before := len(g.mistakes)
	var froms, tos []grant
	for _, l := range []struct {
		key  string
		read func(*node)
	}{
		{"from", func(n *node) {
			var f grant
			var group string
			g.fields(n, "from", g.text("group", &group), g.text("kind", &f.kind), g.text("namespace", &f.from))
			if group == gatewayGroup {
				froms = append(froms, f)
			}
		}},
		{"to", func(n *node) {
			t := grant{to: o.Namespace}
			var group string
			g.fields(n, "to", g.text("group", &group), g.text("kind", &t.kind), g.text("name", &t.name))
			if t.kind == "Service" && (group == "" || group == "core") {
				tos = append(tos, t)
			}
		}},
	} {
		if n := o.spec.get(l.key); n != nil {
			g.each(n, "spec."+l.key, l.read)
		}
	}
	if len(g.mistakes) > before { // what is not understood allows nothing
		return
	}
	for _, f := range froms {
		for _, t := range tos {
			g.grants = append(g.grants, grant{f.kind, f.from, t.to, t.name})
		}
	}
}

// routeObject makes routes of an HTTPRoute or a GRPCRoute.
func (g *gateways) routeObject(o *Object) {
	before := len(g.mistakes)
	g.route = o.Name
	defer func() { g.route = "" }()
	var hosts []string
	var rules []*node
	var parents []*node
	o.set("Accepted", true, "Accepted", "")
	o.set("ResolvedRefs", true, "ResolvedRefs", "")
	g.fields(o.spec, o.Kind+"'s spec", g.texts("hostnames", &hosts),
		field{"parentRefs", func(v *node) { g.each(v, "parentRefs", func(v *node) { parents = append(parents, v) }) }},
		field{"rules", func(v *node) { g.each(v, "rules", func(v *node) { rules = append(rules, v) }) }},
		field{"useDefaultGateways", func(*node) {}})
	for _, h := range hosts {
		if err := checkHost(h); err != nil {
			g.mistake(o.spec.line, "%v", err)
		}
	}
	hosts, scheme := g.attach(o, parents, hosts)
	if !o.is("Accepted") || len(g.mistakes) > before {
		return
	}
	if len(rules) == 0 {
		rules = []*node{{kind: mapping, line: o.Line}}
	}
	var made []Route
	for i, n := range rules {
		made = append(made, g.rule(o, i, n, hosts, scheme)...)
	}
	if len(g.mistakes) > before || !o.is("Accepted") {
		return
	}
	for i := range made {
		if err := made[i].check(); err != nil {
			g.mistake(made[i].line, "%v", err)
		}
	}
	if len(g.mistakes) > before {
		return
	}
	for _, r := range made {
		o.Routes = append(o.Routes, r.ID)
		g.doc.Routes = append(g.doc.Routes, r)
	}
	o.set("Programmed", true, "Programmed", "")
}

// attach finds the listeners a route is for and returns the hosts that both want, and the scheme if it is one.
func (g *gateways) attach(o *Object, parents []*node, hosts []string) (both []string, scheme string) {
	if len(g.classes) == 0 {
		return hosts, "" // without Gateways every route is for every listener of the edge
	}
	schemes := map[string]bool{}
	anyHost, found, allowed := false, false, false
	for _, n := range parents {
		var ref struct{ group, kind, namespace, name, section string }
		port := 0
		g.fields(n, "a parentRef", g.text("group", &ref.group), g.text("kind", &ref.kind), g.text("namespace", &ref.namespace), g.text("name", &ref.name),
			g.text("sectionName", &ref.section), field{"port", func(v *node) { port = g.integer(v, "port", 1, 65535) }})
		for _, l := range g.classes[cmp.Or(ref.namespace, o.Namespace)+"/"+ref.name] {
			if ref.section != "" && l.name != ref.section || port != 0 && l.port != port {
				continue
			}
			found = true
			if !g.admits(&l, o.Namespace) || len(l.kinds) > 0 && !slices.Contains(l.kinds, o.Kind) {
				continue
			}
			allowed = true
			common, ok := intersect(l.hostname, hosts)
			if !ok {
				continue
			}
			anyHost = anyHost || len(common) == 0
			both = append(both, common...)
			schemes[strings.ToLower(l.protocol)] = true
		}
	}
	switch {
	case !found:
		o.set("Accepted", false, "NoMatchingParent", "no Gateway with such a listener is in the documents")
	case !allowed:
		o.set("Accepted", false, "NotAllowedByListeners", "no listener takes a %s of namespace %s", o.Kind, o.Namespace)
	case len(schemes) == 0:
		o.set("Accepted", false, "NoMatchingListenerHostname", "no listener has a host of the route's")
	}
	if len(schemes) == 1 {
		for s := range schemes {
			scheme = s
		}
	}
	if anyHost {
		return nil, scheme
	}
	slices.Sort(both)
	return slices.Compact(both), scheme
}

// admits reports whether a listener takes routes of a namespace.
func (g *gateways) admits(l *listener, namespace string) bool {
	switch l.from {
	case "All":
		return true
	case "Same":
		return l.namespace == namespace
	}
	label := func(key string) (string, bool) {
		if key == "kubernetes.io/metadata.name" { // every namespace has it
			return namespace, true
		}
		if n := g.labels[namespace]; n != nil {
			if v := n.get(key); v != nil {
				return v.text, true
			}
		}
		return "", false
	}
	if l.selector == nil || l.selector.kind != mapping {
		return false
	}
	if all := l.selector.get("matchLabels"); all != nil {
		for i, key := range all.keys {
			if v, has := label(key); !has || v != all.items[i].text {
				return false
			}
		}
	}
	if all := l.selector.get("matchExpressions"); all != nil {
		for _, e := range all.items {
			var key, operator string
			var values []string
			g.fields(e, "one of matchExpressions", g.text("key", &key), g.text("operator", &operator), g.texts("values", &values))
			v, has := label(key)
			in := has && slices.Contains(values, v)
			if ok := map[string]bool{"In": in, "NotIn": !in, "Exists": has, "DoesNotExist": !has}[operator]; !ok {
				return false
			}
		}
	}
	return true
}

// intersect returns the hosts that a listener and a route both take; none, and true, if both take any.
func intersect(listener string, hosts []string) (both []string, ok bool) {
	if listener == "" {
		return hosts, true
	}
	if len(hosts) == 0 {
		return []string{listener}, true
	}
	covers := func(pattern, host string) bool {
		suffix, wild := strings.CutPrefix(strings.ToLower(pattern), "*")
		return wild && strings.HasSuffix(strings.ToLower(host), suffix)
	}
	for _, h := range hosts {
		switch {
		case strings.EqualFold(h, listener), covers(listener, h):
			both = append(both, h)
		case covers(h, listener):
			both = append(both, listener)
		}
	}
	return both, len(both) > 0
}

// rule makes a route of each match of a rule.
func (g *gateways) rule(o *Object, index int, n *node, hosts []string, scheme string) []Route {
	base := Route{
		ID: fmt.Sprintf("%s.%s.%02d", o.Namespace, o.Name, index), Match: Match{Hosts: hosts, Scheme: scheme}, Created: o.created,
		document: g.name, line: n.line,
	}
	var matches []Match
	var filters, refs []*node
	note := func(what, why, do string) func(*node) {
		return func(v *node) { g.note(v.line, o.Kind+" "+o.Name+": "+what, why, do) }
	}
	g.fields(n, "a rule",
		field{"name", func(*node) {}},
		field{"matches", func(v *node) { g.each(v, "matches", func(v *node) { matches = append(matches, g.match(o, v)) }) }},
		field{"filters", func(v *node) { g.each(v, "filters", func(v *node) { filters = append(filters, v) }) }},
		field{"backendRefs", func(v *node) { g.each(v, "backendRefs", func(v *node) { refs = append(refs, v) }) }},
		field{"timeouts", func(v *node) {
			g.fields(v, "timeouts", g.limit("request", &base.Timeouts.Request), g.limit("backendRequest", &base.Timeouts.Attempt))
		}},
		field{"retry", func(v *node) {
			base.Retry = &Retry{}
			g.fields(v, "retry",
				field{"attempts", func(v *node) { m := g.integer(v, "attempts", 0, 10); base.Retry.Max = &m }},
				field{"codes", func(v *node) {
					g.each(v, "codes", func(v *node) { base.Retry.Statuses = append(base.Retry.Statuses, g.integer(v, "codes", 400, 599)) })
				}},
				field{"backoff", note("retry.backoff", "retries wait as the app's command says", "")})
		}},
		field{"sessionPersistence", note("sessionPersistence", "requests are balanced one by one", "sticky of a backend keeps clients with one of several apps")},
	)
	if len(matches) == 0 {
		matches = []Match{{Path: Path{Prefix: "/"}}}
	}
	for _, f := range filters {
		g.filter(o, f, &base)
	}
	answers := slices.ContainsFunc(base.Filters, func(f Filter) bool { return f.Redirect != nil || f.Answer != nil })
	if !answers {
		base.Backends = g.backends(o, refs)
	}
	routes := make([]Route, 0, len(matches))
	for i, m := range matches {
		r := base
		r.ID = fmt.Sprintf("%s.%02d", base.ID, i)
		m.Hosts, m.Scheme = hosts, scheme
		r.Match = m
		routes = append(routes, r)
	}
	return routes
}

// limit reads a duration of the Gateway API's; 0s is no limit.
func (g *gateways) limit(key string, to *string) field {
	return field{key, func(n *node) {
		g.text(key, to).read(n)
		if d, err := time.ParseDuration(*to); err == nil && d == 0 {
			*to = "none"
		}
	}}
}

// match reads one match of an HTTPRoute or a GRPCRoute.
func (g *gateways) match(o *Object, n *node) (m Match) {
	headers := field{"headers", func(v *node) { m.Headers = g.matchValues(v, "headers") }}
	if o.Kind == "GRPCRoute" {
		kind, service, method := "Exact", "", ""
		g.fields(n, "a match", headers, field{"method", func(v *node) {
			g.fields(v, "method", g.text("type", &kind), g.text("service", &service), g.text("method", &method))
		}})
		switch {
		case kind == "RegularExpression":
			m.Path.Regex = "/" + cmp.Or(service, "[^/]+") + "/" + cmp.Or(method, "[^/]+")
		case kind != "Exact":
			g.mistake(n.line, "method.type %q: use Exact or RegularExpression", kind)
		case service != "" && method != "":
			m.Path.Exact = spelled("/" + service + "/" + method)
		case service != "":
			m.Path.Prefix = spelled("/" + service)
		case method != "":
			m.Path.Regex = "/[^/]+/" + regexp.QuoteMeta(method)
		}
		return m
	}
	g.fields(n, "a match", headers,
		field{"queryParams", func(v *node) { m.Query = g.matchValues(v, "queryParams") }},
		field{"method", func(v *node) { m.Methods = []string{v.text} }},
		field{"path", func(v *node) {
			kind, value := "PathPrefix", "/"
			g.fields(v, "path", g.text("type", &kind), g.text("value", &value))
			switch kind {
			case "Exact":
				m.Path.Exact = spelled(value)
			case "PathPrefix":
				m.Path.Prefix = spelled(value)
			case "RegularExpression":
				m.Path.Regex = value
			default:
				g.mistake(v.line, "path.type %q: use Exact, PathPrefix or RegularExpression", kind)
			}
		}})
	if m.Path == (Path{}) {
		m.Path.Prefix = "/"
	}
	return m
}

// matchValues reads matches of headers or of the query. Of several of one name the first counts.
func (g *gateways) matchValues(n *node, what string) (values []Value) {
	g.each(n, what, func(n *node) {
		kind, value := "Exact", ""
		var v Value
		g.fields(n, "one of "+what, g.text("type", &kind), g.text("name", &v.Name), g.text("value", &value))
		switch kind {
		case "Exact":
			v.Exact = &value
		case "RegularExpression":
			v.Regex = value
		default:
			g.mistake(n.line, "%s.type %q: use Exact or RegularExpression", what, kind)
		}
		if !slices.ContainsFunc(values, func(o Value) bool { return strings.EqualFold(o.Name, v.Name) }) {
			values = append(values, v)
		}
	})
	return values
}

// filter adds one filter of a rule to the route.
func (g *gateways) filter(o *Object, n *node, r *Route) {
	kind := ""
	unsupported := func(v *node) {
		o.set("Accepted", false, "UnsupportedValue", "a filter of type %s is not known here", kind)
	}
	g.text("type", &kind).read(cmp.Or(n.get("type"), &node{}))
	switch kind {
	case "RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect", "URLRewrite", "CORS", "ExtensionRef":
	default:
		unsupported(n)
		return
	}
	add := func(f Filter) { f.line = n.line; r.Filters = append(r.Filters, f) }
	g.fields(n, "a filter", g.text("type", &kind),
		field{"requestHeaderModifier", func(v *node) { add(Filter{RequestHeaders: g.modifier(v)}) }},
		field{"responseHeaderModifier", func(v *node) { add(Filter{ResponseHeaders: g.modifier(v)}) }},
		field{"requestMirror", func(v *node) {
			if m := g.mirror(o, v); m != nil {
				add(Filter{Mirror: m})
			}
		}},
		field{"requestRedirect", func(v *node) {
			d := &Redirect{}
			g.fields(v, "requestRedirect", g.text("scheme", &d.Scheme), g.text("hostname", &d.Host),
				field{"port", func(v *node) { d.Port = g.integer(v, "port", 1, 65535) }},
				field{"statusCode", func(v *node) { d.Status = g.integer(v, "statusCode", 301, 308) }},
				field{"path", func(v *node) { g.newPath(v, &d.Path, &d.Prefix) }})
			add(Filter{Redirect: d})
		}},
		field{"urlRewrite", func(v *node) {
			w := &Rewrite{}
			g.fields(v, "urlRewrite", g.text("hostname", &w.Host), field{"path", func(v *node) { g.newPath(v, &w.Path, &w.Prefix) }})
			add(Filter{Rewrite: w})
		}},
		field{"cors", func(v *node) { g.cors(v, add) }},
		field{"extensionRef", func(v *node) {
			var group, kind, name string
			g.fields(v, "extensionRef", g.text("group", &group), g.text("kind", &kind), g.text("name", &name))
			if kind != "Program" || name == "" {
				o.set("ResolvedRefs", false, "InvalidKind", "extensionRef to %s %s: only kind Program is known", kind, name)
				add(Filter{Answer: &Answer{Status: 500, Body: "a filter of the route cannot be found\n"}})
				return
			}
			add(Filter{Program: name})
		}})
}

func (g *gateways) modifier(n *node) *Headers {
	h := &Headers{}
	pairs := func(key string, to *map[string]string) field {
		return field{key, func(v *node) {
			g.each(v, key, func(v *node) {
				var name, value string
				g.fields(v, "one of "+key, g.text("name", &name), g.text("value", &value))
				if *to == nil {
					*to = map[string]string{}
				}
				if _, has := (*to)[name]; !has {
					(*to)[name] = value
				}
			})
		}}
	}
	g.fields(n, "a header modifier", pairs("set", &h.Set), pairs("add", &h.Add), g.texts("remove", &h.Remove))
	return h
}

func (g *gateways) newPath(n *node, whole *string, prefix **string) {
	var kind, full, part string
	g.fields(n, "path", g.text("type", &kind), g.text("replaceFullPath", &full), g.text("replacePrefixMatch", &part))
	switch kind {
	case "ReplaceFullPath":
		*whole = full
	case "ReplacePrefixMatch":
		*prefix = &part
	default:
		g.mistake(n.line, "path.type %q: use ReplaceFullPath or ReplacePrefixMatch", kind)
	}
}

func (g *gateways) cors(n *node, add func(Filter)) {
	c := struct {
		Origins     []string `json:"origins"`
		Methods     []string `json:"methods,omitempty"`
		Headers     []string `json:"headers,omitempty"`
		Expose      []string `json:"expose,omitempty"`
		Credentials bool     `json:"credentials,omitempty"`
		MaxAge      string   `json:"maxAge,omitempty"`
	}{MaxAge: "5s"} // the API's default
	g.fields(n, "cors", g.texts("allowOrigins", &c.Origins), g.texts("allowMethods", &c.Methods), g.texts("allowHeaders", &c.Headers),
		g.texts("exposeHeaders", &c.Expose), g.flag("allowCredentials", &c.Credentials),
		field{"maxAge", func(v *node) { c.MaxAge = fmt.Sprintf("%ds", g.integer(v, "maxAge", 1, 86400)) }})
	raw, err := json.Marshal(c)
	if err != nil {
		g.mistake(n.line, "cors: %v", err)
	}
	add(Filter{Plug: "cors", With: raw})
}

// mirror reads a RequestMirror; nil if its reference cannot be resolved.
func (g *gateways) mirror(o *Object, n *node) *Mirror {
	m := &Mirror{}
	ok := false
	g.fields(n, "requestMirror",
		field{"backendRef", func(v *node) { m.VIP, _, ok = g.ref(o, v) }},
		field{"percent", func(v *node) { p := g.float(v, "percent"); m.Percent = &p }},
		field{"fraction", func(v *node) {
			numerator, denominator := 0, 100
			g.fields(v, "fraction", field{"numerator", func(v *node) { numerator = g.integer(v, "numerator", 0, 1<<31-1) }},
				field{"denominator", func(v *node) { denominator = g.integer(v, "denominator", 1, 1<<31-1) }})
			p := 100 * float64(numerator) / float64(denominator)
			m.Percent = &p
		}})
	if !ok {
		return nil
	}
	return m
}

// backends reads backendRefs. Those that cannot be resolved fail their share of the requests with 500, as the API wants.
func (g *gateways) backends(o *Object, refs []*node) (list []Backend) {
	total := 0
	for _, n := range refs {
		b := Backend{Status: 500}
		name, weight, ok := g.ref(o, n)
		if ok {
			b = Backend{VIP: name, Filters: g.ownFilters(o, name, n.get("filters"))}
		}
		if b.Weight = weight; weight > 0 {
			list = append(list, b)
			total += weight
		}
	}
	if total == 0 {
		return []Backend{{Status: 500}}
	}
	return list
}

// ownFilters reads the filters of one backendRef.
func (g *gateways) ownFilters(o *Object, name string, n *node) (list []Filter) {
	if n == nil || n.kind == null {
		return nil
	}
	g.each(n, "filters", func(n *node) {
		kind := ""
		g.text("type", &kind).read(cmp.Or(n.get("type"), &node{}))
		if kind != "RequestHeaderModifier" && kind != "ResponseHeaderModifier" {
			o.set("Accepted", false, "UnsupportedValue", "backendRef %s: a filter of type %s is not known for one backend alone; put it on the rule", name, kind)
			return
		}
		g.fields(n, "a filter", g.text("type", &kind),
			field{"requestHeaderModifier", func(v *node) { list = append(list, Filter{RequestHeaders: g.modifier(v)}) }},
			field{"responseHeaderModifier", func(v *node) { list = append(list, Filter{ResponseHeaders: g.modifier(v)}) }})
	})
	return list
}

// ref reads a reference to a Service and tells whether the route may have it.
func (g *gateways) ref(o *Object, n *node) (name string, weight int, ok bool) {
	group, kind, namespace := "", "Service", o.Namespace
	weight = 1
	g.fields(n, "a backendRef", g.text("group", &group), g.text("kind", &kind), g.text("name", &name), g.text("namespace", &namespace),
		field{"port", func(*node) {}},
		field{"weight", func(v *node) { weight = g.integer(v, "weight", 0, 1_000_000) }},
		field{"filters", func(*node) {}}) // see ownFilters
	switch {
	case group != "" && group != "core" || kind != "Service":
		o.set("ResolvedRefs", false, "InvalidKind", "backendRef %s is a %s; only a Service stands for an app", name, kind)
	case !filter.Plain(name):
		g.mistake(n.line, "backendRef %q is no app's name", name)
	case namespace != o.Namespace && !slices.ContainsFunc(g.grants, func(a grant) bool {
		return a.kind == o.Kind && a.from == o.Namespace && a.to == namespace && (a.name == "" || a.name == name)
	}):
		o.set("ResolvedRefs", false, "RefNotPermitted", "backendRef %s: no ReferenceGrant of namespace %s allows it", name, namespace)
	default:
		return name, weight, true
	}
	return name, weight, false
}
