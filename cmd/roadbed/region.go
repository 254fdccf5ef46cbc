package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge"
	"github.com/roadbed/roadbed/platform/properties"
	"github.com/roadbed/roadbed/platform/region"
	"github.com/spf13/cobra"
)

const regionsAt = "/api/v1/edge/regions"

func (c *cli) regions() *cobra.Command {
	cmd := &cobra.Command{
		Use: "region", Aliases: []string{"regions"}, GroupID: "change", Short: "Regions: evacuate one to others, and bring its users back",
		Long: `Regions whose edges know of one another. The edges of a region that is evacuated send its users,
at once or bit by bit, to those of others, and nobody is refused; DNS can follow later.

  roadbed region put east --edges http://10.0.0.7:7000
  roadbed region put west --edges http://10.1.0.7:7000
  roadbed region evacuate east --to west=100 --ramp 60s --reason "the database is ill"
  roadbed region restore east

Who does much worse than usual is proposed to be evacuated (region list); approve or refuse it:

  roadbed region approve east

A region is the property edge.region.NAME, so that each change is in the change log and reaches
every edge that reads these properties within a second. Regions that are platforms of their own
each have their own properties: say it to all of them, and give them one edge.regions.key.`,
		Args: noArgs, RunE: showHelp,
	}
	cmd.AddCommand(c.regionList(), c.regionShow(), c.regionPut(), c.regionEvacuate(), c.regionRestore(), c.regionRemove(), c.regionApprove(), c.regionRefuse())
	return cmd
}

func fetchAll(ctx context.Context, client *api.Client) (v edge.RegionsView, err error) {
	err = client.Do(ctx, http.MethodGet, regionsAt, nil, &v)
	return v, err
}

func fetchRegions(ctx context.Context, client *api.Client) ([]edge.RegionView, error) {
	v, err := fetchAll(ctx, client)
	return v.Regions, err
}

func fetchRegion(client *api.Client, name string) func(context.Context) (edge.RegionView, error) {
	return func(ctx context.Context) (r edge.RegionView, err error) {
		err = client.Do(ctx, http.MethodGet, regionsAt+"/"+url.PathEscape(name), nil, &r)
		return r, err
	}
}

func (c *cli) completeRegions() cobra.CompletionFunc {
	return completer(c, fetchRegions, func(r edge.RegionView) string { return r.Region })
}

func (c *cli) regionList() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use: "list", Short: "List regions, and what share of their users is elsewhere", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			problem := ""
			fetch := func(ctx context.Context) ([]edge.RegionView, error) {
				v, err := fetchAll(ctx, client)
				problem = v.Problem
				return v.Regions, err
			}
			err = show(cmd, &l, []string{"REGION", "STATE", "MOVED %", "GOAL %", "TO", "EDGES", "SENT/S", "FAILED %", "WHY"}, fetch, func(r edge.RegionView) []string {
				name := r.Region
				if r.Own {
					name += " (here)"
				}
				rate, failed := "-", "-"
				if t := r.Tunnel; t != nil && t.Last > 0 {
					rate, failed = fmt.Sprintf("%.1f", float64(t.Last)/10), fmt.Sprintf("%.1f", 100*float64(t.Failed)/float64(t.Last))
				}
				return []string{name, cmp.Or(string(r.Document.State), "refused"), percent(r.Moved), percent(r.Goal), orDash(sentTo(r)), strconv.Itoa(len(r.Document.Edges)), rate, failed,
					orDash(cmp.Or(r.Refused, r.Paused, proposed(r), silent(r), r.Document.Reason))}
			})
			if err == nil && problem != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "mind: %s\n", strings.Join(strings.FieldsFunc(problem, func(r rune) bool { return !unicode.IsPrint(r) }), " "))
			}
			return err
		},
	}
	l.flags(cmd)
	return cmd
}

func (c *cli) regionShow() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use: "show REGION", Short: "Show all there is to say about a region", Args: exactArgs("a REGION"), ValidArgsFunction: c.completeRegions(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			return showOne(cmd, &l, func(ctx context.Context) (shownRegion, error) {
				view, err := fetchRegion(client, args[0])(ctx)
				r := shownRegion{RegionView: view}
				if err == nil {
					r.watched(ctx, client)
				}
				return r, err
			}, regionFacts)
		},
	}
	l.flags(cmd)
	return cmd
}

