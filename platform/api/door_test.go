package api

import (
	"crypto/tls"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
)

// accepted is what a listener's Accept returns.
type accepted struct {
	conn net.Conn
	err  error
}

// told is a listener that accepts what it is told to.
type told chan accepted

func (l told) Accept() (net.Conn, error) {
	a, open := <-l
	if !open {
		return nil, net.ErrClosed
	}
	return a.conn, a.err
}

func (l told) Close() error { close(l); return nil }

func (told) Addr() net.Addr { return &net.TCPAddr{} }

func TestTLSDoorAcceptsOnAfterTheProcessHadNoFileDescriptorsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		below := make(told, 20)
		for range 10 {
			below <- accepted{err: &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}}
		}
		near, far := net.Pipe()
		defer far.Close()
		below <- accepted{conn: near}
		l := newTLSOrLocal(below, &tls.Config{})
		go far.Write([]byte{22}) //nolint:errcheck // Accept tells
		c, err := l.Accept()
		if err != nil {
			t.Fatalf("after ten times without file descriptors: got %v, want the connection that came then", err)
		}
		c.(*tls.Conn).NetConn().Close()
		l.Close()
		if c, err := l.Accept(); err != net.ErrClosed {
			t.Errorf("a closed door: got %v and %v, want %v", c, err, net.ErrClosed)
		}
	})
}
