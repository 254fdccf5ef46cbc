package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
)

func newEngine(t testing.TB, props *config.Properties) *ipc.Engine {
	e := ipc.New(ipc.Options{App: "api", Config: props, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(e.Close)
	return e
}

var errBroken = errors.New("broken")

// read returns the data of the blocks that path's stream says within d.
func read(t testing.TB, s *Streams, path string, d time.Duration) (blocks []string, w *httptest.ResponseRecorder) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	w = httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
	if w.Code != http.StatusOK {
		return nil, w
	}
	for block := range strings.SplitSeq(w.Body.String(), "\n\n") {
		if data, ok := strings.CutPrefix(block, "data: "); ok {
			blocks = append(blocks, data)
		} else if block != "ping: " && block != "" {
			t.Errorf("%q is no block of a stream", block)
		}
	}
	return blocks, w
}

// keys returns the keys of an object in their order.
func keys(t *testing.T, object string) (out []string) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(object))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, key.(string))
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// commandFields are those that Hystrix 1.5.18 writes, in its order.
const commandFields = `type name group currentTime isCircuitBreakerOpen errorPercentage errorCount requestCount
	rollingCountBadRequests rollingCountCollapsedRequests rollingCountEmit rollingCountExceptionsThrown rollingCountFailure
	rollingCountFallbackEmit rollingCountFallbackFailure rollingCountFallbackMissing rollingCountFallbackRejection
	rollingCountFallbackSuccess rollingCountResponsesFromCache rollingCountSemaphoreRejected rollingCountShortCircuited
	rollingCountSuccess rollingCountThreadPoolRejected rollingCountTimeout currentConcurrentExecutionCount
	rollingMaxConcurrentExecutionCount latencyExecute_mean latencyExecute latencyTotal_mean latencyTotal
	propertyValue_circuitBreakerRequestVolumeThreshold propertyValue_circuitBreakerSleepWindowInMilliseconds
	propertyValue_circuitBreakerErrorThresholdPercentage propertyValue_circuitBreakerForceOpen
	propertyValue_circuitBreakerForceClosed propertyValue_circuitBreakerEnabled propertyValue_executionIsolationStrategy
	propertyValue_executionIsolationThreadTimeoutInMilliseconds propertyValue_executionTimeoutInMilliseconds
	propertyValue_executionIsolationThreadInterruptOnTimeout propertyValue_executionIsolationThreadPoolKeyOverride
	propertyValue_executionIsolationSemaphoreMaxConcurrentRequests propertyValue_fallbackIsolationSemaphoreMaxConcurrentRequests
	propertyValue_metricsRollingStatisticalWindowInMilliseconds propertyValue_requestCacheEnabled
	propertyValue_requestLogEnabled reportingHosts threadPool`

func TestACommandHasHystrixsFieldsInItsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, nil)
		c := e.Command("GetRecs", ipc.Settings{Group: "Recommendations", Timeout: 300 * time.Millisecond, MaxConcurrent: 7})
		for i := range 100 {
			ipc.Call(t.Context(), c, func(context.Context) (int, error) { //nolint:errcheck // counted
				time.Sleep(time.Duration(i+1) * time.Millisecond)
				return 0, nil
			})
		}
		ipc.CallOr(t.Context(), c, func(context.Context) (int, error) { return 0, errBroken }, func(context.Context, error) (int, error) { return 1, nil }) //nolint:errcheck // counted
		ipc.Call(t.Context(), c, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })                                              //nolint:errcheck // counted
		time.Sleep(time.Second)
		s := New(Config{Engine: e})
		blocks, _ := read(t, s, "/hystrix.stream", time.Millisecond)
		if len(blocks) != 1 {
			t.Fatalf("got %d blocks, want 1: %q", len(blocks), blocks)
		}
		if got, want := keys(t, blocks[0]), strings.Fields(commandFields); !slices.Equal(got, want) {
			t.Errorf("fields (-want +got):\n%s", cmp.Diff(want, got))
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(blocks[0]), &m); err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]any{
			"type": "HystrixCommand", "name": "GetRecs", "group": "Recommendations", "currentTime": float64(time.Now().Add(-time.Millisecond).UnixMilli()),
			"isCircuitBreakerOpen": false, "errorCount": 2.0, "requestCount": 102.0, "errorPercentage": 1.0,
			"rollingCountSuccess": 100.0, "rollingCountFailure": 1.0, "rollingCountTimeout": 1.0, "rollingCountFallbackSuccess": 1.0, "rollingCountFallbackMissing": 1.0,
			"rollingCountExceptionsThrown": 1.0, "rollingCountEmit": 0.0, "currentConcurrentExecutionCount": 0.0, "rollingMaxConcurrentExecutionCount": 1.0,
			"propertyValue_circuitBreakerRequestVolumeThreshold": 20.0, "propertyValue_circuitBreakerSleepWindowInMilliseconds": 5000.0,
			"propertyValue_circuitBreakerErrorThresholdPercentage": 50.0, "propertyValue_circuitBreakerEnabled": true, "propertyValue_circuitBreakerForceOpen": false,
			"propertyValue_executionIsolationStrategy": "SEMAPHORE", "propertyValue_executionIsolationThreadTimeoutInMilliseconds": 300.0,
			"propertyValue_executionTimeoutInMilliseconds": 300.0, "propertyValue_executionIsolationThreadPoolKeyOverride": nil,
			"propertyValue_executionIsolationSemaphoreMaxConcurrentRequests": 7.0, "propertyValue_fallbackIsolationSemaphoreMaxConcurrentRequests": 10.0,
			"propertyValue_metricsRollingStatisticalWindowInMilliseconds": 10000.0, "propertyValue_requestCacheEnabled": true, "reportingHosts": 1.0, "threadPool": "Recommendations",
		} {
			if !cmp.Equal(m[key], want) {
				t.Errorf("%s is %v, want %v", key, m[key], want)
			}
		}
		if got, want := keys(t, field(t, blocks[0], "latencyExecute")), strings.Fields("0 25 50 75 90 95 99 99.5 100"); !slices.Equal(got, want) {
			t.Errorf("percentiles are %q, want %q", got, want)
		}
		p50 := m["latencyExecute"].(map[string]any)["50"].(float64)
		if p50 < 50 || p50 > 52 {
			t.Errorf("of 100 calls of 1 to 100 ms the median is %v, want about 51", p50)
		}
	})
}

