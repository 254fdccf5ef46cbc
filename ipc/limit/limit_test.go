package limit

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = int64(time.Millisecond)

func newLimiter(t testing.TB, c Config) *Limiter {
	t.Helper()
	l, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func algorithm[A Algorithm, C any](t testing.TB, make func(C) (A, error), c C) A {
	t.Helper()
	a, err := make(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAIMDRaisesByOneAndLowersByATenth(t *testing.T) {
	a := algorithm(t, NewAIMD, AIMDConfig{})
	for i, step := range []struct {
		rtt      time.Duration
		inflight int
		dropped  bool
		want     int
	}{
		{time.Millisecond, 9, false, 20}, // not half used
		{time.Millisecond, 10, false, 21},
		{time.Millisecond, 20, false, 22},
		{time.Millisecond, 20, true, 20}, // 19.8, at least 20
		{5 * time.Second, 20, false, 21},
		{5*time.Second + 1, 20, false, 20}, // took too long
	} {
		if got := a.Update(step.rtt, step.inflight, step.dropped); got != step.want {
			t.Errorf("step %d %+v: got %d", i, step, got)
		}
	}
	for range 1000 {
		a.Update(time.Millisecond, 1000, false)
	}
	if got := a.Limit(); got != 200 {
		t.Errorf("after 1000 good samples: got %d, want 200", got)
	}
	if got := a.Update(time.Millisecond, 1000, true); got != 180 {
		t.Errorf("after a drop at 200: got %d, want 180", got)
	}
}

func TestVegasKeepsTheQueueShort(t *testing.T) {
	v := algorithm(t, NewVegas, VegasConfig{Probe: -1})
	for i, step := range []struct {
		rtt      time.Duration
		inflight int
		dropped  bool
		want     int
	}{
		{10, 20, false, 20}, // the first is the unloaded time
		{10, 9, false, 20},  // not half used
		{10, 10, false, 26}, // nobody waits: six more
		{11, 26, false, 26}, // three wait, as it should be
		{20, 26, false, 25}, // thirteen wait
		{10, 25, true, 24},  // dropped
		{5, 24, false, 24},  // a faster one is the new unloaded time
		{6, 24, false, 24},  // four wait
	} {
		if got := v.Update(step.rtt, step.inflight, step.dropped); got != step.want {
			t.Errorf("step %d %+v: got %d", i, step, got)
		}
	}
	for range 1000 {
		v.Update(5, 1000, false)
	}
	if got := v.Limit(); got != 1000 {
		t.Errorf("after 1000 samples without a wait: got %d, want 1000", got)
	}
	for range 1000 {
		v.Update(50, 1000, true)
	}
	if got := v.Limit(); got != 1 {
		t.Errorf("after 1000 drops: got %d, want 1", got)
	}
}

func TestVegasMeasuresTheUnloadedTimeAnew(t *testing.T) {
	v := algorithm(t, NewVegas, VegasConfig{Probe: 1, Min: 20, Max: 20})
	v.Update(10, 20, false)
	for range 20 { // at most 1·20 updates later
		v.Update(100, 20, false)
	}
	if v.unloaded != 100 {
		t.Errorf("the unloaded time is %d ns, want the 100 ns of the last probe", v.unloaded)
	}
	v = algorithm(t, NewVegas, VegasConfig{Probe: -1})
	v.Update(10, 20, false)
	for range 10_000 {
		v.Update(100, 20, false)
	}
	if v.unloaded != 10 {
		t.Errorf("without probes the unloaded time is %d ns, want 10", v.unloaded)
	}
}

// TestStrictGradient2DoesNotCreepUnderOverload holds the two modes against each other while requests take three times as
// long as usual.
func TestStrictGradient2DoesNotCreepUnderOverload(t *testing.T) {
	for original, creeps := range map[bool]bool{false: false, true: true} {
		g := algorithm(t, NewGradient2, Gradient2Config{Original: original, Initial: 50, Min: 5, Max: 1000, Long: 1 << 20})
		for range 20 {
			g.Update(10*time.Millisecond, 10, false) // what is usual; too few in flight to move anything
		}
		if got := g.Limit(); got != 50 {
			t.Errorf("unused: got %d, want 50", got)
		}
		for range 500 {
			g.Update(16*time.Millisecond, g.Limit(), false) // the gradient is 0.94
		}
		if got := g.Limit() > 50; got != creeps {
			t.Errorf("original %v, after 500 samples above what is tolerated: the limit is %d", original, g.Limit())
		}
	}
}

func TestDecadesIsTheLogarithmRoundedDown(t *testing.T) {
	for n := range 100_000 {
		want := 1
		if n > 0 {
			want = max(1, int(math.Log10(float64(n))))
		}
		if got := decades(n); got != want {
			t.Fatalf("of %d: got %d, want %d", n, got, want)
		}
	}
}

func TestWrongConfigurationsFailWithASentence(t *testing.T) {
	for text, make := range map[string]func() error{
		"Vegas from 2000":   func() error { _, err := NewVegas(VegasConfig{Initial: 2000, Max: 1000}); return err },
		"at least -1":       func() error { _, err := NewVegas(VegasConfig{Min: -1}); return err },
		"smoothing NaN":     func() error { _, err := NewVegas(VegasConfig{Smoothing: math.NaN()}); return err },
		"smoothing 7":       func() error { _, err := NewGradient2(Gradient2Config{Smoothing: 7}); return err },
		"tolerance 0.5":     func() error { _, err := NewGradient2(Gradient2Config{Tolerance: 0.5}); return err },
		"queue -4":          func() error { _, err := NewGradient2(Gradient2Config{Queue: -4}); return err },
		"backoff 1.5":       func() error { _, err := NewAIMD(AIMDConfig{Backoff: 1.5}); return err },
		"timeout -1s":       func() error { _, err := NewAIMD(AIMDConfig{Timeout: -time.Second}); return err },
		"AIMD from 300":     func() error { _, err := NewAIMD(AIMDConfig{Initial: 300, Max: 200}); return err },
		"add up to 1.1":     func() error { _, err := New(Config{Partitions: []Partition{{"a", 0.6, 0}, {"b", 0.5, 0}}}); return err },
		"share -0.1":        func() error { _, err := New(Config{Partitions: []Partition{{"a", -0.1, 0}}}); return err },
		"share NaN":         func() error { _, err := New(Config{Partitions: []Partition{{"a", math.NaN(), 0}}}); return err },
		"delay 1h0m0s":      func() error { _, err := New(Config{Partitions: []Partition{{"a", 0.1, time.Hour}}}); return err },
		"a name of its own": func() error { _, err := New(Config{Partitions: []Partition{{"a", 0.1, 0}, {"a", 0.1, 0}}}); return err },
		"window of -1s":     func() error { _, err := New(Config{Window: Window{Least: -time.Second}}); return err },
		"a queue of -1":     func() error { _, err := NewQueue(newLimiter(t, Config{}), QueueConfig{Size: -1}, nil); return err },
		"wait at most -1s": func() error {
			_, err := NewQueue(newLimiter(t, Config{}), QueueConfig{Wait: -time.Second}, nil)
			return err
		},
		"with at least -3 sam": func() error { _, err := New(Config{Window: Window{Samples: -3}}); return err },
	} {
		if err := make(); err == nil || !strings.Contains(err.Error(), text) || !strings.HasPrefix(err.Error(), "limit: ") {
			t.Errorf("got %v, want an error of this package that says %q", err, text)
		}
	}
}

func TestABoundGivenAloneMovesTheOthers(t *testing.T) {
	for _, tc := range []struct {
		what      string
		got, want int
	}{
		{"Vegas, at most 5", algorithm(t, NewVegas, VegasConfig{Max: 5}).Limit(), 5},
		{"Vegas, at least 50", algorithm(t, NewVegas, VegasConfig{Min: 50}).Limit(), 50},
		{"Gradient2, at most 5", algorithm(t, NewGradient2, Gradient2Config{Max: 5}).Limit(), 5},
		{"AIMD, at most 5", algorithm(t, NewAIMD, AIMDConfig{Max: 5}).Limit(), 5},
		{"AIMD, from 500", algorithm(t, NewAIMD, AIMDConfig{Initial: 500}).Limit(), 500},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: starts at %d, want %d", tc.what, tc.got, tc.want)
		}
	}
}

// seen records what an algorithm is told.
type seen struct {
	limit   int
	rtt     time.Duration
	most    int
	dropped bool
	updates int
}

func (s *seen) Limit() int { return s.limit }
func (s *seen) Update(rtt time.Duration, most int, dropped bool) int {
	s.rtt, s.most, s.dropped, s.updates = rtt, most, dropped, s.updates+1
	return s.limit
}

func TestTheAlgorithmSeesTheMeanOfASecond(t *testing.T) {
	s := &seen{limit: 100}
	l := newLimiter(t, Config{Algorithm: s})
	now := ms
	run := func(n int, took time.Duration) {
		t.Helper()
		for range n {
			p, ok := l.Acquire(now)
			if !ok {
				t.Fatal("refused")
			}
			now += int64(took)
			l.Success(p, now)
		}
	}
	run(1, time.Millisecond) // closes the first, empty window
	run(9, 2*time.Millisecond)
	now += int64(time.Second)
	run(1, 12*time.Millisecond) // the tenth closes the window
	if s.updates != 1 || s.rtt != 3*time.Millisecond || s.most != 1 || s.dropped {
		t.Errorf("told %+v, want once a mean of 3ms", *s)
	}
	run(8, time.Millisecond)
	now += int64(time.Second)
	run(1, time.Millisecond) // nine are too few
	if s.updates != 1 {
		t.Errorf("told of a window with nine samples: %+v", *s)
	}
	run(8, time.Millisecond)
	run(500, 99*time.Microsecond) // say nothing
	p, q := mustAcquire(t, l, now), mustAcquire(t, l, now)
	l.Drop(p, now) // at once; it counts all the same
	now += ms
	l.Success(q, now)
	now += int64(time.Second)
	run(1, time.Millisecond)
	if s.updates != 2 || s.rtt != time.Millisecond || !s.dropped || s.most != 2 {
		t.Errorf("told %+v, want a second time, of 1ms, two in flight and a drop", *s)
	}
	if got := l.InFlight(); got != 0 {
		t.Errorf("%d in flight, want 0", got)
	}
}

func mustAcquire(t *testing.T, l *Limiter, now int64) Permit {
	t.Helper()
	p, ok := l.Acquire(now)
	if !ok {
		t.Fatal("refused")
	}
	return p
}

func TestSlowTellsThatRequestsTakeLongerThanUsual(t *testing.T) {
	l := newLimiter(t, Config{Algorithm: Fixed(100)})
	now := ms
	second := func(took time.Duration) bool {
		for range 20 {
			p := l.Enter(now)
			now += int64(50 * time.Millisecond)
			l.Success(Permit{start: now - int64(took), inflight: p.inflight}, now)
		}
		return l.Slow()
	}
	for i, step := range []struct {
		took time.Duration
		want bool
	}{{time.Millisecond, false}, {1400 * time.Microsecond, false}, {3 * time.Millisecond, true}, {time.Millisecond, false}} {
		second(step.took)
		second(step.took)
		if got := second(step.took); got != step.want { // a second shows in the window after it
			t.Errorf("step %d, three seconds of %s: slow is %v, want %v", i, step.took, got, step.want)
		}
	}
	for range 1200 {
		second(3 * time.Millisecond)
	}
	if l.Slow() {
		t.Error("what has been so for twenty minutes is still not usual")
	}
}

// TestLimiterNeverLetsMoreInThanTheLimit drives a limiter with and without partitions beside a model of it.
func TestLimiterNeverLetsMoreInThanTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 10).Draw(t, "limit")
		c := Config{Algorithm: Fixed(limit), Partitions: []Partition{{"half", 0.5, 0}, {"third", 0.33, 0}, {"none", 0, 0}}}
		l, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		shares := map[string]float64{"half": 0.5, "third": 0.33, "none": 0}
		least := func(name string) int {
			if s, ok := shares[name]; ok {
				return int(max(1, math.Ceil(float64(limit)*s)))
			}
			return 0
		}
		var held []Permit
		var of []string
		busy := map[string]int{}
		now := int64(1)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "wait")
			switch rapid.SampledFrom([]string{"acquire", "acquire", "plain", "enter", "end", "limit"}).Draw(t, "do") {
			case "acquire":
				name := rapid.SampledFrom([]string{"half", "third", "none", "unknown"}).Draw(t, "partition")
				want := len(held) < limit || busy[name] < least(name)
				p, ok := l.AcquireIn(name, now)
				if ok != want {
					t.Fatalf("%s with %d of %d in flight, %d of its own: got %v, want %v", name, len(held), limit, busy[name], ok, want)
				}
				if ok {
					held, of = append(held, p), append(of, name)
					busy[name]++
				}
			case "plain":
				p, ok := l.Acquire(now)
				if want := len(held) < limit; ok != want {
					t.Fatalf("with %d of %d in flight: got %v, want %v", len(held), limit, ok, want)
				}
				if ok {
					held, of = append(held, p), append(of, "")
				}
			case "enter":
				held, of = append(held, l.EnterIn("half", now)), append(of, "half")
				busy["half"]++
			case "end":
				if len(held) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				switch rapid.IntRange(0, 2).Draw(t, "how") {
				case 0:
					l.Success(held[i], now)
				case 1:
					l.Ignore(held[i])
				case 2:
					l.Drop(held[i], now)
				}
				busy[of[i]]--
				held, of = append(held[:i:i], held[i+1:]...), append(of[:i:i], of[i+1:]...)
			case "limit": // what is in flight stays counted
				limit = rapid.IntRange(1, 10).Draw(t, "new limit")
				c.Algorithm = Fixed(limit)
				if err := l.Configure(c); err != nil {
					t.Fatal(err)
				}
			}
			if got := l.InFlight(); got != len(held) {
				t.Fatalf("%d in flight, want %d", got, len(held))
			}
			for name := range shares {
				if got, want := l.HasShare(name), busy[name] < least(name); got != want {
					t.Fatalf("%s has a share left: got %v, want %v", name, got, want)
				}
			}
		}
	})
}

