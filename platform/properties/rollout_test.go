package properties

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/ledger"
)

// every is each stage a roll-out can be in.
var every = []stage{
	{Draft, ""}, {Validated, ""}, {Running, Applying}, {Running, Baking}, {Running, Analysing},
	{Paused, ""}, {Paused, Awaiting}, {Paused, Conflict}, {Folding, ""}, {Unfolding, ""}, {Done, ""}, {RolledBack, ""},
}

// TestEveryCellOfTheStateMachine takes a roll-out in its second of three steps, the third of which needs approval,
// through every event in every stage. "-" is refused.
func TestEveryCellOfTheStateMachine(t *testing.T) {
	const table = `
	                   validate  start    applied  baked     passed   doubt  stall  fail        pause  resume   advance  approve  abort       conflict folded unfolded
	DRAFT              VALIDATED -        -        -         -        -      -      -           -      -        -        -        -           -        -      -
	VALIDATED          -         AWAITING -        -         -        -      -      -           -      -        -        -        ROLLED_BACK -        -      -
	APPLYING           -         -        BAKING   -         -        -      PAUSED ROLLED_BACK PAUSED -        AWAITING -        ROLLED_BACK -        -      -
	BAKING             -         -        -        ANALYSING -        -      -      ROLLED_BACK PAUSED -        AWAITING -        ROLLED_BACK -        -      -
	ANALYSING          -         -        -        -         AWAITING PAUSED -      ROLLED_BACK PAUSED -        AWAITING -        ROLLED_BACK -        -      -
	PAUSED             -         -        -        -         -        -      -      ROLLED_BACK -      APPLYING AWAITING -        ROLLED_BACK -        -      -
	AWAITING_APPROVAL  -         -        -        -         -        -      -      ROLLED_BACK -      -        -        APPLYING ROLLED_BACK -        -      -
	CONFLICT           -         -        -        -         -        -      -      -           -      FOLDING  -        -        UNFOLDING   -        -      -
	FOLDING            -         -        -        -         -        -      -      -           -      -        -        -        UNFOLDING   CONFLICT DONE   -
	UNFOLDING          -         -        -        -         -        -      -      -           -      -        -        -        -           -        -      ROLLED_BACK
	DONE               -         -        -        -         -        -      -      -           -      -        -        -        -           -        -      -
	ROLLED_BACK        -         -        -        -         -        -      -      -           -      -        -        -        -           -        -      -`
	lines := strings.Split(strings.TrimSpace(table), "\n")
	columns := strings.Fields(lines[0])
	if len(columns) != len(events) || len(lines)-1 != len(every) || len(transitions) != len(every) {
		t.Fatalf("the table has %d events and %d stages, want %d and %d", len(columns), len(lines)-1, len(events), len(every))
	}
	short := func(s stage) string {
		if s.Phase == "" {
			return string(s.State)
		}
		return strings.TrimSuffix(string(s.Phase), "_APPROVAL")
	}
	for i, line := range lines[1:] {
		cells := strings.Fields(line)
		if want := short(every[i]); strings.TrimSuffix(cells[0], "_APPROVAL") != want {
			t.Fatalf("row %d is of %s, want %s", i+1, cells[0], want)
		}
		for j, want := range cells[1:] {
			r := Rollout{ID: "r1", State: every[i].State, Phase: every[i].Phase, Step: 1, Steps: []Step{{}, {}, {Approval: ManualApproval}}}
			err := r.pass(event(columns[j]), time.Now(), "ana", "why")
			got := short(r.stage())
			if err != nil {
				got = "-"
				if !errors.Is(err, ErrState) || r.stage() != every[i] || len(r.History) != 0 {
					t.Errorf("%s, %s: got %v and %v, want ErrState and nothing changed", cells[0], columns[j], err, r.stage())
				}
			}
			if got != want {
				t.Errorf("%s, %s: got %s, want %s", cells[0], columns[j], got, want)
			}
			step := 1
			if columns[j] == "approve" && got == "APPLYING" {
				step = 2
			}
			if r.Step != step {
				t.Errorf("%s, %s: is in step %d, want %d", cells[0], columns[j], r.Step, step)
			}
		}
	}
}

