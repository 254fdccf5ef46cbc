package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api/porttest"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/engine/enginetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, enginetest.Forgotten)
}

func openTest(t testing.TB, dir string) (*Ledger, *engine.Engine) {
	t.Helper()
	e, err := engine.Open(t.Context(), engine.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("engine: %v", err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close engine: %v", err)
		}
	})
	l, err := Open(t.Context(), e)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return l, e
}

func change(actor, action, resource string) roadbed.Change {
	return roadbed.Change{Actor: actor, Action: action, Resource: resource, Result: roadbed.Succeeded}
}

func TestIDsAscendFromOneWithoutGaps(t *testing.T) {
	dir := t.TempDir()
	l, e := openTest(t, dir)
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids := map[uint64]bool{}
	for i := range 60 {
		wg.Go(func() {
			id, err := l.Record(t.Context(), change("ana", "x.y", fmt.Sprintf("thing:%d", i)))
			if err != nil {
				t.Errorf("Record: %v", err)
			}
			list, err := l.List(t.Context(), Query{After: id - 1, Before: id + 1})
			if err != nil || len(list) != 1 || list[0].ID != id || list[0].Resource != fmt.Sprintf("thing:%d", i) || list[0].Time.IsZero() {
				t.Errorf("List of entry %d: got %+v, %v", id, list, err)
			}
			mu.Lock()
			ids[id] = true
			mu.Unlock()
		})
	}
	wg.Wait()
	for id := uint64(1); id <= 60; id++ {
		if !ids[id] {
			t.Errorf("nobody got id %d: got %v", id, ids)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	l, _ = openTest(t, dir)
	if id, err := l.Record(t.Context(), change("ana", "x.y", "thing:new")); err != nil || id != 61 {
		t.Errorf("first entry after a restart: got id %d, %v, want 61", id, err)
	}
}

func TestApplyRecordsBeforeItActsAndFailuresAfter(t *testing.T) {
	l, e := openTest(t, t.TempDir())
	ctx := t.Context()
	boom := errors.New("no such group")
	err := l.Apply(ctx, change("ana", "group.resize", "group:a"), func(ctx context.Context) error {
		if got, err := l.List(ctx, Query{}); err != nil || len(got) != 1 || got[0].Result != roadbed.Succeeded {
			t.Errorf("while acting: got %+v, %v, want the change on record", got, err)
		}
		return boom
	})
	if err != boom {
		t.Errorf("Apply: got %v, want %v", err, boom)
	}
	got, err := l.List(ctx, Query{})
	if err != nil || len(got) != 2 || got[0].Result != roadbed.Failed || got[0].Parent != got[1].ID || got[0].Error != boom.Error() {
		t.Errorf("after a failure: got %+v, %v, want a FAILED child", got, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	acted := false
	err = l.Apply(ctx, change("ana", "group.resize", "group:a"), func(context.Context) error { acted = true; return nil })
	if !errors.Is(err, engine.ErrUnavailable) || acted {
		t.Errorf("Apply without a ledger: got %v, acted %v, want ErrUnavailable and no act", err, acted)
	}
}

func TestRecordRefusesIncompleteChanges(t *testing.T) {
	l, _ := openTest(t, t.TempDir())
	for _, c := range []roadbed.Change{
		change("", "a.b", "c:d"),
		change("ana", "", "c:d"),
		change("ana", "a.b", ""),
		{Actor: "ana", Action: "a.b", Resource: "c:d", Result: "MAYBE"},
		{Actor: "ana", Action: "a.b", Resource: "c:d", Before: []byte("{")},
		{Actor: "ana", Action: "a.b", Resource: "c:d", Why: strings.Repeat("x", engine.MaxValue)},
	} {
		if id, err := l.Record(t.Context(), c); err == nil {
			t.Errorf("Record(%.200v): got id %d, want an error", c, id)
		}
	}
	if got, err := l.List(t.Context(), Query{}); err != nil || len(got) != 0 {
		t.Errorf("after refusals: got %+v, %v, want nothing", got, err)
	}
}

// record is what the stream holds for a change of about so many bytes.
func record(id uint64, bytes int) engine.Record {
	return engine.Record{Seq: id, Time: time.Now(), Data: []byte(`{"actor":"a","action":"b.c","resource":"d:e","result":"SUCCEEDED","why":"` + strings.Repeat("x", bytes) + `"}`)}
}

func TestEntryThatCannotBeReadIsShownAsSuch(t *testing.T) {
	l, e := openTest(t, t.TempDir())
	s, err := engine.OpenStream(t.Context(), e, Stream, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(t.Context(), []byte("not JSON")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Record(t.Context(), change("ana", "a.b", "c:d")); err != nil {
		t.Fatal(err)
	}
	got, err := l.List(t.Context(), Query{})
	if err != nil || len(got) != 2 || got[1].ID != 1 || !strings.Contains(got[1].Error, "cannot be read") {
		t.Errorf("List: got %+v, %v, want entry 1 shown as unreadable", got, err)
	}
}

func TestLedgerOfAClientCatchesUpWhenTheEngineComes(t *testing.T) {
	addr := porttest.Hold(t)
	quiet := slog.New(slog.DiscardHandler)
	open := func(c engine.Config) *engine.Engine {
		c.Log = quiet
		e, err := engine.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		return e
	}
	var l *Ledger
	quickest := time.Hour // of several, for the machine may be busy
	for range 5 {
		start := time.Now()
		var err error
		if l, err = Open(t.Context(), open(engine.Config{URL: "nats://" + addr})); err != nil {
			t.Fatalf("Open without an engine: %v", err)
		}
		quickest = min(quickest, time.Since(start))
	}
	if quickest > 2*time.Second {
		t.Errorf("Open without an engine took %v and more, each of five times; want it at once", quickest)
	}
	if got, err := l.List(t.Context(), Query{}); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("List without an engine: got %v, %v, want ErrUnavailable", got, err)
	}
	server, err := Open(t.Context(), open(engine.Config{Dir: t.TempDir(), Listen: addr}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Record(t.Context(), change("ana", "a.b", "c:there")); err != nil {
		t.Fatal(err)
	}
	if id, err := l.Record(t.Context(), change("ana", "a.b", "c:here")); err != nil || id != 2 {
		t.Errorf("Record as a client: got id %d, %v, want 2", id, err)
	}
	if got, err := l.List(t.Context(), Query{}); err != nil || len(got) != 2 || got[0].Resource != "c:here" {
		t.Errorf("List as a client: got %+v, %v, want both entries", got, err)
	}
}

func BenchmarkRecord(b *testing.B) {
	l, _ := openTest(b, b.TempDir())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Record(b.Context(), change("ana", "a.b", "c:d")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList(b *testing.B) {
	l, _ := openTest(b, b.TempDir())
	for id := uint64(1); id <= keepEntries; id++ {
		if err := l.index(record(id, 50)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if got, err := l.List(b.Context(), Query{Limit: 50}); err != nil || len(got) != 50 {
			b.Fatal(len(got), err)
		}
	}
}

// TestALedgerWhoseLastEntriesAreLostOpens empties the file that holds them all, as a damaged disk may.
func TestALedgerWhoseLastEntriesAreLostOpens(t *testing.T) {
	dir := t.TempDir()
	e, err := engine.Open(t.Context(), engine.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := l.Record(t.Context(), change("ana", "property.set", "property:x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	blocks, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "EV_"+Stream, "msgs", "*.blk"))
	if err != nil || len(blocks) != 1 {
		t.Fatalf("got files %v and %v, want one", blocks, err)
	}
	if err := os.Truncate(blocks[0], 0); err != nil {
		t.Fatal(err)
	}
	l, _ = openTest(t, dir)
	if err := l.Health(); err == nil || !strings.Contains(err.Error(), "3 entries are lost") {
		t.Errorf("without its three entries: got %v, want that 3 are lost", err)
	}
	id, err := l.Record(t.Context(), change("ana", "property.set", "property:x"))
	if err != nil || id != 4 {
		t.Errorf("the next entry: got id %d and %v, want 4", id, err)
	}
	if err := l.await(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if err := l.Health(); err == nil || !strings.Contains(err.Error(), "3 entries are lost") {
		t.Errorf("with another entry: got %v, want that 3 are lost", err)
	}
}

func TestLostEntriesAreToldAndShown(t *testing.T) {
	l, _ := openTest(t, t.TempDir())
	for range 3 {
		if _, err := l.Record(t.Context(), change("ana", "property.set", "property:x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.await(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if err := l.Health(); err != nil {
		t.Errorf("a whole ledger: got %v", err)
	}
	if err := l.index(engine.Record{Seq: 6, Time: time.Now(), Data: []byte(`{"actor":"ana","action":"x.y","resource":"x:1"}`)}); err != nil {
		t.Fatal(err)
	}
	if err := l.Health(); err == nil || !strings.Contains(err.Error(), "2 entries are lost") {
		t.Errorf("with entries 4 and 5 missing: got %v, want 2 entries are lost", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []uint64
	for _, c := range l.recent {
		ids = append(ids, c.ID)
		if lost := c.ID == 4 || c.ID == 5; lost != (c.Error != "") {
			t.Errorf("entry %d: got %+v, want it shown as lost: %v", c.ID, c, lost)
		}
	}
	if fmt.Sprint(ids) != "[1 2 3 4 5 6]" {
		t.Errorf("got entries %v, want 1 to 6 without a gap", ids)
	}
}
