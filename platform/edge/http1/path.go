package http1

import (
	"bytes"
	"strings"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// aim reads the target: what of it is the path, what the query, and what host it names.
func (h *head) aim(x *filter.Exchange) *Refusal {
	q, t := &x.Request, h.target
	if h.special && bytes.IndexByte(t, '#') >= 0 {
		return fragment
	}
	if q.Method == "CONNECT" {
		return noConnect
	}
	if t[0] != '/' {
		if len(t) == 1 && t[0] == '*' {
			if q.Method != "OPTIONS" {
				return asterisk
			}
			q.Path = view(t)
			return nil
		}
		scheme, rest, ok := bytes.Cut(t, []byte("://"))
		if !ok || !(len(scheme) == 4 && is(scheme, "http") || len(scheme) == 5 && is(scheme, "https")) {
			return badTarget
		}
		end := bytes.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		host := rest[:end]
		if !validHost(host) {
			return badHost
		}
		if h.hosts > 0 && !filter.Same(view(host), q.Host) {
			return otherHost
		}
		q.Host = view(host)
		t = rest[end:]
	}
	if i := bytes.IndexByte(t, '?'); i >= 0 {
		q.RawQuery = view(t[i+1:])
		t = t[:i]
	}
	if len(t) == 0 {
		q.Path = "/"
		return nil
	}
	path, r := h.clean(t, x)
	q.Path = path
	return r
}

// clean returns the path as it is routed and sent on: without dot segments (RFC 3986 section 5.2.4), whether their dots were
// encoded or not, and, if the rules say so, without empty ones.
func (h *head) clean(p []byte, x *filter.Exchange) (string, *Refusal) {
	merge := h.rules.MergeSlashes && bytes.Contains(p, []byte("//"))
	if !h.special && !merge {
		return view(p), nil
	}
	dots := bytes.Contains(p, []byte("/."))
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			if h.rules.EncodedSlash == Reject {
				return "", encodedSlash
			}
		case '%':
			if i+2 >= len(p) || hex(p[i+1]) > 15 || hex(p[i+2]) > 15 {
				return "", percent
			}
			switch hex(p[i+1])<<4 | hex(p[i+2]) {
			case 0:
				return "", percentZero
			case '/', '\\':
				if h.rules.EncodedSlash == Reject {
					return "", encodedSlash
				}
			case '.':
				dots = true
			}
			i += 2
		}
	}
	if !dots && !merge {
		return view(p), nil
	}
	room := bytesOf(x.Keep(p)) // of the exchange's own; it only gets shorter
	n := 0
	for i := 0; i < len(p); i++ {
		c := p[i]
		if c == '%' && p[i+1] == '2' && p[i+2]|0x20 == 'e' {
			c = '.'
			i += 2
		}
		if merge && c == '/' && n > 0 && room[n-1] == '/' {
			continue
		}
		room[n] = c
		n++
	}
	return removeDots(room[:n])
}

// removeDots takes the dot segments out of a path that begins with /, in place.
func removeDots(p []byte) (string, *Refusal) {
	n := 0
	for i := 0; i < len(p); {
		end := len(p)
		if k := bytes.IndexByte(p[i+1:], '/'); k >= 0 {
			end = i + 1 + k
		}
		segment, last := view(p[i+1:end]), end == len(p)
		switch {
		case segment == ".":
			if last {
				p[n] = '/'
				n++
			}
		case segment == "..":
			n = max(bytes.LastIndexByte(p[:n], '/'), 0)
			if last {
				p[n] = '/'
				n++
			}
		case strings.HasPrefix(segment, ".;"), strings.HasPrefix(segment, "..;"):
			return "", dotParameter
		default:
			n += copy(p[n:], p[i:end])
		}
		i = end
	}
	return view(p[:n]), nil
}
