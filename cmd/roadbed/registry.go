package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/registry"
	"github.com/spf13/cobra"
)

func (c *cli) registry() *cobra.Command {
	cmd := &cobra.Command{
		Use: "registry", GroupID: "look", Short: "The registry itself: what it holds, and every lease in it",
		Args: noArgs, RunE: showHelp,
	}
	cmd.AddCommand(c.registryStatus(), c.registryLeases())
	return cmd
}

func (c *cli) registryStatus() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show who this registry is and what it holds",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return showOne(cmd, &l, func(ctx context.Context) (registry.Status, error) {
				var st registry.Status
				err := client.Do(ctx, http.MethodGet, "/api/v1/registry/status", nil, &st)
				return st, err
			}, registryFacts)
		},
	}
	l.flags(cmd)
	return cmd
}

// registryFacts says what a registry's status means, a fact per line.
func registryFacts(st registry.Status) [][2]string {
	var by []string
	for _, s := range slices.Sorted(maps.Keys(st.Statuses)) {
		by = append(by, fmt.Sprintf("%d %s", st.Statuses[s], s))
	}
	facts := [][2]string{
		{"node", orDash(st.Self) + " in " + st.Location.String()},
		{"runs for", ago(st.Since)},
		{"instances", fmt.Sprintf("%d of %d apps: %s", st.Instances, st.Apps, cmp.Or(strings.Join(by, ", "), "nobody"))},
		{"overrides", strconv.Itoa(st.Overrides)},
		{"renewals", fmt.Sprintf("%.0f of %.0f a minute", st.Preservation.Observed, st.Preservation.Expected)},
		{"late", fmt.Sprintf("%d, of which %d silent for longer than their leases", st.Preservation.Late, st.Preservation.Silent)},
		{"preservation", fmt.Sprintf("%s: %s", st.Preservation.Mode, st.Preservation.Reason)},
	}
	if len(st.Peers) == 0 {
		facts = append(facts, [2]string{"peers", "none"})
	}
	for _, p := range st.Peers {
		reached := "not reached"
		switch {
		case p.Reachable:
			reached = "reached"
		case !p.Tried:
			reached = "not tried yet"
		}
		facts = append(facts, [2]string{"peer", fmt.Sprintf("%s %s, lacks news of %d instances, the oldest for %.1f s", p.URL, reached, p.Waiting, p.Lag)})
	}
	if st.Warming {
		facts = append(facts, [2]string{"warming up", "yes: it has just started, and may not have heard of everybody yet"})
	}
	return facts
}

func (c *cli) registryLeases() *cobra.Command {
	var l listing
	var limit int
	cmd := &cobra.Command{
		Use:   "leases [WORD ...]",
		Short: "List registered instances with status, override and lease",
		Long: `List registered instances: what each says of itself, what counts, what an operator decided,
and how long ago it was last heard. With words, only those in which every word occurs: in
id, app, group, zone, address or status.`,
		Example: `  roadbed registry leases
  roadbed registry leases api zone-a
  roadbed registry leases out_of_service`,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return show(cmd, &l, []string{"INSTANCE", "APP", "ZONE", "STATUS", "OVERRIDE", "SAYS", "HEARD (S AGO)", "LEASE (S)", "UP FOR", "ADDRESS"},
				func(ctx context.Context) ([]registry.Lease, error) {
					found, more, err := fetchLeases(ctx, client, strings.Join(args, " "), limit)
					if more > 0 && l.format == "table" {
						fmt.Fprintf(cmd.ErrOrStderr(), "%d more are not shown; name words that narrow the list, or raise --limit\n", more)
					}
					return found, err
				},
				func(x registry.Lease) []string {
					return []string{x.ID, x.App, orDash(x.Location.Zone), string(x.Status), orDash(string(x.Override)), string(x.Says),
						strconv.Itoa(max(0, int(time.Since(x.Renewed).Seconds()))), strconv.Itoa(x.Duration), ago(x.Up), x.Address}
				})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 1000, "at most so many, up to 10000")
	l.flags(cmd)
	return cmd
}

