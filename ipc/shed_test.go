package ipc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/meter"
)

// requestWith makes a request with headers.
func requestWith(headers ...string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

// serve returns what h answers.
func serve(h http.Handler, headers ...string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, requestWith(headers...))
	return w
}

// busy is a server whose handler keeps requests until they are released.
type busy struct {
	*Engine
	h       http.Handler
	release chan struct{}
	wg      sync.WaitGroup
}

// newBusy makes one with n requests in flight. Inside a bubble only.
func newBusy(t *testing.T, o Options, n int, headers ...string) *busy {
	t.Helper()
	return newBusyAt(t, o, reading{}, n, headers...)
}

// newBusyAt makes one whose machine is as busy as now says.
func newBusyAt(t *testing.T, o Options, now reading, n int, headers ...string) *busy {
	t.Helper()
	b := &busy{Engine: newTestEngine(t, o), release: make(chan struct{})}
	b.h = b.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/quick" {
			select {
			case <-b.release:
			case <-r.Context().Done():
			}
		}
	}))
	b.server.shed.sense = func() reading { return now }
	t.Cleanup(func() { close(b.release); b.wg.Wait() })
	for range n {
		b.wg.Go(func() {
			if w := serve(b.h, headers...); w.Code != 200 {
				t.Errorf("a request that should be in flight got %d: %s", w.Code, w.Body)
			}
		})
		synctest.Wait()
	}
	return b
}

// ask sends a request that is not kept.
func (b *busy) ask(headers ...string) int {
	r := requestWith(headers...)
	r.URL.Path = "/quick"
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, r)
	return w.Code
}

func TestTheLastPriorityFallsWithTheCubeOfTheLoad(t *testing.T) {
	set := builtInServer
	for _, tc := range [][2]float64{{0, 100}, {0.8, 100}, {0.94, 95.7}, {1.12, 48.8}, {1.18, 14.3}, {1.2, 0}, {5, 0}} {
		if got := lastPriority(&set, tc[0]); math.Abs(got-tc[1]) > 0.05 {
			t.Errorf("at a load of %v: got %v, want %v", tc[0], got, tc[1])
		}
	}
}

func TestTheMoreInFlightTheMoreImportantMustARequestBe(t *testing.T) {
	const crit, prio = HeaderCriticality, HeaderPriority
	for _, tc := range []struct {
		inFlight int // of a limit of 100, the request itself not counted
		refused  [][]string
		served   [][]string
	}{
		{79, nil, [][]string{{crit, "BULK", prio, "100"}}},
		{94, [][]string{{crit, "BULK"}, {prio, "100"}}, [][]string{{crit, "BEST_EFFORT"}, {crit, "bulk", prio, "90"}}},
		{107, [][]string{{crit, "BULK"}, {crit, "best-effort"}}, [][]string{{crit, "DEGRADED"}, {}}},
		{113, [][]string{{crit, "DEGRADED"}, {crit, "CRITICAL", prio, "41"}}, [][]string{{}, {crit, "CRITICAL"}, {crit, "DEGRADED", prio, "5"}}},
		{119, [][]string{{}, {prio, "1"}}, nil}, // the hard limit: 1.2 times the fixed one, and this one makes 121 of 120
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBusy(t, Options{Server: ServerSettings{Limit: LimitFixed, InitialLimit: 100}}, tc.inFlight, prio, "1")
			if tc.inFlight == 119 {
				b.wg.Go(func() { serve(b.h) }) // CRITICAL until twice the limit, but for the hard one
				synctest.Wait()
			}
			for _, h := range tc.refused {
				if got := b.ask(h...); got != 503 {
					t.Errorf("with %d in flight %v: got %d, want 503", tc.inFlight, h, got)
				}
			}
			for _, h := range tc.served {
				if got := b.ask(h...); got != 200 {
					t.Errorf("with %d in flight %v: got %d, want 200", tc.inFlight, h, got)
				}
			}
		})
	}
}

