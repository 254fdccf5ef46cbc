package discovery_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/discovery"
)

func TestRegistrationIsWrappedAsStockServersReadIt(t *testing.T) {
	bodies := make(chan []byte, 8)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.NotFound(w, r)
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		select {
		case bodies <- b:
		default:
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	hc := &http.Client{Transport: &http.Transport{}}
	defer hc.CloseIdleConnections()
	c := discovery.New(discovery.Config{Registry: []string{srv.URL}, HTTP: hc})
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	reg := c.Register(roadbed.Instance{ID: "web-1", App: "web", Host: "127.0.0.1", Port: 80, Status: roadbed.Up})

	raw := <-bodies
	var doc map[string]struct {
		InstanceID string `json:"instanceId"`
		App        string `json:"app"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil || len(doc) != 1 || doc["instance"].InstanceID != "web-1" || doc["instance"].App != "WEB" {
		t.Errorf("registered with %s (%v), want one member \"instance\" with web-1 of WEB", raw, err)
	}
	reg.Cancel(ctx) //nolint:errcheck // the server above knows no DELETE
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
