package properties

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/ledger"
)

// TestGoingBackMakesEverythingWhatItWas writes at random, notes what is stored after each write, and goes back to one of
// those moments by what Back says.
func TestGoingBackMakesEverythingWhatItWas(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "first", "", config.Scope{}) // before it there is no moment
	round := 0
	rapid.Check(t, func(t2 *rapid.T) {
		round++
		prefix := fmt.Sprintf("r%d.", round)
		contents := func() map[string]string {
			out := map[string]string{}
			for _, p := range s.List(Prefix(prefix)) {
				out[p.Key+" "+p.ScopeText()] = p.Value
			}
			return out
		}
		var moments []uint64
		var was []map[string]string
		for range rapid.IntRange(1, 8).Draw(t2, "writes") {
			key := prefix + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t2, "key")
			scope := config.Scope{App: rapid.SampledFrom([]string{"", "api"}).Draw(t2, "app")}
			if id := ID(key, scope); rapid.IntRange(0, 3).Draw(t2, "what") == 0 {
				if err := s.Delete(as(t, "ana"), id, Any); err != nil && !errors.Is(err, ErrNotFound) {
					t2.Fatal(err)
				}
			} else if _, err := s.Set(as(t, "ana"), Property{Key: key, Scope: scope, Value: rapid.StringMatching("[a-c]").Draw(t2, "value")}, Any); err != nil {
				t2.Fatal(err)
			}
			moments, was = append(moments, s.index.Load().rev), append(was, contents())
		}
		to := rapid.IntRange(0, len(moments)-1).Draw(t2, "to")
		d, err := s.Diff(t.Context(), Prefix(prefix), Moment{Rev: moments[to]}, Moment{})
		if err != nil {
			t2.Fatal(err)
		}
		edits, err := s.Back(t.Context(), Prefix(prefix), Moment{Rev: moments[to]})
		if err != nil || len(edits) != len(d.Differences) {
			t2.Fatalf("back to %d: got %d changes, %v; %d records differ", moments[to], len(edits), err, len(d.Differences))
		}
		for _, e := range edits {
			if e.Op == DeleteOp {
				err = s.Delete(as(t, "ana"), e.Record.ID, Any)
			} else {
				_, err = s.Set(as(t, "ana"), e.Record, Any)
			}
			if err != nil {
				t2.Fatal(err)
			}
		}
		if got := contents(); !maps.Equal(got, was[to]) {
			t2.Fatalf("back to %d: got %v, want %v", moments[to], got, was[to])
		}
	})
}

func TestARestoreIsARolloutOfAllOrNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		n := c.node(t)
		defer n.stop()
		set := func(key, value string, p Property) Property {
			t.Helper()
			p.Key, p.Value, p.Scope = key, value, config.Scope{App: "api"}
			p, err := n.Set(as(t, "ana"), p, Any)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		set("timeout", "100", Property{Type: "int"})
		set("kept", "same", Property{})
		set("secret", "hunter2", Property{Sensitive: true})
		gone := set("gone", "was here", Property{})
		good := n.index.Load().rev
		time.Sleep(time.Hour)
		set("timeout", "never", Property{Type: "string"})
		set("secret", "hunter3", Property{})
		set("new", "x", Property{})
		if err := n.Delete(as(t, "ana"), gone.ID, Any); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		h := n.Handler()
		ask := func(method, path, body string, want int) string {
			t.Helper()
			w := httptest.NewRecorder()
			r := request(method, "/config/v1/"+path, body)
			r.Header.Set(api.ActorHeader, "bob")
			if h.ServeHTTP(w, r); w.Code != want {
				t.Fatalf("%s %s %s: got %d %s, want %d", method, path, body, w.Code, w.Body, want)
			}
			return w.Body.String()
		}
		for _, from := range []string{fmt.Sprint(good), "90m", time.Now().Add(-90 * time.Minute).UTC().Format(time.RFC3339)} {
			var d Differences
			if err := json.Unmarshal([]byte(ask("GET", "diff?from="+from, "", 200)), &d); err != nil {
				t.Fatal(err)
			}
			var keys []string
			for _, x := range d.Differences {
				p := x.Before
				if p == nil {
					p = x.After
				}
				keys = append(keys, p.Key)
				if strings.Contains(p.Value, "hunter") {
					t.Errorf("the difference shows the secret: %+v", p)
				}
			}
			if want := []string{"gone", "new", "secret", "timeout"}; !slices.Equal(keys, want) {
				t.Errorf("differences from %s: got %v, want %v", from, keys, want)
			}
		}
		dry := ask("POST", "rollback", fmt.Sprintf(`{"toRev":%d,"app":"api","dryRun":true}`, good), 200)
		if strings.Contains(dry, "hunter") || !strings.Contains(dry, `"op":"delete"`) {
			t.Errorf("dry run: got %s, want the changes, without secrets", dry)
		}
		ask("POST", "rollback", `{}`, 400)
		ask("POST", "rollback", `{"toRev":1,"at":"2026-01-01T00:00:00Z"}`, 400)
		var r Rollout
		if err := json.Unmarshal([]byte(ask("POST", "rollback", fmt.Sprintf(`{"toRev":%d,"app":"api"}`, good), 201)), &r); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"timeout": "100", "kept": "same", "secret": "hunter2", "gone": "was here"}
		see := func(when string) {
			t.Helper()
			got, err := n.Resolve(config.Scope{App: "api"})
			if err != nil || !maps.Equal(got.Properties, want) {
				t.Errorf("%s: got %v, %v; want %v", when, got.Properties, err, want)
			}
		}
		see("at once")
		n.until(t, r.ID, stage{Done, ""})
		see("in the end")
		if p, _ := n.Get(ID("timeout", config.Scope{App: "api"})); p.Type != "int" || p.UpdatedBy != "bob" {
			t.Errorf("timeout: got %+v, want int again, by bob", p)
		}
		if p, _ := n.Get(ID("secret", config.Scope{App: "api"})); p.Value != Mask {
			t.Errorf("the secret is shown: %+v", p)
		}
		if again := ask("POST", "rollback", fmt.Sprintf(`{"toRev":%d,"app":"api"}`, good), 200); !strings.Contains(again, `"changes":[]`) {
			t.Errorf("going back to where it is: got %s, want no changes", again)
		}
		changes, err := c.ledger.List(t.Context(), ledger.Query{})
		if b, _ := json.Marshal(changes); err != nil || strings.Contains(string(b), "hunter") {
			t.Errorf("the ledger shows the secret: %s, %v", b, err)
		}
	})
}

