package ipc

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
)

// Settings are one command's. A zero field means the default; a dynamic property of the command overrides the code,
// and the code overrides the property's form for all commands, hystrix.command.default.…. Properties are named as
// Hystrix's, or begin with ipc.command. where Hystrix has none. Those marked static count when the command is first
// named and stay until the process ends. A command named app/part has the properties of app where it has none of its
// own.
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

	// Idempotent says that run functions may be called again after they failed, up to Retries times. All retries of
	// a command come out of one budget. It is not for functions that use the HTTP client, which retries itself.
	Idempotent bool

	// AttemptTimeout bounds each attempt of the HTTP client, so that time is left for another: 0 is none.
	// Property ipc.command.NAME.attemptTimeoutInMilliseconds.
	AttemptTimeout time.Duration

	// All further attempts together, retries and hedges, may within 10 s be at most RetryPercent (20) of an app's calls
	// or, if that is more, RetryPerSecond (10) a second, of which each that was in vain takes five; negative is none.
	// Properties ipc.command.NAME.retryBudget.percent, .retryBudget.perSecond.
	RetryPercent   int
	RetryPerSecond int

	// RetryNested lets a call be tried again also while the request served is a retry itself, so that attempts multiply
	// from hop to hop. Property ipc.command.NAME.retry.nested.
	RetryNested bool

	// Hedge sends a second attempt to another instance, in another zone if there is one, where the first takes longer
	// than HedgeDelay, or than 95 % of the last ones did; what is answered first counts. It is for requests that may be
	// sent twice, and adds at most HedgePercent (2) to the load, within the budget of all further attempts.
	// Properties ipc.command.NAME.hedge.enabled, .hedge.delayInMilliseconds, .hedge.percent.
	Hedge        bool
	HedgeDelay   time.Duration
	HedgePercent int

	// Criticality lowers the importance of requests made by this command; it never raises it.
	Criticality roadbed.Criticality

	// Isolation says what bounds run functions: Semaphore, MaxConcurrent; Thread, a pool that the command may share
	// with others. With Thread, those of [Define] and [Batch] also run on goroutines of their own, which the caller
	// leaves behind at the timeout. HTTP calls are always bounded by MaxConcurrent.
	// Property ….execution.isolation.strategy.
	Isolation Isolation

	// Pool is the pool that a command isolated by threads uses, together with all that name the same: that of its
	// group. Property ….threadPoolKeyOverride.
	Pool string

	// Uninterrupted leaves the run function's context alone when the timeout passes: it ends when the function
	// returns. Property ….execution.isolation.thread.interruptOnTimeout=false.
	Uninterrupted bool

	// InterruptOnCancel lets [Future.Cancel] end the run function's context.
	// Property ….execution.isolation.thread.interruptOnFutureCancel.
	InterruptOnCancel bool

	CacheOff bool // do not use the request's cache; property ….requestCache.enabled=false
	LogOff   bool // keep out of the request's log; property ….requestLog.enabled=false

	// So many calls (1) try at once whether the callee is well again; all must succeed for the breaker to close.
	// At most 100. Property ipc.command.NAME.breaker.trialPermits.
	TrialPermits int

	// The breaker opens also when of at least SlowMinimum calls (20) within 10 s SlowPercent (100) or more took
	// SlowCall or longer; 0 is never. Properties ipc.command.NAME.breaker.slowCallMillis, .slowCallRatePercent,
	// .slowMinimumCalls.
	SlowCall    time.Duration
	SlowPercent int
	SlowMinimum int

	// InstantOpen has the breaker judge at each failure, not only at the end of each health interval.
	// Property ipc.command.NAME.breaker.instantOpen.
	InstantOpen bool

	// EscalatingSleep doubles the sleep window with each trial that fails, up to a minute.
	// Property ipc.command.NAME.breaker.escalatingSleep.
	EscalatingSleep bool

	// PerInstance leaves it to the balancer to avoid the instances that fail, one by one; calls as a whole are never
	// refused. Property ipc.command.NAME.breaker.scope=endpoint.
	PerInstance bool

	// Limit is an adaptive limit on calls in flight, beside MaxConcurrent, which follows what the callee can bear:
	// LimitOff. LimitAIMD lowers it when calls time out or the callee refuses them; see the package limit for the
	// others. Calls beyond it fail with [ErrLimited]. It starts at LimitInitial (20) and stays between LimitMin and
	// LimitMax (AIMD and Gradient2 20 to 200, Vegas 1 to 1000). For AIMD a call that took longer than LimitTimeout (5 s)
	// counts as timed out. Properties ipc.command.NAME.limit (aimd, vegas, gradient2, fixed or off), .limit.initial,
	// .limit.min, .limit.max, .limit.timeoutInMilliseconds.
	Limit                            LimitKind
	LimitInitial, LimitMin, LimitMax int
	LimitTimeout                     time.Duration

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
	forced  bool   // the breaker's state does not matter
	limited bool   // by an adaptive limit
	pool    string // the key of its pool
	limit   int64  // of run functions in flight: MaxConcurrent; none if a pool limits them
	part    int32  // of MaxConcurrent, that each shard may let through
}

