package ipc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestEveryPropertyOfACommandIsHeeded sets each to a value that is not its default, then to one that makes no sense.
func TestEveryPropertyOfACommandIsHeeded(t *testing.T) {
	for _, tc := range []struct {
		key, good, bad string
		static         bool
		got            func(s *settings) any
		want           any
	}{
		{"hystrix.command.x.execution.isolation.strategy", "thread", "FIBER", false, func(s *settings) any { return s.Isolation }, Thread},
		{"hystrix.command.x.execution.isolation.thread.timeoutInMilliseconds", "300", "0", false, func(s *settings) any { return s.Timeout }, 300 * time.Millisecond},
		{"hystrix.command.x.execution.timeout.enabled", "false", "no", false, func(s *settings) any { return s.Timeout }, time.Duration(-1)},
		{"hystrix.command.x.execution.isolation.thread.interruptOnTimeout", "false", "1", false, func(s *settings) any { return s.Uninterrupted }, true},
		{"hystrix.command.x.execution.isolation.thread.interruptOnFutureCancel", "true", "yes", false, func(s *settings) any { return s.InterruptOnCancel }, true},
		{"hystrix.command.x.execution.isolation.semaphore.maxConcurrentRequests", "10", "-1", false, func(s *settings) any { return s.MaxConcurrent }, 10},
		{"hystrix.command.x.fallback.isolation.semaphore.maxConcurrentRequests", "3", "0", false, func(s *settings) any { return s.MaxFallbacks }, 3},
		{"hystrix.command.x.fallback.enabled", "false", "", false, func(s *settings) any { return s.FallbackOff }, true},
		{"hystrix.command.x.circuitBreaker.enabled", "false", "off", false, func(s *settings) any { return s.BreakerOff }, true},
		{"hystrix.command.x.circuitBreaker.forceOpen", "true", "open", false, func(s *settings) any { return s.ForceOpen }, true},
		{"hystrix.command.x.circuitBreaker.forceClosed", "TRUE", "closed", false, func(s *settings) any { return s.ForceClosed }, true},
		{"hystrix.command.x.circuitBreaker.requestVolumeThreshold", "5", "0", false, func(s *settings) any { return s.RequestVolume }, 5},
		{"hystrix.command.x.circuitBreaker.errorThresholdPercentage", "25", "101", false, func(s *settings) any { return s.ErrorPercent }, 25},
		{"hystrix.command.x.circuitBreaker.sleepWindowInMilliseconds", "1500", "1.5", false, func(s *settings) any { return s.SleepWindow }, 1500 * time.Millisecond},
		{"hystrix.command.x.metrics.rollingStats.timeInMilliseconds", "20000", "1", true, func(s *settings) any { return s.RollingWindow }, 20 * time.Second},
		{"hystrix.command.x.metrics.rollingStats.numBuckets", "20", "7", true, func(s *settings) any { return s.RollingBuckets }, 20},
		{"hystrix.command.x.metrics.healthSnapshot.intervalInMilliseconds", "100", "333", true, func(s *settings) any { return s.HealthInterval }, 100 * time.Millisecond},
		{"hystrix.command.x.metrics.rollingPercentile.enabled", "false", "x", true, func(s *settings) any { return s.PercentilesOff }, true},
		{"hystrix.command.x.metrics.rollingPercentile.timeInMilliseconds", "30000", "a minute", true, func(s *settings) any { return s.PercentileWindow }, 30 * time.Second},
		{"hystrix.command.x.metrics.rollingPercentile.numBuckets", "12", "7", true, func(s *settings) any { return s.PercentileBuckets }, 12},
		{"hystrix.command.x.requestCache.enabled", "false", "x", false, func(s *settings) any { return s.CacheOff }, true},
		{"hystrix.command.x.requestLog.enabled", "false", "x", false, func(s *settings) any { return s.LogOff }, true},
		{"hystrix.command.x.threadPoolKeyOverride", "shared", " ", false, func(s *settings) any { return s.pool }, "shared"},
		{"ipc.command.x.retries", "4", "10", false, func(s *settings) any { return s.Retries }, 4},
		{"ipc.command.x.attemptTimeoutInMilliseconds", "70", "-70", false, func(s *settings) any { return s.AttemptTimeout }, 70 * time.Millisecond},
		{"ipc.command.x.breaker.trialPermits", "3", "101", false, func(s *settings) any { return s.TrialPermits }, 3},
		{"ipc.command.x.breaker.slowCallMillis", "250", "slow", false, func(s *settings) any { return s.SlowCall }, 250 * time.Millisecond},
		{"ipc.command.x.breaker.slowCallRatePercent", "60", "0", false, func(s *settings) any { return s.SlowPercent }, 60},
		{"ipc.command.x.breaker.slowMinimumCalls", "7", "0", false, func(s *settings) any { return s.SlowMinimum }, 7},
		{"ipc.command.x.breaker.instantOpen", "true", "2", false, func(s *settings) any { return s.InstantOpen }, true},
		{"ipc.command.x.breaker.escalatingSleep", "true", "2", false, func(s *settings) any { return s.EscalatingSleep }, true},
		{"ipc.command.x.breaker.scope", "endpoint", "zone", false, func(s *settings) any { return s.PerInstance }, true},
	} {
		t.Run(tc.key, func(t *testing.T) {
			var log bytes.Buffer
			e := newTestEngine(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			initial := tc.got(e.Command("y", Settings{}).set.Load())
			if initial == tc.want {
				t.Fatalf("%v is the default: the test shows nothing", initial)
			}
			c := e.Command("x", Settings{})
			e.configure(0, properties{tc.key: tc.good})
			if got := tc.got(c.set.Load()); (got == tc.want) == tc.static {
				t.Errorf("=%s while it runs: got %v; want it taken unless static", tc.good, got)
			}
			if refused := strings.Contains(log.String(), "after a restart"); refused != tc.static {
				t.Errorf("=%s while it runs: told to be static %v, want %v", tc.good, refused, tc.static)
			}
			log.Reset()
			e.configure(0, properties{tc.key: tc.bad})
			want := tc.want
			if tc.static {
				want = initial
			}
			if got := tc.got(c.set.Load()); got != want || !strings.Contains(log.String(), tc.key) {
				t.Errorf("=%q: got %v and the log %q; want %v as before, and a line that names the key", tc.bad, got, log.String(), want)
			}

			e = newTestEngine(t, Options{})
			e.configure(0, properties{tc.key: tc.good})
			if got := tc.got(e.Command("x", Settings{}).set.Load()); got != tc.want {
				t.Errorf("=%s from the start: got %v, want %v", tc.good, got, tc.want)
			}
			e.configure(0, properties{tc.key: tc.bad})
			if got := tc.got(e.Command("x", Settings{}).set.Load()); got != tc.want {
				t.Errorf("=%s after =%s: got %v, want %v still", tc.bad, tc.good, got, tc.want)
			}
			log.Reset()
			e = newTestEngine(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			e.configure(0, properties{tc.key: tc.bad})
			if got := tc.got(e.Command("x", Settings{}).set.Load()); got == tc.want || !strings.Contains(log.String(), tc.key) {
				t.Errorf("=%q from the start: got %v and the log %q; want the default, and a line that names the key", tc.bad, got, log.String())
			}
		})
	}
}

func TestBadPropertyFromTheStartLeavesTheCodesValue(t *testing.T) {
	e := newTestEngine(t, Options{})
	e.configure(0, properties{"hystrix.command.x.execution.isolation.thread.timeoutInMilliseconds": "soon"})
	if got := e.Command("x", Settings{Timeout: 3 * time.Second}).set.Load().Timeout; got != 3*time.Second {
		t.Errorf("got %s, want the 3s of the code", got)
	}
}

func TestPoolOfACommandIsThatOfItsGroup(t *testing.T) {
	e := newTestEngine(t, Options{})
	for name, s := range map[string]Settings{"own": {}, "grouped": {Group: "g"}, "named": {Group: "g", Pool: "p"}} {
		want := map[string]string{"own": "own", "grouped": "g", "named": "p"}[name]
		e.Command(name, s)
		if got := stats(t, e, name).Pool; got != want {
			t.Errorf("%s: got pool %s, want %s", name, got, want)
		}
	}
}

func TestAllTrialsMustSucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c, _ := openBreaker(t, e, Settings{TrialPermits: 3, SleepWindow: time.Second})
		time.Sleep(1100 * time.Millisecond)
		repeat(2, c, succeed)
		if got := state(c); got != "HALF_OPEN" {
			t.Errorf("after two of three trials: got %s, want HALF_OPEN", got)
		}
		repeat(1, c, succeed)
		if got := state(c); got != "CLOSED" {
			t.Errorf("after three of three trials: got %s, want CLOSED", got)
		}

		openBreaker(t, e, Settings{TrialPermits: 3, SleepWindow: time.Second})
		time.Sleep(1100 * time.Millisecond)
		entered, leave := make(chan bool, 4), make(chan error)
		for range 4 {
			go Call(t.Context(), c, func(context.Context) (int, error) { entered <- true; return 0, <-leave })
		}
		synctest.Wait()
		if n := len(entered); n != 3 {
			t.Errorf("%d trials run at once, want 3", n)
		}
		leave <- nil
		leave <- errBroken
		synctest.Wait()
		if got := state(c); got != "OPEN" {
			t.Errorf("after one trial failed: got %s, want OPEN", got)
		}
		leave <- nil
		synctest.Wait()
		if got := state(c); got != "OPEN" {
			t.Errorf("after a trial succeeded that another's failure had overtaken: got %s, want OPEN", got)
		}
	})
}

func TestSlowCallsOpenTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{SlowCall: 100 * time.Millisecond, SlowPercent: 50, SlowMinimum: 10})
		take := func(d time.Duration) func(context.Context) (int, error) {
			return func(context.Context) (int, error) { time.Sleep(d); return 0, nil }
		}
		repeat(5, c, take(100*time.Millisecond))
		repeat(4, c, take(time.Millisecond))
		time.Sleep(tickTime)
		if got := state(c); got != "CLOSED" {
			t.Errorf("5 of 9 slow: got %s, want CLOSED: 9 are too few", got)
		}
		repeat(1, c, take(99*time.Millisecond))
		time.Sleep(tickTime)
		if got := state(c); got != "OPEN" {
			t.Errorf("5 of 10 slow: got %s, want OPEN", got)
		}
		if n := stats(t, e, "x").Counts; n.Slow != 5 || n.Success != 10 {
			t.Errorf("got %d slow and %d successful calls, want 5 and 10", n.Slow, n.Success)
		}
		time.Sleep(5 * time.Second)
		repeat(1, c, take(200*time.Millisecond))
		if got := state(c); got != "OPEN" {
			t.Errorf("after a slow trial: got %s, want OPEN", got)
		}
		time.Sleep(6 * time.Second)
		repeat(1, c, succeed)
		if got := state(c); got != "CLOSED" {
			t.Errorf("after a quick trial: got %s, want CLOSED", got)
		}
	})
}

func TestInstantOpenDoesNotWaitForTheBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{InstantOpen: true})
		repeat(19, c, broken)
		if got := state(c); got != "CLOSED" {
			t.Errorf("after 19 errors: got %s, want CLOSED", got)
		}
		repeat(1, c, broken)
		if got := state(c); got != "OPEN" {
			t.Errorf("after 20 errors: got %s, want OPEN", got)
		}
	})
}

func TestEscalatingSleepDoublesUpToAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c, _ := openBreaker(t, e, Settings{EscalatingSleep: true, SleepWindow: 10 * time.Second})
		for i, want := range []time.Duration{10, 20, 40, 60, 60} {
			at := c.clock.time(c.breaker.openedAt.Load())
			time.Sleep(time.Until(at.Add(want * time.Second)))
			if _, err := Call(t.Context(), c, broken); !errors.Is(err, ErrOpen) {
				t.Errorf("trial %d after %d s: got %v, want ErrOpen", i, want, err)
			}
			time.Sleep(time.Nanosecond)
			if _, err := Call(t.Context(), c, broken); !errors.Is(err, errBroken) {
				t.Errorf("trial %d after more than %d s: got %v, want it to run", i, want, err)
			}
		}
		time.Sleep(time.Minute + time.Second)
		repeat(1, c, succeed)
		openBreaker(t, e, Settings{EscalatingSleep: true, SleepWindow: 10 * time.Second})
		time.Sleep(10*time.Second + time.Millisecond)
		if _, err := Call(t.Context(), c, succeed); err != nil {
			t.Errorf("10 s after it opened anew: got %v, want the trial to run", err)
		}
	})
}

func TestBreakerPerInstanceNeverRefusesTheCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{PerInstance: true})
		repeat(100, c, broken)
		time.Sleep(2 * time.Second)
		if _, err := Call(t.Context(), c, succeed); err != nil || state(c) != "CLOSED" {
			t.Errorf("after 100 errors: got %v, %s; want the call to run, CLOSED", err, state(c))
		}
	})
}
