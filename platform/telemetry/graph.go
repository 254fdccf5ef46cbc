package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/platform/telemetry/asl"
)

const (
	maxWaiting = 64 // queries that wait for their turn
	maxGraph   = 1440
	shortGraph = 15 * time.Minute // windows up to this are drawn from live points unless a step says otherwise
)

// query lets at most half the cores work on queries, so that publishing always finds one, and answers errors as Atlas
// does.
func (s *Store) query(answer func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.waiting <- struct{}{}:
		default:
			w.Header().Set("Retry-After", "5")
			writeError(w, http.StatusServiceUnavailable, "too many queries are waiting; try again in 5 seconds")
			return
		}
		select {
		case s.queries <- struct{}{}:
			<-s.waiting
		case <-r.Context().Done():
			<-s.waiting
			return
		}
		defer func() { <-s.queries }()
		start := time.Now()
		err := answer(w, r)
		s.queryTime.Record(time.Since(start))
		var refused *refusal
		switch {
		case err == nil, errors.Is(err, context.Canceled):
		case errors.As(err, &refused):
			writeError(w, refused.status, refused.message)
		default:
			writeError(w, http.StatusBadRequest, "IllegalArgumentException: "+err.Error())
		}
	}
}

func writeError(w http.ResponseWriter, status int, message string) {
	writeRejection(w, status, rejection{Type: "error", Message: message})
}

// errorsAsAtlas gives the mux's own 404 and 405 the body that Atlas' errors have.
func errorsAsAtlas(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/graph" {
			r = r.Clone(r.Context())
			r.URL.Path = "/api/v1/graph"
		}
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			other := r.Clone(r.Context())
			other.Method = method
			if _, pattern := mux.Handler(other); pattern != "" {
				w.Header().Set("Allow", method)
				writeError(w, http.StatusMethodNotAllowed, "method not allowed: "+r.Method)
				return
			}
		}
		writeError(w, http.StatusNotFound, "path not found: "+r.URL.Path)
	})
}

// request is what a graph is asked for.
type request struct {
	lines  []asl.Line
	tier   tier
	window asl.Window // with one point more before the first that is shown
}

func (s *Store) readRequest(r *http.Request) (request, error) {
	var req request
	q := r.FormValue("q")
	if q == "" {
		return req, errors.New("missing required parameter 'q'")
	}
	for param, name := range map[string]string{"w": "width", "h": "height"} {
		if v := r.FormValue(param); v != "" {
			if n, err := strconv.Atoi(v); err != nil || n <= 0 {
				return req, fmt.Errorf("requirement failed: %s must be positive (got %s)", name, v)
			}
		}
	}
	var err error
	if req.lines, err = asl.Parse(q); err != nil {
		return req, err
	}
	if cq := r.FormValue("cq"); cq != "" {
		if req.lines, err = restrict(req.lines, cq); err != nil {
			return req, err
		}
	}
	start, end := r.FormValue("s"), r.FormValue("e")
	if start == "" {
		start = "e-3h"
	}
	if end == "" {
		end = "now"
	}
	now := time.Now()
	from, to, err := asl.ParseRange(start, end, now)
	if err != nil {
		return req, err
	}
	step := time.Duration(0)
	if v := r.FormValue("step"); v != "" {
		if step, err = asl.ParseDuration(v); err != nil {
			return req, err
		}
	}
	req.tier = historyTier
	if step > 0 && step.Milliseconds() < historyTier.step || step == 0 && to.Sub(from) <= shortGraph {
		req.tier = liveTier
	}
	req.window = s.window(req.tier, from.UnixMilli(), to.UnixMilli(), step.Milliseconds(), now)
	return req, nil
}

// restrict ANDs a query into all lines.
func restrict(lines []asl.Line, cq string) ([]asl.Line, error) {
	var programs []string
	for _, l := range lines {
		programs = append(programs, l.String())
	}
	return asl.Parse(strings.Join(programs, ",") + ",:list,(," + cq + ",:cq,),:each")
}

// window rounds a range to steps. The newest step is left away while publishers are still reporting it.
func (s *Store) window(t tier, from, to, step int64, now time.Time) asl.Window {
	step = roundStep(t, max(step, t.step, (to-from)/maxGraph))
	complete := s.sources.complete(now) / step * step
	first, last := from/step*step, to/step*step
	if first == last {
		first -= step
	}
	if last > complete && last-complete <= 2*step && first < complete {
		last = complete
	}
	return asl.Window{Start: first, Step: step, Points: int((last-first)/step) + 1}
}

