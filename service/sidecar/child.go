package sidecar

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// child is the neighbour when the sidecar has started it itself.
type child struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended
	err   error         // why, nil for exit status 0; written before ended is closed
	told  bool          // it was asked to end; used by stop alone
}

// freePort returns an address on loopback on which nothing listens now. It lies below the ports that kernels choose from, so that
// nobody is given it before the neighbour listens.
func freePort() (string, error) {
	for range 100 {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(10_000))); err == nil {
			defer l.Close()
			return l.Addr().String(), nil
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// startChild starts a command that shall listen at to and call out by way of proxy.
func startChild(args []string, to, proxy string) (*child, error) {
	_, port, err := net.SplitHostPort(to)
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = os.Stdout, os.Stderr
	c.cmd.SysProcAttr = processAttr() // signals for the sidecar's group are none for it, so that it ends last
	for _, e := range os.Environ() {
		switch name, _, _ := strings.Cut(e, "="); name {
		case "PORT", "http_proxy", "HTTP_PROXY", "ROADBED_SIDECAR":
		default:
			c.cmd.Env = append(c.cmd.Env, e)
		}
	}
	c.cmd.Env = append(c.cmd.Env, "PORT="+port)
	if proxy != "" {
		c.cmd.Env = append(c.cmd.Env, "http_proxy="+proxy, "ROADBED_SIDECAR="+proxy)
	}
	if _, ok := os.LookupEnv("no_proxy"); !ok {
		c.cmd.Env = append(c.cmd.Env, "no_proxy=localhost,127.0.0.1,::1")
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("the neighbour cannot be started: %w", err)
	}
	return c, nil
}

// watch waits for the end, and tells.
func (c *child) watch(gone func()) {
	c.err = c.cmd.Wait()
	close(c.ended)
	gone()
}

// stop asks it to end, and ends it when ctx does.
func (c *child) stop(ctx context.Context) {
	select {
	case <-c.ended:
		return
	default:
	}
	c.told = true
	c.signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-ctx.Done():
		c.signal(syscall.SIGKILL)
		<-c.ended
	}
}

// signal reaches all that it has started too.
func (c *child) signal(sig syscall.Signal) {
	if err := syscall.Kill(-c.cmd.Process.Pid, sig); errors.Is(err, syscall.ESRCH) {
		c.cmd.Process.Signal(sig) //nolint:errcheck // it has ended
	}
}
