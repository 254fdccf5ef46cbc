package engine

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func TestRestoredBackupHoldsExactlyWhatWasBackedUp(t *testing.T) {
	ctx := t.Context()
	e := openTest(t, Config{})
	table := openTable[int](t, e, "numbers", 3)
	stream := openStream(t, e, "S")
	for i := range 40 {
		if _, err := table.Put(ctx, fmt.Sprintf("k%d", i%15), i); err != nil {
			t.Fatalf("Put: %v", err)
		}
		if _, err := stream.Append(ctx, fmt.Appendf(nil, "record %d", i)); err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
	if err := table.Delete(ctx, "k3", 0); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	var file bytes.Buffer
	m, err := e.Backup(ctx, &file)
	if err != nil {
		t.Fatalf("Backup: %v", err)
	}
	if len(m.Streams) != 2 {
		t.Errorf("the manifest has %d streams, want 2: %+v", len(m.Streams), m)
	}
	if left, err := filepath.Glob(filepath.Join(e.cfg.Dir, "backup-*")); err != nil || len(left) != 0 {
		t.Errorf("Backup left %v behind, %v", left, err)
	}

	dir := filepath.Join(t.TempDir(), "new")
	if _, err := Restore(ctx, dir, bytes.NewReader(file.Bytes())); err != nil {
		t.Fatalf("Restore: %v", err)
	}
	r := openTest(t, Config{Dir: dir})
	again := openTable[int](t, r, "numbers", 3)
	got, want := fmt.Sprint(again.List("")), fmt.Sprint(table.List(""))
	if got != want {
		t.Errorf("restored table: got %s, want %s", got, want)
	}
	a, err := stream.Read(ctx, 1, 100)
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	b, err := openStream(t, r, "S").Read(ctx, 1, 100)
	if err != nil || fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("restored stream: got %v, %v, want %v", b, err, a)
	}
	if rev, err := again.Put(ctx, "k3", 1); err != nil || rev != 42 {
		t.Errorf("first write after the restore: got revision %d, %v, want 42", rev, err)
	}
}

func TestRestoreRefusesADirectoryThatIsNotEmpty(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Restore(t.Context(), dir, bytes.NewReader(nil))
	if err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("Restore: got %v, want a refusal", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "x")); err != nil || string(b) != "mine" {
		t.Errorf("the file that was there: got %q, %v", b, err)
	}
}

func TestRestoreRefusesADamagedBackupAndLeavesNothing(t *testing.T) {
	ctx := t.Context()
	e := openTest(t, Config{})
	table := openTable[int](t, e, "numbers", 1)
	if _, err := table.Put(ctx, "a", 1); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if _, err := e.Backup(ctx, &file); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for i := 0; i < file.Len() && time.Since(start) < time.Second; i += 37 {
		b := bytes.Clone(file.Bytes())
		b[i] ^= 0x10
		dir := filepath.Join(t.TempDir(), "new")
		if _, err := Restore(ctx, dir, bytes.NewReader(b)); err == nil {
			// A bit that nobody reads, as in zstd's frame header, may flip: then all must be there.
			r := openTest(t, Config{Dir: dir})
			if got, ok := openTable[int](t, r, "numbers", 1).Get("a"); !ok || got.Value != 1 {
				t.Errorf("byte %d flipped: Restore returned no error and the table holds %+v, %v", i, got, ok)
			}
			continue
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
			t.Fatalf("byte %d flipped: the refused restore left %v, %v", i, names, err)
		}
	}
}

// Fuzz with -fuzzminimizetime 1x: a server's coverage varies from run to run, so that minimizing would never end.
func FuzzRestore(f *testing.F) {
	e := openTest(f, Config{})
	table := openTable[int](f, e, "t", 2)
	for i := range 5 {
		if _, err := table.Put(f.Context(), fmt.Sprintf("k%d", i%2), i); err != nil {
			f.Fatal(err)
		}
	}
	var file bytes.Buffer
	m, err := e.Backup(f.Context(), &file)
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	if _, err := readBackup(bytes.NewReader(file.Bytes()), dir); err != nil {
		f.Fatal(err)
	}
	snap, err := os.ReadFile(filepath.Join(dir, "KV_t.snap"))
	if err != nil {
		f.Fatal(err)
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(manifest, snap)
	f.Add(bytes.ReplaceAll(manifest, []byte("KV_t"), []byte("../../x")), snap)
	f.Add(bytes.ReplaceAll(manifest, []byte(`"messages":4`), []byte(`"messages":5`)), snap)
	f.Add([]byte(`{"version":1}`), []byte{})
	f.Add([]byte(`{"version":1,"streams":[{"name":"a","config":3,"state":null}]}`), []byte("x"))
	f.Fuzz(func(t *testing.T, manifest, snap []byte) {
		// The archive around them is right, and so are the checksums where the manifest can be read.
		var m Manifest
		name := "KV_t"
		if json.Unmarshal(manifest, &m) == nil && len(m.Streams) > 0 {
			sum := sha256.Sum256(snap)
			name, m.Streams[0].Bytes, m.Streams[0].SHA256 = m.Streams[0].Name, int64(len(snap)), hex.EncodeToString(sum[:])
			if b, err := json.Marshal(m); err == nil {
				manifest = b
			}
		}
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(z)
		for _, file := range []struct {
			name string
			data []byte
		}{{manifestName, manifest}, {"streams/" + name + ".snap", snap}} {
			if err := w.WriteHeader(&tar.Header{Name: file.name, Size: int64(len(file.data)), Mode: 0o600}); err != nil {
				return // a name that tar cannot have
			}
			if _, err := w.Write(file.data); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Close(), z.Close()); err != nil {
			t.Fatal(err)
		}
		parent := t.TempDir()
		dir := filepath.Join(parent, "new")
		got, err := Restore(t.Context(), dir, &b)
		if beside, lerr := os.ReadDir(parent); lerr != nil || len(beside) > 1 {
			t.Fatalf("Restore wrote beside its directory: %v, %v", beside, lerr)
		}
		if err == nil {
			if len(got.Streams) != len(m.Streams) {
				t.Errorf("restored %+v of %s", got, manifest)
			}
			return
		}
		if left, lerr := os.ReadDir(dir); lerr != nil || len(left) != 0 {
			t.Errorf("the refused restore left %v, %v", left, lerr)
		}
	})
}
