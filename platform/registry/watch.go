package registry

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The stream of GET /registry/v1/watch. Its events:
//
//	snapshot  {"version":7,"warming":false,"instances":[...]}  everything; first, and whenever the client cannot be
//	                                                           brought up to date otherwise
//	resume    {"version":7,"warming":false}                    instead of the first snapshot: what follows is what the
//	                                                           client missed since its Last-Event-ID
//	put       {"instance":{...}}                               an instance came or changed
//	remove    {"app":"catalog","id":"catalog-v000-1"}          an instance is gone, or no longer of those asked for
//	hash      {"hash":"UP_3_","warming":false}                 what the client should count by now, every 15 seconds; not
//	                                                           for those who ask by VIP
//	reset     {}                                               the client read so slowly that it missed more than is worth
//	                                                           telling; a snapshot follows
//
// A comment every 10 seconds is a sign of life, with the id up to which the client knows everything. ?apps= and ?vips=
// are comma lists of what is asked for; none means everything. Where to resume is said by the header Last-Event-ID or
// by ?since=.
//
// While warming is true, instances missing from a snapshot may merely not have come back yet.
//
// The answer has a header X-Registry-Stream. An instance that is registered with the same header is as alive as the
// stream: when it breaks, the registry tries to connect to the instance, and takes it out of traffic if it is refused.
const (
	streamHeader = "X-Registry-Stream"

	watcherWait = 30 * time.Second // to take what is written to it
	backlogMost = 8 << 20          // bytes of events that a slow client gets; if it missed more it begins anew
	writeMost   = 256 << 10        // bytes of events that are put together for one client at a time
)

func newIncarnation() string { return rand.Text()[:8] }

// interest is which applications and VIPs a watcher wants; none means all.
type interest struct{ apps, vips map[string]bool }

func (in interest) all() bool { return len(in.apps) == 0 && len(in.vips) == 0 }

func (in interest) wants(r *record) bool {
	return in.all() || in.apps[r.app] || in.wantsVIP(r.vip)
}

