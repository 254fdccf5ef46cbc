package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
)

func serve(t *testing.T, l *Ledger) *api.Client {
	t.Helper()
	s := api.New("test", "1")
	l.Mount(s)
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return &api.Client{Base: srv.URL, HTTP: srv.Client()}
}

func fill(t *testing.T, l *Ledger, n int) {
	t.Helper()
	for i := range n {
		c := change([]string{"ana", "fleet"}[i%2], []string{"group.resize", "group.create", "fault.add"}[i%3], fmt.Sprintf("group:g%d", i%4))
		c.After = json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))
		if _, err := l.Record(t.Context(), c); err != nil {
			t.Fatalf("Record: %v", err)
		}
	}
}

func TestPagesOfChangesJoinUp(t *testing.T) {
	l, _ := openTest(t, t.TempDir())
	fill(t, l, 24)
	client := serve(t, l)
	for _, c := range []struct {
		query string
		want  int
	}{
		{"limit=7", 24},
		{"limit=24", 24},
		{"limit=5&actor=ana", 12},
		{"limit=5&action=group.resize", 8},
		{"limit=5&action=group.*", 16},
		{"limit=5&resource=group:g1", 6},
		{"limit=5&resource=group:", 24},
		{"limit=5&resource=fault:", 0},
		{"limit=1&actor=ana&action=fault.add&resource=group:g0", 2},
		{"since=" + url.QueryEscape(time.Now().Add(time.Hour).Format(time.RFC3339)), 0},
		{"since=2001-01-01T00:00:00Z", 24},
	} {
		last, got, cursor := uint64(1<<62), 0, ""
		for pages := 0; ; pages++ {
			if pages > 30 {
				t.Fatalf("%s: the pages never end", c.query)
			}
			var page Page
			if err := client.Do(t.Context(), "GET", "/api/v1/changes?"+c.query+cursor, nil, &page); err != nil {
				t.Fatalf("%s: %v", c.query, err)
			}
			if page.Changes == nil {
				t.Errorf("%s: changes is null, want a list", c.query)
			}
			for _, ch := range page.Changes {
				if ch.ID >= last {
					t.Errorf("%s: change %d follows %d", c.query, ch.ID, last)
				}
				last = ch.ID
				got++
			}
			if page.Cursor == "" {
				break
			}
			cursor = "&cursor=" + page.Cursor
		}
		if got != c.want {
			t.Errorf("%s: got %d changes, want %d", c.query, got, c.want)
		}
	}
	for _, bad := range []string{"cursor=x", "cursor=0", "limit=0", "limit=1001", "since=yesterday"} {
		err := client.Do(t.Context(), "GET", "/api/v1/changes?"+bad, nil, nil)
		var problem *api.Error
		if !errors.As(err, &problem) || problem.Status/100 != 4 {
			t.Errorf("%s: got %v, want it refused", bad, err)
		}
	}
}

func TestListReachesWhatIsNotInMemory(t *testing.T) {
	dir := t.TempDir()
	l, e := openTest(t, dir)
	fill(t, l, 30)
	check := func() {
		t.Helper()
		for _, q := range []Query{{}, {Limit: 4}, {Before: 9}, {Before: 9, After: 3}, {After: 28}, {Actor: "ana"}, {Action: "fault.*", Limit: 3}, {Before: 1}, {After: 30}} {
			var want []uint64
			for id := uint64(30); id > 0; id-- {
				i := int(id) - 1
				if (q.Before == 0 || id < q.Before) && id > q.After && (q.Actor == "" || i%2 == 0) && (q.Action == "" || i%3 == 2) && (q.Limit == 0 || len(want) < q.Limit) {
					want = append(want, id)
				}
			}
			list, err := l.List(t.Context(), q)
			var got []uint64
			for _, c := range list {
				got = append(got, c.ID)
				if string(c.After) != fmt.Sprintf(`{"n":%d}`, c.ID-1) {
					t.Errorf("change %d has After %s", c.ID, c.After)
				}
			}
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("List(%+v): got %v, %v, want %v", q, got, err, want)
			}
		}
	}
	check()
	l.mu.Lock()
	l.recent = l.recent[25:] // as if more had come since
	l.mu.Unlock()
	check()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	l, _ = openTest(t, dir)
	check()
}

func TestMemoryHoldsOnlyTheNewest(t *testing.T) {
	l := &Ledger{changed: make(chan struct{})}
	for id := uint64(1); id <= 3*keepEntries; id++ {
		if err := l.index(record(id, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.recent) != keepEntries || l.recent[0].ID != 2*keepEntries+1 {
		t.Errorf("got %d entries from %d on, want %d from %d on", len(l.recent), l.recent[0].ID, keepEntries, 2*keepEntries+1)
	}
	for id := l.last + 1; l.recent[0].ID <= 3*keepEntries; id++ {
		if err := l.index(record(id, 100<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if l.bytes < 0 || l.bytes > keepBytes || len(l.recent) > keepBytes/(100<<10)+1 {
		t.Errorf("got %d large entries of %d bytes together, want at most %d", len(l.recent), l.bytes, keepBytes)
	}
}

func TestFollowSendsWhatIsThereAndWhatComes(t *testing.T) {
	l, _ := openTest(t, t.TempDir())
	fill(t, l, 5)
	client := serve(t, l)
	enough := errors.New("enough")
	for _, path := range []string{"/api/v1/changes/stream?after=2"} {
		next := uint64(3)
		err := client.Follow(t.Context(), path, func(name string, data []byte) error {
			var c roadbed.Change
			if err := json.Unmarshal(data, &c); err != nil {
				return err
			}
			if name != "change" || c.ID != next {
				t.Errorf("%s: got %s %d, want change %d", path, name, c.ID, next)
			}
			if next++; next == 6 {
				fill(t, l, 3)
			}
			if next == 9 {
				return enough
			}
			return nil
		})
		if err != enough {
			t.Errorf("%s: got %v, want %v", path, err, enough)
		}
	}
	if err := client.Follow(t.Context(), "/api/v1/changes/stream?after=x", func(string, []byte) error { return nil }); err == nil {
		t.Error("after=x was taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan uint64)
	ended := make(chan error)
	go func() {
		ended <- l.Follow(ctx, 7, func(c roadbed.Change) error { got <- c.ID; return nil })
	}()
	if id := <-got; id != 8 {
		t.Errorf("Follow after 7: got %d", id)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Follow: got %v, want context.Canceled", err)
	}
}
