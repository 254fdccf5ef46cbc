package ipc

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/fault"
)

func TestWhyExplainsEachPickRetryAndRefusal(t *testing.T) {
	for _, tc := range []struct {
		name   string
		do     func(*http.Request) (*http.Response, error)
		method string
		want   []string // in this order
	}{
		{"success", answer(200), "GET", []string{"GET app/x: 200 after", "first attempt: i-", "cost", "against", "of i-", "answered 200"}},
		{"refused everywhere", nil, "GET", []string{": failed (error) after", "first attempt", "connection refused", "sent again: i-", "there is no other instance to try", "the caller was told"}},
		{"cut", cut, "GET", []string{"first attempt", "unexpected EOF", "retry after a wait of", "retry after", "no retries are left"}},
		{"cut POST", cut, "POST", []string{"POST app/x", "unexpected EOF; not tried again: the method is not idempotent"}},
		{"503 that forbids it", answer(503, HeaderNoRetry, "1"), "GET", []string{"503 after", "answered 503; not tried again: the answer forbids it"}},
		{"503 for long", answer(503, "Retry-After", "60"), "GET", []string{"another attempt would end after the deadline"}},
		{"503 for ever", answer(503, "Retry-After", "never"), "GET", []string{"Retry-After makes no sense"}},
		{"hangs", hangs, "GET", []string{"failed (timeout) after 1000.00 ms of 1000.00 ms", "deadline exceeded"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): tc.do, addr(2): tc.do, addr(3): tc.do}}
				e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1, 2, 3)}, Transport: n})
				in := &inbound{attempt: 1, id: "r-1"}
				get(e, context.WithValue(t.Context(), inboundKey{}, in), tc.method, "http://app/x")
				for _, url := range []string{"/ipc/why?vip=app", "/ipc/why?vip=APP&n=1", "/ipc/why?id=r-1"} {
					got := ask(e.WhyHandler(), url).Body.String()
					rest := got
					for _, want := range append([]string{"for request r-1"}, tc.want[min(1, len(tc.want)-1):]...) {
						i := strings.Index(rest, want)
						if i < 0 {
							t.Fatalf("%s does not say %q after what came before; all of it:\n%s", url, want, got)
						}
						rest = rest[i:]
					}
				}
			})
		})
	}
}

func TestWhyAnswersInJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(503), addr(2): answer(503)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("z", 1, 2)}, Transport: n})
		get(e, t.Context(), "GET", "http://app/x", HeaderRequestID, "mine")
		for _, how := range [][]string{{"/ipc/why?vip=app&format=json"}, {"/ipc/why?vip=app", "Accept", "application/json"}} {
			var got Why
			w := ask(e.WhyHandler(), how[0], how[1:]...)
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatalf("%v: %v in %s", how, err, w.Body)
			}
			if len(got.Calls) != 1 || got.State.Name != "app" || len(got.Picks) == 0 || got.Picks[0].Loser == nil {
				t.Fatalf("%v: got %+v, want one call of app and its pick", how, got)
			}
			c := got.Calls[0]
			if c.RequestID != "mine" || c.Status != 503 || c.Timeout != 1 || len(c.Attempts) != 3 || c.Attempts[0].Pick == nil || c.Attempts[2].Cause != "retry" || c.Attempts[2].Verdict == "" || c.Attempts[1].Waited != c.Attempts[1].After {
				t.Errorf("%v: got %+v", how, c)
			}
		}
	})
}

func TestWhySaysWhatItCannotTell(t *testing.T) {
	e := newTestEngine(t, Options{})
	e.Command("catalog", Settings{})
	e.Command("GetRecs", Settings{})
	for url, want := range map[string]string{
		"/ipc/why?vip=other":              `404 nothing called "other" was called from here; there are: GetRecs, catalog`,
		"/ipc/why?id=other":               `404 no recent call was made here for the request "other"`,
		"/ipc/why?vip=catalog&format=xml": `400 format="xml" is unknown; use json or text`,
		"/ipc/why?vip=catalog&n=1000":     `400 n="1000" says how many calls`,
		"/ipc/why?vip=GetRecs":            `200 GetRecs: breaker CLOSED`,
		"/ipc/why":                        `200 ask /ipc/why?vip=NAME`,
	} {
		w := ask(e.WhyHandler(), url)
		if got := fmt.Sprintf("%d %s", w.Code, w.Body); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s, want %s", url, got, want)
		}
	}
}

