package bench

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// BenchmarkSidecarBesideEdge asks one instance of a service by way of the edge and by way of a sidecar, in turn, with
// the same client, and reports the CPU time per request of each of the two processes. The bar: a sidecar needs at most
// 1.3 times what the edge does.
func BenchmarkSidecarBesideEdge(b *testing.B) {
	const (
		offset = 12700
		rounds = 5
		each   = 2 * time.Second
	)
	dir := b.TempDir()
	for name, pkg := range map[string]string{"roadbed": "./cmd/roadbed", "hello": "./cmd/roadbed/testdata/hello"} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
		build.Dir = ".." // the product's module, not this one
		if out, err := build.CombinedOutput(); err != nil {
			b.Fatalf("go build %s: %v\n%s", pkg, err, out)
		}
	}
	var log bytes.Buffer
	begin := func(args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(dir, "roadbed"), args...)
		cmd.Stdout, cmd.Stderr, cmd.Dir = &log, &log, dir
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			cmd.Process.Signal(os.Interrupt)
			cmd.Wait()
		})
		return cmd
	}
	up := begin("up", "--data", filepath.Join(dir, "state"), "--port-offset", strconv.Itoa(offset))
	waitFor(b, 7070+offset)
	port := 9000 + offset
	run := exec.Command(filepath.Join(dir, "roadbed"), "run", "--api", fmt.Sprintf("http://127.0.0.1:%d", 7070+offset),
		"--name", "hello", "--port", strconv.Itoa(port), "--", filepath.Join(dir, "hello"), "{port}")
	if out, err := run.CombinedOutput(); err != nil {
		b.Fatalf("roadbed run: %v\n%s%s", err, out, &log)
	}
	at := func(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port+offset) }
	beside := begin("sidecar", "--app", "caller", "--port", strconv.Itoa(port), "-p", strconv.Itoa(7080+offset), "--log-level", "error",
		"--registry", at(8761), "--config-url", at(8761), "--telemetry", at(7101))
	waitFor(b, 7080+offset)

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}, Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	ways := []struct {
		name, url, host string
		pid             int
		used            time.Duration
		requests        int
	}{{name: "edge", url: at(7000) + "/hello/x", pid: up.Process.Pid}, {name: "sidecar", url: at(7080) + "/x", host: "hello", pid: beside.Process.Pid}}
	ask := func(url, host string, until time.Time) int {
		n := 0
		for ; time.Now().Before(until); n++ {
			req, _ := http.NewRequest(http.MethodGet, url, nil)
			req.Host = host
			resp, err := client.Do(req)
			if err != nil {
				b.Error(err)
				return n
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
				b.Errorf("%s: %s %v", url, resp.Status, err)
			}
			resp.Body.Close()
		}
		return n
	}
	for _, w := range ways {
		ask(w.url, w.host, time.Now().Add(time.Second)) // connections, code, breakers
	}
	for range rounds {
		for i := range ways {
			w := &ways[i]
			before := cpuTime(b, w.pid)
			var wg sync.WaitGroup
			var mu sync.Mutex
			for range 2 {
				wg.Go(func() {
					n := ask(w.url, w.host, time.Now().Add(each))
					mu.Lock()
					w.requests += n
					mu.Unlock()
				})
			}
			wg.Wait()
			w.used += cpuTime(b, w.pid) - before
		}
	}
	var per [2]float64
	for i, w := range ways {
		per[i] = float64(w.used.Microseconds()) / float64(w.requests)
		b.ReportMetric(per[i], "cpu-us/req-"+w.name)
	}
	b.ReportMetric(per[1]/per[0], "sidecar/edge")
	b.ReportMetric(0, "ns/op")
}
