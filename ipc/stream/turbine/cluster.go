package turbine

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
)

const (
	refresh = 2 * time.Second  // how often a reader gets what did not change, so that graphs move on
	mourn   = 10 * time.Second // how long readers are told that the last instance of a group has gone
)

// cluster adds up the streams of the instances of one app, as long as it has readers.
type cluster struct {
	http *http.Client
	log  *slog.Logger
	wg   sync.WaitGroup
	ctx  context.Context // of the sources
	end  context.CancelFunc

	readers int    // guarded by the aggregator's lock
	stop    func() // ends what feeds it with places

	mu      sync.Mutex
	sources map[string]*source // by id and URLs; nil after the end
	groups  map[[2]string]*group
	order   []*group // as they came
	version uint64   // counts changes
}

func newCluster(hc *http.Client, log *slog.Logger) *cluster {
	ctx, end := context.WithCancel(context.Background())
	return &cluster{http: hc, log: log, ctx: ctx, end: end, sources: map[string]*source{}, groups: map[[2]string]*group{}}
}

// close ends all sources and waits for them.
func (c *cluster) close() {
	c.mu.Lock()
	c.sources = nil
	c.mu.Unlock()
	c.end()
	c.wg.Wait()
}

// place is where a stream is.
type place struct {
	id   string
	urls []string
}

// follow makes places the streams that are read.
func (c *cluster) follow(places []place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sources == nil {
		return
	}
	keep := make(map[string]*source, len(places))
	for _, p := range places {
		key := p.id + " " + strings.Join(p.urls, " ")
		if s := c.sources[key]; s != nil {
			keep[key] = s
		} else if keep[key] == nil {
			ctx, cancel := context.WithCancel(c.ctx)
			s := &source{id: p.id, urls: p.urls, cluster: c, cancel: cancel, said: map[string]*said{}}
			keep[key] = s
			c.wg.Go(func() { s.run(ctx) })
		}
	}
	for key, s := range c.sources {
		if keep[key] == nil {
			s.cancel()
		}
	}
	c.sources = keep
}

// places returns where the streams of the instances are that are UP.
func places(all []roadbed.Instance) (out []place) {
	for _, i := range all {
		if i.Status == roadbed.Up {
			out = append(out, place{i.ID, streamURLs(i)})
		}
	}
	return out
}

// streamURLs returns where an instance's stream may be.
func streamURLs(i roadbed.Instance) []string {
	scheme, addr := "http://", i.Addr()
	if i.Secure {
		scheme = "https://"
	}
	if port := i.Metadata["management.port"]; port != "" {
		addr = net.JoinHostPort(i.Host, port)
	}
	if path := i.Metadata["hystrix.stream.path"]; path != "" {
		return []string{scheme + addr + "/" + strings.TrimPrefix(path, "/")}
	}
	return []string{scheme + addr + "/hystrix.stream", scheme + addr + springPath}
}

// take lets next replace was as what an instance says of a group.
func (c *cluster) take(kind, name string, was, next *said) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if was != nil {
		next.group = was.group
	} else {
		next.group = c.group(kind, name)
		next.group.hosts++
	}
	next.group.replace(was, next)
	c.touch(next.group)
}

func (c *cluster) touch(g *group) {
	c.version++
	g.changed = c.version
}

func (c *cluster) group(kind, name string) *group {
	key := [2]string{kind, name}
	g := c.groups[key]
	if g == nil {
		g = newGroup(kind, name)
		c.groups[key] = g
		c.order = append(c.order, g)
	}
	return g
}

// replace takes back what was says, if anything, and adds what next says, if anything.
func (g *group) replace(was, next *said) {
	if was == nil {
		was = &said{}
	}
	if next == nil {
		next = &said{}
	}
	alike := len(was.members) == len(next.members)
	for i := 0; alike && i < len(next.members); i++ {
		alike = bytes.Equal(was.members[i].key.of(was.text), next.members[i].key.of(next.text))
	}
	for i, m := range was.members {
		if alike && bytes.Equal(m.value.of(was.text), next.members[i].value.of(next.text)) {
			continue
		}
		g.add(m.key.of(was.text), m.value.of(was.text), -1)
	}
	for i, m := range next.members {
		if alike && bytes.Equal(m.value.of(next.text), was.members[i].value.of(was.text)) {
			continue
		}
		g.add(m.key.of(next.text), m.value.of(next.text), +1)
	}
}

// drop takes back all that an instance said.
func (c *cluster) drop(all map[string]*said) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, was := range all {
		was.group.replace(was, nil)
		if was.group.hosts--; was.group.hosts == 0 {
			was.group.left = time.Now()
		}
		c.touch(was.group)
	}
}

// since appends the blocks of all groups that changed after version, and returns the version that they are of.
func (c *cluster) since(version uint64, r reading, parts [][]byte) ([][]byte, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, gone := time.Now(), 0
	for _, g := range c.order {
		if g.hosts == 0 && now.Sub(g.left) > mourn {
			gone++
			continue
		}
		if g.changed > version {
			parts = append(parts, g.block(now, r))
		}
	}
	if gone > 0 {
		c.bury(now)
	}
	return parts, c.version
}

// bury forgets the groups of which nobody spoke for long.
func (c *cluster) bury(now time.Time) {
	var live []*group
	for _, g := range c.order {
		if g.hosts == 0 && now.Sub(g.left) > mourn {
			delete(c.groups, [2]string{g.kind, g.name})
		} else {
			live = append(live, g)
		}
	}
	c.order = live
}
