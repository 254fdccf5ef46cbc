package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const modelHistory = 3

// model is what a table should be: the kept revisions of each key, oldest first.
type model map[string][]Revision[int]

func (m model) live(key string) (Entry[int], bool) {
	revs := m[key]
	if len(revs) == 0 || revs[len(revs)-1].Deleted {
		return Entry[int]{}, false
	}
	return revs[len(revs)-1].Entry, true
}

func (m model) add(r Revision[int]) {
	revs := append(m[r.Key], r)
	m[r.Key] = revs[max(0, len(revs)-modelHistory):]
}

// check compares everything under prefix with the model.
func (m model) check(t interface{ Errorf(string, ...any) }, table *Table[int], prefix string) {
	var want []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if e, ok := m.live(key); ok && strings.HasPrefix(key, prefix) {
			want = append(want, fmt.Sprintf("%s=%d@%d", key, e.Value, e.Rev))
		}
	}
	var got []string
	for _, e := range table.List(prefix) {
		got = append(got, fmt.Sprintf("%s=%d@%d", e.Key, e.Value, e.Rev))
		if one, ok := table.Get(e.Key); !ok || one.Rev != e.Rev {
			t.Errorf("Get(%q): got %+v, %v, and List has revision %d", e.Key, one, ok, e.Rev)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("List(%q): got %v, want %v", prefix, got, want)
	}
}

func (m model) checkHistory(t *rapid.T, table *Table[int], key string) {
	revs, err := table.History(t.Context(), key)
	if len(m[key]) == 0 {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("History(%q) of nothing: got %v, %v, want ErrNotFound", key, revs, err)
		}
		return
	}
	show := func(revs []Revision[int]) (s string) {
		for _, r := range revs {
			s += fmt.Sprintf(" %d=%d,%v", r.Rev, r.Value, r.Deleted)
		}
		return s
	}
	if err != nil || show(revs) != show(m[key]) {
		t.Errorf("History(%q): got %v, %v, want %v", key, show(revs), err, show(m[key]))
	}
}

func TestTableIsAMapWithHistories(t *testing.T) {
	e := openTest(t, Config{})
	table := openTable[int](t, e, "model", modelHistory)
	all := model{}
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		prefix := fmt.Sprintf("r%d.", round)
		m := model{}
		last := uint64(0)
		keys := rapid.SampledFrom([]string{prefix + "a", prefix + "b", prefix + "b/c", prefix + "b.c"})
		// A revision to expect: the present one, one of the past, or none that ever was.
		expected := func(key string) uint64 {
			revs := []uint64{0, 1 << 40}
			for _, r := range m[key] {
				revs = append(revs, r.Rev, r.Rev)
			}
			return rapid.SampledFrom(revs).Draw(t, "rev")
		}
		wrote := func(key string, rev uint64, value int, deleted bool) {
			if rev <= last {
				t.Errorf("revision %d follows %d", rev, last)
			}
			last = rev
			m.add(Revision[int]{Entry: Entry[int]{Key: key, Value: value, Rev: rev}, Deleted: deleted})
		}
		result := func(what, key string, got, want error) {
			if !errors.Is(got, want) || want == nil && got != nil {
				t.Errorf("%s %q: got %v, want %v; its history is %+v", what, key, got, want, m[key])
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				key, v := keys.Draw(t, "key"), rapid.Int().Draw(t, "value")
				rev, err := table.Put(t.Context(), key, v)
				result("Put", key, err, nil)
				wrote(key, rev, v, false)
			},
			"create": func(t *rapid.T) {
				key, v := keys.Draw(t, "key"), rapid.Int().Draw(t, "value")
				rev, err := table.Create(t.Context(), key, v)
				if _, ok := m.live(key); ok {
					result("Create", key, err, ErrExists)
					return
				}
				result("Create", key, err, nil)
				wrote(key, rev, v, false)
			},
			"update": func(t *rapid.T) {
				key, v := keys.Draw(t, "key"), rapid.Int().Draw(t, "value")
				from := expected(key)
				rev, err := table.Update(t.Context(), key, v, from)
				_, live := m.live(key)
				newest := uint64(0)
				if revs := m[key]; len(revs) > 0 {
					newest = revs[len(revs)-1].Rev
				}
				switch {
				case from == 0 && live:
					result("Update from 0", key, err, ErrExists)
				case from != 0 && from != newest:
					result("Update", key, err, ErrConflict)
				default:
					result("Update", key, err, nil)
					wrote(key, rev, v, false)
				}
			},
			"delete": func(t *rapid.T) {
				key := keys.Draw(t, "key")
				from := expected(key)
				err := table.Delete(t.Context(), key, from)
				now, live := m.live(key)
				switch {
				case !live:
					result("Delete", key, err, ErrNotFound)
				case from != 0 && from != now.Rev:
					result("Delete", key, err, ErrConflict)
				default:
					result("Delete", key, err, nil)
					revs, err := table.History(t.Context(), key)
					if err != nil {
						t.Fatalf("History: %v", err)
					}
					wrote(key, revs[len(revs)-1].Rev, 0, true)
				}
			},
			"history": func(t *rapid.T) { m.checkHistory(t, table, keys.Draw(t, "key")) },
			"":        func(t *rapid.T) { m.check(t, table, prefix) },
		})
		for key, revs := range m {
			all[key] = revs
		}
	})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	again := openTable[int](t, openTest(t, Config{Dir: e.cfg.Dir}), "model", modelHistory)
	all.check(t, again, "")
}
