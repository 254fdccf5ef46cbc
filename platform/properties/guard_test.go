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

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/ledger"
)

// begin starts a roll-out of k=new for app web.
func (n *node) begin(t *testing.T, r Rollout) Rollout {
	t.Helper()
	if r.Changes == nil {
		r.Changes = setTo("k", "new", config.Scope{App: "web"})
	}
	r, err := n.Propose(as(t, "ana"), r)
	if err == nil {
		r, err = n.Command(as(t, "ana"), r.ID, "start")
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// halfAndAll are steps of half of the instances and then all, a minute each.
func halfAndAll() []Step {
	return []Step{{Selector: Selector{Percent: 50}, Bake: lasting(time.Minute)}, {Selector: Selector{All: true}, Bake: lasting(time.Minute)}}
}

func TestTheHealthGuard(t *testing.T) {
	type fate struct{ reached, others int }
	for name, c := range map[string]struct {
		instances int
		guard     HealthGuard
		happens   func(i *roadbed.Instance) // to each of fate; a nil one vanishes
		fate      fate
		strikes   bool
	}{
		"nobody":                       {40, HealthGuard{}, nil, fate{0, 0}, false},
		"one goes down":                {40, HealthGuard{}, func(i *roadbed.Instance) { i.Status = roadbed.Down }, fate{1, 0}, true},
		"one leaves by itself":         {40, HealthGuard{}, func(i *roadbed.Instance) { i.Status = roadbed.OutOfService }, fate{1, 0}, true},
		"one restarts":                 {40, HealthGuard{}, func(i *roadbed.Instance) { i.Status = roadbed.Starting }, fate{1, 0}, true},
		"one vanishes":                 {40, HealthGuard{}, nil, fate{1, 0}, true},
		"others go down":               {40, HealthGuard{}, func(i *roadbed.Instance) { i.Status = roadbed.Down }, fate{0, 3}, false},
		"as many of both":              {400, HealthGuard{}, func(i *roadbed.Instance) { i.Status = roadbed.Down }, fate{2, 2}, false}, // enough that the halves are never far from equal
		"clearly more":                 {400, HealthGuard{}, func(i *roadbed.Instance) { i.Status = roadbed.Down }, fate{24, 2}, true},
		"fewer than the guard allows":  {40, HealthGuard{Instances: 3}, func(i *roadbed.Instance) { i.Status = roadbed.Down }, fate{2, 0}, false},
		"as many as it does not":       {40, HealthGuard{Instances: 3}, func(i *roadbed.Instance) { i.Status = roadbed.Down }, fate{3, 0}, true},
		"a smaller share than allowed": {400, HealthGuard{Points: 5}, func(i *roadbed.Instance) { i.Status = roadbed.Down }, fate{5, 0}, false},
		"a larger share":               {400, HealthGuard{Points: 5}, func(i *roadbed.Instance) { i.Status = roadbed.Down }, fate{14, 0}, true},
		"switched off":                 {40, HealthGuard{Off: true}, func(i *roadbed.Instance) { i.Status = roadbed.Down }, fate{10, 0}, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, cl cell) {
				n := cl.node(t)
				defer n.stop()
				list := web(c.instances)
				n.setFleet(list)
				r := n.begin(t, Rollout{Steps: halfAndAll(), Guards: Guards{Health: c.guard}})
				synctest.Wait()
				hit := n.seen(list, "k", "new")
				time.Sleep(10 * time.Second)
				var now []roadbed.Instance
				left := c.fate
				for _, i := range list {
					mine := &left.others
					if slices.Contains(hit, i.ID) {
						mine = &left.reached
					}
					if *mine > 0 {
						*mine--
						if c.happens == nil {
							continue
						}
						c.happens(&i)
					}
					now = append(now, i)
				}
				n.setFleet(now)
				time.Sleep(2 * time.Second)
				got := n.state(t, r.ID)
				if (got.State == RolledBack) != c.strikes {
					t.Errorf("%+v of %d reached and %d others: the roll-out is %s (%s), struck is wanted: %v", c.fate, len(hit), len(list)-len(hit), got.State, got.Reason, c.strikes)
				}
				if got.Status != nil && (got.Status.Lost != c.fate.reached || got.Status.Missed != c.fate.others || got.Status.Reached != len(hit)) {
					t.Errorf("its status is %+v, want %+v of %d", got.Status, c.fate, len(hit))
				}
			})
		})
	}
}