// roundStep returns the next step that Atlas allows: one that divides a block of the tier, or whole blocks, then days.
func roundStep(t tier, step int64) int64 {
	const second, minute, hour, day = 1000, 60_000, 3600_000, 86400_000
	block := t.span()
	for _, c := range []struct {
		unit    int64
		factors []int64
	}{
		{second, []int64{1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30}},
		{minute, []int64{1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30}},
		{hour, []int64{1, 2, 3, 4, 6, 8, 12}},
	} {
		for _, f := range c.factors {
			if v := f * c.unit; v >= step && v%t.step == 0 && (block%v == 0 || v%block == 0) {
				return v
			}
		}
	}
	return (step + day - 1) / day * day
}

func (s *Store) graph(w http.ResponseWriter, r *http.Request) error {
	format := r.FormValue("format")
	switch format {
	case "", "json", "std.json", "v2.json", "csv":
	default:
		return fmt.Errorf("format %s is not supported; use json, v2.json or csv", format)
	}
	req, err := s.readRequest(r)
	if err != nil {
		return err
	}
	fetch := s.fetchFrom(req.tier, false)
	g := graph{start: req.window.Start + req.window.Step, step: req.window.Step, points: req.window.Points - 1}
	for _, l := range req.lines {
		lines, err := l.Eval(r.Context(), req.window, fetch)
		if err != nil {
			return err
		}
		for i := range lines {
			lines[i].Values = lines[i].Values[1:] // the first was for words that look back
			g.lines = append(g.lines, drawn{lines[i], l})
		}
		if len(g.lines) > maxLines {
			return fmt.Errorf("too many lines: %d > %d", len(g.lines), maxLines)
		}
	}
	switch format {
	case "v2.json":
		return g.writeV2(w)
	case "csv":
		return g.writeCSV(w)
	}
	return g.writeJSON(w)
}

type graph struct {
	start, step int64
	points      int
	lines       []drawn
}

type drawn struct {
	asl.Series
	line asl.Line
}

// number is a value as Atlas writes it: what JSON cannot say is a text.
type number float64

func (n number) MarshalJSON() ([]byte, error) {
	v := float64(n)
	switch {
	case math.IsNaN(v):
		return []byte(`"NaN"`), nil
	case math.IsInf(v, 1):
		return []byte(`"Infinity"`), nil
	case math.IsInf(v, -1):
		return []byte(`"-Infinity"`), nil
	}
	b := strconv.AppendFloat(nil, v, 'g', -1, 64)
	if !slices.ContainsFunc(b, func(c byte) bool { return c == '.' || c == 'e' }) {
		b = append(b, ".0"...)
	}
	return b, nil
}

func numbersOf(values []float64) []number {
	out := make([]number, len(values))
	for i, v := range values {
		out[i] = number(v)
	}
	return out
}

