package http1

import (
	"bytes"
	"net/netip"
	"strings"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Limits bound what one message may take. Zero values are the defaults.
type Limits struct {
	Line    int // bytes of the first line; default 16384
	Fields  int // bytes of all fields; default 32768
	Count   int // fields; default 200
	Chunk   int // bytes of the line of a chunk's size; default 256
	Chunks  int // bytes of the extensions of all chunks of a body; default 16384
	Trailer int // bytes of the trailers; default 8192
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		of *int
		to int
	}{{&l.Line, 16384}, {&l.Fields, 32768}, {&l.Count, 200}, {&l.Chunk, 256}, {&l.Chunks, 16384}, {&l.Trailer, 8192}} {
		if *d.of <= 0 {
			*d.of = d.to
		}
	}
	return l
}

// Choice is what becomes of something that RFCs allow and servers read in two ways.
type Choice uint8

// The choices.
const (
	Default Choice = iota
	Keep           // let it pass
	Drop           // leave it out
	Reject         // answer 400
)

// Rules are what an operator may choose. Everything else is as strict as it can be.
type Rules struct {
	Limits       Limits
	Underscores  Choice   // in names of a request's fields; default Drop
	EncodedSlash Choice   // %2f, %5c and \ in a path; Keep, the default, or Reject
	MergeSlashes bool     // in paths
	Protected    []string // fields that Connection cannot have removed, beside those that are always so
}

// parts that a head's parser has come to.
const (
	atStart = iota
	atFields
	atEnd
)

// head parses the head of one message. It may be given the beginning of one, and again with more bytes at the end, until it
// knows; what it was given before must not have moved, because strings lie there. Wherever the bytes were split, the result is
// the same.
type head struct {
	rules *Rules
	part  uint8
	blank bool // an empty line came first
	at    int  // where the line begins that is parsed next
	block int  // where the fields begin
	count int

	method, target []byte
	special        bool // target needs a second look
	proto          int
	status         int

	host         []byte
	hosts        int
	length       int64 // -1: none
	lengths      int
	encodings    int
	chunked      bool
	coded        bool // in a way that we know and do not do
	close        bool
	keepAlive    bool
	upgrade      bool
	nominated    []string // by Connection, other than these
	protocols    int      // Upgrade fields
	protocol     string
	te           bool // trailers are welcome
	expects      int
	continues    bool // 100-continue is expected
	protocolList bool // Upgrade has several
}

func (h *head) reset(rules *Rules) {
	clear(h.nominated)
	*h = head{rules: rules, length: -1, nominated: h.nominated[:0]}
}

// request parses the head of a request that begins b. It returns its length once it is whole, 0 while it is not, or what it
// breaks. Of x.Request it sets everything but Scheme and Body. The fields there are those that go from end to end: Host is in
// Host, the framing in ContentLength, Upgrade in Upgrade; Connection and what it names, Keep-Alive, Proxy-Connection, Expect
// and TE, but for trailers, are gone.
//
// hot path: 0 allocs, BenchmarkRequestHead
func (h *head) request(b []byte, x *filter.Exchange) (int, *Refusal) {
	if h.part == atStart {
		if r := h.requestLine(b); r != nil || h.part == atStart {
			return 0, r
		}
	}
	q := &x.Request
	if r := h.fields(b, &q.Header, h.rules.Limits.Fields, headTooLarge); r != nil || h.part != atEnd {
		return 0, r
	}
	q.Method, q.Target, q.Proto = view(h.method), view(h.target), h.proto
	if h.hosts > 1 {
		return 0, manyHosts
	}
	if h.hosts == 1 {
		if !validHost(h.host) {
			return 0, badHost
		}
		q.Host = view(h.host)
	} else if h.proto == 11 {
		return 0, noHost
	}
	if r := h.aim(x); r != nil {
		return 0, r
	}
	if r := h.framing(); r != nil {
		return 0, r
	}
	switch {
	case h.chunked:
		q.ContentLength = -1
	case h.length > 0:
		q.ContentLength = h.length
	}
	if h.expects > 0 && h.proto == 11 && (h.expects > 1 || !h.continues) {
		return 0, badExpect
	}
	if h.upgrade && h.protocols == 1 && !h.protocolList && h.proto == 11 && !filter.Same(h.protocol, "h2c") {
		if q.ContentLength != 0 {
			return 0, upgradeBody
		}
		q.Upgrade = h.protocol
	}
	h.hop(&q.Header)
	return h.at, nil
}

