package meter

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// server is a telemetry server without a network, so that time can be a bubble's.
type server struct {
	t *testing.T

	mu     sync.Mutex
	posts  []post
	answer func() (*http.Response, error) // nil: 200
}

// got returns the posts so far.
func (s *server) got() []post {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.posts
}

func (s *server) answerWith(f func() (*http.Response, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

type post struct {
	at   time.Time
	Tags map[string]string
	At   int64
	vals map[string]float64 // by name, statistic and percentile
	full map[string]map[string]string
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	gz, err := gzip.NewReader(r.Body)
	if err != nil {
		s.t.Fatalf("body is not gzip: %v", err)
	}
	var body struct {
		Tags    map[string]string
		Metrics []struct {
			Tags      map[string]string
			Timestamp int64
			Value     float64
		}
	}
	if err := json.NewDecoder(gz).Decode(&body); err != nil {
		s.t.Fatalf("body is not JSON: %v", err)
	}
	p := post{at: time.Now(), Tags: body.Tags, vals: map[string]float64{}, full: map[string]map[string]string{}}
	for _, m := range body.Metrics {
		key := strings.TrimSuffix(m.Tags["name"]+" "+m.Tags["statistic"]+" "+m.Tags["percentile"], " ")
		p.vals[key], p.full[key], p.At = m.Value, m.Tags, m.Timestamp
	}
	s.mu.Lock()
	s.posts = append(s.posts, p)
	answer := s.answer
	s.mu.Unlock()
	if answer != nil {
		return answer()
	}
	return &http.Response{StatusCode: 200, Status: "200 OK", Body: io.NopCloser(strings.NewReader(""))}, nil
}

func bubble(t *testing.T, r *Registry, s *server, log io.Writer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := publisher{r: r, url: "http://telemetry/api/v1/publish", step: 5 * time.Second, jitter: 300 * time.Millisecond,
		http: &http.Client{Transport: s}, log: slog.New(slog.NewTextHandler(log, nil)), begun: time.Now()}
	done := make(chan struct{})
	go func() { p.run(ctx); close(done) }()
	return func() { cancel(); <-done }
}

func TestPostsAreSpectatorJSONAlignedToTheStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(1234 * time.Millisecond)
		r := New(map[string]string{"nf.app": "web", "nf.zone": "zone-a"})
		s := &server{t: t}
		stop := bubble(t, r, s, io.Discard)
		r.Counter("hits", "status", "200").Add(10)
		r.Gauge("level").Set(2.5)
		r.Gauge("never.set")
		r.GaugeFunc("inf", func() float64 { return math.NaN() })
		r.PercentileTimer("took", "route", "/x").Record(time.Millisecond)
		r.PercentileTimer("took", "route", "/x").Record(3 * time.Millisecond)
		r.Summary("bytes").Record(50)
		time.Sleep(5 * time.Second)
		if len(s.got()) != 1 {
			t.Fatalf("after one step: got %d posts, want 1", len(s.got()))
		}
		p := s.got()[0]
		if p.At%5000 != 0 || p.at.UnixMilli()-p.At != 300 {
			t.Errorf("posted at %d for %d: want a multiple of 5000, 300 ms earlier", p.at.UnixMilli(), p.At)
		}
		if p.Tags["nf.app"] != "web" || p.Tags["nf.zone"] != "zone-a" || len(p.Tags) != 2 {
			t.Errorf("common tags: got %v", p.Tags)
		}
		for key, want := range map[string]float64{
			"hits count": 2, "level ": 2.5, "took count": 0.4, "took totalTime": 0.004 / 5, "took max": 0.003,
			"took totalOfSquares": (1e-6 + 9e-6) / 5, "took percentile T0056": 0.2, "bytes count": 0.2,
			"bytes totalAmount": 10, "bytes max": 50, "bytes totalOfSquares": 500,
		} {
			if got, ok := p.vals[key]; !ok || math.Abs(got-want) > 1e-12 {
				t.Errorf("%s: got %v (there: %v), want %v", key, got, ok, want)
			}
		}
		if len(p.vals) != 12 {
			t.Errorf("got %d series, want 12: %v", len(p.vals), p.vals)
		}
		if d := p.full["took max"]["atlas.dstype"]; d != "gauge" {
			t.Errorf("dstype of max: got %q, want gauge", d)
		}
		if tags := p.full["took percentile T0056"]; tags["atlas.dstype"] != "rate" || tags["route"] != "_x" {
			t.Errorf("tags of a bucket: got %v", tags)
		}

		time.Sleep(5 * time.Second)
		p = s.got()[1]
		if p.vals["hits count"] != 0 || p.vals["took max"] != 0 || p.vals["level "] != 2.5 || len(p.vals) != 12 {
			t.Errorf("a step without events: got %v, want zeros and the gauge", p.vals)
		}
		r.Counter("hits", "status", "200").Add(5)
		stop()
		last := s.got()[len(s.got())-1]
		if last.vals["hits count"] != 1 || last.At != p.At+5000 {
			t.Errorf("last post: got %v at %d, want 1/s at %d", last.vals["hits count"], last.At, p.At+5000)
		}
	})
}

