package hammer

import (
	"bytes"
	"testing"
)

// A run is the same each time for the same seed.
func TestRunsWithOneSeedAreTheSame(t *testing.T) {
	run := func() (all []byte) {
		n := Run(t, [][]byte{[]byte("one line\r\nand 2\r\n"), {}}, []string{"word"}, func(t *testing.T, in []byte) bool {
			if len(all) < 1<<20 {
				all = append(append(all, in...), 0)
			}
			return len(in)%3 == 0
		})
		if *long == 0 && n != moment {
			t.Errorf("%d inputs, want %d", n, moment)
		}
		return all
	}
	if a, b := run(), run(); !bytes.Equal(a, b) {
		t.Errorf("two runs with one seed differ")
	}
}

// Every way to change an input stays within it, and all inputs are short enough.
func TestInputsDifferAndAreShort(t *testing.T) {
	seen := map[string]bool{}
	n := 0
	Run(t, [][]byte{bytes.Repeat([]byte("abc 123\n"), 500)}, []string{"word"}, func(t *testing.T, in []byte) bool {
		if len(in) > longest {
			t.Fatalf("an input has %d bytes, want %d at most", len(in), longest)
		}
		if n++; n <= 1000 {
			seen[string(in)] = true
		}
		return true
	})
	if len(seen) < 900 {
		t.Errorf("of 1,000 inputs %d differ, want nearly all", len(seen))
	}
}
