package streaming

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/api/porttest"
)

// serve runs Serve(name) at the URL it returns until the test ends, which fails if Serve does.
func serve(t *testing.T, name string) string {
	t.Helper()
	old := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { slog.SetDefault(old) })
	addr := porttest.Hold(t)
	t.Setenv("PORT", strings.TrimPrefix(addr, "127.0.0.1:"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, name) }()
	t.Cleanup(func() {
		cancel()
		http.DefaultClient.CloseIdleConnections()
		if err := <-ended; err != nil {
			t.Errorf("Serve(%s): %v", name, err)
		}
	})
	url := "http://" + addr
	for t.Context().Err() == nil {
		resp, err := http.Get(url + "/healthcheck")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return url
			}
		}
		select {
		case err := <-ended:
			t.Fatalf("Serve(%s) ended: %v", name, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	t.Fatal("never healthy")
	return ""
}

func TestServeRunsAServiceAlone(t *testing.T) {
	url := serve(t, "catalog")
	if status, body, _ := get1(t, url+"/rows/popular", "", ""); status != http.StatusOK || !strings.Contains(body, `"Popular now"`) {
		t.Errorf("catalog: got %d %s", status, body)
	}
	if _, body, _ := get1(t, url+"/info", "", ""); !strings.Contains(body, `"criticality":"CRITICAL"`) || !strings.Contains(body, `"version":"1"`) {
		t.Errorf("/info: got %s", body)
	}
}

func TestThePopulationIsAServiceThatReports(t *testing.T) {
	edge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := pageFor(r)
		if err != nil {
			t.Error(err)
			return
		}
		io.Copy(w, resp.Body)
	}))
	t.Cleanup(edge.Close)
	t.Setenv("ROADBED_EDGE", edge.URL)
	url := serve(t, PopulationName)
	var r Report
	for r.Total.Requests < 30 && t.Context().Err() == nil {
		_, body, _ := get1(t, url+"/report", "", "")
		r = decode[Report](t, body)
		time.Sleep(10 * time.Millisecond)
	}
	if r.RPS != 100 || r.Total.Succeeded != r.Total.Requests {
		t.Errorf("got %+v, want all of 100/s to succeed", r)
	}
	if _, body, _ := get1(t, url+"/metrics", "", ""); !strings.Contains(body, "members_journey") {
		t.Errorf("/metrics lacks members.journey: %.500s", body)
	}
	resp, err := http.Post(url+"/reset", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	_, body, _ := get1(t, url+"/report", "", "")
	if again := decode[Report](t, body); !again.Since.After(r.Since) || resp.StatusCode != http.StatusOK {
		t.Errorf("after /reset (%s) the report is since %v, want later than %v", resp.Status, again.Since, r.Since)
	}
}
