package registry

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// Registrations arrive in as many dialects as there are clients. Both formats are first read into the same tree of
// map[string]any, []any, string, json.Number, bool and nil, and one lenient reader makes the record of that tree:
// numbers and booleans may be strings, null is absent, an array of one may stand for its element, names match exactly
// or else in any letter case, and whatever is unknown is skipped.

type tree = map[string]any

// xmlDepth bounds how deep elements may nest; a registration needs five.
const xmlDepth = 16

var errDocument = errors.New("the document is not one instance")

// decodeJSON reads one registration. It sets neither times nor the action.
func decodeJSON(body []byte) (*record, error) { return readJSON(string(body)) }

func readJSON(body string) (*record, error) {
	if r, ok := scanInstance(body); ok {
		return r, nil
	}
	return readAnyJSON(body)
}

// readAnyJSON is the lenient way.
func readAnyJSON(body string) (*record, error) {
	d := json.NewDecoder(strings.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("read JSON: more follows after the first value: %w", errDocument)
	}
	t, ok := object(v)
	if !ok {
		return nil, fmt.Errorf("read JSON: %w", errDocument)
	}
	if in, ok := object(member(t, "instance")); ok {
		t = in
	}
	return toRecord(t), nil
}

// decodeXML reads one registration. Document type declarations and entities beyond the five of XML are refused.
func decodeXML(body []byte) (*record, error) {
	d := xml.NewDecoder(bytes.NewReader(body))
	// Bytes that claim ISO-8859-1 are ASCII in practice; UTF-8 readers reject what is not.
	d.CharsetReader = func(label string, in io.Reader) (io.Reader, error) {
		if strings.EqualFold(label, "iso-8859-1") || strings.EqualFold(label, "us-ascii") {
			raw, err := io.ReadAll(in)
			return strings.NewReader(latin1(string(raw))), err
		}
		return nil, fmt.Errorf("charset %q is not supported; send UTF-8", label)
	}
	var root any
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read XML: %w", err)
		}
		switch tok := tok.(type) {
		case xml.Directive:
			return nil, fmt.Errorf("read XML: document type declarations are refused")
		case xml.StartElement:
			if root != nil {
				return nil, fmt.Errorf("read XML: a second root element: %w", errDocument)
			}
			if root, err = element(d, tok, 1); err != nil {
				return nil, fmt.Errorf("read XML: %w", err)
			}
		}
	}
	t, ok := root.(tree)
	if !ok {
		return nil, fmt.Errorf("read XML: %w", errDocument)
	}
	return toRecord(t), nil
}

// element reads what is left of start as a tree: its text if it has neither attributes nor children.
func element(d *xml.Decoder, start xml.StartElement, depth int) (any, error) {
	if depth > xmlDepth {
		return nil, fmt.Errorf("elements nest deeper than %d", xmlDepth)
	}
	var t tree
	set := func(name string, v any) {
		if t == nil {
			t = tree{}
		}
		t[name] = v
	}
	for _, a := range start.Attr {
		set("@"+a.Name.Local, a.Value)
	}
	var text strings.Builder
	for {
		tok, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch tok := tok.(type) {
		case xml.Directive:
			return nil, errors.New("document type declarations are refused")
		case xml.CharData:
			text.Write(tok)
		case xml.StartElement:
			v, err := element(d, tok, depth+1)
			if err != nil {
				return nil, err
			}
			name := unescapeName(localName(tok.Name))
			if was, ok := t[name]; ok {
				if list, ok := was.([]any); ok {
					v = append(list, v)
				} else {
					v = []any{was, v}
				}
			}
			set(name, v)
		case xml.EndElement:
			if t == nil {
				return text.String(), nil
			}
			if s := strings.TrimSpace(text.String()); s != "" {
				t["$"] = s
			}
			return t, nil
		}
	}
}

// localName is a name as it was written: keys of metadata may hold colons, which look like prefixes that nobody
// declared. A declared one stands for a URI and does not count.
func localName(n xml.Name) string {
	if n.Space == "" || strings.ContainsAny(n.Space, ":/") {
		return n.Local
	}
	return n.Space + ":" + n.Local
}

// member finds name in t, exactly or else in any letter case.
func member[V any](t map[string]V, name string) (v V) {
	if v, ok := t[name]; ok {
		return v
	}
	var found string
	for k := range t {
		if strings.EqualFold(k, name) && (found == "" || k < found) { // the least, so that the answer is one
			found = k
		}
	}
	if found == "" {
		return v
	}
	return t[found]
}

