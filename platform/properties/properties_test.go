package properties

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/engine/enginetest"
	"github.com/roadbed/roadbed/platform/ledger"
)

// The engine's server keeps one clock for all its instances. It is started here, outside every bubble of synctest, in which it
// would keep time from going on.
func TestMain(m *testing.M) {
	ats.Register()
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"), enginetest.Forgotten)
}

var quiet = slog.New(slog.DiscardHandler)

// opened is a store on a real engine, with Run running.
type opened struct {
	*Store
	engine *engine.Engine
	ledger *ledger.Ledger
}

func open(t testing.TB, dir string) opened {
	t.Helper()
	e, err := engine.Open(t.Context(), engine.Config{Dir: dir, Log: quiet})
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
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := e.Close(); err != nil {
			t.Errorf("close the engine: %v", err)
		}
	})
	return opened{s, e, l}
}

func (o opened) must(t testing.TB, key, value string, scope config.Scope) Property {
	t.Helper()
	p, err := o.Set(AllowGlobal(api.As(t.Context(), "ana", "test")), Property{Key: key, Value: value, Scope: scope}, Any)
	if err != nil {
		t.Fatalf("set %s=%s: %v", key, value, err)
	}
	return p
}

func TestTheExampleOfThePackageComment(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "timeout", "1000", config.Scope{})
	s.must(t, "timeout", "900", config.Scope{App: "api"})
	s.must(t, "timeout", "800", config.Scope{App: "api", Region: "eu"})
	s.must(t, "timeout", "700", config.Scope{App: "api", Region: "eu", Group: "api-prod-v042"})
	for _, c := range []struct {
		caller config.Scope
		want   string
	}{
		{config.Scope{App: "api", Region: "us"}, "900"},
		{config.Scope{App: "API", Region: "EU"}, "800"},
		{config.Scope{Region: "eu", Group: "api-prod-v042"}, "700"}, // the app is known by the group
		{config.Scope{App: "other", Region: "eu"}, "1000"},
	} {
		got, err := s.Resolve(c.caller)
		if err != nil || got.Properties["timeout"] != c.want {
			t.Errorf("timeout for %+v: got %q, %v; want %q", c.caller, got.Properties["timeout"], err, c.want)
		}
		if v, ok := s.Value(c.caller, "timeout"); !ok || v != c.want {
			t.Errorf("Value for %+v: got %q, want %q", c.caller, v, c.want)
		}
	}
}

// indexOf returns the index of these records.
func indexOf(ps ...Property) *index { return staged(ps) }

// staged returns the index of these records and of what roll-outs show.
func staged(ps []Property, rollouts ...*Rollout) *index {
	ix := &index{step: newStep(), count: len(ps)}
	byKey, byApp := map[string][]*record{}, map[string][]*record{}
	var records []*record
	for _, p := range ps {
		records = append(records, newRecord(p))
	}
	for _, r := range rollouts {
		records = append(records, r.shows()...)
	}
	for _, r := range records {
		byKey[r.Key] = append(byKey[r.Key], r)
		for _, app := range r.apps() {
			byApp[appName(app, r.Key)] = append(byApp[appName(app, r.Key)], r)
		}
	}
	build := func(m map[string][]*record) shelf {
		var slots []slot
		for _, name := range slices.Sorted(maps.Keys(m)) {
			slots = append(slots, slot{name, replaced(nil, nil, m[name])})
		}
		return shelf(nil).with(slots)
	}
	ix.keys, ix.apps = build(byKey), build(byApp)
	return ix
}

