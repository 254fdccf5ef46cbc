// Package origin is the endpoint of the edge that has a request answered by an app: it picks an instance, sends the request
// over a connection that is kept, tries again elsewhere where that is safe, and lets the answer stream. At Netflix this was
// Zuul's ProxyEndpoint with its connection pool.
//
//	proxy := origin.New(origin.Config{Calls: calls, Properties: props, Meter: meters})
//	defer proxy.Close()
//	filter.NewChain(filter.ChainConfig{Proxy: proxy.Filter(), ...})
//
// Which instance is asked, whether the app's circuit breaker lets the request through, how many further attempts there may
// be and what is told of them is [ipc]'s, as for any call of a service: /ipc/why knows the edge's requests too.
//
// # When it tries again
//
//	what happened                       which requests                                  answered otherwise
//	no connection                       any whose body is at hand                       502 FAILURE_ORIGIN_CONNECTIVITY
//	503                                 any whose body is at hand                       503 FAILURE_ORIGIN_THROTTLED
//	502, 504; 408, 425, 429 with        idempotent ones                                 as they came
//	  Retry-After
//	a status of the route's own         of the route's methods: GET, HEAD, OPTIONS      as it came
//	no answer in time                   the same                                        504 FAILURE_ORIGIN_READ_TIMEOUT
//	the connection broke                idempotent ones; others only if not one byte    504 FAILURE_ORIGIN_RESET_CONNECTION
//	                                    was written, or the route says retry.unsafe
//
// A body is at hand as long as no more of it was read than edge.retry.buffer. There are as many retries as the route, or else
// the app's properties, say, within ipc's budget; a trusted peer's X-Edge-Attempt-Budget limits attempts further. With
// edge.profile=zuul there are none unless MaxAutoRetriesNextServer says so, 500 is tried again, and so is every request on a
// connection that broke.
//
// # What it promises
//   - An instance that dies fails no GET as long as another one lives and a retry is allowed.
//   - A request that is not idempotent reaches no second instance unless the first has answered 503 or cannot have read it.
//   - Bodies stream both ways in constant memory, and an early answer reaches the client while its body is still coming.
//   - A plain request over a kept connection allocates nothing.
//   - One client cannot hold all places that an app has for requests in flight, and several that take nothing of their answers do
//     not keep others out: see [filter.Room]. What is read of an answer to its end holds no place, however slowly it is taken.
//   - What lasts as long as both ends want (event streams, changed protocols, gRPC without an end) holds no place of those requests
//     once it has begun, nor counts its connection among those that an instance may have, up to a number of its own.
//
// # What it does not
//   - Clients by HTTP/3 that take nothing hold their places until they are cut off for reading too slowly.
//   - It changes no forwarding fields and strips none: filters before it do.
//   - The copies that mirroring sends are not tried again, and more than so many at once are not sent at all.
package origin

