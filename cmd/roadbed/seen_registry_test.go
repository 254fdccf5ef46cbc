package main

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSeenRegistryKilled kills one of three registries while clients heartbeat at all of them. Each asks the next when its
// own does not answer; none may be told that it is unknown, and the two that are left know everybody.
func TestSeenRegistryKilled(t *testing.T) {
	const nodes, workers = 3, 12
	count, rate := 1200, 1000
	if *soak {
		count, rate = 100_000, 3333
	}
	var urls []string
	var offsets []int
	for range nodes {
		offsets = append(offsets, freeOffset(t))
		urls = append(urls, fmt.Sprintf("http://127.0.0.1:%d/eureka/", 8761+offsets[len(offsets)-1]))
	}
	var running []*testPlatform
	for i, url := range urls {
		p, err := startPlatform(filepath.Join(t.TempDir(), "state"), offsets[i], "serve", "--roles", "engine,registry",
			"--eureka-url", url, "--eureka-peers", strings.Join(urls, ","))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.stop(); err != nil {
				t.Error(err)
			}
		})
		running = append(running, p)
	}
	clients := make([]*http.Client, workers)
	for i := range clients {
		clients[i] = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
		defer clients[i].CloseIdleConnections()
	}
	send := func(c *http.Client, method, url, body string) (int, error) {
		req, err := http.NewRequest(method, url, strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := c.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}
	id := func(i int) string { return fmt.Sprintf("client-%d", i) }

	each(workers, count, func(w, i int) {
		body := fmt.Sprintf(`{"instance":{"instanceId":%q,"hostName":"h","app":"CLIENT","ipAddr":"127.0.0.1","status":"UP",
			"dataCenterInfo":{"name":"MyOwn"},"lastDirtyTimestamp":"1"}}`, id(i))
		if status, err := send(clients[w], "POST", urls[i%nodes]+"apps/CLIENT", body); status != http.StatusNoContent {
			t.Errorf("registering %s at node %d: got %d, %v; want 204", id(i), i%nodes, status, err)
		}
	})
	knows := func(node int) int {
		var got struct{ Statuses map[string]int }
		if err := running[node].get(t.Context(), "/api/v1/registry/status", &got); err != nil {
			t.Logf("node %d: %v", node, err)
		}
		return got.Statuses["UP"]
	}
	want := count + nodes // they are registered themselves
	for node := range nodes {
		for deadline := time.Now().Add(30 * time.Second); knows(node) < want; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("node %d knows %d instances after 30 s, want %d", node, knows(node), want)
			}
		}
	}

	var beats, moved, unknown, failed atomic.Int64
	home := make([]atomic.Int32, count)
	began, lasts := time.Now(), long(6*time.Second, time.Minute)
	killed := time.AfterFunc(lasts/3, running[0].crash)
	defer killed.Stop()
	each(workers, int(lasts.Seconds()*float64(rate)), func(w, n int) {
		time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(rate))))
		i := n % count
		for try := range nodes {
			node := (i + int(home[i].Load())) % nodes
			status, err := send(clients[w], "PUT", urls[node]+"apps/CLIENT/"+id(i)+"?status=UP&lastDirtyTimestamp=1", "")
			switch {
			case err != nil && try < nodes-1:
				home[i].Add(1) // as Eureka's clients do: the next server, and stay there
				moved.Add(1)
				continue
			case err != nil:
				failed.Add(1)
			case status == http.StatusOK:
				beats.Add(1)
			default:
				unknown.Add(1)
			}
			return
		}
	})
	t.Logf("%d heartbeats in %v, %d clients went to the next node", beats.Load(), time.Since(began).Round(time.Millisecond), moved.Load())
	if unknown.Load() > 0 || failed.Load() > 0 || moved.Load() == 0 {
		t.Errorf("heartbeats: %d answered otherwise than 200, %d not at all, %d sent to the next node; want 0, 0 and some", unknown.Load(), failed.Load(), moved.Load())
	}
	for node := 1; node < nodes; node++ {
		if got := knows(node); got < count {
			t.Errorf("node %d, which was not killed, knows %d instances; want all %d clients", node, got, count)
		}
	}
}

// each calls do for 0 to n-1, in order, from several goroutines, which it numbers.
func each(goroutines, n int, do func(goroutine, i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				do(g, int(i))
			}
		})
	}
	wg.Wait()
}
