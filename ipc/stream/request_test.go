package stream

import (
	"context"
	"encoding/json"
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

// page is a handler whose requests call: GetRecs once, GetUser three times with one key, and Ads, which fails, twice.
func page(e *ipc.Engine) http.Handler {
	recs := ipc.Define(e, "GetRecs", ipc.Definition[int, int]{Run: func(context.Context, int) (int, error) { time.Sleep(12 * time.Millisecond); return 0, nil }})
	user := ipc.Define(e, "GetUser", ipc.Definition[int, int]{
		CacheKey: func(int) string { return "42" },
		Run:      func(context.Context, int) (int, error) { time.Sleep(3 * time.Millisecond); return 0, nil },
	})
	ads := ipc.Define(e, "Ads", ipc.Definition[int, int]{
		Run:      func(context.Context, int) (int, error) { time.Sleep(time.Millisecond); return 0, errBroken },
		Fallback: func(context.Context, int, error) (int, error) { return 0, nil },
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recs.Call(r.Context(), 0) //nolint:errcheck // the log tells
		for range 3 {
			user.Call(r.Context(), 0) //nolint:errcheck // the log tells
		}
		for range 2 {
			ads.Call(r.Context(), 0) //nolint:errcheck // the log tells
		}
		switch r.URL.Path {
		case "/empty":
		case "/flushed":
			w.(http.Flusher).Flush()
		default:
			io.WriteString(w, "page") //nolint:errcheck // a recorder takes all
		}
	})
}

func TestAnswersListTheirCallsIfTheyShall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, on := range []string{"true", "false"} {
			props := config.New(config.Options{Override: map[string]string{"ipc.requestLog.header": on}, Log: slog.New(slog.DiscardHandler)})
			e := newEngine(t, props)
			s := New(Config{Engine: e, Properties: props})
			h := e.Handler(s.Requests(page(e)))
			want := "GetRecs[SUCCESS][12ms], GetUser[SUCCESS][3ms], GetUser[SUCCESS, RESPONSE_FROM_CACHE][0ms]x2, Ads[FAILURE, FALLBACK_SUCCESS][2ms]x2"
			if on == "false" {
				want = ""
			}
			for _, path := range []string{"/", "/empty", "/flushed"} {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
				if got := w.Header().Get(HeaderLog); got != want {
					t.Errorf("%s with the header %s: got %q, want %q", path, on, got, want)
				}
			}
			s.Close()
		}
	})
}

func TestEachFinishedRequestIsStreamedToThoseWhoRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, nil)
		s := New(Config{Engine: e})
		h := e.Handler(s.Requests(page(e)))
		ask := func() {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		}
		ask() // before anybody reads: nobody hears of it
		done := make(chan []string)
		for range 2 {
			go func() {
				blocks, _ := read(t, s, "/hystrix/request.stream", 1100*time.Millisecond)
				done <- blocks
			}()
		}
		synctest.Wait()
		ask()
		ask()
		want := `[{"name":"GetRecs","events":["SUCCESS"],"latencies":[12]},{"name":"GetUser","events":["SUCCESS"],"latencies":[3],"cached":2},` +
			`{"name":"Ads","events":["FAILURE","FALLBACK_SUCCESS"],"latencies":[1,1]}]`
		for range 2 {
			if got := <-done; !slices.Equal(got, []string{want, want}) {
				t.Errorf("got\n%s\nwant twice\n%s", strings.Join(got, "\n"), want)
			}
		}
		ask()
		if n := len(s.requests.blocks); n != 2 {
			t.Errorf("after the readers left %d requests are kept, want the 2 of before", n)
		}
	})
}

func TestOldRequestsMakeRoomForNewOnes(t *testing.T) {
	var f requestFeed
	log := make([]ipc.Execution, 1000)
	for i := range log {
		log[i] = ipc.Execution{Command: strings.Repeat("x", 100), Events: []string{"SUCCESS"}, CacheKey: string(rune('a' + i%26))}
	}
	for range 600 {
		f.add(log)
	}
	if f.bytes > maxRequests || f.first == 0 || f.first+uint64(len(f.blocks)) != 600 {
		t.Errorf("%d bytes of requests %d and %d more are kept, want at most %d bytes of 600", f.bytes, f.first, len(f.blocks), maxRequests)
	}
}

