package streaming

import (
	"testing"

	"go.uber.org/goleak"
)

// storeBeingMade is a goroutine that the engine's server may forget, of a stream that it was making when it was shut down.
var storeBeingMade = goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, storeBeingMade) }
