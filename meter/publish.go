package meter

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	publishPath = "/api/v1/publish"
	batchLimit  = 10000            // datapoints in one request
	idleLife    = 15 * time.Minute // a meter that stood still so long is not sent until it moves again
	lastPost    = time.Second      // how long a process that ends may take for its last post
	answerLimit = 64 << 10
)

// Publish posts what was measured to the telemetry server at base, such as http://127.0.0.1:7101, in Spectator's
// JSON: at each multiple of step since the epoch, with that time. It blocks until ctx ends, posts what the unfinished
// step has, and returns nil. It fails, at once, only if base or step cannot be used.
//
// While the server is away or refuses, steps are dropped. Publish a registry to one server only.
func (r *Registry) Publish(ctx context.Context, base string, step time.Duration) error {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("meter: cannot publish to %q; give a URL such as http://127.0.0.1:7101", base)
	}
	if step < time.Millisecond {
		return fmt.Errorf("meter: cannot publish every %v; the step must be at least 1ms", step)
	}
	if r == nil {
		<-ctx.Done()
		return nil
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), publishPath) + publishPath
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	p := publisher{
		r: r, url: u.String(), shown: u.Redacted(), step: step, log: slog.Default(), http: &http.Client{Transport: transport},
		jitter: rand.N(step/10 + 1), // so that a fleet does not post in the same millisecond
		begun:  time.Now(),
	}
	p.run(ctx)
	return nil
}

type publisher struct {
	r      *Registry
	url    string
	shown  string // url for people, without a password
	step   time.Duration
	jitter time.Duration // from the end of a step to its post
	http   *http.Client
	log    *slog.Logger

	begun   time.Time // of the interval being measured
	last    []sent    // by index in the registry's meters
	away    bool      // the last post failed, which was logged
	refused int64     // how many refused meters were logged

	batch  batch
	packed bytes.Buffer
	gz     *gzip.Writer
}

// sent is what a meter had counted when it was sent last.
type sent struct {
	count, total int64
	squares      float64
	idle         int // steps without an event
	buckets      *[BucketCount]sentBucket
}

type sentBucket struct {
	count int64
	idle  int
}

func (p *publisher) run(ctx context.Context) {
	for {
		now := time.Now()
		next := after(now, p.step)
		whole := sleep(ctx, next.Sub(now))
		p.collect(next)
		if whole {
			whole = sleep(ctx, p.jitter)
		}
		if !whole {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastPost)
			p.post(end)
			cancel()
			return
		}
		// Whatever takes longer than a step is late for the next one.
		in, cancel := context.WithTimeout(ctx, p.step)
		p.post(in)
		cancel()
	}
}

// after returns the first multiple of step since the epoch that is later than t.
func after(t time.Time, step time.Duration) time.Time {
	n := t.UnixNano()
	return time.Unix(0, n-n%int64(step)+int64(step))
}

// sleep waits d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// collect fills the batch with what was measured since the last call, as of the end of a step.
func (p *publisher) collect(end time.Time) {
	// After a pause of several steps the mean over all of them is told, not a spike in the last.
	steps := max(1, math.Round(float64(end.Sub(p.begun))/float64(p.step)))
	seconds := steps * p.step.Seconds()
	p.begun = end
	maxIdle := int(idleLife / p.step)

	meters := p.r.snapshot()
	p.last = slices.Grow(p.last, len(meters)-len(p.last))[:len(meters)]
	b := &p.batch
	b.start(p.r.common, end.UnixMilli())
	for i, m := range meters {
		was := &p.last[i]
		switch m.kind {
		case gaugeKind:
			b.add(m, "gauge", "", "", m.gauge.Value())
		case gaugeFuncKind:
			b.add(m, "gauge", "", "", m.fn())
		case counterKind:
			n := m.counter.Count()
			d := n - was.count
			if was.count = n; was.stands(d, maxIdle) {
				continue
			}
			b.add(m, "rate", "count", "", float64(d)/seconds)
		case timerKind:
			p.stats(m, was, &m.timer.stats, m.timer.count.Load(), seconds, 1e-9, "totalTime")
		case summaryKind:
			p.stats(m, was, &m.summary.stats, m.summary.count.Load(), seconds, 1, "totalAmount")
		case percentileKind:
			p.percentile(m, was, seconds)
		}
	}
	b.end()
	if n := p.r.refused.Load(); n > p.refused {
		p.log.Warn("too many meters; the new ones measure nothing, look for a tag with unbounded values", "limit", maxMeters, "refused", n)
		p.refused = n
	}
}

// stands keeps count of the steps in which nothing happened and says whether there were too many to send another.
func (s *sent) stands(delta int64, maxIdle int) bool {
	if delta != 0 {
		s.idle = 0
		return false
	}
	s.idle++
	return s.idle > maxIdle
}

// stats adds the four series of a timer or summary whose values are unit times what is wanted.
func (p *publisher) stats(m *meter, was *sent, s *stats, count int64, seconds, unit float64, total string) {
	sum, squares := s.total.Load(), math.Float64frombits(s.squares.Load())
	dCount, dSum, dSquares := count-was.count, sum-was.total, squares-was.squares
	was.count, was.total, was.squares = count, sum, squares
	if was.stands(dCount, int(idleLife/p.step)) {
		return
	}
	b := &p.batch
	b.add(m, "rate", "count", "", float64(dCount)/seconds)
	b.add(m, "rate", total, "", float64(dSum)*unit/seconds)
	b.add(m, "rate", "totalOfSquares", "", dSquares*unit*unit/seconds)
	b.add(m, "gauge", "max", "", float64(s.max.Swap(0))*unit)
}

