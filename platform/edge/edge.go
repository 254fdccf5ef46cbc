// Package edge is the platform's front door: it takes requests from the world, finds the service that answers each,
// and passes them on through [ipc], which balances, retries and breaks circuits. At Netflix this was Zuul.
//
// # Rooms
//
// A [Gateway] puts together what the packages beneath do: listen takes connections, http1, http2 and nethttp are the engines that
// speak HTTP, filter is the chain that each request passes, standard, auth, shed and ratelimit hold its filters, route decides
// who answers, origin has it answered, region has users served by another region's edges, vouch says whom the edge believes over
// TLS, push holds connections to clients, and accesslog tells of everything.
//
// # Routes
//
// Every app in the registry is reachable under its own name: /hello/greet becomes /greet of an instance of hello.
// Further routes come from the property edge.routes, in JSON or YAML; package route says what they may hold:
//
//   - id: shop
//     match: {hosts: [shop.example.com], path: {prefix: /cart}, methods: [GET]}
//     filters: [{stripPrefix: 1}]
//     backends: [{vip: cart, weight: 9}, {vip: cart-next, weight: 1}]
//     timeouts: {request: 2s}
//
// Of several routes that match, the most specific one wins, as in the Kubernetes Gateway API. A document with a mistake is
// refused whole, the old one stays, and GET /api/v1/edge/routes says why. Properties edge.surgical.ID send single requests
// elsewhere.
//
// # Faults
//
// The edge is the only place where a fault may enter a request. It strips X-Fit from what comes in, and gives requests
// in scope of a fault its signed rules; services only verify. A request that several concern gets the rules of all, of
// the oldest first, as long as they fit into its header. GET /api/v1/edge/faults tells how many requests each concerned
// and what became of them, beside as many that were spared. With the property ipc.fit.envoyHeaders requests may ask for a
// delay or an error at the edge by the headers of Envoy's fault filter: for test platforms, as anybody may send them.
//
// # What it promises
//   - A new route table is whole before any request sees it, and no request is lost to the change.
//   - Registry, configuration and engine may be away: routes and instances stay as last known.
//   - Nothing a client sends is believed by the services behind: X-Fit, X-Ipc-* and forwarding headers are ours.
//   - A request that is led back to the edge again and again ends with 508 after three rounds.
//   - No request waits longer than its route's deadline, 10 s unless route or property say otherwise, its body included;
//     event streams and upgraded connections last as long as both ends want.
package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge/accesslog"
	"github.com/roadbed/roadbed/platform/edge/auth"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/nethttp"
	"github.com/roadbed/roadbed/platform/edge/origin"
	"github.com/roadbed/roadbed/platform/edge/program"
	"github.com/roadbed/roadbed/platform/edge/push"
	"github.com/roadbed/roadbed/platform/edge/ratelimit"
	"github.com/roadbed/roadbed/platform/edge/region"
	"github.com/roadbed/roadbed/platform/edge/route"
	"github.com/roadbed/roadbed/platform/edge/shed"
	"github.com/roadbed/roadbed/platform/edge/standard"
)

// Config wires a gateway. Calls and Discovery are required.
type Config struct {
	Calls      *ipc.Engine
	Discovery  *discovery.Client
	Properties *config.Properties
	Meter      *meter.Registry
	Instance   string // id of this edge, as properties know it
	Location   roadbed.Location
	Store      api.Client // of the API that has the properties, where documents of routes are written
	AccessLog  string     // file for one JSON line per request, rotated at 64 MiB; none when empty
	Log        *slog.Logger

	// Self is where others reach this edge, by ID, Host and Port: what the registry has of it while edge.registration.enabled is true.
	// Without a port it is never there. Replaced reports whether a newer process has taken this one's place, and its ID; nil: none does.
	Self     roadbed.Instance
	Replaced func() bool

	// Changed is told when the edge has a program go back to its former version (RETURNED), or DISABLED, by itself. It must
	// not wait. nil: only log, counters and API tell it.
	Changed func(program, what, why string)
}

