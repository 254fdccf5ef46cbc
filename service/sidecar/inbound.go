package sidecar

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"

	"github.com/roadbed/roadbed/ipc"
)

// flight is a request that the neighbour is serving.
type flight struct {
	ctx    context.Context
	header http.Header // as it came
	older  *flight     // of the same id
}

// inflight knows what the neighbour is serving, by request id.
type inflight struct {
	mu   sync.Mutex
	byID map[string]*flight
}

// add notes a request until its end.
func (f *inflight) add(id string, one *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byID == nil {
		f.byID = map[string]*flight{}
	}
	one.older = f.byID[id]
	f.byID[id] = one
}

func (f *inflight) remove(id string, one *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := f.byID[id]
	if at == one {
		if one.older == nil {
			delete(f.byID, id)
		} else {
			f.byID[id] = one.older
		}
		return
	}
	for ; at != nil; at = at.older {
		if at.older == one {
			at.older = one.older
			return
		}
	}
}

// find returns the request in whose course one with that header is made: the newest of the same id, nil if none is.
func (f *inflight) find(h http.Header) *flight {
	v := h[ipc.HeaderRequestID]
	if len(v) == 0 {
		return nil
	}
	return f.of(v[0])
}

func (f *inflight) of(id string) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byID[id]
}

// serveInbound hands a request of others to the neighbour. Its context is open already.
func (s *Sidecar) serveInbound(w http.ResponseWriter, r *http.Request) {
	id := ipc.RequestID(r.Context())
	one := &flight{ctx: r.Context(), header: r.Header}
	s.inflight.add(id, one)
	defer s.inflight.remove(id, one)
	s.in.ServeHTTP(w, r)
}

// toNeighbour makes the request that the neighbour gets.
func (s *Sidecar) toNeighbour(out, in *http.Request) {
	out.URL = &url.URL{Scheme: "http", Host: s.c.To, Path: in.URL.Path, RawPath: in.URL.RawPath, RawQuery: in.URL.RawQuery, ForceQuery: in.URL.ForceQuery}
	out.Header[ipc.HeaderRequestID] = []string{ipc.RequestID(in.Context())}
	forwarded(out.Header, in)
}

// neighbourFailed answers when the neighbour did not.
func (s *Sidecar) neighbourFailed(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(r.Context().Err(), context.Canceled):
		w.WriteHeader(statusClientGone)
	case errors.Is(err, context.DeadlineExceeded):
		refuse(w, http.StatusGatewayTimeout, ipc.TimedOut.String(), s.c.App+" did not answer its sidecar in time")
	default:
		s.log.Debug("the neighbour did not answer", "err", err)
		refuse(w, http.StatusBadGateway, ipc.Failed.String(), s.c.App+" does not answer its sidecar: "+err.Error())
	}
}
