package asl

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Data asks the store for lines: the series that Query means, put together by Aggr for each combination of the values
// of By, or into one line without By. Series that lack a key of By are left out.
type Data struct {
	Query  *Query
	Aggr   Aggr
	By     []string
	Offset time.Duration // how far back in time to look
	Coarse Aggr          // how points are put together when the step is coarser than the store's; 0 = by Aggr
}

// Aggr is a way to put values together. NaN never takes part.
type Aggr uint8

// The ways. All keeps every series its own line; Avg is for consolidation only.
const (
	Sum Aggr = iota + 1
	Count
	Min
	Max
	All
	Avg
)

var aggrNames = [...]string{Sum: "sum", Count: "count", Min: "min", Max: "max", All: "all", Avg: "avg"}

func (a Aggr) String() string { return aggrNames[a] }

// Consolidate returns how points of d become one coarser point.
func (d *Data) Consolidate() Aggr {
	switch {
	case d.Coarse != 0:
		return d.Coarse
	case d.Aggr == Min, d.Aggr == Max:
		return d.Aggr
	case d.Aggr == All:
		return Sum
	}
	return Avg
}

func (d *Data) with(change func(*Data)) *Data {
	c := *d
	change(&c)
	return &c
}

func (d *Data) program() string {
	s := d.Query.String() + ",:" + d.Aggr.String()
	if d.Coarse != 0 {
		s += ",:cf-" + d.Coarse.String()
	}
	if len(d.By) > 0 {
		s += "," + list(d.By) + ",:by"
	}
	if d.Offset != 0 {
		s += "," + FormatDuration(d.Offset) + ",:offset"
	}
	return s
}

// label is what a legend says of a line that is data and nothing else.
func (d *Data) label(line Series) string {
	if line.Label == noDataLabel || len(d.By) > 0 || d.Aggr == All {
		return line.Label
	}
	return d.Aggr.String() + "(" + d.Query.Label() + ")"
}

// Expr is an expression: what to fetch and what to calculate with it. It is immutable; parts may be shared.
type Expr struct {
	kind   kind
	word   string   // ":add"; how it is written and what it does
	args   []*Expr  // operands
	data   *Data    // of dataExpr
	num    float64  // of constExpr
	params []string // what is written between the operands and the word
	nums   []float64
	keys   []string // of aggrExpr: one line for each combination of their values

	// of rewriteExpr, a short form: written as shown, params, word and after; args[0] is what it means.
	shown  fmt.Stringer // *Query or *Expr
	expand func(shown fmt.Stringer) *Expr
	after  []step // later words, applied to what expand returns

	size int // nodes, shared ones counted each time
}

// step is a word that was applied to a short form as a whole.
type step struct {
	by     []string      // :by
	offset time.Duration // :offset
	coarse Aggr          // :cf-...
}

func (s step) String() string {
	switch {
	case s.by != nil:
		return list(s.by) + ",:by"
	case s.coarse != 0:
		return ":cf-" + s.coarse.String()
	}
	return FormatDuration(s.offset) + ",:offset"
}

func (s step) apply(e *Expr) (*Expr, error) {
	switch {
	case s.by != nil:
		return e.group(s.by)
	case s.coarse != 0:
		return e.coarse(s.coarse)
	}
	return e.shift(s.offset)
}

type kind uint8

const (
	dataExpr kind = iota
	constExpr
	clockExpr   // :time, :random
	unaryExpr   // one line in, one line out, with parameters
	binaryExpr  // joined by grouping keys
	aggrExpr    // lines into one, or into one for each key
	stateExpr   // a line into a line that depends on earlier points
	percentExpr // bucket counters into percentiles
	rewriteExpr // a short form of something longer
	statExpr    // a line into one statistic of it
	filterExpr  // lines for which a condition holds
	holeExpr    // in a condition: a statistic of what is being filtered
)

func newExpr(e Expr) *Expr {
	e.size = 1
	if e.kind == dataExpr {
		e.size += e.data.Query.size()
	}
	for _, a := range e.args {
		e.size += a.size
	}
	return &e
}

func newData(d *Data) *Expr            { return newExpr(Expr{kind: dataExpr, data: d}) }
func newConst(v float64) *Expr         { return newExpr(Expr{kind: constExpr, num: v}) }
func aggregate(q *Query, a Aggr) *Expr { return newData(&Data{Query: q, Aggr: a}) }

func newUnary(word string, x *Expr, nums ...float64) *Expr {
	if f, ok := unaryOps[word]; ok && x.kind == constExpr {
		return newConst(f(x.num, nums))
	}
	return newExpr(Expr{kind: unaryExpr, word: word, args: []*Expr{x}, nums: nums, params: formatAll(nums)})
}

func newBinary(word string, l, r *Expr) *Expr {
	if l.kind == constExpr && r.kind == constExpr {
		return newConst(binaryOps[word](l.num, r.num))
	}
	return newExpr(Expr{kind: binaryExpr, word: word, args: []*Expr{l, r}})
}

