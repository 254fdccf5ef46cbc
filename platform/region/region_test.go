package region

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/ledger"
	"github.com/roadbed/roadbed/platform/properties"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
	w, err := New(p.t.Context(), Config{Engine: e, Ledger: p.book, Properties: p.props, Log: quiet})
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

// pass lets time pass, in which every ten seconds a value is taken.
func (p *platform) pass(d time.Duration) {
	p.t.Helper()
	for end := p.now.Add(d); p.now.Before(end); p.now = p.now.Add(sampleEvery) {
		props, err := p.w.props()
		if err != nil {
			p.t.Fatal(err)
		}
		p.w.look(p.t.Context(), props, edge.ParseRegions(props), heard(p.good, map[string]float64{"east/east": 0}, nil), p.now)
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

// dns takes weights, as whoever leads clients to regions does.
type dns struct {
	got    []Weights
	status int
	bad    []string // signatures that are wrong
}

func (d *dns) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if want := "sha256=" + sign("a secret", r.Header.Get(TimestampHeader), body); r.Method != http.MethodPut || r.Header.Get(SignatureHeader) != want {
		d.bad = append(d.bad, r.Method+" "+r.Header.Get(SignatureHeader))
	}
	var got Weights
	json.Unmarshal(body, &got) //nolint:errcheck // it is compared
	d.got = append(d.got, got)
	if d.status != 0 {
		http.Error(w, "not now", d.status)
	}
}

func TestWeightsAreToldAlongWithTheRampAndAgainUntilTheyAreAccepted(t *testing.T) {
	d := &dns{}
	srv := httptest.NewServer(d)
	defer srv.Close()
	w := &Watch{teller: newTeller()}
	defer w.teller.client.CloseIdleConnections()
	now := time.Unix(1_800_000_000, 0)
	seconds := 100
	props := map[string]string{"edge.regions.weights.url": strings.Replace(srv.URL, "http://", "http://user:pass@", 1) + "/w?token=x", "edge.regions.weights.key": "a secret"}
	all := edge.Regions{
		"east":  {State: edge.RegionDraining, To: map[string]int{"west": 60, "north": 40}, RampSeconds: &seconds, Since: now, Edges: []string{"http://127.0.0.1:1"}},
		"west":  {State: edge.RegionServing, Edges: []string{"http://127.0.0.1:2"}},
		"north": {State: edge.RegionServing, Edges: []string{"http://127.0.0.1:3"}},
	}
	told := func(after time.Duration, moved map[string]float64) map[string]int {
		t.Helper()
		w.tell(context.Background(), props, all, moved, now.Add(after))
		if len(d.got) == 0 {
			return nil
		}
		last := d.got[len(d.got)-1]
		d.got = nil
		if !maps.Equal(last.Weights["west"], map[string]int{"west": 100}) {
			t.Errorf("after %v: west's are %v, want west alone", after, last.Weights["west"])
		}
		return last.Weights["east"]
	}
	for _, x := range []struct {
		after time.Duration
		moved map[string]float64
		want  map[string]int
	}{
		{0, nil, map[string]int{"east": 100}},
		{10 * time.Second, nil, map[string]int{"east": 90, "west": 6, "north": 4}},
		{10*time.Second + 100*time.Millisecond, nil, nil},                                                                           // nothing is new
		{50 * time.Second, map[string]float64{"east/east": 20, "west/east": 0}, map[string]int{"east": 80, "west": 12, "north": 8}}, // where east's edges stand still, so do they
		{60 * time.Second, map[string]float64{"west/east": 0}, map[string]int{"east": 40, "west": 36, "north": 24}},                 // east's edges are silent
		{100 * time.Second, map[string]float64{"east/east": 100}, map[string]int{"west": 60, "north": 40}},
		{9 * time.Minute, nil, nil},
		{12 * time.Minute, nil, map[string]int{"west": 60, "north": 40}}, // it may have been forgotten
	} {
		if got := told(x.after, x.moved); !maps.Equal(got, x.want) {
			t.Errorf("after %v, edges have moved %v: told %v, want %v", x.after, x.moved, got, x.want)
		}
	}
	if len(d.bad) > 0 {
		t.Errorf("not signed as they should be: %v", d.bad)
	}
	d.status = http.StatusServiceUnavailable
	all["east"] = &edge.RegionDocument{State: edge.RegionServing, Edges: all["east"].Edges}
	var tries []time.Duration
	for after := 20 * time.Minute; after < 25*time.Minute; after += time.Second {
		if told(after, nil) != nil {
			tries = append(tries, after-20*time.Minute)
		}
	}
	want := []time.Duration{0, 2 * time.Second, 6 * time.Second, 14 * time.Second, 30 * time.Second, 62 * time.Second, 122 * time.Second, 182 * time.Second, 242 * time.Second}
	if !slices.Equal(tries, want) {
		t.Errorf("refused by 503: tried after %v, want %v", tries, want)
	}
	s := w.teller.state()
	if s.URL != srv.URL+"/w" || s.Accepted != nil || s.Attempts != len(want) || !strings.Contains(s.Failing, "503 Service Unavailable: not now") {
		t.Errorf("its state is %+v; want the bare URL, how often it failed, and why", s)
	}
	d.status = 0
	if got := told(25*time.Minute+10*time.Second, nil); got["east"] != 100 || w.teller.state().Accepted == nil || w.teller.state().Failing != "" {
		t.Errorf("accepted at last: told %v, state %+v; want all back, and nothing failing", got, w.teller.state())
	}
	srv.Close()
	props["edge.regions.weights.url"] = "http://user:pass@127.0.0.1:1/"
	told(26*time.Minute, nil)
	if s := w.teller.state(); !strings.Contains(s.Failing, "it cannot be asked: ") || strings.Contains(s.Failing, "pass") {
		t.Errorf("nobody is there: it says %q, want so, without the password", s.Failing)
	}
	delete(props, "edge.regions.weights.url")
	if told(27*time.Minute, nil); w.teller.state() != nil {
		t.Errorf("nobody is to be told: %+v", w.teller.state())
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
