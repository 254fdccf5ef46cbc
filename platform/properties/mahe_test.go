package properties

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/ledger"
)

// mahe asks as Spinnaker does, which takes anything but 200 for an error.
type mahe struct {
	t *testing.T
	h http.Handler
}

func (m mahe) do(method, path, body string, want int) string {
	m.t.Helper()
	w := httptest.NewRecorder()
	m.h.ServeHTTP(w, request(method, "/config/mahe/properties/"+path, body))
	if w.Code != want {
		m.t.Fatalf("%s %s %s: got %d %s, want %d", method, path, body, w.Code, w.Body, want)
	}
	return w.Body.String()
}

func (m mahe) upsert(property string) (id string) {
	m.t.Helper()
	var answer struct{ PropertyID string }
	body := m.do("POST", "upsert", `{"property":`+property+`}`, 200)
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.PropertyID == "" {
		m.t.Fatalf("upsert: got %s, %v", body, err)
	}
	return answer.PropertyID
}

func (m mahe) get(id, env string) map[string]any {
	m.t.Helper()
	var answer struct{ Property map[string]any }
	body := m.do("GET", "prop?"+url.Values{"propId": {id}, "env": {env}}.Encode(), "", 200)
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		m.t.Fatalf("prop: got %s, %v", body, err)
	}
	return answer.Property
}

const fromPipeline = `{"key":"demo_key","value":5,"constraints":"none","env":"test","appIdList":["api"],"appId":"api","region":"us-west-1",
	"stack":"","cluster":"api-test","asg":["api-test-v010"],"zone":null,"email":"ana@example.com","sourceOfUpdate":"spinnaker","cmcTicket":"CHG-1"}`

func TestSpinnakerCreatesFindsAndDeletesAFastProperty(t *testing.T) {
	s := open(t, t.TempDir())
	m := mahe{t, s.Handler()}
	m.do("GET", "find?key=demo_key&env=test&appId=api&region=us-west-1&cluster=api-test&asg=api-test-v010&email=ana%40example.com", "", 404)
	id := m.upsert(fromPipeline)
	if want := "demo_key|api|test|us-west-1||||asg=api-test-v010|cluster=api-test"; id != want {
		t.Errorf("propertyId: got %s, want %s", id, want)
	}
	p := m.get(id, "test")
	for name, want := range map[string]any{"propertyId": id, "key": "demo_key", "value": "5", "env": "test", "appId": "api", "email": "ana@example.com", "cmcTicket": "CHG-1", "sourceOfUpdate": "spinnaker"} {
		if p[name] != want {
			t.Errorf("%s: got %v, want %v", name, p[name], want)
		}
	}
	found := m.do("GET", "find?key=demo_key&env=test&appId=api&region=us-west-1&cluster=api-test&asg=api-test-v010&email=other", "", 200)
	if want := m.do("GET", "prop?propId="+url.QueryEscape(id), "", 200); found != want {
		t.Errorf("find: got %s, want %s", found, want)
	}
	m.do("GET", "prop?env=prod&propId="+url.QueryEscape(id), "", 404)
	m.do("DELETE", "delete?cmcTicket=x&env=prod&propId="+url.QueryEscape(id), "", 404)
	if body := m.do("DELETE", "delete?cmcTicket=spinnaker+rollback&env=test&propId="+url.QueryEscape(id), "", 200); body != "" {
		t.Errorf("delete: got body %q, want none", body)
	}
	m.do("GET", "prop?env=test&propId="+url.QueryEscape(id), "", 404)
	changes, err := s.ledger.List(t.Context(), ledger.Query{Resource: "property:demo_key"})
	if err != nil || len(changes) != 2 || changes[0].Why != "spinnaker rollback" || changes[1].Actor != "ana@example.com" || changes[1].Why != "CHG-1" {
		t.Errorf("ledger: got %+v, %v; want a set by ana for CHG-1 and a delete for the roll-back", changes, err)
	}
	for body, want := range map[string]int{`{}`: 400, `[`: 400, `{"property":{"key":"k","value":{}}}`: 400, `{"property":{"key":"k","env":[1]}}`: 400, `{"property":{"value":"v"}}`: 422} {
		m.do("POST", "create", body, want)
	}
}

