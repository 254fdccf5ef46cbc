//go:build !linux || !(amd64 || arm64)

package http1

import (
	"net"
	"syscall"
)

func rawConn(net.Conn) syscall.RawConn { return nil }

func rawConnUnder(net.Conn) syscall.RawConn { return nil }

// sysRecv is never called: there is no rawConn.
func sysRecv(int, []byte, bool) (int, error) { return 0, errAgain }

// sysSend is never called: there is no rawConn.
func sysSend(int, []byte) (int, error) { return 0, errAgain }

func sysAcked(int) int64 { return -1 }
