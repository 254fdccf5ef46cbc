package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/api"
	"github.com/rogpeppe/go-internal/testscript"
)

var soak = flag.Bool("soak", false, "run the long forms of the tests in which things are broken on purpose")

// binary is roadbed, built once for all tests: what is tested is what users run.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "roadbed-test-*")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "roadbed")
		build := exec.Command("go", append([]string{"build", "-o", binary}, append(raceFlag, ".")...)...)
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "hello"), "./testdata/hello").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// TestScripts types what users type. Each script is a file in testdata.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			offset := freeOffset(t)
			env.Setenv("PATH", filepath.Dir(binary)+string(os.PathListSeparator)+os.Getenv("PATH"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("OFFSET", fmt.Sprint(offset))
			env.Setenv("OFFSET2", fmt.Sprint(freeOffset(t)))
			env.Setenv("ROADBED_API", fmt.Sprintf("http://127.0.0.1:%d", 7070+offset))
			env.Setenv("EDGE", fmt.Sprintf("http://127.0.0.1:%d", 7000+offset))
			env.Setenv("EDGEAPI", fmt.Sprintf("http://127.0.0.1:%d", 7071+offset))
			env.Setenv("EUREKA", fmt.Sprintf("http://127.0.0.1:%d", 8761+offset))
			env.Setenv("EUREKA_WITH_TOKEN", fmt.Sprintf("http://any:0123456789abcdef@127.0.0.1:%d", 8761+offset))
			env.Setenv("ATLAS", fmt.Sprintf("http://127.0.0.1:%d", 7101+offset))
			env.Setenv("PORT", fmt.Sprint(9000+offset))
			env.Setenv("PORT2", fmt.Sprint(9010+offset))
			env.Setenv("ROADBED_ACTOR", "tester")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"platform":   scriptPlatform,
			"crash":      scriptCrash,
			"fetch":      scriptFetch,
			"foreign":    scriptForeign,
			"eventually": scriptEventually,
			"capture":    scriptCapture,
		},
	})
}

// scriptPlatform starts `roadbed up`, or `roadbed serve` when that is the first argument, on the script's ports and
// waits until it is ready. It ends with the script.
func scriptPlatform(ts *testscript.TestScript, neg bool, args []string) {
	var offset int
	if _, err := fmt.Sscan(ts.Getenv("OFFSET"), &offset); err != nil {
		ts.Fatalf("OFFSET: %v", err)
	}
	if len(args) == 0 || args[0] != "serve" {
		args = append([]string{"up"}, args...)
	}
	p, err := startPlatform(ts.MkAbs("state"), offset, args...)
	if err != nil {
		ts.Fatalf("%v", err)
	}
	running.Store(ts.Getenv("OFFSET"), p)
	ts.Defer(func() {
		if err := p.stop(); err != nil {
			ts.Fatalf("%v", err)
		}
	})
}

// running holds the platforms of scripts by their offset.
var running sync.Map

// scriptCrash kills the script's platform as kill -9 does.
func scriptCrash(ts *testscript.TestScript, neg bool, args []string) {
	p, ok := running.Load(ts.Getenv("OFFSET"))
	if !ok {
		ts.Fatalf("no platform runs")
	}
	p.(*testPlatform).crash()
}

// scriptForeign does what a page of somebody else could make a browser do: post to a URL, under its own name or under
// one that it made resolve to this machine. Both must be refused.
func scriptForeign(ts *testscript.TestScript, neg bool, args []string) {
	for _, alter := range []func(*http.Request){
		func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") },
		func(r *http.Request) { r.Host = "evil.example" },
	} {
		req, err := http.NewRequest(http.MethodPost, args[0], strings.NewReader("{}"))
		if err != nil {
			ts.Fatalf("%v", err)
		}
		alter(req)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			ts.Fatalf("%v", err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			ts.Fatalf("POST %s for %s from %q: got %s, want 403", args[0], req.Host, req.Header.Get("Origin"), resp.Status)
		}
	}
}