import (
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Config wires a proxy. Calls is required.
type Config struct {
	Calls      *ipc.Engine
	Properties *config.Properties
	Meter      *meter.Registry
	Log        *slog.Logger // nil: slog.Default()

	// Edges says that the apps are other edges, see [Proxy.Relay]: any number of requests may be in flight to them over any
	// number of connections, and gRPC-Web is theirs to translate.
	Edges bool
}

// Proxy has requests answered by apps. Its methods may be used from many goroutines.
//
// Live properties, CLIENT being the app's name, each also without "CLIENT." for all of them:
//
//	CLIENT.ribbon.ConnectTimeout                     500    ms
//	CLIENT.ribbon.ReadTimeout                        none   ms until an attempt's answer begins
//	zuul.origin.readtimeout.max                      90000  ms, at most
//	CLIENT.ribbon.MaxConnectionsPerHost              200    to one instance, -1 is any number; 50 with edge.profile=zuul
//	CLIENT.ribbon.PerServerWaterline                 32     idle connections that are kept to one instance, for each processor, 0 is none; 4 with edge.profile=zuul
//	CLIENT.ribbon.MaxRequestsPerConnection           1000
//	CLIENT.ribbon.ConnIdleEvictTimeMilliSeconds      60000
//	CLIENT.ribbon.CloseOnCircuitBreaker              true   connections are not kept while the app's breaker is not closed
//	CLIENT.ribbon.MaxAutoRetriesNextServer                  as ipc has it; 0 with edge.profile=zuul
//	CLIENT.ribbon.TcpKeepAlive, .TcpNoDelay          false, true
//	CLIENT.ribbon.ReceiveBufferSize, .SendBufferSize        bytes; as the system has it
//
// and without a form for all:
//
//	zuul.origin.CLIENT.concurrency.max.requests             in flight; as ipc has it, 200
//	zuul.origin.CLIENT.concurrency.protect.enabled   true
//	edge.origin.CLIENT.concurrency.mode              fixed  or gradient: a limit that follows what the app can bear
//	edge.origin.CLIENT.protocol                      http1  or h2, h2c
//	edge.origin.CLIENT.streams.max                   10000  that count as streams and not as requests in flight; also with default for CLIENT; -1 is any number
//	zuul.retry.allowed.statuses.idempotent           none   further statuses that are tried again for GET, HEAD, OPTIONS; 500 with edge.profile=zuul
//	zuul.error.outbound.NAME.status                         what is answered for a kind of failure
//	edge.retry.buffer                                65536  bytes of a request's body that are kept for another attempt
//	edge.headers.protected                           none   fields that Connection cannot take away
//	edge.http.earlyhints                             false  pass 102 and 103 on to HTTP/1.1 clients, too
//	edge.upgrade.allowed                             websocket  protocols that a request may ask to change to
//	edge.upgrade.idle                                5m     without a byte either way an upgraded connection ends
//	edge.origin.client.share                         0.75   of an app's requests in flight that may be one client's; 1: all
//	edge.origin.client.stall                         5s     an answer none of which its client took for so long is ended if others want its place
//	edge.origin.utilization.header                          a further name for X-Netflix.server.utilization
type Proxy struct {
	calls     *ipc.Engine
	props     *config.Properties
	meter     *meter.Registry
	log       *slog.Logger
	general   *config.Value[*general]
	protected *config.Value[[]string]
	retried   *config.Value[[]string] // statuses
	maxRead   *config.Value[int]      // ms
	statuses  statuses
	noRetry   *meter.Counter // for an incomplete body
	tooLate   *meter.Counter // to retry, for the answer has begun
	panics    *filter.Panics
	endpoint  *filter.Filter
	free      sync.Pool // of *call
	mirrors   mirrors

	origins    atomic.Pointer[map[string]*origin] // by app; copied on write
	edges      bool
	processors atomic.Int32 // as sweep has seen last; to ask takes the scheduler's lock

	mu   sync.Mutex // guards additions to origins
	shut bool
	stop chan struct{}
	wg   sync.WaitGroup
}

// New returns a proxy. Close it after use.
func New(c Config) *Proxy {
	p := &Proxy{
		calls: c.Calls, props: c.Properties, meter: c.Meter, log: c.Log, edges: c.Edges,
		general:   config.Must(config.Bind(c.Properties, "edge.", usual)),
		protected: c.Properties.List("edge.headers.protected", nil),
		retried:   c.Properties.List("zuul.retry.allowed.statuses.idempotent", []string{asProfile}),
		maxRead:   c.Properties.Int("zuul.origin.readtimeout.max", 90_000),
		statuses:  liveStatuses(c.Properties),
		noRetry:   c.Meter.Counter("zuul.no.retry", "id", "incomplete_body"),
		tooLate:   c.Meter.Counter("zuul.no.retry", "id", "resp_started"),
		panics:    filter.NewPanics(c.Meter, c.Log),
		stop:      make(chan struct{}),
	}
	if p.log == nil {
		p.log = slog.Default()
	}
	p.origins.Store(&map[string]*origin{})
	p.processors.Store(int32(runtime.GOMAXPROCS(0)))
	p.mirrors.init(p)
	p.endpoint = &filter.Filter{Name: "ProxyEndpoint", Kind: filter.Endpoint, Apply: p.Apply}
	p.free.New = func() any {
		c := &call{proxy: p}
		c.release = func(*filter.Exchange) { c.end() }
		c.done, c.early, c.near = c.finished, c.earlyAnswer, c.warm
		return c
	}
	p.wg.Go(p.sweep)
	return p
}

// Filter returns the proxy as an endpoint.
func (p *Proxy) Filter() *filter.Filter { return p.endpoint }

// Close closes idle connections and ends the proxy's goroutines. Requests under way go on.
func (p *Proxy) Close() {
	p.mu.Lock()
	if p.shut {
		p.mu.Unlock()
		return
	}
	p.shut = true
	p.mu.Unlock()
	close(p.stop)
	p.mirrors.close()
	p.wg.Wait()
	for _, o := range *p.origins.Load() {
		o.close()
	}
}

// sweepEvery is how often idle connections are looked at.
const sweepEvery = time.Second

// sweep closes idle connections that are too old, or whose instance has gone, until the proxy is closed.
func (p *Proxy) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
		p.processors.Store(int32(runtime.GOMAXPROCS(0)))
		p.sweepAll(filter.Now())
	}
}

func (p *Proxy) sweepAll(now int64) {
	defer p.panics.Catch("connection sweep", nil)
	for _, o := range *p.origins.Load() {
		o.sweep(now)
	}
}

// Apply has the request of x answered by x.App. An error is a [filter.Error].
//
// hot path: 0 allocs, BenchmarkApply
func (p *Proxy) Apply(x *filter.Exchange) error {
	if x.App == "" {
		return &filter.Error{Status: http.StatusInternalServerError, Category: filter.FailureLocal, Reason: "the route of this request names no app", Err: errors.New("Exchange.App is empty")}
	}
	c := p.free.Get().(*call)
	c.x, c.origin = x, p.origin(x.App)
	x.OnEnd(c.release)
	return c.run()
}

// origin returns what is known of an app.
func (p *Proxy) origin(app string) *origin {
	if o := (*p.origins.Load())[app]; o != nil {
		return o
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := *p.origins.Load()
	if o := old[app]; o != nil {
		return o
	}
	o := newOrigin(p, strings.Clone(app))
	all := maps.Clone(old)
	all[o.app] = o
	p.origins.Store(&all)
	return o
}
