package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/examples/streaming"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/chaos"
	"github.com/roadbed/roadbed/platform/edge"
	"github.com/roadbed/roadbed/platform/registry"
	"github.com/spf13/cobra"
)

// verdictError ends an experiment's command with the exit code of its verdict. The verdict itself is printed already.
type verdictError struct {
	code int
	why  string
}

func (e verdictError) Error() string { return e.why }

func (c *cli) fitRun() *cobra.Command {
	cmd := &cobra.Command{Use: "run", Short: "Run an experiment that stops itself when members are hurt", Args: noArgs, RunE: showHelp}
	cmd.AddCommand(c.fitOnlyCritical())
	return cmd
}

func (c *cli) fitOnlyCritical() *cobra.Command {
	o := &chaos.OnlyCritical{}
	var edgeAt, format, route string
	var paths []string
	var margin float64
	cmd := &cobra.Command{
		Use:   "only-critical",
		Short: "Try whether members can browse and play with only critical services up",
		Long: `Try whether members can browse and play with only critical services up.

Calls to every service that is not CRITICAL fail, for a share of members and for synthetic
members that this command sends. Both are compared with as many that are spared. As soon as
members are hurt, injection stops, and synthetic members alone find out which service is
critical though it says that it is not. Should this command die, its faults end within 30 s.

Exit codes: 0 members survive, 3 a hidden critical service was found or members were hurt,
4 nothing could be told, 1 and 2 as everywhere.`,
		Example: `  roadbed fit run only-critical
  roadbed fit run only-critical --percent 5 --for 10m --why "release 42"
  roadbed fit run only-critical --for 0          until interrupted
  roadbed fit run only-critical --probe /shop/ --probe /shop/cart -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "table" && format != "json" {
				return usageError{fmt.Errorf("-o %s: use table or json", format)}
			}
			if o.Margin = margin / 100; !(o.Margin > 0) {
				return usageError{fmt.Errorf("--margin %v: use more than 0, at most 50", margin)}
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			client.Why = cmp.Or(client.Why, "fit run only-critical")
			ctx := cmd.Context()
			services, err := fetchList[registry.Service](client, "/api/v1/services")(ctx)
			if err != nil {
				return err
			}
			if o.Services, err = nonCriticalOn(ctx, client, services, route); err != nil {
				return err
			}
			if route != "" {
				if err := routeExists(ctx, client, route); err != nil {
					return err
				}
				o.Routes = []string{route}
			}
			if o.Probe, err = prober(cmp.Or(edgeAt, edgeBeside(client.Base)), paths, services); err != nil {
				return usageError{err}
			}
			wire(o, client)
			s := &screen{out: cmd.OutOrStdout(), log: cmd.ErrOrStderr()}
			if format == "json" {
				s.out = cmd.ErrOrStderr()
			}
			o.Tell = teller(s)
			fmt.Fprintf(s.out, "failing %s for %g %% of members and for synthetic ones\n", strings.Join(o.Services, ", "), o.Percent)
			res, err := o.Run(ctx)
			s.show("")
			if res.Verdict != "" {
				err = errors.Join(err, conclude(ctx, client, res), printResult(cmd.OutOrStdout(), format, res))
			}
			if err != nil {
				return err
			}
			switch res.Verdict {
			case chaos.Survives:
				return nil
			case chaos.Inconclusive:
				return verdictError{exitUnknown, "nothing could be told: " + res.Why}
			}
			return verdictError{exitHurt, res.Why}
		},
	}
	fs := cmd.Flags()
	fs.Float64Var(&o.Percent, "percent", 1, "share of members, at most 50; 0: synthetic members only")
	fs.Float64Var(&margin, "margin", 5, "how many percent more failures than in the control group are harm")
	fs.DurationVar(&o.For, "for", time.Minute, "how long; 0: until interrupted")
	fs.StringVar(&o.Status, "error", "503", "what failing calls are answered: an HTTP status, or a gRPC code")
	fs.StringVar(&route, "route", "", "only requests on this route of the edge, and what it declares critical")
	fs.StringSliceVar(&paths, "probe", nil, "paths that synthetic members ask for, all of which must be answered 200 within 2s; in the demo they browse and play")
	fs.StringVar(&edgeAt, "edge", os.Getenv("ROADBED_EDGE"), "where the edge is; when empty, on the API's host and moved as far from its usual port (env ROADBED_EDGE)")
	fs.StringVarP(&format, "output", "o", "table", "table or json")
	return cmd
}

// nonCriticalOn returns the services that requests on route can do without.
func nonCriticalOn(ctx context.Context, client *api.Client, services []registry.Service, route string) ([]string, error) {
	declared, err := propertyValue(ctx, client, chaos.CriticalProperty)
	if err != nil {
		return nil, err
	}
	return chaos.NonCritical(services, declared, route)
}

// propertyValue returns what everybody sees under key, "" if nobody set it.
func propertyValue(ctx context.Context, client *api.Client, key string) (string, error) {
	var out struct {
		Properties map[string]string `json:"properties"`
	}
	err := client.Do(ctx, http.MethodGet, "/config/v1/resolve?prefix="+url.QueryEscape(key), nil, &out)
	return out.Properties[key], err
}

// routeExists fails if the edge has no route of that name, with those that it has.
func routeExists(ctx context.Context, client *api.Client, route string) error {
	var at edge.RoutesView
	if err := client.Do(ctx, http.MethodGet, "/api/v1/edge/routes", nil, &at); err != nil {
		return err
	}
	names := slices.Clone(at.Apps) // an app's own route is called as the app
	for _, r := range at.Routes {
		names = append(names, r.ID)
	}
	if !slices.Contains(names, route) {
		return usageError{fmt.Errorf("the edge has no route %q; it has %s", route, strings.Join(names, ", "))}
	}
	return nil
}

// wire leads the experiment's deeds to the platform.
func wire(o *chaos.OnlyCritical, client *api.Client) {
	named := func(id string) string { return "/api/v1/faults/" + url.PathEscape(id) }
	o.Begin = func(ctx context.Context, f chaos.Fault) (chaos.Fault, error) {
		err := client.Do(ctx, http.MethodPost, "/api/v1/faults", f, &f)
		return f, err
	}
	o.Alter = func(ctx context.Context, id string, f chaos.Fault) (chaos.Fault, error) {
		err := client.Do(ctx, http.MethodPut, named(id), f, &f)
		return f, err
	}
	o.End = func(ctx context.Context, id string) error {
		err := client.Do(ctx, http.MethodDelete, named(id), nil, nil)
		if p := (*api.Error)(nil); errors.As(err, &p) && p.Status == http.StatusNotFound {
			return chaos.ErrNotFound
		}
		return err
	}
	o.Live = func(ctx context.Context, id string) (chaos.Arms, error) {
		var all []edge.FaultCounts
		if err := client.Do(ctx, http.MethodGet, "/api/v1/edge/faults", nil, &all); err != nil {
			return chaos.Arms{}, err
		}
		i := slices.IndexFunc(all, func(f edge.FaultCounts) bool { return f.ID == id })
		if i < 0 {
			return chaos.Arms{}, fmt.Errorf("the edge does not know the fault %s", id)
		}
		of := func(a edge.Arm) chaos.Sample { return chaos.Sample{Requests: a.Requests, Failed: a.Failed} }
		return chaos.Arms{Injected: of(all[i].Injected), Control: of(all[i].Control)}, nil
	}
	o.Hit = func(ctx context.Context, since time.Time) ([]string, error) { return rulesThatHit(ctx, client, since) }
}

// rulesThatHit asks the edge and all instances by which rules they have injected faults since then.
func rulesThatHit(ctx context.Context, client *api.Client, since time.Time) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, mayTake)
	defer cancel()
	type account struct{ Faults []ipc.FaultHit }
	var rules []string
	silent, err := askAll(ctx, client, "?format=json", func(_, _ string, a account) {
		for _, h := range a.Faults {
			if h.Last.After(since) {
				rules = append(rules, h.Rule)
			}
		}
	})
	return rules, cmp.Or(err, silent)
}

// prober returns what one synthetic member does: ask for paths, or browse and play in the demo.
func prober(edgeAt string, paths []string, services []registry.Service) (func(context.Context, [2]string) error, error) {
	demo := slices.ContainsFunc(services, func(s registry.Service) bool { return s.Name == streaming.PopulationName })
	if len(paths) == 0 && !demo {
		return nil, errors.New("say with --probe PATH what synthetic members shall ask for; only the demo's are known")
	}
	client := &http.Client{}
	if len(paths) == 0 {
		at, err := streaming.EdgeURL(edgeAt)
		var n atomic.Uint64
		seed := uint64(time.Now().UnixNano())
		return func(ctx context.Context, h [2]string) error {
			return streaming.Visit(ctx, client, at, http.Header{h[0]: {h[1]}}, seed, n.Add(1))
		}, err
	}
	at := strings.TrimSuffix(edgeAt, "/")
	for _, p := range paths {
		if _, err := http.NewRequest(http.MethodGet, at+p, nil); err != nil || !strings.HasPrefix(p, "/") {
			return nil, fmt.Errorf("--probe %s: use a path such as /home", p)
		}
	}
	return func(ctx context.Context, h [2]string) error {
		for _, p := range paths {
			if err := ask(ctx, client, at+p, h); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// ask asks for url as a synthetic member does.
func ask(ctx context.Context, client *http.Client, url string, header [2]string) error {
	ctx, cancel := context.WithTimeout(ctx, streaming.Deadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set(header[0], header[1])
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d", url, resp.StatusCode)
	}
	return nil
}

// teller shows what an experiment does: as it goes on a terminal, else a line per step and one each ten seconds.
func teller(s *screen) func(chaos.Progress) {
	step, shown := "", time.Duration(-1)
	return func(p chaos.Progress) {
		line := p.Step
		if p.Elapsed > 0 {
			line = fmt.Sprintf("%s, %s: ", p.Step, p.Elapsed.Round(time.Second))
			if p.Live != nil {
				line += fmt.Sprintf("members %s (control %s), ", p.Live.Injected, p.Live.Control)
			}
			line += fmt.Sprintf("synthetic %s (control %s)", p.Probes.Injected, p.Probes.Control)
		}
		if !isTerminal(s.out) && p.Step == step && p.Elapsed-shown < 10*time.Second {
			return
		}
		step, shown = p.Step, p.Elapsed
		s.show(line)
	}
}

// conclude puts the verdict into the change log, also after an interrupt.
func conclude(ctx context.Context, client *api.Client, res chaos.Result) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return client.Do(ctx, http.MethodPost, "/api/v1/experiments/results", res, nil)
}

func printResult(out io.Writer, format string, res chaos.Result) error {
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(res)
	}
	fmt.Fprintf(out, "%s: %s\n", res.Verdict, res.Why)
	if res.Live != nil {
		fmt.Fprintf(out, "  members    %s, control group %s\n", res.Live.Injected, res.Live.Control)
	}
	fmt.Fprintf(out, "  synthetic  %s, control group %s\n", res.Probes.Injected, res.Probes.Control)
	for _, f := range res.Found {
		fmt.Fprintf(out, "  without %s: %s: %s\n", strings.Join(f.Services, " and "), f.Probes, f.Why)
	}
	_, err := fmt.Fprintf(out, "  in the change log: roadbed changes --action experiment.end\n")
	return err
}

const (
	usualAPIPort  = 7070
	usualEdgePort = 7000
)

// edgeBeside returns where the edge of the platform is whose API is at base: on the same host, moved from its usual port
// as far as the API is, as --port-offset moves all.
func edgeBeside(base string) string {
	host, port := "127.0.0.1", usualEdgePort
	if u, err := url.Parse(base); err == nil && u.Hostname() != "" {
		host = u.Hostname()
		if n, err := strconv.Atoi(u.Port()); err == nil && n > usualAPIPort-usualEdgePort {
			port += n - usualAPIPort
		}
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(port))
}
