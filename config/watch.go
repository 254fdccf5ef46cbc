package config

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// The server says something at least every ten seconds; a stream silent for longer than this is dead.
const silence = 35 * time.Second

// After a lost stream the client waits a random time up to a bound, which doubles from the first to the last.
const (
	firstWait = 500 * time.Millisecond
	lastWait  = 30 * time.Second
)

// Snapshot is the data of the event that begins a watch: everything the caller sees. It is the wire form between the
// server and this package.
type Snapshot struct {
	Rev        uint64            `json:"rev"`
	Properties map[string]string `json:"properties"`
	Own        []string          `json:"own,omitempty"` // keys whose value is for this instance alone
}

// Change is the data of the event that follows a change of one property as the caller sees it.
type Change struct {
	Rev   uint64  `json:"rev"`
	Key   string  `json:"key"`
	Value *string `json:"value"` // nil = there is none any more
	Own   bool    `json:"own,omitempty"`

	Rollout string `json:"rolloutId,omitempty"` // of the staged roll-out that it comes from
	More    bool   `json:"more,omitempty"`      // another change follows that was made together with this one
}

// Hash is the data of the event by which both ends see that they agree. It comes every 30 seconds, and at once when
// a watch resumes where the last one broke off.
type Hash struct {
	Rev uint64 `json:"rev"`
	Sum string `json:"sum"` // of [Sum], 16 hex digits
}

// Ack tells the server which revision a reader has taken, and what it could not read. It is the body of
// POST /config/v1/ack, from which a staged roll-out learns whether to go on.
type Ack struct {
	Instance string `json:"serverId"`
	Rev      uint64 `json:"rev"`
	Errors   []Flaw `json:"errors,omitempty"`
}

// Flaw is a property that a reader could not use: it goes on with the value it had.
type Flaw struct {
	Key   string `json:"key"`
	Error string `json:"error"`
}

// Sum is a hash of properties, the same wherever it is computed. The server's event ids are "<rev>-<sum>".
func Sum(props map[string]string) string {
	var d xxhash.Digest
	d.Reset()
	for _, k := range slices.Sorted(maps.Keys(props)) {
		// Lengths keep "ab"+"c" apart from "a"+"bc". Digest's writes never fail.
		fmt.Fprintf(&d, "%d:%s=%d:%s;", len(k), k, len(props[k]), props[k])
	}
	return fmt.Sprintf("%016x", d.Sum64())
}

// EventID is the id of the event after which a caller knows props at rev.
func EventID(rev uint64, props map[string]string) string {
	return fmt.Sprintf("%d-%s", rev, Sum(props))
}

// Query returns the scope as the query of a watch or resolve request.
func (s Scope) Query() url.Values {
	q := url.Values{}
	for name, v := range map[string]string{"env": s.Env, "appId": s.App, "stack": s.Stack, "region": s.Region, "zone": s.Zone,
		"cluster": s.Cluster, "asg": s.Group, "ami": s.AMI, "serverId": s.Instance, "countries": s.Countries} {
		if v != "" {
			q.Set(name, v)
		}
	}
	return q
}

// follow keeps a watch open until ctx ends.
func (p *Properties) follow(ctx context.Context) {
	wait, away := firstWait, false
	for {
		err := p.watch(ctx, func() {
			wait = firstWait
			if away {
				p.log.Info("the config server is back", "url", p.shown)
				away = false
			}
		})
		if ctx.Err() != nil {
			return
		}
		if !away {
			p.log.Warn("the config server is away; the last known properties stay", "url", p.shown, "err", err)
			away = true
		}
		pause := time.NewTimer(wait/4 + rand.N(wait))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
		wait = min(2*wait, lastWait)
	}
}

// errDiffer is why a watch begins anew: server and client know different properties.
var errDiffer = errors.New("the properties known here differ from the server's; asking for all of them")