func TestAWrongConfigurationChangesNothing(t *testing.T) {
	l := newLimiter(t, Config{Algorithm: Fixed(7)})
	if err := l.Configure(Config{Algorithm: Fixed(9), Partitions: []Partition{{"a", 2, 0}}}); err == nil || l.Limit() != 7 {
		t.Errorf("got %v and a limit of %d, want an error and 7", err, l.Limit())
	}
}

func TestConcurrentPermitsAreAllGivenBack(t *testing.T) {
	l := newLimiter(t, Config{Algorithm: algorithm(t, NewVegas, VegasConfig{Initial: 4, Max: 8})})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for now := int64(1); now < 20_000; now++ {
				p, ok := l.Acquire(now * ms)
				if n := l.InFlight(); n > 8+8 { // those about to be refused count for a moment
					t.Errorf("%d in flight", n)
				}
				if !ok {
					continue
				}
				switch (now + int64(i)) % 3 {
				case 0:
					l.Success(p, now*ms+ms)
				case 1:
					l.Drop(p, now*ms+ms)
				default:
					l.Ignore(p)
				}
			}
		})
	}
	wg.Wait()
	if got := l.InFlight(); got != 0 {
		t.Errorf("%d in flight after all have ended, want 0", got)
	}
}

func TestRefusedRequestsOfAPartitionAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, Config{Partitions: []Partition{{"batch", 0.1, 200 * time.Millisecond}}})
		start := time.Now()
		var wg sync.WaitGroup
		var mu sync.Mutex
		waits := map[time.Duration]int{}
		for range 150 {
			wg.Go(func() {
				l.HoldBack(t.Context(), "batch")
				mu.Lock()
				waits[time.Since(start)]++
				mu.Unlock()
			})
		}
		wg.Wait()
		if waits[0] != 50 || waits[200*time.Millisecond] != 100 {
			t.Errorf("of 150 held back 200ms: %v, want 100, the others not at all", waits)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		l.HoldBack(gone, "batch")
		l.HoldBack(t.Context(), "another")
		if took := time.Since(start); took != 200*time.Millisecond {
			t.Errorf("callers who have gone and other partitions were held back %s", took-200*time.Millisecond)
		}
	})
}

