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
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/examples/streaming"
	"github.com/roadbed/roadbed/fault/search"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/chaos"
	"github.com/roadbed/roadbed/platform/edge"
	"github.com/roadbed/roadbed/platform/registry"
	"github.com/spf13/cobra"
)

func (c *cli) fitSearch() *cobra.Command {
	var edgeAt, format string
	var headers map[string]string
	var s search.Search
	cmd := &cobra.Command{
		Use:   "search PATH",
		Short: "Search for combinations of failing services that hurt a request",
		Long: `Search for combinations of failing services that hurt a request.

It asks the edge for PATH as a synthetic member, sees from what the services tell which calls that
led to, and makes those fail, one by one and then in combinations that its way round failures
suggests: lineage-driven fault injection. Only these requests are concerned.

Exit codes: 0 nothing is left to try and nothing but single services hurts, 3 a combination hurts,
4 the search was not whole, 1 and 2 as everywhere.`,
		Example: `  roadbed fit search /api/home --header X-Member=m00017
  roadbed fit search /api/play/t00042 --header X-Member=m00017 --max-faults 2 -o json`,
		Args: exactArgs("the PATH of a request"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "table" && format != "json" {
				return usageError{fmt.Errorf("-o %s: use table or json", format)}
			}
			if s.MaxFaults < 1 || s.MaxFaults > 5 || !strings.HasPrefix(args[0], "/") {
				return usageError{fmt.Errorf("give a PATH such as /api/home, and --max-faults from 1 to 5")}
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			client.Why = cmp.Or(client.Why, "fit search "+args[0])
			l := lineage{client: client, http: &http.Client{}, url: strings.TrimSuffix(cmp.Or(edgeAt, edgeBeside(client.Base)), "/") + args[0], headers: headers,
				id: "search-" + strings.ToLower(fmt.Sprintf("%x", time.Now().UnixNano()&0xffffffff))}
			progress := cmd.OutOrStdout()
			if format == "json" {
				progress = cmd.ErrOrStderr()
			}
			s.Run = l.run
			s.Tell = func(step search.Step) {
				what, how := "nothing fails", "good"
				if len(step.Failing) > 0 {
					what = "without " + names(step.Failing)
				}
				switch {
				case step.Untested:
					how = "NOT TESTED: " + l.deaf
				case !step.Good:
					how = "BAD: " + l.why
				}
				fmt.Fprintf(progress, "%-60s %s\n", what, how)
			}
			res, err := s.Do(cmd.Context())
			if err != nil {
				return err
			}
			services, err := fetchList[registry.Service](client, "/api/v1/services")(cmd.Context())
			if err != nil {
				return err
			}
			return searched(cmd.OutOrStdout(), format, res, services)
		},
	}
	fs := cmd.Flags()
	fs.StringToStringVar(&headers, "header", nil, "headers of the request, NAME=VALUE; it is told apart by X-Fit-Probe")
	fs.IntVar(&s.MaxFaults, "max-faults", 3, "services failing at once, at most")
	fs.IntVar(&s.MaxRuns, "max-runs", 200, "experiments at most")
	fs.StringVar(&edgeAt, "edge", os.Getenv("ROADBED_EDGE"), "where the edge is; when empty, on the API's host and moved as far from its usual port (env ROADBED_EDGE)")
	fs.StringVarP(&format, "output", "o", "table", "table or json")
	return cmd
}

func names(points []string) string {
	var out []string
	for _, p := range points {
		out = append(out, strings.TrimPrefix(p, "client:"))
	}
	return strings.Join(out, " and ")
}

// searched prints the result and turns it into an exit code.
func searched(out io.Writer, format string, res search.Result, services []registry.Service) error {
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		if err := e.Encode(res); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(out, "%d services, %d experiments; the request fails without\n", len(res.Points), len(res.Steps))
		for _, h := range res.Hurting {
			fmt.Fprintf(out, "  %s\n", names(h))
		}
		for _, u := range res.Untested {
			fmt.Fprintf(out, "not tested: without %s\n", names(u))
		}
		if odd := contradictions(res, services); odd != "" {
			fmt.Fprint(out, odd)
		}
	}
	if len(res.Untested) > 0 {
		var sets []string
		for _, set := range res.Untested {
			sets = append(sets, names(set))
		}
		return verdictError{exitUnknown, "not tested: " + strings.Join(sets, ", ") + "; see above why"}
	}
	if !res.Whole {
		return verdictError{exitUnknown, "not all was tried; give --max-runs more"}
	}
	if i := slices.IndexFunc(res.Hurting, func(h []string) bool { return len(h) > 1 }); i >= 0 {
		return verdictError{exitHurt, "a combination hurts: " + names(res.Hurting[i])}
	}
	return nil
}

