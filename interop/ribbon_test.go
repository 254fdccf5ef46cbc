package interop

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/ipc/balance"
)

// askRibbon gives the questions to the real Ribbon and returns its answers.
func askRibbon(t *testing.T, questions []string) []string {
	cmd := exec.Command("java/run", "netflix", "Ribbon")
	said := new(lockedBuffer)
	cmd.Stdin, cmd.Stderr = strings.NewReader(strings.Join(questions, "\n")+"\n"), said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("java: %v\n%s", err, said)
	}
	answers := strings.Split(string(bytes.TrimSuffix(out, []byte("\n"))), "\n")
	if len(answers) != len(questions) {
		t.Fatalf("java answered %d of %d questions\n%s", len(answers), len(questions), said)
	}
	return answers
}

// TestAvailableZonesAreThoseOfRibbon wants of 10,000 random snapshots the same zones, up to which of the worst ones the
// dice choose.
func TestAvailableZonesAreThoseOfRibbon(t *testing.T) {
	needJava(t)
	dice := rand.New(rand.NewPCG(2012, 11))
	var questions []string
	var snapshots [][]balance.ZoneLoad
	var limits [][2]float64
	for range 10000 {
		limit := [2]float64{[]float64{0.2, 0.2, 0.5, 2}[dice.IntN(4)], []float64{0.99999, 0.99999, 0.5, 1}[dice.IntN(4)]}
		q := fmt.Sprint("zones ", limit[0], " ", limit[1])
		var zones []balance.ZoneLoad
		for range 1 + dice.IntN(6) {
			z := balance.ZoneLoad{Endpoints: dice.IntN(8)}
			if dice.IntN(3) == 0 {
				z.Tripped = dice.IntN(z.Endpoints + 1)
			}
			active := 0
			if dice.IntN(3) > 0 {
				active = dice.IntN(6)
			}
			switch up := z.Endpoints - z.Tripped; {
			case up > 0:
				z.Load = float64(active) / float64(up)
			case z.Endpoints > 0:
				z.Load = -1
			}
			zones = append(zones, z)
			q += fmt.Sprintf(" %d,%d,%d,%v", z.Endpoints, z.Tripped, active, z.Load)
		}
		questions, snapshots, limits = append(questions, q), append(snapshots, zones), append(limits, limit)
	}
	drawn, gone := 0, 0
	for n, answer := range askRibbon(t, questions) {
		var theirs uint64
		for _, zone := range strings.Fields(answer) {
			i, err := strconv.Atoi(zone)
			if err != nil {
				t.Fatal(err)
			}
			theirs |= 1 << i
		}
		out, worst := balance.AvoidZones(snapshots[n], limits[n][0], limits[n][1])
		ours := (uint64(1)<<len(snapshots[n]) - 1) &^ out
		missing := ours &^ theirs
		isOne := missing != 0 && missing&(missing-1) == 0 && missing&^worst == 0
		if theirs&^ours != 0 || worst == 0 && missing != 0 || worst != 0 && !isOne {
			t.Fatalf("snapshot %d, %s: Ribbon uses %06b; we use %06b less one of %06b", n, questions[n], theirs, ours, worst)
		}
		if worst&(worst-1) != 0 {
			drawn++
		}
		if out != 0 {
			gone++
		}
	}
	if drawn < 500 || gone < 500 {
		t.Errorf("zones were drawn by lot in %d snapshots and gone in %d; that is too little to say anything", drawn, gone)
	}
	t.Logf("10000 snapshots, by lot in %d, zones gone in %d: all equal", drawn, gone)
}

// TestBlackoutsAreThoseOfRibbon wants the same time for every number of failures and many settings.
func TestBlackoutsAreThoseOfRibbon(t *testing.T) {
	needJava(t)
	var questions []string
	var ours []time.Duration
	for _, threshold := range []int{1, 3, 5} {
		for _, factor := range []int{0, 1, 10, 1000} {
			for _, most := range []int{0, 30, 100000} {
				for _, fails := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 18, 19, 20, 21, 40} {
					r := balance.Defaults().Ribbon
					r.FailureThreshold, r.TripFactor, r.TripMax = threshold, time.Duration(factor)*time.Second, time.Duration(most)*time.Second
					questions = append(questions, fmt.Sprint("blackout ", threshold, " ", factor, " ", most, " ", fails))
					ours = append(ours, balance.Blackout(fails, &r))
				}
			}
		}
	}
	for i, answer := range askRibbon(t, questions) {
		if got := strconv.FormatInt(ours[i].Milliseconds(), 10); got != answer {
			t.Errorf("%s: got %s ms, want %s", questions[i], got, answer)
		}
	}
}

// TestResponseTimeWeightsAreThoseOfRibbon wants the same weights for random response times.
func TestResponseTimeWeightsAreThoseOfRibbon(t *testing.T) {
	needJava(t)
	dice := rand.New(rand.NewPCG(2012, 12))
	var questions []string
	var ours [][]float64
	for range 200 {
		q := "weights"
		var means []float64
		for range 1 + dice.IntN(8) {
			sum, n := 0.0, 1+dice.IntN(5)
			var times []string
			for range n {
				x := float64(dice.IntN(5000)) / 10
				sum += x
				times = append(times, fmt.Sprint(x))
			}
			means = append(means, sum/float64(n))
			q += " " + strings.Join(times, ",")
		}
		questions, ours = append(questions, q), append(ours, balance.Weigh(means))
	}
	for i, answer := range askRibbon(t, questions) {
		theirs := strings.Fields(answer)
		if len(theirs) != len(ours[i]) {
			t.Fatalf("%s: got %v, want %s", questions[i], ours[i], answer)
		}
		for k, text := range theirs {
			want, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(ours[i][k]-want) > 1e-6 {
				t.Fatalf("%s: got %v, want %s", questions[i], ours[i], answer)
			}
		}
	}
}
