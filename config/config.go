// Package config gives a service typed properties that change while it runs. At Netflix this was Archaius.
//
// A [Properties] follows the platform's properties for one caller: the server resolves which record wins for this
// app, region, zone, server group and instance, and pushes every later change. A service asks for a handle once and
// reads it as often as it likes:
//
//	props := config.New(config.Options{URL: "http://127.0.0.1:8761", Scope: config.Scope{App: "catalog"}, Cache: dir})
//	go props.Run(ctx)
//
//	timeout := props.Duration("catalog.db.timeout", 300*time.Millisecond)
//	...
//	ctx, cancel := context.WithTimeout(ctx, timeout.Get()) // one atomic load
//
// A nil *Properties is usable everywhere: its handles hold their defaults for ever.
//
// What belongs together is better bound to a struct, which changes as a whole and may refuse values:
//
//	type limits struct {
//		Timeout time.Duration // catalog.db.timeout
//		Rows    int           // catalog.db.rows
//	}
//
//	func (l *limits) Validate() error { return config.Between("rows", l.Rows, 1, 100) }
//
//	db, err := config.Bind(props, "catalog.db.", limits{Timeout: 300*time.Millisecond, Rows: 20})
//	...
//	now := db.Get() // *limits, never altered
//
// A value may name another property: "${db.host:localhost}" is replaced by the value of db.host, or by "localhost"
// when there is none. Handles see the replaced text, [Properties.Prefix] the raw one.
//
// # What it promises
//   - [Value.Get] is one atomic load: no lock, no parsing, no allocation.
//   - A service starts, and goes on, with the server down: on the values it last knew, from memory or from disk, and
//     without those on its defaults.
//   - A value that does not parse, or that a struct refuses, changes nothing: the last good one stays, and the log says
//     so once.
//   - A bound struct was accepted as a whole, and no change is ever seen in one that was handed out. What was changed
//     together, in one roll-out, comes to it together.
//   - The server is told which revision was taken and which values were of no use, so that a roll-out of a bad value ends
//     after the first reader. This needs the instance's id in the scope.
//   - Callbacks run one at a time, in the order of the changes; one that panics harms no other.
//
// # What it does not
//   - Two handles read one after the other may come from two revisions.
//   - A callback slower than the changes sees the newest value, not every value in between.
//   - It never writes: setting a property is the platform's business.
package config

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options say whose properties to follow, and from where. The zero value follows nothing: every handle holds its
// default.
type Options struct {
	URL   string // of the server, e.g. "http://127.0.0.1:8761"; empty = no server
	Scope Scope  // who asks; decides which records win
	Cache string // directory of the last known good values; empty = none are kept

	// Override wins over everything the server says: what the process was given in its arguments or environment.
	Override map[string]string

	// Default holds where the server says nothing: what the process brought along in a file.
	Default map[string]string
	HTTP    *http.Client
	Log     *slog.Logger
}

// Scope is who asks for properties, or, in a record, whom it is for. Empty fields are unknown, or any.
type Scope struct {
	Env      string `json:"env,omitempty"`
	App      string `json:"appId,omitempty"`
	Stack    string `json:"stack,omitempty"`
	Region   string `json:"region,omitempty"`
	Zone     string `json:"zone,omitempty"`
	Cluster  string `json:"cluster,omitempty"`
	Group    string `json:"asg,omitempty"`      // the server group, e.g. "api-prod-v042"
	AMI      string `json:"ami,omitempty"`      // the image it runs
	Instance string `json:"serverId,omitempty"` // the registry's instance id

	Countries string `json:"countries,omitempty"` // whose customers it serves, e.g. "us"
}

// Properties follows one caller's properties. Its methods may be called from many goroutines; nil is usable.
type Properties struct {
	opts  Options
	shown string // opts.URL for people, without a password
	log   *slog.Logger

	mu      sync.Mutex
	raw     map[string]string // as resolved by the server; guarded by mu
	seen    map[string]string // raw with the overrides in it; guarded by mu
	own     map[string]bool   // keys whose value is for this instance alone; guarded by mu
	rev     uint64            // the server's revision of raw; guarded by mu
	heard   bool              // the server has told it, not the disk; guarded by mu
	handles map[handleKey]handle
	refused map[string]flaw // by key, what others than handles cannot use; guarded by mu
	subs    map[*prefixSub]struct{}
	queue   []func() // callbacks that are due, oldest first; guarded by mu

	changes atomic.Uint64 // how often the properties were replaced

	wake  chan struct{} // holds one token while queue may be non-empty
	dirty chan struct{} // holds one token while raw is newer than the disk
	news  chan struct{} // holds one token while the server may not know what was taken

	staged *staged // the watch's own
}

