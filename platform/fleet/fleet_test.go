package fleet

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
)

func ana() context.Context { return api.As(context.Background(), "ana", "test") }

func TestLostInstanceIsReplacedInItsZoneAndSlot(t *testing.T) {
	l := newLab(t, labOptions{})
	g := l.create(l.service("hello", 3))
	before := l.settled(g.Name, 3, StateUp)
	if err := syscall.Kill(before[1].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.until("another life of slot 1", func() bool {
		v := l.f.groups[g.Name].slots[1].view
		return v.State == StateUp && v.ID != before[1].ID
	})
	after := l.f.Instances(g.Name)
	for i := range 3 {
		if after[i].Zone != before[i].Zone || after[i].Slot != i || after[i].Port != before[i].Port {
			t.Errorf("slot %d: got %+v, want zone, slot and port of %+v", i, after[i], before[i])
		}
	}
	if after[0].ID != before[0].ID || after[2].ID != before[2].ID {
		t.Errorf("the others were touched: %+v became %+v", before, after)
	}
	if e := after[1].LastExit; e == nil || e.Signal != "KILL" || after[1].Restarts != 1 {
		t.Errorf("slot 1: got last exit %+v and %d restarts, want signal KILL and 1", e, after[1].Restarts)
	}
	l.stop()
	cs := l.changes("instance.restart")
	if len(cs) != 1 || cs[0].Actor != "fleet" || cs[0].Resource != "instance:"+after[1].ID || !strings.Contains(cs[0].Why, "signal KILL") {
		t.Errorf("ledger: got %+v, want one restart of %s by fleet for signal KILL", cs, after[1].ID)
	}
}

func TestZonesDifferByAtMostOneAtAnySize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zones := []string{"zone-a", "zone-b", "zone-c", "zone-d"}[:rapid.IntRange(1, 4).Draw(t, "zones")]
		n := rapid.IntRange(0, maxInstances).Draw(t, "instances")
		count := make(map[string]int)
		for slot := range n {
			count[zoneOf(zones, slot)]++
		}
		for _, a := range zones {
			for _, b := range zones {
				if count[a]-count[b] > 1 {
					t.Fatalf("%d instances in %v: got %v, want a difference of at most 1", n, zones, count)
				}
			}
		}
	})
}

func TestSmallGroupsDoNotCrowdIntoOneZone(t *testing.T) {
	l := newLab(t, labOptions{})
	used := make(map[string]int)
	for _, n := range []string{"a", "b", "c", "d", "e", "f"} {
		used[l.create(Spec{Name: n, Command: []string{"sleep", "1000"}}).Zones[0]]++
	}
	for z, n := range used {
		if n != 2 {
			t.Errorf("%s: got %d of six single instances, want 2: %v", z, n, used)
		}
	}
}

func TestSameGroupsAndCountsComeBackAfterARestart(t *testing.T) {
	dir := t.TempDir()
	l := newLab(t, labOptions{dir: dir})
	l.create(l.service("hello", 2))
	l.create(l.service("other-prod", 1))
	if _, err := l.f.Resize(ana(), "hello-v000", Resize{Desired: new(3)}); err != nil {
		t.Fatal(err)
	}
	before := l.settled("hello-v000", 3, StateUp)
	l.settled("other-prod-v000", 1, StateUp)
	l.stop()
	for _, v := range before {
		if alive(v.PID) {
			t.Errorf("%s still runs after the fleet ended", v.ID)
		}
	}
	l.engine.Close()
	l = newLab(t, labOptions{dir: dir})
	after := l.settled("hello-v000", 3, StateUp)
	l.settled("other-prod-v000", 1, StateUp)
	for i := range after {
		if after[i].Zone != before[i].Zone {
			t.Errorf("slot %d came back in %s, was in %s", i, after[i].Zone, before[i].Zone)
		}
	}
	if got := len(l.f.Instances("")); got != 4 {
		t.Errorf("got %d instances, want 4", got)
	}
}

