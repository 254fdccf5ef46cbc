package streaming

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/meter"
)

// roundTrip is a network that answers without one.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// pageFor answers as a healthy api does.
func pageFor(r *http.Request) (*http.Response, error) {
	who := Viewer{r.Header.Get("X-Member"), "Ana"}
	row := func(id string) Shelf {
		return Shelf{ID: id, More: id, Titles: []Card{{ID: "a-" + id}, {ID: "b-" + id}, {ID: "c-" + id}}}
	}
	var v any
	switch path := r.URL.Path; {
	case strings.HasPrefix(path, "/api/browse/"):
		v = Browse{who, row(strings.TrimPrefix(path, "/api/browse/"))}
	case strings.HasPrefix(path, "/api/play/"):
		t := Title{Card: Card{ID: strings.TrimPrefix(path, "/api/play/")}}
		v = Play{Member: who, Manifest: Manifest{Title: t, Licence: "x", Streams: streams(t, 2160)}, Fallbacks: []string{"billing", "bookmarks"}}
	default:
		v = Home{Member: who, Rows: []Shelf{row("drama"), row("new")}, Fallbacks: []string{"recommendations"}}
	}
	return respond(http.StatusOK, v), nil
}

func respond(status int, v any) *http.Response {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(string(body))), Header: http.Header{}}
}

// populate runs a population for d of bubble time and returns its report.
func populate(t *testing.T, d time.Duration, c PopulationConfig) (Report, *Population) {
	t.Helper()
	c.Edge = "http://edge/api"
	p, err := NewPopulation(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return p.Report(), p
}

func steadily(rps float64) func() float64 { return func() float64 { return rps } }

func TestMembersArriveAtTheWantedRateAndFinishJourneys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meter.New(nil)
		r, p := populate(t, 61*time.Second, PopulationConfig{RPS: steadily(50), Seed: 7, Meter: m, transport: roundTrip(pageFor)})
		f := r.Total
		if f.Requests < 2800 || f.Requests > 3300 {
			t.Errorf("61 s at 50/s: got %d requests, want about 3050", f.Requests)
		}
		if f.SuccessPercent != 100 || f.Succeeded != f.Requests {
			t.Errorf("got %d of %d succeeded (%v %%, causes %v), want all", f.Succeeded, f.Requests, f.SuccessPercent, f.Causes)
		}
		if j := f.Journeys; j.Started < 300 || j.Abandoned != 0 || j.Completed < j.Started*6/10 {
			t.Errorf("journeys: got %+v, want hundreds started, none abandoned, most completed", j)
		}
		if f.Steps["home"].Requests == 0 || f.Steps["browse"].Requests <= f.Steps["play"].Requests || f.Steps["play"].Requests == 0 {
			t.Errorf("steps: got %v, want all three, and more browsing than playing", f.Steps)
		}
		if want := f.Steps["home"].Requests + f.Steps["play"].Requests; f.WithFallback != want || f.Parts["billing"] != f.Steps["play"].Requests {
			t.Errorf("fallbacks: got %d with parts %v, want %d", f.WithFallback, f.Parts, want)
		}
		if l := r.Last; l.Seconds != 5 || l.Requests < 180 || l.Requests > 320 {
			t.Errorf("last window: got %d requests in %v s, want about 250 in 5 s", l.Requests, l.Seconds)
		}
		got := m.PercentileTimer("members.journey", "journey", "play", "result", "success").Snapshot()
		if got.Count != f.Steps["play"].Requests {
			t.Errorf("members.journey of play: counted %d, want %d", got.Count, f.Steps["play"].Requests)
		}
		p.Reset()
		if again := p.Report().Total; again.Requests != 0 || again.Steps["home"].Requests != 0 {
			t.Errorf("after Reset: got %+v, want nothing", again)
		}
	})
}

func TestTheSameSeedMakesTheSameJourneys(t *testing.T) {
	paths := func(seed uint64) (all []string) {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			populate(t, 10*time.Second, PopulationConfig{RPS: steadily(20), Seed: seed, transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				mu.Lock()
				all = append(all, r.Header.Get("X-Member")+r.URL.Path)
				mu.Unlock()
				return pageFor(r)
			})})
		})
		return all
	}
	a, b, c := paths(1), paths(1), paths(2)
	if !slices.Equal(a, b) {
		t.Errorf("seed 1 twice: got %d and %d requests that differ", len(a), len(b))
	}
	if slices.Equal(a, c) {
		t.Error("seeds 1 and 2 make the same requests")
	}
}

