// Package fault injects failures into single requests on purpose, so that a system's defences are tried on real
// traffic without harming all of it. At Netflix this was FIT, failure injection testing.
//
// The edge decides which requests take part, signs the rules and sends them along in the X-Fit header ([Sign]).
// Every service verifies the header once per request ([Parse]), keeps the result in the request's context ([With])
// and asks at each injection point what shall happen ([Context.At]). Services built on ipc.Engine have all of that
// done for them; code with points of its own (a cache, a database driver) asks for itself:
//
//	if a := fault.From(ctx).At("db", "members"); !a.IsZero() {
//		if err := a.Wait(ctx); err != nil {
//			return err
//		}
//		if a.Err != nil {
//			return a.Err
//		}
//	}
//
// # Rules
//
// A rule is point:glob=action[@percent][#max]; rules are separated by ";":
//
//	client:bookmarks=delay(300ms,50ms)@100;server:ratings=error(503)@25;command:Get*=error(unavailable)#1
//
// Points are edge, server, client, command, cache, db and queue. In a glob * stands for any text and ? for one
// character. Actions are
//
//	delay(d)  delay(d,jitter)   wait d, give or take jitter, then go on
//	error(what)                 fail with an HTTP status (400 to 599) or a gRPC code (name, or number 1 to 16)
//	reset                       cut the connection
//	hang                        answer nothing until the request's deadline
//	nofallback                  the fallback fails too
//	reject                      refuse, as if a pool, a limit or a queue were full
//	partial(n)  partial(p%)     let n bytes, or a share, of the body through, then cut it off
//	corrupt(n)                  alter n bytes of the body
//	slow(n)                     let n bytes of the body through in a second
//	drop                        lose the message: a queue forgets it, a caller waits for an answer until its deadline
//	miss                        a cache has nothing
//
// A glob may end in brackets that name zones or clusters, separated by "|": the rule then holds only in processes of one
// of them. server:*[us-east-1a]=reject is what a lost zone looks like; several brackets must all hold.
//
// Without @percent a rule hits every request. With it, a hash of experiment, rule and request id decides, so that
// all hops and all retries of one request agree; "@~25" draws for each attempt anew. With #max a rule hits one request
// at most so many times: at its client or command so many calls in each process, at a server its first so many
// attempts. server:ratings=error(503)#1 tries whether retries help.
//
// # What it promises
//   - A request without the header pays one nil check per injection point.
//   - A header that is unsigned, altered, expired or over 2 KiB injects nothing.
//   - Nothing is injected after the header's expiry: what waits then goes on.
//   - The same experiment, rule and request id give the same decision in every process.
//
// # What it does not
//   - How often a rule hit a request is counted in each process; only servers know of what happened before, by the
//     number of the attempt.
//   - It does not choose requests; that is the edge's and the chaos room's work.
package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Header is the HTTP header that carries the rules of one request.
const Header = "X-Fit"

// ErrInjected is what every injected error wraps: the failure was made on purpose.
var ErrInjected = errors.New("failure injected on purpose")

// Context holds the rules that travel with one request. A nil *Context is a request without any. Its
// rules never change, and it may be used from many goroutines.
type Context struct {
	id      string // of the experiment
	request string // id of the request, the same on all hops
	header  string // as it came, to be sent on
	rules   []Rule
	hits    []atomic.Int32 // of each rule, for those that have a limit; nil if none has
	earlier int32          // attempts before this one, at the server that reads the header
	expires time.Time
	stop    <-chan struct{}
	here    Here
}

// Here is where a request is, for what its faults depend on.
type Here struct {
	Attempt int             // of its caller, from 1: rules with a limit count what came before
	Zone    string          // of this process; "" = unknown
	Cluster string          // of this process, e.g. "api-prod"; "" = unknown
	Stop    <-chan struct{} // ends all that is injected once it is closed; nil: never
}

// Arrived tells c where the request has come to. Call it before c is shared.
func (c *Context) Arrived(h Here) {
	if c != nil {
		c.here, c.earlier, c.stop = h, int32(min(max(h.Attempt-1, 0), maxTimes)), h.Stop
	}
}

// lease is how long what is injected may last.
type lease struct {
	expires time.Time // zero: for ever
	stop    <-chan struct{}
}

func (l *lease) over() bool {
	select {
	case <-l.stop:
		return true
	default:
		return !l.expires.IsZero() && !time.Now().Before(l.expires)
	}
}

// Rules returns the rules that travel with the request, nil without. They must not be altered.
func (c *Context) Rules() []Rule {
	if c == nil {
		return nil
	}
	return c.rules
}

// ID returns the experiment's name, "" without one.
func (c *Context) ID() string {
	if c == nil {
		return ""
	}
	return c.id
}

// Header returns the header value to send on to the next hop, "" without rules.
func (c *Context) Header() string {
	if c == nil {
		return ""
	}
	return c.header
}

// Action is what shall happen at one injection point. Delay comes before everything else; what it does to a body comes
// last. Who asks does what the action says, in this order: [Action.Wait], Err, then Body's
// [Shape.Reader] or [Shape.Writer].
type Action struct {
	Rule       string // the rules that hit, as they were written
	ID         string // of the experiment
	Err        error  // why it fails, wrapping ErrInjected; nil if it does not
	Delay      time.Duration
	Status     int   // HTTP status to fail with; 0 = none
	Body       Shape // what becomes of the body
	Reset      bool  // cut the connection instead of answering
	Hang       bool  // wait for the deadline
	NoFallback bool  // the fallback fails too
	Reject     bool  // refuse, as if a pool or a limit were full
	Drop       bool  // a queue loses the message without a word; elsewhere Hang is set too, and no answer follows
	Miss       bool  // the cache has nothing
	lease      lease
}

