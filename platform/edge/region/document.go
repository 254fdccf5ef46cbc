package region

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/roadbed/roadbed/ipc/balance"
)

// Prefix is what the properties that hold regions begin with; the region's name follows.
const Prefix = "edge.region."

// State is what a region does for the users whose home it is.
type State string

// The states.
const (
	Serving   State = "SERVING"   // it serves them, but for the share that its weight leaves to others
	Draining  State = "DRAINING"  // they go elsewhere, more and more of them
	Evacuated State = "EVACUATED" // they are served elsewhere, all at once
)

// Bounds of a document.
const (
	MaxRamp     = 24 * time.Hour
	DefaultRamp = time.Minute
	maxDocument = 64 << 10
	maxEdges    = 1000
	maxTargets  = 32
	maxReason   = 1024
	maxIdentity = 2048
	whole       = 100 // percent
)

// RegionDocument is one region as the property edge.region.NAME holds it, in JSON.
//
// From From percent of its users at Since on, the share that is served elsewhere moves to what State and Weight say, at an
// even pace, for RampSeconds. Every edge works it out from the same four numbers, so that all agree, and one that is started
// in between goes on where the others are.
type RegionDocument struct {
	Region      string         `json:"region,omitempty" doc:"its name, as the property's"`
	State       State          `json:"state" enum:"SERVING,DRAINING,EVACUATED"`
	Weight      *int           `json:"weight,omitempty" doc:"percent of its users that it keeps while SERVING; 100 if left out" minimum:"0" maximum:"100"`
	To          map[string]int `json:"to,omitempty" doc:"the regions that the others go to, and their shares, which add up to 100"`
	RampSeconds *int           `json:"rampSeconds,omitempty" doc:"how long moving users takes; 60 if left out. EVACUATED takes none" minimum:"0" maximum:"86400"`
	Since       time.Time      `json:"since,omitzero" doc:"when that began"`
	From        float64        `json:"from,omitempty" doc:"percent of its users that were elsewhere then" minimum:"0" maximum:"100"`
	Strict      bool           `json:"strict,omitempty" doc:"who is to go elsewhere and cannot is refused with 503, and not served here"`
	Edges       []string       `json:"edges,omitempty" doc:"URLs of its edges, such as http://10.1.0.7:7000"`
	Identity    string         `json:"identity,omitempty" doc:"whom the certificates of its edges are for: a SPIFFE id, else the common name; the names in edges if left out" maxLength:"2048"`
	Headroom    int            `json:"headroom,omitempty" doc:"how many requests of other regions each of its edges takes at once; 0: any number" minimum:"0"`
	Reason      string         `json:"reason,omitempty" doc:"why it is as it is" maxLength:"1024"`
}

// Parse reads the document of the region of that name. It fails, with all that is wrong, if the document cannot be meant.
func Parse(name, text string) (*RegionDocument, error) {
	if len(text) > maxDocument {
		return nil, fmt.Errorf("the document has %d bytes; at most %d are allowed", len(text), maxDocument)
	}
	d := new(RegionDocument)
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(d); err != nil {
		return nil, fmt.Errorf(`it is no region: %w; write {"state": "SERVING", "edges": ["http://10.1.0.7:7000"]}, or use roadbed region`, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the document; write one")
	}
	return d, d.validate(name)
}

// validName reports whether a region can have that name: letters, digits, - and _, up to 63.
func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return s != "" && len(s) <= 63 && s != auto
}

