package route

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// directive is one of an nginx configuration's.
type directive struct {
	name  string
	args  []string
	line  int
	block []directive // of one with braces
	file  string      // of an upstream
}

// String is the directive as written, without its block.
func (d *directive) String() string { return strings.Join(append([]string{d.name}, d.args...), " ") }

// nginxReader parses a configuration.
type nginxReader struct {
	src  string
	at   int
	line int
}

var errNginxEnd = errors.New("it ends inside a block or directive; is a } or ; missing?")

// readNginx parses a configuration file, or a part of one that is included. An error is a [Mistake].
func readNginx(name, src string) ([]directive, error) {
	r := &nginxReader{src: src, line: 1}
	list, err := r.block(0)
	if err != nil {
		return nil, &Mistake{Document: name, Line: r.line, Reason: err.Error()}
	}
	return list, nil
}

// block reads directives until the } that ends the block at this depth, or the end of the file at depth 0.
func (r *nginxReader) block(depth int) (list []directive, err error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("blocks are nested deeper than %d levels", maxDepth)
	}
	var d directive
	begun := false // d has its name
	for {
		word, quoted, err := r.word()
		if err != nil {
			return nil, err
		}
		switch {
		case word == "" && !quoted: // the end of the file
			if depth > 0 || begun {
				return nil, errNginxEnd
			}
			return list, nil
		case quoted || word != ";" && word != "{" && word != "}":
			if !begun {
				begun, d.name, d.line = true, word, r.line // "" in a map
			} else {
				d.args = append(d.args, word)
			}
		case word == "}":
			if begun {
				return nil, fmt.Errorf("%s has no ; at its end", d.name)
			}
			if depth == 0 {
				return nil, errors.New("there is a } without its {")
			}
			return list, nil
		case !begun:
			return nil, fmt.Errorf("there is a %s without a directive", word)
		case word == ";":
			list = append(list, d)
			d, begun = directive{}, false
		default:
			if strings.HasSuffix(d.name, "_by_lua_block") {
				err = r.skipCode()
			} else {
				d.block, err = r.block(depth + 1)
			}
			if err != nil {
				return nil, err
			}
			list = append(list, d)
			d, begun = directive{}, false
		}
	}
}

// word reads the next word, or one of ; { } if it is not quoted. It is empty and not quoted at the end of the file.
func (r *nginxReader) word() (word string, quoted bool, err error) {
	for r.at < len(r.src) {
		c := r.src[r.at]
		if c == '#' {
			end := strings.IndexByte(r.src[r.at:], '\n')
			if end < 0 {
				r.at = len(r.src)
				break
			}
			r.at += end
			continue
		}
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			break
		}
		if c == '\n' {
			r.line++
		}
		r.at++
	}
	if r.at == len(r.src) {
		return "", false, nil
	}
	switch c := r.src[r.at]; c {
	case ';', '{', '}':
		r.at++
		return string(c), false, nil
	case '"', '\'':
		return r.quoted(c)
	}
	var b strings.Builder
	for r.at < len(r.src) {
		c := r.src[r.at]
		switch {
		case c == '\\' && r.at+1 < len(r.src):
			// Regular expressions keep their escapes; only what would end the word loses its backslash.
			next := r.src[r.at+1]
			if next == '\n' {
				r.line++
			}
			if !strings.ContainsRune(" \t\n\r\"';{}", rune(next)) {
				b.WriteByte(c)
			}
			b.WriteByte(next)
			r.at += 2
			quoted = true // \; is a word
			continue
		case c == '$' && r.at+1 < len(r.src) && r.src[r.at+1] == '{':
			b.WriteString("${")
			r.at += 2
			continue
		case c == '}' && strings.LastIndex(b.String(), "${") > strings.LastIndexByte(b.String(), '}'):
			b.WriteByte(c)
			r.at++
			continue
		case c == '{' && braced(b.String(), r.src[r.at:]):
			end := strings.IndexByte(r.src[r.at:], '}')
			b.WriteString(r.src[r.at : r.at+end+1])
			r.at += end + 1
			continue
		case c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ';' || c == '{' || c == '}':
			return b.String(), quoted, nil
		}
		b.WriteByte(c)
		r.at++
	}
	return b.String(), quoted, nil
}

// braced reports whether rest begins with a regular expression's repetition, as {2} or {1,3}, which nginx wants quoted, and
// people forget to.
func braced(before, rest string) bool {
	end := strings.IndexByte(rest, '}')
	return before != "" && end > 1 && end < 12 && strings.Trim(rest[1:end], "0123456789,") == ""
}

func (r *nginxReader) quoted(q byte) (string, bool, error) {
	var b strings.Builder
	from := r.line
	for r.at++; r.at < len(r.src); r.at++ {
		c := r.src[r.at]
		switch {
		case c == q:
			r.at++
			return b.String(), true, nil
		case c == '\\' && r.at+1 < len(r.src) && (r.src[r.at+1] == q || r.src[r.at+1] == '\\'):
			if r.src[r.at+1] == '\\' {
				b.WriteByte(c)
			}
			r.at++
			b.WriteByte(r.src[r.at])
			continue
		case c == '\\' && r.at+1 < len(r.src) && strings.IndexByte("ntr", r.src[r.at+1]) >= 0:
			r.at++
			c = map[byte]byte{'n': '\n', 't': '\t', 'r': '\r'}[r.src[r.at]]
		case c == '\n':
			r.line++
		}
		b.WriteByte(c)
	}
	r.line = from
	return "", false, errors.New("a quote has no end")
}

