package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/platform/properties"
)

// herd is instances of one app that register and read properties as every service does. One whose property says "bad"
// fails its health check at once.
type herd struct {
	mu      sync.Mutex
	values  map[string][]string // what each has seen, in order; guarded by mu
	failed  map[string]bool     // guarded by mu
	firstAt time.Time           // of the first failure; guarded by mu
}

func startHerd(t *testing.T, url string, n int) *herd {
	t.Helper()
	h := &herd{values: map[string][]string{}, failed: map[string]bool{}}
	quiet := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	found := discovery.New(discovery.Config{Registry: []string{url}, Log: quiet})
	wg.Go(func() {
		if err := found.Run(ctx); err != nil {
			t.Errorf("discovery: %v", err)
		}
	})
	for i := range n {
		id, zone := fmt.Sprintf("web-v000-%03d", i), "zone-"+string(rune('a'+i%3))
		me := found.Register(roadbed.Instance{ID: id, App: "web", Group: "web-v000", Host: "127.0.0.1", Port: 40000 + i,
			Location: roadbed.Location{Region: "local", Zone: zone}, Status: roadbed.Up, Since: time.Now()})
		props := config.New(config.Options{URL: url, Log: quiet,
			Scope: config.Scope{App: "web", Group: "web-v000", Cluster: "web", Region: "local", Zone: zone, Instance: id}})
		props.String("web.limit", "none").OnChange(func(_, now string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.values[id] = append(h.values[id], now)
			if now == "bad" {
				if len(h.failed) == 0 {
					h.firstAt = time.Now()
				}
				h.failed[id] = true
				me.SetStatus(roadbed.Down)
			}
		})
		wg.Go(func() {
			if err := props.Run(ctx); err != nil {
				t.Errorf("config: %v", err)
			}
		})
	}
	return h
}

// seeing returns how many see a value now.
func (h *herd) seeing(value string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, seen := range h.values {
		if seen[len(seen)-1] == value {
			n++
		}
	}
	return n
}

// TestSeenRollouts has a hundred of them on a platform of its own: a change that breaks whoever gets it is
// gone within five seconds, having hit one; a good one goes through, although the platform is killed on the way.
func TestSeenRollouts(t *testing.T) {
	const n = 100
	state, offset := filepath.Join(t.TempDir(), "state"), freeOffset(t)
	start := func() *testPlatform {
		t.Helper()
		p, err := startPlatform(state, offset, "serve", "--roles", "engine,registry,properties,telemetry,console")
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
	p := start()
	h := startHerd(t, fmt.Sprintf("http://127.0.0.1:%d", 8761+offset), n)
	within := func(atMost time.Duration, what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(atMost); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not within %v: %s\n%s", atMost, what, p.out)
			}
		}
	}
	propose := func(value string, steps ...properties.Step) properties.Rollout {
		t.Helper()
		in := properties.Proposal{Title: value, Start: true, Steps: steps,
			Changes: []properties.Edit{{Record: properties.Property{Key: "web.limit", Value: value, Scope: config.Scope{App: "web"}}}}}
		var r properties.Rollout
		if err := p.client.Do(t.Context(), http.MethodPost, "/config/v1/rollouts", in, &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	look := func(id string) (r properties.Rollout) {
		p.get(t.Context(), "/config/v1/rollouts/"+id, &r) //nolint:errcheck // the platform may be away; then r says nothing
		return r
	}
	set := func(value string) {
		t.Helper()
		if err := p.client.Do(t.Context(), http.MethodPost, "/config/v1/properties", properties.Property{Key: "web.limit", Value: value, Scope: config.Scope{App: "web"}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	set("first")
	within(30*time.Second, "every instance reads", func() bool { return h.seeing("first") == n })
	dry := properties.Proposal{Changes: []properties.Edit{{Record: properties.Property{Key: "web.limit", Value: "x", Scope: config.Scope{App: "web"}}}}}
	within(30*time.Second, "the platform knows every instance", func() bool {
		var v properties.Validation
		return p.client.Do(t.Context(), http.MethodPost, "/config/v1/validate", dry, &v) == nil && v.Affected.Instances == n
	})
	time.Sleep(time.Second) // what is known by its readers is known by its registry a moment later

	bad := propose("bad")
	within(20*time.Second, "the bad change is rolled back", func() bool { return look(bad.ID).State == properties.RolledBack })
	within(5*time.Second, "nobody sees it any more", func() bool { return h.seeing("bad") == 0 })
	h.mu.Lock()
	failed, took := len(h.failed), time.Since(h.firstAt)
	h.mu.Unlock()
	t.Logf("rolled back %v after the first failure, %d of %d affected: %s", took.Round(time.Millisecond), failed, n, look(bad.ID).Reason)
	if failed != 1 || took > 5*time.Second {
		t.Errorf("%d of %d instances failed and %v passed since the first did; want 1, and less than 5 s", failed, n, took)
	}

	short, all := properties.Duration(2*time.Second), properties.Selector{All: true}
	good := propose("good", properties.Step{Selector: properties.Selector{Instances: 2}, Bake: &short},
		properties.Step{Selector: properties.Selector{Zone: "zone-b"}, Bake: &short}, properties.Step{Selector: all, Bake: &short})
	within(30*time.Second, "the first step is reached", func() bool { return h.seeing("good") >= 1 })
	p.crash()
	reached := h.seeing("good")
	p = start()
	within(90*time.Second, "the good change is done", func() bool { return look(good.ID).State == properties.Done })
	within(10*time.Second, "everybody sees it", func() bool { return h.seeing("good") == n })
	t.Logf("%d had it when the platform was killed; %d have it in the end", reached, n)
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, seen := range h.values {
		if i := slices.Index(seen, "good"); i != len(seen)-1 {
			t.Errorf("%s saw %v: it went back and forth", id, seen)
		}
	}
}

func TestRolloutShowNamesTheInstancesThatWereChosen(t *testing.T) {
	var many []string
	for i := range 12 {
		many = append(many, fmt.Sprintf("api-%02d", i))
	}
	for _, tt := range []struct {
		chosen []string
		want   string
	}{
		{nil, ""},
		{many[:2], "api-00, api-01"},
		{many, "api-00, api-01, api-02, api-03, api-04, api-05, api-06, api-07, api-08, api-09 and 2 more"},
	} {
		got := ""
		for _, fact := range rolloutFacts(properties.Rollout{Chosen: tt.chosen}) {
			if fact[0] == "chosen" {
				got = fact[1]
			}
		}
		if got != tt.want {
			t.Errorf("chosen %v: got %q, want %q", tt.chosen, got, tt.want)
		}
	}
}
