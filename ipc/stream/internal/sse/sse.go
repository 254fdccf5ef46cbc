// Package sse is what Hystrix's streams have in common: how they are sent to readers, and how they are read.
//
// A stream is blocks, each a line "data: JSON" and an empty line. Between them a server says "ping: " with an empty
// line, so that proxies see that it lives.
package sse

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/config"
)

// Ping is what every write ends with.
const Ping = "ping: \n\n"

const (
	minDelay    = 100 * time.Millisecond // as short as a reader may ask for
	maxDelay    = time.Minute            // as long
	writeWithin = 10 * time.Second       // for a reader to take what was written; one that does not is cut off
)

// Limit is the property that bounds readers. Hystrix has it for all its streams under the name of one.
type Limit struct {
	Readers int `config:"maxConcurrentConnections"`
}

// Validate refuses what is no number of readers.
func (l *Limit) Validate() error {
	return config.Between("hystrix.config.stream.maxConcurrentConnections", l.Readers, 0, 100_000)
}

// NewLimit follows the property. Hystrix allows 5; here readers share what is gathered and written, and 100 may come.
func NewLimit(p *config.Properties) *config.Value[*Limit] {
	return config.Must(config.Bind(p, "hystrix.config.stream.", Limit{100}))
}

// Plan says what the readers of a stream get.
type Plan struct {
	Max   int                  // readers at once
	Every func() time.Duration // from write to write, for readers that ask for no delay

	// Open begins a reader's stream. next returns what is written next, before a ping; nobody alters it. shut is called
	// when the reader has gone.
	Open func() (next func() [][]byte, shut func())
}

// Readers are those of one or more streams that share a limit. The zero value is ready.
type Readers struct {
	mu   sync.Mutex
	n    atomic.Int64  // written under mu
	stop chan struct{} // made by the first who needs it
	shut bool
}

// N returns how many there are.
func (s *Readers) N() int { return int(s.n.Load()) }

// Close ends all readers' streams and refuses new ones.
func (s *Readers) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.shut {
		s.shut = true
		close(s.stopped())
	}
}

// stopped returns the channel that Close closes. The caller holds mu.
func (s *Readers) stopped() chan struct{} {
	if s.stop == nil {
		s.stop = make(chan struct{})
	}
	return s.stop
}

// enter counts a reader in, or says why not.
func (s *Readers) enter(most int) (stop <-chan struct{}, refused string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.shut:
		return nil, "Service has been shut down."
	case s.N() >= most:
		return nil, fmt.Sprintf("MaxConcurrentConnections reached: %d", most)
	}
	s.n.Add(1)
	return s.stopped(), ""
}

func (s *Readers) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n.Add(-1)
}

// Serve answers with a stream until the reader goes or Readers is closed. It writes at once and then at whole multiples
// of the interval, so that readers of one interval come for the same parts at the same time. A reader that is slow to
// take a write misses those that were due meanwhile. The query's delay=MILLISECONDS sets another interval.
func (s *Readers) Serve(w http.ResponseWriter, r *http.Request, plan Plan) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "a stream can only be read; use GET", http.StatusMethodNotAllowed)
		return
	}
	stop, refused := s.enter(plan.Max)
	if refused != "" {
		http.Error(w, refused, http.StatusServiceUnavailable)
		return
	}
	defer s.leave()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream;charset=UTF-8")
	h.Set("Cache-Control", "no-cache, no-store, max-age=0, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("X-Accel-Buffering", "no") // nginx would keep what is written until there is much of it
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	next, shut := plan.Open()
	defer shut()
	own, asked := delay(r)
	out := http.NewResponseController(w)
	var timer *time.Timer
	for {
		if !write(w, out, next()) {
			return
		}
		every := own
		if !asked {
			every = plan.Every()
		}
		now := time.Now()
		wait := now.Truncate(every).Add(every).Sub(now)
		if timer == nil {
			timer = time.NewTimer(wait)
			defer timer.Stop()
		} else {
			timer.Reset(wait)
		}
		select {
		case <-r.Context().Done():
			return
		case <-stop:
			return
		case <-timer.C:
		}
	}
}

// delay returns the interval that a request asks for. What is no number asks for nothing.
func delay(r *http.Request) (time.Duration, bool) {
	text := r.URL.Query().Get("delay")
	if text == "" || len(text) > 9 {
		return 0, false
	}
	ms, err := strconv.Atoi(text)
	if err != nil {
		return 0, false
	}
	return min(max(time.Duration(ms)*time.Millisecond, minDelay), maxDelay), true
}

// write reports whether the reader took it.
func write(w http.ResponseWriter, out *http.ResponseController, parts [][]byte) bool {
	// A recorder in a test has no deadlines; every connection has.
	out.SetWriteDeadline(time.Now().Add(writeWithin)) //nolint:errcheck // see above
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return false
		}
	}
	if _, err := w.Write([]byte(Ping)); err != nil {
		return false
	}
	return out.Flush() == nil
}
