package engine

import (
	"fmt"
	"sync/atomic"
	"testing"
)

type benchValue struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
	Note  string `json:"note"`
}

var benchNote = fmt.Sprintf("%0100d", 7)

// BenchmarkGet measures a read of a table: a lookup in memory.
func BenchmarkGet(b *testing.B) {
	e := openTest(b, Config{})
	table := openTable[benchValue](b, e, "bench", 1)
	if _, err := table.Put(b.Context(), "key", benchValue{Name: "x"}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := table.Get("key"); !ok {
			b.Fatal("the key is gone")
		}
	}
}

// BenchmarkPut1 measures one writer, who pays for a disk sync each time.
func BenchmarkPut1(b *testing.B) { benchmarkPut(b, 1) }

// BenchmarkPut64 measures 64 writers, who share disk syncs.
func BenchmarkPut64(b *testing.B) { benchmarkPut(b, 64) }

func benchmarkPut(b *testing.B, writers int) {
	e := openTest(b, Config{})
	table := openTable[benchValue](b, e, "bench", 1)
	b.ReportAllocs()
	parallel(b, writers, func(writer, i int) error {
		_, err := table.Put(b.Context(), fmt.Sprintf("w%d.k%d", writer, i%100), benchValue{Name: "x", Count: i, Note: benchNote})
		return err
	})
}

// BenchmarkUpdate64 measures 64 writers who compare and set, each its own key.
func BenchmarkUpdate64(b *testing.B) {
	e := openTest(b, Config{})
	table := openTable[benchValue](b, e, "bench", 1)
	var revs [64]uint64
	b.ReportAllocs()
	parallel(b, 64, func(writer, i int) error {
		rev, err := table.Update(b.Context(), fmt.Sprintf("w%d", writer), benchValue{Name: "x", Count: i, Note: benchNote}, revs[writer])
		revs[writer] = rev
		return err
	})
}

// BenchmarkAppend64 measures 64 writers of one stream.
func BenchmarkAppend64(b *testing.B) {
	e := openTest(b, Config{})
	s := openStream(b, e, "bench")
	data := []byte(benchNote)
	b.ReportAllocs()
	parallel(b, 64, func(_, _ int) error {
		_, err := s.Append(b.Context(), data)
		return err
	})
}

// parallel spreads b.N calls of do over as many goroutines as there are writers and reports writes per second.
func parallel(b *testing.B, writers int, do func(writer, i int) error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan error, writers)
	b.ResetTimer()
	for w := range writers {
		go func() {
			for i := 0; left.Add(-1) >= 0; i++ {
				if err := do(w, i); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
}
