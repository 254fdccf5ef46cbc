package ipc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func double(_ context.Context, n int) (int, error) { return 2 * n, nil }

func TestDefinedCommandAnswersOrFallsBack(t *testing.T) {
	e := newTestEngine(t, Options{})
	d := Define(e, "Double", Definition[int, int]{
		Group: "Math",
		Run: func(_ context.Context, n int) (int, error) {
			if n < 0 {
				return 0, errBroken
			}
			return 2 * n, nil
		},
		Fallback: func(_ context.Context, n int, cause error) (int, error) {
			if !errors.Is(cause, errBroken) {
				t.Errorf("cause: got %v, want %v", cause, errBroken)
			}
			return -2 * n, nil
		},
	})
	for _, tc := range []struct{ arg, want int }{{4, 8}, {-3, 6}} {
		if got, err := d.Call(t.Context(), tc.arg); got != tc.want || err != nil {
			t.Errorf("of %d: got %d, %v; want %d", tc.arg, got, err, tc.want)
		}
	}
	s := stats(t, e, "Double")
	if s.Group != "Math" || s.Counts.Success != 1 || s.Counts.FallbackSuccess != 1 {
		t.Errorf("got %+v, want group Math, a success and a fallback", s)
	}
}

func TestDefinitionsThatMakeNoSensePanic(t *testing.T) {
	e := newTestEngine(t, Options{})
	Define(e, "taken", Definition[int, int]{Run: double})
	for name, tc := range map[string]struct {
		def  Definition[int, int]
		want string
	}{
		"no run":  {Definition[int, int]{}, "no Run function"},
		"taken":   {Definition[int, int]{Run: double}, "defined already"},
		"":        {Definition[int, int]{Run: double}, "cannot be its name"},
		"default": {Definition[int, int]{Run: double}, "cannot be its name"},
		"groups":  {Definition[int, int]{Run: double, Group: "a", Settings: Settings{Group: "b"}}, "give one"},
		"percent": {Definition[int, int]{Run: double, Settings: Settings{ErrorPercent: 101}}, "ErrorPercent must be from 0 to 100"},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, tc.want) {
					t.Errorf("%q: got %q, want it to say %q", name, got, tc.want)
				}
			}()
			Define(e, name, tc.def)
		}()
	}
}

func TestBadRequestsAreToldByTheDefinition(t *testing.T) {
	e := newTestEngine(t, Options{})
	d := Define(e, "x", Definition[int, int]{
		Run:          func(context.Context, int) (int, error) { return 0, errBroken },
		IsBadRequest: func(err error) bool { return err == errBroken },
		Fallback:     func(context.Context, int, error) (int, error) { return 7, nil },
	})
	if got, err := d.Call(t.Context(), 1); got != 0 || err != errBroken {
		t.Errorf("got %d, %v; want the error itself and no fallback", got, err)
	}
	if n := stats(t, e, "x").Counts; n.BadRequest != 1 || n.Failure != 0 {
		t.Errorf("got %+v, want one bad request and no failure", n)
	}
}

// cached is a command that takes a second, and how often it ran.
func cached(e *Engine, s Settings) (d *Defined[int, int], ran *atomic.Int32) {
	ran = new(atomic.Int32)
	d = Define(e, "cached", Definition[int, int]{
		Run: func(ctx context.Context, n int) (int, error) {
			ran.Add(1)
			select {
			case <-time.After(time.Second):
				if n < 0 {
					return 0, errBroken
				}
				return 2 * n, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		},
		CacheKey: func(n int) string { return fmt.Sprint(n) },
		Settings: s,
	})
	return d, ran
}

func TestEqualCallsOfOneRequestShareOneExecution(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		d, ran := cached(e, Settings{Timeout: time.Minute})
		ctx := NewRequest(t.Context())
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if got, err := d.Call(ctx, 4); got != 8 || err != nil {
					t.Errorf("got %d, %v; want 8", got, err)
				}
			})
		}
		wg.Wait()
		for range 2 { // an error is cached too
			if _, err := d.Call(ctx, -1); !errors.Is(err, errBroken) {
				t.Errorf("got %v, want %v", err, errBroken)
			}
		}
		if got := ran.Load(); got != 2 {
			t.Errorf("two keys ran %d times, want 2", got)
		}
		n := stats(t, e, "cached")
		if n.Counts.ResponsesFromCache != 10 || n.Counts.Success != 1 || n.Counts.Failure != 1 || n.Execute.Calls != 2 {
			t.Errorf("got %+v and %d latencies, want 10 from the cache, one success, one failure and 2 latencies", n.Counts, n.Execute.Calls)
		}

		d.Forget(ctx, 4)
		d.Call(ctx, 4)
		d.Call(NewRequest(t.Context()), 4)
		for range 2 {
			d.Call(t.Context(), 4) // no request
		}
		e.configure(0, properties{"hystrix.command.cached.requestCache.enabled": "false"})
		d.Call(ctx, 4)
		if got := ran.Load(); got != 7 {
			t.Errorf("forgotten, another request, twice no request, no cache: ran %d times in all, want 7", got)
		}
	})
}

