package route

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// decoder turns nodes into routes and notes what is wrong with them.
type decoder struct {
	name     string // of the document
	route    string // that is being read
	mistakes []error
	objects  []*node // of the Kubernetes Gateway API
}

func (d *decoder) mistake(line int, format string, args ...any) {
	if len(d.mistakes) < maxMistakes {
		d.mistakes = append(d.mistakes, &Mistake{d.name, line, d.route, fmt.Sprintf(format, args...)})
	}
}

// document reads a list of routes, a mapping with such a list, or nothing.
func (d *decoder) document(n *node, doc *Document) {
	if n.kind == mapping && (n.get("routes") != nil || n.get("tests") != nil) {
		routes := &node{kind: null}
		d.fields(n, "the document", field{"routes", func(v *node) { routes = v }},
			field{"tests", func(v *node) {
				d.each(v, "tests", func(v *node) { doc.Tests = append(doc.Tests, d.readGolden(v)) })
			}})
		n = routes
	}
	if n.kind == null {
		return
	}
	if isObject(n) {
		d.objects = append(d.objects, n)
		return
	}
	if n.kind != list {
		d.mistake(n.line, "it is no list of routes; write [{id: ..., match: ..., backends: ...}]")
		return
	}
	for _, item := range n.items {
		if len(d.mistakes) >= maxMistakes {
			return
		}
		if isObject(item) {
			d.objects = append(d.objects, item)
			continue
		}
		doc.Routes = append(doc.Routes, d.readRoute(item))
	}
}

func (d *decoder) readRoute(n *node) Route {
	r := Route{document: d.name, line: n.line}
	d.route = ""
	if id := n.get("id"); id != nil && id.kind != list && id.kind != mapping {
		d.route = id.text
	}
	before := len(d.mistakes)
	d.fields(n, "a route",
		d.text("id", &r.ID),
		field{"match", func(v *node) { d.readMatch(v, &r.Match) }},
		field{"priority", func(v *node) { r.Priority = uint8(d.integer(v, "priority", 0, 100)) }},
		field{"filters", func(v *node) { d.each(v, "filters", func(v *node) { r.Filters = append(r.Filters, d.readFilter(v)) }) }},
		field{"backends", func(v *node) {
			d.each(v, "backends", func(v *node) { r.Backends = append(r.Backends, d.readBackend(v)) })
		}},
		field{"timeouts", func(v *node) {
			d.fields(v, "timeouts", d.text("request", &r.Timeouts.Request), d.text("attempt", &r.Timeouts.Attempt))
		}},
		field{"retry", func(v *node) { r.Retry = d.readRetry(v) }},
		d.text("affinity", &r.Affinity),
		d.flag("hedge", &r.Hedge),
		field{"maxBody", func(v *node) { r.MaxBody = d.size(v, "maxBody") }},
		d.text("requestBuffering", &r.Buffering),
		d.text("protocol", &r.Protocol),
		field{"upgrades", func(v *node) { r.Upgrades = new(bool); d.flag("upgrades", r.Upgrades).read(v) }},
		field{"mirror", func(v *node) { r.Mirror = d.readMirror(v) }},
		d.flag("disabled", &r.Disabled),
		field{"created", func(v *node) { r.Created = d.time(v, "created") }},
	)
	if len(d.mistakes) == before {
		if err := r.check(); err != nil {
			d.mistake(r.line, "%v", err)
		}
	}
	d.route = ""
	return r
}

func (d *decoder) readMatch(n *node, m *Match) {
	d.fields(n, "match",
		d.texts("hosts", &m.Hosts),
		field{"path", func(v *node) {
			d.fields(v, "path", d.text("exact", &m.Path.Exact), d.text("prefix", &m.Path.Prefix), d.text("regex", &m.Path.Regex))
			m.Path.Exact, m.Path.Prefix = spelled(m.Path.Exact), spelled(m.Path.Prefix)
		}},
		d.texts("methods", &m.Methods),
		d.values("headers", &m.Headers),
		d.values("query", &m.Query),
		d.values("cookies", &m.Cookies),
		d.text("scheme", &m.Scheme),
		d.text("when", &m.When),
	)
}

func (d *decoder) values(key string, to *[]Value) field {
	return field{key, func(n *node) {
		d.each(n, key, func(n *node) {
			var v Value
			d.fields(n, "one of "+key,
				d.text("name", &v.Name),
				field{"exact", func(n *node) { v.Exact = new(string); d.text("exact", v.Exact).read(n) }},
				d.text("regex", &v.Regex),
				field{"present", func(n *node) { v.Present = new(bool); d.flag("present", v.Present).read(n) }})
			*to = append(*to, v)
		})
	}}
}

