package registry

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// codec is one of the forms in which documents are answered.
type codec uint8

const (
	jsonFull codec = iota
	jsonCompact
	xmlFull
	xmlCompact
	native // the platform's own words, for watchers
	codecs
)

func (c codec) isJSON() bool  { return c == jsonFull || c == jsonCompact }
func (c codec) compact() bool { return c == jsonCompact || c == xmlCompact }

// contentType carries no charset: Eureka's clients compare it literally.
func (c codec) contentType() string {
	if c.isJSON() {
		return "application/json"
	}
	return "application/xml"
}

// The class names by which Java clients pick what to build.
const (
	emptyMapClass = "java.util.Collections$EmptyMap"
	amazonClass   = "com.netflix.appinfo.AmazonInfo"
	defaultClass  = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo"
)

func (r *record) dcClass() string {
	if r.dcAmazon {
		return amazonClass
	}
	return defaultClass
}

// compactAmazon is what the compact form keeps of an Amazon instance's metadata.
var compactAmazon = [...]string{"availability-zone", "instance-id", "local-ipv4", "public-hostname", "public-ipv4"}

// times are what a document tells of a lease; they change with each renewal, unlike the record.
type times struct {
	renewed int64 // ms since 1970
	self    bool  // whether the instance is this registry
}

// appendJSON appends one instance as an object without its root name. Members, their order and their types are those
// of Netflix's legacy Jackson codec: Java clients fail on any other member.
func (r *record) appendJSON(b []byte, t times, compact bool) []byte {
	b = append(b, '{')
	if r.sentID {
		b = jsonMember(b, "instanceId", r.id)
		b = append(b, ',')
	}
	b = jsonMember(b, "hostName", r.host)
	b = jsonMember(append(b, ','), "app", r.app)
	b = jsonMember(append(b, ','), "ipAddr", r.ip)
	if r.sid != "" && !compact {
		b = jsonMember(append(b, ','), "sid", r.sid)
	}
	b = jsonMember(append(b, ','), "status", r.status.String())
	if !compact {
		b = jsonMember(append(b, ','), "overriddenStatus", r.override.String())
	}
	b = jsonPort(append(b, ','), "port", r.port)
	b = jsonPort(append(b, ','), "securePort", r.secure)
	if !compact {
		b = strconv.AppendInt(append(b, `,"countryId":`...), int64(r.country), 10)
	}
	b = append(b, `,"dataCenterInfo":{"@class":"`...)
	b = append(b, r.dcClass()...)
	b = jsonMember(append(b, `",`...), "name", r.dcNameText())
	if r.dcAmazon {
		b = append(b, `,"metadata":`...)
		b = jsonMap(b, r.amazonMeta(compact))
	}
	b = append(b, '}')
	if !compact {
		b = strconv.AppendInt(append(b, `,"leaseInfo":{"renewalIntervalInSecs":`...), int64(r.renewal), 10)
		b = strconv.AppendInt(append(b, `,"durationInSecs":`...), int64(r.duration), 10)
		b = strconv.AppendInt(append(b, `,"registrationTimestamp":`...), r.registered, 10)
		b = strconv.AppendInt(append(b, `,"lastRenewalTimestamp":`...), t.renewed, 10)
		b = strconv.AppendInt(append(b, `,"evictionTimestamp":`...), r.evicted, 10)
		b = strconv.AppendInt(append(b, `,"serviceUpTimestamp":`...), r.serviceUp, 10)
		b = append(b, `},"metadata":`...)
		b = jsonMap(b, r.meta)
		b = jsonOptional(b, "appGroupName", r.appGroup, r.blank&appGroupMember)
		b = jsonOptional(b, "homePageUrl", r.home, r.blank&homeMember)
		b = jsonOptional(b, "statusPageUrl", r.statusPage, r.blank&statusPageMember)
		b = jsonOptional(b, "healthCheckUrl", r.health, r.blank&healthMember)
		b = jsonOptional(b, "secureHealthCheckUrl", r.secureHealth, r.blank&secureHealthMember)
	}
	b = jsonOptional(b, "vipAddress", r.vip, r.blank&vipMember)
	b = jsonOptional(b, "secureVipAddress", r.svip, r.blank&svipMember)
	if compact {
		b = strconv.AppendInt(append(b, `,"lastUpdatedTimestamp":`...), r.updated, 10)
	} else {
		b = jsonMember(append(b, ','), "isCoordinatingDiscoveryServer", strconv.FormatBool(t.self))
		b = strconv.AppendInt(append(b, `,"lastUpdatedTimestamp":"`...), r.updated, 10)
		b = strconv.AppendInt(append(b, `","lastDirtyTimestamp":"`...), r.dirty, 10)
		b = append(b, '"')
	}
	b = jsonMember(append(b, ','), "actionType", actionNames[r.action])
	b = jsonOptional(b, "asgName", r.asg, r.blank&asgMember)
	return append(b, '}')
}