// This is what Spinnaker does to undo an update: only if ts is what it saw after its own write does it send back what
// it saw before, as a whole.
func TestSpinnakerUndoesOnlyItsOwnUpdate(t *testing.T) {
	s := open(t, t.TempDir())
	m := mahe{t, s.Handler()}
	least := 1.0
	if _, err := s.Set(t.Context(), Property{Key: "demo_key", Value: "1", Type: "int", Constraint: &Constraint{Min: &least}, Scope: config.Scope{App: "api", Env: "test"}}, Any); err != nil {
		t.Fatal(err)
	}
	id := "demo_key|api|test||||"
	original := m.get(id, "test")
	if again := m.upsert(`{"key":"demo_key","value":"2","env":"test","appId":"api"}`); again != id {
		t.Fatalf("propertyId: got %s, want %s", again, id)
	}
	mine := m.get(id, "test")
	if mine["ts"].(float64) <= original["ts"].(float64) {
		t.Errorf("ts after a write: got %v, want more than %v", mine["ts"], original["ts"])
	}
	undo, err := json.Marshal(original)
	if err != nil {
		t.Fatal(err)
	}
	if now := m.get(id, "test"); now["ts"] != mine["ts"] {
		t.Errorf("ts with nobody writing: got %v, want %v", now["ts"], mine["ts"])
	}
	m.upsert(string(undo))
	now := m.get(id, "test")
	if now["value"] != "1" || now["type"] != "int" || now["ts"] == mine["ts"] || now["ts"] == original["ts"] {
		t.Errorf("undone: got %v, want value 1 and a ts of its own", now)
	}
	m.do("DELETE", "delete?propId="+url.QueryEscape(id), "", 200)
	m.upsert(string(undo))
	if now := m.get(id, "test"); now["type"] != "int" || now["constraint"] == nil {
		t.Errorf("restored after its deletion: got %v, want its type and constraint back", now)
	}
}

func TestEveryWriteHasATSOfItsOwn(t *testing.T) {
	s := open(t, t.TempDir())
	last := s.must(t, "k", "0", config.Scope{}).TS
	for range 50 {
		now := s.must(t, "k", "1", config.Scope{}).TS
		if now <= last {
			t.Fatalf("ts: got %d after %d, want more", now, last)
		}
		last = now
	}
}

func TestASensitiveFastPropertyIsNeitherShownNorOverwrittenByItsMask(t *testing.T) {
	s := open(t, t.TempDir())
	m := mahe{t, s.Handler()}
	if _, err := s.Set(t.Context(), Property{Key: "db.password", Value: "hunter2", Sensitive: true, Scope: config.Scope{App: "api"}}, Any); err != nil {
		t.Fatal(err)
	}
	p := m.get("db.password|api|||||", "")
	if p["value"] != Mask {
		t.Errorf("value: got %v, want %s", p["value"], Mask)
	}
	undo, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	m.do("POST", "upsert", `{"property":`+string(undo)+`}`, 422)
	m.do("DELETE", "delete?propId="+url.QueryEscape("db.password|api|||||"), "", 200)
	m.do("POST", "upsert", `{"property":`+string(undo)+`}`, 422)
}

func TestARecordIsFoundByItsPipeJoinedID(t *testing.T) {
	s := open(t, t.TempDir())
	text := rapid.StringOf(rapid.SampledFrom([]rune("ab|=,")))
	rapid.Check(t, func(t *rapid.T) {
		var records []Property
		byID := map[string]string{}
		for i, n := 0, rapid.IntRange(1, 8).Draw(t, "records"); i < n; i++ {
			d := func(n string) string { return strings.Trim(text.Draw(t, n), ",") }
			p := Property{Key: "k" + text.Draw(t, "key"), Scope: canonical(config.Scope{App: d("app"), Env: d("env"), Region: d("region"), Group: d("asg"), Countries: d("countries")}), Rev: uint64(i + 1)}
			p.ID = ID(p.Key, p.Scope)
			if id := maheID(p); byID[id] == "" { // a separator in a value may make two alike
				byID[id] = p.ID
				records = append(records, p)
			}
		}
		s.index.Store(indexOf(records...))
		for id, want := range byID {
			if got, ok := s.byMaheID(id); !ok || got.ID != want {
				t.Fatalf("%q: got %+v, %v; want %s", id, got, ok, want)
			}
		}
		if got, ok := s.byMaheID("x|y|z||||"); ok {
			t.Fatalf("got %+v for an id of nothing", got)
		}
	})
}

func FuzzDecodeMahe(f *testing.F) {
	f.Add([]byte(`{"property":` + fromPipeline + `}`))
	f.Add([]byte(`{"property":{"key":"k","value":true,"sensitive":false,"constraint":null}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodeMahe(b)
		if err != nil || p.check() != nil {
			return
		}
		body, err := json.Marshal(map[string]any{"property": p})
		if err != nil {
			t.Fatal(err)
		}
		q, err := decodeMahe(body)
		if err != nil || q.Key != p.Key || q.Value != p.Value || q.Scope != p.Scope {
			t.Errorf("%q: got %+v, %v after a round trip of %+v", b, q, err, p)
		}
	})
}
