package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// group makes writes of n keys of table t, each expected not to exist.
func group(n int, ids bool) []*write {
	ws := make([]*write, n)
	for i := range ws {
		ws[i] = &write{subject: fmt.Sprintf("$KV.t.k%d", i), data: []byte("1"), done: make(chan outcome, 1)}
		if ids {
			ws[i].id = fmt.Sprintf("id-%d", i)
		}
	}
	return ws
}

// idleCommitter returns a committer of table t that thinks nothing of singles and has no goroutine.
func idleCommitter(t *testing.T) *committer {
	t.Helper()
	e := openTest(t, Config{})
	openTable[int](t, e, "t", 1)
	return &committer{e: e, stream: "KV_t", in: make(chan *write, groupMost), single: time.Hour}
}

func TestBatchGivesEachWriteItsSequence(t *testing.T) {
	c := idleCommitter(t)
	ws := group(20, false)
	last, rejected, err := c.sendBatch(t.Context(), ws)
	if err != nil || rejected || last != 20 {
		t.Fatalf("sendBatch: got last %d, rejected %v, %v, want 20", last, rejected, err)
	}
	ws = group(20, false)
	for _, w := range ws {
		w.expect = anything
	}
	if err := c.send(t.Context(), ws); err != nil {
		t.Fatal(err)
	}
	for i, w := range ws {
		if o := <-w.done; o.err != nil || o.seq != uint64(21+i) {
			t.Errorf("write %d: got sequence %d, %v, want %d", i, o.seq, o.err, 21+i)
		}
		m, err := c.e.read(t.Context(), c.stream, w.subject, 1, 1)
		if err != nil || len(m) != 1 || m[0].seq != uint64(21+i) {
			t.Errorf("write %d: the stream has %+v, %v, want sequence %d", i, m, err, 21+i)
		}
	}
}

func TestConflictInABatchIsNobodyElses(t *testing.T) {
	c := idleCommitter(t)
	ws := group(20, false)
	ws[7].expect = 999
	if err := c.send(t.Context(), ws); err != nil {
		t.Fatal(err)
	}
	for i, w := range ws {
		if o := <-w.done; (i == 7) != errors.Is(o.err, ErrConflict) || i != 7 && o.err != nil {
			t.Errorf("write %d: got sequence %d, %v", i, o.seq, o.err)
		}
	}
}

func TestSendingAgainChangesNothing(t *testing.T) {
	for _, condition := range []bool{false, true} {
		for _, n := range []int{1, 3, 20} {
			c := idleCommitter(t)
			ws := group(n, true)
			first := map[int]uint64{}
			for round := range 3 { // as a client does that did not hear the answer
				for _, w := range ws {
					w.again = round > 0
					if !condition {
						w.expect = anything
					}
				}
				if err := c.send(t.Context(), ws); err != nil {
					t.Fatal(err)
				}
				for i, w := range ws {
					o := <-w.done
					if o.err != nil || round > 0 && o.seq != first[i] {
						t.Errorf("write %d of %d, condition %v, round %d: got sequence %d, %v, want %d", i, n, condition, round, o.seq, o.err, first[i])
					}
					first[i] = o.seq
				}
			}
		}
	}
}

func TestConflictOfAWriteSentAgainIsNotClaimedToBeOne(t *testing.T) {
	c := idleCommitter(t)
	w, other := group(1, true)[0], group(1, false)[0]
	other.expect = anything
	for _, w := range []*write{w, other} {
		if err := c.send(t.Context(), []*write{w}); err != nil {
			t.Fatal(err)
		}
		if o := <-w.done; o.err != nil {
			t.Fatal(o.err)
		}
	}
	w.again = true // it was written, and is no longer there to tell
	if err := c.send(t.Context(), []*write{w}); err != nil {
		t.Fatal(err)
	}
	if o := <-w.done; !errors.Is(o.err, ErrUnavailable) || errors.Is(o.err, ErrConflict) {
		t.Errorf("got sequence %d, %v, want ErrUnavailable", o.seq, o.err)
	}
}

func TestGatherNeverPutsTwoConditionsOnOneKeyIntoAGroup(t *testing.T) {
	c := idleCommitter(t)
	key := func(k string, expect int64) *write { return &write{subject: k, expect: expect} }
	for _, w := range []*write{
		key("a", anything), key("a", anything), key("b", 1), key("a", 7), key("b", 2), key("c", 0), key("b", anything),
	} {
		c.in <- w
	}
	var got [][]string
	for n := 0; n < 7; {
		g := c.gather(t.Context(), nil)
		var keys []string
		for _, w := range g {
			keys = append(keys, fmt.Sprintf("%s%d", w.subject, w.expect))
		}
		got, n = append(got, keys), n+len(g)
	}
	if want := "[[a-1 a-1 b1] [a7 b2 c0] [b-1]]"; fmt.Sprint(got) != want {
		t.Errorf("groups: got %v, want %v", got, want)
	}
}

func TestGroupStaysWithinItsBounds(t *testing.T) {
	c := idleCommitter(t)
	for range groupMost {
		c.in <- &write{expect: anything, data: make([]byte, MaxValue)}
	}
	if got := len(c.gather(t.Context(), nil)); got != groupBytes/MaxValue {
		t.Errorf("a group of the largest values: got %d, want %d", got, groupBytes/MaxValue)
	}
}

func TestManyWritersCountTogetherWithoutLosingOne(t *testing.T) {
	ctx := t.Context()
	e := openTest(t, Config{})
	table := openTable[int](t, e, "t", 1)
	const writers, each = 16, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				for {
					old, _ := table.Get("count")
					_, err := table.Update(ctx, "count", old.Value+1, old.Rev)
					if err == nil {
						break
					}
					if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrExists) {
						t.Errorf("Update: %v", err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if got, _ := table.Get("count"); got.Value != writers*each {
		t.Errorf("after %d increments: got %d", writers*each, got.Value)
	}
}

func TestWriteRefusals(t *testing.T) {
	ctx := t.Context()
	e := openTest(t, Config{})
	table := openTable[string](t, e, "t", 1)
	if _, err := table.Put(ctx, "big", string(make([]byte, MaxValue))); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Put of too much: got %v, want ErrTooLarge", err)
	}
	s := openStream(t, e, "S")
	if _, err := s.Append(ctx, make([]byte, MaxValue)); err != nil {
		t.Errorf("Append of the most that is allowed: %v", err)
	}
	if _, err := s.Append(ctx, make([]byte, MaxValue+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Append of one byte too much: got %v, want ErrTooLarge", err)
	}
	for _, key := range []string{"", ".", "a.", ".a", "a..b", "a b", "a*", "a>", "ä", "a\x00", string(make([]byte, 600))} {
		if _, err := table.Put(ctx, key, "x"); err == nil {
			t.Errorf("Put of key %q succeeded", key)
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := table.Put(gone, "a", "x"); err == nil {
		t.Error("Put in a context that has ended succeeded")
	}
	for _, c := range []struct {
		name    string
		history int
	}{{"", 1}, {"a.b", 1}, {"a b", 1}, {"a", 0}, {"a", 65}} {
		if _, err := OpenTable[int](ctx, e, c.name, c.history); err == nil {
			t.Errorf("OpenTable(%q, %d) succeeded", c.name, c.history)
		}
	}
	if _, err := OpenStream(ctx, e, "a.b", 0); err == nil {
		t.Error("OpenStream of a.b succeeded")
	}
}
