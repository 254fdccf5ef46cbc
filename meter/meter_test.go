package meter

import (
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNilRegistryIsUsableEverywhere(t *testing.T) {
	var r *Registry
	r.Counter("a.b").Inc()
	r.Counter("a.b", "key", "v").Add(3)
	r.Gauge("a.b").Set(1)
	r.GaugeFunc("a.b", func() float64 { t.Error("a nil registry called a gauge function"); return 0 })
	r.Timer("a.b").Record(time.Second)
	r.PercentileTimer("a.b").Record(time.Second)
	r.Summary("a.b").Record(7)
	s := r.PercentileTimer("a.b").Snapshot()
	if s.Count != 0 || s.Percentile(99) != 0 || r.Counter("a.b").Count() != 0 || r.Timer("a.b").Count() != 0 || r.Timer("a.b").Total() != 0 {
		t.Errorf("nil meters measured something: %v", s.Count)
	}
	if v := r.Gauge("a.b").Value(); !math.IsNaN(v) {
		t.Errorf("nil gauge: got %v, want NaN", v)
	}
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK || w.Body.Len() != 0 {
		t.Errorf("nil registry's /metrics: got %d %q, want 200 and nothing", w.Code, w.Body)
	}
}

func TestAskingTwiceGivesTheSameMeter(t *testing.T) {
	r := New(nil)
	a := r.Counter("hits", "zone", "a", "status", "200")
	for _, kv := range [][]string{{"zone", "a", "status", "200"}, {"status", "200", "zone", "a"}} {
		if b := r.Counter("hits", kv...); a != b {
			t.Errorf("Counter(hits, %v): another counter than with zone a, status 200", kv)
		}
	}
	if r.Counter("hits", "zone", "b", "status", "200") == a || r.Counter("hits") == a || r.Counter("hit", "zone", "a", "status", "200") == a {
		t.Error("another name or other tags gave the same counter")
	}
	// Two spellings that the store cannot tell apart must not be two series.
	if r.Counter("a b", "kk", "x y") != r.Counter("a_b", "kk", "x_y") {
		t.Error("two spellings of one clean identity are two counters")
	}
	if r.Timer("hits", "zone", "a", "status", "200") == nil {
		t.Error("a timer of a counter's name is nil")
	}
}

func TestTagsBecomeWhatTheStoreAccepts(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		kv   []string
		want string
	}{
		{[]string{"path", "/a/b c"}, "path=_a_b_c"},
		{[]string{"path", "é"}, "path=_"},
		{[]string{"k", "v"}, "k_=v"},
		{[]string{"empty", "", "zz", "1"}, "zz=1"},
		{[]string{"odd"}, ""},
		{[]string{"", "v"}, ""},
		{[]string{"name", "other"}, ""},
		{[]string{"kk", "1", "kk", "2"}, "kk=2"},
		{[]string{"bb", "1", "aa", "2"}, "aa=2,bb=1"},
		{[]string{long, long}, long[:60] + "=" + long[:120]},
	} {
		var got []string
		for _, tag := range cleanTags(c.kv) {
			got = append(got, tag.key+"="+tag.value)
		}
		if s := strings.Join(got, ","); s != c.want {
			t.Errorf("cleanTags(%q): got %q, want %q", c.kv, s, c.want)
		}
	}
	if got := cleanName("x"); got != "x_" {
		t.Errorf("cleanName(x): got %q, want x_", got)
	}
}

func TestBucketsAreSpectators(t *testing.T) {
	want := []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 21, 26, 31, 36, 41}
	for i, w := range want {
		if BucketBound(i) != w {
			t.Errorf("BucketBound(%d): got %d, want %d", i, BucketBound(i), w)
		}
	}
	if BucketBound(BucketCount-1) != math.MaxInt64 || BucketBound(BucketCount-2) == 0 {
		t.Errorf("the table does not have %d buckets: ends %d %d", BucketCount, BucketBound(BucketCount-2), BucketBound(BucketCount-1))
	}
	for n, w := range map[int64]int{-1: 0, 0: 0, 1: 1, 4: 4, 5: 5, 9: 9, 10: 10, 16: 15, 21: 16, 50: 21, 100: 25, 1000: 41,
		1000000: 86, 1000000000: 131, 60000000000: 157, math.MaxInt64: 275} {
		if got := BucketIndex(n); got != w {
			t.Errorf("BucketIndex(%d): got %d, want %d", n, got, w)
		}
	}
	if got := bucketTag(BucketIndex(int64(time.Millisecond))); got != "T0056" {
		t.Errorf("tag of 1 ms: got %s, want T0056", got)
	}
}

func TestBucketIndexIsTheFirstBoundAbove(t *testing.T) {
	slow := func(n int64) int {
		for i, b := range bounds {
			if n < b {
				return i
			}
		}
		return BucketCount - 1
	}
	check := func(n int64) {
		if got, want := BucketIndex(n), slow(n); got != want {
			t.Fatalf("BucketIndex(%d): got %d, want %d", n, got, want)
		}
	}
	for n := range int64(100000) {
		check(n)
	}
	for _, b := range bounds {
		check(b - 1)
		check(b)
		if b < math.MaxInt64 {
			check(b + 1)
		}
	}
	for range 100000 {
		check(rand.Int64() >> rand.IntN(63))
	}
}

