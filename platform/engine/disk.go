package engine

import (
	"fmt"
	"sync"
	"time"
)

// diskGuard refuses writes while the disk is nearly full, because a log that runs into a full disk can be damaged.
// It refuses below reserve and takes writes again above 1.2 times that, so that it does not flap.
type diskGuard struct {
	dir   string
	space func(dir string) (free, total uint64, err error)

	mu   sync.Mutex
	next time.Time // when to look again; guarded by mu
	err  error     // what the last look found; guarded by mu
}

func newDiskGuard(dir string) *diskGuard { return &diskGuard{dir: dir, space: diskSpace} }

// reserve is what has to stay free on a disk of total bytes: 5 %, but never less than 512 MB, and no more than 2 GB.
// The upper bound is for the laptop with a large and always nearly full disk: 5 % of 2 TB would refuse to work with
// 100 GB free, which no log of this platform needs.
func reserve(total uint64) uint64 { return max(512<<20, min(total/20, 2<<30)) }

// check returns why writes are refused, looking at the disk at most once a second.
func (g *diskGuard) check() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if now.Before(g.next) {
		return g.err
	}
	g.next = now.Add(time.Second)
	free, total, err := g.space(g.dir)
	if err != nil {
		g.err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		return g.err
	}
	need := reserve(total)
	if g.err != nil {
		need += need / 5
	}
	if free >= need {
		g.err = nil
		return nil
	}
	g.err = fmt.Errorf("%w: the disk of %s has %d MB free and needs %d; free some space there, writes resume by themselves",
		ErrUnavailable, g.dir, free>>20, need>>20)
	return g.err
}
