package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Sockets are the process's listening sockets. A process that takes the place of another gets them from that one, so that
// no client is ever refused: the sockets stay open throughout, and both processes accept until the old one stops.
//
// Sockets come by either of two ways: from the process before, through [Sockets.Replace], or from systemd
// (sd_listen_fds(3)). Whatever is asked for and was not passed is opened.
type Sockets struct {
	mu    sync.Mutex
	given map[string]*os.File // not asked for yet, by network and address
	named []*os.File          // from systemd: which address each has is known only when it is looked at
	open  []socket
	ready *os.File // the process before waits for a byte on it

	program string // the file that takes this process's place; "" if it is not known
}

type socket struct {
	key  string
	file func() (*os.File, error)
}

const (
	socketsEnv = "ROADBED_SOCKETS" // the keys of the sockets from descriptor 4 on; 3 is where readiness is told
	firstFD    = 3
)

// Inherit returns the sockets that this process was given. Call it once, early.
func Inherit() (*Sockets, error) {
	s := &Sockets{given: map[string]*os.File{}, program: startedAs()}
	if list := os.Getenv(socketsEnv); list != "" {
		syscall.CloseOnExec(firstFD)
		s.ready = os.NewFile(firstFD, "ready")
		for i, key := range strings.Split(list, ",") {
			fd := firstFD + 1 + i
			syscall.CloseOnExec(fd)
			s.given[key] = os.NewFile(uintptr(fd), key)
		}
		return s, os.Unsetenv(socketsEnv)
	}
	if pid, n := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"); n != "" && pid == strconv.Itoa(os.Getpid()) {
		count, err := strconv.Atoi(n)
		if err != nil || count < 0 || count > 64 {
			return nil, fmt.Errorf("LISTEN_FDS is %q, no number of sockets", n)
		}
		for i := range count {
			syscall.CloseOnExec(firstFD + i)
			s.named = append(s.named, os.NewFile(uintptr(firstFD+i), "systemd"))
		}
		return s, errors.Join(os.Unsetenv("LISTEN_PID"), os.Unsetenv("LISTEN_FDS"), os.Unsetenv("LISTEN_FDNAMES"))
	}
	return s, nil
}

// startedAs returns the file by whose name this program was started; "" if that cannot be told. The system could tell later, too,
// but of the file that this process runs, which by then may have another name, and where a link led when it began.
func startedAs() string {
	own, err := os.Executable()
	if err != nil {
		return ""
	}
	named, err := exec.LookPath(os.Args[0])
	if err != nil {
		return own
	}
	named, err = filepath.Abs(named)
	a, err1 := os.Stat(own)
	b, err2 := os.Stat(named)
	if errors.Join(err, err1, err2) != nil || !os.SameFile(a, b) {
		return own
	}
	return named
}

// take returns the socket that was passed for the address, nil if there is none.
func (s *Sockets) take(network, addr string) *os.File {
	key := network + "!" + addr
	if f := s.given[key]; f != nil {
		delete(s.given, key)
		return f
	}
	for i, f := range s.named {
		at, err := addressOf(network, f)
		if err != nil || !sameAddress(at, addr) {
			continue
		}
		s.named = append(s.named[:i:i], s.named[i+1:]...)
		return f
	}
	return nil
}

// addressOf returns where f listens, an error if it is no socket of that network.
func addressOf(network string, f *os.File) (string, error) {
	if strings.HasPrefix(network, "udp") {
		p, err := net.FilePacketConn(f)
		if err != nil {
			return "", err
		}
		defer p.Close()
		if _, ok := p.(*net.UDPConn); !ok {
			return "", errors.New("no UDP socket")
		}
		return p.LocalAddr().String(), nil
	}
	l, err := net.FileListener(f)
	if err != nil {
		return "", err
	}
	defer l.Close()
	if _, ok := l.(*net.TCPListener); !ok {
		return "", errors.New("no TCP socket")
	}
	return l.Addr().String(), nil
}

