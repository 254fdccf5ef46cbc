package ipc

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc/limit"
)

// ServerSettings are those of a server: how many requests it works on at once, and which it refuses under overload. A
// zero field means the default; each is overridden by the property ipc.server. with the name given, at any time.
type ServerSettings struct {
	// Limit says what moves the limit on requests in flight: LimitVegas. Property limit: vegas, gradient2, aimd, fixed
	// or off.
	Limit LimitKind

	// The limit starts at InitialLimit (20) and stays between MinLimit (1) and MaxLimit (1000); a fixed one is
	// InitialLimit. It holds only while requests take half as long again as usual; else MaxLimit does. While the
	// processor is idle all the same, so that something else than this process is slow, it is at least IdleLimit (100),
	// and ten times what was in flight while requests were not slow.
	// Properties limit.initial, limit.min, limit.max, limit.idle.
	InitialLimit, MinLimit, MaxLimit, IdleLimit int

	// HoldWhileIdle lets the limit hold as strictly while the processor is idle: for a service whose bottleneck is
	// something else of its own, such as a pool of connections. Property limit.holdWhileIdle.
	HoldWhileIdle bool

	// ShedOff treats all requests alike: the limit refuses, importance and load do not matter.
	// Property shed.enabled=false.
	ShedOff bool

	// Load is the greatest of: processor time used of CPUTarget (0.85 of what may be used), requests in flight of the
	// limit, and the time that goroutines wait for a processor of DelayTarget (20 ms), unless it is other processes that
	// keep the processors busy. From ShedStart (0.8) on the least important requests are refused, and at ShedMax (1.2)
	// nearly all.
	// Properties shed.start, shed.max, shed.cpuTarget, shed.delayTargetInMilliseconds.
	ShedStart, ShedMax, CPUTarget float64
	DelayTarget                   time.Duration

	// A refused request is answered ShedStatus (503; 429 is the other choice), with RetryAfter (1 s, whole seconds).
	// Properties shed.status, shed.retryAfterInSeconds.
	ShedStatus int
	RetryAfter time.Duration

	// Partitions give callers or criticalities shares of the limit that nobody else can take from them, as
	// "edge=0.5,api=0.3"; the shares are at most 1 together. Beyond the limit only those are let in whose share is not
	// used up. They are refused after RejectDelay (0, at most a minute), which slows them down.
	// Properties partition.by (off, caller or criticality), partition.shares, partition.rejectDelayInMilliseconds.
	PartitionBy PartitionKind
	Partitions  string
	RejectDelay time.Duration

	// QueueSize requests (0: none) beyond the limit wait for a place up to QueueWait (1 s), the latest first.
	// Properties queue.size, queue.waitInMilliseconds.
	QueueSize int
	QueueWait time.Duration

	// ReportOff leaves the headers that tell callers how busy this server is out of responses.
	// Property report=false.
	ReportOff bool
}

// LimitKind says what moves a limit.
type LimitKind uint8

// The kinds of limit; see the package limit. The default is LimitVegas for servers, LimitOff for commands.
const (
	LimitDefault LimitKind = iota
	LimitVegas
	LimitGradient2
	LimitAIMD
	LimitFixed
	LimitOff
)

// PartitionKind says what requests are told apart by.
type PartitionKind uint8

// The kinds of partition.
const (
	PartitionOff PartitionKind = iota
	PartitionByCaller
	PartitionByCriticality
)

var (
	limitNames     = map[string]LimitKind{"VEGAS": LimitVegas, "GRADIENT2": LimitGradient2, "AIMD": LimitAIMD, "FIXED": LimitFixed, "OFF": LimitOff}
	partitionNames = map[string]PartitionKind{"OFF": PartitionOff, "CALLER": PartitionByCaller, "CRITICALITY": PartitionByCriticality}
)

var builtInServer = ServerSettings{
	Limit:        LimitVegas,
	InitialLimit: 20, MinLimit: 1, MaxLimit: 1000, IdleLimit: 100,
	ShedStart: 0.8, ShedMax: 1.2, CPUTarget: 0.85, DelayTarget: 20 * time.Millisecond, ShedStatus: 503, RetryAfter: time.Second,
	QueueWait: time.Second,
}

const (
	serverPrefix = "ipc.server."
	maxLimit     = 1 << 20
)

// or returns s with zero fields taken from d. Bounds of the limit that are given alone move the others with them.
func (s ServerSettings) or(d ServerSettings) ServerSettings {
	pickInt := func(at *int, v int) {
		if *at == 0 {
			*at = v
		}
	}
	pickFloat := func(at *float64, v float64) {
		if *at == 0 {
			*at = v
		}
	}
	pickTime := func(at *time.Duration, v time.Duration) {
		if *at == 0 {
			*at = v
		}
	}
	if s.Limit == LimitDefault {
		s.Limit = d.Limit
	}
	if s.InitialLimit == 0 {
		s.InitialLimit = d.InitialLimit
		if s.MaxLimit > 0 {
			s.InitialLimit = min(s.InitialLimit, s.MaxLimit)
		}
		s.InitialLimit = max(s.InitialLimit, s.MinLimit)
	}
	pickInt(&s.MaxLimit, max(d.MaxLimit, s.InitialLimit))
	pickInt(&s.MinLimit, d.MinLimit)
	pickInt(&s.IdleLimit, min(d.IdleLimit, s.MaxLimit))
	pickInt(&s.ShedStatus, d.ShedStatus)
	pickFloat(&s.ShedStart, d.ShedStart)
	pickFloat(&s.ShedMax, d.ShedMax)
	pickFloat(&s.CPUTarget, d.CPUTarget)
	pickTime(&s.DelayTarget, d.DelayTarget)
	pickTime(&s.RetryAfter, d.RetryAfter)
	pickTime(&s.QueueWait, d.QueueWait)
	return s
}

