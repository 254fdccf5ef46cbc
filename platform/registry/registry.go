// Package registry is where services find each other: instances register, renew their leases and are found by others.
// At Netflix this was Eureka, and every Eureka client works with it unchanged.
//
//	r := registry.New(registry.Config{})
//	go r.Run(ctx)
//	http.ListenAndServe("127.0.0.1:8761", r.Handler())
//
// An instance registers itself with a POST, renews its lease every 30 seconds with a PUT and leaves with a DELETE. One
// that stops renewing is evicted when its lease ends, after 90 seconds unless it asked otherwise. What an instance says
// of its status is overruled by an operator's override, which is how a server group is taken out of traffic.
//
// Everybody reads from immutable snapshots: a list is rendered once per change and application, whatever the number of
// readers. Eureka clients poll full lists and deltas; this platform's own clients hold one stream of events,
// GET /registry/v1/watch, and know of a change within milliseconds (see package discovery).
//
// A registry shares what it knows with its peers: others of its kind, and Netflix's and Spring's servers, which take it
// for one of theirs. What a client tells one of them all know moments later; what a peer tells goes no further. Each
// works alone when it must, and nothing is ever decided by a majority. With servers of others it speaks in batches, as
// they do. Registries of its kind find that out by GET native/hello and then hold one connection each way, on which a
// renewal is four bytes; every five seconds they compare digests of what they have, and tell each other what differs.
//
// A page at / shows people what the node knows, as they know it from Eureka.
//
// The handler must see paths as they arrive. Do not put it under a router that cleans or redirects them.
//
// # What it promises
//   - Registrations, renewals and cancels wait for nothing but memory.
//   - An override is in the ledger before it is acknowledged, or refused with 503 within a second.
//   - When more than 15 % of the instances fall silent together, peers are asked first. Instances that a peer hears are
//     kept; all are kept, for 15 minutes at most, when too few peers answer. Else, in any half a minute, at most 15 % go
//     and no application loses its last instance with others. [Registry.Silence] says what is done and why.
//   - A silent instance on a private address that refuses connections is evicted at once; one that accepts them is DOWN,
//     and stays for another lease.
//   - A delta and its hash are of the same moment: a client that applies every delta counts what the hash counts.
//   - Peers cost memory in proportion to the registry only, however long they are away.
//   - With peers, lists are answered with 403 until one has told what it knows, all of them have just started too, or
//     half a minute has passed.
//   - Of other regions that it is told to follow, readers see the applications that this region lacks, and everything of
//     those they name, ?regions=us-west-2,eu. A list and its delta agree on that. Watchers hear of this region alone.
//   - A region that is away, or has just forgotten everybody, is shown as it was last known.
//   - Sticky metadata is added to each registration of its instance; a sticky override outlives a cancellation by a day.
//   - Changes are published on the engine's bus, if there is an engine, and nobody waits for that.
//   - A registry that has just started says so to its watchers until everybody had time to come back.
//   - Documents hold no member that Netflix's clients do not know.
//
// # Meters
//   - registry.registrations, registry.renewed, registry.cancels, and registry.unknown, which counts renewals of leases that
//     nobody holds: each with from, client or peer.
//   - registry.fetches with of, all, delta or app; registry.fetches.again counts lists fetched right after a delta, which
//     clients do when its hash is not what they count; registry.refused with reason, rate or large.
//   - registry.evictions with reason, refused or expired; registry.suspected counts instances that are DOWN meanwhile.
//   - registry.instances, registry.late and registry.silent; registry.renewalsExpected and registry.renewalsObserved per
//     minute; registry.mode is 1 for the mode that self-preservation is in.
//   - registry.region.age is for how many seconds another region, by region, has told nothing.
//   - registry.peer.batch is in how many seconds a batch of a peer is answered.
//
// # What it does not
//   - It keeps nothing on disk: after a restart, clients register again. Only overrides are read back, from the ledger,
//     and what operators made sticky, from a table of the engine.
package registry

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/ledger"
)

// Config says how a registry runs. Its zero value works.
type Config struct {
	Ledger   *ledger.Ledger   // where overrides are recorded; nil records nothing
	Engine   *engine.Engine   // where what is sticky is kept, and changes are published; nil does neither
	Location roadbed.Location // Region is that of instances which do not name one
	Self     string           // this registry's own instance id, if it is registered
	Settings Settings         // what operators of Eureka servers set
	Meter    *meter.Registry
	Log      *slog.Logger // slog.Default() when nil

	dial func(ctx context.Context, network, addr string) (net.Conn, error) // to peers instead of over a network; of tests
}

// Registry knows who is running. Its methods may be called from many goroutines.
type Registry struct {
	c    Config
	log  *slog.Logger
	s    *state
	face *eureka
	keep *keeper
	hub  *hub

	sticky *engine.Table[sticky] // nil without an engine

	prefixes    prefixes // that Eureka's paths may have
	peers       *peers
	regions     *regions                 // other ones that are followed
	bad         error                    // why peers or regions cannot be meant
	batches     throttle                 // of peers
	large       throttle                 // answers that are being written
	limits      *limiter                 // of fetches
	copied      atomic.Pointer[snapshot] // what readers see with Settings.ReadOnlyCache
	deciding    chan struct{}            // holds a token while a decision is recorded and done
	notes       chan roadbed.Change      // for the ledger, written by Run
	incarnation string                   // tells event ids of this process from those of the last
	stop        chan struct{}            // closed when Run ends
	stopOnce    sync.Once
}

