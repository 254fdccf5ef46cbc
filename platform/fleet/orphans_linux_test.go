package fleet

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startOwner starts a platform in a process of its own and waits until its instances run.
func startOwner(t *testing.T, dir string, guarded bool) *exec.Cmd {
	t.Helper()
	args := []string{"owner", dir}
	if guarded {
		args = append(args, "guarded")
	}
	cmd := exec.Command(self(t), args...)
	cmd.Stderr = &safeBuffer{}
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		// Whatever a failed test left would disturb the machine.
		slay(func(pid int) bool { return strings.HasPrefix(ownerOf(pid).data, dir) })
	})
	if err := out.(*os.File).SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		cmd.Process.Signal(syscall.SIGQUIT)
		cmd.Wait()
		t.Fatalf("the owner said %q, %v; want ready; %s", line, err, cmd.Stderr)
	}
	return cmd
}

// instancesOf lists the processes that carry the marks of the directory.
func instancesOf(dir string) []int {
	var out []int
	for _, pid := range pids() {
		if ownerOf(pid).data == filepath.Join(dir, "fleet") && alive(pid) {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out
}

func TestGuardEndsGrandchildrenWhenThePlatformIsKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := startOwner(t, dir, true)
	eventually(t, "two families of three", func() bool { return len(instancesOf(dir)) == 6 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nobody left", func() bool { return len(instancesOf(dir)) == 0 })
}

func TestParentDeathSignalAndSweepWorkWithoutAGuard(t *testing.T) {
	dir := t.TempDir()
	cmd := startOwner(t, dir, false)
	eventually(t, "two families of three", func() bool { return len(instancesOf(dir)) == 6 })
	before := instancesOf(dir)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	// The kernel ends the two leaders; their children stay until the next start sweeps.
	eventually(t, "the leaders gone, the rest there", func() bool { return len(instancesOf(dir)) == 4 })
	next := startOwner(t, dir, false)
	eventually(t, "two new families, and nothing of the old", func() bool {
		now := instancesOf(dir)
		return len(now) == 6 && !slices.ContainsFunc(now, func(p int) bool { return slices.Contains(before, p) })
	})
	if err := next.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := next.Wait(); err != nil {
		t.Errorf("the owner ended with %v, want nil", err)
	}
	if left := instancesOf(dir); len(left) != 0 {
		t.Errorf("after a graceful end: %d processes are left, want 0", len(left))
	}
}

func TestKilledPlatformComesBackTheSameAndDoublesNothing(t *testing.T) {
	dir := t.TempDir()
	for range 3 {
		cmd := startOwner(t, dir, true)
		eventually(t, "two families of three", func() bool { return len(instancesOf(dir)) == 6 })
		cmd.Process.Kill()
		cmd.Wait()
	}
	eventually(t, "nobody left", func() bool { return len(instancesOf(dir)) == 0 })
}

func TestGuardIgnoresTheTerminalsSignals(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd := exec.Command(self(t), GuardVerb)
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	group := exec.Command("sleep", "1000")
	group.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := group.Start(); err != nil {
		t.Fatal(err)
	}
	pid := group.Process.Pid
	ticks, err := startTicks(pid)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the guard ignores signals", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if mask, ok := strings.CutPrefix(line, "SigIgn:"); ok {
				var m uint64
				fmt.Sscanf(strings.TrimSpace(mask), "%x", &m)
				return m&(1<<(syscall.SIGTERM-1)) != 0 && m&(1<<(syscall.SIGINT-1)) != 0 && m&(1<<(syscall.SIGHUP-1)) != 0
			}
		}
		return false
	})
	fmt.Fprintf(w, "data %q\nnonsense\n+ 1 0 init\n+ %d %d x-v000-0-aaaa\n", t.TempDir(), pid, ticks)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		cmd.Process.Signal(s)
	}
	w.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("guard: got %v, want nil", err)
	}
	if err := group.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the group's leader: got %v, want killed", err)
	}
}

