package registry

import (
	"syscall"
	"unsafe"
)

// Neither of these waits, for the descriptors of connections do not block. So the scheduler need not be told, which costs
// as much again as all else that a heartbeat needs here.

func readNow(fd uintptr, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	switch e {
	case 0:
		return int(n), nil
	case syscall.EAGAIN:
		return 0, syscall.EAGAIN // made once
	}
	return 0, e
}

// writeNow returns how many bytes it wrote, 0 after any error: the next write will tell of it.
func writeNow(fd uintptr, b []byte) int {
	n, _, e := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if e != 0 {
		return 0
	}
	return int(n)
}
