package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/properties"
	"github.com/roadbed/roadbed/platform/registry"
	"github.com/spf13/cobra"
)

func (c *cli) config() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", GroupID: "change",
		Short: "Dynamic properties: search, set, watch; who gets what and why; history",
		Long: `Dynamic properties reach every process that uses them within milliseconds, without a
restart. A property may have a scope: an app, a region, a zone, a server group, an
instance. The most specific one that fits wins.`,
		Args: noArgs,
		RunE: showHelp,
	}
	cmd.AddCommand(c.configList(), c.configSearch(), c.configGet(), c.configExplain(), c.configSet(), c.configDelete(),
		c.configValidate(), c.configWatch(), c.configHistory(), c.configDiff(), c.configRestore(), c.configFreeze(), c.configUnfreeze())
	keys := c.completeKeys()
	for _, sub := range cmd.Commands() {
		switch sub.Name() {
		case "list", "search", "restore", "freeze", "unfreeze":
		default:
			sub.ValidArgsFunction = keys
		}
	}
	return cmd
}

func (c *cli) completeKeys() cobra.CompletionFunc {
	return completer(c, func(ctx context.Context, client *api.Client) ([]properties.Property, error) {
		return listProperties(ctx, client, url.Values{})
	}, func(p properties.Property) string { return p.Key })
}

// scopeFlags are the flags that say whom a property is for, or who asks.
type scopeFlags struct{ config.Scope }

func (s *scopeFlags) flags(c *cli, cmd *cobra.Command, what string) {
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
	apps := completer(c, listAt[registry.Service]("/api/v1/services"), func(s registry.Service) string { return s.Name })
	leases := c.completeLeases()
	for name, complete := range map[string]cobra.CompletionFunc{"app": apps, "instance": leases} {
		// A flag is completed whatever arguments stand before it.
		flag := func(cmd *cobra.Command, _ []string, part string) ([]string, cobra.ShellCompDirective) {
			return complete(cmd, nil, part)
		}
		cmd.RegisterFlagCompletionFunc(name, flag) //nolint:errcheck // fails only for a flag that does not exist
	}
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
			r, err := s.resolve(cmd.Context(), client, args[0])
			if err != nil {
				return err
			}
			v, ok := r.Properties[args[0]]
			if !ok {
				return fmt.Errorf("%s is not set for that scope; `roadbed config explain %[1]s` shows for whom it is", args[0])
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), v)
			return err
		},
	}
	s.flags(c, cmd, "as a process in")
	return cmd
}

// resolve asks what a process in s gets of the keys that start with prefix, and why. An instance that is registered
// need not say more of itself.
func (s *scopeFlags) resolve(ctx context.Context, client *api.Client, prefix string) (r properties.Resolved, err error) {
	scope := s.Scope
	if scope.Instance != "" {
		if l, err := findLease(ctx, client, scope.Instance); err == nil { // else it is whom it says
			scope.App, scope.Group = cmp.Or(scope.App, l.App), cmp.Or(scope.Group, l.Group)
			scope.Region, scope.Zone = cmp.Or(scope.Region, l.Location.Region), cmp.Or(scope.Zone, l.Location.Zone)
			scope.Instance = l.ID
		}
	}
	q := scope.Query()
	q.Set("prefix", prefix)
	q.Set("explain", "true") // what is for people has no secrets in it
	err = client.Do(ctx, http.MethodGet, "/config/v1/resolve?"+q.Encode(), nil, &r)
	return r, err
}

