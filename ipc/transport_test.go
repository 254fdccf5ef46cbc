package ipc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
)

// network is a base transport in which each address does what its function says.
type network struct {
	mu    sync.Mutex
	hosts map[string]func(*http.Request) (*http.Response, error)
	seen  []*http.Request
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	n.seen = append(n.seen, r)
	do := n.hosts[r.URL.Host]
	n.mu.Unlock()
	if do == nil {
		do = func(*http.Request) (*http.Response, error) {
			return nil, &dialError{fmt.Errorf("dial %s: %w", r.URL.Host, syscall.ECONNREFUSED)}
		}
	}
	resp, err := do(r)
	if r.Body != nil {
		r.Body.Close()
	}
	return resp, err
}

func (n *network) attempts() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.seen)
}

func answer(status int, header ...string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		if r.Body != nil {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return nil, err
			}
		}
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader("ok")), ContentLength: 2, Request: r}, nil
	}
}

func cut(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		io.Copy(io.Discard, r.Body)
	}
	return nil, io.ErrUnexpectedEOF
}

func hangs(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func instances(zone string, ports ...int) (out []roadbed.Instance) {
	for _, p := range ports {
		out = append(out, roadbed.Instance{ID: fmt.Sprintf("i-%d", p), App: "app", Host: "10.0.0.1", Port: p, Status: roadbed.Up, Location: roadbed.Location{Zone: zone}})
	}
	return out
}

func addr(port int) string { return fmt.Sprintf("10.0.0.1:%d", port) }

// lists is a Lists whose content a test changes.
type lists struct {
	mu  sync.Mutex
	now []roadbed.Instance
	fns []func([]roadbed.Instance)
}

func (l *lists) Watch(_ string, fn func([]roadbed.Instance)) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fns = append(l.fns, fn)
	fn(l.now)
	return func() {}
}

func (l *lists) set(now []roadbed.Instance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = now
	for _, fn := range l.fns {
		fn(now)
	}
}

// eligible returns how many endpoints of "app" may be picked.
func eligible(e *Engine) (n int) {
	for _, ep := range e.cluster("app").lb.State(e.clock.now()).Endpoints {
		if ep.Eligible {
			n++
		}
	}
	return n
}

func get(e *Engine, ctx context.Context, method, url string, header ...string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := e.Transport().RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func TestRetryTable(t *testing.T) {
	for _, tc := range []struct {
		name     string
		method   string
		first    func(*http.Request) (*http.Response, error) // what every endpoint does; nil refuses
		header   []string
		attempts int
		status   int
		within   time.Duration
	}{
		{"success needs one", "GET", answer(200), nil, 1, 200, 0},
		{"refused: all five tried, at once", "GET", nil, nil, 5, 0, 0},
		{"refused POST is safe to send elsewhere", "POST", nil, nil, 5, 0, 0},
		{"cut GET is tried three times", "GET", cut, nil, 3, 0, 75 * time.Millisecond},
		{"cut POST is not", "POST", cut, nil, 1, 0, 0},
		{"cut POST with a key is", "POST", cut, []string{"Idempotency-Key", "1"}, 3, 0, 75 * time.Millisecond},
		{"503 GET", "GET", answer(503), nil, 3, 503, 75 * time.Millisecond},
		{"502 PUT", "PUT", answer(502), nil, 3, 502, 75 * time.Millisecond},
		{"504 DELETE", "DELETE", answer(504), nil, 3, 504, 75 * time.Millisecond},
		{"503 POST", "POST", answer(503), nil, 1, 503, 0},
		{"500 is an answer", "GET", answer(500), nil, 1, 500, 0},
		{"404 is an answer", "GET", answer(404), nil, 1, 404, 0},
		{"429 without Retry-After", "GET", answer(429), nil, 1, 429, 0},
		{"429 with one that fits", "GET", answer(429, "Retry-After", "0"), nil, 3, 429, 0},
		{"503 with one beyond the deadline", "GET", answer(503, "Retry-After", "60"), nil, 1, 503, 0},
		{"503 with one that makes no sense", "GET", answer(503, "Retry-After", "soon"), nil, 1, 503, 0},
		{"503 that forbids it", "GET", answer(503, HeaderNoRetry, "1"), nil, 1, 503, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){}}
				ports := []int{1, 2, 3, 4, 5}
				for _, p := range ports {
					n.hosts[addr(p)] = tc.first
				}
				e := newTestEngine(t, Options{Lists: Static{"app": instances("", ports...)}, Transport: n})
				start := time.Now()
				status, err := get(e, t.Context(), tc.method, "http://app/x", tc.header...)
				if status != tc.status || (err == nil) != (tc.status != 0) {
					t.Errorf("got status %d, %v; want %d", status, err, tc.status)
				}
				if n.attempts() != tc.attempts {
					t.Errorf("got %d attempts, want %d", n.attempts(), tc.attempts)
				}
				if d := time.Since(start); d > tc.within {
					t.Errorf("took %s, want at most %s", d, tc.within)
				}
				hosts := map[string]bool{}
				for i, r := range n.seen {
					hosts[r.URL.Host] = true
					want := fmt.Sprint(i + 1)
					if tc.first == nil {
						want = "1" // nobody has seen the ones before
					}
					if got := r.Header.Get(HeaderAttempt); got != want {
						t.Errorf("attempt %d says %q, want %s", i+1, got, want)
					}
				}
				if len(hosts) != tc.attempts {
					t.Errorf("attempts went to %d endpoints, want %d different ones", len(hosts), tc.attempts)
				}
				if got := e.Command("app", Settings{}).inFlight(); got != 0 {
					t.Errorf("%d permits are out, want 0", got)
				}
				for _, ep := range e.cluster("app").lb.State(e.clock.now()).Endpoints {
					if ep.Active != 0 {
						t.Errorf("%s has %d active requests, want 0", ep.Addr, ep.Active)
					}
				}
			})
		})
	}
}

func TestOneDeadInstanceFailsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(200)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1, 2)}, Transport: n})
		for i := range 1000 {
			if status, err := get(e, t.Context(), "GET", "http://app/"); status != 200 || err != nil {
				t.Fatalf("call %d: got %d, %v; want 200", i, status, err)
			}
			time.Sleep(time.Millisecond)
		}
		if extra := n.attempts() - 1000; extra > 3 {
			t.Errorf("the dead instance was tried %d times in a second, want at most 3", extra)
		}
	})
}

func TestDeadInstanceComesBackWhenTheRegistrySaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(200)}}
		list := instances("", 1, 2)
		l := &lists{now: list}
		e := newTestEngine(t, Options{Lists: l, Transport: n})
		eligible := func() int { return eligible(e) }
		for range 20 {
			get(e, t.Context(), "GET", "http://app/")
		}
		if got := eligible(); got != 1 {
			t.Fatalf("%d eligible after a refusal, want 1", got)
		}
		down := slices.Clone(list)
		down[1].Status = roadbed.Down
		l.set(down)
		l.set(list)
		if got := eligible(); got != 2 {
			t.Errorf("%d eligible after it went UP again, want 2", got)
		}
		for range 20 {
			get(e, t.Context(), "GET", "http://app/")
		}
		if got := eligible(); got != 1 {
			t.Fatalf("%d eligible after another refusal, want 1", got)
		}
		time.Sleep(1100 * time.Millisecond)
		if got := eligible(); got != 2 {
			t.Errorf("%d eligible after the time for refusals, want 2", got)
		}
	})
}

func TestNoRequestWaitsPastItsDeadline(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(*http.Request) (*http.Response, error)
	}{
		{"hangs", hangs},
		{"slow 503 again and again", func(r *http.Request) (*http.Response, error) {
			select {
			case <-time.After(90 * time.Millisecond):
				return answer(503)(r)
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}},
		{"Retry-After nearly at the deadline", answer(503, "Retry-After", "1")},
		{"body that never ends", func(r *http.Request) (*http.Response, error) {
			pr, pw := io.Pipe()
			context.AfterFunc(r.Context(), func() { pw.CloseWithError(r.Context().Err()) })
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: pr, ContentLength: -1}, nil
		}},
	} {
		for _, timeout := range []time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 1010 * time.Millisecond} {
			t.Run(tc.name+" "+timeout.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): tc.do, addr(2): tc.do}}
					e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1, 2)}, Transport: n})
					e.Command("app", Settings{Timeout: timeout, Retries: 5})
					start := time.Now()
					_, err := get(e, t.Context(), "GET", "http://app/")
					if d := time.Since(start); d > timeout {
						t.Errorf("returned %v after %s, want at most %s", err, d, timeout)
					}
					synctest.Wait()
					if got := e.Command("app", Settings{}).inFlight(); got != 0 {
						t.Errorf("%d permits are out, want 0", got)
					}
				})
			})
		}
	}
}

