package asl

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// vocabulary is all words. A word with several variants does the first for which the stack has what it wants.
var vocabulary = words()

func words() map[string][]word {
	v := make(map[string][]word)
	add := func(name, signature string, do func(m *machine) (bool, error)) {
		v[name] = append(v[name], word{signature, do})
	}
	standardWords(add)
	queryWords(add)
	dataWords(add)
	mathWords(add)
	historyWords(add)
	filterWords(add)
	styleWords(add)
	return v
}

type adder func(name, signature string, do func(m *machine) (bool, error))

// items makes a word of a function on the topmost n items, bottom first.
func items(n int, f func(x []any) []any) func(m *machine) (bool, error) {
	return func(m *machine) (bool, error) {
		if len(m.stack) < n {
			return false, nil
		}
		at := len(m.stack) - n
		x := slices.Clone(m.stack[at:])
		m.stack = append(m.stack[:at], f(x)...)
		return true, nil
	}
}

// counted makes a word of a function on the stack and a number that stood on top of it.
func counted(f func(m *machine, n int) bool) func(m *machine) (bool, error) {
	return func(m *machine) (bool, error) {
		n, ok := m.popInt()
		return ok && f(m, n), nil
	}
}

func standardWords(add adder) {
	add(":clear", "* -- <empty>", func(m *machine) (bool, error) { m.stack = nil; return true, nil })
	add(":depth", " -- N", func(m *machine) (bool, error) { m.push(strconv.Itoa(len(m.stack))); return true, nil })
	add(":drop", "a:Any -- ", items(1, func(x []any) []any { return nil }))
	add(":dup", "a:Any -- Any Any", items(1, func(x []any) []any { return []any{x[0], x[0]} }))
	add(":swap", "a:Any b:Any -- b:Any a:Any", items(2, func(x []any) []any { return []any{x[1], x[0]} }))
	add(":over", "a:Any b:Any -- a:Any b:Any a:Any", items(2, func(x []any) []any { return []any{x[0], x[1], x[0]} }))
	add(":2over", "a:Any b:Any -- a:Any b:Any a:Any b:Any", items(2, func(x []any) []any { return []any{x[0], x[1], x[0], x[1]} }))
	add(":nip", "a:Any b:Any -- b:Any", items(2, func(x []any) []any { return x[1:] }))
	add(":tuck", "a:Any b:Any -- b:Any a:Any b:Any", items(2, func(x []any) []any { return []any{x[1], x[0], x[1]} }))
	add(":rot", "* a:Any -- a:Any *", func(m *machine) (bool, error) {
		if len(m.stack) == 0 {
			return false, nil
		}
		m.stack = append(slices.Clone(m.stack[1:]), m.stack[0])
		return true, nil
	})
	add(":-rot", "* a:Any -- a:Any *", func(m *machine) (bool, error) {
		top, ok := m.pop()
		m.stack = append([]any{top}, m.stack...)
		return ok, nil
	})
	add(":pick", "aN:Any ... a0:Any N -- aN:Any ... a0:Any aN:Any", counted(func(m *machine, n int) bool {
		if n >= len(m.stack) {
			return false
		}
		m.push(m.stack[len(m.stack)-1-n])
		return true
	}))
	add(":roll", "aN:Any ... a0:Any N -- aN-1:Any ... a0:Any aN:Any", counted(func(m *machine, n int) bool {
		if n >= len(m.stack) {
			return false
		}
		at := len(m.stack) - 1 - n
		x := m.stack[at]
		m.stack = append(slices.Delete(slices.Clone(m.stack), at, at+1), x)
		return true
	}))
	add(":ndrop", "aN:Any ... a0:Any N -- ", counted(func(m *machine, n int) bool {
		m.stack = m.stack[:max(0, len(m.stack)-n)]
		return true
	}))
	add(":nlist", "aN:Any ... a0:Any N -- List", counted(func(m *machine, n int) bool {
		at := max(0, len(m.stack)-n)
		items := slices.Clone(m.stack[at:])
		m.stack = m.stack[:at]
		m.push(items)
		return true
	}))
	add(":list", "* -- List", func(m *machine) (bool, error) {
		items := slices.Clone(m.stack)
		slices.Reverse(items)
		m.stack = []any{items}
		return true, nil
	})
	add(":get", "k:String -- v:Any", func(m *machine) (bool, error) {
		k, ok := m.popString()
		if !ok {
			return false, nil
		}
		v, ok := m.vars[k]
		if !ok {
			return false, fmt.Errorf("key not found: %s", k)
		}
		m.push(v)
		return true, nil
	})
	set := func(m *machine, k any, v any) (bool, error) {
		name, ok := k.(string)
		if ok {
			m.vars[name] = v
		}
		return ok, nil
	}
	add(":set", "k:String v:Any -- ", func(m *machine) (bool, error) {
		v, _ := m.pop()
		k, _ := m.pop()
		return set(m, k, v)
	})
	add(":sset", "v:Any k:String -- ", func(m *machine) (bool, error) {
		k, _ := m.pop()
		v, ok := m.pop()
		if !ok {
			return false, nil
		}
		return set(m, k, v)
	})
	add(":call", "List -- *", func(m *machine) (bool, error) {
		body, ok := m.popList()
		if !ok {
			return false, nil
		}
		return true, m.call(body)
	})
	add(":fcall", "name:String -- *", func(m *machine) (bool, error) {
		k, ok := m.popString()
		if !ok {
			return false, nil
		}
		v, ok := m.vars[k]
		if !ok {
			return false, fmt.Errorf("key not found: %s", k)
		}
		body, ok := v.([]any)
		if !ok {
			return false, nil
		}
		return true, m.call(body)
	})
	add(":each", "items:List f:List -- f(items[N]) ... f(items[0])", func(m *machine) (bool, error) {
		body, ok1 := m.popList()
		list, ok2 := m.popList()
		if !ok1 || !ok2 {
			return false, nil
		}
		for _, item := range slices.Backward(list) {
			m.push(plain(item))
			if err := m.call(body); err != nil {
				return false, err
			}
		}
		return true, nil
	})
	add(":map", "items:List f:List -- List", func(m *machine) (bool, error) {
		body, ok1 := m.popList()
		list, ok2 := m.popList()
		if !ok1 || !ok2 {
			return false, nil
		}
		out := make([]any, len(list))
		for i, item := range list {
			m.push(plain(item))
			if err := m.call(body); err != nil {
				return false, err
			}
			v, ok := m.pop()
			if !ok {
				return false, errors.New("the function given to :map leaves nothing on the stack")
			}
			out[i] = v
		}
		m.push(out)
		return true, nil
	})
	add(":format", "pattern:String args:List -- String", func(m *machine) (bool, error) {
		args, ok1 := m.popStrings()
		pattern, ok2 := m.popString()
		if !ok1 || !ok2 {
			return false, nil
		}
		s, err := format(pattern, args)
		m.push(s)
		return true, err
	})
	add(":freeze", "* -- <empty>", func(m *machine) (bool, error) {
		m.frozen = append(m.frozen, m.stack...)
		m.stack = nil
		clear(m.vars)
		return true, nil
	})
}

