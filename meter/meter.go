// Package meter counts and times what a service does: counters, gauges, timers, percentile timers and distribution
// summaries with tags. At Netflix this was Spectator.
//
//	m := meter.New(map[string]string{"nf.app": "catalog", "nf.zone": "zone-a"})
//	served := m.Counter("titles.served", "country", "FR")
//	took := m.PercentileTimer("titles.latency")
//	...
//	served.Inc()
//	took.Record(time.Since(start))
//	...
//	go m.Publish(ctx, "http://127.0.0.1:7101", 5*time.Second) // the platform's telemetry
//	mux.Handle("GET /metrics", m.Handler())                   // Prometheus, if anybody scrapes
//
// A meter is its kind, its name and its tags: asking twice gives the same one, whatever the order of the tags. Ask
// once and keep it where the code is hot; asking costs a lookup, recording costs a few atomic additions.
//
// Tags are alternating keys and values. Bounded sets of values only: each combination is a series of its own in the
// store. Characters outside -._A-Za-z0-9^~ become _, empty values drop the tag, too long ones are cut.
//
// # What it promises
//   - Recording never blocks, never allocates and never fails, whatever becomes of the telemetry server.
//   - A nil *Registry, and every meter it hands out, works and does nothing.
//   - Publishing while the server is away loses those steps and nothing else; it logs once per outage.
//
// # What it does not
//   - It keeps no history: a step that could not be sent is gone.
//   - It holds at most 20 000 meters; asking for more gives nil ones, which is logged at the next publication.
package meter

import (
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
)

// maxMeters bounds what a mistake with tags can cost.
const maxMeters = 20000

// Registry hands out meters and publishes what they measured. Its methods may be called from many goroutines, also
// on nil.
type Registry struct {
	common map[string]string // on every series; clean

	mu      sync.RWMutex
	lookup  map[uint64]*entry // by hash of kind, name and tags as asked for; entries of one hash are chained
	ids     map[string]int    // index in meters by identity
	meters  []*meter          // only ever grows
	refused atomic.Int64
}

// entry is one way somebody asked for a meter.
type entry struct {
	next *entry
	kind kind
	name string
	kv   []string
	m    *meter
}

type kind uint8

const (
	counterKind kind = iota
	gaugeKind
	gaugeFuncKind
	timerKind
	percentileKind
	summaryKind
)

// meter is one of the kinds with its identity. Exactly one of the pointers is set.
type meter struct {
	kind kind
	name string
	tags []tag // sorted by key, clean, without name

	counter    *Counter
	gauge      *Gauge
	fn         func() float64
	timer      *Timer
	percentile *PercentileTimer
	summary    *Summary
}

type tag struct{ key, value string }

// New returns a registry whose series all carry the common tags. Own tags of a meter win over them.
func New(common map[string]string) *Registry {
	r := &Registry{common: make(map[string]string, len(common)), lookup: make(map[uint64]*entry), ids: make(map[string]int)}
	for _, k := range slices.Sorted(maps.Keys(common)) {
		if v := cleanValue(common[k]); v != "" && k != "" {
			r.common[cleanKey(k)] = v
		}
	}
	return r
}

// Counter returns the counter of that name and tags; telemetry shows its events per second.
func (r *Registry) Counter(name string, kv ...string) *Counter {
	m := r.find(counterKind, name, kv)
	if m == nil {
		return nil
	}
	return m.counter
}

// Gauge returns the gauge of that name and tags; it is published once it was set.
func (r *Registry) Gauge(name string, kv ...string) *Gauge {
	m := r.find(gaugeKind, name, kv)
	if m == nil {
		return nil
	}
	return m.gauge
}

// GaugeFunc publishes what fn returns at each step, NaN meaning nothing. fn must be quick and may be called from many
// goroutines. The first fn given for a name and tags stays.
func (r *Registry) GaugeFunc(name string, fn func() float64, kv ...string) {
	if r == nil || fn == nil || r.search(gaugeFuncKind, name, kv) != nil {
		return
	}
	r.add(gaugeFuncKind, name, kv, fn)
}

// Timer returns the timer of that name and tags: calls per second, mean and maximum.
func (r *Registry) Timer(name string, kv ...string) *Timer {
	m := r.find(timerKind, name, kv)
	if m == nil {
		return nil
	}
	return m.timer
}

// PercentileTimer returns the percentile timer of that name and tags: a [Timer] whose percentiles can be asked for,
// over any set of instances. It costs up to 276 series, in practice some 30.
func (r *Registry) PercentileTimer(name string, kv ...string) *PercentileTimer {
	m := r.find(percentileKind, name, kv)
	if m == nil {
		return nil
	}
	return m.percentile
}

// Summary returns the distribution summary of that name and tags, for amounts that are not time, such as bytes.
func (r *Registry) Summary(name string, kv ...string) *Summary {
	m := r.find(summaryKind, name, kv)
	if m == nil {
		return nil
	}
	return m.summary
}

func (r *Registry) find(k kind, name string, kv []string) *meter {
	if r == nil {
		return nil
	}
	if m := r.search(k, name, kv); m != nil {
		return m
	}
	return r.add(k, name, kv, nil)
}

// search finds a meter that was asked for with these tags before. hot path: 0 allocs, BenchmarkLookup
func (r *Registry) search(k kind, name string, kv []string) *meter {
	h := hash(k, name, kv)
	r.mu.RLock()
	e := r.lookup[h]
	r.mu.RUnlock()
	for ; e != nil; e = e.next {
		if e.kind == k && e.name == name && samePairs(e.kv, kv) {
			return e.m
		}
	}
	return nil
}

