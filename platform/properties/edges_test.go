package properties

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/roadbed/roadbed/config"
)

// edgesStore has routes and a limit of the edge's, a service's own property under the edge's prefix, beside which there is one for
// everybody and one for a zone, and something for all.
func edgesStore(t *testing.T) opened {
	t.Helper()
	s := open(t, t.TempDir())
	s.must(t, "common", "1", config.Scope{})
	s.must(t, "edge.routes", "the routes", config.Scope{})
	s.must(t, "edge.limit", "zone", config.Scope{Zone: "zone-a"})
	s.must(t, "edge.mine", "everybody", config.Scope{})
	s.must(t, "edge.mine", "api", config.Scope{App: "api"})
	return s
}

func TestWhatIsForTheEdgeIsSentToOthersOnlyIfTheyNameIt(t *testing.T) {
	s := edgesStore(t)
	h := s.Handler()
	const all, none = `"the routes"`, "-"
	filter := func(text string) string { return "/config/archaius2?filter=" + url.QueryEscape(text) }
	for _, c := range []struct {
		path   string
		routes string // how the answer writes edge.routes; none if it must not have it, nor edge.limit
		mine   string // and edge.mine
		common bool   // whether it has common
	}{
		{"/config/v1/resolve?appId=edge&zone=zone-a", all, `"edge.mine":"everybody"`, true},
		{"/config/v1/resolve?appId=EDGE&zone=zone-a", all, `"edge.mine":"everybody"`, true},
		{"/config/v1/resolve?asg=edge-prod-v001&zone=zone-a", all, `"edge.mine":"everybody"`, true}, // the app is known by the group
		{"/config/v1/resolve?zone=zone-a", all, `"edge.mine":"everybody"`, true},                    // a person, or whoever
		{"/config/v1/resolve?appId=api&zone=zone-a", none, `"edge.mine":"api"`, true},
		{"/config/v1/resolve?appId=web&zone=zone-a", none, none, true},
		{"/config/v1/resolve?appId=web&zone=zone-a&prefix=e", none, none, false},
		{"/config/v1/resolve?appId=web&zone=zone-a&prefix=edge.", all, `"edge.mine":"everybody"`, false},
		{"/config/v1/resolve?appId=api&zone=zone-a&prefix=edge.", all, `"edge.mine":"api"`, false},
		{"/config/v1/properties/edge.properties?zone=zone-a", "edge.routes=the routes", "edge.mine=everybody", true},
		{"/config/v1/properties/api.properties?zone=zone-a", none, "edge.mine=api", true},
		{"/config/v1/properties/web.properties?zone=zone-a", none, none, true},
		{filter("(appId='edge' or appId is null)"), all, `"value":"everybody"`, true},
		{filter("(appId='web' or appId='Edge' or appId is null)"), all, `"value":"everybody"`, true},
		{filter("(appId is null)"), all, `"value":"everybody"`, true},
		{filter(""), all, `"value":"everybody"`, true},
		{filter("(appId='api' or appId is null)"), none, `"key":"edge.mine","value":"api"`, true},
		{filter("(appId='web' or appId is null)"), none, none, true},
		{filter("(appId='web' or appId is null) and (prefix='edge.')"), all, `"value":"everybody"`, false},
		{"/config/spring/edge/prod/::zone-a", all, `"edge.mine":"everybody"`, true},
		{"/config/spring/web,edge/prod/::zone-a", all, `"edge.mine":"everybody"`, true},
		{"/config/spring/api/prod/::zone-a", none, `"edge.mine":"api"`, true},
		{"/config/spring/web/prod/::zone-a", none, none, true},
		{"/config/spring/::zone-a/api-prod.json", none, `"mine":"api"`, true},
		{"/config/spring/::zone-a/edge-prod.properties", "edge.routes=the routes", "edge.mine=everybody", true},
	} {
		got, _ := get(t, h, c.path)
		for _, part := range []struct {
			what, want string
		}{{"edge.routes", c.routes}, {"edge.mine", c.mine}} {
			if part.want != none && !strings.Contains(got, part.want) {
				t.Errorf("%s: got %s, want %s in it", c.path, got, part.want)
			}
		}
		if c.routes == none && (strings.Contains(got, "the routes") || strings.Contains(got, "limit")) || c.mine == none && strings.Contains(got, "mine") {
			t.Errorf("%s: got %s, want nothing in it that is for edges", c.path, got)
		}
		if strings.Contains(got, "common") != c.common {
			t.Errorf("%s: got %s, want common: %v", c.path, got, c.common)
		}
	}
	for _, key := range []string{"edge.routes", "edge.limit", "edge.mine"} {
		if _, ok := s.Value(config.Scope{App: "web", Zone: "zone-a"}, key); !ok {
			t.Errorf("%s by its name: got nothing, want its value", key)
		}
	}
	got, err := s.Resolve(config.Scope{App: "web", Zone: "zone-a"})
	if want := map[string]string{"common": "1"}; err != nil || fmt.Sprint(got.Properties) != fmt.Sprint(want) {
		t.Errorf("Resolve for web: got %v, %v; want %v", got.Properties, err, want)
	}
}

