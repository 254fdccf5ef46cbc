// Package fleet keeps services running: it starts the instances of server groups as processes on this machine, spreads
// them over zones, asks whether they are well, restarts what is lost and takes out of traffic what leaves. At Netflix
// this was Titus, and the auto scaling groups before it.
//
//	f, err := fleet.New(ctx, fleet.Config{Engine: e, Ledger: l, Discovery: d, Dir: ".roadbed/fleet", Self: "/usr/bin/roadbed"})
//	go f.Run(ctx)
//	g, err := f.Create(ctx, fleet.Spec{Name: "hello", Command: []string{"python3", "-m", "http.server", "{port}"}, Instances: 2})
//
// What should run is a table in the engine; what does run follows it. An instance is a slot's current life: slot 1 of
// hello-v000 is "hello-v000-1-x7f3" until it is lost, then "hello-v000-1-q2mb". A slot keeps its zone and its port.
//
// A life goes like this. The fleet finds the port free, starts the command in a session of its own, and registers it
// STARTING (or, with register "self", lets it register itself). It asks GET /healthcheck, or GET / where that does not
// exist; the first good answer makes it UP. An instance that answers badly is DOWN and stays; one that does not answer
// at all, six times in a row, is restarted. When a process exits it leaves the registry in the same moment, its whole
// process group is killed, and the next life begins: at once the first time, then after 1 s, 2 s, 4 s, up to 30 s,
// until one was well for a minute. Three losses in a row are shown as a crash loop with the last lines of the log.
//
// # What it promises
//   - The engine's table is what runs: after a restart of the platform the same groups and counts come back.
//   - Zones of a group differ by at most one instance, and a lost one is replaced in its own zone and slot.
//   - Self-healing needs nothing but this process: it goes on while engine, ledger and registry are away. Mutations
//     are refused meanwhile.
//   - Every mutation is in the ledger before it is done. What the fleet does by itself is there too, by actor "fleet";
//     a crash loop makes a few entries, not thousands.
//   - An instance leaves the registry before it is stopped: a pause, SIGTERM, ten seconds, SIGKILL to the whole group.
//   - No instance outlives the platform, however that dies. On Linux three things see to it: the kernel's parent-death
//     signal, the guard process ([Guard]), and the sweep of the next start. The sweep signals a process only if its pid,
//     its start and the marks in its environment all fit.
//
// # What it does not
//   - It limits nothing: an instance may take all memory and all CPU there are. There are no cgroups and no containers.
//   - It adopts nothing: instances end with the platform and are started anew.
//   - One fleet per table and per directory; several machines are not scheduled over.
//   - A program that changes its user id escapes the parent-death signal, one that also leaves its session and clears
//     its environment escapes everything.
//   - Outside Linux there are no parent-death signal and no sweep; the guard remains.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/ledger"
)

// Config says what a fleet stands on. Engine, Ledger and Dir are needed; everything else has a default.
type Config struct {
	Engine    *engine.Engine
	Ledger    *ledger.Ledger
	Discovery *discovery.Client // nil: nothing is registered
	Dir       string            // holds logs, run (records of what runs), cache (of instances) and a lock; created if absent
	Region    string            // "local" when empty
	Zones     []string          // zone-a, zone-b and zone-c when empty
	Env       []string          // "NAME=value": what every instance gets beside the platform's own environment
	Ports     Range             // for instances without a port of their own; 20000 to 20999 when zero
	Self      string            // the roadbed binary, for the guard and for {self} in commands; empty: there is no guard
	Log       *slog.Logger      // slog.Default() when nil
	Meter     *meter.Registry
}

// Range is a range of TCP ports, both ends included.
type Range struct{ First, Last int }

// record is what the table holds under a server group's name.
type record struct {
	Group    roadbed.ServerGroup `json:"group"`
	Spec     Spec                `json:"spec"`
	Replaces string              `json:"replaces,omitempty"` // the server group to destroy when this one is healthy
}

// Fleet runs server groups. Its methods may be called from many goroutines, before and while it runs.
type Fleet struct {
	c       Config
	log     *slog.Logger
	table   *engine.Table[record]
	pace    pace
	maxLog  int64
	prober  *http.Client
	baseEnv []string
	pids    pidDir
	logs    logDir

	writing sync.Mutex // one mutation at a time, so that two do not choose the same name

	told chan roadbed.Change // what the fleet did by itself, on its way to the ledger

	// Set while Run runs, before any slot starts.
	spawn *spawner
	guard *guardian
	slots sync.WaitGroup // keepers of slots
	side  sync.WaitGroup // short work beside them

	closing chan struct{} // closed when Run should end

	mu        sync.Mutex
	running   bool              // guarded by mu, as is what follows
	groups    map[string]*group // by name; also those that are ending
	ports     map[int]string    // given to slots, by port
	changed   chan struct{}     // closed and replaced when anything here changes
	replacing map[string]bool   // old server groups whose destruction is under way
}

