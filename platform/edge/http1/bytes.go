package http1

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// What a byte may be part of.
const (
	token      = 1 << iota // a name or a method: tchar of RFC 9110 section 5.6.2
	target                 // a request target: visible ASCII
	special                // a target with such a byte needs a second look
	hostByte               // a reg-name, as strict as DNS and its users
	underlined             // the underscore
)

// class says of each byte what it may be part of.
var class = func() (t [256]uint8) {
	for c := 0x21; c <= 0x7e; c++ {
		t[c] = target
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		t[c] |= token
	}
	for _, c := range []byte("-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		t[c] |= hostByte
	}
	for _, c := range []byte(`%#.\`) {
		t[c] |= special
	}
	t['_'] |= underlined
	return t
}()

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// valueEnd returns the index, from i on, of the first byte that may not be in a field's value: a control character other
// than the tab, or DEL. It looks at eight bytes at a time.
//
// hot path: 0 allocs, BenchmarkRequestHead
func valueEnd(b []byte, i int) int {
	for i+8 <= len(b) {
		w := binary.LittleEndian.Uint64(b[i:])
		del := w ^ 0x7f*ones
		if found := ((w-0x20*ones)&^w | (del-ones)&^del) & highs; found != 0 {
			i += bits.TrailingZeros64(found) / 8 // the lowest one is right, whatever was borrowed above it
			if b[i] != '\t' {
				return i
			}
			i++
			continue
		}
		i += 8
	}
	for i < len(b) && (b[i] >= 0x20 && b[i] != 0x7f || b[i] == '\t') {
		i++
	}
	return i
}

// view returns b as a string that lies where b lies.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// bytesOf returns the bytes of s where they lie; they must not be written to.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// is reports whether b is the name, which is given in lower case, in whatever case. They are of one length.
func is(b []byte, name string) bool {
	for i := range b {
		if c := b[i]; c != name[i] && (c|0x20 != name[i] || c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// hex returns the value of a hexadecimal digit, 16 and more if c is none.
func hex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 16
}
