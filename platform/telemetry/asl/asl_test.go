package asl

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/meter"
)

// rows reads a table of testdata: a row a line, cells between tabs. The tables are the conformance table of ASL.
func rows(t testing.TB, name string) [][]string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimRight(line, "\n"); line != "" {
			out = append(out, strings.Split(line, "\t"))
		}
	}
	if len(out) < 10 {
		t.Fatalf("%s has %d rows, that cannot be all", name, len(out))
	}
	return out
}

// lacks says whether the program uses a word that is not supported, and checks that the error says so.
func lacks(t *testing.T, program string) bool {
	t.Helper()
	for _, w := range missing {
		if slices.Contains(strings.Split(program, ","), w) {
			_, err := Parse(program)
			if err == nil || !strings.Contains(err.Error(), "unknown word '"+w+"'") || !strings.Contains(err.Error(), ":percentiles") {
				t.Errorf("%s: got %v, want unknown word '%s' and the words there are", program, err, w)
			}
			return true
		}
	}
	return false
}

func show(v any) string {
	switch v := v.(type) {
	case []any:
		var parts []string
		for _, x := range v {
			parts = append(parts, show(x))
		}
		return "(" + strings.Join(parts, " ") + ")"
	case raw:
		return string(v)
	}
	return fmt.Sprint(v)
}

func TestStandardWordsAsInTheTable(t *testing.T) {
	for _, row := range rows(t, "stack.tsv") {
		stack, err := run(row[0])
		if err != nil {
			t.Errorf("%q: %v", row[0], err)
			continue
		}
		var parts []string
		for _, v := range slices.Backward(stack) {
			parts = append(parts, show(v))
		}
		if got := "[" + strings.Join(parts, ", ") + "]"; got != row[1] {
			t.Errorf("%q: got %s, want %s", row[0], got, row[1])
		}
	}
}

func TestCanonicalFormsAsInTheTable(t *testing.T) {
	for _, row := range rows(t, "canonical.tsv") {
		if lacks(t, row[0]) {
			continue
		}
		want := row[1]
		if strings.HasPrefix(want, "(same") {
			want = row[0]
		}
		if of, ok := strings.CutPrefix(want, "that of "); ok {
			want = program(t, of)
		}
		if got := program(t, row[0]); got != want {
			t.Errorf("%s:\n got %s\nwant %s", row[0], got, want)
		}
	}
}

func program(t testing.TB, p string) string {
	t.Helper()
	lines, err := Parse(p)
	if err != nil {
		t.Errorf("%s: %v", p, err)
		return ""
	}
	var parts []string
	for _, l := range lines {
		parts = append(parts, l.String())
	}
	return strings.Join(parts, ",")
}

// meaning is a line with its short forms expanded.
func meaning(l Line) string {
	var expand func(e *Expr) *Expr
	expand = func(e *Expr) *Expr {
		if e.kind == rewriteExpr {
			return expand(e.args[0])
		}
		args := make([]*Expr, len(e.args))
		for i, a := range e.args {
			args[i] = expand(a)
		}
		return e.rebuild(args)
	}
	return Line{expand(l.Expr), l.Style}.String()
}

func TestEquivalencesAsInTheTable(t *testing.T) {
	for _, row := range rows(t, "equal.tsv") {
		var sides [2][]string
		for i, p := range row {
			lines, err := Parse(p)
			if err != nil {
				t.Errorf("%s: %v", p, err)
			}
			for _, l := range lines {
				sides[i] = append(sides[i], meaning(l))
			}
		}
		if !slices.Equal(sides[0], sides[1]) {
			t.Errorf("%s:\n means %v,\n  want %v", row[0], sides[0], sides[1])
		}
	}
}

// series is what the tests fetch from: all the same points.
type testSeries struct {
	tags map[string]string
	at   func(i int) float64
}

