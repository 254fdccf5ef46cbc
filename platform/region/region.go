// Package region watches over regions for all edges together: it proposes to evacuate one that does much worse than it should, and
// tells whoever leads clients to regions, such as DNS, where they are to go. At Netflix people did the former by what their
// metric of streams started a second, SPS, said, and tools the latter.
//
//	w, err := region.New(ctx, region.Config{Engine: e, Ledger: l, Properties: p, Measure: telemetry})
//	go w.Run(ctx)
//
// Of several processes that run it one acts: the one that holds a lease.
//
// # Proposals
//
// Edges count good answers, all but 5xx, to the users of their own region, wherever the edges of package edge have regions. Every
// ten seconds the mean of ten is compared with what is to be expected: with the mean of the same twenty-one minutes a week ago, of which
// eleven must be known, else with a straight line through the last hour, of which thirty minutes must be. A region whose good answers stay
// three standard deviations below that for a minute (edge.regions.judge.for) should be evacuated: then the property
// edge.regions.proposal.NAME says so, which is all that happens. Somebody approves, by `roadbed region approve`, or refuses. With edge.region.auto it is done at once, which the
// property says, too.
//
// A proposal is taken back when the region has been well for a minute, is evacuated or removed, and lasts an hour. One that was refused,
// has expired or was acted on keeps others from being made until the region has been well for a minute.
//
// # Weights
//
// With edge.regions.weights.url the weights of all regions are put there, see [Weights], at most every five seconds, and again until they are
// accepted: after 2 s, 4 s, and so on up to a minute, at once where URL or key change. Who takes them slowly delays nothing else. They go along with the share that edges have moved, and stand still where edges
// do. What edges have moved is read ten seconds late, so that weights lag a ramp by about 12 s.
//
// # What it promises
//   - It never evacuates anything by itself unless edge.region.auto is true.
//   - There is one proposal for a region, in the engine, for all edges; it and what is known of the past survive restarts.
//   - Who has just begun, or has heard nothing for a minute, looks on for five minutes (edge.regions.judge.settle) before it proposes anything.
//   - A region that gives fewer than one good answer a second is never proposed.
//   - What is learned leaves out minutes that were too low, unless a proposal was refused, or expired, and those in which users are on the
//     move. While a proposal is open, what was expected when it was made is.
//   - Nobody is sent to a region that does badly itself. If all do, nothing is proposed.
//   - What is known of a region is kept for eight days, and no longer, whether it is still there or not.
//
// # What it does not
//   - It does not know holidays: what the same day last week did is what it expects.
//   - It says nothing of a region whose platform is another one.
package region

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/ledger"
	"github.com/roadbed/roadbed/platform/properties"
)

// Config wires a watch. All but Log are required.
type Config struct {
	Engine     *engine.Engine
	Ledger     *ledger.Ledger
	Properties *properties.Store

	// Measure returns the mean of the ten seconds before the last ten of each line of a query in the Atlas stack language, by its
	// legend. Lines without a value are left out.
	Measure func(ctx context.Context, query string) (map[string]float64, error)

	Log *slog.Logger // nil: slog.Default()
}

// Watch watches over the regions of one platform. Its methods may be used from many goroutines.
//
// Live properties, of the app edge:
//
//	edge.region.auto           false   evacuate what is proposed at once
//	edge.regions.judge.for     1m      for how long a region must do badly, or well, in whole tens of seconds: 10s to 1h
//	edge.regions.judge.settle  5m      how long is looked on first: 0s to 24h
//	edge.regions.weights.url   (none)  where weights are put
//	edge.regions.weights.key   (none)  what they are signed with
type Watch struct {
	c       Config
	hours   *engine.Table[hour]
	teller  *teller
	regions map[string]*watched // only who leads uses it, and what follows
	sampled time.Time           // when values were taken last
	swept   int64               // hour in which what is too old was deleted last

	seen atomic.Pointer[View] // as it was looked at last; nil: another process leads
}