func TestCrashLoopIsShownWithTheLastLinesAndDoesNotFlood(t *testing.T) {
	l := newLab(t, labOptions{})
	g := l.create(Spec{Name: "broken", Command: []string{"sh", "-c", "echo no database; exit 3"}})
	l.until("a crash loop", func() bool {
		s := l.f.groups[g.Name].slots[0]
		return s != nil && s.view.State == StateCrashLoop
	})
	v := l.f.Instances(g.Name)[0]
	for _, want := range []string{"3 times in a row", "exited with code 3", "next start in 2s", "no database"} {
		if !strings.Contains(v.Health, want) {
			t.Errorf("reason: got %q, want it to say %q", v.Health, want)
		}
	}
	if v.LastExit == nil || v.LastExit.Code != 3 || !slices.Equal(v.LastExit.Log, []string{"no database"}) {
		t.Errorf("last exit: got %+v, want code 3 and the log's last line", v.LastExit)
	}
	l.stop()
	if got := len(l.changes("instance.restart")) + len(l.changes("instance.crashLoop")); got != 2 {
		t.Errorf("ledger: got %d entries for three losses, want a restart and a crash loop", got)
	}
	if c := l.changes("instance.crashLoop"); len(c) != 1 || !strings.Contains(c[0].Why, "no database") {
		t.Errorf("ledger: got %+v, want the crash loop with its reason", c)
	}
}

func TestInstanceIsStartingUntilHealthyAndDownWhileSick(t *testing.T) {
	l := newLab(t, labOptions{registry: true})
	sick := filepath.Join(l.dir, "sick")
	if err := os.WriteFile(sick, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := l.service("hello", 1)
	s.Env = map[string]string{"SICK": sick}
	g := l.create(s)
	l.until("it says it is not well", func() bool {
		s := l.f.groups[g.Name].slots[0]
		return s != nil && s.view.Health == "GET /healthcheck answers 503"
	})
	id := l.settled(g.Name, 1, StateStarting)[0].ID
	l.inRegistry(id, roadbed.Starting)
	os.Remove(sick)
	l.settled(g.Name, 1, StateUp)
	l.inRegistry(id, roadbed.Up)
	if err := os.WriteFile(sick, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.settled(g.Name, 1, StateDown)
	l.inRegistry(id, roadbed.Down)
	os.Remove(sick)
	l.settled(g.Name, 1, StateUp)
	l.inRegistry(id, roadbed.Up)
	if v := l.f.Instances("")[0]; v.ID != id || v.Restarts != 0 {
		t.Errorf("got %s with %d restarts; want %s still: an instance that answers badly is not restarted", v.ID, v.Restarts, id)
	}
}

// inRegistry waits until the registry shows an instance with a status, "" for not at all.
func (l *lab) inRegistry(id string, want roadbed.Status) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("%s is %q in the registry", id, want), func() bool { return l.statusOf(id) == want })
}

func (l *lab) statusOf(id string) roadbed.Status {
	for _, i := range l.disc.Instances("") {
		if i.ID == id {
			return i.Status
		}
	}
	return ""
}

func TestInstanceThatDoesNotAnswerIsRestarted(t *testing.T) {
	p := quick()
	p.probeTimeout, p.deadAfter = 500*time.Millisecond, 3
	l := newLab(t, labOptions{pace: p})
	g := l.create(l.service("hello", 1))
	v := l.settled(g.Name, 1, StateUp)[0]
	if _, err := l.f.Kill(ana(), v.ID, "STOP", ""); err != nil {
		t.Fatal(err)
	}
	l.until("another life", func() bool {
		now := l.f.groups[g.Name].slots[0].view
		return now.State == StateUp && now.ID != v.ID
	})
	if alive(v.PID) {
		t.Errorf("process %d still runs", v.PID)
	}
	l.stop()
	if c := l.changes("instance.restart"); len(c) != 1 || !strings.Contains(c[0].Why, "did not answer 3 times in a row") {
		t.Errorf("ledger: got %+v, want a restart because it did not answer", c)
	}
}

func TestInstanceThatNeverGetsWellIsRestarted(t *testing.T) {
	p := quick()
	p.startGrace = 100 * time.Millisecond
	l := newLab(t, labOptions{pace: p})
	g := l.create(Spec{Name: "mute", Command: []string{"sleep", "1000"}})
	l.until("a second life", func() bool {
		s := l.f.groups[g.Name].slots[0]
		return s != nil && s.view.Restarts > 0 && strings.Contains(s.view.LastExit.Why, "signal TERM")
	})
}

