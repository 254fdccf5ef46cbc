// Package turbine adds the Hystrix streams of all instances of an app up to one. At Netflix this was Turbine.
//
//	t := turbine.New(turbine.Config{Discovery: discovery})
//	defer t.Close()
//	mux.Handle("/turbine.stream", t)
//	mux.Handle("/clusters", t)
//
// A dashboard is then pointed at http://HOST/turbine.stream?cluster=APP. Of an app's instances those that are UP are
// read, at http://HOST:PORT/hystrix.stream or, if there is nothing, at /actuator/hystrix.stream, where Spring Boot has
// it. The metadata management.port and hystrix.stream.path of an instance say otherwise. Without a cluster, or with
// cluster=default, the stream adds up all apps.
//
// # How values add up
//
// What all instances say under one type and name is one group. Numbers are summed, their fractions cut off, and so are
// the numbers of an object (latencyExecute). Of anything else, and of each property (propertyValue_...), the group has
// the value that all instances have, as text unless it is true or false; where they differ, an object of how many have
// which: {"true": 2, "false": 1}. This is as Turbine 2 has it, but for what Hystrix's dashboard reckons with:
//
//   - the two properties of a HystrixThreadPool are sums, because the page divides them by reportingHosts; with the
//     query window=host the window is that of one instance, because Spring's page does not divide that one;
//   - the window of a HystrixCommand, where instances differ, is the most common one, because the page divides by it;
//   - with the query open=count, isCircuitBreakerOpen is the number of instances when it is open on all, which the page
//     compares with reportingHosts, and "2 true, 1 false" when it is mixed, which the page shows as "2 Open, 1 Closed"
//     and the object as "[object Object]".
//
// When an instance ends its stream or leaves the registry, what it said is taken back at once. A group that no
// instance speaks of any more is sent once more, with zeros.
//
// # What it promises
//   - One connection to each instance, however many readers there are; none, and no goroutine, without readers.
//   - A message that says the same as the one before costs a comparison; one that differs costs what differs.
//   - Whatever an instance sends, streams of others are right: what is no message is left out.
//   - A stream that ends is read again after a second or so, for ever.
//
// # What it does not
//   - It knows an instance by its stream: two that add up apps themselves count as two hosts' sums.
//   - It keeps nothing: a reader sees what is said from when it comes.
package turbine

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/ipc/stream/internal/sse"
)

// Config says whose streams are added up. The zero value knows none.
type Config struct {
	Discovery  *discovery.Client   // whose apps are clusters; nil: none
	Static     map[string][]string // further clusters: lower-case name to URLs of streams
	Properties *config.Properties  // nil: defaults
	Log        *slog.Logger        // nil: slog.Default()
}

// Aggregator serves added-up streams. Its methods may be called from many goroutines.
type Aggregator struct {
	c       Config
	own     *http.Transport
	http    *http.Client
	readers sse.Readers
	limit   *config.Value[*sse.Limit]

	mu       sync.Mutex
	clusters map[string]*cluster // those with readers
}

// everything is the cluster of all apps.
const everything = "default"

const interval = 500 * time.Millisecond // in which a group is sent at most once, unless a reader wants it oftener

// New returns an aggregator. Close it after use.
func New(c Config) *Aggregator {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	own := &http.Transport{DisableCompression: true, ResponseHeaderTimeout: 5 * time.Second, MaxIdleConnsPerHost: -1}
	return &Aggregator{
		c: c, own: own, http: &http.Client{Transport: own}, clusters: map[string]*cluster{},
		limit: sse.NewLimit(c.Properties),
	}
}

// Close ends all readers' streams. It returns before they have.
func (a *Aggregator) Close() { a.readers.Close() }

// ServeHTTP answers /turbine.stream and /clusters.
func (a *Aggregator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/turbine.stream":
		a.serveStream(w, r)
	case "/clusters":
		a.serveClusters(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (a *Aggregator) serveStream(w http.ResponseWriter, r *http.Request) {
	name := strings.ToLower(r.URL.Query().Get("cluster"))
	if name == "" {
		name = everything
	}
	if name != everything && !slices.Contains(a.names(), name) {
		http.Error(w, fmt.Sprintf("no instance of %q is in the registry, so there is nothing to add up; /clusters lists what there is", name), http.StatusNotFound)
		return
	}
	var wish reading
	if r.URL.Query().Get("open") == "count" {
		wish |= openCount
	}
	if r.URL.Query().Get("window") == "host" {
		wish |= hostWindow
	}
	a.readers.Serve(w, r, sse.Plan{
		Max:   a.limit.Get().Readers,
		Every: func() time.Duration { return interval },
		Open: func() (func() [][]byte, func()) {
			c := a.enter(name)
			var version uint64
			var whole time.Time
			return func() (parts [][]byte) {
				if now := time.Now(); now.Sub(whole) >= refresh {
					version, whole = 0, now
				}
				if parts, version = c.since(version, wish, nil); len(parts) == 0 {
					parts = [][]byte{[]byte(": ping\n\n")}
				}
				return parts
			}, func() { a.leave(name, c) }
		},
	})
}

// enter returns the cluster, which its first reader brings to life.
func (a *Aggregator) enter(name string) *cluster {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.clusters[name]
	if c == nil {
		c = newCluster(a.http, a.c.Log)
		a.clusters[name] = c
		c.stop = a.feed(name, c)
	}
	c.readers++
	return c
}

// leave ends the cluster with its last reader.
func (a *Aggregator) leave(name string, c *cluster) {
	a.mu.Lock()
	if c.readers--; c.readers > 0 {
		a.mu.Unlock()
		return
	}
	delete(a.clusters, name)
	a.mu.Unlock()
	c.stop()
	c.close()
}

// feed tells the cluster where its streams are, now and whenever that changes.
func (a *Aggregator) feed(name string, c *cluster) (stop func()) {
	var fixed []place
	for app, urls := range a.c.Static {
		if name == app || name == everything {
			for _, u := range urls {
				fixed = append(fixed, place{u, []string{u}})
			}
		}
	}
	if a.c.Discovery == nil {
		c.follow(fixed)
		return func() {}
	}
	app := name
	if name == everything {
		app = ""
	}
	return a.c.Discovery.Watch(app, func(all []roadbed.Instance) { c.follow(slices.Concat(fixed, places(all))) })
}

// names returns the lower-case names of all clusters, sorted.
func (a *Aggregator) names() []string {
	all := slices.Collect(maps.Keys(a.c.Static))
	if a.c.Discovery != nil {
		all = append(all, a.c.Discovery.Apps()...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// serveClusters lists the clusters as Turbine does.
func (a *Aggregator) serveClusters(w http.ResponseWriter, r *http.Request) {
	type entry struct {
		Name string `json:"name"`
		Link string `json:"link"`
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	list := []entry{}
	for _, n := range a.names() {
		list = append(list, entry{strings.ToUpper(n), scheme + r.Host + "/turbine.stream?cluster=" + url.QueryEscape(strings.ToUpper(n))})
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(list); err != nil {
		a.c.Log.Debug("the list of clusters was not delivered", "err", err)
	}
}
