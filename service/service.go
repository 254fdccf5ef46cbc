// Package service puts a Go service on the paved road in one call. At Netflix this was Karyon, later a Spring Boot
// starter.
//
//	func main() {
//		s, err := service.Start(context.Background(), service.Config{Name: "hello", Handler: hello})
//		if err != nil {
//			log.Fatal(err)
//		}
//		log.Fatal(s.Wait())
//	}
//
// After Start the service listens, is registered, takes traffic once it is healthy, knows its properties, publishes its
// meters every five seconds, and calls other services by name through [Service.Calls]. Wait drains it on SIGTERM.
//
// # Where it runs
//
// The fleet tells a process where it is by its environment: PORT, ROADBED_APP, ROADBED_GROUP, ROADBED_INSTANCE,
// ROADBED_HOST, ROADBED_REGION, ROADBED_ZONE, ROADBED_ENV, ROADBED_CRITICALITY, ROADBED_ADMIN_PORT,
// ROADBED_REGISTRY, ROADBED_CONFIG, ROADBED_TELEMETRY and ROADBED_CACHE. What the environment says wins over Config, for it is the operator's word; so do
// the properties in ROADBED_PROPERTIES, key=value;key=value, over the platform's.
// Without ROADBED_REGISTRY a service warns once, serves all the same, and reaches no other service.
//
// # What every service answers
//
//	/healthcheck   200 while it wants traffic, 503 while it starts, is unhealthy or drains
//	/metrics       its meters in Prometheus form
//	/ipc/state     breakers and counts of what it calls
//	/ipc/why       what became of its recent calls and why: ?vip=APP, or ?id=REQUEST
//	/ipc/events    breakers that opened, instances that were ejected and the like
//	/info          who and where it is
//	/hystrix.stream, /actuator/hystrix.stream, /hystrix/...   for Hystrix's dashboard: see package ipc/stream
//
// These are neither metered nor part of failure injection; all other paths go to the service's handler. With an admin
// port they are answered there, and among the traffic only /healthcheck is.
//
// # Draining
//
// On SIGTERM, SIGINT or the end of Start's context the service first takes itself out of the registry and fails its
// health check, then goes on serving for 750 ms while callers learn of it, then stops listening and gives requests in
// flight five seconds. A second signal ends the process at once.
//
// # What it promises
//   - A service starts and serves with any or all of the platform away, and joins when it is there.
//   - Every goroutine that Start began has ended when Wait returns.
//   - It takes no traffic before it is healthy, and none is lost because it stops.
//
// # What it does not
//   - It does not restart anything: that is the fleet's work.
//   - It speaks HTTP/1.1 and HTTP/2 in clear, no TLS.
//   - It leaves the garbage collector alone. GOGC=50 saved 1 MB of 16 in each process of examples/streaming at 300
//     requests per second and cost a third more processor; set GOGC or GOMEMLIMIT where that is a good trade.
package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/stream"
	"github.com/roadbed/roadbed/meter"
)

// Config describes a service. Name and one of Handler, Build and Beside are needed.
type Config struct {
	Name        string       // of the app, lower case, e.g. "catalog"
	Handler     http.Handler // serves its requests
	Criticality roadbed.Criticality
	VIP         string // by which Eureka's clients find it; default Name
	Version     string // free text, shown in /info and the registry
	Addr        string // to listen on; default PORT on ROADBED_HOST, and without those a free port on 127.0.0.1
	Log         *slog.Logger

	// Build makes the handler when it needs calls, properties or meters of the service. It runs before the service
	// listens.
	Build func(*Service) (http.Handler, error)

	// Admin is where the service answers the paths of every service apart from its traffic, e.g. "127.0.0.1:9001";
	// ROADBED_ADMIN_PORT is a port on ROADBED_HOST. The port is registered as metadata management.port, where Turbine
	// looks. Of these paths traffic then has /healthcheck alone. Empty: all are answered among the traffic; "-": only
	// by the handler that [Service.Answers] returns.
	Admin string

	Metadata map[string]string // of the registration, beside what stands there anyway

	// Beside is where an application of another process listens, "127.0.0.1:3000", which this one puts on the road in
	// its own place: that address is registered, Health asks for it, and nothing is served here. Its host, for others,
	// is ROADBED_HOST. Package service/sidecar is made of this.
	Beside string

	// Properties hold where the platform has no value.
	Properties map[string]string

	// Stop is called when the last request is served and ends what else the process does; calls still work. Its
	// context ends after five seconds. Nil does nothing.
	Stop func(context.Context)

	// Health reports why the service cannot take traffic now, nil when it can. It is asked every five seconds, at the
	// start more often, with a second to answer; nil means always healthy. A dependency that is away is no reason:
	// that is what fallbacks are for.
	Health func(context.Context) error
}

