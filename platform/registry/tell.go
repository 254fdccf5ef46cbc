package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

// How peers that speak Eureka's protocol are told what happened: in batches, POST peerreplication/batch/.

const (
	batchItems    = 250                    // Eureka's own
	batchFlush    = 100 * time.Millisecond // how long news may wait for more
	defaultExpiry = 30 * time.Second       // Eureka's own
	busyRetry     = time.Second            // after a peer said that it is overloaded, or did not answer in time
	firstRetry    = 100 * time.Millisecond // after a peer could not be reached; doubles
	longestRetry  = 5 * time.Second
	answerLimit   = 16 << 20 // bytes of the answer to a batch
	drainedWithin = time.Second
)

// tellLane sends what is put into a lane until ctx ends, one batch at a time.
func (p *peer) tellLane(ctx context.Context, l *lane) {
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.ready:
		}
		since, ok := l.oldest()
		if !ok {
			continue
		}
		if !pause(ctx, batchFlush-time.Duration(p.s.now()-since)) {
			return
		}
		switch err := p.tellSome(ctx, l); {
		case err == nil:
			failures = 0
		case errors.Is(err, errBusy):
			pause(ctx, busyRetry)
		default:
			pause(ctx, backoff(failures))
			failures++
		}
	}
}

// pause waits for d and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// backoff is how long to wait after so many failures in a row, with jitter so that a peer that returns is not met by
// all others at once.
func backoff(failures int) time.Duration {
	d := min(firstRetry<<min(failures, 16), longestRetry)
	return d/2 + rand.N(d/2+1)
}

var errBusy = errors.New("it is overloaded")

// tellSome sends one batch of what waits in l. After an error it waits there again.
func (p *peer) tellSome(ctx context.Context, l *lane) error {
	news := l.take(batchItems)
	b := batch{now: p.s.now(), body: []byte(`{"replicationList":[`)}
	told := 0
	for ; told < len(news) && len(b.items) < batchItems; told++ {
		p.s.appendNews(&b, news[told], p.expires)
	}
	l.back(news[told:])
	news = news[:told]
	if len(b.items) == 0 {
		return nil
	}
	l.sending(news)
	defer l.sending(nil)
	answers, err := p.postBatch(ctx, append(b.body, "]}"...))
	var refused refusal
	switch {
	case errors.As(err, &refused):
		p.failed(err)
		return nil // sending the same again would not help
	case err != nil:
		p.failed(err)
		l.back(news)
		return err
	}
	p.worked()
	if len(answers) == len(b.items) {
		for i, a := range answers {
			p.s.heed(l, b.items[i], a)
		}
	}
	return nil
}

// batch is a batch that is being written.
type batch struct {
	now   int64
	body  []byte
	items []told
}

// told is one operation of a batch.
type told struct {
	key
	action string
}

// add begins an operation and leaves its object open.
func (b *batch) add(k key, action string, dirty int64) {
	if len(b.items) > 0 {
		b.body = append(b.body, ',')
	}
	b.items = append(b.items, told{k, action})
	b.body = jsonMember(append(b.body, '{'), "appName", k.app)
	b.body = jsonMember(append(b.body, ','), "id", k.id)
	if dirty != 0 {
		b.body = strconv.AppendInt(append(b.body, `,"lastDirtyTimestamp":`...), dirty, 10)
	}
}

func (b *batch) end(st, overridden string) {
	if overridden != "" {
		b.body = jsonMember(append(b.body, ','), "overriddenStatus", overridden)
	}
	if st != "" {
		b.body = jsonMember(append(b.body, ','), "status", st)
	}
	b.body = append(jsonMember(append(b.body, ','), "action", b.items[len(b.items)-1].action), '}')
}