// object returns v as an object; an array of one object counts.
func object(v any) (tree, bool) {
	if list, ok := v.([]any); ok && len(list) == 1 {
		v = list[0]
	}
	t, ok := v.(tree)
	return t, ok
}

// text returns a scalar as its text; null and absence are "".
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	case []any:
		if len(v) == 1 {
			return text(v[0])
		}
	case tree: // an XML element with attributes
		if s, ok := v["$"]; ok {
			return text(s)
		}
	}
	return ""
}

// number returns an integer that may come as a string or with a fraction; def if there is none.
func number(v any, def int64) int64 { return numberOf(text(v), def) }

func numberOf(s string, def int64) int64 {
	s = strings.TrimSpace(s)
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) < 1<<62 {
		return int64(f)
	}
	return def
}

func number32(v any, def int32) int32 { return number32Of(text(v), def) }

func number32Of(s string, def int32) int32 {
	n := numberOf(s, int64(def))
	if n < math.MinInt32 || n > math.MaxInt32 {
		return def
	}
	return int32(n)
}

func truth(v any, def bool) bool { return truthOf(text(v), def) }

func truthOf(s string, def bool) bool {
	switch s = strings.TrimSpace(s); {
	case strings.EqualFold(s, "true"):
		return true
	case strings.EqualFold(s, "false"):
		return false
	}
	return def
}

// portOf reads {"$":80,"@enabled":"true"} or a bare number, which means enabled.
func portOf(v any, absent port) port {
	t, ok := object(v)
	if !ok {
		if text(v) == "" {
			return absent
		}
		return portRange(port{number32(v, absent.number), true}, absent)
	}
	n := member(t, "$")
	if n == nil {
		n = member(t, "port")
	}
	on := member(t, "@enabled")
	if on == nil {
		on = member(t, "enabled")
	}
	return portRange(port{number32(n, absent.number), truth(on, absent.on)}, absent)
}

func portRange(p, absent port) port {
	if p.number < 0 || p.number > math.MaxUint16 {
		p.number = absent.number
	}
	return p
}

