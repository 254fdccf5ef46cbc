package ipc

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
)

// storm is a chain of services of which the last dies for a while: edge -> a -> b -> leaf, each hop with three tries.
type storm struct {
	rate            int // offered, requests a second
	well, dead, end time.Duration
	fails           func(w http.ResponseWriter, r *http.Request) // what the leaf does while dead
	set             Settings                                     // of every hop
	naive           bool                                         // each hop tries three times, without an engine

	dying   atomic.Bool
	offered []int // by second
	good    []int
	mu      sync.Mutex
	leaf    []int // what the leaf received
	start   time.Time
}

func (s *storm) second() int { return int(time.Since(s.start) / time.Second) }

func (s *storm) serveLeaf(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.leaf[min(s.second(), len(s.leaf)-1)]++
	s.mu.Unlock()
	if s.dying.Load() {
		s.fails(w, r)
		return
	}
	time.Sleep(2 * time.Millisecond)
	io.WriteString(w, "well")
}

// passOn is a service that needs the next one to answer.
func passOn(calls http.RoundTripper, url string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), "GET", url, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		resp, err := calls.RoundTrip(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	})
}

// thrice is what many clients are: three tries, no questions asked.
type thrice struct {
	base http.RoundTripper
	addr string
}

func (t thrice) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	r = r.Clone(r.Context())
	r.URL.Host = t.addr
	for i := range 3 {
		if i > 0 {
			time.Sleep(backoff(i - 1))
		}
		if resp, err = t.base.RoundTrip(r); err == nil && resp.StatusCode < 500 || i == 2 {
			break
		}
		if err == nil {
			resp.Body.Close()
		}
	}
	return resp, err
}

// run offers the load. serve makes a handler reachable and says where; base makes the exchanges.
func (s *storm) run(t *testing.T, serve func(http.Handler) roadbed.Instance, base http.RoundTripper) {
	seconds := int(s.end / time.Second)
	s.offered, s.good, s.leaf = make([]int, seconds), make([]int, seconds), make([]int, seconds)
	s.start = time.Now()
	next := []roadbed.Instance{serve(http.HandlerFunc(s.serveLeaf)), serve(http.HandlerFunc(s.serveLeaf))}
	var calls http.RoundTripper
	for _, name := range []string{"leaf", "b", "a"} { // each is called by the one after it
		for i := range next {
			next[i].App, next[i].ID = name, fmt.Sprint(name, "-", i)
		}
		makeClient := func(app string) (http.RoundTripper, func(http.Handler) http.Handler) {
			if s.naive {
				return thrice{base, next[0].Addr()}, func(h http.Handler) http.Handler { return h }
			}
			e := newTestEngine(t, Options{App: app, Lists: Static{name: next}, Transport: base})
			set := s.set
			if name != "leaf" {
				set.AttemptTimeout = 0 // who gives up before the one below has had its tries learns too late that all is well
			}
			e.Command(name, set)
			return e.Transport(), e.Handler
		}
		if name == "a" {
			calls, _ = makeClient("edge")
			break
		}
		var here []roadbed.Instance
		for range 2 {
			client, wrap := makeClient("service")
			here = append(here, serve(wrap(passOn(client, "http://"+name+"/"))))
		}
		next = here
	}

	var all sync.WaitGroup
	every := time.Second / time.Duration(s.rate)
	for tick := time.NewTicker(every); ; {
		if time.Since(s.start) >= s.end {
			tick.Stop()
			break
		}
		s.dying.Store(time.Since(s.start) >= s.well && time.Since(s.start) < s.well+s.dead)
		second := min(s.second(), seconds-1)
		s.offered[second]++
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "GET", "http://a/", nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := calls.RoundTrip(req)
			if err != nil {
				return
			}
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == 200 && err == nil {
				s.mu.Lock()
				s.good[second]++
				s.mu.Unlock()
			}
		})
		<-tick.C
	}
	all.Wait()
}

func sum(of []int, from, to time.Duration) (n int) {
	for _, v := range of[int(from/time.Second):int(to/time.Second)] {
		n += v
	}
	return n
}

// amplification is how many requests reached the leaf for each one offered, in the worst ten seconds.
func (s *storm) amplification() (worst float64) {
	const window = 10 * time.Second
	for from := time.Duration(0); from+window <= s.end; from += time.Second {
		worst = max(worst, float64(sum(s.leaf, from, from+window))/float64(sum(s.offered, from, from+window)))
	}
	return worst
}

