package interop

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mccutchen/go-httpbin/v2/httpbin"
)

// serveNeighbour starts nginx as a proxy before a server, and before another for /get, with the edge's patience with slow
// clients.
func serveNeighbour(t *testing.T, server, healthy string) string {
	t.Helper()
	need(t, "nginx", "apt-get install nginx-light")
	dir, addr := t.TempDir(), freeAddr(t, "127.0.0.1")
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`
daemon off; worker_processes 2; user root; pid %[1]s/pid; error_log stderr crit; worker_rlimit_nofile 19000;
events { worker_connections 18000; }
http {
	access_log off; client_header_timeout 10s; client_body_timeout 5s; send_timeout 60s; keepalive_timeout 65s; reset_timedout_connection on;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	upstream app { server %[3]s; keepalive 16; }
	upstream healthy { server %[4]s; keepalive 16; }
	proxy_http_version 1.1; proxy_set_header Connection "";
	server {
		listen %[2]s backlog=4096;
		location /get { proxy_pass http://healthy; }
		location / { proxy_pass http://app; proxy_request_buffering off; }
	}
}`, dir, addr, server, healthy)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, addr, "nginx", "-p", dir, "-c", conf)
	return addr
}

// TestSlowClientsHinderNoOtherApp holds the edge against slowhttptest in all its modes at once, each with many connections,
// and looks at how long a healthy client of another app waits meanwhile, how much memory is taken, and who is still there.
// slowhttptest needs the processors that the edge needs. So another client asks by nginx, to which nobody else comes, in the
// same seconds, and slowhttptest does the same to nginx, too: what clients of the edge wait longer than when that happens, and
// longer than who asks by nginx, is what slow ones do to the edge.
func TestSlowClientsHinderNoOtherApp(t *testing.T) {
	const told = "ROADBED_INTEROP_SERVES"
	if addr := os.Getenv(told); addr != "" { // this is the server of those who are slow, a process of its own
		http.ListenAndServe(addr, httpbin.New(httpbin.WithMaxBodySize(64<<20))) //nolint:errcheck // who waits for it says so
		return
	}
	need(t, "slowhttptest", "apt-get install slowhttptest")
	each, lasts := 1000, 20
	if *soak {
		each, lasts = 2500, 60 // in four modes
	}
	r := newRoad(t)
	r.set("int", "edge.connections.perip", fmt.Sprint(5*each))
	fast := serveBin(t)
	r.once("healthy", fast)
	slow := freeAddr(t, "127.0.0.1")
	run(t, slow, "env", told+"="+slow, "nice", "-n", "19", os.Args[0], "-test.run", "^"+t.Name()+"$")
	r.leadAll("httpbin", slow)
	r.set("json", "edge.routes", `[{"id":"healthy","match":{"path":{"prefix":"/get"}},"backends":[{"vip":"healthy"}]},{"id":"all","match":{"path":{"prefix":"/"}},"backends":[{"vip":"httpbin"}]}]`)
	nginx := "http://" + serveNeighbour(t, slow, fast)
	healthy := map[string]string{"edge": r.at(7000) + "/get", "nginx": nginx + "/get"}
	normal := waits(t, healthy, ends(5*time.Second))
	tries(t, time.Second, func() (wrong []string) {
		attacked := make(map[string]map[string]waited)
		said := make(map[string]map[string]string)
		for name, base := range map[string]string{"nginx": nginx, "edge": r.at(7000)} {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				said[name] = attack(t, base, each, lasts)
			}()
			attacked[name] = waits(t, healthy, ended)
			<-ended
		}
		for _, by := range []string{"edge", "nginx"} {
			t.Logf("a healthy client's p99 by %s, in the median of the first ten seconds and of all: %v and %v without slow clients, %v and %v while they come to nginx, %v and %v while they come to the edge", by,
				normal[by].usual(), normal[by].all(), attacked["nginx"][by].usual(), attacked["nginx"][by].all(), attacked["edge"][by].usual(), attacked["edge"][by].all())
		}
		beside, then, under := attacked["nginx"]["edge"], attacked["edge"]["nginx"], attacked["edge"]["edge"]
		if most := 2*max(beside.usual(), then.usual()) + 10*time.Millisecond; under.usual() > most {
			wrong = append(wrong, fmt.Sprintf("a healthy client's p99 by the edge in half of the first seconds is above %v while slow ones come to it; want at most %v", under.usual(), most))
		}
		if most := 2*max(beside.all(), then.all()) + 50*time.Millisecond; under.all() > most { // whatever else runs here takes the processors for a second now and then
			wrong = append(wrong, fmt.Sprintf("a healthy client's p99 by the edge is %v while slow ones come to it; want at most %v", under.all(), most))
		}
		for mode, out := range said["edge"] {
			end := exitStatus.FindStringSubmatch(colours.ReplaceAllString(out, ""))
			if end == nil {
				t.Errorf("slowhttptest %s said nothing of its end:\n%.2000s", mode, out)
				continue
			}
			t.Logf("slowhttptest %s: %s", mode, end[1])
			if gone := strings.Contains(end[1], "No open connections left"); !gone && (mode == "-H" || mode == "-B") {
				wrong = append(wrong, fmt.Sprintf("slowhttptest %s: %s; want none left", mode, end[1]))
			}
		}
		return wrong
	})
	if mib := peak(t, r.cmd.Process.Pid); mib >= 200 {
		t.Errorf("the platform took %d MiB, want less than 200", mib)
	} else {
		t.Logf("the platform's peak: %d MiB", mib)
	}
}

