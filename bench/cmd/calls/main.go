// Command calls measures what a call costs that does nothing: through roadbed, through Go's other libraries, and through
// resilience4j on the JVM, in one run on the same cores. It prints one table and exits with status 1 if a bar is missed.
//
//	cd bench && go run ./cmd/calls
//
// It needs Java 17 and Maven.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// cost is what one way to make a call costs.
type cost struct {
	ns     float64 // of the processor, the whole process's
	bytes  float64
	allocs string
}

// Benchmarks of the tables, by name: of Go as go test prints them, of Java as their methods are called.
var tables = []struct {
	title string
	ours  string
	rows  []struct{ name, what string }
	bar   func(ours cost, peer map[string]cost) []bar
}{
	{
		title: "let through", ours: "Allowed/roadbed/full",
		rows: []struct{ name, what string }{
			{"Allowed/roadbed/full", "roadbed: retry, breaker, bulkhead, timeout, fault check, statistics"},
			{"Allowed/roadbed/no-timeout", "roadbed, the same without a timeout"},
			{"Allowed/failsafe-go/full", "failsafe-go: retry, breaker, bulkhead, timeout"},
			{"Allowed/go-resiliency/full", "go-resiliency: retry, breaker, semaphore, deadline"},
			{"Allowed/hystrix-go/full", "hystrix-go: breaker, bulkhead, timeout"},
			{"Allowed/gobreaker/breaker", "gobreaker: a breaker alone"},
			{"full", "resilience4j: retry, breaker, bulkhead; no timeout"},
			{"timed", "resilience4j, the same with a timeout, on another thread"},
			{"breaker", "resilience4j: a breaker alone"},
		},
		bar: func(ours cost, peer map[string]cost) []bar {
			return []bar{
				{"CPU ns of a call let through", ours.ns, 120, ours.ns <= 120},
				{"bytes it allocates", ours.bytes, 96, ours.bytes <= 96},
				{"times below failsafe-go's same stack", peer["Allowed/failsafe-go/full"].ns / ours.ns, 10, peer["Allowed/failsafe-go/full"].ns >= 10*ours.ns},
				{"speed-up by a second core", 2 * ours.ns / peer["AllowedParallel/roadbed/full"].ns, 1.8, 2*ours.ns >= 1.8*peer["AllowedParallel/roadbed/full"].ns},
			}
		},
	},
	{
		title: "let through on two cores at once", ours: "AllowedParallel/roadbed/full",
		rows: []struct{ name, what string }{
			{"AllowedParallel/roadbed/full", "roadbed, one command"},
			{"AllowedParallel/roadbed/apart", "roadbed, an engine for each core: what they do if nothing is shared"},
		},
		bar: func(cost, map[string]cost) []bar { return nil },
	},
	{
		title: "refused by an open breaker", ours: "Refused/roadbed",
		rows: []struct{ name, what string }{
			{"Refused/roadbed", "roadbed"},
			{"Refused/failsafe-go", "failsafe-go"},
			{"Refused/gobreaker", "gobreaker"},
			{"Refused/hystrix-go", "hystrix-go"},
			{"Refused/go-resiliency", "go-resiliency, which keeps no statistics"},
			{"refused", "resilience4j"},
		},
		bar: func(ours cost, _ map[string]cost) []bar {
			return []bar{
				{"CPU ns of a refusal", ours.ns, 15, ours.ns <= 15},
				{"bytes it allocates", ours.bytes, 0, ours.bytes == 0},
			}
		},
	},
}

// bar is what this project asks of itself.
type bar struct {
	what     string
	got, bar float64
	ok       bool
}

func main() {
	log.SetFlags(0)
	rounds := flag.Int("rounds", 5, "how often each Go benchmark runs; the median counts")
	java := flag.String("java", "java", "folder of the Java benchmarks")
	flag.Parse()
	all, err := measureGo(*rounds)
	if err == nil {
		err = measureJava(*java, all)
	}
	if err != nil {
		log.Fatal(err)
	}
	if missed := report(os.Stdout, all); missed > 0 {
		fmt.Printf("\n%d bars missed\n", missed)
		os.Exit(1)
	}
}

