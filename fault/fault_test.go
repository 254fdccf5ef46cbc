package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var key = Key("secret")

func mustParse(t testing.TB, id, request, rules string) *Context {
	t.Helper()
	now := time.Now()
	c, err := Parse(key, Sign(key, id, now.Add(time.Minute), rules), request, now)
	if err != nil {
		t.Fatalf("rules %q: %v", rules, err)
	}
	return c
}

func TestRulesThatAreRight(t *testing.T) {
	for _, tc := range []struct {
		rule string
		want Rule
	}{
		{"client:bookmarks=delay(300ms,50ms)@100", Rule{point: "client", glob: "bookmarks", action: delay, delay: 300 * time.Millisecond, jitter: 50 * time.Millisecond, percent: 100}},
		{"server:ratings=error(503)@25", Rule{point: "server", glob: "ratings", action: fail, status: 503, percent: 25}},
		{"command:Get*=error(unavailable)", Rule{point: "command", glob: "Get*", action: fail, status: 503, percent: 100}},
		{"db:x=error(14)", Rule{point: "db", glob: "x", action: fail, status: 503, percent: 100}},
		{"cache:ev_?=reset@~0.5", Rule{point: "cache", glob: "ev_?", action: reset, percent: 0.5, perAttempt: true}},
		{"queue:*=hang@0", Rule{point: "queue", glob: "*", action: hang}},
		{"queue:jobs=drop@50#3", Rule{point: "queue", glob: "jobs", action: drop, percent: 50, max: 3}},
		{"command:x=reject#1", Rule{point: "command", glob: "x", action: reject, percent: 100, max: 1}},
		{"cache:x=miss", Rule{point: "cache", glob: "x", action: miss, percent: 100}},
		{"server:x=partial(512)", Rule{point: "server", glob: "x", action: partial, size: 512, share: -1, percent: 100}},
		{"server:x=partial(12.5%)", Rule{point: "server", glob: "x", action: partial, share: 12.5, percent: 100}},
		{"server:x=corrupt(3)", Rule{point: "server", glob: "x", action: corrupt, size: 3, share: -1, percent: 100}},
		{"server:x=slow(1000)@~5", Rule{point: "server", glob: "x", action: slow, size: 1000, share: -1, percent: 5, perAttempt: true}},
		{"server:*[us-east-1?|b][api-prod]=reject", Rule{point: "server", glob: "*", where: "[us-east-1?|b][api-prod]", action: reject, percent: 100}},
		{"edge:/home=nofallback", Rule{point: "edge", glob: "/home", action: noFallback, percent: 100}},
	} {
		tc.want.text = tc.rule
		got, err := ParseRules(" " + tc.rule + " ;")
		if err != nil || len(got) != 1 || got[0] != tc.want {
			t.Errorf("%s: got %+v, %v; want %+v", tc.rule, got, err, tc.want)
		}
	}
}

