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

// askedAbout is the most instances that a measurement names, for they all stand in a URL; of more, the first stand for all.
const askedAbout = 200

// measure asks telemetry for the newest value of a query over some instances, of the last minute; NaN when there is
// none, or no instance. The query must give one line.
func (c *cell) measure(ctx context.Context, query string, instances []string) (float64, error) {
	var named []string
	for _, id := range instances {
		if len(named) < askedAbout && !strings.ContainsAny(id, ",()") { // those would be words of the language
			named = append(named, id)
		}
	}
	if len(named) == 0 {
		return math.NaN(), nil
	}
	q := url.Values{"q": {query}, "cq": {"nf.node,(," + strings.Join(named, ",") + ",),:in"}, "s": {"e-1m"}, "step": {publishStep.String()}, "format": {"json"}}
	graph, err := c.graph(ctx, "properties", q)
	if err != nil {
		return math.NaN(), err
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

// graph is what telemetry answers.
type graph struct {
	Legend []string `json:"legend"`
	Values [][]any  `json:"values"` // by time, then by line; "NaN" where there is none
}

// graph asks telemetry, in the name of a room.
func (c *cell) graph(ctx context.Context, actor string, q url.Values) (g graph, err error) {
	telemetry := api.Client{Base: c.telemetry(), Token: c.door.Token, Actor: actor}
	if err = telemetry.Do(ctx, http.MethodGet, "/api/v1/graph?"+q.Encode(), nil, &g); err != nil {
		err = fmt.Errorf("ask telemetry for %s: %w", q.Get("q"), err)
	}
	return g, err
}

// lately asks telemetry for the mean of the ten seconds before the last ten, which every process has told of by now, of each
// line of a query, by its legend.
func (c *cell) lately(ctx context.Context, query string) (map[string]float64, error) {
	g, err := c.graph(ctx, "regions", url.Values{"q": {query}, "s": {"e-10s"}, "e": {"now-10s"}, "step": {publishStep.String()}, "format": {"json"}})
	if err != nil {
		return nil, err
	}
	out, steps := map[string]float64{}, map[string]float64{}
	for _, row := range g.Values {
		for i, v := range row {
			if x, ok := v.(float64); ok {
				out[g.Legend[i]] += x
				steps[g.Legend[i]]++
			}
		}
	}
	for name, n := range steps {
		out[name] /= n
	}
	return out, nil
}
