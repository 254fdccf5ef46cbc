// Package roadbed holds the words of the platform: the few small types that every room, the SDK, the API, the CLI
// and the console speak. One word means one thing everywhere.
//
// A running copy of a service is an [Instance]. Instances of one immutable version in one region form a
// [ServerGroup], named by a [Moniker]; the versions of one app, stack and detail form a cluster. Where an instance
// runs is its [Location], whether it may take traffic its [Status], and how much its customers need it its
// [Criticality]. Whatever anybody alters is a [Change].
//
// The package imports only the standard library, so that anything may import it.
package roadbed

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Location says where something runs: a region, and a zone inside it whose failure is independent of the others.
type Location struct {
	Region string `json:"region"`
	Zone   string `json:"zone"`
}

// String returns "region/zone".
func (l Location) String() string { return l.Region + "/" + l.Zone }

// Status is the life of an instance as the registry tells it. Only UP instances get traffic.
type Status string

// The five statuses, spelled as Eureka spells them. An instance registers STARTING, becomes UP when its health
// check passes and DOWN when it fails; OUT_OF_SERVICE is an operator's decision; UNKNOWN is everything else.
const (
	Starting     Status = "STARTING"
	Up           Status = "UP"
	Down         Status = "DOWN"
	OutOfService Status = "OUT_OF_SERVICE"
	Unknown      Status = "UNKNOWN"
)

// ParseStatus reads a status in any letter case. What it does not know is [Unknown].
func ParseStatus(s string) Status {
	switch u := Status(strings.ToUpper(strings.TrimSpace(s))); u {
	case Starting, Up, Down, OutOfService:
		return u
	}
	return Unknown
}

// Instance is one running copy of a service as the registry knows it. It is a value: whoever holds one may keep it,
// nobody may alter its Metadata.
type Instance struct {
	ID       string    `json:"id"`            // unique in the registry, e.g. "catalog-v000-2:9004"
	App      string    `json:"app"`           // lower case, e.g. "catalog"
	Group    string    `json:"group"`         // its server group, e.g. "catalog-v000"; empty if it has none
	VIP      string    `json:"vip,omitempty"` // the name callers ask for; the app's when empty
	Host     string    `json:"host"`          // an address callers can dial, e.g. "127.0.0.1"
	Port     int       `json:"port"`
	Secure   bool      `json:"secure,omitempty"` // speaks TLS on Port
	Location Location  `json:"location"`
	Status   Status    `json:"status"`
	Since    time.Time `json:"since"` // when it was first UP; zero before that

	// Metadata is free text the service publishes about itself. Keys the platform reads: "zone", "criticality",
	// "protocol", "adminPort".
	Metadata map[string]string `json:"metadata,omitempty"`
}

// Addr returns "host:port", fit for dialling.
func (i Instance) Addr() string { return net.JoinHostPort(i.Host, strconv.Itoa(i.Port)) }

// Criticality returns what the instance says of itself in its metadata, [Critical] if it says nothing.
func (i Instance) Criticality() Criticality {
	c, err := ParseCriticality(i.Metadata["criticality"])
	if err != nil {
		return Critical
	}
	return c
}

// Criticality ranks requests and services by what customers lose without them. Lower is more important; under
// overload the highest is shed first. The zero value is [Critical], the safe assumption.
type Criticality uint8

const (
	Critical   Criticality = iota // customers cannot do what they came for
	Degraded                      // they can, visibly worse
	BestEffort                    // hardly anybody notices
	Bulk                          // nobody waits for it
)

var criticalityNames = [...]string{"CRITICAL", "DEGRADED", "BEST_EFFORT", "BULK"}

// String returns CRITICAL, DEGRADED, BEST_EFFORT or BULK.
func (c Criticality) String() string {
	if int(c) < len(criticalityNames) {
		return criticalityNames[c]
	}
	return "Criticality(" + strconv.Itoa(int(c)) + ")"
}

