package ipc

import (
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
)

// machine is a pretended one: workers that each work on one request at a time, first come, first served.
type machine struct {
	workers chan struct{}
	took    time.Duration // by each request
	count   atomic.Int64  // of requests
	work    atomic.Int64  // nanoseconds done
	last    int64
	level   float64
}

func (m *machine) ServeHTTP(http.ResponseWriter, *http.Request) {
	m.workers <- struct{}{}
	_, turn := math.Modf(float64(m.count.Add(1)) * math.Phi) // as good as random
	took := time.Duration(float64(m.took) * (0.9 + 0.2*turn))
	time.Sleep(took)
	m.work.Add(int64(took))
	<-m.workers
}

// sense returns how busy the workers were, as a processor's load is told.
func (m *machine) sense() reading {
	done := m.work.Load()
	share := float64(done-m.last) / float64(int64(senseEvery)*int64(cap(m.workers)))
	m.last = done
	m.level += (min(1, share) - m.level) * 0.1
	return reading{cpu: m.level, lately: share}
}

// outcome is what became of the requests of one criticality.
type outcome struct {
	asked, served int
	times         []time.Duration // of those served
}

func (o *outcome) p99() time.Duration {
	if len(o.times) == 0 {
		return 0
	}
	slices.Sort(o.times)
	return o.times[len(o.times)*99/100]
}

func (o *outcome) share() float64 { return 100 * float64(o.served) / float64(max(1, o.asked)) }

// load sends requests at random moments for a while, so many a second of each criticality, and waits for their answers.
func load(h http.Handler, perSecond [4]float64, lasts time.Duration) (out [4]outcome) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	dice := rand.New(rand.NewPCG(20, 26))
	total := perSecond[0] + perSecond[1] + perSecond[2] + perSecond[3]
	for start := time.Now(); time.Since(start) < lasts; time.Sleep(time.Duration(dice.ExpFloat64() / total * float64(time.Second))) {
		x, c := dice.Float64()*total, 0
		for ; c < 3 && x >= perSecond[c]; c++ {
			x -= perSecond[c]
		}
		out[c].asked++
		wg.Go(func() {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header[HeaderCriticality] = []string{roadbed.Criticality(c).String()}
			w := httptest.NewRecorder()
			began := time.Now()
			h.ServeHTTP(w, r)
			if w.Code == http.StatusOK {
				mu.Lock()
				out[c].served++
				out[c].times = append(out[c].times, time.Since(began))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return out
}

// newMachine is a machine behind a handler with a server's defaults, whose workers are its processors.
func newMachine(t *testing.T, workers int, took time.Duration) (*machine, *Engine, http.Handler) {
	m := &machine{workers: make(chan struct{}, workers), took: took}
	e := newTestEngine(t, Options{App: "app"})
	e.server.shed.sense = m.sense
	return m, e, e.Handler(m)
}

// capacity is how many requests a machine can work on per second.
func (m *machine) capacity() float64 { return float64(cap(m.workers)) / m.took.Seconds() }

// times scales the load of each criticality to a machine.
func (m *machine) times(perCapacity ...float64) (perSecond [4]float64) {
	for c := range perSecond {
		perSecond[c] = perCapacity[c] * m.capacity()
	}
	return perSecond
}

// TestAFivefoldOverloadSparesWhatIsCritical overloads a server whose processors are the bottleneck, and one that holds its
// limit while they are idle.
func TestAFivefoldOverloadSparesWhatIsCritical(t *testing.T) {
	t.Run("processors", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, _, h := newMachine(t, 16, 20*time.Millisecond)
			overload(t, m, h)
		})
	})
	t.Run("a pool", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := &machine{workers: make(chan struct{}, 16), took: 20 * time.Millisecond}
			overload(t, m, newTestEngine(t, Options{App: "app", Server: ServerSettings{HoldWhileIdle: true}}).Handler(m))
		})
	})
}

