package ipc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/meter"
)

func TestTimeoutEndsTheContextAndTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{Timeout: 300 * time.Millisecond})
		start := time.Now()
		_, err := Call(t.Context(), c, func(ctx context.Context) (int, error) {
			select {
			case <-ctx.Done():
				return 0, ctx.Err()
			case <-time.After(time.Hour):
				return 1, nil
			}
		})
		if d := time.Since(start); d != 300*time.Millisecond {
			t.Errorf("returned after %s, want 300ms", d)
		}
		if !errors.Is(err, ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want ErrTimeout and context.DeadlineExceeded", err)
		}
		var ie *Error
		if !errors.As(err, &ie) || ie.Command != "x" || ie.Kind != TimedOut {
			t.Errorf("got %#v, want an *Error of command x that timed out", err)
		}
	})
}

type closer struct{ closed bool }

func (c *closer) Close() error { c.closed = true; return nil }

func TestLateResultIsDroppedAndClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{Timeout: 100 * time.Millisecond})
		late := &closer{}
		got, err := Call(t.Context(), c, func(context.Context) (io.Closer, error) {
			time.Sleep(200 * time.Millisecond)
			return late, nil
		})
		if got != nil || !errors.Is(err, ErrTimeout) || !late.closed {
			t.Errorf("got %v, %v, closed %v; want nil, ErrTimeout, closed", got, err, late.closed)
		}
	})
}

func TestScopeBehavesAsAContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{Timeout: time.Second})
		type key struct{}
		parent, cancelParent := context.WithCancelCause(context.WithValue(t.Context(), key{}, "v"))
		start := time.Now()
		var kept context.Context
		Call(parent, c, func(ctx context.Context) (int, error) {
			kept = ctx
			if v := ctx.Value(key{}); v != "v" {
				t.Errorf("value: got %v, want the parent's", v)
			}
			if d, ok := ctx.Deadline(); !ok || d.Sub(start) != time.Second {
				t.Errorf("deadline %s after the start, want 1s", d.Sub(start))
			}
			if err := ctx.Err(); err != nil {
				t.Errorf("err before the end: got %v, want nil", err)
			}
			child, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			ran, stopped := make(chan bool, 1), false
			context.AfterFunc(ctx, func() { ran <- true })
			stop := context.AfterFunc(ctx, func() { stopped = true })
			if !stop() {
				t.Error("stop of AfterFunc before the end: got false, want true")
			}
			<-child.Done()
			if d := time.Since(start); d != time.Second {
				t.Errorf("the child ended after %s, want 1s", d)
			}
			if child.Err() != context.DeadlineExceeded || ctx.Err() != context.DeadlineExceeded {
				t.Errorf("got %v and %v, want DeadlineExceeded twice", child.Err(), ctx.Err())
			}
			<-ran
			if stopped {
				t.Error("a stopped AfterFunc ran")
			}
			return 0, ctx.Err()
		})
		cancelParent(errBroken)
		if kept.Err() != context.DeadlineExceeded {
			t.Errorf("after the end the reason changed to %v", kept.Err())
		}

		parent, cancelParent = context.WithCancelCause(t.Context())
		Call(parent, c, func(ctx context.Context) (int, error) {
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			time.AfterFunc(time.Millisecond, func() { cancelParent(errBroken) })
			<-child.Done()
			if ctx.Err() != context.Canceled || context.Cause(child) != errBroken {
				t.Errorf("parent cancelled: got %v, cause %v; want Canceled, the parent's cause", ctx.Err(), context.Cause(child))
			}
			return 0, ctx.Err()
		})

		Call(t.Context(), c, func(ctx context.Context) (int, error) { kept = ctx; ctx.Done(); return 0, nil })
		select {
		case <-kept.Done():
		default:
			t.Error("the context of a call that returned is not done")
		}
		select {
		case <-kept.Done():
			if kept.Err() != context.Canceled {
				t.Errorf("after the return: got %v, want Canceled", kept.Err())
			}
		default:
		}
	})
}

func TestNearerDeadlineOfTheCallerCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{Timeout: time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := Call(ctx, c, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		if d := time.Since(start); d != 100*time.Millisecond || !errors.Is(err, ErrTimeout) {
			t.Errorf("got %v after %s, want ErrTimeout after 100ms", err, d)
		}
		if _, err = Call(ctx, c, succeed); !errors.Is(err, ErrDeadlineSpent) {
			t.Errorf("with a deadline in the past: got %v, want ErrDeadlineSpent", err)
		}
		if n := c.tally()[unanswered]; n != 1 {
			t.Errorf("calls without time: %d counted, want 1", n)
		}
	})
}

func TestBulkheadRefusesTheOneTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{MaxConcurrent: 2})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				// It ignores its context, so the permit stays out beyond the timeout of 1 s.
				Call(context.Background(), c, func(context.Context) (int, error) { time.Sleep(3 * time.Second); return 0, nil })
			})
		}
		for _, at := range []time.Duration{0, 2 * time.Second} {
			time.Sleep(at)
			synctest.Wait()
			if _, err := Call(t.Context(), c, succeed); !errors.Is(err, ErrRejected) {
				t.Errorf("after %s: got %v, want ErrRejected", at, err)
			}
		}
		wg.Wait()
		if _, err := Call(t.Context(), c, succeed); err != nil {
			t.Errorf("after the others returned: got %v, want nil", err)
		}
	})
}

