package ipc

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/ipc/balance"
)

// takes returns a run function that takes d, or as long as it is given.
func takes(d time.Duration) func(context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		select {
		case <-time.After(d):
			return 1, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// within returns a context that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestACallerInAHurryOpensNoBreakerForOthers(t *testing.T) {
	ms := time.Millisecond
	for _, tc := range []struct {
		name  string
		set   Settings
		usual time.Duration // that calls took before
		takes time.Duration // that calls take now
		left  time.Duration // by the caller
		opens bool
		hasty uint32
	}{
		{"less time than usual", Settings{}, 100 * ms, 100 * ms, 10 * ms, false, 60},
		{"isolated by threads", Settings{Isolation: Thread}, 100 * ms, 100 * ms, 10 * ms, false, 60},
		{"opens at the first", Settings{InstantOpen: true}, 100 * ms, 100 * ms, 10 * ms, false, 60},
		{"more time than usual", Settings{}, 20 * ms, 500 * ms, 50 * ms, true, 0},
		{"the command's own time", Settings{Timeout: 10 * ms}, 5 * ms, 100 * ms, 50 * ms, true, 0},
		{"nothing is known to be usual", Settings{}, 0, 100 * ms, 10 * ms, true, 0},
		{"the callee hangs", Settings{}, 100 * ms, time.Hour, 500 * ms, true, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := newTestEngine(t, Options{})
			c := e.Command("x", tc.set)
			run := func(ctx context.Context, d time.Duration) error {
				_, err := Call(ctx, c, takes(d))
				return err
			}
			if tc.set.Isolation == Thread {
				d := Define(e, "declared", Definition[time.Duration, int]{Settings: tc.set, Run: func(ctx context.Context, d time.Duration) (int, error) { return takes(d)(ctx) }})
				c = e.Command("declared", Settings{})
				run = func(ctx context.Context, arg time.Duration) error { _, err := d.Call(ctx, arg); return err }
			}
			for range 30 {
				if tc.usual == 0 {
					break
				}
				if err := run(t.Context(), tc.usual); err != nil {
					t.Fatalf("%s: before: %v", tc.name, err)
				}
			}
			time.Sleep(11 * time.Second) // what went well is out of the breaker's window
			var err error
			for range 60 {
				if err = run(within(t, tc.left), tc.takes); err == nil {
					t.Fatalf("%s: a call that takes %s has succeeded within %s", tc.name, tc.takes, tc.left)
				}
				time.Sleep(20 * ms)
			}
			n := c.stats(c.set.Load()).Counts
			if opened := errors.Is(err, ErrOpen); opened != tc.opens || n.Hasty != tc.hasty {
				t.Errorf("%s: the last call ended with %v, %d timeouts were hasty; want that the breaker opens: %v, and %d", tc.name, err, n.Hasty, tc.opens, tc.hasty)
			}
			if !tc.opens && (n.Timeout != 60 || !errors.Is(err, ErrTimeout) && !errors.Is(err, context.DeadlineExceeded)) {
				t.Errorf("%s: %d timeouts are counted, the last error is %v; want all 60, and that it says so", tc.name, n.Timeout, err)
			}
		})
	}
}

func TestATrialInAHurryLeavesTheNextCallToTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{})
		call := func(ctx context.Context, d time.Duration) error {
			_, err := Call(ctx, c, takes(d))
			return err
		}
		for range 30 {
			call(t.Context(), 100*time.Millisecond)
		}
		time.Sleep(11 * time.Second)
		for range 60 {
			Call(t.Context(), c, func(context.Context) (int, error) { return 0, errBroken })
		}
		time.Sleep(time.Second)
		if err := call(t.Context(), 100*time.Millisecond); !errors.Is(err, ErrOpen) {
			t.Fatalf("after 60 failures: got %v, want the breaker open", err)
		}
		time.Sleep(5 * time.Second)
		for range 3 {
			if err := call(within(t, 10*time.Millisecond), 100*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrOpen) {
				t.Errorf("a trial with 10 ms: got %v, want that it ran out of time", err)
			}
		}
		if err := call(t.Context(), 100*time.Millisecond); err != nil {
			t.Errorf("the next trial: got %v, want that it may try, and succeeds", err)
		}
		if s := e.Snapshot()[0]; s.Breaker != "CLOSED" {
			t.Errorf("the breaker is %s, want it closed", s.Breaker)
		}
	})
}

