package origin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// kind is how an attempt or a whole request failed. Source: Zuul 2, OutboundErrorType, and three of our own.
type kind uint8

const (
	fine kind = iota
	readTimeout
	connectError
	unavailable // the origin's 503
	errorStatus // another status of the origin's above 499
	noServers
	maxConns // at one server
	reset
	closeNotify
	cancelled // by the client
	concurrency
	headTooLarge
	other
	nonsense // the origin's answer breaks the rules of HTTP
	refused  // by the circuit breaker, or a callee's overload
	late     // there was no time for an attempt
	noGRPC   // it does not speak HTTP/2, as gRPC wants
	greedy   // its client has so many in flight that others could find no place
	kinds
)

// failures tells of each kind the name in Zuul's words, what is answered, and the property that alters its status.
var failures = [kinds]struct {
	name     string
	status   int
	category filter.Category
	property string
}{
	fine:         {"", 0, filter.Success, ""},
	readTimeout:  {"READ_TIMEOUT", 504, filter.FailureOriginReadTimeout, "readtimeout"},
	connectError: {"ORIGIN_CONNECT_ERROR", 502, filter.FailureOriginConnectivity, "connecterror"},
	unavailable:  {"ORIGIN_SERVICE_UNAVAILABLE", 503, filter.FailureOriginThrottled, "serviceunavailable"},
	errorStatus:  {"ORIGIN_ERROR_STATUS_RESPONSE", 500, filter.FailureOrigin, ""},
	noServers:    {"ORIGIN_NO_AVAILABLE_SERVERS", 502, filter.FailureNoServers, "noservers"},
	maxConns:     {"ORIGIN_ORIGIN_SERVER_MAX_CONNS", 503, filter.FailureMaxConnections, "servermaxconns"},
	reset:        {"ORIGIN_RESET_CONNECTION", 504, filter.FailureOriginReset, "originresetconnection"},
	closeNotify:  {"ORIGIN_CLOSE_NOTIFY_CONNECTION", 502, filter.FailureOriginCloseNotify, ""},
	cancelled:    {"ORIGIN_CANCELLED", 400, filter.FailureClientCancelled, ""},
	concurrency:  {"ORIGIN_ORIGIN_CONCURRENCY_EXCEEDED", 503, filter.FailureConcurrency, "originconcurrencyexceeded"},
	headTooLarge: {"ORIGIN_HEADER_FIELDS_TOO_LARGE", 431, filter.FailureHeaderFieldsTooLarge, ""},
	other:        {"ORIGIN_OTHER", 500, filter.FailureLocal, "other"},
	nonsense:     {"ORIGIN_OTHER", 502, filter.FailureOrigin, ""},
	refused:      {"ORIGIN_SERVICE_UNAVAILABLE", 503, filter.FailureOriginThrottled, "serviceunavailable"},
	late:         {"READ_TIMEOUT", 504, filter.FailureDeadline, "readtimeout"},
	noGRPC:       {"ORIGIN_OTHER", 502, filter.FailureOrigin, ""},
	greedy:       {"ORIGIN_ORIGIN_CONCURRENCY_EXCEEDED", 503, filter.FailureConcurrency, "originconcurrencyexceeded"},
}

// statuses are the live properties zuul.error.outbound.NAME.status.
type statuses [kinds]*config.Value[int]

func liveStatuses(p *config.Properties) (s statuses) {
	for k, f := range failures {
		if f.property != "" {
			s[k] = p.Int("zuul.error.outbound."+f.property+".status", f.status)
		}
	}
	return s
}

// of returns what is answered for a kind.
func (s *statuses) of(k kind) int {
	if v := s[k]; v != nil {
		if n := v.Get(); n >= 400 && n <= 599 {
			return n
		}
	}
	return failures[k].status
}

// reasons are what a client is told; %s is the app.
var reasons = [kinds]string{
	readTimeout:  "%s did not answer in time; try again",
	connectError: "no instance of %s could be reached; try again",
	unavailable:  "%s is overloaded or failing; try again",
	errorStatus:  "%s failed",
	noServers:    "no instance of %[1]s is up; `roadbed instance list --service %[1]s` shows why",
	maxConns:     "there are too many connections to an instance of %s; try again",
	reset:        "%s broke off its answer; try again",
	closeNotify:  "%s broke off its answer; try again",
	cancelled:    "the client of %s went away",
	concurrency:  "too many requests for %s are in flight; try again",
	headTooLarge: "the header of %s's answer is too large",
	other:        "the edge failed at this request to %s; its log tells why",
	nonsense:     "%s answered what is not HTTP",
	refused:      "%s is overloaded or failing and is left alone for a moment; try again",
	late:         "no time was left to ask %s",
	noGRPC:       "%s does not speak HTTP/2, which gRPC wants",
	greedy:       "you have too many requests for %s in flight; read the answers and try again",
}

// failed returns the error that the chain answers for a kind. Clients are told the name of an app, but no address.
func (p *Proxy) failed(k kind, app string, err error) error {
	if strings.IndexByte(app, ':') >= 0 {
		app = "the origin"
	}
	e := &filter.Error{Status: p.statuses.of(k), Category: failures[k].category, Reason: fmt.Sprintf(reasons[k], app), Err: err}
	switch k {
	case noServers, maxConns, concurrency, greedy, refused, connectError:
		e.RetryAfter = time.Second
	}
	return e
}

// kindOfCall says what became of a call that ipc ended, or never began.
func kindOfCall(err error) kind {
	switch {
	case errors.Is(err, ipc.ErrDeadlineSpent):
		return late
	case errors.Is(err, ipc.ErrNoEndpoint):
		return noServers
	case errors.Is(err, ipc.ErrRejected), errors.Is(err, ipc.ErrLimited):
		return concurrency
	case errors.Is(err, ipc.ErrOpen), errors.Is(err, ipc.ErrShed):
		return refused
	case errors.Is(err, context.Canceled):
		return cancelled
	case errors.Is(err, context.DeadlineExceeded):
		return readTimeout
	}
	return other
}

// answered returns how an attempt ended by its status.
func answered(status int) kind {
	switch {
	case status == http.StatusServiceUnavailable:
		return unavailable
	case status >= 500:
		return errorStatus
	}
	return fine
}

// categoryOf returns the category of an answer.
func categoryOf(status int) filter.Category {
	if status == http.StatusNotFound {
		return filter.SuccessNotFound
	}
	return failures[answered(status)].category
}