// scriptPatience is how long a script waits for what must come: only one that fails waits so long.
const scriptPatience = time.Minute

// scriptFetch asks for a URL as a browser does: fetch URL [STATUS [TEXT]]. The body becomes stdout. With a TEXT it is
// asked for until it holds that, for at most a minute.
func scriptFetch(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 || len(args) > 3 {
		ts.Fatalf("usage: fetch URL [status [substring]]")
	}
	want := "200"
	if len(args) > 1 {
		want = args[1]
	}
	if len(args) == 3 {
		scriptFetchUntil(ts, args[0], args[2]) // and once more below, for its status
	}
	req, err := http.NewRequest(http.MethodGet, args[0], nil)
	if err != nil {
		ts.Fatalf("%v", err)
	}
	req.Header.Set("Accept", "text/html, */*") // as browsers do
	resp, err := http.DefaultClient.Do(req)
	for deadline := time.Now().Add(scriptPatience); errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond) // whoever was started in the background listens soon
		resp, err = http.DefaultClient.Do(req)
	}
	if err != nil {
		ts.Fatalf("%v", err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		ts.Fatalf("%v", err)
	}
	fmt.Fprint(ts.Stdout(), body.String())
	if got := fmt.Sprint(resp.StatusCode); (got == want) == neg {
		ts.Fatalf("GET %s: got status %s, want %s (negated: %v)\n%s", args[0], got, want, neg, body.String())
	}
}

func scriptFetchUntil(ts *testscript.TestScript, url, text string) {
	for deadline := time.Now().Add(scriptPatience); ; time.Sleep(50 * time.Millisecond) {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			ts.Fatalf("%v", err)
		}
		req.Header.Set("Accept", "text/html, */*")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			ts.Fatalf("%v", err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && strings.Contains(string(body), text) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("after %v %s still lacks %q:\n%s", scriptPatience, url, text, body)
		}
	}
}

