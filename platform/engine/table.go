package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// markerLife is how long a table without history remembers that a key was deleted.
const markerLife = 24 * time.Hour

// maxHistory is the most revisions of a key that JetStream keeps for a table.
const maxHistory = 64

// Entry is what a table holds under a key. Whoever gets one may keep it, nobody may alter what its Value points to.
type Entry[T any] struct {
	Key   string
	Value T
	Rev   uint64    // of the write that made it; grows over the whole table
	Time  time.Time // of that write, by the engine's clock
}

// Revision is one state of a key's past.
type Revision[T any] struct {
	Entry[T]
	Deleted bool // the key was deleted; Value is zero
}

// Table is a map of keys to values of type T, kept as JSON. Get, List and Watch read a copy in memory. The methods
// may be called from many goroutines. It lives until its engine is closed.
//
// A key is made of letters, digits and "_=/-", in parts separated by single dots, e.g. "task.api-v000.x7f3".
type Table[T any] struct {
	e      *Engine
	name   string
	config jetstream.StreamConfig
	puts   *committer
	view   *view[T]
}

// OpenTable opens the table of that name, which is created if absent, and keeps the last history revisions of each
// key, 1 to 64. A table with history 1 forgets a deleted key after a day, one with more keeps its revisions for ever.
//
// It returns when the table can be read: with an embedded engine that is when all is read. A client's table that has
// a snapshot or no engine to ask is returned at once and catches up in the background.
func OpenTable[T any](ctx context.Context, e *Engine, name string, history int) (*Table[T], error) {
	if !plainName(name) {
		return nil, fmt.Errorf("engine: table name %q: use letters, digits, '_' and '-'", name)
	}
	if history < 1 || history > maxHistory {
		return nil, fmt.Errorf("engine: table %s: history %d: it may be 1 to %d", name, history, maxHistory)
	}
	log := e.log.With("table", name)
	t := &Table[T]{
		e:    e,
		name: name,
		view: newView[T](log),
		// The layout is that of a NATS key-value bucket, so that its tools can look inside.
		config: jetstream.StreamConfig{
			Name:               "KV_" + name,
			Subjects:           []string{"$KV." + name + ".>"},
			MaxMsgsPerSubject:  int64(history),
			Discard:            jetstream.DiscardNew,
			DenyDelete:         true,
			AllowRollup:        true,
			AllowDirect:        true,
			AllowMsgTTL:        true,
			AllowAtomicPublish: true,
			Duplicates:         dedupe,
			Storage:            jetstream.FileStorage,
			Replicas:           1,
		},
	}
	t.puts = e.committer(t.config.Name)
	snap := ""
	if dir := e.viewDir(); dir != "" {
		snap = snapshotFile(dir, name)
		if err := t.view.load(snap); err != nil {
			log.Warn("the table's snapshot is ignored; the table is read from the engine instead", "err", err)
		}
	}
	ready := make(chan struct{})
	tail := tail{
		e:      e,
		config: t.config,
		begin: func(info *jetstream.StreamInfo) (uint64, error) {
			return t.view.resume(info.Created, info.State.LastSeq), nil
		},
		deliver: func(m message) error {
			t.view.apply(strings.TrimPrefix(m.subject, "$KV."+name+"."), m)
			return nil
		},
		caughtUp: func() {
			if t.view.complete() {
				close(ready)
			}
		},
	}
	running := e.Go(func(ctx context.Context) {
		tail.run(ctx) //nolint:errcheck // begin and deliver never fail, so only the end of ctx ends it
	})
	if running && snap != "" {
		running = e.Go(func(ctx context.Context) { t.view.keep(ctx, snap) })
	}
	if !running {
		return nil, fmt.Errorf("engine: open table %s: %w: the engine is closed", name, ErrUnavailable)
	}
	if err := t.awaitReady(ctx, ready); err != nil {
		return nil, fmt.Errorf("engine: open table %s: %w", name, err)
	}
	return t, nil
}

// awaitReady waits until the table was read, but a client's not for long.
func (t *Table[T]) awaitReady(ctx context.Context, ready <-chan struct{}) error {
	var limit <-chan time.Time
	if t.e.server == nil {
		if !t.e.link.up() {
			return nil
		}
		limit = time.After(time.Second)
	}
	select {
	case <-ready:
		return nil
	case <-limit:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.e.ctx.Done():
		return fmt.Errorf("%w: the engine is closed", ErrUnavailable)
	}
}

// Get returns the entry of key from memory. It never waits.
func (t *Table[T]) Get(key string) (Entry[T], bool) { return t.view.get(key) }

