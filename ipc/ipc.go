// Package ipc makes calls between services that survive the failure of what they call. At Netflix these were Ribbon,
// which found and balanced, and Hystrix, which contained failures.
//
// One [Engine] serves a process. Its HTTP client takes the names of apps for hosts:
//
//	calls := ipc.New(ipc.Options{App: "api", Lists: discovery})
//	defer calls.Close()
//	resp, err := calls.HTTPClient().Get("http://catalog/titles")
//
// Anything else that may fail runs as a command, with a fallback if there is one:
//
//	popular := calls.Command("recommendations", ipc.Settings{Timeout: 300 * time.Millisecond})
//	titles, err := ipc.CallOr(ctx, popular, fetch, func(context.Context, error) ([]Title, error) { return top100, nil })
//
// A command may be declared once, with all that belongs to it; see [Define]; with [Batch] one
// that answers many arguments at once, which are collected.
//
// A proxy that speaks its own wire makes a call step by step, by the same rules; see [Passage].
//
// An HTTP call made inside a command named as the app it calls shares that command's breaker, bulkhead and time.
// Handlers are wrapped once, so that deadline, criticality, request id and injected faults travel on:
//
//	http.ListenAndServe(addr, calls.Handler(mux))
//
// A host with a port, an IP address, or a name with dots that no registry knows is called as any http.Client would.
//
// # What it promises
//   - No HTTP call waits past its deadline: the earlier of the caller's and the command's timeout, retries included.
//   - An instance that dies in the middle of a request fails no idempotent caller as long as another instance lives:
//     a refused connection is retried elsewhere at once, a broken one within the retry budget.
//   - Retries add at most a fifth to the load of an app or, as long as they help, ten a second if that is more;
//     connections that were refused do not count. They do not multiply from hop to hop: whoever is nearest to the
//     trouble tries again, and those upstream do not.
//   - Where hedging is on, an idempotent call that takes longer than most gets a second attempt at another instance;
//     that adds at most 2 % to the load, and the attempt that loses counts for nobody.
//   - A broken app is refused after 20 calls in 10 s of which half failed; one call every 5 s tries it again.
//   - At most MaxConcurrent calls of one command are in flight, also after timeouts.
//   - A request is never altered, and its body is always closed.
//   - A server that is overloaded five times over serves what is CRITICAL, within twice the time it takes unloaded from
//     the third second on, as long as that alone is no overload; BULK is refused first. While requests are as fast as
//     usual and processors are not busy nobody is refused.
//   - Every list of instances is kept for ever; only a list that says otherwise replaces it.
//
// # What it does not
//   - A run function that ignores its context delays its caller beyond the deadline, unless it is declared by [Define]
//     and isolated by threads; else no goroutine stands between.
//   - A response body that breaks off after its headers came is the caller's to handle.
//
// # What it costs
//
// A call that is let through costs one allocation, a refused one none; see the module's bench folder for figures.
package ipc

import (
	"context"
	"crypto/tls"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/meter"
)

// Lists tells where the instances of apps are. A discovery client is one, [Static] another.
type Lists interface {
	// Watch calls fn with the instances of app known now, before it returns, and again after each change. An empty app
	// means every app.
	Watch(app string, fn func([]roadbed.Instance)) (stop func())
}

// Static is a list of instances by app that never changes.
type Static map[string][]roadbed.Instance

// Watch calls fn once.
func (s Static) Watch(app string, fn func([]roadbed.Instance)) (stop func()) {
	if app == "" {
		fn(slices.Concat(slices.Collect(maps.Values(s))...))
	} else {
		fn(s[app])
	}
	return func() {}
}

