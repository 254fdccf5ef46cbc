// Package region moves users between regions: it sends the requests of some of them, or of all, through a tunnel to the
// edges of another region, at once or bit by bit, and takes those that come from there. At Netflix this was how a region
// was evacuated: Zuul proxied its users to another one while DNS followed.
//
// A region is a property, edge.region.NAME, that every edge follows:
//
//	{"state": "DRAINING", "to": {"west": 60, "north": 40}, "rampSeconds": 60, "since": "2026-01-31T10:00:00Z",
//	 "edges": ["http://10.1.0.7:7000", "http://10.1.0.8:7000"]}
//
// [RegionDocument] says what it may hold; `roadbed region` writes it. While there is no such property no request meets anything of this package.
//
// # Who goes where
//
// Each user has a home: the region that edge.regions.home names, else the one of the edge that is asked. A home sends
// a share of its users elsewhere: none while it is SERVING, unless its weight is below 100; while it is DRAINING a share that
// grows from 0 to all of them in rampSeconds; all when it is EVACUATED. Which users these are, and to which of the regions in
// "to" each goes, is decided by a hash of who asks, never by chance: of a user's requests all go the same way.
//
// Such a request goes, before anything of its route is done, over kept connections to an edge of that region, which does all
// of it. The field X-Edge-Hop, signed, says where it comes from: it is not sent on again, and what it says of the client is
// believed.
//
// # Who an edge is
//
// To an edge whose URL is https a connection is made over TLS, and HTTP/2 but for upgrades. The other edge shows a certificate
// that edge.regions.tls.ca, or else this machine, vouches for, and that is for the "identity" of its region, or the URL's host if
// there is none; this one shows one of edge.regions.tls.certs if it is asked to. A hop of a region that has an identity is believed
// only on a connection with a client certificate for it.
//
// # Where that cannot be
//
// If no edge of the region answers, the next region in "to" is asked, and at last the request is served here after all:
// any request that was not sent, or that the other region refused as too much; of those that were sent and not answered,
// those that may be sent twice. With "strict" it is answered 503 in place of that. A region that does not answer five times
// in a row is tried once every two seconds, for one second, by a GET, HEAD or OPTIONS.
//
// # The ramp stands still
//
// While more than edge.regions.gate.errors of the requests that a target answers, or does not, fail, over the share of those
// that fail here, users stay where they are: nobody more goes, nobody comes back. It goes on by itself once that was over for
// ten seconds. Each edge judges by what it sees. EVACUATED waits for nothing.
//
// # Visitors
//
// A region takes so many requests of others at once, on each edge, as its "headroom" says. From four fifths of it on they are
// refused by importance, with 503, which has the region that sent them serve them itself.
//
// # What it promises
//   - A user who has moved stays there while the share grows, and one who is back stays back while it falls.
//   - All edges with the same properties and clocks that agree send the same user to the same place; an edge that is started
//     in the middle of a ramp goes on where the others are.
//   - What another region has answered is not tried again here: attempts do not multiply.
//   - A request is sent to another region once at most, whatever the properties of either say.
//   - A document with a mistake changes nothing; the log, the API and the properties' readers say what is wrong.
//   - No request is lost because another region cannot be reached, unless it is not idempotent and was sent, or "strict" is set.
//
// # What it does not
//   - It moves requests, not data: what the other region knows of a user is the services' business.
//   - It changes no DNS. When clients come to the other region by themselves, the tunnel has less to do.
//   - Of edges whose URL is http nobody knows who they are but by the key; what is sent to them can be read on the way.
//   - Requests on connections with a client certificate stay: the certificate cannot be shown in another's name.
package region

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/balance"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/origin"
	"github.com/roadbed/roadbed/platform/edge/standard"
)

// Config wires the regions of an edge. Region is required.
type Config struct {
	Region     string // own
	Properties *config.Properties
	Meter      *meter.Registry
	Log        *slog.Logger

	// Moving is told, once a second at most, that more users of this region are elsewhere: who holds a connection for some of
	// them may ask them to connect anew within so much time. It must not wait. nil: nobody does.
	Moving func(elsewhere func(name string) bool, within time.Duration)

	// Refuse answers a visitor by its importance where so much of the headroom is used, from 0 to 1, and reports whether it
	// did. nil: none is refused.
	Refuse func(x *filter.Exchange, used float64) bool
}

