package registry

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestHalvesOfACutClusterKeepEachOthersInstancesAndComeToTheSame cuts one of three registries off for three minutes, in
// which clients of both sides renew, and operators and clients change things.
func TestHalvesOfACutClusterKeepEachOthersInstancesAndComeToTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		var ns []*node
		for _, h := range []string{"a", "b", "c"} {
			ns = append(ns, m.start(h, nil, "a", "b", "c"))
		}
		defer func() {
			for _, n := range ns {
				n.stop()
			}
			pass(5 * time.Second) // dials that nobody waits for any more end
		}()
		pass(5 * time.Second)
		for i := range 60 {
			ns[i%3].do("POST", "apps/A", registrationOf(fmt.Sprint(i), 10))
		}
		pass(time.Second)
		renew := func(times int) {
			for range times {
				for i := range 60 {
					ns[i%3].do("PUT", fmt.Sprintf("apps/A/%d?lastDirtyTimestamp=10", i), "")
				}
				pass(30 * time.Second)
			}
		}
		m.part(true, []string{"a"}, []string{"b", "c"})
		renew(1)
		ns[0].do("PUT", "apps/A/0/status?value=OUT_OF_SERVICE", "")
		ns[1].do("DELETE", "apps/A/1", "")
		ns[1].do("PUT", "apps/A/4/metadata?k=v", "")
		renew(5)
		for _, n := range ns {
			want := 63 // and the three registries
			if n.host != "a" {
				want--
			}
			if got := n.count(); got != want {
				t.Errorf("%s after three minutes apart: got %d instances, want %d: %s", n.host, got, want, n.Silence().Reason)
			}
		}
		m.part(false, []string{"a"}, []string{"b", "c"})
		pass(10 * time.Second)
		for _, n := range ns[1:] {
			if n.holds() != ns[0].holds() {
				t.Errorf("10 s after the network is whole again: a has\n%s\n%s has\n%s", ns[0].holds(), n.host, n.holds())
			}
		}
		for _, n := range ns {
			if n.is("0") != "OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED" || n.is("1") != "gone/DELETED" {
				t.Errorf("%s: the overridden one is %s, the cancelled one %s", n.host, n.is("0"), n.is("1"))
			}
		}
	})
}
