package engine

import (
	"context"
	"sync"
)

// link knows whether the connection is up. Each time it comes up a session starts, a context that ends when the
// connection is lost: whoever depends on one connection's life works inside its session.
type link struct {
	mu      sync.Mutex
	ready   chan struct{} // closed while up; guarded by mu
	session context.Context
	end     context.CancelFunc // nil while down; guarded by mu
}

func newLink() *link { return &link{ready: make(chan struct{})} }

func (l *link) connected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end != nil {
		return
	}
	l.session, l.end = context.WithCancel(context.Background())
	close(l.ready)
}

func (l *link) disconnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end == nil {
		return
	}
	l.end()
	l.end = nil
	l.ready = make(chan struct{})
}

func (l *link) up() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end != nil
}

// wait returns a context that ends with ctx or the current session, once there is one. It fails only with ctx.
func (l *link) wait(ctx context.Context) (context.Context, context.CancelFunc, error) {
	for {
		l.mu.Lock()
		ready, session, up := l.ready, l.session, l.end != nil
		l.mu.Unlock()
		if up {
			ctx, cancel := context.WithCancel(ctx)
			stop := context.AfterFunc(session, cancel)
			return ctx, func() { stop(); cancel() }, nil
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}