// TestARolloutEndsAndReachesNobodyLess follows random lives: whatever happens, whoever was reached stays so until it is
// taken back from everybody, and from everywhere an end can be reached.
func TestARolloutEndsAndReachesNobodyLess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rollout{ID: rapid.StringMatching("[a-z]{8}").Draw(t, "id"), State: Validated, Step: -1}
		for range rapid.IntRange(1, 5).Draw(t, "steps") {
			var sel Selector
			text := rapid.SampledFrom([]string{"instances:2", "percent:5", "percent:50", "percent:20,zone:a", "zone:a", "zone:b", "region:r", "asg:g-v001"}).Draw(t, "selector")
			if err := sel.UnmarshalText([]byte(text)); err != nil {
				t.Fatal(err)
			}
			r.Steps = append(r.Steps, Step{Selector: sel, Approval: rapid.SampledFrom([]Approval{NoApproval, ManualApproval}).Draw(t, "approval")})
		}
		r.complete()
		var callers []*caller
		for i := range 40 {
			callers = append(callers, asCaller(config.Scope{Instance: fmt.Sprint("i-", i), Zone: []string{"a", "b"}[i%2], Region: "r", Group: "g-v001"}, Platform))
		}
		reached := map[int]bool{}
		for range rapid.IntRange(1, 40).Draw(t, "length") {
			ev := rapid.SampledFrom(events).Draw(t, "event")
			was, step := r.State, r.Step
			err := r.pass(ev, time.Now(), "x", "")
			if (err == nil) != (transitions[stage{was, r.Phase}][ev] != refused) && err != nil && r.State != was {
				t.Fatalf("%s refused, and yet %s became %s", ev, was, r.State)
			}
			if r.Step != step && r.Steps[r.Step].Selector.Instances > 0 {
				r.Chosen = []string{"i-1", "i-2"}
			}
			if r.Step < step || r.Step > step+1 {
				t.Fatalf("%s: from step %d to %d", ev, step, r.Step)
			}
			if was.Over() && err == nil {
				t.Fatalf("%s took it from %s to %s", ev, was, r.State)
			}
			for i, c := range callers {
				now := r.State.active() && r.reaches(c)
				if reached[i] && !now && !r.State.Over() {
					t.Fatalf("after %s, %s step %d: %s is not reached any more", ev, r.stage(), r.Step, c.field[0])
				}
				reached[i] = now
			}
		}
		for n := 0; !r.State.Over(); n++ {
			if n > 3 {
				t.Fatalf("it is still %s after %d attempts to end it", r.stage(), n)
			}
			if r.pass(evAbort, time.Now(), "x", "") != nil && r.pass(evUnfolded, time.Now(), "x", "") != nil {
				t.Fatalf("%s can be neither aborted nor ended", r.stage())
			}
		}
	})
}

func TestSelection(t *testing.T) {
	// The formula is for others to compute too: XXH64 of "ro" and then "i-1", modulo 10000.
	if got, want := Bucket("ro", "I-1"), Bucket("r", "oi-1"); got != want {
		t.Errorf("the bucket of ro and I-1: got %d, want that of roi-1, %d", got, want)
	}
	n := 0
	sel := Selector{Percent: 5}
	for i := range 10_000 {
		c := asCaller(config.Scope{Instance: fmt.Sprint("i-", i)}, Platform)
		if sel.fits("ro", c) {
			n++
			if wider := (Selector{Percent: 6}); !wider.fits("ro", c) {
				t.Errorf("i-%d is among 5 percent and not among 6", i)
			}
		}
	}
	if math.Abs(float64(n)-500) > 100 {
		t.Errorf("5 percent of 10000: got %d, want about 500", n)
	}
	for text, want := range map[string]Selector{
		"all": {All: true}, "instances:3": {Instances: 3}, "percent:2.5%": {Percent: 2.5}, " zone:zone-a , percent:5 ": {Zone: "zone-a", Percent: 5},
		"region:eu,asg:api-v001": {Region: "eu", Group: "api-v001"},
	} {
		var got, again Selector
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: got %+v, %v; want %+v", text, got, err, want)
		}
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%q is written %q, which is read as %+v, %v", text, got.String(), again, err)
		}
	}
	for _, text := range []string{"", "some", "all,zone:a", "all:1", "instances:0", "instances:1001", "instances:x", "instances:1,zone:a", "percent:0", "percent:101", "percent:NaN", "zone:", "zone:a,zone:b", ","} {
		var got Selector
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
	if (Selector{}).fits("ro", asCaller(config.Scope{Instance: "i"}, Platform)) {
		t.Error("the empty selector selects somebody")
	}
}

