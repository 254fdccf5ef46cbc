package fleet

import (
	"log/slog"
	"strings"
	"testing"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestGuardReadsWhatItIsTold(t *testing.T) {
	w := watchList{groups: make(map[int]guarded)}
	for line := range strings.Lines("data \"/a b\"\n+ 10 100 x-v000-0-aaaa\n+ 20 200 y-v000-0-bbbb\n- 10\n+ 0 1 all\n+ -1 1 all\n+ 1 1 init\n+ x\n? 3\n") {
		w.line(strings.TrimSuffix(line, "\n"))
	}
	if len(w.groups) != 1 || w.groups[20] != (guarded{20, 200, "y-v000-0-bbbb"}) || w.data != "/a b" {
		t.Errorf("got %+v, want group 20 of /a b only", w)
	}
}

func FuzzGuardLine(f *testing.F) {
	for _, s := range []string{`data "/x"`, "data x", "+ 10 100 a", "+ -1 1 a", "+ 99999999999999999999 1 a", "- 10", "-", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		w := watchList{groups: map[int]guarded{10: {10, 1, "a"}}}
		w.line(line)
		for pgid := range w.groups {
			if pgid <= 1 {
				t.Errorf("%q: the guard would signal group %d", line, pgid)
			}
		}
	})
}
