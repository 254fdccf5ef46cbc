package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/roadbed/roadbed/meter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// point is one datapoint for a test: tags as "k=v k=v", age in seconds.
func body(common string, at time.Time, points ...string) string {
	var metrics []string
	for _, p := range points {
		tags, value, _ := strings.Cut(p, " -> ")
		metrics = append(metrics, fmt.Sprintf(`{"tags":%s,"timestamp":%d,"value":%s}`, object(tags), at.UnixMilli(), value))
	}
	return fmt.Sprintf(`{"tags":%s,"metrics":[%s]}`, object(common), strings.Join(metrics, ","))
}

func object(tags string) string {
	m := map[string]string{}
	for f := range strings.FieldsSeq(tags) {
		k, v, _ := strings.Cut(f, "=")
		m[k] = v
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func post(t testing.TB, s *Store, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/api/v1/publish", strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func mustPost(t testing.TB, s *Store, body string) {
	t.Helper()
	if code, answer := post(t, s, body); code != 200 || answer != "" {
		t.Fatalf("publish: got %d %s, want 200\n%.300s", code, answer, body)
	}
}

func get(t testing.TB, s *Store, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Body.String()
}

// values asks for a graph and returns it as "legend: v v v" lines.
func values(t testing.TB, s *Store, q, params string) string {
	t.Helper()
	code, answer := get(t, s, "/api/v1/graph?format=json&q="+url.QueryEscape(q)+params)
	var g struct {
		Legend []string
		Values [][]any
	}
	if err := json.Unmarshal([]byte(answer), &g); err != nil || code != 200 {
		return fmt.Sprintf("%d %s", code, answer)
	}
	var out []string
	for j, l := range g.Legend {
		line := l + ":"
		for _, row := range g.Values {
			line += fmt.Sprintf(" %v", row[j])
		}
		out = append(out, line)
	}
	return strings.Join(out, "; ")
}

func TestMemoryDatabaseAsInTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		// Rates of a publisher with a step of a minute. A first minute makes its step known.
		start := time.Now()
		rates := map[string][]float64{"name=aa": {0, 1, 2, 3}, "name=bb": {0, 3, 2, 1},
			"name=cc src=1": {0, 4, 5, 6}, "name=cc src=2": {0, 5, 6, 7}, "name=cc src=3": {0, 6, 7, 8}}
		for i := range 4 {
			if i > 0 {
				time.Sleep(time.Minute)
			}
			var points []string
			for tags, v := range rates {
				points = append(points, fmt.Sprintf("%s -> %v", tags, v[i]))
			}
			mustPost(t, s, body("", time.Now(), points...))
		}
		time.Sleep(4 * time.Second)
		for _, row := range []struct{ q, step, want string }{
			{"name,aa,:eq", "1m", "sum(name=aa): 1 2 3"},
			{"name,(,aa,bb,),:in", "1m", "sum(name in (aa,bb)): 4 4 4"},
			{"name,(aa|bb)$,:re", "1m", "sum(name~/^(aa|bb)$/): 4 4 4"},
			{"name,a,:contains", "1m", "sum(name~/^.*a/): 1 2 3"},
			{"name,:has", "1m", "sum(has(name)): 19 22 25"},
			{":true,:sum,1m,:offset", "1m", "sum(true) (offset=1m): 0 19 22"},
			{":true,:count", "1m", "count(true): 5 5 5"},
			{":true,:min", "1m", "min(true): 1 2 1"},
			{":true,:max", "1m", "max(true): 6 7 8"},
			{":true,(,name,),:by", "1m", "(name=aa): 1 2 3; (name=bb): 3 2 1; (name=cc): 15 18 21"},
			{"name,(,aa,bb,),:in,:all", "1m", "name=aa: 1 2 3; name=bb: 3 2 1"},
			{":true,:sum", "3m", "sum(true): 22"},
			{":true,:sum,:cf-sum", "3m", "sum(true): 66"},
			{":true,:sum,:cf-max", "3m", "sum(true): 27"},
			{":true,:count", "3m", "count(true): 5"},
			{":true,:count,:cf-sum", "3m", "count(true): 15"},
			{":true,:count,:cf-max", "3m", "count(true): 5"},
			{":true,:min", "3m", "min(true): 1"},
			{":true,:max", "3m", "max(true): 8"},
			{":true,(,name,),:by", "3m", "(name=aa): 2; (name=bb): 2; (name=cc): 18"},
			{"name,(,aa,bb,),:in,:all", "3m", "name=aa: 6; name=bb: 6"},
			{"name,zzz,:eq", "3m", "NO DATA: NaN"},
			{"name,zzz,:eq,(,name,),:by", "3m", ""},
			{"name,aa,:eq,name,bb,:eq,:div,$name x,:legend", "3m", "aa x: 1"},
		} {
			// Minutes 1, 2 and 3 after the start; the bubble's clock starts on a multiple of three minutes.
			params := fmt.Sprintf("&step=%s&s=%d&e=%d", row.step, start.UnixMilli(), start.Add(3*time.Minute).UnixMilli())
			if got := values(t, s, row.q, params); got != row.want {
				t.Errorf("%s at %s: got %s, want %s", row.q, row.step, got, row.want)
			}
		}
	})
}

func TestGaugesAverageOverWhatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		start := time.Now()
		for i, row := range [][]string{{"a -> 1", "b -> 4", "c -> 3"}, {"a -> 2", "b -> 3", "c -> 1", "d -> 4"}, {"a -> 3", "b -> 2"}, {"a -> 4", "b -> 1"}} {
			time.Sleep(time.Until(start.Add(time.Duration(i+1) * time.Minute)))
			for j := range row {
				row[j] = "atlas.dstype=gauge name=gauge." + row[j]
			}
			mustPost(t, s, body("", time.Now(), row...))
		}
		time.Sleep(4 * time.Second)
		for _, row := range []struct{ q, step, want string }{
			{"name,gauge.a,:eq", "2m", "1.5 3.5"}, {"name,gauge.a,:eq", "4m", "2.5"},
			{"name,gauge.b,:eq", "2m", "3.5 1.5"}, {"name,gauge.(a|b),:re", "2m", "5 5"},
			{"name,gauge.c,:eq", "4m", "2"}, {"name,gauge.d,:eq", "4m", "4"},
		} {
			params := fmt.Sprintf("&step=%s&s=%d&e=%d", row.step, start.UnixMilli(), start.Add(4*time.Minute).UnixMilli())
			if got := values(t, s, row.q, params); !strings.HasSuffix(got, ": "+row.want) {
				t.Errorf("%s at %s: got %s, want %s", row.q, row.step, got, row.want)
			}
		}
	})
}

func TestPublishedMetersAreFound(t *testing.T) {
	s := New(Config{})
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	m := meter.New(map[string]string{"nf.app": "web"})
	m.Counter("hits", "status", "200").Add(10)
	m.PercentileTimer("took").Record(time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Publish(ctx, srv.URL, 5*time.Second) }()
	cancel() // the last post comes at once
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := values(t, s, "name,hits,:eq,statistic,count,:eq,:and,(,nf.app,status,),:by", "&step=5s&s=now-1m&e=now%2B30s")
	if !strings.HasPrefix(got, "(nf.app=web status=200):") || !strings.Contains(got, " 2") {
		t.Errorf("10 hits in 5 s: got %s, want 2/s", got)
	}
	if code, tags := get(t, s, "/api/v1/tags/name?q=nf.app,web,:eq"); code != 200 || tags != `["hits","took"]` {
		t.Errorf("tags of web: got %d %s", code, tags)
	}
}

func TestMalformedPublishesAreRefusedWithTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		now := time.Now()
		ms := now.UnixMilli()
		one := func(tags string) string { return body("nf.app=web", now, tags+" -> 1") }
		long := strings.Repeat("x", 300)
		many := "name=many"
		for i := range 20 {
			many += fmt.Sprintf(" k%02d=v", i)
		}
		for _, c := range []struct {
			body   string
			status int
			want   string
		}{
			{"", 400, `{"type":"error","message":"empty payload"}`},
			{"{}", 400, `{"type":"error","message":"empty payload"}`},
			{`{"metrics":[]}`, 400, `{"type":"error","message":"empty payload"}`},
			{`{"metrics":[`, 400, `{"type":"error","message":"JsonParseException: `},
			{`{"metrics":{}}`, 400, `JsonParseException: an array is expected at byte 11`},
			{`[1,2]`, 400, `compact batches are not supported`},
			{":)\n\x04", 400, `JsonParseException`},
			{strings.Repeat("[", 40), 400, `JsonParseException`},
			{`{"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, 400, `nesting is deeper than 32`},
			{one("a=b"), 400, `{"type":"error","errorCount":1,"message":["missing key 'name' (tags={\"a\":\"b\",\"nf.app\":\"web\"})"]}`},
			{one("name=xx k=v"), 400, `"key too short: [k] (1 < 2) (tags=`},
			{one("name=xx " + long + "=v"), 400, `key too long: [` + long + `] (300 > 60)`},
			{one("name=x"), 400, `value too short: name = [x] (1 < 2)`},
			{one("name=" + long), 400, `value too long: name = [` + long + `] (300 > 255)`},
			{one("name=xx kk=" + long), 400, `value too long: kk = [` + long + `] (300 > 120)`},
			{one("name=xx kk="), 400, `value too short: kk = [] (0 < 1)`},
			{one("name=xx k/k=v"), 400, `invalid characters in key: [k/k] ([-._A-Za-z0-9^~] are allowed)`},
			{one("name=x/x"), 400, `invalid characters in value: name = [x/x] ([-._A-Za-z0-9^~] are allowed)`},
			{one(many), 400, `too many user tags: 21 > 20`},
			{one("name=xx nf.foo=v"), 400, `invalid key for reserved prefix 'nf.': nf.foo`},
			{one("name=xx atlas.foo=v"), 400, `invalid key for reserved prefix 'atlas.': atlas.foo`},
			{one("name=xx atlas.dstype=counter"), 400, `publish the rate per second`},
			{one("name=xx atlas.dstype=foo"), 400, `invalid atlas.dstype [foo]`},
			{body("", now.Add(-61*time.Second), "name=xx -> 1"), 400, fmt.Sprintf(`data is too old: now = %d, timestamp = %d, 61000 > 60000`, ms, ms-61000)},
			{body("", now.Add(61*time.Second), "name=xx -> 1"), 400, fmt.Sprintf(`data is from future: now = %d, timestamp = %d, 61000 > 60000`, ms, ms+61000)},
			{body("", now, "name=ok -> 1", "name=x -> 1"), 202, `{"type":"partial","errorCount":1,"message":["value too short`},
			{fmt.Sprintf(`{"metrics":[{"tags":{"name":"xx"},"timestamp":%d}]}`, ms), 400, `missing value`},
			{`{"metrics":[{"tags":{"name":"xx"},"value":1}]}`, 400, `missing timestamp`},
			{fmt.Sprintf(`{"metrics":[{"timestamp":%d,"value":1}]}`, ms), 400, `missing tags`},
			{fmt.Sprintf(`{"metrics":[{"tags":{"name":"xx"},"timestamp":%d,"value":true}]}`, ms), 400, `value must be a number`},
			{fmt.Sprintf(`{"metrics":[{"tags":{"name":5},"timestamp":%d,"value":1}]}`, ms), 400, `a tag's value must be a text`},
		} {
			code, answer := post(t, s, c.body)
			if code != c.status || !strings.Contains(answer, c.want) {
				t.Errorf("%.120s:\n got %d %s\nwant %d %s", c.body, code, answer, c.status, c.want)
			}
		}
		ten := body("", now, strings.Split(strings.Repeat("name=x -> 1|", 9)+"name=x -> 1", "|")...)
		if _, answer := post(t, s, ten); strings.Count(answer, "too short") != 5 || !strings.Contains(answer, `"errorCount":10`) {
			t.Errorf("ten bad ones: got %s, want five reasons", answer)
		}
	})
}

