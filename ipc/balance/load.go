package balance

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Headers by which an HTTP callee reports its load.
const (
	HeaderUtilization = "X-Netflix.server.utilization" // "<percent>[, target=<percent>]"
	HeaderLoad        = "Endpoint-Load-Metrics"        // "TEXT name=value,..." or "JSON {...}"
)

// ParseUtilization reads the value of [HeaderUtilization]: how much of what it can do the callee does, over how much of
// that it wants to, which is all if it does not say. Whatever makes no sense is an error and no report.
func ParseUtilization(s string) (load float64, err error) {
	now, rest, _ := strings.Cut(s, ",")
	used, err := percentage(now)
	if err != nil {
		return 0, err
	}
	target := 100.0
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok || !strings.EqualFold(strings.TrimSpace(name), "target") {
			continue // what others may add
		}
		if target, err = percentage(value); err != nil {
			return 0, err
		}
		if target <= 0 {
			return 0, errors.New("the target must be above 0")
		}
	}
	return limit(used / target)
}

func percentage(s string) (float64, error) {
	f, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(s), "%"), 64)
	if err != nil || math.IsNaN(f) || f < 0 || f > 100*maxLoad {
		return 0, fmt.Errorf("%q is no percentage", s)
	}
	return f, nil
}

func limit(load float64) (float64, error) {
	if !(load >= 0 && load <= maxLoad) {
		return 0, fmt.Errorf("a load of %g makes no sense", load)
	}
	return load, nil
}

// Load is what a callee reports in the form of ORCA (Open Request Cost Aggregation), as gRPC's trailers carry it too.
// Parts are of 1; what is not reported is 0.
type Load struct {
	Application float64 // of what the application itself holds to be full
	CPU         float64
	Memory      float64
	RPS         float64 // requests a second
	EPS         float64 // errors a second
}

// Utilization returns the load that counts: the application's if it says so, otherwise the processor's; 0 if neither.
func (l Load) Utilization() float64 {
	if l.Application > 0 {
		return l.Application
	}
	return l.CPU
}

// loadNames are the members of a report, in ORCA's spelling. "cpu" and the like are what those who write by hand use.
var loadNames = map[string]func(*Load) *float64{
	"application_utilization": func(l *Load) *float64 { return &l.Application },
	"applicationUtilization":  func(l *Load) *float64 { return &l.Application },
	"cpu_utilization":         func(l *Load) *float64 { return &l.CPU },
	"cpuUtilization":          func(l *Load) *float64 { return &l.CPU },
	"cpu":                     func(l *Load) *float64 { return &l.CPU },
	"mem_utilization":         func(l *Load) *float64 { return &l.Memory },
	"memUtilization":          func(l *Load) *float64 { return &l.Memory },
	"mem":                     func(l *Load) *float64 { return &l.Memory },
	"rps_fractional":          func(l *Load) *float64 { return &l.RPS },
	"rpsFractional":           func(l *Load) *float64 { return &l.RPS },
	"rps":                     func(l *Load) *float64 { return &l.RPS },
	"eps":                     func(l *Load) *float64 { return &l.EPS },
}

// ParseLoad reads the value of [HeaderLoad]. Members it does not know are passed over; a value below 0 or that is no
// number is an error.
func ParseLoad(s string) (l Load, err error) {
	s = strings.TrimSpace(s)
	form, rest, _ := strings.Cut(s, " ")
	switch strings.ToUpper(form) {
	case "TEXT":
		for part := range strings.SplitSeq(rest, ",") {
			name, value, ok := strings.Cut(part, "=")
			if !ok {
				if strings.TrimSpace(part) == "" {
					continue
				}
				return Load{}, fmt.Errorf("%q is not name=value", part)
			}
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				return Load{}, fmt.Errorf("%q is no number", value)
			}
			if err := l.set(strings.TrimSpace(name), f); err != nil {
				return Load{}, err
			}
		}
		return l, nil
	case "JSON":
		var members map[string]any
		if err := json.Unmarshal([]byte(rest), &members); err != nil {
			return Load{}, fmt.Errorf("the report is not JSON: %w", err)
		}
		for _, name := range slices.Sorted(maps.Keys(members)) {
			if f, ok := members[name].(float64); ok {
				if err := l.set(name, f); err != nil {
					return Load{}, err
				}
			}
		}
		return l, nil
	}
	return Load{}, errors.New("a report begins with TEXT or JSON")
}

func (l *Load) set(name string, f float64) error {
	at := loadNames[name]
	if at == nil {
		return nil
	}
	if !(f >= 0) || math.IsInf(f, 0) {
		return fmt.Errorf("%s must not be below 0 or endless", name)
	}
	*at(l) = f
	return nil
}
