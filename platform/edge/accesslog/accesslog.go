// Package accesslog tells what became of every request at the edge: one line each in a file, timers by route, the latest
// requests, the slow ones with their passports, and who asks most. At Netflix this was Zuul's access log, its passport
// logging and its request metrics.
//
//	l := accesslog.New(accesslog.Config{File: "access.log", Properties: props, Meter: m})
//	go l.Run(ctx)
//	engine := http1.NewServer(http1.Config{Serve: chain.Run, Finished: l.Finished, ...})
//
// A line is a JSON object; what is not known is left out:
//
//	{"ts":"2026-11-26T20:37:43.123Z","id":"3f2a9c00","client":"192.0.2.1","method":"GET","host":"shop.example.com",
//	"path":"/cart","proto":"1.1","status":200,"category":"SUCCESS","bytesIn":0,"bytes":512,"ms":12.345,"route":"shop",
//	"origin":"cart","attempts":1,"priority":50,"region":"eu-west-1","tls":"1.3","agent":"curl/8.14.1",
//	"headers":{"content-type":"application/json"}}
//
// More than one attempt, or a failed one, is told in full under tries; why a request failed under error; the way of a slow
// one under passport.
//
// Live properties:
//
//	zuul.access.log.uri.length.limit               512                         bytes of a path, and of a user agent
//	zuul.access.log.responseheaders                server, via, content-type   fields of the answer that are told
//	edge.log.maskquery                             *                           names whose values are masked in the query; * leaves the query out
//	zuul.passport.log.request.time.threshold       1s                          until the answer begins; beyond that a request is slow
//	zuul.passport.log.response.time.threshold      1s                          from there until its end
//
// # What it promises
//   - A request never waits for the disk: lines that it does not take in time are dropped and counted in
//     edge.accesslog.dropped.
//   - A finished request costs no allocation.
//   - Neither Authorization nor Cookie nor any other field of the request but the user agent is ever told.
//
// # What it does not
//   - It keeps one old file, FILE.1, and at most 64 MiB in each.
//   - What it knows beside the file is of this process and its last minutes.
package accesslog

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Config says what to tell, and where. All of it may be empty.
type Config struct {
	File       string // that lines are appended to; none when empty
	Region     string // where this edge is
	Properties *config.Properties
	Meter      *meter.Registry
	Log        *slog.Logger
}

// Log tells of requests. Its methods may be called from many goroutines.
type Log struct {
	file    string
	region  string
	log     *slog.Logger
	timers  timers
	dropped *meter.Counter
	wake    chan struct{} // the buffer is half full
	second  atomic.Pointer[second]

	pathLimit *config.Value[int]
	fields    *config.Value[[]string]
	mask      *config.Value[[]string]
	slowHead  *config.Value[time.Duration]
	slowBody  *config.Value[time.Duration]

	mu      sync.Mutex // guards what follows; held for copies of a line only
	lines   []byte     // that the file has not got yet
	spare   []byte     // the other buffer
	latest  ring
	slow    ring
	clients talkers
	paths   talkers
}

const (
	bufferSize  = 1 << 20 // bytes of lines that wait for the disk; there are two such buffers
	keptLatest  = 512
	keptSlow    = 100
	lineAtFirst = 1 << 10 // bytes; a longer line costs an allocation
)

// New returns a log that has told nothing yet.
func New(c Config) *Log {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	p := c.Properties
	l := &Log{
		file: c.File, region: c.Region, log: c.Log, timers: timers{meter: c.Meter},
		dropped:   c.Meter.Counter("edge.accesslog.dropped"),
		wake:      make(chan struct{}, 1),
		pathLimit: p.Int("zuul.access.log.uri.length.limit", 512),
		fields:    p.List("zuul.access.log.responseheaders", []string{"server", "via", "content-type"}),
		mask:      p.List("edge.log.maskquery", []string{"*"}),
		slowHead:  p.Duration("zuul.passport.log.request.time.threshold", time.Second),
		slowBody:  p.Duration("zuul.passport.log.response.time.threshold", time.Second),
		latest:    ring{max: keptLatest}, slow: ring{max: keptSlow},
	}
	if l.file != "" {
		l.lines, l.spare = make([]byte, 0, bufferSize), make([]byte, 0, bufferSize)
	}
	l.timers.known.Store(&map[series]*meter.PercentileTimer{})
	return l
}

