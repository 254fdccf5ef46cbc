package ratelimit

import (
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"pgregory.net/rapid"
)

func made(t testing.TB, rate string, burst int, key string) *limiter {
	t.Helper()
	l, err := newLimiter(Limit{Rate: rate, Burst: burst, Key: key}, meter.New(nil))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// In any span of time no key gets more than burst + rate × span requests, and one that never exceeds its rate is never
// refused. The model is a bucket of tokens.
func TestAKeyGetsItsBurstAndItsRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rps := rapid.IntRange(1, 1000).Draw(t, "rps")
		burst := rapid.IntRange(1, 50).Draw(t, "burst")
		l, err := newLimiter(Limit{Rate: strconv.Itoa(rps) + "rps", Burst: burst}, meter.New(nil))
		if err != nil {
			t.Fatal(err)
		}
		gap := int64(time.Second) / int64(rps)
		most := int64(burst) * gap // the model counts a token as the time that it takes to come, so that it is exact
		now, level := int64(time.Hour), most
		for i := range rapid.IntRange(1, 200).Draw(t, "n") {
			step := rapid.Int64Range(0, 3*gap).Draw(t, "step")
			now += step
			level = min(most, level+step)
			left, full, wait := l.take(1, now)
			if ok, want := wait <= 0, level >= gap; ok != want {
				t.Fatalf("request %d: got %v, want %v with %d ns of tokens of %d ns", i, ok, want, level, gap)
			}
			if wait <= 0 {
				level -= gap
				if left != level/gap {
					t.Fatalf("request %d: %d tokens are left, want %d", i, left, level/gap)
				}
				if have := full - now; have != most-level {
					t.Fatalf("request %d: full in %d ns, want %d", i, have, most-level)
				}
			} else if _, _, again := l.take(1, now+wait); again > 0 {
				t.Fatalf("request %d: told to wait %d ns, and refused after that", i, wait)
			} else {
				now += wait
				level = min(most, level+wait) - gap
			}
		}
	})
}

func TestRatesAreReadAndRefusedWithASentence(t *testing.T) {
	for in, want := range map[string]time.Duration{"100rps": 10 * time.Millisecond, "2/s": 500 * time.Millisecond, "30/m": 2 * time.Second, "1/h": time.Hour, "0.5rps": 2 * time.Second} {
		if got, err := parseRate(in); err != nil || time.Duration(got) != want {
			t.Errorf("parseRate(%q) = %v, %v; want %v", in, time.Duration(got), err, want)
		}
	}
	for _, in := range []string{"", "100", "rps", "-1rps", "0/s", "1/d", "NaNrps", "Inf/s", "1e10rps", "1e-9rps"} {
		if got, err := parseRate(in); err == nil || !strings.Contains(err.Error(), in) {
			t.Errorf("parseRate(%q) = %v, %v; want an error that tells it", in, got, err)
		}
	}
	for _, l := range []Limit{{Rate: "1rps", Burst: -1}, {Rate: "1rps", Burst: 2e6}, {Rate: "1rps", Key: "colour"}, {Rate: "1rps", Key: "header:"}, {Rate: "1rps", Key: "header:a b"}, {Rate: "1/h", Burst: 10_000}} {
		if _, err := newLimiter(l, meter.New(nil)); err == nil {
			t.Errorf("%+v is taken, want an error", l)
		}
	}
}

func request(from string) *filter.Exchange {
	x := &filter.Exchange{From: netip.MustParseAddr(from)}
	x.Request = filter.Request{Method: "GET", Scheme: "http", Host: "shop", Path: "/", Proto: 11}
	return x
}

