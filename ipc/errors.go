package ipc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/roadbed/roadbed/fault"
)

// Why a call failed without, or in spite of, asking the other side. Test for them with errors.Is.
var (
	ErrOpen          = errors.New("its circuit breaker is open, too many calls failed lately")
	ErrRejected      = errors.New("too many calls of it are in flight")
	ErrLimited       = errors.New("as many calls of it are in flight as its adaptive limit allows")
	ErrTimeout       = errors.New("it did not answer in time")
	ErrDeadlineSpent = errors.New("no time is left before the caller's deadline")
	ErrNoEndpoint    = errors.New("no instance of it is known that may take traffic")
	ErrBodySent      = errors.New("its body was sent already and cannot be had again, so it was not tried elsewhere; set the request's GetBody")
	ErrShed          = errors.New("the other side has too much to do; what is more important goes first")
	ErrFallback      = errors.New("its fallback did not help")
	ErrInjected      = fault.ErrInjected
)

// Kind says how a call ended, in one word. Its values are the ipc.cause tags of the metrics.
type Kind uint8

// The kinds of failure. None is success.
const (
	None Kind = iota
	Failed
	TimedOut
	Open
	Rejected
	NoEndpoint
	Injected
	Cancelled
	Limited // by the command's adaptive limit
	Shed    // the other side refused it under overload
	invalid // BadRequest: the caller's fault
	kinds
)

var kindNames = [kinds]string{"none", "error", "timeout", "open", "rejected", "noendpoint", "injected", "cancelled", "limited", "shed", "error"}

// String returns the kind's name.
func (k Kind) String() string {
	if k < kinds {
		return kindNames[k]
	}
	return "unknown"
}

// Error is the failure of one call.
type Error struct {
	Command     string        // whose call; for the HTTP client the app's name
	Kind        Kind          // how it failed
	Attempts    int           // tries of the HTTP client; 0 if it did not try
	Endpoint    string        // the address of the last try
	RetryAfter  time.Duration // when the other side asked to be left alone for a while
	Cause       error         // one of the ErrX, or what the run function or the network returned
	FallbackErr error         // why the fallback did not help; nil if none was tried
}

// Error returns a sentence.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("ipc: call ")
	b.WriteString(e.Command)
	if e.Attempts > 0 {
		fmt.Fprintf(&b, " (attempt %d", e.Attempts)
		if e.Endpoint != "" {
			b.WriteString(" at " + e.Endpoint)
		}
		b.WriteString(")")
	}
	if e.Kind == TimedOut && !errors.Is(e.Cause, ErrTimeout) && !errors.Is(e.Cause, ErrDeadlineSpent) {
		b.WriteString(": " + ErrTimeout.Error())
	}
	if e.Cause != nil {
		b.WriteString(": " + e.Cause.Error())
	}
	if e.FallbackErr != nil {
		b.WriteString("; fallback: " + e.FallbackErr.Error())
	}
	return b.String()
}

// Is makes a timeout also a context.DeadlineExceeded, and a failed fallback an ErrFallback.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrTimeout, context.DeadlineExceeded:
		return e.Kind == TimedOut
	case ErrFallback:
		return e.FallbackErr != nil
	}
	return false
}

// Unwrap returns the causes.
func (e *Error) Unwrap() []error {
	if e.FallbackErr != nil {
		return []error{e.Cause, e.FallbackErr}
	}
	return []error{e.Cause}
}

// Timeout makes a timed out call a net.Error's timeout.
func (e *Error) Timeout() bool { return e.Kind == TimedOut }

// Temporary is part of net.Error; every failure may pass.
func (e *Error) Temporary() bool { return true }

// BadRequest marks err as the caller's own fault: it does not count against the health of the callee, is not retried
// and no fallback hides it. [Call] returns err itself. BadRequest(nil) is nil.
func BadRequest(err error) error {
	if err == nil {
		return nil
	}
	return &badRequest{err}
}

// Final marks err as one after which nothing is tried again: the callee asked to be left alone. Final(nil) is nil.
func Final(err error) error {
	if err == nil {
		return nil
	}
	return &final{err}
}

type final struct{ err error }

func (f *final) Error() string { return f.err.Error() }
func (f *final) Unwrap() error { return f.err }

type badRequest struct{ err error }

func (b *badRequest) Error() string { return b.err.Error() }
func (b *badRequest) Unwrap() error { return b.err }

// classify says what kind of failure err is. late tells that the call's deadline has passed, gone that its caller
// went away.
func classify(err error, late, gone bool) Kind {
	if bad := (*badRequest)(nil); errors.As(err, &bad) {
		return invalid
	}
	switch {
	case gone && !late:
		return Cancelled
	case errors.Is(err, fault.ErrInjected):
		return Injected
	}
	if inner := (*Error)(nil); errors.As(err, &inner) && inner.Kind != Cancelled {
		return inner.Kind
	}
	switch {
	case errors.Is(err, ErrShed):
		return Shed
	case late, errors.Is(err, context.DeadlineExceeded):
		return TimedOut
	}
	return Failed
}
