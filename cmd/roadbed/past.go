package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/properties"
	"github.com/spf13/cobra"
)

func (c *cli) configHistory() *cobra.Command {
	var l listing
	var which selection
	var since, until string
	cmd := &cobra.Command{
		Use:   "history (KEY | --app A | --prefix P | --since WHEN)",
		Short: "Show what properties were, who set them, when and why",
		Example: `  roadbed config history api.limit
  roadbed config history --app api --since 24h`,
		Args: func(cmd *cobra.Command, args []string) error {
			if several := which != (selection{}) || since != "" || until != ""; several == (len(args) == 1) || len(args) > 1 {
				return usageError{errors.New("name one KEY, or say whose history with --app, --prefix, --filter or --since")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				q := which.query()
				q.Set("since", since)
				q.Set("until", until)
				return show(cmd, &l, []string{"TIME", "REVISION", "KEY", "VALUE", "SCOPE", "BY"},
					func(ctx context.Context) ([]properties.Property, error) {
						var past properties.Past
						err := client.Do(ctx, http.MethodGet, "/config/v1/history?"+q.Encode(), nil, &past)
						return past.History, err
					},
					func(p properties.Property) []string {
						return []string{p.Time().Local().Format("2006-01-02 15:04:05"), strconv.FormatUint(p.Rev, 10), p.Key, shortValue(p), scopeText(p.Scope), orDash(p.UpdatedBy)}
					})
			}
			return show(cmd, &l, []string{"TIME", "REVISION", "VALUE", "SCOPE", "BY", "WHY"},
				func(ctx context.Context) ([]revision, error) { return revisions(ctx, client, args[0], nil) },
				func(v revision) []string {
					return []string{v.Time().Local().Format("2006-01-02 15:04:05"), strconv.FormatUint(v.Rev, 10), shortValue(v.Property), scopeText(v.Scope), orDash(v.UpdatedBy), orDash(firstLine(v.Why))}
				})
		},
	}
	which.flags(cmd)
	cmd.Flags().StringVar(&which.app, "app", "", "only what is for this app")
	cmd.Flags().StringVar(&since, "since", "", "only what was written since: "+moments)
	cmd.Flags().StringVar(&until, "until", "", "only what was written until")
	l.flags(cmd)
	return cmd
}

// moments is how a point in the past is written.
const moments = "how long ago, e.g. 10m, or a time such as 2026-01-31T12:00:00Z"

// revision is what a property was, and why it became that.
type revision struct {
	properties.Property
	Why string `json:"why,omitempty"`
}

// revisions returns what a key was, oldest first: for one scope, or for all if that is nil.
func revisions(ctx context.Context, client *api.Client, key string, scope *config.Scope) ([]revision, error) {
	q := url.Values{"key": {key}}
	if scope != nil {
		q = url.Values{"id": {properties.ID(key, *scope)}}
	}
	var past properties.Past
	err := client.Do(ctx, http.MethodGet, "/config/v1/history?"+q.Encode(), nil, &past)
	var problem *api.Error
	if errors.As(err, &problem) && problem.Status == http.StatusNotFound {
		return nil, fmt.Errorf("%s was never set; `roadbed config search %[1]s` looks for what is alike", key)
	}
	if err != nil {
		return nil, err
	}
	why, err := reasons(ctx, client, key)
	if err != nil {
		return nil, err
	}
	out := make([]revision, len(past.History))
	for i, p := range past.History {
		out[i] = revision{p, why(p)}
	}
	slices.SortStableFunc(out, func(a, b revision) int { return cmp.Compare(a.Rev, b.Rev) })
	return out, nil
}

// reasons returns what tells, from the change log, why a key's newest revisions came about.
func reasons(ctx context.Context, client *api.Client, key string) (func(properties.Property) string, error) {
	var page struct {
		Changes []roadbed.Change `json:"changes"`
	}
	resource := "property:" + key
	if err := client.Do(ctx, http.MethodGet, "/api/v1/changes?limit=1000&resource="+url.QueryEscape(resource), nil, &page); err != nil {
		return nil, err
	}
	return func(p properties.Property) string {
		for _, ch := range page.Changes {
			record := ch.After
			if p.Deleted {
				record = ch.Before
			}
			var is properties.Property
			switch {
			case ch.Resource != resource || json.Unmarshal(record, &is) != nil || is.ID != p.ID: // of another
			case !p.Deleted && is.TS == p.TS, p.Deleted && len(ch.After) == 0 && ch.Time.Sub(p.Time()).Abs() < 5*time.Second:
				return ch.Why
			}
		}
		return ""
	}, nil
}

func (c *cli) configDiff() *cobra.Command {
	var s scopeFlags
	var l listing
	var which selection
	var from, to string
	cmd := &cobra.Command{
		Use:   "diff (KEY [FROM [TO]] | --from WHEN [--to WHEN])",
		Short: "Show what is different between two revisions of a property, or two moments",
		Long: `Show what is different between two revisions of a property, as lines with - for what was and
+ for what became of it. Without revisions: what the last change changed. The revisions are
those of roadbed config history.

With --from: every property that differs between two moments, or between then and now.`,
		Example: `  roadbed config diff api.limit
  roadbed config diff --from 1h
  roadbed config diff --from 4711 --to 4720 --prefix api.`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case from != "" && len(args) == 0 && s.Scope == (config.Scope{App: s.App}):
				which.app = s.App
				return nil
			case from != "":
				return usageError{errors.New("--from goes with --to, --app, --prefix and --filter, without a KEY")}
			case to != "" || which != (selection{}):
				return usageError{errors.New("say from when, with --from")}
			case len(args) == 0 || len(args) > 3:
				return usageError{errors.New("name a KEY and at most two of its revisions, or say --from")}
			}
			for _, a := range args[1:] {
				if _, err := strconv.ParseUint(a, 10, 64); err != nil {
					return usageError{fmt.Errorf("%q is no revision; `roadbed config history %s` lists them", a, args[0])}
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if from != "" {
				return diffMoments(cmd, &l, client, which, from, to)
			}
			var scope *config.Scope
			if s.Scope != (config.Scope{}) {
				scope = &s.Scope
			}
			past, err := revisions(cmd.Context(), client, args[0], scope)
			if err != nil {
				return err
			}
			from, to, err := pickRevisions(past, args[1:])
			if err != nil {
				return fmt.Errorf("%s %w; `roadbed config history %[1]s` lists what it was", args[0], err)
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%s from revision %d (%s) to %d (%s)\n", args[0], from.Rev, orDash(from.UpdatedBy), to.Rev, orDash(to.UpdatedBy))
			for _, line := range diffLines(from.lines(), to.lines()) {
				fmt.Fprintln(out, line)
			}
			return nil
		},
	}
	s.flags(c, cmd, "of the value for")
	which.flags(cmd)
	cmd.Flags().StringVar(&from, "from", "", "everything that differs since then: a revision, "+moments)
	cmd.Flags().StringVar(&to, "to", "", "until then; now when not given")
	l.flags(cmd)
	return cmd
}

var differenceHeader = []string{"KEY", "SCOPE", "BEFORE", "AFTER"}

func differenceCells(before, after *properties.Property) []string {
	p := cmp.Or(after, before)
	value := func(p *properties.Property) string {
		if p == nil {
			return "(not set)"
		}
		return shortValue(*p)
	}
	return []string{p.Key, scopeText(p.Scope), value(before), value(after)}
}

// diffMoments shows every property that differs between two moments.
func diffMoments(cmd *cobra.Command, l *listing, client *api.Client, which selection, from, to string) error {
	q := which.query()
	q.Set("from", from)
	q.Set("to", to)
	return show(cmd, l, differenceHeader, func(ctx context.Context) ([]properties.Difference, error) {
		var d properties.Differences
		err := client.Do(ctx, http.MethodGet, "/config/v1/diff?"+q.Encode(), nil, &d)
		for _, name := range d.Lost {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s was written too often since to know what it was\n", name)
		}
		return d.Differences, err
	}, func(d properties.Difference) []string { return differenceCells(d.Before, d.After) })
}

func (c *cli) configRestore() *cobra.Command {
	var which selection
	var key, at string
	var rev uint64
	var steps, confirm []string
	var dry, glass bool
	cmd := &cobra.Command{
		Use:   "restore (--at WHEN | --rev REVISION)",
		Short: "Make properties what they were",
		Long: `Make properties what they were at a moment: those that are new since are deleted, those that
are gone or changed are set again. It is a roll-out, all of it or nothing, and its own undoing
is another. Without --step everybody gets it at once.`,
		Example: `  roadbed config restore --at 10m --app api --dry-run
  roadbed config restore --at 10m --app api --why "the release is taken back"
  roadbed config restore --rev 4711 --key api.limit`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			m, err := properties.ParseMoment(at)
			if err != nil || m.Rev != 0 || (m.At.IsZero()) != cmd.Flags().Changed("rev") {
				return usageError{fmt.Errorf("say when, with --at, or which revision, with --rev: --at is %s", moments)}
			}
			in := properties.Restore{ToRev: rev, At: m.At, App: which.app, Key: key, Prefix: which.prefix, Filter: which.filter, DryRun: dry}
			var p properties.Proposal
			if err := stepsOf(&p, steps, nil, nil); err != nil {
				return usageError{err}
			}
			in.Steps = p.Steps
			var r properties.Rollout
			err = client.Do(cmd.Context(), http.MethodPost, "/config/v1/rollback?"+permits(glass, confirm...), in, &r)
			var problem *api.Error
			switch {
			case errors.As(err, &problem) && problem.Status == http.StatusPreconditionRequired:
				return fmt.Errorf("nothing is restored yet: %s; see what it is with --dry-run, then say it again with --confirm %s", problem.Detail, problem.Token())
			case err != nil:
				return fmt.Errorf("nothing is restored: %w", frozen(err))
			}
			out := cmd.OutOrStdout()
			if len(r.Changes) == 0 {
				_, err := fmt.Fprintln(out, "nothing is different from then")
				return err
			}
			if err := printTable(out, differenceHeader, r.Changes, editCells); err != nil || dry {
				return err
			}
			if len(steps) == 0 {
				return watchRollout(cmd.Context(), out, client, r.ID)
			}
			_, err = fmt.Fprintf(out, "%s: %s\nfollow it with: roadbed rollout watch %[1]s\n", r.ID, standing(r))
			return err
		},
	}
	which.flags(cmd)
	fs := cmd.Flags()
	fs.StringVar(&which.app, "app", "", "only what names this app")
	fs.StringVar(&key, "key", "", "only this key")
	fs.StringVar(&at, "at", "", "to what it was then: "+moments)
	fs.Uint64Var(&rev, "rev", 0, "to what it was at this revision")
	fs.StringArrayVar(&steps, "step", nil, "in stages: SELECTOR[@DURATION][!]; may be repeated")
	fs.BoolVar(&dry, "dry-run", false, "only show what would change")
	fs.StringSliceVar(&confirm, "confirm", nil, "the token that a large deletion asks for")
	breakGlass(cmd, &glass)
	return cmd
}

// editCells is a change as a difference.
func editCells(e properties.Edit) []string {
	if e.Op == properties.DeleteOp {
		return differenceCells(cmp.Or(e.Before, &e.Record), nil)
	}
	return differenceCells(e.Before, &e.Record)
}

func (c *cli) configValidate() *cobra.Command {
	var s scopeFlags
	var p properties.Property
	var remove bool
	var file, format string
	cmd := &cobra.Command{
		Use:   "validate (KEY VALUE | KEY --delete | --file FILE)",
		Short: "Try a change without making it: whether it is allowed, and whom it would reach",
		Long: `Try a change without making it: whether the type, the bounds and the scope allow it, whether
something else stands against it, and which instances would see it. Fails when it is not allowed.`,
		Example: `  roadbed config validate api.limit 40 --app api
  roadbed config validate --file proposal.yaml     all changes of a roll-out`,
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
			var in properties.Proposal
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
			}
			l := listing{format: format}
			var v properties.Validation
			err = showOne(cmd, &l, func(ctx context.Context) (properties.Validation, error) {
				err := client.Do(ctx, http.MethodPost, "/config/v1/validate", in, &v)
				return v, err
			}, validationFacts)
			if err == nil && !v.Valid {
				err = fmt.Errorf("this change would be refused: %s", strings.Join(v.Problems, "; "))
			}
			return err
		},
	}
	s.flags(c, cmd, "only for")
	fs := cmd.Flags()
	fs.StringVar(&p.Type, "type", "", "type of the value; that of the key when not given")
	fs.BoolVar(&remove, "delete", false, "try a deletion")
	fs.StringVar(&file, "file", "", `a whole proposal from this file, "-" for standard input`)
	fs.StringVarP(&format, "output", "o", "table", "table, json or yaml")
	return cmd
}

