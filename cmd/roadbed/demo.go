package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/examples/drill"
	"github.com/roadbed/roadbed/examples/streaming"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/fleet"
	"github.com/roadbed/roadbed/platform/properties"
	"github.com/roadbed/roadbed/platform/telemetry"
	"github.com/spf13/cobra"
)

// The demo is steered by its services' properties, among them how many requests a second its members make, and by where
// the edge sends requests without a route of their own.
const (
	routesProperty = "edge.routes"
	loadProperty   = "demo.load.rps"
)

// demoRoutes sends whatever no service owns to the api. Members wait two seconds; the edge answers before that.
const demoRoutes = `[{"id":"demo","match":{"path":{"prefix":"/"}},"backends":[{"vip":"api"}],"timeouts":{"request":"1800ms"}}]`

func (c *cli) demo() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "demo",
		GroupID: "run",
		Short:   "Steer the streaming service of `roadbed up --demo`",
		Args:    noArgs,
		RunE:    showHelp,
	}
	cmd.AddCommand(c.demoLoad(), c.demoServe())
	cmd.AddCommand(c.drills()...)
	return cmd
}

func (c *cli) demoLoad() *cobra.Command {
	var rps int
	cmd := &cobra.Command{
		Use:   "load [--rps N]",
		Short: "Show what members experience, or set how many requests a second they make",
		Example: `  roadbed demo load             what members experience, each five seconds
  roadbed demo load --rps 500   from now on 500 requests a second
  roadbed demo load --rps 0     members pause`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("rps") {
				if rps < 0 || rps > 100_000 {
					return usageError{fmt.Errorf("--rps %d: use 0 to 100000", rps)}
				}
				p := properties.Property{Key: loadProperty, Value: strconv.Itoa(rps), Type: "float"}
				if err := setProperty(cmd.Context(), client, p); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "members make %d requests a second from now on\n", rps)
				return nil
			}
			return newTicker(&screen{out: cmd.OutOrStdout(), log: cmd.ErrOrStderr()}, client, true, time.Time{}).run(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&rps, "rps", 0, "requests a second, all members together")
	return cmd
}

// demoServe is what the fleet starts: one service of the demo in this process.
func (c *cli) demoServe() *cobra.Command {
	return &cobra.Command{
		Use:    "serve NAME",
		Short:  "Run one service of the demo in this process",
		Hidden: true,
		Args:   exactArgs("the NAME of a service"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := drill.Serve(cmd.Context(), args[0]); !errors.Is(err, drill.ErrNoService) {
				return err
			}
			return streaming.Serve(cmd.Context(), args[0])
		},
	}
}

// startDemo puts the streaming service on the platform: its route, then its services, then its members. What an
// earlier start left is kept as it is.
func startDemo(ctx context.Context, out io.Writer, client *api.Client) error {
	if err := createProperty(ctx, client, properties.Property{Key: routesProperty, Value: demoRoutes}); err != nil {
		return err
	}
	for _, p := range streaming.Properties() {
		if p.Own {
			continue // one value for all services would not do
		}
		record := properties.Property{Key: p.Key, Value: p.Default, Type: p.Type, Description: p.Service + ": " + p.What}
		if p.Min != nil || p.Max != nil || p.Pattern != "" {
			record.Constraint = &properties.Constraint{Min: p.Min, Max: p.Max, Pattern: p.Pattern}
		}
		if err := createProperty(ctx, client, record); err != nil {
			return err
		}
	}
	var groups []fleet.GroupView
	if err := client.Do(ctx, http.MethodGet, "/api/v1/server-groups", nil, &groups); err != nil {
		return err
	}
	there := make(map[string]bool)
	for _, g := range groups {
		there[g.App] = true
	}
	started := 0
	members := streaming.ServiceInfo{Name: streaming.PopulationName, Criticality: roadbed.Bulk, Instances: 1}
	for _, s := range append(streaming.Services(), members) {
		if there[s.Name] {
			continue
		}
		spec := fleet.Spec{
			Name: s.Name, Command: []string{"{self}", "demo", "serve", s.Name}, Instances: s.Instances,
			Criticality: s.Criticality, Register: fleet.RegisterSelf,
		}
		if err := client.Do(ctx, http.MethodPost, "/api/v1/server-groups", spec, nil); err != nil {
			return fmt.Errorf("start %s: %w", s.Name, err)
		}
		started += s.Instances
	}
	if started > 0 {
		fmt.Fprintf(out, "demo: starting %d services and their members, %d processes in all\n", len(streaming.Services()), started)
	} else {
		fmt.Fprintln(out, "demo: it was here before and starts again")
	}
	return nil
}

