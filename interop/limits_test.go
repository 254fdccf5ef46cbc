package interop

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/ipc/limit"
)

// sampleSequence is an algorithm and what it is told.
type sampleSequence struct {
	words    string // how the Java program is asked for it
	limiter  func() (limit.Algorithm, error)
	windowed bool
	samples  []limitSample
}

type limitSample struct {
	start    int64
	rtt      time.Duration
	inflight int
	dropped  bool
}

// randomSequence is a random algorithm of a kind, and the samples of a server whose load wanders.
func randomSequence(kind string, dice *rand.Rand) sampleSequence {
	s := sampleSequence{windowed: strings.HasPrefix(kind, "windowed ")}
	most := 30 + dice.IntN(1500)
	least := 1 + dice.IntN(20)
	initial := least + dice.IntN(min(most, 300)-least)
	pick := func(v ...float64) float64 { return v[dice.IntN(len(v))] }
	switch strings.TrimPrefix(kind, "windowed ") {
	case "aimd":
		backoff, timeout := pick(0.9, 0.5, 0.77, 0.95), time.Duration(1+dice.IntN(5))*time.Second
		s.words = fmt.Sprint(kind, " ", initial, " ", least, " ", most, " ", backoff, " ", timeout.Nanoseconds())
		s.limiter = func() (limit.Algorithm, error) {
			return limit.NewAIMD(limit.AIMDConfig{Initial: initial, Min: least, Max: most, Backoff: backoff, Timeout: timeout})
		}
	case "vegas":
		smoothing := pick(1, 1, 0.5, 0.2, 0.13)
		s.words = fmt.Sprint(kind, " ", initial, " 1 ", most, " ", smoothing)
		s.limiter = func() (limit.Algorithm, error) {
			return limit.NewVegas(limit.VegasConfig{Initial: initial, Max: most, Smoothing: smoothing, Probe: -1})
		}
	case "gradient2":
		smoothing, tolerance := pick(0.2, 0.2, 1, 0.07), pick(1.5, 1, 2, 1.3)
		queue, long := 1+dice.IntN(10), 1+dice.IntN(1000)
		s.words = fmt.Sprint(kind, " ", initial, " ", least, " ", most, " ", smoothing, " ", queue, " ", tolerance, " ", long)
		s.limiter = func() (limit.Algorithm, error) {
			return limit.NewGradient2(limit.Gradient2Config{
				Initial: initial, Min: least, Max: most, Smoothing: smoothing, Tolerance: tolerance, Queue: queue, Long: long, Original: true,
			})
		}
	}
	base := math.Exp(dice.Float64()*9) * 100e3 // 100 µs to 0.8 s
	load, now := dice.Float64(), int64(1)
	for range 300 {
		load = min(1, max(0, load+dice.NormFloat64()*0.1))
		x := limitSample{
			start: now, rtt: time.Duration(base*(1+8*load*load*dice.Float64())) + time.Duration(dice.IntN(1000)),
			inflight: dice.IntN(1 + int(2*load*float64(most))), dropped: dice.Float64() < 0.02,
		}
		if dice.IntN(50) == 0 {
			x.rtt = time.Duration(1 + dice.Int64N(int64(10*time.Second))) // an outlier
		}
		if s.windowed && x.rtt < 100*time.Microsecond {
			x.dropped = false // we count drops that come fast, concurrency-limits does not
		}
		s.samples = append(s.samples, x)
		now += dice.Int64N(int64(200 * time.Millisecond))
	}
	return s
}

// run returns the limit after each sample.
func (s *sampleSequence) run() ([]int, error) {
	a, err := s.limiter()
	if err != nil {
		return nil, err
	}
	var out []int
	if !s.windowed {
		for _, x := range s.samples {
			out = append(out, a.Update(x.rtt, x.inflight, x.dropped))
		}
		return out, nil
	}
	l, err := limit.New(limit.Config{Algorithm: a})
	if err != nil {
		return nil, err
	}
	for _, x := range s.samples {
		var held []limit.Permit
		for range x.inflight - 1 {
			held = append(held, l.Enter(x.start))
		}
		p := l.Enter(x.start)
		if x.dropped {
			l.Drop(p, x.start+int64(x.rtt))
		} else {
			l.Success(p, x.start+int64(x.rtt))
		}
		for _, p := range held {
			l.Ignore(p)
		}
		out = append(out, l.Limit())
	}
	return out, nil
}

// TestLimitsAreThoseOfConcurrencyLimits tells the algorithms and the real Java ones the same 1,000 random sequences of
// 300 samples each, and wants the same limit after every one.
func TestLimitsAreThoseOfConcurrencyLimits(t *testing.T) {
	needJava(t)
	const sequences = 1000
	for _, kind := range []string{"aimd", "vegas", "gradient2", "windowed aimd", "windowed vegas"} {
		t.Run(kind, func(t *testing.T) {
			dice := rand.New(rand.NewPCG(2018, uint64(len(kind))))
			var all []sampleSequence
			var in bytes.Buffer
			for range sequences {
				s := randomSequence(kind, dice)
				if s.windowed {
					for i := range s.samples {
						s.samples[i].inflight = max(1, s.samples[i].inflight) // whoever is told of is in flight
					}
				}
				all = append(all, s)
				fmt.Fprintln(&in, s.words)
				for _, x := range s.samples {
					dropped := 0
					if x.dropped {
						dropped = 1
					}
					fmt.Fprintln(&in, x.start, x.rtt.Nanoseconds(), x.inflight, dropped)
				}
			}
			cmd := exec.Command("java/run", "netflix", "Limits")
			said := new(lockedBuffer)
			cmd.Stdin, cmd.Stderr = &in, said
			raw, err := cmd.Output()
			if err != nil {
				t.Fatalf("java: %v\n%s", err, said)
			}
			lines := bufio.NewScanner(bytes.NewReader(raw))
			moved := 0
			for n, s := range all {
				ours, err := s.run()
				if err != nil {
					t.Fatalf("sequence %d, %s: %v", n, s.words, err)
				}
				for i, got := range ours {
					if !lines.Scan() {
						t.Fatalf("java answered only %d sequences and %d samples\n%s", n, i, said)
					}
					want, err := strconv.Atoi(lines.Text())
					if err != nil {
						t.Fatal(err)
					}
					if i > 0 && got != ours[i-1] {
						moved++
					}
					if got != want {
						t.Fatalf("sequence %d, %s, after sample %d %+v: got %d, want %d", n, s.words, i, s.samples[i], got, want)
					}
				}
			}
			if moved < sequences {
				t.Errorf("the limits moved %d times in %d sequences; that is too little to say anything", moved, sequences)
			}
			t.Logf("%d sequences, %d samples, the limit moved %d times: all equal", sequences, sequences*300, moved)
		})
	}
}
