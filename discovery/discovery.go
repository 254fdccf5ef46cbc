// Package discovery tells a process where the instances of every service are, and tells everybody where this one is.
// At Netflix this was the Eureka client.
//
//	c := discovery.New(discovery.Config{Registry: []string{"http://127.0.0.1:8761"}, Cache: dir})
//	go c.Run(ctx)
//	stop := c.Watch("catalog", func(list []roadbed.Instance) { ... })
//	me := c.Register(roadbed.Instance{ID: "api-1", App: "api", Host: "127.0.0.1", Port: 8080, Status: roadbed.Up})
//	defer me.Cancel(ctx)
//
// One stream from the registry carries the changes of all applications, so a change arrives within milliseconds and an
// idle system sends next to nothing. Against a Eureka server of Netflix or Spring, which has no such stream, the client
// polls full lists and deltas every 30 seconds as their own clients do.
//
// # What it promises
//   - What was once known stays known: while every registry is away, or has just restarted and knows nobody yet, the
//     last list is served for ever. It survives this process too, in Config.Cache.
//   - A change in the registry reaches a Watch in less than 100 ms.
//   - The calls of one Watch are in order and never overlap. A slow one skips lists that are no longer true; it never
//     misses the newest.
//   - A registration is renewed until it is cancelled, and made again as soon as a registry that lost it is back.
//   - While a restarted registry warms up nobody is taken out, but who has not come back to it and has lost its address to
//     another instance.
//   - An instance whose process dies is DOWN within a second: the registry, if it is one of ours, sees the stream break
//     and then that nobody listens at the instance's port.
//
// # What it does not
//   - It does not judge: lists hold instances of every status, and ones that died a moment ago. Callers filter,
//     and package ipc notices who does not answer.
//   - It speaks to one registry at a time, and to the next when that one is away.
package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
)

// Config says where the registries are. Its zero value is a client that knows nobody and tells nobody.
type Config struct {
	// Registry holds base URLs, e.g. "http://127.0.0.1:8761" or "http://user:password@eureka:8761/eureka". A path, if
	// any, is the prefix of Eureka's API there.
	Registry []string

	Cache    string           // directory for the last list known; empty keeps none
	Location roadbed.Location // where this process is; registrations that name no place are here
	HTTP     *http.Client     // one with timeouts fit for a registry when nil
	Log      *slog.Logger     // slog.Default() when nil

	// Compact asks servers that have no stream for the compact form of their lists, which is a third as large and has
	// no metadata. Without that, zones are known of Amazon's instances alone, and Since of none.
	Compact bool
}

// Client knows where instances are. Its methods may be called from many goroutines, before and while it runs.
type Client struct {
	cfg    Config
	log    *slog.Logger
	http   *http.Client    // follows no redirects
	own    *http.Transport // to be closed with Run; nil if the caller gave a client
	bases  []base
	at     atomic.Int64 // index in bases of the registry that answered last
	stream atomic.Pointer[boundStream]
	news   chan struct{} // holds a token when watchers have something to hear
	unsave chan struct{} // holds a token when the list differs from the cache

	mu      sync.Mutex
	known   lists
	watches map[*watcher]struct{}
	regs    map[*Registration]struct{}
	running context.Context // of Run; nil before it
	wg      *sync.WaitGroup // of Run
}

// base is one registry.
type base struct {
	eureka string // prefix of Eureka's API
	watch  string // URL of the stream
	shown  string // the same for people, without a password

	pin *atomic.Pointer[string] // prefix of the API that the registry redirected to; nil points at none
}

// api is the prefix of Eureka's API, at the registry or where it sent us.
func (b base) api() string {
	if to := b.pin.Load(); to != nil {
		return *to
	}
	return b.eureka
}

// watcher is one Watch.
type watcher struct {
	app  string // lower case; empty for all
	fn   func([]roadbed.Instance)
	seen uint64 // generation of the list that fn was last given; belongs to whoever calls fn
	gone atomic.Bool
}

// New returns a client that already knows what the cache holds. It speaks to the registry while [Client.Run] runs.
func New(c Config) *Client {
	cl := &Client{
		cfg: c, log: c.Log, http: c.HTTP,
		news: make(chan struct{}, 1), unsave: make(chan struct{}, 1),
		known: newLists(), watches: make(map[*watcher]struct{}), regs: make(map[*Registration]struct{}),
	}
	if cl.log == nil {
		cl.log = slog.Default()
	}
	if cl.http == nil {
		cl.own = &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: 60 * time.Second, ResponseHeaderTimeout: 10 * time.Second}
		cl.http = &http.Client{Transport: cl.own}
	}
	// Go would turn a redirected POST, PUT or DELETE into a GET. See send.
	hc := *cl.http
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	cl.http = &hc
	for i, s := range c.Registry {
		b, err := parseBase(s)
		if err != nil {
			cl.log.Error("a registry is left out", "number", i+1, "err", err) // the URL may hold a password
			continue
		}
		b.pin = new(atomic.Pointer[string])
		cl.bases = append(cl.bases, b)
	}
	if len(cl.bases) > 1 {
		cl.at.Store(rand.Int64N(int64(len(cl.bases)))) // so that clients spread over registries
	}
	cl.load()
	return cl
}

