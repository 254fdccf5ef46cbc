package region

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// life is a region whose good answers a second are told by a function of time, looked at every ten seconds as a watch does.
type life struct {
	watched
	now  time.Time
	ills int // times that it was found ill
}

func (l *life) live(for_ time.Duration, rate func(time.Time) float64) {
	for end := l.now.Add(for_); l.now.Before(end); l.now = l.now.Add(sampleEvery) {
		if v, _ := l.take(l.now, rate(l.now), nil, usual); v == ill {
			l.ills++
		}
	}
}

func born() *life {
	return &life{watched: watched{baseline: baseline{}}, now: time.Unix(1_800_000_000, 0)}
}

// daily is a curve with a night of a quarter of the evening, less on weekends, and what comes by chance.
func daily(peak float64, r *rand.Rand) func(time.Time) float64 {
	return func(at time.Time) float64 {
		day := 2 * math.Pi * float64(at.Unix()%86_400) / 86_400
		mean := peak * (0.625 + 0.375*math.Sin(day))
		if wd := at.UTC().Weekday(); wd == time.Saturday || wd == time.Sunday {
			mean *= 1 - 0.2*(1-math.Cos(day))
		}
		return max(0, mean+r.NormFloat64()*math.Sqrt(mean/sampled))
	}
}

func TestNightsWeekendsRestartsAndIdlePlatformsAreNoReason(t *testing.T) {
	for seed := range uint64(3) {
		for _, peak := range []float64{3, 40, 5000} {
			r := rand.New(rand.NewPCG(seed, 1))
			l := born()
			l.live(9*24*time.Hour, daily(peak, r))
			if l.ills > 0 {
				t.Errorf("nine days of a curve with a peak of %v/s, seed %d: found ill %d times, want never", peak, seed, l.ills)
			}
		}
	}
	r := rand.New(rand.NewPCG(7, 1))
	l := born()
	curve := daily(200, r)
	l.live(2*time.Hour, curve)
	for range 20 { // everything is started anew, and clients come back bit by bit
		l.now = l.now.Add(2 * time.Minute)
		l.judge = judge{}
		began := l.now
		l.live(40*time.Minute, func(at time.Time) float64 { return curve(at) * min(1, float64(at.Sub(began))/float64(4*time.Minute)) })
	}
	if l.ills > 0 {
		t.Errorf("started anew twenty times: found ill %d times, want never", l.ills)
	}
	l = born()
	l.live(6*time.Hour, func(time.Time) float64 { return 0.9 * r.Float64() })
	l.live(time.Hour, func(time.Time) float64 { return 0 })
	if l.ills > 0 {
		t.Errorf("a region with fewer than one answer a second: found ill %d times, want never", l.ills)
	}
}

func TestAFallIsSeenWithinSeventySeconds(t *testing.T) {
	for what, tt := range map[string]struct {
		before time.Duration
		from   string
	}{"in its first hours": {2 * time.Hour, "the last hour"}, "in its second week": {8*24*time.Hour + 3*time.Hour, "the same time last week"}} {
		l := born()
		curve := daily(200, rand.New(rand.NewPCG(3, 1)))
		l.live(tt.before, curve)
		if e := l.baseline.expect(l.now.Unix() / 60); e.from != tt.from || e.needs != "" {
			t.Errorf("%s: what is expected comes of %q (needs %q), want %q", what, e.from, e.needs, tt.from)
		}
		l.live(50*time.Second, func(at time.Time) float64 { return curve(at) / 2 })
		if l.ills > 0 {
			t.Errorf("%s: found ill after 50 s at half, want a minute", what)
		}
		l.live(20*time.Second, func(at time.Time) float64 { return curve(at) / 2 })
		if l.ills == 0 {
			t.Errorf("%s: not found ill after 70 s at half", what)
		}
	}
}

func TestLittleIsKnownInTheFirstHalfHour(t *testing.T) {
	l := born()
	l.live(30*time.Minute, func(time.Time) float64 { return 100 })
	l.live(4*time.Minute, func(time.Time) float64 { return 0 })
	if e := l.baseline.expect(l.now.Unix() / 60); e.needs == "" || l.ills > 0 {
		t.Errorf("after 34 minutes: %+v, found ill %d times; want it to say what it needs, and nothing else", e, l.ills)
	}
}

// TestAJudgeSpeaksAfterAMinuteInARow is the judge's rule as a property, beside a plain model: it says ill, or well, if and only if the last
// six values were, none was missing for a minute, and it has looked on for five minutes.
func TestAJudgeSpeaksAfterAMinuteInARow(t *testing.T) {
	e := expectation{mean: 100, sigma: 5, from: "a test"}
	rapid.Check(t, func(t *rapid.T) {
		var j judge
		now := time.Unix(1_800_000_000, 0)
		began := now
		var row []bool // values since the last gap, that it was low
		for _, step := range rapid.SliceOfN(rapid.IntRange(0, 9), 1, 200).Draw(t, "steps") {
			switch {
			case step == 0: // nothing is heard for more than a minute
				now = now.Add(gap)
				began, row = now.Add(sampleEvery), nil
			case step == 1:
				j.miss()
				row = nil
			default:
				low := step < 7
				v := map[bool]float64{true: 84, false: 86}[low]
				got := j.hear(now, v, e, usual)
				if now.Sub(began) >= usual.settle {
					row = append(row, low)
				}
				want := nothing
				if n := len(row); n >= usual.inRow {
					want = map[bool]verdict{true: ill, false: well}[low]
					for _, r := range row[n-usual.inRow:] {
						if r != low {
							want = nothing
						}
					}
				}
				if got != want {
					t.Fatalf("at %v, value %v after %v: got %d, want %d", now.Sub(began), v, row, got, want)
				}
			}
			now = now.Add(sampleEvery)
		}
	})
}
