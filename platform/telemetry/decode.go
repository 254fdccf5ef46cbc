package telemetry

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
)

const maxNesting = 32

// payload is a publish body taken apart. Tags are left as they were written: known series are told by those bytes.
type payload struct {
	common  []byte // the object of common tags; nil if there is none
	metrics []metric
}

type metric struct {
	tags      []byte // an object; nil if there is none
	timestamp int64  // milliseconds
	value     float64
	problem   string // why it cannot be used
}

// errEmpty is a body without a single datapoint.
var errEmpty = errors.New("empty payload")

// parser reads JSON by hand: a body is mostly tags that were seen before, and building maps of them would cost more
// than all the rest. It accepts what encoding/json accepts.
type parser struct {
	b     []byte
	at    int
	depth int
}

func (p *parser) fail(what string) error {
	return fmt.Errorf("JsonParseException: %s at byte %d", what, p.at)
}

// parsePayload reads Spectator's JSON: {"tags":{...},"metrics":[{"tags":{...},"timestamp":ms,"value":v},...]}.
func parsePayload(body []byte, into *payload) error {
	p := parser{b: body}
	into.common, into.metrics = nil, into.metrics[:0]
	if p.space(); p.at == len(p.b) {
		return errEmpty
	}
	if p.b[p.at] == '[' {
		return p.fail("compact batches are not supported, publish an object with tags and metrics")
	}
	err := p.object(func(key []byte) (err error) {
		switch string(key) {
		case "tags":
			into.common, err = p.tagObject()
		case "metrics":
			err = p.array(func() error { return p.metric(into) })
		default:
			err = p.skip()
		}
		return err
	})
	if err != nil {
		return err
	}
	if p.space(); p.at != len(p.b) {
		return p.fail("something follows the end")
	}
	if len(into.metrics) == 0 {
		return errEmpty
	}
	return nil
}

