package ipc

import (
	"testing"

	"github.com/roadbed/roadbed/config"
)

func TestALimitOnFaultsThatMakesNoSenseIsRefused(t *testing.T) {
	for text, want := range map[string]int{"-1": 100, "many": 100, "1000001": 100, "0": 0, "7": 7} {
		e := newTestEngine(t, Options{Config: config.New(config.Options{Override: map[string]string{"ipc.fit.maxActive": text}})})
		if got := e.maxFaults.Get().MaxActive; got != want {
			t.Errorf("ipc.fit.maxActive=%s: %d faults at once are injected, want %d", text, got, want)
		}
	}
}
