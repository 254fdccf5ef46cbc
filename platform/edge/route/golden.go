package route

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Golden is a request and what must become of it, under tests in a document. Routes by which one does not come out as it says
// are not taken into force. What it does not say may be anything.
type Golden struct {
	Request string   `json:"request" doc:"a method, or GET, and a URL or path, such as POST http://shop.example.com/cart?x=1"`
	Headers []string `json:"headers,omitempty" doc:"each as Name: value"`
	User    string   `json:"user,omitempty" doc:"who asks"`
	Route   string   `json:"route,omitempty" doc:"id of the route that must take it; none: no route and no app may"`
	Backend string   `json:"backend,omitempty" doc:"app, or host:port, that may answer"`
	Path    string   `json:"path,omitempty" doc:"that the backend is asked for"`
	Status  int      `json:"status,omitempty" doc:"that the edge answers itself"`

	document string
	line     int
}

// noRoute is the route of a request that none takes.
const noRoute = "none"

// check returns what is wrong with g that can be told without routes; nil if nothing.
func (g *Golden) check() error {
	if _, err := g.asked(); err != nil {
		return err
	}
	switch {
	case g.Route == "" && g.Backend == "" && g.Path == "" && g.Status == 0:
		return errors.New("say what must become of it: route, backend, path or status")
	case g.Route == noRoute && (g.Backend != "" || g.Path != ""):
		return errors.New("where no route takes it there is no backend, nor a path to ask it for")
	case g.Status != 0 && g.Backend != "":
		return errors.New("either the edge answers with a status of its own, or a backend does")
	}
	return nil
}

// asked returns an exchange with the request.
func (g *Golden) asked() (*filter.Exchange, error) {
	method, target, has := strings.Cut(strings.TrimSpace(g.Request), " ")
	if !has {
		method, target = http.MethodGet, method
	}
	target = strings.TrimSpace(target)
	switch {
	case target == "":
		return nil, errors.New("it has no request; write one such as GET /cart/1")
	case !filter.Token(method):
		return nil, fmt.Errorf("request %q: write a method and a URL, such as GET /cart/1", g.Request)
	}
	x, err := Asked(method, target, g.Headers)
	if err != nil {
		return nil, err
	}
	x.User = g.User
	return x, nil
}

// Outcome is what has become of a request that was to come out in a certain way.
type Outcome struct {
	Golden
	OK  bool   `json:"ok"`
	Got string `json:"got" doc:"what became of it, in words"`
	Why string `json:"why,omitempty" doc:"what is not as it must be"`
}

// Try finds out what becomes of a request by the routes of t, without surgical rules. Nobody is asked.
func (t *Table) Try(g Golden) Outcome {
	o := Outcome{Golden: g}
	x, err := g.asked()
	if err != nil {
		o.Why = err.Error()
		return o
	}
	e := t.Explain(x, nil)
	status := 0
	switch {
	case x.Plan == nil:
		e.Route, status = noRoute, http.StatusNotFound
	case e.Endpoint != "" && slices.Contains([]string{"StaticResponse", "Redirect"}, x.Plan.Endpoint.Name):
		if err := x.Plan.Endpoint.Apply(x); err == nil {
			status = x.Response.Status
		}
	}
	got := "route " + e.Route
	switch {
	case status != 0:
		got += fmt.Sprintf(", answered %d", status)
	case len(e.Backends) > 0:
		got += fmt.Sprintf(", %s asked for %s", strings.Join(e.Backends, " or "), e.Path)
	case e.Endpoint != "":
		got += ", answered by " + e.Endpoint
	}
	o.Got = got
	var wrong []string
	if g.Route != "" && g.Route != e.Route {
		wrong = append(wrong, "route "+g.Route)
	}
	if g.Backend != "" && (status != 0 || !slices.Contains(e.Backends, g.Backend)) {
		wrong = append(wrong, "backend "+g.Backend)
	}
	if g.Path != "" && (status != 0 || g.Path != e.Path) {
		wrong = append(wrong, "path "+g.Path)
	}
	if g.Status != 0 && g.Status != status {
		wrong = append(wrong, fmt.Sprintf("status %d", g.Status))
	}
	if o.OK = len(wrong) == 0; !o.OK {
		o.Why = fmt.Sprintf("%s must come to %s; it comes to %s", g.Request, strings.Join(wrong, ", "), got)
	}
	return o
}

// Hold returns nil if all requests come out as they must by the routes of t; else one [Mistake] or several joined.
func (t *Table) Hold(all []Golden) error {
	var mistakes []error
	for _, g := range all {
		if o := t.Try(g); !o.OK {
			if mistakes = append(mistakes, &Mistake{Document: g.document, Line: g.line, Reason: "test: " + o.Why}); len(mistakes) == maxMistakes {
				break
			}
		}
	}
	return errors.Join(mistakes...)
}

// readGolden reads one of a document's tests.
func (d *decoder) readGolden(n *node) (g Golden) {
	g.document, g.line = d.name, n.line
	before := len(d.mistakes)
	d.fields(n, "a test",
		d.text("request", &g.Request), d.texts("headers", &g.Headers), d.text("user", &g.User),
		d.text("route", &g.Route), d.text("backend", &g.Backend), d.text("path", &g.Path),
		field{"status", func(v *node) { g.Status = d.integer(v, "status", 100, 599) }})
	if len(d.mistakes) == before {
		if err := g.check(); err != nil {
			d.mistake(n.line, "test: %v", err)
		}
	}
	return g
}

// ParseGolden reads tests by themselves: a list of them, or a mapping with such a list under tests.
func ParseGolden(name, text string) ([]Golden, error) {
	trees, err := readTrees(text)
	if err != nil {
		return nil, unreadable(name, err)
	}
	d := &decoder{name: name}
	var all []Golden
	for _, n := range trees {
		if n.kind == mapping {
			if n = n.get("tests"); n == nil {
				continue
			}
		}
		d.each(n, "tests", func(v *node) { all = append(all, d.readGolden(v)) })
	}
	if len(all) > maxGolden {
		d.mistake(1, "there are %d tests; at most %d are allowed", len(all), maxGolden)
	}
	return all, errors.Join(d.mistakes...)
}

// maxGolden is how many tests there may be in all documents together.
const maxGolden = 2000