func TestBusyProcessorsRefuseTheLeastImportantButNothingCritical(t *testing.T) {
	for _, tc := range []struct {
		now    reading
		served string // of CRITICAL, DEGRADED, BEST_EFFORT and BULK
	}{
		{reading{cpu: 0.7}, "1111"},
		{reading{cpu: 0.82}, "1110"},
		{reading{cpu: 0.92}, "1100"},
		{reading{cpu: 1}, "1000"},
		{reading{cpu: 0.5, delay: 19 * time.Millisecond}, "1110"},
		{reading{cpu: 0.5, delay: 22 * time.Millisecond}, "1100"},
		{reading{cpu: 0.3, lately: 0.5, delay: time.Minute}, "1000"},
		{reading{cpu: 0.4, delay: time.Minute}, "1111"}, // others keep the processors busy
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBusyAt(t, Options{}, tc.now, 0)
			b.ask()
			time.Sleep(150 * time.Millisecond) // a reading
			got := ""
			for c := roadbed.Critical; c <= roadbed.Bulk; c++ {
				if b.ask(HeaderCriticality, c.String()) == 200 {
					got += "1"
				} else {
					got += "0"
				}
			}
			if got != tc.served {
				t.Errorf("%+v: served %s, want %s", tc.now, got, tc.served)
			}
			if b.ask(HeaderCriticality, "BULK", HeaderPriority, "3") != 200 {
				t.Errorf("%+v: priority 3 was refused", tc.now)
			}
		})
	}
}

func TestARefusalSaysWhatRefusedAndWhatToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meter.New(nil)
		b := newBusy(t, Options{App: "catalog", Meter: m, Server: ServerSettings{Limit: LimitFixed, InitialLimit: 10, RetryAfter: 3 * time.Second}}, 10)
		w := serve(b.h, HeaderCriticality, "BULK", HeaderRequestID, "req-7", HeaderCaller, "api")
		want := "catalog has too much to do: its limit on requests in flight is reached (ipc.server.limit), and more important ones than this, which is BULK, go first; try again after 3s\n"
		if w.Code != 503 || w.Body.String() != want {
			t.Errorf("got %d %q, want 503 %q", w.Code, w.Body, want)
		}
		for k, want := range map[string]string{"Retry-After": "3", HeaderNoRetry: "1", "X-Ipc-Error": "shed", HeaderRequestID: "req-7", "Content-Type": "text/plain; charset=utf-8"} {
			if got := w.Header().Get(k); got != want {
				t.Errorf("%s is %q, want %q", k, got, want)
			}
		}
		if got := m.Counter("ipc.shed", "ipc.criticality", "BULK", "ipc.reason", "limit").Count(); got != 1 {
			t.Errorf("ipc.shed counts %d, want 1", got)
		}
		if s := m.PercentileTimer("ipc.server.call", "ipc.status", "5xx", "ipc.caller", "api").Snapshot(); s.Count != 1 {
			t.Errorf("ipc.server.call counts %d, want 1", s.Count)
		}
		b.configure(slices.Index(prefixes[:], serverPrefix), properties{"ipc.server.shed.status": "429"})
		if got := b.ask(HeaderCriticality, "BULK"); got != 429 {
			t.Errorf("with shed.status=429: got %d", got)
		}
	})
}

// silent is a response's writer that allocates nothing.
type silent struct {
	h      http.Header
	status int
}

func (s *silent) Header() http.Header         { return s.h }
func (s *silent) Write(p []byte) (int, error) { return len(p), nil }
func (s *silent) WriteHeader(n int)           { s.status = n }

func TestARefusalAllocatesNothing(t *testing.T) {
	e := newTestEngine(t, Options{Meter: meter.New(nil), Server: ServerSettings{Limit: LimitFixed, InitialLimit: 1}})
	e.server.shed.limiter.Enter(1)
	e.server.shed.limiter.Enter(1)
	h := e.Handler(http.NotFoundHandler())
	r := requestWith(HeaderCriticality, "BULK", HeaderRequestID, "id", HeaderCaller, "api", HeaderTimeout, "100")
	w := &silent{h: http.Header{}}
	if got := testing.AllocsPerRun(200, func() { clear(w.h); h.ServeHTTP(w, r) }); got > 0 || w.status != 503 {
		t.Errorf("%v allocations for status %d, want 0 for 503", got, w.status)
	}
}

