package program

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.starlark.net/starlark"
	"go.starlark.net/syntax"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// What one run of a script may use. Steps are counted by the interpreter, which a single step can outwit: 'x' * 10**9 is one,
// and so is str() of a list that holds itself a thousand times over. So every operation whose result may be larger than
// what it is given passes by a guard, which knows the size beforehand and takes it from the run's allowance.
const (
	maxSteps     = 100_000
	maxAllowance = 512 << 10 // bytes that a run may make, or visit within single steps
	maxRun       = 5 * time.Millisecond
	maxDepth     = 64      // of lists within lists
	maxBits      = 4096    // of a whole number
	maxRange     = 100_000 // elements of a range
	checkEvery   = 1000    // steps between two looks at the clock
)

// allowance is what is left to one run.
type allowance struct {
	left  int
	limit time.Duration
	end   int64 // by filter.Now
}

const allowanceKey = "allowance"

// newThread returns a thread for one run.
func newThread(name string, limit time.Duration) *starlark.Thread {
	a := &allowance{left: maxAllowance, limit: limit, end: filter.Now() + int64(limit)}
	t := &starlark.Thread{Name: name, Print: func(*starlark.Thread, string) {}}
	t.SetLocal(allowanceKey, a)
	next := uint64(checkEvery)
	t.SetMaxExecutionSteps(next)
	t.OnMaxSteps = func(t *starlark.Thread) {
		switch {
		case next >= maxSteps:
			t.Cancel(fmt.Sprintf("it took more than %d steps", maxSteps))
		case filter.Now() > a.end:
			t.Cancel(fmt.Sprintf("it took longer than %v", a.limit))
		default:
			next += checkEvery
			t.SetMaxExecutionSteps(next)
		}
	}
	return t
}

// charge takes n bytes from the run's allowance.
func charge(t *starlark.Thread, n int) error {
	a := t.Local(allowanceKey).(*allowance)
	if n > a.left {
		a.left = 0
		return fmt.Errorf("it needs more than the %d KiB of memory that a run may take", maxAllowance>>10)
	}
	a.left -= n
	if filter.Now() > a.end {
		return fmt.Errorf("it took longer than %v", a.limit)
	}
	return nil
}

// weigh returns how large v is with all that it holds, counted as often as it is held; it stops once that is over limit.
func weigh(v starlark.Value, limit, depth int) (int, error) {
	if depth > maxDepth {
		return 0, fmt.Errorf("a value holds others more than %d deep", maxDepth)
	}
	n := 16
	each := func(items starlark.Iterable) error {
		it := items.Iterate()
		defer it.Done()
		var x starlark.Value
		for it.Next(&x) {
			m, err := weigh(x, limit-n, depth+1)
			if err != nil {
				return err
			}
			if n += m; n > limit {
				return nil
			}
		}
		return nil
	}
	switch v := v.(type) {
	case starlark.String:
		return n + len(v), nil
	case starlark.Bytes:
		return n + len(v), nil
	case starlark.Int:
		if v.BigInt().BitLen() > maxBits {
			return 0, errTooLong
		}
		return n, nil
	case starlark.Tuple:
		for _, x := range v { // as in each, without an iterator
			m, err := weigh(x, limit-n, depth+1)
			if err != nil {
				return 0, err
			}
			if n += m; n > limit {
				break
			}
		}
		return n, nil
	case *starlark.List:
		return n, each(v)
	case *starlark.Set:
		return n, each(v)
	case *starlark.Dict:
		if err := each(v); err != nil {
			return 0, err
		}
		for _, kv := range v.Items() {
			m, err := weigh(kv[1], limit-n, depth+1)
			if err != nil {
				return 0, err
			}
			if n += m; n > limit {
				break
			}
		}
		return n, nil
	}
	return n, nil
}

var errTooLong = fmt.Errorf("a number has more than %d bits", maxBits)

