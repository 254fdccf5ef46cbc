// Package edge is the platform's front door: it takes requests from the world, finds the service that answers each,
// and passes them on through [ipc], which balances, retries and breaks circuits. At Netflix this was Zuul.
//
// # Routes
//
// Every app in the registry is reachable under its own name: /hello/greet becomes /greet of an instance of hello.
// Further routes come from the property edge.routes, a JSON list:
//
//	[{"id": "shop", "match": {"hosts": ["shop.example.com"], "path": {"prefix": "/cart"}, "methods": ["GET"]},
//	  "filters": [{"stripPrefix": 1}], "backends": [{"vip": "cart", "weight": 9}, {"vip": "cart-next", "weight": 1}],
//	  "timeouts": {"request": "2s"}}]
//
// Of several routes that match, the most specific one wins, as in the Kubernetes Gateway API: exact host before
// wildcard, exact path before the longest prefix, then methods, then more headers, then the id. The order of the list
// never matters. A list with a mistake is refused whole, the old one stays, and GET /api/v1/edge/routes says why.
//
// # Properties
//
//	edge.routes            []   the routes, as above
//	edge.timeouts.request  10s  how long a request of a route that says nothing may take, up to 1h
//	edge.body.maxBytes     0    how large a request's body may be; 0 is any size
//
// How often a call is tried again, and when a circuit breaks, are properties of [ipc]'s commands: ipc.command.APP.retries
// and hystrix.command.APP. All are live: what comes after a change keeps to it.
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
//
// # What it does not
//   - It runs no programs of yours and speaks no HTTP/3; both come with its own engine. net/http is inside for now.
package edge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/api"
)

// Config wires a gateway. Calls and Discovery are required.
type Config struct {
	Calls      *ipc.Engine
	Discovery  *discovery.Client
	Properties *config.Properties
	Meter      *meter.Registry
	AccessLog  string // file for one JSON line per request, rotated at 64 MiB; none when empty
	Log        *slog.Logger
}

// Gateway is the front door. Its handler may be used from the moment [New] returns; [Gateway.Run] keeps its routes
// current and writes its access log.
type Gateway struct {
	calls     *ipc.Engine
	discovery *discovery.Client
	props     *config.Properties
	log       *slog.Logger
	access    *accessLog
	times     timers
	proxy     http.Handler
	settings  *config.Value[*settings]
	fit       *config.Value[bool] // the services' kill switch; nothing is signed while it is thrown
	envoy     *config.Value[bool] // requests may ask for faults by Envoy's headers
	meter     *meter.Registry

	table  atomic.Pointer[table]
	faults atomic.Pointer[faults]

	mu       sync.Mutex // guards what follows, from which table is built
	explicit []Route
	apps     []string
	refused  string // why the newest edge.routes is not in force; empty when it is
}

// settings are those of every route that has none of its own.
type settings struct {
	Timeout time.Duration `config:"timeouts.request"`
	MaxBody int64         `config:"body.maxBytes"` // 0 = any
}

func (s *settings) Validate() error {
	return errors.Join(config.Between("edge.timeouts.request", s.Timeout, time.Millisecond, time.Hour), config.Between("edge.body.maxBytes", s.MaxBody, 0, math.MaxInt64))
}

// New returns a gateway without routes.
func New(c Config) *Gateway {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	g := &Gateway{
		calls: c.Calls, discovery: c.Discovery, props: c.Properties, log: c.Log,
		access: newAccessLog(c.AccessLog, c.Meter, c.Log), times: timers{meter: c.Meter},
		fit:      c.Properties.Bool("ipc.fit.enabled", true),
		envoy:    c.Properties.Bool("ipc.fit.envoyHeaders", false),
		meter:    c.Meter,
		settings: config.Must(config.Bind(c.Properties, "edge.", settings{Timeout: 10 * time.Second})),
	}
	g.table.Store(&table{})
	g.faults.Store(&faults{})
	g.proxy = newProxy(c.Calls.Transport(), g.fail)
	return g
}

// Run follows the registry, the routes and the faults, and writes the access log, until ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.discovery.Watch("", func(all []roadbed.Instance) { g.setApps(all) })()
	defer g.props.String("edge.routes", "[]").OnChange(func(_, routes string) { g.setRoutes(routes) })()
	g.setRoutes(g.props.String("edge.routes", "[]").Get())
	defer g.props.Prefix("fault.", func(all map[string]string) { g.faults.Store(newFaults(all, g.faults.Load(), g.meter, g.log)) })()
	return g.access.run(ctx)
}

// Server returns an HTTP server for the gateway whose limits keep slow and greedy clients from holding it.
func (g *Gateway) Server() *http.Server {
	return &http.Server{
		Handler:           g,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       65 * time.Second,
		MaxHeaderBytes:    64 << 10,
	}
}

