package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/engine/enginetest"
	"github.com/roadbed/roadbed/platform/ledger"
	"github.com/roadbed/roadbed/platform/properties"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, enginetest.Forgotten) }

var quiet = slog.New(slog.DiscardHandler)

func open(t testing.TB) *Chaos {
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
	l, err := ledger.Open(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	p, err := properties.New(t.Context(), properties.Config{Engine: e, Ledger: l, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	x, err := New(t.Context(), Config{Properties: p, Ledger: l, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *Chaos) actions(t *testing.T) string {
	t.Helper()
	changes, err := x.ledger.List(t.Context(), ledger.Query{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range changes {
		if strings.HasPrefix(c.Resource, "fault:") {
			out = append(out, fmt.Sprintf("%s %s by %s", c.Action, c.Resource, c.Actor))
		}
	}
	return strings.Join(out, "; ")
}

const rules = "server:ratings=error(503)@25"

func TestAFaultReachesPropertiesAndTheLedgerAndEnds(t *testing.T) {
	x := open(t)
	ana := api.As(t.Context(), "ana", "to learn")
	f, err := x.Add(ana, Fault{ID: "f1", Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(f.Expires); left > DefaultLease || left < DefaultLease-time.Minute || *f.Who.Percent != 100 || f.Actor != "ana" || f.Why != "to learn" || f.Created.IsZero() {
		t.Errorf("completed: got %+v, want ten minutes, 100 %%, by ana to learn", f)
	}
	value, ok := x.props.Value(config.Scope{App: "edge"}, "fault.scenario.f1")
	var stored Fault
	if err := json.Unmarshal([]byte(value), &stored); !ok || err != nil || stored.Rules != rules {
		t.Errorf("property: got %q, %v", value, err)
	}
	if _, err := x.Alter(ana, "f1", Fault{Rules: "server:ratings=reset"}); err != nil {
		t.Fatal(err)
	}
	if got, err := x.Get("f1"); err != nil || got.Rules != "server:ratings=reset" {
		t.Errorf("altered: got %+v, %v", got, err)
	}
	if err := x.Remove(ana, "f1"); err != nil {
		t.Fatal(err)
	}
	if got := x.List(); len(got) != 0 {
		t.Errorf("after Remove: got %v, want none", got)
	}
	if err := x.Remove(ana, "f1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("second Remove: got %v, want ErrNotFound", err)
	}
	want := "fault.remove fault:f1 by ana; fault.alter fault:f1 by ana; fault.add fault:f1 by ana"
	if got := x.actions(t); got != want {
		t.Errorf("ledger: got %s, want %s", got, want)
	}
}

func TestExpiredFaultsAreRemovedByChaos(t *testing.T) {
	x := open(t)
	now := time.Now()
	for id, d := range map[string]time.Duration{"soon": time.Minute, "later": time.Hour} {
		if _, err := x.Add(t.Context(), Fault{ID: id, Rules: rules, Expires: now.Add(d)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.props.Set(t.Context(), properties.Property{Key: scenarios + "junk", Value: "{"}, properties.Any); err != nil {
		t.Fatal(err)
	}
	if got := x.List(); len(got) != 2 || got[0].ID != "soon" {
		t.Errorf("list: got %v, want soon and later", got)
	}
	if err := x.reap(t.Context(), now.Add(2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	if got := x.stored(); len(got) != 1 || got[0].Key != scenarios+"later" {
		t.Errorf("after two minutes: got %v, want later only", got)
	}
	if got := x.actions(t); !strings.Contains(got, "fault.expire fault:soon by chaos") || !strings.Contains(got, "fault.expire fault:junk by chaos") {
		t.Errorf("ledger: got %s, want both expiries by chaos", got)
	}
}

func TestRunReapsAndEnds(t *testing.T) {
	x := open(t)
	f, err := x.Add(t.Context(), Fault{Rules: rules, Expires: time.Now().Add(2 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- x.Run(ctx) }()
	err = x.ledger.Follow(t.Context(), 0, followUntil(f.ID))
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if !errors.Is(err, errSeen) {
		t.Errorf("waiting for the expiry: %v", err)
	}
}

func TestTheKeyIsMadeOnceAndNeverShown(t *testing.T) {
	x := open(t)
	key, ok := x.props.Value(config.Scope{}, keyName)
	if !ok || len(key) != 64 {
		t.Fatalf("key: got %d bytes, want 64", len(key))
	}
	if _, err := New(t.Context(), Config{Properties: x.props, Ledger: x.ledger, Log: quiet}); err != nil {
		t.Fatal(err)
	}
	if again, _ := x.props.Value(config.Scope{}, keyName); again != key {
		t.Error("a second start made another key")
	}
	if p, _ := x.props.Get(properties.ID(keyName, config.Scope{})); p.Value != properties.Mask {
		t.Errorf("shown: got %q, want the mask", p.Value)
	}
	c, err := fault.Parse(fault.Key(key), fault.Sign(fault.Key(key), "f1", time.Now().Add(time.Minute), rules), "r", time.Now())
	if err != nil || c.ID() != "f1" {
		t.Errorf("signing with it: got %v, %v", c, err)
	}
}

func TestWhatServicesWouldNotUnderstandIsRefused(t *testing.T) {
	x := open(t)
	in := func(d time.Duration) time.Time { return time.Now().Add(d) }
	for name, f := range map[string]Fault{
		"no rules":      {},
		"bad rules":     {Rules: "server=boom"},
		"a quote":       {Rules: `server:a"=reset`},
		"a newline":     {Rules: "server:a\n=reset"},
		"too long":      {Rules: strings.Repeat("server:"+strings.Repeat("x", 50)+"=reset;", 50) + rules},
		"id":            {ID: "a.b", Rules: rules},
		"over":          {Rules: rules, Expires: in(-time.Second)},
		"too far":       {Rules: rules, Expires: in(MaxLease + time.Hour)},
		"over 100 %":    {Rules: rules, Who: Who{Percent: new(101.0)}},
		"below 0 %":     {Rules: rules, Who: Who{Percent: new(-1.0)}},
		"NaN %":         {Rules: rules, Who: Who{Percent: new(math.NaN())}},
		"infinity %":    {Rules: rules, Who: Who{Percent: new(math.Inf(1))}},
		"a place":       {Rules: rules, Where: Where{Zones: []string{"a]b"}}},
		"no place":      {Rules: rules, Where: Where{Clusters: []string{""}}},
		"devices":       {Rules: rules, Who: Who{Devices: make([]string, 1001)}},
		"a header name": {Rules: rules, Who: Who{Header: map[string]string{"x y": "1"}}},
	} {
		want := map[string]error{"over": ErrPast, "too far": ErrLease, "over 100 %": ErrPercent, "below 0 %": ErrPercent, "NaN %": ErrPercent,
			"no rules": ErrRules, "bad rules": ErrRules, "a quote": ErrRules, "too long": ErrRules}[name]
		if got, err := x.Add(t.Context(), f); !errors.Is(err, ErrInvalid) || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: got %+v, %v; want ErrInvalid and %v", name, got, err, want)
		}
	}
	if got := x.actions(t); got != "" {
		t.Errorf("ledger: got %s, want nothing", got)
	}
	if _, err := x.Add(t.Context(), Fault{ID: "f1", Rules: rules}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Add(t.Context(), Fault{ID: "f1", Rules: rules}); !errors.Is(err, ErrExists) {
		t.Errorf("the same id again: got %v, want ErrExists", err)
	}
}

func TestAnExperimentToleratesNoOtherFault(t *testing.T) {
	x := open(t)
	ana := api.As(t.Context(), "ana", "")
	if _, err := x.Add(ana, Fault{ID: "one", Rules: rules, Experiment: "e"}); err != nil {
		t.Fatal(err)
	}
	_, err := x.Add(ana, Fault{ID: "two", Rules: rules})
	if !errors.Is(err, ErrOverlap) || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "one (server:ratings=error(503)@25), by ana") {
		t.Errorf("beside an experiment: got %v, want ErrOverlap that names it", err)
	}
	if _, err := x.Alter(ana, "one", Fault{Rules: rules, Experiment: "e"}); err != nil {
		t.Errorf("altering it: %v", err)
	}
	if err := x.Remove(ana, "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Add(ana, Fault{ID: "two", Rules: rules}); err != nil {
		t.Errorf("after it has ended: %v", err)
	}
	if _, err := x.Add(ana, Fault{ID: "three", Rules: rules, Experiment: "e"}); !errors.Is(err, ErrOverlap) {
		t.Errorf("an experiment beside another fault: got %v, want ErrOverlap", err)
	}
	if f, err := x.Add(ana, Fault{ID: "four", Rules: rules, Owner: "team-qa"}); err != nil || f.Owner != "team-qa" {
		t.Errorf("two without an experiment: got %+v, %v", f, err)
	}
}

func TestStopAllEndsAllFaultsAndKeepsNewOnesOut(t *testing.T) {
	x := open(t)
	ana := api.As(t.Context(), "ana", "members are hurt")
	for _, id := range []string{"one", "two"} {
		if _, err := x.Add(ana, Fault{ID: id, Rules: rules}); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.StopAll(ana); err != nil {
		t.Fatal(err)
	}
	if got := x.List(); len(got) != 0 {
		t.Errorf("afterwards: got %v, want none", got)
	}
	if _, err := x.Add(ana, Fault{Rules: rules}); !errors.Is(err, ErrOff) || !strings.Contains(err.Error(), "fit enable") {
		t.Errorf("adding one: got %v, want ErrOff that says how to go on", err)
	}
	if err := x.Enable(ana); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Add(ana, Fault{Rules: rules}); err != nil {
		t.Errorf("after Enable: %v", err)
	}
	changes, err := x.ledger.List(t.Context(), ledger.Query{Resource: "property:ipc.fit.enabled"})
	if err != nil || len(changes) != 2 || changes[1].Action != "fault.stop" || changes[1].Actor != "ana" || changes[1].Why != "members are hurt" {
		t.Errorf("ledger: got %v, %v; want who stopped and who enabled, and why", changes, err)
	}
}

func TestRecipesMakeRules(t *testing.T) {
	for _, tc := range []struct{ name, params, want string }{
		{"fail-noncritical", "", "client:abtest=error(503);client:billing=error(503)"},
		{"fail-service", "service=ratings error=unavailable", "client:ratings=error(unavailable)"},
		{"latency", "service=ratings delay=300ms", "client:ratings=delay(300ms,0s)"},
		{"cache-cold", "", "cache:*=miss"},
		{"zone-loss", "zone=zone-a", "server:*[zone-a]=reset"},
		{"slow-db", "db=members", "db:members=delay(500ms,100ms)"},
	} {
		params := map[string]string{}
		for _, p := range strings.Fields(tc.params) {
			k, v, _ := strings.Cut(p, "=")
			params[k] = v
		}
		got, words, err := Cook(tc.name, params, []string{"abtest", "billing"})
		if err != nil || got != tc.want || words == "" {
			t.Errorf("%s %s: got %s, %q, %v; want %s", tc.name, tc.params, got, words, err, tc.want)
		}
	}
	for _, tc := range []struct{ name, key, value, want string }{
		{"fire", "", "", "there are fail-noncritical"}, {"latency", "service", "x", "needs delay"}, {"fail-service", "zone", "x", "it takes service, error"},
		{"fail-service", "service", "a=b c", "not allowed"}, {"fail-noncritical", "error", "200", "HTTP status"},
	} {
		if got, _, err := Cook(tc.name, map[string]string{tc.key: tc.value}, []string{"x"}); tc.key != "" && !errors.Is(err, ErrRecipe) || err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %s=%s: got %s, %v; want ErrRecipe that says %q", tc.name, tc.key, tc.value, got, err, tc.want)
		}
	}
	if _, _, err := Cook("fail-noncritical", nil, nil); !errors.Is(err, ErrRecipe) {
		t.Errorf("without services that members can do without: got %v, want ErrRecipe", err)
	}
	got, err := Preview("client:rec*=reset;server:billing=hang;command:members=reset;db:x=hang", []Call{{"api", "recommendations"}, {"api", "catalog"}, {"api", "billing"}, {"x", "members"}})
	if want := []Call{{"api", "recommendations"}, {"api", "billing"}, {"x", "members"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("preview: got %v, %v; want %v", got, err, want)
	}
}

func TestHTTP(t *testing.T) {
	x := open(t)
	s := api.New("test", "1")
	x.Mount(s)
	client := httptest.NewServer(s)
	defer client.Close()
	c := &api.Client{Base: client.URL, Actor: "ana", Why: "to learn", HTTP: client.Client()}
	var f Fault
	// As the CLI sends it: a Fault with its given fields empty.
	err := c.Do(t.Context(), http.MethodPost, "/api/v1/faults", Fault{Rules: rules, Who: Who{Percent: new(5.0), Users: []string{"u-1"}}, Expires: time.Now().Add(time.Hour)}, &f)
	if err != nil || f.ID == "" || f.Actor != "ana" || *f.Who.Percent != 5 {
		t.Fatalf("POST: got %+v, %v", f, err)
	}
	for text, want := range map[string]float64{`{"percent":0}`: 0, `{"percent":0.5}`: 0.5, `{"users":["u-1"]}`: 100, `{}`: 100} {
		var g Fault
		if err := c.Do(t.Context(), http.MethodPost, "/api/v1/faults", map[string]any{"rules": rules, "who": json.RawMessage(text)}, &g); err != nil || *g.Who.Percent != want {
			t.Errorf("who %s: got %+v, %v; want %v %%", text, g.Who, err, want)
		}
		if stored, err := x.Get(g.ID); err != nil || *stored.Who.Percent != want {
			t.Errorf("who %s is stored as %+v, %v; want %v %%", text, stored.Who, err, want)
		}
		if err := x.Remove(t.Context(), g.ID); err != nil {
			t.Error(err)
		}
	}
	var all []Fault
	if err := c.Do(t.Context(), http.MethodGet, "/api/v1/faults", nil, &all); err != nil || len(all) != 1 || all[0].ID != f.ID {
		t.Errorf("GET: got %v, %v", all, err)
	}
	if err := c.Do(t.Context(), http.MethodPut, "/api/v1/faults/"+f.ID, Fault{Rules: "server:a=hang"}, &f); err != nil || f.Rules != "server:a=hang" {
		t.Errorf("PUT: got %+v, %v", f, err)
	}
	var p *api.Error
	if err := c.Do(t.Context(), http.MethodPost, "/api/v1/faults", Fault{Rules: "nonsense"}, nil); !errors.As(err, &p) || p.Status != 422 || !strings.Contains(p.Detail, "nonsense") {
		t.Errorf("POST of nonsense: got %v, want 422 that names it", err)
	}
	if err := c.Do(t.Context(), http.MethodDelete, "/api/v1/faults/"+f.ID, nil, nil); err != nil {
		t.Errorf("DELETE: %v", err)
	}
	if err := c.Do(t.Context(), http.MethodGet, "/api/v1/faults/"+f.ID, nil, nil); !errors.As(err, &p) || p.Status != 404 {
		t.Errorf("GET after DELETE: got %v, want 404", err)
	}
}

var errSeen = errors.New("seen")

// followUntil ends a Follow when the fault of that id expired.
func followUntil(id string) func(roadbed.Change) error {
	return func(c roadbed.Change) error {
		if c.Action == "fault.expire" && c.Resource == "fault:"+id {
			return errSeen
		}
		return nil
	}
}
