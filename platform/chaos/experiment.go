package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/registry"
)

// Sample counts requests of one group.
type Sample struct {
	Requests int64 `json:"requests"`
	Failed   int64 `json:"failed"`
}

// rate is the share that failed, at least one in a thousand: nothing is perfect, and one failure proves nothing.
func (s Sample) rate() float64 {
	return max(0.001, float64(s.Failed)/max(1, float64(s.Requests)))
}

// String is "3 of 120 failed".
func (s Sample) String() string { return fmt.Sprintf("%d of %d failed", s.Failed, s.Requests) }

// Verdict is how an experiment ended.
type Verdict string

// The verdicts.
const (
	Survives     Verdict = "survives"        // members did not notice; Untested says what of it could not be tried
	Hidden       Verdict = "hidden-critical" // members were hurt, and by what is known
	Hurt         Verdict = "hurt"            // members were hurt, and no single service nor pair of them explains it
	Inconclusive Verdict = "inconclusive"    // it could not be tried
)

// Hurts tells from a comparison sample whether failures among injected are more than chance: Wald's sequential
// probability ratio test of "as often as in control" against "margin more often". harm is sure with an error of one in
// a thousand, safe with one in twenty; until then neither holds.
func Hurts(injected, control Sample, margin float64) (harm, safe bool) {
	p0 := control.rate()
	p1 := p0 + margin
	if p1 >= 1 {
		return false, false // where nearly everything fails anyway nothing can be told
	}
	ok := float64(injected.Requests - injected.Failed)
	llr := float64(injected.Failed)*math.Log(p1/p0) + ok*math.Log((1-p1)/(1-p0))
	const alpha, beta = 0.001, 0.05
	return llr >= math.Log((1-beta)/alpha), llr <= math.Log(beta/(1-alpha))
}

// Finding is a set of services without which members are hurt, though each says that they can do without it.
type Finding struct {
	Services []string `json:"services"`
	Probes   Sample   `json:"probes"`
	Why      string   `json:"why" doc:"What the first probe that failed was told."`
}

// Result is what an experiment found.
type Result struct {
	Experiment string    `json:"experiment"`
	Verdict    Verdict   `json:"verdict"`
	Why        string    `json:"why" doc:"In a sentence."`
	Tried      []string  `json:"tried" doc:"The services that failed."`
	Untested   []string  `json:"untested,omitempty" doc:"Of those, such as no fault was injected into calls of."`
	Found      []Finding `json:"found,omitempty"`
	Live       *Arms     `json:"live,omitempty" doc:"Members; absent if none were concerned."`
	Probes     Arms      `json:"probes" doc:"Synthetic members."`
	Began      time.Time `json:"began"`
	Ended      time.Time `json:"ended"`
}

// Arms are the two groups that an experiment compares.
type Arms struct {
	Injected Sample `json:"injected"`
	Control  Sample `json:"control"`
}

// Progress is what an experiment does at this moment.
type Progress struct {
	Step    string        `json:"step"`
	Elapsed time.Duration `json:"-"`
	Live    *Arms         `json:"live,omitempty"`
	Probes  Arms          `json:"probes"`
}

// OnlyCritical tries whether members can browse and play with nothing up but critical services. It fails calls to all
// others for a share of members, and for synthetic members of its own, and compares both with as many that are spared.
// As soon as one comparison says that members are hurt it stops injecting, and looks, with synthetic members alone,
// for the service whose failure explains it.
type OnlyCritical struct {
	Services []string      // to fail; see NonCritical
	Routes   []string      // only requests on these; nil = all
	Percent  float64       // of members, 0 to 50; 0 = synthetic ones only
	Margin   float64       // how many more failures are harm, as a share; 0 = 0.05
	For      time.Duration // how long to try; 0 = until ctx ends
	Status   string        // what failing calls are answered; "" = 503
	Pace     time.Duration // between two probes of one group; 0 = 100 ms

	Begin func(context.Context, Fault) (Fault, error)         // [Chaos.Add]
	Alter func(context.Context, string, Fault) (Fault, error) // [Chaos.Alter]
	End   func(context.Context, string) error                 // [Chaos.Remove]
	Live  func(context.Context, string) (Arms, error)         // what the edge counted for a fault
	Hit   func(context.Context, time.Time) ([]string, error)  // rules by which any process injected faults since then
	Probe func(ctx context.Context, header [2]string) error   // one synthetic member's visit, whose requests carry header
	Tell  func(Progress)                                      // nil = nobody listens
}