func TestStopIsGracefulAndThenFirm(t *testing.T) {
	impatient := quick()
	impatient.killWait = 300 * time.Millisecond
	stopped := func(name string, p pace) *Exit {
		l := newLab(t, labOptions{pace: p})
		g := l.create(l.service(name, 1, name))
		v := l.settled(g.Name, 1, StateUp)[0]
		if _, err := l.f.Kill(ana(), v.ID, "", ""); err != nil {
			t.Fatal(err)
		}
		l.until("the next life of "+name, func() bool {
			now := l.f.groups[g.Name].slots[0].view
			return now.State == StateUp && now.ID != v.ID
		})
		return l.f.Instances(g.Name)[0].LastExit
	}
	if e := stopped("polite", quick()); e.Code != 0 || e.Log[len(e.Log)-1] != "bye" {
		t.Errorf("polite: got %+v, want code 0 and a last word", e)
	}
	if e := stopped("deaf", impatient); e.Signal != "KILL" || e.Ran < impatient.killWait.Seconds() {
		t.Errorf("deaf: got %+v, want KILL after %v", e, impatient.killWait)
	}
}

func TestWrongPortIsExplained(t *testing.T) {
	if len(listening(os.Getpid())) == 0 && bootID() == "" {
		t.Log("only Linux can see where a process listens")
		return
	}
	l := newLab(t, labOptions{})
	g := l.create(l.service("hello", 1, "elsewhere"))
	l.until("the explanation", func() bool {
		s := l.f.groups[g.Name].slots[0]
		return s != nil && strings.Contains(s.view.Health, "; pass {port} or read $PORT")
	})
	v := l.f.Instances(g.Name)[0]
	lines, _ := l.f.groups[g.Name].slots[0].log.tail(1)
	_, port, _ := strings.Cut(lines[0], "127.0.0.1:")
	want := fmt.Sprintf("hello-v000-0 does not answer on port %d but listens on %s; pass {port} or read $PORT", v.Port, port)
	if v.Health != want || v.State != StateStarting {
		t.Errorf("got %s, %q; want STARTING, %q", v.State, v.Health, want)
	}
}

func TestTakenPortIsToldBeforeStartAndSkippedInARange(t *testing.T) {
	l := newLab(t, labOptions{})
	taken, err := net.Listen("tcp", "127.0.0.1:"+fmt.Sprint(l.f.c.Ports.First))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	g := l.create(l.service("hello", 1))
	if got := l.settled(g.Name, 1, StateUp)[0].Port; got != l.f.c.Ports.First+1 {
		t.Errorf("port from the range: got %d, want the next free one, %d", got, l.f.c.Ports.First+1)
	}
	s := l.service("fixed", 1)
	s.Port = l.f.c.Ports.First
	_, err = l.f.Create(ana(), s)
	if want := fmt.Sprintf("port %d is taken by ", s.Port); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a taken port: got %v, want %q", err, want)
	}
	s.Port++
	_, err = l.f.Create(ana(), s)
	if err == nil || !strings.Contains(err.Error(), "belongs to hello-v000-0") {
		t.Errorf("a port of ours: got %v, want it to name hello-v000-0", err)
	}
	// One that is taken later prevents a start, which says so and is tried again.
	s.Port = l.f.c.Ports.First + 50
	g = l.create(s)
	l.settled(g.Name, 1, StateUp)
	later, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.Port+1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.f.Resize(ana(), g.Name, Resize{Desired: new(2)}); err != nil {
		t.Fatal(err)
	}
	l.until("the reason", func() bool {
		x := l.f.groups[g.Name].slots[1]
		return x != nil && x.view.State == StateWaiting && strings.Contains(x.view.Health, fmt.Sprintf("fixed-v000-1 cannot be started: port %d is taken by ", s.Port+1))
	})
	later.Close()
	l.settled(g.Name, 2, StateUp)
}