func writeBody(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return refuse(http.StatusInternalServerError, "encode answer: %v", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(b) //nolint:errcheck // the client is gone if this fails
	return nil
}

func (g *graph) writeJSON(w http.ResponseWriter) error {
	out := struct {
		Start   int64               `json:"start"`
		Step    int64               `json:"step"`
		Legend  []string            `json:"legend"`
		Metrics []map[string]string `json:"metrics"`
		Values  [][]number          `json:"values"`
		Notices []string            `json:"notices"`
	}{Start: g.start, Step: g.step, Legend: []string{}, Metrics: []map[string]string{}, Values: make([][]number, g.points), Notices: []string{}}
	for _, l := range g.lines {
		out.Legend = append(out.Legend, l.Label)
		out.Metrics = append(out.Metrics, l.Tags)
	}
	for i := range out.Values {
		out.Values[i] = make([]number, len(g.lines))
		for j, l := range g.lines {
			out.Values[i][j] = number(l.Values[i])
		}
	}
	return writeBody(w, out)
}

// writeV2 writes the parts of v2.json that are data: no picture, no axes.
func (g *graph) writeV2(w http.ResponseWriter) error {
	type data struct {
		Type   string   `json:"type"`
		Values []number `json:"values"`
	}
	type series struct {
		Type      string            `json:"type"`
		ID        string            `json:"id"`
		Plot      int               `json:"plot"`
		Label     string            `json:"label"`
		Color     string            `json:"color,omitempty"`
		LineStyle string            `json:"lineStyle"`
		LineWidth float64           `json:"lineWidth"`
		Query     string            `json:"query"`
		Tags      map[string]string `json:"tags"`
		Data      data              `json:"data"`
	}
	out := []any{map[string]any{"type": "graph-metadata", "startTime": g.start, "endTime": g.start + int64(g.points)*g.step, "step": g.step,
		"timezones": []string{"UTC"}, "warnings": []string{}}}
	for i, l := range g.lines {
		plot, err := strconv.Atoi(orElse(l.line.Style["axis"], "0"))
		if err != nil {
			return err
		}
		width, err := strconv.ParseFloat(orElse(l.line.Style["lw"], "1"), 64)
		if err != nil {
			return err
		}
		out = append(out, series{Type: "timeseries", ID: strconv.Itoa(i), Plot: plot, Label: l.Label, Color: l.line.Style["color"],
			LineStyle: strings.ToUpper(orElse(l.line.Style["ls"], "line")), LineWidth: width, Query: l.line.Expr.String(), Tags: l.Tags,
			Data: data{"array", numbersOf(l.Values)}})
	}
	return writeBody(w, out)
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (g *graph) writeCSV(w http.ResponseWriter) error {
	var b strings.Builder
	b.WriteString(`"timestamp"`)
	for _, l := range g.lines {
		b.WriteString(`,"` + strings.ReplaceAll(l.Label, `"`, `""`) + `"`)
	}
	b.WriteByte('\n')
	for i := range g.points {
		b.WriteString(time.UnixMilli(g.start + int64(i)*g.step).UTC().Format(time.RFC3339))
		for _, l := range g.lines {
			fmt.Fprintf(&b, ",%f", l.Values[i])
		}
		b.WriteByte('\n')
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Write([]byte(b.String())) //nolint:errcheck // the client is gone if this fails
	return nil
}

// tags answers GET /api/v1/tags and /api/v1/tags/KEY.
func (s *Store) tags(w http.ResponseWriter, r *http.Request) error {
	limit := 1000
	if v := r.FormValue("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 1000 {
			return fmt.Errorf("limit must be a number from 1 to 1000, got %q", v)
		}
		limit = n
	}
	q := &asl.Query{Op: asl.True}
	if v := r.FormValue("q"); v != "" {
		var err error
		if q, err = asl.ParseQuery(v); err != nil {
			return err
		}
	}
	key := r.PathValue("key")
	verbose := r.FormValue("verbose") == "1"
	items := s.index.texts(q, key)
	offset := r.FormValue("offset")
	if k, v, ok := strings.Cut(offset, ","); ok && verbose && k == key {
		offset = v
	}
	at, found := slices.BinarySearch(items, offset)
	if found {
		at++
	}
	items = items[at:]
	if len(items) > limit {
		items = items[:limit]
	}
	if len(items) == limit {
		next := items[limit-1]
		if verbose && key != "" {
			next = key + "," + next
		}
		w.Header().Set("x-nflx-atlas-next-offset", next)
	}
	switch format := r.FormValue("format"); {
	case format == "txt":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write([]byte(strings.Join(items, "\n"))) //nolint:errcheck // the client is gone if this fails
		return nil
	case format != "" && format != "json":
		return fmt.Errorf("format %s is not supported; use json or txt", format)
	case !verbose:
		return writeBody(w, items)
	}
	type one struct {
		Key   string `json:"key"`
		Value string `json:"value"`
		Count int    `json:"count"`
	}
	out := []one{}
	if key != "" {
		for _, v := range items {
			out = append(out, one{key, v, -1})
		}
	}
	return writeBody(w, out)
}

// texts returns the keys of the series that q means or, with a key, the values of that key.
func (x *index) texts(q *asl.Query, key string) []string {
	numbers := x.match(q)
	x.mu.RLock()
	defer x.mu.RUnlock()
	ids := make(map[uint32]bool)
	want, ok := x.lookup[key]
	if key != "" && !ok {
		return []string{}
	}
	if q.Op == asl.True && key != "" { // the index has them in one place
		numbers = nil
		if k := x.keys[want]; k != nil {
			for v := range k.values {
				ids[v] = true
			}
		}
	}
	for _, n := range numbers {
		p := x.pages[n/pageSize]
		if p == nil {
			continue
		}
		for _, t := range p.series[n%pageSize].tags {
			switch {
			case key == "":
				ids[t.key] = true
			case t.key == want:
				ids[t.value] = true
			}
		}
	}
	out := make([]string, 0, len(ids))
	for id := range ids {
		out = append(out, x.names[id])
	}
	slices.Sort(out)
	return out
}
