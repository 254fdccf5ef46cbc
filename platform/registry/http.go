package registry

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	smallBody   = 256       // bytes below which compression is not worth its header
	nativeAgent = "roadbed" // DiscoveryIdentity-Name of this platform's own clients
)

// eureka answers Eureka's REST API to the letter: which answers have a body, and which must have none.
type eureka struct{ *Registry }

func (h *eureka) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t := h.prefixes.parse(r.URL.EscapedPath())
	get := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case t.what == nothing:
		w.WriteHeader(http.StatusNotFound)
	case t.what == oneInstance && r.Method == http.MethodPut:
		h.renew(w, r, t)
	case t.what == oneInstance && r.Method == http.MethodDelete:
		h.cancel(w, r, t)
	case t.what == oneApp && r.Method == http.MethodPost:
		h.register(w, r, t)
	case t.what == instanceStatus && r.Method == http.MethodPut:
		h.setStatus(w, r, t)
	case t.what == instanceStatus && r.Method == http.MethodDelete:
		h.clearStatus(w, r, t)
	case t.what == instanceMetadata && r.Method == http.MethodPut:
		h.setMetadata(w, r, t)
	case t.what == asgStatus && r.Method == http.MethodPut:
		h.setGroup(w, r, t)
	case t.what == peerBatch && r.Method == http.MethodPost:
		h.batch(w, r)
	case t.what == nativeInstances && r.Method == http.MethodPost:
		h.registerMany(w, r)
	case t.what == nativeRenew && r.Method == http.MethodPut:
		h.renewMany(w, r)
	case t.what == nativeApp && get:
		h.waitApp(w, r, t)
	case t.what == nodePages && get:
		h.showNode(w, r)
	case t.what == lastPages && get:
		h.showLast(w, r)
	case t.what == peerHello && get:
		h.hello(w, r)
	case t.what == peerStream && r.Method == http.MethodGet:
		h.stream(w, r)
	case t.what == peerHeard && r.Method == http.MethodPost:
		h.heard(w, r)
	case get && t.what.readable():
		h.read(w, r, t)
	default:
		w.Header().Set("Allow", t.what.methods())
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// empty answers without a body: clients try to parse one.
func empty(w http.ResponseWriter, res result) {
	w.WriteHeader(res.code())
}

func originOf(r *http.Request) origin {
	return origin{
		replicated: r.Header.Get("X-Netflix-Discovery-Replication") == "true",
		native:     r.Header.Get("Discoveryidentity-Name") == nativeAgent,
	}
}

// heartbeat renews the lease of t as a query says. It keeps none of the strings.
func (h *eureka) heartbeat(t target, query string, o origin) (result, *record) {
	var dirty int64
	claimed := unknown
	if query != "" {
		dirty, _ = strconv.ParseInt(queryValue(query, "lastDirtyTimestamp"), 10, 64) // unreadable is as absent
		claimed, _ = parseStatus(queryValue(query, "overriddenstatus"))
	}
	return h.s.renew(key{t.app, t.id}, o, dirty, claimed)
}

func (h *eureka) renew(w http.ResponseWriter, r *http.Request, t target) {
	res, rec := h.heartbeat(t, r.URL.RawQuery, originOf(r))
	if res != conflicted {
		empty(w, res)
		return
	}
	c := wishOf(r).codec()
	v := &view{recs: []shown{{rec, rec.updated}}, self: h.c.Self}
	rep := reply{http.StatusConflict, c.contentType(), false, [][]byte{v.one(0, c)}}
	rep.write(w)
}