// New returns a fleet that runs nothing yet. It fails if the engine's table cannot be opened or c lacks something.
func New(ctx context.Context, c Config) (*Fleet, error) {
	if c.Engine == nil || c.Ledger == nil || c.Dir == "" {
		return nil, errors.New("fleet: Config needs Engine, Ledger and Dir")
	}
	if c.Region == "" {
		c.Region = "local"
	}
	if len(c.Zones) == 0 {
		c.Zones = []string{"zone-a", "zone-b", "zone-c"}
	}
	if c.Ports == (Range{}) {
		c.Ports = Range{20000, 20999}
	}
	if c.Ports.First < 1 || c.Ports.Last > 65535 || c.Ports.First > c.Ports.Last {
		return nil, fmt.Errorf("fleet: port range %d to %d: must be within 1 to 65535", c.Ports.First, c.Ports.Last)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	c.Dir = dir
	f := &Fleet{
		c: c, log: c.Log.With("room", "fleet"), pace: usualPace(), maxLog: maxLogFile, prober: newProbeClient(),
		baseEnv: inherited(os.Environ()),
		pids:    pidDir(filepath.Join(dir, "run")), logs: logDir(filepath.Join(dir, "logs")),
		told: make(chan roadbed.Change, 256), closing: make(chan struct{}),
		groups: make(map[string]*group), ports: make(map[int]string),
		changed: make(chan struct{}), replacing: make(map[string]bool),
	}
	for _, d := range []string{string(f.pids), string(f.logs), filepath.Join(dir, "cache")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("fleet: make its directory: %w", err)
		}
	}
	if f.table, err = engine.OpenTable[record](ctx, c.Engine, "fleet", 5); err != nil {
		return nil, fmt.Errorf("fleet: open what should run: %w", err)
	}
	for _, s := range states {
		c.Meter.GaugeFunc("fleet.instances", func() float64 { return f.count(s) }, "state", string(s))
	}
	return f, nil
}

// Run ends what an earlier run left behind, starts what should run and keeps it running until ctx ends; then it stops
// every instance gracefully, all at once, and returns nil. It fails at once if another process runs instances from the
// same directory, or the guard cannot be started. Run may be called once.
func (f *Fleet) Run(ctx context.Context) error {
	unlock, err := lockDir(f.c.Dir)
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	defer unlock()
	if err := f.pids.sweep(f.c.Dir, f.log); err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	if f.c.Self == "" {
		f.log.Warn("there is no guard process: if the platform is killed, grandchildren of it may stay until its next start")
	}
	if f.guard, err = newGuardian(f.c.Self, f.c.Dir, f.log); err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	defer f.guard.close()
	f.spawn = newSpawner()
	defer f.spawn.close()

	telling, stopTelling := context.WithCancel(context.Background())
	var teller sync.WaitGroup
	teller.Go(func() { f.tell(telling) })
	defer teller.Wait()
	defer stopTelling()

	f.mu.Lock()
	f.running = true
	f.broadcast()
	f.mu.Unlock()
	f.follow(ctx)
	close(f.closing)

	f.mu.Lock()
	f.running = false
	for _, g := range f.groups {
		for _, s := range g.slots {
			s.stop()
		}
	}
	f.mu.Unlock()
	f.slots.Wait()
	f.side.Wait()
	return nil
}