func TestFirstCallersDeadlineDoesNotEndWhatOthersWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		d, ran := cached(e, Settings{Timeout: time.Minute})
		req := NewRequest(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(req, 100*time.Millisecond)
			defer cancel()
			start := time.Now()
			if _, err := d.Call(ctx, 4); !errors.Is(err, ErrTimeout) || time.Since(start) != 100*time.Millisecond {
				t.Errorf("first: got %v after %s, want ErrTimeout after 100ms", err, time.Since(start))
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if got, err := d.Call(req, 4); got != 8 || err != nil {
				t.Errorf("second: got %d, %v; want 8", got, err)
			}
		})
		wg.Wait()
		if got := ran.Load(); got != 1 {
			t.Errorf("ran %d times, want once", got)
		}
	})
}

func TestExecutionEndsWhenAllWhoWaitedHaveGone(t *testing.T) {
	for _, tc := range []struct {
		name   string
		end    func(context.Context) (context.Context, context.CancelFunc)
		is     error
		counts func(Counts) uint32
	}{
		{"cancelled", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(100*time.Millisecond, cancel)
			return ctx, cancel
		}, context.Canceled, func(n Counts) uint32 { return n.Cancelled }},
		{"late", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 100*time.Millisecond)
		}, ErrTimeout, func(n Counts) uint32 { return n.Timeout }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newTestEngine(t, Options{})
				d, ran := cached(e, Settings{Timeout: time.Minute})
				req := NewRequest(t.Context())
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						ctx, cancel := tc.end(req)
						defer cancel()
						if _, err := d.Call(ctx, 4); !errors.Is(err, tc.is) {
							t.Errorf("got %v, want %v", err, tc.is)
						}
					})
				}
				wg.Wait()
				synctest.Wait()
				if n := stats(t, e, "cached"); tc.counts(n.Counts) != 1 || n.Concurrent != 0 {
					t.Errorf("got %+v with %d in flight, want one %s and none", n.Counts, n.Concurrent, tc.name)
				}
				if got, err := d.Call(req, 4); got != 8 || err != nil || ran.Load() != 2 {
					t.Errorf("afterwards: got %d, %v after %d runs; want 8 of a second run", got, err, ran.Load())
				}
			})
		})
	}
}

func TestLateCallersGetTheFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		d := Define(e, "x", Definition[int, int]{
			Run:      func(ctx context.Context, _ int) (int, error) { <-ctx.Done(); return 0, ctx.Err() },
			Fallback: func(context.Context, int, error) (int, error) { return 7, nil },
			CacheKey: func(int) string { return "k" },
			Settings: Settings{Timeout: time.Minute},
		})
		req := NewRequest(t.Context())
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(req, time.Duration(i+1)*100*time.Millisecond)
				defer cancel()
				if got, err := d.Call(ctx, 0); got != 7 || err != nil {
					t.Errorf("caller %d: got %d, %v; want the fallback's 7", i, got, err)
				}
			})
		}
		wg.Wait()
	})
}

func TestPanicReachesAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		d := Define(e, "x", Definition[int, int]{
			Run:      func(context.Context, int) (int, error) { time.Sleep(time.Second); panic("boom") },
			CacheKey: func(int) string { return "k" },
			Settings: Settings{Timeout: time.Minute},
		})
		req := NewRequest(t.Context())
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				defer func() {
					if r := recover(); r != "boom" {
						t.Errorf("recovered %v, want boom", r)
					}
				}()
				d.Call(req, 0)
			})
		}
		wg.Wait()
		f := d.Go(t.Context(), 0)
		defer func() {
			if r := recover(); r != "boom" {
				t.Errorf("Get: recovered %v, want boom", r)
			}
		}()
		f.Get(t.Context())
	})
}

func TestRequestsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		d, _ := cached(e, Settings{Timeout: time.Minute})
		c := e.Command("x", Settings{})
		ctx := NewRequest(t.Context())
		Call(ctx, c, succeed)
		if got := RequestLog(ctx); got != nil {
			t.Errorf("nobody asked: got %v, want nothing", got)
		}
		stop := e.LogRequests()
		Call(ctx, c, succeed)
		Call(ctx, c, broken)
		CallOr(ctx, c, broken, func(context.Context, error) (int, error) { return 7, nil })
		d.Call(ctx, 4)
		d.Call(ctx, 4)
		e.Command("x", Settings{ForceOpen: true})
		Call(ctx, c, succeed)
		e.configure(0, properties{"hystrix.command.x.requestLog.enabled": "false"})
		Call(ctx, c, succeed)
		want := []Execution{
			{Command: "x", Events: []string{"SUCCESS"}},
			{Command: "x", Events: []string{"FAILURE", "FALLBACK_MISSING"}},
			{Command: "x", Events: []string{"FAILURE", "FALLBACK_SUCCESS"}},
			{Command: "cached", Events: []string{"SUCCESS"}, Latency: time.Second, CacheKey: "4"},
			{Command: "cached", Events: []string{"SUCCESS", "RESPONSE_FROM_CACHE"}, CacheKey: "4", Cached: true},
			{Command: "x", Events: []string{"SHORT_CIRCUITED", "FALLBACK_MISSING"}},
		}
		same := func(a, b Execution) bool { return fmt.Sprint(a) == fmt.Sprint(b) }
		if got := RequestLog(ctx); !slices.EqualFunc(got, want, same) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		if got := RequestLog(Detach(ctx)); len(got) != 0 || RequestID(Detach(ctx)) != RequestID(ctx) {
			t.Errorf("detached: got the log %v and id %s, want none and the same id", got, RequestID(Detach(ctx)))
		}
		stop()
		e.configure(0, nil)
		Call(ctx, c, succeed)
		if got := len(RequestLog(ctx)); got != len(want) {
			t.Errorf("after stop: got %d executions, want %d as before", got, len(want))
		}
	})
}

func TestFutureIsACallUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		d, _ := cached(e, Settings{Timeout: time.Minute})
		f := d.Go(t.Context(), 4)
		brief, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := f.Get(brief); err != context.DeadlineExceeded {
			t.Errorf("Get for a millisecond: got %v, want DeadlineExceeded", err)
		}
		<-f.Done()
		if got, err := f.Get(t.Context()); got != 8 || err != nil {
			t.Errorf("got %d, %v; want 8", got, err)
		}
		for _, interrupt := range []bool{false, true} {
			e.configure(0, properties{"hystrix.command.cached.execution.isolation.thread.interruptOnFutureCancel": fmt.Sprint(interrupt)})
			before := stats(t, e, "cached").Counts
			f := d.Go(t.Context(), 5)
			synctest.Wait()
			f.Cancel()
			f.Cancel()
			if _, err := f.Get(t.Context()); !errors.Is(err, context.Canceled) {
				t.Errorf("after Cancel: got %v, want Canceled", err)
			}
			<-f.Done()
			after := stats(t, e, "cached").Counts
			if got := after.Cancelled - before.Cancelled; (got == 1) != interrupt || (after.Success-before.Success == 1) == interrupt {
				t.Errorf("interruptOnFutureCancel=%v: %d runs were cancelled", interrupt, got)
			}
		}
	})
}

func TestIdempotentFunctionsAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{Idempotent: true, Timeout: time.Minute})
		plain := e.Command("plain", Settings{})
		for _, tc := range []struct {
			name string
			cmd  *Command
			ctx  context.Context
			errs []error // of the attempts; then success
			ran  int
			is   error
		}{
			{"second attempt succeeds", c, t.Context(), []error{errBroken}, 2, nil},
			{"two retries", c, t.Context(), []error{errBroken, errBroken}, 3, nil},
			{"no third retry", c, t.Context(), []error{errBroken, errBroken, errBroken}, 3, errBroken},
			{"not a bad request", c, t.Context(), []error{BadRequest(errBroken)}, 1, errBroken},
			{"not what another command gave up", c, t.Context(), []error{&Error{Command: "y", Kind: Open, Cause: ErrOpen}}, 1, ErrOpen},
			{"not unless it is idempotent", plain, t.Context(), []error{errBroken}, 1, errBroken},
			{"not for a request that is itself a retry", c, context.WithValue(t.Context(), inboundKey{}, &inbound{attempt: 2, importance: importance{priority: 10}}), []error{errBroken}, 1, errBroken},
		} {
			ran := 0
			_, err := Call(tc.ctx, tc.cmd, func(context.Context) (int, error) {
				if ran++; ran <= len(tc.errs) {
					return 0, tc.errs[ran-1]
				}
				return 1, nil
			})
			if ran != tc.ran || !errors.Is(err, tc.is) {
				t.Errorf("%s: ran %d times and got %v, want %d and %v", tc.name, ran, err, tc.ran, tc.is)
			}
		}
		if n := stats(t, e, "x").Counts; n.Success != 2 || n.Failure != 3 {
			t.Errorf("got %+v, want 2 successes and 3 failures: attempts are no calls", n)
		}
	})
}

func TestRetriesOfFunctionsKeepToTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{Idempotent: true, BreakerOff: true, Timeout: time.Minute})
		ran := 0
		in := &inbound{attempt: 1, importance: importance{priority: 10}}
		for range 1000 {
			Call(context.WithValue(t.Context(), inboundKey{}, in), c, func(context.Context) (int, error) { ran++; return 0, errBroken })
		}
		// The floor allows a hundred in each ten seconds; 1000 calls with a hundred retries at 12 ms last little longer.
		if extra := ran - 1000; extra < 100 || extra > 320 {
			t.Errorf("%d retries of 1000 failing calls, want at least 100 and at most a fifth and ten a second more", extra)
		}
		if !in.noRetry.Load() {
			t.Error("nobody upstream was told not to try again")
		}
	})
}
