package registry

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// plainLog is what a change log is: a list of changes, each gone when the next of its instance comes or it is too old.
type plainLog struct {
	list    []seen
	trimmed uint64
}

// seen is a change as readers see it.
type seen struct {
	version uint64
	at      int64
	rec     *record
	vips    string
}

// add makes c, of an instance with that VIP and was, one with another before, the newest.
func (m *plainLog) add(c seen, was string, keep time.Duration) {
	m.trim(c.at, keep)
	names := []string{c.rec.vip, was}
	m.list = slices.DeleteFunc(m.list, func(x seen) bool {
		same := x.rec.key() == c.rec.key()
		if same {
			names = append(names, strings.Split(x.vips, ",")...)
		}
		return same
	})
	for _, name := range names {
		if name != "" && !slices.Contains(strings.Split(c.vips, ","), name) {
			c.vips = strings.TrimPrefix(c.vips+","+name, ",")
		}
	}
	m.list = append(m.list, c)
}

func (m *plainLog) trim(now int64, keep time.Duration) {
	for len(m.list) > 0 && time.Duration(now-m.list[0].at) > keep {
		m.trimmed, m.list = m.list[0].version, m.list[1:]
	}
}

// since is what is known to have happened after version.
func (m *plainLog) since(version uint64) []seen {
	return slices.DeleteFunc(slices.Clone(m.list), func(x seen) bool { return x.version <= version })
}

func tell(cs changes) (list []seen) {
	for c := range cs.all() {
		list = append(list, seen{c.version, c.at, c.rec, c.vips()})
	}
	return list
}

func TestChangeLogIsAListThatOthersMayKeepReading(t *testing.T) {
	const keep = time.Minute
	rapid.Check(t, func(t *rapid.T) {
		l := newChangeLog()
		l.least, l.most = keep, keep
		var m plainLog
		entries := map[key]*entry{}
		now, nth := int64(0), 0
		change := func(i int, gone bool) {
			k := key{"A", fmt.Sprint(i)}
			e := entries[k]
			nth++
			r := &record{app: k.app, id: k.id, vip: fmt.Sprint("v", nth%5), action: added}
			var was *record
			wasVIP := ""
			if e != nil {
				r.action, was, wasVIP = modified, e.rec, e.rec.vip
			} else if e = (&entry{}); gone {
				return // it is not there
			}
			if entries[k] = e; gone {
				r.action = deleted
				delete(entries, k)
			}
			l.add(e, r, was, now)
			e.rec = r
			m.add(seen{l.version, now, r, ""}, wasVIP, keep)
		}
		type reader struct {
			cs   changes
			list []seen
		}
		var readers []reader
		t.Repeat(map[string]func(*rapid.T){
			"many register": func(t *rapid.T) {
				from, n := rapid.IntRange(0, 400).Draw(t, "from"), rapid.IntRange(1, 400).Draw(t, "n")
				for i := from; i < from+n; i++ {
					change(i, false)
				}
			},
			"some change, in any order": func(t *rapid.T) {
				pick := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
				for range rapid.IntRange(1, 300).Draw(t, "n") {
					change(pick.IntN(800), pick.IntN(4) == 0)
				}
			},
			"one changes": func(t *rapid.T) { change(rapid.IntRange(0, 800).Draw(t, "i"), rapid.Bool().Draw(t, "gone")) },
			"time goes by": func(t *rapid.T) {
				now += int64(rapid.SampledFrom([]time.Duration{time.Second, 20 * time.Second, keep, 2 * keep}).Draw(t, "by"))
				l.trim(now)
				m.trim(now, keep)
			},
			"a reader looks": func(t *rapid.T) {
				readers = append(readers, reader{slices.Clone(l.changes), slices.Clone(m.list)})
			},
			"a reader asks for what is new": func(t *rapid.T) {
				back := rapid.Uint64Range(0, 2000).Draw(t, "versions back")
				version := l.version - min(l.version, back)
				cs, ok := l.since(version)
				if want := version >= m.trimmed; ok != want {
					t.Fatalf("since(%d): got known %v, want %v, %d fell out", version, ok, want, m.trimmed)
				}
				if want := m.since(version); ok {
					readers = append(readers, reader{cs, want})
				}
			},
			"a reader reads again": func(t *rapid.T) {
				if len(readers) > 0 {
					r := rapid.SampledFrom(readers).Draw(t, "reader")
					if got := tell(r.cs); !slices.Equal(got, r.list) || r.cs.count() != len(r.list) {
						t.Fatalf("what a reader keeps: got %d changes, want the %d that it saw", len(got), len(r.list))
					}
				}
			},
			"": func(t *rapid.T) {
				if got := tell(l.changes); !slices.Equal(got, m.list) || l.kept != len(m.list) || l.trimmed != m.trimmed {
					t.Fatalf("log: got %d changes, %d counted, trimmed up to %d; want %d, up to %d, in the same order", len(got), l.kept, l.trimmed, len(m.list), m.trimmed)
				}
				for i, run := range l.changes {
					if len(run) == 0 || len(run) > runMost || i > 0 && len(run)+len(l.changes[i-1]) <= runMost/2 {
						t.Fatalf("run %d of %d: %d changes", i, len(l.changes), len(run))
					}
				}
			},
		})
	})
}
