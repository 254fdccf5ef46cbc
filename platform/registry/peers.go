package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A registry shares what it knows with others of its kind and with servers of Netflix's and Spring's Eureka. Each has
// the same list of base URLs, in which it finds itself by its own. A scheme that begins with "a+", "srv+" or "txt+" has
// the host looked up in the DNS again and again: for each of its addresses; for its SRV records; or, as Eureka lays
// them out, for the zones in the TXT record txt.HOST and the hosts in txt.ZONE of each.

// What Settings leaves open.
const (
	defaultPeerUpdates   = 5 * time.Second
	defaultSyncRetryWait = time.Second
	defaultSyncWait      = 30 * time.Second
	defaultSyncRetries   = 5
)

// peers is what a registry knows of the others.
type peers struct {
	c        Config
	s        *state
	log      *slog.Logger
	names    resolver
	own      *url.URL // nil if it is not known
	specs    []*spec
	boxes    *outboxes
	list     atomic.Pointer[[]*peer] // ordered by URL
	resolved atomic.Bool             // whether every entry of specs has been looked up
	found    chan struct{}           // closed when the peers have been looked up for the first time
	opened   chan struct{}           // closed when lists are worth reading: what peers know has been copied
	once     sync.Once
	node     string        // this process's own name
	changed  chan struct{} // holds a token when a peer was asked

	mu      sync.Mutex
	inbound map[*outbox]string // of connections that other registries opened, and who they are
}

// spec is an entry of the list of peers, and the URLs for which it stood when it was looked up last.
type spec struct {
	url   *url.URL
	found []*url.URL
	known bool // whether it has been looked up
}

// newPeers fails on URLs that cannot be meant.
func newPeers(c Config, s *state, log *slog.Logger) (*peers, error) {
	ps := &peers{c: c, s: s, log: log, names: netResolver(), boxes: &outboxes{}, found: make(chan struct{}), opened: make(chan struct{}), changed: make(chan struct{}, 1), inbound: make(map[*outbox]string)}
	ps.list.Store(&[]*peer{})
	if c.Settings.MyURL != "" {
		own, err := parsePeerURL(c.Settings.MyURL)
		if err != nil {
			return nil, err
		}
		ps.own = own
	}
	for _, zone := range slices.Sorted(maps.Keys(c.Settings.Peers)) {
		for _, text := range c.Settings.Peers[zone] {
			u, err := parseSpec(text)
			if err != nil {
				return nil, err
			}
			ps.specs = append(ps.specs, &spec{url: u})
		}
	}
	if len(ps.specs) == 0 || c.Settings.SyncWait < 0 {
		ps.open()
	}
	return ps, nil
}

// open lets clients read lists. It reports whether they could not before.
func (ps *peers) open() (first bool) {
	ps.once.Do(func() { first = true; close(ps.opened) })
	return first
}

func (ps *peers) isOpen() bool {
	select {
	case <-ps.opened:
		return true
	default:
		return false
	}
}

// run finds the peers, copies what they know, opens the registry and tells them what happens, until ctx ends.
func (ps *peers) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	running := make(map[string]func())
	defer func() {
		for _, stop := range running {
			wg.Go(stop)
		}
	}()
	ps.resolve(ctx, running)
	close(ps.found)
	wg.Go(func() { ps.begin(ctx) })
	t := time.NewTicker(cmp.Or(ps.c.Settings.PeerUpdates, defaultPeerUpdates))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			ps.resolve(ctx, running)
		}
	}
}

// resolve makes running and the list those of the peers that there are now.
func (ps *peers) resolve(ctx context.Context, running map[string]func()) {
	found := ps.lookUp(ctx)
	ps.resolved.Store(!slices.ContainsFunc(ps.specs, func(sp *spec) bool { return !sp.known }))
	var list []*peer
	for _, p := range *ps.list.Load() {
		if _, ok := found[p.base.String()]; ok {
			list = append(list, p)
			delete(found, p.base.String())
			continue
		}
		ps.log.Info("a peer is no longer one", "peer", p.name())
		running[p.base.String()]()
		delete(running, p.base.String())
	}
	for name, u := range found {
		p := newPeer(u, ps.s, ps.log, ps.c, ps.identity())
		list = append(list, p)
		running[name] = start(ctx, func(ctx context.Context) { p.run(ctx, ps) })
	}
	slices.SortFunc(list, func(a, b *peer) int { return strings.Compare(a.base.String(), b.base.String()) })
	ps.list.Store(&list)
	ps.rebuild()
	ps.tell()
	for _, p := range list {
		ps.c.Meter.Gauge("registry.peer.lag", "peer", p.base.Host).Set(p.lag().Seconds())
	}
}

