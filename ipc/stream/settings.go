package stream

import (
	"encoding/json"
	"time"

	"github.com/roadbed/roadbed/ipc"
)

// appendJSON writes v as one block.
func appendJSON(b []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // what is streamed has a form in JSON
	}
	b = append(b, "data: "...)
	b = append(b, text...)
	return append(b, "\n\n"...)
}

// utilization is what /hystrix/utilization.stream says.
type utilization struct {
	Type     string                 `json:"type"`
	Commands map[string]commandBusy `json:"commands"`
	Pools    map[string]poolBusy    `json:"threadpools"`
}

type commandBusy struct {
	Active int64 `json:"activeCount"`
}

type poolBusy struct {
	Active int `json:"activeCount"`
	Queue  int `json:"queueSize"`
	Core   int `json:"corePoolSize"`
	Size   int `json:"poolSize"`
}

func utilizationOf(s ipc.Stats) utilization {
	u := utilization{"HystrixUtilization", map[string]commandBusy{}, map[string]poolBusy{}}
	for _, c := range s.Commands {
		u.Commands[c.Name] = commandBusy{c.Concurrent}
	}
	for _, p := range s.Pools {
		u.Pools[p.Name] = poolBusy{p.Active, p.Queued, p.Settings.Core, poolSize(&p)}
	}
	return u
}

// allSettings is what /hystrix/config.stream says. Names are Hystrix's.
type allSettings struct {
	Type       string                       `json:"type"`
	Commands   map[string]commandSettings   `json:"commands"`
	Pools      map[string]poolSettings      `json:"threadpools"`
	Collapsers map[string]collapserSettings `json:"collapsers"`
}

type commandSettings struct {
	ThreadPoolKey string            `json:"threadPoolKey"`
	GroupKey      string            `json:"groupKey"`
	Execution     executionSettings `json:"execution"`
	Metrics       metricsSettings   `json:"metrics"`
	Breaker       breakerSettings   `json:"circuitBreaker"`
}

type executionSettings struct {
	IsolationStrategy        string  `json:"isolationStrategy"`
	ThreadPoolKeyOverride    *string `json:"threadPoolKeyOverride"`
	RequestCacheEnabled      bool    `json:"requestCacheEnabled"`
	RequestLogEnabled        bool    `json:"requestLogEnabled"`
	TimeoutEnabled           bool    `json:"timeoutEnabled"`
	FallbackEnabled          bool    `json:"fallbackEnabled"`
	TimeoutInMilliseconds    int64   `json:"timeoutInMilliseconds"`
	SemaphoreSize            int     `json:"semaphoreSize"`
	FallbackSemaphoreSize    int     `json:"fallbackSemaphoreSize"`
	ThreadInterruptOnTimeout bool    `json:"threadInterruptOnTimeout"`
}

type metricsSettings struct {
	HealthBucketSizeInMs               int64 `json:"healthBucketSizeInMs,omitempty"`
	PercentileBucketSizeInMilliseconds int64 `json:"percentileBucketSizeInMilliseconds"`
	PercentileBucketCount              int   `json:"percentileBucketCount"`
	PercentileEnabled                  bool  `json:"percentileEnabled"`
	CounterBucketSizeInMilliseconds    int64 `json:"counterBucketSizeInMilliseconds"`
	CounterBucketCount                 int   `json:"counterBucketCount"`
}

type breakerSettings struct {
	Enabled                  bool  `json:"enabled"`
	IsForcedOpen             bool  `json:"isForcedOpen"`
	IsForcedClosed           bool  `json:"isForcedClosed"` // Hystrix says isForcedOpen here, by mistake
	RequestVolumeThreshold   int   `json:"requestVolumeThreshold"`
	ErrorPercentageThreshold int   `json:"errorPercentageThreshold"`
	SleepInMilliseconds      int64 `json:"sleepInMilliseconds"`
}

