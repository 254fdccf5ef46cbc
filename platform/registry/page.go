package registry

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The page of one node, at / and at Eureka's prefix, as users of Eureka know it: who is registered where, how the node
// and its peers are, and whether silence is believed. It fetches nothing from anywhere. Programs get the same as JSON.

//go:embed page/*.html
var pageFiles embed.FS

var (
	instancesPage = template.Must(template.ParseFS(pageFiles, "page/status.html", "page/instances.html"))
	lastPage      = template.Must(template.ParseFS(pageFiles, "page/status.html", "page/last.html"))
)

// What a page shows at most. Somebody who looks for one of thousands asks the console or the API.
const (
	pageApps      = 500
	pageInstances = 2000
	pagePerApp    = 50
)

// nodePage is what the page shows.
type nodePage struct {
	pageHead
	Warning      string      `json:"warning,omitempty"`
	Apps         []pageApp   `json:"apps"`
	MoreApps     int         `json:"moreApps,omitempty"`
	General      []pageEntry `json:"general"`
	Preservation Silence     `json:"preservation"`
	Peers        []Peer      `json:"peers"`
	Self         []pageEntry `json:"instanceInfo"`
}

// pageHead is what both pages begin with.
type pageHead struct {
	Title       string    `json:"title"`
	Environment string    `json:"environment"`
	Uptime      string    `json:"uptime"`
	Now         time.Time `json:"now"`
}

type pageApp struct {
	Name     string       `json:"name"`
	AMIs     []pageCount  `json:"amis"`
	Zones    []pageCount  `json:"zones"`
	Statuses []pageStatus `json:"statuses"`
}

type pageCount struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

// pageStatus is the instances of an app that have one status.
type pageStatus struct {
	pageCount
	Instances []pageInstance `json:"instances"`
	More      int            `json:"more,omitempty"`
}

type pageInstance struct {
	ID  string `json:"id"`
	URL string `json:"url,omitempty"` // of its status page
}

type pageEntry struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// showNode answers with the first page.
func (h *eureka) showNode(w http.ResponseWriter, r *http.Request) {
	sn := h.s.current(h.c.Location.Region)
	p := nodePage{pageHead: h.pageHead(), Apps: []pageApp{}, Preservation: h.Silence(), Peers: h.peers.status()}
	p.Warning = warningOf(p.Preservation, sn.warming)
	for i, v := range sn.views {
		if i == pageApps {
			p.MoreApps = len(sn.views) - i
			break
		}
		p.Apps = append(p.Apps, v.page(max(1, min(pagePerApp, pageInstances/len(sn.views)))))
	}
	for _, e := range append(h.generalStats(), h.peers.replicas()...) {
		p.General = append(p.General, pageEntry{e.key, e.value})
	}
	p.Self = h.selfInfo(sn)
	h.show(w, r, instancesPage, p)
}

// warningOf says what a reader must know before anything else.
func warningOf(s Silence, warming bool) string {
	switch {
	case s.Mode == Off:
		return "Self-preservation is off. When the network fails, instances that run will be evicted."
	case s.Mode != Normal && s.Mode != "":
		return "Instances may be listed that are gone: silent ones are not, or not all, evicted now. " + s.Reason
	case warming:
		return "This node has just started, and may not have heard of everybody yet."
	}
	return ""
}

// page shows at most limit instances of v for each status.
func (v *view) page(limit int) pageApp {
	p := pageApp{Name: v.name}
	zones, amis := make(map[string]int), make(map[string]int)
	var by [statuses]pageStatus
	for _, x := range v.recs {
		zones[x.rec.zone()]++
		amis[cmp.Or(get(x.rec.dcMeta, "ami-id"), "n/a")]++
		st := &by[x.rec.status]
		st.Count++
		if len(st.Instances) == limit {
			st.More++
			continue
		}
		in := pageInstance{ID: x.rec.id}
		if u := x.rec.statusPage; strings.HasPrefix(u, "http://") || strings.HasPrefix(u, "https://") {
			in.URL = u
		}
		st.Instances = append(st.Instances, in)
	}
	p.Zones, p.AMIs = countsOf(zones), countsOf(amis)
	for i, st := range slices.Backward(by[:]) { // UP first
		if st.Count > 0 {
			st.Name = status(i).String()
			p.Statuses = append(p.Statuses, st)
		}
	}
	return p
}

