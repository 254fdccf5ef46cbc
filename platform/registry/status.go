package registry

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
)

// Status is what an operator looks at first: who this registry is and what it holds.
type Status struct {
	Self      string                 `json:"self" doc:"this registry's own instance id"`
	Location  roadbed.Location       `json:"location"`
	Since     time.Time              `json:"since" doc:"when this process began to know anybody"`
	Warming   bool                   `json:"warming" doc:"it has just started, and may not have heard of everybody yet"`
	Apps      int                    `json:"apps"`
	Instances int                    `json:"instances" doc:"registered, of any status"`
	Statuses  map[roadbed.Status]int `json:"statuses" doc:"instances by status"`
	Overrides int                    `json:"overrides" doc:"decisions of operators in force"`

	Preservation Silence `json:"preservation"`
	Peers        []Peer  `json:"peers" doc:"registries that are told what clients tell this one, by URL"`

	Regions []RemoteRegion `json:"regions" doc:"other regions that this one follows, by name"`
}

// RemoteRegion is another region, of which readers see what this one lacks.
type RemoteRegion struct {
	Name      string  `json:"name"`
	URL       string  `json:"url"`
	Ready     bool    `json:"ready" doc:"it has told what it has"`
	Instances int     `json:"instances" doc:"that it told of"`
	Age       float64 `json:"age" doc:"seconds since it last told, or since the start if it never did"`
}

// Peer is another registry that is told what clients tell this one.
type Peer struct {
	URL       string  `json:"url"`
	Tried     bool    `json:"tried" doc:"there was an exchange with it"`
	Reachable bool    `json:"reachable" doc:"the last exchange with it worked"`
	Native    bool    `json:"native" doc:"it is one of our kind, with which a connection is open"`
	Waiting   int     `json:"waiting" doc:"instances of which it does not know the newest yet"`
	Lag       float64 `json:"lag" doc:"seconds for which the oldest of these has been waiting"`
}

// Status returns what the registry holds now.
func (r *Registry) Status() Status {
	sn := r.s.current(r.c.Location.Region)
	st := Status{
		Self: r.c.Self, Location: r.c.Location, Since: r.s.epoch.UTC(), Warming: sn.warming,
		Apps: len(sn.views), Instances: sn.count, Statuses: map[roadbed.Status]int{}, Preservation: r.Silence(), Peers: r.peers.status(), Regions: r.regions.status(),
	}
	r.s.mu.RLock()
	defer r.s.mu.RUnlock()
	for i, n := range r.s.byStatus {
		if n > 0 {
			st.Statuses[status(i).word()] = n
		}
	}
	st.Overrides = len(r.s.overrides)
	return st
}

// Lease is one registered instance as an operator looks at it: what it says of itself, what counts, and how long it
// may be silent.
type Lease struct {
	ID         string           `json:"id"`
	App        string           `json:"app" doc:"lower case"`
	Group      string           `json:"group,omitempty"`
	Location   roadbed.Location `json:"location"`
	Address    string           `json:"address"`
	Says       roadbed.Status   `json:"says" doc:"what the instance last said of itself"`
	Status     roadbed.Status   `json:"status" doc:"what counts"`
	Override   roadbed.Status   `json:"override,omitempty" doc:"what an operator decided, if anything"`
	Registered time.Time        `json:"registered"`
	Up         time.Time        `json:"up,omitzero" doc:"when it was first UP"`
	Renewed    time.Time        `json:"renewed" doc:"when it was last heard"`
	Interval   int              `json:"interval" doc:"seconds between the renewals it promises"`
	Duration   int              `json:"duration" doc:"seconds without a renewal after which its lease ends"`
}

// Leases lists the registered instances in which every word of search occurs, by app and id, at most limit of them
// unless that is 0; and how many more there are. Words are looked for in id, app, group, zone, address and the statuses,
// in any letter case.
func (r *Registry) Leases(search string, limit int) (leases []Lease, more int) {
	words := strings.Fields(strings.ToLower(search))
	leases = []Lease{}
	for _, v := range r.s.current(r.c.Location.Region).views {
		from := len(leases)
		for _, x := range v.recs {
			l := x.rec.lease(v.region)
			text := strings.ToLower(strings.Join([]string{l.ID, l.App, l.Group, l.Location.Zone, l.Address, string(l.Status), string(l.Override)}, "\n"))
			if slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) }) {
				continue
			}
			leases = append(leases, l)
		}
		slices.SortFunc(leases[from:], func(a, b Lease) int { return strings.Compare(a.ID, b.ID) })
		if limit > 0 && len(leases) > limit {
			more += len(leases) - limit
			leases = leases[:limit]
		}
	}
	r.s.date(leases)
	return leases, more
}

