package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
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

// TestALinkThatOnlyOneSideCanOpenCarriesBothSidesNews keeps b from reaching a, as a firewall would. What b is told comes
// to a over the connection that a holds, and b says that it cannot tell a itself.
func TestALinkThatOnlyOneSideCanOpenCarriesBothSidesNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		var closed atomic.Bool
		a := m.start("a", nil, "a", "b")
		b := m.start("b", func(_ *node, c *Config) {
			dial := c.dial
			c.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if closed.Load() {
					return nil, errors.New("dial " + addr + ": connection refused")
				}
				return dial(ctx, network, addr)
			}
		}, "a", "b")
		defer func() {
			a.stop()
			b.stop()
			pass(5 * time.Second)
		}()
		pass(5 * time.Second)
		closed.Store(true)
		m.part(true, []string{"a"}, []string{"b"}) // what was open breaks
		pass(30 * time.Second)
		m.part(false, []string{"a"}, []string{"b"})
		pass(10 * time.Second)
		a.do("POST", "apps/A", registrationOf("told-a", 10))
		b.do("POST", "apps/A", registrationOf("told-b", 10))
		pass(15 * time.Second)
		if a.holds() != b.holds() || a.count() != 4 {
			t.Errorf("15 s after both heard of one instance each: a has\n%s\nb has\n%s", a.holds(), b.holds())
		}
		b.do("DELETE", "apps/A/told-b", "")
		b.do("PUT", "apps/A/told-a/status?value=OUT_OF_SERVICE", "")
		pass(15 * time.Second)
		if a.is("told-b") != "gone/DELETED" || a.is("told-a") != b.is("told-a") {
			t.Errorf("15 s after b cancelled and overrode: a says %s and %s, b says %s and %s", a.is("told-b"), a.is("told-a"), b.is("told-b"), b.is("told-a"))
		}
		if got := b.Status().Peers; len(got) != 1 || got[0].Reachable {
			t.Errorf("b's word on a, which it cannot reach: got %+v, want one peer that is not reachable", got)
		}
	})
}

// TestSkewedClocksOfClientsMoveNoLease has clients whose clocks are ten minutes ahead and behind, at two registries.
func TestSkewedClocksOfClientsMoveNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		a, b := m.start("a", nil, "a", "b"), m.start("b", nil, "a", "b")
		defer func() {
			a.stop()
			b.stop()
			pass(5 * time.Second)
		}()
		pass(5 * time.Second)
		now := time.Now().UnixMilli()
		skewed := map[string]int64{"behind": now - 600_000, "right": now, "ahead": now + 600_000}
		for id, dirty := range skewed {
			a.do("POST", "apps/A", registrationOf(id, int(dirty)))
		}
		for range 4 { // two minutes: a lease that a clock had moved would have ended
			pass(30 * time.Second)
			for id, dirty := range skewed {
				if got := a.do("PUT", fmt.Sprintf("apps/A/%s?lastDirtyTimestamp=%d", id, dirty), ""); got != 200 {
					t.Fatalf("renewing %s at a: got %d, want 200", id, got)
				}
			}
		}
		// A change of each, told to the other registry, with the clock of its own client.
		for id, dirty := range skewed {
			b.do("POST", "apps/A", registrationOf(id, int(dirty+1)))
		}
		pass(5 * time.Second)
		for id, dirty := range skewed {
			want := fmt.Sprintf("UP/-/%d", dirty+1)
			for _, n := range []*node{a, b} {
				if got := n.is(id); !strings.HasPrefix(got, want) {
					t.Errorf("%s at %s: got %s, want %s", id, n.host, got, want)
				}
			}
		}
		pass(2 * time.Minute)
		for _, n := range []*node{a, b} {
			if got := n.holds(); got != "" {
				t.Errorf("%s, two minutes after the last renewal: still has\n%s", n.host, got)
			}
		}
	})
}
