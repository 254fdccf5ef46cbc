package streaming

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/ledger"
	"github.com/roadbed/roadbed/platform/properties"
)

// bindings bind every service's settings.
func bindings() map[string]func(*config.Properties) func() any {
	return map[string]func(*config.Properties) func() any{
		"api":             bound(apiDefaults()),
		"playback":        bound(playbackDefaults()),
		"catalog":         bound(catalogDefaults()),
		"members":         bound(membersDefaults()),
		"recommendations": bound(recommendationsDefaults()),
		"bookmarks":       bound(bookmarksDefaults()),
		"abtest":          bound(abtestDefaults()),
		"billing":         bound(billingDefaults()),
		PopulationName:    bound(loadDefaults()),
	}
}

func bound[T any](def T) func(*config.Properties) func() any {
	return func(props *config.Properties) func() any {
		v := live(props, def)
		return func() any { return *v.Get() }
	}
}

// TestTheTableOfPropertiesIsTrue compares what Properties says with what services do: the defaults, the bounds, and
// that nothing is read that it does not list.
func TestTheTableOfPropertiesIsTrue(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	listed := map[string][]string{}
	for _, p := range Properties() {
		if p.Own {
			continue
		}
		listed[p.Service] = append(listed[p.Service], p.Key)
		read := func(value string) any {
			return bindings()[p.Service](config.New(config.Options{Log: quiet, Override: map[string]string{p.Key: value}}))()
		}
		def := bindings()[p.Service](nil)()
		if got := read(p.Default); fmt.Sprint(got) != fmt.Sprint(def) { // an empty map and none are alike
			t.Errorf("%s=%s, its default: %s has %+v, want %+v", p.Key, p.Default, p.Service, got, def)
		}
		var good, bad []string
		switch p.Type {
		case "bool":
			good, bad = []string{"true", "false"}, []string{"2"}
		case "list":
			good = []string{"drama"}
		case "map":
			good, bad = []string{"new=Fresh"}, []string{"new"}
		case "string":
			good, bad = []string{"m00007"}, []string{"m7"}
		default:
			for bound, off := range map[*float64]float64{p.Min: -1, p.Max: 1} {
				if bound != nil {
					good, bad = append(good, fmt.Sprint(*bound)), append(bad, fmt.Sprint(*bound+off))
				}
			}
		}
		changed := false
		for _, v := range good {
			changed = changed || !reflect.DeepEqual(read(v), def)
		}
		if !changed {
			t.Errorf("%s: none of %q changes anything in %s", p.Key, good, p.Service)
		}
		for _, v := range bad {
			if got := read(v); !reflect.DeepEqual(got, def) {
				t.Errorf("%s=%s: %s takes %+v, want it to keep %+v", p.Key, v, p.Service, got, def)
			}
		}
	}
	for service, bind := range bindings() {
		var tags []string
		for typ, i := reflect.TypeOf(bind(nil)()), 0; i < typ.NumField(); i++ {
			tags = append(tags, typ.Field(i).Tag.Get("config"))
		}
		if slices.Sort(tags); !slices.Equal(tags, slices.Sorted(slices.Values(listed[service]))) {
			t.Errorf("%s reads %v; the table lists %v", service, tags, listed[service])
		}
	}
}