// follow reconciles with each change of the table until ctx ends.
func (f *Fleet) follow(ctx context.Context) {
	for {
		events := f.table.Watch(ctx, "")
		seen := make(map[string]bool)
		synced := false
		for open := true; open; {
			select {
			case ev, ok := <-events:
				switch open = ok; {
				case !ok:
				case ev.Kind == engine.Synced:
					synced = true
					for _, name := range f.known() {
						if !seen[name] {
							f.reconcile(name) // destroyed while nobody watched
						}
					}
				default:
					name := nameOf(ev.Entry.Key)
					if !synced {
						seen[name] = true
					}
					f.reconcile(name)
				}
			case <-f.whenChanged():
			}
			f.finishReplacements(ctx)
		}
		// The watch ends with ctx, or with the engine; then what runs is kept running without it.
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// reconcile makes the slots of one server group those that the table asks for. It may be called at any time.
func (f *Fleet) reconcile(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.running {
		return
	}
	// Read under the lock: a reader that came later must not be overtaken by one that saw less.
	e, ok := f.table.Get(keyOf(name))
	g := f.groups[name]
	if !ok {
		if g != nil {
			g.ending = true
			for _, s := range g.slots {
				s.stop()
			}
			f.settle(g)
		}
		return
	}
	if g == nil {
		g = &group{name: name, slots: make(map[int]*slot)}
		f.groups[name] = g
	}
	g.ending, g.rec = false, e.Value
	for n := range g.rec.Group.Capacity.Desired {
		if old := g.slots[n]; old == nil || old.stopping {
			g.slots[n] = f.startSlot(g, n, old)
		}
	}
	for n, s := range g.slots {
		if n >= g.rec.Group.Capacity.Desired {
			s.stop()
		}
		s.wake()
	}
	f.broadcast()
}

// settle forgets a server group that has ended; mu is held.
func (f *Fleet) settle(g *group) {
	if !g.ending || len(g.slots) > 0 || f.groups[g.name] != g {
		return
	}
	delete(f.groups, g.name)
	f.broadcast()
	files, err := filepath.Glob(filepath.Join(string(f.logs), g.name+"-*-????.log*"))
	caches, cerr := filepath.Glob(filepath.Join(f.c.Dir, "cache", g.name+"-*"))
	for _, x := range append(files, caches...) {
		err = errors.Join(err, os.RemoveAll(x))
	}
	if err = errors.Join(err, cerr); err != nil {
		f.log.Warn("cannot remove what a destroyed server group left on disk", "group", g.name, "err", err)
	}
}

// finishReplacements destroys the server groups whose successors are healthy.
func (f *Fleet) finishReplacements(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.groups {
		old := g.rec.Replaces
		if old == "" || g.ending || f.replacing[old] || !g.healthy() {
			continue
		}
		if _, ok := f.table.Get(keyOf(old)); !ok {
			continue
		}
		f.replacing[old] = true
		successor := g.name
		f.side.Go(func() {
			err := f.destroy(ctx, old, roadbed.Change{Actor: "fleet", Why: "replaced by " + successor})
			if err != nil {
				f.log.Warn("cannot destroy a replaced server group; will try again", "group", old, "by", successor, "err", err)
				select {
				case <-ctx.Done():
				case <-time.After(5 * time.Second):
				}
			}
			f.mu.Lock()
			delete(f.replacing, old)
			f.broadcast()
			f.mu.Unlock()
		})
	}
}

// tell records in the ledger what the fleet does by itself. Self-healing never waits for it.
func (f *Fleet) tell(ctx context.Context) {
	record := func(ctx context.Context, c roadbed.Change) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if _, err := f.c.Ledger.Record(ctx, c); err != nil {
			f.log.Warn("cannot record what the fleet did", "action", c.Action, "resource", c.Resource, "why", c.Why, "err", err)
		}
	}
	for {
		select {
		case c := <-f.told:
			record(context.WithoutCancel(ctx), c)
		case <-ctx.Done():
			for {
				select {
				case c := <-f.told:
					record(ctx, c)
				default:
					return
				}
			}
		}
	}
}

// say puts c on its way to the ledger.
func (f *Fleet) say(c roadbed.Change) {
	c.Actor, c.Result = "fleet", roadbed.Succeeded
	select {
	case f.told <- c:
	default:
		f.log.Warn("too much to record; this goes only to the log", "action", c.Action, "resource", c.Resource, "why", c.Why)
	}
}

// broadcast wakes whoever waits for a change; mu is held.
func (f *Fleet) broadcast() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *Fleet) whenChanged() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// await returns when ok, called with mu held, is true, or ctx ends.
func (f *Fleet) await(ctx context.Context, ok func() bool) bool {
	for {
		f.mu.Lock()
		done, changed := ok(), f.changed
		f.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

func (f *Fleet) known() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := make([]string, 0, len(f.groups))
	for n := range f.groups {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (f *Fleet) count(s State) float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, g := range f.groups {
		for _, x := range g.slots {
			if x.view.State == s {
				n++
			}
		}
	}
	return float64(n)
}
