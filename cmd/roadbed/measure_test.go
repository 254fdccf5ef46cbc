package main

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/region"
	"github.com/roadbed/roadbed/platform/telemetry"
)

func TestARolloutsMeasureIsTelemetrysNewestValueOfThoseInstances(t *testing.T) {
	store := telemetry.New(telemetry.Config{})
	srv := httptest.NewServer(store.Handler())
	defer srv.Close()
	at := time.Now().Truncate(5 * time.Second).UnixMilli()
	for i := range 3 {
		body := fmt.Sprintf(`{"tags":{"nf.app":"web","nf.node":"i-%d"},"metrics":[{"tags":{"name":"depth","atlas.dstype":"gauge"},"timestamp":%d,"value":%d}]}`, i, at, 10*(i+1))
		resp, err := http.Post(srv.URL+"/api/v1/publish", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("publish: %s", resp.Status)
		}
	}
	c := &cell{cellConfig: cellConfig{telemetryURL: srv.URL}}
	for _, x := range []struct {
		query     string
		instances []string
		want      float64
		says      string
	}{
		{"name,depth,:eq,:sum", []string{"i-0", "i-2"}, 40, ""},
		{"name,depth,:eq,:max", []string{"i-1"}, 20, ""},
		{"name,depth,:eq,:sum", []string{"i-9"}, math.NaN(), ""},
		{"name,depth,:eq,:sum", nil, math.NaN(), ""},
		{"name,depth,:eq,:sum,(,nf.node,),:by", []string{"i-0", "i-2"}, 0, "2 lines"},
		{"name,:nonsense", []string{"i-0"}, 0, "nonsense"},
	} {
		got, err := c.measure(t.Context(), x.query, x.instances)
		if x.says != "" {
			if err == nil || !strings.Contains(err.Error(), x.says) {
				t.Errorf("%s: got %v, want an error that says %q", x.query, err, x.says)
			}
			continue
		}
		if err != nil || got != x.want && !(math.IsNaN(got) && math.IsNaN(x.want)) {
			t.Errorf("%s of %v: got %v, %v; want %v", x.query, x.instances, got, err, x.want)
		}
	}
	srv.Close()
	if _, err := c.measure(t.Context(), "name,depth,:eq,:sum", []string{"i-0"}); err == nil || !strings.Contains(err.Error(), "ask telemetry") {
		t.Errorf("with telemetry away: got %v, want an error that says so", err)
	}
}

func TestWhatRegionsDidLatelyIsTheMeanOfTenSecondsThatAllHaveToldOf(t *testing.T) {
	store := telemetry.New(telemetry.Config{})
	srv := httptest.NewServer(store.Handler())
	defer srv.Close()
	now := time.Now().Truncate(5 * time.Second)
	for region, v := range map[string]int{"east": 10, "west": 7} {
		var metrics []string
		for back := range 8 {
			at := now.Add(-time.Duration(back) * 5 * time.Second).UnixMilli()
			metrics = append(metrics, fmt.Sprintf(`{"tags":{"name":"edge.region.good","atlas.dstype":"rate"},"timestamp":%d,"value":%d}`, at, v),
				fmt.Sprintf(`{"tags":{"name":"edge.region.moved","atlas.dstype":"gauge","edge.region.of":"east"},"timestamp":%d,"value":%d}`, at, 4*v))
		}
		body := fmt.Sprintf(`{"tags":{"nf.app":"edge","nf.node":"edge-%[1]s","nf.region":"%[1]s"},"metrics":[%s]}`, region, strings.Join(metrics, ","))
		resp, err := http.Post(srv.URL+"/api/v1/publish", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("publish: %s", resp.Status)
		}
	}
	c := &cell{cellConfig: cellConfig{telemetryURL: srv.URL}}
	for query, want := range map[string]map[string]float64{
		region.GoodQuery: {"east": 10, "west": 7}, region.MovedQuery: {"east/east": 40, "west/east": 28}, "name,nothing,:eq": {},
	} {
		if got, err := c.lately(t.Context(), query); err != nil || !maps.Equal(got, want) {
			t.Errorf("%s: got %v, %v; want %v", query, got, err, want)
		}
	}
	srv.Close()
	if _, err := c.lately(t.Context(), region.GoodQuery); err == nil || !strings.Contains(err.Error(), "ask telemetry") {
		t.Errorf("with telemetry away: got %v, want an error that says so", err)
	}
}
