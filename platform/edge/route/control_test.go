package route

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/roadbed/roadbed/platform/api"
)

// controlled is a surface with a control over settings.
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
	if status, body := tell(t, "POST", at+"/check", next, &change); status != 200 {
		t.Fatalf("got %d %s", status, body)
	}
	if got := fmt.Sprint(change.Document, change.Added, change.Changed, change.Removed, change.Routes); got != "edge.routes[c] [a] [b] 2" {
		t.Errorf("the check tells %s", got)
	}
	wrapped, err := json.Marshal(map[string]string{"text": "- {id: d, backends: [{vip: d}]}"})
	if err != nil {
		t.Fatal(err)
	}
	change = RoutesChange{}
	if status, body := tell(t, "POST", at+"/check?name=shop", string(wrapped), &change); status != 200 || change.Document != "edge.routes.shop" || change.Routes != 3 {
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
		if status, got := tell(t, "POST", at+"/check?name=api", body, nil); status != 422 || !strings.Contains(got, says) {
			t.Errorf("%s: got %d %s, want 422 saying %s", body, status, got, says)
		}
	}
	if status, got := tell(t, "POST", at+"/check?name=a%2Fb", next, nil); status != 422 {
		t.Errorf("a name with a slash: got %d %s", status, got)
	}
	if !maps.Equal(settings, before) {
		t.Errorf("after the checks there is %v, want %v as before", settings, before)
	}
	for _, method := range []string{"PUT", "DELETE"} {
		if status, got := tell(t, method, at, next, nil); status != 405 {
			t.Errorf("%s: got %d %s, want 405: routes are written as properties", method, status, got)
		}
	}
	var view RoutesView
	tell(t, "GET", at, "", &view)
	if got := fmt.Sprint(len(view.Routes), view.Apps, view.Documents); got != "3 [hello] [{edge.routes 73 2} {edge.routes.shop 31 1}]" {
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
