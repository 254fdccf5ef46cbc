package balance

import (
	"strings"
	"testing"
	"time"
)

func ms(n int) int64 { return int64(n) * int64(time.Millisecond) }

// balancer makes one of n endpoints with settings changed by set, and notes its events.
func balancer(n int, set func(*Settings), events *[]Event, zones ...string) *Balancer {
	s := Defaults()
	if set != nil {
		set(&s)
	}
	b := New(Config{Zone: "a", Settings: &s, Event: func(e Event) {
		if events != nil {
			*events = append(*events, e)
		}
	}})
	b.Update(instances(n, zones...), second)
	return b
}

func isEjected(b *Balancer, i int, now int64) bool { return b.State(now).Endpoints[i].Ejected != 0 }

func TestFailuresInARowEject(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*Settings)
		did  []Verdict
		want bool
	}{
		{"4 answers of 500", nil, []Verdict{Erred, Erred, Erred, Erred}, false},
		{"5 answers of 500", nil, []Verdict{Erred, Erred, Erred, Erred, Erred}, true},
		{"5 of 500 and 503, mixed", nil, []Verdict{Erred, Gateway, Erred, Gateway, Erred}, true},
		{"5 with a success between", nil, []Verdict{Erred, Erred, Answered, Erred, Erred, Erred}, false},
		{"5 that broke", nil, []Verdict{Broken, Broken, Broken, Broken, Broken}, true},
		{"5 that broke with a 500 between", nil, []Verdict{Broken, Broken, Erred, Broken, Broken, Broken}, false},
		{"abandoned ones say nothing", nil, []Verdict{Erred, Erred, Abandoned, Erred, Erred, Abandoned, Erred}, true},
		{"declined ones are no failures", nil, []Verdict{Declined, Declined, Declined, Declined, Declined, Declined}, false},
		{"3 of a limit of 3", func(s *Settings) { s.Consecutive5xx = 3 }, []Verdict{Erred, Erred, Erred}, true},
		{"0 is never", func(s *Settings) { s.Consecutive5xx = 0 }, []Verdict{Erred, Erred, Erred, Erred, Erred, Erred}, false},
		{"not enforced", func(s *Settings) { s.Enforce5xx = 0 }, []Verdict{Erred, Erred, Erred, Erred, Erred, Erred}, false},
		{"503 alone, gateway enforced", func(s *Settings) { s.Enforce5xx, s.EnforceGateway = 0, 100 }, []Verdict{Gateway, Gateway, Gateway, Gateway, Gateway}, true},
		{"503 and 500, gateway enforced", func(s *Settings) { s.Enforce5xx, s.EnforceGateway = 0, 100 }, []Verdict{Gateway, Gateway, Erred, Gateway, Gateway, Gateway}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := balancer(10, tc.set, nil)
			for _, v := range tc.did {
				b.all[0].Done(v, second, 1)
			}
			if got := isEjected(b, 0, second); got != tc.want {
				t.Errorf("after %v: ejected %v, want %v", tc.did, got, tc.want)
			}
		})
	}
}

func TestEjectionLastsLongerEachTimeAndIsForgottenInCleanIntervals(t *testing.T) {
	b := balancer(10, nil, nil)
	now := second
	fail := func() time.Duration {
		for range 5 {
			b.all[0].Done(Erred, now, 1)
		}
		return time.Duration(b.State(now).Endpoints[0].Ejected - now)
	}
	pass := func(d time.Duration) { // with somebody looking every second, as traffic makes them
		for end := now + int64(d); now < end; now += second {
			b.Pick(now)
		}
	}
	for i, want := range []time.Duration{30, 60, 90} {
		if got := fail(); got != want*time.Second {
			t.Fatalf("ejection %d lasts %s, want %s", i+1, got, want*time.Second)
		}
		pass(want*time.Second + time.Second)
	}
	pass(29 * time.Second) // two clean intervals, or three
	if got := fail(); got != 60*time.Second && got != 30*time.Second {
		t.Errorf("after 30 clean seconds the 4th ejection lasts %s, want 1 m or 30 s instead of 2 m", got)
	}
	for range 20 {
		pass(time.Duration(b.State(now).Endpoints[0].Ejected-now) + time.Second)
		fail()
	}
	if got := time.Duration(b.State(now).Endpoints[0].Ejected - now); got != 300*time.Second {
		t.Errorf("the 24th ejection lasts %s, want 5 m at most", got)
	}
}

func TestReturningEndpointIsColdForTenSeconds(t *testing.T) {
	b := balancer(10, nil, nil)
	for range 5 {
		b.all[0].Done(Erred, second, 1)
	}
	for _, tc := range []struct {
		at   int64
		warm float64
	}{{31*second + ms(1), 0.1}, {40 * second, 0.1}, {42 * second, 1}} {
		b.Refresh(tc.at)
		if e := b.State(tc.at).Endpoints[0]; e.Warm != tc.warm || !e.Eligible {
			t.Errorf("%d s after the ejection began: warm %g, eligible %v, want %g and true", tc.at/second-1, e.Warm, e.Eligible, tc.warm)
		}
	}
}

