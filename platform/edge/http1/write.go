package http1

import (
	"encoding/binary"
	"net/http"
	"strconv"
	"sync"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// scratch is what a head is put together in. It is held only while that is written: a few of them, which stay near the
// processor, do for all connections, while one for each would have to be fetched from afar whenever it is that one's turn.
type scratch struct{ b []byte }

var scratches = sync.Pool{New: func() any { return &scratch{make([]byte, 0, 4<<10)} }}

func (s *scratch) free() {
	if cap(s.b) > 64<<10 {
		s.b = make([]byte, 0, 4<<10)
	}
	scratches.Put(s)
}

// statusLines has the first line of a response of each status that has a name.
var statusLines = func() (t [600]string) {
	for s := range t {
		if name := http.StatusText(s); name != "" {
			t[s] = "HTTP/1.1 " + strconv.Itoa(s) + " " + name + "\r\n"
		}
	}
	return t
}()

// appendStatus appends the first line of a response.
func appendStatus(b []byte, status int) []byte {
	if status < len(statusLines) && status > 0 && statusLines[status] != "" {
		return append(b, statusLines[status]...)
	}
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(min(max(status, 100), 999)), 10)
	return append(b, " \r\n"...)
}

// appendField appends a field, unless its name or value would not be read as one field by everybody: those that were parsed
// are fit, but filters make them up.
func appendField(b []byte, name, value string) []byte {
	if name == "" || !nameFit(name) || !valueFit(value) {
		return b
	}
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, '\r', '\n')
}

// nameFit reports whether a name ends where it seems to: it has no colon, white space, control characters or bytes beyond
// ASCII. It looks at eight bytes at a time.
func nameFit(name string) bool {
	b := bytesOf(name)
	if len(b) < 8 {
		for _, c := range b {
			if class[c]&token == 0 {
				return false
			}
		}
		return true
	}
	for i := 0; ; i += 8 {
		last := i+8 >= len(b)
		if last {
			i = len(b) - 8
		}
		w := binary.LittleEndian.Uint64(b[i:])
		del, colon := w^0x7f*ones, w^':'*ones
		if ((w-0x21*ones)&^w|(del-ones)&^del|(colon-ones)&^colon|w)&highs != 0 {
			return false
		}
		if last {
			return true
		}
	}
}

// valueFit reports whether a value has no control characters but tabs.
func valueFit(value string) bool { return valueEnd(bytesOf(value), 0) == len(value) }

// framingField reports whether a field is written by the engine alone.
func framingField(name string) bool {
	if len(name) > len("transfer-encoding") || ours>>len(name)&1 == 0 {
		return false
	}
	switch b := bytesOf(name); len(name) {
	case 4:
		return is(b, "host")
	case 6:
		return is(b, "expect")
	case 7:
		return is(b, "upgrade")
	case 10:
		return is(b, "connection") || is(b, "keep-alive")
	case 14:
		return is(b, "content-length")
	case 16:
		return is(b, "proxy-connection")
	case 17:
		return is(b, "transfer-encoding")
	}
	return false
}

// appendFields appends the fields of h that are not the engine's to write.
//
// hot path: 0 allocs, BenchmarkAppendRequest
func appendFields(b []byte, h *filter.Header) []byte {
	fields := h.Fields()
	for i := range fields {
		if f := &fields[i]; !framingField(f.Name) {
			b = appendField(b, f.Name, f.Value)
		}
	}
	return b
}

// appendLength appends the field that frames a body: its length, or that it is chunked.
func appendLength(b []byte, length int64) []byte {
	if length < 0 {
		return append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, length, 10)
	return append(b, '\r', '\n')
}

// appendRequest appends the head of a request to an origin, always HTTP/1.1. A request without a body has no framing field,
// unless its method usually has one.
func appendRequest(b []byte, o *Outgoing, upgrade string) []byte {
	b = append(b, o.Method...)
	b = append(b, ' ')
	b = append(b, o.Target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, o.Host...)
	b = append(b, '\r', '\n')
	b = appendFields(b, o.Header)
	switch {
	case upgrade != "":
		b = append(b, "Connection: Upgrade\r\n"...)
		b = appendField(b, "Upgrade", upgrade)
	case o.Header.Has("TE"):
		b = append(b, "Connection: TE\r\n"...)
	}
	if o.ContentLength != 0 || o.Method == "POST" || o.Method == "PUT" || o.Method == "PATCH" {
		b = appendLength(b, o.ContentLength)
	}
	return append(b, '\r', '\n')
}
