package registry

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The stream of GET /registry/v1/watch. Its events:
//
//	snapshot  {"version":7,"warming":false,"instances":[...]}  everything; first, and whenever the client cannot be
//	                                                           brought up to date otherwise
//	resume    {"version":7,"warming":false}                    instead of the first snapshot: what follows is what the
//	                                                           client missed since its Last-Event-ID
//	put       {"instance":{...}}                               an instance came or changed
//	remove    {"app":"catalog","id":"catalog-v000-1"}          an instance is gone
//	hash      {"hash":"UP_3_","warming":false}                 what the client should count by now
//
// While warming is true, instances missing from a snapshot may merely not have come back yet.
const (
	beatEvery   = 10 * time.Second
	hashEvery   = 15 * time.Second
	watcherWait = 30 * time.Second // to take what is written to it
)

func newIncarnation() string { return rand.Text()[:8] }

// interest is which applications and VIPs a watcher wants; none means all.
type interest struct{ apps, vips map[string]bool }

func (in interest) all() bool { return len(in.apps) == 0 && len(in.vips) == 0 }

func (in interest) wants(r *record) bool {
	if in.all() || in.apps[r.app] {
		return true
	}
	if len(in.vips) > 0 {
		for v := range strings.SplitSeq(r.vip, ",") {
			if in.vips[strings.TrimSpace(v)] {
				return true
			}
		}
	}
	return false
}

func interestOf(r *http.Request) interest {
	set := func(list string) map[string]bool {
		m := make(map[string]bool)
		for s := range strings.SplitSeq(list, ",") {
			if s = strings.TrimSpace(s); s != "" {
				m[s] = true
			}
		}
		return m
	}
	q := r.URL.Query()
	return interest{set(upper(q.Get("apps"))), set(q.Get("vips"))}
}

// watch streams changes until the client leaves or the registry stops. It holds no queue: what a client has not read
// yet is in the change log, the newest change of each instance only.
func (h *eureka) watch(w http.ResponseWriter, r *http.Request) {
	out := stream{rc: http.NewResponseController(w), w: w, incarnation: h.incarnation}
	in := interestOf(r)
	hd := w.Header()
	hd.Set("Content-Type", "text/event-stream")
	hd.Set("Cache-Control", "no-store")
	hd.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	if err := out.rc.Flush(); err != nil {
		h.log.Error("a watcher cannot be served: something between wraps the connection without flushing", "err", err)
		return
	}

	cursor, resumed := out.position(r)
	resuming := resumed
	warm := true // whether the client was told that the registry is warming up
	beat, hash := time.NewTicker(beatEvery), time.NewTicker(hashEvery)
	defer beat.Stop()
	defer hash.Stop()
	hashDue := false
	for {
		h.s.mu.RLock()
		wake, warming, code := h.s.wake, h.s.warming, h.s.byStatus
		version := h.s.log.version
		missed, known := h.s.log.since(cursor)
		h.s.mu.RUnlock()

		switch {
		case !resumed || !known || cursor > version || warm && !warming && !resuming:
			sn := h.s.current(h.c.Location.Region)
			out.snapshot(sn, in)
			cursor, resumed, warm = sn.version, true, sn.warming
			resuming = false
			if sn.version < version {
				continue // the snapshot is a tick old; the rest is in the log
			}
		default:
			if resuming {
				resuming, warm = false, warming
				out.event("resume", version, []byte(`{"version":`+strconv.FormatUint(version, 10)+`,"warming":`+strconv.FormatBool(warming)+`}`))
			}
			for _, c := range missed {
				if in.wants(c.rec) {
					out.change(c, h.c.Location.Region)
				}
			}
			cursor = version
			if hashDue && in.all() {
				out.event("hash", version, []byte(`{"hash":"`+hashCode(code)+`","warming":`+strconv.FormatBool(warming)+`}`))
			}
			hashDue = false
		}
		if !out.flush() {
			return
		}
		select {
		case <-wake:
		case <-hash.C:
			hashDue = true
		case <-beat.C:
			out.buf = append(out.buf, ": beat\n\n"...)
		case <-r.Context().Done():
			return
		case <-h.stop:
			return
		}
	}
}

// stream gathers events and writes them.
type stream struct {
	rc          *http.ResponseController
	w           http.ResponseWriter
	incarnation string
	buf         []byte
}

// position reads where the client's last stream ended. Ids of another incarnation say nothing about this one's log.
func (st *stream) position(r *http.Request) (version uint64, ok bool) {
	id := r.Header.Get("Last-Event-ID")
	if id == "" {
		id = r.URL.Query().Get("since")
	}
	inc, v, found := strings.Cut(id, "-")
	version, err := strconv.ParseUint(v, 10, 64)
	return version, found && inc == st.incarnation && err == nil
}

func (st *stream) event(name string, version uint64, data ...[]byte) {
	st.buf = append(append(st.buf, "id: "...), st.incarnation...)
	st.buf = strconv.AppendUint(append(st.buf, '-'), version, 10)
	st.buf = append(append(st.buf, "\nevent: "...), name...)
	st.buf = append(st.buf, "\ndata: "...)
	for _, d := range data {
		st.buf = append(st.buf, d...)
	}
	st.buf = append(st.buf, "\n\n"...)
}

func (st *stream) snapshot(sn *snapshot, in interest) {
	head := `{"version":` + strconv.FormatUint(sn.version, 10) + `,"warming":` + strconv.FormatBool(sn.warming) + `,"instances":[`
	parts := [][]byte{[]byte(head)}
	add := func(b []byte) {
		if len(parts) > 1 {
			parts = append(parts, comma)
		}
		parts = append(parts, b)
	}
	for _, v := range sn.views {
		if in.all() || in.apps[v.name] {
			add(v.block(native))
			continue
		}
		for _, x := range v.recs {
			if in.wants(x.rec) {
				add(x.rec.appendNative(nil, v.region))
			}
		}
	}
	st.event("snapshot", sn.version, append(parts, []byte(`]}`))...)
}

func (st *stream) change(c *change, region string) {
	name := "put"
	if c.rec.action == deleted {
		name = "remove"
	}
	c.once.Do(func() {
		if c.rec.action == deleted {
			raw, err := json.Marshal(struct {
				App string `json:"app"`
				ID  string `json:"id"`
			}{strings.ToLower(c.rec.app), c.rec.id})
			if err != nil {
				panic("registry: two strings cannot be written as JSON: " + err.Error())
			}
			c.event = raw
			return
		}
		c.event = append(c.rec.appendNative([]byte(`{"instance":`), region), '}')
	})
	st.event(name, c.version, c.event)
}

// flush writes what was gathered; false means that the client is gone or does not read.
func (st *stream) flush() bool {
	if len(st.buf) == 0 {
		return true
	}
	if err := st.rc.SetWriteDeadline(time.Now().Add(watcherWait)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return false
	}
	if _, err := st.w.Write(st.buf); err != nil {
		return false
	}
	if cap(st.buf) > 1<<16 {
		st.buf = nil // a snapshot; the next events are small
	}
	st.buf = st.buf[:0]
	return st.rc.Flush() == nil
}
