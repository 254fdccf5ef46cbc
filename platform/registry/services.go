package registry

import (
	"context"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
)

// Service is one application as the platform's API shows it.
type Service struct {
	Name        string               `json:"name" doc:"lower case"`
	Instances   int                  `json:"instances" doc:"registered, of any status"`
	Up          int                  `json:"up" doc:"taking traffic"`
	Zones       map[string]ZoneCount `json:"zones"`
	Criticality roadbed.Criticality  `json:"criticality" doc:"the highest that one of its instances says of itself"`
}

// ZoneCount is how many instances of a service are in one zone.
type ZoneCount struct {
	Up    int `json:"up"`
	Total int `json:"total"`
}

// Services lists the registered applications by name.
func (r *Registry) Services() []Service {
	sn := r.s.current(r.c.Location.Region)
	list := make([]Service, 0, len(sn.views))
	for _, v := range sn.views {
		s := Service{Name: strings.ToLower(v.name), Instances: len(v.recs), Zones: map[string]ZoneCount{}, Criticality: roadbed.Bulk}
		for _, x := range v.recs {
			z := s.Zones[x.rec.zone()]
			z.Total++
			if x.rec.status == up {
				s.Up++
				z.Up++
			}
			s.Zones[x.rec.zone()] = z
			c, err := roadbed.ParseCriticality(get(x.rec.meta, "criticality"))
			if err != nil {
				c = roadbed.Critical // what it is nobody can tell
			}
			s.Criticality = min(s.Criticality, c)
		}
		list = append(list, s)
	}
	return list
}

// Instances lists the registered instances of app, in any letter case, or of all when it is empty; ordered by app and
// id.
func (r *Registry) Instances(app string) []roadbed.Instance {
	sn := r.s.current(r.c.Location.Region)
	list := []roadbed.Instance{}
	for _, v := range sn.views {
		if app != "" && v.name != upper(app) {
			continue
		}
		from := len(list)
		for _, x := range v.recs {
			list = append(list, x.rec.instance(v.region))
		}
		slices.SortFunc(list[from:], func(a, b roadbed.Instance) int { return strings.Compare(a.ID, b.ID) })
	}
	return list
}

type servicesOut struct{ Body []Service }

type instancesIn struct {
	App string `query:"app" doc:"only this application's"`
}

type instancesOut struct{ Body []roadbed.Instance }

// Mount adds the platform's own view of the registry to s.
func (r *Registry) Mount(s *api.Surface) {
	r.mountStatus(s)
	r.mountSticky(s)
	r.mountEviction(s)
	huma.Register(s.API, huma.Operation{
		OperationID: "list-services", Method: "GET", Path: "/api/v1/services", Summary: "List services",
		Description: "What is registered, by application.",
	}, func(context.Context, *struct{}) (*servicesOut, error) {
		return &servicesOut{r.Services()}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "list-registered-instances", Method: "GET", Path: "/api/v1/registry/instances",
		Summary: "List registered instances", Description: "What the registry knows of every instance, ordered by app and id.",
	}, func(_ context.Context, in *instancesIn) (*instancesOut, error) {
		return &instancesOut{r.Instances(in.App)}, nil
	})
}
