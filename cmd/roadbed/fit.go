package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/chaos"
	"github.com/roadbed/roadbed/platform/edge"
	"github.com/roadbed/roadbed/platform/telemetry"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (c *cli) fit() *cobra.Command {
	cmd := &cobra.Command{
		Use: "fit", GroupID: "change",
		Short: "Try what failures do: scenarios by recipe, and experiments that stop themselves", Args: noArgs, RunE: showHelp,
	}
	cmd.AddCommand(c.fitRecipes(), c.fitAdd(), c.fitList(), c.fitStop(), c.fitEnable(), c.fitRun(), c.fitSearch())
	return cmd
}

func (c *cli) fitRecipes() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:   "recipes",
		Short: "List recipes and what they take",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return show(cmd, &l, []string{"RECIPE", "TAKES", "WHAT"}, fetchList[chaos.Recipe](client, "/api/v1/fault-recipes"),
				func(r chaos.Recipe) []string {
					var takes []string
					for _, p := range r.Parameters {
						takes = append(takes, p.Name+"="+cmp.Or(p.Default, "..."))
					}
					return []string{r.Name, strings.Join(takes, " "), r.What}
				})
		},
	}
	l.flags(cmd)
	return cmd
}

func (c *cli) fitAdd() *cobra.Command {
	var f chaos.Fault
	var last time.Duration
	var dry bool
	var headers map[string]string
	var percent float64
	cmd := &cobra.Command{
		Use:   "add (RECIPE [NAME=VALUE...] | --rules RULES)",
		Short: "Begin a scenario; it ends by itself",
		Example: `  roadbed fit add fail-noncritical --percent 1 --why "do members notice?"
  roadbed fit add latency service=catalog delay=300ms --device tv --for 2m
  roadbed fit add zone-loss zone=zone-a --dry-run
  roadbed fit add --rules 'client:bookmarks=error(503)#1' --user m00017`,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if (f.Rules == "") == (len(args) == 0) {
				return usageError{errors.New("name a RECIPE, see `roadbed fit recipes`, or give --rules; one of the two")}
			}
			if len(args) > 0 {
				params := map[string]string{}
				for _, a := range args[1:] {
					k, v, ok := strings.Cut(a, "=")
					if !ok {
						return usageError{fmt.Errorf("%q: parameters are written NAME=VALUE", a)}
					}
					params[k] = v
				}
				var nonCritical []string
				if args[0] == "fail-noncritical" {
					if nonCritical, err = nonCriticalServices(cmd.Context(), client); err != nil {
						return err
					}
				}
				words := ""
				if f.Rules, words, err = chaos.Cook(args[0], params, nonCritical); err != nil {
					return usageError{err}
				}
				f.Description = cmp.Or(f.Description, words)
			}
			if err := chosen(cmd.Flags()); err != nil {
				return err
			}
			if dry {
				return preview(cmd, client, f.Rules)
			}
			f.Who.Percent, f.Who.Header, f.Expires = &percent, headers, time.Now().Add(last)
			f.Description = cmp.Or(f.Description, "rules as given")
			return inject(cmd, client, f, "stop it before with: roadbed fit stop")
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.Rules, "rules", "", "rules in full instead of a recipe, e.g. 'server:ratings=reset@25'")
	fs.Float64Var(&percent, "percent", 100, "share of users, stable per user; 0 is nobody")
	fs.StringSliceVar(&f.Who.Users, "user", nil, "only these users")
	fs.StringSliceVar(&f.Who.Devices, "device", nil, "only these devices")
	fs.StringToStringVar(&headers, "header", nil, "only requests that carry this header, NAME=VALUE")
	fs.StringSliceVar(&f.Where.Zones, "zone", nil, "only in processes of this zone")
	fs.StringSliceVar(&f.Where.Clusters, "cluster", nil, "only in processes of this cluster")
	fs.StringSliceVar(&f.Where.Routes, "route", nil, "only requests on this route of the edge")
	fs.DurationVar(&last, "for", 10*time.Minute, "when it ends by itself, at most 24h")
	fs.StringVar(&f.Owner, "owner", "", "who answers for it; you when absent")
	fs.StringVar(&f.Description, "description", "", "what it is for, in a few words")
	fs.BoolVar(&dry, "dry-run", false, "only show the rules and which calls of the last minute they would hit")
	return cmd
}

// preview prints rules and the calls between services that they would hit.
func preview(cmd *cobra.Command, client *api.Client, rules string) error {
	calls, rps, err := liveCalls(cmd.Context(), client)
	if err != nil {
		return err
	}
	hit, err := chaos.Preview(rules, calls)
	if err != nil {
		return usageError{err}
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "rules: %s\n", rules)
	if len(hit) == 0 {
		fmt.Fprintln(out, "they hit no call that was made in the last minute")
		return nil
	}
	return printTable(out, []string{"CALLER", "CALLS", "PER SECOND"}, hit, func(x chaos.Call) []string {
		return []string{x.From, x.To, fmt.Sprintf("%.1f", rps[x])}
	})
}