const (
	probeHeader = "X-Fit-Probe"
	shortLease  = 30 * time.Second // of an experiment's faults, renewed while it lives
	deaf        = 10               // seconds without counts from the edge, after which it stops
)

// Run runs the experiment. It returns an error only if it could not be set up or taken down; whatever it found out is in
// the result. When it returns, none of its faults is in force, and should it be killed they end within half a minute.
func (o *OnlyCritical) Run(ctx context.Context) (res Result, err error) {
	o.Margin, o.Status, o.Pace = cmp.Or(o.Margin, 0.05), cmp.Or(o.Status, "503"), cmp.Or(o.Pace, 100*time.Millisecond)
	if o.Tell == nil {
		o.Tell = func(Progress) {}
	}
	switch {
	case len(o.Services) == 0:
		return res, fmt.Errorf("%w: there is no service to fail, all are critical", ErrInvalid)
	case !(o.Percent >= 0 && o.Percent <= 50):
		return res, fmt.Errorf("%w: %v; a control group as large must be left: use 0 to 50", ErrPercent, o.Percent)
	case !(o.Margin > 0 && o.Margin <= 0.5):
		return res, fmt.Errorf("%w: margin %v: use more than 0, at most 0.5", ErrPercent, o.Margin)
	}
	id := newID("only-critical-")
	res = Result{Experiment: id, Tried: o.Services, Began: time.Now().UTC()}
	defer func() { res.Ended = time.Now().UTC() }()

	steady, why := o.steady(ctx)
	if why != "" {
		res.Verdict, res.Why, res.Probes.Control = Inconclusive, why, steady
		return res, nil
	}
	hurt, err := o.compare(ctx, id, steady, &res)
	if err != nil || !hurt {
		return res, err
	}
	res.Found, err = o.blame(ctx, id, steady)
	switch {
	case len(res.Found) > 0:
		var names []string
		for _, f := range res.Found {
			names = append(names, strings.Join(f.Services, " with "))
		}
		res.Verdict, res.Why = Hidden, res.Why+"; hidden-critical: "+strings.Join(names, ", ")
	default:
		res.Verdict, res.Why = Hurt, res.Why+"; no service, and no pair of them, hurts by itself"
	}
	return res, err
}

// steady makes sure that members are well before anything is done to them.
func (o *OnlyCritical) steady(ctx context.Context) (Sample, string) {
	const enough = 10
	var s Sample
	var last error
	for s.Requests < enough && ctx.Err() == nil {
		if err := o.Probe(ctx, [2]string{probeHeader, "none"}); ctx.Err() == nil {
			s.Requests++
			if err != nil {
				s.Failed++
				last = err
			}
		}
		o.Tell(Progress{Step: "steady state", Probes: Arms{Control: s}})
	}
	switch {
	case ctx.Err() != nil:
		return s, "it was interrupted before it began"
	case s.Failed > 1:
		return s, fmt.Sprintf("before anything was injected, %s: %v", s, last)
	}
	return s, ""
}

// faultOf is one fault of the experiment.
func (o *OnlyCritical) faultOf(experiment, id string, services []string, who Who) Fault {
	return Fault{
		ID: id, Experiment: experiment, Description: "only-critical: without " + strings.Join(services, ", "),
		Rules: each("client:%s=error("+o.Status+")", services), Who: who, Where: Where{Routes: o.Routes}, Expires: time.Now().Add(shortLease),
	}
}

