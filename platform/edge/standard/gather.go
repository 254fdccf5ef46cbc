package standard

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// gathering are the properties of the filter RequestBuffer.
type gathering struct {
	Most  int   `config:"buffer"`       // bytes of one body
	Total int64 `config:"buffer.total"` // bytes of all
}

// Validate keeps what cannot be meant out of force.
func (g *gathering) Validate() error {
	return errors.Join(config.Between("edge.http.request.buffer", g.Most, 0, 16<<20), config.Between("edge.http.request.buffer.total", g.Total, 0, 1<<40))
}

// pause is how long a client that has not said how much it will send may be silent until its request goes on with what is
// there: it may wait for the answer to begin.
const pause = time.Second

// gatherer makes the filter that has a request's body at hand, or the first part of a long one, before its app is asked: a
// slow client then takes up no place among the app's requests, and none of its connections.
type gatherer struct {
	set    *config.Value[*gathering]
	panics *filter.Panics
	held   atomic.Int64 // bytes
	over   *meter.Counter
	free   sync.Pool // of *[]byte
}

func newGatherer(p *config.Properties, m *meter.Registry) *gatherer {
	g := &gatherer{
		set:    config.Must(config.Bind(p, "edge.http.request.", gathering{Most: 64 << 10, Total: 256 << 20})),
		panics: filter.NewPanics(m, nil),
		over:   m.Counter("edge.http.request.unbuffered"),
	}
	m.GaugeFunc("edge.http.request.buffered", func() float64 { return float64(g.held.Load()) })
	return g
}

func (g *gatherer) filter() *filter.Filter {
	// Quick, though it waits: for clients, of whom there may be as many as there are connections.
	return &filter.Filter{Name: "RequestBuffer", Kind: filter.Inbound, Order: 960, Quick: true, Guard: true,
		If:    func(x *filter.Exchange) bool { return x.Request.Body != nil && g.wants(x) },
		Apply: g.apply}
}

// wants reports whether the body of x is to be waited for.
func (g *gatherer) wants(x *filter.Exchange) bool {
	if x.Plan == nil || x.Plan.Endpoint != nil || x.Plan.Buffering < 0 || g.set.Get().Most == 0 || !x.Request.Awaited() {
		return false
	}
	kind := x.Request.Header.Get("Content-Type")
	return x.Plan.Buffering > 0 || !hasPrefix(kind, "application/grpc") && !hasPrefix(kind, "application/connect+")
}

// apply waits.
func (g *gatherer) apply(x *filter.Exchange) error {
	set := g.set.Get()
	if g.held.Load() >= set.Total {
		g.over.Inc()
		return nil
	}
	x.Passport.Add(filter.FiltersInboundBufStart)
	b := &gathered{g: g, inner: x.Request.Body, most: set.Most}
	x.Request.Body = b
	x.OnEnd(func(*filter.Exchange) { b.end() })
	var err error
	if n := x.Request.ContentLength; n >= 0 {
		b.most = int(min(int64(b.most), n))
		err = b.wait(x.Deadline)
	} else {
		silence := pause
		if x.Plan.Buffering > 0 {
			silence = 0
		}
		err = b.follow(x.Deadline, silence)
	}
	if err != nil {
		if _, ok := errors.AsType[*filter.Error](err); ok {
			return err
		}
		return &filter.Error{Status: http.StatusBadRequest, Category: filter.FailureClientCancelled, Reason: "the request's body broke off", Err: err}
	}
	x.Passport.Add(filter.FiltersInboundBufEnd)
	return nil
}

// take returns memory for n more bytes behind b, but not for more than most in all.
func (g *gatherer) take(b []byte, most int) []byte {
	if cap(b)-len(b) >= min(512, most-len(b)) {
		return b
	}
	if b == nil {
		if p, ok := g.free.Get().(*[]byte); ok {
			g.held.Add(int64(cap(*p)))
			return (*p)[:0]
		}
	}
	bigger := make([]byte, len(b), min(max(2*cap(b), 4<<10), max(most, 512)))
	copy(bigger, b)
	g.held.Add(int64(cap(bigger) - cap(b)))
	return bigger
}

// give takes memory back.
func (g *gatherer) give(b []byte) {
	if cap(b) == 0 {
		return
	}
	g.held.Add(-int64(cap(b)))
	if cap(b) <= 16<<10 { // what most requests need
		b = b[:0]
		g.free.Put(&b)
	}
}

