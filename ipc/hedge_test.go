package ipc

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
)

// after does something when d has passed, unless the request ends before.
func after(d time.Duration, do func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return do(r)
		case <-r.Context().Done():
			return nil, context.Cause(r.Context())
		}
	}
}

// hedgedApp has one instance in each of two zones; warm calls have made the budget ready for at least ten hedges.
func hedgedApp(t *testing.T, set Settings, slow, fast func(*http.Request) (*http.Response, error)) (*Engine, *network) {
	n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(200), addr(2): answer(200)}}
	near := config.New(config.Options{Override: map[string]string{"ipc.lb.app.zone.minimumEndpoints": "0"}}) // so that the first is tried first
	e := newTestEngine(t, Options{Location: roadbed.Location{Zone: "a"}, Lists: Static{"app": append(instances("a", 1), instances("b", 2)...)}, Transport: n, Config: near})
	set.Hedge = true
	e.Command("app", set)
	for range 500 {
		get(e, t.Context(), "GET", "http://app/")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = nil
	n.hosts[addr(1)], n.hosts[addr(2)] = slow, fast
	return e, n
}

// fromOne makes calls until one has begun at the slow instance, and returns how that one went.
func fromOne(t *testing.T, e *Engine, n *network, method string, header ...string) (status int, took time.Duration, err error) {
	for range 1000 {
		n.mu.Lock()
		n.seen = nil
		n.mu.Unlock()
		start := time.Now()
		status, err = get(e, t.Context(), method, "http://app/", header...)
		took = time.Since(start)
		n.mu.Lock()
		first := n.seen[0].URL.Host
		n.mu.Unlock()
		if first == addr(1) {
			return status, took, err
		}
	}
	t.Fatal("no call began at the slow instance")
	return 0, 0, nil
}

func TestSlowAttemptGetsCompanyAndTheFirstAnswerCounts(t *testing.T) {
	ms := time.Millisecond
	for _, tc := range []struct {
		name       string
		slow, fast func(*http.Request) (*http.Response, error)
		method     string
		header     []string
		status     int
		took       time.Duration
		attempts   int
	}{
		{"the second is faster", after(300*ms, answer(200)), after(5*ms, answer(201)), "GET", nil, 201, 15 * ms, 2},
		{"the first is faster all the same", after(12*ms, answer(200)), after(50*ms, answer(201)), "GET", nil, 200, 12 * ms, 2},
		{"in time", after(9*ms, answer(200)), answer(201), "GET", nil, 200, 9 * ms, 1},
		{"the second fails", after(30*ms, answer(200)), after(5*ms, answer(503)), "GET", nil, 200, 30 * ms, 2},
		{"the second is cut", after(30*ms, answer(200)), after(5*ms, cut), "GET", nil, 200, 30 * ms, 2},
		{"the first fails later", after(30*ms, answer(500)), after(50*ms, answer(201)), "GET", nil, 201, 60 * ms, 2},
		{"both fail: no retries on top", after(30*ms, answer(503)), after(50*ms, answer(502)), "GET", nil, 502, 60 * ms, 2},
		{"not idempotent", after(30*ms, answer(200)), answer(201), "POST", nil, 200, 30 * ms, 1},
		{"POST with a key", after(30*ms, answer(200)), after(5*ms, answer(201)), "POST", []string{"Idempotency-Key", "k"}, 201, 15 * ms, 2},
		{"the first fails before: retried as ever", after(5*ms, cut), answer(201), "GET", nil, 201, 0, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, n := hedgedApp(t, Settings{HedgeDelay: 10 * ms, RetryPerSecond: 1000}, tc.slow, tc.fast)
				status, took, err := fromOne(t, e, n, tc.method, tc.header...)
				if status != tc.status || err != nil || tc.took != 0 && took != tc.took || n.attempts() != tc.attempts {
					t.Errorf("got %d, %v after %s with %d attempts; want %d after %s with %d", status, err, took, n.attempts(), tc.status, tc.took, tc.attempts)
				}
				synctest.Wait()
				for _, ep := range e.Snapshot()[0].App.Endpoints {
					if ep.Active != 0 {
						t.Errorf("%s has %d active requests, want 0", ep.Addr, ep.Active)
					}
				}
				if got := e.Command("app", Settings{}).inFlight(); got != 0 {
					t.Errorf("%d permits are out, want 0", got)
				}
			})
		})
	}
}

func TestOutrunAttemptCountsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cause error
		slow := func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			cause = context.Cause(r.Context())
			return nil, cause
		}
		e, n := hedgedApp(t, Settings{HedgeDelay: 10 * time.Millisecond}, slow, answer(200))
		before := e.Snapshot()[0]
		status, _, err := fromOne(t, e, n, "GET")
		synctest.Wait()
		after := e.Snapshot()[0]
		if status != 200 || err != nil || !errors.Is(cause, errOutrun) {
			t.Errorf("got %d, %v, and the loser was told %v; want 200 and errOutrun", status, err, cause)
		}
		for i, ep := range after.App.Endpoints {
			if was := before.App.Endpoints[i]; ep.Addr == addr(1) && (ep.Failures != was.Failures || ep.Requests != was.Requests || ep.Error > was.Error) {
				t.Errorf("the slow instance: got %+v, want no change from %+v", ep, was)
			}
		}
		if after.Counts["failure"] != 0 || after.Counts["timeout"] != 0 {
			t.Errorf("the command counted %v, want no failures", after.Counts)
		}
		why := ask(e.WhyHandler(), "/ipc/why?vip=app&n=1").Body.String()
		for _, want := range []string{"first attempt", errOutrun.Error(), "hedge: i-2"} {
			if !strings.Contains(why, want) {
				t.Errorf("why does not say %q:\n%s", want, why)
			}
		}
	})
}

func TestHedgesAddAtMostTwoPercent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, n := hedgedApp(t, Settings{HedgeDelay: time.Millisecond, Timeout: time.Minute}, after(5*time.Millisecond, answer(200)), after(5*time.Millisecond, answer(200)))
		for range 2000 {
			get(e, t.Context(), "GET", "http://app/")
		}
		if extra := n.attempts() - 2000; extra < 20 || extra > 50 {
			t.Errorf("2000 slow calls after 500 others made %d hedges, want up to 2 %%: 50", extra)
		}
	})
}

func TestHedgeDelayFollowsThe95thPercentile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lists := everywhere(2, nil)
		var count atomic.Int64
		do := func(r *http.Request) (*http.Response, error) {
			d := 10 * time.Millisecond
			if count.Add(1)%20 < 2 { // one in ten
				d = 40 * time.Millisecond
			}
			return after(d, answer(200))(r)
		}
		n.hosts[addr(1)], n.hosts[addr(2)] = do, do
		e := newTestEngine(t, Options{Lists: lists, Transport: n})
		e.Command("app", Settings{Hedge: true, HedgePercent: 1})
		delay := func() time.Duration { return time.Duration(e.cluster("app").hedging().delay.Load()) }
		if get(e, t.Context(), "GET", "http://app/"); delay() != 0 {
			t.Errorf("after one call the delay is %s, want none: too few are known", delay())
		}
		for range 300 {
			get(e, t.Context(), "GET", "http://app/")
		}
		if d := delay(); d < 35*time.Millisecond || d > 45*time.Millisecond {
			t.Errorf("the delay is %s, want some 40ms: a tenth takes that long", d)
		}
		time.Sleep(time.Minute)
		if d := delay(); d != 0 {
			t.Errorf("after a minute's rest the delay is %s, want none", d)
		}
	})
}