// response parses the head of a response, as request does for a request; upgrade says whether the request asked for another
// protocol. Of p it sets all but Body: ContentLength is -1 if the length is not known, and what
// the fields say for answers to HEAD and for 304; of fields, Upgrade stays with 101 and 426, where it says what to.
//
// hot path: 0 allocs, BenchmarkResponseHead
func (h *head) response(b []byte, p *filter.Response, upgrade bool) (int, *Refusal) {
	if h.part == atStart {
		if r := h.statusLine(b); r != nil || h.part == atStart {
			return 0, r
		}
	}
	if r := h.fields(b, &p.Header, h.rules.Limits.Fields, headTooLarge); r != nil || h.part != atEnd {
		return 0, r
	}
	if r := h.framing(); r != nil {
		return 0, r
	}
	p.Status, p.ContentLength = h.status, -1
	if h.length >= 0 {
		p.ContentLength = h.length
	}
	switch {
	case h.status == 101:
		if !upgrade || !h.upgrade || h.protocols == 0 {
			return 0, stateless
		}
		fallthrough
	case h.status < 200 || h.status == 204:
		p.ContentLength = 0
	}
	h.hop(&p.Header)
	if h.protocols > 0 && (h.status == 101 || h.status == 426) {
		p.Header.Add("Upgrade", h.protocol)
	}
	return h.at, nil
}

// bodiless reports whether the response has no body, whatever its fields say.
func (h *head) bodiless(asked string) bool {
	return asked == "HEAD" || h.status < 200 || h.status == 204 || h.status == 304
}

// persists reports whether the sender keeps the connection open after this message.
func (h *head) persists() bool { return !h.close && (h.proto == 11 || h.keepAlive) }

// requestLine parses the first line, and an empty one before it.
func (h *head) requestLine(b []byte) *Refusal {
	i := h.at
	for i < len(b) && b[i] == '\r' {
		if i+1 == len(b) {
			return nil
		}
		if b[i+1] != '\n' {
			return bareCR
		}
		if h.blank {
			return blankLines
		}
		h.blank = true
		i += 2
		h.at = i
	}
	start, limit := i, h.rules.Limits.Line
	for i < len(b) && class[b[i]]&token != 0 {
		i++
	}
	if i-start > limit {
		return lineTooLong
	}
	if i == len(b) {
		return nil
	}
	if b[i] != ' ' || i == start {
		return misfit(b, i, requestLine)
	}
	h.method = b[start:i]
	i++
	from, seen := i, uint8(0)
	for i < len(b) {
		c := class[b[i]]
		if c&target == 0 {
			break
		}
		seen |= c
		i++
	}
	if i-start > limit {
		return lineTooLong
	}
	if i == len(b) {
		return nil
	}
	if b[i] != ' ' || i == from {
		if b[i] > 0x7e || b[i] == 0 {
			return targetByte
		}
		return misfit(b, i, requestLine)
	}
	h.target, h.special = b[from:i], seen&special != 0
	i++
	if i+10 <= len(b) && string(b[i:i+10]) == "HTTP/1.1\r\n" {
		h.proto = 11
		i += 10
		if i-2-start > limit {
			return lineTooLong
		}
	} else {
		from = i
		for i < len(b) && class[b[i]]&target != 0 {
			i++
		}
		if i-start > limit {
			return lineTooLong
		}
		if i == len(b) {
			return nil
		}
		if b[i] != '\r' {
			return misfit(b, i, requestLine)
		}
		if i+1 == len(b) {
			return nil
		}
		if b[i+1] != '\n' {
			return bareCR
		}
		switch v := b[from:i]; {
		case string(v) == "HTTP/1.1":
			h.proto = 11
		case string(v) == "HTTP/1.0":
			h.proto = 10
		case len(v) == 0:
			return requestLine
		case len(v) >= 6 && string(v[:5]) == "HTTP/" && v[5] >= '0' && v[5] <= '9':
			return otherVersion
		case (len(v) < 4 || !is(v[:4], "http")) && (len(h.target) == 0 || h.target[0] != '/'):
			return noVersion
		default:
			return badVersion
		}
		i += 2
	}
	h.at, h.block, h.part = i, i, atFields
	return nil
}