func FuzzSelector(f *testing.F) {
	f.Add("percent:5,zone:zone-a")
	f.Add("instances:1")
	f.Fuzz(func(t *testing.T, text string) {
		var s, again Selector
		if s.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%q is written %q, which is read as %+v, %v", text, s.String(), again, err)
		}
	})
}

// cell is an engine with stores on it, in a bubble in which time goes on by itself.
type cell struct {
	engine *engine.Engine
	ledger *ledger.Ledger
}

// inBubble runs f with an engine in a bubble of synctest.
func inBubble(t *testing.T, f func(t *testing.T, c cell)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		e, err := engine.Open(t.Context(), engine.Config{Dir: dir, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := e.Close(); err != nil {
				t.Errorf("close the engine: %v", err)
			}
		}()
		l, err := ledger.Open(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		f(t, cell{e, l})
	})
}

// node is one process of several: a store that runs, until it is stopped or killed.
type node struct {
	*Store
	stop func() // as a process that ends
}

func (c cell) node(t *testing.T) *node {
	t.Helper()
	s, err := New(t.Context(), Config{Engine: c.engine, Ledger: c.ledger, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	n := &node{Store: s}
	n.stop = func() { cancel(); wg.Wait() }
	return n
}

// web makes n UP instances of app web, i-000 and so on, evenly in three zones.
func web(n int) []roadbed.Instance {
	out := make([]roadbed.Instance, n)
	for i := range out {
		out[i] = roadbed.Instance{ID: fmt.Sprintf("i-%03d", i), App: "web", Group: "web-v001", Host: "127.0.0.1", Port: 1,
			Location: roadbed.Location{Region: "local", Zone: "zone-" + string(rune('a'+i%3))}, Status: roadbed.Up, Since: time.Unix(1, 0)}
	}
	return out
}

// seen returns which of the instances see value for key.
func (n *node) seen(list []roadbed.Instance, key, value string) []string {
	var out []string
	for _, i := range list {
		if v, _ := n.Value(config.Scope{App: i.App, Group: i.Group, Zone: i.Location.Zone, Region: i.Location.Region, Instance: i.ID}, key); v == value {
			out = append(out, i.ID)
		}
	}
	return out
}

func (n *node) state(t *testing.T, id string) Rollout {
	t.Helper()
	r, err := n.Rollout(id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// over says whether the roll-out has ended, which it must within a day.
func (n *node) over(t *testing.T, id string, began time.Time) bool {
	t.Helper()
	r := n.state(t, id)
	if !r.State.Over() && time.Since(began) > 24*time.Hour {
		t.Fatalf("a day later it is still %s (%s)", r.State, r.Reason)
	}
	return r.State.Over()
}

// until lets time go on until the roll-out is where it is awaited, for at most a day.
func (n *node) until(t *testing.T, id string, want stage) Rollout {
	t.Helper()
	var r Rollout
	for range 24 * 3600 * 5 {
		if r = n.state(t, id); r.stage() == want {
			return r
		}
		if r.State.Over() {
			t.Fatalf("the roll-out is %s (%s), want %s", r.stage(), r.Reason, want)
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Fatalf("the roll-out is %s after a day, want %s", r.stage(), want)
	return r
}

func as(t testing.TB, who string) context.Context { return api.As(t.Context(), who, "to see it") }

func setTo(key, value string, scope config.Scope) []Edit {
	return []Edit{{Record: Property{Key: key, Value: value, Scope: scope}}}
}

func TestAHealthyRolloutReachesMoreAndMoreAndThenAll(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		n := c.node(t)
		defer n.stop()
		list := web(90)
		n.setFleet(list)
		if _, err := n.Set(as(t, "ana"), Property{Key: "timeout", Value: "1000", Type: "int"}, Any); err != nil {
			t.Fatal(err)
		}
		r, err := n.Propose(as(t, "ana"), Rollout{Title: "shorter", Changes: setTo("timeout", "900", config.Scope{App: "web"})})
		if err != nil {
			t.Fatal(err)
		}
		if got := n.seen(list, "timeout", "900"); r.State != Validated || len(got) != 0 {
			t.Fatalf("before it starts: %s, and %v see it; want VALIDATED and nobody", r.State, got)
		}
		began := time.Now()
		if _, err := n.Command(as(t, "bob"), r.ID, "start"); err != nil {
			t.Fatal(err)
		}
		reached := map[string]bool{}
		var sizes []int
		step := -1
		for began := time.Now(); !n.over(t, r.ID, began); {
			now := n.seen(list, "timeout", "900")
			for id := range reached {
				if !slices.Contains(now, id) {
					t.Fatalf("%s saw it once and does not any more", id)
				}
			}
			for _, id := range now {
				reached[id] = true
			}
			if x := n.state(t, r.ID); x.Step != step && x.State == Running {
				step = x.Step
				sizes = append(sizes, len(now))
			}
			time.Sleep(5 * time.Second)
		}
		end := n.state(t, r.ID)
		if end.State != Done || time.Since(began) < 50*time.Minute || time.Since(began) > 51*time.Minute {
			t.Errorf("got %s (%s) after %v; want DONE after the 50 minutes that its steps bake", end.State, end.Reason, time.Since(began))
		}
		// One; 5 percent of zone-?; its thirty; the region, which is all ninety; all.
		if len(sizes) != 5 || sizes[0] != 1 || sizes[1] < 1 || sizes[1] > 6 || sizes[2] != 30 || sizes[3] != 90 || sizes[4] != 90 {
			t.Errorf("reached by step: got %v, want [1, a few, 30, 90, 90]", sizes)
		}
		p, ok := n.Get(ID("timeout", config.Scope{App: "web"}))
		if !ok || p.Value != "900" || p.Type != "int" || p.UpdatedBy != "bob" || p.RolloutID != r.ID {
			t.Errorf("the record: got %+v, want 900, int as the general one, by bob, of the roll-out", p)
		}
		changes, err := c.ledger.List(t.Context(), ledger.Query{Resource: "rollout:" + r.ID})
		if err != nil || len(changes) != len(end.History) {
			t.Errorf("the ledger has %d entries, %v; the roll-out went through %d transitions", len(changes), err, len(end.History))
		}
	})
}

func TestABadValueIsRolledBackWithinASecondOfTheFirstFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		n := c.node(t)
		defer n.stop()
		list := web(100)
		n.setFleet(list)
		r, err := n.Propose(as(t, "ana"), Rollout{Changes: setTo("k", "bad", config.Scope{App: "web"})})
		if err == nil {
			_, err = n.Command(as(t, "ana"), r.ID, "start")
		}
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		hit := n.seen(list, "k", "bad")
		if len(hit) != 1 {
			t.Fatalf("the first step reached %v, want one", hit)
		}
		time.Sleep(90 * time.Second)
		for i := range list {
			if list[i].ID == hit[0] {
				list[i].Status = roadbed.Down
			}
		}
		failed := time.Now()
		n.setFleet(slices.Clone(list))
		end := n.until(t, r.ID, stage{RolledBack, ""})
		if took := end.Since.Sub(failed); took > time.Second {
			t.Errorf("it was rolled back after %v, want within a second", took)
		}
		if got := n.seen(list, "k", "bad"); len(got) != 0 || !strings.Contains(end.Reason, hit[0]+" DOWN") {
			t.Errorf("%v see it still, for %q; want nobody, and who failed", got, end.Reason)
		}
		if last := end.History[len(end.History)-1]; last.Actor != controllerName || last.Event != "fail" {
			t.Errorf("the last transition: got %+v, want fail by %s", last, controllerName)
		}
	})
}

func TestWhatRolloutsAreRefused(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "typed", "1", config.Scope{})
	if _, err := s.Set(as(t, "ana"), Property{Key: "typed", Value: "1", Type: "int"}, Any); err != nil {
		t.Fatal(err)
	}
	half := Duration(-1)
	for name, c := range map[string]struct {
		r    Rollout
		want error
		says string
	}{
		"no changes":         {Rollout{}, ErrInvalid, "no changes"},
		"a wrong type":       {Rollout{Changes: setTo("typed", "many", config.Scope{App: "web"})}, ErrInvalid, "whole number"},
		"deleting nothing":   {Rollout{Changes: []Edit{{Op: DeleteOp, Record: Property{Key: "absent"}}}}, ErrNotFound, "absent"},
		"twice the same":     {Rollout{Changes: append(setTo("a", "1", config.Scope{App: "Web"}), setTo("a", "2", config.Scope{App: "web"})...)}, ErrInvalid, "twice"},
		"an unknown op":      {Rollout{Changes: []Edit{{Op: "move", Record: Property{Key: "a"}}}}, ErrInvalid, "set or delete"},
		"a global override":  {Rollout{Changes: setTo("a", "1", config.Scope{Zone: "zone-a"})}, ErrUnconfirmed, "confirm=global"},
		"all too early":      {Rollout{Changes: setTo("a", "1", config.Scope{}), Steps: []Step{{Selector: Selector{All: true}}, {Selector: Selector{Zone: "z"}}}}, ErrInvalid, "nothing may follow"},
		"a step for nobody":  {Rollout{Changes: setTo("a", "1", config.Scope{}), Steps: []Step{{}}}, ErrInvalid, "selects nobody"},
		"negative bake":      {Rollout{Changes: setTo("a", "1", config.Scope{}), Steps: []Step{{Selector: Selector{Percent: 1}, Bake: &half}}}, ErrInvalid, "bakes for"},
		"a rule of no sense": {Rollout{Changes: setTo("a", "1", config.Scope{}), Guards: Guards{Metrics: []MetricRule{{Query: "x", Compare: "~"}}}}, ErrInvalid, "use > or <"},
		"marginal below":     {Rollout{Changes: setTo("a", "1", config.Scope{}), Guards: Guards{Pass: 90, Marginal: 80}}, ErrInvalid, "marginal"},
		"too large":          {Rollout{Changes: append(setTo("a", strings.Repeat("x", MaxValue), config.Scope{}), append(setTo("b", strings.Repeat("x", MaxValue), config.Scope{}), append(setTo("c", strings.Repeat("x", MaxValue), config.Scope{}), setTo("d", strings.Repeat("x", MaxValue), config.Scope{})...)...)...)}, ErrInvalid, "split it"},
	} {
		if _, err := s.Propose(as(t, "ana"), c.r); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %v that says %q", name, err, c.want, c.says)
		}
	}
	if left := s.Rollouts(); len(left) != 0 {
		t.Errorf("refused roll-outs are stored: %+v", left)
	}
}

