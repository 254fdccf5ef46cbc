package route

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	roadconfig "github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
)

// controlled is a surface with a control over settings.
func controlled(t *testing.T, settings Settings) *httptest.Server {
	t.Helper()
	config := Config{Apps: []string{"hello"}}
	c := &Control{
		Config: func() Config { return config }, Reader: &Reader{},
		Written: func() (Settings, []Object, string) { return settings, nil, "" },
		Table: func() *Table {
			doc, err := ParseAll(settings.Texts())
			if err != nil {
				t.Fatal(err)
			}
			table, err := NewTable(config, doc.Routes)
			if err != nil {
				t.Fatal(err)
			}
			return table
		},
		Surgery: func() *Surgery { s, _ := NewSurgery(config, settings.Surgical(), nil); return s },
	}
	s := api.New("test", "1")
	c.Mount(s)
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return srv
}

// tell sends a request and decodes the answer into out, unless nil; it returns the status and the body.
func tell(t *testing.T, method, url, body string, out any) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if out != nil && resp.StatusCode < 300 {
		if err := json.Unmarshal(text, out); err != nil {
			t.Fatalf("%s %s answers %s: %v", method, url, text, err)
		}
	}
	return resp.StatusCode, string(text)
}

func TestADocumentIsCheckedWithTheOthersAndNothingIsWritten(t *testing.T) {
	settings := Settings{"edge.routes": `[{"id":"a","backends":[{"vip":"a"}]},{"id":"b","backends":[{"vip":"b"}]}]`, "edge.surgical.x": `{"to":{"vip":"x"}}`}
	srv := controlled(t, settings)
	at := srv.URL + "/api/v1/edge/routes"
	const next = "# routes\n- id: a\n  priority: 7\n  backends: [{vip: a}]\n- {id: c, backends: [{vip: c}]}\n"
	var change RoutesChange
	if status, body := tell(t, "PUT", at+"?dryRun=true", next, &change); status != 200 {
		t.Fatalf("got %d %s", status, body)
	}
	if got := fmt.Sprint(change.Document, change.Added, change.Changed, change.Removed, change.Routes, change.InForce); got != "edge.routes[c] [a] [b] 2 false" {
		t.Errorf("the check tells %s", got)
	}
	wrapped, err := json.Marshal(map[string]string{"text": "- {id: d, backends: [{vip: d}]}"})
	if err != nil {
		t.Fatal(err)
	}
	change = RoutesChange{}
	if status, body := tell(t, "PUT", at+"?dryRun=1&name=shop", string(wrapped), &change); status != 200 || change.Document != "edge.routes.shop" || change.Routes != 3 {
		t.Errorf("a document of its own: got %d %s", status, body)
	}
	if len(settings) != 2 {
		t.Errorf("after two checks there are %d properties, want 2 as before", len(settings))
	}
	settings["edge.routes.shop"] = "- {id: d, backends: [{vip: d}]}"
	before := maps.Clone(settings)
	for body, says := range map[string]string{
		"- id: z\n  bakends: []\n":                                     `edge.routes.api:2: route \"z\": a route has no \"bakends\"; did you mean backends?`,
		"- {id: d, backends: [{vip: x}]}\n":                            `two routes have the id \"d\"`,
		"- {id: e, match: {path: {regex: (}}, backends: [{vip: x}]}\n": "missing closing )",
	} {
		if status, got := tell(t, "PUT", at+"?name=api", body, nil); status != 422 || !strings.Contains(got, says) {
			t.Errorf("%s: got %d %s, want 422 saying %s", body, status, got, says)
		}
	}
	if status, got := tell(t, "PUT", at+"?name=a%2Fb", next, nil); status != 422 {
		t.Errorf("a name with a slash: got %d %s", status, got)
	}
	if !maps.Equal(settings, before) {
		t.Errorf("after the checks there is %v, want %v as before", settings, before)
	}
	var view RoutesView
	tell(t, "GET", at, "", &view)
	if got := fmt.Sprint(len(view.Routes), view.Apps, view.Documents); got != "3 [hello] [{edge.routes 73 2} {edge.routes.shop 31 1}]" {
		t.Errorf("the view has %s", got)
	}
}

// written is what stands in for the API that has the properties: one revision each, and what was asked.
type written struct {
	at       map[string]stored
	rev      uint64
	who, why string
}

func (w *written) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case "GET":
		all := struct{ Properties []stored }{}
		if p, has := w.at[r.URL.Query().Get("key")]; has {
			all.Properties = append(all.Properties, stored{Key: p.Key, Value: "[]", Scope: roadconfig.Scope{App: "other"}, Rev: 1}, p)
		}
		api.WriteJSON(out, all)
	case "POST":
		var p stored
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
			api.WriteProblem(out, r, api.Problem(400, "%v", err))
			return
		}
		if m := r.Header.Get("If-Match"); m != "" && m != tag(w.at[p.Key].Rev) || r.Header.Get("If-None-Match") == "*" && w.at[p.Key].Rev != 0 {
			api.WriteProblem(out, r, api.Problem(409, "somebody else changed the property"))
			return
		}
		w.rev++
		p.ID, p.Rev, p.UpdatedBy = "id."+p.Key, w.rev, r.Header.Get(api.ActorHeader)
		w.at[p.Key], w.who, w.why = p, r.Header.Get(api.ActorHeader), r.Header.Get(api.WhyHeader)
		api.WriteJSON(out, p)
	case "DELETE":
		delete(w.at, strings.TrimPrefix(path.Base(r.URL.Path), "id."))
	}
}