func fetcher(all []testSeries) Fetch {
	return func(_ context.Context, d *Data, w Window) ([]Series, error) {
		groups := map[string]*Accumulator{}
		tags := map[string]map[string]string{}
		for i, s := range all {
			if !d.Query.Match(s.tags) {
				continue
			}
			by := map[string]string{}
			for _, k := range d.By {
				if v, ok := s.tags[k]; ok {
					by[k] = v
				}
			}
			if len(by) < len(d.By) {
				continue
			}
			how, key := d.Aggr.String(), groupKey(d.By, by)
			if d.Aggr == All {
				how, key, by = "sum", strconv.Itoa(1000+i), maps.Clone(s.tags)
			}
			if groups[key] == nil {
				groups[key], tags[key] = NewAccumulator(how, w.Points), by
			}
			values := make([]float64, w.Points)
			for i := range values {
				values[i] = s.at(i)
			}
			groups[key].Add(values)
		}
		var out []Series
		for _, k := range slices.Sorted(maps.Keys(groups)) {
			out = append(out, Series{Tags: tags[k], Values: groups[k].Values()})
		}
		return out, nil
	}
}

func constants() []testSeries {
	var all []testSeries
	for i := range 11 {
		all = append(all, testSeries{map[string]string{"name": strconv.Itoa(i), "type": "constant"}, func(int) float64 { return float64(i) }})
	}
	return all
}

func evalProgram(t testing.TB, p string, all []testSeries, w Window) ([]Series, error) {
	t.Helper()
	lines, err := Parse(p)
	if err != nil {
		return nil, err
	}
	var out []Series
	for _, l := range lines {
		ev := evaluation{ctx: t.Context(), w: w, fetch: fetcher(all), done: map[*Expr][]Series{}}
		got, err := ev.eval(l.Expr)
		if err != nil {
			return nil, err
		}
		out = append(out, got...)
	}
	return out, nil
}

func tagText(tags map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		parts = append(parts, k+"="+tags[k])
	}
	return "{" + strings.Join(parts, " ") + "}"
}

func same(a, b float64) bool {
	return a == b || a != a && b != b || math.Abs(a-b) <= 1e-5*math.Max(math.Abs(a), math.Abs(b))
}

func TestEvaluationAsInTheTable(t *testing.T) {
	w := Window{Start: 0, Step: 60000, Points: 10}
	for _, row := range rows(t, "constants.tsv") {
		p, want := row[0], row[1]
		if lacks(t, p) {
			continue
		}
		got, err := evalProgram(t, p, constants(), w)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		if want == "no lines" {
			if len(got) != 0 {
				t.Errorf("%s: got %d lines, want none", p, len(got))
			}
			continue
		}
		if strings.HasPrefix(want, "11 lines") || strings.HasPrefix(want, "the eleven") {
			checkEleven(t, p, want, got)
			continue
		}
		if len(got) != 1 {
			t.Errorf("%s: got %d lines, want %s", p, len(got), want)
			continue
		}
		end := strings.Index(want, "}") + 1
		if s := tagText(got[0].Tags); s != want[:end] {
			t.Errorf("%s: got tags %s, want %s", p, s, want)
		}
		label, values := "", strings.TrimSpace(want[end:])
		if rest, ok := strings.CutPrefix(values, "- "); ok {
			label, values = tagLabel(got[0].Tags), rest
		} else {
			parts := strings.SplitN(values, `"`, 3)
			label, values = parts[1], strings.TrimSpace(parts[2])
		}
		if got[0].Label != label {
			t.Errorf("%s: got label %q, want %s", p, got[0].Label, want)
		}
		list := strings.Split(strings.Split(values, ", ...")[0], ", ")
		for i, v := range got[0].Values {
			if i >= len(list) && len(list) > 1 {
				break
			}
			f, err := strconv.ParseFloat(list[min(i, len(list)-1)], 64)
			if err != nil {
				t.Fatalf("%s: cannot read the table: %v", p, err)
			}
			if !same(v, f) {
				t.Errorf("%s: point %d: got %v, want %s", p, i, v, want)
			}
		}
	}
}

func checkEleven(t *testing.T, p, want string, got []Series) {
	t.Helper()
	if len(got) != 11 {
		t.Errorf("%s: got %d lines, want %s", p, len(got), want)
		return
	}
	for _, l := range got {
		i, err := strconv.Atoi(l.Tags["name"])
		if err != nil {
			t.Errorf("%s: tags %v", p, l.Tags)
		}
		v, label := float64(i), fmt.Sprintf("(name=%d)", i)
		switch {
		case strings.HasPrefix(want, "the eleven"):
			label = fmt.Sprintf("name=%d, type=constant", i)
		case strings.Contains(want, `"name=i"`):
			label = fmt.Sprintf("name=%d", i)
		}
		switch {
		case strings.HasSuffix(want, "i+1"):
			v++
		case strings.HasSuffix(want, "2i"):
			v *= 2
		}
		if l.Values[3] != v || l.Label != label {
			t.Errorf("%s: got %q %v, want %q %v", p, l.Label, l.Values[3], label, v)
		}
	}
}