func TestOldAndOddFormsAreUnderstood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		ms := time.Now().UnixMilli()
		mustPost(t, s, fmt.Sprintf(` {"x":[{"y":[1,{"z":null}]}],"metrics":[
			{"tags":{"name":"one","gone":null,"nf.app":"own"},"start":%[1]d,"values":[1.5,2]},
			{"value":"2.5e0","ignored":{"a":[true,false]},"timestamp":%[1]d,"tags":{"name":"two"}},
			{"tags":{"name":"nan"},"timestamp":%[1]d,"value":"NaN"},
			{"tags":{"name":"inf"},"timestamp":%[1]d,"value":"Infinity"},
			{"tags":{"na\u006de":"thr\u0065e"},"timestamp":%[1]d,"values":3}],
			"tags":{"nf.app":"common"}} `, ms))
		time.Sleep(4 * time.Second)
		params := "&step=5s&s=now-5s"
		for q, want := range map[string]string{
			"name,one,:eq,(,nf.app,),:by": "(nf.app=own): 1.5", "name,two,:eq,(,nf.app,),:by": "(nf.app=common): 2.5", "name,three,:eq": "sum(name=three): 3",
			"name,nan,:eq": "NO DATA: NaN", "name,inf,:eq": "sum(name=inf): Infinity", "gone,:has": "NO DATA: NaN",
		} {
			if got := values(t, s, q, params); got != want {
				t.Errorf("%s: got %s, want %s", q, got, want)
			}
		}
	})
}