// newAggr puts the lines of x together. One line of data, or a constant, is its own sum, minimum and maximum.
func newAggr(a Aggr, x *Expr) *Expr {
	alone := x.kind == dataExpr && len(x.data.By) == 0 && x.data.Aggr != All
	if alone && a != Count {
		return x
	}
	return newExpr(Expr{kind: aggrExpr, word: ":" + a.String(), args: []*Expr{x}})
}

func newRewrite(word string, shown fmt.Stringer, expand func(fmt.Stringer) *Expr) *Expr {
	return newExpr(Expr{kind: rewriteExpr, word: word, shown: shown, expand: expand, args: []*Expr{expand(shown)}})
}

// reshow returns the short form of something else, with other words after it.
func (e *Expr) reshow(shown fmt.Stringer, after []step) (*Expr, error) {
	c := *e
	c.shown, c.after = shown, after
	means := e.expand(shown)
	for _, s := range after {
		var err error
		if means, err = s.apply(means); err != nil {
			return nil, err
		}
	}
	c.args = []*Expr{means}
	return newExpr(c), nil
}

// then returns the short form with one more word after it.
func (e *Expr) then(s step) (*Expr, error) {
	means, err := s.apply(e.args[0])
	if err != nil {
		return nil, err
	}
	c := *e
	c.after, c.args = append(slices.Clone(e.after), s), []*Expr{means}
	return newExpr(c), nil
}

func formatAll(nums []float64) []string {
	var out []string
	for _, n := range nums {
		out = append(out, formatNumber(n))
	}
	return out
}

// formatNumber writes v as Java does, which is what ASL shows: 42.0, 1.0E18, NaN, Infinity.
func formatNumber(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "NaN"
	case math.IsInf(v, 0):
		return strings.Replace(strconv.FormatFloat(v, 'g', -1, 64), "Inf", "Infinity", 1)[btoi(v > 0):]
	case a != 0 && (a < 1e-3 || a >= 1e7):
		m, e, _ := strings.Cut(strconv.FormatFloat(v, 'e', -1, 64), "e")
		if !strings.Contains(m, ".") {
			m += ".0"
		}
		n, err := strconv.Atoi(e)
		if err != nil {
			return m
		}
		return m + "E" + strconv.Itoa(n)
	}
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// String returns a program that makes e.
func (e *Expr) String() string {
	var parts []string
	switch e.kind {
	case dataExpr:
		return e.data.program()
	case constExpr:
		return formatNumber(e.num) + ",:const"
	case holeExpr:
		return e.word
	case rewriteExpr:
		parts = append(parts, e.shown.String())
	case percentExpr:
		d := e.args[0].data
		keys := without(d.By, percentileKey)
		s := d.Query.String()
		if len(keys) > 0 {
			s += ",:sum," + list(keys) + ",:by"
		}
		s += "," + list(e.params) + ",:percentiles"
		if d.Offset != 0 {
			s += "," + FormatDuration(d.Offset) + ",:offset"
		}
		return s
	default:
		for _, a := range e.args {
			parts = append(parts, a.String())
		}
	}
	for _, p := range e.params {
		parts = append(parts, escape(p))
	}
	parts = append(parts, e.word)
	if len(e.keys) > 0 {
		parts = append(parts, list(e.keys), ":by")
	}
	for _, s := range e.after {
		parts = append(parts, s.String())
	}
	return strings.Join(parts, ",")
}

func without(keys []string, key string) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k == key })
}

// DataExprs returns what e fetches.
func (e *Expr) DataExprs() []*Data {
	if e.kind == dataExpr {
		return []*Data{e.data}
	}
	var all []*Data
	for _, a := range e.args {
		all = append(all, a.DataExprs()...)
	}
	return all
}

// grouping returns the keys by which the lines of e differ.
func (e *Expr) grouping() []string {
	switch e.kind {
	case dataExpr:
		return e.data.By
	case constExpr, clockExpr, holeExpr:
		return nil
	case aggrExpr:
		return e.keys
	case binaryExpr:
		if l, r := e.args[0].grouping(), e.args[1].grouping(); len(l) >= len(r) {
			return l
		} else {
			return r
		}
	}
	return e.args[0].grouping()
}

// fill returns a condition whose holes are statistics of what it is the condition of.
func (e *Expr) fill(filtered *Expr) *Expr {
	if e.kind == holeExpr {
		return newExpr(Expr{kind: statExpr, word: ":stat", args: []*Expr{filtered}, params: e.params})
	}
	args := make([]*Expr, len(e.args))
	for i, a := range e.args {
		args[i] = a.fill(filtered)
	}
	return e.rebuild(args)
}

// commonTags returns the tags that all data of e have because its queries say so.
func (e *Expr) commonTags() map[string]string {
	all := e.DataExprs()
	if len(all) == 0 {
		return map[string]string{}
	}
	tags := all[0].Query.Exact()
	for _, d := range all[1:] {
		other := d.Query.Exact()
		maps.DeleteFunc(tags, func(k, v string) bool { return other[k] != v })
	}
	return tags
}

