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
	"unsafe"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc/balance"
	"github.com/roadbed/roadbed/meter"
	"pgregory.net/rapid"
)

// step is how one attempt ends in a script.
type step struct {
	status     int // 0: no answer
	unsent     bool
	retryAfter string
	noRetry    bool
	why        string
}

func (s step) err() error {
	switch {
	case s.status != 0:
		return nil
	case s.unsent:
		return &dialError{errors.New("refused")}
	}
	return io.ErrUnexpectedEOF
}

// told is what a call by either way has led to.
type told struct {
	attempts, status int
	kind             Kind
	why              string // as /ipc/why has it, without times
	charged          int64
	inFlight         int64
	active           int64
}

// passes makes a call by a passage, with the script's outcomes.
func passes(e *Engine, method string, script []step) (attempts, status int, err error) {
	var p Passage
	if err := p.Begin(context.Background(), e, Trip{App: "app", Method: method, Path: "/x"}); err != nil {
		return 0, 0, err
	}
	defer p.End()
	repeatable := isIdempotent(&http.Request{Method: method})
	for again := true; again; attempts++ {
		if _, err = p.Start(); err != nil {
			break
		}
		s := script[attempts]
		o := Outcome{Status: s.status, Err: s.err(), Ended: balance.Broken, RetryAfter: s.retryAfter, NoRetry: s.noRetry, Why: s.why, Repeatable: repeatable, Whole: true}
		if s.unsent {
			o.Ended = balance.Unreached
		}
		var wait time.Duration
		wait, again = p.Outcome(o)
		time.Sleep(wait)
		status, err = o.Status, o.Err
	}
	if err != nil {
		err = p.Failed(err)
	}
	return attempts, status, err
}

// roundTrips makes a call by the HTTP client, with the script's outcomes.
func roundTrips(e *Engine, n *network, method string) (attempts, status int, err error) {
	status, err = get(e, context.Background(), method, "http://app/x")
	return n.attempts(), status, err
}

func whatCameOf(e *Engine, attempts, status int, err error) (out told) {
	out = told{attempts: attempts, status: status}
	if failed := (*Error)(nil); errors.As(err, &failed) {
		out.kind = failed.Kind
	}
	w, _ := e.Why("app", 5)
	for _, c := range w.Calls {
		out.why += fmt.Sprint(c.Method, c.Path, c.Status, c.Kind, c.Error)
		for _, a := range c.Attempts {
			out.why += fmt.Sprint(" ", a.Cause, a.Status, a.Error, a.Verdict, a.Fault)
		}
	}
	cl := e.cluster("app")
	_, out.charged = cl.budget.limit(cl.cmd.set.Load())
	out.inFlight = cl.cmd.inFlight()
	for _, ep := range cl.lb.Endpoints() {
		out.active += ep.Active()
	}
	return out
}

func TestAPassageDoesWhatTheHTTPClientDoes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			s := step{status: rapid.SampledFrom([]int{0, 0, 200, 404, 429, 500, 502, 503, 504}).Draw(rt, "status")}
			if s.status == 0 {
				s.unsent = rapid.Bool().Draw(rt, "unsent")
			} else {
				s.retryAfter = rapid.SampledFrom([]string{"", "", "0", "1", "soon"}).Draw(rt, "retryAfter")
				s.noRetry = rapid.IntRange(0, 5).Draw(rt, "noRetry") == 0
				s.why = rapid.SampledFrom([]string{"", "", "shed", "injected"}).Draw(rt, "why")
			}
			return s
		}), maxAttempts, maxAttempts).Draw(rt, "script")
		method := rapid.SampledFrom([]string{"GET", "PUT", "POST"}).Draw(rt, "method")
		set := Settings{Retries: rapid.SampledFrom([]int{-1, 1, 4}).Draw(rt, "retries"), Timeout: 10 * time.Second}
		var got, want told
		synctest.Test(t, func(t *testing.T) {
			n, lists := everywhere(3, nil)
			for addr := range n.hosts {
				n.hosts[addr] = func(r *http.Request) (*http.Response, error) {
					n.mu.Lock()
					s := steps[len(n.seen)-1]
					n.mu.Unlock()
					if err := s.err(); err != nil {
						return nil, err
					}
					h := []string{}
					for k, v := range map[string]string{"Retry-After": s.retryAfter, headerError: s.why} {
						if v != "" {
							h = append(h, k, v)
						}
					}
					if s.noRetry {
						h = append(h, HeaderNoRetry, "1")
					}
					return answer(s.status, h...)(r)
				}
			}
			e := newTestEngine(t, Options{Lists: lists, Transport: n})
			e.Command("app", set)
			a, status, err := roundTrips(e, n, method)
			want = whatCameOf(e, a, status, err)

			e = newTestEngine(t, Options{Lists: lists})
			e.Command("app", set)
			a, status, err = passes(e, method, steps)
			got = whatCameOf(e, a, status, err)
		})
		// Which instance was asked last is a matter of chance.
		for i := 1; i <= 3; i++ {
			got.why, want.why = strings.ReplaceAll(got.why, addr(i), "ADDR"), strings.ReplaceAll(want.why, addr(i), "ADDR")
		}
		if got != want {
			rt.Errorf("%s with %+v:\ngot  %+v\nwant %+v", method, steps, got, want)
		}
	})
}

func TestAPassageThatIsRefusedHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, lists := everywhere(1, nil)
		e := newTestEngine(t, Options{Lists: lists})
		e.Command("app", Settings{MaxConcurrent: 1})
		e.Command("open", Settings{ForceOpen: true})
		var p, q Passage
		if err := p.Begin(t.Context(), e, Trip{App: "app"}); err != nil {
			t.Fatal(err)
		}
		for app, want := range map[string]error{"app": ErrRejected, "open": ErrOpen, "nobody": ErrNoEndpoint} {
			err := q.Begin(t.Context(), e, Trip{App: app})
			if failed := (*Error)(nil); !errors.As(err, &failed) || !errors.Is(err, want) {
				t.Errorf("%s: got %v, want an *Error of %v", app, err, want)
			}
			q.End()
		}
		p.End()
		p.End()
		if got := e.Command("app", Settings{}).inFlight(); got != 0 {
			t.Errorf("in flight after the end: %d, want 0", got)
		}
	})
}

func TestAPassageWithoutTimeLeftAsksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, lists := everywhere(1, nil)
		e := newTestEngine(t, Options{Lists: lists})
		var p Passage
		if err := p.Begin(t.Context(), e, Trip{App: "app", Timeout: time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		_, err := p.Start()
		if err = p.Failed(err); !errors.Is(err, ErrDeadlineSpent) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a millisecond left: got %v, want ErrDeadlineSpent", err)
		}
		if err := p.Begin(t.Context(), e, Trip{App: "app", Timeout: time.Second}); err != nil {
			t.Fatal(err)
		}
		if left, err := p.Start(); left != time.Second || err != nil {
			t.Errorf("Start: got %s, %v, want 1s", left, err)
		}
		if got := p.Tells(roadbed.Critical, 0); got.Timeout != 990 || got.Attempt != 1 || !got.Usual {
			t.Errorf("what the callee is told: got %+v, want 990 ms, attempt 1, the usual importance", got)
		}
		if got := p.Tells(roadbed.Bulk, 97); got.Criticality != roadbed.Bulk || got.Priority != 97 || got.Usual {
			t.Errorf("BULK of priority 97: got %+v", got)
		}
		p.End()
	})
}

func TestAPassageToOneInstanceAsksNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := instances("", 1, 2, 3)
		list[2].Status = roadbed.OutOfService
		e := newTestEngine(t, Options{Lists: Static{"app": list}})
		for _, c := range []struct {
			trip Trip
			want string // address, or part of the error
		}{
			{Trip{Instance: "i-2"}, addr(2)},
			{Trip{Instance: "i-3"}, "instance i-3 is OUT_OF_SERVICE"},
			{Trip{Instance: "i-3", Force: true}, addr(3)},
			{Trip{Instance: "i-9"}, "instance i-9 is not listed"},
			{Trip{Addr: addr(1)}, addr(1)},
			{Trip{Addr: "10.9.9.9:80"}, "10.9.9.9:80"},
		} {
			c.trip.App = "app"
			var p Passage
			if err := p.Begin(t.Context(), e, c.trip); err != nil {
				if !strings.Contains(err.Error(), c.want) || !errors.Is(err, ErrNoEndpoint) {
					t.Errorf("%+v: got %v, want %q", c.trip, err, c.want)
				}
				continue
			}
			if got := p.Endpoint().Addr; got != c.want {
				t.Errorf("%+v: got %s, want %s", c.trip, got, c.want)
			}
			if _, err := p.Start(); err != nil {
				t.Fatal(err)
			}
			if _, again := p.Outcome(Outcome{Err: io.ErrUnexpectedEOF, Ended: balance.Unreached, Repeatable: true, Whole: true}); again {
				t.Errorf("%+v: it is tried at %s instead", c.trip, p.Endpoint().Addr)
			}
			p.Failed(io.ErrUnexpectedEOF)
		}
	})
}

func TestAPassageInjectsTheFaultsOfItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := fault.Key("k")
		f, err := fault.Parse(key, fault.Sign(key, "f", time.Now().Add(time.Hour), "client:app=delay(50ms);client:app=error(503)"), "r", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		_, lists := everywhere(1, nil)
		e := newTestEngine(t, Options{Lists: lists, Config: nil})
		var p Passage
		if err := p.Begin(t.Context(), e, Trip{App: "app"}); err != nil {
			t.Fatal(err)
		}
		p.Start()
		start := time.Now()
		a, err := p.Inject(t.Context(), f)
		if a.Status != 503 || err != nil || time.Since(start) != 50*time.Millisecond {
			t.Errorf("got %+v, %v after %s, want the status 503 after 50ms", a, err, time.Since(start))
		}
		p.Outcome(Outcome{Status: 503, Why: "injected"})
		p.End()
		if w, _ := e.Why("app", 1); len(w.Calls) != 1 || w.Calls[0].Kind != "injected" || w.Calls[0].Attempts[0].Fault == "" {
			t.Errorf("what is told of it: %+v", w.Calls)
		}
		if w, _ := e.Why("app", 1); w.State.App.Endpoints[0].Requests != 0 {
			t.Errorf("the instance counts %d requests, want 0: it was not asked", w.State.App.Endpoints[0].Requests)
		}
	})
}

func TestOfTwoAttemptsAtOnceOneCounts(t *testing.T) {
	for _, second := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			_, lists := everywhere(2, nil)
			m := meter.New(nil)
			e := newTestEngine(t, Options{Lists: lists, Meter: m})
			e.Command("app", Settings{HedgeDelay: 10 * time.Millisecond, HedgePercent: 100})
			var p Passage
			if err := p.Begin(t.Context(), e, Trip{App: "app", Method: "GET"}); err != nil {
				t.Fatal(err)
			}
			if _, ok := p.Hedge(false); ok {
				t.Error("it hedges though nobody wants it")
			}
			after, ok := p.Hedge(true)
			if !ok || after != 10*time.Millisecond {
				t.Errorf("Hedge: got %s, %v, want 10ms", after, ok)
			}
			p.Start()
			one := p.Endpoint()
			time.Sleep(after)
			two := p.Second()
			if two == nil || two == one || one.Active() != 1 || two.Active() != 1 {
				t.Fatalf("the second attempt goes to %v beside %v", two, one)
			}
			p.Settle(second, nil)
			if _, again := p.Outcome(Outcome{Status: 200}); again {
				t.Error("it is tried again after an answer")
			}
			want := map[bool]*balance.Endpoint{false: one, true: two}[second]
			if p.Endpoint() != want || one.Active()+two.Active() != 1 || want.Active() != 1 {
				t.Errorf("second counts %v: active are %d and %d", second, one.Active(), two.Active())
			}
			p.End()
			if one.Active()+two.Active() != 0 {
				t.Errorf("after the end active are %d and %d", one.Active(), two.Active())
			}
			w, _ := e.Why("app", 1)
			if a := w.Calls[0].Attempts; len(a) != 2 || a[1].Cause != "hedge" {
				t.Errorf("what is told of it: %+v", a)
			}
		})
	}
}