// Options configure an engine. The zero value works and knows no instances.
type Options struct {
	App       string             // own name, told to callees
	Instance  string             // own id
	Cluster   string             // own cluster, e.g. "api-prod", for faults that are aimed at one
	Location  roadbed.Location   // callees in the own zone are preferred
	Lists     Lists              // nil: no instances
	Config    *config.Properties // dynamic settings; nil: those of the code
	Meter     *meter.Registry    // nil: no metrics
	FaultKey  func() fault.Key   // verifies the X-Fit header; nil, or a nil key: no faults are injected
	Server    ServerSettings     // of Handler; New panics if they make no sense
	Transport http.RoundTripper  // makes the single exchanges; nil: a tuned http.Transport
	Log       *slog.Logger       // nil: slog.Default()

	// Handshake makes a connection to addr one over TLS that speaks HTTP/2, or else HTTP/1.1, within two seconds; nil: callees are
	// believed if this machine trusts their certificates. A Transport of one's own has its own ways.
	Handshake func(ctx context.Context, c net.Conn, addr string, http2 bool) (*tls.Conn, error)
}

// Engine makes calls. Its methods may be used from many goroutines.
type Engine struct {
	app       string
	instance  string
	zone      string
	home      string // own cluster
	lists     Lists
	meter     *meter.Registry
	faultKey  func() fault.Key
	base      http.RoundTripper
	handshake func(ctx context.Context, c net.Conn, addr string, http2 bool) (*tls.Conn, error)
	ownBase   *http.Transport // closed with the engine; nil if Options brought one
	http2     *http.Transport // for what HTTP/1 cannot carry; nil if Options brought one
	log       *slog.Logger
	config    *config.Properties
	clock     *clock
	shards    int
	knobs     []knob[Settings]
	faultsOn  [2]*config.Value[bool]
	maxFaults *config.Value[*faultLimit]
	logging   atomic.Int64                  // how many want requests logged
	faults    atomic.Int64                  // being injected now
	faultStop atomic.Pointer[chan struct{}] // closed while a kill switch is thrown
	server    server
	events    eventRing
	served    served
	ticker    *time.Ticker
	period    atomic.Int64 // of the ticker: the shortest health interval of all commands
	stop      chan struct{}
	wg        sync.WaitGroup
	unwatch   []func()

	commands atomic.Pointer[map[string]*Command] // copied on write
	clusters atomic.Pointer[map[string]*cluster] // copied on write
	pools    atomic.Pointer[map[string]*pool]    // copied on write

	collapsers atomic.Pointer[map[string]*collapser] // copied on write

	mu       sync.Mutex // guards writes of the maps, and:
	byPrefix [len(prefixes)]properties
	props    properties        // all of them
	defined  map[string]bool   // names given to Define or Batch
	refused  map[string]string // bad property -> text that was logged
	closed   bool
}

// New makes an engine. Close it after use.
func New(o Options) *Engine {
	e := &Engine{
		app: o.App, instance: o.Instance, zone: o.Location.Zone, home: o.Cluster, lists: o.Lists, meter: o.Meter, faultKey: o.FaultKey,
		base: o.Transport, handshake: o.Handshake, log: o.Log, config: o.Config, clock: newClock(), shards: shardCount(), knobs: commandKnobs(),
		faultsOn:  [2]*config.Value[bool]{o.Config.Bool("fault.enabled", true), o.Config.Bool("ipc.fit.enabled", true)},
		maxFaults: config.Must(config.Bind(o.Config, "ipc.fit.", faultLimit{100})),
		ticker:    time.NewTicker(tickTime),
		stop:      make(chan struct{}), refused: map[string]string{}, defined: map[string]bool{},
	}
	e.period.Store(int64(tickTime))
	if e.log == nil {
		e.log = slog.Default()
	}
	if e.lists == nil {
		e.lists = Static{}
	}
	if e.faultKey == nil {
		e.faultKey = func() fault.Key { return nil }
	}
	if e.base == nil {
		e.ownBase = e.newTransport(0, false)
		e.base = e.ownBase
		e.http2 = e.newHTTP2()
	}
	e.commands.Store(&map[string]*Command{})
	e.clusters.Store(&map[string]*cluster{})
	e.pools.Store(&map[string]*pool{})
	e.collapsers.Store(&map[string]*collapser{})
	e.server.init(e, o.Server)
	e.watchSwitches()
	for i, prefix := range prefixes {
		e.unwatch = append(e.unwatch, o.Config.Prefix(prefix, func(p map[string]string) { e.configure(i, p) }))
	}
	e.wg.Go(e.run)
	return e
}

