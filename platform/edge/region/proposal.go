package region

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// ProposalPrefix is what the properties that hold proposals of evacuation begin with; the region's name follows.
const ProposalPrefix = "edge.regions.proposal."

// AutoProperty says whether what is proposed is done at once. No region can be called so.
const AutoProperty = Prefix + auto

const auto = "auto"

// RegionProposal is why a region should be evacuated, and to where. Package platform/region makes it, for all edges together.
type RegionProposal struct {
	State    ProposalState  `json:"state" enum:"OPEN,REFUSED,EXPIRED,ACTED"`
	At       time.Time      `json:"at" doc:"when it was made"`
	Good     float64        `json:"good" doc:"good answers a second to the region's users, while it was made"`
	Expected float64        `json:"expected" doc:"as many were expected"`
	Sigma    float64        `json:"sigma" doc:"standard deviation of that; three of them below is a reason"`
	Baseline string         `json:"baseline" doc:"what was expected comes of: the same time last week, or the last hour"`
	Seconds  int            `json:"seconds,omitempty" doc:"for how long it was so; 60 if left out"`
	To       map[string]int `json:"to" doc:"where its users would go"`
}

// ProposalState is what has become of a proposal.
type ProposalState string

// The states. All but the first keep another proposal from being made until the region has been well for a minute, or for as long as
// edge.regions.judge.for says.
const (
	Open    ProposalState = "OPEN"
	Refused ProposalState = "REFUSED" // somebody has said no
	Expired ProposalState = "EXPIRED" // nobody has said anything within an hour
	Acted   ProposalState = "ACTED"   // it was done at once, as the property edge.region.auto says
)

// Why says in a sentence what a proposal is made for.
func (p *RegionProposal) Why() string {
	span := "a minute"
	if s := p.Seconds; s > 60 && s%60 == 0 {
		span = fmt.Sprintf("%d minutes", s/60)
	} else if s != 0 && s != 60 {
		span = fmt.Sprintf("%d seconds", s)
	}
	return fmt.Sprintf("for %s good answers were at %.1f a second or about that, three standard deviations (of %.1f) below the %.1f that %s lets expect", span, p.Good, p.Sigma, p.Expected, p.Baseline)
}

// Text returns p as its property holds it.
func (p *RegionProposal) Text() string {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // whoever makes one uses numbers
	}
	return string(b)
}

// ParseProposal reads a proposal; nil if text is none.
func ParseProposal(text string) *RegionProposal {
	p := new(RegionProposal)
	if json.Unmarshal([]byte(text), p) != nil || p.State == "" {
		return nil
	}
	return p
}

// SetProposals has the view tell of proposals, by the names of their properties.
func (r *Regions) SetProposals(all map[string]string) {
	next := map[string]*RegionProposal{}
	for key, text := range all {
		if p := ParseProposal(text); p != nil {
			next[strings.TrimPrefix(key, ProposalPrefix)] = p
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.proposed = next
}

// Documents are regions by name, as properties hold them.
type Documents map[string]*RegionDocument

// ParseAll reads the documents among properties, but for those with mistakes.
func ParseAll(props map[string]string) Documents {
	all := Documents{}
	for key, text := range props {
		name, ok := strings.CutPrefix(key, Prefix)
		if !ok || name == auto {
			continue
		}
		if d, err := Parse(name, text); err == nil {
			all[name] = d
		}
	}
	return all
}

func (all Documents) picture() *picture {
	p := new(picture)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p.regions = append(p.regions, &region{name: name, doc: all[name]})
	}
	return p
}

// Share returns the percent of a region's users that are elsewhere at a time, if nothing has held them up.
func (d *RegionDocument) Share(at time.Time) float64 { return d.share(at, 0) }

// Goal returns the percent of a region's users that are elsewhere in the end.
func (d *RegionDocument) Goal() float64 { return d.goal() }

// Weights returns where the users of a region are to be sent by who leads them to regions, in whole percents that add up to 100,
// where so many percent are elsewhere. Regions that take nobody get nothing.
func (all Documents) Weights(name string, moved float64) map[string]int {
	d, p, sum := all[name], all.picture(), 0
	var to []string
	for _, t := range slices.Sorted(maps.Keys(d.To)) {
		if p.unfit(t, "") == "" {
			to = append(to, t)
			sum += d.To[t]
		}
	}
	away := int(math.Round(moved))
	if sum == 0 || away <= 0 {
		return map[string]int{name: whole}
	}
	out := map[string]int{}
	if away < whole {
		out[name] = whole - away
	}
	given, before := 0, 0
	for _, t := range to { // cut where the sum of the shares so far lies, so that nothing is lost to rounding
		given += d.To[t]
		if upTo := (away*given + sum/2) / sum; upTo > before {
			out[t] = upTo - before
			before = upTo
		}
	}
	return out
}

// Evacuation returns the document by which a region is evacuated: to where it says, as far as those regions can take users and are not
// ill, else evenly to all that can. It fails if there is none.
func (all Documents) Evacuation(name string, ill func(region string) bool, at time.Time, reason string) (*RegionDocument, error) {
	p := all.picture()
	can := func(t string) bool { return t != name && p.unfit(t, "") == "" && !ill(t) }
	d := *all[name]
	if len(d.To) == 0 || slices.ContainsFunc(slices.Collect(maps.Keys(d.To)), func(t string) bool { return !can(t) }) {
		var fit []string
		for _, g := range p.regions {
			if can(g.name) {
				fit = append(fit, g.name)
			}
		}
		if len(fit) == 0 {
			return nil, fmt.Errorf("no other region can take the users of %s, or those that could do badly themselves", name)
		}
		d.To = evenly(fit)
	}
	d.From, d.Since = d.Share(at), at.UTC().Truncate(time.Millisecond)
	d.State, d.Weight, d.Reason = Draining, nil, reason[:min(len(reason), maxReason)]
	return &d, d.validate(name)
}

// evenly returns regions with equal shares as far as 100 can be divided.
func evenly(names []string) map[string]int {
	to := map[string]int{}
	for i, n := range names {
		to[n] = whole / len(names)
		if i < whole%len(names) {
			to[n]++
		}
	}
	return to
}