func validationFacts(v properties.Validation) [][2]string {
	facts := [][2]string{{"allowed", map[bool]string{true: "yes", false: "no"}[v.Valid]}}
	for _, p := range v.Problems {
		facts = append(facts, [2]string{"problem", p})
	}
	for _, w := range v.Warnings {
		facts = append(facts, [2]string{"mind", w})
	}
	reaches := fmt.Sprintf("%d of %d instances", v.Affected.Instances, v.Affected.Of)
	if n := len(v.Affected.IDs); n > 0 {
		reaches += ": " + strings.Join(v.Affected.IDs[:min(n, 5)], ", ")
		if v.Affected.Instances > 5 {
			reaches += fmt.Sprintf(" and %d more", v.Affected.Instances-5)
		}
	}
	return append(facts, [2]string{"reaches", reaches})
}

// pickRevisions returns the revisions to compare: those of the given revisions; with one, it and the newest of its scope;
// with none, the newest and the one before it.
func pickRevisions(past []revision, revs []string) (from, to revision, err error) {
	find := func(text string) (revision, error) {
		for _, v := range past {
			if strconv.FormatUint(v.Rev, 10) == text {
				return v, nil
			}
		}
		return revision{}, fmt.Errorf("has no revision %s", text)
	}
	switch len(revs) {
	case 2:
		if from, err = find(revs[0]); err != nil {
			return from, to, err
		}
		to, err = find(revs[1])
		return from, to, err
	case 1:
		if from, err = find(revs[0]); err != nil {
			return from, to, err
		}
		for _, v := range past {
			if v.ID == from.ID {
				to = v
			}
		}
		return from, to, nil
	}
	for _, v := range slices.Backward(past) {
		for _, o := range slices.Backward(past) {
			if o.ID == v.ID && o.Rev < v.Rev {
				return o, v, nil
			}
		}
	}
	return from, to, errors.New("has one revision only, so there is nothing to compare")
}

