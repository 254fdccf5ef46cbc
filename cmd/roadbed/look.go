package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/fleet"
	"github.com/roadbed/roadbed/platform/registry"
	"github.com/spf13/cobra"
)

func (c *cli) services() *cobra.Command {
	cmd := &cobra.Command{Use: "service", Aliases: []string{"services"}, GroupID: "look", Short: "Services the registry knows", Args: noArgs, RunE: showHelp}
	var l listing
	list := &cobra.Command{
		Use:   "list",
		Short: "List services with their instances by zone",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return show(cmd, &l, []string{"SERVICE", "UP", "ZONES", "CRITICALITY"}, fetchList[registry.Service](client, "/api/v1/services"),
				func(s registry.Service) []string {
					var zones []string
					for _, z := range slices.Sorted(maps.Keys(s.Zones)) {
						zones = append(zones, fmt.Sprintf("%s %d/%d", z, s.Zones[z].Up, s.Zones[z].Total))
					}
					return []string{s.Name, fmt.Sprintf("%d/%d", s.Up, s.Instances), orDash(strings.Join(zones, ", ")), s.Criticality.String()}
				})
		},
	}
	l.flags(list)
	cmd.AddCommand(list)
	return cmd
}

func (c *cli) clusters() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Aliases: []string{"clusters"}, GroupID: "look", Short: "Clusters: all versions of one thing", Args: noArgs, RunE: showHelp}
	var l listing
	list := &cobra.Command{
		Use:   "list",
		Short: "List clusters with their server groups",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return show(cmd, &l, []string{"CLUSTER", "SERVER GROUPS", "UP"}, fetchList[fleet.ClusterView](client, "/api/v1/clusters"),
				func(k fleet.ClusterView) []string {
					return []string{k.Name, strings.Join(k.ServerGroups, ", "), fmt.Sprintf("%d/%d", k.Healthy, k.Desired)}
				})
		},
	}
	l.flags(list)
	cmd.AddCommand(list)
	return cmd
}

// instanceRow is an instance as the registry and the fleet know it, together.
type instanceRow struct {
	ID       string         `json:"id"`
	App      string         `json:"app"`
	Zone     string         `json:"zone"`
	Address  string         `json:"address"`
	Status   roadbed.Status `json:"status"`
	State    string         `json:"state,omitempty"` // what the fleet says of its process; empty if it runs elsewhere
	PID      int            `json:"pid,omitempty"`
	Restarts int            `json:"restarts"`
	Age      string         `json:"age"`
	Health   string         `json:"health,omitempty"` // what the fleet's last probe found
}

func (c *cli) instances() *cobra.Command {
	cmd := &cobra.Command{Use: "instance", Aliases: []string{"instances"}, GroupID: "look", Short: "Instances: registered and running; in and out of traffic", Args: noArgs, RunE: showHelp}
	var l listing
	var app string
	list := &cobra.Command{
		Use:   "list",
		Short: "List instances",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return show(cmd, &l, []string{"INSTANCE", "SERVICE", "ZONE", "ADDRESS", "STATUS", "PID", "RESTARTS", "AGE", "HEALTH"},
				func(ctx context.Context) ([]instanceRow, error) { return fetchInstances(ctx, client, app) },
				func(i instanceRow) []string {
					pid := "-"
					if i.PID != 0 {
						pid = strconv.Itoa(i.PID)
					}
					// The registry believes an instance as long as its lease lasts; the fleet sees sooner that it is not well.
					status := string(i.Status)
					if i.Status == "" || i.Status == roadbed.Up && i.State != "" && i.State != string(fleet.StateUp) {
						status = i.State
					}
					return []string{i.ID, i.App, i.Zone, i.Address, status, pid, strconv.Itoa(i.Restarts), i.Age, orDash(firstLine(i.Health))}
				})
		},
	}
	list.Flags().StringVar(&app, "service", "", "only instances of this service")
	l.flags(list)
	cmd.AddCommand(list, c.instanceOverride(), c.instanceClear())
	return cmd
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// fetchInstances joins what the registry and the fleet say.
func fetchInstances(ctx context.Context, client *api.Client, app string) ([]instanceRow, error) {
	registered, err := fetchList[roadbed.Instance](client, "/api/v1/registry/instances")(ctx)
	if err != nil {
		return nil, err
	}
	running, err := fetchList[fleet.InstanceView](client, "/api/v1/instances")(ctx)
	if err != nil {
		return nil, err
	}
	rows := make(map[string]instanceRow)
	for _, i := range running {
		rows[i.ID] = instanceRow{ID: i.ID, App: i.App, Zone: i.Zone, Address: fmt.Sprintf("127.0.0.1:%d", i.Port), State: string(i.State),
			PID: i.PID, Restarts: i.Restarts, Age: ago(i.Since), Health: i.Health}
	}
	for _, i := range registered {
		r, ok := rows[i.ID]
		if !ok {
			r = instanceRow{ID: i.ID, App: i.App, Zone: i.Location.Zone, Age: ago(i.Since)}
		}
		r.Status, r.Address = i.Status, i.Addr()
		rows[i.ID] = r
	}
	list := slices.SortedFunc(maps.Values(rows), func(a, b instanceRow) int { return cmp.Compare(a.ID, b.ID) })
	return slices.DeleteFunc(list, func(r instanceRow) bool { return app != "" && !strings.EqualFold(r.App, app) }), nil
}

