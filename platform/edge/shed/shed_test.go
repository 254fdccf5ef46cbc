package shed

import (
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

type gate struct {
	*Shed
	chain *filter.Chain
	plan  *filter.Plan
	asked int
}

func newGate(t testing.TB, props ...string) *gate {
	t.Helper()
	over := map[string]string{}
	for i := 0; i < len(props); i += 2 {
		over[props[i]] = props[i+1]
	}
	p := config.New(config.Options{Override: over, Log: slog.New(slog.DiscardHandler)})
	g := &gate{Shed: New(Config{Properties: p, Meter: meter.New(nil)}), plan: &filter.Plan{Route: "shop"}}
	routes := &filter.Filter{Name: "Routes", Order: -100, Quick: true, Apply: func(x *filter.Exchange) error { x.Plan, x.App = g.plan, "shop"; return nil }}
	var err error
	g.chain, err = filter.NewChain(filter.ChainConfig{
		Filters: append(g.Filters(), routes), Properties: p, Meter: meter.New(nil), Log: slog.New(slog.DiscardHandler),
		Proxy: &filter.Filter{Name: "ProxyEndpoint", Kind: filter.Endpoint, Quick: true, Apply: func(x *filter.Exchange) error {
			g.asked++
			x.Answer(200, "")
			return nil
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

var peer = &filter.Client{Remote: netip.MustParseAddrPort("10.0.0.1:1"), Listener: "http"}

func request(score int) *filter.Exchange {
	x := &filter.Exchange{Client: peer, Trusted: true, From: peer.Remote.Addr(), Deadline: math.MaxInt64}
	x.Request = filter.Request{Method: "GET", Scheme: "http", Host: "shop", Path: "/cart", Proto: 11}
	if score > 0 {
		x.Request.Header.Add("X-Edge-Priority", strconv.Itoa(score))
	}
	return x
}

func (g *gate) run(x *filter.Exchange) *filter.Exchange { g.chain.Run(x); x.End(); return x }

// busy has the shedder find the processor that busy.
func (g *gate) busy(now time.Duration, cpu float64) {
	g.measure(int64(now), reading{cpu: cpu, lately: cpu, delay: 2 * time.Millisecond})
}

func TestARequestIsRankedByWhoeverSpeaksFirst(t *testing.T) {
	g := newGate(t, "edge.priority.play", "GET,HEAD /play 7", "edge.priority.all", "* /play BULK", "edge.priority.deep", "* /play/deep/ 20", "edge.priority.bad", "nonsense", "edge.priority.spread", "false")
	for _, c := range []struct {
		name         string
		method, path string
		header       string
		trusted      bool
		route        uint8
		want         uint8
		group        roadbed.Criticality
		judged       int
	}{
		{"the field of a trusted peer", "GET", "/play", "33", true, 90, 33, roadbed.Degraded, 33},
		{"a group as the field", "GET", "/play", "best-effort", true, 0, 70, roadbed.BestEffort, 70},
		{"a stranger's field is no word", "GET", "/play", "1", false, 90, 90, roadbed.Bulk, 90},
		{"a field that makes no sense", "GET", "/play", "0", true, 0, 7, roadbed.Critical, 7},
		{"the route before rules", "GET", "/play", "", false, 61, 61, roadbed.BestEffort, 61},
		{"a rule with methods before one without", "HEAD", "/play", "", false, 0, 7, roadbed.Critical, 7},
		{"a rule without methods", "POST", "/play/x", "", false, 0, 95, roadbed.Bulk, 95},
		{"the longest path", "GET", "/play/deep/x", "", false, 0, 20, roadbed.Critical, 20},
		{"whole segments only", "GET", "/player", "", false, 0, 0, roadbed.Critical, 50},
	} {
		x := request(0)
		x.Trusted, x.Request.Method, x.Request.Path = c.trusted, c.method, c.path
		if c.header != "" {
			x.Request.Header.Add("X-Edge-Priority", c.header)
		}
		g.plan = &filter.Plan{Route: "shop", Priority: c.route}
		g.RoutesRank(true)
		g.run(x)
		if x.Priority != c.want || x.Criticality != c.group {
			t.Errorf("%s: got %d %s, want %d %s", c.name, x.Priority, x.Criticality, c.want, c.group)
		}
		if got := g.ranks.score(x, "X-Member"); got != c.judged {
			t.Errorf("%s: judged by %d, want %d", c.name, got, c.judged)
		}
	}
}

func TestUsersDifferWithinTheirGroup(t *testing.T) {
	g := newGate(t)
	seen := map[int]bool{}
	for i := range 200 {
		x := request(0)
		x.Request.Header.Add("X-Member", strconv.Itoa(i))
		n := g.ranks.score(x, "X-Member")
		if again := g.ranks.score(x, "X-Member"); n < 50 || n > 59 || n != again {
			t.Fatalf("user %d is judged by %d, then %d; want the same from 50 to 59", i, n, again)
		}
		seen[n] = true
		x.Priority = 28
		if n := g.ranks.score(x, "X-Member"); n < 28 || n > 30 {
			t.Fatalf("user %d of priority 28 is judged by %d, want 28 to 30: the group's", i, n)
		}
		x.Priority = 4
		if n := g.ranks.score(x, "X-Member"); n != 4 {
			t.Fatalf("user %d of priority 4 is judged by %d, want 4", i, n)
		}
	}
	if len(seen) != 10 {
		t.Errorf("200 users are judged by %d scores, want 10", len(seen))
	}
}

func TestTheThresholdFallsWithTheCubeOfTheOverload(t *testing.T) {
	for _, c := range []struct{ x, want float64 }{{0, 100}, {0.35, 95.7}, {0.8, 48.8}, {0.95, 14.3}, {1, 0}} {
		if got := threshold(c.x); math.Abs(got-c.want) > 0.05 {
			t.Errorf("threshold(%v): got %.2f, want %v", c.x, got, c.want)
		}
	}
}

func TestARefusalSaysSoAndAsksNobody(t *testing.T) {
	g := newGate(t)
	g.busy(time.Second, 0.95)
	x := g.run(request(81))
	h := &x.Response.Header
	after, err := strconv.Atoi(h.Get("Retry-After"))
	if x.Response.Status != 503 || x.Response.Body != nil || h.Get("X-Edge-Shed") != "BULK" || err != nil || after < 1 || after > 30 {
		t.Errorf("got %d %v; want 503 without a body, Retry-After 1 to 30 and X-Edge-Shed: BULK", x.Response.Status, h.Fields())
	}
	if c, _ := x.Category(); c != filter.FailureShed || g.asked != 0 {
		t.Errorf("category %s with %d origins asked, want FAILURE_LOCAL_SHED with none", c, g.asked)
	}
	st := g.Standing()
	if st.Shed["BULK"] != 1 || st.Threshold != 30 || st.X != 1 {
		t.Errorf("standing: got %+v, want one BULK request shed, threshold 30, x 1", st)
	}
}

func TestScoresOneToFiveAreNeverRefused(t *testing.T) {
	g := newGate(t)
	g.measure(int64(time.Second), reading{cpu: 1, lately: 1, delay: time.Second, memory: 2})
	for score := 1; score <= 100; score++ {
		want := 200
		if score > sacred {
			want = 503
		}
		if x := g.run(request(score)); x.Response.Status != want {
			t.Errorf("score %d without any memory left: got %d, want %d", score, x.Response.Status, want)
		}
	}
}

func TestOverloadRisesAtOnceAndFallsToHalfIn2s(t *testing.T) {
	var l levels
	l.floor = vital
	l.take(int64(time.Second), 0.8, 0)
	if l.lagging != 0.8 {
		t.Errorf("after one reading of 0.8: got %v", l.lagging)
	}
	if got := l.take(int64(3*time.Second), 0, 0); math.Abs(l.lagging-0.4) > 1e-9 || got != 93 {
		t.Errorf("2 s after 0.8: got %v, threshold %d; want 0.4, 93", l.lagging, got)
	}
}

func TestWhatLagsRefusesCriticalOnlyAfterFiveSeconds(t *testing.T) {
	var l levels
	l.floor = vital
	now := int64(time.Second)
	for range 50 {
		if got := l.take(now, 1, 0); got != vital {
			t.Fatalf("%v of full overload: the last score let in is %d, want 30", time.Duration(now)-time.Second, got)
		}
		now += int64(every)
	}
	for range 400 {
		l.take(now, 1, 0)
		now += int64(every)
	}
	if got := l.take(now, 1, 0); got != sacred {
		t.Errorf("40 s later: got %d, want 5", got)
	}
	for range 20 {
		now += int64(every)
		l.take(now, 0.9, 0)
	}
	if l.floor < vital-0.01 {
		t.Errorf("2 s without full overload: the floor is %.1f, want 30 again", l.floor)
	}
}

func TestADrillConcernsItsShareOfUsers(t *testing.T) {
	g := newGate(t, "edge.shed.force", "40", "edge.shed.force.percent", "25")
	g.busy(time.Second, 0)
	hit := 0
	for i := range 2000 {
		x := request(0)
		x.Request.Header.Add("X-Member", strconv.Itoa(i))
		if g.run(x); x.Response.Status == 503 {
			hit++
			if x.Response.Header.Get("X-Edge-Shed-Forced") != "true" || x.Response.Header.Get("X-Edge-Shed") != "DEGRADED" {
				t.Fatalf("a drill's answer says %v, want X-Edge-Shed-Forced: true", x.Response.Header.Fields())
			}
		}
	}
	if hit < 400 || hit > 600 {
		t.Errorf("a drill for 25 %% of users hit %d of 2000, want about 500", hit)
	}
	if x := g.run(request(40)); x.Response.Status != 200 {
		t.Errorf("a request of score 40 in a drill with 40: got %d, want 200", x.Response.Status)
	}
}

func TestStreamsAreRefusedInPlaceOfAnAnswerIfThatIsWanted(t *testing.T) {
	for _, wanted := range []string{"true", "false"} {
		g := newGate(t, "edge.shed.force", "40", "edge.shed.h2refuse", wanted)
		g.busy(time.Second, 0)
		x := g.run(request(80))
		if x.Response.Status != 503 || x.Response.Refused != (wanted == "true") {
			t.Errorf("edge.shed.h2refuse=%s: got %d, refused %v", wanted, x.Response.Status, x.Response.Refused)
		}
	}
}

func TestRoutesThatRankAreWaitedFor(t *testing.T) {
	g := newGate(t)
	g.busy(time.Second, 0.95)
	g.plan = &filter.Plan{Route: "pay", Priority: 10}
	if x := g.run(request(0)); x.Response.Status != 503 {
		t.Errorf("no route ranks: got %d, want 503 before routing", x.Response.Status)
	}
	g.RoutesRank(true)
	if x := g.run(request(0)); x.Response.Status != 200 || x.Priority != 10 {
		t.Errorf("a route of priority 10: got %d with priority %d, want 200 with 10", x.Response.Status, x.Priority)
	}
	g.plan = &filter.Plan{Route: "logs", Priority: 90}
	if x := g.run(request(0)); x.Response.Status != 503 {
		t.Errorf("a route of priority 90: got %d, want 503", x.Response.Status)
	}
}

// CRITICAL requests all succeed, and goodput is at least 90 % of the capacity, at three times the capacity and with
// scores spread evenly. The model is a server of ten processors and requests of 1 ms each, which wait in one queue.
func TestThreeTimesTheCapacityCostsNoCriticalRequest(t *testing.T) {
	g := newGate(t)
	r := rand.New(rand.NewPCG(1, 2))
	const perMs, warm, lasts = 10, 5000, 20_000
	var queue []int // ms at which each came
	var cpu float64
	vital0, vital1, good := 0, 0, 0
	busy, longest := 0, 0
	var late []int
	for ms := range lasts {
		if ms%100 == 99 {
			used := float64(busy) / (100 * perMs)
			cpu += (used - cpu) * (1 - math.Exp(-0.1))
			g.measure(int64(ms)*1e6+1e9, reading{cpu: cpu, lately: used, delay: time.Duration(longest) * time.Millisecond})
			busy, longest = 0, 0
		}
		for range 3 * perMs {
			score := 1 + r.IntN(100)
			x := request(score)
			if score <= vital && ms >= warm {
				vital0++
			}
			if g.run(x); x.Response.Status == 200 {
				queue = append(queue, ms)
				if score <= vital && ms >= warm {
					vital1++
				}
			}
		}
		n := min(perMs, len(queue))
		for _, at := range queue[:n] {
			longest = max(longest, ms-at)
			if ms >= warm {
				good++
				late = append(late, ms-at)
			}
		}
		queue, busy = queue[n:], busy+n
	}
	capacity := float64(perMs * (lasts - warm))
	share, output := 100*float64(vital1)/float64(vital0), 100*float64(good)/capacity
	slices.Sort(late)
	p99 := late[len(late)*99/100]
	t.Logf("CRITICAL %.2f %%, goodput %.1f %% of capacity, p99 of the wait %d ms", share, output, p99)
	if p99 > 15 {
		t.Errorf("of those let in, one in a hundred waits %d ms or longer, want 15 at most", p99)
	}
	if share < 99.9 {
		t.Errorf("%.2f %% of CRITICAL succeed, want 99.9", share)
	}
	if output < 90 {
		t.Errorf("goodput is %.1f %% of the capacity, want 90", output)
	}
}

// workshop returns a gate, in a bubble of synctest, that is measured all the time and stands before an origin of 20 workers
// that takes 10 ms for each request.
func workshop(t *testing.T) *gate {
	t.Helper()
	time.Sleep(100 * 365 * 24 * time.Hour) // to where filter.Now, which began outside of the bubble, is positive
	g := newGate(t)
	slots := make(chan struct{}, 20)
	g.plan = &filter.Plan{Route: "shop", Endpoint: &filter.Filter{Name: "slow", Kind: filter.Endpoint, Apply: func(x *filter.Exchange) error {
		slots <- struct{}{}
		time.Sleep(10 * time.Millisecond)
		<-slots
		x.Answer(200, "")
		return nil
	}}}
	go g.Shed.Run(t.Context()) //nolint:errcheck // it only ends with the test
	return g
}

// An origin of 20 workers that takes 10 ms for each request is offered three times what it can: what is let through to it
// by the requests in flight.
func TestASlowOriginGetsWhatItCanBear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := workshop(t)
		const warm = 3 * time.Second
		type tally struct{ vital, vitalGood, good int }
		var all tally
		results := make(chan *tally, 64)
		began := time.Now()
		running := 0
		drain := func(x *tally) { all.vital += x.vital; all.vitalGood += x.vitalGood; all.good += x.good }
		offer := func(rate int, d time.Duration, counts time.Duration) {
			gap := time.Second / time.Duration(rate)
			for i := range int(d / gap) {
				time.Sleep(gap)
				score := 1 + i*37%100
				counted := counts > 0 && time.Since(began) > counts
				running++
				go func() {
					x := g.run(request(score))
					r := &tally{}
					if counted {
						if score <= vital {
							r.vital = 1
						}
						if x.Response.Status == 200 {
							r.good = 1
							r.vitalGood = r.vital
						}
					}
					results <- r
				}()
				for len(results) > 0 {
					drain(<-results)
					running--
				}
			}
		}
		offer(1500, 2*time.Second, 0)
		offer(6000, 8*time.Second, 2*time.Second+warm)
		for ; running > 0; running-- {
			drain(<-results)
		}
		share, output := 100*float64(all.vitalGood)/float64(all.vital), float64(all.good)/5/2000*100
		t.Logf("CRITICAL %.2f %%, goodput %.1f %% of capacity; %+v", share, output, g.Standing().Apps)
		if share < 99.9 || output < 90 {
			t.Errorf("CRITICAL %.2f %% (want 99.9), goodput %.1f %% (want 90)", share, output)
		}
	})
}

// Clients that wait for their answers before they ask again make a queue as long as there are clients, which is no reason to
// refuse any: 40 of them, at an origin of 20 workers, wait twice as long as alone.
func TestAnOriginThatIsBusyButAnswersIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := workshop(t)
		for range 200 { // alone, as at first
			g.run(request(50))
		}
		var all sync.WaitGroup
		var refused atomic.Int64
		for range 40 {
			all.Go(func() {
				for range 250 {
					if g.run(request(95)).Response.Status != 200 {
						refused.Add(1)
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		all.Wait()
		if n := refused.Load(); n > 0 {
			t.Errorf("%d of 10,000 requests were refused, want none; %+v", n, g.Standing().Apps)
		}
	})
}

func TestAppsThatSayTheyAreOverloadedGetLess(t *testing.T) {
	g := newGate(t)
	status := 503
	ask := func(score int) int {
		x := request(score)
		x.Plan = g.plan
		g.plan = &filter.Plan{Route: "shop", Endpoint: &filter.Filter{Name: "busy", Kind: filter.Endpoint, Quick: true, Apply: func(x *filter.Exchange) error {
			x.Attempts = append(x.Attempts, filter.Attempt{Number: 1, Status: status})
			x.Answer(status, "")
			return nil
		}}}
		return g.run(x).Response.Status
	}
	for range 60 {
		ask(90)
	}
	g.busy(time.Second, 0)
	if x := g.run(request(90)); x.Response.Header.Get("X-Edge-Shed") != "BULK" {
		t.Errorf("an app that answers 60 times 503: a BULK request gets %d %v, want to be shed", x.Response.Status, x.Response.Header.Fields())
	}
	status = 200
	if got := ask(30); got != 200 {
		t.Errorf("a CRITICAL request: got %d, want it passed on", got)
	}
	for i := range 300 {
		g.busy(time.Second+time.Duration(i)*every, 0)
	}
	if got := ask(90); got != 200 {
		t.Errorf("half a minute later: got %d, want 200", got)
	}
}

func TestAdmissionFollowsItsFormula(t *testing.T) {
	for _, c := range []struct {
		all, good int64
		want      float64
	}{{0, 0, 0}, {100, 100, 0}, {100, 95, 0}, {100, 0, 0.995}, {100, 50, 0.6848}} {
		if got := admission(c.all, c.good); math.Abs(got-c.want) > 0.001 {
			t.Errorf("admission(%d, %d): got %.4f, want %v", c.all, c.good, got, c.want)
		}
	}
}

func TestAdmissionControlKeepsRequestsFromAnAppThatFails(t *testing.T) {
	g := newGate(t, "edge.shed.admission.enabled", "true")
	for range 100 {
		x := request(50)
		g.plan = &filter.Plan{Route: "shop", Endpoint: &filter.Filter{Name: "broken", Kind: filter.Endpoint, Quick: true, Apply: func(x *filter.Exchange) error {
			x.Attempts = append(x.Attempts, filter.Attempt{Number: 1, Status: 500})
			x.Answer(500, "")
			return nil
		}}}
		g.run(x)
	}
	g.busy(time.Second, 0)
	kept := 0
	for range 10_000 {
		if x := g.run(request(50)); x.Response.Header.Has("X-Edge-Shed") {
			kept++
		}
	}
	if kept < 8700 || kept > 9300 {
		t.Errorf("of 10000 requests %d were kept from an app that fails all, want about 9000", kept)
	}
	if st := g.Standing().Apps; len(st) != 1 || st[0].App != "shop" || st[0].Admission < 0.9 {
		t.Errorf("standing of apps: got %+v", st)
	}
}

func TestRequestsInFlightAreGivenBack(t *testing.T) {
	g := newGate(t)
	for i := range 100 {
		x := request(50)
		if i%3 == 0 {
			x.Deadline = 0
		}
		g.run(x)
	}
	if own, all := g.appOf("shop").limiter.InFlight(), g.all.InFlight(); own != 0 || all != 0 {
		t.Errorf("when all is over: %d in flight at the app, %d at the edge; want none", own, all)
	}
}

func TestTheTightestLimitOfMemoryCounts(t *testing.T) {
	files := fstest.MapFS{
		"proc/self/cgroup":                  {Data: []byte("0::/a/b\n")},
		"sys/fs/cgroup/a/b/memory.max":      {Data: []byte("max\n")},
		"sys/fs/cgroup/a/memory.max":        {Data: []byte("1048576\n")},
		"sys/fs/cgroup/memory.max":          {Data: []byte("2097152\n")},
		"sys/fs/cgroup/memory/a/memory.max": {Data: []byte("1\n")},
	}
	if got := memoryLimit(files); got != 1<<20 {
		t.Errorf("got %d, want %d", got, 1<<20)
	}
	if got := memoryLimit(fstest.MapFS{}); got != 0 {
		t.Errorf("without control groups: got %d, want 0", got)
	}
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"GET,HEAD /browse 70", "* /logs BULK", "* / 1", ", / 1", "a b c", "* /x 101", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseRule(s)
		if err == nil && (r.score < 1 || r.score > 100 || !strings.HasPrefix(r.path, "/")) {
			t.Errorf("%q became %+v", s, r)
		}
		if err == nil {
			r.matches(&filter.Request{Method: "GET", Path: r.path + "/x"})
		}
	})
}

func TestDecidingTakesNoMemory(t *testing.T) {
	if raceEnabled {
		return // it counts what the detector does
	}
	g := newGate(t, "edge.priority.play", "GET /play 70")
	g.busy(time.Second, 0.95)
	x := request(0)
	for _, c := range []struct {
		name  string
		score int
	}{{"a refusal", 90}, {"a request that is let in", 20}} {
		text := strconv.Itoa(c.score)
		if n := testing.AllocsPerRun(1000, func() { again(g, x, text) }); n != 0 {
			t.Errorf("%s takes %v allocations, want none", c.name, n)
		}
	}
}

func again(g *gate, x *filter.Exchange, score string) {
	x.Reset()
	x.Client, x.Trusted, x.Deadline = peer, true, math.MaxInt64
	x.Request.Method, x.Request.Path = "GET", "/cart"
	x.Request.Header.Add("X-Edge-Priority", score)
	g.chain.Run(x)
	x.End()
}

func BenchmarkRefused(b *testing.B) { benchmark(b, "90") }
func BenchmarkLetIn(b *testing.B)   { benchmark(b, "20") }

func benchmark(b *testing.B, score string) {
	g := newGate(b)
	g.busy(time.Second, 0.95)
	x := request(0)
	b.ReportAllocs()
	for b.Loop() {
		again(g, x, score)
	}
}

func TestARequestIsInFlightOnceItsBodyIsAtHand(t *testing.T) {
	g := newGate(t)
	x := request(50)
	r, w := io.Pipe()
	defer w.Close()
	x.Request.Method, x.Request.Body, x.Request.ContentLength = "POST", r, 10
	x.Plan, x.App = g.plan, "shop"
	g.routed(x)
	if got := g.appOf("shop").limiter.InFlight(); got != 0 {
		t.Errorf("while its body is waited for: %d in flight, want 0", got)
	}
	for _, f := range g.Filters() {
		if f.Name == "OriginFlight" && f.If(x) {
			f.Apply(x)
		}
	}
	if got := g.appOf("shop").limiter.InFlight(); got != 1 {
		t.Errorf("once that is over: %d in flight, want 1", got)
	}
	x.End()
	if own, all := g.appOf("shop").limiter.InFlight(), g.all.InFlight(); own != 0 || all != 0 {
		t.Errorf("when all is over: %d in flight at the app, %d at the edge; want none", own, all)
	}
}