// validate reports what makes no sense in complete settings.
func (s ServerSettings) validate() error {
	within := func(v, lo, hi float64) bool { return v >= lo && v <= hi } // false for NaN
	switch {
	case s.Limit > LimitOff || s.PartitionBy > PartitionByCriticality:
		return errors.New("use one of the kinds that there are for Limit and for PartitionBy")
	case s.MinLimit < 1 || s.MinLimit > s.InitialLimit || s.InitialLimit > s.MaxLimit || s.MaxLimit > maxLimit:
		return fmt.Errorf("a limit from %d, at least %d and at most %d, makes no sense; use 1 <= min <= initial <= max <= %d", s.InitialLimit, s.MinLimit, s.MaxLimit, maxLimit)
	case s.IdleLimit < 1 || s.IdleLimit > s.MaxLimit:
		return fmt.Errorf("a limit of %d while idle makes no sense; use 1 to the maximum, %d", s.IdleLimit, s.MaxLimit)
	case !within(s.ShedStart, 0.1, 10) || !within(s.ShedMax, 0.1, 10) || s.ShedMax <= s.ShedStart:
		return fmt.Errorf("shedding from a load of %v to %v makes no sense; use 0.1 to 10, and more for the second", s.ShedStart, s.ShedMax)
	case !within(s.CPUTarget, 0.05, 1):
		return fmt.Errorf("a processor target of %v makes no sense; use 0.05 to 1", s.CPUTarget)
	case s.DelayTarget < time.Millisecond || s.DelayTarget > time.Minute:
		return fmt.Errorf("a delay target of %s makes no sense; use 1ms to 1m", s.DelayTarget)
	case s.ShedStatus != 503 && s.ShedStatus != 429:
		return fmt.Errorf("refusing with status %d makes no sense; use 503 or 429", s.ShedStatus)
	case s.RetryAfter < time.Second || s.RetryAfter > time.Hour || s.RetryAfter%time.Second != 0:
		return fmt.Errorf("asking callers to wait %s makes no sense; use whole seconds up to an hour", s.RetryAfter)
	case s.RejectDelay < 0 || s.RejectDelay > time.Minute:
		return fmt.Errorf("refusing after %s makes no sense; use 0 to 1m", s.RejectDelay)
	case s.QueueSize < 0 || s.QueueSize > 1<<16 || s.QueueWait < time.Millisecond || s.QueueWait > time.Minute:
		return fmt.Errorf("a queue of %d that wait at most %s makes no sense; use 0 to %d, and 1ms to 1m", s.QueueSize, s.QueueWait, 1<<16)
	}
	_, err := s.limiter()
	return err
}

// limiter returns what the settings say of the limiter.
func (s ServerSettings) limiter() (c limit.Config, err error) {
	switch s.Limit {
	case LimitVegas:
		c.Algorithm, err = limit.NewVegas(limit.VegasConfig{Initial: s.InitialLimit, Min: s.MinLimit, Max: s.MaxLimit})
	case LimitGradient2:
		c.Algorithm, err = limit.NewGradient2(limit.Gradient2Config{Initial: s.InitialLimit, Min: s.MinLimit, Max: s.MaxLimit})
	case LimitAIMD:
		c.Algorithm, err = limit.NewAIMD(limit.AIMDConfig{Initial: s.InitialLimit, Min: s.MinLimit, Max: s.MaxLimit})
	case LimitFixed:
		c.Algorithm = limit.Fixed(s.InitialLimit)
	case LimitOff:
		c.Algorithm = limit.Fixed(math.MaxInt32)
	}
	if err != nil {
		return c, err
	}
	if s.PartitionBy != PartitionOff {
		c.Partitions, err = s.shares()
	}
	if err == nil {
		_, err = limit.New(c)
	}
	return c, err
}

// shares reads Partitions.
func (s ServerSettings) shares() (list []limit.Partition, err error) {
	for part := range strings.SplitSeq(s.Partitions, ",") {
		name, text, ok := strings.Cut(strings.TrimSpace(part), "=")
		share, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if name = strings.TrimSpace(name); !ok || err != nil || name == "" {
			return nil, fmt.Errorf("%q is no share; use name=share, with commas between, as in edge=0.5,api=0.3", part)
		}
		if s.PartitionBy == PartitionByCriticality {
			c, err := roadbed.ParseCriticality(name)
			if err != nil {
				return nil, err
			}
			name = c.String()
		}
		list = append(list, limit.Partition{Name: name, Share: share, Delay: s.RejectDelay})
	}
	return list, nil
}