func TestFallbackRunsWhenItShould(t *testing.T) {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for _, tc := range []struct {
		name     string
		ctx      context.Context
		run      func(context.Context) (int, error)
		settings Settings
		want     int // 7 is the fallback's
		is       error
	}{
		{"success needs none", context.Background(), succeed, Settings{}, 1, nil},
		{"failure", context.Background(), broken, Settings{}, 7, nil},
		{"open", context.Background(), succeed, Settings{ForceOpen: true}, 7, nil},
		{"bad request is the caller's", context.Background(), func(context.Context) (int, error) { return 0, BadRequest(errBroken) }, Settings{}, 0, errBroken},
		{"caller gone", gone, func(ctx context.Context) (int, error) { return 0, ctx.Err() }, Settings{}, 0, context.Canceled},
		{"switched off", context.Background(), broken, Settings{FallbackOff: true}, 0, errBroken},
		{"run cancels something of its own", context.Background(), func(context.Context) (int, error) { return 0, context.Canceled }, Settings{}, 7, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newTestEngine(t, Options{})
			got, err := CallOr(tc.ctx, e.Command("x", tc.settings), tc.run, func(_ context.Context, cause error) (int, error) {
				if cause == nil {
					t.Error("the fallback was not told why it runs")
				}
				return 7, nil
			})
			if got != tc.want || !errors.Is(err, tc.is) {
				t.Errorf("got %d, %v; want %d, %v", got, err, tc.want, tc.is)
			}
		})
	}
}

func TestFailedFallbackTellsBothErrors(t *testing.T) {
	e := newTestEngine(t, Options{})
	second := errors.New("no cache either")
	_, err := CallOr(t.Context(), e.Command("x", Settings{}), broken, func(context.Context, error) (int, error) { return 0, second })
	if !errors.Is(err, errBroken) || !errors.Is(err, second) || !errors.Is(err, ErrFallback) {
		t.Errorf("got %v, want both errors and ErrFallback", err)
	}
}

func TestFallbackGetsTimeWhenTheDeadlineIsSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		got, err := CallOr(ctx, e.Command("x", Settings{}), func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() },
			func(ctx context.Context, _ error) (int, error) {
				d, _ := ctx.Deadline()
				if left := time.Until(d); left != fallbackTime || ctx.Err() != nil {
					t.Errorf("the fallback has %s and %v, want %s and no error", left, ctx.Err(), fallbackTime)
				}
				return 7, nil
			})
		if got != 7 || err != nil {
			t.Errorf("got %d, %v; want 7", got, err)
		}
	})
}

func TestFallbacksAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{MaxFallbacks: 1})
		slow := func(context.Context, error) (int, error) { time.Sleep(time.Second); return 7, nil }
		var wg sync.WaitGroup
		wg.Go(func() { CallOr(context.Background(), c, broken, slow) })
		synctest.Wait()
		if _, err := CallOr(t.Context(), c, broken, slow); !errors.Is(err, ErrFallback) || !errors.Is(err, errBroken) {
			t.Errorf("second fallback: got %v, want ErrFallback and the cause", err)
		}
		wg.Wait()
	})
}

func TestPanicGoesOnAndCountsAsFailure(t *testing.T) {
	e := newTestEngine(t, Options{})
	c := e.Command("x", Settings{})
	func() {
		defer func() {
			if r := recover(); r != "boom" {
				t.Errorf("recovered %v, want boom", r)
			}
		}()
		Call(t.Context(), c, func(context.Context) (int, error) { panic("boom") })
	}()
	if n := c.tally()[failure]; n != 1 || c.inFlight() != 0 {
		t.Errorf("%d failures and %d in flight, want 1 and 0", n, c.inFlight())
	}
}