// shownRegion is a region as an edge sees it, and as it is watched by whoever has the properties.
type shownRegion struct {
	edge.RegionView
	Problem string               `json:"problem,omitempty"` // of all regions at this edge
	Watch   *region.RegionState  `json:"watch,omitempty"`
	Weights *region.WeightsState `json:"weights,omitempty"`
}

// watched finds out how the region is judged; what is not known is left out.
func (r *shownRegion) watched(ctx context.Context, client *api.Client) {
	if all, err := fetchAll(ctx, client); err == nil {
		r.Problem = all.Problem
	}
	var v region.View
	if client.Do(ctx, http.MethodGet, "/api/v1/regions", nil, &v) != nil {
		return
	}
	r.Weights = v.Weights
	for _, s := range v.Regions {
		if s.Region == r.Region {
			r.Watch = &s
		}
	}
}

// proposed says what is proposed; empty if nothing is.
func proposed(r edge.RegionView) string {
	if r.Proposal == nil || r.Proposal.State != edge.ProposalOpen || r.Document.State != edge.RegionServing {
		return ""
	}
	return fmt.Sprintf("PROPOSED to evacuate it to %s; see roadbed region show %s", shares(r.Proposal.To), r.Region)
}

// regionFacts is what there is to say about a region.
func regionFacts(r shownRegion) [][2]string {
	d := r.Document
	facts := [][2]string{{"region", r.Region}, {"state", cmp.Or(string(d.State), "none is in force")}, {"moved", percent(r.Moved) + " % of " + percent(r.Goal) + " %"}}
	add := func(name, value string) {
		if value != "" {
			facts = append(facts, [2]string{name, value})
		}
	}
	add("to", sentTo(r.RegionView))
	for _, w := range r.Without {
		add("not to", w)
	}
	if !d.Since.IsZero() {
		add("moving since", d.Since.Local().Format(time.DateTime))
	}
	add("paused", r.Paused)
	add("refused", r.Refused)
	add("reason", d.Reason)
	add("edges", strings.Join(d.Edges, " "))
	add("identity", d.Identity)
	if d.Headroom > 0 {
		add("headroom", strconv.Itoa(d.Headroom)+" requests at each edge")
	}
	if d.Strict {
		add("strict", "who cannot go elsewhere is refused")
	}
	add("mind", silent(r.RegionView))
	add("mind", r.Problem)
	if p := r.Proposal; p != nil {
		add("proposal", fmt.Sprintf("%s since %s: to %s", p.State, p.At.Local().Format(time.DateTime), shares(p.To)))
		add("for", p.Why())
		if p.State == edge.ProposalOpen {
			add("decide", fmt.Sprintf("roadbed region approve %s, or refuse %[1]s", r.Region))
		}
	}
	if s := r.Watch; s != nil {
		if s.Good != nil && s.Expected != nil {
			add("good answers", fmt.Sprintf("%.1f/s; %.1f expected (sigma %.1f) by %s", *s.Good, *s.Expected, *s.Sigma, s.Baseline))
		}
		add("not judged", s.Silent)
	}
	if s := r.Weights; s != nil {
		told := "not accepted yet"
		if s.Accepted != nil {
			told = "accepted " + s.Accepted.Local().Format(time.DateTime)
		}
		if s.Failing != "" {
			told += fmt.Sprintf(" after %d attempts", s.Attempts)
		}
		add("weights told", s.URL+" "+told)
		add("not told", s.Failing)
	}
	if t := r.Tunnel; t != nil {
		add("from here", fmt.Sprintf("%d requests, %d in flight; in the last 10 s %d, of which %d failed", t.Requests, t.InFlight, t.Last, t.Failed))
		add("reachable", fmt.Sprintf("%d of %d edges", t.Reachable, len(d.Edges)))
		add("not asked", t.Why)
		if t.FailedAt != nil {
			add("last failure", t.FailedAt.Local().Format(time.DateTime)+" "+t.LastFailure)
		}
	}
	return facts
}

// sentTo is where users go, if any do.
func sentTo(r edge.RegionView) string {
	if r.Moved == 0 && r.Goal == 0 {
		return ""
	}
	return shares(r.Document.To)
}

