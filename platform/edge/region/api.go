package region

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/roadbed/roadbed/platform/api"
)

// RegionsView is the answer of GET /api/v1/edge/regions: all regions as this edge knows them, and how it does with them.
type RegionsView struct {
	Region   string         `json:"region" doc:"that this edge is in"`
	Regions  []RegionView   `json:"regions" doc:"by name; none: there is one region, and nothing of this is in use"`
	Visitors RegionVisitors `json:"visitors" doc:"requests that other regions send here"`
	Kept     int64          `json:"kept" doc:"requests that were to go elsewhere and were not, since the edge began"`
	Problem  string         `json:"problem,omitempty" doc:"why no region can be reached, or not as it is meant"`
}

// RegionVisitors are requests of other regions.
type RegionVisitors struct {
	InFlight int64 `json:"inFlight"`
	Headroom int   `json:"headroom" doc:"how many may be in flight at this edge; 0: any number"`
	Taken    int64 `json:"taken" doc:"since the edge began"`
	Refused  int64 `json:"refused" doc:"for want of headroom, since the edge began"`
	Forged   int64 `json:"forged" doc:"requests whose hop was forged or too old, and that were taken as anybody's"`
}

// RegionView is one region.
type RegionView struct {
	Region   string          `json:"region"`
	Own      bool            `json:"own,omitempty" doc:"this edge is in it"`
	Document RegionDocument  `json:"document" doc:"that is in force"`
	Moved    float64         `json:"moved" doc:"percent of its users that this edge has served elsewhere now"`
	Goal     float64         `json:"goal" doc:"percent of its users that are elsewhere in the end"`
	Proposal *RegionProposal `json:"proposal,omitempty" doc:"to evacuate it, and what has become of that"`
	Paused   string          `json:"paused,omitempty" doc:"why its users stay where they are for now"`
	Since    *time.Time      `json:"pausedSince,omitempty"`
	Refused  string          `json:"refused,omitempty" doc:"why the newest document is not in force"`
	Without  []string        `json:"without,omitempty" doc:"regions in to that cannot be asked, and why"`
	Tunnel   *RegionTunnel   `json:"tunnel,omitempty" doc:"how this edge does with it; absent if it is in it"`
}

// RegionTunnel is how an edge does with the edges of another region.
type RegionTunnel struct {
	InFlight  int64  `json:"inFlight"`
	Requests  int64  `json:"requests" doc:"since the edge began"`
	Last      int    `json:"last" doc:"requests in the last ten seconds"`
	Failed    int    `json:"failed" doc:"of these, that had no answer, one of 500 or more, or were refused for want of headroom"`
	Shut      bool   `json:"shut" doc:"it has not answered, and is tried only now and then"`
	Reachable int    `json:"reachable" doc:"edges of it that may be asked now, of those listed; all, if none does"`
	Why       string `json:"why,omitempty" doc:"edges are not asked"`

	LastFailure string     `json:"lastFailure,omitempty" doc:"why the last request that had no answer had none"`
	FailedAt    *time.Time `json:"failedAt,omitempty" doc:"when that was"`
}