func TestAbsurdHeadersOfImportanceCountAsAbsent(t *testing.T) {
	m := meter.New(nil)
	e := newTestEngine(t, Options{Meter: m})
	var got int
	var crit roadbed.Criticality
	h := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, crit = PriorityOf(r.Context()), CriticalityOf(r.Context())
	}))
	for _, tc := range []struct {
		crit, prio string
		want       int
		malformed  int64
	}{
		{"", "", 10, 0}, {"DEGRADED", "", 40, 0}, {"best-effort", "", 70, 0}, {"Bulk", "", 95, 0}, {"BULK", "3", 3, 0}, {"", "100", 100, 0},
		{"", "0", 10, 1}, {"BULK", "101", 95, 1}, {"", "-1", 10, 1}, {"", "1e1", 10, 1}, {"", "99999999999999999999", 10, 1}, {"", "five", 10, 1},
		{"VERY", "", 10, 1}, {"\x00", "\xff", 10, 2}, {strings.Repeat("BULK", 1000), "", 10, 1},
	} {
		before := m.Counter("ipc.server.malformed").Count()
		serve(h, HeaderCriticality, tc.crit, HeaderPriority, tc.prio)
		if n := m.Counter("ipc.server.malformed").Count() - before; got != tc.want || n != tc.malformed {
			t.Errorf("criticality %.20q, priority %q: got priority %d (%v) and %d malformed, want %d and %d", tc.crit, tc.prio, got, crit, n, tc.want, tc.malformed)
		}
	}
	if got := PriorityOf(context.Background()); got != 10 {
		t.Errorf("outside a handler: got %d, want 10", got)
	}
}

func TestImportanceIsHandedOnAndOnlyLowered(t *testing.T) {
	var seen http.Header
	n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): func(r *http.Request) (*http.Response, error) {
		seen = r.Header
		return answer(200)(r)
	}}}
	e := newTestEngine(t, Options{Lists: Static{"app": instances("z", 1)}, Transport: n})
	h := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { get(e, r.Context(), "GET", "http://app/") }))
	for _, tc := range []struct {
		in       []string
		command  roadbed.Criticality
		crit, at string
	}{
		{nil, 0, "CRITICAL", ""},
		{[]string{HeaderPriority, "7"}, 0, "CRITICAL", "7"},
		{[]string{HeaderCriticality, "DEGRADED", HeaderPriority, "30"}, roadbed.Critical, "DEGRADED", "30"},
		{[]string{HeaderCriticality, "DEGRADED", HeaderPriority, "30"}, roadbed.Bulk, "BULK", ""},
		{[]string{HeaderPriority, "99"}, roadbed.BestEffort, "BEST_EFFORT", "99"},
	} {
		e.Command("app", Settings{Criticality: tc.command, Retries: -1})
		serve(h, tc.in...)
		if got, at := seen.Get(HeaderCriticality), seen.Get(HeaderPriority); got != tc.crit || at != tc.at {
			t.Errorf("%v through a command that is %v: handed on %s, %q; want %s, %q", tc.in, tc.command, got, at, tc.crit, tc.at)
		}
	}
}

func TestWhoHasAShareGetsItBeyondTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBusy(t, Options{Server: ServerSettings{
			Limit: LimitFixed, InitialLimit: 10, PartitionBy: PartitionByCaller, Partitions: "edge=0.3, batch=0.1", RejectDelay: 200 * time.Millisecond,
		}}, 9, HeaderPriority, "1")
		if got := b.ask(HeaderCaller, "edge", HeaderCriticality, "BULK"); got != 200 { // the tenth
			t.Errorf("edge within its share: got %d, want 200", got)
		}
		b.wg.Go(func() { serve(b.h, HeaderCaller, "batch") })
		synctest.Wait()
		began := time.Now()
		if got := b.ask(HeaderCaller, "batch", HeaderPriority, "20"); got != 503 || time.Since(began) != 200*time.Millisecond {
			t.Errorf("batch beyond its share: got %d after %s, want 503 after 200ms", got, time.Since(began))
		}
		if got := b.ask(HeaderCaller, "edge", HeaderCriticality, "BULK"); got != 200 {
			t.Errorf("edge within its share, the limit being reached: got %d, want 200", got)
		}
		if got := b.ask(HeaderCaller, "stranger", HeaderPriority, "20"); got != 503 {
			t.Errorf("a stranger: got %d, want 503", got)
		}
	})
}

