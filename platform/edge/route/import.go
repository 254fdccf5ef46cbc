package route

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Imported is what was made of another system's files.
type Imported struct {
	Routes  []Route  `json:"routes"`
	Notes   []Note   `json:"notes,omitempty"`
	Objects []Object `json:"objects,omitempty"`
}

// Import turns files of another system into routes: nginx configurations, Zuul's properties (as such, or in Spring's YAML),
// or Gateway API documents. Each file is taken for what its name and text look like, unless from says nginx, zuul or
// gateway. Whatever could not be carried is in the notes. An error is a file that cannot be read at all.
func Import(files []Text, from string) (*Imported, error) {
	i := &importer{out: &Imported{Routes: []Route{}}, ids: make(map[string]bool), upstreams: make(map[string]directive)}
	var documents []Text
	var configurations []*nginxFile
	for _, f := range files {
		i.files = append(i.files, f.Name)
	}
	for _, f := range files {
		switch cmp.Or(from, looksLike(f)) {
		case "nginx":
			n, err := i.nginx(f)
			if err != nil {
				return nil, err
			}
			configurations = append(configurations, n)
		case "zuul":
			if err := i.zuul(f); err != nil {
				return nil, err
			}
		case "gateway":
			documents = append(documents, f)
		case "spring":
			return nil, fmt.Errorf("%s has routes of Spring Cloud Gateway, whose predicates and filters are code of its own, and are not read; write them as routes: Path, Host, Method, Header and Query are a match, StripPrefix, RewritePath and the like filters, lb://APP is a vip", f.Name)
		default:
			return nil, fmt.Errorf("%q is nothing that can be imported; use nginx, zuul or gateway", from)
		}
	}
	for _, n := range configurations { // once the upstreams of all are known
		n.finish()
	}
	if len(documents) > 0 {
		doc, err := ParseAll(documents)
		if err != nil {
			return nil, err
		}
		i.out.Notes = append(i.out.Notes, doc.Notes...)
		i.out.Objects = doc.Objects
		for _, o := range doc.Objects {
			for _, c := range o.Conditions {
				if c.Status == "False" && c.Reason != "UnsupportedKind" {
					i.note(o.from.name, o.Line, o.Kind+" "+o.Name, c.Reason+": "+c.Message, "")
				}
			}
		}
		for _, r := range doc.Routes {
			i.add(r)
		}
	}
	return i.out, nil
}

// looksLike says what a file is.
func looksLike(f Text) string {
	switch filepath.Ext(f.Name) {
	case ".conf", ".nginx":
		return "nginx"
	case ".properties":
		return "zuul"
	}
	if trees, err := readTrees(f.Text); err == nil {
		for _, t := range trees {
			if t.kind == mapping && slices.ContainsFunc(t.keys, func(k string) bool { return k == "zuul" || strings.HasPrefix(k, "zuul.") }) {
				return "zuul"
			}
			if t.get("spring").get("cloud").get("gateway") != nil {
				return "spring"
			}
			if t.kind == mapping && (isObject(t) || t.get("routes") != nil) || t.kind == list {
				return "gateway"
			}
		}
	}
	if ext := filepath.Ext(f.Name); ext == ".yaml" || ext == ".yml" || ext == ".json" {
		return "gateway"
	}
	if strings.Contains(f.Text, "zuul.") && !strings.Contains(f.Text, "{") {
		return "zuul"
	}
	return "nginx"
}

// importer collects what several files become.
type importer struct {
	out       *Imported
	ids       map[string]bool
	files     []string             // all that are imported
	upstreams map[string]directive // of all nginx configurations
}

func (i *importer) note(file string, line int, what, why, do string) {
	i.out.Notes = append(i.out.Notes, Note{file, line, what, why, do})
}

// add takes a route whose id is free, or made so. One that the edge would not take becomes a note.
func (i *importer) add(r Route) {
	r.ID = i.free(r.ID)
	if _, err := compile(&lenient, r); err != nil {
		i.note(r.document, r.line, "route "+r.ID, err.Error(), "write it by hand")
		return
	}
	i.ids[r.ID] = true
	i.out.Routes = append(i.out.Routes, r)
}

// lenient compiles a route to see whether it can be, whatever other packages contribute.
var lenient = Config{
	Predicate: func(string) (func(*filter.Exchange) bool, error) {
		return func(*filter.Exchange) bool { return true }, nil
	},
	Program: func(string) ([]*filter.Filter, error) { return nil, nil },
	Filters: map[string]func(json.RawMessage) ([]*filter.Filter, error){
		"cors": anything, "rateLimit": anything, "auth": anything, "queue": anything,
	},
}

func anything(json.RawMessage) ([]*filter.Filter, error) { return nil, nil }

// free returns id as a route may have it, with a number if it is taken.
func (i *importer) free(id string) string {
	id = strings.Trim(strings.Map(func(c rune) rune {
		if c < 0x80 && filter.Plain(string(c)) {
			return c
		}
		return '-'
	}, id), "-")
	id = cmp.Or(id, "route")
	id = id[:min(len(id), 200)]
	for n, base := 2, id; i.ids[id]; n++ {
		id = fmt.Sprintf("%s-%d", base, n)
	}
	return id
}