func TestHistoryWordsAsInTheTable(t *testing.T) {
	for _, row := range rows(t, "history.tsv") {
		in := numbers(t, row[1])
		if n, ok := strings.CutPrefix(row[1], "10 x "); ok {
			in = slices.Repeat([]float64{10}, int(numbers(t, n)[0]))
		}
		w := Window{Start: 0, Step: 60000, Points: len(in)}
		p := ":true," + row[0]
		got, err := evalProgram(t, p, []testSeries{{map[string]string{"name": "x"}, func(i int) float64 { return in[i] }}}, w)
		if err != nil || len(got) != 1 {
			t.Errorf("%s: got %v, %v", p, got, err)
			continue
		}
		for i, want := range numbers(t, row[2]) {
			if !same(got[0].Values[i], want) {
				t.Errorf("%s of %s: got %v, want %s", row[0], row[1], got[0].Values, row[2])
				break
			}
		}
	}
}

func numbers(t *testing.T, s string) []float64 {
	t.Helper()
	var out []float64
	for f := range strings.FieldsSeq(s) {
		if f == "x" {
			continue
		}
		v, err := strconv.ParseFloat(f, 64)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

func TestErrorsAsInTheTable(t *testing.T) {
	for p, want := range map[string]string{
		")":               "unmatched closing parenthesis",
		"(,),)":           "unmatched closing parenthesis",
		"(":               "unmatched opening parenthesis",
		"foo,:unknown":    "unknown word ':unknown'",
		":dup":            "no matches for word ':dup' with stack [], candidates: [a:Any -- Any Any]",
		"a,b /* unclosed": "unclosed comment", "a,b */": "unclosed comment", "a /* x */ y */,b": "unclosed comment",
		"loop,(,loop,:fcall,),:set,loop,:fcall":                                        "looping detected",
		"loop,(,loop,:get,:call,),:set,loop,:get,:call":                                "looping detected",
		"a,(,b,:fcall,),:set,b,(,c,:fcall,),:set,c,(,a,:fcall,),:set,a,:fcall":         "looping detected",
		"(,:depth,:nlist,(,:dup,),:each,),f,:sset,1" + strings.Repeat(",f,:fcall", 20): "stack overflow: stack size exceeds limit of 1024",
		"(" + strings.Repeat(",1", 1100) + ",)":                                        "stack overflow: list size exceeds limit of 1024",
		"foo,1,:set,:freeze,foo,:get":                                                  "key not found: foo",
		"a,1,:eq,42fubars,:offset":                                                     "unknown unit fubars",
		"name,a,:eq,(,-1,),:percentiles":                                               "requirement failed: percentiles must be in the range [0.0, 100.0], got -1.0",
		":true,(,name,),:by,:sum,(,foo,),:by":                                          "requirement failed: (,foo,) is not a subset of (,name,)",
		"name,sps,:eq,:sum,foo":                                                        "the result is not an expression: item 2 from the bottom of the stack is String; a word such as :eq is missing after it",
	} {
		_, err := Parse(p)
		if err == nil || err.Error() != want {
			t.Errorf("%.60s: got %v, want %s", p, err, want)
		}
	}
	for _, p := range []string{"", "a,(?i)b,:re", `a,\1,:re`, "a,(,:re", "name,test,:eq,(,50,foo,),:percentiles", "name,test,:eq,:all,(,50,),:percentiles",
		"name,test,:eq,2,:head,(,50,),:percentiles", "name,a,:eq,0,:rolling-max", "x,:time", "name,a,:eq,:stat-max,:by", "\xff"} {
		if _, err := Parse(p); err == nil {
			t.Errorf("%q: got nil, want an error", p)
		}
	}
}

func TestDoublingProgramsAreRefused(t *testing.T) {
	for _, p := range []string{"name,a,:eq,:sum" + strings.Repeat(",:dup,:add", 60), "name,a,:eq" + strings.Repeat(",:dup,:and", 60),
		"name,a,:eq,name,b,:eq,:or,b,:has,:and,:sum" + strings.Repeat(",:dup,:add", 11) + strings.Repeat(",name,c,:eq,:cq", 3000)} {
		if _, err := Parse(p); err == nil || !strings.Contains(err.Error(), "too large") {
			t.Errorf("%.40s...: got %v, want too large", p, err)
		}
	}
}

func TestQueriesMatchAsInTheTable(t *testing.T) {
	for _, c := range []struct {
		q     string
		tags  map[string]string
		match bool
	}{
		{"a,b,:eq,:not", map[string]string{}, true},
		{"a,b,:re", map[string]string{"a": "bar"}, true},
		{"a,b,:re", map[string]string{"a": "ab"}, false},
		{"a,b,:re", map[string]string{}, false},
		{"name,discoverystatus_(Up|Down),:re", map[string]string{"name": "DiscoveryStatus_UP"}, false},
		{"name,discoverystatus_(Up|Down),:reic", map[string]string{"name": "DiscoveryStatus_UP"}, true},
		{"a,2,:lt", map[string]string{"a": "100"}, true},
		{"foo,my $var. [work-in-progress],:contains", map[string]string{"foo": "initialize my $var. [work-in-progress], not a range"}, true},
		{"foo,my $var. [work-in-progress],:contains", map[string]string{"foo": "my $var. [work-in progress]"}, false},
		{"a,[foo],:starts", map[string]string{"a": "[foo]bar"}, true},
		{"a,[foo],:ends", map[string]string{"a": "bar[foo]"}, true},
		{"a,[foo],:ends", map[string]string{"a": "[foo]bar"}, false},
		{"a,(,b,c,d,),:in", map[string]string{"a": "c"}, true},
		{"a,(,),:in", map[string]string{"a": ""}, false},
	} {
		q, err := ParseQuery(c.q)
		if err != nil {
			t.Errorf("%s: %v", c.q, err)
			continue
		}
		if got := q.Match(c.tags); got != c.match {
			t.Errorf("%s on %v: got %v, want %v", c.q, c.tags, got, c.match)
		}
	}
	for p, prefix := range map[string]string{"a,[foo],:starts": "[foo]", "a,[foo],:ends": "", "a,foo.*,:re": "foo"} {
		if q, err := ParseQuery(p); err != nil || q.Prefix != prefix {
			t.Errorf("%s: got prefix %q, %v; want %q", p, q.Prefix, err, prefix)
		}
	}
}

func TestQueriesFoldConstants(t *testing.T) {
	for p, want := range map[string]string{
		"a,b,:eq,:true,:and": "a,b,:eq", ":true,a,b,:eq,:and": "a,b,:eq", "a,b,:eq,:false,:and": ":false", ":false,a,b,:eq,:and": ":false",
		"a,b,:eq,:true,:or": ":true", ":true,a,b,:eq,:or": ":true", "a,b,:eq,:false,:or": "a,b,:eq", ":false,a,b,:eq,:or": "a,b,:eq",
		":true,:not": ":false", ":false,:not": ":true", "a,b,:eq,:not": "a,b,:eq,:not", "a,(,),:in": ":false", "a,(,b,),:in": "a,b,:eq",
		"a,(,b,c,d,),:in": "a,(,b,c,d,),:in", "a,b,:eq,c,:has,:or": "a,b,:eq,c,:has,:or",
		"name,a,:eq,name,b,:eq,:or,nf.app,x,:eq,:cq": "name,a,:eq,name,b,:eq,:or,nf.app,x,:eq,:and",
	} {
		if q, err := ParseQuery(p); err != nil || q.String() != want {
			t.Errorf("%s: got %v, %v; want %s", p, q, err, want)
		}
	}
}

func TestEscapesAreExactInverses(t *testing.T) {
	for in, want := range map[string]string{
		"foo bar": "foo bar", " foo": `\u0020foo`, "foo ": `foo\u0020`, " foo bar ": `\u0020foo bar\u0020`, "   ": `\u0020\u0020\u0020`,
		"\n\t  foo  bar  ": `\u000a\u0009\u0020\u0020foo  bar\u0020\u0020`, "foo\tbar\nbaz": `foo\u0009bar\u000abaz`, "a,b": `a\u002cb`, ":foo": `\u003afoo`,
		"(": `\u0028`, ")": `\u0029`, "(a": "(a", "/*": `\u002f*`, `\u0041`: `\u005cu0041`, "😀": `\ud83d\ude00`, `\n`: `\n`,
	} {
		if got := escape(in); got != want || unescape(got) != in {
			t.Errorf("escape(%q): got %s, want %s; back: %q", in, got, want, unescape(got))
		}
	}
	for p, want := range map[string]string{
		`name,\u003afoo,:eq`: ":foo", `name,(,\u003afoo,),:in`: ":foo", `name,\u005cu0041,:eq`: `\u0041`, `a,\u0028,:eq`: "(",
	} {
		if q, err := ParseQuery(p); err != nil || q.Value != want {
			t.Errorf("%s: got %v, %v; want value %s", p, q, err, want)
		}
	}
	for p, want := range map[string]string{"  a\n,\t\nb ,c": "a|b|c", ", ,\t,\n\n,": "", "a,/* x */b,:eq": "a|b|:eq", "/* all */": "",
		"a,/* o /* n */ still */,b": "a|b", "a /* l1 /* l2 */ l1 */b": "a b", "a,/* x,y */b": "a|b"} {
		tokens, err := tokenize(p)
		var got []string
		for _, tok := range tokens {
			got = append(got, string(tok))
		}
		if s := strings.Join(got, "|"); err != nil || s != want {
			t.Errorf("tokens of %q: got %q, %v; want %q", p, s, err, want)
		}
	}
}

func TestStylesAsInTheTable(t *testing.T) {
	for p, want := range map[string]string{
		":true,40,:alpha": "alpha=40", ":true,f00,:color": "color=ffff0000", ":true,40,:alpha,f00,:color": "color=ffff0000",
		":true,40,:alpha,f00,:color,60,:alpha": "color=60ff0000", ":true,blue1,:color,40,:alpha": "alpha=40 color=blue1",
		":true,reds,:palette,40,:alpha":                                             "alpha=40 palette=reds",
		"a,:has,:sum,a,:legend,b,:has,:sum,b,:legend,f00,:color,:add":               "",
		"a,:has,a,:legend,:strip-style,b,:has,b,:legend,:add":                       "legend=b",
		"a,:has,:stack,2,:lw,1,:axis,max,:sort,desc,:order,3,:limit,(,1w,),:offset": "axis=1 limit=3 ls=stack lw=2 offset=1w order=desc sort=max",
	} {
		lines, err := Parse(p)
		if err != nil || len(lines) != 1 {
			t.Errorf("%s: %v", p, err)
			continue
		}
		if got := strings.Trim(tagText(lines[0].Style), "{}"); got != want {
			t.Errorf("%s: got %s, want %s", p, got, want)
		}
	}
}

func TestLegendsAreFilledIn(t *testing.T) {
	w := Window{Start: 0, Step: 60000, Points: 3}
	for p, want := range map[string]string{
		"name,1,:eq":                                  "sum(name=1)",
		"name,(,1,2,),:in":                            "sum(name in (1,2))",
		"name,[12]$,:re,:max":                         "max(name~/^[12]$/)",
		"name,1,:contains":                            "sum(name~/^.*1/)",
		"name,:has":                                   "sum(has(name))",
		":true,:sum,1m,:offset":                       "sum(true) (offset=1m)",
		"name,1,:eq,2,:mul":                           "name=1",
		"name,1,:eq,$name of $(type) $,:legend":       "1 of type $",
		"name,1,:eq,(,type,),:by,$(type)$()x,:legend": "constant$x",
		"name,1,:eq,1w,:offset,$atlas.offset $(atlas.max),:legend": "1w 1.0",
		"name,x,:eq": "NO DATA",
	} {
		lines, err := Parse(p)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		got, err := lines[0].Eval(t.Context(), w, fetcher(constants()))
		if err != nil || len(got) != 1 || got[0].Label != want {
			t.Errorf("%s: got %v, %v; want label %s", p, got, err, want)
		}
	}
}

func TestSortAndLimit(t *testing.T) {
	w := Window{Start: 0, Step: 60000, Points: 3}
	lines, err := Parse(":true,(,name,),:by,max,:sort,desc,:order,2,:limit")
	if err != nil {
		t.Fatal(err)
	}
	got, err := lines[0].Eval(t.Context(), w, fetcher(constants()))
	if err != nil || len(got) != 2 || got[0].Tags["name"] != "10" || got[1].Tags["name"] != "9" {
		t.Errorf("the two highest of 0 to 10: got %v, %v", got, err)
	}
	lines, err = Parse(":true,(,0h,1h,),:offset")
	if err != nil {
		t.Fatal(err)
	}
	got, err = lines[0].Eval(t.Context(), w, fetcher(constants()))
	if err != nil || len(got) != 2 || got[1].Label != "sum(true) (offset=1h)" || got[1].Tags["atlas.offset"] != "1h" {
		t.Errorf("a list of offsets: got %v, %v; want two lines", got, err)
	}
}

func TestGroupedBinaryOperatorsAsInTheTable(t *testing.T) {
	var all []testSeries
	for v := range 10 {
		tags := map[string]string{"name": "test", "value": strconv.Itoa(v)}
		if v%2 == 0 {
			tags["mode"] = "even"
		}
		all = append(all, testSeries{tags, func(int) float64 { return float64(v) }})
	}
	w := Window{Step: 60000, Points: 1}
	for _, c := range []struct {
		p     string
		lines int
		err   string
	}{
		{"mode,even,:eq,(,value,),:by,name,test,:eq,(,value,),:by,:add", 5, ""},
		{"mode,even,:eq,(,name,value,),:by,name,test,:eq,(,value,name,),:by,:add", 5, ""},
		{"mode,even,:eq,(,value,),:by,name,test,:eq,(,name,),:by,:add", 0,
			"both sides of binary operation must have the same grouping or one side must be a subset of the other [(,value,) ⊈ (,name,)]"},
		{"mode,even,:eq,(,name,),:by,name,test,:eq,(,name,value,),:by,:add", 10, ""},
		{"mode,even,:eq,(,name,value,),:by,name,test,:eq,(,name,),:by,:add", 5, ""},
		{"name,test,:eq,(,name,mode,),:by", 1, ""},
	} {
		got, err := evalProgram(t, c.p, all, w)
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%s: got %v, want %s", c.p, err, c.err)
			}
			continue
		}
		if err != nil || len(got) != c.lines {
			t.Errorf("%s: got %d lines, %v; want %d", c.p, len(got), err, c.lines)
			continue
		}
		for _, l := range got {
			v, _ := strconv.Atoi(l.Tags["value"])
			switch c.lines {
			case 10:
				if l.Values[0] != float64(20+v) {
					t.Errorf("%s: got %v at value %d, want %d", c.p, l.Values[0], v, 20+v)
				}
			}
		}
	}
}