func TestAWatchOfAnotherAppHearsNothingOfTheEdges(t *testing.T) {
	s := edgesStore(t)
	open := func(scope config.Scope, prefix string) (*watch, string) {
		w := &watch{s: s.Store, c: asCaller(scope, Platform).asking(prefix), prefix: prefix}
		first, err := w.begin("")
		if err != nil {
			t.Fatal(err)
		}
		return w, string(first)
	}
	api, first := open(config.Scope{App: "api"}, "")
	if strings.Contains(first, "edge.routes") || !strings.Contains(first, `"edge.mine":"api"`) {
		t.Errorf("api's snapshot: got %q, want its own edge.mine and no routes", first)
	}
	edge, first := open(config.Scope{App: "edge"}, "")
	if !strings.Contains(first, "the routes") {
		t.Errorf("the edge's snapshot: got %q, want routes", first)
	}
	named, first := open(config.Scope{App: "web"}, "edge.routes")
	if !strings.Contains(first, "the routes") {
		t.Errorf("the snapshot of one who names them: got %q, want routes", first)
	}
	s.must(t, "edge.routes", "others", config.Scope{})
	s.must(t, "edge.mine", "everybody 2", config.Scope{})
	for _, c := range []struct {
		who  string
		w    *watch
		want []string
	}{{"api", api, nil}, {"the edge", edge, []string{`"others"`, `"everybody 2"`}}, {"web, which names edge.routes", named, []string{`"others"`}}} {
		got, err := c.w.news(nil)
		if err != nil || strings.Count(string(got), "event: ") != len(c.want) {
			t.Errorf("%s hears %q, %v; want %v", c.who, got, err, c.want)
		}
		for _, want := range c.want {
			if !strings.Contains(string(got), want) {
				t.Errorf("%s hears %q, want %s", c.who, got, want)
			}
		}
	}
	s.must(t, "edge.mine", "api 2", config.Scope{App: "api"})
	if got, err := api.news(nil); err != nil || !strings.Contains(string(got), `"api 2"`) {
		t.Errorf("after a change of its own, api hears %q, %v", got, err)
	}
	// Once its own is deleted it has none: what is left is the edge's.
	if err := s.Delete(t.Context(), ID("edge.mine", config.Scope{App: "api"}), Any); err != nil {
		t.Fatal(err)
	}
	if got, err := api.news(nil); err != nil || !strings.Contains(string(got), `"key":"edge.mine","value":null`) {
		t.Errorf("after the deletion of its own, api hears %q, %v; want that it has none", got, err)
	}
}

