package filter

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"
)

// AppendAttempts appends attempts to b as X-Zuul-Proxy-Attempts and the access log tell them: a JSON list in which what is
// not known is left out, with times in milliseconds.
//
//	[{"status":503,"duration":12,"attempt":1,"error":"ORIGIN_SERVICE_UNAVAILABLE","app":"playback","port":7001}]
func AppendAttempts(b []byte, attempts []Attempt) []byte {
	b = append(b, '[')
	for i := range attempts {
		if i > 0 {
			b = append(b, ',')
		}
		b = attempts[i].append(b)
	}
	return append(b, ']')
}

func (a *Attempt) append(b []byte) []byte {
	b = append(b, '{')
	start := len(b)
	name := func(n string) {
		if len(b) > start {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, n...)
		b = append(b, '"', ':')
	}
	number := func(n string, v int64) {
		if v != 0 {
			name(n)
			b = strconv.AppendInt(b, v, 10)
		}
	}
	text := func(n, v string) {
		if v != "" {
			name(n)
			b = AppendJSON(b, v)
		}
	}
	number("status", int64(a.Status))
	name("duration")
	b = strconv.AppendInt(b, a.Duration.Milliseconds(), 10)
	number("attempt", int64(a.Number))
	text("error", a.Error)
	if a.Error != "" {
		text("exceptionType", "OutboundException") // as Zuul has it
	}
	if a.Cause != nil {
		text("cause", a.Cause.Error())
	}
	text("app", a.App)
	text("asg", a.ServerGroup)
	text("instanceId", a.Instance)
	text("host", a.Host)
	number("port", int64(a.Port))
	if ip, err := netip.ParseAddr(strings.Trim(a.Host, "[]")); err == nil {
		text("ipAddress", ip.String())
	}
	text("vip", a.App)
	text("region", a.Region)
	text("availabilityZone", a.Zone)
	number("readTimeout", int64(a.ReadTimeout/time.Millisecond))
	number("connectTimeout", int64(a.ConnectTimeout/time.Millisecond))
	number("maxRetries", int64(a.MaxRetries))
	return append(b, '}')
}

// AppendJSON appends s to b as a JSON string in ASCII, so that it may stand in a header. What is no UTF-8 becomes \ufffd.
//
// hot path: 0 allocs, BenchmarkAppendJSON
func AppendJSON(b []byte, s string) []byte {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	b = append(b, '"')
	from, all := 0, unsafe.Slice(unsafe.StringData(s), len(s))
	for i := 0; i < len(s); {
		if i+8 <= len(s) { // most strings are plain, and looked at eight bytes at a time
			w := binary.LittleEndian.Uint64(all[i:])
			quote, slash, del := w^'"'*ones, w^'\\'*ones, w^0x7f*ones
			if (w|(w-' '*ones)|(quote-ones)|(slash-ones)|(del-ones))&highs == 0 {
				i += 8
				continue
			}
		}
		c := s[i]
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[from:i]...)
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
			i++
		case c == '\n':
			b = append(b, '\\', 'n')
			i++
		case c < ' ' || c == 0x7f:
			b = appendUnit(b, uint16(c))
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			if r > 0xffff {
				r -= 0x10000
				b = appendUnit(b, uint16(0xd800+r>>10))
				r = 0xdc00 + r&0x3ff
			}
			b = appendUnit(b, uint16(r))
			i += n
		}
		from = i
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

// appendUnit appends a UTF-16 code unit as JSON escapes it.
func appendUnit(b []byte, u uint16) []byte {
	const hex = "0123456789abcdef"
	return append(b, '\\', 'u', hex[u>>12], hex[u>>8&15], hex[u>>4&15], hex[u&15])
}
