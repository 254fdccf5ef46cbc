package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestThePlatformOutlivesWhoReadsItAndSignalsThatComeEarly asks a platform that has just begun for a replacement, which it cannot
// have, and then has nobody read what it prints.
func TestThePlatformOutlivesWhoReadsItAndSignalsThatComeEarly(t *testing.T) {
	reads, writes, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reads.Close()
	cmd := exec.Command(binary, "up", "--data", t.TempDir(), "--port-offset", fmt.Sprint(freeOffset(t)))
	cmd.Stdout, cmd.Stderr = writes, writes
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writes.Close()
	guard := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer guard.Stop()
	said, first, ready := "", true, false
	for lines := bufio.NewScanner(reads); !ready && lines.Scan(); first = false {
		said += lines.Text() + "\n"
		if first {
			cmd.Process.Signal(syscall.SIGUSR2) //nolint:errcheck // what follows tells
		}
		ready = strings.HasPrefix(lines.Text(), "platform ready")
	}
	if !ready {
		t.Fatalf("asked for a replacement while it starts: it ended with %v, having said\n%s", cmd.Wait(), said)
	}
	reads.Close()
	cmd.Process.Signal(os.Interrupt) //nolint:errcheck // as above
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted while nobody reads what it prints: it ended with %v, want an end in order", err)
	}
}

func TestAHangUpEndsThePlatformInOrder(t *testing.T) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // or what is started below would ignore it as these tests do under nohup
	p, err := startPlatform(t.TempDir(), freeOffset(t), "up")
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Process.Signal(syscall.SIGHUP) //nolint:errcheck // what follows tells
	<-p.exited
	if p.err != nil || !strings.Contains(p.out.String(), "stopped") {
		t.Errorf("after SIGHUP it ended with %v, want no error and that it stopped; it said\n%s", p.err, p.out)
	}
}
