// Package filter is what a request is on its way through the edge, and the chain of filters that it passes. At Netflix
// these were Zuul's filters, its session context and its passport.
//
// An engine reads the head of a request into an [Exchange] and hands that to [Chain.Run], which runs the inbound filters,
// then exactly one endpoint, then the outbound filters. The endpoint fills [Exchange.Response]; the engine writes it, and
// copies its body from wherever that comes:
//
//	INBOUND filters  ->  ENDPOINT  ->  OUTBOUND filters  ->  the engine writes the answer
//
// Everything that belongs to one request is in its Exchange, which the engine uses again for the next one. Strings in it
// may lie in the connection's read buffer: who keeps one past the request's end copies it (strings.Clone). Strings made
// for it come cheapest from [Exchange.Keep].
//
// # What it promises
//   - A filter that fails, panics or is over its limit costs that filter's effect, not the request, unless it is the
//     endpoint; the failure is counted and told.
//   - A chain never changes. A new one takes its place, and requests under way end in the one they began in.
//   - A request whose filters do not allocate is served without allocating.
//
// # What it does not
//   - It does no I/O of its own. Bodies stream through; only a filter that asks for a whole body has it buffered.
package filter

import "sync/atomic"

// Kind is the part of the way a filter belongs to.
type Kind uint8

// The kinds of filter.
const (
	Inbound Kind = iota
	Endpoint
	Outbound
)

var kindNames = [...]string{"INBOUND", "ENDPOINT", "OUTBOUND"}

// String returns the kind in Zuul's word.
func (k Kind) String() string { return kindNames[k] }

// Key returns the kind as Zuul's property names have it: in, end or out.
func (k Kind) Key() string { return [...]string{"in", "end", "out"}[k] }

// Filter is one step of the way. Its functions may be called from many goroutines, and run on the request's own.
type Filter struct {
	Name  string // unique among its kind; letters, digits and -._
	Kind  Kind
	Order int // ascending; equal ones go by name

	If    func(*Exchange) bool  // whether it applies; nil: always
	Apply func(*Exchange) error // an error is counted; it ends the request only if Kind is Endpoint

	// Chunk sees the body as it streams and returns what goes on in p's place, which may lie in p; last may come with an
	// empty p. It is called after Apply, unless that has the whole body. A request's may be called from another goroutine
	// than the exchange's, so that it must not alter x. An error breaks the body off. nil: the body passes untouched.
	Chunk func(x *Exchange, p []byte, last bool) ([]byte, error)

	Body   bool // has the whole body in [Exchange.Whole] before Apply; what Apply leaves there goes on as the body
	Always bool // runs even if the exchange was stopped or answered
	Guard  bool // its failure fails the request, as an endpoint's does: for what keeps requests out
	Quick  bool // Apply waits for nothing; spares the clock and the count of those in it
	Limit  int  // of requests in it at once; 0: as the chain's default, which is none for endpoints and if Quick

	bound atomic.Pointer[bound] // what the first chain to run it found for it
}