func (r *record) amazonMeta(compact bool) []pair {
	if !compact {
		return r.dcMeta
	}
	var kept []pair
	for _, p := range r.dcMeta {
		if slices.Contains(compactAmazon[:], p.key) {
			kept = append(kept, p)
		}
	}
	return kept
}

func jsonPort(b []byte, name string, p port) []byte {
	b = append(append(append(b, '"'), name...), `":{"$":`...)
	b = strconv.AppendInt(b, int64(p.number), 10)
	b = append(b, `,"@enabled":"`...)
	b = strconv.AppendBool(b, p.on)
	return append(b, `"}`...)
}

func jsonMap(b []byte, ps []pair) []byte {
	b = append(b, '{')
	if len(ps) == 0 {
		return append(jsonMember(b, "@class", emptyMapClass), '}')
	}
	for i, p := range ps {
		if i > 0 {
			b = append(b, ',')
		}
		b = jsonString(b, p.key)
		b = jsonString(append(b, ':'), p.value)
	}
	return append(b, '}')
}

// jsonOptional leaves out what is absent: empty, and not sent as such.
func jsonOptional(b []byte, name, value string, blank members) []byte {
	if value == "" && blank == 0 {
		return b
	}
	return jsonMember(append(b, ','), name, value)
}

func jsonMember(b []byte, name, value string) []byte {
	b = append(append(append(b, '"'), name...), `":`...)
	return jsonString(b, value)
}

// jsonString appends s quoted as Jackson does: only quotes, backslashes and control characters are escaped.
func jsonString(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= 0x20:
			b = append(b, c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c == '\b':
			b = append(b, `\b`...)
		case c == '\f':
			b = append(b, `\f`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&15])
		}
	}
	return append(b, '"')
}

// appendXML appends one instance element, indented by depth steps of two spaces, as XStream writes it.
func (r *record) appendXML(b []byte, t times, compact bool, depth int) []byte {
	x := xmlWriter{b: b, depth: depth}
	x.open("instance", "")
	if r.sentID {
		x.leaf("instanceId", r.id)
	}
	x.leaf("hostName", r.host)
	x.leaf("app", r.app)
	x.leaf("ipAddr", r.ip)
	if !compact {
		x.optional("sid", r.sid, 0)
	}
	x.leaf("status", r.status.String())
	if !compact {
		x.leaf("overriddenstatus", r.override.String())
	}
	x.port("port", r.port)
	x.port("securePort", r.secure)
	if !compact {
		x.number("countryId", int64(r.country))
	}
	x.open("dataCenterInfo", r.dcClass())
	x.leaf("name", r.dcNameText())
	if r.dcAmazon {
		x.pairs(r.amazonMeta(compact))
	}
	x.close("dataCenterInfo")
	if !compact {
		x.open("leaseInfo", "")
		x.number("renewalIntervalInSecs", int64(r.renewal))
		x.number("durationInSecs", int64(r.duration))
		x.number("registrationTimestamp", r.registered)
		x.number("lastRenewalTimestamp", t.renewed)
		x.number("evictionTimestamp", r.evicted)
		x.number("serviceUpTimestamp", r.serviceUp)
		x.close("leaseInfo")
		x.pairs(r.meta)
		x.optional("appGroupName", r.appGroup, r.blank&appGroupMember)
		x.optional("homePageUrl", r.home, r.blank&homeMember)
		x.optional("statusPageUrl", r.statusPage, r.blank&statusPageMember)
		x.optional("healthCheckUrl", r.health, r.blank&healthMember)
		x.optional("secureHealthCheckUrl", r.secureHealth, r.blank&secureHealthMember)
	}
	x.optional("vipAddress", r.vip, r.blank&vipMember)
	x.optional("secureVipAddress", r.svip, r.blank&svipMember)
	if !compact {
		x.leaf("isCoordinatingDiscoveryServer", strconv.FormatBool(t.self))
	}
	x.number("lastUpdatedTimestamp", r.updated)
	if !compact {
		x.number("lastDirtyTimestamp", r.dirty)
	}
	x.leaf("actionType", actionNames[r.action])
	x.optional("asgName", r.asg, r.blank&asgMember)
	x.close("instance")
	return x.b
}

// xmlWriter writes indented elements, one per line.
type xmlWriter struct {
	b     []byte
	depth int
}

func (x *xmlWriter) indent() {
	for range x.depth {
		x.b = append(x.b, "  "...)
	}
}

func (x *xmlWriter) open(name, class string) {
	x.indent()
	x.b = append(append(x.b, '<'), name...)
	if class != "" {
		x.b = append(append(append(x.b, ` class="`...), class...), '"')
	}
	x.b = append(x.b, ">\n"...)
	x.depth++
}

func (x *xmlWriter) close(name string) {
	x.depth--
	x.indent()
	x.b = append(append(append(x.b, "</"...), name...), ">\n"...)
}

