package engine

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// view is the copy of a table in memory. Messages of the table's stream are applied to it in their order.
type view[T any] struct {
	log *slog.Logger

	mu      sync.RWMutex
	byKey   map[string]Entry[T] // guarded by mu
	keys    []string            // sorted, unless dirty; guarded by mu
	dirty   bool                // keys lacks keys or has too many; guarded by mu
	applied uint64              // the last sequence of the stream that is in byKey; guarded by mu
	at      time.Time           // when the view last knew that it was whole; guarded by mu
	origin  time.Time           // when the stream it shows was created; guarded by mu
	seen    map[string]struct{} // keys met by a reading of everything that is under way, else nil; guarded by mu
	whole   bool                // everything in the stream was read once; guarded by mu
	waiting []waiter            // guarded by mu
	watches map[*watch[T]]struct{}
}

// waiter waits until a sequence is in the view.
type waiter struct {
	seq  uint64
	done chan struct{}
}

func newView[T any](log *slog.Logger) *view[T] {
	return &view[T]{log: log, byKey: make(map[string]Entry[T]), watches: make(map[*watch[T]]struct{})}
}

// get is a hot path: 0 allocs, BenchmarkGet.
func (v *view[T]) get(key string) (Entry[T], bool) {
	v.mu.RLock()
	e, ok := v.byKey[key]
	v.mu.RUnlock()
	return e, ok
}

func (v *view[T]) list(prefix string) []Entry[T] {
	v.mu.RLock()
	if v.dirty {
		v.mu.RUnlock()
		v.mu.Lock()
		v.sort()
		out := v.listLocked(prefix)
		v.mu.Unlock()
		return out
	}
	defer v.mu.RUnlock()
	return v.listLocked(prefix)
}

func (v *view[T]) listLocked(prefix string) []Entry[T] {
	from := sort.SearchStrings(v.keys, prefix)
	to := from
	for to < len(v.keys) && strings.HasPrefix(v.keys[to], prefix) {
		to++
	}
	out := make([]Entry[T], 0, to-from)
	for _, k := range v.keys[from:to] {
		out = append(out, v.byKey[k])
	}
	return out
}

func (v *view[T]) sort() {
	if !v.dirty {
		return
	}
	v.keys = v.keys[:0]
	for k := range v.byKey {
		v.keys = append(v.keys, k)
	}
	slices.Sort(v.keys)
	v.dirty = false
}

// resume returns where to read on in a stream created at origin whose last sequence is last, or 0 when everything
// has to be read again: because it is another stream, or because what was deleted since may be forgotten.
func (v *view[T]) resume(origin time.Time, last uint64) (from uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.origin.Equal(origin) && v.applied > 0 && v.applied <= last && time.Since(v.at) < markerLife/2 {
		v.seen = nil
		return v.applied + 1
	}
	v.origin = origin
	v.applied = 0
	v.seen = make(map[string]struct{})
	return 0
}

// apply brings one message into the view.
func (v *view[T]) apply(key string, m message) {
	var val T
	bad := false
	if !m.deleted {
		if err := json.Unmarshal(m.data, &val); err != nil {
			v.log.Error("an entry cannot be read and is left out; write it anew or delete it", "key", key, "rev", m.seq, "err", err)
			bad = true
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seen != nil {
		v.seen[key] = struct{}{}
	}
	if m.deleted || bad {
		v.drop(key, m.seq, m.time)
	} else {
		v.set(Entry[T]{Key: key, Value: val, Rev: m.seq, Time: m.time})
	}
	v.reached(m.seq)
}

// set is called with mu held, as are the ones below.
func (v *view[T]) set(e Entry[T]) {
	old, had := v.byKey[e.Key]
	if had && old.Rev == e.Rev {
		return // read again
	}
	v.dirty = v.dirty || !had
	v.byKey[e.Key] = e
	v.tell(Event[T]{Kind: Put, Entry: e})
}

func (v *view[T]) drop(key string, rev uint64, at time.Time) {
	old, had := v.byKey[key]
	if !had {
		return
	}
	v.dirty = true
	delete(v.byKey, key)
	old.Rev, old.Time = rev, at
	v.tell(Event[T]{Kind: Deleted, Entry: old})
}

func (v *view[T]) tell(ev Event[T]) {
	for w := range v.watches {
		w.add(ev)
	}
}

func (v *view[T]) reached(seq uint64) {
	v.applied = seq
	left := v.waiting[:0]
	for _, w := range v.waiting {
		if w.seq <= seq {
			close(w.done)
		} else {
			left = append(left, w)
		}
	}
	clear(v.waiting[len(left):])
	v.waiting = left
}

// complete is called when everything in the stream was applied: what a reading of everything did not meet is gone.
// It reports whether that was the first time.
func (v *view[T]) complete() (first bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.at = time.Now()
	if v.seen != nil {
		for k, e := range v.byKey {
			if _, ok := v.seen[k]; !ok {
				v.drop(k, max(e.Rev, v.applied), v.at)
			}
		}
		v.seen = nil
	}
	first = !v.whole
	v.whole = true
	return first
}

// await waits until seq is in the view.
func (v *view[T]) await(ctx, closed context.Context, seq uint64) error {
	v.mu.Lock()
	if v.applied >= seq {
		v.mu.Unlock()
		return nil
	}
	w := waiter{seq: seq, done: make(chan struct{})}
	v.waiting = append(v.waiting, w)
	v.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
	case <-closed.Done():
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if i := slices.Index(v.waiting, w); i >= 0 {
		v.waiting = slices.Delete(v.waiting, i, i+1)
	}
	if v.applied >= seq {
		return nil
	}
	if closed.Err() != nil {
		return closed.Err()
	}
	return ctx.Err()
}