// liveCalls returns who called whom lately, and how often a second.
func liveCalls(ctx context.Context, client *api.Client) ([]chaos.Call, map[chaos.Call]float64, error) {
	var traffic telemetry.Traffic
	if err := client.Do(ctx, http.MethodGet, "/api/v1/traffic", nil, &traffic); err != nil {
		return nil, nil, err
	}
	var calls []chaos.Call
	rps := map[chaos.Call]float64{}
	for _, region := range traffic.Nodes {
		for _, x := range region.Connections {
			k := chaos.Call{From: x.Source, To: x.Target}
			if _, seen := rps[k]; !seen {
				calls = append(calls, k)
			}
			rps[k] += x.Metrics.Normal + x.Metrics.Warning + x.Metrics.Danger
		}
	}
	return calls, rps, nil
}

// scenario is a fault and how many requests it concerned.
type scenario struct {
	chaos.Fault
	Counts *edge.FaultCounts `json:"counts,omitempty"`
}

func (c *cli) fitList() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List scenarios in force and how many requests they hit",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			fetch := func(ctx context.Context) ([]scenario, error) {
				list, err := fetchList[chaos.Fault](client, "/api/v1/faults")(ctx)
				if err != nil {
					return nil, err
				}
				counts, err := fetchList[edge.FaultCounts](client, "/api/v1/edge/faults")(ctx)
				if err != nil {
					return nil, err
				}
				out := []scenario{}
				for _, f := range list {
					s := scenario{Fault: f}
					for i := range counts {
						if counts[i].ID == f.ID {
							s.Counts = &counts[i]
						}
					}
					out = append(out, s)
				}
				return out, nil
			}
			return show(cmd, &l, []string{"SCENARIO", "WHAT", "WHO", "WHERE", "HIT", "FAILED", "ENDS IN", "OWNER", "WHY"}, fetch,
				func(s scenario) []string {
					hit, failed := "-", "-"
					if s.Counts != nil {
						hit, failed = fmt.Sprint(s.Counts.Injected.Requests), fmt.Sprint(s.Counts.Injected.Failed)
					}
					return []string{s.ID, s.Description, whom(s.Who), orDash(place(s.Where)), hit, failed, time.Until(s.Expires).Round(time.Second).String(), s.Owner, orDash(s.Why)}
				})
		},
	}
	l.flags(cmd)
	return cmd
}

// whom says in words whose requests a fault hits.
func whom(w chaos.Who) string {
	var parts []string
	if len(w.Users) > 0 {
		parts = append(parts, strings.Join(w.Users, ","))
	}
	if len(w.Devices) > 0 {
		parts = append(parts, strings.Join(w.Devices, ","))
	}
	for k, v := range w.Header {
		parts = append(parts, k+": "+v)
	}
	share := 100.0
	if w.Percent != nil {
		share = *w.Percent
	}
	if share < 100 || len(parts) == 0 {
		parts = append(parts, fmt.Sprintf("%g %%", share))
	}
	return strings.Join(parts, " and ")
}

func place(w chaos.Where) string {
	var parts []string
	for _, names := range [][]string{w.Zones, w.Clusters, w.Routes} {
		if len(names) > 0 {
			parts = append(parts, strings.Join(names, ","))
		}
	}
	return strings.Join(parts, " and ")
}

func (c *cli) fitStop() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "stop (SCENARIO | --all)",
		Short: "Stop a scenario, or all injection in every process",
		Long: `Stop a scenario, or all injection in every process.

--all is the red button: within a second no process injects anything, and what waits because of a
fault goes on. Nothing can be added until ` + "`roadbed fit enable`" + `.`,
		Args: oneOrAll("SCENARIO", &all),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if all {
				if err := client.Do(cmd.Context(), http.MethodDelete, "/api/v1/faults", nil, nil); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), "injection is off in every process and all scenarios have ended; `roadbed fit enable` allows new ones")
				return nil
			}
			return endFault(cmd, client, args[0], "stopped")
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "stop all injection, everywhere")
	cmd.ValidArgsFunction = completer(c, listAt[chaos.Fault]("/api/v1/faults"), func(f chaos.Fault) string { return f.ID })
	return cmd
}

func (c *cli) fitEnable() *cobra.Command {
	return &cobra.Command{
		Use:   "enable",
		Short: "Allow injection again after `fit stop --all`",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if err := client.Do(cmd.Context(), http.MethodPost, "/api/v1/faults/enable", nil, nil); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "injection is allowed again")
			return nil
		},
	}
}

// chosen refuses flags that choose nobody, such as --user "$WHO" with WHO unset: left out they would choose everybody.
func chosen(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "percent":
			if share, _ := strconv.ParseFloat(f.Value.String(), 64); !(share >= 0 && share <= 100) {
				err = usageError{fmt.Errorf("--percent %s: use 0 to 100", f.Value)}
			}
		case "user", "device", "header", "zone", "cluster", "route":
			if f.Value.String() == "[]" || f.Value.String() == "[\"\"]" {
				err = usageError{fmt.Errorf("--%s is empty; leave it out if everybody is meant", f.Name)}
			}
		}
	})
	return err
}
