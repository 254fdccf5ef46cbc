package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/stream"
	"github.com/roadbed/roadbed/ipc/stream/turbine"
)

// caller is an app of ours that makes calls as it is told to and streams what became of them.
type caller struct {
	*httptest.Server
	engine   *ipc.Engine
	shown    *stream.Streams
	commands map[string]*ipc.Defined[call, int]
	each     *ipc.Batched[int, int] // the one that takes arguments together; nil until named
	number   atomic.Int64
}

// call is the argument of a caller's commands: what shall become of it, and under which key it is cached.
type call struct {
	outcome, key string
	begun        *sync.WaitGroup // for one that holds its place until end
	end          chan struct{}
}

// These are Calls.java's.
const (
	callTimeout = 300 * time.Millisecond
	callRoom    = 2
)

func newCaller(t *testing.T) *caller { return newCallerAt(t, "127.0.0.1:0") }

// newCallerAt starts an app at an address.
func newCallerAt(t *testing.T, addr string) *caller {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &caller{engine: ipc.New(ipc.Options{App: "shop", Log: slog.New(slog.DiscardHandler)}), commands: map[string]*ipc.Defined[call, int]{}}
	t.Cleanup(c.engine.LogRequests())
	c.shown = stream.New(stream.Config{Engine: c.engine})
	c.Server = httptest.NewUnstartedServer(c.shown)
	c.Listener.Close()
	c.Listener = l
	c.Start()
	t.Cleanup(c.stop)
	return c
}

func (c *caller) stop() {
	c.shown.Close()
	c.Close()
	c.engine.Close()
}

// obey makes the calls that a line of Calls.java tells of: COMMAND ISOLATION OUTCOME FALLBACK TIMES. A command has the
// isolation and the fallback with which it is named first. It returns the request's log, without times.
func (c *caller) obey(t *testing.T, line string) string {
	t.Helper()
	o := strings.Fields(line)
	times, err := strconv.Atoi(o[4])
	if err != nil {
		t.Fatal(err)
	}
	ctx := ipc.NewRequest(t.Context())
	if o[2] == "batched" { // so many arguments, and the first of them again
		var answers sync.WaitGroup
		each := c.batched(o[0])
		for i := range times + 1 {
			answers.Go(func() { each.Call(ctx, i%times) }) //nolint:errcheck // the stream tells
		}
		answers.Wait()
		return summary(ipc.RequestLog(ctx))
	}
	cmd := c.command(o[0], o[1], o[3])
	end := make(chan struct{})
	var begun, held sync.WaitGroup
	if o[2] == "rejected" { // all places are taken meanwhile
		for range callRoom {
			begun.Add(1)
			held.Go(func() { cmd.Call(t.Context(), call{outcome: "held", begun: &begun, end: end}) }) //nolint:errcheck // the stream tells
		}
		begun.Wait()
	}
	for range times {
		key := "same"
		if o[2] != "cached" {
			key = fmt.Sprint(c.number.Add(1))
		}
		cmd.Call(ctx, call{outcome: o[2], key: key}) //nolint:errcheck // the stream tells
	}
	close(end)
	held.Wait()
	return summary(ipc.RequestLog(ctx))
}

// batched returns the command of that name, which takes its arguments together.
func (c *caller) batched(name string) *ipc.Batched[int, int] {
	if c.each == nil {
		c.each = ipc.Batch(c.engine, name, ipc.BatchDefinition[int, int]{
			Group: "Group" + name,
			Run: func(_ context.Context, args []int) (map[int]int, error) {
				out := map[int]int{}
				for _, a := range args {
					out[a] = a
				}
				return out, nil
			},
			Settings: ipc.Settings{Timeout: callTimeout, MaxConcurrent: callRoom},
		})
	}
	return c.each
}

