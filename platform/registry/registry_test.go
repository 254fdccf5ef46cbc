package registry_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/ledger"
	"github.com/roadbed/roadbed/platform/registry"
)

// do sends one request to h, without a network, and returns the answer. headers are name, value, ...
func do(t testing.TB, h http.Handler, method, path, body string, headers ...string) *http.Response {
	t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w.Result()
}

func text(t testing.TB, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func post(t testing.TB, h http.Handler, app, id string) {
	t.Helper()
	if got := do(t, h, "POST", "/eureka/v2/apps/"+app, registration(app, id), "Content-Type", "application/json").StatusCode; got != 204 {
		t.Fatalf("registering %s of %s: got status %d, want 204", id, app, got)
	}
}

func registration(app, id string) string {
	return fmt.Sprintf(`{"instance":{"instanceId":%q,"hostName":"h","app":%q,"ipAddr":"127.0.0.1","status":"UP","port":{"$":8080,"@enabled":"true"},
		"vipAddress":"%s,both","secureVipAddress":"tls","dataCenterInfo":{"name":"MyOwn"},"metadata":{"zone":"zone-a","criticality":"BULK"},"lastDirtyTimestamp":"1000"}}`, id, app, app)
}

// TestAnswersAreEurekasToTheBody walks one instance's life and checks status, type and body of each answer.
func TestAnswersAreEurekasToTheBody(t *testing.T) {
	h := registry.New(registry.Config{}).Handler()
	const js, inst = "application/json", "/eureka/apps/web/h:web:80"
	steps := []struct {
		method, path, body, accept string
		status                     int
		contentType, has           string // has "" wants an empty body
	}{
		{"GET", "/eureka/apps/", "", js, 200, js, `{"applications":{"versions__delta":"1","apps__hashcode":"","application":[]}}`},
		{"GET", "/eureka/apps", "", "", 200, "application/xml", "<apps__hashcode></apps__hashcode>"},
		{"GET", "/eureka/apps/WEB", "", js, 404, "", ""},
		{"GET", inst, "", js, 404, "", ""},
		{"PUT", inst, "", js, 404, "", ""},
		{"DELETE", inst, "", js, 404, "", ""},
		{"PUT", inst + "/status?value=UP", "", js, 404, "", ""},
		{"PUT", inst + "/metadata?a=b", "", js, 404, "", ""},
		{"GET", "/eureka/vips/web", "", js, 200, js, `"application":[]`},
		{"POST", "/eureka/apps/web", registration("WEB", "h:web:80"), js, 204, "", ""},
		{"PUT", inst, "", js, 200, "", ""},
		{"PUT", inst + "?status=UP&lastDirtyTimestamp=1000", "", js, 200, "", ""},
		{"PUT", inst + "?lastDirtyTimestamp=2000", "", js, 404, "", ""},
		{"PUT", inst + "?lastDirtyTimestamp=1", "", js, 200, "", ""},
		{"GET", "//eureka//apps//WEB/", "", js, 200, js, `{"application":{"name":"WEB","instance":[{"instanceId":"h:web:80"`},
		{"GET", "/v2/apps/WEB/h%3Aweb%3A80", "", js, 200, js, `{"instance":{"instanceId":"h:web:80"`},
		{"GET", "/v1/instances/h:web:80", "", "", 200, "application/xml", "<instance>\n  <instanceId>h:web:80</instanceId>"},
		{"GET", "/eureka/vips/both", "", js, 200, js, `"apps__hashcode":"UP_1_","application":[{"name":"WEB"`},
		{"GET", "/eureka/svips/tls", "", js, 200, js, `"application":[{"name":"WEB"`},
		{"GET", "/eureka/vips/BOTH", "", js, 200, js, `"application":[]`},
		{"GET", "/eureka/apps/delta", "", "*/*", 200, "application/xml", "<actionType>ADDED</actionType>"},
		{"PUT", inst + "/status?value=nonsense", "", js, 500, "", ""},
		{"PUT", inst + "/status?value=OUT_OF_SERVICE", "", js, 200, "", ""},
		{"GET", inst, "", js, 200, js, `"status":"OUT_OF_SERVICE","overriddenStatus":"OUT_OF_SERVICE"`},
		{"GET", "/serverinfo/statusoverrides", "", js, 200, js, `{"h:web:80":"OUT_OF_SERVICE"}`},
		{"PUT", inst, "", js, 200, "", ""},
		{"DELETE", inst + "/status?value=bad", "", js, 500, "", ""},
		{"DELETE", inst + "/status", "", js, 200, "", ""},
		{"GET", inst, "", js, 200, js, `"status":"UNKNOWN","overriddenStatus":"UNKNOWN"`},
		{"PUT", inst, "", js, 404, "", ""},
		{"POST", "/eureka/apps/web", registration("WEB", "h:web:80"), js, 204, "", ""},
		{"GET", inst, "", js, 200, js, `"status":"UP"`},
		{"PUT", inst + "/metadata?user_id=7&zone=b", "", js, 200, "", ""},
		{"GET", inst, "", js, 200, js, `"metadata":{"criticality":"BULK","user_id":"7","zone":"b"}`},
		{"GET", "/eureka/apps/delta", "", "", 200, "application/xml", "<user__id>7</user__id>"},
		{"GET", "/eureka/status", "", js, 200, js, `{"generalStats":{"server-uptime":"0 days 00:00"`},
		{"GET", "/eureka/status", "", "", 200, "application/xml", "<status>\n  <generalStats>"},
		{"DELETE", inst, "", js, 200, "", ""},
		{"GET", "/eureka/apps/delta", "", js, 200, js, `"actionType":"DELETED"`},
		{"GET", "/nothing", "", js, 404, "", ""},
		{"GET", "/eureka/nothing", "", js, 404, "", ""},
		{"PATCH", inst, "", js, 405, "", ""},
		{"GET", inst + "/status", "", js, 405, "", ""},
		{"POST", "/eureka/apps/web", "{", js, 400, js, `{"error": "cannot parse request body"}`},
		{"POST", "/eureka/apps/other", registration("WEB", "i"), js, 400, "text/plain", "Mismatched appName, expecting OTHER but was WEB"},
		{"POST", "/eureka/apps/web", `{}`, js, 400, "text/plain", "Missing instanceId"},
		{"POST", "/eureka/apps/web", `{"instance":{"instanceId":"i"}}`, js, 400, "text/plain", "Missing hostname"},
		{"POST", "/eureka/apps/web", `{"instance":{"hostName":"i"}}`, js, 400, "text/plain", "Missing ip address"},
		{"POST", "/eureka/apps/web", `{"instance":{"hostName":"i","ipAddr":"1"}}`, js, 400, "text/plain", "Missing appName"},
		{"POST", "/eureka/apps/web", `{"instance":{"hostName":"i","ipAddr":"1","app":"web"}}`, js, 400, "text/plain", "Missing dataCenterInfo"},
		{"POST", "/eureka/apps/web", `{"instance":{"hostName":"i","ipAddr":"1","app":"web","dataCenterInfo":{}}}`, js, 400, "text/plain", "Missing dataCenterInfo Name"},
	}
	for i, st := range steps {
		headers := []string{"Content-Type", js}
		if st.accept != "" {
			headers = append(headers, "Accept", st.accept)
		}
		resp := do(t, h, st.method, st.path, st.body, headers...)
		body := text(t, resp)
		if resp.StatusCode != st.status || resp.Header.Get("Content-Type") != st.contentType ||
			(st.has == "") != (body == "") || !strings.Contains(body, st.has) {
			t.Errorf("step %d, %s %s: got %d %q %q, want %d %q with %q", i, st.method, st.path,
				resp.StatusCode, resp.Header.Get("Content-Type"), body, st.status, st.contentType, st.has)
		}
	}
}

func TestOddBodiesAreReadOrRefusedByKind(t *testing.T) {
	h := registry.New(registry.Config{}).Handler()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write([]byte(registration("WEB", "z"))) //nolint:errcheck // a buffer takes everything
	z.Close()                                 //nolint:errcheck // as above
	var bomb bytes.Buffer
	z = gzip.NewWriter(&bomb)
	z.Write(make([]byte, 8<<20)) //nolint:errcheck // as above
	z.Close()                    //nolint:errcheck // as above
	asXML := `<instance><hostName>h</hostName><app>WEB</app><ipAddr>1</ipAddr><dataCenterInfo><name>MyOwn</name></dataCenterInfo></instance>`
	tests := []struct {
		name, body string
		headers    []string
		want       int
	}{
		{"gzip", zipped.String(), []string{"Content-Type", "application/json", "Content-Encoding", "gzip"}, 204},
		{"gzip that inflates to 8 MB", bomb.String(), []string{"Content-Type", "application/json", "Content-Encoding", "gzip"}, 413},
		{"broken gzip", "no", []string{"Content-Encoding", "gzip"}, 400},
		{"no type, JSON", registration("WEB", "a"), nil, 204},
		{"no type, XML", " \n" + asXML, nil, 204},
		{"XML in latin-1", strings.Replace(asXML, "<hostName>h", "<homePageUrl>http://caf\xe9/</homePageUrl><hostName>h", 1), []string{"Content-Type", "application/xml; charset=ISO-8859-1"}, 204},
		{"JSON in latin-1", strings.Replace(registration("WEB", "b"), `"h"`, "\"h\xe9\"", 1), []string{"Content-Type", "application/json;charset=iso-8859-1"}, 204},
		{"deflate", registration("WEB", "b"), []string{"Content-Encoding", "deflate"}, 415},
		{"a type nobody can parse", registration("WEB", "b"), []string{"Content-Type", "application/json;;"}, 204},
		{"utf-16", registration("WEB", "b"), []string{"Content-Type", "application/json; charset=utf-16"}, 415},
		{"2 MB", `{"x":"` + strings.Repeat("a", 2<<20) + `"}`, []string{"Content-Type", "application/json"}, 413},
	}
	for _, tt := range tests {
		if got := do(t, h, "POST", "/eureka/v2/apps/web", tt.body, tt.headers...).StatusCode; got != tt.want {
			t.Errorf("%s: got status %d, want %d", tt.name, got, tt.want)
		}
	}
	if got := text(t, do(t, h, "GET", "/eureka/apps/WEB/h", "", "Accept", "application/json")); !strings.Contains(got, "http://café/") {
		t.Errorf("home page sent in latin-1: got %s, want it in UTF-8", got)
	}
}

func TestAbsurdNamesAreRefusedAndNothingIsStored(t *testing.T) {
	h := registry.New(registry.Config{}).Handler()
	long := strings.Repeat("a", 1025)
	for _, tt := range []struct{ app, body, want string }{
		{"web", registration("WEB", long), "instanceId has 1025 bytes; send at most 1024"},
		{long, registration(long, "i"), "app has 1025 bytes; send at most 1024"},
		{"web", registration("WEB", "a\nb"), "instanceId holds control characters; send printable ones"},
		{"web", strings.Replace(registration("WEB", "i"), `"h"`, `"h\u0000"`, 1), "hostName holds control characters; send printable ones"},
		{"web", strings.Replace(registration("WEB", "i"), `"h"`, `"`+long+`"`, 1), "hostName has 1025 bytes; send at most 1024"},
	} {
		resp := do(t, h, "POST", "/eureka/apps/"+tt.app, tt.body, "Content-Type", "application/json")
		if got := text(t, resp); resp.StatusCode != 400 || got != tt.want {
			t.Errorf("registration of %.60q: got %d %q, want 400 %q", tt.body, resp.StatusCode, got, tt.want)
		}
	}
	post(t, h, "WEB", "i")
	big := "/eureka/apps/WEB/i/metadata?k=" + strings.Repeat("v", 600<<10)
	if got := do(t, h, "PUT", big, "").StatusCode; got != 200 {
		t.Errorf("600 KiB of metadata: got %d, want 200", got)
	}
	resp := do(t, h, "PUT", big+"&l="+strings.Repeat("v", 600<<10), "")
	if got := text(t, resp); resp.StatusCode != 400 || got != "an instance may hold 1048576 bytes of metadata" {
		t.Errorf("1200 KiB of metadata: got %d %q, want 400 and why", resp.StatusCode, got)
	}
	if got := text(t, do(t, h, "GET", "/eureka/apps/", "", "Accept", "application/json")); strings.Count(got, `"instanceId"`) != 1 || strings.Contains(got, `"l":"v`) {
		t.Errorf("afterwards: got %d bytes, want the one good instance as it was", len(got))
	}
}

func TestSettingsOfTheFace(t *testing.T) {
	h := registry.New(registry.Config{Settings: registry.Settings{
		Prefixes: []string{"/discovery"}, EnforceGzip: true, NoDelta: true, StrictIDs: true, Environment: "prod",
	}}).Handler()
	post(t, h, "WEB", "i")
	amazon := strings.Replace(registration("WEB", "j"), `"dataCenterInfo":{"name":"MyOwn"}`, `"dataCenterInfo":{"name":"Amazon"}`, 1)
	resp := do(t, h, "POST", "/eureka/apps/WEB", amazon, "Content-Type", "application/json")
	if got := text(t, resp); resp.StatusCode != 400 || got != "DataCenterInfo of type class com.netflix.appinfo.AmazonInfo must contain a valid id" {
		t.Errorf("an Amazon instance without its id, when strict: got %d %q, want 400", resp.StatusCode, got)
	}
	for _, tt := range []struct {
		path, encoding string
		want           int
		gzipped        bool
	}{
		{"/discovery/apps", "gzip", 200, true},
		{"/discovery/v2/apps/WEB", "", 200, true},
		{"/eureka/apps", "", 200, true},
		{"/eureka/apps/WEB/i", "identity", 406, false},
		{"/eureka/apps", "deflate", 406, false},
		{"/eureka/apps/delta", "gzip", 403, false},
		{"/eureka/vips/web", "", 200, false},
	} {
		resp := do(t, h, "GET", tt.path, "", "Accept-Encoding", tt.encoding, "Accept", "application/json")
		if resp.StatusCode != tt.want || (resp.Header.Get("Content-Encoding") == "gzip") != tt.gzipped {
			t.Errorf("%s accepting %q: got %d, encoding %q; want %d, gzip %v", tt.path, tt.encoding, resp.StatusCode, resp.Header.Get("Content-Encoding"), tt.want, tt.gzipped)
		}
	}
	if got := text(t, do(t, h, "GET", "/eureka/status", "", "Accept", "application/json")); !strings.Contains(got, `"environment":"prod"`) {
		t.Errorf("status: got %s, want the environment prod", got)
	}
}

func TestGroupsAreDisabledAndEnabledWhereTheyCount(t *testing.T) {
	e, l := openLedger(t)
	defer e.Close() //nolint:errcheck // the test is over
	c := registry.Config{Ledger: l, Log: slog.New(slog.DiscardHandler), Settings: registry.Settings{ASG: true}}
	h := registry.New(c).Handler()
	body := strings.Replace(registration("WEB", "i"), `"metadata"`, `"asgName":"web-v001","metadata"`, 1)
	status := func(h http.Handler) string {
		do(t, h, "POST", "/eureka/apps/WEB", body, "Content-Type", "application/json")
		got := text(t, do(t, h, "GET", "/eureka/apps/WEB/i", "", "Accept", "application/json"))
		_, got, _ = strings.Cut(got, `"status":"`)
		got, _, _ = strings.Cut(got, `"`)
		return got
	}
	if got := status(h); got != "UP" {
		t.Errorf("at first: got %s, want UP", got)
	}
	for _, step := range []struct{ value, want string }{{"DISABLED", "OUT_OF_SERVICE"}, {"enabled", "UP"}, {"disabled", "OUT_OF_SERVICE"}} {
		if got := do(t, h, "PUT", "/eureka/v2/asg/web-v001/status?value="+step.value, "").StatusCode; got != 200 || status(h) != step.want {
			t.Errorf("group %s: got %d and %s, want 200 and %s", step.value, got, status(h), step.want)
		}
	}
	if got := status(registry.New(c).Handler()); got != "OUT_OF_SERVICE" {
		t.Errorf("after a restart: got %s, want the group still disabled", got)
	}
	if got := do(t, h, "PUT", "/eureka/asg/web-v001/status?value=off", "").StatusCode; got != 400 {
		t.Errorf("another value: got %d, want 400", got)
	}
	if got := do(t, registry.New(registry.Config{}).Handler(), "PUT", "/eureka/asg/web-v001/status?value=ENABLED", "").StatusCode; got != 400 {
		t.Errorf("where groups do not count: got %d, want 400", got)
	}
}

func TestLargeAnswersAreCompressedForThoseWhoAsk(t *testing.T) {
	h := registry.New(registry.Config{}).Handler()
	for i := range 20 {
		post(t, h, fmt.Sprintf("APP%d", i%3), fmt.Sprint(i))
	}
	for _, path := range []string{"/eureka/apps/", "/eureka/apps/delta", "/eureka/apps/APP1", "/eureka/vips/both", "/eureka/apps/APP1/1"} {
		for _, accept := range []string{"application/json", "application/xml"} {
			plain := do(t, h, "GET", path, "", "Accept", accept)
			want := text(t, plain)
			resp := do(t, h, "GET", path, "", "Accept", accept, "Accept-Encoding", "deflate, gzip;q=1.0")
			if resp.Header.Get("Content-Encoding") != "gzip" || !strings.Contains(resp.Header.Get("Vary"), "X-Eureka-Accept") {
				t.Errorf("%s as %s: got encoding %q, Vary %q; want gzip and all three", path, accept, resp.Header.Get("Content-Encoding"), resp.Header.Get("Vary"))
				continue
			}
			z, err := gzip.NewReader(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(z)
			if err != nil || string(got) != want {
				t.Errorf("%s as %s inflated: got %d bytes and error %v, want the %d plain bytes", path, accept, len(got), err, len(want))
			}
			if plain.ContentLength != int64(len(want)) {
				t.Errorf("%s as %s: got Content-Length %d, want %d", path, accept, plain.ContentLength, len(want))
			}
		}
	}
	if got := do(t, h, "GET", "/eureka/apps/", "", "Accept-Encoding", "gzip;q=0").Header.Get("Content-Encoding"); got != "" {
		t.Errorf("gzip refused by the client: got encoding %q", got)
	}
}

// events reads a stream's events into a channel, as "name data".
func events(t *testing.T, url string, headers ...string) (<-chan string, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	tr := &http.Transport{}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	ch := make(chan string, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(ch)
		in := bufio.NewScanner(resp.Body)
		in.Buffer(nil, 1<<20)
		var id, name string
		for in.Scan() {
			switch line := in.Text(); {
			case strings.HasPrefix(line, "id: "):
				id = line[4:]
			case strings.HasPrefix(line, "event: "):
				name = line[7:]
			case strings.HasPrefix(line, "data: "):
				ch <- name + " " + line[6:] + " " + id
			}
		}
	}()
	return ch, func() { cancel(); resp.Body.Close(); <-done; tr.CloseIdleConnections() }
}

func next(t *testing.T, ch <-chan string) string {
	t.Helper()
	select {
	case ev, ok := <-ch:
		if !ok {
			t.Fatal("the stream ended")
		}
		return ev
	case <-time.After(time.Minute):
		t.Fatal("no event in a minute")
	}
	return ""
}

func TestWatchersHearEachChangeAndResumeWhereTheyLeft(t *testing.T) {
	h := registry.New(registry.Config{Location: roadbed.Location{Region: "eu"}}).Handler()
	srv := httptest.NewServer(h)
	defer srv.Close()
	post(t, h, "WEB", "1")
	url := srv.URL + "/registry/v1/watch"
	ch, stop := events(t, url)
	ev := next(t, ch)
	if !strings.HasPrefix(ev, `snapshot {"version":`) || !strings.Contains(ev, `"warming":true,"instances":[{"id":"1","app":"web"`) || !strings.Contains(ev, `"region":"eu","zone":"zone-a"`) {
		t.Errorf("first event: got %s, want a snapshot with instance 1 of web", ev)
	}
	post(t, h, "API", "2")
	if ev = next(t, ch); !strings.HasPrefix(ev, `put {"instance":{"id":"2","app":"api"`) {
		t.Errorf("after a registration: got %s, want a put of 2", ev)
	}
	last := ev[strings.LastIndex(ev, " ")+1:]
	stop()

	do(t, h, "DELETE", "/eureka/apps/WEB/1", "")
	post(t, h, "API", "3")
	do(t, h, "PUT", "/eureka/apps/API/3/status?value=DOWN", "")
	ch, stop = events(t, url, "Last-Event-ID", last)
	for _, want := range []string{`resume {"version":`, `remove {"app":"web","id":"1"}`, `put {"instance":{"id":"3"`} {
		if ev = next(t, ch); !strings.HasPrefix(ev, want) {
			t.Errorf("resumed: got %s, want %s", ev, want)
		}
	}
	if !strings.Contains(ev, `"status":"DOWN"`) {
		t.Errorf("two changes of one instance missed: got %s, want only the newest", ev)
	}
	stop()

	ch, stop = events(t, url, "Last-Event-ID", "otherone-1")
	if ev = next(t, ch); !strings.HasPrefix(ev, "snapshot ") {
		t.Errorf("resuming at another incarnation: got %s, want a snapshot", ev)
	}
	stop()

	ch, stop = events(t, url+"?apps=api&vips=x")
	if ev = next(t, ch); strings.Contains(ev, `"app":"web"`) || strings.Count(ev, `"id":`) != 2 {
		t.Errorf("watching only api: got %s, want 2 and 3", ev)
	}
	post(t, h, "WEB", "9")
	post(t, h, "API", "4")
	if ev = next(t, ch); !strings.HasPrefix(ev, `put {"instance":{"id":"4"`) {
		t.Errorf("watching only api: got %s, want the put of 4 and none of 9", ev)
	}
	stop()
}

func TestStreamsEndWithRun(t *testing.T) {
	r := registry.New(registry.Config{Log: slog.New(slog.DiscardHandler)})
	srv := httptest.NewServer(r.Handler())
	defer srv.Close()
	ch, stop := events(t, srv.URL+"/registry/v1/watch")
	defer stop()
	next(t, ch)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case ev, ok := <-ch:
		if ok {
			t.Errorf("after Run: got event %s, want the end", ev)
		}
	case <-time.After(time.Minute):
		t.Error("the stream goes on a minute after Run ended")
	}
}

func openLedger(t *testing.T) (*engine.Engine, *ledger.Ledger) {
	t.Helper()
	e, err := engine.Open(t.Context(), engine.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return e, l
}

func TestOverridesAreInTheLedgerAndSurviveARestart(t *testing.T) {
	e, l := openLedger(t)
	closed := false
	defer func() {
		if !closed {
			e.Close() //nolint:errcheck // the test has failed already
		}
	}()
	c := registry.Config{Ledger: l, Log: slog.New(slog.DiscardHandler)}
	r := registry.New(c)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	h := r.Handler()
	for _, id := range []string{"held", "cleared", "left"} {
		post(t, h, "WEB", id)
		if got := do(t, h, "PUT", "/eureka/apps/WEB/"+id+"/status?value=OUT_OF_SERVICE", "", api.ActorHeader, "ana").StatusCode; got != 200 {
			t.Fatalf("override of %s: got status %d, want 200", id, got)
		}
		do(t, h, "PUT", "/eureka/apps/WEB/"+id+"/status?value=OUT_OF_SERVICE", "") // nothing new: no entry
	}
	if got := do(t, h, "DELETE", "/eureka/apps/WEB/cleared/status?value=UP", "").StatusCode; got != 200 {
		t.Fatalf("clearing: got status %d, want 200", got)
	}
	do(t, h, "DELETE", "/eureka/apps/WEB/left", "")
	var list []roadbed.Change
	for deadline := time.Now().Add(time.Minute); len(list) < 5 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		var err error
		if list, err = l.List(t.Context(), ledger.Query{}); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, ch := range list {
		got = append(got, ch.Actor+" "+ch.Action+" "+ch.Resource)
	}
	want := []string{
		"anonymous instance.clearOverride instance:web/left", "anonymous instance.clearOverride instance:web/cleared",
		"ana instance.override instance:web/left", "ana instance.override instance:web/cleared", "ana instance.override instance:web/held",
	}
	if !slices.Equal(got, want) {
		t.Errorf("ledger:\n got %q\nwant %q", got, want)
	}
	if after := string(list[len(list)-1].After); after != `{"status":"OUT_OF_SERVICE","overriddenStatus":"OUT_OF_SERVICE"}` {
		t.Errorf("after the first override: got %s", after)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}

	h = registry.New(c).Handler() // as after a restart
	for id, want := range map[string]string{"held": "OUT_OF_SERVICE", "cleared": "UP", "left": "UP"} {
		post(t, h, "WEB", id)
		if got := text(t, do(t, h, "GET", "/eureka/apps/WEB/"+id, "", "Accept", "application/json")); !strings.Contains(got, `"status":"`+want+`"`) {
			t.Errorf("%s after a restart: got %s, want status %s", id, got, want)
		}
	}

	// The ledger is gone: overrides are refused, everything else goes on.
	closed = true
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	quickest := time.Hour // of several, for the machine may be busy
	for range 3 {
		start := time.Now()
		resp := do(t, h, "PUT", "/eureka/apps/WEB/cleared/status?value=OUT_OF_SERVICE", "")
		if body := text(t, resp); resp.StatusCode != 503 || body != "" {
			t.Errorf("override without a ledger: got %d %q, want 503 and nothing", resp.StatusCode, body)
		}
		quickest = min(quickest, time.Since(start))
	}
	if quickest > 3*time.Second {
		t.Errorf("override without a ledger: refused after %v and more, each of three times; want it within a second", quickest)
	}
	if got := text(t, do(t, h, "GET", "/eureka/apps/WEB/cleared", "", "Accept", "application/json")); !strings.Contains(got, `"status":"UP"`) {
		t.Errorf("a refused override: got %s, want the status UP as before", got)
	}
	post(t, h, "WEB", "new")
	for _, method := range []string{"PUT", "DELETE"} {
		if got := do(t, h, method, "/eureka/apps/WEB/new", "").StatusCode; got != 200 {
			t.Errorf("%s without a ledger: got status %d, want 200", method, got)
		}
	}
}

func TestServicesAndInstancesOfThePlatformsAPI(t *testing.T) {
	r := registry.New(registry.Config{Location: roadbed.Location{Region: "eu"}})
	h := r.Handler()
	post(t, h, "WEB", "1")
	post(t, h, "WEB", "2")
	post(t, h, "API", "3")
	do(t, h, "PUT", "/eureka/apps/WEB/2/status?value=DOWN", "")
	s := api.New("test", "0")
	r.Mount(s)
	resp := do(t, s, "GET", "http://localhost/api/v1/services", "")
	want := `[{"name":"api","instances":1,"up":1,"zones":{"zone-a":{"up":1,"total":1}},"criticality":"BULK"},` +
		`{"name":"web","instances":2,"up":1,"zones":{"zone-a":{"up":1,"total":2}},"criticality":"BULK"}]`
	if got := strings.TrimSpace(text(t, resp)); got != want {
		t.Errorf("services:\n got %s\nwant %s", got, want)
	}
	for query, want := range map[string]int{"": 3, "?app=web": 2, "?app=none": 0} {
		var list []roadbed.Instance
		body := text(t, do(t, s, "GET", "http://localhost/api/v1/registry/instances"+query, ""))
		if err := json.Unmarshal([]byte(body), &list); err != nil || len(list) != want || list == nil {
			t.Errorf("instances%s: got %s, %v; want %d", query, body, err, want)
		}
	}
}

// TestDocumentsHoldNoMemberThatJavaClientsDoNotKnow is the no-extension rule: Netflix's codecs fail a whole document
// on one unknown member.
func TestDocumentsHoldNoMemberThatJavaClientsDoNotKnow(t *testing.T) {
	known := map[string][]string{
		"": {"applications"}, "applications": {"versions__delta", "apps__hashcode", "application"}, "application": {"name", "instance"},
		"instance": {"instanceId", "hostName", "app", "ipAddr", "sid", "status", "overriddenStatus", "port", "securePort", "countryId",
			"dataCenterInfo", "leaseInfo", "metadata", "appGroupName", "homePageUrl", "statusPageUrl", "healthCheckUrl", "secureHealthCheckUrl",
			"vipAddress", "secureVipAddress", "isCoordinatingDiscoveryServer", "lastUpdatedTimestamp", "lastDirtyTimestamp", "actionType", "asgName"},
		"port": {"$", "@enabled"}, "securePort": {"$", "@enabled"}, "dataCenterInfo": {"@class", "name", "metadata"},
		"leaseInfo": {"renewalIntervalInSecs", "durationInSecs", "registrationTimestamp", "lastRenewalTimestamp", "evictionTimestamp", "serviceUpTimestamp"},
	}
	h := registry.New(registry.Config{}).Handler()
	raw, err := os.ReadFile("testdata/instance.json")
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Replace(string(raw), `"countryId":1`, `"countryId":1,"sid":"x","appGroupName":"g","statusPageUrl":"u","healthCheckUrl":"u","secureHealthCheckUrl":"u","asgName":"a","strange":{"x":1}`, 1)
	do(t, h, "POST", "/eureka/apps/SHOP", body, "Content-Type", "application/json")
	for _, form := range []string{"full", "compact"} {
		for _, path := range []string{"/eureka/apps/", "/eureka/apps/delta", "/eureka/vips/shop"} {
			var doc any
			if err := json.Unmarshal([]byte(text(t, do(t, h, "GET", path, "", "Accept", "application/json", "X-Eureka-Accept", form))), &doc); err != nil {
				t.Fatal(err)
			}
			var walk func(name string, v any)
			walk = func(name string, v any) {
				switch v := v.(type) {
				case []any:
					for _, x := range v {
						walk(name, x)
					}
				case map[string]any:
					if name == "metadata" {
						return
					}
					for k, x := range v {
						if !slices.Contains(known[name], k) {
							t.Errorf("%s %s: %s has the member %q, which Java clients do not know", form, path, name, k)
						}
						walk(k, x)
					}
				}
			}
			walk("", doc)
		}
	}
}
