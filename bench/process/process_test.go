//go:build linux

package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestProcessorTimeCountsThreadsAndChildren(t *testing.T) {
	all := map[int]account{1: {0, 5}, 7: {1, 10}, 8: {7, 20}, 9: {8, 40}, 10: {1, 80}}
	if got := ticksUnder(all, 7); got != 70 {
		t.Errorf("got %d ticks of 7, its child and its grandchild, want 70", got)
	}
}

func TestAccountsOfProcessesAreRead(t *testing.T) {
	pid, a, err := parseStat([]byte("4242 (a) (b c) S 17 4242 4242 0 -1 4194560 1 2 3 4 100 20 3 0 20 0 1 0 5 6 7\n"))
	if err != nil || pid != 4242 || a != (account{17, 123}) {
		t.Errorf("got %d, %+v, %v; want process 4242 of parent 17 with 123 ticks", pid, a, err)
	}
	for _, line := range []string{"", "1 (a", "1 (a) S 1", "x (a) S 17 4242 4242 0 -1 4194560 1 2 3 4 100 20 3 0 20"} {
		if _, _, err := parseStat([]byte(line)); err == nil {
			t.Errorf("%q was taken for an account", line)
		}
	}
	all, err := accounts()
	if err != nil || all[os.Getpid()].parent != os.Getppid() {
		t.Errorf("got %+v, %v; want this process's parent to be %d", all[os.Getpid()], err, os.Getppid())
	}
}

func TestAProgramThatEndsBeforeItServesIsAnErrorWithItsOutput(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	began := time.Now()
	_, err := Start("echo", log, "http://127.0.0.1:1/", exec.Command("echo", "no such option"))
	if err == nil || !strings.Contains(err.Error(), "no such option") {
		t.Errorf("got %v after %v, want an error with what the program printed", err, time.Since(began))
	}
}