func TestAQueueLetsRequestsWaitUntilTheirDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBusy(t, Options{Server: ServerSettings{Limit: LimitFixed, InitialLimit: 10, QueueSize: 5, QueueWait: 300 * time.Millisecond}}, 10)
		began := time.Now()
		if got := b.ask(HeaderCriticality, "BULK"); got != 503 || time.Since(began) != 300*time.Millisecond {
			t.Errorf("nothing becomes free: got %d after %s, want 503 after 300ms", got, time.Since(began))
		}
		began = time.Now()
		if got := b.ask(HeaderCriticality, "BULK", HeaderTimeout, "100"); got != 504 || time.Since(began) != 100*time.Millisecond {
			t.Errorf("the caller's time is up: got %d after %s, want 504 after 100ms", got, time.Since(began))
		}
		began = time.Now()
		time.AfterFunc(50*time.Millisecond, func() { b.release <- struct{}{} })
		if got := b.ask(HeaderCriticality, "BULK", HeaderTimeout, "1000"); got != 200 || time.Since(began) != 50*time.Millisecond {
			t.Errorf("a place becomes free: got %d after %s, want 200 after 50ms", got, time.Since(began))
		}
		if got := b.server.shed.limiter.InFlight(); got != 9 {
			t.Errorf("%d in flight, want 9", got)
		}
	})
}

func TestWithoutSheddingAllAreAlike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBusyAt(t, Options{Server: ServerSettings{Limit: LimitFixed, InitialLimit: 10, ShedOff: true}}, reading{cpu: 1, lately: 1}, 9)
		time.Sleep(time.Second)
		if got := b.ask(HeaderCriticality, "BULK"); got != 200 {
			t.Errorf("the tenth of ten: got %d, want 200", got)
		}
		b.wg.Go(func() { serve(b.h) })
		synctest.Wait()
		if got := b.ask(HeaderPriority, "1"); got != 503 {
			t.Errorf("the eleventh: got %d, want 503", got)
		}
		b.configure(slices.Index(prefixes[:], serverPrefix), properties{"ipc.server.limit": "off"})
		if got := b.ask(HeaderCriticality, "BULK"); got != 200 {
			t.Errorf("without a limit: got %d, want 200", got)
		}
	})
}

func TestStreamsDoNotCountAsInFlight(t *testing.T) {
	e := newTestEngine(t, Options{})
	limiter := e.server.shed.limiter
	srv := httptest.NewServer(e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := limiter.InFlight(); n != 1 {
			t.Errorf("%s: %d in flight at first, want 1", r.URL.Path, n)
		}
		if r.URL.Path == "/hijack" {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
		} else {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: x\n\n")
			w.(http.Flusher).Flush()
		}
		if n := limiter.InFlight(); n != 0 {
			t.Errorf("%s: %d in flight while it streams, want 0", r.URL.Path, n)
		}
	})))
	defer srv.Close()
	for _, path := range []string{"/hijack", "/events"} {
		resp, err := srv.Client().Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if n := limiter.InFlight(); n != 0 {
		t.Errorf("%d in flight after all, want 0", n)
	}
}

func TestEveryRequestIsCountedOutHoweverItEnds(t *testing.T) {
	e := newTestEngine(t, Options{FaultKey: func() fault.Key { return fault.Key("k") }, App: "app"})
	h := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/panic":
			panic("as it should")
		case "/fail":
			w.WriteHeader(500)
		}
	}))
	for _, path := range []string{"/", "/panic", "/fail"} {
		func() {
			defer func() { recover() }()
			r := requestWith(HeaderTimeout, "1000")
			r.URL.Path = path
			h.ServeHTTP(httptest.NewRecorder(), r)
		}()
	}
	serve(h, fault.Header, fault.Sign(fault.Key("k"), "x", time.Now().Add(time.Minute), "server:app=error(503)"))
	serve(h, HeaderTimeout, "0")
	if n := e.server.shed.limiter.InFlight(); n != 0 {
		t.Errorf("%d in flight, want 0", n)
	}
}

func TestResponsesTellHowBusyTheServerIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBusyAt(t, Options{}, reading{cpu: 0.34}, 20)
		b.ask()
		time.Sleep(1500 * time.Millisecond)
		for range 30 {
			b.ask()
		}
		time.Sleep(time.Second)
		r := requestWith()
		r.URL.Path = "/quick"
		w := httptest.NewRecorder()
		b.h.ServeHTTP(w, r)
		if got := w.Header().Get("X-Netflix.server.utilization"); got != "40.0, target=100" {
			t.Errorf("X-Netflix.server.utilization is %q, want 40 %%: 34 %% of the processor for a target of 85 %%", got)
		}
		if got := w.Header().Get("endpoint-load-metrics"); got != "TEXT application_utilization=0.400,cpu_utilization=0.340,rps_fractional=30.0,eps=0.0" {
			t.Errorf("endpoint-load-metrics is %q", got)
		}
		if l := b.Load(); l.InFlight != 20 || l.RPS != 30 || l.CPU != 0.34 || math.Abs(l.Utilization-0.4) > 1e-9 {
			t.Errorf("Load is %+v", l)
		}
		b.configure(slices.Index(prefixes[:], serverPrefix), properties{"ipc.server.report": "false"})
		w = httptest.NewRecorder()
		b.h.ServeHTTP(w, r)
		if got := w.Header().Get("X-Netflix.server.utilization"); got != "" {
			t.Errorf("with ipc.server.report=false: %q", got)
		}
	})
}

func TestMeasuringEndsWithTheRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var readings atomic.Int32
		b := newBusy(t, Options{}, 0)
		b.server.shed.sense = func() reading { readings.Add(1); return reading{cpu: 1} }
		b.ask()
		time.Sleep(time.Minute)
		if n := readings.Load(); n == 0 || n > senseIdle+1 {
			t.Errorf("%d readings in a minute after one request, want %d", n, senseIdle)
		}
		if got := b.ask(HeaderCriticality, "BULK"); got != 200 {
			t.Errorf("after a minute of rest: got %d, want 200", got)
		}
		before := readings.Load()
		time.Sleep(time.Second)
		if readings.Load() == before {
			t.Error("measuring did not begin again")
		}
	})
}

func TestGRPCRequestsAreShedToo(t *testing.T) {
	e := newTestEngine(t, Options{App: "app", Server: ServerSettings{Limit: LimitFixed, InitialLimit: 1}})
	_, first, err := e.Receive(t.Context(), http.Header{})
	if err != nil {
		t.Fatal(err)
	}
	_, r, err := e.Receive(t.Context(), http.Header{HeaderCriticality: {"BULK"}})
	if !errors.Is(err, ErrShed) || !strings.Contains(err.Error(), "app has too much to do") || !r.NoRetry() {
		t.Errorf("the second: got %v, no retry %v; want ErrShed that says why, and true", err, r.NoRetry())
	}
	r.End(503)
	first.Streams()
	if n := e.server.shed.limiter.InFlight(); n != 0 {
		t.Errorf("%d in flight while the first streams, want 0", n)
	}
	first.End(200)
	if n := e.server.shed.limiter.InFlight(); n != 0 {
		t.Errorf("%d in flight, want 0", n)
	}
}

func TestRefusalsOfOverloadedServersAreNoFailures(t *testing.T) {
	shed := func(r *http.Request) (*http.Response, error) {
		resp, err := answer(503)(r)
		resp.Header.Set("X-Ipc-Error", "shed")
		resp.Header.Set(HeaderNoRetry, "1")
		return resp, err
	}
	n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): shed}}
	e := newTestEngine(t, Options{Lists: Static{"app": instances("z", 1)}, Transport: n})
	for i := range 60 {
		if status, err := get(e, t.Context(), "GET", "http://app/"); status != 503 || err != nil {
			t.Fatalf("call %d: got %d, %v; want the 503 of the server", i, status, err)
		}
	}
	s := e.Snapshot()[0]
	if s.Counts["unanswered"] != 60 || s.Requests != 0 || s.App.Endpoints[0].EjectedUntil != nil {
		t.Errorf("counted %v, %d of them for the breaker, ejected until %v; want 60 unanswered, none, never", s.Counts, s.Requests, s.App.Endpoints[0].EjectedUntil)
	}
	c := e.Command("app", Settings{})
	_, err := Get[int](t.Context(), e, c, "http://app/")
	var se *StatusError
	if !errors.Is(err, ErrShed) || !errors.As(err, &se) || se.Status != 503 {
		t.Errorf("Get: got %v, want an ErrShed with status 503", err)
	}
	if got, err := CallOr(t.Context(), c, func(ctx context.Context) (int, error) { return Get[int](ctx, e, c, "http://app/") },
		func(context.Context, error) (int, error) { return 7, nil }); got != 7 || err != nil {
		t.Errorf("with a fallback: got %d, %v; want 7", got, err)
	}
	if s := e.Snapshot()[0]; s.Requests != 0 {
		t.Errorf("%d calls count for the breaker, want none", s.Requests)
	}
}

