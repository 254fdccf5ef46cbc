package main

import (
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
)

// short is a listener of a process that has no file descriptors for a moment.
type short struct {
	net.Listener
	failed bool
}

func (l *short) Accept() (net.Conn, error) {
	if !l.failed {
		l.failed = true
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

// TestThePlatformTellsOfItsOwnFaultsAndNotOfClients has a server of net/http say what it says of both.
func TestThePlatformTellsOfItsOwnFaultsAndNotOfClients(t *testing.T) {
	var out syncBuffer
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a fault of ours") }))
	s.Listener = &short{Listener: s.Listener}
	s.Config.ErrorLog = log.New(serverLog{slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))}, "", 0)
	s.StartTLS()
	if _, err := http.Get("http" + strings.TrimPrefix(s.URL, "https")); err != nil {
		t.Fatal(err) // it is told in clear that TLS is spoken here, which net/http logs
	}
	s.Client().Get(s.URL) //nolint:errcheck // it panics
	s.Close()
	said := out.String()
	for _, want := range []string{"level=ERROR", "a fault of ours", "level=WARN", "too many open files"} {
		if !strings.Contains(said, want) {
			t.Errorf("the log lacks %q:\n%s", want, said)
		}
	}
	if strings.Contains(said, "handshake") {
		t.Errorf("the log tells of a client's mistake:\n%s", said)
	}
}
