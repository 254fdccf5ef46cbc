package properties

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/roadbed/roadbed/config"
)

// nest makes a tree of keys: "db.hosts[1].name" is a name in the second of a list of hosts of a db. Its leaves are
// strings, or bools and [json.Number]s where their type says so. A key that fits into no such tree, because a value
// stands where it would branch or a list would have holes, stays whole at the top: a reader that takes the tree apart
// again finds every key.
func nest(values, types map[string]string) map[string]any {
	root := &branch{}
	flat := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(values)) { // "a" comes before "a.b" and "a[0]"
		leaf := leafOf(values[key], types[key])
		if steps, ok := stepsOf(key); !ok || !root.insert(steps, key, leaf) {
			flat[key] = leaf
		}
	}
	tree, ok := root.tree(flat).(map[string]any)
	if !ok { // there is nothing
		tree = map[string]any{}
	}
	maps.Copy(tree, flat)
	return tree
}

// branch is a place in the tree: a leaf, or names and items below it.
type branch struct {
	key   string // of the leaf
	leaf  any    // nil for a branch
	names map[string]*branch
	items map[int]*branch
}

// stepTo is a name or, when name is empty, the index of an item.
type stepTo struct {
	name string
	item int
}

// maxItems bounds a list, so that a key cannot name an item that far away.
const maxItems = 10_000

// stepsOf takes a key apart. It reports false for one that is not names with dots between and indexes behind them.
func stepsOf(key string) ([]stepTo, bool) {
	var steps []stepTo
	for part := range strings.SplitSeq(key, ".") {
		name, indexes, _ := strings.Cut(part, "[")
		if name == "" || strings.Contains(name, "]") {
			return nil, false
		}
		steps = append(steps, stepTo{name: name})
		for name != part && indexes != "" {
			digits, rest, closed := strings.Cut(indexes, "]")
			n, err := strconv.Atoi(digits)
			if !closed || err != nil || n < 0 || n >= maxItems || strconv.Itoa(n) != digits || rest != "" && rest[0] != '[' {
				return nil, false
			}
			steps = append(steps, stepTo{item: n})
			indexes = strings.TrimPrefix(rest, "[")
			if rest == "[" {
				return nil, false
			}
		}
		if name != part && !strings.HasSuffix(part, "]") {
			return nil, false
		}
	}
	return steps, true
}

// insert puts a leaf where steps lead, and reports false if that is below another leaf.
func (b *branch) insert(steps []stepTo, key string, leaf any) bool {
	for _, s := range steps {
		if b.leaf != nil {
			return false
		}
		var next *branch
		if s.name != "" {
			if next = b.names[s.name]; next == nil {
				next = &branch{}
				if b.names == nil {
					b.names = map[string]*branch{}
				}
				b.names[s.name] = next
			}
		} else {
			if next = b.items[s.item]; next == nil {
				next = &branch{}
				if b.items == nil {
					b.items = map[int]*branch{}
				}
				b.items[s.item] = next
			}
		}
		b = next
	}
	b.key, b.leaf = key, leaf
	return true
}

// tree returns b as maps and slices, nil if nothing is left of it. Leaves of lists with holes, or with names among
// the items, go to flat.
func (b *branch) tree(flat map[string]any) any {
	if b.leaf != nil {
		return b.leaf
	}
	if len(b.items) > 0 {
		whole := len(b.names) == 0
		for i := range b.items {
			whole = whole && i < len(b.items)
		}
		list := make([]any, len(b.items))
		for i, item := range b.items {
			if whole {
				list[i] = item.tree(flat)
				whole = list[i] != nil
			}
		}
		if whole {
			return list
		}
		for _, item := range b.items {
			item.flatten(flat)
		}
	}
	out := map[string]any{}
	for name, next := range b.names {
		if sub := next.tree(flat); sub != nil {
			out[name] = sub
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (b *branch) flatten(flat map[string]any) {
	if b.leaf != nil {
		flat[b.key] = b.leaf
	}
	for _, next := range b.names {
		next.flatten(flat)
	}
	for _, next := range b.items {
		next.flatten(flat)
	}
}

// leafOf gives a value the type that JSON and YAML have for it.
func leafOf(value, typ string) any {
	switch typ {
	case "bool":
		if b, err := config.ParseBool(value); err == nil {
			return b
		}
	case "int", "long":
		if n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); err == nil {
			return json.Number(strconv.FormatInt(n, 10))
		}
	case "float":
		if f, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil && math.Abs(f) < 1e15 {
			text := strconv.FormatFloat(f, 'f', -1, 64)
			if !strings.Contains(text, ".") {
				text += ".0"
			}
			return json.Number(text)
		}
	}
	return value
}

// appendYAML appends a tree of maps, slices, strings, bools and numbers as YAML. Every string is in double quotes: what
// is a number, a date or a truth value without them differs between versions of YAML.
func appendYAML(out []byte, v any, depth int) []byte {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			return append(indent(out, depth), "{}\n"...)
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			out = append(appendYAMLKey(indent(out, depth), name), ':')
			out = appendYAMLBelow(out, v[name], depth)
		}
	case []any:
		for _, item := range v {
			out = append(indent(out, depth), '-')
			out = appendYAMLBelow(out, item, depth)
		}
	}
	return out
}

// appendYAMLBelow appends what stands behind a "name:" or a "-".
func appendYAMLBelow(out []byte, v any, depth int) []byte {
	switch v := v.(type) {
	case string:
		out = append(appendYAMLString(append(out, ' '), v), '\n')
	case map[string]any:
		if len(v) == 0 {
			return append(out, " {}\n"...)
		}
		out = appendYAML(append(out, '\n'), v, depth+1)
	case []any:
		out = appendYAML(append(out, '\n'), v, depth+1)
	default: // bool, json.Number
		out = fmt.Appendf(out, " %v\n", v)
	}
	return out
}

func indent(out []byte, depth int) []byte {
	for range depth {
		out = append(out, "  "...)
	}
	return out
}

// appendYAMLKey leaves the quotes away where no version of YAML could take the name for anything else.
func appendYAMLKey(out []byte, name string) []byte {
	plain := name != "" && !slices.Contains([]string{"true", "false", "null", "y", "n", "yes", "no", "on", "off"}, strings.ToLower(name))
	for i, r := range name {
		plain = plain && r < unicode.MaxASCII && (unicode.IsLetter(r) || i > 0 && (unicode.IsDigit(r) || r == '-' || r == '_'))
	}
	if plain {
		return append(out, name...)
	}
	return appendYAMLString(out, name)
}

func appendYAMLString(out []byte, s string) []byte {
	out = append(out, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			out = append(out, '\\', byte(r))
		case r == '\n':
			out = append(out, '\\', 'n')
		case r == '\t':
			out = append(out, '\\', 't')
		case r >= ' ' && r <= '~' || r >= 0xa0 && r < 0xffff && r != '\ufeff' && unicode.IsGraphic(r) && !unicode.IsSpace(r):
			out = append(out, string(r)...)
		case r > 0xffff:
			out = fmt.Appendf(out, `\U%08X`, r)
		default:
			out = fmt.Appendf(out, `\u%04X`, r)
		}
	}
	return append(out, '"')
}
