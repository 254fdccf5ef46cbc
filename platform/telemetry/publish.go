package telemetry

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
)

const (
	maxCompressed = 16 << 20
	maxExpanded   = 64 << 20
	maxReasons    = 5
	ageLimit      = time.Minute // points may be this much older or newer than now: the step of the slowest publishers
)

// publish answers POST /api/v1/publish.
func (s *Store) publish(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(w, r)
	if err != nil {
		var refused *refusal
		if !errors.As(err, &refused) {
			refused = &refusal{http.StatusBadRequest, err.Error()}
		}
		writeRejection(w, refused.status, rejection{Type: "error", Message: refused.message})
		return
	}
	var p payload
	if err := parsePayload(body, &p); err != nil {
		writeRejection(w, http.StatusBadRequest, rejection{Type: "error", Message: err.Error()})
		return
	}
	reasons, bad := s.accept(&p, time.Now())
	switch {
	case bad == 0:
		w.WriteHeader(http.StatusOK)
	case bad < len(p.metrics):
		writeRejection(w, http.StatusAccepted, rejection{Type: "partial", ErrorCount: bad, Message: reasons})
	default:
		writeRejection(w, http.StatusBadRequest, rejection{Type: "error", ErrorCount: bad, Message: reasons})
	}
}

// rejection is what a publisher is told. Message is a sentence or, with ErrorCount, up to five.
type rejection struct {
	Type       string `json:"type"`
	ErrorCount int    `json:"errorCount,omitempty"`
	Message    any    `json:"message"`
}

func writeRejection(w http.ResponseWriter, status int, r rejection) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.Encode(r) //nolint:errcheck // the client is gone if this fails
}

// refusal is an error with its status.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string { return r.message }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if t := r.Header.Get("Content-Type"); t != "" {
		kind, _, err := mime.ParseMediaType(t)
		if err != nil || kind != "application/json" && kind != "text/plain" && kind != "application/x-www-form-urlencoded" {
			return nil, refuse(http.StatusUnsupportedMediaType, "content type %s is not supported; publish application/json", t)
		}
	}
	var in io.Reader = http.MaxBytesReader(w, r.Body, maxCompressed)
	switch enc := strings.ToLower(r.Header.Get("Content-Encoding")); enc {
	case "", "identity":
	case "gzip":
		gz, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("the body is not gzip: %w", err)
		}
		in = gz
	case "deflate":
		z, err := zlib.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("the body is not deflate: %w", err)
		}
		in = z
	default:
		return nil, refuse(http.StatusUnsupportedMediaType, "content encoding %s is not supported; use gzip, deflate or none", enc)
	}
	var body bytes.Buffer
	if n := r.ContentLength; n > 0 && n < 1<<20 {
		body.Grow(int(n)) // at least
	}
	n, err := io.Copy(&body, io.LimitReader(in, maxExpanded+1))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes; publish smaller batches", maxCompressed)
	case err != nil:
		return nil, fmt.Errorf("the body breaks off: %w", err)
	case n > maxExpanded:
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes when expanded; publish smaller batches", maxExpanded)
	}
	return body.Bytes(), nil
}

// accept keeps the points of p and returns the reasons of the first few that it does not, and how many those are.
func (s *Store) accept(p *payload, now time.Time) (reasons []string, bad int) {
	s.received.Add(int64(len(p.metrics)))
	common := s.hashBytes(p.common)
	places, hashes := s.lookup(p, common)
	ms, limit := now.UnixMilli(), ageLimit.Milliseconds()
	newest := int64(0)
	for i := range p.metrics {
		m := &p.metrics[i]
		reason := m.problem
		if reason == "" && places[i].page == nil {
			places[i], reason = s.learn(p.common, m.tags, hashes[i])
		}
		if reason == "" {
			switch age := ms - m.timestamp; {
			case age > limit:
				reason = fmt.Sprintf("data is too old: now = %d, timestamp = %d, %d > %d", ms, m.timestamp, age, limit)
			case -age > limit:
				reason = fmt.Sprintf("data is from future: now = %d, timestamp = %d, %d > %d", ms, m.timestamp, -age, limit)
			}
		}
		if reason != "" {
			if bad++; bad <= maxReasons {
				reasons = append(reasons, reason+tagsOf(p.common, m.tags))
			}
			continue
		}
		newest = max(newest, m.timestamp)
		if m.value != m.value {
			continue // NaN says nothing
		}
		if !s.write(places[i], m.timestamp, m.value) {
			// The series went between lookup and here; it comes back.
			if at, reason := s.learn(p.common, m.tags, hashes[i]); reason == "" {
				s.write(at, m.timestamp, m.value)
			}
		}
	}
	s.dropped.Add(int64(bad))
	if newest > 0 {
		s.sources.reported(common, liveTier.ceil(newest))
	}
	return reasons, bad
}

// lookup finds the series that are known by the bytes of their tags; the others have no page.
func (s *Store) lookup(p *payload, common uint64) ([]place, []uint64) {
	hashes := make([]uint64, len(p.metrics))
	for i := range p.metrics {
		hashes[i] = common*0x9E3779B97F4A7C15 ^ s.hashBytes(p.metrics[i].tags)
	}
	places := make([]place, len(p.metrics))
	s.seen.mu.RLock()
	defer s.seen.mu.RUnlock()
	for i, h := range hashes {
		places[i] = s.seen.known[h]
	}
	return places, hashes
}

// learn finds or makes the series of these tags and remembers it by hash; or it returns why it may not be.
func (s *Store) learn(common, own []byte, hash uint64) (place, string) {
	m, err := tagMap(common, own)
	if err != nil {
		return place{}, err.Error()
	}
	tags := sorted(m)
	if reason := validate(tags); reason != "" {
		return place{}, reason
	}
	page, slot := s.index.find(tags)
	if page == nil {
		return place{}, fmt.Sprintf("too many series: %d are kept; look for a tag with unbounded values", maxSeries)
	}
	at := place{page, slot}
	s.seen.mu.Lock()
	if len(s.seen.known) >= maxSeen {
		clear(s.seen.known)
	}
	s.seen.known[hash] = at
	s.seen.mu.Unlock()
	return at, ""
}

// tagsOf shows whose datapoint a reason is about.
func tagsOf(common, own []byte) string {
	m, err := tagMap(common, own)
	if err != nil {
		return ""
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(m); err != nil {
		return ""
	}
	return " (tags=" + strings.TrimSpace(b.String()) + ")"
}
