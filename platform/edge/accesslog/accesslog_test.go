package accesslog

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newLog(t testing.TB, file string, props ...string) *Log {
	t.Helper()
	over := map[string]string{}
	for i := 0; i < len(props); i += 2 {
		over[props[i]] = props[i+1]
	}
	return New(Config{File: file, Region: "eu-west-1", Properties: config.New(config.Options{Override: over}), Meter: meter.New(nil), Log: slog.New(slog.DiscardHandler)})
}

var (
	client = &filter.Client{Remote: netip.MustParseAddrPort("192.0.2.1:1234")}
	plan   = &filter.Plan{Route: "shop"}
)

// usual fills x with a request that was answered.
func usual(x *filter.Exchange) {
	x.Client, x.From, x.ID, x.Plan, x.App, x.Priority = client, client.Remote.Addr(), "3f2a9c0011223344", plan, "cart", 50
	q := &x.Request
	q.Method, q.Scheme, q.Host, q.Path, q.RawQuery, q.Proto = "GET", "http", "shop.example.com", "/cart", "item=7&token=hunter2", 11
	q.Header.Add("User-Agent", "curl/8.14.1")
	q.Header.Add("Authorization", "Bearer hunter2")
	q.Header.Add("Cookie", "session=hunter2")
	x.Response.Status = 200
	x.Response.Header.Add("Content-Type", "application/json")
	x.Response.Header.Add("Set-Cookie", "session=hunter2")
	x.Attempts = append(x.Attempts, filter.Attempt{Number: 1, Status: 200})
	x.Read, x.Written = 3, 512
	x.SetCategory(filter.Success, "")
	if x.Start == 0 {
		x.Start = filter.Now()
	}
}

// line returns the log's last line, read as JSON.
func line(t testing.TB, l *Log) map[string]any {
	t.Helper()
	all := l.Latest(1)
	if len(all) != 1 {
		t.Fatal("there is no line")
	}
	var m map[string]any
	if err := json.Unmarshal(all[0], &m); err != nil {
		t.Fatalf("%s: %v", all[0], err)
	}
	return m
}

func TestALineTellsWhatBecameOfARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t, "")
		var x filter.Exchange
		x.Start = filter.Now()
		time.Sleep(12345 * time.Microsecond)
		usual(&x)
		l.Finished(&x)
		got := line(t, l)
		want := map[string]any{
			"ts": "2000-01-01T00:00:00.000Z", "id": "3f2a9c0011223344", "client": "192.0.2.1", "method": "GET", "host": "shop.example.com", "path": "/cart", "proto": "1.1",
			"status": 200., "category": "SUCCESS", "bytesIn": 3., "bytes": 512., "ms": 12.345, "route": "shop", "origin": "cart", "attempts": 1., "priority": 50.,
			"region": "eu-west-1", "agent": "curl/8.14.1", "headers": map[string]any{"content-type": "application/json"},
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}

		usual(&x)
		x.Plan, x.App, x.Priority, x.Err, x.User, x.Trace = nil, "", 0, errors.New(`"x" broke`), "ada", "4bf92f3577b34da6a3ce929d0e0e4736"
		x.Attempts = []filter.Attempt{{Number: 1, Status: 503, Error: "ORIGIN_SERVICE_UNAVAILABLE"}, {Number: 2, Status: 200}}
		x.Client = &filter.Client{TLS: &tls.ConnectionState{Version: tls.VersionTLS13}}
		x.Request.Proto = 20
		l.Finished(&x)
		got = line(t, l)
		if tries, _ := got["tries"].([]any); got["tls"] != "1.3" || got["proto"] != "2.0" || got["attempts"] != 2. || len(tries) != 2 || got["error"] != `"x" broke` || got["user"] != "ada" || got["trace"] != "4bf92f3577b34da6a3ce929d0e0e4736" || got["route"] != nil {
			t.Errorf("got %v", got)
		}
	})
}

