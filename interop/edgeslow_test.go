package interop

import (
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestSlowClientsHinderNoOtherApp holds the edge against slowhttptest in all its modes at once, each with many connections,
// and looks at how long a healthy client of another app waits meanwhile, how much memory is taken, and who is still there.
func TestSlowClientsHinderNoOtherApp(t *testing.T) {
	need(t, "slowhttptest", "apt-get install slowhttptest")
	each, lasts := 1000, 20
	if *soak {
		each, lasts = 4000, 60 // four modes, and 20,000 sockets to a process here
	}
	r := newRoad(t)
	r.set("int", "edge.connections.perip", fmt.Sprint(5*each))
	r.once("healthy", serveBin(t))
	r.leadAll("httpbin", serveBin(t))
	r.set("json", "edge.routes", `[{"id":"healthy","match":{"path":{"prefix":"/get"}},"backends":[{"vip":"healthy"}]},{"id":"all","match":{"path":{"prefix":"/"}},"backends":[{"vip":"httpbin"}]}]`)
	normal := r.waits(t, 5*time.Second)

	modes := map[string][]string{ // headers, bodies, ranges, slow reading
		"-H": {"-i", "3", "-x", "24"},
		"-B": {"-i", "8", "-s", "8192", "-x", "10"},
		"-R": {"-a", "10", "-b", "3000"},
		"-X": {"-w", "1", "-y", "16", "-n", "5", "-z", "16", "-k", "3"},
	}
	paths := map[string]string{"-H": "/anything", "-B": "/post", "-R": "/range/4096", "-X": "/bytes/100000"}
	said := make(map[string]string)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for mode, args := range modes {
		wg.Go(func() {
			args = append([]string{"-n", "19", "slowhttptest", mode, "-c", fmt.Sprint(each), "-r", fmt.Sprint(each / 2), "-l", fmt.Sprint(lasts), "-p", "3", "-u", r.at(7000) + paths[mode]}, args...)
			out, err := exec.CommandContext(t.Context(), "nice", args...).CombinedOutput() // it runs on the servers' cores
			mu.Lock()
			defer mu.Unlock()
			if said[mode] = string(out); err != nil {
				t.Errorf("slowhttptest %q: %v\n%.2000s", args, err, out)
			}
		})
	}
	under := r.waits(t, time.Duration(lasts)*time.Second)
	wg.Wait()
	if most := 2*normal.usual + 20*time.Millisecond; under.usual > most { // slowhttptest and the servers run on the same cores
		t.Errorf("a healthy client's p99 in half of all seconds is above %v beside slow ones, %v without; want at most %v", under.usual, normal.usual, most)
	}
	if most := 2*normal.all + 60*time.Millisecond; under.all > most { // and so does whatever else runs here, for a second now and then
		t.Errorf("a healthy client's p99 is %v beside slow ones, %v without; want at most %v", under.all, normal.all, most)
	}
	if mib := peak(t, r.cmd.Process.Pid); mib >= 200 {
		t.Errorf("the platform took %d MiB, want less than 200", mib)
	} else {
		t.Logf("a healthy client's p99, and that of the median second: %v and %v without slow ones, %v and %v beside; the platform's peak: %d MiB", normal.all, normal.usual, under.all, under.usual, mib)
	}
	for mode, out := range said {
		end := exitStatus.FindStringSubmatch(colours.ReplaceAllString(out, ""))
		if end == nil {
			t.Errorf("slowhttptest %s said nothing of its end:\n%.2000s", mode, out)
			continue
		}
		t.Logf("slowhttptest %s: %s", mode, end[1])
		if gone := strings.Contains(end[1], "No open connections left"); !gone && (mode == "-H" || mode == "-B") {
			t.Errorf("after %d s of slowhttptest %s: %s; want none left", lasts, mode, end[1])
		}
	}
}

var (
	exitStatus = regexp.MustCompile(`Exit status:\s*(.*)`)
	colours    = regexp.MustCompile("\x1b\\[[0-9;]*m")
)

// p99s are 99th percentiles of how long something took: of all that there was, and the median of those of each second.
type p99s struct{ all, usual time.Duration }

// waits asks for something small again and again, and returns how long it took.
func (r *road) waits(t *testing.T, long time.Duration) p99s {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	var all, seconds []time.Duration
	var took []time.Duration // in this second
	p99 := func(took []time.Duration) time.Duration {
		slices.Sort(took)
		return took[len(took)*99/100].Round(time.Microsecond)
	}
	second := time.Now()
	for began := second; time.Since(began) < long; time.Sleep(5 * time.Millisecond) {
		at := time.Now()
		resp, err := client.Get(r.at(7000) + "/get")
		if err != nil {
			t.Errorf("a healthy request: %v", err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("a healthy request got %s", resp.Status)
		}
		all, took = append(all, time.Since(at)), append(took, time.Since(at))
		if time.Since(second) >= time.Second {
			seconds, took, second = append(seconds, p99(took)), took[:0], time.Now()
		}
	}
	if len(seconds) == 0 {
		t.Fatalf("%d healthy requests were answered in %v", len(all), long)
	}
	slices.Sort(seconds)
	return p99s{p99(all), seconds[len(seconds)/2]}
}