func TestKeysAreCountedApart(t *testing.T) {
	with := func(x *filter.Exchange, f func(*filter.Exchange)) *filter.Exchange { f(x); return x }
	named := func(from, name, value string) *filter.Exchange {
		return with(request(from), func(x *filter.Exchange) { x.Request.Header.Add(name, value) })
	}
	for _, c := range []struct {
		key       string
		a, b      *filter.Exchange
		different bool
	}{
		{"client", request("192.0.2.1"), request("192.0.2.2"), true},
		{"client", request("192.0.2.1"), request("::ffff:192.0.2.1"), false},
		{"client", request("2001:db8::1"), request("2001:db8::ffff:1"), false},
		{"client", request("2001:db8::1"), request("2001:db8:0:1::1"), true},
		{"user", with(request("192.0.2.1"), func(x *filter.Exchange) { x.User = "ana" }), with(request("192.0.2.2"), func(x *filter.Exchange) { x.User = "ana" }), false},
		{"user", request("192.0.2.1"), request("192.0.2.2"), true},
		{"apiKey", named("192.0.2.1", "x-api-key", "1"), named("192.0.2.1", "X-API-Key", "2"), true},
		{"header:X-Tenant", named("192.0.2.1", "x-tenant", "1"), named("192.0.2.2", "X-Tenant", "1"), false},
		{"route", with(request("192.0.2.1"), func(x *filter.Exchange) { x.Plan = &filter.Plan{Route: "a"} }), with(request("192.0.2.1"), func(x *filter.Exchange) { x.Plan = &filter.Plan{Route: "b"} }), true},
		{"all", request("192.0.2.1"), request("192.0.2.2"), false},
	} {
		l := made(t, "1rps", 1, c.key)
		if got := l.key(c.a) != l.key(c.b); got != c.different {
			t.Errorf("key %s: %v and %v counted apart: %v, want %v", c.key, c.a.From, c.b.From, got, c.different)
		}
	}
}

