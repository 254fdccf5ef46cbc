package registry

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// postBatch sends items to h as a peer does and returns the answers.
func postBatch(t *testing.T, h http.Handler, path, items string, headers ...string) (status int, answers []batchAnswer, body string) {
	t.Helper()
	req := httptest.NewRequest("POST", path, strings.NewReader(`{"replicationList":[`+items+`]}`))
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	var list struct{ ResponseList []batchAnswer }
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
			t.Fatalf("answer %s: %v", w.Body, err)
		}
	}
	return w.Code, list.ResponseList, w.Body.String()
}

type batchAnswer struct {
	StatusCode     int
	ResponseEntity *struct {
		InstanceID string `json:"instanceId"`
		Dirty      string `json:"lastDirtyTimestamp"`
		Override   string `json:"overriddenStatus"`
	}
}

// item writes one operation of a batch.
func item(action, id, rest string) string {
	return fmt.Sprintf(`{"appName":"shop","id":%q,%s"action":%q}`, id, rest, action)
}

// info is the instanceInfo of the reference instance with another id and version.
func info(t testing.TB, id string, dirty int) string {
	t.Helper()
	s := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(string(golden(t, "instance.json"))), `{"instance":`), "}")
	s = strings.Replace(s, "web-1.internal:shop:8080", id, 1)
	return `"instanceInfo":` + strings.Replace(s, "1759999999000", fmt.Sprint(dirty), 1) + `,`
}

func TestBatchesAreAnsweredItemByItem(t *testing.T) {
	r := New(Config{})
	h := r.Handler()
	steps := []struct {
		item string
		want int
		then string // status/override/version of instance i
	}{
		{item("Heartbeat", "i", `"lastDirtyTimestamp":10,"status":"UP",`), 404, "gone"},
		{item("Register", "i", info(t, "i", 10)+`"lastDirtyTimestamp":10,"status":"UP",`), 200, "UP/-/10/ADDED"},
		{item("Heartbeat", "i", `"lastDirtyTimestamp":10,"status":"UP",`), 200, "UP/-/10/ADDED"},
		{item("Heartbeat", "i", ``), 200, "UP/-/10/ADDED"},
		{item("Heartbeat", "i", `"lastDirtyTimestamp":5,"status":"UP",`), 409, "UP/-/10/ADDED"},
		{item("Heartbeat", "i", `"lastDirtyTimestamp":20,"status":"UP",`), 404, "UP/-/10/ADDED"},
		{item("Register", "i", info(t, "i", 5)), 200, "UP/-/10/ADDED"},
		{item("StatusUpdate", "i", `"lastDirtyTimestamp":12,"status":"OUT_OF_SERVICE",`), 200, "OUT_OF_SERVICE/OUT_OF_SERVICE/12/MODIFIED"},
		{item("StatusUpdate", "i", `"status":"SIDEWAYS",`), 500, "OUT_OF_SERVICE/OUT_OF_SERVICE/12/MODIFIED"},
		{item("StatusUpdate", "j", `"status":"DOWN",`), 404, "OUT_OF_SERVICE/OUT_OF_SERVICE/12/MODIFIED"},
		{item("Heartbeat", "i", `"lastDirtyTimestamp":5,"overriddenStatus":"OUT_OF_SERVICE","status":"UP",`), 409, "OUT_OF_SERVICE/OUT_OF_SERVICE/12/MODIFIED"},
		{item("DeleteStatusOverride", "i", `"lastDirtyTimestamp":12,"status":"UP",`), 200, "UP/-/12/MODIFIED"},
		{item("DeleteStatusOverride", "i", `"lastDirtyTimestamp":12,`), 200, "UP/-/12/MODIFIED"},
		{item("DeleteStatusOverride", "j", ``), 404, "UP/-/12/MODIFIED"},
		{item("Heartbeat", "i", `"lastDirtyTimestamp":30,"overriddenStatus":"DOWN","status":"UP",`), 404, "UP/DOWN/12/MODIFIED"},
		{item("Register", "i", `"instanceInfo":{"hostName":"h"},`), 200, "UP/DOWN/12/MODIFIED"},
		{item("Register", "i", `"instanceInfo":[],`), 200, "UP/DOWN/12/MODIFIED"},
		{item("Register", "i", ``), 500, "UP/DOWN/12/MODIFIED"},
		{item("Explode", "i", ``), 500, "UP/DOWN/12/MODIFIED"},
		{item("", "i", ``), 500, "UP/DOWN/12/MODIFIED"},
		{item("Cancel", "i", `"lastDirtyTimestamp":12,`), 200, "gone/DELETED"},
		{item("Cancel", "i", ``), 404, "gone/DELETED"},
		{item("Register", "i", info(t, "i", 12)), 200, "gone/DELETED"}, // old news of one that has been cancelled
		{item("Register", "i", info(t, "i", 13)), 200, "UP/-/13/MODIFIED"},
		{item("Cancel", "i", `"lastDirtyTimestamp":12,`), 200, "UP/-/13/MODIFIED"}, // of the one before
		{item("Cancel", "i", ``), 200, "gone/DELETED"},                             // as Eureka's servers say it
		{item("Register", "i", info(t, "i", 13)), 200, "UP/-/13/MODIFIED"},         // so it may be of one before too
	}
	for i, st := range steps {
		status, got, body := postBatch(t, h, "/eureka/peerreplication/batch/", st.item)
		if status != 200 || len(got) != 1 || got[0].StatusCode != st.want || (got[0].ResponseEntity != nil) != (st.want == 409) {
			t.Errorf("step %d, %s: got %d %s, want one answer %d", i, st.item, status, body, st.want)
		}
		if then := describe(r.s, key{"SHOP", "i"}); then != st.then {
			t.Errorf("step %d, %s: the instance is %s, want %s", i, st.item, then, st.then)
		}
	}

	// All at once, in order.
	var all []string
	r = New(Config{})
	for _, st := range steps {
		all = append(all, st.item)
	}
	status, got, body := postBatch(t, r.Handler(), "/eureka/v2/peerreplication/batch", strings.Join(all, ",\n"))
	if status != 200 || len(got) != len(steps) {
		t.Fatalf("all in one batch: got %d, %d answers, want %d: %s", status, len(got), len(steps), body)
	}
	for i, st := range steps {
		if got[i].StatusCode != st.want {
			t.Errorf("answer %d to %s: got %d, want %d", i, st.item, got[i].StatusCode, st.want)
		}
	}
	if e := got[10].ResponseEntity; e == nil || e.InstanceID != "i" || e.Dirty != "12" || e.Override != "OUT_OF_SERVICE" {
		t.Errorf("what the peer should know: got %+v, want version 12 out of service", e)
	}
	if n := len(r.s.find(key{"SHOP", "i"}).rec.id); n != 1 {
		t.Errorf("id: got %d bytes", n)
	}
}