func TestAClientOfAnAppHoldsNothingOfTheEdges(t *testing.T) {
	s := edgesStore(t)
	url := serve(t, s.Handler())
	web, edge := follow(t, url, config.Scope{App: "web", Instance: "w-1"}), follow(t, url, config.Scope{App: "edge", Instance: "e-1"})
	await(t, edge.String("edge.routes", ""), "the routes")
	common := web.String("common", "")
	await(t, common, "1")
	s.must(t, "edge.routes", "others", config.Scope{})
	s.must(t, "common", "2", config.Scope{})
	await(t, common, "2") // it would have heard of the routes before
	await(t, edge.String("edge.routes", ""), "others")
	if text, ok := web.Lookup("edge.routes"); ok {
		t.Errorf("web holds edge.routes=%q, want nothing", text)
	}
}

func TestExplainSaysThatAPropertyIsTheEdges(t *testing.T) {
	s := edgesStore(t)
	if _, err := s.Set(t.Context(), Property{Key: "edge.secret", Value: "hunter2", Sensitive: true}, Any); err != nil {
		t.Fatal(err)
	}
	ix := s.index.Load()
	why := func(key string, scope config.Scope) (won string, reasons []string) {
		for _, c := range ix.explain(key, scope, Platform) {
			if c.Wins {
				won = c.Value
			}
			reasons = append(reasons, c.Reason)
		}
		return won, reasons
	}
	const edges = "is for the edge, as every edge.* that names no app is; the caller says appId "
	if won, reasons := why("edge.routes", config.Scope{App: "web"}); won != "" || !slices.Equal(reasons, []string{edges + "web"}) {
		t.Errorf("edge.routes for web: got %q %q", won, reasons)
	}
	if won, reasons := why("edge.mine", config.Scope{App: "api"}); won != "api" || !slices.Equal(reasons, []string{"the most specific that matches", edges + "api"}) {
		t.Errorf("edge.mine for api: got %q %q", won, reasons)
	}
	if won, reasons := why("edge.routes", config.Scope{App: "edge"}); won != "the routes" || !slices.Equal(reasons, []string{"for everybody, and nothing more specific matches"}) {
		t.Errorf("edge.routes for the edge: got %q %q", won, reasons)
	}
	// An explanation tells what a process gets that names nothing, whatever the question is narrowed to.
	for _, prefix := range []string{"", "edge."} {
		got, _ := get(t, s.Handler(), "/config/v1/resolve?explain=true&appId=web&prefix="+prefix)
		properties, _, _ := strings.Cut(got, `"explain"`)
		if strings.Contains(properties, "edge.") || !strings.Contains(got, edges+"web") || strings.Contains(got, "hunter2") {
			t.Errorf("explain with prefix %q: got %s, want no edge.* among the properties, why, and no secret", prefix, got)
		}
	}
}

func TestARolloutOfTheEdgesReachesEdgesAlone(t *testing.T) {
	p := Property{Key: "edge.routes", Value: "others"}
	p.ID = ID(p.Key, p.Scope)
	r := &Rollout{ID: "r", Changes: []Edit{{Op: SetOp, Record: p}}}
	for app, want := range map[string]bool{"edge": true, "api": false} {
		if got := r.concerns(asCaller(config.Scope{App: app, Instance: "i-1"}, Platform)); got != want {
			t.Errorf("it concerns %s: got %v, want %v", app, got, want)
		}
	}
	r.Changes[0].Record.Scope = config.Scope{App: "api"}
	if !r.concerns(asCaller(config.Scope{App: "api", Instance: "i-1"}, Platform)) {
		t.Error("one of the api's own edge.routes does not concern the api")
	}
	r = &Rollout{ID: "r", State: Running, Steps: []Step{{Selector: Selector{All: true}}}, Changes: []Edit{{Op: SetOp, Record: p}}}
	ix := staged([]Property{{ID: p.ID, Key: p.Key, Value: "the routes", Rev: 1}}, r)
	for app, want := range map[string]string{"edge": "map[edge.routes:others]", "api": "map[]"} {
		if got := fmt.Sprint(ix.resolve(asCaller(config.Scope{App: app}, Platform), "").Properties); got != want {
			t.Errorf("%s sees %s of a roll-out, want %s", app, got, want)
		}
	}
}