// watched is a region as who leads knows it.
type watched struct {
	baseline baseline
	judge    judge
	value    float64 // unknown: it is
	expected expectation
	share    float64 // percent of its users that are elsewhere by its document
	says     string

	minute int64   // that is being summed up
	sum    float64 // of its values
	values int
	low    bool // one of them was
}

// take takes a value in, while p is thought of the region; nil: nothing is. It says what it shows, and the hour that is different now from
// what is kept, 0 if none is. A minute that was too low is not what is to be expected again, unless somebody has said that it is.
func (g *watched) take(now time.Time, v float64, p *edge.RegionProposal, pace pace) (verdict, int64) {
	kept, minute := int64(0), now.Unix()/60
	if minute != g.minute {
		if g.values > 0 && (!g.low || p != nil && p.State != edge.ProposalOpen) {
			kept = g.baseline.note(g.minute, g.sum/float64(g.values))
		}
		g.minute, g.sum, g.values, g.low = minute, 0, 0, false
	}
	if g.expected = g.baseline.expect(minute); p != nil && p.State == edge.ProposalOpen {
		g.expected = expectation{mean: p.Expected, sigma: p.Sigma, from: p.Baseline} // nothing has been learned since
	}
	g.value = v
	g.sum += v
	g.values++
	g.low = g.low || g.expected.low(v)
	return g.judge.hear(now, v, g.expected, pace), kept
}

const (
	actor     = "regions" // who acts
	leaseName = "regions.watch"
	leaseLife = 10 * time.Second

	sampleEvery = 10 * time.Second
	tellEvery   = 5 * time.Second
	expiresIn   = time.Hour
	keptHours   = 24*8 + 1
)

// What [Config.Measure] is asked: good answers a second by region, and the percent of a region's users that the least far of the edges in a region
// has sent elsewhere, by REGION/ITS USERS' REGION.
const (
	GoodQuery  = "nf.app,edge,:eq,name,edge.region.good,:eq,:and,:sum,(,nf.region,),:by,$(nf.region),:legend"
	MovedQuery = "nf.app,edge,:eq,name,edge.region.moved,:eq,:and,:min,(,nf.region,edge.region.of,),:by,$(nf.region)/$(edge.region.of),:legend"
)

// New returns a watch. It fails if the engine cannot be used.
func New(ctx context.Context, c Config) (*Watch, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	t, err := engine.OpenTable[hour](ctx, c.Engine, "regions-past", 1)
	if err != nil {
		return nil, fmt.Errorf("regions: %w", err)
	}
	return &Watch{c: c, hours: t, teller: newTeller(), regions: map[string]*watched{}}, nil
}

// Run watches while this process is the one that does, until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	host, _ := os.Hostname()
	for ctx.Err() == nil {
		lease, err := w.c.Engine.Acquire(ctx, leaseName, fmt.Sprintf("%s-%d", host, os.Getpid()), leaseLife)
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		leading, stop := context.WithCancel(ctx)
		go func() {
			select {
			case <-lease.Lost():
				stop()
			case <-leading.Done():
			}
		}()
		w.lead(leading)
		stop()
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		lease.Release(release) //nolint:errcheck // it expires
		cancel()
	}
	return nil
}

// lead watches until ctx ends.
func (w *Watch) lead(ctx context.Context) {
	w.regions, w.swept, w.sampled = map[string]*watched{}, 0, time.Time{}
	w.seen.Store(&View{Leads: true, Regions: []RegionState{}})
	defer w.seen.Store(nil)
	var telling sync.WaitGroup
	telling.Go(func() { w.teller.run(ctx) })
	defer func() {
		telling.Wait()
		w.teller.tell("", "", nil) // another process may, in the meantime
	}()
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.turn(ctx, time.Now())
		}
	}
}

