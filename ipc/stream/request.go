package stream

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/stream/internal/sse"
)

// HeaderLog is the response header that lists a request's calls if the property ipc.requestLog.header wants it.
const HeaderLog = "X-HystrixLog"

const (
	maxRequests = 1 << 20 // bytes of requests that wait for readers; the oldest are dropped first
	maxHeader   = 4 << 10 // bytes of the header; what follows is left out
)

// Requests wraps the handler of a service, within [ipc.Engine.Handler], so that /hystrix/request.stream and
// X-HystrixLog know of its requests. When nobody wants them a request costs two loads more.
func (s *Streams) Requests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header, streamed := s.header.Get(), s.requests.readers.N() > 0
		if !header && !streamed {
			next.ServeHTTP(w, r)
			return
		}
		var told *teller
		if header {
			told = &teller{ResponseWriter: w, ctx: r.Context()}
			w = told
		}
		next.ServeHTTP(w, r)
		if header {
			told.tell()
		}
		if streamed {
			s.requests.add(ipc.RequestLog(r.Context()))
		}
	})
}

// logging has the engine log requests as long as somebody wants to know: users are readers, and the header.
type logging struct {
	engine *ipc.Engine

	mu    sync.Mutex
	users int
	stop  func()
}

func (l *logging) want(more int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.users
	l.users += more
	switch {
	case before == 0 && l.users > 0:
		l.stop = l.engine.LogRequests()
	case before > 0 && l.users == 0:
		l.stop()
	}
}

// followHeader keeps the engine's logs on while the header is.
func (l *logging) followHeader(on *config.Value[bool]) (stop func()) {
	var mu sync.Mutex
	was := false
	follow := func(now bool) {
		mu.Lock()
		defer mu.Unlock()
		if now == was {
			return
		}
		if was = now; now {
			l.want(1)
		} else {
			l.want(-1)
		}
	}
	unwatch := on.OnChange(func(_, now bool) { follow(now) })
	follow(on.Get())
	return func() {
		unwatch()
		follow(false)
	}
}

// requestFeed is the stream of finished requests.
type requestFeed struct {
	readers sse.Readers
	limit   *config.Value[*sse.Limit]
	every   *config.Value[*interval]
	logging *logging

	mu     sync.Mutex
	blocks [][]byte // the newest requests
	bytes  int      // in blocks
	first  uint64   // number of the first of blocks
}

func (f *requestFeed) serve(w http.ResponseWriter, r *http.Request) {
	f.readers.Serve(w, r, sse.Plan{
		Max:   f.limit.Get().Readers,
		Every: func() time.Duration { return time.Duration(f.every.Get().Millis) * time.Millisecond },
		Open: func() (func() [][]byte, func()) {
			f.logging.want(1)
			f.mu.Lock()
			at := f.first + uint64(len(f.blocks))
			f.mu.Unlock()
			return func() [][]byte {
				f.mu.Lock()
				defer f.mu.Unlock()
				from := max(at, f.first) - f.first
				at = f.first + uint64(len(f.blocks))
				return append([][]byte(nil), f.blocks[from:]...)
			}, func() { f.logging.want(-1) }
		},
	})
}

// add appends a request that made calls.
func (f *requestFeed) add(log []ipc.Execution) {
	if len(log) == 0 {
		return
	}
	b := append(appendRequest([]byte("data: "), log), "\n\n"...)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blocks = append(f.blocks, b)
	f.bytes += len(b)
	drop := 0
	for f.bytes > maxRequests {
		f.bytes -= len(f.blocks[drop])
		drop++
	}
	f.first += uint64(drop)
	f.blocks = f.blocks[drop:]
}

// kin are the calls of a request that went the same way.
type kin struct {
	ipc.Execution
	latencies []time.Duration
	cached    int // calls answered by one of these
}