// sameAddress reports whether a socket at the address at is what is asked for: the same port, and the same host or any.
func sameAddress(at, wanted string) bool {
	ah, ap, err1 := net.SplitHostPort(at)
	wh, wp, err2 := net.SplitHostPort(wanted)
	if err1 != nil || err2 != nil || ap != wp {
		return false
	}
	if ip := net.ParseIP(ah); ip != nil && ip.IsUnspecified() {
		return true
	}
	return ah == wh || wh == "localhost" && (ah == "127.0.0.1" || ah == "::1")
}

// Listen returns the TCP listener of addr. A nil Sockets was given none and passes none on.
func (s *Sockets) Listen(addr string) (net.Listener, error) {
	if s == nil {
		return net.Listen("tcp", addr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.take("tcp", addr)
	var l net.Listener
	var err error
	if f != nil {
		l, err = net.FileListener(f)
		f.Close() // the listener has its own
	} else {
		l, err = net.Listen("tcp", addr)
	}
	if err != nil {
		return nil, err
	}
	t, ok := l.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the socket passed for %s is no TCP socket", addr), l.Close())
	}
	s.open = append(s.open, socket{"tcp!" + addr, t.File})
	return t, nil
}

// ListenPacket returns the UDP socket of addr. A nil Sockets was given none and passes none on.
func (s *Sockets) ListenPacket(addr string) (net.PacketConn, error) {
	if s == nil {
		return net.ListenPacket("udp", addr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.take("udp", addr)
	var p net.PacketConn
	var err error
	if f != nil {
		p, err = net.FilePacketConn(f)
		f.Close()
	} else {
		p, err = net.ListenPacket("udp", addr)
	}
	if err != nil {
		return nil, err
	}
	u, ok := p.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the socket passed for %s is no UDP socket", addr), p.Close())
	}
	s.open = append(s.open, socket{"udp!" + addr, u.File})
	return u, nil
}

// Ready tells the process before, if there is one, that this one serves. What was passed and nobody asked for is closed.
func (s *Sockets) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, f := range s.given {
		f.Close()
		delete(s.given, key)
	}
	for _, f := range s.named {
		f.Close()
	}
	s.named = nil
	if s.ready == nil {
		return nil
	}
	_, err := s.ready.Write([]byte{1})
	err = errors.Join(err, s.ready.Close())
	s.ready = nil
	if err != nil {
		return fmt.Errorf("tell the process before that this one serves: %w", err)
	}
	return nil
}

// Replace starts the program anew, with the same arguments and environment but whatever is now at the path it was started from, gives it all
// sockets, and returns once it serves. It fails if the new process ends before, or ctx does; then this one goes on as if
// nothing had been tried. After a success this process shall stop accepting, drain and end.
func (s *Sockets) Replace(ctx context.Context) (pid int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.program == "" {
		return 0, errors.New("the file that this program was started from is not known; start the new one by hand")
	}
	reads, writes, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer reads.Close()
	cmd := exec.Command(s.program, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{writes}
	var keys []string
	defer func() {
		for _, f := range cmd.ExtraFiles {
			f.Close()
		}
	}()
	for _, o := range s.open {
		f, err := o.file()
		if errors.Is(err, net.ErrClosed) {
			continue
		} else if err != nil {
			return 0, fmt.Errorf("pass the socket %s on: %w", o.key, err)
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		keys = append(keys, o.key)
	}
	if len(keys) == 0 {
		return 0, errors.New("there is no socket to pass on")
	}
	cmd.Env = append(os.Environ(), socketsEnv+"="+strings.Join(keys, ","))
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", s.program, err)
	}
	writes.Close()
	served := make(chan bool, 1)
	go func() {
		n, _ := reads.Read(make([]byte, 1)) // the end, and no byte: it is gone
		served <- n == 1
	}()
	select {
	case ok := <-served:
		if ok {
			go cmd.Wait() //nolint:errcheck // whoever it is then is not our child to judge
			return cmd.Process.Pid, nil
		}
		return 0, fmt.Errorf("the new process ended before it served: %w", errors.Join(cmd.Wait(), errNoReason))
	case <-ctx.Done():
		cmd.Process.Kill() //nolint:errcheck // it may be gone
		cmd.Wait()         //nolint:errcheck // it was killed
		return 0, fmt.Errorf("the new process did not serve in time: %w", ctx.Err())
	}
}

var errNoReason = errors.New("its own output tells why")
