package standard

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// improper refuses what no route may get to see.
func improper() *filter.Filter {
	return &filter.Filter{Name: "Improper", Kind: filter.Inbound, Order: -990, Quick: true, Guard: true, Apply: func(x *filter.Exchange) error {
		if x.Request.Method == http.MethodConnect {
			return &filter.Error{Status: http.StatusMethodNotAllowed, Category: filter.FailureBadRequest, Reason: "the edge is no forward proxy; CONNECT is refused"}
		}
		if why := wrong(&x.Request); why != "" {
			return &filter.Error{Status: http.StatusBadRequest, Category: filter.FailureBadRequest, Reason: why}
		}
		return nil
	}}
}

// wrong tells what is wrong with a request; empty when nothing is.
func wrong(q *filter.Request) string {
	if q.Path == "*" && q.Method == http.MethodOptions {
		return ""
	}
	if !strings.HasPrefix(q.Path, "/") {
		return "the request's target must be a path"
	}
	dots, only := 0, true // of the segment so far
	for i := 0; i <= len(q.Path); i++ {
		c, encoded := byte('/'), false
		if i < len(q.Path) {
			c = q.Path[i]
		}
		if c == '%' && i+2 < len(q.Path) {
			c, encoded = unhex(q.Path[i+1])<<4|unhex(q.Path[i+2]), true
			i += 2
		}
		if c == '/' || c == '\\' && encoded { // encoded ones pass, but some servers would read them as /
			if only && (dots == 1 || dots == 2) {
				return "the path has a dot segment; send it resolved"
			}
			dots, only = 0, true
			continue
		}
		switch c {
		case '.':
			dots++
		case '\\', 0, '\r', '\n':
			return "the path has a character that no route may hold"
		default:
			only = false
		}
	}
	return ""
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 0xf // no triple at all, which engines refuse
}

// A request leaves its mark each time it comes through, so that one which is led back here does not go round for ever.
// spec: RFC 9110 §7.6.3
const (
	pseudonym   = "roadbed-edge"
	maxPassages = 3
)

// loop refuses a request that came through this edge too often.
func loop() *filter.Filter {
	return &filter.Filter{Name: "Loop", Kind: filter.Inbound, Order: -980, Quick: true, Guard: true,
		If: func(x *filter.Exchange) bool { return x.Request.Header.Has("Via") },
		Apply: func(x *filter.Exchange) error {
			if passages(&x.Request.Header) < maxPassages {
				return nil
			}
			return &filter.Error{Status: http.StatusLoopDetected, Category: filter.FailureLocal,
				Reason: fmt.Sprintf("the request came through this edge %d times; a route or an instance leads back to it", maxPassages)}
		}}
}

// Via is what this edge calls itself to whoever it passes a request on to that came by that version of HTTP, such as 11.
func Via(proto int) string {
	switch proto {
	case 10:
		return "1.0 " + pseudonym
	case 20:
		return "2.0 " + pseudonym
	case 30:
		return "3.0 " + pseudonym
	}
	return "1.1 " + pseudonym
}

// passages returns how often a request came through the edge before.
func passages(h *filter.Header) (n int) {
	for v := range h.Values("Via") {
		for by := range strings.SplitSeq(v, ",") {
			if strings.HasSuffix(strings.Trim(by, " \t"), " "+pseudonym) {
				n++
			}
		}
	}
	return n
}

// requestID gives the request an id: the client's if it is fit to be passed on, else a new one.
func requestID() *filter.Filter {
	return &filter.Filter{Name: "RequestId", Kind: filter.Inbound, Order: -995, Quick: true, Apply: func(x *filter.Exchange) error {
		h := &x.Request.Header
		if id := h.Get("X-Request-Id"); len(id) >= 8 && len(id) <= 64 && filter.Plain(id) && h.Count("X-Request-Id") == 1 {
			x.ID = id
			return nil
		}
		var b [24]byte
		hex(b[:16], rand.Uint64())
		hex(b[16:], rand.Uint64())
		x.ID = x.Keep(b[:])
		h.Set("X-Request-Id", x.ID)
		return nil
	}}
}

// hex fills b with hexadecimal digits of v.
func hex(b []byte, v uint64) {
	for i := range b {
		b[i] = "0123456789abcdef"[v>>(4*i)&15]
	}
}

// deadline says until when the request must be answered, before its route is known. Event streams and upgrades have as
// long as both ends want, and so have gRPC calls without a grpc-timeout.
func deadline(settings *config.Value[*limits]) *filter.Filter {
	return &filter.Filter{Name: "Deadline", Kind: filter.Inbound, Order: -800, Quick: true, Apply: func(x *filter.Exchange) error {
		if grpc(x) {
			if left, ok := grpcTimeout(x.Request.Header.Get("Grpc-Timeout")); ok {
				x.Deadline = start(x) + int64(left)
			}
			return nil
		}
		if x.Request.Header.Has("Grpc-Timeout") { // services would believe it
			x.Request.Header.Del("Grpc-Timeout")
		}
		if !endless(x) {
			x.Deadline = start(x) + int64(settings.Get().Timeout)
		}
		return nil
	}}
}