// View returns all regions as this edge knows them.
func (r *Regions) View() RegionsView {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := RegionsView{Region: r.own, Regions: []RegionView{}, Kept: r.kept.Count()}
	v.Visitors = RegionVisitors{InFlight: r.visitors.Load(), Taken: r.taken.Load(), Refused: r.turned.Load(), Forged: r.forged.Load()}
	if p := r.now.Load(); p != nil {
		v.Visitors.Headroom = p.headroom
		for _, g := range p.regions {
			v.Regions = append(v.Regions, r.view(p, g))
		}
		if r.key() == "" {
			v.Problem = noKey
		}
		for _, why := range []string{r.certs.problem(), r.mistrusted.Load().problem(time.Now())} {
			if why != "" {
				v.Problem = strings.TrimPrefix(v.Problem+"; "+why, "; ")
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.refused)) {
		if !slices.ContainsFunc(v.Regions, func(g RegionView) bool { return g.Region == name }) {
			v.Regions = append(v.Regions, RegionView{Region: name, Own: name == r.own, Refused: r.refused[name]})
		}
	}
	slices.SortFunc(v.Regions, func(a, b RegionView) int { return strings.Compare(a.Region, b.Region) })
	return v
}

const noKey = "there is no key to sign hops with; set edge.regions.key to the same 16 characters or more in all regions"

func (r *Regions) view(p *picture, g *region) RegionView {
	v := RegionView{Region: g.name, Own: g == p.own, Document: *g.doc, Moved: g.percent(), Goal: g.doc.goal(), Paused: g.ramp.why, Refused: r.refused[g.name], Proposal: r.proposed[g.name]}
	if v.Paused != "" {
		since := g.ramp.since
		v.Since = &since
	}
	for _, to := range slices.Sorted(maps.Keys(g.doc.To)) {
		if why := p.unfit(to, r.own); why != "" {
			v.Without = append(v.Without, to+" "+why)
		}
	}
	if t := g.tunnel; t != nil {
		v.Tunnel = &RegionTunnel{InFlight: t.inFlight.Load(), Requests: t.total.Load(), Shut: t.shut.Load() != 0}
		v.Tunnel.Last, v.Tunnel.Failed = t.tally.last()
		if f := t.failure.Load(); f != nil {
			v.Tunnel.LastFailure, v.Tunnel.FailedAt = f.why, &f.at
		}
		var why []string
		for _, c := range r.calls.Snapshot() {
			if c.Name != t.app || c.App == nil {
				continue
			}
			for _, e := range c.App.Endpoints {
				if e.Eligible {
					v.Tunnel.Reachable++
				} else {
					why = append(why, e.Addr+" "+e.Why)
				}
			}
		}
		if v.Tunnel.Requests == 0 {
			v.Tunnel.Reachable = len(g.doc.Edges)
		}
		v.Tunnel.Why = strings.Join(why, "; ")
	}
	return v
}

// percent returns the share of users that are elsewhere, to a hundredth.
func (g *region) percent() float64 {
	return math.Round(float64(g.share.Load())/buckets*whole*100) / 100
}

// find returns the region of that name, nil if there is none.
func (p *picture) find(name string) *region {
	if p != nil {
		for _, g := range p.regions {
			if g.name == name {
				return g
			}
		}
	}
	return nil
}

// twin returns a region whose edges are called as those of the region of that name would be, empty if there is none.
func (p *picture) twin(name string) string {
	if p != nil {
		for _, g := range p.regions {
			if appOf(g.name) == appOf(name) {
				return g.name
			}
		}
	}
	return ""
}

// unfit says why a region can take nobody's users; empty if it can. own is the region of who asks.
func (p *picture) unfit(name, own string) string {
	switch g := p.find(name); {
	case g == nil:
		return "is no region"
	case g.doc.State != Serving:
		return "is " + string(g.doc.State)
	case g.doc.weight() == 0:
		return "has the weight 0"
	case len(g.doc.Edges) == 0 && name != own:
		return "has no edges"
	}
	return ""
}

// RegionChange is what shall be different about a region. What is left out stays.
type RegionChange struct {
	State       State          `json:"state,omitempty" enum:"SERVING,DRAINING,EVACUATED"`
	Weight      *int           `json:"weight,omitempty" minimum:"0" maximum:"100" doc:"percent of its users that it keeps; 100 if a state is given and this is not"`
	To          map[string]int `json:"to,omitempty" doc:"where the others go, now or when it comes to that; all other regions that serve, evenly, if this is needed and was never said"`
	RampSeconds *int           `json:"rampSeconds,omitempty" minimum:"0" maximum:"86400"`
	Strict      *bool          `json:"strict,omitempty"`
	Edges       *[]string      `json:"edges,omitempty"`
	Identity    *string        `json:"identity,omitempty" maxLength:"2048"`
	Headroom    *int           `json:"headroom,omitempty" minimum:"0"`
	Reason      *string        `json:"reason,omitempty"`
}

// RegionChanged is what a change would make of a region.
type RegionChanged struct {
	Property string         `json:"property" doc:"that holds the region"`
	Text     string         `json:"text" doc:"what it is to be set to"`
	Document RegionDocument `json:"document" doc:"the same"`
	Moved    float64        `json:"moved" doc:"percent of its users that are elsewhere now"`
	Goal     float64        `json:"goal"`
	Notes    []string       `json:"notes,omitempty" doc:"what else follows"`
}

// Check returns what a change makes of the region of that name, or says why that cannot be. It changes nothing.
func (r *Regions) Check(name string, c RegionChange) (*RegionChanged, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.now.Load()
	was := p.find(name)
	if other := p.twin(name); was == nil && other != "" {
		return nil, twins(other)
	}
	d := RegionDocument{State: Serving}
	out := &RegionChanged{Property: Prefix + name}
	if was != nil {
		d, out.Moved = *was.doc, was.percent()
	}
	before := d
	d.Region = ""
	if c.State != "" {
		d.State, d.Weight = c.State, nil
	}
	set(&d.Weight, &c.Weight, c.Weight != nil)
	set(&d.RampSeconds, &c.RampSeconds, c.RampSeconds != nil)
	set(&d.To, &c.To, len(c.To) > 0)
	set(&d.Strict, c.Strict, c.Strict != nil)
	set(&d.Edges, c.Edges, c.Edges != nil)
	set(&d.Identity, c.Identity, c.Identity != nil)
	set(&d.Headroom, c.Headroom, c.Headroom != nil)
	set(&d.Reason, c.Reason, c.Reason != nil)
	if d.weight() == whole {
		d.Weight = nil
	}
	away := d.goal() > 0
	if away && len(d.To) == 0 {
		if d.To = r.evenly(p, name); len(d.To) == 0 {
			return nil, fmt.Errorf("%s is the only region that serves: its users would have nowhere to go; put another one first, with: roadbed region put NAME --edges URL", name)
		}
	}
	if was == nil || !d.same(&before) {
		d.From, d.Since = out.Moved, time.Now().UTC().Truncate(time.Millisecond)
		if d.goal() == d.From || d.Ramp() == 0 || d.State == Evacuated {
			d.From, d.Since = 0, time.Time{} // there is nothing to go through
		}
		if d.From == 0 && d.goal() == 0 {
			d.RampSeconds = nil
			if len(c.To) == 0 {
				d.To = nil
			}
		}
	}
	if err := d.validate(name); err != nil {
		return nil, err
	}
	if away && (!maps.Equal(d.To, before.To) || d.goal() > before.goal()) {
		if err := r.fit(p, name, &d); err != nil {
			return nil, err
		}
	}
	if err := r.spared(p, name, &d, out); err != nil {
		return nil, err
	}
	out.Document, out.Text, out.Goal = d, d.Text(), d.goal()
	return out, nil
}

func set[T any](to, from *T, given bool) {
	if given {
		*to = *from
	}
}

// evenly returns all other regions that serve, with equal shares as far as 100 can be divided.
func (r *Regions) evenly(p *picture, name string) map[string]int {
	if p == nil {
		return nil
	}
	var fit []string
	for _, g := range p.regions {
		if g.name != name && p.unfit(g.name, "") == "" {
			fit = append(fit, g.name)
		}
	}
	return evenly(fit)
}

// fit says why the regions in d.To cannot take users; nil if all can.
func (r *Regions) fit(p *picture, name string, d *RegionDocument) error {
	if r.key() == "" {
		return fmt.Errorf("%s", noKey)
	}
	for _, to := range slices.Sorted(maps.Keys(d.To)) {
		switch why := p.unfit(to, ""); why {
		case "":
		case "is no region":
			return fmt.Errorf("there is no region %s to send users to; %s", to, r.known(p))
		case "has no edges":
			return fmt.Errorf("the edges of %s are not known; say where they are with: roadbed region put %s --edges URL", to, to)
		default:
			return fmt.Errorf("%s %s and takes nobody's users; restore it first, or send those of %s elsewhere", to, why, name)
		}
	}
	return nil
}

// spared says whose users would have nowhere to go if d came into force; nil if nobody's.
func (r *Regions) spared(p *picture, name string, d *RegionDocument, out *RegionChanged) error {
	serves := d.State == Serving && d.weight() > 0 && len(d.Edges) > 0
	if p == nil || serves {
		return nil
	}
	for _, g := range p.regions {
		if g.name == name || g.doc.To[name] == 0 || g.doc.goal() == 0 {
			continue
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(g.doc.To)), func(to string) bool { return to != name && p.unfit(to, "") == "" }) {
			return fmt.Errorf("%s serves the users of %s, which would have nowhere to go; restore %s first, or send them elsewhere", name, g.name, g.name)
		}
		out.Notes = append(out.Notes, fmt.Sprintf("users of %s that are in %s go on to the others in its to", g.name, name))
	}
	return nil
}

