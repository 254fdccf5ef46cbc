package registry

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestStatusTellsHowEachPeerIsReachedAndWhatItLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		a := m.start("a", netflix, "a", "b")
		m.start("b", netflix, "a", "b")
		time.Sleep(2 * time.Second)
		a.do("POST", "apps/A", registrationOf("i", 10))
		time.Sleep(2 * time.Second)
		peers := a.Status().Peers
		if len(peers) != 1 || peers[0].URL != urlOf("b") || !peers[0].Tried || !peers[0].Reachable || peers[0].Waiting != 0 || peers[0].Lag != 0 {
			t.Fatalf("with nothing amiss: got %+v, want b reached, lacking nothing", peers)
		}
		m.part(true, []string{"a"}, []string{"b"})
		a.do("POST", "apps/A", registrationOf("j", 10))
		time.Sleep(20 * time.Second)
		p := a.Status().Peers[0]
		if p.Reachable || p.Waiting < 1 || p.Lag < 19 || p.Lag > 20 {
			t.Errorf("20 s after a registration that b cannot hear of: got %+v, want b not reached, lacking it for 20 s", p)
		}
		m.part(false, []string{"a"}, []string{"b"})
		time.Sleep(15 * time.Second)
		if p := a.Status().Peers[0]; !p.Reachable || p.Waiting != 0 || p.Lag != 0 {
			t.Errorf("15 s after the network is whole again: got %+v, want b reached, lacking nothing", p)
		}
	})
}