// Isolation says on whose goroutine calls run.
type Isolation uint8

// The kinds of isolation.
const (
	Semaphore Isolation = iota
	Thread
)

// String returns SEMAPHORE or THREAD.
func (i Isolation) String() string {
	if i == Thread {
		return "THREAD"
	}
	return "SEMAPHORE"
}

var builtIn = Settings{
	Timeout: time.Second, MaxConcurrent: 200, MaxFallbacks: 10,
	RequestVolume: 20, ErrorPercent: 50, SleepWindow: 5 * time.Second, Retries: 2, RetryPercent: 20, RetryPerSecond: 10, HedgePercent: 2,
	TrialPermits: 1, SlowPercent: 100, SlowMinimum: 20,
	RollingWindow: 10 * time.Second, RollingBuckets: 10, HealthInterval: tickTime,
	PercentileWindow: time.Minute, PercentileBuckets: 6,
}

const (
	maxTimeout  = 24 * time.Hour
	minInterval = 10 * time.Millisecond // of a health bucket
	maxBuckets  = 1000                  // of a window
	maxPermits  = 100

	maxRetryPercent   = 1000
	maxRetryPerSecond = 1_000_000
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
	case s.RetryPercent > maxRetryPercent || s.RetryPerSecond > maxRetryPerSecond:
		return fmt.Errorf("RetryPercent must be at most %d and RetryPerSecond at most %d", maxRetryPercent, maxRetryPerSecond)
	case s.HedgeDelay < 0 || s.HedgeDelay > maxTimeout || s.HedgePercent < 0 || s.HedgePercent > 100:
		return fmt.Errorf("HedgeDelay must be from 0 to %s and HedgePercent from 0 to 100", maxTimeout)
	case s.Criticality > roadbed.Bulk:
		return fmt.Errorf("%v is none of the four", s.Criticality)
	case s.Isolation > Thread:
		return errors.New("use Semaphore or Thread for Isolation")
	case s.Limit > LimitOff || s.LimitTimeout < 0 || s.LimitTimeout > maxLimitTimeout:
		return fmt.Errorf("use one of the kinds that there are for Limit, and from 0 to %s for LimitTimeout", maxLimitTimeout)
	case s.TrialPermits < 0 || s.TrialPermits > maxPermits:
		return fmt.Errorf("TrialPermits must be from 0 to %d", maxPermits)
	case s.SlowCall < 0 || s.SlowCall > maxTimeout || s.SlowPercent < 0 || s.SlowPercent > 100 || s.SlowMinimum < 0:
		return fmt.Errorf("SlowCall must be from 0 to %s, SlowPercent from 0 to 100, and SlowMinimum not negative", maxTimeout)
	case s.RollingWindow < 0 || s.RollingBuckets < 0 || s.HealthInterval < 0 || s.PercentileWindow < 0 || s.PercentileBuckets < 0:
		return errors.New("windows and their buckets must not be negative")
	}
	if err := s.limitError(); err != nil {
		return err
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
	pickInt(&s.HedgePercent, d.HedgePercent)
	pickInt(&s.RetryPercent, d.RetryPercent)
	pickInt(&s.RetryPerSecond, d.RetryPerSecond)
	pickInt(&s.TrialPermits, d.TrialPermits)
	pickInt(&s.SlowPercent, d.SlowPercent)
	pickInt(&s.SlowMinimum, d.SlowMinimum)
	pick(&s.RollingWindow, d.RollingWindow)
	pickInt(&s.RollingBuckets, d.RollingBuckets)
	pick(&s.HealthInterval, d.HealthInterval)
	pick(&s.PercentileWindow, d.PercentileWindow)
	pickInt(&s.PercentileBuckets, d.PercentileBuckets)
	return s
}

