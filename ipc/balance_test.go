package ipc

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
)

// traffic sends rps requests a second for d and returns how many each address got, per whole second.
func traffic(t *testing.T, e *Engine, n *network, rps int, d time.Duration) []map[string]int {
	t.Helper()
	var wg sync.WaitGroup
	var out []map[string]int
	for range int(d / time.Second) {
		before := n.attempts()
		for range rps {
			wg.Go(func() { get(e, context.Background(), "GET", "http://app/") })
			time.Sleep(time.Second / time.Duration(rps))
		}
		n.mu.Lock()
		got := map[string]int{}
		for _, r := range n.seen[before:] {
			got[r.URL.Host]++
		}
		n.mu.Unlock()
		out = append(out, got)
	}
	wg.Wait()
	return out
}

// total is what each address got in all seconds together.
func total(seconds []map[string]int) map[string]int {
	got := map[string]int{}
	for _, second := range seconds {
		for addr, n := range second {
			got[addr] += n
		}
	}
	return got
}

func slow(d time.Duration, do func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return do(r)
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

// cell makes n endpoints in zones that answer after 10 ms, the first behaving as first.
func cell(t *testing.T, count int, zones []string, own string, first func(*http.Request) (*http.Response, error)) (*Engine, *network) {
	n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){}}
	var list []roadbed.Instance
	for i := range count {
		list = append(list, instances(zones[i%len(zones)], i+1)...)
		n.hosts[addr(i+1)] = slow(10*time.Millisecond, answer(200))
	}
	if first != nil {
		n.hosts[addr(1)] = first
	}
	return newTestEngine(t, Options{Lists: Static{"app": list}, Transport: n, Location: roadbed.Location{Zone: own}}), n
}

func TestSlowEndpointGetsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, n := cell(t, 10, []string{""}, "", slow(100*time.Millisecond, answer(200)))
		got := total(traffic(t, e, n, 500, 15*time.Second)[5:])[addr(1)] // of so many that chance does not matter
		if got > 50 {
			t.Errorf("from the 6th second on the endpoint that is 10 times slower got %d of 5000 requests, want less than 1 %%", got)
		}
	})
}

func TestFastFailuresAttractNoLoad(t *testing.T) {
	for _, count := range []int{2, 10} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, n := cell(t, count, []string{""}, "", answer(500)) // 500 is not retried
				got := traffic(t, e, n, 500, 3*time.Second)[2][addr(1)]
				if got > 5 {
					t.Errorf("in the 3rd second the endpoint that fails at once got %d of 500 requests, want less than 1 %%", got)
				}
			})
		})
	}
}

func TestEqualEndpointsShareEvenlyAtAnyRate(t *testing.T) {
	for rps, seconds := range map[int]int{10: 300, 300: 20} { // so many that chance does not matter
		synctest.Test(t, func(t *testing.T) {
			e, n := cell(t, 4, []string{""}, "", nil)
			traffic(t, e, n, rps, time.Duration(seconds)*time.Second)
			n.mu.Lock()
			defer n.mu.Unlock()
			got := map[string]int{}
			for _, r := range n.seen {
				got[r.URL.Host]++
			}
			for h, c := range got {
				if want := rps * seconds / 4; c < want/2 || c > want*2 {
					t.Errorf("at %d a second %s got %d, want about %d of each: %v", rps, h, c, want, got)
				}
			}
		})
	}
}