func TestWrongServerSettingsAreRefusedAndTheOldOnesStay(t *testing.T) {
	for name, tc := range map[string]struct {
		props map[string]string
		key   string // that is refused
		says  string
	}{
		"no number":        {map[string]string{"ipc.server.limit.max": "many"}, "ipc.server.limit.max", "whole number from 1 to"},
		"not a kind":       {map[string]string{"ipc.server.limit": "tahoe"}, "ipc.server.limit", "use vegas, gradient2, aimd, fixed or off"},
		"out of range":     {map[string]string{"ipc.server.shed.cpuTarget": "1.5"}, "ipc.server.shed.cpuTarget", "a number from 0.05 to 1"},
		"NaN":              {map[string]string{"ipc.server.shed.start": "NaN"}, "ipc.server.shed.start", "a number from"},
		"status 200":       {map[string]string{"ipc.server.shed.status": "200"}, "ipc.server.shed.status", "use 503 or 429"},
		"not together":     {map[string]string{"ipc.server.shed.start": "2"}, "ipc.server.shed.start", "from a load of 2 to 1.2"},
		"bounds crossed":   {map[string]string{"ipc.server.limit.min": "50", "ipc.server.limit.max": "40"}, "ipc.server.limit.min", "at least 50 and at most 40"},
		"too much":         {map[string]string{"ipc.server.partition.by": "caller", "ipc.server.partition.shares": "a=0.7,b=0.7"}, "ipc.server.partition.shares", "add up to 1.4"},
		"no share":         {map[string]string{"ipc.server.partition.by": "caller", "ipc.server.partition.shares": "a"}, "ipc.server.partition.shares", `"a" is no share`},
		"no partitions":    {map[string]string{"ipc.server.partition.by": "caller"}, "ipc.server.partition.by", "is no share"},
		"no criticality":   {map[string]string{"ipc.server.partition.by": "criticality", "ipc.server.partition.shares": "vip=1"}, "ipc.server.partition.shares", "is not a criticality"},
		"a misspelled key": {map[string]string{"ipc.server.limits.max": "5"}, "ipc.server.limits.max", "no setting of servers has this name"},
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			e := newTestEngine(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Server: ServerSettings{InitialLimit: 33}})
			i := slices.Index(prefixes[:], serverPrefix)
			e.configure(i, properties{"ipc.server.limit.min": "7"})
			before := *e.server.shed.set.Load()
			if before.MinLimit != 7 || before.InitialLimit != 33 {
				t.Fatalf("good settings are not in force: %+v", before)
			}
			props := properties{"ipc.server.limit.min": "7"}
			for k, v := range tc.props {
				props[k] = v
			}
			e.configure(i, props)
			e.configure(i, props)
			if got := *e.server.shed.set.Load(); got != before {
				t.Errorf("got %+v, want what was before", got)
			}
			if n := strings.Count(log.String(), "key="+tc.key+" "); n != 1 || !strings.Contains(strings.ReplaceAll(log.String(), `\"`, `"`), tc.says) {
				t.Errorf("logged %d times, want once, with %q:\n%s", n, tc.says, log.String())
			}
		})
	}
}

func TestWrongServerSettingsInCodePanic(t *testing.T) {
	for _, s := range []ServerSettings{
		{MinLimit: 5, MaxLimit: 4}, {CPUTarget: 2}, {ShedStatus: 404}, {RetryAfter: 1500 * time.Millisecond}, {QueueSize: -1}, {ShedStart: 1.3},
		{Limit: 99}, {PartitionBy: PartitionByCaller}, {IdleLimit: 5000}, {DelayTarget: time.Nanosecond}, {RejectDelay: -1},
	} {
		func() {
			defer func() {
				if got, ok := recover().(string); !ok || !strings.HasPrefix(got, "ipc: Options.Server: ") {
					t.Errorf("%+v: got %v, want a panic that says so", s, got)
				}
			}()
			New(Options{Server: s})
		}()
	}
}

