package edge

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/discovery"
)

func TestWhatTheRegistrySaysOfTheEdgeTakesItOutOfServiceAndBack(t *testing.T) {
	props, set := pushed(t)
	h := newHouseWith(t, props, map[string]http.Handler{})
	h.registered.self.ID = "h1:edge:7000"
	tell := func(status roadbed.Status) {
		if h.registered.hear([]roadbed.Instance{{ID: "h1:edge:7000", App: "other", Status: roadbed.OutOfService}, {ID: "h1:edge:7000", App: "edge", Status: status}, {ID: "h2:edge:7000", App: "edge", Status: roadbed.OutOfService}}) {
			h.leave()
		}
	}
	says := func(when string, out bool) {
		t.Helper()
		if err := h.leaving.healthy(); (err != nil) != out || (h.leaving.since.Load() != 0) != out {
			t.Errorf("%s: its health is %v, out of service since %d; want out of service: %v", when, err, h.leaving.since.Load(), out)
		}
	}
	tell(roadbed.OutOfService)
	says("what the registry says is not asked for", false)
	set("edge.registration.enabled", "true")
	h.leave() // as Run does when it changes
	says("the registry says OUT_OF_SERVICE", true)
	h.registered.hear(nil)
	says("the registry has lost it", true)
	tell(roadbed.Up)
	says("the registry says UP, and OUT_OF_SERVICE of others", false)
	tell(roadbed.OutOfService)
	set("edge.outOfService", "true")
	tell(roadbed.Up)
	says("the registry says UP, and the property that it is out of service", true)
	set("edge.outOfService", "false")
	h.leave()
	says("neither says so", false)
}

func TestAnEdgeThatIsInTheRegistryIsNotReachableThroughItself(t *testing.T) {
	h := newHouse(t, map[string]http.Handler{})
	self := newRegistered(Config{Self: roadbed.Instance{ID: "h:edge:7000", Port: 7000}}, h.leaving).self
	h.setApps([]roadbed.Instance{self, {ID: "a", App: "hello"}})
	if got := h.table.Load().Apps(); !slices.Equal(got, []string{"hello"}) {
		t.Errorf("apps that are reachable: %v, want hello alone", got)
	}
	h.setApps([]roadbed.Instance{self, {ID: "a", App: "edge"}})
	if got := h.table.Load().Apps(); !slices.Equal(got, []string{"edge"}) {
		t.Errorf("with somebody's app of that name: %v, want it reachable", got)
	}
}

// registry returns a client of one, and what waits until that is asked something, whatever else it is asked before.
func registry(t *testing.T) (found *discovery.Client, next func(want string)) {
	t.Helper()
	calls := make(chan string, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			calls <- r.Method + " " + strings.TrimPrefix(r.URL.Path, "/eureka")
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(srv.Close)
	hc := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(hc.CloseIdleConnections)
	found = discovery.New(discovery.Config{Registry: []string{srv.URL}, HTTP: hc, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { found.Run(ctx) }) //nolint:errcheck // it only ends with ctx
	t.Cleanup(running.Wait)
	t.Cleanup(cancel)
	return found, func(want string) {
		t.Helper()
		for deadline := time.After(time.Minute); ; {
			select {
			case got := <-calls:
				if got == want { // else it renews, or registers again
					return
				}
			case <-deadline:
				t.Fatalf("the registry is not asked %s within a minute", want)
			}
		}
	}
}

func TestAnEdgeIsInTheRegistryWhileAPropertySaysSo(t *testing.T) {
	found, next := registry(t)
	props, set := pushed(t)
	successor := false
	r := newRegistered(Config{Discovery: found, Instance: "edge-zone-a", Self: roadbed.Instance{ID: "h:edge:7000", Host: "h", Port: 7000}, Replaced: func() bool { return successor }}, newLeaving(props))
	if r.follow(); r.now != nil {
		t.Error("nobody asked for it, and it is registered")
	}
	set("edge.registration.enabled", "true")
	r.follow()
	next("POST /apps/EDGE")
	set("edge.registration.enabled", "false")
	r.follow()
	next("DELETE /apps/EDGE/h:edge:7000")
	set("edge.registration.enabled", "true")
	r.follow()
	next("POST /apps/EDGE")
	successor = true
	if r.end(); r.now == nil {
		t.Error("another process has its place, and it has taken that out of the registry")
	}
	successor = false
	r.end()
	next("DELETE /apps/EDGE/h:edge:7000")
}

func TestAnEdgeThatEndsLeavesTheRegistryBeforeItsRequestsAreOver(t *testing.T) {
	found, next := registry(t)
	h := newHouseWith(t, config.New(config.Options{Override: map[string]string{"edge.registration.enabled": "true", "edge.drain.timeout": "1h"}}), nil)
	h.discovery = found
	h.registered = newRegistered(Config{Discovery: found, Self: roadbed.Instance{ID: "h:edge:7000", Host: "h", Port: 7000}}, h.leaving)
	d, err := h.Door(DoorConfig{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	h.opened(d, true)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- h.Run(ctx) }()
	next("POST /apps/EDGE")
	cancel()
	next("DELETE /apps/EDGE/h:edge:7000")
	if len(ran) != 0 {
		t.Error("Run came back while a listener was open")
	}
	h.opened(d, false)
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
