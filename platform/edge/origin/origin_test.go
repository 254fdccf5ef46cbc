package origin

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/api/porttest"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

func status(code int) string {
	return "HTTP/1.1 " + strconv.Itoa(code) + " X\r\nContent-Length: 0\r\n\r\n"
}

func TestARequestIsAnsweredByItsApp(t *testing.T) {
	o := scripts(t, act{raw: "HTTP/1.1 201 Created\r\nContent-Length: 5\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\nX-Netflix.server.utilization: 50\r\nX-Ipc-No-Retry: 1\r\n\r\nhello"})
	r := newRig(t, nil, o.addr())
	r.fast = true
	code, body, h := r.ask("PUT", "/a%2Fb?c=d", "abc", "Host", "shop.example", "X-Mine", "2", "Connection", "x-mine")
	if code != 201 || body != "hello" || h.Get("X-Own") != "1" {
		t.Errorf("got %d %q %v", code, body, h)
	}
	for _, k := range []string{"Keep-Alive", "X-Netflix.server.utilization", "X-Ipc-No-Retry"} {
		if v, ok := h[http.CanonicalHeaderKey(k)]; ok {
			t.Errorf("the client got %s: %v", k, v)
		}
	}
	if got := o.requests(); len(got) != 1 || got[0] != "PUT /a%2Fb?c=d shop.example abc <nil>" {
		t.Errorf("the origin got %q", got)
	}
	last := r.last()
	if last.category != filter.Success || last.origin != filter.Success || len(last.attempts) != 1 || last.attempts[0].Instance != "i-1" || last.attempts[0].Region != "us-east-1" {
		t.Errorf("what is left: %+v", last)
	}
	for _, s := range []string{"ORIGIN_CONN_ACQUIRE_START", "ORIGIN_CONN_ACQUIRE_END", "OUT_REQ_HEADERS_SENDING", "IN_RESP_HEADERS_RECEIVED"} {
		if !strings.Contains(last.passport, s) {
			t.Errorf("the passport lacks %s: %s", s, last.passport)
		}
	}
}

// Each row of the table of failures: what happens, what is answered, how often it was tried.
func TestFailuresAreAnsweredAndTriedAgainByTheTable(t *testing.T) {
	retry := map[string]string{"app.ribbon.MaxAutoRetriesNextServer": "1"}
	zuul := map[string]string{"app.ribbon.MaxAutoRetriesNextServer": "1", "edge.profile": "zuul"}
	short := map[string]string{"app.ribbon.MaxAutoRetriesNextServer": "1", "ribbon.ReadTimeout": "300"}
	hang, broken, refuse := act{hang: true}, act{rst: true}, act{raw: status(503)}
	for _, c := range []struct {
		name     string
		props    map[string]string
		method   string
		act      act
		status   int
		category filter.Category
		attempts int // made
		reached  int // origins
		err      string
	}{
		{"READ_TIMEOUT of a GET", short, "GET", hang, 504, filter.FailureOriginReadTimeout, 2, 2, "READ_TIMEOUT"},
		{"READ_TIMEOUT of a PUT", short, "PUT", hang, 504, filter.FailureOriginReadTimeout, 1, 1, "READ_TIMEOUT"},
		{"READ_TIMEOUT of a POST", short, "POST", hang, 504, filter.FailureOriginReadTimeout, 1, 1, "READ_TIMEOUT"},
		{"SERVICE_UNAVAILABLE of a GET", retry, "GET", refuse, 503, filter.FailureOriginThrottled, 2, 2, "ORIGIN_SERVICE_UNAVAILABLE"},
		{"SERVICE_UNAVAILABLE of a POST", retry, "POST", refuse, 503, filter.FailureOriginThrottled, 2, 2, "ORIGIN_SERVICE_UNAVAILABLE"},
		{"ERROR_STATUS_RESPONSE of a GET", retry, "GET", act{raw: status(500)}, 500, filter.FailureOrigin, 1, 1, "ORIGIN_ERROR_STATUS_RESPONSE"},
		{"ERROR_STATUS_RESPONSE of a GET, as Zuul", zuul, "GET", act{raw: status(500)}, 500, filter.FailureOrigin, 2, 2, "ORIGIN_ERROR_STATUS_RESPONSE"},
		{"ERROR_STATUS_RESPONSE of a POST, as Zuul", zuul, "POST", act{raw: status(500)}, 500, filter.FailureOrigin, 1, 1, "ORIGIN_ERROR_STATUS_RESPONSE"},
		{"502 of a GET", retry, "GET", act{raw: status(502)}, 502, filter.FailureOrigin, 2, 2, "ORIGIN_ERROR_STATUS_RESPONSE"},
		{"502 of a GET, as Zuul", zuul, "GET", act{raw: status(502)}, 502, filter.FailureOrigin, 1, 1, "ORIGIN_ERROR_STATUS_RESPONSE"},
		{"RESET_CONNECTION of a GET", retry, "GET", broken, 504, filter.FailureOriginReset, 2, 2, "ORIGIN_RESET_CONNECTION"},
		{"RESET_CONNECTION of a POST", retry, "POST", broken, 504, filter.FailureOriginReset, 1, 1, "ORIGIN_RESET_CONNECTION"},
		{"RESET_CONNECTION of a POST, as Zuul", zuul, "POST", broken, 504, filter.FailureOriginReset, 2, 2, "ORIGIN_RESET_CONNECTION"},
		{"what is not HTTP", retry, "POST", act{raw: "220 mail.example ESMTP\r\n\r\n", close: true}, 502, filter.FailureOrigin, 1, 1, "ORIGIN_OTHER"},
		{"404", retry, "GET", act{raw: status(404)}, 404, filter.SuccessNotFound, 1, 1, ""},
		{"429", retry, "GET", act{raw: status(429)}, 429, filter.Success, 1, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a, b := scripts(t, c.act), scripts(t, c.act)
			r := newRig(t, c.props, a.addr(), b.addr())
			r.fast = len(c.name)%2 == 0
			body := ""
			if c.method != "GET" {
				body = "abc"
			}
			code, _, _ := r.ask(c.method, "/", body)
			last := r.last()
			reached := 0
			for end := time.Now().Add(time.Minute); reached < c.reached && time.Now().Before(end); time.Sleep(time.Millisecond) { // one that was given up may be read later
				reached = len(a.requests()) + len(b.requests())
			}
			if code != c.status || last.category != c.category || last.origin != c.category || len(last.attempts) != c.attempts || reached != c.reached {
				t.Errorf("got %d %v (origin %v) after %d attempts, %d requests arrived; want %d %v, %d, %d: %v", code, last.category, last.origin, len(last.attempts), reached, c.status, c.category, c.attempts, c.reached, last.err)
			}
			for i, at := range last.attempts {
				if at.Error != c.err || at.Number != i+1 || at.MaxRetries != 1 {
					t.Errorf("attempt %d: got %+v, want error %q", i+1, at, c.err)
				}
			}
		})
	}
}