// Gateway is the front door. It serves from the moment [New] returns; [Gateway.Run] keeps its routes current and writes
// its access log.
type Gateway struct {
	calls     *ipc.Engine
	discovery *discovery.Client
	props     *config.Properties
	store     api.Client
	log       *slog.Logger
	meter     *meter.Registry
	access    *accesslog.Log
	origins   *origin.Proxy
	push      *push.Push
	programs  *program.Registry
	pushPlan  *filter.Plan
	limits    *limits
	shed      *shed.Shed
	rates     *ratelimit.Limits
	auth      *auth.Auth
	fit       *config.Value[bool]     // the services' kill switch; nothing is signed while it is thrown
	ignored   *config.Value[[]string] // apps that are not reachable under their names
	envoy     *config.Value[bool]     // requests may ask for faults by Envoy's headers
	plain     http.Handler            // net/http as the engine

	regions *region.Regions

	leaving    *leaving
	registered *registered

	chain   atomic.Pointer[filter.Chain] // of the filters that are of use
	always  filter.ChainConfig           // those that always are
	going   *filter.Filter               // while the edge is out of service
	between []*filter.Filter             // while there are regions
	chains  [4]*filter.Chain             // that there were, by whether between and going are in; guarded by chaining
	table   atomic.Pointer[route.Table]
	surgery atomic.Pointer[route.Surgery]
	faults  atomic.Pointer[faults]

	chaining sync.Mutex // held while the chain is changed

	ready chan struct{} // closed once Run has taken in what is known of routes and apps
	begun sync.Once

	panics *filter.Panics

	reader    route.Reader
	compiling sync.Mutex    // held while documents of routes are read and compiled; taken before mu
	news      chan struct{} // holds a token while what is asked for, or a program that was lacking, is yet to be compiled

	mu      sync.Mutex        // guards what follows, from most of which table is built; held for a moment
	doors   map[*Door]bool    // that are open
	allShut chan struct{}     // closed once none is open any more; nil: nobody waits for that
	known   []string          // apps in the registry
	apps    []string          // of these, those that are reachable under their names
	written route.Settings    // documents of routes and surgical rules as they are, in force or not
	asked   map[string]string // the newest documents of routes, by property
	objects []route.Object    // of the Gateway API in the documents in force, and what has become of them
	refused string            // why the newest documents are not in force; empty when they are

	programmed int // how often programs have changed
}

// New returns a gateway without routes.
func New(c Config) *Gateway {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	g := &Gateway{
		ready: make(chan struct{}), news: make(chan struct{}, 1), panics: filter.NewPanics(c.Meter, c.Log), calls: c.Calls, discovery: c.Discovery, props: c.Properties, store: c.Store, log: c.Log, meter: c.Meter,
		access:  accesslog.New(accesslog.Config{File: c.AccessLog, Region: c.Location.Region, Properties: c.Properties, Meter: c.Meter, Log: c.Log}),
		origins: origin.New(origin.Config{Calls: c.Calls, Properties: c.Properties, Meter: c.Meter, Log: c.Log}),
		push:    push.New(push.Config{Properties: c.Properties, Meter: c.Meter, Peers: c.Properties.List("edge.push.peers", nil).Get, Log: c.Log}),
		limits:  newLimits(c.Properties),
		rates:   ratelimit.New(c.Properties, c.Meter),
		auth:    auth.New(auth.Config{Properties: c.Properties, Meter: c.Meter, Log: c.Log, Instance: c.Instance, Apps: c.Calls.Transport()}),
		doors:   map[*Door]bool{},
		fit:     c.Properties.Bool("ipc.fit.enabled", true),
		ignored: c.Properties.List("zuul.ignoredServices", nil),
		envoy:   c.Properties.Bool("ipc.fit.envoyHeaders", false),
	}
	g.leaving = newLeaving(c.Properties)
	g.registered = newRegistered(c, g.leaving)
	g.pushPlan = &filter.Plan{Route: "push", Endpoint: g.push.Endpoint(), Upgrades: true, Timeout: -1}
	g.shed = shed.New(shed.Config{Properties: c.Properties, Meter: c.Meter, Connections: g.connections})
	g.regions = region.New(region.Config{Region: c.Location.Region, Properties: c.Properties, Meter: c.Meter, Log: c.Log, Refuse: g.shed.Visits, Moving: func(elsewhere func(string) bool, within time.Duration) { g.push.Move(elsewhere, within) }})
	s := standard.New(standard.Config{Properties: c.Properties, Meter: c.Meter, Instance: c.Instance, Healthy: g.leaving.healthy})
	var err error
	g.programs, err = program.New(program.Config{Properties: c.Properties, Meter: c.Meter, Log: c.Log, Region: c.Location.Region, Zone: c.Location.Zone, Apps: c.Calls.Transport(), Changed: c.Changed})
	if err != nil {
		panic(err) // the language of expressions does not depend on anything
	}
	g.always = filter.ChainConfig{
		Filters: slices.Concat(s.Filters(), g.shed.Filters(), g.rates.Filters(), g.auth.Filters(), g.programs.Filters(), []*filter.Filter{g.routing(), g.scope(), g.bend()}),
		Proxy:   g.origins.Filter(), Error: s.ErrorResponse, NoRoute: g.nowhere(s.NoRoute),
		Properties: c.Properties, Meter: c.Meter, Log: c.Log,
	}
	g.between, g.going = g.regions.Filters(), g.leaving.filter()
	g.rechain()
	empty, err := route.NewTable(g.routes(nil), nil)
	if err != nil {
		panic(err) // no route can be wrong
	}
	none, _ := route.NewSurgery(g.routes(nil), nil, nil)
	g.table.Store(empty)
	g.surgery.Store(none)
	g.faults.Store(&faults{})
	g.plain = &nethttp.Handler{Serve: g.Serve, Finished: g.Finished, Listener: "std", Log: c.Log}
	return g
}

