package main

import (
	"strings"
	"testing"
)

func TestWhatBenchmarksPrintIsRead(t *testing.T) {
	name, c, ok := parseGo("BenchmarkAllowed/roadbed/no-timeout-2   \t17317125\t        34.70 ns/op\t        34.61 cpu-ns/op\t       0 B/op\t       0 allocs/op")
	if !ok || name != "Allowed/roadbed/no-timeout" || c.ns != 34.61 || c.bytes != 0 || c.allocs != "0" {
		t.Errorf("got %q, %+v, %v", name, c, ok)
	}
	if name, _, ok := parseGo("BenchmarkAllowed/roadbed/no-timeout 5 1 cpu-ns/op"); !ok || name != "Allowed/roadbed/no-timeout" {
		t.Errorf("on one core: got %q, %v", name, ok)
	}
	for _, line := range []string{"", "PASS", "ok  \tgithub.com/roadbed/roadbed/bench\t11.795s", "BenchmarkX 5 many ns/op", "BenchmarkX 5 1 ns/op"} {
		if _, _, ok := parseGo(line); ok {
			t.Errorf("%q was taken for a result", line)
		}
	}
	all := map[string]cost{}
	err := parseJava([]byte(`[{"benchmark":"roadbed.bench.Calls.full","primaryMetric":{"score":1},
		"secondaryMetrics":{"·gc.alloc.rate.norm":{"score":48},"cpu":{"score":321.5}}}]`), all)
	if c := all["full"]; err != nil || c.ns != 321.5 || c.bytes != 48 {
		t.Errorf("got %+v, %v", c, err)
	}
	if parseJava([]byte(`[{"benchmark":"x.y","secondaryMetrics":{}}]`), all) == nil || parseJava([]byte(`{`), all) == nil {
		t.Error("results without what they must tell were taken")
	}
}

func TestMissedBarsAreCounted(t *testing.T) {
	all := map[string]cost{"Allowed/roadbed/full": {ns: 60, bytes: 64}, "AllowedParallel/roadbed/full": {ns: 60}, "Allowed/failsafe-go/full": {ns: 600}, "Refused/roadbed": {ns: 10}}
	var out strings.Builder
	if n := report(&out, all); n != 0 {
		t.Errorf("%d bars missed, want none:\n%s", n, out.String())
	}
	all["Refused/roadbed"] = cost{ns: 16, bytes: 8}
	all["AllowedParallel/roadbed/full"] = cost{ns: 80}
	if n := report(&out, all); n != 3 {
		t.Errorf("%d bars missed, want 3:\n%s", n, out.String())
	}
}
