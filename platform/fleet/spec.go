package fleet

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/roadbed/roadbed"
)

// Spec says what a server group runs. It is what a user posts; it never changes afterwards.
type Spec struct {
	Name        string              `json:"name" doc:"the cluster: app, app-stack or app-stack-detail" example:"hello"`
	Command     []string            `json:"command" nullable:"false" doc:"program and arguments; {port}, {zone}, {slot} and {self} (the roadbed binary) are replaced" example:"[\"python3\",\"-m\",\"http.server\",\"--bind\",\"127.0.0.1\",\"{port}\"]"`
	Dir         string              `json:"dir,omitempty" doc:"working directory; the platform's own when empty"`
	Env         map[string]string   `json:"env,omitempty" doc:"added to the environment; wins except over ROADBED_*, EC2_* and NETFLIX_INSTANCE_ID"`
	Port        int                 `json:"port,omitempty" minimum:"0" maximum:"65535" doc:"port of slot 0, each next slot one more; 0 takes free ones from the platform's range"`
	Instances   int                 `json:"instances,omitempty" minimum:"0" maximum:"500" doc:"how many to keep running; 0 means 1"`
	Zones       []string            `json:"zones,omitempty" doc:"zones to spread over, in this order; all of the platform's when empty"`
	Criticality roadbed.Criticality `json:"criticality,omitempty" doc:"CRITICAL, DEGRADED, BEST_EFFORT or BULK"`
	Health      *HealthCheck        `json:"health,omitempty" doc:"how to ask whether it is well; absent: GET /healthcheck, or GET / where that does not exist"`
	Register    string              `json:"register,omitempty" enum:"fleet,self" doc:"who puts the instances into the registry: the fleet (default) or the process itself"`
	Reason      string              `json:"reason,omitempty" doc:"why, for the change log"`
	Replace     bool                `json:"replace,omitempty" doc:"if the cluster runs already: start the next version and destroy the running one when it is healthy"`
}

// HealthCheck is how the fleet asks an instance whether it is well.
type HealthCheck struct {
	Path string `json:"path" doc:"HTTP path that answers 2xx when well; empty: being reachable by TCP is enough"`
}

// Who registers the instances of a server group.
const (
	RegisterFleet = "fleet"
	RegisterSelf  = "self"
)

// maxInstances keeps a slip of the finger from starting more processes than a machine bears.
const maxInstances = 500

// normalize fills defaults in and reports the first rule that s breaks. It returns the cluster's moniker.
func (s *Spec) normalize(zones []string) (roadbed.Moniker, error) {
	m, err := roadbed.ParseMoniker(s.Name)
	if err != nil {
		return m, err
	}
	if m.Sequence != roadbed.NoSequence {
		return m, fmt.Errorf("name %q has a version; name the cluster, %q, and the fleet counts its versions", s.Name, m.Cluster())
	}
	if len(s.Command) == 0 || s.Command[0] == "" {
		return m, fmt.Errorf("%s has no command; give the program to run, e.g. [\"python3\", \"-m\", \"http.server\", \"--bind\", \"127.0.0.1\", \"{port}\"]", s.Name)
	}
	for _, a := range s.Command {
		if strings.ContainsRune(a, 0) {
			return m, fmt.Errorf("argument %q holds a zero byte, which no program can be given", a)
		}
	}
	for k, v := range s.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return m, fmt.Errorf("environment variable %q: a name needs a character and neither name nor value may hold a zero byte, the name no '='", k)
		}
	}
	if s.Instances == 0 {
		s.Instances = 1
	}
	if s.Instances < 0 || s.Instances > maxInstances {
		return m, fmt.Errorf("%d instances: must be 1 to %d", s.Instances, maxInstances)
	}
	if s.Port < 0 || s.Port > 65535 || s.Port > 0 && s.Port+s.Instances-1 > 65535 {
		return m, fmt.Errorf("port %d with %d instances: ports end at 65535", s.Port, s.Instances)
	}
	if len(s.Zones) == 0 {
		s.Zones = slices.Clone(zones)
	}
	seen := make(map[string]bool)
	for _, z := range s.Zones {
		if !slices.Contains(zones, z) {
			return m, fmt.Errorf("there is no zone %q; there are %s", z, strings.Join(zones, ", "))
		}
		if seen[z] {
			return m, fmt.Errorf("zone %q is named twice", z)
		}
		seen[z] = true
	}
	if s.Health != nil && s.Health.Path != "" && !strings.HasPrefix(s.Health.Path, "/") {
		return m, fmt.Errorf("health path %q must start with /", s.Health.Path)
	}
	switch s.Register {
	case "":
		s.Register = RegisterFleet
	case RegisterFleet, RegisterSelf:
	default:
		return m, fmt.Errorf("register %q: use %q or %q", s.Register, RegisterFleet, RegisterSelf)
	}
	if s.Dir != "" && !filepath.IsAbs(s.Dir) {
		return m, fmt.Errorf("dir %q must be absolute; the platform may have been started elsewhere", s.Dir)
	}
	return m, nil
}

// zoneOf returns the zone of a slot. Slots are 0 to desired-1 without gaps, so zone counts differ by at most one at
// any size, and a slot never moves.
func zoneOf(zones []string, slot int) string { return zones[slot%len(zones)] }

// expand replaces the placeholders in one argument.
func expand(arg string, port, slot int, zone, self string) string {
	if !strings.Contains(arg, "{") {
		return arg
	}
	return strings.NewReplacer("{port}", strconv.Itoa(port), "{slot}", strconv.Itoa(slot), "{zone}", zone, "{self}", self).Replace(arg)
}

// commandLine writes argv so that a shell would read it back, for showing.
func commandLine(argv []string) string {
	quoted := make([]string, len(argv))
	for i, a := range argv {
		quoted[i] = a
		if a == "" || strings.ContainsAny(a, " \t\n\"'\\$`*?[]#~&|;<>()!") {
			quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// findProgram resolves the program of a command as a shell in dir with the given PATH would.
func findProgram(name, dir, path string) (string, error) {
	if strings.Contains(name, "/") {
		p := name
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		if _, err := exec.LookPath(p); err != nil {
			return "", fmt.Errorf("%s cannot be run: %w", p, unwrapExec(err))
		}
		return p, nil
	}
	for _, d := range filepath.SplitList(path) {
		if d == "" || !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		if p, err := exec.LookPath(filepath.Join(d, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("there is no program %q on PATH (%s); install it or give its whole path", name, path)
}

func unwrapExec(err error) error {
	if e, ok := err.(*exec.Error); ok {
		return e.Err
	}
	return err
}
