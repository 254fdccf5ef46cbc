package region

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/platform/edge"
)

// dns takes weights, as whoever leads clients to regions does.
type dns struct {
	mu     sync.Mutex
	got    []put
	status int           // 0: 200
	slow   time.Duration // before it answers
}

// put is what was told, and when.
type put struct {
	Weights
	host, key string // key: that it is signed with, of those tried
	after     time.Duration
}

// begun is when a bubble's time begins.
var begun = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// RoundTrip takes one request without a network, which a bubble's time would wait for.
func (d *dns) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	got := put{host: r.URL.Host, after: time.Since(begun)}
	if err := json.Unmarshal(body, &got.Weights); err != nil || r.Method != http.MethodPut {
		return nil, errors.New("these are no weights: " + r.Method + " " + string(body))
	}
	for _, key := range []string{"a secret", "another"} {
		if r.Header.Get(SignatureHeader) == "sha256="+sign(key, r.Header.Get(TimestampHeader), body) {
			got.key = key
		}
	}
	d.mu.Lock()
	d.got = append(d.got, got)
	status, slow := d.status, d.slow
	d.mu.Unlock()
	select {
	case <-time.After(slow):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if status == 0 {
		status = http.StatusOK
	}
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Body: io.NopCloser(strings.NewReader("not now")), Request: r}, nil
}

func (d *dns) answer(status int, slow time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status, d.slow = status, slow
}

// taken returns what was told since it was asked last.
func (d *dns) taken() []put {
	d.mu.Lock()
	defer d.mu.Unlock()
	got := d.got
	d.got = nil
	return got
}

// telling runs a test beside a teller whose weights a dns takes.
func telling(t *testing.T, test func(t *testing.T, w *Watch, d *dns)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &dns{}
		w := &Watch{teller: newTeller()}
		w.teller.client.Transport = d
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { w.teller.run(ctx) })
		test(t, w, d)
		cancel()
		running.Wait()
	})
}

func at(now time.Duration) time.Time { return begun.Add(now) }

// until sleeps until so long after the beginning.
func until(d time.Duration) {
	time.Sleep(time.Until(at(d)))
	synctest.Wait()
}

func TestWeightsGoAlongWithWhatEdgesHaveMoved(t *testing.T) {
	telling(t, func(t *testing.T, w *Watch, d *dns) {
		seconds := 100
		props := map[string]string{"edge.regions.weights.url": "https://user:pass@dns/w?token=x", "edge.regions.weights.key": "a secret"}
		all := edge.Regions{
			"east":  {State: edge.RegionDraining, To: map[string]int{"west": 60, "north": 40}, RampSeconds: &seconds, Since: begun, Edges: []string{"http://127.0.0.1:1"}},
			"west":  {State: edge.RegionServing, Edges: []string{"http://127.0.0.1:2"}},
			"north": {State: edge.RegionServing, Edges: []string{"http://127.0.0.1:3"}},
		}
		for _, x := range []struct {
			after time.Duration
			moved map[string]float64
			want  map[string]int // nil: nothing is told
		}{
			{0, nil, map[string]int{"east": 100}},
			{10 * time.Second, nil, map[string]int{"east": 90, "west": 6, "north": 4}},
			{10*time.Second + 100*time.Millisecond, nil, nil},                                                                           // nothing is new
			{50 * time.Second, map[string]float64{"east/east": 20, "west/east": 0}, map[string]int{"east": 80, "west": 12, "north": 8}}, // where east's edges stand still, so do they
			{60 * time.Second, map[string]float64{"west/east": 0}, map[string]int{"east": 40, "west": 36, "north": 24}},                 // east's edges are silent
			{100 * time.Second, map[string]float64{"east/east": 100}, map[string]int{"west": 60, "north": 40}},
			{9 * time.Minute, nil, nil},
			{12 * time.Minute, nil, map[string]int{"west": 60, "north": 40}}, // it may have been forgotten
		} {
			until(x.after)
			w.tell(props, all, x.moved, time.Now())
			synctest.Wait()
			var got map[string]int
			for _, p := range d.taken() {
				got = p.Weights.Weights["east"]
				if !maps.Equal(p.Weights.Weights["west"], map[string]int{"west": 100}) || p.key != "a secret" || !p.At.Equal(at(p.after)) {
					t.Errorf("after %v: told %+v; want west alone for west's, signed, and when", x.after, p)
				}
			}
			if !maps.Equal(got, x.want) {
				t.Errorf("after %v, edges have moved %v: told %v, want %v", x.after, x.moved, got, x.want)
			}
		}
		if s := w.teller.state(); s.URL != "https://dns/w" || s.Accepted == nil {
			t.Errorf("its state is %+v; want the bare URL, and that it was accepted", s)
		}
		delete(props, "edge.regions.weights.url")
		if w.tell(props, all, nil, time.Now()); w.teller.state() != nil {
			t.Errorf("nobody is to be told: %+v", w.teller.state())
		}
	})
}