func TestACallerInAHurryEjectsNoInstance(t *testing.T) {
	for name, hurried := range map[string]func(*http.Request) (*http.Response, error){
		"no answer":        after(100*time.Millisecond, answer(200)),
		"no time, it says": answer(http.StatusGatewayTimeout),
	} {
		synctest.Test(t, func(t *testing.T) {
			do := after(100*time.Millisecond, answer(200))
			n, lists := everywhere(3, func(r *http.Request) (*http.Response, error) { return do(r) })
			e := newTestEngine(t, Options{Lists: lists, Transport: n})
			e.Command("app", Settings{Retries: -1})
			for range 30 {
				if status, err := get(e, t.Context(), "GET", "http://app/"); status != 200 {
					t.Fatalf("before: got %d, %v", status, err)
				}
			}
			time.Sleep(11 * time.Second)
			do = hurried
			for range 60 {
				if status, _ := get(e, within(t, 10*time.Millisecond), "GET", "http://app/"); status == 200 {
					t.Fatal("a call that takes 100 ms has succeeded within 10 ms")
				}
				time.Sleep(20 * time.Millisecond)
			}
			s := e.Snapshot()[0]
			if s.Breaker != "CLOSED" || s.ErrorPercent != 0 || s.Counts["hasty"] != 60 {
				t.Errorf("%s: the breaker is %s at %d %% errors, counts are %v; want it closed, none, and 60 hasty ones", name, s.Breaker, s.ErrorPercent, s.Counts)
			}
			for _, ep := range s.App.Endpoints {
				if !ep.Eligible || ep.Failures != 0 || ep.Error > 0.01 {
					t.Errorf("%s: instance %s has %d failures and is eligible: %v (%s)", name, ep.ID, ep.Failures, ep.Eligible, ep.Why)
				}
			}
			do = after(100*time.Millisecond, answer(200))
			if status, err := get(e, t.Context(), "GET", "http://app/"); status != 200 {
				t.Errorf("%s: who has time got %d, %v; want 200", name, status, err)
			}
		})
	}
}

func TestAPassageInAHurryOpensNoBreakerAndEjectsNoInstance(t *testing.T) {
	for name, end := range map[string]Outcome{
		"no answer":        {Err: context.DeadlineExceeded, Ended: balance.Broken},
		"no time, it says": {Status: http.StatusGatewayTimeout},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, lists := everywhere(3, answer(200))
			e := newTestEngine(t, Options{Lists: lists})
			pass := func(timeout, takes time.Duration, o Outcome) error {
				var p Passage
				err := p.Begin(t.Context(), e, Trip{App: "app", Method: "GET", Path: "/", Timeout: timeout, Retries: -1})
				if err != nil {
					return err
				}
				defer p.End()
				if _, err := p.Start(); err != nil {
					return err
				}
				time.Sleep(takes)
				if p.Outcome(o); o.Err != nil {
					return p.Failed(o.Err)
				}
				return nil
			}
			for range 30 {
				if err := pass(time.Second, 100*time.Millisecond, Outcome{Status: 200}); err != nil {
					t.Fatalf("before: %v", err)
				}
			}
			time.Sleep(11 * time.Second)
			for range 60 {
				if err := pass(10*time.Millisecond, 10*time.Millisecond, end); errors.Is(err, ErrOpen) {
					t.Fatalf("%s: %v, want the breaker closed", name, err)
				}
				time.Sleep(20 * time.Millisecond)
			}
			s := e.Snapshot()[0]
			if s.Breaker != "CLOSED" || s.ErrorPercent != 0 || s.Counts["hasty"] != 60 {
				t.Errorf("%s: the breaker is %s at %d %% errors, counts are %v; want it closed, none, and 60 hasty ones", name, s.Breaker, s.ErrorPercent, s.Counts)
			}
			for _, ep := range s.App.Endpoints {
				if !ep.Eligible || ep.Failures != 0 || ep.Error > 0.01 {
					t.Errorf("%s: instance %s has %d failures and is eligible: %v (%s)", name, ep.ID, ep.Failures, ep.Eligible, ep.Why)
				}
			}
			for range 60 {
				pass(500*time.Millisecond, 500*time.Millisecond, end)
				time.Sleep(20 * time.Millisecond)
			}
			if err := pass(time.Second, 0, Outcome{Status: 200}); !errors.Is(err, ErrOpen) {
				t.Errorf("%s: after 60 that had more time than usual: got %v, want the breaker open", name, err)
			}
		})
	}
}