func TestServerAwayDropsStepsAndLogsOncePerOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(nil)
		var log bytes.Buffer
		s := &server{t: t, answer: func() (*http.Response, error) { return nil, errors.New("connection refused") }}
		stop := bubble(t, r, s, &log)
		c := r.Counter("hits")
		c.Add(100)
		time.Sleep(16 * time.Second)
		s.answerWith(nil)
		c.Add(5)
		time.Sleep(10 * time.Second)
		s.answerWith(func() (*http.Response, error) {
			return &http.Response{StatusCode: 202, Status: "202 Accepted", Body: io.NopCloser(strings.NewReader(
				`{"type":"partial","errorCount":2,"message":["value too long: a = [b]"]}`))}, nil
		})
		time.Sleep(11 * time.Second)
		stop()
		if got := s.got()[3].vals["hits count"]; got != 1 {
			t.Errorf("first post after the outage: got %v/s, want 1: lost steps stay lost", got)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 2 {
			t.Errorf("two outages: got %d warnings, want 2:\n%s", n, &log)
		}
		for _, want := range []string{"connection refused", "published again", "202 Accepted", "refusing 2 datapoints", "value too long"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("log lacks %q:\n%s", want, &log)
			}
		}
	})
}

func TestIdleMetersAreNotSentUntilTheyMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(nil)
		s := &server{t: t}
		stop := bubble(t, r, s, io.Discard)
		defer stop()
		c, p := r.Counter("hits"), r.PercentileTimer("took")
		r.Gauge("level").Set(1)
		c.Inc()
		p.Record(time.Second)
		time.Sleep(16*time.Minute + time.Second)
		if got := s.got()[len(s.got())-1].vals; len(got) != 1 {
			t.Errorf("16 minutes later: got %v, want only the gauge", got)
		}
		c.Inc()
		p.Record(time.Second)
		time.Sleep(6 * time.Second)
		if got := s.got()[len(s.got())-1].vals; len(got) != 7 || got["hits count"] != 0.2 {
			t.Errorf("after moving again: got %v, want 7 series", got)
		}
	})
}

func TestSlowServerCostsItsStepsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(nil)
		s := &server{t: t}
		slow := true
		s.answerWith(func() (*http.Response, error) {
			if slow {
				slow = false
				time.Sleep(14 * time.Second)
			}
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(""))}, nil
		})
		stop := bubble(t, r, s, io.Discard)
		defer stop()
		r.Counter("hits")
		time.Sleep(6 * time.Second)
		r.Counter("hits").Add(30) // over the three steps that follow
		time.Sleep(15 * time.Second)
		if len(s.got()) != 2 {
			t.Fatalf("after 21 s: got %d posts %v, want 2", len(s.got()), s.got())
		}
		if got := s.got()[1].vals["hits count"]; got != 2 {
			t.Errorf("rate over 15 s: got %v, want 2, not a spike in one step", got)
		}
	})
}

func TestPublishOverARealConnection(t *testing.T) {
	got := make(chan string, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Method + " " + r.URL.Path + " " + r.Header.Get("Content-Type") + " " + r.Header.Get("Content-Encoding")
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	r := New(nil)
	r.Counter("hits").Inc()
	done := make(chan error, 1)
	go func() { done <- r.Publish(ctx, srv.URL+"/", 20*time.Millisecond) }()
	if s, want := <-got, "POST /api/v1/publish application/json gzip"; s != want {
		t.Errorf("got %q, want %q", s, want)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Publish after ctx ended: got %v, want nil", err)
	}
}

func TestPublishRefusesWhatItCannotUse(t *testing.T) {
	for base, step := range map[string]time.Duration{"": time.Second, "127.0.0.1:7101": time.Second, "http://h": 0, "ftp://h": time.Second} {
		if err := New(nil).Publish(t.Context(), base, step); err == nil {
			t.Errorf("Publish(%q, %v): got nil, want an error", base, step)
		}
	}
}

func TestLargeRegistriesAreSentInParts(t *testing.T) {
	r := New(map[string]string{"nf.app": "web"})
	for i := range batchLimit + 5 {
		r.Counter("many", "id", string([]byte{'a' + byte(i>>12&15), 'a' + byte(i>>8&15), 'a' + byte(i>>4&15), 'a' + byte(i&15)})).Inc()
	}
	p := publisher{r: r, step: time.Second, log: slog.New(slog.DiscardHandler), begun: time.Unix(0, 0)}
	for range 2 {
		p.collect(time.Unix(1, 0))
		n := 0
		for _, b := range p.batch.bodies {
			var body struct{ Metrics []json.RawMessage }
			if err := json.Unmarshal(b, &body); err != nil {
				t.Fatal(err)
			}
			if len(body.Metrics) > batchLimit {
				t.Errorf("a body has %d datapoints, want at most %d", len(body.Metrics), batchLimit)
			}
			n += len(body.Metrics)
		}
		if n != batchLimit+5 || len(p.batch.bodies) != 2 {
			t.Errorf("got %d datapoints in %d bodies, want %d in 2", n, len(p.batch.bodies), batchLimit+5)
		}
	}
}

func BenchmarkCollect300Series(b *testing.B) {
	r := New(map[string]string{"nf.app": "web"})
	for i := range 10 {
		p := r.PercentileTimer("ipc.client.call", "ipc.vip", string(rune('a'+i)))
		for d := time.Millisecond; d < 200*time.Millisecond; d += d / 8 {
			p.Record(d)
		}
	}
	p := publisher{r: r, step: 5 * time.Second, log: slog.Default()}
	b.ReportAllocs()
	for b.Loop() {
		p.collect(time.Now())
	}
}