func TestWeightsAreToldAgainUntilTheyAreAcceptedAlwaysTheNewest(t *testing.T) {
	telling(t, func(t *testing.T, w *Watch, d *dns) {
		d.answer(http.StatusServiceUnavailable, 0)
		share := func(n int) map[string]map[string]int { return map[string]map[string]int{"east": {"west": n}} }
		w.teller.tell("https://dns", "a secret", share(0))
		for n := range 299 {
			time.Sleep(time.Second)
			w.teller.tell("https://dns", "a secret", share(n+1))
		}
		synctest.Wait()
		var tries []time.Duration
		for _, p := range d.taken() {
			tries = append(tries, p.after)
			if n := time.Duration(p.Weights.Weights["east"]["west"]); p.after-n*time.Second > time.Second {
				t.Errorf("after %v it told what was said after %d s, want the newest", p.after, n)
			}
		}
		want := []time.Duration{0, 2 * time.Second, 6 * time.Second, 14 * time.Second, 30 * time.Second, 62 * time.Second, 122 * time.Second, 182 * time.Second, 242 * time.Second}
		if !slices.Equal(tries, want) {
			t.Errorf("refused by 503: tried after %v, want %v", tries, want)
		}
		if s := w.teller.state(); s.Accepted != nil || s.Attempts != len(want) || !strings.Contains(s.Failing, "Service Unavailable: not now") || !s.Again.Equal(at(302*time.Second)) {
			t.Errorf("its state is %+v; want how often it failed, why, and when it is tried again", s)
		}
		d.answer(0, 0)
		until(303 * time.Second)
		if s, got := w.teller.state(), d.taken(); len(got) != 1 || s.Accepted == nil || s.Failing != "" || s.Again != nil {
			t.Errorf("accepted at last: told %+v, state %+v; want once, and nothing failing", got, s)
		}
	})
}

func TestAnotherURLOrKeyEndsWaitingAndWhatIsUnderWayAtOnce(t *testing.T) {
	for what, change := range map[string][2]string{"another URL": {"https://other", "a secret"}, "another key": {"https://dns", "another"}} {
		telling(t, func(t *testing.T, w *Watch, d *dns) {
			weights := map[string]map[string]int{"east": {"east": 100}}
			d.answer(http.StatusForbidden, 0)
			w.teller.tell("https://dns", "a secret", weights)
			until(100 * time.Second) // it is tried next after 122 s
			if n := len(d.taken()); n != 6 {
				t.Fatalf("tried %d times in 100 s, want 6", n)
			}
			d.answer(0, 0)
			w.teller.tell(change[0], change[1], weights)
			synctest.Wait()
			got := d.taken()
			if len(got) != 1 || got[0].after != 100*time.Second || "https://"+got[0].host != change[0] || got[0].key != change[1] || w.teller.state().Accepted == nil {
				t.Errorf("%s while it waits: told %+v, state %+v; want at once", what, got, w.teller.state())
			}
		})
		telling(t, func(t *testing.T, w *Watch, d *dns) {
			weights := map[string]map[string]int{"east": {"east": 100}}
			d.answer(0, time.Hour)
			w.teller.tell("https://dns", "a secret", weights)
			until(3 * time.Second)
			d.taken()
			d.answer(0, 0)
			w.teller.tell(change[0], change[1], weights)
			synctest.Wait()
			got := d.taken()
			if s := w.teller.state(); len(got) != 1 || got[0].after != 3*time.Second || got[0].key != change[1] || s.Failing != "" || s.Accepted == nil {
				t.Errorf("%s while one is under way: told %+v, state %+v; want at once, and no failure", what, got, s)
			}
		})
	}
}