// routes is what this package gives to the compilation of routes.
func (g *Gateway) routes(former *route.Table) route.Config {
	return route.Config{
		Filters: map[string]func(json.RawMessage) ([]*filter.Filter, error){
			"cors": standard.RouteCors, "rateLimit": g.rates.Route, "auth": g.auth.Route, "queue": g.shed.RouteQueue,
		},
		Former: former, Predicate: g.programs.Predicate, Program: g.programs.Program,
	}
}

// Run follows the registry, the routes and the faults, and writes the access log, until ctx ends and every listener that is open
// has drained.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.origins.Close()
	defer g.auth.Close()
	defer g.programs.Wait()
	defer g.programs.Set(nil)
	defer g.props.Prefix(program.Prefix, g.setPrograms)() // first, for routes name them
	defer g.ignored.OnChange(func([]string, []string) { g.expose() })()
	defer g.discovery.Watch("", func(all []roadbed.Instance) {
		g.setApps(all)
		if g.registered.hear(all) {
			g.leave()
		}
	})()
	defer g.props.Prefix(route.RoutesProperty, g.askRoutes)()
	g.setRoutes() // at once, for an edge without them is not ready
	defer g.props.Prefix(route.SurgicalProperty, g.setSurgery)()
	defer g.leaving.out.OnChange(func(bool, bool) { g.leave() })()
	defer g.registered.on.OnChange(func(bool, bool) { g.registered.follow(); g.leave() })()
	g.registered.follow()
	defer g.registered.end()
	g.leave() // it may have been so before
	defer g.regions.Close()
	defer g.props.Prefix(region.Prefix, g.setRegions)()
	defer g.props.Prefix(region.ProposalPrefix, g.regions.SetProposals)()
	defer g.props.Prefix("fault.", func(all map[string]string) {
		defer g.panics.Catch("faults", nil)
		g.faults.Store(newFaults(all, g.faults.Load(), g.meter, g.log))
	})()
	g.begun.Do(func() { close(g.ready) })
	rest, cancel := context.WithCancel(context.WithoutCancel(ctx)) // what requests need that are still under way
	defer cancel()
	var parts sync.WaitGroup
	defer parts.Wait()
	loop := func(ctx context.Context, where string, run func(context.Context) error) error {
		return g.panics.Loop(ctx, where, func() error { return run(ctx) })
	}
	parts.Go(func() { loop(ctx, "push", g.push.Run) })        //nolint:errcheck // it only ends with ctx
	parts.Go(func() { loop(rest, "shed", g.shed.Run) })       //nolint:errcheck // as above
	parts.Go(func() { loop(rest, "regions", g.regions.Run) }) //nolint:errcheck // as above
	parts.Go(func() { g.followRoutes(rest) })
	parts.Go(func() {
		select {
		case <-ctx.Done():
			g.registered.end() // before it is done, for it takes nobody in any more
			g.shut()
		case <-rest.Done():
		}
		cancel()
	})
	err := loop(rest, "access log", g.access.Run)
	cancel()
	return err
}

// Serve fills the response of x. It is what engines call for each request.
func (g *Gateway) Serve(x *filter.Exchange) { g.chain.Load().Run(x) }

// Finished takes note of a request that is over. Engines call it once for each that was served.
func (g *Gateway) Finished(x *filter.Exchange) {
	countArms(x)
	g.access.Finished(x)
}

// ServeHTTP answers one request that came by net/http.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.plain.ServeHTTP(w, r) }

// Senders is the API for services that send messages to clients; it belongs where only services reach it.
func (g *Gateway) Senders() http.Handler { return g.push.Handler() }

