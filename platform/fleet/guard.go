package fleet

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// GuardVerb is the hidden verb of the roadbed binary that runs [Guard].
const GuardVerb = "guard"

// Guard is the whole life of the guard process: it reads from stdin which process groups the platform started, and
// when stdin ends, in whatever way the platform died, kills those that are left. It ignores the signals with which a
// terminal or a service manager ends a whole session, since the platform must go first.
//
// The lines are "data QUOTED-DIR", "+ PGID TICKS INSTANCE" and "- PGID". A line it cannot read is passed over: the
// guard's duty is to the others.
func Guard(stdin io.Reader) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	w := watchList{groups: make(map[int]guarded)}
	lines := bufio.NewScanner(stdin)
	for lines.Scan() {
		w.line(lines.Text())
	}
	w.end()
	if err := lines.Err(); err != nil {
		return fmt.Errorf("fleet: guard: the platform's pipe broke: %w", err)
	}
	return nil
}

// guarded is one process group under guard.
type guarded struct {
	pgid     int
	ticks    uint64 // when its leader started
	instance string
}

type watchList struct {
	data   string
	groups map[int]guarded
}

func (w *watchList) line(s string) {
	verb, rest, _ := strings.Cut(s, " ")
	switch verb {
	case "data":
		if d, err := strconv.Unquote(rest); err == nil {
			w.data = d
		}
	case "+":
		f := strings.SplitN(rest, " ", 3)
		if len(f) != 3 {
			return
		}
		pgid, err := strconv.Atoi(f[0])
		ticks, terr := strconv.ParseUint(f[1], 10, 64)
		if err == nil && terr == nil && pgid > 1 {
			w.groups[pgid] = guarded{pgid, ticks, f[2]}
		}
	case "-":
		if pgid, err := strconv.Atoi(rest); err == nil {
			delete(w.groups, pgid)
		}
	}
}

// end kills the groups, then whatever left its group but still carries an instance's marks.
func (w *watchList) end() {
	if len(w.groups) == 0 {
		return
	}
	slayGroups(w.groups)
	records := make(map[string]pidRecord)
	for _, g := range w.groups {
		records[g.instance] = pidRecord{ID: g.instance, PID: g.pgid, Ticks: g.ticks, Since: g.ticks}
	}
	// What forked while the list of processes was read is found by the next reading.
	for range 10 {
		if len(slayInstances(w.data, records)) == 0 {
			return
		}
	}
}

// guardian is the platform's end of the pipe: it keeps one guard process running and told.
type guardian struct {
	self string
	data string
	log  *slog.Logger

	mu     sync.Mutex
	groups map[int]guarded
	pipe   *os.File // nil while no guard runs
	closed bool
	wg     sync.WaitGroup
	stop   chan struct{}
}

func newGuardian(self, data string, log *slog.Logger) (*guardian, error) {
	g := &guardian{self: self, data: data, log: log, groups: make(map[int]guarded), stop: make(chan struct{})}
	if self == "" {
		return g, nil
	}
	cmd, err := g.launch()
	if err != nil {
		return nil, fmt.Errorf("start the guard, which ends all instances if the platform dies: %w", err)
	}
	g.wg.Add(1)
	go g.keep(cmd)
	return g, nil
}

// launch starts a guard and tells it everything.
func (g *guardian) launch() (*exec.Cmd, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(g.self, GuardVerb)
	cmd.Stdin = r
	cmd.Dir = "/"
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, dataMark+"=") || strings.HasPrefix(kv, instanceMark+"=")
	})
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // out of reach of the terminal's ctrl-C
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	g.pipe = w
	g.tell("data %s\n", strconv.Quote(g.data))
	for _, x := range g.groups {
		g.tell("+ %d %d %s\n", x.pgid, x.ticks, x.instance)
	}
	return cmd, nil
}

// keep replaces the guard if somebody kills it.
func (g *guardian) keep(cmd *exec.Cmd) {
	defer g.wg.Done()
	var b backoff
	for {
		began := time.Now()
		err := cmd.Wait()
		g.mu.Lock()
		if g.pipe != nil {
			g.pipe.Close()
			g.pipe = nil
		}
		closed := g.closed
		g.mu.Unlock()
		if closed {
			return
		}
		g.log.Warn("the guard, which ends all instances if the platform dies, has ended; starting another", "err", err)
		for {
			select {
			case <-g.stop:
				return
			case <-time.After(b.lost(time.Since(began))):
			}
			if cmd, err = g.launch(); err == nil {
				break
			}
			g.log.Error("cannot start a guard; if the platform is killed now, grandchildren of it may stay", "err", err)
		}
	}
}

// tell writes one line. A guard that is gone is noticed and replaced by keep, which tells its successor all.
func (g *guardian) tell(format string, args ...any) {
	if g.pipe == nil {
		return
	}
	g.pipe.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:errcheck // a guard that was stopped must not stop the fleet
	if _, err := fmt.Fprintf(g.pipe, format, args...); err != nil && !errors.Is(err, syscall.EPIPE) {
		g.log.Warn("cannot tell the guard", "err", err)
	}
}

func (g *guardian) add(p *process, instance string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.groups[p.pid] = guarded{p.pid, p.ticks, instance}
	g.tell("+ %d %d %s\n", p.pid, p.ticks, instance)
}

func (g *guardian) remove(p *process) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.groups[p.pid].ticks == p.ticks { // the pid may be a newer instance's already
		delete(g.groups, p.pid)
		g.tell("- %d\n", p.pid)
	}
}

// close lets the guard end; it kills what was not removed.
func (g *guardian) close() {
	g.mu.Lock()
	g.closed = true
	close(g.stop)
	if g.pipe != nil {
		g.pipe.Close()
		g.pipe = nil
	}
	g.mu.Unlock()
	g.wg.Wait()
}