// turn has weights told, and takes a value of every region if it is time to.
func (w *Watch) turn(ctx context.Context, now time.Time) {
	props, err := w.props()
	if err != nil {
		return // they are not loaded yet
	}
	all := edge.ParseRegions(props)
	var moved, good map[string]float64
	if len(all) > 0 {
		moved, err = w.c.Measure(ctx, MovedQuery)
	}
	w.tell(props, all, moved, now)
	if now.Sub(w.sampled) < sampleEvery-time.Second {
		return
	}
	w.sampled = now
	if err == nil && len(all) > 0 {
		good, err = w.c.Measure(ctx, GoodQuery)
	}
	pace, wrong := paceOf(props)
	w.look(ctx, props, all, heard(good, moved, err), pace, now)
	v := View{Leads: true, Regions: w.states()}
	if err != nil {
		v.Problem = "what edges count is not known: " + err.Error()
	} else if wrong != nil && len(all) > 0 {
		v.Problem = wrong.Error()
	}
	w.seen.Store(&v)
}

// paceOf returns how soon is judged, as properties say it. Where one cannot be meant it is the usual, and the error says so.
func paceOf(props map[string]string) (pace, error) {
	p := usual
	var wrong []error
	read := func(name string, least, most time.Duration, take func(time.Duration)) {
		text, ok := props[name]
		if !ok {
			return
		}
		d, err := config.ParseDuration(text)
		if err == nil && (d < least || d > most) {
			err = fmt.Errorf("%v is not between %v and %v", d, least, most)
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w; without it the usual holds", name, err))
			return
		}
		take(d)
	}
	read("edge.regions.judge.for", sampleEvery, judgeForMost, func(d time.Duration) { p.inRow = int((d + sampleEvery - 1) / sampleEvery) })
	read("edge.regions.judge.settle", 0, judgeSettleTo, func(d time.Duration) { p.settle = d })
	return p, errors.Join(wrong...)
}

// props returns the properties that edges see.
func (w *Watch) props() (map[string]string, error) {
	s, err := w.c.Properties.Resolve(config.Scope{App: "edge"})
	return s.Properties, err
}

// heard returns good answers per second by region; nil if nobody is heard. Edges that are heard and count nothing give none, and so do
// those that are silent while others are heard.
func heard(good, moved map[string]float64, err error) func(region string) float64 {
	if err != nil || len(moved) == 0 {
		return nil
	}
	return func(region string) float64 { return good[region] }
}

// tell has whoever leads clients to regions know.
func (w *Watch) tell(props map[string]string, all edge.Regions, moved map[string]float64, now time.Time) {
	if len(all) == 0 {
		w.teller.tell("", "", nil) // there is nothing to say
		return
	}
	weights := map[string]map[string]int{}
	for name, d := range all {
		share := d.Share(now)
		if seen, ok := moved[name+"/"+name]; ok {
			share = min(share, seen) // where edges stand still, so does this
		}
		weights[name] = all.Weights(name, share)
	}
	w.teller.tell(props["edge.regions.weights.url"], props["edge.regions.weights.key"], weights)
}

// look takes a value of every region, and does what it asks for. A region whose document has a mistake is there all the same: edges
// go by the one before.
func (w *Watch) look(ctx context.Context, props map[string]string, all edge.Regions, good func(string) float64, pace pace, now time.Time) {
	gone := func(name string) bool { _, there := props[edge.RegionProperty+name]; return !there }
	maps.DeleteFunc(w.regions, func(name string, _ *watched) bool { return gone(name) })
	for _, key := range slices.Sorted(maps.Keys(props)) {
		if name, ok := strings.CutPrefix(key, edge.ProposalProperty); ok && gone(name) {
			w.record(ctx, "region.withdrawn", name, "the region is removed", nil)
		}
	}
	verdicts := map[string]verdict{}
	for name, d := range all {
		verdicts[name] = w.sample(ctx, name, d, edge.ParseProposal(props[edge.ProposalProperty+name]), good, pace, now)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		w.decide(ctx, props, all, name, verdicts[name], pace, now)
	}
	w.sweep(ctx, now)
}