// A stall must show in every request it delayed, not only in those that were in flight when it began.
func TestAStallShowsInAllRequestsThatWereDueMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		r, _ := populate(t, 21*time.Second, PopulationConfig{RPS: steadily(1000), Seed: 3, transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if since := time.Since(begin); since > 10*time.Second && since < 11*time.Second {
				time.Sleep(11*time.Second - since) // more than all workers are caught in this second
			}
			return pageFor(r)
		})})
		f := r.Total
		if f.Succeeded != f.Requests {
			t.Errorf("got %d of %d, causes %v; a second's stall is within the deadline", f.Succeeded, f.Requests, f.Causes)
		}
		// 1000 of 21000 requests were due in that second and waited half of it on average.
		if f.P99 < 0.5 || f.P99 > 1.01 || f.Max < 0.9 || f.P50 > 0.001 {
			t.Errorf("p50 %v, p99 %v, max %v s; want p99 between 0.5 and 1, max nearly 1, p50 next to nothing", f.P50, f.P99, f.Max)
		}
	})
}

func TestNoRequestWaitsPastItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var longest time.Duration
		var mu sync.Mutex
		r, _ := populate(t, 10*time.Second, PopulationConfig{RPS: steadily(1000), Seed: 3, transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			begin := time.Now()
			<-r.Context().Done()
			mu.Lock()
			longest = max(longest, time.Since(begin))
			mu.Unlock()
			return nil, r.Context().Err()
		})})
		f := r.Total
		if f.Late != f.Requests || f.Causes["late"] != f.Requests {
			t.Errorf("got %d late of %d, causes %v, want all", f.Late, f.Requests, f.Causes)
		}
		if longest > Deadline {
			t.Errorf("a request waited %v, want at most %v", longest, Deadline)
		}
		if f.Requests < 6000 {
			t.Errorf("got %d requests counted in 10 s at 1000/s, want those of 8 s at least", f.Requests)
		}
	})
}

func TestRequestsThatCouldNotBeSentAreLateToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := populate(t, 10*time.Second, PopulationConfig{RPS: steadily(1000), Seed: 3, transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			time.Sleep(4 * time.Second) // deaf to the deadline, so that all workers are caught
			return pageFor(r)
		})})
		f := r.Total
		if f.Late != f.Requests || f.Unsent < 3000 || f.Causes["unsent"] != f.Unsent {
			t.Errorf("got %d late, %d unsent of %d, causes %v; want all late and thousands unsent", f.Late, f.Unsent, f.Requests, f.Causes)
		}
	})
}

func TestFailuresAreCountedByCause(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(*http.Request) (*http.Response, error)
		cause  string
	}{
		"status":  {func(*http.Request) (*http.Response, error) { return respond(503, "no"), nil }, "status 503"},
		"refused": {func(*http.Request) (*http.Response, error) { return nil, syscall.ECONNREFUSED }, "connection refused"},
		"broken":  {func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }, "connection broken"},
		"other":   {func(*http.Request) (*http.Response, error) { return nil, errors.New("odd") }, "connection failed"},
		"not json": {func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("<html>"))}, nil
		}, "incomplete: not JSON"},
		"no rows": {func(r *http.Request) (*http.Response, error) {
			return respond(200, Home{Member: Viewer{ID: r.Header.Get("X-Member")}}), nil
		}, "incomplete: home has no rows"},
		"empty row": {func(r *http.Request) (*http.Response, error) {
			return respond(200, Home{Member: Viewer{ID: r.Header.Get("X-Member")}, Rows: []Shelf{{More: "new"}}}), nil
		}, "incomplete: home has an empty row"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, _ := populate(t, 3*time.Second, PopulationConfig{RPS: steadily(20), Seed: 1, transport: roundTrip(c.answer)})
				f := r.Total
				if f.Requests == 0 || f.Failed != f.Requests || f.SuccessPercent != 0 || f.Causes[c.cause] != f.Failed {
					t.Errorf("got %d failed of %d, causes %v; want all by %q", f.Failed, f.Requests, f.Causes, c.cause)
				}
				if f.Journeys.Abandoned != f.Requests {
					t.Errorf("got %d journeys abandoned, want %d", f.Journeys.Abandoned, f.Requests)
				}
			})
		})
	}
}

