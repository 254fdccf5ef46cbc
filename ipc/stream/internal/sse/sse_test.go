package sse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sink is a reader's connection. Each write takes pause.
type sink struct {
	mu     sync.Mutex
	header http.Header
	status int
	began  time.Time
	said   []string // each flush, with the milliseconds at which it came
	now    bytes.Buffer
	pause  time.Duration
	broken bool
}

func newSink() *sink { return &sink{header: http.Header{}, began: time.Now()} }

func (s *sink) Header() http.Header { return s.header }
func (s *sink) WriteHeader(n int)   { s.status = n }
func (s *sink) Flush()              { s.FlushError() } //nolint:errcheck // it is for those who do not ask

func (s *sink) SetWriteDeadline(time.Time) error { return nil }

func (s *sink) Write(p []byte) (int, error) {
	if s.broken {
		return 0, errors.New("gone")
	}
	return s.now.Write(p)
}

func (s *sink) FlushError() error {
	time.Sleep(s.pause)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, fmt.Sprintf("%d %q", time.Since(s.began).Milliseconds(), s.now.String()))
	s.now.Reset()
	return nil
}

func (s *sink) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.said)
}

// counting returns a plan whose parts count up.
func counting(most int, every time.Duration) Plan {
	return Plan{Max: most, Every: func() time.Duration { return every }, Open: func() (func() [][]byte, func()) {
		n := 0
		return func() [][]byte { n++; return [][]byte{fmt.Appendf(nil, "data: %d\n\n", n)} }, func() {}
	}}
}

// serve lets one reader read for d.
func serve(rs *Readers, w http.ResponseWriter, url string, p Plan, d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	rs.Serve(w, httptest.NewRequestWithContext(ctx, http.MethodGet, url, nil), p)
}

func TestAStreamSpeaksAtOnceAndThenAtEachInterval(t *testing.T) {
	for _, c := range []struct {
		url  string
		want []string
	}{
		{"/", []string{"0", "500", "1000"}},
		{"/?delay=400", []string{"0", "400", "800", "1200"}},
		{"/?delay=1", []string{"0", "100", "200"}},
		{"/?delay=nonsense", []string{"0", "500", "1000"}},
		{"/?delay=9999999999999999", []string{"0", "500", "1000"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newSink()
			var rs Readers
			serve(&rs, w, c.url, counting(1, 500*time.Millisecond), 1250*time.Millisecond)
			var got []string
			for i, s := range w.lines() {
				at, said, _ := strings.Cut(s, " ")
				got = append(got, at)
				if want := fmt.Sprintf("%q", fmt.Sprintf("data: %d\n\nping: \n\n", i+1)); said != want {
					t.Errorf("%s: write %d is %s, want %s", c.url, i, said, want)
				}
			}
			if len(got) < len(c.want) || !slices.Equal(got[:len(c.want)], c.want) {
				t.Errorf("%s: writes came at %q ms, want %q first", c.url, got, c.want)
			}
			if got := w.header.Get("Content-Type"); got != "text/event-stream;charset=UTF-8" {
				t.Errorf("Content-Type is %q", got)
			}
			if rs.N() != 0 {
				t.Errorf("after its request ended %d readers are counted, want 0", rs.N())
			}
		})
	}
}

func TestASlowReaderMissesWhatWasDueMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSink()
		w.pause = 1200 * time.Millisecond
		var rs Readers
		serve(&rs, w, "/", counting(1, 500*time.Millisecond), 4*time.Second)
		want := []string{`1200 "data: 1\n\nping: \n\n"`, `2700 "data: 2\n\nping: \n\n"`, `4200 "data: 3\n\nping: \n\n"`}
		if got := w.lines(); !slices.Equal(got, want) {
			t.Errorf("a reader that takes 1.2 s for each write got %q, want %q", got, want)
		}
	})
}

func TestReadersOverTheLimitAndAfterTheEndAreToldSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rs Readers
		var wg sync.WaitGroup
		plan := counting(2, 500*time.Millisecond)
		for range 2 {
			wg.Go(func() { serve(&rs, newSink(), "/", plan, time.Hour) })
		}
		synctest.Wait()
		refused := func(want string) {
			t.Helper()
			w := httptest.NewRecorder()
			serve(&rs, w, "/", plan, time.Second)
			if w.Code != http.StatusServiceUnavailable || strings.TrimSpace(w.Body.String()) != want {
				t.Errorf("got %d %q, want 503 %q", w.Code, w.Body, want)
			}
		}
		refused("MaxConcurrentConnections reached: 2")
		rs.Close()
		wg.Wait() // Close ends the streams
		refused("Service has been shut down.")
		rs.Close() // once more does nothing
	})
}

func TestAStreamEndsWithItsReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSink()
		w.broken = true
		var rs Readers
		shut := false
		p := counting(1, time.Second)
		next, _ := p.Open()
		p.Open = func() (func() [][]byte, func()) { return next, func() { shut = true } }
		serve(&rs, w, "/", p, time.Hour)
		if !shut || rs.N() != 0 {
			t.Errorf("a reader whose connection broke: shut %v, readers %d; want true, 0", shut, rs.N())
		}
	})
}

func TestAStreamCanOnlyBeRead(t *testing.T) {
	w := httptest.NewRecorder()
	new(Readers).Serve(w, httptest.NewRequest(http.MethodPost, "/", nil), counting(1, time.Second))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST is answered %d, want 405", w.Code)
	}
	w = httptest.NewRecorder()
	new(Readers).Serve(w, httptest.NewRequest(http.MethodHead, "/", nil), counting(1, time.Second))
	if w.Code != http.StatusOK || w.Body.Len() != 0 {
		t.Errorf("HEAD is answered %d with %d bytes, want 200 with none", w.Code, w.Body.Len())
	}
}

// split reads the stream in pieces that end at the given places.
func split(stream string, at ...int) []string {
	var got []string
	s := Splitter{Event: func(b []byte) { got = append(got, string(b)) }}
	from := 0
	for _, to := range append(at, len(stream)) {
		s.Write([]byte(stream[from:to]))
		from = to
	}
	return got
}

// lenientStream holds each form that a line may have.
const lenientStream = "data: {\"a\":1}\n\n" + "ping: \n\n" + ": a comment\n\n" + "data:{\"b\":2}\r\n\r\n" + "event: message\nid: 7\ndata: {\"c\":\ndata: 3}\n\n" +
	"\n\n" + "data: {\"d\":4}\ndata: {\"e\":5}\n\n" + "retry: 5\n\n" + "data:\n\n" + "data: {\"f\":\"data: no\"}\n\n" + "data: {\"cut\":"

var lenientEvents = []string{`{"a":1}`, `{"b":2}`, "{\"c\":\n3}", `{"d":4}`, `{"e":5}`, `{"f":"data: no"}`}

func TestAStreamIsReadTheSameHoweverItIsSplit(t *testing.T) {
	if got := split(lenientStream); !slices.Equal(got, lenientEvents) {
		t.Fatalf("in one piece: got %q, want %q", got, lenientEvents)
	}
	for at := range lenientStream {
		if got := split(lenientStream, at); !slices.Equal(got, lenientEvents) {
			t.Errorf("split at byte %d: got %q, want %q", at, got, lenientEvents)
		}
	}
	var each []int
	for at := range lenientStream {
		each = append(each, at)
	}
	if got := split(lenientStream, each...); !slices.Equal(got, lenientEvents) {
		t.Errorf("split at every byte: got %q, want %q", got, lenientEvents)
	}
}

func TestAnEventThatIsTooLongIsLeftOut(t *testing.T) {
	long := strings.Repeat("x", MaxEvent+1)
	for _, stream := range []string{
		"data: {" + long + "}\n\ndata: {\"b\":2}\n\n",
		"data: {" + long[:MaxEvent/2] + "\ndata: " + long[:MaxEvent] + "\n\ndata: {\"b\":2}\n\n",
	} {
		for _, at := range []int{0, 10, MaxEvent / 2, len(stream) - 10} {
			got := split(stream, at)
			if !slices.Equal(got, []string{`{"b":2}`}) {
				t.Errorf("%d bytes split at %d: got %d events, want the short one alone", len(stream), at, len(got))
			}
		}
	}
}

func FuzzSplitter(f *testing.F) {
	f.Add([]byte(lenientStream), 7)
	f.Add([]byte("data: {\r\ndata:x\r\n\r\n"), 9)
	f.Fuzz(func(t *testing.T, stream []byte, at int) {
		whole := split(string(stream))
		if n := len(stream); n > 0 {
			at = (at%n + n) % n
		} else {
			at = 0
		}
		if got := split(string(stream), at); !slices.Equal(got, whole) {
			t.Errorf("split at %d: got %q, in one piece %q, of %q", at, got, whole, stream)
		}
	})
}
