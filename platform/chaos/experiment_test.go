package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge"
	"github.com/roadbed/roadbed/platform/ledger"
	"github.com/roadbed/roadbed/platform/registry"
)

// page starts services that answer, and an api that shows a page if good says so of which of them answered it.
func (r *road) page(t *testing.T, services []string, good func(answered map[string]bool) bool) {
	t.Helper()
	for _, s := range services {
		r.serve(t, s, func(_ *ipc.Engine, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") })
	}
	r.serve(t, "api", func(calls *ipc.Engine, w http.ResponseWriter, req *http.Request) {
		answered := map[string]bool{}
		for _, s := range services {
			out, _ := http.NewRequestWithContext(req.Context(), http.MethodGet, "http://"+s+"/", nil)
			if resp, err := calls.HTTPClient().Do(out); err == nil {
				answered[s] = resp.StatusCode == 200
				resp.Body.Close()
			}
		}
		if !good(answered) {
			http.Error(w, "there is no page", http.StatusInternalServerError)
		}
	})
}

// experiment is only-critical on the road, with members who come by until the test ends.
func (r *road) experiment(t *testing.T, services ...string) *OnlyCritical {
	t.Helper()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); wg.Wait() })
	visit := func(ctx context.Context, headers ...string) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.front.URL, nil)
		if err != nil {
			return err
		}
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, err := r.client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	}
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			visit(ctx, "X-Member", fmt.Sprint("member-", i%500)) // what becomes of it the edge counts
			time.Sleep(2 * time.Millisecond)
		}
	})
	ana := func(ctx context.Context) context.Context { return api.As(ctx, "ana", "only-critical") }
	return &OnlyCritical{
		Services: services, Percent: 10, Margin: 0.1, For: 2500 * time.Millisecond, Pace: 2 * time.Millisecond,
		Begin: func(ctx context.Context, f Fault) (Fault, error) {
			f, err := r.Add(ana(ctx), f)
			if err == nil {
				until(t, "the edge has "+f.ID, func() bool { return r.counts(t, f.ID) != nil })
			}
			return f, err
		},
		Alter: func(ctx context.Context, id string, f Fault) (Fault, error) { return r.Alter(ana(ctx), id, f) },
		End:   func(ctx context.Context, id string) error { return r.Remove(ana(ctx), id) },
		Live: func(_ context.Context, id string) (Arms, error) {
			c := r.counts(t, id)
			if c == nil {
				return Arms{}, errors.New("the edge does not know it")
			}
			return Arms{sample(c.Injected), sample(c.Control)}, nil
		},
		Hit: func(_ context.Context, since time.Time) (rules []string, err error) {
			for _, e := range r.engines {
				for _, h := range e.FaultHits() {
					if h.Last.After(since) {
						rules = append(rules, h.Rule)
					}
				}
			}
			return rules, nil
		},
		Probe: func(ctx context.Context, h [2]string) error { return visit(ctx, h[0], h[1]) },
	}
}

// untilSafe lets o run until its comparison has told that members are safe, as somebody does who has seen enough. How long that
// takes is the machine's affair.
func untilSafe(t *testing.T, o *OnlyCritical) context.Context {
	ctx, interrupt := context.WithCancel(t.Context())
	t.Cleanup(interrupt)
	o.For = 0
	o.Tell = func(p Progress) {
		if _, safe := Hurts(p.Probes.Injected, p.Probes.Control, o.Margin); safe {
			interrupt()
		}
	}
	return ctx
}

func sample(a edge.Arm) Sample { return Sample{a.Requests, a.Failed} }

func TestMembersWhoCanLiveWithoutTheRestSurvive(t *testing.T) {
	r := newRoad(t)
	r.page(t, []string{"catalog", "ratings", "billing"}, func(a map[string]bool) bool { return a["catalog"] })
	o := r.experiment(t, "billing", "ratings")
	var steps []string
	o.For = 0
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	o.Tell = func(p Progress) {
		if _, safe := Hurts(p.Probes.Injected, p.Probes.Control, o.Margin); safe && p.Live != nil && p.Live.Injected.Requests > 0 && p.Live.Control.Requests > 0 {
			interrupt() // as a person does who has seen enough
		}
		if len(steps) == 0 || steps[len(steps)-1] != p.Step {
			steps = append(steps, p.Step)
		}
	}
	res, err := o.Run(ctx)
	if err != nil || res.Verdict != Survives || res.Probes.Injected.Requests < 10 || res.Live == nil || res.Live.Injected.Requests == 0 || res.Live.Control.Requests == 0 {
		t.Errorf("got %+v, live %+v, %v; want that members survive, of whom some were concerned", res, res.Live, err)
	}
	if want := []string{"steady state", "only critical services are up"}; !slices.Equal(steps, want) {
		t.Errorf("told %q, want %q", steps, want)
	}
	if got := r.List(); len(got) != 0 {
		t.Errorf("afterwards in force: %v", got)
	}
	if err := r.Conclude(api.As(t.Context(), "ana", ""), res); err != nil {
		t.Fatal(err)
	}
	changes, err := r.ledger.List(t.Context(), ledger.Query{Resource: "experiment:"})
	if err != nil || len(changes) != 1 || !strings.Contains(string(changes[0].After), `"verdict":"survives"`) {
		t.Errorf("ledger: got %v, %v; want the verdict", changes, err)
	}
}