// plain is an item of a list as data.
func plain(item any) any {
	if t, ok := item.(raw); ok {
		return unescape(string(t))
	}
	return item
}

func format(pattern string, args []string) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(pattern, "%")
		out.WriteString(before)
		if out.Len() > maxProgram {
			return "", fmt.Errorf("the formatted text has more than %d bytes", maxProgram)
		}
		switch {
		case !found:
			return out.String(), nil
		case strings.HasPrefix(rest, "%"):
			out.WriteByte('%')
		case !strings.HasPrefix(rest, "s"):
			return "", fmt.Errorf("pattern %q: only %%s and %%%% are supported", pattern)
		case len(args) == 0:
			return "", errors.New("format specifier '%s' has no argument left")
		default:
			out.WriteString(args[0])
			args = args[1:]
		}
		pattern = rest[1:]
	}
}

func queryWords(add adder) {
	add(":true", " -- Query", func(m *machine) (bool, error) { m.push(&Query{Op: True}); return true, nil })
	add(":false", " -- Query", func(m *machine) (bool, error) { m.push(&Query{Op: False}); return true, nil })
	add(":has", "k:String -- Query", func(m *machine) (bool, error) {
		k, ok := m.popString()
		m.push(&Query{Op: Has, Key: k})
		return ok, nil
	})
	for op, name := range map[Op]string{Eq: ":eq", Lt: ":lt", Le: ":le", Gt: ":gt", Ge: ":ge"} {
		add(name, "k:String v:String -- Query", keyValue(func(k, v string) (*Query, error) {
			return &Query{Op: op, Key: k, Value: v}, nil
		}))
	}
	pattern := func(name string, op Op, pattern func(v string) string) {
		add(name, "k:String v:String -- Query", keyValue(func(k, v string) (*Query, error) {
			return newRegexp(op, k, pattern(v))
		}))
	}
	pattern(":re", Re, func(v string) string { return v })
	pattern(":reic", ReIC, func(v string) string { return v })
	pattern(":contains", Re, func(v string) string { return ".*" + regexp.QuoteMeta(v) })
	pattern(":starts", Re, func(v string) string { return "^" + regexp.QuoteMeta(v) })
	pattern(":ends", Re, func(v string) string { return ".*" + regexp.QuoteMeta(v) + "$" })
	add(":in", "k:String values:List -- Query", func(m *machine) (bool, error) {
		values, ok1 := m.popStrings()
		k, ok2 := m.popString()
		m.push(newIn(k, values))
		return ok1 && ok2, nil
	})
	both := func(name string, f func(l, r *Query) *Query) {
		add(name, "Query Query -- Query", func(m *machine) (bool, error) {
			r, ok1 := m.popQuery()
			l, ok2 := m.popQuery()
			if !ok1 || !ok2 {
				return false, nil
			}
			m.push(f(l, r))
			return true, nil
		})
	}
	both(":and", newAnd)
	both(":or", newOr)
	add(":not", "Query -- Query", func(m *machine) (bool, error) {
		q, ok := m.popQuery()
		if !ok {
			return false, nil
		}
		m.push(newNot(q))
		return true, nil
	})
	add(":cq", "Any Query -- Any", func(m *machine) (bool, error) {
		q, ok1 := m.popQuery()
		v, ok2 := m.pop()
		if !ok1 || !ok2 {
			return false, nil
		}
		if x, ok := v.(*Query); ok {
			m.push(newAnd(x, q))
			return true, nil
		}
		l, ok := toLineIfExpr(v)
		if !ok {
			m.push(v)
			return true, nil
		}
		e, err := l.Expr.restrict(q)
		if err != nil {
			return false, err
		}
		m.pushLike(l.Style, e)
		return true, nil
	})
}