func TestWhatIsNotKnownAnyMoreIsNotGuessed(t *testing.T) {
	s := open(t, t.TempDir())
	p := s.must(t, "busy", "first", config.Scope{App: "api"})
	s.must(t, "calm", "1", config.Scope{App: "api"})
	for i := range history {
		s.must(t, "busy", fmt.Sprint(i), config.Scope{App: "api"})
	}
	d, err := s.Diff(t.Context(), Filter{}, Moment{Rev: p.Rev}, Moment{})
	if err != nil || len(d.Lost) != 1 || !strings.Contains(d.Lost[0], "busy") || len(d.Differences) != 1 {
		t.Errorf("difference since %d: got %+v, %v; want calm, and busy as lost", p.Rev, d, err)
	}
	if _, err := s.Back(t.Context(), Filter{}, Moment{Rev: p.Rev}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("going back there: got %v, want ErrInvalid that names busy", err)
	}
	if edits, err := s.Back(t.Context(), Prefix("calm"), Moment{Rev: p.Rev}); err != nil || len(edits) != 1 || edits[0].Op != DeleteOp {
		t.Errorf("going back without it: got %+v, %v; want calm deleted", edits, err)
	}
}

func TestHistoryTellsWhoChangedWhatOfAnAppAndWhen(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		n := c.node(t)
		defer n.stop()
		for i, who := range []string{"ana", "bob", "eve"} {
			for _, app := range []string{"api", "web"} {
				if _, err := n.Set(as(t, who), Property{Key: "k", Value: fmt.Sprint(i), Scope: config.Scope{App: app}}, Any); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Hour)
		}
		if err := n.Delete(as(t, "eve"), ID("k", config.Scope{App: "api"}), Any); err != nil {
			t.Fatal(err)
		}
		for query, want := range map[string]string{
			"app=api":                  "ana:0 bob:1 eve:2 eve:-",
			"app=api&since=150m":       "bob:1 eve:2 eve:-",
			"app=web&until=90m":        "ana:0 bob:1",
			"key=k&since=90m":          "eve:2 eve:2 eve:-",
			"app=api&limit=2":          "eve:2 eve:-",
			"filter=appId='web'":       "ana:0 bob:1 eve:2",
			"app=web&key=other":        "",
			"app=web&prefix=k&limit=1": "eve:2",
		} {
			var past Past
			body, _ := get(t, n.Handler(), "/config/v1/history?"+query)
			if err := json.Unmarshal([]byte(body), &past); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range past.History {
				v := p.Value
				if p.Deleted {
					v = "-"
				}
				got = append(got, p.UpdatedBy+":"+v)
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s: got %v, want %s", query, got, want)
			}
		}
		for query, want := range map[string]int{"since=soon": 422, "since=12": 400, "app=api&limit=x": 400, "": 400} {
			w := httptest.NewRecorder()
			if n.Handler().ServeHTTP(w, request("GET", "/config/v1/history?"+query, "")); w.Code != want {
				t.Errorf("%s: got %d %s, want %d", query, w.Code, w.Body, want)
			}
		}
	})
}

