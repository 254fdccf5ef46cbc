package push

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowPeer answers after a second; nobody knows the client there.
type slowPeer struct{ asked, answered atomic.Int32 }

func (s *slowPeer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked.Add(1)
	select {
	case <-time.After(time.Second):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	s.answered.Add(1)
	return &http.Response{StatusCode: 202, Body: http.NoBody, Request: r}, nil
}

func TestRunWaitsForWhatWasBegunAndNothingBeginsAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peer := &slowPeer{}
		p := newPush(nil, "http://peer")
		p.client = &http.Client{Transport: peer}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() {
			defer close(over)
			p.Run(ctx)
		}()
		order := func() {
			r, _ := http.NewRequest("POST", "/push/broker", strings.NewReader(`{"ids": ["nobody"], "payload": "hi", "ttl": 60}`))
			p.Handler().ServeHTTP(&nowhere{}, r)
		}
		order()
		synctest.Wait()
		cancel()
		<-over
		if got := peer.answered.Load(); got != 1 {
			t.Errorf("when Run had ended, the other edge had answered %d times, want 1", got)
		}
		order()
		synctest.Wait()
		if got := peer.asked.Load(); got != 1 {
			t.Errorf("after Run had ended, the other edge was asked %d times in all, want 1", got)
		}
		c := join(t, p, "late", true)
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a client that comes after Run has ended keeps its connection, want it closed")
		}
		if got := p.Open(); got != 0 {
			t.Errorf("got %d open connections after Run has ended, want 0", got)
		}
	})
}

// nowhere takes an answer.
type nowhere struct{ h http.Header }

func (n *nowhere) Header() http.Header {
	if n.h == nil {
		n.h = http.Header{}
	}
	return n.h
}
func (*nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (*nowhere) WriteHeader(int)             {}

func TestAPanicOfOneDeliveryHarmsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPush(nil)
		p.begin(func() { panic("ouch") })
		synctest.Wait()
		done := false
		p.begin(func() { done = true })
		synctest.Wait()
		if !done {
			t.Error("nothing goes on after a panic")
		}
	})
}

// told is where an answer's status goes.
type told struct {
	nowhere
	status int
}

func (w *told) WriteHeader(status int) { w.status = status }

func TestAnOrderIsCarriedOutBeforeTheEdgeEndsOrRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPush(nil)
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() {
			defer close(over)
			p.Run(ctx)
		}()
		c := join(t, p, "alice", false)
		order := func() int {
			w := &told{}
			r, _ := http.NewRequest("POST", "/push/broker", strings.NewReader(`{"ids": ["alice"], "payload": "hi", "ttl": 60}`))
			p.Handler().ServeHTTP(w, r)
			return w.status
		}
		if got := order(); got != 202 {
			t.Fatalf("got %d, want 202", got)
		}
		synctest.Wait() // alice reads nothing yet
		cancel()
		synctest.Wait()
		if got := order(); got != 503 {
			t.Errorf("an order to an edge that ends: got %d, want 503", got)
		}
		if got := next(t, c); got != "text hi" {
			t.Errorf("alice got %q before the edge ended, want the message that was answered 202", got)
		}
		if got := next(t, c); got != "text _CLOSE_" {
			t.Errorf("alice got %q then, want to be asked to go", got)
		}
		c.Close()
		<-over
	})
}

func TestAMessageThatCouldNotBeWrittenWaitsForItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPush(nil)
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() {
			defer close(over)
			p.Run(ctx)
		}()
		c := join(t, p, "alice", false)
		defer c.Close()
		order := func() int {
			w := &told{}
			r, _ := http.NewRequest("POST", "/push/broker", strings.NewReader(`{"ids": ["alice"], "payload": "hi", "ttl": 60}`))
			p.Handler().ServeHTTP(w, r)
			return w.status
		}
		if got := order(); got != 202 {
			t.Fatalf("got %d, want 202", got)
		}
		time.Sleep(writeWithin + time.Second) // alice has not read
		c = join(t, p, "alice", false)
		defer c.Close()
		if got := next(t, c); got != "text hi" {
			t.Errorf("alice, who came again, got %q, want the message", got)
		}
		for i := range 3 {
			if got := order(); got != 202 {
				t.Fatalf("order %d: got %d, want 202", i, got)
			}
			next(t, c)
		}
		if got := order(); got != 503 {
			t.Errorf("an order that is one too many for the client: got %d, want 503", got)
		}
		cancel()
		for {
			if _, err := c.Read(make([]byte, 64)); err != nil {
				break
			}
		}
		<-over
	})
}