// shardCount is a power of two, so that a mask chooses. Goroutines are spread by chance: with more shards than cores
// few of those that run at once share one.
func shardCount() int {
	if runtime.GOMAXPROCS(0) == 1 {
		return 1
	}
	return 8
}

// run rolls the windows until the engine is closed.
func (e *Engine) run() {
	defer e.ticker.Stop()
	budgets := e.clock.now() + int64(tickTime)
	for {
		select {
		case <-e.stop:
			return
		case <-e.ticker.C:
		}
		now, period := e.clock.now(), time.Duration(e.period.Load())
		for _, c := range *e.commands.Load() {
			c.tick(now, period)
		}
		for _, p := range *e.pools.Load() {
			p.tick(now, period)
		}
		for _, c := range *e.collapsers.Load() {
			c.tick(now, period)
		}
		if isDue(&budgets, now, tickTime, period) {
			for _, c := range *e.commands.Load() {
				if news := c.budget.tick(); news != "" {
					e.event(BudgetEvent, c.name, news)
				}
				if h := c.hedges.Load(); h != nil {
					h.tick()
				}
			}
			for _, cl := range *e.clusters.Load() {
				if h := cl.hedges.Load(); h != nil {
					h.tick()
				}
			}
		}
	}
}

// Close ends the engine's goroutines and idle connections. Calls under way go on.
func (e *Engine) Close() {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return
	}
	e.closed = true
	e.mu.Unlock()
	close(e.stop)
	close(e.clock.stop)
	for _, stop := range e.unwatch {
		stop()
	}
	for _, cl := range *e.clusters.Load() {
		cl.close()
	}
	e.wg.Wait()
	e.clock.wg.Wait()
	if e.ownBase != nil {
		e.ownBase.CloseIdleConnections()
		e.http2.CloseIdleConnections()
	}
}

