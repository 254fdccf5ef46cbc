package engine

import (
	"errors"
	"fmt"
	"slices"
	"sync"
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

func TestPastIsEveryRevisionThatIsKeptInTheOrderOfWriting(t *testing.T) {
	e := openTest(t, Config{})
	table := openTable[int](t, e, "t", 2)
	if err := table.Past(t.Context(), func(Revision[int]) error { return errors.New("there is none") }); err != nil {
		t.Errorf("of an empty table: %v", err)
	}
	var want []string
	put := func(key string, v int) {
		t.Helper()
		rev, err := table.Put(t.Context(), key, v)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprint(key, v, false, rev))
	}
	put("a", 1)
	put("b.c", 2)
	put("a", 3)
	put("a", 4)
	want = want[1:] // a has two already
	if err := table.Delete(t.Context(), "b.c", 0); err != nil {
		t.Fatal(err)
	}
	want = append(want, fmt.Sprint("b.c", 0, true, 5))
	many := 2*readMost + 10
	for i := range many / 50 {
		var wg sync.WaitGroup
		for j := range 50 {
			wg.Go(func() {
				if _, err := table.Put(t.Context(), fmt.Sprintf("k.%d", 50*i+j), 0); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	var got []string
	last, n := uint64(0), 0
	err := table.Past(t.Context(), func(r Revision[int]) error {
		if r.Rev <= last {
			t.Errorf("revision %d follows %d", r.Rev, last)
		}
		last = r.Rev
		if n++; len(got) < len(want) {
			got = append(got, fmt.Sprint(r.Key, r.Value, r.Deleted, r.Rev))
		}
		return nil
	})
	if err != nil || !slices.Equal(got, want) || n != len(want)+many/50*50 {
		t.Errorf("got %v and %d in all, %v; want %v and %d", got, n, err, want, len(want)+many/50*50)
	}
	stop := errors.New("enough")
	if err := table.Past(t.Context(), func(Revision[int]) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("when fn fails: got %v, want its error", err)
	}
}