func TestLocalZoneIsPreferredAndSpillsOver(t *testing.T) {
	zones := []string{"a", "b", "c"}
	inZone := func(got map[string]int, zone int) (sum, all int) {
		for i := range 9 {
			all += got[addr(i+1)]
			if i%3 == zone {
				sum += got[addr(i+1)]
			}
		}
		return sum, all
	}
	synctest.Test(t, func(t *testing.T) {
		e, n := cell(t, 9, zones, "a", nil)
		got := traffic(t, e, n, 100, 3*time.Second)[2]
		if local, all := inZone(got, 0); local < all*8/10 {
			t.Errorf("quiet: %d of %d stayed in the zone, want at least 80 %%", local, all)
		}
		for _, i := range []int{1, 4, 7} { // zone a becomes 20 times slower
			n.mu.Lock()
			n.hosts[addr(i)] = slow(200*time.Millisecond, answer(200))
			n.mu.Unlock()
		}
		got = traffic(t, e, n, 100, 4*time.Second)[3]
		if local, all := inZone(got, 0); local > all/4 {
			t.Errorf("local zone slow: %d of %d stayed, want at most a quarter", local, all)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		e, n := cell(t, 9, zones, "a", nil)
		for _, i := range []int{1, 4, 7} { // zone a is dead
			delete(n.hosts, addr(i))
		}
		for i := range 1000 {
			if status, err := get(e, t.Context(), "GET", "http://app/"); status != 200 {
				t.Fatalf("call %d with the local zone dead: got %d, %v; want 200", i, status, err)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		// One of ten is local: it cannot carry a third of the traffic.
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){}}
		var list []roadbed.Instance
		for i := range 10 {
			zone := "b"
			if i == 0 {
				zone = "a"
			} else if i > 5 {
				zone = "c"
			}
			list = append(list, instances(zone, i+1)...)
			n.hosts[addr(i+1)] = slow(10*time.Millisecond, answer(200))
		}
		e := newTestEngine(t, Options{Lists: Static{"app": list}, Transport: n, Location: roadbed.Location{Zone: "a"}})
		got := total(traffic(t, e, n, 200, 12*time.Second)[2:])[addr(1)] // of so many that chance does not matter
		if got < 300 || got > 800 {
			t.Errorf("the only local one of ten got %d of 2000, want about 30 %%", got)
		}
	})
}

func TestNewInstanceWarmsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){}}
		list := instances("", 1, 2, 3, 4)
		for i := range list {
			list[i].Since = time.Now().Add(-time.Hour)
			n.hosts[addr(i+1)] = slow(10*time.Millisecond, answer(200))
		}
		list[0].Since = time.Now()
		e := newTestEngine(t, Options{Lists: Static{"app": list}, Transport: n})
		got := traffic(t, e, n, 100, 100*time.Second)
		sum := func(from, to int) (s int) {
			for _, m := range got[from:to] {
				s += m[addr(1)]
			}
			return s
		}
		if cold, warm := sum(0, 10), sum(90, 100); cold > 100 || warm < 150 || sum(0, 30) == 0 {
			t.Errorf("of 1000 requests in 10 s the new instance got %d at first and %d after 90 s, want some, at most 100, then about 250", cold, warm)
		}
	})
}

func TestFailingEndpointIsEjectedButNotTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, n := cell(t, 10, []string{""}, "", nil)
		e.Command("app", Settings{ForceClosed: true})
		for i := 1; i <= 4; i++ {
			n.hosts[addr(i)] = answer(500)
		}
		traffic(t, e, n, 500, 3*time.Second)
		if out := 10 - eligible(e); out != 1 {
			t.Errorf("%d of 10 endpoints are ejected, want 1: at most 10 %%", out)
		}
	})
}

// TestOneSlowOfTenDoesNotSlowTheCluster is the promise in numbers: one of ten endpoints becomes ten times as slow, and
// five seconds later the cluster's 99th percentile is at most 1.5 times what it was; an endpoint that begins to fail
// every request at once gets less than 1 % of the traffic a second later.
func TestOneSlowOfTenDoesNotSlowTheCluster(t *testing.T) {
	for _, rps := range []int{200, 1000} {
		t.Run(fmt.Sprint(rps), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){}}
				dice := rand.New(rand.NewPCG(1, 2))
				var mu sync.Mutex
				took := func(factor float64) func(*http.Request) (*http.Response, error) { // 10 ms or so, with a tail
					return func(r *http.Request) (*http.Response, error) {
						mu.Lock()
						d := 7e6*math.Exp(dice.NormFloat64()*0.5) + 2e6
						mu.Unlock()
						return slow(time.Duration(factor*d), answer(200))(r)
					}
				}
				for i := range 10 {
					n.hosts[addr(i+1)] = took(1)
				}
				e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)}, Transport: n})
				p99 := func(d time.Duration) time.Duration {
					var wg sync.WaitGroup
					var all []time.Duration
					for range int(d.Seconds() * float64(rps)) {
						wg.Go(func() {
							start := time.Now()
							get(e, context.Background(), "GET", "http://app/")
							mu.Lock()
							all = append(all, time.Since(start))
							mu.Unlock()
						})
						time.Sleep(time.Second / time.Duration(rps))
					}
					wg.Wait()
					slices.Sort(all)
					return all[len(all)*99/100]
				}
				behave := func(i int, do func(*http.Request) (*http.Response, error)) {
					n.mu.Lock()
					defer n.mu.Unlock()
					n.hosts[addr(i)] = do
				}
				p99(3 * time.Second)
				healthy := p99(5 * time.Second)
				behave(1, took(10))
				time.Sleep(time.Millisecond)
				p99(5 * time.Second)
				if got := p99(5 * time.Second); got > healthy*3/2 {
					t.Errorf("with one of ten ten times as slow the p99 is %s from the 6th second on, want at most 1.5 times %s", got, healthy)
				}
				behave(2, answer(500))
				traffic(t, e, n, rps, time.Second)
				got, all := 0, 0
				for _, second := range traffic(t, e, n, rps, 4*time.Second) {
					got += second[addr(2)]
					for _, c := range second {
						all += c
					}
				}
				if got*100 >= all {
					t.Errorf("from the 2nd second on the one that fails at once got %d of %d, want less than 1 %%", got, all)
				}
			})
		})
	}
}
