package asl

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

var errTooLarge = fmt.Errorf("the expression is too large; at most %d operations are allowed", maxExprSize)

// machine runs a program. Items of the stack are string, []any (a list, whose items may be raw tokens), *Query, *Expr
// and Line.
type machine struct {
	stack  []any
	frozen []any // what :freeze put out of reach
	vars   map[string]any
	words  map[string][]word
	depth  int
	work   int // operations built so far
}

// word is one word: the types it wants, as signatures, and what it does. do returns false when the stack does not
// have what it wants.
type word struct {
	signature string
	do        func(m *machine) (bool, error)
}

func (m *machine) exec(items []any) error {
	for i := 0; i < len(items); i++ {
		t, isToken := items[i].(raw)
		switch {
		case !isToken:
			m.push(items[i])
		case t == "(":
			end, err := closing(items, i)
			if err != nil {
				return err
			}
			if end-i-1 > maxStack {
				return fmt.Errorf("stack overflow: list size exceeds limit of %d", maxStack)
			}
			m.push(slices.Clone(items[i+1 : end]))
			i = end
		case t == ")":
			return errors.New("unmatched closing parenthesis")
		case t[0] == ':':
			if err := m.word(string(t)); err != nil {
				return err
			}
		default:
			m.push(unescape(string(t)))
		}
		if len(m.stack) > maxStack {
			return fmt.Errorf("stack overflow: stack size exceeds limit of %d", maxStack)
		}
	}
	return nil
}

// closing returns where the list that opens at i ends.
func closing(items []any, i int) (int, error) {
	depth := 0
	for j := i; j < len(items); j++ {
		switch items[j] {
		case raw("("):
			depth++
		case raw(")"):
			if depth--; depth == 0 {
				return j, nil
			}
		}
	}
	return 0, errors.New("unmatched opening parenthesis")
}

func (m *machine) word(name string) error {
	variants, ok := m.words[name]
	if !ok {
		return fmt.Errorf("unknown word '%s'%s", name, m.hint(name))
	}
	for _, w := range variants {
		before := slices.Clone(m.stack)
		ok, err := w.do(m)
		if err != nil {
			return err
		}
		if ok {
			return m.check()
		}
		m.stack = before
	}
	types := make([]string, len(m.stack))
	for i, v := range m.stack {
		types[i] = describe(v)
	}
	signatures := make([]string, len(variants))
	for i, w := range variants {
		signatures[i] = "[" + w.signature + "]"
	}
	return fmt.Errorf("no matches for word '%s' with stack [%s], candidates: %s", name, strings.Join(types, ","), strings.Join(signatures, ", "))
}

// check bounds what :dup and :add, or :dup and :and, in turn can build, and the work it takes.
func (m *machine) check() error {
	if len(m.stack) == 0 {
		return nil
	}
	size := 0
	switch v := m.stack[len(m.stack)-1].(type) {
	case *Query:
		size = v.size()
	case *Expr:
		size = v.size
	case Line:
		size = v.Expr.size
	}
	if m.work += size; size > maxExprSize || m.work > maxWork {
		return errTooLarge
	}
	return nil
}

// hint says which words there are, for a word that Atlas has and this package has not.
func (m *machine) hint(name string) string {
	if !slices.Contains(missing, name) {
		return ""
	}
	return "; it is not supported here, these are: " + strings.Join(slices.Sorted(maps.Keys(m.words)), " ")
}

var missing = []string{":topk", ":topk-others-min", ":topk-others-max", ":topk-others-sum", ":topk-others-avg", ":bottomk",
	":bottomk-others-min", ":bottomk-others-max", ":bottomk-others-sum", ":bottomk-others-avg", ":consolidate", ":sdes",
	":sdes-simple", ":sdes-fast", ":sdes-slower", ":sdes-slow", ":des-epic-signal", ":des-epic-viz", ":named-rewrite",
	":sample-count", ":approx-distinct", ":time-span", ":as", ":decode", ":s", ":sample", ":table", ":heatmap",
	":percentiles-heatmap", ":node-avg", ":eureka-avg", ":stat-min-mf", ":stat-max-mf", ":stat-avg-mf"}

func describe(v any) string {
	switch v.(type) {
	case string, raw:
		return "String"
	case []any:
		return "List"
	case *Query:
		return "Query"
	case *Expr:
		return "TimeSeriesExpr"
	case Line:
		return "StyleExpr"
	}
	return "Any"
}

func (m *machine) push(v ...any) { m.stack = append(m.stack, v...) }

func (m *machine) pop() (any, bool) {
	if len(m.stack) == 0 {
		return nil, false
	}
	v := m.stack[len(m.stack)-1]
	m.stack = m.stack[:len(m.stack)-1]
	return v, true
}

func (m *machine) popString() (string, bool) {
	v, _ := m.pop()
	s, ok := v.(string)
	return s, ok
}

func (m *machine) popInt() (int, bool) {
	s, ok := m.popString()
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0
}

func (m *machine) popNumber() (float64, bool) {
	v, _ := m.pop()
	switch v := v.(type) {
	case string:
		return parseNumber(v)
	case *Expr:
		return v.num, v.kind == constExpr
	}
	return 0, false
}

// parseNumber reads what Java would read as a double, roughly: no hexadecimal, no underscores.
func parseNumber(s string) (float64, bool) {
	if strings.ContainsAny(s, "xX_") || s != "NaN" && strings.ContainsAny(s, "nN") && !strings.HasSuffix(s, "Infinity") {
		return 0, false
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return v, true
}

func (m *machine) popList() ([]any, bool) {
	v, _ := m.pop()
	l, ok := v.([]any)
	return l, ok
}

// popStrings takes a list of texts.
func (m *machine) popStrings() ([]string, bool) {
	l, ok := m.popList()
	if !ok {
		return nil, false
	}
	out := make([]string, len(l))
	for i, v := range l {
		switch v := v.(type) {
		case raw:
			out[i] = unescape(string(v))
		case string:
			out[i] = v
		default:
			return nil, false
		}
	}
	return out, true
}

func (m *machine) popQuery() (*Query, bool) {
	v, _ := m.pop()
	q, ok := v.(*Query)
	return q, ok
}

// popLine takes whatever can be a line: a styled one, an expression, a query (its sum) or a number.
func (m *machine) popLine() (Line, bool) {
	v, ok := m.pop()
	if !ok {
		return Line{}, false
	}
	return toLine(v)
}

func toLine(v any) (Line, bool) {
	switch v := v.(type) {
	case string:
		n, ok := parseNumber(v)
		return Line{Expr: newConst(n)}, ok
	case *Query:
		return Line{Expr: aggregate(v, Sum)}, true
	}
	return toLineIfExpr(v)
}

func toLineIfExpr(v any) (Line, bool) {
	switch v := v.(type) {
	case *Expr:
		return Line{Expr: v}, true
	case Line:
		return v, true
	}
	return Line{}, false
}

// pushLike pushes e with the style, if there is one.
func (m *machine) pushLike(style map[string]string, e *Expr) {
	if style == nil {
		m.push(e)
		return
	}
	m.push(Line{Expr: e, Style: style})
}

// call runs a list.
func (m *machine) call(body []any) error {
	if m.depth++; m.depth > maxDepth {
		return errors.New("looping detected")
	}
	defer func() { m.depth-- }()
	return m.exec(body)
}
