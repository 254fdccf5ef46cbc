// Package sidecar puts a service of any language on the road by standing beside it: what package service does for a Go
// service from within, a sidecar does from a process of its own. At Netflix this was Prana.
//
//	s, err := sidecar.Start(ctx, sidecar.Config{App: "shop", To: "127.0.0.1:3000", Inbound: "127.0.0.1:8079"})
//	...
//	err = s.Wait()
//
// It registers the neighbour, follows its health, and takes it out of the registry before it ends. The neighbour's calls
// go out through it, by the same [ipc] that Go services and the edge have, and what others ask of the neighbour may come
// in through it.
//
// # Calling out
//
// The sidecar is an HTTP proxy at Listen. A client that uses it as one (http_proxy=http://127.0.0.1:7080) asks for
// http://recommendations/users/42 and gets an instance of the app recommendations: balanced, retried within the budget,
// broken off by the breaker. So does one that connects to the sidecar as if it were the app, with Host: recommendations,
// as gRPC clients do with an authority; and one that opens a tunnel to recommendations:80. Hosts with a port, addresses
// and names with dots that no registry knows are passed on unbalanced.
//
// A call runs as the command APP/PART, PART being the path's first segment, or APP where a segment looks like an id. These
// headers of a request change that, and are not passed on:
//
//	X-Ipc-Command      the command's name
//	X-Ipc-Timeout-Ms   how long the call may take, in place of the command's timeout
//	X-Ipc-Criticality  CRITICAL, DEGRADED, BEST_EFFORT or BULK; it may be lowered, not raised
//	X-Ipc-Idempotent   true: the request may be sent twice
//
// # Coming in
//
// With Inbound, others reach the neighbour through the sidecar, which opens each request's context: deadline, shedding,
// faults, meters. A call that the neighbour makes meanwhile belongs to that request if it carries the same X-Request-Id:
// it inherits deadline, criticality, faults and trace, even if the neighbour copies no other header.
//
// # Asking
//
//	GET  /ping               pong
//	GET  /status             the neighbour's status in the registry's words
//	GET  /healthcheck        whether the neighbour is well
//	GET  /eureka/hosts       hosts of an app: ?appName=A, &vip=V
//	GET  /dynamicproperties  properties: ?id=a&id=b
//	ANY  /proxy              passes the request on: ?vip=V&path=P
//	GET  /v1/fit/<point>     what shall happen at an injection point inside the neighbour: ?name=N, &req=ID
//	POST /v1/limits/acquire  a token for a piece of the neighbour's own work, or 429: ?name=N
//	POST /v1/limits/release  the end of it: ?token=T, &result=success, ignore or drop
//	GET  /hystrix.stream, /ipc/why, /metrics, /info and the like   as every service answers them
//
// # What it promises
//   - It serves with any or all of the platform away, on what it last knew.
//   - Bodies are streamed in constant memory; content codings, trailers and upgrades pass untouched.
//   - An answer of the sidecar itself, for a call that failed, has X-Ipc-Error with the kind of failure, in one word.
//   - Nobody but this machine can use it to call out: it listens on loopback or a Unix socket only.
//
// # What it does not
//   - It does not restart a neighbour that it has started: when that one ends, so does the sidecar.
//   - It does not look into TLS: tunnels to port 443 are passed as they are.
package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/pass"
	"github.com/roadbed/roadbed/service"
)

// Config describes a sidecar. App, and one of To and Command, are needed. Where the platform is stands in the environment, as for package
// service.
type Config struct {
	App string // the neighbour's name, lower case, e.g. "shop"
	To  string // where the neighbour listens, e.g. "127.0.0.1:3000"

	// Command starts the neighbour: it gets the port of To, or a free one, as PORT in its environment, and the sidecar
	// as http_proxy and ROADBED_SIDECAR. It is asked to end when the last request is through, and when it ends so does
	// the sidecar. Empty: the neighbour is started by somebody else.
	Command []string

	// Listen is where the neighbour finds the sidecar: an address on loopback, "127.0.0.1:7080" when empty, or
	// "unix:/path".
	Listen string

	// Inbound is where others reach the neighbour through the sidecar, e.g. "127.0.0.1:8079"; that is registered then.
	// Empty: they reach it directly.
	Inbound string

	// Health is the URL that answers 200 while the neighbour is well. Empty: /healthcheck of the neighbour, or any
	// answer but a server error at / if there is no /healthcheck. The property prana.host.healthcheck.url overrides it.
	Health string

	VIP         string // by which Eureka's clients find the neighbour; default App
	Version     string
	Criticality roadbed.Criticality

	// Properties hold where the platform has no value, as those of Prana's file did.
	Properties map[string]string

	// Prana has the endpoints answer errors as Prana did: mostly with status 200.
	Prana bool

	Log *slog.Logger
}

