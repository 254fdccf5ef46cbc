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
	action     action
	delay      time.Duration
	jitter     time.Duration
	status     int
	percent    float64 // 0 to 100
	perAttempt bool
}

// String returns the rule as it was written.
func (r Rule) String() string { return r.text }

// Point returns where the rule applies: one of [Points].
func (r Rule) Point() string { return r.point }

// Glob returns the pattern of the names it applies to.
func (r Rule) Glob() string { return r.glob }

// Percent returns how many of a hundred requests it hits.
func (r Rule) Percent() float64 { return r.percent }

type action uint8

const (
	delay action = iota + 1
	fail
	reset
	hang
	noFallback
)

const (
	maxRules = 64
	maxDelay = 5 * time.Minute
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
	if strings.Contains(what, "#") {
		return r, fmt.Errorf("a limit #max is not supported; use a lower percentage")
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
	case "reset":
		r.action = reset
	case "hang":
		r.action = hang
	case "nofallback":
		r.action = noFallback
	case "partial", "corrupt", "slow", "drop":
		return fmt.Errorf("action %q is not supported; use delay, error, reset, hang or nofallback", name)
	default:
		return fmt.Errorf("action %q is unknown; use delay, error, reset, hang or nofallback", name)
	}
	if args != "" {
		return fmt.Errorf("action %s takes nothing in brackets", name)
	}
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
