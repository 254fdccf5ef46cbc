package ipc

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stats returns those of one command.
func stats(t testing.TB, e *Engine, name string) CommandStats {
	t.Helper()
	for _, s := range e.Stats().Commands {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no statistics of command %s", name)
	return CommandStats{}
}

func TestEveryEventIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{MaxConcurrent: 1, MaxFallbacks: 1, Timeout: 100 * time.Millisecond})
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		spent, cancel := context.WithDeadline(context.Background(), time.Now())
		defer cancel()
		hang := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
		invalid := func(context.Context) (int, error) { return 0, BadRequest(errBroken) }
		well := func(context.Context, error) (int, error) { return 7, nil }
		ill := func(context.Context, error) (int, error) { return 0, errBroken }
		ctx := context.Background()
		repeat(5, c, succeed)
		repeat(2, c, broken)
		Call(ctx, c, hang)
		Call(ctx, c, invalid)
		Call(gone, c, hang)
		Call(spent, c, succeed)
		for range 3 {
			CallOr(ctx, c, broken, well)
		}
		CallOr(ctx, c, broken, ill)
		var wg sync.WaitGroup
		wg.Go(func() {
			Call(ctx, c, func(context.Context) (int, error) { time.Sleep(50 * time.Millisecond); return 0, nil })
		})
		synctest.Wait()
		CallOr(ctx, c, succeed, well) // refused by the bulkhead
		wg.Wait()
		wg.Go(func() {
			CallOr(ctx, c, broken, func(context.Context, error) (int, error) { time.Sleep(time.Millisecond); return 7, nil })
		})
		synctest.Wait()
		CallOr(ctx, c, broken, well) // its fallback is refused
		wg.Wait()
		e.configure(0, properties{"hystrix.command.x.fallback.enabled": "false"})
		CallOr(ctx, c, broken, well)
		e.configure(0, properties{"hystrix.command.x.circuitBreaker.forceOpen": "true"})
		Call(ctx, c, succeed)
		CallOr(ctx, c, succeed, well)

		want := Counts{
			Success: 6, Failure: 9, Timeout: 1, SemaphoreRejected: 1, ShortCircuited: 2, BadRequest: 1, Cancelled: 1, Unanswered: 1,
			FallbackSuccess: 6, FallbackFailure: 1, FallbackRejection: 1, FallbackDisabled: 1, FallbackMissing: 5, ExceptionsThrown: 9,
		}
		got := stats(t, e, "x")
		if got.Counts != want {
			t.Errorf("got  %+v\nwant %+v", got.Counts, want)
		}
		if got.Execute.Calls != 18 || got.Total.Calls != 18 {
			t.Errorf("%d and %d calls took time, want 18 each: all that were not refused", got.Execute.Calls, got.Total.Calls)
		}
	})
}

func TestDashboardsShowTenSecondsAlsoAfterTheBreakerCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c, _ := openBreaker(t, e, Settings{SleepWindow: 2 * time.Second})
		if s := stats(t, e, "x"); !s.BreakerOpen || s.Requests != 20 || s.Errors != 20 || s.ErrorPercent != 100 {
			t.Errorf("open: got open %v, %d of %d failed, %d %%; want open, 20 of 20, 100 %%", s.BreakerOpen, s.Errors, s.Requests, s.ErrorPercent)
		}
		time.Sleep(2100 * time.Millisecond)
		repeat(1, c, succeed)
		s := stats(t, e, "x")
		if s.BreakerOpen || s.Requests != 0 {
			t.Errorf("closed: got open %v and %d requests in the breaker's window, want closed and none", s.BreakerOpen, s.Requests)
		}
		if s.Counts.Failure != 20 || s.Counts.Success != 1 {
			t.Errorf("closed: dashboards show %d failures and %d successes, want 20 and 1", s.Counts.Failure, s.Counts.Success)
		}
		time.Sleep(6 * time.Second)
		if s := stats(t, e, "x"); s.Counts.Failure != 20 {
			t.Errorf("after 9 s: %d failures, want 20", s.Counts.Failure)
		}
		time.Sleep(2 * time.Second)
		if s := stats(t, e, "x"); s.Counts.Failure != 0 {
			t.Errorf("after 11 s: %d failures, want none", s.Counts.Failure)
		}
	})
}

func TestMostCallsInFlightAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{})
		var wg sync.WaitGroup
		for range 7 {
			wg.Go(func() {
				Call(context.Background(), c, func(context.Context) (int, error) { time.Sleep(100 * time.Millisecond); return 0, nil })
			})
		}
		synctest.Wait()
		if s := stats(t, e, "x"); s.Concurrent != 7 || s.MaxConcurrent != 7 {
			t.Errorf("meanwhile: got %d now and %d at most, want 7 and 7", s.Concurrent, s.MaxConcurrent)
		}
		wg.Wait()
		time.Sleep(8 * time.Second)
		if s := stats(t, e, "x"); s.Concurrent != 0 || s.MaxConcurrent != 7 {
			t.Errorf("after 8 s: got %d now and %d at most, want 0 and 7", s.Concurrent, s.MaxConcurrent)
		}
		time.Sleep(3 * time.Second)
		if s := stats(t, e, "x"); s.MaxConcurrent != 0 {
			t.Errorf("after 11 s: got at most %d, want 0", s.MaxConcurrent)
		}
	})
}

func TestTotalTimeHasTheFallbackToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{})
		CallOr(t.Context(), c, func(context.Context) (int, error) { time.Sleep(20 * time.Millisecond); return 0, errBroken },
			func(context.Context, error) (int, error) { time.Sleep(30 * time.Millisecond); return 7, nil })
		s := stats(t, e, "x")
		for _, tc := range []struct {
			name      string
			got, want time.Duration
		}{{"execute", s.Execute.Mean, 20 * time.Millisecond}, {"total", s.Total.Mean, 50 * time.Millisecond}} {
			if math.Abs(float64(tc.got-tc.want)) > 0.01*float64(tc.want) {
				t.Errorf("%s: got %s, want %s within 1 %%", tc.name, tc.got, tc.want)
			}
		}
	})
}

func TestLatenciesAreWithinOnePercentFromOneMillisecondToSixtySeconds(t *testing.T) {
	for range 100_000 {
		d := time.Duration(float64(time.Millisecond) * math.Pow(60_000, rand.Float64()))
		if got := binTime(latencyBin(int64(d))); math.Abs(float64(got-d)) > 0.01*float64(d) {
			t.Fatalf("%s counts as %s, want it within 1 %%", d, got)
		}
	}
	before := -1
	for us := range int64(70_000) { // 0 to 70 ms, each microsecond
		bin := latencyBin(us * 1000)
		if bin != before && bin != before+1 {
			t.Fatalf("%d us are in bin %d, those before in %d; want no gap", us, bin, before)
		}
		if lo := latencyBin(int64(binTime(bin))); lo != bin {
			t.Fatalf("the middle of bin %d, %s, is in bin %d", bin, binTime(bin), lo)
		}
		before = bin
	}
	if latencyBin(-1) != 0 || latencyBin(math.MaxInt64) != latencyBins-1 {
		t.Errorf("ends: got %d and %d, want 0 and %d", latencyBin(-1), latencyBin(math.MaxInt64), latencyBins-1)
	}
}

func TestPercentilesAreThoseOfTheLastMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{Timeout: time.Hour})
		if s := stats(t, e, "x"); s.Execute != (Latency{}) {
			t.Errorf("without calls: got %+v, want zeroes", s.Execute)
		}
		for ms := 1; ms <= 200; ms++ { // 20.1 s in all
			Call(t.Context(), c, func(context.Context) (int, error) { time.Sleep(time.Duration(ms) * time.Millisecond); return 0, nil })
		}
		check := func(when string) {
			t.Helper()
			l := stats(t, e, "x").Execute
			for i, want := range []float64{1, 50, 100, 150, 180, 190, 198, 199, 200} {
				if got := l.Percentiles[i].Seconds() * 1000; math.Abs(got-want) > 0.01*want {
					t.Errorf("%s: percentile %v is %v ms, want %v within 1 %%", when, Percentiles[i], got, want)
				}
			}
			if got := l.Mean.Seconds() * 1000; math.Abs(got-100.5) > 1 || l.Calls != 200 {
				t.Errorf("%s: got a mean of %v ms of %d calls, want 100.5 of 200", when, got, l.Calls)
			}
		}
		check("at once")
		time.Sleep(28 * time.Second)
		check("after 48 s")
		time.Sleep(32 * time.Second)
		if l := stats(t, e, "x").Execute; l != (Latency{}) {
			t.Errorf("a minute later: got %+v, want zeroes", l)
		}
	})
}

func TestWindowsAreAsLongAsSettingsSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		c := e.Command("x", Settings{RollingWindow: time.Second, RollingBuckets: 4, HealthInterval: 100 * time.Millisecond})
		repeat(20, c, broken)
		time.Sleep(101 * time.Millisecond)
		if got := state(c); got != "OPEN" {
			t.Errorf("after a health interval of 100 ms: got %s, want OPEN", got)
		}
		time.Sleep(1100 * time.Millisecond)
		if s := stats(t, e, "x"); s.Counts.Failure != 0 || s.Requests != 0 {
			t.Errorf("after a window of 1 s: got %d failures and %d requests, want none", s.Counts.Failure, s.Requests)
		}
		for _, s := range []Settings{
			{RollingBuckets: 7}, {HealthInterval: 333 * time.Millisecond}, {HealthInterval: time.Microsecond}, {PercentileBuckets: 7},
			{RollingWindow: 48 * time.Hour}, {RollingBuckets: 100_000}, {RollingWindow: -1},
		} {
			if err := s.validate(); err == nil {
				t.Errorf("%+v were taken, want an error", s)
			}
		}
	})
}
