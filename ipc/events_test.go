package ipc

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"context"
)

// ask answers a GET of url by h.
func ask(h http.Handler, url string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", url, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestEventsTellWhatBreakersAndBalancersDid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(500), addr(2): answer(200), addr(3): answer(200)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1, 2, 3)}, Transport: n})
		for range 100 {
			get(e, t.Context(), "GET", "http://app/")
			time.Sleep(time.Millisecond)
		}
		c := e.Command("db", Settings{})
		for range 20 {
			Call(t.Context(), c, func(context.Context) (int, error) { return 0, errors.New("down") })
		}
		time.Sleep(501 * time.Millisecond)
		Call(t.Context(), c, func(context.Context) (int, error) { return 0, nil }) // refused
		time.Sleep(5 * time.Second)
		Call(t.Context(), c, func(context.Context) (int, error) { return 0, errors.New("down") })
		time.Sleep(5001 * time.Millisecond)
		Call(t.Context(), c, func(context.Context) (int, error) { return 1, nil })
		var got []string
		for _, ev := range e.Events(0) {
			if ev.Seq != uint64(len(got)+1) || ev.At.After(time.Now()) {
				t.Errorf("event %d: seq %d at %s", len(got), ev.Seq, ev.At)
			}
			got = append(got, fmt.Sprintf("%s %s %s", ev.Kind, ev.Command, ev.Text))
		}
		want := []string{"eject app instance i-1 at 10.0.0.1:1", "breaker db breaker open: 100 % of 20 calls failed", "breaker db breaker stays open", "breaker db breaker closed"}
		if len(got) != len(want) {
			t.Fatalf("got events %q, want %q", got, want)
		}
		for i := range want {
			if !strings.HasPrefix(got[i], want[i]) {
				t.Errorf("event %d: got %q, want it to begin with %q", i+1, got[i], want[i])
			}
		}
		var answered struct{ Events []Event }
		w := ask(e.EventsHandler(), "/ipc/events?command=db&kind=breaker&after=2")
		if err := json.Unmarshal(w.Body.Bytes(), &answered); err != nil || len(answered.Events) != 2 || answered.Events[0].Seq != 3 {
			t.Errorf("after=2: got %s, %v; want events 3 and 4", w.Body, err)
		}
		if w := ask(e.EventsHandler(), "/ipc/events?after=-1"); w.Code != 400 || !strings.Contains(w.Body.String(), "not the number of an event") {
			t.Errorf("after=-1: got %d %s, want 400 and why", w.Code, w.Body)
		}
	})
}

func TestTheLast500EventsAreKept(t *testing.T) {
	e := newTestEngine(t, Options{})
	for i := range 1234 {
		e.event(LimitEvent, "x", fmt.Sprint(i+1))
	}
	for _, tc := range []struct {
		after uint64
		n     int
		first string
	}{{0, 500, "735"}, {734, 500, "735"}, {1000, 234, "1001"}, {1234, 0, ""}, {1 << 63, 0, ""}, {1<<64 - 1, 0, ""}} {
		got := e.Events(tc.after)
		if len(got) != tc.n || tc.n > 0 && got[0].Text != tc.first {
			t.Errorf("after %d: got %d events from %v on, want %d from %s on", tc.after, len(got), got[:min(1, len(got))], tc.n, tc.first)
		}
	}
}

func TestAFaultIsToldOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newTestEngine(t, Options{})
		for range 100 {
			e.faultHit("client:a=reset")
			time.Sleep(9 * time.Second)
		}
		e.faultHit("client:b=reset")
		time.Sleep(11 * time.Second)
		e.faultHit("client:a=reset")
		if got := len(e.Events(0)); got != 3 {
			t.Errorf("got %d events, want 3: one for each rule, and one after its rest", got)
		}
		for i := range 10 * maxFaultIn {
			e.faultHit(fmt.Sprint(i))
		}
		if got := len(e.events.faults); got > maxFaultIn {
			t.Errorf("%d rules are remembered, want at most %d", got, maxFaultIn)
		}
	})
}
