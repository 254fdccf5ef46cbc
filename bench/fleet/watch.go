//go:build linux

package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Watchers are many open streams of events at one server, and one thread that reads them. They look for marks: words
// that a test writes into what it changes, so that it can see when each stream told of it.
type Watchers struct {
	conns []*watcher
	poll  *poller
	done  chan struct{}

	mu      sync.Mutex
	marked  time.Time // when the mark was made
	mark    int
	told    int // streams that told of it
	all     chan struct{}
	took    Latencies
	stopped bool
	err     error
}

// Mark is the word by which watchers recognise change n.
func Mark(n int) string { return fmt.Sprintf("mark-%06d", n) }

const markLen = len("mark-000000")

// watcher is one stream.
type watcher struct {
	fd    int
	in    response
	tail  []byte // the last bytes, which may be the first of a mark
	seen  int    // the last mark
	begun bool   // has told anything at all
}

// opening is how many streams are opened before the last of them has told its first event.
const opening = 200

// Watch opens n streams and returns when each has begun to tell. Request appends the one that opens stream i.
func Watch(addr netip.AddrPort, n int, request func(buf []byte, i int) []byte) (*Watchers, error) {
	w := &Watchers{done: make(chan struct{})}
	var err error
	if w.poll, err = newPoller(); err != nil {
		return nil, err
	}
	buf := make([]byte, 1<<20)
	fail := func(err error) (*Watchers, error) {
		w.close()
		return nil, err
	}
	for len(w.conns) < n {
		quiet := min(opening, n-len(w.conns))
		for range quiet {
			fd, err := dial(addr)
			if err != nil {
				return fail(err)
			}
			c := &watcher{fd: fd, seen: -1}
			c.in.reset(func(b []byte) { w.read(c, b) })
			req := request(nil, len(w.conns))
			w.conns = append(w.conns, c)
			if m, err := rawWrite(fd, req); err != nil || m < len(req) {
				return fail(fmt.Errorf("open stream %d: wrote %d of %d bytes: %v", len(w.conns), m, len(req), err))
			}
			if err := w.poll.add(fd, int32(len(w.conns)-1)); err != nil {
				return fail(err)
			}
		}
		for last := time.Now(); quiet > 0; {
			ready, err := w.poll.wait(100 * time.Millisecond)
			if err != nil {
				return fail(err)
			}
			if len(ready) == 0 && time.Since(last) > patience {
				return fail(fmt.Errorf("%d of %d streams have not begun after %v", quiet, len(w.conns), patience))
			}
			for _, slot := range ready {
				c := w.conns[slot]
				was := c.begun
				if err := c.take(buf); err != nil {
					return fail(fmt.Errorf("stream %d: %w", slot, err))
				}
				if c.begun && !was {
					quiet--
					last = time.Now()
				}
			}
		}
	}
	go w.follow(buf)
	return w, nil
}

func (w *Watchers) close() {
	for _, c := range w.conns {
		syscall.Close(c.fd)
	}
	w.poll.close()
}

// follow reads all streams until Close.
func (w *Watchers) follow(buf []byte) {
	defer close(w.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		ready, err := w.poll.wait(50 * time.Millisecond)
		for _, slot := range ready {
			if err == nil {
				if err = w.conns[slot].take(buf); err != nil {
					err = fmt.Errorf("stream %d: %w", slot, err)
				}
			}
		}
		w.mu.Lock()
		if err != nil && w.err == nil {
			w.err = err
		}
		stop := w.stopped || w.err != nil
		w.mu.Unlock()
		if stop {
			return
		}
	}
}

// take reads what is there.
func (c *watcher) take(buf []byte) error {
	n, err := rawRead(c.fd, buf)
	switch {
	case err == syscall.EAGAIN:
		return nil
	case err != nil:
		return err
	case n == 0:
		return errors.New("the server ended it")
	}
	if _, err := c.in.feed(buf[:n]); err != nil {
		return err
	}
	if c.in.status != 0 && c.in.status != 200 {
		return fmt.Errorf("status %d", c.in.status)
	}
	return nil
}

// read looks for a mark in a piece of a stream.
func (w *Watchers) read(c *watcher, b []byte) {
	c.begun = true
	c.tail = append(c.tail, b...)
	for t := c.tail; ; {
		i := bytes.Index(t, []byte("mark-"))
		if i < 0 || len(t)-i < markLen {
			break
		}
		n := 0
		for _, d := range t[i+len("mark-") : i+markLen] {
			n = n*10 + int(d-'0')
		}
		t = t[i+markLen:]
		if n > c.seen {
			c.seen = n
			w.tell(n)
		}
	}
	c.tail = append(c.tail[:0], c.tail[max(0, len(c.tail)-markLen+1):]...)
}

// tell counts a stream that has told of mark n.
func (w *Watchers) tell(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil || n != w.mark {
		return // of what was there before
	}
	w.took.Add(time.Since(w.marked))
	if w.told++; w.told == len(w.conns) {
		close(w.all)
		w.all = nil
	}
}

// Change makes change n, by calling do, and waits until every stream has told of it. Do must write Mark(n); n rises from
// call to call.
func (w *Watchers) Change(n int, do func() error) error {
	all := make(chan struct{})
	w.mu.Lock()
	w.mark, w.told, w.all, w.marked = n, 0, all, time.Now()
	w.mu.Unlock()
	if err := do(); err != nil {
		return err
	}
	select {
	case <-all:
		return nil
	case <-w.done:
	case <-time.After(patience):
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	return fmt.Errorf("%d of %d streams told of change %d within %v", w.told, len(w.conns), n, patience)
}

// Took is how long it took from the begin of each change until each stream told of it. Call it when no change is under
// way.
func (w *Watchers) Took() *Latencies {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &w.took
}

// Close ends all streams.
func (w *Watchers) Close() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	<-w.done
	w.close()
}