func chain(t testing.TB, plan *filter.Plan, prop string) (*filter.Chain, *Limits) {
	t.Helper()
	p := config.New(config.Options{Override: map[string]string{"edge.ratelimit": prop}, Log: slog.New(slog.DiscardHandler)})
	l := New(p, meter.New(nil))
	c, err := filter.NewChain(filter.ChainConfig{
		Filters: append(l.Filters(),
			&filter.Filter{Name: "Auth", Order: -300, Quick: true, Apply: func(x *filter.Exchange) error { x.User = x.Request.Header.Get("User"); return nil }},
			&filter.Filter{Name: "Routes", Order: -100, Quick: true, Apply: func(x *filter.Exchange) error { x.Plan = plan; return nil }}),
		Proxy:      &filter.Filter{Name: "ProxyEndpoint", Kind: filter.Endpoint, Quick: true, Apply: func(x *filter.Exchange) error { x.Answer(200, ""); return nil }},
		Properties: p, Meter: meter.New(nil), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c, l
}

func TestTheOneTooManyIsTold429(t *testing.T) {
	c, _ := chain(t, &filter.Plan{}, `{"rate": "2/h", "burst": 2, "key": "client"}`)
	for i, want := range []int{200, 200, 429} {
		x := request("192.0.2.1")
		c.Run(x)
		h := &x.Response.Header
		if x.Response.Status != want {
			t.Fatalf("request %d: got %d, want %d", i+1, x.Response.Status, want)
		}
		if want == 200 {
			continue
		}
		if h.Get("Retry-After") != "1800" || h.Get("RateLimit-Limit") != "2" || h.Get("RateLimit-Remaining") != "0" || h.Get("RateLimit-Reset") != "3600" {
			t.Errorf("got %v; want Retry-After 1800, RateLimit-Limit 2, -Remaining 0, -Reset 3600", h.Fields())
		}
		if cat, _ := x.Category(); cat != filter.FailureRateLimited {
			t.Errorf("category %s, want FAILURE_LOCAL_RATE_LIMITED", cat)
		}
		if b, _ := io.ReadAll(x.Response.Body); !strings.Contains(string(b), "Retry-After") {
			t.Errorf("the answer says %q, want what to do", b)
		}
	}
	x := request("192.0.2.2")
	if c.Run(x); x.Response.Status != 200 {
		t.Errorf("another client: got %d, want 200", x.Response.Status)
	}
}

func TestALimitByUserIsHeldAfterAuthentication(t *testing.T) {
	c, _ := chain(t, &filter.Plan{}, `[{"rate": "1/h", "burst": 1, "key": "user"}, {"rate": "100rps"}]`)
	ask := func(user, from string) int {
		x := request(from)
		x.Request.Header.Add("User", user)
		c.Run(x)
		return x.Response.Status
	}
	if a, b, other := ask("ana", "192.0.2.1"), ask("ana", "192.0.2.2"), ask("bob", "192.0.2.1"); a != 200 || b != 429 || other != 200 {
		t.Errorf("ana, ana from elsewhere, bob: got %d, %d, %d; want 200, 429, 200", a, b, other)
	}
}

func TestRoutesHaveLimitsOfTheirOwn(t *testing.T) {
	plan := &filter.Plan{Route: "shop"}
	c, l := chain(t, plan, "")
	var err error
	if plan.Inbound, err = l.Route(json.RawMessage(`{"rate": "1/m", "burst": 1, "key": "route"}`)); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{200, 429} {
		x := request("192.0.2." + strconv.Itoa(i+1))
		if c.Run(x); x.Response.Status != want {
			t.Errorf("request %d: got %d, want %d", i+1, x.Response.Status, want)
		}
	}
	for _, bad := range []string{``, `[]`, `{}`, `{"rate": "1rps", "brust": 2}`, `{"rate": "1rps"} x`, `3`} {
		if _, err := l.Route(json.RawMessage(bad)); err == nil {
			t.Errorf("%s is taken, want an error", bad)
		}
	}
}

func TestAValueWithAMistakeChangesNothing(t *testing.T) {
	for _, text := range []string{`[{"rate": "1rps"}, {"rate": "1"}]`, `{"rate": "1rps"}}`, `{"rate": "1rps"} {"rate": "2rps"}`} {
		_, l := chain(t, nil, text)
		if n := len(*l.stages[0].Load()); n != 0 {
			t.Errorf("%s: of a text with a mistake %d limits are in force, want none", text, n)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	l := made(t, "1/h", 5, "")
	l.most = 100
	r := rand.New(rand.NewPCG(1, 2))
	now := int64(time.Hour)
	l.take(64, now) // of shard 0, and misses most
	for range 4 {
		l.take(64, now)
	}
	for range 100_000 {
		l.take(r.Uint64(), now)
	}
	total := 0
	for i := range l.parts {
		total += len(l.parts[i].full)
	}
	if total > 100*shards {
		t.Errorf("%d keys are held, want %d at most", total, 100*shards)
	}
	if _, _, wait := l.take(64, now); wait <= 0 {
		t.Error("a key without tokens was forgotten for those with more")
	}
}

func TestManyAtOnceGetNoMoreThanOne(t *testing.T) {
	l := made(t, "1/h", 50, "")
	var all sync.WaitGroup
	var mu sync.Mutex
	got := 0
	for range 8 {
		all.Go(func() {
			for range 100 {
				if _, _, wait := l.take(7, int64(time.Hour)); wait <= 0 {
					mu.Lock()
					got++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	if got != 50 {
		t.Errorf("800 requests at once with a burst of 50: %d were let in", got)
	}
}

func TestAKnownKeyTakesNoMemory(t *testing.T) {
	if raceEnabled {
		return // it counts what the detector does
	}
	for _, burst := range []int{1, 1_000_000} {
		l := made(t, "1000/s", burst, "client")
		x := request("192.0.2.1")
		if n := testing.AllocsPerRun(1000, func() { x.Reset(); l.apply(x) }); n != 0 {
			t.Errorf("with a burst of %d: %v allocations, want none", burst, n)
		}
	}
}

func FuzzLimit(f *testing.F) {
	for _, s := range []string{`{"rate": "100rps", "burst": 50, "key": "client"}`, `[{"rate":"1/h"}]`, `{"rate":"1e9rps","key":"header:a"}`, `[`, ``} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l := &Limits{meter: meter.New(nil)}
		list, err := l.parse(s)
		if err != nil {
			return
		}
		for _, r := range list {
			if _, _, wait := r.take(1, int64(time.Hour)); wait > 0 {
				t.Errorf("%q refuses the first request", s)
			}
		}
	})
}

func BenchmarkTake(b *testing.B) {
	l := made(b, "1000000/s", 1000, "client")
	x := request("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		l.take(l.key(x), filter.Now())
	}
}
