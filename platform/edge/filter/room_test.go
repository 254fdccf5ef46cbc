package filter

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// sink is a client's end of an answer.
type sink struct {
	Exchange
	out     Outlet
	took    atomic.Int64
	dropped atomic.Bool
	gone    func() // is called when it is ended
}

func (s *sink) Taken() int64 { return s.took.Load() }
func (s *sink) Drop() {
	s.dropped.Store(true)
	if s.gone != nil {
		go s.gone()
	}
}

// places are those of a room that all are taken.
type places struct {
	*Room
	free atomic.Int64
}

func (p *places) sink(from string) *sink {
	s := &sink{}
	s.out.Init(s)
	s.Outlet, s.From = &s.out, netip.MustParseAddr(from)
	s.gone = func() {
		p.free.Add(1)
		s.Yield(p.Room)
	}
	s.Hold(p.Room)
	return s
}

func (p *places) try() bool {
	for {
		n := p.free.Load()
		if n == 0 {
			return false
		}
		if p.free.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// ask asks for a place for a client from that address.
func (p *places) ask(from string) bool {
	x := &Exchange{From: netip.MustParseAddr(from)}
	return p.Make(context.Background(), x, 20, 5*time.Second, p.try)
}

func TestWhoTakesNothingGivesUpItsPlaceOnceItIsWanted(t *testing.T) {
	const other, asks = "192.0.2.1", "192.0.2.9"
	for _, tt := range []struct {
		name  string
		act   func(p *places) []*sink // the exchanges that hold places
		ended []int                   // of these, those that are ended for one request
	}{
		{"nobody waits for its client", func(p *places) []*sink {
			s := p.sink(other)
			time.Sleep(time.Minute)
			return []*sink{s}
		}, nil},
		{"its client took nothing for 5 s", func(p *places) []*sink {
			s := p.sink(other)
			s.out.Waits(Now())
			p.Look(Now())
			time.Sleep(5 * time.Second)
			return []*sink{s}
		}, []int{0}},
		{"for 2 s", func(p *places) []*sink {
			s := p.sink(other)
			s.out.Waits(Now())
			p.Look(Now())
			time.Sleep(2 * time.Second)
			return []*sink{s}
		}, nil},
		{"for 2 s, and keeps three waiting", func(p *places) []*sink {
			all := []*sink{p.sink(other), p.sink(other), p.sink(other)}
			for _, s := range all {
				s.out.Waits(Now())
			}
			p.Look(Now())
			time.Sleep(2 * time.Second)
			return all
		}, []int{0}},
		{"two for 2 s", func(p *places) []*sink {
			all := []*sink{p.sink(other), p.sink(other)}
			for _, s := range all {
				s.out.Waits(Now())
			}
			p.Look(Now())
			time.Sleep(2 * time.Second)
			return all
		}, nil},
		{"three for 2 s, but so does who asks", func(p *places) []*sink {
			all := []*sink{p.sink(other), p.sink(other), p.sink(other), p.sink(asks)}
			for _, s := range all {
				s.out.Waits(Now())
			}
			p.Look(Now())
			time.Sleep(2 * time.Second)
			return all
		}, nil},
		{"the longest first", func(p *places) []*sink {
			all := []*sink{p.sink(other), p.sink(other), p.sink("192.0.2.3")}
			for _, i := range []int{1, 0, 2} {
				all[i].out.Waits(Now())
				p.Look(Now())
				time.Sleep(time.Second)
			}
			time.Sleep(5 * time.Second)
			return all
		}, []int{1}},
		{"it went on a moment ago", func(p *places) []*sink {
			s := p.sink(other)
			s.out.Waits(Now())
			time.Sleep(4 * time.Second)
			s.out.Goes()
			s.out.Waits(Now())
			time.Sleep(time.Second)
			return []*sink{s}
		}, nil},
		{"it goes on", func(p *places) []*sink {
			s := p.sink(other)
			s.out.Waits(Now())
			time.Sleep(10 * time.Second)
			s.out.Goes()
			return []*sink{s}
		}, nil},
		{"its client takes a little all the time", func(p *places) []*sink {
			s := p.sink(other)
			s.out.Waits(Now())
			for range 20 {
				p.Look(Now())
				time.Sleep(time.Second)
				s.took.Add(leastTaken)
			}
			return []*sink{s}
		}, nil},
		{"its client takes too little", func(p *places) []*sink {
			s := p.sink(other)
			s.out.Waits(Now())
			for range 20 {
				p.Look(Now())
				time.Sleep(time.Second)
				s.took.Add(leastTaken / 10)
			}
			return []*sink{s}
		}, []int{0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &places{Room: NewRoom()}
				all := tt.act(p)
				began := time.Now()
				got := p.ask(asks)
				if want := tt.ended != nil; got != want {
					t.Errorf("a request that finds no place: got one %v, want %v", got, want)
				}
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("it waited for %v, want 3 s at most", took)
				}
				synctest.Wait()
				for i, s := range all {
					if got, want := s.dropped.Load(), slices.Contains(tt.ended, i); got != want {
						t.Errorf("exchange %d: ended %v, want %v", i, got, want)
					}
				}
			})
		})
	}
}