func TestBodiesMayBeCompressedButNotWithoutBounds(t *testing.T) {
	s := New(Config{})
	send := func(encoding, kind string, b []byte) (int, string) {
		r := httptest.NewRequest("POST", "/api/v1/publish", bytes.NewReader(b))
		r.Header.Set("Content-Encoding", encoding)
		r.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	pack := func(n int, b []byte) []byte {
		var out bytes.Buffer
		gz := gzip.NewWriter(&out)
		for range n {
			if _, err := gz.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		if err := gz.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	good := []byte(body("", time.Now(), "name=zipped -> 1"))
	if code, answer := send("gzip", "application/json; charset=utf-8", pack(1, good)); code != 200 {
		t.Errorf("gzip: got %d %s", code, answer)
	}
	bomb := pack(65, bytes.Repeat([]byte{' '}, 1<<20))
	for _, c := range []struct {
		encoding, kind string
		b              []byte
		status         int
		want           string
	}{
		{"gzip", "application/json", bomb, 413, "when expanded"},
		{"", "application/json", bytes.Repeat([]byte{' '}, maxCompressed+1), 413, "publish smaller batches"},
		{"gzip", "application/json", good, 400, "not gzip"},
		{"gzip", "application/json", pack(1, good)[:40], 400, "breaks off"},
		{"br", "application/json", good, 415, "use gzip"},
		{"", "application/x-jackson-smile", good, 415, "publish application/json"},
	} {
		if code, answer := send(c.encoding, c.kind, c.b); code != c.status || !strings.Contains(answer, c.want) {
			t.Errorf("%s %s: got %d %s, want %d %s", c.encoding, c.kind, code, answer, c.status, c.want)
		}
	}
}

func TestWrongQuestionsAreAnsweredAsAtlasDoes(t *testing.T) {
	s := New(Config{})
	for path, want := range map[string]string{
		"/api/v1/graph":                              `400 {"type":"error","message":"IllegalArgumentException: missing required parameter 'q'"}`,
		"/api/v1/graph?q=1&w=0":                      `400 {"type":"error","message":"IllegalArgumentException: requirement failed: width must be positive (got 0)"}`,
		"/api/v1/graph?q=foo,:unknown":               `unknown word ':unknown'`,
		"/api/v1/graph?q=name,a,:eq,2,max,:topk":     `unknown word ':topk'; it is not supported here, these are: :-rot :2over`,
		"/api/v1/graph?q=1&format=png":               `400 {"type":"error","message":"IllegalArgumentException: format png is not supported; use json, v2.json or csv"}`,
		"/api/v1/graph?q=1&s=e-5m&e=s%2B5m":          `start and end are both relative`,
		"/api/v1/graph?q=1&s=now&e=now-1h":           `end time is before start time`,
		"/api/v1/graph?q=1&step=5fubars":             `unknown unit fubars`,
		"/api/v1/graph?q=a,(%3Fi)b,:re":              `400`,
		"/api/v1/tags?limit=0":                       `400`,
		"/api/v1/tags?limit=-1":                      `400`,
		"/api/v1/tags?limit=foo":                     `400`,
		"/api/v1/tags?q=name":                        `is not a query`,
		"/api/v1/nothing":                            `404 {"type":"error","message":"path not found: /api/v1/nothing"}`,
		"/api/v1/publish":                            `405 {"type":"error","message":"method not allowed: GET"}`,
		"/api/v1/traffic?at=foo":                     `400`,
		"/healthcheck":                               `200`,
		"/graph?q=1&step=1m&s=60&e=120&format=json":  `200 {"start":120000,"step":60000,"legend":["1.0"],"metrics":[{"atlas.offset":"0w","name":"1.0"}],"values":[[1.0]],"notices":[]}`,
		"/graph?q=NaN&step=1m&s=60&e=120&format=csv": "200 \"timestamp\",\"NaN\"\n1970-01-01T00:02:00Z,NaN\n",
	} {
		code, answer := get(t, s, path)
		if got := fmt.Sprintf("%d %s", code, answer); !strings.Contains(got, want) {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

func TestTagsArePagedAsInTheTable(t *testing.T) {
	s := New(Config{})
	var points []string
	for i := 1; i <= 11; i++ {
		tags := fmt.Sprintf("name=%02d class=%s", i, map[bool]string{true: "even", false: "odd"}[i%2 == 0])
		if i == 2 || i == 3 || i == 5 || i == 7 || i == 11 {
			tags += " prime=probably"
		}
		points = append(points, tags+" -> 1")
	}
	mustPost(t, s, body("", time.Now(), points...))
	for path, want := range map[string]string{
		"/api/v1/tags":                      `["class","name","prime"]`,
		"/api/v1/tags?format=txt":           "class\nname\nprime",
		"/api/v1/tags?limit=1":              `["class"]`,
		"/api/v1/tags?limit=1&offset=class": `["name"]`,
		"/api/v1/tags?offset=prime":         `[]`,
		"/api/v1/tags?verbose=1":            `[]`,
		"/api/v1/tags/name?q=name,01,:eq":   `["01"]`,
		"/api/v1/tags/class?verbose=1":      `[{"key":"class","value":"even","count":-1},{"key":"class","value":"odd","count":-1}]`,
		"/api/v1/tags/name?q=prime,:has,class,odd,:eq,:and,name,1,:re,:and": `["11"]`,
		"/api/v1/tags/nothing": `[]`,
	} {
		if code, got := get(t, s, path); code != 200 || got != want {
			t.Errorf("%s: got %d %s, want %s", path, code, got, want)
		}
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/tags?limit=1", nil))
	if got := w.Header().Get("x-nflx-atlas-next-offset"); got != "class" {
		t.Errorf("next offset: got %q, want class", got)
	}
}

func TestTooManyQueriesAreToldToComeBack(t *testing.T) {
	s := New(Config{})
	for range cap(s.waiting) {
		s.waiting <- struct{}{}
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/tags", nil))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "5" {
		t.Errorf("got %d, Retry-After %q, want 503 and 5", w.Code, w.Header().Get("Retry-After"))
	}
	if b, err := io.ReadAll(w.Body); err != nil || !strings.Contains(string(b), "too many queries") {
		t.Errorf("got %s, %v", b, err)
	}
}

func TestForeignPagesMayNotPublish(t *testing.T) {
	s := New(Config{})
	r := httptest.NewRequest("POST", "/api/v1/publish", strings.NewReader(body("", time.Now(), "name=forged -> 1")))
	r.Header.Set("Origin", "http://evil.example")
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusForbidden || s.index.size() != 0 {
		t.Errorf("got %d and %d series, want 403 and none", w.Code, s.index.size())
	}
}

func TestTheStoreMeasuresItself(t *testing.T) {
	m := meter.New(nil)
	s := New(Config{Meter: m})
	if code, _ := post(t, s, body("", time.Now(), "name=good -> 1", "name=b -> 1")); code != 202 {
		t.Errorf("got %d, want 202", code)
	}
	values(t, s, "name,good,:eq", "")
	if got := [3]int64{m.Counter("telemetry.received").Count(), m.Counter("telemetry.dropped", "reason", "invalid").Count(), int64(s.index.size())}; got != [3]int64{2, 1, 1} {
		t.Errorf("received, dropped, series: got %v, want 2 1 1", got)
	}
	if snap := m.PercentileTimer("telemetry.query.time").Snapshot(); snap.Count != 1 {
		t.Errorf("queries timed: got %d, want 1", snap.Count)
	}
}