func TestOnlyOneRolloutChangesAKeyOfAnApp(t *testing.T) {
	s := open(t, t.TempDir())
	start := func(key, value string, scope config.Scope) (Rollout, error) {
		r, err := s.Propose(as(t, "ana"), Rollout{Title: "the first", Changes: setTo(key, value, scope)})
		if err != nil {
			return r, err
		}
		return s.Command(as(t, "ana"), r.ID, "start")
	}
	waiting, err := s.Propose(as(t, "bob"), Rollout{Changes: setTo("k", "2", config.Scope{App: "web"})})
	if err != nil {
		t.Fatal(err)
	}
	one, err := start("k", "1", config.Scope{App: "api,WEB"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := start("k", "2", config.Scope{App: "web", Zone: "zone-a"}); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), one.ID) {
		t.Errorf("another one: got %v, want ErrBusy that names %s", err, one.ID)
	}
	if _, err := s.Command(as(t, "bob"), waiting.ID, "start"); !errors.Is(err, ErrBusy) {
		t.Errorf("one that waited: got %v, want ErrBusy", err)
	}
	for _, other := range []config.Scope{{}, {App: "web", Env: "prod"}} {
		if _, err := start("k", "2", other); err != nil {
			t.Errorf("for %+v: %v", other, err)
		}
	}
	if _, err := s.Command(as(t, "ana"), one.ID, "abort"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Command(as(t, "bob"), waiting.ID, "start"); err != nil {
		t.Errorf("once the first is over: %v", err)
	}
}

func TestRolloutsOverHTTP(t *testing.T) {
	s := open(t, t.TempDir())
	h := s.Handler()
	do := func(method, path, body string, want int, says string) string {
		t.Helper()
		w := httptest.NewRecorder()
		r := request(method, "/config/v1/rollouts"+path, body)
		r.Header.Set(api.ActorHeader, "ana")
		h.ServeHTTP(w, r)
		if w.Code != want || !strings.Contains(w.Body.String(), says) {
			t.Errorf("%s %s: got %d %s; want %d and %q", method, path, w.Code, w.Body, want, says)
		}
		return w.Body.String()
	}
	if _, err := s.Set(as(t, "ana"), Property{Key: "secret", Value: "hunter2", Sensitive: true}, Any); err != nil {
		t.Fatal(err)
	}
	var r Rollout
	if err := json.Unmarshal([]byte(do("POST", "", `{"changes":[{"record":{"key":"secret","value":"hunter3"}},{"record":{"key":"k","value":"1","appId":"web"}}]}`, 201, `"state":"VALIDATED"`)), &r); err != nil {
		t.Fatal(err)
	}
	do("POST", "", `{"changes":[{"record":{"key":"k","value":"1","app":"web"}}]}`, 400, "app")
	do("POST", "", `{"changes":[]}`, 422, "no changes")
	do("POST", "", `{`, 400, "body")
	do("GET", "/nothing", "", 404, "no such roll-out")
	do("POST", "/"+r.ID+"/dance", "", 404, "there is no command")
	do("POST", "/"+r.ID+"/resume", "", 409, "you can start, abort")
	do("POST", "/"+r.ID+"/start", `{"reason":"because"}`, 200, `"why":"because"`)
	do("POST", "", `{"changes":[{"record":{"key":"k","value":"2","appId":"web"}}],"start":true}`, 409, r.ID)
	do("POST", "/"+r.ID+"/pause", "", 200, `"state":"PAUSED"`)
	do("GET", "?state=paused&app=WEB&key=k", "", 200, r.ID)
	for _, q := range []string{"?state=done", "?app=api", "?key=x"} {
		if got := do("GET", q, "", 200, "rollouts"); strings.Contains(got, r.ID) {
			t.Errorf("%s: got %s, want it not there", q, got)
		}
	}
	all := do("GET", "", "", 200, r.ID) + do("GET", "/"+r.ID, "", 200, r.ID) + do("POST", "/"+r.ID+"/abort", "", 200, "ROLLED_BACK")
	if strings.Contains(all, "hunter") {
		t.Errorf("a sensitive value is shown: %s", all)
	}
	changes, err := s.ledger.List(t.Context(), ledger.Query{})
	if b, _ := json.Marshal(changes); err != nil || strings.Contains(string(b), "hunter") {
		t.Errorf("the ledger shows it: %s, %v", b, err)
	}
}

// TestWhoIsReachedSeesWhatEverybodyWillSee compares a roll-out in every stage with plain stores: one as it is before, one
// as it is when the changes are written; and readers that resolve by themselves with those that are resolved for.
func TestAListOfRolloutsLeavesOutOldOnesOnlyThatAreOver(t *testing.T) {
	s := open(t, t.TempDir())
	for i, ends := range []bool{false, true, true, true} {
		r, err := s.Propose(as(t, "ana"), Rollout{Changes: setTo(fmt.Sprint("k", i), "1", config.Scope{})})
		if err != nil {
			t.Fatal(err)
		}
		if ends {
			if _, err := s.Command(as(t, "ana"), r.ID, "abort"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for query, want := range map[string]string{"": "[k3 k2 k1 k0] 0", "?limit=1": "[k3 k0] 2", "?limit=9": "[k3 k2 k1 k0] 0", "?limit=1&key=k2": "[k2] 0", "?limit=0": "400", "?limit=x": "400"} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "http://localhost/config/v1/rollouts"+query, nil))
		var list RolloutList
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
			t.Fatalf("%s: %v in %s", query, err, w.Body)
		}
		keys := []string{}
		for _, r := range list.Rollouts {
			keys = append(keys, r.Changes[0].Record.Key)
		}
		got := fmt.Sprint(keys, " ", list.More)
		if w.Code != 200 {
			got = fmt.Sprint(w.Code)
		}
		if got != want {
			t.Errorf("rollouts%s: got %s, want %s", query, got, want)
		}
	}
}