func TestResizeAddsAndRemovesFromTheTop(t *testing.T) {
	l := newLab(t, labOptions{})
	g := l.create(l.service("hello", 2))
	before := l.settled(g.Name, 2, StateUp)
	for _, n := range []int{5, 1, 3, 0, 2} {
		got, err := l.f.Resize(ana(), g.Name, Resize{Desired: &n})
		if err != nil || got.Capacity.Desired != n {
			t.Fatalf("resize to %d: got %+v, %v", n, got.Capacity, err)
		}
		after := l.settled(g.Name, n, StateUp)
		if n > 0 && n < 3 && before != nil && len(before) > 0 && n != 2 && after[0].ID != before[0].ID {
			t.Errorf("resize to %d replaced slot 0: %s became %s", n, before[0].ID, after[0].ID)
		}
	}
	cs := l.changes("serverGroup.resize")
	if len(cs) != 5 || cs[0].Actor != "ana" || len(cs[0].Before) == 0 || len(cs[0].After) == 0 {
		t.Errorf("ledger: got %d entries, first %+v; want 5 by ana with before and after", len(cs), cs[0])
	}
	for _, r := range []Resize{{Desired: new(-1)}, {Min: new(3)}, {Max: new(1)}, {Desired: new(maxInstances + 1), Max: new(maxInstances + 1)}} {
		if _, err := l.f.Resize(ana(), g.Name, r); status(err) != 422 {
			t.Errorf("resize %+v: got %v, want a 422", r, err)
		}
	}
}

func status(err error) int {
	if s, ok := err.(interface{ GetStatus() int }); ok {
		return s.GetStatus()
	}
	return 0
}

func TestDisableIsAStatusOverrideAndHoldsForNewInstances(t *testing.T) {
	l := newLab(t, labOptions{registry: true})
	s := l.service("hello", 2)
	g := l.create(s)
	for _, v := range l.settled(g.Name, 2, StateUp) {
		l.inRegistry(v.ID, roadbed.Up)
	}
	if _, err := l.f.SetDisabled(ana(), g.Name, true, ""); err != nil {
		t.Fatal(err)
	}
	for _, v := range l.f.Instances(g.Name) {
		if !v.OutOfService || v.State != StateUp {
			t.Errorf("after disable: got %+v, want UP and out of service", v)
		}
		l.inRegistry(v.ID, roadbed.OutOfService)
	}
	// Neither a new slot nor a new life may be UP in the registry, not for a moment.
	seen := make(chan roadbed.Instance, 100)
	known := map[string]bool{}
	for _, v := range l.f.Instances(g.Name) {
		known[v.ID] = true
	}
	unwatch := l.disc.Watch("hello", func(list []roadbed.Instance) {
		for _, i := range list {
			if i.Status == roadbed.Up && !known[i.ID] {
				seen <- i
			}
		}
	})
	if _, err := l.f.Resize(ana(), g.Name, Resize{Desired: new(3)}); err != nil {
		t.Fatal(err)
	}
	killed, err := l.f.Kill(ana(), g.Name+"-0", "KILL", "")
	if err != nil {
		t.Fatal(err)
	}
	l.until("the next life of slot 0", func() bool { return l.f.groups[g.Name].slots[0].view.ID != killed.ID })
	for _, v := range l.settled(g.Name, 3, StateUp) {
		l.inRegistry(v.ID, roadbed.OutOfService)
	}
	unwatch()
	select {
	case i := <-seen:
		t.Errorf("%s of a disabled group was UP in the registry", i.ID)
	default:
	}
	if _, err := l.f.SetDisabled(ana(), g.Name, false, ""); err != nil {
		t.Fatal(err)
	}
	for _, v := range l.f.Instances(g.Name) {
		l.inRegistry(v.ID, roadbed.Up)
	}
}

func TestKilledInstanceLeavesTheRegistryAtOnce(t *testing.T) {
	l := newLab(t, labOptions{registry: true})
	g := l.create(l.service("hello", 2))
	quickest := time.Hour // of several, for the machine may be busy
	for range 5 {
		v := l.settled(g.Name, 2, StateUp)[1]
		l.inRegistry(v.ID, roadbed.Up)
		gone := make(chan time.Time, 100)
		unwatch := l.disc.Watch("hello", func(list []roadbed.Instance) {
			if !slices.ContainsFunc(list, func(i roadbed.Instance) bool { return i.ID == v.ID }) {
				gone <- time.Now()
			}
		})
		began := time.Now()
		if _, err := l.f.Kill(ana(), v.ID, "KILL", ""); err != nil {
			t.Fatal(err)
		}
		select {
		case at := <-gone:
			quickest = min(quickest, at.Sub(began))
		case <-time.After(30 * time.Second):
			t.Fatalf("%s is still in the registry 30 s after its death", v.ID)
		}
		unwatch()
		l.until("the next life", func() bool {
			now := l.f.groups[g.Name].slots[1].view
			return now.ID != v.ID && now.State == StateUp
		})
	}
	t.Logf("quickest of 5: %v", quickest)
	if quickest > time.Second { // the promise is 100 ms; a loaded machine gets grace
		t.Errorf("each of five killed instances stayed in the registry for %v or longer", quickest)
	}
}