// ParseCriticality reads a criticality in any letter case, with "-" or "_". Empty means [Critical].
func ParseCriticality(s string) (Criticality, error) {
	u := strings.ReplaceAll(strings.ToUpper(s), "-", "_")
	if u == "" {
		return Critical, nil
	}
	for i, n := range criticalityNames {
		if n == u {
			return Criticality(i), nil
		}
	}
	return Critical, fmt.Errorf("%q is not a criticality; use one of %s", s, strings.Join(criticalityNames[:], ", "))
}

// MarshalText writes the name.
func (c Criticality) MarshalText() ([]byte, error) {
	if int(c) >= len(criticalityNames) {
		return nil, fmt.Errorf("%v is not a criticality", c)
	}
	return []byte(c.String()), nil
}

// UnmarshalText reads the name.
func (c *Criticality) UnmarshalText(b []byte) error {
	p, err := ParseCriticality(string(b))
	if err == nil {
		*c = p
	}
	return err
}

// Capacity is how many instances a server group may and should have: 0 <= Min <= Desired <= Max.
type Capacity struct {
	Min     int `json:"min"`
	Desired int `json:"desired"`
	Max     int `json:"max"`
}

// Validate reports the first rule that c breaks.
func (c Capacity) Validate() error {
	if c.Min < 0 || c.Min > c.Desired || c.Desired > c.Max {
		return fmt.Errorf("capacity min %d, desired %d, max %d: need 0 <= min <= desired <= max", c.Min, c.Desired, c.Max)
	}
	return nil
}

// ServerGroup is one immutable version of a cluster in one region. What its instances run never changes: a new
// version is a new server group with the next sequence. Only capacity and whether it takes traffic change.
type ServerGroup struct {
	Moniker     Moniker     `json:"moniker"`
	Region      string      `json:"region"`
	Zones       []string    `json:"zones"` // instances are spread over them, counts differing by at most one
	Image       string      `json:"image"` // what runs: a digest, or the command line for the process driver
	Capacity    Capacity    `json:"capacity"`
	Disabled    bool        `json:"disabled"` // keeps running, takes no traffic
	Criticality Criticality `json:"criticality"`
	Created     time.Time   `json:"created"`
}

// Name returns the server group's name, e.g. "api-prod-v003".
func (g ServerGroup) Name() string { return g.Moniker.String() }

// Change is one entry of the ledger: who did what to which resource, when and why. Every mutation in every room is
// one, recorded before it is acknowledged.
type Change struct {
	ID       uint64          `json:"id"`               // given by the ledger, ascending without gaps
	Time     time.Time       `json:"time"`             // given by the ledger
	Actor    string          `json:"actor"`            // who: a person or a service, e.g. "ana" or "fleet"
	Action   string          `json:"action"`           // what: "noun.verb", e.g. "serverGroup.resize"
	Resource string          `json:"resource"`         // to which: "kind:name", e.g. "serverGroup:api-v003"
	Why      string          `json:"why,omitempty"`    // the actor's reason
	Before   json.RawMessage `json:"before,omitempty"` // the resource's state before; absent when it did not exist
	After    json.RawMessage `json:"after,omitempty"`  // and after; absent when it no longer exists
	Result   Result          `json:"result"`           // whether it took effect
	Parent   uint64          `json:"parent,omitempty"` // the change this one reports on or belongs to
	Error    string          `json:"error,omitempty"`  // why it FAILED
}

// Result is how a change ended.
type Result string

const (
	Succeeded Result = "SUCCEEDED" // it took effect, or is about to: a FAILED entry with Parent follows otherwise
	Failed    Result = "FAILED"    // the change named by Parent did not take effect
	Denied    Result = "DENIED"    // the actor was not allowed to
)

// Validate reports what a change lacks to be recorded.
func (c Change) Validate() error {
	switch {
	case c.Actor == "":
		return fmt.Errorf("change names no actor")
	case c.Action == "":
		return fmt.Errorf("change by %s names no action", c.Actor)
	case c.Resource == "":
		return fmt.Errorf("change %s by %s names no resource", c.Action, c.Actor)
	}
	return nil
}
