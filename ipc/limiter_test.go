package ipc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// configureCommands sets the properties of commands that Hystrix does not have.
func configureCommands(e *Engine, kv ...string) {
	p := properties{}
	for i := 0; i < len(kv); i += 2 {
		p[ipcPrefix+kv[i]] = kv[i+1]
	}
	e.configure(1, p)
}

func TestAnAdaptiveLimitRefusesWhatIsBeyondIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{Limit: LimitFixed, LimitInitial: 3, Timeout: -1})
		hold := make(chan struct{})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := Call(t.Context(), c, func(context.Context) (int, error) { <-hold; return 0, nil }); err != nil {
					t.Errorf("one of three: %v", err)
				}
			})
		}
		synctest.Wait()
		_, err := Call(t.Context(), c, func(context.Context) (int, error) { t.Error("it ran"); return 0, nil })
		var ie *Error
		if !errors.Is(err, ErrLimited) || !errors.As(err, &ie) || ie.Kind != Limited || errors.Is(err, ErrRejected) {
			t.Errorf("the fourth: got %v, want ErrLimited", err)
		}
		if got, err := CallOr(t.Context(), c, func(context.Context) (int, error) { return 0, nil }, func(context.Context, error) (int, error) { return 7, nil }); got != 7 || err != nil {
			t.Errorf("the fourth with a fallback: got %d, %v; want 7", got, err)
		}
		if s := e.Snapshot()[0]; s.Counts["semaphoreRejected"]+s.Counts["rejected"] != 2 {
			t.Errorf("counted %v, want two rejected", s.Counts)
		}
		configureCommands(e, "x.limit", "off")
		if _, err := Call(t.Context(), c, func(context.Context) (int, error) { return 0, nil }); err != nil {
			t.Errorf("without a limit: %v", err)
		}
		close(hold)
		wg.Wait()
		if n := c.inFlight(); n != 0 {
			t.Errorf("%d in flight after all, want 0", n)
		}
	})
}

func TestTheAdaptiveLimitFallsWithRefusalsAndTimeoutsAndRises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{Limit: LimitAIMD, LimitInitial: 100, LimitMin: 10, LimitMax: 200, BreakerOff: true, Timeout: time.Second})
		second := func(n int, run func(ctx context.Context) (int, error)) int {
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() { Call(t.Context(), c, run) })
			}
			wg.Wait()
			time.Sleep(1100 * time.Millisecond)
			wg.Go(func() { Call(t.Context(), c, run) }) // closes the window
			wg.Wait()
			return c.adaptive.Load().Limit()
		}
		fine := func(context.Context) (int, error) { time.Sleep(5 * time.Millisecond); return 0, nil }
		second(20, fine)
		if got := second(60, fine); got <= 100 {
			t.Errorf("well used and well: the limit is %d, want more than 100", got)
		}
		before := c.adaptive.Load().Limit()
		shed := func(context.Context) (int, error) {
			time.Sleep(5 * time.Millisecond)
			return 0, &StatusError{Status: 503, shed: true}
		}
		second(20, shed)
		if got := second(20, shed); got >= before {
			t.Errorf("refused by the callee: the limit is %d, want less than %d", got, before)
		}
		before = c.adaptive.Load().Limit()
		late := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
		second(20, late)
		if got := second(20, late); got >= before {
			t.Errorf("timed out: the limit is %d, want less than %d", got, before)
		}
		failed := func(context.Context) (int, error) { time.Sleep(5 * time.Millisecond); return 0, errBroken }
		second(20, fine)
		before = c.adaptive.Load().Limit()
		second(20, failed)
		if got := second(20, failed); got < before {
			t.Errorf("failed for other reasons: the limit is %d, want no less than %d", got, before)
		}
		if n := c.adaptive.Load().InFlight(); n != 0 {
			t.Errorf("%d in flight after all, want 0", n)
		}
	})
}

func TestTheHTTPClientHeedsTheAdaptiveLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): func(r *http.Request) (*http.Response, error) {
			<-hold
			return answer(200)(r)
		}}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("z", 1)}, Transport: n})
		configureCommands(e, "app.limit", "fixed", "app.limit.initial", "1")
		var wg sync.WaitGroup
		wg.Go(func() {
			if status, err := get(e, t.Context(), "GET", "http://app/"); status != 200 {
				t.Errorf("the first: got %d, %v", status, err)
			}
		})
		synctest.Wait()
		if _, err := get(e, t.Context(), "GET", "http://app/"); !errors.Is(err, ErrLimited) {
			t.Errorf("the second: got %v, want ErrLimited", err)
		}
		close(hold)
		wg.Wait()
		if status, err := get(e, t.Context(), "GET", "http://app/"); status != 200 {
			t.Errorf("afterwards: got %d, %v", status, err)
		}
	})
}

func TestWrongAdaptiveLimitsAreRefusedAndTheOldOnesStay(t *testing.T) {
	for name, tc := range map[string]struct{ key, value, says string }{
		"not a kind":       {"x.limit", "reno", "use aimd, vegas, gradient2, fixed or off"},
		"no number":        {"x.limit.max", "-1", "whole number from 1"},
		"crossed":          {"x.limit.max", "5", "from 30, at least 20 and at most 5"},
		"below the least":  {"x.limit.initial", "2", "from 2, at least 20"},
		"no time":          {"x.limit.timeoutInMilliseconds", "0", "whole number from 1"},
		"the wrong bounds": {"x.limit.min", "999", "makes no sense"},
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			e := newTestEngine(t, Options{Log: slog.New(slog.NewTextHandler(io.MultiWriter(&log), nil))})
			c := e.Command("x", Settings{})
			good := []string{"x.limit", "aimd", "x.limit.initial", "30", "x.limit.min", "20"}
			configureCommands(e, good...)
			before := c.set.Load().limitOnly()
			if got := c.adaptive.Load().Limit(); got != 30 {
				t.Fatalf("good settings: the limit is %d, want 30", got)
			}
			configureCommands(e, append(good, tc.key, tc.value)...)
			if got := c.set.Load().limitOnly(); got != before || c.adaptive.Load().Limit() != 30 {
				t.Errorf("got %+v, want what was before", got)
			}
			if !strings.Contains(log.String(), tc.says) || !strings.Contains(log.String(), ipcPrefix+tc.key) {
				t.Errorf("the log lacks %q:\n%s", tc.says, log.String())
			}
		})
	}
}

func TestAWrongAdaptiveLimitInCodeIsRefused(t *testing.T) {
	for _, s := range []Settings{{Limit: 99}, {Limit: LimitAIMD, LimitMin: 30, LimitMax: 20}, {Limit: LimitVegas, LimitInitial: 5, LimitMax: 4}, {LimitTimeout: -1}} {
		if err := s.validate(); err == nil {
			t.Errorf("%+v: got no error", s.limitOnly())
		}
	}
}
