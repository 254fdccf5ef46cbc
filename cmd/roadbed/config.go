package main

import (
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
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/properties"
	"github.com/spf13/cobra"
)

func (c *cli) config() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", GroupID: "change",
		Short: "Dynamic properties: get, set, watch, history",
		Long: `Dynamic properties reach every process that uses them within milliseconds, without a
restart. A property may have a scope: an app, a region, a zone, a server group, an
instance. The most specific one that fits wins.`,
		Args: noArgs,
		RunE: showHelp,
	}
	cmd.AddCommand(c.configGet(), c.configSet(), c.configDelete(), c.configList(), c.configWatch(), c.configHistory())
	keys := completer(c, func(ctx context.Context, client *api.Client) ([]properties.Property, error) {
		return listProperties(ctx, client, "")
	}, func(p properties.Property) string { return p.Key })
	for _, sub := range cmd.Commands() {
		if sub.Name() != "list" {
			sub.ValidArgsFunction = keys
		}
	}
	return cmd
}

// scopeFlags are the flags that say whom a property is for, or who asks.
type scopeFlags struct{ config.Scope }

func (s *scopeFlags) flags(cmd *cobra.Command, what string) {
	fs := cmd.Flags()
	fs.StringVar(&s.Env, "env", "", what+" this environment")
	fs.StringVar(&s.App, "app", "", what+" this app")
	fs.StringVar(&s.Stack, "stack", "", what+" this stack")
	fs.StringVar(&s.Region, "region", "", what+" this region")
	fs.StringVar(&s.Zone, "zone", "", what+" this zone")
	fs.StringVar(&s.Cluster, "cluster", "", what+" this cluster")
	fs.StringVar(&s.Group, "group", "", what+" this server group")
	fs.StringVar(&s.AMI, "ami", "", what+" this image")
	fs.StringVar(&s.Instance, "instance", "", what+" this instance")
	fs.StringVar(&s.Countries, "countries", "", what+" these countries, e.g. us,ca")
}

// scopeText writes a scope for a table, "everybody" when it is empty.
func scopeText(s config.Scope) string {
	var parts []string
	for _, f := range []struct{ name, value string }{
		{"env", s.Env}, {"app", s.App}, {"stack", s.Stack}, {"region", s.Region}, {"zone", s.Zone},
		{"cluster", s.Cluster}, {"group", s.Group}, {"ami", s.AMI}, {"instance", s.Instance}, {"countries", s.Countries},
	} {
		if f.value != "" {
			parts = append(parts, f.name+"="+f.value)
		}
	}
	if len(parts) == 0 {
		return "everybody"
	}
	return strings.Join(parts, " ")
}

// query returns the scope as the configuration API's parameters.
func (s *scopeFlags) query() url.Values { return s.Query() }

func (c *cli) configGet() *cobra.Command {
	var s scopeFlags
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "Show the value that a process gets",
		Args:  exactArgs("a KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			q := s.query()
			q.Set("prefix", args[0])
			q.Set("explain", "true") // what is for people has no secrets in it
			var r properties.Resolved
			if err := client.Do(cmd.Context(), http.MethodGet, "/config/v1/resolve?"+q.Encode(), nil, &r); err != nil {
				return err
			}
			v, ok := r.Properties[args[0]]
			if !ok {
				return fmt.Errorf("%s is not set for that scope; `roadbed config list` shows what is", args[0])
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), v)
			return err
		},
	}
	s.flags(cmd, "as a process in")
	return cmd
}

