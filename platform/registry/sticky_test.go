package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/ledger"
	"github.com/roadbed/roadbed/platform/registry"
)

// node is a registry with an engine and the platform's API, that a test can stop.
type node struct {
	h    http.Handler // Eureka's face
	api  *api.Surface
	stop func()
}

func newNode(t *testing.T, e *engine.Engine, l *ledger.Ledger) node {
	t.Helper()
	r := registry.New(registry.Config{Engine: e, Ledger: l, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	s := api.New("test", "0")
	r.Mount(s)
	stopped := false
	stop := func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-ran; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return node{r.Handler(), s, stop}
}

// ask sends a request to the platform's API and returns status and body.
func (n node) ask(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	resp := do(t, n.api, method, "http://localhost/api/v1/registry/"+path, body, "Content-Type", "application/json", api.ActorHeader, "ana", api.WhyHeader, "a test")
	return resp.StatusCode, text(t, resp)
}

// is is what n tells of an instance of web: its status and one name of its metadata.
func (n node) is(t *testing.T, id, name string) string {
	t.Helper()
	var doc struct {
		Instance struct {
			Status   string            `json:"status"`
			Metadata map[string]string `json:"metadata"`
		} `json:"instance"`
	}
	body := text(t, do(t, n.h, "GET", "/eureka/apps/WEB/"+id, "", "Accept", "application/json"))
	if body == "" {
		return "gone"
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(doc.Instance.Status + " " + doc.Instance.Metadata[name])
}

func eventually(t *testing.T, what, want string, got func() string) {
	t.Helper()
	last := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if last = got(); last == want {
			return
		}
	}
	t.Errorf("%s: got %q, want %q", what, last, want)
}

func TestStickyOverridesAndMetadataOutliveRegistrations(t *testing.T) {
	e, l := openLedger(t)
	defer e.Close() //nolint:errcheck // nothing is written after it
	n := newNode(t, e, l)
	again := func(n node, id string) {
		t.Helper()
		do(t, n.h, "DELETE", "/eureka/apps/WEB/"+id, "")
		post(t, n.h, "WEB", id)
	}
	expect := func(n node, when, id, want string) {
		t.Helper()
		if got := n.is(t, id, "team"); got != want {
			t.Errorf("%s: %s is %q, want %q", when, id, got, want)
		}
	}
	for _, id := range []string{"plain", "sticky", "cleared", "replaced"} {
		post(t, n.h, "WEB", id)
	}
	for _, c := range [][3]string{
		{"PUT", "instances/web/plain/status", `{"status":"OUT_OF_SERVICE"}`},
		{"PUT", "instances/web/plain/metadata", `{"metadata":{"team":"red"}}`},
		{"PUT", "instances/web/sticky/status", `{"status":"OUT_OF_SERVICE","sticky":true}`},
		{"PUT", "instances/web/sticky/metadata", `{"metadata":{"team":"red","rack":"7"},"sticky":true}`},
		{"PUT", "instances/web/cleared/status", `{"status":"DOWN","sticky":true}`},
		{"PUT", "instances/web/cleared/metadata", `{"metadata":{"team":"blue"},"sticky":true}`},
		{"PUT", "instances/web/replaced/status", `{"status":"DOWN","sticky":true}`},
		{"PUT", "instances/web/replaced/status", `{"status":"OUT_OF_SERVICE"}`},
	} {
		if status, body := n.ask(t, c[0], c[1], c[2]); status != 204 {
			t.Fatalf("%s %s %s: got %d %s, want 204", c[0], c[1], c[2], status, body)
		}
	}
	expect(n, "decided", "plain", "OUT_OF_SERVICE red")
	expect(n, "decided", "sticky", "OUT_OF_SERVICE red")
	expect(n, "decided", "cleared", "DOWN blue")
	for _, path := range []string{"instances/web/cleared/status", "instances/web/cleared/metadata/team"} {
		if status, body := n.ask(t, "DELETE", path, ""); status != 204 {
			t.Fatalf("DELETE %s: got %d %s, want 204", path, status, body)
		}
	}
	expect(n, "cleared", "cleared", "UP")
	eventually(t, "what is sticky", "sticky:OUT_OF_SERVICE:red", func() string { return stickyIn(t, n) })

	for _, id := range []string{"plain", "sticky", "cleared", "replaced"} {
		again(n, id)
	}
	expect(n, "cancelled and registered again", "plain", "UP")
	expect(n, "cancelled and registered again", "sticky", "OUT_OF_SERVICE red")
	expect(n, "cancelled and registered again", "cleared", "UP")
	expect(n, "cancelled and registered again", "replaced", "UP")
	post(t, n.h, "WEB", "sticky")
	expect(n, "registered without a cancellation", "sticky", "OUT_OF_SERVICE red")
	n.stop()

	n = newNode(t, e, l) // as after a restart
	for _, id := range []string{"plain", "sticky", "cleared", "replaced"} {
		post(t, n.h, "WEB", id)
	}
	for id, want := range map[string]string{"plain": "UP", "sticky": "OUT_OF_SERVICE red", "cleared": "UP", "replaced": "UP"} {
		expect(n, "after a restart", id, want)
	}
	again(n, "sticky")
	expect(n, "after a restart, cancelled and registered again", "sticky", "OUT_OF_SERVICE red")

	other := newNode(t, e, l) // shares the engine
	post(t, other.h, "WEB", "sticky")
	expect(other, "at a registry that shares the engine", "sticky", "OUT_OF_SERVICE red")
	if status, body := n.ask(t, "PUT", "instances/web/sticky/metadata", `{"metadata":{"team":"green"},"sticky":true}`); status != 204 {
		t.Fatalf("metadata: got %d %s, want 204", status, body)
	}
	eventually(t, "at a registry that shares the engine", "OUT_OF_SERVICE green", func() string { return other.is(t, "sticky", "team") })
	if status, _ := n.ask(t, "DELETE", "instances/web/sticky/metadata/team", ""); status != 204 {
		t.Errorf("clearing team: got %d, want 204", status)
	}
	eventually(t, "cleared elsewhere", "OUT_OF_SERVICE", func() string { return other.is(t, "sticky", "team") })

	list, err := l.List(t.Context(), ledger.Query{Action: "instance.metadata"})
	if err != nil || len(list) != 6 || list[0].Actor != "ana" || list[0].Why != "a test" || !strings.Contains(string(list[5].After), `"team":"red"`) {
		t.Errorf("the ledger has of metadata: %v, %v; want the 6 decisions of ana", list, err)
	}
}

// stickyIn lists what is sticky at n, with the team.
func stickyIn(t *testing.T, n node) string {
	var list []registry.Sticky
	_, body := n.ask(t, "GET", "sticky", "")
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range list {
		out = append(out, fmt.Sprintf("%s:%s:%s", s.ID, s.Status, s.Metadata["team"]))
	}
	return strings.Join(out, " ")
}

func TestWhatCannotBeStickyIsRefused(t *testing.T) {
	e, l := openLedger(t)
	defer e.Close() //nolint:errcheck // nothing is written after it
	with, without := newNode(t, e, l), newNode(t, nil, l)
	many := make(map[string]string)
	for i := range 65 {
		many[fmt.Sprint(i)] = "x"
	}
	tooMany, err := json.Marshal(map[string]any{"metadata": many, "sticky": true})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []node{with, without} {
		post(t, n.h, "WEB", "1")
	}
	for _, tt := range []struct {
		n                  node
		method, path, body string
		want               int
		says               string
	}{
		{without, "PUT", "instances/web/1/status", `{"status":"DOWN","sticky":true}`, 409, "no engine"},
		{without, "PUT", "instances/web/1/metadata", `{"metadata":{"a":"b"},"sticky":true}`, 409, "no engine"},
		{without, "PUT", "instances/web/1/metadata", `{"metadata":{"a":"b"}}`, 204, ""},
		{without, "GET", "sticky", ``, 200, "[]"},
		{with, "PUT", "instances/web/none/metadata", `{"metadata":{"a":"b"},"sticky":true}`, 404, "not registered"},
		{with, "PUT", "instances/web/none/status", `{"status":"DOWN","sticky":true}`, 404, "not registered"},
		{with, "PUT", "instances/web/1/metadata", `{"metadata":{},"sticky":true}`, 422, "1 to 64"},
		{with, "PUT", "instances/web/1/metadata", `{"metadata":{"":"b"},"sticky":true}`, 422, "not empty"},
		{with, "PUT", "instances/web/1/metadata", string(tooMany), 422, "1 to 64"},
		{with, "PUT", "instances/web/1/metadata", `{"metadata":{"a":"` + strings.Repeat("x", 20_000) + `"},"sticky":true}`, 422, "16384 bytes"},
		{with, "DELETE", "instances/web/1/metadata/a", ``, 404, "not sticky"},
		{without, "DELETE", "instances/web/1/metadata/a", ``, 404, "not sticky"},
	} {
		if status, body := tt.n.ask(t, tt.method, tt.path, tt.body); status != tt.want || !strings.Contains(body, tt.says) {
			t.Errorf("%s %s %.60s: got %d %s, want %d with %q", tt.method, tt.path, tt.body, status, body, tt.want, tt.says)
		}
	}
	if got := with.is(t, "1", "a"); got != "UP" {
		t.Errorf("after what was refused: got %q, want it UP as it registered", got)
	}
}

func TestEvictingManyMustBeConfirmed(t *testing.T) {
	e, l := openLedger(t)
	defer e.Close() //nolint:errcheck // nothing is written after it
	n := newNode(t, e, l)
	for i := range 12 {
		post(t, n.h, "WEB", fmt.Sprint("w", i))
	}
	post(t, n.h, "SOLE", "s1")
	post(t, n.h, "PAIR", "p1")
	post(t, n.h, "PAIR", "p2")
	evict := func(path, body string) (int, string) { return n.ask(t, "POST", path, body) }
	for _, tt := range []struct {
		body string
		want int
		says string
	}{
		{`{}`, 422, "to evict everybody"}, {`{"app":"none"}`, 404, "no registered instance"}, {`{"app":"sole"}`, 200, `"evicted":1`},
		{`{"app":"web","ids":["w0","w1"]}`, 200, `"evicted":2`}, {`{"app":"pair"}`, 428, "2 instances, of pair"}, {`{"zone":"zone-x"}`, 404, "no registered"},
	} {
		if status, body := evict("evictions", tt.body); status != tt.want || !strings.Contains(body, tt.says) {
			t.Errorf("evicting %s: got %d %s, want %d with %q", tt.body, status, body, tt.want, tt.says)
		}
	}
	status, body := evict("evictions", `{"zone":"zone-a","app":"web"}`)
	_, token, ok := strings.Cut(body, "confirm=")
	if token, _, _ = strings.Cut(token, `"`); status != 428 || !ok || !strings.Contains(body, "10 instances, of web") {
		t.Fatalf("evicting ten: got %d %s, want 428 and a token", status, body)
	}
	post(t, n.h, "WEB", "new")
	if status, _ = evict("evictions?confirm="+token, `{"zone":"zone-a","app":"web"}`); status != 428 {
		t.Errorf("confirmed with the token of others: got %d, want 428", status)
	}
	do(t, n.h, "DELETE", "/eureka/apps/WEB/new", "")
	if status, body = evict("evictions?confirm="+token, `{"zone":"zone-a","app":"web"}`); status != 200 || !strings.Contains(body, `"evicted":10`) {
		t.Errorf("confirmed: got %d %s, want 10 evicted", status, body)
	}
	if got := n.is(t, "w5", ""); got != "gone" {
		t.Errorf("evicted: w5 is %s, want it gone", got)
	}
	list, err := l.List(t.Context(), ledger.Query{Action: "registry.evict"})
	if err != nil || len(list) != 3 || !strings.Contains(string(list[0].Before), `"count":10`) || !strings.Contains(string(list[0].Before), "web/w11") || list[0].Actor != "ana" {
		t.Errorf("the ledger has of evictions: %v, %v; want the 3 of ana, the newest of 10 instances", list, err)
	}
}
