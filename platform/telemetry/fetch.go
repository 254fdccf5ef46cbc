package telemetry

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/roadbed/roadbed/platform/telemetry/asl"
)

const (
	maxLines  = 1024       // of a result
	maxPoints = 20_000_000 // scanned for one expression
)

// fetchFrom returns a function that reads data of one tier. The step of what it is asked for is a multiple of the
// tier's. A series that lacks a key of the grouping is left out, or with lacking has the empty text for it.
func (s *Store) fetchFrom(t tier, lacking bool) asl.Fetch {
	return func(ctx context.Context, d *asl.Data, w asl.Window) ([]asl.Series, error) {
		numbers := s.index.match(d.Query)
		if n := len(numbers) * w.Points * int(w.Step/t.step); n > maxPoints {
			return nil, fmt.Errorf("too many data points: %d > %d", n, maxPoints)
		}
		groups := make(map[string]*group)
		how := d.Aggr.String()
		if d.Aggr == asl.All || d.Aggr == asl.Count {
			how = "sum" // of one series, or of a one for each
		}
		r := reader{t: t, w: w, data: d, values: make([]float64, w.Points)}
		for len(numbers) > 0 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			batch := numbers[:min(len(numbers), 1024)]
			numbers = numbers[len(batch):]
			for _, f := range s.index.describe(batch, d, lacking) {
				if !r.read(f) {
					continue
				}
				g := groups[f.key]
				if g == nil {
					if d.Aggr == asl.All && len(groups) >= maxLines {
						return nil, fmt.Errorf("too many lines: n > %d", maxLines)
					}
					g = &group{tags: f.tags, acc: asl.NewAccumulator(how, w.Points)}
					groups[f.key] = g
				}
				g.acc.Add(r.values)
			}
		}
		keys := make([]string, 0, len(groups))
		for k := range groups {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		out := make([]asl.Series, len(keys))
		for i, k := range keys {
			g := groups[k]
			out[i] = asl.Series{Tags: g.tags(), Values: g.acc.Values()}
		}
		return out, nil
	}
}

type group struct {
	tags func() map[string]string
	acc  *asl.Accumulator
}

// found is a series that a query means.
type found struct {
	place
	key  string // of its group
	tags func() map[string]string
}

// describe says where the series are and to which group they belong.
func (x *index) describe(numbers []uint32, d *asl.Data, lacking bool) []found {
	x.mu.RLock()
	defer x.mu.RUnlock()
	by := make([]uint32, len(d.By))
	for i, k := range d.By {
		id, ok := x.lookup[k]
		if !ok && !lacking {
			return nil
		}
		if by[i] = id; !ok {
			by[i] = noText
		}
	}
	out := make([]found, 0, len(numbers))
	values := make([]string, len(by))
	var key []byte
	known := make(map[string]func() map[string]string)
next:
	for _, n := range numbers {
		p := x.pages[n/pageSize]
		if p == nil {
			continue
		}
		have := p.series[n%pageSize].tags
		if have == nil {
			continue
		}
		f := found{place: place{p, int(n % pageSize)}}
		if d.Aggr == asl.All {
			tags := make(map[string]string, len(have))
			for _, t := range have {
				tags[x.names[t.key]] = x.names[t.value]
			}
			f.key, f.tags = fmt.Sprint(sorted(tags)), func() map[string]string { return tags }
			out = append(out, f)
			continue
		}
		key = key[:0]
		for i, k := range by {
			v, ok := valueOf(have, k)
			switch {
			case ok:
				values[i] = x.names[v]
			case lacking:
				values[i] = ""
			default:
				continue next
			}
			key = append(append(key, values[i]...), 0)
		}
		if f.tags = known[string(key)]; f.tags == nil {
			keys, vals := d.By, slices.Clone(values)
			f.tags = func() map[string]string {
				tags := make(map[string]string, len(keys))
				for i, k := range keys {
					tags[k] = vals[i]
				}
				return tags
			}
			known[string(key)] = f.tags
		}
		f.key = string(key)
		out = append(out, f)
	}
	return out
}

// noText is the id of no text.
const noText = math.MaxUint32

func valueOf(tags []pair, key uint32) (uint32, bool) {
	for _, t := range tags {
		if t.key == key {
			return t.value, true
		}
	}
	return 0, false
}

// reader reads the points of one series after another into values.
type reader struct {
	t       tier
	w       asl.Window
	data    *asl.Data
	values  []float64
	scratch row
}

// read fills values and reports whether the series has a point in the window.
func (r *reader) read(f found) bool {
	p := f.page
	p.mu.Lock()
	defer p.mu.Unlock()
	ring := &p.live
	if r.t == historyTier {
		ring = &p.minute
	}
	if r.w.Step == r.t.step {
		return r.readFine(ring, f.slot)
	}
	return r.readCoarse(ring, f.slot, p.series[f.slot].kind == gaugeSeries)
}

// readFine copies points as they are kept, block by block.
func (r *reader) readFine(ring *ring, slot int) (any bool) {
	for i := 0; i < len(r.values); {
		no, at := r.t.block(r.w.Start + int64(i)*r.w.Step)
		at = max(at, 0) // before the epoch there is nothing
		run := r.values[i:min(len(r.values), i+blockPoints-at)]
		i += len(run)
		points := &emptyRow
		if no >= 0 {
			if kept := ring.read(r.t, no, slot, &r.scratch); kept != nil {
				points = kept
			}
		}
		copy(run, points[at:])
		for j, v := range run {
			if v != v {
				continue
			}
			any = true
			if r.data.Aggr == asl.Count {
				run[j] = 1
			}
		}
	}
	return any
}

// readCoarse makes each point of the fine ones of the interval that it ends.
func (r *reader) readCoarse(ring *ring, slot int, gauge bool) (any bool) {
	no := int64(-1)
	var points *row
	ratio := r.w.Step / r.t.step
	for i := range r.values {
		end := r.w.Start + int64(i)*r.w.Step
		c := consolidation{how: r.data.Consolidate()}
		for at := max(end-(ratio-1)*r.t.step, r.t.step); at <= end; at += r.t.step {
			b, k := r.t.block(at)
			if b != no {
				no, points = b, ring.read(r.t, b, slot, &r.scratch)
			}
			switch {
			case points == nil || points[k] != points[k]:
			case r.data.Aggr == asl.Count:
				c.add(1)
			default:
				c.add(points[k])
			}
		}
		r.values[i] = c.result(int(ratio), gauge)
		any = any || c.present > 0
	}
	return any
}

// consolidation makes one point of several.
type consolidation struct {
	how     asl.Aggr
	value   float64
	present int
}

func (c *consolidation) add(v float64) {
	if c.present++; c.present == 1 {
		c.value = v
		return
	}
	switch c.how {
	case asl.Min:
		c.value = min(c.value, v)
	case asl.Max:
		c.value = max(c.value, v)
	default:
		c.value += v
	}
}

func (c *consolidation) result(slots int, gauge bool) float64 {
	switch {
	case c.present == 0:
		return math.NaN()
	case c.how != asl.Avg:
		return c.value
	case gauge:
		return c.value / float64(c.present)
	}
	return c.value / float64(slots)
}
