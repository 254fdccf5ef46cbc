package streaming

import (
	"fmt"
	"strconv"
	"strings"
)

// The population of members: m00001 to m10000. The last hundred have let their plan lapse: they browse but cannot play.
const (
	memberCount = 10_000
	payingCount = memberCount - 100
)

// Member is a customer as members tells it.
type Member struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Country  string   `json:"country"`
	Maturity int      `json:"maturity"` // the age up to which titles are shown: 7 for children, 18 for others
	Tastes   []string `json:"tastes"`   // rows, the favourite first
}

var countries = strings.Fields("US BR MX DE FR JP IN PL NG ES")

// memberID names member n, counted from 1.
func memberID(n int) string { return fmt.Sprintf("m%05d", n) }

// memberNumber reads a member's id. It reports false for what names no member.
func memberNumber(id string) (int, bool) {
	digits, ok := strings.CutPrefix(id, "m")
	n, err := strconv.ParseUint(digits, 10, 32) // takes no sign
	if !ok || err != nil || len(digits) != 5 || n < 1 || n > memberCount {
		return 0, false
	}
	return int(n), true
}

// member makes up the member id: always the same one for the same id.
func member(id string) (Member, bool) {
	if _, ok := memberNumber(id); !ok {
		return Member{}, false
	}
	h := hash(id, "member")
	m := Member{ID: id, Name: people[h%uint64(len(people))], Country: countries[h>>8%uint64(len(countries))], Maturity: 18}
	if h>>16%10 == 0 {
		m.Maturity = 7
		m.Tastes = []string{"family", "animation"}
		return m, true
	}
	first := h >> 24 % uint64(len(genres))
	second := (first + 1 + h>>32%uint64(len(genres)-1)) % uint64(len(genres))
	m.Tastes = []string{slug(genres[first]), slug(genres[second])}
	return m, true
}

// device names what a member watches on: always the same for the same id.
func device(id string) string {
	return [...]string{"tv", "tv", "phone", "tablet", "web"}[hash(id, "device")%5]
}

// hash is FNV-1a of the parts with a finisher that spreads it over all bits: the demo's source of everything that must
// look arbitrary and be the same in every process.
func hash(parts ...string) uint64 {
	h := uint64(14695981039346656037)
	for _, p := range parts {
		for i := range len(p) {
			h = (h ^ uint64(p[i])) * 1099511628211
		}
		h = (h ^ '/') * 1099511628211
	}
	// The finisher of MurmurHash3.
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
