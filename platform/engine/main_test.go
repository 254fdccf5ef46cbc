package engine

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/roadbed/roadbed/platform/engine/enginetest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDir); dir != "" {
		fmt.Fprintln(os.Stderr, "victim:", victim(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, enginetest.Forgotten)
}

// openTest opens an embedded engine in dir, or in a new directory when dir is empty, and closes it with the test.
func openTest(t testing.TB, c Config) *Engine {
	t.Helper()
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	if c.Log == nil {
		c.Log = testLog()
	}
	e, err := Open(t.Context(), c)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return e
}

func openTable[T any](t testing.TB, e *Engine, name string, history int) *Table[T] {
	t.Helper()
	table, err := OpenTable[T](context.Background(), e, name, history)
	if err != nil {
		t.Fatalf("OpenTable %s: %v", name, err)
	}
	return table
}

func openStream(t testing.TB, e *Engine, name string) *Stream {
	t.Helper()
	s, err := OpenStream(context.Background(), e, name, 0)
	if err != nil {
		t.Fatalf("OpenStream %s: %v", name, err)
	}
	return s
}

func testLog() *slog.Logger {
	level := slog.LevelError + 1
	if os.Getenv("ENGINE_LOG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
