package origin

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/meter"
)

// mirrors sends copies of requests to other apps, whose answers nobody reads. They are sent once the request itself is over,
// when its body is at hand, so that they neither slow it down nor share its connection.
type mirrors struct {
	proxy   *Proxy
	ctx     context.Context
	cancel  context.CancelFunc
	mu      sync.Mutex    // guards that none begins once close waits
	room    chan struct{} // a place for each copy under way
	wg      sync.WaitGroup
	sent    *meter.Counter
	dropped *meter.Counter
}

const (
	maxMirrors    = 64 // copies under way at once
	mirrorTimeout = 10 * time.Second
)

func (m *mirrors) init(p *Proxy) {
	m.proxy = p
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.room = make(chan struct{}, maxMirrors)
	m.sent, m.dropped = p.meter.Counter("edge.mirror", "result", "sent"), p.meter.Counter("edge.mirror", "result", "dropped")
}

func (m *mirrors) close() {
	m.mu.Lock()
	m.cancel()
	m.mu.Unlock()
	m.wg.Wait()
}

// copied is a request that is to be sent once more.
type copied struct {
	app     string
	request *http.Request // without its body
	length  int64
}

// begin prepares the copies that the route wants of this request.
func (m *mirrors) begin(c *call) {
	plan := c.x.Plan
	if plan == nil || len(plan.Mirrors) == 0 || c.wish() != "" {
		return
	}
	for _, to := range plan.Mirrors {
		if to.Percent >= 100 || rand.Float64()*100 < to.Percent {
			app := strings.ToLower(to.App)
			c.copies = append(c.copies, copied{app, c.copied(app), c.x.Request.ContentLength})
		}
	}
}

// end sends the copies of a request that is over.
func (m *mirrors) end(c *call) {
	for _, k := range c.copies {
		m.begun(c, k)
	}
	clear(c.copies)
	c.copies = c.copies[:0]
}

// begun sends a copy, unless too many are under way or its body is not at hand.
func (m *mirrors) begun(c *call, k copied) {
	body, ok := c.upload.complete(k.length)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !ok || m.ctx.Err() != nil {
		m.dropped.Inc()
		return
	}
	select {
	case m.room <- struct{}{}:
	default:
		m.dropped.Inc()
		return
	}
	if body = slices.Clone(body); len(body) > 0 {
		k.request.Body, k.request.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	m.wg.Go(func() {
		defer func() { <-m.room }()
		defer m.proxy.panics.Catch("mirror", nil)
		m.send(k)
	})
}

func (m *mirrors) send(k copied) {
	ctx, cancel := context.WithTimeout(ipc.WithOverride(m.ctx, ipc.Override{Retries: -1, Timeout: mirrorTimeout}), mirrorTimeout)
	defer cancel()
	m.sent.Inc()
	resp, err := m.proxy.calls.Transport().RoundTrip(k.request.WithContext(ctx))
	if err != nil {
		m.proxy.log.Debug("a mirrored request failed", "app", k.app, "err", err)
		return
	}
	io.Copy(io.Discard, resp.Body) //nolint:errcheck // nobody wants the answer
	resp.Body.Close()
}
