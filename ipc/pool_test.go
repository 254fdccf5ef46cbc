package ipc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pooled defines a command on a pool, whose run function sleeps as long as its argument says whatever its context.
func pooled(e *Engine, name string, s Settings) *Defined[time.Duration, int] {
	s.Isolation, s.Pool = Thread, "p"
	return Define(e, name, Definition[time.Duration, int]{
		Run:      func(_ context.Context, d time.Duration) (int, error) { time.Sleep(d); return 1, nil },
		Settings: s,
	})
}

func poolStats(t *testing.T, e *Engine) PoolStats {
	t.Helper()
	s := e.Stats()
	if len(s.Pools) != 1 {
		t.Fatalf("got %d pools, want 1", len(s.Pools))
	}
	return s.Pools[0]
}

func TestCallerLeavesAtTheTimeoutAndTheSlotStaysTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		e.Pool("p", PoolSettings{Core: 1})
		d := pooled(e, "x", Settings{Timeout: 100 * time.Millisecond})
		start := time.Now()
		_, err := d.Call(t.Context(), time.Second)
		if !errors.Is(err, ErrTimeout) || time.Since(start) != 100*time.Millisecond {
			t.Errorf("got %v after %s, want ErrTimeout after 100ms", err, time.Since(start))
		}
		if s := stats(t, e, "x"); s.Abandoned != 1 || s.Concurrent != 1 || s.Counts.Timeout != 1 {
			t.Errorf("got %d abandoned, %d in flight, %d timeouts; want 1 each", s.Abandoned, s.Concurrent, s.Counts.Timeout)
		}
		if _, err := d.Call(t.Context(), 0); !errors.Is(err, ErrRejected) {
			t.Errorf("while the worker is busy: got %v, want ErrRejected", err)
		}
		time.Sleep(time.Second)
		if got, err := d.Call(t.Context(), 0); got != 1 || err != nil {
			t.Errorf("afterwards: got %d, %v; want 1", got, err)
		}
		if s := stats(t, e, "x"); s.Abandoned != 0 || s.Concurrent != 0 || s.Counts.PoolRejected != 1 {
			t.Errorf("afterwards: got %d abandoned, %d in flight, %d rejected; want 0, 0, 1", s.Abandoned, s.Concurrent, s.Counts.PoolRejected)
		}
		if p := poolStats(t, e); p.Executed != 2 || p.Rejected != 1 || p.Started != 2 || p.Completed != 2 || p.Largest != 1 || p.MaxActive != 1 || p.Active != 0 {
			t.Errorf("pool: got %+v, want 2 executed, 1 rejected, 2 started and completed, never more than 1", p)
		}
	})
}

func TestCommandsOfOnePoolShareItsWorkersAndQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		e.Pool("p", PoolSettings{Core: 2, MaxQueue: 10, QueueLimit: 3})
		a, b := pooled(e, "a", Settings{Timeout: 10 * time.Second}), pooled(e, "b", Settings{Timeout: 1500 * time.Millisecond})
		var wg sync.WaitGroup
		call := func(d *Defined[time.Duration, int], takes time.Duration, want error) {
			wg.Go(func() {
				if _, err := d.Call(context.Background(), takes); !errors.Is(err, want) {
					t.Errorf("%s: got %v, want %v", d.cmd.name, err, want)
				}
			})
			synctest.Wait()
		}
		call(a, 2*time.Second, nil)
		call(b, time.Second, nil)        // both workers run
		call(a, 3*time.Second, nil)      // waits 1 s
		call(b, time.Second, ErrTimeout) // its time is up before a worker is free
		call(a, time.Second, nil)        // waits 2 s
		call(b, time.Second, ErrRejected)
		if p := poolStats(t, e); p.Active != 2 || p.Queued != 3 {
			t.Errorf("got %d active and %d queued, want 2 and 3", p.Active, p.Queued)
		}
		wg.Wait()
		if n := stats(t, e, "b").Counts; n.Success != 1 || n.Timeout != 1 || n.PoolRejected != 1 {
			t.Errorf("b: got %+v, want a success, a timeout and a rejection", n)
		}
		s := stats(t, e, "a")
		if in, all := s.Execute.Mean, s.Total.Mean; in < 1980*time.Millisecond || in > 2020*time.Millisecond || all < 2970*time.Millisecond || all > 3030*time.Millisecond {
			t.Errorf("a: took %s inside and %s in all on average, want 2s and 3s within 1 %%", in, all)
		}
		if p := poolStats(t, e); p.Active != 0 || p.Queued != 0 || p.MaxActive != 2 {
			t.Errorf("afterwards: got %+v, want nothing left and 2 at most", p)
		}
		time.Sleep(11 * time.Second)
		if p := poolStats(t, e); p.MaxActive != 0 || p.Executed != 0 || p.Largest != 2 {
			t.Errorf("11 s later: got %+v, want an empty window, and 2 as the most ever", p)
		}
	})
}

func TestPlainFunctionsTakeASlotToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		e.Pool("x", PoolSettings{Core: 1})
		c := e.Command("x", Settings{Isolation: Thread, MaxConcurrent: 1})
		go Call(t.Context(), c, func(context.Context) (int, error) { time.Sleep(time.Second); return 0, nil })
		synctest.Wait()
		if _, err := Call(t.Context(), c, succeed); !errors.Is(err, ErrRejected) {
			t.Errorf("got %v, want ErrRejected", err)
		}
		if n := stats(t, e, "x").Counts; n.PoolRejected != 1 || n.SemaphoreRejected != 0 {
			t.Errorf("got %+v, want the pool to have refused", n)
		}
		time.Sleep(time.Second)
	})
}

func TestPanicOnAWorkerIsAnError(t *testing.T) {
	e := newTestEngine(t, Options{})
	d := Define(e, "x", Definition[int, int]{
		Run:      func(context.Context, int) (int, error) { panic("boom") },
		Settings: Settings{Isolation: Thread},
	})
	_, err := d.Call(t.Context(), 1)
	var p *Panic
	if !errors.As(err, &p) || p.Value != "boom" || !strings.Contains(string(p.Stack), "pool_test.go") {
		t.Errorf("got %v, want a *Panic with value boom and where it was", err)
	}
	if s := stats(t, e, "x"); s.Counts.Failure != 1 || s.Concurrent != 0 {
		t.Errorf("got %+v with %d in flight, want a failure and none", s.Counts, s.Concurrent)
	}
}

func TestUninterruptedFunctionsDoNotLearnOfTheTimeout(t *testing.T) {
	for _, on := range []Isolation{Thread, Semaphore} {
		t.Run(on.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newTestEngine(t, Options{})
				told := make(chan error, 1)
				d := Define(e, "x", Definition[int, int]{
					Run: func(ctx context.Context, _ int) (int, error) {
						select {
						case <-ctx.Done():
							told <- ctx.Err()
						case <-time.After(time.Second):
							told <- nil
						}
						return 1, nil
					},
					Settings: Settings{Isolation: on, Uninterrupted: true, Timeout: 100 * time.Millisecond},
				})
				start := time.Now()
				_, err := d.Call(t.Context(), 1)
				if want := map[Isolation]time.Duration{Thread: 100 * time.Millisecond, Semaphore: time.Second}[on]; !errors.Is(err, ErrTimeout) || time.Since(start) != want {
					t.Errorf("got %v after %s, want ErrTimeout after %s", err, time.Since(start), want)
				}
				if err := <-told; err != nil {
					t.Errorf("the function was told %v, want nothing", err)
				}
			})
		})
	}
}

func TestLateResultOfAWorkerIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		late := &closer{}
		d := Define(e, "x", Definition[int, *closer]{
			Run:      func(context.Context, int) (*closer, error) { time.Sleep(time.Second); return late, nil },
			Settings: Settings{Isolation: Thread, Timeout: 100 * time.Millisecond},
		})
		if got, err := d.Call(t.Context(), 1); got != nil || !errors.Is(err, ErrTimeout) {
			t.Errorf("got %v, %v; want nil, ErrTimeout", got, err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !late.closed {
			t.Error("the late result was not closed")
		}
	})
}

func TestCancelledCallerLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		e.Pool("p", PoolSettings{Core: 1, MaxQueue: 1})
		d := pooled(e, "x", Settings{Timeout: time.Minute})
		go d.Call(t.Context(), time.Second)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		if _, err := d.Call(ctx, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want Canceled", err)
		}
		if p := poolStats(t, e); p.Queued != 0 {
			t.Errorf("%d still wait, want none", p.Queued)
		}
		if n := stats(t, e, "x").Counts; n.Cancelled != 1 {
			t.Errorf("got %+v, want one cancelled", n)
		}
		time.Sleep(time.Second)
	})
}