func TestAServerGroupTakenOutAsAWholeIsNoFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		n := c.node(t)
		defer n.stop()
		old, fresh := web(20), web(20)
		for i := range fresh {
			fresh[i].ID, fresh[i].Group = "n"+fresh[i].ID, "web-v002"
		}
		n.setFleet(slices.Concat(old, fresh))
		r := n.begin(t, Rollout{Steps: halfAndAll()})
		time.Sleep(10 * time.Second)
		n.setFleet(fresh) // a deployment
		time.Sleep(10 * time.Second)
		if got := n.state(t, r.ID); got.State != Running {
			t.Errorf("after a deployment: %s (%s), want RUNNING", got.State, got.Reason)
		}
	})
}

func TestAnInstanceThatFailsWhileItIsPausedRollsBackToo(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		n := c.node(t)
		defer n.stop()
		list := web(20)
		n.setFleet(list)
		r := n.begin(t, Rollout{Steps: halfAndAll()})
		synctest.Wait()
		hit := n.seen(list, "k", "new")
		if _, err := n.Command(as(t, "ana"), r.ID, "pause"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if got := n.seen(list, "k", "new"); !slices.Equal(got, hit) {
			t.Errorf("after an hour of pause %v see it, want %v", got, hit)
		}
		n.setFleet(slices.DeleteFunc(slices.Clone(list), func(i roadbed.Instance) bool { return i.ID == hit[0] }))
		n.until(t, r.ID, stage{RolledBack, ""})
	})
}

// reads has an instance read through a node as package config does: it watches, and says what it has taken.
func (n *node) reads(t *testing.T, i roadbed.Instance, ack func(config.Change) *config.Ack) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	scope := asRegistered(i)
	left := n.meet(scope, true)
	w := &watch{s: n.Store, c: asCaller(scope, Platform)}
	told, err := w.begin("")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			name := ""
			for line := range strings.Lines(string(told)) {
				line = strings.TrimSpace(line)
				if s, ok := strings.CutPrefix(line, "event: "); ok {
					name = s
				}
				data, ok := strings.CutPrefix(line, "data: ")
				if !ok {
					continue
				}
				a := &config.Ack{}
				var c config.Change
				into := any(a) // a snapshot has its revision under the same name
				if name == "change" {
					into = &c
				}
				if err := json.Unmarshal([]byte(data), into); err != nil {
					t.Errorf("event %s: %v", name, err)
				}
				if name == "change" {
					a = ack(c)
				}
				if a != nil {
					a.Instance = i.ID
					if err := n.Ack(*a); err != nil {
						t.Errorf("ack: %v", err)
					}
				}
			}
			select {
			case <-w.at.done:
				if told, err = w.news(nil); err != nil {
					t.Errorf("news: %v", err)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); wg.Wait(); left() }
}

func taken(c config.Change) *config.Ack { return &config.Ack{Rev: c.Rev} }