// sample takes a value of a region in, and says what it shows.
func (w *Watch) sample(ctx context.Context, name string, d *edge.RegionDocument, p *edge.RegionProposal, good func(string) float64, pace pace, now time.Time) verdict {
	g := w.regions[name]
	if g == nil {
		g = &watched{baseline: w.past(name), value: unknown}
		w.regions[name] = g
	}
	share := d.Share(now)
	moving := d.State != edge.RegionServing || share != d.Goal() || share > 90
	was := g.share
	if g.share = share; moving || was != share {
		g.judge.unsettle() // and those who come back, or go, within five minutes are no sign of anything
	}
	if good == nil || moving {
		g.judge.miss()
		g.value, g.expected = unknown, g.baseline.expect(now.Unix()/60)
		g.says = map[bool]string{true: "nothing is judged while its users are elsewhere or on the move", false: "no edge is heard"}[moving]
		return nothing
	}
	v, kept := g.take(now, good(name)/(1-share/100), p, pace) // as if all of its users were here
	if kept != 0 {
		if _, err := w.hours.Put(ctx, keyOf(name, kept), *g.baseline[kept]); err != nil {
			w.c.Log.Debug("what a region did is not kept", "region", name, "err", err)
		}
		maps.DeleteFunc(g.baseline, func(at int64, _ *hour) bool { return at <= kept-keptHours })
	}
	switch settled := g.judge.began.Add(pace.settle); {
	case g.expected.needs != "":
		g.says = g.expected.needs
	case now.Before(settled):
		g.says = "it is looked at until " + settled.UTC().Format(time.RFC3339) + " before anything is proposed"
	default:
		g.says = ""
	}
	return v
}

// decide does what a verdict asks for.
func (w *Watch) decide(ctx context.Context, props map[string]string, all edge.Regions, name string, v verdict, pace pace, now time.Time) {
	g, d, p := w.regions[name], all[name], edge.ParseProposal(props[edge.ProposalProperty+name])
	auto, _ := config.ParseBool(props[edge.AutoProperty])
	away := d.State != edge.RegionServing
	switch {
	case p != nil && p.State == edge.ProposalOpen && away:
		w.record(ctx, "region.withdrawn", name, fmt.Sprintf("the region is %s", d.State), nil)
	case p != nil && v == well && !away:
		w.record(ctx, "region.withdrawn", name, fmt.Sprintf("good answers are as expected again, %.1f a second now", g.value), nil)
	case p != nil && p.State == edge.ProposalOpen && now.Sub(p.At) >= expiresIn:
		p.State = edge.ProposalExpired
		w.record(ctx, "region.expired", name, "nobody approved or refused it within an hour", p)
	case v == ill && (p == nil || p.State == edge.ProposalOpen && auto):
		w.propose(ctx, all, name, auto, p, pace, now)
	}
}

// propose has it known that a region should be evacuated, or does it.
func (w *Watch) propose(ctx context.Context, all edge.Regions, name string, auto bool, was *edge.RegionProposal, pace pace, now time.Time) {
	g := w.regions[name]
	badly := func(other string) bool { o := w.regions[other]; return o != nil && o.judge.low > 0 }
	p := &edge.RegionProposal{State: edge.ProposalOpen, At: now.UTC().Truncate(time.Second), Good: rounded(g.value), Expected: rounded(g.expected.mean), Sigma: rounded(g.expected.sigma), Baseline: g.expected.from, Seconds: pace.seconds()}
	d, err := all.Evacuation(name, badly, now, "proposed by itself: "+p.Why())
	if err != nil {
		g.says = "it does badly, and nothing is proposed: " + err.Error()
		return
	}
	p.To = d.To
	if auto {
		// As the operator's command would; while changes are frozen it is refused, and somebody must decide.
		_, err := w.c.Properties.Set(api.As(ctx, actor, d.Reason), properties.Property{Key: edge.RegionProperty + name, Value: d.Text(), Source: actor}, properties.Any)
		if err == nil {
			p.State = edge.ProposalActed
			w.record(ctx, "region.acted", name, p.Why(), p)
			return
		}
		w.c.Log.Warn("a region does badly and cannot be evacuated", "region", name, "err", err)
	}
	if was == nil {
		w.record(ctx, "region.proposed", name, p.Why(), p)
	}
}

func rounded(v float64) float64 { return math.Round(v*100) / 100 }

