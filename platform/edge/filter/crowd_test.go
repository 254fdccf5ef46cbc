package filter

import (
	"sync"
	"testing"
)

func TestACrowdIsGoneOnceNobodyIsLeft(t *testing.T) {
	var c Crowd
	<-c.Gone() // nobody came yet
	c.Enter()
	c.Enter()
	first, second := c.Gone(), c.Gone()
	c.Leave()
	select {
	case <-first:
		t.Error("it is gone, and one is there")
	default:
	}
	c.Leave()
	<-first
	<-second
	c.Enter()
	<-first // what was over stays so
	c.Leave()
	<-c.Gone()
}

func TestWhoComesWhileTheLastOneLeavesIsNoTrouble(t *testing.T) {
	for range 500 {
		var c Crowd
		c.Enter()
		var all sync.WaitGroup
		all.Go(func() { <-c.Gone() })
		all.Go(c.Leave)
		all.Go(func() { c.Enter(); c.Leave() })
		all.Wait()
	}
}