func TestAtMostATenthIsEjectedOneOfThreeAlways(t *testing.T) {
	for _, tc := range []struct{ n, bad, want int }{{1, 1, 0}, {2, 2, 0}, {3, 3, 1}, {10, 5, 1}, {30, 10, 3}} {
		var events []Event
		b := balancer(tc.n, nil, &events)
		for i := range tc.bad {
			for range 5 {
				b.all[i].Done(Erred, second, 1)
			}
		}
		got := 0
		for i := range tc.n {
			if isEjected(b, i, second) {
				got++
			}
		}
		if got != tc.want {
			t.Errorf("%d of %d fail: %d are ejected, want %d", tc.bad, tc.n, got, tc.want)
		}
		for _, e := range events {
			if e.Kind != Ejected || e.Endpoint == nil || !strings.Contains(e.Text, "5 answers of 500 or more in a row; for 30s") {
				t.Errorf("got event %+v, want one that says why and for how long", e)
			}
		}
	}
}

func TestWhoCameRoundBeforeItsTurnIsNotEjected(t *testing.T) {
	b := balancer(3, nil, nil)
	for i := range 2 {
		for range 5 {
			b.all[i].Done(Erred, second, 1)
		}
	}
	b.all[1].Done(Answered, second, 1)
	b.Refresh(40 * second) // the first has returned, so there is room
	if isEjected(b, 1, 40*second) {
		t.Error("an endpoint that answers again was ejected when there was room")
	}
}

// history gives every endpoint n attempts of which so many per cent succeed, and looks for outliers.
func history(b *Balancer, n int, percent ...int) (now int64) {
	for i, p := range percent {
		for k := range n { // successes spread, so that failures in a row do not count
			v := Erred
			if (k+1)*p/100 > k*p/100 {
				v = Answered
			}
			b.all[i].Done(v, second, 1)
		}
	}
	now = second + 10*second
	b.Refresh(now)
	return now
}

func TestOutliersBySuccessRate(t *testing.T) {
	only := func(s *Settings) { s.Consecutive5xx, s.EnforceFailure = 0, 0 }
	for _, tc := range []struct {
		name    string
		set     func(*Settings)
		n       int
		percent []int
		want    bool // that the first is ejected
	}{
		{"one of ten much worse", nil, 100, []int{50, 99, 99, 99, 99, 99, 99, 99, 99, 99}, true},
		{"all the same", nil, 100, []int{90, 90, 90, 90, 90, 90}, false},
		{"99 attempts are too few", nil, 99, []int{50, 99, 99, 99, 99, 99, 99, 99, 99, 99}, false},
		{"4 endpoints are too few", nil, 100, []int{50, 99, 99, 99}, false},
		{"within 1.9 deviations", nil, 100, []int{80, 85, 90, 95, 99}, false},
		{"not enforced", func(s *Settings) { s.EnforceSuccessRate = 0 }, 100, []int{50, 99, 99, 99, 99, 99, 99, 99, 99, 99}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := balancer(len(tc.percent), func(s *Settings) {
				only(s)
				if tc.set != nil {
					tc.set(s)
				}
			}, nil)
			if got := isEjected(b, 0, history(b, tc.n, tc.percent...)); got != tc.want {
				t.Errorf("success rates %v over %d attempts: the first is ejected %v, want %v", tc.percent, tc.n, got, tc.want)
			}
		})
	}
}

func TestOutliersByFailurePercentage(t *testing.T) {
	for _, tc := range []struct {
		n       int
		percent []int
		want    bool
	}{
		{50, []int{10, 20, 20, 20, 20}, true},   // 90 % fail
		{100, []int{15, 20, 20, 20, 20}, true},  // exactly 85 %
		{100, []int{16, 16, 20, 20, 20}, false}, // 84 %
		{49, []int{10, 20, 20, 20, 20}, false},
		{50, []int{10, 20, 20, 20}, false},
	} {
		b := balancer(len(tc.percent), func(s *Settings) { s.Consecutive5xx, s.EnforceSuccessRate = 0, 0 }, nil)
		if got := isEjected(b, 0, history(b, tc.n, tc.percent...)); got != tc.want {
			t.Errorf("success rates %v over %d attempts: the first is ejected %v, want %v", tc.percent, tc.n, got, tc.want)
		}
	}
}

func TestJitterLengthensEjections(t *testing.T) {
	seen := map[int64]bool{}
	for range 20 {
		b := balancer(3, func(s *Settings) { s.EjectionJitter = 10 * time.Second }, nil)
		for range 5 {
			b.all[0].Done(Erred, second, 1)
		}
		d := b.State(second).Endpoints[0].Ejected - second
		if d < 30*second || d > 40*second {
			t.Fatalf("with 10 s of jitter an ejection lasts %s, want 30 s to 40 s", time.Duration(d))
		}
		seen[d] = true
	}
	if len(seen) < 10 {
		t.Errorf("20 ejections have %d lengths, want them spread", len(seen))
	}
}

func TestWhoDeclinesGetsLessAndStays(t *testing.T) {
	b := proven(10)
	now := second
	for range 40 {
		now += ms(10)
		b.all[0].Done(Declined, now, 1)
	}
	if isEjected(b, 0, now) || b.all[0].tripped.Load() != 0 {
		t.Error("an endpoint that has too much to do was ejected")
	}
	if got := shares(b, now, 10000)[b.all[0].ID]; got > 0.03 {
		t.Errorf("an endpoint that has too much to do gets %.3f of the requests, want less than 0.03", got)
	}
}