func TestPercentilesAsInTheTable(t *testing.T) {
	var all []testSeries
	for v := range 100 {
		mode := "even"
		if v%2 == 1 {
			mode = "odd"
		}
		// Several values share a bucket: each is a series of its own, told apart by v.
		all = append(all, testSeries{map[string]string{"name": "test", "mode": mode, "v": strconv.Itoa(v), "percentile": fmt.Sprintf("D%04X", meter.BucketIndex(int64(v)))},
			func(int) float64 { return 1.0 / 60 }})
	}
	w := Window{Step: 60000, Points: 1}
	got, err := evalProgram(t, "name,test,:eq,(,9,25,50,90,100,),:percentiles", all, w)
	if err != nil || len(got) != 5 {
		t.Fatalf("got %v, %v; want 5 lines", got, err)
	}
	for i, want := range []float64{9, 25, 50, 92, 106} {
		if !same(got[i].Values[0], want) {
			t.Errorf("line %d: got %v, want %v", i, got[i].Values[0], want)
		}
	}
	if got[0].Label != "percentile(name=test,   9.0)" || got[4].Tags["percentile"] != "100.0" {
		t.Errorf("got label %q and tags %v", got[0].Label, got[4].Tags)
	}
	for p, want := range map[string]string{
		"name,test,:eq,:max,(,50,),:percentiles":                                       "percentile(name=test,  50.0)",
		"name,test,:eq,:median":                                                        "percentile(name=test,  50.0)",
		"name,test,:eq,(,mode,),:by,(,25,),:percentiles":                               "percentile((mode=even),  25.0)|percentile((mode=odd),  25.0)",
		"name,test,:eq,(,mode,),:by,(,25,50,90,),:percentiles,:max,(,percentile,),:by": "(percentile= 25.0)|(percentile= 50.0)|(percentile= 90.0)",
		"name,test,:eq,(,foo,),:by,(,25,),:percentiles":                                "",
		"name,test,:eq,(,25,),:percentiles,(,mode,),:by":                               "percentile((mode=even),  25.0)|percentile((mode=odd),  25.0)",
		"name,test,:eq,(,99,),:percentiles,1h,:offset,mode,odd,:eq,:cq":                "percentile(mode=odd, name=test,  99.0)",
	} {
		got, err := evalProgram(t, p, all, w)
		var labels []string
		for _, l := range got {
			labels = append(labels, l.Label)
		}
		if s := strings.Join(labels, "|"); err != nil || s != want {
			t.Errorf("%s: got %q, %v; want %q", p, s, err, want)
		}
	}
	if got := program(t, "name,a,:eq,(,99,),:percentiles,1h,:offset,region,east,:eq,:cq"); got != "name,a,:eq,region,east,:eq,:and,(,99.0,),:percentiles,1h,:offset" {
		t.Errorf("canonical form of shifted percentiles: got %s", got)
	}
	odd := []testSeries{{map[string]string{"percentile": "D000A"}, func(int) float64 { return 1 }}, {map[string]string{"percentile": "D000a"}, func(int) float64 { return 1 }}}
	if _, err := evalProgram(t, ":true,:median", odd, w); err == nil || err.Error() != "requirement failed: invalid percentile encoding: [D000A,D000a]" {
		t.Errorf("two spellings of one bucket: got %v", err)
	}
}

