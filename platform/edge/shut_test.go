package edge

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/platform/edge/accesslog"
)

func TestRequestsUnderWayKeepTheirProgramsAndTheirLinesWhenTheEdgeEnds(t *testing.T) {
	came, let := make(chan struct{}), make(chan struct{})
	props := config.New(config.Options{Override: map[string]string{
		"edge.program.stamp": `{"kind": "cel", "phase": "outbound", "global": true, "text": "{'x-stamp': 'yes'}"}`,
	}})
	h := newHouseWith(t, props, map[string]http.Handler{"hello": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(came)
		<-let
		fmt.Fprint(w, "hi")
	})})
	file := filepath.Join(t.TempDir(), "access.log")
	h.access = accesslog.New(accesslog.Config{File: file, Properties: props, Log: h.log})
	h.discovery = discovery.New(discovery.Config{Log: h.log})
	ctx, cancel := context.WithCancel(t.Context())
	ran, served := make(chan error, 1), make(chan error, 1)
	go func() { ran <- h.Run(ctx) }()
	<-h.ready
	h.setApps(h.lists["hello"]) // which Run has forgotten, for there is no registry
	d, err := h.Door(DoorConfig{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { served <- d.Run(ctx, l, nil) }()
	type answer struct {
		resp *http.Response
		err  error
	}
	answers := make(chan answer, 1)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	go func() {
		resp, err := client.Get("http://" + l.Addr().String() + "/hello/late")
		if err == nil {
			resp.Body.Close()
		}
		answers <- answer{resp, err}
	}()
	<-came
	cancel()
	select {
	case err := <-ran:
		t.Error("Run came back while a request was under way")
		ran <- err
	case <-time.After(50 * time.Millisecond):
	}
	close(let)
	a := <-answers
	if a.err != nil || a.resp.StatusCode != 200 || a.resp.Header.Get("X-Stamp") != "yes" {
		t.Errorf("got %+v, %v; want 200 with X-Stamp, which a program sets", a.resp, a.err)
	}
	for _, done := range []chan error{served, ran} {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || !strings.Contains(string(b), "/hello/late") {
		t.Errorf("the access log has %q, %v; want a line for the request", b, err)
	}
}
