package fleet

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
)

var threeZones = []string{"zone-a", "zone-b", "zone-c"}

func TestSpecDefaults(t *testing.T) {
	s := Spec{Name: "hello-prod", Command: []string{"true"}}
	m, err := s.normalize(threeZones)
	if err != nil || m.App != "hello" || m.Stack != "prod" {
		t.Fatalf("got %+v, %v", m, err)
	}
	if s.Instances != 1 || !slices.Equal(s.Zones, threeZones) || s.Register != RegisterFleet || s.Health != nil || s.Criticality != roadbed.Critical {
		t.Errorf("defaults: got %+v", s)
	}
}

func FuzzSpec(f *testing.F) {
	for _, s := range []string{
		`{"name":"hello","command":["python3","-m","http.server","{port}"],"port":8081,"instances":2}`,
		`{"name":"a-b-c","command":["x"],"env":{"A":"b"},"zones":["zone-a"],"criticality":"best-effort","health":{"path":""},"register":"self"}`,
		`{"name":"a","command":["x"],"port":65535,"instances":2}`, `{"name":"a-v000","command":["x"]}`, `{"name":"a","command":[]}`,
		`{"name":"a","command":["x\u0000"],"env":{"=":"\u0000"}}`, `{"name":"a","command":["x"],"instances":-1,"dir":"rel","health":{"path":"x"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Spec
		if json.Unmarshal(data, &s) != nil {
			return
		}
		m, err := s.normalize(threeZones)
		if err != nil {
			if err.Error() == "" {
				t.Error("refused without a reason")
			}
			return
		}
		if s.Instances < 1 || s.Instances > maxInstances || s.Port < 0 || s.Port > 0 && s.Port+s.Instances-1 > 65535 || len(s.Zones) == 0 || len(s.Command) == 0 {
			t.Errorf("accepted %+v", s)
		}
		next, err := m.Next(func(roadbed.Moniker) bool { return false })
		if err != nil || nameOf(keyOf(next.String())) != next.String() {
			t.Errorf("name %q does not survive being a key: %q, %v", next, keyOf(next.String()), err)
		}
		// Accepted once is accepted always: the table is read by later versions of this code.
		again := s
		if _, err := again.normalize(threeZones); err != nil {
			t.Errorf("accepted, then refused: %v", err)
		}
	})
}

func TestPlaceholdersAreReplaced(t *testing.T) {
	got := expand("--listen=:{port} {slot} {zone} {self} {other}", 8081, 2, "zone-c", "/bin/roadbed")
	if want := "--listen=:8081 2 zone-c /bin/roadbed {other}"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCommandLineReadsBackInAShell(t *testing.T) {
	if got, want := commandLine([]string{"sh", "-c", "echo 'a b' $X", ""}), `sh -c 'echo '\''a b'\'' $X' ''`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestProgramIsFoundAsAShellWould(t *testing.T) {
	dir := t.TempDir()
	prog := filepath.Join(dir, "prog")
	if err := os.WriteFile(prog, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ name, dir, path, want, err string }{
		{"prog", "/", "/nowhere:" + dir, prog, ""},
		{"./prog", dir, "", prog, ""},
		{prog, "/", "", prog, ""},
		{"prog", dir, ".", prog, ""},
		{"prog", "/", "/nowhere", "", "no program \"prog\" on PATH"},
		{"./data", dir, "", "", "permission denied"},
		{"./none", dir, "", "", "no such file"},
	} {
		got, err := findProgram(x.name, x.dir, x.path)
		if got != x.want || (err == nil) != (x.err == "") || err != nil && !strings.Contains(err.Error(), x.err) {
			t.Errorf("%s in %s with PATH=%s: got %q, %v; want %q, %q", x.name, x.dir, x.path, got, err, x.want, x.err)
		}
	}
}

func TestEnvironmentTellsWhoTheInstanceIs(t *testing.T) {
	dir := t.TempDir()
	f := &Fleet{
		c:       Config{Dir: dir, Region: "local", Self: "/bin/roadbed", Env: []string{"ROADBED_REGISTRY=http://127.0.0.1:8761", "A=config", "B=config"}},
		baseEnv: inherited([]string{"PATH=/bin", "ROADBED_TOKEN=secret", "NETFLIX_APP=x", "PORT=1", "A=platform", "HOME=/root", "ROADBED_ENV=prod"}),
	}
	s := &slot{f: f, g: &group{name: "api-prod-v003"}, n: 1, name: "api-prod-v003-1", zone: "zone-b", app: "api",
		moniker: roadbed.Moniker{App: "api", Stack: "prod", Sequence: 3},
		spec: Spec{Criticality: roadbed.Degraded, Env: map[string]string{
			"B": "user {port}", "NETFLIX_STACK": "mine", "ROADBED_APP": "evil", "EC2_REGION": "evil", "NETFLIX_INSTANCE_ID": "evil", "ROADBED_PROPERTIES": "a=1"}}}
	env := s.environment("api-prod-v003-1-x7f3", 9001)
	for name, want := range map[string]string{
		"PATH": "/bin", "HOME": "/root", "PORT": "9001", "A": "config", "B": "user 9001",
		"ROADBED_APP": "api", "ROADBED_GROUP": "api-prod-v003", "ROADBED_INSTANCE": "api-prod-v003-1-x7f3", "ROADBED_HOST": "127.0.0.1",
		"ROADBED_REGION": "local", "ROADBED_ZONE": "zone-b", "ROADBED_CRITICALITY": "DEGRADED", "ROADBED_REGISTRY": "http://127.0.0.1:8761",
		"ROADBED_CACHE": filepath.Join(dir, "cache", "api-prod-v003-1"), "ROADBED_DATA": dir, "ROADBED_TOKEN": "", "ROADBED_ENV": "prod", "ROADBED_PROPERTIES": "a=1",
		"NETFLIX_APP": "api", "NETFLIX_CLUSTER": "api-prod", "NETFLIX_STACK": "mine", "NETFLIX_DETAIL": "",
		"NETFLIX_AUTO_SCALE_GROUP": "api-prod-v003", "NETFLIX_INSTANCE_ID": "api-prod-v003-1-x7f3", "EC2_INSTANCE_ID": "api-prod-v003-1-x7f3",
		"EC2_REGION": "local", "EC2_AVAILABILITY_ZONE": "zone-b", "EC2_LOCAL_IPV4": "127.0.0.1",
	} {
		if got := lookup(env, name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if !slices.IsSorted(env) {
		t.Errorf("not sorted, so a name may be twice: %q", env)
	}
}

func TestBackoffDoublesToThirtySecondsAndStartsAnewAfterAMinuteOfHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &Fleet{changed: make(chan struct{}), told: make(chan roadbed.Change, 100), log: quiet()}
		s := &slot{f: f, g: &group{}, name: "x-v000-0"}
		want := []time.Duration{0, 1, 2, 4, 8, 16, 30, 30, 30}
		for i, w := range want {
			began := time.Now()
			time.Sleep(s.lost(loss{id: "x-v000-0-aaaa", why: "exited", exit: &Exit{}, healthy: 59 * time.Second}))
			if got := time.Since(began); got != w*time.Second {
				t.Errorf("loss %d: waited %v, want %v", i+1, got, w*time.Second)
			}
			if loop := s.view.State == StateCrashLoop; loop != (i >= 2) {
				t.Errorf("loss %d: crash loop is %v, want %v", i+1, loop, i >= 2)
			}
		}
		if got := s.lost(loss{id: "x-v000-0-bbbb", why: "exited", exit: &Exit{}, healthy: time.Minute}); got != 0 || s.view.State != StateWaiting {
			t.Errorf("after a minute of health: wait %v in %s, want none", got, s.view.State)
		}
		s.lost(loss{why: "exited", exit: &Exit{}})
		if got := s.lost(loss{why: "was stopped", exit: &Exit{}, asked: true}); got != 0 {
			t.Errorf("a loss that was asked for: wait %v, want none", got)
		}
		if got := s.lost(loss{why: "exited", exit: &Exit{}}); got != 0 {
			t.Errorf("the loss after one that was asked for: wait %v, want none", got)
		}
	})
}

func TestCrashLoopOfADayMakesFewEntries(t *testing.T) {
	var b backoff
	entries := 0
	for at := time.Duration(0); at < 24*time.Hour; at += max(b.lost(0), time.Second) {
		if b.worthTelling() {
			entries++
		}
	}
	if entries > 6 || entries < 4 {
		t.Errorf("got %d entries, want 4 to 6", entries)
	}
}

func TestSuggestionsAreNearestFirst(t *testing.T) {
	have := []string{"members-v000", "catalog-v001", "catalog-v000", "billing-v000"}
	got := suggest("catalog", have, "")
	if want := "; near: catalog-v000, catalog-v001, billing-v000, and 1 others"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := suggest("x", nil, "there is none at all"); got != "; there is none at all" {
		t.Errorf("with nothing there: got %q", got)
	}
}