func TestSuccessesAndRefusalsDoNotPushOutFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(500)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1)}, Transport: n})
		for range 20 {
			get(e, t.Context(), "GET", "http://app/bad")
			time.Sleep(time.Microsecond)
		}
		time.Sleep(501 * time.Millisecond)
		for range 1000 {
			get(e, t.Context(), "GET", "http://app/refused")
			time.Sleep(time.Microsecond)
		}
		time.Sleep(5 * time.Second)
		n.hosts[addr(1)] = answer(200)
		for range 1000 {
			get(e, t.Context(), "GET", "http://app/good")
			time.Sleep(time.Microsecond)
		}
		w, ok := e.Why("app", maxCalls)
		if !ok {
			t.Fatal("app is not known")
		}
		got := map[string]int{}
		for i, c := range w.Calls {
			got[c.Path]++
			if i > 0 && c.At.After(w.Calls[i-1].At) {
				t.Fatalf("call %d of %s is newer than the one before", i, c.At)
			}
			if c.Path == "/refused" && (c.Kind != "open" || !strings.Contains(c.Refused, ErrOpen.Error())) {
				t.Errorf("refused call: got kind %s, %q", c.Kind, c.Refused)
			}
		}
		if got["/bad"] != 20 || got["/refused"] != keptRefused || got["/good"] != keptWell {
			t.Errorf("got calls %v, want 20 bad, %d refused, %d good", got, keptRefused, keptWell)
		}
	})
}

func TestABodyThatBreaksOffIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF)), ContentLength: 9}, nil
		}}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1)}, Transport: n})
		if _, err := get(e, t.Context(), "GET", "http://app/"); err != io.ErrUnexpectedEOF {
			t.Fatalf("got %v, want an unexpected EOF from the body", err)
		}
		w, _ := e.Why("app", maxCalls)
		if len(w.Calls) != 1 || w.Calls[0].Status != 200 || !strings.HasPrefix(w.Calls[0].Broke, "unexpected EOF") {
			t.Errorf("got %+v, want one call whose body broke off", w.Calls)
		}
		if ep := w.State.App.Endpoints[0]; ep.Failures != 1 {
			t.Errorf("the instance has %d failures, want 1", ep.Failures)
		}
		if st := w.State; st.Counts["success"] != 1 || st.Counts["failure"] != 0 {
			t.Errorf("the command counted %v, want one success: the headers came", st.Counts)
		}
	})
}

func TestAnInjectedFaultIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(200)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1)}, Transport: n})
		k := fault.Key("k")
		f, err := fault.Parse(k, fault.Sign(k, "x", time.Now().Add(time.Hour), "client:app=delay(20ms)"), "r", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		get(e, fault.With(t.Context(), f), "GET", "http://app/x")
		got := ask(e.WhyHandler(), "/ipc/why?vip=app").Body.String()
		if !strings.Contains(got, "injected: client:app=delay(20ms)") {
			t.Errorf("why does not tell of the fault:\n%s", got)
		}
		if ev := e.Events(0); len(ev) != 1 || ev[0].Kind != FaultEvent {
			t.Errorf("got events %v, want one about a fault", ev)
		}
	})
}

func TestWhyTellsOfRequestsThatWereShedLateOrFaulty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := fault.Key("k")
		b := newBusy(t, Options{App: "catalog", FaultKey: func() fault.Key { return k }, Server: ServerSettings{Limit: LimitFixed, InitialLimit: 100}}, 97, HeaderPriority, "1")
		rules := fault.Sign(k, "x", time.Now().Add(time.Hour), "server:catalog=error(503)")
		if got := b.ask(HeaderRequestID, "late-1", HeaderTimeout, "0", HeaderCaller, "api"); got != 504 {
			t.Fatalf("late: got %d", got)
		}
		time.Sleep(time.Millisecond)
		if got := b.ask(HeaderRequestID, "faulty-1", fault.Header, rules); got != 503 {
			t.Fatalf("faulty: got %d", got)
		}
		time.Sleep(time.Millisecond)
		for range keptServed / 2 {
			if got := b.ask(HeaderRequestID, "shed-1", HeaderCriticality, "bulk"); got != 503 {
				t.Fatalf("shed: got %d", got)
			}
		}
		for url, want := range map[string]string{
			"/ipc/why?id=late-1":   "GET /quick of api, request late-1: late, answered 504: the caller's time was up",
			"/ipc/why?id=faulty-1": "GET /quick, request faulty-1: injected, answered 503: by rule server:catalog=error(503)",
			"/ipc/why?id=shed-1":   "request shed-1: shed, answered 503: ",
			"/ipc/why":             "requests served here that were shed, late, or had faults injected, newest first\n",
		} {
			if w := ask(b.WhyHandler(), url); w.Code != 200 || !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: got %d %s, want it to say %q", url, w.Code, w.Body, want)
			}
		}
		if got := len(b.WhyServed("")); got != 2+keptServed/2 {
			t.Errorf("%d requests are told, want %d", got, 2+keptServed/2)
		}
	})
}
