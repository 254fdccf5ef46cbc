package filter

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/meter"
)

func TestAPanicIsCountedAndLoggedOnceWithItsStack(t *testing.T) {
	var log bytes.Buffer
	m := meter.New(nil)
	p := NewPanics(m, slog.New(slog.NewTextHandler(&log, nil)))
	for range 3 {
		err := p.Try("mirror", func() error { panic("ouch") })
		if want := "mirror panicked: ouch"; err == nil || err.Error() != want {
			t.Errorf("got error %v, want %s", err, want)
		}
	}
	if got := m.Counter("edge.panics", "where", "mirror").Count(); got != 3 {
		t.Errorf("edge.panics: got %v, want 3", got)
	}
	if got := strings.Count(log.String(), "contained a panic"); got != 1 {
		t.Errorf("got %d lines of log for three panics at once, want 1:\n%s", got, log.String())
	}
	if !strings.Contains(log.String(), "panics_test.go") {
		t.Errorf("the log does not show the stack: %s", log.String())
	}
}

func TestWhoKnowsNoLogContainsPanicsAllTheSame(t *testing.T) {
	old := slog.Default()
	defer slog.SetDefault(old)
	slog.SetDefault(slog.New(slog.DiscardHandler))
	var p *Panics
	if err := p.Try("pump", func() error { panic("ouch") }); err == nil {
		t.Error("got no error, want one that tells of the panic")
	}
}

func TestALoopThatPanicsBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPanics(nil, slog.New(slog.DiscardHandler))
		over := errors.New("over")
		n, start := 0, time.Now()
		err := p.Loop(t.Context(), "loop", func() error {
			if n++; n < 3 {
				panic(n)
			}
			return over
		})
		if err != over || n != 3 {
			t.Errorf("got %v after %d rounds, want %v after 3", err, n, over)
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("three rounds took %v, want 2s: one second between them", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = p.Loop(ctx, "loop", func() error { cancel(); panic("last") })
		if err != nil {
			t.Errorf("ended with its context: got %v, want no error", err)
		}
	})
}
