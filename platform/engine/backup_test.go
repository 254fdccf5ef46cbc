package engine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	if strings.ReplaceAll(got, " UTC", "") == "" || got != want {
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
			continue
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
			t.Fatalf("byte %d flipped: the refused restore left %v, %v", i, names, err)
		}
	}
}
