package registry

import (
	"bytes"
	"crypto/tls"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// line is the connection of a watcher that net/http has let go of. While nothing happens it costs one goroutine that
// waits for the client to leave; net/http's own takes five times the memory. What is to be written, whoever has the
// hub's next round writes.
type line struct {
	stream
	me   *watcher
	conn net.Conn
	raw  syscall.RawConn // of conn; nil if there is none

	slow atomic.Bool // it did not take at once what was written to it: it is waited for elsewhere
	busy atomic.Bool // somebody writes, and looks whether there is more to do afterwards
}

// lineWait is how long a round waits for one line without a raw connection. It is waited for once.
const lineWait = 5 * time.Millisecond

// watchLine serves a watcher without net/http, in the background. It reports false if that cannot be done.
func (h *eureka) watchLine(w http.ResponseWriter, r *http.Request, me *watcher, version uint64, resumed bool) bool {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	l := &line{stream: stream{hub: h.hub, in: me.in}, me: me, conn: conn}
	l.out = l.send
	if c, ok := conn.(*frontConn); ok {
		l.raw = c.raw
	}
	// After a write that timed out, a TLS connection is of no more use, so it is never hurried.
	_, secure := conn.(*tls.Conn)
	l.slow.Store(secure || r.TLS != nil)
	l.busy.Store(true)
	me.line = l
	h.hub.join(me)
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\n") // its end is that of the connection
	hd := w.Header()
	hd.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	hd.Write(&head) //nolint:errcheck // a buffer takes everything
	head.WriteString("\r\n")
	if !l.send(head.Bytes()) || r.Method == http.MethodHead || !l.begin(version, resumed) {
		h.hangUp(l)
		return true
	}
	l.finish()
	select {
	case <-h.stop:
		conn.Close() //nolint:errcheck // the client learns of it
	default:
	}
	go h.listen(l)
	return true
}

// listen waits until the client leaves.
func (h *eureka) listen(l *line) {
	var b [1]byte
	for {
		if _, err := l.conn.Read(b[:]); err != nil {
			h.hangUp(l)
			return
		}
	}
}

func (h *eureka) hangUp(l *line) {
	bound := h.hub.leave(l.me)
	l.conn.Close() //nolint:errcheck // it is of no more use
	h.broke(bound)
}

// send writes b, with patience.
func (l *line) send(b []byte) bool {
	if l.conn.SetWriteDeadline(time.Now().Add(watcherWait)) != nil {
		return false
	}
	_, err := l.conn.Write(b)
	return err == nil
}

// work writes to those of ws that have lines, as many at the same time as there are processors. Lines that do not take
// it at once are left to goroutines of their own.
func work(ws []*watcher) {
	const few = 32
	n := min(runtime.GOMAXPROCS(0), (len(ws)+few-1)/few)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			p := newPen()
			for {
				from := int(next.Add(few)) - few
				if from >= len(ws) {
					return
				}
				for _, w := range ws[from:min(from+few, len(ws))] {
					if w.line != nil && w.line.busy.CompareAndSwap(false, true) {
						w.line.work(p)
					}
				}
			}
		})
	}
	wg.Wait()
}

// pen writes to lines with raw connections.
type pen struct {
	b   []byte
	n   int // bytes that put wrote
	put func(fd uintptr) bool
}

func newPen() *pen {
	p := &pen{}
	p.put = func(fd uintptr) bool {
		p.n = writeNow(fd, p.b)
		return true
	}
	return p
}

// push writes what l takes at once of b; full says that this is not all.
func (l *line) push(p *pen, b []byte) (n int, full bool, err error) {
	if l.raw != nil {
		p.b = b
		err = l.raw.Write(p.put)
		return p.n, err == nil && p.n < len(b), err
	}
	l.conn.SetWriteDeadline(time.Now().Add(lineWait)) //nolint:errcheck // the write tells
	n, err = l.conn.Write(b)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		l.slow.Store(true)
		return n, true, nil
	}
	return n, false, err
}

// work does what there is to do on a line that the caller has made busy.
func (l *line) work(p *pen) {
	if l.slow.Load() {
		go l.finish()
		return
	}
	b := getBuffer()
	defer putBuffer(b)
	for {
		t, upTo := l.me.take(l.hub)
		if t.nothing() && l.rest() {
			return
		}
		*b = (*b)[:0]
		shared, ok := l.prepare(b, t, upTo)
		if !ok {
			go l.patiently(l.anew)
			return
		}
		for i, part := range [...][]byte{shared, *b} {
			if len(part) == 0 {
				continue
			}
			n, full, err := l.push(p, part)
			if full {
				left, then := shared[min(n, len(shared)):], bytes.Clone(*b)
				if i == 1 {
					left, then = nil, then[n:]
				}
				go l.patiently(func() bool { return l.write(left) && l.write(then) })
				return
			} else if err != nil {
				l.conn.Close() //nolint:errcheck // listen does the rest
				return
			}
		}
		if l.more {
			l.me.rouse(todo{news: true, from: l.cursor})
		}
	}
}

// patiently does first and then what else there is to do.
func (l *line) patiently(first func() bool) {
	if first() {
		l.finish()
	} else {
		l.conn.Close() //nolint:errcheck // listen does the rest
	}
}

// finish does what there is to do, with patience.
func (l *line) finish() {
	for {
		t, upTo := l.me.take(l.hub)
		if t.nothing() {
			if l.raw != nil {
				l.conn.SetWriteDeadline(time.Time{}) //nolint:errcheck // the next write tells
			}
			if l.rest() {
				return
			}
			continue
		}
		if !l.advance(t, upTo) {
			l.conn.Close() //nolint:errcheck // listen does the rest
			return
		}
	}
}

// rest says that nobody writes any more. It reports false if there is something to do after all.
func (l *line) rest() bool {
	l.busy.Store(false)
	l.me.mu.Lock()
	nothing := l.me.todo.nothing()
	l.me.mu.Unlock()
	return nothing || !l.busy.CompareAndSwap(false, true)
}
