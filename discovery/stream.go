package discovery

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
)

const (
	retryLeast = 100 * time.Millisecond // first wait after losing every registry
	retryMost  = 5 * time.Second
	silence    = 25 * time.Second // without as much as a comment, after which a stream is dead; they come every 10 s
	eventLimit = 256 << 20        // bytes of one event; a snapshot of 100,000 instances has 50 MB
)

// errNoStream means that a registry has no stream, as Netflix's and Spring's have none.
var errNoStream = errors.New("the registry has no stream of changes")

// follow keeps the list up to date until ctx ends.
func (c *Client) follow(ctx context.Context) {
	st := streamer{c: c}
	wait := backoff{least: retryLeast, most: retryMost}
	told := false
	for ctx.Err() == nil {
		var err error
		heard := false
		for range c.bases {
			b := c.bases[c.at.Load()]
			if heard, err = st.read(ctx, b); errors.Is(err, errNoStream) {
				heard, err = c.poll(ctx, b)
			}
			if heard || ctx.Err() != nil {
				break
			}
			c.at.Store((c.at.Load() + 1) % int64(len(c.bases)))
		}
		if ctx.Err() != nil {
			return
		}
		if heard {
			wait.reset()
			told = false
		}
		if !told && err != nil {
			c.log.Warn("the registry is away; serving what was last known", "err", err)
			told = true
		}
		if !wait.sleep(ctx) {
			return
		}
	}
}

// backoff waits longer each time, with full jitter above a floor, so that clients that lost the same registry do not
// come back together.
type backoff struct {
	least, most time.Duration
	next        time.Duration
}

func (b *backoff) reset() { b.next = 0 }

// span is the least and most that the next wait may last.
func (b *backoff) span() (from, to time.Duration) {
	if b.next == 0 {
		b.next = b.least
	}
	to = b.next
	b.next = min(2*b.next, b.most)
	return to / 2, to
}

