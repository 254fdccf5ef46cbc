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
// A rule is point:glob=action[@percent]; rules are separated by ";":
//
//	client:bookmarks=delay(300ms,50ms)@100;server:ratings=error(503)@25;command:Get*=error(unavailable)
//
// Points are edge, server, client, command, cache, db and queue. In a glob * stands for any text and ? for one
// character. Actions are
//
//	delay(d)  delay(d,jitter)   wait d, give or take jitter, then go on
//	error(what)                 fail with an HTTP status (400 to 599) or a gRPC code (name, or number 1 to 16)
//	reset                       cut the connection
//	hang                        answer nothing until the request's deadline
//	nofallback                  the fallback fails too
//
// Without @percent a rule hits every request. With it, a hash of experiment, rule and request id decides, so that
// all hops and all retries of one request agree; "@~25" draws for each attempt anew.
//
// # What it promises
//   - A request without the header pays one nil check per injection point.
//   - A header that is unsigned, altered, expired or over 2 KiB injects nothing.
//   - The same experiment, rule and request id give the same decision in every process.
//
// # What it does not
//   - The actions partial, corrupt, slow and drop, and the limit "#max", are refused by [ParseRules].
//   - It does not choose requests; that is the edge's and the chaos room's work.
package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Header is the HTTP header that carries the rules of one request.
const Header = "X-Fit"

// ErrInjected is what every injected error wraps: the failure was made on purpose.
var ErrInjected = errors.New("failure injected on purpose")

// Context holds the rules that travel with one request. A nil *Context is a request without any. It never changes
// and may be used from many goroutines.
type Context struct {
	id      string // of the experiment
	request string // id of the request, the same on all hops
	header  string // as it came, to be sent on
	rules   []Rule
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

// Action is what shall happen at one injection point. Delay comes before everything else.
type Action struct {
	Delay      time.Duration
	Status     int   // HTTP status to fail with; 0 = none
	Err        error // why it fails, wrapping ErrInjected; nil if it only delays
	Reset      bool  // cut the connection instead of answering
	Hang       bool  // wait for the deadline
	NoFallback bool  // the fallback fails too
	Rule       string
}

// IsZero reports whether nothing is to happen.
func (a *Action) IsZero() bool { return a.Rule == "" }

// Name names the action for a metric: delay, error, reset, hang or nofallback.
func (a *Action) Name() string {
	switch {
	case a.Reset:
		return "reset"
	case a.Hang:
		return "hang"
	case a.Status != 0:
		return "error"
	case a.Delay > 0:
		return "delay"
	}
	return "nofallback"
}

// Wait waits for the delay, or until the context ends if the action is to hang. It returns the context's error if
// that came first.
func (a *Action) Wait(ctx context.Context) error {
	if a.Delay > 0 {
		t := time.NewTimer(a.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %s: %w", ErrInjected, a.Rule, ctx.Err())
		}
	}
	if a.Hang {
		<-ctx.Done()
		return fmt.Errorf("%w: %s: %w", ErrInjected, a.Rule, ctx.Err())
	}
	return nil
}

// At says what is to happen to this request at the point of that name. Several rules may hit; their delays add up
// and the first error counts.
func (c *Context) At(point, name string) Action {
	if c == nil { // hot path: 0 allocs, BenchmarkAtWithoutRules
		return Action{}
	}
	return c.decide(point, name)
}

func (c *Context) decide(point, name string) Action {
	var out Action
	for i := range c.rules {
		r := &c.rules[i]
		if r.point != point || !glob(r.glob, name) || !r.hits(c.id, c.request) {
			continue
		}
		if out.Rule != "" {
			out.Rule += ";"
		}
		out.Rule += r.text
		switch r.action {
		case delay:
			out.Delay += r.delay
			if r.jitter > 0 {
				out.Delay += time.Duration(rand.Int64N(2*int64(r.jitter)+1)) - r.jitter
			}
			out.Delay = max(out.Delay, 0)
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
		}
	}
	switch {
	case out.Reset:
		out.Err = fmt.Errorf("%w: connection reset by rule %s", ErrInjected, out.Rule)
	case out.Status != 0:
		out.Err = fmt.Errorf("%w: status %d by rule %s", ErrInjected, out.Status, out.Rule)
	}
	return out
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