// silent says that a region does not answer.
func silent(r edge.RegionView) string {
	if r.Tunnel != nil && r.Tunnel.Shut {
		return "it does not answer, and is tried every 2 s"
	}
	return ""
}

// shares is where users go, such as "west 60 %, north 40 %".
func shares(to map[string]int) string {
	var parts []string
	for _, name := range slices.SortedFunc(maps.Keys(to), func(a, b string) int { return cmp.Or(cmp.Compare(to[b], to[a]), cmp.Compare(a, b)) }) {
		parts = append(parts, fmt.Sprintf("%s %d %%", name, to[name]))
	}
	return strings.Join(parts, ", ")
}

func percent(p float64) string { return strconv.FormatFloat(p, 'f', -1, 64) }

// regionChange are the flags that several commands have.
type regionChange struct {
	change edge.RegionChange
	ramp   time.Duration
	to     map[string]int
	strict bool
	reason string
	glass  bool
	format string
}

func (f *regionChange) flags(cmd *cobra.Command, sends bool) {
	fs := cmd.Flags()
	fs.DurationVar(&f.ramp, "ramp", edge.RegionRamp, "over how long users move; 0 is at once")
	fs.StringVar(&f.reason, "reason", "", "why, kept with the region and in the change log; that of --why if left out")
	if sends {
		fs.StringToIntVar(&f.to, "to", nil, "where users go, in percent: west=60,north=40 (default all other regions that serve)")
		fs.BoolVar(&f.strict, "strict", false, "refuse those who cannot be sent elsewhere, in place of serving them here")
	}
	breakGlass(cmd, &f.glass)
	fs.StringVarP(&f.format, "output", "o", "text", "text, json or yaml")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // fails only for a flag that does not exist
}