func (c *cli) configSet() *cobra.Command {
	var s scopeFlags
	var typ, description string
	cmd := &cobra.Command{
		Use:   "set KEY VALUE",
		Short: "Set a property",
		Example: `  roadbed config set demo.load.rps 300 --type int
  roadbed config set hystrix.command.catalog.circuitBreaker.forceOpen true --type bool --app api`,
		Args: exactArgs("a KEY", "a VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			p := properties.Property{Key: args[0], Scope: s.Scope, Value: args[1], Type: typ, Description: description}
			if err := setProperty(cmd.Context(), client, p); err != nil {
				return fmt.Errorf("%s stays as it was: %w", args[0], err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s = %s\n", args[0], args[1])
			return err
		},
	}
	s.flags(cmd, "only for")
	cmd.Flags().StringVar(&typ, "type", "", "string, int, float, bool, duration, list or json; kept as it was when not given")
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	return cmd
}

// setProperty creates p, or replaces the value of the one with the same key and scope.
func setProperty(ctx context.Context, client *api.Client, p properties.Property) error {
	return client.Do(ctx, http.MethodPost, "/config/v1/properties", p, nil)
}

func listProperties(ctx context.Context, client *api.Client, prefix string) ([]properties.Property, error) {
	var page properties.Listing
	err := client.Do(ctx, http.MethodGet, "/config/v1/properties?prefix="+url.QueryEscape(prefix), nil, &page)
	return page.Properties, err
}

func (c *cli) configDelete() *cobra.Command {
	var s scopeFlags
	cmd := &cobra.Command{
		Use:   "delete KEY",
		Short: "Delete a property; what is less specific holds again",
		Args:  exactArgs("a KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			err = client.Do(cmd.Context(), http.MethodDelete, "/config/v1/properties/"+properties.ID(args[0], s.Scope), nil, nil)
			var problem *api.Error
			if errors.As(err, &problem) && problem.Status == http.StatusNotFound {
				return fmt.Errorf("%s is not set for exactly that scope; `roadbed config list` shows what is", args[0])
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", args[0])
			return err
		},
	}
	s.flags(cmd, "only for")
	return cmd
}

func (c *cli) configList() *cobra.Command {
	var l listing
	var prefix string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List properties with their scopes",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return show(cmd, &l, []string{"KEY", "VALUE", "TYPE", "SCOPE", "BY", "AGE"},
				func(ctx context.Context) ([]properties.Property, error) {
					return listProperties(ctx, client, prefix)
				},
				func(p properties.Property) []string {
					v := p.Value
					if len(v) > 60 {
						v = v[:57] + "..."
					}
					return []string{p.Key, v, orDash(p.Type), scopeText(p.Scope), orDash(p.UpdatedBy), ago(time.UnixMilli(p.TS))}
				})
		},
	}
	cmd.Flags().StringVar(&prefix, "prefix", "", "only keys that start so")
	l.flags(cmd)
	return cmd
}

func (c *cli) configWatch() *cobra.Command {
	var s scopeFlags
	cmd := &cobra.Command{
		Use:   "watch [PREFIX]",
		Short: "Show properties as they change",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{errors.New("name at most one PREFIX")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			q := s.query()
			if len(args) == 1 {
				q.Set("prefix", args[0])
			}
			out := cmd.OutOrStdout()
			// The watch is for processes, which get secrets; people do not.
			shown := func(prefix string, values map[string]string) error {
				records, err := listProperties(cmd.Context(), client, prefix)
				if err != nil {
					return err
				}
				for _, p := range records {
					if _, ok := values[p.Key]; ok && p.Sensitive {
						values[p.Key] = properties.Mask
					}
				}
				for _, k := range slices.Sorted(maps.Keys(values)) {
					fmt.Fprintf(out, "%s = %s\n", k, values[k])
				}
				return nil
			}
			return client.Follow(cmd.Context(), "/config/v1/watch?"+q.Encode(), func(name string, data []byte) error {
				switch name {
				case "snapshot":
					var snap config.Snapshot
					if err := json.Unmarshal(data, &snap); err != nil {
						return fmt.Errorf("a snapshot: %w", err)
					}
					return shown(q.Get("prefix"), snap.Properties)
				case "change":
					var ch struct {
						Key   string  `json:"key"`
						Value *string `json:"value"`
					}
					if err := json.Unmarshal(data, &ch); err != nil {
						return fmt.Errorf("a change: %w", err)
					}
					if ch.Value == nil {
						fmt.Fprintf(out, "%s deleted\n", ch.Key)
						return nil
					}
					return shown(ch.Key, map[string]string{ch.Key: *ch.Value})
				}
				return nil
			})
		},
	}
	s.flags(cmd, "as a process in")
	return cmd
}

func (c *cli) configHistory() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:   "history KEY",
		Short: "Show what a property was, who set it and when",
		Args:  exactArgs("a KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return show(cmd, &l, []string{"TIME", "REVISION", "VALUE", "SCOPE", "BY"},
				func(ctx context.Context) ([]properties.Property, error) {
					var page properties.Past
					err := client.Do(ctx, http.MethodGet, "/config/v1/history?key="+url.QueryEscape(args[0]), nil, &page)
					var problem *api.Error
					if errors.As(err, &problem) && problem.Status == http.StatusNotFound {
						return nil, fmt.Errorf("%s was never set", args[0])
					}
					return page.History, err
				},
				func(v properties.Property) []string {
					value := v.Value
					if v.Deleted {
						value = "(deleted)"
					}
					return []string{time.UnixMilli(v.TS).Local().Format("2006-01-02 15:04:05"), strconv.FormatUint(v.Rev, 10), value, scopeText(v.Scope), orDash(v.UpdatedBy)}
				})
		},
	}
	l.flags(cmd)
	return cmd
}
