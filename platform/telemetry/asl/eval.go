package asl

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/roadbed/roadbed/meter"
)

// Window is when to evaluate: Points points, Step apart, the first at Start. All in milliseconds since the epoch; a
// point's time is the end of the interval it describes.
type Window struct {
	Start  int64
	Step   int64
	Points int
}

func (w Window) at(i int) int64 { return w.Start + int64(i)*w.Step }

// Series is one line of a result.
type Series struct {
	Tags   map[string]string
	Label  string
	Values []float64 // one for each point of the window; NaN where there is no data
}

// Fetch returns the lines of d in w, which is not shifted by d.Offset yet. Without d.By it returns one line or, if
// nothing matches, none; the tags are those named by d.By, or all of a series' for [All].
type Fetch func(ctx context.Context, d *Data, w Window) ([]Series, error)

const (
	noDataLabel   = "NO DATA"
	percentileKey = "percentile"
)

// Eval calculates the lines of l in w, labelled as legends show them.
func (l Line) Eval(ctx context.Context, w Window, fetch Fetch) ([]Series, error) {
	var all []Series
	for _, x := range l.copies() {
		ev := evaluation{ctx: ctx, w: w, fetch: fetch, done: make(map[*Expr][]Series)}
		lines, err := ev.eval(x.Expr)
		if err != nil {
			return nil, err
		}
		lines = slices.Clone(lines)
		for i := range lines {
			lines[i].Label = x.label(lines[i])
			lines[i].Tags = maps.Clone(lines[i].Tags)
			if lines[i].Tags == nil {
				lines[i].Tags = map[string]string{}
			}
			lines[i].Tags["atlas.offset"] = FormatDuration(x.offset())
		}
		all = append(all, x.arrange(lines)...)
	}
	return all, nil
}

// evaluation is one run over one expression.
type evaluation struct {
	ctx   context.Context
	w     Window
	fetch Fetch
	done  map[*Expr][]Series // shared parts are calculated once
}

