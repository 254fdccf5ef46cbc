package interop

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// programs is where roadbed is built, a directory of its own.
var programs string

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "roadbed-interop"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	m.Run()
	os.RemoveAll(programs) //nolint:errcheck // it is in the system's temporary directory
}

var build = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-o", programs, "./cmd/roadbed")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building roadbed: %w\n%s", err, out)
	}
	return nil
})

// built returns roadbed, which is built once for all tests.
func built(t *testing.T) string {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(programs, "roadbed")
}

// begin starts a program in a process group of its own, so that a signal for the tests is none for it. Once the tests are gone,
// even by SIGKILL, the group is killed.
func begin(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	guard := exec.Command("sh", "-c", `read _; kill -9 "-$0"`, fmt.Sprint(cmd.Process.Pid))
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := guard.StdinPipe() // the system closes it when the tests are gone
	if err == nil {
		err = guard.Start()
	}
	if err != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // it was started just now
		t.Fatal(err)
	}
	t.Cleanup(func() {
		guard.Process.Kill() //nolint:errcheck // it may have ended
		guard.Wait()         //nolint:errcheck // it was killed
		in.Close()
	})
}

// TestProgramsDoNotOutliveTestsThatAreKilled has this test's own program begin one that never ends, and kills the former.
func TestProgramsDoNotOutliveTestsThatAreKilled(t *testing.T) {
	const told = "ROADBED_INTEROP_BEGINS"
	if os.Getenv(told) != "" {
		cmd := exec.Command("sleep", "1000")
		cmd.Stdout = os.Stdout
		begin(t, cmd)
		fmt.Println("began", cmd.Process.Pid)
		select {}
	}
	tests := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	tests.Env = append(os.Environ(), told+"=1", "TMPDIR="+t.TempDir())
	out, err := tests.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tests.Start(); err != nil {
		t.Fatal(err)
	}
	defer tests.Wait() //nolint:errcheck // it was killed
	var pid int
	_, err = fmt.Fscanf(out, "began %d\n", &pid)
	tests.Process.Kill() //nolint:errcheck // it runs
	if err != nil {
		t.Fatalf("no program was begun: %v", err)
	}
	out.(*os.File).SetReadDeadline(time.Now().Add(patience)) //nolint:errcheck // a pipe has it
	if _, err := io.Copy(io.Discard, out); err != nil {      // it ends when nobody has the other end
		syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it is there
		t.Errorf("the program outlives its test: %v", err)
	}
}