func TestEverySettingOfServersHasAProperty(t *testing.T) {
	e := newTestEngine(t, Options{})
	e.configure(slices.Index(prefixes[:], serverPrefix), properties{
		"ipc.server.limit": "gradient2", "ipc.server.limit.initial": "30", "ipc.server.limit.min": "10", "ipc.server.limit.max": "300", "ipc.server.limit.idle": "200", "ipc.server.limit.holdWhileIdle": "true",
		"ipc.server.shed.enabled": "false", "ipc.server.shed.start": "0.7", "ipc.server.shed.max": "1.5", "ipc.server.shed.cpuTarget": "0.6",
		"ipc.server.shed.delayTargetInMilliseconds": "50", "ipc.server.shed.status": "429", "ipc.server.shed.retryAfterInSeconds": "7",
		"ipc.server.partition.by": "criticality", "ipc.server.partition.shares": "critical=0.9,bulk=0.05", "ipc.server.partition.rejectDelayInMilliseconds": "20",
		"ipc.server.queue.size": "50", "ipc.server.queue.waitInMilliseconds": "250", "ipc.server.report": "false",
	})
	want := ServerSettings{
		Limit: LimitGradient2, InitialLimit: 30, MinLimit: 10, MaxLimit: 300, IdleLimit: 200, HoldWhileIdle: true, ShedOff: true, ShedStart: 0.7, ShedMax: 1.5, CPUTarget: 0.6,
		DelayTarget: 50 * time.Millisecond, ShedStatus: 429, RetryAfter: 7 * time.Second, PartitionBy: PartitionByCriticality,
		Partitions: "critical=0.9,bulk=0.05", RejectDelay: 20 * time.Millisecond, QueueSize: 50, QueueWait: 250 * time.Millisecond, ReportOff: true,
	}
	if got := *e.server.shed.set.Load(); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func FuzzImportance(f *testing.F) {
	for _, s := range [][3]string{{"", "", ""}, {"BULK", "95", "api"}, {"best-effort", "0", "a b"}, {"4", "101", "\x7f"}, {"critical", "+7", strings.Repeat("x", 200)}} {
		f.Add(s[0], s[1], s[2])
	}
	e := New(Options{Log: slog.New(slog.DiscardHandler)})
	f.Cleanup(e.Close)
	f.Fuzz(func(t *testing.T, crit, prio, caller string) {
		i := e.server.importanceOf(http.Header{HeaderCriticality: {crit}, HeaderPriority: {prio}, HeaderCaller: {caller}})
		if i.criticality > roadbed.Bulk || i.priority < 1 || i.priority > 100 || len(i.caller) > maxIDLength {
			t.Errorf("%q, %q, %q: got %+v", crit, prio, caller, i)
		}
		if prio == "" && i.priority != usualPriority[i.criticality] {
			t.Errorf("%q without a priority: got %d, want %d", crit, i.priority, usualPriority[i.criticality])
		}
	})
}

func FuzzShares(f *testing.F) {
	for _, s := range []string{"", "edge=0.5,api=0.3", "a=1", "a=0.5,a=0.5", "a=NaN", "a=-0", "=1", "a=1e309", " a = 0.1 , b = .2 ", "a=0.5,,b=0.5"} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Add("critical=0.9,bulk=0.1", true)
	f.Fuzz(func(t *testing.T, text string, byCriticality bool) {
		s := ServerSettings{PartitionBy: PartitionByCaller, Partitions: text}
		if byCriticality {
			s.PartitionBy = PartitionByCriticality
		}
		if err := s.or(builtInServer).validate(); err != nil {
			return
		}
		list, err := s.shares()
		if err != nil {
			t.Fatalf("%q is valid, but: %v", text, err)
		}
		sum := 0.0
		for _, p := range list {
			if p.Name == "" || !(p.Share >= 0 && p.Share <= 1) {
				t.Errorf("%q: got %+v", text, p)
			}
			sum += p.Share
		}
		if sum > 1.001 {
			t.Errorf("%q: the shares add up to %v", text, sum)
		}
	})
}

func FuzzQuota(f *testing.F) {
	f.Add("0::/\n", "150000 100000\n", "usage_usec 5\n")
	f.Add("1:cpu,cpuacct:/a\n0::/..\n", "max 100000", "x\nusage_usec -1")
	f.Add("::\n:\n0::\x00\n", "1 0", "usage_usec 99999999999999999999")
	f.Fuzz(func(t *testing.T, groups, quota, stat string) {
		g := findGroup(files("proc/self/cgroup", groups, "sys/fs/cgroup/cpu.max", quota, "sys/fs/cgroup/cpu.stat", stat,
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota, "sys/fs/cgroup/cpu/cpu.cfs_period_us", stat))
		if !(g.quota >= 0) || math.IsInf(g.quota, 0) {
			t.Errorf("%q, %q: got a quota of %v", groups, quota, g.quota)
		}
		g.spent() // must not crash
	})
}