// compare injects and compares until harm is sure, the time is over, or ctx ends.
func (o *OnlyCritical) compare(ctx context.Context, id string, steady Sample, res *Result) (hurt bool, err error) {
	faults := []Fault{o.faultOf(id, id+"-probes", o.Services, Who{Header: map[string]string{probeHeader: id}})}
	if o.Percent > 0 {
		faults = append(faults, o.faultOf(id, id+"-live", o.Services, Who{Percent: &o.Percent}))
	}
	stop, err := o.begin(ctx, faults)
	if err != nil {
		return false, err
	}
	began := time.Now()
	probing, end := context.WithCancel(ctx)
	p := o.startProbes(probing, id)
	defer func() {
		err = errors.Join(err, stop()) // before anything else
		end()
		p.wg.Wait()
	}()

	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	silent := 0
	for {
		arms, told := p.sofar()
		res.Probes = arms
		if o.Percent > 0 {
			if live, lerr := o.Live(ctx, id+"-live"); lerr == nil {
				silent, res.Live = 0, &live
			} else if silent++; silent >= deaf {
				res.Verdict, res.Why = Inconclusive, "the edge does not say how members fare: "+lerr.Error()
				return false, nil
			}
		}
		o.Tell(Progress{Step: "only critical services are up", Elapsed: time.Since(began), Live: res.Live, Probes: arms})
		harm, safe := Hurts(arms.Injected, arms.Control, o.Margin)
		switch everybody, _ := Hurts(arms.Control, steady, max(o.Margin, 0.1)); {
		case harm:
			res.Why = fmt.Sprintf("synthetic members are hurt: %s, in the control group %s: %s", arms.Injected, arms.Control, told)
			return true, nil
		case everybody:
			res.Why = fmt.Sprintf("even members that were spared are hurt: %s: %s", arms.Control, told)
			return true, nil
		}
		if l := res.Live; l != nil {
			if harm, _ := Hurts(l.Injected, l.Control, o.Margin); harm {
				res.Why = fmt.Sprintf("members are hurt: %s, in the control group %s", l.Injected, l.Control)
				return true, nil
			}
		}
		if over := o.For > 0 && time.Since(began) >= o.For; over || ctx.Err() != nil {
			if !safe {
				res.Verdict, res.Why = Inconclusive, fmt.Sprintf("too few requests to tell: of synthetic members' visits %s", arms.Injected)
				return false, nil
			}
			if c, err := o.Live(context.WithoutCancel(ctx), id+"-probes"); err != nil || c.Injected.Requests == 0 {
				res.Verdict, res.Why = Inconclusive, "no request of synthetic members came under the faults; do they take the route that was given?"
				return false, nil
			}
			o.survives(context.WithoutCancel(ctx), began, res)
			return false, nil
		}
		select {
		case <-tick.C:
			if int(time.Since(began)/time.Second)%10 == 9 {
				for _, f := range faults {
					f.Expires = time.Now().Add(shortLease)
					if _, err := o.Alter(ctx, f.ID, f); err != nil && ctx.Err() == nil {
						res.Verdict, res.Why = Inconclusive, "its faults could not be kept in force; somebody stopped them: "+err.Error()
						return false, nil
					}
				}
			}
		case <-ctx.Done():
		}
	}
}

// survives tells what members can live without: those services into whose calls faults were injected. Of others, which
// nobody called, or only callers that are not built on ipc, nothing is known.
func (o *OnlyCritical) survives(ctx context.Context, began time.Time, res *Result) {
	rules, err := o.Hit(ctx, began)
	if err != nil {
		res.Verdict, res.Why = Inconclusive, "members were well, but it is not known which faults were injected: "+err.Error()
		return
	}
	var tested []string
	for _, s := range o.Services {
		if slices.ContainsFunc(rules, func(r string) bool { return strings.Contains(";"+r, ";client:"+s+"=") }) {
			tested = append(tested, s)
		} else {
			res.Untested = append(res.Untested, s)
		}
	}
	const why = "nobody who injects faults called them: a caller must be built on ipc, or call through a sidecar"
	switch {
	case len(tested) == 0:
		res.Verdict, res.Why = Inconclusive, fmt.Sprintf("not tested: %s; %s", strings.Join(res.Untested, ", "), why)
	case len(res.Untested) == 0:
		res.Verdict, res.Why = Survives, "members browse and play without "+strings.Join(tested, ", ")
	default:
		res.Verdict, res.Why = Survives, fmt.Sprintf("members browse and play without %s; not tested: %s; %s", strings.Join(tested, ", "), strings.Join(res.Untested, ", "), why)
	}
}

// begin begins faults, and returns what ends them.
func (o *OnlyCritical) begin(ctx context.Context, faults []Fault) (stop func() error, err error) {
	var ids []string
	stop = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		var errs []error
		for _, id := range ids {
			if err := o.End(ctx, id); err != nil && !errors.Is(err, ErrNotFound) {
				errs = append(errs, fmt.Errorf("end %s, which ends by itself within %s: %w", id, shortLease, err))
			}
		}
		return errors.Join(errs...)
	}
	for _, f := range faults {
		if _, err := o.Begin(ctx, f); err != nil {
			return nil, errors.Join(err, stop())
		}
		ids = append(ids, f.ID)
	}
	return stop, nil
}

// probes are synthetic members on their visits.
type probes struct {
	wg   sync.WaitGroup
	mu   sync.Mutex
	arms Arms  // guarded by mu
	why  error // of the latest failure; guarded by mu
}

