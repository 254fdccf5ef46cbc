package ipc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// squares is a batch command that takes a second, and what it was asked. It knows no answer for 13, and fails if asked
// for a negative number.
type squares struct {
	*Batched[int, int]
	mu    sync.Mutex
	asked [][]int
}

func newSquares(e *Engine, d BatchDefinition[int, int]) *squares {
	s := &squares{}
	d.Run = func(ctx context.Context, args []int) (map[int]int, error) {
		s.mu.Lock()
		s.asked = append(s.asked, args)
		s.mu.Unlock()
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		out := map[int]int{}
		for _, n := range args {
			if n < 0 {
				return nil, errBroken
			}
			if n != 13 {
				out[n] = n * n
			}
		}
		return out, nil
	}
	if d.Settings.Timeout == 0 {
		d.Settings.Timeout = time.Minute
	}
	s.Batched = Batch(e, "squares", d)
	return s
}

// all calls with each argument at once and checks that each gets its square.
func (s *squares) all(t *testing.T, ctx context.Context, args ...int) {
	t.Helper()
	var wg sync.WaitGroup
	for _, n := range args {
		wg.Go(func() {
			if got, err := s.Call(ctx, n); got != n*n || err != nil {
				t.Errorf("of %d: got %d, %v; want %d", n, got, err, n*n)
			}
		})
		synctest.Wait() // in this order
	}
	wg.Wait()
}

func (s *squares) want(t *testing.T, want ...[]int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.EqualFunc(s.asked, want, slices.Equal) {
		t.Errorf("batches: got %v, want %v", s.asked, want)
	}
}

func TestCallsOfOneRequestRunAsOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		s := newSquares(e, BatchDefinition[int, int]{Group: "Math"})
		ctx := NewRequest(t.Context())
		start := time.Now()
		s.all(t, ctx, 3, 1, 2, 3)
		if took := time.Since(start); took != 1010*time.Millisecond {
			t.Errorf("took %s, want 1.01s: the window and the batch", took)
		}
		s.all(t, ctx, 1, 4) // 1 has been answered
		s.want(t, []int{3, 1, 2}, []int{4})
		if n := stats(t, e, "squares"); n.Counts.Collapsed != 4 || n.Counts.Success != 2 || n.Group != "Math" {
			t.Errorf("got %+v, want 4 collapsed into 2 successes", n.Counts)
		}
		got := e.Stats().Collapsers
		if len(got) != 1 || got[0].Batches != 2 || got[0].Batched != 4 || got[0].ResponsesFromCache != 2 || got[0].BatchSize.Mean != 2 ||
			got[0].BatchSize.Percentiles != [9]int{1, 1, 1, 3, 3, 3, 3, 3, 3} || got[0].Window != 10*time.Millisecond || !got[0].Cache {
			t.Errorf("got %+v, want 2 batches of 1 and 3, and 2 answers from the cache", got)
		}
		time.Sleep(11 * time.Second)
		if got := e.Stats().Collapsers[0]; got.Batches != 0 || got.ResponsesFromCache != 0 {
			t.Errorf("11 s later: got %+v, want an empty window", got)
		}
		s.Forget(ctx, 1)
		s.all(t, ctx, 1)
		s.want(t, []int{3, 1, 2}, []int{4}, []int{1})
	})
}

func TestScopesOfBatches(t *testing.T) {
	for _, tc := range []struct {
		scope Scope
		want  [][]int
	}{{PerRequest, [][]int{{1}, {2}}}, {AllRequests, [][]int{{1, 2}}}} {
		synctest.Test(t, func(t *testing.T) {
			e := newTestEngine(t, Options{})
			s := newSquares(e, BatchDefinition[int, int]{Scope: tc.scope})
			var wg sync.WaitGroup
			for _, n := range []int{1, 2} {
				wg.Go(func() { s.all(t, NewRequest(t.Context()), n) })
				time.Sleep(time.Millisecond)
			}
			wg.Wait()
			s.want(t, tc.want...)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		s := newSquares(e, BatchDefinition[int, int]{})
		start := time.Now()
		s.all(t, t.Context(), 5)
		if took := time.Since(start); took != time.Second {
			t.Errorf("outside any request: took %s, want 1s without a window", took)
		}
	})
}

func TestFullBatchRunsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		s := newSquares(e, BatchDefinition[int, int]{MaxBatch: 2, Window: time.Hour})
		start := time.Now()
		s.all(t, NewRequest(t.Context()), 1, 2, 3, 4)
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %s, want 1s without waiting for the window", took)
		}
		s.want(t, []int{1, 2}, []int{3, 4})
	})
}

func TestMissingAnswerAndFailedBatchAreErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		s := newSquares(e, BatchDefinition[int, int]{})
		ctx := NewRequest(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Call(ctx, 13); !errors.Is(err, ErrNoAnswer) || !strings.Contains(err.Error(), "squares") || !strings.Contains(err.Error(), "13") {
				t.Errorf("of 13: got %v, want ErrNoAnswer that names command and argument", err)
			}
		})
		s.all(t, ctx, 2)
		wg.Wait()
		for _, n := range []int{-1, 3} {
			wg.Go(func() {
				if _, err := s.Call(ctx, n); !errors.Is(err, errBroken) {
					t.Errorf("of %d in a batch that fails: got %v, want %v", n, err, errBroken)
				}
			})
		}
		wg.Wait()
	})
}

func TestSameArgumentTwiceFailsWithoutCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		s := newSquares(e, BatchDefinition[int, int]{CacheOff: true})
		ctx := NewRequest(t.Context())
		go s.Call(ctx, 1)
		synctest.Wait()
		if _, err := s.Call(ctx, 1); !errors.Is(err, ErrTwice) || !strings.Contains(err.Error(), "collapser squares") {
			t.Errorf("got %v, want ErrTwice that names the collapser", err)
		}
		time.Sleep(2 * time.Second)
		s.all(t, ctx, 1)
		s.want(t, []int{1}, []int{1})
	})
}

