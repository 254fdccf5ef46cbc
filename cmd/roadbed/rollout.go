package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/properties"
	"github.com/spf13/cobra"
)

func (c *cli) rollouts() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rollout", Aliases: []string{"rollouts"}, GroupID: "change",
		Short: "Bring a property to few instances first, then to all; it goes back by itself when they suffer",
		Long: `A roll-out brings a change of properties to one instance, then to a part of its zone, and so on
to all. While it is under way those it has reached are compared with the others; when more of
them fall, when one cannot use the value, or when a metric strikes, everybody gets back what
was before, within a second.`,
		Args: noArgs,
		RunE: showHelp,
	}
	do := func(verb, past, short string) *cobra.Command {
		return &cobra.Command{
			Use: verb + " ROLLOUT", Short: short, Args: exactArgs("a ROLLOUT"), ValidArgsFunction: c.completeRollouts(),
			RunE: func(cmd *cobra.Command, args []string) error { return c.commandRollout(cmd, args[0], verb, past) },
		}
	}
	cmd.AddCommand(c.rolloutCreate(), c.rolloutList(), c.rolloutShow(), c.rolloutWatch(),
		do("start", "started", "Start one that was created with --hold"),
		do("pause", "paused", "Stay where it is: whoever has it keeps it, nobody else gets it"),
		do("resume", "resumed", "Go on, from the beginning of the step it is in"),
		do("advance", "advanced", "Take the next step without waiting"),
		do("approve", "approved", "Let it take a step that a person must approve"),
		do("abort", "aborted", "Stop it: everybody gets back what was before"))
	return cmd
}

// commandRollout does a command with a roll-out and says where it stands then.
func (c *cli) commandRollout(cmd *cobra.Command, id, verb, past string) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	var r properties.Rollout
	if err := client.Do(cmd.Context(), http.MethodPost, "/config/v1/rollouts/"+url.PathEscape(id)+"/"+verb, nil, &r); err != nil {
		return frozen(err)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %s\n", past, r.ID, standing(r))
	return err
}

// frozen adds to an error that changes are frozen how to end that.
func frozen(err error) error {
	var problem *api.Error
	if errors.As(err, &problem) && problem.Status == http.StatusLocked {
		return fmt.Errorf("%w; `roadbed config unfreeze` ends it", err)
	}
	return err
}

// standing says where a roll-out stands: "RUNNING (BAKING), step 1 of 5: instances:1".
func standing(r properties.Rollout) string {
	s := string(r.State)
	if r.Phase != "" {
		s += " (" + string(r.Phase) + ")"
	}
	if r.Step >= 0 && r.Step < len(r.Steps) && !r.State.Over() {
		s += fmt.Sprintf(", step %d of %d: %s", r.Step+1, len(r.Steps), r.Steps[r.Step].Selector)
	}
	return s
}

// rolloutName is a roll-out's title, else what it changes.
func rolloutName(r properties.Rollout) string {
	if r.Title != "" || len(r.Changes) == 0 {
		return r.Title
	}
	name := r.Changes[0].Record.Key
	if n := len(r.Changes) - 1; n > 0 {
		name += fmt.Sprintf(" and %d more", n)
	}
	return name
}

func (c *cli) rolloutList() *cobra.Command {
	var l listing
	var state, app, key string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List roll-outs, the newest first",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			q := url.Values{"state": {state}, "app": {app}, "key": {key}}
			return show(cmd, &l, []string{"ROLLOUT", "WHAT", "STATE", "STEP", "LOST", "AGE", "BY", "WHY"},
				func(ctx context.Context) ([]properties.Rollout, error) { return listRollouts(ctx, client, q) },
				func(r properties.Rollout) []string {
					state, lost := string(r.State), "-"
					if r.Phase != "" {
						state += " " + string(r.Phase)
					}
					if r.Status != nil {
						lost = fmt.Sprintf("%d/%d", r.Status.Lost, r.Status.Reached)
					}
					return []string{r.ID, rolloutName(r), state, fmt.Sprintf("%d/%d", r.Step+1, len(r.Steps)), lost, ago(r.Since), r.Actor, orDash(firstLine(cmp.Or(r.Reason, r.Why)))}
				})
		},
	}
	cmd.Flags().StringVar(&state, "state", "", `only in this state, e.g. RUNNING; "active" is any that has not ended`)
	cmd.Flags().StringVar(&app, "app", "", "only what changes something of this app")
	cmd.Flags().StringVar(&key, "key", "", "only what changes this key")
	l.flags(cmd)
	return cmd
}

