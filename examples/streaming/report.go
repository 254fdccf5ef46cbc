package streaming

import (
	"maps"
	"math/bits"
	"time"
)

// Report is what members experienced.
type Report struct {
	Since time.Time `json:"since"` // when the totals began
	RPS   float64   `json:"rps"`   // wanted now
	Total Figures   `json:"total"`
	Last  Figures   `json:"last"` // the last whole five seconds; zero before the first
}

// Figures count the requests that ended in a stretch of time. Requests = Succeeded + Failed + Late.
type Figures struct {
	Seconds         float64          `json:"seconds"` // the stretch
	Requests        int64            `json:"requests"`
	Succeeded       int64            `json:"succeeded"` // status 200 and complete, in time
	Failed          int64            `json:"failed"`
	Late            int64            `json:"late"`             // no answer before the deadline
	Unsent          int64            `json:"unsent"`           // of the late: never sent, for all workers were waiting
	SuccessPercent  float64          `json:"successPercent"`   // 100 when there were no requests
	WithFallback    int64            `json:"withFallback"`     // succeeded with at least one part replaced
	FallbackPercent float64          `json:"fallbackPercent"`  // of those that succeeded
	P50             float64          `json:"p50"`              // seconds from when the request was due, as P99 and Max
	P99             float64          `json:"p99"`              // at most 2 % too high, as P50
	Max             float64          `json:"max"`              //
	Steps           map[string]Step  `json:"steps,omitempty"`  // by "home", "browse", "play"
	Parts           map[string]int64 `json:"parts,omitempty"`  // answers in which that service's part was replaced
	Causes          map[string]int64 `json:"causes,omitempty"` // of what failed or was late
	Journeys        Journeys         `json:"journeys"`
}

// Step counts one kind of request.
type Step struct {
	Requests  int64 `json:"requests"`
	Succeeded int64 `json:"succeeded"`
}

// Journeys count members' visits from the home page to the end of a film.
type Journeys struct {
	Started   int64 `json:"started"`
	Completed int64 `json:"completed"`
	Abandoned int64 `json:"abandoned"` // a step failed
}

// tally is Figures while they grow.
type tally struct {
	since    time.Time
	requests int64
	results  map[string]int64
	steps    map[string]Step
	parts    map[string]int64
	causes   map[string]int64
	journeys Journeys
	replaced int64
	unsent   int64
	took     latencies
}

func newTally() *tally {
	return &tally{since: time.Now(), results: map[string]int64{}, steps: map[string]Step{}, parts: map[string]int64{}, causes: map[string]int64{}}
}

func (t *tally) add(step, result, cause string, took time.Duration) {
	t.requests++
	t.results[result]++
	s := t.steps[step]
	s.Requests++
	if result == "success" {
		s.Succeeded++
	} else if _, known := t.causes[cause]; known || len(t.causes) < 50 {
		t.causes[cause]++
	}
	t.steps[step] = s
	t.took.add(took)
}

// fallback counts an answer in which these services' parts were replaced.
func (t *tally) fallback(parts []string) {
	if len(parts) == 0 {
		return
	}
	t.replaced++
	for _, p := range parts {
		if _, known := t.parts[p]; known || len(t.parts) < 50 {
			t.parts[p]++
		}
	}
}

func (t *tally) figures() Figures {
	f := Figures{
		Seconds:  time.Since(t.since).Seconds(),
		Requests: t.requests, Succeeded: t.results["success"], Failed: t.results["failure"], Late: t.results["late"], Unsent: t.unsent,
		SuccessPercent: percent(t.results["success"], t.requests, 100),
		WithFallback:   t.replaced, FallbackPercent: percent(t.replaced, t.results["success"], 0),
		P50: t.took.percentile(0.50).Seconds(), P99: t.took.percentile(0.99).Seconds(), Max: t.took.max.Seconds(),
		Steps: maps.Clone(t.steps), Parts: maps.Clone(t.parts), Causes: maps.Clone(t.causes), Journeys: t.journeys,
	}
	return f
}

func percent(part, whole int64, none float64) float64 {
	if whole == 0 {
		return none
	}
	return 100 * float64(part) / float64(whole)
}

// latencies is a histogram: 64 bins per power of two of microseconds, so that a bin is at most 1/64 wide.
type latencies struct {
	bins  [64 * 34]int64
	count int64
	max   time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.count++
	l.max = max(l.max, d)
	l.bins[bin(d)]++
}

// percentile returns the upper end of the bin in which the share q of all latencies ends, 0 when there are none.
func (l *latencies) percentile(q float64) time.Duration {
	rank, seen := int64(q*float64(l.count)+0.5), int64(0)
	for i, n := range l.bins {
		if seen += n; n > 0 && seen >= rank {
			return min(binEnd(i), l.max)
		}
	}
	return 0
}

// bin of d: below 128 µs its microseconds, above that 64 bins between two powers of two.
func bin(d time.Duration) int {
	us := uint64(max(0, d.Microseconds()))
	if us < 128 {
		return int(us)
	}
	shift := bits.Len64(us) - 7
	return min(64*shift+int(us>>shift), 64*34-1)
}

// binEnd is the end of bin i, which no latency in it reaches.
func binEnd(i int) time.Duration {
	if i < 128 {
		return time.Duration(i+1) * time.Microsecond
	}
	shift := i/64 - 1
	return time.Duration(uint64(i-64*shift+1)<<shift) * time.Microsecond
}
