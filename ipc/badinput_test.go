package ipc

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
)

// What makes no sense gets a clear answer; nothing is lost, nothing crashes.
func TestCallsThatMakeNoSense(t *testing.T) {
	past := func(t *testing.T) context.Context {
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Hour))
		t.Cleanup(cancel)
		return ctx
	}
	override := func(o Override) func(*testing.T) context.Context {
		return func(t *testing.T) context.Context { return WithOverride(t.Context(), o) }
	}
	for _, tc := range []struct {
		name     string
		do       func(*http.Request) (*http.Response, error)
		ctx      func(*testing.T) context.Context
		list     []roadbed.Instance
		want     error // nil: some other
		says     string
		attempts int
	}{
		{"deadline in the past", answer(200), past, instances("", 1), ErrDeadlineSpent, "no time is left before the caller's deadline", 0},
		{"registry that returns nothing", answer(200), nil, nil, ErrNoEndpoint, "no instance of it is known that may take traffic", 0},
		{"registry that returns only what may not take traffic", answer(200), nil, []roadbed.Instance{{ID: "x", Host: "10.0.0.1", Port: 1, Status: roadbed.OutOfService}}, ErrNoEndpoint, "", 0},
		{"no time at all", answer(200), override(Override{Timeout: 1}), instances("", 1), ErrDeadlineSpent, "", 0},
		{"all the time in the world, and more retries than there are", cut, override(Override{Timeout: math.MaxInt64, Retries: math.MaxInt}), instances("", 1, 2, 3), io.ErrUnexpectedEOF, "attempt 10", 10},
		{"transport that returns nothing", func(*http.Request) (*http.Response, error) { return nil, nil }, nil, instances("", 1), errNoAnswer, "see Options.Transport", 3},
		{"transport that forgets the body", func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 200}, nil }, nil, instances("", 1), errNoAnswer, "", 3},
		{"Retry-After beyond all numbers", answer(503, "Retry-After", "99999999999999999999"), nil, instances("", 1, 2), nil, "", 1},
		{"Retry-After below zero", answer(503, "Retry-After", "-1"), nil, instances("", 1, 2), nil, "", 1},
		{"Retry-After in the past", answer(503, "Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT"), nil, instances("", 1, 2), nil, "", 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): tc.do, addr(2): tc.do, addr(3): tc.do}}
				e := newTestEngine(t, Options{Lists: Static{"app": tc.list}, Transport: n})
				ctx := t.Context()
				if tc.ctx != nil {
					ctx = tc.ctx(t)
				}
				status, err := get(e, ctx, "GET", "http://app/x")
				if tc.want != nil && (!errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says)) || tc.want == nil && (status != 503 || err != nil) {
					t.Errorf("got %d, %v; want %v that says %q", status, err, tc.want, tc.says)
				}
				if n.attempts() != tc.attempts {
					t.Errorf("%d attempts, want %d", n.attempts(), tc.attempts)
				}
				if got := e.Command("app", Settings{}).inFlight(); got != 0 {
					t.Errorf("%d permits are out, want 0", got)
				}
			})
		})
	}
}

func TestGetBodyThatReturnsNothingIsNamed(t *testing.T) {
	n, lists := everywhere(2, cut)
	e := newTestEngine(t, Options{Lists: lists, Transport: n})
	req, err := http.NewRequest("PUT", "http://app/", io.NopCloser(strings.NewReader("hello")))
	if err != nil {
		t.Fatal(err)
	}
	req.GetBody = func() (io.ReadCloser, error) { return nil, nil }
	if _, err := e.Transport().RoundTrip(req); err == nil || !strings.Contains(err.Error(), "by its GetBody: it returned neither a body nor an error") {
		t.Errorf("got %v, want that GetBody returned nothing", err)
	}
}

func TestAttemptsAreUnderstoodInOthersWords(t *testing.T) {
	for _, tc := range []struct {
		header []string
		want   int
	}{
		{nil, 1},
		{[]string{HeaderAttempt, "3"}, 3},
		{[]string{"X-Envoy-Attempt-Count", "2"}, 2},
		{[]string{"Grpc-Previous-Rpc-Attempts", "2"}, 3},
		{[]string{HeaderAttempt, "1", "X-Envoy-Attempt-Count", "4"}, 4}, // a proxy on the way tried again
		{[]string{HeaderAttempt, "0"}, 1}, {[]string{HeaderAttempt, "-3"}, 1}, {[]string{HeaderAttempt, "many"}, 1}, {[]string{HeaderAttempt, "1e9"}, 1}, {[]string{HeaderAttempt, "99999999999999999999"}, 1},
		{[]string{"X-Envoy-Attempt-Count", "1001"}, 1}, {[]string{"Grpc-Previous-Rpc-Attempts", "-1"}, 1},
	} {
		e := newTestEngine(t, Options{})
		got := 0
		ask(e.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = inboundOf(r.Context()).attempt })), "/", tc.header...)
		if got != tc.want {
			t.Errorf("%v: attempt %d, want %d", tc.header, got, tc.want)
		}
	}
}

func FuzzParseRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "120", "-1", "1.5", "Wed, 21 Oct 2065 07:28:00 GMT", "soon", "18446744073709551616"} {
		f.Add(s)
	}
	now := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		wait, asked, valid := parseRetryAfter(s, now)
		if wait < 0 || wait > maxRetryAfter || asked != (s != "") || valid && !asked || !valid && wait != 0 {
			t.Errorf("%q: got %s, asked %v, valid %v", s, wait, asked, valid)
		}
	})
}

func FuzzBackoff(f *testing.F) {
	for _, s := range []string{"", "max-retries=0;window=10", " window=1 ; max-retries=2 ", "max-retries=-1", "window=99999999999", "=;=", "max-retries=1;window=0;x=1"} {
		f.Add(s)
	}
	e := newTestEngine(f, Options{})
	f.Fuzz(func(t *testing.T, s string) {
		cl := newCluster(e, "app", e.Command("app", Settings{}))
		cl.asked(s)
		if l := cl.lull.Load(); l != nil && (l.retries < 0 || l.until > e.clock.now()+int64(longestLull)) {
			t.Errorf("%q: got %+v", s, *l)
		}
	})
}