// callsWithin is how long calls of the neighbour that are under way may still take when it is asked for nothing more.
const callsWithin = 2 * time.Second

// Listen is where a sidecar listens unless told otherwise.
const Listen = "127.0.0.1:7080"

// Sidecar stands beside a service. Its methods may be called from many goroutines.
type Sidecar struct {
	c        Config
	log      *slog.Logger
	svc      *service.Service
	calls    *ipc.Engine
	props    *config.Properties
	listener net.Listener
	server   *http.Server
	health   *prober
	out      *pass.Proxy
	in       *pass.Proxy
	names    names
	inflight inflight
	limits   limits

	own     map[string]bool    // what Host is when the sidecar itself is meant
	token   string             // marks what has passed here
	gone    context.CancelFunc // ends the sidecar
	child   *child             // nil if somebody else starts the neighbour
	api     http.Handler
	tunnels *tunnels
	serving sync.WaitGroup
}

// Start puts the neighbour on the road and returns once the sidecar listens. It fails when the configuration makes no
// sense or an address is taken, never because platform or neighbour are away.
func Start(ctx context.Context, c Config) (*Sidecar, error) {
	if c.Listen == "" {
		c.Listen = Listen
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if len(c.Command) > 0 && c.To == "" {
		var err error
		if c.To, err = freePort(); err != nil {
			return nil, fmt.Errorf("sidecar: find a port for the neighbour: %w", err)
		}
	}
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("sidecar: %w", err)
	}
	listener, err := listen(c.Listen)
	if err != nil {
		return nil, fmt.Errorf("sidecar: %w", err)
	}
	s := &Sidecar{c: c, log: c.Log, listener: listener, token: newToken()}
	s.own = ownNames(listener.Addr())
	s.health = newProber(c)
	what := service.Config{
		Name: c.App, VIP: c.VIP, Version: c.Version, Criticality: c.Criticality, Properties: c.Properties, Log: c.Log,
		Health: s.health.ask, Stop: s.stop, Admin: "-", // what it answers is not the neighbour's
	}
	if at, ok := listener.Addr().(*net.TCPAddr); ok {
		what.Metadata = map[string]string{"management.port": strconv.Itoa(at.Port)}
	}
	what.Build = func(svc *service.Service) (http.Handler, error) {
		s.begin(svc)
		return http.HandlerFunc(s.serveInbound), nil
	}
	if what.Addr = c.Inbound; c.Inbound == "" {
		what.Beside = c.To
	}
	ctx, s.gone = context.WithCancel(ctx)
	if len(c.Command) > 0 {
		proxy := ""
		if _, ok := listener.Addr().(*net.TCPAddr); ok {
			proxy = "http://" + s.Addr()
		}
		if s.child, err = startChild(c.Command, c.To, proxy); err != nil {
			s.gone()
			listener.Close()
			return nil, fmt.Errorf("sidecar: %w", err)
		}
		s.serving.Go(func() { s.child.watch(s.gone) })
	}
	if s.svc, err = service.Start(ctx, what); err != nil {
		s.gone()
		listener.Close()
		if s.child != nil {
			s.child.stop(ctx)
		}
		return nil, fmt.Errorf("sidecar: %w", err)
	}
	s.serving.Go(func() {
		if err := s.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the sidecar stopped serving its neighbour; restart it", "listen", c.Listen, "err", err)
		}
	})
	s.log.Info("sidecar is ready", "app", c.App, "neighbour", c.To, "listen", s.Addr(), "inbound", c.Inbound)
	return s, nil
}