// fetchLeases returns the leases in which every word of search occurs, and how many there are beyond limit.
func fetchLeases(ctx context.Context, client *api.Client, search string, limit int) ([]registry.Lease, int, error) {
	var page struct {
		Leases []registry.Lease `json:"leases"`
		More   int              `json:"more"`
	}
	err := client.Do(ctx, http.MethodGet, fmt.Sprintf("/api/v1/registry/leases?limit=%d&q=%s", limit, url.QueryEscape(search)), nil, &page)
	return page.Leases, page.More, err
}

// findLease returns the registered instance called name: its id, or app/id where several apps have an instance of that
// id.
func findLease(ctx context.Context, client *api.Client, name string) (registry.Lease, error) {
	app, id, qualified := strings.Cut(name, "/")
	if !qualified {
		app, id = "", name
	}
	found, _, err := fetchLeases(ctx, client, id, 10_000)
	if err != nil {
		return registry.Lease{}, err
	}
	found = slices.DeleteFunc(found, func(l registry.Lease) bool {
		return l.ID != name && (l.ID != id || app != "" && !strings.EqualFold(l.App, app))
	})
	switch len(found) {
	case 0:
		return registry.Lease{}, fmt.Errorf("no instance %q is registered; `roadbed registry leases` lists who is", name)
	case 1:
		return found[0], nil
	}
	var names []string
	for _, l := range found {
		names = append(names, l.App+"/"+l.ID)
	}
	return registry.Lease{}, fmt.Errorf("%q is the id of %d instances; name one as %s", name, len(found), strings.Join(names, " or "))
}

func statusPath(l registry.Lease) string {
	return "/api/v1/registry/instances/" + url.PathEscape(l.App) + "/" + url.PathEscape(l.ID) + "/status"
}

func (c *cli) instanceOverride() *cobra.Command {
	statuses := []string{string(roadbed.OutOfService), string(roadbed.Up), string(roadbed.Down), string(roadbed.Starting)}
	cmd := &cobra.Command{
		Use:   "override INSTANCE STATUS",
		Short: "Decide on an instance's status; OUT_OF_SERVICE takes it out of traffic",
		Long: `Decide on an instance's status: it counts until it is cleared, whatever the instance says of
itself, and survives restarts of the platform. The instance keeps running.`,
		Example: `  roadbed instance override catalog-v000-1-x7f3 OUT_OF_SERVICE --why "its disk fails"
  roadbed instance clear catalog-v000-1-x7f3`,
		Args: exactArgs("an INSTANCE", "a STATUS: "+strings.Join(statuses, ", ")),
		RunE: func(cmd *cobra.Command, args []string) error {
			st := roadbed.ParseStatus(args[1])
			if st == roadbed.Unknown {
				return usageError{fmt.Errorf("%q is no status to decide on; use %s", args[1], strings.Join(statuses, ", "))}
			}
			return c.decide(cmd, args[0], http.MethodPut, map[string]roadbed.Status{"status": st}, string(st)+" by override")
		},
	}
	ids := c.completeLeases()
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 1 {
			return statuses, cobra.ShellCompDirectiveNoFileComp
		}
		return ids(cmd, args, part)
	}
	return cmd
}

func (c *cli) instanceClear() *cobra.Command {
	return &cobra.Command{
		Use:               "clear INSTANCE",
		Short:             "Clear an override: the instance's own word counts again",
		Args:              exactArgs("an INSTANCE"),
		ValidArgsFunction: c.completeLeases(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.decide(cmd, args[0], http.MethodDelete, nil, "")
		},
	}
}

// decide sets or clears the override of an instance, and says what counts then.
func (c *cli) decide(cmd *cobra.Command, name, method string, body any, outcome string) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	l, err := findLease(cmd.Context(), client, name)
	if err != nil {
		return err
	}
	if err := client.Do(cmd.Context(), method, statusPath(l), body, nil); err != nil {
		return err
	}
	if outcome == "" {
		if l, err = findLease(cmd.Context(), client, l.App+"/"+l.ID); err != nil {
			return err
		}
		outcome = string(l.Status) + " by its own word"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is %s\n", l.ID, outcome)
	return err
}

func (c *cli) completeLeases() cobra.CompletionFunc {
	return completer(c, func(ctx context.Context, client *api.Client) ([]registry.Lease, error) {
		found, _, err := fetchLeases(ctx, client, "", 1000)
		return found, err
	}, func(l registry.Lease) string { return l.ID })
}