func TestTimesAndDurationsAsInTheTable(t *testing.T) {
	for s, want := range map[string]time.Duration{"42ns": 42, "42us": 42 * time.Microsecond, "42ms": 42 * time.Millisecond, "42s": 42 * time.Second, "42seconds": 42 * time.Second,
		"42m": 42 * time.Minute, "42min": 42 * time.Minute, "42h": 42 * time.Hour, "42d": 42 * day, "42wk": 42 * week, "2month": 60 * day, "2y": 730 * day,
		"PT42M": 42 * time.Minute, "P1DT5M42S": day + 5*time.Minute + 42*time.Second, "PT0.5S": 500 * time.Millisecond} {
		if d, err := ParseDuration(s); err != nil || d != want {
			t.Errorf("%s: got %v, %v; want %v", s, d, err, want)
		}
	}
	for _, s := range []string{"42fubars", "9999999999999999y", "P", "PT", "", "5", "m", "-5m", "P99999999999999999999D"} {
		if d, err := ParseDuration(s); err == nil {
			t.Errorf("%s: got %v, want an error", s, d)
		}
	}
	for d, want := range map[time.Duration]string{week: "1w", 36 * time.Hour: "36h", 90 * time.Second: "90s", 500 * time.Millisecond: "PT0.5S", 0: "0w"} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%v): got %s, want %s", d, got, want)
		}
	}
	now := time.Date(2024, 1, 8, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct{ s, e, want string }{
		{"e-3h", "now", "2024-01-08T09:00:00Z 2024-01-08T12:00:00Z"},
		{"now-1w", "s+P1DT5M42S", "2024-01-01T12:00:00Z 2024-01-02T12:05:42Z"},
		{"2012-02-01", "2012-02-01T04:05+08", "error end time is before start time"},
		{"2012-02-01", "2012-02-01T04:05:06.123Z", "2012-02-01T00:00:00Z 2012-02-01T04:05:06.123Z"},
		{"epoch+4h", "1500000000", "1970-01-01T04:00:00Z 2017-07-14T02:40:00Z"},
		{"1500000000-1h", "1500000000000", "2017-07-14T01:40:00Z 2017-07-14T02:40:00Z"},
		{"e-5m", "s+5m", "error start and end are both relative"},
		{"s-5m", "now", "error start time is relative to itself"},
		{"now-1h", "e-5m", "error end time is relative to itself"},
		{"2012-02-", "now", "error invalid date 2012-02-"},
		{"foo42", "now", "error invalid date foo42"},
	} {
		s, e, err := ParseRange(c.s, c.e, now)
		got := s.UTC().Format(time.RFC3339Nano) + " " + e.UTC().Format(time.RFC3339Nano)
		if err != nil {
			got = "error " + err.Error()
		}
		if got != c.want {
			t.Errorf("%s to %s: got %s, want %s", c.s, c.e, got, c.want)
		}
	}
}