// chargeAll charges what the values weigh, times so often.
func chargeAll(t *starlark.Thread, times int, values ...starlark.Value) error {
	for _, v := range values {
		n, err := weigh(v, maxAllowance, 0)
		if err != nil {
			return err
		}
		if err := charge(t, n*max(1, times)); err != nil {
			return err
		}
	}
	return nil
}

// The guards' names cannot be typed in a script.
const (
	guardPlus  = "+"
	guardTimes = "*"
	guardMod   = "%"
	guardOr    = "|"
	guardShift = "<<"
	guardAdd   = "+="
	guardMerge = "|="
	guardPlain = "="
	guardAttr  = "."
)

// guards are the functions that rewritten operations call.
var guards = starlark.StringDict{
	guardPlus:  binaryGuard(syntax.PLUS, sum),
	guardTimes: binaryGuard(syntax.STAR, product),
	guardMod:   binaryGuard(syntax.PERCENT, formatted),
	guardOr:    binaryGuard(syntax.PIPE, sum),
	guardShift: binaryGuard(syntax.LTLT, shifted),
	guardAdd: starlark.NewBuiltin(guardAdd, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
		l, ok := args[0].(*starlark.List)
		if !ok {
			return plus(t, args[0], args[1])
		}
		more, ok := args[1].(starlark.Iterable)
		if !ok {
			return nil, fmt.Errorf("got %s, want a list to add", args[1].Type())
		}
		return l, extend(t, l, more)
	}),
	guardMerge: starlark.NewBuiltin(guardMerge, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
		d, ok := args[0].(*starlark.Dict)
		other, also := args[1].(*starlark.Dict)
		if !ok || !also {
			return operate(t, syntax.PIPE, sum, args[0], args[1])
		}
		if err := charge(t, other.Len()*64); err != nil {
			return nil, err
		}
		for _, kv := range other.Items() {
			if err := d.SetKey(kv[0], kv[1]); err != nil {
				return nil, err
			}
		}
		return d, nil
	}),
	guardPlain: starlark.NewBuiltin(guardPlain, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
		switch args[0].(type) {
		case starlark.Tuple, *starlark.List, *starlark.Dict, *starlark.Set:
			return args[0], chargeAll(t, 1, args[0])
		}
		return args[0], nil
	}),
	guardAttr: starlark.NewBuiltin(guardAttr, attribute),
}

type sizer func(a, b starlark.Value) (int, error)

func binaryGuard(op syntax.Token, size sizer) *starlark.Builtin {
	return starlark.NewBuiltin(op.String(), func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
		return operate(t, op, size, args[0], args[1])
	})
}

func operate(t *starlark.Thread, op syntax.Token, size sizer, a, b starlark.Value) (starlark.Value, error) {
	n, err := size(a, b)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		if err := charge(t, n); err != nil {
			return nil, err
		}
	}
	return starlark.Binary(op, a, b)
}

func plus(t *starlark.Thread, a, b starlark.Value) (starlark.Value, error) {
	return operate(t, syntax.PLUS, sum, a, b)
}

// size returns how large v is itself: bytes of text, 16 for each element.
func size(v starlark.Value) int {
	switch v := v.(type) {
	case starlark.String:
		return len(v)
	case starlark.Bytes:
		return len(v)
	case *starlark.Dict:
		return 64 * v.Len()
	case *starlark.Set:
		return 64 * v.Len()
	case starlark.Tuple: // may hold others that a sum makes part of one
		n, err := weigh(v, maxAllowance, 0)
		if err != nil {
			return maxAllowance + 1
		}
		return n
	}
	return 16 * max(0, starlark.Len(v))
}

func sum(a, b starlark.Value) (int, error) {
	switch a.(type) {
	case starlark.Int, starlark.Float:
		return 0, nil
	}
	return size(a) + size(b), nil
}

func product(a, b starlark.Value) (int, error) {
	x, ok := a.(starlark.Int)
	y, also := b.(starlark.Int)
	switch {
	case ok && also:
		if x.BigInt().BitLen()+y.BigInt().BitLen() > maxBits {
			return 0, errTooLong
		}
		return 0, nil
	case ok:
		a, y, also = b, x, true
	case !also:
		return 0, nil // floats, or a mistake that Binary tells
	}
	n, ok := y.Int64()
	if !ok || n > maxAllowance {
		n = maxAllowance + 1
	}
	if n <= 0 {
		return 0, nil
	}
	return min(size(a), maxAllowance+1) * int(n), nil
}