// contradictions tells where what services say of themselves is not what this request showed.
func contradictions(res search.Result, services []registry.Service) string {
	out := ""
	for _, s := range services {
		point := "client:" + s.Name
		if slices.ContainsFunc(res.Untested, func(u []string) bool { return len(u) == 1 && u[0] == point }) {
			continue
		}
		needed := slices.ContainsFunc(res.Hurting, func(h []string) bool { return len(h) == 1 && h[0] == point })
		switch critical := s.Criticality == roadbed.Critical; {
		case needed && !critical:
			out += fmt.Sprintf("%s says that it is %s, and the request fails without it\n", s.Name, s.Criticality)
		case critical && !needed && slices.Contains(res.Points, point):
			out += fmt.Sprintf("%s says that it is CRITICAL, and the request does without it\n", s.Name)
		}
	}
	return out
}

// lineage sends one request over and over, each time with other services failing.
type lineage struct {
	client  *api.Client
	http    *http.Client
	url     string
	headers map[string]string
	id      string
	n       int
	usual   *search.Trace
	why     string // the latest request that was bad failed
	deaf    string // why the latest experiment tested nothing
}

const (
	tries   = 3 // of one experiment: once is chance
	mayTake = 5 * time.Second
)

// run makes these points fail for the request and returns what came of it: bad if it failed more often than not.
func (l *lineage) run(ctx context.Context, failing []string) (t search.Trace, err error) {
	l.n++
	id := fmt.Sprintf("%s-%d", l.id, l.n)
	if len(failing) > 0 {
		f := chaos.Fault{
			ID: id, Experiment: l.id, Description: "search: without " + names(failing), Who: chaos.Who{Header: map[string]string{"X-Fit-Probe": id}},
			Rules: strings.Join(failing, "=error(503);") + "=error(503)", Expires: time.Now().Add(30 * time.Second),
		}
		if err := l.client.Do(ctx, http.MethodPost, "/api/v1/faults", f, nil); err != nil {
			return t, err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mayTake)
			defer cancel()
			err = errors.Join(err, l.client.Do(ctx, http.MethodDelete, "/api/v1/faults/"+url.PathEscape(id), nil, nil))
		}()
		if err := l.untilEdgeHas(ctx, id); err != nil {
			return t, err
		}
	}
	bad := 0
	called, hit := map[string]bool{}, map[string]bool{} // by point
	for i := range tries {
		request := fmt.Sprintf("%s-%d", id, i)
		if err := l.ask(ctx, request, id); ctx.Err() != nil {
			return t, ctx.Err()
		} else if err != nil {
			bad++
			l.why = err.Error()
		}
		heard, err := l.listen(ctx, request)
		if err != nil {
			return t, err
		}
		for _, h := range heard {
			point := "client:" + h.App
			called[point] = true
			if slices.ContainsFunc(h.Attempts, func(a ipc.Attempted) bool { return a.Fault != "" }) {
				hit[point] = true
			}
		}
		// Services remember a number of calls only, so the longest account is the truest.
		if seen := chaos.Lineage(heard, l.usual); len(seen.Calls) > len(t.Calls) {
			t = seen
		}
	}
	t.Good = 2*bad < tries
	if len(failing) > 0 {
		if t.Untested, err = l.tested(ctx, id, failing, t.Good, called, hit); err != nil || t.Untested {
			return t, err
		}
	}
	if t.Good && len(t.Calls) == 0 {
		return t, fmt.Errorf("no service remembers a call made for %s; only those built on ipc do, and the busier they are the less long", l.url)
	}
	if l.usual == nil && t.Good {
		l.usual = &t
	}
	return t, nil
}

