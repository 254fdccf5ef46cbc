package engine

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// startServer starts the embedded server on the state in dir and returns when it takes writes.
//
// Its limits are set so that it does not size itself after the machine: JetStream would else reserve three quarters
// of memory and disk on paper. The disk is watched by diskGuard instead.
func startServer(ctx context.Context, dir, listen, token string, sync bool, log *slog.Logger) (*server.Server, error) {
	opts := &server.Options{
		ServerName:             "roadbed",
		DontListen:             listen == "",
		Authorization:          token,
		NoSigs:                 true,
		NoSystemAccount:        true,
		DisableJetStreamBanner: true,
		MaxPayload:             MaxValue + 64<<10, // a value and its headers
		MaxPending:             64 << 20,
		JetStream:              true,
		StoreDir:               dir,
		SyncAlways:             sync,
		JetStreamMaxMemory:     64 << 20,
		JetStreamMaxStore:      1 << 50,
	}
	if listen != "" {
		host, port, err := net.SplitHostPort(listen)
		if err != nil {
			return nil, fmt.Errorf("listen address %q: %w", listen, err)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("listen address %q: the port is not a number from 0 to 65535", listen)
		}
		opts.Host, opts.Port = host, int(n)
		if n == 0 {
			opts.Port = server.RANDOM_PORT
		}
		// The server would end the process when the port is taken.
		probe, err := net.Listen("tcp", listen)
		if err != nil {
			return nil, fmt.Errorf("cannot listen on %s: %w; stop what does, or move the engine's port", listen, err)
		}
		if err := probe.Close(); err != nil {
			return nil, fmt.Errorf("cannot listen on %s: %w", listen, err)
		}
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded server: %w", err)
	}
	fatal := &serverLog{log: log, fatal: make(chan string, 1)}
	s.SetLoggerV2(fatal, false, false, false)
	started := make(chan struct{})
	go func() {
		defer close(started)
		s.Start()
	}()
	wait := time.NewTicker(time.Millisecond)
	defer wait.Stop()
	limit := time.NewTimer(time.Minute) // a large state takes seconds to recover
	defer limit.Stop()
	for {
		select {
		case why := <-fatal.fatal:
			stopServer(s)
			return nil, fmt.Errorf("embedded server cannot start on %s: %s", dir, why)
		case <-ctx.Done():
			<-started
			stopServer(s)
			return nil, ctx.Err()
		case <-limit.C:
			<-started
			stopServer(s)
			return nil, fmt.Errorf("embedded server on %s is not ready after a minute", dir)
		case <-started:
			if s.ReadyForConnections(10*time.Second) && s.JetStreamEnabled() {
				return s, nil
			}
			select {
			case why := <-fatal.fatal:
				stopServer(s)
				return nil, fmt.Errorf("embedded server cannot start on %s: %s", dir, why)
			case <-wait.C:
			}
		}
	}
}

func stopServer(s *server.Server) {
	if s == nil {
		return
	}
	s.Shutdown()
	s.WaitForShutdown()
}

// serverLog passes the embedded server's log on. Its notices are our debug lines.
type serverLog struct {
	log   *slog.Logger
	fatal chan string // the first fatal message
}

func (l *serverLog) Noticef(f string, v ...any) { l.put(slog.LevelDebug, f, v) }
func (l *serverLog) Warnf(f string, v ...any)   { l.put(slog.LevelWarn, f, v) }
func (l *serverLog) Errorf(f string, v ...any)  { l.put(slog.LevelError, f, v) }
func (l *serverLog) Debugf(f string, v ...any)  {}
func (l *serverLog) Tracef(f string, v ...any)  {}

func (l *serverLog) Fatalf(f string, v ...any) {
	l.put(slog.LevelError, f, v)
	select {
	case l.fatal <- fmt.Sprintf(f, v...):
	default:
	}
}

func (l *serverLog) put(level slog.Level, f string, v []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, fmt.Sprintf(f, v...), "from", "nats")
	}
}
