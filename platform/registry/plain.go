package registry

import "bytes"

// Nearly all requests to a registry are of two kinds, in the same few headers each time: a heartbeat without a body,
// and a look at the list or the delta. The reader in this file tells them from all others, and understands very little
// of HTTP on purpose: it knows a request only if there is no second way to read it, RFC 9112. Whatever it does not know
// net/http reads.

// found is what reading a head came to.
type found uint8

const (
	unfinished found = iota // more bytes are needed to tell
	strange                 // only net/http may say what this is, and where it ends
	framed                  // a head whose end, and the length of whose body, are beyond doubt
	plain                   // framed, and all that is in it is known
)

// head is the first line and the headers of a request. Its slices are parts of the bytes it was read from.
type head struct {
	size   int   // up to and with the empty line
	length int64 // of the body
	get    bool
	put    bool

	path, query                    []byte
	host, authorization            []byte
	accept, eurekaAccept, encoding []byte
	name, id, replication          []byte
	seen                           headers
}

// headers is a set of those that may occur only once.
type headers uint16

const (
	hostSeen headers = 1 << iota
	authorizationSeen
	acceptSeen
	eurekaAcceptSeen
	encodingSeen
	nameSeen
	idSeen
	replicationSeen
	lengthSeen
)

// readHead reads the head of the request that b begins with.
//
// hot path: 0 allocs, BenchmarkReadHead
func readHead(b []byte) (h head, what found) {
	at := bytes.IndexByte(b, '\n') + 1
	if at == 0 {
		return h, unfinished
	}
	if what = h.requestLine(b[:at]); what == strange {
		return h, strange
	}
	for {
		n := bytes.IndexByte(b[at:], '\n')
		if n < 0 {
			return h, unfinished
		}
		line := b[at : at+n]
		at += n + 1
		if len(line) == 0 || line[len(line)-1] != '\r' {
			return h, strange
		}
		line = line[:len(line)-1]
		if len(line) == 0 {
			break
		}
		what = min(what, h.header(line))
		if what == strange {
			return h, strange
		}
	}
	if h.seen&hostSeen == 0 {
		return h, strange
	}
	h.size = at
	return h, what
}

// requestLine reads "PUT /path?query HTTP/1.1\r\n".
func (h *head) requestLine(b []byte) found {
	const end = " HTTP/1.1\r\n"
	if len(b) < len(end) || string(b[len(b)-len(end):]) != end {
		return strange
	}
	b = b[:len(b)-len(end)]
	method, target, ok := bytes.Cut(b, []byte{' '})
	if !ok || len(method) == 0 || len(target) == 0 || target[0] != '/' {
		return strange
	}
	what := framed
	switch string(method) {
	case "GET":
		what, h.get = plain, true
	case "PUT":
		what, h.put = plain, true
	default:
		for _, c := range method {
			if c < 'A' || c > 'Z' {
				return strange
			}
		}
	}
	for i, c := range target {
		switch class[c] {
		case inPath:
		case inQuery:
			if h.query == nil {
				what = framed
			}
		default:
			if c == '?' && h.query == nil {
				h.path, h.query = target[:i], target[i+1:len(target):len(target)]
				continue
			}
			if c <= ' ' || c == 0x7f {
				return strange
			}
			what = framed
		}
	}
	if h.path == nil {
		h.path = target
	}
	return what
}

// Classes of bytes. What is in none of them may be legal, but means something that is not looked into here.
const (
	inPath  = 1 + iota // needs no decoding anywhere
	inQuery            // plain in a query only
)

var class = func() (t [256]uint8) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/-._~:" {
		t[c] = inPath
	}
	for _, c := range "&=,%+@" {
		t[c] = inQuery
	}
	return t
}()

// header reads one line without its end.
func (h *head) header(line []byte) found {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return strange
	}
	name := line[:colon]
	for _, c := range name {
		if !(c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return strange
		}
	}
	value := bytes.Trim(line[colon+1:], " \t")
	what := plain
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return strange
		}
		if c >= 0x80 {
			what = framed
		}
	}
	once := func(bit headers, at *[]byte) found {
		if h.seen&bit != 0 {
			return framed
		}
		h.seen |= bit
		*at = value
		return what
	}
	switch len(name) {
	case 2:
		if is(name, "b3") {
			return what
		}
	case 4:
		if is(name, "host") {
			if h.seen&hostSeen != 0 {
				return strange
			}
			for _, c := range value {
				if (class[c] != inPath || c == '/') && c != '[' && c != ']' {
					what = framed
				}
			}
			return once(hostSeen, &h.host)
		}
	case 6:
		if is(name, "accept") {
			return once(acceptSeen, &h.accept)
		}
		if is(name, "expect") {
			return strange
		}
		if is(name, "pragma") {
			return what
		}
	case 7:
		if is(name, "upgrade") { // to h2c it is asked by Java clients, and ignored by net/http
			if !is(value, "h2c") {
				return strange
			}
			return what
		}
		if is(name, "trailer") {
			return strange
		}
	case 10:
		switch {
		case is(name, "connection"):
			return min(what, connection(value))
		case is(name, "user-agent"), is(name, "keep-alive"), is(name, "tracestate"):
			return what
		}
	case 11:
		if is(name, "traceparent") {
			return what
		}
	case 12:
		if is(name, "content-type") || is(name, "x-request-id") {
			return what
		}
	case 13:
		if is(name, "authorization") {
			return once(authorizationSeen, &h.authorization)
		}
		if is(name, "cache-control") {
			return what
		}
	case 14:
		if is(name, "content-length") {
			return min(what, h.contentLength(value))
		}
		if is(name, "http2-settings") {
			return what
		}
	case 15:
		switch {
		case is(name, "accept-encoding"):
			return once(encodingSeen, &h.encoding)
		case is(name, "x-eureka-accept"):
			return once(eurekaAcceptSeen, &h.eurekaAccept)
		case is(name, "accept-language"):
			return what
		}
	case 17:
		if is(name, "transfer-encoding") {
			return strange
		}
	case 20:
		if is(name, "discoveryidentity-id") {
			return once(idSeen, &h.id)
		}
	case 22:
		if is(name, "discoveryidentity-name") {
			return once(nameSeen, &h.name)
		}
	case 25:
		if is(name, "discoveryidentity-version") {
			return what
		}
	case 31:
		if is(name, "x-netflix-discovery-replication") {
			return once(replicationSeen, &h.replication)
		}
	}
	return framed
}

// is reports whether name, in any letter case, is lower.
func is(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// connection reads the value of that header: all but what keeps the connection as it is wants net/http.
func connection(value []byte) found {
	for len(value) > 0 {
		var option []byte
		option, value, _ = bytes.Cut(value, []byte{','})
		option = bytes.Trim(option, " \t")
		if !is(option, "keep-alive") && !is(option, "upgrade") && !is(option, "http2-settings") {
			return framed
		}
	}
	return plain
}

func (h *head) contentLength(value []byte) found {
	if h.seen&lengthSeen != 0 || len(value) == 0 || len(value) > 12 {
		return strange
	}
	h.seen |= lengthSeen
	for _, c := range value {
		if c < '0' || c > '9' {
			return strange
		}
		h.length = h.length*10 + int64(c-'0')
	}
	return plain
}
