package route

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// The properties that hold routes and surgical rules. Documents of routes may have names: edge.routes.shop, edge.routes.api.
// A long one is packed; see [config.Pack].
const (
	RoutesProperty   = "edge.routes"
	SurgicalProperty = "edge.surgical."
)

// Control is the API over routes and surgical rules. They are properties, and written as such, with the ledger's entry,
// revisions, freezes and history that properties have. All of it is required.
type Control struct {
	Table   func() *Table
	Surgery func() *Surgery
	Config  func() Config // to check new documents with
	Reader  *Reader       // which who takes them into force reads them with, too

	// Written returns the properties as they are now, whether in force or not, what has become of the objects of the
	// Gateway API in those that are in force, and why the newest are not; empty if they are.
	Written func() (now Settings, objects []Object, refused string)

	// Store is the API that has the properties. It is asked in the name of who asks this one.
	Store api.Client
}

// Settings are the properties of [RoutesProperty] and below, and of [SurgicalProperty], by their full names. They do not
// change.
type Settings map[string]string

// With returns s with all in place of those whose names begin with prefix.
func (s Settings) With(prefix string, all map[string]string) Settings {
	n := maps.Clone(all)
	if n == nil {
		n = make(Settings)
	}
	for k, v := range s {
		if !strings.HasPrefix(k, prefix) {
			n[k] = v
		}
	}
	return n
}

// Texts returns the documents of routes, in the order of their names.
func (s Settings) Texts() (texts []Text) {
	for _, k := range slices.Sorted(maps.Keys(s)) {
		if k == RoutesProperty || strings.HasPrefix(k, RoutesProperty+".") {
			texts = append(texts, Text{k, s[k]})
		}
	}
	return texts
}

// Surgical returns the texts of surgical rules by their ids.
func (s Settings) Surgical() map[string]string {
	rules := make(map[string]string)
	for k, v := range s {
		if id, ok := strings.CutPrefix(k, SurgicalProperty); ok && id != "" {
			rules[id] = v
		}
	}
	return rules
}

// RoutesView is the answer of GET /api/v1/edge/routes.
type RoutesView struct {
	Routes    []Route        `json:"routes" doc:"in the order they are tried where that does not depend on the host; disabled ones last"`
	Apps      []string       `json:"apps" doc:"apps reachable under their own name"`
	Refused   string         `json:"refused,omitempty" doc:"why the newest documents are not in force"`
	Documents []DocumentView `json:"documents" doc:"properties that hold routes"`
	Objects   []Object       `json:"objects,omitempty" doc:"of the Gateway API, and their conditions"`
}

// DocumentView is one property that holds routes.
type DocumentView struct {
	Name   string `json:"name"`
	Bytes  int    `json:"bytes" doc:"of the property; of a long document, packed"`
	Routes int    `json:"routes" doc:"in force from it"`
}

// RoutesChange is the answer of PUT and DELETE /api/v1/edge/routes: what is different with the new document, or would be.
type RoutesChange struct {
	Document string   `json:"document" doc:"the property that holds it"`
	Rev      uint64   `json:"rev,omitempty" doc:"of the property now, for If-Match; absent after a dry run"`
	InForce  bool     `json:"inForce" doc:"this edge has taken it; false after a dry run, and if the edge has not heard of it within five seconds"`
	Refused  string   `json:"refused,omitempty" doc:"why this edge, which has heard of it, has not taken it: another document was written meanwhile"`
	Routes   int      `json:"routes" doc:"in all documents together"`
	Added    []string `json:"added,omitempty"`
	Changed  []string `json:"changed,omitempty"`
	Removed  []string `json:"removed,omitempty"`
	Objects  []Object `json:"objects,omitempty" doc:"of the Gateway API, and their conditions"`
	Notes    []Note   `json:"notes,omitempty" doc:"what of these could not be carried into routes"`
}

// SurgicalView is one surgical rule, in force or not.
type SurgicalView struct {
	Rule
	State string `json:"state" doc:"in force, over or refused"`
	Why   string `json:"why,omitempty" doc:"why it is refused"`
}

