package ipc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
)

// Settings are one command's. A zero field means the default; a dynamic property of the command overrides the code,
// and the code overrides the property's form for all commands, hystrix.command.default.…. Properties are named as
// Hystrix's, or begin with ipc.command. where Hystrix has none. Those marked static count when the command is first
// named and stay until the process ends.
type Settings struct {
	// Timeout bounds the whole call with all its retries: 1 s; negative is none. The caller's deadline bounds it too.
	// Property hystrix.command.NAME.execution.isolation.thread.timeoutInMilliseconds, and
	// ….execution.timeout.enabled=false for none.
	Timeout time.Duration

	// MaxConcurrent is how many calls may be in flight, those included whose response body is still read: 200.
	// Property ….execution.isolation.semaphore.maxConcurrentRequests.
	MaxConcurrent int

	// MaxFallbacks is how many fallbacks may run at once: 10.
	// Property ….fallback.isolation.semaphore.maxConcurrentRequests.
	MaxFallbacks int

	// The breaker opens when at least RequestVolume calls (20) ended within 10 s and ErrorPercent (50) or more of
	// them failed. After SleepWindow (5 s) one call tries whether the callee is well again.
	// Properties ….circuitBreaker.requestVolumeThreshold, .errorThresholdPercentage, .sleepWindowInMilliseconds.
	RequestVolume int
	ErrorPercent  int
	SleepWindow   time.Duration

	ForceOpen   bool // refuse every call; property ….circuitBreaker.forceOpen
	ForceClosed bool // never refuse; property ….circuitBreaker.forceClosed
	BreakerOff  bool // never refuse; property ….circuitBreaker.enabled=false
	FallbackOff bool // property ….fallback.enabled=false

	// Retries is how often the HTTP client tries again after an attempt that may have reached the callee: 2; negative
	// is never. Attempts that provably did not reach it do not count. Property ipc.command.NAME.retries.
	Retries int

	// AttemptTimeout bounds each attempt of the HTTP client, so that time is left for another: 0 is none.
	// Property ipc.command.NAME.attemptTimeoutInMilliseconds.
	AttemptTimeout time.Duration

	// Criticality lowers the importance of requests made by this command; it never raises it.
	Criticality roadbed.Criticality

	// Group is the name under which dashboards show commands together: the command's own name.
	Group string

	// What dashboards show is of the last RollingWindow (10 s) in RollingBuckets (10); the breaker judges the same
	// time in buckets of HealthInterval (500 ms, at least 10 ms), and moves at their ends. All static.
	// Properties ….metrics.rollingStats.timeInMilliseconds, .rollingStats.numBuckets, .healthSnapshot.intervalInMilliseconds.
	RollingWindow  time.Duration
	RollingBuckets int
	HealthInterval time.Duration

	// Latencies are of the last PercentileWindow (60 s) in PercentileBuckets (6), or not shown. All static.
	// Properties ….metrics.rollingPercentile.timeInMilliseconds, .numBuckets, .enabled; .bucketSize is without effect.
	PercentileWindow  time.Duration
	PercentileBuckets int
	PercentilesOff    bool
}

// settings are Settings with every default filled in.
type settings struct {
	Settings
	forced bool // the breaker's state does not matter
}

var builtIn = Settings{
	Timeout: time.Second, MaxConcurrent: 200, MaxFallbacks: 10,
	RequestVolume: 20, ErrorPercent: 50, SleepWindow: 5 * time.Second, Retries: 2,
	RollingWindow: 10 * time.Second, RollingBuckets: 10, HealthInterval: tickTime,
	PercentileWindow: time.Minute, PercentileBuckets: 6,
}

const (
	maxTimeout  = 24 * time.Hour
	minInterval = 10 * time.Millisecond // of a health bucket
	maxBuckets  = 1000                  // of a window
)

// validate reports the first field that makes no sense.
func (s Settings) validate() error {
	switch {
	case s.Timeout > maxTimeout || s.AttemptTimeout < 0 || s.AttemptTimeout > maxTimeout || s.SleepWindow < 0 || s.SleepWindow > maxTimeout:
		return fmt.Errorf("times must be from 0 to %s", maxTimeout)
	case s.MaxConcurrent < 0 || s.MaxFallbacks < 0 || s.RequestVolume < 0:
		return errors.New("MaxConcurrent, MaxFallbacks and RequestVolume must not be negative")
	case s.ErrorPercent < 0 || s.ErrorPercent > 100:
		return errors.New("ErrorPercent must be from 0 to 100")
	case s.Retries > maxAttempts-1:
		return fmt.Errorf("more than %d Retries only make an outage worse", maxAttempts-1)
	case s.Criticality > roadbed.Bulk:
		return fmt.Errorf("%v is none of the four", s.Criticality)
	case s.RollingWindow < 0 || s.RollingBuckets < 0 || s.HealthInterval < 0 || s.PercentileWindow < 0 || s.PercentileBuckets < 0:
		return errors.New("windows and their buckets must not be negative")
	}
	return s.or(builtIn).windows()
}

