package engine

import (
	"errors"
	"fmt"
	"sync"
	"testing"
)

func TestStreamKeepsWhatIsAppendedInOrder(t *testing.T) {
	e := openTest(t, Config{})
	s := openStream(t, e, "S")
	ctx := t.Context()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if _, err := s.Append(ctx, fmt.Appendf(nil, "r%d", i)); err != nil {
				t.Errorf("Append: %v", err)
			}
		})
	}
	wg.Wait()
	if last, err := s.Last(ctx); err != nil || last != 50 {
		t.Errorf("Last: got %d, %v, want 50", last, err)
	}
	recs, err := s.Read(ctx, 11, 20)
	if err != nil || len(recs) != 20 {
		t.Fatalf("Read(11, 20): got %d records, %v", len(recs), err)
	}
	for i, r := range recs {
		if r.Seq != uint64(11+i) || r.Time.IsZero() {
			t.Errorf("record %d: got sequence %d at %v, want %d", i, r.Seq, r.Time, 11+i)
		}
	}
	if recs, err := s.Read(ctx, 51, 20); err != nil || len(recs) != 0 {
		t.Errorf("Read behind the end: got %d records, %v, want none", len(recs), err)
	}
	stop := errors.New("enough")
	seen := map[string]int{}
	next := uint64(1)
	err = s.Follow(ctx, 1, func(r Record) error {
		if r.Seq != next {
			t.Errorf("Follow: got sequence %d, want %d", r.Seq, next)
		}
		next++
		seen[string(r.Data)]++
		if r.Seq == 50 {
			return stop
		}
		return nil
	})
	if err != stop || len(seen) != 50 {
		t.Errorf("Follow: got %v with %d different records, want %v with 50", err, len(seen), stop)
	}
}