// handleKey tells handles apart. The default is part of it, so that two places may have different ones.
type handleKey struct {
	key string
	def any
}

// handle is what Properties needs of a Value[T], whatever T.
type handle interface {
	refresh(raw map[string]string)
	bad() []flaw
}

// New returns the properties of o, with what the cache on disk remembers. It reads no network; [Properties.Run] does.
func New(o Options) *Properties {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.HTTP == nil {
		o.HTTP = &http.Client{}
	}
	p := &Properties{
		opts:    o,
		log:     o.Log,
		raw:     map[string]string{},
		own:     map[string]bool{},
		handles: map[handleKey]handle{},
		refused: map[string]flaw{},
		subs:    map[*prefixSub]struct{}{},
		wake:    make(chan struct{}, 1),
		dirty:   make(chan struct{}, 1),
		news:    make(chan struct{}, 1),
	}
	if u, err := url.Parse(o.URL); err == nil {
		p.shown = u.Redacted()
	}
	p.recall()
	p.seen = p.overridden()
	return p
}

// overridden returns raw between the defaults and the overrides. The caller holds mu.
func (p *Properties) overridden() map[string]string {
	if len(p.opts.Override)+len(p.opts.Default) == 0 {
		return p.raw
	}
	seen := make(map[string]string, len(p.raw)+len(p.opts.Override)+len(p.opts.Default))
	maps.Copy(seen, p.opts.Default)
	maps.Copy(seen, p.raw)
	maps.Copy(seen, p.opts.Override)
	return seen
}

// Run follows the server until ctx ends, then returns nil. A server that is away is asked again for ever, ever less
// often. Run owns the goroutine on which callbacks run.
func (p *Properties) Run(ctx context.Context) error {
	if p == nil {
		<-ctx.Done()
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.dispatch(ctx) })
	wg.Go(func() { p.remember(ctx) })
	if p.opts.URL != "" {
		wg.Go(func() { p.follow(ctx) })
		wg.Go(func() { p.tell(ctx) })
	}
	wg.Wait()
	return nil
}

// Bool returns the handle of a property that is true or false.
func (p *Properties) Bool(key string, def bool) *Value[bool] { return scalar(p, key, def, ParseBool) }

// Int returns the handle of a whole number.
func (p *Properties) Int(key string, def int) *Value[int] {
	return scalar(p, key, def, func(s string) (int, error) {
		n, err := parseInt(s, strconv.IntSize)
		return int(n), err
	})
}

// Float returns the handle of a number.
func (p *Properties) Float(key string, def float64) *Value[float64] {
	return scalar(p, key, def, func(s string) (float64, error) { return parseFloat(s, 64) })
}

// Duration returns the handle of a duration: "250ms", "1m30s", or a bare number of milliseconds, as Netflix's
// property names have them.
func (p *Properties) Duration(key string, def time.Duration) *Value[time.Duration] {
	return scalar(p, key, def, ParseDuration)
}

// String returns the handle of a text.
func (p *Properties) String(key string, def string) *Value[string] {
	return scalar(p, key, def, func(s string) (string, error) { return s, nil })
}

// Lookup returns the text that the property of that name has now, as handles see it before they parse it. Who reads a
// property more than once holds a handle.
func (p *Properties) Lookup(key string) (text string, ok bool) {
	if p == nil {
		return "", false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return lookup(p.seen, key)
}

// Prefix gives fn all properties whose key starts with prefix: before it returns, on the caller's goroutine, and then
// after each change among them, like any callback. The map has whole keys and raw values and belongs to fn. Calls of
// one fn never overlap. After stop a call under way may still end, but none begins.
func (p *Properties) Prefix(prefix string, fn func(map[string]string)) (stop func()) {
	if p == nil {
		fn(map[string]string{})
		return func() {}
	}
	s := &prefixSub{prefix: prefix, fn: fn}
	s.running.Lock() // so that a change cannot overtake the first call
	defer s.running.Unlock()
	p.mu.Lock()
	now := under(p.seen, prefix)
	s.last = now
	p.subs[s] = struct{}{}
	p.mu.Unlock()
	fn(maps.Clone(now))
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		s.stopped = true
		delete(p.subs, s)
	}
}