// apply asks the edge what the change comes to, makes it the property, and tells it in words, or as the format wants it.
func (f *regionChange) apply(cmd *cobra.Command, c *cli, name string, words func(*edge.RegionChanged) string) error {
	if !slices.Contains([]string{"text", "json", "yaml"}, f.format) {
		return usageError{fmt.Errorf("-o %s: use text, json or yaml", f.format)}
	}
	fs := cmd.Flags()
	if fs.Changed("ramp") {
		if f.ramp < 0 || f.ramp%time.Second != 0 || f.ramp > 24*time.Hour {
			return usageError{fmt.Errorf("--ramp %v: use whole seconds, up to 24h", f.ramp)}
		}
	}
	if fs.Changed("ramp") || f.change.State != "" {
		seconds := int(f.ramp / time.Second)
		f.change.RampSeconds = &seconds
	}
	if fs.Changed("to") {
		sum := 0
		for _, n := range f.to {
			sum += n
		}
		if sum != 100 {
			return usageError{fmt.Errorf("--to: the shares add up to %d; they must to 100, as in --to west=60,north=40", sum)}
		}
		f.change.To = f.to
	}
	if fs.Changed("strict") {
		f.change.Strict = &f.strict
	}
	if f.reason = cmp.Or(f.reason, c.why); f.reason != "" || f.change.State != "" {
		f.change.Reason = &f.reason
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	client.Why = cmp.Or(c.why, f.reason)
	var out edge.RegionChanged
	if err := client.Do(cmd.Context(), http.MethodPost, regionsAt+"/"+url.PathEscape(name)+"/check", f.change, &out); err != nil {
		return fmt.Errorf("nothing is changed: %w", err)
	}
	p := properties.Property{Key: out.Property, Value: out.Text, Source: "cli"}
	if err := client.Do(cmd.Context(), http.MethodPost, "/config/v1/properties?"+permits(f.glass), p, nil); err != nil {
		return fmt.Errorf("nothing is changed: %w", frozen(err))
	}
	for _, n := range out.Notes {
		fmt.Fprintf(cmd.ErrOrStderr(), "mind: %s\n", n)
	}
	return printAs(cmd.OutOrStdout(), f.format, &out, func(w io.Writer, out *edge.RegionChanged) error {
		_, err := fmt.Fprintln(w, words(out))
		return err
	})
}

// pace says how long users take.
func pace(d *edge.RegionDocument) string {
	if d.State == edge.RegionEvacuated || d.Since.IsZero() {
		return "at once"
	}
	return fmt.Sprintf("within %v", d.Ramp())
}

func (c *cli) regionPut() *cobra.Command {
	var f regionChange
	var edges []string
	var identity string
	var weight, headroom int
	cmd := &cobra.Command{
		Use: "put REGION", Short: "Say where a region's edges are, how many users it keeps, and how many it takes",
		Example: `  roadbed region put east --edges http://10.0.0.7:7000,http://10.0.0.8:7000
  roadbed region put east --edges https://10.0.0.7:7443 --identity spiffe://example.com/edge/east
  roadbed region put east --weight 75 --to west=100      # a quarter of its users, for good
  roadbed region put west --headroom 500`,
		Args: exactArgs("a REGION"), ValidArgsFunction: c.completeRegions(),
		RunE: func(cmd *cobra.Command, args []string) error {
			fs := cmd.Flags()
			if fs.Changed("edges") {
				f.change.Edges = &edges
			}
			if fs.Changed("weight") {
				f.change.State, f.change.Weight = edge.RegionServing, &weight
			}
			if fs.Changed("identity") {
				f.change.Identity = &identity
			}
			if fs.Changed("headroom") {
				f.change.Headroom = &headroom
			}
			return f.apply(cmd, c, args[0], func(out *edge.RegionChanged) string {
				return fmt.Sprintf("%s is %s, with %s%s", args[0], out.Document.State, edgesOf(&out.Document), leaving(out))
			})
		},
	}
	f.flags(cmd, true)
	fs := cmd.Flags()
	fs.StringSliceVar(&edges, "edges", nil, "URLs of its edges")
	fs.StringVar(&identity, "identity", "", "whom the certificates of its edges are for, such as spiffe://example.com/edge/east")
	fs.IntVar(&weight, "weight", 100, "percent of its users that it keeps")
	fs.IntVar(&headroom, "headroom", 0, "how many requests of other regions each of its edges takes at once; 0: any number")
	return cmd
}

// leaving says who is elsewhere, if anybody is.
func leaving(out *edge.RegionChanged) string {
	d := &out.Document
	if out.Goal == 0 && out.Moved == 0 {
		return ""
	}
	return fmt.Sprintf("; %s %% of its users are elsewhere, %s %% (%s) %s", percent(out.Moved), percent(out.Goal), shares(d.To), pace(d))
}

func (c *cli) regionEvacuate() *cobra.Command {
	var f regionChange
	var now bool
	cmd := &cobra.Command{
		Use: "evacuate REGION", Short: "Send a region's users to others, bit by bit or at once",
		Long: `Send a region's users to others: the same users always go to the same region, more of them as the
ramp goes on, and all at its end. It stands still while requests there fail more often than here.
What cannot be sent is served here, unless --strict is given.`,
		Example: `  roadbed region evacuate east --to west=60,north=40 --ramp 60s --reason "the database is ill"
  roadbed region evacuate east --now`,
		Args: exactArgs("a REGION"), ValidArgsFunction: c.completeRegions(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, _, err := c.known(cmd, args[0]); err != nil {
				return err
			}
			f.change.State = edge.RegionDraining
			if now {
				f.change.State = edge.RegionEvacuated
			}
			return f.apply(cmd, c, args[0], func(out *edge.RegionChanged) string {
				return fmt.Sprintf("%s is %s: its users go to %s, all of them %s\nsee how far it is: roadbed region show %[1]s --watch; take it back: roadbed region restore %[1]s",
					args[0], out.Document.State, shares(out.Document.To), pace(&out.Document))
			})
		},
	}
	f.flags(cmd, true)
	cmd.Flags().BoolVar(&now, "now", false, "all users at once, whatever becomes of their requests")
	cmd.MarkFlagsMutuallyExclusive("now", "ramp")
	return cmd
}

func (c *cli) regionRestore() *cobra.Command {
	var f regionChange
	cmd := &cobra.Command{
		Use: "restore REGION", Short: "Bring a region's users back, bit by bit", Args: exactArgs("a REGION"), ValidArgsFunction: c.completeRegions(),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, was, err := c.known(cmd, args[0])
			if err != nil {
				return err
			}
			if was.Goal == 0 && was.Moved == 0 {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s serves all its users already\n", args[0])
				return err
			}
			f.change.State = edge.RegionServing
			return f.apply(cmd, c, args[0], func(out *edge.RegionChanged) string {
				return fmt.Sprintf("%s is %s: %s %% of its users are elsewhere, and all come back %s", args[0], out.Document.State, percent(out.Moved), pace(&out.Document))
			})
		},
	}
	f.flags(cmd, false)
	return cmd
}