// rebuild returns e with other operands, constants folded again.
func (e *Expr) rebuild(args []*Expr) *Expr {
	if slices.Equal(args, e.args) {
		return e
	}
	c := *e
	c.args = args
	return newExpr(c)
}

// mapData returns e with f applied to all its data. Where that changes what a short form means, shown says how the
// short form is written then.
func (e *Expr) mapData(f func(*Data) *Data, shown func(short *Expr) (*Expr, error)) (*Expr, error) {
	switch e.kind {
	case dataExpr:
		return newData(f(e.data)), nil
	case rewriteExpr:
		return shown(e)
	}
	args := make([]*Expr, len(e.args))
	for i, a := range e.args {
		m, err := a.mapData(f, shown)
		if err != nil {
			return nil, err
		}
		args[i] = m
	}
	return e.rebuild(args), nil
}

// restrict returns e with q as a further condition on everything it fetches (:cq).
func (e *Expr) restrict(q *Query) (*Expr, error) {
	return e.mapData(
		func(d *Data) *Data { return d.with(func(d *Data) { d.Query = newAnd(d.Query, q) }) },
		func(short *Expr) (*Expr, error) {
			if shown, ok := short.shown.(*Query); ok {
				return short.reshow(newAnd(shown, q), short.after)
			}
			shown, err := short.shown.(*Expr).restrict(q)
			if err != nil {
				return nil, err
			}
			return short.reshow(shown, short.after)
		})
}

// shift returns e looking d back in time (:offset).
func (e *Expr) shift(d time.Duration) (*Expr, error) {
	return e.mapData(
		func(x *Data) *Data { return x.with(func(x *Data) { x.Offset = d }) },
		func(short *Expr) (*Expr, error) { return short.then(step{offset: d}) })
}

// coarse returns e with another consolidation (:cf-max and others).
func (e *Expr) coarse(a Aggr) (*Expr, error) {
	return e.mapData(
		func(x *Data) *Data { return x.with(func(x *Data) { x.Coarse = a }) },
		func(short *Expr) (*Expr, error) { return short.then(step{coarse: a}) })
}

// group returns e with one line for each combination of values of keys (:by).
func (e *Expr) group(keys []string) (*Expr, error) {
	switch e.kind {
	case constExpr, clockExpr, holeExpr:
		return e, nil
	case rewriteExpr:
		return e.then(step{by: keys})
	case dataExpr:
		if len(e.data.By) > 0 {
			if err := subset(keys, e.data.By); err != nil {
				return nil, err
			}
		}
		return newData(e.data.with(func(d *Data) { d.By = keys })), nil
	case percentExpr:
		d := e.args[0].data
		if old := without(d.By, percentileKey); len(old) > 0 {
			if err := subset(keys, old); err != nil {
				return nil, err
			}
		}
		by := append([]string{percentileKey}, without(keys, percentileKey)...)
		return e.rebuild([]*Expr{newData(d.with(func(d *Data) { d.By = by }))}), nil
	case aggrExpr:
		if len(e.DataExprs()) == 0 {
			return e, nil
		}
		c := *e
		c.keys = keys
		if inner := e.args[0].grouping(); len(inner) > 0 {
			return newExpr(c), subset(keys, inner)
		}
		inner, err := e.args[0].group(keys)
		c.args = []*Expr{inner}
		if err != nil {
			return nil, err
		}
		return newExpr(c), nil
	}
	args := make([]*Expr, len(e.args))
	for i, a := range e.args {
		g, err := a.group(keys)
		if err != nil {
			return nil, err
		}
		args[i] = g
	}
	return e.rebuild(args), nil
}

func subset(keys, of []string) error {
	for _, k := range keys {
		if !slices.Contains(of, k) {
			return fmt.Errorf("requirement failed: %s is not a subset of %s", list(keys), list(of))
		}
	}
	return nil
}

// regroup returns e with keys added to each grouping in it, and to data without one (:cg).
func (e *Expr) regroup(keys []string) (*Expr, error) {
	switch e.kind {
	case constExpr, clockExpr, holeExpr:
		return e, nil
	case dataExpr:
		return newData(e.data.with(func(d *Data) { d.By = union(d.By, keys) })), nil
	case rewriteExpr:
		return e.regroupShort(keys)
	}
	args := make([]*Expr, len(e.args))
	for i, a := range e.args {
		g, err := a.regroup(keys)
		if err != nil {
			return nil, err
		}
		args[i] = g
	}
	c := e.rebuild(args)
	if e.kind == aggrExpr {
		c.keys = union(e.keys, keys)
	}
	return c, nil
}

func (e *Expr) regroupShort(keys []string) (*Expr, error) {
	after := slices.Clone(e.after)
	grouped := false
	for i, s := range after {
		if s.by != nil {
			after[i].by, grouped = union(s.by, keys), true
		}
	}
	shown, ok := e.shown.(*Expr)
	if !ok {
		if !grouped {
			after = append(after, step{by: keys})
		}
		return e.reshow(e.shown, after)
	}
	shown, err := shown.regroup(keys)
	if err != nil {
		return nil, err
	}
	return e.reshow(shown, after)
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, k := range b {
		if !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}
