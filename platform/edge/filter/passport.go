package filter

import (
	"strconv"
	"time"
)

// State is a place that a request has come by.
type State uint8

// The states. Source: Zuul 2, PassportState.
const (
	InReqHeadersReceived State = iota
	InReqContentReceived
	InReqLastContentReceived
	InReqRejected
	InReqReadTimeout
	InReqCancelled
	OutReqHeadersSending
	OutReqHeadersSent
	OutReqHeadersErrorSending
	OutReqContentSending
	OutReqContentSent
	OutReqContentErrorSending
	OutReqLastContentSending
	OutReqLastContentSent
	OutReqLastContentErrorSending
	InRespHeadersReceived
	InRespContentReceived
	InRespLastContentReceived
	OutRespHeadersSending
	OutRespHeadersSent
	OutRespHeadersErrorSending
	OutRespContentSending
	OutRespContentSent
	OutRespContentErrorSending
	OutRespLastContentSending
	OutRespLastContentSent
	OutRespLastContentErrorSending
	FiltersInboundStart
	FiltersInboundEnd
	FiltersInboundBufStart
	FiltersInboundBufEnd
	FiltersOutboundStart
	FiltersOutboundEnd
	FiltersOutboundBufStart
	FiltersOutboundBufEnd
	OriginConnAcquireStart
	OriginConnAcquireEnd
	OriginConnAcquireFailed
	MiscIOStart
	MiscIOStop
	ServerChDisconnect
	ServerChClose
	ServerChException
	ServerChIdleTimeout
	ServerChActive
	ServerChInactive
	ServerChThrottling
	ServerChRejecting
	ServerChSSLHandshakeComplete
	OriginChConnecting
	OriginChConnected
	OriginChDisconnect
	OriginChClose
	OriginChException
	OriginChActive
	OriginChInactive
	OriginChIdleTimeout
	OriginChPoolReturned
	OriginChReadTimeout
	OriginChIOEx
	OriginRetryStart
	states
)

var stateNames = [states]string{
	"IN_REQ_HEADERS_RECEIVED", "IN_REQ_CONTENT_RECEIVED", "IN_REQ_LAST_CONTENT_RECEIVED", "IN_REQ_REJECTED", "IN_REQ_READ_TIMEOUT",
	"IN_REQ_CANCELLED", "OUT_REQ_HEADERS_SENDING", "OUT_REQ_HEADERS_SENT", "OUT_REQ_HEADERS_ERROR_SENDING", "OUT_REQ_CONTENT_SENDING",
	"OUT_REQ_CONTENT_SENT", "OUT_REQ_CONTENT_ERROR_SENDING", "OUT_REQ_LAST_CONTENT_SENDING", "OUT_REQ_LAST_CONTENT_SENT",
	"OUT_REQ_LAST_CONTENT_ERROR_SENDING", "IN_RESP_HEADERS_RECEIVED", "IN_RESP_CONTENT_RECEIVED", "IN_RESP_LAST_CONTENT_RECEIVED",
	"OUT_RESP_HEADERS_SENDING", "OUT_RESP_HEADERS_SENT", "OUT_RESP_HEADERS_ERROR_SENDING", "OUT_RESP_CONTENT_SENDING",
	"OUT_RESP_CONTENT_SENT", "OUT_RESP_CONTENT_ERROR_SENDING", "OUT_RESP_LAST_CONTENT_SENDING", "OUT_RESP_LAST_CONTENT_SENT",
	"OUT_RESP_LAST_CONTENT_ERROR_SENDING", "FILTERS_INBOUND_START", "FILTERS_INBOUND_END", "FILTERS_INBOUND_BUF_START",
	"FILTERS_INBOUND_BUF_END", "FILTERS_OUTBOUND_START", "FILTERS_OUTBOUND_END", "FILTERS_OUTBOUND_BUF_START", "FILTERS_OUTBOUND_BUF_END",
	"ORIGIN_CONN_ACQUIRE_START", "ORIGIN_CONN_ACQUIRE_END", "ORIGIN_CONN_ACQUIRE_FAILED", "MISC_IO_START", "MISC_IO_STOP",
	"SERVER_CH_DISCONNECT", "SERVER_CH_CLOSE", "SERVER_CH_EXCEPTION", "SERVER_CH_IDLE_TIMEOUT", "SERVER_CH_ACTIVE", "SERVER_CH_INACTIVE",
	"SERVER_CH_THROTTLING", "SERVER_CH_REJECTING", "SERVER_CH_SSL_HANDSHAKE_COMPLETE", "ORIGIN_CH_CONNECTING", "ORIGIN_CH_CONNECTED",
	"ORIGIN_CH_DISCONNECT", "ORIGIN_CH_CLOSE", "ORIGIN_CH_EXCEPTION", "ORIGIN_CH_ACTIVE", "ORIGIN_CH_INACTIVE", "ORIGIN_CH_IDLE_TIMEOUT",
	"ORIGIN_CH_POOL_RETURNED", "ORIGIN_CH_READ_TIMEOUT", "ORIGIN_CH_IO_EX", "ORIGIN_RETRY_START",
}