func (c *cli) configExplain() *cobra.Command {
	var s scopeFlags
	var l listing
	cmd := &cobra.Command{
		Use:   "explain KEY",
		Short: "Show every value of a key, which one a process gets, and why",
		Example: `  roadbed config explain api.limit --app api --zone zone-a
  roadbed config explain api.limit --instance api-v000-1-x7f3     what that instance gets`,
		Args: exactArgs("a KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return show(cmd, &l, []string{"GETS", "VALUE", "SCOPE", "WHY", "BY", "AGE"},
				func(ctx context.Context) ([]properties.Candidate, error) {
					r, err := s.resolve(ctx, client, args[0])
					if err == nil && len(r.Explain[args[0]]) == 0 {
						err = fmt.Errorf("%s is not set for anybody; `roadbed config search %[1]s` looks for what is alike", args[0])
					}
					return r.Explain[args[0]], err
				},
				func(x properties.Candidate) []string {
					gets := "-"
					if x.Wins {
						gets = "this"
					}
					return []string{gets, shortValue(x.Property), scopeText(x.Scope), x.Reason, orDash(x.UpdatedBy), age(x.Property)}
				})
		},
	}
	s.flags(c, cmd, "as a process in")
	l.flags(cmd)
	return cmd
}

func (c *cli) configSet() *cobra.Command {
	var s scopeFlags
	var p properties.Property
	var least, most float64
	var pattern, confirm, file string
	var rev uint64
	var glass bool
	cmd := &cobra.Command{
		Use:   "set KEY (VALUE | --file FILE)",
		Short: "Set a property",
		Example: `  roadbed config set demo.load.rps 300 --type int
  roadbed config set hystrix.command.catalog.circuitBreaker.forceOpen true --type bool --app api
  roadbed config set api.limit 20 --type int --min 1 --max 100 --why "the new machines are faster"
  roadbed config set --type int -- hystrix.threadpool.default.maxQueueSize -1
  roadbed config set db.password --sensitive --file - < secret`,
		Args: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				return exactArgs("a KEY")(cmd, args)
			}
			return exactArgs("a KEY", "a VALUE or --file")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			p.Key, p.Scope, p.Source = args[0], s.Scope, "cli"
			if file == "" {
				p.Value = args[1]
			} else if p.Value, err = readValue(cmd.InOrStdin(), file); err != nil {
				return fmt.Errorf("%s stays as it was: %w", p.Key, err)
			}
			if cmd.Flags().Changed("min") || cmd.Flags().Changed("max") || pattern != "" {
				p.Constraint = &properties.Constraint{Pattern: pattern}
				if cmd.Flags().Changed("min") {
					p.Constraint.Min = &least
				}
				if cmd.Flags().Changed("max") {
					p.Constraint.Max = &most
				}
			}
			if cmd.Flags().Changed("if-rev") {
				client.Header = ifRevision(rev)
			}
			var out properties.Answer
			err = client.Do(cmd.Context(), http.MethodPost, "/config/v1/properties?"+permits(glass, confirm), p, &out)
			var problem *api.Error
			switch {
			case errors.As(err, &problem) && problem.Status == http.StatusPreconditionRequired:
				return fmt.Errorf("%s stays as it was: it would override what every app has in %s; add --app, or --confirm %s if that is meant", p.Key, scopeText(p.Scope), problem.Token())
			case err != nil:
				return fmt.Errorf("%s stays as it was: %w", p.Key, frozen(err))
			}
			for _, w := range out.Warnings {
				fmt.Fprintf(cmd.ErrOrStderr(), "mind: %s\n", w)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s = %s\n", p.Key, out.Value)
			return err
		},
	}
	s.flags(c, cmd, "only for")
	fs := cmd.Flags()
	fs.StringVar(&file, "file", "", "read the value from this file, \"-\" for standard input; a line break at its end is no part of it")
	fs.StringVar(&p.Type, "type", "", "string, int, long, float, bool, duration, list, map, json, regex, gzip or enum(a,b,c); kept as it was when not given")
	fs.StringVar(&p.Description, "description", "", "what it is for")
	fs.StringVar(&p.Email, "owner", "", "e-mail address of its owner")
	fs.BoolVar(&p.Sensitive, "sensitive", false, "nobody is shown the value again, only those who use it")
	fs.Float64Var(&least, "min", 0, "least value of a number; of a duration in milliseconds")
	fs.Float64Var(&most, "max", 0, "most")
	fs.StringVar(&pattern, "pattern", "", "regular expression that the whole value must match")
	fs.Uint64Var(&rev, "if-rev", 0, "only if it is at this revision still; 0 = only if it is not set")
	breakGlass(cmd, &glass)
	fs.StringVar(&confirm, "confirm", "", "\"global\" for a value that names a zone, region or stack but no app")
	cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(properties.Types(), cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // fails only for a flag that does not exist
	return cmd
}