// measureGo runs the benchmarks of the module, each alone on one core but for those in parallel.
func measureGo(rounds int) (map[string]cost, error) {
	seen := map[string][]cost{}
	for _, run := range [][2]string{{"^Benchmark(Allowed|Refused)$", "1"}, {"^BenchmarkAllowedParallel$/roadbed", "2"}} {
		log.Printf("go test -bench '%s' -cpu %s, %d times", run[0], run[1], rounds)
		out, err := exec.Command("go", "test", "-run", "^$", "-bench", run[0], "-benchmem", "-cpu", run[1], "-benchtime", "300ms", "-count", strconv.Itoa(rounds), ".").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("the Go benchmarks failed: %w\n%s", err, out)
		}
		for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
			if name, c, ok := parseGo(lines.Text()); ok {
				seen[name] = append(seen[name], c)
			}
		}
	}
	all := map[string]cost{}
	for name, costs := range seen {
		slices.SortFunc(costs, func(a, b cost) int { return int(a.ns*1000 - b.ns*1000) })
		all[name] = costs[len(costs)/2]
	}
	return all, nil
}

// parseGo reads one line of a benchmark's output.
func parseGo(line string) (name string, c cost, ok bool) {
	f := strings.Fields(line)
	if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
		return "", c, false
	}
	name = strings.TrimPrefix(f[0], "Benchmark")
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		if _, err := strconv.Atoi(name[i+1:]); err == nil {
			name = name[:i] // how many cores; with one it is not said
		}
	}
	for i := 2; i+1 < len(f); i += 2 {
		v, err := strconv.ParseFloat(f[i], 64)
		if err != nil {
			return "", c, false
		}
		switch f[i+1] {
		case "cpu-ns/op":
			c.ns, ok = v, true
		case "B/op":
			c.bytes = v
		case "allocs/op":
			c.allocs = f[i]
		}
	}
	return name, c, ok
}

// measureJava builds and runs the benchmarks of dir, and adds what they tell.
func measureJava(dir string, all map[string]cost) error {
	log.Print("mvn package, then JMH")
	build := exec.Command("mvn", "--batch-mode", "--quiet", "--no-transfer-progress", "package")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("the Java benchmarks could not be built; Java 17 and Maven are needed: %w\n%s", err, out)
	}
	result := filepath.Join(dir, "target", "jmh.json")
	path := filepath.Join(dir, "target", "classes") + string(os.PathListSeparator) + filepath.Join(dir, "target", "dependency", "*")
	run := exec.Command("java", "-cp", path, "org.openjdk.jmh.Main", "-f", "1", "-wi", "3", "-w", "1s", "-i", "5", "-r", "1s", "-t", "1",
		"-prof", "gc", "-prof", "roadbed.bench.Cpu", "-rf", "json", "-rff", result)
	if out, err := run.CombinedOutput(); err != nil {
		return fmt.Errorf("the Java benchmarks failed: %w\n%s", err, out)
	}
	b, err := os.ReadFile(result)
	if err != nil {
		return err
	}
	return parseJava(b, all)
}

// parseJava reads JMH's JSON.
func parseJava(b []byte, all map[string]cost) error {
	type metric struct{ Score float64 }
	var results []struct {
		Benchmark string
		Secondary map[string]metric `json:"secondaryMetrics"`
	}
	if err := json.Unmarshal(b, &results); err != nil {
		return fmt.Errorf("JMH's result is not what it should be: %w", err)
	}
	for _, r := range results {
		var c cost
		for name, m := range r.Secondary { // profilers' names have a dot in front in some versions
			switch strings.TrimLeft(name, "·") {
			case "cpu":
				c.ns = m.Score
			case "gc.alloc.rate.norm":
				c.bytes = m.Score
			}
		}
		if c.ns == 0 {
			return errors.New("JMH did not tell the processor time of " + r.Benchmark)
		}
		c.allocs = "-" // JMH counts bytes only
		all[r.Benchmark[strings.LastIndexByte(r.Benchmark, '.')+1:]] = c
	}
	return nil
}

// report prints the tables and returns how many bars are missed.
func report(w io.Writer, all map[string]cost) (missed int) {
	var bars []bar
	for _, t := range tables {
		ours := all[t.ours]
		fmt.Fprintf(w, "\n%-72s %10s %8s %10s %9s\n", t.title, "CPU ns", "bytes", "allocs", "x ours")
		for _, r := range t.rows {
			c := all[r.name]
			fmt.Fprintf(w, "%-72s %10.1f %8.0f %10s %9.1f\n", r.what, c.ns, c.bytes, c.allocs, c.ns/ours.ns)
		}
		bars = append(bars, t.bar(ours, all)...)
	}
	fmt.Fprintln(w)
	for _, b := range bars {
		verdict := "reached"
		if !b.ok {
			verdict = "MISSED"
			missed++
		}
		fmt.Fprintf(w, "%-72s %10.1f  bar %6.1f  %s\n", b.what, b.got, b.bar, verdict)
	}
	return missed
}