// summary writes a log as Hystrix does, without times.
func summary(log []ipc.Execution) string {
	var order []string
	n := map[string]int{}
	for _, x := range log {
		what := x.Command + "[" + strings.Join(x.Events, ", ") + "]"
		if n[what]++; n[what] == 1 {
			order = append(order, what)
		}
	}
	for i, what := range order {
		if n[what] > 1 {
			order[i] += fmt.Sprint("x", n[what])
		}
	}
	return strings.Join(order, ", ")
}

func (c *caller) command(name, isolation, fallback string) *ipc.Defined[call, int] {
	if d := c.commands[name]; d != nil {
		return d
	}
	d := ipc.Definition[call, int]{
		Group: "Group" + name,
		Run: func(ctx context.Context, a call) (int, error) {
			switch a.outcome {
			case "held":
				a.begun.Done()
				<-a.end
			case "failure":
				return 0, errors.New("broken")
			case "timeout":
				<-ctx.Done()
				return 0, ctx.Err()
			case "bad":
				return 0, ipc.BadRequest(errors.New("bad"))
			}
			return 1, nil
		},
		CacheKey: func(a call) string { return a.key },
		Settings: ipc.Settings{Timeout: callTimeout, MaxConcurrent: callRoom},
	}
	if isolation == "THREAD" {
		d.Settings.Isolation = ipc.Thread
		c.engine.Pool(d.Group, ipc.PoolSettings{Core: callRoom})
	}
	switch fallback {
	case "well":
		d.Fallback = func(context.Context, call, error) (int, error) { return 2, nil }
	case "ill":
		d.Fallback = func(context.Context, call, error) (int, error) { return 0, errors.New("broken too") }
	}
	c.commands[name] = ipc.Define(c.engine, name, d)
	return c.commands[name]
}

// entry is one message of a stream.
type entry map[string]any

// watcher reads a stream and keeps the last message of each type and name.
type watcher struct {
	mu   sync.Mutex
	last map[string]entry
	raw  map[string]string
}

func watch(t *testing.T, url string) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: status %d", url, resp.StatusCode)
	}
	w := &watcher{last: map[string]entry{}, raw: map[string]string{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				w.take(t, data)
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended; resp.Body.Close() })
	return w
}