func TestADryRunTellsWhatIsWrongAndWhomItConcerns(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "k", "all", config.Scope{})
	s.must(t, "k", "b", config.Scope{App: "web", Zone: "zone-b"})
	if _, err := s.Set(as(t, "ana"), Property{Key: "n", Value: "1", Type: "int"}, Any); err != nil {
		t.Fatal(err)
	}
	s.setFleet(append(web(9), roadbed.Instance{ID: "other", App: "api", Status: roadbed.Up}))
	rev := s.index.Load().rev
	ask := func(body string) Validation {
		t.Helper()
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, request("POST", "/config/v1/validate", body))
		var v Validation
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != http.StatusOK {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		return v
	}
	v := ask(`{"changes":[{"record":{"key":"k","value":"new","appId":"web"}}]}`)
	if !v.Valid || v.Affected.Instances != 6 || v.Affected.Of != 10 || slices.Contains(v.Affected.IDs, "i-001") || v.Changes[0].Record.ID == "" {
		t.Errorf("got %+v; want valid, 6 of 10 instances, not those of zone-b, which have their own", v)
	}
	v = ask(`{"changes":[{"record":{"key":"n","value":"x","appId":"web"}},{"op":"delete","record":{"key":"absent"}},{"record":{"key":"k","value":"new","appId":"web,api"}},{"record":{"key":"k","value":"z","zone":"zone-a"}}]}`)
	if text := strings.Join(v.Problems, "; "); v.Valid || len(v.Problems) != 3 || !strings.Contains(text, "whole number") || !strings.Contains(text, "absent") || !strings.Contains(text, "confirm=global") {
		t.Errorf("got %+v; want three problems: the type, the absent one, the global override", v)
	}
	if now := s.index.Load().rev; now != rev || len(s.Rollouts()) != 0 {
		t.Errorf("a dry run changed something: revision %d, was %d", now, rev)
	}
}

func TestALongPollAnswersWhenSomethingOfItsCallerChanges(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		n := c.node(t)
		defer n.stop()
		put := func(key, value, app string) {
			t.Helper()
			if _, err := n.Set(as(t, "ana"), Property{Key: key, Value: value, Scope: config.Scope{App: app}}, Any); err != nil {
				t.Fatal(err)
			}
		}
		put("k", "1", "api")
		rev := n.index.Load().rev
		poll := func(query string) <-chan string {
			answer := make(chan string, 1)
			go func() {
				w := httptest.NewRecorder()
				n.Handler().ServeHTTP(w, request("GET", "/config/v1/resolve?appId=api&"+query, ""))
				answer <- fmt.Sprint(w.Code, " ", w.Body)
			}()
			return answer
		}
		waits := func(a <-chan string, what string) {
			t.Helper()
			synctest.Wait()
			select {
			case got := <-a:
				t.Errorf("%s: got %s, want that it waits", what, got)
			default:
			}
		}
		a := poll(fmt.Sprintf("index=%d&wait=1m", rev))
		put("k", "1", "web")   // another app's
		put("k", "1", "api")   // the same value
		put("other", "", "x ") // nobody's
		waits(a, "after changes of others")
		put("k", "2", "api")
		if got := <-a; !strings.Contains(got, `"k":"2"`) {
			t.Errorf("after its change: got %s, want k=2", got)
		}
		// What happened between two requests is not missed, and what did not concern it does not wake it.
		rev = n.index.Load().rev
		put("k", "9", "web")
		waits(poll(fmt.Sprintf("index=%d&wait=1s", rev)), "with a change of others in between")
		put("k", "3", "api")
		if got := <-poll(fmt.Sprintf("index=%d", rev)); !strings.Contains(got, `"k":"3"`) {
			t.Errorf("with a change in between: got %s, want k=3 at once", got)
		}
		began := time.Now()
		<-poll(fmt.Sprintf("index=%d&wait=2m", n.index.Load().rev))
		if took := time.Since(began); took < 2*time.Minute || took > 2*time.Minute+8*time.Second {
			t.Errorf("wait=2m: answered after %v, want 2 minutes and at most a sixteenth", took)
		}
		began = time.Now()
		<-poll(fmt.Sprintf("index=%d&wait=3h", n.index.Load().rev))
		if took := time.Since(began); took < mostWait || took > mostWait*17/16 {
			t.Errorf("wait=3h: answered after %v, want about %v", took, mostWait)
		}
		began = time.Now()
		<-poll("index=999999")
		<-poll("index=1")
		if took := time.Since(began); took != 0 {
			t.Errorf("a revision that is not known: answered after %v, want at once", took)
		}
		for _, query := range []string{"index=x", "index=1&wait=soon", "index=1&wait=-1s"} {
			if got := <-poll(query); !strings.HasPrefix(got, "400") {
				t.Errorf("%s: got %s, want 400", query, got)
			}
		}
	})
}
