package edge

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/roadbed/roadbed/meter"
)

// entry is one line of the access log.
type entry struct {
	Time   time.Time `json:"ts"`
	ID     string    `json:"id"`
	Client string    `json:"client"`
	Method string    `json:"method"`
	Host   string    `json:"host"`
	Path   string    `json:"path"` // without the query, which may hold secrets
	Status int       `json:"status"`
	Bytes  int64     `json:"bytes"`
	Millis float64   `json:"ms"`
	Route  string    `json:"route"`
	Origin string    `json:"origin"`
	Agent  string    `json:"agent,omitempty"`
}

const (
	accessBacklog   = 4096     // entries; more are dropped and counted, for no request may wait for a disk
	accessRotate    = 64 << 20 // bytes; the file before is kept as FILE.1
	accessFlush     = time.Second
	accessPathLimit = 512 // bytes of a path or agent that a line keeps
)

// accessLog writes entries in the background.
type accessLog struct {
	file    string
	entries chan entry
	dropped *meter.Counter
	log     *slog.Logger
}

func newAccessLog(file string, m *meter.Registry, log *slog.Logger) *accessLog {
	return &accessLog{file: file, entries: make(chan entry, accessBacklog), dropped: m.Counter("edge.accesslog.dropped"), log: log}
}

// add hands an entry over, or drops it when the disk does not keep up.
func (a *accessLog) add(e entry) {
	if a.file == "" {
		return
	}
	e.Path, e.Agent = clip(e.Path), clip(e.Agent)
	select {
	case a.entries <- e:
	default:
		a.dropped.Inc()
	}
}

func clip(s string) string { return s[:min(len(s), accessPathLimit)] }

// run writes until ctx ends, then what is left. A disk that fails is reported once a minute; requests do not notice.
func (a *accessLog) run(ctx context.Context) error {
	if a.file == "" {
		<-ctx.Done()
		return nil
	}
	f, err := openLog(a.file)
	if err != nil {
		return err // at the start somebody is there to put it right
	}
	defer func() { f.close() }()
	tick := time.NewTicker(accessFlush)
	defer tick.Stop()
	var complained time.Time
	for {
		var err error
		select {
		case e := <-a.entries:
			err = f.write(e)
		case <-tick.C:
			err = f.flush()
		case <-ctx.Done():
			for {
				select {
				case e := <-a.entries:
					err = errors.Join(err, f.write(e))
				default:
					return errors.Join(err, f.flush())
				}
			}
		}
		if err != nil && time.Since(complained) > time.Minute {
			complained = time.Now()
			a.log.Warn("the access log cannot be written, requests go on", "err", err)
		}
		if f.size > accessRotate {
			f.close()
			if err := os.Rename(a.file, a.file+".1"); err != nil {
				a.log.Warn("the access log cannot be rotated", "err", err)
			}
			next, err := openLog(a.file)
			if err != nil {
				a.log.Warn("the access log cannot be opened again, its lines are lost until it can", "err", err)
				next = &logFile{w: bufio.NewWriter(io.Discard), size: accessRotate - 1<<20} // tried again a megabyte later
			}
			f = next
		}
	}
}

// logFile is the file that is written to.
type logFile struct {
	f    *os.File
	w    *bufio.Writer
	size int64
}

func openLog(name string) (*logFile, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the access log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the access log: %w", err), f.Close())
	}
	return &logFile{f: f, w: bufio.NewWriterSize(f, 64<<10), size: st.Size()}, nil
}

func (l *logFile) write(e entry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	l.size += int64(len(b)) + 1
	if _, err := l.w.Write(append(b, '\n')); err != nil {
		l.w.Reset(l.f) // a bufio.Writer that failed stays failed; one without a file never fails
		return err
	}
	return nil
}

func (l *logFile) flush() error {
	if err := l.w.Flush(); err != nil {
		l.w.Reset(l.f)
		return err
	}
	return nil
}

func (l *logFile) close() {
	if l.f == nil {
		return
	}
	l.flush() //nolint:errcheck // reported by the next flush if it lasts
	l.f.Close()
}
