package http2

import (
	"sync"
	"testing"
)

func TestWhoComesWhileTheLastOneLeavesIsNoTroubleForDrain(t *testing.T) {
	for range 500 {
		s := NewServer(Config{})
		last := s.Expect()
		var all sync.WaitGroup
		all.Go(func() {
			if err := s.Drain(t.Context()); err != nil {
				t.Errorf("got %v", err)
			}
		})
		all.Go(last)
		all.Go(func() { s.Expect()() })
		all.Wait()
	}
}
