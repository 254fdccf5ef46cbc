package stream

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/ipc"
)

// object is a JSON object that is written from start to end.
type object []byte

func (o *object) begin(kind, name string, now time.Time) {
	*o = append(*o, `data: {"type":"`...)
	*o = append(*o, kind...)
	*o = append(*o, `","name":`...)
	o.quote(name)
	if kind != "HystrixCommand" {
		o.number("currentTime", now.UnixMilli())
	}
}

func (o *object) end() { *o = append(*o, "}\n\n"...) }

// key writes a key, which is plain.
func (o *object) key(key string) {
	*o = append(*o, ',', '"')
	*o = append(*o, key...)
	*o = append(*o, '"', ':')
}

func (o *object) number(key string, n int64) {
	o.key(key)
	*o = strconv.AppendInt(*o, n, 10)
}

func (o *object) millis(key string, d time.Duration) { o.number(key, millis(d)) }

// millis rounds, and a time that is none is 0.
func millis(d time.Duration) int64 { return max(0, d.Round(time.Millisecond).Milliseconds()) }

func (o *object) bool(key string, v bool) {
	o.key(key)
	*o = strconv.AppendBool(*o, v)
}

func (o *object) text(key, v string) {
	o.key(key)
	o.quote(v)
}

// quote writes a name. The dashboard's page cannot tell a backslash from its own escapes.
func (o *object) quote(s string) {
	plain := true
	for i := range len(s) {
		plain = plain && s[i] >= ' ' && s[i] < 0x7f && s[i] != '"' && s[i] != '\\'
	}
	if plain {
		*o = append(*o, '"')
		*o = append(*o, s...)
		*o = append(*o, '"')
		return
	}
	b, err := json.Marshal(strings.ReplaceAll(s, `\`, "/"))
	if err != nil {
		panic(err) // a string always has a form in JSON
	}
	*o = append(*o, b...)
}

// latency writes a mean and percentiles, in whole milliseconds.
func (o *object) latency(meanKey, key string, l *ipc.Latency) {
	o.millis(meanKey, l.Mean)
	o.key(key)
	*o = append(*o, '{')
	for i, p := range ipc.Percentiles {
		o.part(i == 0, p, millis(l.Percentiles[i]))
	}
	*o = append(*o, '}')
}

// part writes one percentile.
func (o *object) part(first bool, p float64, n int64) {
	if !first {
		*o = append(*o, ',')
	}
	*o = append(*o, '"')
	*o = strconv.AppendFloat(*o, p, 'f', -1, 64)
	*o = append(*o, '"', ':')
	*o = strconv.AppendInt(*o, n, 10)
}

// appendStats writes a block for each command, pool and collapser. Its cost is BenchmarkTick's.
func appendStats(b []byte, s ipc.Stats, now time.Time) []byte {
	o := object(b)
	for i := range s.Commands {
		o.command(&s.Commands[i], now)
	}
	for i := range s.Pools {
		if s.Pools[i].Completed > 0 { // as Hystrix has it
			o.pool(&s.Pools[i], now)
		}
	}
	for i := range s.Collapsers {
		o.collapser(&s.Collapsers[i], now)
	}
	return o
}

// command writes the fields in Hystrix's order.
func (o *object) command(c *ipc.CommandStats, now time.Time) {
	n, set := &c.Counts, &c.Settings
	o.begin("HystrixCommand", c.Name, now)
	o.text("group", c.Group)
	o.number("currentTime", now.UnixMilli())
	o.bool("isCircuitBreakerOpen", c.BreakerOpen)
	o.number("errorPercentage", int64(c.ErrorPercent))
	o.number("errorCount", int64(c.Errors))
	o.number("requestCount", int64(c.Requests))
	o.number("rollingCountBadRequests", int64(n.BadRequest))
	o.number("rollingCountCollapsedRequests", int64(n.Collapsed))
	o.number("rollingCountEmit", 0)
	o.number("rollingCountExceptionsThrown", int64(n.ExceptionsThrown))
	o.number("rollingCountFailure", int64(n.Failure))
	o.number("rollingCountFallbackEmit", 0)
	o.number("rollingCountFallbackFailure", int64(n.FallbackFailure))
	o.number("rollingCountFallbackMissing", int64(n.FallbackMissing))
	o.number("rollingCountFallbackRejection", int64(n.FallbackRejection))
	o.number("rollingCountFallbackSuccess", int64(n.FallbackSuccess))
	o.number("rollingCountResponsesFromCache", int64(n.ResponsesFromCache))
	o.number("rollingCountSemaphoreRejected", int64(n.SemaphoreRejected))
	o.number("rollingCountShortCircuited", int64(n.ShortCircuited))
	o.number("rollingCountSuccess", int64(n.Success))
	o.number("rollingCountThreadPoolRejected", int64(n.PoolRejected))
	o.number("rollingCountTimeout", int64(n.Timeout))
	o.number("currentConcurrentExecutionCount", c.Concurrent)
	o.number("rollingMaxConcurrentExecutionCount", c.MaxConcurrent)
	o.latency("latencyExecute_mean", "latencyExecute", &c.Execute)
	o.latency("latencyTotal_mean", "latencyTotal", &c.Total)
	o.number("propertyValue_circuitBreakerRequestVolumeThreshold", int64(set.RequestVolume))
	o.millis("propertyValue_circuitBreakerSleepWindowInMilliseconds", set.SleepWindow)
	o.number("propertyValue_circuitBreakerErrorThresholdPercentage", int64(set.ErrorPercent))
	o.bool("propertyValue_circuitBreakerForceOpen", set.ForceOpen)
	o.bool("propertyValue_circuitBreakerForceClosed", set.ForceClosed)
	o.bool("propertyValue_circuitBreakerEnabled", !set.BreakerOff)
	o.text("propertyValue_executionIsolationStrategy", set.Isolation.String())
	o.millis("propertyValue_executionIsolationThreadTimeoutInMilliseconds", set.Timeout)
	o.millis("propertyValue_executionTimeoutInMilliseconds", set.Timeout)
	o.bool("propertyValue_executionIsolationThreadInterruptOnTimeout", !set.Uninterrupted)
	if set.Pool == "" {
		o.key("propertyValue_executionIsolationThreadPoolKeyOverride")
		*o = append(*o, "null"...)
	} else {
		o.text("propertyValue_executionIsolationThreadPoolKeyOverride", set.Pool)
	}
	o.number("propertyValue_executionIsolationSemaphoreMaxConcurrentRequests", int64(set.MaxConcurrent))
	o.number("propertyValue_fallbackIsolationSemaphoreMaxConcurrentRequests", int64(set.MaxFallbacks))
	o.millis("propertyValue_metricsRollingStatisticalWindowInMilliseconds", set.RollingWindow)
	o.bool("propertyValue_requestCacheEnabled", !set.CacheOff)
	o.bool("propertyValue_requestLogEnabled", !set.LogOff)
	o.number("reportingHosts", 1)
	o.text("threadPool", c.Pool)
	o.end()
}

func (o *object) pool(p *ipc.PoolStats, now time.Time) {
	o.begin("HystrixThreadPool", p.Name, now)
	o.number("currentActiveCount", int64(p.Active))
	o.number("currentCompletedTaskCount", int64(p.Completed))
	o.number("currentCorePoolSize", int64(p.Settings.Core))
	o.number("currentLargestPoolSize", int64(p.Largest))
	o.number("currentMaximumPoolSize", int64(p.Settings.ActualMax()))
	o.number("currentPoolSize", int64(poolSize(p)))
	o.number("currentQueueSize", int64(p.Queued))
	o.number("currentTaskCount", int64(p.Started)+int64(p.Queued))
	o.number("rollingCountThreadsExecuted", int64(p.Executed))
	o.number("rollingMaxActiveThreads", int64(p.MaxActive))
	o.number("rollingCountCommandRejections", int64(p.Rejected))
	o.number("propertyValue_queueSizeRejectionThreshold", int64(p.Settings.QueueLimit))
	o.millis("propertyValue_metricsRollingStatisticalWindowInMilliseconds", p.Settings.RollingWindow)
	o.number("reportingHosts", 1)
	o.end()
}

// poolSize returns how many workers Hystrix would have: it keeps those that it needed once, up to the core.
func poolSize(p *ipc.PoolStats) int { return max(p.Active, min(p.Largest, p.Settings.Core)) }

func (o *object) collapser(c *ipc.CollapserStats, now time.Time) {
	o.begin("HystrixCollapser", c.Name, now)
	o.number("rollingCountRequestsBatched", int64(c.Batched))
	o.number("rollingCountBatches", int64(c.Batches))
	o.number("rollingCountResponsesFromCache", int64(c.ResponsesFromCache))
	o.number("batchSize_mean", int64(c.BatchSize.Mean+0.5))
	o.key("batchSize")
	*o = append(*o, '{')
	for i, p := range ipc.Percentiles {
		if p > 0 { // Hystrix leaves the smallest out
			o.part((*o)[len(*o)-1] == '{', p, int64(c.BatchSize.Percentiles[i]))
		}
	}
	*o = append(*o, '}')
	o.bool("propertyValue_requestCacheEnabled", c.Cache)
	o.number("propertyValue_maxRequestsInBatch", int64(maxBatch(c)))
	o.millis("propertyValue_timerDelayInMilliseconds", c.Window)
	o.number("reportingHosts", 1)
	o.end()
}

// maxBatch returns Hystrix's number for no limit if there is none.
func maxBatch(c *ipc.CollapserStats) int {
	if c.MaxBatch <= 0 {
		return math.MaxInt32
	}
	return c.MaxBatch
}