// TestPrecedenceAgreesWithANaiveModel compares the index with the rule said in words: of the records whose fields
// all fit, go through the fields from the most specific; at the first where some have a value, drop those without.
func TestPrecedenceAgreesWithANaiveModel(t *testing.T) {
	field := rapid.SampledFrom([]string{"", "", "", "a", "B", "a,c", "b,C"})
	scope := func(field *rapid.Generator[string]) *rapid.Generator[config.Scope] {
		return rapid.Custom(func(t *rapid.T) config.Scope {
			d := func(n string) string { return field.Draw(t, n) }
			return config.Scope{Env: d("env"), App: d("app"), Stack: d("stack"), Region: d("region"), Zone: d("zone"), Cluster: d("cluster"), Group: d("group"), AMI: d("ami"), Instance: d("instance"), Countries: d("countries")}
		})
	}
	specific := map[Order][]string{
		Platform: {"serverId", "asg", "ami", "cluster", "zone", "region", "stack", "appId", "env", "countries"},
		Netflix:  {"serverId", "asg", "ami", "cluster", "appId", "env", "countries", "stack", "zone", "region"},
	}
	rapid.Check(t, func(t *rapid.T) {
		scopes := rapid.SliceOfN(scope(field), 0, 8).Draw(t, "records")
		who := scope(rapid.SampledFrom([]string{"", "a", "A", "b", "c"})).Draw(t, "caller")
		order := rapid.SampledFrom([]Order{Platform, Netflix}).Draw(t, "order")
		var model []Property
		for i, sc := range scopes {
			p := Property{Key: []string{"k", "k2"}[i%2], Value: fmt.Sprint(i), Scope: canonical(sc), Rev: uint64(i + 1)}
			model = append(model, p)
		}
		ix := indexOf(model...)
		got := ix.resolve(asCaller(who, order), "").Properties
		want := map[string]string{}
		for _, key := range []string{"k", "k2"} {
			var left []Property
			for _, p := range model {
				fits := p.Key == key
				for i, f := range fields(p.Scope) {
					fits = fits && (f == "" || slices.ContainsFunc(strings.Split(f, ","), func(v string) bool { return strings.EqualFold(v, fields(who)[i]) }))
				}
				if fits {
					left = append(left, p)
				}
			}
			for _, name := range specific[order] {
				i := slices.Index(fieldNames[:], name)
				if slices.ContainsFunc(left, func(p Property) bool { return fields(p.Scope)[i] != "" }) {
					left = slices.DeleteFunc(left, func(p Property) bool { return fields(p.Scope)[i] == "" })
				}
			}
			if len(left) > 0 {
				want[key] = left[len(left)-1].Value // the newest
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("records %+v, caller %+v: got %v, want %v", model, who, got, want)
		}
		for _, key := range []string{"k", "k2"} {
			wins := 0
			for _, c := range ix.explain(key, who, order) {
				if c.Reason == "" {
					t.Fatalf("candidate %+v has no reason", c)
				}
				if c.Wins {
					wins++
					if c.Value != want[key] {
						t.Fatalf("explain %s: %q wins, want %q", key, c.Value, want[key])
					}
				}
			}
			if _, any := want[key]; any != (wins == 1) {
				t.Fatalf("explain %s: %d winners, want one: %v", key, wins, any)
			}
		}
	})
}

func TestAWriteIsInTheLedgerAndSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	t.Run("write", func(t *testing.T) {
		s := open(t, dir)
		s.must(t, "k", "1", config.Scope{App: "api"})
		p := s.must(t, "k", "2", config.Scope{App: "api"})
		if err := s.Delete(api.As(t.Context(), "bob", ""), p.ID, p.Rev); err != nil {
			t.Fatal(err)
		}
		s.must(t, "left", "x", config.Scope{})
		changes, err := s.ledger.List(t.Context(), ledger.Query{Resource: "property:k"})
		if err != nil || len(changes) != 3 {
			t.Fatalf("changes of k: got %d, %v; want 3", len(changes), err)
		}
		var del, set = changes[0], changes[1]
		var before Property
		if err := json.Unmarshal(set.Before, &before); err != nil || before.Value != "1" || set.Actor != "ana" || set.Why != "test" {
			t.Errorf("second set: got actor %s why %q before %s; want ana, test and value 1", set.Actor, set.Why, set.Before)
		}
		if del.Actor != "bob" || del.Action != "property.delete" || del.After != nil || del.Result != roadbed.Succeeded {
			t.Errorf("delete: got %+v", del)
		}
	})
	t.Run("restart", func(t *testing.T) {
		s := open(t, dir)
		got, err := s.Resolve(config.Scope{App: "api"})
		if want := map[string]string{"left": "x"}; err != nil || fmt.Sprint(got.Properties) != fmt.Sprint(want) {
			t.Errorf("after a restart: got %v, %v; want %v", got.Properties, err, want)
		}
		past, err := s.History(t.Context(), ID("k", config.Scope{App: "api"}))
		if err != nil || len(past) != 3 || past[0].Value != "1" || past[1].Value != "2" || !past[2].Deleted || past[2].UpdatedBy != "bob" {
			t.Errorf("history of k: got %+v, %v; want 1, 2, deleted by bob", past, err)
		}
	})
}

func TestTheOrderOfScopesIsTheStoresOrTheRequests(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "k", "zone", config.Scope{Zone: "zone-a"})
	s.must(t, "k", "app", config.Scope{App: "api"})
	h := s.Handler()
	for query, want := range map[string]string{"": "zone", "&scopeOrder=platform": "zone", "&scopeOrder=netflix": "app"} {
		if body, _ := get(t, h, "/config/v1/resolve?appId=api&zone=zone-a"+query); !strings.Contains(body, `"k":"`+want+`"`) {
			t.Errorf("resolve%s: got %s, want %s", query, body, want)
		}
	}
	s.order = Netflix
	if v, _ := s.Value(config.Scope{App: "api", Zone: "zone-a"}, "k"); v != "app" {
		t.Errorf("in a store of Netflix's order: got %q, want app", v)
	}
}

func TestImagesAndCountriesAreScopesToo(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "k", "all", config.Scope{})
	s.must(t, "k", "nordic", config.Scope{Countries: "DK,se"})
	s.must(t, "k", "image", config.Scope{AMI: "ami-1"})
	for query, want := range map[string]string{"": "all", "?countries=dk": "nordic", "?countries=us": "all", "?ami=AMI-1&countries=se": "image"} {
		if body, _ := get(t, s.Handler(), "/config/v1/resolve"+query); !strings.Contains(body, `"k":"`+want+`"`) {
			t.Errorf("resolve%s: got %s, want %s", query, body, want)
		}
	}
}

func TestIDsOfBeforeThereWereImagesAndCountriesStay(t *testing.T) {
	if got, want := ID("k", config.Scope{App: "api", Region: "eu"}), "p_cbe62cadd907ee6302dba06976452722"; got != want {
		t.Errorf("got %s, want %s, as it is stored", got, want)
	}
	seen := map[string]config.Scope{}
	for _, sc := range []config.Scope{{}, {AMI: "x"}, {Countries: "x"}, {Env: "x"}, {AMI: "x", Countries: "x"}, {AMI: "countries:1:x"}} {
		id := ID("k", sc)
		if other, taken := seen[id]; taken {
			t.Errorf("%+v and %+v share the id %s", sc, other, id)
		}
		seen[id] = sc
	}
}

func TestTheServerInterpolatesOnRequest(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "url", "http://${db.host}:${db.port:5432}/", config.Scope{})
	s.must(t, "db.host", "db-${zone:any}", config.Scope{})
	s.must(t, "a", "${b}", config.Scope{})
	s.must(t, "b", "${a}", config.Scope{})
	for query, want := range map[string]string{
		"":                           `"url":"http://${db.host}:${db.port:5432}/"`,
		"?interpolate=true":          `"url":"http://db-any:5432/"`,
		"?interpolate=true&prefix=u": `{"url":"http://db-any:5432/"}`,
		"?interpolate=true&prefix=a": `{"a":"${b}"}`,
	} {
		if body, _ := get(t, s.Handler(), "/config/v1/resolve"+query); !strings.Contains(body, want) {
			t.Errorf("resolve%s: got %s, want %s", query, body, want)
		}
	}
}