func (in interest) wantsVIP(list string) bool {
	if len(in.vips) > 0 {
		for v := range strings.SplitSeq(list, ",") {
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
	me := newWatcher(rand.Text(), interestOf(r))
	hd := w.Header()
	hd.Set("Content-Type", "text/event-stream")
	hd.Set("Cache-Control", "no-store")
	hd.Set("X-Accel-Buffering", "no")
	hd.Set(streamHeader, me.name)
	version, resumed := h.position(r)
	if r.ProtoMajor == 1 && h.watchLine(w, r, me, version, resumed) {
		return
	}

	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	if err := rc.Flush(); err != nil {
		h.log.Error("a watcher cannot be served: something between wraps the connection without flushing", "err", err)
		return
	}
	out := stream{hub: h.hub, in: me.in, out: func(b []byte) bool {
		if err := rc.SetWriteDeadline(time.Now().Add(watcherWait)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return false
		}
		_, err := w.Write(b)
		return err == nil && rc.Flush() == nil
	}}
	h.hub.join(me) // before the first look, so that nothing falls between
	defer func() { h.broke(h.hub.leave(me)) }()
	if !out.begin(version, resumed) {
		return
	}
	for {
		select {
		case <-me.wake:
			if !out.advance(me.take(h.hub)) {
				return
			}
		case <-r.Context().Done():
			return
		case <-h.stop:
			return
		}
	}
}

// broke is told which instances were alive because of a stream that broke.
func (h *eureka) broke(ks []key) {
	select {
	case <-h.stop:
		return // it is we who end
	default:
	}
	h.s.mu.RLock()
	defer h.s.mu.RUnlock()
	for _, k := range ks {
		if e := h.s.find(k); e != nil {
			select {
			case h.s.broken <- e:
			default: // too many at once; their leases run out
			}
		}
	}
}

// position reads where the client's last stream ended. Ids of another incarnation say nothing about this one's log.
func (h *eureka) position(r *http.Request) (version uint64, ok bool) {
	id := r.Header.Get("Last-Event-ID")
	if id == "" {
		id = r.URL.Query().Get("since")
	}
	inc, v, found := strings.Cut(id, "-")
	version, err := strconv.ParseUint(v, 10, 64)
	return version, found && inc == h.incarnation && err == nil
}

// stream writes what one watcher does not know yet.
type stream struct {
	hub *hub
	in  interest
	out func([]byte) bool // brings bytes to the client; false means that it is gone or does not read

	cursor   uint64 // everything up to this version was written
	warm     bool   // the client was told that the registry is warming up
	more     bool   // there is more to write than was prepared
	overflow bool   // it missed more than is worth telling
}

// begin writes what is missing at first. Like all that writes it reports false if the client is gone.
func (st *stream) begin(version uint64, resumed bool) bool {
	s := st.hub.s
	s.mu.RLock()
	warming, now := s.warming, s.log.version
	missed, known := s.log.since(version)
	s.mu.RUnlock()
	if !resumed || !known || version > now {
		return st.anew()
	}
	st.cursor, st.warm = now, warming
	b := getBuffer()
	defer putBuffer(b)
	*b = appendEvent(*b, st.hub.incarnation, now, "resume")
	*b = appendState(*b, now, warming)
	*b = append(*b, "}\n\n"...)
	if !st.gather(b, missed) {
		return st.anew()
	}
	return st.write(*b) && (!st.more || st.advance(todo{news: true, from: st.cursor}, 0))
}

// advance does what the watcher was roused for. Whatever concerns it and is not newer than upTo is part of that.
func (st *stream) advance(t todo, upTo uint64) bool {
	b := getBuffer()
	defer putBuffer(b)
	for {
		shared, ok := st.prepare(b, t, upTo)
		if !ok {
			return st.anew()
		}
		if !st.write(shared) || !st.write(*b) {
			return false
		}
		if !st.more {
			return true
		}
		t, *b = todo{news: true}, (*b)[:0]
	}
}

// prepare returns and appends what is to be written to advance, part of it if that is much. It reports false if the
// client must begin anew.
func (st *stream) prepare(b *[]byte, t todo, upTo uint64) (shared []byte, ok bool) {
	st.more = false
	st.cursor = max(st.cursor, t.from)
	if !t.news {
		st.cursor = max(st.cursor, upTo)
	}
	s := st.hub.s
	s.mu.RLock()
	warming, version := s.warming, s.log.version
	rd := st.hub.last.Load()
	quick := rd != nil && !rd.large && rd.from == st.cursor && rd.to == version && len(st.in.vips) == 0 && len(st.in.apps) <= 1
	var missed changes
	known, hash := true, ""
	if (t.news || t.hash) && !quick {
		missed, known = s.log.since(st.cursor)
	}
	if t.hash {
		hash = s.hashOf(st.in)
	}
	s.mu.RUnlock()
	st.overflow = !known
	if !known || st.warm && !warming { // when it is warm, what is not in a snapshot is gone
		return nil, false
	}
	if t.news || t.hash {
		st.cursor = version
		switch {
		case !quick:
			if !st.gather(b, missed) {
				return nil, false
			}
		case st.in.all():
			shared = rd.events
		default:
			for app := range st.in.apps {
				shared = rd.byApp[app]
			}
		}
	}
	if t.hash && !st.more && len(st.in.vips) == 0 {
		*b = appendEvent(*b, st.hub.incarnation, st.cursor, "hash")
		*b = append(append(*b, `{"hash":"`...), hash...)
		*b = append(strconv.AppendBool(append(*b, `","warming":`...), warming), "}\n\n"...)
	}
	if t.beat {
		*b = append(appendID(*b, st.hub.incarnation, st.cursor), ": beat\n\n"...)
	}
	return shared, true
}

// anew writes everything, and before it that something was missed if that is so.
func (st *stream) anew() bool {
	if !st.overflow {
		return st.snapshot(nil)
	}
	st.overflow = false
	reset := appendEvent(nil, st.hub.incarnation, st.cursor, "reset")
	return st.snapshot(append(reset, "{}\n\n"...))
}

// hashOf is what a client should count that is told of what in wants. The caller holds mu.
func (s *state) hashOf(in interest) string {
	if in.all() {
		return hashCode(s.byStatus)
	}
	var n [statuses]int
	for name := range in.apps {
		if a := s.apps[name]; a != nil {
			for _, e := range a.order {
				n[e.rec.status]++
			}
		}
	}
	return hashCode(n)
}

// gather appends the events of those of cs that the client wants, the first of them if they are many. It reports false
// if they are too many.
func (st *stream) gather(b *[]byte, cs changes) bool {
	size := 0
	left := 0
	for c := range cs.all() {
		left++
		if st.in.wants(c.rec) {
			size += len(c.asEvent(st.hub))
		}
	}
	if size > backlogMost {
		st.overflow = true
		return false
	}
	for c := range cs.all() {
		left--
		switch {
		case st.in.wants(c.rec):
			*b = c.appendEvent(*b, st.hub)
		case st.in.wantsVIP(c.vips()):
			*b = append(appendRemoval(*b, st.hub.incarnation, c), "\n\n"...)
		}
		if len(*b) > writeMost && left > 0 {
			st.cursor, st.more = c.version, true
			break
		}
	}
	return true
}

// snapshot writes before, and then everything.
func (st *stream) snapshot(before []byte) bool {
	sn := st.hub.s.current(st.hub.region)
	st.cursor, st.warm = sn.version, sn.warming
	head := appendEvent(before, st.hub.incarnation, sn.version, "snapshot")
	head = append(appendState(head, sn.version, sn.warming), `,"instances":[`...)
	if !st.write(head) {
		return false
	}
	b := getBuffer()
	defer putBuffer(b)
	some := false
	put := func(part []byte) bool {
		if len(part) == 0 {
			return true
		}
		if some {
			*b = append(*b, ',')
		}
		some = true
		if len(part) > 16<<10 {
			ok := st.write(*b) && st.write(part)
			*b = (*b)[:0]
			return ok
		}
		*b = append(*b, part...)
		if len(*b) > 48<<10 {
			ok := st.write(*b)
			*b = (*b)[:0]
			return ok
		}
		return true
	}
	for _, v := range st.viewsOf(sn) {
		if !put(v.block(native)) {
			return false
		}
	}
	*b = append(*b, "]}\n\n"...)
	if !st.write(*b) {
		return false
	}
	// The snapshot may be a tick old. Whatever came since is in the log.
	return st.advance(todo{news: true, from: sn.version}, 0)
}

// viewsOf are the parts of sn that the client wants.
func (st *stream) viewsOf(sn *snapshot) []*view {
	if st.in.all() {
		return sn.views
	}
	var vs []*view
	if len(st.in.vips) == 0 {
		for app := range st.in.apps {
			if v := sn.find(app); v != nil {
				vs = append(vs, v)
			}
		}
		return vs
	}
	for _, v := range sn.views {
		some := &view{name: v.name, made: v.made, self: v.self, region: v.region}
		for _, x := range v.recs {
			if st.in.wants(x.rec) {
				some.recs = append(some.recs, x)
			}
		}
		vs = append(vs, some)
	}
	return vs
}

func (st *stream) write(b []byte) bool { return len(b) == 0 || st.out(b) }

var buffers = sync.Pool{New: func() any { return new([]byte) }}

func getBuffer() *[]byte { return buffers.Get().(*[]byte) }

func putBuffer(b *[]byte) {
	if cap(*b) <= 1<<16 {
		*b = (*b)[:0]
		buffers.Put(b)
	}
}

func appendID(b []byte, incarnation string, version uint64) []byte {
	b = append(append(append(b, "id: "...), incarnation...), '-')
	return append(strconv.AppendUint(b, version, 10), '\n')
}

// appendEvent appends an event up to its data.
func appendEvent(b []byte, incarnation string, version uint64, name string) []byte {
	b = append(append(appendID(b, incarnation, version), "event: "...), name...)
	return append(b, "\ndata: "...)
}

// appendState appends the members with which the data of snapshots and of resume begin.
func appendState(b []byte, version uint64, warming bool) []byte {
	b = strconv.AppendUint(append(b, `{"version":`...), version, 10)
	return strconv.AppendBool(append(b, `,"warming":`...), warming)
}

// asEvent is c as watchers read it. It is written once for many of them.
func (c *change) asEvent(h *hub) []byte {
	if b := c.event.Load(); b != nil {
		return *b
	}
	b := c.writeEvent(make([]byte, 0, 512), h)
	if c.event.CompareAndSwap(nil, &b) {
		h.events.keep(c, len(b))
	}
	return b
}

func (c *change) appendEvent(b []byte, h *hub) []byte { return append(b, c.asEvent(h)...) }

// writeEvent appends c as watchers read it.
func (c *change) writeEvent(b []byte, h *hub) []byte {
	if c.rec.action == deleted {
		b = appendRemoval(b, h.incarnation, c)
	} else {
		b = appendEvent(b, h.incarnation, c.version, "put")
		b = append(c.rec.appendNative(append(b, `{"instance":`...), h.region), '}')
	}
	return append(b, "\n\n"...)
}

// events are the changes that are kept as watchers read them, as far as they fit into eventsMost.
type events struct {
	mu   sync.Mutex
	of   []*change // in the order in which they were written
	size int       // in bytes
}

// eventsMost is how many bytes of events are kept for further watchers.
const eventsMost = 8 << 20

// keep says that the event of c, of so many bytes, is there; the oldest are let go of.
func (k *events) keep(c *change, size int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.of = append(k.of, c)
	k.size += size
	for k.size > eventsMost {
		if b := k.of[0].event.Swap(nil); b != nil {
			k.size -= len(*b)
		}
		k.of = k.of[1:]
	}
}

func appendRemoval(b []byte, incarnation string, c *change) []byte {
	raw, err := json.Marshal(struct {
		App string `json:"app"`
		ID  string `json:"id"`
	}{strings.ToLower(c.rec.app), c.rec.id})
	if err != nil {
		panic("registry: two strings cannot be written as JSON: " + err.Error())
	}
	return append(appendEvent(b, incarnation, c.version, "remove"), raw...)
}
