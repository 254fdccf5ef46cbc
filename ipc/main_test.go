package ipc

import (
	"io"
	"log/slog"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newTestEngine makes an engine that is closed with the test or bubble and logs nothing.
func newTestEngine(t testing.TB, o Options) *Engine {
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	e := New(o)
	e.server.shed.sense = func() reading { return reading{} } // how busy the machine is must not matter
	t.Cleanup(e.Close)
	return e
}