func TestAConnectErrorIsTriedElsewhereWhateverTheMethod(t *testing.T) {
	o := scripts(t, act{raw: said200("ok")})
	for range 5 { // chance decides which is asked first
		r := newRig(t, nil, porttest.Hold(t), porttest.Hold(t), o.addr())
		if code, body, _ := r.ask("POST", "/", "abc"); code != 200 || body != "ok" {
			t.Errorf("got %d %q: %+v", code, body, r.last())
		}
	}
	r := newRig(t, nil, porttest.Hold(t), porttest.Hold(t))
	code, _, _ := r.ask("POST", "/", "abc")
	if last := r.last(); code != 502 || last.category != filter.FailureOriginConnectivity || last.attempts[0].Error != "ORIGIN_CONNECT_ERROR" || last.attempts[0].ConnectTimeout == 0 {
		t.Errorf("where nobody listens: got %d, %+v", code, last)
	}
}

func TestRefusalsOfTheEdgesOwnNameTheirReason(t *testing.T) {
	o := scripts(t, act{hang: true})
	for _, c := range []struct {
		name     string
		props    map[string]string
		addrs    []string
		status   int
		category filter.Category
	}{
		{"no instance", nil, nil, 502, filter.FailureNoServers},
		{"its breaker is open", map[string]string{"hystrix.command.app.circuitBreaker.forceOpen": "true"}, []string{o.addr()}, 503, filter.FailureOriginThrottled},
		{"a status of one's own", map[string]string{"zuul.error.outbound.noservers.status": "599"}, nil, 599, filter.FailureNoServers},
		{"a status that is none", map[string]string{"zuul.error.outbound.noservers.status": "200"}, nil, 502, filter.FailureNoServers},
	} {
		r := newRig(t, c.props, c.addrs...)
		code, _, _ := r.ask("GET", "/", "")
		if last := r.last(); code != c.status || last.category != c.category || len(last.attempts) != 0 {
			t.Errorf("%s: got %d %v, want %d %v (%v)", c.name, code, last.category, c.status, c.category, last.err)
		}
	}
}

func TestClientsAreToldNoAddresses(t *testing.T) {
	r := newRig(t, nil)
	for k := readTimeout; k < kinds; k++ {
		if text := r.failed(k, "10.1.2.3:8080", nil).Error(); strings.Contains(text, "10.1.2.3") || strings.Contains(text, "%!") {
			t.Errorf("kind %d: the client is told %q", k, text)
		}
	}
	if text := r.failed(nonsense, "shop", nil).Error(); !strings.Contains(text, "shop answered what is not HTTP") {
		t.Errorf("an app's nonsense: the client is told %q", text)
	}
}

func TestNobodyOpensABreakerByWhatTheOriginDoesNotSpeak(t *testing.T) {
	serves := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "FOO" {
			w.WriteHeader(http.StatusNotImplemented)
		}
	}))
	defer serves.Close()
	for name, addr := range map[string]string{"an HTTP/1.1 server": serves.Listener.Addr().String(), "one that answers the preface": scripts(t, act{raw: said200("")}).addr()} {
		r := newRig(t, nil, addr)
		for range 40 {
			if code, _, h := r.ask("POST", "/", "x", "Content-Type", "application/grpc"); code != 502 {
				t.Fatalf("gRPC to %s: got %d %v, want 502", name, code, h)
			}
			r.ask("FOO", "/", "")
		}
		for _, c := range r.calls.Snapshot() {
			if at := c.App.Endpoints[0]; c.Breaker != "CLOSED" || at.EjectedUntil != nil || at.Failures != 0 {
				t.Errorf("%s: after requests that it does not speak its breaker is %s, %d have failed, ejected until %v", name, c.Breaker, at.Failures, at.EjectedUntil)
			}
		}
	}
}
