package streaming

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
)

// demo is the whole application in one process: each service on a listener and with an engine of its own.
type demo struct {
	servers map[string][]*httptest.Server
	api     string // base URL of one instance of api
}

func startDemo(t testing.TB) *demo {
	t.Helper()
	return startDemoWith(t, func(string) *config.Properties { return config.New(config.Options{Override: patient()}) }, nil)
}

// patient are properties with which no call runs out of time, and none is refused because the machine is busy.
func patient() map[string]string {
	props := map[string]string{"ipc.server.shed.enabled": "false"}
	for _, c := range commands() {
		props[timeLimit(c.to)], props["ipc.command."+c.to+".attemptTimeoutInMilliseconds"] = "60000", "60000"
	}
	return props
}

// timeLimit is the property that says how long a call of a service may take.
func timeLimit(service string) string {
	return "hystrix.command." + service + ".execution.isolation.thread.timeoutInMilliseconds"
}

// startDemoWith starts the demo with the properties that props has for each app, and with handlers wrapped by name.
func startDemoWith(t testing.TB, props func(app string) *config.Properties, wrap map[string]func(http.Handler) http.Handler) *demo {
	t.Helper()
	d := &demo{servers: map[string][]*httptest.Server{}}
	lists := ipc.Static{}
	build := handlers()
	names := slices.Sorted(maps.Keys(build))
	// Listeners first, so that every engine knows every address.
	for _, name := range names {
		for n := range 2 {
			s := httptest.NewUnstartedServer(nil)
			d.servers[name] = append(d.servers[name], s)
			addr := s.Listener.Addr().(*net.TCPAddr)
			lists[name] = append(lists[name], roadbed.Instance{ID: fmt.Sprintf("%s-%d", name, n), App: name, VIP: name, Host: "127.0.0.1", Port: addr.Port,
				Status: roadbed.Up, Location: roadbed.Location{Region: "local", Zone: "zone-" + string(rune('a'+n))}})
		}
	}
	for _, name := range names {
		for n, s := range d.servers[name] {
			own := props(name)
			calls := ipc.New(ipc.Options{App: name, Instance: lists[name][n].ID, Location: lists[name][n].Location, Lists: lists, Config: own})
			t.Cleanup(calls.Close)
			handler := build[name](calls, own)
			if w := wrap[name]; w != nil {
				handler = w(handler)
			}
			s.Config.Handler = calls.Handler(handler)
			s.Start()
			t.Cleanup(s.Close)
		}
	}
	d.api = d.servers["api"][0].URL
	return d
}

// stop ends every instance of the services called names.
func (d *demo) stop(names ...string) {
	for _, name := range names {
		for _, s := range d.servers[name] {
			s.CloseClientConnections()
			s.Close()
		}
	}
}

var optional = []string{"abtest", "billing", "bookmarks", "recommendations"}