func (ev *evaluation) eval(e *Expr) ([]Series, error) {
	if lines, ok := ev.done[e]; ok {
		return lines, nil
	}
	lines, err := ev.calculate(e)
	if err == nil {
		err = ev.ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	ev.done[e] = lines
	return lines, nil
}

func (ev *evaluation) calculate(e *Expr) ([]Series, error) {
	switch e.kind {
	case dataExpr:
		return ev.data(e.data)
	case constExpr:
		s := formatNumber(e.num)
		return []Series{ev.line(map[string]string{"name": s}, s, func(int) float64 { return e.num })}, nil
	case clockExpr:
		name := e.word
		if len(e.params) > 0 && e.word == ":time" {
			name = e.params[0]
		}
		tags := map[string]string{"name": strings.TrimPrefix(name, ":")}
		f := clocks(e)
		return []Series{ev.line(tags, tagLabel(tags), func(i int) float64 { return f(ev.w.at(i)) })}, nil
	case binaryExpr:
		return ev.binary(e)
	case percentExpr:
		return ev.percentiles(e)
	case filterExpr:
		return ev.filter(e)
	case holeExpr:
		return nil, fmt.Errorf("%s stands for what :filter filters; use %s,:stat elsewhere", e.word, e.params[0])
	}
	in, err := ev.eval(e.args[0])
	if err != nil {
		return nil, err
	}
	switch e.kind {
	case unaryExpr:
		return ev.unary(e, in), nil
	case aggrExpr:
		return ev.aggregate(e, in), nil
	case stateExpr:
		out := make([]Series, len(in))
		for i, l := range in {
			name := strings.TrimPrefix(e.word, ":")
			out[i] = Series{Tags: l.Tags, Label: name + "(" + l.Label + ")", Values: stateOps[e.word](l.Values, e.nums, ev.w)}
		}
		return out, nil
	case statExpr:
		out := make([]Series, len(in))
		for i, l := range in {
			v := statistic(e.params[0], l.Values)
			out[i] = ev.line(l.Tags, "stat-"+e.params[0]+"("+l.Label+")", func(int) float64 { return v })
		}
		return out, nil
	}
	return in, nil // a short form: its meaning
}

func (ev *evaluation) line(tags map[string]string, label string, f func(i int) float64) Series {
	values := make([]float64, ev.w.Points)
	for i := range values {
		values[i] = f(i)
	}
	return Series{Tags: tags, Label: label, Values: values}
}

// noData is the line of an aggregate over nothing.
func (ev *evaluation) noData(tags map[string]string) Series {
	if len(tags) == 0 {
		tags = map[string]string{"name": "NO_DATA"}
	}
	return ev.line(tags, noDataLabel, func(int) float64 { return math.NaN() })
}

func (ev *evaluation) data(d *Data) ([]Series, error) {
	w := ev.w
	w.Start -= d.Offset.Milliseconds()
	lines, err := ev.fetch(ev.ctx, d, w)
	if err != nil {
		return nil, err
	}
	exact := d.Query.Exact()
	if d.Aggr == All {
		for i := range lines {
			lines[i].Label = tagLabel(lines[i].Tags)
		}
		return lines, nil
	}
	if len(d.By) == 0 {
		if len(lines) == 0 {
			return []Series{ev.noData(exact)}, nil
		}
		if len(exact) == 0 {
			exact["name"] = "unknown"
		}
		lines[0].Tags, lines[0].Label = exact, tagLabel(exact)
		return lines, nil
	}
	for i := range lines {
		l := &lines[i]
		l.Label = groupLabel(d.By, l.Tags)
		for k, v := range exact {
			l.Tags[k] = v
		}
	}
	return lines, nil
}

func groupLabel(keys []string, tags map[string]string) string {
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = k + "=" + tags[k]
	}
	return "(" + strings.Join(parts, " ") + ")"
}

// groupKey identifies a line among lines that differ in keys.
func groupKey(keys []string, tags map[string]string) string {
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = tags[k]
	}
	return strings.Join(parts, "\x00")
}

func (ev *evaluation) unary(e *Expr, in []Series) []Series {
	f, ok := unaryOps[e.word]
	if !ok { // :per-step needs the step
		perStep := float64(ev.w.Step) / 1000
		f = func(v float64, _ []float64) float64 { return v * perStep }
	}
	out := make([]Series, len(in))
	for i, l := range in {
		label := tagLabel(l.Tags)
		if l.Label == noDataLabel {
			label = noDataLabel
		}
		out[i] = ev.line(l.Tags, label, func(j int) float64 { return f(l.Values[j], e.nums) })
	}
	return out
}

func (ev *evaluation) binary(e *Expr) ([]Series, error) {
	left, err := ev.eval(e.args[0])
	if err != nil {
		return nil, err
	}
	right, err := ev.eval(e.args[1])
	if err != nil {
		return nil, err
	}
	op := binaryOps[e.word]
	combine := func(l, r Series, tags map[string]string) Series {
		return ev.line(tags, tagLabel(tags), func(i int) float64 { return op(l.Values[i], r.Values[i]) })
	}
	lk, rk := e.args[0].grouping(), e.args[1].grouping()
	inL, inR := subset(rk, lk) == nil, subset(lk, rk) == nil
	var out []Series
	switch {
	case inL && (len(rk) < len(lk) || inR): // the left is finer, or both are equally fine
		byKey := index(rk, right)
		for _, l := range left {
			if r, ok := byKey[groupKey(rk, l.Tags)]; ok {
				out = append(out, combine(l, r, l.Tags))
			}
		}
	case inR:
		byKey := index(lk, left)
		for _, r := range right {
			if l, ok := byKey[groupKey(lk, r.Tags)]; ok {
				out = append(out, combine(l, r, r.Tags))
			}
		}
	default:
		return nil, fmt.Errorf("both sides of binary operation must have the same grouping or one side must be a subset of the other [%s ⊈ %s]", list(lk), list(rk))
	}
	return out, nil
}