func TestATakenOverConnectionIsTimedToItsEnd(t *testing.T) {
	for _, c := range []struct {
		took func(net.Conn, []byte)
		ms   float64
	}{{nil, 1}, {func(net.Conn, []byte) {}, 60_001}} {
		synctest.Test(t, func(t *testing.T) {
			l := newLog(t, "")
			var x filter.Exchange
			usual(&x)
			x.Response.Takeover = c.took
			time.Sleep(time.Millisecond)
			x.Passport.Add(filter.OutRespLastContentSent)
			if c.took != nil {
				time.Sleep(time.Minute)
			}
			l.Finished(&x)
			if got := line(t, l)["ms"]; got != c.ms {
				t.Errorf("taken over %v: got %v ms, want %v", c.took != nil, got, c.ms)
			}
		})
	}
}

func TestARequestThatItsEngineRefusedIsTold(t *testing.T) {
	l := newLog(t, "")
	x := filter.Exchange{Client: client, Start: filter.Now()}
	x.Response.Status = 400
	x.SetCategory(filter.FailureBadRequest, "bare LF")
	l.Finished(&x)
	clients, paths := l.Top(5)
	if got := line(t, l); got["client"] != "192.0.2.1" || got["status"] != 400. || len(clients) != 1 || clients[0].Name != "192.0.2.1" || len(paths) != 0 {
		t.Errorf("got %v, talkers %v and %v", got, clients, paths)
	}
}

func TestSecretsAreNeverTold(t *testing.T) {
	for _, tt := range []struct{ mask, query, want string }{
		{"", "item=7&token=hunter2", ""},
		{"token", "item=7&token=hunter2", "item=7&token=*"},
		{"token,Key", "TOKEN=hunter2&k%65y=hunter2&key&x=1", "TOKEN=*&k%65y=*&key&x=1"},
		{"token", "token=a=hunter2&&=", "token=*&&="},
		{"token", "q=" + strings.Repeat("x", 600), "q=" + strings.Repeat("x", 510)},
	} {
		var props []string
		if tt.mask != "" {
			props = []string{"edge.log.maskquery", tt.mask}
		}
		l := newLog(t, "", append(props, "zuul.access.log.responseheaders", "Set-Cookie,Authorization,content-type")...)
		var x filter.Exchange
		usual(&x)
		x.Request.RawQuery = tt.query
		l.Finished(&x)
		if got, _ := line(t, l)["query"].(string); got != tt.want || strings.Contains(string(l.Latest(1)[0]), "hunter2") {
			t.Errorf("mask %q, query %q: got %q in %s", tt.mask, tt.query, got, l.Latest(1)[0])
		}
	}
}

func TestALineIsJSONWhateverClientsSend(t *testing.T) {
	l := newLog(t, "", "edge.log.maskquery", "token")
	nasty := "\"\\\n\x00\x7f\xff\u2028é😀" + strings.Repeat("x", 3000)
	var x filter.Exchange
	usual(&x)
	x.Request.Method, x.Request.Host, x.Request.Path, x.Request.RawQuery, x.ID, x.App, x.User = nasty, nasty, nasty, nasty, nasty, nasty, nasty
	x.Request.Header.Set("User-Agent", nasty)
	x.Response.Header.Set("Content-Type", nasty)
	x.Err = errors.New(nasty)
	l.Finished(&x)
	got := line(t, l)
	if got["status"] != 200. {
		t.Errorf("got %v", got)
	}
	for name, most := range map[string]int{"method": 32, "host": 255, "path": 512, "user": 64, "agent": 512, "error": 1024} {
		if n := len(got[name].(string)); n > most+8 { // what is no UTF-8 takes three bytes
			t.Errorf("%s has %d bytes, want %d at most", name, n, most)
		}
	}
}

func TestTheFileHasALineForEachRequest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.log")
	l := newLog(t, file)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			var x filter.Exchange
			for i := range 2000 {
				x.Reset()
				usual(&x)
				x.ID = fmt.Sprintf("%d-%d-0000000000", g, i)
				l.Finished(&x)
			}
		})
	}
	wg.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range bytes.Lines(text) {
		var e struct{ ID string }
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		seen[e.ID] = true
	}
	if dropped := l.dropped.Count(); len(seen)+int(dropped) != 8000 {
		t.Errorf("got %d lines and %d dropped, want 8000 in all", len(seen), dropped)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v; want 0600", st.Mode(), err)
	}
}

