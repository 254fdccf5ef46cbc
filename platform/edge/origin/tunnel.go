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
// what the client had sent already.
func (p *Proxy) tunnel(ctx context.Context, front net.Conn, back io.ReadWriteCloser, early []byte, idle time.Duration) {
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
			return
		}
	}
	var both sync.WaitGroup
	way := func(to io.Writer, from io.Reader) {
		defer p.panics.Catch("tunnel", func(error) { cut() })
		pump(to, from, &moved)
		hangUp(to, cut)
	}
	both.Go(func() { way(back, front) })
	both.Go(func() { way(front, back) })
	both.Wait()
}

// pump copies until from ends or to takes no more.
func pump(to io.Writer, from io.Reader, moved *atomic.Bool) {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			moved.Store(true)
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