func TestRandomAsInTheTable(t *testing.T) {
	for ms, want := range map[int64][2]float64{0: {0, 0.122}, 60000: {0.686, 0.077}, 120000: {0.651, 0.125}, 1325376000000: {0.564, 0.376}, 1700000000000: {0.75, 0.914}} {
		if a, b := random(ms), random(ms^42); a != want[0] || b != want[1] {
			t.Errorf("at %d: got %v and %v, want %v", ms, a, b, want)
		}
	}
}

func TestSmokeCorpusParsesPrintsAndEvaluates(t *testing.T) {
	all := []testSeries{
		{map[string]string{"name": "sps", "nf.cluster": "nccp-silverlight", "nf.app": "nccp", "nf.node": "a"}, func(i int) float64 { return float64(i) }},
		{map[string]string{"name": "sps", "nf.cluster": "nccp-ps3", "nf.app": "nccp", "nf.node": "b"}, func(i int) float64 { return math.NaN() }},
		{map[string]string{"name": "requestsPerSecond", "nf.cluster": "alerttest"}, func(i int) float64 { return 100 }},
		{map[string]string{"name": "requestLatency", "percentile": "T0056"}, func(i int) float64 { return 1 }},
	}
	supported := 0
	for _, row := range rows(t, "smoke.txt") {
		p := row[0]
		if lacks(t, p) || strings.Contains(p, "HOUR_OF_DAY") {
			continue
		}
		supported++
		lines, err := Parse(p)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		roundTrip(t, p, lines)
		for _, l := range lines {
			if _, err := l.Eval(t.Context(), Window{Start: 6000000, Step: 60000, Points: 30}, fetcher(all)); err != nil {
				t.Errorf("%s: %v", p, err)
			}
		}
	}
	if supported < 230 {
		t.Errorf("only %d programs of the corpus are supported", supported)
	}
}

