//go:build !amd64 && !arm64

package http1

import "unsafe"

func prefetchStack(int) {}

// Prefetch asks the processor for the memory of a value that will be needed soon. It cannot on this one.
func Prefetch(unsafe.Pointer, uintptr) {}
