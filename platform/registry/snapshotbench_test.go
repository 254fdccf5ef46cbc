package registry

import "testing"

// BenchmarkSnapshotAfterBurst is what readers wait for after one change of 100,000 instances that have all just
// registered, 20 to an application.
func BenchmarkSnapshotAfterBurst(b *testing.B) {
	r := filled(b, 100_000)
	r.s.current("")
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		r.s.setOverride(key{"APP7", "web-141.internal:shop:8080"}, []status{down, up}[n%2], 0, origin{})
		if sn := r.s.snapshot(""); sn.count != 100_000 {
			b.Fatalf("got %d instances", sn.count)
		}
	}
}

// BenchmarkRegisterAgainAfterBurst is one of 100,000 instances, each in its turn, that registers with other contents
// while a reader looks now and then.
func BenchmarkRegisterAgainAfterBurst(b *testing.B) {
	r := filled(b, 100_000)
	var all []*entry
	for _, a := range r.s.apps { // in any order
		all = append(all, a.order...)
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		rec := *all[n%len(all)].rec
		rec.home = []string{"a", "b"}[n/len(all)%2]
		r.s.register(&rec, origin{})
		if n%1000 == 0 {
			r.s.snapshot("")
		}
	}
}

// BenchmarkDeltaAfterBurst is a delta after one change of 100,000 instances that have all just registered.
func BenchmarkDeltaAfterBurst(b *testing.B) {
	r := filled(b, 100_000)
	r.s.current("").delta().gzipped(jsonFull)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		r.s.setOverride(key{"APP7", "web-141.internal:shop:8080"}, []status{down, up}[n%2], 0, origin{})
		d := r.s.snapshot("").delta()
		if z := d.gzipped(jsonFull); len(z) == 0 || d.count() != 100_000 {
			b.Fatalf("got %d bytes of %d changes", len(z), d.count())
		}
	}
}
