package config

import (
	"slices"
	"strings"
)

// Interpolation may nest this deep; deeper, or in a circle, the text stays as it is written.
const maxDepth = 16

// maxReferences bounds the work, so that a few properties that name each other often cannot stop a service.
const maxReferences = 10_000

// maxExpanded bounds the text.
const maxExpanded = 1 << 20

// Interpolate returns props with every ${other} and ${other:default} replaced, as handles see them. A text that goes
// round in a circle stays as it is written.
func Interpolate(props map[string]string) map[string]string {
	out := make(map[string]string, len(props))
	for k := range props {
		out[k], _ = lookup(props, k) // it is there
	}
	return out
}

// lookup returns the text of key with every ${other} and ${other:default} replaced.
func lookup(raw map[string]string, key string) (string, bool) {
	text, ok := raw[key]
	if !ok || !strings.Contains(text, "${") {
		return text, ok
	}
	x := expansion{raw: raw, left: maxReferences}
	if out, ok := x.expand(text, []string{key}); ok {
		return out, true
	}
	return text, true
}

type expansion struct {
	raw  map[string]string
	left int // references that may still be replaced
}

// expand replaces the references of text. It reports false when they go round in a circle, or are too deep, too many
// or too long. trail holds the keys being expanded.
func (x *expansion) expand(text string, trail []string) (string, bool) {
	if len(trail) > maxDepth {
		return "", false
	}
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		out.WriteString(before)
		if !found {
			return out.String(), true
		}
		ref, after, closed := strings.Cut(rest, "}")
		if !closed {
			out.WriteString("${" + rest)
			return out.String(), true
		}
		text = after
		if x.left--; x.left < 0 || out.Len() > maxExpanded {
			return "", false
		}
		name, def, hasDef := strings.Cut(ref, ":")
		value, known := x.raw[name]
		switch {
		case known:
			if slices.Contains(trail, name) {
				return "", false
			}
			if strings.Contains(value, "${") {
				var ok bool
				if value, ok = x.expand(value, append(trail[:len(trail):len(trail)], name)); !ok {
					return "", false
				}
			}
			out.WriteString(value)
		case hasDef:
			out.WriteString(def)
		default:
			out.WriteString("${" + ref + "}")
		}
	}
}