func newQueue(t *testing.T, limit int, c QueueConfig) *Queue {
	t.Helper()
	start := time.Now()
	q, err := NewQueue(newLimiter(t, Config{Algorithm: Fixed(limit)}), c, func() int64 { return 1 + int64(time.Since(start)) })
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestTheLatestIsServedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, QueueConfig{Size: 3})
		first, err := q.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				p, err := q.Acquire(t.Context())
				if err != nil {
					t.Errorf("waiter %d: %v", i, err)
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				time.Sleep(time.Millisecond)
				q.Success(p)
			})
			synctest.Wait()
		}
		if _, err := q.Acquire(t.Context()); !errors.Is(err, ErrQueueFull) || q.Waiting() != 3 {
			t.Errorf("the fourth: got %v with %d waiting, want ErrQueueFull with 3", err, q.Waiting())
		}
		q.Ignore(first)
		wg.Wait()
		if len(order) != 3 || order[0] != 2 || order[1] != 1 || order[2] != 0 {
			t.Errorf("served in the order %v, want the latest first: 2, 1, 0", order)
		}
		if q.l.InFlight() != 0 || q.Waiting() != 0 {
			t.Errorf("%d in flight and %d waiting, want none", q.l.InFlight(), q.Waiting())
		}
	})
}

func TestWhoCannotBeServedInTimeDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 1, QueueConfig{Wait: 500 * time.Millisecond})
		p, _ := q.Acquire(t.Context())
		time.Sleep(100 * time.Millisecond)
		q.Success(p) // so long they take
		p, _ = q.Acquire(t.Context())
		start := time.Now()
		within := func(d time.Duration) (time.Duration, error) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			before := time.Now()
			_, err := q.Acquire(ctx)
			return time.Since(before), err
		}
		if took, err := within(99 * time.Millisecond); took != 0 || !errors.Is(err, ErrTooLate) {
			t.Errorf("with 99ms left: got %v after %s, want ErrTooLate at once", err, took)
		}
		if took, err := within(time.Hour); took != 500*time.Millisecond || !errors.Is(err, ErrWaited) {
			t.Errorf("with an hour left: got %v after %s, want ErrWaited after 500ms", err, took)
		}
		if took, err := within(300 * time.Millisecond); took != 300*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with 300ms left: got %v after %s, want context.DeadlineExceeded after 300ms", err, took)
		}
		gone, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		if _, err := q.Acquire(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("who went away: got %v, want context.Canceled", err)
		}
		// One who waited too long for the time that is left is turned away when his turn comes.
		var late error
		var wg sync.WaitGroup
		wg.Go(func() { _, late = within(200 * time.Millisecond) })
		synctest.Wait()
		time.Sleep(150 * time.Millisecond)
		q.Drop(p)
		wg.Wait()
		if !errors.Is(late, ErrTooLate) || time.Since(start) > 2*time.Second {
			t.Errorf("woken with 50ms left: got %v, want ErrTooLate", late)
		}
		if q.l.InFlight() != 0 {
			t.Errorf("%d in flight, want none", q.l.InFlight())
		}
	})
}

func TestNoPermitIsLostInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, 3, QueueConfig{Size: 20, Wait: 7 * time.Millisecond})
		var wg sync.WaitGroup
		var held atomic.Int64 // InFlight may for a moment count who is about to be turned away
		for i := range 200 {
			wg.Go(func() {
				time.Sleep(time.Duration(i%37) * time.Millisecond)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i%11)*time.Millisecond)
				defer cancel()
				if p, err := q.Acquire(ctx); err == nil {
					if n := held.Add(1); n > 3 {
						t.Errorf("%d permits are held, want at most 3", n)
					}
					time.Sleep(time.Duration(i%5) * time.Millisecond)
					held.Add(-1)
					q.Success(p)
				}
			})
		}
		wg.Wait()
		if q.l.InFlight() != 0 || q.Waiting() != 0 {
			t.Errorf("%d in flight and %d waiting, want none", q.l.InFlight(), q.Waiting())
		}
	})
}

func BenchmarkAcquire(b *testing.B) {
	now := int64(0)
	b.Run("success", func(b *testing.B) {
		l := newLimiter(b, Config{Algorithm: Fixed(100)})
		b.ReportAllocs()
		for b.Loop() {
			now += ms
			p, _ := l.Acquire(now)
			l.Success(p, now+ms)
		}
	})
	b.Run("partition", func(b *testing.B) {
		l := newLimiter(b, Config{Algorithm: Fixed(100), Partitions: []Partition{{"a", 0.5, 0}}})
		b.ReportAllocs()
		for b.Loop() {
			now += ms
			p, _ := l.AcquireIn("a", now)
			l.Success(p, now+ms)
		}
	})
	b.Run("refused", func(b *testing.B) {
		l := newLimiter(b, Config{Algorithm: Fixed(1)})
		l.Enter(now)
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := l.Acquire(now); ok {
				b.Fatal("let in")
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		l := newLimiter(b, Config{Algorithm: Fixed(100)})
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for now := int64(0); pb.Next(); now += ms {
				p, _ := l.Acquire(now)
				l.Success(p, now+ms)
			}
		})
	})
}

