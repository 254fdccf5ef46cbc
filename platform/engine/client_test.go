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

// eventually waits until ok, which something real has to bring about, and fails the test after a minute.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("after a minute still not so: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestClientReadsWhileTheEngineIsAwayAndMissesNothing(t *testing.T) {
	ctx := t.Context()
	host := Config{Dir: t.TempDir(), Listen: porttest.Hold(t), Token: "secret", Log: testLog()}
	server := openTest(t, host)
	client := openTest(t, Config{URL: "nats://" + host.Listen, Token: "secret"})
	mine := openTable[int](t, client, "shared", 3)
	stream := openStream(t, client, "S")

	var followed []Record
	records := make(chan Record)
	following, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- stream.Follow(following, 1, func(r Record) error {
			records <- r
			return nil
		})
	}()
	values := map[string]int{} // what the watch told
	events := mine.Watch(following, "")
	collect := func(key string, want int, seq uint64) {
		t.Helper()
		limit := time.After(time.Minute)
		for values[key] != want || uint64(len(followed)) < seq {
			select {
			case ev := <-events:
				if ev.Kind == Deleted {
					delete(values, ev.Entry.Key)
				} else if ev.Kind != Synced {
					values[ev.Entry.Key] = ev.Entry.Value
				}
			case r := <-records:
				if r.Seq != uint64(len(followed)+1) {
					t.Fatalf("Follow: got record %d, want %d", r.Seq, len(followed)+1)
				}
				followed = append(followed, r)
			case <-limit:
				t.Fatalf("after a minute the watch told %v and Follow %d records, want %s at %d and %d", values, len(followed), key, want, seq)
			}
		}
	}
	if _, err := mine.Put(ctx, "a", 1); err != nil {
		t.Fatalf("Put: %v", err)
	}
	if _, err := stream.Append(ctx, []byte("one")); err != nil {
		t.Fatalf("Append: %v", err)
	}
	collect("a", 1, 1)

	for round := 2; round < 5; round++ {
		if err := server.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		eventually(t, "the client notices", func() bool { return client.Health() != nil })
		if got, ok := mine.Get("a"); !ok || got.Value != round-1 {
			t.Errorf("while the engine is away: got %+v, %v, want %d", got, ok, round-1)
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		_, err := mine.Put(short, "a", 99)
		cancel()
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), host.Listen) {
			t.Errorf("Put while the engine is away: got %v, want ErrUnavailable that names %s", err, host.Listen)
		}
		// A write that waits while the engine comes back succeeds.
		waiting := make(chan error, 1)
		go func() {
			_, err := stream.Append(ctx, fmt.Appendf(nil, "round %d", round))
			waiting <- err
		}()

		server = openTest(t, host)
		theirs := openTable[int](t, server, "shared", 3)
		if got, ok := theirs.Get("a"); !ok || got.Value == 99 {
			t.Errorf("the write that was refused: got %+v, want it not to have happened", got)
		}
		if _, err := theirs.Put(ctx, "a", round); err != nil { // perhaps before the client is back
			t.Fatalf("Put: %v", err)
		}
		if err := <-waiting; err != nil {
			t.Errorf("Append across the outage: %v", err)
		}
		collect("a", round, uint64(round))
		if _, err := mine.Put(ctx, fmt.Sprintf("r%d", round), round); err != nil {
			t.Errorf("Put after the outage: %v", err)
		}
		if got, ok := theirs.Get("a"); !ok || got.Value != round {
			t.Errorf("the server's own table: got %+v, %v, want %d", got, ok, round)
		}
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Follow: got %v, want context.Canceled", err)
	}
	for range events {
	}
}