// setApps makes the default routes those of the apps that have instances.
func (g *Gateway) setApps(all []roadbed.Instance) {
	seen := make(map[string]bool)
	var apps []string
	for _, i := range all {
		if !seen[i.App] && routable(i.App) && i.Metadata[kindKey] != isEdge {
			seen[i.App] = true
			apps = append(apps, i.App)
		}
	}
	g.mu.Lock()
	g.known = apps
	g.mu.Unlock()
	g.expose()
}

// expose has those apps reachable under their names that the property zuul.ignoredServices does not name. In there * stands
// for any characters. While a pattern is none, no app is: better that than one which was to be hidden.
func (g *Gateway) expose() {
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.panics.Catch("apps", nil)
	patterns := g.ignored.Get()
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			g.props.Refuse("zuul.ignoredServices", strings.Join(patterns, ","), fmt.Errorf("%q is no pattern; write names of apps, with * for any characters", p))
			patterns = []string{"*"}
			break
		}
	}
	g.apps = nil
	for _, app := range g.known {
		if !slices.ContainsFunc(patterns, func(p string) bool {
			named, _ := path.Match(strings.ToLower(p), strings.ToLower(app))
			return named
		}) {
			g.apps = append(g.apps, app)
		}
	}
	g.table.Store(g.table.Load().WithApps(g.apps))
}

// routable reports whether app can be a path's first segment. Anybody may register anything; a name that no path can
// hold gets no route and no place in a list of routes.
func routable(app string) bool {
	u := url.URL{Path: "/" + app}
	return app != "" && app != "." && app != ".." && len(app) <= 255 && !strings.Contains(app, "/") && u.EscapedPath() == u.Path
}

// setPrograms takes new programs into force, and routes that were refused, for it may have been for lack of one.
func (g *Gateway) setPrograms(all map[string]string) {
	defer g.panics.Catch("programs", nil)
	g.programs.Set(all)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.programmed++
	if g.lacking() {
		g.announce()
	}
}

// lacking reports whether routes that are asked for are not in force. The caller holds mu.
func (g *Gateway) lacking() bool {
	return g.refused != "" || len((&route.Document{Objects: g.objects}).Mistaken()) > 0
}

// askRoutes has the documents of routes be these, all together, as soon as they are compiled.
func (g *Gateway) askRoutes(all map[string]string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = all
	g.announce()
}

func (g *Gateway) announce() {
	select {
	case g.news <- struct{}{}:
	default:
	}
}

// followRoutes takes what is asked for into force until ctx ends. It has a goroutine of its own: to read a long document takes a
// second, for which nobody is to wait who brings something else.
func (g *Gateway) followRoutes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.news:
			g.setRoutes()
		}
	}
}

// setRoutes takes the documents of routes that are asked for into force, or says why it does not.
func (g *Gateway) setRoutes() {
	g.compiling.Lock()
	defer g.compiling.Unlock()
	select {
	case <-g.news: // the newest are looked at below
	default:
	}
	for g.trySetRoutes() {
	}
}

// trySetRoutes is setRoutes for who holds compiling. It reports true if there are other programs by now, and routes that may have
// lacked one.
func (g *Gateway) trySetRoutes() (again bool) {
	g.mu.Lock()
	all, apps, programmed := g.asked, g.apps, g.programmed
	g.mu.Unlock()
	doc, t, err := g.compile(all, apps)
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.panics.Catch("routes", func(err error) { g.refused = err.Error() })
	g.written = g.written.With(route.RoutesProperty, all)
	if err != nil {
		g.refused = err.Error()
		g.log.Warn("routes refused, the old ones stay", "why", err)
		for _, name := range route.Mistaken(err) {
			g.props.Refuse(name, all[name], err)
		}
		return g.programmed != programmed
	}
	g.refused, g.objects = "", doc.Objects
	if mistakes := doc.Mistaken(); len(mistakes) > 0 {
		err := errors.Join(mistakes...)
		g.log.Warn("objects of the Gateway API are not accepted, all others are served", "why", err)
		for _, name := range route.Mistaken(err) {
			g.props.Refuse(name, all[name], err)
		}
	}
	g.table.Store(t.WithApps(g.apps)) // others may be there by now
	g.shed.RoutesRank(slices.ContainsFunc(t.Routes(), func(r route.Route) bool { return r.Priority != 0 }))
	return g.lacking() && g.programmed != programmed
}