func (p *parser) metric(into *payload) error {
	m := metric{timestamp: -1, value: math.NaN()}
	hasValue := false
	err := p.object(func(key []byte) (err error) {
		switch string(key) {
		case "tags":
			m.tags, err = p.tagObject()
		case "timestamp", "start":
			var t float64
			var ok bool
			if t, ok, err = p.number(); ok && t >= 0 && t < 1<<53 {
				m.timestamp = int64(t)
			} else if err == nil {
				m.problem = "timestamp must be milliseconds since the epoch"
			}
		case "value", "values":
			hasValue = true
			var ok bool
			if m.value, ok, err = p.value(); !ok && err == nil {
				m.problem = "value must be a number"
			}
		default:
			err = p.skip()
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case m.problem != "":
	case m.tags == nil:
		m.problem = "missing tags"
	case m.timestamp < 0:
		m.problem = "missing timestamp"
	case !hasValue:
		m.problem = "missing value"
	}
	into.metrics = append(into.metrics, m)
	return nil
}

// value reads a number, a text that is one, or an array whose first element counts.
func (p *parser) value() (v float64, ok bool, err error) {
	if p.space(); p.peek() != '[' {
		return p.number()
	}
	first := true
	err = p.array(func() error {
		if !first {
			return p.skip()
		}
		first = false
		var err error
		v, ok, err = p.number()
		return err
	})
	return v, ok, err
}

// number reads a number or a text that is one. ok is false for any other value, which is skipped.
func (p *parser) number() (v float64, ok bool, err error) {
	p.space()
	start := p.at
	c := p.peek()
	if err := p.skip(); err != nil {
		return 0, false, err
	}
	text := p.b[start:p.at]
	switch {
	case c == '"':
		text = text[1 : len(text)-1]
		switch string(text) {
		case "NaN":
			return math.NaN(), true, nil
		case "Infinity":
			return math.Inf(1), true, nil
		case "-Infinity":
			return math.Inf(-1), true, nil
		}
		q := parser{b: text}
		if q.literal() != nil || q.at != len(text) {
			return 0, false, nil
		}
	case c != '-' && (c < '0' || c > '9'):
		return 0, false, nil
	}
	if v, ok := smallInt(text); ok {
		return v, true, nil
	}
	v, perr := strconv.ParseFloat(string(text), 64)
	return v, perr == nil || errors.Is(perr, strconv.ErrRange), nil
}

// smallInt reads timestamps and counts without the general case.
func smallInt(text []byte) (float64, bool) {
	if len(text) > 15 {
		return 0, false
	}
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return float64(n), len(text) > 0
}

// tagObject skips an object, or null, whose members are texts or null, and returns its bytes.
func (p *parser) tagObject() ([]byte, error) {
	p.space()
	if p.peek() == 'n' {
		return nil, p.skip()
	}
	start := p.at
	err := p.object(func([]byte) error {
		p.space()
		if c := p.peek(); c != '"' && c != 'n' {
			return p.fail("a tag's value must be a text")
		}
		return p.skip()
	})
	return p.b[start:p.at], err
}

func (p *parser) peek() byte {
	if p.at < len(p.b) {
		return p.b[p.at]
	}
	return 0
}

func (p *parser) space() {
	for p.at < len(p.b) {
		switch p.b[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *parser) enter() error {
	if p.depth++; p.depth > maxNesting {
		return p.fail(fmt.Sprintf("nesting is deeper than %d", maxNesting))
	}
	return nil
}

// object reads an object, calling member before each value with the bytes between the quotes of its key.
func (p *parser) object(member func(key []byte) error) error {
	if p.space(); p.peek() != '{' {
		return p.fail("an object is expected")
	}
	if err := p.enter(); err != nil {
		return err
	}
	p.at++
	for first := true; ; first = false {
		p.space()
		switch c := p.peek(); {
		case c == '}' && first:
			p.at++
			p.depth--
			return nil
		case c != '"':
			return p.fail("a key is expected")
		}
		start := p.at + 1
		if err := p.text(); err != nil {
			return err
		}
		key := p.b[start : p.at-1]
		if p.space(); p.peek() != ':' {
			return p.fail("':' is expected")
		}
		p.at++
		if err := member(key); err != nil {
			return err
		}
		p.space()
		switch p.peek() {
		case ',':
			p.at++
		case '}':
			p.at++
			p.depth--
			return nil
		default:
			return p.fail("',' or '}' is expected")
		}
	}
}

func (p *parser) array(element func() error) error {
	if p.space(); p.peek() != '[' {
		return p.fail("an array is expected")
	}
	if err := p.enter(); err != nil {
		return err
	}
	p.at++
	if p.space(); p.peek() == ']' {
		p.at++
		p.depth--
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		p.space()
		switch p.peek() {
		case ',':
			p.at++
		case ']':
			p.at++
			p.depth--
			return nil
		default:
			return p.fail("',' or ']' is expected")
		}
	}
}

// text reads a quoted text without decoding it.
func (p *parser) text() error {
	p.at++
	for p.at < len(p.b) {
		switch c := p.b[p.at]; {
		case c == '"':
			p.at++
			return nil
		case c < ' ':
			return p.fail("a control character is in a text")
		case c == '\\':
			p.at++
			switch p.peek() {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					p.at++
					if c := p.peek() | 0x20; !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') || p.peek() < '0' {
						return p.fail("four hex digits are expected")
					}
				}
			default:
				return p.fail("an unknown escape is in a text")
			}
		}
		p.at++
	}
	return p.fail("a text does not end")
}

// literal reads a number as JSON writes it.
func (p *parser) literal() error {
	digits := func() bool {
		start := p.at
		for p.at < len(p.b) && '0' <= p.b[p.at] && p.b[p.at] <= '9' {
			p.at++
		}
		return p.at > start
	}
	if p.peek() == '-' {
		p.at++
	}
	if p.peek() == '0' {
		p.at++
	} else if !digits() {
		return p.fail("a value is expected")
	}
	if p.peek() == '.' {
		p.at++
		if !digits() {
			return p.fail("a digit is expected")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.at++
		if c := p.peek(); c == '+' || c == '-' {
			p.at++
		}
		if !digits() {
			return p.fail("a digit is expected")
		}
	}
	return nil
}

// skip reads any value.
func (p *parser) skip() error {
	p.space()
	switch p.peek() {
	case '{':
		return p.object(func([]byte) error { return p.skip() })
	case '[':
		return p.array(p.skip)
	case '"':
		return p.text()
	case 't':
		return p.word("true")
	case 'f':
		return p.word("false")
	case 'n':
		return p.word("null")
	}
	return p.literal()
}

func (p *parser) word(w string) error {
	if len(p.b)-p.at < len(w) || string(p.b[p.at:p.at+len(w)]) != w {
		return p.fail(w + " is expected")
	}
	p.at += len(w)
	return nil
}

// tagMap decodes the tags of one object over those of another. Null means absent.
func tagMap(common, own []byte) (map[string]string, error) {
	tags := make(map[string]string)
	for _, b := range [][]byte{common, own} {
		if b == nil {
			continue
		}
		var m map[string]*string
		if err := json.Unmarshal(b, &m); err != nil {
			return nil, fmt.Errorf("JsonParseException: tags: %w", err)
		}
		for k, v := range m {
			if v == nil {
				delete(tags, k)
				continue
			}
			tags[k] = *v
		}
	}
	return tags, nil
}
