package properties

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"pgregory.net/rapid"

	"github.com/roadbed/roadbed/config"
)

func TestSpringGetsSourcesWithTheMostSpecificFirst(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "timeout", "1000", config.Scope{})
	s.must(t, "timeout", "900", config.Scope{App: "api"})
	s.must(t, "timeout", "850", config.Scope{App: "api", Env: "prod"})
	s.must(t, "timeout", "800", config.Scope{App: "api", Region: "eu"})
	last := s.must(t, "secret", "s", config.Scope{App: "web"})
	h := s.Handler()
	for _, c := range []struct{ path, want string }{
		{"api/prod/:eu", fmt.Sprintf(`{"name":"api","profiles":["prod"],"label":":eu","version":"%d","state":null,"propertySources":[`+
			`{"name":"platform:api-prod/appId=api region=eu","source":{"timeout":"800"}},`+
			`{"name":"platform:api-prod/env=prod appId=api","source":{"timeout":"850"}},`+
			`{"name":"platform:api-prod/appId=api","source":{"timeout":"900"}},`+
			`{"name":"platform:api-prod/everybody","source":{"timeout":"1000"}}]}`, last.Rev)},
		{"nobody/default", fmt.Sprintf(`{"name":"nobody","profiles":["default"],"label":null,"version":"%d","state":null,"propertySources":[`+
			`{"name":"platform:nobody-default/everybody","source":{"timeout":"1000"}}]}`, last.Rev)},
	} {
		for _, accept := range []string{"application/json", "application/vnd.spring-cloud.config-server.v2+json"} {
			r := request("GET", "/config/spring/"+c.path, "")
			r.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != http.StatusOK || w.Body.String() != c.want || w.Header().Get("Content-Type") != accept {
				t.Errorf("%s as %s: got %d %s\n%s, want\n%s", c.path, accept, w.Code, w.Header().Get("Content-Type"), w.Body, c.want)
			}
		}
	}
}

// The client puts sources whose name matches .*[-,]PROFILE\b.* above others, whatever their order.
func TestEverySourceSaysEveryProfile(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "k", "1", config.Scope{})
	s.must(t, "k", "2", config.Scope{Env: "eu"})
	s.must(t, "k", "3", config.Scope{Env: "prod"})
	s.must(t, "only", "3", config.Scope{Env: "prod"})
	body, _ := get(t, s.Handler(), "/config/spring/api/prod,eu")
	var env springEnvironment
	if err := json.Unmarshal([]byte(body), &env); err != nil || len(env.Sources) != 3 {
		t.Fatalf("got %s, %v; want three sources", body, err)
	}
	var values []string
	for _, source := range env.Sources {
		values = append(values, source.Source["k"])
		if !strings.HasPrefix(source.Name, "platform:api-prod,eu/") {
			t.Errorf("source %q does not say -prod,eu", source.Name)
		}
	}
	if want := []string{"2", "", "1"}; !slices.Equal(values, want) || env.Sources[1].Source["only"] != "3" {
		t.Errorf("values by source: got %v of %s, want %v and only=3: the last profile wins", values, body, want)
	}
}

func TestSpringSeesWhatResolveSays(t *testing.T) {
	s := open(t, t.TempDir())
	h := s.Handler()
	rapid.Check(t, func(t *rapid.T) {
		field := rapid.SampledFrom([]string{"", "", "", "a", "B", "a,c", "b,C"})
		var records []Property
		for i, n := 0, rapid.IntRange(0, 12).Draw(t, "records"); i < n; i++ {
			p := Property{Key: []string{"k", "k2"}[i%2], Value: fmt.Sprint(i), Rev: uint64(i + 1)}
			d := func(n string) string { return field.Draw(t, n) }
			p.Scope = canonical(config.Scope{Env: d("env"), App: d("app"), Stack: d("stack"), Region: d("region"), Zone: d("zone"), Cluster: d("cluster"), Countries: d("countries")})
			p.ID = ID(p.Key, p.Scope)
			records = append(records, p)
		}
		s.index.Store(indexOf(records...))
		mine := func(n string) string { return rapid.SampledFrom([]string{"a", "A", "b", "c"}).Draw(t, n) }
		who := config.Scope{Env: mine("env"), App: mine("app"), Stack: mine("stack"), Region: mine("region"), Zone: mine("zone")}
		order := rapid.SampledFrom([]string{"platform", "netflix"}).Draw(t, "order")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request("GET", fmt.Sprintf("/config/spring/%s/%s/%s:%s:%s?scopeOrder=%s", who.App, who.Env, who.Stack, who.Region, who.Zone, order), ""))
		var env springEnvironment
		if err := json.Unmarshal(w.Body.Bytes(), &env); err != nil {
			t.Fatalf("%s: %v", w.Body, err)
		}
		got := map[string]string{}
		for _, source := range slices.Backward(env.Sources) {
			maps.Copy(got, source.Source)
		}
		by, err := ParseOrder(order)
		if err != nil {
			t.Fatal(err)
		}
		if want := s.index.Load().resolve(asCaller(who, by), "").Properties; !maps.Equal(got, want) {
			t.Fatalf("%s\nfor %+v: got %v, want %v", w.Body, who, got, want)
		}
	})
}

