package registry_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/ledger"
	"github.com/roadbed/roadbed/platform/registry"
)

// surface is the platform's API with nothing but r on it.
func surface(r *registry.Registry) *api.Surface {
	s := api.New("test", "0")
	r.Mount(s)
	return s
}

func leases(t *testing.T, h http.Handler, query string) (ids []string, more int, byID map[string]registry.Lease) {
	t.Helper()
	resp := do(t, h, "GET", "http://localhost/api/v1/registry/leases"+query, "")
	var got struct {
		Leases []registry.Lease
		More   int
	}
	body := text(t, resp)
	if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 200 {
		t.Fatalf("leases%s: got %d %s (%v)", query, resp.StatusCode, body, err)
	}
	byID = map[string]registry.Lease{}
	for _, l := range got.Leases {
		ids = append(ids, l.App+"/"+l.ID)
		byID[l.ID] = l
	}
	return ids, got.More, byID
}

func TestStatusCountsWhatIsRegistered(t *testing.T) {
	r := registry.New(registry.Config{Self: "registry-a", Location: roadbed.Location{Region: "eu", Zone: "zone-a"}})
	h := r.Handler()
	post(t, h, "WEB", "w1")
	post(t, h, "WEB", "w2")
	post(t, h, "API", "a1")
	if got := do(t, h, "PUT", "/eureka/apps/WEB/w2/status?value=OUT_OF_SERVICE", "").StatusCode; got != 200 {
		t.Fatal(got)
	}
	var st registry.Status
	body := text(t, do(t, surface(r), "GET", "http://localhost/api/v1/registry/status", ""))
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	got := fmt.Sprintf("%s %s %d apps %d instances %v %d overrides warming %v", st.Self, st.Location, st.Apps, st.Instances, st.Statuses, st.Overrides, st.Warming)
	if want := "registry-a eu/zone-a 2 apps 3 instances map[OUT_OF_SERVICE:1 UP:2] 1 overrides warming true"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestLeasesAreSearchedAndCut(t *testing.T) {
	r := registry.New(registry.Config{})
	for _, id := range []string{"w2", "w1", "w3"} {
		post(t, r.Handler(), "WEB", id)
	}
	post(t, r.Handler(), "API", "a1")
	do(t, r.Handler(), "PUT", "/eureka/apps/WEB/w3/status?value=OUT_OF_SERVICE", "")
	for _, c := range []struct{ query, want string }{
		{"", "[api/a1 web/w1 web/w2 web/w3] 0"},
		{"?q=WEB", "[web/w1 web/w2 web/w3] 0"},
		{"?q=zone-a+w1", "[web/w1] 0"},
		{"?q=out_of", "[web/w3] 0"},
		{"?q=nobody", "[] 0"},
		{"?limit=2", "[api/a1 web/w1] 2"},
		{"?limit=1&q=web", "[web/w1] 2"},
	} {
		ids, more, _ := leases(t, surface(r), c.query)
		if got := fmt.Sprintf("%v %d", ids, more); got != c.want {
			t.Errorf("leases%s: got %s, want %s", c.query, got, c.want)
		}
	}
	if got := do(t, surface(r), "GET", "http://localhost/api/v1/registry/leases?limit=0", "").StatusCode; got != 422 {
		t.Errorf("limit=0: got status %d, want 422", got)
	}
}

func TestLeasesTellWhenAnInstanceWasLastHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := registry.New(registry.Config{})
		h := r.Handler()
		post(t, h, "WEB", "w1")
		registered := time.Now()
		leases(t, surface(r), "") // a snapshot is made, and stays for half a minute
		time.Sleep(20 * time.Second)
		do(t, h, "PUT", "/eureka/apps/WEB/w1", "")
		time.Sleep(5 * time.Second)
		_, _, byID := leases(t, surface(r), "")
		l := byID["w1"]
		if age := time.Since(l.Renewed); age != 5*time.Second {
			t.Errorf("renewed 5 s ago: got %v ago", age)
		}
		if !l.Registered.Equal(registered) || l.Interval != 30 || l.Duration != 90 || l.Address != "127.0.0.1:8080" || l.Location.Zone != "zone-a" {
			t.Errorf("got %+v, want registered at %v, renewing each 30 s of 90, at 127.0.0.1:8080 in zone-a", l, registered)
		}
	})
}