func (p *publisher) percentile(m *meter, was *sent, seconds float64) {
	if was.buckets == nil {
		was.buckets = new([BucketCount]sentBucket)
	}
	maxIdle := int(idleLife / p.step)
	var count int64
	for i := range m.percentile.buckets {
		n := m.percentile.buckets[i].Load()
		if n == 0 {
			continue
		}
		count += n
		w := &was.buckets[i]
		d := n - w.count
		w.count = n
		if d != 0 {
			w.idle = 0
		} else if w.idle++; w.idle > maxIdle {
			continue
		}
		p.batch.add(m, "rate", "percentile", bucketTag(i), float64(d)/seconds)
	}
	p.stats(m, was, &m.percentile.stats, count, seconds, 1e-9, "totalTime")
}

const upperHex = "0123456789ABCDEF"

// bucketTag returns the tag value of a timer's bucket, such as T00A1.
func bucketTag(i int) string {
	return string([]byte{'T', '0', upperHex[i>>8&15], upperHex[i>>4&15], upperHex[i&15]})
}

// batch is one or several bodies in Spectator's JSON. All names and tags are clean, so nothing needs quoting.
type batch struct {
	head   []byte // up to and with the opening of metrics
	when   []byte // between tags and value
	body   []byte
	points int
	bodies [][]byte
}

func (b *batch) start(common map[string]string, millis int64) {
	b.head = append(b.head[:0], `{"tags":{`...)
	for i, k := range slices.Sorted(maps.Keys(common)) {
		if i > 0 {
			b.head = append(b.head, ',')
		}
		b.head = appendPair(b.head, k, common[k])
	}
	b.head = append(b.head, `},"metrics":[`...)
	b.when = strconv.AppendInt(append(b.when[:0], `},"timestamp":`...), millis, 10)
	b.when = append(b.when, `,"value":`...)
	b.bodies = b.bodies[:0]
	b.body, b.points = append(b.body[:0], b.head...), 0
}

func appendPair(to []byte, k, v string) []byte {
	to = append(append(append(to, '"'), k...), '"', ':', '"')
	return append(append(to, v...), '"')
}

func (b *batch) add(m *meter, dstype, statistic, bucket string, v float64) {
	if math.IsNaN(v) {
		return
	}
	if b.points == batchLimit {
		b.end()
		b.body, b.points = append([]byte(nil), b.head...), 0
	}
	if b.points++; b.points > 1 {
		b.body = append(b.body, ',')
	}
	to := append(b.body, `{"tags":{`...)
	to = appendPair(to, "name", m.name)
	for _, t := range m.tags {
		if t.key == "statistic" && statistic != "" || t.key == "percentile" && bucket != "" || t.key == "atlas.dstype" {
			continue
		}
		to = appendPair(append(to, ','), t.key, t.value)
	}
	if statistic != "" {
		to = appendPair(append(to, ','), "statistic", statistic)
	}
	if bucket != "" {
		to = appendPair(append(to, ','), "percentile", bucket)
	}
	to = appendPair(append(to, ','), "atlas.dstype", dstype)
	to = append(to, b.when...)
	if math.IsInf(v, 0) {
		to = append(to, map[bool]string{true: `"Infinity"`, false: `"-Infinity"`}[v > 0]...)
	} else {
		to = strconv.AppendFloat(to, v, 'g', -1, 64)
	}
	b.body = append(to, '}')
}

func (b *batch) end() {
	if b.points > 0 {
		b.body = append(b.body, ']', '}')
		b.bodies = append(b.bodies, b.body)
	}
}

// post sends the batch. A failure costs the step and is logged when it is the first since the last success.
func (p *publisher) post(ctx context.Context) {
	for _, body := range p.batch.bodies {
		err := p.send(ctx, body)
		if err != nil && context.Cause(ctx) == context.Canceled {
			return // this process ends, not the server
		}
		if err != nil && !p.away {
			p.log.Warn("telemetry cannot be published; measurements are dropped until it can", "url", p.shown, "error", err)
		}
		if err == nil && p.away {
			p.log.Info("telemetry is published again", "url", p.shown)
		}
		if p.away = err != nil; p.away {
			return
		}
	}
}

func (p *publisher) send(ctx context.Context, body []byte) error {
	p.packed.Reset()
	if p.gz == nil {
		p.gz = gzip.NewWriter(&p.packed)
	}
	p.gz.Reset(&p.packed)
	if _, err := p.gz.Write(body); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	if err := p.gz.Close(); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(p.packed.Bytes()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	resp, err := p.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	var said struct {
		ErrorCount int             `json:"errorCount"`
		Message    json.RawMessage `json:"message"` // a sentence or several
	}
	if err := json.Unmarshal(answer, &said); err != nil || len(said.Message) == 0 {
		return errors.New("the server answered " + resp.Status)
	}
	return fmt.Errorf("the server answered %s, refusing %d datapoints: %s", resp.Status, said.ErrorCount, said.Message)
}