// rebuild makes the outboxes those of the peers, and of the registries that connected without being one that this
// registry is connected to itself.
func (ps *peers) rebuild() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var boxes []*outbox
	reached := make(map[string]bool)
	for _, p := range *ps.list.Load() {
		if node := p.node.Load(); node != nil {
			reached[*node] = true
		}
		if !p.self.Load() {
			boxes = append(boxes, p.box)
		}
	}
	for b, node := range ps.inbound {
		if !reached[node] {
			boxes = append(boxes, b)
		}
	}
	ps.boxes.list.Store(&boxes)
}

// entered notes that a registry connected, until it leaves.
func (ps *peers) entered(b *outbox, node string) (leave func()) {
	note := func(do func()) {
		ps.mu.Lock()
		do()
		ps.mu.Unlock()
		ps.rebuild()
	}
	note(func() { ps.inbound[b] = node })
	return func() { note(func() { delete(ps.inbound, b) }) }
}

// tell wakes who waits for the peers to be asked.
func (ps *peers) tell() {
	select {
	case ps.changed <- struct{}{}:
	default:
	}
}

// start runs fn and returns what ends it and waits for it.
func start(ctx context.Context, fn func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(ctx)
	}()
	return func() { cancel(); <-done }
}

// lookUp returns the URLs of the peers, this registry's own excepted, by their text.
func (ps *peers) lookUp(ctx context.Context) map[string]*url.URL {
	found := make(map[string]*url.URL)
	for _, sp := range ps.specs {
		list, err := ps.names.expand(ctx, sp.url)
		if err == nil {
			sp.found, sp.known = list, true
		} else if ctx.Err() == nil {
			ps.log.Warn("peers cannot be looked up; those known stay", "name", nameOf(sp.url), "err", err)
		}
		for _, u := range sp.found {
			if !ps.isMe(u) {
				found[u.String()] = u
			}
		}
	}
	return found
}

// isMe reports whether u leads here: same port, and a host that is ours.
func (ps *peers) isMe(u *url.URL) bool {
	if ps.own == nil || portOfURL(u) != portOfURL(ps.own) {
		return false
	}
	mine, host := ps.own.Hostname(), u.Hostname()
	return strings.EqualFold(host, mine) || strings.EqualFold(host, ps.c.Settings.HostName) ||
		isLoopback(host) && isLoopback(mine) || ps.names.isLocal(host)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

func portOfURL(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// identity is how this registry names itself to its peers.
func (ps *peers) identity() string {
	if ps.own != nil {
		return ps.own.Hostname()
	}
	return "127.0.0.1"
}

// begin opens the registry when each peer was asked what it knows and one has told, be it that it knows nobody, or
// when none did for too long.
func (ps *peers) begin(ctx context.Context) {
	wait := cmp.Or(ps.c.Settings.SyncWait, defaultSyncWait)
	late := time.NewTimer(wait)
	defer late.Stop()
	for !ps.isOpen() {
		told, empty, waiting := 0, 0, !ps.resolved.Load()
		list := ps.others()
		for _, p := range list {
			switch p.stage.Load() {
			case unasked:
				waiting = true
			case young:
				empty++
			case copied:
				told++
			}
		}
		if !waiting && (told > 0 || empty == len(list)) { // with no peers too
			ps.open()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-late.C:
			if ps.open() {
				ps.log.Warn("too few peers have answered; lists are answered with what is known here", "after", wait)
			}
		case <-ps.changed:
		}
	}
}

// others lists the peers, this registry by another name excepted.
func (ps *peers) others() (list []*peer) {
	for _, p := range *ps.list.Load() {
		if !p.self.Load() {
			list = append(list, p)
		}
	}
	return list
}

// replicas is what Eureka's status page tells of the peers.
func (ps *peers) replicas() []pair {
	var all []string
	var up, down strings.Builder
	for _, p := range ps.others() {
		all = append(all, p.name())
		which := &down
		if p.up.Load() {
			which = &up
		}
		which.WriteString(p.name() + ",")
	}
	return []pair{
		{"registered-replicas", strings.Join(all, ", ")}, {"available-replicas", up.String()}, {"unavailable-replicas", down.String()},
	}
}

// status is how each peer is reached, and what it does not know yet.
func (ps *peers) status() []Peer {
	list := []Peer{}
	for _, p := range ps.others() {
		list = append(list, Peer{
			URL: p.name(), Tried: p.tried.Load(), Reachable: p.up.Load(), Native: p.node.Load() != nil, Waiting: p.box.size(), Lag: p.lag().Seconds(),
		})
	}
	return list
}

// Health returns why this registry is not to be relied on: it still asks its peers what they know, or reaches fewer of
// them than it was told to need.
func (r *Registry) Health() error {
	if !r.peers.isOpen() {
		return errors.New("no peer has answered yet what it knows; lists are answered with 403 until one does")
	}
	list, reached := r.peers.others(), 0
	for _, p := range list {
		if p.up.Load() {
			reached++
		}
	}
	if least := r.c.Settings.LeastPeers; reached < least {
		return fmt.Errorf("%d of %d peers are reached, fewer than eureka.minAvailableInstancesForPeerReplication, %d; look whether they run", reached, len(list), least)
	}
	return nil
}