const (
	publishEvery = 5 * time.Second
	healthEvery  = 5 * time.Second
	startEvery   = 250 * time.Millisecond // until it is healthy for the first time
	healthWithin = time.Second
	usualSettle  = 750 * time.Millisecond
	usualStop    = 5 * time.Second
	firstRequest = 200 * time.Millisecond // of the time to stop, for connections on which nothing was asked yet
	cancelWithin = time.Second            // for the registry to hear of it
)

// Service is a service on the road. Its methods may be called from many goroutines.
type Service struct {
	c     Config
	self  roadbed.Instance
	meter *meter.Registry
	props *config.Properties
	calls *ipc.Engine
	shown *stream.Streams   // of calls
	found *discovery.Client // nil without a registry
	log   *slog.Logger

	control  *http.Transport // to the config server
	listener net.Listener    // nil if it stands beside another process
	server   *http.Server    // nil then too
	addr     string          // that is registered
	admin    net.Listener    // nil without a port of its own
	status   atomic.Value    // roadbed.Status

	mu     sync.Mutex
	unused map[net.Conn]struct{} // connections on which nothing was asked yet; guarded by mu

	settle     time.Duration // served on after the registration is cancelled, for callers to move away
	stopWithin time.Duration // for requests in flight

	draining chan struct{} // closed when it begins
	done     chan struct{} // closed when everything has ended
	err      error         // why it ended; written before done is closed
}

// Start puts a service on the road and returns once it listens. It fails when the configuration or the environment is
// wrong or the address is taken, never because the platform is away.
func Start(ctx context.Context, c Config) (*Service, error) {
	e, err := readEnv(os.Getenv)
	if err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	s, err := prepare(c, e)
	if err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	handler := c.Handler
	if c.Build != nil {
		if handler, err = c.Build(s); err != nil {
			s.calls.Close()
			s.stopListening()
			return nil, fmt.Errorf("service: build handler of %s: %w", s.self.App, err)
		}
	}
	s.unused = map[net.Conn]struct{}{}
	if s.listener != nil {
		s.server = s.serverOf(s.routes(handler))
		s.server.ConnState = s.track
	}
	if len(e.registry) == 0 {
		s.log.Warn("no registry: nobody finds this service and it finds nobody; set ROADBED_REGISTRY, or start it with the platform",
			"app", s.self.App, "addr", s.Addr())
	}
	go s.run(ctx, e)
	return s, nil
}

// serverOf returns a server whose limits keep slow and greedy clients from holding it.
func (s *Service) serverOf(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute, // longer than callers keep connections, so that they close first
		MaxHeaderBytes:    64 << 10,
		Protocols:         protocols(),
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}