func TestAnAppMayHaveSoManyProperties(t *testing.T) {
	s := open(t, t.TempDir())
	p := s.must(t, "first", "1", config.Scope{App: "api"})
	s.mu.Lock()
	s.perApp["api"] = MaxPerApp // as if they were there
	s.mu.Unlock()
	if _, err := s.Set(t.Context(), Property{Key: "more", Value: "1", Scope: config.Scope{App: "web,API"}}, Any); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "api has 10000") {
		t.Errorf("one more than the api may have: got %v, want ErrInvalid that names the api", err)
	}
	s.must(t, "first", "2", config.Scope{App: "api"}) // is there already
	s.must(t, "more", "1", config.Scope{App: "web"})
	if err := s.Delete(t.Context(), p.ID, Any); err != nil {
		t.Fatal(err)
	}
	s.must(t, "more", "1", config.Scope{App: "api"})
}

// TestAShelfAgreesWithAMap applies random batches, and walks from everywhere.
func TestAShelfAgreesWithAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s shelf
		model := map[string][]*record{}
		name := rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("%04d", rapid.IntRange(0, 1500).Draw(t, "n")) })
		for range rapid.IntRange(1, 6).Draw(t, "batches") {
			batch := map[string][]*record{}
			for range rapid.IntRange(0, 700).Draw(t, "size") {
				n := name.Draw(t, "name")
				batch[n] = nil
				if rapid.IntRange(0, 3).Draw(t, "keep") > 0 {
					batch[n] = []*record{{}}
				}
			}
			var slots []slot
			for _, n := range slices.Sorted(maps.Keys(batch)) {
				slots = append(slots, slot{n, batch[n]})
				if model[n] = batch[n]; batch[n] == nil {
					delete(model, n)
				}
			}
			before := fmt.Sprint(names(s, ""))
			next := s.with(slots)
			if after := fmt.Sprint(names(s, "")); after != before {
				t.Fatalf("the shelf changed from %s to %s", before, after)
			}
			s = next
			from := name.Draw(t, "from")
			want := slices.DeleteFunc(slices.Sorted(maps.Keys(model)), func(n string) bool { return n < from })
			if got := names(s, from); !slices.Equal(got, want) {
				t.Fatalf("from %s: got %v, want %v", from, got, want)
			}
			if n := name.Draw(t, "get"); fmt.Sprintf("%p", s.get(n)) != fmt.Sprintf("%p", model[n]) {
				t.Fatalf("get %s: got %v, want %v", n, s.get(n), model[n])
			}
			for _, p := range s {
				if len(p) == 0 || len(p) > pageMost {
					t.Fatalf("a page of %d slots", len(p))
				}
			}
		}
	})
}

func names(s shelf, from string) []string {
	out := []string{}
	for c := s.from(from); c.peek() != nil; c.step() {
		out = append(out, c.peek().name)
	}
	return out
}

func TestRevisionsGuardWrites(t *testing.T) {
	s := open(t, t.TempDir())
	ctx := t.Context()
	p := s.must(t, "k", "1", config.Scope{})
	if _, err := s.Set(ctx, Property{Key: "k", Value: "2"}, Absent); !errors.Is(err, ErrExists) {
		t.Errorf("create what exists: got %v, want ErrExists", err)
	}
	q, err := s.Set(ctx, Property{Key: "k", Value: "2"}, p.Rev)
	if err != nil || q.Rev <= p.Rev {
		t.Errorf("set at the current revision: got %d, %v; want more than %d", q.Rev, err, p.Rev)
	}
	if _, err := s.Set(ctx, Property{Key: "k", Value: "3"}, p.Rev); !errors.Is(err, ErrConflict) {
		t.Errorf("set at an old revision: got %v, want ErrConflict", err)
	}
	if err := s.Delete(ctx, p.ID, p.Rev); !errors.Is(err, ErrConflict) {
		t.Errorf("delete at an old revision: got %v, want ErrConflict", err)
	}
	if err := s.Delete(ctx, p.ID, q.Rev); err != nil {
		t.Errorf("delete at the current revision: %v", err)
	}
	if err := s.Delete(ctx, p.ID, Any); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete what is gone: got %v, want ErrNotFound", err)
	}
	if _, err := s.Set(ctx, Property{Key: "k", Value: "4"}, q.Rev); !errors.Is(err, ErrConflict) {
		t.Errorf("set what was deleted: got %v, want ErrConflict", err)
	}
	if _, err := s.Set(ctx, Property{Key: "k", Value: "5"}, Absent); err != nil {
		t.Errorf("create what was deleted: %v", err)
	}
}