// skipCode passes over a block in Lua, to the brace that ends it.
func (r *nginxReader) skipCode() error {
	var quote byte // of the string that it is in; - in a comment
	for open := 1; r.at < len(r.src); r.at++ {
		c := r.src[r.at]
		if c == '\n' {
			quote, r.line = 0, r.line+1
		}
		if quote != 0 {
			if c == '\\' && quote != '-' && r.at+1 < len(r.src) && r.src[r.at+1] != '\n' {
				r.at++
			} else if c == quote && c != '-' {
				quote = 0
			}
			continue
		}
		switch c {
		case '"', '\'':
			quote = c
		case '-':
			if strings.HasPrefix(r.src[r.at:], "--") {
				quote = c
			}
		case '{':
			open++
		case '}':
			if open--; open == 0 {
				r.at++
				return nil
			}
		}
	}
	return errNginxEnd
}

// nginxFile is one file on its way into routes.
type nginxFile struct {
	*importer
	name    string
	servers []nginxServer
	schemed bool // some servers are for http alone, some for https alone
	routes  int
}

// nginxServer is a server block with what it inherits.
type nginxServer struct {
	directive
	outer []directive
}

// nginx reads a configuration, whose routes come when it is finished.
func (i *importer) nginx(file Text) (*nginxFile, error) {
	list, err := readNginx(file.Name, file.Text)
	if err != nil {
		return nil, err
	}
	f := &nginxFile{importer: i, name: file.Name}
	f.main(list, nil)
	return f, nil
}

// finish makes routes of the servers.
func (f *nginxFile) finish() {
	plain, secure := false, false
	for _, s := range f.servers {
		scheme := f.scheme(&s)
		plain, secure = plain || scheme == "http", secure || scheme == "https"
	}
	f.schemed = plain && secure
	for n := range f.servers {
		f.server(&f.servers[n])
	}
	if f.routes > 0 {
		f.note(f.name, 0, "proxy_read_timeout", "nginx waits 60 s for an answer unless told; the edge ends a request after 10 s unless its route says otherwise",
			"set the property edge.timeouts.request to 60s if that is needed")
	}
}

// main reads what stands outside of servers.
func (f *nginxFile) main(list, outer []directive) {
	for _, d := range list {
		switch d.name {
		case "http":
			f.main(d.block, d.block)
		case "server":
			around := outer
			if around == nil { // in a file that another one includes, who may ask counts all the same
				around = slices.DeleteFunc(slices.Clone(list), func(d directive) bool { return !slices.Contains(guarding, d.name) })
			}
			f.servers = append(f.servers, nginxServer{d, around})
		case "upstream":
			if d.file = f.name; len(d.args) == 1 {
				f.upstreams[d.args[0]] = d
			}
		case "proxy_set_header", "add_header", "client_max_body_size", "proxy_read_timeout", "proxy_next_upstream", "proxy_next_upstream_tries", "proxy_hide_header":
			if outer == nil {
				f.refuse(&d) // nobody would inherit it
			}
		default:
			if !slices.Contains(guarding, d.name) || !slices.ContainsFunc(list, func(d directive) bool { return d.name == "server" }) {
				f.refuse(&d)
			}
		}
	}
}

// granted are directives that need no counterpart: the edge does so anyway, or has its own way that loses nothing.
var granted = []string{
	"events", "user", "worker_processes", "worker_connections", "worker_rlimit_nofile", "pid", "sendfile", "tcp_nopush", "tcp_nodelay", "keepalive_timeout",
	"keepalive_requests", "keepalive", "types", "types_hash_max_size", "default_type", "server_names_hash_bucket_size", "server_names_hash_max_size", "server_tokens",
	"proxy_http_version", "proxy_buffering", "proxy_request_buffering", "proxy_buffers", "proxy_buffer_size", "proxy_busy_buffers_size", "proxy_redirect", "zone", "use",
	"multi_accept", "variables_hash_max_size", "client_body_buffer_size", "large_client_header_buffers", "http2", "http3", "proxy_headers_hash_max_size",
	"proxy_headers_hash_bucket_size", "resolver", "resolver_timeout", "listen", "server_name", "charset", "merge_slashes", "log_not_found",
}

