package registry

import (
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Eureka's peers tell what their clients told them in batches, POST peerreplication/batch/. Each operation of one has
// its own answer; the order of both lists is the same.

const (
	// Peers wait 200 ms for an answer by default, and send a batch again that was not answered in time. So a registry
	// that has too much to do says so soon.
	batchesPerCPU = 4
	batchWait     = 25 * time.Millisecond
)

// throttle lets few in at a time.
type throttle chan struct{}

func newThrottle() throttle { return make(throttle, batchesPerCPU*runtime.GOMAXPROCS(0)) }

// enter reports whether there is room for one more within wait; who is in must leave.
func (t throttle) enter(within time.Duration) bool {
	select {
	case t <- struct{}{}:
		return true
	default:
	}
	wait := time.NewTimer(within)
	defer wait.Stop()
	select {
	case t <- struct{}{}:
		return true
	case <-wait.C:
		return false
	}
}

func (t throttle) leave() { <-t }

func (h *eureka) batch(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	body, status, err := readBody(w, r, batchLimit)
	if err != nil {
		h.log.Debug("a batch of a peer cannot be read", "from", r.RemoteAddr, "err", err)
		w.WriteHeader(status)
		return
	}
	if !h.batches.enter(batchWait) {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer h.batches.leave()
	items, err := scanBatch(body, make([]batchItem, 0, 256))
	if err != nil {
		h.log.Debug("a batch of a peer cannot be read", "from", r.RemoteAddr, "err", err)
		answer(w, r, http.StatusBadRequest, "application/json", []byte(`{"error": "cannot parse request body"}`))
		return
	}
	out := make([]byte, 0, 32+20*len(items))
	out = append(out, `{"responseList":[`...)
	for i := range items {
		if i > 0 {
			out = append(out, ',')
		}
		out = h.appendResult(out, &items[i])
	}
	out = append(out, "]}"...)
	answer(w, r, http.StatusOK, "application/json", out)
	h.c.Meter.PercentileTimer("registry.peer.batch").Record(time.Since(start))
}

// appendResult does what it asks for and appends the answer.
func (h *eureka) appendResult(b []byte, it *batchItem) []byte {
	status, entity := h.apply(it)
	b = strconv.AppendInt(append(b, `{"statusCode":`...), int64(status), 10)
	if entity != nil {
		b = append(b, `,"responseEntity":`...)
		b = entity.appendJSON(b, times{renewed: entity.updated, self: entity.id == h.c.Self}, false)
	}
	return append(b, '}')
}

// apply does what a peer asks for. The record is what the peer should know instead of what it told.
//
// hot path for heartbeats: 0 allocs, BenchmarkBatchOfHeartbeats
func (h *eureka) apply(it *batchItem) (status int, newer *record) {
	peer := origin{replicated: true}
	k := key{upper(it.app), it.id}
	switch it.action {
	case heartbeatItem:
		claimed := unknown
		if it.overridden != "" {
			claimed, _ = parseStatus(it.overridden)
		}
		res, rec := h.s.renew(k, peer, it.dirty, claimed)
		if res == conflicted {
			return http.StatusConflict, rec
		}
		return res.code(), nil
	case registerItem:
		if it.info == "" {
			return http.StatusInternalServerError, nil
		}
		rec, err := readJSON(it.info)
		if err == nil && rec.invalid(k.app, h.c.Settings.StrictIDs) == "" {
			h.s.register(rec, peer)
		}
		return http.StatusOK, nil // whatever became of it, as Eureka answers
	}
	// What follows may be kept, and must not keep the whole body.
	k.app, k.id = strings.Clone(k.app), strings.Clone(k.id)
	switch it.action {
	case cancelItem:
		return h.s.endedElsewhere(k, it.dirty).code(), nil
	case statusItem:
		if st, ok := parseStatus(it.status); ok {
			return h.s.setOverride(k, st, it.dirty, peer).code(), nil
		}
	case clearItem:
		then, ok := parseStatus(it.status)
		if ok || it.status == "" {
			return h.s.clearOverride(k, then, false, it.dirty, peer).code(), nil
		}
	}
	return http.StatusInternalServerError, nil
}

// code is the HTTP status of an operation without a body.
func (res result) code() int {
	if res == notFound {
		return http.StatusNotFound
	}
	return http.StatusOK
}