// Regions is all regions as one edge knows them. Its methods may be used from many goroutines.
//
// Live properties:
//
//	edge.region.NAME              (none)           a region, see [RegionDocument]
//	edge.regions.home             (none)           what names a request's home region: header:NAME or cookie:NAME
//	edge.regions.user             header:X-Member  what names a user whom the edge has not authenticated: header:NAME or cookie:NAME; without it the address does
//	edge.regions.key              (none)           signs hops, the same in all regions, 16 characters or more; fault.key if there is none
//	edge.regions.tls.certs        (none)           a directory with the certificate that this edge shows to other regions' edges, NAME.crt and NAME.key or NAME.pem
//	edge.regions.tls.ca           (none)           a file of those who vouch for other regions' edges; without it those that this machine trusts do
//	edge.regions.tls.crl          (none)           a file or directory of lists of what they revoked; without it nobody looks
//	edge.regions.gate.enabled     true             ramps stand still while a target fails
//	edge.regions.gate.errors      0.05             by how much the share of failures there may be above the share here
//	edge.regions.gate.requests    20               in ten seconds; fewer say nothing
type Regions struct {
	own   string
	set   *config.Value[*settings]
	fault *config.Value[string]
	props *config.Properties
	meter *meter.Registry
	log   *slog.Logger
	judge func(*filter.Exchange, float64) bool
	moves func(elsewhere func(string) bool, within time.Duration)

	now  atomic.Pointer[picture] // nil: there are no regions
	seen seen
	here tally // requests of home that were served here

	certs certificates

	visitors, taken, turned, forged atomic.Int64
	mistrusted                      atomic.Pointer[mistrust]
	left                            func(*filter.Exchange)
	kept                            *meter.Counter
	good                            *meter.Counter
	free                            sync.Pool // of *trip

	woken chan struct{} // a picture has come

	mu       sync.Mutex // guards what follows
	calls    *ipc.Engine
	proxy    *origin.Proxy
	lists    lists
	tunnels  map[string]*tunnel
	proposed map[string]*RegionProposal
	refused  map[string]string // why the newest documents are not in force, by region
	closed   bool
}

// settings are the properties under edge.regions.
type settings struct {
	Home     source  `config:"home"`
	User     source  `config:"user"`
	Key      string  `config:"key"`
	Certs    string  `config:"tls.certs"`
	CA       string  `config:"tls.ca"`
	CRL      string  `config:"tls.crl"`
	Gate     bool    `config:"gate.enabled"`
	Errors   float64 `config:"gate.errors"`
	Requests int     `config:"gate.requests"`
}

// Validate keeps what cannot be meant out of force.
func (s *settings) Validate() error {
	if s.Key != "" && len(s.Key) < 16 {
		return fmt.Errorf("edge.regions.key has %d characters; at least 16 keep it from being guessed", len(s.Key))
	}
	if err := config.Between("edge.regions.gate.errors", s.Errors, 0, 1); err != nil {
		return err
	}
	return config.Between("edge.regions.gate.requests", s.Requests, 1, 1_000_000)
}

// picture is the regions at one moment. But for shares and ramps it never changes; a new one takes its place.
type picture struct {
	own      *region   // nil: the own region has no document
	regions  []*region // by name
	headroom int
	proxy    *origin.Proxy
	edges    map[string]*region // whose edge is at an address
}

// region is one region with its document.
type region struct {
	name    string
	doc     *RegionDocument
	to      []target      // that can be asked
	*tunnel               // to it; nil: it is this one
	share   atomic.Uint64 // of users that are served elsewhere, of buckets
	ramp    ramp
}

