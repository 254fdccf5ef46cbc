package smuggle

import (
	"fmt"
	"strconv"
	"strings"
)

// Message is a request as a proxy wrote it.
type Message struct {
	Request
	Fields   []Field
	Trailers []Field
	Flaws    []string // what a strict proxy would not have written, but leaves no doubt about where the request ends
}

// Field is one line of a head.
type Field struct{ Name, Value string }

// Value returns the values of all fields of a name, joined by commas.
func (m *Message) Value(name string) (v string, ok bool) {
	for _, f := range m.Fields {
		if strings.EqualFold(f.Name, name) {
			if ok {
				v += ", "
			}
			v, ok = v+f.Value, true
		}
	}
	return v, ok
}

// Trailer reports whether a field comes behind the body.
func (m *Message) Trailer(name string) bool {
	for _, f := range m.Trailers {
		if strings.EqualFold(f.Name, name) {
			return true
		}
	}
	return false
}

// Parse reads the requests that a proxy wrote on one connection. It takes them in one form alone, that of which no two
// readers think differently: CRLF, one Host, at most one of a plain Content-Length and "chunked", no extensions of chunks.
// Anything else is an error. rest is a last request that is not whole, or what could not be read.
func Parse(stream string) (all []Message, rest string, err error) {
	for stream != "" {
		head, body, ok := strings.Cut(stream, "\r\n\r\n")
		if !ok {
			return all, stream, nil
		}
		m, err := parseHead(head)
		if err != nil {
			return all, stream, fmt.Errorf("%w, in the head %q", err, head)
		}
		n, whole, err := m.parseBody(body)
		if err != nil {
			return all, stream, fmt.Errorf("%w, in the body of %s", err, m.Request)
		}
		if !whole {
			return all, stream, nil
		}
		all, stream = append(all, m), body[n:]
	}
	return all, "", nil
}

func parseHead(head string) (Message, error) {
	lines := strings.Split(head, "\r\n")
	if strings.ContainsAny(strings.Join(lines, ""), "\r\n\x00") {
		return Message{}, fmt.Errorf("CR, LF or NUL within a line")
	}
	first := strings.Split(lines[0], " ")
	if len(first) != 3 || first[2] != "HTTP/1.1" || !isToken(first[0]) {
		return Message{}, fmt.Errorf("no sound request line")
	}
	m := Message{Request: Request{Method: first[0], Target: first[1]}}
	if !strings.HasPrefix(m.Target, "/") && m.Target != "*" {
		m.Flaws = append(m.Flaws, fmt.Sprintf("target %q is no path", m.Target))
	}
	for _, c := range []byte(m.Target) {
		if c < 0x21 || c > 0x7e || c == '#' {
			m.Flaws = append(m.Flaws, fmt.Sprintf("target %q has a byte %#x", m.Target, c))
		}
	}
	for _, l := range lines[1:] {
		f, err := parseField(l)
		if err != nil {
			return m, err
		}
		m.Fields = append(m.Fields, f)
	}
	hosts := 0
	for _, f := range m.Fields {
		switch strings.ToLower(f.Name) {
		case "host":
			hosts++
			m.Host = f.Value
		case "keep-alive", "proxy-connection", "http2-settings", "expect":
			m.Flaws = append(m.Flaws, f.Name+" was passed on")
		}
	}
	if hosts != 1 {
		return m, fmt.Errorf("%d fields Host", hosts)
	}
	return m, nil
}

func parseField(line string) (Field, error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || !isToken(name) {
		return Field{}, fmt.Errorf("the line %q is no field", line)
	}
	for _, c := range []byte(value) {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return Field{}, fmt.Errorf("the line %q has a byte %#x", line, c)
		}
	}
	return Field{name, strings.Trim(value, " \t")}, nil
}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return false
		}
	}
	return s != ""
}

// parseBody reads the body and returns how long it is on the wire, and whether it is all there.
func (m *Message) parseBody(b string) (n int, whole bool, err error) {
	length, hasLength := m.Value("Content-Length")
	coding, hasCoding := m.Value("Transfer-Encoding")
	switch {
	case hasLength && hasCoding:
		return 0, false, fmt.Errorf("both Content-Length and Transfer-Encoding")
	case hasLength:
		n, err := strconv.ParseUint(length, 10, 31)
		if err != nil || strings.Trim(length, "0123456789") != "" {
			return 0, false, fmt.Errorf("Content-Length is %q", length)
		}
		if int(n) > len(b) {
			return 0, false, nil
		}
		m.Body = b[:n]
		return int(n), true, nil
	case !hasCoding:
		return 0, true, nil
	case coding != "chunked":
		return 0, false, fmt.Errorf("Transfer-Encoding is %q", coding)
	}
	at := 0
	for {
		line, _, ok := strings.Cut(b[at:], "\r\n")
		if !ok {
			return 0, false, nil
		}
		size, err := strconv.ParseUint(line, 16, 31)
		if err != nil || strings.Trim(line, "0123456789abcdefABCDEF") != "" {
			return 0, false, fmt.Errorf("the chunk size is %q", line)
		}
		at += len(line) + 2
		if size == 0 {
			break
		}
		if len(b) < at+int(size)+2 {
			return 0, false, nil
		}
		m.Body += b[at : at+int(size)]
		at += int(size)
		if b[at:at+2] != "\r\n" {
			return 0, false, fmt.Errorf("%q follows a chunk", b[at:at+2])
		}
		at += 2
	}
	for {
		line, _, ok := strings.Cut(b[at:], "\r\n")
		if !ok {
			return 0, false, nil
		}
		at += len(line) + 2
		if line == "" {
			return at, true, nil
		}
		f, err := parseField(line)
		if err != nil {
			return 0, false, err
		}
		m.Trailers = append(m.Trailers, f)
	}
}
