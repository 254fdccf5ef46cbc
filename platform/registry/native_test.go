package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// call sends one request to r's handler and returns the answer's status and body.
func call(r *Registry, method, path, body string) (int, string) {
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	b, _ := io.ReadAll(w.Result().Body)
	return w.Code, string(b)
}

func TestLongPollAnswersWhenItsAppChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t)
		long := func(app, id string) *record {
			rec := reg(app, id, up, 0)
			rec.duration = 3600
			return rec
		}
		r.s.register(long("WEB", "1"), origin{})
		type answer struct {
			status  int
			body    string
			version string
			after   time.Duration
		}
		poll := func(query string) answer {
			start := time.Now()
			w := httptest.NewRecorder()
			r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/registry/v1/apps/web"+query, nil))
			return answer{w.Code, w.Body.String(), w.Header().Get("X-Registry-Version"), time.Since(start)}
		}
		first := poll("")
		if first.status != 200 || first.after != 0 || !strings.Contains(first.body, `"id":"1"`) || first.version == "" || !strings.HasPrefix(first.body, `{"version":`+first.version) {
			t.Fatalf("without an index: got %+v, want web's instance and its version at once", first)
		}
		go func() {
			time.Sleep(3 * time.Second)
			r.s.register(long("API", "9"), origin{})
			time.Sleep(4 * time.Second)
			r.s.register(long("WEB", "2"), origin{})
		}()
		second := poll("?index=" + first.version)
		if second.after != 7*time.Second || !strings.Contains(second.body, `"id":"2"`) {
			t.Errorf("waiting: got %+v, want both instances after 7 s, and nothing when api changed", second)
		}
		if third := poll("?wait=5s&index=" + second.version); third.after != 5*time.Second || third.version != second.version {
			t.Errorf("nothing changes for 5 s: got %+v, want the same after 5 s", third)
		}
		if none := poll("?index=" + second.version); none.after != 30*time.Second {
			t.Errorf("without a wait: answered after %v, want 30 s", none.after)
		}
		if ahead := poll("?index=99999999999999"); ahead.after != 0 {
			t.Errorf("an index of another registry: answered after %v, want at once", ahead.after)
		}
		if old := poll("?index=1"); old.after != 0 {
			t.Errorf("an index of long ago: answered after %v, want at once", old.after)
		}
		for _, query := range []string{"?index=x", "?index=1&wait=1h", "?index=1&wait=-1s", "?index=1&wait=soon"} {
			if bad := poll(query); bad.status != 400 {
				t.Errorf("%s: got %+v, want 400", query, bad)
			}
		}
		r.s.cancel(key{"WEB", "1"})
		r.s.cancel(key{"WEB", "2"})
		if gone := poll("?index=" + second.version); gone.after != 0 || !strings.HasSuffix(gone.body, `"instances":[]}`) {
			t.Errorf("the app is gone: got %+v, want no instances at once", gone)
		}
		ctx, cancel := context.WithCancel(context.Background())
		left := make(chan struct{})
		go func() {
			defer close(left)
			r.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/registry/v1/apps/web?index="+fmt.Sprint(r.s.log.version), nil))
		}()
		synctest.Wait()
		cancel()
		<-left
	})
}

func TestManyAreRegisteredAndRenewedInOneRequest(t *testing.T) {
	r := New(Config{})
	one := `{"instance":{"instanceId":"1","hostName":"h","app":"web","ipAddr":"1.2.3.4","dataCenterInfo":{"name":"MyOwn"},"lastDirtyTimestamp":1000}}`
	two := `{"hostName":"h2","app":"API","ipAddr":"1.2.3.4","dataCenterInfo":{"name":"MyOwn"}}`
	status, body := call(r, "POST", "/registry/v1/instances", "["+one+","+two+`,{"hostName":"h"},7,null]`)
	var got struct {
		Results []struct {
			Status int
			Error  string
		}
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 || len(got.Results) != 5 {
		t.Fatalf("registering five: got %d %s, %v", status, body, err)
	}
	for i, want := range []int{204, 204, 400, 400, 400} {
		if g := got.Results[i]; g.Status != want || (g.Error == "") != (want == 204) {
			t.Errorf("result %d: got %+v, want %d and an error if it is 400", i, g, want)
		}
	}
	if got.Results[2].Error != "Missing ip address" || r.count() != 2 {
		t.Errorf("result 2 is %q with %d registered; want Eureka's sentence and 2", got.Results[2].Error, r.count())
	}
	for _, tt := range []struct{ body, want string }{
		{`[{"app":"WEB","id":"1","dirty":1000},{"app":"api","id":"h2"}]`, `{"renewed":2,"register":[]}`},
		{`[{"app":"WEB","id":"nobody"},{"app":"web","id":"1"},{"app":"WEB","id":"1","dirty":2000}]`, `{"renewed":1,"register":[0,2]}`},
		{`[]`, `{"renewed":0,"register":[]}`},
	} {
		if status, got := call(r, "PUT", "/registry/v1/renew", tt.body); status != 200 || got != tt.want {
			t.Errorf("renewing %s: got %d %s, want %s", tt.body, status, got, tt.want)
		}
	}
	for _, tt := range []struct {
		method, path, body string
		want               int
	}{
		{"PUT", "/registry/v1/renew", `[{"app":"WEB"`, 400},
		{"PUT", "/registry/v1/renew", "", 400},
		{"POST", "/registry/v1/instances", "[" + one, 400},
		{"POST", "/registry/v1/instances", "[] x", 400},
		{"POST", "/registry/v1/instances", "[" + strings.Repeat("1,", itemLimit) + "1]", 400},
		{"POST", "/registry/v1/instances", strings.Repeat(" ", batchLimit) + "[]", 413},
		{"GET", "/registry/v1/renew", "", 405},
		{"DELETE", "/registry/v1/apps/web", "", 405},
		{"GET", "/registry/v1/apps", "", 404},
	} {
		if status, body := call(r, tt.method, tt.path, tt.body); status != tt.want {
			t.Errorf("%s %s with %.40q: got %d %.100s, want %d", tt.method, tt.path, tt.body, status, body, tt.want)
		}
	}
}

func BenchmarkRenewMany(b *testing.B) {
	r := filled(b, 10_000)
	var parts []string
	for i := range 250 {
		parts = append(parts, fmt.Sprintf(`{"app":"APP%d","id":"web-%d.internal:shop:8080","dirty":1759999999000}`, i*2, i*40))
	}
	list := "[" + strings.Join(parts, ",") + "]"
	items := make([]batchItem, 0, 250)
	missed := make([]int, 0, 250)
	b.ReportAllocs()
	for b.Loop() {
		got, err := scanRenewals(list, items)
		if err != nil {
			b.Fatal(err)
		}
		if missed = r.face.renewAll(got, origin{}, missed[:0]); len(missed) > 0 {
			b.Fatal(missed)
		}
	}
	b.ReportMetric(float64(b.N)*250/b.Elapsed().Seconds(), "renewals/s")
}