func index(keys []string, lines []Series) map[string]Series {
	m := make(map[string]Series, len(lines))
	for _, l := range lines {
		m[groupKey(keys, l.Tags)] = l
	}
	return m
}

func (ev *evaluation) aggregate(e *Expr, in []Series) []Series {
	if len(in) == 0 || len(in) == 1 && in[0].Label == noDataLabel {
		if len(e.keys) > 0 {
			return nil
		}
		return []Series{ev.noData(nil)}
	}
	name := strings.TrimPrefix(e.word, ":")
	common := e.commonTags()
	if len(e.keys) == 0 {
		tags := maps.Clone(common)
		for _, k := range e.args[0].grouping() {
			delete(tags, k)
		}
		s := combineLines(name, in, ev.w.Points)
		s.Tags, s.Label = tags, name+"("+tagLabel(tags)+")"
		return []Series{s}
	}
	groups := make(map[string][]Series)
	for _, l := range in {
		k := groupKey(e.keys, l.Tags)
		groups[k] = append(groups[k], l)
	}
	var out []Series
	for _, k := range slices.Sorted(maps.Keys(groups)) {
		s := combineLines(name, groups[k], ev.w.Points)
		s.Tags = maps.Clone(common)
		for _, key := range e.keys {
			s.Tags[key] = groups[k][0].Tags[key]
		}
		s.Label = groupLabel(e.keys, s.Tags)
		out = append(out, s)
	}
	return out
}

func combineLines(how string, in []Series, points int) Series {
	acc := NewAccumulator(how, points)
	for _, l := range in {
		acc.Add(l.Values)
	}
	return Series{Values: acc.Values()}
}

// Accumulator puts lines together point by point; NaN never takes part.
type Accumulator struct {
	how    string
	values []float64
}

// NewAccumulator returns one that makes the "sum", "count", "min" or "max" of lines with that many points.
func NewAccumulator(how string, points int) *Accumulator {
	a := Accumulator{how: how, values: make([]float64, points)}
	for i := range a.values {
		a.values[i] = math.NaN()
	}
	return &a
}

// Add puts one more line in.
func (a *Accumulator) Add(values []float64) {
	switch acc := a.values; a.how {
	case "sum":
		for i, v := range values {
			if v != v {
				continue
			}
			if acc[i] != acc[i] {
				acc[i] = v
			} else {
				acc[i] += v
			}
		}
	case "count":
		for i, v := range values {
			if v != v {
				continue
			}
			if acc[i] != acc[i] {
				acc[i] = 0
			}
			acc[i]++
		}
	case "min":
		for i, v := range values {
			if v == v && !(acc[i] <= v) {
				acc[i] = v
			}
		}
	case "max":
		for i, v := range values {
			if v == v && !(acc[i] >= v) {
				acc[i] = v
			}
		}
	}
}

// Values returns the result so far.
func (a *Accumulator) Values() []float64 { return a.values }

// percentiles turns lines of bucket counters into one line for each percentile and group.
func (ev *evaluation) percentiles(e *Expr) ([]Series, error) {
	buckets, err := ev.eval(e.args[0])
	if err != nil {
		return nil, err
	}
	keys := without(e.args[0].data.By, percentileKey)
	groups := make(map[string][]Series)
	for _, b := range buckets {
		k := groupKey(keys, b.Tags)
		groups[k] = append(groups[k], b)
	}
	var out []Series
	for _, k := range slices.Sorted(maps.Keys(groups)) {
		lines, err := ev.percentilesOf(e, keys, groups[k])
		if err != nil {
			return nil, err
		}
		out = append(out, lines...)
	}
	return out, nil
}

