package asl

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
)

// raw is a token as it was written. Tokens are executed or unescaped when they leave the list that holds them.
type raw string

// tokenize splits a program at its commas, without comments, which nest, and without white space around tokens.
func tokenize(program string) ([]raw, error) {
	plain, err := uncomment(program)
	if err != nil {
		return nil, err
	}
	var tokens []raw
	for t := range strings.SplitSeq(plain, ",") {
		if t = strings.TrimSpace(t); t != "" {
			tokens = append(tokens, raw(t))
		}
	}
	return tokens, nil
}

func uncomment(program string) (string, error) {
	if !strings.Contains(program, "/*") && !strings.Contains(program, "*/") {
		return program, nil
	}
	var out strings.Builder
	depth := 0
	for i := 0; i < len(program); i++ {
		switch {
		case strings.HasPrefix(program[i:], "/*"):
			depth++
			i++
		case strings.HasPrefix(program[i:], "*/"):
			if depth--; depth < 0 {
				return "", errors.New("unclosed comment")
			}
			i++
		case depth == 0:
			out.WriteByte(program[i])
		}
	}
	if depth != 0 {
		return "", errors.New("unclosed comment")
	}
	return out.String(), nil
}

// unescape replaces each \uXXXX once. What is not such a sequence stays.
func unescape(s string) string {
	if !strings.Contains(s, `\u`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); {
		u, ok := escaped(s[i:])
		if !ok {
			out.WriteByte(s[i])
			i++
			continue
		}
		i += 6
		r := rune(u)
		if utf16.IsSurrogate(r) {
			if low, ok := escaped(s[i:]); ok && utf16.DecodeRune(r, rune(low)) != '\uFFFD' {
				r = utf16.DecodeRune(r, rune(low))
				i += 6
			}
		}
		out.WriteRune(r)
	}
	return out.String()
}

func escaped(s string) (uint16, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	for _, c := range []byte(s[2:6]) {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
			return 0, false
		}
	}
	u, err := strconv.ParseUint(s[2:6], 16, 16)
	return uint16(u), err == nil
}

// escape writes s as one token that unescape turns back into s.
func escape(s string) string {
	if s == "(" || s == ")" {
		return fmt.Sprintf(`\u%04x`, s[0])
	}
	special := func(c rune) bool {
		return c == ',' || c == ':' || c == '\\' || c == '/' || c == '*' || c <= ' ' || c > 0x7e
	}
	if strings.IndexFunc(s, special) < 0 {
		return s
	}
	var out strings.Builder
	for i, c := range s {
		_, sequence := escaped(s[i:])
		inner := strings.TrimSpace(s[:i]) != "" && strings.TrimSpace(s[i:]) != ""
		switch {
		case c == ',' || c == ':' || c == '\\' && sequence,
			c == ' ' && !inner, c < ' ', c == 0x7f, c > 0x7f && strings.TrimSpace(string(c)) == "",
			c == '/' && strings.HasPrefix(s[i:], "/*"), c == '*' && strings.HasPrefix(s[i:], "*/"):
			fmt.Fprintf(&out, `\u%04x`, c)
		case c > 0xFFFF:
			hi, lo := utf16.EncodeRune(c)
			fmt.Fprintf(&out, `\u%04x\u%04x`, hi, lo)
		default:
			out.WriteRune(c)
		}
	}
	return out.String()
}

// list writes keys as a list literal.
func list(items []string) string {
	var out strings.Builder
	out.WriteString("(,")
	for _, s := range items {
		out.WriteString(escape(s))
		out.WriteByte(',')
	}
	out.WriteByte(')')
	return out.String()
}