// New returns a registry that knows nobody, and of overrides what the ledger tells. It answers at once; leases end only
// while [Registry.Run] runs.
func New(c Config) *Registry {
	r := &Registry{
		c: c, log: c.Log, s: newState(c.Self), incarnation: newIncarnation(), stop: make(chan struct{}),
		prefixes: newPrefixes(c.Settings.Prefixes), batches: newThrottle(), large: newLargeGate(c.Settings), limits: newLimiter(c.Settings),
		deciding: make(chan struct{}, 1), notes: make(chan roadbed.Change, 1024),
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	r.s.counts = newCounts(c.Meter)
	r.s.believe, r.s.anyAge = c.Settings.ClientStatusWins, c.Settings.NoTimestampSync
	if keep := c.Settings.DeltaRetention; keep > 0 {
		r.s.log.least, r.s.log.most = keep, keep
	}
	var bad error
	if r.peers, r.bad = newPeers(c, r.s, r.log); r.bad != nil {
		r.peers, _ = newPeers(Config{}, r.s, r.log) // none cannot be wrong
	}
	if r.regions, bad = newRegions(c, r.log); bad != nil {
		r.regions, r.bad = &regions{}, bad
	}
	r.join()
	r.hub = newHub(r.s, r.incarnation, c.Location.Region)
	r.s.hub = r.hub
	r.face = &eureka{r}
	leases := termsOf(c.Settings)
	r.s.stretch = leases.stretch
	r.keep = newKeeper(r.s, leases, r.log)
	r.keep.dial, r.keep.told = new(net.Dialer).DialContext, r.noteMode
	r.keep.refusals = c.Meter.Counter("registry.evictions", "reason", "refused")
	r.keep.expiries = c.Meter.Counter("registry.evictions", "reason", "expired")
	r.keep.accepts = c.Meter.Counter("registry.suspected")
	if len(r.peers.specs) > 0 {
		r.keep.ask = r.peers.testimonies
	}
	r.remember()
	r.openSticky()
	c.Meter.GaugeFunc("registry.instances", func() float64 {
		r.s.mu.RLock()
		defer r.s.mu.RUnlock()
		return float64(r.s.count)
	})
	c.Meter.GaugeFunc("registry.renewals", func() float64 { return float64(r.s.renewals.Load()) })
	c.Meter.GaugeFunc("registry.silent", func() float64 { return float64(r.Silence().Silent) })
	c.Meter.GaugeFunc("registry.late", func() float64 { return float64(r.Silence().Late) })
	c.Meter.GaugeFunc("registry.renewalsExpected", func() float64 { return r.Silence().Expected })
	c.Meter.GaugeFunc("registry.renewalsObserved", func() float64 { return r.Silence().Observed })
	for _, m := range []Mode{Normal, Thinning, Preserving} {
		c.Meter.GaugeFunc("registry.mode", func() float64 {
			if r.Silence().Mode == m {
				return 1
			}
			return 0
		}, "mode", string(m))
	}
	return r
}

// Run ends leases that ran out and keeps up with peers, until ctx ends. Then it ends the streams of all watchers, so
// that a server can shut down, and returns nil. It fails at once if the configuration of peers or regions
// cannot be meant.
func (r *Registry) Run(ctx context.Context) error {
	if r.bad != nil {
		return r.bad
	}
	var wg sync.WaitGroup
	// Peers are told that this registry leaves, so they are told things a little longer.
	telling, told := context.WithCancel(context.WithoutCancel(ctx))
	wg.Go(func() {
		defer told()
		r.beThere(ctx)
	})
	wg.Go(func() { r.peers.run(telling) })
	wg.Go(func() { r.regions.run(ctx) })
	if r.c.Ledger != nil {
		wg.Go(func() { r.takeNotes(ctx) })
	}
	if r.sticky != nil {
		wg.Go(func() { r.followSticky(ctx) })
	}
	if r.c.Engine != nil {
		wg.Go(func() { r.announce(ctx) })
	}
	if r.c.Settings.ReadOnlyCache {
		wg.Go(func() { r.refreshCopy(ctx) })
	}
	r.keep.run(ctx)
	wg.Wait()
	r.stopOnce.Do(func() { close(r.stop) })
	r.hub.end()
	return nil
}

// Handler serves Eureka's REST API under /eureka/v2, /eureka, /v2, /eureka/v1, /v1 and the configured prefixes, and GET
// /registry/v1/watch, and what native.go says.
func (r *Registry) Handler() http.Handler { return r.face }

// record writes ch to the ledger, if there is one, and then does do.
func (r *Registry) record(ctx context.Context, ch roadbed.Change, do func(context.Context) error) error {
	if r.c.Ledger == nil {
		return do(ctx)
	}
	return r.c.Ledger.Apply(ctx, ch, do)
}