func TestSelfRegisteredInstanceIsRemovedWhenItsProcessEnds(t *testing.T) {
	l := newLab(t, labOptions{registry: true})
	s := l.service("hello", 1)
	s.Register = RegisterSelf
	g := l.create(s)
	v := l.settled(g.Name, 1, StateUp)[0]
	if got := l.statusOf(v.ID); got != "" {
		t.Errorf("the fleet registered %s as %s; with register self that is the process's part", v.ID, got)
	}
	l.disc.Register(roadbed.Instance{ID: v.ID, App: "hello", Host: "127.0.0.1", Port: v.Port, Status: roadbed.Up}) // as the process would
	l.inRegistry(v.ID, roadbed.Up)
	if _, err := l.f.SetDisabled(ana(), g.Name, true, ""); err != nil {
		t.Fatal(err)
	}
	l.inRegistry(v.ID, roadbed.OutOfService)
	if _, err := l.f.Kill(ana(), v.ID, "KILL", ""); err != nil {
		t.Fatal(err)
	}
	l.inRegistry(v.ID, "")
}

func TestDestroyLeavesNothing(t *testing.T) {
	l := newLab(t, labOptions{registry: true})
	g := l.create(l.service("hello", 2))
	vs := l.settled(g.Name, 2, StateUp)
	if err := l.f.Destroy(ana(), g.Name, "tidy"); err != nil {
		t.Fatal(err)
	}
	l.settled(g.Name, 0, "")
	for _, v := range vs {
		if alive(v.PID) {
			t.Errorf("%s still runs", v.ID)
		}
		l.inRegistry(v.ID, "")
	}
	for _, dir := range []string{"logs", "run", "cache"} {
		left, err := os.ReadDir(filepath.Join(l.f.c.Dir, dir))
		if err != nil || len(left) != 0 {
			t.Errorf("%s: got %v, %v; want nothing left", dir, left, err)
		}
	}
	if c := l.changes("serverGroup.destroy"); len(c) != 1 || c[0].Why != "tidy" || len(c[0].Before) == 0 || len(c[0].After) != 0 {
		t.Errorf("ledger: got %+v, want one destroy with before and without after", c)
	}
}

func TestSelfHealingNeedsNoEngineAndMutationsAreRefused(t *testing.T) {
	l := newLab(t, labOptions{})
	g := l.create(l.service("hello", 2))
	before := l.settled(g.Name, 2, StateUp)
	l.engine.Close()
	syscall.Kill(before[0].PID, syscall.SIGKILL)
	l.until("it is healed", func() bool {
		v := l.f.groups[g.Name].slots[0].view
		return v.State == StateUp && v.ID != before[0].ID
	})
	if _, err := l.f.Resize(ana(), g.Name, Resize{Desired: new(3)}); status(err) != 503 {
		t.Errorf("resize without the engine: got %v, want a 503", err)
	}
	if _, err := l.f.Create(ana(), l.service("other", 1)); status(err) != 503 {
		t.Errorf("create without the engine: got %v, want a 503", err)
	}
	if got := len(l.f.Instances("")); got != 2 {
		t.Errorf("got %d instances, want 2", got)
	}
}

