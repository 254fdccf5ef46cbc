package meter

import (
	"slices"
	"strings"
)

// Lengths the store accepts, in bytes.
const (
	maxKey   = 60
	maxName  = 255
	maxValue = 120
)

func allowed(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '^' || c == '~'
}

// clean replaces each character that the store refuses by one underscore and cuts what is too long.
func clean(s string, limit int) string {
	ok := true
	for i := range len(s) {
		ok = ok && allowed(s[i])
	}
	if !ok {
		s = strings.Map(func(r rune) rune {
			if r < 0x80 && allowed(byte(r)) {
				return r
			}
			return '_'
		}, s)
	}
	return s[:min(len(s), limit)]
}

func cleanName(s string) string  { return atLeastTwo(clean(s, maxName)) }
func cleanKey(s string) string   { return atLeastTwo(clean(s, maxKey)) }
func cleanValue(s string) string { return clean(s, maxValue) }

// atLeastTwo lengthens names and keys that the store would find too short.
func atLeastTwo(s string) string { return s + "__"[:max(0, 2-len(s))] }

// cleanTags returns the pairs sorted by key. Empty values drop their tag, of two equal keys the last wins, a key
// without a value and the key "name" are left out.
func cleanTags(kv []string) []tag {
	tags := make([]tag, 0, len(kv)/2)
	for i := 0; i+1 < len(kv); i += 2 {
		k, v := cleanKey(kv[i]), cleanValue(kv[i+1])
		if kv[i] == "" || v == "" || k == "name" {
			continue
		}
		if j := slices.IndexFunc(tags, func(t tag) bool { return t.key == k }); j >= 0 {
			tags[j].value = v
			continue
		}
		tags = append(tags, tag{k, v})
	}
	slices.SortFunc(tags, func(a, b tag) int { return strings.Compare(a.key, b.key) })
	return tags
}
