package fleet

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// Exit is how an instance's process ended.
type Exit struct {
	Time   time.Time `json:"time"`
	Code   int       `json:"code"`             // -1 if a signal ended it
	Signal string    `json:"signal,omitempty"` // e.g. "KILL"
	Ran    float64   `json:"ran"`              // seconds
	Why    string    `json:"why"`              // a sentence
	Log    []string  `json:"log,omitempty"`    // its last lines
}

// process is one running child with a session and a process group of its own, so that a terminal's ctrl-C does not
// reach it and all its descendants can be signalled at once.
type process struct {
	pid     int
	ticks   uint64 // when the kernel started it; with pid it names the process beyond doubt; 0 where unknown
	started time.Time
	proc    *os.Process

	exited chan struct{} // closed when leader and group are gone
	exit   Exit          // set before exited is closed

	mu   sync.Mutex
	gone bool // the leader is about to be reaped: its pid may be somebody else's from now on; guarded by mu
}

type launch struct {
	path string
	argv []string
	env  []string
	dir  string
	out  *os.File // standard output and error
}

// start forks the child on the spawner's thread.
func (s *spawner) start(l launch) (*process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	p := &process{started: time.Now(), exited: make(chan struct{})}
	s.do(func() {
		p.proc, err = os.StartProcess(l.path, l.argv, &os.ProcAttr{
			Dir:   l.dir,
			Env:   l.env,
			Files: []*os.File{null, l.out, l.out},
			Sys:   childAttr(),
		})
	})
	if err != nil {
		return nil, explainStart(l, err)
	}
	p.pid = p.proc.Pid
	p.ticks, err = startTicks(p.pid)
	if err != nil {
		p.ticks = 0 // it has ended already; waiting will tell
	}
	return p, nil
}

func explainStart(l launch, err error) error {
	switch {
	case l.dir != "" && errors.Is(err, os.ErrNotExist):
		if _, serr := os.Stat(l.dir); serr != nil {
			return fmt.Errorf("its directory %s is not there: %w", l.dir, serr)
		}
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%s is no program for this machine and has no #! line: %w", l.path, err)
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("the machine or this user may have no more processes: %w", err)
	}
	return err
}

// wait returns when the leader has exited and nothing of its group is left. left is called the moment the leader's
// exit is seen, before anything else is done.
func (p *process) wait(left func()) error {
	state, err := awaitExit(p.proc)
	end := time.Now()
	left()
	p.mu.Lock()
	killErr := signalGroup(p.pid, syscall.SIGKILL)
	p.gone = true
	p.mu.Unlock()
	if state == nil && err == nil {
		state, err = p.proc.Wait()
	}
	p.exit = Exit{Time: end, Code: -1, Ran: end.Sub(p.started).Seconds()}
	if state != nil {
		p.exit.Code = state.ExitCode()
		if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			p.exit.Signal = signalName(ws.Signal())
		}
	}
	return errors.Join(killErr, err)
}

// signal sends sig to the whole group, unless the leader is gone.
func (p *process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil
	}
	return signalGroup(p.pid, sig)
}

// signalGroup signals a process group; that it has no members left is not an error.
func signalGroup(pgid int, sig syscall.Signal) error {
	if pgid <= 1 {
		return fmt.Errorf("refusing to signal process group %d", pgid) // 0 and -1 mean everybody to kill(2)
	}
	err := syscall.Kill(-pgid, sig)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	// A group of which only a zombie is left answers EPERM on Darwin.
	if errors.Is(err, syscall.EPERM) && zombiesRefuse {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signal process group %d: %w", pgid, err)
	}
	return nil
}

// signals that may be sent to an instance, by their names without SIG.
var signals = [...]struct {
	name string
	sig  syscall.Signal
}{
	{"TERM", syscall.SIGTERM}, {"KILL", syscall.SIGKILL}, {"INT", syscall.SIGINT}, {"HUP", syscall.SIGHUP},
	{"QUIT", syscall.SIGQUIT}, {"ABRT", syscall.SIGABRT}, {"STOP", syscall.SIGSTOP}, {"CONT", syscall.SIGCONT},
	{"USR1", syscall.SIGUSR1}, {"USR2", syscall.SIGUSR2},
	{"SEGV", syscall.SIGSEGV}, {"BUS", syscall.SIGBUS}, {"PIPE", syscall.SIGPIPE}, {"ILL", syscall.SIGILL}, {"FPE", syscall.SIGFPE},
}

func signalName(s syscall.Signal) string {
	for _, x := range signals {
		if x.sig == s {
			return x.name
		}
	}
	return fmt.Sprint(int(s))
}
