package registry

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// pipes is a listener of connections in memory.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// BenchmarkChangeToWatchers is one change on its way to 10,000 watchers, who hold
// connections in memory, and what such a watcher costs while nothing happens.
func BenchmarkChangeToWatchers(b *testing.B) {
	const watchers = 10_000
	for _, query := range []string{"", "?apps=APP7"} {
		b.Run("of"+query, func(b *testing.B) {
			r := filled(b, 200)
			r.log = slog.New(slog.DiscardHandler)
			l := &pipes{make(chan net.Conn), make(chan struct{})}
			srv := &http.Server{Handler: r.Handler()}
			go srv.Serve(l) //nolint:errcheck // it ends with the benchmark
			var wg, ready sync.WaitGroup
			before, goroutines := heapInUse(), runtime.NumGoroutine()
			heard := make(chan time.Time, watchers)
			for range watchers {
				ours, theirs := net.Pipe()
				l.conns <- theirs
				ready.Add(1)
				wg.Go(func() {
					fmt.Fprintf(ours, "GET /registry/v1/watch%s HTTP/1.1\r\nHost: r\r\n\r\n", query) //nolint:errcheck // what follows sees it
					in := bufio.NewReaderSize(ours, 512)
					said := sync.OnceFunc(ready.Done)
					for {
						line, err := in.ReadSlice('\n')
						if err != nil && err != bufio.ErrBufferFull {
							return
						}
						if bytes.HasPrefix(line, []byte("event: snapshot")) {
							said()
						}
						if bytes.HasPrefix(line, []byte("event: put")) {
							heard <- time.Now()
						}
					}
				})
				context := ours
				b.Cleanup(func() { context.Close() })
			}
			ready.Wait()
			time.Sleep(200 * time.Millisecond)
			per := float64(heapInUse()-before) / watchers
			stacks := float64(runtime.NumGoroutine()-goroutines)/watchers - 1 // one is the client's
			var took []time.Duration
			b.ResetTimer()
			for n := 0; b.Loop(); n++ {
				start := time.Now()
				r.s.setOverride(key{"APP7", "web-141.internal:shop:8080"}, []status{down, up}[n%2], 0, origin{})
				for range watchers {
					took = append(took, (<-heard).Sub(start))
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Milliseconds()), "ms-p99")
			b.ReportMetric(per, "B/watcher")
			b.ReportMetric(stacks, "goroutines/watcher")
			r.hub.end()
			srv.Close() //nolint:errcheck // as above
			wg.Wait()
		})
	}
}

// heapInUse is what the heap and the stacks hold, in bytes.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
