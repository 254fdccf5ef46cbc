package bench

import (
	"syscall"
	"testing"
	"time"
)

// cpu reports the processor time per operation, user and system, of the whole process with its garbage collector: on a
// busy machine it says more than the time on the clock. Use it as defer cpu(b)().
func cpu(b *testing.B) (report func()) {
	b.ReportAllocs()
	start := used(b)
	return func() { b.ReportMetric(float64(used(b)-start)/float64(b.N), "cpu-ns/op") }
}

func used(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