func parseBase(s string) (base, error) {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return base{}, errors.New("this is not the base URL of a registry; use one like http://127.0.0.1:8761")
	}
	path := strings.TrimRight(u.Path, "/")
	u.Path, u.RawPath, u.RawQuery = "", "", ""
	root := u.String()
	if path == "" {
		path = "/eureka"
	}
	return base{eureka: root + path, watch: root + "/registry/v1/watch", shown: u.Redacted() + path}, nil
}

// Run follows the registry, calls watchers and keeps registrations alive until ctx ends. Registrations are not
// cancelled then; call [Registration.Cancel] first. Run may be called once.
func (c *Client) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	c.mu.Lock()
	if c.running != nil {
		c.mu.Unlock()
		return fmt.Errorf("discovery: the client is running already; make another with New")
	}
	c.running, c.wg = ctx, &wg
	for r := range c.regs {
		r.start(ctx, &wg)
	}
	c.mu.Unlock()

	if len(c.bases) > 0 {
		wg.Go(func() { c.follow(ctx) })
	}
	if c.cfg.Cache != "" {
		wg.Go(func() { c.persist(ctx) })
	}
	c.deliver(ctx)

	c.mu.Lock()
	c.wg = nil // nobody starts anything from here on
	c.mu.Unlock()
	wg.Wait()
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
	return nil
}

// Watch calls fn with the instances of app: at once, before it returns, with what is known, and from then on from one
// goroutine of Run with the whole list after each change. The list is sorted by id and of all statuses; fn may keep it
// and must not alter it. An empty app means every application. fn must not block for long, for it delays the others.
// After stop returns no call of fn begins; one that runs may still be finishing.
func (c *Client) Watch(app string, fn func([]roadbed.Instance)) (stop func()) {
	w := &watcher{app: strings.ToLower(app), fn: fn}
	c.mu.Lock()
	list, gen := c.known.list(w.app)
	c.mu.Unlock()
	w.seen = gen
	fn(list)
	c.mu.Lock()
	c.watches[w] = struct{}{}
	c.mu.Unlock()
	c.notify(c.news) // the list may have changed while fn ran
	return func() {
		w.gone.Store(true)
		c.mu.Lock()
		delete(c.watches, w)
		c.mu.Unlock()
	}
}

// deliver calls watchers whose list changed, until ctx ends.
func (c *Client) deliver(ctx context.Context) {
	type call struct {
		w    *watcher
		list []roadbed.Instance
	}
	for {
		var calls []call
		c.mu.Lock()
		for w := range c.watches {
			if list, gen := c.known.list(w.app); gen != w.seen {
				w.seen = gen
				calls = append(calls, call{w, list})
			}
		}
		c.mu.Unlock()
		for _, x := range calls {
			if !x.w.gone.Load() {
				x.w.fn(x.list)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-c.news:
		}
	}
}

// notify leaves a token in ch unless one is there.
func (c *Client) notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Instances returns the instances of app that are known, of all statuses, sorted by id. The caller must not alter the
// list.
func (c *Client) Instances(app string) []roadbed.Instance {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, _ := c.known.list(strings.ToLower(app))
	return list
}

// Apps returns the names of all applications with instances, sorted.
func (c *Client) Apps() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.known.apps))
}

// SetOverride makes s the status of an instance until [Client.ClearOverride]. It returns once the registry has
// recorded it.
func (c *Client) SetOverride(ctx context.Context, app, id string, s roadbed.Status) error {
	q := "?value=" + url.QueryEscape(string(s))
	return c.ask(ctx, http.MethodPut, instancePath(app, id)+"/status"+q, "set the override of", app, id)
}

// ClearOverride gives an instance back the status it has of itself.
func (c *Client) ClearOverride(ctx context.Context, app, id string) error {
	return c.ask(ctx, http.MethodDelete, instancePath(app, id)+"/status", "clear the override of", app, id)
}

// Remove takes an instance out of the registry because the caller knows that it is dead. One that is not there is
// removed already.
func (c *Client) Remove(ctx context.Context, app, id string) error {
	err := c.ask(ctx, http.MethodDelete, instancePath(app, id), "remove", app, id)
	if isStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}

func (c *Client) ask(ctx context.Context, method, path, doing, app, id string) error {
	if _, err := c.call(ctx, method, path, nil); err != nil {
		return fmt.Errorf("discovery: %s %s of %s: %w", doing, id, app, err)
	}
	return nil
}

func instancePath(app, id string) string {
	return "/apps/" + url.PathEscape(strings.ToUpper(app)) + "/" + url.PathEscape(id)
}
