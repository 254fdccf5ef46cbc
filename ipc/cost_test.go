//go:build !race

package ipc

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed/fault"
)

var tellCosts = flag.Bool("costs", false, "print what TestHotPathsCostAtMostAFifthMoreThanWasRecorded measures, to record it")

// yardstick is work of the kinds that calls consist of: readings of the clock, allocations of 64 bytes, atomic additions
// and header maps. What a path costs is told in yardsticks measured in the same moments, because a machine that is slow,
// or busy, is so for both.
type yardstick struct{ clocks, allocs, atomics, maps int }

var spent struct { // so that nothing is optimized away
	n      atomic.Int64
	took   time.Duration
	alloc  *[64]byte
	header http.Header
	fault  fault.Action
}

var (
	yardSince = time.Now()
	yardKeys  = []string{"Accept", "User-Agent", HeaderTimeout, HeaderAttempt, HeaderCaller, HeaderRequestID}
	yardValue = []string{"1"}
)

func (y yardstick) work() {
	for range y.atomics {
		spent.n.Add(1)
	}
	for range y.clocks {
		spent.took = time.Since(yardSince)
	}
	for range y.allocs {
		spent.alloc = new([64]byte)
	}
	for range y.maps {
		spent.header = make(http.Header, 8)
		for _, k := range yardKeys {
			spent.header[k] = yardValue
		}
	}
}

// hotPath is a path that the package promises to be cheap.
type hotPath struct {
	name   string
	allocs float64 // exactly
	cost   float64 // in yardsticks, as was recorded: the greatest of ten runs
	yard   yardstick
	work   func()
}

func hotPaths(t *testing.T) []hotPath {
	ctx := t.Context()
	work := func(context.Context) (int, error) { return 1, nil }
	e := newTestEngine(t, Options{App: "api", Lists: Static{"app": instances("", 1, 2, 3, 4)}, Transport: nowhere{}})
	allowed, untimed := e.Command("allowed", Settings{Idempotent: true}), e.Command("untimed", Settings{Idempotent: true, Timeout: -1})
	forced := e.Command("forced", Settings{ForceOpen: true})
	open := e.Command("open", Settings{SleepWindow: time.Hour, InstantOpen: true})
	for range 30 {
		Call(ctx, open, func(context.Context) (int, error) { return 0, errBroken })
	}
	for _, c := range []*Command{forced, open} {
		if _, err := Call(ctx, c, work); !errors.Is(err, ErrOpen) {
			t.Fatalf("%s: got %v, want ErrOpen", c.name, err)
		}
	}

	var ports []int
	for p := range 1000 {
		ports = append(ports, p+1)
	}
	many := newTestEngine(t, Options{Lists: Static{"app": instances("", ports...)}}).cluster("app")
	calls := e.Transport()
	out, err := http.NewRequest("GET", "http://app/x", nil)
	if err != nil {
		t.Fatal(err)
	}

	fine := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(200) }))
	in := httptest.NewRequest("GET", "http://app/x", nil).WithContext(ctx)
	for _, h := range [][2]string{{HeaderRequestID, "01j8x3y4z5a6b7c8d9e0f1g2"}, {HeaderTimeout, "900"}, {HeaderAttempt, "1"}, {HeaderCaller, "api"},
		{HeaderCriticality, "CRITICAL"}, {"Accept", "*/*"}, {"User-Agent", "Go-http-client/1.1"}} {
		in.Header.Set(h[0], h[1])
	}
	full := newTestEngine(t, Options{Server: ServerSettings{Limit: LimitFixed, InitialLimit: 1}})
	full.server.shed.limiter.Enter(1)
	full.server.shed.limiter.Enter(1)
	sheds, bulk := full.Handler(http.NotFoundHandler()), in.Clone(ctx)
	bulk.Header.Set(HeaderCriticality, "BULK")
	w := &silent{h: http.Header{}}

	k := fault.Key("k")
	f, err := fault.Parse(k, fault.Sign(k, "x", time.Now().Add(time.Hour), "client:ratings=error(503)@25"), "r", time.Now())
	if err != nil {
		t.Fatal(err)
	}

	return []hotPath{
		{"a call that is let through", 1, 1.47, yardstick{allocs: 1, atomics: 6}, func() { Call(ctx, allowed, work) }},
		{"a call without a timeout", 0, 1.19, yardstick{atomics: 6}, func() { Call(ctx, untimed, work) }},
		{"a refusal by an open breaker", 0, 0.97, yardstick{atomics: 2}, func() { Call(ctx, open, work) }},
		{"a refusal by a breaker forced open", 0, 2.09, yardstick{atomics: 2}, func() { Call(ctx, forced, work) }},
		{"a pick among 1,000 instances", 0, 1.12, yardstick{atomics: 6}, func() { many.lb.Pick(many.engine.clock.roughly()) }},
		{"an HTTP call", 7, 1.76, yardstick{clocks: 3, allocs: 4, atomics: 20, maps: 1}, func() {
			if resp, err := calls.RoundTrip(out); err == nil {
				resp.Body.Close()
			}
		}},
		{"an HTTP request that is served", 2, 1.24, yardstick{clocks: 2, allocs: 1, atomics: 20, maps: 1}, func() { clear(w.h); fine.ServeHTTP(w, in) }},
		{"an HTTP request that is shed", 0, 2.60, yardstick{clocks: 2, atomics: 10}, func() { clear(w.h); sheds.ServeHTTP(w, bulk) }},
		{"an injection point of a request without faults", 0, 0.95, yardstick{atomics: 1}, func() { spent.fault = fault.From(ctx).At("client", "bookmarks") }},
		{"an injection point of a request with others", 0, 2.76, yardstick{atomics: 6}, func() { spent.fault = f.At("client", "bookmarks") }},
	}
}