// createProperty sets a property unless somebody already did.
func createProperty(ctx context.Context, client *api.Client, p properties.Property) error {
	careful := *client
	careful.Header = http.Header{"If-None-Match": {"*"}}
	err := setProperty(ctx, &careful, p)
	var problem *api.Error
	if errors.As(err, &problem) && (problem.Status == http.StatusConflict || problem.Status == http.StatusPreconditionFailed) {
		return nil
	}
	return err
}

// ticker prints one line about how the platform does, over and over.
type ticker struct {
	screen *screen
	client *api.Client
	demo   bool
	began  time.Time // when the platform started; zero when that is not of interest
	every  time.Duration
}

func newTicker(s *screen, client *api.Client, demo bool, began time.Time) *ticker {
	t := &ticker{screen: s, client: client, demo: demo, began: began, every: 5 * time.Second}
	if isTerminal(s.out) {
		t.every = time.Second
	}
	return t
}

// run prints until ctx ends. A platform that does not answer is said so, once per line.
func (t *ticker) run(ctx context.Context) error {
	defer t.screen.show("")
	if !t.began.IsZero() {
		if err := t.untilHealthy(ctx); err != nil {
			return err
		}
	}
	for {
		line, err := t.line(ctx)
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case err != nil && t.began.IsZero():
			return err
		case err != nil:
			line = err.Error()
		}
		t.screen.show(line)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(t.every):
		}
	}
}

// untilHealthy waits until every instance that shall run is UP and says so.
func (t *ticker) untilHealthy(ctx context.Context) error {
	for {
		up, want, err := t.instances(ctx)
		if err == nil && up >= want && (want > 0 || !t.demo) {
			if want > 0 {
				fmt.Fprintf(t.screen.out, "all healthy after %.1f s: %d of %d instances up\n", time.Since(t.began).Seconds(), up, want)
			} else {
				fmt.Fprintf(t.screen.out, "nothing runs yet; try:\n  roadbed run --name hello --port 8081 -- python3 -m http.server --bind 127.0.0.1 {port}\n")
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// instances returns how many instances of the fleet are UP and how many shall be.
func (t *ticker) instances(ctx context.Context) (up, want int, err error) {
	var groups []fleet.GroupView
	if err := t.client.Do(ctx, http.MethodGet, "/api/v1/server-groups", nil, &groups); err != nil {
		return 0, 0, err
	}
	for _, g := range groups {
		up += g.Healthy
		want += g.Capacity.Desired
	}
	return up, want, nil
}

func (t *ticker) line(ctx context.Context) (string, error) {
	var traffic telemetry.Traffic
	if err := t.client.Do(ctx, http.MethodGet, "/api/v1/traffic", nil, &traffic); err != nil {
		return "", err
	}
	up, want, err := t.instances(ctx)
	if err != nil {
		return "", err
	}
	clock := time.Now().Format("15:04:05")
	who, rps, success, p99 := flow(&traffic)
	if rps == 0 {
		return fmt.Sprintf("%s  no requests  %d/%d instances up", clock, up, want), nil
	}
	// It fits a terminal of 80 columns.
	return fmt.Sprintf("%s  %s %4.0f requests/s  success %7.3f %%  p99 %4.0f ms  %d/%d up",
		clock, who, rps, 100*success, 1000*p99, up, want), nil
}

// flow returns how requests go: a second, the share that succeeds, and the 99th percentile in seconds. It is what
// members experience when there are any, else what the edge answers.
func flow(t *telemetry.Traffic) (who string, rps, success, p99 float64) {
	if all, ok := t.Metadata.Members["all"]; ok && all.RPS > 0 {
		return "members", all.RPS, all.Success, seconds(all.P99)
	}
	for _, region := range t.Nodes {
		for _, n := range region.Nodes {
			if n.Name == "edge" {
				return "edge", n.Metadata.RPS, 1 - n.Metadata.ErrorShare, seconds(n.Metadata.P99)
			}
		}
	}
	return "edge", 0, 1, 0
}

func seconds(v *float64) float64 {
	if v == nil {
		return 0
	}
	return *v
}