// Prefixes is [Properties.Prefix] for several prefixes: the map has what is under any of them.
func (p *Properties) Prefixes(prefixes []string, fn func(map[string]string)) (stop func()) {
	var mu sync.Mutex // guards what follows; fn is called one at a time
	parts, ready := make([]map[string]string, len(prefixes)), false
	tell := func() {
		all := map[string]string{}
		for _, part := range parts {
			maps.Copy(all, part)
		}
		fn(all)
	}
	stops := make([]func(), len(prefixes))
	for i, prefix := range prefixes {
		stops[i] = p.Prefix(prefix, func(props map[string]string) {
			mu.Lock()
			defer mu.Unlock()
			if parts[i] = props; ready {
				tell()
			}
		})
	}
	mu.Lock()
	defer mu.Unlock()
	ready = true
	tell()
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// Refuse tells the server that text, the value of key, cannot be used, as a handle does of what it cannot parse. It is
// for who reads raw values from [Properties.Prefix], or makes more demands than a type does. It holds until key has
// another value.
func (p *Properties) Refuse(key, text string, err error) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused[key] = flaw{key, text, err.Error()}
	signal(p.news)
}

// prefixSub is one call of Prefix.
type prefixSub struct {
	prefix  string
	fn      func(map[string]string)
	running sync.Mutex // held while fn runs; taken before Properties.mu

	// guarded by Properties.mu
	last    map[string]string // what fn was given, or will be by the queued call
	queued  bool
	stopped bool
}

func under(raw map[string]string, prefix string) map[string]string {
	m := map[string]string{}
	for k, v := range raw {
		if strings.HasPrefix(k, prefix) {
			m[k] = v
		}
	}
	return m
}

// Changes returns a number that grows when properties have changed, once all handles have their new values: for who derives
// something from many of them, and must not look at each every time.
//
// hot path: 0 allocs, BenchmarkGet
func (p *Properties) Changes() uint64 {
	if p == nil {
		return 0
	}
	return p.changes.Load()
}

// replace makes raw the properties, wakes handles and subscriptions that it concerns, and marks the disk stale.
func (p *Properties) replace(raw map[string]string, own map[string]bool, rev uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.raw, p.own, p.rev, p.heard = raw, own, rev, true
	p.seen = p.overridden()
	for _, h := range p.handles {
		h.refresh(p.seen)
	}
	p.changes.Add(1)
	for s := range p.subs {
		now := under(p.seen, s.prefix)
		if maps.Equal(now, s.last) {
			continue
		}
		s.last = now
		if !s.queued {
			s.queued = true
			p.enqueue(func() { p.deliver(s) })
		}
	}
	signal(p.dirty)
	signal(p.news)
}

func (p *Properties) deliver(s *prefixSub) {
	s.running.Lock()
	defer s.running.Unlock()
	p.mu.Lock()
	s.queued = false
	now, stopped := maps.Clone(s.last), s.stopped
	p.mu.Unlock()
	if !stopped {
		s.fn(now)
	}
}

// enqueue makes fn due. The caller holds mu.
func (p *Properties) enqueue(fn func()) {
	p.queue = append(p.queue, fn)
	signal(p.wake)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// dispatch runs callbacks in the order they became due.
func (p *Properties) dispatch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		for ctx.Err() == nil {
			p.mu.Lock()
			if len(p.queue) == 0 {
				p.mu.Unlock()
				break
			}
			fn := p.queue[0]
			p.queue = p.queue[1:]
			p.mu.Unlock()
			p.guard(fn)
		}
	}
}

func (p *Properties) guard(fn func()) {
	defer func() {
		if r := recover(); r != nil {
			p.log.Error("a property callback panicked; the others go on", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	fn()
}