// windows reports windows that cannot be divided as they should be.
func (s Settings) windows() error {
	switch {
	case s.RollingWindow > maxTimeout || s.PercentileWindow > maxTimeout:
		return fmt.Errorf("windows must not be longer than %s", maxTimeout)
	case s.RollingBuckets > maxBuckets || s.RollingWindow%time.Duration(s.RollingBuckets) != 0:
		return fmt.Errorf("the rolling window of %s must divide evenly into its %d buckets, at most %d", s.RollingWindow, s.RollingBuckets, maxBuckets)
	case s.HealthInterval < minInterval || s.RollingWindow%s.HealthInterval != 0 || s.RollingWindow/s.HealthInterval > maxBuckets:
		return fmt.Errorf("the rolling window of %s must divide evenly into health intervals of %s, at least %s and at most %d of them", s.RollingWindow, s.HealthInterval, minInterval, maxBuckets)
	case s.PercentileBuckets > maxBuckets || s.PercentileWindow%time.Duration(s.PercentileBuckets) != 0:
		return fmt.Errorf("the percentile window of %s must divide evenly into its %d buckets, at most %d", s.PercentileWindow, s.PercentileBuckets, maxBuckets)
	}
	return nil
}

// keepStatic takes the static settings of o.
func (s *Settings) keepStatic(o *Settings) {
	s.RollingWindow, s.RollingBuckets, s.HealthInterval = o.RollingWindow, o.RollingBuckets, o.HealthInterval
	s.PercentileWindow, s.PercentileBuckets, s.PercentilesOff = o.PercentileWindow, o.PercentileBuckets, o.PercentilesOff
}

// or returns s with the zero fields of numbers taken from d.
func (s Settings) or(d Settings) Settings {
	pick := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	pickInt := func(p *int, d int) {
		if *p == 0 {
			*p = d
		}
	}
	pick(&s.Timeout, d.Timeout)
	pick(&s.SleepWindow, d.SleepWindow)
	pick(&s.AttemptTimeout, d.AttemptTimeout)
	pickInt(&s.MaxConcurrent, d.MaxConcurrent)
	pickInt(&s.MaxFallbacks, d.MaxFallbacks)
	pickInt(&s.RequestVolume, d.RequestVolume)
	pickInt(&s.ErrorPercent, d.ErrorPercent)
	pickInt(&s.Retries, d.Retries)
	pick(&s.RollingWindow, d.RollingWindow)
	pickInt(&s.RollingBuckets, d.RollingBuckets)
	pick(&s.HealthInterval, d.HealthInterval)
	pick(&s.PercentileWindow, d.PercentileWindow)
	pickInt(&s.PercentileBuckets, d.PercentileBuckets)
	return s
}

const (
	hystrixPrefix = "hystrix.command."
	ipcPrefix     = "ipc.command."
)

// properties are all keys under the two prefixes, with raw values. A map is never altered once stored.
type properties map[string]string

// knob is one dynamic setting.
type knob struct {
	prefix, suffix string
	set            func(s *Settings, text string) error
	zero           func(s *Settings) bool // reports whether the code left it to the default
	keep           func(s *Settings, from *Settings)
}

func intKnob(prefix, suffix string, lo, hi int, at func(*Settings) *int) knob {
	return knob{prefix, suffix,
		func(s *Settings, text string) error {
			n, err := parseRange(text, lo, hi)
			if err == nil {
				*at(s) = n
			}
			return err
		},
		func(s *Settings) bool { return *at(s) == 0 },
		func(s, from *Settings) { *at(s) = *at(from) },
	}
}

func msKnob(prefix, suffix string, lo int, at func(*Settings) *time.Duration) knob {
	return knob{prefix, suffix,
		func(s *Settings, text string) error {
			n, err := parseRange(text, lo, int(maxTimeout/time.Millisecond))
			if err == nil {
				*at(s) = time.Duration(n) * time.Millisecond
			}
			return err
		},
		func(s *Settings) bool { return *at(s) == 0 },
		func(s, from *Settings) { *at(s) = *at(from) },
	}
}

