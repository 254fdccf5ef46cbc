package standard

import (
	"strconv"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// debugHeaders tells in the answer to a debugged request how it came about. Source of the names: Zuul 2, ZuulHeaders.
func debugHeaders(instance string) *filter.Filter {
	return &filter.Filter{Name: "DebugHeaders", Kind: filter.Outbound, Order: 700, Quick: true, Always: true,
		If: func(x *filter.Exchange) bool { return x.Debug },
		Apply: func(x *filter.Exchange) error {
			h := &x.Response.Header
			h.Set("X-Zuul", "edge")
			if instance != "" {
				h.Set("X-Zuul-Instance", instance)
			}
			category, reason := x.Category()
			if id := category.ID(); id != "" {
				h.Set("X-Zuul-Status", id)
			}
			if len(x.Attempts) > 0 {
				h.Set("X-Zuul-Proxy-Attempts", string(filter.AppendAttempts(nil, x.Attempts)))
			}
			if len(x.Ran) > 0 {
				h.Set("X-Zuul-Filter-Executions", string(executions(x.Ran)))
			}
			switch {
			case x.Err != nil:
				h.Set("X-Zuul-Error-Cause", printable(x.Err.Error()))
			case category.Failure() && reason != "":
				h.Set("X-Zuul-Error-Cause", printable(reason))
			}
			return nil
		}}
}

// executions is the filters that ran, as Zuul tells them: name[STATUS][12ms], with as many places as a nanosecond needs.
func executions(ran []filter.Execution) (b []byte) {
	const most = 4096 // bytes of a field; clients do not take heads of any size
	for i, e := range ran {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(append(b, e.Filter.Name...), '[')
		b = append(append(b, e.Status...), "]["...)
		b = strconv.AppendFloat(b, float64(e.Took)/float64(time.Millisecond), 'f', -1, 64)
		b = append(b, "ms]"...)
		if len(b) > most {
			return append(b, ", ..."...)
		}
	}
	return b
}

// printable makes s fit to be a field's value.
func printable(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b[:min(len(b), 1024)])
}
