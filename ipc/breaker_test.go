package ipc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

var errBroken = errors.New("broken")

func succeed(context.Context) (int, error) { return 1, nil }
func broken(context.Context) (int, error)  { return 0, errBroken }

func repeat(n int, c *Command, run func(context.Context) (int, error)) {
	for range n {
		Call(context.Background(), c, run)
	}
}

func state(c *Command) string { return c.breaker.name(c.set.Load()) }

func TestBreakerOpensAtThresholdsOnly(t *testing.T) {
	for _, tc := range []struct {
		name      string
		good, bad int
		want      string
	}{
		{"19 errors are too few", 0, 19, "CLOSED"},
		{"20 errors", 0, 20, "OPEN"},
		{"20 calls, 50 %", 10, 10, "OPEN"},
		{"49.9 %", 501, 499, "CLOSED"},
		{"50 % of 1000", 500, 500, "OPEN"},
		{"no errors", 1000, 0, "CLOSED"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newTestEngine(t, Options{})
				c := e.Command("x", Settings{})
				repeat(tc.good, c, succeed)
				repeat(tc.bad, c, broken)
				if got := state(c); got != "CLOSED" {
					t.Errorf("before the rollover: got %s, want CLOSED", got)
				}
				time.Sleep(tickTime + time.Millisecond)
				if got := state(c); got != tc.want {
					t.Errorf("%d successes and %d failures: got %s, want %s", tc.good, tc.bad, got, tc.want)
				}
			})
		})
	}
}

func TestBreakerForgetsAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{})
		repeat(19, c, broken)
		time.Sleep(11 * time.Second)
		repeat(19, c, broken)
		time.Sleep(time.Second)
		if got := state(c); got != "CLOSED" {
			t.Errorf("19 errors, 11 s, 19 errors: got %s, want CLOSED", got)
		}
	})
}

// openBreaker returns a command whose breaker has just opened, and when.
func openBreaker(t *testing.T, e *Engine, s Settings) (*Command, time.Time) {
	t.Helper()
	c := e.Command("x", s)
	repeat(20, c, broken)
	for range 10 {
		time.Sleep(100 * time.Millisecond)
		if state(c) == "OPEN" {
			return c, c.clock.time(c.breaker.openedAt.Load())
		}
	}
	t.Fatal("20 failures did not open the breaker within a second")
	return nil, time.Time{}
}

func TestSleepWindowIsStrict(t *testing.T) {
	for _, sleep := range []time.Duration{100 * time.Millisecond, 499 * time.Millisecond, time.Second, 5 * time.Second, 7300 * time.Millisecond} {
		t.Run(sleep.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newTestEngine(t, Options{})
				c, at := openBreaker(t, e, Settings{SleepWindow: sleep})
				if rest := time.Until(at.Add(sleep)); rest >= 0 {
					time.Sleep(rest)
					if _, err := Call(t.Context(), c, succeed); !errors.Is(err, ErrOpen) {
						t.Errorf("at exactly %s: got %v, want ErrOpen", sleep, err)
					}
					time.Sleep(time.Nanosecond)
				}
				if _, err := Call(t.Context(), c, succeed); err != nil {
					t.Errorf("a nanosecond after %s: got %v, want the trial to run", sleep, err)
				}
				if got := state(c); got != "CLOSED" {
					t.Errorf("after the trial: got %s, want CLOSED", got)
				}
			})
		})
	}
}

func TestExactlyOneOfThousandCallersIsTheTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c, _ := openBreaker(t, e, Settings{MaxConcurrent: 2000})
		time.Sleep(5*time.Second + time.Millisecond)
		var ran, refused atomic.Int64
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				_, err := Call(context.Background(), c, func(context.Context) (int, error) {
					ran.Add(1)
					time.Sleep(100 * time.Millisecond)
					return 0, nil
				})
				if errors.Is(err, ErrOpen) {
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		if ran.Load() != 1 || refused.Load() != 999 {
			t.Errorf("of 1000 callers %d ran and %d were refused, want 1 and 999", ran.Load(), refused.Load())
		}
	})
}

