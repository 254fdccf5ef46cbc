//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const wrkSays = `Running 5s test @ http://127.0.0.1:18101/shop/500
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.21ms    1.02ms  23.88ms   94.21%
    Req/Sec    51.43k     3.26k   56.02k    82.00%
  Latency Distribution
     50%    1.08ms
     75%    1.33ms
     90%    1.66ms
     99%    4.85ms
  255926 requests in 5.01s, 289.22MB read
Requests/sec:  51080.32
Transfer/sec:     57.73MB
`

func TestWhatWrkPrintsIsRead(t *testing.T) {
	r, err := parseWrk(wrkSays)
	if err != nil || r != (report{answers: 255926, took: 5010 * time.Millisecond, p99: 4850 * time.Microsecond}) {
		t.Errorf("got %+v, %v; want 255926 answers in 5.01s with p99 4.85ms", r, err)
	}
	r, err = parseWrk(strings.NewReplacer("4.85ms", "312.00us", "5.01s", "1.01m").Replace(wrkSays))
	if err != nil || r.p99 != 312*time.Microsecond || r.took != 60600*time.Millisecond {
		t.Errorf("other units: got %+v, %v; want p99 312us, took 1m0.6s", r, err)
	}
}

func TestOneWrongAnswerFailsAComparison(t *testing.T) {
	for _, wrong := range []string{"  Non-2xx or 3xx responses: 1\n", "  Socket errors: connect 0, read 0, write 0, timeout 3\n"} {
		if _, err := parseWrk(wrkSays + wrong); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(wrong)) {
			t.Errorf("with %q: got %v, want an error that says so", wrong, err)
		}
	}
	for _, out := range []string{"", "unable to connect to 127.0.0.1:1 Connection refused", strings.Replace(wrkSays, "255926", "0", 1)} {
		if _, err := parseWrk(out); err == nil {
			t.Errorf("%q was taken for a result", out)
		}
	}
}

func TestOneRequestThatIsNotRefusedFailsAMeasureOfRefusals(t *testing.T) {
	if r, err := parseRefused(wrkSays + "  Non-2xx or 3xx responses: 255926\n"); err != nil || r.answers != 255926 {
		t.Errorf("all refused: got %+v, %v; want 255926 answers", r, err)
	}
	for _, end := range []string{"", "  Non-2xx or 3xx responses: 255925\n", "  Non-2xx or 3xx responses: 255926\n  Socket errors: connect 0, read 1, write 0, timeout 0\n"} {
		if _, err := parseRefused(wrkSays + end); err == nil {
			t.Errorf("with %q: no error", end)
		}
	}
}

func TestTheMedianOfEachFigureCounts(t *testing.T) {
	got := median([]figures{{12, 50_000, 3}, {14, 70_000, 1}, {90, 10_000, 2}})
	if got != (figures{14, 50_000, 2}) {
		t.Errorf("got %+v, want each figure's own median: 14, 50000, 2", got)
	}
}

func TestMissedBarsAreCountedAndShown(t *testing.T) {
	var tab table
	tab.compare("CPU time", map[string]float64{"roadbed": 12, "nginx": 10, "HAProxy": 10, "Caddy": 100}, map[string]float64{"nginx": 1.15, "Caddy": 0.15, "ReverseProxy": 0.4})
	tab.tell("requests a second", map[string]float64{"roadbed": 51080, "nginx": 47000})
	var out strings.Builder
	if n := tab.print(&out); n != 1 {
		t.Errorf("got %d bars missed, want nginx's alone:\n%s", n, out.String())
	}
	for _, want := range []string{
		"| CPU time | 12.0 | 10.0; ours is 1.20 of it, MISSED (≤ 1.15) | 10.0; ours is 1.20 of it |  | 100; ours is 0.12 of it, reached (≤ 0.15) |  |\n",
		"| requests a second | 51,080 | 47,000 |  |  |  |  |\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got\n%s\nwant the line %s", out.String(), want)
		}
	}
}

func TestRoutesAreAsManyAsAskedInPiecesThatFit(t *testing.T) {
	docs, err := documents(manyRoutes(10_000))
	if err != nil {
		t.Fatal(err)
	}
	ids, with := map[string]bool{}, 0
	for i, doc := range docs {
		if len(doc) > 64<<10 {
			t.Errorf("document %d has %d bytes, more than a property may", i+1, len(doc))
		}
		var routes []struct {
			ID      string
			Filters []any
		}
		if err := json.Unmarshal([]byte(doc), &routes); err != nil {
			t.Fatalf("document %d: %v", i+1, err)
		}
		for _, r := range routes {
			ids[r.ID] = true
			if len(r.Filters) == 10 {
				with++
			}
		}
	}
	if len(ids) != 10_000 || with != 1 {
		t.Errorf("got %d routes, %d of them with ten filters; want 10000, and the one of %s", len(ids), with, path)
	}
}

const h2loadSays = `starting benchmark...
spawning thread #0: 64 total client(s). Timing-based test with 0s of warm-up time and 2s of main duration for measurements.
TLS Protocol: TLSv1.3
Cipher: TLS_AES_256_GCM_SHA384
Server Temp Key: X25519 253 bits
Application protocol: h2

