package streaming

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/service"
)

// ServePopulation runs a [Population] as the service "population" until ctx ends or the process is told to stop.
//
//	GET  /report  Report
//	POST /reset   the Report so far; the totals then begin anew
//
// The rate and what members take between two steps are live, see [Properties]. The edge is at ROADBED_EDGE,
// by default http://127.0.0.1:7000; a URL without a path gets "/api", the edge's own route to the service api.
func ServePopulation(ctx context.Context) error {
	edge, err := EdgeURL(os.Getenv("ROADBED_EDGE"))
	if err != nil {
		return err
	}
	var p *Population
	s, err := service.Start(ctx, service.Config{Name: PopulationName, Criticality: roadbed.Bulk, Version: version,
		Build: func(s *service.Service) (http.Handler, error) {
			settings := live(s.Properties(), loadDefaults())
			var err error
			p, err = NewPopulation(PopulationConfig{Edge: edge, RPS: func() float64 { return settings.Get().RPS }, Think: func() time.Duration { return settings.Get().Think }, Seed: uint64(time.Now().UnixNano()), Meter: s.Meter()})
			if err != nil {
				return nil, err
			}
			return p.routes(), nil
		}})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	gone := make(chan error, 1)
	go func() { gone <- p.Run(running) }()
	<-s.Draining()
	stop()
	if err := <-gone; err != nil {
		return err
	}
	return s.Wait()
}

func (p *Population) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /report", handle(func(*http.Request) (Report, error) { return p.Report(), nil }))
	mux.HandleFunc("POST /reset", handle(func(*http.Request) (Report, error) { return p.Reset(), nil }))
	return mux
}

// EdgeURL completes what ROADBED_EDGE says: an empty text is http://127.0.0.1:7000, and without a path api's is added.
func EdgeURL(text string) (string, error) {
	if text == "" {
		text = "http://127.0.0.1:7000"
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("streaming: ROADBED_EDGE=%q is not a URL such as http://127.0.0.1:7000", text)
	}
	if u.Path == "" {
		u.Path = "/api"
	}
	return u.String(), nil
}