func TestRulesThatAreWrongSayWhatWouldBeRight(t *testing.T) {
	for rule, want := range map[string]string{
		"":                               "no rule",
		" ; ":                            "no rule",
		"ratings=error(503)":             "begin with one of",
		"disk:x=error(503)":              "begin with one of",
		"client:=error(503)":             "name or pattern",
		"client:x":                       "name or pattern",
		"client:x=":                      "unknown",
		"client:x=explode":               "unknown",
		"client:x=delay":                 "delay",
		"client:x=delay()":               "empty",
		"client:x=delay(soon)":           "duration",
		"client:x=delay(-1s)":            "duration",
		"client:x=delay(1h)":             "duration",
		"client:x=delay(1s,)":            "duration",
		"client:x=error":                 "HTTP status",
		"client:x=error(200)":            "HTTP status",
		"client:x=error(0)":              "HTTP status",
		"client:x=error(ok)":             "HTTP status",
		"client:x=error(503":             "bracket",
		"client:x=error((503))":          "bracket",
		"client:x=reset(1)":              "nothing in brackets",
		"client:x=reset@101":             "0 to 100",
		"client:x=reset@-1":              "0 to 100",
		"client:x=reset@NaN":             "0 to 100",
		"client:x=reset@":                "0 to 100",
		"client:x=reset@50#0":            "from 1 to 1000",
		"client:x=reset#3@50":            "it comes last",
		"client:x=reset#":                "from 1 to 1000",
		"client:x=partial":               "50%",
		"client:x=partial(100%)":         "less than 100%",
		"client:x=partial(-1)":           "how many bytes",
		"client:x=partial(NaN%)":         "less than 100%",
		"client:x=corrupt(0)":            "are altered",
		"client:x=slow(0)":               "in a second",
		"client:x=slow(1e9)":             "in a second",
		"client:x=slow(9999999999)":      "in a second",
		"queue:x=drop(1)":                "nothing in brackets",
		"client:x=reject(503)":           "nothing in brackets",
		"client:x=miss":                  "only a cache",
		"client:[a]=reset":               "zones or clusters",
		"client:x[]=reset":               "zones or clusters",
		"client:x[a|]=reset":             "zones or clusters",
		"client:x[a=reset":               "zones or clusters",
		"client:x[a]b=reset":             "zones or clusters",
		"client:x[[a]]=reset":            "zones or clusters",
		"client:a b=reset":               "not allowed",
		"client:\"=reset":                "not allowed",
		strings.Repeat("db:x=hang;", 65): "more than 64",
	} {
		if got, err := ParseRules(rule); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v; want an error that says %q", clip(rule), got, err, want)
		}
	}
}

func TestHeaderIsAcceptedOnlyIfSignedWholeAndInTime(t *testing.T) {
	now := time.Unix(1790000000, 0)
	const rules = "server:*=error(503)"
	good := Sign(key, "exp-1", now.Add(time.Minute), rules)
	if want := `id=exp-1; exp=1790000060; r="server:*=error(503)"; sig=`; !strings.HasPrefix(good, want) {
		t.Errorf("header %q, want it to begin with %s", good, want)
	}
	for _, tc := range []struct {
		name, header string
		key          Key
		at           time.Time
		want         error
	}{
		{"good", good, key, now, nil},
		{"other key", good, Key("other"), now, ErrUnsigned},
		{"no key", good, nil, now, ErrUnsigned},
		{"altered", strings.Replace(good, "503", "504", 1), key, now, ErrUnsigned},
		{"expired", good, key, now.Add(time.Minute), ErrExpired},
		{"unsigned", good[:strings.Index(good, "; sig")], key, now, ErrMalformed},
		{"signed nonsense", Sign(key, "x", now.Add(time.Minute), "nonsense"), key, now, ErrMalformed},
		{"bad id", Sign(key, "a b", now.Add(time.Minute), rules), key, now, ErrMalformed},
		{"too long", Sign(key, "x", now.Add(time.Minute), strings.Repeat(rules+";", 150)), key, now, ErrMalformed},
		{"signature altered", good[:len(good)-1] + "!", key, now, ErrUnsigned},
	} {
		c, err := Parse(tc.key, tc.header, "r1", tc.at)
		if !errors.Is(err, tc.want) || (c != nil) != (tc.want == nil) {
			t.Errorf("%s: got %v, %v; want %v", tc.name, c, err, tc.want)
		}
		if c != nil && (c.Header() != tc.header || c.ID() != "exp-1") {
			t.Errorf("%s: hands on %q of %q", tc.name, c.Header(), c.ID())
		}
	}
	if c, err := Parse(key, "", "r1", now); c != nil || err != nil {
		t.Errorf("no header: got %v, %v; want nothing", c, err)
	}
}