func TestAValueThatBreaksItsTypeOrConstraintIsRefused(t *testing.T) {
	f := func(v float64) *float64 { return &v }
	for _, c := range []struct {
		typ, value string
		con        *Constraint
		ok         bool
	}{
		{"", "anything", nil, true}, {"string", "", nil, true}, {"int", " 42 ", nil, true}, {"int", "4.2", nil, false}, {"long", "9223372036854775808", nil, false},
		{"float", "1e3", nil, true}, {"float", "x", nil, false}, {"bool", "ON", nil, true}, {"bool", "maybe", nil, false},
		{"duration", "250", nil, true}, {"duration", "1m", nil, true}, {"duration", "1 minute", nil, false},
		{"map", "", nil, true}, {"map", "a=1,b=", nil, true}, {"map", "a", nil, false}, {"map", "=1", nil, false},
		{"json", `{"a":1}`, nil, true}, {"json", `{"a":`, nil, false}, {"regex", "a+", nil, true}, {"regex", "a(", nil, false},
		{"enum(a, b|c)", "b", nil, true}, {"enum(a,b)", "d", nil, false}, {"enum", "a", nil, false}, {"color", "red", nil, false},
		{"int", "50", &Constraint{Min: f(50), Max: f(60)}, true}, {"int", "49", &Constraint{Min: f(50)}, false}, {"int", "61", &Constraint{Max: f(60)}, false},
		{"float", "NaN", &Constraint{Min: f(0)}, false}, {"duration", "2s", &Constraint{Max: f(1999)}, false}, {"string", "x", &Constraint{Min: f(1)}, false},
		{"", "abc", &Constraint{Pattern: "[a-z]+"}, true}, {"", "abc1", &Constraint{Pattern: "[a-z]+"}, false}, {"", "a", &Constraint{Pattern: "("}, false},
		{"", "a\xff", nil, false}, {"", strings.Repeat("x", MaxValue+1), nil, false},
		{"gzip", config.Pack("- id: a"), nil, true}, {"gzip", "- id: a", nil, false}, {"gzip", config.Pack(letters(2 * MaxValue)), nil, true}, {"", config.Pack(letters(2 * MaxValue)), nil, false},
		{"gzip", config.Pack(letters(2 * MaxPacked)), nil, false},
	} {
		err := Property{Key: "k", Type: c.typ, Value: c.value, Constraint: c.con}.check()
		if c.ok != (err == nil) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("type %q value %.40q constraint %+v: got %v, want ok %v", c.typ, c.value, c.con, err, c.ok)
		}
	}
	for _, key := range []string{"", " k", "k\n", "k\x00k", strings.Repeat("k", MaxKey+1)} {
		if err := (Property{Key: key}).check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("key %.20q: got %v, want ErrInvalid", key, err)
		}
	}
}

// letters is a text that hardly packs.
func letters(n int) string {
	b := make([]byte, n/2)
	rand.NewChaCha8([32]byte{}).Read(b) //nolint:errcheck // never fails
	return hex.EncodeToString(b)
}

func TestTheLedgerHasALongValuesHashAndTheHistoryTheValue(t *testing.T) {
	s := open(t, t.TempDir())
	long := config.Pack(letters(4 * MaxValue))
	p, err := s.Set(t.Context(), Property{Key: "k", Value: long, Type: "gzip"}, Any)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = s.Set(t.Context(), Property{Key: "k", Value: config.Pack("short"), Type: "gzip"}, p.Rev); err != nil {
		t.Fatal(err)
	}
	past, err := s.History(t.Context(), p.ID)
	if err != nil || len(past) != 2 || past[0].Value != long {
		t.Errorf("the history has %d versions, %v; want 2, the first with the whole value", len(past), err)
	}
	changes, err := s.ledger.List(t.Context(), ledger.Query{Resource: "property:k"})
	if err != nil || len(changes) != 2 {
		t.Fatalf("the ledger has %d entries, %v", len(changes), err)
	}
	for _, c := range changes {
		if len(c.Before)+len(c.After) > 4096 {
			t.Errorf("the entry at %v has %d bytes, want a hash in place of the value", c.Time, len(c.Before)+len(c.After))
		}
	}
}

func TestANewScopeOfATypedKeyIsCheckedToo(t *testing.T) {
	s := open(t, t.TempDir())
	least := 50.0
	if _, err := s.Set(t.Context(), Property{Key: "k", Value: "100", Type: "int", Constraint: &Constraint{Min: &least}}, Any); err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"many", "10"} {
		if _, err := s.Set(t.Context(), Property{Key: "k", Value: v, Scope: config.Scope{App: "api"}}, Any); !errors.Is(err, ErrInvalid) {
			t.Errorf("k=%s for the api: got %v, want ErrInvalid by the type of the global record", v, err)
		}
	}
}

func TestASensitiveValueIsDeliveredButNeverShown(t *testing.T) {
	s := open(t, t.TempDir())
	const secret = "hunter2"
	p, err := s.Set(t.Context(), Property{Key: "db.password", Value: secret, Sensitive: true}, Any)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Set(t.Context(), Property{Key: "db.password", Value: secret + "3"}, Any); err != nil { // still sensitive
		t.Fatal(err)
	}
	if _, err := s.Set(t.Context(), Property{Key: "db.password", Value: secret + "4", Scope: config.Scope{App: "x"}}, Any); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Set(t.Context(), Property{Key: "db.password", Value: Mask}, Any); !errors.Is(err, ErrInvalid) {
		t.Errorf("writing the mask back: got %v, want ErrInvalid", err)
	}
	for _, path := range []string{"properties", "properties/" + p.ID, "history?key=db.password", "resolve?explain=true"} {
		body, _ := get(t, s.Handler(), "/config/v1/"+path)
		if strings.Contains(body, secret) || !strings.Contains(body, "sensitive") {
			t.Errorf("%s: got %s, want the mask in place of the value", path, body)
		}
	}
	changes, err := s.ledger.List(t.Context(), ledger.Query{})
	if b, _ := json.Marshal(changes); err != nil || bytes.Contains(b, []byte(secret)) {
		t.Errorf("the ledger shows the value: %s, %v", b, err)
	}
	if body, _ := get(t, s.Handler(), "/config/v1/resolve"); !strings.Contains(body, secret+"3") {
		t.Errorf("resolve: got %s, want the value", body)
	}
}

