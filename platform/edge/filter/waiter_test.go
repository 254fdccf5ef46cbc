package filter

import "testing"

func TestAWaiterIsWokenOnceWhenTheClientIsGone(t *testing.T) {
	var w Waiter
	called := 0
	stop := func() { called++ }
	if !w.Wait(&stop) || w.IsGone() {
		t.Fatal("a client that is there is said to be gone")
	}
	if !w.Done(&stop) {
		t.Fatal("stop is said to have been called")
	}
	w.Wait(&stop)
	w.Gone()
	w.Gone()
	if called != 1 || w.Done(&stop) || w.Wait(&stop) || !w.IsGone() {
		t.Errorf("called %d times, done %v, waits %v, gone %v; want 1, false, false, true", called, w.Done(&stop), w.Wait(&stop), w.IsGone())
	}
}

func BenchmarkWaiter(b *testing.B) {
	var w Waiter
	stop := func() {}
	b.ReportAllocs()
	for b.Loop() {
		w.Wait(&stop)
		w.Done(&stop)
	}
}