func countsOf(m map[string]int) (list []pageCount) {
	for name, n := range m {
		list = append(list, pageCount{name, n})
	}
	slices.SortFunc(list, func(a, b pageCount) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (h *eureka) pageHead() pageHead {
	return pageHead{
		Title:       strings.TrimSpace("roadbed registry " + h.c.Self),
		Environment: cmp.Or(h.c.Settings.Environment, "roadbed"), Uptime: uptime(time.Since(h.s.epoch)), Now: time.Now().UTC(),
	}
}

// selfInfo is what Eureka's page says of the node itself.
func (h *eureka) selfInfo(sn *snapshot) []pageEntry {
	list := []pageEntry{{"region", cmp.Or(h.c.Location.Region, "default")}, {"zone", cmp.Or(h.c.Location.Zone, "default")}}
	if me, ok := sn.byID()[h.c.Self]; ok && h.c.Self != "" {
		rec := me.v.recs[me.i].rec
		list = append(list, pageEntry{"ipAddr", rec.ip}, pageEntry{"hostName", rec.host}, pageEntry{"status", rec.status.String()})
	}
	return list
}

// lastLeases is the second page.
type lastLeases struct {
	pageHead
	Kept       int          `json:"kept"`
	Cancelled  []pastMoment `json:"cancelled"`
	Registered []pastMoment `json:"registered"`
}

// pastMoment is when something happened to a lease.
type pastMoment struct {
	Time  time.Time `json:"time"`
	Lease string    `json:"lease"` // APP(id), as Eureka writes it
}

func (h *eureka) showLast(w http.ResponseWriter, r *http.Request) {
	p := lastLeases{pageHead: h.pageHead(), Kept: rememberedLeases}
	h.s.mu.RLock()
	p.Cancelled, p.Registered = h.s.ends.list(), h.s.begins.list()
	h.s.mu.RUnlock()
	h.show(w, r, lastPage, p)
}

// rememberedLeases is how many cancelled leases, and how many registered ones, are remembered.
const rememberedLeases = 1000

// recent is the last leases of which the same happened. It is guarded by the state's mu.
type recent struct {
	past []moment
	next int // of past to be overwritten, once it is full
}

type moment struct {
	key
	at int64 // ms since 1970
}

func (q *recent) add(k key, at int64) {
	if len(q.past) < rememberedLeases {
		q.past = append(q.past, moment{k, at})
		return
	}
	q.past[q.next] = moment{k, at}
	q.next = (q.next + 1) % rememberedLeases
}

// list returns them, newest first.
func (q *recent) list() []pastMoment {
	out := make([]pastMoment, 0, len(q.past))
	for i := range q.past {
		m := q.past[(q.next+len(q.past)-1-i)%len(q.past)]
		out = append(out, pastMoment{time.UnixMilli(m.at).UTC(), m.app + "(" + m.id + ")"})
	}
	return out
}

// show answers with p as JSON if that is asked for by name, else as a page.
func (h *eureka) show(w http.ResponseWriter, r *http.Request, t *template.Template, p any) {
	hd := w.Header()
	hd.Set("Cache-Control", "no-store")
	hd.Set("X-Content-Type-Options", "nosniff")
	if strings.Contains(r.Header.Get("Accept"), "json") {
		b, err := json.Marshal(p)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		answer(w, r, http.StatusOK, "application/json", b)
		return
	}
	var b bytes.Buffer
	if err := t.Execute(&b, p); err != nil {
		h.log.Error("the status page cannot be written", "err", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	hd.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	hd.Set("Referrer-Policy", "no-referrer")
	answer(w, r, http.StatusOK, "text/html; charset=utf-8", b.Bytes())
}
