package asl

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Query says which series are meant. It is immutable.
type Query struct {
	Op     Op
	Key    string
	Value  string         // of all key queries but Has and In; the pattern of Re and ReIC
	Values []string       // of In
	Prefix string         // of Re: what every matching value begins with
	Regexp *regexp.Regexp // of Re and ReIC
	L, R   *Query         // of And and Or; Not has L only

	deep int // operations below this one
}

func (q *Query) size() int { return 1 + q.deep }

// Op is what a query asks.
type Op uint8

// The operations. Re and ReIC match values that start with the pattern.
const (
	True Op = iota
	False
	Has
	Eq
	Lt
	Le
	Gt
	Ge
	Re
	ReIC
	In
	And
	Or
	Not
)

// words of the operations, and how labels show comparisons
var (
	opWords = [...]string{True: ":true", False: ":false", Has: ":has", Eq: ":eq", Lt: ":lt", Le: ":le", Gt: ":gt", Ge: ":ge",
		Re: ":re", ReIC: ":reic", In: ":in", And: ":and", Or: ":or", Not: ":not"}
	opSigns = [...]string{Eq: "=", Lt: "<", Le: "<=", Gt: ">", Ge: ">=", Not: ""}
)

func newRegexp(op Op, key, pattern string) (*Query, error) {
	// Flags in the pattern would make it match what an index by prefix cannot find.
	if strings.Contains(pattern, "(?i") || strings.Contains(pattern, "(?m") || strings.Contains(pattern, "(?s") || strings.Contains(pattern, "(?U") || strings.Contains(pattern, "(?-") {
		return nil, fmt.Errorf("pattern %q has inline flags; use :reic to ignore case", pattern)
	}
	flags := "^(?:"
	if op == ReIC {
		flags = "(?i)^(?:"
	}
	re, err := regexp.Compile(flags + pattern + ")")
	if err != nil {
		return nil, fmt.Errorf("pattern %q of key %q: %w", pattern, key, err)
	}
	q := &Query{Op: op, Key: key, Value: pattern, Regexp: re}
	if op == Re {
		// The anchor hides the prefix from the regexp package, so it is asked about the bare pattern.
		if bare, err := regexp.Compile(strings.TrimPrefix(pattern, "^")); err == nil {
			q.Prefix, _ = bare.LiteralPrefix()
		}
	}
	return q, nil
}

func newIn(key string, values []string) *Query {
	switch len(values) {
	case 0:
		return &Query{Op: False}
	case 1:
		return &Query{Op: Eq, Key: key, Value: values[0]}
	}
	return &Query{Op: In, Key: key, Values: values}
}

func newAnd(l, r *Query) *Query {
	switch {
	case l.Op == False || r.Op == True:
		return l
	case r.Op == False || l.Op == True:
		return r
	}
	return &Query{Op: And, L: l, R: r, deep: l.size() + r.size()}
}

func newOr(l, r *Query) *Query {
	switch {
	case l.Op == True || r.Op == False:
		return l
	case r.Op == True || l.Op == False:
		return r
	}
	return &Query{Op: Or, L: l, R: r, deep: l.size() + r.size()}
}

func newNot(q *Query) *Query {
	switch q.Op {
	case True:
		return &Query{Op: False}
	case False:
		return &Query{Op: True}
	}
	return &Query{Op: Not, L: q, deep: q.size()}
}

// MatchValue says whether a series whose value of q.Key is v matches q, a key query.
func (q *Query) MatchValue(v string) bool {
	switch q.Op {
	case Has:
		return true
	case Eq:
		return v == q.Value
	case Lt:
		return v < q.Value
	case Le:
		return v <= q.Value
	case Gt:
		return v > q.Value
	case Ge:
		return v >= q.Value
	case Re, ReIC:
		return q.Regexp.MatchString(v)
	case In:
		return slices.Contains(q.Values, v)
	}
	return false
}

// Match says whether a series with these tags is meant. A key that is absent matches no key query.
func (q *Query) Match(tags map[string]string) bool {
	switch q.Op {
	case True:
		return true
	case False:
		return false
	case And:
		return q.L.Match(tags) && q.R.Match(tags)
	case Or:
		return q.L.Match(tags) || q.R.Match(tags)
	case Not:
		return !q.L.Match(tags)
	}
	v, ok := tags[q.Key]
	return ok && q.MatchValue(v)
}

// Exact returns the tags that every matching series has because q says so: those of the :eq reachable through :and.
func (q *Query) Exact() map[string]string {
	tags := make(map[string]string)
	q.exact(tags)
	return tags
}

func (q *Query) exact(into map[string]string) {
	switch q.Op {
	case Eq:
		into[q.Key] = q.Value
	case And:
		q.L.exact(into)
		q.R.exact(into)
	}
}

// String returns the program that makes q.
func (q *Query) String() string {
	var out strings.Builder
	q.write(&out)
	return out.String()
}

func (q *Query) write(out *strings.Builder) {
	switch q.Op {
	case True, False:
	case And, Or:
		q.L.write(out)
		out.WriteByte(',')
		q.R.write(out)
		out.WriteByte(',')
	case Not:
		q.L.write(out)
		out.WriteByte(',')
	case Has:
		out.WriteString(escape(q.Key) + ",")
	case In:
		out.WriteString(escape(q.Key) + "," + list(q.Values) + ",")
	default:
		out.WriteString(escape(q.Key) + "," + escape(q.Value) + ",")
	}
	out.WriteString(opWords[q.Op])
}

// Label returns q as legends show it, such as "name=sps".
func (q *Query) Label() string {
	switch q.Op {
	case True:
		return "true"
	case False:
		return "false"
	case And:
		return "(" + q.L.Label() + ") and (" + q.R.Label() + ")"
	case Or:
		return "(" + q.L.Label() + ") or (" + q.R.Label() + ")"
	case Not:
		return "not(" + q.L.Label() + ")"
	case Has:
		return "has(" + q.Key + ")"
	case In:
		return q.Key + " in (" + strings.Join(q.Values, ",") + ")"
	case Re:
		return q.Key + "~/^" + strings.TrimPrefix(q.Value, "^") + "/"
	case ReIC:
		return q.Key + "~/^" + strings.TrimPrefix(q.Value, "^") + "/i"
	}
	return q.Key + opSigns[q.Op] + q.Value
}

// tagLabel returns tags as default legends show them.
func tagLabel(tags map[string]string) string {
	if len(tags) == 0 {
		return "NO TAGS"
	}
	parts := make([]string, 0, len(tags))
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		parts = append(parts, k+"="+tags[k])
	}
	return strings.Join(parts, ", ")
}