func TestALongLogIsCutOffInTheHeader(t *testing.T) {
	var log []ipc.Execution
	for i := range 1000 {
		log = append(log, ipc.Execution{Command: strings.Repeat("x", i%50+1), Events: []string{"SUCCESS"}, Latency: time.Duration(i)})
		log = append(log, ipc.Execution{Command: strings.Repeat("y", i%100+1), Events: []string{"TIMEOUT"}})
	}
	if got := logText(log); len(got) > maxHeader+5 || !strings.HasSuffix(got, ", ...") {
		t.Errorf("the header has %d bytes and ends %q", len(got), got[len(got)-20:])
	}
}

// poolFields and collapserFields are those that Hystrix 1.5.18 writes, in its order.
const (
	poolFields = `type name currentTime currentActiveCount currentCompletedTaskCount currentCorePoolSize currentLargestPoolSize
		currentMaximumPoolSize currentPoolSize currentQueueSize currentTaskCount rollingCountThreadsExecuted rollingMaxActiveThreads
		rollingCountCommandRejections propertyValue_queueSizeRejectionThreshold propertyValue_metricsRollingStatisticalWindowInMilliseconds
		reportingHosts`
	collapserFields = `type name currentTime rollingCountRequestsBatched rollingCountBatches rollingCountResponsesFromCache
		batchSize_mean batchSize propertyValue_requestCacheEnabled propertyValue_maxRequestsInBatch propertyValue_timerDelayInMilliseconds
		reportingHosts`
)

func TestAPoolThatRanSomethingHasHystrixsFieldsInItsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, nil)
		run := func(context.Context, int) (int, error) { time.Sleep(10 * time.Millisecond); return 0, nil }
		used := ipc.Define(e, "Used", ipc.Definition[int, int]{Group: "Recs", Run: run, Settings: ipc.Settings{Isolation: ipc.Thread}})
		ipc.Define(e, "Unused", ipc.Definition[int, int]{Group: "Idle", Run: run, Settings: ipc.Settings{Isolation: ipc.Thread}})
		used.Call(t.Context(), 0) //nolint:errcheck // it cannot fail
		used.Call(t.Context(), 0) //nolint:errcheck // it cannot fail
		time.Sleep(time.Second)
		s := New(Config{Engine: e})
		blocks, _ := read(t, s, "/hystrix.stream", time.Millisecond)
		if len(blocks) != 3 {
			t.Fatalf("got %d blocks, want two commands and one pool: %q", len(blocks), blocks)
		}
		if got, want := keys(t, blocks[2]), strings.Fields(poolFields); !slices.Equal(got, want) {
			t.Errorf("fields (-want +got):\n%s", cmp.Diff(want, got))
		}
		for key, want := range map[string]string{
			"type": `"HystrixThreadPool"`, "name": `"Recs"`, "currentActiveCount": "0", "currentCompletedTaskCount": "2", "currentCorePoolSize": "10", "currentLargestPoolSize": "1",
			"currentMaximumPoolSize": "10", "currentPoolSize": "1", "currentTaskCount": "2", "rollingCountThreadsExecuted": "2", "rollingMaxActiveThreads": "1", "rollingCountCommandRejections": "0",
			"propertyValue_queueSizeRejectionThreshold": "5", "propertyValue_metricsRollingStatisticalWindowInMilliseconds": "10000", "reportingHosts": "1",
		} {
			if got := field(t, blocks[2], key); got != want {
				t.Errorf("%s is %s, want %s", key, got, want)
			}
		}
		blocks, _ = read(t, s, "/hystrix/config.stream", time.Millisecond)
		want := `"Recs":{"coreSize":10,"maximumSize":10,"actualMaximumSize":10,"maxQueueSize":-1,"queueRejectionThreshold":5,"keepAliveTimeInMinutes":1,` +
			`"allowMaximumSizeToDivergeFromCoreSize":false,"counterBucketSizeInMilliseconds":1000,"counterBucketCount":10}`
		if !strings.Contains(blocks[0], want) {
			t.Errorf("config.stream lacks %s: %s", want, blocks[0])
		}
		blocks, _ = read(t, s, "/hystrix/utilization.stream", time.Millisecond)
		if want := `"Recs":{"activeCount":0,"queueSize":0,"corePoolSize":10,"poolSize":1}`; !strings.Contains(blocks[0], want) {
			t.Errorf("utilization.stream lacks %s: %s", want, blocks[0])
		}
	})
}

func TestBatchesAreStreamedAsCollapsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, nil)
		users := ipc.Batch(e, "GetUser", ipc.BatchDefinition[int, int]{
			Run: func(_ context.Context, ids []int) (map[int]int, error) {
				out := map[int]int{}
				for _, id := range ids {
					out[id] = id
				}
				return out, nil
			},
		})
		s := New(Config{Engine: e})
		reader := make(chan []string)
		go func() {
			blocks, _ := read(t, s, "/hystrix/request.stream", 600*time.Millisecond)
			reader <- blocks
		}()
		synctest.Wait()
		h := e.Handler(s.Requests(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var wg sync.WaitGroup
			for _, id := range []int{1, 2, 3, 3} {
				wg.Go(func() { users.Call(r.Context(), id) }) //nolint:errcheck // it cannot fail
			}
			wg.Wait()
		})))
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		if got, want := <-reader, `"collapsed":{"name":"GetUser","count":3}`; len(got) != 1 || !strings.Contains(got[0], want) || strings.Contains(got[0], "COLLAPSED") {
			t.Errorf("request.stream said %q, want one request with %s", got, want)
		}
		blocks, _ := read(t, s, "/hystrix.stream", time.Millisecond)
		last := blocks[len(blocks)-1]
		for key, want := range map[string]string{"type": `"HystrixCollapser"`, "name": `"GetUser"`, "rollingCountRequestsBatched": "3", "rollingCountBatches": "1",
			"rollingCountResponsesFromCache": "1", "batchSize_mean": "3", "propertyValue_requestCacheEnabled": "true", "propertyValue_maxRequestsInBatch": "2147483647", "propertyValue_timerDelayInMilliseconds": "10"} {
			if got := field(t, last, key); got != want {
				t.Errorf("%s is %s, want %s", key, got, want)
			}
		}
		if got := field(t, blocks[0], "rollingCountCollapsedRequests"); got != "3" {
			t.Errorf("the command of the batches counts %s collapsed requests, want 3", got)
		}
	})
}

func TestACollapserHasHystrixsFieldsInItsOrder(t *testing.T) {
	stats := ipc.Stats{Collapsers: []ipc.CollapserStats{{
		Name: "GetUser", Batched: 30, Batches: 4, ResponsesFromCache: 2, Cache: true, Window: 5 * time.Millisecond, RollingWindow: 10 * time.Second,
		BatchSize: ipc.Sizes{Mean: 7.5, Percentiles: [9]int{1, 2, 7, 9, 10, 10, 10, 10, 10}},
	}}}
	got := strings.TrimSuffix(strings.TrimPrefix(string(appendStats(nil, stats, time.UnixMilli(1790000000000))), "data: "), "\n\n")
	want := `{"type":"HystrixCollapser","name":"GetUser","currentTime":1790000000000,"rollingCountRequestsBatched":30,"rollingCountBatches":4,"rollingCountResponsesFromCache":2,` +
		`"batchSize_mean":8,"batchSize":{"25":2,"50":7,"75":9,"90":10,"95":10,"99":10,"99.5":10,"100":10},"propertyValue_requestCacheEnabled":true,` +
		`"propertyValue_maxRequestsInBatch":2147483647,"propertyValue_timerDelayInMilliseconds":5,"reportingHosts":1}`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, want := keys(t, got), strings.Fields(collapserFields); !slices.Equal(got, want) {
		t.Errorf("fields (-want +got):\n%s", cmp.Diff(want, got))
	}
	b, err := json.Marshal(configOf(stats).Collapsers["GetUser"])
	if want := `{"maxRequestsInBatch":2147483647,"timerDelayInMilliseconds":5,"requestCacheEnabled":true,"metrics":{"percentileBucketSizeInMilliseconds":1000,"percentileBucketCount":10,` +
		`"percentileEnabled":true,"counterBucketSizeInMilliseconds":1000,"counterBucketCount":10}}`; err != nil || string(b) != want {
		t.Errorf("its settings: got\n%s, %v\nwant\n%s", b, err, want)
	}
}
