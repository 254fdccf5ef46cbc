package balance

import (
	"fmt"
	"slices"
	"testing"
)

func TestAKeyKeepsItsEndpointAsOthersComeAndGo(t *testing.T) {
	const keys = 10_000
	chosen := func(b *Balancer) (all []string) {
		for k := range uint64(keys) {
			all = append(all, b.Hashed(second, k, nil).ID)
		}
		return all
	}
	b := proven(10)
	ten := chosen(b)
	if again := chosen(proven(10)); !slices.Equal(ten, again) {
		t.Error("two balancers of the same list choose differently")
	}
	counts := map[string]int{}
	for _, id := range ten {
		counts[id]++
	}
	for id, n := range counts {
		if n < keys/10*8/10 || n > keys/10*12/10 {
			t.Errorf("%s has %d of %d keys, want about a tenth", id, n, keys)
		}
	}
	eleven := chosen(proven(11))
	moved := 0
	for i := range ten {
		if ten[i] != eleven[i] {
			moved++
			if eleven[i] != "i-0010" {
				t.Fatalf("key %d moved from %s to %s, want only moves to the new one", i, ten[i], eleven[i])
			}
		}
	}
	if moved < keys/11*8/10 || moved > keys/11*12/10 {
		t.Errorf("%d of %d keys moved to an eleventh endpoint, want about an eleventh", moved, keys)
	}
	b.all[3].refused.Store(2 * second) // nobody listens there
	for i, id := range chosen(b) {
		if id == "i-0003" {
			t.Fatalf("key %d goes where nobody listens", i)
		}
		if ten[i] != "i-0003" && id != ten[i] {
			t.Fatalf("key %d moved from %s to %s when another one died", i, ten[i], id)
		}
	}
	if ep := b.Hashed(second, 7, b.all); ep != nil {
		t.Errorf("all were tried: got %s, want none", ep.ID)
	}
	if ep := New(Config{}).Hashed(second, 1, nil); ep != nil {
		t.Errorf("without endpoints: got %s, want none", ep.ID)
	}
}

func BenchmarkHashed(b *testing.B) {
	for _, n := range []int{3, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			lb := proven(n)
			b.ReportAllocs()
			for i := range uint64(b.N) {
				lb.Hashed(second, i, nil)
			}
		})
	}
}
