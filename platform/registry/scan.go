package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Peers tell of their renewals in batches, and sidecars of theirs in lists. Nearly all of a busy registry's news
// arrives so, always in the few shapes that programs write. These are read in one pass, without allocating; a document
// with anything else in it, be it legal (escapes in names, numbers in strings, names in other letter cases) or not, is
// read again from its start by encoding/json, as leniently as registrations are.

// batchItem is one operation of a batch. Its strings are parts of the body: copy what is to be kept.
type batchItem struct {
	action     string // Register, Heartbeat, Cancel, StatusUpdate, DeleteStatusOverride, or what no registry knows
	app, id    string // as sent
	dirty      int64  // ms since 1970, 0 if it was not said
	status     string // as sent, "" if it was not said
	overridden string // as sent, "" if it was not said
	info       string // the JSON of instanceInfo, "" if there is none
}

// The operations of a batch.
const (
	registerItem  = "Register"
	heartbeatItem = "Heartbeat"
	cancelItem    = "Cancel"
	statusItem    = "StatusUpdate"
	clearItem     = "DeleteStatusOverride"
)

// itemLimit is how many operations one body may hold. Eureka sends 250.
const itemLimit = 1 << 16

var errItemLimit = fmt.Errorf("a body may hold %d operations; send the rest in another", itemLimit)

