//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/bench/fleet"
)

// server is a registry in a process of its own.
type server struct {
	name string
	fleet.Target
	base string // URL of its listener
	cmd  *exec.Cmd
	log  string // file with what it printed
	done chan error
}

// start runs a command and waits until it serves ready.
func start(name, log string, port int, path, ready string, cmd *exec.Cmd) (*server, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s := &server{
		name: name, cmd: cmd, log: log, done: make(chan error, 1), base: fmt.Sprintf("http://127.0.0.1:%d", port),
		Target: fleet.Target{Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)), Path: path},
	}
	go func() { s.done <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+ready, nil)
		if err != nil {
			return nil, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		select {
		case err := <-s.done:
			out, _ := os.ReadFile(log) // shown if there is any
			return nil, fmt.Errorf("%s ended before it was ready: %v\n%s", name, err, out)
		case <-ctx.Done():
			s.stop()
			return nil, fmt.Errorf("%s does not serve %s after a minute; see %s", name, ready, log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the server and waits until it is gone.
func (s *server) stop() {
	s.cmd.Process.Signal(os.Interrupt) //nolint:errcheck // it is gone already if this fails
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		s.cmd.Process.Kill() //nolint:errcheck // as above
		<-s.done
	}
}

// used is the processor time of the whole process so far, user and system, from the kernel's accounts. They count in
// hundredths of a second.
func (s *server) used() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("%s is gone: %w", s.name, err)
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("/proc/%d/stat: %w", s.cmd.Process.Pid, err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond, nil
}

// resident is the process's VmRSS in bytes.
func (s *server) resident() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("%s is gone: %w", s.name, err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	kb, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("VmRSS of %s: %w", s.name, err)
	}
	return kb << 10, nil
}

// freePorts finds n TCP ports of this machine that nobody listens on.
func freePorts(n int) ([]int, error) {
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

// programs are what the servers are started from.
type programs struct {
	dir     string // for logs and state
	roadbed string // binary
	java    string // runs the Java programs of interop
	started int
}

// build makes roadbed from this checkout, whose root is given, and finds the stock Eureka server that
// interop/install.sh builds.
func build(root, dir string) (*programs, error) {
	p := &programs{dir: dir, roadbed: filepath.Join(dir, "roadbed"), java: filepath.Join(root, "interop", "java", "run")}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", p.roadbed, "./cmd/roadbed")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build roadbed: %w\n%s", err, out)
	}
	return p, nil
}

// node says how a node of ours is started. Its zero value is a registry that knows nobody.
type node struct {
	roles string   // engine,registry if empty
	port  int      // of the registry; a free one if 0
	ready string   // path that answers 200 when the node serves; /eureka/apps/delta if empty
	flags []string // further ones
}

// startRoadbed starts a node of ours.
func (p *programs) startRoadbed(n node) (*server, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	p.started++
	dir := filepath.Join(p.dir, fmt.Sprintf("roadbed-%d", p.started))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	port := cmp.Or(n.port, ports[0])
	cmd := exec.Command(p.roadbed, append([]string{"serve", "--roles", cmp.Or(n.roles, "engine,registry"), "--data", filepath.Join(dir, "state"),
		"--eureka-port", strconv.Itoa(port), "--api-port", strconv.Itoa(ports[1]), "--engine-port", strconv.Itoa(ports[2])}, n.flags...)...)
	cmd.Dir = dir // away from anybody's roadbed.yaml
	return start("roadbed", filepath.Join(dir, "log"), port, "/eureka", cmp.Or(n.ready, "/eureka/apps/delta"), cmd)
}

// startEureka starts a stock Spring Cloud Netflix Eureka server: the JVM's defaults, the server's defaults, alone as
// Spring's documentation has it.
func (p *programs) startEureka() (*server, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	p.started++
	cmd := exec.Command(p.java, "server", "Server", "--server.port="+strconv.Itoa(ports[0]), "--spring.main.banner-mode=off",
		"--eureka.client.register-with-eureka=false", "--eureka.client.fetch-registry=false")
	cmd.Env = append(os.Environ(), "JAVA_OPTS=") // not those of the tests
	return start("Eureka", filepath.Join(p.dir, fmt.Sprintf("eureka-%d.log", p.started)), ports[0], "/eureka", "/eureka/apps/", cmd)
}

// collect makes a JVM collect its garbage and give back what memory it can.
func (s *server) collect() error {
	if out, err := exec.Command("jcmd", strconv.Itoa(s.cmd.Process.Pid), "GC.run").CombinedOutput(); err != nil {
		return fmt.Errorf("jcmd GC.run: %w\n%s", err, out)
	}
	return nil
}
