// Package hammer tries parsers with millions of inputs that are nearly right, in tests alone. It knows nothing of which
// lines of code an input reaches, as go test -fuzz does, and is up to a hundred times as fast for that.
//
//	go test ./platform/edge/http1 -run Hammer -v -args -hammer 10m
//
// # What it promises
//   - A run is the same each time for the same seed, as long as code and seeds are.
//   - Who fails is shown with the input and the seed.
package hammer

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"testing"
	"time"
)

var (
	long = flag.Duration("hammer", 0, "how long each parser is tried with mutated inputs; a moment if 0")
	seed = flag.Uint64("hammerseed", 1, "where the mutations begin")
)

const (
	moment  = 4_000 // inputs of the short form
	kept    = 512   // accepted inputs that are mutated on
	longest = 4096  // bytes of an input
)

// Run calls try with mutations of seeds, and of those that try says were accepted. Words are pieces that matter to the
// parser. It returns how many inputs there were.
func Run(t *testing.T, seeds [][]byte, words []string, try func(t *testing.T, in []byte) (accepted bool)) int {
	t.Helper()
	r := rand.New(rand.NewPCG(*seed, 0))
	began, n, good := time.Now(), 0, 0
	var in, buf []byte
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		if t.Failed() {
			t.Logf("input %d with -hammerseed %d: %q", n, *seed, in)
		} else if *long > 0 {
			t.Logf("%d inputs in %v, of which %d were accepted; seed %d", n, time.Since(began).Round(time.Millisecond), good, *seed)
		}
	}()
	var walk [][]byte
	pick := func() []byte {
		if len(walk) > 0 && r.IntN(2) == 0 {
			return walk[r.IntN(len(walk))]
		}
		return seeds[r.IntN(len(seeds))]
	}
	for ; *long == 0 && n < moment || *long > 0 && (n%1024 != 0 || time.Since(began) < *long); n++ {
		in = append(buf[:0], pick()...)
		for range 1 + r.IntN(4) {
			in = mutate(r, in, pick, words)
		}
		buf, in = in, in[:min(len(in), longest)]
		if try(t, in) {
			good++
			if len(walk) < kept {
				walk = append(walk, bytes.Clone(in))
			} else if r.IntN(64) == 0 {
				walk[r.IntN(kept)] = bytes.Clone(in)
			}
		}
	}
	return n
}

// mutate changes in, which it may write to, in one of many ways.
func mutate(r *rand.Rand, in []byte, other func() []byte, words []string) []byte {
	if len(in) == 0 {
		return append(in, other()...)
	}
	at := r.IntN(len(in))
	to := at + 1 + r.IntN(min(len(in)-at, 32))
	switch r.IntN(12) {
	case 0:
		in[at] ^= 1 << r.IntN(8)
	case 1:
		in[at] = byte(r.Uint32())
	case 2:
		in[at] = telling[r.IntN(len(telling))]
	case 3:
		return insert(in, at, []byte{telling[r.IntN(len(telling))]})
	case 4:
		return append(in[:at], in[to:]...)
	case 5: // twice
		return insert(in, at, bytes.Clone(in[at:to]))
	case 6:
		if len(words) > 0 {
			return insert(in, at, []byte(words[r.IntN(len(words))]))
		}
	case 7:
		if len(words) > 0 {
			return append(append(in[:at:at], words[r.IntN(len(words))]...), in[to:]...)
		}
	case 8: // the rest of another
		o := other()
		if len(o) > 0 {
			return append(in[:at], o[r.IntN(len(o)):]...)
		}
	case 9: // a line of another
		o := other()
		lines := bytes.SplitAfter(o, []byte("\n"))
		start := bytes.LastIndexByte(in[:at], '\n') + 1
		return insert(in, start, lines[r.IntN(len(lines))])
	case 10: // another number
		for i := at; i < len(in); i++ {
			if in[i] < '0' || in[i] > '9' {
				continue
			}
			end := i
			for end < len(in) && in[end] >= '0' && in[end] <= '9' {
				end++
			}
			v := r.Uint64() >> r.IntN(64)
			return append(append(in[:i:i], strconv.FormatUint(v, 10)...), in[end:]...)
		}
	case 11: // a line less, or cut short
		if end := bytes.IndexByte(in[at:], '\n'); end >= 0 && r.IntN(4) > 0 {
			start := bytes.LastIndexByte(in[:at], '\n') + 1
			return append(in[:start], in[at+end+1:]...)
		}
		return in[:at]
	}
	return in
}

// telling are bytes that parsers heed.
const telling = "\r\n\t \x00\x01\v\f\x7f\x80\xff:;,=\"'\\/?#%&@[]{}<>()+-_.*~^|`!$09aAfFgGzZxX"

func insert(in []byte, at int, what []byte) []byte {
	in = append(in, what...)
	copy(in[at+len(what):], in[at:len(in)-len(what)])
	copy(in[at:], what)
	return in
}
