package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/examples/streaming"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/fleet"
	"github.com/roadbed/roadbed/platform/registry"
)

// What must be seen: members load the demo while things are broken on purpose. These are the short forms; `make soak`
// runs the long ones.

const (
	loadRPS = 300
	bar     = 99.9 // percent of browse-and-play that must succeed
)

// long returns the short duration, or the long one under -soak.
func long(short, soaked time.Duration) time.Duration {
	if *soak {
		return soaked
	}
	return short
}

// TestSeen starts the demo once and breaks it in every way, one after the other.
func TestSeen(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	offset := freeOffset(t)
	began := time.Now()
	p, err := startPlatform(state, offset, "up", "--demo")
	if err != nil {
		t.Fatal(err)
	}
	d := &demo{t: t, testPlatform: p, state: state}
	t.Cleanup(func() {
		if err := d.stop(); err != nil {
			t.Error(err)
		}
		d.nothingLeft()
	})
	d.healthy(40 * time.Second)
	t.Logf("demo healthy after %.1f s", time.Since(began).Seconds())
	d.cli("demo", "load", "--rps", fmt.Sprint(loadRPS))
	d.loaded()

	ok := t.Run("1 instances killed at random", func(t *testing.T) { d.with(t).killsInstances() }) &&
		t.Run("2 everything not critical blacked out", func(t *testing.T) { d.with(t).blackout() }) &&
		t.Run("3 a zone killed", func(t *testing.T) { d.with(t).killsZone() }) &&
		t.Run("5 the whole platform killed", func(t *testing.T) { d.with(t).killsPlatform() })
	if !ok {
		t.Logf("the platform printed:\n%s", d.out)
	}
}