func TestPercentilesAreWithinATenth(t *testing.T) {
	r := New(nil)
	p := r.PercentileTimer("took")
	for i := 1; i <= 10000; i++ {
		p.Record(time.Duration(i) * 100 * time.Microsecond)
	}
	s := p.Snapshot()
	if s.Count != 10000 || s.Total != 10000*10001/2*100*time.Microsecond {
		t.Errorf("snapshot: got %d events, %v", s.Count, s.Total)
	}
	for q, want := range map[float64]float64{1: 0.01, 50: 0.5, 90: 0.9, 99: 0.99} {
		if got := s.Percentile(q).Seconds(); math.Abs(got-want) > want/10 {
			t.Errorf("percentile %v of 0.1 ms to 1 s: got %v s, want %v within a tenth", q, got, want)
		}
	}
}

func TestRecordingFromManyGoroutinesLosesNothing(t *testing.T) {
	r := New(nil)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				r.Counter("hits", "g", string(rune('a'+i%5))).Inc()
				r.PercentileTimer("took").Record(time.Duration(i))
				r.Timer("took").Record(time.Duration(g))
			}
		})
	}
	wg.Wait()
	var hits int64
	for i := range 5 {
		hits += r.Counter("hits", "g", string(rune('a'+i))).Count()
	}
	s := r.PercentileTimer("took").Snapshot()
	if hits != 8000 || s.Count != 8000 || r.Timer("took").Count() != 8000 {
		t.Errorf("got %d hits, %d and %d durations, want 8000 of each", hits, s.Count, r.Timer("took").Count())
	}
}

func TestTooManyMetersAreNilAndTold(t *testing.T) {
	r := New(nil)
	var buf [8]byte
	for i := range maxMeters {
		for j := range buf {
			buf[j] = 'a' + byte(i>>(4*j)&15)
		}
		if r.Counter("many", "id", string(buf[:])) == nil {
			t.Fatalf("meter %d is nil, want %d of them", i, maxMeters)
		}
	}
	c := r.Counter("many", "id", "one.more")
	c.Inc()
	if c != nil || r.refused.Load() != 1 {
		t.Errorf("meter %d: got %v, %d refused; want nil, 1", maxMeters+1, c, r.refused.Load())
	}
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	r := New(nil)
	c, p, g := r.Counter("hits"), r.PercentileTimer("took"), r.Gauge("level")
	r.Counter("hits", "status", "200", "zone", "a")
	for what, f := range map[string]func(){
		"Counter.Inc":            func() { c.Inc() },
		"PercentileTimer.Record": func() { p.Record(time.Millisecond) },
		"Gauge.Set":              func() { g.Set(1) },
		"Registry.Counter":       func() { r.Counter("hits", "status", "200", "zone", "a").Inc() },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: got %v allocations, want 0", what, n)
		}
	}
}

func TestPrometheusTextHasEveryKind(t *testing.T) {
	r := New(map[string]string{"nf.app": "web"})
	r.Counter("http.hits", "status", "2xx").Add(3)
	r.Gauge("level").Set(1.5)
	r.GaugeFunc("heap", func() float64 { return 42 })
	r.Timer("db").Record(1500 * time.Millisecond)
	r.PercentileTimer("took").Record(2 * time.Millisecond)
	r.Summary("bytes").Record(100)
	r.Gauge("http.hits_total").Set(9) // collides with the counter's family
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	body := w.Body.String()
	for _, line := range []string{
		"# TYPE http_hits_total counter", `http_hits_total{nf_app="web",status="2xx"} 3`,
		"# TYPE level gauge", `level{nf_app="web"} 1.5`, `heap{nf_app="web"} 42`,
		"# TYPE db_seconds summary", `db_seconds_count{nf_app="web"} 1`, `db_seconds_sum{nf_app="web"} 1.5`,
		"# TYPE took_seconds histogram", `took_seconds_bucket{nf_app="web",le="0.001048576"} 0`,
		`took_seconds_bucket{nf_app="web",le="0.002097151"} 1`, `took_seconds_bucket{nf_app="web",le="+Inf"} 1`,
		`took_seconds_count{nf_app="web"} 1`, `bytes_sum{nf_app="web"} 100`,
		`http_hits_total_gauge{nf_app="web"} 9`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("/metrics lacks %q; got\n%s", line, body)
		}
	}
	if strings.Count(body, "# TYPE http_hits_total counter") != 1 {
		t.Errorf("a family is declared twice:\n%s", body)
	}
}

func BenchmarkCounterInc(b *testing.B) {
	c := New(nil).Counter("hits")
	b.ReportAllocs()
	for b.Loop() {
		c.Inc()
	}
}

func BenchmarkPercentileTimerRecord(b *testing.B) {
	p := New(nil).PercentileTimer("took")
	b.ReportAllocs()
	d := time.Millisecond
	for b.Loop() {
		p.Record(d)
		d += 977
	}
}

func BenchmarkLookup(b *testing.B) {
	r := New(nil)
	b.ReportAllocs()
	for b.Loop() {
		r.Counter("ipc.client.call", "ipc.vip", "catalog", "ipc.result", "success").Inc()
	}
}

func TestHandlerOfSeveralRegistriesKeepsFamiliesTogether(t *testing.T) {
	a, b := New(map[string]string{"nf.app": "edge"}), New(map[string]string{"nf.app": "fleet"})
	a.Counter("calls").Add(2)
	b.Counter("calls").Add(3)
	rec := httptest.NewRecorder()
	Handler(a, nil, b).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	want := "# TYPE calls_total counter\ncalls_total{nf_app=\"edge\"} 2\ncalls_total{nf_app=\"fleet\"} 3\n"
	if got := rec.Body.String(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}