// TestReadersOnAnyNodeAreWaitedFor has readers on two nodes, of which one steers.
func TestReadersOnAnyNodeAreWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		silent int // of twenty readers
		flawed bool
		want   stage
		says   string
	}{
		"all take it":               {0, false, stage{Running, Baking}, "took it"},
		"enough take it":            {1, false, stage{Running, Baking}, "19 of 20"},
		"too few take it":           {8, false, stage{Paused, ""}, "12 of 20"},
		"one of them cannot use it": {0, true, stage{RolledBack, ""}, "cannot use k: it is not a number"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, cl cell) {
				a, b := cl.node(t), cl.node(t)
				defer a.stop()
				defer b.stop()
				list := web(20)
				a.setFleet(list)
				b.setFleet(list)
				for i, inst := range list {
					n := []*node{a, b}[i%2]
					defer n.reads(t, inst, func(ch config.Change) *config.Ack {
						switch {
						case i < c.silent:
							return nil
						case c.flawed && i == 19:
							return &config.Ack{Rev: ch.Rev, Errors: []config.Flaw{{Key: ch.Key, Error: "it is not a number"}}}
						}
						return taken(ch)
					})()
				}
				synctest.Wait()
				began := time.Now()
				r := a.begin(t, Rollout{Steps: []Step{{Selector: Selector{Region: "local"}, Bake: lasting(time.Hour)}}})
				var got Rollout
				for got = a.state(t, r.ID); got.stage() != c.want && time.Since(began) < 2*time.Minute; got = a.state(t, r.ID) {
					time.Sleep(100 * time.Millisecond)
				}
				took := time.Since(began)
				if got.stage() != c.want || !strings.Contains(got.Reason, c.says) {
					t.Errorf("after %v it is %s (%s), status %+v; want %s and %q", took, got.stage(), got.Reason, got.Status, c.want, c.says)
				}
				if least, most := ackLimit, ackLimit+2*time.Second; c.want.State == Paused && (took < least || took > most) {
					t.Errorf("it paused after %v, want %v", took, least)
				}
				if c.want.Phase == Baking && took > 5*time.Second {
					t.Errorf("it was taken after %v, want a few seconds", took)
				}
			})
		})
	}
}

// TestAReaderThatIsNotConcernedIsNotWaitedFor has one that sees a more specific record, one that the step does not reach,
// and one that never acknowledges.
func TestAReaderThatIsNotConcernedIsNotWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		n := c.node(t)
		defer n.stop()
		list := web(9)
		n.setFleet(list)
		if _, err := n.Set(AllowGlobal(as(t, "ana")), Property{Key: "k", Value: "its own", Scope: config.Scope{App: "web", Instance: list[0].ID}}, Any); err != nil {
			t.Fatal(err)
		}
		defer n.reads(t, list[0], func(config.Change) *config.Ack { t.Error("it hears of a change"); return nil })()
		defer n.reads(t, list[1], func(config.Change) *config.Ack { t.Error("it hears of a change"); return nil })() // zone-b
		defer n.meet(asRegistered(list[3]), true)()                                                                  // zone-a, silent
		synctest.Wait()
		r := n.begin(t, Rollout{Steps: []Step{{Selector: Selector{Zone: "zone-a"}, Bake: lasting(time.Hour)}}})
		time.Sleep(5 * time.Second)
		if got := n.state(t, r.ID); got.Phase != Baking || got.Status.Readers != 0 {
			t.Errorf("it is %s with status %+v; want BAKING, with no reader to wait for", got.stage(), got.Status)
		}
	})
}

