// Package program runs what users write for the edge while it serves. Zuul had filters in Groovy that were loaded at run
// time; here there are languages that can be bounded.
//
// Expressions in CEL decide in the when of routes and surgical rules:
//
//	e, err := program.NewExpressions(props, region, zone)
//	takes, err := e.Predicate(`bucket("user") < 50 && region == "us-east-1"`)
//	if takes(x) { ... }
//
// # What it promises
//   - A text with a mistake is refused with its line, its column and the reason, before any request sees it.
//   - What takes too long or too much is stopped, and fails alone: neither the process nor the client is told an error.
//
// # What it costs
//
// An expression takes 0.2 to 1 µs and 5 to 8 allocations, for CEL keeps account of its cost; compiling one takes 0.1 ms.
package program