// List returns the entries whose keys start with prefix, sorted by key, from memory. It never waits.
func (t *Table[T]) List(prefix string) []Entry[T] { return t.view.list(prefix) }

// Known returns when the copy in memory last held all that the engine had, in this process or in the one before it that
// left a snapshot; the zero time if it never did, so that what is not there may yet come.
func (t *Table[T]) Known() time.Time {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	return t.view.at
}

// Rev returns the revision up to which the copy in memory holds what was written.
func (t *Table[T]) Rev() uint64 {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	return t.view.applied
}

// Put stores v under key, whatever is there, and returns its revision.
func (t *Table[T]) Put(ctx context.Context, key string, v T) (uint64, error) {
	rev, err := t.write(ctx, key, v, anything)
	return rev, t.wrap("put", key, err)
}

// Create stores v under key, which must not exist, and returns its revision. It fails with [ErrExists].
func (t *Table[T]) Create(ctx context.Context, key string, v T) (uint64, error) {
	rev, err := t.create(ctx, key, v)
	return rev, t.wrap("create", key, err)
}

func (t *Table[T]) create(ctx context.Context, key string, v T) (uint64, error) {
	ctx, cancel := t.e.bounded(ctx)
	defer cancel()
	last := uint64(0)
	for {
		rev, err := t.write(ctx, key, v, int64(last))
		if !errors.Is(err, ErrConflict) {
			return rev, err
		}
		// Something is there: an entry, or the mark of a deleted one, over which the new one may be written.
		seq, deleted, err := t.newest(ctx, key)
		switch {
		case err != nil:
			return 0, err
		case seq != 0 && !deleted:
			return 0, fmt.Errorf("%w, at revision %d", ErrExists, seq)
		}
		last = seq
	}
}

// Update stores v under key if its revision still is rev, and returns the new one. It fails with [ErrConflict] if the
// entry changed or is gone; read it again then. Revision 0 means that the key must not exist, as in Create. A deletion
// is a revision too: an update from it creates the entry anew.
func (t *Table[T]) Update(ctx context.Context, key string, v T, rev uint64) (uint64, error) {
	var next uint64
	var err error
	if rev == 0 {
		next, err = t.create(ctx, key, v)
	} else if err = t.outdated(key, rev); err == nil {
		next, err = t.write(ctx, key, v, int64(rev))
	}
	return next, t.wrap("update", key, err)
}

// outdated refuses what cannot succeed any more without asking the engine: revisions only grow.
func (t *Table[T]) outdated(key string, rev uint64) error {
	if now, ok := t.view.get(key); ok && now.Rev > rev {
		return fmt.Errorf("%w: it is at revision %d, not %d", ErrConflict, now.Rev, rev)
	}
	return nil
}

// Delete removes key if its revision still is rev, or whatever its revision is when rev is 0. It fails with
// [ErrConflict] or, when there is nothing to remove, [ErrNotFound].
func (t *Table[T]) Delete(ctx context.Context, key string, rev uint64) error {
	return t.wrap("delete", key, t.delete(ctx, key, rev))
}

func (t *Table[T]) delete(ctx context.Context, key string, rev uint64) error {
	if err := validKey(key); err != nil {
		return err
	}
	ctx, cancel := t.e.bounded(ctx)
	defer cancel()
	if _, ok := t.Get(key); !ok {
		seq, deleted, err := t.newest(ctx, key)
		if err != nil {
			return err
		}
		if seq == 0 || deleted {
			return ErrNotFound
		}
	}
	expect := int64(anything)
	if rev != 0 {
		expect = int64(rev)
		if err := t.outdated(key, rev); err != nil {
			return err
		}
	}
	w := write{subject: t.subject(key), expect: expect, marker: true}
	if t.config.MaxMsgsPerSubject == 1 {
		w.ttl = markerLife.String()
	}
	return t.commit(ctx, &w, nil)
}

func (t *Table[T]) write(ctx context.Context, key string, v T, expect int64) (uint64, error) {
	if err := validKey(key); err != nil {
		return 0, err
	}
	data, err := json.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("encode the value: %w", err)
	}
	var rev uint64
	err = t.commit(ctx, &write{subject: t.subject(key), data: data, expect: expect}, &rev)
	return rev, err
}

// commit writes w, waits until the view shows it and sets rev.
func (t *Table[T]) commit(ctx context.Context, w *write, rev *uint64) error {
	seq, err := t.puts.put(ctx, w)
	if errors.Is(err, ErrConflict) && w.expect > 0 {
		return fmt.Errorf("%w: it is no longer at revision %d", ErrConflict, w.expect)
	}
	if err != nil {
		return err
	}
	if rev != nil {
		*rev = seq
	}
	ctx, cancel := t.e.bounded(ctx)
	defer cancel()
	if err := t.view.await(ctx, t.e.ctx, seq); err != nil {
		return fmt.Errorf("%w: it was written as revision %d, but cannot be read yet: %w", ErrUnavailable, seq, err)
	}
	return nil
}