func (w *watcher) take(t *testing.T, data string) {
	var m entry
	if err := json.Unmarshal([]byte(data), &m); err != nil {
		t.Errorf("%q: %v", data, err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	key := fmt.Sprint(m["type"], " ", m["name"])
	w.last[key], w.raw[key] = m, data
}

// of returns the last message of a type and name.
func (w *watcher) of(key string) (entry, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last[key], w.raw[key]
}

// report is what dashboard.js says.
type report struct {
	Messages int
	Types    map[string]int
	Logged   []string
	Shown    []struct {
		Type, Name        string
		Rate, RatePerHost string
		Hosts             float64
		Queue             float64
	}
	Needed map[string][]string
}

// show feeds the scripts of a dashboard with a stream.
func show(t *testing.T, dashboard, url string) report {
	t.Helper()
	var said strings.Builder
	cmd := exec.Command("node", "dashboard.js", dashboard, url, "2500")
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node dashboard.js %s %s: %v\n%s", dashboard, url, err, &said)
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return r
}

// dashboards are Hystrix's own and Spring's.
var dashboards = map[string]string{
	"Netflix": "java/hystrix/target/dashboard",
	"Spring":  "java/hystrix/target/spring/static/hystrix",
}

// needed are the fields without which both pages drop a message.
var needed = map[string]string{
	"HystrixCommand": `name group isCircuitBreakerOpen errorPercentage errorCount requestCount rollingCountCollapsedRequests
		rollingCountExceptionsThrown rollingCountFailure rollingCountFallbackFailure rollingCountFallbackRejection
		rollingCountFallbackSuccess rollingCountResponsesFromCache rollingCountSemaphoreRejected rollingCountShortCircuited
		rollingCountSuccess rollingCountThreadPoolRejected rollingCountTimeout currentConcurrentExecutionCount latencyExecute_mean
		latencyExecute propertyValue_circuitBreakerRequestVolumeThreshold propertyValue_circuitBreakerSleepWindowInMilliseconds
		propertyValue_circuitBreakerErrorThresholdPercentage propertyValue_circuitBreakerForceOpen
		propertyValue_circuitBreakerForceClosed propertyValue_executionIsolationStrategy
		propertyValue_executionIsolationThreadTimeoutInMilliseconds propertyValue_executionIsolationThreadInterruptOnTimeout
		propertyValue_executionIsolationSemaphoreMaxConcurrentRequests propertyValue_fallbackIsolationSemaphoreMaxConcurrentRequests
		propertyValue_metricsRollingStatisticalWindowInMilliseconds propertyValue_requestCacheEnabled propertyValue_requestLogEnabled`,
	"HystrixThreadPool": `name currentActiveCount currentCompletedTaskCount currentCorePoolSize currentLargestPoolSize
		currentMaximumPoolSize currentPoolSize currentQueueSize currentTaskCount rollingCountThreadsExecuted rollingMaxActiveThreads
		propertyValue_queueSizeRejectionThreshold propertyValue_metricsRollingStatisticalWindowInMilliseconds`,
}

// TestHystrixsDashboardShowsOurStreams runs the scripts of both dashboards on our streams.
func TestHystrixsDashboardShowsOurStreams(t *testing.T) {
	t.Parallel()
	needJava(t)
	need(t, "node", "apt-get install nodejs")
	for which, folder := range dashboards {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			for _, hosts := range []float64{1, 3} {
				var apps []*caller
				var streams []string
				for range int(hosts) {
					c := newCaller(t)
					apps, streams = append(apps, c), append(streams, c.URL+"/hystrix.stream")
				}
				url := streams[0]
				if hosts > 1 {
					sums := turbine.New(turbine.Config{Static: map[string][]string{"shop": streams}, Log: slog.New(slog.DiscardHandler)})
					summed := httptest.NewServer(sums)
					t.Cleanup(func() { sums.Close(); summed.Close() })
					url = summed.URL + "/turbine.stream?cluster=shop"
					if which == "Spring" {
						url += "&window=host" // its page does not divide the window of a pool
					}
				}
				want := map[string]string{
					"HystrixCommand Semaphored":     fmt.Sprintf("%.1f/s, 30.0/s a host, %v hosts", hosts*30, hosts),
					"HystrixCommand Pooled":         fmt.Sprintf("%.1f/s, 20.0/s a host, %v hosts", hosts*20, hosts),
					"HystrixThreadPool GroupPooled": fmt.Sprintf("%.1f/s, 20.0/s a host, %v hosts", hosts*20, hosts),
				}
				var r report
				tries(t, 11*time.Second, func() (wrong []string) {
					for _, c := range apps {
						c.obey(t, "Semaphored SEMAPHORE success none 300")
						c.obey(t, "Pooled THREAD success none 200")
					}
					r = show(t, folder, url)
					if len(r.Logged) != 0 || r.Messages < 6 {
						wrong = append(wrong, fmt.Sprintf("%s: of %d messages the page complained %d times: %q", url, r.Messages, len(r.Logged), r.Logged))
					}
					got := map[string]string{}
					for _, s := range r.Shown {
						got[s.Type+" "+s.Name] = fmt.Sprintf("%s/s, %s/s a host, %v hosts", s.Rate, s.RatePerHost, s.Hosts)
						if s.Type == "HystrixThreadPool" && s.Queue != 5 {
							t.Errorf("%s: the page shows the queue's limit of %s as %v, want 5", url, s.Name, s.Queue)
						}
					}
					if !reflect.DeepEqual(got, want) {
						wrong = append(wrong, fmt.Sprintf("%s: the page shows\n%v\nwant\n%v", url, got, want))
					}
					return wrong
				})
				for kind, list := range needed {
					want := strings.Fields(list)
					if which == "Spring" && kind == "HystrixCommand" {
						want = append(want, "latencyTotal_mean", "latencyTotal")
					}
					slices.Sort(want)
					if got := slices.Sorted(slices.Values(r.Needed[kind])); !slices.Equal(got, want) {
						t.Errorf("%s: the page drops a %s without one of\n%q\nwant\n%q", url, kind, got, want)
					}
				}
			}
		})
	}
}