// startProbes sends two groups of synthetic members, until ctx ends: those that a fault with that header value hits, and
// those that are spared.
func (o *OnlyCritical) startProbes(ctx context.Context, value string) *probes {
	p := &probes{}
	for _, g := range []struct {
		value string
		to    *Sample
	}{{value, &p.arms.Injected}, {"none", &p.arms.Control}} {
		p.wg.Go(func() {
			for ctx.Err() == nil {
				err := o.Probe(ctx, [2]string{probeHeader, g.value})
				if ctx.Err() != nil {
					return
				}
				p.mu.Lock()
				g.to.Requests++
				if err != nil {
					g.to.Failed++
					p.why = err
				}
				p.mu.Unlock()
				select {
				case <-time.After(o.Pace):
				case <-ctx.Done():
				}
			}
		})
	}
	return p
}

func (p *probes) sofar() (Arms, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.arms, p.why
}

// blame fails single services, then pairs, for synthetic members only, and returns those that hurt them.
func (o *OnlyCritical) blame(ctx context.Context, id string, steady Sample) ([]Finding, error) {
	var found []Finding
	for size := 1; size <= 2 && len(found) == 0; size++ {
		for i, set := range subsets(o.Services, size) {
			if ctx.Err() != nil {
				return found, ctx.Err()
			}
			o.Tell(Progress{Step: "without " + strings.Join(set, " and ")})
			name := fmt.Sprintf("%s-%d%d", id, size, i)
			stop, err := o.begin(ctx, []Fault{o.faultOf(id, name, set, Who{Header: map[string]string{probeHeader: name}})})
			if err != nil {
				return found, err
			}
			s, why := o.probeAlone(ctx, name, steady)
			if err := stop(); err != nil {
				return found, err
			}
			if harm, _ := Hurts(s, steady, 0.2); harm {
				found = append(found, Finding{set, s, why.Error()})
			}
		}
	}
	return found, nil
}

// probeAlone visits with that header value until it is plain whether visits fail.
func (o *OnlyCritical) probeAlone(ctx context.Context, value string, steady Sample) (s Sample, why error) {
	for s.Requests < 30 && ctx.Err() == nil {
		if harm, safe := Hurts(s, steady, 0.2); harm || safe {
			break
		}
		err := o.Probe(ctx, [2]string{probeHeader, value})
		if ctx.Err() != nil {
			break
		}
		s.Requests++
		if err != nil {
			s.Failed++
			why = cmp.Or(why, err)
		}
	}
	return s, why
}

// subsets returns all subsets of that size, in order.
func subsets(of []string, size int) (out [][]string) {
	if size == 0 {
		return [][]string{{}}
	}
	for i := range of {
		for _, rest := range subsets(of[i+1:], size-1) {
			out = append(out, append([]string{of[i]}, rest...))
		}
	}
	return out
}

// Critical says whether requests on a route of the edge need a service, against what the service says of itself. A list
// of them is the property fit.critical.
type Critical struct {
	Route    string `json:"route"`
	Service  string `json:"dependency"`
	Critical bool   `json:"critical"`
}

// CriticalProperty is the name of the property that holds a JSON list of [Critical].
const CriticalProperty = "fit.critical"

// NonCritical returns the services that requests on route can do without; on any route if it is empty. A service says of
// itself how critical it is; declared is what [CriticalProperty] says. Services that make load are left out. Without a
// route a service is critical if it is on any. It fails with [ErrInvalid].
func NonCritical(services []registry.Service, declared, route string) ([]string, error) {
	var list []Critical
	if declared != "" {
		if err := json.Unmarshal([]byte(declared), &list); err != nil {
			return nil, fmt.Errorf("%w: the property %s is no list such as [{\"route\":\"home\",\"dependency\":\"ratings\",\"critical\":true}]: %w", ErrInvalid, CriticalProperty, err)
		}
	}
	names := []string{}
	for _, s := range services {
		critical := s.Criticality == roadbed.Critical
		for _, d := range list {
			if d.Service == s.Name && (d.Route == route || route == "" && d.Critical) {
				critical = d.Critical
				if critical {
					break
				}
			}
		}
		if !critical && s.Criticality != roadbed.Bulk {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%w: every registered service is CRITICAL; a service says what it is by its metadata key criticality", ErrInvalid)
	}
	slices.Sort(names)
	return names, nil
}

// Conclude puts the result of an experiment into the ledger.
func (x *Chaos) Conclude(ctx context.Context, r Result) error {
	if r.Experiment == "" || r.Verdict == "" {
		return fmt.Errorf("%w: a result names its experiment and its verdict", ErrInvalid)
	}
	change := api.Change(ctx, "experiment.end", "experiment:"+r.Experiment)
	after, err := json.Marshal(r)
	if err != nil {
		return err
	}
	change.After = after
	return x.ledger.Apply(ctx, change, func(context.Context) error { return nil })
}