func TestTheLimitIsHeldWithinItsBounds(t *testing.T) {
	l := newLimiter(t, Config{Algorithm: Fixed(50), Partitions: []Partition{{"half", 0.5, 0}}})
	for _, tc := range []struct{ least, most, want int }{{100, 0, 100}, {0, 10, 10}, {20, 30, 30}, {0, 0, 50}, {40, 60, 50}} {
		l.Bound(tc.least, tc.most)
		if got := l.Limit(); got != tc.want {
			t.Errorf("between %d and %d: got %d, want %d", tc.least, tc.most, got, tc.want)
		}
		if got := l.part("half").limit.Load(); got != int64(tc.want+1)/2 {
			t.Errorf("between %d and %d: half of it is %d, want %d", tc.least, tc.most, got, (tc.want+1)/2)
		}
	}
	if err := l.Configure(Config{Algorithm: Fixed(70)}); err != nil || l.Limit() != 60 {
		t.Errorf("with another algorithm: got %d, %v; want the 60 of the bound", l.Limit(), err)
	}
}

// steady lets requests end at a rate for a while, each of which took as long.
func steady(l *Limiter, now *int64, every, took, lasts time.Duration) {
	for until := *now + int64(lasts); *now < until; *now += int64(every) {
		p := l.Enter(*now - int64(took))
		l.Success(p, *now)
	}
}

