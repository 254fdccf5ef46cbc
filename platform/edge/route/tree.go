package route

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/scanner"
	"github.com/goccy/go-yaml/token"
	"github.com/roadbed/roadbed/config"
)

// node is a value of a document and the line it stands on: what JSON and YAML have in common.
type node struct {
	kind  kind
	line  int
	text  string   // of a scalar, as written
	keys  []string // of a mapping, beside items
	items []*node
}

type kind uint8

const (
	null kind = iota
	boolean
	number
	text
	list
	mapping
)

var kindWords = [...]string{"nothing", "true or false", "a number", "text", "a list", "a mapping"}

const (
	maxBytes = 16 << 20
	maxDepth = 100
	maxKeys  = 1000
)

// get returns the value of a key, nil if there is none.
func (n *node) get(key string) *node {
	if n == nil {
		return nil
	}
	for i, k := range n.keys {
		if k == key {
			return n.items[i]
		}
	}
	return nil
}

// fresh returns an error if n cannot take another value under key.
func (n *node) fresh(key string, line int) error {
	switch {
	case n.get(key) != nil:
		return &syntaxError{line, fmt.Sprintf("%q is there twice", key)}
	case len(n.keys) >= maxKeys:
		return &syntaxError{line, fmt.Sprintf("there are more than %d keys in one mapping", maxKeys)}
	}
	return nil
}

// syntaxError is a document that is neither JSON nor YAML.
type syntaxError struct {
	line   int
	reason string
}

func (e *syntaxError) Error() string { return e.reason }

// readTrees reads the documents of a text, which is JSON if it begins with a bracket and reads as such, else YAML; or either
// of them, packed.
func readTrees(s string) ([]*node, error) {
	if config.Packed(s) {
		text, err := config.Unpack(s)
		if err != nil {
			return nil, &syntaxError{1, err.Error()}
		}
		s = text
	}
	if len(s) > maxBytes {
		return nil, &syntaxError{1, fmt.Sprintf("it has %d bytes; at most %d are allowed", len(s), maxBytes)}
	}
	if strings.IndexByte(s, 0) >= 0 {
		return nil, &syntaxError{1 + strings.Count(s[:strings.IndexByte(s, 0)], "\n"), "it has a NUL byte"}
	}
	lead := strings.TrimLeft(s, " \t\r\n")
	if lead == "" {
		return nil, nil
	}
	var first error
	if lead[0] == '[' || lead[0] == '{' {
		n, err := readJSON(s)
		if err == nil {
			return []*node{n}, nil
		}
		first = err
	}
	trees, err := readYAML(s)
	if err != nil && first != nil {
		return nil, first // it was meant to be JSON
	}
	return trees, err
}

// jsonReader reads JSON into nodes.
type jsonReader struct {
	src  string
	dec  *json.Decoder
	at   int64 // how far line has counted
	line int
}

func readJSON(s string) (*node, error) {
	r := &jsonReader{src: s, dec: json.NewDecoder(strings.NewReader(s)), line: 1}
	r.dec.UseNumber()
	n, err := r.value(0)
	if err != nil {
		var syn *syntaxError
		if errors.As(err, &syn) {
			return nil, syn
		}
		var at *json.SyntaxError
		if errors.As(err, &at) {
			return nil, &syntaxError{1 + strings.Count(s[:min(int(at.Offset), len(s))], "\n"), err.Error()}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, &syntaxError{1 + strings.Count(s, "\n"), "it ends in the middle"}
		}
		return nil, &syntaxError{r.line, err.Error()}
	}
	if _, err := r.dec.Token(); !errors.Is(err, io.EOF) {
		r.count()
		return nil, &syntaxError{r.line, "there is something after its list"}
	}
	return n, nil
}

// count brings line to where the decoder is.
func (r *jsonReader) count() {
	to := r.dec.InputOffset()
	r.line += strings.Count(r.src[r.at:to], "\n")
	r.at = to
}

