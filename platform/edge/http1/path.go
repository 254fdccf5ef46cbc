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

// clean returns the path as it is routed and sent on: see [Rules.path].
func (h *head) clean(p []byte, x *filter.Exchange) (string, *Refusal) {
	if !h.special && !h.rules.MergeSlashes {
		return view(p), nil
	}
	return h.rules.path(p, x)
}

// path returns p as it is routed and sent on. What is written in several ways becomes one, or a route that guards something
// could be passed by spelling it otherwise: letters, digits and -._~ that are percent-encoded are decoded, and the digits of
// other triples are capitals (RFC 3986 sections 6.2.2.1 and 6.2.2.2); dot segments are removed (section 5.2.4), whether their
// dots were encoded or not, and, if the rules say so, empty ones. Encoded slashes stay what they are.
func (r *Rules) path(p []byte, x *filter.Exchange) (string, *Refusal) {
	dots, other := bytes.Contains(p, []byte("/.")), r.MergeSlashes && bytes.Contains(p, []byte("//"))
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			if r.EncodedSlash == Reject {
				return "", encodedSlash
			}
		case '%':
			if i+2 >= len(p) || hex(p[i+1]) > 15 || hex(p[i+2]) > 15 {
				return "", percent
			}
			switch c := hex(p[i+1])<<4 | hex(p[i+2]); {
			case c == 0:
				return "", percentZero
			case (c == '/' || c == '\\') && r.EncodedSlash == Reject:
				return "", encodedSlash
			case class[c]&hostByte != 0, p[i+1] >= 'a', p[i+2] >= 'a':
				other = true
			}
			i += 2
		}
	}
	if !dots && !other {
		return view(p), nil
	}
	room := bytesOf(x.Keep(p)) // of the exchange's own; it only gets shorter
	n := 0
	for i := 0; i < len(p); i++ {
		c := p[i]
		if c == '%' {
			v := hex(p[i+1])<<4 | hex(p[i+2])
			if class[v]&hostByte == 0 {
				room[n], room[n+1], room[n+2] = '%', digits[v>>4], digits[v&15]
				n += 3
				i += 2
				continue
			}
			c, i = v, i+2
		}
		if c == '/' && r.MergeSlashes && n > 0 && room[n-1] == '/' {
			continue
		}
		room[n] = c
		n++
	}
	return removeDots(room[:n])
}

const digits = "0123456789ABCDEF"

// Hold holds a request that came by another version of HTTP to those rules that are not about framing: its path becomes what
// it is in HTTP/1.1, and fields with an underscore in their names are treated as the rules say.
func (r *Rules) Hold(x *filter.Exchange) *Refusal {
	q := &x.Request
	if strings.HasPrefix(q.Path, "/") {
		path, refused := r.path(bytesOf(q.Path), x)
		if refused != nil {
			return refused
		}
		q.Path = path
	}
	if r.Underscores == Keep {
		return nil
	}
	found := false
	q.Header.DelFunc(func(f *filter.Field) bool {
		lined := strings.IndexByte(f.Name, '_') >= 0
		found = found || lined
		return lined
	})
	if found && r.Underscores == Reject {
		return underscore
	}
	return nil
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
