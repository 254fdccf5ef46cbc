package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/stream"
	"github.com/roadbed/roadbed/ipc/stream/turbine"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/chaos"
	"github.com/roadbed/roadbed/platform/console"
	"github.com/roadbed/roadbed/platform/edge"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/fleet"
	"github.com/roadbed/roadbed/platform/ledger"
	"github.com/roadbed/roadbed/platform/properties"
	"github.com/roadbed/roadbed/platform/region"
	"github.com/roadbed/roadbed/platform/registry"
	"github.com/roadbed/roadbed/platform/telemetry"
)

// allRoles are the rooms a process can run, in the order they start.
var allRoles = []string{"engine", "registry", "properties", "telemetry", "fleet", "edge", "console"}

// publishStep is how often meters are published; the live store keeps steps of the same length.
const publishStep = 5 * time.Second

// cellConfig says what one process of the platform runs and where.
type cellConfig struct {
	roles      []string
	data       string // state directory
	door       api.Door
	region     string
	zones      []string
	eureka     registry.Settings
	scopeOrder properties.Order
	log        *slog.Logger
	screen     *screen // where log goes, and what is shown

	replaceAsked <-chan os.Signal // asks for a new process in this one's place

	edgeTLS edgeTLS

	apiPort, edgePort, eurekaPort, atlasPort, enginePort int
	offset                                               int // added to every port

	// Where the rooms are that run elsewhere; empty means here, or the usual port of this machine.
	engineURL, registryURL, telemetryURL, edgeURL string

	apiOf map[string]string // role -> API of the process that runs it
}

// edgeTLS is the edge's second listener, which speaks TLS.
type edgeTLS struct {
	port           int // 0: there is none
	certs          string
	acmeHosts      []string
	acmeEmail      string
	acmeDirectory  string
	clientCA       string
	clientCRL      string
	clientOptional bool
	http3          bool
	proxy          string // of both listeners: off, on, optional
}

func (c *cellConfig) has(role string) bool { return slices.Contains(c.roles, role) }

// local returns the URL of a port of this process.
func (c *cellConfig) local(port int) string {
	host := c.door.Host
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, fmt.Sprint(port+c.offset))
}

// eurekaURL is where peers find the registry of this process, unless it is told of another URL.
func (c *cellConfig) eurekaURL() string {
	scheme, host, _ := strings.Cut(c.local(c.eurekaPort), "://")
	if c.door.TLS != nil {
		scheme = "https"
	}
	if name := c.eureka.HostName; name != "" {
		host = net.JoinHostPort(name, fmt.Sprint(c.eurekaPort+c.offset))
	}
	return scheme + "://" + host + "/eureka/"
}

// at returns where a room is: elsewhere if told so, else at a port of this machine.
func (c *cellConfig) at(url string, port int) string {
	if url != "" {
		return strings.TrimSuffix(url, "/")
	}
	return c.local(port)
}

// inside returns a URL of this platform as its own parts ask it: with the token, where everybody must bring it.
func (c *cellConfig) inside(base string) string {
	u, err := url.Parse(base)
	if err != nil || u.User != nil || !c.door.Local {
		return base
	}
	u.User = url.UserPassword("roadbed", c.door.Token)
	return u.String()
}

func (c *cellConfig) api() string  { return c.local(c.apiPort) }
func (c *cellConfig) edge() string { return c.at(c.edgeURL, c.edgePort) }

// edges is where the edge can be reached, with TLS too if it has that.
func (c *cellConfig) edges() string {
	if c.edgeTLS.port == 0 {
		return c.edge()
	}
	return c.edge() + "   " + strings.Replace(c.local(c.edgeTLS.port), "http:", "https:", 1)
}

func (c *cellConfig) registry() string  { return c.at(c.registryURL, c.eurekaPort) }
func (c *cellConfig) telemetry() string { return c.at(c.telemetryURL, c.atlasPort) }

// cell is one process of the platform: the rooms of its roles, wired together.
type cell struct {
	cellConfig
	surface *api.Surface
	engine  *engine.Engine

	// Rooms end in stages: the fleet drains its instances while everything else still works, then the edge drains,
	// then what asks other rooms ends, and at last the rooms that are asked.
	stages [4]stage
	health []check
	meters []*meter.Registry
	fail   chan error

	replaced atomic.Bool // a newer process has taken this one's place
}

type stage struct {
	cancel context.CancelFunc
	ctx    context.Context
	wg     sync.WaitGroup
}