func keyValue(f func(k, v string) (*Query, error)) func(m *machine) (bool, error) {
	return func(m *machine) (bool, error) {
		v, ok1 := m.popString()
		k, ok2 := m.popString()
		if !ok1 || !ok2 {
			return false, nil
		}
		q, err := f(k, v)
		m.push(q)
		return true, err
	}
}

// onLine makes a word of a function on the expression on top, whose style stays.
func onLine(f func(e *Expr) (*Expr, error)) func(m *machine) (bool, error) {
	return func(m *machine) (bool, error) {
		l, ok := m.popLine()
		if !ok {
			return false, nil
		}
		e, err := f(l.Expr)
		if err != nil {
			return false, err
		}
		m.pushLike(l.Style, e)
		return true, nil
	}
}

func dataWords(add adder) {
	for _, a := range []Aggr{Sum, Count, Min, Max} {
		name := ":" + a.String()
		add(name, "Query -- DataExpr", func(m *machine) (bool, error) {
			q, ok := m.popQuery()
			if ok {
				m.push(aggregate(q, a))
			}
			return ok, nil
		})
		add(name, "TimeSeriesExpr -- TimeSeriesExpr", onLine(func(e *Expr) (*Expr, error) { return newAggr(a, e), nil }))
	}
	add(":all", "Query -- DataExpr", func(m *machine) (bool, error) {
		q, ok := m.popQuery()
		if ok {
			m.push(aggregate(q, All))
		}
		return ok, nil
	})
	withKeys := func(name string, f func(e *Expr, keys []string) (*Expr, error)) {
		add(name, "TimeSeriesExpr keys:List -- TimeSeriesExpr", func(m *machine) (bool, error) {
			keys, ok := m.popStrings()
			if !ok || len(keys) == 0 {
				return false, nil
			}
			return onLine(func(e *Expr) (*Expr, error) { return f(e, keys) })(m)
		})
	}
	withKeys(":by", func(e *Expr, keys []string) (*Expr, error) { return e.group(keys) })
	withKeys(":cg", func(e *Expr, keys []string) (*Expr, error) { return e.regroup(keys) })
	add(":offset", "TimeSeriesExpr Duration -- TimeSeriesExpr", func(m *machine) (bool, error) {
		s, ok := m.popString()
		if !ok {
			return false, nil
		}
		d, err := ParseDuration(s)
		if err != nil {
			return false, err
		}
		return onLine(func(e *Expr) (*Expr, error) { return e.shift(d) })(m)
	})
	add(":offset", "TimeSeriesExpr List -- StyleExpr", func(m *machine) (bool, error) {
		ds, ok := m.popStrings()
		if !ok {
			return false, nil
		}
		if len(ds) > 100 {
			return false, fmt.Errorf(":offset has %d durations; at most 100 are allowed", len(ds))
		}
		for _, s := range ds {
			if _, err := ParseDuration(s); err != nil {
				return false, err
			}
		}
		return setStyle(m, "offset", strings.Join(ds, ","))
	})
	for _, a := range []Aggr{Sum, Avg, Min, Max} {
		add(":cf-"+a.String(), "TimeSeriesExpr -- TimeSeriesExpr", onLine(func(e *Expr) (*Expr, error) { return e.coarse(a) }))
	}
}

