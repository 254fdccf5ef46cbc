package asl

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// hexColor is a colour in digits; :color takes names too, which are the drawer's business.
var hexColor = regexp.MustCompile(`^(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})$`)

func setStyle(m *machine, key, value string) (bool, error) {
	l, ok := m.popLine()
	if !ok {
		return false, nil
	}
	style := make(map[string]string, len(l.Style)+1)
	maps.Copy(style, l.Style)
	switch key {
	case "color":
		delete(style, "alpha")
		delete(style, "palette")
	case "palette":
		delete(style, "alpha")
		delete(style, "color")
	case "alpha":
		if c, ok := style["color"]; ok && len(c) == 8 && hexColor.MatchString(c) {
			key, value = "color", value+c[2:]
		}
	}
	style[key] = value
	m.push(Line{Expr: l.Expr, Style: style})
	return true, nil
}

func styleWords(add adder) {
	setting := func(word, key string, clean func(v string) (string, error)) {
		add(word, "TimeSeriesExpr "+key+":String -- StyleExpr", func(m *machine) (bool, error) {
			v, ok := m.popString()
			if !ok {
				return false, nil
			}
			v, err := clean(v)
			if err != nil {
				return false, err
			}
			return setStyle(m, key, v)
		})
	}
	oneOf := func(what string, allowed ...string) func(string) (string, error) {
		return func(v string) (string, error) {
			if !slices.Contains(allowed, v) {
				return "", fmt.Errorf("%s %q is unknown; use one of %s", what, v, strings.Join(allowed, ", "))
			}
			return v, nil
		}
	}
	number := func(what string, least, most int) func(string) (string, error) {
		return func(v string) (string, error) {
			n, err := strconv.Atoi(v)
			if err != nil || n < least || n > most {
				return "", fmt.Errorf("%s must be a number from %d to %d, got %q", what, least, most, v)
			}
			return strconv.Itoa(n), nil
		}
	}
	asIs := func(v string) (string, error) { return v, nil }
	setting(":legend", "legend", asIs)
	setting(":palette", "palette", asIs)
	setting(":color", "color", func(v string) (string, error) {
		if !hexColor.MatchString(v) {
			return v, nil // a name
		}
		v = strings.ToLower(v)
		if len(v) == 3 {
			v = string([]byte{v[0], v[0], v[1], v[1], v[2], v[2]})
		}
		if len(v) == 6 {
			v = "ff" + v
		}
		return v, nil
	})
	setting(":alpha", "alpha", func(v string) (string, error) {
		if _, err := strconv.ParseUint(v, 16, 8); err != nil || len(v) != 2 {
			return "", fmt.Errorf("alpha must be two hex digits, got %q", v)
		}
		return strings.ToLower(v), nil
	})
	styles := []string{"line", "area", "stack", "vspan"}
	setting(":ls", "ls", oneOf("line style", styles...))
	for _, s := range styles {
		add(":"+s, "TimeSeriesExpr -- StyleExpr", func(m *machine) (bool, error) { return setStyle(m, "ls", s) })
	}
	setting(":lw", "lw", number("line width", 0, 1000))
	setting(":axis", "axis", number("axis", 0, 4))
	setting(":sort", "sort", oneOf("sort", append([]string{"legend"}, statistics...)...))
	setting(":order", "order", oneOf("order", "asc", "desc"))
	setting(":limit", "limit", number("limit", 0, 1<<20))
	setting(":head", "limit", number("limit", 0, 1<<20))
	add(":strip-style", "StyleExpr -- TimeSeriesExpr", func(m *machine) (bool, error) {
		l, ok := m.popLine()
		if ok {
			m.push(l.Expr)
		}
		return ok, nil
	})
}
