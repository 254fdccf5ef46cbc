package fault

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rule is one parsed rule: where, which names, what and how often.
type Rule struct {
	text       string // as written, without surrounding blanks; part of the hash, so that hops agree
	point      string
	glob       string
	where      string // what stands in brackets behind the glob, "" if nothing does
	action     action
	delay      time.Duration
	jitter     time.Duration
	status     int
	size       int64   // partial: bytes; corrupt: how many; slow: bytes per second
	share      float64 // partial: percent of the body
	percent    float64 // 0 to 100
	perAttempt bool
	max        int32 // times in one request; 0 = no limit
}

// String returns the rule as it was written.
func (r Rule) String() string { return r.text }

// Point returns where the rule applies: one of [Points].
func (r Rule) Point() string { return r.point }

// Glob returns the pattern of the names it applies to.
func (r Rule) Glob() string { return r.glob }

// Percent returns how many of a hundred requests it hits.
func (r Rule) Percent() float64 { return r.percent }

// Where returns the zones and clusters that the rule is limited to, in brackets; "" = none.
func (r Rule) Where() string { return r.where }

// Within returns rules limited further to processes in one of places, which are zones or clusters. Rules that cannot be
// parsed, and no places, leave them as they are.
func Within(rules string, places []string) string {
	parsed, err := ParseRules(rules)
	if err != nil || len(places) == 0 {
		return rules
	}
	var out []string
	for _, r := range parsed {
		head := r.point + ":" + r.glob + r.where
		out = append(out, head+"["+strings.Join(places, "|")+"]"+strings.TrimPrefix(r.text, head))
	}
	return strings.Join(out, ";")
}

// within reports whether the rule holds in a process there.
func (r *Rule) within(h *Here) bool {
	for b := range strings.SplitSeq(strings.TrimSuffix(r.where, "]"), "]") {
		holds := false
		for place := range strings.SplitSeq(b[1:], "|") {
			holds = holds || h.Zone != "" && glob(place, h.Zone) || h.Cluster != "" && glob(place, h.Cluster)
		}
		if !holds {
			return false
		}
	}
	return true
}

// validWhere reports whether s is one or more of [place|place].
func validWhere(s string) bool {
	for s != "" {
		rest, ok := strings.CutPrefix(s, "[")
		inner, after, closed := strings.Cut(rest, "]")
		if !ok || !closed || strings.ContainsRune(inner, '[') || slices.Contains(strings.Split(inner, "|"), "") {
			return false
		}
		s = after
	}
	return true
}

// Matches reports whether the rule applies to the point of that name, chance aside.
func (r Rule) Matches(point, name string) bool { return r.point == point && glob(r.glob, name) }

type action uint8

const (
	delay action = iota + 1
	fail
	reset
	hang
	noFallback
	partial
	corrupt
	slow
	drop
	reject
	miss
)

// actionNames are the words of the grammar, and the values of the metrics' tag.
var actionNames = [...]string{
	delay: "delay", fail: "error", reset: "reset", hang: "hang", noFallback: "nofallback", partial: "partial", corrupt: "corrupt",
	slow: "slow", drop: "drop", reject: "reject", miss: "miss",
}

const (
	maxRules = 64
	maxDelay = 5 * time.Minute
	maxSize  = 1 << 30 // bytes, or bytes per second
	maxTimes = 1000
)

// Points returns the names of all injection points.
func Points() []string {
	return []string{"edge", "server", "client", "command", "cache", "db", "queue"}
}

// codes are gRPC's canonical codes by name, in their numeric order, with the HTTP status that stands for each.
// Source: google.rpc.Code.
var codes = [...]struct {
	name   string
	status int
}{
	{"ok", 0}, {"cancelled", 499}, {"unknown", 500}, {"invalid_argument", 400}, {"deadline_exceeded", 504},
	{"not_found", 404}, {"already_exists", 409}, {"permission_denied", 403}, {"resource_exhausted", 429},
	{"failed_precondition", 400}, {"aborted", 409}, {"out_of_range", 400}, {"unimplemented", 501},
	{"internal", 500}, {"unavailable", 503}, {"data_loss", 500}, {"unauthenticated", 401},
}

// ParseRules reads rules separated by ";". It fails on the first that is outside the grammar of the package comment,
// and the error says what would be right.
func ParseRules(s string) ([]Rule, error) {
	var out []Rule
	for part := range strings.SplitSeq(s, ";") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		r, err := parseRule(part)
		if err != nil {
			return nil, fmt.Errorf("fault: rule %q: %w", clip(part), err)
		}
		if out = append(out, r); len(out) > maxRules {
			return nil, fmt.Errorf("fault: more than %d rules; use globs", maxRules)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("fault: no rule in %q; write one as point:glob=action@percent, e.g. client:ratings=error(503)@25", clip(s))
	}
	return out, nil
}

