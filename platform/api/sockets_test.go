package api

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSocketsAreOpenedUnlessPassed(t *testing.T) {
	s, err := Inherit()
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := s.Listen(l.Addr().String()); err == nil {
		t.Error("the same address could be had twice")
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	heir := &Sockets{given: map[string]*os.File{"tcp!" + l.Addr().String(): f}}
	same, err := heir.Listen(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	dialled := make(chan error, 1)
	go func() {
		c, err := net.Dial("tcp", same.Addr().String())
		if err == nil {
			c.Close()
		}
		dialled <- err
	}()
	c, err := same.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := <-dialled; err != nil {
		t.Error(err)
	}
	if err := heir.Ready(); err != nil {
		t.Error(err)
	}
	same.Close()
}

func TestSocketsOfSystemdAreFoundByTheirAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s := &Sockets{named: []*os.File{f}}
	got, err := s.Listen(l.Addr().String()) // it is in use, so only the one passed can be had
	if err != nil {
		t.Fatal(err)
	}
	got.Close()
	if len(s.named) != 0 {
		t.Error("the socket was not taken off the list")
	}
}

func TestWhatTakesThePlaceIsWhatIsAtThePathThen(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "current")
	if err := os.Symlink(own, link); err != nil {
		t.Fatal(err)
	}
	args := os.Args
	defer func() { os.Args = args }()
	os.Args = []string{link}
	if got := startedAs(); got != link {
		t.Errorf("started by a link: got %s, want the link, %s, which may lead elsewhere later", got, link)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{other, "a name of its own"} { // whoever started it can say what he likes
		if os.Args = []string{name}; startedAs() != own {
			t.Errorf("started as %q: got %s, want %s", name, startedAs(), own)
		}
	}
}

func TestAReplacementThatEndsAtOnceChangesNothing(t *testing.T) {
	if os.Getenv(socketsEnv) != "" {
		os.Exit(3) // this is the replacement
	}
	s := &Sockets{program: startedAs()}
	l, err := s.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	args := os.Args
	os.Args = []string{args[0], "-test.run=^TestAReplacementThatEndsAtOnceChangesNothing$"}
	defer func() { os.Args = args }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := s.Replace(ctx); err == nil || !strings.Contains(err.Error(), "ended before it served") {
		t.Errorf("got %v, want that it ended", err)
	}
	go func() {
		if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
			c.Close()
		}
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatalf("the old process does not accept any more: %v", err)
	}
	c.Close()
}
