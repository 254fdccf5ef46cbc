package ipc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/fault"
)

// everywhere returns a network in which so many endpoints do the same.
func everywhere(n int, do func(*http.Request) (*http.Response, error)) (*network, Static) {
	net := &network{hosts: map[string]func(*http.Request) (*http.Response, error){}}
	var ports []int
	for p := range n {
		net.hosts[addr(p+1)] = do
		ports = append(ports, p+1)
	}
	return net, Static{"app": instances("", ports...)}
}

func serving(t *testing.T, attempt int) (context.Context, *inbound) {
	in := &inbound{attempt: attempt, id: "r"}
	return context.WithValue(t.Context(), inboundKey{}, in), in
}

func TestRefusedStreamIsSentElsewhereUncharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuses := func(*http.Request) (*http.Response, error) {
			return nil, fmt.Errorf("reset: %w", streamError{StreamID: 1, Code: refusedStream})
		}
		n, lists := everywhere(3, refuses)
		e := newTestEngine(t, Options{Lists: lists, Transport: n})
		if _, err := get(e, t.Context(), "POST", "http://app/"); err == nil || n.attempts() != 3 {
			t.Errorf("refused by all: got %v after %d attempts, want an error after 3", err, n.attempts())
		}
		if _, used := e.cluster("app").budget.limit(e.Command("app", Settings{}).set.Load()); used != 0 {
			t.Errorf("%d attempts were charged, want 0", used)
		}
		n, lists = everywhere(3, func(*http.Request) (*http.Response, error) { return nil, streamError{Code: 2} })
		e = newTestEngine(t, Options{Lists: lists, Transport: n})
		if get(e, t.Context(), "POST", "http://app/"); n.attempts() != 1 {
			t.Errorf("POST whose stream broke for another reason: %d attempts, want 1", n.attempts())
		}
	})
}

func TestBodyThatCannotBeHadAgainIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lists := everywhere(2, cut)
		e := newTestEngine(t, Options{Lists: lists, Transport: n})
		send := func(getBody func() (io.ReadCloser, error)) error {
			req, err := http.NewRequest("PUT", "http://app/", io.NopCloser(strings.NewReader("hello")))
			if err != nil {
				t.Fatal(err)
			}
			req.GetBody = getBody
			_, err = e.Transport().RoundTrip(req)
			return err
		}
		err := send(nil)
		if !errors.Is(err, ErrBodySent) || !errors.Is(err, io.ErrUnexpectedEOF) || n.attempts() != 1 || !strings.Contains(err.Error(), "set the request's GetBody") {
			t.Errorf("got %v after %d attempts, want ErrBodySent beside the failure after 1", err, n.attempts())
		}
		if err := send(func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("hello")), nil }); errors.Is(err, ErrBodySent) || n.attempts() != 1+3 {
			t.Errorf("with GetBody: got %v after %d attempts, want 3 more", err, n.attempts())
		}
		if err := send(func() (io.ReadCloser, error) { return nil, errors.New("lost") }); err == nil || !strings.Contains(err.Error(), "by its GetBody: lost") {
			t.Errorf("GetBody that fails: got %v", err)
		}
	})
}

func TestBudgetIsSetByProperties(t *testing.T) {
	for _, tc := range []struct {
		percent, perSecond string
		least, most        int // extras for 1000 calls within a second
	}{
		{"20", "10", 190, 200}, {"5", "10", 100, 100}, {"0", "0", 0, 0}, {"50", "0", 490, 500}, {"0", "3", 6, 30}, {"1000", "1000000", 2000, 2000},
		{"-1", "1e3", 190, 200}, // refused; the default stays
	} {
		synctest.Test(t, func(t *testing.T) {
			n, lists := everywhere(2, answer(503))
			e := newTestEngine(t, Options{Lists: lists, Transport: n})
			e.Command("app", Settings{ForceClosed: true, Timeout: -1, MaxConcurrent: 5000})
			e.configure(1, properties{"ipc.command.app.retryBudget.percent": tc.percent, "ipc.command.app.retryBudget.perSecond": tc.perSecond})
			for range 1000 {
				go get(e, t.Context(), "GET", "http://app/")
			}
			synctest.Wait()
			time.Sleep(2 * time.Second)
			if extra := n.attempts() - 1000; extra < tc.least || extra > tc.most {
				t.Errorf("percent %s and %s a second: %d extras for 1000 calls, want %d to %d", tc.percent, tc.perSecond, extra, tc.least, tc.most)
			}
		})
	}
}