func TestSweepTouchesNoForeignProcess(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "fleet")
	const id = "app-v000-0-aaaa"
	start := func(env ...string) *exec.Cmd {
		cmd := exec.Command("sleep", "1000")
		cmd.Env = env
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		return cmd
	}
	before := nowTicks()
	foreign := map[string]*exec.Cmd{
		"no marks":             start("PATH=/bin"),
		"only the directory":   start(dataMark + "=" + data),
		"another directory":    start(dataMark+"="+data+"2", instanceMark+"="+id),
		"an unrecorded id":     start(dataMark+"="+data, instanceMark+"=app-v000-0-bbbb"),
		"started too early":    start(dataMark+"="+data, instanceMark+"=app-v000-1-cccc"),
		"a pid that was ours":  start(dataMark+"="+data, instanceMark+"=app-v000-2-dddd"),
		"before the last boot": start(dataMark+"="+data, instanceMark+"=app-v000-3-eeee"),
	}
	ours := start(dataMark+"="+data, instanceMark+"="+id)
	ticks, err := startTicks(ours.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if ticks < before || ticks > nowTicks() {
		t.Errorf("start of a process: got %d ticks, want between %d and %d", ticks, before, nowTicks())
	}
	run := pidDir(filepath.Join(data, "run"))
	if err := os.MkdirAll(string(run), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, r := range []pidRecord{
		{ID: id, PID: ours.Process.Pid, Ticks: ticks, Since: before, Boot: bootID()},
		{ID: "app-v000-1-cccc", Since: nowTicks() + 1000, Boot: bootID()},
		{ID: "app-v000-2-dddd", PID: foreign["a pid that was ours"].Process.Pid, Ticks: ticks + 12345, Since: before, Boot: bootID()},
		{ID: "app-v000-3-eeee", Since: 0, Boot: "another"},
	} {
		if err := run.write(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(run.file("app-v000-9-ffff"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	others := filepath.Join(string(run), "readme.json")
	if err := os.WriteFile(others, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run.sweep(data, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if err := ours.Wait(); err == nil {
		t.Error("the instance of the earlier run ended by itself, want killed")
	}
	for what, cmd := range foreign {
		if !alive(cmd.Process.Pid) {
			t.Errorf("%s: it was killed", what)
		}
	}
	if left, err := filepath.Glob(filepath.Join(string(run), "*")); err != nil || !slices.Equal(left, []string{others}) {
		t.Errorf("after the sweep: got %v, %v; want only the file that is no record", left, err)
	}
}

func TestKilledGuardIsReplaced(t *testing.T) {
	l := newLab(t, labOptions{mutate: func(c *Config) { c.Self = self(t) }})
	g := l.create(Spec{Name: "app", Command: family})
	l.until("it runs", func() bool { s := l.f.groups[g.Name].slots[0]; return s != nil && s.proc != nil })
	guards := func() []int {
		var out []int
		for _, pid := range pids() {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			st, serr := readStat(pid)
			if err == nil && serr == nil && st.state != 'Z' && string(b) == self(t)+"\x00"+GuardVerb+"\x00" && parent(pid) == os.Getpid() {
				out = append(out, pid)
			}
		}
		return out
	}
	first := guards()
	if len(first) != 1 {
		t.Fatalf("guards: got %d, want 1", len(first))
	}
	syscall.Kill(first[0], syscall.SIGKILL)
	eventually(t, "another guard", func() bool { now := guards(); return len(now) == 1 && now[0] != first[0] })
	// The platform's death, seen from the guard: its pipe ends without the groups having been taken back.
	pid := l.f.Instances("")[0].PID
	l.f.guard.mu.Lock()
	l.f.guard.pipe.Close()
	l.f.guard.mu.Unlock()
	eventually(t, "the new guard knew the group", func() bool { return !alive(pid) })
}

func parent(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	var p int
	fmt.Sscanf(string(b[strings.LastIndexByte(string(b), ')')+1:]), " %c %d", new(rune), &p)
	return p
}

func TestInstanceHasASessionOfItsOwn(t *testing.T) {
	l := newLab(t, labOptions{})
	g := l.create(Spec{Name: "app", Command: []string{"sleep", "1000"}})
	l.until("it runs", func() bool { s := l.f.groups[g.Name].slots[0]; return s != nil && s.proc != nil })
	pid := l.f.Instances("")[0].PID
	st, err := readStat(pid)
	if err != nil || st.group != pid || st.session != pid {
		t.Errorf("process %d: got group %d, session %d, %v; want its own, so that a terminal's ctrl-C does not reach it", pid, st.group, st.session, err)
	}
}

func TestDescendantsGoWithTheirInstance(t *testing.T) {
	l := newLab(t, labOptions{})
	g := l.create(Spec{Name: "app", Command: family})
	eventually(t, "a family of three", func() bool { return len(instancesOf(l.dir)) == 3 })
	before := instancesOf(l.dir)
	if _, err := l.f.Kill(context.Background(), g.Name+"-0", "KILL", ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new family, and nothing of the old", func() bool {
		now := instancesOf(l.dir)
		return len(now) == 3 && !slices.ContainsFunc(now, func(p int) bool { return slices.Contains(before, p) })
	})
	if err := l.f.Destroy(context.Background(), g.Name, ""); err != nil {
		t.Fatal(err)
	}
	l.settled(g.Name, 0, "")
	if left := instancesOf(l.dir); len(left) != 0 {
		t.Errorf("after Destroy: %d processes are left, want 0", len(left))
	}
}