// statusLine parses the first line of a response.
func (h *head) statusLine(b []byte) *Refusal {
	i, limit := h.at, h.rules.Limits.Line
	end := valueEnd(b, i)
	if end-i > limit {
		return lineTooLong
	}
	// What is there already must be the beginning of one: an origin that speaks something else is told from a slow one.
	line := b[i:end]
	for k := range min(len(line), len("HTTP/1.1 200 ")) {
		c, ok := line[k], false
		switch k {
		case 7:
			ok = c == '0' || c == '1'
		case 9:
			ok = c >= '1' && c <= '9'
		case 10, 11:
			ok = c >= '0' && c <= '9'
		case 12:
			ok = c == ' '
		default:
			ok = c == "HTTP/1.1 "[k]
		}
		if !ok {
			return statusLine
		}
	}
	if end == len(b) {
		return nil
	}
	if b[end] != '\r' {
		return misfit(b, end, statusLine)
	}
	if end+1 == len(b) {
		return nil
	}
	if b[end+1] != '\n' {
		return bareCR
	}
	if len(line) < len("HTTP/1.1 200") {
		return statusLine
	}
	h.proto = 10 + int(line[7]-'0')
	h.status = int(line[9]-'0')*100 + int(line[10]-'0')*10 + int(line[11]-'0')
	h.at, h.block, h.part = end+2, end+2, atFields
	return nil
}

// fields parses lines up to the empty one.
func (h *head) fields(b []byte, to *filter.Header, limit int, tooLarge *Refusal) *Refusal {
	for {
		i := h.at
		start := i
		if i-h.block > limit {
			return tooLarge
		}
		if i == len(b) {
			return nil
		}
		if b[i] == '\r' {
			if i+1 == len(b) {
				return nil
			}
			if b[i+1] != '\n' {
				return bareCR
			}
			h.at, h.part = i+2, atEnd
			return nil
		}
		if h.count == h.rules.Limits.Count {
			return manyFields
		}
		var seen uint8
		for i < len(b) {
			c := class[b[i]]
			if c&token == 0 {
				break
			}
			seen |= c
			i++
		}
		if i-h.block > limit {
			return tooLarge
		}
		if i == len(b) {
			return nil
		}
		if b[i] != ':' || i == start {
			return h.misnamed(b, i, start)
		}
		name := b[start:i]
		i++
		for i < len(b) && (b[i] == ' ' || b[i] == '\t') {
			i++
		}
		from := i
		i = valueEnd(b, i)
		if i-h.block > limit {
			return tooLarge
		}
		if i == len(b) {
			return nil
		}
		if b[i] != '\r' {
			return misfit(b, i, control)
		}
		if i+1 == len(b) {
			return nil
		}
		if b[i+1] != '\n' {
			return bareCR
		}
		h.at = i + 2
		h.count++
		for i > from && (b[i-1] == ' ' || b[i-1] == '\t') {
			i--
		}
		value := b[from:i]
		if len(name) <= len("transfer-encoding") && ours>>len(name)&1 != 0 && h.own(name, value) {
			continue
		}
		if seen&underlined != 0 && h.status == 0 {
			switch h.rules.Underscores {
			case Keep:
			case Reject:
				return underscore
			default:
				continue
			}
		}
		to.Add(view(name), view(value))
	}
}

// ours has a bit for each length of a name that own looks at.
const ours = 1<<2 | 1<<4 | 1<<6 | 1<<7 | 1<<10 | 1<<14 | 1<<16 | 1<<17

// own takes in a field that is the connection's business. It reports whether the field was one.
func (h *head) own(name, value []byte) bool {
	switch len(name) {
	case 2:
		if !is(name, "te") {
			return false
		}
		for part := range bytes.SplitSeq(value, comma) {
			part, _, _ = bytes.Cut(part, []byte{';'})
			if part = trim(part); len(part) == 8 && is(part, "trailers") {
				h.te = true
			}
		}
		return true
	case 4:
		if !is(name, "host") {
			return false
		}
		h.host = value
		h.hosts++
		return true
	case 6:
		if !is(name, "expect") {
			return false
		}
		h.expects++
		h.continues = len(value) == 12 && is(value, "100-continue")
		return true
	case 7:
		if !is(name, "upgrade") {
			return false
		}
		h.protocols++
		h.protocol = view(value)
		h.protocolList = len(value) == 0 || bytes.IndexByte(value, ',') >= 0
		return true
	case 10:
		if is(name, "keep-alive") {
			return true
		}
		if !is(name, "connection") {
			return false
		}
		h.options(value)
		return true
	case 14:
		if is(name, "http2-settings") { // goes with an Upgrade to h2c, which is not heeded
			return true
		}
		if !is(name, "content-length") {
			return false
		}
		h.lengths++
		h.length = number(value)
		return true
	case 16:
		return is(name, "proxy-connection")
	case 17:
		if !is(name, "transfer-encoding") {
			return false
		}
		h.encodings++
		h.chunked = len(value) == 7 && is(value, "chunked")
		h.coded = !h.chunked && knownCodings(value)
		return true
	}
	return false
}

