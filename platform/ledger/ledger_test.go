package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/engine"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
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
