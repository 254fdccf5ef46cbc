package http1

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// tunnel copies both ways between a client and the origin that has changed the protocol, until both have ended or neither
// says anything for too long. Whoever ends first is heard of by the other, and may go on reading.
func (a *answer) tunnel(c net.Conn, early []byte) {
	u := a.u
	if u == nil {
		return
	}
	idle := u.UpgradeIdle
	if idle == 0 {
		idle = 5 * time.Minute
	}
	t := &tunnel{idle: int64(idle)}
	t.active.Store(filter.Now())
	var client sock
	client.init(c)
	late := append([]byte(nil), a.buf[a.start:a.end]...)
	a.start, a.end, a.buf = 0, 0, nil // nothing lies there any more
	var in, out int64
	var wg sync.WaitGroup
	wg.Go(func() {
		defer u.Panics.Catch("tunnel", func(error) {
			u.s.c.Close()    //nolint:errcheck // it is over
			client.c.Close() //nolint:errcheck // for the other direction too
		})
		t.pump(&u.s, &client, early, &in)
	})
	t.pump(&client, &u.s, late, &out)
	wg.Wait()
	if x := u.x; x != nil { // engines that know better have said so
		x.Read, x.Written = max(x.Read, in), max(x.Written, out)
	}
	a.finish(false)
}

type tunnel struct {
	idle   int64
	active atomic.Int64 // when the last bytes came, either way
}

// pump copies from one side to the other, beginning with first, and counts the bytes. It holds memory only while bytes come.
func (t *tunnel) pump(to, from *sock, first []byte, count *int64) {
	*count = int64(len(first))
	err := to.writeSlow(first, 0)
	from.arm(filter.Now() + t.idle)
	for err == nil {
		ended := false
		again := from.each(func() bool {
			b := copies.Get().(*[32 << 10]byte)
			defer copies.Put(b)
			for {
				n, e := from.recv(b[:])
				if n > 0 {
					t.active.Store(filter.Now())
					*count += int64(n)
					if err = to.writeSlow(b[:n], 0); err != nil {
						return true
					}
				}
				switch {
				case errors.Is(e, errAgain):
					return false
				case errors.Is(e, io.EOF):
					ended = true
					return true
				case e != nil:
					err = e
					return true
				case from.raw == nil:
					return true
				}
				// Fewer bytes than there was room for do not mean that nothing follows: the end may have come with them.
			}
		})
		if ended {
			if to.closeWrite() == nil {
				return
			}
			err = io.EOF
		}
		if again != nil {
			err = again
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if now, last := filter.Now(), t.active.Load(); last+t.idle > now {
				err = nil
				from.set(last + t.idle)
			}
		}
	}
	to.c.Close()   //nolint:errcheck // it is over
	from.c.Close() //nolint:errcheck // for the other direction too
}