// breakGlass adds the flag by which a change is made although changes are frozen.
func breakGlass(cmd *cobra.Command, glass *bool) {
	cmd.Flags().BoolVar(glass, "break-glass", false, "also while changes are frozen; needs --why, and the change log says so")
}

// permits returns what a change is allowed besides, as its query.
func permits(glass bool, confirm ...string) string {
	q := url.Values{}
	for _, token := range confirm {
		if token != "" {
			q.Add("confirm", token)
		}
	}
	if glass {
		q.Set("breakGlass", "true")
	}
	return q.Encode()
}

// readValue reads a value from a file, or from in if that is "-".
func readValue(in io.Reader, file string) (string, error) {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("read the value: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, properties.MaxPacked+2)) // one more than is allowed, and a line break
	if err != nil {
		return "", fmt.Errorf("read the value: %w", err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), nil
}

// ifRevision is the header by which a write happens only at that revision; 0 wants nothing to be there.
func ifRevision(rev uint64) http.Header {
	if rev == 0 {
		return http.Header{"If-None-Match": {"*"}}
	}
	return http.Header{"If-Match": {strconv.Quote(strconv.FormatUint(rev, 10))}}
}

// setProperty creates p, or replaces the value of the one with the same key and scope.
func setProperty(ctx context.Context, client *api.Client, p properties.Property) error {
	return client.Do(ctx, http.MethodPost, "/config/v1/properties", p, nil)
}

// listProperties returns the records that q selects, in the words of GET /config/v1/properties.
func listProperties(ctx context.Context, client *api.Client, q url.Values) ([]properties.Property, error) {
	var page properties.Listing
	err := client.Do(ctx, http.MethodGet, "/config/v1/properties?"+q.Encode(), nil, &page)
	return page.Properties, err
}

// selection is which properties are meant.
type selection struct{ prefix, app, filter string }

func (s *selection) flags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&s.prefix, "prefix", "", "only keys that start so")
	fs.StringVar(&s.filter, "filter", "", "only what this selects, e.g. \"(appId='api' or appId is null) and zone='zone-a'\"")
}

func (s *selection) query(words ...string) url.Values {
	q := url.Values{}
	for k, v := range map[string]string{"prefix": s.prefix, "filter": s.filter, "q": strings.Join(words, " ")} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if s.app != "" {
		named := "appId='" + s.app + "'"
		if s.filter != "" {
			named += " and " + s.filter
		}
		q.Set("filter", named)
	}
	return q
}

