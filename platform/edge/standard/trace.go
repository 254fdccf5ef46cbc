package standard

import (
	"math/rand/v2"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// trace finds out which trace a request is part of. W3C's traceparent passes as it is; one that cannot be read goes, with
// its tracestate; B3's fields are told as traceparent, too. A new trace begins here only if a property says so: services
// with a parent do not decide for themselves what they record, so that one from here would overrule them.
// spec: https://www.w3.org/TR/trace-context/, https://github.com/openzipkin/b3-propagation
func trace(p *config.Properties) *filter.Filter {
	create := p.Bool("edge.trace.create", false)
	recorded := p.Float("edge.trace.recorded", 0.01)
	return &filter.Filter{Name: "Trace", Kind: filter.Inbound, Order: -992, Quick: true, Apply: func(x *filter.Exchange) error {
		h := &x.Request.Header
		if h.Has("Traceparent") {
			if id, ok := traceID(h.Get("Traceparent")); ok && h.Count("Traceparent") == 1 {
				x.Trace = id
				return nil
			}
			h.Del("Traceparent")
			h.Del("Tracestate")
		}
		var mem [55]byte
		b, ok := fromB3(mem[:0], h)
		switch {
		case ok:
		case create.Get():
			b = append(mem[:0], "00-"...)
			b = appendID(b, 4)
			b = append(b, '-')
			b = appendID(b, 2)
			b = append(b, "-00"...)
			if rand.Float64() < recorded.Get() {
				b[len(b)-1] = '1'
			}
		default:
			return nil
		}
		parent := x.Keep(b)
		x.Trace = parent[3:35]
		h.Add("traceparent", parent)
		return nil
	}}
}

// appendID appends words of 8 random hexadecimal digits that are not all zero.
func appendID(b []byte, words int) []byte {
	for range words {
		var d [8]byte
		hex(d[:], uint64(rand.Uint32()))
		b = append(b, d[:]...)
	}
	if b[len(b)-1] == '0' {
		b[len(b)-1] = '1' // an id of zeros means none
	}
	return b
}

// traceID returns the id in a traceparent, if that can be read.
func traceID(s string) (id string, ok bool) {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || !lowHex(s[:2]) || !lowHex(s[3:35]) || !lowHex(s[36:52]) || !lowHex(s[53:55]) ||
		s[:2] == "ff" || zeros(s[3:35]) || zeros(s[36:52]) {
		return "", false
	}
	if s[:2] == "00" && len(s) != 55 || len(s) > 55 && s[55] != '-' {
		return "", false
	}
	return s[3:35], true
}

// fromB3 appends the traceparent that B3's fields amount to.
func fromB3(b []byte, h *filter.Header) ([]byte, bool) {
	id, span, sampled := h.Get("X-B3-TraceId"), h.Get("X-B3-SpanId"), h.Get("X-B3-Sampled")
	if h.Get("X-B3-Flags") == "1" {
		sampled = "d"
	}
	if one := h.Get("B3"); one != "" {
		id, span, sampled = splitB3(one)
	}
	if len(id) != 16 && len(id) != 32 || len(span) != 16 || !lowHex(id) || !lowHex(span) || zeros(id) || zeros(span) {
		return b, false
	}
	b = append(b, "00-"...)
	if len(id) == 16 {
		b = append(b, "0000000000000000"...)
	}
	b = append(append(append(b, id...), '-'), span...)
	if sampled == "1" || sampled == "d" || sampled == "true" {
		return append(b, "-01"...), true
	}
	return append(b, "-00"...), true
}

// splitB3 reads B3's single field: TRACE-SPAN, TRACE-SPAN-SAMPLED or TRACE-SPAN-SAMPLED-PARENT.
func splitB3(s string) (id, span, sampled string) {
	var parts [4]string
	n, from := 0, 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '-' {
			continue
		}
		if n == len(parts) {
			return "", "", ""
		}
		parts[n] = s[from:i]
		n, from = n+1, i+1
	}
	return parts[0], parts[1], parts[2]
}

func lowHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func zeros(s string) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return false
		}
	}
	return true
}