func TestBatchesArriveUnderEveryPrefixAndCompressed(t *testing.T) {
	r := New(Config{})
	for _, prefix := range []string{"/eureka", "/eureka/v2", "/v2", "/eureka/v1", "/v1", "//eureka/"} {
		for _, slash := range []string{"", "/"} {
			path := prefix + "/peerreplication/batch" + slash
			if status, got, _ := postBatch(t, r.Handler(), path, item("Heartbeat", "i", "")); status != 200 || len(got) != 1 || got[0].StatusCode != 404 {
				t.Errorf("%s: got %d %v, want the one answer 404", path, status, got)
			}
		}
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write([]byte(`{"replicationList":[` + item("Register", "z", info(t, "z", 1)) + `]}`)) //nolint:errcheck // a buffer takes everything
	z.Close()                                                                               //nolint:errcheck // as above
	for _, tt := range []struct {
		name, method, body, encoding string
		want                         int
	}{
		{"gzip", "POST", zipped.String(), "gzip", 200},
		{"broken gzip", "POST", zipped.String()[:60], "gzip", 400},
		{"no gzip", "POST", "{}", "gzip", 400},
		{"cut off", "POST", `{"replicationList":[{"appName":"A"`, "", 400},
		{"nothing", "POST", ``, "", 400},
		{"another document", "POST", `{"instance":{}}`, "", 400},
		{"empty", "POST", `{"replicationList":[]}`, "", 200},
		{"GET", "GET", ``, "", 405},
	} {
		req := httptest.NewRequest(tt.method, "/eureka/peerreplication/batch/", strings.NewReader(tt.body))
		req.Header.Set("Content-Type", "application/json")
		if tt.encoding != "" {
			req.Header.Set("Content-Encoding", tt.encoding)
		}
		w := httptest.NewRecorder()
		if r.Handler().ServeHTTP(w, req); w.Code != tt.want {
			t.Errorf("%s: got status %d %s, want %d", tt.name, w.Code, w.Body, tt.want)
		}
	}
	if r.s.find(key{"SHOP", "z"}) == nil {
		t.Error("the compressed registration is not there")
	}
}

func TestOverloadedRegistryRefusesBatchesSoon(t *testing.T) {
	r := New(Config{})
	for range cap(r.batches) {
		r.batches <- struct{}{}
	}
	if status, _, body := postBatch(t, r.Handler(), "/eureka/peerreplication/batch/", item("Cancel", "i", "")); status != 503 || body != "" {
		t.Errorf("with as many batches at work as may be: got %d %q, want 503 and nothing", status, body)
	}
	r.batches.leave()
	if status, _, _ := postBatch(t, r.Handler(), "/eureka/peerreplication/batch/", item("Cancel", "i", "")); status != 200 {
		t.Errorf("with room for one more: got %d, want 200", status)
	}
}

// beatsOfFilled writes a batch of n renewals of the instances of filled.
func beatsOfFilled(n int) string {
	var b strings.Builder
	b.WriteString(`{"replicationList":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"appName":"APP%d","id":"web-%d.internal:shop:8080","lastDirtyTimestamp":1759999999000,"status":"UP","action":"Heartbeat"}`, i*31%10_000/20, i*31%10_000)
	}
	return b.String() + "]}"
}

func TestHeartbeatsOfPeersAllocateNothingEach(t *testing.T) {
	r := filled(t, 1000)
	items, err := scanBatch(strings.ReplaceAll(beatsOfFilled(100), "APP", "app"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range items {
		items[i].app = upper(items[i].app)
	}
	if n := testing.AllocsPerRun(10, func() {
		for i := range items {
			r.face.apply(&items[i])
		}
	}); n != 0 {
		t.Errorf("%d heartbeats: got %v allocations, want none", len(items), n)
	}
}

func BenchmarkBatchOfHeartbeats(b *testing.B) {
	r := filled(b, 10_000)
	body := beatsOfFilled(250)
	in := strings.NewReader(body)
	req := httptest.NewRequest("POST", "/eureka/peerreplication/batch/", in)
	w := &blackhole{header: make(http.Header, 8)}
	b.ReportAllocs()
	for b.Loop() {
		in.Reset(body)
		clear(w.header)
		r.Handler().ServeHTTP(w, req)
	}
	if w.status != 200 {
		b.Fatal(w.status)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/250, "ns/item")
}