// lease is the record as an operator looks at it, without what its lease says.
func (r *record) lease(region string) Lease {
	i := r.instance(region)
	l := Lease{
		ID: r.id, App: i.App, Group: r.asg, Location: i.Location, Address: net.JoinHostPort(i.Host, strconv.Itoa(i.Port)),
		Says: r.own.word(), Status: r.status.word(), Up: i.Since,
		Registered: time.UnixMilli(r.registered).UTC(), Interval: int(r.renewal), Duration: int(r.duration),
	}
	if r.override != unknown {
		l.Override = r.override.word()
	}
	return l
}

// date says when the instances of ls were last heard. Snapshots do not: they may be half a minute old in that.
func (s *state) date(ls []Lease) {
	now, wall := s.now(), time.Now().UTC()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i, l := range ls {
		if e := s.find(key{upper(l.App), l.ID}); e != nil {
			ls[i].Renewed = wall.Add(time.Duration(e.lease.renewed.Load() - now))
		}
	}
}

type leasesIn struct {
	Search string `query:"q" doc:"only instances in which each of these words occurs: in id, app, group, zone, address or status"`
	Limit  int    `query:"limit" minimum:"1" maximum:"10000" default:"1000" doc:"at most so many"`
}

type leasesOut struct {
	Body struct {
		Leases []Lease `json:"leases"`
		More   int     `json:"more" doc:"how many more there are"`
	}
}

type statusOut struct{ Body Status }

type overrideIn struct {
	App  string `path:"app"`
	ID   string `path:"id"`
	Body struct {
		Status roadbed.Status `json:"status" enum:"UP,DOWN,STARTING,OUT_OF_SERVICE" doc:"what shall count, whatever the instance says"`
		Sticky bool           `json:"sticky,omitempty" doc:"also for a day after the instance is cancelled, should it come back"`
	}
}

type instanceIn struct {
	App string `path:"app"`
	ID  string `path:"id"`
}

// mountStatus adds to s what operators look at and decide.
func (r *Registry) mountStatus(s *api.Surface) {
	huma.Register(s.API, huma.Operation{
		OperationID: "get-registry-status", Method: "GET", Path: "/api/v1/registry/status",
		Summary: "Show the registry", Description: "Who this registry is and what it holds.",
	}, func(context.Context, *struct{}) (*statusOut, error) {
		return &statusOut{r.Status()}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "list-leases", Method: "GET", Path: "/api/v1/registry/leases", Summary: "List leases",
		Description: "Registered instances with what they say of themselves, what counts, and when they were last heard; ordered by app and id.",
	}, func(_ context.Context, in *leasesIn) (*leasesOut, error) {
		out := &leasesOut{}
		out.Body.Leases, out.Body.More = r.Leases(in.Search, in.Limit)
		return out, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "override-status", Method: "PUT", Path: "/api/v1/registry/instances/{app}/{id}/status", DefaultStatus: http.StatusNoContent,
		Summary: "Override an instance's status", Description: "What an operator decides counts until it is cleared, whatever the instance says of itself. OUT_OF_SERVICE takes it out of traffic.",
	}, func(ctx context.Context, in *overrideIn) (*struct{}, error) {
		if in.Body.Sticky {
			return nil, r.StickyOverride(ctx, in.App, in.ID, in.Body.Status)
		}
		return nil, r.Override(ctx, in.App, in.ID, in.Body.Status)
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "clear-override", Method: "DELETE", Path: "/api/v1/registry/instances/{app}/{id}/status", DefaultStatus: http.StatusNoContent,
		Summary: "Clear an override", Description: "The instance's own word counts again.",
	}, func(ctx context.Context, in *instanceIn) (*struct{}, error) {
		return nil, r.ClearOverride(ctx, in.App, in.ID)
	})
}
