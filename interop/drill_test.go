package interop

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestDrills runs the demo's lessons as a user does. What depends on how fast the machine is, its tables and docs tell, and tests
// in virtual time hold it to; here the rest is: that a dead leaf is spared, that a slow instance is left alone, that all is told, and
// that nothing of it is left on the platform, also after one that was interrupted or killed.
func TestDrills(t *testing.T) {
	d := newDemo(t)
	drill := func(name, last string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		out, err := exec.CommandContext(ctx, d.binary, "demo", name, "--for", last, "--api", d.url()).CombinedOutput()
		if missed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &missed) || missed != nil && !strings.Contains(string(out), "NOT KEPT") {
			t.Fatalf("roadbed demo %s: %v\n%s", name, err, out)
		}
		t.Logf("roadbed demo %s:\n%s", name, out)
		return string(out)
	}
	want := func(out, line string) {
		t.Helper()
		if !strings.Contains(out, line) {
			t.Errorf("want a line with %q", line)
		}
	}
	// The command's own bar is for a machine that has nothing else to do.
	atMost := func(out, promise string, most float64) {
		t.Helper()
		for line := range strings.Lines(out) {
			if strings.Contains(line, promise) {
				var got float64
				if _, err := fmt.Sscan(strings.TrimPrefix(strings.TrimPrefix(line, "NOT KEPT"), "kept"), &got); err != nil || got > most {
					t.Errorf("got %q, want %v or less", line, most)
				}
				return
			}
		}
		t.Errorf("nothing is said of what %q", promise)
	}
	nothingLeft := func(after string) {
		t.Helper()
		eventually(t, "nothing of "+after+" is left on the platform", func() (left []string) {
			for line := range strings.Lines(d.cli("group", "list") + d.cli("config", "list")) {
				if strings.Contains(line, "drill") {
					left = append(left, line)
				}
			}
			return left
		})
	}

	// One that is killed leaves its services and what it broke; the next one does not mind.
	killed := exec.Command(d.binary, "demo", "storm", "--api", d.url())
	said := new(lockedBuffer)
	killed.Stdout, killed.Stderr = said, said
	begin(t, killed)
	eventually(t, "the leaf is dead", func() []string { return []string{strconv.FormatBool(strings.Contains(said.String(), "  dead\n"))} }, "true")
	killed.Process.Kill() //nolint:errcheck // Wait tells
	killed.Wait()         //nolint:errcheck // it was killed

	storm := drill("storm", "8s")
	want(storm, "edge -> drillhop1 -> drillhop2 -> drillleaf")
	atMost(storm, "reached the dead leaf for each one offered", 1.25)
	want(storm, "succeeded from 8 s after the leaf was well again")
	nothingLeft("the storm")

	slow := drill("slow", "4s")
	atMost(slow, "% of the requests reached the slow one", 5) // one in ten would be without favour
	want(slow, "succeeded meanwhile")
	nothingLeft("the slow instance")

	overload := drill("overload", "4s")
	for _, column := range []string{"CRITICAL", "DEGRADED", "BEST_EFFORT", "BULK", "CRITICAL's p99", "of CRITICAL requests were served", "unloaded"} {
		want(overload, column)
	}
	nothingLeft("the overload")
}