// commandKnobs returns all dynamic settings of commands.
func commandKnobs() []knob[Settings] {
	type S = Settings
	h, i := hystrixPrefix, ipcPrefix
	return []knob[S]{
		wordKnob(h, "execution.isolation.strategy", map[string]Isolation{"SEMAPHORE": Semaphore, "THREAD": Thread}, "use SEMAPHORE or THREAD", func(s *S) *Isolation { return &s.Isolation }),
		msKnob(h, "execution.isolation.thread.timeoutInMilliseconds", 1, func(s *S) *time.Duration { return &s.Timeout }),
		{prefix: h, suffix: "execution.timeout.enabled", // after the timeout, which it overrules
			set: func(s *S, text string) error {
				on, err := parseBool(text)
				switch {
				case err == nil && !on:
					s.Timeout = -1
				case err == nil && s.Timeout < 0:
					s.Timeout = 0 // the default
				}
				return err
			},
			zero: func(s *S) bool { return true },
			keep: func(s, from *S) {
				if from.Timeout < 0 {
					s.Timeout = -1
				}
			},
		},
		boolKnob(h, "execution.isolation.thread.interruptOnTimeout", true, func(s *S) *bool { return &s.Uninterrupted }),
		boolKnob(h, "execution.isolation.thread.interruptOnFutureCancel", false, func(s *S) *bool { return &s.InterruptOnCancel }),
		intKnob(h, "execution.isolation.semaphore.maxConcurrentRequests", 1, 1<<20, func(s *S) *int { return &s.MaxConcurrent }),
		intKnob(h, "fallback.isolation.semaphore.maxConcurrentRequests", 1, 1<<20, func(s *S) *int { return &s.MaxFallbacks }),
		boolKnob(h, "fallback.enabled", true, func(s *S) *bool { return &s.FallbackOff }),
		boolKnob(h, "circuitBreaker.enabled", true, func(s *S) *bool { return &s.BreakerOff }),
		boolKnob(h, "circuitBreaker.forceOpen", false, func(s *S) *bool { return &s.ForceOpen }),
		boolKnob(h, "circuitBreaker.forceClosed", false, func(s *S) *bool { return &s.ForceClosed }),
		intKnob(h, "circuitBreaker.requestVolumeThreshold", 1, 1<<30, func(s *S) *int { return &s.RequestVolume }),
		intKnob(h, "circuitBreaker.errorThresholdPercentage", 1, 100, func(s *S) *int { return &s.ErrorPercent }),
		msKnob(h, "circuitBreaker.sleepWindowInMilliseconds", 1, func(s *S) *time.Duration { return &s.SleepWindow }),
		msKnob(h, "metrics.rollingStats.timeInMilliseconds", 10, func(s *S) *time.Duration { return &s.RollingWindow }).asStatic(),
		intKnob(h, "metrics.rollingStats.numBuckets", 1, maxBuckets, func(s *S) *int { return &s.RollingBuckets }).asStatic(),
		msKnob(h, "metrics.healthSnapshot.intervalInMilliseconds", int(minInterval/time.Millisecond), func(s *S) *time.Duration { return &s.HealthInterval }).asStatic(),
		boolKnob(h, "metrics.rollingPercentile.enabled", true, func(s *S) *bool { return &s.PercentilesOff }).asStatic(),
		msKnob(h, "metrics.rollingPercentile.timeInMilliseconds", 10, func(s *S) *time.Duration { return &s.PercentileWindow }).asStatic(),
		intKnob(h, "metrics.rollingPercentile.numBuckets", 1, maxBuckets, func(s *S) *int { return &s.PercentileBuckets }).asStatic(),
		intKnob(h, "metrics.rollingPercentile.bucketSize", 1, 1<<30, func(s *S) *int { return new(int) }), // there is no such limit here
		boolKnob(h, "requestCache.enabled", true, func(s *S) *bool { return &s.CacheOff }),
		boolKnob(h, "requestLog.enabled", true, func(s *S) *bool { return &s.LogOff }),
		{prefix: h, suffix: "threadPoolKeyOverride", own: true,
			set: func(s *S, text string) error {
				if text = strings.TrimSpace(text); text == "" {
					return errors.New("use the name of a pool")
				}
				s.Pool = text
				return nil
			},
			zero: func(s *S) bool { return s.Pool == "" },
			keep: func(s, from *S) { s.Pool = from.Pool },
		},
		noneKnob(i, "retries", maxAttempts-1, func(s *S) *int { return &s.Retries }),
		noneKnob(i, "retryBudget.percent", maxRetryPercent, func(s *S) *int { return &s.RetryPercent }),
		noneKnob(i, "retryBudget.perSecond", maxRetryPerSecond, func(s *S) *int { return &s.RetryPerSecond }),
		boolKnob(i, "hedge.enabled", false, func(s *S) *bool { return &s.Hedge }),
		msKnob(i, "hedge.delayInMilliseconds", 0, func(s *S) *time.Duration { return &s.HedgeDelay }),
		intKnob(i, "hedge.percent", 1, 100, func(s *S) *int { return &s.HedgePercent }),
		boolKnob(i, "retry.nested", false, func(s *S) *bool { return &s.RetryNested }),
		msKnob(i, "attemptTimeoutInMilliseconds", 0, func(s *S) *time.Duration { return &s.AttemptTimeout }),
		intKnob(i, "breaker.trialPermits", 1, maxPermits, func(s *S) *int { return &s.TrialPermits }),
		msKnob(i, "breaker.slowCallMillis", 0, func(s *S) *time.Duration { return &s.SlowCall }),
		intKnob(i, "breaker.slowCallRatePercent", 1, 100, func(s *S) *int { return &s.SlowPercent }),
		intKnob(i, "breaker.slowMinimumCalls", 1, 1<<30, func(s *S) *int { return &s.SlowMinimum }),
		boolKnob(i, "breaker.instantOpen", false, func(s *S) *bool { return &s.InstantOpen }),
		boolKnob(i, "breaker.escalatingSleep", false, func(s *S) *bool { return &s.EscalatingSleep }),
		wordKnob(i, "limit", limitNames, "use aimd, vegas, gradient2, fixed or off", func(s *S) *LimitKind { return &s.Limit }),
		intKnob(i, "limit.initial", 1, maxLimit, func(s *S) *int { return &s.LimitInitial }),
		intKnob(i, "limit.min", 1, maxLimit, func(s *S) *int { return &s.LimitMin }),
		intKnob(i, "limit.max", 1, maxLimit, func(s *S) *int { return &s.LimitMax }),
		msKnob(i, "limit.timeoutInMilliseconds", 1, func(s *S) *time.Duration { return &s.LimitTimeout }),
		wordKnob(i, "breaker.scope", map[string]bool{"COMMAND": false, "ENDPOINT": true}, "use command or endpoint", func(s *S) *bool { return &s.PerInstance }),
	}
}