// Mount puts the API on s.
func (c *Control) Mount(s *api.Surface) {
	huma.Get(s.API, "/api/v1/edge/routes", func(context.Context, *struct{}) (*struct{ Body RoutesView }, error) {
		return &struct{ Body RoutesView }{c.view()}, nil
	})
	c.mountDocuments(s)
	huma.Register(s.API, huma.Operation{
		OperationID: "test-edge-routes", Method: http.MethodPost, Path: "/api/v1/edge/routes/test", MaxBodyBytes: maxBytes,
		Summary: "Find out what becomes of requests", Description: "The body has tests, JSON or YAML, as a list or under tests, or is {\"text\": tests}; if that is empty those of the documents in force are tried. Nobody is asked.",
	}, func(_ context.Context, in *struct{ RawBody []byte }) (*struct{ Body []Outcome }, error) {
		out, err := c.try(textOf(in.RawBody))
		if err != nil {
			return nil, api.Problem(http.StatusUnprocessableEntity, "%v", err)
		}
		return &struct{ Body []Outcome }{out}, nil
	})
	type explainIn struct {
		URL    string   `query:"url" required:"true" doc:"URL as a client would ask for it" example:"http://localhost:7000/hello/"`
		Method string   `query:"method" default:"GET"`
		Header []string `query:"header,explode" doc:"a field, as Name: value; may be repeated"`
		User   string   `query:"user" doc:"who asks"`
	}
	huma.Get(s.API, "/api/v1/edge/explain", func(_ context.Context, in *explainIn) (*struct{ Body Explanation }, error) {
		x, err := Asked(in.Method, in.URL, in.Header)
		if err != nil {
			return nil, api.Problem(http.StatusBadRequest, "%v", err)
		}
		x.User = in.User
		return &struct{ Body Explanation }{c.Table().Explain(x, c.Surgery())}, nil
	})
	huma.Get(s.API, "/api/v1/edge/surgical", func(context.Context, *struct{}) (*struct{ Body []SurgicalView }, error) {
		return &struct{ Body []SurgicalView }{c.surgical()}, nil
	})
	type ruleIn struct {
		ID      string `path:"id"`
		RawBody []byte
	}
	huma.Register(s.API, huma.Operation{
		OperationID: "check-edge-surgical", Method: http.MethodPost, Path: "/api/v1/edge/surgical/{id}/check",
		Summary: "Check a surgical rule", Description: "The body is the rule, JSON or YAML, or {\"text\": rule}. Nothing changes: to put it into force, set the property " + SurgicalProperty + "ID.",
	}, func(_ context.Context, in *ruleIn) (*struct{ Body Rule }, error) {
		if !filter.Plain(in.ID) {
			return nil, api.Problem(http.StatusUnprocessableEntity, "a surgical rule's id has letters, digits and -._ alone; got %q", in.ID)
		}
		s, wrong := NewSurgery(c.Config(), map[string]string{in.ID: textOf(in.RawBody)}, nil)
		if err := wrong[in.ID]; err != nil {
			return nil, api.Problem(http.StatusUnprocessableEntity, "%v", err)
		}
		if len(s.rules) == 0 {
			return nil, api.Problem(http.StatusUnprocessableEntity, "the time of rule %s is over; give it an until that is yet to come", in.ID)
		}
		return &struct{ Body Rule }{s.rules[0].spec}, nil
	})
}

// textOf returns the document in a body: the body itself, or the text of {"text": ...}.
func textOf(body []byte) string {
	var wrapped struct {
		Text *string `json:"text"`
	}
	if bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) && json.Unmarshal(body, &wrapped) == nil && wrapped.Text != nil {
		return *wrapped.Text
	}
	return string(body)
}

func (c *Control) view() RoutesView {
	t := c.Table()
	now, objects, refused := c.Written()
	v := RoutesView{Routes: t.Routes(), Apps: t.Apps(), Refused: refused, Documents: []DocumentView{}, Objects: objects}
	texts := now.Texts()
	for _, d := range texts {
		n := 0
		for i := range v.Routes {
			if v.Routes[i].document == d.Name {
				n++
			}
		}
		v.Documents = append(v.Documents, DocumentView{d.Name, len(d.Text), n})
	}
	return v
}

// try finds out what becomes of the requests of text, or of those of the documents if it has none.
func (c *Control) try(text string) ([]Outcome, error) {
	all, err := ParseGolden("tests", text)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 && strings.TrimSpace(text) != "" {
		return nil, errors.New("it has no tests; write a list of them, such as [{request: GET /cart/1, route: shop}]")
	}
	if len(all) == 0 {
		written, _, _ := c.Written()
		doc, err := c.Reader.ParseAll(written.Texts())
		if err != nil {
			return nil, err
		}
		all = doc.Tests
	}
	out, t := []Outcome{}, c.Table()
	for _, g := range all {
		out = append(out, t.Try(g))
	}
	return out, nil
}

func (c *Control) surgical() []SurgicalView {
	list := []SurgicalView{}
	inForce := c.Surgery().Rules()
	now, _, _ := c.Written()
	texts := now.Surgical()
	for _, id := range slices.Sorted(maps.Keys(texts)) {
		v := SurgicalView{State: "over"}
		rule, err := ParseRule(id, texts[id])
		if v.Rule = rule; v.Rule.ID == "" {
			v.Rule.ID = id
		}
		if err == nil && slices.ContainsFunc(inForce, func(r Rule) bool { return r.ID == id }) {
			v.State = "in force"
		}
		if err == nil && v.State != "in force" {
			_, wrong := NewSurgery(c.Config(), map[string]string{id: texts[id]}, nil)
			err = wrong[id]
		}
		if err != nil {
			v.State, v.Why = "refused", err.Error()
		}
		list = append(list, v)
	}
	return list
}

// Asked returns an exchange with the request that a client would make, for [Table.Explain]. Fields are "Name: value".
func Asked(method, target string, fields []string) (*filter.Exchange, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("%q cannot be asked for: %w", target, err)
	}
	if u.Scheme != "" && u.Host == "" || u.Opaque != "" {
		return nil, fmt.Errorf("%q has no host; write http://HOST/PATH, or a path", target)
	}
	if u.Host == "" && !strings.HasPrefix(u.Path, "/") {
		return nil, fmt.Errorf("%q is no path; write http://HOST/PATH, or /PATH", target)
	}
	u = (&url.URL{}).ResolveReference(u) // without dot segments
	x := &filter.Exchange{}
	q := &x.Request
	q.Method, q.Scheme, q.Host, q.Path, q.RawQuery, q.Proto = method, u.Scheme, u.Host, spelled(u.EscapedPath()), u.RawQuery, 11
	if q.Scheme == "" {
		q.Scheme = "http"
	}
	if q.Path == "" {
		q.Path = "/"
	}
	for _, f := range fields {
		name, value, ok := strings.Cut(f, ":")
		if value = strings.Trim(value, " \t"); !ok || !fieldName(name) || !fieldValue(value) {
			return nil, fmt.Errorf("header %q: write Name: value", f)
		}
		q.Header.Add(name, value)
	}
	return x, nil
}