// elsewhere says what to do for directives that no route can carry, by how their names begin; the longest such beginning counts.
var elsewhere = []struct{ name, why, do string }{
	{"ssl_", "certificates and versions belong to the edge's listeners, not to routes", "see docs/edge.md for listeners"},
	{"gzip", "the edge compresses answers itself", "see zuul.gzip.contenttypes and zuul.min.gzip.body.size"},
	{"brotli", "the edge compresses answers itself", ""},
	{"access_log", "the edge writes an access log of its own, in JSON", ""},
	{"error_log", "the platform logs to its standard error", ""},
	{"log_format", "the edge writes an access log of its own, in JSON", ""},
	{"root", "the edge serves no files", "run a file server as a service, and route to it"},
	{"alias", "the edge serves no files", "run a file server as a service, and route to it"},
	{"index", "the edge serves no files", "run a file server as a service, and route to it"},
	{"try_files", "the edge serves no files", "run a file server as a service, and route to it"},
	{"autoindex", "the edge serves no files", "run a file server as a service, and route to it"},
	{"expires", "it depends on files", "set Cache-Control with responseHeaders"},
	{"limit_req", "limits are filters of a route", "add {rateLimit: ...} to the route's filters"},
	{"limit_conn", "limits are filters of a route", "add {rateLimit: ...} to the route's filters"},
	{"auth_", "who may ask is decided by a filter of a route", "add {auth: ...} to the route's filters"},
	{"satisfy", "who may ask is decided by a filter of a route", "add {auth: ...} to the route's filters"},
	{"allow", "addresses are a condition, not a list", "say so with when: 'cidr(client.ip, [...])'"},
	{"deny", "addresses are a condition, not a list", "say so with when: 'cidr(client.ip, [...])'"},
	{"if", "conditions are part of what a route matches", "write a route of its own with headers, query, methods or when"},
	{"map", "there are no variables", "write routes with headers or when, or a program"},
	{"geo", "there are no variables", "write routes with when, or a program"},
	{"set", "there are no variables", "write routes with when, or a program"},
	{"split_clients", "there are no variables", "give backends weights, with sticky"},
	{"include", "files are not looked for", "name the included file on the command line as well"},
	{"error_page", "answers of services pass as they are", ""},
	{"proxy_intercept_errors", "answers of services pass as they are", ""},
	{"proxy_cache", "the edge does not cache", ""},
	{"proxy_ssl", "how a service is spoken to is said where it registers", "register it with its secure port"},
	{"proxy_connect_timeout", "it belongs to the app", "set the property APP.ribbon.ConnectTimeout"},
	{"proxy_send_timeout", "it belongs to the request as a whole", "see timeouts.request of the route"},
	{"proxy_cookie", "cookies pass as services set them", "write a program"},
	{"mirror", "it names a location", "give the route a mirror: {vip: ..., percent: ...}"},
	{"fastcgi_", "the edge speaks HTTP alone", "put a server that speaks FastCGI in front of the application"},
	{"uwsgi_", "the edge speaks HTTP alone", "serve HTTP from the application"},
	{"scgi_", "the edge speaks HTTP alone", "serve HTTP from the application"},
	{"stream", "the edge routes HTTP alone", ""},
	{"real_ip", "whom to believe forwarding headers is the edge's affair", "see docs/edge.md for trusted proxies"},
	{"set_real_ip", "whom to believe forwarding headers is the edge's affair", "see docs/edge.md for trusted proxies"},
	{"client_header", "limits on heads and slow clients belong to the edge", ""},
	{"client_body_timeout", "limits on heads and slow clients belong to the edge", ""},
	{"send_timeout", "limits on slow clients belong to the edge", ""},
	{"sub_filter", "bodies pass as services send them", "write a program"},
	{"js_", "there is no njs", "write a program"},
	{"perl", "there is no Perl", "write a program"},
	{"least_conn", "the edge compares how busy two instances are, always", ""},
	{"random", "the edge compares how busy two instances are, always", ""},
}

// refuse notes a directive that no route carries, unless none needs to.
func (f *nginxFile) refuse(d *directive) {
	if slices.Contains(granted, d.name) {
		return
	}
	if d.name == "include" && len(d.args) == 1 && f.given(d.args[0]) {
		return
	}
	if strings.Contains(d.name, "_by_lua") {
		f.note(f.name, d.line, d.name, "there is no Lua", "write a program")
		return
	}
	name, why, do := "", "no route can say so", ""
	for _, e := range elsewhere {
		if len(e.name) > len(name) && (d.name == e.name || strings.HasPrefix(d.name, strings.TrimSuffix(e.name, "_")+"_")) {
			name, why, do = e.name, e.why, e.do
		}
	}
	f.note(f.name, d.line, d.String(), why, do)
}

// given reports whether what an include names is among the files that are imported.
func (f *nginxFile) given(pattern string) bool {
	return slices.ContainsFunc(f.files, func(name string) bool {
		ok, err := path.Match(path.Base(pattern), path.Base(name))
		return ok && err == nil && (path.Dir(pattern) == "." || strings.HasSuffix(path.Dir(name), path.Dir(pattern)))
	})
}

// scheme says which scheme alone a server listens for; empty: both, or it does not say.
func (f *nginxFile) scheme(s *nginxServer) string {
	plain, secure := false, false
	for _, d := range s.block {
		switch {
		case d.name != "listen" || len(d.args) == 0:
		case slices.Contains(d.args, "ssl") || slices.Contains(d.args, "quic"):
			secure = true
		default:
			plain = true
		}
	}
	switch {
	case plain && !secure:
		return "http"
	case secure && !plain:
		return "https"
	}
	return ""
}

// server makes routes of one server block.
func (f *nginxFile) server(s *nginxServer) {
	var hosts []string
	anyHost := false
	named := false
	for _, d := range s.block {
		switch d.name {
		case "server_name":
			for _, h := range d.args {
				named = true
				switch {
				case h == "_" || h == "":
					anyHost = true
				case strings.HasPrefix(h, "."):
					hosts = append(hosts, h[1:], "*"+h)
				case checkHost(h) == nil:
					hosts = append(hosts, h)
				default:
					f.note(f.name, d.line, "server_name "+h, "a host is a name, or *. and a name", "list the names")
				}
			}
		case "listen":
			if slices.Contains(d.args, "default_server") || slices.Contains(d.args, "default") {
				anyHost = true
			}
			if slices.Contains(d.args, "proxy_protocol") {
				f.note(f.name, d.line, d.String(), "whether a listener speaks the PROXY protocol is the edge's affair", "see docs/edge.md for listeners")
			}
		}
	}
	if named && len(hosts) == 0 && !anyHost {
		return // every name was refused, and noted
	}
	if anyHost {
		hosts = nil
	}
	base := Route{Match: Match{Hosts: hosts}, document: f.name, line: s.line}
	if f.schemed {
		base.Match.Scheme = f.scheme(s)
	}
	scope := [][]directive{s.outer, s.block}
	var locations []directive
	answered := false
	for _, d := range s.block {
		switch d.name {
		case "location":
			locations = append(locations, d)
		case "return", "rewrite":
			r := base
			r.line = d.line
			r.ID = f.idFor(hosts, "")
			if f.answer(&d, &r) {
				answered = true
				f.take(r)
				break
			}
			if d.name == "rewrite" && !slices.ContainsFunc(f.out.Notes, func(n Note) bool { return n.File == f.name && n.Line == d.line }) {
				f.note(f.name, d.line, d.String(), "outside of a location it may lead to any other one", "give the routes that it concerns a rewrite")
			}
		default:
			if !inherited(d.name) && !slices.Contains(guarding, d.name) {
				f.refuse(&d)
			}
		}
	}
	if answered && len(locations) > 0 {
		f.note(f.name, s.line, "server", "it answers every request before its locations are asked", "")
		return
	}
	f.locations(base, locations, scope)
	f.orderOf(locations)
}