finished in 2.00s, 43380.00 req/s, 46.94MB/s
requests: 86760 total, 87400 started, 86760 done, 86760 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 86824 2xx, 0 3xx, 0 4xx, 0 5xx
`

func TestWhatH2loadPrintsIsRead(t *testing.T) {
	if r, err := parseH2load(h2loadSays); err != nil || r.answers != 86760 {
		t.Errorf("got %+v, %v; want 86760 answers", r, err)
	}
	for _, change := range [][2]string{
		{"86760 succeeded, 0 failed", "86759 succeeded, 1 failed"}, {"0 errored", "1 errored"}, {"0 timeout", "2 timeout"},
		{"Application protocol: h2", "Application protocol: http/1.1"}, {"86760 done, 86760 succeeded", "0 done, 0 succeeded"}, {"requests:", ""},
	} {
		if r, err := parseH2load(strings.Replace(h2loadSays, change[0], change[1], 1)); err == nil {
			t.Errorf("with %q for %q: got %+v, want an error", change[1], change[0], r)
		}
	}
}

func TestTheSlowSideReadsAllAtItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = pace / 2
		began := time.Now()
		got, err := slowly(io.LimitReader(zeros{}, n))
		if took := time.Since(began); got != n || err != nil || took != time.Second/2 {
			t.Errorf("got %d bytes, %v after %v; want %d after half a second", got, err, took, n)
		}
	})
}

func TestAShortBodyIsNoticed(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(large))
	defer srv.Close()
	if err := download(srv.URL+"/?x=1", 1<<20); err != nil {
		t.Errorf("a whole download: %v", err)
	}
	if err := upload(srv.URL+"/?x=1", 1<<20); err != nil {
		t.Errorf("a whole upload: %v", err)
	}
	less := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "short") }))
	defer less.Close()
	if err := download(less.URL, 1<<20); err == nil || !strings.Contains(err.Error(), "got 5 bytes of 1048576") {
		t.Errorf("a short download: got %v, want an error that says how short", err)
	}
	if upload(less.URL, 1<<20) == nil {
		t.Error("an upload that did not arrive was taken for one that did")
	}
}

func TestAPartThatCannotBeMeasuredIsABarMissed(t *testing.T) {
	var tab table
	tab.keep("MiB", 0.5, 1)
	tab.reach("%", 99.95, 99.9)
	tab.fail("pushed", errors.New("the edge says 404\nand more"))
	tab.keep("MiB", 1.5, 1)
	tab.reach("%", 99.8, 99.9)
	var out strings.Builder
	if n := tab.print(&out); n != 3 {
		t.Errorf("got %d bars missed, want 3:\n%s", n, out.String())
	}
	if want := "| pushed | MISSED: the edge says 404 |"; !strings.Contains(out.String(), want) {
		t.Errorf("got\n%s\nwant a line with %s", out.String(), want)
	}
}

func TestWhoIsAnsweredUnderOverloadIsCounted(t *testing.T) {
	g := gale{
		{at: 0, importance: 1, status: 200, took: time.Hour}, // before it counts
		{at: time.Second, importance: 1, status: 200, took: 2 * time.Millisecond},
		{at: time.Second, importance: 30, status: 503, took: time.Minute},
		{at: time.Second, importance: 31, status: 200, took: 3 * time.Millisecond},
		{at: time.Second, importance: 100},
	}
	vital, all := g.count(time.Second)
	if vital != (tally{2, 1}) || all != (tally{4, 2}) {
		t.Errorf("got %+v of CRITICAL, %+v of all; want 1 of 2, 2 of 4", vital, all)
	}
	if p := g.p99(time.Second); p != 2*time.Millisecond && p != 3*time.Millisecond {
		t.Errorf("got p99 %v, want that of successes after the first second", p)
	}
}

func TestAStormIsOfEveryImportance(t *testing.T) {
	var seen [101]atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.Header.Get("X-Edge-Priority"))
		if err != nil || n < 1 || n > 100 {
			t.Errorf("importance %q, want 1 to 100", r.Header.Get("X-Edge-Priority"))
			return
		}
		seen[n].Add(1)
	}))
	defer srv.Close()
	_, all := storm(srv.URL, 2000, 100*time.Millisecond).count(0)
	if all != (tally{200, 200}) {
		t.Errorf("got %+v, want 200 requests, all answered", all)
	}
	for n := 1; n <= 100; n++ {
		if got := seen[n].Load(); got != 2 {
			t.Errorf("importance %d came %d times, want twice", n, got)
		}
	}
}

func TestHeldClientsAreWebSocketsWithNames(t *testing.T) {
	var names sync.Map
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		if r.URL.Path != "/ws" || r.Header.Get("Upgrade") != "websocket" || !strings.HasPrefix(host, "127.1.") {
			http.Error(w, "no", http.StatusTeapot)
			return
		}
		names.Store(r.Header.Get("X-Who"), host)
		w.WriteHeader(http.StatusSwitchingProtocols)
	}))
	defer srv.Close()
	at := netip.MustParseAddrPort(srv.Listener.Addr().String())
	for _, i := range []int{0, clientsByIP} {
		fd, err := holdClient(at, i)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fd)
	}
	a, _ := names.Load("client-000000")
	z, ok := names.Load(name(clientsByIP))
	if !ok || a == z || a != "127.1.0.1" {
		t.Errorf("clients 0 and %d came from %v and %v, want two addresses", clientsByIP, a, z)
	}
}

func TestPartsThatAreNotThereAreToldAndNotLeftOut(t *testing.T) {
	for _, only := range []string{"besides", "beside secure", "beside,x"} {
		if _, err := (&bench{}).run(only); err == nil || !strings.Contains(err.Error(), "there is no such part") {
			t.Errorf("-only %q: got %v, want an error that says so", only, err)
		}
	}
}

func TestClientsAreSpreadOverEdgesOrItIsSaidWhyNot(t *testing.T) {
	for _, tt := range []struct {
		clients     int
		files       uint64
		edges, each int
		says        string
	}{
		{100_000, 20_000, 6, 16_667, ""},
		{1000, 1 << 40, 1, 1000, ""},
		{100_000, 500, 0, 0, "too few to hold clients"},
		{100_000, 100, 0, 0, "too few to hold clients"},
		{0, 20_000, 0, 0, "ask for more than 200"},
		{200, 20_000, 0, 0, "ask for more than 200"},
		{202, 701, 0, 0, "ask for more than 400"},
	} {
		edges, each, err := spread(tt.clients, tt.files)
		if edges != tt.edges || each != tt.each || (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%d clients where a process may open %d files: got %d edges with %d each, %v; want %d, %d, %q", tt.clients, tt.files, edges, each, err, tt.edges, tt.each, tt.says)
		}
	}
}
