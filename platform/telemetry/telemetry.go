// Package telemetry keeps what services measure and answers questions about it: dimensional time series in memory,
// asked for in the stack language of package asl, and the picture of live traffic drawn from them. At Netflix this
// was Atlas, and Vizceral the picture.
//
//	s := telemetry.New(telemetry.Config{})
//	go s.Run(ctx)
//	http.ListenAndServe("127.0.0.1:7101", s.Handler())
//
// A Spectator client, or package meter, posts to /api/v1/publish. A series is its tags; a datapoint is a series, a time
// and a value; the time is the end of the interval that the value describes. Points are kept twice: every 5 seconds for
// 30 minutes, for live views, and every minute for 6 hours.
//
//	GET /api/v1/graph?q=name,ipc.server.call,:eq,statistic,count,:eq,:and,:sum,(,nf.app,),:by&s=e-10m&step=5s
//
// # What it promises
//   - A point is found by queries as soon as its publisher has its answer.
//   - Publishing waits for no query, however expensive, longer than it takes to copy a list or a page of points.
//   - Graphs up to now, and the traffic picture, end at the newest step that all publishers have reported.
//   - Each refused datapoint has its reason in the answer; good ones beside it are kept.
//   - Memory follows the series that are written: those that stand still cost a few bytes and go after 6 hours.
//
// # What it does not
//   - Nothing survives a restart.
//   - A series' first point from a publisher with a step of a minute counts as 5 seconds of its minute in the history;
//     the publisher's step is known from the second on.
//   - It draws no PNG, reads no Smile and takes no counters to differentiate (atlas.dstype counter).
package telemetry

import (
	"context"
	"hash/maphash"
	"log/slog"
	"math"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/api"
)

// Config says how a store works. The zero value does.
type Config struct {
	Log   *slog.Logger    // slog.Default() when nil
	Meter *meter.Registry // where the store measures itself; nil: nowhere
}

// Store keeps time series. Its methods may be called from many goroutines.
type Store struct {
	log     *slog.Logger
	index   *index
	seen    seen
	sources sources
	picture picture
	queries chan struct{} // a token for each query that runs
	waiting chan struct{} // and for each that may wait

	received, dropped, lost *meter.Counter
	queryTime               *meter.PercentileTimer
}

// New returns an empty store.
func New(c Config) *Store {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	s := &Store{
		log: c.Log, index: newIndex(),
		queries:   make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		waiting:   make(chan struct{}, maxWaiting),
		received:  c.Meter.Counter("telemetry.received"),
		dropped:   c.Meter.Counter("telemetry.dropped", "reason", "invalid"),
		lost:      c.Meter.Counter("telemetry.dropped", "reason", "old"),
		queryTime: c.Meter.PercentileTimer("telemetry.query.time"),
	}
	s.seen.known = make(map[uint64]place)
	s.sources.last = make(map[uint64]int64)
	s.picture.init()
	c.Meter.GaugeFunc("telemetry.series", func() float64 { return float64(s.index.size()) })
	return s
}

// tidyEvery is how often old points are packed and old series go.
const tidyEvery = 15 * time.Second

// Run keeps the store tidy until ctx ends, and returns nil then. A store that is not run works, and grows.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.tidy(time.Now())
		}
	}
}

// Handler is the Atlas face: publishing, graphs, tags, traffic.
func (s *Store) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/api/v1/publish", "/api/v1/publish-fast"} {
		mux.HandleFunc("POST "+path, s.publish)
	}
	s.mountQueries(mux)
	for _, path := range []string{"/healthcheck", "/ok"} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	}
	// A page in somebody's browser must not be able to make up measurements.
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusForbidden, "a page of another origin may not publish")
	}))
	return origin.Handler(errorsAsAtlas(mux))
}

// Mount puts graphs, tags and traffic on the platform's API too.
func (s *Store) Mount(surface *api.Surface) { s.mountQueries(surface.Mux) }

func (s *Store) mountQueries(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/v1/graph", s.query(s.graph))
	mux.HandleFunc("GET /api/v1/tags", s.query(s.tags))
	mux.HandleFunc("GET /api/v1/tags/{key}", s.query(s.tags))
	mux.HandleFunc("GET /api/v1/traffic", s.query(s.traffic))
	mux.HandleFunc("GET /api/v1/traffic/stream", s.trafficStream)
}

// place is where a series' points are.
type place struct {
	page *page
	slot int
}

// seen remembers series by the bytes of their tags, so that known ones need neither decoding nor checking.
type seen struct {
	mu    sync.RWMutex
	known map[uint64]place
}

// maxSeen bounds what publishers that write the same tags in ever new ways can cost.
const maxSeen = 2 * maxSeries

