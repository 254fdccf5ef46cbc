package properties

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"

	"github.com/roadbed/roadbed/platform/api/porttest"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/ledger"
)

// remote is a store of a process of its own, whose engine is elsewhere: it reaches it over TCP and keeps a snapshot.
type remote struct {
	*Store
	ledger *ledger.Ledger
	stop   func()
}

func openRemote(t *testing.T, dir, addr string) remote {
	t.Helper()
	e, err := engine.Open(t.Context(), engine.Config{Dir: dir, URL: "nats://" + addr, Token: "secret", Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(t.Context(), Config{Engine: e, Ledger: l, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	stop := sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := e.Close(); err != nil {
			t.Errorf("close the client: %v", err)
		}
	})
	t.Cleanup(stop)
	return remote{s, l, stop}
}

// eventually waits until ok, which something real has to bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a minute still not so: %s", what)
		}
	}
}

// TestWhenTheEngineIsAway goes through what a node does without its engine: while it runs, after a restart, and after a
// restart with a snapshot that is damaged.
func TestWhenTheEngineIsAway(t *testing.T) {
	addr := porttest.Hold(t)
	state, view := t.TempDir(), t.TempDir()
	serve := func() *engine.Engine {
		t.Helper()
		e, err := engine.Open(t.Context(), engine.Config{Dir: state, Listen: addr, Token: "secret", Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() }) // again, perhaps, which is nothing
		return e
	}
	answer := func(s *Store, method, path, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, request(method, "/config/"+path, body))
		return w
	}

	host := serve()
	s := openRemote(t, view, addr)
	eventually(t, "a write is taken", func() bool {
		_, err := s.Set(as(t, "ana"), Property{Key: "k", Value: "1"}, Any)
		return err == nil
	})
	s.setFleet(web(3))
	r, err := s.Propose(as(t, "ana"), Rollout{Changes: setTo("staged", "new", config.Scope{App: "web"})})
	if err == nil {
		r, err = s.Command(as(t, "ana"), r.ID, "start")
	}
	if err != nil {
		t.Fatal(err)
	}
	hit := (&node{Store: s.Store}).seen(web(3), "staged", "new")
	if len(hit) != 1 {
		t.Fatalf("the roll-out has reached %v, want one", hit)
	}
	url := serveHTTP(t, s.Handler())
	v := follow(t, url, config.Scope{}).String("k", "")
	await(t, v, "1")

	// Away while it runs: reads and watches go on, marked; writes are refused; roll-outs stand still.
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "reads are marked as stale", func() bool { return answer(s.Store, "GET", "v1/resolve", "").Header().Get(StaleHeader) != "" })
	if w := answer(s.Store, "GET", "v1/resolve", ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"k":"1"`) {
		t.Errorf("a read: got %d %s, want k=1", w.Code, w.Body)
	}
	ctx, cancel := context.WithTimeout(as(t, "ana"), 300*time.Millisecond)
	if _, err := s.Set(ctx, Property{Key: "k", Value: "2"}, Any); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a write: got %v, want ErrUnavailable", err)
	}
	if _, err := s.Command(ctx, r.ID, "advance"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a step of the roll-out: got %v, want ErrUnavailable", err)
	}
	cancel()
	if now := (&node{Store: s.Store}).seen(web(3), "staged", "new"); fmt.Sprint(now) != fmt.Sprint(hit) {
		t.Errorf("the roll-out is seen by %v, want %v still", now, hit)
	}

	// Back: what others wrote is pushed to watches that stayed open.
	host = serve()
	eventually(t, "a write is taken again", func() bool {
		_, err := s.Set(as(t, "ana"), Property{Key: "k", Value: "3"}, Any)
		return err == nil
	})
	await(t, v, "3")
	eventually(t, "reads are fresh again", func() bool { return answer(s.Store, "GET", "v1/resolve", "").Header().Get(StaleHeader) == "" })

	// Restarted without engine and network: the last snapshot is served, roll-outs included.
	s.stop()
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	s = openRemote(t, view, addr)
	w := answer(s.Store, "GET", "v1/resolve", "")
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"k":"3"`) {
		t.Errorf("after a restart without engine: got %d %s, want k=3 from the snapshot", w.Code, w.Body)
	}
	s.setFleet(web(3))
	if now := (&node{Store: s.Store}).seen(web(3), "staged", "new"); fmt.Sprint(now) != fmt.Sprint(hit) {
		t.Errorf("the roll-out is seen by %v after a restart, want %v still", now, hit)
	}
	eventually(t, "reads after the restart are marked", func() bool {
		n, err := strconv.Atoi(answer(s.Store, "GET", "v1/resolve", "").Header().Get(StaleHeader))
		return err == nil && n >= 0
	})

	// With a damaged snapshot nothing is known: 503, never an empty 200.
	s.stop()
	files, err := filepath.Glob(filepath.Join(view, "views", tableName+".view"))
	if err != nil || len(files) != 1 {
		t.Fatalf("snapshots of the table: %v, %v; want one", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	s = openRemote(t, view, addr)
	for _, path := range []string{"v1/resolve", "v1/watch", "v1/properties", "v1/rollouts", "v1/properties/api.properties", "archaius2", "spring/api/prod"} {
		if w := answer(s.Store, "GET", path, ""); w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s with a damaged snapshot and no engine: got %d %s, want 503", path, w.Code, w.Body)
		}
	}
	// The client's own last known values are untouched by that.
	if got := v.Get(); got != "3" {
		t.Errorf("a reader: got %q, want 3 still", got)
	}
	serve()
	eventually(t, "everything is served once the engine is back", func() bool {
		return strings.Contains(answer(s.Store, "GET", "v1/resolve", "").Body.String(), `"k":"3"`)
	})
}