// boolKnob reads true and false; inverse is for properties that enable what the field disables.
func boolKnob(prefix, suffix string, inverse bool, at func(*Settings) *bool) knob {
	return knob{prefix, suffix,
		func(s *Settings, text string) error {
			switch strings.ToLower(strings.TrimSpace(text)) {
			case "true":
				*at(s) = !inverse
			case "false":
				*at(s) = inverse
			default:
				return errors.New("use true or false")
			}
			return nil
		},
		func(s *Settings) bool { return !*at(s) },
		func(s, from *Settings) { *at(s) = *at(from) },
	}
}

func parseRange(text string, lo, hi int) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n < lo || n > hi {
		return 0, fmt.Errorf("use a whole number from %d to %d", lo, hi)
	}
	return n, nil
}

// knobs returns all dynamic settings. execution.timeout.enabled comes after the timeout, which it overrules.
func knobs() []knob {
	return []knob{
		msKnob(hystrixPrefix, "execution.isolation.thread.timeoutInMilliseconds", 1, func(s *Settings) *time.Duration { return &s.Timeout }),
		{hystrixPrefix, "execution.timeout.enabled",
			func(s *Settings, text string) error {
				off := false
				err := boolKnob("", "", true, func(*Settings) *bool { return &off }).set(s, text)
				if off {
					s.Timeout = -1
				}
				return err
			},
			func(s *Settings) bool { return true },
			func(s, from *Settings) {
				if from.Timeout < 0 {
					s.Timeout = -1
				}
			},
		},
		intKnob(hystrixPrefix, "execution.isolation.semaphore.maxConcurrentRequests", 1, 1<<20, func(s *Settings) *int { return &s.MaxConcurrent }),
		intKnob(hystrixPrefix, "fallback.isolation.semaphore.maxConcurrentRequests", 1, 1<<20, func(s *Settings) *int { return &s.MaxFallbacks }),
		boolKnob(hystrixPrefix, "fallback.enabled", true, func(s *Settings) *bool { return &s.FallbackOff }),
		boolKnob(hystrixPrefix, "circuitBreaker.enabled", true, func(s *Settings) *bool { return &s.BreakerOff }),
		boolKnob(hystrixPrefix, "circuitBreaker.forceOpen", false, func(s *Settings) *bool { return &s.ForceOpen }),
		boolKnob(hystrixPrefix, "circuitBreaker.forceClosed", false, func(s *Settings) *bool { return &s.ForceClosed }),
		intKnob(hystrixPrefix, "circuitBreaker.requestVolumeThreshold", 1, 1<<30, func(s *Settings) *int { return &s.RequestVolume }),
		intKnob(hystrixPrefix, "circuitBreaker.errorThresholdPercentage", 1, 100, func(s *Settings) *int { return &s.ErrorPercent }),
		msKnob(hystrixPrefix, "circuitBreaker.sleepWindowInMilliseconds", 1, func(s *Settings) *time.Duration { return &s.SleepWindow }),
		{ipcPrefix, "retries",
			func(s *Settings, text string) error {
				n, err := parseRange(text, 0, maxAttempts-1)
				if err == nil {
					if s.Retries = n; n == 0 {
						s.Retries = -1
					}
				}
				return err
			},
			func(s *Settings) bool { return s.Retries == 0 },
			func(s, from *Settings) { s.Retries = from.Retries },
		},
		msKnob(ipcPrefix, "attemptTimeoutInMilliseconds", 0, func(s *Settings) *time.Duration { return &s.AttemptTimeout }),
	}
}

// resolve works out the settings of the command of that name from code, properties and defaults. A property that
// makes no sense is told to refuse and leaves what was in force before; before may be nil.
func resolve(name string, code Settings, props properties, all []knob, before *settings, refuse func(key, text string, err error)) *settings {
	out := settings{Settings: code}
	old := builtIn
	if before != nil {
		old = before.Settings
	}
	for _, k := range all {
		for _, level := range [...]string{name, "default"} {
			key := k.prefix + level + "." + k.suffix
			text, ok := props[key]
			if !ok {
				continue
			}
			if level == "default" && !k.zero(&code) {
				break // the code knows better than the default of all commands
			}
			if err := k.set(&out.Settings, text); err != nil {
				refuse(key, text, err)
				k.keep(&out.Settings, &old)
			}
			break
		}
	}
	out.Settings = out.Settings.or(builtIn)
	if out.Group == "" {
		out.Group = name
	}
	if before != nil {
		out.keepStatic(&before.Settings)
	}
	out.forced = out.ForceOpen || out.ForceClosed || out.BreakerOff
	return &out
}
