//go:build linux

package fleet

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// Load is requests to one server over a few keep-alive connections. Each connection has one request under way at a time,
// as clients of Eureka do.
type Load struct {
	Addr  netip.AddrPort
	Conns int

	// Rate is requests a second, each at its due time whether or not those before it are answered; it waits for a
	// connection if all are busy, and its latency counts from when it was due. 0 sends on every connection as soon
	// as the answer before is there.
	Rate float64

	// For and Count end the load, whichever comes first; 0 does not.
	For   time.Duration
	Count int

	// Next appends the i-th request to buf. No request appended ends the load.
	Next func(buf []byte, i int) []byte

	// Answer is told each answer and says what is wrong with it. If nil, 200 and 204 are right. Body is nil unless Keep
	// is set, and must not be kept.
	Answer func(i, status int, body []byte) error
	Keep   bool
}

// Report is how a load went.
type Report struct {
	Answers  int // right ones
	Wrong    int // wrong ones, and requests whose connection broke
	Why      error
	Took     time.Duration // from the first request to the last answer
	Bytes    int64         // of bodies, as transferred
	Latency  Latencies
	Connects int // how often a connection was opened
}

// PerSecond is right answers a second.
func (r *Report) PerSecond() float64 { return float64(r.Answers) / r.Took.Seconds() }

// patience is how long a load waits for a server that says nothing at all.
const patience = 20 * time.Second

// Run sends the load and returns when its last answer is there. It fails if the server cannot be reached or falls silent.
//
// It is one thread with one epoll instance: what it costs is the kernel's part of sending and receiving, and little else.
func (l *Load) Run() (*Report, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	run := &running{Load: l, report: &Report{}, buf: make([]byte, 256<<10)}
	var err error
	if run.poll, err = newPoller(); err != nil {
		return nil, err
	}
	defer run.poll.close()
	run.conns = make([]*conn, l.Conns)
	for i := range run.conns {
		c := &conn{slot: int32(i), fd: -1}
		run.conns[i] = c
		if err := run.connect(c); err != nil {
			return nil, err
		}
		run.idle = append(run.idle, c)
	}
	defer func() {
		for _, c := range run.conns {
			syscall.Close(c.fd)
		}
	}()
	err = run.loop()
	return run.report, err
}

// running is a load under way.
type running struct {
	*Load
	report *Report
	poll   *poller
	conns  []*conn
	idle   []*conn
	buf    []byte
	start  time.Time
	sent   int
	over   bool // nothing more is to be sent
}

// conn is one connection and the request under way on it.
type conn struct {
	slot  int32
	fd    int
	seq   int
	due   time.Duration // since start
	out   []byte
	off   int // how much of out is sent
	in    response
	body  []byte
	keep  func([]byte)
	fails int // connections in a row that broke without an answer
}

func (r *running) connect(c *conn) error {
	fd, err := dial(r.Addr)
	if err != nil {
		return err
	}
	c.fd = fd
	r.report.Connects++
	return r.poll.add(fd, c.slot)
}

func (r *running) loop() error {
	r.start = time.Now()
	var gap time.Duration
	if r.Rate > 0 {
		gap = time.Duration(float64(time.Second) / r.Rate)
	}
	heard := time.Duration(0)
	for {
		now := time.Since(r.start)
		r.over = r.over || r.For > 0 && now >= r.For
		wait := 100 * time.Millisecond
		for !r.over && len(r.idle) > 0 {
			due := now
			if gap > 0 {
				if due = time.Duration(float64(r.sent) / r.Rate * float64(time.Second)); due > now {
					wait = min(wait, due-now)
					break
				}
			}
			c := r.idle[0] // each in its turn
			r.idle = r.idle[1:]
			if err := r.send(c, due); err != nil {
				return err
			}
			if r.over {
				r.idle = append(r.idle, c)
			}
		}
		if len(r.idle) == len(r.conns) {
			if r.over {
				return nil
			}
			heard = now // nothing is under way
		}
		ready, err := r.poll.wait(wait)
		if err != nil {
			return err
		}
		if len(ready) == 0 && now-heard > patience {
			return fmt.Errorf("the server at %v says nothing since %v", r.Addr, patience)
		}
		for _, slot := range ready {
			heard = now
			if err := r.receive(r.conns[slot]); err != nil {
				return err
			}
		}
	}
}

// send writes the next request to c, or finds that the load is over.
func (r *running) send(c *conn, due time.Duration) error {
	if r.Count > 0 && r.sent == r.Count {
		r.over = true
		return nil
	}
	c.out = r.Next(c.out[:0], r.sent)
	if len(c.out) == 0 {
		r.over = true
		return nil
	}
	c.seq, c.due, c.off = r.sent, due, 0
	c.body = c.body[:0]
	if r.Keep && c.keep == nil {
		c.keep = func(b []byte) { c.body = append(c.body, b...) }
	}
	c.in.reset(c.keep)
	r.sent++
	return r.write(c)
}

func (r *running) write(c *conn) error {
	for c.off < len(c.out) {
		n, err := rawWrite(c.fd, c.out[c.off:])
		switch {
		case err == syscall.EAGAIN:
			return r.poll.writable(c.fd, c.slot, true)
		case err != nil:
			return r.broken(c, fmt.Errorf("write: %w", err))
		}
		c.off += n
	}
	return nil
}

