package shed

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// usual is the score of a group that is named in place of one, as services have it.
var usual = [...]uint8{10, 40, 70, 95}

const spread = 10 // scores, by which users of one importance differ

// ranks says how important requests are.
type ranks struct {
	rules  atomic.Pointer[[]rule] // the longest path first
	others *config.Value[*others]
}

// others is what goes for requests that nothing ranks.
type others struct {
	Default score
	Spread  bool
}

// score is a score as properties have it.
type score uint8

// UnmarshalText reads 1 to 100, or a group's name.
func (s *score) UnmarshalText(b []byte) error {
	n, err := parseScore(string(b))
	*s = score(n)
	return err
}

func parseScore(s string) (uint8, error) {
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && n >= 1 && n <= least {
		return uint8(n), nil
	}
	if c, err := roadbed.ParseCriticality(s); err == nil && s != "" {
		return usual[c], nil
	}
	return 0, fmt.Errorf("%q is no importance; use 1, the most important, to 100, or CRITICAL, DEGRADED, BEST_EFFORT or BULK", s)
}

// rule gives requests a score by method and path.
type rule struct {
	methods []string // nil: any
	path    string   // and what is beneath it, if it ends with a slash or the next segment begins there
	score   uint8
}

// parseRule reads "GET,HEAD /browse 70".
func parseRule(text string) (r rule, err error) {
	f := strings.Fields(text)
	if len(f) != 3 || f[1][0] != '/' {
		return r, fmt.Errorf("%q is no rule; write methods or *, a path and an importance, such as GET,HEAD /browse 70", text)
	}
	if f[0] != "*" {
		if r.methods, err = config.ParseList(f[0]); err != nil {
			return r, err
		}
		if len(r.methods) == 0 {
			return r, fmt.Errorf("%q names no method; write * for all", text)
		}
	}
	r.path = f[1]
	r.score, err = parseScore(f[2])
	return r, err
}

func (r *rule) matches(q *filter.Request) bool {
	if !strings.HasPrefix(q.Path, r.path) || r.methods != nil && !slices.Contains(r.methods, q.Method) {
		return false
	}
	return len(q.Path) == len(r.path) || r.path[len(r.path)-1] == '/' || q.Path[len(r.path)] == '/'
}

// follow keeps the rules those of the properties. One that makes no sense is left out, and told.
func (k *ranks) follow(p *config.Properties) {
	k.others = config.Must(config.Bind(p, "edge.priority.", others{Default: 50, Spread: true}))
	p.Prefix("edge.priority.", func(all map[string]string) {
		rules := []rule{}
		for name, text := range all {
			if name == "edge.priority.default" || name == "edge.priority.spread" {
				continue
			}
			r, err := parseRule(text)
			if err != nil {
				p.Refuse(name, text, err)
				continue
			}
			rules = append(rules, r)
		}
		slices.SortFunc(rules, func(a, b rule) int {
			return cmp.Or(cmp.Compare(len(b.path), len(a.path)), cmp.Compare(min(1, len(b.methods)), min(1, len(a.methods))), cmp.Compare(a.path, b.path), cmp.Compare(a.score, b.score))
		})
		k.rules.Store(&rules)
	})
}

// rank gives x the score that its field says, if it may, or else a rule.
//
// hot path: 0 allocs, BenchmarkLetIn
func (k *ranks) rank(x *filter.Exchange) {
	if told(x) {
		if n, err := parseScore(x.Request.Header.Get("X-Edge-Priority")); err == nil {
			give(x, n)
			return
		}
		x.Request.Header.Del("X-Edge-Priority") // it says nothing
	}
	rules := *k.rules.Load()
	for i := range rules {
		if rules[i].matches(&x.Request) {
			give(x, rules[i].score)
			return
		}
	}
}

// told reports whether a peer that may has said how important x is.
func told(x *filter.Exchange) bool { return x.Trusted && x.Request.Header.Has("X-Edge-Priority") }

func give(x *filter.Exchange, n uint8) { x.Priority, x.Criticality = n, groupOf(int(n)) }

// score returns the score that x is judged by: users differ a little, unless X-Edge-Priority says it, for that was
// decided before.
func (k *ranks) score(x *filter.Exchange, header string) int {
	o := k.others.Get()
	n := int(x.Priority)
	if n == 0 {
		n = int(o.Default)
	} else if told(x) {
		return n
	}
	if !o.Spread || n <= sacred {
		return n
	}
	return min(n+int(userOf(x, header)>>32%spread), lastOf(n))
}

// lastOf returns the last score of the group that n is in.
func lastOf(n int) int { return [...]int{vital, 60, 80, least}[groupOf(n)] }

// userOf returns a number that is the same for all requests of a user, as far as they can be told apart.
func userOf(x *filter.Exchange, header string) uint64 {
	if x.User != "" {
		return xxhash.Sum64String(x.User)
	}
	if v := x.Request.Header.Get(header); v != "" {
		return xxhash.Sum64String(v)
	}
	b := x.From.As16()
	return xxhash.Sum64(b[:])
}