// scanBatch appends the items of {"replicationList":[...]} to items. If the body cannot be read to its end it returns
// an error and no items, so that nothing is done by half.
//
// hot path: 0 allocs, BenchmarkScanBatch
func scanBatch(body string, items []batchItem) ([]batchItem, error) {
	c := cursor{s: body}
	if out, ok := c.batch(items); ok {
		return out, nil
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	list := member(doc, "replicationList")
	if list == nil {
		return nil, errors.New("read JSON: there is no replicationList")
	}
	return readItems(list, items, readOperation)
}

// scanRenewals appends the items of [{"app":"A","id":"i","dirty":1},...] to items, as heartbeats.
//
// hot path: 0 allocs, BenchmarkScanRenewals
func scanRenewals(body string, items []batchItem) ([]batchItem, error) {
	c := cursor{s: body}
	if out, ok := c.list(items, true); ok && c.end() {
		return out, nil
	}
	var doc json.RawMessage
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	return readItems(doc, items, readRenewal)
}

// cursor is a place in a JSON text. Its methods move it behind what they read and report false, with the cursor
// anywhere, on all that is not plain.
type cursor struct {
	s string
	i int
}

func (c *cursor) space() {
	for c.i < len(c.s) && (c.s[c.i] == ' ' || c.s[c.i] == '\n' || c.s[c.i] == '\t' || c.s[c.i] == '\r') {
		c.i++
	}
}

// next moves behind b, and the space before it, if it is there.
func (c *cursor) next(b byte) bool {
	c.space()
	if c.i < len(c.s) && c.s[c.i] == b {
		c.i++
		return true
	}
	return false
}

func (c *cursor) end() bool {
	c.space()
	return c.i == len(c.s)
}

// word reads a string of ASCII characters without escapes.
func (c *cursor) word() (string, bool) {
	if !c.next('"') {
		return "", false
	}
	from := c.i
	for ; c.i < len(c.s); c.i++ {
		switch b := c.s[c.i]; {
		case b == '"':
			c.i++
			return c.s[from : c.i-1], true
		case b < 0x20 || b >= 0x80 || b == '\\':
			return "", false
		}
	}
	return "", false
}

// wordOrNull reads a string, or null as "".
func (c *cursor) wordOrNull() (string, bool) {
	if c.null() {
		return "", true
	}
	return c.word()
}

func (c *cursor) null() bool {
	c.space()
	if strings.HasPrefix(c.s[c.i:], "null") {
		c.i += len("null")
		return true
	}
	return false
}

// integer reads a natural number of at most 18 digits, or null as 0.
func (c *cursor) integer() (n int64, ok bool) {
	if c.null() {
		return 0, true
	}
	from := c.i
	for ; c.i < len(c.s) && c.s[c.i]-'0' <= 9; c.i++ {
		n = n*10 + int64(c.s[c.i]-'0')
	}
	digits := c.i - from
	if digits == 0 || digits > 18 || digits > 1 && c.s[from] == '0' {
		return 0, false
	}
	return n, c.i == len(c.s) || c.s[c.i] != '.' && c.s[c.i]|0x20 != 'e'
}

// batch reads the whole document.
func (c *cursor) batch(items []batchItem) (out []batchItem, ok bool) {
	if !c.next('{') {
		return nil, false
	}
	if name, ok := c.word(); !ok || name != "replicationList" || !c.next(':') {
		return nil, false
	}
	if out, ok = c.list(items, false); !ok {
		return nil, false
	}
	return out, c.next('}') && c.end()
}

// list reads an array of renewals, or else of items.
func (c *cursor) list(items []batchItem, renewals bool) ([]batchItem, bool) {
	if !c.next('[') {
		return nil, false
	}
	if c.next(']') {
		return items, true
	}
	for limit := len(items) + itemLimit; len(items) < limit; {
		items = append(items, batchItem{})
		it := &items[len(items)-1]
		if !c.next('{') || renewals && !c.renewal(it) || !renewals && !c.item(it) {
			return nil, false
		}
		if c.next(']') {
			return items, true
		}
		if !c.next(',') {
			return nil, false
		}
	}
	return nil, false
}

// item reads the rest of an object behind its brace. No member may occur twice.
func (c *cursor) item(it *batchItem) bool {
	if c.next('}') {
		return true
	}
	for seen := 0; ; {
		name, ok := c.word()
		if !ok || !c.next(':') {
			return false
		}
		bit := 0
		switch name {
		case "appName":
			bit = 1
			it.app, ok = c.wordOrNull()
		case "id":
			bit = 2
			it.id, ok = c.wordOrNull()
		case "lastDirtyTimestamp":
			bit = 4
			it.dirty, ok = c.integer()
		case "status":
			bit = 8
			it.status, ok = c.wordOrNull()
		case "overriddenStatus":
			bit = 16
			it.overridden, ok = c.wordOrNull()
		case "action":
			bit = 32
			it.action, ok = c.wordOrNull()
		case "instanceInfo":
			bit = 64
			if !c.null() {
				it.info, ok = c.object()
			}
		default:
			return false
		}
		if !ok || seen&bit != 0 {
			return false
		}
		seen |= bit
		if c.next('}') {
			return true
		}
		if !c.next(',') {
			return false
		}
	}
}

// renewal reads the rest of an object behind its brace.
func (c *cursor) renewal(it *batchItem) bool {
	it.action = heartbeatItem
	for seen := 0; ; {
		name, ok := c.word()
		if !ok || !c.next(':') {
			return false
		}
		bit := 0
		switch name {
		case "app":
			bit = 1
			it.app, ok = c.wordOrNull()
		case "id":
			bit = 2
			it.id, ok = c.wordOrNull()
		case "dirty":
			bit = 4
			it.dirty, ok = c.integer()
		}
		if !ok || bit == 0 || seen&bit != 0 {
			return false
		}
		seen |= bit
		if c.next('}') {
			return true
		}
		if !c.next(',') {
			return false
		}
	}
}

// object returns the text of an object, whatever is in it.
func (c *cursor) object() (string, bool) {
	c.space()
	from := c.i
	if c.i == len(c.s) || c.s[c.i] != '{' {
		return "", false
	}
	if !c.value(0) {
		return "", false
	}
	return c.s[from:c.i], true
}

// valueDepth is how deep values may nest before encoding/json has to read them.
const valueDepth = 16

// value moves behind any value, checking it as encoding/json does.
func (c *cursor) value(depth int) bool {
	c.space()
	if c.i == len(c.s) || depth > valueDepth {
		return false
	}
	switch b := c.s[c.i]; {
	case b == '{' || b == '[':
		c.i++
		end := b + 2 // the closing ones are two further in ASCII
		if c.next(end) {
			return true
		}
		for {
			if b == '{' {
				c.space()
				if !c.str() || !c.next(':') {
					return false
				}
			}
			if !c.value(depth + 1) {
				return false
			}
			if c.next(end) {
				return true
			}
			if !c.next(',') {
				return false
			}
		}
	case b == '"':
		return c.str()
	case b == 't':
		return c.literal("true")
	case b == 'f':
		return c.literal("false")
	case b == 'n':
		return c.literal("null")
	}
	return c.number()
}

func (c *cursor) literal(s string) bool {
	if !strings.HasPrefix(c.s[c.i:], s) {
		return false
	}
	c.i += len(s)
	return true
}

// str moves behind any string.
func (c *cursor) str() bool {
	if c.i == len(c.s) || c.s[c.i] != '"' {
		return false
	}
	for c.i++; c.i < len(c.s); c.i++ {
		switch b := c.s[c.i]; {
		case b == '"':
			c.i++
			return true
		case b < 0x20:
			return false
		case b == '\\':
			c.i++
			if c.i == len(c.s) {
				return false
			}
			switch c.s[c.i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					c.i++
					if c.i == len(c.s) || !hexDigit(c.s[c.i]) {
						return false
					}
				}
			default:
				return false
			}
		}
	}
	return false
}

