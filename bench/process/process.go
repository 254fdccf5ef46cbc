//go:build linux

// Package process runs the programs that a comparison measures, each in a process of its own, and reads from the
// kernel's accounts what they cost.
//
// What it promises: a program that ends before it serves is an error that holds what it printed; Stop returns when the
// program is gone; processor time counts a program's threads and the processes that it started.
//
// What it does not: it keeps no program alive, and adopts none that was there before.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a program that runs.
type Process struct {
	Name string
	Log  string // file with what it printed
	cmd  *exec.Cmd
	done chan error
}

// Start runs cmd, whose output goes to the file log, and waits up to two minutes until a GET of ready is answered with 200.
func Start(name, log, ready string, cmd *exec.Cmd) (*Process, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: name, Log: log, cmd: cmd, done: make(chan error, 1)}
	go func() { p.done <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, ready, nil)
		if err != nil {
			p.Stop()
			return nil, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return p, nil
			}
		}
		select {
		case err := <-p.done:
			out, _ := os.ReadFile(log) // shown if there is any
			return nil, fmt.Errorf("%s ended before it was ready: %v\n%s", name, err, out)
		case <-ctx.Done():
			p.Stop()
			return nil, fmt.Errorf("%s does not answer %s after two minutes; see %s", name, ready, log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Pid is the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Stop ends the program and waits until it is gone; one that does not go within ten seconds is killed.
func (p *Process) Stop() {
	p.cmd.Process.Signal(os.Interrupt) //nolint:errcheck // it is gone already if this fails
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill() //nolint:errcheck // as above
		<-p.done
	}
}

// Used is the processor time so far, user and system, of the program and of all processes that it started. The kernel
// counts it in hundredths of a second.
func (p *Process) Used() (time.Duration, error) {
	all, err := accounts()
	if err != nil {
		return 0, err
	}
	if _, ok := all[p.Pid()]; !ok {
		return 0, fmt.Errorf("%s is gone; see %s", p.Name, p.Log)
	}
	return time.Duration(ticksUnder(all, p.Pid())) * 10 * time.Millisecond, nil
}

// account is what the kernel tells of a process.
type account struct {
	parent int
	ticks  int // its own and those of children that it has waited for
}

func ticksUnder(all map[int]account, pid int) int {
	sum := all[pid].ticks
	for child, a := range all {
		if a.parent == pid {
			sum += ticksUnder(all, child)
		}
	}
	return sum
}

func accounts() (map[int]account, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := make(map[int]account, len(files))
	for _, name := range files {
		stat, err := os.ReadFile(name)
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ESRCH):
			continue // it ended meanwhile
		case err != nil:
			return nil, err
		}
		pid, a, err := parseStat(stat)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[pid] = a
	}
	return all, nil
}

// parseStat reads a line of /proc/PID/stat; see proc(5). A program's name may hold anything, parentheses and spaces too.
func parseStat(stat []byte) (pid int, a account, err error) {
	name, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if name < 0 || end < name {
		return 0, a, fmt.Errorf("%q is no account of a process", stat)
	}
	f := bytes.Fields(stat[end+1:])
	if len(f) < 15 {
		return 0, a, fmt.Errorf("%q is no account of a process", stat)
	}
	number := func(b []byte) int {
		n, bad := strconv.Atoi(string(b))
		err = errors.Join(err, bad)
		return n
	}
	pid = number(bytes.TrimSpace(stat[:name]))
	a.parent = number(f[1])
	for _, field := range f[11:15] {
		a.ticks += number(field)
	}
	return pid, a, err
}

// Resident is the program's own VmRSS in bytes.
func (p *Process) Resident() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		return 0, fmt.Errorf("%s is gone: %w", p.Name, err)
	}
	_, after, ok := strings.Cut(string(status), "VmRSS:")
	f := strings.Fields(after)
	if !ok || len(f) == 0 {
		return 0, fmt.Errorf("%s has ended; see %s", p.Name, p.Log)
	}
	kb, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("VmRSS of %s: %w", p.Name, err)
	}
	return kb << 10, nil
}

// FreePorts finds n TCP ports of this machine that nobody listens on.
func FreePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// Build compiles a Go package of the module at root into the file out.
func Build(root, pkg, out string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Dir = root
	if printed, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, printed)
	}
	return nil
}
