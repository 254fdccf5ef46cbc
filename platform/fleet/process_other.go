//go:build !linux

package fleet

import (
	"os"
	"syscall"
)

const zombiesRefuse = true

// childAttr gives a child its own session. Only Linux has a parent-death signal; elsewhere the guard alone ends what a
// killed platform leaves.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// awaitExit returns when p, a child, has exited, and reaps it. Its group is signalled right after: in theory the
// kernel could have given the id to another process meanwhile, which on Linux cannot happen.
func awaitExit(p *os.Process) (*os.ProcessState, error) { return p.Wait() }
