package turbine

import (
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// group adds up what all instances say under one type and name. It belongs to its cluster, whose lock guards it.
type group struct {
	kind, name string
	fields     []*field // in the order in which they were first said
	byKey      map[string]*field
	hosts      int // instances that say something

	changed uint64    // the cluster's version at the last change
	left    time.Time // when the last instance fell silent

	wrote  uint64 // the version that blocks hold
	at     time.Time
	blocks [readings][]byte // the group as a block of the stream, for each reading that was asked for; never altered
}

// reading is a set of wishes of readers: how they want certain values.
type reading uint8

const (
	openCount  reading = 1 << iota // isCircuitBreakerOpen counted
	hostWindow                     // the window of a pool as that of one host
	readings   = 1 << iota
)

// rule says how the values of a field add up.
type rule uint8

const (
	byValue  rule = iota // numbers, and objects of numbers, are summed; other values are counted
	asText               // values are counted
	asNumber             // texts are taken for numbers
	asMode               // values are counted, and the most common one is the group's
	ignored
)

const window = "propertyValue_metricsRollingStatisticalWindowInMilliseconds"

// ruleOf returns the rule of a key. The two exceptions are what the dashboard's page needs: it divides two properties
// of a pool by the number of hosts, and takes the window of a command for a number.
func ruleOf(kind, key string) rule {
	pool := kind == "HystrixThreadPool"
	switch {
	case key == "type", key == "name", key == "currentTime", key == "instanceId", key == "InstanceKey", key == "TypeAndName":
		return ignored
	case pool && (key == window || key == "propertyValue_queueSizeRejectionThreshold"):
		return asNumber
	case key == window && kind == "HystrixCommand":
		return asMode
	case strings.HasPrefix(key, "propertyValue_"):
		return asText
	}
	return byValue
}

// field adds up the values of one key.
type field struct {
	key     string // quoted
	rule    rule
	numbers int // instances that say a number
	sum     int64
	objects int // that say an object
	parts   []part
	texts   map[string]int // which text is said how often
	last    shape          // of what was said last
	text    string         // the last text said
}

// part is one number of a field that is an object of numbers.
type part struct {
	raw   string // as it stands in the message, without quotes
	key   string // quoted
	hosts int
	sum   int64
}

type shape uint8

const (
	aNumber shape = iota
	anObject
	aText
)

func newGroup(kind, name string) *group {
	return &group{kind: kind, name: name, byKey: map[string]*field{}}
}

// add counts what an instance says under key, or takes it back with sign -1.
func (g *group) add(key, value []byte, sign int) {
	f := g.byKey[string(key)]
	if f == nil {
		if len(g.fields) >= 2*maxMembers {
			g.forget()
		}
		plain := unquote(quotes(key))
		f = &field{key: quote(plain), rule: ruleOf(g.kind, plain)}
		g.byKey[string(key)] = f
		g.fields = append(g.fields, f)
	}
	f.add(value, sign)
}

// forget drops the fields that nobody says any more.
func (g *group) forget() {
	idle := func(f *field) bool { return f.numbers == 0 && f.objects == 0 && len(f.texts) == 0 }
	g.fields = slices.DeleteFunc(g.fields, idle)
	maps.DeleteFunc(g.byKey, func(_ string, f *field) bool { return idle(f) })
}

func (f *field) add(value []byte, sign int) {
	switch c := value[0]; {
	case f.rule == ignored:
	case c == '{':
		f.last = anObject
		f.objects += sign
		f.addParts(value, sign)
	case f.rule == byValue && c == 'n': // null says nothing
	case f.rule == byValue && (c == '-' || c >= '0' && c <= '9'):
		f.addNumber(number(value), sign)
	case f.rule == asNumber && c != '[':
		f.addNumber(number(bytes.Trim(value, `"`)), sign)
	default:
		f.addText(textOf(value), sign)
	}
}

func (f *field) addNumber(n int64, sign int) {
	f.last = aNumber
	f.numbers += sign
	f.sum += int64(sign) * n
}

func (f *field) addText(text string, sign int) {
	f.last, f.text = aText, text
	if f.texts == nil {
		f.texts = map[string]int{}
	}
	if f.texts[text] += sign; f.texts[text] == 0 {
		delete(f.texts, text)
	}
}

func (f *field) addParts(object []byte, sign int) {
	var space [16]member
	members, err := scan(object, space[:0], 0)
	if err != nil {
		return // not reached: the whole message was scanned
	}
	for i, m := range members {
		value := m.value.of(object)
		if value[0] == '{' || value[0] == '[' {
			continue
		}
		raw, at := m.key.of(object), i
		if i >= len(f.parts) || f.parts[i].raw != string(raw) {
			at = slices.IndexFunc(f.parts, func(p part) bool { return p.raw == string(raw) })
		}
		if at < 0 {
			if len(f.parts) >= 2*maxMembers {
				f.parts = slices.DeleteFunc(f.parts, func(p part) bool { return p.hosts == 0 })
			}
			at = len(f.parts)
			f.parts = append(f.parts, part{raw: string(raw), key: quote(unquote(quotes(raw)))})
		}
		f.parts[at].hosts += sign
		f.parts[at].sum += int64(sign) * number(bytes.Trim(value, `"`))
	}
}

// most bounds a single number, so that sums over all instances stay exact.
const most = 1 << 52

// number reads a number and cuts its fraction off, as Turbine does. What is none is 0.
func number(text []byte) int64 {
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		return min(max(n, -most), most)
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil && !math.IsInf(f, 0) || math.IsNaN(f) {
		return 0
	}
	return int64(min(max(f, -most), most))
}

// textOf returns what a value is called when it is counted.
func textOf(value []byte) string {
	if value[0] == '"' {
		return unquote(value)
	}
	return string(value)
}

func quotes(key []byte) []byte { return slices.Concat([]byte{'"'}, key, []byte{'"'}) }

// quote writes s as JSON. It never holds a line break.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always has a form in JSON
	}
	return string(b)
}

