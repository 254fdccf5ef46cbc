package fleet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lockDir makes sure that only one process runs instances from dir. The kernel lets go of the lock when the process
// dies, in whatever way.
func lockDir(dir string) (unlock func(), err error) {
	name := filepath.Join(dir, "fleet.lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		by := "another process"
		if b, rerr := os.ReadFile(name); rerr == nil && len(b) > 0 {
			by = "process " + strings.TrimSpace(string(b))
		}
		return nil, fmt.Errorf("%s runs instances from %s already; stop it or use another --data", by, dir)
	}
	if err := errors.Join(f.Truncate(0), writePid(f)); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

func writePid(f *os.File) error {
	_, err := fmt.Fprintf(f, "%d\n", os.Getpid())
	return err
}