func formatted(a, b starlark.Value) (int, error) {
	s, ok := a.(starlark.String)
	if !ok {
		return 0, nil
	}
	n, err := weigh(b, maxAllowance, 0)
	if err != nil {
		return 0, err
	}
	if _, ok := b.(starlark.Tuple); !ok {
		n *= max(1, strings.Count(string(s), "%"))
	}
	return len(s) + n, nil
}

func shifted(a, b starlark.Value) (int, error) {
	x, ok := a.(starlark.Int)
	if ok && x.BigInt().BitLen() > maxBits-512 { // more than 512 are refused anyway
		return 0, errTooLong
	}
	return 0, nil
}

// extend appends what more yields to l.
func extend(t *starlark.Thread, l *starlark.List, more starlark.Iterable) error {
	n := starlark.Len(more)
	if n < 0 {
		return fmt.Errorf("%s has no length", more.Type())
	}
	if err := charge(t, 16*n); err != nil {
		return err
	}
	items := make([]starlark.Value, 0, n) // first all of it, for it may be l itself
	it := more.Iterate()
	var x starlark.Value
	for it.Next(&x) {
		items = append(items, x)
	}
	it.Done()
	for _, x := range items {
		if err := l.Append(x); err != nil {
			return err
		}
	}
	return nil
}

// growing are the methods of text and containers that may make more than they are given, or visit much in one step.
var growing = map[string]func(t *starlark.Thread, self starlark.Value, args starlark.Tuple) error{
	"join": func(t *starlark.Thread, self starlark.Value, args starlark.Tuple) error {
		n := 0
		for _, a := range args {
			n += max(0, starlark.Len(a))
		}
		if err := charge(t, n*size(self)); err != nil {
			return err
		}
		return chargeAll(t, 1, args...)
	},
	"format": func(t *starlark.Thread, self starlark.Value, args starlark.Tuple) error {
		s, _ := starlark.AsString(self)
		if err := charge(t, len(s)); err != nil {
			return err
		}
		return chargeAll(t, strings.Count(s, "{"), args...)
	},
	"replace": func(t *starlark.Thread, self starlark.Value, args starlark.Tuple) error {
		s, _ := starlark.AsString(self)
		n := len(s)
		if len(args) >= 2 {
			old, _ := starlark.AsString(args[0])
			with, _ := starlark.AsString(args[1])
			n += strings.Count(s, old) * len(with)
		}
		return charge(t, n)
	},
	"split": pieces, "rsplit": pieces, "splitlines": pieces, "partition": pieces, "rpartition": pieces,
	"upper": itself, "lower": itself, "title": itself, "capitalize": itself,
	"items": itself, "keys": itself, "values": itself,
	"extend": arguments, "update": arguments, "union": both, "difference": both, "intersection": both, "symmetric_difference": both,
	"issubset": both, "issuperset": both, "index": both, "remove": both, "count": both, "append": arguments, "insert": arguments, "add": arguments,
	"setdefault": arguments, "pop": arguments, "get": arguments,
}

func pieces(t *starlark.Thread, self starlark.Value, args starlark.Tuple) error {
	s, _ := starlark.AsString(self)
	n := 1
	if len(args) > 0 {
		if sep, ok := starlark.AsString(args[0]); ok && sep != "" {
			n += strings.Count(s, sep)
		}
	} else {
		n += len(s) / 2
	}
	return charge(t, 32*n)
}

func itself(t *starlark.Thread, self starlark.Value, _ starlark.Tuple) error {
	return charge(t, size(self))
}

func arguments(t *starlark.Thread, _ starlark.Value, args starlark.Tuple) error {
	for _, a := range args {
		if err := bounded(t, a); err != nil {
			return err
		}
	}
	return nil
}

