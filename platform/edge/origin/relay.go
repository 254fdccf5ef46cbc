package origin

import (
	"errors"
	"net/http"

	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Relay has the request of x answered by x.App, whose instances are edges of another region. back says that it was not, for
// the reason err, and can be answered otherwise without harm: not a byte of it was sent, or it was refused as too much, or it
// may be sent twice. Its body then begins anew; its header is as it was sent. It is for a proxy of [Config.Edges].
func (p *Proxy) Relay(x *filter.Exchange) (back bool, err error) {
	c := p.free.Get().(*call)
	c.x, c.origin = x, p.origin(x.App)
	x.OnEnd(c.release)
	if err = c.run(); err == nil || !c.back {
		return false, err
	}
	c.over()
	if c.upload.body != nil {
		c.upload.next(&c.cursor)
		x.Request.Body = &c.cursor // which lives as long as the request: c is given back when x ends
	}
	return true, err
}

// mayComeBack reports whether a request that ended so may be answered otherwise, and its maker wants to know.
func (c *call) mayComeBack(k kind) bool {
	if !c.proxy.edges || !c.whole() {
		return false
	}
	switch k {
	case connectError, noServers, maxConns, concurrency, refused:
		return true // nobody was asked
	case unavailable:
		return c.x.Response.Header.Has(Refused)
	case reset, closeNotify, nonsense:
		return c.twice || c.unsent
	case readTimeout:
		return c.listed && (c.x.Deadline == 0 || filter.Now() < c.x.Deadline)
	}
	return false
}

// Refused is the field of an edge's answer to a request that it has not looked at, for it has too much to do.
const Refused = "X-Edge-Shed"

var errNoRoom = errors.New("the other region has too much to do")

// comeBack ends the call of a request that is answered otherwise.
func (c *call) comeBack(k kind, o *ipc.Outcome) error {
	c.back = true
	if o.Status == http.StatusServiceUnavailable {
		return c.fail(k, errNoRoom) // ipc knows its answer
	}
	return c.fail(k, c.passage.Failed(o.Err))
}
