package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api/porttest"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/registry"
)

func TestChangesArePublishedAndAskedForOnTheEnginesBus(t *testing.T) {
	addr := porttest.Hold(t)
	e, err := engine.Open(t.Context(), engine.Config{Dir: t.TempDir(), Listen: addr, Token: "secret", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r := registry.New(registry.Config{Engine: e, Location: roadbed.Location{Region: "eu.1"}, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	nc, err := nats.Connect("nats://"+addr, nats.Token("secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	heard, err := nc.SubscribeSync("reg.eu%2E1.app.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	ask := func(app string) (doc struct {
		Version   uint64
		Warming   bool
		Instances []roadbed.Instance
	}, err error) {
		m, err := nc.Request("reg.get."+app, nil, 10*time.Second)
		if err == nil {
			err = json.Unmarshal(m.Data, &doc)
		}
		return doc, err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // until Run is there
		if doc, err := ask("NONE"); err == nil && doc.Warming && len(doc.Instances) == 0 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("asking for an application that is not there: got %+v, %v; want no instances", doc, err)
		}
	}

	h := r.Handler()
	post(t, h, "WEB.x", "1")
	do(t, h, "PUT", "/eureka/apps/WEB.X/1/status?value=OUT_OF_SERVICE", "")
	do(t, h, "DELETE", "/eureka/apps/WEB.X/1", "")
	last, seen := "", ""
	for last != "remove" {
		m, err := heard.NextMsg(time.Minute)
		if err != nil {
			t.Fatalf("after %q: %v", last, err)
		}
		last = m.Header.Get("Roadbed-Event")
		id := m.Header.Get("Roadbed-Id")
		body := map[string]string{"put": `{"instance":{"id":"1","app":"web.x"`, "remove": `{"app":"web.x","id":"1"}`}[last]
		if m.Subject != "reg.eu%2E1.app.WEB%2EX" || body == "" || !strings.HasPrefix(string(m.Data), body) || id == "" || id == seen {
			t.Errorf("heard %s with %v: %s; want puts and then the removal of 1, each with an id of its own", m.Subject, m.Header, m.Data)
		}
		seen = id
	}
	post(t, h, "WEB.x", "2")
	if doc, err := ask("WEB%2EX"); err != nil || len(doc.Instances) != 1 || doc.Instances[0].ID != "2" || doc.Version == 0 {
		t.Errorf("asking for WEB.X: got %+v, %v; want 2", doc, err)
	}

	// The engine is gone: nobody waits for it.
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	quickest := time.Hour // of several, for the machine may be busy
	for i := range 5 {
		start := time.Now()
		post(t, h, "WEB.x", fmt.Sprint(3+i))
		quickest = min(quickest, time.Since(start))
	}
	if quickest > time.Second {
		t.Errorf("registering without the engine took %v and more, each of five times", quickest)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
