package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Other regions have registries of their own. This one may follow some of them, as Eureka's servers do: everything is
// fetched once, then what changed every half a minute. Readers see an application of another region when this region
// has none of that name, or when they name the region: ?regions=us-west-2,eu.
//
// A Java server shows those who name no region the applications of all regions together, but in deltas only those that
// this region lacks, so that its clients' counts do not agree with its hash. Here both are the latter.

const (
	defaultRemoteFetch          = 30 * time.Second
	defaultRemoteConnectTimeout = 2 * time.Second
	defaultRemoteReadTimeout    = 5 * time.Second

	remoteAnswer  = 1 << 30         // bytes of one answer, inflated
	remoteWithin  = 2 * time.Minute // one answer, to its end
	remoteRetry   = time.Second     // until everything was fetched once
	emptyAnswers  = 3               // in a row, until a region that had instances is believed to have none
	blendsAtOnce  = 64              // lists of regions for which an answer is kept
	ownRegionOnly = "none"          // of regionsHeader
)

// regionsHeader asks a registry of ours to show nothing of other regions. Without it two that follow each other would
// tell each other of what both have forgotten, for ever.
const regionsHeader = "X-Roadbed-Regions"

// regions are the other regions that this registry follows.
type regions struct {
	list     []*region // by name
	fallback bool      // whether those who name none are shown what this region lacks

	mu     sync.Mutex
	blends map[string]*blend // by the names of their regions
}

// region is what another region's registry told.
type region struct {
	name  string // lower case
	base  *url.URL
	shows func(app string) bool
	s     *state // what it has; its leases are not looked at

	client  *http.Client
	every   time.Duration
	whole   bool // everything is fetched each time
	me      string
	log     *slog.Logger
	fetched atomic.Int64 // ns since s.epoch of the last success; 0 before the first
	empty   int          // answers in a row that held nothing while something was known
	lost    bool         // whether the last attempt did not succeed
}

func newRegions(c Config, log *slog.Logger) (*regions, error) {
	rs := &regions{fallback: !c.Settings.NoRemoteFallback, blends: make(map[string]*blend)}
	dial := c.dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: cmp.Or(c.Settings.RemoteConnectTimeout, defaultRemoteConnectTimeout)}).DialContext
	}
	within := cmp.Or(c.Settings.RemoteReadTimeout, defaultRemoteReadTimeout)
	for name, base := range c.Settings.RemoteRegions {
		u, err := parsePeerURL(base)
		if err != nil {
			return nil, fmt.Errorf("registry: region %s: %w", name, err)
		}
		g := &region{
			name: strings.ToLower(name), base: u, s: newState(""), me: c.Self, log: log.With("region", name, "url", nameOf(u)),
			every: cmp.Or(c.Settings.RemoteFetch, defaultRemoteFetch), whole: c.Settings.NoRemoteDelta,
			client: &http.Client{Transport: &http.Transport{
				Proxy: http.ProxyFromEnvironment, DialContext: dial, MaxIdleConnsPerHost: 1, IdleConnTimeout: 90 * time.Second,
				TLSHandshakeTimeout: within, ResponseHeaderTimeout: within,
			}},
			shows: func(string) bool { return true },
		}
		if apps, all := c.Settings.RemoteWhitelist(name); !all {
			g.shows = func(app string) bool {
				return slices.ContainsFunc(apps, func(a string) bool { return strings.EqualFold(a, app) })
			}
		}
		c.Meter.GaugeFunc("registry.region.age", func() float64 { return g.age().Seconds() }, "region", g.name)
		rs.list = append(rs.list, g)
	}
	slices.SortFunc(rs.list, func(a, b *region) int { return strings.Compare(a.name, b.name) })
	return rs, nil
}

// age is how long ago g last told what it has; since this process began if it never did.
func (g *region) age() time.Duration { return time.Duration(g.s.now() - g.fetched.Load()) }

func (g *region) ready() bool { return g.fetched.Load() != 0 }

func (rs *regions) status() []RemoteRegion {
	list := []RemoteRegion{}
	for _, g := range rs.list {
		list = append(list, RemoteRegion{g.name, nameOf(g.base), g.ready(), g.s.current(g.name).count, g.age().Seconds()})
	}
	return list
}