// appendNews writes what the peer must hear of n, as things are now, unless it is so old that the peer has found it out.
func (s *state) appendNews(b *batch, n noted, expires time.Duration) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	age := time.Duration(b.now - n.last)
	e := s.find(n.key)
	if e == nil {
		if n.ended && age <= expires { // else it was evicted, which peers find out for themselves
			b.add(n.key, cancelItem, n.dirty) // which Eureka's servers do not heed
			b.end("", "")
		}
		return
	}
	r := e.rec
	fresh := age <= time.Duration(r.renewal)*time.Second
	if age > expires && !fresh {
		return
	}
	switch {
	case n.decided == overrode && n.registered:
		// Whatever the peer holds, it holds the override afterwards. One that comes to the same status is none to it.
		b.add(n.key, clearItem, r.dirty)
		b.end(unknown.String(), "")
		fallthrough
	case n.decided == overrode: // which renews the lease too
		b.add(n.key, statusItem, r.dirty)
		b.end(n.status.String(), "")
	case n.decided == cleared:
		b.add(n.key, clearItem, r.dirty)
		b.end(n.status.String(), "")
	}
	switch {
	case n.registered:
		b.add(n.key, registerItem, r.dirty)
		b.body = r.appendJSON(append(b.body, `,"instanceInfo":`...), times{renewed: s.wall(e.lease.renewed.Load(), b.now)}, false)
		b.end(r.status.String(), "")
	case n.renewed && n.decided == undecided && fresh:
		overridden := ""
		if ov, ok := s.overrides[n.key]; ok {
			overridden = ov.status.String()
		}
		b.add(n.key, heartbeatItem, r.dirty)
		b.end(r.status.String(), overridden)
	}
}

// wall converts a time of the lease clock, which says now, to ms since 1970.
func (s *state) wall(t, now int64) int64 {
	return time.Now().UnixMilli() - (now-t)/int64(time.Millisecond)
}

// itemAnswer is what a peer says to one operation.
type itemAnswer struct {
	StatusCode     int             `json:"statusCode"`
	ResponseEntity json.RawMessage `json:"responseEntity"`
}

// heed draws the consequences of what a peer says to an operation.
func (s *state) heed(l *lane, t told, a itemAnswer) {
	if t.action != heartbeatItem {
		return
	}
	now := s.now()
	switch {
	case a.StatusCode == http.StatusNotFound:
		l.put(t.key, slot{since: now, last: now, registered: true})
	case len(a.ResponseEntity) > 0 && string(a.ResponseEntity) != "null":
		// The peer heard from the instance later than we did.
		r, err := decodeJSON(a.ResponseEntity)
		if err != nil || r.invalid(t.app, false) != "" {
			return
		}
		if r.override != unknown {
			s.adopt(t.key, r.override)
		}
		s.register(r, origin{replicated: true})
	}
}

// refusal is an answer that repeating the request would not change.
type refusal struct{ status int }

func (e refusal) Error() string {
	switch e.status {
	case http.StatusUnauthorized:
		return fmt.Sprintf("it answers %d; put the user and password it asks for into its URL, as in http://user:password@host/eureka/", e.status)
	case http.StatusNotFound:
		return "it answers 404; its URL must lead to a Eureka server, as http://host:8761/eureka/ does"
	}
	return fmt.Sprintf("it answers %d", e.status)
}

// postBatch sends a batch and returns the answers to its items.
func (p *peer) postBatch(ctx context.Context, body []byte) ([]itemAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, p.answerWithin)
	defer cancel()
	req, err := p.request(ctx, http.MethodPost, "peerreplication/batch/", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		var timeout net.Error
		if op := (*net.OpError)(nil); errors.As(err, &timeout) && timeout.Timeout() && (!errors.As(err, &op) || op.Op != "dial") {
			err = fmt.Errorf("%w: no answer within %v", errBusy, p.answerWithin)
		}
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	switch {
	case resp.StatusCode == http.StatusServiceUnavailable:
		return nil, errBusy
	case resp.StatusCode/100 != 2:
		return nil, refusal{resp.StatusCode}
	case err != nil:
		return nil, err
	}
	var list struct {
		ResponseList []itemAnswer `json:"responseList"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, nil //nolint:nilerr // it took the batch; what it says of the items cannot be read
	}
	return list.ResponseList, nil
}
