package shed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// queue lets so many requests of a route go on at once, each until its app has sent all of the answer, and has a few more wait. Who came last goes first: under overload some
// are answered in time, where in the order of their coming none would be. Source: Facebook's adaptive LIFO (Maurer, "Fail at
// Scale", ACM Queue 13/8).
type queue struct {
	most, depth int
	wait        time.Duration
	meter       *meter.Registry

	mu      sync.Mutex
	busy    int      // that were let on; guarded by mu
	waiting []*place // the oldest first; guarded by mu
}

// place is a request that waits.
type place struct{ over chan error } // has room for one: nil is to go on

const (
	queueKey   = "shed.queue"
	mostQueued = 100_000
)

var (
	errFull = &filter.Error{Status: http.StatusServiceUnavailable, Category: filter.FailureShed, Reason: "too many requests wait for this route, and newer ones go first", RetryAfter: time.Second}
	errLate = &filter.Error{Status: http.StatusServiceUnavailable, Category: filter.FailureShed, Reason: "too many requests are on this route; no place was free in time", RetryAfter: time.Second}
)

// RouteQueue makes the filters of a route's queue, from {"concurrency": 50, "depth": 100, "wait": "500ms"}.
func (s *Shed) RouteQueue(with json.RawMessage) ([]*filter.Filter, error) {
	doc := struct {
		Concurrency int    `json:"concurrency"`
		Depth       int    `json:"depth"`
		Wait        string `json:"wait"`
	}{Wait: "500ms"}
	d := json.NewDecoder(bytes.NewReader(with))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf(`write {"concurrency": 50, "depth": 100, "wait": "500ms"}: %w`, err)
	}
	wait, err := config.ParseDuration(doc.Wait)
	if err = errors.Join(err, config.Between("concurrency", doc.Concurrency, 1, mostQueued), config.Between("depth", doc.Depth, 0, mostQueued),
		config.Between("wait", wait, time.Millisecond, time.Minute)); err != nil {
		return nil, err
	}
	q := &queue{most: doc.Concurrency, depth: doc.Depth, wait: wait, meter: s.meter}
	return []*filter.Filter{{Name: "RouteQueue", Kind: filter.Inbound, Quick: true, Apply: func(x *filter.Exchange) error {
		x.Set(queueKey, q) // it waits once its body is at hand
		return nil
	}}}, nil
}

// queued has a request wait in the queue of its route.
func queued(x *filter.Exchange) error {
	q := x.Value(queueKey).(*queue)
	err := q.enter(x)
	if err == nil {
		x.OnServed(q.leave)
		return nil
	}
	return err
}

// enter waits for a place.
func (q *queue) enter(x *filter.Exchange) error {
	q.mu.Lock()
	if q.busy < q.most {
		q.busy++
		q.mu.Unlock()
		return nil
	}
	p := &place{make(chan error, 1)}
	q.waiting = append(q.waiting, p)
	if len(q.waiting) > q.depth {
		q.waiting[0].over <- errFull
		q.waiting = slices.Delete(q.waiting, 0, 1)
	}
	q.mu.Unlock()
	wait := q.wait
	if left, ok := x.Left(); ok {
		wait = min(wait, left)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	var err error
	select {
	case err = <-p.over:
	case <-t.C:
		err = q.give(p, errLate)
	case <-x.Context().Done():
		err = q.give(p, x.Context().Err())
	}
	result := "waited"
	switch err {
	case nil:
	case errFull:
		result = "full"
	case errLate:
		result = "late"
	default:
		result = "gone"
	}
	q.meter.Counter("edge.queue", "edge.route", x.Plan.Route, "result", result).Inc()
	return err
}

// give takes p out of the queue, for the reason why, unless it was decided about just now.
func (q *queue) give(p *place, why error) error {
	q.mu.Lock()
	i := slices.Index(q.waiting, p)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 {
		return <-p.over
	}
	return why
}

// leave hands the place on to who came last.
func (q *queue) leave(*filter.Exchange) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.waiting)
	if n == 0 {
		q.busy--
		return
	}
	q.waiting[n-1].over <- nil
	q.waiting[n-1] = nil
	q.waiting = q.waiting[:n-1]
}
