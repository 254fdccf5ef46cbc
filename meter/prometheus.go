package meter

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// leBounds are the buckets a percentile timer shows to Prometheus: from 0.26 ms to 69 s, two for each power of four.
var leBounds = prometheusBounds()

func prometheusBounds() []int {
	var at []int
	for e := 9; e <= 18; e++ {
		at = append(at, firsts[e], firsts[e]+3)
	}
	return at[:len(at)-1]
}

// Handler answers with all meters in Prometheus' text format 0.0.4: counters as NAME_total, timers as summaries
// NAME_seconds, percentile timers as histograms NAME_seconds, summaries as summaries NAME.
func (r *Registry) Handler() http.Handler { return Handler(r) }

// Handler answers as [Registry.Handler] does, with the meters of several registries together.
func Handler(registries ...*Registry) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		w.Write(prometheus(registries)) //nolint:errcheck // the scraper is gone if this fails
	})
}

// family is all meters of one name and type, which must stand together.
type family struct {
	name, typ string
	meters    []owned
}

// owned is a meter with the registry whose common tags it has.
type owned struct {
	*meter
	by *Registry
}

func prometheus(registries []*Registry) []byte {
	types := [...]struct{ suffix, typ string }{
		counterKind:    {"_total", "counter"},
		gaugeKind:      {"", "gauge"},
		gaugeFuncKind:  {"", "gauge"},
		timerKind:      {"_seconds", "summary"},
		percentileKind: {"_seconds", "histogram"},
		summaryKind:    {"", "summary"},
	}
	families := make(map[string]*family)
	for _, r := range registries {
		if r == nil {
			continue
		}
		for _, m := range r.snapshot() {
			t := types[m.kind]
			name := prometheusName(m.name) + t.suffix
			if f := families[name]; f != nil && f.typ != t.typ {
				name += "_" + t.typ // two kinds of one name: Prometheus takes one type each
			}
			f := families[name]
			if f == nil {
				f = &family{name: name, typ: t.typ}
				families[name] = f
			}
			f.meters = append(f.meters, owned{m, r})
		}
	}
	var out []byte
	for _, name := range slices.Sorted(maps.Keys(families)) {
		f := families[name]
		out = fmt.Appendf(out, "# TYPE %s %s\n", f.name, f.typ)
		for _, m := range f.meters {
			out = m.by.appendMeter(out, f.name, m.meter)
		}
	}
	return out
}

func (r *Registry) appendMeter(out []byte, name string, m *meter) []byte {
	labels := r.labels(m)
	line := func(suffix, extra string, v float64) {
		all := labels
		if extra != "" && all != "" {
			all += ","
		}
		if all += extra; all != "" {
			all = "{" + all + "}"
		}
		out = fmt.Appendf(out, "%s%s%s %s\n", name, suffix, all, prometheusFloat(v))
	}
	switch m.kind {
	case counterKind:
		line("", "", float64(m.counter.Count()))
	case gaugeKind:
		line("", "", m.gauge.Value())
	case gaugeFuncKind:
		line("", "", m.fn())
	case timerKind:
		line("_count", "", float64(m.timer.count.Load()))
		line("_sum", "", float64(m.timer.total.Load())/1e9)
	case summaryKind:
		line("_count", "", float64(m.summary.count.Load()))
		line("_sum", "", float64(m.summary.total.Load()))
	case percentileKind:
		s := m.percentile.Snapshot()
		var below int64
		i := 0
		for _, at := range leBounds {
			for ; i <= at; i++ {
				below += s.buckets[i]
			}
			line("_bucket", `le="`+prometheusFloat(float64(bounds[at])/1e9)+`"`, float64(below))
		}
		line("_bucket", `le="+Inf"`, float64(s.Count))
		line("_count", "", float64(s.Count))
		line("_sum", "", s.Total.Seconds())
	}
	return out
}

func (r *Registry) labels(m *meter) string {
	all := make(map[string]string, len(r.common)+len(m.tags))
	for k, v := range r.common {
		all[prometheusName(k)] = v
	}
	for _, t := range m.tags {
		all[prometheusName(t.key)] = t.value
	}
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(all)) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k + `="` + all[k] + `"`) // values are clean, nothing to escape
	}
	return b.String()
}

func prometheusName(s string) string {
	clean := strings.Map(func(c rune) rune {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' {
			return c
		}
		return '_'
	}, s)
	if clean[0] >= '0' && clean[0] <= '9' {
		return "_" + clean
	}
	return clean
}

func prometheusFloat(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