// whileDead is the same for all of the outage.
func (s *storm) whileDead() float64 {
	return float64(sum(s.leaf, s.well, s.well+s.dead)) / float64(sum(s.offered, s.well, s.well+s.dead))
}

// recovered is the part of what was offered that succeeded, from five seconds after the leaf was well again.
func (s *storm) recovered() float64 {
	from := s.well + s.dead + 5*time.Second
	return float64(sum(s.good, from, s.end)) / float64(sum(s.offered, from, s.end))
}

// wires is a network of handlers in one process.
type wires struct {
	mu    sync.Mutex
	hosts map[string]http.Handler
}

func (n *wires) serve(h http.Handler) roadbed.Instance {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := instances("", len(n.hosts)+1)[0]
	n.hosts[i.Addr()] = h
	return i
}

func (n *wires) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	h := n.hosts[r.URL.Host]
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background()) // what the caller's context holds does not travel
	defer context.AfterFunc(r.Context(), cancel)()
	defer cancel()
	in := httptest.NewRequest(r.Method, r.URL.String(), r.Body).WithContext(ctx)
	in.Header = r.Header.Clone()
	w := httptest.NewRecorder()
	broken := func() (broken bool) {
		defer func() { broken = recover() != nil }()
		h.ServeHTTP(w, in)
		return false
	}()
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if broken {
		return nil, io.ErrUnexpectedEOF
	}
	return w.Result(), nil
}

func answers503(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "dead", http.StatusServiceUnavailable)
}
func cutsOff(http.ResponseWriter, *http.Request)          { panic(http.ErrAbortHandler) }
func neverAnswers(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func TestRetryStormReachesADeadLeafAtMost1point25TimesAndIsOverWithin5s(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fails func(http.ResponseWriter, *http.Request)
		set   Settings
		rate  int
	}{
		{"503", answers503, Settings{}, 100},
		{"503, without breakers", answers503, Settings{BreakerOff: true}, 50},
		{"503, many, without breakers", answers503, Settings{BreakerOff: true}, 250},
		{"cut off", cutsOff, Settings{}, 200},
		{"cut off, without breakers", cutsOff, Settings{BreakerOff: true}, 100},
		{"no answer", neverAnswers, Settings{AttemptTimeout: 100 * time.Millisecond}, 200},
		{"no answer, without breakers", neverAnswers, Settings{AttemptTimeout: 100 * time.Millisecond, BreakerOff: true, MaxConcurrent: 5000}, 250},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &storm{rate: tc.rate, well: time.Second, dead: 10 * time.Second, end: 17 * time.Second, fails: tc.fails, set: tc.set}
				s.set.Retries = 2
				n := &wires{hosts: map[string]http.Handler{}}
				s.run(t, n.serve, n)
				if a := s.amplification(); a > 1.25 {
					t.Errorf("the leaf received %.2f times what was offered within 10 s, want at most 1.25; by second: offered %v, leaf %v", a, s.offered, s.leaf)
				}
				if a := s.whileDead(); a > 1.25 {
					t.Errorf("the dead leaf received %.2f times what was offered, want at most 1.25; by second: offered %v, leaf %v", a, s.offered, s.leaf)
				}
				t.Logf("amplification %.3f in the worst 10 s, %.3f while dead; %.1f %% well after 5 s", s.amplification(), s.whileDead(), s.recovered()*100)
				if g := s.recovered(); g < 0.95 {
					t.Errorf("%.1f %% succeeded from 5 s after the leaf was well again, want 95 %%; by second: offered %v, good %v", g*100, s.offered, s.good)
				}
				if g := sum(s.good, 0, s.well); g < sum(s.offered, 0, s.well) {
					t.Errorf("%d of %d succeeded before anything was wrong", g, sum(s.offered, 0, s.well))
				}
			})
		})
	}
}

func TestThreeTriesAtEachOfThreeHopsMultiplyWithoutABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &storm{rate: 100, well: time.Second, dead: 2 * time.Second, end: 9 * time.Second, fails: answers503, naive: true}
		n := &wires{hosts: map[string]http.Handler{}}
		s.run(t, n.serve, n)
		if a := s.whileDead(); a < 15 {
			t.Errorf("the storm without a budget is only %.1f times the offered load, so the test above would prove little", a)
		}
	})
}
