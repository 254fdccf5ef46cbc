#include "textflag.h"

// func prefetch(at uintptr, lines int)
TEXT ·prefetch(SB), NOSPLIT, $0-16
	MOVQ at+0(FP), AX
	MOVQ lines+8(FP), CX
next:
	PREFETCHT0 (AX)
	ADDQ $64, AX
	DECQ CX
	JGT  next
	RET

// func prefetchStack(lines int)
TEXT ·prefetchStack(SB), NOSPLIT, $0-8
	LEAQ lines+0(FP), AX
	MOVQ lines+0(FP), CX
next:
	PREFETCHT0 (AX)
	ADDQ $64, AX
	DECQ CX
	JGT  next
	RET
