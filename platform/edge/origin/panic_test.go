package origin

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// roundTrips is a transport.
type roundTrips func(*http.Request) (*http.Response, error)

func (f roundTrips) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// secure lists n instances of the app that speak TLS.
func secure(n int) ipc.Static {
	var all []roadbed.Instance
	for i := range n {
		all = append(all, roadbed.Instance{ID: fmt.Sprintf("s-%d", i), App: "app", Host: "127.0.0.1", Port: 1 + i, Secure: true, Status: roadbed.Up})
	}
	return ipc.Static{"app": all}
}

func TestAPanicOfOneOfTwoAttemptsFailsItsRequestAtMost(t *testing.T) {
	r := newRigOver(t, map[string]string{"ipc.command.app.hedge.delayInMilliseconds": "5", "ipc.command.app.hedge.percent": "100"}, secure(3), roundTrips(func(q *http.Request) (*http.Response, error) {
		if q.URL.Path == "/bad" {
			panic("a transport with a fault")
		}
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("fine")), Request: q}, nil
	}))
	r.route(&filter.Plan{Route: "r", Hedge: true})
	status, text, _ := r.ask("GET", "/bad", "")
	if status != 500 || strings.Contains(text, "fault") {
		t.Errorf("got %d %q, want 500 and nothing of what panicked", status, text)
	}
	if got := r.last(); got.category != filter.FailureLocal {
		t.Errorf("category: got %v, want %v", got.category, filter.FailureLocal)
	}
	if got := r.meter.Counter("edge.panics", "where", "hedge").Count(); got < 1 {
		t.Errorf("edge.panics of hedges: got %v, want at least 1", got)
	}
	if status, text, _ := r.ask("GET", "/good", ""); status != 200 {
		t.Errorf("afterwards: got %d %s, want 200", status, text)
	}
}

func TestAPanicOfAMirrorHarmsNobody(t *testing.T) {
	s := scripts(t, act{raw: said200("fine")})
	lists := ipc.Static{"app": addrsOf(t, s.addr()), "shadow": []roadbed.Instance{{ID: "x", App: "shadow", Host: "127.0.0.1", Port: 1, Status: roadbed.Up}}}
	r := newRigOver(t, nil, lists, roundTrips(func(*http.Request) (*http.Response, error) { panic("a transport with a fault") }))
	r.route(&filter.Plan{Route: "r", Mirrors: []filter.Mirror{{App: "shadow", Percent: 100}}})
	if status, text, _ := r.ask("GET", "/", ""); status != 200 || text != "fine" {
		t.Errorf("got %d %q, want 200 fine", status, text)
	}
	r.Proxy.Close() // waits for mirrors
	if got := r.meter.Counter("edge.panics", "where", "mirror").Count(); got != 1 {
		t.Errorf("edge.panics of mirrors: got %v, want 1", got)
	}
}

func TestNoMirrorBeginsOnceTheProxyIsClosed(t *testing.T) {
	s := scripts(t, act{raw: said200("fine")})
	r := newRigOf(t, nil, ipc.Static{"app": addrsOf(t, s.addr()), "shadow": addrsOf(t, s.addr())})
	r.route(&filter.Plan{Route: "r", Mirrors: []filter.Mirror{{App: "shadow", Percent: 100}}})
	var askers sync.WaitGroup
	for range 4 {
		askers.Go(func() {
			for range 20 {
				resp, err := r.one.Get(r.oneURL)
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	r.Proxy.Close()
	askers.Wait()
	if status, text, _ := r.ask("GET", "/", ""); status != 200 {
		t.Errorf("got %d %q after the proxy was closed, want 200", status, text)
	}
	if got := r.meter.Counter("edge.mirror", "result", "dropped").Count(); got < 1 {
		t.Errorf("mirrors dropped: got %v, want at least 1", got)
	}
}

// badBody is a body that panics once it is read.
type badBody struct{}

func (badBody) Read([]byte) (int, error) { panic("a filter with a fault") }
func (badBody) Close() error             { return nil }

func TestAPanicOfARequestsBodyIsAnswered500(t *testing.T) {
	for _, protocol := range []string{"http1", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { io.Copy(io.Discard, q.Body) }))
			srv.Config.Protocols = new(http.Protocols)
			srv.Config.Protocols.SetHTTP1(true)
			srv.Config.Protocols.SetUnencryptedHTTP2(true)
			srv.Start()
			t.Cleanup(srv.Close)
			engines(t, func(t *testing.T, fast bool) {
				r := newRig(t, map[string]string{"edge.origin.app.protocol": protocol}, srv.Listener.Addr().String())
				r.fast = fast
				r.change(func(x *filter.Exchange) {
					if x.Request.Method == "POST" {
						x.Request.Body, x.Request.ContentLength = badBody{}, 10
					}
				})
				status, text, _ := r.ask("POST", "/", strings.Repeat("a", 10))
				if status != 500 || strings.Contains(text, "fault") {
					t.Errorf("got %d %q, want 500 and nothing of what panicked", status, text)
				}
				if got := r.last(); got.category != filter.FailureLocal {
					t.Errorf("category: got %v, want %v", got.category, filter.FailureLocal)
				}
				if got := r.meter.Counter("edge.panics", "where", "request body").Count(); got != 1 {
					t.Errorf("edge.panics of bodies: got %v, want 1", got)
				}
				if status, _, _ := r.ask("GET", "/", ""); status != 200 {
					t.Errorf("afterwards: got %d, want 200", status)
				}
			})
		})
	}
}

// addrsOf lists instances at those addresses.
func addrsOf(t testing.TB, addrs ...string) []roadbed.Instance {
	t.Helper()
	var all []roadbed.Instance
	for i, a := range addrs {
		var port int
		if _, err := fmt.Sscanf(a[strings.LastIndexByte(a, ':')+1:], "%d", &port); err != nil {
			t.Fatal(err)
		}
		all = append(all, roadbed.Instance{ID: fmt.Sprintf("i-%d", i), App: "app", Host: "127.0.0.1", Port: port, Status: roadbed.Up})
	}
	return all
}