// errEnded is how following a log stops when its instance does.
var errEnded = errors.New("the instance has ended")

func (c *cli) logs() *cobra.Command {
	var tail int
	var follow bool
	cmd := &cobra.Command{
		Use:     "logs INSTANCE",
		GroupID: "look",
		Short:   "Show what an instance printed",
		Example: `  roadbed logs api-v000-0-x7f3
  roadbed logs api --follow       any instance of api`,
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
			path := "/api/v1/instances/" + url.PathEscape(id) + "/logs?tail=" + strconv.Itoa(tail)
			out := cmd.OutOrStdout()
			if !follow {
				var past struct {
					Lines []string `json:"lines"`
				}
				if err := client.Do(cmd.Context(), http.MethodGet, path, nil, &past); err != nil {
					return err
				}
				for _, line := range past.Lines {
					fmt.Fprintln(out, line)
				}
				return nil
			}
			err = client.Follow(cmd.Context(), path+"&follow=true", func(name string, data []byte) error {
				if name == "end" {
					return errEnded
				}
				var line fleet.Line
				if err := json.Unmarshal(data, &line); err != nil {
					return fmt.Errorf("a log line: %w", err)
				}
				_, err := fmt.Fprintln(out, line.Text)
				return err
			})
			if errors.Is(err, errEnded) {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s has ended\n", id)
				return nil
			}
			return err
		},
	}
	cmd.Flags().IntVar(&tail, "tail", 200, "how many lines of the past")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what it prints now")
	return cmd
}

func (c *cli) changes() *cobra.Command {
	var l listing
	var follow bool
	var limit int
	var actor, action, resource string
	cmd := &cobra.Command{
		Use:     "changes",
		Aliases: []string{"change"},
		GroupID: "look",
		Short:   "Show who changed what, when and why",
		Example: `  roadbed changes --limit 5
  roadbed changes --follow
  roadbed changes --resource property: -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			q := url.Values{"limit": {strconv.Itoa(limit)}}
			for k, v := range map[string]string{"actor": actor, "action": action, "resource": resource} {
				if v != "" {
					q.Set(k, v)
				}
			}
			newest := func(ctx context.Context) ([]roadbed.Change, error) {
				var page struct {
					Changes []roadbed.Change `json:"changes"`
				}
				err := client.Do(ctx, http.MethodGet, "/api/v1/changes?"+q.Encode(), nil, &page)
				return page.Changes, err
			}
			if !follow {
				return show(cmd, &l, changeHeader, newest, changeCells)
			}
			past, err := newest(cmd.Context())
			if err != nil {
				return err
			}
			slices.Reverse(past)
			out := cmd.OutOrStdout()
			last := uint64(0)
			put := func(ch roadbed.Change) error {
				if ch.ID <= last || !strings.HasPrefix(ch.Resource, resource) || actor != "" && ch.Actor != actor || !actionIs(ch.Action, action) {
					return nil
				}
				last = ch.ID
				if l.format == "json" {
					return json.NewEncoder(out).Encode(ch)
				}
				_, err := fmt.Fprintln(out, strings.Join(changeCells(ch), "  "))
				return err
			}
			for _, ch := range past {
				if err := put(ch); err != nil {
					return err
				}
			}
			return client.Follow(cmd.Context(), "/api/v1/changes/stream?after="+strconv.FormatUint(last, 10), func(name string, data []byte) error {
				var ch roadbed.Change
				if err := json.Unmarshal(data, &ch); err != nil {
					return fmt.Errorf("a change: %w", err)
				}
				return put(ch)
			})
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&follow, "follow", "f", false, "go on with changes as they happen")
	fs.IntVar(&limit, "limit", 20, "how many changes of the past")
	fs.StringVar(&actor, "actor", "", "only changes by this actor")
	fs.StringVar(&action, "action", "", "only this action; serverGroup.* for all that start so")
	fs.StringVar(&resource, "resource", "", "only resources that start so, e.g. property:")
	l.flags(cmd)
	return cmd
}

// actionIs reports whether an action is the wanted one: exactly, any that starts so when want ends in *, or any at all
// when it is empty.
func actionIs(action, want string) bool {
	start, open := strings.CutSuffix(want, "*")
	return want == "" || action == want || open && strings.HasPrefix(action, start)
}

var changeHeader = []string{"TIME", "ID", "ACTOR", "ACTION", "RESOURCE", "RESULT", "WHY"}

func changeCells(ch roadbed.Change) []string {
	why := ch.Why
	if ch.Error != "" {
		why = ch.Error
	}
	return []string{ch.Time.Local().Format("2006-01-02 15:04:05"), strconv.FormatUint(ch.ID, 10), ch.Actor, ch.Action, ch.Resource, string(ch.Result), orDash(firstLine(why))}
}

// fetchList returns a function that fetches a JSON list.
func fetchList[T any](client *api.Client, path string) func(context.Context) ([]T, error) {
	return func(ctx context.Context) ([]T, error) {
		list := []T{} // an empty list prints as [], not null
		err := client.Do(ctx, http.MethodGet, path, nil, &list)
		return list, err
	}
}