// orderOf notes where nginx would choose another location than the edge.
func (f *nginxFile) orderOf(locations []directive) {
	var regexes, firm []directive
	for _, l := range locations {
		switch {
		case len(l.args) == 2 && strings.HasPrefix(l.args[0], "~"):
			regexes = append(regexes, l)
		case len(l.args) == 2 && l.args[0] == "^~":
			firm = append(firm, l)
		}
	}
	if len(regexes) > 1 {
		f.note(f.name, regexes[1].line, regexes[1].String(), "nginx takes the first expression of a file that matches, the edge the longest", "make sure that no path matches two of them")
	}
	if len(firm) > 0 && len(regexes) > 0 {
		f.note(f.name, firm[0].line, firm[0].String(), "the edge asks expressions before prefixes", "write expressions that leave this prefix out")
	}
}

// inherited reports whether a directive counts for the locations inside as well.
func inherited(name string) bool {
	return slices.Contains([]string{"proxy_set_header", "add_header", "client_max_body_size", "proxy_read_timeout", "proxy_next_upstream", "proxy_next_upstream_tries", "proxy_hide_header"}, name)
}

// locations makes routes of location blocks, and of those inside them. scope is the blocks around, outermost first.
func (f *nginxFile) locations(base Route, list []directive, scope [][]directive) {
	for i := range list {
		l := &list[i]
		r := base
		r.line = l.line
		how, path := "", ""
		switch len(l.args) {
		case 1:
			path = l.args[0]
			for _, m := range []string{"=", "~*", "~", "^~"} { // =/path is written, too
				if rest, ok := strings.CutPrefix(path, m); ok && how == "" {
					how, path = m, rest
				}
			}
		case 2:
			how, path = l.args[0], l.args[1]
		}
		ok := true
		switch {
		case strings.HasPrefix(path, "@"):
			f.note(f.name, l.line, l.String(), "named locations are reached from other directives alone", "")
			continue
		case how == "=":
			r.Match.Path.Exact = path
		case how == "~" || how == "~*":
			r.Match.Path.Regex, ok = f.regex(l, path, how == "~*")
		case how == "" || how == "^~":
			r.Match.Path.Prefix = path
			if !strings.HasSuffix(path, "/") {
				f.note(f.name, l.line, l.String(), fmt.Sprintf("in nginx it takes %sx as well; here a prefix is whole segments", path), "")
			}
		default:
			f.note(f.name, l.line, l.String(), "it is no location", "")
			continue
		}
		l = f.tried(l, list)
		inner := append(slices.Clone(scope), l.block)
		var nested []directive
		for _, d := range l.block {
			if d.name == "location" {
				nested = append(nested, d)
			}
		}
		f.locations(base, nested, inner)
		if ok {
			r.ID = f.idFor(r.Match.Hosts, path)
			f.location(r, l, inner)
		}
	}
}

// tried returns a location whose try_files ends in another one by name as if it had that one's directives, too.
func (f *nginxFile) tried(l *directive, all []directive) *directive {
	last := slices.IndexFunc(l.block, func(d directive) bool {
		return d.name == "try_files" && len(d.args) > 0 && strings.HasPrefix(d.args[len(d.args)-1], "@")
	})
	if last < 0 || slices.ContainsFunc(l.block, func(d directive) bool { return d.name == "proxy_pass" || d.name == "grpc_pass" || d.name == "return" }) {
		return l
	}
	d := l.block[last]
	name := d.args[len(d.args)-1]
	named := slices.IndexFunc(all, func(d directive) bool { return len(d.args) == 1 && d.args[0] == name })
	if named < 0 {
		return l
	}
	f.note(f.name, d.line, d.String(), "the edge serves no files; everything is asked of what "+name+" passes requests on to", "run a file server as a service, and route to it what is there")
	with := *l
	with.block = slices.Concat(l.block[:last], l.block[last+1:], all[named].block)
	return &with
}

// idFor names a route by its host and path.
func (f *nginxFile) idFor(hosts []string, path string) string {
	host := "any"
	if len(hosts) > 0 {
		host = strings.Replace(hosts[0], "*", "any", 1)
	}
	return strings.TrimRight(host+"_"+strings.Trim(strings.Map(func(c rune) rune {
		if c < 0x80 && filter.Plain(string(c)) {
			return c
		}
		return '-'
	}, path), "-"), "_-")
}

// regex returns nginx's expression, which may match anywhere, as one that matches a whole path.
func (f *nginxFile) regex(l *directive, expr string, fold bool) (string, bool) {
	whole := anywhere(expr)
	if fold {
		whole = "(?i)" + whole
	}
	if _, err := wholeRegex("location", whole); err != nil {
		f.note(f.name, l.line, l.String(), err.Error(), "expressions here know no lookahead and no backreferences (RE2)")
		return "", false
	}
	return whole, true
}