func TestDeletingManyNeedsAConfirmationOfExactlyThose(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range 20 {
		s.must(t, fmt.Sprintf("k.%02d", i), "v", config.Scope{App: "api"})
	}
	few, _ := ParseFilter("(key='k.00' or key='k.01')")
	if gone, err := s.DeleteAll(t.Context(), few, ""); err != nil || len(gone) != 2 {
		t.Errorf("2 of 20: got %d, %v; want 2 deleted without a word", len(gone), err)
	}
	all, _ := ParseFilter("appId='api'")
	_, err := s.DeleteAll(t.Context(), all, "")
	var ask *Unconfirmed
	if !errors.As(err, &ask) || ask.Count != 18 {
		t.Fatalf("18 of 18: got %v, want Unconfirmed with a count of 18", err)
	}
	s.must(t, "k.05", "changed", config.Scope{App: "api"})
	if _, err := s.DeleteAll(t.Context(), all, ask.Token); !errors.As(err, &ask) {
		t.Errorf("after one of them changed: got %v, want a new confirmation", err)
	}
	if gone, err := s.DeleteAll(t.Context(), all, ask.Token); err != nil || len(gone) != 18 {
		t.Errorf("confirmed: got %d, %v; want 18 deleted", len(gone), err)
	}
	if left := s.List(Filter{}); len(left) != 0 {
		t.Errorf("left: got %d, want 0", len(left))
	}
}

func TestASearchFindsWhatAPersonSeesAndNoSecret(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "db.timeout", "250", config.Scope{App: "api", Region: "eu"})
	s.must(t, "db.host", "localhost", config.Scope{Group: "api-v001"})
	if _, err := s.Set(t.Context(), Property{Key: "db.password", Value: "hunter2", Sensitive: true, Description: "of the main database"}, Any); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		query string
		want  string // keys, and how many more there are
	}{
		{"q=TIMEOUT", "db.timeout 0"},
		{"q=local", "db.host 0"},
		{"q=app%3Dapi", "db.timeout 0"},
		{"q=appId%3Dapi", "db.timeout 0"},
		{"q=group%3Dapi-v001", "db.host 0"},
		{"q=region%3Deu+250", "db.timeout 0"},
		{"q=main+database", "db.password 0"},
		{"q=hunter2", " 0"},
		{"q=ana", "db.host,db.timeout 0"},
		{"q=db&limit=2", "db.host,db.password 1"},
		{"q=db&prefix=db.h", "db.host 0"},
		{"filter=q%3D'db'+and+appId%3D'api'", "db.timeout 0"},
	} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "http://localhost/config/v1/properties?"+c.query, nil))
		var found Listing
		if err := json.Unmarshal(w.Body.Bytes(), &found); err != nil {
			t.Fatalf("%s: %v in %s", c.query, err, w.Body)
		}
		var keys []string
		for _, p := range found.Properties {
			keys = append(keys, p.Key)
		}
		if got := fmt.Sprintf("%s %d", strings.Join(keys, ","), found.More); got != c.want {
			t.Errorf("%s: got %q, want %q", c.query, got, c.want)
		}
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "http://localhost/config/v1/properties?limit=none", nil))
	if w.Code != 400 || !strings.Contains(w.Body.String(), "1 or more") {
		t.Errorf("limit=none: got %d %s, want a 400 that says what is allowed", w.Code, w.Body)
	}
}

func TestAnUnconfirmedDeletionTellsItsTokenToPrograms(t *testing.T) {
	s := open(t, t.TempDir())
	for _, k := range []string{"a.1", "a.2", "b"} {
		s.must(t, k, "v", config.Scope{})
	}
	ask := func(query string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest("DELETE", "http://localhost/config/v1/properties?prefix=a."+query, nil))
		return w
	}
	w := ask("")
	var problem struct {
		Errors []struct{ Location, Value string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil || w.Code != 428 || len(problem.Errors) != 1 || problem.Errors[0].Location != "query.confirm" {
		t.Fatalf("got %d %s (%v), want a 428 with the token at query.confirm", w.Code, w.Body, err)
	}
	if w := ask("&confirm=" + problem.Errors[0].Value); w.Code != 200 {
		t.Errorf("with the token: got %d %s, want 200", w.Code, w.Body)
	}
}

func TestReadsGoOnAndWritesAreRefusedWithTheEngineAway(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "k", "1", config.Scope{})
	if err := s.engine.Close(); err != nil {
		t.Fatal(err)
	}
	s.stale.Store(time.Now().Add(-5 * time.Second).UnixNano()) // what Run does within a second
	body, h := get(t, s.Handler(), "/config/v1/resolve")
	if !strings.Contains(body, `"k":"1"`) || h.Get(StaleHeader) != "5" {
		t.Errorf("resolve: got %s with %s %q, want k and 5", body, StaleHeader, h.Get(StaleHeader))
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, request("POST", "/config/v1/properties", `{"key":"k","value":"2"}`))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("write: got %d %s, want 503", w.Code, w.Body)
	}
	if v, _ := s.Value(config.Scope{}, "k"); v != "1" {
		t.Errorf("after a refused write: got %q, want 1", v)
	}
}

func request(method, path, body string) *http.Request {
	r := httptest.NewRequest(method, "http://127.0.0.1"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return r
}

func get(t *testing.T, h http.Handler, path string) (string, http.Header) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, request("GET", path, ""))
	if w.Code != http.StatusOK {
		t.Errorf("GET %s: got %d %s, want 200", path, w.Code, w.Body)
	}
	return w.Body.String(), w.Header()
}