var comma = []byte{','}

// options takes in a Connection field.
func (h *head) options(value []byte) {
	for len(value) > 0 {
		part := value
		if i := bytes.IndexByte(value, ','); i >= 0 {
			part, value = value[:i], value[i+1:]
		} else {
			value = nil
		}
		part = trim(part)
		switch {
		case len(part) == 0:
		case len(part) == 5 && is(part, "close"):
			h.close = true
		case len(part) == 10 && is(part, "keep-alive"):
			h.keepAlive = true
		case len(part) == 7 && is(part, "upgrade"):
			h.upgrade = true
		default:
			h.nominated = append(h.nominated, view(part))
		}
	}
}

// number returns the value of 1 to 18 digits, -1 if b is anything else.
func number(b []byte) int64 {
	if len(b) == 0 || len(b) > 18 {
		return -1
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

// knownCodings reports whether a Transfer-Encoding is a list of what RFC 9112 section 7 has and ends in chunked.
func knownCodings(value []byte) bool {
	last := false
	for part := range bytes.SplitSeq(value, comma) {
		part = trim(part)
		if last {
			return false
		}
		switch strings.ToLower(view(part)) {
		case "gzip", "x-gzip", "deflate", "compress", "x-compress":
		case "chunked":
			last = true
		default:
			return false
		}
	}
	return last
}

// framing says what is wrong with how the body's end is told.
func (h *head) framing() *Refusal {
	if h.lengths|h.encodings == 0 {
		return nil
	}
	switch {
	case h.lengths > 0 && h.encodings > 0:
		return twoFramings
	case h.lengths > 1:
		return manyLengths
	case h.lengths == 1:
		if h.length < 0 {
			return badLength
		}
	case h.proto == 10:
		return oldEncoding
	case h.encodings > 1:
		return badEncoding
	case h.coded:
		return otherEncoding
	case !h.chunked:
		return badEncoding
	}
	return nil
}

// hop removes what Connection nominates, and tells the next hop what this one may.
func (h *head) hop(to *filter.Header) {
	for _, name := range h.nominated {
		if !h.protected(name) {
			to.Del(name)
		}
	}
	if h.te {
		to.Add("TE", "trailers")
	}
}

// protected reports whether a field stays though Connection names it: what frames or routes a message, or says who asks.
func (h *head) protected(name string) bool {
	for _, p := range [...]string{"content-length", "transfer-encoding", "host", "authorization", "cookie", "forwarded"} {
		if filter.Same(name, p) {
			return true
		}
	}
	if len(name) > len("x-forwarded-") && filter.Same(name[:len("x-forwarded-")], "x-forwarded-") {
		return true
	}
	for _, p := range h.rules.Protected {
		if filter.Same(name, p) {
			return true
		}
	}
	return false
}

// misfit names what is wrong with b[i], where something else was wanted; other is for bytes that are harmless elsewhere.
// It is nil if only the next byte can tell.
func misfit(b []byte, i int, other *Refusal) *Refusal {
	switch c := b[i]; {
	case c == '\n':
		return bareLF
	case c == '\r':
		if i+1 == len(b) {
			return nil
		}
		if b[i+1] != '\n' {
			return bareCR
		}
	case c != '\t' && c < 0x20 || c == 0x7f:
		return control
	}
	return other
}

// misnamed names what is wrong at b[i] with the name of a field that begins at start.
func (h *head) misnamed(b []byte, i, start int) *Refusal {
	switch c := b[i]; {
	case i == start && c == ':':
		return emptyName
	case i == start && (c == ' ' || c == '\t'):
		if h.count == 0 {
			return leadingSpace
		}
		return folded
	case c == ' ' || c == '\t':
		return nameSpace
	case c == '\r':
		return misfit(b, i, noColon)
	}
	return misfit(b, i, badName)
}

// validHost reports whether b is a name or an address, with a port or without.
func validHost(b []byte) bool {
	i := 0
	if len(b) > 0 && b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		if end < 0 || bytes.IndexByte(b[:end], '%') >= 0 {
			return false
		}
		if a, err := netip.ParseAddr(view(b[1:end])); err != nil || !a.Is6() {
			return false
		}
		i = end + 1
	} else {
		for i < len(b) && class[b[i]]&hostByte != 0 {
			i++
		}
		if i == 0 || i > 255 {
			return false
		}
	}
	if i == len(b) {
		return true
	}
	port := b[i+1:]
	n := number(port)
	return b[i] == ':' && len(port) <= 5 && n >= 0 && n <= 65535
}