// resolve works out the settings of the command of that name from code, properties and defaults.
func resolve(name string, code Settings, props properties, all []knob[Settings], before *settings, refuse func(key, text string, err error)) *settings {
	var old *Settings
	if before != nil {
		old = &before.Settings
	}
	out := settings{Settings: turn(name, code, props, all, old, refuse).or(builtIn)}
	if err := out.windows(); err != nil { // each makes sense, but not together
		for i := range all {
			if k := &all[i]; k.static {
				if key, text, ok := k.find(name, props, &code); ok {
					refuse(key, text, err)
				}
				k.keep(&out.Settings, &code)
			}
		}
		out.Settings = out.or(builtIn)
	}
	if out.Group == "" {
		out.Group = name
	}
	out.pool = out.Pool
	if out.pool == "" {
		out.pool = out.Group
	}
	out.limit = int64(out.MaxConcurrent)
	if out.Isolation == Thread {
		out.limit = unlimited
	}
	if err := out.limitError(); err != nil {
		for i := range all {
			if k := &all[i]; k.prefix == ipcPrefix && (k.suffix == "limit" || strings.HasPrefix(k.suffix, "limit.")) {
				if key, text, ok := k.find(name, props, &code); ok {
					refuse(key, text, fmt.Errorf("together with the others: %w", err))
				}
				from := &code
				if old != nil {
					from = old
				}
				k.keep(&out.Settings, from)
			}
		}
	}
	out.limited = out.isLimited()
	out.forced = out.ForceOpen || out.ForceClosed || out.BreakerOff || out.PerInstance
	return &out
}