// gathered is a request's body of which the first part is in memory.
type gathered struct {
	g     *gatherer
	inner io.ReadCloser
	most  int

	mu    sync.Mutex // guards what follows while somebody follows
	mem   []byte
	taken int
	err   error         // what is behind mem
	stop  bool          // who follows is to end
	done  chan struct{} // closed when who follows has ended; nil: nobody does
}

var tooLate = &filter.Error{Status: http.StatusRequestTimeout, Category: filter.FailureClientTimeout, Reason: "the request's body did not come within the time that the request has"}

// wait reads on the request's own goroutine until there is enough.
func (b *gathered) wait(deadline int64) error {
	var late atomic.Bool
	if deadline != 0 {
		t := time.AfterFunc(time.Duration(deadline-filter.Now()), func() {
			late.Store(true)
			b.inner.Close() //nolint:errcheck // so that nobody waits in it
		})
		defer t.Stop()
	}
	for len(b.mem) < b.most && b.err == nil {
		b.mem = b.g.take(b.mem, b.most)
		n, err := b.inner.Read(b.mem[len(b.mem):min(cap(b.mem), b.most)])
		b.mem, b.err = b.mem[:len(b.mem)+n], err
	}
	switch {
	case late.Load() && b.err != io.EOF && (b.err != nil || len(b.mem) < b.most):
		return tooLate
	case b.err == io.EOF:
		return nil
	}
	return b.err
}

// follow has another goroutine read until there is enough, or nothing has come for as long as silence, unless that is 0. It
// goes on with the read that it is in.
func (b *gathered) follow(deadline int64, silence time.Duration) error {
	b.done = make(chan struct{})
	came := make(chan struct{}, 1)
	go func() {
		defer close(b.done)
		defer b.g.panics.Catch("request body", func(err error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.err = err
		})
		for b.more() {
			select {
			case came <- struct{}{}:
			default:
			}
		}
	}()
	var late, quiet <-chan time.Time
	if deadline != 0 {
		t := time.NewTimer(time.Duration(deadline - filter.Now()))
		defer t.Stop()
		late = t.C
	}
	var t *time.Timer
	if silence > 0 {
		t = time.NewTimer(silence)
		defer t.Stop()
		quiet = t.C
	}
	for {
		select {
		case <-came:
			if t != nil {
				t.Reset(silence)
			}
		case <-quiet:
			b.mu.Lock()
			defer b.mu.Unlock()
			b.stop = true
			return nil
		case <-late:
			b.inner.Close() //nolint:errcheck // so that nobody waits in it
			<-b.done
			return tooLate
		case <-b.done:
			if b.err == io.EOF {
				return nil
			}
			return b.err
		}
	}
}

// more reads once. It reports whether to read on.
func (b *gathered) more() bool {
	b.mu.Lock()
	mem := b.g.take(b.mem, b.most)
	b.mem = mem
	b.mu.Unlock()
	n, err := b.inner.Read(mem[len(mem):min(cap(mem), b.most)])
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mem, b.err = b.mem[:len(b.mem)+n], err
	return err == nil && len(b.mem) < b.most && !b.stop
}

// Read reads on: what is in memory, then what follows.
func (b *gathered) Read(p []byte) (int, error) {
	n, err, more := b.known(p)
	if more && b.done != nil {
		<-b.done
		n, err, more = b.known(p)
	}
	if more {
		return b.inner.Read(p)
	}
	return n, err
}

// known reads what is in memory. more: the rest must be asked for.
func (b *gathered) known(p []byte) (n int, err error, more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.taken < len(b.mem) {
		n = copy(p, b.mem[b.taken:])
		b.taken += n
		return n, nil, false
	}
	return 0, b.err, b.err == nil
}

// Buffered returns what can be had without waiting.
func (b *gathered) Buffered() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mem[b.taken:]
}

// Close gives up what is left.
func (b *gathered) Close() error { return b.inner.Close() }

// end waits for who follows, and gives the memory back.
func (b *gathered) end() {
	if b.done != nil {
		select {
		case <-b.done:
		default:
			b.inner.Close() //nolint:errcheck // so that nobody waits in it
			<-b.done
		}
	}
	b.g.give(b.mem)
	b.mem, b.taken, b.err = nil, 0, io.ErrClosedPipe
}