func TestWhoIsReachedSeesWhatEverybodyWillSee(t *testing.T) {
	s := open(t, t.TempDir())
	h := s.Handler()
	field := rapid.SampledFrom([]string{"", "", "", "a", "B", "a,c"})
	scopes := rapid.Custom(func(t *rapid.T) config.Scope {
		d := func(n string) string { return field.Draw(t, n) }
		return canonical(config.Scope{App: d("app"), Zone: d("zone"), Region: d("region"), Instance: rapid.SampledFrom([]string{"", "", "", "i-1", "i-1,i-2"}).Draw(t, "instance")})
	})
	rapid.Check(t, func(t2 *rapid.T) {
		var before, after []Property
		seen := map[string]bool{}
		for i, sc := range rapid.SliceOfN(scopes, 0, 8).Draw(t2, "records") {
			p := Property{Key: "k", Value: fmt.Sprint("old", i), Scope: sc, Rev: uint64(i + 1), ID: ID("k", sc)}
			if !seen[p.ID] {
				before, seen[p.ID] = append(before, p), true
			}
		}
		r := &Rollout{ID: "ro", Step: 0, Steps: []Step{{Selector: Selector{Instances: 2}}, {Selector: Selector{All: true}}}}
		after = slices.Clone(before)
		edited := map[string]bool{}
		for i, sc := range rapid.SliceOfN(scopes, 1, 3).Draw(t2, "changes") {
			e := Edit{Op: SetOp, Record: Property{Key: "k", Value: fmt.Sprint("new", i), Scope: sc, ID: ID("k", sc)}}
			at := slices.IndexFunc(after, func(p Property) bool { return p.ID == e.Record.ID })
			if edited[e.Record.ID] {
				continue
			}
			edited[e.Record.ID] = true
			if at >= 0 {
				old := after[at]
				e.Before = &old
				if rapid.Bool().Draw(t2, "delete") {
					e.Op = DeleteOp
				}
				after = slices.Delete(after, at, at+1)
			}
			if e.Op == SetOp {
				p := e.Record
				p.Rev = 1000 + uint64(len(r.Changes))
				after = append(after, p)
			}
			r.Changes = append(r.Changes, e)
		}
		st := rapid.SampledFrom(every[1:]).Draw(t2, "stage")
		r.State, r.Phase = st.State, st.Phase
		r.Chosen = rapid.SampledFrom([][]string{nil, {"i-1"}, {"i-1", "i-3"}}).Draw(t2, "chosen")
		order := rapid.SampledFrom([]Order{Platform, Netflix}).Draw(t2, "order")
		now := before // what is stored now
		if rapid.Bool().Draw(t2, "folded") && r.everyone() || st.State == Done {
			now = after
		}
		ix := staged(now, r)
		ix.rev = 1
		s.index.Store(ix)
		var list []roadbed.Instance
		for i := range 4 {
			list = append(list, roadbed.Instance{ID: fmt.Sprint("i-", i), App: []string{"a", "b"}[i%2], Location: roadbed.Location{Zone: []string{"a", "c"}[i/2], Region: "b"}, Status: roadbed.Up})
		}
		s.setFleet(list)
		for _, i := range list {
			c := asCaller(asRegistered(i), order)
			whole := before
			if st.State == Done || st.State == Folding || st == (stage{Paused, Conflict}) || (st.State == Running || st.State == Paused) && slices.Contains(r.Chosen, i.ID) {
				whole = after
			}
			if st.State == Unfolding { // what is put back is written anew: newer than what is as specific
				whole = slices.Clone(before)
				for j := range whole {
					if edited[whole[j].ID] {
						whole[j].Rev += 2000
					}
				}
			}
			want := indexOf(whole...).resolve(c, "").Properties
			got := ix.resolve(c, "").Properties
			if len(got) != len(want) || got["k"] != want["k"] {
				t2.Fatalf("%s in %s of %+v over %+v: got %v, want %v", i.ID, st, r.Changes, now, got, want)
			}
			wins := 0
			for _, x := range ix.explain("k", asRegistered(i), order) {
				if x.Wins {
					wins++
					if x.Value != want["k"] || x.Reason == "" {
						t2.Fatalf("explain to %s in %s: %q wins for %q, want %q", i.ID, st, x.Value, x.Reason, want["k"])
					}
				}
			}
			if wins != len(want) {
				t2.Fatalf("explain to %s in %s: %d winners, want %d", i.ID, st, wins, len(want))
			}
			if order != Netflix {
				continue
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, request("GET", "/config/archaius2", ""))
			mine := map[string]string{}
			for n, v := range fields(asRegistered(i)) {
				mine[fieldNames[n]] = v
			}
			own := readPersisted(t, w.Body.Bytes(), mine, []string{"serverId", "asg", "ami", "cluster", "appId", "env", "countries", "stack", "zone", "region"})
			if own["k"] != want["k"] && want["k"] != "" { // that a value is gone cannot be told
				t2.Fatalf("%s in %s of %+v over %+v: Archaius 2 sees %v, want %v, in %s", i.ID, st, r.Changes, now, own, want, w.Body)
			}
		}
	})
}