// prepare listens and makes the service's parts. On failure nothing of them is left.
func prepare(c Config, e env) (*Service, error) {
	if e.app != "" {
		c.Name = e.app
	}
	switch m, err := roadbed.ParseMoniker(c.Name); {
	case err != nil:
		return nil, err
	case m.String() != m.App:
		return nil, fmt.Errorf("name %q: a service is named by its app alone, %q", c.Name, m.App)
	case c.Beside != "" && (c.Handler != nil || c.Addr != ""):
		return nil, fmt.Errorf("%s has Beside and also Handler or Addr; either it serves or what is beside it does", c.Name)
	case c.Handler == nil && c.Build == nil && c.Beside == "":
		return nil, fmt.Errorf("%s has neither Handler nor Build", c.Name)
	case c.Handler != nil && c.Build != nil:
		return nil, fmt.Errorf("%s has both Handler and Build; give one", c.Name)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if e.criticality != nil {
		c.Criticality = *e.criticality
	}
	s := &Service{c: c, log: c.Log, settle: usualSettle, stopWithin: usualStop, draining: make(chan struct{}), done: make(chan struct{})}
	port, err := s.listen(e)
	if err != nil {
		return nil, err
	}
	if err := s.listenAdmin(e); err != nil {
		s.stopListening()
		return nil, err
	}
	self := e.instance(c, port)
	if s.admin != nil {
		self.Metadata["management.port"] = strconv.Itoa(s.admin.Addr().(*net.TCPAddr).Port)
	}
	s.self = self
	s.status.Store(roadbed.Starting)
	cluster := self.App
	if m, err := roadbed.ParseMoniker(self.Group); err == nil {
		cluster = m.Cluster()
	}
	s.meter = meter.New(map[string]string{
		"nf.app": self.App, "nf.cluster": cluster, "nf.asg": self.Group, "nf.node": self.ID,
		"nf.zone": self.Location.Zone, "nf.region": self.Location.Region,
	})
	s.control = &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute}
	s.props = config.New(config.Options{URL: e.config, Cache: e.cache, Override: e.override, Default: c.Properties, Log: c.Log, Scope: e.scope(self, cluster), HTTP: &http.Client{Transport: s.control}})
	var lists ipc.Lists = ipc.Static{}
	if len(e.registry) > 0 {
		s.found = discovery.New(discovery.Config{Registry: e.registry, Cache: e.cache, Location: self.Location, Log: c.Log})
		lists = s.found
	}
	s.calls = ipc.New(ipc.Options{
		App: self.App, Instance: self.ID, Cluster: cluster, Location: self.Location, Lists: lists,
		Config: s.props, Meter: s.meter, FaultKey: faultKey(s.props), Log: c.Log,
	})
	s.shown = stream.New(stream.Config{Engine: s.calls, Properties: s.props})
	return s, nil
}

// listen makes the listener, unless another process has it, and returns the port to register.
func (s *Service) listen(e env) (port int, err error) {
	if s.addr = s.c.Beside; s.addr != "" {
		_, text, err := net.SplitHostPort(s.addr)
		if err == nil {
			port, err = strconv.Atoi(text)
		}
		if err != nil || port < 1 || port > 65535 {
			return 0, fmt.Errorf("%q is not the address of an application beside this process; write it as 127.0.0.1:3000", s.addr)
		}
		return port, nil
	}
	at := s.c.Addr
	if at == "" || e.port != "" {
		at = net.JoinHostPort(e.host, cmp.Or(e.port, "0"))
	}
	s.listener, err = net.Listen("tcp", at)
	if errors.Is(err, syscall.EADDRINUSE) {
		return 0, fmt.Errorf("%s is taken by another process; give another port with PORT: %w", at, err)
	} else if err != nil {
		return 0, err
	}
	s.addr = s.listener.Addr().String()
	return s.listener.Addr().(*net.TCPAddr).Port, nil
}

// listenAdmin makes the listener for what is asked apart from traffic, if there is to be one.
func (s *Service) listenAdmin(e env) error {
	at := s.c.Admin
	if e.adminPort != "" {
		at = net.JoinHostPort(e.host, e.adminPort)
	}
	if s.c.Admin = at; at == "" || at == "-" {
		return nil
	}
	l, err := net.Listen("tcp", at)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("the admin address %s is taken by another process; give another port with ROADBED_ADMIN_PORT: %w", at, err)
	} else if err != nil {
		return fmt.Errorf("the admin address: %w", err)
	}
	s.admin = l
	return nil
}

// stopListening closes listeners nobody serves.
func (s *Service) stopListening() {
	for _, l := range []net.Listener{s.listener, s.admin} {
		if l != nil {
			l.Close() // its error is of no use: nothing was accepted
		}
	}
}

// protocols are HTTP/1.1, and HTTP/2 in clear for who knows that a service speaks it, as gRPC clients do.
func protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

// faultKey returns what verifies injected faults: the platform's key, or nil, with which none are injected.
func faultKey(props *config.Properties) func() fault.Key {
	key := props.String("fault.key", "")
	return func() fault.Key {
		if k := key.Get(); k != "" {
			return fault.Key(k)
		}
		return nil
	}
}