// lines is a revision as lines to compare. JSON is indented.
func (v revision) lines() []string {
	out := []string{"scope " + scopeText(v.Scope)}
	if v.Deleted {
		return append(out, "deleted")
	}
	out = append(out, "type "+cmp.Or(v.Type, "string"))
	if v.Constraint != nil {
		if b, err := json.Marshal(v.Constraint); err == nil { // numbers and text always encode
			out = append(out, "must be "+string(b))
		}
	}
	if v.Description != "" {
		out = append(out, "description "+v.Description)
	}
	value := v.Value
	var indented bytes.Buffer
	if v.Type == "json" && json.Indent(&indented, []byte(value), "", "  ") == nil {
		value = indented.String()
	}
	return append(out, strings.Split("value "+value, "\n")...)
}

// diffLines returns the lines of a and b, each once if both have it: behind "  ", else "- " for a's and "+ " for b's.
// It finds a longest common subsequence.
func diffLines(a, b []string) []string {
	var out []string
	if len(a)*len(b) > 4_000_000 { // more memory than the answer is worth
		for _, line := range a {
			out = append(out, "- "+printable(line))
		}
		for _, line := range b {
			out = append(out, "+ "+printable(line))
		}
		return out
	}
	best := make([][]int, len(a)+1) // of a[i:] and b[j:]
	for i := len(a); i >= 0; i-- {
		best[i] = make([]int, len(b)+1)
		for j := len(b) - 1; j >= 0 && i < len(a); j-- {
			if a[i] == b[j] {
				best[i][j] = best[i+1][j+1] + 1
			} else {
				best[i][j] = max(best[i+1][j], best[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, "  "+printable(b[j]))
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && best[i+1][j] >= best[i][j+1]:
			out = append(out, "- "+printable(a[i]))
			i++
		default:
			out = append(out, "+ "+printable(b[j]))
			j++
		}
	}
	return out
}
