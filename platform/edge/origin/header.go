package origin

import (
	"strconv"
	"strings"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/balance"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// connectionOnly reports whether a field concerns one connection, or frames one message. spec: RFC 9110 §7.6.1
func connectionOnly(name string) bool {
	switch len(name) {
	case 2:
		return filter.Same(name, "TE")
	case 6:
		return filter.Same(name, "Expect")
	case 7:
		return filter.Same(name, "Upgrade") || filter.Same(name, "Trailer")
	case 10:
		return filter.Same(name, "Connection") || filter.Same(name, "Keep-Alive")
	case 14:
		return filter.Same(name, "Content-Length")
	case 16:
		return filter.Same(name, "Proxy-Connection")
	case 17:
		return filter.Same(name, "Transfer-Encoding")
	case 18:
		return filter.Same(name, "Proxy-Authenticate")
	case 19:
		return filter.Same(name, "Proxy-Authorization")
	}
	return false
}

// betweenServices reports whether a field is spoken between services only.
func betweenServices(name string) bool {
	if len(name) < 5 || name[0]|0x20 != 'x' || name[1] != '-' {
		return false
	}
	return filter.Same(name, fault.Header) || len(name) > 6 && filter.Same(name[:6], "X-Ipc-")
}

// isProtected reports whether a field stays even if Connection names it: taking it away would change what the request
// means, or who is taken to make it.
func isProtected(name string, more []string) bool {
	switch {
	case name == "", connectionOnly(name), betweenServices(name):
		return true
	case len(name) > 12 && filter.Same(name[:12], "X-Forwarded-"):
		return true
	}
	for _, p := range [...]string{"Host", "Authorization", "Cookie", "Set-Cookie", "Forwarded", "Via", "Content-Type", "Content-Encoding", ipc.HeaderRequestID} {
		if filter.Same(name, p) {
			return true
		}
	}
	for _, p := range more {
		if filter.Same(name, p) {
			return true
		}
	}
	return false
}

// unnominate removes the fields that Connection names. spec: RFC 9110 §7.6.1
func unnominate(h *filter.Header, protected []string) {
	if !h.Has("Connection") {
		return
	}
	fields := h.Fields()
	for i := 0; i < len(fields); i++ {
		if !filter.Same(fields[i].Name, "Connection") {
			continue
		}
		for rest, more := fields[i].Value, true; more; {
			var name string
			name, rest, more = strings.Cut(rest, ",")
			if name = strings.Trim(name, " \t"); !isProtected(name, protected) && h.Has(name) {
				h.Del(name)
				fields, i = h.Fields(), -1 // they have moved
				break
			}
		}
	}
}

// onward makes the request's header that of a request to an origin, but for what differs from attempt to attempt.
//
// hot path: 0 allocs, BenchmarkApply
func onward(h *filter.Header, protected []string) {
	unnominate(h, protected)
	trailers := h.Has("TE") && h.Contains("TE", "trailers")
	h.DelFunc(func(f *filter.Field) bool {
		return connectionOnly(f.Name) || betweenServices(f.Name) || filter.Same(f.Name, attemptBudget)
	})
	if trailers {
		h.Add("TE", "trailers")
	}
}

// attemptBudget is the field by which a trusted peer limits how many attempts its request may cost.
const attemptBudget = "X-Edge-Attempt-Budget"

// tell puts into the header what an attempt tells its callee.
//
// hot path: 0 allocs, BenchmarkApply
func (c *call) tell() {
	x, h := c.x, &c.x.Request.Header
	t := c.passage.Tells(x.Criticality, x.Priority)
	set := h.Add
	if c.told {
		set = h.Set
	}
	c.told = true
	if t.Timeout > 0 {
		set(ipc.HeaderTimeout, c.number(t.Timeout))
	}
	set(ipc.HeaderAttempt, c.number(int64(t.Attempt)))
	if t.Trial {
		set(ipc.HeaderTrial, "1")
	}
	if t.Attempt > 1 {
		set("X-Envoy-Attempt-Count", c.number(int64(t.Attempt)))
	}
	if app := c.proxy.calls.App(); app != "" {
		set(ipc.HeaderCaller, app)
	}
	if !t.Usual {
		set(ipc.HeaderCriticality, roadbed.Criticality.String(t.Criticality))
		set(ipc.HeaderPriority, c.number(int64(t.Priority)))
	}
	if x.Fault != nil {
		set(fault.Header, x.Fault.Header())
	}
	if x.ID != "" && !h.Has(ipc.HeaderRequestID) {
		h.Add(ipc.HeaderRequestID, x.ID)
	}
	if c.grpc && x.Deadline != 0 && t.Timeout > 0 {
		h.Set("Grpc-Timeout", c.grpcTimeout(t.Timeout))
	}
}

var digits = [...]string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}

// number returns n as a string that lives as long as the request.
func (c *call) number(n int64) string {
	if n >= 0 && n < int64(len(digits)) {
		return digits[n]
	}
	var mem [20]byte
	return c.x.Keep(strconv.AppendInt(mem[:0], n, 10))
}

// grpcTimeout returns milliseconds as grpc-timeout has them: eight digits at most.
func (c *call) grpcTimeout(ms int64) string {
	var mem [20]byte
	if ms < 1e8 {
		return c.x.Keep(append(strconv.AppendInt(mem[:0], ms, 10), 'm'))
	}
	return c.x.Keep(append(strconv.AppendInt(mem[:0], ms/1000, 10), 'S'))
}

// saying is what an answer's header says to the edge.
type saying struct {
	retryAfter, why, utilization, load string
	noRetry                            bool
}

// hear takes out of an answer's header what concerns one connection or is said to the edge alone.
//
// hot path: 0 allocs, BenchmarkApply
func hear(h *filter.Header, utilization string, protected []string) (s saying) {
	s.retryAfter = h.Get("Retry-After")
	s.why = h.Get("X-Ipc-Error")
	s.noRetry = h.Get(ipc.HeaderNoRetry) == "1"
	s.utilization = h.Get(balance.HeaderUtilization)
	if utilization != "" {
		s.utilization = h.Get(utilization)
	}
	s.load = h.Get(balance.HeaderLoad)
	unnominate(h, protected)
	h.DelFunc(func(f *filter.Field) bool {
		return connectionOnly(f.Name) || betweenServices(f.Name) || len(f.Name) > 20 &&
			(filter.Same(f.Name, balance.HeaderUtilization) || filter.Same(f.Name, balance.HeaderLoad)) || utilization != "" && filter.Same(f.Name, utilization)
	})
	return s
}
