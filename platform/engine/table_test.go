package engine

import (
	"errors"
	"testing"
)

func TestTableCompareAndSet(t *testing.T) {
	e := openTest(t, Config{})
	ctx := t.Context()
	table := openTable[string](t, e, "words", 5)

	a, err := table.Create(ctx, "a.1", "one")
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	if got, ok := table.Get("a.1"); !ok || got.Value != "one" || got.Rev != a || got.Time.IsZero() {
		t.Errorf("after Create: got %+v, %v, want one at revision %d", got, ok, a)
	}
	if _, err := table.Create(ctx, "a.1", "two"); !errors.Is(err, ErrExists) {
		t.Errorf("Create over an entry: got %v, want ErrExists", err)
	}
	b, err := table.Update(ctx, "a.1", "two", a)
	if err != nil || b <= a {
		t.Fatalf("Update from %d: got revision %d, %v", a, b, err)
	}
	if _, err := table.Update(ctx, "a.1", "three", a); !errors.Is(err, ErrConflict) {
		t.Errorf("Update from an old revision: got %v, want ErrConflict", err)
	}
	if _, err := table.Update(ctx, "a.2", "three", b); !errors.Is(err, ErrConflict) {
		t.Errorf("Update of nothing: got %v, want ErrConflict", err)
	}
	if err := table.Delete(ctx, "a.1", a); !errors.Is(err, ErrConflict) {
		t.Errorf("Delete of an old revision: got %v, want ErrConflict", err)
	}
	if err := table.Delete(ctx, "a.1", b); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if err := table.Delete(ctx, "a.1", 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("Delete of nothing: got %v, want ErrNotFound", err)
	}
	if got, ok := table.Get("a.1"); ok {
		t.Errorf("after Delete: got %+v, want nothing", got)
	}
	if _, err := table.Create(ctx, "a.1", "four"); err != nil {
		t.Errorf("Create over a deleted entry: %v", err)
	}
	revs, err := table.History(ctx, "a.1")
	if err != nil || len(revs) != 4 || revs[0].Value != "one" || revs[1].Value != "two" || !revs[2].Deleted || revs[3].Value != "four" {
		t.Errorf("History: got %+v, %v, want one, two, deleted, four", revs, err)
	}
	if _, err := table.History(ctx, "never"); !errors.Is(err, ErrNotFound) {
		t.Errorf("History of nothing: got %v, want ErrNotFound", err)
	}
}