// appendRequest writes the calls of a request as Hystrix does: those alike together, with how often each was answered
// again from the cache.
func appendRequest(b []byte, log []ipc.Execution) []byte {
	type answer struct{ command, key string }
	again := map[answer]int{}
	for _, x := range log {
		if x.Cached {
			again[answer{x.Command, x.CacheKey}]++
		}
	}
	var order []*kin
	all := map[string]*kin{}
	for _, x := range log {
		if x.Cached {
			continue
		}
		cached := 0
		if x.CacheKey != "" {
			cached = again[answer{x.Command, x.CacheKey}]
		}
		id := x.Command + "\x00" + strings.Join(x.Events, " ") + "\x00" + x.Collapser + "\x00" + strconv.Itoa(x.BatchSize)
		if cached > 0 {
			id += "\x00" + x.CacheKey
		}
		k := all[id]
		if k == nil {
			k = &kin{Execution: x, cached: cached}
			all[id] = k
			order = append(order, k)
		}
		k.latencies = append(k.latencies, x.Latency)
	}
	b = append(b, '[')
	for i, k := range order {
		if i > 0 {
			b = append(b, ',')
		}
		b = k.append(b)
	}
	return append(b, ']')
}

func (k *kin) append(b []byte) []byte {
	o := object(append(b, `{"name":`...))
	o.quote(k.Command)
	o.key("events")
	o = append(o, '[')
	for _, e := range k.Events {
		if e == "COLLAPSED" {
			continue // the key collapsed tells
		}
		if o[len(o)-1] != '[' {
			o = append(o, ',')
		}
		o.quote(e)
	}
	o = append(o, `],"latencies":[`...)
	for i, l := range k.latencies {
		if i > 0 {
			o = append(o, ',')
		}
		o = strconv.AppendInt(o, millis(l), 10)
	}
	o = append(o, ']')
	if k.cached > 0 {
		o.number("cached", int64(k.cached))
	}
	if k.Collapser != "" {
		o = append(o, `,"collapsed":{"name":`...)
		o.quote(k.Collapser)
		o.number("count", int64(k.BatchSize))
		o = append(o, '}')
	}
	return append(o, '}')
}

// logText writes the calls of a request in one line, as Hystrix's request log does: those alike together, with the sum
// of their times and how many they are.
func logText(log []ipc.Execution) string {
	type same struct {
		took time.Duration
		n    int
	}
	var order []string
	all := map[string]*same{}
	for _, x := range log {
		what := x.Command + "[" + strings.Join(x.Events, ", ") + "]"
		s := all[what]
		if s == nil {
			s = new(same)
			all[what] = s
			order = append(order, what)
		}
		s.n++
		s.took += x.Latency
	}
	var b strings.Builder
	for i, what := range order {
		s := all[what]
		entry := what + "[" + strconv.FormatInt(millis(s.took), 10) + "ms]"
		if s.n > 1 {
			entry += "x" + strconv.Itoa(s.n)
		}
		if i > 0 {
			entry = ", " + entry
		}
		if b.Len()+len(entry) > maxHeader {
			b.WriteString(", ...")
			break
		}
		b.WriteString(entry)
	}
	return b.String()
}

// teller sets the header when the answer begins, with the calls made until then.
type teller struct {
	http.ResponseWriter
	ctx  context.Context
	told bool
}

func (t *teller) tell() {
	if t.told {
		return
	}
	t.told = true
	if log := ipc.RequestLog(t.ctx); len(log) > 0 {
		t.Header().Set(HeaderLog, logText(log))
	}
}

// WriteHeader tells before a final status.
func (t *teller) WriteHeader(status int) {
	if status >= 200 {
		t.tell()
	}
	t.ResponseWriter.WriteHeader(status)
}

// Write tells before the first byte.
func (t *teller) Write(p []byte) (int, error) {
	t.tell()
	return t.ResponseWriter.Write(p)
}

// Flush tells before the answer begins.
func (t *teller) Flush() {
	t.tell()
	http.NewResponseController(t.ResponseWriter).Flush() //nolint:errcheck // the next Write says so
}

// Unwrap lets http.ResponseController find what lies beneath.
func (t *teller) Unwrap() http.ResponseWriter { return t.ResponseWriter }