func TestNoHedgeForRetriesNorWithoutAnotherInstanceNorPastTheDeadline(t *testing.T) {
	ms := time.Millisecond
	for _, tc := range []struct {
		name    string
		attempt int
		ports   []int
		set     Settings
	}{
		{"serving a retry", 2, []int{1, 2}, Settings{HedgeDelay: ms}},
		{"one instance", 1, []int{1}, Settings{HedgeDelay: ms}},
		{"near the deadline", 1, []int{1, 2}, Settings{HedgeDelay: 49 * ms, Timeout: 50 * ms}},
		{"no budget at all", 1, []int{1, 2}, Settings{HedgeDelay: ms, RetryPercent: -1, RetryPerSecond: -1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			slow := after(49500*time.Microsecond, answer(200))
			n, _ := everywhere(2, slow)
			e := newTestEngine(t, Options{Lists: Static{"app": instances("", tc.ports...)}, Transport: n})
			tc.set.Hedge, tc.set.HedgePercent = true, 100
			e.Command("app", tc.set)
			ctx, _ := serving(t, tc.attempt)
			if status, err := get(e, ctx, "GET", "http://app/"); status != 200 || n.attempts() != 1 {
				t.Errorf("%s: got %d, %v with %d attempts, want 200 with 1", tc.name, status, err, n.attempts())
			}
		})
	}
}

func TestDeadlineEndsBothAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lists := everywhere(2, hangs)
		e := newTestEngine(t, Options{Lists: lists, Transport: n})
		e.Command("app", Settings{Hedge: true, HedgePercent: 100, HedgeDelay: 10 * time.Millisecond})
		start := time.Now()
		_, err := get(e, t.Context(), "GET", "http://app/")
		if !errors.Is(err, ErrTimeout) || time.Since(start) != time.Second || n.attempts() != 2 {
			t.Errorf("got %v after %s with %d attempts, want ErrTimeout after 1s with 2", err, time.Since(start), n.attempts())
		}
		synctest.Wait()
		if got := e.Command("app", Settings{}).inFlight(); got != 0 {
			t.Errorf("%d permits are out, want 0", got)
		}
		for _, ep := range e.Snapshot()[0].App.Endpoints {
			if ep.Active != 0 {
				t.Errorf("%s has %d active requests, want 0", ep.Addr, ep.Active)
			}
		}
	})
}

func TestPanicOfTheTransportReachesTheCallerAlsoFromAHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lists := everywhere(2, func(*http.Request) (*http.Response, error) { panic("ouch") })
		e := newTestEngine(t, Options{Lists: lists, Transport: n})
		c := e.Command("app", Settings{Hedge: true})
		defer func() {
			if got := recover(); got != "ouch" {
				t.Errorf("recovered %v, want ouch", got)
			}
			if got := c.inFlight(); got != 0 {
				t.Errorf("%d permits are out, want 0", got)
			}
		}()
		get(e, t.Context(), "GET", "http://app/")
	})
}

// Over real connections, with bodies on both ways.
func TestHedgeOverConnections(t *testing.T) {
	stop := make(chan struct{})
	var bodies atomic.Int64
	serve := func(slow bool) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err == nil && string(b) == "hello" {
				bodies.Add(1)
			}
			if slow {
				select {
				case <-stop:
				case <-r.Context().Done():
				}
			}
			io.WriteString(w, "answer")
		}))
	}
	a, b := serve(true), serve(false)
	defer b.Close()
	defer a.Close()
	defer close(stop)
	e := newTestEngine(t, Options{Lists: Static{"app": {instanceAt(t, a.URL), instanceAt(t, b.URL)}}})
	e.Command("app", Settings{Hedge: true, HedgePercent: 100, HedgeDelay: time.Millisecond, Timeout: 10 * time.Second, RetryPerSecond: 1000})
	for i := range 50 {
		req, err := http.NewRequestWithContext(t.Context(), "PUT", "http://app/", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := e.Transport().RoundTrip(req)
		if err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(got) != "answer" || err != nil {
			t.Fatalf("call %d: read %q, %v; want answer", i, got, err)
		}
	}
	if bodies.Load() < 50 {
		t.Errorf("%d whole bodies arrived for 50 calls", bodies.Load())
	}
}

func instanceAt(t *testing.T, base string) roadbed.Instance {
	t.Helper()
	host, port, err := net.SplitHostPort(strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return roadbed.Instance{ID: port, App: "app", Host: host, Port: n, Status: roadbed.Up}
}
