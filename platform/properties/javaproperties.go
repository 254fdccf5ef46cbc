package properties

import (
	"maps"
	"slices"
	"unicode/utf16"
)

// javaProperties writes properties in the format that java.util.Properties.load reads: one key=value a line, sorted.
// Everything outside printable ASCII is written \uXXXX, so that a reader may take the bytes for ISO-8859-1, as the
// format says, or for UTF-8, as Archaius 1 does.
func javaProperties(props map[string]string) []byte {
	var out []byte
	for _, key := range slices.Sorted(maps.Keys(props)) {
		out = append(appendJava(out, key, true), '=')
		out = append(appendJava(out, props[key], false), '\n')
	}
	return out
}

// appendJava appends text, escaped as a key or as a value. In a key every blank and separator is escaped, in a value
// only the blank that begins it.
func appendJava(out []byte, text string, key bool) []byte {
	for i, r := range text {
		switch {
		case r == '\\':
			out = append(out, '\\', '\\')
		case r == '\n':
			out = append(out, '\\', 'n')
		case r == '\r':
			out = append(out, '\\', 'r')
		case r == '\t':
			out = append(out, '\\', 't')
		case r == '\f':
			out = append(out, '\\', 'f')
		case r == ' ' && (key || i == 0):
			out = append(out, '\\', ' ')
		case key && (r == '=' || r == ':' || r == '#' || r == '!'):
			out = append(out, '\\', byte(r))
		case r >= ' ' && r <= '~':
			out = append(out, byte(r))
		case r < 0x10000:
			out = appendUTF16(out, uint16(r))
		default:
			high, low := utf16.EncodeRune(r)
			out = appendUTF16(appendUTF16(out, uint16(high)), uint16(low))
		}
	}
	return out
}

func appendUTF16(out []byte, unit uint16) []byte {
	const hex = "0123456789ABCDEF"
	return append(out, '\\', 'u', hex[unit>>12], hex[unit>>8&15], hex[unit>>4&15], hex[unit&15])
}