// record keeps a proposal, or takes it back if p is nil, and has the ledger know. What cannot be kept is tried again when next a value
// says the same.
func (w *Watch) record(ctx context.Context, action, name, why string, p *edge.RegionProposal) {
	change := roadbed.Change{Actor: actor, Action: action, Resource: "region:" + name, Why: why, Result: roadbed.Succeeded}
	err := w.c.Ledger.Apply(ctx, change, func(ctx context.Context) error {
		ctx = properties.Recorded(ctx)
		if p == nil {
			return w.c.Properties.Delete(ctx, properties.ID(edge.ProposalProperty+name, config.Scope{}), properties.Any)
		}
		_, err := w.c.Properties.Set(ctx, properties.Property{Key: edge.ProposalProperty + name, Value: p.Text(), Source: actor, Description: p.Why()}, properties.Any)
		return err
	})
	if err != nil && !errors.Is(err, properties.ErrNotFound) {
		w.c.Log.Warn("what is thought of a region is not kept", "region", name, "action", action, "err", err)
		return
	}
	w.c.Log.Warn(action, "region", name, "why", why)
}

// keyOf is where an hour of a region lies.
func keyOf(name string, hour int64) string { return name + "." + strconv.FormatInt(hour, 10) }

// past returns what is kept of what a region did.
func (w *Watch) past(name string) baseline {
	b := baseline{}
	for _, e := range w.hours.List(name + ".") {
		if at, err := strconv.ParseInt(strings.TrimPrefix(e.Key, name+"."), 10, 64); err == nil {
			h := e.Value
			b[at] = &h
		}
	}
	return b
}

// sweep deletes, once an hour, the hours that are too old, of regions that are gone, too.
func (w *Watch) sweep(ctx context.Context, now time.Time) {
	hour := now.Unix() / 3600
	if hour == w.swept {
		return
	}
	w.swept = hour
	for _, e := range w.hours.List("") {
		_, at, _ := strings.Cut(e.Key, ".")
		if kept, err := strconv.ParseInt(at, 10, 64); err != nil || kept <= hour-keptHours {
			if err := w.hours.Delete(ctx, e.Key, e.Rev); err != nil {
				w.c.Log.Debug("what a region did long ago is still kept", "hour", e.Key, "err", err) // until next hour
			}
		}
	}
}

// View is what GET /api/v1/regions tells.
type View struct {
	Leads   bool          `json:"leads" doc:"this process is the one that watches; another one knows what follows"`
	Problem string        `json:"problem,omitempty"`
	Auto    bool          `json:"auto" doc:"what is proposed is done at once"`
	Regions []RegionState `json:"regions" doc:"by name"`
	Weights *WeightsState `json:"weights,omitempty" doc:"absent: nobody is told"`
}

// RegionState is a region as it is judged.
type RegionState struct {
	Region   string   `json:"region"`
	Good     *float64 `json:"good,omitempty" doc:"good answers a second to all of its users, absent if that is not known"`
	Expected *float64 `json:"expected,omitempty"`
	Sigma    *float64 `json:"sigma,omitempty"`
	Baseline string   `json:"baseline,omitempty" doc:"what is expected comes of"`
	Silent   string   `json:"silent,omitempty" doc:"why nothing would be proposed now"`
}

// View returns what is known of regions.
func (w *Watch) View() View {
	v := View{Regions: []RegionState{}}
	if seen := w.seen.Load(); seen != nil {
		v = *seen
		v.Weights = w.teller.state()
	}
	if props, err := w.props(); err == nil {
		v.Auto, _ = config.ParseBool(props[edge.AutoProperty])
	}
	return v
}

// states are the regions as they were looked at last.
func (w *Watch) states() []RegionState {
	all := []RegionState{}
	known := func(x float64) *float64 { x = rounded(x); return &x }
	for _, name := range slices.Sorted(maps.Keys(w.regions)) {
		g := w.regions[name]
		s := RegionState{Region: name, Silent: g.says}
		if g.value != unknown {
			s.Good = known(g.value)
		}
		if g.expected.from != "" {
			s.Expected, s.Sigma, s.Baseline = known(g.expected.mean), known(g.expected.sigma), g.expected.from
		}
		all = append(all, s)
	}
	return all
}