const (
	stageFleet = iota
	stageEdge
	stageClients
	stageRooms
)

// check tells whether a room of this process does its work.
type check struct {
	room string
	err  func() error
}

// openCell listens on every port of its roles, opens the rooms and starts them. After an error nothing is left
// running.
func openCell(ctx context.Context, cfg cellConfig) (_ *cell, err error) {
	c := &cell{cellConfig: cfg, surface: api.New("roadbed", version), fail: make(chan error, 16)}
	for i := range c.stages {
		c.stages[i].ctx, c.stages[i].cancel = context.WithCancel(context.WithoutCancel(ctx))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if err := os.MkdirAll(cfg.data, 0o700); err != nil {
		return nil, fmt.Errorf("the state directory cannot be made: %w; name another with --data", err)
	}
	if c.door.Sockets, err = api.Inherit(); err != nil {
		return nil, err
	}
	ports, err := c.listen()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, l := range ports {
				l.Close()
			}
		}
	}()
	if err := c.rooms(ctx, ports); err != nil {
		return nil, err
	}
	c.start(stageRooms, "memory", keepMemory)
	c.mountHealth()
	c.surface.Mux.Handle("GET /metrics", meter.Handler(c.meters...))
	if err := c.mountElsewhere(); err != nil {
		return nil, err
	}
	c.serve(stageRooms, ports["api"], &http.Server{Handler: c.door.Authenticate(c.surface)})
	if err := c.door.Sockets.Ready(); err != nil {
		return nil, err
	}
	return c, nil
}

// stateless are the roles of which a process can be replaced by a newer one without anybody noticing.
var stateless = []string{"edge", "console"}

// replaceWithin is how long a new process may take until it serves.
const replaceWithin = time.Minute

// replace starts the program anew in this process's place. It reports whether this one shall end.
func (c *cell) replace(ctx context.Context) bool {
	for _, r := range c.roles {
		if !slices.Contains(stateless, r) {
			c.log.Error("this process cannot be replaced while it runs: it has the role " + r + ", which keeps state that two cannot have at once; stop it and start it anew, or run the roles " + strings.Join(stateless, " and ") + " in a process of their own")
			return false
		}
	}
	ctx, cancel := context.WithTimeout(ctx, replaceWithin)
	defer cancel()
	pid, err := c.door.Sockets.Replace(ctx)
	if err != nil {
		c.log.Error("no new process has taken this one's place, it goes on", "err", err)
		return false
	}
	c.replaced.Store(true)
	c.log.Info("a new process serves in this one's place", "pid", pid)
	return true
}

// listen opens every port before anything else happens, so that a taken one costs nothing.
func (c *cell) listen() (map[string]net.Listener, error) {
	ports := make(map[string]net.Listener)
	for _, p := range []struct {
		name, what, flag string
		port             int
		here             bool
	}{
		{"api", "the console", "--api-port", c.apiPort, true},
		{"edge", "the edge", "--edge-port", c.edgePort, c.has("edge")},
		{"edge-tls", "the edge", "--edge-tls-port", c.edgeTLS.port, c.has("edge") && c.edgeTLS.port != 0},
		{"eureka", "the registry", "--eureka-port", c.eurekaPort, c.has("registry") || c.has("properties")},
		{"atlas", "telemetry", "--atlas-port", c.atlasPort, c.has("telemetry")},
	} {
		if !p.here {
			continue
		}
		door := c.door
		if p.name == "edge-tls" {
			door.TLS = nil // it has certificates of its own
		}
		l, err := door.Listen(p.port+c.offset, p.what, p.flag)
		if err != nil {
			for _, open := range ports {
				open.Close()
			}
			return nil, err
		}
		ports[p.name] = l
	}
	return ports, nil
}