func (c *cli) regionRemove() *cobra.Command {
	var glass bool
	cmd := &cobra.Command{
		Use: "remove REGION", Short: "Forget a region; its users, if any are elsewhere, are back at once", Args: exactArgs("a REGION"), ValidArgsFunction: c.completeRegions(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			all, err := fetchRegions(cmd.Context(), client)
			if err != nil {
				return err
			}
			for _, r := range all {
				if r.Goal > 0 && r.Document.To[args[0]] > 0 {
					return fmt.Errorf("nothing is changed: %s serves users of %s; restore %s first, or send them elsewhere", args[0], r.Region, r.Region)
				}
			}
			err = client.Do(cmd.Context(), http.MethodDelete, "/config/v1/properties/"+url.PathEscape(properties.ID(edge.RegionProperty+args[0], config.Scope{}))+"?"+permits(glass), nil, nil)
			var problem *api.Error
			if errors.As(err, &problem) && problem.Status == http.StatusNotFound {
				return fmt.Errorf("there is no region %s; `roadbed region list` shows what there is", args[0])
			}
			if err != nil {
				return frozen(err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "removed %s\n", args[0])
			return err
		},
	}
	breakGlass(cmd, &glass)
	return cmd
}

// known returns a region that somebody wants changed, and the API that has it.
func (c *cli) known(cmd *cobra.Command, name string) (*api.Client, edge.RegionView, error) {
	client, err := c.client()
	if err != nil {
		return nil, edge.RegionView{}, err
	}
	r, err := fetchRegion(client, name)(cmd.Context())
	if err != nil {
		return nil, r, fmt.Errorf("nothing is changed: %w", err)
	}
	return client, r, nil
}

// proposed returns what is proposed for a region, and the API that has it; or says that nothing is.
func (c *cli) proposed(cmd *cobra.Command, name string) (*api.Client, *edge.RegionProposal, error) {
	client, r, err := c.known(cmd, name)
	if err == nil && (r.Proposal == nil || r.Proposal.State != edge.ProposalOpen) {
		err = fmt.Errorf("nothing is changed: nothing is proposed for %s; to evacuate it all the same: roadbed region evacuate %[1]s", name)
	}
	return client, r.Proposal, err
}

func (c *cli) regionApprove() *cobra.Command {
	var f regionChange
	cmd := &cobra.Command{
		Use: "approve REGION", Short: "Evacuate a region as it is proposed", Args: exactArgs("a REGION"), ValidArgsFunction: c.completeRegions(),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, p, err := c.proposed(cmd, args[0])
			if err != nil {
				return err
			}
			f.change.State, f.change.To = edge.RegionDraining, p.To
			f.reason = cmp.Or(f.reason, c.why, p.Why())
			return f.apply(cmd, c, args[0], func(out *edge.RegionChanged) string {
				return fmt.Sprintf("approved: %s is %s, its users go to %s, all of them %s", args[0], out.Document.State, shares(out.Document.To), pace(&out.Document))
			})
		},
	}
	f.flags(cmd, false)
	return cmd
}

func (c *cli) regionRefuse() *cobra.Command {
	var glass bool
	cmd := &cobra.Command{
		Use: "refuse REGION", Short: "Say no to what is proposed, until the region has been well", Args: exactArgs("a REGION"), ValidArgsFunction: c.completeRegions(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, p, err := c.proposed(cmd, args[0])
			if err != nil {
				return err
			}
			p.State = edge.ProposalRefused
			client.Why = c.why
			set := properties.Property{Key: edge.ProposalProperty + args[0], Value: p.Text(), Source: "cli"}
			if err := client.Do(cmd.Context(), http.MethodPost, "/config/v1/properties?"+permits(glass), set, nil); err != nil {
				return fmt.Errorf("nothing is changed: %w", frozen(err))
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "refused; %s stays as it is, and nothing is proposed for it until it has been well\n", args[0])
			return err
		},
	}
	breakGlass(cmd, &glass)
	return cmd
}

func edgesOf(d *edge.RegionDocument) string {
	if len(d.Edges) == 1 {
		return "one edge"
	}
	return fmt.Sprintf("%d edges", len(d.Edges))
}