func both(t *starlark.Thread, self starlark.Value, args starlark.Tuple) error {
	if err := chargeAll(t, 1, self); err != nil {
		return err
	}
	return arguments(t, self, args)
}

// bounded charges what a container weighs, and what any other sequence would make if it were read out.
func bounded(t *starlark.Thread, v starlark.Value) error {
	switch v.(type) {
	case starlark.String, starlark.Bytes:
		return charge(t, 16)
	case starlark.Iterable:
	default:
		return nil
	}
	if err := charge(t, 16*max(1, starlark.Len(v))); err != nil {
		return err
	}
	return chargeAll(t, 1, v)
}

// attribute is x.name for the methods that need a guard.
func attribute(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
	self, name := args[0], string(args[1].(starlark.String))
	has, ok := self.(starlark.HasAttrs)
	if !ok {
		return nil, fmt.Errorf("%s has no .%s field or method", self.Type(), name)
	}
	v, err := has.Attr(name)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, fmt.Errorf("%s has no .%s field or method", self.Type(), name)
	}
	switch self.(type) {
	case starlark.String, starlark.Bytes, *starlark.List, *starlark.Dict, *starlark.Set:
	default:
		return v, nil
	}
	method, ok := v.(*starlark.Builtin)
	if !ok {
		return v, nil
	}
	guard := growing[name]
	return starlark.NewBuiltin(name, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		all := args
		for _, kw := range kwargs {
			all = append(all[:len(all):len(all)], kw[1])
		}
		if err := guard(t, self, all); err != nil {
			return nil, err
		}
		return starlark.Call(t, method, args, kwargs)
	}), nil
}

// universe is what scripts find beside req and ctx: Starlark's own functions, those that may grow behind a guard. What
// takes names of attributes at run time is not there.
var universe = newUniverse()

func newUniverse() starlark.StringDict {
	u := make(starlark.StringDict)
	for name, v := range guards {
		u[name] = v
	}
	guarded := func(name string, guard func(t *starlark.Thread, args starlark.Tuple) error) {
		f := starlark.Universe[name].(*starlark.Builtin)
		u[name] = starlark.NewBuiltin(name, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			all := args
			for _, kw := range kwargs {
				all = append(all[:len(all):len(all)], kw[1])
			}
			if err := guard(t, all); err != nil {
				return nil, err
			}
			return starlark.Call(t, f, args, kwargs)
		})
	}
	for _, name := range []string{"list", "tuple", "set", "dict", "sorted", "enumerate", "zip", "reversed", "max", "min", "any", "all"} {
		guarded(name, func(t *starlark.Thread, args starlark.Tuple) error { return arguments(t, nil, args) })
	}
	for _, name := range []string{"str", "repr", "print", "fail", "bytes", "hash"} {
		guarded(name, func(t *starlark.Thread, args starlark.Tuple) error {
			if err := arguments(t, nil, args); err != nil {
				return err
			}
			return chargeAll(t, 1, args...)
		})
	}
	for _, name := range []string{"int", "float"} {
		guarded(name, func(_ *starlark.Thread, args starlark.Tuple) error {
			if len(args) > 0 {
				if s, ok := starlark.AsString(args[0]); ok && len(s) > 1000 {
					return errTooLong
				}
			}
			return nil
		})
	}
	ranged := starlark.Universe["range"].(*starlark.Builtin)
	u["range"] = starlark.NewBuiltin("range", func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		r, err := starlark.Call(t, ranged, args, kwargs)
		if err == nil && starlark.Len(r) > maxRange {
			return nil, fmt.Errorf("a range of %d; at most %d are allowed", starlark.Len(r), maxRange)
		}
		return r, err
	})
	for _, name := range []string{"getattr", "hasattr", "dir"} {
		u[name] = starlark.NewBuiltin(name, func(*starlark.Thread, *starlark.Builtin, starlark.Tuple, []starlark.Tuple) (starlark.Value, error) {
			return nil, errors.New("filters may not ask for fields by a name made at run time")
		})
	}
	return u
}
