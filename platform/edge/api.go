package edge

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/route"
)

// RoutesView is the answer of GET /api/v1/edge/routes.
type RoutesView struct {
	Routes  []route.Route `json:"routes" doc:"routes of the property edge.routes in the order of their precedence"`
	Apps    []string      `json:"apps" doc:"apps reachable under their own name"`
	Refused string        `json:"refused,omitempty" doc:"why the newest edge.routes is not in force"`
}

// Checked is the answer of POST /api/v1/edge/routes/check.
type Checked struct {
	Routes int    `json:"routes" doc:"how many there are"`
	Wrong  string `json:"wrong,omitempty" doc:"what is wrong with the document, by line; empty if it could be in force"`
}

// SurgeryView is the answer of GET /api/v1/edge/surgical.
type SurgeryView struct {
	Rules []route.Rule      `json:"rules" doc:"in the order they are tried"`
	Wrong map[string]string `json:"wrong,omitempty" doc:"why a rule is not in force, by id"`
}

// Mount puts the gateway's API on s.
func (g *Gateway) Mount(s *api.Surface) {
	g.access.Mount(s)
	g.mountStanding(s)
	type routesOut struct{ Body RoutesView }
	huma.Get(s.API, "/api/v1/edge/routes", func(context.Context, *struct{}) (*routesOut, error) {
		t := g.table.Load()
		g.mu.Lock()
		defer g.mu.Unlock()
		return &routesOut{Body: RoutesView{Routes: t.Routes(), Apps: t.Apps(), Refused: g.refused}}, nil
	})
	type checkIn struct {
		RawBody []byte `contentType:"text/plain" doc:"a document of routes, JSON or YAML"`
	}
	type checkOut struct{ Body Checked }
	huma.Post(s.API, "/api/v1/edge/routes/check", func(_ context.Context, in *checkIn) (*checkOut, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		_, routes, err := g.build(string(in.RawBody))
		out := &checkOut{Body: Checked{Routes: len(routes)}}
		if err != nil {
			out.Body.Wrong = err.Error()
		}
		return out, nil
	})
	huma.Get(s.API, "/api/v1/edge/surgical", func(context.Context, *struct{}) (*struct{ Body SurgeryView }, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		return &struct{ Body SurgeryView }{SurgeryView{Rules: g.surgery.Load().Rules(), Wrong: g.unfit}}, nil
	})
	huma.Get(s.API, "/api/v1/edge/faults", func(context.Context, *struct{}) (*struct{ Body []FaultCounts }, error) {
		return &struct{ Body []FaultCounts }{g.faults.Load().counted()}, nil
	})
	type explainIn struct {
		URL    string   `query:"url" required:"true" doc:"URL as a client would ask for it" example:"http://localhost:7000/hello/"`
		Method string   `query:"method" default:"GET"`
		Header []string `query:"header,explode" doc:"fields of the request, each as Name: value"`
	}
	type explainOut struct{ Body route.Explanation }
	huma.Get(s.API, "/api/v1/edge/explain", func(_ context.Context, in *explainIn) (*explainOut, error) {
		x, err := asked(in.Method, in.URL, in.Header)
		if err != nil {
			return nil, err
		}
		return &explainOut{Body: g.explain(x)}, nil
	})
}

// asked is the request that somebody wants explained.
func asked(method, rawURL string, fields []string) (*filter.Exchange, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" && !strings.HasPrefix(rawURL, "/") {
		return nil, api.Problem(http.StatusBadRequest, "%q cannot be asked for; write it as in http://localhost:7000/hello/", rawURL)
	}
	x := &filter.Exchange{Start: filter.Now(), Client: &filter.Client{}}
	x.Request.Method, x.Request.Host, x.Request.RawQuery, x.Request.Scheme, x.Request.Proto = method, u.Host, u.RawQuery, u.Scheme, 11
	if x.Request.Path = u.EscapedPath(); x.Request.Path == "" {
		x.Request.Path = "/"
	}
	for _, f := range fields {
		name, value, ok := strings.Cut(f, ":")
		if !ok || name == "" {
			return nil, api.Problem(http.StatusBadRequest, "%q is no field; write it as in Accept: text/html", f)
		}
		x.Request.Header.Add(name, strings.TrimSpace(value))
	}
	return x, nil
}

// explain says what becomes of x, and why.
func (g *Gateway) explain(x *filter.Exchange) route.Explanation {
	return g.table.Load().Explain(x, g.surgery.Load())
}
