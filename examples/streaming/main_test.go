package streaming

import (
	"testing"

	"github.com/roadbed/roadbed/platform/engine/enginetest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, enginetest.Forgotten) }