// rooms opens the rooms of the process's roles, floor by floor.
func (c *cell) rooms(ctx context.Context, ports map[string]net.Listener) error {
	here := roadbed.Location{Region: c.region, Zone: c.zones[0]}
	cache := filepath.Join(c.data, "cache")
	var book *ledger.Ledger
	var err error

	if c.has("engine") || c.has("registry") || c.has("properties") || c.has("fleet") {
		if c.engine, err = c.openEngine(ctx); err != nil {
			return err
		}
		c.watch("engine", c.engine.Health)
		if book, err = ledger.Open(ctx, c.engine); err != nil {
			return err
		}
		c.watch("ledger", book.Health)
		if c.has("engine") {
			book.Mount(c.surface)
			c.surface.Mux.HandleFunc("GET /api/v1/engine/backup", c.serveBackup)
		}
	}

	var found *discovery.Client
	if c.has("properties") || c.has("telemetry") || c.has("fleet") || c.has("edge") {
		found = discovery.New(discovery.Config{Registry: []string{c.inside(c.registry())}, Cache: cache, Location: here, Log: c.log})
		c.start(stageClients, "discovery", found.Run)
	}
	conf, eureka := http.NotFoundHandler(), http.NotFoundHandler()
	var reg *registry.Registry
	if c.has("properties") {
		props, err := properties.New(ctx, properties.Config{
			Engine: c.engine, Ledger: book, Order: c.scopeOrder, Discovery: found, Measure: c.measure, Log: c.log,
		})
		if err != nil {
			return err
		}
		faults, err := chaos.New(ctx, chaos.Config{Properties: props, Ledger: book})
		if err != nil {
			return err
		}
		props.Mount(c.surface)
		faults.Mount(c.surface)
		conf = props.Handler()
		c.start(stageRooms, "properties", props.Run)
		c.start(stageRooms, "chaos", faults.Run)
		regions, err := region.New(ctx, region.Config{Engine: c.engine, Ledger: book, Properties: props, Measure: c.lately, Log: c.log})
		if err != nil {
			return err
		}
		regions.Mount(c.surface)
		c.start(stageRooms, "regions", regions.Run)
	}
	if c.has("registry") {
		reg = registry.New(registry.Config{Ledger: book, Engine: c.engine, Location: here, Self: "registry-" + here.Zone, Settings: c.eureka, Meter: c.meter(here, "registry"), Log: c.log})
		reg.Mount(c.surface)
		c.watch("registry", reg.Health)
		c.start(stageRooms, "registry", reg.Run)
		eureka = reg.Handler()
	}
	if l := ports["eureka"]; l != nil {
		// No mux: Eureka's paths may hold doubled slashes, which one would redirect.
		srv := &http.Server{Handler: c.door.Authenticate(api.SameSite(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/config/") {
				conf.ServeHTTP(w, r)
			} else {
				eureka.ServeHTTP(w, r)
			}
		})))}
		if reg != nil {
			l = reg.Front(srv, l, c.door.Admits)
		}
		c.serve(stageRooms, l, srv)
	}
	if c.has("telemetry") {
		store := telemetry.New(telemetry.Config{Meter: c.meter(here, "telemetry"), Log: c.log})
		store.Mount(c.surface)
		c.start(stageRooms, "telemetry", store.Run)
		c.serve(stageRooms, ports["atlas"], &http.Server{Handler: c.door.Authenticate(api.SameSite(store.Handler()))})
		c.openTurbine(found)
	}

	c.openConsole()
	if c.has("fleet") {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find our own binary: %w", err)
		}
		crew, err := fleet.New(ctx, fleet.Config{
			Engine: c.engine, Ledger: book, Discovery: found, Dir: c.data, Region: c.region, Zones: c.zones,
			Env: c.childEnv(cache), Ports: fleet.Range{First: 20000 + c.offset, Last: 20999 + c.offset}, Self: self, Log: c.log, Meter: c.meter(here, "fleet"),
		})
		if err != nil {
			return err
		}
		crew.Mount(c.surface)
		c.start(stageFleet, "fleet", crew.Run)
	}
	if c.has("edge") {
		if err := c.openEdge(here, cache, found, book, ports); err != nil {
			return err
		}
	}
	return nil
}

func (c *cell) openEngine(ctx context.Context) (*engine.Engine, error) {
	alone := len(c.roles) == len(allRoles)
	cfg := engine.Config{Dir: filepath.Join(c.data, "engine"), Log: c.log}
	if !alone {
		token, err := engineToken(filepath.Join(c.data, "engine.token"), c.has("engine"))
		if err != nil {
			return nil, err
		}
		cfg.Token = token
	}
	switch addr := net.JoinHostPort("127.0.0.1", fmt.Sprint(c.enginePort+c.offset)); {
	case c.has("engine") && !alone:
		cfg.Listen = addr
	case !c.has("engine"):
		cfg.Dir = filepath.Join(c.data, "view-"+strings.Join(c.roles, "-"))
		cfg.URL = c.engineURL
		if cfg.URL == "" {
			cfg.URL = "nats://" + addr
		}
	}
	return engine.Open(ctx, cfg)
}