func TestSpringFiles(t *testing.T) {
	s := open(t, t.TempDir())
	for _, p := range []Property{
		{Key: "db.host", Value: "db1"}, {Key: "db.url", Value: "jdbc:${db.host}:${db.port:5432}"}, {Key: "db.pool.size", Value: "007", Type: "int"},
		{Key: "on", Value: "on", Type: "bool"}, {Key: "version", Value: "1.20"}, {Key: "servers[0].name", Value: "a"}, {Key: "servers[1].name", Value: "b"},
		{Key: "load", Value: "2", Type: "float"}, {Key: "load", Value: "3", Type: "float", Scope: config.Scope{App: "my-api", Env: "prod", Stack: "main"}},
	} {
		if _, err := s.Set(t.Context(), p, Any); err != nil {
			t.Fatal(err)
		}
	}
	h := s.Handler()
	for _, c := range []struct{ path, contentType, want string }{
		{"my-api-prod.yml", "text/plain;charset=UTF-8", `db:
  host: "db1"
  pool:
    size: 7
  url: "jdbc:db1:5432"
load: 2.0
"on": true
servers:
  -
    name: "a"
  -
    name: "b"
version: "1.20"
`},
		{"main/my-api-prod.json?resolvePlaceholders=false", "application/json",
			`{"db":{"host":"db1","pool":{"size":7},"url":"jdbc:${db.host}:${db.port:5432}"},"load":3.0,"on":true,"servers":[{"name":"a"},{"name":"b"}],"version":"1.20"}`},
		{"main/my-api-prod.properties", "text/plain;charset=UTF-8",
			"db.host=db1\ndb.pool.size=007\ndb.url=jdbc:db1:5432\nload=3\non=on\nservers[0].name=a\nservers[1].name=b\nversion=1.20\n"},
	} {
		got, header := get(t, h, "/config/spring/"+c.path)
		if got != c.want || header.Get("Content-Type") != c.contentType {
			t.Errorf("%s: got %s\n%s\nwant %s\n%s", c.path, header.Get("Content-Type"), got, c.contentType, c.want)
		}
	}
	if a, b := must2(get(t, h, "/config/spring/a-b.yml")), must2(get(t, h, "/config/spring/a-b.yaml")); a != b {
		t.Errorf(".yml and .yaml differ: %s, %s", a, b)
	}
}

func must2(body string, _ http.Header) string { return body }

func TestSpringPathsThatAreNone(t *testing.T) {
	s := open(t, t.TempDir())
	for path, want := range map[string]int{
		"": 404, "api": 404, "api/": 404, "api.yml": 404, "-prod.yml": 404, "api-.yml": 404, "a/b/c/d": 404, "label/api.yml": 404,
		"api/prod/a:b:c:d": 400, "api/prod/feature(_)x": 200, "api/prod/%3A%3Az": 200,
	} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, request("GET", "/config/spring/"+path, ""))
		if w.Code != want {
			t.Errorf("%q: got %d %s, want %d", path, w.Code, w.Body, want)
		}
	}
}

// unnest takes a tree of JSON or YAML apart as Spring Boot does: names joined by dots, items by their index.
func unnest(at string, v any, out map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for name, sub := range v {
			if at != "" {
				name = at + "." + name
			}
			unnest(name, sub, out)
		}
	case []any:
		for i, sub := range v {
			unnest(fmt.Sprintf("%s[%d]", at, i), sub, out)
		}
	default:
		out[at] = fmt.Sprint(v)
	}
}

func checkNest(t interface{ Fatalf(string, ...any) }, values map[string]string) {
	tree := nest(values, nil)
	text := appendYAML(nil, tree, 0)
	var read map[string]any
	if err := yaml.Unmarshal(text, &read); err != nil {
		t.Fatalf("%q is no YAML: %v\n%s", values, err, text)
	}
	body, err := json.Marshal(tree)
	if err != nil {
		t.Fatalf("%q: %v", values, err)
	}
	var fromJSON map[string]any
	if err := json.Unmarshal(body, &fromJSON); err != nil {
		t.Fatalf("%q: %v in %s", values, err, body)
	}
	for what, from := range map[string]map[string]any{"YAML": read, "JSON": fromJSON} {
		got := map[string]string{}
		unnest("", from, got)
		if !maps.Equal(got, values) {
			t.Fatalf("as %s: got %q, want %q\n%s", what, got, values, text)
		}
	}
}

func TestEveryKeyIsFoundAgainInATree(t *testing.T) {
	key := rapid.OneOf(rapid.StringMatching(`[ab]{1,2}(\[[0-2]\]|\.[ab]{1,2}|\[[0-1]\]\.[a])*`), rapid.StringMatching(`[a.\[\]0 -:#"'{}]{1,8}`))
	text := rapid.StringOf(rapid.OneOf(rapid.SampledFrom([]rune("\x00\t\n\r\"'\\#:-{}[]&*!|>%@`~ 0e+_\x7f\u0085\u00a0\u2028\ufeff\uffff😀")), rapid.Rune()))
	rapid.Check(t, func(t *rapid.T) { checkNest(t, rapid.MapOfN(key, text, 0, 12).Draw(t, "properties")) })
}

func FuzzNest(f *testing.F) {
	f.Add("a", "1", "a.b", "2", "a[0]", "yes")
	f.Add("a[0].b[1]", "", "a[1]", "x", "a..b", "\u2028")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2, k3, v3 string) {
		values := map[string]string{k1: v1, k2: v2, k3: v3}
		for k, v := range values {
			if (Property{Key: k, Value: v}).check() != nil {
				return
			}
		}
		checkNest(t, values)
	})
}