func listRollouts(ctx context.Context, client *api.Client, q url.Values) ([]properties.Rollout, error) {
	page := properties.RolloutList{Rollouts: []properties.Rollout{}}
	err := client.Do(ctx, http.MethodGet, "/config/v1/rollouts?"+q.Encode(), nil, &page)
	return page.Rollouts, err
}

func (c *cli) rolloutShow() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:               "show ROLLOUT",
		Short:             "Show a roll-out: its changes, steps, health and story",
		Args:              exactArgs("a ROLLOUT"),
		ValidArgsFunction: c.completeRollouts(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return showOne(cmd, &l, func(ctx context.Context) (properties.Rollout, error) {
				var r properties.Rollout
				err := client.Do(ctx, http.MethodGet, "/config/v1/rollouts/"+url.PathEscape(args[0]), nil, &r)
				return r, err
			}, rolloutFacts)
		},
	}
	l.flags(cmd)
	return cmd
}

func rolloutFacts(r properties.Rollout) [][2]string {
	facts := [][2]string{{"rollout", r.ID}, {"what", rolloutName(r)}, {"state", standing(r)}, {"since", ago(r.Since)}, {"by", r.Actor}}
	add := func(name, value string) { facts = append(facts, [2]string{name, value}) }
	if r.Why != "" {
		add("why", r.Why)
	}
	if r.Reason != "" && r.Reason != r.Why {
		add("reason", r.Reason)
	}
	for _, e := range r.Changes {
		x := editCells(e)
		add("change", fmt.Sprintf("%s for %s: %s -> %s", x[0], x[1], x[2], x[3]))
	}
	if n := len(r.Chosen); n > 0 {
		const most = 10
		text := strings.Join(r.Chosen[:min(n, most)], ", ")
		if n > most {
			text += fmt.Sprintf(" and %d more", n-most)
		}
		add("chosen", text)
	}
	for i, s := range r.Steps {
		mark := "ahead"
		switch {
		case i < r.Step || r.State == properties.Done:
			mark = "done"
		case i == r.Step && r.State == properties.RolledBack:
			mark = "stopped"
		case i == r.Step:
			mark = "now"
		}
		text := s.Selector.String()
		if s.Bake != nil {
			text += fmt.Sprintf(", watched for %v", time.Duration(*s.Bake))
		}
		if s.Approval == properties.ManualApproval {
			text += ", after approval"
		}
		add(fmt.Sprintf("step %d (%s)", i+1, mark), text)
	}
	if st := r.Status; st != nil {
		add("health", fmt.Sprintf("%d of %d that see it are lost, %d of %d others", st.Lost, st.Reached, st.Missed, st.Others))
		add("acknowledged", fmt.Sprintf("%d of %d readers", st.Acked, st.Readers))
		for _, f := range st.Flaws {
			add("cannot use it", fmt.Sprintf("%s: %s: %s", f.Instance, f.Key, f.Error))
		}
		if st.Waiting != "" {
			add("waiting", st.Waiting)
		}
	}
	for _, p := range r.History {
		text := fmt.Sprintf("%s %s by %s", p.At.Local().Format("2006-01-02 15:04:05"), p.Event, p.Actor)
		if p.Why != "" {
			text += ": " + p.Why
		}
		add("story", text)
	}
	return facts
}

// errRolledBack is how watching ends when a roll-out was taken back.
var errRolledBack = errors.New("it was rolled back")

// errOver is how following a roll-out ends when it is done.
var errOver = errors.New("it is done")

func (c *cli) rolloutWatch() *cobra.Command {
	return &cobra.Command{
		Use:   "watch ROLLOUT",
		Short: "Follow a roll-out to its end; fails when it is rolled back",
		Long: `Follow a roll-out to its end, a line for everything that happens. The exit code is 0 when it is
done and 1 when it was rolled back, so that scripts can wait for it.`,
		Args:              exactArgs("a ROLLOUT"),
		ValidArgsFunction: c.completeRollouts(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return watchRollout(cmd.Context(), cmd.OutOrStdout(), client, args[0])
		},
	}
}

