package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
)

func someSnapshot() snapshot {
	return snapshot{
		applied: 300,
		origin:  time.Unix(1, 2),
		at:      time.Unix(3, 4),
		entries: []rawEntry{
			{key: "a", rev: 299, time: time.Unix(5, 6), value: []byte(`{"x":1}`)},
			{key: "b.c", rev: 1, time: time.Unix(-7, 8), value: []byte(`null`)},
		},
	}
}

func TestSnapshotReadsBackAsWritten(t *testing.T) {
	for _, s := range []snapshot{{origin: time.Unix(0, 0), at: time.Unix(0, 0)}, someSnapshot()} {
		got, err := decodeSnapshot(s.encode())
		if err != nil || fmt.Sprint(got) != fmt.Sprint(s) {
			t.Errorf("got %v, %v, want %v", got, err, s)
		}
	}
}

func TestDamagedSnapshotIsRefused(t *testing.T) {
	whole := someSnapshot().encode()
	for n := range whole {
		if _, err := decodeSnapshot(whole[:n]); !errors.Is(err, errTorn) {
			t.Errorf("the first %d of %d bytes: got %v, want errTorn", n, len(whole), err)
		}
		flipped := append([]byte(nil), whole...)
		flipped[n] ^= 1
		if _, err := decodeSnapshot(flipped); !errors.Is(err, errTorn) {
			t.Errorf("byte %d flipped: got %v, want errTorn", n, err)
		}
	}
}

func TestSnapshotOfAnotherTypeIsRefusedWhole(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.view")
	if err := os.WriteFile(file, someSnapshot().encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	v := newView[[]string](testLog())
	if err := v.load(file); err == nil {
		t.Error("an object was read as a list")
	}
	if len(v.byKey) != 0 || v.applied != 0 {
		t.Errorf("the refused snapshot left %v at %d", v.byKey, v.applied)
	}
}

func FuzzSnapshot(f *testing.F) {
	whole := someSnapshot().encode()
	f.Add(whole[len(snapshotMagic) : len(whole)-8])
	f.Add([]byte{})
	f.Add([]byte{1, 2, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		// The checksum is right, so that the fuzzer gets past it.
		b := append([]byte(snapshotMagic), body...)
		b = binary.BigEndian.AppendUint64(b, xxhash.Sum64(b))
		s, err := decodeSnapshot(b)
		if err != nil {
			return
		}
		again, err := decodeSnapshot(s.encode())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(s) {
			t.Errorf("%x reads as %v and, written again, as %v, %v", b, s, again, err)
		}
	})
}
