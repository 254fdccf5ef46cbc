//go:build linux

// Command edge measures roadbed's edge beside nginx, HAProxy, httputil.ReverseProxy, Caddy and Spring Cloud Gateway, in
// one run on the same cores, and against the budgets that this project sets itself. It prints one table and exits with
// status 1 if a bar is missed.
//
//	./bench/edge/install.sh       installs nginx, HAProxy, wrk and h2load, and builds Spring Cloud Gateway, once
//	cd bench && go run ./cmd/edge
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// bench is one run of everything.
type bench struct {
	root, dir string // of roadbed's sources; for logs and state
	table     table
	rounds    int           // how often everybody is loaded; the median counts
	phase     time.Duration // how long a load lasts
	routes    int           // of our edge
	big       int64         // bytes of the large body
	clients   int           // that hold connections for push
	started   int           // processes
}

// parts are what can be run alone, in order.
var parts = []struct {
	name string
	run  func(*bench) error
}{
	{"beside", (*bench).beside},
	{"secure", (*bench).secure},
	{"body", (*bench).body},
	{"pushed", (*bench).pushed},
	{"shed", (*bench).shed},
}

func partNames() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

func main() {
	log.SetFlags(log.Ltime)
	if port := os.Getenv(originEnv); port != "" {
		log.Fatal(serveOrigin(port))
	}
	if what := os.Getenv(clientsEnv); what != "" {
		if err := serveClients(what); err != nil {
			log.Fatal(err)
		}
		return
	}
	b := &bench{}
	only := flag.String("only", "", "comma-separated parts to run, of: "+strings.Join(partNames(), ", "))
	flag.DurationVar(&b.phase, "phase", 5*time.Second, "how long one load lasts")
	flag.IntVar(&b.rounds, "rounds", 5, "how often everybody takes turns; the median counts")
	flag.IntVar(&b.routes, "routes", 10_000, "how many routes our edge has")
	flag.Int64Var(&b.big, "big", 1<<30, "bytes of the body that is read slowly")
	flag.IntVar(&b.clients, "clients", 100_000, "how many clients hold a WebSocket for push")
	flag.StringVar(&b.root, "root", "..", "root of roadbed's sources")
	flag.StringVar(&b.dir, "dir", "", "keep logs and state here; a temporary directory, removed at the end, if empty")
	flag.Parse()
	missed, err := b.run(*only)
	if err != nil {
		log.Fatal(err)
	}
	if missed > 0 {
		fmt.Printf("\n%d bars missed\n", missed)
		os.Exit(1)
	}
}

func (b *bench) run(only string) (missed int, err error) {
	wanted := map[string]bool{}
	for _, name := range strings.FieldsFunc(only, func(r rune) bool { return r == ',' }) {
		wanted[name] = true
	}
	for name := range wanted {
		if !slices.Contains(partNames(), name) {
			return 0, fmt.Errorf("-only %s: there is no such part; there are %s", name, strings.Join(partNames(), ", "))
		}
	}
	if b.root, err = filepath.Abs(b.root); err != nil {
		return 0, err
	}
	if b.dir == "" {
		if b.dir, err = os.MkdirTemp("", "roadbed-bench-"); err != nil {
			return 0, err
		}
		defer os.RemoveAll(b.dir)
	} else if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return 0, err
	} else if b.dir, err = filepath.Abs(b.dir); err != nil {
		return 0, err
	}
	if err := certify(b.dir); err != nil {
		return 0, err
	}
	for _, p := range parts {
		if len(wanted) > 0 && !wanted[p.name] {
			continue
		}
		if err := p.run(b); err != nil {
			b.table.fail(p.name, err)
		}
	}
	return b.table.print(os.Stdout), nil
}

// columns are who is measured, by name; ours is the first.
var columns = []string{"roadbed", "nginx", "HAProxy", "ReverseProxy", "Caddy", "Spring Cloud Gateway"}

// table is what is told at the end.
type table struct {
	rows [][]string // what is measured, then a cell for each column
	miss int
}

// compare adds a row: a figure of each, of which less is better, and how large ours is beside theirs. At most bars of
// what theirs is may ours be.
func (t *table) compare(what string, figures, bars map[string]float64) {
	ours := figures[columns[0]]
	row := []string{what, short(ours)}
	for _, name := range columns[1:] {
		theirs, there := figures[name]
		bar, barred := bars[name]
		cell := ""
		if there {
			cell = fmt.Sprintf("%s; ours is %.2f of it", short(theirs), ours/theirs)
		}
		if there && barred {
			cell += ", " + t.verdict(ours <= bar*theirs) + fmt.Sprintf(" (≤ %g)", bar)
		}
		row = append(row, cell)
	}
	t.add(row)
}

// keep adds a row of a figure of ours that must not be above most.
func (t *table) keep(what string, ours, most float64) {
	t.add([]string{what, short(ours) + ", " + t.verdict(ours <= most) + fmt.Sprintf(" (≤ %g)", most), "", "", "", "", ""})
}

// reach adds a row of a figure of ours that must not be below least.
func (t *table) reach(what string, ours, least float64) {
	t.add([]string{what, short(ours) + ", " + t.verdict(ours >= least) + fmt.Sprintf(" (≥ %g)", least), "", "", "", "", ""})
}

// tell adds a row of figures that are not compared.
func (t *table) tell(what string, figures map[string]float64) {
	row := []string{what}
	for _, name := range columns {
		cell := ""
		if f, there := figures[name]; there {
			cell = short(f)
		}
		row = append(row, cell)
	}
	t.add(row)
}

// fail adds a row for a part that could not be measured, which is a bar missed; the parts after it go on.
func (t *table) fail(part string, err error) {
	t.miss++
	why, _, _ := strings.Cut(err.Error(), "\n")
	t.rows = append(t.rows, []string{part, "MISSED: " + why, "", "", "", "", ""})
	log.Printf("%s: %v", part, err)
}

func (t *table) verdict(ok bool) string {
	if ok {
		return "reached"
	}
	t.miss++
	return "MISSED"
}

func (t *table) add(row []string) {
	t.rows = append(t.rows, row)
	log.Print(strings.Join(row, " | "))
}

// print returns how many bars are missed.
func (t *table) print(w io.Writer) (missed int) {
	fmt.Fprintf(w, "\n| | **%s** | %s |\n|---|%s\n", columns[0], strings.Join(columns[1:], " | "), strings.Repeat("---:|", len(columns)))
	for _, r := range t.rows {
		fmt.Fprintln(w, "| "+strings.Join(r, " | ")+" |")
	}
	return t.miss
}

// short is a number with three digits that mean something.
func short(f float64) string {
	switch {
	case f >= 1000:
		s := fmt.Sprintf("%.0f", f)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case f >= 100:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.2f", f)
}
