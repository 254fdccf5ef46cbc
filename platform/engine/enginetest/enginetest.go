// Package enginetest is for tests of whoever opens an engine.
package enginetest

import "go.uber.org/goleak"

// Forgotten is a goroutine that the engine's server may leave behind, of a stream that it was making when it was shut down.
var Forgotten = goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop")