// store runs the platform's properties and returns the URL at which services ask for them.
func store(t *testing.T) string {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	e, err := engine.Open(t.Context(), engine.Config{Dir: t.TempDir(), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	s, err := properties.New(t.Context(), properties.Config{Engine: e, Ledger: l, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("properties: %v", err)
		}
	})
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		cancel()
		wg.Wait()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return srv.URL
}

// following returns the properties of app at url, followed until the test ends. Those of patient hold, but for the time limit
// of recommendations.
func following(t *testing.T, url, app string) *config.Properties {
	t.Helper()
	tr := &http.Transport{}
	own := patient()
	delete(own, timeLimit("recommendations"))
	p := config.New(config.Options{URL: url, Scope: config.Scope{App: app}, Override: own, HTTP: &http.Client{Transport: tr}, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Errorf("properties of %s: %v", app, err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait(); tr.CloseIdleConnections() })
	return p
}

func TestChangesArePickedUpByRunningServices(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	url := store(t)
	d := startDemoWith(t, func(app string) *config.Properties { return following(t, url, app) }, map[string]func(http.Handler) http.Handler{
		"recommendations": func(next http.Handler) http.Handler { // slow, but well within its time limit of a minute
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(50 * time.Millisecond)
				next.ServeHTTP(w, r)
			})
		},
	})
	set := func(key, value string) {
		t.Helper()
		body, err := json.Marshal(map[string]string{"key": key, "value": value})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Post(url+"/config/v1/properties", "application/json", strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("set %s=%s: %s", key, value, resp.Status)
		}
	}
	set(timeLimit("recommendations"), "60000")
	films := newCatalogue()
	adult := ""
	for n := 1; adult == ""; n++ {
		if m := mustMember(t, memberID(n)); m.Maturity == 18 && len(before(films, m.ID)) > 1 && hash(m.ID, "plan")>>16%100 >= 2 && hash(m.ID, "test:home")%100 >= 50 {
			adult = m.ID // with a history, an active plan, in the control cell
		}
	}
	film := films.titles[slices.IndexFunc(films.titles, func(x Title) bool { return x.Maturity == 0 })].ID
	lapsed := memberID(memberCount)
	home := func() Home { _, body, _ := get1(t, d.api+"/home", adult, ""); return decode[Home](t, body) }
	play := func(who string) (int, Play) {
		status, body, _ := get1(t, d.api+"/play/"+film, who, "")
		return status, decode[Play](t, body)
	}
	row := func(h Home, id string) *Shelf {
		if i := slices.IndexFunc(h.Rows, func(s Shelf) bool { return s.ID == id }); i >= 0 {
			return &h.Rows[i]
		}
		return nil
	}
	for _, c := range []struct {
		kind, key, value string
		seen             func() bool
	}{
		{"int", "streaming.home.titlesPerRow", "3", func() bool { return len(row(home(), "popular").Titles) == 3 }},
		{"list", "streaming.home.rows", "new,drama", func() bool { h := home(); return row(h, "popular") == nil && row(h, "drama") != nil }},
		{"map", "streaming.catalog.rowNames", "new=Fresh", func() bool { return row(home(), "new").Name == "Fresh" }},
		{"string", "streaming.guest", "m00007", func() bool {
			_, page, _ := get1(t, d.api+"/", "", "text/html")
			return strings.Contains(page, mustMember(t, "m00007").Name)
		}},
		{"float", "streaming.recommendations.whim", "0", func() bool {
			m := mustMember(t, adult)
			want := rank(films, adult, m.Tastes, m.Maturity, 0, 6)
			picks := row(home(), "picks")
			return picks != nil && picks.Titles[0].ID == want[0] && picks.Titles[1].ID == want[1] && picks.Titles[2].ID == want[2]
		}},
		{"duration", "streaming.playback.licence", "1m", func() bool {
			_, p := play(adult)
			return time.Until(time.Unix(p.Manifest.Expires, 0)) <= time.Minute
		}},
		{"limit", "streaming.playback.maxHeight", "720", func() bool { _, p := play(adult); return len(p.Manifest.Streams) == 2 }},
		{"limit", "streaming.catalog.maxTitles", "2", func() bool {
			_, body, _ := get1(t, d.api+"/browse/drama", adult, "")
			return len(decode[Browse](t, body).Row.Titles) == 2
		}},
		{"limit", "streaming.bookmarks.resumes", "1", func() bool { return len(home().Resume) == 1 }},
		{"limit", "streaming.members.maturity", "0", func() bool {
			return !slices.ContainsFunc(row(home(), "new").Titles, func(c Card) bool { return c.Maturity > 0 })
		}},
		{"percentage", "streaming.abtest.explorePercent", "100", func() bool { return home().Cells.Home == "explore" }},
		{"percentage", "streaming.billing.gracePercent", "100", func() bool { _, p := play(adult); return p.Plan.State == "grace" }},
		{"feature", "feature.freeWeekend.enabled", "true", func() bool { status, _ := play(lapsed); return status == http.StatusOK }},
		{"feature", "feature.abtests.enabled", "false", func() bool { return home().Cells == defaultCells }},
		{"feature", "feature.continueWatching.enabled", "false", func() bool { return len(home().Resume) == 0 }},
		{"time limit", timeLimit("recommendations"), "5", func() bool {
			return slices.Equal(home().Fallbacks, []string{"recommendations"})
		}},
		{"feature", "feature.recommendations.enabled", "false", func() bool {
			h := home()
			return row(h, "picks") == nil && len(h.Fallbacks) == 0
		}},
	} {
		if c.seen() {
			t.Errorf("%s %s: already as after the change; the test would see nothing", c.kind, c.key)
			continue
		}
		set(c.key, c.value)
		for until := time.Now().Add(time.Minute); !c.seen(); {
			if time.Now().After(until) {
				t.Errorf("%s %s=%s: nothing of it is seen after a minute", c.kind, c.key, c.value)
				break
			}
		}
	}
}