func TestWhoTakesWeightsSlowlyIsToldTheNewestNext(t *testing.T) {
	telling(t, func(t *testing.T, w *Watch, d *dns) {
		d.answer(0, 9*time.Second)
		for n := range 10 {
			until(time.Duration(n) * time.Second)
			w.teller.tell("https://dns", "a secret", map[string]map[string]int{"east": {"west": n}})
			if time.Since(begun) != time.Duration(n)*time.Second {
				t.Fatalf("telling takes until %v, want none of the time that being heard takes", time.Since(begun))
			}
		}
		until(30 * time.Second)
		var told []int
		for _, p := range d.taken() {
			told = append(told, p.Weights.Weights["east"]["west"])
		}
		if s := w.teller.state(); !slices.Equal(told, []int{0, 9}) && !slices.Equal(told, []int{0, 8, 9}) || s.Accepted == nil {
			t.Errorf("told %v, state %+v; want the first, then the newest alone, accepted", told, s)
		}
		d.answer(0, time.Minute)
		w.teller.tell("https://dns", "a secret", map[string]map[string]int{"east": {"west": 50}})
		until(40*time.Second + 100*time.Millisecond)
		if s := w.teller.state(); !strings.Contains(s.Failing, "it cannot be asked: ") || s.Attempts != 1 {
			t.Errorf("it has not answered for ten seconds: %+v, want that said", s)
		}
	})
}

func TestAMinuteOfRampBringsATellingEveryFiveSecondsAtMost(t *testing.T) {
	telling(t, func(t *testing.T, w *Watch, d *dns) {
		for n := range 60 {
			until(time.Duration(n) * time.Second)
			w.teller.tell("https://dns", "a secret", map[string]map[string]int{"east": {"west": n}})
		}
		until(70 * time.Second)
		got := d.taken()
		for i := range got[1:] {
			if pause := got[i+1].after - got[i].after; pause < tellEvery {
				t.Errorf("told after %v and after %v, want %v between", got[i].after, got[i+1].after, tellEvery)
			}
		}
		if last := got[len(got)-1].Weights.Weights["east"]["west"]; len(got) != 13 || last != 59 {
			t.Errorf("told %d times, at last %d; want 13 times, and 59", len(got), last)
		}
	})
}

func TestWhatWeightsAreToldOverHTTPIsSignedAndFailuresSayNoPassword(t *testing.T) {
	var problem string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if want := "sha256=" + sign("a secret", r.Header.Get(TimestampHeader), body); r.Method != http.MethodPut || r.Header.Get(SignatureHeader) != want {
			problem = r.Method + " " + r.Header.Get(SignatureHeader) + ", want PUT " + want
		}
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "/", http.StatusFound)
		}
	}))
	defer srv.Close()
	c := newTeller()
	defer c.client.CloseIdleConnections()
	weights := Weights{time.Unix(1_800_000_000, 0), map[string]map[string]int{"east": {"east": 100}}}
	if err := c.put(t.Context(), srv.URL+"/w?token=x", "a secret", weights); err != nil || problem != "" {
		t.Errorf("put: %v; the server finds %q", err, problem)
	}
	if err := c.put(t.Context(), srv.URL+"/away", "a secret", weights); err == nil || !strings.Contains(err.Error(), "it answers 302 Found") {
		t.Errorf("a redirect: %v, want it taken for no acceptance", err)
	}
	srv.Close()
	err := c.put(t.Context(), strings.Replace(srv.URL, "http://", "http://user:pass@", 1), "a secret", weights)
	if err == nil || !strings.Contains(err.Error(), "it cannot be asked: ") || strings.Contains(err.Error(), "pass") {
		t.Errorf("nobody is there: %v, want so, without the password", err)
	}
	if err := c.put(t.Context(), "ht tp://", "", weights); err == nil || !strings.Contains(err.Error(), "is no URL") {
		t.Errorf("no URL: %v, want so", err)
	}
}