// nowhere is a network that answers at once.
type nowhere struct{}

func (nowhere) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

func TestHotPathsAllocateExactlyWhatTheyPromise(t *testing.T) {
	for _, p := range hotPaths(t) {
		if got := testing.AllocsPerRun(1000, p.work); got != p.allocs {
			t.Errorf("%s allocates %v times, want %v", p.name, got, p.allocs)
		}
	}
}

// costMargin is how much more than recorded a path may cost. The figures were recorded on amd64; another architecture's
// yardsticks are of other lengths.
func costMargin() float64 {
	if runtime.GOARCH == "amd64" {
		return 1.2
	}
	return 2
}

func TestHotPathsCostAtMostAFifthMoreThanWasRecorded(t *testing.T) {
	for _, p := range hotPaths(t) {
		path, yard := newBest(p.work), newBest(p.yard.work)
		cost := math.Inf(1)
		for range 4 { // a slow path is slow each time, a busy machine is not
			runtime.GC()
			for range 300 {
				path.round()
				yard.round()
			}
			if cost = path.ns / yard.ns; cost <= p.cost*costMargin() {
				break
			}
		}
		if *tellCosts {
			fmt.Printf("%-50s %7.1f ns  %5.2f yardsticks, recorded %4.2f\n", p.name, path.ns, cost, p.cost)
		}
		if cost > p.cost*costMargin() {
			t.Errorf("%s costs %.2f yardsticks, %.1f ns here, want at most %.2f, which is %.0f %% more than recorded; see CONTRIBUTING.md",
				p.name, cost, path.ns, p.cost*costMargin(), costMargin()*100-100)
		}
	}
}

// best is the least time that work took by the mean of a round. Rounds are short, so that some of many are disturbed by
// nobody.
type best struct {
	work func()
	n    int // in a round
	ns   float64
}

func newBest(work func()) *best {
	const warm, round = 20, 40 * time.Microsecond
	b := &best{work: work, n: 64, ns: math.Inf(1)}
	for range warm {
		b.round()
	}
	b.n = max(1, int(float64(round)/b.ns))
	return b
}

func (b *best) round() {
	start := time.Now()
	for range b.n {
		b.work()
	}
	b.ns = min(b.ns, float64(time.Since(start))/float64(b.n))
}
