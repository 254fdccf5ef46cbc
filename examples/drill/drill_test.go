package drill

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/service"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a service alone, with these properties, and returns its URL.
func start(t *testing.T, name string, props map[string]string) string {
	t.Helper()
	s, err := service.Start(t.Context(), service.Config{Name: name, Properties: props, Log: slog.New(slog.DiscardHandler),
		Build: func(s *service.Service) (http.Handler, error) { return makers[name](s), nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := s.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	return "http://" + s.Addr()
}

// get returns an answer's status and text.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b))
}

func TestADeadLeafAnswers503AndCountsWhatReachesIt(t *testing.T) {
	for dead, want := range map[string]int{"false": 200, "true": 503} {
		url := start(t, Leaf, map[string]string{LeafDead: dead})
		for range 3 {
			if status, text := get(t, url+"/"); status != want {
				t.Errorf("%s=%s: got %d %s, want %d", LeafDead, dead, status, text, want)
			}
		}
		if _, n := get(t, url+Arrived); n != "3" {
			t.Errorf("%s=%s: %s tells %s, want 3", LeafDead, dead, Arrived, n)
		}
	}
}

func TestATileTakesWhatItsPropertySays(t *testing.T) {
	url := start(t, Tile, map[string]string{TileWait: "120ms"})
	began := time.Now()
	if status, text := get(t, url+"/"); status != 200 || time.Since(began) < 120*time.Millisecond {
		t.Errorf("got %d %s after %s, want 200 after 120ms or more", status, text, time.Since(began))
	}
	if _, n := get(t, url+Arrived); n != "1" {
		t.Errorf("%s tells %s, want 1", Arrived, n)
	}
}

func TestATillServesAsManyAtOnceAsItHasPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		till := newTill(nil)
		began := time.Now()
		var mu sync.Mutex
		ended := map[time.Duration]int{}
		var all sync.WaitGroup
		for range 2*TillPlaces + 1 {
			all.Go(func() {
				w := httptest.NewRecorder()
				till.ServeHTTP(w, httptest.NewRequest("GET", "/bulk", nil))
				mu.Lock()
				defer mu.Unlock()
				if w.Code == 200 {
					ended[time.Since(began)]++
				}
			})
		}
		all.Wait()
		if ended[TillTakes] != TillPlaces || ended[2*TillTakes] != TillPlaces || ended[3*TillTakes] != 1 {
			t.Errorf("served by time: %v, want %d, %d and 1 after one, two and three times %s", ended, TillPlaces, TillPlaces, TillTakes)
		}

		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for range TillPlaces {
			all.Go(func() { till.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)) })
		}
		synctest.Wait()
		w := httptest.NewRecorder()
		till.ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(gone))
		if w.Code != http.StatusGatewayTimeout {
			t.Errorf("nobody waits for it any more: got %d, want 504 without a place", w.Code)
		}
		all.Wait()
	})
}

func TestAHopPassesOnAndNeedsTheNext(t *testing.T) {
	url := start(t, Hop2, nil) // there is no leaf
	if status, text := get(t, url+"/"); status != 503 || !strings.Contains(text, Leaf) {
		t.Errorf("got %d %q, want 503 that names %s", status, text, Leaf)
	}
}

func TestThereIsNoOtherService(t *testing.T) {
	if err := Serve(t.Context(), "api"); !errors.Is(err, ErrNoService) {
		t.Errorf("got %v, want %v", err, ErrNoService)
	}
}

// answers is a transport that answers after a time that depends on the path.
type answers map[string]time.Duration

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.HasPrefix(r.Header.Get("X-Member"), "m") {
		return nil, errors.New("no member asks")
	}
	select {
	case <-time.After(a[r.URL.Path]):
		status, err := strconv.Atoi(r.URL.Query().Get("status"))
		return &http.Response{StatusCode: status, Body: http.NoBody, Request: r}, err
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

func TestALoadComesAtTheRatesWantedAndIsTimedFromWhenItWasDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLoad("http://edge/quick?status=200", "http://edge/late?status=200", "http://edge/refused?status=503")
		l.client.Transport = answers{"/quick": 10 * time.Millisecond, "/late": 2 * Patience, "/refused": 0}
		began := time.Now()
		l.Run(t.Context(), 8, func(second int) []float64 {
			if second < 4 {
				return []float64{400, 0, 0}
			}
			return []float64{100, 200, 400}
		})
		if took := time.Since(began); took < 8*time.Second || took > 8*time.Second+Patience {
			t.Errorf("it took %s, want 8 s and at most %s for the last answers", took, Patience)
		}
		// Seven standard deviations of a Poisson process either way.
		about := func(i, from, to, want, off int) {
			t.Helper()
			if n := l.Sum(i, from, to).Asked; n < want-off || n > want+off {
				t.Errorf("URL %d from second %d to %d: %d requests, want %d give or take %d", i, from, to, n, want, off)
			}
		}
		about(0, 0, 4, 1600, 280)
		about(1, 0, 4, 0, 0)
		about(0, 4, 8, 400, 140)
		about(1, 4, 8, 800, 200)
		about(2, 4, 8, 1600, 280)
		about(0, 8, 100, 0, 0)

		if quick := l.Sum(0, 0, 8); quick.Share() != 100 || quick.Quantile(0) != 10*time.Millisecond || quick.Quantile(1) != 10*time.Millisecond {
			t.Errorf("quick: %.1f %% served within %s to %s, want all after 10ms", quick.Share(), quick.Quantile(0), quick.Quantile(1))
		}
		for i, what := range map[int]string{1: "answers that are later than " + Patience.String(), 2: "503s"} {
			if got := l.Sum(i, 0, 8); len(got.Served) != 0 || got.Share() != 0 || got.Quantile(0.99) != 0 {
				t.Errorf("%s count as served: %d", what, len(got.Served))
			}
		}
		if none := l.Sum(0, 8, 9); none.Share() != 100 {
			t.Errorf("of nothing asked %v %% are served, want 100", none.Share())
		}
	})
}

func TestALoadEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		l := NewLoad("http://edge/?status=200")
		l.client.Transport = answers{"/": time.Hour}
		began := time.Now()
		l.Run(ctx, 60, func(int) []float64 { return []float64{100} })
		if took := time.Since(began); took < 1500*time.Millisecond || took > 2*time.Second {
			t.Errorf("it ended after %s, want 1.5 s or the next request after it", took)
		}
	})
}
