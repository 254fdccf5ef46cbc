package fleet

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const zombiesRefuse = false

// childAttr gives a child its own session, and a kill the moment the platform's spawning thread ends.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// awaitExit returns when p, a child, has exited. It leaves the zombie, so that neither its pid nor its group's id can
// become somebody else's before the group is dealt with; the state is therefore nil.
func awaitExit(p *os.Process) (*os.ProcessState, error) {
	for {
		err := unix.Waitid(unix.P_PID, p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("wait for process %d: %w", p.Pid, err)
		}
		return nil, nil
	}
}