// TestSeenControlRoomsStopped is the fourth: traffic goes on from what edge and services last knew.
func TestSeenControlRoomsStopped(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	offset := freeOffset(t)
	port := func(p int) string { return fmt.Sprint(p) }
	at := func(p int) string { return fmt.Sprintf("http://127.0.0.1:%d", p+offset) }
	start := func(args ...string) *testPlatform {
		t.Helper()
		p, err := startPlatform(state, offset, append([]string{"serve"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.stop(); err != nil {
				t.Error(err)
			}
		})
		return p
	}
	control := start("--roles", "engine,registry,properties,telemetry,console", "--api-of", "fleet="+at(7072), "--api-of", "edge="+at(7071))
	start("--roles", "edge", "--api-port", port(7071))
	start("--roles", "fleet", "--api-port", port(7072))

	d := &demo{t: t, testPlatform: control, state: state}
	if err := startDemo(t.Context(), &syncBuffer{}, control.client); err != nil {
		t.Fatal(err)
	}
	d.healthy(40 * time.Second)
	d.cli("demo", "load", "--rps", fmt.Sprint(loadRPS))
	d.loaded()
	members := d.population()

	if *soak {
		control.crash() // the worst way to go
	} else if err := control.stop(); err != nil {
		t.Fatal(err)
	}
	d.reset(members)
	time.Sleep(long(10*time.Second, 10*time.Minute))
	got := d.report(members)
	d.judge("with every control room stopped", got)
	if got.Total.Requests < int64(loadRPS*got.Total.Seconds*0.9) {
		t.Errorf("members made %d requests in %.0f s, want about %d a second", got.Total.Requests, got.Total.Seconds, loadRPS)
	}

	// With the control rooms back everything is as before, and members do not notice that either.
	back := start("--roles", "engine,registry,properties,telemetry,console", "--api-of", "fleet="+at(7072), "--api-of", "edge="+at(7071))
	d.testPlatform = back
	d.reset(members)
	d.eventually(40*time.Second, "every instance is in the new registry", func() error { return d.registered() })
	time.Sleep(5 * time.Second)
	d.judge("while the control rooms came back", d.report(members))
}

// demo is a platform with the streaming service on it.
type demo struct {
	*testPlatform
	t     *testing.T
	state string
}

func (d *demo) with(t *testing.T) *demo {
	return &demo{t: t, testPlatform: d.testPlatform, state: d.state}
}

func (d *demo) killsInstances() {
	kills := 10
	if *soak {
		kills = 100
	}
	members := d.population()
	d.reset(members)
	for range kills {
		victim := d.victim(func(fleet.InstanceView) bool { return true })
		d.cli("kill", victim, "--why", "a test")
		// The console shows the loss, then the recovery.
		d.eventually(10*time.Second, "the loss of "+victim+" is seen", func() error {
			for _, i := range d.instances() {
				if i.ID == victim && i.State == fleet.StateUp {
					return fmt.Errorf("%s is still shown healthy", victim)
				}
			}
			return nil
		})
		d.healthy(20 * time.Second)
		time.Sleep(500 * time.Millisecond) // members notice late what they notice
	}
	d.judge(fmt.Sprintf("over %d kills", kills), d.report(members))
}

func (d *demo) blackout() {
	members := d.population()
	d.cli("fault", "add", "--non-critical", "--error", "503", "--for", "5m", "--why", "can members live without?")
	time.Sleep(2 * time.Second) // the fault reaches the edge by a push; requests that began before it still end
	d.reset(members)
	time.Sleep(long(8*time.Second, 2*time.Minute))
	got := d.report(members)
	d.judge("with everything not critical failing", got)
	// Browsing needs only critical services; every home page and every play must show a fallback.
	need := got.Total.Steps["home"].Succeeded + got.Total.Steps["play"].Succeeded
	if need == 0 || got.Total.WithFallback < need*99/100 {
		d.t.Errorf("%d of %d home pages and plays had a fallback, want all: the blackout did not reach the services", got.Total.WithFallback, need)
	}
	if page := d.page(); !strings.Contains(page, "recommendations") {
		d.t.Errorf("the home page does not tell that recommendations are a fallback:\n%.2000s", page)
	}
	d.eventually(20*time.Second, "the service graph shows the failures", func() error { return d.edgeFails("recommendations") })

	d.cli("fault", "remove", "--all")
	d.eventually(10*time.Second, "fallbacks end once the fault is removed", func() error {
		d.reset(members)
		time.Sleep(time.Second)
		if got := d.report(members).Total; got.WithFallback > 0 || got.Requests == 0 {
			return fmt.Errorf("%d of %d answers still had fallbacks", got.WithFallback, got.Requests)
		}
		return nil
	})
}

func (d *demo) killsZone() {
	members := d.population()
	for _, i := range d.instances() {
		if i.Zone == "zone-b" && i.App != streaming.PopulationName {
			d.cli("kill", i.ID, "--why", "zone-b is gone")
		}
	}
	time.Sleep(5 * time.Second)
	d.reset(members)
	time.Sleep(long(8*time.Second, 2*time.Minute))
	d.judge("from five seconds after a zone was killed", d.report(members))
	d.healthy(40 * time.Second)
}

func (d *demo) killsPlatform() {
	d.cli("config", "set", "a.property.to.remember", "42", "--type", "int", "--why", "survives kill -9")
	before := d.changes()
	groups := d.groupNames()
	d.crash()
	d.eventually(5*time.Second, "no instance outlives the platform", func() error {
		left, err := processes(d.state)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d processes are still there: %v", len(left), left)
		}
		return err
	})

	p, err := startPlatform(d.state, d.offset, "up", "--demo")
	if err != nil {
		d.t.Fatal(err)
	}
	*d.testPlatform = *p
	d.healthy(40 * time.Second)
	if got := d.groupNames(); !slices.Equal(got, groups) {
		d.t.Errorf("server groups after the crash: got %v, want %v", got, groups)
	}
	if got := strings.TrimSpace(d.cli("config", "get", "a.property.to.remember")); got != "42" {
		d.t.Errorf("the property after the crash: got %q, want 42", got)
	}
	after := d.changes()
	for _, c := range before {
		i := slices.IndexFunc(after, func(a roadbed.Change) bool { return a.ID == c.ID })
		if i < 0 || after[i].Action != c.Action || after[i].Resource != c.Resource {
			d.t.Errorf("change %d %s %s is gone or altered after the crash", c.ID, c.Action, c.Resource)
		}
	}
	slots := make(map[string]string)
	for _, i := range d.instances() {
		slot := i.ID[:strings.LastIndex(i.ID, "-")]
		if other := slots[slot]; other != "" {
			d.t.Errorf("%s runs twice: %s and %s", slot, other, i.ID)
		}
		slots[slot] = i.ID
	}
	want := 1
	for _, s := range streaming.Services() {
		want += s.Instances
	}
	if len(slots) != want {
		d.t.Errorf("%d instances run after the crash, want %d", len(slots), want)
	}
}

