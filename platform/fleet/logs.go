package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxLogFile = 8 << 20  // bytes; when the current file would outgrow it, it becomes the previous one
	maxLogLine = 64 << 10 // bytes; longer lines are shown in pieces
	maxTail    = 10_000   // lines
)

// logFile is what one instance wrote: a current file and, once that was full, a previous one. Positions count from
// the instance's first byte and never go back, so that a reader outlives a rotation.
type logFile struct {
	path string
	max  int64
	log  *slog.Logger

	mu    sync.Mutex
	cur   *os.File // nil for an instance of an earlier run: opened when read
	prev  *os.File
	base  int64         // position of cur's first byte
	size  int64         // bytes in cur
	first int64         // position of the oldest byte kept
	grew  chan struct{} // closed and replaced at each write
	ended bool          // nothing more will be written
	bad   bool          // writing has failed, and that was said
	users int           // who may still read; the files are closed with the last
}

func createLog(path string, max int64, log *slog.Logger) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &logFile{path: path, max: max, log: log, cur: f, grew: make(chan struct{}), users: 1}, nil
}

// openLog opens what an instance left.
func openLog(path string) (*logFile, error) {
	cur, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := cur.Stat()
	if err != nil {
		cur.Close()
		return nil, err
	}
	l := &logFile{path: path, cur: cur, size: st.Size(), ended: true, grew: make(chan struct{}), users: 1}
	if prev, err := os.Open(path + ".1"); err == nil {
		if st, err := prev.Stat(); err == nil {
			l.prev, l.base = prev, st.Size()
		} else {
			prev.Close()
		}
	}
	return l, nil
}

// copyFrom writes what comes out of r until that ends. A disk that is full loses lines; it never blocks the instance.
func (l *logFile) copyFrom(r io.Reader) {
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			l.write(buf[:n])
		}
		if err != nil {
			return // the end, or the deadline after the instance's
		}
	}
}

func (l *logFile) write(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	if l.size > 0 && l.size+int64(len(b)) > l.max {
		// Rotate between lines if this piece holds an end of one.
		if i := bytes.IndexByte(b, '\n'); i >= 0 && i+1 < len(b) {
			l.append(b[:i+1])
			b = b[i+1:]
		}
		if err := l.rotate(); err != nil {
			l.complain(err)
			return // a file at its limit grows no more; what comes is lost until it can be rotated
		}
	}
	l.append(b)
	close(l.grew)
	l.grew = make(chan struct{})
}

func (l *logFile) append(b []byte) {
	n, err := l.cur.WriteAt(b, l.size)
	l.size += int64(n)
	if err != nil {
		l.complain(err)
	} else if l.bad {
		l.bad = false
		l.log.Info("log is written again", "file", l.path)
	}
}

func (l *logFile) complain(err error) {
	if !l.bad {
		l.bad = true
		l.log.Error("cannot write an instance's log; its lines are lost until this works again", "file", l.path, "err", err)
	}
}

func (l *logFile) rotate() error {
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return err
	}
	next, err := os.OpenFile(l.path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return errors.Join(err, os.Rename(l.path+".1", l.path))
	}
	if l.prev != nil {
		l.prev.Close()
	}
	l.prev = l.cur
	l.first = l.base
	l.base += l.size
	l.cur, l.size = next, 0
	return nil
}

// end says that nothing more will be written. The files stay open for readers until close.
func (l *logFile) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.ended = true
		close(l.grew)
	}
}

// use keeps the files open for one more reader, which must close them.
func (l *logFile) use() *logFile {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users++
	return l
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users--; l.users > 0 {
		return
	}
	l.ended = true
	if l.prev != nil {
		l.prev.Close()
		l.prev = nil
	}
	if l.cur != nil {
		l.cur.Close()
		l.cur = nil
	}
}

// readAt fills b from pos on. It returns where the bytes came from, later than pos if older ones were rotated away.
func (l *logFile) readAt(b []byte, pos int64) (n int, at int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cur == nil {
		return 0, pos, io.EOF
	}
	pos = max(pos, l.first)
	f, off, end := l.cur, pos-l.base, l.size
	if pos < l.base {
		if l.prev == nil {
			pos, off = l.base, 0
		} else {
			f, off, end = l.prev, pos-l.first, l.base-l.first
		}
	}
	if off >= end {
		return 0, pos, io.EOF
	}
	n, err = f.ReadAt(b[:min(int64(len(b)), end-off)], off)
	if n > 0 {
		err = nil
	}
	return n, pos, err
}

