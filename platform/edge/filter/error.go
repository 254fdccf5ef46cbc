package filter

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Error is an error that knows its answer. Endpoints return it, and [Exchange.Fail] takes it; any other error is answered
// with 500.
type Error struct {
	Status   int      // 400 to 599
	Category Category // a failure, or SuccessLocalNoRoute
	Reason   string   // a sentence for who asked; nothing that only the house should know
	Err      error    // what lies behind it, for the log; may be nil

	RetryAfter time.Duration // when to try again, told in whole seconds; 0: not told
}

// Error returns the reason, and what lies behind it.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Reason
	case e.Reason == "":
		return e.Err.Error()
	}
	return e.Reason + ": " + e.Err.Error()
}

// Unwrap returns what lies behind the error.
func (e *Error) Unwrap() error { return e.Err }

// ErrLimited is the error of a filter that too many requests were in at once.
var ErrLimited = errors.New("too many requests are in this filter at once")

// Verdict returns what is answered for err: status, category, and a sentence for who asked. What lies behind an error that
// is no [Error] is not told, for it may be of the house only.
func Verdict(err error) (status int, c Category, reason string) {
	if e, ok := errors.AsType[*Error](err); ok {
		status, c, reason = e.Status, e.Category, e.Reason
		if status < 400 || status > 599 {
			status = http.StatusInternalServerError
		}
		if c == Unset {
			c = FailureLocal
		}
		return status, c, reason
	}
	switch {
	case errors.Is(err, ErrLimited):
		return http.StatusServiceUnavailable, FailureLocal, "the edge is too busy; try again later"
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, FailureDeadline, "the request took longer than it may"
	case errors.Is(err, context.Canceled):
		return http.StatusBadRequest, FailureClientCancelled, "the client went away"
	}
	return http.StatusInternalServerError, FailureLocal, "the edge failed at this request; its log tells why"
}

// Fail has the error endpoint answer in place of the endpoint, or in place of the response if there is one already. The
// inbound filters are over.
func (x *Exchange) Fail(err error) { x.Err, x.failing = err, true }