func TestHTTPWrites(t *testing.T) {
	s := open(t, t.TempDir())
	h := s.Handler()
	id := ID("k", config.Scope{App: "api"})
	for _, c := range []struct {
		name, method, path, body, header, value string
		want                                    int
		says                                    string
	}{
		{"create", "POST", "/properties", `{"key":"k","value":"1","type":"int","appId":"api"}`, "If-None-Match", "*", 200, `"updatedBy":"ana"`},
		{"create again", "POST", "/properties", `{"key":"k","value":"1","appId":"API"}`, "If-None-Match", "*", 409, "exists"},
		{"bad type", "PUT", "/properties/" + id, `{"key":"k","value":"x","appId":"api"}`, "", "", 422, "whole number"},
		{"update", "PUT", "/properties/" + id, `{"key":"k","value":"2","appId":"api"}`, "", "", 200, `"value":"2"`},
		{"stale update", "PUT", "/properties/" + id, `{"key":"k","value":"3","appId":"api"}`, "If-Match", `"1"`, 409, "read it again"},
		{"stale update, answered with what is there", "PUT", "/properties/" + id, `{"key":"k","value":"3","appId":"api"}`, "If-Match", `"1"`, 409, `"value":{"propertyId":"` + id + `","key":"k","value":"2"`},
		{"stale deletion, too", "DELETE", "/properties/" + id, "", "If-Match", `"1"`, 409, `"value":{"propertyId":"` + id + `","key":"k","value":"2"`},
		{"nonsense precondition", "PUT", "/properties/" + id, `{"key":"k","value":"3","appId":"api"}`, "If-Match", `"x"`, 400, "If-Match"},
		{"moved scope", "PUT", "/properties/" + id, `{"key":"k","value":"3"}`, "", "", 422, "never change"},
		{"mistyped scope", "POST", "/properties", `{"key":"k","value":"3","app":"api"}`, "", "", 400, "app"},
		{"unknown image scope", "POST", "/properties", `{"key":"k","value":"3","image":"x"}`, "", "", 400, "image"},
		{"global override", "POST", "/properties", `{"key":"g","value":"3","zone":"zone-a"}`, "", "", 428, "confirm=global"},
		{"global override, confirmed", "POST", "/properties?confirm=global", `{"key":"g","value":"3","zone":"zone-a"}`, "", "", 200, `"zone":"zone-a"`},
		{"delete it", "DELETE", "/properties/" + ID("g", config.Scope{Zone: "zone-a"}), "", "", "", 204, ""},
		{"unknown order", "GET", "/resolve?scopeOrder=mine", "", "", "", 400, "platform or netflix"},
		{"ambiguous", "POST", "/properties", `{"key":"k","value":"3","appId":"api,web"}`, "", "", 200, "exactly as specific"},
		{"bad filter", "GET", "/properties?filter=(", "", "", "", 400, "at byte 1"},
		{"all", "DELETE", "/properties", "", "", "", 400, "say which"},
		{"many", "DELETE", "/properties?prefix=k", "", "", "", 428, "confirm="},
		{"delete", "DELETE", "/properties/" + id, "", "", "", 204, ""},
		{"delete again", "DELETE", "/properties/" + id, "", "", "", 404, "no such property"},
		{"get deleted", "GET", "/properties/" + id, "", "", "", 404, "no such property"},
		{"history without key", "GET", "/history", "", "", "", 400, "key"},
		{"history of nothing", "GET", "/history?key=never", "", "", "", 404, "ever"},
		{"history", "GET", "/history?key=k&appId=api", "", "", "", 200, `"deleted":true`},
	} {
		r := request(c.method, "/config/v1"+c.path, c.body)
		r.Header.Set(api.ActorHeader, "ana")
		if c.header != "" {
			r.Header.Set(c.header, c.value)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s: got %d %s; want %d and %q", c.name, w.Code, w.Body, c.want, c.says)
		}
	}
	body, header := get(t, h, "/config/v1/resolve?appId=web")
	if !strings.Contains(body, `"k":"3"`) {
		t.Errorf("resolve for web: got %s", body)
	}
	r := request("GET", "/config/v1/resolve?appId=web", "")
	r.Header.Set("If-None-Match", header.Get("ETag"))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusNotModified {
		t.Errorf("resolve with the ETag it gave: got %d, want 304", w.Code)
	}
}

