package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/fleet"
	"github.com/spf13/cobra"
)

func (c *cli) run() *cobra.Command {
	var spec fleet.Spec
	var env []string
	var criticality, healthPath string
	var selfRegisters bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:     "run --name NAME --port PORT [--instances N] -- COMMAND [ARG ...]",
		GroupID: "run",
		Short:   "Put your own service on the road, in any language",
		Long: `Start a command under the fleet, in as many instances as you like. Each is checked over
HTTP, registered, visible in the console, reachable at the edge under /NAME/, and
started again when it dies. The command needs no change.

Instance 0 gets PORT, the next ones PORT+1 and so on: in the environment as $PORT, and in
place of {port} in the arguments.`,
		Example: `  roadbed run --name hello --port 8081 --instances 2 -- python3 -m http.server --bind 127.0.0.1 {port}
  roadbed run --name shop --port 9000 -- node server.js
  roadbed run --name quotes --port 9100 --instances 3 -- ./quotes`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 0 || len(args) == 0 {
				return usageError{errors.New("name the command after --, e.g. -- python3 -m http.server --bind 127.0.0.1 {port}")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			spec.Command = args
			if spec.Criticality, err = roadbed.ParseCriticality(criticality); err != nil {
				return usageError{fmt.Errorf("--criticality: %w", err)}
			}
			if spec.Dir, err = os.Getwd(); err != nil {
				return fmt.Errorf("find the working directory: %w", err)
			}
			spec.Env = map[string]string{"PATH": os.Getenv("PATH"), "HOME": os.Getenv("HOME")}
			for _, e := range env {
				k, v, ok := strings.Cut(e, "=")
				if !ok {
					return usageError{fmt.Errorf("--env %s: write NAME=VALUE", e)}
				}
				spec.Env[k] = v
			}
			if selfRegisters {
				spec.Register = fleet.RegisterSelf
			}
			if healthPath != "" {
				spec.Health = &fleet.HealthCheck{Path: healthPath}
			}
			var group fleet.GroupView
			if err := client.Do(cmd.Context(), http.MethodPost, "/api/v1/server-groups", spec, &group); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%s: starting %d\n", group.Name, group.Capacity.Desired)
			if wait == 0 {
				return nil
			}
			if err := awaitGroup(cmd.Context(), out, client, group.Name, wait); err != nil {
				return err
			}
			var health struct {
				Edge string `json:"edge"`
			}
			if err := client.Do(cmd.Context(), http.MethodGet, "/api/v1/health", nil, &health); err != nil {
				return err
			}
			fmt.Fprintf(out, "reachable at %s/%s/\n", health.Edge, strings.ToLower(group.App))
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&spec.Name, "name", "", "the cluster: app, app-stack or app-stack-detail")
	fs.IntVar(&spec.Port, "port", 0, "port of the first instance (default: one of the fleet's own)")
	fs.IntVar(&spec.Instances, "instances", 1, "how many")
	fs.StringSliceVar(&spec.Zones, "zones", nil, "only in these zones (default: spread over all)")
	fs.StringVar(&healthPath, "health", "", "path that answers 200 when an instance is fit (default: /healthcheck, or any answer at / that is no server error)")
	fs.BoolVar(&selfRegisters, "self-registers", false, "it registers itself, as service.Start does (default: the fleet registers it)")
	fs.StringVar(&criticality, "criticality", "CRITICAL", "CRITICAL, DEGRADED, BEST_EFFORT or BULK")
	fs.StringArrayVar(&env, "env", nil, "NAME=VALUE for its environment; may be repeated")
	fs.DurationVar(&wait, "wait", 30*time.Second, "how long to wait until all instances are up; 0 does not wait")
	fs.BoolVar(&spec.Replace, "replace", false, "start a new version when one runs already, and destroy the old once the new is up")
	cmd.MarkFlagRequired("name") //nolint:errcheck // fails only for a flag that does not exist
	return cmd
}

// awaitGroup waits until all instances of a server group are up. When they are not in time, the error tells why.
func awaitGroup(ctx context.Context, out io.Writer, client *api.Client, name string, atMost time.Duration) error {
	deadline := time.Now().Add(atMost)
	for {
		var g fleet.GroupView
		if err := client.Do(ctx, http.MethodGet, "/api/v1/server-groups/"+url.PathEscape(name), nil, &g); err != nil {
			return err
		}
		if g.Healthy >= g.Capacity.Desired {
			fmt.Fprintf(out, "%s: %d of %d up\n", name, g.Healthy, g.Capacity.Desired)
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %d of %d up after %s%s", name, g.Healthy, g.Capacity.Desired, atMost, whyNot(ctx, client, name))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// whyNot collects what the fleet says of the instances of a group that are not up.
func whyNot(ctx context.Context, client *api.Client, group string) string {
	list, err := fetchList[fleet.InstanceView](client, "/api/v1/instances")(ctx)
	if err != nil {
		return ""
	}
	var b strings.Builder
	for _, i := range list {
		if i.Group == group && i.State != fleet.StateUp {
			fmt.Fprintf(&b, "\n  %s: %s", i.ID, i.Health)
		}
	}
	fmt.Fprintf(&b, "\nit keeps being tried; `roadbed logs INSTANCE` shows what it prints, `roadbed group destroy %s` ends it", group)
	return b.String()
}

func (c *cli) kill() *cobra.Command {
	var sig string
	cmd := &cobra.Command{
		Use:     "kill INSTANCE",
		GroupID: "change",
		Short:   "Kill an instance, to see that nobody notices",
		Long: `Kill an instance at once, as a crash would. The fleet starts another in its place.
The name of a service kills one of its instances at random.`,
		Example: `  roadbed kill api
  roadbed kill catalog-v000-1-x7f3 --signal TERM --why "trying a graceful stop"`,
		Args:              exactArgs("an INSTANCE or a service's name"),
		ValidArgsFunction: c.completeInstances(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			id, err := pickInstance(cmd.Context(), client, args[0])
			if err != nil {
				return err
			}
			if err := client.Do(cmd.Context(), http.MethodDelete, "/api/v1/instances/"+url.PathEscape(id)+"?signal="+url.QueryEscape(sig), nil, nil); err != nil {
				return err
			}
			if sig == "KILL" {
				awaitGone(cmd.Context(), client, id)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "killed %s\n", id)
			return nil
		},
	}
	cmd.Flags().StringVar(&sig, "signal", "KILL", "KILL, TERM, INT or QUIT")
	return cmd
}

// awaitGone waits until the fleet has noticed that an instance is gone, so that who looks next does not still see it.
// That takes milliseconds; it gives up after a second.
func awaitGone(ctx context.Context, client *api.Client, id string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for {
		list, err := fetchList[fleet.InstanceView](client, "/api/v1/instances")(ctx)
		if err != nil || !slices.ContainsFunc(list, func(i fleet.InstanceView) bool { return i.ID == id && i.PID != 0 }) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// pickInstance returns name if it is an instance of the fleet, else a random instance of the service or group called
// so.
func pickInstance(ctx context.Context, client *api.Client, name string) (string, error) {
	list, err := fetchList[fleet.InstanceView](client, "/api/v1/instances")(ctx)
	if err != nil {
		return "", err
	}
	var of []string
	for _, i := range list {
		if i.ID == name {
			return name, nil
		}
		if strings.EqualFold(i.App, name) || i.Group == name || strings.HasPrefix(i.ID, name+"-") {
			of = append(of, i.ID)
		}
	}
	if len(of) == 0 {
		return "", fmt.Errorf("the fleet runs no instance, server group or service called %q; `roadbed instance list` shows what runs", name)
	}
	return of[rand.IntN(len(of))], nil
}

func (c *cli) completeInstances() cobra.CompletionFunc {
	return completer(c, listAt[fleet.InstanceView]("/api/v1/instances"), func(i fleet.InstanceView) string { return i.ID })
}

func (c *cli) groups() *cobra.Command {
	cmd := &cobra.Command{
		Use: "group", Aliases: []string{"groups", "server-group"}, GroupID: "change",
		Short: "Server groups: resize, disable, enable, destroy", Args: noArgs, RunE: showHelp,
	}
	var l listing
	list := &cobra.Command{
		Use:   "list",
		Short: "List server groups",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return show(cmd, &l, []string{"SERVER GROUP", "UP", "MIN", "MAX", "TRAFFIC", "CRITICALITY", "AGE", "COMMAND"},
				fetchList[fleet.GroupView](client, "/api/v1/server-groups"), func(g fleet.GroupView) []string {
					traffic := "yes"
					if g.Disabled {
						traffic = "disabled"
					}
					return []string{g.Name, fmt.Sprintf("%d/%d", g.Healthy, g.Capacity.Desired), fmt.Sprint(g.Capacity.Min), fmt.Sprint(g.Capacity.Max),
						traffic, g.Criticality.String(), ago(g.Created), strings.Join(g.Spec.Command, " ")}
				})
		},
	}
	l.flags(list)

	var size int
	resize := &cobra.Command{
		Use:   "resize GROUP --to N",
		Short: "Change how many instances a server group has",
		Args:  exactArgs("a server GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.onGroup(cmd, http.MethodPut, args[0], "/capacity", map[string]int{"desired": size}, "resized")
		},
	}
	resize.Flags().IntVar(&size, "to", 0, "how many instances")
	resize.MarkFlagRequired("to") //nolint:errcheck // fails only for a flag that does not exist
	simple := func(verb, past, short, method, path string) *cobra.Command {
		return &cobra.Command{Use: verb + " GROUP", Short: short, Args: exactArgs("a server GROUP"), RunE: func(cmd *cobra.Command, args []string) error {
			return c.onGroup(cmd, method, args[0], path, nil, past)
		}}
	}
	cmd.AddCommand(list, resize,
		simple("disable", "disabled", "Take a server group out of traffic; it keeps running", http.MethodPost, "/disable"),
		simple("enable", "enabled", "Give a disabled server group traffic again", http.MethodPost, "/enable"),
		simple("destroy", "destroyed", "Stop all instances of a server group and forget it", http.MethodDelete, ""))
	for _, sub := range cmd.Commands() {
		if sub != list {
			sub.ValidArgsFunction = c.completeGroups()
		}
	}
	return cmd
}

func (c *cli) onGroup(cmd *cobra.Command, method, group, path string, body any, past string) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	if err := client.Do(cmd.Context(), method, "/api/v1/server-groups/"+url.PathEscape(group)+path, body, nil); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", past, group)
	return nil
}

func (c *cli) completeGroups() cobra.CompletionFunc {
	return completer(c, listAt[fleet.GroupView]("/api/v1/server-groups"), func(g fleet.GroupView) string { return g.Name })
}