// engineToken returns the secret that processes of one platform share, from a file that the engine's process makes.
func engineToken(file string, create bool) (string, error) {
	b, err := os.ReadFile(file)
	switch {
	case err == nil:
		return strings.TrimSpace(string(b)), nil
	case !errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("read the engine's token: %w", err)
	case !create:
		return "", fmt.Errorf("there is no %s: start the process with the engine role first, with the same --data", file)
	}
	var secret [32]byte
	rand.Read(secret[:]) // never fails
	token := hex.EncodeToString(secret[:])
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the engine's token: %w", err)
	}
	return token, nil
}

func (c *cell) openEdge(here roadbed.Location, cache string, found *discovery.Client, book *ledger.Ledger, ports map[string]net.Listener) error {
	id := "edge-" + here.Zone
	m := c.meter(here, "edge")
	props := config.New(config.Options{URL: c.inside(c.registry()), Scope: config.Scope{App: "edge", Region: here.Region, Zone: here.Zone, Instance: id}, Cache: cache, Log: c.log})
	c.start(stageClients, "config", props.Run)
	key := props.String("fault.key", "")
	calls := ipc.New(ipc.Options{
		App: "edge", Instance: id, Location: here, Lists: found, Config: props, Meter: m, Log: c.log,
		FaultKey: func() fault.Key { return fault.Key(key.Get()) },
	})
	programs := make(chan roadbed.Change, 64)
	gate := edge.New(edge.Config{
		Changed: func(name, what, why string) {
			select {
			case programs <- roadbed.Change{Actor: id, Action: "program." + strings.ToLower(what), Resource: "program:" + name, Why: why, Result: roadbed.Succeeded}:
			default: // the edge's log has it, too
			}
		},
		Calls: calls, Discovery: found, Properties: props, Meter: m, Instance: id, Self: c.selfEdge(), Replaced: c.replaced.Load, Location: here, Store: api.Client{Base: c.inside(c.registry())}, AccessLog: filepath.Join(c.data, "access.log"), Log: c.log,
	})
	gate.Mount(c.surface)
	senders := gate.Senders()
	c.surface.Mux.Handle("/push", senders)
	c.surface.Mux.Handle("/push/", senders)
	c.surface.Mux.Handle("GET /api/v1/edge/calls", calls.StateHandler())
	c.surface.Mux.Handle("GET /api/v1/edge/why", calls.WhyHandler())
	shown := stream.New(stream.Config{Engine: calls, Properties: props})
	for _, path := range stream.Paths {
		c.surface.Mux.Handle(path, shown)
	}
	c.start(stageEdge, "edge", func(ctx context.Context) error {
		defer calls.Close()
		return gate.Run(ctx)
	})
	if book != nil {
		c.start(stageEdge, "the edge's part of the ledger", func(ctx context.Context) error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case change := <-programs:
					if _, err := book.Record(ctx, change); err != nil {
						c.log.Warn("what the edge did is not in the ledger", "resource", change.Resource, "action", change.Action, "err", err)
					}
				}
			}
		})
	}
	plain, err := gate.Door(edge.DoorConfig{Name: "http", ProxyProtocol: c.edgeTLS.proxy})
	if err != nil {
		return fmt.Errorf("the edge: %w", err)
	}
	c.start(stageEdge, "the edge", func(ctx context.Context) error { return plain.Run(ctx, ports["edge"], nil) })
	l := ports["edge-tls"]
	if l == nil {
		return nil
	}
	t := edge.TLSConfig{
		Dir: c.edgeTLS.certs, ACMEHosts: c.edgeTLS.acmeHosts, ACMEEmail: c.edgeTLS.acmeEmail, ACMEDirectory: c.edgeTLS.acmeDirectory, ACMEDir: filepath.Join(c.data, "acme"),
		ClientCA: c.edgeTLS.clientCA, ClientCRL: c.edgeTLS.clientCRL, ClientOptional: c.edgeTLS.clientOptional,
	}
	if t.Dir == "" && len(t.ACMEHosts) == 0 {
		t.SelfSigned = filepath.Join(c.data, "edge-tls")
	}
	secure, err := gate.Door(edge.DoorConfig{Name: "https", ProxyProtocol: c.edgeTLS.proxy, TLS: &t})
	if err != nil {
		return fmt.Errorf("the edge's TLS: %w", err)
	}
	var quic net.PacketConn
	if c.edgeTLS.http3 {
		if quic, err = c.door.Sockets.ListenPacket(l.Addr().String()); err != nil {
			return fmt.Errorf("the edge's HTTP/3: %w", err)
		}
	}
	c.start(stageEdge, "the edge's TLS", func(ctx context.Context) error { return secure.Run(ctx, l, quic) })
	return nil
}