// TestALargeTableIsServedWholeOrNotAtAll opens a store while its engine still sends what it has.
func TestALargeTableIsServedWholeOrNotAtAll(t *testing.T) {
	addr := porttest.Hold(t)
	const n = 5000
	e, err := engine.Open(t.Context(), engine.Config{Dir: t.TempDir(), Listen: addr, Token: "secret", Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	table, err := engine.OpenTable[stored](t.Context(), e, tableName, history)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range 50 {
		wg.Go(func() {
			for i := range n / 50 {
				p := Property{Key: fmt.Sprintf("key.%d.%d", w, i), Value: strings.Repeat("v", 1000)}
				if _, err := table.Put(t.Context(), ID(p.Key, p.Scope), stored{Property: p}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for range 3 {
		s := openRemote(t, t.TempDir(), addr)
		eventually(t, "the store is loaded", func() bool {
			got, err := s.Resolve(config.Scope{})
			if err != nil {
				return false
			}
			if len(got.Properties) != n {
				t.Fatalf("the first answer has %d of %d properties", len(got.Properties), n)
			}
			return true
		})
		s.stop()
	}
}

func serveHTTP(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// crash takes the lease away from whoever leads, as if it had died without giving it back: nobody leads until the lease
// is over.
func (c cell) crash(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes { // none shall believe that it leads
		for n.leading.Load() == nil {
			time.Sleep(time.Millisecond)
		}
		defer func() {
			for n.leading.Load() != nil {
				time.Sleep(time.Millisecond)
			}
		}()
	}
	type record struct {
		Holder string        `json:"holder"`
		TTL    time.Duration `json:"ttl"`
	}
	leases, err := engine.OpenTable[record](t.Context(), c.engine, "lease", 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leases.Put(t.Context(), leaseName, record{"somebody who died", leaseLife}); err != nil {
		t.Fatal(err)
	}
}

// TestTheControllerDiesInEveryStage kills the node that steers in each stage a roll-out rests in; another one, which
// either was there or is started with no memory, takes over within ten seconds, and nobody who was reached sees the old
// value meanwhile.
func TestTheControllerDiesInEveryStage(t *testing.T) {
	for _, standby := range []bool{true, false} {
		for _, st := range []stage{{Running, Applying}, {Running, Baking}, {Running, Analysing}, {Paused, ""}, {Paused, Awaiting}, {Paused, Conflict}, {Validated, ""}} {
			t.Run(fmt.Sprintf("%s standby=%v", st, standby), func(t *testing.T) {
				inBubble(t, func(t *testing.T, c cell) {
					first := c.node(t)
					list := web(30)
					first.setFleet(list)
					var second *node
					if standby {
						second = c.node(t)
						second.setFleet(list)
					}
					steps := []Step{
						{Selector: Selector{Instances: 3}, Bake: lasting(time.Minute)},
						{Selector: Selector{Zone: "zone-a"}, Bake: lasting(time.Minute)},
						{Selector: Selector{All: true}, Bake: lasting(time.Minute)},
					}
					if st == (stage{Paused, Awaiting}) {
						steps[1].Approval = ManualApproval
					}
					if st == (stage{Running, Applying}) { // a reader that keeps it waiting
						defer first.meet(asRegistered(list[0]), true)()
					}
					r, err := first.Propose(as(t, "ana"), Rollout{Changes: setTo("k", "new", config.Scope{App: "web"}), Steps: steps})
					if err != nil {
						t.Fatal(err)
					}
					if st != (stage{Validated, ""}) {
						if _, err := first.Command(as(t, "ana"), r.ID, "start"); err != nil {
							t.Fatal(err)
						}
					}
					switch st {
					case stage{Running, Analysing}:
						if _, err := first.Set(as(t, "ana"), Property{Key: freezePrefix + "all", Value: "true", Type: "bool"}, Any); err != nil {
							t.Fatal(err)
						}
					case stage{Paused, ""}:
						if _, err := first.Command(as(t, "ana"), r.ID, "pause"); err != nil {
							t.Fatal(err)
						}
					case stage{Paused, Conflict}:
						if _, err := first.Set(as(t, "eve"), Property{Key: "k", Value: "eve's", Scope: config.Scope{App: "web"}}, Any); err != nil {
							t.Fatal(err)
						}
					}
					first.until(t, r.ID, st)
					reached := first.seen(list, "k", "new")

					c.crash(t)
					first.stop()
					died := time.Now()
					if !standby {
						second = c.node(t)
						second.setFleet(list)
					}
					defer second.stop()
					for second.leading.Load() == nil {
						if now := second.seen(list, "k", "new"); fmt.Sprint(now) != fmt.Sprint(reached) {
							t.Fatalf("with nobody steering %v see it, want %v", now, reached)
						}
						time.Sleep(100 * time.Millisecond)
					}
					if took := time.Since(died); took > leaseLife+time.Second {
						t.Errorf("another node leads after %v, want about %v", took, leaseLife)
					}
					switch st { // what a person has to do goes on as ever
					case stage{Running, Analysing}:
						if err := second.Delete(as(t, "ana"), ID(freezePrefix+"all", config.Scope{}), Any); err != nil {
							t.Fatal(err)
						}
					case stage{Paused, ""}, stage{Paused, Conflict}:
						_, err = second.Command(as(t, "ana"), r.ID, "resume")
					case stage{Paused, Awaiting}:
						_, err = second.Command(as(t, "ana"), r.ID, "approve")
					case stage{Validated, ""}:
						_, err = second.Command(as(t, "ana"), r.ID, "start")
					}
					if err != nil {
						t.Fatal(err)
					}
					for began := time.Now(); !second.over(t, r.ID, began); {
						now := second.seen(list, "k", "new")
						for _, id := range reached {
							if !strings.Contains(fmt.Sprint(now), id) {
								t.Fatalf("%s does not see it any more", id)
							}
						}
						reached = now
						time.Sleep(time.Second)
					}
					if end := second.state(t, r.ID); end.State != Done || len(second.seen(list, "k", "new")) != len(list) {
						t.Errorf("got %s (%s), seen by %d of %d; want DONE and all", end.State, end.Reason, len(second.seen(list, "k", "new")), len(list))
					}
				})
			})
		}
	}
}

// edits are three changes that are as different as changes can be.
func (n *node) edits(t *testing.T) (changes []Edit, before, after map[string]string) {
	t.Helper()
	for key, value := range map[string]string{"replaced": "old", "deleted": "old"} {
		if _, err := n.Set(as(t, "ana"), Property{Key: key, Value: value, Scope: config.Scope{App: "web"}}, Any); err != nil {
			t.Fatal(err)
		}
	}
	return []Edit{
		{Op: SetOp, Record: Property{Key: "replaced", Value: "new", Scope: config.Scope{App: "web"}}},
		{Op: DeleteOp, Record: Property{Key: "deleted", Scope: config.Scope{App: "web"}}},
		{Op: SetOp, Record: Property{Key: "created", Value: "new", Scope: config.Scope{App: "web"}}},
	}, map[string]string{"replaced": "old", "deleted": "old"}, map[string]string{"replaced": "new", "created": "new"}
}

// TestFoldingAndUnfoldingMayBreakOffAnywhere stops after each of the writes by which a roll-out's records are written, or
// put back, has another node do the rest, and watches that nobody ever sees anything else than the whole.
func TestFoldingAndUnfoldingMayBreakOffAnywhere(t *testing.T) {
	for written := range 4 {
		for undone := range 4 {
			if undone > written {
				continue
			}
			t.Run(fmt.Sprintf("%d written %d put back", written, undone), func(t *testing.T) {
				inBubble(t, func(t *testing.T, c cell) {
					n := c.node(t)
					defer n.stop()
					c.crash(t, n) // nobody steers for ten seconds
					changes, before, after := n.edits(t)
					r, err := n.Propose(as(t, "ana"), Rollout{Changes: changes, Steps: []Step{{Selector: Selector{All: true}, Bake: lasting(0)}}})
					if err == nil {
						_, err = n.Command(as(t, "ana"), r.ID, "start")
					}
					if err == nil {
						r, err = n.Command(as(t, "ana"), r.ID, "advance")
					}
					if err != nil || r.State != Folding {
						t.Fatalf("got %s, %v; want FOLDING", r.State, err)
					}
					see := func(when string, want map[string]string) {
						t.Helper()
						got, err := n.Resolve(config.Scope{App: "web"})
						if err != nil || fmt.Sprint(got.Properties) != fmt.Sprint(want) {
							t.Errorf("%s: got %v, %v; want %v", when, got.Properties, err, want)
						}
					}
					see("before a record is written", after)
					part := r
					for i := range written {
						part.Changes = r.Changes[i : i+1]
						if ev, why := n.fold(t.Context(), &part); ev != evFolded {
							t.Fatalf("write %d: %s %s", i, ev, why)
						}
						see(fmt.Sprintf("with %d written", i+1), after)
					}
					want, end := after, Done
					if undone > 0 || written == 2 { // with two written and none put back, the abort alone
						want, end = before, RolledBack
						if r, err = n.Command(as(t, "bob"), r.ID, "abort"); err != nil || r.State != Unfolding {
							t.Fatalf("abort: got %s, %v; want UNFOLDING", r.State, err)
						}
						see("after the abort", before)
						part = r
						for i := range undone {
							part.Changes = r.Changes[i : i+1]
							if ev, why := n.unfold(t.Context(), &part); ev != evUnfolded {
								t.Fatalf("put back %d: %s %s", i, ev, why)
							}
							see(fmt.Sprintf("with %d put back", i+1), before)
						}
					}
					for began := time.Now(); !n.over(t, r.ID, began); {
						see("while another node goes on", want)
						time.Sleep(time.Second)
					}
					if got := n.state(t, r.ID); got.State != end {
						t.Errorf("got %s (%s), want %s", got.State, got.Reason, end)
					}
					see("in the end", want)
					for key, value := range want {
						if p, ok := n.current(ID(key, config.Scope{App: "web"})); !ok || p.Value != value {
							t.Errorf("the record of %s: got %+v, want %s", key, p, value)
						}
					}
				})
			})
		}
	}
}

func TestAConflictWhileFoldingStopsIt(t *testing.T) {
	for _, then := range []string{"resume", "abort"} {
		t.Run(then, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c cell) {
				n := c.node(t)
				defer n.stop()
				changes, before, after := n.edits(t)
				r, err := n.Propose(as(t, "ana"), Rollout{Changes: changes, Steps: []Step{{Selector: Selector{All: true}, Bake: lasting(time.Minute)}}})
				if err == nil {
					_, err = n.Command(as(t, "ana"), r.ID, "start")
				}
				if err != nil {
					t.Fatal(err)
				}
				// Somebody creates what the last change is to create: the first two are written by then.
				if _, err := n.Set(as(t, "eve"), Property{Key: "created", Value: "eve's", Scope: config.Scope{App: "web"}}, Any); err != nil {
					t.Fatal(err)
				}
				r = n.until(t, r.ID, stage{Paused, Conflict})
				if !strings.Contains(r.Reason, "created") || !strings.Contains(r.Reason, "eve") {
					t.Errorf("the reason is %q, want what conflicts and who", r.Reason)
				}
				if got, err := n.Resolve(config.Scope{App: "web"}); err != nil || fmt.Sprint(got.Properties) != fmt.Sprint(after) {
					t.Errorf("in conflict: got %v, %v; want %v still", got.Properties, err, after)
				}
				if _, err := n.Command(as(t, "ana"), r.ID, then); err != nil {
					t.Fatal(err)
				}
				want, end := after, Done
				if then == "abort" {
					before["created"] = "eve's"
					want, end = before, RolledBack
				}
				n.until(t, r.ID, stage{end, ""})
				if got, err := n.Resolve(config.Scope{App: "web"}); err != nil || fmt.Sprint(got.Properties) != fmt.Sprint(want) {
					t.Errorf("after %s: got %v, %v; want %v", then, got.Properties, err, want)
				}
			})
		})
	}
}

// TestTwoControllersAtOnceDoNoHarm makes two nodes believe that they lead.
func TestTwoControllersAtOnceDoNoHarm(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		a, b := c.node(t), c.node(t)
		defer a.stop()
		defer b.stop()
		list := web(30)
		a.setFleet(list)
		b.setFleet(list)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		changes, _, after := a.edits(t)
		r, err := a.Propose(as(t, "ana"), Rollout{Changes: changes, Steps: []Step{{Selector: Selector{Percent: 30}, Bake: lasting(10 * time.Second)}, {Selector: Selector{Zone: "zone-b"}, Bake: lasting(10 * time.Second)}}})
		if err == nil {
			_, err = a.Command(as(t, "ana"), r.ID, "start")
		}
		if err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); !a.over(t, r.ID, began); {
			var wg sync.WaitGroup
			for _, n := range []*node{a, b} {
				wg.Go(func() {
					n.steering.Lock()
					defer n.steering.Unlock()
					n.steer(ctx, time.Now())
				})
			}
			wg.Wait()
			time.Sleep(300 * time.Millisecond)
		}
		end := a.state(t, r.ID)
		var path []string
		for _, p := range end.History {
			path = append(path, p.Event)
		}
		const want = "validate start applied baked passed applied baked passed applied baked passed folded"
		if got := strings.Join(path, " "); got != want || end.State != Done {
			t.Errorf("got %s by %s, want DONE by %s", end.State, got, want)
		}
		if got, err := b.Resolve(config.Scope{App: "web"}); err != nil || fmt.Sprint(got.Properties) != fmt.Sprint(after) {
			t.Errorf("in the end: got %v, %v; want %v", got.Properties, err, after)
		}
	})
}

func TestOfTwoThatBeganAtOnceTheLaterGoesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		a, b := c.node(t), c.node(t)
		defer a.stop()
		defer b.stop()
		var made []Rollout
		for _, n := range []*node{a, b} {
			r, err := n.Propose(as(t, "ana"), Rollout{Changes: setTo("k", fmt.Sprint(len(made)), config.Scope{App: "web"})})
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, r)
			time.Sleep(time.Millisecond)
		}
		// As if each had started before its node heard of the other.
		for i, n := range []*node{a, b} {
			if _, err := n.move(t.Context(), made[i], evStart, "ana", ""); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		end := a.until(t, made[1].ID, stage{RolledBack, ""})
		if !strings.Contains(end.Reason, made[0].ID) {
			t.Errorf("the second went back for %q, want the first's id", end.Reason)
		}
		if first := a.state(t, made[0].ID); first.State != Running {
			t.Errorf("the first is %s, want RUNNING", first.State)
		}
	})
}