func TestEveryEndOfTheTrialLeavesHalfOpen(t *testing.T) {
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, tc := range []struct {
		name string
		want string
		do   func(c *Command)
	}{
		{"success", "CLOSED", func(c *Command) { Call(context.Background(), c, succeed) }},
		{"failure", "OPEN", func(c *Command) { Call(context.Background(), c, broken) }},
		{"timeout", "OPEN", func(c *Command) {
			Call(context.Background(), c, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		}},
		{"late success", "OPEN", func(c *Command) {
			Call(context.Background(), c, func(ctx context.Context) (int, error) { time.Sleep(2 * time.Second); return 1, nil })
		}},
		{"bad request", "OPEN", func(c *Command) {
			Call(context.Background(), c, func(context.Context) (int, error) { return 0, BadRequest(errBroken) })
		}},
		{"cancelled", "OPEN", func(c *Command) {
			Call(cancelled, c, func(ctx context.Context) (int, error) { return 0, ctx.Err() })
		}},
		{"panic", "OPEN", func(c *Command) {
			defer func() { recover() }()
			Call(context.Background(), c, func(context.Context) (int, error) { panic("x") })
		}},
		{"rejected by the bulkhead", "OPEN", func(c *Command) {
			fill(c, 1)
			Call(context.Background(), c, succeed)
			fill(c, -1)
		}},
		{"rejected by the pool", "OPEN", func(c *Command) {
			c.engine.configure(0, properties{"hystrix.command.x.execution.isolation.strategy": "THREAD"})
			occupied(c.engine.pool("x"), 10, func() { repeat(1, c, succeed) })
		}},
		{"late in the pool's queue", "OPEN", func(c *Command) {
			c.engine.Pool("x", PoolSettings{MaxQueue: 1})
			c.engine.configure(0, properties{"hystrix.command.x.execution.isolation.strategy": "THREAD"})
			occupied(c.engine.pool("x"), 10, func() { repeat(1, c, succeed) })
		}},
		{"failure with a fallback", "OPEN", func(c *Command) {
			CallOr(context.Background(), c, broken, func(context.Context, error) (int, error) { return 7, nil })
		}},
		{"injected fault", "OPEN", func(c *Command) {
			Call(context.Background(), c, func(context.Context) (int, error) { return 0, ErrInjected })
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newTestEngine(t, Options{})
				c, _ := openBreaker(t, e, Settings{})
				time.Sleep(5*time.Second + time.Millisecond)
				tc.do(c)
				if got := state(c); got != tc.want {
					t.Errorf("after a trial that ended in %s: got %s, want %s", tc.name, got, tc.want)
				}
				if n := c.inFlight(); n != 0 {
					t.Errorf("%d permits are still out, want 0", n)
				}
				if tc.want == "OPEN" {
					if _, err := Call(t.Context(), c, succeed); !errors.Is(err, ErrOpen) {
						t.Errorf("right after the failed trial: got %v, want ErrOpen", err)
					}
					time.Sleep(5*time.Second + time.Millisecond)
					if _, err := Call(t.Context(), c, succeed); err != nil {
						t.Errorf("5 s after the failed trial: got %v, want a new trial", err)
					}
				}
			})
		})
	}
}

// fill adds calls in flight until the bulkhead lets none through, or takes them off.
func fill(c *Command, n int32) {
	c.inflight.rest.Add(int64(n) * 1000)
	for i := range c.shards {
		c.shards[i].inflight.Add(n * 1000)
	}
}

// occupied runs fn while so many workers of p are busy.
func occupied(p *pool, n int, fn func()) {
	add := func(n int) {
		p.mu.Lock()
		p.active += n
		p.mu.Unlock()
	}
	add(n)
	fn()
	add(-n)
}

func TestSuccessEmptiesTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c, _ := openBreaker(t, e, Settings{SleepWindow: time.Second})
		time.Sleep(1001 * time.Millisecond)
		repeat(1, c, succeed)
		repeat(19, c, broken) // with the old 20 this would open it
		time.Sleep(time.Second)
		if got := state(c); got != "CLOSED" {
			t.Errorf("19 errors after closing: got %s, want CLOSED", got)
		}
	})
}