func (r *jsonReader) value(depth int) (*node, error) {
	t, err := r.dec.Token()
	if err != nil {
		return nil, err
	}
	r.count()
	n := &node{line: r.line}
	switch t := t.(type) {
	case nil:
	case bool:
		n.kind, n.text = boolean, fmt.Sprint(t)
	case json.Number:
		n.kind, n.text = number, t.String()
	case string:
		n.kind, n.text = text, t
	case json.Delim:
		if depth >= maxDepth {
			return nil, &syntaxError{r.line, fmt.Sprintf("it is nested deeper than %d levels", maxDepth)}
		}
		n.kind = list
		if t == '{' {
			n.kind = mapping
		}
		for r.dec.More() {
			if n.kind == mapping {
				k, err := r.dec.Token()
				if err != nil {
					return nil, err
				}
				r.count()
				key := k.(string) // the decoder takes nothing else
				if err := n.fresh(key, r.line); err != nil {
					return nil, err
				}
				n.keys = append(n.keys, key)
			}
			item, err := r.value(depth + 1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		if _, err := r.dec.Token(); err != nil { // the closing bracket
			return nil, err
		}
		r.count()
	}
	return n, nil
}

// readYAML reads each document of a stream.
func readYAML(s string) ([]*node, error) {
	f, err := parseYAML(s)
	if err != nil {
		return nil, err
	}
	var trees []*node
	for _, d := range f.Docs {
		if d.Body == nil {
			continue
		}
		r := &yamlReader{anchors: make(map[string]*node)}
		n, err := r.value(d.Body, 0)
		if err != nil {
			return nil, err
		}
		trees = append(trees, n)
	}
	return trees, nil
}

// What the parser of YAML gets to see: it calls itself for whatever is within something else, which ends the process when
// that goes too far, and keeps half a kilobyte for each token.
const (
	maxTokens = 1 << 20
	maxChain  = 1000          // indicators in a row
	maxMarks  = 10_000        // tags, anchors and beginnings of documents
	maxColumn = 10 * maxDepth // where a line may begin
)

// ParseYAML parses a stream of documents. It refuses what the parser could not bear, and a panic of the parser's is an error,
// which names the line.
func ParseYAML(s string) (*ast.File, error) {
	f, err := parseYAML(s)
	var syn *syntaxError
	if errors.As(err, &syn) {
		return nil, fmt.Errorf("line %d: %w", syn.line, err)
	}
	return f, err
}

func parseYAML(s string) (f *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil { // a fault of the parser's must not end the platform
			f, err = nil, &syntaxError{1, fmt.Sprintf("it cannot be read as YAML: %v", p)}
		}
	}()
	if err := bearable(s); err != nil {
		return nil, err
	}
	if f, err = parser.ParseBytes([]byte(s), 0); err != nil {
		return nil, yamlError(err)
	}
	return f, nil
}

// bearable returns why the parser must not see s, going by the tokens that it would see; nil if it may.
func bearable(s string) error {
	var from scanner.Scanner
	from.Init(s)
	open, chain, marks, line, count := 0, 0, 0, 0, 0
	for {
		tokens, err := from.Scan()
		if errors.Is(err, io.EOF) {
			return nil
		}
		for _, t := range tokens {
			first := t.Position.Line != line
			line = t.Position.Line
			switch t.Type {
			case token.SequenceStartType, token.MappingStartType:
				open++
			case token.SequenceEndType, token.MappingEndType:
				open, chain = max(0, open-1), 0
			case token.TagType, token.AnchorType:
				chain++
				marks++
			case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType:
				chain++
			case token.DocumentHeaderType, token.DocumentEndType:
				marks, chain = marks+1, 0
			case token.CommentType:
			default:
				chain = 0
			}
			switch count++; {
			case open > maxDepth || chain > maxChain || first && t.Position.Column > maxColumn:
				return &syntaxError{line, fmt.Sprintf("it is nested deeper than %d levels", maxDepth)}
			case marks > maxMarks:
				return &syntaxError{line, fmt.Sprintf("it has more than %d tags, anchors and documents", maxMarks)}
			case count > maxTokens:
				return &syntaxError{line, fmt.Sprintf("it has more than %d words and signs; what is so long is best written in JSON", maxTokens)}
			}
		}
	}
}

// yamlError takes line and reason out of the parser's error, which is a drawing.
func yamlError(err error) error {
	e := &syntaxError{line: 1, reason: err.Error()}
	first, _, _ := strings.Cut(e.reason, "\n")
	var column int
	if n, _ := fmt.Sscanf(first, "[%d:%d]", &e.line, &column); n == 2 {
		_, first, _ = strings.Cut(first, "] ")
	}
	e.reason = "it cannot be read as YAML: " + first
	return e
}

// yamlReader turns one document into nodes. What an alias names is there once, however often it is named.
type yamlReader struct {
	anchors map[string]*node
}

func (r *yamlReader) value(a ast.Node, depth int) (*node, error) {
	if a == nil {
		return &node{line: 1}, nil
	}
	n := &node{line: lineOf(a)}
	if depth >= maxDepth {
		return nil, &syntaxError{n.line, fmt.Sprintf("it is nested deeper than %d levels", maxDepth)}
	}
	switch a := a.(type) {
	case *ast.NullNode:
	case *ast.BoolNode:
		n.kind, n.text = boolean, fmt.Sprint(a.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		n.kind, n.text = number, a.GetToken().Value
	case *ast.StringNode:
		n.kind, n.text = text, a.Value
	case *ast.LiteralNode:
		n.kind = text
		if a.Value != nil {
			n.text = a.Value.Value
		}
	case *ast.TagNode:
		return r.value(a.Value, depth+1)
	case *ast.AnchorNode:
		v, err := r.value(a.Value, depth+1)
		if err == nil && a.Name != nil {
			r.anchors[a.Name.String()] = v
		}
		return v, err
	case *ast.AliasNode:
		v := r.anchors[a.Value.String()]
		if v == nil {
			return nil, &syntaxError{n.line, fmt.Sprintf("no anchor before it has the name %s", a.Value.String())}
		}
		return v, nil
	case *ast.SequenceNode:
		n.kind = list
		for _, v := range a.Values {
			item, err := r.value(v, depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
	case *ast.MappingNode:
		n.kind = mapping
		for _, merge := range []bool{false, true} { // what is merged gives way to what is written
			for _, v := range a.Values {
				if _, is := v.Key.(*ast.MergeKeyNode); is != merge {
					continue
				}
				if err := r.pair(n, v, depth); err != nil {
					return nil, err
				}
			}
		}
	case *ast.MappingValueNode:
		n.kind = mapping
		return n, r.pair(n, a, depth)
	case *ast.CommentGroupNode, *ast.CommentNode:
	default:
		return nil, &syntaxError{n.line, fmt.Sprintf("a %s has no place here", a.Type())}
	}
	return n, nil
}

// pair adds one key and its value to n. The keys of what a merge key (<<) names are added where there are none yet.
func (r *yamlReader) pair(n *node, p *ast.MappingValueNode, depth int) error {
	v, err := r.value(p.Value, depth+1)
	if err != nil {
		return err
	}
	if _, merge := p.Key.(*ast.MergeKeyNode); merge {
		if v.kind != mapping {
			return &syntaxError{v.line, "<< wants a mapping"}
		}
		for i, k := range v.keys {
			if n.get(k) == nil && len(n.keys) < maxKeys {
				n.keys, n.items = append(n.keys, k), append(n.items, v.items[i])
			}
		}
		return nil
	}
	k, err := r.value(p.Key, depth+1)
	if err != nil {
		return err
	}
	if k.kind == list || k.kind == mapping {
		return &syntaxError{k.line, "a key is text"}
	}
	if err := n.fresh(k.text, k.line); err != nil {
		return err
	}
	n.keys, n.items = append(n.keys, k.text), append(n.items, v)
	return nil
}

func lineOf(a ast.Node) int {
	if t := a.GetToken(); t != nil && t.Position != nil {
		return max(1, t.Position.Line)
	}
	return 1
}

// raw returns n as JSON, for whoever reads it with a schema of its own. It fails if aliases blow it up.
func (n *node) raw() (json.RawMessage, error) {
	var b bytes.Buffer
	if err := n.write(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (n *node) write(b *bytes.Buffer) error {
	if b.Len() > 1<<20 {
		return &syntaxError{n.line, "it is larger than 1 MiB"}
	}
	switch n.kind {
	case null:
		b.WriteString("null")
	case boolean:
		b.WriteString(n.text)
	case number:
		if json.Valid([]byte(n.text)) {
			b.WriteString(n.text)
			return nil
		}
		fallthrough // 0x10 and .inf are numbers in YAML alone
	case text:
		quoted, err := json.Marshal(n.text)
		if err != nil {
			return err
		}
		b.Write(quoted)
	case list, mapping:
		brackets := "[]"
		if n.kind == mapping {
			brackets = "{}"
		}
		b.WriteByte(brackets[0])
		for i, item := range n.items {
			if i > 0 {
				b.WriteByte(',')
			}
			if n.kind == mapping {
				quoted, err := json.Marshal(n.keys[i])
				if err != nil {
					return err
				}
				b.Write(quoted)
				b.WriteByte(':')
			}
			if err := item.write(b); err != nil {
				return err
			}
		}
		b.WriteByte(brackets[1])
	}
	return nil
}