// pairs reads a string map, sorted by key. The marker with which Java names its empty map is dropped.
func pairs(v any) []pair {
	t, ok := object(v)
	if !ok {
		return nil
	}
	ps := make([]pair, 0, len(t))
	for _, k := range slices.Sorted(maps.Keys(t)) {
		if s, ok := t[k].(string); ok && marksJavaMap(k, s) {
			continue
		}
		var s string
		switch v := t[k].(type) {
		case nil:
			continue
		case tree, []any:
			raw, err := json.Marshal(v)
			if err != nil {
				continue // cannot be: the tree came from a document
			}
			s = string(raw)
		default:
			s = text(v)
		}
		ps = append(ps, pair{clean(k), clean(s)})
	}
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// marksJavaMap reports whether a member of a map only says which of Java's maps it is.
func marksJavaMap(k, v string) bool {
	return (k == "@class" || k == "class") && strings.HasPrefix(v, "java.util.")
}

// toRecord makes a record of the tree of one instance.
func toRecord(t tree) *record {
	str := func(name string) string { return clean(text(member(t, name))) }
	r := &record{
		id:       str("instanceId"),
		app:      upper(str("app")),
		appGroup: upper(str("appGroupName")),
		host:     str("hostName"), ip: str("ipAddr"), sid: str("sid"),
		port:    portOf(member(t, "port"), port{defaultPort, true}),
		secure:  portOf(member(t, "securePort"), port{defaultSecurePort, false}),
		country: number32(member(t, "countryId"), 1),
		home:    str("homePageUrl"), statusPage: str("statusPageUrl"),
		health: str("healthCheckUrl"), secureHealth: str("secureHealthCheckUrl"),
		vip: str("vipAddress"), svip: str("secureVipAddress"), asg: str("asgName"),
		dirty:   number(member(t, "lastDirtyTimestamp"), 0),
		renewal: defaultRenewal, duration: defaultDuration,
		override: unknown, own: up,
		meta: pairs(member(t, "metadata")),
	}
	for _, m := range [...]struct {
		name string
		in   members
	}{
		{"appGroupName", appGroupMember}, {"homePageUrl", homeMember}, {"statusPageUrl", statusPageMember}, {"healthCheckUrl", healthMember},
		{"secureHealthCheckUrl", secureHealthMember}, {"vipAddress", vipMember}, {"secureVipAddress", svipMember}, {"asgName", asgMember},
	} {
		if member(t, m.name) == any("") {
			r.blank |= m.in
		}
	}
	if s := str("status"); s != "" {
		r.own, _ = parseStatus(s)
	}
	r.setAction(str("actionType"))
	for _, name := range []string{"overriddenStatus", "overriddenstatus"} {
		if o, ok := parseStatus(text(member(t, name))); ok && o != unknown {
			r.override = o
			break
		}
	}
	if l, ok := object(member(t, "leaseInfo")); ok {
		if n := number32(member(l, "renewalIntervalInSecs"), 0); n > 0 {
			r.renewal = n
		}
		if n := number32(member(l, "durationInSecs"), 0); n > 0 {
			r.duration = n
		}
	}
	if dc, ok := object(member(t, "dataCenterInfo")); ok {
		r.dcSent = true
		r.setDataCenter(text(member(dc, "name")), pairs(member(dc, "metadata")))
	}
	r.complete()
	return r
}

// setAction reads how the instance last changed, where somebody tells of it who should know.
func (r *record) setAction(name string) {
	for i, n := range actionNames {
		if n == name {
			r.action = action(i)
		}
	}
}

func (r *record) setDataCenter(name string, meta []pair) {
	switch {
	case strings.EqualFold(name, "Amazon"):
		r.dcName, r.dcAmazon, r.dcMeta = true, true, meta
	case strings.EqualFold(name, "Netflix"):
		r.dcName, r.dcNetflix = true, true
	default:
		r.dcName = name != ""
	}
}

// complete fills in what follows from what was sent.
func (r *record) complete() {
	r.status = r.own
	if r.sid == "na" || r.sid == "unknown" {
		r.sid = ""
	}
	r.sentID = r.id != ""
	if r.id == "" && r.dcAmazon {
		r.id = get(r.dcMeta, "instance-id")
	}
	if r.id == "" {
		r.id = r.host
	}
	if r.dcAmazon && get(r.dcMeta, "instance-id") == "" && r.id != "" {
		r.dcNoID = true
		r.dcMeta = setPair(r.dcMeta, "instance-id", r.id)
	}
}

// setPair returns ps with key set, leaving ps itself alone.
func setPair(ps []pair, key, value string) []pair {
	i, found := slices.BinarySearchFunc(ps, key, func(p pair, k string) int { return strings.Compare(p.key, k) })
	out := make([]pair, 0, len(ps)+1)
	out = append(append(out, ps[:i]...), pair{key, value})
	if found {
		i++
	}
	return append(out, ps[i:]...)
}

// clean makes s fit for any document.
func clean(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// unescapeName undoes what XStream does to names that XML does not allow as element names.
func unescapeName(s string) string {
	if !strings.Contains(s, "_") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '_' || i+1 == len(s):
			b.WriteByte(s[i])
		case s[i+1] == '_':
			b.WriteByte('_')
			i++
		case s[i+1] == '-':
			b.WriteByte('$')
			i++
		case s[i+1] == '.' && i+6 <= len(s):
			n, err := strconv.ParseUint(s[i+2:i+6], 16, 16)
			if err != nil {
				b.WriteByte('_')
				continue
			}
			c := rune(n)
			i += 5
			if utf16.IsSurrogate(c) && strings.HasPrefix(s[i+1:], "_.") && i+7 <= len(s) {
				if low, err := strconv.ParseUint(s[i+3:i+7], 16, 16); err == nil && utf16.DecodeRune(c, rune(low)) != utf8.RuneError {
					c = utf16.DecodeRune(c, rune(low))
					i += 6
				}
			}
			b.WriteRune(c)
		default:
			b.WriteByte('_')
		}
	}
	return b.String()
}

// interner keeps one copy of each string that many records share: app names, VIPs, metadata keys.
type interner struct {
	mu sync.Mutex
	m  map[string]string
}

// internLimit bounds the interner; a registry with more names starts it anew.
const internLimit = 1 << 16

// intern lets r share its strings with the other records, and hold no others than it needs.
func (in *interner) intern(r *record) {
	r.pack()
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, s := range []*string{&r.app, &r.appGroup, &r.vip, &r.svip, &r.asg, &r.sid} {
		*s = in.one(*s)
	}
	for _, ps := range [][]pair{r.meta, r.dcMeta} {
		for i := range ps {
			ps[i].key = in.one(ps[i].key)
			if len(ps[i].value) <= 16 { // zones, versions, flags; longer values seldom repeat
				ps[i].value = in.one(ps[i].value)
			} else {
				ps[i].value = strings.Clone(ps[i].value)
			}
		}
	}
}

func (in *interner) one(s string) string {
	if s == "" {
		return ""
	}
	if t, ok := in.m[s]; ok {
		return t
	}
	if in.m == nil || len(in.m) >= internLimit {
		in.m = make(map[string]string)
	}
	s = strings.Clone(s) // not what it is a part of
	in.m[s] = s
	return s
}