// String returns the state in Zuul's word.
func (s State) String() string { return stateNames[s] }

// Now returns nanoseconds since the process began, by a clock that only goes forward.
func Now() int64 { return int64(time.Since(began)) }

var began = time.Now()

// At returns the time of day at which the clock of [Now] shows ns.
func At(ns int64) time.Time { return began.Add(time.Duration(ns)) }

// Stamp is one entry of a passport.
type Stamp struct {
	State State
	At    int64 // by [Now]
}

// Passport is the way a request has come, with times. Its memory is used again.
type Passport struct{ stamps []Stamp }

// Add stamps the passport now.
//
// hot path: 0 allocs, BenchmarkPassport
func (p *Passport) Add(s State) { p.AddAt(s, Now()) }

// AddAt stamps the passport with a time that is known already.
func (p *Passport) AddAt(s State, at int64) {
	if p.stamps == nil {
		p.stamps = make([]Stamp, 0, 32) // few requests have more
	}
	p.stamps = append(p.stamps, Stamp{s, at})
}

// Len returns the number of stamps.
func (p *Passport) Len() int { return len(p.stamps) }

// Stamp returns the i-th stamp.
func (p *Passport) Stamp(i int) Stamp { return p.stamps[i] }

// NowAfter returns the present time for what comes at once after a stamp of state s: if that is the last one, its time, which
// spares the clock.
//
// hot path: 0 allocs, BenchmarkPassport
func (p *Passport) NowAfter(s State) int64 {
	if n := len(p.stamps); n > 0 && p.stamps[n-1].State == s {
		return p.stamps[n-1].At
	}
	return Now()
}

// Find returns the time of the first stamp of that state.
func (p *Passport) Find(s State) (at int64, ok bool) {
	for i := range p.stamps {
		if x := &p.stamps[i]; x.State == s {
			return x.At, true
		}
	}
	return 0, false
}

// Reset empties the passport.
func (p *Passport) Reset() { p.stamps = p.stamps[:0] }

// Append appends the passport to b as Zuul logs it, each time in nanoseconds since the first:
//
//	CurrentPassport {start_ms=1700000000000, [+0=IN_REQ_HEADERS_RECEIVED, +21000=FILTERS_INBOUND_START, +812000=NOW]}
func (p *Passport) Append(b []byte) []byte {
	var start int64
	if len(p.stamps) > 0 {
		start = p.stamps[0].At
	}
	b = append(b, "CurrentPassport {start_ms="...)
	b = strconv.AppendInt(b, At(start).UnixMilli(), 10)
	b = append(b, ", ["...)
	for _, s := range p.stamps {
		b = append(b, '+')
		b = strconv.AppendInt(b, s.At-start, 10)
		b = append(b, '=')
		b = append(b, s.State.String()...)
		b = append(b, ", "...)
	}
	b = append(b, '+')
	b = strconv.AppendInt(b, Now()-start, 10)
	return append(b, "=NOW]}"...)
}
