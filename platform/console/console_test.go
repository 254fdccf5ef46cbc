package console

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/api/porttest"
)

func get(t *testing.T, h http.Handler, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:7070"+path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestPagesAreServedWithTypePolicyAndStrongTag(t *testing.T) {
	h := New(Config{}).Handler()
	for path, mime := range map[string]string{
		"/": "text/html; charset=utf-8", "/app.js": "text/javascript; charset=utf-8", "/app.css": "text/css; charset=utf-8",
		"/icon.svg": "image/svg+xml", "/licences.txt": "text/plain; charset=utf-8",
	} {
		resp := get(t, h, path)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != mime {
			t.Errorf("%s: got %d %s, want 200 %s", path, resp.StatusCode, resp.Header.Get("Content-Type"), mime)
		}
		csp := resp.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'self';") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q, want default-src 'self' and nothing unsafe", path, csp)
		}
		if got := resp.Header.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s: X-Content-Type-Options %q, want nosniff", path, got)
		}
		tag := resp.Header.Get("ETag")
		if len(tag) < 18 || strings.HasPrefix(tag, "W/") {
			t.Errorf("%s: ETag %q, want a strong one", path, tag)
		}
		if again := get(t, h, path, "If-None-Match", tag); again.StatusCode != http.StatusNotModified {
			t.Errorf("%s asked again with its tag: got %d, want 304", path, again.StatusCode)
		}
	}
}

func TestUnknownPathsAreNotThePage(t *testing.T) {
	s := api.New("test", "1")
	New(Config{}).Mount(s)
	resp := get(t, s, "/api/v1/nothing")
	if resp.StatusCode != 404 || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d %s, want a 404 problem", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	if resp := get(t, s, "/"); resp.StatusCode != 200 {
		t.Errorf("/ on the surface: got %d, want 200", resp.StatusCode)
	}
}

// The browser may name these, without asking them for anything.
var namedOnly = regexp.MustCompile(`^https?://(www\.w3\.org/[A-Za-z0-9/]+|github\.com/.*|preactjs\.com.*)$`)

func TestPagesAskOnlyThisOrigin(t *testing.T) {
	urls := regexp.MustCompile("(?:https?|wss?):?//[^\"'`\\s)]+|(?:src|href)=\"//[^\"]+|url\\([^)]+\\)|@import[^;]+")
	h := New(Config{}).Handler()
	for _, path := range []string{"/", "/app.js", "/app.css", "/icon.svg"} {
		body, err := io.ReadAll(get(t, h, path).Body)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range urls.FindAllString(string(body), -1) {
			if !namedOnly.MatchString(u) {
				t.Errorf("%s mentions %q, want no foreign address", path, u)
			}
		}
		if path == "/" && regexp.MustCompile(`<script(?:>|[^>]*[^/]>[^<])|<style|\son[a-z]+=|style="`).Match(body) {
			t.Errorf("the page has inline script or style, which its policy forbids:\n%s", body)
		}
	}
}

// inProcess carries requests to a handler without a network, so that time in a synctest bubble can pass.
type inProcess struct{ h http.Handler }

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	type done struct{ resp *http.Response }
	c := make(chan done, 1)
	go func() {
		w := httptest.NewRecorder()
		p.h.ServeHTTP(w, r)
		c <- done{w.Result()}
	}()
	select {
	case d := <-c:
		return d.resp, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// run starts a console on h inside a bubble.
func run(t *testing.T, h http.Handler) *Console {
	c := New(Config{API: "http://platform", Log: slog.New(slog.DiscardHandler)})
	c.http.Transport = inProcess{h}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return c
}

// watch opens a viewer's stream. The returned function waits for the next event and gives the overview as it then
// is; it gives false when the stream has ended.
func watch(t *testing.T, c *Console) (next func() (Overview, bool), leave func()) {
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/v1/overview/stream", nil)
	pr, pw := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer pw.Close()
		c.Handler().ServeHTTP(pipeWriter{pw, http.Header{}}, r)
	}()
	lines := bufio.NewScanner(pr)
	lines.Buffer(nil, 1<<20)
	leave = func() {
		cancel()
		pr.Close()
		<-ended
	}
	t.Cleanup(leave)
	var last Overview
	return func() (Overview, bool) {
		t.Helper()
		event := ""
		for lines.Scan() {
			if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				event = name
			}
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			if !ok {
				continue
			}
			var o Overview
			if err := json.Unmarshal([]byte(data), &o); err != nil {
				t.Fatalf("overview is not JSON: %v\n%s", err, data)
			}
			if event == "change" {
				was := last.parts()
				for name, part := range o.parts() {
					if len(*part) == 0 {
						*part = *was[name]
					}
				}
			}
			last = o
			return o, true
		}
		return Overview{}, false
	}, leave
}