// scriptEventually runs a command until its output has a text, for at most a minute:
// eventually 'TEXT' COMMAND ARG...
func scriptEventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: eventually substring command [args]")
	}
	deadline := time.Now().Add(scriptPatience)
	for {
		out, err := scriptCommand(ts, args[1:]).CombinedOutput()
		if err == nil && bytes.Contains(out, []byte(args[0])) {
			fmt.Fprint(ts.Stdout(), string(out))
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("after %v %v still prints (%v):\n%s", scriptPatience, args[1:], err, out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// scriptCapture runs a command and keeps what the first group of a pattern matches in its output in a variable:
// capture NAME 'REGEXP' COMMAND ARG...; after ! the command must fail.
func scriptCapture(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: capture NAME regexp command [args]")
	}
	out, err := scriptCommand(ts, args[2:]).CombinedOutput()
	if (err != nil) != neg {
		ts.Fatalf("%v: %v\n%s", args[2:], err, out)
	}
	found := regexp.MustCompile("(?m)" + args[1]).FindSubmatch(out)
	if len(found) < 2 {
		ts.Fatalf("%v prints nothing that matches %s:\n%s", args[2:], args[1], out)
	}
	ts.Setenv(args[0], string(found[1]))
}

// scriptCommand is a command as the script's exec runs it.
func scriptCommand(ts *testscript.TestScript, args []string) *exec.Cmd {
	name := args[0]
	if name == "roadbed" {
		name = binary // the script's PATH is not ours
	}
	cmd := exec.Command(name, args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, k := range []string{"PATH", "HOME", "ROADBED_API", "ROADBED_ACTOR"} {
		cmd.Env = append(cmd.Env, k+"="+ts.Getenv(k))
	}
	return cmd
}

// testPlatform is a running roadbed process.
type testPlatform struct {
	cmd    *exec.Cmd
	out    *syncBuffer
	exited chan struct{}
	err    error // of the process; read after exited
	offset int
	client *api.Client
}

// startPlatform runs the binary with args on its own ports and returns when it says that it is ready.
func startPlatform(data string, offset int, args ...string) (*testPlatform, error) {
	args = append(args, "--data", data, "--port-offset", fmt.Sprint(offset))
	p := &testPlatform{
		cmd: exec.Command(binary, args...), out: &syncBuffer{}, exited: make(chan struct{}), offset: offset,
		client: &api.Client{Base: fmt.Sprintf("http://127.0.0.1:%d", 7070+offset), Actor: "tester"},
	}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.err = p.cmd.Wait(); close(p.exited) }()
	if err := p.says("platform ready", "serving "); err != nil {
		p.crash()
		return nil, err
	}
	return p, nil
}

// says waits until the process printed one of the texts.
func (p *testPlatform) says(texts ...string) error {
	deadline := time.After(60 * time.Second)
	for {
		out := p.out.String()
		for _, text := range texts {
			if strings.Contains(out, text) {
				return nil
			}
		}
		select {
		case <-p.exited:
			return fmt.Errorf("roadbed ended before it said %q: %v\n%s", texts, p.err, p.out)
		case <-deadline:
			return fmt.Errorf("roadbed did not say %q within 60 s:\n%s", texts, out)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the process as ctrl-C does and reports if it did not end well.
func (p *testPlatform) stop() error {
	select {
	case <-p.exited:
		return nil // crashed on purpose
	default:
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	select {
	case <-p.exited:
	case <-time.After(30 * time.Second):
		p.crash()
		return fmt.Errorf("roadbed did not end within 30 s of an interrupt:\n%s", p.out)
	}
	if p.err != nil {
		return fmt.Errorf("roadbed ended with %v:\n%s", p.err, p.out)
	}
	return nil
}

// crash ends the process as kill -9 does.
func (p *testPlatform) crash() {
	p.cmd.Process.Signal(syscall.SIGKILL) //nolint:errcheck // it may be gone already
	<-p.exited
}

func (p *testPlatform) get(ctx context.Context, path string, out any) error {
	return p.client.Do(ctx, http.MethodGet, path, nil, out)
}

// syncBuffer collects a process's output while others read it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var lastOffset atomic.Int64

// offsetStep is what lies between two offsets: more than the ports of a fleet's instances, and no multiple of it lies between
// two ports of a platform, so that no port of one is another port of a second one, such as an edge's at 7000 an instance's at 9000.
const offsetStep, offsets = 210, 52

// freeOffset returns a --port-offset at which every port of a platform is free. All stay below the range from which
// the kernel takes ports for outgoing connections.
func freeOffset(t testing.TB) int {
	t.Helper()
	for range 2 * offsets {
		offset := offsetStep * (1 + int(lastOffset.Add(1))%offsets) // again from the first: tests that are over have left theirs
		if allFree(offset) {
			return offset
		}
	}
	t.Fatalf("no --port-offset up to %d has all its ports free", offsetStep*offsets)
	return 0
}

func TestNoPlatformsPortsAreAnothers(t *testing.T) {
	for _, a := range ports {
		for _, b := range ports {
			if d := a - b; d > 0 && d%offsetStep == 0 && d/offsetStep < offsets {
				t.Errorf("with one --port-offset %d more than with another, port %d of this one is %d of that one", d, b, a)
			}
		}
	}
}

// ports are those of a platform and of the instances that tests start.
var ports = []int{4222, 7000, 7070, 7071, 7072, 7101, 8761, 9000, 9001, 9002, 9010, 20000, 20001, 20050}

func allFree(offset int) bool {
	for _, p := range ports {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p+offset))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

// processes returns the ids of processes whose environment names data as their platform's state.
func processes(data string) ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, d := range dirs {
		env, err := os.ReadFile(filepath.Join(d, "environ"))
		if err != nil {
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.ESRCH) {
				continue
			}
			return nil, err
		}
		if !bytes.Contains(env, []byte("ROADBED_DATA="+data+"\x00")) {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(filepath.Base(d), &pid); err == nil {
			found = append(found, pid)
		}
	}
	return found, nil
}