func TestMetricRules(t *testing.T) {
	values := func(reached, others float64) func(query string, of []string) (float64, error) {
		return func(query string, of []string) (float64, error) {
			if slices.Contains(of, "reached") {
				return reached, nil
			}
			return others, nil
		}
	}
	rule := MetricRule{Query: "q", Compare: ">", Threshold: 10}
	ratio := MetricRule{Query: "q", Compare: ">", Threshold: 1.5, Relative: true}
	for name, c := range map[string]struct {
		rule    MetricRule
		measure func(query string, of []string) (float64, error)
		want    stage
		says    string
	}{
		"below the threshold": {rule, values(9, 0), stage{Done, ""}, ""},
		"above it":            {rule, values(11, 11), stage{RolledBack, ""}, `metric "q" of the instances it reached is 11, > 10`},
		"less than it may":    {MetricRule{Query: "q", Compare: "<", Threshold: 10}, values(9, 0), stage{RolledBack, ""}, "< 10"},
		"as the others":       {ratio, values(11, 11), stage{Done, ""}, ""},
		"more than others":    {ratio, values(20, 11), stage{RolledBack, ""}, "divided by that of others, is 1.818"},
		"no data":             {rule, values(math.NaN(), math.NaN()), stage{Done, ""}, ""},
		"nobody to ask":       {rule, nil, stage{Paused, ""}, "no telemetry is named"},
		"nobody answers": {rule, func(string, []string) (float64, error) { return 0, errors.New("telemetry is away") },
			stage{Paused, ""}, "telemetry is away"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, cl cell) {
				n := cl.node(t)
				defer n.stop()
				list := web(40)
				n.setFleet(list)
				var r Rollout
				if c.measure != nil {
					n.Store.measure = func(ctx context.Context, query string, of []string) (float64, error) {
						hit := n.seen(list, "k", "new")
						for _, id := range of {
							if slices.Contains(hit, id) != slices.Contains(hit, of[0]) {
								t.Errorf("one measurement is of those it reached and of others: %v", of)
							}
						}
						if slices.Contains(hit, of[0]) {
							of = []string{"reached"}
						}
						return c.measure(query, of)
					}
				}
				r = n.begin(t, Rollout{Steps: halfAndAll(), Guards: Guards{Metrics: []MetricRule{c.rule}}})
				var got Rollout
				for got = n.state(t, r.ID); got.stage() != c.want && !got.State.Over() && time.Since(got.Created) < 10*time.Minute; got = n.state(t, r.ID) {
					time.Sleep(time.Second)
				}
				if got.stage() != c.want || !strings.Contains(got.Reason, c.says) {
					t.Errorf("it is %s (%s), want %s and %q", got.stage(), got.Reason, c.want, c.says)
				}
			})
		})
	}
}

func TestTheJudgeHasTheLastWordOfAStep(t *testing.T) {
	for score, want := range map[float64]stage{100: {Done, ""}, 85: {Paused, ""}, 79: {RolledBack, ""}} {
		t.Run(fmt.Sprint(score), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c cell) {
				n := c.node(t)
				defer n.stop()
				n.setFleet(web(10))
				n.judge = func(*Rollout, Status) float64 { return score }
				r := n.begin(t, Rollout{Steps: halfAndAll(), Guards: Guards{Pass: 80, Marginal: 90}})
				time.Sleep(30 * time.Second)
				if got := n.state(t, r.ID); got.Phase != Baking {
					t.Errorf("while it bakes it is %s", got.stage())
				}
				got := n.until(t, r.ID, want)
				if want.State == Paused && !strings.Contains(got.Reason, "score 85") {
					t.Errorf("the reason is %q, want the score", got.Reason)
				}
				if want.State == Paused {
					if _, err := n.Command(as(t, "ana"), r.ID, "advance"); err != nil {
						t.Errorf("a person wants to go on: %v", err)
					}
				}
			})
		})
	}
	for _, c := range []struct {
		s    Status
		want float64
	}{
		{Status{}, 100}, {Status{Reached: 10, Others: 10}, 100}, {Status{Reached: 10, Lost: 5, Others: 10}, 50},
		{Status{Reached: 10, Lost: 5, Others: 10, Missed: 5}, 100}, {Status{Reached: 10, Others: 10, Missed: 5}, 100},
	} {
		if got := compare(c.s); got != c.want {
			t.Errorf("%+v: got %v, want %v", c.s, got, c.want)
		}
	}
}