func TestOperatorsDecideByTheApiAndTheLedgerSaysWhy(t *testing.T) {
	e, book := openLedger(t)
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	r := registry.New(registry.Config{Ledger: book})
	post(t, r.Handler(), "WEB", "h:web:80")
	s := surface(r)
	const at = "http://localhost/api/v1/registry/instances/web/h:web:80/status"
	by := []string{"Content-Type", "application/json", "Roadbed-Actor", "ana", "Roadbed-Why", "disk%20fails%20%E2%80%93%20slowly"}

	if resp := do(t, s, "PUT", at, `{"status":"OUT_OF_SERVICE"}`, by...); resp.StatusCode != 204 {
		t.Fatalf("override: got %d %s, want 204", resp.StatusCode, text(t, resp))
	}
	_, _, byID := leases(t, s, "")
	if l := byID["h:web:80"]; l.Status != roadbed.OutOfService || l.Override != roadbed.OutOfService || l.Says != roadbed.Up {
		t.Errorf("after the override: got %+v, want OUT_OF_SERVICE by override of an instance that says UP", l)
	}
	if resp := do(t, s, "DELETE", at, "", by...); resp.StatusCode != 204 {
		t.Fatalf("clear: got %d %s, want 204", resp.StatusCode, text(t, resp))
	}
	_, _, byID = leases(t, s, "")
	if l := byID["h:web:80"]; l.Status != roadbed.Up || l.Override != "" {
		t.Errorf("after it was cleared: got %+v, want UP without override", l)
	}
	list, err := book.List(t.Context(), ledger.Query{})
	if err != nil || len(list) != 2 {
		t.Fatalf("ledger: got %v %+v, want two entries", err, list)
	}
	for i, want := range []string{"instance.clearOverride", "instance.override"} {
		if c := list[i]; c.Action != want || c.Actor != "ana" || c.Why != "disk fails – slowly" || c.Resource != "instance:web/h:web:80" {
			t.Errorf("ledger entry %d: got %+v, want %s by ana with her reason", i, c, want)
		}
	}
}

func TestADecisionThatCannotBeSaysWhy(t *testing.T) {
	e, book := openLedger(t)
	r := registry.New(registry.Config{Ledger: book})
	post(t, r.Handler(), "WEB", "w1")
	s := surface(r)
	put := func(path, body string) (int, string) {
		resp := do(t, s, "PUT", "http://localhost/api/v1/registry/instances/"+path+"/status", body, "Content-Type", "application/json")
		return resp.StatusCode, text(t, resp)
	}
	for _, c := range []struct {
		path, body string
		status     int
		says       string
	}{
		{"web/w9", `{"status":"OUT_OF_SERVICE"}`, 404, `instance \"w9\" of web is not registered`},
		{"web/w1", `{"status":"SLEEPY"}`, 422, "OUT_OF_SERVICE"},
		{"web/w1", `{"status":"UNKNOWN"}`, 422, "OUT_OF_SERVICE"},
		{"web/w1", `{`, 400, ""},
	} {
		if status, body := put(c.path, c.body); status != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s %s: got %d %s, want %d saying %q", c.path, c.body, status, body, c.status, c.says)
		}
	}
	if got := do(t, s, "DELETE", "http://localhost/api/v1/registry/instances/web/w9/status", "").StatusCode; got != 404 {
		t.Errorf("clearing of nobody: got %d, want 404", got)
	}
	if got := do(t, s, "DELETE", "http://localhost/api/v1/registry/instances/web/w1/status", "").StatusCode; got != 204 {
		t.Errorf("clearing where nothing was decided: got %d, want 204", got)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if status, body := put("web/w1", `{"status":"OUT_OF_SERVICE"}`); status != 503 || !strings.Contains(body, "stays as it is") {
		t.Errorf("with the ledger gone: got %d %s, want a 503 that says that nothing happened", status, body)
	}
}