func get1(t testing.TB, url, member, accept string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if member != "" {
		req.Header.Set("X-Member", member)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

func decode[T any](t testing.TB, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

func TestMembersBrowseAndPlayWithAndWithoutTheOptionalServices(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	d := startDemo(t)
	p, err := NewPopulation(PopulationConfig{Edge: d.api, RPS: steadily(60), Seed: 11})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	until := func(n int64) Figures { // of the load there is, for it comes at its own pace
		for {
			if f := p.Report().Total; f.Requests >= n || t.Context().Err() != nil {
				return f
			}
			time.Sleep(20 * time.Millisecond)
		}
	}

	f := until(150)
	if f.Succeeded != f.Requests || f.WithFallback != 0 {
		t.Errorf("everything up: got %d of %d succeeded, %d with fallbacks, causes %v, parts %v; want all and none", f.Succeeded, f.Requests,
			f.WithFallback, f.Causes, f.Parts)
	}
	d.stop(optional...)
	p.Reset()
	f = until(150)
	if f.Succeeded != f.Requests {
		t.Errorf("optional services gone: got %d of %d succeeded, causes %v; want all", f.Succeeded, f.Requests, f.Causes)
	}
	for _, name := range optional {
		if f.Parts[name] == 0 {
			t.Errorf("optional services gone: no answer marks %s as a fallback; parts are %v", name, f.Parts)
		}
	}
	d.stop("catalog")
	p.Reset()
	if f = until(30); f.Failed+f.Late < 25 {
		t.Errorf("catalog gone: got %d of %d failed; a critical service is missed by nobody", f.Failed+f.Late, f.Requests)
	}
}

func TestHomeIsComposedOfAllServices(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	d := startDemo(t)
	for n := 1; n <= 60; n++ {
		m, _ := member(memberID(n))
		status, body, _ := get1(t, d.api+"/home", m.ID, "application/json")
		if status != http.StatusOK {
			t.Fatalf("home of %s: got %d %s", m.ID, status, body)
		}
		h := decode[Home](t, body)
		if h.Member != (Viewer{m.ID, m.Name}) || len(h.Fallbacks) != 0 {
			t.Errorf("home of %s: member %+v, fallbacks %v", m.ID, h.Member, h.Fallbacks)
		}
		if len(h.Rows) < 4 || h.Rows[0].ID != "picks" || h.Rows[len(h.Rows)-1].ID != "new" {
			t.Errorf("home of %s: %d rows, first %s", m.ID, len(h.Rows), h.Rows[0].ID)
		}
		for _, row := range h.Rows {
			for _, c := range row.Titles {
				if c.Maturity > m.Maturity || c.Name == "" {
					t.Errorf("home of %s, age %d, row %s: %+v", m.ID, m.Maturity, row.ID, c)
				}
			}
		}
		if len(body) > 8<<10 {
			t.Errorf("home of %s is %d bytes, want at most 8 KiB", m.ID, len(body))
		}
	}
}

func TestPlayRemembersAndResumes(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	d := startDemo(t)
	films := newCatalogue()
	id := memberID(9)
	for n := 1; len(before(films, id)) == 0 || mustMember(t, id).Maturity < 18; n++ {
		id = memberID(n)
	}
	old := before(films, id)[0]
	status, body, _ := get1(t, d.api+"/play/"+old.Title, id, "")
	if status != http.StatusOK {
		t.Fatalf("got %d %s", status, body)
	}
	p := decode[Play](t, body)
	if p.Seconds != old.Seconds || p.Manifest.Title.ID != old.Title || p.Plan.State == "" || len(p.Manifest.Streams) != 4 {
		t.Errorf("play %s: got %+v, want it resumed at %d s with four streams", old.Title, p, old.Seconds)
	}
	if want := licence(old.Title, id, p.Manifest.Expires); p.Manifest.Licence != want {
		t.Errorf("licence: got %q, want %q", p.Manifest.Licence, want)
	}
}

func mustMember(t *testing.T, id string) Member {
	t.Helper()
	m, ok := member(id)
	if !ok {
		t.Fatalf("no member %s", id)
	}
	return m
}

func TestAPIRefusesWithAReason(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	d := startDemo(t)
	films := newCatalogue()
	adult := films.titles[slices.IndexFunc(films.titles, func(x Title) bool { return x.Maturity == 18 })].ID
	child := ""
	for n := 1; child == ""; n++ {
		if m := mustMember(t, memberID(n)); m.Maturity == 7 {
			child = m.ID
		}
	}
	for _, c := range []struct {
		path, member string
		status       int
		detail       string
	}{
		{"/home", "", 400, "X-Member"},
		{"/home", "nobody", 404, "no member"},
		{"/browse/nothing", "m00001", 404, "no row"},
		{"/browse/drama?page=x", "m00001", 400, "page"},
		{"/browse/..%2f..%2ftitles", "m00001", 404, "no row"},
		{"/play/nothing", "m00001", 404, "no title"},
		{"/play/" + adult, child, 403, "ages from 18"},
		{"/play/" + adult, memberID(memberCount), 402, "lapsed"},
		{"/home?member=m00003", "", 200, ""},
	} {
		status, body, h := get1(t, d.api+c.path, c.member, "application/json")
		if status != c.status || !strings.Contains(body, c.detail) {
			t.Errorf("GET %s as %q: got %d %s, want %d with %q", c.path, c.member, status, body, c.status, c.detail)
		}
		if want := "application/problem+json"; status != 200 && h.Get("Content-Type") != want {
			t.Errorf("GET %s as %q: got type %s, want %s", c.path, c.member, h.Get("Content-Type"), want)
		}
	}
}

func TestServicesAnswerAlone(t *testing.T) {
	for _, c := range []struct {
		service, method, path string
		status                int
		want                  string
	}{
		{"members", "GET", "/members/m00042", 200, `"id":"m00042"`},
		{"members", "GET", "/members/x", 404, "no member"},
		{"abtest", "GET", "/members/m00042", 200, `"home":"`},
		{"abtest", "GET", "/members/x", 404, "no member"},
		{"billing", "GET", "/members/m00042", 200, `"state":"`},
		{"billing", "GET", "/members/m10000", 200, `"state":"lapsed"`},
		{"billing", "GET", "/members/x", 404, "no member"},
		{"recommendations", "GET", "/members/m00042?tastes=drama,crime", 200, `"id":"more-like-drama"`},
		{"recommendations", "GET", "/members/m00042", 200, `"id":"more-like-popular"`},
		{"recommendations", "GET", "/members/m00042?limit=0", 400, "limit"},
		{"recommendations", "GET", "/members/x", 404, "no member"},
		{"bookmarks", "GET", "/members/m00042", 200, "["},
		{"bookmarks", "GET", "/members/x", 404, "no member"},
		{"bookmarks", "PUT", "/members/m00042/titles/nothing", 404, "no title"},
		{"bookmarks", "PUT", "/members/m00042/titles/nothing?at=-1", 404, "no title"},
		{"catalog", "GET", "/rows/popular?limit=3", 200, `"titles":[{`},
		{"catalog", "GET", "/rows/popular?limit=1000", 400, "limit"},
		{"catalog", "GET", "/rows/x", 404, "no row"},
		{"catalog", "GET", "/titles/x", 404, "no title"},
		{"catalog", "GET", "/shelves?rows=drama,x&titles=x", 200, `"titles":[]`},
		{"catalog", "GET", "/shelves?maturity=99", 400, "maturity"},
	} {
		calls := ipc.New(ipc.Options{App: c.service, Lists: ipc.Static{}})
		rec := httptest.NewRecorder()
		handlers()[c.service](calls, nil).ServeHTTP(rec, httptest.NewRequest(c.method, c.path, nil))
		calls.Close()
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.want) {
			t.Errorf("%s: %s %s: got %d %s, want %d with %q", c.service, c.method, c.path, rec.Code, rec.Body, c.status, c.want)
		}
	}
}

func TestPagesForPeopleShowFallbacksAndAskForNothingElse(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	d := startDemo(t)
	outside := regexp.MustCompile(`(?i)(src|href|url|action)\s*[=(]\s*"?(https?:)?//`)
	link := regexp.MustCompile(`href="([^"]*)"`)
	films := newCatalogue()
	s, _ := films.shelf("popular", 7, 0, 1)
	paths := []string{"/", "/browse/drama", "/play/" + s.Titles[0].ID}
	for _, whole := range []bool{true, false} {
		if !whole {
			d.stop(optional...)
		}
		for _, path := range paths {
			status, body, h := get1(t, d.api+path, "", "text/html,*/*")
			if status != http.StatusOK || !strings.HasPrefix(h.Get("Content-Type"), "text/html") || !strings.HasSuffix(body, "</html>") {
				t.Fatalf("%s: got %d, %s, %.200s", path, status, h.Get("Content-Type"), body)
			}
			if bad := outside.FindString(body); bad != "" || strings.Contains(body, "<script") {
				t.Errorf("%s asks for something outside itself: %q", path, bad)
			}
			if got := strings.Contains(body, "are fallbacks"); got == whole && path != "/browse/drama" {
				t.Errorf("%s with all services %v: page shows fallbacks %v", path, whole, got)
			}
			// Links must hold behind an edge that serves api under a prefix.
			base, _ := url.Parse("http://edge/api" + path)
			for _, m := range link.FindAllStringSubmatch(body, -1) {
				if strings.HasPrefix(m[1], "data:") {
					continue
				}
				to, err := base.Parse(m[1])
				if err != nil || !strings.HasPrefix(to.Path, "/api/") {
					t.Errorf("%s links to %q, which is %v", path, m[1], to)
				}
			}
		}
	}
	if status, body, _ := get1(t, d.api+"/play/nothing", "", "text/html"); status != 404 || !strings.Contains(body, "<h1>Not Found</h1>") {
		t.Errorf("page of a title that is not there: got %d %.300s", status, body)
	}
	if status, body, _ := get1(t, d.api+"/?member=m00007", "", "text/html"); status != 200 || !strings.Contains(body, "?member=m00007") {
		t.Errorf("page of another member: got %d and links that forget who it is", status)
	}
	if status, body, _ := get1(t, d.api+"/", "", "application/json"); status != 200 || !strings.Contains(body, `"home"`) {
		t.Errorf("root for programs: got %d %s", status, body)
	}
}

func TestServicesAreThoseThatHaveAHandler(t *testing.T) {
	build := handlers()
	var critical []string
	instances := 0
	for _, s := range Services() {
		if build[s.Name] == nil || s.Why == "" {
			t.Errorf("service %s has no handler or no reason", s.Name)
		}
		instances += s.Instances
		if s.Criticality == roadbed.Critical {
			critical = append(critical, s.Name)
		}
	}
	if len(build) != len(Services()) || instances != 17 || strings.Join(critical, " ") != "api playback catalog members" {
		t.Errorf("got %d handlers, %d services, %d instances, critical %v", len(build), len(Services()), instances, critical)
	}
	if err := Serve(t.Context(), "nothing"); err == nil || !strings.Contains(err.Error(), "recommendations") {
		t.Errorf("Serve nothing: got %v, want an error that lists the services", err)
	}
}

// BenchmarkHome is one member's home page through all services: six requests over loopback sockets in one process, so
// that ns/op is the time, and user-µs/op the processor, of all of them and the client together.
func BenchmarkHome(b *testing.B) { benchmark(b, func(int) string { return "/home" }) }

// BenchmarkPlay is one press of play.
func BenchmarkPlay(b *testing.B) {
	films := newCatalogue()
	s, _ := films.shelf("popular", 7, 0, 20)
	benchmark(b, func(n int) string { return "/play/" + s.Titles[n%len(s.Titles)].ID })
}

// BenchmarkBrowse is one row at length.
func BenchmarkBrowse(b *testing.B) { benchmark(b, func(int) string { return "/browse/popular" }) }

func benchmark(b *testing.B, path func(int) string) {
	defer http.DefaultClient.CloseIdleConnections()
	d := startDemo(b)
	b.ReportAllocs()
	begin := cpu(b)
	n := 0
	for b.Loop() {
		n++
		if status, body, _ := get1(b, d.api+path(n), memberID(1+n%payingCount), ""); status != http.StatusOK {
			b.Fatalf("got %d %s", status, body)
		}
	}
	b.ReportMetric(float64((cpu(b)-begin).Microseconds())/float64(n), "cpu-µs/op")
}
