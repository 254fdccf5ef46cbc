// Package streaming is roadbed's reference application: a film streaming service made of eight small services, and
// the members who use it. It invents what Netflix's members did in the story that roadbed tells: open the home page,
// browse, press play.
//
// A service is started by name; each is a process of its own on the paved road ([service.Start]):
//
//	streaming catalog             # examples/streaming/cmd/streaming
//	roadbed demo serve catalog    # the same, linked into the one binary
//
// The edge sends members to api, which asks the others:
//
//	home    api -> abtest, bookmarks, members; then recommendations; then catalog
//	browse  api -> members; then catalog
//	play    api -> billing, members; then playback (-> catalog); then bookmarks
//
// Without api, playback, catalog or members nobody can browse and play: they are critical. The others are replaced:
// recommendations by rows that everybody sees, bookmarks by none, abtest by the default cells, billing by an active
// plan. An answer names the services whose part is a replacement in "fallbacks", and the HTML pages show it.
//
// # Properties
//
// Limits, page sizes, time limits and features are dynamic properties, listed with their types, bounds and defaults in
// [Properties]. `roadbed up --demo` puts them into the platform, where they are seen and changed:
//
//	roadbed config list --prefix streaming.
//	roadbed config set streaming.home.titlesPerRow 12
//	roadbed config set feature.recommendations.enabled false --why "the model is being retrained"
//	roadbed config set hystrix.command.recommendations.execution.isolation.thread.timeoutInMilliseconds 100 --type int
//
// # What it promises
//   - Members, titles, plans, tests and old bookmarks are made up from ids, the same in every process.
//   - Every service is stateless: any instance may be killed at any time.
//
// # What it does not
//   - It plays no films. Resume points of what a member watched since the start live in one instance's memory.
package streaming

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/service"
)

// ServiceInfo tells how a service of the application wants to run.
type ServiceInfo struct {
	Name        string              `json:"name"`
	Criticality roadbed.Criticality `json:"criticality"`
	Instances   int                 `json:"instances"`
	Why         string              `json:"why"` // what it is for, in a few words
}

// Services returns the services of the application, the most important first. The population, which is no part of
// it, is not among them.
func Services() []ServiceInfo {
	return []ServiceInfo{
		{"api", roadbed.Critical, 3, "composes what members see"},
		{"playback", roadbed.Critical, 2, "licences and manifests"},
		{"catalog", roadbed.Critical, 2, "titles and rows"},
		{"members", roadbed.Critical, 2, "profiles"},
		{"recommendations", roadbed.Degraded, 2, "rows picked for a member; falls back to rows for all"},
		{"bookmarks", roadbed.Degraded, 2, "viewing history; falls back to none"},
		{"abtest", roadbed.BestEffort, 2, "allocates members to tests; falls back to the default cells"},
		{"billing", roadbed.BestEffort, 2, "plans; falls back to an active one"},
	}
}

// PopulationName is the name under which [Serve] runs the members.
const PopulationName = "population"

// version is what the services say of themselves.
const version = "1"

// handlers make each service's handler. All are made alike, though few need to call others.
func handlers() map[string]func(*ipc.Engine, *config.Properties) http.Handler {
	return map[string]func(*ipc.Engine, *config.Properties) http.Handler{
		"api": newAPI, "playback": newPlayback, "catalog": newCatalog, "members": newMembers,
		"recommendations": newRecommendations, "bookmarks": newBookmarks, "abtest": newABTest, "billing": newBilling,
	}
}

// Serve runs the service called name, or the population, until ctx ends or the process is told to stop.
func Serve(ctx context.Context, name string) error {
	if name == PopulationName {
		return ServePopulation(ctx)
	}
	for _, info := range Services() {
		if info.Name != name {
			continue
		}
		build := handlers()[name]
		s, err := service.Start(ctx, service.Config{Name: name, Criticality: info.Criticality, Version: version,
			Build: func(s *service.Service) (http.Handler, error) { return build(s.Calls(), s.Properties()), nil }})
		if err != nil {
			return err
		}
		return s.Wait()
	}
	var names []string
	for _, info := range Services() {
		names = append(names, info.Name)
	}
	return fmt.Errorf("streaming: there is no service %q; there are %s and %s", name, strings.Join(names, ", "), PopulationName)
}
