package service

import (
	"cmp"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
)

// env is what the fleet tells a process in its environment. Everything may be empty but host.
type env struct {
	app, group, id, host, port, region, zone string
	adminPort                                string
	name                                     string // of the environment, e.g. "prod"; registered as metadata env

	criticality *roadbed.Criticality // nil when the fleet says nothing
	registry    []string             // base URLs
	config      string               // base URL
	telemetry   string               // base URL
	cache       string               // directory
	override    map[string]string    // properties that win over the platform's
}

// readEnv reads the environment. It fails on a value that cannot be meant.
func readEnv(get func(string) string) (env, error) {
	e := env{
		app: get("ROADBED_APP"), group: get("ROADBED_GROUP"), id: get("ROADBED_INSTANCE"), host: get("ROADBED_HOST"), port: get("PORT"),
		region: get("ROADBED_REGION"), zone: get("ROADBED_ZONE"),
		adminPort: get("ROADBED_ADMIN_PORT"), config: get("ROADBED_CONFIG"), telemetry: get("ROADBED_TELEMETRY"), cache: get("ROADBED_CACHE"),
	}
	if e.name = get("ROADBED_ENV"); e.name == "" {
		e.name = get("NETFLIX_ENVIRONMENT")
	}
	if e.host == "" {
		e.host = "127.0.0.1"
	}
	for name, port := range map[string]string{"PORT": e.port, "ROADBED_ADMIN_PORT": e.adminPort} {
		if n, err := strconv.Atoi(port); port != "" && (err != nil || n < 0 || n > 65535) {
			return env{}, fmt.Errorf("%s=%q is not a port; give a number from 0 to 65535", name, port)
		}
	}
	if text := get("ROADBED_CRITICALITY"); text != "" {
		c, err := roadbed.ParseCriticality(text)
		if err != nil {
			return env{}, fmt.Errorf("ROADBED_CRITICALITY: %w", err)
		}
		e.criticality = &c
	}
	for entry := range strings.SplitSeq(get("ROADBED_PROPERTIES"), ";") {
		key, value, ok := strings.Cut(entry, "=")
		if key = strings.TrimSpace(key); key == "" && !ok {
			continue
		}
		if !ok || key == "" {
			return env{}, fmt.Errorf("ROADBED_PROPERTIES has an entry %q; write key=value;key=value", entry)
		}
		if e.override == nil {
			e.override = map[string]string{}
		}
		e.override[key] = strings.TrimSpace(value)
	}
	for url := range strings.SplitSeq(get("ROADBED_REGISTRY"), ",") {
		if url = strings.TrimSpace(url); url != "" {
			e.registry = append(e.registry, url)
		}
	}
	return e, nil
}

// instance is what the service registers itself as.
func (e env) instance(c Config, port int) roadbed.Instance {
	id := e.id
	if id == "" {
		id = e.host + ":" + c.Name + ":" + strconv.Itoa(port)
	}
	i := roadbed.Instance{
		ID: id, App: strings.ToLower(c.Name), Group: e.group, VIP: cmp.Or(c.VIP, strings.ToLower(c.Name)), Host: e.host, Port: port,
		Location: roadbed.Location{Region: e.region, Zone: e.zone}, Status: roadbed.Starting,
		Metadata: map[string]string{},
	}
	maps.Copy(i.Metadata, c.Metadata)
	i.Metadata["criticality"], i.Metadata["protocol"] = c.Criticality.String(), "http"
	if e.zone != "" {
		i.Metadata["zone"] = e.zone
	}
	if e.name != "" {
		i.Metadata["env"] = e.name
	}
	if c.Version != "" {
		i.Metadata["version"] = c.Version
	}
	return i
}

// scope is how the service asks for its properties.
func (e env) scope(self roadbed.Instance, cluster string) config.Scope {
	sc := config.Scope{Env: e.name, App: self.App, Region: e.region, Zone: e.zone, Cluster: cluster, Group: self.Group, Instance: self.ID}
	if m, err := roadbed.ParseMoniker(self.Group); err == nil {
		sc.Stack = m.Stack
	}
	return sc
}