func TestWhoFindsNoPlaceWaitsUntilItIsKnownWhoTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &places{Room: NewRoom()}
		var all []*sink
		for range 20 {
			s := p.sink("192.0.2.1")
			s.out.Waits(Now())
			all = append(all, s)
		}
		began := time.Now()
		var got atomic.Int64
		for range 5 {
			go func() {
				if p.ask("192.0.2.9") {
					got.Add(1)
				}
			}()
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got.Load() != 5 {
			t.Errorf("5 requests of another client: got %d places, want 5, %v after they asked", got.Load(), time.Since(began))
		}
		ended := 0
		for _, s := range all {
			if s.dropped.Load() {
				ended++
			}
		}
		if ended != 5 {
			t.Errorf("for 5 places %d exchanges were ended, want 5", ended)
		}
	})
}

func TestWhoFindsNoPlaceGetsOneThatIsGivenBackMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &places{Room: NewRoom()}
		for range 3 {
			p.sink("192.0.2.1").out.Waits(Now())
		}
		s := p.sink("192.0.2.2")
		go func() {
			time.Sleep(300 * time.Millisecond)
			p.free.Add(1)
			s.Yield(p.Room)
		}()
		began := time.Now()
		if !p.ask("192.0.2.9") || time.Since(began) != 300*time.Millisecond {
			t.Errorf("a place was given back after 300ms: got none, or after %v", time.Since(began))
		}
	})
}

func TestWhoseClientLeavesWaitsForNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &places{Room: NewRoom()}
		for range 3 {
			p.sink("192.0.2.1").out.Waits(Now())
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if p.Make(ctx, &Exchange{}, 20, 5*time.Second, p.try) || len(p.waiting) != 0 || p.wanted.Load() != 0 {
			t.Errorf("a request whose client has left: got a place, or waits still (%d)", len(p.waiting))
		}
	})
}

func TestYieldTellsWhoWasEnded(t *testing.T) {
	r := NewRoom()
	s, other := &sink{}, NewRoom()
	s.out.Init(s)
	s.Outlet = &s.out
	s.Hold(r)
	s.Hold(other)
	s.out.Waits(1)
	if s.Yield(other) {
		t.Error("nobody wanted its place: got ended, want not")
	}
	r.waiting = []*waiter{{client: 1, tell: make(chan struct{}, 1)}}
	if !r.end(r.waiting[0], true, int64(time.Hour), int64(2*time.Hour), int64(time.Second), 20) || !s.dropped.Load() {
		t.Errorf("it took nothing for an hour: got ended %v, want that it is", s.dropped.Load())
	}
	if !s.Yield(r) || len(r.stalls) != 0 || s.out.listed {
		t.Errorf("got not ended, or %d are kept", len(r.stalls))
	}
}

func BenchmarkRoom(b *testing.B) {
	r, s := NewRoom(), &sink{}
	s.out.Init(s)
	s.Outlet = &s.out
	b.ReportAllocs()
	for b.Loop() {
		s.Hold(r)
		s.Yield(r)
	}
}

func TestHoldingAPlaceTakesNoMemory(t *testing.T) {
	r, s := NewRoom(), &sink{}
	s.out.Init(s)
	s.Outlet = &s.out
	if n := testing.AllocsPerRun(100, func() {
		s.Hold(r)
		s.Yield(r)
	}); n != 0 {
		t.Errorf("holding a place took %v allocations, want 0", n)
	}
}
