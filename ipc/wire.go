package ipc

import (
	"net/http"

	"github.com/roadbed/roadbed/ipc/balance"
)

// wire is what a client's settings ask of its connections and attempts beyond what is usual.
type wire struct {
	balance.Client
	base *http.Transport // its own; nil: the engine's
}

// connect takes on what the settings say of connections. Calls under way keep theirs.
func (cl *cluster) connect(c balance.Client) {
	old := cl.wire.Load()
	usual := balance.Defaults().Client
	if old == nil && c == usual || old != nil && c == old.Client {
		return
	}
	var next *wire
	if c != usual {
		next = &wire{Client: c}
		if cl.engine.ownBase != nil && (c.PerHost > 0 || c.ConnectTimeout != 0 || c.ReadTimeout != 0 || c.IdleTimeout != 0) {
			next.base = cl.engine.newTransport(c.ConnectTimeout, false)
			next.base.MaxConnsPerHost = max(c.PerHost, 0)
			next.base.ResponseHeaderTimeout = c.ReadTimeout
			if c.IdleTimeout != 0 {
				next.base.IdleConnTimeout = c.IdleTimeout
			}
		}
	}
	cl.wire.Store(next)
	if old != nil && old.base != nil {
		old.base.CloseIdleConnections()
	}
}

// carrier returns what carries req to ep.
func (cl *cluster) carrier(req *http.Request, ep *balance.Endpoint) http.RoundTripper {
	e := cl.engine
	if e.http2 != nil && (ep.HTTP2 || IsGRPC(req.Header)) {
		return e.http2
	}
	if w := cl.wire.Load(); w != nil && w.base != nil {
		return w.base
	}
	return e.base
}
