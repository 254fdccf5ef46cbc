package engine

import (
	"context"
	"strings"
	"sync"
)

// EventKind says what an [Event] tells.
type EventKind uint8

// The kinds of events, in the order a watch sends them: a Snapshot per entry that exists when the watch starts, one
// Synced, then Put and Deleted as they happen.
const (
	Snapshot EventKind = iota + 1
	Synced
	Put
	Deleted
)

// String returns "snapshot", "synced", "put" or "deleted".
func (k EventKind) String() string {
	switch k {
	case Snapshot:
		return "snapshot"
	case Synced:
		return "synced"
	case Put:
		return "put"
	case Deleted:
		return "deleted"
	}
	return "unknown"
}

// Event tells what became of an entry. That of a Deleted holds the last value and the revision of the deletion; that
// of a Synced is empty.
type Event[T any] struct {
	Kind  EventKind
	Entry Entry[T]
}

// watch is one watcher: what it has not been sent yet, the newest event per key.
type watch[T any] struct {
	prefix string

	mu      sync.Mutex
	pending map[string]Event[T] // guarded by mu
	order   []string            // keys of pending, oldest first; guarded by mu
	wake    chan struct{}       // holds a token when pending may not be empty
}

func (w *watch[T]) add(ev Event[T]) {
	if !strings.HasPrefix(ev.Entry.Key, w.prefix) {
		return
	}
	w.mu.Lock()
	if _, ok := w.pending[ev.Entry.Key]; !ok {
		w.order = append(w.order, ev.Entry.Key)
	}
	w.pending[ev.Entry.Key] = ev
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take returns the oldest pending event.
func (w *watch[T]) take() (Event[T], bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.order) == 0 {
		w.order = nil
		return Event[T]{}, false
	}
	key := w.order[0]
	w.order = w.order[1:]
	ev := w.pending[key]
	delete(w.pending, key)
	return ev, true
}

// Watch sends what is under prefix now, one event of kind [Snapshot] per entry in the order of keys, then one of kind
// [Synced], then [Put] and [Deleted] as they happen. A reader that is slower than the writers gets the newest event
// of each key only. The channel is closed when ctx or the engine ends; the reader has to read until then, or end ctx.
func (t *Table[T]) Watch(ctx context.Context, prefix string) <-chan Event[T] {
	w := &watch[T]{prefix: prefix, pending: make(map[string]Event[T]), wake: make(chan struct{}, 1)}
	out := make(chan Event[T])
	v := t.view
	v.mu.Lock()
	v.sort()
	now := v.listLocked(prefix)
	v.watches[w] = struct{}{}
	v.mu.Unlock()
	running := t.e.Go(func(closed context.Context) {
		defer close(out)
		defer func() {
			v.mu.Lock()
			delete(v.watches, w)
			v.mu.Unlock()
		}()
		w.send(ctx, closed, now, out)
	})
	if !running {
		close(out)
	}
	return out
}

func (w *watch[T]) send(ctx, closed context.Context, now []Entry[T], out chan<- Event[T]) {
	put := func(ev Event[T]) bool {
		select {
		case out <- ev:
			return true
		case <-ctx.Done():
		case <-closed.Done():
		}
		return false
	}
	for _, e := range now {
		if !put(Event[T]{Kind: Snapshot, Entry: e}) {
			return
		}
	}
	now = nil
	if !put(Event[T]{Kind: Synced}) {
		return
	}
	for {
		for {
			ev, ok := w.take()
			if !ok {
				break
			}
			if !put(ev) {
				return
			}
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		case <-closed.Done():
			return
		}
	}
}