// Finished tells of a request that is over: written, broken off, or never answered.
//
// hot path: 0 allocs, BenchmarkFinished
func (l *Log) Finished(x *filter.Exchange) {
	now := x.Passport.NowAfter(filter.OutRespLastContentSent)
	if x.Response.Takeover != nil {
		now = filter.Now() // the answer was long ago
	}
	took := time.Duration(now - x.Start)
	category, _ := x.Category()
	l.timers.record(x, category, took)

	slow := took >= min(l.slowHead.Get(), l.slowBody.Get()) && l.isSlow(x, now) || x.Debug
	var mem [lineAtFirst]byte
	line := l.append(mem[:0], x, category, took, slow)

	from := asker(x)
	var addr [16]byte
	if from.IsValid() {
		addr = from.As16()
	}
	path := clip(x.Request.Path, 256)
	client, place := maphash.Bytes(seed, addr[:]), maphash.String(seed, path)
	size, failed := x.Written+x.Read, category.Failure()

	l.mu.Lock()
	defer l.mu.Unlock()
	l.latest.add(line)
	if slow {
		l.slow.add(line)
	}
	if e := l.clients.count(client, now, size, failed); e != nil {
		e.name = e.name[:0]
		if from.IsValid() {
			e.name = from.AppendTo(e.name)
		}
	}
	if path != "" { // else the request could not be read
		if e := l.paths.count(place, now, size, failed); e != nil {
			e.name = append(e.name[:0], path...)
		}
	}
	if l.file == "" {
		return
	}
	if len(l.lines)+len(line) > cap(l.lines) {
		l.dropped.Inc()
		return
	}
	before := len(l.lines)
	l.lines = append(l.lines, line...)
	if before < bufferSize/2 && len(l.lines) >= bufferSize/2 {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

var seed = maphash.MakeSeed()

// asker returns the address of who asked: also of a request that no filter has seen, for its engine refused it.
func asker(x *filter.Exchange) netip.Addr {
	if !x.From.IsValid() && x.Client != nil {
		return x.Client.Remote.Addr().Unmap()
	}
	return x.From
}

// isSlow reports whether the request's way is worth telling. Answers without an end are not slow.
func (l *Log) isSlow(x *filter.Exchange, now int64) bool {
	began, ok := x.Passport.Find(filter.OutRespHeadersSending)
	if !ok {
		began = now
	}
	if time.Duration(began-x.Start) >= l.slowHead.Get() {
		return true
	}
	endless := x.Response.Takeover != nil || strings.HasPrefix(x.Response.Header.Get("Content-Type"), "text/event-stream")
	return !endless && time.Duration(now-began) >= l.slowBody.Get()
}

// Latest returns the lines of up to n requests, the last one first.
func (l *Log) Latest(n int) []json.RawMessage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest.last(n)
}

// Slow returns the lines of up to n slow or debugged requests, the last one first. They have passports.
func (l *Log) Slow(n int) []json.RawMessage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slow.last(n)
}

// Talker is who asks much, or what is asked for much. Figures are means over the last minute, the last seconds counting
// most; those of who was seen seldom may be too high.
type Talker struct {
	Name     string  `json:"name" doc:"address of a client, or a path"`
	Requests float64 `json:"requests" doc:"a second"`
	Bytes    float64 `json:"bytes" doc:"of both bodies, a second"`
	Failed   float64 `json:"failed" doc:"share of the requests that failed, 0 to 1"`
}

// Top returns up to n clients that ask most, and n paths that are asked for most.
func (l *Log) Top(n int) (clients, paths []Talker) {
	now := filter.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clients.top(n, now), l.paths.top(n, now)
}

