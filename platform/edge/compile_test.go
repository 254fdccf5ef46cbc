package edge

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/platform/api"
)

// stoppedLog is a log that stops whoever writes a line with these words, until it is let go.
type stoppedLog struct {
	slog.Handler
	words   string
	at, let chan struct{}
}

func (h stoppedLog) Enabled(context.Context, slog.Level) bool { return true }

func (h stoppedLog) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, h.words) {
		h.at <- struct{}{}
		<-h.let
	}
	return nil
}

func TestNobodyWaitsWhileRoutesAreRead(t *testing.T) {
	h := newHouse(t, map[string]http.Handler{"hello": http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	// Routes whose tests do not hold, with none to keep, are logged while they are compiled.
	hold := stoppedLog{slog.DiscardHandler, "tests of the routes do not hold", make(chan struct{}), make(chan struct{})}
	h.log = slog.New(hold)
	compiled := make(chan struct{})
	go func() {
		defer close(compiled)
		h.route(`{"routes": [{"id": "one", "match": {"path": {"exact": "/one"}}, "filters": [{"answer": {"status": 201}}]}], "tests": [{"request": "/one", "status": 200}]}`)
	}()
	<-hold.at
	var once sync.Once
	let := func() { once.Do(func() { close(hold.let) }) }
	defer time.AfterFunc(time.Minute, func() {
		t.Error("something waits for routes that are read")
		let()
	}).Stop()
	if resp, _ := h.get(t, "/hello/"); resp.StatusCode != 200 {
		t.Errorf("a request: got %d, want 200", resp.StatusCode)
	}
	surface := api.New("edge", "1")
	h.Mount(surface)
	w := httptest.NewRecorder()
	if surface.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost/api/v1/edge/routes", nil)); w.Code != 200 {
		t.Errorf("what routes there are: got %d %s, want 200", w.Code, w.Body)
	}
	h.connections()
	h.setApps(append(h.lists["hello"], roadbed.Instance{App: "other"}))
	h.setSurgery(map[string]string{})
	h.setPrograms(map[string]string{})
	h.askRoutes(map[string]string{})
	let()
	<-compiled
	if len(h.news) != 1 {
		t.Error("newer routes, which came while others were read, are forgotten")
	}
	if resp, _ := h.get(t, "/one"); resp.StatusCode != 201 {
		t.Errorf("a route that was read: got %d, want 201", resp.StatusCode)
	}
	if apps := h.table.Load().Apps(); !slices.Equal(apps, []string{"hello", "other"}) {
		t.Errorf("got apps %v, want the one, too, that came while routes were read", apps)
	}
}

func TestRunTakesRoutesIntoForceThatAreWrittenWhileItRuns(t *testing.T) {
	props, set := pushed(t)
	h := newHouseWith(t, props, nil)
	h.discovery = discovery.New(discovery.Config{Log: h.log})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- h.Run(ctx) }()
	<-h.ready
	for _, status := range []int{201, 202} {
		set("edge.routes", fmt.Sprintf(`[{"id": "r", "match": {"path": {"exact": "/r"}}, "filters": [{"answer": {"status": %d}}]}]`, status))
		for by := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			resp, body := h.get(t, "/r")
			if resp.StatusCode == status {
				break
			}
			if time.Now().After(by) {
				t.Fatalf("got %d %q a minute after it was written, want %d", resp.StatusCode, body, status)
			}
		}
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