type poolSettings struct {
	CoreSize                              int   `json:"coreSize"`
	MaximumSize                           int   `json:"maximumSize"`
	ActualMaximumSize                     int   `json:"actualMaximumSize"`
	MaxQueueSize                          int   `json:"maxQueueSize"`
	QueueRejectionThreshold               int   `json:"queueRejectionThreshold"`
	KeepAliveTimeInMinutes                int64 `json:"keepAliveTimeInMinutes"`
	AllowMaximumSizeToDivergeFromCoreSize bool  `json:"allowMaximumSizeToDivergeFromCoreSize"`
	CounterBucketSizeInMilliseconds       int64 `json:"counterBucketSizeInMilliseconds"`
	CounterBucketCount                    int   `json:"counterBucketCount"`
}

type collapserSettings struct {
	MaxRequestsInBatch       int             `json:"maxRequestsInBatch"`
	TimerDelayInMilliseconds int64           `json:"timerDelayInMilliseconds"`
	RequestCacheEnabled      bool            `json:"requestCacheEnabled"`
	Metrics                  metricsSettings `json:"metrics"`
}

func configOf(s ipc.Stats) allSettings {
	all := allSettings{"HystrixConfig", map[string]commandSettings{}, map[string]poolSettings{}, map[string]collapserSettings{}}
	for _, c := range s.Commands {
		all.Commands[c.Name] = commandSettingsOf(&c)
	}
	for _, p := range s.Pools {
		set := p.Settings
		all.Pools[p.Name] = poolSettings{
			CoreSize: set.Core, MaximumSize: set.Max, ActualMaximumSize: set.ActualMax(), MaxQueueSize: set.MaxQueue, QueueRejectionThreshold: set.QueueLimit,
			KeepAliveTimeInMinutes: int64(set.KeepAlive / time.Minute), AllowMaximumSizeToDivergeFromCoreSize: set.Diverges,
			CounterBucketSizeInMilliseconds: bucket(set.RollingWindow, set.RollingBuckets), CounterBucketCount: set.RollingBuckets,
		}
	}
	for _, c := range s.Collapsers {
		const buckets = 10
		all.Collapsers[c.Name] = collapserSettings{
			MaxRequestsInBatch: maxBatch(&c), TimerDelayInMilliseconds: c.Window.Milliseconds(), RequestCacheEnabled: c.Cache,
			Metrics: metricsSettings{
				PercentileBucketSizeInMilliseconds: bucket(c.RollingWindow, buckets), PercentileBucketCount: buckets, PercentileEnabled: true,
				CounterBucketSizeInMilliseconds: bucket(c.RollingWindow, buckets), CounterBucketCount: buckets,
			},
		}
	}
	return all
}

func commandSettingsOf(c *ipc.CommandStats) commandSettings {
	set := &c.Settings
	out := commandSettings{
		ThreadPoolKey: c.Pool, GroupKey: c.Group,
		Execution: executionSettings{
			IsolationStrategy: set.Isolation.String(), RequestCacheEnabled: !set.CacheOff, RequestLogEnabled: !set.LogOff,
			TimeoutEnabled: set.Timeout > 0, FallbackEnabled: !set.FallbackOff, TimeoutInMilliseconds: max(0, set.Timeout.Milliseconds()),
			SemaphoreSize: set.MaxConcurrent, FallbackSemaphoreSize: set.MaxFallbacks, ThreadInterruptOnTimeout: !set.Uninterrupted,
		},
		Metrics: metricsSettings{
			HealthBucketSizeInMs:               set.HealthInterval.Milliseconds(),
			PercentileBucketSizeInMilliseconds: bucket(set.PercentileWindow, set.PercentileBuckets), PercentileBucketCount: set.PercentileBuckets,
			PercentileEnabled:               !set.PercentilesOff,
			CounterBucketSizeInMilliseconds: bucket(set.RollingWindow, set.RollingBuckets), CounterBucketCount: set.RollingBuckets,
		},
		Breaker: breakerSettings{
			Enabled: !set.BreakerOff, IsForcedOpen: set.ForceOpen, IsForcedClosed: set.ForceClosed, RequestVolumeThreshold: set.RequestVolume,
			ErrorPercentageThreshold: set.ErrorPercent, SleepInMilliseconds: set.SleepWindow.Milliseconds(),
		},
	}
	if set.Pool != "" {
		out.Execution.ThreadPoolKeyOverride = &set.Pool
	}
	return out
}

// bucket returns the length of one of n buckets, in milliseconds.
func bucket(window time.Duration, n int) int64 {
	return (window / time.Duration(max(n, 1))).Milliseconds()
}
