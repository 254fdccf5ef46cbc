package http2

import (
	"hash/maphash"
	"strconv"
	"unsafe"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
)

// Fields are encoded by what the static table has of them, and else in full: spec: RFC 7541 §6. What was written on a
// connection once already goes into its dynamic table, so that its third time takes a byte or two. Values are copied there:
// those of an exchange lie in buffers that are used again.

// staticNames has the names of the static table, at the place of their first index.
var staticNames = [...]string{
	1: ":authority", 2: ":method", 4: ":path", 6: ":scheme", 8: ":status", 15: "accept-charset", 16: "accept-encoding", 17: "accept-language",
	18: "accept-ranges", 19: "accept", 20: "access-control-allow-origin", 21: "age", 22: "allow", 23: "authorization", 24: "cache-control",
	25: "content-disposition", 26: "content-encoding", 27: "content-language", 28: "content-length", 29: "content-location", 30: "content-range",
	31: "content-type", 32: "cookie", 33: "date", 34: "etag", 35: "expect", 36: "expires", 37: "from", 38: "host", 39: "if-match",
	40: "if-modified-since", 41: "if-none-match", 42: "if-range", 43: "if-unmodified-since", 44: "last-modified", 45: "link", 46: "location",
	47: "max-forwards", 48: "proxy-authenticate", 49: "proxy-authorization", 50: "range", 51: "referer", 52: "refresh", 53: "retry-after",
	54: "server", 55: "set-cookie", 56: "strict-transport-security", 57: "transfer-encoding", 58: "user-agent", 59: "vary", 60: "via",
	61: "www-authenticate",
}

const staticSize = 61

const (
	indexLength    = 28
	indexDate      = 33
	indexSetCookie = 55
)

// bucket returns where names may lie that have the length, the first and the last letter of this one, in either case.
func bucket(name string) uint8 {
	n := len(name)
	return uint8(n*5) ^ (name[0]|0x20)*3 ^ (name[n-1]|0x20)*7
}

// byBucket has up to four indexes of staticNames for each bucket.
var byBucket = func() (t [256][4]uint8) {
	for i, name := range staticNames {
		if name == "" || name[0] == ':' {
			continue
		}
		b := &t[bucket(name)]
		at := 0
		for b[at] != 0 {
			at++
		}
		b[at] = uint8(i)
	}
	return t
}()

// staticIndex returns the index of a name, in whatever case; 0 if it has none.
func staticIndex(name string) int {
	for _, i := range byBucket[bucket(name)] {
		if i == 0 {
			return 0
		}
		if filter.Same(name, staticNames[i]) {
			return int(i)
		}
	}
	return 0
}

var toLower = func() (t [256]byte) {
	for c := range t {
		t[c] = byte(c)
		if 'A' <= c && c <= 'Z' {
			t[c] = byte(c) | 0x20
		}
	}
	return t
}()

