// Package stream lets Hystrix's dashboards, and whatever else reads its streams, watch an [ipc.Engine]. At Netflix this
// was hystrix-metrics-event-stream.
//
//	streams := stream.New(stream.Config{Engine: calls, Properties: props})
//	defer streams.Close()
//	for _, path := range stream.Paths {
//		mux.Handle(path, streams)
//	}
//
// A dashboard is then pointed at http://HOST/hystrix.stream. The streams are
//
//	/hystrix.stream              each command, pool and collapser, twice a second, as one message of
//	/actuator/hystrix.stream     type HystrixCommand, HystrixThreadPool or HystrixCollapser
//	/hystrix/utilization.stream  how busy each command and pool is, twice a second
//	/hystrix/config.stream       the settings of all, each five seconds
//	/hystrix/request.stream      the calls of each request that has ended, of handlers in [Streams.Requests]
//
// and end with the connection. Of the Go commands' numbers those that Hystrix has and we do not are 0: EMIT and
// FALLBACK_EMIT. A pool, which keeps no idle workers, shows as many as Hystrix would keep.
//
// With the property ipc.requestLog.header=true each answer of those handlers lists its calls in the header X-HystrixLog:
//
//	X-HystrixLog: GetRecs[SUCCESS][12ms], GetUser[SUCCESS][3ms], GetUser[SUCCESS, RESPONSE_FROM_CACHE][0ms]x2
//
// # Properties
//
//	hystrix.stream.dashboard.intervalInMilliseconds    500   from 100 to 600000, as the two that follow
//	hystrix.stream.utilization.intervalInMilliseconds  500
//	hystrix.stream.config.intervalInMilliseconds       5000
//	hystrix.config.stream.maxConcurrentConnections     100   readers of each stream; Hystrix has 5
//	ipc.requestLog.header                              false whether answers have X-HystrixLog
//
// All are live. A reader may ask for an interval of its own: ?delay=2000.
//
// # What it promises
//   - What readers of one interval get is gathered and written as JSON once for all of them.
//   - A slow reader misses messages; it holds up nobody, and is cut off after ten seconds in which it takes nothing.
//   - A stream says something at once and at each interval, if only "ping: ", so that proxies keep it open.
//   - No goroutine, and no work, while nobody reads.
//
// # What it does not
//   - It hides nothing: whoever reads a stream learns the names of what the service calls, and how that fares.
package stream

import (
	"net/http"
	"sync"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/stream/internal/sse"
)

// Paths are those that [Streams] serves.
var Paths = [...]string{"/hystrix.stream", "/actuator/hystrix.stream", "/hystrix/utilization.stream", "/hystrix/config.stream", "/hystrix/request.stream"}

// Config says what is streamed. Engine is required.
type Config struct {
	Engine     *ipc.Engine
	Properties *config.Properties // nil: defaults
}

// Streams are those of one engine. Its methods may be used from many goroutines.
type Streams struct {
	dashboard, utilization, config feed
	requests                       requestFeed
	header                         *config.Value[bool]
	headerOff                      func()
}

// interval is the property that says how often a stream speaks.
type interval struct {
	Millis int `config:"intervalInMilliseconds"`
}

func (i *interval) Validate() error {
	return config.Between("intervalInMilliseconds", i.Millis, 100, 600_000)
}

// New returns the streams of an engine. Close them when the service stops.
func New(c Config) *Streams {
	s := new(Streams)
	limit := sse.NewLimit(c.Properties)
	set := func(f *feed, name string, millis int, encode func(b []byte) []byte) {
		f.limit, f.encode = limit, encode
		f.every = config.Must(config.Bind(c.Properties, "hystrix.stream."+name+".", interval{millis}))
	}
	set(&s.dashboard, "dashboard", 500, func(b []byte) []byte { return appendStats(b, c.Engine.Stats(), time.Now()) })
	set(&s.utilization, "utilization", 500, func(b []byte) []byte { return appendJSON(b, utilizationOf(c.Engine.Stats())) })
	set(&s.config, "config", 5000, func(b []byte) []byte { return appendJSON(b, configOf(c.Engine.Stats())) })
	log := &logging{engine: c.Engine}
	s.requests.limit, s.requests.every, s.requests.logging = limit, s.dashboard.every, log
	s.header = c.Properties.Bool("ipc.requestLog.header", false)
	s.headerOff = sync.OnceFunc(log.followHeader(s.header))
	return s
}

// Close ends all readers' streams and refuses new ones. It returns before they have ended.
func (s *Streams) Close() {
	s.headerOff()
	s.requests.readers.Close()
	for _, f := range []*feed{&s.dashboard, &s.utilization, &s.config} {
		f.readers.Close()
	}
}

// ServeHTTP answers on Paths.
func (s *Streams) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/hystrix.stream", "/actuator/hystrix.stream":
		s.dashboard.serve(w, r)
	case "/hystrix/utilization.stream":
		s.utilization.serve(w, r)
	case "/hystrix/config.stream":
		s.config.serve(w, r)
	case "/hystrix/request.stream":
		s.requests.serve(w, r)
	default:
		http.NotFound(w, r)
	}
}

// feed is one stream for all its readers.
type feed struct {
	readers sse.Readers
	limit   *config.Value[*sse.Limit]
	every   *config.Value[*interval]
	encode  func(b []byte) []byte // appends blocks of now

	mu    sync.Mutex // held while encoding, so that it is done once
	at    time.Time
	block []byte // never altered once made
}

// fresh is how old a block may be for another reader of the same tick.
const fresh = 50 * time.Millisecond

func (f *feed) serve(w http.ResponseWriter, r *http.Request) {
	f.readers.Serve(w, r, sse.Plan{
		Max:   f.limit.Get().Readers,
		Every: func() time.Duration { return time.Duration(f.every.Get().Millis) * time.Millisecond },
		Open:  func() (func() [][]byte, func()) { return f.next, func() {} },
	})
}

func (f *feed) next() [][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); f.block == nil || now.Sub(f.at) >= fresh {
		f.block, f.at = f.encode(make([]byte, 0, len(f.block)+512)), now
	}
	return [][]byte{f.block}
}