// selfEdge is the edge of this process as the registry may have it. Unlike its id for properties, that of the registry differs between edges
// of one zone.
func (c *cell) selfEdge() roadbed.Instance {
	host, port := c.door.Host, c.edgePort+c.offset
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return roadbed.Instance{ID: fmt.Sprintf("%s:edge:%d", host, port), Host: host, Port: port, Secure: c.door.TLS != nil}
}

// openTurbine adds the Hystrix streams of each app's instances up to one, and those of the edge where it runs here.
func (c *cell) openTurbine(found *discovery.Client) {
	own := map[string][]string{}
	if c.has("edge") || c.apiOf["edge"] != "" {
		own["edge"] = []string{c.inside(strings.TrimSuffix(cmp.Or(c.apiOf["edge"], c.api()), "/")) + "/hystrix.stream"}
	}
	sums := turbine.New(turbine.Config{Discovery: found, Static: own, Log: c.log})
	c.surface.Mux.Handle("/turbine.stream", sums)
	c.surface.Mux.Handle("/clusters", sums)
}

func (c *cell) openConsole() {
	if !c.has("console") {
		return
	}
	ui := console.New(console.Config{API: c.inside(c.api()), Log: c.log})
	c.start(stageClients, "console", ui.Run)
	ui.Mount(c.surface)
}

// meter returns a registry that publishes to telemetry in the name of app.
func (c *cell) meter(here roadbed.Location, app string) *meter.Registry {
	m := meter.New(map[string]string{
		"nf.app": app, "nf.cluster": app, "nf.node": app + "-" + here.Zone, "nf.zone": here.Zone, "nf.region": here.Region,
	})
	c.meters = append(c.meters, m)
	c.start(stageClients, "meter", func(ctx context.Context) error { return m.Publish(ctx, c.inside(c.telemetry()), publishStep) })
	return m
}

// childEnv is what every instance is told about the platform.
func (c *cell) childEnv(cache string) []string {
	return []string{
		"ROADBED_REGISTRY=" + c.inside(c.registry()),
		"ROADBED_CONFIG=" + c.inside(c.registry()),
		"ROADBED_TELEMETRY=" + c.inside(c.telemetry()),
		"ROADBED_EDGE=" + c.edge() + "/",
		"ROADBED_API=" + c.inside(c.api()),
		"ROADBED_CACHE=" + cache,
		"EUREKA_CLIENT_SERVICEURL_DEFAULTZONE=" + c.inside(c.registry()) + "/eureka/",
	}
}

// mountElsewhere passes requests for rooms of other processes on, so that one address serves the whole API.
func (c *cell) mountElsewhere() error {
	for _, room := range []struct {
		role     string
		prefixes []string
	}{
		{"engine", []string{"/api/v1/changes", "/api/v1/engine/"}},
		{"registry", []string{"/api/v1/services", "/api/v1/registry/"}},
		{"properties", []string{"/config/", "/api/v1/faults", "/api/v1/regions"}},
		{"telemetry", []string{"/api/v1/graph", "/api/v1/tags", "/api/v1/traffic", "/turbine.stream", "/clusters"}},
		{"fleet", []string{"/api/v1/clusters", "/api/v1/server-groups", "/api/v1/instances"}},
		{"edge", []string{"/api/v1/edge/"}},
	} {
		if c.has(room.role) {
			continue
		}
		var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			api.WriteProblem(w, r, api.Problem(http.StatusServiceUnavailable,
				"the %s role does not run in this process; name the API of the one that runs it with --api-of %[1]s=URL", room.role))
		})
		if base := c.apiOf[room.role]; base != "" {
			target, err := url.Parse(base)
			if err != nil {
				return fmt.Errorf("--api-of %s: %w", room.role, err)
			}
			h = &httputil.ReverseProxy{
				Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
				FlushInterval: -1,
				ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
					api.WriteProblem(w, r, api.Problem(http.StatusBadGateway, "the %s role at %s does not answer: %v", room.role, base, err))
				},
			}
		}
		for _, p := range room.prefixes {
			c.surface.Mux.Handle(p, h)
			if !strings.HasSuffix(p, "/") {
				c.surface.Mux.Handle(p+"/", h)
			}
		}
	}
	return nil
}

func (c *cell) watch(room string, err func() error) { c.health = append(c.health, check{room, err}) }