// Calls returns the engine through which the service calls others by name.
func (s *Service) Calls() *ipc.Engine { return s.calls }

// Properties returns the service's dynamic properties.
func (s *Service) Properties() *config.Properties { return s.props }

// Meter returns the registry of the service's own meters.
func (s *Service) Meter() *meter.Registry { return s.meter }

// Instance returns what the service registers itself as. Its status is that of the start.
func (s *Service) Instance() roadbed.Instance { return s.self }

// Addr returns the address it listens on, e.g. "127.0.0.1:20001".
func (s *Service) Addr() string { return s.addr }

// AdminAddr returns where it answers the paths of every service apart from traffic; empty if it does not.
func (s *Service) AdminAddr() string {
	if s.admin == nil {
		return ""
	}
	return s.admin.Addr().String()
}

// Discovery returns what knows the instances of all apps; nil without a registry.
func (s *Service) Discovery() *discovery.Client { return s.found }

// Draining returns a channel that is closed when the service begins to stop: the time to end work of its own.
func (s *Service) Draining() <-chan struct{} { return s.draining }

// Wait returns when the service has drained and ended, which it does when Start's context ends or a signal says so:
// nil then, otherwise why it could not go on serving.
func (s *Service) Wait() error {
	<-s.done
	return s.err
}

// run owns every goroutine of the service from its first request to its last.
func (s *Service) run(ctx context.Context, e env) {
	defer close(s.done)
	ctx, stopSignals := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stopSignals()

	// What carries traffic outlives ctx: it ends when the last request is served.
	base, stopBase := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	watched := func(what string, run func(context.Context) error) {
		background.Go(func() {
			if err := run(base); err != nil && base.Err() == nil {
				s.log.Error("a part of the service stopped; it serves on without", "part", what, "err", err)
			}
		})
	}
	watched("properties", s.props.Run)
	if s.found != nil {
		watched("discovery", s.found.Run)
	}
	if e.telemetry != "" {
		watched("meters", func(ctx context.Context) error { return s.meter.Publish(ctx, e.telemetry, publishEvery) })
	}

	broken := make(chan error, 1)
	if s.server != nil {
		background.Go(func() { broken <- s.server.Serve(s.listener) })
	}

	var admin *http.Server
	if s.admin != nil {
		admin = s.serverOf(s.Answers())
		background.Go(func() {
			if err := admin.Serve(s.admin); !errors.Is(err, http.ErrServerClosed) {
				s.log.Error("the admin port is not served any more; the service goes on without", "addr", s.AdminAddr(), "err", err)
			}
		})
	}

	var registration *discovery.Registration
	if s.found != nil {
		registration = s.found.Register(s.self)
	}
	checked := make(chan struct{})
	background.Go(func() {
		defer close(checked)
		s.check(ctx, registration)
	})
	s.log.Info("service is on the road", "app", s.self.App, "instance", s.self.ID, "addr", s.Addr(), "zone", s.self.Location.Zone)

	select {
	case <-ctx.Done():
	case err := <-broken:
		s.err = fmt.Errorf("service: %s stopped serving: %w", s.self.App, err)
	}
	stopSignals() // from here on a second signal ends the process
	close(s.draining)
	<-checked // so that nothing says UP any more
	s.drain(registration, s.err == nil)
	if s.c.Stop != nil {
		ctx, cancel := context.WithTimeout(base, s.stopWithin)
		s.c.Stop(ctx)
		cancel()
	}
	if admin != nil {
		admin.Close() // to the end, whoever watches wants to know
	}
	stopBase()
	s.calls.Close()
	background.Wait()
	s.control.CloseIdleConnections()
}

// check asks for health and tells the registry, until ctx ends. A service that was never healthy is STARTING, however
// long that takes; later it is UP or DOWN.
func (s *Service) check(ctx context.Context, registration *discovery.Registration) {
	told := false // that it is unhealthy
	for {
		every := healthEvery
		now := roadbed.Up
		if err := s.health(ctx); ctx.Err() != nil {
			return
		} else if err != nil {
			if now = roadbed.Down; s.Status() == roadbed.Starting {
				now, every = roadbed.Starting, startEvery
			}
			if !told {
				s.log.Warn("service is unhealthy and takes no traffic", "app", s.self.App, "status", now, "err", err)
			}
		}
		told = now != roadbed.Up
		if s.status.Swap(now) != now && registration != nil {
			registration.SetStatus(now)
		}
		pause := time.NewTimer(every)
		select {
		case <-ctx.Done():
		case <-s.draining:
		case <-pause.C:
			continue
		}
		pause.Stop()
		return
	}
}