func TestReplaceStartsTheNextVersionFirst(t *testing.T) {
	l := newLab(t, labOptions{})
	l.create(l.service("hello", 2))
	old := l.settled("hello-v000", 2, StateUp)
	if _, err := l.f.Create(ana(), l.service("hello", 2)); status(err) != 409 || !strings.Contains(err.Error(), "hello-v000") {
		t.Errorf("a second hello: got %v, want a 409 that names hello-v000", err)
	}
	sick := filepath.Join(l.dir, "sick")
	if err := os.WriteFile(sick, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := l.service("hello", 2)
	s.Replace, s.Env = true, map[string]string{"SICK": sick}
	g := l.create(s)
	if g.Name != "hello-v001" || g.Replaces != "hello-v000" {
		t.Fatalf("got %s, replacing %s; want hello-v001, replacing hello-v000", g.Name, g.Replaces)
	}
	l.settled("hello-v001", 2, StateStarting)
	if now := l.settled("hello-v000", 2, StateUp); now[0].ID != old[0].ID {
		t.Errorf("the old version was touched before the new one was healthy")
	}
	os.Remove(sick)
	l.settled("hello-v001", 2, StateUp)
	l.settled("hello-v000", 0, "")
	if c := l.changes("serverGroup.destroy"); len(c) != 1 || c[0].Actor != "fleet" || c[0].Why != "replaced by hello-v001" {
		t.Errorf("ledger: got %+v, want one destroy by fleet", c)
	}
}

func TestReplaceOfAFixedPortMakesRoomFirst(t *testing.T) {
	l := newLab(t, labOptions{})
	s := l.service("hello", 2)
	s.Port = l.f.c.Ports.First + 20
	l.create(s)
	l.settled("hello-v000", 2, StateUp)
	s.Replace = true
	l.create(s)
	vs := l.settled("hello-v001", 2, StateUp)
	if vs[0].Port != s.Port || vs[1].Port != s.Port+1 {
		t.Errorf("ports: got %d and %d, want %d and %d", vs[0].Port, vs[1].Port, s.Port, s.Port+1)
	}
	l.settled("hello-v000", 0, "")
}

func TestOneFleetPerDirectory(t *testing.T) {
	l := newLab(t, labOptions{})
	second, err := New(context.Background(), l.f.c)
	if err != nil {
		t.Fatal(err)
	}
	err = second.Run(context.Background())
	if want := fmt.Sprintf("process %d runs instances from", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

// TestFleetFollowsItsTable does random things to a fleet of real processes and asks after each that what runs is what
// the table says.
func TestFleetFollowsItsTable(t *testing.T) {
	l := newLab(t, labOptions{})
	ctx := ana()
	names := []string{"a", "b"}
	rapid.Check(t, func(t *rapid.T) {
		want := make(map[string]int) // by server group
		defer func() {
			for g := range want {
				l.f.Destroy(ctx, g, "")
			}
			l.until("all gone", func() bool { return len(l.f.groups) == 0 })
		}()
		check := func() {
			l.until(fmt.Sprintf("what runs is %v", want), func() bool {
				if len(l.f.groups) != len(want) {
					return false
				}
				for g, n := range want {
					x := l.f.groups[g]
					if x == nil || len(x.slots) != n {
						return false
					}
					zones := make(map[string]int)
					for i := range n {
						s := x.slots[i]
						if s == nil || s.stopping || s.proc == nil || !alive(s.proc.pid) {
							return false
						}
						zones[s.zone]++
					}
					for _, z := range l.f.c.Zones {
						if n/3 > zones[z] || zones[z] > (n+2)/3 {
							t.Fatalf("%s: %d instances spread as %v", g, n, zones)
						}
					}
				}
				return true
			})
		}
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			name := rapid.SampledFrom(names).Draw(t, "cluster")
			var group string
			for g := range want {
				if strings.HasPrefix(g, name+"-") {
					group = g
				}
			}
			n := rapid.IntRange(0, 4).Draw(t, "n")
			switch op := rapid.SampledFrom([]string{"create", "resize", "destroy", "kill", "disable", "enable"}).Draw(t, "op"); {
			case op == "create":
				g, err := l.f.Create(ctx, Spec{Name: name, Command: []string{"sleep", "1000"}, Instances: max(n, 1)})
				if (err == nil) != (group == "" || want[group] == 0) {
					t.Fatalf("create %s while %v: %v", name, want, err)
				}
				if err == nil {
					want[g.Name] = max(n, 1)
				}
			case group == "":
			case op == "resize":
				if _, err := l.f.Resize(ctx, group, Resize{Desired: &n}); err != nil {
					t.Fatal(err)
				}
				want[group] = n
			case op == "destroy":
				if err := l.f.Destroy(ctx, group, ""); err != nil {
					t.Fatal(err)
				}
				delete(want, group)
			case op == "kill":
				for _, v := range l.f.Instances(group) {
					if v.PID != 0 && v.Slot == n {
						l.f.Kill(ctx, v.ID, "KILL", "") // it may have gone meanwhile
					}
				}
			default:
				g, err := l.f.SetDisabled(ctx, group, op == "disable", "")
				if err != nil || g.Disabled != (op == "disable") {
					t.Fatalf("%s %s: got %v, %v", op, group, g.Disabled, err)
				}
			}
			if rapid.Bool().Draw(t, "settle") {
				check()
			}
		}
		check()
	})
}