func TestARequestNeverWaitsForTheDisk(t *testing.T) {
	l := newLog(t, filepath.Join(t.TempDir(), "never written"))
	var x filter.Exchange
	usual(&x)
	for range 2 * bufferSize / 300 {
		l.Finished(&x)
	}
	if l.dropped.Count() == 0 {
		t.Errorf("nobody writes, and %d bytes of lines are held", len(l.lines))
	}
	if len(l.lines) > bufferSize || cap(l.lines) > bufferSize {
		t.Errorf("the buffer has grown to %d bytes", cap(l.lines))
	}
}

func TestAFileThatCannotBeOpenedIsAnErrorAtOnce(t *testing.T) {
	l := newLog(t, filepath.Join(t.TempDir(), "no such directory", "access.log"))
	if err := l.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "open the access log") {
		t.Errorf("got %v", err)
	}
}

func TestALargeFileIsTurnedOver(t *testing.T) {
	name := filepath.Join(t.TempDir(), "access.log")
	f, err := open(name)
	if err != nil {
		t.Fatal(err)
	}
	f.size = rotateAt - 3
	for _, s := range []string{"old\n", "new\n"} {
		if _, err := f.write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	f.close()
	old, _ := os.ReadFile(name + ".1")
	now, _ := os.ReadFile(name)
	if string(old) != "old\n" || string(now) != "new\n" {
		t.Errorf("got %q and %q", old, now)
	}
}

func TestLinesOfAFileThatCannotBeTurnedOverAreNotLost(t *testing.T) {
	name := filepath.Join(t.TempDir(), "access.log")
	if err := os.MkdirAll(filepath.Join(name+".1", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	f.size = rotateAt
	for range 2 {
		if n, err := f.write([]byte("line\n")); n != 5 {
			t.Errorf("got %d, %v, want all 5 bytes written", n, err)
		}
	}
	if b, err := os.ReadFile(name); string(b) != "line\nline\n" || err != nil {
		t.Errorf("the file has %q, %v", b, err)
	}
}

func TestSlowRequestsAreKeptWithTheirPassports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t, "", "zuul.passport.log.request.time.threshold", "2s", "zuul.passport.log.response.time.threshold", "3s")
		serve := func(head, body time.Duration, alter func(*filter.Exchange)) bool {
			before := len(l.Slow(100))
			var x filter.Exchange
			x.Start = filter.Now()
			x.Passport.AddAt(filter.InReqHeadersReceived, x.Start)
			time.Sleep(head)
			usual(&x)
			x.Passport.Add(filter.OutRespHeadersSending)
			if alter != nil {
				alter(&x)
			}
			time.Sleep(body)
			l.Finished(&x)
			return len(l.Slow(100)) > before
		}
		for _, tt := range []struct {
			name       string
			head, body time.Duration
			alter      func(*filter.Exchange)
			want       bool
		}{
			{"quick", 0, 0, nil, false},
			{"almost slow, twice", 1999 * time.Millisecond, 2999 * time.Millisecond, nil, false},
			{"slow to begin", 2 * time.Second, 0, nil, true},
			{"slow to end", 0, 3 * time.Second, nil, true},
			{"an event stream", 0, time.Hour, func(x *filter.Exchange) { x.Response.Header.Set("Content-Type", "text/event-stream") }, false},
			{"never answered", time.Second, 2 * time.Second, func(x *filter.Exchange) { x.Passport.Reset() }, true},
			{"debugged", 0, 0, func(x *filter.Exchange) { x.Debug = true }, true},
		} {
			if got := serve(tt.head, tt.body, tt.alter); got != tt.want {
				t.Errorf("%s: kept as slow: %v, want %v", tt.name, got, tt.want)
			}
		}
		serve(5*time.Second, 0, nil)
		var last struct{ Passport string }
		if err := json.Unmarshal(l.Slow(1)[0], &last); err != nil || !strings.Contains(last.Passport, "+0=IN_REQ_HEADERS_RECEIVED, +5000000000=OUT_RESP_HEADERS_SENDING") {
			t.Errorf("got %q, %v", last.Passport, err)
		}
	})
}