func parseRule(s string) (Rule, error) {
	r := Rule{text: s, percent: 100}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			return r, fmt.Errorf("character %q is not allowed; use printable ASCII without blanks, quotes and backslashes", s[i])
		}
	}
	point, rest, ok := strings.Cut(s, ":")
	if !ok || !slices.Contains(Points(), point) {
		return r, fmt.Errorf("it must begin with one of %s and a colon", strings.Join(Points(), ", "))
	}
	r.point = point
	glob, what, ok := strings.Cut(rest, "=")
	if !ok || glob == "" {
		return r, fmt.Errorf("after the point comes a name or pattern, then \"=\" and an action, e.g. %s:ratings=error(503)", point)
	}
	r.glob = glob
	if g, where, ok := strings.Cut(glob, "["); ok {
		r.glob, r.where = g, "["+where
		if g == "" || !validWhere(r.where) {
			return r, fmt.Errorf("behind the name may stand zones or clusters in brackets, e.g. %s:ratings[us-east-1a|us-east-1b]", point)
		}
	}
	if body, times, ok := strings.Cut(what, "#"); ok {
		n, err := strconv.Atoi(times)
		if err != nil || n < 1 || n > maxTimes {
			return r, fmt.Errorf("limit #%s must be a number from 1 to %d: how often the rule hits one request at most; it comes last", times, maxTimes)
		}
		what, r.max = body, int32(n)
	}
	if body, percent, ok := strings.Cut(what, "@"); ok {
		what = body
		percent, r.perAttempt = strings.CutPrefix(percent, "~")
		p, err := strconv.ParseFloat(percent, 64)
		if err != nil || math.IsNaN(p) || p < 0 || p > 100 {
			return r, fmt.Errorf("percentage %q must be a number from 0 to 100", percent)
		}
		r.percent = p
	}
	return r, r.parseAction(what)
}

func (r *Rule) parseAction(s string) error {
	name, args := s, ""
	if n, a, ok := strings.Cut(s, "("); ok {
		inner, closed := strings.CutSuffix(a, ")")
		if !closed || strings.ContainsAny(inner, "()") {
			return fmt.Errorf("action %q: the bracket must be closed once, at the end", s)
		}
		if inner == "" {
			return fmt.Errorf("action %q: the brackets are empty", s)
		}
		name, args = n, inner
	}
	switch name {
	case "delay":
		r.action = delay
		d, jitter, both := strings.Cut(args, ",")
		var err error
		if r.delay, err = parseDelay(d); err != nil {
			return err
		}
		if both {
			if r.jitter, err = parseDelay(jitter); err != nil {
				return err
			}
		}
		return nil
	case "error":
		r.action = fail
		var ok bool
		if r.status, ok = parseStatus(args); !ok {
			return fmt.Errorf("error(%s): use an HTTP status from 400 to 599, or a gRPC code such as unavailable or 14", args)
		}
		return nil
	case "partial":
		r.action = partial
		if text, percent := strings.CutSuffix(args, "%"); percent {
			p, err := strconv.ParseFloat(text, 64)
			if err != nil || !(p >= 0 && p < 100) {
				return fmt.Errorf("partial(%s): the share of the body that gets through must be at least 0%% and less than 100%%", args)
			}
			r.share = p
			return nil
		}
		return r.parseSize(name, args, 0, "how many bytes of the body get through, e.g. 512, or their share, e.g. 50%")
	case "corrupt":
		r.action = corrupt
		return r.parseSize(name, args, 1, "how many bytes of the body are altered")
	case "slow":
		r.action = slow
		return r.parseSize(name, args, 1, "how many bytes of the body pass in a second")
	}
	i := slices.Index(actionNames[:], name)
	if i < int(reset) || name == "" {
		return fmt.Errorf("action %q is unknown; use %s", name, strings.Join(actionNames[1:], ", "))
	}
	if args != "" {
		return fmt.Errorf("action %s takes nothing in brackets", name)
	}
	if r.action = action(i); r.action == miss && r.point != "cache" {
		return fmt.Errorf("only a cache can miss; use it as cache:%s=miss", r.glob)
	}
	return nil
}

func (r *Rule) parseSize(name, s string, least int64, what string) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < least || n > maxSize {
		return fmt.Errorf("%s(%s): in the brackets stands %s: from %d to %d", name, s, what, least, maxSize)
	}
	r.size, r.share = n, -1
	return nil
}

func parseDelay(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxDelay {
		return 0, fmt.Errorf("delay %q must be a duration from 0s to %s, e.g. 300ms", s, maxDelay)
	}
	return d, nil
}

// parseStatus reads an HTTP status or a gRPC code by name or number. One number cannot be both: codes end at 16.
func parseStatus(s string) (int, bool) {
	if n, err := strconv.Atoi(s); err == nil {
		switch {
		case n >= 400 && n <= 599:
			return n, true
		case n >= 1 && n < len(codes):
			return codes[n].status, true
		}
		return 0, false
	}
	lower := strings.ToLower(s)
	for _, c := range codes[1:] {
		if c.name == lower {
			return c.status, true
		}
	}
	return 0, false
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
