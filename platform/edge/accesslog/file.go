package accesslog

import (
	"errors"
	"fmt"
	"os"
)

// rotateAt is how large the file may become, in bytes; then it becomes FILE.1. Where that cannot be, nothing is written beyond
// mostAt.
const (
	rotateAt = 64 << 20
	mostAt   = 2 * rotateAt
)

// file is what lines are written to.
type file struct {
	name string
	f    *os.File // nil: could not be opened again
	size int64
}

func open(name string) (*file, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &file{name: name, f: f, size: st.Size()}, nil
}

// write appends lines, and turns the file over if that makes it too large. It returns how many bytes of them the file has.
func (f *file) write(lines []byte) (int, error) {
	if len(lines) == 0 {
		return 0, nil
	}
	if f.f == nil {
		again, err := open(f.name)
		if err != nil {
			return 0, err
		}
		*f = *again
	}
	if f.size >= mostAt {
		f.close()
		if err := os.Rename(f.name, f.name+".1"); err != nil {
			return 0, fmt.Errorf("%s is full, and cannot be put aside: %w", f.name, err)
		}
		return f.write(lines)
	}
	n, err := f.f.Write(lines)
	f.size += int64(n)
	if err != nil || f.size < rotateAt {
		return n, err
	}
	f.close()
	return n, os.Rename(f.name, f.name+".1")
}

func (f *file) close() {
	if f.f != nil {
		f.f.Close() //nolint:errcheck // what was written is there
		f.f = nil
	}
}