// serverKnobs returns the properties of servers.
func serverKnobs() []knob[ServerSettings] {
	type S = ServerSettings
	const p = "ipc."
	all := []knob[S]{
		wordKnob(p, "limit", limitNames, "use vegas, gradient2, aimd, fixed or off", func(s *S) *LimitKind { return &s.Limit }),
		intKnob(p, "limit.initial", 1, maxLimit, func(s *S) *int { return &s.InitialLimit }),
		intKnob(p, "limit.min", 1, maxLimit, func(s *S) *int { return &s.MinLimit }),
		intKnob(p, "limit.max", 1, maxLimit, func(s *S) *int { return &s.MaxLimit }),
		intKnob(p, "limit.idle", 1, maxLimit, func(s *S) *int { return &s.IdleLimit }),
		boolKnob(p, "limit.holdWhileIdle", false, func(s *S) *bool { return &s.HoldWhileIdle }),
		boolKnob(p, "shed.enabled", true, func(s *S) *bool { return &s.ShedOff }),
		floatKnob(p, "shed.start", 0.1, 10, func(s *S) *float64 { return &s.ShedStart }),
		floatKnob(p, "shed.max", 0.1, 10, func(s *S) *float64 { return &s.ShedMax }),
		floatKnob(p, "shed.cpuTarget", 0.05, 1, func(s *S) *float64 { return &s.CPUTarget }),
		msKnob(p, "shed.delayTargetInMilliseconds", 1, func(s *S) *time.Duration { return &s.DelayTarget }),
		wordKnob(p, "shed.status", map[string]int{"503": 503, "429": 429}, "use 503 or 429", func(s *S) *int { return &s.ShedStatus }),
		secondsKnob(p, "shed.retryAfterInSeconds", func(s *S) *time.Duration { return &s.RetryAfter }),
		wordKnob(p, "partition.by", partitionNames, "use off, caller or criticality", func(s *S) *PartitionKind { return &s.PartitionBy }),
		{prefix: p, suffix: "partition.shares",
			set:  func(s *S, text string) error { s.Partitions = text; return nil }, // what it means depends on partition.by
			zero: func(s *S) bool { return s.Partitions == "" },
			keep: func(s, from *S) { s.Partitions = from.Partitions },
		},
		msKnob(p, "partition.rejectDelayInMilliseconds", 0, func(s *S) *time.Duration { return &s.RejectDelay }),
		intKnob(p, "queue.size", 0, 1<<16, func(s *S) *int { return &s.QueueSize }),
		msKnob(p, "queue.waitInMilliseconds", 1, func(s *S) *time.Duration { return &s.QueueWait }),
		boolKnob(p, "report", true, func(s *S) *bool { return &s.ReportOff }),
	}
	for i := range all {
		all[i].own = true
	}
	return all
}

func floatKnob[S comparable](prefix, suffix string, lo, hi float64, at func(*S) *float64) knob[S] {
	return knob[S]{prefix: prefix, suffix: suffix,
		set: func(s *S, text string) error {
			v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil || !(v >= lo && v <= hi) {
				return fmt.Errorf("use a number from %v to %v", lo, hi)
			}
			*at(s) = v
			return nil
		},
		zero: func(s *S) bool { return *at(s) == 0 },
		keep: func(s, from *S) { *at(s) = *at(from) },
	}
}

func secondsKnob[S comparable](prefix, suffix string, at func(*S) *time.Duration) knob[S] {
	n := 0
	k := intKnob(prefix, suffix, 1, 3600, func(*S) *int { return &n })
	return knob[S]{prefix: prefix, suffix: suffix,
		set: func(s *S, text string) error {
			err := k.set(s, text)
			if err == nil {
				*at(s) = time.Duration(n) * time.Second
			}
			return err
		},
		zero: func(s *S) bool { return *at(s) == 0 },
		keep: func(s, from *S) { *at(s) = *at(from) },
	}
}

// resolveServer works out the settings of a server from code and properties. Properties that make no sense, alone or
// together, are told to refuse and leave what was in force; before is nil at first. The code's settings make sense.
func resolveServer(code ServerSettings, props properties, all []knob[ServerSettings], before *ServerSettings, refuse func(key, text string, err error)) ServerSettings {
	known := map[string]bool{}
	for i := range all {
		known[serverPrefix+all[i].suffix] = true
	}
	for key, text := range props {
		if strings.HasPrefix(key, serverPrefix) && !known[key] {
			refuse(key, text, errors.New("no setting of servers has this name; docs/calls.md lists them"))
		}
	}
	out := turn("server", code, props, all, before, refuse)
	full := out.or(builtInServer)
	err := full.validate()
	if err == nil {
		return full
	}
	for key, text := range props {
		if known[key] {
			refuse(key, text, fmt.Errorf("together with the others: %w", err))
		}
	}
	if before != nil {
		return *before
	}
	return code.or(builtInServer)
}
