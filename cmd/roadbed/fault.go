package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/chaos"
	"github.com/roadbed/roadbed/platform/registry"
	"github.com/spf13/cobra"
)

func (c *cli) faults() *cobra.Command {
	cmd := &cobra.Command{
		Use: "fault", Aliases: []string{"faults"}, GroupID: "change",
		Short: "Inject failures into requests, for a while", Args: noArgs, RunE: showHelp,
	}
	cmd.AddCommand(c.faultAdd(), c.faultList(), c.faultRemove())
	return cmd
}

func (c *cli) faultAdd() *cobra.Command {
	var services, users []string
	var nonCritical bool
	var status int
	var delay, jitter, last time.Duration
	var rules, description string
	var percent float64
	cmd := &cobra.Command{
		Use:   "add (--service NAME | --non-critical | --rules RULES) [--error STATUS] [--delay DURATION]",
		Short: "Inject a failure into requests; it ends by itself",
		Example: `  roadbed fault add --service recommendations --error 503 --for 2m
  roadbed fault add --service catalog --delay 300ms --jitter 50ms --percent 10
  roadbed fault add --non-critical --error 503 --why "can members live without?"
  roadbed fault add --rules 'client:bookmarks=delay(1s)@50' --user u-17`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if nonCritical {
				if services, err = nonCriticalServices(ctx, client); err != nil {
					return err
				}
			}
			switch {
			case rules != "" && len(services) > 0:
				return usageError{errors.New("give --rules or services, not both")}
			case rules == "" && len(services) == 0:
				return usageError{errors.New("say what shall fail: --service NAME, --non-critical or --rules RULES")}
			case rules == "" && status == 0 && delay == 0:
				return usageError{errors.New("say how it shall fail: --error STATUS, --delay DURATION or both")}
			case status != 0 && (status < 400 || status > 599):
				return usageError{fmt.Errorf("--error %d: use an HTTP status from 400 to 599", status)}
			}
			if err := chosen(cmd.Flags()); err != nil {
				return err
			}
			if rules == "" {
				rules = faultRules(services, status, delay, jitter)
			}
			f := chaos.Fault{
				Description: cmp.Or(description, faultWords(services, status, delay)), Rules: rules,
				Who: chaos.Who{Percent: &percent, Users: users}, Expires: time.Now().Add(last),
			}
			return inject(cmd, client, f, "end it before with: roadbed fault remove")
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&services, "service", nil, "services whose calls fail; may be repeated")
	fs.BoolVar(&nonCritical, "non-critical", false, "every service that is not CRITICAL")
	fs.IntVar(&status, "error", 0, "answer with this status")
	fs.DurationVar(&delay, "delay", 0, "wait so long first")
	fs.DurationVar(&jitter, "jitter", 0, "vary the delay by up to this")
	fs.StringVar(&rules, "rules", "", "rules in full, e.g. 'server:ratings=reset@25;client:bookmarks=delay(300ms)'")
	fs.Float64Var(&percent, "percent", 100, "share of users, stable per user; 0 is nobody")
	fs.StringSliceVar(&users, "user", nil, "only for these users")
	fs.DurationVar(&last, "for", 10*time.Minute, "when it ends by itself, at most 24h")
	fs.StringVar(&description, "description", "", "what it is for, in a few words")
	byService := completer(c, listAt[registry.Service]("/api/v1/services"), func(s registry.Service) string { return s.Name })
	cmd.RegisterFlagCompletionFunc("service", byService) //nolint:errcheck // fails only for a flag that does not exist
	return cmd
}

// inject begins a fault, and prints until when it lasts and how to end it before.
func inject(cmd *cobra.Command, client *api.Client, f chaos.Fault, before string) error {
	if err := client.Do(cmd.Context(), http.MethodPost, "/api/v1/faults", f, &f); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, until %s\n%s %[1]s\n", f.ID, f.Description, f.Expires.Local().Format("15:04:05"), before)
	return nil
}

// endFault ends one fault and says so.
func endFault(cmd *cobra.Command, client *api.Client, id, did string) error {
	if err := client.Do(cmd.Context(), http.MethodDelete, "/api/v1/faults/"+url.PathEscape(id), nil, nil); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", did, id)
	return nil
}

// oneOrAll accepts either one argument or --all.
func oneOrAll(what string, all *bool) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if *all == (len(args) == 1) || len(args) > 1 {
			return usageError{fmt.Errorf("name one %s, or say --all", what)}
		}
		return nil
	}
}

// faultRules writes one rule per service and action, at the server's side so that every caller feels it.
func faultRules(services []string, status int, delay, jitter time.Duration) string {
	var rules []string
	for _, s := range services {
		if delay > 0 {
			wait := delay.String()
			if jitter > 0 {
				wait += "," + jitter.String()
			}
			rules = append(rules, fmt.Sprintf("server:%s=delay(%s)", s, wait))
		}
		if status != 0 {
			rules = append(rules, fmt.Sprintf("server:%s=error(%d)", s, status))
		}
	}
	return strings.Join(rules, ";")
}

func faultWords(services []string, status int, delay time.Duration) string {
	what := strings.Join(services, ", ")
	switch {
	case what == "":
		return "rules as given"
	case status == 0:
		return fmt.Sprintf("%s slower by %s", what, delay)
	case delay == 0:
		return fmt.Sprintf("%s answering %d", what, status)
	}
	return fmt.Sprintf("%s slower by %s and answering %d", what, delay, status)
}

// nonCriticalServices returns every registered service that customers can do without, but not those that make the
// load.
func nonCriticalServices(ctx context.Context, client *api.Client) ([]string, error) {
	list, err := fetchList[registry.Service](client, "/api/v1/services")(ctx)
	if err != nil {
		return nil, err
	}
	return nonCriticalOn(ctx, client, list, "")
}

func (c *cli) faultList() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List faults in force",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return show(cmd, &l, []string{"FAULT", "WHAT", "WHO", "ENDS IN", "BY", "WHY"}, fetchList[chaos.Fault](client, "/api/v1/faults"),
				func(f chaos.Fault) []string {
					return []string{f.ID, f.Description, whom(f.Who), time.Until(f.Expires).Round(time.Second).String(), f.Actor, orDash(f.Why)}
				})
		},
	}
	l.flags(cmd)
	return cmd
}

func (c *cli) faultRemove() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "remove (FAULT | --all)",
		Short: "End a fault now",
		Args:  oneOrAll("FAULT", &all),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if all {
				args = nil
				list, err := fetchList[chaos.Fault](client, "/api/v1/faults")(cmd.Context())
				if err != nil {
					return err
				}
				for _, f := range list {
					args = append(args, f.ID)
				}
			}
			for _, id := range args {
				if err := endFault(cmd, client, id, "removed"); err != nil {
					return err
				}
			}
			if len(args) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "no faults are in force")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "end all faults")
	cmd.ValidArgsFunction = completer(c, listAt[chaos.Fault]("/api/v1/faults"), func(f chaos.Fault) string { return f.ID })
	return cmd
}