// appendInt appends a number with a prefix of n bits, of which the first byte's others are given. spec: RFC 7541 §5.1
func appendInt(b []byte, first byte, n uint, v int) []byte {
	most := 1<<n - 1
	if v < most {
		return append(b, first|byte(v))
	}
	b = append(b, first|byte(most))
	for v -= most; v >= 128; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

// appendText appends a string as it is.
func appendText(b []byte, s string) []byte { return append(appendInt(b, 0, 7, len(s)), s...) }

// appendName appends a name in lower case.
func appendName(b []byte, name string) []byte {
	b = appendInt(b, 0, 7, len(name))
	for i := range len(name) {
		b = append(b, toLower[name[i]])
	}
	return b
}

// What a literal becomes.
const (
	notIndexed   = 0x00
	neverIndexed = 0x10
	nowIndexed   = 0x40
)

func appendLiteral(b []byte, kind byte, index int, name, value string) []byte {
	bits := uint(4)
	if kind == nowIndexed {
		bits = 6
	}
	b = appendInt(b, kind, bits, index)
	if index == 0 {
		b = appendName(b, name)
	}
	return appendText(b, value)
}

// encoder is the dynamic table of one direction of a connection.
type encoder struct {
	entries *[tableEntries]entry // a ring; the newest is at first; nil: nothing was ever there
	first   int
	n       int
	size    int // as the RFC counts it
	most    int // that the other side allows
	resized bool
	seen    [seenFields]uint32 // of fields that were written in full; 0: none
	next    int
}

const (
	tableEntries = 32
	tableSize    = 4096
	seenFields   = 32
	overhead     = 32 // of an entry; spec: RFC 7541 §4.1
	worthIndexed = 512
)

type entry struct {
	hash  uint32
	name  string // lower case
	value string
	text  []byte // where both lie
}

var seed = maphash.MakeSeed()

// hash is of a field's value, and of its name as far as bucket looks at that; never 0.
func hash(name, value string) uint32 {
	return uint32(maphash.String(seed, value)) ^ uint32(bucket(name))<<24 | 1
}

// limit has the table be no larger than the other side allows. Of several sizes it takes the smallest until that was told:
// telling two in one head is allowed, but not every decoder bears it.
func (e *encoder) limit(most int) {
	if most = min(most, tableSize); e.resized {
		most = min(most, e.most)
	}
	if most == e.most {
		return
	}
	e.most, e.resized = most, true
	e.evict(0)
}

// evict makes room for so much.
func (e *encoder) evict(room int) {
	for e.n > 0 && (e.size+room > e.most || room > 0 && e.n == tableEntries) {
		last := &e.entries[(e.first+e.n-1)%tableEntries]
		e.size -= len(last.name) + len(last.value) + overhead
		e.n--
	}
}

// begin begins the fields of a message.
func (e *encoder) begin(b []byte) []byte {
	if e.resized {
		e.resized = false
		return appendInt(b, 0x20, 5, e.most)
	}
	return b
}

// status appends the field that begins an answer.
func (e *encoder) status(b []byte, status int) []byte {
	switch status {
	case 200:
		return append(b, 0x88)
	case 204:
		return append(b, 0x89)
	case 206:
		return append(b, 0x8a)
	case 304:
		return append(b, 0x8b)
	case 400:
		return append(b, 0x8c)
	case 404:
		return append(b, 0x8d)
	case 500:
		return append(b, 0x8e)
	}
	b = append(b, 8, 3)
	return strconv.AppendInt(b, int64(min(max(status, 100), 999)), 10)
}

// length appends the length of a body.
func (e *encoder) length(b []byte, n int64) []byte {
	b = append(b, 0x0f, indexLength-15, 0)
	at := len(b)
	b = strconv.AppendInt(b, n, 10)
	b[at-1] = byte(len(b) - at)
	return b
}

// field appends a field, unless it would not be read as one by everybody: those that were parsed are fit, but filters make
// them up.
//
// hot path: 0 allocs, BenchmarkServer
func (e *encoder) field(b []byte, name, value string) []byte {
	if !http1.Writable(name, value) {
		return b
	}
	index := staticIndex(name)
	switch index {
	case indexSetCookie:
		return appendLiteral(b, neverIndexed, index, name, value)
	case indexDate, indexLength:
		return appendLiteral(b, notIndexed, index, name, value)
	}
	size := len(name) + len(value) + overhead
	if size > worthIndexed {
		return appendLiteral(b, notIndexed, index, name, value)
	}
	h := hash(name, value)
	for i := range e.n {
		if t := &e.entries[(e.first+i)%tableEntries]; t.hash == h && t.value == value && filter.Same(name, t.name) {
			return appendInt(b, 0x80, 7, staticSize+1+i)
		}
	}
	for _, s := range e.seen {
		if s == h && size <= e.most {
			e.add(h, name, value)
			return appendLiteral(b, nowIndexed, index, name, value)
		}
	}
	e.seen[e.next] = h
	e.next = (e.next + 1) % seenFields
	return appendLiteral(b, notIndexed, index, name, value)
}

// add makes a field the newest entry.
func (e *encoder) add(h uint32, name, value string) {
	if e.entries == nil {
		e.entries = new([tableEntries]entry)
	}
	size := len(name) + len(value) + overhead
	e.evict(size)
	e.first = (e.first + tableEntries - 1) % tableEntries
	t := &e.entries[e.first]
	t.text = t.text[:0]
	for i := range len(name) {
		t.text = append(t.text, toLower[name[i]])
	}
	t.text = append(t.text, value...)
	t.hash, t.name, t.value = h, view(t.text[:len(name)]), view(t.text[len(name):])
	e.n++
	e.size += size
}

// view returns b as a string that lies where b lies.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
