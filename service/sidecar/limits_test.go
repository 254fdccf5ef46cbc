package sidecar

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestLimitsAreAcquiredAndReleasedOverHTTP(t *testing.T) {
	s := begin(t, Config{App: "shop", To: addrOf(serve(t, greet)), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	base := "http://" + s.Addr() + "/v1/limits/"
	var held []string
	for {
		got := do(t, once, http.MethodPost, base+"acquire?name=db", nil)
		var g grant
		if err := json.Unmarshal([]byte(got.body), &g); err != nil {
			t.Fatalf("acquire: got %d %q", got.status, got.body)
		}
		if got.status == http.StatusTooManyRequests {
			if g.Token != "" || g.InFlight != len(held) || g.Limit != len(held) || got.header.Get(headerError) != "limited" || got.header.Get("Retry-After") == "" {
				t.Errorf("refused: got %+v %v with %d held", g, got.header, len(held))
			}
			break
		}
		if held = append(held, g.Token); len(held) > 1000 {
			t.Fatal("no limit in sight after 1000 tokens")
		}
	}
	if got := do(t, once, http.MethodPost, base+"acquire", nil); got.status != http.StatusOK {
		t.Errorf("the limiter of another name: got %d", got.status)
	}
	for i, want := range []int{http.StatusNoContent, http.StatusNotFound} {
		if got := do(t, once, http.MethodPost, base+"release?token="+held[0], nil); got.status != want {
			t.Errorf("release number %d: got %d %q, want %d", i+1, got.status, got.body, want)
		}
	}
	if got := do(t, once, http.MethodPost, base+"acquire?name=db", nil); got.status != http.StatusOK {
		t.Errorf("after a release: got %d %q", got.status, got.body)
	}
	for _, path := range []string{"release?token=x&result=maybe", "acquire?name=" + strings.Repeat("x", 200)} {
		if got := do(t, once, http.MethodPost, base+path, nil); got.status != http.StatusBadRequest || got.header.Get(headerError) != "badrequest" {
			t.Errorf("%s: got %d", path, got.status)
		}
	}
}

func TestTokensAreCountedUntilTheyAreReleasedOrAMinuteOld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type one struct {
			id    string
			until time.Time
		}
		var l limits
		var held []one
		now := time.Unix(1e9, 0)
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) {
				g, ok, err := l.acquire("db", now)
				if err != nil || ok != (g.Token != "") {
					t.Fatalf("got %+v %v %v", g, ok, err)
				}
				if ok {
					held = append(held, one{g.Token, now.Add(tokenFor)})
				}
			},
			"release": func(t *rapid.T) {
				if len(held) == 0 {
					return
				}
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				want := held[i].until.After(now)
				if got := l.release(held[i].id, rapid.SampledFrom([]string{"", "ignore", "drop"}).Draw(t, "result"), now); got != want {
					t.Fatalf("release: got %v, want %v", got, want)
				}
				held = append(held[:i], held[i+1:]...)
			},
			"wait": func(t *rapid.T) { now = now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second) },
			"": func(t *rapid.T) {
				if l.byName == nil {
					return
				}
				l.expire(now)
				n := 0
				for _, h := range held {
					if h.until.After(now) {
						n++
					}
				}
				if got := l.byName["db"].InFlight(); got != n || len(l.tokens) != n {
					t.Fatalf("in flight: got %d with %d tokens, want %d", got, len(l.tokens), n)
				}
			},
		})
	})
}