// script is what both sides are told in the test that compares them.
var script = []string{
	"Succeeds SEMAPHORE success none 7",
	"Fails SEMAPHORE failure none 3",
	"Fails SEMAPHORE success none 5",
	"FallsBack SEMAPHORE failure well 4",
	"FallsBackBadly SEMAPHORE failure ill 2",
	"TimesOut THREAD timeout well 2",
	"TimesOutBare THREAD timeout none 1",
	"TimesOut THREAD success well 3",
	"IsBad SEMAPHORE bad well 3",
	"IsCached SEMAPHORE cached none 5",
	"FailsCached THREAD cached none 2",
	"IsFull SEMAPHORE rejected well 4",
	"IsFullBare SEMAPHORE rejected none 2",
	"PoolIsFull THREAD rejected well 3",
	"PoolIsFullBare THREAD rejected none 1",
	"Together SEMAPHORE batched none 5",
	"Breaks SEMAPHORE failure well 25",
}

// TestHystrixCountsAsWeDo has Hystrix itself and an app of ours make the same calls, and compares their streams.
func TestHystrixCountsAsWeDo(t *testing.T) {
	t.Parallel()
	needJava(t)
	theirs := start(t, "java/run", "hystrix", "Calls")
	url := theirs.await("ready")[0]
	ours := newCaller(t)
	there, here := watch(t, url+"/hystrix.stream"), watch(t, ours.URL+"/hystrix.stream")
	// Hystrix counts only what happens once somebody has asked for the counts of a command, so each makes a call, which
	// is out of the window when the others begin.
	for _, line := range script {
		o := strings.Fields(line)
		outcome := "success"
		if o[2] == "batched" {
			outcome = o[2]
		}
		warm := o[0] + " " + o[1] + " " + outcome + " " + o[3] + " 1"
		theirs.order(warm, "done")
		ours.obey(t, warm)
	}
	play := func() (differ []string) {
		time.Sleep(11 * time.Second)
		both := func(line string) (there string) {
			here, there := ours.obey(t, line), theirs.order(line, "done")[0]
			if here != there {
				differ = append(differ, fmt.Sprintf("%s: our request log says\n%s\nHystrix's\n%s", line, here, there))
			}
			return there
		}
		for _, line := range script {
			both(line)
		}
		// After the breaker had time to see them, Breaks is open on both sides.
		time.Sleep(700 * time.Millisecond)
		if log := both("Breaks SEMAPHORE success well 6"); !strings.Contains(log, "SHORT_CIRCUITED") {
			differ = append(differ, "Hystrix's breaker stayed closed: "+log)
		}
		return differ
	}
	var names []string
	for _, line := range script {
		names = append(names, strings.Fields(line)[0])
	}
	slices.Sort(names)
	names = slices.Compact(names)
	differ := func() (out []string) {
		for _, n := range names {
			theirs, _ := there.of("HystrixCommand " + n)
			ours, _ := here.of("HystrixCommand " + n)
			for key, want := range theirs {
				if strings.HasPrefix(key, "latency") || strings.HasPrefix(key, "currentTime") || strings.HasPrefix(key, "rollingMax") {
					continue
				}
				if got, ok := ours[key]; !ok || !reflect.DeepEqual(got, want) {
					out = append(out, fmt.Sprintf("%s: %s is %v here, %v there", n, key, got, want))
				}
			}
			for key := range ours {
				if _, ok := theirs[key]; !ok && theirs != nil {
					out = append(out, n+": Hystrix has no "+key)
				}
			}
		}
		for _, group := range []string{"GroupTimesOut", "GroupTimesOutBare", "GroupPoolIsFull", "GroupPoolIsFullBare", "GroupFailsCached"} {
			theirs, _ := there.of("HystrixThreadPool " + group)
			ours, _ := here.of("HystrixThreadPool " + group)
			for _, key := range []string{"currentActiveCount", "currentCompletedTaskCount", "currentCorePoolSize", "currentMaximumPoolSize", "currentQueueSize", "currentTaskCount",
				"rollingCountThreadsExecuted", "rollingCountCommandRejections", "propertyValue_queueSizeRejectionThreshold", "propertyValue_metricsRollingStatisticalWindowInMilliseconds", "reportingHosts"} {
				if !reflect.DeepEqual(ours[key], theirs[key]) || theirs == nil {
					out = append(out, fmt.Sprintf("%s: %s is %v here, %v there", group, key, ours[key], theirs[key]))
				}
			}
		}
		mine, _ := here.of("HystrixCollapser Together")
		their, _ := there.of("HystrixCollapser Together")
		for key, want := range their {
			if key != "currentTime" && !strings.HasPrefix(key, "batchSize") && !reflect.DeepEqual(mine[key], want) {
				out = append(out, fmt.Sprintf("Together: %s is %v here, %v there", key, mine[key], want))
			}
		}
		if len(mine) != len(their) || their == nil {
			out = append(out, fmt.Sprintf("Together: the collapser has %d fields here, %d there", len(mine), len(their)))
		}
		return out
	}
	// Both show buckets that end at times of their own, so their counts meet a little later. On a machine so busy that a
	// call times out for want of a processor, or that all take longer than the window, another try is due.
	var last []string
	for try := range 3 {
		if try > 0 {
			t.Logf("another try, for\n%s", strings.Join(last, "\n"))
		}
		if last = play(); len(last) > 0 {
			continue
		}
		for began := time.Now(); time.Since(began) < 6*time.Second; time.Sleep(50 * time.Millisecond) {
			if last = differ(); len(last) == 0 {
				eventually(t, "both tell the sizes of batches, Hystrix each ten seconds", func() (told []string) {
					for _, w := range []*watcher{here, there} {
						m, _ := w.of("HystrixCollapser Together")
						told = append(told, fmt.Sprint(m["batchSize_mean"], m["batchSize"].(map[string]any)["99"]))
					}
					return told
				}, "5 5", "5 5")
				return
			}
		}
	}
	t.Errorf("the streams never told the same; at last\n%s", strings.Join(last, "\n"))
}