func TestLateResultOfAnOldCallDoesNotCloseTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{Timeout: time.Minute})
		var wg sync.WaitGroup
		wg.Go(func() {
			Call(context.Background(), c, func(context.Context) (int, error) { time.Sleep(8 * time.Second); return 1, nil })
		})
		synctest.Wait()
		openBreaker(t, e, Settings{Timeout: time.Minute})
		time.Sleep(5100 * time.Millisecond)
		wg.Go(func() {
			Call(context.Background(), c, func(context.Context) (int, error) { time.Sleep(20 * time.Second); return 0, errBroken })
		})
		synctest.Wait()
		if got := state(c); got != "HALF_OPEN" {
			t.Fatalf("while the trial runs: got %s, want HALF_OPEN", got)
		}
		time.Sleep(5 * time.Second) // the old call has ended well meanwhile
		if got := state(c); got != "HALF_OPEN" {
			t.Errorf("after an old call's success: got %s, want HALF_OPEN", got)
		}
		wg.Wait()
		if got := state(c); got != "OPEN" {
			t.Errorf("after the failed trial: got %s, want OPEN", got)
		}
	})
}

func TestForcedStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{})
		time.Sleep(tickTime / 5) // so that what follows does not fall together with ticks
		e.configure(0, properties{"hystrix.command.x.circuitBreaker.forceOpen": "true"})
		if _, err := Call(t.Context(), c, succeed); !errors.Is(err, ErrOpen) {
			t.Errorf("forced open: got %v, want ErrOpen", err)
		}
		e.configure(0, properties{"hystrix.command.x.circuitBreaker.forceClosed": "true"})
		repeat(100, c, broken)
		time.Sleep(time.Second)
		if _, err := Call(t.Context(), c, succeed); err != nil {
			t.Errorf("forced closed: got %v, want the call to run", err)
		}
		e.configure(0, properties{"hystrix.command.x.circuitBreaker.enabled": "false"})
		repeat(100, c, broken)
		time.Sleep(time.Second)
		if _, err := Call(t.Context(), c, succeed); err != nil {
			t.Errorf("disabled: got %v, want the call to run", err)
		}
		e.configure(0, nil)
		repeat(1, c, broken) // a breaker opens on news only
		time.Sleep(time.Second)
		if _, err := Call(t.Context(), c, succeed); !errors.Is(err, ErrOpen) {
			t.Errorf("back to normal with 200 errors in the window: got %v, want ErrOpen", err)
		}
	})
}

// TestWhatSpeaksOfTheCalleesHealth has each ending twenty times, and looks whether the breaker opens.
func TestWhatSpeaksOfTheCalleesHealth(t *testing.T) {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	hang := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
	for _, tc := range []struct {
		name          string
		total, errors uint32 // for each call
		do            func(c *Command)
	}{
		{"SUCCESS", 1, 0, func(c *Command) { repeat(1, c, succeed) }},
		{"FAILURE", 1, 1, func(c *Command) { repeat(1, c, broken) }},
		{"FAILURE with a fallback", 1, 1, func(c *Command) {
			CallOr(context.Background(), c, broken, func(context.Context, error) (int, error) { return 7, nil })
		}},
		{"TIMEOUT", 1, 1, func(c *Command) { repeat(1, c, hang) }},
		{"SEMAPHORE_REJECTED", 1, 1, func(c *Command) { fill(c, 1); repeat(1, c, succeed); fill(c, -1) }},
		{"THREAD_POOL_REJECTED", 1, 1, func(c *Command) {
			c.engine.configure(0, properties{"hystrix.command.x.execution.isolation.strategy": "THREAD"})
			occupied(c.engine.pool("x"), 10, func() { repeat(1, c, succeed) })
		}},
		{"SHORT_CIRCUITED", 0, 0, func(c *Command) {
			c.engine.configure(0, properties{"hystrix.command.x.circuitBreaker.forceOpen": "true"})
			repeat(1, c, succeed)
			c.engine.configure(0, nil)
		}},
		{"BAD_REQUEST", 0, 0, func(c *Command) { repeat(1, c, func(context.Context) (int, error) { return 0, BadRequest(errBroken) }) }},
		{"CANCELLED", 0, 0, func(c *Command) { Call(gone, c, hang) }},
		{"no endpoint", 0, 0, func(c *Command) {
			repeat(1, c, func(context.Context) (int, error) {
				return 0, &Error{Command: "y", Kind: NoEndpoint, Cause: ErrNoEndpoint}
			})
		}},
		{"panic", 1, 1, func(c *Command) {
			defer func() { recover() }()
			repeat(1, c, func(context.Context) (int, error) { panic("x") })
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newTestEngine(t, Options{})
				c := e.Command("x", Settings{Timeout: time.Millisecond})
				for range 20 {
					tc.do(c)
				}
				time.Sleep(tickTime + time.Millisecond)
				want := "CLOSED"
				if tc.errors > 0 {
					want = "OPEN"
				}
				s := stats(t, e, "x")
				if got := state(c); got != want || s.Requests != 20*tc.total || s.Errors != 20*tc.errors {
					t.Errorf("twenty: got %s, %d requests, %d errors; want %s, %d, %d", got, s.Requests, s.Errors, want, 20*tc.total, 20*tc.errors)
				}
			})
		})
	}
}

func TestBreakerMovesAtTheRolloverOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{})
		time.Sleep(100 * time.Millisecond)
		repeat(20, c, broken)
		time.Sleep(tickTime - 100*time.Millisecond - time.Nanosecond)
		synctest.Wait()
		if got := state(c); got != "CLOSED" {
			t.Errorf("a nanosecond before the rollover: got %s, want CLOSED", got)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if got := state(c); got != "OPEN" {
			t.Errorf("at the rollover: got %s, want OPEN", got)
		}
	})
}

func TestOldCallsCountWhileOpenAndChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{Timeout: time.Minute})
		for _, result := range []error{nil, errBroken} {
			go Call(t.Context(), c, func(context.Context) (int, error) { time.Sleep(2 * time.Second); return 0, result })
		}
		synctest.Wait()
		_, opened := openBreaker(t, e, Settings{Timeout: time.Minute})
		time.Sleep(2*time.Second + tickTime)
		if got, at := state(c), c.clock.time(c.breaker.openedAt.Load()); got != "OPEN" || !at.Equal(opened) {
			t.Errorf("got %s since %s, want OPEN since %s as before", got, at, opened)
		}
		if s := stats(t, e, "x"); s.Requests != 22 || s.Errors != 21 {
			t.Errorf("got %d requests and %d errors, want 22 and 21", s.Requests, s.Errors)
		}
	})
}

func TestDisabledBreakerStillCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{BreakerOff: true})
		repeat(100, c, broken)
		time.Sleep(time.Second)
		if s := stats(t, e, "x"); s.BreakerOpen || s.Requests != 100 || s.Errors != 100 || s.ErrorPercent != 100 {
			t.Errorf("got open %v, %d requests, %d errors, %d %%; want closed, 100, 100, 100", s.BreakerOpen, s.Requests, s.Errors, s.ErrorPercent)
		}
	})
}

// TestRacingCallersNeverShareATrial has goroutines attack one breaker without any order.
func TestRacingCallersNeverShareATrial(t *testing.T) {
	for _, permits := range []int{1, 3} {
		set := &settings{Settings: Settings{SleepWindow: time.Nanosecond, TrialPermits: permits, HealthInterval: tickTime}}
		clk := newClock()
		var b breaker
		b.openedAt.Store(-1)
		var live, most atomic.Int64
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(g)))
				for range 20_000 {
					if r.IntN(4) == 0 {
						b.open(clk.now(), set)
						b.tick(clk.now(), set)
					}
					trial, ok := b.attempt(set, clk)
					if !ok || trial == 0 {
						continue
					}
					n := live.Add(1)
					for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
					}
					if r.IntN(2) == 0 {
						runtime.Gosched()
					}
					live.Add(-1)
					switch r.IntN(6) {
					case 0:
						b.unclear(trial)
					case 1:
						b.nonSuccess(trial, set, clk)
					default:
						b.succeeded(trial)
					}
				}
			})
		}
		wg.Wait()
		w := b.word.Load()
		if isTrial(w, w>>numberShift) && w>>grantedShift&permitMask == w>>neededShift&permitMask {
			t.Errorf("%d permits: left half open (%#x) with all trials ended", permits, w)
		}
		if w&stateMask == opening {
			t.Errorf("%d permits: left opening (%#x)", permits, w)
		}
		if n := most.Load(); permits == 1 && n != 1 {
			t.Errorf("%d trials ran at once, want 1", n)
		}
	}
}

