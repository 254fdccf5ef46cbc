package route

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// setting is one property, where it stands.
type setting struct {
	key, value string
	line       int
}

// readProperties reads a Java properties file. Source: java.util.Properties.load.
func readProperties(src string) (list []setting) {
	lines := strings.Split(strings.ReplaceAll(src, "\r\n", "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		at := i + 1
		text := strings.TrimLeft(lines[i], " \t\f")
		if text == "" || text[0] == '#' || text[0] == '!' {
			continue
		}
		for continued(text) && i+1 < len(lines) {
			i++
			text = text[:len(text)-1] + strings.TrimLeft(lines[i], " \t\f")
		}
		text = strings.TrimSuffix(text, "\\")
		end := len(text)
		for j := 0; j < len(text); j++ {
			if text[j] == '\\' {
				j++
				continue
			}
			if strings.IndexByte("=: \t\f", text[j]) >= 0 {
				end = j
				break
			}
		}
		value := strings.TrimLeft(text[min(end, len(text)):], " \t\f")
		if value != "" && (value[0] == '=' || value[0] == ':') {
			value = strings.TrimLeft(value[1:], " \t\f")
		}
		list = append(list, setting{unescaped(text[:min(end, len(text))]), unescaped(value), at})
	}
	return list
}

// continued reports whether a line ends with a backslash that is not escaped.
func continued(s string) bool {
	return (len(s)-len(strings.TrimRight(s, `\`)))%2 == 1
}

func unescaped(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case 't':
			b.WriteByte('\t')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 'f':
			b.WriteByte('\f')
		case 'u':
			var r rune
			if n, err := fmt.Sscanf(s[min(i+1, len(s)):min(i+5, len(s))], "%04x", &r); n == 1 && err == nil && i+4 < len(s) {
				b.WriteRune(r)
				i += 4
				continue
			}
			b.WriteByte('u')
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// flatten turns YAML into properties, as Spring does: keys joined by dots, lists as one value with commas.
func flatten(n *node, prefix string, list []setting) []setting {
	if len(list) > 100_000 || len(prefix) > 4096 { // aliases blow up
		return list
	}
	switch n.kind {
	case mapping:
		for i, k := range n.keys {
			key := k
			if prefix != "" {
				key = prefix + "." + k
			}
			list = flatten(n.items[i], key, list)
		}
	case listKind:
		var values []string
		for _, item := range n.items {
			if item.kind == mapping || item.kind == listKind {
				continue
			}
			values = append(values, item.text)
		}
		list = append(list, setting{prefix, strings.Join(values, ","), n.line})
	default:
		list = append(list, setting{prefix, n.text, n.line})
	}
	return list
}

// listKind is the kind of lists, where list is a variable.
const listKind = list

// zuulRoute is what the properties of one route say.
type zuulRoute struct {
	id, path, service, url, sensitive string
	strip, retryable                  string
	line                              int
	sensitiveSet                      bool
}

// zuulFile is what a file says beside routes.
type zuulFile struct {
	*importer
	name            string
	routes          []*zuulRoute
	prefix          string
	strip           bool
	sensitive       string
	sensitiveSet    bool
	retryable       string
	ignoredServices string
	ignored         []setting // patterns
	servers         map[string]setting
}

// zuul imports the routes of Zuul 1 as Spring Cloud Netflix has them, from properties or YAML. Zuul 2 has its routes in
// Groovy; its properties are the edge's own, and the notes say so.
func (i *importer) zuul(file Text) error {
	f := &zuulFile{importer: i, name: file.Name, strip: true, servers: make(map[string]setting)}
	var all []setting
	trees, err := readTrees(file.Text)
	structured := err == nil && slices.ContainsFunc(trees, func(t *node) bool { return t.kind == mapping })
	switch ext := strings.HasSuffix(file.Name, ".yml") || strings.HasSuffix(file.Name, ".yaml") || strings.HasSuffix(file.Name, ".json"); {
	case ext && err != nil:
		return unreadable(file.Name, err)
	case ext || structured && !strings.HasSuffix(file.Name, ".properties"):
		for _, t := range trees {
			all = flatten(t, "", all)
		}
	default:
		all = readProperties(file.Text)
	}
	for _, s := range all {
		f.read(s)
	}
	for _, r := range f.routes {
		f.route(r)
	}
	for n, s := range f.ignored {
		for p := range strings.SplitSeq(s.value, ",") {
			if p = strings.TrimSpace(p); p == "" {
				continue
			}
			f.add(Route{
				ID: fmt.Sprintf("ignored-%d", n+1), Match: Match{Path: Path{Regex: antRegex(p)}}, document: f.name, line: s.line,
				Filters: []Filter{{Answer: &Answer{Status: 404, Body: "no route leads there\n"}}},
			})
		}
	}
	f.order()
	if f.ignoredServices != "" {
		f.note(f.name, 0, "zuul.ignored-services: "+f.ignoredServices, "it is no route", "set the edge's property of that name: roadbed config set zuul.ignoredServices '"+f.ignoredServices+"'")
	}
	if len(f.routes) > 0 && f.retryable == "" {
		f.note(f.name, 0, "zuul.retryable", "Zuul 1 retries nothing unless told; the edge retries what is safe to repeat", "give routes retry: {max: 0} if that must not be")
	}
	return nil
}

// word brings the spellings of a key together: service-id, serviceId and SERVICE_ID.
func word(s string) string {
	return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s))
}

// read takes one property.
func (f *zuulFile) read(s setting) {
	if app, ok := strings.CutSuffix(s.key, ".ribbon.listOfServers"); ok {
		f.servers[app] = s
		return
	}
	root, rest, _ := strings.Cut(s.key, ".")
	if word(root) != "zuul" {
		switch {
		case root == "ribbon" || strings.Contains(s.key, ".ribbon.") || root == "hystrix":
			f.note(f.name, s.line, s.key+"="+s.value, "it is no route, and the edge reads it under the same name", "roadbed config set "+s.key+" "+quoted(s.value))
		}
		return
	}
	head, tail, _ := strings.Cut(rest, ".")
	head, _, _ = strings.Cut(head, "[") // ignored-patterns[0]
	switch key := word(head); {
	case key == "routes" && tail != "":
		f.readRoute(s, tail)
	case key == "prefix" && tail == "":
		f.prefix = "/" + strings.Trim(s.value, "/")
		if f.prefix == "/" {
			f.prefix = ""
		}
	case key == "stripprefix" && tail == "":
		f.strip = s.value != "false"
	case key == "sensitiveheaders" && tail == "":
		f.sensitive, f.sensitiveSet = s.value, true
	case key == "retryable" && tail == "":
		f.retryable = s.value
	case key == "ignoredservices" && tail == "":
		f.ignoredServices = s.value
	case key == "ignoredpatterns":
		f.ignored = append(f.ignored, s)
	case key == "ignoredheaders" && tail == "":
		f.note(f.name, s.line, s.key+"="+s.value, "it concerns every route", "give each route requestHeaders and responseHeaders that remove them")
	case key == "addproxyheaders", key == "addhostheader", key == "forceoriginalquerystringencoding", key == "decodeurl":
		if s.value == "false" {
			f.note(f.name, s.line, s.key+"="+s.value, "the edge always tells services who asked, and for which host, and passes paths and queries as they came", "")
		}
	case key == "origin" || key == "server" || key == "passport" || key == "filters" || key == "filter" || key == "error" || key == "retry" || key == "response" || key == "min" || key == "gzip" || strings.HasSuffix(s.key, ".disable"):
		f.note(f.name, s.line, s.key+"="+s.value, "it is no route, and the edge reads it under the same name if it knows it", "roadbed config set "+s.key+" "+quoted(s.value))
	default:
		f.note(f.name, s.line, s.key+"="+s.value, "no route can say so", "")
	}
}

// quoted is a value as a shell takes it.
func quoted(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._,:/=") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// readRoute takes a property below zuul.routes: ID=PATH, or ID.WHAT=VALUE. An id may have dots.
func (f *zuulFile) readRoute(s setting, key string) {
	id, what := key, ""
	if i := strings.LastIndexByte(key, '.'); i > 0 {
		switch w := word(key[i+1:]); w {
		case "path", "serviceid", "url", "location", "id", "stripprefix", "retryable", "sensitiveheaders", "customsensitiveheaders":
			id, what = key[:i], w
		}
	}
	id = strings.Trim(id, "[]'\"")
	at := slices.IndexFunc(f.routes, func(r *zuulRoute) bool { return r.id == id })
	if at < 0 {
		at = len(f.routes)
		f.routes = append(f.routes, &zuulRoute{id: id, line: s.line})
	}
	r := f.routes[at]
	switch what {
	case "path":
		r.path = s.value
	case "serviceid":
		r.service = s.value
	case "url":
		r.url = s.value
	case "location":
		if strings.Contains(s.value, "://") {
			r.url = s.value
		} else {
			r.service = s.value
		}
	case "stripprefix":
		r.strip = s.value
	case "retryable":
		r.retryable = s.value
	case "sensitiveheaders":
		r.sensitive, r.sensitiveSet = s.value, true
	case "customsensitiveheaders", "id":
	default: // zuul.routes.users=/users/**
		r.path = s.value
	}
}

// route makes a route of one of Zuul's.
func (f *zuulFile) route(z *zuulRoute) {
	what := "zuul.routes." + z.id
	pattern := "/" + strings.TrimPrefix(cmp.Or(z.path, z.id+"/**"), "/")
	r := Route{ID: z.id, document: f.name, line: z.line}
	full := f.prefix + pattern
	var literal string
	switch rest, deep := strings.CutSuffix(pattern, "/**"); {
	case deep && !strings.ContainsAny(rest, "*?{"):
		r.Match.Path.Prefix = cmp.Or(f.prefix+rest, "/")
		literal = rest
	case !strings.ContainsAny(pattern, "*?{"):
		r.Match.Path.Exact = full
	default:
		r.Match.Path.Regex = antRegex(full)
		if i := strings.IndexByte(pattern, '*'); i > 0 {
			literal = strings.TrimSuffix(pattern[:i], "/")
		}
	}
	// What Zuul leaves out of the path: its prefix, and what stands before the first * of the route's pattern.
	routeStrips := z.strip != "false" && literal != ""
	globalStrips := f.strip && f.prefix != ""
	segments := func(s string) int { return strings.Count(s, "/") }
	base := ""
	if z.url != "" {
		ok := false
		if base, ok = f.origin(z, what, &r); !ok {
			return
		}
	} else {
		service := strings.ToLower(cmp.Or(z.service, z.id))
		if !filter.Plain(service) {
			f.note(f.name, z.line, what, fmt.Sprintf("%q is no app's name", service), "write the route by hand")
			return
		}
		r.Backends = []Backend{{VIP: service}}
		if list := f.servers[cmp.Or(z.service, z.id)]; list.value != "" {
			r.Backends = f.listed(service, list.value, list.line)
		}
	}
	kept := "" // what of the matched prefix the backend sees
	if !globalStrips {
		kept += f.prefix
	}
	if !routeStrips {
		kept += literal
	}
	switch {
	case r.Match.Path.Exact != "":
		path := full
		if globalStrips {
			path = pattern
		}
		if base+path != full {
			r.Filters = append(r.Filters, Filter{Rewrite: &Rewrite{Path: base + path}})
		}
	case base+kept == f.prefix+literal:
	case base+kept == "":
		r.Filters = append(r.Filters, Filter{StripPrefix: segments(f.prefix + literal)})
	case r.Match.Path.Prefix != "":
		to := base + kept
		r.Filters = append(r.Filters, Filter{Rewrite: &Rewrite{Prefix: &to}})
	default:
		r.Filters = append(r.Filters, Filter{Rewrite: &Rewrite{Regex: "^" + regexp.QuoteMeta(f.prefix+literal), To: strings.ReplaceAll(base+kept, "$", "$$")}})
	}
	f.sensitiveHeaders(z, &r)
	if z.retryable == "false" || z.retryable == "" && f.retryable == "false" {
		none := 0
		r.Retry = &Retry{Max: &none}
	}
	f.add(r)
}

// origin reads a route's url.
func (f *zuulFile) origin(z *zuulRoute, what string, r *Route) (base string, ok bool) {
	if strings.HasPrefix(z.url, "forward:") {
		f.note(f.name, z.line, what+".url="+z.url, "there is no application inside the edge to forward to", "run it as a service, and route to it")
		return "", false
	}
	u, err := url.Parse(z.url)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		f.note(f.name, z.line, what+".url="+z.url, "it is no URL of a service", "write the route by hand")
		return "", false
	}
	host := u.Host
	if u.Port() == "" {
		port := ":80"
		if u.Scheme == "https" {
			port = ":443"
		}
		host += port
	}
	if u.Scheme == "https" {
		f.note(f.name, z.line, what+".url="+z.url, "how a service is spoken to is said where it registers", "register it with its secure port and name it as vip; an addr is asked without TLS")
	}
	r.Backends = []Backend{{Addr: host}}
	return strings.TrimRight(u.EscapedPath(), "/"), true
}

// listed makes backends of APP.ribbon.listOfServers.
func (f *zuulFile) listed(app, list string, line int) (backends []Backend) {
	for s := range strings.SplitSeq(list, ",") {
		s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(s), "http://"), "https://"), "/")
		if s == "" {
			continue
		}
		if !strings.Contains(s, ":") {
			s += ":80"
		}
		if !address(s) {
			f.note(f.name, line, app+".ribbon.listOfServers="+list, s+" is no host and port", "")
			continue
		}
		backends = append(backends, Backend{VIP: app, Addr: s})
	}
	f.note(f.name, line, app+".ribbon.listOfServers="+list, "its servers are addresses now, each with its share, and are not checked", "register the service, and leave vip alone: instances then come, go and are balanced")
	if len(backends) == 0 {
		return []Backend{{VIP: app}}
	}
	return backends
}

// sensitiveHeaders keeps from services, and from clients, what Zuul kept: cookies and credentials unless told otherwise.
func (f *zuulFile) sensitiveHeaders(z *zuulRoute, r *Route) {
	names := "Cookie,Set-Cookie,Authorization"
	switch {
	case z.sensitiveSet:
		names = z.sensitive
	case f.sensitiveSet:
		names = f.sensitive
	}
	request, response := &Headers{}, &Headers{}
	for n := range strings.SplitSeq(names, ",") {
		switch n = strings.TrimSpace(n); {
		case n == "":
		case !fieldName(n) || slices.ContainsFunc(ours, func(o string) bool { return strings.EqualFold(o, n) }):
			f.note(f.name, z.line, "zuul.routes."+z.id+".sensitiveHeaders="+names, n+" is no header that a route may remove", "")
		case strings.EqualFold(n, "Set-Cookie"):
			response.Remove = append(response.Remove, n)
		case strings.EqualFold(n, "Cookie") || strings.EqualFold(n, "Authorization"):
			request.Remove = append(request.Remove, n)
		default:
			request.Remove, response.Remove = append(request.Remove, n), append(response.Remove, n)
		}
	}
	if len(request.Remove) > 0 {
		r.Filters = append(r.Filters, Filter{RequestHeaders: request})
	}
	if len(response.Remove) > 0 {
		r.Filters = append(r.Filters, Filter{ResponseHeaders: response})
	}
}

// order notes where Zuul, which takes the first pattern that matches, would choose another route than the edge.
func (f *zuulFile) order() {
	for i, a := range f.routes {
		wide, ok := strings.CutSuffix("/"+strings.TrimPrefix(cmp.Or(a.path, a.id+"/**"), "/"), "**")
		if !ok {
			continue
		}
		for _, b := range f.routes[i+1:] {
			if strings.HasPrefix("/"+strings.TrimPrefix(cmp.Or(b.path, b.id+"/**"), "/"), wide) {
				f.note(f.name, b.line, "zuul.routes."+b.id, fmt.Sprintf("Zuul asked %s first, which takes all of its requests; the edge asks the most specific route first", a.id), "remove it, if it was never to be reached")
				break
			}
		}
	}
}

// antRegex turns a pattern as Spring's AntPathMatcher has it into an expression for whole paths.
func antRegex(pattern string) string {
	var b strings.Builder
	for i := 0; i < len(pattern); {
		switch rest := pattern[i:]; {
		case rest == "/**":
			b.WriteString("(?:/.*)?")
			i += 3
		case strings.HasPrefix(rest, "/**/"):
			b.WriteString("/(?:.*/)?")
			i += 4
		case strings.HasPrefix(rest, "**"):
			b.WriteString(".*")
			i += 2
		case rest[0] == '*':
			b.WriteString("[^/]*")
			i++
		case rest[0] == '?':
			b.WriteString("[^/]")
			i++
		default:
			b.WriteString(regexp.QuoteMeta(rest[:1]))
			i++
		}
	}
	return b.String()
}