// IsZero reports whether nothing is to happen.
func (a *Action) IsZero() bool { return a.Rule == "" }

// Name names the action for a metric, by the one that matters most if several rules hit: one of the words of the
// grammar.
func (a *Action) Name() string {
	switch {
	case a.Reset:
		return actionNames[reset]
	case a.Drop:
		return actionNames[drop]
	case a.Hang:
		return actionNames[hang]
	case a.Reject:
		return actionNames[reject]
	case a.Status != 0:
		return actionNames[fail]
	case a.Miss:
		return actionNames[miss]
	case a.Body.cuts:
		return actionNames[partial]
	case a.Body.corrupt > 0:
		return actionNames[corrupt]
	case a.Body.rate > 0:
		return actionNames[slow]
	case a.Delay > 0:
		return actionNames[delay]
	}
	return actionNames[noFallback]
}

// Acts reports whether anything is to happen to the call itself, fallbacks aside.
func (a *Action) Acts() bool {
	return a.Delay > 0 || a.Err != nil || a.Hang || a.Drop || a.Miss || !a.Body.IsZero()
}

// Wait waits for the delay, or until the context ends if the action is to hang. It returns the context's error if
// that came first. Should the lease of the faults end meanwhile, or injection be stopped, it returns nil at once and
// leaves the action zero: the call goes on as if nothing had been asked.
func (a *Action) Wait(ctx context.Context) error {
	if a.Delay <= 0 && !a.Hang {
		return nil
	}
	wait := a.Delay
	if a.Hang {
		wait = forever
	}
	if !a.lease.expires.IsZero() {
		wait = min(wait, time.Until(a.lease.expires))
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w: %s: %w", ErrInjected, a.Rule, ctx.Err())
	case <-t.C:
		if !a.Hang && !a.lease.over() {
			return nil
		}
	case <-a.lease.stop:
	}
	*a = Action{}
	return nil
}

const forever = time.Duration(1<<63 - 1)

// At says what is to happen to this request at the point of that name. Several rules may hit; their delays add up
// and the first error counts.
func (c *Context) At(point, name string) Action {
	if c == nil { // hot path: 0 allocs, BenchmarkAtWithoutRules
		return Action{}
	}
	return c.decide(point, name)
}

func (c *Context) decide(point, name string) Action {
	out := Action{ID: c.id, lease: lease{expires: c.expires, stop: c.stop}}
	if out.lease.over() {
		return Action{}
	}
	for i := range c.rules {
		r := &c.rules[i]
		if r.point != point || !glob(r.glob, name) || r.where != "" && !r.within(&c.here) || !r.hits(c.id, c.request) || r.max > 0 && !c.mayHit(i, r, point) {
			continue
		}
		if out.Rule != "" {
			out.Rule += ";"
		}
		out.Rule += r.text
		switch r.action {
		case delay:
			d := r.delay
			if r.jitter > 0 {
				d += time.Duration(rand.Int64N(2*int64(r.jitter)+1)) - r.jitter
			}
			out.Delay += max(d, 0)
		case fail:
			if out.Status == 0 {
				out.Status = r.status
			}
		case reset:
			out.Reset = true
		case hang:
			out.Hang = true
		case noFallback:
			out.NoFallback = true
		case reject:
			out.Reject = true
		case drop:
			out.Drop = true
			out.Hang = out.Hang || point != "queue"
		case miss:
			out.Miss = true
		default:
			out.Body.add(r)
		}
	}
	if out.Rule == "" {
		return Action{}
	}
	if !out.Body.IsZero() {
		out.Body.lease = out.lease
	}
	switch {
	case out.Reset:
		out.Err = fmt.Errorf("%w: connection reset by rule %s", ErrInjected, out.Rule)
	case out.Reject:
		out.Err = fmt.Errorf("%w: refused as if full by rule %s", ErrInjected, out.Rule)
	case out.Status != 0:
		out.Err = fmt.Errorf("%w: status %d by rule %s", ErrInjected, out.Status, out.Rule)
	}
	return out
}

// mayHit takes one of the times that a rule with a limit may hit this request.
func (c *Context) mayHit(i int, r *Rule, point string) bool {
	n := c.hits[i].Add(1)
	if point == "server" {
		n += c.earlier
	}
	return n <= r.max
}

// hits draws for one rule. Hundredths of a percent are the finest grain.
func (r *Rule) hits(id, request string) bool {
	switch {
	case r.percent >= 100:
		return true
	case r.perAttempt:
		return rand.Float64()*100 < r.percent
	}
	var d xxhash.Digest
	d.Reset()
	for _, s := range [...]string{id, "\x00", r.text, "\x00", request} {
		d.WriteString(s) // never fails
	}
	return float64(d.Sum64()%10000) < r.percent*100
}

type contextKey struct{}

// With returns a context in which [From] finds c.
func With(ctx context.Context, c *Context) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// From returns the rules of the request that ctx belongs to, nil if it has none.
func From(ctx context.Context) *Context {
	c, _ := ctx.Value(contextKey{}).(*Context)
	return c
}

// glob reports whether name matches pattern, in which * is any text and ? any one byte. It runs in
// O(len(pattern) * len(name)) and keeps no memory.
func glob(pattern, name string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return pattern == name
	}
	p, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
