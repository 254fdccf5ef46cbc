package route

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// pathChange is what the filters of a route make of a path, in this order.
type pathChange struct {
	strip   int
	whole   string
	from    string // the prefix that is replaced by to; a path without it stays
	to      string
	replace bool
	regex   *regexp.Regexp
}

// apply sets Path and Prefix of x. Only a prefix or an expression that is replaced costs memory, the exchange's own for a prefix.
func (c *pathChange) apply(x *filter.Exchange) {
	path := x.Request.Path
	if c.strip > 0 {
		x.Path = stripped(path, c.strip)
		x.Prefix = lost(path, x.Path)
		path = x.Path
	}
	switch {
	case c.whole != "":
		x.Path = c.whole
	case c.regex != nil:
		if to := c.regex.ReplaceAllString(path, c.to); fit(to) {
			x.Path = to
		}
	case c.replace:
		if rest, ok := strings.CutPrefix(path, c.from); ok {
			x.Path = joined(x, c.to, rest)
		}
	}
}

// fit reports whether a path that was put together can be asked for.
func fit(path string) bool {
	return strings.HasPrefix(path, "/") && !strings.ContainsFunc(path, func(c rune) bool { return c <= ' ' || c == 0x7f || c == '#' || c == '?' })
}

// joined returns to and the rest of a path, with one slash between them.
func joined(x *filter.Exchange, to, rest string) string {
	rest = strings.TrimPrefix(rest, "/")
	if to == "" && rest == "" {
		return "/"
	}
	var buf [512]byte
	b := append(buf[:0], to...)
	if rest != "" || to == "" {
		b = append(b, '/')
		b = append(b, rest...)
	}
	return x.Keep(b)
}

// stripped returns path without its n leading segments.
func stripped(path string, n int) string {
	for range n {
		i := strings.IndexByte(path[1:], '/')
		if i < 0 {
			return "/"
		}
		path = path[i+1:]
	}
	return path
}

// lost returns what stripped left out of path.
func lost(path, left string) string {
	return strings.TrimSuffix(strings.TrimSuffix(path, left), "/")
}

func (f *Filter) check(r *Route) error {
	prefixed := r.Match.Path.Prefix != "" || r.Match.Path == (Path{})
	switch {
	case f.StripPrefix < 0 || f.StripPrefix > maxSegments:
		return fmt.Errorf("stripPrefix %d: use 0 to %d", f.StripPrefix, maxSegments)
	case f.Rewrite != nil:
		w := f.Rewrite
		given := min(1, len(w.Path)) + min(1, len(w.Regex))
		if w.Prefix != nil {
			given++
		}
		switch {
		case given > 1:
			return fmt.Errorf("rewrite: give path, prefix or regex, one of them")
		case given == 0 && w.Host == "":
			return fmt.Errorf("rewrite: say what; host, path, prefix, or regex and to")
		case w.Path != "" && !fit(w.Path), w.Prefix != nil && *w.Prefix != "" && !fit(*w.Prefix):
			return fmt.Errorf("rewrite: a path starts with / and has no spaces, ? or #")
		case w.Prefix != nil && !prefixed:
			return fmt.Errorf("rewrite.prefix: the route matches no prefix that could be replaced")
		case w.To != "" && w.Regex == "":
			return fmt.Errorf("rewrite.to: say with regex what it replaces")
		case w.Host != "":
			if err := checkAuthority("rewrite.host", w.Host); err != nil {
				return err
			}
		}
	case f.Redirect != nil:
		d := f.Redirect
		switch {
		case !slices.Contains([]int{0, 301, 302, 303, 307, 308}, d.Status):
			return fmt.Errorf("redirect.status %d: use 301, 302, 303, 307 or 308", d.Status)
		case d.Path != "" && d.Prefix != nil:
			return fmt.Errorf("redirect: give path or prefix, not both")
		case d.Path != "" && !fit(d.Path), d.Prefix != nil && *d.Prefix != "" && !fit(*d.Prefix):
			return fmt.Errorf("redirect: a path starts with / and has no spaces, ? or #")
		case d.Prefix != nil && !prefixed:
			return fmt.Errorf("redirect.prefix: the route matches no prefix that could be replaced")
		case d.Scheme != "" && d.Scheme != "http" && d.Scheme != "https":
			return fmt.Errorf("redirect.scheme %q: use http or https", d.Scheme)
		case *d == Redirect{}:
			return fmt.Errorf("redirect: say where to; as it is, it leads to itself")
		case d.Port < 0 || d.Port > 65535:
			return fmt.Errorf("redirect.port %d: use 1 to 65535", d.Port)
		case d.Host != "":
			return checkHostOnly("redirect.host", d.Host)
		}
	case f.Answer != nil:
		a := f.Answer
		switch {
		case a.Status < 200 || a.Status > 599:
			return fmt.Errorf("answer.status %d: use 200 to 599", a.Status)
		case a.Body != "" && (a.Status == 204 || a.Status == 304):
			return fmt.Errorf("answer: %d has no body", a.Status)
		case len(a.Body) > 64<<10:
			return fmt.Errorf("answer.body has %d bytes; at most 65536 are allowed", len(a.Body))
		}
		return checkFields("answer.headers", a.Headers)
	case f.Mirror != nil:
		return f.Mirror.check()
	case f.RequestHeaders != nil:
		return f.RequestHeaders.check("requestHeaders")
	case f.ResponseHeaders != nil:
		return f.ResponseHeaders.check("responseHeaders")
	}
	return nil
}