// setApps makes the default routes those of the apps that have instances.
func (g *Gateway) setApps(all []roadbed.Instance) {
	seen := make(map[string]bool)
	var apps []string
	for _, i := range all {
		if !seen[i.App] && routable(i.App) {
			seen[i.App] = true
			apps = append(apps, i.App)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.apps = apps
	g.table.Store(newTable(g.explicit, apps))
}

// routable reports whether app can be a path's first segment. Anybody may register anything; a name that no path can
// hold gets no route and no place in a list of routes.
func routable(app string) bool {
	u := url.URL{Path: "/" + app}
	return app != "" && app != "." && app != ".." && len(app) <= 255 && !strings.Contains(app, "/") && u.EscapedPath() == u.Path
}

// setRoutes takes a new list of explicit routes into force, or says why it does not.
func (g *Gateway) setRoutes(text string) {
	routes, err := ParseRoutes(text)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.refused = err.Error()
		g.log.Warn("edge.routes refused, the old routes stay", "why", err)
		g.props.Refuse("edge.routes", text, err)
		return
	}
	g.refused, g.explicit = "", routes
	g.table.Store(newTable(routes, g.apps))
}

// ServeHTTP answers one request from the world.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	id := requestID(r.Header)
	rec := &response{ResponseWriter: w, route: "-", backend: "-"}
	whole := false
	// Deferred, for an answer that breaks off half-way leaves here by http.ErrAbortHandler.
	defer func() {
		took := time.Since(began)
		if rec.status == 0 {
			rec.status = http.StatusOK
		}
		g.times.record(rec.route, rec.status, took)
		for _, a := range rec.arms {
			if !whole {
				a.count(http.StatusBadGateway) // broken off half-way
			} else {
				a.count(rec.status)
			}
		}
		g.access.add(entry{
			Time: began, ID: id, Client: clientHost(r), Method: r.Method, Host: r.Host, Path: r.URL.Path, Status: rec.status,
			Bytes: rec.bytes, Millis: float64(took.Microseconds()) / 1000, Route: rec.route, Origin: rec.backend, Agent: r.UserAgent(),
		})
	}()
	g.serve(rec, r, id)
	whole = true
}

// serve passes the request on and notes the route and the app it takes.
func (g *Gateway) serve(w *response, r *http.Request, id string) {
	w.Header().Set("X-Request-Id", id)
	if why := improper(r); why != "" {
		writeError(w, r, http.StatusBadRequest, why)
		return
	}
	if passages(r.Header) >= maxPassages {
		writeError(w, r, http.StatusLoopDetected, fmt.Sprintf("the request came through this edge %d times; a route or an instance leads back to it", maxPassages))
		return
	}
	t := g.table.Load()
	m, ok := t.match(r)
	switch {
	case !ok && r.URL.Path == "/":
		w.route = "index"
		t.writeIndex(w, r)
		return
	case !ok:
		writeError(w, r, http.StatusNotFound, t.nothingAt(r.URL.Path))
		return
	}
	w.route = m.route.id
	if m.addSlash {
		u := *r.URL
		u.Path, u.RawPath, u.Scheme, u.Host = u.Path+"/", "", "", ""
		http.Redirect(w, r, u.String(), http.StatusPermanentRedirect)
		return
	}
	ctx, now := r.Context(), g.settings.Get()
	timeout := cmp.Or(m.route.timeout, now.Timeout)
	if now.MaxBody > 0 {
		if r.ContentLength > now.MaxBody {
			w.Header().Set("Connection", "close") // what of it is under way is not read
			writeError(w, r, http.StatusRequestEntityTooLarge, tooLarge(now.MaxBody))
			return
		}
		r.Body = http.MaxBytesReader(w.ResponseWriter, r.Body, now.MaxBody)
	}
	limits := ipc.Override{Timeout: timeout}
	if endless(r) {
		limits.Timeout = -1
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
		if r.ContentLength != 0 {
			// A client that sends its body drop by drop holds the connection not much longer than that either.
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(timeout + time.Second)) //nolint:errcheck // a test's recorder has none
		}
	}
	ctx = ipc.WithOverride(ctx, limits)
	w.backend = m.route.pick()
	out := r.WithContext(context.WithValue(ctx, passageKey{}, &passage{id: id, match: m, backend: w.backend}))
	if g.envoy.Get() && g.fit.Get() {
		if f := g.faults.Load().asked(r, id); f != nil {
			g.inject(w, out, m.route.id, f)
			return
		}
	}
	if now := g.faults.Load(); len(now.scenarios) > 0 && g.fit.Get() {
		f, arms := now.attach(out, id, m.route.id)
		if w.arms = arms; f != nil {
			g.inject(w, out, m.route.id, f)
			return
		}
	}
	g.proxy.ServeHTTP(w, out)
}

