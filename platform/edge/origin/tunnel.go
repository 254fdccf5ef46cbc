package origin

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// tunnel copies bytes both ways until both ends have closed, either breaks, ctx ends, or no byte comes for idle. early is
// what the client had sent already. It returns how many bytes it has copied to the origin and to the client.
func (p *Proxy) tunnel(ctx context.Context, front net.Conn, back io.ReadWriteCloser, early []byte, idle time.Duration) (in, out int64) {
	var once sync.Once
	cut := func() {
		once.Do(func() {
			front.Close()
			back.Close()
		})
	}
	defer cut()
	defer context.AfterFunc(ctx, cut)()
	var moved atomic.Bool
	var watch *time.Timer
	watch = time.AfterFunc(idle, func() {
		if moved.Swap(false) {
			watch.Reset(idle)
			return
		}
		cut()
	})
	defer watch.Stop()
	if len(early) > 0 {
		if _, err := back.Write(early); err != nil {
			return 0, 0
		}
		in = int64(len(early))
	}
	var both sync.WaitGroup
	way := func(to io.Writer, from io.Reader, count *int64) {
		defer p.panics.Catch("tunnel", func(error) { cut() })
		pump(to, from, &moved, count)
		hangUp(to, cut)
	}
	both.Go(func() { way(back, front, &in) })
	both.Go(func() { way(front, back, &out) })
	both.Wait()
	return in, out
}

// pump copies until from ends or to takes no more, and counts the bytes.
func pump(to io.Writer, from io.Reader, moved *atomic.Bool, count *int64) {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			moved.Store(true)
			*count += int64(n)
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// hangUp tells to that nothing more comes. If it cannot be told so and still speak, both ends are done with.
func hangUp(to any, cut func()) {
	if half, ok := to.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		return
	}
	cut()
}