var (
	exitStatus = regexp.MustCompile(`Exit status:\s*(.*)`)
	colours    = regexp.MustCompile("\x1b\\[[0-9;]*m")
)

// attack has slowhttptest do in all its modes at once what it can to who is at base, and returns what it said, by mode. It takes
// lasts seconds; slow headers and bodies end once they have all been sent away, as late as that is on a busy machine.
func attack(t *testing.T, base string, each, lasts int) map[string]string {
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
			lasts := lasts
			if mode == "-H" || mode == "-B" {
				lasts = 3 * max(lasts, int(patience.Seconds()))
			}
			args = append([]string{"-n", "19", "slowhttptest", mode, "-c", fmt.Sprint(each), "-r", fmt.Sprint(each / 2), "-l", fmt.Sprint(lasts), "-p", "3", "-u", base + paths[mode]}, args...)
			out, err := exec.CommandContext(t.Context(), "nice", args...).CombinedOutput() // it runs on the servers' cores
			mu.Lock()
			defer mu.Unlock()
			if said[mode] = string(out); err != nil {
				t.Errorf("slowhttptest %q: %v\n%.2000s", args, err, out)
			}
		})
	}
	wg.Wait()
	return said
}

// ends returns what is closed after a time.
func ends(after time.Duration) <-chan struct{} {
	c := make(chan struct{})
	time.AfterFunc(after, func() { close(c) })
	return c
}

// waited is how long a healthy client waited in each second.
type waited [][]time.Duration

// usual is the median of the 99th percentiles of the first ten seconds, after which most slow clients have been sent away: what
// else runs here may take the processors for a second now and then.
func (w waited) usual() time.Duration {
	var each []time.Duration
	for _, second := range w[:min(len(w), 10)] {
		each = append(each, p99(second))
	}
	return median(each)
}

// all is the 99th percentile of all there was.
func (w waited) all() time.Duration { return p99(slices.Concat(w...)) }

// waits asks each of some addresses again and again until ended is closed, and returns how long that took.
func waits(t *testing.T, urls map[string]string, ended <-chan struct{}) map[string]waited {
	t.Helper()
	all := make(map[string]waited)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, url := range urls {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: patience}
			defer client.CloseIdleConnections()
			seconds := waited{nil}
			for second := time.Now(); ; time.Sleep(5 * time.Millisecond) {
				select {
				case <-ended:
					mu.Lock()
					defer mu.Unlock()
					all[name] = seconds
					return
				default:
				}
				at := time.Now()
				resp, err := client.Get(url)
				if err != nil {
					t.Errorf("a healthy request to %s: %v", name, err)
					time.Sleep(time.Second)
					continue
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("a healthy request to %s got %s", name, resp.Status)
				}
				if last := len(seconds) - 1; time.Since(second) < time.Second {
					seconds[last] = append(seconds[last], time.Since(at))
				} else {
					seconds, second = append(seconds, []time.Duration{time.Since(at)}), time.Now()
				}
			}
		})
	}
	wg.Wait()
	return all
}