// New returns the regions of an edge, of which there are none until [Regions.Set] is told of some; [Regions.Run] moves users.
func New(c Config) *Regions {
	r := &Regions{
		own: c.Region, props: c.Properties, meter: c.Meter, log: c.Log, judge: c.Refuse, moves: c.Moving,
		set:   config.Must(config.Bind(c.Properties, "edge.regions.", settings{User: source{name: "X-Member"}, Gate: true, Errors: 0.05, Requests: 20})),
		fault: c.Properties.String("fault.key", ""),
		kept:  c.Meter.Counter("edge.region.kept"),
		good:  c.Meter.Counter("edge.region.good"),
		lists: lists{by: map[string][]roadbed.Instance{}, watchers: map[string]func([]roadbed.Instance){}}, tunnels: map[string]*tunnel{}, refused: map[string]string{},
		woken: make(chan struct{}, 1),
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	r.left = func(*filter.Exchange) { r.visitors.Add(-1) }
	r.free.New = func() any { return new(trip) }
	return r
}

const (
	rampStep  = 100 * time.Millisecond // how often shares are worked out
	lookEvery = 5 * time.Second        // how often files of certificates are looked at
)

// Run moves the shares of users along, until ctx ends.
func (r *Regions) Run(ctx context.Context) error {
	var moved moved
	var looked time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.woken:
		}
		for p := r.now.Load(); p != nil; p = r.now.Load() {
			timer := time.NewTimer(rampStep)
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case <-timer.C:
				now := time.Now()
				r.step(now)
				r.tell(&moved, now)
				if now.Sub(looked) >= lookEvery {
					looked = now
					r.certs.follow(r.set.Get(), r.props, r.log)
				}
			}
		}
	}
}

// Close forgets all regions, and closes idle connections to them. Requests under way go on.
func (r *Regions) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.now.Store(nil)
	if r.proxy != nil {
		r.proxy.Close()
		r.calls.Close()
	}
}