func (ev *evaluation) percentilesOf(e *Expr, keys []string, buckets []Series) ([]Series, error) {
	var rows [meter.BucketCount][]float64
	var names [meter.BucketCount]string
	unit := 1.0
	for _, b := range buckets {
		name := b.Tags[percentileKey]
		i, timer, ok := parseBucket(name)
		if !ok {
			continue // a series tagged percentile=99 by hand is none of ours
		}
		if timer {
			unit = 1e-9
		}
		if names[i] != "" {
			two := []string{names[i], name}
			slices.Sort(two)
			return nil, fmt.Errorf("requirement failed: invalid percentile encoding: [%s,%s]", two[0], two[1])
		}
		rows[i], names[i] = b.Values, name
	}
	tags := maps.Clone(buckets[0].Tags)
	inner := groupLabel(keys, tags)
	if delete(tags, percentileKey); len(keys) == 0 {
		inner = tagLabel(tags)
	}
	out := make([]Series, len(e.nums))
	for i, p := range e.nums {
		t := maps.Clone(tags)
		t[percentileKey] = padPercentile(p)
		out[i] = Series{Tags: t, Label: "percentile(" + inner + ", " + t[percentileKey] + ")", Values: make([]float64, ev.w.Points)}
	}
	for j := range ev.w.Points {
		var counts [meter.BucketCount]float64
		for i, row := range rows {
			if row != nil && row[j] > 0 {
				counts[i] = row[j]
			}
		}
		for i, p := range e.nums {
			out[i].Values[j] = meter.Percentile(&counts, p) * unit
		}
	}
	return out, nil
}

// padPercentile makes labels line up: three places before the point.
func padPercentile(p float64) string {
	s := formatNumber(p)
	whole, _, _ := strings.Cut(s, ".")
	return strings.Repeat(" ", max(0, 3-len(whole))) + s
}

// parseBucket reads the percentile tag of a bucket counter, such as T00A1: its index, and whether it counts
// nanoseconds.
func parseBucket(s string) (i int, timer, ok bool) {
	if len(s) != 5 || s[0] != 'T' && s[0] != 'D' {
		return 0, false, false
	}
	for _, c := range []byte(s[1:]) {
		switch {
		case '0' <= c && c <= '9':
			i = i*16 + int(c-'0')
		case 'A' <= c && c <= 'F':
			i = i*16 + int(c-'A') + 10
		case 'a' <= c && c <= 'f':
			i = i*16 + int(c-'a') + 10
		default:
			return 0, false, false
		}
	}
	return i, s[0] == 'T', i < meter.BucketCount
}

// filter keeps the lines for which the condition is true at any point.
func (ev *evaluation) filter(e *Expr) ([]Series, error) {
	lines, err := ev.eval(e.args[0])
	if err != nil {
		return nil, err
	}
	condition := e.args[1].fill(e.args[0])
	conditions, err := ev.eval(condition)
	if err != nil {
		return nil, err
	}
	keys := condition.grouping()
	byKey := index(keys, conditions)
	var out []Series
	for _, l := range lines {
		c, ok := byKey[groupKey(keys, l.Tags)]
		if ok && slices.ContainsFunc(c.Values, truth) {
			out = append(out, Series{Tags: l.Tags, Label: l.Label, Values: l.Values})
		}
	}
	return out, nil
}

func statistic(name string, values []float64) float64 {
	count, total, last := 0.0, 0.0, math.NaN()
	low, high := math.NaN(), math.NaN()
	for _, v := range values {
		if v != v {
			continue
		}
		count++
		total += v
		last = v
		if !(low <= v) {
			low = v
		}
		if !(high >= v) {
			high = v
		}
	}
	switch name {
	case "avg":
		if count == 0 {
			return math.NaN()
		}
		return total / count
	case "max":
		return high
	case "min":
		return low
	case "last":
		return last
	case "count":
		return count
	}
	if count == 0 {
		return math.NaN()
	}
	return total
}