// checkAuthority wants a name, and perhaps a port.
func checkAuthority(what, s string) error {
	if !vip(s) && !address(s) {
		return fmt.Errorf("%s %q: write a name, or name:port", what, s)
	}
	return nil
}

func checkHostOnly(what, s string) error {
	if !filter.Plain(s) {
		return fmt.Errorf("%s %q: write a name; a port goes under port", what, s)
	}
	return nil
}

// ours are fields that frame messages or belong to one connection; the edge alone writes them.
var ours = []string{"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade"}

func checkFields(what string, set map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(set)) {
		switch {
		case !fieldName(name):
			return fmt.Errorf("%s: %q is no field's name", what, name)
		case slices.ContainsFunc(ours, func(o string) bool { return strings.EqualFold(o, name) }):
			return fmt.Errorf("%s: %s is the edge's own; leave it out (a host is changed by rewrite)", what, name)
		case !fieldValue(set[name]):
			return fmt.Errorf("%s: the value of %s has control characters or spaces around it, or more than 16 KiB", what, name)
		}
	}
	return nil
}

func (h *Headers) check(what string) error {
	if err := checkFields(what+".set", h.Set); err != nil {
		return err
	}
	if err := checkFields(what+".add", h.Add); err != nil {
		return err
	}
	gone := make(map[string]string, len(h.Remove))
	for _, n := range h.Remove {
		gone[n] = ""
	}
	return checkFields(what+".remove", gone)
}

// filters makes what the filters of r's document say: of those that change the path or where to one [pathChange], of the
// others filters of the plan.
func (r *route) filters(c *Config) error {
	p := r.plan
	for i := range r.spec.Filters {
		f := &r.spec.Filters[i]
		var made []*filter.Filter
		var err error
		switch {
		case f.StripPrefix > 0:
			r.path.strip += f.StripPrefix
		case f.Rewrite != nil:
			err = r.rewrite(f.Rewrite)
		case f.RequestHeaders != nil || f.ResponseHeaders != nil:
			made = []*filter.Filter{f.headers()}
		case f.Redirect != nil:
			p.Endpoint = r.redirectTo(f.Redirect)
		case f.Answer != nil:
			p.Endpoint = answerWith(f.Answer)
		case f.Mirror != nil:
			p.Mirrors = append(p.Mirrors, filter.Mirror{App: f.Mirror.VIP, Percent: f.Mirror.share()})
		case f.Program != "":
			if c.Program == nil {
				return fmt.Errorf("program %s: this edge has no programs", f.Program)
			}
			made, err = c.Program(f.Program)
		case f.Plug != "":
			plug := c.Filters[f.Plug]
			if plug == nil {
				return fmt.Errorf("%s: this edge has no such filter; there are %s", f.Plug, strings.Join(slices.Sorted(maps.Keys(c.Filters)), ", "))
			}
			if made, err = plug(f.With); err != nil {
				err = fmt.Errorf("%s: %w", f.Plug, err)
			}
		}
		if err != nil {
			return err
		}
		if f.Plug == "cors" {
			r.shared = true
		}
		for _, m := range made {
			switch {
			case m.Kind == filter.Inbound && f.Plug == "cors": // before any that wants to know who asks, which preflights do not tell
				p.Inbound = slices.Insert(p.Inbound, 0, m)
			case m.Kind == filter.Inbound:
				p.Inbound = append(p.Inbound, m)
			case m.Kind == filter.Outbound:
				p.Outbound = append(p.Outbound, m)
			case len(r.spec.Backends) > 0 || p.Endpoint != nil:
				return fmt.Errorf("%s answers requests itself, and so does a backend or another filter; keep one", m.Name)
			default:
				p.Endpoint = m
			}
		}
	}
	return nil
}

func (r *route) rewrite(w *Rewrite) (err error) {
	if w.Host != "" {
		r.host = w.Host
	}
	if w.Host != "" && w.Path == "" && w.Prefix == nil && w.Regex == "" {
		return nil
	}
	if r.path.whole != "" || r.path.replace || r.path.regex != nil {
		return fmt.Errorf("rewrite: the path is rewritten twice; write one rewrite that does both")
	}
	switch {
	case w.Path != "":
		r.path.whole = w.Path
	case w.Prefix != nil:
		r.path.from, r.path.to, r.path.replace = strings.TrimSuffix(r.spec.Match.Path.Prefix, "/"), strings.TrimSuffix(*w.Prefix, "/"), true
		if r.path.strip > 0 {
			return fmt.Errorf("rewrite.prefix: the prefix is gone after stripPrefix; keep one of both")
		}
	case w.Regex != "":
		if len(w.Regex) > maxRegex {
			return fmt.Errorf("rewrite.regex has %d bytes; at most %d are allowed", len(w.Regex), maxRegex)
		}
		if r.path.regex, err = regexp.Compile(w.Regex); err != nil {
			return fmt.Errorf("rewrite.regex: %w", err)
		}
		r.path.to = w.To
	}
	return nil
}