func (x *xmlWriter) leaf(name, value string) {
	x.indent()
	x.b = append(append(append(x.b, '<'), name...), '>')
	x.b = xmlText(x.b, value)
	x.b = append(append(append(x.b, "</"...), name...), ">\n"...)
}

func (x *xmlWriter) optional(name, value string, blank members) {
	if value != "" || blank != 0 {
		x.leaf(name, value)
	}
}

func (x *xmlWriter) number(name string, n int64) { x.leaf(name, strconv.FormatInt(n, 10)) }

func (x *xmlWriter) port(name string, p port) {
	x.indent()
	x.b = append(append(append(x.b, '<'), name...), ` enabled="`...)
	x.b = append(strconv.AppendBool(x.b, p.on), `">`...)
	x.b = strconv.AppendInt(x.b, int64(p.number), 10)
	x.b = append(append(append(x.b, "</"...), name...), ">\n"...)
}

func (x *xmlWriter) pairs(ps []pair) {
	if len(ps) == 0 {
		x.indent()
		x.b = append(x.b, `<metadata class="`+emptyMapClass+"\"/>\n"...)
		return
	}
	x.open("metadata", "")
	for _, p := range ps {
		if name := escapeName(p.key); name != "" { // XML has no way to say the empty name
			x.leaf(name, p.value)
		}
	}
	x.close("metadata")
}

// xmlText appends s as character data. Characters that XML 1.0 cannot hold become U+FFFD.
func xmlText(b []byte, s string) []byte {
	for _, c := range s {
		switch {
		case c == '&':
			b = append(b, "&amp;"...)
		case c == '<':
			b = append(b, "&lt;"...)
		case c == '>':
			b = append(b, "&gt;"...)
		case c == '"':
			b = append(b, "&quot;"...)
		case c == '\'':
			b = append(b, "&apos;"...)
		case c == '\r':
			b = append(b, "&#xd;"...)
		case c == '\t' || c == '\n' || c >= 0x20 && c != 0xFFFE && c != 0xFFFF:
			b = utf8.AppendRune(b, c)
		default:
			b = append(b, "\uFFFD"...)
		}
	}
	return b
}

// escapeName makes an element name of a metadata key, by XStream's rules: "_" doubles, "$" becomes "_-", and what a
// name may not hold becomes "_." and four hex digits.
func escapeName(s string) string {
	var b strings.Builder
	for i, c := range s {
		switch {
		case c == '_':
			b.WriteString("__")
		case c == '$':
			b.WriteString("_-")
		case nameRune(c, i == 0):
			b.WriteRune(c)
		case c > 0xFFFF: // four digits hold one UTF-16 unit; such a character takes two
			c -= 0x10000
			for _, u := range []rune{0xD800 + c>>10, 0xDC00 + c&0x3FF} {
				b.WriteString("_." + hex4(u))
			}
		default:
			b.WriteString("_." + hex4(c))
		}
	}
	return b.String()
}

func hex4(c rune) string {
	s := strconv.FormatInt(int64(c), 16)
	return strings.Repeat("0", 4-len(s)) + s
}

// nameLetters are the letters beyond ASCII that every edition of XML 1.0 allows in names (Appendix B of the fourth),
// in the scripts in use. What else the fifth edition allows some parsers refuse, and with it the whole document.
var nameLetters = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0xC0, 0xD6, 1}, {0xD8, 0xF6, 1}, {0xF8, 0x131, 1}, {0x134, 0x13E, 1}, {0x141, 0x148, 1}, {0x14A, 0x17E, 1}, // Latin
		{0x388, 0x38A, 1}, {0x38C, 0x38C, 1}, {0x38E, 0x3A1, 1}, {0x3A3, 0x3CE, 1}, // Greek
		{0x401, 0x40C, 1}, {0x40E, 0x44F, 1}, {0x451, 0x45C, 1}, {0x45E, 0x481, 1}, // Cyrillic
		{0x5D0, 0x5EA, 1}, {0x621, 0x63A, 1}, {0x641, 0x64A, 1}, // Hebrew, Arabic
		{0x3041, 0x3094, 1}, {0x30A1, 0x30FA, 1}, {0x4E00, 0x9FA5, 1}, {0xAC00, 0xD7A3, 1}, // Japanese, Chinese, Korean
	},
	LatinOffset: 2,
}

// nameRune reports whether all parsers allow c in a name.
func nameRune(c rune, first bool) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		return true
	case c >= '0' && c <= '9', c == '-', c == '.':
		return !first
	}
	return c > unicode.MaxASCII && unicode.Is(nameLetters, c)
}

// appendNative appends one instance in the platform's own words.
func (r *record) appendNative(b []byte, region string) []byte {
	raw, err := json.Marshal(r.instance(region))
	if err != nil {
		panic("registry: an instance that is only strings and numbers cannot be written as JSON: " + err.Error())
	}
	return append(b, raw...)
}