func TestAStepThatNeedsApprovalWaitsForIt(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		n := c.node(t)
		defer n.stop()
		list := web(10)
		n.setFleet(list)
		steps := halfAndAll()
		steps[1].Approval = ManualApproval
		r := n.begin(t, Rollout{Steps: steps})
		got := n.until(t, r.ID, stage{Paused, Awaiting})
		hit := n.seen(list, "k", "new")
		time.Sleep(24 * time.Hour)
		if now := n.seen(list, "k", "new"); !slices.Equal(now, hit) {
			t.Errorf("after a day without approval %v see it, want %v", now, hit)
		}
		if got = n.state(t, r.ID); !strings.Contains(got.Status.Waiting, "step 2, all") {
			t.Errorf("it waits %q, want for the approval of step 2", got.Status.Waiting)
		}
		if _, err := n.Command(as(t, "eve"), r.ID, "resume"); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "approve") {
			t.Errorf("resume: got %v, want ErrState that says approve", err)
		}
		if _, err := n.Command(as(t, "bob"), r.ID, "approve"); err != nil {
			t.Fatal(err)
		}
		end := n.until(t, r.ID, stage{Done, ""})
		if !slices.ContainsFunc(end.History, func(p Passage) bool { return p.Event == "approve" && p.Actor == "bob" }) {
			t.Errorf("its history does not say that bob approved: %+v", end.History)
		}
	})
}

// TestTheBrakeStopsEveryChangeOfAnEnv but those of people who break the glass and say why.
func TestTheBrakeStopsEveryChangeOfAnEnv(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		n := c.node(t)
		defer n.stop()
		list := web(10)
		for i := range list {
			list[i].Metadata = map[string]string{"env": "prod"}
		}
		n.setFleet(list)
		prod := config.Scope{App: "web", Env: "prod"}
		r := n.begin(t, Rollout{Changes: setTo("k", "new", prod), Steps: halfAndAll()})
		set := func(ctx context.Context, key, value string, scope config.Scope) error {
			_, err := n.Set(ctx, Property{Key: key, Value: value, Scope: scope}, Any)
			return err
		}
		if err := set(as(t, "ana"), "cfg.freeze.prod", "true", config.Scope{}); err != nil {
			t.Fatal(err)
		}
		// Writes.
		if err := set(as(t, "ana"), "other", "1", prod); !errors.Is(err, ErrFrozen) || !strings.Contains(err.Error(), "cfg.freeze.prod") {
			t.Errorf("a write in prod: got %v, want ErrFrozen that names the brake", err)
		}
		if err := set(as(t, "ana"), "other", "1", config.Scope{App: "web"}); !errors.Is(err, ErrFrozen) {
			t.Errorf("a write for every env: got %v, want ErrFrozen", err)
		}
		if err := set(as(t, "ana"), "other", "1", config.Scope{App: "web", Env: "test"}); err != nil {
			t.Errorf("a write in test: %v", err)
		}
		if err := set(Recorded(as(t, "chaos")), "fault.scenario.x", "{}", config.Scope{}); err != nil {
			t.Errorf("another room's own write: %v", err)
		}
		if err := set(BreakGlass(api.As(t.Context(), "ana", "")), "other", "1", prod); !errors.Is(err, ErrFrozen) {
			t.Errorf("glass broken without a reason: got %v, want ErrFrozen", err)
		}
		if err := set(BreakGlass(api.As(t.Context(), "ana", "customers suffer")), "other", "1", prod); err != nil {
			t.Errorf("glass broken: %v", err)
		}
		changes, err := c.ledger.List(t.Context(), ledger.Query{Resource: "property:other"})
		if err != nil || changes[0].Why != "break-glass: customers suffer" || changes[0].Actor != "ana" {
			t.Errorf("the ledger says %+v, %v; want that ana broke the glass and why", changes[0], err)
		}
		// The roll-out bakes, and goes no further.
		time.Sleep(time.Hour)
		got := n.state(t, r.ID)
		if got.stage() != (stage{Running, Analysing}) || got.Step != 0 || !strings.Contains(got.Status.Waiting, "cfg.freeze.prod") {
			t.Errorf("frozen it is %s in step %d, waiting %q; want ANALYSING in step 0, waiting for the brake", got.stage(), got.Step, got.Status.Waiting)
		}
		for _, command := range []string{"advance"} {
			if _, err := n.Command(as(t, "ana"), r.ID, command); !errors.Is(err, ErrFrozen) {
				t.Errorf("%s: got %v, want ErrFrozen", command, err)
			}
		}
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, request("POST", "/config/v1/rollouts/"+r.ID+"/advance", ""))
		if w.Code != 423 {
			t.Errorf("advance over HTTP: got %d %s, want 423", w.Code, w.Body)
		}
		w = httptest.NewRecorder()
		n.Handler().ServeHTTP(w, request("POST", "/config/v1/rollouts/"+r.ID+"/advance?breakGlass=true", `{"reason":"the fix must out"}`))
		if w.Code != 200 || !strings.Contains(w.Body.String(), "break-glass: the fix must out") {
			t.Errorf("glass broken over HTTP: got %d %s, want 200 and the reason", w.Code, w.Body)
		}
		// Letting go of the brake is no change of prod, and the roll-out goes on.
		if err := set(as(t, "ana"), "cfg.freeze.prod", "false", config.Scope{}); err != nil {
			t.Fatal(err)
		}
		n.until(t, r.ID, stage{Done, ""})

		// Going back is always possible.
		r = n.begin(t, Rollout{Changes: setTo("k", "newer", prod), Steps: halfAndAll()})
		if err := set(as(t, "ana"), "cfg.freeze.all", "true", config.Scope{}); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Command(as(t, "ana"), r.ID, "abort"); err != nil {
			t.Errorf("abort while all is frozen: %v", err)
		}
	})
}

