package origin

import (
	"errors"
	"hash/maphash"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

func TestOneClientHasNoMoreThanItsShareOfAnAppsRequestsInFlight(t *testing.T) {
	for _, tt := range []struct {
		name     string
		props    map[string]string
		holder   string
		from     string
		hop      string
		held     int
		category filter.Category
	}{
		{"three quarters", nil, "192.0.2.1", "192.0.2.1", "", 150, filter.FailureConcurrency},
		{"of the app's own number", map[string]string{"zuul.origin.app.concurrency.max.requests": "8"}, "192.0.2.1", "192.0.2.1", "", 6, filter.FailureConcurrency},
		{"of the command's", map[string]string{"hystrix.command.app.execution.isolation.semaphore.maxConcurrentRequests": "8"}, "192.0.2.1", "192.0.2.1", "", 6, filter.FailureConcurrency},
		{"a half", map[string]string{"edge.origin.client.share": "0.5", "zuul.origin.app.concurrency.max.requests": "8"}, "192.0.2.1", "192.0.2.1", "", 4, filter.FailureConcurrency},
		{"a household", map[string]string{"zuul.origin.app.concurrency.max.requests": "8"}, "2001:db8::1", "2001:db8::2", "", 6, filter.FailureConcurrency},
		{"one at least", map[string]string{"zuul.origin.app.concurrency.max.requests": "2", "edge.origin.client.share": "0.01"}, "192.0.2.1", "192.0.2.1", "", 1, filter.FailureConcurrency},
		{"of a limit that moves", map[string]string{"edge.origin.app.concurrency.mode": "gradient"}, "192.0.2.1", "192.0.2.1", "", 15, filter.FailureConcurrency},
		{"of a limit that moves, somebody else", map[string]string{"edge.origin.app.concurrency.mode": "gradient"}, "192.0.2.1", "192.0.2.2", "", 15, filter.Success},
		{"somebody else", map[string]string{"zuul.origin.app.concurrency.max.requests": "8"}, "192.0.2.1", "192.0.2.2", "", 6, filter.Success},
		{"all", map[string]string{"edge.origin.client.share": "1", "zuul.origin.app.concurrency.max.requests": "8"}, "192.0.2.1", "192.0.2.1", "", 7, filter.Success},
		{"any number", map[string]string{"zuul.origin.app.concurrency.protect.enabled": "false"}, "192.0.2.1", "192.0.2.1", "", 150, filter.Success},
		{"of another region", map[string]string{"zuul.origin.app.concurrency.max.requests": "8"}, "192.0.2.1", "192.0.2.1", "west", 7, filter.Success},
		{"nobody knows whom", map[string]string{"zuul.origin.app.concurrency.max.requests": "8"}, "", "", "", 7, filter.Success},
	} {
		t.Run(tt.name, func(t *testing.T) {
			arrived, hold := make(chan struct{}, tt.held), make(chan struct{})
			addr := serving(t, func(w http.ResponseWriter, q *http.Request) {
				if q.URL.Path == "/hold" {
					arrived <- struct{}{}
					<-hold
				}
			})
			r := newRig(t, tt.props, addr)
			from := func(addr string) {
				r.change(func(x *filter.Exchange) { x.Hop, x.From = tt.hop, parsed(addr) })
			}
			from(tt.holder)
			r.fast = true
			client, url := r.client()
			var wg sync.WaitGroup
			over := make(chan string, tt.held) // what came of those that were let in
			for range tt.held {
				wg.Go(func() {
					resp, err := client.Get(url + "/hold")
					if err != nil {
						over <- err.Error()
						return
					}
					resp.Body.Close()
					over <- resp.Status
				})
			}
			for range tt.held {
				select {
				case <-arrived:
				case came := <-over:
					close(hold)
					t.Fatalf("one that was let in did not arrive: got %s", came)
				}
			}
			from(tt.from)
			refused := int64(0)
			for range 2 {
				code, _, _ := r.ask("GET", "/", "")
				last := r.last()
				if e, ok := errors.AsType[*filter.Error](last.err); tt.category != filter.Success && (!ok || e.RetryAfter != time.Second) {
					t.Errorf("one more: got %d and %+v, want that it be tried again after 1s", code, e)
				}
				if last.category != tt.category || (code == 200) != (tt.category == filter.Success) {
					t.Errorf("one more: got %d %v, want %v", code, last.category, tt.category)
				}
				if tt.category != filter.Success {
					refused++
				}
			}
			if got := r.meter.Counter("edge.origin.client.rejected", "id", "app").Count(); got != refused {
				t.Errorf("edge.origin.client.rejected: got %d, want %d", got, refused)
			}
			close(hold)
			wg.Wait()
			for range tt.held {
				if came := <-over; came != "200 OK" {
					t.Errorf("one that was let in: got %s, want 200", came)
				}
			}
			if code, _, _ := r.ask("GET", "/", ""); code != 200 {
				t.Errorf("once those are over: got %d, want 200", code)
			}
		})
	}
}

func TestPlacesOfClientsAreGivenBackAndTakeNoMemory(t *testing.T) {
	c := clients{seed: maphash.MakeSeed()}
	x := &filter.Exchange{From: netip.MustParseAddr("192.0.2.1")}
	if n := testing.AllocsPerRun(100, func() {
		h, ok := c.enter(x, 1)
		if !ok {
			t.Fatal("the only request: got refused, want a place")
		}
		if _, ok := c.enter(x, 1); ok {
			t.Fatal("a second request of one: got a place, want none")
		}
		h.leave()
	}); n != 0 && !raceEnabled {
		t.Errorf("a place took %v allocations, want 0", n)
	}
	for i := range 1000 { // of many clients with one place each nobody is refused
		x.From = netip.MustParseAddr("10.0." + strconv.Itoa(i/250) + "." + strconv.Itoa(i%250))
		if _, ok := c.enter(x, 150); !ok {
			t.Fatalf("client %d: got refused, want a place", i)
		}
	}
}

func parsed(addr string) netip.Addr {
	a, _ := netip.ParseAddr(addr)
	return a
}

func TestWhatFindsNoPlaceIsToldByWhyAndNoFailureOfTheApps(t *testing.T) {
	for _, props := range []map[string]string{
		{"zuul.origin.app.concurrency.max.requests": "1"},
		{"hystrix.command.app.execution.isolation.semaphore.maxConcurrentRequests": "1"},
	} {
		arrived, hold := make(chan struct{}, 1), make(chan struct{})
		addr := serving(t, func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/hold" {
				arrived <- struct{}{}
				<-hold
			}
		})
		r := newRig(t, props, addr)
		r.fast = true
		client, url := r.client()
		var wg sync.WaitGroup
		wg.Go(func() {
			if resp, err := client.Get(url + "/hold"); err == nil {
				resp.Body.Close()
			}
		})
		<-arrived
		for range 50 {
			if code, _, _ := r.ask("GET", "/", ""); code != 503 || r.last().category != filter.FailureConcurrency {
				t.Fatalf("one more than %v lets in: got %d %v, want 503 %v", props, code, r.last().category, filter.FailureConcurrency)
			}
		}
		if got := r.meter.Counter("zuul.origin.rejected.requests", "id", "app").Count(); got != 50 {
			t.Errorf("zuul.origin.rejected.requests: got %d, want 50", got)
		}
		told := 0
		for _, c := range r.calls.WhyRequest("request-1") {
			if c.Status == 0 {
				told++
			}
		}
		if told == 0 {
			t.Error("why tells of none that was refused")
		}
		close(hold)
		wg.Wait()
		if code, _, _ := r.ask("GET", "/", ""); code != 200 {
			t.Errorf("once the place is given back: got %d, want 200: the breaker has nothing to count", code)
		}
	}
}

func TestAnAnswerThatWasReadToItsEndHoldsNoPlaceHoweverSlowlyItIsTaken(t *testing.T) {
	addr := serving(t, func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Length", "20000") // more than what comes with the head
		w.Write(make([]byte, 20000))
	})
	r := newRig(t, map[string]string{"zuul.origin.app.concurrency.max.requests": "1"}, addr)
	inFlight := func() int64 { return r.Origins()[0].InFlight }
	x := &filter.Exchange{App: "app"}
	x.Request = filter.Request{Method: "GET", Target: "/", Scheme: "http", Host: "app", Path: "/", Proto: 11}
	if err := r.Proxy.Apply(x); err != nil {
		t.Fatal(err)
	}
	buf, n := make([]byte, 32<<10), 0
	for n < 20000 {
		if inFlight() != 1 {
			t.Fatalf("after %d of 20000 bytes %d requests are in flight, want 1", n, inFlight())
		}
		k, err := x.Response.Body.Read(buf)
		if n += k; err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
	if inFlight() != 0 {
		t.Errorf("after all bytes, and before the body's end was asked for, %d requests are in flight, want 0", inFlight())
	}
	x.End()
}
