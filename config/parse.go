package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The parsers below are those of handles, of [Bind] and of the server's check of a value before it is stored.

// ParseBool reads true, yes, on, 1 and false, no, off, 0 in any letter case.
func ParseBool(s string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "true", "yes", "on", "1":
		return true, nil
	case "false", "no", "off", "0":
		return false, nil
	}
	return false, fmt.Errorf("%q is not true or false", s)
}

// ParseDuration reads "250ms", "1m30s", or a bare number of milliseconds.
func ParseDuration(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		const most = int64(1<<63-1) / int64(time.Millisecond)
		if n > most || n < -most {
			return 0, fmt.Errorf("%q milliseconds are more than a duration holds", s)
		}
		return time.Duration(n) * time.Millisecond, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration; write 250ms, 10s, 1m30s, or a number of milliseconds", s)
	}
	return d, nil
}

// ParseList reads a comma-separated list: items without the blanks around them, empty ones left out.
func ParseList(s string) ([]string, error) {
	out := []string{}
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out, nil
}

// ParseMap reads "a=1,b=2". Of entries with the same key the last one counts.
func ParseMap(s string) (map[string]string, error) {
	out := map[string]string{}
	if strings.TrimSpace(s) == "" {
		return out, nil
	}
	for entry := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(entry, "=")
		if k = strings.TrimSpace(k); !ok || k == "" {
			return nil, fmt.Errorf("%q has an entry %q without a key or =; write a=1,b=2", s, entry)
		}
		out[k] = strings.TrimSpace(v)
	}
	return out, nil
}

// parseInt reads a whole number of so many bits.
func parseInt(s string, bits int) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, bits)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%q is more than %d bits hold", s, bits)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", s)
	}
	return n, nil
}

// parseUint reads a whole number of so many bits that is not negative.
func parseUint(s string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, bits)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%q is more than %d bits hold", s, bits)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number from 0", s)
	}
	return n, nil
}

func parseFloat(s string, bits int) (float64, error) {
	f, err := strconv.ParseFloat(strings.TrimSpace(s), bits)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	return f, nil
}