// watch opens one stream and applies its events until it breaks, and says so to heard after each.
func (p *Properties) watch(ctx context.Context, heard func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alive := time.AfterFunc(silence, cancel)
	defer alive.Stop()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(p.opts.URL, "/")+"/config/v1/watch?"+p.opts.Scope.Query().Encode(), nil)
	if err != nil {
		return fmt.Errorf("watch properties: %w", err)
	}
	req.Header.Set("Accept", "text/event-stream")
	p.mu.Lock()
	if p.rev != 0 {
		req.Header.Set("Last-Event-ID", EventID(p.rev, p.raw))
	}
	p.mu.Unlock()
	resp, err := p.opts.HTTP.Do(req)
	if err != nil {
		return fmt.Errorf("watch properties: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 300)) // only to tell more; the status is error enough
		return fmt.Errorf("watch properties: %s answered %s: %s", p.shown, resp.Status, bytes.TrimSpace(body))
	}
	p.staged = nil
	return readEvents(resp.Body, func() { alive.Reset(silence) }, func(name string, data []byte) error {
		err := p.apply(name, data)
		if err == nil {
			heard()
		}
		return err
	})
}

// staged are raw and own with some of the changes that were made together.
type staged struct {
	raw map[string]string
	own map[string]bool
}

// apply takes one event.
func (p *Properties) apply(name string, data []byte) error {
	switch name {
	case "snapshot":
		var s Snapshot
		if err := json.Unmarshal(data, &s); err != nil {
			return fmt.Errorf("snapshot of the properties: %w", err)
		}
		if s.Properties == nil {
			return errors.New("snapshot of the properties: it has none, not even an empty set")
		}
		own := make(map[string]bool, len(s.Own))
		for _, k := range s.Own {
			own[k] = true
		}
		p.staged = nil
		p.replace(s.Properties, own, s.Rev)
	case "change":
		var c Change
		if err := json.Unmarshal(data, &c); err != nil {
			return fmt.Errorf("change of a property: %w", err)
		}
		if p.staged == nil {
			p.mu.Lock() // only the watch replaces raw and own, so the copies cannot be outdated
			p.staged = &staged{maps.Clone(p.raw), maps.Clone(p.own)}
			p.mu.Unlock()
		}
		raw, own := p.staged.raw, p.staged.own
		delete(raw, c.Key)
		delete(own, c.Key)
		if c.Value != nil {
			raw[c.Key] = *c.Value
			if c.Own {
				own[c.Key] = true
			}
		}
		if !c.More { // what was changed together is seen together
			p.staged = nil
			p.replace(raw, own, c.Rev)
		}
	case "hash":
		var h Hash
		if err := json.Unmarshal(data, &h); err != nil {
			return fmt.Errorf("hash of the properties: %w", err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if Sum(p.raw) != h.Sum {
			p.rev = 0 // asks for a snapshot
			return errDiffer
		}
		p.rev, p.heard = h.Rev, true
		signal(p.news)
	}
	return nil // an event of a later version
}

// maxEvent bounds one event: 64 KiB a value, but a snapshot has many.
const maxEvent = 64 << 20

// readEvents reads server-sent events until r ends or fn fails. It calls beat for every line.
func readEvents(r io.Reader, beat func(), fn func(name string, data []byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEvent)
	var name string
	var data []byte
	size := 0
	for lines.Scan() {
		beat()
		line := lines.Bytes() // without its "\n" or "\r\n"
		if len(line) == 0 {
			if data != nil {
				if err := fn(name, data); err != nil {
					return err
				}
			}
			name, data, size = "", nil, 0
			continue
		}
		field, rest, _ := bytes.Cut(line, []byte(":"))
		rest = bytes.TrimPrefix(rest, []byte(" "))
		switch string(field) {
		case "event":
			name = string(rest)
		case "data":
			if size += len(rest) + 1; size > maxEvent {
				return fmt.Errorf("an event of more than %d bytes", maxEvent)
			}
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, rest...)
			if data == nil {
				data = []byte{}
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the stream of properties broke: %w", err)
	}
	return fmt.Errorf("the config server ended the stream: %w", io.ErrUnexpectedEOF)
}