// sleep reports whether ctx is still alive afterwards.
func (b *backoff) sleep(ctx context.Context) bool {
	from, to := b.span()
	t := time.NewTimer(from + rand.N(to-from+1))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// boundStream is the stream by which a registry sees that this process is alive.
type boundStream struct {
	at   *atomic.Pointer[string] // identifies the registry
	name string
}

// streamer reads one stream after another.
type streamer struct {
	c      *Client
	lastID string // of the newest event applied; empty asks for a snapshot

	// who is known and has not come back to a registry that is warming up; guarded by the client's mu
	unseen map[name]bool
	at     map[address][]name // by where they were
}

type address struct {
	host string
	port int
}

// read follows the stream of b until it breaks. heard says whether b answered at all.
func (st *streamer) read(ctx context.Context, b base) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.watch, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set(identityHeader, identity)
	if st.lastID != "" {
		req.Header.Set("Last-Event-ID", st.lastID)
	}
	// The client's own timeout, if it has one, would end the stream; what ends it is silence.
	dog := time.AfterFunc(silence, cancel)
	defer dog.Stop()
	hc := *st.c.http
	hc.Timeout = 0
	resp, err := hc.Do(req)
	if err != nil {
		return false, fmt.Errorf("watch %s: %w", b.shown, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode/100 == 3,
		resp.StatusCode == http.StatusOK && !isStream(resp):
		return true, errNoStream
	case resp.StatusCode != http.StatusOK:
		return false, fmt.Errorf("watch %s: the registry answered %s", b.shown, resp.Status)
	}
	if name := resp.Header.Get(streamHeader); name != "" {
		st.c.stream.Store(&boundStream{b.pin, name})
		defer st.c.stream.Store(nil)
	}
	in := eventReader{r: bufio.NewReaderSize(resp.Body, 64<<10), alive: func() { dog.Reset(silence) }}
	for {
		ev, err := in.next()
		if err != nil {
			return heard, fmt.Errorf("watch %s: %w", b.shown, err)
		}
		if err := st.apply(ev); err != nil {
			st.lastID = ""
			return heard, fmt.Errorf("watch %s: %w", b.shown, err)
		}
		if !heard {
			heard = true
			st.c.log.Info("following the registry", "url", b.shown)
			st.c.reregister()
		}
	}
}

func isStream(resp *http.Response) bool {
	return bytes.HasPrefix([]byte(resp.Header.Get("Content-Type")), []byte("text/event-stream"))
}

// apply brings the list up to date with one event.
func (st *streamer) apply(ev event) error {
	var m struct {
		Warming   bool
		Instances []roadbed.Instance
		Instance  roadbed.Instance
		App, ID   string
		Hash      string
	}
	switch ev.name {
	case "snapshot", "resume", "put", "remove", "hash":
	case "": // a sign of life, with what we know everything up to
		if len(ev.data) == 0 && ev.id != "" {
			st.lastID = ev.id
		}
		return nil
	default:
		return nil // of a newer registry
	}
	if err := json.Unmarshal(ev.data, &m); err != nil {
		return fmt.Errorf("read event %s: %w", ev.name, err)
	}
	c := st.c
	c.mu.Lock()
	changed, counted := false, ""
	switch ev.name {
	case "snapshot":
		if m.Warming {
			st.await(c.known.missing(m.Instances))
			changed = c.known.merge(m.Instances)
			for _, i := range m.Instances {
				changed = st.displace(i) || changed
			}
		} else {
			st.await(nil)
			changed = c.known.replace(m.Instances)
		}
	case "put":
		changed = c.known.put(m.Instance)
		changed = st.displace(m.Instance) || changed
	case "remove":
		changed = c.known.remove(m.App, m.ID)
	case "hash":
		if !m.Warming {
			st.await(nil)
			counted = c.known.hash()
		}
	}
	c.mu.Unlock()
	if changed {
		c.changed()
	}
	if ev.name == "hash" && !m.Warming && counted != m.Hash {
		return fmt.Errorf("this client counts %q and the registry %q; asking for everything again", counted, m.Hash)
	}
	if ev.id != "" {
		st.lastID = ev.id
	}
	return nil
}

// await notes who has not come back yet. The caller holds the client's mu.
func (st *streamer) await(missing []name) {
	st.unseen, st.at = nil, nil
	if len(missing) == 0 {
		return
	}
	st.unseen, st.at = make(map[name]bool, len(missing)), make(map[address][]name, len(missing))
	for _, k := range missing {
		i := st.c.known.apps[k.app].byID[k.id]
		st.unseen[k] = true
		st.at[address{i.Host, i.Port}] = append(st.at[address{i.Host, i.Port}], k)
	}
}

// displace takes out whoever has not come back to a warming registry and has its address taken by i: what listens there
// now is somebody else, who would answer calls that are not for it. The caller holds the client's mu.
func (st *streamer) displace(i roadbed.Instance) (changed bool) {
	delete(st.unseen, name{strings.ToLower(i.App), i.ID})
	if i.Port == 0 {
		return false
	}
	for _, k := range st.at[address{i.Host, i.Port}] {
		if st.unseen[k] {
			delete(st.unseen, k)
			changed = st.c.known.remove(k.app, k.id) || changed
		}
	}
	return changed
}

// changed tells the cache and watchers, in this order: what somebody saw is on disk when Run has ended.
func (c *Client) changed() {
	c.notify(c.unsave)
	c.notify(c.news)
}

// event is one server-sent event.
type event struct {
	id, name string
	data     []byte
}

// eventReader takes a stream apart, as the HTML standard's §9.2.6 says.
type eventReader struct {
	r     *bufio.Reader
	alive func() // called for each line, so also for comments
}

func (in *eventReader) next() (event, error) {
	var ev event
	size := 0
	some := false
	for {
		line, err := in.line(&size)
		if err != nil {
			return event{}, err
		}
		in.alive()
		if len(line) == 0 {
			if some || ev.id != "" {
				return ev, nil
			}
			ev, size = event{}, 0
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "id":
			ev.id = string(value)
		case "event":
			ev.name = string(value)
		case "data":
			if some {
				ev.data = append(ev.data, '\n')
			}
			ev.data = append(ev.data, value...)
			some = true
		}
	}
}

// line reads to the next line feed; size counts the event's bytes.
func (in *eventReader) line(size *int) ([]byte, error) {
	var long []byte
	for {
		part, err := in.r.ReadSlice('\n')
		if *size += len(part); *size > eventLimit {
			return nil, fmt.Errorf("an event has more than %d bytes", eventLimit)
		}
		switch {
		case err == nil:
			if long != nil {
				part = append(long, part...)
			}
			return bytes.TrimRight(part, "\r\n"), nil
		case errors.Is(err, bufio.ErrBufferFull):
			in.alive()
			long = append(long, part...)
		case err == io.EOF:
			return nil, fmt.Errorf("the registry ended the stream: %w", io.ErrUnexpectedEOF)
		default:
			return nil, err
		}
	}
}
