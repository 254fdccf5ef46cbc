package region

import (
	"math"
	"time"
)

// unknown stands for a minute of which nothing is known, or nothing that is to be expected again.
const unknown = -1

// hour is the good answers per second of each minute of an hour.
type hour [60]float64

// baseline is what a region did, by hours since 1970.
type baseline map[int64]*hour

func (b baseline) at(minute int64) float64 {
	if h := b[minute/60]; h != nil {
		return h[minute%60]
	}
	return unknown
}

// note keeps what a minute was like, and reports for which hour that is.
func (b baseline) note(minute int64, v float64) int64 {
	h := b[minute/60]
	if h == nil {
		h = new(hour)
		for i := range h {
			h[i] = unknown
		}
		b[minute/60] = h
	}
	h[minute%60] = v
	return minute / 60
}

const (
	week      = 7 * 24 * 60 // minutes
	around    = 10          // minutes of last week, before and after
	aroundMin = 11          // of which so many must be known
	lately    = 60          // minutes of the last hour
	latelyMin = 30
	skipped   = 5 // minutes that are too new: a fall may have begun in them

	leastRate  = 1    // good answers a second; fewer say nothing
	leastShare = 0.05 // of what is expected, as standard deviation
	sampled    = 10   // seconds that one value is the mean of
)

// expectation is what a region should do now.
type expectation struct {
	mean, sigma float64
	from        string // what it comes of
	needs       string // why there is none; empty: there is one
}

// low reports whether a value is too low.
func (e *expectation) low(v float64) bool { return e.needs == "" && v < e.mean-3*e.sigma }

// expect says what a minute should be like: as the same minutes of last week were, or, where they are not known, as the last
// hour lets expect, along a straight line. Of the standard deviation there is at least 5 % of the mean, and what answers that
// come by chance differ by (Poisson 1837).
func (b baseline) expect(minute int64) expectation {
	var e expectation
	if x, y := b.known(minute-week-around, minute-week+around, minute-week); len(x) >= aroundMin {
		m := mean(y)
		e.mean, e.sigma, e.from = m, deviation(y, func(int) float64 { return m }), "the same time last week"
	} else if x, y = b.known(minute-lately-skipped, minute-skipped-1, minute); len(x) >= latelyMin {
		at, slope := line(x, y)
		e.mean, e.sigma, e.from = max(0, at), deviation(y, func(i int) float64 { return at + slope*x[i] }), "the last hour"
	} else {
		e.needs = "it has been looked at for too short a time: 30 minutes of the last hour are needed, or the same time last week"
		return e
	}
	if e.mean < leastRate {
		e.needs = "it gives fewer than one good answer a second, which says nothing"
	}
	e.sigma = max(e.sigma, leastShare*e.mean, math.Sqrt(e.mean/sampled))
	return e
}

// known returns the minutes from first to last that are known, told from zero on, and what they were like.
func (b baseline) known(first, last, zero int64) (x, y []float64) {
	for m := first; m <= last; m++ {
		if v := b.at(m); v != unknown {
			x, y = append(x, float64(m-zero)), append(y, v)
		}
	}
	return x, y
}

func mean(y []float64) float64 {
	sum := 0.0
	for _, v := range y {
		sum += v
	}
	return sum / float64(len(y))
}

// deviation returns the standard deviation of y from what it should be.
func deviation(y []float64, should func(int) float64) float64 {
	sum := 0.0
	for i, v := range y {
		d := v - should(i)
		sum += d * d
	}
	return math.Sqrt(sum / float64(len(y)-1))
}

// line returns the straight line of least squares through points: where it is at 0, and how steep.
func line(x, y []float64) (at, slope float64) {
	mx, my := mean(x), mean(y)
	var xy, xx float64
	for i := range x {
		xy += (x[i] - mx) * (y[i] - my)
		xx += (x[i] - mx) * (x[i] - mx)
	}
	slope = xy / xx
	return my - slope*mx, slope
}

// judge is what is thought of a region. Its zero value has heard nothing.
type judge struct {
	heard time.Time // last
	began time.Time // to look on
	low   int       // values in a row that were too low
	well  int       // and that were not
}

// pace is how soon a judge speaks.
type pace struct {
	inRow  int           // values, of ten seconds each, that must agree
	settle time.Duration // for which it looks on, at the beginning and after a gap
}

func (p pace) seconds() int { return p.inRow * int(sampleEvery/time.Second) }

// usual is the pace where properties say nothing else.
var usual = pace{inRow: int(judgeFor / sampleEvery), settle: judgeSettle}

const (
	gap = time.Minute // without a value, after which everything may have changed

	judgeFor      = time.Minute
	judgeForMost  = time.Hour
	judgeSettle   = 5 * time.Minute
	judgeSettleTo = 24 * time.Hour
)

type verdict int

const (
	nothing verdict = iota
	ill             // for as long as the pace says
	well            // as long
)

// hear takes a value, and says what it shows.
func (j *judge) hear(now time.Time, v float64, e expectation, p pace) verdict {
	if now.Sub(j.heard) > gap {
		j.low, j.well, j.began = 0, 0, now
	}
	j.heard = now
	if now.Before(j.began.Add(p.settle)) || e.needs != "" {
		j.low, j.well = 0, 0
		return nothing
	}
	if e.low(v) {
		j.low, j.well = j.low+1, 0
	} else {
		j.low, j.well = 0, j.well+1
	}
	switch {
	case j.low >= p.inRow:
		return ill
	case j.well >= p.inRow:
		return well
	}
	return nothing
}

// miss notes that there is no value to hear.
func (j *judge) miss() { j.low, j.well = 0, 0 }

// unsettle has it look on again before it speaks: something was changed.
func (j *judge) unsettle() { *j = judge{} }