func TestAppThatIsCalledLittleGetsTenRetriesASecondAsLongAsTheyHelp(t *testing.T) {
	for _, tc := range []struct {
		name        string
		helps       bool
		least, most int // of retries for 150 calls within 10 s
	}{
		{"the first attempt of each call fails", true, 100, 100},
		{"all fail", false, 29, 31}, // a fifth
	} {
		synctest.Test(t, func(t *testing.T) {
			n, lists := everywhere(2, func(r *http.Request) (*http.Response, error) {
				if tc.helps && r.Header.Get(HeaderAttempt) == "2" {
					return answer(200)(r)
				}
				return answer(503)(r)
			})
			e := newTestEngine(t, Options{Lists: lists, Transport: n})
			e.Command("app", Settings{BreakerOff: true})
			for range 150 {
				get(e, t.Context(), "GET", "http://app/")
				time.Sleep(50 * time.Millisecond)
			}
			if got := n.attempts() - 150; got < tc.least || got > tc.most {
				t.Errorf("%s: %d retries of 150 calls, want %d to %d", tc.name, got, tc.least, tc.most)
			}
		})
	}
}

func TestBudgetThatIsSpentIsAnEventAndOneThatRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lists := everywhere(2, answer(503))
		e := newTestEngine(t, Options{Lists: lists, Transport: n})
		e.Command("app", Settings{ForceClosed: true, RetryPercent: -1, RetryPerSecond: -1})
		ctx, in := serving(t, 1)
		for range 10 {
			if status, err := get(e, ctx, "GET", "http://app/"); status != 503 {
				t.Errorf("got %d, %v; want the callee's own 503", status, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if !in.noRetry.Load() {
			t.Error("upstream is not asked to leave it at that")
		}
		time.Sleep(20 * time.Second)
		got := e.Events(0)
		if len(got) != 2 || !strings.Contains(got[0].Text, "is spent") || !strings.Contains(got[1].Text, "has room again; 10 were denied") {
			t.Errorf("got events %v, want that it was spent, and that it has room again", got)
		}
	})
}

func TestWhoRetriedInVainAsksUpstreamNotTo(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(*http.Request) (*http.Response, error)
		set  Settings
		want bool
	}{
		{"503 thrice", answer(503), Settings{}, true},
		{"cut thrice", cut, Settings{}, true},
		{"told not to", answer(503, HeaderNoRetry, "1"), Settings{}, true},
		{"never retries", answer(503), Settings{Retries: -1}, false}, // upstream may know better instances
		{"an answer", answer(500), Settings{}, false},
		{"success", answer(200), Settings{}, false},
		{"refused by all", nil, Settings{}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, lists := everywhere(5, tc.do)
			e := newTestEngine(t, Options{Lists: lists, Transport: n})
			e.Command("app", tc.set)
			ctx, in := serving(t, 1)
			get(e, ctx, "GET", "http://app/")
			if got := in.noRetry.Load(); got != tc.want {
				t.Errorf("%s: upstream is asked not to retry: %v, want %v", tc.name, got, tc.want)
			}
		})
	}
}

func TestRetriesOfRetriesOnlyIfWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lists := everywhere(5, answer(503))
		e := newTestEngine(t, Options{Lists: lists, Transport: n})
		e.configure(1, properties{"ipc.command.app.retry.nested": "true"})
		ctx, _ := serving(t, 2)
		if get(e, ctx, "GET", "http://app/"); n.attempts() != 3 {
			t.Errorf("with retry.nested: %d attempts, want 3", n.attempts())
		}
		for i, r := range n.seen {
			if a, envoy := r.Header.Get(HeaderAttempt), r.Header.Get("X-Envoy-Attempt-Count"); a != fmt.Sprint(i+2) || envoy != a {
				t.Errorf("attempt %d says %s and, to Envoy, %s; want %d", i+1, a, envoy, i+2)
			}
		}
	})
}

func TestFaultsOnResponseBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const whole = "0123456789"
		n, lists := everywhere(1, func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(whole)), ContentLength: int64(len(whole))}, nil
		})
		e := newTestEngine(t, Options{Lists: lists, Transport: n})
		e.Command("app", Settings{Timeout: 20 * time.Second})
		read := func(rules string) (string, error) {
			k := fault.Key("k")
			f, err := fault.Parse(k, fault.Sign(k, "x", time.Now().Add(time.Hour), rules), "r", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			req, _ := http.NewRequestWithContext(fault.With(t.Context(), f), "GET", "http://app/", nil)
			resp, err := e.Transport().RoundTrip(req)
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return string(b), err
		}
		if b, err := read("client:app=partial(4)"); b != whole[:4] || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("partial(4): got %q, %v; want %q and an unexpected EOF", b, err, whole[:4])
		}
		if b, err := read("client:app=partial(50%)"); b != whole[:5] || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("partial(50%%): got %q, %v; want half and an unexpected EOF", b, err)
		}
		b, err := read("client:app=corrupt(3)")
		wrong := 0
		for i := range min(len(b), len(whole)) {
			if b[i] != whole[i] {
				wrong++
			}
		}
		if wrong != 3 || len(b) != len(whole) || err != nil {
			t.Errorf("corrupt(3): got %q, %v; want three wrong bytes", b, err)
		}
		start := time.Now()
		if b, err := read("client:app=slow(2)"); b != whole || err != nil || time.Since(start) < 4*time.Second || time.Since(start) > 6*time.Second {
			t.Errorf("slow(2): got %q, %v after %s; want all of it after some 5s", b, err, time.Since(start))
		}
		start = time.Now()
		if _, err := read("client:app=drop"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 20*time.Second {
			t.Errorf("drop: got %v after %s, want nothing until the deadline", err, time.Since(start))
		}
		if _, err := read("client:app=reject"); !errors.Is(err, ErrRejected) || !errors.Is(err, ErrInjected) {
			t.Errorf("reject: got %v, want ErrRejected and ErrInjected", err)
		}
		failures := e.Snapshot()[0].App.Endpoints[0].Failures
		if failures != 2 {
			t.Errorf("the instance has %d failures, want 2: the bodies that were cut", failures)
		}
	})
}

func TestCallersRetryLessForAsLongAsTheyAreAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asks := "max-retries=0;window=10"
		n, lists := everywhere(3, func(r *http.Request) (*http.Response, error) { return answer(503, HeaderBackoff, asks)(r) })
		e := newTestEngine(t, Options{Lists: lists, Transport: n})
		attempts := func() int {
			before := n.attempts()
			get(e, t.Context(), "GET", "http://app/")
			return n.attempts() - before
		}
		if got := attempts(); got != 1 {
			t.Errorf("no retries are wanted: got %d attempts, want 1", got)
		}
		if why, ok := e.Why("app", 1); !ok || !strings.Contains(fmt.Sprintf("%+v", why), HeaderBackoff) {
			t.Errorf("the reason that is told is %v, want one that names %s", why, HeaderBackoff)
		}
		asks = ""
		if got := attempts(); got != 1 {
			t.Errorf("another call within the window: got %d attempts, want 1", got)
		}
		time.Sleep(10 * time.Second)
		if got := attempts(); got != 3 {
			t.Errorf("after the window: got %d attempts, want 3", got)
		}
		for _, asks = range []string{"max-retries=1;window=10", " window=10; max-retries=1 "} {
			if got := attempts(); got != 2 {
				t.Errorf("%q: got %d attempts, want 2", asks, got)
			}
			time.Sleep(10 * time.Second)
		}
		for _, asks = range []string{"max-retries=0", "window=10", "max-retries=-1;window=1", "max-retries=0;window=soon", "no"} {
			if got := attempts(); got != 3 {
				t.Errorf("%q makes no sense: got %d attempts, want 3", asks, got)
			}
		}
	})
}
