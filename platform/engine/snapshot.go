package engine

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cespare/xxhash/v2"
)

// A snapshot file is a view as a client left it:
//
//	magic    "rbview1\n"
//	uvarint  sequence up to which the stream is in the view
//	varint   when the stream was created, nanoseconds since 1970
//	varint   when the view was whole, nanoseconds since 1970
//	uvarint  number of entries, and for each
//	         uvarint length of key, key, uvarint revision, varint time in nanoseconds, uvarint length of value, JSON
//	8 bytes  XXH64 of all before, big-endian
const snapshotMagic = "rbview1\n"

// snapshotEvery is how often a changed view is written.
const snapshotEvery = 10 * time.Second

func snapshotFile(dir, table string) string { return filepath.Join(dir, table+".view") }

// snapshot is the content of a snapshot file.
type snapshot struct {
	applied uint64
	origin  time.Time
	at      time.Time
	entries []rawEntry
}

type rawEntry struct {
	key   string
	rev   uint64
	time  time.Time
	value []byte
}

func (s snapshot) encode() []byte {
	b := []byte(snapshotMagic)
	b = binary.AppendUvarint(b, s.applied)
	b = binary.AppendVarint(b, s.origin.UnixNano())
	b = binary.AppendVarint(b, s.at.UnixNano())
	b = binary.AppendUvarint(b, uint64(len(s.entries)))
	for _, e := range s.entries {
		b = binary.AppendUvarint(b, uint64(len(e.key)))
		b = append(b, e.key...)
		b = binary.AppendUvarint(b, e.rev)
		b = binary.AppendVarint(b, e.time.UnixNano())
		b = binary.AppendUvarint(b, uint64(len(e.value)))
		b = append(b, e.value...)
	}
	return binary.BigEndian.AppendUint64(b, xxhash.Sum64(b))
}

var errTorn = errors.New("the snapshot is damaged")

func decodeSnapshot(b []byte) (snapshot, error) {
	if len(b) < len(snapshotMagic)+8 || string(b[:len(snapshotMagic)]) != snapshotMagic {
		return snapshot{}, fmt.Errorf("%w: it does not start as one", errTorn)
	}
	body := b[:len(b)-8]
	if got, want := xxhash.Sum64(body), binary.BigEndian.Uint64(b[len(body):]); got != want {
		return snapshot{}, fmt.Errorf("%w: its checksum is %016x, not %016x", errTorn, got, want)
	}
	r := reader{b: body[len(snapshotMagic):]}
	s := snapshot{applied: r.uint(), origin: r.time(), at: r.time()}
	n := r.uint()
	for range n {
		e := rawEntry{key: string(r.bytes()), rev: r.uint(), time: r.time(), value: r.bytes()}
		if r.bad {
			break
		}
		s.entries = append(s.entries, e)
	}
	if r.bad || len(r.b) != 0 {
		return snapshot{}, fmt.Errorf("%w: it ends early or late", errTorn)
	}
	return s, nil
}

// reader takes values off b until it is bad.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	return v * r.took(n)
}

func (r *reader) time() time.Time {
	v, n := binary.Varint(r.b)
	return time.Unix(0, v*int64(r.took(n)))
}

func (r *reader) took(n int) uint64 {
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return 1
}

func (r *reader) bytes() []byte {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

// load fills the view from a snapshot file; an absent one leaves it empty.
func (v *view[T]) load(file string) error {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := decodeSnapshot(b)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	byKey := make(map[string]Entry[T], len(s.entries))
	for _, e := range s.entries {
		entry := Entry[T]{Key: e.key, Rev: e.rev, Time: e.time}
		if err := json.Unmarshal(e.value, &entry.Value); err != nil {
			return fmt.Errorf("%s: entry %q: %w", file, e.key, err)
		}
		byKey[e.key] = entry
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.byKey, v.dirty = byKey, true
	v.applied, v.origin, v.at = s.applied, s.origin, s.at
	return nil
}

// keep writes the view to file while it changes, and a last time when ctx ends.
func (v *view[T]) keep(ctx context.Context, file string) {
	written := uint64(0)
	for again := true; again; {
		again = sleep(ctx, snapshotEvery)
		v.mu.RLock()
		fit := v.whole && v.seen == nil && v.applied != written
		v.mu.RUnlock()
		if !fit {
			continue
		}
		seq, err := v.save(file)
		if err != nil {
			v.log.Warn("the table's snapshot was not written; after a restart reads wait for the engine", "err", err)
			continue
		}
		written = seq
	}
}

// save writes the view to file and returns up to which sequence it is.
func (v *view[T]) save(file string) (uint64, error) {
	v.mu.RLock()
	s := snapshot{applied: v.applied, origin: v.origin, at: v.at, entries: make([]rawEntry, 0, len(v.byKey))}
	entries := make([]Entry[T], 0, len(v.byKey))
	for _, e := range v.byKey {
		entries = append(entries, e)
	}
	v.mu.RUnlock()
	for _, e := range entries {
		value, err := json.Marshal(e.Value)
		if err != nil {
			return 0, fmt.Errorf("entry %q: %w", e.Key, err)
		}
		s.entries = append(s.entries, rawEntry{key: e.Key, rev: e.Rev, time: e.Time, value: value})
	}
	return s.applied, writeFile(file, s.encode())
}

// writeFile replaces file with b so that a reader, now or after a crash, finds the old content or the new.
func writeFile(file string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