// receive takes what c has to read, and continues to write.
func (r *running) receive(c *conn) error {
	if c.off < len(c.out) {
		if err := r.write(c); err != nil {
			return err
		}
		if c.off == len(c.out) {
			if err := r.poll.writable(c.fd, c.slot, false); err != nil {
				return err
			}
		}
	}
	for {
		n, err := rawRead(c.fd, r.buf)
		switch {
		case err == syscall.EAGAIN:
			return nil
		case err != nil:
			return r.broken(c, fmt.Errorf("read: %w", err))
		case n == 0 && c.in.phase == inUntilClose:
			return r.answered(c)
		case n == 0:
			return r.broken(c, errors.New("the server closed the connection"))
		}
		done, err := c.in.feed(r.buf[:n])
		if err != nil {
			return r.broken(c, err)
		}
		if done {
			return r.answered(c)
		}
		if n < len(r.buf) {
			return nil // there was no more
		}
	}
}

// answered accounts for c's answer and, if no rate is kept, asks again.
func (r *running) answered(c *conn) error {
	rep := r.report
	now := time.Since(r.start)
	var err error
	switch {
	case r.Answer != nil:
		err = r.Answer(c.seq, c.in.status, c.body)
	case c.in.status != 200 && c.in.status != 204:
		err = fmt.Errorf("status %d", c.in.status)
	}
	if err != nil {
		rep.Wrong++
		if rep.Why == nil {
			rep.Why = fmt.Errorf("request %d: %w", c.seq, err)
		}
	} else {
		rep.Answers++
		rep.Latency.Add(now - c.due)
	}
	rep.Bytes += c.in.size
	rep.Took = now
	c.fails = 0
	if c.in.closes {
		syscall.Close(c.fd)
		if err := r.connect(c); err != nil {
			return err
		}
	}
	r.idle = append(r.idle, c)
	return nil
}

// broken gives up the request on c and opens another connection. An idle connection that the server closed costs nothing.
func (r *running) broken(c *conn, why error) error {
	idle := false
	for _, x := range r.idle {
		idle = idle || x == c
	}
	if !idle {
		r.report.Wrong++
		if r.report.Why == nil {
			r.report.Why = fmt.Errorf("request %d: %w", c.seq, why)
		}
		if c.fails++; c.fails == 10 {
			return fmt.Errorf("ten connections to %v broke in a row: %w", r.Addr, why)
		}
		r.idle = append(r.idle, c)
	}
	syscall.Close(c.fd)
	return r.connect(c)
}

// dial opens a connection that does not block.
func dial(to netip.AddrPort) (fd int, err error) {
	if !to.Addr().Is4() || !to.Addr().IsLoopback() {
		return -1, fmt.Errorf("%v is not an IPv4 address of this machine; loads stay on it", to)
	}
	if fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("open a socket: %w", err)
	}
	err = errors.Join(
		syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}),
		syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1),
		syscall.SetNonblock(fd, true))
	if err != nil {
		syscall.Close(fd)
		return -1, fmt.Errorf("connect to %v: %w", to, err)
	}
	return fd, nil
}

// The file descriptors do not block, so the scheduler need not know of these calls.

func rawRead(fd int, b []byte) (int, error) {
	return result(syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))))
}

func rawWrite(fd int, b []byte) (int, error) {
	return result(syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))))
}

func result(n, _ uintptr, e syscall.Errno) (int, error) {
	switch e {
	case 0:
		return int(n), nil
	case syscall.EAGAIN:
		return 0, syscall.EAGAIN // made once
	}
	return 0, e
}

// poller tells which connections have something to read.
type poller struct {
	fd     int
	events []syscall.EpollEvent
	ready  []int32
}

func newPoller() (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &poller{fd: fd, events: make([]syscall.EpollEvent, 512)}, nil
}

func (p *poller) close() { syscall.Close(p.fd) }

func (p *poller) add(fd int, slot int32) error {
	return p.control(syscall.EPOLL_CTL_ADD, fd, slot, syscall.EPOLLIN)
}

func (p *poller) writable(fd int, slot int32, on bool) error {
	events := uint32(syscall.EPOLLIN)
	if on {
		events |= syscall.EPOLLOUT
	}
	return p.control(syscall.EPOLL_CTL_MOD, fd, slot, events)
}

func (p *poller) control(op, fd int, slot int32, events uint32) error {
	if err := syscall.EpollCtl(p.fd, op, fd, &syscall.EpollEvent{Events: events, Fd: slot}); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// wait returns the slots that are ready, none after d. What it returns is valid until the next call.
func (p *poller) wait(d time.Duration) ([]int32, error) {
	ts := syscall.NsecToTimespec(max(int64(d), 0))
	call := syscall.RawSyscall6
	if d > time.Millisecond {
		call = syscall.Syscall6 // tell the scheduler, which may need the processor
	}
	n, _, e := call(sysEpollPwait2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	switch {
	case e == syscall.EINTR:
		return nil, nil
	case e == syscall.ENOSYS:
		return nil, errors.New("this kernel has no epoll_pwait2; loads need Linux 5.11 or later")
	case e != 0:
		return nil, fmt.Errorf("epoll: %w", e)
	}
	p.ready = p.ready[:0]
	for _, ev := range p.events[:n] {
		p.ready = append(p.ready, ev.Fd)
	}
	return p.ready, nil
}

const sysEpollPwait2 = 441 // the same number on every architecture
