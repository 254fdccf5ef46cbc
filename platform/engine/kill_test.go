package engine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// killDir names the directory on which TestMain, run as the victim of TestKillLosesNoAcknowledgedWrite, works.
const killDir = "ROADBED_ENGINE_KILL_DIR"

// victim opens the engine in dir, prints all there is in its two tables and its stream, then "ready", and then writes
// until it is killed and prints each write that was acknowledged. Lines are:
//
//	has TABLE KEY N         the table holds N under KEY
//	rec SEQ KEY.N           the stream holds that record
//	put TABLE KEY N         N was acknowledged under KEY
//	app SEQ KEY.N           that record was acknowledged
//
// Each key has one writer, who counts up.
func victim(dir string) error {
	go func() {
		io.Copy(io.Discard, os.Stdin) //nolint:errcheck // either way the parent is gone
		os.Exit(3)
	}()
	ctx := context.Background()
	e, err := Open(ctx, Config{Dir: dir, Log: testLog()})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	out := func(f string, v ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(f+"\n", v...) // one write call per line
	}
	kept, err := OpenTable[int](ctx, e, "kept", 5)
	if err != nil {
		return err
	}
	last, err := OpenTable[int](ctx, e, "last", 1)
	if err != nil {
		return err
	}
	s, err := OpenStream(ctx, e, "S", 0)
	if err != nil {
		return err
	}
	for _, t := range []*Table[int]{kept, last} {
		for _, entry := range t.List("") {
			out("has %s %s %d", t.name, entry.Key, entry.Value)
		}
	}
	recs, err := s.Read(ctx, 1, 1<<20)
	if err != nil {
		return err
	}
	for _, r := range recs {
		out("rec %d %s", r.Seq, r.Data)
	}
	out("ready")
	const writers = 30 // enough per table and stream for batches
	failed := make(chan error, writers)
	for w := range writers {
		go func() {
			failed <- func() error {
				key := fmt.Sprintf("w%d", w)
				for n := 1; ; n++ {
					switch w % 3 {
					case 0: // compare and set
						old, _ := kept.Get(key)
						if _, err := kept.Update(ctx, key, old.Value+1, old.Rev); err != nil {
							return err
						}
						out("put kept %s %d", key, old.Value+1)
					case 1:
						old, _ := last.Get(key)
						if _, err := last.Put(ctx, key, old.Value+1); err != nil {
							return err
						}
						out("put last %s %d", key, old.Value+1)
					case 2:
						seq, err := s.Append(ctx, fmt.Appendf(nil, "%s.%d", key, n))
						if err != nil {
							return err
						}
						out("app %d %s.%d", seq, key, n)
					}
				}
			}()
		}()
	}
	return <-failed
}

// With the race detector the victim is killed 40 times instead of 200: each start takes several times as long.
func TestKillLosesNoAcknowledgedWrite(t *testing.T) {
	kills := 200
	if raceEnabled {
		kills = 40
	}
	p := survivors{dir: t.TempDir(), tables: map[string]int{}, records: map[string]string{}}
	start := time.Now()
	for i := range kills {
		// Half die while they start, recover or have just begun, half while they write.
		p.live(t, i, i%2 == 0)
	}
	if p.checked < kills/4 || p.acked < kills {
		t.Errorf("after %d kills: only %d restarts came far enough to be checked and %d writes were acknowledged", kills, p.checked, p.acked)
	}
	t.Logf("%d kills in %v; %d restarts checked, %d writes acknowledged", kills, time.Since(start).Round(time.Millisecond), p.checked, p.acked)

	e := openTest(t, Config{Dir: p.dir})
	for _, table := range []*Table[int]{openTable[int](t, e, "kept", 5), openTable[int](t, e, "last", 1)} {
		for _, entry := range table.List("") {
			p.has(t, "at the end", table.name+" "+entry.Key, entry.Value)
		}
	}
	recs, err := openStream(t, e, "S").Read(t.Context(), 1, 1<<20)
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	for i, r := range recs {
		if r.Seq != uint64(i+1) {
			t.Fatalf("the stream has sequence %d where %d should be", r.Seq, i+1)
		}
		delete(p.records, fmt.Sprintf("%d %s", r.Seq, r.Data))
	}
	for r := range p.records {
		t.Errorf("acknowledged record %q is gone", r)
	}
}

// survivors is what has to be there after a kill.
type survivors struct {
	dir     string
	tables  map[string]int    // "TABLE KEY": the highest acknowledged number
	records map[string]string // "SEQ KEY.N": when it was acknowledged
	checked int               // lives that printed all they found
	acked   int
}

// live starts a victim, kills it and takes note of what it printed.
func (p *survivors) live(t *testing.T, i int, early bool) {
	t.Helper()
	when := fmt.Sprintf("in life %d", i)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killDir+"="+p.dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Errorf("%s: kill: %v", when, err)
		}
	}
	span := time.Duration(rand.IntN(60)+1) * time.Millisecond
	writes := 1 + rand.IntN(300) // that are acknowledged before a victim that is not killed early is killed, however slow the disk is
	if early {
		timer := time.AfterFunc(span*2, kill)
		defer timer.Stop()
	}
	found := map[string]int{}
	seen := map[string]bool{}
	acked := map[string]bool{}
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break // a line cut short was not printed
		}
		f := strings.Fields(line)
		var n int
		if len(f) == 4 {
			if _, err := fmt.Sscan(f[3], &n); err != nil {
				t.Fatalf("%s: line %q: %v", when, line, err)
			}
		}
		switch f[0] {
		case "has":
			found[f[1]+" "+f[2]] = n
		case "rec":
			seen[f[1]+" "+f[2]] = true
		case "ready":
			p.checked++
			for key := range p.tables {
				p.has(t, when, key, found[key])
			}
			for r, before := range p.records {
				if !seen[r] {
					t.Errorf("%s: record %q, acknowledged %s, is gone", when, r, before)
				}
			}
		case "put":
			p.tables[f[1]+" "+f[2]] = n
			p.acked++
			writes--
		case "app":
			acked[f[1]+" "+f[2]] = true
			p.acked++
			writes--
		default:
			t.Fatalf("%s: line %q", when, line)
		}
		if !early && writes == 0 {
			writes = -1
			timer := time.AfterFunc(span/20, kill)
			defer timer.Stop()
		}
	}
	for r := range acked {
		p.records[r] = when
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() > 0 {
		t.Fatalf("%s: the victim ended by itself: %v", when, err)
	}
}

// has checks that key's value is not older than what was acknowledged.
func (p *survivors) has(t *testing.T, when, key string, n int) {
	t.Helper()
	if n < p.tables[key] {
		t.Errorf("%s: %s is %d, but %d was acknowledged", when, key, n, p.tables[key])
	}
}
