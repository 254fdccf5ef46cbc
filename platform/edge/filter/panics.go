package filter

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/roadbed/roadbed/meter"
)

// Panics keeps panics on the edge's own goroutines, those that no engine looks after, from ending the process. Each is
// counted (edge.panics, with the tag where) and logged with its stack, not more often than every 10 s for each place. A nil
// one logs to slog.Default().
type Panics struct {
	meter *meter.Registry
	log   *slog.Logger

	mu     sync.Mutex
	places map[string]*place // guarded by mu
}

// place is where something panicked.
type place struct {
	count  *meter.Counter
	told   int64 // when one was last logged, by Now; 0: never
	untold int   // since
}

// NewPanics returns what takes note of panics. m and log may be nil.
func NewPanics(m *meter.Registry, log *slog.Logger) *Panics {
	if log == nil {
		log = slog.Default()
	}
	return &Panics{meter: m, log: log, places: map[string]*place{}}
}

// Panicked is the error that stands for a panic.
type Panicked struct {
	Where string
	Value any // given to panic
}

// Error says where it was and what was given to panic.
func (p *Panicked) Error() string { return fmt.Sprintf("%s panicked: %v", p.Where, p.Value) }

// Catch ends a panic of the function that defers it, and hands it to then, which may be nil. It must itself be what is
// deferred:
//
//	defer p.Catch("mirror", nil)
func (p *Panics) Catch(where string, then func(error)) {
	v := recover()
	if v == nil {
		return
	}
	p.note(where, v)
	if then != nil {
		then(&Panicked{where, v})
	}
}

// Loop calls run until it returns without a panic, or ctx has ended; between two calls it waits for a second.
func (p *Panics) Loop(ctx context.Context, where string, run func() error) error {
	for {
		err := p.Try(where, run)
		if _, ok := err.(*Panicked); !ok {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

// Try returns what run does, or a [Panicked].
func (p *Panics) Try(where string, run func() error) (err error) {
	defer p.Catch(where, func(e error) { err = e })
	return run()
}

func (p *Panics) note(where string, v any) {
	if p == nil {
		slog.Error("edge: contained a panic", "where", where, "panic", v, "stack", string(debug.Stack()))
		return
	}
	p.mu.Lock()
	at := p.places[where]
	if at == nil {
		at = &place{count: p.meter.Counter("edge.panics", "where", where)}
		p.places[where] = at
	}
	at.count.Inc()
	now := Now()
	silent := at.told != 0 && now-at.told < complainEvery
	unlogged := at.untold
	if at.untold++; !silent {
		at.told, at.untold = now, 0
	}
	p.mu.Unlock()
	if !silent {
		p.log.Error("edge: contained a panic", "where", where, "panic", v, "unlogged", unlogged, "stack", string(debug.Stack()))
	}
}
