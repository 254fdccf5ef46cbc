package turbine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/roadbed/roadbed/ipc/stream/internal/sse"
)

const (
	reconnect  = time.Second      // after a stream that ended, and half more or less
	slowest    = 30 * time.Second // the same for what answers with anything but a stream
	silence    = 15 * time.Second // after which a stream counts as broken; all that are known ping every second or so
	maxGroups  = 10_000           // of one instance
	maxAnswer  = 4 << 10          // read of an answer that is no stream
	springPath = "/actuator/hystrix.stream"
)

// source is one instance's stream while its cluster has readers.
type source struct {
	id      string
	urls    []string // tried in this order as long as the answer is 404
	cluster *cluster
	cancel  context.CancelFunc

	// These belong to run.
	said map[string]*said // by type and name as they stand in the message
	key  []byte           // of the present message in said: its type up to cut, and its name
	cut  int
	told bool // that the stream cannot be read
}

// said is what an instance said last of one group.
type said struct {
	group   *group
	text    []byte
	members []member
	time    span // of currentTime's value, which says nothing of the group
}

// run reads the stream again and again until ctx ends.
func (s *source) run(ctx context.Context) {
	wait, at := reconnect, 0
	for ctx.Err() == nil {
		status, err := s.read(ctx, s.urls[at])
		s.silent()
		if ctx.Err() != nil {
			return
		}
		switch {
		case status == http.StatusNotFound && at+1 < len(s.urls):
			at++
			continue
		case status == http.StatusOK || status == 0: // it ended, or nothing answered: soon again
			wait = reconnect
		default:
			at, wait = 0, min(2*wait, slowest)
		}
		if !s.told {
			s.told = true
			s.cluster.log.Info("a stream cannot be read now; it is tried again", "instance", s.id, "url", shown(s.urls[at]), "err", err)
		}
		again := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-ctx.Done():
		case <-again.C:
		}
		again.Stop()
	}
}

// shown returns a URL without its password.
func shown(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "unreadable"
	}
	return u.Redacted()
}

// read reads the stream at an address until it ends. status is that of the answer, 0 if there was none.
func (s *source) read(ctx context.Context, address string) (status int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return http.StatusBadRequest, err
	}
	req.Header.Set("Accept", "text/event-stream")
	quiet := time.AfterFunc(silence, cancel)
	defer quiet.Stop()
	resp, err := s.cluster.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // the status says enough
		return resp.StatusCode, fmt.Errorf("it was answered with status %d: %.200s", resp.StatusCode, bytes.TrimSpace(said))
	}
	events := sse.Splitter{Event: s.hear}
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		quiet.Reset(silence)
		events.Write(buf[:n]) //nolint:errcheck // it never fails
		if err != nil {
			return http.StatusOK, fmt.Errorf("it ended: %w", err)
		}
	}
}

// hear takes one message.
func (s *source) hear(text []byte) {
	var space [64]member
	members, err := scan(text, space[:0], 2) // type and name, as everybody begins
	if err == nil && !s.identify(text, members) {
		if members, err = scan(text, space[:0], 0); err == nil && !s.identify(text, members) {
			err = errors.New("it has no type and name")
		}
	}
	if err != nil {
		s.complain(err, text)
		return
	}
	was := s.said[string(s.key)]
	if was != nil && was.same(text) {
		return
	}
	if members, err = scan(text, space[:0], 0); err != nil {
		s.complain(err, text)
		return
	}
	if was == nil && len(s.said) >= maxGroups {
		s.complain(fmt.Errorf("the instance already has %d commands, pools and collapsers", maxGroups), text)
		return
	}
	next := &said{text: bytes.Clone(text), members: slices.Clone(members)}
	for _, m := range members {
		if string(m.key.of(text)) == "currentTime" {
			next.time = m.value
		}
	}
	s.cluster.take(unquote(s.key[:s.cut]), unquote(s.key[s.cut:]), was, next)
	s.said[string(s.key)] = next
	s.told = false
}

// identify makes key of the type and the name among the members, and reports whether both are there.
func (s *source) identify(text []byte, members []member) bool {
	var kind, name []byte
	for _, m := range members {
		switch value := m.value.of(text); string(m.key.of(text)) {
		case "type":
			kind = value
		case "name":
			name = value
		}
	}
	if len(kind) == 0 || len(name) == 0 || kind[0] != '"' || name[0] != '"' {
		return false
	}
	s.key = append(append(s.key[:0], kind...), name...)
	s.cut = len(kind)
	return true
}

func (s *source) complain(err error, text []byte) {
	s.cluster.log.Debug("a message is left out", "instance", s.id, "err", err, "message", fmt.Sprintf("%.100s", text))
}

// silent takes back all that the instance said.
func (s *source) silent() {
	s.cluster.drop(s.said)
	clear(s.said)
}

// same reports whether text says the same, the time aside.
func (s *said) same(text []byte) bool {
	at, end := s.time.from, s.time.to
	if len(text) != len(s.text) || !bytes.Equal(text[:at], s.text[:at]) || !bytes.Equal(text[end:], s.text[end:]) {
		return false
	}
	for _, c := range text[at:end] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
