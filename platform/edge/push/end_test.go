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