// follow runs a config client against the store's handler on a real listener.
func follow(t *testing.T, url string, scope config.Scope) *config.Properties {
	t.Helper()
	tr := &http.Transport{}
	p := config.New(config.Options{URL: url, Scope: scope, HTTP: &http.Client{Transport: tr}, Log: quiet})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Errorf("client: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait(); tr.CloseIdleConnections() })
	return p
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// await waits until the handle has the value, told by its own changes.
func await(t *testing.T, v *config.Value[string], want string) {
	t.Helper()
	hit := make(chan struct{}, 1)
	stop := v.OnChange(func(_, now string) {
		if now == want {
			hit <- struct{}{}
		}
	})
	defer stop()
	if v.Get() == want {
		return
	}
	select {
	case <-hit:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: got %q after 10 s, want %q", v.Key(), v.Get(), want)
	}
}

func TestAClientSeesChangesThatConcernIt(t *testing.T) {
	s := open(t, t.TempDir())
	url := serve(t, s.Handler())
	v := follow(t, url, config.Scope{App: "api", Zone: "zone-a", Instance: "i-1"}).String("k", "default")
	s.must(t, "k", "all", config.Scope{})
	await(t, v, "all")
	s.must(t, "k", "zone", config.Scope{Zone: "zone-a,zone-b"})
	await(t, v, "zone")
	s.must(t, "k", "mine", config.Scope{Instance: "I-1"})
	await(t, v, "mine")
	s.must(t, "k", "zone 2", config.Scope{Zone: "zone-a,zone-b"}) // hidden by mine
	if err := s.Delete(t.Context(), ID("k", config.Scope{Instance: "i-1"}), Any); err != nil {
		t.Fatal(err)
	}
	await(t, v, "zone 2")
}

func TestAWatchHearsOnlyWhatChangesForItAndResumes(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "k", "1", config.Scope{})
	open := func(lastID string) (*watch, string) {
		w := &watch{s: s.Store, c: asCaller(config.Scope{App: "api"}, Platform)}
		first, err := w.begin(lastID)
		if err != nil {
			t.Fatal(err)
		}
		return w, string(first)
	}
	hears := func(w *watch) string {
		b, err := w.news(nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	w, first := open("")
	if !strings.Contains(first, "event: snapshot\n") || !strings.Contains(first, `"k":"1"`) {
		t.Fatalf("first event: got %q, want a snapshot with k=1", first)
	}
	s.must(t, "k", "other", config.Scope{App: "web"})
	s.must(t, "k", "1", config.Scope{})              // the same value again
	s.must(t, "k", "1", config.Scope{App: "api"})    // another winner, the same value
	s.must(t, "k2", "new", config.Scope{App: "api"}) // the first that matters
	if got := hears(w); strings.Count(got, "event: ") != 1 || !strings.Contains(got, `"key":"k2","value":"new"`) {
		t.Errorf("after changes of which one matters: got %q, want k2=new alone", got)
	}
	now, err := s.Resolve(config.Scope{App: "api"})
	if err != nil {
		t.Fatal(err)
	}
	hash, err := w.hash(nil)
	if want := config.Sum(now.Properties); err != nil || !strings.Contains(string(hash), fmt.Sprintf("event: hash\ndata: {\"rev\":%d,\"sum\":%q}", now.Rev, want)) {
		t.Errorf("hash: got %q, %v; want %d and %s", hash, err, now.Rev, want)
	}
	if _, got := open(config.EventID(1, now.Properties)); !strings.Contains(got, "event: hash\n") {
		t.Errorf("resumed with nothing changed: got %q, want hash", got)
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(first, "id: "), "\n")
	if _, got := open(id); !strings.Contains(got, "event: snapshot\n") {
		t.Errorf("resumed after a change: got %q, want snapshot", got)
	}
	if err := s.Delete(t.Context(), ID("k2", config.Scope{App: "api"}), Any); err != nil {
		t.Fatal(err)
	}
	if got := hears(w); strings.Count(got, "event: ") != 1 || !strings.Contains(got, `"key":"k2","value":null`) {
		t.Errorf("after k2 was deleted: got %q, want that alone", got)
	}
}

func TestAnotherProcessesWriteIsSeen(t *testing.T) {
	s := open(t, t.TempDir())
	other, err := New(t.Context(), Config{Engine: s.engine, Ledger: s.ledger, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	next := s.index.Load().step.done
	if _, err := other.Set(t.Context(), Property{Key: "k", Value: "1"}, Any); err != nil {
		t.Fatal(err)
	}
	<-next
	if v, _ := s.Value(config.Scope{}, "k"); v != "1" {
		t.Errorf("k written by another store: got %q, want 1", v)
	}
}

func TestFilter(t *testing.T) {
	api := Property{Key: "a.b", Scope: config.Scope{App: "api", Region: "us,eu"}}
	all := Property{Key: "c"}
	for _, c := range []struct {
		filter         string
		api, all, bare bool // bare: api is selected with extra scopes left out
	}{
		{"", true, true, false},
		{"(appId='api' or appId is null)", true, true, false},
		{"(appId='API') and (region='eu')", true, false, true},
		{"appId='' and region is null", false, true, false},
		{"prefix='a.'", true, false, false},
		{" ( key='c' ) ", false, true, false},
		{"(appId='api') AND (region='asia' OR region='us')", true, false, true},
	} {
		f, err := ParseFilter(c.filter)
		if err != nil {
			t.Errorf("%q: %v", c.filter, err)
			continue
		}
		if got := []bool{f.Match(api), f.Match(all), f.WithoutExtraScopes().Match(api)}; !slices.Equal(got, []bool{c.api, c.all, c.bare}) {
			t.Errorf("%q: got %v, want %v", c.filter, got, []bool{c.api, c.all, c.bare})
		}
	}
	for _, bad := range []string{"(", "()", "appId", "appId=", "appId='x", "color='red'", "appId='x' or appId='y'", "(appId='x' and env='y')", "appId is nil", "appId='x' and", "appId='x')"} {
		if _, err := ParseFilter(bad); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

func FuzzParseFilter(f *testing.F) {
	f.Add("(appId='api' or appId is null) and (env='prod')", "api")
	f.Add("key='' and prefix='x'", "")
	f.Fuzz(func(t *testing.T, text, app string) {
		filter, err := ParseFilter(text)
		if err != nil {
			return
		}
		p := Property{Key: app, Scope: canonical(config.Scope{App: app})}
		if filter.WithoutExtraScopes().Match(p) && !filter.Match(p) {
			t.Errorf("filter %q selects appId %q only without extra scopes", text, app)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"key":"k","value":"1","type":"int","appId":"api","constraint":{"min":1}}`))
	f.Add([]byte(`{"key":"k","value":"a,b","type":"enum(a,b)"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Decode(b)
		if err != nil || p.check() != nil {
			return
		}
		p.Scope = canonical(p.Scope)
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatalf("%q decodes but does not encode: %v", b, err)
		}
		q, err := Decode(again)
		if err != nil || ID(q.Key, q.Scope) != ID(p.Key, p.Scope) || q.Value != p.Value {
			t.Errorf("%q: got %+v, %v after a round trip of %+v", b, q, err, p)
		}
	})
}

// many returns n properties: for every ten keys one for everybody and nine for one of a hundred apps.
func many(n int) []Property {
	out := make([]Property, n)
	for i := range out {
		out[i] = Property{Key: fmt.Sprintf("key.%06d", i), Value: "v", Rev: uint64(i + 1)}
		if i%10 != 0 {
			out[i].Scope.App = fmt.Sprint("app", i/10%100)
		}
		out[i].ID = ID(out[i].Key, out[i].Scope)
	}
	return out
}

func BenchmarkResolve(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			ix := indexOf(many(n)...)
			c := asCaller(config.Scope{App: "app7", Zone: "zone-a"}, Platform)
			want := n/10 + n*9/1000
			for b.Loop() {
				if got := ix.resolve(c, ""); len(got.Properties) != want {
					b.Fatalf("got %d properties, want %d", len(got.Properties), want)
				}
			}
		})
	}
}

// BenchmarkValue is one look-up among many properties.
func BenchmarkValue(b *testing.B) {
	b.ReportAllocs()
	ix := indexOf(many(100_000)...)
	c := asCaller(config.Scope{App: "app7"}, Platform)
	for b.Loop() {
		if ix.winner("key.000000", c) == nil {
			b.Fatal("key.000000 has no value")
		}
	}
}

func ExampleParseFilter() {
	f, err := ParseFilter("(appId='api' or appId is null)")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(f.Match(Property{Key: "timeout", Scope: config.Scope{App: "api"}}))
	fmt.Println(f.Match(Property{Key: "timeout", Scope: config.Scope{App: "web"}}))
	// Output:
	// true
	// false
}

// TestStoreAgreesWithAModel writes at random, with and without preconditions, and compares with a map after each step.
func TestStoreAgreesWithAModel(t *testing.T) {
	s := open(t, t.TempDir())
	keys := rapid.SampledFrom([]string{"a", "b"})
	apps := rapid.SampledFrom([]string{"", "api", "web"})
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++ // each run has keys of its own, so that runs need no clean-up
		ctx := context.Background()
		model := map[string]Property{}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				p := Property{Key: fmt.Sprint(round, keys.Draw(t, "key")), Value: rapid.StringMatching("[a-z]{0,3}").Draw(t, "value"), Scope: config.Scope{App: apps.Draw(t, "app")}}
				id := ID(p.Key, p.Scope)
				old, exists := model[id]
				rev := rapid.SampledFrom([]uint64{Any, Absent, old.Rev, old.Rev + 1}).Draw(t, "rev")
				want := rev == Any || rev == Absent && !exists || exists && rev == old.Rev
				got, err := s.Set(ctx, p, rev)
				if want != (err == nil) {
					t.Fatalf("set %+v at rev %d over %+v (%v): got %v, want success %v", p, rev, old, exists, err, want)
				}
				if err == nil {
					model[id] = got
				}
			},
			"delete": func(t *rapid.T) {
				id := ID(fmt.Sprint(round, keys.Draw(t, "key")), config.Scope{App: apps.Draw(t, "app")})
				old, exists := model[id]
				rev := rapid.SampledFrom([]uint64{Any, old.Rev, old.Rev + 1}).Draw(t, "rev")
				want := exists && (rev == Any || rev == old.Rev)
				if err := s.Delete(ctx, id, rev); want != (err == nil) {
					t.Fatalf("delete %+v (%v) at rev %d: got %v, want success %v", old, exists, rev, err, want)
				}
				if want {
					delete(model, id)
				}
			},
			"": func(t *rapid.T) {
				got := s.List(Prefix(fmt.Sprint(round)))
				n := 0
				for _, p := range got {
					if !strings.HasPrefix(p.Key, fmt.Sprint(round, "a")) && !strings.HasPrefix(p.Key, fmt.Sprint(round, "b")) {
						continue
					}
					n++
					if want := model[p.ID]; p.Value != want.Value || p.Rev != want.Rev {
						t.Fatalf("got %+v, want %+v", p, want)
					}
				}
				if n != len(model) {
					t.Fatalf("got %d properties, want %d", n, len(model))
				}
			},
		})
	})
}

