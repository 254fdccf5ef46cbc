package filter

// Category says how a request ended, in Zuul's words and ids: metrics have them as status.category, and debugging answers
// in X-Zuul-Status. A failure is never overwritten by a success.
type Category uint8

// The categories. Source: Zuul 2, ZuulStatusCategory, and four of our own.
const (
	Unset Category = iota
	Success
	SuccessNotFound
	SuccessLocalUnset
	SuccessLocalNoRoute
	FailureLocal
	FailureOrigin
	FailureOriginReadTimeout
	FailureOriginConnectivity
	FailureHeaderFieldsTooLarge
	FailureOriginThrottled
	FailureMaxConnections
	FailureConcurrency
	FailureIdleTimeout
	FailureBadRequest
	FailureClientCancelled
	FailureNoServers
	FailureOriginReset
	FailureOriginCloseNotify
	FailurePipelineReject
	FailureClientTimeout
	FailureShed
	FailureRateLimited
	FailureDeadline
	FailureClientStalled
	categories
)

var categoryNames = [categories]struct{ id, name string }{
	Unset:                       {"", ""},
	Success:                     {"1_1", "SUCCESS"},
	SuccessNotFound:             {"1_3", "SUCCESS_NOT_FOUND"},
	SuccessLocalUnset:           {"1_4", "SUCCESS_LOCAL_NOTSET"},
	SuccessLocalNoRoute:         {"1_5", "SUCCESS_LOCAL_NO_ROUTE"},
	FailureLocal:                {"2_1", "FAILURE_LOCAL"},
	FailureOrigin:               {"2_2", "FAILURE_ORIGIN"},
	FailureOriginReadTimeout:    {"2_3", "FAILURE_ORIGIN_READ_TIMEOUT"},
	FailureOriginConnectivity:   {"2_4", "FAILURE_ORIGIN_CONNECTIVITY"},
	FailureHeaderFieldsTooLarge: {"2_5", "FAILURE_LOCAL_HEADER_FIELDS_TOO_LARGE"},
	FailureOriginThrottled:      {"2_6", "FAILURE_ORIGIN_THROTTLED"},
	FailureMaxConnections:       {"2_7", "FAILURE_LOCAL_THROTTLED_ORIGIN_SERVER_MAXCONN"},
	FailureConcurrency:          {"2_8", "FAILURE_LOCAL_THROTTLED_ORIGIN_CONCURRENCY"},
	FailureIdleTimeout:          {"2_9", "FAILURE_LOCAL_IDLE_TIMEOUT"},
	FailureBadRequest:           {"2_12", "FAILURE_CLIENT_BAD_REQUEST"},
	FailureClientCancelled:      {"2_13", "FAILURE_CLIENT_CANCELLED"},
	FailureNoServers:            {"2_14", "FAILURE_ORIGIN_NO_SERVERS"},
	FailureOriginReset:          {"2_15", "FAILURE_ORIGIN_RESET_CONNECTION"},
	FailureOriginCloseNotify:    {"2_16", "FAILURE_ORIGIN_CLOSE_NOTIFY_CONNECTION"},
	FailurePipelineReject:       {"2_17", "FAILURE_CLIENT_PIPELINE_REJECT"},
	FailureClientTimeout:        {"2_18", "FAILURE_CLIENT_TIMEOUT"},
	FailureShed:                 {"2_19", "FAILURE_LOCAL_SHED"},
	FailureRateLimited:          {"2_20", "FAILURE_LOCAL_RATE_LIMITED"},
	FailureDeadline:             {"2_21", "FAILURE_LOCAL_DEADLINE"},
	FailureClientStalled:        {"2_22", "FAILURE_CLIENT_STALLED"},
}

// String returns the category's name, such as FAILURE_ORIGIN_READ_TIMEOUT.
func (c Category) String() string { return categoryNames[c].name }

// ID returns the category's id, such as 2_3.
func (c Category) ID() string { return categoryNames[c].id }

// Failure reports whether the request failed.
func (c Category) Failure() bool { return c >= FailureLocal }