// TestEveryPropertyOfAPoolIsHeeded sets each to a value that is not its default, then to one that makes no sense.
func TestEveryPropertyOfAPoolIsHeeded(t *testing.T) {
	for _, tc := range []struct {
		key, good, bad string
		static         bool
		got            func(s PoolSettings) any
		want           any
	}{
		{"coreSize", "3", "0", false, func(s PoolSettings) any { return s.Core }, 3},
		{"maximumSize", "30", "many", false, func(s PoolSettings) any { return s.Max }, 30},
		{"allowMaximumSizeToDivergeFromCoreSize", "true", "1", false, func(s PoolSettings) any { return s.Diverges }, true},
		{"maxQueueSize", "100", "-2", true, func(s PoolSettings) any { return s.MaxQueue }, 100},
		{"queueSizeRejectionThreshold", "50", "0", false, func(s PoolSettings) any { return s.QueueLimit }, 50},
		{"keepAliveTimeMinutes", "2", "0", false, func(s PoolSettings) any { return s.KeepAlive }, 2 * time.Minute},
		{"metrics.rollingStats.timeInMilliseconds", "20000", "1", true, func(s PoolSettings) any { return s.RollingWindow }, 20 * time.Second},
		{"metrics.rollingStats.numBuckets", "20", "7", true, func(s PoolSettings) any { return s.RollingBuckets }, 20},
	} {
		t.Run(tc.key, func(t *testing.T) {
			var log bytes.Buffer
			e := newTestEngine(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			e.Pool("p", PoolSettings{})
			key := "hystrix.threadpool.p." + tc.key
			e.configure(2, properties{key: tc.good})
			if got := tc.got(poolStats(t, e).Settings); (got == tc.want) == tc.static {
				t.Errorf("=%s while it is used: got %v; want it taken unless static", tc.good, got)
			}
			log.Reset()
			e.configure(2, properties{key: tc.bad})
			if got := tc.got(poolStats(t, e).Settings); (got == tc.want) == tc.static || !strings.Contains(log.String(), key) {
				t.Errorf("=%s: got %v and the log %q; want no change, and a line that names the key", tc.bad, got, log.String())
			}
			e = newTestEngine(t, Options{})
			e.configure(2, properties{"hystrix.threadpool.default." + tc.key: tc.good})
			e.Pool("p", PoolSettings{})
			if got := tc.got(poolStats(t, e).Settings); got != tc.want {
				t.Errorf("=%s for all from the start: got %v, want %v", tc.good, got, tc.want)
			}
			e = newTestEngine(t, Options{})
			e.configure(2, properties{key: tc.bad})
			e.Pool("p", PoolSettings{})
			if got := tc.got(poolStats(t, e).Settings); got == tc.want {
				t.Errorf("=%s from the start: got %v, want the default", tc.bad, got)
			}
		})
	}
	if got := (PoolSettings{Core: 5, Max: 20}).ActualMax(); got != 5 {
		t.Errorf("actual maximum: got %d, want 5 unless it may diverge", got)
	}
	if got := (PoolSettings{Core: 25, Max: 20, Diverges: true}).ActualMax(); got != 25 {
		t.Errorf("actual maximum: got %d, want 25, never below the core", got)
	}
}

func TestPoolGrowsToItsMaximumOnceTheQueueIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		e.Pool("p", PoolSettings{Core: 1, Max: 2, Diverges: true, MaxQueue: 1, QueueLimit: 5})
		d := pooled(e, "x", Settings{Timeout: time.Minute})
		var wg sync.WaitGroup
		for _, want := range [][2]int{{1, 0}, {1, 1}, {2, 1}} {
			wg.Go(func() { d.Call(context.Background(), time.Second) })
			synctest.Wait()
			if p := poolStats(t, e); [2]int{p.Active, p.Queued} != want {
				t.Errorf("got %d active and %d queued, want %v", p.Active, p.Queued, want)
			}
		}
		if _, err := d.Call(t.Context(), 0); !errors.Is(err, ErrRejected) {
			t.Errorf("fourth: got %v, want ErrRejected", err)
		}
		wg.Wait()
	})
}