func hexDigit(b byte) bool { return b-'0' <= 9 || b|0x20-'a' <= 5 }

// number moves behind any number, RFC 8259 §6.
func (c *cursor) number() bool {
	digits := func() bool {
		from := c.i
		for c.i < len(c.s) && c.s[c.i]-'0' <= 9 {
			c.i++
		}
		return c.i > from
	}
	at := func(b byte) bool { return c.i < len(c.s) && c.s[c.i] == b }
	if at('-') {
		c.i++
	}
	if at('0') {
		c.i++
	} else if !digits() {
		return false
	}
	if at('.') {
		c.i++
		if !digits() {
			return false
		}
	}
	if at('e') || at('E') {
		c.i++
		if at('+') || at('-') {
			c.i++
		}
		return digits()
	}
	return true
}

// readItems is the lenient way: it understands whatever encoding/json does.
func readItems(list json.RawMessage, items []batchItem, one func(map[string]json.RawMessage) batchItem) ([]batchItem, error) {
	raws, err := readList(list)
	if err != nil {
		return nil, err
	}
	for i, raw := range raws {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, fmt.Errorf("read JSON: item %d: %w", i, err)
		}
		if m == nil {
			return nil, fmt.Errorf("read JSON: item %d is null", i)
		}
		items = append(items, one(m))
	}
	return items, nil
}

// readList returns the items of a list. One object counts as a list of one.
func readList(list []byte) (items []json.RawMessage, err error) {
	if bytes.HasPrefix(bytes.TrimLeft(list, " \t\r\n"), []byte("{")) {
		return []json.RawMessage{list}, nil
	}
	d := json.NewDecoder(bytes.NewReader(list))
	if tok, err := d.Token(); err != nil || tok != json.Delim('[') {
		return nil, fmt.Errorf("read JSON: found %v where a list should be", tok)
	}
	for d.More() {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, fmt.Errorf("read JSON: item %d: %w", len(items), err)
		}
		if len(items) == itemLimit {
			return nil, errItemLimit
		}
		items = append(items, raw)
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("read JSON: more follows after the list")
	}
	return items, nil
}

func readOperation(m map[string]json.RawMessage) batchItem {
	it := batchItem{
		action: rawText(m, "action"), app: rawText(m, "appName"), id: rawText(m, "id"),
		dirty:  number(rawValue(member(m, "lastDirtyTimestamp")), 0),
		status: rawText(m, "status"), overridden: rawText(m, "overriddenStatus"),
	}
	if info := member(m, "instanceInfo"); string(info) != "null" {
		it.info = string(info)
	}
	return it
}

func readRenewal(m map[string]json.RawMessage) batchItem {
	return batchItem{
		action: heartbeatItem, app: rawText(m, "app"), id: rawText(m, "id"), dirty: number(rawValue(member(m, "dirty")), 0),
	}
}

func rawText(m map[string]json.RawMessage, name string) string {
	return clean(text(rawValue(member(m, name))))
}

// rawValue decodes one value of a document that has been read before.
func rawValue(raw json.RawMessage) (v any) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return nil // absent
	}
	return v
}