func TestAllHopsAndRetriesOfOneRequestAgree(t *testing.T) {
	hit := 0
	for i := range 10000 {
		id := fmt.Sprintf("req-%d", i)
		one, other := mustParse(t, "e", id, "client:x=reset@25"), mustParse(t, "e", id, "db:y=hang;client:x=reset@25")
		a, b, c := one.At("client", "x"), one.At("client", "x"), other.At("client", "x")
		if a.Reset != b.Reset || a.Reset != c.Reset {
			t.Fatalf("request %s: decisions %v, %v, %v differ", id, a.Reset, b.Reset, c.Reset)
		}
		if a.Reset {
			hit++
		}
	}
	if hit < 2300 || hit > 2700 {
		t.Errorf("25 %% of 10000 requests: %d were hit", hit)
	}
	c := mustParse(t, "e", "r", "client:x=reset@~50")
	yes := 0
	for range 1000 {
		if a := c.At("client", "x"); a.Reset {
			yes++
		}
	}
	if yes < 400 || yes > 600 {
		t.Errorf("per attempt, 50 %%: %d of 1000 attempts were hit", yes)
	}
}

func TestActionsCombine(t *testing.T) {
	c := mustParse(t, "e", "r", "client:a*=delay(10ms);client:abc=delay(5ms);client:abc=error(502);client:*c=error(503);client:abc=nofallback")
	a := c.At("client", "abc")
	if a.Delay != 15*time.Millisecond || a.Status != 502 || !a.NoFallback || !errors.Is(a.Err, ErrInjected) || a.Name() != "error" {
		t.Errorf("got %+v, want 15 ms, then status 502, no fallback", a)
	}
	for _, name := range []string{"", "xab"} {
		if a := c.At("client", name); !a.IsZero() {
			t.Errorf("name %q: got %+v, want nothing", name, a)
		}
	}
	if a := c.At("server", "abc"); !a.IsZero() {
		t.Errorf("another point: got %+v, want nothing", a)
	}
	if a := From(context.Background()).At("client", "abc"); !a.IsZero() {
		t.Errorf("without rules: got %+v, want nothing", a)
	}
	if From(With(context.Background(), c)) != c {
		t.Error("From does not find what With put in")
	}
}

func TestJitterStaysInRange(t *testing.T) {
	c := mustParse(t, "e", "r", "client:x=delay(20ms,30ms)")
	lo, hi := time.Hour, time.Duration(0)
	for range 2000 {
		a := c.At("client", "x")
		lo, hi = min(lo, a.Delay), max(hi, a.Delay)
	}
	if lo < 0 || lo > 5*time.Millisecond || hi > 50*time.Millisecond || hi < 40*time.Millisecond {
		t.Errorf("20ms give or take 30ms: from %s to %s, want about 0s to 50ms", lo, hi)
	}
}

func TestWaitEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			a    Action
			want time.Duration
			err  error
		}{
			{Action{Delay: 100 * time.Millisecond}, 100 * time.Millisecond, nil},
			{Action{Delay: 10 * time.Second}, time.Second, context.DeadlineExceeded},
			{Action{Hang: true}, time.Second, context.DeadlineExceeded},
			{Action{}, 0, nil},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			start := time.Now()
			err := tc.a.Wait(ctx)
			cancel()
			if d := time.Since(start); d != tc.want || !errors.Is(err, tc.err) || err != nil && !errors.Is(err, ErrInjected) {
				t.Errorf("%+v: got %v after %s, want %v after %s", tc.a, err, d, tc.err, tc.want)
			}
		}
	})
}

func TestNothingIsInjectedAfterTheHeadersExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustParse(t, "e", "r", "client:x=delay(50s);client:x=error(503);client:y=hang;client:z=slow(1)")
		time.Sleep(30 * time.Second)
		for _, name := range []string{"x", "y"} {
			a, start := c.At("client", name), time.Now()
			end := start.Add(time.Minute).Truncate(time.Second)
			if err := a.Wait(t.Context()); err != nil || !a.IsZero() {
				t.Errorf("%s: got %+v, %v at the end of the lease; want to go on without a fault", name, a, err)
			}
			if name == "x" && (time.Now().After(end) || time.Since(start) < 29*time.Second) {
				t.Errorf("waited %s, want until the lease ended", time.Since(start))
			}
		}
		if a := c.At("client", "z"); !a.IsZero() {
			t.Errorf("after the lease: got %+v, want nothing", a)
		}
	})
}