func TestWhatIsToldOfAPassageDoesNotChangeWithItsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, lists := everywhere(1, nil)
		e := newTestEngine(t, Options{Lists: lists})
		buf := []byte("id-1GET/titles")
		text := func(from, to int) string { return unsafe.String(&buf[from], to-from) }
		var p Passage
		if err := p.Begin(t.Context(), e, Trip{App: "app", ID: text(0, 4), Method: text(4, 7), Path: text(7, 14)}); err != nil {
			t.Fatal(err)
		}
		p.Start()
		p.Outcome(Outcome{Status: 200})
		p.End()
		copy(buf, "zzzzzzzzzzzzzz")
		told := e.WhyRequest("id-1")
		if len(told) != 1 || told[0].Method != "GET" || told[0].Path != "/titles" {
			t.Fatalf("got %+v, want GET /titles", told)
		}
		for range 2 * keptWell { // others are told in its place
			passes(e, "PUT", []step{{status: 200}})
		}
		if told[0].RequestID != "id-1" || told[0].Path != "/titles" {
			t.Errorf("what was told has become %+v", told[0])
		}
	})
}

func TestAPassageAllocatesNothing(t *testing.T) {
	_, lists := everywhere(4, nil)
	e := newTestEngine(t, Options{Lists: lists, Meter: meter.New(nil)})
	var p Passage
	once := func() {
		if err := p.Begin(context.Background(), e, Trip{App: "app", Method: "GET", Path: "/titles", ID: "01j8x3y4z5a6b7c8d9e0f1g2", Timeout: time.Second}); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Start(); err != nil {
			t.Fatal(err)
		}
		if _, again := p.Outcome(Outcome{Status: 200, Repeatable: true, Whole: true}); again {
			t.Fatal("tried again")
		}
		p.End()
	}
	for range 2 * keptWell {
		once()
	}
	if got := testing.AllocsPerRun(1000, once); got != 0 {
		t.Errorf("a passage allocates %v times, want 0", got)
	}
}

func BenchmarkPassage(b *testing.B) {
	_, lists := everywhere(4, nil)
	e := newTestEngine(b, Options{Lists: lists, Meter: meter.New(nil)})
	var p Passage
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Begin(context.Background(), e, Trip{App: "app", Method: "GET", Path: "/titles", ID: "01j8x3y4z5a6b7c8d9e0f1g2", Timeout: time.Second}); err != nil {
			b.Fatal(err)
		}
		if _, err := p.Start(); err != nil {
			b.Fatal(err)
		}
		p.Outcome(Outcome{Status: 200, Repeatable: true, Whole: true})
		p.End()
	}
}

func TestAPassageTakesTheTimeOfWhoHasReadTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, lists := everywhere(1, nil)
		e := newTestEngine(t, Options{Lists: lists})
		began := time.Now()
		var p Passage
		if err := p.Begin(t.Context(), e, Trip{App: "app", Timeout: time.Minute, Now: began}); err != nil {
			t.Fatal(err)
		}
		defer p.End()
		time.Sleep(10 * time.Second)
		if left, err := p.Start(); left != time.Minute || err != nil {
			t.Errorf("started with %v left (%v), want a minute: the call began when its maker looked at the clock", left, err)
		}
		p.Outcome(Outcome{Status: 200, Now: began.Add(3 * time.Second)})
		if took := time.Duration(p.first.end - p.first.at); took != 3*time.Second {
			t.Errorf("the attempt took %v, want 3s, as its maker says", took)
		}
	})
}

func TestACallThatItsMakerRefusesIsToldAndNoFailure(t *testing.T) {
	e := New(Options{Lists: Static{"app": nil}})
	defer e.Close()
	for range 100 {
		if err := e.Refuse(Trip{App: "app", ID: "r-1", Method: "GET", Path: "/x"}); !errors.Is(err, ErrRejected) {
			t.Fatalf("got %v, want ErrRejected", err)
		}
	}
	for _, c := range e.Snapshot() {
		if c.Name == "app" && (c.Breaker != "CLOSED" || c.ErrorPercent != 0) {
			t.Errorf("got breaker %s and %d %% failed, want CLOSED and 0", c.Breaker, c.ErrorPercent)
		}
	}
	if got := e.WhyRequest("r-1"); len(got) == 0 {
		t.Error("nothing is told of the calls")
	}
}