func TestWhatNoFaultWasInjectedIntoIsNotTested(t *testing.T) {
	for _, tc := range []struct {
		services []string
		want     Verdict
		why      string
	}{
		{[]string{"billing", "nobody", "plain"}, Survives, "without billing; not tested: nobody, plain; nobody who injects faults called them"},
		{[]string{"nobody", "plain"}, Inconclusive, "not tested: nobody, plain;"},
	} {
		r := newRoad(t)
		for _, s := range []string{"billing", "plain", "nobody"} {
			r.serve(t, s, func(_ *ipc.Engine, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") })
		}
		r.serve(t, "api", func(calls *ipc.Engine, w http.ResponseWriter, req *http.Request) {
			out, _ := http.NewRequestWithContext(req.Context(), http.MethodGet, "http://billing/", nil)
			if resp, err := calls.HTTPClient().Do(out); err == nil {
				resp.Body.Close()
			}
			resp, err := r.client.Get("http://" + r.lists["plain"][0].Addr()) // by a client that knows nothing of faults
			if err != nil {
				http.Error(w, err.Error(), 500)
				return
			}
			resp.Body.Close()
		})
		o := r.experiment(t, tc.services...)
		o.Percent, o.Margin = 0, 0.3
		if res, err := o.Run(untilSafe(t, o)); err != nil || res.Verdict != tc.want || !strings.Contains(res.Why, tc.why) || !slices.Equal(res.Untested, []string{"nobody", "plain"}) {
			t.Errorf("failing %v: got %+v, %v; want %s because %q", tc.services, res, err, tc.want, tc.why)
		}
	}
}

func TestAHiddenCriticalServiceIsFoundAndMembersAreSpared(t *testing.T) {
	r := newRoad(t)
	r.page(t, []string{"catalog", "ratings", "billing"}, func(a map[string]bool) bool { return a["catalog"] && a["billing"] })
	o := r.experiment(t, "billing", "ratings")
	o.For = 10 * time.Minute
	began := time.Now()
	res, err := o.Run(t.Context())
	if err != nil || res.Verdict != Hidden || len(res.Found) != 1 || !slices.Equal(res.Found[0].Services, []string{"billing"}) || !strings.Contains(res.Why, "hidden-critical: billing") {
		t.Fatalf("got %+v, %v; want billing as hidden-critical", res, err)
	}
	if took := time.Since(began); took > 2*time.Minute {
		t.Errorf("it took %s to stop itself", took)
	}
	if res.Live != nil && res.Live.Injected.Failed > 200 {
		t.Errorf("%s of members before it stopped", res.Live.Injected)
	}
	if got := r.List(); len(got) != 0 {
		t.Errorf("afterwards in force: %v", got)
	}
}

func TestAHiddenCriticalPairIsFound(t *testing.T) {
	r := newRoad(t)
	r.page(t, []string{"catalog", "ratings", "billing"}, func(a map[string]bool) bool { return a["ratings"] || a["billing"] })
	o := r.experiment(t, "billing", "catalog", "ratings")
	o.Percent, o.For = 0, time.Minute
	res, err := o.Run(t.Context())
	if err != nil || res.Verdict != Hidden || len(res.Found) != 1 || !slices.Equal(res.Found[0].Services, []string{"billing", "ratings"}) {
		t.Errorf("got %+v, %v; want billing with ratings", res, err)
	}
}

func TestMembersDoNotSurviveWhatNeverReachedThem(t *testing.T) {
	r := newRoad(t)
	r.page(t, []string{"ratings"}, func(map[string]bool) bool { return true })
	o := r.experiment(t, "ratings")
	o.Routes, o.Margin = []string{"another"}, 0.4
	if res, err := o.Run(untilSafe(t, o)); err != nil || res.Verdict != Inconclusive || !strings.Contains(res.Why, "came under the faults") {
		t.Errorf("got %+v, %v; want inconclusive", res, err)
	}
}

func TestAnExperimentDoesNotBeginWhenMembersAreUnwell(t *testing.T) {
	r := newRoad(t)
	r.page(t, []string{"ratings"}, func(map[string]bool) bool { return false })
	o := r.experiment(t, "ratings")
	o.Begin = func(context.Context, Fault) (Fault, error) {
		t.Error("a fault was begun")
		return Fault{}, nil
	}
	if res, err := o.Run(t.Context()); err != nil || res.Verdict != Inconclusive || !strings.Contains(res.Why, "before anything was injected, 10 of 10 failed") {
		t.Errorf("got %+v, %v; want inconclusive", res, err)
	}
}

func TestAnExperimentWhoseFaultsAreStoppedSaysSo(t *testing.T) {
	o := &OnlyCritical{Services: []string{"x"}, For: time.Minute, Pace: time.Millisecond,
		Begin: func(_ context.Context, f Fault) (Fault, error) { return f, nil },
		Alter: func(context.Context, string, Fault) (Fault, error) { return Fault{}, ErrNotFound },
		End:   func(context.Context, string) error { return ErrNotFound },
		Probe: func(context.Context, [2]string) error { return nil },
	}
	synctest.Test(t, func(t *testing.T) {
		if res, err := o.Run(t.Context()); err != nil || res.Verdict != Inconclusive || !strings.Contains(res.Why, "somebody stopped them") {
			t.Errorf("got %+v, %v; want inconclusive", res, err)
		}
	})
}

func TestAnExperimentIsRefusedThatMakesNoSense(t *testing.T) {
	for name, o := range map[string]*OnlyCritical{
		"no services": {}, "all members": {Services: []string{"x"}, Percent: 51}, "below none": {Services: []string{"x"}, Percent: -1},
		"no margin": {Services: []string{"x"}, Margin: -0.1}, "all margin": {Services: []string{"x"}, Margin: 0.6},
	} {
		if res, err := o.Run(t.Context()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %+v, %v; want ErrInvalid", name, res, err)
		}
	}
}

func TestHarmIsToldFromChance(t *testing.T) {
	for _, tc := range []struct {
		injected, control Sample
		harm, safe        bool
	}{
		{Sample{0, 0}, Sample{0, 0}, false, false},
		{Sample{2, 2}, Sample{100, 0}, false, false}, // may be chance
		{Sample{3, 3}, Sample{100, 0}, true, false},
		{Sample{200, 0}, Sample{200, 0}, false, true},
		{Sample{500, 5}, Sample{500, 5}, false, true},
		{Sample{500, 40}, Sample{500, 5}, true, false},
		{Sample{500, 500}, Sample{500, 500}, false, false},
	} {
		if harm, safe := Hurts(tc.injected, tc.control, 0.02); harm != tc.harm || safe != tc.safe {
			t.Errorf("injected %s, control %s: got harm %v, safe %v; want %v, %v", tc.injected, tc.control, harm, safe, tc.harm, tc.safe)
		}
	}
}

func TestWhoIsCriticalIsDeclaredPerServiceAndPerRoute(t *testing.T) {
	services := []registry.Service{{Name: "api", Criticality: roadbed.Critical}, {Name: "ratings", Criticality: roadbed.Degraded},
		{Name: "billing", Criticality: roadbed.BestEffort}, {Name: "catalog", Criticality: roadbed.Critical}, {Name: "load", Criticality: roadbed.Bulk}}
	const declared = `[{"route":"pay","dependency":"billing","critical":true},{"route":"search","dependency":"catalog","critical":false}]`
	for _, tc := range []struct {
		declared, route, want string
	}{
		{"", "", "billing ratings"}, {"", "pay", "billing ratings"}, {declared, "pay", "ratings"}, {declared, "home", "billing ratings"},
		{declared, "search", "billing catalog ratings"}, {declared, "", "ratings"},
	} {
		if got, err := NonCritical(services, tc.declared, tc.route); err != nil || strings.Join(got, " ") != tc.want {
			t.Errorf("on route %q, declared %s: got %v, %v; want %s", tc.route, tc.declared, got, err, tc.want)
		}
	}
	if _, err := NonCritical(services, "{", ""); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "fit.critical") {
		t.Errorf("a property that cannot be read: got %v", err)
	}
	if _, err := NonCritical(services[:1], "", ""); !errors.Is(err, ErrInvalid) {
		t.Errorf("nothing but critical services: got %v", err)
	}
}
