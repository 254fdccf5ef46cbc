package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/roadbed/roadbed/platform/api"
)

// measure asks telemetry for the newest value of a query over some instances, of the last minute; NaN when there is
// none. The query must give one line.
func (c *cell) measure(ctx context.Context, query string, instances []string) (float64, error) {
	q := url.Values{"q": {query}, "s": {"e-1m"}, "step": {publishStep.String()}, "format": {"json"}}
	if len(instances) > 0 {
		q.Set("cq", "nf.node,(,"+strings.Join(instances, ",")+",),:in")
	}
	var graph struct {
		Legend []string `json:"legend"`
		Values [][]any  `json:"values"` // by time, then by line; "NaN" where there is none
	}
	telemetry := api.Client{Base: c.telemetry(), Actor: "properties"}
	if err := telemetry.Do(ctx, http.MethodGet, "/api/v1/graph?"+q.Encode(), nil, &graph); err != nil {
		return math.NaN(), fmt.Errorf("ask telemetry for %s: %w", query, err)
	}
	if len(graph.Legend) > 1 {
		return math.NaN(), fmt.Errorf("%s gives %d lines; make it one, e.g. with :sum or :max at its end", query, len(graph.Legend))
	}
	for _, row := range slices.Backward(graph.Values) {
		if v, ok := row[0].(float64); ok {
			return v, nil
		}
	}
	return math.NaN(), nil
}