func (d *RegionDocument) validate(name string) error {
	var all []error
	wrong := func(is bool, format string, args ...any) {
		if is {
			all = append(all, fmt.Errorf(format, args...))
		}
	}
	wrong(!validName(name), "a region's name has letters, digits, - and _, up to 63 of them, and is not auto; got %q", name)
	wrong(d.Region != "" && d.Region != name, "region is %q, and the property's name says %q; leave it out", d.Region, name)
	wrong(d.State != Serving && d.State != Draining && d.State != Evacuated, "state %q: use SERVING, DRAINING or EVACUATED", d.State)
	wrong(d.Weight != nil && (*d.Weight < 0 || *d.Weight > whole), "weight %d: use 0 to 100 percent", d.weight())
	wrong(d.Weight != nil && *d.Weight != whole && d.State != Serving && d.State != "", "weight %d goes with SERVING; %s sends everybody elsewhere", d.weight(), d.State)
	wrong(d.Ramp() < 0 || d.Ramp() > MaxRamp, "rampSeconds %d: use 0 to 86400", int(d.Ramp()/time.Second))
	wrong(!(d.From >= 0 && d.From <= whole), "from %v: use 0 to 100 percent", d.From)
	wrong(d.Headroom < 0 || d.Headroom > math.MaxInt32, "headroom %d: use how many requests each edge takes at once; 0 is any number", d.Headroom)
	wrong(len(d.Reason) > maxReason, "reason has %d bytes; at most %d are allowed", len(d.Reason), maxReason)
	wrong(len(d.Identity) > maxIdentity, "identity has %d bytes; at most %d are allowed", len(d.Identity), maxIdentity)
	wrong(len(d.Edges) > maxEdges, "there are %d edges; at most %d are allowed", len(d.Edges), maxEdges)
	wrong(len(d.To) > maxTargets, "there are %d regions in to; at most %d are allowed", len(d.To), maxTargets)
	for i, e := range d.Edges {
		scheme, _, _ := strings.Cut(e, "://")
		servers, err := balance.ParseServers(e)
		wrong(scheme != "http" && scheme != "https" || err != nil || len(servers) != 1, "edge %q: write a URL such as http://10.1.0.7:7000", e)
		wrong(d.Identity != "" && scheme == "http", "edge %q shows no certificate, and so cannot be known as %s; use https, or leave identity out", e, d.Identity)
		wrong(slices.Contains(d.Edges[:i], e), "edge %q is there twice", e)
	}
	sum := 0
	for _, to := range slices.Sorted(maps.Keys(d.To)) {
		w := d.To[to]
		wrong(!validName(to), "to has %q, which is no region's name", to)
		wrong(to == name, "to has %s itself; name other regions", to)
		wrong(w < 1 || w > whole, "to has %d for %s; use 1 to 100 percent", w, to)
		sum += w
	}
	wrong(len(d.To) > 0 && sum != whole, "the shares in to add up to %d; they must to 100", sum)
	wrong(len(d.To) == 0 && (d.goal() > 0 || d.From > 0), "to is missing: say which regions its users go to, such as {\"west\": 100}")
	wrong(d.Since.IsZero() && d.Ramp() > 0 && d.State != Evacuated && d.goal() != d.From, "since is missing: when the change began, such as %s; roadbed region sets it", time.Unix(1_800_000_000, 0).UTC().Format(time.RFC3339))
	return errors.Join(all...)
}

func (d *RegionDocument) weight() int {
	if d.Weight == nil {
		return whole
	}
	return *d.Weight
}

// Ramp returns how long moving users takes, unless they move all at once: EVACUATED.
func (d *RegionDocument) Ramp() time.Duration {
	if d.RampSeconds == nil {
		return DefaultRamp
	}
	return time.Duration(*d.RampSeconds) * time.Second
}

// goal returns the percent of users that are elsewhere in the end.
func (d *RegionDocument) goal() float64 {
	if d.State == Serving {
		return float64(whole - d.weight())
	}
	return whole
}

// share returns the percent of users that are elsewhere at a time, lag being for how long the ramp stood still until then.
func (d *RegionDocument) share(at time.Time, lag time.Duration) float64 {
	goal, ramp := d.goal(), d.Ramp()
	if d.State == Evacuated || ramp <= 0 {
		return goal
	}
	f := float64(at.Sub(d.Since)-lag) / float64(ramp)
	return d.From + (goal-d.From)*min(1, max(0, f))
}

// same reports whether two documents say the same of who goes where when, so that a ramp goes on.
func (d *RegionDocument) same(o *RegionDocument) bool {
	return o != nil && d.State == o.State && d.weight() == o.weight() && d.Ramp() == o.Ramp() && d.Since.Equal(o.Since) && d.From == o.From
}

// Text returns d as the property holds it.
func (d *RegionDocument) Text() string {
	b, err := json.Marshal(d)
	if err != nil {
		panic(err) // strings and numbers; a From that is no number is refused
	}
	return string(b)
}
