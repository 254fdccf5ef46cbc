package route

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/roadbed/roadbed/platform/api"
)

// controlled is a surface with a control over settings, which it writes itself.
func controlled(t *testing.T, settings Settings) *httptest.Server {
	t.Helper()
	config := Config{Apps: []string{"hello"}}
	c := &Control{
		Config:  func() Config { return config },
		Written: func() (Settings, string) { return settings, "" },
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
		Set: func(_ context.Context, key string, value *string) error {
			if value == nil {
				delete(settings, key)
			} else {
				settings[key] = *value
			}
			return nil
		},
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

func TestADocumentIsCheckedAndThenWritten(t *testing.T) {
	settings := Settings{"edge.routes": `[{"id":"a","backends":[{"vip":"a"}]},{"id":"b","backends":[{"vip":"b"}]}]`, "edge.surgical.x": `{"to":{"vip":"x"}}`}
	srv := controlled(t, settings)
	at := srv.URL + "/api/v1/edge/routes"
	const next = "# routes\n- id: a\n  priority: 7\n  backends: [{vip: a}]\n- {id: c, backends: [{vip: c}]}\n"
	var change RoutesChange
	if status, body := tell(t, "PUT", at+"?dryRun=1", next, &change); status != 200 || settings["edge.routes"] == next {
		t.Fatalf("a dry run: got %d %s, property %q", status, body, settings["edge.routes"])
	}
	if got := fmt.Sprint(change.DryRun, change.Added, change.Changed, change.Removed, change.Routes); got != "true [c] [a] [b] 2" {
		t.Errorf("a dry run tells %s", got)
	}
	if status, body := tell(t, "PUT", at, next, nil); status != 200 || settings["edge.routes"] != next {
		t.Errorf("got %d %s, property %q", status, body, settings["edge.routes"])
	}
	wrapped, err := json.Marshal(map[string]string{"text": "- {id: d, backends: [{vip: d}]}"})
	if err != nil {
		t.Fatal(err)
	}
	if status, body := tell(t, "PUT", at+"?name=shop", string(wrapped), nil); status != 200 || settings["edge.routes.shop"] == "" {
		t.Errorf("a document of its own: got %d %s", status, body)
	}
	for body, says := range map[string]string{
		"- id: z\n  bakends: []\n":                                     `edge.routes.api:2: route \"z\": a route has no \"bakends\"; did you mean backends?`,
		"- {id: d, backends: [{vip: x}]}\n":                            `two routes have the id \"d\"`,
		"- {id: e, match: {path: {regex: (}}, backends: [{vip: x}]}\n": "missing closing )",
	} {
		before := fmt.Sprint(settings)
		if status, got := tell(t, "PUT", at+"?name=api", body, nil); status != 422 || !strings.Contains(got, says) || fmt.Sprint(settings) != before {
			t.Errorf("%s: got %d %s, want 422 saying %s and nothing changed", body, status, got, says)
		}
	}
	if status, got := tell(t, "PUT", at+"?name=a%2Fb", next, nil); status != 422 {
		t.Errorf("a name with a slash: got %d %s", status, got)
	}
	var view RoutesView
	tell(t, "GET", at, "", &view)
	if got := fmt.Sprint(len(view.Routes), view.Apps, view.Documents); got != "3 [hello] [{edge.routes 86 2} {edge.routes.shop 31 1}]" {
		t.Errorf("the view has %s", got)
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

func TestSurgicalRulesAreSetListedAndRemoved(t *testing.T) {
	settings := Settings{"edge.surgical.bad": `{"too":1}`, "edge.surgical.old": `{"to":{"vip":"x"},"until":"2001-01-01T00:00:00Z"}`}
	srv := controlled(t, settings)
	at := srv.URL + "/api/v1/edge/surgical"
	if status, body := tell(t, "PUT", at+"/dev?dryRun=1", `{"to":{"vip":"x"}}`, nil); status != 200 || len(settings) != 2 {
		t.Errorf("a dry run: got %d %s", status, body)
	}
	if status, body := tell(t, "PUT", at+"/dev", `{"to":{"vip":"x"}}`, nil); status != 200 || settings["edge.surgical.dev"] == "" {
		t.Errorf("got %d %s", status, body)
	}
	for body, says := range map[string]string{`{"to":{}}`: "nowhere", `{"to":{"vip":"x"},"until":"2001-01-01T00:00:00Z"}`: "is over"} {
		if status, got := tell(t, "PUT", at+"/dev", body, nil); status != 422 || !strings.Contains(got, says) {
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
	if status, body := tell(t, "DELETE", at+"/dev", "", nil); status != 204 || len(settings) != 2 {
		t.Errorf("removed: got %d %s", status, body)
	}
	if status, _ := tell(t, "DELETE", at+"/dev", "", nil); status != 404 {
		t.Errorf("removed again: got %d, want 404", status)
	}
}