// compile reads documents and makes a table of all their routes.
func (g *Gateway) compile(all map[string]string, apps []string) (doc *route.Document, t *route.Table, err error) {
	defer g.panics.Catch("routes", func(e error) { err = e })
	if doc, err = g.reader.ParseAll(route.Settings(all).Texts()); err != nil {
		return nil, nil, err
	}
	c := g.routes(g.table.Load())
	c.Apps = apps
	if t, err = doc.Table(c); err != nil {
		return nil, nil, err
	}
	if err = t.Hold(doc.Tests); err != nil && len(g.table.Load().Routes()) == 0 {
		// An edge that has just begun may not know all apps. No routes at all would be worse.
		g.log.Warn("tests of the routes do not hold; there are no others to keep, so they are in force all the same", "why", err)
		err = nil
	}
	return doc, t, err
}

// setRegions takes regions into force. While there is none, no request passes their filters.
func (g *Gateway) setRegions(all map[string]string) {
	defer g.panics.Catch("regions", nil)
	g.regions.Set(all)
	g.rechain()
}

// rechain has the chain consist of the filters that are of use now.
func (g *Gateway) rechain() {
	g.chaining.Lock()
	defer g.chaining.Unlock()
	way, which := g.always, 0
	way.Filters = slices.Clone(way.Filters)
	if g.regions.Any() {
		which |= 1
		way.Filters = append(way.Filters, g.between...)
	}
	if g.leaving.since.Load() != 0 {
		which |= 2
		way.Filters = append(way.Filters, g.going)
	}
	if g.chains[which] == nil {
		var err error
		if g.chains[which], err = filter.NewChain(way); err != nil {
			panic(err) // two filters of one name: a mistake in New
		}
	}
	g.chain.Store(g.chains[which])
}

// setSurgery takes the surgical rules that make sense into force.
func (g *Gateway) setSurgery(all map[string]string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.panics.Catch("surgical rules", nil)
	g.written = g.written.With(route.SurgicalProperty, all)
	s, wrong := route.NewSurgery(g.routes(nil), g.written.Surgical(), g.surgery.Load())
	for id, err := range wrong {
		g.log.Warn("surgical rule refused", "id", id, "why", err)
		g.props.Refuse(route.SurgicalProperty+id, all[route.SurgicalProperty+id], err)
	}
	g.surgery.Store(s)
}

// routing is the filter that decides who answers.
func (g *Gateway) routing() *filter.Filter {
	return &filter.Filter{Name: "Routes", Kind: filter.Inbound, Order: -100, Quick: true, Apply: func(x *filter.Exchange) error {
		if g.push.Wants(x) {
			x.Plan = g.pushPlan
			return nil
		}
		g.table.Load().Match(x)
		g.surgery.Load().Apply(x)
		return nil
	}}
}

// nowhere is the endpoint of requests that no route takes. Who asks from this machine, or may debug, gets a page that tells
// what is here for /, and else a sentence that helps; others need not know what there is.
func (g *Gateway) nowhere(otherwise *filter.Filter) *filter.Filter {
	return &filter.Filter{Name: "NoRoute", Kind: filter.Endpoint, Apply: func(x *filter.Exchange) error {
		t := g.table.Load()
		if !x.Debug && !x.From.IsLoopback() {
			return &filter.Error{Status: http.StatusNotFound, Category: filter.SuccessLocalNoRoute, Reason: "no route leads to " + x.Request.Path}
		}
		if x.Request.Path == "/" && !t.Documented() {
			page := index(t.Apps())
			x.Answer(http.StatusOK, page)
			x.Response.Header.Set("Content-Type", "text/html; charset=utf-8")
			x.SetCategory(filter.SuccessLocalNoRoute, "")
			return nil
		}
		return &filter.Error{Status: http.StatusNotFound, Category: filter.SuccessLocalNoRoute, Reason: t.NothingAt(x.Request.Path)}
	}}
}

// index is a page that lists the apps.
func index(apps []string) string {
	var b bytes.Buffer
	b.WriteString(`<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>roadbed edge</title><style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem;color-scheme:light dark}</style>
<h1>The edge</h1>`)
	if len(apps) == 0 {
		b.WriteString("<p>Nothing is registered yet. Try <code>roadbed run --name hello --port 8081 -- python3 -m http.server --bind 127.0.0.1 {port}</code></p>")
	} else {
		b.WriteString("<p>Services that can be reached from here:</p><ul>")
		for _, n := range apps {
			fmt.Fprintf(&b, `<li><a href="/%[1]s/">/%[1]s/</a></li>`, html.EscapeString(n))
		}
		b.WriteString("</ul>")
	}
	return b.String()
}
