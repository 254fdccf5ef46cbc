package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/properties"
)

// TestPropertiesServeOnWhenTheEnginesProcessIsKilled has the engine in one process and properties in two others. Each has
// a state directory of its own, as on machines of their own, with the engine's token in it.
func TestPropertiesServeOnWhenTheEnginesProcessIsKilled(t *testing.T) {
	dir := t.TempDir()
	home := freeOffset(t)
	start := func(name string, offset int, args ...string) *testPlatform {
		t.Helper()
		p, err := startPlatform(filepath.Join(dir, name), offset, append([]string{"serve"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.stop(); err != nil {
				t.Error(err)
			}
		})
		return p
	}
	control := start("control", home, "--roles", "engine,registry")
	token, err := os.ReadFile(filepath.Join(dir, "control", "engine.token"))
	if err != nil {
		t.Fatal(err)
	}
	serve := func(name string, offset int) *testPlatform {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "engine.token"), token, 0o600); err != nil {
			t.Fatal(err)
		}
		return start(name, offset, "--roles", "properties", "--engine-url", fmt.Sprintf("nats://127.0.0.1:%d", 4222+home),
			"--registry-url", fmt.Sprintf("http://127.0.0.1:%d", 8761+home))
	}
	offsets := []int{freeOffset(t), freeOffset(t)}
	nodes := []*testPlatform{serve("one", offsets[0]), serve("two", offsets[1])}

	hc := &http.Client{Timeout: time.Minute, Transport: &http.Transport{}}
	t.Cleanup(hc.CloseIdleConnections)
	ask := func(node int, method, path, body string) (status int, stale, answer string) {
		t.Helper()
		req, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d/config/v1/%s", 8761+offsets[node], path), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := hc.Do(req)
		if err != nil {
			t.Fatalf("node %d: %v", node, err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("node %d: %v", node, err)
		}
		return resp.StatusCode, resp.Header.Get(properties.StaleHeader), string(b)
	}
	set := func(node int, value string) (int, string) {
		t.Helper()
		status, _, answer := ask(node, "POST", "properties", fmt.Sprintf(`{"key":"word","appId":"api","value":%q}`, value))
		return status, answer
	}
	reads := func(node int, value string, stale bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			status, mark, answer := ask(node, "GET", "resolve?appId=api", "")
			if status == http.StatusOK && strings.Contains(answer, fmt.Sprintf("%q", value)) && (mark != "") == stale {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("node %d: after a minute got %d, stale for %q s, %s; want 200 with %q, stale: %v", node, status, mark, answer, value, stale)
			}
		}
	}

	if status, answer := set(0, "first"); status != http.StatusOK {
		t.Fatalf("set at node 0: got %d %s", status, answer)
	}
	reads(0, "first", false)
	reads(1, "first", false)

	control.crash()
	began := time.Now()
	status, answer := set(1, "lost")
	if took := time.Since(began); status != http.StatusServiceUnavailable || !strings.Contains(answer, "engine") || took > 15*time.Second {
		t.Errorf("set while the engine's process is dead: got %d after %v: %s; want 503 within 15 s, and a word on the engine", status, took, answer)
	}
	for node := range nodes {
		reads(node, "first", true)
	}

	// One of the two ends as well, and starts again while there is no engine: it knows what it knew.
	if err := nodes[1].stop(); err != nil {
		t.Fatal(err)
	}
	reads(0, "first", true)
	nodes[1] = serve("two", offsets[1])
	reads(1, "first", true)

	start("control", home, "--roles", "engine,registry")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if status, answer = set(0, "second"); status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("set a minute after the engine is back: got %d %s", status, answer)
		}
	}
	reads(0, "second", false)
	reads(1, "second", false)
}