// judge holds what members experienced against the bar.
func (d *demo) judge(when string, r streaming.Report) {
	d.t.Helper()
	f := r.Total
	d.t.Logf("%s: %d requests in %.0f s, %.3f %% succeeded, %d failed, %d late, p99 %.0f ms, max %.0f ms, causes %v",
		when, f.Requests, f.Seconds, f.SuccessPercent, f.Failed, f.Late, 1000*f.P99, 1000*f.Max, f.Causes)
	if f.Requests == 0 || f.SuccessPercent < bar {
		d.t.Errorf("%s: %.3f %% of %d requests succeeded, want at least %v %%: %v", when, f.SuccessPercent, f.Requests, bar, f.Causes)
	}
	if f.Late > f.Requests/1000 {
		d.t.Errorf("%s: %d requests had no answer within their deadline of %v", when, f.Late, streaming.Deadline)
	}
	if longest := time.Duration(f.Max * float64(time.Second)); longest > streaming.Deadline+time.Second { // a second is the scheduler's
		d.t.Errorf("%s: a request waited %v, past its deadline of %v", when, longest, streaming.Deadline)
	}
}

// healthy waits until every instance that shall run is up.
func (d *demo) healthy(atMost time.Duration) {
	d.t.Helper()
	d.eventually(atMost, "every instance is up", func() error {
		var groups []fleet.GroupView
		if err := d.get(context.Background(), "/api/v1/server-groups", &groups); err != nil {
			return err
		}
		if len(groups) == 0 {
			return fmt.Errorf("there are no server groups")
		}
		for _, g := range groups {
			if g.Healthy < g.Capacity.Desired {
				return fmt.Errorf("%s has %d of %d up", g.Name, g.Healthy, g.Capacity.Desired)
			}
		}
		return nil
	})
}

// registered reports whether the registry has every instance of the demo, UP.
func (d *demo) registered() error {
	var list []registry.Service
	if err := d.get(context.Background(), "/api/v1/services", &list); err != nil {
		return err
	}
	for _, want := range streaming.Services() {
		i := slices.IndexFunc(list, func(s registry.Service) bool { return s.Name == want.Name })
		if i < 0 || list[i].Up != want.Instances {
			return fmt.Errorf("%s does not have its %d instances", want.Name, want.Instances)
		}
	}
	return nil
}

// loaded waits until members make the requests that they were told to.
func (d *demo) loaded() {
	d.t.Helper()
	members := d.population()
	d.eventually(20*time.Second, "members make their requests", func() error {
		d.reset(members)
		time.Sleep(time.Second)
		if got := d.report(members); got.RPS != loadRPS || got.Total.Requests < loadRPS/2 {
			return fmt.Errorf("%d requests in a second at a wanted rate of %.0f", got.Total.Requests, got.RPS)
		}
		return nil
	})
}