// anywhere turns an expression that matches a part of a text into one that matches the whole of it.
func anywhere(expr string) string {
	before, after := ".*", ".*"
	if strings.Contains(expr, "|") && !strings.ContainsAny(expr, "()") {
		return before + "(?:" + expr + ")" + after // an anchor would belong to one of the alternatives
	}
	if rest, ok := strings.CutPrefix(expr, "^"); ok {
		before, expr = "", rest
	}
	if rest, ok := strings.CutSuffix(expr, "$"); ok && !strings.HasSuffix(rest, `\`) {
		after, expr = "", rest
	}
	if strings.Contains(expr, "|") {
		expr = "(?:" + expr + ")"
	}
	return before + expr + after
}

// effective returns the directives of a name that count in the innermost scope: those of the innermost block that has any.
func effective(scope [][]directive, name string) (list []directive) {
	for _, block := range slices.Backward(scope) {
		for _, d := range block {
			if d.name == name {
				list = append(list, d)
			}
		}
		if list != nil {
			return list
		}
	}
	return nil
}

// location makes a route of what stands in a location.
func (f *nginxFile) location(r Route, l *directive, scope [][]directive) {
	answered := false
	rewritten := false
	for _, d := range l.block {
		switch {
		case d.name == "location" || d.name == "internal" || d.name == "default_type" || inherited(d.name) || slices.Contains(guarding, d.name):
		case answered:
			f.note(f.name, d.line, d.String(), "the location has answered before", "")
		case d.name == "return":
			if answered = f.answer(&d, &r); !answered {
				return // noted
			}
		case d.name == "rewrite":
			switch {
			case len(d.args) > 2 && (d.args[2] == "redirect" || d.args[2] == "permanent") || len(d.args) > 1 && strings.Contains(d.args[1], "://"):
				if answered = f.answer(&d, &r); !answered {
					return
				}
			case rewritten:
				f.note(f.name, d.line, d.String(), "a route rewrites once", "write one expression that does both")
			default:
				rewritten = f.rewrite(&d, &r)
			}
		case d.name == "proxy_pass" || d.name == "grpc_pass":
			f.pass(&d, &r, l)
		default:
			f.refuse(&d)
		}
	}
	if answered {
		r.Backends = nil
		r.Filters = slices.DeleteFunc(r.Filters, func(x Filter) bool { return x.Rewrite != nil })
	}
	if !answered && len(r.Backends) == 0 {
		if who := addresses(scope[len(scope)-1:]); who.plain && !who.others && len(who.allowed) == 0 {
			f.guarded(r, l, scope, false) // nobody may, whatever stands there
			return
		}
		if !slices.ContainsFunc(l.block, func(d directive) bool {
			return d.name == "proxy_pass" || d.name == "grpc_pass" || d.name == "location"
		}) {
			f.note(f.name, l.line, l.String(), "it passes no requests on; the edge serves no files", "run a file server as a service, and route to it")
		}
		return
	}
	if n := slices.IndexFunc(r.Filters, func(x Filter) bool { return x.Answer != nil && x.Answer.Body != "" }); n >= 0 {
		if d := effective(scope, "default_type"); len(d) > 0 && len(d[0].args) == 1 && fieldValue(d[0].args[0]) {
			r.Filters[n].Answer.Headers = map[string]string{"Content-Type": d[0].args[0]}
		}
	}
	f.headers(&r, scope)
	f.limits(&r, scope, answered)
	f.guarded(r, l, scope, answered)
}

// guarding are directives that say who may ask. Those that no route can say close their location.
var guarding = []string{"allow", "deny", "satisfy", "auth_basic", "auth_request", "auth_jwt", "auth_oidc", "limit_except", "ssl_verify_client"}

// guarded adds a route as open as nginx has its location, and no more.
func (f *nginxFile) guarded(r Route, l *directive, scope [][]directive, answered bool) {
	if slices.ContainsFunc(l.block, func(d directive) bool { return d.name == "internal" }) {
		f.note(f.name, l.line, l.String(), "it is reached from other locations alone, and so is no route", "")
		return
	}
	closed := Route{ID: r.ID + ".closed", Match: r.Match, document: r.document, line: r.line, Filters: []Filter{{Answer: &Answer{Status: 403}}}}
	var guard *directive
	for _, name := range guarding[3:] {
		if all := effective(scope, name); len(all) > 0 && (len(all[0].args) == 0 || all[0].args[0] != "off") {
			guard = &all[0]
			break
		}
	}
	who := addresses(scope)
	when := func(r *Route, list []string) {
		text, err := json.Marshal(list)
		if err != nil {
			panic(err) // texts always are JSON
		}
		r.Match.When = "cidr(client.ip, " + string(text) + ")"
	}
	switch {
	case guard == nil && who.first == nil, answered: // nginx answers before it asks who
		f.take(r)
		return
	case guard == nil && who.plain && who.others: // all but some
		f.take(r)
		if len(who.denied) > 0 {
			when(&closed, who.denied)
			f.take(closed)
		}
		return
	case guard == nil && who.plain && len(who.allowed) == 0: // nobody
		closed.ID = r.ID
		f.take(closed)
		return
	case guard == nil && who.plain: // some
		when(&r, who.allowed)
		f.take(r)
		f.take(closed)
		return
	case guard == nil:
		guard = who.first
	}
	r.Disabled = true
	f.take(r)
	f.take(closed)
	f.note(f.name, guard.line, guard.String(), fmt.Sprintf("the route cannot say who may ask; it is disabled, and %s answers 403 in its place", closed.ID),
		"give it an auth filter, or a when, take disabled out, and leave out "+closed.ID)
}

// admitted is who may ask by nginx's allow and deny.
type admitted struct {
	first           *directive // nil: there are none
	allowed, denied []string   // addresses and networks
	others          bool       // may ask, too
	plain           bool       // it is one list alone
}

// addresses reads the allow and deny that count in the innermost scope.
func addresses(scope [][]directive) admitted {
	who := admitted{others: true, plain: true}
	for _, block := range slices.Backward(scope) {
		over := false // what follows counts no more
		for i := range block {
			d := &block[i]
			if d.name != "allow" && d.name != "deny" || len(d.args) != 1 {
				continue
			}
			if who.first == nil {
				who.first = d
			}
			_, network := netip.ParsePrefix(d.args[0])
			_, address := netip.ParseAddr(d.args[0])
			switch {
			case over:
			case d.args[0] == "all":
				over, who.others = true, d.name == "allow"
			case network != nil && address != nil:
				who.plain = false
			case d.name == "allow":
				who.allowed = append(who.allowed, d.args[0])
			default:
				who.denied = append(who.denied, d.args[0])
			}
		}
		if who.first != nil {
			break
		}
	}
	if who.others {
		who.plain = who.plain && (len(who.allowed) == 0 || len(who.denied) == 0)
	} else {
		who.plain = who.plain && len(who.denied) == 0
	}
	return who
}

// take adds a route.
func (f *nginxFile) take(r Route) {
	f.routes++
	f.add(r)
}

// answer reads return, or a rewrite that redirects.
func (f *nginxFile) answer(d *directive, r *Route) bool {
	refuse := func(why string) bool {
		f.note(f.name, d.line, d.String(), why, "write a redirect or answer by hand")
		return false
	}
	status, to := 302, ""
	switch {
	case d.name == "return" && len(d.args) == 1 && strings.Contains(d.args[0], "://"):
		to = d.args[0]
	case d.name == "return" && len(d.args) > 0:
		n, err := strconv.Atoi(d.args[0])
		if err != nil {
			return refuse("it names no status")
		}
		if status = n; len(d.args) > 1 {
			to = d.args[1]
		}
		if !slices.Contains([]int{301, 302, 303, 307, 308}, status) {
			if status == 444 {
				return refuse("the edge answers every request")
			}
			if strings.Contains(to, "$") {
				return refuse("there are no variables")
			}
			if status < 200 || status > 599 {
				return refuse("it is no final status")
			}
			r.Filters = append(r.Filters, Filter{Answer: &Answer{Status: status, Body: to}})
			return true
		}
	case d.name == "rewrite" && len(d.args) >= 2:
		if !slices.Contains([]string{"^", "^/", "^(.*)$", "^(.*)", "^/(.*)$", "^/(.*)", ".*", "^.*$"}, d.args[0]) && strings.Contains(d.args[1], "$") {
			return refuse("a redirect here keeps the path, or names a new one")
		}
		if len(d.args) < 3 && !strings.Contains(d.args[1], "://") || len(d.args) > 2 && d.args[2] != "permanent" && d.args[2] != "redirect" {
			return false
		}
		if len(d.args) > 2 && d.args[2] == "permanent" {
			status = 301
		}
		to = d.args[1]
		if d.args[0] == "^/(.*)$" || d.args[0] == "^/(.*)" {
			to = strings.Replace(to, "/$1", "$request_uri", 1)
		} else {
			to = strings.Replace(to, "$1", "$request_uri", 1)
		}
		to = strings.TrimSuffix(to, "?")
		if !strings.Contains(d.args[0], "(") && d.args[0] != "^" && r.Match.Path == (Path{}) && d.args[0] != ".*" && d.args[0] != "^.*$" {
			if re, ok := f.regex(d, d.args[0], false); ok {
				r.Match.Path.Regex = re
			} else {
				return false
			}
		}
	default:
		return refuse("it says nothing")
	}
	x := &Redirect{Status: status}
	rest := to
	if scheme, after, ok := strings.Cut(rest, "://"); ok {
		if scheme != "$scheme" {
			x.Scheme = scheme
		}
		host, path := after, ""
		if i := strings.IndexAny(after, "/"); i >= 0 {
			host, path = after[:i], after[i:]
		}
		if h, ok := strings.CutSuffix(host, "$request_uri"); ok && path == "" {
			host, path = h, "$request_uri"
		}
		if h, ok := strings.CutSuffix(host, "$uri"); ok && path == "" {
			host, path = h, "$request_uri"
		}
		if name, port, ok := strings.Cut(host, ":"); ok {
			n, err := strconv.Atoi(port)
			if err != nil {
				return refuse("its port is none")
			}
			host, x.Port = name, n
		}
		if host != "$host" && host != "$http_host" && host != "$server_name" {
			x.Host = host
		}
		rest = path
	}
	switch {
	case rest == "$request_uri" || rest == "$uri" || rest == "$uri$is_args$args":
	case rest == "" && to != "":
		x.Path = "/"
	default:
		if x.Path, _, _ = strings.Cut(rest, "?"); strings.Contains(rest, "?") {
			f.note(f.name, d.line, d.String(), "a redirect keeps the client's query", "")
		}
	}
	if strings.Contains(x.Path+x.Host+x.Scheme, "$") {
		return refuse("of variables a redirect knows $scheme, $host and $request_uri alone")
	}
	if *x == (Redirect{Status: status}) {
		return refuse("it leads to itself")
	}
	r.Filters = append(r.Filters, Filter{Redirect: x})
	return true
}

var groupRef = regexp.MustCompile(`\$([0-9])`)

// rewrite reads a rewrite that stays within the edge. nginx replaces the whole path where an expression matches anywhere.
func (f *nginxFile) rewrite(d *directive, r *Route) bool {
	if len(d.args) < 2 {
		f.note(f.name, d.line, d.String(), "it has no replacement", "")
		return false
	}
	to := d.args[1]
	if path, _, has := strings.Cut(to, "?"); has {
		if to != path+"?" {
			f.note(f.name, d.line, d.String(), "a rewrite here leaves the query alone", "")
		}
		to = path
	}
	if named := strings.Contains(groupRef.ReplaceAllString(to, ""), "$"); named {
		f.note(f.name, d.line, d.String(), "there are no variables", "write a program")
		return false
	}
	expr := anywhere(d.args[0])
	if _, err := wholeRegex("rewrite", expr); err != nil {
		f.note(f.name, d.line, d.String(), err.Error(), "expressions here know no lookahead and no backreferences (RE2)")
		return false
	}
	r.Filters = append(r.Filters, Filter{Rewrite: &Rewrite{Regex: "^(?:" + expr + ")$", To: groupRef.ReplaceAllString(to, "$${$1}")}})
	return true
}

// pass reads proxy_pass.
func (f *nginxFile) pass(d *directive, r *Route, l *directive) {
	if len(d.args) != 1 || strings.Contains(d.args[0], "$") {
		f.note(f.name, d.line, d.String(), "there are no variables", "write a route for each backend")
		return
	}
	scheme, rest, ok := strings.Cut(d.args[0], "://")
	if !ok {
		scheme, rest = "grpc", d.args[0]
	}
	host, uri := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		host, uri = rest[:i], rest[i:]
	}
	port := "80"
	switch scheme {
	case "http":
	case "grpc":
		r.Protocol = "h2c"
	case "https", "grpcs":
		port = "443"
		f.note(f.name, d.line, d.String(), "how a service is spoken to is said where it registers", "register it with its secure port and name it as vip; an addr is asked without TLS")
	default:
		f.note(f.name, d.line, d.String(), "the edge speaks HTTP alone", "")
		return
	}
	if strings.HasPrefix(rest, "unix:") {
		f.note(f.name, d.line, d.String(), "there are no sockets of files", "have the service listen on a port")
		return
	}
	if up, ok := f.upstreams[host]; ok {
		r.Backends = f.upstream(&up, port)
	} else {
		if !strings.Contains(host, ":") || strings.HasSuffix(host, "]") {
			host += ":" + port
		}
		r.Backends = []Backend{{Addr: host}}
		f.checked(d, r)
	}
	if uri == "" || slices.ContainsFunc(r.Filters, func(x Filter) bool { return x.Rewrite != nil }) {
		return
	}
	p := r.Match.Path
	switch {
	case strings.ContainsAny(uri, "?#"):
		f.note(f.name, d.line, d.String(), "a query cannot be put in front of the client's", "")
	case p.Exact != "":
		r.Filters = append(r.Filters, Filter{Rewrite: &Rewrite{Path: uri}})
	case p.Prefix != "":
		if strings.HasSuffix(p.Prefix, "/") && !strings.HasSuffix(uri, "/") && p.Prefix != "/" {
			f.note(f.name, d.line, d.String(), fmt.Sprintf("in nginx %sx becomes %sx; here %s/x", p.Prefix, uri, uri), "")
		}
		if strings.Trim(uri, "/") == strings.Trim(p.Prefix, "/") {
			return
		}
		r.Filters = append(r.Filters, Filter{Rewrite: &Rewrite{Prefix: &uri}})
	default:
		f.note(f.name, d.line, d.String(), "where an expression matched there is no prefix to replace", "add a rewrite")
	}
}

// checked drops a backend that is no address.
func (f *nginxFile) checked(d *directive, r *Route) {
	if !address(r.Backends[0].Addr) {
		f.note(f.name, d.line, d.String(), "it is no host and port", "")
		r.Backends = nil
	}
}

// upstream makes backends of an upstream block: its servers, under its name.
func (f *nginxFile) upstream(u *directive, port string) (list []Backend) {
	name := f.free(u.args[0])
	sticky := ""
	f = &nginxFile{importer: f.importer, name: u.file} // notes are about the file it stands in
	for _, d := range u.block {
		switch d.name {
		case "server":
			if len(d.args) == 0 {
				continue
			}
			b := Backend{VIP: strings.ReplaceAll(name, ":", "-"), Addr: d.args[0], Weight: 1}
			if !strings.Contains(b.Addr, ":") || strings.HasSuffix(b.Addr, "]") {
				b.Addr += ":" + port
			}
			down := false
			for _, a := range d.args[1:] {
				key, v, _ := strings.Cut(a, "=")
				switch key {
				case "weight":
					if n, err := strconv.Atoi(v); err == nil && n >= 0 {
						b.Weight = n
					}
				case "down":
					down = true
				case "backup":
					down = true
					f.noteOnce(d.line, d.String(), "there are no backups that wait; instances that fail are left out by themselves", "add it as a backend")
				case "max_fails", "fail_timeout":
					f.noteOnce(d.line, d.String(), "instances that fail are left out by themselves", "")
				default:
					f.noteOnce(d.line, d.String(), key+" has no counterpart", "")
				}
			}
			if down {
				continue
			}
			if !address(b.Addr) {
				f.noteOnce(d.line, d.String(), "it is no host and port", "have the service listen on a port")
				continue
			}
			list = append(list, b)
		case "ip_hash":
			sticky = "client"
		case "hash", "sticky":
			sticky = f.hash(&d)
		default:
			if !slices.Contains(granted, d.name) {
				f.noteOnce(d.line, d.String(), cmp.Or(whyOf(d.name), "an upstream's balancing has no such word here"), "")
			}
		}
	}
	if len(list) > 0 && len(list) > 1 {
		list[0].Sticky = sticky
	}
	if len(list) > 0 {
		f.noteOnce(u.line, u.String(), "its servers are addresses now, each with its share, and are not checked", "register the service, and name it as vip alone: instances then come, go and are balanced")
	}
	return list
}

func whyOf(name string) string {
	for _, e := range elsewhere {
		if e.name == name {
			return e.why
		}
	}
	return ""
}

// noteOnce notes a line that several routes may meet.
func (f *nginxFile) noteOnce(line int, what, why, do string) {
	if n := (Note{f.name, line, what, why, do}); !slices.Contains(f.out.Notes, n) {
		f.out.Notes = append(f.out.Notes, n)
	}
}

// hash returns the key of an upstream's hash.
func (f *nginxFile) hash(d *directive) string {
	if len(d.args) > 0 {
		for prefix, kind := range map[string]string{"$cookie_": "cookie:", "$arg_": "query:", "$http_": "header:"} {
			if name, ok := strings.CutPrefix(d.args[0], prefix); ok && fieldName(name) {
				if kind == "header:" {
					name = strings.ReplaceAll(name, "_", "-")
				}
				return kind + name
			}
		}
		if d.args[0] == "$remote_addr" || d.args[0] == "$binary_remote_addr" {
			return "client"
		}
	}
	f.noteOnce(d.line, d.String(), "clients stick by user, client, header, cookie or query", "")
	return ""
}

// headers reads what a location sets and hides.
func (f *nginxFile) headers(r *Route, scope [][]directive) {
	request, response := &Headers{}, &Headers{}
	put := func(to *map[string]string, name, value string) {
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[name] = value
	}
	if len(r.Backends) > 0 {
		for _, d := range effective(scope, "proxy_set_header") {
			if len(d.args) != 2 {
				f.noteOnce(d.line, d.String(), "it wants a name and a value", "")
				continue
			}
			name, value := d.args[0], d.args[1]
			lower := strings.ToLower(name)
			switch {
			case lower == "host" && (value == "$host" || value == "$http_host" || value == "$host:$server_port"),
				slices.Contains([]string{"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-request-id", "upgrade", "connection", "accept-encoding"}, lower):
				// the edge does so
			case lower == "x-real-ip":
				f.noteOnce(d.line, d.String(), "the edge tells the client's address in X-Forwarded-For", "")
			case lower == "host" && !strings.Contains(value, "$"):
				r.Filters = append(r.Filters, Filter{Rewrite: &Rewrite{Host: value}})
			case strings.Contains(value, "$"):
				f.noteOnce(d.line, d.String(), "there are no variables", "write a program")
			case slices.ContainsFunc(ours, func(o string) bool { return strings.EqualFold(o, name) }):
				f.noteOnce(d.line, d.String(), "the edge alone writes that field", "")
			case value == "":
				request.Remove = append(request.Remove, name)
			default:
				put(&request.Set, name, value)
			}
		}
		for _, d := range effective(scope, "proxy_hide_header") {
			response.Remove = append(response.Remove, d.args...)
		}
	}
	for _, d := range effective(scope, "add_header") {
		switch {
		case len(d.args) < 2:
			f.noteOnce(d.line, d.String(), "it wants a name and a value", "")
		case strings.Contains(d.args[1], "$"):
			f.noteOnce(d.line, d.String(), "there are no variables", "write a program")
		default:
			put(&response.Add, d.args[0], d.args[1])
		}
	}
	if request.Set != nil || request.Remove != nil {
		r.Filters = append(r.Filters, Filter{RequestHeaders: request})
	}
	if response.Add != nil || response.Remove != nil {
		r.Filters = append(r.Filters, Filter{ResponseHeaders: response})
	}
}

// limits reads how long, how much and how often.
func (f *nginxFile) limits(r *Route, scope [][]directive, answered bool) {
	for _, d := range effective(scope, "client_max_body_size") {
		if len(d.args) == 1 {
			if n, err := bytesOf(d.args[0]); err == nil {
				r.MaxBody = n
				continue
			}
		}
		f.noteOnce(d.line, d.String(), "it is no size", "")
	}
	if answered {
		return
	}
	for _, d := range effective(scope, "proxy_read_timeout") {
		t, err := nginxTime(strings.Join(d.args, ""))
		if err != nil || t <= 0 || t > time.Hour {
			f.noteOnce(d.line, d.String(), "a request may take up to an hour", "")
			continue
		}
		r.Timeouts.Request = t.String()
	}
	for _, d := range effective(scope, "proxy_next_upstream") {
		r.Retry = &Retry{}
		for _, a := range d.args {
			switch {
			case a == "off":
				zero := 0
				r.Retry.Max = &zero
			case a == "non_idempotent":
				r.Retry.Unsafe = true
			case strings.HasPrefix(a, "http_"):
				if n, err := strconv.Atoi(a[5:]); err == nil && n >= 400 && n <= 599 {
					r.Retry.Statuses = append(r.Retry.Statuses, n)
				}
			}
		}
	}
	for _, d := range effective(scope, "proxy_next_upstream_tries") {
		if len(d.args) != 1 {
			continue
		}
		if n, err := strconv.Atoi(d.args[0]); err == nil && n > 0 {
			if r.Retry == nil {
				r.Retry = &Retry{}
			}
			tries := min(n-1, 10)
			r.Retry.Max = &tries
		}
	}
}

// nginxTime reads 30, 30s, 500ms, 2m or 1h30m.
func nginxTime(s string) (time.Duration, error) {
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		if n > math.MaxInt32 {
			return 0, errors.New("out of range")
		}
		return time.Duration(n * float64(time.Second)), nil
	}
	return time.ParseDuration(s)
}