// writing is a control whose edge hears at once of what is written.
func writing(t *testing.T) (*written, string) {
	t.Helper()
	w := &written{at: map[string]stored{}}
	store := httptest.NewServer(w)
	t.Cleanup(store.Close)
	now := func() (Settings, []Object, string) {
		s := Settings{}
		for k, p := range w.at {
			s[k] = p.Value
		}
		doc, err := ParseAll(s.Texts())
		if err != nil {
			return s, nil, err.Error()
		}
		return s, doc.Objects, ""
	}
	c := &Control{
		Config: func() Config { return Config{} }, Reader: &Reader{}, Written: now, Store: api.Client{Base: store.URL},
		Table: func() *Table {
			s, _, _ := now()
			doc, err := ParseAll(s.Texts())
			if err != nil {
				t.Fatal(err)
			}
			table, err := NewTable(Config{}, doc.Routes)
			if err != nil {
				t.Fatal(err)
			}
			return table
		},
	}
	s := api.New("test", "1")
	c.Mount(s)
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return w, srv.URL + "/api/v1/edge/routes"
}

// askedAs sends a request with fields, and returns status, body and ETag.
func askedAs(t *testing.T, method, url, body string, fields ...string) (int, string, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text), resp.Header.Get("ETag")
}

func TestTwoWhoChangeADocumentDoNotOverwriteEachOther(t *testing.T) {
	w, at := writing(t)
	const one, two = "- {id: a, backends: [{vip: a}]}\n", "- {id: a, backends: [{vip: b}]}\n"
	status, body, rev := askedAs(t, "PUT", at+"?name=shop", one, "If-None-Match", "*", api.ActorHeader, "ana", api.WhyHeader, "a%20shop")
	if status != 200 || rev != `"1"` || !strings.Contains(body, `"inForce":true`) || !strings.Contains(body, `"added":["a"]`) {
		t.Fatalf("a new one: got %d %s, ETag %s", status, body, rev)
	}
	if w.who != "ana" || w.why != "a%20shop" {
		t.Errorf("it is written by %q for %q, want ana, and why", w.who, w.why)
	}
	if status, body, _ := askedAs(t, "PUT", at+"?name=shop", two, "If-None-Match", "*"); status != 409 {
		t.Errorf("a new one where one is: got %d %s, want 409", status, body)
	}
	if status, body, _ := askedAs(t, "PUT", at+"?name=shop", two, "If-Match", rev); status != 200 {
		t.Errorf("by who has read it: got %d %s", status, body)
	}
	if status, body, _ := askedAs(t, "PUT", at+"?name=shop", one, "If-Match", rev); status != 409 || !strings.Contains(body, "somebody else") {
		t.Errorf("by who has read the one before: got %d %s, want 409", status, body)
	}
	var doc WrittenDocument
	if status, body := tell(t, "GET", at+"/document?name=shop", "", &doc); status != 200 || doc.Text != two || doc.Rev != 2 || doc.Document != "edge.routes.shop" {
		t.Errorf("the document is %d %s", status, body)
	}
	if status, body := tell(t, "GET", at+"/document", "", nil); status != 404 {
		t.Errorf("a document that is not there: got %d %s", status, body)
	}
	if status, body, _ := askedAs(t, "DELETE", at+"?name=shop&dryRun=1", ""); status != 200 || len(w.at) != 1 || !strings.Contains(body, `"removed":["a"]`) {
		t.Errorf("a removal that is only tried: got %d %s, %d documents", status, body, len(w.at))
	}
	if status, body, _ := askedAs(t, "DELETE", at+"?name=shop", ""); status != 200 || len(w.at) != 0 || !strings.Contains(body, `"inForce":true`) {
		t.Errorf("a removal: got %d %s, %d documents", status, body, len(w.at))
	}
	if status, body, _ := askedAs(t, "DELETE", at+"?name=shop", ""); status != 404 {
		t.Errorf("a second removal: got %d %s", status, body)
	}
}

