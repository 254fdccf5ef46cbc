package registry

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/meter"
	"pgregory.net/rapid"
)

// TestBucketLetsThroughItsRateAndItsBurst compares the bucket with one that is counted.
func TestBucketLetsThroughItsRateAndItsBurst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate, burst := rapid.IntRange(1, 1000).Draw(t, "rate"), rapid.IntRange(1, 20).Draw(t, "burst")
		b := newBucket(rate, burst)
		tokens, last := int64(burst)*b.every, int64(0) // in ns
		now := int64(0)
		for range rapid.IntRange(1, 100).Draw(t, "requests") {
			now += rapid.Int64Range(0, 3*b.every).Draw(t, "pause")
			tokens = min(tokens+now-last, int64(burst)*b.every)
			last = now
			want := tokens >= b.every
			if want {
				tokens -= b.every
			}
			if got := b.take(now); got != want {
				t.Fatalf("at %d ns with %d ns of tokens: got %v, want %v", now, tokens, got, want)
			}
		}
	})
}

func fetch(r *Registry, path string, headers ...string) int {
	req := httptest.NewRequest("GET", path, nil)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, req)
	return w.Code
}

func TestFetchesAreLimitedAsEurekasAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meter.New(nil)
		r := New(Config{Meter: m, Settings: Settings{RateLimit: true, Privileged: []string{"billing"}, Burst: 3, FetchRate: 10, FullFetchRate: 1}})
		r.s.register(reg("WEB", "1", up, 0), origin{})
		var got []int
		for _, path := range []string{"/eureka/apps", "/eureka/apps/delta", "/eureka/apps/WEB", "/eureka/apps/WEB", "/eureka/apps/WEB/1", "/eureka/vips/web"} {
			got = append(got, fetch(r, path, "DiscoveryIdentity-Name", "mine"))
		}
		if want := []int{200, 200, 200, 503, 200, 200}; !slices.Equal(got, want) {
			t.Errorf("a burst of fetches: got %v, want %v", got, want)
		}
		for _, name := range []string{"DefaultClient", "DefaultServer", "billing"} {
			if got := fetch(r, "/eureka/apps/", "DiscoveryIdentity-Name", name); got != 200 {
				t.Errorf("%s: got %d, want 200", name, got)
			}
		}
		time.Sleep(time.Second)
		got = got[:0]
		for range 4 {
			got = append(got, fetch(r, "/eureka/apps/"))
			time.Sleep(150 * time.Millisecond)
		}
		if want := []int{200, 200, 200, 503}; !slices.Equal(got, want) {
			t.Errorf("whole lists a second later, 7 a second: got %v, want %v, for their own bucket is empty", got, want)
		}
		if n := m.Counter("registry.refused", "reason", "rate").Count(); n != 2 {
			t.Errorf("refused for the rate: counted %d, want 2", n)
		}
	})
}

func TestStandardClientsAreLimitedWhereThatIsAsked(t *testing.T) {
	r := New(Config{Settings: Settings{RateLimit: true, LimitStandard: true, Burst: 1, FetchRate: 1}})
	a, b := fetch(r, "/eureka/apps", "DiscoveryIdentity-Name", "DefaultClient"), fetch(r, "/eureka/apps", "DiscoveryIdentity-Name", "DefaultClient")
	if a != 200 || b != 503 {
		t.Errorf("two fetches: got %d, %d; want 200, 503", a, b)
	}
}

func TestLargeAnswersAreWrittenAFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		big := shop()
		big.home = strings.Repeat("x", largeAnswer)
		r.s.register(big, origin{})
		for range cap(r.large) - 1 {
			r.large <- struct{}{}
		}
		if got := fetch(r, "/eureka/apps"); got != 200 {
			t.Errorf("the last place is free: got %d, want 200", got)
		}
		r.large <- struct{}{}
		start := time.Now()
		if got, took := fetch(r, "/eureka/apps"), time.Since(start); got != 503 || took != largeWait {
			t.Errorf("no place is free: got %d after %v, want 503 after %v", got, took, largeWait)
		}
		time.AfterFunc(time.Second, func() { <-r.large })
		start = time.Now()
		if got, took := fetch(r, "/eureka/apps"), time.Since(start); got != 200 || took != time.Second {
			t.Errorf("a place becomes free after 1 s: got %d after %v, want 200 then", got, took)
		}
		r.large <- struct{}{}
		if got := fetch(r, "/eureka/status"); got != 200 {
			t.Errorf("a small answer meanwhile: got %d, want 200", got)
		}
	})
}

func TestOperationsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meter.New(nil)
		r := New(Config{Meter: m})
		peer := origin{replicated: true}
		r.s.register(reg("WEB", "1", up, 1), origin{})
		r.s.register(reg("WEB", "2", up, 1), peer)
		for _, id := range []string{"1", "2", "nobody"} {
			r.s.renew(key{"WEB", id}, origin{}, 0, unknown)
			r.s.renew(key{"WEB", id}, peer, 0, unknown)
		}
		r.s.cancel(key{"WEB", "1"})
		r.s.endedElsewhere(key{"WEB", "2"}, 0)
		r.s.endedElsewhere(key{"WEB", "2"}, 0)
		for i, step := range []struct {
			path, id string
			after    time.Duration
		}{
			{"/eureka/apps/delta", "10.0.0.1", 0}, {"/eureka/apps/delta", "10.0.0.2", 0},
			{"/eureka/apps/", "10.0.0.1", time.Second},     // at once: the hash did not match
			{"/eureka/apps/", "10.0.0.1", 0},               // again, but no delta was before it
			{"/eureka/apps/", "10.0.0.2", 3 * time.Second}, // too late to be for that
			{"/eureka/apps/", "10.0.0.3", 0},
		} {
			time.Sleep(step.after)
			if got := fetch(r, step.path, "DiscoveryIdentity-Id", step.id); got != 200 {
				t.Fatalf("step %d: got %d", i, got)
			}
		}
		for name, want := range map[string]int64{
			"registry.registrations from client": 1, "registry.registrations from peer": 1,
			"registry.renewed from client": 2, "registry.renewed from peer": 2,
			"registry.unknown from client": 1, "registry.unknown from peer": 1,
			"registry.cancels from client": 1, "registry.cancels from peer": 1,
			"registry.fetches of delta": 2, "registry.fetches of all": 4, "registry.fetches.again": 1,
		} {
			f := strings.Fields(name)
			if got := m.Counter(f[0], f[1:]...).Count(); got != want {
				t.Errorf("%s: counted %d, want %d", name, got, want)
			}
		}
	})
}
