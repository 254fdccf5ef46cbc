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

func (h *eureka) renew(w http.ResponseWriter, r *http.Request, t target) {
	var dirty int64
	claimed := unknown
	if q := r.URL.RawQuery; q != "" {
		dirty, _ = strconv.ParseInt(queryValue(q, "lastDirtyTimestamp"), 10, 64) // unreadable is as absent
		claimed, _ = parseStatus(queryValue(q, "overriddenstatus"))
	}
	res, rec := h.s.renew(key{t.app, t.id}, originOf(r), dirty, claimed)
	if res != conflicted {
		empty(w, res)
		return
	}
	c := codecOf(r)
	v := &view{recs: []shown{{rec, rec.updated}}, self: h.c.Self}
	body := v.one(0, c)
	w.Header().Set("Content-Type", c.contentType())
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusConflict)
	w.Write(body) //nolint:errcheck // the client is gone if this fails
}

func (h *eureka) register(w http.ResponseWriter, r *http.Request, t target) {
	rec, status, err := readRecord(w, r)
	if err != nil {
		h.log.Debug("a registration cannot be read", "app", t.app, "from", r.RemoteAddr, "err", err)
		if status != http.StatusBadRequest {
			w.WriteHeader(status)
			return
		}
		c, body := codecOf(r), `<error><message>cannot parse request body</message></error>`
		if c.isJSON() {
			body = `{"error": "cannot parse request body"}`
		}
		answer(w, r, status, c.contentType(), [][]byte{[]byte(body)})
		return
	}
	if why := rec.invalid(t.app, h.c.Settings.StrictIDs); why != "" {
		answerText(w, r, why)
		return
	}
	h.s.register(rec, originOf(r))
	w.WriteHeader(http.StatusNoContent)
}

func (h *eureka) cancel(w http.ResponseWriter, r *http.Request, t target) {
	o := originOf(r)
	res, decided := h.s.cancel(key{t.app, t.id}, o)
	if decided != nil && !o.replicated { // otherwise recorded where the client was
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
	answer(w, r, http.StatusBadRequest, "text/plain", [][]byte{[]byte(why)})
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

// read answers everything that alters nothing.
func (h *eureka) read(w http.ResponseWriter, r *http.Request, t target) {
	if t.what == watch {
		h.watch(w, r)
		return
	}
	if h.c.Settings.EnforceGzip && (t.what == allApps || t.what == deltaApps || t.what == oneApp || t.what == oneInstance) {
		if r.Header.Get("Accept-Encoding") == "" {
			r.Header.Set("Accept-Encoding", "gzip")
		} else if !acceptsGzip(r) {
			w.WriteHeader(http.StatusNotAcceptable)
			return
		}
	}
	if t.what == deltaApps && h.c.Settings.NoDelta {
		w.WriteHeader(http.StatusForbidden) // clients fetch everything then
		return
	}
	c := codecOf(r)
	if !h.peers.isOpen() && t.what.list() {
		w.WriteHeader(http.StatusForbidden) // clients try their next server
		return
	}
	sn := h.Registry.read()
	if t.what == oneInstance || t.what == anyInstance || t.what == serverStatus {
		sn = h.s.current(h.c.Location.Region) // never a copy, as in Eureka
	}
	switch t.what {
	case allApps:
		answerDocument(w, r, c, &sn.full)
	case deltaApps:
		answerDocument(w, r, c, sn.delta())
	case vip:
		answerDocument(w, r, c, documentOf(sn.byVIP()[t.id]))
	case svip:
		answerDocument(w, r, c, documentOf(sn.bySVIP()[t.id]))
	case oneApp:
		if v := sn.find(t.app); v != nil {
			answer(w, r, http.StatusOK, c.contentType(), v.whole(c))
			return
		}
		w.WriteHeader(http.StatusNotFound)
	case oneInstance:
		if v := sn.find(t.app); v != nil {
			if i := slices.IndexFunc(v.recs, func(x shown) bool { return x.rec.id == t.id }); i >= 0 {
				answer(w, r, http.StatusOK, c.contentType(), [][]byte{v.one(i, c)})
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
	case anyInstance:
		if m, ok := sn.byID()[t.id]; ok {
			answer(w, r, http.StatusOK, c.contentType(), [][]byte{m.v.one(m.i, c)})
			return
		}
		w.WriteHeader(http.StatusNotFound)
	case serverStatus:
		answer(w, r, http.StatusOK, c.contentType(), [][]byte{h.statusInfo(sn, c)})
	case overrideList:
		body, err := json.Marshal(h.s.overrideNames())
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		answer(w, r, http.StatusOK, "application/json", [][]byte{body})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// codecOf picks the form of an answer: XML unless JSON is asked for by name, as Eureka does.
func codecOf(r *http.Request) codec {
	compact := strings.EqualFold(r.Header.Get("X-Eureka-Accept"), "compact")
	switch json := strings.Contains(r.Header.Get("Accept"), "json"); {
	case json && compact:
		return jsonCompact
	case json:
		return jsonFull
	case compact:
		return xmlCompact
	}
	return xmlFull
}

func answerDocument(w http.ResponseWriter, r *http.Request, c codec, d *document) {
	if acceptsGzip(r) && d.large() {
		w.Header().Set("Content-Encoding", "gzip")
		send(w, http.StatusOK, c.contentType(), [][]byte{d.gzipped(c)})
		return
	}
	send(w, http.StatusOK, c.contentType(), d.parts(c))
}

func answer(w http.ResponseWriter, r *http.Request, status int, contentType string, parts [][]byte) {
	if acceptsGzip(r) && sizeOf(parts) >= smallBody {
		w.Header().Set("Content-Encoding", "gzip")
		parts = gzipParts(parts)
	}
	send(w, status, contentType, parts)
}

func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			q = strings.ReplaceAll(q, " ", "")
			return q != "q=0" && q != "q=0.0"
		}
	}
	return false
}

func sizeOf(parts [][]byte) (n int) {
	for _, p := range parts {
		n += len(p)
	}
	return n
}

func send(w http.ResponseWriter, status int, contentType string, parts [][]byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Vary", "Accept, Accept-Encoding, X-Eureka-Accept")
	h.Set("Content-Length", strconv.Itoa(sizeOf(parts)))
	w.WriteHeader(status)
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return // the client is gone
		}
	}
}

// statusInfo describes this registry as Eureka's status page expects it.
func (h *eureka) statusInfo(sn *snapshot, c codec) []byte {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	general := []pair{
		{"server-uptime", uptime(time.Since(h.s.epoch))}, {"environment", cmp.Or(h.c.Settings.Environment, "roadbed")},
		{"num-of-cpus", strconv.Itoa(runtime.NumCPU())}, {"total-avail-memory", mb(mem.Sys)},
		{"current-memory-usage", fmt.Sprintf("%s (%d%%)", mb(mem.HeapAlloc), mem.HeapAlloc*100/max(mem.Sys, 1))},
	}
	replicas := h.peers.replicas()
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
