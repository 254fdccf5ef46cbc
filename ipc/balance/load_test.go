package balance

import (
	"math"
	"testing"
	"time"
)

func TestUtilizationHeader(t *testing.T) {
	for _, tc := range []struct {
		text string
		want float64 // -1: an error
	}{
		{"50", 0.5}, {"75, target=50", 1.5}, {"30.5,target=61", 0.5}, {" 40% , target=80% ", 0.5}, {"0", 0},
		{"50, other=1, Target=25", 2}, {"", -1}, {"much", -1}, {"-1", -1}, {"NaN", -1}, {"50, target=0", -1}, {"50, target=x", -1}, {"1e9", -1},
	} {
		got, err := ParseUtilization(tc.text)
		if (err != nil) != (tc.want < 0) || err == nil && math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("%q: got %g, %v; want %g", tc.text, got, err, tc.want)
		}
	}
}

func TestLoadHeader(t *testing.T) {
	for _, tc := range []struct {
		text string
		want Load
		util float64
		bad  bool
	}{
		{text: "TEXT cpu=0.3,rps_fractional=120.5", want: Load{CPU: 0.3, RPS: 120.5}, util: 0.3},
		{text: "TEXT application_utilization=0.8, cpu_utilization=0.4,mem_utilization=0.2,eps=3,named_metrics.x=9", want: Load{Application: 0.8, CPU: 0.4, Memory: 0.2, EPS: 3}, util: 0.8},
		{text: `JSON {"cpu_utilization":0.3,"rps_fractional":10,"named_metrics":{"x":1}}`, want: Load{CPU: 0.3, RPS: 10}, util: 0.3},
		{text: `JSON {"applicationUtilization":1.2}`, want: Load{Application: 1.2}, util: 1.2},
		{text: "TEXT "}, {text: "JSON {}"},
		{text: "TEXT cpu=-1", bad: true}, {text: "TEXT cpu=Inf", bad: true}, {text: "TEXT cpu", bad: true}, {text: "JSON [1]", bad: true}, {text: "BIN xyz", bad: true}, {text: "", bad: true},
	} {
		got, err := ParseLoad(tc.text)
		if (err != nil) != tc.bad || got != tc.want || got.Utilization() != tc.util {
			t.Errorf("%q: got %+v (%g), %v; want %+v (%g), error %v", tc.text, got, got.Utilization(), err, tc.want, tc.util, tc.bad)
		}
	}
}

func FuzzUtilization(f *testing.F) {
	for _, s := range []string{"50", "75, target=50", "", "1e400", "-0", "50, target=1e-320", "NaN, target=NaN"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := ParseUtilization(s); !(got >= 0 && got <= maxLoad) || err != nil && got != 0 {
			t.Errorf("%q: got %g, %v", s, got, err)
		}
	})
}

func FuzzLoad(f *testing.F) {
	for _, s := range []string{"TEXT cpu=0.3,rps_fractional=120.5", `JSON {"cpu_utilization":0.3}`, "TEXT ,,", `JSON {"cpu":1e309}`, "JSON null", "text eps=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLoad(s)
		for _, v := range []float64{l.Application, l.CPU, l.Memory, l.RPS, l.EPS} {
			if !(v >= 0) || math.IsInf(v, 0) || err != nil && v != 0 {
				t.Errorf("%q: got %+v, %v", s, l, err)
			}
		}
	})
}

func TestReportedLoadMakesDearAndFades(t *testing.T) {
	b := proven(1)
	ep := b.all[0]
	for _, tc := range []struct {
		report float64
		age    time.Duration
		want   float64
		bad    bool
	}{
		{0.5, 0, 0.5, false}, {0, 0, 0, false}, {1.4, 0, 1.4, true}, {1.3, 0, 1.3, false},
		{0.5, 30 * time.Second, 0.5, false}, {0.5, 45 * time.Second, 0.75, false}, {0.5, time.Minute, 1, false}, {3, time.Hour, 1, false},
	} {
		ep.Report(tc.report, second)
		now := second + int64(tc.age)
		if got := ep.loadNow(now); math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("%g reported %s ago counts as %g, want %g", tc.report, tc.age, got, tc.want)
		}
		if _, bad := ep.cost(now, 1); bad != tc.bad {
			t.Errorf("%g reported %s ago: bad %v, want %v", tc.report, tc.age, bad, tc.bad)
		}
	}
	ep.Report(0.5, second)
	for _, junk := range []float64{-1, math.NaN(), math.Inf(1)} {
		if ep.Report(junk, second); ep.loadNow(second) != 0.5 {
			t.Errorf("a report of %g was taken", junk)
		}
	}
	low, _ := ep.cost(second, 1)
	ep.Report(1.25, second)
	if high, _ := ep.cost(second, 1); math.Abs(high/low-2) > 1e-9 { // (0.25 + 1.25) / (0.25 + 0.5)
		t.Errorf("a load of 1.25 costs %g times one of 0.5, want 2", high/low)
	}
}