func TestWhatWaitsGoesOnWhenInjectionIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		c := mustParse(t, "e", "r", "client:x=hang;client:x=error(503);client:z=slow(1)")
		c.Arrived(Here{Stop: stop})
		time.AfterFunc(3*time.Second, func() { close(stop) })
		z := c.At("client", "z")
		body := z.Body.Reader(t.Context(), io.NopCloser(strings.NewReader(strings.Repeat("x", 1000))), 1000)
		a, start := c.At("client", "x"), time.Now()
		if err := a.Wait(t.Context()); err != nil || !a.IsZero() || time.Since(start) != 3*time.Second {
			t.Errorf("got %+v, %v after %s; want to go on without a fault after 3s", a, err, time.Since(start))
		}
		if b, err := io.ReadAll(body); err != nil || len(b) != 1000 || time.Since(start) > 5*time.Second {
			t.Errorf("slowed body: got %d bytes, %v after %s; want all at once", len(b), err, time.Since(start))
		}
		if a := c.At("client", "x"); !a.IsZero() {
			t.Errorf("afterwards: got %+v, want nothing", a)
		}
	})
}

func TestARuleWithALimitHitsARequestSoOftenAtMost(t *testing.T) {
	c := mustParse(t, "e", "r", "client:x=reset#2;client:*=error(503);server:x=hang#2")
	for i, want := range []string{"reset", "reset", "error", "error"} {
		if a := c.At("client", "x"); a.Name() != want {
			t.Errorf("call %d: got %s, want %s", i+1, a.Name(), want)
		}
	}
	for attempt, want := range map[int]bool{1: true, 2: true, 3: false, 1 << 40: false} {
		c := mustParse(t, "e", "r", "server:x=hang#2")
		c.Arrived(Here{Attempt: attempt})
		if a := c.At("server", "x"); a.Hang != want {
			t.Errorf("attempt %d at a server: got %v, want %v", attempt, a.Hang, want)
		}
	}
}

func TestARuleInBracketsHoldsOnlyInItsZonesAndClusters(t *testing.T) {
	for _, tc := range []struct {
		rule          string
		zone, cluster string
		want          bool
	}{
		{"server:x[a|b]=reject", "a", "", true}, {"server:x[a|b]=reject", "b", "x-prod", true}, {"server:x[a|b]=reject", "c", "", false},
		{"server:x[a|b]=reject", "", "", false}, {"server:x[x-prod]=reject", "a", "x-prod", true}, {"server:x[x-*]=reject", "a", "x-prod", true},
		{"server:x[a][x-prod]=reject", "a", "x-prod", true}, {"server:x[a][x-prod]=reject", "b", "x-prod", false}, {"server:x[a][x-prod]=reject", "a", "x-test", false},
		{"server:x[*]=reject", "", "", false},
	} {
		c := mustParse(t, "e", "r", tc.rule)
		c.Arrived(Here{Zone: tc.zone, Cluster: tc.cluster})
		if a := c.At("server", "x"); a.Reject != tc.want {
			t.Errorf("%s in zone %q, cluster %q: got %v, want %v", tc.rule, tc.zone, tc.cluster, a.Reject, tc.want)
		}
	}
	if got, want := Within("server:x=reset@5#2; client:y[a]=hang", []string{"b", "c"}), "server:x[b|c]=reset@5#2;client:y[a][b|c]=hang"; got != want {
		t.Errorf("Within: got %s, want %s", got, want)
	}
	if got := Within("nonsense", []string{"b"}); got != "nonsense" {
		t.Errorf("Within of what is no rule: got %s", got)
	}
}