func mathWords(add adder) {
	add(":const", "Double -- TimeSeriesExpr", func(m *machine) (bool, error) {
		n, ok := m.popNumber()
		m.push(newConst(n))
		return ok, nil
	})
	add(":pi", " -- TimeSeriesExpr", func(m *machine) (bool, error) { m.push(newConst(math.Pi)); return true, nil })
	add(":random", " -- TimeSeriesExpr", func(m *machine) (bool, error) {
		m.push(newExpr(Expr{kind: clockExpr, word: ":random"}))
		return true, nil
	})
	add(":srandom", "seed:Int -- TimeSeriesExpr", func(m *machine) (bool, error) {
		n, ok := m.popInt()
		m.push(newExpr(Expr{kind: clockExpr, word: ":srandom", num: float64(n), params: []string{strconv.Itoa(n)}}))
		return ok, nil
	})
	add(":time", "mode:String -- TimeSeriesExpr", func(m *machine) (bool, error) {
		mode, ok := m.popString()
		if !ok {
			return false, nil
		}
		if clockModes[mode] == nil {
			return false, fmt.Errorf("invalid time mode %s; modes are such as hourOfDay, minuteOfHour, dayOfWeek", mode)
		}
		m.push(newExpr(Expr{kind: clockExpr, word: ":time", params: []string{mode}}))
		return true, nil
	})
	for _, w := range []string{":abs", ":neg", ":sqrt", ":sin", ":cos", ":tan", ":cot", ":sec", ":csc", ":per-step"} {
		add(w, "TimeSeriesExpr -- TimeSeriesExpr", onLine(func(e *Expr) (*Expr, error) { return newUnary(w, e), nil }))
	}
	for _, w := range []string{":clamp-min", ":clamp-max"} {
		add(w, "TimeSeriesExpr Double -- TimeSeriesExpr", func(m *machine) (bool, error) {
			n, ok := m.popNumber()
			if !ok {
				return false, nil
			}
			return onLine(func(e *Expr) (*Expr, error) { return newUnary(w, e, n), nil })(m)
		})
	}
	for w := range binaryOps {
		add(w, "TimeSeriesExpr TimeSeriesExpr -- TimeSeriesExpr", func(m *machine) (bool, error) {
			r, ok1 := m.popLine()
			l, ok2 := m.popLine()
			if !ok1 || !ok2 {
				return false, nil
			}
			style := l.Style // of the one styled side, if it is one
			if l.Style == nil {
				style = r.Style
			} else if r.Style != nil {
				style = nil
			}
			m.pushLike(style, newBinary(w, l.Expr, r.Expr))
			return true, nil
		})
	}
	rewrites(add)
}

const maxWindow = 86400

