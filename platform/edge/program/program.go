// Package program runs what users write for the edge while it serves. Zuul had filters in Groovy that were loaded at run
// time; here there are three languages that can be bounded:
//
//	cel       an expression: true lets a request pass and false refuses it with 403, a map sets header fields
//	starlark  a filter: def apply(req, ctx)
//	wasm      a module in proxy-wasm's ABI 0.2.1, as for Envoy, in whatever language has an SDK
//
// A property edge.program.NAME holds each as a [Document], with the version before it. Routes name programs in their
// filters ({program: NAME}), and global ones run for every request. Routes and surgical rules also have expressions in
// their when; see [Expressions].
//
//	r, err := program.New(program.Config{Properties: props, Region: region})
//	defer props.Prefix(program.Prefix, r.Set)()
//	chain of r.Filters()                // the global ones
//	route.Config{Predicate: r.Predicate, Program: r.Program}
//
// # A version's life
//
// A version is a DRAFT that is checked and never run, a CANARY that runs for a share of who asks while the former runs for
// the others, ACTIVE, or RETIRED by the next. One that fails in over 1 % of at least 100 runs within 60 s, or 100 times in a
// row, is taken out: the former version takes over, and without one the program is DISABLED. Each edge decides that for
// itself, tells it by its log, counters, API and [Config].Changed, and tries again when the document changes.
//
// # Limits of one run
//
//	cel       10,000 units of CEL's cost
//	starlark  100,000 steps, 512 KiB made or visited, 5 ms; no recursion, no while, no load
//	wasm      16 MiB of memory, 20 ms for each request's or response's callbacks; 2 s to start
//
// # What it promises
//   - A text with a mistake is refused with its line, its column and the reason, before any request sees it; what ran before
//     goes on.
//   - What loops, allocates without end or panics is stopped, counted, and after a threshold not run any more. The process
//     goes on, and so does the request, unless the program is a guard.
//   - A canary's share is the same for a user, or else for an address.
//   - A route whose program was deleted, or whose guard is disabled, refuses requests; it does not let them through.
//   - Programs cannot set what would make two requests of one, or speak in the platform's name: Content-Length,
//     Transfer-Encoding, Host, X-Fit, X-Ipc-* and their like.
//
// # What it does not
//   - Programs do no input and output, but for HTTP calls of WASM to apps: of proxy-wasm there are headers, bodies, local
//     responses, properties, shared data, metrics, logging and these; gRPC calls, queues, timers and foreign functions are not
//     offered. Calls that no request waits for are made, also if the module is replaced meanwhile; their answers are dropped.
//   - Bodies pass to WASM whole, if the document says so, and to the others not at all.
//   - Shared data and metrics of a module are one edge's, and end with its version.
//
// # What it costs
//
// No program: a look at a pointer. An expression takes 0.2 to 1 µs and 5 to 8 allocations, for CEL keeps account of its
// cost; a small script takes 2 µs and 30 allocations.
package program