// TestBreakerAndBulkheadKeepTheirInvariants starts, ends, cancels and waits in random order, with random settings.
func TestBreakerAndBulkheadKeepTheirInvariants(t *testing.T) {
	type step struct{ Kind, Which, Result, Millis int }
	type setup struct {
		Permits, Isolation, Queue int
		Instant, Escalating       bool
	}
	setups := rapid.Custom(func(t *rapid.T) setup {
		return setup{rapid.IntRange(1, 3).Draw(t, "permits"), rapid.IntRange(0, 1).Draw(t, "isolation"), rapid.IntRange(0, 2).Draw(t, "queue"),
			rapid.Bool().Draw(t, "instant"), rapid.Bool().Draw(t, "escalating")}
	})
	steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{rapid.IntRange(0, 6).Draw(t, "kind"), rapid.IntRange(0, 2).Draw(t, "which"), rapid.IntRange(0, 4).Draw(t, "result"), rapid.IntRange(1, 1200).Draw(t, "millis")}
	}), 40, 80) // rapid favours short slices, in which nothing opens
	rapid.Check(t, func(rt *rapid.T) {
		with, drawn := setups.Draw(rt, "setup"), steps.Draw(rt, "steps") // before the bubble, whose goroutine is not rapid's
		var wrong string
		synctest.Test(t, func(t *testing.T) {
			const limit = 3
			e := newTestEngine(t, Options{})
			e.Pool("x", PoolSettings{Core: limit, MaxQueue: with.Queue})
			type call struct {
				end    chan error
				cancel context.CancelFunc
			}
			var inside []*call // those in the run function
			var ran, done atomic.Int64
			d := Define(e, "x", Definition[*call, int]{
				Run: func(_ context.Context, c *call) (int, error) {
					ran.Add(1)
					err := <-c.end
					if err == errLate {
						time.Sleep(3 * time.Second)
						err = nil
					}
					return 0, err
				},
				Settings: Settings{
					MaxConcurrent: limit, RequestVolume: 2, SleepWindow: 600 * time.Millisecond, Timeout: 2 * time.Second,
					TrialPermits: with.Permits, InstantOpen: with.Instant, EscalatingSleep: with.Escalating, Isolation: Isolation(with.Isolation),
				},
			})
			c := d.cmd
			var begun int64
			var wg sync.WaitGroup
			check := func(at int) {
				synctest.Wait()
				var sum uint32
				counts := c.tally()
				for _, n := range counts[:fallbackSuccess] { // those are the ends of calls
					sum += n
				}
				w := c.breaker.word.Load()
				p := e.pool("x").stats()
				switch n := c.inFlight(); {
				case wrong != "":
				case n < 0 || p.Active > limit || n > limit+int64(with.Queue):
					wrong = fmt.Sprintf("step %d: %d in flight, %d in the pool, want 0 to %d and %d that wait", at, n, p.Active, limit, with.Queue)
				case n == 0 && w&stateMask == halfOpen && w>>grantedShift&permitMask == w>>neededShift&permitMask:
					wrong = fmt.Sprintf("step %d: half open without a call that could be the trial", at)
				case w&stateMask == opening:
					wrong = fmt.Sprintf("step %d: stays between closed and open", at)
				case int64(sum) != done.Load():
					wrong = fmt.Sprintf("step %d: events %v sum to %d, want %d ended calls", at, counts, sum, done.Load())
				case counts[fallbackMissing] != sum-counts[success]-counts[badRequests]-counts[cancelled]:
					wrong = fmt.Sprintf("step %d: events %v: want one fallback missing for each call that failed", at, counts)
				case c.abandoned.Load() < 0 || c.abandoned.Load() > n:
					wrong = fmt.Sprintf("step %d: %d calls abandoned of %d in flight", at, c.abandoned.Load(), n)
				}
			}
			for i, s := range drawn {
				switch {
				case s.Kind <= 2:
					before := ran.Load()
					ctx, cancel := context.WithCancel(context.Background())
					one := &call{make(chan error, 1), cancel}
					begun++
					wg.Go(func() { d.Call(ctx, one); done.Add(1) })
					synctest.Wait()
					if ran.Load() > before {
						inside = append(inside, one)
					} else {
						one.end <- nil // refused, or it waits in the queue and shall not stay long
					}
				case s.Kind <= 4 && len(inside) > 0:
					which := s.Which % len(inside)
					inside[which].end <- []error{nil, errBroken, errBroken, BadRequest(errBroken), errLate}[s.Result]
					inside = slices.Delete(inside, which, which+1)
				case s.Kind == 5 && len(inside) > 0:
					inside[s.Which%len(inside)].cancel()
				default:
					time.Sleep(time.Duration(s.Millis) * time.Millisecond)
				}
				check(i)
			}
			for _, one := range inside {
				one.end <- nil
			}
			wg.Wait()
			time.Sleep(4 * time.Second) // for those whose callers have gone
			check(len(drawn))
			if n := c.inFlight(); n != 0 && wrong == "" {
				wrong = fmt.Sprintf("at the end %d are in flight, want none", n)
			}
			if done.Load() != begun && wrong == "" {
				wrong = fmt.Sprintf("%d calls began and %d ended", begun, done.Load())
			}
		})
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}

func TestTrialOfABreakerUpstreamIsLetThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lists := everywhere(1, answer(500))
		e := newTestEngine(t, Options{Lists: lists, Transport: n})
		for range 20 {
			get(e, t.Context(), "GET", "http://app/")
		}
		time.Sleep(501 * time.Millisecond)
		n.hosts[addr(1)] = answer(200)
		seen := n.attempts()
		calls := func(trial bool, times int) (ok int) {
			h := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for range times {
					status, err := Call(r.Context(), e.Command("app", Settings{}), func(ctx context.Context) (int, error) { return get(e, ctx, "GET", "http://app/") })
					if err == nil && status == 200 {
						ok++
					}
				}
			}))
			header := []string{}
			if trial {
				header = []string{HeaderTrial, "1"}
			}
			ask(h, "/", header...)
			return ok
		}
		if got := calls(false, 1); got != 0 || n.attempts() != seen {
			t.Errorf("an ordinary request: %d calls passed the open breaker, want none", got)
		}
		e.Command("app", Settings{ForceOpen: true})
		if got := calls(true, 1); got != 0 {
			t.Errorf("forced open: %d calls of a trial passed, want none", got)
		}
		e.Command("app", Settings{ForceOpen: false, Retries: 1})
		if got := calls(true, 3); got != 3 {
			t.Errorf("%d of 3 calls of a trial passed, want all: the first closes the breaker", got)
		}
		if got := n.seen[seen].Header.Get(HeaderTrial); got != "1" {
			t.Errorf("a trial says %q to the next hop, want 1", got)
		}
		if got := calls(false, 1); got != 1 {
			t.Errorf("afterwards %d of 1 ordinary calls passed", got)
		}
		if got := n.seen[len(n.seen)-1].Header.Get(HeaderTrial); got != "" {
			t.Errorf("an ordinary call says it is a trial: %q", got)
		}
	})
}

func TestBreakerDoesNotOpenBecauseSuccessesGrowOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{})
		run := func(n int, err error) {
			for range n {
				Call(t.Context(), c, func(context.Context) (int, error) { return 0, err })
			}
		}
		run(100, nil)
		time.Sleep(3 * time.Second)
		run(90, errors.New("down"))
		time.Sleep(9 * time.Second)
		if got := e.Snapshot()[0]; got.Breaker != "CLOSED" || len(e.Events(0)) != 0 {
			t.Errorf("nobody called since, but the breaker is %s with events %v", got.Breaker, e.Events(0))
		}
	})
}

var errLate = errors.New("to be late")