func TestOnlyTheLatestRequestsAreKept(t *testing.T) {
	l := newLog(t, "")
	var x filter.Exchange
	for i := range keptLatest + 10 {
		usual(&x)
		x.ID = fmt.Sprint(i)
		l.Finished(&x)
		x.Reset()
	}
	all := l.Latest(10_000)
	if len(all) != keptLatest || !strings.Contains(string(all[0]), fmt.Sprintf(`"id":"%d"`, keptLatest+9)) || !strings.Contains(string(all[keptLatest-1]), `"id":"10"`) {
		t.Errorf("got %d, the first %s", len(all), all[0])
	}
}

func TestRequestsAreTimedByRouteOriginStatusAndCategory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meter.New(nil)
		l := New(Config{Meter: m})
		for range 3 {
			var x filter.Exchange
			usual(&x)
			time.Sleep(100 * time.Millisecond)
			l.Finished(&x)
		}
		var x filter.Exchange
		usual(&x)
		x.Plan, x.App, x.Response.Status = nil, "", 404
		x.SetCategory(filter.SuccessLocalNoRoute, "")
		l.Finished(&x)
		s := m.PercentileTimer("edge.request.duration", "edge.route", "shop", "edge.origin", "cart", "edge.status", "2xx", "status.category", "SUCCESS").Snapshot()
		if s.Count != 3 || s.Total != 300*time.Millisecond {
			t.Errorf("shop: got %d in %v, want 3 in 300 ms", s.Count, s.Total)
		}
		if s := m.PercentileTimer("edge.request.duration", "edge.route", "none", "edge.status", "4xx", "status.category", "SUCCESS_LOCAL_NO_ROUTE").Snapshot(); s.Count != 1 {
			t.Errorf("without a route: got %d, want 1", s.Count)
		}
	})
}

func TestRoutesThatComeAndGoDoNotMakeSeriesWithoutEnd(t *testing.T) {
	l := New(Config{})
	for i := range mostSeries + 500 {
		l.timers.add(series{route: fmt.Sprint(i)})
	}
	if n := len(*l.timers.known.Load()); n > mostSeries+10 {
		t.Errorf("got %d series", n)
	}
}

func TestWhoAsksMostIsFoundAmongMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t, "")
		r := rand.New(rand.NewSource(1))
		var x filter.Exchange
		serve := func(addr netip.Addr, path string, failed bool) {
			usual(&x)
			x.From, x.Request.Path, x.Read, x.Written = addr, path, 0, 1000
			if failed {
				x.SetCategory(filter.FailureOrigin, "")
			}
			l.Finished(&x)
			x.Reset()
		}
		// A minute with one client of 20 requests a second, one of 10 that all fail, and 100 a second that come once.
		for range 60 * 10 {
			time.Sleep(100 * time.Millisecond)
			for range 2 {
				serve(netip.MustParseAddr("198.51.100.1"), "/hot", false)
			}
			serve(netip.MustParseAddr("198.51.100.2"), "/failing", true)
			for range 10 {
				serve(netip.AddrFrom4([4]byte{10, byte(r.Intn(256)), byte(r.Intn(256)), byte(r.Intn(256))}), fmt.Sprint("/once/", r.Int()), false)
			}
		}
		clients, paths := l.Top(2)
		if len(clients) != 2 || clients[0].Name != "198.51.100.1" || clients[1].Name != "198.51.100.2" || paths[0].Name != "/hot" || paths[1].Name != "/failing" {
			t.Fatalf("got %v and %v", clients, paths)
		}
		// Of a minute, three quarters count: 15 of 20. What was taken over adds to that.
		if c := clients[0]; c.Requests < 14 || c.Requests > 19 || c.Bytes < 14_000 || c.Failed != 0 || clients[1].Failed != 1 {
			t.Errorf("got %+v", clients)
		}
		time.Sleep(30 * time.Minute)
		serve(netip.MustParseAddr("198.51.100.3"), "/later", false)
		if clients, _ := l.Top(10); len(clients) != 1 || clients[0].Name != "198.51.100.3" {
			t.Errorf("half an hour later: got %v, want the only one who asked since", clients)
		}
	})
}

