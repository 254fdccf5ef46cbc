// Package asl reads and evaluates the stack language in which telemetry is asked for. At Netflix this was the Atlas
// Stack Language.
//
//	lines, err := asl.Parse("name,ipc.server.call,:eq,statistic,count,:eq,:and,:sum,(,nf.app,),:by")
//	for _, l := range lines {
//		series, err := l.Eval(ctx, window, fetch)
//		...
//	}
//
// A program is a list of tokens between commas. A token that begins with a colon is a word and works on the stack, any
// other is text that is pushed. "(" to ")" pushes a list. What is on the stack at the end are the lines of the
// result, the bottom first.
//
// # The words
//
//	stack    :call :clear :depth :drop :dup :each :fcall :format :freeze :get :list :map :ndrop :nip :nlist :over
//	         :2over :pick :roll :rot :-rot :set :sset :swap :tuck
//	queries  :true :false :has :eq :lt :le :gt :ge :re :reic :contains :starts :ends :in :and :or :not :cq
//	data     :sum :count :min :max :all :by :cg :offset :cf-sum :cf-avg :cf-min :cf-max
//	math     :const :pi :random :srandom :time :abs :neg :sqrt :sin :cos :tan :cot :sec :csc :per-step :clamp-min
//	         :clamp-max :add :sub :mul :div :fadd :fsub :fmul :fdiv :pow :gt :ge :lt :le :and :or :avg :pct :stddev
//	         :dist-avg :dist-max :dist-stddev :median :percentiles
//	history  :delay :rolling-count :rolling-min :rolling-max :rolling-mean :rolling-sum :trend :integral :derivative
//	         :cumulative-max :des :des-simple :des-fast :des-slower :des-slow
//	filter   :stat :stat-avg :stat-max :stat-min :stat-last :stat-count :stat-total :filter
//	style    :legend :color :alpha :palette :ls :line :area :stack :vspan :lw :axis :sort :order :limit :head
//	         :strip-style, and :offset with a list
//
// # What it promises
//   - A program that Parse accepts, printed and parsed again, is the same program.
//   - Whatever the program, parsing and evaluating it takes bounded memory and does not panic.
//
// # What it does not
//   - It does not know :topk and its kin, :consolidate, :sdes, :des-epic-signal, :named-rewrite, :sample-count,
//     :approx-distinct, :time-span, :as, :decode and :s. Asking for one gives the list above.
//   - Words of history start anew at the start of the window.
package asl

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxProgram = 64 << 10
	maxStack   = 1024 // items on the stack, and in a list
	maxDepth   = 10   // of calls in calls

	maxExprSize = 4096    // operations of an expression with its queries
	maxWork     = 1 << 20 // operations that the words of a program may build, all in all
)

// Line is an expression and how to draw its result.
type Line struct {
	Expr  *Expr
	Style map[string]string // by the word without its colon: legend, color, ls, ...
}

// Parse reads a program. Its errors say what is wrong with it; there are no others.
func Parse(program string) ([]Line, error) {
	stack, err := run(program)
	if err != nil {
		return nil, err
	}
	lines := make([]Line, 0, len(stack))
	size := 0
	for i, v := range stack {
		l, ok := toLine(v)
		if !ok {
			return nil, fmt.Errorf("the result is not an expression: item %d from the bottom of the stack is %s; a word such as :eq is missing after it", i+1, describe(v))
		}
		if size += l.Expr.size; size > maxExprSize {
			return nil, errTooLarge
		}
		lines = append(lines, l)
	}
	if len(lines) == 0 {
		return nil, errors.New("the program leaves nothing on the stack; write an expression such as name,sps,:eq,:sum")
	}
	return lines, nil
}

// ParseQuery reads a program whose result is one query.
func ParseQuery(program string) (*Query, error) {
	stack, err := run(program)
	if err != nil {
		return nil, err
	}
	if len(stack) == 1 {
		if q, ok := stack[0].(*Query); ok {
			return q, nil
		}
	}
	return nil, fmt.Errorf("%q is not a query; a query is such as name,sps,:eq", program)
}