type pipeWriter struct {
	*io.PipeWriter
	header http.Header
}

func (p pipeWriter) Header() http.Header { return p.header }
func (p pipeWriter) WriteHeader(int)     {}
func (p pipeWriter) FlushError() error   { return nil }

func TestOverviewHoldsWhatEveryRoomSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next, _ := watch(t, run(t, newFixture()))
		o, _ := next()
		if len(o.Unreachable) != 0 {
			t.Errorf("unreachable: got %+v, want none", o.Unreachable)
		}
		for part, raw := range map[string]json.RawMessage{
			"platform": o.Platform, "traffic": o.Traffic, "members": o.Members, "services": o.Services,
			"registry": o.Registry, "instances": o.Instances, "clusters": o.Clusters, "changes": o.Changes, "faults": o.Faults, "node": o.Node, "rollouts": o.Rollouts,
		} {
			if len(raw) == 0 {
				t.Errorf("%s is absent, want what its room says", part)
			}
		}
		var changes []roadbed.Change
		if err := json.Unmarshal(o.Changes, &changes); err != nil || len(changes) != 9 || changes[0].Actor != "ana" {
			t.Errorf("changes: got %v %+v, want a list of 9, the newest by ana", err, changes)
		}
		var members map[string]struct{ Success float64 }
		if err := json.Unmarshal(o.Members, &members); err != nil || members["all"].Success != 0.9997 {
			t.Errorf("members: got %v %+v, want success 0.9997", err, members)
		}
	})
}

func TestOverviewComesEverySecondFromOnePollerForAllViewers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture()
		c := run(t, f)
		first, _ := watch(t, c)
		first()
		second, _ := watch(t, c)
		start := time.Now()
		if o, _ := second(); o.Time.Sub(start) > 0 {
			t.Errorf("a viewer who joins waited %v for an overview, want none", o.Time.Sub(start))
		}
		before := f.count("/api/v1/traffic")
		var last time.Time
		for range 5 {
			a, _ := first()
			if !last.IsZero() && a.Time.Sub(last) > askEvery {
				t.Errorf("overviews %v apart, want at most %v", a.Time.Sub(last), askEvery)
			}
			last = a.Time
		}
		if asked := f.count("/api/v1/traffic") - before; asked > 5 {
			t.Errorf("two viewers for 5 overviews: telemetry was asked %d times, want at most 5", asked)
		}
	})
}

func TestNobodyWatchingAsksNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture()
		c := run(t, f)
		time.Sleep(time.Minute)
		if n := f.count("/api/v1/traffic"); n != 0 {
			t.Errorf("before anybody watched telemetry was asked %d times, want 0", n)
		}
		next, leave := watch(t, c)
		next()
		leave()
		time.Sleep(2 * askEvery)
		n := f.count("/api/v1/traffic")
		time.Sleep(time.Minute)
		if m := f.count("/api/v1/traffic"); m != n {
			t.Errorf("after the last viewer left telemetry was asked %d times more, want 0", m-n)
		}
		again, _ := watch(t, c)
		if o, ok := again(); !ok || time.Since(o.Time) > askEvery {
			t.Errorf("a viewer who came back got an overview %v old (%v), want a fresh one", time.Since(o.Time), ok)
		}
	})
}

func TestRoomThatDoesNotAnswerKeepsItsLastData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture()
		next, _ := watch(t, run(t, f))
		good, _ := next()
		f.fail("/api/v1/clusters", true)
		var o Overview
		for range 20 {
			o, _ = next()
		}
		if len(o.Unreachable) != 1 {
			t.Fatalf("unreachable: got %+v, want the fleet's clusters only", o.Unreachable)
		}
		u := o.Unreachable[0]
		if u.Room != "fleet" || u.Part != "clusters" || !strings.Contains(u.Error, "bring water") {
			t.Errorf("got %+v, want the fleet's clusters and its reason", u)
		}
		if age := o.Time.Sub(u.Since); age < 18*time.Second || age > 21*time.Second {
			t.Errorf("after 20 s the clusters are said to be %v old", age)
		}
		if string(o.Clusters) != string(good.Clusters) {
			t.Errorf("stale clusters: got %s, want the last good %s", o.Clusters, good.Clusters)
		}
		f.fail("/api/v1/clusters", false)
		next()
		if o, _ := next(); len(o.Unreachable) != 0 {
			t.Errorf("after it answers again: unreachable %+v, want none", o.Unreachable)
		}
	})
}

func TestSlowRoomDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture()
		slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/api/v1/faults" {
				select {
				case <-r.Context().Done():
				case <-time.After(time.Hour):
				}
			}
			f.ServeHTTP(w, r)
		})
		start := time.Now()
		next, _ := watch(t, run(t, slow))
		o, _ := next()
		if waited := time.Since(start); waited > patience {
			t.Errorf("the first overview took %v, want at most %v", waited, patience)
		}
		if len(o.Traffic) == 0 || len(o.Faults) != 0 {
			t.Errorf("got traffic %d bytes and faults %q, want traffic without faults", len(o.Traffic), o.Faults)
		}
		for range 5 {
			o, _ = next()
		}
		if len(o.Unreachable) != 1 || o.Unreachable[0].Error != "it did not answer within 3s" || !o.Unreachable[0].Since.IsZero() {
			t.Errorf("unreachable: got %+v, want chaos, which did not answer within 3s and never has", o.Unreachable)
		}
		if n := f.count("/api/v1/traffic"); n < 5 {
			t.Errorf("telemetry was asked %d times in 5 s, want 5", n)
		}
	})
}

func TestRunEndingEndsEveryStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{API: "http://platform", Log: slog.New(slog.DiscardHandler)})
		c.http.Transport = inProcess{newFixture()}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		next, _ := watch(t, c)
		next()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
		for {
			if _, ok := next(); !ok {
				break
			}
		}
	})
}

func TestAnswersThatAreNoUse(t *testing.T) {
	for _, tt := range []struct {
		name, path string
		status     int
		body       string
		want       string // the error, or empty
	}{
		{"a room that is not there", "/api/v1/faults", 404, `{"detail":"nothing at /api/v1/faults"}`, "this platform does not run it"},
		{"a problem", "/api/v1/faults", 503, `{"detail":"the engine is away"}`, "it answers 503: the engine is away"},
		{"no JSON", "/api/v1/faults", 200, `<html>`, "its answer is not JSON"},
		{"an empty answer", "/api/v1/faults", 200, ``, "its answer is not JSON"},
		{"an error in words", "/api/v1/faults", 500, `oops`, "it answers 500 Internal Server Error"},
		{"a platform that is unwell", "/api/v1/health", 503, `{"status":"DOWN"}`, ""},
		{"an answer", "/api/v1/faults", 200, `[]`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := New(Config{API: "http://platform"})
			c.http.Transport = inProcess{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			})}
			data, err := c.ask(t.Context(), tt.path)
			if got := errorText(err); got != tt.want {
				t.Errorf("%d %q: got error %q, want %q", tt.status, tt.body, got, tt.want)
			}
			if err == nil && string(data) != tt.body {
				t.Errorf("got %q, want %q", data, tt.body)
			}
		})
	}
}

func TestNothingListeningIsSaidPlainly(t *testing.T) {
	c := New(Config{API: "http://" + porttest.Hold(t)})
	defer c.http.CloseIdleConnections()
	if _, err := c.ask(t.Context(), "/api/v1/traffic"); errorText(err) != "nothing listens where it should" {
		t.Errorf("got %v, want that nothing listens", err)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestChangesMayComeAsPageOrList(t *testing.T) {
	for in, want := range map[string]string{
		`{"changes":[{"id":2}],"next":"1"}`: `[{"id":2}]`,
		`{"changes":[]}`:                    `[]`,
		`[{"id":2}]`:                        `[{"id":2}]`,
		``:                                  ``,
	} {
		if got := string(listOf(json.RawMessage(in))); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestMembersAreReadFromTraffic(t *testing.T) {
	for in, want := range map[string]string{
		`{"metadata":{"members":{"all":{"rps":5}}},"nodes":[]}`: `{"all":{"rps":5}}`,
		`{"nodes":[]}`: ``,
		`[]`:           ``,
		``:             ``,
	} {
		if got := string(membersOf(json.RawMessage(in))); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestEveryPartOfAnOverviewHasARoom(t *testing.T) {
	parts := []string{"changes", "clusters", "faults", "instances", "node", "platform", "registry", "rollouts", "services", "traffic"}
	var got []string
	for _, r := range newRooms() {
		got = append(got, r.part)
	}
	slices.Sort(got)
	if !slices.Equal(got, parts) {
		t.Errorf("got %v, want %v", got, parts)
	}
}