func TestARolloutWithNoInstanceKnownGoesByPercentages(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		n := c.node(t)
		defer n.stop()
		r := n.begin(t, Rollout{})
		if got := r.Steps[0].Selector; got != (Selector{Percent: 1}) || len(r.Steps) != 4 {
			t.Errorf("the steps are %+v, want percentages", r.Steps)
		}
		n.until(t, r.ID, stage{Done, ""})
	})
}

func TestACallerThatTellsOnlyItsIDIsLookedUpInTheRegistry(t *testing.T) {
	s := open(t, t.TempDir())
	list := web(2)
	list[1].Metadata = map[string]string{"env": "prod", "ami": "ami-1"}
	s.setFleet(list)
	s.must(t, "k", "zone", config.Scope{App: "web", Zone: "zone-b", Region: "local"})
	s.must(t, "g", "group", config.Scope{Group: "web-v001", Cluster: "web"})
	s.must(t, "e", "prod", config.Scope{Env: "prod", AMI: "ami-1"})
	if body, _ := get(t, s.Handler(), "/config/v1/resolve?serverId=I-001"); !strings.Contains(body, `{"e":"prod","g":"group","k":"zone"}`) {
		t.Errorf("got %s, want what fits its zone, group, env and image", body)
	}
	if body, _ := get(t, s.Handler(), "/config/v1/resolve?serverId=i-001&zone=zone-x"); strings.Contains(body, `"k"`) {
		t.Errorf("got %s; what a caller says of itself counts", body)
	}
}

func TestBadAcksAreRefused(t *testing.T) {
	s := open(t, t.TempDir())
	many := `{"serverId":"i","rev":1,"errors":[` + strings.TrimSuffix(strings.Repeat(`{"key":"k","error":"x"},`, maxFlaws+1), ",") + `]}`
	for body, want := range map[string]int{
		`{"serverId":"i-1","rev":5}`: 204, `{"serverId":"i-1","rev":5,"errors":[{"key":"k","error":"x"}]}`: 204,
		`{"rev":5}`: 422, `{"serverId":"` + strings.Repeat("i", 600) + `"}`: 422, many: 422, `{"serverId":"i","rev":-1}`: 400, `nonsense`: 400, ``: 400,
		`{"serverId":"i","rev":1,"more":1}`: 400,
	} {
		w := httptest.NewRecorder()
		if s.Handler().ServeHTTP(w, request("POST", "/config/v1/ack", body)); w.Code != want {
			t.Errorf("%.60s: got %d %s, want %d", body, w.Code, w.Body, want)
		}
	}
}