func overload(t *testing.T, m *machine, h http.Handler) {
	calm := load(h, m.times(0.1, 0.1, 0.1, 0.1), 10*time.Second)
	unloaded := calm[0].p99()
	for c := range calm {
		if calm[c].served != calm[c].asked {
			t.Errorf("before: %v: %d of %d served, want all", roadbed.Criticality(c), calm[c].served, calm[c].asked)
		}
	}
	much := m.times(0.5, 1.5, 1.5, 1.5)
	first := load(h, much, 2*time.Second)
	then := load(h, much, 15*time.Second)
	if n := first[0].served + then[0].served; float64(n) < 0.99*float64(first[0].asked+then[0].asked) {
		t.Errorf("CRITICAL: %d of %d served, want 99 %%", n, first[0].asked+then[0].asked)
	}
	if got := then[0].p99(); got > 2*unloaded {
		t.Errorf("CRITICAL: p99 %s after two seconds of overload, want at most twice the %s without", got, unloaded)
	}
	for c := 1; c < 4; c++ {
		if then[c].share() > then[c-1].share() {
			t.Errorf("%v got %.1f %% and the more important %v %.1f %%", roadbed.Criticality(c), then[c].share(), roadbed.Criticality(c-1), then[c-1].share())
		}
	}
	if got := then[3].share(); got > 2 {
		t.Errorf("BULK got %.1f %%, want hardly anything", got)
	}
	all := 0
	for c := range then {
		all += then[c].served
	}
	if used := float64(all) / 15 / m.capacity(); used < 0.9 {
		t.Errorf("%.0f %% of the capacity was used, want nine tenths", 100*used)
	}
	load(h, m.times(0.1, 0.1, 0.1, 0.1), 5*time.Second)
	after := load(h, m.times(0.1, 0.1, 0.1, 0.1), 5*time.Second)
	for c := range after {
		if after[c].served != after[c].asked {
			t.Errorf("five seconds after: %v: %d of %d served, want all", roadbed.Criticality(c), after[c].served, after[c].asked)
		}
	}
	t.Logf("unloaded p99 %s; under overload: %.1f %% p99 %s, %.1f %%, %.1f %%, %.1f %%", unloaded, then[0].share(), then[0].p99(), then[1].share(), then[2].share(), then[3].share())
}

func TestBulkIsShedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _, h := newMachine(t, 16, 20*time.Millisecond)
		load(h, m.times(0.1, 0.1, 0.1, 0.1), 5*time.Second)
		load(h, m.times(0.2, 0.2, 0.3, 0.5), 2*time.Second)
		got := load(h, m.times(0.2, 0.2, 0.3, 0.5), 15*time.Second) // a fifth too much
		for c, least := range []float64{99, 97, 93} {
			if got[c].share() < least {
				t.Errorf("%v got %.1f %%, want at least %v", roadbed.Criticality(c), got[c].share(), least)
			}
		}
		if got[3].share() > 80 {
			t.Errorf("BULK got %.1f %%; it alone should have made room", got[3].share())
		}
	})
}

// TestANormalLoadIsNeverRefused runs what a limit could mistake for overload.
func TestANormalLoadIsNeverRefused(t *testing.T) {
	for name, run := range map[string]func(m *machine, h http.Handler) [4]outcome{
		"a start with 600 in flight": func(m *machine, h http.Handler) [4]outcome {
			return load(h, m.times(0.1, 0.1, 0.2, 0.2), 5*time.Second)
		},
		"a sudden sixfold load within capacity": func(m *machine, h http.Handler) [4]outcome {
			load(h, m.times(0.02, 0.02, 0.02, 0.02), 10*time.Second)
			return load(h, m.times(0.1, 0.1, 0.1, 0.2), 5*time.Second)
		},
		"requests that become three times as slow for good": func(m *machine, h http.Handler) [4]outcome {
			load(h, m.times(0.01, 0.01, 0.01, 0.03), 10*time.Second)
			m.took *= 3
			return load(h, m.times(0.03, 0.03, 0.03, 0.09), 20*time.Second)
		},
		"bursts": func(m *machine, h http.Handler) (sum [4]outcome) {
			for range 10 {
				load(h, m.times(0.02, 0.02, 0.02, 0.02), time.Second)
				got := load(h, m.times(0.2, 0.2, 0.2, 0.2), 100*time.Millisecond)
				for c := range sum {
					sum[c].asked += got[c].asked
					sum[c].served += got[c].served
				}
			}
			return sum
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, e, h := newMachine(t, 1000, 100*time.Millisecond)
				got := run(m, h)
				for c := range got {
					if got[c].served != got[c].asked {
						t.Errorf("%v: %d of %d served, want all; %+v", roadbed.Criticality(c), got[c].served, got[c].asked, e.Load())
					}
				}
			})
		})
	}
}