func (c *cli) configDelete() *cobra.Command {
	var s scopeFlags
	var which selection
	var words, confirm string
	var rev uint64
	var glass bool
	cmd := &cobra.Command{
		Use:   "delete (KEY | --prefix P | --filter F | --search WORDS)",
		Short: "Delete a property, or several; what is less specific holds again",
		Example: `  roadbed config delete api.limit --app api
  roadbed config delete --prefix old.feature. --why "it is gone from the code"`,
		Args: func(cmd *cobra.Command, args []string) error {
			several := which.prefix != "" || which.filter != "" || words != ""
			switch {
			case len(args) == 0 && !several:
				return usageError{errors.New("name a KEY, or say which with --prefix, --filter or --search")}
			case len(args) == 1 && several:
				return usageError{errors.New("name a KEY, or say which with --prefix, --filter or --search, not both")}
			case len(args) > 1:
				return usageError{fmt.Errorf("roadbed config delete does not understand %q", args[1])}
			case several && s.Scope != (config.Scope{}):
				return usageError{errors.New("the flags of a scope go with a KEY; with --filter write the scope into the filter, e.g. --filter \"appId='api'\"")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return deleteSeveral(cmd, client, which.query(words), permits(glass, confirm))
			}
			if cmd.Flags().Changed("if-rev") {
				client.Header = ifRevision(rev)
			}
			err = client.Do(cmd.Context(), http.MethodDelete, "/config/v1/properties/"+properties.ID(args[0], s.Scope)+"?"+permits(glass), nil, nil)
			var problem *api.Error
			if errors.As(err, &problem) && problem.Status == http.StatusNotFound {
				return fmt.Errorf("%s is not set for exactly that scope; `roadbed config list` shows what is", args[0])
			}
			if err != nil {
				return frozen(err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", args[0])
			return err
		},
	}
	s.flags(c, cmd, "only for")
	which.flags(cmd)
	fs := cmd.Flags()
	fs.StringVar(&words, "search", "", "every property in which these words occur, as `roadbed config search` lists them")
	fs.Uint64Var(&rev, "if-rev", 0, "only if it is at this revision still")
	breakGlass(cmd, &glass)
	fs.StringVar(&confirm, "confirm", "", "the token that a large deletion asks for")
	return cmd
}

// deleteSeveral deletes what which selects. When that is much, the error says how to confirm it.
func deleteSeveral(cmd *cobra.Command, client *api.Client, which url.Values, permits string) error {
	var gone properties.Listing
	err := client.Do(cmd.Context(), http.MethodDelete, "/config/v1/properties?"+which.Encode()+"&"+permits, nil, &gone)
	var problem *api.Error
	if errors.As(err, &problem) && problem.Status == http.StatusPreconditionRequired {
		return fmt.Errorf("nothing is deleted yet: %s; see what it is with `roadbed config list`, then say it again with --confirm %s", problem.Detail, problem.Token())
	}
	if err != nil {
		return frozen(err)
	}
	for _, p := range gone.Properties {
		fmt.Fprintf(cmd.OutOrStdout(), "deleted %s for %s\n", p.Key, scopeText(p.Scope))
	}
	if len(gone.Properties) == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "nothing is selected, nothing is deleted")
	}
	return nil
}

var propertyHeader = []string{"KEY", "VALUE", "TYPE", "SCOPE", "BY", "AGE"}

func propertyCells(p properties.Property) []string {
	return []string{p.Key, shortValue(p), orDash(p.Type), scopeText(p.Scope), orDash(p.UpdatedBy), age(p)}
}

// age says how long ago p was written; what a roll-out shows is not written yet.
func age(p properties.Property) string {
	if p.TS == 0 {
		return "-"
	}
	return ago(p.Time())
}

// shortValue is a value as a table has room for it.
func shortValue(p properties.Property) string {
	if p.Deleted {
		return "(deleted)"
	}
	if r := []rune(p.Value); len(r) > 60 {
		return string(r[:57]) + "..."
	}
	return p.Value
}

func (c *cli) configList() *cobra.Command {
	var l listing
	var which selection
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List properties with their scopes",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return show(cmd, &l, propertyHeader, func(ctx context.Context) ([]properties.Property, error) {
				return listProperties(ctx, client, which.query())
			}, propertyCells)
		},
	}
	which.flags(cmd)
	cmd.Flags().StringVar(&which.app, "app", "", "only what is for this app")
	l.flags(cmd)
	return cmd
}

func (c *cli) configSearch() *cobra.Command {
	var l listing
	var which selection
	cmd := &cobra.Command{
		Use:   "search WORD ...",
		Short: "Find properties by any word in key, value, scope, description or writer",
		Long: `Find properties in which every word occurs, in any letter case: in the key, the value, the
scope, the description, the owner, the ticket or who wrote it. Values of sensitive properties
are not searched.`,
		Example: `  roadbed config search timeout catalog
  roadbed config search zone=zone-a
  roadbed config search 10.0.3.7`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("name a WORD to look for; `roadbed config list` lists everything")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return show(cmd, &l, propertyHeader, func(ctx context.Context) ([]properties.Property, error) {
				return listProperties(ctx, client, which.query(args...))
			}, propertyCells)
		},
	}
	which.flags(cmd)
	cmd.Flags().StringVar(&which.app, "app", "", "only what is for this app")
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
				records, err := listProperties(cmd.Context(), client, url.Values{"prefix": {prefix}})
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
	s.flags(c, cmd, "as a process in")
	return cmd
}