func (d *decoder) readBackend(n *node) (b Backend) {
	d.fields(n, "a backend",
		d.text("vip", &b.VIP),
		d.text("addr", &b.Addr),
		field{"status", func(v *node) { b.Status = d.integer(v, "status", 400, 599) }},
		field{"weight", func(v *node) { b.Weight = d.integer(v, "weight", -1<<31, 1<<31-1) }},
		d.text("sticky", &b.Sticky),
		field{"filters", func(v *node) {
			d.each(v, "filters", func(v *node) {
				f := d.readFilter(v)
				f.line = 0 // where a backend's stand makes no difference
				b.Filters = append(b.Filters, f)
			})
		}})
	return b
}

func (d *decoder) readRetry(n *node) *Retry {
	r := &Retry{}
	if b := n.get("budget"); b != nil {
		d.mistake(b.line, "retry.budget: a budget is shared by all requests to an app; set the property ipc.command.APP.retryBudget.percent")
		return r
	}
	d.fields(n, "retry",
		field{"max", func(v *node) { m := d.integer(v, "retry.max", 0, 10); r.Max = &m }},
		field{"statuses", func(v *node) {
			d.each(v, "retry.statuses", func(v *node) { r.Statuses = append(r.Statuses, d.integer(v, "retry.statuses", 400, 599)) })
		}},
		d.texts("methods", &r.Methods),
		d.flag("unsafe", &r.Unsafe))
	return r
}

func (d *decoder) readMirror(n *node) *Mirror {
	m := &Mirror{}
	d.fields(n, "mirror", d.text("vip", &m.VIP), field{"percent", func(v *node) { p := d.float(v, "percent"); m.Percent = &p }})
	return m
}

// plugs are the keys of filters that other packages make.
var plugs = []string{"cors", "rateLimit", "auth", "queue"}

func (d *decoder) readFilter(n *node) (f Filter) {
	f.line = n.line
	if len(n.keys) > 1 {
		d.mistake(n.line, "a filter is one of %s; write %s as entries of their own", strings.Join(n.keys, ", "), strings.Join(n.keys, " and "))
		return f
	}
	known := []field{
		{"stripPrefix", func(v *node) { f.StripPrefix = d.integer(v, "stripPrefix", -1<<31, 1<<31-1) }},
		{"rewrite", func(v *node) {
			f.Rewrite = &Rewrite{}
			d.fields(v, "rewrite", d.text("host", &f.Rewrite.Host), d.text("path", &f.Rewrite.Path), d.textOrNone("prefix", &f.Rewrite.Prefix),
				d.text("regex", &f.Rewrite.Regex), d.text("to", &f.Rewrite.To))
		}},
		{"requestHeaders", func(v *node) { f.RequestHeaders = d.readHeaders(v, "requestHeaders") }},
		{"responseHeaders", func(v *node) { f.ResponseHeaders = d.readHeaders(v, "responseHeaders") }},
		{"redirect", func(v *node) {
			f.Redirect = &Redirect{}
			d.fields(v, "redirect", d.text("scheme", &f.Redirect.Scheme), d.text("host", &f.Redirect.Host),
				field{"port", func(v *node) { f.Redirect.Port = d.integer(v, "redirect.port", 1, 65535) }},
				d.text("path", &f.Redirect.Path), d.textOrNone("prefix", &f.Redirect.Prefix),
				field{"status", func(v *node) { f.Redirect.Status = d.integer(v, "redirect.status", 301, 308) }})
		}},
		{"answer", func(v *node) {
			f.Answer = &Answer{}
			d.fields(v, "answer", field{"status", func(v *node) { f.Answer.Status = d.integer(v, "answer.status", 200, 599) }},
				d.text("body", &f.Answer.Body), d.textMap("headers", &f.Answer.Headers))
		}},
		{"mirror", func(v *node) { f.Mirror = d.readMirror(v) }},
		d.text("program", &f.Program),
	}
	for _, p := range plugs {
		known = append(known, field{p, func(v *node) {
			raw, err := v.raw()
			if err != nil {
				d.mistake(v.line, "%s: %v", p, err)
			}
			f.Plug, f.With = p, raw
		}})
	}
	d.fields(n, "a filter", known...)
	return f
}

func (d *decoder) readHeaders(n *node, what string) *Headers {
	h := &Headers{}
	d.fields(n, what, d.textMap("set", &h.Set), d.textMap("add", &h.Add), d.texts("remove", &h.Remove))
	return h
}

// field is a key that a mapping may have, and what to do with its value.
type field struct {
	key  string
	read func(*node)
}

// fields reads a mapping. A key that it does not know is a mistake, with the one that may have been meant.
func (d *decoder) fields(n *node, what string, known ...field) {
	if n.kind != mapping {
		d.mistake(n.line, "%s: got %s, want a mapping", what, kindWords[n.kind])
		return
	}
	for i, key := range n.keys {
		at := slices.IndexFunc(known, func(f field) bool { return f.key == key })
		if at < 0 {
			var keys []string
			for _, f := range known {
				keys = append(keys, f.key)
			}
			d.mistake(n.items[i].line, "%s has no %q; %s", what, key, suggest(key, keys))
			continue
		}
		if n.items[i].kind != null { // as if it were left out
			known[at].read(n.items[i])
		}
	}
}