// healthy returns why a room of this process does not do its work, nil when all do.
func (c *cell) healthy() error {
	for _, k := range c.health {
		if err := k.err(); err != nil {
			return fmt.Errorf("%s: %w", k.room, err)
		}
	}
	return nil
}

// roomHealth is one line of GET /api/v1/health.
type roomHealth struct {
	Room    string `json:"room"`
	Healthy bool   `json:"healthy"`
	Detail  string `json:"detail,omitempty"`
}

func (c *cell) mountHealth() {
	c.surface.Mux.HandleFunc("GET /api/v1/health", func(w http.ResponseWriter, r *http.Request) {
		answer := struct {
			Status  string       `json:"status"`
			Version string       `json:"version"`
			Roles   []string     `json:"roles"`
			Edge    string       `json:"edge"`
			Rooms   []roomHealth `json:"rooms"`
		}{Status: "UP", Version: version, Roles: c.roles, Edge: c.edge()}
		for _, k := range c.health {
			h := roomHealth{Room: k.room, Healthy: true}
			if err := k.err(); err != nil {
				h.Healthy, h.Detail = false, err.Error()
				answer.Status = "DEGRADED"
			}
			answer.Rooms = append(answer.Rooms, h)
		}
		api.WriteJSON(w, answer)
	})
}

// serveBackup sends the engine's state. It is collected first, so that a failure is a status and not half a file.
func (c *cell) serveBackup(w http.ResponseWriter, r *http.Request) {
	f, err := os.CreateTemp(c.data, "backup-*")
	if err != nil {
		api.WriteProblem(w, r, fmt.Errorf("a backup needs room in the state directory: %w", err))
		return
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := c.engine.Backup(r.Context(), f); err != nil {
		api.WriteProblem(w, r, fmt.Errorf("backup: %w", err))
		return
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		api.WriteProblem(w, r, fmt.Errorf("backup: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/zstd")
	http.ServeContent(w, r, "", time.Time{}, f)
}

// start runs a room until its stage ends. A room that fails ends the process.
func (c *cell) start(s int, name string, run func(context.Context) error) {
	st := &c.stages[s]
	st.wg.Go(func() {
		if err := run(st.ctx); err != nil && st.ctx.Err() == nil {
			c.fail <- fmt.Errorf("%s: %w", name, err)
		}
	})
}

// serve answers on l until its stage ends, then lets requests finish.
func (c *cell) serve(s int, l net.Listener, srv *http.Server) {
	if srv.ReadHeaderTimeout == 0 {
		srv.ReadHeaderTimeout = 10 * time.Second
	}
	if srv.IdleTimeout == 0 {
		srv.IdleTimeout = 90 * time.Second
	}
	srv.ErrorLog = log.New(serverLog{c.log}, "", 0)
	st := &c.stages[s]
	if s == stageRooms {
		// Event streams last as long as their request, so that must end before the server waits for it. The edge's
		// requests are somebody's and are left to finish.
		srv.BaseContext = func(net.Listener) context.Context { return st.ctx }
	}
	c.start(s, l.Addr().String(), func(ctx context.Context) error {
		done := make(chan error, 1)
		go func() { done <- srv.Serve(l) }()
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
		}
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := srv.Shutdown(wait); err != nil {
			srv.Close()
		}
		<-done
		return nil
	})
}

// serverLog takes what net/http's servers say. Most of that is clients' doing.
type serverLog struct{ log *slog.Logger }

// Write logs one message.
func (l serverLog) Write(said []byte) (int, error) {
	level := slog.LevelDebug
	switch {
	case bytes.HasPrefix(said, []byte("http: panic")):
		level = slog.LevelError
	case bytes.HasPrefix(said, []byte("http: Accept error")): // such as no file descriptors
		level = slog.LevelWarn
	}
	l.log.Log(context.Background(), level, string(bytes.TrimSpace(said)))
	return len(said), nil
}

// wait blocks until ctx ends or a room fails, calls stopping, then ends everything in order.
func (c *cell) wait(ctx context.Context, stopping func()) error {
	var failed error
	for waiting := true; waiting; {
		waiting = false
		select {
		case <-ctx.Done():
		case failed = <-c.fail:
		case <-c.replaceAsked:
			waiting = !c.replace(ctx)
		}
	}
	stopping()
	return errors.Join(failed, c.close())
}

func (c *cell) close() error {
	for i := range c.stages {
		c.stages[i].cancel()
		c.stages[i].wg.Wait()
	}
	if c.engine != nil {
		return c.engine.Close()
	}
	return nil
}