// state returns the range of positions kept, whether more may come, and a channel closed when something changes.
func (l *logFile) state() (first, end int64, ended bool, grew <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first, l.base + l.size, l.ended || l.cur == nil, l.grew
}

// tail returns the last n lines and the position after them.
func (l *logFile) tail(n int) ([]string, int64) {
	n = min(n, maxTail)
	first, end, _, _ := l.state()
	if n <= 0 {
		return nil, end
	}
	const step = 64 << 10
	var text []byte
	for pos := end; pos > first && bytes.Count(text, []byte{'\n'}) <= n; {
		from := max(pos-step, first)
		piece := make([]byte, 0, pos-from)
		for at := from; at < pos; {
			b := make([]byte, pos-at)
			got, where, err := l.readAt(b, at)
			if err != nil {
				break
			}
			if where > at { // rotated away meanwhile
				piece = piece[:0]
			}
			piece = append(piece, b[:got]...)
			at = where + int64(got)
		}
		text = append(piece, text...)
		pos = from
	}
	lines := splitLines(text)
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return lines, end
}

// follow gives each line written from pos on to fn until the instance has ended, fn fails or ctx ends.
func (l *logFile) follow(ctx context.Context, pos int64, fn func(string) error) error {
	var rest []byte
	buf := make([]byte, 32<<10)
	for {
		_, _, ended, grew := l.state()
		n, at, err := l.readAt(buf, pos)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read log: %w", err)
		}
		if at > pos && n > 0 {
			rest = rest[:0]
			if err := fn(fmt.Sprintf("[%d bytes were rotated away before they were read]", at-pos)); err != nil {
				return err
			}
		}
		pos = at + int64(n)
		rest = append(rest, buf[:n]...)
		done := 0
		for {
			line := rest[done:]
			i := bytes.IndexByte(line, '\n')
			skip := 1
			if i < 0 || i > maxLogLine {
				if len(line) < maxLogLine {
					break
				}
				i, skip = maxLogLine, 0
			}
			if err := fn(cleanLine(line[:i])); err != nil {
				return err
			}
			done += i + skip
		}
		rest = append(rest[:0], rest[done:]...)
		if n > 0 {
			continue
		}
		if ended {
			if len(rest) > 0 {
				return fn(cleanLine(rest))
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-grew:
		}
	}
}

func splitLines(b []byte) []string {
	b = bytes.TrimSuffix(b, []byte{'\n'})
	if len(b) == 0 {
		return nil
	}
	var out []string
	for line := range bytes.SplitSeq(b, []byte{'\n'}) {
		for len(line) > maxLogLine {
			out = append(out, cleanLine(line[:maxLogLine]))
			line = line[maxLogLine:]
		}
		out = append(out, cleanLine(line))
	}
	return out
}

func cleanLine(b []byte) string {
	return strings.ToValidUTF8(string(bytes.TrimSuffix(b, []byte{'\r'})), "\uFFFD")
}

// logDir holds every instance's log: <instance>.log and <instance>.log.1.
type logDir string

func (d logDir) file(id string) string { return filepath.Join(string(d), id+".log") }

// of lists the instances of a slot of which a log is kept, oldest first.
func (d logDir) of(group string, slot int) []string {
	pattern := filepath.Join(string(d), fmt.Sprintf("%s-%d-????.log", group, slot))
	names, err := filepath.Glob(pattern)
	if err != nil {
		return nil // the pattern is well formed: names hold none of its signs
	}
	type aged struct {
		id string
		at time.Time
	}
	all := make([]aged, 0, len(names))
	for _, n := range names {
		if st, err := os.Stat(n); err == nil {
			all = append(all, aged{strings.TrimSuffix(filepath.Base(n), ".log"), st.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b aged) int { return a.at.Compare(b.at) })
	ids := make([]string, len(all))
	for i, a := range all {
		ids[i] = a.id
	}
	return ids
}

// prune keeps the newest keep logs of a slot.
func (d logDir) prune(group string, slot, keep int) error {
	ids := d.of(group, slot)
	var errs []error
	for _, id := range ids[:max(0, len(ids)-keep)] {
		for _, f := range []string{d.file(id), d.file(id) + ".1"} {
			if err := os.Remove(f); err != nil && !os.IsNotExist(err) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