// headers returns what changes fields as f says.
func (f *Filter) headers() *filter.Filter {
	if h := f.RequestHeaders; h != nil {
		return &filter.Filter{Name: "RouteRequestHeaders", Kind: filter.Inbound, Quick: true, Apply: h.on(func(x *filter.Exchange) *filter.Header { return &x.Request.Header })}
	}
	return &filter.Filter{Name: "RouteResponseHeaders", Kind: filter.Outbound, Quick: true, Always: true, Apply: f.ResponseHeaders.on(func(x *filter.Exchange) *filter.Header { return &x.Response.Header })}
}

// on returns what applies h to the header that of returns.
func (h *Headers) on(of func(*filter.Exchange) *filter.Header) func(*filter.Exchange) error {
	set, add := fieldsOf(h.Set), fieldsOf(h.Add)
	return func(x *filter.Exchange) error {
		to := of(x)
		for _, n := range h.Remove {
			to.Del(n)
		}
		for i := range set {
			to.Set(set[i].Name, set[i].Value)
		}
		for i := range add {
			to.Add(add[i].Name, add[i].Value)
		}
		return nil
	}
}

func fieldsOf(m map[string]string) []filter.Field {
	list := make([]filter.Field, 0, len(m))
	for _, n := range slices.Sorted(maps.Keys(m)) {
		list = append(list, filter.Field{Name: n, Value: m[n]})
	}
	return list
}

func answerWith(a *Answer) *filter.Filter {
	fields := fieldsOf(a.Headers)
	return &filter.Filter{Name: "StaticResponse", Kind: filter.Endpoint, Apply: func(x *filter.Exchange) error {
		x.Answer(a.Status, a.Body)
		for _, f := range fields {
			x.Response.Header.Set(f.Name, f.Value)
		}
		if a.Status >= 500 {
			x.SetCategory(filter.FailureLocal, "the route says so")
		}
		return nil
	}}
}

// redirectTo answers with where else the client shall ask.
func (r *route) redirectTo(d *Redirect) *filter.Filter {
	from := strings.TrimSuffix(r.spec.Match.Path.Prefix, "/")
	return &filter.Filter{Name: "Redirect", Kind: filter.Endpoint, Apply: func(x *filter.Exchange) error {
		scheme, host := x.Request.Scheme, x.Request.Host
		if scheme == "" {
			scheme = "http"
		}
		if d.Scheme != "" {
			scheme = d.Scheme
		}
		if d.Host != "" || d.Scheme != "" || d.Port != 0 {
			name, port := host, ""
			if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
				name, port = host[:i], host[i+1:]
			}
			if d.Host != "" {
				name = d.Host
			}
			switch { // as the Gateway API has it: a new scheme's own port, unless one is named
			case d.Port != 0:
				port = strconv.Itoa(d.Port)
			case d.Scheme != "":
				port = ""
			}
			if port == "" || scheme == "http" && port == "80" || scheme == "https" && port == "443" {
				host = name
			} else {
				host = name + ":" + port
			}
		}
		path := x.Request.Path
		switch {
		case d.Path != "":
			path = d.Path
		case d.Prefix != nil:
			if rest, ok := strings.CutPrefix(path, from); ok {
				path = joined(x, strings.TrimSuffix(*d.Prefix, "/"), rest)
			}
		}
		redirect(x, scheme+"://"+host+path, d.Status)
		return nil
	}}
}

// redirect answers with location and the request's query.
func redirect(x *filter.Exchange, location string, status int) {
	if status == 0 {
		status = http.StatusFound
	}
	if x.Request.RawQuery != "" {
		location += "?" + x.Request.RawQuery
	}
	x.Answer(status, "")
	x.Response.Header.Set("Location", location)
}

// addSlash sends /app to /app/.
var addSlash = &filter.Filter{Name: "Redirect", Kind: filter.Endpoint, Apply: func(x *filter.Exchange) error {
	redirect(x, x.Request.Path+"/", http.StatusPermanentRedirect)
	return nil
}}

// inSmall sends /APP/x to /app/x.
var inSmall = &filter.Filter{Name: "Redirect", Kind: filter.Endpoint, Apply: func(x *filter.Exchange) error {
	redirect(x, smallName(x.Request.Path), http.StatusPermanentRedirect)
	return nil
}}

// smallName is path with its first segment in small letters.
func smallName(path string) string {
	end := strings.IndexByte(path[1:], '/') + 1
	if end == 0 {
		end = len(path)
	}
	return strings.ToLower(path[:end]) + path[end:]
}