// known says which regions there are.
func (r *Regions) known(p *picture) string {
	if p == nil {
		return "there are none yet; make one with: roadbed region put NAME --edges URL"
	}
	var names []string
	for _, g := range p.regions {
		names = append(names, g.name)
	}
	return "there are " + strings.Join(names, ", ")
}

// Mount puts the API on s. It shows and checks; regions are properties, and written as such, with the ledger's entry,
// freezes and history that properties have.
func (r *Regions) Mount(s *api.Surface) {
	huma.Register(s.API, huma.Operation{
		OperationID: "list-edge-regions", Method: http.MethodGet, Path: "/api/v1/edge/regions",
		Summary: "Regions as this edge knows them", Description: "What of each is in force, how many of its users this edge has served elsewhere by now, and how the way to it does.",
	}, func(context.Context, *struct{}) (*struct{ Body RegionsView }, error) {
		return &struct{ Body RegionsView }{r.View()}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "get-edge-region", Method: http.MethodGet, Path: "/api/v1/edge/regions/{region}", Summary: "One region as this edge knows it",
	}, func(_ context.Context, in *struct {
		Region string `path:"region"`
	}) (*struct{ Body RegionView }, error) {
		for _, g := range r.View().Regions {
			if g.Region == in.Region {
				return &struct{ Body RegionView }{g}, nil
			}
		}
		return nil, api.Problem(http.StatusNotFound, "there is no region %s; %s", in.Region, r.known(r.now.Load()))
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "check-edge-region", Method: http.MethodPost, Path: "/api/v1/edge/regions/{region}/check",
		Summary: "Say what a change makes of a region", Description: "Nothing changes: to put it into force, set the property of the answer to its text.",
	}, func(_ context.Context, in *struct {
		Region string `path:"region"`
		Body   RegionChange
	}) (*struct{ Body RegionChanged }, error) {
		out, err := r.Check(in.Region, in.Body)
		if err != nil {
			return nil, api.Problem(http.StatusUnprocessableEntity, "%v", err)
		}
		return &struct{ Body RegionChanged }{*out}, nil
	})
}