func (s *Service) health(ctx context.Context) error {
	if s.c.Health == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, healthWithin)
	defer cancel()
	return s.c.Health(ctx)
}

// Status returns what the service thinks of itself: STARTING, UP, DOWN, or OUT_OF_SERVICE while it drains.
func (s *Service) Status() roadbed.Status { return s.status.Load().(roadbed.Status) }

// drain takes the service off the road: out of the registry, a pause, no new connections, the last requests.
func (s *Service) drain(registration *discovery.Registration, serving bool) {
	s.status.Store(roadbed.OutOfService)
	if registration != nil {
		ctx, cancel := context.WithTimeout(context.Background(), cancelWithin)
		if err := registration.Cancel(ctx); err != nil {
			s.log.Warn("the registry did not take the cancellation; the lease runs out instead", "app", s.self.App, "err", err)
		}
		cancel()
		if serving {
			time.Sleep(s.settle)
		}
	}
	s.shown.Close() // else they would be waited for
	if s.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.stopWithin)
	defer cancel()
	// Callers open connections that they then have no use for. Shutdown would wait five seconds for their first request.
	unused := time.AfterFunc(firstRequest, s.closeUnused)
	defer unused.Stop()
	if err := s.server.Shutdown(ctx); err != nil {
		s.log.Warn("requests were still in flight and are cut", "app", s.self.App, "after", s.stopWithin, "err", err)
		s.server.Close()
	}
}

// track keeps the set of connections that wait for their first request.
func (s *Service) track(c net.Conn, now http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now == http.StateNew {
		s.unused[c] = struct{}{}
	} else {
		delete(s.unused, c)
	}
}

func (s *Service) closeUnused() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.unused {
		c.Close() // its error is of no use: nobody said anything on it
	}
}

// Answers returns the handler of the paths that every service answers.
func (s *Service) Answers() *http.ServeMux {
	own := http.NewServeMux()
	own.HandleFunc("/healthcheck", s.serveHealth)
	own.Handle("/metrics", s.meter.Handler())
	own.Handle("/ipc/state", s.calls.StateHandler())
	own.Handle("/ipc/why", s.calls.WhyHandler())
	own.Handle("/ipc/events", s.calls.EventsHandler())
	own.HandleFunc("/info", s.serveInfo)
	for _, path := range stream.Paths {
		own.Handle(path, s.shown)
	}
	return own
}

// routes puts the paths that every service answers before its handler.
func (s *Service) routes(handler http.Handler) http.Handler {
	own := s.Answers()
	rest := s.calls.Handler(s.shown.Requests(handler))
	if s.c.Admin != "" {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/healthcheck" {
				own.ServeHTTP(w, r)
				return
			}
			rest.ServeHTTP(w, r)
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthcheck", "/metrics", "/ipc/state", "/ipc/why", "/ipc/events", "/info",
			"/hystrix.stream", "/actuator/hystrix.stream", "/hystrix/utilization.stream", "/hystrix/config.stream", "/hystrix/request.stream":
			own.ServeHTTP(w, r)
		default:
			rest.ServeHTTP(w, r)
		}
	})
}

func (s *Service) serveHealth(w http.ResponseWriter, _ *http.Request) {
	now := s.Status()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if now != roadbed.Up {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintf(w, "{\"status\":%q}\n", now)
}

// info is what /info answers.
type info struct {
	roadbed.Instance
	Criticality roadbed.Criticality `json:"criticality"`
	Version     string              `json:"version,omitempty"`
	PID         int                 `json:"pid"`
	Go          string              `json:"go"`
}

func (s *Service) serveInfo(w http.ResponseWriter, _ *http.Request) {
	self := s.self
	self.Status = s.Status()
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(info{self, s.c.Criticality, s.c.Version, os.Getpid(), runtime.Version()}); err != nil {
		s.log.Debug("info was not delivered", "err", err)
	}
}
