package bench

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// BenchmarkEdgeAt300 asks a service on the fleet 300 times a second by way of the edge and as often directly, in turn,
// each at its due time whether or not the one before is answered. Latencies count from when a request was due.
// It reports both 99th percentiles, what the edge adds, and the whole platform's CPU time per request at the edge.
func BenchmarkEdgeAt300(b *testing.B) {
	const (
		rate    = 300
		seconds = 20
		offset  = 10700
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
	up := exec.Command(filepath.Join(dir, "roadbed"), "up", "--data", filepath.Join(dir, "state"), "--port-offset", strconv.Itoa(offset))
	up.Stdout, up.Stderr = &log, &log
	if err := up.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		up.Process.Signal(os.Interrupt)
		up.Wait()
	}()
	waitFor(b, 7070+offset)
	port := 9000 + offset
	run := exec.Command(filepath.Join(dir, "roadbed"), "run", "--api", fmt.Sprintf("http://127.0.0.1:%d", 7070+offset),
		"--name", "hello", "--port", strconv.Itoa(port), "--", filepath.Join(dir, "hello"), "{port}")
	if out, err := run.CombinedOutput(); err != nil {
		b.Fatalf("roadbed run: %v\n%s%s", err, out, &log)
	}
	direct := fmt.Sprintf("http://127.0.0.1:%d/", port)
	edge := fmt.Sprintf("http://127.0.0.1:%d/hello/", 7000+offset)
	load(b, rate, 2, direct, edge) // connections, code, breakers
	before := cpuTime(b, up.Process.Pid)
	took := load(b, rate, seconds, direct, edge)
	used := cpuTime(b, up.Process.Pid) - before
	d, e := percentile(took[0], 0.99), percentile(took[1], 0.99)
	b.ReportMetric(ms(d), "ms/p99-direct")
	b.ReportMetric(ms(e), "ms/p99-edge")
	b.ReportMetric(ms(e-d), "ms/p99-added")
	b.ReportMetric(ms(percentile(took[1], 0.5)-percentile(took[0], 0.5)), "ms/p50-added")
	b.ReportMetric(float64(used.Microseconds())/float64(len(took[1])), "cpu-us/req")
	b.ReportMetric(0, "ns/op")
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// load asks every URL rate times a second and returns how long each answer took, by URL.
func load(b *testing.B, rate, seconds int, urls ...string) [][]time.Duration {
	b.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	took := make([][]time.Duration, len(urls))
	var mu sync.Mutex
	var wg sync.WaitGroup
	gap := time.Second / time.Duration(rate*len(urls))
	start := time.Now()
	for i := range rate * seconds * len(urls) {
		due := start.Add(time.Duration(i) * gap)
		time.Sleep(time.Until(due))
		wg.Go(func() {
			resp, err := client.Get(urls[i%len(urls)])
			if err != nil {
				b.Error(err)
				return
			}
			defer resp.Body.Close()
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
				b.Errorf("%s: %s %v", urls[i%len(urls)], resp.Status, err)
			}
			mu.Lock()
			defer mu.Unlock()
			took[i%len(urls)] = append(took[i%len(urls)], time.Since(due))
		})
	}
	wg.Wait()
	return took
}

func percentile(d []time.Duration, p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, int(p*float64(len(d))))]
}

func waitFor(b *testing.B, port int) {
	b.Helper()
	for range 500 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.Fatalf("nothing listens on port %d after 10 s", port)
}

// cpuTime returns what a process used so far, from the kernel's accounts.
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	if runtime.GOOS != "linux" {
		b.Fatal("this measures CPU time by /proc, which only Linux has")
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err1 != nil || err2 != nil {
		b.Fatalf("/proc/%d/stat: %q", pid, stat)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
