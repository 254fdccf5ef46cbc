package standard

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// errorResponse answers for x.Err.
func errorResponse() *filter.Filter {
	return &filter.Filter{Name: "endpoint.ErrorResponse", Kind: filter.Endpoint, Quick: true, Apply: func(x *filter.Exchange) error {
		status, _, reason := filter.Verdict(x.Err)
		var retry time.Duration
		if e, ok := errors.AsType[*filter.Error](x.Err); ok {
			retry = e.RetryAfter
		}
		answerError(x, status, reason)
		if retry > 0 {
			x.Response.Header.Set("Retry-After", strconv.Itoa(int((retry+time.Second-1)/time.Second)))
		}
		return nil
	}}
}

// answerError answers with a problem detail, or with the same in plain text when the client asks for neither JSON nor
// everything, as a browser or curl does. gRPC calls get the status in gRPC's way. spec: RFC 9457
func answerError(x *filter.Exchange, status int, reason string) {
	if grpc(x) {
		answerGRPC(x, status, reason)
		return
	}
	var mem [512]byte
	b := mem[:0]
	kind := "text/plain; charset=utf-8"
	if strings.Contains(x.Request.Header.Get("Accept"), "json") {
		kind = "application/problem+json"
		b = append(b, `{"status":`...)
		b = strconv.AppendInt(b, int64(status), 10)
		b = append(b, `,"title":`...)
		b = filter.AppendJSON(b, http.StatusText(status))
		if reason != "" {
			b = append(b, `,"detail":`...)
			b = filter.AppendJSON(b, reason)
		}
		b = append(b, '}', '\n')
	} else {
		b = strconv.AppendInt(b, int64(status), 10)
		b = append(b, ' ')
		b = append(b, http.StatusText(status)...)
		if reason != "" {
			b = append(append(b, ": "...), reason...)
		}
		b = append(b, '\n')
	}
	x.Answer(status, x.Keep(b))
	h := &x.Response.Header
	h.Set("Content-Type", kind)
	h.Add("X-Content-Type-Options", "nosniff")
	h.Add("Cache-Control", "no-store")
}

// noRoute answers a request that no route is there for.
func noRoute() *filter.Filter {
	return &filter.Filter{Name: "endpoint.NoRoute", Kind: filter.Endpoint, Quick: true, Apply: func(x *filter.Exchange) error {
		answerError(x, http.StatusNotFound, "no route matches this host, method and path")
		x.SetCategory(filter.SuccessLocalNoRoute, "")
		return nil
	}}
}

// healthcheck answers balancers in front of the edge: 200 healthy, or 503 with the reason that healthy gives.
func healthcheck(p *config.Properties, healthy func() error) *filter.Filter {
	path := p.String("edge.healthcheck.path", "/healthcheck")
	return &filter.Filter{Name: "Healthcheck", Kind: filter.Inbound, Order: -970, Quick: true,
		If: func(x *filter.Exchange) bool {
			return x.Request.Path == path.Get() && (x.Request.Method == http.MethodGet || x.Request.Method == http.MethodHead)
		},
		Apply: func(x *filter.Exchange) error {
			status, text := http.StatusOK, "healthy"
			if healthy != nil {
				if err := healthy(); err != nil {
					status, text = http.StatusServiceUnavailable, err.Error()
				}
			}
			x.Answer(status, text)
			x.Response.Header.Add("Cache-Control", "no-store")
			x.SetCategory(filter.Success, "")
			return nil
		}}
}

// grpc reports whether x is a gRPC call, which wants its errors in gRPC's way.
func grpc(x *filter.Exchange) bool {
	t := x.Request.Header.Get("Content-Type")
	return hasPrefix(t, "application/grpc") && x.Request.Method == http.MethodPost
}

// grpcCode is the status of gRPC for one of HTTP.
func grpcCode(status int) int {
	switch status {
	case http.StatusBadRequest:
		return 13 // INTERNAL
	case http.StatusUnauthorized:
		return 16 // UNAUTHENTICATED
	case http.StatusForbidden:
		return 7 // PERMISSION_DENIED
	case http.StatusNotFound:
		return 12 // UNIMPLEMENTED
	case http.StatusTooManyRequests, http.StatusRequestEntityTooLarge:
		return 8 // RESOURCE_EXHAUSTED
	case http.StatusGatewayTimeout:
		return 4 // DEADLINE_EXCEEDED
	}
	if status >= 500 {
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}

// answerGRPC answers in gRPC's way: 200, and the status in the head, as there is no message before it.
// spec: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, Trailers-Only
func answerGRPC(x *filter.Exchange, status int, reason string) {
	if reason == "" {
		reason = http.StatusText(status)
	}
	kind := x.Request.Header.Get("Content-Type")
	x.Answer(http.StatusOK, "")
	h := &x.Response.Header
	h.Add("Content-Type", kind)
	h.Add("Grpc-Status", strconv.Itoa(grpcCode(status)))
	var mem [512]byte
	h.Add("Grpc-Message", x.Keep(appendPercent(mem[:0], reason)))
}

// appendPercent appends s as gRPC encodes messages: what is not printable ASCII, and %, as %XX.
func appendPercent(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			b = append(b, c)
		} else {
			b = append(b, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
		}
	}
	return b
}

// grpcStatus makes answers of the edge's own to gRPC calls gRPC's: those of filters that know nothing of it, such as 429.
// What fields they have stays.
func grpcStatus() *filter.Filter {
	return &filter.Filter{Name: "GRPCStatus", Kind: filter.Outbound, Order: 450, Quick: true, Always: true,
		If: func(x *filter.Exchange) bool {
			return x.Response.Status >= 400 && len(x.Attempts) == 0 && grpc(x) && !x.Response.Header.Has("Grpc-Status")
		},
		Apply: func(x *filter.Exchange) error {
			status := x.Response.Status
			_, reason := x.Category()
			kept := x.Response.Header
			x.Response.Header = filter.Header{}
			answerGRPC(x, status, reason)
			for _, f := range kept.Fields() {
				if !hasPrefix(f.Name, "Content-") {
					x.Response.Header.Add(f.Name, f.Value)
				}
			}
			return nil
		}}
}
