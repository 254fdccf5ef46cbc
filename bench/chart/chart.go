// Package chart draws measured series as SVG files that documents show.
package chart

import (
	"fmt"
	"html"
	"math"
	"os"
	"slices"
	"strings"
)

// Chart is one picture: panels above each other, which share the axis of time.
type Chart struct {
	Title  string
	Note   string    // how it was measured
	Marks  []Mark    // moments
	Panels []Panel   // from the top
	X      []float64 // seconds, of every series
}

// Mark is a moment worth a vertical line.
type Mark struct {
	At   float64
	Text string
}

// Panel is a set of series on one scale.
type Panel struct {
	Label  string // of what is measured, with its unit
	Top    float64
	Limit  float64 // a horizontal line; 0: none
	Series []Series
}

// Series is one line.
type Series struct {
	Name string
	Y    []float64 // one for each X; what is above the panel's top is drawn at it
}

// The dashes tell series apart without colours.
var styles = [...]string{`stroke="#0b6e99"`, `stroke="#c4460b" stroke-dasharray="7 3"`, `stroke="#4b7a1b" stroke-dasharray="2 3"`, `stroke="#7a3b8f" stroke-dasharray="9 3 2 3"`}

const (
	width, left, right = 760, 64, 170
	panelHeight, gap   = 190, 46
	top                = 56
)

// WriteFile draws c.
func (c Chart) WriteFile(path string) error {
	if len(c.X) < 2 || len(c.Panels) == 0 {
		return fmt.Errorf("chart %q has nothing to draw: %d moments, %d panels", c.Title, len(c.X), len(c.Panels))
	}
	height := top + len(c.Panels)*(panelHeight+gap) + 24
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12" fill="#222">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/><text x="%d" y="24" font-size="16" font-weight="600">%s</text>`+"\n", width, height, left, html.EscapeString(c.Title))
	first, last := slices.Min(c.X), slices.Max(c.X)
	x := func(v float64) float64 { return left + (v-first)/(last-first)*(width-left-right) }
	for i, p := range c.Panels {
		base := float64(top + i*(panelHeight+gap) + panelHeight)
		y := func(v float64) float64 { return base - min(max(v/p.Top, 0), 1)*(panelHeight-14) }
		fmt.Fprintf(&b, `<text x="%d" y="%.0f" font-weight="600">%s</text>`+"\n", left, base-panelHeight+6, html.EscapeString(p.Label))
		for _, v := range ticks(p.Top) {
			fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g</text>`+"\n", left, width-right, y(v), y(v), left-6, y(v)+4, v)
		}
		for v := math.Ceil(first/5) * 5; v <= last; v += 5 {
			fmt.Fprintf(&b, `<text x="%.1f" y="%.0f" text-anchor="middle">%g s</text>`+"\n", x(v), base+16, v)
		}
		for _, m := range c.Marks {
			fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#888"/><text x="%.1f" y="%.1f" fill="#555">%s</text>`+"\n", x(m.At), x(m.At), y(0), y(p.Top), x(m.At)+4, y(p.Top)+10, html.EscapeString(m.Text))
		}
		if p.Limit != 0 {
			fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#b00" stroke-width="1"/><text x="%d" y="%.1f" fill="#b00" text-anchor="end">%g</text>`+"\n", left, width-right, y(p.Limit), y(p.Limit), width-right-4, y(p.Limit)-4, p.Limit)
		}
		for n, s := range p.Series {
			var points []string
			for j, v := range s.Y {
				points = append(points, fmt.Sprintf("%.1f,%.1f", x(c.X[j]), y(v)))
			}
			style := styles[n%len(styles)]
			fmt.Fprintf(&b, `<polyline fill="none" stroke-width="2" %s points="%s"/>`+"\n", style, strings.Join(points, " "))
			at := base - panelHeight + 24 + float64(n)*34
			fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.0f" y2="%.0f" stroke-width="2" %s/><text x="%d" y="%.0f">%s</text>`+"\n", width-right+30, width-right+58, at, at, style, width-right+30, at+15, html.EscapeString(s.Name))
		}
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" fill="#555" font-size="11">%s</text>`+"\n</svg>\n", left, height-8, html.EscapeString(c.Note))
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// ticks are some four round numbers from 0 to top.
func ticks(top float64) (out []float64) {
	step := math.Pow(10, math.Floor(math.Log10(top/4)))
	for _, m := range [...]float64{1, 2, 2.5, 5, 10} {
		if top/(step*m) <= 5 {
			step *= m
			break
		}
	}
	for v := 0.0; v <= top*1.001; v += step {
		out = append(out, math.Round(v*1e6)/1e6)
	}
	return out
}
