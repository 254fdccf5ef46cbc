//go:build linux

// Command registry measures roadbed's registry and configuration: beside a stock Spring Cloud Netflix Eureka server on
// the same cores in the same run, and against the budgets that this project sets itself. It prints one table and exits
// with status 1 if a bar is missed.
//
//	./interop/install.sh          builds the Eureka server, once
//	cd bench && go run ./cmd/registry
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"time"
)

// bench is one run of everything.
type bench struct {
	*programs
	rows   []row
	only   map[string]bool
	phase  time.Duration // how long a load lasts
	rounds int           // how often servers take turns
	soak   time.Duration // how long a fleet of 100,000 lives; not at all if 0
}

// row is one line of the table.
type row struct {
	what                     string
	ours, theirs, ratio, bar string
	ok                       bool // meaningless without a bar
}

func main() {
	log.SetFlags(log.Ltime)
	if port := os.Getenv(bareEnv); port != "" {
		log.Fatal(serveBare(port))
	}
	b := &bench{only: map[string]bool{}}
	only := flag.String("only", "", "comma-separated parts to run, of: "+strings.Join(partNames(), ", "))
	flag.DurationVar(&b.phase, "phase", 4*time.Second, "how long one load of one server lasts")
	flag.IntVar(&b.rounds, "rounds", 3, "how often the servers take turns")
	flag.DurationVar(&b.soak, "soak", 0, "also let 100,000 clients live for so long, e.g. 5m or 1h")
	root := flag.String("root", "..", "root of roadbed's sources")
	dir := flag.String("dir", "", "keep logs and state here; a temporary directory, removed at the end, if empty")
	flag.Parse()
	for _, name := range strings.FieldsFunc(*only, func(r rune) bool { return r == ',' }) {
		b.only[name] = true
	}
	failed, err := b.run(*root, *dir)
	if err != nil {
		log.Fatal(err)
	}
	if failed > 0 {
		fmt.Printf("\n%d bars missed\n", failed)
		os.Exit(1)
	}
}

// parts are what can be run alone, in order.
var parts = []struct {
	name string
	run  func(*bench) error
}{
	{"beside", (*bench).beside},
	{"loaded", (*bench).loaded},
	{"deltas", (*bench).deltas},
	{"pushed", (*bench).pushed},
	{"configured", (*bench).configured},
	{"soak", (*bench).lives},
}

func partNames() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

func (b *bench) run(root, dir string) (failed int, err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "roadbed-bench-"); err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	if b.programs, err = build(root, dir); err != nil {
		return 0, err
	}
	for _, p := range parts {
		if len(b.only) > 0 && !b.only[p.name] {
			continue
		}
		if err := p.run(b); err != nil {
			return 0, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return b.print(), nil
}

// add puts a line in the table, and tells at once.
func (b *bench) add(r row) {
	b.rows = append(b.rows, r)
	line := fmt.Sprintf("%s: ours %s", r.what, r.ours)
	if r.theirs != "" {
		line += ", Eureka's " + r.theirs + ", ratio " + r.ratio
	}
	if r.bar != "" {
		line += fmt.Sprintf("; bar %s, reached %v", r.bar, r.ok)
	}
	log.Print(line)
}

func (b *bench) print() (failed int) {
	fmt.Println("\n| what | roadbed | Eureka | ratio | bar | |")
	fmt.Println("|---|---:|---:|---:|---:|---|")
	for _, r := range b.rows {
		verdict := ""
		switch {
		case r.bar != "" && r.ok:
			verdict = "reached"
		case r.bar != "":
			verdict = "MISSED"
			failed++
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %s |\n", r.what, r.ours, r.theirs, r.ratio, r.bar, verdict)
	}
	return failed
}