// Run writes lines to the file until ctx ends, then what is left. It fails at once if the file cannot be opened; a disk that
// fails later is reported once a minute, and requests do not notice.
func (l *Log) Run(ctx context.Context) error {
	if l.file == "" {
		<-ctx.Done()
		return nil
	}
	f, err := open(l.file)
	if err != nil {
		return fmt.Errorf("open the access log: %w", err)
	}
	defer func() { f.close() }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var complained time.Time
	for over := false; !over; {
		select {
		case <-l.wake:
		case <-tick.C:
		case <-ctx.Done():
			over = true
		}
		l.mu.Lock()
		lines := l.lines
		l.lines, l.spare = l.spare[:0], nil
		l.mu.Unlock()
		n, err := f.write(lines)
		l.dropped.Add(int64(bytes.Count(lines[n:], []byte("\n"))))
		if err != nil && (complained.IsZero() || time.Since(complained) > time.Minute) {
			complained = time.Now()
			l.log.Warn("the access log cannot be written, requests go on", "file", l.file, "err", err)
		}
		l.mu.Lock()
		l.spare = lines[:0]
		l.mu.Unlock()
		if over {
			return err
		}
	}
	return nil
}

// ring keeps the last lines. Their memory is used again.
type ring struct {
	max   int
	lines [][]byte
	next  int
}

func (r *ring) add(line []byte) {
	if len(r.lines) < r.max {
		r.lines = append(r.lines, nil)
	}
	if old := r.lines[r.next]; cap(old) > 8*lineAtFirst {
		r.lines[r.next] = nil
	}
	r.lines[r.next] = append(r.lines[r.next][:0], line...)
	r.next = (r.next + 1) % r.max
}

func (r *ring) last(n int) []json.RawMessage {
	n = min(n, len(r.lines))
	list := make([]json.RawMessage, 0, n)
	for i := range n {
		line := r.lines[(r.next-1-i+2*r.max)%r.max]
		list = append(list, slices.Clone(line[:len(line)-1])) // without the line's end
	}
	return list
}

func clip(s string, n int) string { return s[:min(len(s), max(n, 0))] }

// timers meters requests by route, origin, class of status and category.
type timers struct {
	meter *meter.Registry
	known atomic.Pointer[map[series]*meter.PercentileTimer] // never altered
	mu    sync.Mutex                                        // held to replace known
}

type series struct {
	route, origin string
	class         uint8
	category      filter.Category
}

// mostSeries is how many series there may be; what comes later is of route other.
const mostSeries = 4000

var classes = [...]string{"0xx", "1xx", "2xx", "3xx", "4xx", "5xx"}

func (t *timers) record(x *filter.Exchange, c filter.Category, took time.Duration) {
	s := series{route: "none", origin: x.App, class: uint8(min(max(x.Response.Status/100, 0), len(classes)-1)), category: c}
	if x.Plan != nil {
		s.route = x.Plan.Route
	}
	m, ok := (*t.known.Load())[s]
	if !ok {
		m = t.add(s)
	}
	m.Record(took)
}

func (t *timers) add(s series) *meter.PercentileTimer {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.known.Load()
	if len(old) >= mostSeries {
		s.route, s.origin = "other", ""
	}
	if m, ok := old[s]; ok {
		return m
	}
	s.route, s.origin = strings.Clone(s.route), strings.Clone(s.origin)
	m := t.meter.PercentileTimer("edge.request.duration", "edge.route", s.route, "edge.origin", s.origin, "edge.status", classes[s.class], "status.category", s.category.String())
	next := make(map[series]*meter.PercentileTimer, len(old)+1)
	for k, v := range old {
		next[k] = v
	}
	next[s] = m
	t.known.Store(&next)
	return m
}

// byRequests orders talkers, the busiest first.
func byRequests(a, b Talker) int {
	return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Name, b.Name))
}