// Command returns the one command of that name. Settings that are not zero replace those of earlier calls; settings
// that make no sense are logged and ignored.
func (e *Engine) Command(name string, s Settings) *Command {
	if c := (*e.commands.Load())[name]; c != nil && s == (Settings{}) {
		return c
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	old := *e.commands.Load()
	c := old[name]
	isNew := c == nil
	if isNew {
		c = newCommand(e, name)
	}
	if err := s.validate(); err != nil {
		e.log.Error("settings of a command make no sense; the others stay", "command", name, "err", err)
	} else if s != (Settings{}) {
		c.code = s
	}
	e.resolve(c)
	if isNew {
		set := c.set.Load()
		c.window.init(e.clock.now(), set)
		if int64(set.HealthInterval) < e.period.Load() && !e.closed {
			e.period.Store(int64(set.HealthInterval))
			e.ticker.Reset(set.HealthInterval)
		}
		all := maps.Clone(old)
		all[name] = c
		e.commands.Store(&all)
		e.meter.GaugeFunc("ipc.breaker.state", func() float64 { return c.breakerState() }, "ipc.command", name)
	}
	return c
}

// configure takes the properties under one prefix.
func (e *Engine) configure(i int, p map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.byPrefix[i] = p
	all := properties{}
	for _, p := range e.byPrefix {
		maps.Copy(all, p)
	}
	e.props = all
	for _, c := range *e.commands.Load() {
		e.resolve(c)
	}
	for _, p := range *e.pools.Load() {
		p.resolve()
	}
	for _, c := range *e.collapsers.Load() {
		c.resolve()
	}
	e.server.shed.configure(e, resolveServer(e.server.code, all, e.server.knobs, e.server.shed.set.Load(), e.refuse))
}

// resolve works out a command's settings. The caller holds mu.
func (e *Engine) resolve(c *Command) {
	set := resolve(c.name, c.code, e.props, e.knobs, c.set.Load(), e.refuse)
	set.part = int32(set.MaxConcurrent / 2 / len(c.shards))
	c.slowAfter.Store(int64(set.SlowCall))
	c.adapt(c.set.Load(), set)
	c.set.Store(set)
}

// refuse tells of a property that is not taken, once. The caller holds mu.
func (e *Engine) refuse(key, text string, err error) {
	if old, told := e.refused[key]; !told || old != text {
		e.refused[key] = text
		e.log.Error("property has a bad value; the last good one stays", "key", key, "value", text, "err", err)
	}
	e.config.Refuse(key, text, err)
}

// cluster returns what is known about the app of that name.
func (e *Engine) cluster(app string) *cluster {
	if cl := (*e.clusters.Load())[app]; cl != nil {
		return cl
	}
	cmd := e.Command(app, Settings{})
	e.mu.Lock()
	old := *e.clusters.Load()
	if cl := old[app]; cl != nil {
		e.mu.Unlock()
		return cl
	}
	cl := newCluster(e, app, cmd)
	cmd.vip.Store(true)
	e.meter.GaugeFunc("ipc.budget.balance", func() float64 { return cl.budget.balance(cmd.set.Load()) }, "ipc.vip", app)
	e.meter.GaugeFunc("ipc.client.inflight", func() float64 { return float64(cmd.inFlight()) }, "ipc.vip", app)
	all := maps.Clone(old)
	all[app] = cl
	e.clusters.Store(&all)
	shut := e.closed
	e.mu.Unlock()
	if shut {
		cl.close()
	} else {
		cl.watch(e.lists) // outside mu: Lists calls back at once
	}
	return cl
}

// HTTPClient returns a client that takes names of apps for hosts. It follows redirects as http.DefaultClient does.
func (e *Engine) HTTPClient() *http.Client { return &http.Client{Transport: e.Transport()} }

// Transport returns what HTTPClient sends requests with.
func (e *Engine) Transport() http.RoundTripper { return (*transport)(e) }

// faultLimit is how many faults a process injects at the same time.
type faultLimit struct{ MaxActive int }

// Validate refuses what is no number of faults. With 0 none is injected.
func (l *faultLimit) Validate() error {
	return config.Between("ipc.fit.maxActive", l.MaxActive, 0, 1_000_000)
}

// injecting reserves one of the faults that may be injected at the same time.
func (e *Engine) injecting() (leave func(), ok bool) {
	if !e.faultsOn[0].Get() || !e.faultsOn[1].Get() {
		return nil, false
	}
	if e.faults.Add(1) > int64(e.maxFaults.Get().MaxActive) {
		e.faults.Add(-1)
		return nil, false
	}
	return func() { e.faults.Add(-1) }, true
}

// injected counts a fault.
func (e *Engine) injected(point string, a *fault.Action) {
	e.faultHit(a.Rule)
	e.meter.Counter("ipc.fit.injected", "ipc.point", point, "ipc.action", a.Name()).Inc()
}

// result is the tag ipc.result.
type result uint8

const (
	resultSuccess result = iota
	resultFallback
	resultFailure
)

var resultNames = [3]string{"success", "fallback", "failure"}

// report records one logical call.
func (c *Command) report(how *ending, r result) {
	if c.engine.meter == nil || how.other {
		return
	}
	d := time.Duration(0)
	if how.start != 0 {
		d = time.Duration(max(0, c.clock.roughly()-how.start))
	}
	c.record(r, how.kind, d)
}

func (c *Command) record(r result, k Kind, d time.Duration) {
	slot := &c.timers[r][k]
	t := slot.Load()
	if t == nil {
		t = c.engine.meter.PercentileTimer("ipc.client.call", "ipc.vip", c.name, "ipc.result", resultNames[r], "ipc.cause", k.String())
		slot.Store(t)
	}
	t.Record(d)
}

func (c *Command) breakerState() float64 {
	switch c.breaker.name(c.set.Load()) {
	case "OPEN":
		return 1
	case "HALF_OPEN":
		return 2
	}
	return 0
}

// commandNames returns all names in order.
func (e *Engine) commandNames() []string {
	var out []string
	for n := range *e.commands.Load() {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}