// sources remembers which publishers reported up to when, by a hash of their common tags.
type sources struct {
	mu   sync.Mutex
	last map[uint64]int64 // the newest live step
}

const maxSources = 10_000

func (s *sources) reported(who uint64, ms int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.last[who]; ok || len(s.last) < maxSources {
		s.last[who] = max(s.last[who], ms)
	}
}

// lateness is how long after the end of a step it is taken for complete, whoever is missing.
const lateness = 3 * time.Second

// complete returns the end of the newest live step that everybody has reported: who reported the step before it has
// reported it, or it ended 3 seconds ago.
func (s *sources) complete(now time.Time) int64 {
	ms := now.UnixMilli()
	end := ms / liveTier.step * liveTier.step
	if ms-end >= lateness.Milliseconds() {
		return end
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := end - liveTier.step
	reported := false
	for _, last := range s.last {
		if last == before {
			return before
		}
		reported = reported || last >= end
	}
	if !reported {
		return before
	}
	return end
}

func (s *sources) forget(before int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for who, last := range s.last {
		if last < before {
			delete(s.last, who)
		}
	}
}

func (x *index) size() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.count
}

// tidy seals blocks that no longer change, and removes the series that have had no point for as long as history goes.
func (s *Store) tidy(now time.Time) {
	ms := now.UnixMilli()
	s.sources.forget(ms - 5*time.Minute.Milliseconds())
	settled := ms - ageLimit.Milliseconds() - liveTier.step
	s.index.mu.RLock()
	pages := append([]*page(nil), s.index.pages...)
	s.index.mu.RUnlock()
	var gone []uint32
	for i, p := range pages {
		if p == nil {
			continue
		}
		p.mu.Lock()
		p.live.settle(liveTier, settled)
		p.minute.settle(historyTier, settled)
		for slot := range p.series {
			if x := &p.series[slot]; x.tags != nil && x.last != 0 && x.last < ms-historyWindow {
				gone = append(gone, uint32(i*pageSize+slot))
			}
		}
		p.mu.Unlock()
	}
	if len(gone) > 0 {
		s.index.remove(gone)
		s.forgetSeen()
	}
}

func (s *Store) forgetSeen() {
	s.seen.mu.Lock()
	defer s.seen.mu.Unlock()
	clear(s.seen.known)
}

// write keeps one point. It reports false if the series is gone, and counts points that are too old for its blocks.
func (s *Store) write(at place, ms int64, v float64) bool {
	p := at.page
	p.mu.Lock()
	defer p.mu.Unlock()
	x := &p.series[at.slot]
	if x.tags == nil {
		return false
	}
	live, minute := liveTier.ceil(ms), historyTier.ceil(ms)
	fine, coarse := p.live.point(liveTier, live, at.slot), p.minute.point(historyTier, minute, at.slot)
	if fine == nil || coarse == nil {
		s.lost.Inc()
		return true
	}
	switch x.kind {
	case gaugeSeries:
		*fine, *coarse = highest(*fine, v), highest(*coarse, v)
	case sumSeries:
		*fine, *coarse = orZero(*fine)+v, orZero(*coarse)+v
	case rateSeries:
		x.pace(live)
		// The minute's rate is its events by its seconds. Events are mostly whole, and kept whole.
		seconds := float64(historyTier.step) / 1000
		events := orZero(*coarse)*seconds + (v-orZero(*fine))*float64(x.stride)*float64(liveTier.step)/1000
		if whole := math.Round(events); math.Abs(events-whole) < 1e-6 {
			events = whole
		}
		*fine, *coarse = v, events/seconds
	}
	x.last = max(x.last, live)
	return true
}

// pace learns from the time of a point how many live steps it speaks for. A minute between points that lie on whole
// minutes is believed at once, shorter gaps when seen twice: one may just be a post that was lost.
func (x *series) pace(live int64) {
	if x.last == 0 || live <= x.last {
		return
	}
	gap := (live - x.last) / liveTier.step
	perMinute := historyTier.step / liveTier.step
	switch {
	case gap == 1:
		x.stride = 1
	case gap == perMinute && live%historyTier.step == 0:
		x.stride = uint8(perMinute)
	case gap < perMinute && int64(x.gap) == gap:
		x.stride = uint8(gap)
	case gap > perMinute && x.stride != uint8(perMinute):
		x.stride = 1
	}
	x.gap = uint8(min(gap, math.MaxUint8))
}

func highest(a, b float64) float64 {
	if a >= b {
		return a
	}
	return b
}

func orZero(v float64) float64 {
	if v != v {
		return 0
	}
	return v
}

// hashBytes tells tags apart by their bytes. The seed is the store's own, so that nobody can make two series collide.
func (s *Store) hashBytes(b []byte) uint64 { return maphash.Bytes(s.index.seed, b) }
