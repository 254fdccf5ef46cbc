package turbine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// member is one key of a JSON object, without its quotes, and its value: where they stand in the text.
type member struct{ key, value span }

type span struct{ from, to int }

func (s span) of(text []byte) []byte { return text[s.from:s.to] }

const (
	maxMembers = 1000 // of one object
	maxDepth   = 64
)

// scan appends the members of the JSON object in text to into: all of them, or the first few without a look at the
// rest.
func scan(text []byte, into []member, few int) ([]member, error) {
	s := scanner{text: text}
	s.space()
	if !s.take('{') {
		return into, s.wrong("an object")
	}
	s.space()
	if s.take('}') {
		return into, s.end()
	}
	for {
		key, ok := s.quoted()
		if !ok {
			return into, s.wrong("a key in quotes")
		}
		s.space()
		if !s.take(':') {
			return into, s.wrong("a colon")
		}
		s.space()
		from := s.at
		if !s.value(0) {
			return into, s.wrong("a value")
		}
		if len(into) == maxMembers {
			return into, fmt.Errorf("it has more than %d members", maxMembers)
		}
		into = append(into, member{key, span{from, s.at}})
		if len(into) == few {
			return into, nil
		}
		s.space()
		if s.take('}') {
			return into, s.end()
		}
		if !s.take(',') {
			return into, s.wrong("a comma or the end of the object")
		}
		s.space()
	}
}

// scanner reads JSON as RFC 8259 has it, except that it lets control characters stand in strings.
type scanner struct {
	text []byte
	at   int
}

func (s *scanner) wrong(want string) error {
	if s.at >= len(s.text) {
		return fmt.Errorf("it ends where %s should be", want)
	}
	return fmt.Errorf("%q at byte %d where %s should be", s.text[s.at], s.at, want)
}

func (s *scanner) end() error {
	s.space()
	if s.at != len(s.text) {
		return errors.New("something follows the object")
	}
	return nil
}

func (s *scanner) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return
		}
	}
}

func (s *scanner) take(c byte) bool {
	if s.at < len(s.text) && s.text[s.at] == c {
		s.at++
		return true
	}
	return false
}

// quoted reads a string and returns where its quotes enclose it.
func (s *scanner) quoted() (span, bool) {
	if !s.take('"') {
		return span{}, false
	}
	from := s.at
	for {
		n := bytes.IndexByte(s.text[s.at:], '"')
		if n < 0 {
			s.at = len(s.text)
			return span{}, false
		}
		s.at += n + 1
		back := 0
		for i := s.at - 2; i >= from && s.text[i] == '\\'; i-- {
			back++
		}
		if back%2 == 0 {
			return span{from, s.at - 1}, true
		}
	}
}

// value reads any value.
func (s *scanner) value(depth int) bool {
	if s.at >= len(s.text) || depth > maxDepth {
		return false
	}
	switch c := s.text[s.at]; {
	case c == '"':
		_, ok := s.quoted()
		return ok
	case c == '{' || c == '[':
		return s.nest(c, depth)
	case c == '-' || c >= '0' && c <= '9':
		from := s.at
		for s.at < len(s.text) && numeric(s.text[s.at]) {
			s.at++
		}
		_, err := strconv.ParseFloat(string(s.text[from:s.at]), 64)
		return err == nil || errors.Is(err, strconv.ErrRange)
	default:
		for _, word := range [...]string{"true", "false", "null"} {
			if bytes.HasPrefix(s.text[s.at:], []byte(word)) {
				s.at += len(word)
				return true
			}
		}
		return false
	}
}

func numeric(c byte) bool {
	return c >= '0' && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'
}

// nest reads an object or an array.
func (s *scanner) nest(open byte, depth int) bool {
	shut := open + 2 // in ASCII, of both
	s.at++
	s.space()
	if s.take(shut) {
		return true
	}
	for {
		if open == '{' {
			if _, ok := s.quoted(); !ok {
				return false
			}
			s.space()
			if !s.take(':') {
				return false
			}
			s.space()
		}
		if !s.value(depth + 1) {
			return false
		}
		s.space()
		if s.take(shut) {
			return true
		}
		if !s.take(',') {
			return false
		}
		s.space()
	}
}

// unquote returns the text of a JSON string that was scanned, given with its quotes.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var out string
	if err := json.Unmarshal(raw, &out); err != nil {
		return string(raw[1 : len(raw)-1]) // a bad escape stands for itself
	}
	return out
}