func run(program string) ([]any, error) {
	if len(program) > maxProgram {
		return nil, fmt.Errorf("the program has %d bytes; at most %d are allowed", len(program), maxProgram)
	}
	if !utf8.ValidString(program) {
		return nil, errors.New("the program is not UTF-8")
	}
	tokens, err := tokenize(program)
	if err != nil {
		return nil, err
	}
	items := make([]any, len(tokens))
	for i, t := range tokens {
		items[i] = t
	}
	m := machine{vars: make(map[string]any), words: vocabulary}
	if err := m.exec(items); err != nil {
		return nil, err
	}
	return append(m.frozen, m.stack...), nil
}

// String returns a program that makes l.
func (l Line) String() string {
	parts := []string{l.Expr.String()}
	for _, k := range slices.Backward(slices.Sorted(maps.Keys(l.Style))) {
		switch v := l.Style[k]; k {
		case "ls":
			parts = append(parts, ":"+v)
		case "offset":
			parts = append(parts, list(strings.Split(v, ",")), ":offset")
		default:
			parts = append(parts, escape(v), ":"+k)
		}
	}
	return strings.Join(parts, ",")
}

// copies returns l, or one for each duration of a list given to :offset.
func (l Line) copies() []Line {
	ds, ok := l.Style["offset"]
	if !ok || ds == "" {
		return []Line{l}
	}
	var out []Line
	for s := range strings.SplitSeq(ds, ",") {
		d, err := ParseDuration(s)
		if err != nil {
			continue // :offset has refused it
		}
		x, err := l.Expr.shift(d)
		if err != nil {
			continue // a shift changes no grouping, so it cannot fail
		}
		out = append(out, Line{x, l.Style})
	}
	return out
}

func (l Line) offset() time.Duration {
	for _, d := range l.Expr.DataExprs() {
		return d.Offset
	}
	return 0
}

// label returns what the legend says of s.
func (l Line) label(s Series) string {
	if pattern, ok := l.Style["legend"]; ok {
		return legend(pattern, s, l.offset())
	}
	label := s.Label
	if l.Expr.kind == dataExpr {
		label = l.Expr.data.label(s)
	}
	if d := l.offset(); d != 0 {
		label += " (offset=" + FormatDuration(d) + ")"
	}
	return label
}

// legend replaces $key and $(key) by the tags of s and what it amounts to. What is not known stands for itself.
func legend(pattern string, s Series, offset time.Duration) string {
	value := func(k string) string {
		if stat, ok := strings.CutPrefix(k, "atlas."); ok {
			switch stat {
			case "offset":
				return FormatDuration(offset)
			case "avg", "max", "min", "last", "total":
				return formatNumber(statistic(stat, s.Values))
			}
		}
		if v, ok := s.Tags[k]; ok {
			return v
		}
		return k
	}
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(pattern, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		if inner, ok := strings.CutPrefix(rest, "("); ok {
			if k, after, ok := strings.Cut(inner, ")"); ok {
				if k == "" {
					out.WriteByte('$')
				} else {
					out.WriteString(value(k))
				}
				pattern = after
				continue
			}
		}
		n := 0
		for n < len(rest) && (rest[n] == '.' || rest[n] == '-' || rest[n] == '_' || '0' <= rest[n] && rest[n] <= '9' || 'a' <= rest[n]|0x20 && rest[n]|0x20 <= 'z') {
			n++
		}
		if n == 0 {
			out.WriteByte('$')
		} else {
			out.WriteString(value(rest[:n]))
		}
		pattern = rest[n:]
	}
}

// arrange sorts and cuts the lines as :sort, :order and :limit say.
func (l Line) arrange(lines []Series) []Series {
	by := l.Style["sort"]
	desc := l.Style["order"] == "desc"
	if by != "" || desc {
		slices.SortStableFunc(lines, func(a, b Series) int {
			c := 0
			if by == "" || by == "legend" {
				c = strings.Compare(a.Label, b.Label)
			} else {
				x, y := statistic(by, a.Values), statistic(by, b.Values)
				switch {
				case x != x || y != y: // NaN last, whatever the order
					return btoi(x != x) - btoi(y != y)
				case x < y:
					c = -1
				case x > y:
					c = 1
				}
			}
			if desc {
				return -c
			}
			return c
		})
	}
	if n, err := strconv.Atoi(l.Style["limit"]); err == nil && n < len(lines) {
		lines = lines[:n]
	}
	return lines
}
