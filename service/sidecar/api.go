package sidecar

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/service"
)

// endpoints returns what the sidecar itself answers.
func (s *Sidecar) endpoints(svc *service.Service) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", svc.Answers())
	mux.HandleFunc("GET /ping", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "must-revalidate,no-cache,no-store")
		w.Header().Set("Content-Type", "text/plain")
		w.Write([]byte("pong")) //nolint:errcheck // the client is gone if this fails
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]roadbed.Status{"status": svc.Status()})
	})
	mux.HandleFunc("GET /healthcheck", s.serveHealth)
	mux.HandleFunc("GET /eureka/hosts", s.serveHosts)
	mux.HandleFunc("GET /dynamicproperties", s.serveProperties)
	mux.HandleFunc("/proxy", s.serveProxy)
	mux.HandleFunc("GET /v1/fit/{point}", s.serveFit)
	mux.HandleFunc("POST /v1/limits/acquire", s.serveAcquire)
	mux.HandleFunc("POST /v1/limits/release", s.serveRelease)
	return mux
}

// crossSite refuses what a page in a browser on this machine makes it ask: it could call services in the neighbour's name.
var crossSite = http.NewCrossOriginProtection()

// answer writes JSON without a line end, as Prana did.
func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "error", "the answer cannot be written as JSON: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(b) //nolint:errcheck // the client is gone if this fails
}

// quirk is the status of an error: Prana sent the text of one with status 200.
func (s *Sidecar) quirk(status int) int {
	if s.c.Prana {
		return http.StatusOK
	}
	return status
}

func (s *Sidecar) serveHealth(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/xml")
	if err := s.health.ask(r.Context()); err != nil {
		w.Header().Set(headerError, "unhealthy")
		w.WriteHeader(s.quirk(http.StatusServiceUnavailable))
		w.Write([]byte("<health>fail</health>")) //nolint:errcheck // the client is gone if this fails
		s.log.Debug("the neighbour is unwell", "err", err)
		return
	}
	w.Write([]byte("<health>ok</health>")) //nolint:errcheck // as above
}

// serveHosts lists the hosts of an app, those that are UP; Prana listed all.
func (s *Sidecar) serveHosts(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	app, vip := q.Get("appName"), strings.ToLower(q.Get("vip"))
	if app == "" {
		w.Header().Set(headerError, "badrequest")
		answer(w, s.quirk(http.StatusBadRequest), struct {
			Reason  string `json:"reason"`
			Message string `json:"message"`
		}{"Bad Request", "appName has to be specified"})
		return
	}
	hosts := []string{}
	if s.names.found != nil {
		for _, i := range s.names.found.Instances(app) {
			if (i.Status == roadbed.Up || s.c.Prana) && (vip == "" || strings.Contains(strings.ToLower(i.VIP), vip)) {
				hosts = append(hosts, i.Host)
			}
		}
	}
	answer(w, http.StatusOK, hosts)
}

func (s *Sidecar) serveProperties(w http.ResponseWriter, r *http.Request) {
	out := map[string]*string{}
	for _, id := range r.URL.Query()["id"] {
		out[id] = nil
		if id == "fault.key" {
			continue // whoever has it can sign faults; only the libraries that check them need it
		}
		if text, ok := s.props.Lookup(id); ok {
			out[id] = &text
		}
	}
	answer(w, http.StatusOK, out)
}

// serveProxy passes a request on that says in its query where it goes.
func (s *Sidecar) serveProxy(w http.ResponseWriter, r *http.Request) {
	c := &call{prana: true}
	q := r.URL.Query()
	vip, path := q.Get("vip"), q.Get("path")
	if vip == "" {
		s.tell(w, c, http.StatusBadRequest, "badrequest", "say whom to call, as in /proxy?vip=recommendations&path=/users/42")
		return
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	at, err := url.ParseRequestURI(path)
	if err != nil || at.Host != "" {
		s.tell(w, c, http.StatusBadRequest, "badrequest", fmt.Sprintf("the path %q is none; write it with %%2F and the like where it is part of the query", path))
		return
	}
	c.url = *at
	s.pass(w, r, vip, c)
}

// decision is what shall happen at an injection point inside the neighbour.
type decision struct {
	Point      string  `json:"point"`
	Name       string  `json:"name"`
	Inject     bool    `json:"inject"`
	DelayMs    float64 `json:"delayMs,omitempty"`
	Status     int     `json:"status,omitempty"` // to fail with
	Error      string  `json:"error,omitempty"`
	Reset      bool    `json:"reset,omitempty"`
	Hang       bool    `json:"hang,omitempty"`
	Reject     bool    `json:"reject,omitempty"`
	Drop       bool    `json:"drop,omitempty"`
	Miss       bool    `json:"miss,omitempty"`
	NoFallback bool    `json:"noFallback,omitempty"`
	Rule       string  `json:"rule,omitempty"`
}

// serveFit decides for the request req, one that the neighbour is serving, or for the one whose X-Fit header this is.
func (s *Sidecar) serveFit(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	d := decision{Point: r.PathValue("point"), Name: q.Get("name")}
	var within context.Context
	h := r.Header
	if id := q.Get("req"); id != "" {
		h = h.Clone()
		h.Set("X-Request-Id", id)
	}
	if f := s.inflight.find(h); f != nil {
		within = f.ctx
	}
	ctx, cancel, _ := s.calls.Adopt(r.Context(), h, within)
	defer cancel()
	if a := fault.From(ctx).At(d.Point, d.Name); !a.IsZero() && s.calls.FaultsOn() {
		d.Inject, d.DelayMs, d.Status, d.Rule = true, float64(a.Delay)/float64(time.Millisecond), a.Status, a.Rule
		d.Reset, d.Hang, d.Reject, d.Drop, d.Miss, d.NoFallback = a.Reset, a.Hang, a.Reject, a.Drop, a.Miss, a.NoFallback
		if a.Err != nil {
			d.Error = a.Err.Error()
		}
	}
	answer(w, http.StatusOK, d)
}
