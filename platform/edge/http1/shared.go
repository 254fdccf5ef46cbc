package http1

import "github.com/roadbed/roadbed/platform/edge/filter"

// What follows is for the engine of HTTP/2, whose requests become those of HTTP/1.1 behind the edge and are held to the same
// rules.

// Aim reads a request's target, and fills Target, Path and RawQuery of x.Request, whose Method is set. A CONNECT is refused.
//
// hot path: 0 allocs, BenchmarkServer
func (r *Rules) Aim(x *filter.Exchange, at string) *Refusal {
	if len(at) > r.Limits.Line {
		return lineTooLong
	}
	h, seen := head{rules: r, target: bytesOf(at)}, uint8(0)
	for _, c := range h.target {
		k := class[c]
		if k&target == 0 {
			return targetByte
		}
		seen |= k
	}
	h.special = seen&special != 0
	x.Request.Target = at
	return h.aim(x)
}

// Fit refuses what a field may not be called or hold; drop tells that it is left out instead. Host, framing and what else is
// the connection's own are the caller's business.
//
// hot path: 0 allocs, BenchmarkServer
func (r *Rules) Fit(name, value string) (drop bool, why *Refusal) {
	seen := uint8(0)
	for i := range len(name) {
		k := class[name[i]]
		if k&token == 0 {
			return false, badName
		}
		seen |= k
	}
	switch {
	case name == "":
		return false, emptyName
	case !valueFit(value):
		return false, control
	case seen&underlined == 0 || r.Underscores == Keep:
		return false, nil
	case r.Underscores == Reject:
		return false, underscore
	}
	return true, nil
}

// ValidHost reports whether host is a name or an address, with a port or without.
func ValidHost(host string) bool { return validHost(bytesOf(host)) }

// Length returns the value of a Content-Length, -1 if that is none.
func Length(value string) int64 { return number(bytesOf(value)) }

// NoTrailer reports whether a field has no business in a trailer.
func NoTrailer(name string) bool { return forbiddenTrailer(name) || framingField(name) }

// Framing reports whether a field is the engine's own to write.
func Framing(name string) bool { return framingField(name) }

// Writable reports whether a field would be read as one by everybody.
//
// hot path: 0 allocs, BenchmarkServer
func Writable(name, value string) bool { return name != "" && nameFit(name) && valueFit(value) }

// What a request of another protocol may be refused for, too.
var (
	LargeHead  = headTooLarge
	ManyFields = manyFields
	BadHost    = badHost
	BadExpect  = badExpect
	SlowBody   = slowBody
)