// run follows every region until ctx ends.
func (rs *regions) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, g := range rs.list {
		wg.Go(func() { g.follow(ctx) })
	}
	wg.Wait()
}

func (g *region) follow(ctx context.Context) {
	defer g.client.CloseIdleConnections()
	for {
		err := g.fetch(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !g.lost:
			g.log.Warn("another region's registry cannot be read; what it told stays; trying on", "err", err)
		case err == nil && g.lost:
			g.log.Info("another region's registry is read again")
		}
		g.lost = err != nil
		pause := g.every
		if !g.ready() {
			pause = min(remoteRetry, g.every)
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// fetch brings what is known of g up to date: by what changed, or by everything if that does not add up.
func (g *region) fetch(ctx context.Context) error {
	if g.ready() && !g.whole {
		agreed, err := g.fetchDelta(ctx)
		if err != nil || agreed {
			return err
		}
	}
	return g.fetchAll(ctx)
}

// fetchDelta takes in what changed. It reports whether both sides count the same then.
func (g *region) fetchDelta(ctx context.Context) (agreed bool, err error) {
	hash, err := g.read(ctx, "apps/delta", func(r *record) {
		if r.action == deleted {
			g.s.unmirror(r.key())
		} else {
			g.s.mirror(r)
		}
	})
	var no refusal
	if errors.As(err, &no) && (no.status == http.StatusForbidden || no.status == http.StatusNotFound) {
		return false, nil // it has no deltas
	}
	if err != nil || hash != g.s.current(g.name).hash {
		return false, err
	}
	g.fetched.Store(max(1, g.s.now()))
	return true, nil
}

// fetchAll takes in everything, and takes out what is missing in it.
func (g *region) fetchAll(ctx context.Context) error {
	there := make(map[key]bool)
	if _, err := g.read(ctx, "apps/", func(r *record) {
		there[r.key()] = true
		g.s.mirror(r)
	}); err != nil {
		return err
	}
	sn := g.s.current(g.name)
	if len(there) == 0 && sn.count > 0 {
		// A registry that was just started, more likely than a region without an instance.
		if g.empty++; g.empty < emptyAnswers {
			return errors.New("it has forgotten everybody, as one does that was just started")
		}
	}
	g.empty = 0
	for _, v := range sn.views {
		for _, x := range v.recs {
			if k := x.rec.key(); !there[k] {
				g.s.unmirror(k)
			}
		}
	}
	g.fetched.Store(max(1, g.s.now()))
	return nil
}

// read fetches a list of applications and hands over each instance; hash is what the registry counted.
func (g *region) read(ctx context.Context, path string, take func(*record)) (hash string, err error) {
	ctx, cancel := context.WithTimeout(ctx, remoteWithin)
	defer cancel()
	u := *g.base
	u.User = nil
	u.Path += path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	if who := g.base.User; who != nil {
		password, _ := who.Password()
		req.SetBasicAuth(who.Username(), password)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("DiscoveryIdentity-Name", "DefaultServer")
	req.Header.Set("DiscoveryIdentity-Version", "1.0")
	req.Header.Set("DiscoveryIdentity-Id", g.me)
	req.Header.Set(regionsHeader, ownRegionOnly)
	resp, err := g.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) //nolint:errcheck // only to keep the connection
		return "", refusal{resp.StatusCode}
	}
	return readApplications(io.LimitReader(resp.Body, remoteAnswer), func(r *record) {
		if r.invalid(r.app, false) == "" {
			take(r)
		}
	})
}

// mirror makes r what is known of an instance of another region. The times of its lease are those of this moment.
func (s *state) mirror(r *record) {
	s.names.intern(r)
	now := time.Now().UnixMilli()
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(r.key())
	r.registered, r.updated, r.action = now, now, added
	if r.status == up {
		r.serviceUp = now
	}
	if e == nil {
		e = &entry{}
		s.insert(r.key(), e)
		s.count++
		s.promised += r.perHour()
		s.byStatus[r.status]++
		e.rec = r
		e.lease.renew(s.now(), false)
		s.publish(e, r, nil)
		return
	}
	e.lease.renew(s.now(), false)
	r.registered, r.serviceUp = e.rec.registered, e.rec.serviceUp
	if r.dirty == e.rec.dirty && r.same(e.rec) {
		return
	}
	s.promised += r.perHour() - e.rec.perHour()
	s.replace(e, r)
}

// unmirror forgets an instance of another region.
func (s *state) unmirror(k key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(k)
}

// blend is what readers of several regions see, made anew when one of them changed.
type blend struct {
	parts []*snapshot // this region's, then those of the others
	sn    *snapshot
	past  past
}

// see returns what those see who read here and in the regions they name, in lower case and in order; nil if they name
// none. Regions that nobody configured are left out. ready is false while a region that is named, or any other, has not
// been read yet: clients try their next server then.
func (rs *regions) see(local *snapshot, named []string) (sn *snapshot, ready bool) {
	if len(rs.list) == 0 {
		return local, true
	}
	chosen := rs.list
	if named == nil {
		if !rs.fallback {
			return local, true
		}
	} else {
		if slices.ContainsFunc(rs.list, func(g *region) bool { return !g.ready() }) {
			return nil, false
		}
		chosen = slices.DeleteFunc(slices.Clone(rs.list), func(g *region) bool { return !slices.Contains(named, g.name) })
	}
	name := "" // no region can be called so
	if named != nil {
		name = "+"
	}
	parts := []*snapshot{local}
	for _, g := range chosen {
		name += g.name + ","
		parts = append(parts, g.s.current(g.name))
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	b := rs.blends[name]
	if b == nil {
		if len(rs.blends) >= blendsAtOnce {
			clear(rs.blends)
		}
		b = &blend{}
		rs.blends[name] = b
	}
	if !slices.Equal(b.parts, parts) {
		b.parts, b.sn = parts, together(parts, chosen, named == nil, &b.past)
	}
	return b.sn, true
}

// together puts snapshots together: the first is this region's, the others those of others. With lackingOnly it takes of
// those just the applications that this region lacks.
func together(parts []*snapshot, others []*region, lackingOnly bool, past *past) *snapshot {
	local := parts[0]
	sn := &snapshot{self: local.self, warming: local.warming, made: local.made, changes: slices.Clone(local.changes), views: slices.Clone(local.views)}
	for _, p := range parts {
		sn.version += p.version // rises with each of them
	}
	known := make(map[string]int, len(sn.views)) // place in views, by name
	for i, v := range sn.views {
		known[v.name] = i
	}
	for n, g := range others {
		wanted := func(app string) bool { return g.shows(app) && !(lackingOnly && local.find(app) != nil) }
		theirs := parts[n+1]
		for _, v := range theirs.views {
			if !wanted(v.name) {
				continue
			}
			if i, both := known[v.name]; both {
				sn.views[i] = join(sn.views[i], v)
				continue
			}
			known[v.name] = len(sn.views)
			sn.views = append(sn.views, v)
		}
		var also []*change
		for c := range theirs.changes.all() {
			if wanted(c.rec.app) && !local.has(c.rec.key()) {
				also = append(also, c)
			}
		}
		if len(also) > 0 {
			sn.changes = append(sn.changes, also)
		}
	}
	var n [statuses]int
	for _, v := range sn.views {
		for _, x := range v.recs {
			n[x.rec.status]++
		}
		sn.count += len(v.recs)
	}
	sn.hash = hashCode(n)
	slices.SortFunc(sn.views, func(a, b *view) int { return strings.Compare(a.name, b.name) })
	sn.derive("", past, nil)
	for _, p := range parts {
		p.tookLong(sn.count)
	}
	return sn
}

// join returns a view of the instances of a, and of those of b that a has not.
func join(a, b *view) *view {
	v := &view{name: a.name, made: a.made, self: a.self, region: a.region, recs: slices.Clone(a.recs)}
	mine := make(map[string]bool, len(a.recs))
	for _, x := range a.recs {
		mine[x.rec.id] = true
	}
	for _, x := range b.recs {
		if !mine[x.rec.id] {
			v.recs = append(v.recs, x)
		}
	}
	return v
}

// has reports whether an instance is in sn.
func (sn *snapshot) has(k key) bool {
	v := sn.find(k.app)
	return v != nil && slices.ContainsFunc(v.recs, func(x shown) bool { return x.rec.id == k.id })
}
