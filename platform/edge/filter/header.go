package filter

import (
	"iter"
	"strings"
)

// Field is one line of a head.
type Field struct{ Name, Value string }

// Header is the fields of a head in their order and with the letter case they came in. Names compare without case. The
// zero value is empty. It is not for use by several goroutines at once.
type Header struct {
	fields []Field
	seen   uint64 // a bit for each name that may be there: most questions are about names that are not
}

// bit returns the bit of seen for a name: of its length and its ends, in either case.
func bit(name string) uint64 {
	if name == "" {
		return 1
	}
	n := uint(len(name))
	return 1 << ((n ^ uint(name[0]&0x1f)<<1 ^ uint(name[n-1]&0x1f)<<3) & 63)
}

// Get returns the first value of the fields of that name, "" if there is none.
func (h *Header) Get(name string) string {
	if i := h.index(name); i >= 0 {
		return h.fields[i].Value
	}
	return ""
}

// Has reports whether there is a field of that name.
func (h *Header) Has(name string) bool { return h.index(name) >= 0 }

// index returns where the first field of that name is, -1 if nowhere.
//
// hot path: 0 allocs, BenchmarkHeaderMiss
func (h *Header) index(name string) int {
	if h.seen&bit(name) == 0 {
		return -1
	}
	for i := range h.fields {
		if f := &h.fields[i]; len(f.Name) == len(name) && same(f.Name, name) {
			return i
		}
	}
	return -1
}

// same compares two names of one length without case.
func same(a, b string) bool {
	if a == b {
		return true
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

// Same reports whether two names of fields are the same.
func Same(a, b string) bool { return len(a) == len(b) && same(a, b) }

// Token reports whether s may be a field's name, or another token. spec: RFC 9110 §5.6.2
func Token(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// Plain reports whether s has letters, digits and -._ alone, as ids and names of apps have.
func Plain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return s != ""
}

// Count returns how many fields have that name.
func (h *Header) Count(name string) (n int) {
	for range h.Values(name) {
		n++
	}
	return n
}

// Values yields the value of each field of that name.
func (h *Header) Values(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if h.seen&bit(name) == 0 {
			return
		}
		for i := range h.fields {
			if f := &h.fields[i]; Same(f.Name, name) && !yield(f.Value) {
				return
			}
		}
	}
}

// Contains reports whether one of the comma-separated values of the fields of that name is token, without case.
func (h *Header) Contains(name, token string) bool {
	for v := range h.Values(name) {
		for part := range strings.SplitSeq(v, ",") {
			if Same(strings.Trim(part, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// Add appends a field. Name and value must be fit to be written: a token, and no control characters.
func (h *Header) Add(name, value string) {
	h.fields = append(h.fields, Field{name, value})
	h.seen |= bit(name)
}

// Set gives the first field of that name the value and removes the others; without one it appends it.
func (h *Header) Set(name, value string) {
	i := h.index(name)
	if i < 0 {
		h.Add(name, value)
		return
	}
	h.fields[i].Value = value
	h.remove(name, i+1)
}

// Del removes the fields of that name.
func (h *Header) Del(name string) {
	if i := h.index(name); i >= 0 {
		h.remove(name, i)
	}
}

// remove takes out the fields of that name from index from on.
func (h *Header) remove(name string, from int) {
	kept := h.fields[:from]
	for _, f := range h.fields[from:] {
		if !Same(f.Name, name) {
			kept = append(kept, f)
		}
	}
	clear(h.fields[len(kept):])
	h.fields = kept
}

// DelFunc removes the fields that drop says.
func (h *Header) DelFunc(drop func(*Field) bool) {
	n := 0 // that are kept, mostly all
	for i := range h.fields {
		if drop(&h.fields[i]) {
			continue
		}
		if n < i {
			h.fields[n] = h.fields[i]
		}
		n++
	}
	clear(h.fields[n:])
	h.fields = h.fields[:n]
}

// Len returns how many fields there are.
func (h *Header) Len() int { return len(h.fields) }

// Fields returns the fields in order, for reading; the next change may alter it.
func (h *Header) Fields() []Field { return h.fields }

// Reset empties h and keeps its memory.
func (h *Header) Reset() {
	clear(h.fields)
	h.fields, h.seen = h.fields[:0], 0
}
