package asl

import (
	"math"
	"time"
)

func truth(v float64) bool { return v == v && v != 0 }

func btof(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// unaryOps work on one value. :per-step needs the step and is not here.
var unaryOps = map[string]func(v float64, nums []float64) float64{
	":abs":       func(v float64, _ []float64) float64 { return math.Abs(v) },
	":neg":       func(v float64, _ []float64) float64 { return -v },
	":sqrt":      func(v float64, _ []float64) float64 { return math.Sqrt(v) },
	":sin":       func(v float64, _ []float64) float64 { return math.Sin(v) },
	":cos":       func(v float64, _ []float64) float64 { return math.Sin(math.Pi/2 - v) },
	":tan":       func(v float64, _ []float64) float64 { return math.Sin(v) / math.Sin(math.Pi/2-v) },
	":cot":       func(v float64, _ []float64) float64 { return math.Sin(math.Pi/2-v) / math.Sin(v) },
	":sec":       func(v float64, _ []float64) float64 { return 1 / math.Sin(math.Pi/2-v) },
	":csc":       func(v float64, _ []float64) float64 { return 1 / math.Sin(v) },
	":clamp-min": func(v float64, n []float64) float64 { return clamp(v, v < n[0], n[0]) },
	":clamp-max": func(v float64, n []float64) float64 { return clamp(v, v > n[0], n[0]) },
}

func clamp(v float64, beyond bool, limit float64) float64 {
	if beyond {
		return limit
	}
	return v
}

var binaryOps = map[string]func(l, r float64) float64{
	":add": func(l, r float64) float64 {
		switch {
		case l != l:
			return r
		case r != r:
			return l
		}
		return l + r
	},
	":sub": func(l, r float64) float64 {
		switch {
		case l != l:
			return -r
		case r != r:
			return l
		}
		return l - r
	},
	":mul": func(l, r float64) float64 { return l * r },
	":div": func(l, r float64) float64 {
		if r == 0 {
			if l == 0 {
				return 0
			}
			return math.NaN()
		}
		return l / r
	},
	":pow":  math.Pow,
	":fadd": func(l, r float64) float64 { return l + r },
	":fsub": func(l, r float64) float64 { return l - r },
	":fmul": func(l, r float64) float64 { return l * r },
	":fdiv": func(l, r float64) float64 { return l / r },
	":gt":   func(l, r float64) float64 { return btof(l > r) },
	":ge":   func(l, r float64) float64 { return btof(l >= r) },
	":lt":   func(l, r float64) float64 { return btof(l < r) },
	":le":   func(l, r float64) float64 { return btof(l <= r) },
	":and":  func(l, r float64) float64 { return btof(truth(l) && truth(r)) },
	":or":   func(l, r float64) float64 { return btof(truth(l) || truth(r)) },
}

// clockModes are what :time can tell of a moment, in UTC.
var clockModes = map[string]func(t time.Time) float64{
	"secondOfMinute": func(t time.Time) float64 { return float64(t.Second()) },
	"secondOfDay":    func(t time.Time) float64 { return float64(t.Hour()*3600 + t.Minute()*60 + t.Second()) },
	"minuteOfHour":   func(t time.Time) float64 { return float64(t.Minute()) },
	"minuteOfDay":    func(t time.Time) float64 { return float64(t.Hour()*60 + t.Minute()) },
	"hourOfDay":      func(t time.Time) float64 { return float64(t.Hour()) },
	"dayOfWeek":      func(t time.Time) float64 { return float64((t.Weekday()+6)%7 + 1) },
	"dayOfMonth":     func(t time.Time) float64 { return float64(t.Day()) },
	"dayOfYear":      func(t time.Time) float64 { return float64(t.YearDay()) },
	"monthOfYear":    func(t time.Time) float64 { return float64(t.Month()) },
	"yearOfCentury":  func(t time.Time) float64 { return float64(t.Year() % 100) },
	"yearOfEra":      func(t time.Time) float64 { return float64(t.Year()) },
	"seconds":        func(t time.Time) float64 { return float64(t.Unix()) },
	"minutes":        func(t time.Time) float64 { return float64(t.Unix() / 60) },
	"hours":          func(t time.Time) float64 { return float64(t.Unix() / 3600) },
	"days":           func(t time.Time) float64 { return float64(t.Unix() / 86400) },
	"weeks":          func(t time.Time) float64 { return float64(t.Unix() / 604800) },
}

// clocks returns what a clock expression is at a time in milliseconds since the epoch.
func clocks(e *Expr) func(ms int64) float64 {
	switch e.word {
	case ":random":
		return random
	case ":srandom":
		seed := int64(e.num)
		return func(ms int64) float64 { return random(ms ^ seed) }
	}
	mode := clockModes[e.params[0]]
	return func(ms int64) float64 { return mode(time.UnixMilli(ms).UTC()) }
}

// random is a number in [0, 1) that depends on the time only.
func random(ms int64) float64 {
	hash := func(x uint32) uint32 {
		x ^= x >> 16
		x *= 0x7FEB352D
		x ^= x >> 15
		x *= 0x846CA68B
		return x ^ x>>16
	}
	h := int64(int32(hash(uint32(uint64(ms)>>32)) ^ hash(uint32(ms))))
	return float64(max(h, -h)%1000) / 1000
}

// stateOps turn a line into one whose points depend on earlier points of the window.
var stateOps = map[string]func(in, nums []float64, w Window) []float64{
	":rolling-count": rolling(func(seen []float64, _ []float64) float64 {
		n := 0.0
		for _, v := range seen {
			n += btof(truth(v))
		}
		return n
	}),
	":rolling-min": rolling(func(seen, _ []float64) float64 { return statistic("min", seen) }),
	":rolling-max": rolling(func(seen, _ []float64) float64 { return statistic("max", seen) }),
	":rolling-sum": rolling(func(seen, _ []float64) float64 { return statistic("total", seen) }),
	":rolling-mean": rolling(func(seen, nums []float64) float64 {
		if statistic("count", seen) < nums[1] {
			return math.NaN()
		}
		return statistic("avg", seen)
	}),
	":delay": func(in, nums []float64, _ Window) []float64 {
		out := make([]float64, len(in))
		for i := range out {
			out[i] = math.NaN()
			if j := i - int(nums[0]); j >= 0 {
				out[i] = in[j]
			}
		}
		return out
	},
	":trend": func(in, nums []float64, w Window) []float64 {
		n := int(nums[0] * 1000 / float64(w.Step))
		if n <= 1 {
			return in
		}
		out := rolling(func(seen, _ []float64) float64 { return statistic("total", seen) / float64(n) })(in, []float64{float64(n)}, w)
		for i := range min(n-1, len(out)) {
			out[i] = math.NaN()
		}
		return out
	},
	":integral": func(in, _ []float64, _ Window) []float64 {
		out := make([]float64, len(in))
		sum := math.NaN()
		for i, v := range in {
			sum = binaryOps[":add"](sum, v)
			out[i] = sum
		}
		return out
	},
	":derivative": func(in, _ []float64, _ Window) []float64 {
		out := make([]float64, len(in))
		before := math.NaN()
		for i, v := range in {
			out[i], before = v-before, v
		}
		return out
	},
	":cumulative-max": func(in, _ []float64, _ Window) []float64 {
		out := make([]float64, len(in))
		high := math.NaN()
		for i, v := range in {
			if v == v && !(high >= v) {
				high = v
			}
			out[i] = high
		}
		return out
	},
	":des": func(in, nums []float64, _ Window) []float64 {
		out := make([]float64, len(in))
		var d smoothing
		for i, v := range in {
			out[i] = d.next(v, nums)
		}
		return out
	},
}

// rolling applies f to the last n points, n being the first parameter.
func rolling(f func(seen, nums []float64) float64) func(in, nums []float64, w Window) []float64 {
	return func(in, nums []float64, _ Window) []float64 {
		out := make([]float64, len(in))
		for i := range in {
			out[i] = f(in[max(0, i+1-int(nums[0])):i+1], nums)
		}
		return out
	}
}

// smoothing is double exponential smoothing (Holt): what is expected before a value is known.
type smoothing struct {
	n, missing      int
	expected, trend float64
}

func (d *smoothing) next(y float64, nums []float64) float64 {
	training, alpha, beta := int(nums[0]), nums[1], nums[2]
	out := math.NaN()
	if d.n >= training {
		out = d.expected
	}
	switch {
	case y != y:
		if d.missing++; d.missing >= training && d.n > 0 {
			*d = smoothing{}
		}
		return out
	case d.n == 0:
		d.expected = y
	default:
		s := alpha*y + (1-alpha)*(d.expected+d.trend)
		d.trend = beta*(s-d.expected) + (1-beta)*d.trend
		d.expected = s
	}
	d.n++
	d.missing = 0
	return out
}