func TestCallerWhoGoesTakesTheArgumentAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		s := newSquares(e, BatchDefinition[int, int]{})
		req := NewRequest(t.Context())
		briefly := func(d time.Duration, n int) func() {
			return func() {
				ctx, cancel := context.WithCancel(req)
				time.AfterFunc(d, cancel)
				if _, err := s.Call(ctx, n); !errors.Is(err, context.Canceled) {
					t.Errorf("of %d for %s: got %v, want Canceled", n, d, err)
				}
			}
		}
		var wg sync.WaitGroup
		wg.Go(briefly(time.Millisecond, 1)) // gone before the batch begins
		wg.Go(briefly(time.Millisecond, 2)) // but somebody else wants this
		wg.Go(briefly(100*time.Millisecond, 3))
		s.all(t, req, 2)
		wg.Wait()
		s.mu.Lock()
		slices.Sort(s.asked[0])
		s.mu.Unlock()
		s.want(t, []int{2, 3})

		wg.Go(briefly(time.Millisecond, 5)) // the only one
		wg.Wait()
		time.Sleep(time.Second)
		s.want(t, []int{2, 3})

		wg.Go(briefly(100*time.Millisecond, 6))
		wg.Go(briefly(200*time.Millisecond, 7))
		wg.Wait()
		synctest.Wait()
		if n := stats(t, e, "squares"); n.Counts.Cancelled != 1 || n.Concurrent != 0 {
			t.Errorf("a batch that nobody waits for: got %+v with %d in flight, want it cancelled", n.Counts, n.Concurrent)
		}
		s.all(t, req, 6)
	})
}

func TestBatchLastsUntilTheLatestOfItsCallersDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		var until time.Time
		b := Batch(e, "x", BatchDefinition[int, int]{
			Run: func(ctx context.Context, args []int) (map[int]int, error) {
				until, _ = ctx.Deadline()
				return map[int]int{1: 1, 2: 2}, nil
			},
			Settings: Settings{Timeout: time.Minute},
		})
		start := time.Now()
		req := NewRequest(t.Context())
		var wg sync.WaitGroup
		for n := range 2 {
			ctx, cancel := context.WithTimeout(req, time.Duration(n+1)*time.Second)
			defer cancel()
			wg.Go(func() { b.Call(ctx, n+1) })
		}
		wg.Wait()
		if got := until.Sub(start); got != 2*time.Second {
			t.Errorf("the batch may last %s, want 2s", got)
		}
	})
}

func TestBatchesHaveABreakerAndAFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		s := newSquares(e, BatchDefinition[int, int]{
			Fallback: func(_ context.Context, args []int, _ error) (map[int]int, error) {
				return map[int]int{args[0]: 16}, nil
			},
			Settings: Settings{ForceOpen: true},
		})
		s.all(t, NewRequest(t.Context()), 4)
		s.want(t)
		if n := stats(t, e, "squares").Counts; n.ShortCircuited != 1 || n.FallbackSuccess != 1 {
			t.Errorf("got %+v, want the breaker to refuse and the fallback to answer", n)
		}
	})
}

func TestBatchesAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		defer e.LogRequests()()
		s := newSquares(e, BatchDefinition[int, int]{})
		ctx := NewRequest(t.Context())
		s.all(t, ctx, 1, 2)
		want := []Execution{{Command: "squares", Events: []string{"SUCCESS", "COLLAPSED"}, Latency: time.Second, Collapser: "squares", BatchSize: 2}}
		if got := RequestLog(ctx); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestPropertiesOfCollapsersAreHeeded(t *testing.T) {
	e := newTestEngine(t, Options{})
	newSquares(e, BatchDefinition[int, int]{Window: 20 * time.Millisecond})
	want := CollapserStats{Name: "squares", Cache: true, MaxBatch: 1<<31 - 1, Window: 20 * time.Millisecond, RollingWindow: 10 * time.Second}
	check := func(p properties) {
		t.Helper()
		e.configure(3, p)
		if got := e.Stats().Collapsers[0]; got != want {
			t.Errorf("with %v: got %+v, want %+v", p, got, want)
		}
	}
	check(nil)
	want.MaxBatch = 7
	check(properties{"hystrix.collapser.default.maxRequestsInBatch": "7", "hystrix.collapser.default.timerDelayInMilliseconds": "99"})
	check(properties{"hystrix.collapser.squares.maxRequestsInBatch": "0"}) // refused, the last stays
	want.MaxBatch, want.Window, want.Cache = 1<<31-1, 30*time.Millisecond, false
	check(properties{"hystrix.collapser.squares.timerDelayInMilliseconds": "30", "hystrix.collapser.squares.requestCache.enabled": "false"})
}

func TestBatchDefinitionsThatMakeNoSensePanic(t *testing.T) {
	e := newTestEngine(t, Options{})
	run := func(context.Context, []int) (map[int]int, error) { return nil, nil }
	for want, d := range map[string]BatchDefinition[int, int]{
		"no Run function":      {},
		"Scope must be":        {Run: run, Scope: 2},
		"must not be negative": {Run: run, MaxBatch: -1},
		"Window be from 0":     {Run: run, Window: -1},
		"ErrorPercent must be": {Run: run, Settings: Settings{ErrorPercent: -1}},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, want) {
					t.Errorf("got %q, want it to say %q", got, want)
				}
			}()
			Batch(e, "x", d)
		}()
	}
}