// TestManyWatchersHearEveryChangeWhileWritersRace ends when every client knows what the store knows.
func TestManyWatchersHearEveryChangeWhileWritersRace(t *testing.T) {
	s := open(t, t.TempDir())
	url := serve(t, s.Handler())
	var last []*config.Value[string]
	for i := range 20 {
		last = append(last, follow(t, url, config.Scope{App: "api", Instance: fmt.Sprint("i-", i)}).String("last", ""))
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 25 {
				if _, err := s.Set(t.Context(), Property{Key: fmt.Sprint("k", i%5), Value: fmt.Sprint(w, "-", i), Scope: config.Scope{App: "api"}}, Any); err != nil {
					t.Errorf("set: %v", err)
				}
			}
		})
	}
	wg.Wait()
	s.must(t, "last", "done", config.Scope{})
	for _, v := range last {
		await(t, v, "done")
	}
}

func BenchmarkSet(b *testing.B) {
	for _, n := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			s := open(b, b.TempDir())
			var wg sync.WaitGroup
			for w := range 50 { // beside the store, for its speed is not what is prepared here
				wg.Go(func() {
					for i := range n / 50 {
						p := Property{Key: fmt.Sprintf("key.%d.%d", w, i), Value: "v"}
						if _, err := s.table.Put(b.Context(), ID(p.Key, p.Scope), stored{Property: p}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			for ix := s.index.Load(); ix.count < n; ix = s.index.Load() {
				<-ix.step.done // the watch brings them
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				if _, err := s.Set(b.Context(), Property{Key: "key.0.0", Value: fmt.Sprint(i)}, Any); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkIndex is what one write costs the index, without the engine.
func BenchmarkIndex(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			ps := many(n)
			ix := indexOf(ps...)
			for b.Loop() {
				p := ps[n/2+1]
				p.Rev = ix.rev + 1
				r := newRecord(p)
				gone := map[*record]bool{ix.keys.get(p.Key)[0]: true}
				app := appName(r.apps()[0], p.Key)
				ix = &index{rev: p.Rev,
					keys: ix.keys.with([]slot{{p.Key, replaced(ix.keys.get(p.Key), gone, []*record{r})}}),
					apps: ix.apps.with([]slot{{app, replaced(ix.apps.get(app), gone, []*record{r})}})}
			}
		})
	}
}

// BenchmarkPush is how long a write takes to reach a client over HTTP, the write itself included.
func BenchmarkPush(b *testing.B) {
	s := open(b, b.TempDir())
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	p := config.New(config.Options{URL: srv.URL, Log: quiet})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()
	v := p.Int("n", 0)
	heard := make(chan int, 1)
	v.OnChange(func(_, now int) { heard <- now })
	i := 0
	for b.Loop() {
		i++
		if _, err := s.Set(b.Context(), Property{Key: "n", Value: fmt.Sprint(i)}, Any); err != nil {
			b.Fatal(err)
		}
		for got := 0; got != i; got = <-heard {
		}
	}
}
