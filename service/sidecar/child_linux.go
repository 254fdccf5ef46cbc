package sidecar

import "syscall"

// processAttr makes a group of its own for a child, which the kernel kills when the sidecar dies.
func processAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
