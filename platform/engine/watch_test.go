package engine

import (
	"context"
	"fmt"
	"testing"
)

func TestWatchSendsSnapshotThenSyncedThenChanges(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	e := openTest(t, Config{})
	table := openTable[int](t, e, "t", 1)
	put := func(key string, n int) {
		t.Helper()
		if _, err := table.Put(ctx, key, n); err != nil {
			t.Fatal(err)
		}
	}
	put("a.2", 2)
	put("a.1", 1)
	put("b.1", 9)
	events := table.Watch(ctx, "a.")
	want := func(kind EventKind, key string, n int) {
		t.Helper()
		got := <-events
		if got.Kind != kind || got.Entry.Key != key || got.Entry.Value != n {
			t.Errorf("got %v of %q with %d, want %v of %q with %d", got.Kind, got.Entry.Key, got.Entry.Value, kind, key, n)
		}
	}
	want(Snapshot, "a.1", 1)
	want(Snapshot, "a.2", 2)
	want(Synced, "", 0)
	put("b.2", 9)
	put("a.3", 3)
	want(Put, "a.3", 3)
	if err := table.Delete(ctx, "a.3", 0); err != nil {
		t.Fatal(err)
	}
	want(Deleted, "a.3", 3)
	cancel()
	for ev := range events {
		t.Errorf("after the end: got %+v", ev)
	}
}

func TestSlowWatcherGetsTheNewestOfEachKey(t *testing.T) {
	ctx := t.Context()
	e := openTest(t, Config{})
	table := openTable[int](t, e, "t", 1)
	events := table.Watch(ctx, "")
	if ev := <-events; ev.Kind != Synced {
		t.Fatalf("first event of an empty table: got %v, want synced", ev.Kind)
	}
	for n := range 200 {
		if _, err := table.Put(ctx, fmt.Sprintf("k%d", n%4), n); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Delete(ctx, "k0", 0); err != nil {
		t.Fatal(err)
	}
	newest := map[string]Event[int]{}
	count := 0
	for newest["k1"].Entry.Value != 197 || newest["k2"].Entry.Value != 198 || newest["k3"].Entry.Value != 199 || newest["k0"].Kind != Deleted {
		ev := <-events
		if old := newest[ev.Entry.Key]; ev.Entry.Rev <= old.Entry.Rev {
			t.Errorf("%s went back from revision %d to %d", ev.Entry.Key, old.Entry.Rev, ev.Entry.Rev)
		}
		newest[ev.Entry.Key] = ev
		count++
	}
	if count > 8 { // one that was on its way per key, and the newest
		t.Errorf("a slow watcher got %d events of 4 keys, want them coalesced", count)
	}
}