// each reads a list.
func (d *decoder) each(n *node, what string, read func(*node)) {
	if n.kind != list {
		d.mistake(n.line, "%s: got %s, want a list", what, kindWords[n.kind])
		return
	}
	if len(n.items) > maxKeys {
		d.mistake(n.line, "%s has %d entries; at most %d are allowed", what, len(n.items), maxKeys)
		return
	}
	for _, item := range n.items {
		read(item)
	}
}

// text reads text; a number or a truth stands for how it is written.
func (d *decoder) text(key string, to *string) field {
	return field{key, func(n *node) {
		if n.kind == list || n.kind == mapping {
			d.mistake(n.line, "%s: got %s, want text", key, kindWords[n.kind])
			return
		}
		*to = n.text
	}}
}

func (d *decoder) textOrNone(key string, to **string) field {
	return field{key, func(n *node) { *to = new(string); d.text(key, *to).read(n) }}
}

func (d *decoder) texts(key string, to *[]string) field {
	return field{key, func(n *node) {
		d.each(n, key, func(n *node) {
			var s string
			d.text("one of "+key, &s).read(n)
			*to = append(*to, s)
		})
	}}
}

func (d *decoder) textMap(key string, to *map[string]string) field {
	return field{key, func(n *node) {
		if n.kind != mapping {
			d.mistake(n.line, "%s: got %s, want a mapping of names to values", key, kindWords[n.kind])
			return
		}
		if len(n.keys) == 0 {
			return // as if it were not there, so that both are the same route
		}
		*to = make(map[string]string, len(n.keys))
		for i, k := range n.keys {
			var s string
			d.text(key+"."+k, &s).read(n.items[i])
			(*to)[k] = s
		}
	}}
}

func (d *decoder) flag(key string, to *bool) field {
	return field{key, func(n *node) {
		if n.kind != boolean {
			d.mistake(n.line, "%s: got %s, want true or false", key, cmp.Or(n.text, kindWords[n.kind]))
			return
		}
		*to = n.text == "true"
	}}
}

func (d *decoder) integer(n *node, what string, low, high int) int {
	i, err := strconv.Atoi(n.text)
	if n.kind != number || err != nil || i < low || i > high {
		d.mistake(n.line, "%s: got %s, want a whole number from %d to %d", what, cmp.Or(n.text, kindWords[n.kind]), low, high)
		return 0
	}
	return i
}

func (d *decoder) float(n *node, what string) float64 {
	f, err := strconv.ParseFloat(n.text, 64)
	if n.kind != number || err != nil {
		d.mistake(n.line, "%s: got %s, want a number", what, cmp.Or(n.text, kindWords[n.kind]))
	}
	return f
}

// size reads a number of bytes, with a unit or without.
func (d *decoder) size(n *node, what string) int64 {
	b, err := bytesOf(n.text)
	if err != nil || n.kind != number && n.kind != text {
		d.mistake(n.line, "%s: got %s, want a number of bytes, such as 1048576, 512KiB or 10MiB", what, cmp.Or(n.text, kindWords[n.kind]))
	}
	return b
}

func bytesOf(s string) (int64, error) {
	digits := strings.TrimRight(s, "kKmMgGiIbB")
	i, err := strconv.ParseInt(digits, 10, 64)
	shift := 0
	switch strings.ToLower(s[len(digits):]) {
	case "", "b":
	case "k", "kb", "ki", "kib":
		shift = 10
	case "m", "mb", "mi", "mib":
		shift = 20
	case "g", "gb", "gi", "gib":
		shift = 30
	default:
		err = strconv.ErrSyntax
	}
	if err == nil && (i < 0 || i > 1<<(62-shift)) {
		err = errors.New("out of range")
	}
	return i << shift, err
}

func (d *decoder) time(n *node, what string) time.Time {
	t, err := time.Parse(time.RFC3339, n.text)
	if err != nil || t.IsZero() {
		d.mistake(n.line, "%s: got %s, want a time such as 2026-01-31T10:00:00Z", what, cmp.Or(n.text, kindWords[n.kind]))
		return time.Time{}
	}
	return t
}

// suggest says which of the known words was meant, or what they all are.
func suggest(got string, known []string) string {
	best, least := "", 3
	for _, k := range known {
		n := distance(strings.ToLower(got), strings.ToLower(k))
		if strings.EqualFold(got+"s", k) || strings.EqualFold(got, k+"s") {
			n = 0
		}
		if n < least {
			best, least = k, n
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "there are " + strings.Join(known, ", ")
}

// distance counts the letters to change, add or take out to make b of a. Source: Levenshtein.
func distance(a, b string) int {
	if len(a) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
