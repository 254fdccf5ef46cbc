package region

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/engine/enginetest"
	"github.com/roadbed/roadbed/platform/ledger"
	"github.com/roadbed/roadbed/platform/properties"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, enginetest.Forgotten) }

var quiet = slog.New(slog.DiscardHandler)

// platform is a watch with the rooms that it needs, whose time and values tests give.
type platform struct {
	t     *testing.T
	w     *Watch
	props *properties.Store
	book  *ledger.Ledger
	now   time.Time
	good  map[string]float64
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	e, err := engine.Open(t.Context(), engine.Config{Dir: t.TempDir(), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	p := &platform{t: t, now: time.Unix(1_800_000_000, 0), good: map[string]float64{}}
	if p.book, err = ledger.Open(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if p.props, err = properties.New(t.Context(), properties.Config{Engine: e, Ledger: p.book, Log: quiet}); err != nil {
		t.Fatal(err)
	}
	p.begin(e)
	return p
}

// begin starts a watch, as a process does.
func (p *platform) begin(e *engine.Engine) {
	p.t.Helper()
	w, err := New(p.t.Context(), Config{Engine: e, Ledger: p.book, Properties: p.props, Log: quiet, Measure: func(_ context.Context, query string) (map[string]float64, error) {
		if query == GoodQuery {
			return p.good, nil
		}
		return map[string]float64{"east/east": 0}, nil
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.w = w
}

func (p *platform) set(key, value string) {
	p.t.Helper()
	if _, err := p.props.Set(api.As(p.t.Context(), "ana", "a test"), properties.Property{Key: key, Value: value}, properties.Any); err != nil {
		p.t.Fatal(err)
	}
}

func (p *platform) remove(key string) {
	p.t.Helper()
	if err := p.props.Delete(api.As(p.t.Context(), "ana", "a test"), properties.ID(key, config.Scope{}), properties.Any); err != nil {
		p.t.Fatal(err)
	}
}

// pass lets time pass, in which every ten seconds a value is taken.
func (p *platform) pass(d time.Duration) {
	p.t.Helper()
	for end := p.now.Add(d); p.now.Before(end); p.now = p.now.Add(sampleEvery) {
		p.w.turn(p.t.Context(), p.now)
	}
}

func (p *platform) proposal(name string) *edge.RegionProposal {
	v, _ := p.props.Value(config.Scope{App: "edge"}, edge.ProposalProperty+name)
	return edge.ParseProposal(v)
}

// actions are what the ledger has of regions, oldest first.
func (p *platform) actions() string {
	p.t.Helper()
	changes, err := p.book.List(p.t.Context(), ledger.Query{})
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for _, c := range slices.Backward(changes) {
		if c.Actor == actor {
			out = append(out, c.Action)
		}
	}
	return strings.Join(out, " ")
}

func (p *platform) state(name string) edge.RegionState {
	props, err := p.w.props()
	if err != nil {
		p.t.Fatal(err)
	}
	return edge.ParseRegions(props)[name].State
}

const (
	serves = `{"state":"SERVING","edges":["http://127.0.0.1:1"]}`
	other  = `{"state":"SERVING","edges":["http://127.0.0.1:2"]}`
)

// after is a platform with two regions that have been well for so long.
func after(t *testing.T, d time.Duration) *platform {
	t.Helper()
	p := newPlatform(t)
	p.set(edge.RegionProperty+"east", serves)
	p.set(edge.RegionProperty+"west", other)
	p.good = map[string]float64{"east": 100, "west": 50}
	p.pass(d)
	return p
}

func TestAFallIsProposedOnceAndDoneByNobody(t *testing.T) {
	p := after(t, 50*time.Minute)
	p.good["east"] = 60
	p.pass(2 * time.Minute)
	made := p.proposal("east")
	if made == nil || made.State != edge.ProposalOpen || made.To["west"] != 100 || made.Expected < 99 || made.Good != 60 || made.Baseline != "the last hour" {
		t.Fatalf("two minutes at 60 of 100: got %+v, want an open proposal to west", made)
	}
	if got := p.state("east"); got != edge.RegionServing || p.proposal("west") != nil {
		t.Errorf("east is %s, of west is proposed %+v; want SERVING, and nothing", got, p.proposal("west"))
	}
	p.pass(10 * time.Minute)
	if again := p.proposal("east"); again == nil || !again.At.Equal(made.At) || p.actions() != "region.proposed" {
		t.Errorf("ten minutes later: %+v, the ledger has %q; want the same proposal, and one entry", again, p.actions())
	}
	p.good["east"] = 99
	p.pass(2 * time.Minute)
	if p.proposal("east") != nil || p.actions() != "region.proposed region.withdrawn" {
		t.Errorf("well again: %+v, the ledger has %q; want it withdrawn", p.proposal("east"), p.actions())
	}
}

func TestARefusedProposalIsNotMadeAgainUntilTheRegionWasWell(t *testing.T) {
	p := after(t, 50*time.Minute)
	p.good["east"] = 0
	p.pass(2 * time.Minute)
	made := p.proposal("east")
	if made == nil {
		t.Fatal("nothing is proposed")
	}
	made.State = edge.ProposalRefused
	p.set(edge.ProposalProperty+"east", made.Text())
	p.pass(3 * time.Minute)
	if got := p.proposal("east"); got == nil || got.State != edge.ProposalRefused {
		t.Errorf("three minutes later: %+v, want it refused still", got)
	}
	p.good["east"] = 100
	p.pass(2 * time.Minute)
	if got := p.proposal("east"); got != nil {
		t.Errorf("well for two minutes: %+v, want none", got)
	}
	p.good["east"] = 0
	p.pass(2 * time.Minute)
	if got := p.proposal("east"); got == nil || got.State != edge.ProposalOpen {
		t.Errorf("another fall: %+v, want another proposal", got)
	}
	p.pass(61 * time.Minute)
	if got := p.proposal("east"); got == nil || got.State != edge.ProposalExpired {
		t.Errorf("an hour later: %+v, want it expired", got)
	}
}

func TestAProposalThatIsApprovedIsOver(t *testing.T) {
	p := after(t, 50*time.Minute)
	p.good["east"] = 0
	p.pass(2 * time.Minute)
	p.set(edge.RegionProperty+"east", `{"state":"EVACUATED","to":{"west":100},"edges":["http://127.0.0.1:1"]}`)
	p.pass(time.Minute)
	if got := p.proposal("east"); got != nil || p.actions() != "region.proposed region.withdrawn" {
		t.Errorf("evacuated: %+v, the ledger has %q; want none any more", got, p.actions())
	}
	// Back, and users come back within a minute: that it was low meanwhile is no reason.
	p.set(edge.RegionProperty+"east", serves)
	p.pass(4 * time.Minute)
	p.good["east"] = 100
	p.pass(30 * time.Minute)
	if got := p.proposal("east"); got != nil {
		t.Errorf("restored: %+v, want none", got)
	}
}

func TestTheProposalOfARegionThatIsRemovedIsTakenBack(t *testing.T) {
	for what, also := range map[string]string{"west stays": "", "no region stays": "west"} {
		p := after(t, 50*time.Minute)
		p.good["east"] = 0
		p.pass(2 * time.Minute)
		if p.proposal("east") == nil {
			t.Fatal("nothing is proposed")
		}
		for _, name := range []string{"east", also} {
			if name != "" {
				p.remove(edge.RegionProperty + name)
			}
		}
		p.pass(sampleEvery)
		if got := p.proposal("east"); got != nil || p.actions() != "region.proposed region.withdrawn" {
			t.Errorf("removed, %s: %+v, the ledger has %q; want it taken back", what, got, p.actions())
		}
	}
}

func TestAMistakeInTheDocumentOfARegionTakesNoProposalBack(t *testing.T) {
	p := after(t, 50*time.Minute)
	p.good["east"] = 0
	p.pass(2 * time.Minute)
	made := p.proposal("east")
	p.set(edge.RegionProperty+"east", `{"state":"SERVNG"}`)
	p.pass(time.Minute)
	if got := p.proposal("east"); made == nil || got == nil || !got.At.Equal(made.At) {
		t.Errorf("with a mistake in its document: %+v, want %+v still", got, made)
	}
}

func TestPropertiesSayHowSoonIsProposed(t *testing.T) {
	p := after(t, 50*time.Minute)
	p.set("edge.regions.judge.for", "15s")
	p.set("edge.regions.judge.settle", "0s")
	p.begin(p.w.c.Engine)
	p.good["east"] = 60
	p.pass(sampleEvery)
	if got := p.proposal("east"); got != nil {
		t.Errorf("one value is low: %+v, want two in a row, for 15 s are asked for", got)
	}
	p.pass(sampleEvery)
	if got := p.proposal("east"); got == nil || got.Seconds != 20 || !strings.HasPrefix(got.Why(), "for 20 seconds ") {
		t.Errorf("two values are low: %+v; want a proposal that says for how long", got)
	}
	p.good["east"] = 100
	p.pass(2 * sampleEvery)
	if got := p.proposal("east"); got != nil {
		t.Errorf("two values are well: %+v, want it taken back", got)
	}
	p.set("edge.regions.judge.for", "5s")
	p.set("edge.regions.judge.settle", "soon")
	p.pass(sampleEvery)
	if got := p.w.View().Problem; !strings.Contains(got, "edge.regions.judge.for: 5s is not between 10s and 1h0m0s; without it the usual holds") || !strings.Contains(got, `edge.regions.judge.settle: "soon" is not a duration`) {
		t.Errorf("with mistakes it says %q, want both of them", got)
	}
	if got, _ := paceOf(map[string]string{"edge.regions.judge.for": "5s"}); got != usual {
		t.Errorf("with a mistake: %+v, want the usual", got)
	}
}

func TestThePastIsKeptForEightDaysAndNoLongerOfRegionsThatAreGoneToo(t *testing.T) {
	p := after(t, time.Hour)
	hours := func(name string) int { return len(p.w.hours.List(name + ".")) }
	if hours("east") == 0 || hours("west") == 0 {
		t.Fatalf("after an hour %d hours of east and %d of west are kept, want some", hours("east"), hours("west"))
	}
	p.remove(edge.RegionProperty + "east")
	p.pass(sampleEvery)
	p.now = p.now.Add(8*24*time.Hour - 30*time.Minute)
	p.pass(3 * time.Minute)
	if hours("east") != 1 || hours("west") < 2 {
		t.Errorf("after eight days %d hours of east and %d of west are kept; want that of east in case it comes back, and of west another", hours("east"), hours("west"))
	}
	p.now = p.now.Add(3 * time.Hour)
	p.pass(3 * time.Minute)
	if _, old := p.w.hours.Get(keyOf("west", 1_800_000_000/3600)); hours("east") != 0 || hours("west") == 0 || old {
		t.Errorf("three hours later %d hours of east, which is gone, and %d of west are kept, among them the first: %v; want none, some, and no", hours("east"), hours("west"), old)
	}
}

func TestWhatIsProposedIsDoneAtOnceOnlyIfThePropertySaysSo(t *testing.T) {
	p := after(t, 50*time.Minute)
	p.set(edge.AutoProperty, "true")
	p.pass(10 * time.Minute)
	if got := p.state("east"); got != edge.RegionServing {
		t.Fatalf("all is well, and east is %s", got)
	}
	p.good["east"] = 10
	p.pass(2 * time.Minute)
	props, _ := p.w.props()
	d := edge.ParseRegions(props)["east"]
	if d.State != edge.RegionDraining || d.To["west"] != 100 || d.Since.IsZero() || !strings.Contains(d.Reason, "proposed by itself") || p.proposal("east").State != edge.ProposalActed {
		t.Fatalf("at a tenth: %+v, proposal %+v; want it DRAINING to west, with a reason", d, p.proposal("east"))
	}
	if got := p.actions(); got != "property.set region.acted" {
		t.Errorf("the ledger has %q, want that the property was set, and why", got)
	}
	// Somebody knows better: it is not done again.
	p.set(edge.RegionProperty+"east", serves)
	p.pass(20 * time.Minute)
	if got := p.state("east"); got != edge.RegionServing {
		t.Errorf("restored by somebody while it still does badly: %s, want SERVING", got)
	}
}

func TestNobodyIsSentWhereItIsNoBetter(t *testing.T) {
	p := after(t, 50*time.Minute)
	p.good = map[string]float64{} // all regions fall together
	p.pass(5 * time.Minute)
	if e, w := p.proposal("east"), p.proposal("west"); e != nil || w != nil {
		t.Errorf("all regions fall: proposed %+v and %+v, want nothing", e, w)
	}
	if says := p.w.states()[0].Silent; !strings.Contains(says, "nothing is proposed: no other region can take the users of east") {
		t.Errorf("all regions fall: it says %q, want why nothing is proposed", says)
	}
}

func TestWhatIsKnownOfThePastAndWhatIsProposedSurviveARestart(t *testing.T) {
	p := after(t, 50*time.Minute)
	p.begin(p.w.c.Engine)
	p.good["east"] = 0
	p.pass(4 * time.Minute)
	if got := p.proposal("east"); got != nil {
		t.Fatalf("started anew four minutes ago: %+v is proposed, want five minutes of looking on", got)
	}
	p.good["east"] = 100
	p.pass(3 * time.Minute)
	p.good["east"] = 0
	p.pass(2 * time.Minute)
	made := p.proposal("east")
	if made == nil || made.Expected < 99 {
		t.Fatalf("a fall seven minutes after a restart: %+v, want it seen by what was known before", made)
	}
	p.begin(p.w.c.Engine)
	p.pass(10 * time.Minute)
	if got := p.proposal("east"); got == nil || !got.At.Equal(made.At) {
		t.Errorf("after another: %+v, want the same proposal", got)
	}
}

func TestNothingHeardIsNothingKnown(t *testing.T) {
	for what, h := range map[string]func(string) float64{
		"telemetry is away": heard(nil, nil, errors.New("away")), "nobody is heard": heard(map[string]float64{"east": 1}, nil, nil),
	} {
		if h != nil {
			t.Errorf("%s: something is known", what)
		}
	}
	h := heard(map[string]float64{"west": 7}, map[string]float64{"west/west": 0, "west/east": 0}, nil)
	if h == nil || h("west") != 7 || h("east") != 0 {
		t.Error("while west is heard: want 7 of west, and 0 of east, whose edges are silent")
	}
}

func TestWeightsAddUpAndGoOnlyWhereUsersCan(t *testing.T) {
	all := edge.Regions{
		"a": {State: edge.RegionEvacuated, To: map[string]int{"b": 34, "c": 33, "d": 33}},
		"b": {State: edge.RegionServing, Edges: []string{"http://127.0.0.1:2"}},
		"c": {State: edge.RegionServing, Edges: []string{"http://127.0.0.1:3"}},
		"d": {State: edge.RegionEvacuated, To: map[string]int{"a": 100}},
	}
	for moved := 0; moved <= 100; moved++ {
		sum := 0
		got := all.Weights("a", float64(moved))
		for _, n := range got {
			sum += n
		}
		if sum != 100 || got["a"] != 100-moved || got["d"] != 0 {
			t.Errorf("%d %% moved: %v; want 100 in all, %d of them here, none in d, which is evacuated", moved, got, 100-moved)
		}
	}
	if got := all.Weights("d", 100); !maps.Equal(got, map[string]int{"d": 100}) {
		t.Errorf("nobody can take the users of d: %v, want d", got)
	}
}