func (h *eureka) register(w http.ResponseWriter, r *http.Request, t target) {
	rec, status, err := readRecord(w, r)
	if err != nil {
		h.log.Debug("a registration cannot be read", "app", t.app, "from", r.RemoteAddr, "err", err)
		if status != http.StatusBadRequest {
			w.WriteHeader(status)
			return
		}
		c, body := wishOf(r).codec(), `<error><message>cannot parse request body</message></error>`
		if c.isJSON() {
			body = `{"error": "cannot parse request body"}`
		}
		answer(w, r, status, c.contentType(), []byte(body))
		return
	}
	if why := rec.invalid(t.app, h.c.Settings.StrictIDs); why != "" {
		answerText(w, r, why)
		return
	}
	h.s.register(rec, originOf(r))
	if name := r.Header.Get(streamHeader); name != "" {
		h.hub.bind(name, rec.key())
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *eureka) cancel(w http.ResponseWriter, r *http.Request, t target) {
	k := key{t.app, t.id}
	if originOf(r).replicated { // and recorded where the client was
		empty(w, h.s.endedElsewhere(k, 0))
		return
	}
	res, decided := h.s.cancel(k)
	if decided != nil {
		h.note(*decided, actorOf(r))
	}
	empty(w, res)
}

func (h *eureka) setStatus(w http.ResponseWriter, r *http.Request, t target) {
	st, ok := parseStatus(queryValue(r.URL.RawQuery, "value"))
	if !ok {
		w.WriteHeader(http.StatusInternalServerError) // as Eureka answers it
		return
	}
	k, dirty, o := key{t.app, t.id}, dirtyOf(r), originOf(r)
	rec := h.s.overriding(k)
	switch {
	case rec == nil:
		w.WriteHeader(http.StatusNotFound)
	case rec.standing() == st || o.replicated:
		empty(w, h.s.setOverride(k, st, dirty, o)) // nothing new, or recorded where it was decided
	default:
		res, err := h.decide(r.Context(), asked(r, overrideAction), k, rec, st, func() result { return h.s.setOverride(k, st, dirty, o) })
		answerDecision(w, res, err)
	}
}

func (h *eureka) clearStatus(w http.ResponseWriter, r *http.Request, t target) {
	then := unknown
	value := queryValue(r.URL.RawQuery, "value")
	if value != "" {
		var ok bool
		if then, ok = parseStatus(value); !ok {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
	}
	k, dirty, o := key{t.app, t.id}, dirtyOf(r), originOf(r)
	ownWord := o.native && value == ""
	end := func() result { return h.s.clearOverride(k, then, ownWord, dirty, o) }
	rec := h.s.overriding(k)
	switch {
	case rec == nil:
		w.WriteHeader(http.StatusNotFound)
	case o.replicated || !h.s.overridden(k):
		empty(w, end())
	default:
		if ownWord {
			then = rec.own
		}
		res, err := h.decide(r.Context(), asked(r, clearAction), k, rec, then, end)
		answerDecision(w, res, err)
	}
}

// setGroup disables or enables a server group.
func (h *eureka) setGroup(w http.ResponseWriter, r *http.Request, t target) {
	value := queryValue(r.URL.RawQuery, "value")
	disabled := strings.EqualFold(value, "DISABLED")
	switch {
	case !h.c.Settings.ASG:
		answerText(w, r, "groups do not count here; set eureka.shouldUseAwsAsgApi=true")
		return
	case !disabled && !strings.EqualFold(value, "ENABLED"):
		answerText(w, r, "value is ENABLED or DISABLED")
		return
	}
	if !originOf(r).replicated && h.s.groupDisabled(t.id) != disabled {
		if err := h.decideGroup(r, t.id, disabled); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
	} else {
		h.s.setGroup(t.id, disabled)
	}
	w.WriteHeader(http.StatusOK)
}

// answerText refuses a request with a sentence.
func answerText(w http.ResponseWriter, r *http.Request, why string) {
	answer(w, r, http.StatusBadRequest, "text/plain", []byte(why))
}

func answerDecision(w http.ResponseWriter, res result, err error) {
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	empty(w, res)
}

func dirtyOf(r *http.Request) int64 {
	n, err := strconv.ParseInt(queryValue(r.URL.RawQuery, "lastDirtyTimestamp"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (h *eureka) setMetadata(w http.ResponseWriter, r *http.Request, t target) {
	q := r.URL.Query()
	var add []pair
	for _, k := range slices.Sorted(maps.Keys(q)) {
		add = append(add, pair{clean(k), clean(q[k][0])})
	}
	res := h.s.setMeta(key{t.app, t.id}, add, originOf(r))
	if res == tooLarge {
		answerText(w, r, "an instance may hold "+strconv.Itoa(bodyLimit)+" bytes of metadata")
		return
	}
	empty(w, res)
}

// wish is the form in which a client wants its answer, and who it says it is: the values of the headers that say so.
type wish struct {
	accept, eurekaAccept, encoding, name, id string

	regions []string // that the client names besides this one; nil if it names none
	ownOnly bool     // nothing of other regions
}

func wishOf(r *http.Request) wish {
	return wish{
		r.Header.Get("Accept"), r.Header.Get("X-Eureka-Accept"), r.Header.Get("Accept-Encoding"),
		r.Header.Get("Discoveryidentity-Name"), r.Header.Get("Discoveryidentity-Id"),
		regionsOf(r.URL.RawQuery), r.Header.Get(regionsHeader) == ownRegionOnly,
	}
}

// codec picks the form of an answer: XML unless JSON is asked for by name, as Eureka does.
func (w wish) codec() codec {
	compact := strings.EqualFold(w.eurekaAccept, "compact")
	switch json := strings.Contains(w.accept, "json"); {
	case json && compact:
		return jsonCompact
	case json:
		return jsonFull
	case compact:
		return xmlCompact
	}
	return xmlFull
}

func (w wish) gzip() bool {
	for rest := w.encoding; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, ",")
		name, q, _ := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			q = strings.ReplaceAll(q, " ", "")
			return q != "q=0" && q != "q=0.0"
		}
	}
	return false
}

// reply is an answer before it is written. Without a content type it has no body.
type reply struct {
	status      int
	contentType string
	zipped      bool
	parts       [][]byte
}

func (rep *reply) size() int { return sizeOf(rep.parts) }

func sizeOf(parts [][]byte) (n int) {
	for _, p := range parts {
		n += len(p)
	}
	return n
}

// vary is what the form of an answer depends on.
const vary = "Accept, Accept-Encoding, X-Eureka-Accept"

func (rep *reply) write(w http.ResponseWriter) {
	h := w.Header()
	if rep.contentType != "" {
		h.Set("Content-Type", rep.contentType)
		h.Set("Vary", vary)
		h.Set("Content-Length", strconv.Itoa(rep.size()))
	}
	if rep.zipped {
		h.Set("Content-Encoding", "gzip")
	}
	w.WriteHeader(rep.status)
	for _, p := range rep.parts {
		if _, err := w.Write(p); err != nil {
			return // the client is gone
		}
	}
}

// replyWith is the answer with a body that nobody will ask for again.
func (w wish) replyWith(status int, contentType string, parts ...[]byte) reply {
	rep := reply{status, contentType, false, parts}
	if w.gzip() && rep.size() >= smallBody {
		rep.zipped, rep.parts = true, gzipParts(parts)
	}
	return rep
}

func (w wish) document(d *document) reply {
	c := w.codec()
	if w.gzip() && d.large() {
		return reply{http.StatusOK, c.contentType(), true, [][]byte{d.gzipped(c)}}
	}
	return reply{http.StatusOK, c.contentType(), false, d.parts(c)}
}

func answer(w http.ResponseWriter, r *http.Request, status int, contentType string, body []byte) {
	rep := wishOf(r).replyWith(status, contentType, body)
	rep.write(w)
}

// read answers what alters nothing.
func (h *eureka) read(w http.ResponseWriter, r *http.Request, t target) {
	if t.what == watch {
		h.watch(w, r)
		return
	}
	rep := h.look(t, wishOf(r))
	if rep.size() < largeAnswer {
		rep.write(w)
		return
	}
	h.inTurn(func() {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(timeToWrite(rep.size()))) //nolint:errcheck // not in tests; net/http lifts it
		rep.write(w)
	}, func() { w.WriteHeader(http.StatusServiceUnavailable) })
}

// look finds what t names.
func (h *eureka) look(t target, w wish) reply {
	now := h.s.now()
	if !h.limits.admits(t.what, w.name, now) {
		h.s.counts.limited.Inc()
		return reply{status: http.StatusServiceUnavailable}
	}
	switch t.what {
	case allApps, deltaApps, oneApp, oneInstance:
		if h.c.Settings.EnforceGzip && w.encoding == "" {
			w.encoding = "gzip"
		} else if h.c.Settings.EnforceGzip && !w.gzip() {
			return reply{status: http.StatusNotAcceptable}
		}
	}
	if t.what == deltaApps && h.c.Settings.NoDelta {
		return reply{status: http.StatusForbidden} // clients fetch everything then
	}
	if !h.peers.isOpen() && t.what.list() {
		return reply{status: http.StatusForbidden} // clients try their next server
	}
	c := w.codec()
	h.s.counts.fetched(t.what, w.id, now)
	sn := h.Registry.read()
	if t.what == oneInstance || t.what == anyInstance || t.what == serverStatus {
		sn = h.s.current(h.c.Location.Region) // never a copy, as in Eureka
	}
	if !w.ownOnly {
		if t.what != allApps && t.what != deltaApps {
			w.regions = nil
		}
		var ready bool
		if sn, ready = h.regions.see(sn, w.regions); !ready {
			return reply{status: http.StatusForbidden}
		}
	}
	switch t.what {
	case allApps:
		return w.document(&sn.full)
	case deltaApps:
		return w.document(sn.delta())
	case vip:
		return w.document(documentOf(sn.byVIP()[t.id]))
	case svip:
		return w.document(documentOf(sn.bySVIP()[t.id]))
	case oneApp:
		if v := sn.find(t.app); v != nil {
			return w.replyWith(http.StatusOK, c.contentType(), v.whole(c)...)
		}
	case oneInstance:
		if v := sn.find(t.app); v != nil {
			if i := slices.IndexFunc(v.recs, func(x shown) bool { return x.rec.id == t.id }); i >= 0 {
				return w.replyWith(http.StatusOK, c.contentType(), v.one(i, c))
			}
		}
	case anyInstance:
		if m, ok := sn.byID()[t.id]; ok {
			return w.replyWith(http.StatusOK, c.contentType(), m.v.one(m.i, c))
		}
	case serverStatus:
		return w.replyWith(http.StatusOK, c.contentType(), h.statusInfo(sn, c))
	case overrideList:
		body, err := json.Marshal(h.s.overrideNames())
		if err != nil {
			return reply{status: http.StatusInternalServerError}
		}
		return w.replyWith(http.StatusOK, "application/json", body)
	}
	return reply{status: http.StatusNotFound}
}

// statusInfo describes this registry as Eureka's status page expects it.
func (h *eureka) statusInfo(sn *snapshot, c codec) []byte {
	general, replicas := h.generalStats(), h.peers.replicas()
	me, known := sn.byID()[h.c.Self]
	known = known && h.c.Self != ""
	if c.isJSON() {
		b := jsonMap([]byte(`{"generalStats":`), general)
		b = jsonMap(append(b, `,"applicationStats":`...), replicas)
		if known {
			x := me.v.recs[me.i]
			b = x.rec.appendJSON(append(b, `,"instanceInfo":`...), times{x.renewed, true}, c.compact())
		}
		return append(b, '}')
	}
	x := xmlWriter{}
	x.open("status", "")
	for _, part := range []struct {
		name string
		ps   []pair
	}{{"generalStats", general}, {"applicationStats", replicas}} {
		x.open(part.name, "")
		for _, p := range part.ps {
			x.leaf(p.key, p.value)
		}
		x.close(part.name)
	}
	if known {
		sh := me.v.recs[me.i]
		x.b = sh.rec.appendXML(x.b, times{sh.renewed, true}, c.compact(), x.depth)
	}
	x.close("status")
	return x.b
}

// generalStats describes this process.
func (h *eureka) generalStats() []pair {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return []pair{
		{"server-uptime", uptime(time.Since(h.s.epoch))}, {"environment", cmp.Or(h.c.Settings.Environment, "roadbed")},
		{"num-of-cpus", strconv.Itoa(runtime.NumCPU())}, {"total-avail-memory", mb(mem.Sys)},
		{"current-memory-usage", fmt.Sprintf("%s (%d%%)", mb(mem.HeapAlloc), mem.HeapAlloc*100/max(mem.Sys, 1))},
	}
}

func uptime(d time.Duration) string {
	m := int(d.Minutes())
	days, unit := m/(24*60), "days"
	if days == 1 {
		unit = "day"
	}
	return fmt.Sprintf("%d %s %02d:%02d", days, unit, m/60%24, m%60)
}

func mb(n uint64) string { return strconv.FormatUint(n>>20, 10) + "mb" }

// overrideNames maps instance ids to what operators decided about them.
func (s *state) overrideNames() map[string]string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	m := make(map[string]string, len(s.overrides))
	for k, ov := range s.overrides {
		m[k.id] = ov.status.String()
	}
	return m
}
