package fleet

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func newLog(t testing.TB, max int64) *logFile {
	t.Helper()
	l, err := createLog(filepath.Join(t.TempDir(), "x.log"), max, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

func TestLogRotatesBySizeAndKeepsTheNewest(t *testing.T) {
	l := newLog(t, 1000)
	var all []string
	for i := range 500 {
		line := fmt.Sprintf("line %d", i)
		all = append(all, line)
		l.write([]byte(line + "\n"))
	}
	for _, f := range []string{l.path, l.path + ".1"} {
		st, err := os.Stat(f)
		if err != nil || st.Size() > 1000 || st.Size() == 0 {
			t.Errorf("%s: got %v, %v; want at most 1000 bytes", filepath.Base(f), st, err)
		}
	}
	for _, n := range []int{0, 1, 50, 80, 10_000} {
		got, end := l.tail(n)
		want := all[max(0, len(all)-n):]
		if n == 10_000 {
			want = all[len(all)-len(got):]
			if len(got) < 100 {
				t.Errorf("everything kept: got %d lines, want two files' worth", len(got))
			}
		}
		if !slices.Equal(got, want) || end != logEnd(l) {
			t.Errorf("tail(%d): got %q to %d, want %q to %d", n, got, end, want, logEnd(l))
		}
	}
	// What is opened later reads the same.
	again, err := openLog(l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if got, _ := again.tail(80); !slices.Equal(got, all[420:]) {
		t.Errorf("tail of the opened files: got %q, want %q", got, all[420:])
	}
}

func TestFollowerMissesNothingThroughRotations(t *testing.T) {
	l := newLog(t, 64<<10)
	const lines = 5000
	got := make(chan []string)
	go func() {
		var seen []string
		l.follow(context.Background(), 0, func(s string) error { seen = append(seen, s); return nil })
		got <- seen
	}()
	var want []string
	for i := range lines {
		s := fmt.Sprintf("%d %s", i, strings.Repeat("x", rand.IntN(40)))
		want = append(want, s)
		l.write([]byte(s + "\n"))
		if i%100 == 0 { // no faster than a reader can keep up within two files
			time.Sleep(time.Millisecond)
		}
	}
	l.write([]byte("no newline"))
	l.end()
	if seen := <-got; !slices.Equal(seen, append(want, "no newline")) {
		t.Errorf("got %d lines, want %d, the same", len(seen), lines+1)
	}
}

func TestFollowerIsToldWhatItMissed(t *testing.T) {
	l := newLog(t, 100)
	for i := range 100 {
		l.write(fmt.Appendf(nil, "line %02d\n", i))
	}
	l.end()
	var seen []string
	if err := l.follow(context.Background(), 0, func(s string) error { seen = append(seen, s); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(seen) < 2 || !strings.Contains(seen[0], "rotated away") || seen[len(seen)-1] != "line 99" {
		t.Errorf("got %q, want a remark about what is gone, then the rest", seen)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	l := newLog(t, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.follow(ctx, 0, func(string) error { return nil }) }()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestUnwritableLogNeverStopsTheInstance(t *testing.T) {
	l := newLog(t, 100)
	l.cur.Close() // as a full disk: every write fails
	for range 50 {
		l.write([]byte("line\n"))
	}
	if !l.bad {
		t.Error("the failure went unnoticed")
	}
}

func TestOnlyTheLastExitedLogOfASlotIsKept(t *testing.T) {
	d := logDir(t.TempDir())
	old := time.Now().Add(-time.Hour)
	for i, id := range []string{"a-v000-1-aaaa", "a-v000-1-bbbb", "a-v000-1-cccc", "a-v000-11-dddd", "a-v000-2-eeee"} {
		for _, f := range []string{d.file(id), d.file(id) + ".1"} {
			if err := os.WriteFile(f, []byte(id), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(f, old, old.Add(time.Duration(i)*time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.prune("a-v000", 1, 1); err != nil {
		t.Fatal(err)
	}
	if got := d.of("a-v000", 1); !slices.Equal(got, []string{"a-v000-1-cccc"}) {
		t.Errorf("slot 1: got %v, want the newest only", got)
	}
	left, err := filepath.Glob(filepath.Join(string(d), "*"))
	if err != nil || len(left) != 6 {
		t.Errorf("got %d files, want those of three instances: %v", len(left), left)
	}
}

// FuzzLog compares a log that is written in pieces, and rotates, with the text itself.
func FuzzLog(f *testing.F) {
	f.Add([]byte("one\ntwo\r\n\nfour"), uint8(3), uint16(1000), uint8(2))
	f.Add(bytes.Repeat([]byte("x"), 200), uint8(7), uint16(20), uint8(1))
	f.Add([]byte("\xff\xfe\n\n\n"), uint8(1), uint16(1), uint8(9))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte, piece uint8, limit uint16, n uint8) {
		limit = max(limit, uint16(min(len(text), 60_000)/8)) // each rotation makes a file
		l, err := createLog(filepath.Join(dir, "x.log"), int64(limit), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		for c := range slices.Chunk(text, int(piece)+1) {
			l.write(c)
		}
		l.end()
		first, end, _, _ := l.state()
		if end != int64(len(text)) || first < 0 || first > end {
			t.Fatalf("positions: got %d to %d of %d bytes", first, end, len(text))
		}
		want := splitLines(text[first:])
		var followed []string
		l.follow(t.Context(), first, func(s string) error { followed = append(followed, s); return nil })
		// A follower shows a last empty line's newline as a line; a tail does not show an empty text at all.
		if len(text[first:]) > 0 && !slices.Equal(followed, want) && !(len(want) == 0 && len(followed) == 1 && followed[0] == "") {
			t.Errorf("follow: got %q, want %q", followed, want)
		}
		tail, _ := l.tail(int(n))
		if wantTail := want[max(0, len(want)-int(n)):]; !slices.Equal(tail, wantTail) {
			t.Errorf("tail(%d): got %q, want %q", n, tail, wantTail)
		}
	})
}

func logEnd(l *logFile) int64 { _, end, _, _ := l.state(); return end }

func TestLogThatCannotBeRotatedStopsGrowingAndComplainsOnce(t *testing.T) {
	l := newLog(t, 1000)
	var said bytes.Buffer
	l.log = slog.New(slog.NewTextHandler(&said, nil))
	if err := os.Remove(l.path); err != nil { // so that it cannot be renamed
		t.Fatal(err)
	}
	for range 500 {
		l.write([]byte("a line of some length\n"))
	}
	if l.size > 1000 {
		t.Errorf("the file grew to %d bytes, want at most 1000", l.size)
	}
	if n := strings.Count(said.String(), "cannot write an instance's log"); n != 1 {
		t.Errorf("it was said %d times, want once:\n%.500s", n, said.String())
	}
}
