package ipc

import (
	"context"
	"errors"
	"sync"
	"time"
)

// request is what the calls made for one request share: answers that need not be asked for twice, and a log.
type request struct {
	mu    sync.Mutex
	cache map[cacheKey]*flight // nil until used
	log   []Execution

	gathers map[*collapser]any // *gather[A, R] by collapser; nil until used
}

type cacheKey struct {
	cmd *Command
	key any
}

// NewRequest opens a request for work that no handler began, such as a job or a message from a queue: commands called
// with the returned context share a cache and a log, and hand on one request id. [Engine.Handler] opens one for each
// request that it serves.
func NewRequest(ctx context.Context) context.Context {
	return context.WithValue(ctx, inboundKey{}, &inbound{attempt: 1, id: newID(), importance: importanceIn(ctx)})
}

// Detach returns a context for work that goes on after the request has been answered: with the request's id,
// criticality and trace, with a cache and a log of its own, and not cancelled with the request.
func Detach(ctx context.Context) context.Context {
	ctx = context.WithoutCancel(ctx)
	in := inboundOf(ctx)
	if in == nil {
		return ctx
	}
	return context.WithValue(ctx, inboundKey{}, in.detached())
}

// flight is one execution that several callers wait for.
type flight struct {
	done   chan struct{} // closed once what follows is set
	v      any
	err    error
	how    ending
	panick any

	waiting int // callers; guarded by the request's mu, or that of its Batched
	cancel  context.CancelCauseFunc
	batch   any // *batch[A, R] that it is an argument of; nil when it is answered, or if it is none
}

var (
	errCallersGone = errors.New("all who waited for it have gone")
	errCallersLate = errors.New("the time of all who waited for it is up")
)

// join adds a caller to the flight of that key, or begins one, whose caller then runs it.
func (r *request) join(k cacheKey) (f *flight, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f = r.cache[k]; f != nil {
		f.waiting++
		return f, false
	}
	f = &flight{done: make(chan struct{}), waiting: 1}
	if r.cache == nil {
		r.cache = map[cacheKey]*flight{}
	}
	r.cache[k] = f
	return f, true
}

// leave takes a caller off. The last ends the flight; nobody shall find what became of it.
func (r *request) leave(k cacheKey, f *flight, why error) (last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.waiting--; f.waiting > 0 {
		return false
	}
	if r.cache[k] == f {
		delete(r.cache, k)
	}
	f.cancel(why)
	return true
}

// forget drops what is cached under k. Those who wait for it still get it.
func (r *request) forget(k cacheKey) {
	r.mu.Lock()
	delete(r.cache, k)
	r.mu.Unlock()
}

const maxLog = 1000 // executions of one request, as many as Hystrix remembers

// Execution is one entry of a request's log: a call of a command.
type Execution struct {
	Command  string
	Events   []string      // in Hystrix's words, such as FAILURE, FALLBACK_SUCCESS
	Latency  time.Duration // of the whole call; 0 if it was refused, or answered from the cache
	CacheKey string        // under which the answer is cached; "" if it is not
	Cached   bool          // it was answered from the cache

	// Of a batch: the collapser and how many arguments it had.
	Collapser string
	BatchSize int
}

// RequestLog returns the calls made for the request of ctx that have ended, in the order of their ends. It is empty
// unless [Engine.LogRequests] asks for logs. Past 1000 calls it is cut off.
func RequestLog(ctx context.Context) []Execution {
	in := inboundOf(ctx)
	if in == nil {
		return nil
	}
	in.request.mu.Lock()
	defer in.request.mu.Unlock()
	return append([]Execution(nil), in.request.log...)
}

// LogRequests has the calls made for each request logged, from now on until stop is called.
func (e *Engine) LogRequests() (stop func()) {
	e.logging.Add(1)
	return sync.OnceFunc(func() { e.logging.Add(-1) })
}

// logCall appends a call that was not cached, if anybody wants a log.
func (c *Command) logCall(ctx context.Context, how *ending) {
	if c.engine.logging.Load() > 0 {
		c.log(ctx, how, logged{})
	}
}

// logged is what a log tells beside how a call ended.
type logged struct {
	key       string
	cached    bool
	collapser string
	batch     int
}

// log appends a call to the log of the request of ctx.
func (c *Command) log(ctx context.Context, how *ending, l logged) {
	in := inboundOf(ctx)
	if in == nil || how.other || c.set.Load().LogOff {
		return
	}
	x := Execution{Command: c.name, Events: how.events(), CacheKey: l.key, Cached: l.cached, Collapser: l.collapser, BatchSize: l.batch}
	if l.batch > 0 {
		x.Events = append(x.Events, wireNames[collapsed])
	}
	if l.cached {
		x.Events = append(x.Events, wireNames[fromCache])
	} else if how.ran {
		x.Latency = time.Duration(max(0, c.clock.roughly()-how.start))
	}
	in.request.mu.Lock()
	defer in.request.mu.Unlock()
	if len(in.request.log) < maxLog {
		in.request.log = append(in.request.log, x)
	}
}

// events returns what happened, in Hystrix's words.
func (how *ending) events() []string {
	out := []string{wireNames[how.event]}
	if how.fallback != success {
		out = append(out, wireNames[how.fallback])
	}
	return out
}

var wireNames = [events]string{
	success: "SUCCESS", failure: "FAILURE", timeout: "TIMEOUT", hasty: "TIMEOUT", poolRejected: "THREAD_POOL_REJECTED", rejected: "SEMAPHORE_REJECTED",
	shortCircuited: "SHORT_CIRCUITED", badRequests: "BAD_REQUEST", cancelled: "CANCELLED", unanswered: "UNANSWERED",
	fallbackSuccess: "FALLBACK_SUCCESS", fallbackFailure: "FALLBACK_FAILURE", fallbackRejected: "FALLBACK_REJECTION",
	fallbackDisabled: "FALLBACK_DISABLED", fallbackMissing: "FALLBACK_MISSING", fromCache: "RESPONSE_FROM_CACHE", collapsed: "COLLAPSED",
}