// watchRollout prints what happens to a roll-out until its end. A stream that breaks is taken up again, for a roll-out
// may take days.
func watchRollout(ctx context.Context, out io.Writer, client *api.Client, id string) error {
	said := ""
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		err := client.Follow(ctx, "/config/v1/rollouts/"+url.PathEscape(id)+"/watch", func(_ string, data []byte) error {
			var r properties.Rollout
			if err := json.Unmarshal(data, &r); err != nil {
				return fmt.Errorf("a roll-out: %w", err)
			}
			wait = time.Second
			if line := progress(r); line != said {
				said = line
				fmt.Fprintf(out, "%s  %s\n", time.Now().Format("15:04:05"), line)
			}
			switch {
			case r.State == properties.Done:
				return errOver
			case r.State == properties.RolledBack:
				return fmt.Errorf("roll-out %s changed nothing in the end: %w: %s", r.ID, errRolledBack, cmp.Or(r.Reason, "no reason was given"))
			}
			return nil
		})
		var problem *api.Error
		switch {
		case errors.Is(err, errOver):
			return nil
		case errors.Is(err, errRolledBack), errors.As(err, &problem), ctx.Err() != nil:
			return err
		}
		fmt.Fprintf(out, "%s  the platform does not answer (%v); trying again\n", time.Now().Format("15:04:05"), err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// progress says in a line where a roll-out stands and how those it reached fare.
func progress(r properties.Rollout) string {
	line := standing(r)
	if s := r.Status; s != nil {
		line += fmt.Sprintf("; %d of %d that see it are lost, %d of %d others; %d of %d readers took it", s.Lost, s.Reached, s.Missed, s.Others, s.Acked, s.Readers)
	}
	if r.Reason != "" && r.State != properties.Running && r.State != properties.Folding {
		line += "; " + firstLine(r.Reason)
	}
	return printable(line)
}

func (c *cli) rolloutCreate() *cobra.Command {
	var s scopeFlags
	var p properties.Property
	var in properties.Proposal
	var steps, metrics, confirm []string
	var file string
	var bake time.Duration
	var needAck float64
	var remove, hold, follow, glass bool
	cmd := &cobra.Command{
		Use:   "create (KEY VALUE | KEY --delete | --file FILE)",
		Short: "Roll a change of a property out in stages",
		Long: `Roll a change of a property out in stages. Without steps it goes from one instance over 5 % of
its zone, its zone and its region to all, watching each for 5 to 15 minutes.

A step is a selector, how long it is watched, and "!" when a person must approve it first:
SELECTOR[@DURATION][!]. Selectors: instances:N, percent:P, zone:Z, region:R, asg:GROUP (the
last four joined by commas) and all; the zone or region "first" is that of the first instance.

A metric rule is a query in the stack language, > or <, and a number; with an x behind it the
number is a multiple of what the others have.

A file holds the whole proposal in JSON or YAML: title, changes, steps, guards.`,
		Example: `  roadbed rollout create api.limit 40 --app api --why "the new machines are faster"
  roadbed rollout create api.limit 40 --app api --step instances:1@1m --step zone:first@5m --step all@10m!
  roadbed rollout create api.limit 40 --app api --metric 'name,ipc.server.call,:eq,:p99 > 1.5x' --watch
  roadbed rollout create old.switch --delete --bake 30s`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case file != "":
				return noArgs(cmd, args)
			case remove:
				return exactArgs("a KEY")(cmd, args)
			}
			return exactArgs("a KEY", "a VALUE (or --delete, or --file)")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if file != "" {
				if err := readProposal(cmd.InOrStdin(), file, &in); err != nil {
					return err
				}
			} else {
				p.Key, p.Scope = args[0], s.Scope
				e := properties.Edit{Op: properties.DeleteOp, Record: p}
				if !remove {
					e.Op, e.Record.Value = properties.SetOp, args[1]
				}
				in.Changes = []properties.Edit{e}
				if in.Title == "" { // without the value, which may be a secret
					in.Title = p.Key + " for " + scopeText(p.Scope)
					if remove {
						in.Title = "delete " + in.Title
					}
				}
			}
			var share *float64
			if cmd.Flags().Changed("need-ack") {
				share = &needAck
			}
			var watched *properties.Duration
			if cmd.Flags().Changed("bake") {
				d := properties.Duration(bake)
				watched = &d
			}
			if err := stepsOf(&in, steps, watched, share); err != nil {
				return usageError{err}
			}
			for _, m := range metrics {
				rule, err := parseMetric(m)
				if err != nil {
					return usageError{fmt.Errorf("--metric %q: %w", m, err)}
				}
				in.Guards.Metrics = append(in.Guards.Metrics, rule)
			}
			in.Start = !hold
			var r properties.Rollout
			err = client.Do(cmd.Context(), http.MethodPost, "/config/v1/rollouts?"+permits(glass, confirm...), in, &r)
			var problem *api.Error
			if errors.As(err, &problem) && problem.Status == http.StatusPreconditionRequired {
				return fmt.Errorf("nothing is rolled out yet: %s; if that is meant, say it again with --confirm %s", problem.Detail, problem.Token())
			}
			if err != nil {
				return fmt.Errorf("nothing is rolled out: %w", frozen(err))
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%s: %s\n", r.ID, standing(r))
			if follow && !hold {
				return watchRollout(cmd.Context(), out, client, r.ID)
			}
			if hold {
				fmt.Fprintf(out, "start it with: roadbed rollout start %s\n", r.ID)
			} else {
				fmt.Fprintf(out, "follow it with: roadbed rollout watch %s\nstop it with:   roadbed rollout abort %[1]s\n", r.ID)
			}
			return nil
		},
	}
	s.flags(c, cmd, "only for")
	fs := cmd.Flags()
	fs.StringVar(&in.Title, "title", "", "what it is called; what it changes, and for whom, when not given")
	fs.StringVar(&p.Type, "type", "", "type of the value; kept as it was when not given")
	fs.BoolVar(&remove, "delete", false, "delete the property in stages")
	fs.StringVar(&file, "file", "", `the whole proposal from this file, "-" for standard input`)
	fs.StringArrayVar(&steps, "step", nil, "SELECTOR[@DURATION][!]; may be repeated")
	fs.DurationVar(&bake, "bake", 0, "how long every step is watched that says nothing else")
	fs.Float64Var(&needAck, "need-ack", 0.95, "share of its readers, 0 to 1, that must say within a minute that they took it")
	fs.StringArrayVar(&metrics, "metric", nil, "take it back when this strikes, e.g. 'QUERY > 0.2' or 'QUERY > 1.5x'; may be repeated")
	fs.IntVar(&in.Guards.Health.Instances, "lost", 0, "take it back when so many more are lost than the others' share (default 1)")
	fs.Float64Var(&in.Guards.Health.Points, "lost-percent", 0, "and so many percent of those that see it (default 1)")
	fs.BoolVar(&in.Guards.Health.Off, "ignore-health", false, "do not look at instances that are lost")
	fs.BoolVar(&hold, "hold", false, "do not start it yet")
	fs.BoolVar(&follow, "watch", false, "follow it to its end, as roadbed rollout watch does")
	breakGlass(cmd, &glass)
	fs.StringSliceVar(&confirm, "confirm", nil, "tokens that a large or far-reaching change asks for")
	cmd.MarkFlagsMutuallyExclusive("hold", "watch")
	cmd.MarkFlagsMutuallyExclusive("file", "delete")
	cmd.ValidArgsFunction = c.completeKeys()
	cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(properties.Types(), cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // fails only for a flag that does not exist
	return cmd
}

// readProposal reads a proposal from a file, or from in if that is "-". JSON is YAML too.
func readProposal(in io.Reader, file string, out *properties.Proposal) error {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("read the proposal: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, 4<<20))
	if err != nil {
		return fmt.Errorf("read the proposal: %w", err)
	}
	if b, err = yaml.YAMLToJSON(b); err != nil {
		return fmt.Errorf("the proposal in %s is neither YAML nor JSON: %w", file, err)
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(out); err != nil {
		return fmt.Errorf("the proposal in %s: %w; `roadbed rollout show ID -o yaml` shows how one looks", file, err)
	}
	return nil
}

// usualSteps are the platform's own, by selector, for who changes only how long they are watched.
var usualSteps = []string{"instances:1", "percent:5,zone:first", "zone:first", "region:first", "all"}

// stepsOf puts steps into a proposal: those of the command line, if there are any, and bake and need where a step does
// not say.
func stepsOf(in *properties.Proposal, steps []string, bake *properties.Duration, need *float64) error {
	if len(steps) > 0 {
		in.Steps = nil
	} else if len(in.Steps) == 0 && (bake != nil || need != nil) {
		steps = usualSteps
	}
	for _, text := range steps {
		s, err := parseStep(text)
		if err != nil {
			return fmt.Errorf("--step %q: %w", text, err)
		}
		in.Steps = append(in.Steps, s)
	}
	for i := range in.Steps {
		s := &in.Steps[i]
		if s.Bake == nil {
			s.Bake = bake
		}
		if s.NeedAck == nil {
			s.NeedAck = need
		}
	}
	return nil
}

// parseStep reads SELECTOR[@DURATION][!].
func parseStep(text string) (s properties.Step, err error) {
	rest, approve := strings.CutSuffix(text, "!")
	if approve {
		s.Approval = properties.ManualApproval
	}
	selector, bake, timed := strings.Cut(rest, "@")
	if timed {
		d, err := config.ParseDuration(bake)
		if err != nil || d < 0 {
			return s, fmt.Errorf("%q is no time to watch it for; write e.g. @5m", bake)
		}
		b := properties.Duration(d)
		s.Bake = &b
	}
	return s, s.Selector.UnmarshalText([]byte(selector))
}

// parseMetric reads "QUERY > 0.2", or "QUERY > 1.5x" for a multiple of what the others have.
func parseMetric(text string) (properties.MetricRule, error) {
	fields := strings.Fields(text)
	if n := len(fields); n >= 3 && slices.Contains([]string{">", "<"}, fields[n-2]) {
		number, relative := strings.CutSuffix(fields[n-1], "x")
		threshold, err := strconv.ParseFloat(number, 64)
		if err == nil {
			return properties.MetricRule{Query: strings.Join(fields[:n-2], " "), Compare: fields[n-2], Threshold: threshold, Relative: relative}, nil
		}
	}
	return properties.MetricRule{}, errors.New("write a query, > or <, and a number, e.g. 'name,ipc.server.call,:eq,:avg > 0.2'")
}

func (c *cli) completeRollouts() cobra.CompletionFunc {
	return completer(c, func(ctx context.Context, client *api.Client) ([]properties.Rollout, error) {
		return listRollouts(ctx, client, url.Values{})
	}, func(r properties.Rollout) string { return r.ID + "\t" + rolloutName(r) + ", " + string(r.State) })
}

// freezePrefix begins the keys of the brakes.
const freezePrefix = "cfg.freeze."

func (c *cli) configFreeze() *cobra.Command {
	return &cobra.Command{
		Use:   "freeze [ENV]",
		Short: "Freeze changes: no property changes, no roll-out takes a step",
		Long: `Freeze changes of an environment, or all of them: no property can be changed and no roll-out
takes a step until roadbed config unfreeze. Stopping a roll-out stays possible. In an emergency
--break-glass goes through, with a reason, and the change log says so.`,
		Args: atMostOne("an ENV"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			env := cmp.Or(strings.Join(args, ""), "all")
			if err := setProperty(cmd.Context(), client, properties.Property{Key: freezePrefix + env, Value: "true", Type: "bool", Source: "cli"}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "changes of %s are frozen; `roadbed config unfreeze%s` ends it\n", envText(env), strings.Join(append([]string{""}, args...), " "))
			return err
		},
	}
}

func (c *cli) configUnfreeze() *cobra.Command {
	return &cobra.Command{
		Use:   "unfreeze [ENV]",
		Short: "Let changes go on",
		Args:  atMostOne("an ENV"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			env := cmp.Or(strings.Join(args, ""), "all")
			err = client.Do(cmd.Context(), http.MethodDelete, "/config/v1/properties/"+properties.ID(freezePrefix+env, config.Scope{}), nil, nil)
			var problem *api.Error
			if errors.As(err, &problem) && problem.Status == http.StatusNotFound {
				return fmt.Errorf("changes of %s are not frozen; `roadbed config list --prefix %s` shows what is", envText(env), freezePrefix)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "changes of %s go on\n", envText(env))
			return err
		},
	}
}

func envText(env string) string {
	if env == "all" {
		return "everything"
	}
	return "env " + env
}

// atMostOne wants no argument or one.
func atMostOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usageError{fmt.Errorf("%s takes at most %s, not %q too", cmd.CommandPath(), name, args[1])}
		}
		return nil
	}
}