func roundTrip(t testing.TB, p string, lines []Line) {
	t.Helper()
	for _, l := range lines {
		s := l.String()
		again, err := Parse(s)
		if err != nil || len(again) != 1 || again[0].String() != s || meaning(again[0]) != meaning(l) {
			t.Errorf("%s: printed as %s, which gives %v, %v", p, s, again, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, table := range []string{"stack.tsv", "constants.tsv", "canonical.tsv", "equal.tsv", "smoke.txt"} {
		for _, row := range rows(f, table) {
			f.Add(row[0])
		}
	}
	all := constants()
	f.Fuzz(func(t *testing.T, p string) {
		lines, err := Parse(p)
		if err != nil {
			return
		}
		for _, l := range lines {
			if len(l.String()) > maxProgram {
				return // printed forms may be longer than what may be asked
			}
		}
		roundTrip(t, p, lines)
		for _, l := range lines {
			if _, err := l.Eval(t.Context(), Window{Start: 60000, Step: 60000, Points: 3}, fetcher(all)); err != nil && err.Error() == "" {
				t.Errorf("%s: empty error", p)
			}
		}
	})
}

func FuzzEscape(f *testing.F) {
	f.Add("a,b /* \\u0041 :x")
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "?")
		tokens, err := tokenize("x," + escape(s))
		if s == "" {
			return
		}
		if err != nil || len(tokens) != 2 || unescape(string(tokens[1])) != s {
			t.Errorf("%q is escaped as %q, which is %q, %v", s, escape(s), tokens, err)
		}
	})
}

func ExampleParse() {
	lines, err := Parse("name,sps,:eq,(,nf.app,),:by,:avg,$nf.app,:legend")
	fmt.Println(lines[0], err)
	// Output: name,sps,:eq,:sum,(,nf.app,),:by,:avg,$nf.app,:legend <nil>
}