// validate reports what makes no sense.
func (c *Config) validate() error {
	if c.To == "" {
		return errors.New("where the neighbour listens is not known; give To, e.g. 127.0.0.1:3000")
	}
	host, port, err := net.SplitHostPort(c.To)
	if n, perr := strconv.Atoi(port); err != nil || host == "" || perr != nil || n < 1 || n > 65535 {
		return fmt.Errorf("the neighbour's address %q is none; write it as 127.0.0.1:3000", c.To)
	}
	if c.To == c.Inbound || c.To == c.Listen {
		return fmt.Errorf("the neighbour is said to listen at %s, which is the sidecar's own address; each needs a port of its own", c.To)
	}
	if c.Inbound != "" && c.Inbound == c.Listen && !strings.HasSuffix(c.Inbound, ":0") {
		return fmt.Errorf("%s is both where the neighbour calls out and where others come in; each needs a port of its own", c.Inbound)
	}
	return validHealth(c.Health)
}

// listen listens at an address on loopback or on a Unix socket.
func listen(at string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(at, "unix:"); ok {
		return listenUnix(path)
	}
	host, _, err := net.SplitHostPort(at)
	if err != nil {
		return nil, fmt.Errorf("the address %q to listen on is none; write 127.0.0.1:7080 or unix:/path", at)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%s is not on loopback: whoever reaches it could call every service in the neighbour's name; use 127.0.0.1 or unix:/path", at)
	}
	l, err := net.Listen("tcp", at)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is taken by another process, perhaps another sidecar; give another port with --listen or -p: %w", at, err)
	}
	return l, err
}

// listenUnix listens on a socket for which only this user has rights. One that a dead process left is replaced.
func listenUnix(path string) (net.Listener, error) {
	if path == "" {
		return nil, errors.New("unix: has no path; write unix:/run/shop.sock")
	}
	if at, err := os.Lstat(path); err == nil {
		if at.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("%s exists and is no socket; give another path", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, fmt.Errorf("%s is served by another process, perhaps another sidecar; give another path with --listen", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the socket that a dead process left: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// begin makes what needs the service's parts, before anything is served.
func (s *Sidecar) begin(svc *service.Service) {
	s.calls, s.props = svc.Calls(), svc.Properties()
	s.health.follow(s.props)
	s.names.calls, s.names.found = s.calls, svc.Discovery()
	s.out = &pass.Proxy{Transport: s.calls.Transport(), Request: s.address, Fail: s.failed}
	s.in = &pass.Proxy{Transport: s.calls.Transport(), Request: s.toNeighbour, Fail: s.neighbourFailed}
	s.api = s.endpoints(svc)
	s.server = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute, // longer than clients keep connections, so that they close first
		MaxHeaderBytes:    64 << 10,
		Protocols:         both(),
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.tunnels = newTunnels(s)
}

// both are HTTP/1.1 and HTTP/2 in clear.
func both() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

// stop ends what serves the neighbour, after the last request of others is through.
func (s *Sidecar) stop(ctx context.Context) {
	defer s.gone()
	if s.child != nil {
		s.child.stop(ctx)
	}
	calls, cancel := context.WithTimeout(context.WithoutCancel(ctx), callsWithin)
	defer cancel()
	if err := s.server.Shutdown(calls); err != nil {
		s.log.Warn("the neighbour's calls were still under way and are cut", "err", err)
		s.server.Close()
	}
	s.tunnels.close()
	s.serving.Wait()
}

// Addr returns where the neighbour finds the sidecar: an address, or a path.
func (s *Sidecar) Addr() string { return s.listener.Addr().String() }

// Neighbour returns where the neighbour listens.
func (s *Sidecar) Neighbour() string { return s.c.To }

// Registered returns the address at which others find the neighbour.
func (s *Sidecar) Registered() string { return s.svc.Addr() }

// Status returns what the registry is told of the neighbour.
func (s *Sidecar) Status() roadbed.Status { return s.svc.Status() }

// Wait returns when the neighbour is off the road and the sidecar has ended, which it does when Start's context ends or
// a signal says so: nil then, otherwise why it could not go on.
func (s *Sidecar) Wait() error {
	err := s.svc.Wait()
	if err == nil && s.child != nil && !s.child.told && s.child.err != nil {
		return fmt.Errorf("sidecar: %s ended by itself: %w", s.c.App, s.child.err)
	}
	return err
}
