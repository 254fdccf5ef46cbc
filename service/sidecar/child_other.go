//go:build !linux

package sidecar

import "syscall"

// processAttr makes a group of its own for a child. It outlives a sidecar that is killed.
func processAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