func TestPropertiesOverrideCodeAndBadOnesAreRefused(t *testing.T) {
	var log bytes.Buffer
	e := newTestEngine(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	c := e.Command("x", Settings{Timeout: 2 * time.Second})
	const key = "hystrix.command.x.execution.isolation.thread.timeoutInMilliseconds"
	for _, tc := range []struct {
		props properties
		want  time.Duration
	}{
		{nil, 2 * time.Second},
		{properties{key: "300"}, 300 * time.Millisecond},
		{properties{key: "soon"}, 300 * time.Millisecond},
		{properties{key: "-5"}, 300 * time.Millisecond},
		{properties{key: "0"}, 300 * time.Millisecond},
		{properties{"hystrix.command.default.execution.isolation.thread.timeoutInMilliseconds": "77"}, 2 * time.Second},
		{properties{"hystrix.command.x.execution.timeout.enabled": "false"}, -1},
		{properties{key: "400"}, 400 * time.Millisecond},
	} {
		e.configure(0, tc.props)
		if got := c.set.Load().Timeout; got != tc.want {
			t.Errorf("with %v: got %s, want %s", tc.props, got, tc.want)
		}
	}
	if n := strings.Count(log.String(), "bad value"); n != 3 {
		t.Errorf("%d complaints about bad values, want 3:\n%s", n, log.String())
	}
	e.configure(0, properties{"hystrix.command.default.circuitBreaker.requestVolumeThreshold": "5"})
	if got := c.set.Load().RequestVolume; got != 5 {
		t.Errorf("default property: got %d, want 5", got)
	}
	e.configure(1, properties{"ipc.command.x.retries": "0"})
	if got := c.set.Load().Retries; got != -1 {
		t.Errorf("retries 0: got %d, want -1, never", got)
	}
}

func TestSettingsThatMakeNoSenseAreRefused(t *testing.T) {
	e := newTestEngine(t, Options{})
	c := e.Command("x", Settings{Timeout: 2 * time.Second})
	for _, s := range []Settings{{ErrorPercent: 101}, {MaxConcurrent: -1}, {SleepWindow: -1}, {Retries: 100}} {
		if e.Command("x", s); c.set.Load().Timeout != 2*time.Second {
			t.Errorf("settings %+v were taken", s)
		}
	}
	if e.Command("x", Settings{}) != c {
		t.Error("the same name gave another command")
	}
}

func TestCommandFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("GetRecs", Settings{})
		with := func(rules string) context.Context {
			k := fault.Key("k")
			f, err := fault.Parse(k, fault.Sign(k, "x", time.Now().Add(time.Hour), rules), "r", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			return fault.With(t.Context(), f)
		}
		if _, err := Call(with("command:Get*=error(503)"), c, succeed); !errors.Is(err, ErrInjected) {
			t.Errorf("error: got %v, want ErrInjected", err)
		}
		start := time.Now()
		if _, err := Call(with("command:Get*=delay(200ms)"), c, succeed); err != nil || time.Since(start) != 200*time.Millisecond {
			t.Errorf("delay: got %v after %s, want success after 200ms", err, time.Since(start))
		}
		start = time.Now()
		if _, err := Call(with("command:Get*=hang"), c, succeed); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("hang: got %v after %s, want DeadlineExceeded after the timeout of 1s", err, time.Since(start))
		}
		_, err := CallOr(with("command:Get*=error(503);command:*=nofallback"), c, succeed, func(context.Context, error) (int, error) { return 7, nil })
		if !errors.Is(err, ErrFallback) {
			t.Errorf("nofallback: got %v, want ErrFallback", err)
		}
		if n := c.tally()[failure]; n != 3 {
			t.Errorf("%d failures counted, want 3: injected ones are real to the breaker", n)
		}
		v, err := CallOr(with("command:Get*=reject"), c, succeed, func(_ context.Context, cause error) (int, error) {
			if !errors.Is(cause, ErrRejected) || !errors.Is(cause, ErrInjected) {
				t.Errorf("reject: the fallback is told %v, want ErrRejected and ErrInjected", cause)
			}
			return 7, nil
		})
		if n := c.tally()[rejected]; v != 7 || err != nil || n != 1 {
			t.Errorf("reject: got %d, %v, %d rejected; want the fallback's 7, and one rejected", v, err, n)
		}
	})
}

func TestCallsAreMetered(t *testing.T) {
	m := meter.New(nil)
	e := newTestEngine(t, Options{Meter: m})
	c := e.Command("x", Settings{})
	instead := func(context.Context, error) (int, error) { return 7, nil }
	repeat(3, c, succeed)
	repeat(2, c, broken)
	CallOr(t.Context(), c, broken, instead)
	e.Command("x", Settings{ForceOpen: true})
	CallOr(t.Context(), c, succeed, instead)
	for _, tc := range []struct {
		result, cause string
		want          int64
	}{{"success", "none", 3}, {"failure", "error", 2}, {"fallback", "error", 1}, {"fallback", "open", 1}} {
		s := m.PercentileTimer("ipc.client.call", "ipc.vip", "x", "ipc.result", tc.result, "ipc.cause", tc.cause).Snapshot()
		if s.Count != tc.want {
			t.Errorf("%s because of %s: got %d, want %d", tc.result, tc.cause, s.Count, tc.want)
		}
	}
}

func TestClockTicksOnlyWhileCallsAreThick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{})
		repeat(100, c, succeed)
		if e.clock.rough.Load() != 0 {
			t.Error("100 calls started the coarse clock")
		}
		repeat(2000, c, succeed)
		if e.clock.rough.Load() == 0 {
			t.Fatal("2000 calls at once did not start the coarse clock")
		}
		before := e.clock.roughly()
		time.Sleep(50 * time.Millisecond)
		if got := time.Duration(e.clock.roughly() - before); got < 48*time.Millisecond || got > 50*time.Millisecond {
			t.Errorf("after 50 ms the coarse clock went on by %s", got)
		}
		time.Sleep(time.Second)
		if e.clock.rough.Load() != 0 {
			t.Error("the coarse clock still ticks after a second without calls")
		}
	})
}