// fail answers for a backend that did not.
func (g *Gateway) fail(w http.ResponseWriter, r *http.Request, err error) {
	app := "the service"
	if p, ok := r.Context().Value(passageKey{}).(*passage); ok {
		app = p.backend
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		writeError(w, r, http.StatusRequestEntityTooLarge, tooLarge(large.Limit))
	case errors.Is(context.Cause(r.Context()), context.Canceled):
		w.WriteHeader(statusClientGone)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, ipc.ErrTimeout), errors.Is(err, ipc.ErrDeadlineSpent):
		writeError(w, r, http.StatusGatewayTimeout, app+" did not answer in time; try again")
	case errors.Is(err, ipc.ErrNoEndpoint):
		w.Header().Set("Retry-After", "1")
		writeError(w, r, http.StatusServiceUnavailable, "no instance of "+app+" is up; `roadbed instance list --service "+app+"` shows why")
	case errors.Is(err, ipc.ErrOpen), errors.Is(err, ipc.ErrRejected), errors.Is(err, ipc.ErrLimited), errors.Is(err, ipc.ErrShed):
		w.Header().Set("Retry-After", "1")
		writeError(w, r, http.StatusServiceUnavailable, app+" is overloaded or failing and is left alone for a moment; try again")
	default:
		g.log.Debug("backend failed", "app", app, "err", err)
		writeError(w, r, http.StatusBadGateway, app+" broke off its answer; try again")
	}
}

func tooLarge(limit int64) string {
	return fmt.Sprintf("the request's body is larger than the %d bytes that are allowed; the property edge.body.maxBytes says so", limit)
}

// statusClientGone is what the access log shows for a client that left, as nginx does. Nobody receives it.
const statusClientGone = 499

// endless reports whether the request asks for an answer without an end: an upgrade, or an event stream and nothing
// else, as EventSource asks for.
func endless(r *http.Request) bool {
	if r.Method != http.MethodGet {
		return false
	}
	return r.Header.Get("Accept") == "text/event-stream" ||
		r.Header.Get("Upgrade") != "" && strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade")
}

func clientHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// RoutesView is the answer of GET /api/v1/edge/routes.
type RoutesView struct {
	Routes  []Route  `json:"routes" doc:"routes of the property edge.routes in the order they are tried"`
	Apps    []string `json:"apps" doc:"apps reachable under their own name"`
	Refused string   `json:"refused,omitempty" doc:"why the newest edge.routes is not in force"`
}

// Explanation is the answer of GET /api/v1/edge/explain.
type Explanation struct {
	Route    string   `json:"route" doc:"id of the route that matches; empty if none does"`
	Backends []string `json:"backends,omitempty"`
	Path     string   `json:"path,omitempty" doc:"path that the backend is asked for"`
	Why      string   `json:"why"`
}

// Mount puts the gateway's API on s.
func (g *Gateway) Mount(s *api.Surface) {
	type routesOut struct{ Body RoutesView }
	huma.Get(s.API, "/api/v1/edge/routes", func(context.Context, *struct{}) (*routesOut, error) {
		t := g.table.Load()
		out := &routesOut{Body: RoutesView{Routes: []Route{}, Apps: t.appNames()}}
		for _, r := range t.routes {
			out.Body.Routes = append(out.Body.Routes, r.spec)
		}
		g.mu.Lock()
		out.Body.Refused = g.refused
		g.mu.Unlock()
		return out, nil
	})
	huma.Get(s.API, "/api/v1/edge/faults", func(context.Context, *struct{}) (*struct{ Body []FaultCounts }, error) {
		return &struct{ Body []FaultCounts }{g.faults.Load().counted()}, nil
	})
	type explainIn struct {
		URL    string `query:"url" required:"true" doc:"URL as a client would ask for it" example:"http://localhost:7000/hello/"`
		Method string `query:"method" default:"GET"`
	}
	type explainOut struct{ Body Explanation }
	huma.Get(s.API, "/api/v1/edge/explain", func(_ context.Context, in *explainIn) (*explainOut, error) {
		r, err := http.NewRequest(in.Method, in.URL, nil)
		if err != nil {
			return nil, api.Problem(http.StatusBadRequest, "%q cannot be asked for: %v", in.URL, err)
		}
		return &explainOut{Body: g.explain(r)}, nil
	})
}

func (g *Gateway) explain(r *http.Request) Explanation {
	if why := improper(r); why != "" {
		return Explanation{Why: "refused: " + why}
	}
	t := g.table.Load()
	m, ok := t.match(r)
	if !ok {
		return Explanation{Why: t.nothingAt(r.URL.Path)}
	}
	e := Explanation{Route: m.route.id, Why: m.route.why, Path: m.path(r.URL)}
	for _, b := range m.route.backends {
		e.Backends = append(e.Backends, b.vip)
	}
	return e
}

// writeError answers with a problem detail, or with the same in plain text when the client asks for neither JSON nor
// everything, as a browser or curl does.
func writeError(w http.ResponseWriter, r *http.Request, status int, detail string) {
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Cache-Control", "no-store")
	if accept := r.Header.Get("Accept"); strings.Contains(accept, "json") {
		h.Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]any{"status": status, "title": http.StatusText(status), "detail": detail}) //nolint:errcheck // the client is gone if this fails
		return
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	fmt.Fprintf(w, "%d %s: %s\n", status, http.StatusText(status), detail)
}