func historyWords(add adder) {
	state := func(word string, nums []float64, params []string) func(m *machine) (bool, error) {
		return onLine(func(e *Expr) (*Expr, error) {
			return newExpr(Expr{kind: stateExpr, word: word, args: []*Expr{e}, nums: nums, params: params}), nil
		})
	}
	for _, w := range []string{":integral", ":derivative", ":cumulative-max"} {
		add(w, "TimeSeriesExpr -- TimeSeriesExpr", state(w, nil, nil))
	}
	for _, w := range []string{":delay", ":rolling-count", ":rolling-min", ":rolling-max", ":rolling-sum"} {
		add(w, "TimeSeriesExpr n:Int -- TimeSeriesExpr", func(m *machine) (bool, error) {
			n, ok := m.popInt()
			if !ok {
				return false, nil
			}
			if n < 1 || n > maxWindow {
				return false, fmt.Errorf("requirement failed: window size must be 1 to %d, got %d", maxWindow, n)
			}
			return state(w, []float64{float64(n)}, []string{strconv.Itoa(n)})(m)
		})
	}
	add(":rolling-mean", "TimeSeriesExpr n:Int minNumValues:Int -- TimeSeriesExpr", func(m *machine) (bool, error) {
		least, ok1 := m.popInt()
		n, ok2 := m.popInt()
		if !ok1 || !ok2 {
			return false, nil
		}
		if n < 1 || n > maxWindow || least < 1 || least > n {
			return false, fmt.Errorf("requirement failed: need 1 <= minNumValues <= n <= %d, got n %d, minNumValues %d", maxWindow, n, least)
		}
		return state(":rolling-mean", []float64{float64(n), float64(least)}, []string{strconv.Itoa(n), strconv.Itoa(least)})(m)
	})
	add(":trend", "TimeSeriesExpr Duration -- TimeSeriesExpr", func(m *machine) (bool, error) {
		s, ok := m.popString()
		if !ok {
			return false, nil
		}
		d, err := ParseDuration(s)
		if err != nil {
			return false, err
		}
		return state(":trend", []float64{d.Seconds()}, []string{FormatDuration(d)})(m)
	})
	des := func(m *machine, training int, alpha, beta float64) (bool, error) {
		if training < 1 || training > maxWindow {
			return false, fmt.Errorf("requirement failed: training must be 1 to %d, got %d", maxWindow, training)
		}
		return state(":des", []float64{float64(training), alpha, beta}, []string{strconv.Itoa(training), formatNumber(alpha), formatNumber(beta)})(m)
	}
	add(":des", "TimeSeriesExpr training:Int alpha:Double beta:Double -- TimeSeriesExpr", func(m *machine) (bool, error) {
		beta, ok1 := m.popNumber()
		alpha, ok2 := m.popNumber()
		training, ok3 := m.popInt()
		if !ok1 || !ok2 || !ok3 {
			return false, nil
		}
		return des(m, training, alpha, beta)
	})
	for name, ab := range map[string][2]float64{":des-simple": {0.1, 0.5}, ":des-fast": {0.1, 0.02}, ":des-slower": {0.05, 0.03}, ":des-slow": {0.03, 0.04}} {
		add(name, "TimeSeriesExpr -- TimeSeriesExpr", func(m *machine) (bool, error) { return des(m, 10, ab[0], ab[1]) })
	}
}

var statistics = []string{"avg", "max", "min", "last", "count", "total"}

func filterWords(add adder) {
	stat := func(e *Expr, name string) *Expr {
		return newExpr(Expr{kind: statExpr, word: ":stat", args: []*Expr{e}, params: []string{name}})
	}
	add(":stat", "TimeSeriesExpr statistic:String -- TimeSeriesExpr", func(m *machine) (bool, error) {
		name, ok := m.popString()
		if !ok {
			return false, nil
		}
		if !slices.Contains(statistics, name) {
			return false, fmt.Errorf("unknown statistic %s; use one of %s", name, strings.Join(statistics, ", "))
		}
		return onLine(func(e *Expr) (*Expr, error) { return stat(e, name), nil })(m)
	})
	// Without an argument the statistic is of what is being filtered, which is known when :filter comes.
	for _, name := range statistics {
		add(":stat-"+name, " -- TimeSeriesExpr", func(m *machine) (bool, error) {
			m.push(newExpr(Expr{kind: holeExpr, word: ":stat-" + name, params: []string{name}}))
			return true, nil
		})
	}
	add(":filter", "TimeSeriesExpr TimeSeriesExpr -- TimeSeriesExpr", func(m *machine) (bool, error) {
		condition, ok1 := m.popLine()
		l, ok2 := m.popLine()
		if !ok1 || !ok2 {
			return false, nil
		}
		m.pushLike(l.Style, newExpr(Expr{kind: filterExpr, word: ":filter", args: []*Expr{l.Expr, condition.Expr}}))
		return true, nil
	})
}
