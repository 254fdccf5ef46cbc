package registry

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// For clients that know of this platform, beside the stream:
//
//	GET  /registry/v1/apps/{app}?index=V&wait=30s   {"version":V,"instances":[...]}, in the platform's words, once the
//	                                                app has changed since V or the wait is over; at once without index
//	POST /registry/v1/instances                     a list of instances, each as Eureka's clients register it;
//	                                                {"results":[{"status":204},{"status":400,"error":"..."}]} in order
//	PUT  /registry/v1/renew                         a list of {"app":"A","id":"i","dirty":1}, dirty being the version of
//	                                                the record if the client has one; {"renewed":2,"register":[1]} names
//	                                                by their place those that must be registered again

const (
	versionHeader = "X-Registry-Version"
	defaultWait   = 30 * time.Second
	longestWait   = 10 * time.Minute
)

// waitApp answers a long poll.
func (h *eureka) waitApp(w http.ResponseWriter, r *http.Request, t target) {
	if !h.peers.isOpen() {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	q := r.URL.Query()
	index, wait := uint64(0), time.Duration(0)
	if s := q.Get("index"); s != "" {
		var err error
		if index, err = strconv.ParseUint(s, 10, 64); err != nil {
			answerText(w, r, "index is the version of an earlier answer, a whole number")
			return
		}
		wait = defaultWait
	}
	if s := q.Get("wait"); s != "" && wait > 0 {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 || d > longestWait {
			answerText(w, r, fmt.Sprintf("wait is a time such as 30s, at most %v", longestWait))
			return
		}
		wait = d
	}
	if wait > 0 {
		if !h.awaitApp(r.Context(), t.app, index, wait) {
			return
		}
	}
	version, body := h.s.appNow(t.app, h.c.Location.Region)
	w.Header().Set(versionHeader, strconv.FormatUint(version, 10))
	answer(w, r, http.StatusOK, "application/json", body)
}

// awaitApp waits until an app has changed after a version, at most for d. It reports false if the client is gone.
func (h *eureka) awaitApp(ctx context.Context, app string, version uint64, d time.Duration) bool {
	me := newWatcher(rand.Text(), interest{apps: map[string]bool{app: true}})
	h.hub.join(me)
	defer h.hub.leave(me)
	over := time.NewTimer(d)
	defer over.Stop()
	for !h.s.changedSince(app, version) {
		select {
		case <-me.wake:
			me.take(h.hub)
		case <-over.C:
			return true
		case <-h.stop:
			return true
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// changedSince reports whether an app changed after a version, as far as that is known.
func (s *state) changedSince(app string, version uint64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	cs, known := s.log.since(version)
	if !known || version > s.log.version {
		return true
	}
	for c := range cs.all() {
		if c.rec.app == app {
			return true
		}
	}
	return false
}

// appNow renders an app as it is at this moment, with the version it is of.
func (s *state) appNow(name, region string) (uint64, []byte) {
	s.mu.RLock()
	version := s.log.version
	var recs []*record
	if a := s.apps[name]; a != nil {
		for _, e := range a.order {
			recs = append(recs, e.rec)
		}
	}
	s.mu.RUnlock()
	b := append(strconv.AppendUint([]byte(`{"version":`), version, 10), `,"instances":[`...)
	for i, r := range recs {
		if i > 0 {
			b = append(b, ',')
		}
		b = r.appendNative(b, region)
	}
	return version, append(b, "]}"...)
}

// registerMany registers a list of instances.
func (h *eureka) registerMany(w http.ResponseWriter, r *http.Request) {
	body, status, err := readBody(w, r, batchLimit)
	if err != nil {
		answerWhy(w, r, status, err)
		return
	}
	list, err := readList([]byte(body))
	if err != nil {
		answerWhy(w, r, http.StatusBadRequest, err)
		return
	}
	type result struct {
		Status int    `json:"status"`
		Error  string `json:"error,omitempty"`
	}
	out := struct {
		Results []result `json:"results"`
	}{make([]result, len(list))}
	o := originOf(r)
	o.native = true
	for i, raw := range list {
		why := "an instance may have " + strconv.Itoa(bodyLimit) + " bytes"
		if len(raw) <= bodyLimit {
			why = h.registerOne(raw, o)
		}
		out.Results[i] = result{http.StatusNoContent, ""}
		if why != "" {
			out.Results[i] = result{http.StatusBadRequest, why}
		}
	}
	answerJSON(w, r, out)
}

// registerOne registers an instance, or says why not.
func (h *eureka) registerOne(raw json.RawMessage, o origin) string {
	rec, err := decodeJSON(raw)
	if err != nil {
		return err.Error()
	}
	if why := rec.invalid(rec.app, h.c.Settings.StrictIDs); why != "" {
		return why
	}
	h.s.register(rec, o)
	return ""
}

// renewMany renews a list of leases.
func (h *eureka) renewMany(w http.ResponseWriter, r *http.Request) {
	body, status, err := readBody(w, r, batchLimit)
	if err != nil {
		answerWhy(w, r, status, err)
		return
	}
	items, err := scanRenewals(body, make([]batchItem, 0, 256))
	if err != nil {
		answerWhy(w, r, http.StatusBadRequest, err)
		return
	}
	out := struct {
		Renewed  int   `json:"renewed"`
		Register []int `json:"register"`
	}{Register: []int{}}
	out.Register = h.renewAll(items, originOf(r), out.Register)
	out.Renewed = len(items) - len(out.Register)
	answerJSON(w, r, out)
}

// renewAll renews the leases of items and appends the places of those that nobody knows to missed.
//
// hot path: 0 allocs, BenchmarkRenewMany
func (h *eureka) renewAll(items []batchItem, o origin, missed []int) []int {
	o.native = true
	for i := range items {
		it := &items[i]
		if res, _ := h.s.renew(key{upper(it.app), it.id}, o, it.dirty, unknown); res == notFound {
			missed = append(missed, i)
		}
	}
	return missed
}

// answerWhy refuses a request with the reason.
func answerWhy(w http.ResponseWriter, r *http.Request, status int, err error) {
	answer(w, r, status, "text/plain", []byte(strings.TrimPrefix(err.Error(), "read JSON: ")))
}

func answerJSON(w http.ResponseWriter, r *http.Request, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	answer(w, r, http.StatusOK, "application/json", b)
}