func TestDeadlineTravelsAndShrinks(t *testing.T) {
	for _, tc := range []struct {
		left time.Duration
		want int64
		ok   bool
	}{
		{time.Second, 990, true}, {100 * time.Millisecond, 98, true}, {10 * time.Second, 9900, true},
		{3 * time.Millisecond, 1, true}, {2 * time.Millisecond, 0, false}, {0, 0, false}, {-time.Second, 0, false},
	} {
		got, ok := outgoing(tc.left)
		if ok != tc.ok || ok && got != tc.want {
			t.Errorf("with %s left: got %d, %v; want %d, %v", tc.left, got, ok, tc.want, tc.ok)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(200)}}
		e := newTestEngine(t, Options{App: "api", Lists: Static{"app": instances("", 1)}, Transport: n})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		defer cancel()
		if _, err := get(e, ctx, "GET", "http://app/"); !errors.Is(err, ErrDeadlineSpent) || n.attempts() != 0 {
			t.Errorf("2 ms left: got %v after %d attempts, want ErrDeadlineSpent without one", err, n.attempts())
		}
		get(e, t.Context(), "GET", "http://app/")
		if got := n.seen[0].Header; got.Get(HeaderTimeout) != "990" || got.Get(HeaderCaller) != "api" {
			t.Errorf("got headers %v, want a timeout of 990 ms and the caller api", got)
		}
	})
}

func TestAttemptTimeoutLeavesTimeForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): hangs, addr(2): answer(200)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1, 2)}, Transport: n})
		e.Command("app", Settings{AttemptTimeout: 100 * time.Millisecond})
		for range 10 {
			if status, err := get(e, t.Context(), "GET", "http://app/"); status != 200 {
				t.Errorf("got %d, %v; want 200 from the other endpoint", status, err)
			}
		}
	})
}

func TestRetryBudgetIsAFifthOrTenASecondIfThatIsMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(503), addr(2): answer(503)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1, 2)}, Transport: n})
		e.Command("app", Settings{ForceClosed: true, Timeout: time.Minute})
		const calls = 10000
		for range calls {
			get(e, t.Context(), "GET", "http://app/")
		}
		// The bubble's clock moves only in backoffs, so all of it is about one window per 10 s of them.
		extra := n.attempts() - calls
		windows := 1 + int(time.Duration(e.clock.now())/(10*time.Second))
		if limit := max(calls/5, 100*windows) + 100; extra > limit { // where windows are not equally full each may have the greater
			t.Errorf("%d calls to a broken app made %d extra attempts, want at most %d", calls, extra, limit)
		}
		if extra < calls/10 {
			t.Errorf("only %d extra attempts of %d calls; the budget allows more", extra, calls)
		}
		if e.cluster("app").budget.denied.Load() == 0 {
			t.Error("the budget denied nothing")
		}
	})
}

func TestRetriesDoNotMultiplyPerHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(503), addr(2): answer(503)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1, 2)}, Transport: n})
		in := &inbound{attempt: 2, id: "r1"}
		get(e, context.WithValue(t.Context(), inboundKey{}, in), "GET", "http://app/")
		if n.attempts() != 1 {
			t.Errorf("serving a second attempt made %d attempts, want 1", n.attempts())
		}
		if got := n.seen[0].Header.Get(HeaderAttempt); got != "2" {
			t.Errorf("handed on attempt %q, want 2", got)
		}
		if got := n.seen[0].Header.Get(HeaderRequestID); got != "r1" {
			t.Errorf("handed on request id %q, want r1", got)
		}
	})
}