// newest asks the engine for the last revision of key; 0 if there is none.
func (t *Table[T]) newest(ctx context.Context, key string) (seq uint64, deleted bool, err error) {
	s, err := t.e.js.Stream(ctx, t.config.Name)
	if err == nil {
		var m *jetstream.RawStreamMsg
		if m, err = s.GetLastMsgForSubject(ctx, t.subject(key)); err == nil {
			return m.Sequence, deletes(m.Header), nil
		}
	}
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, false, nil
	}
	return 0, false, t.e.asked(err)
}

// asked turns an error of a question to the engine into one of ours.
func (e *Engine) asked(err error) error {
	switch {
	case err == nil:
		return nil
	case e.ctx.Err() != nil:
		return fmt.Errorf("%w: the engine is closed", ErrUnavailable)
	case errors.Is(err, context.Canceled):
		return err
	case !e.link.up():
		return e.away()
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// History returns the revisions of key that are kept, oldest first. It asks the engine, and fails with [ErrNotFound]
// if there are none.
func (t *Table[T]) History(ctx context.Context, key string) ([]Revision[T], error) {
	revs, err := t.history(ctx, key)
	return revs, t.wrap("history", key, err)
}

func (t *Table[T]) history(ctx context.Context, key string) ([]Revision[T], error) {
	if err := validKey(key); err != nil {
		return nil, err
	}
	ctx, cancel := t.e.bounded(ctx)
	defer cancel()
	msgs, err := t.e.read(ctx, t.config.Name, t.subject(key), 1, maxHistory)
	if err != nil {
		return nil, err
	}
	if len(msgs) == 0 {
		return nil, ErrNotFound
	}
	revs := make([]Revision[T], len(msgs))
	for i, m := range msgs {
		revs[i] = Revision[T]{Entry: Entry[T]{Key: key, Rev: m.seq, Time: m.time}, Deleted: m.deleted}
		if m.deleted {
			continue
		}
		if err := json.Unmarshal(m.data, &revs[i].Value); err != nil {
			return nil, fmt.Errorf("revision %d cannot be read: %w", m.seq, err)
		}
	}
	return revs, nil
}

// Past calls fn with every revision that is kept, of all keys, in the order in which they were written, until fn fails, and
// returns that error. It asks the engine, and takes as long as reading it all does.
func (t *Table[T]) Past(ctx context.Context, fn func(Revision[T]) error) error {
	from := uint64(1)
	for {
		part, cancel := t.e.bounded(ctx)
		msgs, more, err := t.e.readSome(part, t.config.Name, t.subject(">"), from, readMost)
		cancel()
		if err != nil {
			return fmt.Errorf("engine: past of table %s: %w", t.name, t.e.asked(err))
		}
		for _, m := range msgs {
			r := Revision[T]{Entry: Entry[T]{Key: strings.TrimPrefix(m.subject, t.subject("")), Rev: m.seq, Time: m.time}, Deleted: m.deleted}
			if !m.deleted {
				if err := json.Unmarshal(m.data, &r.Value); err != nil {
					return fmt.Errorf("engine: past of table %s: revision %d of %q cannot be read: %w", t.name, m.seq, r.Key, err)
				}
			}
			if err := fn(r); err != nil {
				return err
			}
			from = m.seq + 1
		}
		if !more || len(msgs) == 0 {
			return nil
		}
	}
}

func (t *Table[T]) subject(key string) string { return "$KV." + t.name + "." + key }

func (t *Table[T]) wrap(what, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("engine: %s %q in table %s: %w", what, key, t.name, err)
}

// validKey refuses keys that are not subjects.
func validKey(key string) error {
	const most = 512
	if key == "" || len(key) > most {
		return fmt.Errorf("the key has %d bytes; it may have 1 to %d", len(key), most)
	}
	if key[0] == '.' || key[len(key)-1] == '.' || strings.Contains(key, "..") {
		return errors.New("the key has an empty part; dots separate parts")
	}
	for i := range len(key) {
		if c := key[i]; !alnum(c) && !strings.ContainsRune("_=./-", rune(c)) {
			return fmt.Errorf("the key has %q; use letters, digits and '_=./-'", c)
		}
	}
	return nil
}

func plainName(s string) bool {
	for i := range len(s) {
		if !alnum(s[i]) && s[i] != '_' && s[i] != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func alnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