// Set takes documents into force, by the names of their properties. Of a region whose document has a mistake the one
// before stays.
func (r *Regions) Set(all map[string]string) {
	if len(all) > 0 {
		r.certs.follow(r.set.Get(), r.props, r.log)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	former, taken := map[string]*region{}, map[string]string{} // the latter by what their edges are called
	if p := r.now.Load(); p != nil {
		for _, g := range p.regions {
			former[g.name] = g
			if _, stays := all[Prefix+g.name]; stays {
				taken[appOf(g.name)] = g.name
			}
		}
	}
	clear(r.refused)
	next := &picture{}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		name := strings.TrimPrefix(key, Prefix)
		if name == auto {
			continue // it is AutoProperty
		}
		doc, err := Parse(name, all[key])
		if other := taken[appOf(name)]; err == nil && other != "" && other != name {
			err = twins(other)
		}
		old := former[name]
		if err != nil {
			r.refused[name] = err.Error()
			r.log.Warn("region refused, what it was before stays", "region", name, "why", err)
			r.props.Refuse(key, all[key], err)
			if old == nil {
				continue
			}
			doc = old.doc
		}
		g := &region{name: name, doc: doc}
		if old != nil && doc.same(old.doc) {
			g.ramp = old.ramp
		}
		if old == nil {
			r.meter.GaugeFunc("edge.region.moved", func() float64 { return r.now.Load().moved(name) }, "edge.region.of", name)
		}
		next.regions = append(next.regions, g)
		taken[appOf(name)] = name
		if name == r.own {
			next.own, next.headroom = g, doc.Headroom
		}
	}
	r.part(next)
	if len(next.regions) == 0 {
		r.now.Store(nil)
		return
	}
	r.reach(next)
	now := time.Now()
	for _, g := range next.regions {
		g.move(now)
	}
	r.now.Store(next)
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// part forgets the ways to regions that are not among next's. Requests under way go on.
func (r *Regions) part(next *picture) {
	for name, t := range r.tunnels {
		if next.find(name) == nil {
			delete(r.tunnels, name)
			r.lists.put(t.app, nil)
		}
	}
}

// reach makes p's regions reachable, and finds out for each which of its targets can be asked.
func (r *Regions) reach(p *picture) {
	if r.proxy == nil {
		r.calls = ipc.New(ipc.Options{App: "edge", Lists: &r.lists, Config: r.props, Meter: r.meter, Log: r.log, Handshake: r.handshake})
		r.proxy = origin.New(origin.Config{Calls: r.calls, Properties: r.props, Meter: r.meter, Log: r.log, Edges: true})
	}
	p.proxy, p.edges = r.proxy, map[string]*region{}
	for _, g := range p.regions {
		if g.name == r.own {
			continue
		}
		t := r.tunnels[g.name]
		if t == nil {
			t = newTunnel(g.name, r.meter)
			r.tunnels[g.name] = t
			r.meter.GaugeFunc("edge.region.concurrent.requests", func() float64 { return r.inFlight(g.name) }, "edge.region.to", g.name)
			r.calls.Command(t.app, ipc.Settings{PerInstance: true})
		}
		g.tunnel = t
		edges, _ := balance.ParseServers(strings.Join(g.doc.Edges, ",")) // it was checked
		r.lists.put(t.app, edges)
		for _, e := range edges {
			p.edges[e.Addr()] = g
		}
	}
	for _, g := range p.regions {
		for _, name := range slices.Sorted(maps.Keys(g.doc.To)) {
			if p.unfit(name, r.own) != "" {
				continue
			}
			g.to = append(g.to, target{name: name, weight: g.doc.To[name], tunnel: r.tunnels[name]})
		}
	}
}

// moved returns the percent of a region's users that are elsewhere; NaN if there is no such region.
func (p *picture) moved(name string) float64 {
	if g := p.find(name); g != nil {
		return g.percent()
	}
	return math.NaN()
}

// inFlight returns how many requests are in flight to a region; NaN if there is no way to it.
func (r *Regions) inFlight(name string) float64 {
	if g := r.now.Load().find(name); g != nil && g.tunnel != nil {
		return float64(g.tunnel.inFlight.Load())
	}
	return math.NaN()
}

// Any reports whether there are regions. Without them the filters are of no use.
func (r *Regions) Any() bool { return r.now.Load() != nil }

// appOf returns the name under which a region's edges are called.
func appOf(region string) string { return "region-" + strings.ToLower(region) }

// twins says that a region cannot have the name that it has beside another one.
func twins(other string) error {
	return fmt.Errorf("there is a region %s, whose name differs in capitals alone; take another name", other)
}

// key returns what hops are signed with.
func (r *Regions) key() string { return cmp.Or(r.set.Get().Key, r.fault.Get()) }

// Filters returns the filters that know visitors, and send requests away. They are for a chain that is used while there are
// regions.
func (r *Regions) Filters() []*filter.Filter {
	return []*filter.Filter{
		{Name: "Hop", Kind: filter.Inbound, Order: -1001, Quick: true, Guard: true,
			If: func(x *filter.Exchange) bool { return x.Request.Header.Has(HopHeader) }, Apply: func(x *filter.Exchange) error { r.arrived(x); return nil }},
		{Name: "Visitors", Kind: filter.Inbound, Order: -640, Quick: true,
			If: func(x *filter.Exchange) bool { return x.Hop != "" }, Apply: func(x *filter.Exchange) error { r.visits(x); return nil }},
		{Name: "Region", Kind: filter.Inbound, Order: -95, Quick: true,
			If: func(x *filter.Exchange) bool { return x.Hop == "" }, Apply: func(x *filter.Exchange) error { r.decide(x); return nil }},
		{Name: "Tunnel", Kind: filter.Inbound, Order: -86, Quick: true, Guard: true, // it waits, as an endpoint does, and is not bounded as a filter is
			If: func(x *filter.Exchange) bool { return x.Away != "" }, Apply: r.tunnelled},
		{Name: "RegionNoted", Kind: filter.Outbound, Order: -940, Quick: true, Always: true,
			If: func(x *filter.Exchange) bool { return x.Away == "" && x.Hop == "" }, Apply: func(x *filter.Exchange) error {
				bad := balance.Failing(x.Response.Status)
				if r.here.add(bad); !bad {
					r.good.Inc()
				}
				return nil
			}},
	}
}

// arrived finds out whether a request comes from another region, as it says, and takes the field that says so out.
func (r *Regions) arrived(x *filter.Exchange) {
	h := &x.Request.Header
	if p := r.now.Load(); p != nil && h.Count(HopHeader) == 1 {
		now, hop := time.Now(), h.Get(HopHeader)
		from, err := r.seen.from(r.key(), r.own, hop, now.Unix())
		if err == nil && !p.shown(from, x) {
			err = errHopUncertified
		}
		if err == nil {
			x.Hop = from
			r.taken.Add(1)
		} else {
			r.forged.Add(1)
			r.doubted(p, hop, err, now)
		}
	}
	h.Del(HopHeader)
}

// shown reports whether x came on a connection that only an edge of a region can open, if that region's have certificates for an
// identity.
func (p *picture) shown(from string, x *filter.Exchange) bool {
	g := p.find(from)
	return g == nil || g.doc.Identity == "" || x.Client != nil && x.Client.Identity == g.doc.Identity
}

// softHeadroom is the part of the headroom from which on visitors are refused by their importance.
const softHeadroom = 0.8

// visits takes a visitor in, or not.
func (r *Regions) visits(x *filter.Exchange) {
	n := r.visitors.Add(1)
	x.OnEnd(r.left)
	p := r.now.Load()
	if p == nil || p.headroom == 0 || r.judge == nil {
		return
	}
	used := (float64(n)/float64(p.headroom) - softHeadroom) / (1 - softHeadroom)
	if used > 0 && r.judge(x, min(1, used)) {
		r.turned.Add(1)
	}
}

// homeOf returns the region that x's user belongs to, nil if that has no document.
func (p *picture) homeOf(x *filter.Exchange, set *settings) *region {
	if set.Home.name == "" {
		return p.own
	}
	if name := set.Home.of(&x.Request.Header); name != "" {
		if g := p.find(name); g != nil {
			return g
		}
	}
	return p.own
}

// decide says whether x is served here, or in which region it is.
//
// hot path: 0 allocs, BenchmarkStays
func (r *Regions) decide(x *filter.Exchange) {
	p := r.now.Load()
	if p == nil || x.Identity() != "" {
		return
	}
	set := r.set.Get()
	home := p.homeOf(x, set)
	if home == nil {
		return
	}
	share := home.share.Load()
	if share == 0 {
		r.homeward(x, home)
		return
	}
	u := userOf(x, &set.User)
	if !u.moved(home.name, share) {
		r.homeward(x, home)
		return
	}
	if i := u.pick(home.name, home.to, 0); i >= 0 {
		if t := &home.to[i]; t.name != r.own {
			x.Away = t.name
		}
		return
	}
	if home.doc.Strict && home == p.own {
		x.Away = home.name // nobody can take it, and neither may it stay
	}
}

// homeward sends a user who stays at home there, if that is not here.
func (r *Regions) homeward(x *filter.Exchange, home *region) {
	if home.name != r.own && len(home.doc.Edges) > 0 {
		x.Away = home.name
	}
}

// trip is what of a request is put back if it is served here after all. It is used again.
type trip struct {
	fields []filter.Field
	plan   *filter.Plan

	app, path, prefix, host, group, instance, addr, surgical string
	force                                                    bool
}

func (t *trip) keep(x *filter.Exchange) {
	*t = trip{append(t.fields[:0], x.Request.Header.Fields()...), x.Plan, x.App, x.Path, x.Prefix, x.Host, x.Group, x.Instance, x.Addr, x.Surgical, x.Force}
}

func (t *trip) restore(x *filter.Exchange) {
	h := &x.Request.Header
	h.Reset()
	for _, f := range t.fields {
		h.Add(f.Name, f.Value)
	}
	x.Plan, x.App, x.Path, x.Prefix, x.Host, x.Group, x.Instance, x.Addr, x.Surgical, x.Force = t.plan, t.app, t.path, t.prefix, t.host, t.group, t.instance, t.addr, t.surgical, t.force
}

var nothingAgain = []int{}

// through is the plan of requests that no route of this region takes.
var through = filter.Plan{Upgrades: true}

// tunnelled has x served by another region, or leaves it to be served here.
func (r *Regions) tunnelled(x *filter.Exchange) error {
	p := r.now.Load()
	if p == nil { // just now they were taken away
		x.Away = ""
		return nil
	}
	set := r.set.Get()
	home := p.homeOf(x, set)
	kept := r.free.Get().(*trip)
	kept.keep(x)
	defer func() {
		clear(kept.fields)
		*kept = trip{fields: kept.fields[:0]}
		r.free.Put(kept)
	}()
	plan := through
	if x.Plan != nil {
		plan = *x.Plan // its deadlines and methods hold
	}
	plan.RetryStatuses, plan.Hedge = nothingAgain, false // the other edge has tried again what it answers
	plan.Endpoint, plan.Inbound, plan.Outbound, plan.Mirrors, plan.Protocol, plan.MaxBody = nil, nil, nil, nil, "", 0
	u := userOf(x, &set.User)
	safe := x.Request.Upgrade == "" && (x.Request.Method == http.MethodGet || x.Request.Method == http.MethodHead || x.Request.Method == http.MethodOptions)
	var why error
	for skip := uint64(0); ; {
		t, next := r.next(home, &u, skip)
		if t == nil {
			break
		}
		skip = next
		may, trial := t.open(safe)
		if !may {
			continue
		}
		x.Plan, x.App, x.Away = &plan, t.app, t.region
		if trial {
			brief := plan
			brief.AttemptTimeout, brief.Retries = tryFor, -1
			x.Plan = &brief
		}
		x.Path, x.Prefix, x.Host, x.Group, x.Instance, x.Addr, x.Surgical, x.Force = "", "", "", "", "", "", "", false
		h := &x.Request.Header
		h.Add(HopHeader, t.stamp.hop(r.key(), r.own, t.region, time.Now().Unix()))
		h.Add("Via", standard.Via(x.Request.Proto))
		t.inFlight.Add(1)
		t.total.Add(1)
		back, err := p.proxy.Relay(x)
		if !back {
			x.OnEnd(t.leave)
			if err != nil {
				if category, _ := x.Category(); category != filter.FailureClientCancelled {
					t.lost.Inc()
					t.missed(err)
				}
				return err
			}
			t.answers(balance.Failing(x.Response.Status))
			x.Respond()
			return nil
		}
		t.inFlight.Add(-1)
		t.not.Inc()
		if refusal := x.Origin == filter.FailureOriginThrottled; refusal {
			t.answers(true) // it has no room
		} else {
			t.missed(err)
		}
		why = err
		kept.restore(x)
	}
	r.kept.Inc()
	if home != nil && home.doc.Strict {
		return &filter.Error{Status: http.StatusServiceUnavailable, Category: filter.FailureNoServers, RetryAfter: time.Duration(1+rand.IntN(5)) * time.Second,
			Reason: "this user's requests go to another region, which cannot be reached; try again later", Err: why}
	}
	x.Away = ""
	return nil
}

// next returns the tunnel that a user's request takes, or, with those in skip tried, the next one; nil if it is to be
// served here.
func (r *Regions) next(home *region, u *user, skip uint64) (*tunnel, uint64) {
	if home == nil {
		return nil, skip
	}
	i := u.pick(home.name, home.to, skip)
	moved := u.moved(home.name, home.share.Load())
	if !moved || i < 0 { // it goes home, if that is elsewhere
		const tried = 1 << 63
		if home.name == r.own || skip&tried != 0 || moved {
			return nil, skip
		}
		return home.tunnel, skip | tried
	}
	t := &home.to[i]
	return t.tunnel, skip | 1<<i // which is nil if it is this region
}

// moved is what was told last of users of this region that are elsewhere.
type moved struct {
	share uint64
	at    time.Time
}

const (
	tellEvery = time.Second
	spread    = 5 * time.Second  // of those who are asked to go, beside the ramp's own pace
	spreadAll = 30 * time.Second // where there is no ramp
)

// tell has those told who hold connections for users, if more of these are elsewhere now.
func (r *Regions) tell(m *moved, now time.Time) {
	p := r.now.Load()
	if p == nil || p.own == nil || r.moves == nil {
		return
	}
	share := p.own.share.Load()
	if share <= m.share {
		m.share = share
		return
	}
	if now.Sub(m.at) < tellEvery || len(p.own.to) == 0 {
		return
	}
	m.share, m.at = share, now
	within := spread
	if p.own.doc.State == Evacuated || p.own.doc.Ramp() == 0 {
		within = spreadAll
	}
	r.moves(func(name string) bool {
		u := user{name: name}
		return u.moved(p.own.name, share)
	}, within)
}

// lists is [ipc.Lists] of the edges of regions.
type lists struct {
	mu       sync.Mutex
	by       map[string][]roadbed.Instance       // guarded by mu, as is what follows
	watchers map[string]func([]roadbed.Instance) // at most one for each app: one engine asks
}

// Watch calls fn with the edges of a region, and again after each change.
func (l *lists) Watch(app string, fn func([]roadbed.Instance)) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn(l.by[app])
	l.watchers[app] = fn
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers, app)
	}
}

func (l *lists) put(app string, edges []roadbed.Instance) {
	for i := range edges {
		edges[i].App = app
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.EqualFunc(l.by[app], edges, func(a, b roadbed.Instance) bool { return a.ID == b.ID && a.Secure == b.Secure }) {
		return
	}
	if l.by[app] = edges; edges == nil {
		delete(l.by, app)
	}
	if fn := l.watchers[app]; fn != nil {
		fn(edges)
	}
}