func TestIncompletePagesEndTheJourney(t *testing.T) {
	for step, pg := range map[string]page{
		"browse": {Row: nil},
		"play":   {Manifest: nil},
	} {
		j := newJourney(1, 1)
		j.step, j.row, j.title = step, "drama", "x"
		pg.Member.ID = j.member
		if _, err := j.advance(&pg); err == nil {
			t.Errorf("%s: an empty page was taken for complete", step)
		}
		pg.Member.ID = "somebody else"
		if _, err := j.advance(&pg); err == nil || !strings.Contains(err.Error(), "somebody else") {
			t.Errorf("%s: a page for somebody else gave %v", step, err)
		}
	}
}

func TestRateZeroPausesAndAnotherRateTakesEffectAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		perSecond := map[int]int{}
		var mu sync.Mutex
		populate(t, 30*time.Second, PopulationConfig{Seed: 5, RPS: func() float64 {
			switch s := time.Since(begin).Seconds(); {
			case s < 10:
				return 0.01 // the next one would be due in minutes
			case s < 20:
				return 100
			}
			return 0
		}, transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			perSecond[int(time.Since(begin).Seconds())]++
			mu.Unlock()
			return pageFor(r)
		})})
		for s, n := range perSecond {
			if (s < 10 || s > 20) && n > 2 {
				t.Errorf("second %d: got %d requests, want none", s, n)
			}
		}
		if perSecond[10] < 50 || perSecond[19] < 50 {
			t.Errorf("at 100/s: got %v", slices.Sorted(maps.Keys(perSecond)))
		}
	})
}

func TestAPopulationNeedsAnEdge(t *testing.T) {
	for _, edge := range []string{"", "127.0.0.1:7000", "ftp://x", "http://"} {
		if _, err := NewPopulation(PopulationConfig{Edge: edge}); err == nil {
			t.Errorf("edge %q was accepted", edge)
		}
	}
	for text, want := range map[string]string{"": "http://127.0.0.1:7000/api", "http://h:1": "http://h:1/api", "http://h:1/": "http://h:1/",
		"http://h/x": "http://h/x"} {
		if got, err := EdgeURL(text); err != nil || got != want {
			t.Errorf("ROADBED_EDGE=%q: got %q, %v, want %q", text, got, err, want)
		}
	}
	if _, err := EdgeURL("nonsense"); err == nil {
		t.Error("ROADBED_EDGE=nonsense was accepted")
	}
}

func TestLatencyBinsAreNarrow(t *testing.T) {
	for d := time.Duration(0); d < time.Hour; d = d*101/100 + 317*time.Nanosecond {
		end := binEnd(bin(d))
		if end <= d.Truncate(time.Microsecond) || float64(end) > float64(d)*1.02+2000 {
			t.Fatalf("%v falls in a bin that ends at %v; want above it by at most 2 %%", d, end)
		}
	}
	for i := range 2000 {
		if got := bin(binEnd(i) - time.Microsecond); got != i {
			t.Fatalf("bin %d ends at %v, whose last microsecond is in bin %d", i, binEnd(i), got)
		}
	}
	var l latencies
	for i := 1; i <= 1000; i++ {
		l.add(time.Duration(i) * time.Millisecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond, 1: time.Second} {
		if got := l.percentile(q); got < want || float64(got) > float64(want)*1.02 {
			t.Errorf("percentile %v of 1 to 1000 ms: got %v, want %v", q, got, want)
		}
	}
}

func TestReportIsJSON(t *testing.T) {
	p, err := NewPopulation(PopulationConfig{Edge: "http://edge", RPS: steadily(12)})
	if err != nil {
		t.Fatal(err)
	}
	for _, take := range []func() Report{p.Report, p.Reset} {
		body, err := json.Marshal(take())
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"rps":12`, `"successPercent":100`, `"last":{`, `"journeys":{"started":0`} {
			if !strings.Contains(string(body), want) {
				t.Errorf("report %s lacks %s", body, want)
			}
		}
	}
}
