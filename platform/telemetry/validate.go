package telemetry

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

type tag struct{ key, value string }

const (
	dstypeKey   = "atlas.dstype"
	maxUserTags = 20
	tagLetters  = "-._A-Za-z0-9^~"
)

var (
	netflixKeys = strings.Fields("account ami app asg cluster container country country.rollup job node process region shard1 shard2 stack subnet task vmtype vpc zone")
	atlasKeys   = strings.Fields("aggr dstype offset legacy")
)

// sorted returns tags by key.
func sorted(tags map[string]string) []tag {
	out := make([]tag, 0, len(tags))
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		out = append(out, tag{k, tags[k]})
	}
	return out
}

// validate returns why a series with these tags, sorted by key, is refused: the first of Atlas' rules that it breaks,
// in their order. It returns "" if it is welcome.
func validate(tags []tag) string {
	if !slices.ContainsFunc(tags, func(t tag) bool { return t.key == "name" }) {
		return "missing key 'name'"
	}
	for _, t := range tags {
		switch n := len(t.key); {
		case n < 2:
			return fmt.Sprintf("key too short: [%s] (%d < 2)", t.key, n)
		case n > 60:
			return fmt.Sprintf("key too long: [%s] (%d > 60)", t.key, n)
		}
	}
	for _, name := range []bool{true, false} {
		least, most := 1, 120
		if name {
			least, most = 2, 255
		}
		for _, t := range tags {
			n := len(t.value)
			switch {
			case (t.key == "name") != name:
			case n < least:
				return fmt.Sprintf("value too short: %s = [%s] (%d < %d)", t.key, t.value, n, least)
			case n > most:
				return fmt.Sprintf("value too long: %s = [%s] (%d > %d)", t.key, t.value, n, most)
			}
		}
	}
	user := 0
	for _, t := range tags {
		if !allowed(t.key) {
			return fmt.Sprintf("invalid characters in key: [%s] ([%s] are allowed)", t.key, tagLetters)
		}
		if !allowed(t.value) {
			return fmt.Sprintf("invalid characters in value: %s = [%s] ([%s] are allowed)", t.key, t.value, tagLetters)
		}
		if !strings.HasPrefix(t.key, "nf.") && !strings.HasPrefix(t.key, "atlas.") {
			user++
		}
	}
	if user > maxUserTags {
		return fmt.Sprintf("too many user tags: %d > %d", user, maxUserTags)
	}
	for _, t := range tags {
		if k, ok := strings.CutPrefix(t.key, "nf."); ok && !slices.Contains(netflixKeys, k) {
			return "invalid key for reserved prefix 'nf.': " + t.key
		}
		if k, ok := strings.CutPrefix(t.key, "atlas."); ok && !slices.Contains(atlasKeys, k) {
			return "invalid key for reserved prefix 'atlas.': " + t.key
		}
	}
	for _, t := range tags {
		if t.key != dstypeKey {
			continue
		}
		switch t.value {
		case "gauge", "rate", "sum":
		case "counter":
			return "atlas.dstype counter is not supported here; publish the rate per second as atlas.dstype rate"
		default:
			return fmt.Sprintf("invalid atlas.dstype [%s] (gauge, rate, sum are allowed)", t.value)
		}
	}
	return ""
}

func allowed(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c == '-' || c == '.' || c == '_' || c == '^' || c == '~') {
			return false
		}
	}
	return true
}
