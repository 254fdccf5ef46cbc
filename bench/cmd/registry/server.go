//go:build linux

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/roadbed/roadbed/bench/fleet"
	"github.com/roadbed/roadbed/bench/process"
)

// server is a registry in a process of its own.
type server struct {
	*process.Process
	fleet.Target
	base string // URL of its listener
}

// start runs a command and waits until it serves ready.
func start(name, log string, port int, path, ready string, cmd *exec.Cmd) (*server, error) {
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	p, err := process.Start(name, log, base+ready, cmd)
	if err != nil {
		return nil, err
	}
	return &server{p, fleet.Target{Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)), Path: path}, base}, nil
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
	if err := process.Build(root, "./cmd/roadbed", p.roadbed); err != nil {
		return nil, err
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
	ports, err := process.FreePorts(3)
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
	ports, err := process.FreePorts(1)
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
	if out, err := exec.Command("jcmd", strconv.Itoa(s.Pid()), "GC.run").CombinedOutput(); err != nil {
		return fmt.Errorf("jcmd GC.run: %w\n%s", err, out)
	}
	return nil
}
