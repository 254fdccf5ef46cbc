//go:build linux && (amd64 || arm64)

package http1

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// rawConn returns the way to the descriptor of a plain TCP connection.
func rawConn(c net.Conn) syscall.RawConn {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// rawConnUnder returns the way to the descriptor under a TLS connection, for looking at only.
func rawConnUnder(c net.Conn) syscall.RawConn {
	if t, ok := c.(*tls.Conn); ok {
		return rawConn(t.NetConn())
	}
	return nil
}

// sysRecv reads from a descriptor that does not block. It does not tell the scheduler: the call is over before that would be.
func sysRecv(fd int, p []byte, peek bool) (int, error) {
	flags := uintptr(0)
	if peek {
		flags = syscall.MSG_PEEK
	}
	for {
		n, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags|syscall.MSG_DONTWAIT, 0, 0)
		switch {
		case e == syscall.EINTR:
		case e == syscall.EAGAIN:
			return 0, errAgain
		case e != 0:
			return 0, os.NewSyscallError("recv", e)
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return int(n), nil
		}
	}
}

// sysSend writes to a descriptor that does not block.
func sysSend(fd int, p []byte) (int, error) {
	for {
		n, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), syscall.MSG_NOSIGNAL|syscall.MSG_DONTWAIT, 0, 0)
		switch {
		case e == syscall.EINTR:
		case e == syscall.EAGAIN:
			return 0, errAgain
		case e != 0:
			return 0, os.NewSyscallError("send", e)
		default:
			return int(n), nil
		}
	}
}

// sysAcked returns tcpi_bytes_acked of the socket's TCP_INFO; -1 if the kernel has none (it does since 4.1).
func sysAcked(fd int) int64 {
	const tcpInfo, at = 11, 120
	var info [at + 8]byte
	size := uint32(len(info))
	_, _, e := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), syscall.IPPROTO_TCP, tcpInfo, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 || size < at+8 {
		return -1
	}
	return int64(binary.NativeEndian.Uint64(info[at:]))
}