// fixed serves a stream that says the same messages over and over.
func fixed(t *testing.T, messages ...string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream;charset=UTF-8")
		for r.Context().Err() == nil {
			for _, m := range messages {
				fmt.Fprintf(w, "data: %s\n\n", m)
			}
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL + "/hystrix.stream"
}

// TestTurbineAddsUpAsWeDo has Turbine 2 and us add up streams that were recorded from Hystrix, hystrixjs and an app of
// ours, and compares the sums field by field.
func TestTurbineAddsUpAsWeDo(t *testing.T) {
	t.Parallel()
	needJava(t)
	needNPM(t)
	java, js, ours := start(t, "java/run", "hystrix", "Calls"), start(t, "node", "hystrixjs.js"), newCaller(t)
	javaURL, jsURL := java.await("ready")[0], js.await("ready")[0]
	js.order("GetRecs success 1", "done") // before that its stream does not even begin
	streams := []*watcher{watch(t, javaURL+"/hystrix.stream"), watch(t, jsURL+"/api/hystrix.stream"), watch(t, ours.URL+"/hystrix.stream")}
	for _, warm := range []string{"GetRecs THREAD success well 1", "GetUser SEMAPHORE success none 1"} {
		java.order(warm, "done")
		ours.obey(t, warm)
	}
	time.Sleep(1100 * time.Millisecond) // Hystrix counts only what happens once somebody has asked
	keys := []string{"HystrixCommand GetRecs", "HystrixCommand GetUser", "HystrixThreadPool GroupGetRecs"}
	var recorded [3][]string
	tries(t, 11*time.Second, func() (told []string) {
		for _, line := range []string{"GetRecs THREAD success well 20", "GetRecs THREAD failure well 7", "GetUser SEMAPHORE success none 5", "GetUser SEMAPHORE failure none 30"} {
			java.order(line, "done")
			ours.obey(t, line)
		}
		js.order("GetRecs success 11", "done")
		js.order("GetRecs failure 3", "done")
		js.order("GetUser success 30", "done")
		for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(50 * time.Millisecond) {
			told = nil
			for i, w := range streams {
				recorded[i] = nil
				for _, key := range keys {
					m, raw := w.of(key)
					if n, _ := m["rollingCountSuccess"].(float64); n > 0 || m["rollingCountThreadsExecuted"] != nil && m["rollingCountThreadsExecuted"] != 0.0 {
						recorded[i] = append(recorded[i], raw)
					}
				}
				told = append(told, fmt.Sprint("stream ", i, " told of ", len(recorded[i])))
			}
			if slices.Equal(told, []string{"stream 0 told of 3", "stream 1 told of 2", "stream 2 told of 3"}) {
				return nil
			}
		}
		return told
	})

	urls := []string{fixed(t, recorded[0]...), fixed(t, recorded[1]...), fixed(t, recorded[2]...)}
	turbine2 := exec.Command("java/run", append([]string{"turbine", "Sums"}, urls...)...)
	out, err := turbine2.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said lockedBuffer
	turbine2.Stderr = &said
	if err := turbine2.Start(); err != nil {
		t.Fatal(err)
	}
	there := &watcher{last: map[string]entry{}, raw: map[string]string{}}
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "{") {
				there.take(t, lines.Text())
			}
		}
	}()
	t.Cleanup(func() { turbine2.Process.Kill(); <-read; turbine2.Wait() }) //nolint:errcheck // it was killed
	sums := turbine.New(turbine.Config{Static: map[string][]string{"shop": urls}, Log: slog.New(slog.DiscardHandler)})
	summed := httptest.NewServer(sums)
	t.Cleanup(func() { sums.Close(); summed.Close() })
	here := watch(t, summed.URL+"/turbine.stream?cluster=shop")
	hosts := func() (told []string) {
		for _, w := range []*watcher{there, here} {
			for _, key := range keys {
				m, _ := w.of(key)
				told = append(told, fmt.Sprint(m["reportingHosts"]))
			}
		}
		return told
	}
	eventually(t, "both add up all three", hosts, "3", "3", "2", "3", "3", "2")
	for _, key := range keys {
		theirs, _ := there.of(key)
		ours, raw := here.of(key)
		for _, identifier := range []string{"instanceId", "InstanceKey", "TypeAndName", "currentTime"} { // Turbine's own, and ours
			delete(theirs, identifier)
			delete(ours, identifier)
		}
		if strings.HasPrefix(key, "HystrixThreadPool") { // which the page divides by the number of hosts
			for name, want := range map[string]float64{"propertyValue_queueSizeRejectionThreshold": 10, "propertyValue_metricsRollingStatisticalWindowInMilliseconds": 20000} {
				if ours[name] != want {
					t.Errorf("%s: %s is %v, want %v", key, name, ours[name], want)
				}
				delete(theirs, name)
				delete(ours, name)
			}
		}
		for name, want := range theirs {
			if got, ok := ours[name]; !ok || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %s is %v here, %v by Turbine; the whole: %s", key, name, got, want, raw)
			}
		}
		if len(ours) != len(theirs) {
			t.Errorf("%s: we have %d fields, Turbine %d", key, len(ours), len(theirs))
		}
	}
	if t.Failed() {
		t.Logf("Turbine said:\n%s", withoutTraces(&said))
	}
}