// field returns one value of an object as it is written.
func field(t *testing.T, object, key string) string {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object), &m); err != nil {
		t.Fatal(err)
	}
	return string(m[key])
}

func TestNamesMayHoldAnythingButBackslashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, nil)
		names := []string{`a\b`, "c\"d\n", "é<&>", "x y/z", ""}
		for _, n := range names {
			e.Command(n, ipc.Settings{Timeout: -1})
		}
		blocks, _ := read(t, New(Config{Engine: e}), "/hystrix.stream", time.Millisecond)
		var got []string
		for _, b := range blocks {
			var m struct{ Name string }
			if err := json.Unmarshal([]byte(b), &m); err != nil {
				t.Fatalf("%q: %v", b, err)
			}
			got = append(got, m.Name)
		}
		want := []string{"", "a/b", "c\"d\n", "x y/z", "é<&>"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestAStreamWithoutCommandsPingsFromTheFirstMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Engine: newEngine(t, nil)})
		for _, path := range []string{"/hystrix.stream", "/actuator/hystrix.stream"} {
			_, w := read(t, s, path, 1200*time.Millisecond)
			if got, want := w.Body.String(), strings.Repeat("ping: \n\n", 3); got != want && got != want+"ping: \n\n" {
				t.Errorf("%s said %q within 1.2 s, want %q", path, got, want)
			}
			for key, want := range map[string]string{
				"Content-Type": "text/event-stream;charset=UTF-8", "Cache-Control": "no-cache, no-store, max-age=0, must-revalidate", "Pragma": "no-cache",
			} {
				if got := w.Header().Get(key); got != want {
					t.Errorf("%s: %s is %q, want %q", path, key, got, want)
				}
			}
		}
	})
}

func TestTheBreakerIsShownAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, nil)
		c := e.Command("x", ipc.Settings{})
		for range 30 {
			ipc.Call(t.Context(), c, func(context.Context) (int, error) { return 0, errBroken }) //nolint:errcheck // counted
		}
		time.Sleep(time.Second)
		ipc.Call(t.Context(), c, func(context.Context) (int, error) { return 0, nil }) //nolint:errcheck // refused
		blocks, _ := read(t, New(Config{Engine: e}), "/hystrix.stream", time.Millisecond)
		for key, want := range map[string]string{"isCircuitBreakerOpen": "true", "errorPercentage": "100", "rollingCountShortCircuited": "1", "rollingCountFailure": "30"} {
			if got := field(t, blocks[0], key); got != want {
				t.Errorf("%s is %s, want %s", key, got, want)
			}
		}
	})
}

func TestATickIsEncodedOnceForAllReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, nil)
		e.Command("x", ipc.Settings{})
		s := New(Config{Engine: e})
		times := 0
		encode := s.dashboard.encode
		s.dashboard.encode = func(b []byte) []byte { times++; return encode(b) }
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				blocks, _ := read(t, s, "/hystrix.stream", 2200*time.Millisecond)
				if len(blocks) < 5 {
					t.Errorf("reader %d got %d blocks in 2.2 s, want 5", i, len(blocks))
				}
			})
		}
		wg.Wait()
		if times > 6 {
			t.Errorf("for 50 readers of 5 ticks the stream was encoded %d times, want 5 or 6", times)
		}
	})
}

func TestPropertiesOfTheStreamsAreLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		props := config.New(config.Options{Override: map[string]string{
			"hystrix.stream.dashboard.intervalInMilliseconds": "200", "hystrix.config.stream.maxConcurrentConnections": "1",
			"hystrix.stream.config.intervalInMilliseconds": "1", // too short: refused
		}, Log: slog.New(slog.DiscardHandler)})
		e := newEngine(t, props)
		e.Command("x", ipc.Settings{})
		s := New(Config{Engine: e, Properties: props})
		if blocks, _ := read(t, s, "/hystrix.stream", 1050*time.Millisecond); len(blocks) < 6 || len(blocks) > 7 {
			t.Errorf("got %d blocks within 1.05 s at 200 ms, want 6", len(blocks))
		}
		if got := s.config.every.Get().Millis; got != 5000 {
			t.Errorf("an interval of 1 ms was taken: %d", got)
		}
		go read(t, s, "/hystrix.stream", time.Second)
		synctest.Wait()
		if _, w := read(t, s, "/hystrix.stream", time.Second); w.Code != http.StatusServiceUnavailable || strings.TrimSpace(w.Body.String()) != "MaxConcurrentConnections reached: 1" {
			t.Errorf("a second reader got %d %q", w.Code, w.Body)
		}
		if _, w := read(t, s, "/hystrix/config.stream", time.Second); w.Code != http.StatusOK {
			t.Errorf("each stream has a limit of its own, yet config.stream said %d %q", w.Code, w.Body)
		}
	})
}

func TestCloseEndsAllStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Engine: newEngine(t, nil)})
		var wg sync.WaitGroup
		for _, path := range Paths {
			wg.Go(func() { read(t, s, path, time.Hour) })
		}
		synctest.Wait()
		began := time.Now()
		s.Close()
		wg.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("streams ended %s after Close", took)
		}
		for _, path := range Paths {
			if _, w := read(t, s, path, time.Hour); w.Code != http.StatusServiceUnavailable || strings.TrimSpace(w.Body.String()) != "Service has been shut down." {
				t.Errorf("after Close %s says %d %q", path, w.Code, w.Body)
			}
		}
	})
}

func TestTheOtherStreamsSayWhatHystrixSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, nil)
		e.Command("GetRecs", ipc.Settings{Group: "Recs", ForceClosed: true, Timeout: -1})
		s := New(Config{Engine: e})
		for path, want := range map[string]string{
			"/hystrix/utilization.stream": `{"type":"HystrixUtilization","commands":{"GetRecs":{"activeCount":0}},"threadpools":{}}`,
			"/hystrix/config.stream": `{"type":"HystrixConfig","commands":{"GetRecs":{"threadPoolKey":"Recs","groupKey":"Recs","execution":{"isolationStrategy":"SEMAPHORE",` +
				`"threadPoolKeyOverride":null,"requestCacheEnabled":true,"requestLogEnabled":true,"timeoutEnabled":false,"fallbackEnabled":true,"timeoutInMilliseconds":0,` +
				`"semaphoreSize":200,"fallbackSemaphoreSize":10,"threadInterruptOnTimeout":true},"metrics":{"healthBucketSizeInMs":500,"percentileBucketSizeInMilliseconds":10000,` +
				`"percentileBucketCount":6,"percentileEnabled":true,"counterBucketSizeInMilliseconds":1000,"counterBucketCount":10},"circuitBreaker":{"enabled":true,` +
				`"isForcedOpen":false,"isForcedClosed":true,"requestVolumeThreshold":20,"errorPercentageThreshold":50,"sleepInMilliseconds":5000}}},"threadpools":{},"collapsers":{}}`,
		} {
			blocks, _ := read(t, s, path, time.Millisecond)
			if len(blocks) != 1 || blocks[0] != want {
				t.Errorf("%s said\n%s\nwant\n%s", path, blocks, want)
			}
		}
	})
}

func BenchmarkTick(b *testing.B) {
	e := newEngine(b, nil)
	for i := range 100 {
		c := e.Command(fmt.Sprint("command", i), ipc.Settings{Group: "g"})
		for range 100 {
			ipc.Call(b.Context(), c, func(context.Context) (int, error) { return 0, nil }) //nolint:errcheck // it cannot fail
		}
	}
	b.Run("stats", func(b *testing.B) {
		for b.Loop() {
			e.Stats()
		}
	})
	s := e.Stats()
	out := bytes.NewBuffer(appendStats(nil, s, time.Now()))
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(out.Len()))
		buf := out.Bytes()
		for b.Loop() {
			buf = appendStats(buf[:0], s, time.Now())
		}
	})
	b.Run("readers=100", func(b *testing.B) {
		st := New(Config{Engine: e})
		for b.Loop() {
			st.dashboard.at = time.Time{}
			for range 100 {
				for _, p := range st.dashboard.next() {
					io.Discard.Write(p) //nolint:errcheck // it takes all
				}
			}
		}
	})
}