// routeDeadline says until when the request must be answered by the word of its route. Of a gRPC call's deadline and the
// route's the earlier one holds.
func routeDeadline() *filter.Filter {
	return &filter.Filter{Name: "RouteDeadline", Kind: filter.Inbound, Order: -90, Quick: true,
		If: func(x *filter.Exchange) bool { return x.Plan != nil && x.Plan.Timeout != 0 && !endless(x) },
		Apply: func(x *filter.Exchange) error {
			switch at := start(x) + int64(x.Plan.Timeout); {
			case grpc(x) && x.Deadline != 0 && (x.Plan.Timeout < 0 || x.Deadline < at):
			case x.Plan.Timeout < 0:
				x.Deadline = 0
			default:
				x.Deadline = at
			}
			return nil
		}}
}

func start(x *filter.Exchange) int64 {
	if x.Start == 0 {
		x.Start = filter.Now()
	}
	return x.Start
}

// endless reports whether the request asks for an answer without an end: an upgrade, or an event stream and nothing
// else, as EventSource asks for.
func endless(x *filter.Exchange) bool {
	return x.Request.Upgrade != "" || x.Request.Method == http.MethodGet && x.Request.Header.Get("Accept") == "text/event-stream"
}

// grpcTimeout reads a field Grpc-Timeout: up to 8 digits and a unit.
// spec: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
func grpcTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	n := time.Duration(0)
	for _, c := range []byte(s[:len(s)-1]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + time.Duration(c-'0')
	}
	if const100y := 100 * 365 * 24 * time.Hour; n > const100y/unit {
		return 0, false // as good as none
	}
	return n * unit, true
}

// bodyLimit refuses a request whose body is larger than its route, or else edge.body.maxBytes, allows.
func bodyLimit(settings *config.Value[*limits]) *filter.Filter {
	return &filter.Filter{Name: "BodyLimit", Kind: filter.Inbound, Order: -80, Quick: true, Guard: true,
		If: func(x *filter.Exchange) bool { return x.Request.Body != nil },
		Apply: func(x *filter.Exchange) error {
			limit, by := settings.Get().MaxBody, "the property edge.body.maxBytes"
			if x.Plan != nil && x.Plan.MaxBody > 0 {
				limit, by = x.Plan.MaxBody, "its route"
			}
			switch {
			case limit <= 0:
			case x.Request.ContentLength > limit:
				return tooLarge(limit, by)
			case x.Request.ContentLength < 0:
				x.Request.Body = &limited{ReadCloser: x.Request.Body, left: limit, limit: limit, by: by}
			}
			return nil
		}}
}

func tooLarge(limit int64, by string) error {
	return &filter.Error{Status: http.StatusRequestEntityTooLarge, Category: filter.FailureBadRequest,
		Reason: fmt.Sprintf("the request's body is larger than the %d bytes that are allowed; %s says so", limit, by)}
}

// limited is a body of unknown length that may not be longer than limit.
type limited struct {
	io.ReadCloser
	left, limit int64
	by          string
}

// Read reads on, and fails once there is a byte too many.
func (l *limited) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, tooLarge(l.limit, l.by)
	}
	if int64(len(p))-1 > l.left {
		p = p[:l.left+1]
	}
	n, err := l.ReadCloser.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n - 1, tooLarge(l.limit, l.by)
	}
	return n, err
}

// onward tells the origin how the request came to it.
func onward(p *config.Properties) *filter.Filter {
	settings := config.Must(config.Bind(p, "edge.", trust{}))
	return &filter.Filter{Name: "Onward", Kind: filter.Inbound, Order: 950, Quick: true, Apply: func(x *filter.Exchange) error {
		q := &x.Request
		q.Header.Add("Via", Via(q.Proto))
		if x.Prefix != "" {
			prefix := x.Prefix
			if before := q.Header.Get("X-Forwarded-Prefix"); before != "" { // a trusted proxy's
				prefix = strings.TrimSuffix(before, "/") + prefix
			}
			q.Header.Set("X-Forwarded-Prefix", prefix)
		}
		if x.Debug || settings.Get().Original {
			var mem [1024]byte
			b := append(append(append(append(mem[:0], q.Scheme...), "://"...), q.Host...), q.Path...)
			if q.RawQuery != "" {
				b = append(append(b, '?'), q.RawQuery...)
			}
			q.Header.Set("X-Originating-URL", x.Keep(b))
		}
		return nil
	}}
}

// outward takes out of an answer what services tell callers of ours, which is not for the world, and puts the request's id
// in.
func outward() *filter.Filter {
	return &filter.Filter{Name: "Outward", Kind: filter.Outbound, Order: -900, Quick: true, Always: true, Apply: func(x *filter.Exchange) error {
		x.Response.Header.DelFunc(func(f *filter.Field) bool {
			return kindOf(f.Name) == internal || filter.Same(f.Name, "X-Request-Id")
		})
		if x.ID != "" {
			x.Response.Header.Add("X-Request-Id", x.ID)
		}
		return nil
	}}
}