// TestAppsOfAllKindsAreAddedUpTogether finds a Hystrix app, a hystrixjs app and two of ours in the registry.
func TestAppsOfAllKindsAreAddedUpTogether(t *testing.T) {
	t.Parallel()
	needJava(t)
	needNPM(t)
	s := newServer(t)
	found := discovery.New(discovery.Config{Registry: []string{"http://" + s.addr}, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { found.Run(ctx) }) //nolint:errcheck // it always ends with nil
	t.Cleanup(func() { cancel(); wg.Wait() })
	java, js, one, two := start(t, "java/run", "hystrix", "Calls"), start(t, "node", "hystrixjs.js"), newCaller(t), newCaller(t)
	for i, at := range []string{java.await("ready")[0], js.await("ready")[0], one.URL, two.URL} {
		host, port, _ := strings.Cut(strings.TrimPrefix(at, "http://"), ":")
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		meta := map[string]string{}
		if i == 1 {
			meta["hystrix.stream.path"] = "/api/hystrix.stream"
		}
		found.Register(roadbed.Instance{ID: fmt.Sprint("shop-", i), App: "shop", Host: host, Port: n, Status: roadbed.Up, Metadata: meta})
	}
	sums := turbine.New(turbine.Config{Discovery: found, Log: slog.New(slog.DiscardHandler)})
	summed := httptest.NewServer(sums)
	t.Cleanup(func() { sums.Close(); summed.Close() })
	eventually(t, "all are in the registry", func() []string { return []string{fmt.Sprint(len(found.Instances("shop")))} }, "4")
	w := watch(t, summed.URL+"/turbine.stream?cluster=shop")
	warm := "GetRecs SEMAPHORE success none 1"
	java.order(warm, "done")
	one.obey(t, warm)
	two.obey(t, warm)
	js.order("GetRecs success 1", "done")
	reporting := func() []string {
		m, _ := w.of("HystrixCommand GetRecs")
		return []string{fmt.Sprint(m["reportingHosts"])}
	}
	eventually(t, "all four are read", reporting, "4")
	time.Sleep(1100 * time.Millisecond) // Hystrix counts only what happens once somebody has asked
	tries(t, 11*time.Second, func() (told []string) {
		for _, outcome := range []string{"success none 10", "failure none 2"} {
			line := "GetRecs SEMAPHORE " + outcome
			java.order(line, "done")
			one.obey(t, line)
			two.obey(t, line)
			js.order("GetRecs "+strings.Replace(outcome, " none", "", 1), "done")
		}
		// The first call, made to be counted, is 1 in each but in Hystrix's rolling counts.
		for began := time.Now(); time.Since(began) < 8*time.Second; time.Sleep(50 * time.Millisecond) {
			m, _ := w.of("HystrixCommand GetRecs")
			if n, _ := m["rollingCountSuccess"].(float64); n >= 40 && n <= 44 && m["rollingCountFailure"] == 8.0 {
				return nil
			}
			told = []string{fmt.Sprintf("%v hosts %v requests %v successes %v failures, want 40 to 44 and 8", m["reportingHosts"], m["requestCount"], m["rollingCountSuccess"], m["rollingCountFailure"])}
		}
		return told
	})
	two.shown.Close()
	eventually(t, "who leaves is taken out", reporting, "3")
}

// needNPM ends the test unless the packages are installed.
func needNPM(t *testing.T) {
	t.Helper()
	need(t, "node", "apt-get install nodejs")
	if _, err := os.Stat("node_modules/built"); err != nil {
		t.Fatal("Node's packages are missing; run ./interop/install.sh")
	}
}