func TestTheAPIShowsLatestSlowAndTop(t *testing.T) {
	l := newLog(t, "")
	for i := range 3 {
		var x filter.Exchange
		usual(&x)
		x.Debug = i == 1
		x.ID = fmt.Sprint("request-", i)
		l.Finished(&x)
	}
	s := api.New("test", "1")
	l.Mount(s)
	srv := httptest.NewServer(s)
	defer srv.Close()
	for path, want := range map[string][]string{
		"/api/v1/edge/requests?limit=2":      {"request-2", "request-1"},
		"/api/v1/edge/requests":              {"request-2", "request-1", "request-0"},
		"/api/v1/edge/passport?slow=1":       {"request-1"},
		"/api/v1/edge/passport?slow=0":       {"request-2", "request-1", "request-0"},
		"/api/v1/edge/top":                   nil,
		"/api/v1/edge/requests?limit=999999": nil,
	} {
		resp, err := srv.Client().Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		var top Top
		var list []struct{ ID string }
		switch {
		case strings.HasSuffix(path, "999999"):
			if resp.StatusCode != 422 {
				t.Errorf("%s: got %d, want 422", path, resp.StatusCode)
			}
		case want == nil:
			if err := json.Unmarshal(text, &top); err != nil || len(top.Clients) != 1 || top.Clients[0].Name != "192.0.2.1" || top.Paths[0].Name != "/cart" {
				t.Errorf("%s: got %s, %v", path, text, err)
			}
		default:
			err := json.Unmarshal(text, &list)
			var ids []string
			for _, e := range list {
				ids = append(ids, e.ID)
			}
			if err != nil || !slices.Equal(ids, want) {
				t.Errorf("%s: got %v of %s, %v; want %v", path, ids, text, err, want)
			}
		}
	}
}

func TestAFinishedRequestCostsNoAllocation(t *testing.T) {
	for name, props := range map[string][]string{"": nil, "with its query": {"edge.log.maskquery", "token"}} {
		l := newLog(t, filepath.Join(t.TempDir(), "log"), props...)
		var x filter.Exchange
		usual(&x)
		for range keptLatest {
			l.Finished(&x)
		}
		if n := testing.AllocsPerRun(1000, func() { l.Finished(&x) }); n != 0 {
			t.Errorf("%s: got %v allocations, want none", name, n)
		}
	}
}

func TestAllCategoriesFitIntoALine(t *testing.T) {
	l := newLog(t, "")
	seen := map[string]bool{}
	for c := filter.Unset; c <= filter.FailureDeadline; c++ {
		var x filter.Exchange
		usual(&x)
		x.SetCategory(c, "")
		l.Finished(&x)
		seen[line(t, l)["category"].(string)] = true
	}
	if len(seen) < 20 {
		t.Errorf("got %v", slices.Sorted(maps.Keys(seen)))
	}
}

func BenchmarkFinished(b *testing.B) {
	l := newLog(b, filepath.Join(b.TempDir(), "log"))
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	var x filter.Exchange
	usual(&x)
	b.ReportAllocs()
	for b.Loop() {
		x.Start = filter.Now()
		l.Finished(&x)
	}
	cancel()
	<-done
}

func TestAFileThatCannotBeTurnedOverDoesNotFillTheDisk(t *testing.T) {
	name := filepath.Join(t.TempDir(), "access.log")
	block := filepath.Join(name+".1", "in the way")
	if err := os.MkdirAll(block, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	f.size = mostAt
	if n, err := f.write([]byte("line\n")); n != 0 || err == nil || !strings.Contains(err.Error(), "is full") {
		t.Errorf("beyond %d bytes: got %d, %v; want none written, and why", mostAt, n, err)
	}
	if err := os.RemoveAll(name + ".1"); err != nil {
		t.Fatal(err)
	}
	if n, err := f.write([]byte("line\n")); n != 5 || err != nil {
		t.Errorf("once nothing is in the way: got %d, %v; want all 5 bytes", n, err)
	}
}