func TestClientStartsFromItsSnapshotWithoutTheEngine(t *testing.T) {
	ctx := t.Context()
	host := Config{Dir: t.TempDir(), Listen: porttest.Hold(t), Log: testLog()}
	server := openTest(t, host)
	home := Config{URL: "nats://" + host.Listen, Dir: t.TempDir(), Log: testLog()}
	client := openTest(t, home)
	table := openTable[string](t, client, "shared", 1)
	for i := range 10 {
		if _, err := table.Put(ctx, fmt.Sprintf("k%d", i), "v"); err != nil {
			t.Fatalf("Put: %v", err)
		}
	}
	want := fmt.Sprint(table.List(""))
	for _, e := range []*Engine{client, server} {
		if err := e.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}

	client = openTest(t, home)
	table = openTable[string](t, client, "shared", 1)
	if got := fmt.Sprint(table.List("")); got != want {
		t.Errorf("from the snapshot: got %s, want %s", got, want)
	}
	if err := client.Health(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Health without an engine: got %v, want ErrUnavailable", err)
	}

	// What was deleted meanwhile goes away when the engine is back.
	server = openTest(t, host)
	theirs := openTable[string](t, server, "shared", 1)
	if err := theirs.Delete(ctx, "k3", 0); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	eventually(t, "k3 is gone at the client", func() bool { _, ok := table.Get("k3"); return !ok })
	if got := len(table.List("")); got != 9 {
		t.Errorf("after catching up: got %d entries, want 9", got)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}

	// Another engine at the same address, as after a restore: the old snapshot says nothing about it.
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	openTest(t, Config{Dir: t.TempDir(), Listen: host.Listen, Log: testLog()})
	client = openTest(t, home)
	table = openTable[string](t, client, "shared", 1)
	eventually(t, "the table is empty, as the new engine's is", func() bool { return len(table.List("")) == 0 })

	// A torn snapshot is reported and ignored.
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home.Dir, "views", "shared.view"), []byte("rbview1\ntorn"), 0o600); err != nil {
		t.Fatal(err)
	}
	client = openTest(t, home)
	table = openTable[string](t, client, "shared", 1)
	if _, err := table.Put(ctx, "fresh", "v"); err != nil {
		t.Errorf("Put with a torn snapshot: %v", err)
	}
}

func TestClientWithoutAnEngineOpensAtOnceAndRefusesWritesInTime(t *testing.T) {
	var table *Table[int]
	var stream *Stream
	quickest := time.Hour // of several, for the machine may be busy
	for range 5 {
		start := time.Now()
		client := openTest(t, Config{URL: "nats://" + porttest.Hold(t)})
		table = openTable[int](t, client, "t", 1)
		stream = openStream(t, client, "S")
		quickest = min(quickest, time.Since(start))
	}
	if quickest > time.Second {
		t.Errorf("opening took %v and more, each of five times; want it at once", quickest)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := table.Put(ctx, "a", 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Put: got %v, want ErrUnavailable", err)
	}
	if _, err := stream.Append(ctx, []byte("a")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Append: got %v, want ErrUnavailable", err)
	}
	if _, err := stream.Read(ctx, 1, 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Read: got %v, want ErrUnavailable", err)
	}
	if _, err := stream.Last(ctx); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Last: got %v, want ErrUnavailable", err)
	}
	if _, err := table.History(ctx, "a"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("History: got %v, want ErrUnavailable", err)
	}
}

func TestWrongTokenIsRefused(t *testing.T) {
	host := Config{Listen: porttest.Hold(t), Token: "right"}
	openTest(t, host)
	client := openTest(t, Config{URL: "nats://" + host.Listen, Token: "wrong"})
	table := openTable[int](t, client, "t", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := table.Put(ctx, "a", 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Put with a wrong token: got %v, want ErrUnavailable", err)
	}
}

func TestFollowTellsThatTheStreamWentBack(t *testing.T) {
	ctx := t.Context()
	host := Config{Dir: t.TempDir(), Listen: porttest.Hold(t), Log: testLog()}
	server := openTest(t, host)
	theirs := openStream(t, server, "S")
	for range 5 {
		if _, err := theirs.Append(ctx, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	client := openTest(t, Config{URL: "nats://" + host.Listen})
	read := make(chan uint64, 10)
	ended := make(chan error)
	mine := openStream(t, client, "S")
	go func() {
		ended <- mine.Follow(ctx, 1, func(r Record) error { read <- r.Seq; return nil })
	}()
	for seq := uint64(1); seq <= 5; seq++ {
		if got := <-read; got != seq {
			t.Fatalf("got record %d, want %d", got, seq)
		}
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	openTest(t, Config{Dir: t.TempDir(), Listen: host.Listen, Log: testLog()}) // as restored from an old backup
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "restored from a backup") {
		t.Errorf("Follow: got %v, want an error that says so", err)
	}
}