// TestReadersOfANodeThatDiedAreNotWaitedFor has a node that told of readers which had not taken it yet, and died.
func TestReadersOfANodeThatDiedAreNotWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		a, b := c.node(t), c.node(t)
		defer b.stop()
		list := web(10)
		a.setFleet(list)
		b.setFleet(list)
		var left []func()
		for _, i := range list {
			left = append(left, a.reads(t, i, func(config.Change) *config.Ack { return nil }))
		}
		synctest.Wait()
		r := a.begin(t, Rollout{Steps: []Step{{Selector: Selector{Region: "local"}, Bake: lasting(time.Hour)}}})
		time.Sleep(5 * time.Second)
		if got := b.state(t, r.ID); got.Phase != Applying || got.Status.Readers != 10 || got.Status.Acked != 0 {
			t.Fatalf("it is %s with status %+v; want APPLYING, waiting for ten readers of the other node", got.stage(), got.Status)
		}
		for _, stop := range left {
			stop()
		}
		a.stop()
		began := time.Now()
		b.until(t, r.ID, stage{Running, Baking})
		if took := time.Since(began); took > 3*reportEvery+2*time.Second {
			t.Errorf("it went on %v after the node died, want about %v", took, 3*reportEvery)
		}
	})
}

// TestWhoeverTookItInAnEarlierStepIsNotAskedAgain has readers that hear of one change, and say so once.
func TestWhoeverTookItInAnEarlierStepIsNotAskedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		n := c.node(t)
		defer n.stop()
		list := web(12)
		n.setFleet(list)
		for _, i := range list {
			defer n.reads(t, i, taken)()
		}
		synctest.Wait()
		r := n.begin(t, Rollout{Steps: []Step{{Selector: Selector{Zone: "zone-a"}, Bake: lasting(0)}, {Selector: Selector{Zone: "zone-b"}, Bake: lasting(0)}, {Selector: Selector{All: true}, Bake: lasting(0)}}})
		began := time.Now()
		end := n.until(t, r.ID, stage{Done, ""})
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("three steps took %v, want a few seconds each: %+v", took, end.History)
		}
	})
}

// TestARegistryThatStartsAnewIsNoFailure has every instance register anew, those reached first; a single one that does so
// has restarted.
func TestARegistryThatStartsAnewIsNoFailure(t *testing.T) {
	for _, whole := range []bool{true, false} {
		t.Run(fmt.Sprintf("whole=%v", whole), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c cell) {
				n := c.node(t)
				defer n.stop()
				list := web(30)
				n.setFleet(list)
				r := n.begin(t, Rollout{Steps: []Step{{Selector: Selector{Instances: 2}, Bake: lasting(time.Hour)}}})
				synctest.Wait()
				hit := n.seen(list, "k", "new")
				slices.SortStableFunc(list, func(a, b roadbed.Instance) int {
					if x, y := slices.Contains(hit, a.ID), slices.Contains(hit, b.ID); x != y && x {
						return -1
					} else if x != y {
						return 1
					}
					return 0
				})
				for i := range list {
					if list[i].Since = time.Now(); !whole && i == 0 {
						n.setFleet(slices.Clone(list))
						break
					}
					n.setFleet(slices.Clone(list))
					time.Sleep(100 * time.Millisecond)
				}
				time.Sleep(anewFor + 2*time.Second)
				if got := n.state(t, r.ID); (got.State == Running) != whole {
					t.Errorf("it is %s (%s), RUNNING is wanted: %v", got.stage(), got.Reason, whole)
				}
			})
		})
	}
}