func TestRequestIsNotAlteredAndBodyClosed(t *testing.T) {
	type body struct {
		io.Reader
		closer
	}
	for _, tc := range []struct {
		name string
		do   func(*http.Request) (*http.Response, error)
		want int
	}{
		{"answered", answer(200), 1},
		{"refused everywhere", nil, 2},
		{"cut", cut, 1},
		{"answered without reading", func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
		}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): tc.do, addr(2): tc.do}}
			e := newTestEngine(t, Options{App: "me", Lists: Static{"app": instances("", 1, 2)}, Transport: n})
			b := &body{Reader: strings.NewReader("hello")}
			req, err := http.NewRequest("POST", "http://app/x?y", b)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("A", "b")
			before := fmt.Sprintf("%v %v %v", req.URL, req.Header, req.Host)
			resp, err := e.Transport().RoundTrip(req)
			if err == nil {
				resp.Body.Close()
				if resp.Request != req {
					t.Error("the response does not name the caller's request")
				}
			}
			if after := fmt.Sprintf("%v %v %v", req.URL, req.Header, req.Host); after != before {
				t.Errorf("the request became %s, was %s", after, before)
			}
			if !b.closed {
				t.Error("the body is not closed")
			}
			if n.attempts() != tc.want {
				t.Errorf("%d attempts, want %d", n.attempts(), tc.want)
			}
		})
	}
}

func TestUnreadBodyIsSentByTheNextAttempt(t *testing.T) {
	var got []string
	read := func(r *http.Request) (*http.Response, error) {
		b, err := io.ReadAll(r.Body)
		got = append(got, string(b))
		if err != nil {
			return nil, err
		}
		return answer(200)(r)
	}
	for i := range 10 {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): read}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1, 2, 3)}, Transport: n})
		req, _ := http.NewRequest("POST", "http://app/", io.NopCloser(strings.NewReader("hello")))
		resp, err := e.Transport().RoundTrip(req)
		if err != nil {
			t.Fatalf("run %d: %v", i, err)
		}
		resp.Body.Close()
	}
	for _, b := range got {
		if b != "hello" {
			t.Errorf("the endpoint read %q, want hello", b)
		}
	}
}

func TestNoEndpointIsToldAtOnceAndDoesNotOpenTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lists{}
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(200)}}
		e := newTestEngine(t, Options{Lists: l, Transport: n})
		for range 100 {
			if _, err := get(e, t.Context(), "GET", "http://app/"); !errors.Is(err, ErrNoEndpoint) {
				t.Fatalf("got %v, want ErrNoEndpoint", err)
			}
		}
		time.Sleep(time.Second)
		l.set(instances("", 1))
		if status, err := get(e, t.Context(), "GET", "http://app/"); status != 200 {
			t.Errorf("once an instance is there: got %d, %v; want 200", status, err)
		}
	})
}

func TestOnlyUpInstancesGetTraffic(t *testing.T) {
	for _, tc := range []struct {
		statuses []roadbed.Status
		want     int // eligible
	}{
		{[]roadbed.Status{roadbed.Up, roadbed.Down, roadbed.Starting}, 1},
		{[]roadbed.Status{roadbed.Down, roadbed.Starting, roadbed.Unknown}, 3}, // panic: better than nothing
		{[]roadbed.Status{roadbed.OutOfService, roadbed.OutOfService}, 0},      // an operator's decision
		{[]roadbed.Status{roadbed.Down, roadbed.OutOfService}, 1},
	} {
		var list []roadbed.Instance
		for i, s := range tc.statuses {
			inst := instances("", i+1)[0]
			inst.Status = s
			list = append(list, inst)
		}
		e := newTestEngine(t, Options{Lists: Static{"app": list}})
		if got := eligible(e); got != tc.want {
			t.Errorf("statuses %v: %d eligible, want %d", tc.statuses, got, tc.want)
		}
	}
}

func TestBreakerOfAnAppOpensAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(500)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1)}, Transport: n})
		for range 20 {
			if status, err := get(e, t.Context(), "GET", "http://app/"); status != 500 {
				t.Fatalf("got %d, %v; want the 500 itself", status, err)
			}
		}
		time.Sleep(501 * time.Millisecond)
		if _, err := get(e, t.Context(), "GET", "http://app/"); !errors.Is(err, ErrOpen) {
			t.Errorf("after 20 times 500: got %v, want ErrOpen", err)
		}
		n.hosts[addr(1)] = answer(200)
		time.Sleep(5 * time.Second)
		for range 2 {
			if status, err := get(e, t.Context(), "GET", "http://app/"); status != 200 {
				t.Errorf("once it is well: got %d, %v; want 200", status, err)
			}
		}
	})
}

func TestCallInACommandOfTheSameNameSharesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(200)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1)}, Transport: n})
		c := e.Command("app", Settings{MaxConcurrent: 1, Timeout: 300 * time.Millisecond})
		for range 3 {
			status, err := Call(t.Context(), c, func(ctx context.Context) (int, error) { return get(e, ctx, "GET", "http://app/") })
			if status != 200 || err != nil {
				t.Errorf("with one permit: got %d, %v; want 200", status, err)
			}
		}
		if got := c.tally()[success]; got != 3 {
			t.Errorf("%d successes counted for 3 calls", got)
		}
		n.hosts[addr(1)] = hangs
		start := time.Now()
		_, err := Call(t.Context(), c, func(ctx context.Context) (int, error) { return get(e, ctx, "GET", "http://app/") })
		if d := time.Since(start); d != 300*time.Millisecond || !errors.Is(err, ErrTimeout) {
			t.Errorf("got %v after %s, want ErrTimeout after 300ms", err, d)
		}
		if got := c.tally()[timeout]; got != 1 || c.inFlight() != 0 {
			t.Errorf("%d timeouts and %d in flight, want 1 and 0", got, c.inFlight())
		}
	})
}

func TestOverride(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(503), addr(2): answer(503)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1, 2)}, Transport: n})
		get(e, WithOverride(t.Context(), Override{Retries: -1}), "GET", "http://app/")
		if n.attempts() != 1 {
			t.Errorf("without retries: %d attempts, want 1", n.attempts())
		}
		n.hosts[addr(1)], n.hosts[addr(2)] = hangs, hangs
		start := time.Now()
		get(e, WithOverride(t.Context(), Override{Timeout: 3 * time.Second}), "GET", "http://app/")
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("with a timeout of 3s it took %s", d)
		}
	})
}

func TestForgottenBodyGivesThePermitBackAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): func(r *http.Request) (*http.Response, error) {
			r.Context().Done() // as the real transport does
			return answer(200)(r)
		}}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1)}, Transport: n})
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://app/", nil)
		if _, err := e.Transport().RoundTrip(req); err != nil {
			t.Fatal(err)
		}
		c := e.Command("app", Settings{})
		if got := c.inFlight(); got != 1 {
			t.Errorf("while the body is open: %d in flight, want 1", got)
		}
		time.Sleep(1001 * time.Millisecond)
		synctest.Wait()
		if got := c.inFlight(); got != 0 {
			t.Errorf("after the deadline: %d in flight, want 0", got)
		}
		if got := e.cluster("app").lb.State(e.clock.now()).Endpoints[0].Active; got != 0 {
			t.Errorf("after the deadline: %d active at the endpoint, want 0", got)
		}
	})
}

func TestClientFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(200), addr(2): answer(200)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1, 2)}, Transport: n})
		with := func(rules string) context.Context {
			k := fault.Key("k")
			f, err := fault.Parse(k, fault.Sign(k, "x", time.Now().Add(time.Hour), rules), "r", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			return fault.With(t.Context(), f)
		}
		if status, err := get(e, with("client:app=error(503)"), "GET", "http://app/"); status != 503 || n.attempts() != 0 {
			t.Errorf("error: got %d, %v after %d real attempts; want 503 without any", status, err, n.attempts())
		}
		_, err := get(e, with("client:app=reset"), "GET", "http://app/")
		if !errors.Is(err, ErrInjected) || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reset: got %v, want ErrInjected and ECONNRESET", err)
		}
		start := time.Now()
		status, err := get(e, with("client:app=delay(123ms)"), "GET", "http://app/")
		if status != 200 || time.Since(start) != 123*time.Millisecond {
			t.Errorf("delay: got %d, %v after %s; want 200 after 123ms", status, err, time.Since(start))
		}
		if got := n.seen[0].Header.Get(fault.Header); !strings.HasPrefix(got, "id=x; ") {
			t.Errorf("the rules were not handed on: %q", got)
		}
		start = time.Now()
		if _, err = get(e, with("client:app=hang"), "GET", "http://app/"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("hang: got %v after %s, want DeadlineExceeded after 1s", err, time.Since(start))
		}
		if status, err := get(e, with("client:other=reset"), "GET", "http://app/"); status != 200 {
			t.Errorf("rule for another app: got %d, %v; want 200", status, err)
		}
	})
}