func (d *demo) eventually(atMost time.Duration, what string, ok func() error) {
	d.t.Helper()
	deadline := time.Now().Add(atMost)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("not within %s: %s: %v\nthe platform printed:\n%s", atMost, what, err, d.out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (d *demo) instances() []fleet.InstanceView {
	d.t.Helper()
	var list []fleet.InstanceView
	if err := d.get(context.Background(), "/api/v1/instances", &list); err != nil {
		d.t.Fatal(err)
	}
	return list
}

// victim returns the id of a random instance that is not the members themselves, with whom we measure.
func (d *demo) victim(ok func(fleet.InstanceView) bool) string {
	d.t.Helper()
	list := slices.DeleteFunc(d.instances(), func(i fleet.InstanceView) bool { return i.App == streaming.PopulationName || !ok(i) })
	if len(list) == 0 {
		d.t.Fatal("nobody to kill")
	}
	return list[rand.IntN(len(list))].ID
}

// population returns the address of the members' process.
func (d *demo) population() string {
	d.t.Helper()
	for _, i := range d.instances() {
		if i.App == streaming.PopulationName {
			return fmt.Sprintf("http://127.0.0.1:%d", i.Port)
		}
	}
	d.t.Fatal("there are no members")
	return ""
}

func (d *demo) reset(members string) {
	d.t.Helper()
	if err := (&api.Client{Base: members}).Do(context.Background(), http.MethodPost, "/reset", nil, nil); err != nil {
		d.t.Fatal(err)
	}
}

func (d *demo) report(members string) (r streaming.Report) {
	d.t.Helper()
	if err := (&api.Client{Base: members}).Do(context.Background(), http.MethodGet, "/report", nil, &r); err != nil {
		d.t.Fatal(err)
	}
	return r
}

// page returns the home page as a browser gets it.
func (d *demo) page() string {
	d.t.Helper()
	req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", 7000+d.offset), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		d.t.Fatalf("the home page: %s %v", resp.Status, err)
	}
	return string(page)
}

// edgeFails reports whether the service graph shows calls of the api to callee as failing or replaced.
func (d *demo) edgeFails(callee string) error {
	var graph struct {
		Nodes []struct {
			Connections []struct {
				Source, Target string
				Metrics        map[string]float64
			}
		}
	}
	if err := d.get(context.Background(), "/api/v1/traffic", &graph); err != nil {
		return err
	}
	for _, n := range graph.Nodes {
		for _, c := range n.Connections {
			if c.Source == "api" && c.Target == callee && c.Metrics["warning"]+c.Metrics["danger"] > c.Metrics["normal"] {
				return nil
			}
		}
	}
	return fmt.Errorf("the graph shows no trouble between api and %s", callee)
}

func (d *demo) changes() []roadbed.Change {
	d.t.Helper()
	var list []roadbed.Change
	if err := json.Unmarshal([]byte(d.cli("changes", "--limit", "200", "-o", "json")), &list); err != nil {
		d.t.Fatal(err)
	}
	if len(list) == 0 {
		d.t.Fatal("the change log is empty")
	}
	return list
}

func (d *demo) groupNames() []string {
	d.t.Helper()
	var groups []fleet.GroupView
	if err := d.get(context.Background(), "/api/v1/server-groups", &groups); err != nil {
		d.t.Fatal(err)
	}
	var names []string
	for _, g := range groups {
		names = append(names, g.Name)
	}
	slices.Sort(names)
	return names
}

// cli types a command at the platform and returns what it printed.
func (d *demo) cli(args ...string) string {
	d.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "ROADBED_API="+d.client.Base, "ROADBED_ACTOR=tester")
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("roadbed %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// nothingLeft fails if a process of the platform is still there.
func (d *demo) nothingLeft() {
	left, err := processes(d.state)
	if err != nil || len(left) > 0 {
		d.t.Errorf("after the end %d processes are left: %v %v", len(left), left, err)
	}
}
