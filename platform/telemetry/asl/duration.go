package asl

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// ParseDuration reads "42s", "5m", "3h", "2d", "1w", "1month", "1y" with their long spellings, or ISO 8601 up to days
// such as PT5M or P1DT12H.
func ParseDuration(s string) (time.Duration, error) {
	if strings.HasPrefix(s, "P") {
		return parseISO(s)
	}
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	if digits == 0 || digits == len(s) {
		return 0, fmt.Errorf("invalid duration %s; use a number and a unit such as 5m", s)
	}
	units := map[string]time.Duration{
		"ns": time.Nanosecond, "us": time.Microsecond, "ms": time.Millisecond,
		"s": time.Second, "second": time.Second, "seconds": time.Second,
		"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
		"h": time.Hour, "hour": time.Hour, "hours": time.Hour,
		"d": day, "day": day, "days": day,
		"w": week, "wk": week, "week": week, "weeks": week,
		"month": 30 * day, "months": 30 * day,
		"y": 365 * day, "year": 365 * day, "years": 365 * day,
	}
	unit, ok := units[s[digits:]]
	if !ok {
		return 0, fmt.Errorf("unknown unit %s", s[digits:])
	}
	n, err := strconv.ParseInt(s[:digits], 10, 64)
	if err != nil || n > math.MaxInt64/int64(unit) {
		return 0, fmt.Errorf("duration %s is too long; the longest is 292 years", s)
	}
	return time.Duration(n) * unit, nil
}

var isoDuration = regexp.MustCompile(`^P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d{1,9})?)S)?)?$`)

func parseISO(s string) (time.Duration, error) {
	m := isoDuration.FindStringSubmatch(s)
	if m == nil || s == "P" || strings.HasSuffix(s, "T") {
		return 0, fmt.Errorf("invalid duration %s; use days, hours, minutes and seconds such as P1DT5M42S", s)
	}
	total := 0.0
	for i, unit := range []time.Duration{day, time.Hour, time.Minute, time.Second} {
		if m[i+1] == "" {
			continue
		}
		n, err := strconv.ParseFloat(m[i+1], 64)
		if err != nil {
			return 0, fmt.Errorf("invalid duration %s: %w", s, err)
		}
		total += n * float64(unit)
	}
	if total >= math.MaxInt64 {
		return 0, fmt.Errorf("duration %s is too long; the longest is 292 years", s)
	}
	return time.Duration(math.Round(total)), nil
}

// FormatDuration writes d with the largest unit that divides it, such as 1w or 90s.
func FormatDuration(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{week, "w"}, {day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if d%u.unit == 0 {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.name
		}
	}
	return "PT" + strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "S"
}

// ParseRange reads the start and end of a window. Both may be absolute ("2012-02-01T04:05Z", seconds or milliseconds
// since the epoch) or relative to now, to the epoch or, one of them, to the other: "e-3h", "s+5m", "now-1w".
func ParseRange(start, end string, now time.Time) (s, e time.Time, err error) {
	sRel, eRel := relativeTo(start), relativeTo(end)
	switch {
	case sRel == 's':
		return s, e, errors.New("start time is relative to itself")
	case eRel == 'e':
		return s, e, errors.New("end time is relative to itself")
	case sRel == 'e' && eRel == 's':
		return s, e, errors.New("start and end are both relative")
	case sRel == 'e':
		if e, err = parseTime(end, now, time.Time{}); err == nil {
			s, err = parseTime(start, now, e)
		}
	default:
		if s, err = parseTime(start, now, time.Time{}); err == nil {
			e, err = parseTime(end, now, s)
		}
	}
	if err == nil && e.Before(s) {
		err = errors.New("end time is before start time")
	}
	return s, e, err
}

var relativeTime = regexp.MustCompile(`^([a-z]+|\d+)(?:([+-])(\w[\w.]*))?$`)

// relativeTo returns 's' or 'e' if t is written relative to the start or the end.
func relativeTo(t string) byte {
	if m := relativeTime.FindStringSubmatch(t); m != nil {
		switch m[1] {
		case "s", "start":
			return 's'
		case "e", "end":
			return 'e'
		}
	}
	return 0
}

func parseTime(s string, now, other time.Time) (time.Time, error) {
	if m := relativeTime.FindStringSubmatch(s); m != nil {
		var at time.Time
		switch m[1] {
		case "now":
			at = now
		case "s", "start", "e", "end":
			at = other
		case "epoch":
			at = time.Unix(0, 0)
		default:
			n, err := strconv.ParseInt(m[1], 10, 64)
			if err != nil {
				return at, fmt.Errorf("invalid date %s", s)
			}
			at = sinceEpoch(n)
		}
		if m[2] == "" {
			return at, nil
		}
		d, err := ParseDuration(m[3])
		if m[2] == "-" {
			d = -d
		}
		return at.Add(d), err
	}
	for _, layout := range []string{"2006-01-02", "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02T15:04:05.999"} {
		for _, zone := range []string{"", "Z07:00", "Z0700", "Z07"} {
			if t, err := time.Parse(layout+zone, s); err == nil {
				return t, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("invalid date %s", s)
}

// sinceEpoch guesses the unit of n from its size: seconds, then milliseconds up to the year 2400, then microseconds,
// then nanoseconds.
func sinceEpoch(n int64) time.Time {
	switch year2400 := int64(13569465600); {
	case n <= math.MaxInt32:
		return time.Unix(n, 0)
	case n <= year2400*1000:
		return time.UnixMilli(n)
	case n <= year2400*1000000:
		return time.UnixMicro(n)
	}
	return time.Unix(0, n)
}