func TestALongDocumentIsOnePropertyAndInForceAsAWhole(t *testing.T) {
	w, at := writing(t)
	var long strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&long, "- id: shop-%[1]d\n  match: {hosts: [shop-%[2]d.example.com], path: {prefix: /department-%[1]d}, methods: [GET, POST]}\n"+
			"  filters: [{stripPrefix: 1}, {requestHeaders: {set: {x-tier: t%[3]d}}}]\n  backends: [{vip: shop-%[3]d, weight: 90}, {vip: shop-canary, weight: 10, sticky: user}]\n", i, i%97, i%301)
	}
	var change RoutesChange
	if status, body := tell(t, "PUT", at, long.String(), &change); status != 200 || !change.InForce || change.Routes != 10_000 {
		t.Fatalf("%d bytes of routes: got %d %.500s", long.Len(), status, body)
	}
	if p := w.at["edge.routes"]; len(w.at) != 1 || p.Type != "gzip" || len(p.Value) > roadconfig.MaxPacked {
		t.Errorf("there are %d properties, of %d bytes, type %q; want one packed one", len(w.at), len(p.Value), p.Type)
	}
	var doc WrittenDocument
	if tell(t, "GET", at+"/document", "", &doc); doc.Text != long.String() {
		t.Errorf("the document comes back with %d bytes, want %d as written", len(doc.Text), long.Len())
	}
	wrong := strings.Replace(long.String(), "shop-9999\n  match", "shop-9999\n  mtch", 1)
	if status, body := tell(t, "PUT", at, wrong, nil); status != 422 || !strings.Contains(body, "edge.routes:39998: route \\\"shop-9999\\\": a route has no") {
		t.Errorf("one mistake at its end: got %d %s", status, body)
	}
	noise := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(noise) //nolint:errcheck // never fails
	if status, body := tell(t, "PUT", at, "# "+hex.EncodeToString(noise), nil); status != 422 || !strings.Contains(body, "make it several documents") {
		t.Errorf("one that is too long even when packed: got %d %s", status, body)
	}
	w.at["edge.routes"] = stored{Key: "edge.routes", Value: "H4sI and nonsense"}
	if _, err := ParseAll([]Text{{"edge.routes", w.at["edge.routes"].Value}}); err == nil || !strings.Contains(err.Error(), "edge.routes:1: it is not gzip") {
		t.Errorf("a property that only looks packed: got %v", err)
	}
}

func TestAURLIsExplainedAsAClientWouldAskForIt(t *testing.T) {
	srv := controlled(t, Settings{
		"edge.routes":       `[{"id":"tv","match":{"path":{"prefix":"/a"},"headers":[{"name":"x-device","exact":"tv"}]},"backends":[{"vip":"tv"}]}]`,
		"edge.surgical.dev": `{"select":{"ids":["ana"]},"to":{"vip":"debug"}}`,
	})
	at := srv.URL + "/api/v1/edge/explain?"
	var e Explanation
	ask := func(q url.Values) string {
		e = Explanation{}
		status, body := tell(t, "GET", at+q.Encode(), "", &e)
		return fmt.Sprint(status, " ", body)
	}
	if got := ask(url.Values{"url": {"http://h/x/../a/b?q=1"}, "header": {"X-Device: tv", "Accept: a,b"}}); e.Route != "tv" || e.Path != "/a/b" {
		t.Errorf("got %s", got)
	}
	if got := ask(url.Values{"url": {"/hello/x"}}); e.Route != "hello" || e.Path != "/x" || e.Surgical != "" {
		t.Errorf("got %s", got)
	}
	if got := ask(url.Values{"url": {"/hello/x"}, "user": {"ana"}}); e.Surgical != "dev" || !slices.Equal(e.Backends, []string{"debug"}) {
		t.Errorf("got %s", got)
	}
	for _, q := range []url.Values{{"url": {"http:///"}}, {"url": {"hello"}}, {"url": {"%zz"}}, {"url": {"/"}, "header": {"nonsense"}}} {
		if got := ask(q); !strings.HasPrefix(got, "400 ") {
			t.Errorf("%v: got %s, want 400", q, got)
		}
	}
}

func TestSurgicalRulesAreCheckedAndListed(t *testing.T) {
	settings := Settings{"edge.surgical.bad": `{"too":1}`, "edge.surgical.old": `{"to":{"vip":"x"},"until":"2001-01-01T00:00:00Z"}`}
	srv := controlled(t, settings)
	at := srv.URL + "/api/v1/edge/surgical"
	if status, body := tell(t, "POST", at+"/dev/check", `{"to":{"vip":"x"}}`, nil); status != 200 || len(settings) != 2 {
		t.Errorf("got %d %s, and %d rules, want the 2 that were there", status, body, len(settings))
	}
	settings["edge.surgical.dev"] = `{"to":{"vip":"x"}}`
	for body, says := range map[string]string{`{"to":{}}`: "nowhere", `{"to":{"vip":"x"},"until":"2001-01-01T00:00:00Z"}`: "is over"} {
		if status, got := tell(t, "POST", at+"/dev/check", body, nil); status != 422 || !strings.Contains(got, says) {
			t.Errorf("%s: got %d %s, want 422 saying %s", body, status, got, says)
		}
	}
	var list []SurgicalView
	tell(t, "GET", at, "", &list)
	var got []string
	for _, v := range list {
		got = append(got, v.ID+" "+v.State)
	}
	if want := []string{"bad refused", "dev in force", "old over"}; !slices.Equal(got, want) {
		t.Errorf("listed as %v, want %v", got, want)
	}
}
