package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/api/porttest"
)

func TestSecondOpenNamesTheProcessThatHasTheDirectory(t *testing.T) {
	first := openTest(t, Config{})
	_, err := Open(t.Context(), Config{Dir: first.cfg.Dir, Log: testLog()})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by process %d", os.Getpid())) {
		t.Errorf("second Open: got %v, want an error that names process %d", err, os.Getpid())
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// What a killed process leaves behind is no lock.
	if err := os.WriteFile(filepath.Join(first.cfg.Dir, "lock"), []byte("4194304\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	openTest(t, Config{Dir: first.cfg.Dir})
}

func TestOpenRefusesWhatCannotWork(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := porttest.Hold(t)
	openTest(t, Config{Listen: taken})
	for _, c := range []struct {
		name string
		c    Config
		want string
	}{
		{"no directory", Config{}, "no directory"},
		{"a file as directory", Config{Dir: file}, "not a directory"},
		{"a public address", Config{Dir: t.TempDir(), Listen: "0.0.0.0:4222"}, "use 127.0.0.1"},
		{"an address without a port", Config{Dir: t.TempDir(), Listen: "127.0.0.1"}, "missing port"},
		{"a port that is no number", Config{Dir: t.TempDir(), Listen: "127.0.0.1:http"}, "not a number"},
		{"a taken port", Config{Dir: t.TempDir(), Listen: taken}, "cannot listen on " + taken},
		{"both ends", Config{URL: "nats://" + taken, Listen: taken}, "one of the two"},
		{"a URL that is none", Config{URL: "nats://%zz"}, "%zz"},
	} {
		c.c.Log = testLog()
		e, err := Open(t.Context(), c.c)
		if err == nil {
			e.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "engine: ") {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.want)
		}
	}
}

// setDisk makes the engine's disk one of 100 GB with so many bytes free, or one that cannot be looked at.
func setDisk(e *Engine, free uint64, err error) {
	e.disk.mu.Lock()
	defer e.disk.mu.Unlock()
	e.disk.space = func(string) (uint64, uint64, error) { return free, 100 << 30, err }
	e.disk.next = time.Time{}
}

func TestFullDiskStopsWritesButNotReads(t *testing.T) {
	ctx := t.Context()
	e := openTest(t, Config{})
	table := openTable[int](t, e, "t", 1)
	if _, err := table.Put(ctx, "a", 1); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		freeMB  uint64
		refused bool
	}{
		{2049, false}, {2047, true}, {2049, true}, {2457, true}, {2458, false}, {2049, false}, {0, true}, {100 << 10, false},
	} {
		setDisk(e, c.freeMB<<20, nil)
		_, err := table.Put(ctx, "a", 2)
		if (err != nil) != c.refused || err != nil && (!errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "free some space")) {
			t.Errorf("with %d MB free: got %v, want it refused: %v", c.freeMB, err, c.refused)
		}
		if (e.Health() != nil) != c.refused {
			t.Errorf("with %d MB free: Health is %v", c.freeMB, e.Health())
		}
		if _, ok := table.Get("a"); !ok {
			t.Errorf("with %d MB free: the entry cannot be read", c.freeMB)
		}
	}
	setDisk(e, 1<<40, errors.New("no such file system"))
	if _, err := table.Put(ctx, "a", 3); !errors.Is(err, ErrUnavailable) {
		t.Errorf("with an unknown disk: got %v, want ErrUnavailable", err)
	}
}

func TestReserveIsSaneOnSmallAndLargeDisks(t *testing.T) {
	const mb, gb = uint64(1 << 20), uint64(1 << 30)
	for total, want := range map[uint64]uint64{
		1 * gb: 512 * mb, 10 * gb: 512 * mb, 20 * gb: gb, 40 * gb: 2 * gb, 2048 * gb: 2 * gb,
	} {
		if got := reserve(total); got != want {
			t.Errorf("reserve of %d GB: got %d MB, want %d", total/gb, got/mb, want/mb)
		}
	}
}

func TestTornFilesDoNotKeepTheEngineFromOpening(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	write := func(from, to int) {
		e := openTest(t, Config{Dir: dir})
		table, s := openTable[int](t, e, "t", 1), openStream(t, e, "S")
		for i := from; i < to; i++ {
			if _, err := table.Put(ctx, fmt.Sprintf("k%d", i), i); err != nil {
				t.Fatalf("Put: %v", err)
			}
			if seq, err := s.Append(ctx, fmt.Appendf(nil, "%d", i)); err != nil || seq != uint64(i+1) {
				t.Fatalf("Append: got sequence %d, %v, want %d", seq, err, i+1)
			}
		}
		if got := len(table.List("")); got != to {
			t.Errorf("the table has %d entries, want %d", got, to)
		}
		if recs, err := s.Read(ctx, 1, 1000); err != nil || len(recs) != to {
			t.Errorf("the stream has %d records, %v, want %d", len(recs), err, to)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	glob := func(pattern string) []string {
		files, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*", pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: found %v, %v", pattern, files, err)
		}
		return files
	}
	write(0, 20)
	// A write that the machine died in: half a record at the end of a block.
	for _, f := range glob("msgs/*.blk") {
		b, err := os.OpenFile(f, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Write([]byte("\x40\x00\x00\x00\x15\x00half a record")); err != nil {
			t.Fatal(err)
		}
		b.Close()
	}
	for _, f := range glob("msgs/index.db") {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	write(20, 40)
	for _, f := range glob("msgs/index.db") {
		if err := os.WriteFile(f, []byte("torn"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(40, 60)
}

func TestAfterCloseEverythingIsUnavailable(t *testing.T) {
	ctx := t.Context()
	e := openTest(t, Config{})
	table, s := openTable[int](t, e, "t", 1), openStream(t, e, "S")
	rev, err := table.Put(ctx, "a", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%s after Close: got %v, want ErrUnavailable because the engine is closed", what, err)
		}
	}
	_, err = table.Put(ctx, "a", 2)
	check("Put", err)
	check("Delete", table.Delete(ctx, "a", rev))
	_, err = table.History(ctx, "a")
	check("History", err)
	_, err = s.Append(ctx, nil)
	check("Append", err)
	_, err = s.Read(ctx, 1, 1)
	check("Read", err)
	check("Follow", s.Follow(ctx, 1, func(Record) error { return nil }))
	_, err = OpenTable[int](ctx, e, "u", 1)
	check("OpenTable", err)
	_, err = OpenStream(ctx, e, "U", 0)
	check("OpenStream", err)
	_, err = e.Acquire(ctx, "l", "me", time.Second)
	check("Acquire", err)
	check("Health", e.Health())
	if got, ok := table.Get("a"); !ok || got.Value != 1 {
		t.Errorf("Get after Close: got %+v, %v, want 1", got, ok)
	}
	if _, open := <-table.Watch(ctx, ""); open {
		t.Error("Watch after Close sent something")
	}
	if e.Go(func(context.Context) {}) {
		t.Error("Go after Close ran something")
	}
	if err := e.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}
