//go:build amd64 || arm64

package http1

import "unsafe"

// prefetch asks the processor for lines of memory of 64 bytes from an address on. It waits for none of them, and touches
// nothing: what lies there need not be memory at all.
func prefetch(at uintptr, lines int)

// prefetchStack is prefetch for the frames of who has called, and of their callers.
func prefetchStack(lines int)

// Prefetch asks the processor for the memory of a value that will be needed soon, but perhaps was not for long.
//
// hot path: 0 allocs, BenchmarkUpstream
func Prefetch(p unsafe.Pointer, size uintptr) { prefetch(uintptr(p), int(size+63)/64) }