func TestEveryActionHasItsName(t *testing.T) {
	for rule, want := range map[string]Action{
		"queue:x=drop":         {Drop: true},
		"client:x=drop":        {Drop: true, Hang: true},
		"cache:x=miss":         {Miss: true},
		"command:x=reject":     {Reject: true},
		"server:x=partial(3)":  {Body: Shape{cuts: true, limit: 3, share: 100}},
		"server:x=corrupt(3)":  {Body: Shape{corrupt: 3}},
		"server:x=slow(3)":     {Body: Shape{rate: 3}},
		"client:x=nofallback":  {NoFallback: true},
		"client:x=delay(1s)":   {Delay: time.Second},
		"client:x=reset":       {Reset: true},
		"client:x=error(503)":  {Status: 503},
		"edge:x=hang":          {Hang: true},
		"server:x=partial(3%)": {Body: Shape{cuts: true, limit: -1, share: 3}},
	} {
		point, rest, _ := strings.Cut(rule, ":")
		_, what, _ := strings.Cut(rest, "=")
		name, _, _ := strings.Cut(what, "(")
		c := mustParse(t, "e", "r", rule)
		a := c.At(point, "x")
		if a.Name() != name || a.Acts() != (name != "nofallback") {
			t.Errorf("%s: got name %q, acts %v", rule, a.Name(), a.Acts())
		}
		if failing := name == "reject" || name == "reset" || name == "error"; failing != errors.Is(a.Err, ErrInjected) {
			t.Errorf("%s: got error %v", rule, a.Err)
		}
		want.Rule, want.ID, want.Err, want.lease, want.Body.lease = rule, "e", a.Err, a.lease, a.Body.lease
		if a != want {
			t.Errorf("%s: got %+v, want %+v", rule, a, want)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "", true}, {"*", "x", true}, {"a*c", "abbc", true}, {"a*c", "ab", false}, {"a?c", "abc", true}, {"a?c", "ac", false},
		{"*a*b*", "xaxxbx", true}, {"*a*b*", "ba", false}, {"abc", "abcd", false}, {"", "", true}, {"**x", "x", true}, {"Get*", "GetRecs", true},
	} {
		if got := glob(tc.pattern, tc.name); got != tc.want {
			t.Errorf("glob(%q, %q): got %v", tc.pattern, tc.name, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	far := time.Unix(4000000000, 0)
	for _, s := range []string{"", "id=x", Sign(key, "e", far, "client:x=reset"), Sign(key, "e", far, "db:*=delay(1ms,1ms)@~3;server:a=error(7)"), "id=; exp=; r=\"\"; sig="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		now := time.Unix(1790000000, 0)
		if c, err := Parse(key, s, "r", now); c != nil && (err != nil || c.Header() != s || len(c.rules) == 0) {
			t.Errorf("%q: got %+v, %v", s, c, err)
		}
		// The fuzzer cannot sign, so sign for it: whatever is accepted must be accepted again, alike.
		if rules, err := ParseRules(s); err == nil {
			c, err := Parse(key, Sign(key, "e", far, s), "r", now)
			if len(s) < MaxHeader-100 && (err != nil || len(c.rules) != len(rules)) {
				t.Errorf("rules %q are right but their header is not: %v", s, err)
			}
		}
	})
}

var sink Action

func BenchmarkAtWithoutRules(b *testing.B) {
	b.ReportAllocs()
	ctx := context.Background()
	for b.Loop() {
		sink = From(ctx).At("client", "bookmarks")
	}
}

func BenchmarkAtWithRules(b *testing.B) {
	b.ReportAllocs()
	c := mustParse(b, "e", "r", "client:ratings=error(503)@25;server:*=delay(1ms)@10")
	for b.Loop() {
		sink = c.At("client", "bookmarks")
	}
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	now := time.Now()
	h := Sign(key, "exp-17", now.Add(time.Minute), "client:bookmarks=delay(300ms,50ms)@100;server:ratings=error(503)@25")
	for b.Loop() {
		if _, err := Parse(key, h, "r", now); err != nil {
			b.Fatal(err)
		}
	}
}
