package telemetry

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/platform/api"
)

func step(t testing.TB, s *Store, at time.Time, common string, points ...string) {
	t.Helper()
	mustPost(t, s, body("nf.region=local "+common, at, points...))
}

func picture1(t testing.TB, s *Store) *Traffic {
	t.Helper()
	code, answer := get(t, s, "/api/v1/traffic")
	var out Traffic
	if err := json.Unmarshal([]byte(answer), &out); err != nil || code != 200 {
		t.Fatalf("traffic: got %d %s, %v", code, answer, err)
	}
	return &out
}

func connections(r *Region) string {
	var out []string
	for _, c := range r.Connections {
		out = append(out, fmt.Sprintf("%s--%s %v/%v/%v %s", c.Source, c.Target, c.Metrics.Normal, c.Metrics.Warning, c.Metrics.Danger, c.Class))
	}
	return strings.Join(out, "; ")
}

func TestTrafficIsDrawnFromWhatCallersTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		for range 2 {
			time.Sleep(5 * time.Second)
			now := time.Now()
			step(t, s, now, "nf.app=edge nf.zone=zone-a nf.node=edge-1",
				"name=edge.request.duration edge.route=api edge.status=2xx statistic=count -> 94",
				"name=edge.request.duration edge.route=api edge.status=5xx statistic=count -> 6",
				"name=edge.request.duration edge.route=api edge.status=2xx percentile=T0083 statistic=percentile -> 100",
				"name=ipc.client.call ipc.vip=api ipc.result=success ipc.cause=none statistic=count -> 100")
			for i, zone := range []string{"zone-a", "zone-b"} {
				step(t, s, now, fmt.Sprintf("nf.app=api nf.zone=%s nf.node=api-%d", zone, i),
					"name=ipc.client.call ipc.vip=catalog ipc.result=success statistic=count -> 40",
					"name=ipc.client.call ipc.vip=catalog ipc.result=fallback ipc.cause=timeout statistic=count -> 2",
					"name=ipc.client.call ipc.vip=catalog ipc.result=success percentile=T0056 statistic=percentile -> 30",
					"name=ipc.client.call ipc.vip=catalog ipc.result=success percentile=T0090 statistic=percentile -> 10", // far above a second
					"name=ipc.server.call ipc.status=2xx ipc.caller=edge statistic=count -> 50")
			}
			step(t, s, now, "nf.app=members nf.zone=zone-a nf.node=load",
				"name=members.journey journey=browse result=success statistic=count -> 95",
				"name=members.journey journey=browse result=failure statistic=count -> 5",
				"name=members.journey journey=play result=success statistic=count -> 99",
				"name=members.journey journey=play result=late statistic=count -> 1",
				"name=members.journey journey=play result=success percentile=T0056 statistic=percentile -> 99")
		}
		tr := picture1(t, s)
		if tr.Name != "local" || tr.Renderer != "global" || len(tr.Nodes) != 1 || tr.Nodes[0].Layout != "ltrTree" || tr.Updated != time.Now().UnixMilli() {
			t.Fatalf("root: got %+v", tr)
		}
		r := tr.Nodes[0]
		want := "INTERNET--edge 94/0/6 danger; api--catalog 60/24/0 warning; edge--api 100/0/0 normal"
		if got := connections(r); got != want {
			t.Errorf("connections:\n got %s\nwant %s", got, want)
		}
		var classes []string
		for _, n := range r.Nodes {
			classes = append(classes, fmt.Sprintf("%s %s %v", n.Name, n.Class, n.Metadata.RPS))
		}
		if got, want := strings.Join(classes, "; "), "INTERNET normal 0; api normal 100; catalog warning 84; edge danger 100"; got != want {
			t.Errorf("nodes: got %s, want %s", got, want)
		}
		c := r.Connections[1]
		if c.Metadata.Zones["zone-a"] != 42 || c.Metadata.Zones["zone-b"] != 42 || c.Metadata.P99 == nil || *c.Metadata.P99 < 1 || *c.Metadata.P50 > 0.002 {
			t.Errorf("api--catalog: got %+v", c.Metadata)
		}
		if z := r.Nodes[1].Metadata.Zones; z["zone-a"] != 50 || z["zone-b"] != 50 {
			t.Errorf("zones of api: got %v", z)
		}
		if n := r.Nodes[3].Notices; len(n) != 1 || n[0].Title != "error share 6 %" || n[0].Severity != 2 {
			t.Errorf("notices of edge: got %v", n)
		}
		m := tr.Metadata.Members
		if m["browse"].Success != 0.95 || m["browse"].P99 != nil || m["play"].RPS != 100 || m["play"].Late != 0.01 || m["play"].P99 == nil || m["all"].RPS != 200 || m["all"].Success != 0.97 {
			t.Errorf("members: got %+v", m)
		}
		if tr.MaxVolume != 150 || r.Class != "danger" {
			t.Errorf("maxVolume %v, class %s; want 150, danger", tr.MaxVolume, r.Class)
		}

		// Playback shows the same moment later.
		at := tr.Updated
		time.Sleep(20 * time.Minute)
		_, answer := get(t, s, fmt.Sprintf("/api/v1/traffic?at=%d", at))
		var then Traffic
		if err := json.Unmarshal([]byte(answer), &then); err != nil || len(then.Nodes) != 1 || connections(then.Nodes[0]) != want {
			t.Errorf("playback: got %s, %v", answer, err)
		}
	})
}

func TestSilentServicesKeepTheirPlaceFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		time.Sleep(5 * time.Second)
		step(t, s, time.Now(), "nf.app=api nf.zone=a", "name=ipc.client.call ipc.vip=catalog ipc.result=success statistic=count -> 10")
		if got := connections(picture1(t, s).Nodes[0]); got != "api--catalog 5/0/0 normal" {
			t.Errorf("at once: got %s", got)
		}
		time.Sleep(4 * time.Minute)
		tr := picture1(t, s)
		if got := connections(tr.Nodes[0]); got != "api--catalog 0/0/0 normal" || len(tr.Nodes[0].Nodes) != 2 || tr.MaxVolume != 7.5 {
			t.Errorf("after 4 minutes: got %s, max volume %v", got, tr.MaxVolume)
		}
		time.Sleep(2 * time.Minute)
		if tr := picture1(t, s); len(tr.Nodes) != 0 {
			t.Errorf("after 6 minutes: got %v, want nothing", tr.Nodes)
		}
	})
}

func TestHalfReportedStepsAreNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		first := time.Now() // on a step
		report := func(at time.Time, node string) {
			step(t, s, at, "nf.app=api nf.zone=a nf.node="+node, "name=ipc.client.call ipc.vip=catalog ipc.result=success statistic=count -> 10")
		}
		report(first, "one")
		report(first, "two")
		if got := s.sources.complete(time.Now()); got != first.UnixMilli() {
			t.Errorf("all have reported: complete is %d, want %d", got, first.UnixMilli())
		}
		time.Sleep(5*time.Second + 300*time.Millisecond)
		second := first.Add(5 * time.Second)
		report(second, "one")
		if got := s.sources.complete(time.Now()); got != first.UnixMilli() {
			t.Errorf("one of two has reported: complete is %d, want %d", got, first.UnixMilli())
		}
		if got := values(t, s, "name,ipc.client.call,:eq", fmt.Sprintf("&step=5s&s=%d&e=now", first.Add(-10*time.Second).UnixMilli())); got != "sum(name=ipc.client.call): NaN 20" {
			t.Errorf("graph up to now: got %s, want it to end at the complete step", got)
		}
		report(second, "two")
		if got := s.sources.complete(time.Now()); got != second.UnixMilli() {
			t.Errorf("both have reported: complete is %d, want %d", got, second.UnixMilli())
		}
		// One stays away: three seconds after the end of the step nobody waits for it any longer.
		time.Sleep(5 * time.Second)
		third := second.Add(5 * time.Second)
		report(third, "one")
		if got := s.sources.complete(time.Now()); got != second.UnixMilli() {
			t.Errorf("one is late: complete is %d, want %d", got, second.UnixMilli())
		}
		time.Sleep(3 * time.Second)
		if got := s.sources.complete(time.Now()); got != third.UnixMilli() {
			t.Errorf("one is away: complete is %d, want %d", got, third.UnixMilli())
		}
	})
}

func TestTrafficStreamSendsEachStepOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		var got []int64
		go func() {
			defer close(done)
			s.follow(ctx, func(tr *Traffic) bool { got = append(got, tr.Updated); return true })
		}()
		for range 3 {
			step(t, s, time.Now(), "nf.app=api nf.zone=a nf.node=one", "name=ipc.client.call ipc.vip=catalog ipc.result=success statistic=count -> 10")
			time.Sleep(5 * time.Second)
		}
		cancel()
		<-done
		if len(got) != 4 && len(got) != 3 {
			t.Errorf("in three steps: got %v", got)
		}
		for i := 1; i < len(got); i++ {
			if got[i] != got[i-1]+5000 {
				t.Errorf("steps of the stream: got %v, want each once", got)
			}
		}
	})
}

func TestTrafficStreamOverHTTP(t *testing.T) {
	s := New(Config{})
	surface := api.New("test", "1")
	s.Mount(surface)
	srv := httptest.NewServer(surface)
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+"/api/v1/traffic/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var tr Traffic
			if err := json.Unmarshal([]byte(data), &tr); err != nil || tr.Renderer != "global" {
				t.Errorf("event: got %s, %v", data, err)
			}
			return
		}
	}
	t.Errorf("the stream ended without an event: %v", lines.Err())
}