// hash does not depend on the order of the pairs.
func hash(k kind, name string, kv []string) uint64 {
	h := xxhash.Sum64String(name) + uint64(k)
	for i := 0; i+1 < len(kv); i += 2 {
		p := xxhash.Sum64String(kv[i])*31 + xxhash.Sum64String(kv[i+1])
		h += p ^ p>>29
	}
	return h
}

// samePairs says whether a and b hold the same pairs; each has a key at most once.
func samePairs(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
pairs:
	for i := 0; i+1 < len(a); i += 2 {
		if b[i] == a[i] && b[i+1] == a[i+1] {
			continue
		}
		for j := 0; j+1 < len(b); j += 2 {
			if b[j] == a[i] && b[j+1] == a[i+1] {
				continue pairs
			}
		}
		return false
	}
	return true
}

func (r *Registry) add(k kind, name string, kv []string, fn func() float64) *meter {
	asked := make([]string, len(kv))
	for i, s := range kv {
		asked[i] = strings.Clone(s) // callers may pass parts of large requests
	}
	m := &meter{kind: k, name: cleanName(name), tags: cleanTags(asked), fn: fn}
	id := m.id()
	h := hash(k, name, kv)

	r.mu.Lock()
	defer r.mu.Unlock()
	if i, ok := r.ids[id]; ok {
		m = r.meters[i]
	} else {
		if len(r.meters) >= maxMeters {
			r.refused.Add(1)
			return nil
		}
		m.make()
		r.ids[id] = len(r.meters)
		r.meters = append(r.meters, m)
	}
	for e := r.lookup[h]; e != nil; e = e.next {
		if e.kind == k && e.name == name && samePairs(e.kv, asked) {
			return m // another goroutine was faster
		}
	}
	if len(r.lookup) < 4*maxMeters { // beyond that, odd spellings are looked up the slow way
		r.lookup[h] = &entry{next: r.lookup[h], kind: k, name: strings.Clone(name), kv: asked, m: m}
	}
	return m
}

func (m *meter) make() {
	switch m.kind {
	case counterKind:
		m.counter = new(Counter)
	case gaugeKind:
		m.gauge = new(Gauge)
		m.gauge.Set(math.NaN())
	case timerKind:
		m.timer = new(Timer)
	case percentileKind:
		m.percentile = new(PercentileTimer)
	case summaryKind:
		m.summary = new(Summary)
	}
}

func (m *meter) id() string {
	var b strings.Builder
	b.WriteByte('0' + byte(m.kind))
	b.WriteString(m.name)
	for _, t := range m.tags {
		b.WriteByte(',')
		b.WriteString(t.key)
		b.WriteByte('=')
		b.WriteString(t.value)
	}
	return b.String()
}

// snapshot returns the meters there are; the slice must not be altered.
func (r *Registry) snapshot() []*meter {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.meters
}

// Counter counts events.
type Counter struct{ n atomic.Int64 }

// Inc counts one event. hot path: 0 allocs, BenchmarkCounterInc
func (c *Counter) Inc() {
	if c != nil {
		c.n.Add(1)
	}
}

// Add counts n events; less than one is ignored.
func (c *Counter) Add(n int64) {
	if c != nil && n > 0 {
		c.n.Add(n)
	}
}

// Count returns how many events were counted since the start.
func (c *Counter) Count() int64 {
	if c == nil {
		return 0
	}
	return c.n.Load()
}

// Gauge is a value that goes up and down.
type Gauge struct{ bits atomic.Uint64 }

// Set makes v the gauge's value. NaN means there is none.
func (g *Gauge) Set(v float64) {
	if g != nil {
		g.bits.Store(math.Float64bits(v))
	}
}

// Value returns what was set last, NaN if nothing was.
func (g *Gauge) Value() float64 {
	if g == nil {
		return math.NaN()
	}
	return math.Float64frombits(g.bits.Load())
}

// Timer measures how often something happens and how long it takes.
type Timer struct{ stats }

// Record counts one event that took d. Negative durations count as zero.
func (t *Timer) Record(d time.Duration) {
	if t != nil {
		t.count.Add(1)
		t.record(max(int64(d), 0))
	}
}

// Count returns how many events were recorded since the start.
func (t *Timer) Count() int64 {
	if t == nil {
		return 0
	}
	return t.count.Load()
}

// Total returns the sum of all durations since the start.
func (t *Timer) Total() time.Duration {
	if t == nil {
		return 0
	}
	return time.Duration(t.total.Load())
}

// Summary measures how often something happens and how large it is.
type Summary struct{ stats }

// Record counts one event of size n. Negative sizes count as zero.
func (s *Summary) Record(n int64) {
	if s != nil {
		s.count.Add(1)
		s.record(max(n, 0))
	}
}

// stats is what timers and summaries have in common. All but max only grow, so that any number of readers can take
// differences.
type stats struct {
	count   atomic.Int64
	total   atomic.Int64
	squares atomic.Uint64 // float64 bits of the sum of squares
	max     atomic.Int64  // of this step; the publisher resets it
}

func (s *stats) record(n int64) {
	s.total.Add(n)
	f := float64(n)
	for {
		old := s.squares.Load()
		if s.squares.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+f*f)) {
			break
		}
	}
	for {
		old := s.max.Load()
		if n <= old || s.max.CompareAndSwap(old, n) {
			return
		}
	}
}