func TestWhatWasBorneAndWhatIsNeededFollowFromRateAndTime(t *testing.T) {
	l := newLimiter(t, Config{Algorithm: Fixed(1000)})
	now := int64(time.Minute)
	steady(l, &now, time.Millisecond, 10*time.Millisecond, 5*time.Second) // a thousand a second: ten in flight
	if got := l.Proven(); got < 9 || got > 10 {
		t.Errorf("a thousand requests a second of 10ms: proven are %d in flight, want 10", got)
	}
	if got := l.Needed(); got != 0 {
		t.Errorf("before any were slow %d are needed, want 0", got)
	}
	steady(l, &now, 500*time.Microsecond, 40*time.Millisecond, 3*time.Second) // two thousand, which take four times as long
	if got := l.Needed(); got < 20 || got > 21 || !l.Slow() {
		t.Errorf("two thousand a second: %d are needed, slow is %v; want 20, true", got, l.Slow())
	}
	if got := l.Proven(); got < 9 || got > 10 {
		t.Errorf("what was in flight while they were slow is proven: %d, want 10", got)
	}
	steady(l, &now, 100*time.Millisecond, 10*time.Millisecond, 30*time.Second) // hardly any
	if got := l.Needed(); got < 20 || l.Slow() {
		t.Errorf("while little is asked for %d are needed, slow is %v; want 20 as before, false", got, l.Slow())
	}
}

func TestAPartitionsShareIsGuaranteed(t *testing.T) {
	l := newLimiter(t, Config{Algorithm: Fixed(10), Partitions: []Partition{{"a", 0.2, 0}}})
	for i, want := range []bool{true, true, false} {
		if got := l.EnterIn("a", 1).Guaranteed(); got != want {
			t.Errorf("request %d of a share of two: got %v, want %v", i+1, got, want)
		}
	}
	if l.EnterIn("unknown", 1).Guaranteed() || l.Enter(1).Guaranteed() {
		t.Error("a request of no partition is guaranteed a place")
	}
}