// tested finds out whether an experiment tested anything, and if not notes why.
func (l *lineage) tested(ctx context.Context, id string, failing []string, good bool, called, hit map[string]bool) (untested bool, err error) {
	counts, err := l.counts(ctx, id)
	if err != nil {
		return false, err
	}
	if counts == nil || counts.Injected.Requests == 0 {
		l.deaf = "no request came under the fault; does another edge answer, or was injection stopped?"
		return true, nil
	}
	if !good {
		return false, nil // whoever should tell of it may be what broke
	}
	var calls []string
	for _, p := range failing {
		if called[p] && !hit[p] {
			calls = append(calls, p)
		}
	}
	switch {
	case len(calls) > 0:
		l.deaf = fmt.Sprintf("calls to %s were made without the fault: whoever makes them got no X-Fit, or injects none (ipc.fit.enabled, ipc.fit.maxActive)", names(calls))
	case len(hit) == 0:
		l.deaf = "this time nobody called " + names(failing)
	}
	return len(calls) > 0 || len(hit) == 0, nil
}

// counts returns how many requests the fault concerned, nil if the edge does not know it.
func (l *lineage) counts(ctx context.Context, id string) (*edge.FaultCounts, error) {
	var all []edge.FaultCounts
	if err := l.client.Do(ctx, http.MethodGet, "/api/v1/edge/faults", nil, &all); err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].ID == id {
			return &all[i], nil
		}
	}
	return nil, nil
}

// untilEdgeHas waits until the edge knows the fault.
func (l *lineage) untilEdgeHas(ctx context.Context, id string) error {
	for end := time.Now().Add(mayTake); ; {
		known, err := l.counts(ctx, id)
		switch {
		case err != nil || known != nil:
			return err
		case time.Now().After(end):
			return fmt.Errorf("the edge does not know the fault %s after %s", id, mayTake)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask sends the request.
func (l *lineage) ask(ctx context.Context, request, probe string) error {
	ctx, cancel := context.WithTimeout(ctx, streaming.Deadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	for k, v := range l.headers {
		req.Header.Set(k, v)
	}
	req.Header.Set("X-Request-Id", request)
	req.Header.Set("X-Fit-Probe", probe)
	resp, err := l.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// listen asks all instances, and the edge, which calls they made for the request.
func (l *lineage) listen(ctx context.Context, request string) ([]chaos.Heard, error) {
	ctx, cancel := context.WithTimeout(ctx, mayTake)
	defer cancel()
	type account struct{ Calls []chaos.Heard }
	var all []chaos.Heard
	_, err := askAll(ctx, l.client, "?format=json&id="+url.QueryEscape(request), func(app, instance string, a account) {
		for _, h := range a.Calls {
			h.Caller, h.Instance = app, instance
			all = append(all, h)
		}
	})
	return all, cmp.Or(err, ctx.Err())
}

// askAll asks the edge and all instances at once what they tell of their calls, and gives each answer to take, one at a
// time. Instances that do not answer made none, or are not built on ipc; silent is why the edge did not.
func askAll[A any](ctx context.Context, client *api.Client, query string, take func(app, instance string, a A)) (silent, err error) {
	instances, err := fetchList[roadbed.Instance](client, "/api/v1/registry/instances")(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	ask := func(c *api.Client, path, app, instance string) error {
		var a A
		err := c.Do(ctx, http.MethodGet, path+query, nil, &a)
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			take(app, instance, a)
		}
		return err
	}
	wg.Go(func() { silent = ask(client, "/api/v1/edge/why", "edge", "") })
	for _, i := range instances {
		wg.Go(func() {
			ask(&api.Client{Base: "http://" + answersAt(i)}, "/ipc/why", strings.ToLower(i.App), i.ID) //nolint:errcheck // see above
		})
	}
	wg.Wait()
	return silent, nil
}

// answersAt is where an instance tells of its calls: at its port, or at its admin port, which may be a sidecar's.
func answersAt(i roadbed.Instance) string {
	if port := i.Metadata["management.port"]; port != "" {
		return net.JoinHostPort(i.Host, port)
	}
	return i.Addr()
}
