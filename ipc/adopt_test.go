package ipc

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/fault"
)

func TestACallMayRunUnderAnotherCommandAndBeSaidToBeIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(503), addr(2): answer(503)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1, 2)}, Transport: n})
		films := e.Command("films", Settings{Retries: 1})
		if got, _ := get(e, WithOverride(t.Context(), Override{Command: films, Idempotent: true}), "POST", "http://app/"); got != 503 || n.attempts() != 2 {
			t.Errorf("got %d after %d attempts, want 503 after the 2 of the command", got, n.attempts())
		}
		for _, s := range e.Snapshot() {
			if want := map[string]uint32{"films": 1}[s.Name]; s.Requests != want {
				t.Errorf("command %s counted %d calls, want %d", s.Name, s.Requests, want)
			}
		}
		films = e.Command("films", Settings{ForceOpen: true})
		if _, err := get(e, WithOverride(t.Context(), Override{Command: films}), "GET", "http://app/"); err == nil {
			t.Error("the breaker of the other command did not count")
		}
	})
}

func TestACommandOfAPartHasThePropertiesOfItsApp(t *testing.T) {
	const timeout = ".execution.isolation.thread.timeoutInMilliseconds"
	e := newTestEngine(t, Options{Config: config.New(config.Options{Override: map[string]string{
		"hystrix.command.default" + timeout: "1", "hystrix.command.app" + timeout: "2", "hystrix.command.app/films" + timeout: "3",
	}})})
	for name, want := range map[string]time.Duration{"other/x": 1, "app": 2, "app/users": 2, "app/films": 3} {
		if got := e.Command(name, Settings{}).Timeout(); got != want*time.Millisecond {
			t.Errorf("timeout of %s: got %s, want %d ms", name, got, want)
		}
	}
}

func TestAdoptTakesFromTheHeaderAndFromTheRequestInWhoseCourseItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := fault.Key("0123456789abcdef")
		e := newTestEngine(t, Options{FaultKey: func() fault.Key { return key }})
		fit := fault.Sign(key, "x", time.Now().Add(time.Minute), "client:a=reset")
		outer, cancel, ok := e.Adopt(t.Context(), http.Header{"X-Request-Id": {"r"}, "X-Ipc-Timeout-Ms": {"500"}, "X-Ipc-Criticality": {"DEGRADED"}, "X-Fit": {fit}, "Traceparent": {"t"}}, nil)
		defer cancel()
		if !ok || RequestID(outer) != "r" || CriticalityOf(outer) != roadbed.Degraded || fault.From(outer).ID() != "x" {
			t.Errorf("from the header: got %v %q %v %q", ok, RequestID(outer), CriticalityOf(outer), fault.From(outer).ID())
		}
		inner, cancel, ok := e.Adopt(t.Context(), http.Header{"X-Request-Id": {"r"}, "X-Ipc-Timeout-Ms": {"60000"}, "X-Ipc-Criticality": {"CRITICAL"}}, outer)
		defer cancel()
		at, _ := inner.Deadline()
		if left := time.Until(at); !ok || left != 500*time.Millisecond {
			t.Errorf("deadline: got %s, want the earlier of both", left)
		}
		if CriticalityOf(inner) != roadbed.Degraded || fault.From(inner) != fault.From(outer) || inboundOf(inner).traceparent != "t" {
			t.Errorf("criticality was raised, or faults or trace were lost: %v %v %q", CriticalityOf(inner), fault.From(inner), inboundOf(inner).traceparent)
		}
		time.Sleep(time.Second)
		if _, cancel, ok := e.Adopt(t.Context(), http.Header{}, outer); ok {
			cancel()
			t.Error("time is left after the outer request's deadline")
		} else {
			cancel()
		}
	})
}

func TestNoRetryReachesTheRequestInWhoseCourseACallWasMade(t *testing.T) {
	n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(503, HeaderNoRetry, "1")}}
	e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1)}, Transport: n})
	outer, cancel, _ := e.Adopt(t.Context(), http.Header{}, nil)
	defer cancel()
	inner, cancel, _ := e.Adopt(t.Context(), http.Header{}, outer)
	defer cancel()
	get(e, inner, "GET", "http://app/")
	if !inboundOf(outer).noRetry.Load() {
		t.Error("the inbound request does not know that nobody should try again")
	}
}

func TestWhatAnAdapterInjectsIsToldAndEndsWithTheKillSwitch(t *testing.T) {
	for _, on := range []string{"true", "false"} {
		e := newTestEngine(t, Options{Config: config.New(config.Options{Override: map[string]string{"ipc.fit.enabled": on}})})
		a := fault.Action{Rule: "edge:*=error(503)", Status: 503}
		leave, ok := e.Injecting("edge", &a, "request-1", "GET", "/films")
		served := e.WhyServed("request-1")
		if ok != (on == "true") {
			t.Fatalf("ipc.fit.enabled %s: injecting is allowed: %v", on, ok)
		}
		if !ok {
			if len(served) != 0 {
				t.Errorf("it told of a fault that was not injected: %+v", served)
			}
			continue
		}
		leave()
		if len(served) != 1 || served[0].Path != "/films" || served[0].What != "injected" || served[0].Status != 503 || served[0].Why != "by rule edge:*=error(503)" {
			t.Errorf("it told of %+v", served)
		}
	}
}