// block returns the group as a block of the stream, made anew if it changed or the last one is older than refresh.
func (g *group) block(now time.Time, r reading) []byte {
	if g.wrote != g.changed || now.Sub(g.at) >= refresh {
		g.wrote, g.at = g.changed, now
		g.blocks = [readings][]byte{0: g.encode(len(g.blocks[0])+64, now, 0)}
	}
	if g.kind != "HystrixThreadPool" {
		r &^= hostWindow
	}
	if g.blocks[r] == nil {
		g.blocks[r] = g.encode(len(g.blocks[0])+64, now, r)
	}
	return g.blocks[r]
}

func (g *group) encode(size int, now time.Time, r reading) []byte {
	b := append(make([]byte, 0, size), `data: {"type":`...)
	b = append(b, quote(g.kind)...)
	b = append(b, `,"name":`...)
	b = append(b, quote(g.name)...)
	b = append(b, `,"currentTime":`...)
	b = strconv.AppendInt(b, now.UnixMilli(), 10)
	for _, f := range g.fields {
		if f.rule == ignored {
			continue
		}
		b = append(b, ',')
		b = append(b, f.key...)
		b = append(b, ':')
		switch {
		case r&openCount != 0 && f.key == `"isCircuitBreakerOpen"`:
			b = f.appendCount(b)
		case r&hostWindow != 0 && f.rule == asNumber && f.key == `"`+window+`"`:
			b = strconv.AppendInt(b, f.sum/int64(max(f.numbers, 1)), 10)
		default:
			b = f.append(b)
		}
	}
	return append(b, "}\n\n"...)
}

// append writes what the field adds up to. When no instance says anything any more, numbers are 0 and texts as last
// said.
func (f *field) append(b []byte) []byte {
	quiet := f.numbers == 0 && f.objects == 0 && len(f.texts) == 0
	switch {
	case f.rule == asMode:
		return append(b, quote(f.mode())...)
	case f.objects > 0 || quiet && f.last == anObject:
		return f.appendParts(b)
	case f.numbers > 0 || quiet && f.last == aNumber:
		return strconv.AppendInt(b, f.sum, 10)
	case quiet:
		return appendText(b, f.text)
	case len(f.texts) == 1:
		for text := range f.texts {
			b = appendText(b, text)
		}
		return b
	}
	return f.appendParts(b)
}

// appendText writes a text that all instances say, true and false as such.
func appendText(b []byte, text string) []byte {
	if text == "true" || text == "false" {
		return append(b, text...)
	}
	return append(b, quote(text)...)
}

// appendParts writes the numbers of an object, and counts of texts.
func (f *field) appendParts(b []byte) []byte {
	b = append(b, '{')
	put := func(key string, n int64) {
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(b, key...)
		b = append(b, ':')
		b = strconv.AppendInt(b, n, 10)
	}
	for _, p := range f.parts {
		if p.hosts > 0 || f.objects == 0 && len(f.texts) == 0 {
			var plain string
			if len(f.texts) > 0 {
				plain = unquote([]byte(p.key))
			}
			put(p.key, p.sum+int64(f.texts[plain]))
		}
	}
	for _, text := range slices.Sorted(maps.Keys(f.texts)) {
		key := quote(text)
		if !slices.ContainsFunc(f.parts, func(p part) bool { return p.hosts > 0 && p.key == key }) {
			put(key, int64(f.texts[text]))
		}
	}
	return append(b, '}')
}

// mode returns the most common text, of equally common ones the first in order.
func (f *field) mode() string {
	best, most := f.text, int64(0)
	count := map[string]int64{}
	for _, p := range f.parts {
		count[unquote([]byte(p.key))] += p.sum
	}
	for text, n := range f.texts {
		count[text] += int64(n)
	}
	for _, text := range slices.Sorted(maps.Keys(count)) {
		if count[text] > most {
			best, most = text, count[text]
		}
	}
	return best
}

// appendCount writes isCircuitBreakerOpen in the form that the dashboard's page shows right: the number of hosts when
// all are open, which it compares with reportingHosts, and otherwise a text in which it replaces true and false.
func (f *field) appendCount(b []byte) []byte {
	open, shut := f.texts["true"], f.texts["false"]
	for _, p := range f.parts { // of a stream that is itself added up
		switch p.key {
		case `"true"`:
			open += int(p.sum)
		case `"false"`:
			shut += int(p.sum)
		}
	}
	switch {
	case open == 0:
		return append(b, "false"...)
	case shut == 0:
		return strconv.AppendInt(b, int64(open), 10)
	}
	return append(b, quote(strconv.Itoa(open)+" true, "+strconv.Itoa(shut)+" false")...)
}
